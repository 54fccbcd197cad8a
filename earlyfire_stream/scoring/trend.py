"""Does it grow? Slopes of Theil and Sen, with intervals: one strange point moves them little.

The slope is the median of the slopes between all pairs of points; its interval (Sen 1968) rests on
the order of these alone, so nothing need be normal. Points are taken for independent of each other:
give one for a window of time, not every sample. Two-sided at 95 %.
"""

from __future__ import annotations

__all__ = ["MIN_POINTS", "Trend", "trend"]

from collections.abc import Sequence
from dataclasses import dataclass

import scipy

from earlyfire_stream.scoring.statistics import ALPHA, median

MIN_POINTS = 6
"""Under five points no interval at 95 % leaves out zero; with six one may be out of place."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through points (seconds, value)."""

    n: int
    slope: float
    """Of the value, a second."""
    interval: tuple[float, float]
    level: float
    """The median of the values."""
    begin_s: float
    end_s: float
    at_end: float
    """Where the line stands at `end_s`: it runs through the medians of both."""
    later: float
    """The slope of the later half of the points alone: what goes on, not what settled."""

    @property
    def span_s(self) -> float:
        return self.end_s - self.begin_s

    @property
    def grown(self) -> float:
        """What the value gained along the line, from the first point to the last."""
        return self.slope * self.span_s

    @property
    def surely_grown(self) -> float:
        """The same along the lower end of the interval."""
        return self.interval[0] * self.span_s


def trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """None under MIN_POINTS points. Instants must rise.

    1, 2, 3, 100, 5, 6 at 0 … 5 s: the slope is 1 a second, whatever the fourth says.
    """
    if len(points) < MIN_POINTS:
        return None
    at, values = zip(*points, strict=True)
    slope, low, high = _slopes(at, values)
    begin_s, end_s = float(at[0]), float(at[-1])
    level, middle = median(values), median(at)
    assert level is not None
    assert middle is not None
    half = len(points) // 2
    return Trend(
        n=len(points),
        slope=slope,
        interval=(low, high),
        level=float(level),
        begin_s=begin_s,
        end_s=end_s,
        at_end=level + slope * (end_s - middle),
        later=_slopes(at[half:], values[half:])[0],
    )


def _slopes(at: Sequence[float], values: Sequence[float]) -> tuple[float, float, float]:
    found = scipy.stats.theilslopes(values, at, alpha=1 - ALPHA)
    return float(found.slope), float(found.low_slope), float(found.high_slope)
