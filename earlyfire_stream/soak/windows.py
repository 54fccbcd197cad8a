"""A soak in windows of time: everything that became known in one, counted as it comes.

`Gathering` watches a run from the side. What it keeps is bounded however long the soak is: counters
by the kinds there are, durations in histograms (at most 2,000 bins each), at most 40 looks at the
processes, and a number or two for each camera and fire. A closed window is written and forgotten
by it; twelve an hour of a few kilobytes each are what a soak's result is made of.

A frame counts in the window in which its fate became known; a scheduled one in which it fell due.
"""

from __future__ import annotations

__all__ = ["WANTED", "Gathering", "Level", "Part", "Window", "is_steady"]

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median
from typing import Any

from earlyfire_stream.clock import Clock
from earlyfire_stream.records import AlarmRecord, CameraPlan, FrameRecord, Shot, Snapshot
from earlyfire_stream.soak.histogram import Histogram
from earlyfire_stream.soak.processes import Usage
from earlyfire_stream.verdict import Fate, Reason, burns

DROPPED = (Fate.EXPIRED, Fate.SUPERSEDED, Fate.OVER_BUDGET, Fate.ENGINE_ERROR)
SERVED = (Fate.ANSWERED, Fate.BAD_JSON)
WANTED = (*SERVED, *DROPPED)
"""Fates of the frames that sampling wanted and that count in the drop share. Left aside: frames in
hand at the end of a run, older frames of a clip, and what was no picture."""
LOOKS = 40
"""At the processes, in one window."""


class Part(StrEnum):
    """What a window is good for."""

    WARM_UP = "warm-up"
    """The first of a leg, and all up to the one in which the first answer came."""
    MEASURED = "measured"
    END = "end"
    """What became known after the last whole window, or a window cut to less than half."""


@dataclass(frozen=True, slots=True)
class Level:
    """What a process used in one window. The median memory; the rest as it was last seen."""

    pid: int
    rss_bytes: int
    most_rss_bytes: int
    files: int | None
    threads: int
    cpu: float | None
    """Cores that it kept busy; None where it was seen once only, or began meanwhile."""
    gpu_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """One window. Instants in wall seconds of the soak, pauses between its legs left out."""

    number: int
    leg: int
    part: Part
    begin_s: float
    end_s: float
    cameras: int
    """That have begun by its end."""
    due_per_s: float
    """Looks a second that these are due while nothing makes sampling hold back."""
    offered: int
    """Frames that fell due."""
    unsent: int
    fates: Mapping[str, int]
    """Of all frames that met theirs, by fate; unsent ones are not counted as lost again."""
    wanted: int
    """Frames that sampling admitted and that met one of WANTED."""
    thinned: int
    """Frames that sampling left out because of load."""
    errors: Mapping[str, int]
    """Requests that failed or brought nothing readable, by reason."""
    latency: Histogram
    """Capture to answer."""
    request: Histogram
    """Begin of the request to its answer: the engine's own time, without the wait before it."""
    decision: Histogram
    """Begin of the request to the token that settles it."""
    late: Histogram
    """Due to handed over: the harness's own lateness."""
    visual_tokens: int
    output_tokens: int
    alarms: int
    onsets: int
    """Views of fires (a fire, as one camera sees it) that began."""
    found: tuple[float, ...]
    """Seconds from onset to the first alarm of each view that raised its first one; located or not,
    which is for the score to say. Scenario seconds."""
    concurrency: int | None
    processes: Mapping[str, Level]
    faults: tuple[str, ...] = ()
    """The scripted ones that it touches."""
    wall_ns: int = 0
    """Its end."""

    @property
    def lasted_s(self) -> float:
        return self.end_s - self.begin_s

    @property
    def served(self) -> int:
        return sum(self.fates.get(fate.value, 0) for fate in SERVED)

    @property
    def dropped(self) -> int:
        return self.wanted - self.served

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def requests(self) -> int:
        """Answered ones and failed ones, and those that nobody was there for."""
        return self.served + self.fates.get(Fate.ENGINE_ERROR.value, 0)

    def a_second(self, count: float) -> float:
        return count / self.lasted_s if self.lasted_s > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """As it stands in windows.jsonl. What is derived stands beside it for other readers."""
        seconds = {
            name: {
                "n": held.n,
                "p50": held.percentile(50),
                "p95": held.percentile(95),
                "p99": held.percentile(99),
                "bins": held.to_json(),
            }
            for name, held in self._histograms.items()
        }
        return {
            "window": self.number,
            "leg": self.leg,
            "part": self.part.value,
            "begin_s": self.begin_s,
            "end_s": self.end_s,
            "wall_ns": self.wall_ns,
            "cameras": self.cameras,
            "due_per_s": self.due_per_s,
            "offered": self.offered,
            "offered_per_s": self.a_second(self.offered),
            "unsent": self.unsent,
            "fates": self.fates,
            "wanted": self.wanted,
            "served": self.served,
            "served_per_s": self.a_second(self.served),
            "dropped": self.dropped,
            "drop_share": self.dropped / self.wanted if self.wanted else None,
            "thinned": self.thinned,
            "errors": self.errors,
            "visual_tokens": self.visual_tokens,
            "output_tokens": self.output_tokens,
            "visual_tokens_per_s": self.a_second(self.visual_tokens),
            "alarms": self.alarms,
            "onsets": self.onsets,
            "found": self.found,
            "concurrency": self.concurrency,
            "processes": self.processes,
            "faults": self.faults,
            "seconds": seconds,
        }

    @property
    def _histograms(self) -> dict[str, Histogram]:
        return {
            "latency": self.latency,
            "request": self.request,
            "decision": self.decision,
            "late": self.late,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Window:
        """LookupError, TypeError or ValueError where it is no window."""
        held: dict[str, Any] = {
            name: Histogram.from_json(data["seconds"][name]["bins"])
            for name in ("latency", "request", "decision", "late")
        }
        return cls(
            number=int(data["window"]),
            part=Part(data["part"]),
            processes={role: Level(**level) for role, level in data["processes"].items()},
            faults=tuple(data["faults"]),
            found=tuple(data["found"]),
            **{name: data[name] for name in _PLAIN},
            **held,
        )


_PLAIN = (
    *("leg", "begin_s", "end_s", "wall_ns", "cameras", "due_per_s", "offered", "unsent", "fates"),
    *("wanted", "thinned", "errors", "visual_tokens", "output_tokens", "alarms", "onsets"),
    "concurrency",
)


def is_steady(window: Window) -> bool:
    """A whole window after warming up in which nothing went wrong on purpose."""
    return window.part is Part.MEASURED and not window.faults


@dataclass(slots=True)
class _Open:
    """The window that is being filled."""

    begin_s: float
    offered: int = 0
    unsent: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    wanted: int = 0
    thinned: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    request: Histogram = field(default_factory=Histogram)
    decision: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)
    visual_tokens: int = 0
    output_tokens: int = 0
    alarms: int = 0
    found: list[float] = field(default_factory=list)
    looks: list[tuple[float, Mapping[str, Usage]]] = field(default_factory=list)
    """(wall seconds of the leg, what was seen)"""

    @property
    def is_empty(self) -> bool:
        return not (self.offered or self.fates)


