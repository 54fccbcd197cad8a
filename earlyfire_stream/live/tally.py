"""What an observer keeps of a run: counts and the latest of each camera. Bounded by the fleet."""

from __future__ import annotations

__all__ = ["CameraTally", "Tally"]

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from earlyfire_stream.clock import Clock
from earlyfire_stream.gaps import Unsent
from earlyfire_stream.records import (
    AlarmRecord,
    CameraPlan,
    Explanation,
    FaultPlan,
    FrameRecord,
    Playing,
    Shot,
    Snapshot,
)
from earlyfire_stream.scoring import Score
from earlyfire_stream.verdict import Fate, Reason, Verdict, burns

MOMENT_S = 10.0
"""Wall seconds for which a fault that happens in a moment is shown as under way."""
RATE_WINDOW = 20
"""Looks from which a rate is told."""


@dataclass(slots=True)
class CameraTally:
    """One camera. Instants in scenario seconds, latency in wall seconds."""

    plan: CameraPlan
    scheduled: int = 0
    off: bool = False
    """Its last frame was not sent."""
    why_off: Reason = Reason.NONE
    verdict: Verdict | None = None
    verdict_at: float | None = None
    trouble: str = ""
    """Why the last request brought no verdict."""
    latency_s: float | None = None
    looks: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))
    shots: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))
    alarmed_at: float | None = None
    """Capture of the frame that completed the last emitted alarm."""
    first_alarms: dict[str, float] = field(default_factory=dict)
    """Fire -> capture of the frame that completed its first alarm."""
    false_alarms: int = 0

    def fire_at(self, at: float) -> tuple[str, float] | None:
        """(fire, seconds since its onset) of the fire that burns at that instant."""
        for fire in self.plan.fires:
            if burns(fire, at):
                return fire.id, at - fire.onset
        return None


class Tally:
    """Counts a run as it goes; an observer that shows nothing."""

    def __init__(self) -> None:
        self.clock: Clock | None = None
        self.snapshot: Callable[[], Snapshot] | None = None
        self.cameras: dict[str, CameraTally] = {}
        self.faults: tuple[FaultPlan, ...] = ()
        self.fates: Counter[Fate] = Counter()
        self.scheduled = 0
        self.alarms = 0
        self.hears_fates = False
        """Records of frames are told too, not the cameras' half alone."""
        self._unsent = Unsent()

    def stage(self, text: str, share: float | None = None) -> None:
        """Nothing to count."""

    def opened(self, playing: Playing) -> None:
        self.faults = playing.faults

    def explanation(self, record: Explanation) -> None:
        """Nothing to count."""

    def ended(self, folder: Path, score: Score | None) -> None:
        """Nothing to count."""

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        self.clock = clock
        self.snapshot = snapshot
        self.hears_fates = snapshot is not None
        self.cameras = {plan.id: CameraTally(plan) for plan in plans}

    def camera(self, name: str) -> CameraTally:
        if name not in self.cameras:
            self.cameras[name] = CameraTally(CameraPlan(name, truth=False))
        return self.cameras[name]

    def shot(self, shot: Shot) -> None:
        camera = self.camera(shot.camera)
        self.scheduled += 1
        camera.scheduled += 1
        camera.off = shot.unsent is not Reason.NONE
        camera.why_off = shot.unsent
        if camera.off:
            self.fates[Fate.UNSENT] += 1
            if self.hears_fates:
                self._unsent.withheld(shot.camera, shot.seq)
        else:
            camera.shots.append(shot.captured_at)

    def knows(self, record: FrameRecord) -> bool:
        """Is it the gap that a frame left of which it is counted that it was not sent?"""
        return bool(self._unsent) and self._unsent.explains(record.camera, record.seq, record.fate)

    def frame(self, record: FrameRecord) -> None:
        if not self.knows(record):
            self.count(record)

    def count(self, record: FrameRecord) -> None:
        """A frame's one fate."""
        camera = self.camera(record.camera)
        self.fates[record.fate] += 1
        answer = record.answer
        if answer is None:
            return
        camera.looks.append(record.captured_at)
        if answer.verdict is None:
            camera.trouble = f"{record.fate}: {record.reason}"
            return
        camera.trouble = ""
        camera.verdict = answer.verdict
        camera.verdict_at = record.captured_at
        camera.latency_s = (answer.answered_ns - record.captured_ns) / 1e9

    def alarm(self, record: AlarmRecord) -> None:
        if not record.emitted:
            return
        self.alarms += 1
        camera = self.camera(record.alarm.camera)
        camera.alarmed_at = record.alarm.completed_at
        burning = camera.fire_at(record.alarm.completed_at)
        if burning is not None:
            camera.first_alarms.setdefault(burning[0], record.alarm.completed_at)
        elif camera.plan.truth:
            camera.false_alarms += 1

    def under_way(self, at: float) -> list[FaultPlan]:
        """The faults that are planned for that scenario second."""
        moment_s = MOMENT_S * (self.clock.speed if self.clock is not None else 1.0)
        return [
            fault
            for fault in self.faults
            if fault.start
            <= at
            < (fault.end if fault.end > fault.start else fault.start + moment_s)
        ]

    def met(self, fault: FaultPlan) -> str:
        """Whom it meets: `all cameras`, `3 cameras`, or the name of the only one."""
        names = [name for name in self.cameras if fault.meets(name)]
        if len(names) == len(self.cameras):
            return "all cameras"
        return names[0] if len(names) == 1 else f"{len(names)} cameras"

    @property
    def pending(self) -> int:
        """Scheduled frames whose fate is still open."""
        return self.scheduled - sum(self.fates.values())


def rate(instants: deque[float]) -> float | None:
    """Events a second over the latest instants; None before there are two."""
    if len(instants) < 2 or instants[-1] <= instants[0]:
        return None
    return (len(instants) - 1) / (instants[-1] - instants[0])
