"""A threshold on what changed, for continuous integration."""

from __future__ import annotations

__all__ = ["GATES", "IN_SECONDS", "Worse", "parse_tolerances", "worse"]

import math
from collections.abc import Mapping
from dataclasses import dataclass

from earlyfire_stream.errors import UsageError
from earlyfire_stream.scenario.units import parse_seconds
from earlyfire_stream.scoring.compare.figures import Figure
from earlyfire_stream.scoring.compare.result import Comparison

IN_SECONDS = ("ttfd", "rmst", "latency_p50", "latency_p95")
GATES = (
    *("efs", "D", "F", "C", "L", "Q", "K", "v1", "recall", "false_alarms", "tokens"),
    *("precision", "frame_recall", "f1", "ap40", "ap50", *IN_SECONDS),
)
"""Figures that may be held to a tolerance, by the key of `Figure`."""


def parse_tolerances(text: str) -> dict[str, float]:
    """`efs=2,ttfd=10s` → {"efs": 2.0, "ttfd": 10.0}; UsageError for anything else."""
    wanted: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in GATES:
            raise UsageError(
                f"--fail-if-worse {part!r}: no such figure; write one of {', '.join(GATES)}, such "
                "as efs=2,ttfd=10s"
            )
        try:
            wanted[key] = parse_seconds(value) if key in IN_SECONDS else float(value)
            if not 0 <= wanted[key] < math.inf:
                raise ValueError
        except ValueError:
            like = "10s" if key in IN_SECONDS else "2" if key in ("efs", "v1") else "0.05"
            raise UsageError(
                f"--fail-if-worse {part!r}: how much worse it may be is a number from 0 on, such "
                f"as {key}={like}"
            ) from None
    if not wanted:
        raise UsageError("--fail-if-worse: no figure; write efs=2 or efs=2,ttfd=10s,recall=0.05")
    return wanted


@dataclass(frozen=True, slots=True)
class Worse:
    """A figure of one side that is worse than the first's by more than is allowed.

    `by` is None where it cannot be told: a side has nothing to measure it by, which fails too.
    """

    label: str
    figure: Figure | None
    key: str
    by: float | None
    allowed: float


def worse(
    comparison: Comparison, tolerances: Mapping[str, float], sure: bool = False
) -> list[Worse]:
    """What got worse by more than its tolerance, side by side.

    `sure`: only where the interval of the difference leaves out zero; without an interval nothing
    is sure. A figure that cannot be compared counts as worse, sure or not: a check that cannot be
    made must not pass.
    """
    found = []
    for against in comparison.against:
        figures = {figure.key: figure for figure in against.figures}
        for key, allowed in tolerances.items():
            figure = figures.get(key)
            by = None if figure is None else figure.worse_by
            if figure is None or by is None:
                found.append(Worse(against.label, figure, key, None, allowed))
            elif by > allowed and (figure.surely or not sure):
                found.append(Worse(against.label, figure, key, by, allowed))
    return found
