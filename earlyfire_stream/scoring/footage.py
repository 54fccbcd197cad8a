"""A camera's frames in order of capture, each with its truth beside what became of it.

The scenario's plan, the cameras' log and the consumer's log are joined here once, as columns; every
measure works on the result.
"""

from __future__ import annotations

__all__ = ["Footage", "Frame", "FrameOutcome", "Keys", "footage", "keys", "packed"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

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
from earlyfire_stream.verdict import Box, Fate, Reason, Truth, Verdict

Frame = tuple[str, int]
"""(camera, seq)"""
Array = NDArray[np.int64]
Flags = NDArray[np.int8]
_FATES = tuple(Fate)
_REASONS = tuple(Reason)
_NOT_COME = (Fate.UNSENT, Fate.LOST)
_AT_ONCE = 4096
"""Frames that are made together where all are asked for in turn."""


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
    """All frames of one camera, by capture, then seq.

    `frames` makes each frame when it is asked for; what looks at all of a long run reads the
    columns, which say the same.
    """

    plan: CameraPlan
    frames: Sequence[FrameOutcome]
    captured_at: NDArray[np.float64]
    """Of each frame; scenario seconds."""
    captured_ns: Array
    """Of each frame, as its camera says."""
    fate: Array
    """Of each frame: its place in `Fate`."""
    came: NDArray[np.bool_]
    """Which frames reached the consumer."""
    smoke: Flags
    """1, 0, or -1 where nobody knows."""
    labelled: NDArray[np.bool_]
    """Whose `smoke` is the frame's own label and not what the scenario's fires say."""
    marked: NDArray[np.bool_]
    """Which frames have truth that says where the smoke is, or at least of which fire."""
    says: Flags
    """The verdict: 1 smoke, 0 none, -1 no readable answer."""
    confidence: NDArray[np.float64]
    """The verdict's; NaN without one."""
    records: Array
    """Where each frame's record stands in the consumer's log; -1 without one."""
    unsent: Array
    """Why each was not sent: the reason's place in `Reason`."""
    number: Array
    """Each frame's number in the log's `Keys`."""

    @property
    def timed(self) -> bool:
        """It has a truth and a cadence: it counts for detection, not only frame by frame."""
        return self.plan.truth and self.plan.cadence_s is not None

    def those(self, places: NDArray[np.int64]) -> Sequence[FrameOutcome]:
        """The frames at those places, made together."""
        if isinstance(self.frames, _Frames):
            return self.frames.at(places)
        return [self.frames[place] for place in places.tolist()]

    def judged_at(self, threshold: float) -> Footage:
        """As if a verdict with a confidence meant smoke from the threshold on.

        One without any, and one whose box an `ignore` polygon took, stands as it is.
        """
        frames = self.frames
        assert isinstance(frames, _Frames)
        frames = replace(frames, threshold=threshold)
        return replace(self, frames=frames, says=frames.says())


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

    return _by_camera(log, key, _Columns(log, shots, frames, shot, record), record)


def _by_camera(log: RunLog, key: Keys, columns: _Columns, record: Array) -> tuple[Footage, ...]:
    order = np.lexsort((key.seq, columns.captured_at, key.camera))
    bounds = np.searchsorted(key.camera[order], np.arange(len(key.cameras) + 1))
    plans = {plan.id: plan for plan in log.cameras}
    result = []
    for place, camera in enumerate(key.cameras):
        plan = plans.get(camera) or CameraPlan(camera, truth=False)
        chosen = order[bounds[place] : bounds[place + 1]]
        smoke = _smokes(plan, columns.smoke[chosen], columns.captured_at[chosen])
        frames = _Frames(columns, plan, chosen, key.seq[chosen], smoke)
        result.append(
            Footage(
                plan=plan,
                frames=frames,
                captured_at=columns.captured_at[chosen],
                captured_ns=columns.captured_ns[chosen],
                fate=columns.fate[chosen],
                came=columns.came[chosen],
                smoke=smoke,
                labelled=columns.smoke[chosen] >= 0,
                marked=columns.truth[chosen] > 0,
                says=frames.says(),
                confidence=columns.confidence[chosen],
                records=record[chosen],
                unsent=columns.unsent[chosen],
                number=chosen,
            )
        )
    return tuple(result)


class _Columns:
    """Both logs side by side, by a frame's number."""

    def __init__(
        self, log: RunLog, shots: ShotTable, frames: FrameTable, shot: Array, record: Array
    ) -> None:
        self.log = log
        self.shot, self.record = shot, record
        self.captured_at = _either(shots, frames, shot, record, "captured_at")
        self.captured_ns = _either(shots, frames, shot, record, "captured_ns")
        self.unsent = _of(shots.column("unsent"), shot, _REASONS.index(Reason.NONE))
        self.smoke = _of(shots.column("smoke"), shot, -1)
        self.truth = _of(shots.column("truth"), shot, 0)
        self.truth_of = shots.truth
        met = _of(frames.column("fate"), record, _FATES.index(Fate.ABANDONED))
        not_come = [_FATES.index(fate) for fate in _NOT_COME]
        self.came = (record >= 0) & ~np.isin(met, not_come)
        sent = self.unsent == _REASONS.index(Reason.NONE)
        self.fate = np.where(sent, met, _FATES.index(Fate.UNSENT))
        answered = met == _FATES.index(Fate.ANSWERED)
        answer = np.where(answered, _of(frames.column("answer"), record, 0), 0)
        self.verdicts = _Verdicts(frames)
        self.answer = np.where(self.verdicts.says(answer) >= 0, answer, 0)
        """The number of its answer's verdict, from 1; 0 without one."""
        self.confidence = self.verdicts.confidence(self.answer)


@dataclass(frozen=True, slots=True, eq=False)
class _Frames(Sequence[FrameOutcome]):
    """The frames of one camera, made when asked for."""

    columns: _Columns
    plan: CameraPlan
    chosen: Array
    """Their numbers."""
    seqs: Array
    smoke: Flags
    threshold: float | None = None
    """Confidence from which on a verdict means smoke; None: as it was given."""

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> FrameOutcome: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FrameOutcome]: ...
    def __getitem__(self, index: int | slice) -> FrameOutcome | Sequence[FrameOutcome]:
        if isinstance(index, slice):
            return self.at(np.arange(len(self))[index])
        return self.at(np.array([range(len(self))[index]]))[0]

    def __iter__(self) -> Iterator[FrameOutcome]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.at(np.arange(start, min(start + _AT_ONCE, len(self))))

    def says(self) -> Flags:
        answer = self.columns.answer[self.chosen]
        said = self.columns.verdicts.says(answer)
        if self.threshold is not None:
            sure = self.columns.confidence[self.chosen]
            said = np.where(np.isnan(sure), said, sure >= self.threshold).astype(np.int8)
        if self.plan.ignore:
            boxed = np.flatnonzero(self.columns.verdicts.boxed(answer))
            for place, frame in zip(boxed.tolist(), self.at(boxed), strict=True):
                if frame.heeded and frame.verdict is not None:
                    said[place] = frame.verdict.has_smoke
        return said

    def at(self, places: Array) -> list[FrameOutcome]:
        columns, plan = self.columns, self.plan
        chosen = self.chosen[places]
        log, truth_of = columns.log, columns.truth_of
        result = []
        for at, seq, unsent, truth, smoke, fate, came, told, shot, record in zip(
            columns.captured_at[chosen].tolist(),
            self.seqs[places].tolist(),
            columns.unsent[chosen].tolist(),
            columns.truth[chosen].tolist(),
            self.smoke[places].tolist(),
            columns.fate[chosen].tolist(),
            columns.came[chosen].tolist(),
            columns.verdicts.of(columns.answer[chosen]),
            columns.shot[chosen].tolist(),
            columns.record[chosen].tolist(),
            strict=True,
        ):
            verdict = heed(told, plan.ignore) if told is not None and plan.ignore else told
            heeded = verdict is not told
            if self.threshold is not None and not heeded:
                verdict = _judged(verdict, self.threshold)
            result.append(
                FrameOutcome(
                    at,
                    seq,
                    _REASONS[unsent],
                    truth_of(truth) if truth else (),
                    None if smoke < 0 else smoke == 1,
                    _FATES[fate],
                    came,
                    verdict,
                    heeded,
                    log,
                    shot,
                    record,
                )
            )
        return result


