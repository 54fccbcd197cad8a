"""Two runs over the same frames, held against each other frame by frame.

Only frames that were shown in both runs are compared, each with itself: what one engine saw and
the other did not is then a matter of the engines and not of which frames they happened to get.
"""

from __future__ import annotations

__all__ = ["Pairs", "pairs"]

from dataclasses import dataclass

from scipy import stats

from earlyfire_stream.records import RunLog
from earlyfire_stream.scoring.accuracy import ASKED
from earlyfire_stream.scoring.footage import Frame, FrameOutcome, footage


@dataclass(frozen=True, slots=True)
class Pairs:
    """Counts of frames that an engine was asked about in both runs."""

    n: int
    unreadable_first: int
    """No verdict came: unreadable, or an engine error."""
    unreadable_second: int
    both_smoke: int
    only_first_smoke: int
    only_second_smoke: int
    neither_smoke: int
    """These four: frames with a verdict in both."""
    only_first_right: int
    only_second_right: int
    """Of frames whose truth is known, no verdict counting as wrong."""
    slower_s: float | None
    """Median of (second - first) time from request to answer, wall seconds; None without any."""
    both_right: int = 0
    neither_right: int = 0
    """With the two `only_…_right` all frames whose truth is known."""

    @property
    def known(self) -> int:
        """Frames whose truth is known."""
        return self.both_right + self.neither_right + self.only_first_right + self.only_second_right

    @property
    def p_value(self) -> float:
        """McNemar's exact test that both are right equally often; 1 if they never differ.

        1 against 9 -> 0.0215; 3 against 3 -> 1.
        """
        differ = self.only_first_right + self.only_second_right
        if not differ:
            return 1.0
        return float(stats.binomtest(self.only_first_right, differ, 0.5).pvalue)


def pairs(first: RunLog, second: RunLog, *, same_pictures: bool = True) -> Pairs:
    """Compare by camera and number; frames whose pictures differ are left out.

    Without `same_pictures` they stay in: the same scene at the same instant, seen through something
    that perturbs it.
    """
    ours, theirs = _asked(first), _asked(second)
    common = [
        (a, theirs[key])
        for key, a in ours.items()
        if key in theirs and (not same_pictures or _same(a, theirs[key]))
    ]
    said = [(a.verdict, b.verdict) for a, b in common]
    read = [(a.has_smoke, b.has_smoke) for a, b in said if a is not None and b is not None]
    right = [(_right(a), _right(b)) for a, b in common if a.smoke is not None]
    slower = sorted(
        _busy_s(b) - _busy_s(a)
        for a, b in common
        if a.verdict is not None and b.verdict is not None
    )
    middle = len(slower) // 2
    return Pairs(
        n=len(common),
        unreadable_first=sum(a is None for a, _ in said),
        unreadable_second=sum(b is None for _, b in said),
        both_smoke=read.count((True, True)),
        only_first_smoke=read.count((True, False)),
        only_second_smoke=read.count((False, True)),
        neither_smoke=read.count((False, False)),
        only_first_right=right.count((True, False)),
        only_second_right=right.count((False, True)),
        slower_s=(slower[middle] + slower[~middle]) / 2 if slower else None,
        both_right=right.count((True, True)),
        neither_right=right.count((False, False)),
    )


def _asked(log: RunLog) -> dict[Frame, FrameOutcome]:
    return {
        (one.plan.id, outcome.seq): outcome
        for one in footage(log)
        for outcome in one.frames
        if outcome.fate in ASKED
    }


def _same(a: FrameOutcome, b: FrameOutcome) -> bool:
    return a.shot.identity == b.shot.identity


def _right(outcome: FrameOutcome) -> bool:
    return outcome.verdict is not None and outcome.verdict.has_smoke is outcome.smoke


def _busy_s(outcome: FrameOutcome) -> float:
    record = outcome.record
    assert record is not None
    answer = record.answer
    assert answer is not None  # it has a verdict
    return (answer.answered_ns - answer.started_ns) / 1e9
