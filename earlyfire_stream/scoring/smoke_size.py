"""Boxes by how large the smoke is: small smoke is what matters, and what is missed."""

from __future__ import annotations

__all__ = ["BINS", "SizeBin", "by_size"]

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from earlyfire_stream.scoring.accuracy import IOU_MATCH, average_precision, best_iou
from earlyfire_stream.scoring.footage import Footage
from earlyfire_stream.scoring.statistics import wilson_interval

BINS: tuple[tuple[float, float], ...] = (
    (0.0, 0.001),
    (0.001, 0.005),
    (0.005, 0.02),
    (0.02, 0.08),
    (0.08, 1.0),
)
"""Area of a frame's largest truth box as a share of the frame, the upper end excluded; about 1, 6,
24 and 96 tokens of a 1280 x 720 frame."""


@dataclass(frozen=True, slots=True)
class SizeBin:
    """Answered frames whose smoke is of one size."""

    low: float
    high: float
    n: int
    predicted: int
    matched: int
    """At IoU >= 0.4."""
    ap40: float | None
    ap50: float | None
    """Ranked by confidence; None without one."""

    @property
    def precision(self) -> float | None:
        return self.matched / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        return self.matched / self.n if self.n else None

    @property
    def value(self) -> float | None:
        """Precision × recall; 0 where nothing was predicted, None without frames."""
        if not self.n:
            return None
        return self.matched**2 / (self.predicted * self.n) if self.predicted else 0.0

    def to_json(self) -> dict[str, object]:
        found, right = (
            wilson_interval(self.matched, self.n),
            wilson_interval(self.matched, self.predicted),
        )
        return {
            "area_from": self.low,
            "area_below": self.high,
            "n": self.n,
            "predicted": self.predicted,
            "matched": self.matched,
            "precision": self.precision,
            "precision_interval": None if right is None else list(right),
            "recall": self.recall,
            "recall_interval": None if found is None else list(found),
            "precision_x_recall": self.value,
            "ap40": self.ap40,
            "ap50": self.ap50,
        }


def by_size(footages: Iterable[Footage]) -> tuple[SizeBin, ...]:
    """One per bin. Boxes on frames without smoke belong to no size: they count in L alone."""
    overlaps: list[list[tuple[float, float | None]]] = [[] for _ in BINS]
    frames = [0] * len(BINS)
    for footage in footages:
        if not footage.plan.truth:
            continue
        for frame in footage.those(np.flatnonzero(footage.marked & (footage.says >= 0))):
            verdict = frame.verdict
            boxes = [t.box for t in frame.truth if t.box is not None]
            if verdict is None or not boxes:
                continue
            area = max(box.area for box in boxes)
            place = next(
                (n for n, (low, high) in enumerate(BINS) if low <= area < high), len(BINS) - 1
            )
            frames[place] += 1
            if verdict.has_smoke and verdict.box is not None:
                overlaps[place].append((best_iou(verdict.box, boxes), verdict.confidence))
    return tuple(
        SizeBin(
            low=low,
            high=high,
            n=n,
            predicted=len(found),
            matched=sum(iou >= IOU_MATCH for iou, _ in found),
            ap40=_ranked(found, n, 0.4),
            ap50=_ranked(found, n, 0.5),
        )
        for (low, high), n, found in zip(BINS, frames, overlaps, strict=True)
    )


def _ranked(found: list[tuple[float, float | None]], n: int, threshold: float) -> float | None:
    if not n or all(confidence is None for _, confidence in found):
        return None
    return average_precision(found, n, threshold)
