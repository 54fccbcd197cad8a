"""Frame by frame: the frame score v1, right and wrong answers, and where the boxes lie.

Sources: [S] the SAI benchmark's `evaluate.py`; [A] streaming accuracy after sAP.
"""

from __future__ import annotations

__all__ = [
    "CameraBoxes",
    "Confusion",
    "Localization",
    "average_precision",
    "camera_boxes",
    "confusion",
    "frame_score_v1",
    "judged_sequence",
    "judged_sequences",
    "localization",
    "mean_frame_score_v1",
    "pooled_boxes",
    "rank",
    "streamed",
    "streaming_accuracy",
]

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.records import FrameTable
from earlyfire_stream.scoring.footage import Footage
from earlyfire_stream.scoring.statistics import wilson_interval
from earlyfire_stream.verdict import Box, Fate

BadJson = Literal["discard", "negative"]
IOU_MATCH = 0.4
ASKED = (Fate.ANSWERED, Fate.BAD_JSON, Fate.ENGINE_ERROR)
"""Frames that sampling chose and an engine was asked about."""
_ASKED = [tuple(Fate).index(fate) for fate in ASKED]


# --- v1 ------------------------------------------------------------------------------------------


def frame_score_v1(
    predictions: Sequence[bool | None], truth: Sequence[bool], bad_json: BadJson = "discard"
) -> float:
    """The frame score of one sequence, 0 to 1; None stands for an unreadable answer. [S]

        n = min(|p|,|g|), N = |p|; empty p or g -> 0
        acc = #{i<n : p_i == g_i} / n
        f = first i with g_i ; d = first i with p_i
        bonus = 0 if f or d is None ; +0.2·(1 − d/N) if d <= f ; −0.1·(d − f)/N if d > f
        v1 = clip(acc + bonus, 0, 1)

    `discard`: unreadable answers leave both sides of acc, while d, f and N keep their indices; all
    unreadable → 0. `negative` counts them as "no smoke", as [S] does.

    FFTT / 0011 → 1.0 · FFFT / 0011 → 0.75 − 0.1·1/4 = 0.725 · TTTT / 0011 → 0.5 + 0.2 = 0.7
    """
    total = len(predictions)
    n = min(total, len(truth))
    if n == 0:
        return 0.0
    if bad_json == "negative":
        predictions = [bool(p) for p in predictions]
    judged = [(p, g) for p, g in zip(predictions, truth, strict=False) if p is not None]
    if not judged:
        return 0.0
    accuracy = sum(p == g for p, g in judged) / len(judged)
    first = next((i for i, g in enumerate(truth) if g), None)
    found = next((i for i, p in enumerate(predictions) if p), None)
    bonus = 0.0
    if first is not None and found is not None:
        late = found - first
        bonus = 0.2 * (1 - found / total) if late <= 0 else -0.1 * late / total
    return min(1.0, max(0.0, accuracy + bonus))


Judged = tuple[Sequence[bool | None], Sequence[bool]]
"""Predictions and truth of one sequence."""


def judged_sequences(footages: Iterable[Footage]) -> list[Judged]:
    """One sequence per camera that has a cadence and a truth.

    It holds the frames that an engine was asked about, those whose truth is unknown left out. A
    camera of which none was asked gives an empty sequence, which scores 0 as it does in [S].
    """
    return [found for found in map(judged_sequence, footages) if found is not None]


def judged_sequence(footage: Footage) -> Judged | None:
    """Of one camera; see `judged_sequences`."""
    known = footage.smoke >= 0
    if not footage.timed or (len(known) and not known.any()):
        return None
    asked = known & np.isin(footage.fate, _ASKED)
    told = {-1: None, 0: False, 1: True}
    predictions = [told[said] for said in footage.says[asked].tolist()]
    return predictions, (footage.smoke[asked] == 1).tolist()


def mean_frame_score_v1(sequences: Sequence[Judged], bad_json: BadJson = "discard") -> float | None:
    """v1 × 100, the mean over sequences; None without any."""
    scores = [frame_score_v1(predictions, truth, bad_json) for predictions, truth in sequences]
    return 100 * sum(scores) / len(scores) if scores else None


