"""Two runs over the same frames, held against each other frame by frame.

Only frames that were shown in both runs are compared, each with itself: what one engine saw and
the other did not is then a matter of the engines and not of which frames they happened to get.
"""

from __future__ import annotations

__all__ = ["Pairs", "pairs"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from earlyfire_stream.records import RunLog, Shot
from earlyfire_stream.scoring.accuracy import ASKED
from earlyfire_stream.scoring.footage import footage, keys, packed
from earlyfire_stream.verdict import Fate


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
        return float(scipy.stats.binomtest(self.only_first_right, differ, 0.5).pvalue)


def pairs(first: RunLog, second: RunLog, *, same_pictures: bool = True) -> Pairs:
    """Compare by camera and number; frames whose pictures differ are left out.

    Without `same_pictures` they stay in: the same scene at the same instant, seen through something
    that perturbs it.
    """
    ours, theirs = _asked(first), _asked(second)
    _, mine, yours = np.intersect1d(
        *_numbered(ours, theirs), assume_unique=True, return_indices=True
    )
    if same_pictures:
        same = [
            a == b for a, b in zip(_pictures(ours, mine), _pictures(theirs, yours), strict=True)
        ]
        chosen = np.array(same, np.bool_)
        mine, yours = mine[chosen], yours[chosen]
    a, b = ours.says[mine], theirs.says[yours]
    read = (a >= 0) & (b >= 0)
    known = ours.smoke[mine] >= 0
    right, also = ((says == ours.smoke[mine])[known] for says in (a, b))
    slower = theirs.busy_s[yours][read] - ours.busy_s[mine][read]
    return Pairs(
        n=len(mine),
        unreadable_first=int((a < 0).sum()),
        unreadable_second=int((b < 0).sum()),
        both_smoke=int(((a == 1) & (b == 1)).sum()),
        only_first_smoke=int(((a == 1) & (b == 0)).sum()),
        only_second_smoke=int(((a == 0) & (b == 1)).sum()),
        neither_smoke=int(((a == 0) & (b == 0)).sum()),
        only_first_right=int((right & ~also).sum()),
        only_second_right=int((~right & also).sum()),
        slower_s=float(np.median(slower)) if len(slower) else None,
        both_right=int((right & also).sum()),
        neither_right=int((~right & ~also).sum()),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """The frames that an engine was asked about, as columns."""

    cameras: Sequence[str]
    camera: NDArray[np.int64]
    """Which of `cameras`."""
    seq: NDArray[np.int64]
    says: NDArray[np.int8]
    """1 smoke, 0 none, -1 no verdict."""
    smoke: NDArray[np.int8]
    """1, 0, or -1 where nobody knows."""
    busy_s: NDArray[np.float64]
    """From request to answer, wall seconds; NaN without an answer."""
    shots: Sequence[Shot]
    shot: NDArray[np.int64]
    """Where each stands among `shots`; -1 if the cameras' log does not know it."""


def _asked(log: RunLog) -> _Asked:
    log, shots, frames = packed(log)
    key = keys(log, shots, frames)
    everything = footage(log, key)
    chosen = [np.isin(one.fate, [tuple(Fate).index(fate) for fate in ASKED]) for one in everything]
    parts = list(zip(everything, chosen, strict=True))
    records = _joined([one.records[those] for one, those in parts], np.int64)
    place_of = np.full(len(key.camera), -1)
    place_of[key.shots[::-1]] = np.arange(len(shots))[::-1]
    number = key.records[records]
    answer = frames.column("answer")[records].astype(np.int64) - 1
    busy_s = np.full(len(records), np.nan)
    told = answer >= 0
    spent_ns = frames.answer_column("answered_ns") - frames.answer_column("started_ns")
    busy_s[told] = spent_ns[answer[told]] / 1e9
    return _Asked(
        cameras=key.cameras,
        camera=key.camera[number],
        seq=key.seq[number],
        says=_joined([one.says[those] for one, those in parts], np.int8),
        smoke=_joined([one.smoke[those] for one, those in parts], np.int8),
        busy_s=busy_s,
        shots=shots,
        shot=place_of[number],
    )


def _joined(parts: list[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *parts])


def _numbered(ours: _Asked, theirs: _Asked) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One number for each frame, the same for the same camera and seq on both sides."""
    names = {name: place for place, name in enumerate(ours.cameras)}
    for name in theirs.cameras:
        names.setdefault(name, len(names))
    seqs = np.unique(np.concatenate([ours.seq, theirs.seq]))
    one, two = (
        np.array([names[name] for name in each.cameras], np.int64)[each.camera] * max(1, len(seqs))
        + np.searchsorted(seqs, each.seq)
        for each in (ours, theirs)
    )
    return one, two


def _pictures(each: _Asked, places: NDArray[np.int64]) -> Iterator[str]:
    """What identifies each frame's picture; empty where the cameras' log does not know it."""
    return (each.shots[shot].identity if shot >= 0 else "" for shot in each.shot[places].tolist())
