"""Runs held against the first of them: what differs, how surely, and which fires moved.

Only runs over the same frames are compared, view by view (a fire on a camera) and seed by seed. A
side is one run, or the runs of one setting over several seeds, pooled. Every difference is
*other − first*. Uncertainty is drawn by fire: the cameras of one fire are no independent witnesses,
and what a camera saw outside its fires goes with its first fire; a camera without any stands for
itself. Nothing here reads a file.
"""

from __future__ import annotations

__all__ = [
    "Against",
    "Comparison",
    "Detected",
    "Doubt",
    "Figure",
    "Measured",
    "Moved",
    "Rates",
    "Side",
    "Worse",
    "compare",
    "doubts",
    "holm",
    "label",
    "parse_tolerances",
    "worse",
]

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray
from scipy import stats

from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import FirePlan, FrameTable, RunLog
from earlyfire_stream.scenario.load import loads
from earlyfire_stream.scenario.units import parse_seconds
from earlyfire_stream.scoring.accuracy import (
    IOU_MATCH,
    best_iou,
    confusion,
    judged_sequences,
    mean_frame_score_v1,
)
from earlyfire_stream.scoring.answers import VALID_SHARE, WORTHLESS, Served, quickness
from earlyfire_stream.scoring.curves import restricted_mean
from earlyfire_stream.scoring.detection import (
    HORIZON_S,
    View,
    false_alarms,
    watched_hours,
)
from earlyfire_stream.scoring.early_fire import (
    Score,
    alarm_policy,
    earliness,
    few_false_alarms,
    score,
)
from earlyfire_stream.scoring.footage import Footage, footage, packed
from earlyfire_stream.scoring.operating import OperatingPoint, operating_curve
from earlyfire_stream.scoring.pairs import Pairs, pairs
from earlyfire_stream.scoring.statistics import (
    ALPHA,
    MIN_CLUSTERS,
    RESAMPLES,
    SEED,
    percentile,
    poisson_interval,
)
from earlyfire_stream.verdict import Fate, Reason, Verdict, burns

Floats = NDArray[np.float64]
Interval = tuple[float, float]

PERMUTATIONS = 9999
"""Draws where 2^n sign flips are more than these; fewer are all tried."""
UNDEFINED_AT_MOST = 0.05
"""Share of resamples in which a figure may be undefined; beyond, it has no interval."""
STILL_S = 1e-3
"""A TTFD that changed by less did not move."""
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CURVE_FRAMES = 60_000
"""Frames up to which operating curves are computed; each threshold reads them all again."""
BINS = 1024
"""Latencies are resampled by so many values at most, evenly many answers each."""


@dataclass(frozen=True, slots=True)
class Side:
    """One setting: a run, or its runs over several seeds. `names` say where each log came from."""

    names: tuple[str, ...]
    logs: tuple[RunLog, ...]

    def __post_init__(self) -> None:
        if not self.logs or len(self.logs) != len(self.names):
            raise ValueError("a side has one name for each of its runs, and at least one run")


# --- what may be compared ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Doubt:
    """A reason not to compare. `grave`: there is nothing to pair, and no wish changes that."""

    text: str
    grave: bool = False


def label(place: int) -> str:
    """A, B, … Z, then #27."""
    return chr(ord("A") + place) if place < 26 else f"#{place + 1}"


def doubts(sides: Sequence[Side]) -> list[Doubt]:
    """Every reason why these sides are not comparable with the first, grave ones first."""
    said: dict[Doubt, None] = {}
    for place, side in enumerate(sides):
        said.update(dict.fromkeys(_own_doubts(label(place), side)))
    first = sides[0]
    for place, side in enumerate(sides[1:], 1):
        said.update(dict.fromkeys(_unlike(label(place), first, side)))
    return sorted(said, key=lambda doubt: not doubt.grave)


def _own_doubts(name: str, side: Side) -> Iterator[Doubt]:
    seen: dict[str, str] = {}
    for run, log in zip(side.names, side.logs, strict=True):
        digest = str(log.run.get("digest", ""))
        if digest in seen:
            yield Doubt(
                f"{name}: {seen[digest]} and {run} play the same scenario with the same seed; "
                "name one run for each seed",
                grave=True,
            )
        seen[digest] = run
        if log.run.get("settings") and log.run.get("engine") is None:
            yield Doubt(f"{run}: only cameras played there, nobody watched them", grave=True)
        if not log.complete:
            yield Doubt(f"{run}: the run is not complete; what it never saw counts as missed")
        elif log.run.get("interrupted"):
            yield Doubt(
                f"{run}: the run was interrupted after {log.duration_s or 0:g} scenario seconds"
            )
    for run, log in zip(side.names[1:], side.logs[1:], strict=True):
        for key, ours, theirs in _settings_unlike(side.logs[0], log):
            if not key.startswith(("versions", "host")):
                yield Doubt(
                    f"{name}: {run} is no run of the same setting as {side.names[0]}: "
                    f"{key} {theirs} instead of {ours}"
                )


