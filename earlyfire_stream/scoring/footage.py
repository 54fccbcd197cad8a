"""A camera's frames in order of capture, each with its truth beside what became of it.

The scenario's plan, the cameras' log and the consumer's log are joined here once, as columns; every
measure works on the result.
"""

from __future__ import annotations

__all__ = ["Footage", "Frame", "FrameOutcome", "Keys", "footage", "keys", "packed"]

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.alarms import heed
from earlyfire_stream.records import (
    CameraPlan,
    FrameRecord,
    FrameTable,
    RunLog,
    Shot,
    ShotTable,
    Table,
)
from earlyfire_stream.verdict import Box, Fate, Reason, Truth, Verdict, burns

Frame = tuple[str, int]
"""(camera, seq)"""
Array = NDArray[np.int64]
_FATES = tuple(Fate)
_REASONS = tuple(Reason)
_NOT_COME = (Fate.UNSENT, Fate.LOST)


@dataclass(slots=True)
class FrameOutcome:
    """One scheduled frame: what was to be seen, and what became of it.

    Not frozen, as there may be a million of them: that would take three times as long to make.
    """

    captured_at: float
    seq: int
    unsent: Reason
    truth: tuple[Truth, ...]
    smoke: bool | None
    """None where nobody knows."""
    fate: Fate
    """Its one fate; a frame that left the camera and has none was abandoned."""
    came: bool
    """It reached the consumer."""
    verdict: Verdict | None
    """After the camera's `ignore` polygons; None without a readable answer."""
    heeded: bool
    """A polygon took its box, and with it any claim of smoke."""
    _logs: RunLog = field(repr=False)
    _shot: int
    """Where it stands in the cameras' log; -1 if it is known from its record alone."""
    _record: int
    """Where it stands in the consumer's log; -1 if not at all."""

    @property
    def shot(self) -> Shot:
        if self._shot >= 0:
            return self._logs.shots[self._shot]
        known = self._logs.frames[self._record]
        return Shot(known.camera, known.seq, known.captured_at, known.captured_ns)

    @property
    def record(self) -> FrameRecord | None:
        """None if it never left the camera, or if the run was killed before its fate was known."""
        return self._logs.frames[self._record] if self._record >= 0 else None


@dataclass(frozen=True, slots=True, eq=False)
class Footage:
    """All frames of one camera, by capture, then seq."""

    plan: CameraPlan
    frames: Sequence[FrameOutcome]
    captured_at: NDArray[np.float64]
    """Of each frame; scenario seconds."""
    captured_ns: Array
    """Of each frame, as its camera says."""
    came: NDArray[np.bool_]
    """Which frames reached the consumer."""
    records: Array
    """Where each frame's record stands in the consumer's log; -1 without one."""

    @property
    def timed(self) -> bool:
        """It has a truth and a cadence: it counts for detection, not only frame by frame."""
        return self.plan.truth and self.plan.cadence_s is not None


def packed(log: RunLog) -> tuple[RunLog, ShotTable, FrameTable]:
    """The same log with its frames in tables, and those tables."""
    shots, frames = ShotTable.of(log.shots), FrameTable.of(log.frames)
    if shots is not log.shots or frames is not log.frames:
        log = replace(log, shots=shots, frames=frames)
    return log, shots, frames


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Every frame of a log, whichever log knows it, by one number: its place in the order by
    camera and seq. Two with one number are the same frame."""

    cameras: Sequence[str]
    """Those of the plan in its order, then any others."""
    shots: Array
    """The number of each shot."""
    records: Array
    """The number of each record."""
    camera: Array
    """By number: which of `cameras`."""
    seq: Array
    """By number."""


def keys(log: RunLog, shots: ShotTable, frames: FrameTable) -> Keys:
    cameras = list(dict.fromkeys([*(p.id for p in log.cameras), *shots.cameras, *frames.cameras]))
    places = {camera: place for place, camera in enumerate(cameras)}
    camera = np.concatenate([_places(shots, places), _places(frames, places)])
    seqs, rank = np.unique(
        np.concatenate([shots.column("seq"), frames.column("seq")]), return_inverse=True
    )
    both, number = np.unique(camera * max(1, len(seqs)) + rank, return_inverse=True)
    return Keys(
        cameras=cameras,
        shots=number[: len(shots)],
        records=number[len(shots) :],
        camera=both // max(1, len(seqs)),
        seq=seqs[both % max(1, len(seqs))] if len(seqs) else np.empty(0, np.int64),
    )


def _places(table: Table[Shot] | Table[FrameRecord], places: dict[str, int]) -> Array:
    renamed = np.array([places[camera] for camera in table.cameras], np.int64)
    column = table.column("camera")
    return renamed[column] if len(column) else np.empty(0, np.int64)


def footage(log: RunLog, key: Keys | None = None) -> tuple[Footage, ...]:
    """The run by camera: those of the plan in its order, then any others, which have no truth.

    A frame known from the consumer alone (a foreign camera, or a line lost in a crash) is taken
    from its record. If the log holds two fates of a frame, which the ledger reports, the first
    counts.
    """
    log, shots, frames = packed(log)
    key = key or keys(log, shots, frames)
    count = len(key.camera)
    shot, record = np.full(count, -1), np.full(count, -1)
    # backwards, so that of two with one number the first stays
    shot[key.shots[::-1]] = np.arange(len(shots))[::-1]
    record[key.records[::-1]] = np.arange(len(frames))[::-1]

    with _unhurried():
        return _by_camera(log, key, _Columns(log, shots, frames, shot, record), record)


@contextmanager
def _unhurried() -> Iterator[None]:
    """No garbage is looked for while a million objects are made that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _by_camera(log: RunLog, key: Keys, columns: _Columns, record: Array) -> tuple[Footage, ...]:
    order = np.lexsort((key.seq, columns.captured_at, key.camera))
    bounds = np.searchsorted(key.camera[order], np.arange(len(key.cameras) + 1))
    plans = {plan.id: plan for plan in log.cameras}
    result = []
    for place, camera in enumerate(key.cameras):
        plan = plans.get(camera) or CameraPlan(camera, truth=False)
        chosen = order[bounds[place] : bounds[place + 1]]
        outcomes = columns.outcomes(plan, chosen, key.seq[chosen])
        result.append(
            Footage(
                plan,
                outcomes,
                columns.captured_at[chosen],
                columns.captured_ns[chosen],
                columns.came[chosen],
                record[chosen],
            )
        )
    return tuple(result)


