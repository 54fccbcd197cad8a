"""A camera's frames in order of capture, each with its truth beside what became of it.

The scenario's plan, the cameras' log and the consumer's log are joined here once; every measure
works on the result.
"""

from __future__ import annotations

__all__ = ["Footage", "Frame", "FrameOutcome", "footage"]

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from earlyfire_stream.alarms import heed
from earlyfire_stream.records import CameraPlan, FrameRecord, RunLog, Shot
from earlyfire_stream.verdict import Fate, Reason, Verdict, burns

Frame = tuple[str, int]
"""(camera, seq)"""


@dataclass(frozen=True, slots=True)
class FrameOutcome:
    """One scheduled frame: what was to be seen, and what became of it."""

    shot: Shot
    record: FrameRecord | None
    """None if it never left the camera, or if the run was killed before its fate was known."""
    smoke: bool | None
    """None where nobody knows."""
    verdict: Verdict | None
    """After the camera's `ignore` polygons; None without a readable answer."""

    @property
    def fate(self) -> Fate:
        """Its one fate; a frame that left the camera and has none was abandoned."""
        if self.shot.unsent is not Reason.NONE:
            return Fate.UNSENT
        return Fate.ABANDONED if self.record is None else self.record.fate

    @property
    def heeded(self) -> bool:
        """An `ignore` polygon took its box, and with it any claim of smoke."""
        if self.verdict is None or self.record is None or self.record.answer is None:
            return False
        told = self.record.answer.verdict
        return told is not None and told.box is not None and self.verdict.box is None

    @property
    def came(self) -> bool:
        """It reached the consumer."""
        record = self.record
        return record is not None and record.fate not in (Fate.UNSENT, Fate.LOST)


@dataclass(frozen=True, slots=True)
class Footage:
    """All frames of one camera, by capture, then seq."""

    plan: CameraPlan
    frames: Sequence[FrameOutcome]

    @property
    def timed(self) -> bool:
        """It has a truth and a cadence: it counts for detection, not only frame by frame."""
        return self.plan.truth and self.plan.cadence_s is not None


def footage(log: RunLog) -> tuple[Footage, ...]:
    """The run by camera: those of the plan in its order, then any others, which have no truth.

    A frame known from the consumer alone (a foreign camera, or a line lost in a crash) is taken
    from its record. If the log holds two fates of a frame, which the ledger reports, the first
    counts.
    """
    records: dict[Frame, FrameRecord] = {}
    for record in log.frames:
        records.setdefault((record.camera, record.seq), record)
    shots: dict[Frame, Shot] = {}
    for shot in log.shots:
        shots.setdefault((shot.camera, shot.seq), shot)
    for key, record in records.items():
        if key not in shots:
            shots[key] = Shot(record.camera, record.seq, record.captured_at, record.captured_ns)

    by_camera: dict[str, list[Shot]] = {plan.id: [] for plan in log.cameras}
    for (camera, _), shot in shots.items():
        by_camera.setdefault(camera, []).append(shot)
    plans = {plan.id: plan for plan in log.cameras}
    result = []
    for camera, taken in by_camera.items():
        plan = plans.get(camera) or CameraPlan(camera, truth=False)
        taken.sort(key=attrgetter("captured_at", "seq"))
        frames = [_outcome(plan, shot, records.get((camera, shot.seq))) for shot in taken]
        result.append(Footage(plan, frames))
    return tuple(result)


def _outcome(plan: CameraPlan, shot: Shot, record: FrameRecord | None) -> FrameOutcome:
    verdict = None
    if record is not None and record.fate is Fate.ANSWERED and record.answer is not None:
        verdict = record.answer.verdict
        if verdict is not None and plan.ignore:
            verdict = heed(verdict, plan.ignore)
    return FrameOutcome(shot, record, _smoke(plan, shot), verdict)


def _smoke(plan: CameraPlan, shot: Shot) -> bool | None:
    """The frame's own label, else what the fires of the scenario say.

    A timed camera without fires is a negative one; an unlabelled still is unknown.
    """
    if not plan.truth:
        return None
    if shot.smoke is not None:
        return shot.smoke
    if plan.cadence_s is None and not plan.fires:
        return None
    return any(burns(fire, shot.captured_at) for fire in plan.fires)
