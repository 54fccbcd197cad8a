"""Every scheduled frame has exactly one fate: the proof, by sets of (camera, seq).

The cameras' log says what was scheduled, the consumer's log what became of it; neither knows the
other. A sum that only comes out right could hide a frame lost and another counted twice, so the
sets are compared, not the sums.
"""

from __future__ import annotations

__all__ = ["Ledger", "balance", "unbalanced"]

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.records import FrameTable, RunLog, ShotTable
from earlyfire_stream.scoring.footage import Keys, keys, packed
from earlyfire_stream.verdict import Fate, Reason

_FATES = tuple(Fate)
_REASONS = tuple(Reason)
EXAMPLES = 5
"""Frames named per kind of fault; enough to look into the log."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """`scheduled` = Σ `fates` if `balanced`; frames that nobody scheduled are not in it."""

    scheduled: int
    fates: Mapping[str, int]
    reasons: Mapping[str, int]
    """The same by `fate(reason)`; fates without a reason stand as they are."""
    missing: int
    """Scheduled and without a fate, in a run that says that it is complete."""
    double: int
    """With more than one fate, or scheduled twice."""
    unknown: int
    """With a fate, but never scheduled."""
    inferred: int
    """Without a fate in a run that was killed: counted as abandoned(killed)."""
    duplicates: int
    """Deliveries of a frame that had come before; they have no fate."""
    balanced: bool | None
    """None without a cameras' log (a foreign stream): then nothing can be proved."""
    examples: tuple[str, ...]
    """Some of the frames at fault, such as `missing north/17`."""


def balance(log: RunLog, key: Keys | None = None) -> Ledger:
    """Hold the two logs against each other.

    A frame that its camera did not send has the fate `unsent`, with the camera's reason; that the
    consumer saw the gap and noted the frame as lost is the same event, not a second fate.
    """
    log, shots, frames = packed(log)
    key = key or keys(log, shots, frames)
    held = _held(log, shots, frames, key)
    unsent, double, unknown, missing = held.unsent, held.double, held.unknown, held.missing
    inferred, scheduled, told = held.inferred, held.scheduled, held.told
    fate = frames.column("fate").astype(np.int64)
    count = len(key.camera)

    met = np.full((count, 2), -1)
    told_fates = np.stack([fate, frames.column("reason").astype(np.int64)], axis=1)[told]
    met[key.records[told][::-1]] = told_fates[::-1]  # the first one stays
    met[unsent > 0, 0] = _FATES.index(Fate.UNSENT)
    met[unsent > 0, 1] = unsent[unsent > 0]
    met[inferred] = _FATES.index(Fate.ABANDONED), _REASONS.index(Reason.KILLED)

    provable = bool(len(shots)) or not len(frames)
    counted = (met[:, 0] >= 0) & ((scheduled > 0) | (not provable))
    kinds, sizes = np.unique(met[counted], axis=0, return_counts=True)
    fates = {
        (_FATES[what], _REASONS[because]): size
        for (what, because), size in zip(kinds.tolist(), sizes.tolist(), strict=True)
    }
    by_fate: Counter[str] = Counter()
    reasons: dict[str, int] = {}
    for (what, because), size in sorted(fates.items()):
        by_fate[what.value] += size
        reasons[f"{what.value}({because.value})" if because else what.value] = size
    return Ledger(
        scheduled=int((scheduled > 0).sum()),
        fates=dict(by_fate),
        reasons=reasons,
        missing=int(missing.sum()),
        double=int(double.sum()),
        unknown=int(unknown.sum()) if provable else 0,
        inferred=int(inferred.sum()),
        duplicates=log.duplicates,
        balanced=not (missing | double | unknown).any() if provable else None,
        examples=(
            *_named("missing", key, missing),
            *_named("double", key, double),
            *(_named("unknown", key, unknown) if provable else ()),
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Both logs held against each other, by a frame's number but for `told`, by record."""

    scheduled: NDArray[np.int64]
    unsent: NDArray[np.int64]
    """Why it was not sent: a place in Reason; 0 if it was."""
    told: NDArray[np.bool_]
    """The records that are a fate of their own."""
    missing: NDArray[np.bool_]
    double: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    inferred: NDArray[np.bool_]


def _held(log: RunLog, shots: ShotTable, frames: FrameTable, key: Keys) -> _Held:
    count = len(key.camera)
    scheduled = np.bincount(key.shots, minlength=count)
    unsent = np.zeros(count, np.int64)
    why = shots.column("unsent").astype(np.int64)  # 0 is Reason.NONE
    unsent[key.shots[why > 0]] = why[why > 0]
    fate = frames.column("fate").astype(np.int64)
    noted = np.isin(fate, [_FATES.index(Fate.LOST), _FATES.index(Fate.UNSENT)])
    told = ~noted | (unsent[key.records] == 0)
    times = np.bincount(key.records[told], minlength=count) + (unsent > 0)
    without = (scheduled > 0) & (times == 0)
    return _Held(
        scheduled=scheduled,
        unsent=unsent,
        told=told,
        missing=without & log.complete,
        double=(scheduled > 1) | (times > 1),
        unknown=(times > 0) & (scheduled == 0),
        inferred=without & (not log.complete),
    )


def unbalanced(log: RunLog, key: Keys) -> NDArray[np.bool_] | None:
    """By a frame's number: is it without a fate, or has more than one? None where nothing is
    provable, as in `balance`."""
    log, shots, frames = packed(log)
    if not len(shots) and len(frames):
        return None
    held = _held(log, shots, frames, key)
    return held.missing | held.double


def _named(fault: str, key: Keys, frames: NDArray[np.bool_]) -> tuple[str, ...]:
    found = np.flatnonzero(frames)
    named = [(key.cameras[key.camera[i]], int(key.seq[i])) for i in found]
    return tuple(f"{fault} {camera}/{seq}" for camera, seq in sorted(named)[:EXAMPLES])
