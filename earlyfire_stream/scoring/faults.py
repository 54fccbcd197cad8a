"""What each scripted fault did: the frames it harmed, how long recovery took, what it cost a fire.

    harmed     a frame that its camera did not send, or that was lost (scripted outages of camera
               and network aside), undecodable, unreadable (bad_json), refused by the engine,
               expired or killed with the run; or answered, or received, later than normal
    normal     up to the 95th percentile over all frames outside every fault and its recovery: of
               capture to answer, and of capture to receipt with 0.1 s more; from 20 of them on,
               else none counts as late
    recovery   wall seconds from the fault's end until the first sound frame captured since then
               is there: answered and unharmed where the engine or its worker was at fault,
               received and unharmed elsewhere; 0 for a camera of which no frame was harmed
    affected   the frames captured from the fault's begin until then, and those captured before it
               that were answered within it

By this measure one answer in twenty is late on a good day. A fault is therefore blamed for late
frames only where chance alone would bring so many in fewer than one case of a hundred. Latency is
taken from the schedule, not from what a camera with a wrong clock says. A fault without an end
of its own (a restart) may show only with the next frames: harm within 5 s of it is its own.

Worked example: a camera each second, a partition from 100 s to 110 s, frames 100 to 110 lost, frame
111 received after 0.2 s → 11 of 11 frames harmed, recovery 1.2 s.
"""

from __future__ import annotations

__all__ = ["FaultScore", "Harm", "Met", "Recovery", "Share", "Spread", "Ttfd", "faults"]

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

from earlyfire_stream.records import UNTOLD, FaultPlan, FrameTable, RunLog
from earlyfire_stream.scoring.detection import View
from earlyfire_stream.scoring.footage import Footage
from earlyfire_stream.scoring.statistics import median, percentile, wilson_interval
from earlyfire_stream.verdict import Fate, Reason

NORMAL_ANSWERS = 20
"""Answers outside all faults from which on it is known what is normal."""
NORMAL_PERCENTILE = 95
BY_CHANCE = 0.01
"""Below which chance is no excuse (one-sided, binomial): 2 late of 3 answers are blamed on the
fault (0.7 %), 1 of 3 is not (14 %)."""
JITTER_S = 0.1
"""What a receipt may be later than normal: less blinds nobody, and a busy host brings it about."""
ROUNDING_S = 0.001
"""Engines that always take equally long differ by less."""
SHOWS_S = 5.0
"""Wall seconds within which what happens in a moment shows in a frame."""
TURNS = 2
"""What is normal and when a camera has recovered depend on each other: they are found in turns,
after a first look by what was normal before the first fault."""

_FATES = tuple(Fate)
_REASONS = tuple(Reason)
_WORTHLESS = (
    Fate.LOST,
    Fate.UNDECODABLE,
    Fate.BAD_JSON,
    Fate.ENGINE_ERROR,
    Fate.EXPIRED,
)
_CROWDED_OUT = (Fate.SUPERSEDED, Fate.OVER_BUDGET)
"""Dropped, though not harmed: what was seen instead is newer, or the tokens went elsewhere."""

Bools: TypeAlias = NDArray[np.bool_]
Whole: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]
State: TypeAlias = Literal["played", "cut short", "not reached", "failed"]


@dataclass(frozen=True, slots=True)
class Harm:
    """The affected frames. `scheduled` = Σ `by_fate`."""

    scheduled: int
    harmed: int
    late: int
    """Of the harmed: answered or received later than normal, and nothing else."""
    by_fate: dict[str, int]

    @property
    def interval(self) -> Interval | None:
        """Wilson's, of harmed over scheduled."""
        return wilson_interval(self.harmed, self.scheduled)


