"""The numbers behind a report's charts, binned before they are embedded.

A page must open on a telephone whatever the run was: all that grows with the frames is counted into
a fixed number of bins here, and single frames are kept only near fires and alarms, up to a number
that the page tells. What this module returns is JSON's own types; names of cameras and fires in it
are strangers' text.

Times are scenario seconds unless a name says otherwise.
"""

from __future__ import annotations

__all__ = ["Figures", "Lateness", "alarm_kind", "figures"]

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from earlyfire_stream.records import AlarmRecord, RunLog
from earlyfire_stream.scoring import Score
from earlyfire_stream.scoring.detection import ASPECT, HORIZON_S, View, classify
from earlyfire_stream.scoring.footage import Footage, FrameOutcome, footage
from earlyfire_stream.scoring.statistics import percentile, poisson_interval
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
PART_ROWS = 60
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


@dataclass(frozen=True, slots=True)
class Lateness:
    """How late the cameras themselves were, wall seconds: what the harness adds to a latency."""

    n: int
    p50: float | None
    p99: float | None
    worst: float | None


def figures(log: RunLog, score: Score) -> Figures:
    everything = footage(log)
    begin, end = _span(everything)
    edges = np.linspace(begin, end, BINS + 1)
    columns = _columns(everything)
    lanes, hidden, unseen = _lanes(everything, log.alarms, begin, end)
    late = np.array([s.late_s for s in log.shots if s.unsent is Reason.NONE])
    return Figures(
        data={
            "span": [begin, end],
            "horizon": HORIZON_S,
            "fates": [f.value for f in _FATES],
            "lanes": lanes,
            "fleet": _fleet_bins(columns, edges),
            "parts": _parts(score.fires),
            "survival": _survival(score),
            "latency": _latency(columns, edges),
            "tokens": _tokens(log, columns, edges),
            "hours": _hours(score),
            "blamed": _blamed(score),
            "lateness": _lateness(log, edges),
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
    )


# --- one pass over the frames --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Columns:
    """What charts need of each frame, as arrays of equal length."""

    at: np.ndarray
    group: np.ndarray
    """Index into GROUPS."""
    latency_s: np.ndarray
    """Answered − capture in wall seconds; NaN without a valid answer."""
    visual: np.ndarray


def _span(everything: Sequence[Footage]) -> tuple[float, float]:
    filled = [f.frames for f in everything if f.frames]
    if not filled:
        return 0.0, 1.0
    begin = min(frames[0].shot.captured_at for frames in filled)
    end = max(frames[-1].shot.captured_at for frames in filled)
    return begin, end if end > begin else begin + 1.0


def _letter(frame: FrameOutcome) -> str:
    if frame.verdict is not None and frame.verdict.has_smoke:
        return "S"
    return _GROUP[frame.fate]


def _latency_s(frame: FrameOutcome) -> float:
    record = frame.record
    if frame.verdict is None or record is None or record.answer is None:
        return math.nan
    spent_s = (record.answer.answered_ns - record.captured_ns) / 1e9
    return spent_s if spent_s >= 0 else math.nan


def _columns(everything: Sequence[Footage]) -> _Columns:
    at: list[float] = []
    group: list[int] = []
    latency_s: list[float] = []
    visual: list[int] = []
    for one in everything:
        for frame in one.frames:
            at.append(frame.shot.captured_at)
            group.append(GROUPS.index(_letter(frame)))
            latency_s.append(_latency_s(frame))
            record = frame.record
            asked = (
                record is not None
                and record.answer is not None
                and record.reason is not Reason.UNAVAILABLE
            )
            visual.append(record.answer.visual_tokens if asked else 0)  # type: ignore[union-attr]
    return _Columns(np.array(at), np.array(group, int), np.array(latency_s), np.array(visual))


def _fleet_bins(columns: _Columns, edges: np.ndarray) -> dict[str, list[int]]:
    return {
        letter: np.histogram(columns.at[columns.group == index], edges)[0].tolist()
        for index, letter in enumerate(GROUPS)
    }


def _latency(columns: _Columns, edges: np.ndarray) -> dict[str, Any] | None:
    """Its distribution in half octaves from 10 ms on, and its middle and ends over time."""
    known = ~np.isnan(columns.latency_s)
    values = columns.latency_s[known]
    if not len(values):
        return None
    bounds = 0.01 * 2 ** (np.arange(0, 33) / 2)
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


def _tokens(log: RunLog, columns: _Columns, edges: np.ndarray) -> dict[str, Any] | None:
    """Visual tokens a wall second by the capture of their frames, and the budget where told."""
    if not columns.visual.any():
        return None
    spent = np.histogram(columns.at, edges, weights=columns.visual)[0]
    wall_s = float(edges[1] - edges[0]) / log.speed
    settings = log.run.get("settings", {}).get("budget", {})
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
    shown = min(HORIZON_S, max(10.0, 1.15 * max([*until, *curve.times_s])))
    ticks = [shown * i / 5 for i in range(6)]
    rows = zip(curve.times_s, curve.undetected, strict=True)
    return {
        "steps": [[_plain(t), _plain(1 - share)] for t, share in rows],
        "shown": _plain(shown),
        "median": _plain(curve.median_s),
        "rmst": _plain(curve.rmst_s),
        "n": len(score.fires),
        "ticks": [_plain(t) for t in ticks],
        "at_risk": [sum(u >= t for u in until) for t in ticks],
        "censored": [_plain(min(HORIZON_S, v.censored_s)) for v in score.fires if v.ttfd_s is None],
    }


def _hours(score: Score) -> list[list[Any]]:
    """Hour of day, episodes, camera-hours, and the rate per camera-day with its interval."""
    rows = []
    for hour, (episodes, hours) in sorted(score.false_alarms.by_hour.items()):
        low, high = poisson_interval(episodes)
        day = 24 / hours if hours > 0 else None
        rate = [None if day is None else _plain(v * day) for v in (episodes, low, high)]
        rows.append([hour, episodes, _plain(hours), *rate])
    return rows


def _blamed(score: Score) -> list[list[Any]]:
    found = sorted(score.false_alarms.by_camera.items(), key=lambda pair: (-pair[1], pair[0]))
    return [[camera, episodes] for camera, episodes in found[:20]]


# --- the harness itself --------------------------------------------------------------------------


def _lateness(log: RunLog, edges: np.ndarray) -> list[list[Any]]:
    """The worst lateness of the cameras in each column of time, wall seconds."""
    sent = [s for s in log.shots if s.unsent is Reason.NONE]
    if not sent:
        return []
    at = np.array([s.captured_at for s in sent])
    late = np.array([s.late_s for s in sent])
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
    everything: Sequence[Footage], alarms: Sequence[AlarmRecord], begin: float, end: float
) -> tuple[list[dict[str, Any]], int, int]:
    """Timelines, how many cameras have none, and how many frames stand in bins alone."""
    raised: dict[str, list[AlarmRecord]] = {}
    for record in alarms:
        if record.emitted:
            raised.setdefault(record.alarm.camera, []).append(record)

    def interest(one: Footage) -> tuple[bool, bool]:
        return (not one.plan.fires, one.plan.id not in raised)

    ordered = sorted(everything, key=interest)  # stable: else in the scenario's order
    shown = ordered[:LANES]
    bins = min(BINS, max(24, LANE_CELLS // max(1, len(shown))))
    room = ALL_LANE_FRAMES
    lanes = []
    for one in shown:
        lane, used = _lane(one, raised.get(one.plan.id, ()), begin, end, bins, room)
        room -= used
        lanes.append(lane)
    total = sum(len(one.frames) for one in everything)
    return lanes, len(ordered) - len(shown), total - (ALL_LANE_FRAMES - room)


def _lane(
    one: Footage,
    alarms: Sequence[AlarmRecord],
    begin: float,
    end: float,
    bins: int,
    room: int,
) -> tuple[dict[str, Any], int]:
    plan = one.plan
    letters = [_letter(f) for f in one.frames]
    width = (end - begin) / bins
    cells: dict[str, list[int]] = {letter: [0] * bins for letter in GROUPS}
    for frame, letter in zip(one.frames, letters, strict=True):
        cells[letter][min(bins - 1, int((frame.shot.captured_at - begin) / width))] += 1
    by_seq = {r.alarm.seqs[-1]: r for r in alarms}
    completing = {f.shot.seq: f for f in one.frames if f.shot.seq in by_seq}
    marks = [
        [_plain(r.alarm.completed_at), alarm_kind(one, r, completing.get(seq)), seq]
        for seq, r in list(by_seq.items())[:LANE_ALARMS]
    ]
    kept = _kept(one, by_seq, min(LANE_FRAMES, room))
    return {
        "id": plan.id,
        "truth": plan.truth,
        "fires": [[f.id, _plain(f.onset), _plain(f.end)] for f in plan.fires],
        "outages": [[_plain(a), _plain(b)] for a, b in plan.outages],
        "alarms": marks,
        "alarms_hidden": len(by_seq) - len(marks),
        "count": dict(Counter(letters)),
        "bins": {letter: counts for letter, counts in cells.items() if any(counts)},
        "frames": _single(one.frames[kept], letters[kept]),
    }, kept.stop - kept.start


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
    middle = bisect_left(one.frames, at, key=lambda f: f.shot.captured_at)
    first = max(0, min(middle - most // 4, len(one.frames) - most))
    return slice(first, first + most)


def _single(frames: Sequence[FrameOutcome], letters: Sequence[str]) -> dict[str, Any]:
    def confidence(frame: FrameOutcome) -> float | None:
        given = None if frame.verdict is None else frame.verdict.confidence
        return None if given is None else round(given, 2)

    def latency(frame: FrameOutcome) -> float | None:
        spent_s = _latency_s(frame)
        return None if math.isnan(spent_s) else round(spent_s, 2)

    return {
        "t": [round(f.shot.captured_at, 2) for f in frames],
        "g": "".join(letters),
        "fate": [_FATES.index(f.fate) for f in frames],
        "why": [_reason(f) for f in frames],
        "seq": [f.shot.seq for f in frames],
        "l": [latency(f) for f in frames],
        "c": [confidence(f) for f in frames],
    }


def _reason(frame: FrameOutcome) -> str:
    if frame.shot.unsent is not Reason.NONE:
        return frame.shot.unsent.value
    return frame.record.reason.value if frame.record is not None else ""


def alarm_kind(one: Footage, record: AlarmRecord, frame: FrameOutcome | None) -> str:
    """As the score classifies it; `late` where only a fire of long ago burns."""
    at = record.alarm.completed_at
    aspect = ASPECT
    if frame is not None and frame.record is not None and frame.record.answer is not None:
        width, height = frame.record.answer.sent_size
        aspect = width / height if min(width, height) > 0 else ASPECT
    truth = () if frame is None else frame.shot.truth
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
