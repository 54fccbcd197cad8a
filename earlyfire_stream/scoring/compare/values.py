"""Figures as functions of how often each fire counts on either side.

So one formula gives the figure itself, its bootstrap and its permutations.
"""

from __future__ import annotations

__all__ = [
    "OfSums",
    "Percentile",
    "Ranked",
    "Restricted",
    "Totals",
    "Value",
    "combined",
    "detection",
    "early_fire",
    "few",
    "located",
    "per_camera_day",
    "quick",
    "readable",
]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.scoring.answers import VALID_SHARE
from earlyfire_stream.scoring.compare.measured import COLUMN, Floats
from earlyfire_stream.scoring.detection import HORIZON_S
from earlyfire_stream.scoring.early_fire import few_false_alarms
from earlyfire_stream.scoring.statistics import restricted_means

Totals = Callable[[str], Floats]


class Value(Protocol):
    """A figure of a mixture: `ours` draws from the first side's clusters, `theirs` the other's.

    Weights have a row a draw and a column a cluster; the result one value a draw, NaN where it is
    undefined.
    """

    def __call__(self, ours: Floats, theirs: Floats) -> Floats: ...


@dataclass(frozen=True, slots=True)
class OfSums:
    """A figure of sums over clusters."""

    first: Floats
    other: Floats
    formula: Callable[[Totals], Floats]

    def __call__(self, ours: Floats, theirs: Floats) -> Floats:
        sums = ours @ self.first + theirs @ self.other
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.formula(lambda name: sums[:, COLUMN[name]])


@dataclass(frozen=True, slots=True)
class Restricted:
    """RMST of the views of both sides; `cluster` is each view's column."""

    first: tuple[Floats, NDArray[np.bool_]]
    other: tuple[Floats, NDArray[np.bool_]]
    cluster: NDArray[np.intp]

    def __call__(self, ours: Floats, theirs: Floats) -> Floats:
        return restricted_means(
            np.r_[self.first[0], self.other[0]],
            np.r_[self.first[1], self.other[1]],
            np.hstack([ours[:, self.cluster], theirs[:, self.cluster]]),
            HORIZON_S,
        )


@dataclass(frozen=True, slots=True)
class Percentile:
    """A percentile of latencies, from how many of them lie at each value, by cluster."""

    values: Floats
    first: Floats
    other: Floats
    rank: int

    def __call__(self, ours: Floats, theirs: Floats) -> Floats:
        below = np.cumsum(ours @ self.first + theirs @ self.other, axis=1)
        wanted = below[:, -1:] * self.rank / 100
        found = self.values[np.argmax(below >= wanted, axis=1)]
        return np.where(below[:, -1] > 0, found, np.nan)


@dataclass(frozen=True, slots=True)
class Ranked:
    """Average precision, as `accuracy` defines it, of boxes each counted so many times."""

    first: Mapping[str, Floats]
    other: Mapping[str, Floats]
    boxed: tuple[Floats, Floats]
    """Frames with truth boxes, by cluster."""
    iou: float

    def __call__(self, ours: Floats, theirs: Floats) -> Floats:
        hits, ranks, columns = (
            np.concatenate([self.first[name], self.other[name]])
            for name in ("iou", "rank", "cluster")
        )
        order = np.argsort(-ranks, kind="stable")
        from_first = (np.arange(len(ranks)) < len(self.first["rank"]))[order]
        columns = columns[order].astype(np.intp)
        hits = hits[order] >= self.iou
        last = np.flatnonzero(np.r_[np.diff(ranks[order]) != 0, True])
        areas = []
        for one, two in zip(ours, theirs, strict=True):
            n = float(one @ self.boxed[0] + two @ self.boxed[1])
            if n <= 0:
                areas.append(math.nan)
                continue
            weight = np.where(from_first, one[columns], two[columns])
            taken = np.cumsum(weight)[last]
            matched = np.cumsum(weight * hits)[last]
            precision = np.divide(matched, taken, out=np.zeros_like(taken), where=taken > 0)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            areas.append(float(np.diff(matched / n, prepend=0.0) @ envelope))
        return np.array(areas)


def detection(t: Totals) -> Floats:
    return t("worth") / t("views")


def per_camera_day(t: Totals) -> Floats:
    return np.where(t("hours") > 0, 24 * t("episodes") / t("hours"), np.nan)


def few(t: Totals) -> Floats:
    return np.array([few_false_alarms(float(value)) for value in per_camera_day(t)])


def combined(t: Totals) -> Floats:
    d, f = detection(t), few(t)
    return np.where(d + f == 0, 0.0, 2 * d * f / (d + f))


def located(t: Totals) -> Floats:
    value = t("matched") ** 2 / (t("predicted") * t("boxed"))
    return np.where(t("matched") > 0, value, 0.0)


def quick(t: Totals) -> Floats:
    return t("quick") / t("admitted")


def readable(t: Totals) -> Floats:
    return np.minimum(1.0, t("valid") / t("sent") / VALID_SHARE)


def early_fire(boxed: bool) -> Callable[[Totals], Floats]:
    def value(t: Totals) -> Floats:
        soon = 0.15 * np.nan_to_num(quick(t))
        worth = 0.70 + 0.15 * located(t) + soon if boxed else (0.70 + soon) / 0.85
        return 100 * np.nan_to_num(readable(t)) * combined(t) * worth

    return value