# --- right and wrong -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Confusion:
    """Answered frames of known truth; a share of nothing is None."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n(self) -> int:
        return self.tp + self.fp + self.fn + self.tn

    @property
    def precision(self) -> float | None:
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        return _share(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float | None:
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def f1_interval(self) -> tuple[float, float] | None:
        """Wilson's interval of J = tp/(tp + fp + fn), a plain share, carried over to F1.

        F1 = 2J/(1 + J) rises with J, so the ends stay ends. 8, 1, 1: J = 8 of 10, Wilson 0.490 to
        0.943, F1 0.658 to 0.971.
        """
        share = wilson_interval(self.tp, self.tp + self.fp + self.fn)
        return None if share is None else (_f1_of(share[0]), _f1_of(share[1]))

    @property
    def accuracy(self) -> float | None:
        return _share(self.tp + self.tn, self.n)

    def to_json(self) -> dict[str, object]:
        return {
            "n": self.n,
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.fn,
            "tn": self.tn,
            "precision": self.precision,
            "precision_interval": wilson_interval(self.tp, self.tp + self.fp),
            "recall": self.recall,
            "recall_interval": wilson_interval(self.tp, self.tp + self.fn),
            "f1": self.f1,
            "f1_interval": self.f1_interval,
            "accuracy": self.accuracy,
            "accuracy_interval": wilson_interval(self.tp + self.tn, self.n),
        }


def _f1_of(share: float) -> float:
    return 2 * share / (1 + share)


def confusion(footages: Iterable[Footage]) -> Confusion:
    """Unreadable answers and errors enter no count; stills are in."""
    told = Counter[tuple[int, int]]()
    for footage in footages:
        for said in (0, 1):
            for smoke in (0, 1):
                both = (footage.says == said) & (footage.smoke == smoke)
                told[said, smoke] += int(both.sum())
    return Confusion(tp=told[1, 1], fp=told[1, 0], fn=told[0, 1], tn=told[0, 0])


def streaming_accuracy(frames: FrameTable, footages: Iterable[Footage]) -> float | None:
    """At the capture of each frame, is the newest answer given by then right? [A]

    An answer to a frame can at best be there for the next one, so latency costs accuracy. Until a
    camera's first answer "no smoke" stands. None without frames of known truth.
    """
    counts = streamed(frames, footages)
    return _share(sum(right for right, _ in counts), sum(of for _, of in counts))


def streamed(frames: FrameTable, footages: Iterable[Footage]) -> list[tuple[int, int]]:
    """(right, all) instants of each camera; see `streaming_accuracy`. Nothing of stills."""
    given_ns = frames.answer_column("answered_ns")
    answer = frames.column("answer").astype(np.int64)
    counts = []
    for footage in footages:
        right = of = 0
        if footage.timed:
            known = footage.smoke >= 0
            truth = footage.smoke == 1
            right = int((_newest_by_then(footage, answer, given_ns) == truth)[known].sum())
            of = int(known.sum())
        counts.append((right, of))
    return counts


def _newest_by_then(
    footage: Footage, answer: NDArray[np.int64], given_ns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """By frame: what the newest picture said that had been answered at that frame's capture."""
    there = np.flatnonzero(footage.says >= 0)
    said = footage.says == 1
    if not len(there):
        return np.zeros(len(said), np.bool_)
    answered_ns = given_ns[answer[footage.records[there]] - 1]
    order = np.argsort(answered_ns, kind="stable")
    # of all that were given so far the one whose frame was taken last
    newest = np.maximum.accumulate(there[order])
    given = np.searchsorted(answered_ns[order], footage.captured_ns, side="right")
    return np.where(given > 0, said[newest[given - 1]], False)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# --- boxes ---------------------------------------------------------------------------------------


Overlap = tuple[float, float | None]
"""Of a predicted box: its IoU with the truth box that fits best, and its confidence."""


@dataclass(frozen=True, slots=True)
class CameraBoxes:
    """What one camera adds to `localization`."""

    any_truth: bool
    """The truth of some frame has a box."""
    n: int
    """Answered frames with truth boxes."""
    overlaps: Sequence[Overlap]

    @property
    def matched(self) -> int:
        return sum(iou >= IOU_MATCH for iou, _ in self.overlaps)


