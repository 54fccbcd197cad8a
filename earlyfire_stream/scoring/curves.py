"""Detection over time: Kaplan–Meier curves of views that may each count any number of times.

Resampled fires are weights: a fire drawn twice counts twice. So the band around a curve comes from
the same formula as the curve. Times are seconds since the onset.
"""

from __future__ import annotations

__all__ = ["Curve", "detection_curve"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.scoring.detection import HORIZON_S
from earlyfire_stream.scoring.statistics import (
    ALPHA,
    MIN_CLUSTERS,
    RESAMPLES,
    SEED,
    Survival,
    survival,
    undetected,
)

Floats = NDArray[np.float64]
DRAWS_AT_ONCE = 200
"""Bounds the memory of thousands of views: a row of weights a draw, a column a view."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A side's curve of views not yet detected."""

    survival: Survival
    n: int
    band: tuple[tuple[float, float, float], ...]
    """(time, low, high) of the share undetected from each time on, 95 %, pointwise, by fire; empty
    under 8 fires."""


def detection_curve(
    times_s: Sequence[float], detected: Sequence[bool], fires: Sequence[object]
) -> Curve | None:
    """Of views found, or given up, so long after the onset; `fires` tells which belong together.

    None without a view.
    """
    times, found = np.array(times_s, float), np.array(detected, np.bool_)
    curve = survival(times[found].tolist(), times[~found].tolist(), HORIZON_S)
    if curve is None:
        return None
    return Curve(curve, len(times), _band(times, found, fires))


def _band(
    times: Floats, found: NDArray[np.bool_], fires: Sequence[object]
) -> tuple[tuple[float, float, float], ...]:
    numbers = {fire: place for place, fire in enumerate(dict.fromkeys(fires))}
    count = len(numbers)
    if count < MIN_CLUSTERS:
        return ()
    fire = np.array([numbers[each] for each in fires])
    random = np.random.default_rng(SEED)
    parts = []
    for _ in range(RESAMPLES // DRAWS_AT_ONCE):
        drawn = random.multinomial(count, np.full(count, 1 / count), size=DRAWS_AT_ONCE)
        at, share = undetected(times, found, drawn[:, fire].astype(float), HORIZON_S)
        parts.append(share)
    ends = np.percentile(np.vstack(parts), [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)], axis=0)
    return tuple(zip(at.tolist(), *ends.tolist(), strict=True))
