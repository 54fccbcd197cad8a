"""How sure a difference is: fires drawn again, their halves traded, several runs adjusted for."""

from __future__ import annotations

__all__ = [
    "PERMUTATIONS",
    "UNDEFINED_AT_MOST",
    "Interval",
    "holm",
    "interval_of",
    "permuted",
    "resamples",
]

from collections.abc import Sequence

import numpy as np
import scipy

from earlyfire_stream.scoring.compare.measured import Floats
from earlyfire_stream.scoring.compare.values import Value
from earlyfire_stream.scoring.statistics import ALPHA, MIN_CLUSTERS, RESAMPLES, SEED

Interval = tuple[float, float]
PERMUTATIONS = 9999
"""Draws where 2^n sign flips are more than these; fewer are all tried."""
UNDEFINED_AT_MOST = 0.05
"""Share of resamples in which a figure may be undefined; beyond, it has no interval."""


def resamples(fires: int, cameras: int) -> Floats | None:
    """How often each cluster was drawn, a row a resample: fires among fires, cameras likewise."""
    if fires < MIN_CLUSTERS:
        return None
    random = np.random.default_rng(SEED)
    drawn = [
        random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        for count in (fires, cameras)
        if count
    ]
    return np.hstack(drawn).astype(float)


def interval_of(value: Value, drawn: Floats | None) -> Interval | None:
    if drawn is None:
        return None
    none = np.zeros_like(drawn)
    differences = value(none, drawn) - value(drawn, none)
    known = differences[np.isfinite(differences)]
    if len(known) < (1 - UNDEFINED_AT_MOST) * len(differences) or not known.any():
        return None  # what never differed has not been measured to differ by exactly nothing
    low, high = np.percentile(known, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return float(low), float(high)


def permuted(value: Value, clusters: int) -> tuple[float, int]:
    """The two-sided p of a paired permutation test, and how many clusters it could flip.

    A cluster's two halves trade sides or not, which is its difference's sign. Clusters that are
    alike on both sides change nothing by that and stay in place, so p cannot be below 2^-(n-1), n
    being the others. No such cluster: nothing differs, p is 1.
    """

    def difference(ours: Floats) -> Floats:
        # a figure that such a draw leaves undefined tells nothing against equality
        return np.nan_to_num(value(1 - ours, ours) - value(ours, 1 - ours))

    as_is = difference(np.ones((1, clusters)))
    one_traded = difference(1 - np.eye(clusters))
    places = np.flatnonzero(~np.isclose(one_traded, as_is, rtol=1e-9, atol=1e-12))
    if len(places) < 2:
        return 1.0, len(places)  # both ways round are as far from zero

    def statistic(signs: Floats, axis: int = -1) -> Floats:
        rows = signs.reshape(-1, len(places))
        ours = np.ones((len(rows), clusters))
        ours[:, places] = (1 + rows) / 2
        return difference(ours).reshape(signs.shape[:-1])

    tested = scipy.stats.permutation_test(
        (np.ones(len(places)),),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=500,
        random_state=np.random.default_rng(SEED),
    )
    return float(tested.pvalue), len(places)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given. 0.01, 0.04, 0.03 → 0.03, 0.06, 0.06."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = highest
    return adjusted