class _Columns:
    """Both logs side by side, by a frame's number."""

    def __init__(
        self, log: RunLog, shots: ShotTable, frames: FrameTable, shot: Array, record: Array
    ) -> None:
        self._log = log
        self._shots = shots
        self._shot, self._record = shot, record
        self.captured_at = _either(shots, frames, shot, record, "captured_at")
        self.captured_ns = _either(shots, frames, shot, record, "captured_ns")
        self._unsent = _of(shots.column("unsent"), shot, _REASONS.index(Reason.NONE))
        self._smoke = _of(shots.column("smoke"), shot, -1)
        self._truth = _of(shots.column("truth"), shot, 0)
        self._fate = _of(frames.column("fate"), record, _FATES.index(Fate.ABANDONED))
        not_come = [_FATES.index(fate) for fate in _NOT_COME]
        self.came = (record >= 0) & ~np.isin(self._fate, not_come)
        answered = self._fate == _FATES.index(Fate.ANSWERED)
        self._answer = np.where(answered, _of(frames.column("answer"), record, 0), 0)
        self._verdicts = _Verdicts(frames)

    def outcomes(self, plan: CameraPlan, chosen: Array, seqs: Array) -> list[FrameOutcome]:
        """Of one camera."""
        smokes = _smokes(plan, self._smoke[chosen], self.captured_at[chosen])
        log, truth_of, verdict_of = self._log, self._shots.truth, self._verdicts.one
        none, unsent_fate = Reason.NONE, Fate.UNSENT
        result = []
        for at, seq, unsent, truth, smoke, fate, came, answer, shot, record in zip(
            self.captured_at[chosen].tolist(),
            seqs.tolist(),
            self._unsent[chosen].tolist(),
            self._truth[chosen].tolist(),
            smokes,
            self._fate[chosen].tolist(),
            self.came[chosen].tolist(),
            self._answer[chosen].tolist(),
            self._shot[chosen].tolist(),
            self._record[chosen].tolist(),
            strict=True,
        ):
            told = verdict_of(answer - 1) if answer else None
            verdict = heed(told, plan.ignore) if told is not None and plan.ignore else told
            why, what = _REASONS[unsent], _FATES[fate]
            result.append(
                FrameOutcome(
                    at,
                    seq,
                    why,
                    truth_of(truth) if truth else (),
                    smoke,
                    what if why is none else unsent_fate,
                    came,
                    verdict,
                    verdict is not told,
                    log,
                    shot,
                    record,
                )
            )
        return result


def _of(column: NDArray[Any], places: Array, without: int) -> Array:
    """The column's value at each place; `without` where the place is -1."""
    if not len(column):
        return np.full(len(places), without)
    return np.where(places >= 0, column[places], without).astype(np.int64)


def _either(
    shots: ShotTable, frames: FrameTable, shot: Array, record: Array, name: str
) -> NDArray[Any]:
    """A column that both logs have: the cameras' word first."""
    if not len(shots):
        return frames.column(name)[record]
    if not len(frames):
        return shots.column(name)[shot]
    return np.where(shot >= 0, shots.column(name)[shot], frames.column(name)[record])


class _Verdicts:
    """Verdicts by the place of their answer; those that say the same are one object."""

    def __init__(self, frames: FrameTable) -> None:
        column = frames.answer_column
        self._repairs = frames.repairs
        self._smoke = column("verdict").tolist()
        self._width = column("w").tolist()
        self._confidence = column("confidence").tolist()
        self._repair = column("repairs").tolist()
        self._boxes = np.stack([column(name) for name in ("xc", "yc", "w", "h")], axis=1)
        self._plain = (Verdict(False), Verdict(True))

    def one(self, place: int) -> Verdict | None:
        smoke = self._smoke[place]
        if smoke < 0:
            return None
        confidence, width, repair = (
            self._confidence[place],
            self._width[place],
            self._repair[place],
        )
        known = confidence == confidence  # NaN stands for None
        box = Box(*self._boxes[place].tolist()) if width == width else None
        if not (known or box or repair):
            return self._plain[smoke]
        return Verdict(
            smoke == 1, box, confidence if known else None, self._repairs(repair) if repair else ()
        )


def _smokes(plan: CameraPlan, labels: Array, captured_at: NDArray[Any]) -> list[bool | None]:
    """Each frame's own label, else what the fires of the scenario say.

    A timed camera without fires is a negative one; an unlabelled still is unknown.
    """
    if not plan.truth:
        return [None] * len(labels)
    unknown = plan.cadence_s is None and not plan.fires
    return [
        bool(label)
        if label >= 0
        else None
        if unknown
        else any(burns(fire, at) for fire in plan.fires)
        for label, at in zip(labels.tolist(), captured_at.tolist(), strict=True)
    ]