def _unlike(name: str, first: Side, other: Side) -> Iterator[Doubt]:
    ours, theirs = _by_digest(first), _by_digest(other)
    if ours.keys() != theirs.keys():
        yield Doubt(_unpaired(name, first, other), grave=True)
    clocks, speeds, policies = set(), set(), set()
    # where nothing can be paired the first runs stand for all, so that every reason is told at once
    both = [(ours[d], theirs[d]) for d in ours if d in theirs] or [(first.logs[0], other.logs[0])]
    for one, two in both:
        if (a := _clock(one)) != (b := _clock(two)):
            clocks.add((a, b))
        if one.speed != two.speed and (_distorted(one) or _distorted(two)):
            speeds.add((one.speed, two.speed))
        if (a := _policy(one)) != (b := _policy(two)):
            policies.add((a, b))
    for a, b in sorted(clocks):
        yield Doubt(
            f"{name}: {b} clock, the first ran in {a} time: latency in virtual time is none, and "
            "the score counts it"
        )
    for x, y in sorted(speeds):
        yield Doubt(
            f"{name}: speed {y:g} against speed {x:g}, and frames were dropped for lack of wall "
            "time (speed_distorted); play both at one speed"
        )
    for a, b in sorted(policies):
        yield Doubt(
            f"{name}: another alarm policy ({b}, not {a}); play both under one, or see "
            "`earlyfire score RUN --alarm`"
        )


def _unpaired(name: str, first: Side, other: Side) -> str:
    a, b = first.logs[0].run, other.logs[0].run
    texts = {log.run.get("scenario_text") for side in (first, other) for log in side.logs}
    seeds = [sorted({int(log.run.get("seed", 0)) for log in s.logs}) for s in (first, other)]
    if len(texts) == 1 and seeds[0] != seeds[1]:
        ours, theirs = (", ".join(map(str, each)) for each in seeds)
        return (
            f"{name}: another seed ({theirs}, not {ours}): other frames or other draws; compare "
            "runs of the same seeds, several of one setting written A1,A2 B1,B2"
        )
    if len(texts) == 1:
        return (
            f"{name}: the same scenario file, played with another duration or other cameras "
            f"(digest {_legible(str(b.get('digest')))}, not {_legible(str(a.get('digest')))})"
        )
    ours, theirs = (
        _legible(f"{run.get('scenario')} seed {run.get('seed')} digest {run.get('digest')}")
        for run in (a, b)
    )
    return f"{name}: another scenario ({theirs}; not {ours})"


def _by_digest(side: Side) -> dict[str, RunLog]:
    return {str(log.run.get("digest", "")): log for log in side.logs}


def _clock(log: RunLog) -> str:
    return str(log.run.get("clock", "wall"))


def _policy(log: RunLog) -> str:
    policy = alarm_policy(log)
    least = f", from P(smoke) {policy.min_confidence:g}" if policy.min_confidence else ""
    within = f" within {policy.within:g} s" if policy.k > 1 else ""
    return f"{policy.k} of {policy.n}{within}{least}, repeated after {policy.repeat:g} s"


def _distorted(log: RunLog) -> bool:
    """As in `Score.speed_distorted`."""
    dropped = (Fate.EXPIRED, Fate.SUPERSEDED, Fate.OVER_BUDGET)
    return log.speed != 1 and any(frame.fate in dropped for frame in log.frames)


# --- what was set otherwise ----------------------------------------------------------------------

STATED = ("settings", "engine", "clock", "speed", "host", "broker")
UNSTATED = ("engine.cold_start_s",)
"""Measured, not set."""


def _settings_unlike(first: RunLog, other: RunLog) -> list[tuple[str, str, str]]:
    """(place, the first's, the other's) of every setting that differs."""
    ours, theirs = _settings(first), _settings(other)
    keys = dict.fromkeys((*ours, *theirs))
    return [
        (key, ours.get(key, "unset"), theirs.get(key, "unset"))
        for key in keys
        if ours.get(key) != theirs.get(key)
    ]


def _settings(log: RunLog) -> dict[str, str]:
    told = {part: log.run.get(part) for part in STATED}
    settings = told.pop("settings", None)
    # what was asked for stands without the word `settings`, as on the command line
    whole = {**(settings if isinstance(settings, dict) else {})}
    for part, value in told.items():
        whole[f"used {part}" if part in whole else part] = value
    versions = log.run.get("versions")
    if isinstance(versions, dict):
        whole["versions"] = {"earlyfire-stream": versions.get("earlyfire-stream")}
    flat = dict(_flat(whole))
    return {k: v for k, v in flat.items() if k.removeprefix("used ") not in UNSTATED}


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        place = f"{above}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{place}.")
        elif value is not None:
            yield place, _legible(value if isinstance(value, str) else orjson.dumps(value).decode())


