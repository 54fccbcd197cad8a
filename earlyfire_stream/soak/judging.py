"""Did the limits hold? A verdict each, with the interval it rests on; and the knee of a ramp.

A limit is breached where the whole interval lies beyond it, held where the whole interval lies
within, else undecided: that more must be measured is no pass. Windows of warming up, and those that
a scripted fault touches, are left out; of a ramp only what comes after its last step counts.

Memory and slowing down are judged in any case. What is taken for a leak there: a process that grows
by more than a tenth of its memory an hour, at the lower end of the interval, and in the later half
of the windows still. The tenth is what a day makes into three times the memory, slower growth being
the business of a limit of one's own; the later half keeps out what fills up and then stays. The
same holds for the time that a request takes.

A slope is of an hour, and a soak may last a minute: it is too short to judge in both directions. A
process that is young fills up, so growth is no breach until, at the lower end of the interval, it
has come to what an hour allows (or to LEAK_BYTES, or SLOWER and SLOWER_S, where nobody set a
limit); and nothing holds while growth at the very limit could not have been seen: less than
PIECE_BYTES, or than a histogram's bin.
"""

from __future__ import annotations

__all__ = ["Knee", "State", "Step", "Verdict", "judge", "knee", "trends"]

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from earlyfire_stream.scenario.models import SLO
from earlyfire_stream.scoring.statistics import median_interval, wilson_interval
from earlyfire_stream.scoring.trend import MIN_POINTS, Trend, trend
from earlyfire_stream.soak.asked import Asked, Ramp, steps
from earlyfire_stream.soak.histogram import BIN_SHARE, Histogram, percentile_interval
from earlyfire_stream.soak.windows import Part, Window, is_steady

HOUR_S = 3600.0
LEAK_SHARE = 0.1
"""Of a process's memory, an hour."""
LEAK_BYTES = 16_000_000
"""In all. Allocators take memory in pieces of a few megabytes."""
PIECE_BYTES = 2**20
"""The least that CPython's allocator takes: what grows by less may show as nothing at all."""
SLOWER_SHARE = 0.1
"""Of the time that a request takes, an hour."""
SLOWER = 0.25
"""Of it, in all: what a warm processor's clock, a neighbour or a fuller picture bring is less."""
SLOWER_S = 0.005
"""In all: under that nobody waits."""
KEPT_UP = 0.9
"""Looks of those that are due: a twentieth may be jitter of schedules that meet a window's edge."""
DROPS = 0.01
"""Share of wanted frames that a step of a ramp may drop where no limit says else."""


class State(StrEnum):
    HELD = "held"
    BREACHED = "breached"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One limit. Numbers in the unit that stands beside them."""

    what: str
    """Such as `p95_latency`, or `rss_slope harness`."""
    state: State
    unit: str
    """s, share, bytes/h or share/h."""
    limit: float | None
    value: float | None
    interval: tuple[float | None, float | None] | None
    n: int
    """What it was measured by: frames, requests, fires or windows."""
    given: bool
    """False for what is judged in any case."""
    why: str = ""
    """In words, where there is more to say."""
    exhausted_s: float | None = None
    """Memory: wall seconds from the last window until `memory_bytes`, as the line goes on; None
    where it does not grow for sure, or was judged too short to say."""

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "state": self.state.value,
            "unit": self.unit,
            "limit": self.limit,
            "value": self.value,
            "interval": self.interval,
            "n": self.n,
            "given": self.given,
            "why": self.why,
            "exhausted_s": self.exhausted_s,
        }


def judge(windows: Sequence[Window], asked: Asked) -> tuple[Verdict, ...]:
    """Every limit that was given, then memory and slowing down."""
    begin_s = 0.0 if asked.ramp is None else asked.ramp.full_s
    steady = [w for w in windows if is_steady(w) and w.begin_s >= begin_s]
    slo, found = asked.slo, []
    if slo.p95_latency is not None:
        found.append(_latency(steady, slo.p95_latency))
    if slo.drop_share is not None:
        dropped, wanted = sum(w.dropped for w in steady), sum(w.wanted for w in steady)
        found.append(_share("drop_share", dropped, wanted, slo.drop_share))
    if slo.error_share is not None:
        failed, requests = sum(w.failed for w in steady), sum(w.requests for w in steady)
        found.append(_share("error_share", failed, requests, slo.error_share))
    if slo.ttfd is not None:
        found.append(_ttfd(windows, slo.ttfd))
    found += [
        _memory(role, points, slo, asked.memory_bytes)
        for role, points in _by_role(windows, begin_s).items()
    ]
    return (*found, _slower(steady, slo))


def trends(windows: Sequence[Window], asked: Asked) -> dict[str, Trend]:
    """The line through each process's memory, for whoever draws it; by role."""
    begin_s = 0.0 if asked.ramp is None else asked.ramp.full_s
    by_role = _by_role(windows, begin_s)
    lines = {role: trend(points) for role, points in by_role.items()}
    return {role: line for role, line in lines.items() if line is not None}