@dataclass(frozen=True, slots=True)
class Recovery:
    """Over the cameras that the fault met; a camera that never recovered is later than any."""

    n: int
    """Cameras with a frame since its begin."""
    harmed: int
    """Of which a frame was harmed."""
    not_recovered: int
    """Of these: without a sound frame before the run ended."""
    median_s: float | None
    """None where half of them or more never recovered, or without any."""
    max_s: float | None
    """Of the slowest; None where any never recovered."""
    resolution_s: float | None
    """Wall seconds between two frames (answers, where the engine is at fault) of a camera, the
    median: nothing shorter can be told."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Capture to answer of valid answers, wall seconds; None under the floors of `statistics`."""

    n: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """Frames that came to nothing: harmed but for late ones, superseded, or over budget."""

    dropped: int
    scheduled: int

    @property
    def share(self) -> float | None:
        return self.dropped / self.scheduled if self.scheduled else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's."""
        return wilson_interval(self.dropped, self.scheduled)

    def to_json(self) -> dict[str, object]:
        return {
            "dropped": self.dropped,
            "scheduled": self.scheduled,
            "share": self.share,
            "interval": None if self.interval is None else list(self.interval),
        }


@dataclass(frozen=True, slots=True)
class Met:
    """A view whose time from onset to alarm (undetected: as long as it was watched) met a fault."""

    fire: str
    camera: str
    ttfd_s: float | None
    """None if it was missed."""
    frames: int
    """Scheduled from the onset to the alarm."""
    harmed: int
    """Of them, by this fault."""


@dataclass(frozen=True, slots=True)
class Ttfd:
    n: int
    missed: int
    median_s: float | None
    """Over the detected ones."""


@dataclass(frozen=True, slots=True)
class FaultScore:
    """One fault. Instants in scenario seconds."""

    id: str
    kind: str
    cameras: tuple[str, ...]
    """Those it was to meet; empty: all."""
    state: State
    detail: str
    """In the words of whoever played it."""
    noted: bool
    """Begin and end are what the run noted; else what the scenario planned."""
    start_s: float
    end_s: float
    until_s: float
    """Since when the slowest camera is well again; the end of the run where one never was."""
    overlaps: tuple[str, ...]
    """Other faults of the same cameras before it had recovered; what each did cannot be told
    apart."""
    frames: Harm
    recovery: Recovery
    late_after_s: float | None
    """Capture to answer: what is later is late; None: too few answers outside all faults."""
    received_late_after_s: float | None
    """Capture to receipt: the same."""
    latency: Spread
    latency_outside: Spread
    drops: Share
    drops_outside: Share
    """Of all cameras outside every fault and recovery."""
    fires: tuple[Met, ...]
    ttfd: Ttfd
    """Of `fires`."""
    ttfd_outside: Ttfd
    """Of the views that met no fault."""
    exact: bool | None
    """Each affected frame has one fate; None where the cameras' log is missing."""

    def meets(self, camera: str) -> bool:
        return not self.cameras or camera in self.cameras

    def to_json(self) -> dict[str, Any]:
        found = self.recovery
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "detail": self.detail,
            "noted": self.noted,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "until_s": self.until_s,
            "cameras": list(self.cameras),
            "overlaps": list(self.overlaps),
            "frames": {
                "scheduled": self.frames.scheduled,
                "harmed": self.frames.harmed,
                "interval": _listed(self.frames.interval),
                "late": self.frames.late,
                "by_fate": dict(self.frames.by_fate),
                "exact": self.exact,
            },
            "recovery_s": {
                "median": found.median_s,
                "max": found.max_s,
                "n": found.n,
                "harmed": found.harmed,
                "not_recovered": found.not_recovered,
                "resolution": found.resolution_s,
            },
            "latency_s": {
                "late_after": self.late_after_s,
                "received_late_after": self.received_late_after_s,
                "inside": _spread_json(self.latency),
                "outside": _spread_json(self.latency_outside),
            },
            "drops": {"inside": self.drops.to_json(), "outside": self.drops_outside.to_json()},
            "fires": [
                {
                    "fire": met.fire,
                    "camera": met.camera,
                    "ttfd_s": met.ttfd_s,
                    "frames": met.frames,
                    "harmed": met.harmed,
                }
                for met in self.fires
            ],
            "ttfd_s": {"inside": _ttfd_json(self.ttfd), "outside": _ttfd_json(self.ttfd_outside)},
        }


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _spread_json(one: Spread) -> dict[str, object]:
    return {"n": one.n, "p50": one.p50, "p95": one.p95}