def _legible(text: str) -> str:
    """A run folder may be a stranger's: no control characters, and not for ever."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= 60 else f"{text[:59]}…"


# --- a side, taken apart by fire -----------------------------------------------------------------

COLUMNS = (
    "views",
    "worth",  # Σ u, the earliness
    "found",
    "both",  # views that both sides detected
    "ttfd",  # Σ TTFD of those
    "episodes",
    "hours",  # without smoke
    "matched",
    "predicted",
    "boxed",  # answered frames with truth boxes
    "quick",  # Σ quickness of frames that sampling admitted
    "admitted",
    "valid",
    "sent",
    "tp",
    "fp",
    "fn",
    "tn",
    "v1",
    "sequences",
    "visual",
    "watched",
)
COLUMN = {name: place for place, name in enumerate(COLUMNS)}

Cluster = tuple[str, str]
"""("fire", its id) or ("camera", its id); with the seed where another seed draws another one."""
ViewKey = tuple[str, str, str]
"""(digest, fire, camera)"""


@dataclass(slots=True)
class Measured:
    """What a side's runs add to every figure, by cluster."""

    sums: dict[Cluster, Floats]
    views: dict[ViewKey, View]
    stuck: dict[ViewKey, str]
    """Of missed views: the part in which they got stuck."""
    cluster_of: dict[ViewKey, Cluster]
    latencies: dict[Cluster, list[Floats]]
    boxes: list[tuple[Cluster, float, float | None]]
    """(cluster, IoU with the best truth box, confidence) of each predicted box."""
    boxed: bool
    """The truth has boxes."""
    scores: list[Score]
    runs: list[Mapping[str, Any]]
    """Each one's `run.json`."""
    curves: list[tuple[OperatingPoint, ...]]
    """Each one's operating curve; empty where there is none."""
    why_no_curve: str


def _measure(side: Side) -> Measured:
    found = Measured({}, {}, {}, {}, {}, [], False, [], [], [], "")
    for log in side.logs:
        digest = str(log.run.get("digest", ""))
        mark = f" seed {log.run.get('seed')}" if len(side.logs) > 1 and _redrawn(log) else ""
        result = score(log)
        found.scores.append(result)
        found.runs.append(log.run)
        points, why = _curve(log, result)
        found.curves.append(points)
        found.why_no_curve = found.why_no_curve or why
        by_camera: dict[str, list[View]] = {}
        for view in result.fires:
            by_camera.setdefault(view.camera, []).append(view)
        everything = footage(log)
        for one, spent in zip(everything, _served(log, everything), strict=True):
            _take_in(found, log, one, spent, by_camera.get(one.plan.id, ()), digest, mark)
    return found


def _curve(log: RunLog, result: Score) -> tuple[tuple[OperatingPoint, ...], str]:
    """The operating curve, or why there is none."""
    if not result.fires or not result.false_alarms.camera_hours:
        return (), "It needs fires and time without smoke."
    if len(log.frames) > CURVE_FRAMES:
        return (), f"Not computed for runs of more than {CURVE_FRAMES:,} frames."
    confidences = FrameTable.of(log.frames).answer_column("confidence")
    if not np.isfinite(confidences).any():
        return (), "An engine gave no confidence, so that no threshold can be moved."
    return operating_curve(log, THRESHOLDS), ""


def _redrawn(log: RunLog) -> bool:
    """Does another seed show other fires? So it is where all cameras are synthetic.

    Footage stays the same fire whatever the seed. A scenario that cannot be read again counts as
    footage, which claims less.
    """
    try:
        scenario = loads(str(log.run.get("scenario_text", ""))).scenario
    except UsageError:
        return False
    return bool(scenario.cameras) and all(c.source.kind == "synthetic" for c in scenario.cameras)


@dataclass(frozen=True, slots=True)
class _Spent:
    """What one camera's requests cost and brought, as `answers` counts them."""

    visual: int
    sent: int
    valid: int
    admitted: int
    quick: float
    latencies: Floats


def _served(log: RunLog, everything: Sequence[Footage]) -> Iterator[_Spent]:
    """By camera. The columns are taken once, as a camera of its own would copy them each time."""
    log, _, frames = packed(log)
    served = Served(frames, everything)
    valid = served.valid
    reached = served.reason != tuple(Reason).index(Reason.UNAVAILABLE)
    sent = served.met(Fate.ANSWERED, Fate.BAD_JSON) | (served.met(Fate.ENGINE_ERROR) & reached)
    costly = reached & (served.answer >= 0)
    visual = np.zeros(len(valid))
    visual[costly] = served.of_answers("visual_tokens", costly)
    answered = served.met(Fate.ANSWERED) & (served.answer >= 0)
    spent_s = np.full(len(valid), np.nan)
    spent_s[answered] = (
        served.of_answers("answered_ns", answered) - served.captured_ns[answered]
    ) / 1e9
    known = spent_s >= 0
    worthy = served.admitted & known
    counted = worthy | (served.admitted & served.met(*WORTHLESS))
    end = 0
    for one in everything:
        begin, end = end, end + int((one.records >= 0).sum())
        here = slice(begin, end)
        yield _Spent(
            visual=int(visual[here].sum()),
            sent=int(sent[here].sum()),
            valid=int(valid[here].sum()),
            admitted=int(counted[here].sum()),
            quick=float(quickness(spent_s[here][worthy[here]]).sum()),
            latencies=spent_s[here][valid[here] & known[here]],
        )