def _state(low: float | None, high: float | None, limit: float) -> State:
    """None is an end that nobody knows: as far away as can be."""
    if low is not None and low > limit:
        return State.BREACHED
    return State.HELD if high is not None and high <= limit else State.UNDECIDED


def _state_of_slope(
    line: Trend, limit: float, enough: float, least: float, young: str
) -> tuple[State, str]:
    """And why, if it cannot be told. All in the line's own unit, `limit` of it an hour.

    `enough`: growth in all without which nothing is breached, `young` the words for that; `least`:
    the smallest growth that is seen.
    """
    low, high = (end * HOUR_S for end in line.interval)
    state = _state(low, high, limit)
    if state is State.BREACHED and line.later * HOUR_S <= limit:
        return State.UNDECIDED, "it grew, and no longer does; soak longer to be sure"
    if state is State.BREACHED and line.surely_grown < enough:
        return State.UNDECIDED, f"too short to judge: {young}"
    if state is State.HELD and limit * line.span_s / HOUR_S < least:
        return State.UNDECIDED, "too short to judge: growth at the limit would not show yet"
    return state, ""


def _latency(steady: Sequence[Window], limit_s: float) -> Verdict:
    held = [w.latency for w in steady]
    whole = Histogram.summed(held)
    interval = percentile_interval(held, 95)
    low, high = interval or (None, None)
    why = "" if interval else "it takes 130 answers in 8 windows"
    return Verdict(
        "p95_latency",
        _state(low, high, limit_s),
        "s",
        limit_s,
        whole.percentile(95),
        interval,
        whole.n,
        True,
        why,
    )


def _share(what: str, count: int, of: int, limit: float) -> Verdict:
    interval = wilson_interval(count, of)
    low, high = interval or (None, None)
    value = count / of if of else None
    why = "" if of else "there is nothing to count"
    state = _state(low, high, limit)
    if limit == 0 and interval is not None:
        # No number of frames makes the interval's upper end zero.
        state = State.BREACHED if count else State.HELD
    return Verdict(what, state, "share", limit, value, interval, of, True, why)