def _ttfd_json(one: Ttfd) -> dict[str, object]:
    return {"n": one.n, "missed": one.missed, "median": one.median_s}


# --- scoring -------------------------------------------------------------------------------------


def faults(
    log: RunLog,
    frames: FrameTable,
    everything: Sequence[Footage],
    views: Sequence[View],
    unbalanced: Bools | None,
) -> tuple[FaultScore, ...]:
    """Every fault of the scenario, in order of its start; also one that was never reached.

    `everything` is the footage of all cameras, `frames` the consumer's log that it points into,
    `views` the views of the score, `unbalanced` what `ledger.unbalanced` says.
    """
    if not log.faults:
        return ()
    fleet = _Fleet(frames, everything, log.speed)
    windows = [_window(log, plan, fleet) for plan in log.faults]
    before = fleet.at < min(window.begin for window in windows)
    late = _Late(fleet, before)
    reaches = [_reach(fleet, window, late) for window in windows]
    for _ in range(TURNS):
        late = _Late(fleet, _outside(fleet, reaches))
        reaches = [_reach(fleet, window, late) for window in windows]
    outside = _outside(fleet, reaches)
    latency_outside = _spread(fleet, outside)
    drops_outside = Share(int(fleet.dropped[outside].sum()), int(outside.sum()))
    met = [_fires(fleet, reach, views) for reach in reaches]
    touched = {(m.fire, m.camera) for of_one in met for m in of_one}
    ttfd_outside = _ttfd([v.ttfd_s for v in views if (v.fire, v.camera) not in touched])

    found = []
    for reach, fires in zip(reaches, met, strict=True):
        window, inside = reach.window, reach.inside
        plan = window.plan
        found.append(
            FaultScore(
                id=plan.id,
                kind=plan.kind,
                cameras=plan.cameras,
                state=window.state,
                detail=window.detail,
                noted=window.noted,
                start_s=window.begin,
                end_s=window.end,
                until_s=reach.until,
                overlaps=tuple(
                    other.window.plan.id
                    for other in reaches
                    if other is not reach and _overlap(reach, other)
                ),
                frames=_harm(fleet, reach),
                recovery=_recovery(fleet, reach),
                late_after_s=late.answer_limit_s,
                received_late_after_s=late.receipt_limit_s,
                latency=_spread(fleet, inside),
                latency_outside=latency_outside,
                drops=Share(int(fleet.dropped[inside].sum()), len(inside)),
                drops_outside=drops_outside,
                fires=fires,
                ttfd=_ttfd([m.ttfd_s for m in fires]),
                ttfd_outside=ttfd_outside,
                exact=None
                if unbalanced is None
                else not bool(unbalanced[fleet.number[inside]].any()),
            )
        )
    return tuple(found)