def _take_in(
    found: Measured,
    log: RunLog,
    one: Footage,
    spent: _Spent,
    views: Sequence[View],
    digest: str,
    mark: str,
) -> None:
    plan = one.plan
    fires = [fire.id for fire in plan.fires]
    home: Cluster = ("fire", fires[0] + mark) if fires else ("camera", plan.id + mark)
    row = _row(found, home)
    row[COLUMN["visual"]] += spent.visual
    row[COLUMN["watched"]] += watched_hours([one])
    found.latencies.setdefault(home, []).append(spent.latencies)
    if not plan.truth:
        return

    for view in views:
        key = (digest, view.fire, view.camera)
        cluster = ("fire", view.fire + mark)
        found.views[key] = view
        found.cluster_of[key] = cluster
        own = _row(found, cluster)
        own[COLUMN["views"]] += 1
        own[COLUMN["worth"]] += earliness(view.ttfd_s)
        own[COLUMN["found"]] += view.parts is not None
        if view.parts is None:
            plans = {fire.id: fire for fire in plan.fires}
            found.stuck[key] = _stuck(one, plans[view.fire], view)
    raised = false_alarms([one], alarm_policy(log))
    right = confusion([one])
    v1 = mean_frame_score_v1(judged_sequences([one]))
    boxes = list(_boxes(one))
    found.boxes += [(home, iou, verdict.confidence) for _, iou, verdict in boxes if verdict]
    has_boxes = any(t.box is not None for f in one.frames for t in f.truth)
    found.boxed = found.boxed or has_boxes
    for name, value in {
        "episodes": raised.episodes,
        "hours": raised.camera_hours,
        "matched": sum(iou >= IOU_MATCH for _, iou, verdict in boxes if verdict),
        "predicted": sum(verdict is not None for _, _, verdict in boxes),
        "boxed": sum(in_truth for in_truth, _, _ in boxes),
        "quick": spent.quick,
        "admitted": spent.admitted,
        "valid": spent.valid,
        "sent": spent.sent,
        "tp": right.tp,
        "fp": right.fp,
        "fn": right.fn,
        "tn": right.tn,
        "v1": v1 or 0.0,
        "sequences": v1 is not None,
    }.items():
        row[COLUMN[name]] += value


def _row(found: Measured, cluster: Cluster) -> Floats:
    return found.sums.setdefault(cluster, np.zeros(len(COLUMNS)))


def _boxes(one: Footage) -> Iterator[tuple[bool, float, Verdict | None]]:
    """(boxes in the truth, IoU, verdict if it has a box) of each frame that counts for boxes.

    As `accuracy.localization` counts them, but also for a camera without truth boxes of its own.
    """
    for frame in one.frames:
        truth = [t.box for t in frame.truth if t.box is not None]
        verdict = frame.verdict
        if verdict is None or frame.smoke is None or (frame.smoke and not truth):
            continue
        box = verdict.box if verdict.has_smoke else None
        iou = best_iou(box, truth) if box is not None else 0.0
        yield bool(truth), iou, verdict if box is not None else None


_LEFT_AT = {
    Fate.UNSENT: "transport",
    Fate.LOST: "transport",
    Fate.UNDECODABLE: "transport",
    Fate.SAMPLED_OUT: "sampling",
    Fate.SUPERSEDED: "queue",
    Fate.EXPIRED: "queue",
    Fate.OVER_BUDGET: "queue",
    Fate.BAD_JSON: "inference",
    Fate.ENGINE_ERROR: "inference",
    Fate.ABANDONED: "inference",
}


def _stuck(one: Footage, fire: FirePlan, view: View) -> str:
    """In which part of the way from onset to alarm a missed view ended, by the names of `Parts`.

    Without a frame: cadence. Without a valid answer: where most frames were left. Answered, never
    positive: the model. Positive, never k of n: confirmation. Alarmed beside the smoke: alarm.
    """
    smoky = [
        frame
        for frame in one.frames
        if burns(fire, frame.captured_at) and frame.captured_at - fire.onset <= HORIZON_S + 1e-6
    ]
    if not smoky:
        return "cadence_wait"
    told = [frame.verdict for frame in smoky if frame.verdict is not None]
    if not told:
        left = Counter(_LEFT_AT[f.fate] for f in smoky if f.fate in _LEFT_AT)
        return left.most_common(1)[0][0] if left else "sampling"
    if view.unlocated:
        return "alarm"
    return "confirmation" if any(verdict.has_smoke for verdict in told) else "model_miss"


# --- figures -------------------------------------------------------------------------------------


class _Value(Protocol):
    """A figure of a mixture: `ours` draws from the first side's clusters, `theirs` the other's.

    Weights have a row a draw and a column a cluster; the result one value a draw, NaN where it is
    undefined.
    """

    def __call__(self, ours: Floats, theirs: Floats) -> Floats: ...


