"""Intervals, percentiles and survival: how sure a figure is, and when it is none.

Everything is two-sided at 95 %. A value that cannot be had is None, never NaN.
"""

from __future__ import annotations

__all__ = [
    "Survival",
    "bootstrap_means",
    "median",
    "median_interval",
    "percentile",
    "poisson_interval",
    "restricted_means",
    "survival",
    "undetected",
    "wilson_interval",
]

import math
import statistics
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]
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
    found = scipy.stats.binomtest(hits, of).proportion_ci(1 - ALPHA, method="wilson")
    return float(found.low), float(found.high)


@lru_cache(maxsize=4096)  # most cameras of a fleet have the same few counts
def poisson_interval(events: int) -> tuple[float, float]:
    """The exact (Garwood) interval of a Poisson mean, from the χ² distribution.

    0 → (0, 3.689); 1 → (0.0253, 5.572); 8 → (3.454, 15.763).
    """
    low = float(scipy.stats.chi2.ppf(ALPHA / 2, 2 * events)) / 2 if events else 0.0
    return low, float(scipy.stats.chi2.ppf(1 - ALPHA / 2, 2 * events + 2)) / 2


def percentile(values: Sequence[float] | NDArray[np.float64], rank: int) -> float | None:
    """The rank-th percentile, interpolated; None under the floor of its rank (any needs one)."""
    if len(values) < max(1, FLOORS.get(rank, 1)):
        return None
    return float(np.percentile(np.asarray(values, dtype=float), rank))


def median(values: Sequence[float]) -> float | None:
    """The middle one, of an even number the mean of both; None of nothing."""
    return statistics.median(values) if values else None


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The exact interval of a median, from the order of the values alone; None under six.

    Of n values the k-th smallest and the k-th largest enclose the median unless fewer than k lie on
    one of its sides, which Binomial(n, 1/2) tells: 6 values → the least and the greatest (missed in
    2/64 = 3.1 %); 10 values → the second and the ninth (2·11/1024 = 2.1 %).
    """
    n = len(values)
    k = int(scipy.stats.binom.ppf(ALPHA / 2, n, 0.5)) if n else 0
    if k < 1:
        return None
    ordered = np.partition(np.asarray(values, dtype=float), [k - 1, n - k])
    return float(ordered[k - 1]), float(ordered[n - k])


Ends = tuple[float, float]
Open = tuple[float | None, float | None]
"""Seconds; None where the end lies beyond what was watched."""


@dataclass(frozen=True, slots=True)
class Survival:
    """Kaplan–Meier: the share of views not yet detected, by seconds after onset.

    Intervals at 95 %, for views that are independent of each other, but `rmst_interval_s`.
    """

    times_s: tuple[float, ...]
    undetected: tuple[float, ...]
    """The share from each time on, until the next."""
    median_s: float | None
    """When half of the views are detected; None if that never happens."""
    rmst_s: float
    """Restricted mean: seconds undetected, each view counted to the horizon at most."""
    intervals: tuple[Ends | None, ...] = ()
    """Of each share, Greenwood's on the scale log(−log S); None where the share is 0 or 1."""
    at_risk: tuple[int, ...] = ()
    """Views undetected and still watched just before each time."""
    median_interval_s: Open | None = None
    """Where the band of the curve crosses one half (Brookmeyer and Crowley); None without one."""
    rmst_interval_s: Ends | None = None
    """Bootstrap by fire; None under MIN_CLUSTERS fires."""


