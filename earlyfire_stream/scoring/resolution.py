"""Does the size of a picture change how often smoke is seen where there is none?

The same scene at the same instant in several heights is one matched set. Sets of one scene are no
independent witnesses, so a scene's heights are shuffled together for the p-value.
"""

from __future__ import annotations

__all__ = ["Calibration", "Rate", "calibration"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from earlyfire_stream.scoring.statistics import SEED, wilson_interval

SHUFFLES = 9999

Said = Mapping[int, Mapping[tuple[str, float], bool]]
"""By height: (scene, instant) of a frame without smoke -> was smoke seen in it?"""


@dataclass(frozen=True, slots=True)
class Rate:
    """Frames without smoke at one height."""

    height: int
    false: int
    n: int

    @property
    def share(self) -> float | None:
        return self.false / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's."""
        return wilson_interval(self.false, self.n)

    def to_json(self) -> dict[str, object]:
        interval = self.interval
        return {
            "height": self.height,
            "false_positives": self.false,
            "n": self.n,
            "rate": self.share,
            "interval": None if interval is None else list(interval),
        }


@dataclass(frozen=True, slots=True)
class Calibration:
    """The rate by height, and whether the height matters."""

    rates: tuple[Rate, ...]
    test: str
    """Which test gave the p-value, or why there is none."""
    statistic: float | None
    p_value: float | None
    matched: int
    """Sets of frames that were answered at every height; 0 where they are not matched."""
    scenes: int

    @property
    def whole(self) -> Rate:
        """All heights together; its height is 0."""
        return Rate(0, sum(r.false for r in self.rates), sum(r.n for r in self.rates))

    def to_json(self) -> dict[str, object]:
        return {
            "rates": [rate.to_json() for rate in self.rates],
            "all": self.whole.to_json(),
            "test": self.test,
            "statistic": self.statistic,
            "p_value": self.p_value,
            "matched_sets": self.matched,
            "scenes": self.scenes,
        }


def calibration(said: Said) -> Calibration:
    """Frames without an answer are left out; of matched sets, the whole set."""
    heights = sorted(said)
    rates = tuple(Rate(h, sum(said[h].values()), len(said[h])) for h in heights)
    scenes = {scene for frames in said.values() for scene, _ in frames}
    asked = [rate for rate in rates if rate.n]
    if len(asked) < 2:
        return Calibration(rates, "none: one height alone", None, None, 0, len(scenes))
    if not any(r.false for r in asked) or all(r.false == r.n for r in asked):
        every = "no" if not any(r.false for r in asked) else "every"
        told = f"none: smoke was seen in {every} frame"
        return Calibration(rates, told, None, None, 0, len(scenes))
    places = [r.height for r in asked]
    sets = sorted(set.intersection(*(set(said[h]) for h in places)))
    table = np.array([[said[h][key] for h in places] for key in sets], dtype=float)
    if len(sets) * 2 >= max(r.n for r in asked) and np.ptp(table, axis=1).any():
        groups = [scene for scene, _ in sets]
        return Calibration(
            rates,
            f"Cochran's Q over {len(sets)} matched sets of {len(set(groups))} scenes, "
            "heights shuffled within each scene",
            cochran_q(table),
            _shuffled_p(table, groups),
            len(sets),
            len(scenes),
        )
    counts = np.array([[r.false, r.n - r.false] for r in asked])
    if len(asked) == 2:
        odds, p = scipy.stats.fisher_exact(counts)
        finite = float(odds) if math.isfinite(odds) else None
        return Calibration(rates, "Fisher's exact test", finite, float(p), 0, len(scenes))
    found = scipy.stats.chi2_contingency(counts)
    return Calibration(
        rates,
        "chi-square test of independence",
        float(found.statistic),
        float(found.pvalue),
        0,
        len(scenes),
    )


def cochran_q(table: NDArray[np.float64]) -> float:
    """Q = (k−1)(kΣC² − N²)/(kN − ΣR²) of rows of 0 and 1; 0 where no row differs in itself.

    Six rows 110 110 110 100 100 111: C = 6, 4, 1, N = 11, ΣR² = 3·4 + 2·1 + 9 = 23, so
    Q = 2·(3·53 − 121)/(3·11 − 23) = 7.6.
    """
    k = table.shape[1]
    columns, rows, n = table.sum(axis=0), table.sum(axis=1), table.sum()
    below = k * n - float((rows**2).sum())
    return float((k - 1) * (k * float((columns**2).sum()) - n**2) / below) if below else 0.0


def _shuffled_p(table: NDArray[np.float64], groups: Sequence[str]) -> float:
    """How often shuffled heights differ as much; all frames of a scene change places together.

    Q is a rising function of ΣC² where the rows stay as they are, so that is what is compared.
    """
    names = sorted(set(groups))
    sums = np.array(
        [table[[g == name for g in groups]].sum(axis=0) for name in names]
    )  # scene x height
    rng = np.random.default_rng(SEED)
    told = float((sums.sum(axis=0) ** 2).sum())
    drawn = rng.permuted(np.broadcast_to(sums, (SHUFFLES, *sums.shape)), axis=2)
    others = (drawn.sum(axis=1) ** 2).sum(axis=1)
    return float((np.count_nonzero(others >= told - 1e-9) + 1) / (SHUFFLES + 1))