class _Fleet:
    """All frames of all cameras, one camera behind the other, each by capture."""

    def __init__(self, frames: FrameTable, everything: Sequence[Footage], speed: float) -> None:
        self.cameras = tuple(one.plan.id for one in everything)
        self.speed = speed
        self.bounds = np.cumsum([0, *(len(one.captured_at) for one in everything)])
        self.count = int(self.bounds[-1])
        self.at: Floats = _joined([one.captured_at for one in everything], float)
        self.number: Whole = _joined([one.number for one in everything], np.int64)
        captured_ns: Whole = _joined([one.captured_ns for one in everything], np.int64)
        self.fate: Whole = _joined([one.fate for one in everything], np.int64)
        came: Bools = _joined([one.came for one in everything], np.bool_)
        records: Whole = _joined([one.records for one in everything], np.int64)
        off: Bools = _joined([_off(one) for one in everything], np.bool_)

        reason = _told(frames.column("reason"), records, _REASONS.index(Reason.NONE))
        received_ns = _told(frames.column("received_ns"), records, UNTOLD)
        answer = _told(frames.column("answer"), records, 0) - 1
        self.answered_ns = _told(frames.answer_column("answered_ns"), answer, UNTOLD)
        """UNTOLD without an answer."""
        self.told = np.flatnonzero(self.answered_ns != UNTOLD)
        answered = self.met(Fate.ANSWERED) & (
            _told(frames.answer_column("verdict"), answer, -1) > -1
        )
        took_s = (self.answered_ns - captured_ns) / 1e9
        self.valid: Bools = answered & (took_s >= 0)
        self.latency_s: Floats = np.where(self.valid, took_s, np.nan)
        self.answered = answered
        killed = self.met(Fate.ABANDONED) & (
            (records < 0) | (reason == _REASONS.index(Reason.KILLED))
        )
        self.ruined: Bools = (self.met(*_WORTHLESS, Fate.UNSENT) & ~off) | killed
        """Harmed whatever the latency."""
        self.dropped: Bools = self.ruined | self.met(*_CROWDED_OUT)
        self.came = came
        received_s = (received_ns - captured_ns) / 1e9
        known = came & (received_ns != UNTOLD) & ~self.ruined & (received_s >= 0)
        self.received_s: Floats = np.where(known, received_s, np.nan)
        """Of frames that came to no other harm; NaN where nothing is known of it."""
        self.there_ns = np.where(received_ns == UNTOLD, captured_ns, received_ns)
        """When each was there, as far as it came."""
        # one clock for all: a camera whose own is wrong must not move a fault's end
        begins = self.bounds[:-1][np.diff(self.bounds) > 0]
        starts = np.sort(
            captured_ns[begins] - np.rint(self.at[begins] / speed * 1e9).astype(np.int64)
        )
        self._start_ns = int(starts[len(starts) // 2]) if len(starts) else 0

    def met(self, *fates: Fate) -> Bools:
        found: Bools = np.isin(self.fate, [_FATES.index(fate) for fate in fates])
        return found

    def wall_ns(self, at: float) -> int:
        return self._start_ns + round(at / self.speed * 1e9)

    def scenario_s(self, wall_ns: int) -> float:
        return (wall_ns - self._start_ns) / 1e9 * self.speed

    @property
    def last_at(self) -> float:
        return float(self.at.max()) if self.count else 0.0

    def first_since(self, camera: int, at: float) -> int:
        """The place of a camera's first frame captured at that second or later; its end if none."""
        low, high = int(self.bounds[camera]), int(self.bounds[camera + 1])
        return low + int(np.searchsorted(self.at[low:high], at))


def _joined(parts: Sequence[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate(parts).astype(kind) if parts else np.empty(0, kind)


def _told(column: NDArray[Any], places: Whole, without: int) -> Whole:
    if not len(column):
        return np.full(len(places), without, np.int64)
    return np.where(places >= 0, column[places], without).astype(np.int64)


def _off(one: Footage) -> Bools:
    """Frames that did not come since the scenario has the camera or its network off."""
    unsent: Bools = one.unsent == _REASONS.index(Reason.OUTAGE)
    lost: Bools = one.fate == _FATES.index(Fate.LOST)
    return unsent & _in(one, one.plan.outages) | lost & _in(one, one.plan.network_outages)


def _in(one: Footage, windows: Iterable[Interval]) -> Bools:
    found = np.zeros(len(one.captured_at), np.bool_)
    for start, end in windows:
        found |= (one.captured_at >= start) & (one.captured_at < end)
    return found


# --- when it was ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Window:
    plan: FaultPlan
    begin: float
    end: float
    """Excluded; scenario seconds."""
    state: State
    noted: bool
    detail: str = ""

    @property
    def momentary(self) -> bool:
        return self.plan.start == self.plan.end

    @property
    def of_engine(self) -> bool:
        """Does only an answer show that it is over?"""
        return self.plan.kind.startswith("engine-") or self.plan.kind == "host-worker-killed"


def _window(log: RunLog, plan: FaultPlan, fleet: _Fleet) -> _Window:
    """As it was noted, else as it was planned; both halves of a run may note the same fault."""
    told = [n for n in log.notes if n["what"] == "fault" and n.get("id") == plan.id]
    begun = [_instant(n, fleet) for n in told if n.get("state") == "begun"]
    over = [_instant(n, fleet) for n in told if n.get("state") == "over"]
    failed = [str(n.get("detail") or "") for n in told if n.get("state") == "failed"]
    detail = "; ".join(dict.fromkeys(str(n["detail"]) for n in told if n.get("detail")))[:300]
    ends = log.duration_s if log.duration_s is not None else fleet.last_at
    begin = min(begun, default=plan.start)
    if failed:
        return _Window(plan, begin, begin, "failed", bool(begun), detail)
    if not begun and plan.start > ends:
        return _Window(plan, begin, begin, "not reached", False, detail)
    planned = begin if plan.start == plan.end else plan.end
    end = max(begin, max(over, default=planned))
    if not over and end > ends:
        return _Window(plan, begin, max(begin, ends), "cut short", bool(begun), detail)
    return _Window(plan, begin, end, "played", bool(begun), detail)


def _instant(note: Any, fleet: _Fleet) -> float:
    at = note.get("scenario_s")
    return float(at) if isinstance(at, int | float) else fleet.scenario_s(note["wall_ns"])


# --- how far it reached --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Reach:
    """A fault's frames, camera by camera: those at `begins` up to `cuts` (places in the fleet)."""

    window: _Window
    cameras: Whole
    """The places of the cameras it meets."""
    begins: Whole
    cuts: Whole
    """The first sound frame since its end; where none was harmed, the first frame since then."""
    harmed: Bools
    """By camera: was any frame?"""
    recovery_s: Floats
    """By camera: 0 if no frame was harmed, infinite if none was sound any more, NaN for a camera
    without a frame since the begin."""
    until: float
    judged: _Judged
    """What counted as harm here."""
    inside: Whole
    """The places of all affected frames."""


class _Judged:
    """Which frames were harmed and which sound, once it is said which were late."""

    def __init__(self, fleet: _Fleet, late: Bools) -> None:
        self.late = late
        self.harmed: Bools = fleet.ruined | late
        self.harm_before = np.concatenate(([0], np.cumsum(self.harmed)))
        """Harmed frames before each place."""
        self.next_harm = _next(self.harmed)
        self.next_received = _next(fleet.came & ~self.harmed)
        self.next_answered = _next(fleet.answered & ~self.harmed)


class _Late:
    """Which frames were late, by what was normal in calm times."""

    def __init__(self, fleet: _Fleet, calm: Bools) -> None:
        self.answer_limit_s = _normal(fleet.latency_s[calm], ROUNDING_S)
        self.receipt_limit_s = _normal(fleet.received_s[calm], JITTER_S)
        self.answers = _later(fleet.latency_s, self.answer_limit_s)
        self.receipts = _later(fleet.received_s, self.receipt_limit_s)
        self._judged: dict[tuple[bool, bool], _Judged] = {}

    def judged(self, fleet: _Fleet, answers: bool, receipts: bool) -> _Judged:
        """With late answers, late receipts, both or neither held against a fault."""
        key = (answers, receipts)
        if key not in self._judged:
            self._judged[key] = _Judged(fleet, self.answers & answers | self.receipts & receipts)
        return self._judged[key]


def _normal(values: Floats, more_s: float) -> float | None:
    known = values[~np.isnan(values)]
    if len(known) < NORMAL_ANSWERS:
        return None
    return float(np.percentile(known, NORMAL_PERCENTILE)) + more_s


def _later(values: Floats, limit_s: float | None) -> Bools:
    # NaN is later than nothing
    return np.zeros(len(values), np.bool_) if limit_s is None else values > limit_s


def _reach(fleet: _Fleet, window: _Window, late: _Late) -> _Reach:
    met = np.array(
        [place for place, name in enumerate(fleet.cameras) if window.plan.meets(name)], np.int64
    )
    if window.state in ("failed", "not reached"):
        met = met[:0]
    shown_by = window.end + SHOWS_S * fleet.speed
    under_way = _under_way(fleet, met, window)
    spans = [
        np.arange(fleet.first_since(camera, window.begin), fleet.first_since(camera, shown_by))
        for camera in met.tolist()
    ]
    near = np.concatenate([*spans, under_way]).astype(np.int64)
    judged = late.judged(
        fleet,
        _is_blamed(fleet.latency_s[near], late.answers[near]),
        _is_blamed(fleet.received_s[near], late.receipts[near]),
    )
    there_ns = fleet.answered_ns if window.of_engine else fleet.there_ns
    next_sound = judged.next_answered if window.of_engine else judged.next_received
    harm_before = judged.harm_before
    end_ns = fleet.wall_ns(window.end)

    begins, cuts = np.zeros(len(met), np.int64), np.zeros(len(met), np.int64)
    recovery_s, hurt = np.full(len(met), np.nan), np.zeros(len(met), np.bool_)
    until = window.end
    for row, camera in enumerate(met.tolist()):
        last = int(fleet.bounds[camera + 1])
        begin, since = (fleet.first_since(camera, at) for at in (window.begin, window.end))
        begins[row] = begin
        from_ = since
        if window.momentary and since < last:
            first_harm = int(judged.next_harm[since])
            if first_harm < last and fleet.at[first_harm] <= shown_by:
                from_ = first_harm
        found = min(int(next_sound[from_]), last)
        if harm_before[found] == harm_before[begin]:
            cuts[row] = since
            recovery_s[row] = 0.0 if begin < last else np.nan
        else:
            cuts[row], hurt[row] = found, True
            recovery_s[row] = (
                math.inf if found == last else max(0.0, (int(there_ns[found]) - end_ns) / 1e9)
            )
            until = max(until, fleet.last_at if found == last else float(fleet.at[found]))
    spans = [np.arange(*span) for span in zip(begins.tolist(), cuts.tolist(), strict=True)]
    inside = np.concatenate([*spans, under_way]).astype(np.int64)
    return _Reach(window, met, begins, cuts, hurt, recovery_s, until, judged, inside)


def _next(chosen: Bools) -> Whole:
    """By place, and one beyond: the first chosen one there or later; beyond all if none."""
    count = len(chosen)
    places = np.append(np.where(chosen, np.arange(count), count), count)
    nearest: Whole = np.minimum.accumulate(places[::-1])[::-1]
    return nearest


def _under_way(fleet: _Fleet, cameras: Whole, window: _Window) -> Whole:
    """The places of frames captured before the begin and answered since then."""
    told = fleet.told
    crossing = told[
        (fleet.answered_ns[told] > fleet.wall_ns(window.begin)) & (fleet.at[told] < window.begin)
    ]
    camera = np.searchsorted(fleet.bounds, crossing, side="right") - 1
    return crossing[np.isin(camera, cameras)]


def _is_blamed(values: Floats, late: Bools) -> bool:
    """Are more of these late than chance would bring?"""
    n, found = int((~np.isnan(values)).sum()), int(late.sum())
    share = 1 - NORMAL_PERCENTILE / 100
    return found > 0 and float(scipy.stats.binom.sf(found - 1, n, share)) < BY_CHANCE


def _outside(fleet: _Fleet, reaches: Sequence[_Reach]) -> Bools:
    outside = np.ones(fleet.count, np.bool_)
    for reach in reaches:
        outside[reach.inside] = False
    return outside


def _overlap(one: _Reach, other: _Reach) -> bool:
    if not np.intersect1d(one.cameras, other.cameras).size:
        return False
    first, second = sorted((one, other), key=lambda reach: reach.window.begin)
    return second.window.begin < first.until or second.window.begin == first.window.begin


# --- what it did ---------------------------------------------------------------------------------


def _harm(fleet: _Fleet, reach: _Reach) -> Harm:
    inside, judged = reach.inside, reach.judged
    kinds, counts = np.unique(fleet.fate[inside], return_counts=True)
    told = zip(kinds.tolist(), counts.tolist(), strict=True)
    belated = int(judged.late[inside].sum())
    return Harm(
        scheduled=len(inside),
        harmed=int(judged.harmed[inside].sum()),
        late=belated,
        by_fate={_FATES[kind].value: count for kind, count in told},
    )


def _recovery(fleet: _Fleet, reach: _Reach) -> Recovery:
    known = reach.recovery_s[~np.isnan(reach.recovery_s)]
    middle = float(np.median(known)) if len(known) else None
    slowest = float(known.max()) if len(known) else None
    return Recovery(
        n=len(known),
        harmed=int(reach.harmed.sum()),
        not_recovered=int(np.isinf(known).sum()),
        median_s=None if middle is None or not math.isfinite(middle) else middle,
        max_s=None if slowest is None or not math.isfinite(slowest) else slowest,
        resolution_s=_resolution(fleet, reach),
    )


def _resolution(fleet: _Fleet, reach: _Reach) -> float | None:
    gaps = []
    for camera in reach.cameras.tolist():
        mine = slice(int(fleet.bounds[camera]), int(fleet.bounds[camera + 1]))
        at = fleet.at[mine][fleet.answered[mine]] if reach.window.of_engine else fleet.at[mine]
        if len(at) > 1:
            gaps.append(float(np.median(np.diff(at))))
    middle = median(gaps)
    return None if middle is None else middle / fleet.speed


def _spread(fleet: _Fleet, chosen: Bools | Whole) -> Spread:
    values = fleet.latency_s[chosen]
    values = values[~np.isnan(values)]
    return Spread(len(values), percentile(values, 50), percentile(values, 95))


def _ttfd(found: Sequence[float | None]) -> Ttfd:
    detected = [ttfd_s for ttfd_s in found if ttfd_s is not None]
    return Ttfd(len(found), len(found) - len(detected), median(detected))


def _fires(fleet: _Fleet, reach: _Reach, views: Sequence[View]) -> tuple[Met, ...]:
    rows = {fleet.cameras[place]: row for row, place in enumerate(reach.cameras.tolist())}
    return tuple(_met(fleet, reach, views, rows))


def _met(
    fleet: _Fleet, reach: _Reach, views: Sequence[View], rows: dict[str, int]
) -> Iterator[Met]:
    window = reach.window
    for view in views:
        row = rows.get(view.camera)
        if row is None or math.isnan(reach.recovery_s[row]):
            continue
        cut, last = int(reach.cuts[row]), int(fleet.bounds[reach.cameras[row] + 1])
        until = window.end
        if reach.harmed[row]:
            until = math.inf if cut == last else float(fleet.at[cut])
        stop = view.onset_s + view.censored_s if view.alarm_s is None else view.alarm_s
        if stop < window.begin or not (view.onset_s < until or view.onset_s <= window.begin):
            continue
        camera = int(reach.cameras[row])
        first = fleet.first_since(camera, view.onset_s)
        beyond = fleet.first_since(camera, math.nextafter(stop, math.inf))
        from_, to = max(first, int(reach.begins[row])), min(beyond, cut)
        hurt = reach.judged.harmed[from_:to] if to > from_ else np.empty(0, np.bool_)
        yield Met(view.fire, view.camera, view.ttfd_s, beyond - first, int(hurt.sum()))