Totals = Callable[[str], Floats]


@dataclass(frozen=True, slots=True)
class _OfSums:
    """A figure of sums over clusters."""

    first: Floats
    other: Floats
    formula: Callable[[Totals], Floats]

    def __call__(self, ours: Floats, theirs: Floats) -> Floats:
        sums = ours @ self.first + theirs @ self.other
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.formula(lambda name: sums[:, COLUMN[name]])


@dataclass(frozen=True, slots=True)
class _Restricted:
    """RMST of the views of both sides; `cluster` is each view's column."""

    first: tuple[Floats, NDArray[np.bool_]]
    other: tuple[Floats, NDArray[np.bool_]]
    cluster: NDArray[np.intp]

    def __call__(self, ours: Floats, theirs: Floats) -> Floats:
        return restricted_mean(
            np.r_[self.first[0], self.other[0]],
            np.r_[self.first[1], self.other[1]],
            np.hstack([ours[:, self.cluster], theirs[:, self.cluster]]),
        )


@dataclass(frozen=True, slots=True)
class _Percentile:
    """A percentile of latencies, from how many of them lie at each value, by cluster."""

    values: Floats
    first: Floats
    other: Floats
    rank: int

    def __call__(self, ours: Floats, theirs: Floats) -> Floats:
        below = np.cumsum(ours @ self.first + theirs @ self.other, axis=1)
        wanted = below[:, -1:] * self.rank / 100
        found = self.values[np.argmax(below >= wanted, axis=1)]
        return np.where(below[:, -1] > 0, found, np.nan)


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Average precision, as `accuracy` defines it, of boxes each counted so many times."""

    first: Mapping[str, Floats]
    other: Mapping[str, Floats]
    boxed: tuple[Floats, Floats]
    """Frames with truth boxes, by cluster."""
    iou: float

    def __call__(self, ours: Floats, theirs: Floats) -> Floats:
        hits, ranks, columns = (
            np.concatenate([self.first[name], self.other[name]])
            for name in ("iou", "rank", "cluster")
        )
        order = np.argsort(-ranks, kind="stable")
        from_first = (np.arange(len(ranks)) < len(self.first["rank"]))[order]
        columns = columns[order].astype(np.intp)
        hits = hits[order] >= self.iou
        last = np.flatnonzero(np.r_[np.diff(ranks[order]) != 0, True])
        areas = []
        for one, two in zip(ours, theirs, strict=True):
            n = float(one @ self.boxed[0] + two @ self.boxed[1])
            if n <= 0:
                areas.append(math.nan)
                continue
            weight = np.where(from_first, one[columns], two[columns])
            taken = np.cumsum(weight)[last]
            matched = np.cumsum(weight * hits)[last]
            precision = np.divide(matched, taken, out=np.zeros_like(taken), where=taken > 0)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            areas.append(float(np.diff(matched / n, prepend=0.0) @ envelope))
        return np.array(areas)


def _detection(t: Totals) -> Floats:
    return t("worth") / t("views")


def _per_camera_day(t: Totals) -> Floats:
    return np.where(t("hours") > 0, 24 * t("episodes") / t("hours"), np.nan)


def _few(t: Totals) -> Floats:
    return np.array([few_false_alarms(float(value)) for value in _per_camera_day(t)])


def _combined(t: Totals) -> Floats:
    d, f = _detection(t), _few(t)
    return np.where(d + f == 0, 0.0, 2 * d * f / (d + f))


def _located(t: Totals) -> Floats:
    value = t("matched") ** 2 / (t("predicted") * t("boxed"))
    return np.where(t("matched") > 0, value, 0.0)


def _quick(t: Totals) -> Floats:
    return t("quick") / t("admitted")


def _readable(t: Totals) -> Floats:
    return np.minimum(1.0, t("valid") / t("sent") / VALID_SHARE)


def _early_fire(boxed: bool) -> Callable[[Totals], Floats]:
    def value(t: Totals) -> Floats:
        quick = 0.15 * np.nan_to_num(_quick(t))
        worth = 0.70 + 0.15 * _located(t) + quick if boxed else (0.70 + quick) / 0.85
        return 100 * np.nan_to_num(_readable(t)) * _combined(t) * worth

    return value


# --- the result ----------------------------------------------------------------------------------


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
class Detected:
    """Views by who detected them."""

    both: int
    only_first: int
    only_other: int
    neither: int

    @property
    def views(self) -> int:
        return self.both + self.only_first + self.only_other + self.neither


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


@dataclass(frozen=True, slots=True)
class Moved:
    """A view whose TTFD changed. Seconds as `View.ttfd_s`; None is a miss."""

    fire: str
    camera: str
    seed: int | None
    """Told where several seeds are pooled."""
    first_s: float | None
    other_s: float | None
    part: str
    """The part of the TTFD that changed most in the change's direction, by its name in `Parts`; of
    a view that one side missed, where it got stuck."""
    part_change_s: float | None

    @property
    def change_s(self) -> float | None:
        if self.first_s is None or self.other_s is None:
            return None
        return self.other_s - self.first_s

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "change_s": self.change_s}


@dataclass(frozen=True, slots=True)
class Against:
    """One side against the first."""

    label: str
    figures: tuple[Figure, ...]
    detected: Detected
    false_alarms: Rates
    moved: tuple[Moved, ...]
    """Found by one side only first, then by the size of the change."""
    frames: Pairs
    """Frame by frame, frames that both asked about; `slower_s` of a single pair of runs only."""
    stated: tuple[tuple[str, str, str], ...]
    """(setting, the first's, the other's), where they differ."""
    fires: int
    cameras: int
    """Those without a fire."""
    why_no_interval: str

    def figure(self, key: str) -> Figure:
        return next(figure for figure in self.figures if figure.key == key)

    def to_json(self) -> dict[str, object]:
        return {
            "label": self.label,
            "figures": {figure.key: figure.to_json() for figure in self.figures},
            "detected": asdict(self.detected),
            "false_alarms": asdict(self.false_alarms),
            "moved": [moved.to_json() for moved in self.moved],
            "frames": {**asdict(self.frames), "p": self.frames.p_value},
            "differs": [
                {"setting": key, "first": ours, "other": theirs}
                for key, ours, theirs in self.stated
            ],
            "fires": self.fires,
            "cameras_without_fire": self.cameras,
            "why_no_interval": self.why_no_interval,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All sides against the first, which is A."""

    sides: tuple[tuple[str, ...], ...]
    """The names of each side's runs."""
    against: tuple[Against, ...]
    doubts: tuple[str, ...]
    """Why they are not quite comparable, where that was wished all the same."""
    warnings: tuple[tuple[str, str], ...]
    """(whose, what) a reader must know of the runs themselves."""
    measured: tuple[Measured, ...]
    """What each side adds to it."""

    def to_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "sides": {label(i): list(names) for i, names in enumerate(self.sides)},
            "against": [against.to_json() for against in self.against],
            "doubts": list(self.doubts),
            "warnings": [{"side": side, "warning": said} for side, said in self.warnings],
            "resamples": RESAMPLES,
            "permutations": PERMUTATIONS,
            "seed": SEED,
        }


