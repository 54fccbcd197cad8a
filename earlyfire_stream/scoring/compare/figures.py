"""Every figure on both sides, its difference, and how sure that is."""

from __future__ import annotations

__all__ = ["BINS", "Figure", "Rates", "figures", "pair_ttfds", "rates_of"]

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import scipy

from earlyfire_stream.scoring.compare.measured import (
    COLUMN,
    COLUMNS,
    Cluster,
    Floats,
    Measured,
    ViewKey,
)
from earlyfire_stream.scoring.compare.sureness import Interval, interval_of, permuted, resamples
from earlyfire_stream.scoring.compare.values import (
    OfSums,
    Percentile,
    Ranked,
    Restricted,
    Totals,
    Value,
    combined,
    detection,
    early_fire,
    few,
    located,
    per_camera_day,
    quick,
    readable,
)
from earlyfire_stream.scoring.detection import HORIZON_S
from earlyfire_stream.scoring.early_fire import few_false_alarms
from earlyfire_stream.scoring.statistics import ALPHA, percentile, poisson_interval

BINS = 1024
"""Latencies are resampled by so many values at most, evenly many answers each."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure on both sides. None where a side has nothing to measure it by."""

    key: str
    title: str
    """Rates are per camera."""
    higher_is_better: bool
    n: tuple[float, float]
    of: str
    """What `n` counts, on each side."""
    first: float | None = None
    other: float | None = None
    difference: float | None = None
    """other − first"""
    interval: Interval | None = None
    """Of the difference, 95 %."""
    p: float | None = None
    """Two-sided; of the difference being none."""
    p_holm: float | None = None
    """Holm's, over the runs that are held against the first; the same as `p` with one."""
    unlike: int | None = None
    """Fires, and cameras without one, on which the sides differ: what the permutation test of p
    could flip. It cannot be below 2^-(n-1) of so many."""

    @property
    def worse_by(self) -> float | None:
        """How much worse the other is; negative where it is better."""
        if self.difference is None:
            return None
        return -self.difference if self.higher_is_better else self.difference

    @property
    def surely(self) -> bool:
        """The interval leaves out zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def to_json(self) -> dict[str, object]:
        return {
            **asdict(self),
            "interval": None if self.interval is None else list(self.interval),
            "n": list(self.n),
        }


@dataclass(frozen=True, slots=True)
class Rates:
    """False alarms of both sides: how many times as many, with the exact conditional interval.

    Given all of them together, the other's share is binomial. An end is None where it is infinite.
    """

    first_episodes: int
    other_episodes: int
    first_hours: float
    other_hours: float
    ratio: float | None
    low: float | None
    high: float | None
    p: float | None


def figures(
    clusters: Sequence[Cluster],
    fires: int,
    keys: Sequence[ViewKey],
    first: Measured,
    other: Measured,
    rates: Rates,
) -> Iterator[Figure]:
    column = {cluster: place for place, cluster in enumerate(clusters)}
    empty = np.zeros(len(COLUMNS))
    ours, theirs = (
        np.array([each.sums.get(cluster, empty) for cluster in clusters]).reshape(
            len(clusters), len(COLUMNS)
        )
        for each in (first, other)
    )
    totals = ours.sum(axis=0), theirs.sum(axis=0)
    drawn = resamples(fires, len(clusters) - fires)
    boxed = first.boxed or other.boxed

    def of_sums(
        key: str, title: str, formula: Callable[[Totals], Floats], n: str, of: str, up: bool = True
    ) -> Figure:
        value = OfSums(ours, theirs, formula)
        figure = Figure(key, title, up, _n(totals, n), of)
        return _valued(figure, value, len(clusters), drawn)

    yield of_sums("efs", "Early-Fire Score", early_fire(boxed), "views", "views")
    yield of_sums("D", "D detection", detection, "views", "views")
    yield _of_poisson(
        of_sums("F", "F false alarms", few, "hours", "camera-hours"),
        rates,
        few_false_alarms,
    )
    yield of_sums("C", "C of both", combined, "views", "views")
    if boxed:
        yield of_sums("L", "L localization", located, "boxed", "boxed frames")
    yield of_sums("Q", "Q latency", quick, "admitted", "frames")
    yield of_sums("K", "K answers", readable, "sent", "requests")
    yield of_sums(
        "v1", "frame score v1", lambda t: t("v1") / t("sequences"), "sequences", "cameras"
    )
    yield of_sums("recall", "views detected", lambda t: t("found") / t("views"), "views", "views")
    yield of_sums(
        "ttfd", "TTFD, both found", lambda t: t("ttfd") / t("both"), "both", "views", up=False
    )
    if keys:
        yield _rmst(keys, column, first, other, drawn)
    yield _of_poisson(
        of_sums(
            "false_alarms",
            "false per day",
            per_camera_day,
            "hours",
            "camera-hours",
            up=False,
        ),
        rates,
        lambda per_day: per_day,
    )
    yield of_sums(
        "precision", "frame precision", lambda t: t("tp") / (t("tp") + t("fp")), "tp fp", "alarms"
    )
    yield of_sums(
        "frame_recall", "frame recall", lambda t: t("tp") / (t("tp") + t("fn")), "tp fn", "smoky"
    )
    yield of_sums(
        "f1",
        "frame F1",
        lambda t: 2 * t("tp") / (2 * t("tp") + t("fp") + t("fn")),
        "tp fp fn tn",
        "frames",
    )
    if boxed:
        yield from _average_precisions(column, ours, theirs, first, other, drawn)
    yield from _latency_figures(column, first, other, drawn)
    yield of_sums(
        "tokens",
        "tokens per hour",
        lambda t: t("visual") / t("watched"),
        "watched",
        "camera-hours",
        up=False,
    )


def pair_ttfds(keys: Sequence[ViewKey], first: Measured, other: Measured) -> None:
    for each in (first, other):
        for row in each.sums.values():
            row[COLUMN["both"]] = row[COLUMN["ttfd"]] = 0.0
    for key in keys:
        ours, theirs = first.views[key].ttfd_s, other.views[key].ttfd_s
        if ours is not None and theirs is not None:
            for each, ttfd_s in ((first, ours), (other, theirs)):
                row = each.sums[each.cluster_of[key]]
                row[COLUMN["both"]] += 1
                row[COLUMN["ttfd"]] += ttfd_s


def _n(totals: tuple[Floats, Floats], names: str) -> tuple[float, float]:
    one, two = (sum(float(t[COLUMN[name]]) for name in names.split()) for t in totals)
    return one, two


def _valued(
    figure: Figure, value: Value, clusters: int, drawn: Floats | None, tested: bool = True
) -> Figure:
    """With its values, the bootstrap's interval of the difference and the permutation test's p."""
    every, none = np.ones((1, clusters)), np.zeros((1, clusters))
    first, other = _known(value(every, none)[0]), _known(value(none, every)[0])
    if first is None or other is None:
        return replace(figure, first=first, other=other)
    p, unlike = permuted(value, clusters) if tested else (None, None)
    return replace(
        figure,
        first=first,
        other=other,
        difference=other - first,
        interval=interval_of(value, drawn),
        p=p,
        unlike=unlike,
    )


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rmst(
    keys: Sequence[ViewKey],
    column: Mapping[Cluster, int],
    first: Measured,
    other: Measured,
    drawn: Floats | None,
) -> Figure:
    sides = []
    for each in (first, other):
        views = [each.views[key] for key in keys]
        times = [v.censored_s if v.ttfd_s is None else v.ttfd_s for v in views]
        sides.append((np.array(times), np.array([v.ttfd_s is not None for v in views])))
    cluster = np.array([column[first.cluster_of[key]] for key in keys])
    n = float(len(keys))
    title = f"RMST to {HORIZON_S / 60:g} min"
    figure = Figure("rmst", title, False, (n, n), "views")
    return _valued(figure, Restricted(sides[0], sides[1], cluster), len(column), drawn)


def _latency_figures(
    column: Mapping[Cluster, int], first: Measured, other: Measured, drawn: Floats | None
) -> Iterator[Figure]:
    sides = [
        np.concatenate(
            [np.empty(0), *(part for parts in each.latencies.values() for part in parts)]
        )
        for each in (first, other)
    ]
    pooled = np.unique(np.concatenate(sides))
    if len(pooled) > BINS:
        every = np.concatenate(sides)
        pooled = np.unique(np.quantile(every, np.linspace(0, 1, BINS), method="higher"))
    counts = []
    for each in (first, other):
        table = np.zeros((len(column), len(pooled)))
        for cluster, parts in each.latencies.items():
            places = np.searchsorted(pooled, np.concatenate(parts))
            table[column[cluster]] += np.bincount(places, minlength=len(pooled))
        counts.append(table)
    for rank in (50, 95):
        ours, theirs = (percentile(side, rank) for side in sides)
        known = ours is not None and theirs is not None
        yield Figure(
            f"latency_p{rank}",
            f"latency p{rank}",
            False,
            (float(len(sides[0])), float(len(sides[1]))),
            "answers",
            ours,
            theirs,
            None if ours is None or theirs is None else theirs - ours,
            interval_of(Percentile(pooled, counts[0], counts[1], rank), drawn) if known else None,
        )


def _average_precisions(
    column: Mapping[Cluster, int],
    ours: Floats,
    theirs: Floats,
    first: Measured,
    other: Measured,
    drawn: Floats | None,
) -> Iterator[Figure]:
    ranked = [any(c is not None for _, _, c in each.boxes) for each in (first, other)]
    sides = [
        {
            "cluster": np.array([column[c] for c, _, _ in each.boxes], dtype=float),
            "iou": np.array([iou for _, iou, _ in each.boxes]),
            "rank": np.array([-1.0 if c is None else c for _, _, c in each.boxes]),
        }
        for each in (first, other)
    ]
    place = COLUMN["boxed"]
    n = float(ours[:, place].sum()), float(theirs[:, place].sum())
    for percent in (40, 50):
        figure = Figure(f"ap{percent}", f"AP@0.{percent // 10}", True, n, "boxed frames")
        if not all(ranked):
            yield figure
            continue
        value = Ranked(sides[0], sides[1], (ours[:, place], theirs[:, place]), percent / 100)
        yield _valued(figure, value, len(column), drawn, tested=False)


def rates_of(first: Measured, other: Measured) -> Rates:
    (a, hours_a), (b, hours_b) = (
        (
            round(sum(row[COLUMN["episodes"]] for row in each.sums.values())),
            math.fsum(row[COLUMN["hours"]] for row in each.sums.values()),
        )
        for each in (first, other)
    )
    if hours_a <= 0 or hours_b <= 0:
        return Rates(a, b, hours_a, hours_b, None, None, None, None)
    if not a + b:
        return Rates(a, b, hours_a, hours_b, None, None, None, 1.0)
    tested = scipy.stats.binomtest(b, a + b, hours_b / (hours_a + hours_b))
    share = tested.proportion_ci(1 - ALPHA, method="exact")

    def ratio(part: float) -> float | None:
        return part / (1 - part) * hours_a / hours_b if part < 1 else None

    return Rates(
        first_episodes=a,
        other_episodes=b,
        first_hours=hours_a,
        other_hours=hours_b,
        ratio=ratio(b / (a + b)),
        low=ratio(float(share.low)),
        high=ratio(float(share.high)),
        p=float(tested.pvalue),
    )


def _of_poisson(figure: Figure, rates: Rates, worth: Callable[[float], float]) -> Figure:
    """The interval and p of a figure that is `worth` of the false alarm rate, rising or falling.

    A bootstrap cannot imagine a false alarm that never came. So both exact Poisson intervals are
    joined (MOVER, Zou and Donner 2008): the difference's end is as far away as the root of the sum
    of squares of both ends. Runs over the same frames err alike, so this claims too little rather
    than too much.
    """
    if figure.difference is None:
        return figure
    low_a, a, high_a = _ends(rates.first_episodes, rates.first_hours, worth)
    low_b, b, high_b = _ends(rates.other_episodes, rates.other_hours, worth)
    low = b - a - math.hypot(b - low_b, high_a - a)
    high = b - a + math.hypot(high_b - b, a - low_a)
    return replace(figure, interval=(low, high), p=rates.p)


def _ends(
    episodes: int, hours: float, worth: Callable[[float], float]
) -> tuple[float, float, float]:
    few, many = poisson_interval(episodes)
    low, high = sorted(worth(24 * events / hours) for events in (few, many))
    return low, worth(24 * episodes / hours), high
