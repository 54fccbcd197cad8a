"""Every scheduled frame has exactly one fate: the proof, by sets of (camera, seq).

The cameras' log says what was scheduled, the consumer's log what became of it; neither knows the
other. A sum that only comes out right could hide a frame lost and another counted twice, so the
sets are compared, not the sums.
"""

from __future__ import annotations

__all__ = ["Ledger", "balance"]

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from earlyfire_stream.records import RunLog
from earlyfire_stream.verdict import Fate, Reason

EXAMPLES = 5
"""Frames named per kind of fault; enough to look into the log."""

Frame = tuple[str, int]


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


def balance(log: RunLog) -> Ledger:
    """Hold the two logs against each other.

    A frame that its camera did not send has the fate `unsent`, with the camera's reason; that the
    consumer saw the gap and noted the frame as lost is the same event, not a second fate.
    """
    unsent: dict[Frame, Reason] = {}
    scheduled: set[Frame] = set()
    double: set[Frame] = set()
    for shot in log.shots:
        frame = (shot.camera, shot.seq)
        if frame in scheduled:
            double.add(frame)
        scheduled.add(frame)
        if shot.unsent is not Reason.NONE:
            unsent[frame] = shot.unsent

    met: dict[Frame, tuple[Fate, Reason]] = {f: (Fate.UNSENT, why) for f, why in unsent.items()}
    unknown: set[Frame] = set()
    for record in log.frames:
        frame = (record.camera, record.seq)
        if frame in unsent and record.fate in (Fate.LOST, Fate.UNSENT):
            continue
        if frame in met:
            double.add(frame)
        met.setdefault(frame, (record.fate, record.reason))
        if frame not in scheduled:
            unknown.add(frame)

    without = scheduled - met.keys()
    inferred: set[Frame] = set() if log.complete else without
    missing = without - inferred
    met.update((frame, (Fate.ABANDONED, Reason.KILLED)) for frame in inferred)

    provable = bool(log.shots) or not log.frames
    fates: Counter[tuple[Fate, Reason]] = Counter(
        what for frame, what in met.items() if frame in scheduled or not provable
    )
    by_fate: Counter[str] = Counter()
    reasons: dict[str, int] = {}
    for (fate, reason), count in sorted(fates.items()):
        by_fate[fate.value] += count
        reasons[f"{fate.value}({reason.value})" if reason else fate.value] = count
    return Ledger(
        scheduled=len(scheduled),
        fates=dict(by_fate),
        reasons=reasons,
        missing=len(missing),
        double=len(double),
        unknown=len(unknown) if provable else 0,
        inferred=len(inferred),
        duplicates=log.duplicates,
        balanced=not (missing or double or unknown) if provable else None,
        examples=(
            *_named("missing", missing),
            *_named("double", double),
            *(_named("unknown", unknown) if provable else ()),
        ),
    )


def _named(fault: str, frames: Iterable[Frame]) -> tuple[str, ...]:
    return tuple(f"{fault} {camera}/{seq}" for camera, seq in sorted(frames)[:EXAMPLES])