def _judged(verdict: Verdict | None, threshold: float) -> Verdict | None:
    if verdict is None or verdict.confidence is None:
        return verdict
    smoke = verdict.confidence >= threshold
    return verdict if smoke is verdict.has_smoke else replace(verdict, has_smoke=smoke)


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
    """Verdicts by the number of their answer, from 1; those that say the same are one object."""

    def __init__(self, frames: FrameTable) -> None:
        column = frames.answer_column
        self._repairs = frames.repairs
        self._smoke = column("verdict")
        self._confidence = column("confidence")
        self._repair = column("repairs")
        self._box = [column(name) for name in ("xc", "yc", "w", "h")]
        self._plain = (Verdict(False), Verdict(True))

    def says(self, answer: Array) -> Flags:
        return _of(self._smoke, answer - 1, -1).astype(np.int8)

    def confidence(self, answer: Array) -> NDArray[np.float64]:
        return _known(self._confidence, answer)

    def boxed(self, answer: Array) -> NDArray[np.bool_]:
        return ~np.isnan(_known(self._box[2], answer))

    def of(self, answer: Array) -> list[Verdict | None]:
        """One by answer; None where that is 0."""
        result: list[Verdict | None] = [None] * len(answer)
        there = np.flatnonzero(answer)
        number = answer[there] - 1
        for place, smoke, confidence, repair, *box in zip(
            there.tolist(),
            self._smoke[number].tolist() if len(number) else (),
            self._confidence[number].tolist() if len(number) else (),
            self._repair[number].tolist() if len(number) else (),
            *(side[number].tolist() if len(number) else () for side in self._box),
            strict=True,
        ):
            known = confidence == confidence  # NaN stands for None
            boxed = box[2] == box[2]
            if not (known or boxed or repair):
                result[place] = self._plain[smoke]
                continue
            result[place] = Verdict(
                smoke == 1,
                Box(*box) if boxed else None,
                confidence if known else None,
                self._repairs(repair) if repair else (),
            )
        return result


def _known(column: NDArray[Any], answer: Array) -> NDArray[np.float64]:
    """The column's value by answer; NaN where that is 0."""
    if not len(column):
        return np.full(len(answer), np.nan)
    return np.where(answer > 0, column[answer - 1], np.nan)


def _smokes(plan: CameraPlan, labels: Array, captured_at: NDArray[np.float64]) -> Flags:
    """Each frame's own label, else what the fires of the scenario say; -1 unknown.

    A timed camera without fires is a negative one; an unlabelled still is unknown.
    """
    if not plan.truth:
        return np.full(len(labels), -1, np.int8)
    told = labels.astype(np.int8)
    if plan.cadence_s is None and not plan.fires:
        return told
    burning = np.zeros(len(labels), np.int8)
    for fire in plan.fires:
        end = math.inf if fire.end is None else fire.end
        burning[(fire.onset <= captured_at) & (captured_at < end)] = 1
    return np.where(told >= 0, told, burning)
