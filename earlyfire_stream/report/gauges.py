"""What the engine's server told of itself during the run (`engine.jsonl`), as small charts.

A server exports hundreds of series. Shown are those that moved: counters as their rate, pairs of
`_sum` and `_count` as the mean of what was counted between two looks, everything else as it is.
What never moved is told as one number. Names are a stranger's text.
"""

from __future__ import annotations

__all__ = ["Gauges", "Series", "gauges"]

import gzip
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import orjson

from earlyfire_stream.records import GAUGES_LOG

MOST_LOOKS = 480
"""Looks that are read; of more, every n-th. A chart has room for no more points."""
MOST_CHARTS = 24
MOST_STEADY = 24
LONGEST = 400
"""Characters of a name that are kept."""
_LEFT_OUT = re.compile(r"_(bucket|created|info)$|^python_(gc|info)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_RATE = "a second"
_MEAN = "mean"

Point = tuple[float, float]
"""(scenario second, value)"""
Look = tuple[float, float, Mapping[str, float]]
"""(scenario second, wall second, value by series)"""


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    """As the server writes it."""
    title: str
    """Without the labels that all series share."""
    how: str
    """`a second` for a counter's rate, `mean` of what a histogram counted, else empty."""
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Gauges:
    """Nothing in it where the run looked at no server."""

    looks: int
    """How often the server was asked during the run."""
    series: tuple[Series, ...]
    steady: tuple[tuple[str, float], ...]
    """Titles and values of what stayed as it was, zeros left out."""
    hidden: int
    """Series that moved and are not shown."""
    broken: int
    """Lines that could not be read."""


NOTHING = Gauges(0, (), (), 0, 0)


def gauges(folder: Path) -> Gauges:
    """What stands in the run folder; a line that cannot be read is counted and left out."""
    paths = [*sorted(folder.glob(f"{Path(GAUGES_LOG).stem}-*.jsonl.gz")), folder / GAUGES_LOG]
    paths = [path for path in paths if path.is_file()]
    total = sum(1 for _ in _lines(paths))
    if not total:
        return NOTHING
    every = -(-total // MOST_LOOKS)
    looks, broken = [], 0
    for number, line in enumerate(_lines(paths)):
        if number % every and number != total - 1:
            continue
        look = _look(line)
        if look is None:
            broken += 1
        else:
            looks.append(look)
    moved, still = _split(looks)
    shared = _shared([series.name for series in moved] + [name for name, _ in still])
    return Gauges(
        looks=total,
        series=tuple(
            Series(s.name[:LONGEST], _title(s.name, shared), s.how, s.points)
            for s in moved[:MOST_CHARTS]
        ),
        steady=tuple((_title(name, shared), value) for name, value in still[:MOST_STEADY]),
        hidden=max(0, len(moved) - MOST_CHARTS) + max(0, len(still) - MOST_STEADY),
        broken=broken,
    )


def _lines(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            if path.suffix == ".gz":
                with gzip.open(path, "rb") as packed, io.BufferedReader(packed, 1 << 20) as lines:
                    yield from lines
            else:
                with path.open("rb") as plain:
                    yield from plain
        except (OSError, EOFError):
            continue  # a torn part: what was read of it stands


def _look(line: bytes) -> Look | None:
    try:
        told = orjson.loads(line)["v"]
        values = {str(k): float(v) for k, v in told["values"].items()}
        return float(told["scenario_s"]), told["wall_ns"] / 1e9, values
    except (ValueError, TypeError, LookupError, AttributeError):
        return None


def _split(looks: Sequence[Look]) -> tuple[list[Series], list[tuple[str, float]]]:
    """What moved, in the order in which it was met, and what did not."""
    names = dict.fromkeys(name for _, _, values in looks for name in values)
    moved, still = [], []
    for name in names:
        bare = name.partition("{")[0]
        if _LEFT_OUT.search(bare):
            continue
        if bare.endswith("_sum") and (counted := _like(name, "_sum", "_count")) in names:
            points, how = _means(looks, name, counted), _MEAN
            shown = _like(name, "_sum", "")
        elif bare.endswith("_count") and _like(name, "_count", "_sum") in names:
            continue
        elif bare.endswith("_total"):
            points, how, shown = _rates(looks, name), _RATE, name
        else:
            points = [(at, values[name]) for at, _, values in looks if name in values]
            how, shown = "", name
        values = {value for _, value in points}
        if len(values) > 1:
            moved.append(Series(shown, "", how, tuple(points)))
        elif not how and values and (value := values.pop()):
            still.append((shown, value))
    return moved, still


def _like(name: str, old: str, new: str) -> str:
    """`a_sum{b="c"}` → `a_count{b="c"}`"""
    bare, brace, labels = name.partition("{")
    return bare.removesuffix(old) + new + brace + labels


def _means(looks: Sequence[Look], total: str, count: str) -> list[Point]:
    """The mean of what was counted between two looks; no point where nothing was."""
    found = []
    for (_, _, before), (at, _, after) in pairwise(looks):
        if {total, count} <= before.keys() & after.keys():
            counted = after[count] - before[count]
            if counted > 0:
                found.append((at, (after[total] - before[total]) / counted))
    return found


def _rates(looks: Sequence[Look], name: str) -> list[Point]:
    """By wall second; no point where the counter began anew."""
    found = []
    for (_, then, before), (at, now, after) in pairwise(looks):
        if name in before and name in after and after[name] >= before[name] and now > then:
            found.append((at, (after[name] - before[name]) / (now - then)))
    return found


def _shared(names: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Labels that say nothing, as every series that has labels has them."""
    labelled = [frozenset(_LABEL.findall(name)) for name in names if "{" in name]
    return frozenset.intersection(*labelled) if labelled else frozenset()


def _title(name: str, shared: frozenset[tuple[str, str]]) -> str:
    bare, brace, _ = name.partition("{")
    own = [f"{key} {value}" for key, value in _LABEL.findall(name) if (key, value) not in shared]
    title = f"{bare} · {', '.join(own)}" if brace and own else bare
    return title if len(title) <= LONGEST else title[: LONGEST - 1] + "…"
