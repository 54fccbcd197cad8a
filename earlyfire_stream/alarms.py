"""Verdicts of one camera become alarm candidates: k positives among its last n verdicts.

The consumer calls `observe` for each verdict as it is decided; scoring calls it in order of
capture. Both use this one function, so that what was alarmed and what is scored agree.

With several workers verdicts come out of order. The order that counts is the order of capture:
a late verdict is put in its place and every frame from there on is judged again, so the same
candidates arise whatever the order was, as long as none comes more than LATE_PLACES too late. A
later one is judged by what is still remembered. Instants are scenario seconds.
"""

from __future__ import annotations

__all__ = ["AlarmPolicyState", "Candidate", "Polygon", "heed", "observe"]

from collections.abc import Sequence
from dataclasses import dataclass, replace

from earlyfire_stream.scenario.models import AlarmPolicy
from earlyfire_stream.verdict import Alarm, Box, Verdict

LATE_PLACES = 16
"""Verdicts that may overtake another without any effect; more workers on one camera are rare."""

Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A frame that completed k-of-n.

    `seqs` are the k newest positives of its window, oldest first; the last one is the completing
    frame, captured at `completed_at`. The box is that frame's own, else the newest in the set.
    """

    seqs: tuple[int, ...]
    completed_at: float
    box: Box | None
    confidence: float | None
    emit: bool
    """False within `repeat` seconds of the camera's last emitted alarm."""

    def alarm(self, camera: str, decided_ns: int) -> Alarm:
        return Alarm(
            camera=camera,
            seqs=self.seqs,
            completed_at=self.completed_at,
            decided_ns=decided_ns,
            box=self.box,
            confidence=self.confidence,
        )


@dataclass(slots=True, frozen=True)
class _Seen:
    captured_at: float
    seq: int
    positive: bool
    confidence: float | None
    box: Box | None
    alarmed: bool = False
    """It completed a candidate already; it does so once."""


@dataclass(slots=True, frozen=True)
class AlarmPolicyState:
    """What must be remembered of one camera; begin with an empty one."""

    recent: tuple[_Seen, ...] = ()
    """The latest verdicts, in order of capture."""
    emitted_at: float | None = None
    """Capture of the frame that completed the last emitted alarm."""


def observe(
    state: AlarmPolicyState,
    policy: AlarmPolicy,
    captured_at: float,
    seq: int,
    has_smoke: bool,
    confidence: float | None = None,
    box: Box | None = None,
) -> tuple[AlarmPolicyState, Candidate | None]:
    """Take one verdict in; return the new state and the candidate that it completed, if any.

    A verdict whose confidence lies below `min_confidence` is no positive; one without any counts.
    Only a positive frame completes, with k positives among the n verdicts that end with it, all
    captured within `within` seconds before it. A late verdict may complete several frames at once:
    the newest is returned. A second verdict on the same frame replaces the first.

    With k=2, n=3, within=60: positives at 0, 30 and 100 s give one candidate, at 30 s.
    """
    positive = has_smoke and (confidence is None or confidence >= policy.min_confidence)
    seen = _Seen(captured_at, seq, positive, confidence, box)
    recent = list(state.recent)
    place = len(recent)
    while place and (recent[place - 1].captured_at, recent[place - 1].seq) > (captured_at, seq):
        place -= 1
    if place and recent[place - 1].seq == seq:
        place -= 1
        recent[place] = replace(seen, alarmed=recent[place].alarmed)
    else:
        recent.insert(place, seen)

    newest: tuple[_Seen, ...] = ()
    for i in range(place, len(recent)):
        if recent[i].alarmed or not recent[i].positive:
            continue
        confirming = _confirming(recent, i, policy)
        if confirming:
            recent[i] = replace(recent[i], alarmed=True)
            newest = confirming

    kept = tuple(recent[-(policy.n + LATE_PLACES) :])
    if not newest:
        return AlarmPolicyState(kept, state.emitted_at), None
    last = newest[-1]
    emit = state.emitted_at is None or last.captured_at - state.emitted_at >= policy.repeat
    candidate = Candidate(
        seqs=tuple(s.seq for s in newest),
        completed_at=last.captured_at,
        box=next((s.box for s in reversed(newest) if s.box is not None), None),
        confidence=last.confidence,
        emit=emit,
    )
    return AlarmPolicyState(kept, last.captured_at if emit else state.emitted_at), candidate


def _confirming(recent: Sequence[_Seen], last: int, policy: AlarmPolicy) -> tuple[_Seen, ...]:
    """The k newest positives of the window that ends at index `last`; empty if there are fewer."""
    since = recent[last].captured_at - policy.within
    window = recent[max(0, last - policy.n + 1) : last + 1]
    positives = [s for s in window if s.positive and s.captured_at >= since]
    return tuple(positives[-policy.k :]) if len(positives) >= policy.k else ()


def heed(verdict: Verdict, ignore: Sequence[Polygon]) -> Verdict:
    """The verdict as the camera's `ignore` polygons leave it.

    A box whose centre lies inside one is dropped, and with its only box the claim of smoke: else
    the chimney that the polygon was drawn for would go on raising alarms.
    """
    box = verdict.box
    if not ignore or box is None or not any(_inside(box.xc, box.yc, p) for p in ignore):
        return verdict
    return replace(verdict, has_smoke=False, box=None)


def _inside(x: float, y: float, polygon: Polygon) -> bool:
    """Even-odd rule: a ray to the right crosses the outline an odd number of times."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            crossings += 1
    return crossings % 2 == 1