def compare(sides: Sequence[Side], anyway: bool = False) -> Comparison:
    """Hold every side against the first. UsageError with every reason if they are not comparable.

    `anyway` overrules what is only doubtful, never another scenario or seed.
    """
    if len(sides) < 2:
        raise UsageError("compare: name two runs at least")
    found = doubts(sides)
    if any(doubt.grave or not anyway for doubt in found):
        raise UsageError(_refusal(found))
    measured = [_measure(side) for side in sides]
    against = [
        _against(label(place), sides[0], side, measured[0], measured[place])
        for place, side in enumerate(sides)
        if place
    ]
    return Comparison(
        sides=tuple(side.names for side in sides),
        against=_adjusted(against),
        doubts=tuple(doubt.text for doubt in found),
        warnings=tuple(_warnings(measured)),
        measured=tuple(measured),
    )


def _refusal(found: Sequence[Doubt]) -> str:
    lines = ["these runs are not comparable:", *(f"  {doubt.text}" for doubt in found)]
    if not any(doubt.grave for doubt in found):
        lines.append("  (--anyway compares them all the same, and says so)")
    return "\n".join(lines)


def _warnings(measured: Sequence[Measured]) -> Iterator[tuple[str, str]]:
    """What all runs say once, then what some say."""
    said = [dict.fromkeys(w for s in each.scores for w in s.warnings) for each in measured]
    everywhere = [w for w in said[0] if all(w in other for other in said)]
    yield from (("all", warning) for warning in everywhere)
    for place, each in enumerate(said):
        yield from ((label(place), warning) for warning in each if warning not in everywhere)


def _against(name: str, one: Side, two: Side, first: Measured, other: Measured) -> Against:
    keys = [key for key in first.views if key in other.views]
    _pair_ttfds(keys, first, other)
    clusters = sorted(first.sums.keys() | other.sums.keys(), key=lambda c: (c[0] != "fire", c))
    fires = sum(kind == "fire" for kind, _ in clusters)
    rates = _rates(first, other)
    ours, theirs = _by_digest(one), _by_digest(two)
    seeds = {d: log.run.get("seed") for d, log in ours.items()} if len(ours) > 1 else {}
    return Against(
        label=name,
        figures=tuple(_figures(clusters, fires, keys, first, other, rates)),
        detected=_detected(keys, first, other),
        false_alarms=rates,
        moved=_moved(keys, first, other, seeds),
        frames=_together([pairs(ours[d], theirs[d]) for d in ours]),
        stated=tuple(_settings_unlike(one.logs[0], two.logs[0])),
        fires=fires,
        cameras=len(clusters) - fires,
        why_no_interval=(
            ""
            if fires >= MIN_CLUSTERS
            else f"{fires} fire{'s' * (fires != 1)}, and under {MIN_CLUSTERS} a bootstrap says "
            "more than the data do; see the views"
        ),
    )


