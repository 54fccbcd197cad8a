"""How sure a run's figures are: its fires and quiet cameras drawn again, frames never.

Frames of one camera are no independent witnesses, and cameras that watch one fire are none either:
they are drawn together, as one cluster. What a figure is made of is summed by cluster first, so a
draw costs the same whether a camera gave ten frames or a million. Two-sided at 95 %, from a fixed
seed; under MIN_CLUSTERS clusters that have anything to say there is no interval.
"""

from __future__ import annotations

__all__ = ["Intervals", "clusters", "intervals", "latencies_by_camera"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.scoring.accuracy import IOU_MATCH, CameraBoxes, rank
from earlyfire_stream.scoring.answers import WORTHLESS, Served, quickness
from earlyfire_stream.scoring.footage import Footage
from earlyfire_stream.scoring.statistics import ALPHA, MIN_CLUSTERS, RESAMPLES, SEED

Floats = NDArray[np.float64]
Ends = tuple[float, float]
Draws = Callable[[Floats], Floats]
"""Sums of each draw (draws x columns) → the figure's value by draw, NaN where there is none."""
AT_ONCE = 4_000_000
"""Weights that are held at a time: draws x clusters."""
STEPS = 200
"""Ranks of confidence, and values of latency, that draws tell apart; more would not move an end."""


def clusters(footages: Sequence[Footage]) -> NDArray[np.int64]:
    """By camera the number of its cluster: cameras with a fire in common are in one.

    a sees f, b sees f and g, c sees g, d sees none → 0, 0, 0, 1.
    """
    parent = list(range(len(footages)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    seen: dict[str, int] = {}
    for place, footage in enumerate(footages):
        for fire in footage.plan.fires:
            parent[root(place)] = root(seen.setdefault(fire.id, place))
    roots = [root(place) for place in range(len(footages))]
    numbers = {one: number for number, one in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[one] for one in roots], np.int64)


@dataclass(frozen=True, slots=True)
class Intervals:
    """Of the figures of the same names in `Score`; None where fires are too few."""

    localization: Ends | None = None
    ap40: Ends | None = None
    ap50: Ends | None = None
    latency: Ends | None = None
    """Of the term Q."""
    frame_score_v1: Ends | None = None
    frame_score_v1_parity: Ends | None = None
    streaming_accuracy: Ends | None = None
    latency_s: Mapping[str, Ends | None] | None = None
    """By `mean`, `p50`, `p90`, `p95`, `p99`."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    columns: Floats
    """A row a camera."""
    formula: Draws
    count: int
    """The column of which a cluster must have something to count as a witness."""


def intervals(
    cluster: NDArray[np.int64],
    *,
    boxes: Sequence[CameraBoxes],
    quality: Floats,
    v1: Floats,
    streamed: Floats,
    latencies: Sequence[Floats],
) -> Intervals:
    """Each argument has an entry a camera; `cluster` its cluster.

    `quality`: (sum of what latencies are worth, frames). `v1`: (v1, its parity mode, sequences: 1
    or 0), both ×100. `streamed`: (right, all). `latencies`: ℓ of each valid answer.
    """
    wanted: dict[str, _Wanted] = {
        "latency": _Wanted(quality, _ratio(0, 1), 1),
        "frame_score_v1": _Wanted(v1, _ratio(0, 2), 2),
        "frame_score_v1_parity": _Wanted(v1, _ratio(1, 2), 2),
        "streaming_accuracy": _Wanted(streamed, _ratio(0, 1), 1),
        **_of_boxes(boxes),
        **_of_latencies(latencies),
    }
    found = _drawn(cluster, wanted)
    ranks = {name.removeprefix("latency_"): ends for name, ends in found.items() if "_p" in name}
    spent = {
        "mean": found.get("latency_mean"),
        **{name: ranks.get(name) for name in ("p50", "p90", "p95", "p99")},
    }
    return Intervals(
        localization=found.get("localization"),
        ap40=found.get("ap40"),
        ap50=found.get("ap50"),
        latency=found["latency"],
        frame_score_v1=found["frame_score_v1"],
        frame_score_v1_parity=found["frame_score_v1_parity"],
        streaming_accuracy=found["streaming_accuracy"],
        latency_s=spent,
    )


def _drawn(cluster: NDArray[np.int64], wanted: Mapping[str, _Wanted]) -> dict[str, Ends | None]:
    """All figures from the same draws."""
    if not len(cluster):
        return dict.fromkeys(wanted)
    count = int(cluster.max()) + 1
    sums: dict[str, Floats] = {}
    for name, one in wanted.items():
        by_cluster = np.zeros((count, one.columns.shape[1]))
        np.add.at(by_cluster, cluster, one.columns)
        if np.count_nonzero(by_cluster[:, one.count]) >= MIN_CLUSTERS:
            sums[name] = by_cluster
    values: dict[str, list[Floats]] = {name: [] for name in sums}
    rng = np.random.default_rng(SEED)
    block = max(1, AT_ONCE // max(1, count))
    for begin in range(0, RESAMPLES if sums else 0, block):
        draws = min(block, RESAMPLES - begin)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)
        with np.errstate(divide="ignore", invalid="ignore"):
            for name, by_cluster in sums.items():
                values[name].append(wanted[name].formula(weights @ by_cluster))
    return {name: _ends(values.get(name, ())) for name in wanted}


def _ends(values: Sequence[Floats]) -> Ends | None:
    told = np.concatenate(values) if values else np.empty(0)
    told = told[~np.isnan(told)]
    if not len(told):
        return None
    low, high = np.percentile(told, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)


def _ratio(part: int, whole: int) -> Draws:
    return lambda sums: sums[:, part] / sums[:, whole]


# --- boxes ---------------------------------------------------------------------------------------


def _of_boxes(boxes: Sequence[CameraBoxes]) -> dict[str, _Wanted]:
    if not any(camera.n for camera in boxes):
        return {}
    counts = np.array([[c.matched, len(c.overlaps), c.n] for c in boxes], float)

    def product(sums: Floats) -> Floats:
        matched, predicted, n = sums.T
        found = np.where(matched > 0, matched**2 / (predicted * n), 0.0)
        return np.where(n > 0, found, math.nan)

    wanted = {"localization": _Wanted(counts, product, 2)}
    if any(sure is not None for camera in boxes for _, sure in camera.overlaps):
        ranks = [rank(overlap) for camera in boxes for overlap in camera.overlaps]
        steps = np.unique(ranks)[::-1]
        if len(steps) > STEPS:
            steps = np.unique(np.quantile(ranks, np.linspace(0, 1, STEPS)))[::-1]
        for name, threshold in (("ap40", IOU_MATCH), ("ap50", 0.5)):
            wanted[name] = _Wanted(_ranked(boxes, steps, threshold), _average_precision, -1)
    return wanted


def _ranked(boxes: Sequence[CameraBoxes], steps: Floats, threshold: float) -> Floats:
    """By camera: hits at each step of confidence (falling), boxes at each, frames with boxes."""
    rows = np.zeros((len(boxes), 2 * len(steps) + 1))
    for row, camera in zip(rows, boxes, strict=True):
        row[-1] = camera.n
        if not camera.overlaps:
            continue
        sure = np.array([rank(overlap) for overlap in camera.overlaps])
        # the step at or below each: steps fall, so their negatives rise
        place = np.minimum(np.searchsorted(-steps, -sure), len(steps) - 1)
        hit = np.array([iou >= threshold for iou, _ in camera.overlaps])
        row[: len(steps)] = np.bincount(place[hit], minlength=len(steps))
        row[len(steps) : -1] = np.bincount(place, minlength=len(steps))
    return rows


def _average_precision(sums: Floats) -> Floats:
    """`accuracy.average_precision` of each draw."""
    steps = sums.shape[1] // 2
    hits, boxes = np.cumsum(sums[:, :steps], axis=1), np.cumsum(sums[:, steps:-1], axis=1)
    recall = hits / sums[:, -1:]
    precision = np.divide(hits, boxes, out=np.zeros_like(hits), where=boxes > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: Floats = (np.diff(recall, axis=1, prepend=0.0) * best).sum(axis=1)
    return area


# --- latency -------------------------------------------------------------------------------------


def latencies_by_camera(
    served: Served, footages: Sequence[Footage]
) -> tuple[Floats, Sequence[Floats]]:
    """(sum of what latencies are worth, frames they are of) and each valid answer's ℓ, by camera.

    `served` holds the records of these footages. What counts is what `latency_quality` counts.
    """
    count = len(footages)
    camera = np.repeat(np.arange(count), [int((f.records >= 0).sum()) for f in footages])
    valid = served.valid
    spent_s = (served.of_answers("answered_ns", valid) - served.captured_ns[valid]) / 1e9
    of, known = camera[valid], spent_s >= 0
    judged = known & served.admitted[valid]
    worthless = camera[served.admitted & served.met(*WORTHLESS)]
    quality = np.column_stack(
        [
            np.bincount(of[judged], quickness(spent_s[judged]), minlength=count),
            np.bincount(of[judged], minlength=count) + np.bincount(worthless, minlength=count),
        ]
    ).astype(float)
    ends = np.searchsorted(of[known], np.arange(1, count))
    return quality, np.split(spent_s[known], ends) if count else ()


RANKS = (50, 90, 95, 99)


def _of_latencies(latencies: Sequence[Floats]) -> dict[str, _Wanted]:
    every = np.concatenate(latencies) if latencies else np.empty(0)
    if not len(every):
        return {}
    means = np.array([[values.sum(), len(values)] for values in latencies])
    wanted = {"latency_mean": _Wanted(means, _ratio(0, 1), 1)}
    for percent in RANKS:
        near = percent / 100 + np.linspace(-0.05, 0.05, STEPS + 1)
        shares = np.concatenate([np.linspace(0, 1, STEPS // 2 + 1), near.clip(0, 1)])
        steps = np.unique(np.quantile(every, shares))
        rows = np.array([_counted(values, steps) for values in latencies], float)
        rows = np.column_stack([rows, rows.sum(axis=1)])
        wanted[f"latency_p{percent}"] = _Wanted(rows, _percentile(steps, percent), -1)
    return wanted


def _counted(values: Floats, steps: Floats) -> NDArray[np.int64]:
    """How many lie at each step, or between the one before and it."""
    place = np.minimum(np.searchsorted(steps, values), len(steps) - 1)
    return np.bincount(place, minlength=len(steps))


def _percentile(steps: Floats, percent: int) -> Draws:
    def of(sums: Floats) -> Floats:
        below = np.cumsum(sums[:, :-1], axis=1)
        found = steps[np.argmax(below >= sums[:, -1:] * percent / 100, axis=1)]
        return np.where(sums[:, -1] > 0, found, math.nan)

    return of