def _ttfd(windows: Sequence[Window], limit_s: float) -> Verdict:
    """The median over views of fires; one that was not found took longer than anybody waited."""
    found = [seconds for w in windows for seconds in w.found]
    views = max(sum(w.onsets for w in windows), len(found))
    everything = sorted(found) + [math.inf] * (views - len(found))
    interval = median_interval(everything)
    low, high = (None, None) if interval is None else map(_finite, interval)
    middle = everything[(views - 1) // 2] if everything else None
    missed = views - len(found)
    why = f"{missed} of {views} not found" if missed else ""
    if interval is None:
        why = f"it takes 6 views of fires, and there were {views}"
    return Verdict(
        "ttfd",
        # a lower end beyond all detections is a breach, an upper one no pass
        State.BREACHED if interval and interval[0] == math.inf else _state(low, high, limit_s),
        "s",
        limit_s,
        None if middle is None else _finite(middle),
        None if interval is None else (low, high),
        views,
        True,
        why,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


Points = list[tuple[float, float]]


def _by_role(windows: Iterable[Window], begin_s: float) -> dict[str, Points]:
    """(middle of the window, memory) of each role's process: of the one that lived longest.

    From `begin_s` on. A process that was started again begins anew: a line across would hide what
    it leaked. One that begins in the middle of a leg warms up like the leg itself, until the end of
    the window in which an answer comes: a model that is being loaded is no leak.
    """
    lives: dict[str, dict[int, Points]] = {}
    leg, known, young = 0, set[int](), set[int]()
    for window in windows:
        pids = {level.pid for level in window.processes.values()}
        if window.leg != leg:
            leg, known, young = window.leg, pids, set()
        young |= pids - known
        known |= pids
        middle_s = (window.begin_s + window.end_s) / 2
        for role, level in window.processes.items():
            value = level.gpu_bytes if role == "gpu" else level.rss_bytes
            counts = window.part is Part.MEASURED and window.begin_s >= begin_s
            if counts and level.pid not in young and value is not None:
                lives.setdefault(role, {}).setdefault(level.pid, []).append((middle_s, value))
        if window.request.n:
            young -= pids
    return {role: max(by_pid.values(), key=len) for role, by_pid in sorted(lives.items())}


def _memory(role: str, points: Points, slo: SLO, memory_bytes: int) -> Verdict:
    what = f"rss_slope {role}" if role != "gpu" else "memory slope gpu"
    line = trend(points)
    given = slo.rss_slope is not None
    if line is None:
        why = f"it takes {MIN_POINTS} windows, and there were {len(points)}"
        limit = slo.rss_slope
        return Verdict(what, State.UNDECIDED, "bytes/h", limit, None, None, len(points), given, why)
    limit = LEAK_SHARE * line.level if slo.rss_slope is None else slo.rss_slope
    enough = limit if given else max(limit, LEAK_BYTES)
    young = f"it grew by {line.grown / 1e6:.1f} MB in all, and what is young fills up"
    state, why = _state_of_slope(line, limit, enough, PIECE_BYTES, young)
    low, high = (end * HOUR_S for end in line.interval)
    left_s = None
    if line.slope > 0 and low > 0 and not why:
        left_s = max(0.0, (memory_bytes - line.at_end) / line.slope)
    return Verdict(
        what,
        state,
        "bytes/h",
        limit,
        line.slope * HOUR_S,
        (low, high),
        line.n,
        given,
        why,
        left_s,
    )


def _slower(steady: Sequence[Window], slo: SLO) -> Verdict:
    """Of the windows' median request: the wait before it is what the load makes, not the engine."""
    medians = [((w.begin_s + w.end_s) / 2, w.request.percentile(50)) for w in steady]
    points = [(at, value) for at, value in medians if value is not None]
    line = trend(points)
    given = slo.latency_slope is not None
    limit = SLOWER_SHARE if slo.latency_slope is None else slo.latency_slope
    if line is None or line.level <= 0:
        why = f"it takes {MIN_POINTS} windows with answers, and there were {len(points)}"
        return Verdict(
            "latency_slope",
            *(State.UNDECIDED, "share/h", limit, None, None, len(points), given, why),
        )
    enough = limit * line.level if given else max(SLOWER_S, SLOWER * line.level)
    young = f"it grew by {line.grown * 1e3:.1f} ms in all, as on a machine that warms up"
    least = BIN_SHARE * line.level
    state, why = _state_of_slope(line, limit * line.level, enough, least, young)
    low, high = (end * HOUR_S / line.level for end in line.interval)
    value = line.slope * HOUR_S / line.level
    return Verdict("latency_slope", state, "share/h", limit, value, (low, high), line.n, given, why)


# --- the knee of a ramp --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a ramp, by the windows of its later half."""

    cameras: int
    begin_s: float
    end_s: float
    windows: tuple[int, ...]
    """Their numbers; none where nothing was measured."""
    offered_per_s: float | None = None
    due_per_s: float | None = None
    served_per_s: float | None = None
    drop_share: float | None = None
    p95_s: float | None = None
    holds: bool | None = None
    """None where it was not measured, or could not be told."""
    why: str = ""
    """What it did not hold."""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Knee:
    """Where a ramp bends: the last step that held before the first that did not.

    A step holds if its cameras are looked at at least KEPT_UP times as often as they are due (the
    served rate then still grows with the cameras: past saturation it cannot, Gunther 2007), if the
    drop share's interval does not lie above its limit (`slo.drop_share`, else DROPS), and if p95
    latency does not lie above `slo.p95_latency` where that is set.
    """

    steps: tuple[Step, ...]
    cameras: int | None
    """Of the last step that held; None where the first did not, or none was measured."""
    broken_at: Step | None
    """The first that did not hold; None where all did."""

    def to_json(self) -> dict[str, Any]:
        return {
            "cameras": self.cameras,
            "broken_at": None if self.broken_at is None else self.broken_at.to_json(),
            "steps": [step.to_json() for step in self.steps],
        }


def knee(windows: Sequence[Window], ramp: Ramp, asked: Asked) -> Knee:
    found = [
        _step(begin, end, cameras, windows, asked.slo)
        for begin, end, cameras in steps(ramp, asked.for_s)
    ]
    held = None
    for step in found:
        if step.holds is False:
            return Knee(tuple(found), held, step)
        if step.holds:
            held = step.cameras
    return Knee(tuple(found), held, None)


def _step(begin: float, end: float, cameras: int, windows: Sequence[Window], slo: SLO) -> Step:
    middle = (begin + end) / 2
    inside = [
        w for w in windows if w.begin_s >= middle - 1e-6 and w.end_s <= end + 1e-6 and is_steady(w)
    ]
    if not inside:
        return Step(cameras, begin, end, ())
    lasted = sum(w.lasted_s for w in inside)
    due = sum(w.due_per_s * w.lasted_s for w in inside) / lasted
    served = sum(w.served for w in inside) / lasted
    dropped, wanted = sum(w.dropped for w in inside), sum(w.wanted for w in inside)
    interval = wilson_interval(dropped, wanted)
    p95 = Histogram.summed(w.latency for w in inside).percentile(95)
    limit = DROPS if slo.drop_share is None else slo.drop_share
    why = []
    if served < KEPT_UP * due:
        why.append(f"{served:.3g} looks/s of the {due:.3g} that are due")
    if interval is not None and interval[0] > limit:
        why.append(f"drops {100 * dropped / wanted:.1f} %")
    if slo.p95_latency is not None and p95 is not None and p95 > slo.p95_latency:
        why.append(f"p95 {p95:.3g} s")
    return Step(
        cameras,
        begin,
        end,
        tuple(w.number for w in inside),
        offered_per_s=sum(w.offered for w in inside) / lasted,
        due_per_s=due,
        served_per_s=served,
        drop_share=dropped / wanted if wanted else None,
        p95_s=p95,
        holds=not why,
        why="; ".join(why),
    )