def _pair_ttfds(keys: Sequence[ViewKey], first: Measured, other: Measured) -> None:
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


def _detected(keys: Sequence[ViewKey], first: Measured, other: Measured) -> Detected:
    told = Counter(
        (first.views[key].parts is not None, other.views[key].parts is not None) for key in keys
    )
    return Detected(told[True, True], told[True, False], told[False, True], told[False, False])


def _together(found: Sequence[Pairs]) -> Pairs:
    if len(found) == 1:
        return found[0]
    whole = {
        name: sum(getattr(each, name) for each in found)
        for name in Pairs.__slots__
        if name != "slower_s"
    }
    return Pairs(**whole, slower_s=None)


def _moved(
    keys: Sequence[ViewKey],
    first: Measured,
    other: Measured,
    seeds: Mapping[str, int | None],
) -> tuple[Moved, ...]:
    found = []
    for key in keys:
        a, b = first.views[key], other.views[key]
        if a.parts is None and b.parts is None:
            continue
        part, change_s = "", None
        if a.parts is not None and b.parts is not None:
            change = b.parts.total - a.parts.total
            if abs(change) < STILL_S:
                continue
            before, after = a.parts.to_json(), b.parts.to_json()
            by_part = {name: after[name] - before[name] for name in before}
            part = max(by_part, key=lambda n: by_part[n] * math.copysign(1, change))
            change_s = by_part[part]
        else:
            part = (other if b.parts is None else first).stuck[key]
        seed = seeds.get(key[0])
        found.append(Moved(a.fire, a.camera, seed, a.ttfd_s, b.ttfd_s, part, change_s))
    return tuple(sorted(found, key=_by_size))


def _by_size(moved: Moved) -> tuple[object, ...]:
    lost = moved.other_s is None
    change = moved.change_s
    return (change is not None, not lost, -abs(change or 0.0), moved.fire, moved.camera)


# --- how sure ------------------------------------------------------------------------------------