def survival(
    detected_s: Sequence[float],
    censored_s: Sequence[float],
    horizon_s: float,
    fires: Sequence[Hashable] = (),
) -> Survival | None:
    """The curve of views detected after `detected_s` or given up undetected after `censored_s`.

    `fires` names the fire of each of these views in that order, the detected ones first; cameras of
    one fire are drawn together for the interval of the restricted mean.

    Detected at 60 and 120 s, one undetected to 2400 s: 2/3 from 60 s, 1/3 from 120 s on; median
    120 s; RMST(2400) = 60 + 60·2/3 + 2280/3 = 860 s. At 60 s Greenwood's sum is 1/(3·2) = 1/6, so
    the standard error of log(−log 2/3) is √(1/6)/0.4055 = 1.0069 and the interval of the share
    (2/3)^exp(±1.96·1.0069), 0.054 to 0.945.
    """
    hits = [min(max(0.0, s), horizon_s) for s in detected_s]
    rest = [min(max(0.0, s), horizon_s) for s in censored_s]
    if not hits and not rest:
        return None
    curve = scipy.stats.ecdf(scipy.stats.CensoredData(uncensored=hits, right=rest)).sf
    times = [float(t) for t in curve.quantiles]
    shares = [float(p) for p in curve.probabilities]
    steps = list(zip([0.0, *times], [1.0, *shares], [*times, horizon_s], strict=True))
    intervals = _band(curve)
    until = np.sort(np.array([*hits, *rest]))
    return Survival(
        times_s=tuple(times),
        undetected=tuple(shares),
        # a share of exactly one half comes out of products of fractions a hair beside it
        median_s=next((t for t, p in zip(times, shares, strict=True) if p <= 0.5 + 1e-12), None),
        rmst_s=math.fsum(share * (end - begin) for begin, share, end in steps),
        intervals=intervals,
        at_risk=tuple((len(until) - np.searchsorted(until, times)).tolist()),
        median_interval_s=_crossing(times, shares, intervals),
        rmst_interval_s=_drawn_means(hits, rest, horizon_s, fires),
    )


def _band(curve: Any) -> tuple[Ends | None, ...]:
    """Of scipy's survival function; at 0 and 1 there is nothing to take a logarithm of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy says that in words too
        found = curve.confidence_interval(1 - ALPHA, method="log-log")
    return tuple(
        (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None
        for low, high in zip(found.low.probabilities, found.high.probabilities, strict=True)
    )


def _crossing(
    times: Sequence[float], shares: Sequence[float], intervals: Sequence[Ends | None]
) -> Open | None:
    """The first times at which the lower and the upper end of the band are at most one half."""
    if not any(intervals):
        return None

    def first(end: int) -> float | None:
        for time, share, interval in zip(times, shares, intervals, strict=True):
            if (share if interval is None else interval[end]) <= 0.5 + 1e-12:
                return time
        return None

    return first(0), first(1)


def _drawn_means(
    hits: Sequence[float], rest: Sequence[float], horizon_s: float, fires: Sequence[Hashable]
) -> Ends | None:
    """The percentile interval of the restricted mean, fires drawn with replacement."""
    places = {fire: place for place, fire in enumerate(dict.fromkeys(fires))}
    if len(places) < MIN_CLUSTERS:
        return None
    cluster = np.array([places[fire] for fire in fires])
    detected = np.arange(len(cluster)) < len(hits)
    times = np.array([*hits, *rest])
    rng = np.random.default_rng(SEED)
    even = np.full(len(places), 1 / len(places))
    means = []
    block = max(1, 2_000_000 // len(times))
    for begin in range(0, RESAMPLES, block):
        weights = rng.multinomial(len(places), even, size=min(block, RESAMPLES - begin))
        means.append(
            restricted_means(times, detected, weights[:, cluster].astype(float), horizon_s)
        )
    low, high = np.percentile(np.concatenate(means), [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)


def undetected(
    times_s: Floats, detected: NDArray[np.bool_], weights: Floats, horizon_s: float
) -> tuple[Floats, Floats]:
    """The times at which anything changes, and the share undetected from each on, a row a draw.

    Kaplan–Meier, each view counted `weights` times; NaN in a row without any weight.
    """
    times = np.clip(times_s, 0.0, horizon_s)
    order = np.argsort(times, kind="stable")
    times, detected, weights = times[order], detected[order], weights[:, order]
    at_risk = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    starts = np.flatnonzero(np.r_[True, np.diff(times) > 0])
    gone = np.add.reduceat(weights * detected, starts, axis=1)
    risk = at_risk[:, starts]
    share = np.cumprod(1 - np.divide(gone, risk, out=np.zeros_like(gone), where=risk > 0), axis=1)
    return times[starts], np.where(at_risk[:, :1] > 0, share, np.nan)


def restricted_means(
    times_s: Floats, detected: NDArray[np.bool_], weights: Floats, horizon_s: float
) -> Floats:
    """RMST of each row of weights; with weights of one the same as `survival`'s."""
    times, share = undetected(times_s, detected, weights, horizon_s)
    whole: Floats = times[0] + share @ np.diff(np.r_[times, horizon_s])
    return whole


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
