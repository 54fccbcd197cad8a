"""The numbers behind a report's charts, binned before they are embedded.

A page must open on a telephone whatever the run was: all that grows with the frames is counted into
a fixed number of bins here, and single frames are kept only near fires and alarms, up to a number
that the page tells. What this module returns is JSON's own types; names of cameras and fires in it
are strangers' text.

Times are scenario seconds unless a name says otherwise.
"""

from __future__ import annotations

__all__ = ["Figures", "Lateness", "OnTheWay", "alarm_kind", "figures", "group"]

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.records import UNTOLD, AlarmRecord, FrameTable, RunLog, ShotTable
from earlyfire_stream.scoring import Score
from earlyfire_stream.scoring.detection import ASPECT, HORIZON_S, Rate, View, classify
from earlyfire_stream.scoring.faults import FaultScore
from earlyfire_stream.scoring.footage import Footage, FrameOutcome
from earlyfire_stream.scoring.statistics import Survival, percentile
from earlyfire_stream.verdict import AlarmKind, Fate, Reason

BINS = 120
"""Columns of a chart over time."""
LANES = 500
"""Cameras with a timeline of their own; those with fires or alarms come first."""
LANE_CELLS = 48_000
"""Bins of all cameras' timelines together."""
LANE_FRAMES = 600
"""Single frames that one camera's timeline holds."""
ALL_LANE_FRAMES = 12_000
LANE_ALARMS = 60
BLAMED = 20
"""Cameras in the chart of false alarms."""
PART_ROWS = 24
"""Views whose time is taken apart in a chart of their own, the slowest first."""

GROUPS = "Sncfg"
"""How a timeline colours a frame: smoke seen, none seen, not asked for, failed, never there."""
_GROUP: Mapping[Fate, str] = {
    Fate.UNSENT: "g",
    Fate.LOST: "g",
    Fate.ABANDONED: "g",
    Fate.UNDECODABLE: "f",
    Fate.SAMPLED_OUT: "c",
    Fate.SUPERSEDED: "c",
    Fate.CONTEXT: "c",
    Fate.EXPIRED: "f",
    Fate.OVER_BUDGET: "f",
    Fate.BAD_JSON: "f",
    Fate.ENGINE_ERROR: "f",
    Fate.ANSWERED: "n",
}
_FATES = tuple(Fate)
_PLACES = {fate: GROUPS.index(letter) for fate, letter in _GROUP.items()}
_UNAVAILABLE = tuple(Reason).index(Reason.UNAVAILABLE)
_SENT = tuple(Reason).index(Reason.NONE)


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything the charts draw; `data` is embedded as JSON."""

    data: Mapping[str, Any]
    lanes: int
    """Cameras with a timeline."""
    lanes_hidden: int
    lane_frames_hidden: int
    """Frames that a timeline shows only in bins."""
    lateness: Lateness
    on_the_way: OnTheWay


@dataclass(frozen=True, slots=True)
class OnTheWay:
    """Capture to receipt of the frames that came, wall seconds: lateness, encoding, transport."""

    n: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Lateness:
    """How late the cameras themselves were, wall seconds: what the harness adds to a latency."""

    n: int
    p50: float | None
    p99: float | None
    worst: float | None


def figures(log: RunLog, score: Score, everything: Sequence[Footage]) -> Figures:
    """`everything` is the log's footage, which is dear to make for a long run."""
    begin, end = _span(everything)
    edges = np.linspace(begin, end, BINS + 1)
    columns = _columns(FrameTable.of(log.frames), everything)
    played = [f for f in score.faults if f.state in ("played", "cut short")]
    lanes, hidden, unseen = _lanes(everything, columns, log.alarms, played, begin, end)
    sent_at, late = _late(ShotTable.of(log.shots))
    return Figures(
        data={
            "span": [begin, end],
            "horizon": HORIZON_S,
            "fates": [f.value for f in _FATES],
            "faults": [
                [f.id, f.kind, _plain(f.start_s), _plain(f.end_s), _plain(f.until_s)]
                for f in played
            ],
            "lanes": lanes,
            "fleet": _fleet_bins(columns, edges),
            "parts": _parts(score.fires),
            "survival": _survival(score),
            "latency": _latency(columns, edges),
            "tokens": _tokens(log, columns, edges),
            "hours": _hours(score),
            "blamed": _blamed(score),
            "lateness": _lateness(sent_at, late, edges),
            "pulses": _pulses(log),
        },
        lanes=len(lanes),
        lanes_hidden=hidden,
        lane_frames_hidden=unseen,
        lateness=Lateness(
            n=len(late),
            p50=_plain(percentile(late.tolist(), 50)),
            p99=_plain(percentile(late.tolist(), 99)),
            worst=_plain(float(late.max())) if len(late) else None,
        ),
        on_the_way=_on_the_way(FrameTable.of(log.frames)),
    )


