"""Intervals, percentiles and survival: how sure a figure is, and when it is none.

Everything is two-sided at 95 %. A value that cannot be had is None, never NaN.
"""

from __future__ import annotations

__all__ = [
    "Survival",
    "bootstrap_means",
    "median",
    "percentile",
    "poisson_interval",
    "survival",
    "wilson_interval",
]

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ALPHA = 0.05
FLOORS: Mapping[int, int] = {90: 64, 95: 130, 99: 662}
"""Samples a tail percentile needs before it is stated at all."""
MIN_CLUSTERS = 8
"""Fires below which a bootstrap says more than the data do."""
RESAMPLES = 2000
SEED = 20240601
"""Fixed, so that one log gives one score; the value itself means nothing."""


def wilson_interval(hits: int, of: int) -> tuple[float, float] | None:
    """Wilson's score interval of a share; None of nothing.

    8 of 10 → (0.490, 0.943); 0 of 10 → (0, 0.278).
    """
    if of <= 0:
        return None
    found = stats.binomtest(hits, of).proportion_ci(1 - ALPHA, method="wilson")
    return float(found.low), float(found.high)


def poisson_interval(events: int) -> tuple[float, float]:
    """The exact (Garwood) interval of a Poisson mean, from the χ² distribution.

    0 → (0, 3.689); 1 → (0.0253, 5.572); 8 → (3.454, 15.763).
    """
    low = float(stats.chi2.ppf(ALPHA / 2, 2 * events)) / 2 if events else 0.0
    return low, float(stats.chi2.ppf(1 - ALPHA / 2, 2 * events + 2)) / 2


def percentile(values: Sequence[float] | NDArray[np.float64], rank: int) -> float | None:
    """The rank-th percentile, interpolated; None under the floor of its rank (any needs one)."""
    if len(values) < max(1, FLOORS.get(rank, 1)):
        return None
    return float(np.percentile(np.asarray(values, dtype=float), rank))


def median(values: Sequence[float]) -> float | None:
    """The middle one, of an even number the mean of both; None of nothing."""
    return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Survival:
    """Kaplan–Meier: the share of views not yet detected, by seconds after onset."""

    times_s: tuple[float, ...]
    undetected: tuple[float, ...]
    """The share from each time on, until the next."""
    median_s: float | None
    """When half of the views are detected; None if that never happens."""
    rmst_s: float
    """Restricted mean: seconds undetected, each view counted to the horizon at most."""


def survival(
    detected_s: Sequence[float], censored_s: Sequence[float], horizon_s: float
) -> Survival | None:
    """The curve of views detected after `detected_s` or given up undetected after `censored_s`.

    Detected at 60 and 120 s, one undetected to 2400 s: 2/3 from 60 s, 1/3 from 120 s on; median
    120 s; RMST(2400) = 60 + 60·2/3 + 2280/3 = 860 s.
    """
    hits = [min(max(0.0, s), horizon_s) for s in detected_s]
    rest = [min(max(0.0, s), horizon_s) for s in censored_s]
    if not hits and not rest:
        return None
    curve = stats.ecdf(stats.CensoredData(uncensored=hits, right=rest)).sf
    times = [float(t) for t in curve.quantiles]
    shares = [float(p) for p in curve.probabilities]
    steps = list(zip([0.0, *times], [1.0, *shares], [*times, horizon_s], strict=True))
    return Survival(
        times_s=tuple(times),
        undetected=tuple(shares),
        # a share of exactly one half comes out of products of fractions a hair beside it
        median_s=next((t for t, p in zip(times, shares, strict=True) if p <= 0.5 + 1e-12), None),
        rmst_s=math.fsum(share * (end - begin) for begin, share, end in steps),
    )


def bootstrap_means(clusters: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """The percentile interval of the mean over all values, whole clusters drawn together.

    Cameras that watch one fire are no independent witnesses, so fires are drawn, never views or
    frames. None under MIN_CLUSTERS clusters.
    """
    if len(clusters) < MIN_CLUSTERS:
        return None
    sums = np.array([math.fsum(c) for c in clusters])
    counts = np.array([len(c) for c in clusters], dtype=float)
    drawn = np.random.default_rng(SEED).integers(len(clusters), size=(RESAMPLES, len(clusters)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)