def _figures(
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
    drawn = _resamples(fires, len(clusters) - fires)
    boxed = first.boxed or other.boxed

    def of_sums(
        key: str, title: str, formula: Callable[[Totals], Floats], n: str, of: str, up: bool = True
    ) -> Figure:
        value = _OfSums(ours, theirs, formula)
        figure = Figure(key, title, up, _n(totals, n), of)
        return _valued(figure, value, len(clusters), drawn)

    yield of_sums("efs", "Early-Fire Score", _early_fire(boxed), "views", "views")
    yield of_sums("D", "D detection", _detection, "views", "views")
    yield _of_poisson(
        of_sums("F", "F false alarms", _few, "hours", "camera-hours"),
        rates,
        few_false_alarms,
    )
    yield of_sums("C", "C of both", _combined, "views", "views")
    if boxed:
        yield of_sums("L", "L localization", _located, "boxed", "boxed frames")
    yield of_sums("Q", "Q latency", _quick, "admitted", "frames")
    yield of_sums("K", "K answers", _readable, "sent", "requests")
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
            _per_camera_day,
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


def _n(totals: tuple[Floats, Floats], names: str) -> tuple[float, float]:
    one, two = (sum(float(t[COLUMN[name]]) for name in names.split()) for t in totals)
    return one, two


def _resamples(fires: int, cameras: int) -> Floats | None:
    """How often each cluster was drawn, a row a resample: fires among fires, cameras likewise."""
    if fires < MIN_CLUSTERS:
        return None
    random = np.random.default_rng(SEED)
    drawn = [
        random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        for count in (fires, cameras)
        if count
    ]
    return np.hstack(drawn).astype(float)


def _valued(
    figure: Figure, value: _Value, clusters: int, drawn: Floats | None, tested: bool = True
) -> Figure:
    """With its values, the bootstrap's interval of the difference and the permutation test's p."""
    every, none = np.ones((1, clusters)), np.zeros((1, clusters))
    first, other = _known(value(every, none)[0]), _known(value(none, every)[0])
    if first is None or other is None:
        return replace(figure, first=first, other=other)
    p, unlike = _permuted(value, clusters) if tested else (None, None)
    return replace(
        figure,
        first=first,
        other=other,
        difference=other - first,
        interval=_interval(value, drawn),
        p=p,
        unlike=unlike,
    )


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _interval(value: _Value, drawn: Floats | None) -> Interval | None:
    if drawn is None:
        return None
    none = np.zeros_like(drawn)
    differences = value(none, drawn) - value(drawn, none)
    known = differences[np.isfinite(differences)]
    if len(known) < (1 - UNDEFINED_AT_MOST) * len(differences) or not known.any():
        return None  # what never differed has not been measured to differ by exactly nothing
    low, high = np.percentile(known, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)


def _permuted(value: _Value, clusters: int) -> tuple[float, int]:
    """The two-sided p of a paired permutation test, and how many clusters it could flip.

    A cluster's two halves trade sides or not, which is its difference's sign. Clusters that are
    alike on both sides change nothing by that and stay in place, so p cannot be below 2^-(n-1), n
    being the others. No such cluster: nothing differs, p is 1.
    """

    def difference(ours: Floats) -> Floats:
        # a figure that such a draw leaves undefined tells nothing against equality
        return np.nan_to_num(value(1 - ours, ours) - value(ours, 1 - ours))

    as_is = difference(np.ones((1, clusters)))
    one_traded = difference(1 - np.eye(clusters))
    places = np.flatnonzero(~np.isclose(one_traded, as_is, rtol=1e-9, atol=1e-12))
    if len(places) < 2:
        return 1.0, len(places)  # both ways round are as far from zero

    def statistic(signs: Floats, axis: int = -1) -> Floats:
        rows = signs.reshape(-1, len(places))
        ours = np.ones((len(rows), clusters))
        ours[:, places] = (1 + rows) / 2
        return difference(ours).reshape(signs.shape[:-1])

    tested = stats.permutation_test(
        (np.ones(len(places)),),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=500,
        random_state=np.random.default_rng(SEED),
    )
    return float(tested.pvalue), len(places)


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
    return _valued(figure, _Restricted(sides[0], sides[1], cluster), len(column), drawn)


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
            _interval(_Percentile(pooled, counts[0], counts[1], rank), drawn) if known else None,
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
        value = _Ranked(sides[0], sides[1], (ours[:, place], theirs[:, place]), percent / 100)
        yield _valued(figure, value, len(column), drawn, tested=False)


def _rates(first: Measured, other: Measured) -> Rates:
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
    tested = stats.binomtest(b, a + b, hours_b / (hours_a + hours_b))
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


# --- several runs --------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given. 0.01, 0.04, 0.03 → 0.03, 0.06, 0.06."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = highest
    return adjusted


def _adjusted(against: Sequence[Against]) -> tuple[Against, ...]:
    figures = [{figure.key: figure for figure in each.figures} for each in against]
    for key in dict.fromkeys(key for each in figures for key in each):
        tested = [each for each in figures if key in each and each[key].p is not None]
        for each, p in zip(tested, holm([each[key].p or 0.0 for each in tested]), strict=True):
            each[key] = replace(each[key], p_holm=p)
    return tuple(
        replace(each, figures=tuple(own.values()))
        for each, own in zip(against, figures, strict=True)
    )


# --- a threshold on what changed -----------------------------------------------------------------

IN_SECONDS = ("ttfd", "rmst", "latency_p50", "latency_p95")
GATES = (
    *("efs", "D", "F", "C", "L", "Q", "K", "v1", "recall", "false_alarms", "tokens"),
    *("precision", "frame_recall", "f1", "ap40", "ap50", *IN_SECONDS),
)
"""Figures that may be held to a tolerance, by the key of `Figure`."""


def parse_tolerances(text: str) -> dict[str, float]:
    """`efs=2,ttfd=10s` → {"efs": 2.0, "ttfd": 10.0}; UsageError for anything else."""
    wanted: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in GATES:
            raise UsageError(
                f"--fail-if-worse {part!r}: no such figure; write one of {', '.join(GATES)}, such "
                "as efs=2,ttfd=10s"
            )
        try:
            wanted[key] = parse_seconds(value) if key in IN_SECONDS else float(value)
            if not 0 <= wanted[key] < math.inf:
                raise ValueError
        except ValueError:
            like = "10s" if key in IN_SECONDS else "0.05"
            raise UsageError(
                f"--fail-if-worse {part!r}: how much worse it may be is a number from 0 on, such "
                f"as {key}={like}"
            ) from None
    if not wanted:
        raise UsageError("--fail-if-worse: no figure; write efs=2 or efs=2,ttfd=10s,recall=0.05")
    return wanted


@dataclass(frozen=True, slots=True)
class Worse:
    """A figure of one side that is worse than the first's by more than is allowed.

    `by` is None where it cannot be told: a side has nothing to measure it by, which fails too.
    """

    label: str
    figure: Figure | None
    key: str
    by: float | None
    allowed: float


def worse(
    comparison: Comparison, tolerances: Mapping[str, float], sure: bool = False
) -> list[Worse]:
    """What got worse by more than its tolerance, side by side.

    `sure`: only where the interval of the difference leaves out zero; without an interval nothing
    is sure. A figure that cannot be compared counts as worse, sure or not: a check that cannot be
    made must not pass.
    """
    found = []
    for against in comparison.against:
        figures = {figure.key: figure for figure in against.figures}
        for key, allowed in tolerances.items():
            figure = figures.get(key)
            by = None if figure is None else figure.worse_by
            if figure is None or by is None:
                found.append(Worse(against.label, figure, key, None, allowed))
            elif by > allowed and (figure.surely or not sure):
                found.append(Worse(against.label, figure, key, by, allowed))
    return found
