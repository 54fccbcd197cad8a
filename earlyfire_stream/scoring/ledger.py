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
from earlyfire_stream.scoring.footage import Frame
from earlyfire_stream.verdict import Fate, Reason

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


def balance(log: RunLog) -> Ledger:
    """Hold the two logs against each other.

    A frame that its camera did not send has the fate `unsent`, with the camera's reason; that the
    consumer saw the gap and noted the frame as lost is the same event, not a second fate.
    """
    scheduled = Counter((s.camera, s.seq) for s in log.shots)
    unsent = {(s.camera, s.seq): s.unsent for s in log.shots if s.unsent is not Reason.NONE}
    told = [
        r
        for r in log.frames
        if r.fate not in (Fate.LOST, Fate.UNSENT) or (r.camera, r.seq) not in unsent
    ]
    times = Counter((r.camera, r.seq) for r in told)
    times.update(unsent.keys())
    double = {frame for count in (scheduled, times) for frame, n in count.items() if n > 1}
    unknown = times.keys() - scheduled.keys()
    without = scheduled.keys() - times.keys()
    inferred = set() if log.complete else without
    missing = without - inferred

    met = {(r.camera, r.seq): (r.fate, r.reason) for r in reversed(told)}  # the first one stays
    met.update((frame, (Fate.UNSENT, why)) for frame, why in unsent.items())
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
