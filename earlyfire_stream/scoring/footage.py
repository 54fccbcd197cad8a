"""A camera's frames in order of capture, each with its truth beside what became of it.

The scenario's plan, the cameras' log and the consumer's log are joined here once; every measure
works on the result.
"""

from __future__ import annotations

__all__ = ["Footage", "FrameOutcome", "burns", "footage"]

from collections.abc import Sequence
from dataclasses import dataclass

from earlyfire_stream.alarms import heed
from earlyfire_stream.records import CameraPlan, FirePlan, FrameRecord, RunLog, Shot
from earlyfire_stream.verdict import Fate, Reason, Verdict


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


def burns(fire: FirePlan, at: float) -> bool:
    """Is its smoke visible at that scenario second? From the onset on, the end excluded."""
    return fire.onset <= at and (fire.end is None or at < fire.end)


def footage(log: RunLog) -> tuple[Footage, ...]:
    """The run by camera: those of the plan in its order, then any others, which have no truth.

    A frame known from the consumer alone (a foreign camera, or a line lost in a crash) is taken
    from its record. If the log holds two fates of a frame, which the ledger reports, the first
    counts.
    """
    plans = {plan.id: plan for plan in log.cameras}
    records: dict[tuple[str, int], FrameRecord] = {}
    for record in log.frames:
        records.setdefault((record.camera, record.seq), record)

    by_camera: dict[str, list[FrameOutcome]] = {camera: [] for camera in plans}
    taken: set[tuple[str, int]] = set()
    for shot in log.shots:
        key = (shot.camera, shot.seq)
        if key not in taken:
            taken.add(key)
            plan = plans.setdefault(shot.camera, CameraPlan(shot.camera, truth=False))
            outcome = _outcome(plan, shot, records.get(key))
            by_camera.setdefault(shot.camera, []).append(outcome)
    for key, record in records.items():
        if key not in taken:
            plan = plans.setdefault(record.camera, CameraPlan(record.camera, truth=False))
            shot = Shot(record.camera, record.seq, record.captured_at, record.captured_ns)
            by_camera.setdefault(record.camera, []).append(_outcome(plan, shot, record))

    for frames in by_camera.values():
        frames.sort(key=lambda f: (f.shot.captured_at, f.shot.seq))
    return tuple(Footage(plans[camera], frames) for camera, frames in by_camera.items())


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