# --- one pass over the frames --------------------------------------------------------------------


Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Columns:
    """What charts need of each frame, in the order of the footage, camera after camera."""

    at: Floats
    group: NDArray[np.int64]
    """Index into GROUPS."""
    latency_s: Floats
    """Answered − capture in wall seconds; NaN without a valid answer."""
    visual: NDArray[np.int64]
    """Visual tokens; 0 where no engine was reached."""
    camera: NDArray[np.int64]
    """Where each camera's frames begin, and where the last one's end."""


def _span(everything: Sequence[Footage]) -> tuple[float, float]:
    filled = [f.frames for f in everything if f.frames]
    if not filled:
        return 0.0, 1.0
    begin = min(frames[0].captured_at for frames in filled)
    end = max(frames[-1].captured_at for frames in filled)
    return begin, end if end > begin else begin + 1.0


def group(fate: Fate, smoke_seen: bool = False) -> str:
    """The letter in GROUPS by which a timeline colours a frame."""
    return "S" if smoke_seen else _GROUP[fate]


def _group(frame: FrameOutcome) -> int:
    if frame.verdict is not None and frame.verdict.has_smoke:
        return 0
    return _PLACES[frame.fate]


def _columns(frames: FrameTable, everything: Sequence[Footage]) -> _Columns:
    outcomes = [frame for one in everything for frame in one.frames]
    if not outcomes:
        none = np.empty(0)
        whole = np.empty(0, np.int64)
        return _Columns(none, whole, none, whole, np.zeros(len(everything) + 1, np.int64))
    records = np.concatenate([one.records for one in everything])
    captured_ns = np.concatenate([one.captured_ns for one in everything])
    latency_s = np.full(len(outcomes), np.nan)
    visual = np.zeros(len(outcomes), np.int64)
    if len(frames) and len(frames.answer_column("visual_tokens")):
        answer = np.where(records >= 0, frames.column("answer")[records], 0).astype(np.int64) - 1
        said = frames.answer_column("answered_ns")[answer] - captured_ns
        valid = (answer >= 0) & np.array([f.verdict is not None for f in outcomes]) & (said >= 0)
        latency_s[valid] = said[valid] / 1e9
        reached = (answer >= 0) & (frames.column("reason")[records] != _UNAVAILABLE)
        visual[reached] = frames.answer_column("visual_tokens")[answer[reached]]
    return _Columns(
        at=np.array([f.captured_at for f in outcomes]),
        group=np.array([_group(f) for f in outcomes], np.int64),
        latency_s=latency_s,
        visual=visual,
        camera=np.cumsum([0, *(len(one.frames) for one in everything)]),
    )


def _fleet_bins(columns: _Columns, edges: Floats) -> dict[str, list[int]]:
    return {
        letter: np.histogram(columns.at[columns.group == index], edges)[0].tolist()
        for index, letter in enumerate(GROUPS)
    }


def _latency(columns: _Columns, edges: Floats) -> dict[str, Any] | None:
    """Its distribution in quarter octaves from 10 ms on, and its middle and worst over time."""
    known = ~np.isnan(columns.latency_s)
    values = columns.latency_s[known]
    if not len(values):
        return None
    bounds = 0.01 * 2 ** (np.arange(0, 65) / 4)
    bounds = np.concatenate(([0.0], bounds, [math.inf]))
    counts = np.histogram(values, bounds)[0]
    first = int(np.argmax(counts > 0))
    last = len(counts) - int(np.argmax(counts[::-1] > 0))
    over_time = []
    place = np.clip(np.digitize(columns.at[known], edges) - 1, 0, BINS - 1)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(BINS + 1))
    for column in range(BINS):
        part = values[order[starts[column] : starts[column + 1]]]
        if len(part):
            over_time.append(
                [
                    _plain((edges[column] + edges[column + 1]) / 2),
                    _plain(float(np.median(part))),
                    _plain(float(part.max())),
                    len(part),
                ]
            )
    return {
        "n": len(values),
        "bins": [
            [_plain(float(bounds[i])), _plain(float(bounds[i + 1])), int(counts[i])]
            for i in range(first, last)
        ],
        "over_time": over_time,
    }