class Gathering:
    """An observer of one leg. `ready` is set when the stream is about to start.

    `due`: camera -> looks a wall second that it is due; `begins_s`: camera -> wall second of the
    leg in which it begins; a camera that is in neither began at once and is due none.
    """

    def __init__(
        self,
        leg: int,
        played_s: float,
        first: int,
        due: Callable[[CameraPlan], float],
        begins_s: Mapping[str, float],
        faults: Sequence[tuple[str, float, float]] = (),
    ) -> None:
        """`faults`: name, begin, end in wall seconds of the leg. `first`: its window's number."""
        self._leg = leg
        self._played_s = played_s
        self._number = first
        self._due_of = due
        self._begins_s = begins_s
        self._faults = faults
        self._due: dict[str, float] = {}
        self._open = _Open(0.0)
        self._warm = False
        """A window with an answer in it has been closed."""
        self._unsent: Counter[str] = Counter()
        """Not sent and not yet noted as lost by the consumer; it is the same frame."""
        self._snapshot: Callable[[], Snapshot] | None = None
        self._plans: dict[str, CameraPlan] = {}
        """Of cameras whose truth is known."""
        self._found: set[tuple[str, str]] = set()
        self.clock: Clock | None = None
        self.ready = asyncio.Event()
        self.over_s: float | None = None
        """Wall seconds of the leg at which everything was closed."""

    # --- observing ---

    def stage(self, text: str, share: float | None = None) -> None:
        if self.clock is not None and self.over_s is None and text in ("closing", "scoring"):
            self.over_s = self.now_s()

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        self.clock, self._snapshot = clock, snapshot
        self._due = {plan.id: self._due_of(plan) for plan in plans}
        self._plans = {plan.id: plan for plan in plans if plan.truth}
        self.ready.set()

    def shot(self, shot: Shot) -> None:
        filling = self._open
        filling.offered += 1
        if shot.unsent is Reason.NONE:
            filling.late.add(shot.late_s)
        else:
            filling.unsent += 1
            self._unsent[shot.camera] += 1

    def frame(self, record: FrameRecord) -> None:
        if record.fate is Fate.LOST and self._unsent[record.camera] > 0:
            self._unsent[record.camera] -= 1
            return
        filling = self._open
        filling.fates[record.fate.value] += 1
        if record.admitted and record.fate in WANTED:
            filling.wanted += 1
        if record.fate is Fate.SAMPLED_OUT and record.reason is Reason.LOAD:
            filling.thinned += 1
        if record.fate in (Fate.ENGINE_ERROR, Fate.BAD_JSON):
            filling.errors[record.reason.value or record.fate.value] += 1
        answer = record.answer
        if answer is None:
            return
        filling.visual_tokens += answer.visual_tokens
        filling.output_tokens += answer.output_tokens or 0
        if answer.verdict is None:
            return
        latency_s = (answer.answered_ns - record.captured_ns) / 1e9
        if latency_s >= 0:  # below: two hosts' clocks disagree, it is unknown
            filling.latency.add(latency_s)
        filling.request.add(max(0.0, (answer.answered_ns - answer.started_ns) / 1e9))
        filling.decision.add(max(0.0, (answer.decided_ns - answer.started_ns) / 1e9))

    def alarm(self, record: AlarmRecord) -> None:
        assert self.clock is not None
        self._open.alarms += record.emitted
        alarm = record.alarm
        plan = self._plans.get(alarm.camera)
        for fire in plan.fires if plan is not None else ():
            view = (fire.id, alarm.camera)
            if burns(fire, alarm.completed_at) and view not in self._found:
                self._found.add(view)
                self._open.found.append(self.clock.scenario_at(alarm.decided_ns) - fire.onset)

    # --- what the edge asks for ---

    def now_s(self) -> float:
        """Wall seconds of the leg."""
        assert self.clock is not None
        return (self.clock.wall_ns() - self.clock.start_ns) / 1e9

    def saw(self, processes: Mapping[str, Usage]) -> None:
        if len(self._open.looks) < LOOKS:
            self._open.looks.append((self.now_s(), processes))

    @property
    def is_empty(self) -> bool:
        return self._open.is_empty

    @property
    def open_since_s(self) -> float:
        """Wall seconds of the leg at which the window that is being filled began."""
        return self._open.begin_s

    def close(self, end_s: float, part: Part | None = None) -> Window:
        """End the window at a wall second of the leg, begin the next. `part` None: as it is."""
        assert self.clock is not None
        done, self._open = self._open, _Open(end_s)
        if part is None:
            part = Part.MEASURED if self._warm else Part.WARM_UP
        self._warm = self._warm or bool(done.request.n)
        speed = self.clock.speed
        online = [c for c in self._due if self._begins_s.get(c, 0.0) < end_s]
        window = Window(
            number=self._number,
            leg=self._leg,
            part=part,
            begin_s=round(self._played_s + done.begin_s, 3),
            end_s=round(self._played_s + end_s, 3),
            cameras=len(online),
            due_per_s=sum(self._due[camera] for camera in online),
            offered=done.offered,
            unsent=done.unsent,
            fates=dict(sorted(done.fates.items())),
            wanted=done.wanted,
            thinned=done.thinned,
            errors=dict(sorted(done.errors.items())),
            latency=done.latency,
            request=done.request,
            decision=done.decision,
            late=done.late,
            visual_tokens=done.visual_tokens,
            output_tokens=done.output_tokens,
            alarms=done.alarms,
            onsets=sum(
                done.begin_s * speed <= fire.onset < end_s * speed
                for plan in self._plans.values()
                for fire in plan.fires
            ),
            found=tuple(round(seconds, 3) for seconds in done.found),
            concurrency=None if self._snapshot is None else self._snapshot().concurrency,
            processes=levels(done.looks),
            faults=tuple(
                name for name, begin, end in self._faults if begin < end_s and end >= done.begin_s
            ),
            wall_ns=self.clock.wall_of(end_s * speed),
        )
        self._number += 1
        return window


def levels(looks: Sequence[tuple[float, Mapping[str, Usage]]]) -> dict[str, Level]:
    """By role, of the process that was seen last: one that was replaced meanwhile is left out."""
    told = {}
    for role in sorted({role for _, seen in looks for role in seen}):
        held = [(at, seen[role]) for at, seen in looks if role in seen]
        pid = held[-1][1].pid
        held = [(at, usage) for at, usage in held if usage.pid == pid]
        (first_at, first), (last_at, last) = held[0], held[-1]
        cpu = (last.cpu_s - first.cpu_s) / (last_at - first_at) if last_at > first_at else None
        gpu = [usage.gpu_bytes for _, usage in held if usage.gpu_bytes is not None]
        told[role] = Level(
            pid=pid,
            rss_bytes=round(median(usage.rss_bytes for _, usage in held)),
            most_rss_bytes=max(usage.rss_bytes for _, usage in held),
            files=last.files,
            threads=last.threads,
            cpu=None if cpu is None else round(max(0.0, cpu), 4),
            gpu_bytes=gpu[-1] if gpu else None,
        )
    return told