@dataclass(frozen=True, slots=True)
class Localization:
    """Boxes of answered frames against the truth; see `localization`."""

    matched: int
    predicted: int
    n: int
    """Answered frames with truth boxes."""
    ap40: float | None
    ap50: float | None

    @property
    def value(self) -> float:
        """L = precision × recall = (matched/predicted)·(matched/n); 0 where nothing matched."""
        return self.matched**2 / (self.predicted * self.n) if self.matched else 0.0

    def to_json(self) -> dict[str, object]:
        return {
            "ap40": self.ap40,
            "ap50": self.ap50,
            "n": self.n,
            "predicted": self.predicted,
            "matched": self.matched,
            "precision": _share(self.matched, self.predicted),
            "precision_interval": wilson_interval(self.matched, self.predicted),
            "recall": _share(self.matched, self.n),
            "recall_interval": wilson_interval(self.matched, self.n),
        }


def localization(footages: Iterable[Footage]) -> Localization | None:
    """How well the boxes lie; None if the truth has no boxes at all.

    One match a frame at IoU >= 0.4, the best of its truth boxes. Smoke claimed without a box is a
    miss; boxes before the onset and on negative frames are false; smoky frames without truth boxes
    are left out. 3 matched of 4 predicted over 5 frames: L = 3/4 · 3/5 = 0.45.

    `ap40` and `ap50` rank the same boxes by confidence; None if no box has one.
    """
    return pooled_boxes([camera_boxes(footage) for footage in footages])


def camera_boxes(footage: Footage) -> CameraBoxes:
    """Of one camera; nothing of one without a truth."""
    any_truth = False
    n = 0
    overlaps: list[Overlap] = []
    # a frame that shows no box and of which no smoke is claimed changes nothing
    telling = (footage.marked | (footage.says == 1)) & footage.plan.truth
    for frame in footage.those(np.flatnonzero(telling)):
        verdict = frame.verdict
        if verdict is None and any_truth:
            continue
        boxes = [t.box for t in frame.truth if t.box is not None]
        any_truth = any_truth or bool(boxes)
        if verdict is None or frame.smoke is None or (frame.smoke and not boxes):
            continue
        n += bool(boxes)
        if verdict.has_smoke and verdict.box is not None:
            overlaps.append((best_iou(verdict.box, boxes), verdict.confidence))
    return CameraBoxes(any_truth, n, overlaps)


def pooled_boxes(cameras: Sequence[CameraBoxes]) -> Localization | None:
    """All cameras' boxes together; see `localization`."""
    if not any(camera.any_truth for camera in cameras):
        return None
    n = sum(camera.n for camera in cameras)
    overlaps = [overlap for camera in cameras for overlap in camera.overlaps]
    ranked = any(confidence is not None for _, confidence in overlaps)
    return Localization(
        matched=sum(camera.matched for camera in cameras),
        predicted=len(overlaps),
        n=n,
        ap40=average_precision(overlaps, n, 0.4) if ranked and n else None,
        ap50=average_precision(overlaps, n, 0.5) if ranked and n else None,
    )


def best_iou(predicted: Box, truth: Iterable[Box]) -> float:
    """The IoU with the truth box that fits best, 0 without one."""
    return max((predicted.iou(box) for box in truth), default=0.0)


def average_precision(overlaps: Sequence[Overlap], n: int, threshold: float) -> float:
    """Area under the precision envelope over recall, all points.

    Boxes of equal confidence enter at once, so that their order cannot matter; boxes without one
    come last. Hit at .9, miss at .8, hit at .7, two frames: 1/2·1 + 1/2·2/3 = 0.833.
    """
    points: list[tuple[float, float]] = []
    matched = taken = 0
    ranked = sorted(overlaps, key=rank, reverse=True)
    for _, group in groupby(ranked, key=rank):
        for iou, _ in group:
            matched += iou >= threshold
            taken += 1
        points.append((matched / n, matched / taken))
    area = best = 0.0
    for (recall, precision), before in zip(
        reversed(points), [r for r, _ in reversed(points[:-1])] + [0.0], strict=True
    ):
        best = max(best, precision)
        area += (recall - before) * best
    return area


def rank(overlap: Overlap) -> float:
    """Boxes come in falling order of it."""
    return -1.0 if overlap[1] is None else overlap[1]