def _tokens(log: RunLog, columns: _Columns, edges: Floats) -> dict[str, Any] | None:
    """Visual tokens a wall second by the capture of their frames, and the budget where told."""
    if not columns.visual.any():
        return None
    spent = np.histogram(columns.at, edges, weights=columns.visual)[0]
    wall_s = float(edges[1] - edges[0]) / log.speed
    settings = log.run.get("settings", {}).get("budget") or {}
    told = settings.get("tokens_per_s")
    learned = [
        [_plain(note["scenario_s"]), _plain(note["tokens_per_s"])]
        for note in log.notes
        if note["what"] == "pulse" and isinstance(note.get("tokens_per_s"), int | float)
    ]
    return {
        "per_s": [_plain(v / wall_s) for v in spent],
        "budget": told if isinstance(told, int | float) else None,
        "learned": learned[:: max(1, len(learned) // BINS)],
    }


_STEPS = (1, 2, 4, 6, 10, 12, 20, 30, 60, 120, 180, 240, 300, 360, 480)
"""Seconds between the ticks of the survival curve; the last one reaches the horizon."""


# --- detection -----------------------------------------------------------------------------------


def _parts(fires: Sequence[View]) -> dict[str, Any] | None:
    found = [v for v in fires if v.parts is not None]
    if not found:
        return None
    rows = sorted(found, key=lambda v: v.ttfd_s or 0.0, reverse=True)
    names = list(found[0].parts.to_json()) if found[0].parts else []
    table = [[v.parts.to_json()[name] for name in names] for v in found if v.parts]
    return {
        "names": names,
        "mean": [_plain(float(m)) for m in np.mean(table, axis=0)],
        "n": len(found),
        "rows": [
            {
                "fire": v.fire,
                "camera": v.camera,
                "ttfd": _plain(v.ttfd_s),
                "parts": [_plain(s) for s in v.parts.to_json().values()],
            }
            for v in rows[:PART_ROWS]
            if v.parts is not None
        ],
    }


def _survival(score: Score) -> dict[str, Any] | None:
    """Steps of the share detected, and how many views were still at risk at each tick."""
    curve = score.survival
    if curve is None:
        return None
    until = [min(HORIZON_S, v.censored_s if v.ttfd_s is None else v.ttfd_s) for v in score.fires]
    furthest = max([*until, *curve.times_s])
    step = next(s for s in _STEPS if 5 * s >= min(HORIZON_S, 1.05 * furthest))
    shown = 5.0 * step
    ticks = [float(step * i) for i in range(6)]
    rows = zip(curve.times_s, curve.undetected, strict=True)
    return {
        "steps": [[_plain(t), _plain(1 - share)] for t, share in rows],
        "band": _band(curve),
        "shown": _plain(shown),
        "median": _plain(curve.median_s),
        "median_interval": curve.median_interval_s and [*map(_plain, curve.median_interval_s)],
        "rmst": _plain(curve.rmst_s),
        "n": len(score.fires),
        "ticks": [_plain(t) for t in ticks],
        "at_risk": [sum(u >= t for u in until) for t in ticks],
        "censored": [_plain(min(HORIZON_S, v.censored_s)) for v in score.fires if v.ttfd_s is None],
    }


def _band(curve: Survival) -> list[list[float | None]]:
    """From each time on the ends of the share detected; without ends where it is not known."""
    rows: list[list[float | None]] = []
    for time, share, ends in zip(curve.times_s, curve.undetected, curve.intervals, strict=False):
        if ends is not None:
            rows.append([_plain(time), _plain(1 - ends[1]), _plain(1 - ends[0])])
        elif share <= 0:
            rows.append([_plain(time), None, None])
    return rows if any(row[1] is not None for row in rows) else []


def _hours(score: Score) -> list[list[Any]]:
    """Hour of day, episodes, camera-hours, and the rate per camera-day with its interval."""
    return [
        [hour, *_rate(Rate(episodes, hours))]
        for hour, (episodes, hours) in sorted(score.false_alarms.by_hour.items())
    ]


def _blamed(score: Score) -> list[list[Any]]:
    """Cameras with an episode, the worst first; as `_hours`."""
    found = score.false_alarms.rates_by_camera.items()
    rows = [(camera, rate) for camera, rate in found if rate.episodes]
    rows.sort(key=lambda row: (-row[1].episodes, -(row[1].per_camera_day or 0.0), row[0]))
    return [[camera, *_rate(rate)] for camera, rate in rows[:BLAMED]]


def _rate(rate: Rate) -> list[Any]:
    ends = rate.interval or (None, None)
    shown = [_plain(value) for value in (rate.per_camera_day, *ends)]
    return [rate.episodes, _plain(rate.camera_hours), *shown]


# --- the harness itself --------------------------------------------------------------------------


def _late(shots: ShotTable) -> tuple[Floats, Floats]:
    """Capture and lateness of the frames that were handed over."""
    if not len(shots):
        return np.empty(0), np.empty(0)
    sent = shots.column("unsent") == _SENT
    return shots.column("captured_at")[sent], shots.column("late_s")[sent]


def _on_the_way(frames: FrameTable) -> OnTheWay:
    if not len(frames):
        return OnTheWay(0, None, None)
    received = frames.column("received_ns")
    came = received != UNTOLD
    took_s = (received[came] - frames.column("captured_ns")[came]) / 1e9
    took_s = took_s[took_s >= 0]
    return OnTheWay(len(took_s), _plain(percentile(took_s, 50)), _plain(percentile(took_s, 95)))


def _lateness(at: Floats, late: Floats, edges: Floats) -> list[list[Any]]:
    """The worst lateness of the cameras in each column of time, wall seconds; none without any."""
    if not late.any():
        return []
    place = np.clip(np.digitize(at, edges) - 1, 0, BINS - 1)
    worst = np.full(BINS, -1.0)
    np.maximum.at(worst, place, late)
    return [
        [_plain((edges[i] + edges[i + 1]) / 2), _plain(float(worst[i]))]
        for i in range(BINS)
        if worst[i] >= 0
    ]


def _pulses(log: RunLog) -> list[list[Any]]:
    """Scenario second, resident megabytes, and the cores in use since the pulse before."""
    pulses = [n for n in log.notes if n["what"] == "pulse" and "scenario_s" in n and "cpu_s" in n]
    rows = []
    for before, note in zip([None, *pulses], pulses, strict=False):
        rss = note.get("rss_bytes")
        cores = None
        if before is not None and note["wall_ns"] > before["wall_ns"]:
            wall_s = (note["wall_ns"] - before["wall_ns"]) / 1e9
            cores = max(0.0, note["cpu_s"] - before["cpu_s"]) / wall_s
        megabytes = None if rss is None else _plain(rss / 1e6)
        rows.append([_plain(note["scenario_s"]), megabytes, _plain(cores)])
    return rows[:: max(1, len(rows) // (2 * BINS))]


# --- a timeline a camera -------------------------------------------------------------------------


def _lanes(
    everything: Sequence[Footage],
    columns: _Columns,
    alarms: Sequence[AlarmRecord],
    faults: Sequence[FaultScore],
    begin: float,
    end: float,
) -> tuple[list[dict[str, Any]], int, int]:
    """Timelines, how many cameras have none, and how many frames stand in bins alone."""
    raised: dict[str, list[AlarmRecord]] = {}
    for record in alarms:
        if record.emitted:
            raised.setdefault(record.alarm.camera, []).append(record)

    def interest(place: int) -> tuple[bool, bool]:
        plan = everything[place].plan
        return (not plan.fires, plan.id not in raised)

    ordered = sorted(range(len(everything)), key=interest)  # stable: the scenario's order
    shown = ordered[:LANES]
    bins = min(BINS, max(24, LANE_CELLS // max(1, len(shown))))
    room = ALL_LANE_FRAMES
    lanes = []
    edges = np.linspace(begin, end, bins + 1)
    for place in shown:
        one = everything[place]
        mine = slice(columns.camera[place], columns.camera[place + 1])
        at, group = columns.at[mine], columns.group[mine]
        lane, used = _lane(one, at, group, raised.get(one.plan.id, ()), edges, room)
        lane["faults"] = [n for n, fault in enumerate(faults) if fault.meets(one.plan.id)]
        lane["frames"]["l"] = [_seconds(s) for s in columns.latency_s[mine][used]]
        room -= used.stop - used.start
        lanes.append(lane)
    total = sum(len(one.frames) for one in everything)
    return lanes, len(ordered) - len(shown), total - (ALL_LANE_FRAMES - room)


def _lane(
    one: Footage,
    at: Floats,
    group: NDArray[np.int64],
    alarms: Sequence[AlarmRecord],
    edges: Floats,
    room: int,
) -> tuple[dict[str, Any], slice]:
    plan = one.plan
    cells = {
        letter: np.histogram(at[group == place], edges)[0].tolist()
        for place, letter in enumerate(GROUPS)
    }
    by_seq = {r.alarm.seqs[-1]: r for r in alarms}
    completing = {f.seq: f for f in one.frames if f.seq in by_seq} if by_seq else {}
    marks = [
        [_plain(r.alarm.completed_at), alarm_kind(one, r, completing.get(seq)), seq]
        for seq, r in list(by_seq.items())[:LANE_ALARMS]
    ]
    kept = _kept(one, by_seq, min(LANE_FRAMES, room))
    return {
        "id": plan.id,
        "truth": plan.truth,
        "fires": [[f.id, _plain(f.onset), _plain(f.end)] for f in plan.fires],
        # a recording may be shorter than the run: nobody knows what burns after its last frame
        "until": _plain(float(at[-1]) + (plan.cadence_s or 0.0)) if len(at) else None,
        "outages": [[_plain(a), _plain(b)] for a, b in plan.outages],
        "alarms": marks,
        "alarms_hidden": len(by_seq) - len(marks),
        "bins": {letter: counts for letter, counts in cells.items() if any(counts)},
        "frames": _single(one.frames[kept], group[kept]),
    }, kept


def _kept(one: Footage, alarmed: Mapping[int, AlarmRecord], most: int) -> slice:
    """All frames, or those around the first fire, else around the first alarm."""
    if len(one.frames) <= most:
        return slice(0, len(one.frames))
    if one.plan.fires:
        at = min(f.onset for f in one.plan.fires)
    elif alarmed:
        at = min(r.alarm.completed_at for r in alarmed.values())
    else:
        return slice(0, 0)
    middle = bisect_left(one.frames, at, key=lambda f: f.captured_at)
    first = max(0, min(middle - most // 4, len(one.frames) - most))
    return slice(first, first + most)


def _single(frames: Sequence[FrameOutcome], group: NDArray[np.int64]) -> dict[str, Any]:
    def confidence(frame: FrameOutcome) -> float | None:
        given = None if frame.verdict is None else frame.verdict.confidence
        return None if given is None else round(given, 2)

    return {
        "t": [round(f.captured_at, 2) for f in frames],
        "g": "".join(GROUPS[place] for place in group),
        "fate": [_FATES.index(f.fate) for f in frames],
        "why": [_reason(f) for f in frames],
        "seq": [f.seq for f in frames],
        "c": [confidence(f) for f in frames],
    }


def _reason(frame: FrameOutcome) -> str:
    if frame.unsent is not Reason.NONE:
        return frame.unsent.value
    return frame.record.reason.value if frame.record is not None else ""


def _seconds(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 3)


def alarm_kind(one: Footage, record: AlarmRecord, frame: FrameOutcome | None) -> str:
    """As the score classifies it; `late` where only a fire of long ago burns."""
    at = record.alarm.completed_at
    aspect = ASPECT
    if frame is not None and frame.record is not None and frame.record.answer is not None:
        width, height = frame.record.answer.sent_size
        aspect = width / height if min(width, height) > 0 else ASPECT
    truth = () if frame is None else frame.truth
    kind = classify(one.plan, at, truth, record.alarm.box, aspect)
    if kind is AlarmKind.FALSE and (
        (frame is not None and frame.smoke) or any(a <= at < b for a, b in one.plan.outages)
    ):
        kind = AlarmKind.UNKNOWN
    return "late" if kind is None else kind.value


def _plain(value: float | None) -> float | None:
    """Seven significant digits are more than a chart can show; None for what is no number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.7g}")
