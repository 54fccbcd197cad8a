"""Durations counted in bins a hundredth wide: bounded however many come, and summed exactly.

A bin's upper end is 1.01 times its lower one, from 0.1 ms on, so a percentile is right to half a
hundredth. At most 2,000 bins (up to 12 h) hold a window of any length; two windows are one when
their bins are added, which is how the windows of a crashed run and of the next one become one soak.
"""

from __future__ import annotations

__all__ = ["BIN_SHARE", "Histogram", "percentile_interval"]

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from earlyfire_stream.scoring.statistics import ALPHA, FLOORS, MIN_CLUSTERS, RESAMPLES, SEED

LEAST_S = 1e-4
BIN_SHARE = 0.01
"""A bin's width, of its lower end."""
STEP = math.log(1 + BIN_SHARE)
BINS = 2000


def _bin_of(seconds: float) -> int:
    return 0 if seconds <= LEAST_S else min(BINS - 1, 1 + int(math.log(seconds / LEAST_S) / STEP))


def _seconds_of(place: int) -> float:
    """The middle of a bin; the first holds all up to LEAST_S."""
    return LEAST_S if place == 0 else LEAST_S * math.exp((place - 0.5) * STEP)


@dataclass(slots=True)
class Histogram:
    """How often which duration came. Negative ones are no durations: the caller leaves them out."""

    counts: Counter[int] = field(default_factory=Counter)
    """By the number of its bin."""

    @property
    def n(self) -> int:
        return self.counts.total()

    def add(self, seconds: float) -> None:
        self.counts[_bin_of(seconds)] += 1

    def percentile(self, rank: int) -> float | None:
        """The value that `rank` per cent lie at or below; None under the floor of its rank.

        Of 1, 2, 3, 4 s the 50th is 2 s, to half a hundredth.
        """
        n = self.n
        if n < max(1, FLOORS.get(rank, 1)):
            return None
        wanted, seen = math.ceil(rank / 100 * n), 0
        for place, count in sorted(self.counts.items()):
            seen += count
            if seen >= wanted:
                return _seconds_of(place)
        raise AssertionError("the counts do not add up")

    @classmethod
    def summed(cls, parts: Iterable[Histogram]) -> Histogram:
        whole = cls()
        for part in parts:
            whole.counts.update(part.counts)
        return whole

    def to_json(self) -> dict[str, int]:
        return {str(place): count for place, count in sorted(self.counts.items())}

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Histogram:
        return cls(Counter({int(place): int(count) for place, count in data.items()}))


def percentile_interval(windows: Sequence[Histogram], rank: int) -> tuple[float, float] | None:
    """How sure a percentile over all windows is: whole windows are drawn again, never answers.

    The answers of one window are no independent witnesses: a queue makes all of them late. None
    under MIN_CLUSTERS windows that hold any, and under the floor of the rank.
    """
    held = [window for window in windows if window.n]
    if len(held) < MIN_CLUSTERS or Histogram.summed(held).n < FLOORS.get(rank, 1):
        return None
    places = sorted(set().union(*(window.counts for window in held)))
    counts = np.array([[window.counts[place] for place in places] for window in held], float)
    rng = np.random.default_rng(SEED)
    even = np.full(len(held), 1 / len(held))
    drawn = rng.multinomial(len(held), even, size=RESAMPLES).astype(float) @ counts
    reached = np.cumsum(drawn, axis=1) >= rank / 100 * drawn.sum(axis=1, keepdims=True) - 1e-9
    found = np.array([_seconds_of(place) for place in places])[reached.argmax(axis=1)]
    low, high = np.percentile(found, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)
