"""What a comparison's page says, as values: the template only lays them out.

Texts of runs are plain `str` here; whoever lays them out must escape them. `data` holds what the
charts draw, in JSON's own types.
"""

from __future__ import annotations

__all__ = ["ComparisonPage", "comparison_page"]

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from earlyfire_stream.report.comparison_words import (
    Verdict,
    change_text,
    facts_told,
    fire_text,
    interval_text,
    method,
    p_text,
    sample_text,
    signed_text,
    through_text,
    ttfd_text,
    value_text,
    verdict,
)
from earlyfire_stream.report.summary import duration, number
from earlyfire_stream.report.view import seconds_text
from earlyfire_stream.scenario.units import counted
from earlyfire_stream.scoring.compare import Against, Comparison, Figure, Measured, Moved, label
from earlyfire_stream.scoring.curves import detection_curve
from earlyfire_stream.scoring.detection import HORIZON_S, Parts, View
from earlyfire_stream.scoring.statistics import (
    FLOORS,
    MIN_CLUSTERS,
    percentile,
    poisson_interval,
    survival,
    wilson_interval,
)

VIEW_ROWS = 60
"""Views in the chart of times to first detection, those that moved first."""
PART_ROWS = 16
"""Views whose seconds are taken apart side by side."""
MOVED_ROWS = 200
BLAMED_ROWS = 20
STILL_S = 1e-3
GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Score", "points of 100", ("efs", "v1")),
    ("Terms of the score", "0 to 1", ("D", "F", "C", "L", "Q", "K")),
    (
        "Views, frames and boxes",
        "shares, 0 to 1",
        ("recall", "precision", "frame_recall", "f1", "ap40", "ap50"),
    ),
    ("Time to detection", "since the onset", ("ttfd", "rmst")),
    ("Latency", "capture to answer", ("latency_p50", "latency_p95")),
    ("False alarms", "a camera-day", ("false_alarms",)),
    ("Visual tokens", "a camera-hour", ("tokens",)),
)
"""Figures that share an axis in the chart of differences: title, unit, keys."""
CARDS = ("efs", "recall", "ttfd", "false_alarms", "latency_p50")
_STEPS = (1, 2, 4, 6, 10, 12, 20, 30, 60, 120, 180, 240, 300, 360, 480)
"""Seconds between the ticks of the survival curves; the last reaches the horizon."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a side, for the list of what was compared."""

    name: str
    engine: str
    begun: str
    seed: str


@dataclass(frozen=True, slots=True)
class SideHead:
    label: str
    engine: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of one comparison."""

    title: str
    first: str
    other: str
    difference: str
    tone: str
    """good or bad where it is sure, else empty."""
    interval: str
    p: str
    holm: str
    n: str
    note: str


@dataclass(frozen=True, slots=True)
class MovedRow:
    fire: str
    camera: str
    first: str
    other: str
    change: str
    through: str
    tone: str


@dataclass(frozen=True, slots=True)
class PartRow:
    """Mean seconds of a part over the views that both sides detected."""

    part: str
    first: str
    other: str
    change: str


@dataclass(frozen=True, slots=True)
class Section:
    """One side against the first."""

    label: str
    verdict: Verdict
    cards: tuple[Row, ...]
    rows: tuple[Row, ...]
    moved: tuple[MovedRow, ...]
    moved_hidden: int
    parts: tuple[PartRow, ...]
    both: int
    """Views that both detected."""
    facts: tuple[tuple[str, str], ...]
    stated: tuple[tuple[str, str, str], ...]
    agreement: tuple[int, int, int, int]
    """Frames: smoke in both, in the first only, in the other only, in neither."""
    frames_n: int


@dataclass(frozen=True, slots=True)
class SideRow:
    """A side's own figures in a table with a row a side; the first is its label."""

    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComparisonPage:
    title: str
    sides: tuple[SideHead, ...]
    against: tuple[Section, ...]
    doubts: tuple[str, ...]
    warnings: tuple[tuple[str, str], ...]
    detection: tuple[SideRow, ...]
    latency: tuple[SideRow, ...]
    false_alarms: tuple[SideRow, ...]
    tokens: tuple[SideRow, ...]
    why_no_curve: str
    why_no_band: str
    method: tuple[str, ...]
    data: Mapping[str, Any]


def comparison_page(found: Comparison) -> ComparisonPage:
    measured = found.measured
    runs = [_head(i, names, each) for i, (names, each) in _numbered(found)]
    curves, why_no_curve = _operating(measured)
    title = str(measured[0].runs[0].get("scenario") or "two settings")
    return ComparisonPage(
        title=title,
        sides=tuple(runs),
        against=tuple(_section(each, measured[0], two) for each, two in _others(found)),
        doubts=found.doubts,
        warnings=tuple(("" if side == "all" else side, said) for side, said in found.warnings),
        detection=tuple(_detection(found)),
        latency=tuple(_latency_rows(measured)),
        false_alarms=tuple(_false_rows(measured)),
        tokens=tuple(_token_rows(measured)),
        why_no_curve=why_no_curve,
        why_no_band=(
            ""
            if _fires(measured[0]) >= MIN_CLUSTERS
            else f"No band: {counted(_fires(measured[0]), 'fire')}, and under {MIN_CLUSTERS} a "
            "bootstrap says more than the data do."
        ),
        method=tuple(method(found)),
        data={
            "sides": [{"label": head.label, "name": head.engine} for head in runs],
            "horizon": HORIZON_S,
            "forest": [_panel(found, *group) for group in GROUPS if _any(found, group[2])],
            "views": _views(found),
            "parts": _parts(found),
            "survival": _survival(measured),
            "operating": curves,
            "latency": _latency(measured),
            "rates": _rates(measured),
            "blamed": _blamed(measured),
            "tokens": _tokens(measured),
        },
    )


def _numbered(found: Comparison) -> Iterator[tuple[int, tuple[tuple[str, ...], Measured]]]:
    return enumerate(zip(found.sides, found.measured, strict=True))


def _others(found: Comparison) -> Iterator[tuple[Against, Measured]]:
    return zip(found.against, found.measured[1:], strict=True)


# --- who is compared -----------------------------------------------------------------------------


def _head(place: int, names: Sequence[str], each: Measured) -> SideHead:
    return SideHead(
        label=label(place),
        engine=_engine(each.runs[0]),
        runs=tuple(
            Run(
                name=PurePath(name).name or name,
                engine=_engine(run),
                begun="in virtual time" if run.get("clock") == "virtual" else "",
                seed="" if run.get("seed") is None else str(run["seed"]),
            )
            for name, run in zip(names, each.runs, strict=True)
        ),
    )


def _engine(run: Mapping[str, Any]) -> str:
    engine = run.get("engine")
    if not isinstance(engine, Mapping):
        return "no engine told"
    name, model = str(engine.get("name") or "an engine"), str(engine.get("model") or "")
    return name if model in ("", name) else f"{name} · {model}"


# --- figures -------------------------------------------------------------------------------------


def _section(against: Against, one: Measured, two: Measured) -> Section:
    figures = {figure.key: figure for figure in against.figures}
    views = [(a, two.views[key]) for key, a in one.views.items() if key in two.views]
    parts = tuple(_part_rows(views))
    agreed = against.frames
    return Section(
        label=against.label,
        verdict=verdict(against),
        cards=tuple(_row(figures[key]) for key in CARDS if key in figures),
        rows=tuple(map(_row, against.figures)),
        moved=tuple(map(_moved_row, against.moved[:MOVED_ROWS])),
        moved_hidden=max(0, len(against.moved) - MOVED_ROWS),
        parts=parts,
        both=against.detected.both,
        facts=tuple(facts_told(against)),
        stated=against.stated,
        agreement=(
            agreed.both_smoke,
            agreed.only_first_smoke,
            agreed.only_second_smoke,
            agreed.neither_smoke,
        ),
        frames_n=agreed.n,
    )


def _row(figure: Figure) -> Row:
    tone = ""
    if figure.surely and figure.worse_by is not None:
        tone = "bad" if figure.worse_by > 0 else "good"
    return Row(
        title=figure.title,
        first=value_text(figure, figure.first),
        other=value_text(figure, figure.other),
        difference=signed_text(figure, figure.difference),
        tone=tone,
        interval=interval_text(figure),
        p=p_text(figure.p),
        holm=p_text(figure.p_holm),
        n=f"{sample_text(figure)} {figure.of}",
        note=_why(figure),
    )


def _why(figure: Figure) -> str:
    """Why something of it cannot be told."""
    if figure.difference is not None:
        if figure.interval is None and not figure.difference:
            return "alike, which is no proof of equality"
        return ""
    floor = FLOORS.get(int(figure.key.removeprefix("latency_p"))) if "latency" in figure.key else 0
    if floor and min(figure.n) < floor:
        return f"stated from {floor} answers on"
    if figure.key in ("ap40", "ap50"):
        return "an engine gave its boxes no confidence"
    if figure.key == "ttfd":
        return "no view was detected by both"
    return "a side has nothing to measure it by"


def _any(found: Comparison, keys: Sequence[str]) -> bool:
    return any(f.key in keys for against in found.against for f in against.figures)


def _panel(found: Comparison, title: str, unit: str, keys: Sequence[str]) -> dict[str, Any]:
    """One axis of the chart of differences; positive values are better."""
    rows = []
    for key in keys:
        marks = []
        named = ""
        for place, against in enumerate(found.against, 1):
            figure = next((f for f in against.figures if f.key == key), None)
            if figure is None:
                continue
            named = figure.title
            up = 1 if figure.higher_is_better else -1
            marks.append(
                {
                    "side": place,
                    "gain": _plain(figure.difference, up),
                    "ends": None
                    if figure.interval is None
                    else sorted(up * end for end in figure.interval),
                    "sure": figure.surely,
                    "said": signed_text(figure, figure.difference) or "n/a",
                    "between": interval_text(figure),
                    "p": p_text(figure.p_holm),
                    "n": f"{sample_text(figure)} {figure.of}",
                    "values": f"{value_text(figure, figure.first)} → "
                    f"{value_text(figure, figure.other)}",
                    "why": _why(figure),
                }
            )
        if marks:
            rows.append({"title": named, "marks": marks})
    timed = keys[0] in ("ttfd", "latency_p50")
    return {"title": title, "unit": unit, "seconds": timed, "rows": rows}


# --- which fires moved ---------------------------------------------------------------------------


def _moved_row(moved: Moved) -> MovedRow:
    worse = moved.other_s is None or (moved.change_s or 0.0) > 0
    return MovedRow(
        fire=fire_text(moved),
        camera=moved.camera,
        first=ttfd_text(moved.first_s),
        other=ttfd_text(moved.other_s),
        change=change_text(moved),
        through=through_text(moved),
        tone="bad" if worse else "good",
    )


def _part_rows(views: Sequence[tuple[View, View]]) -> Iterator[PartRow]:
    both = [
        (a.parts.to_json(), b.parts.to_json())
        for a, b in views
        if a.parts is not None and b.parts is not None
    ]
    if not both:
        return
    for name in Parts.__slots__:
        ours, theirs = (math.fsum(p[side][name] for p in both) / len(both) for side in (0, 1))
        change = theirs - ours
        yield PartRow(
            part=name.replace("_", " "),
            first=seconds_text(ours).removesuffix(" min"),
            other=seconds_text(theirs).removesuffix(" min"),
            change=("+" if change > 0 else "") + seconds_text(change).removesuffix(" min"),
        )


def _ordered(found: Comparison) -> list[tuple[str, str, list[View | None]]]:
    """(fire, camera, each side's view), those that moved most first."""
    first, *others = found.measured
    rows = []
    for key, view in first.views.items():
        each: list[View | None] = [view, *(other.views.get(key) for other in others)]
        fire = view.fire if len(first.runs) == 1 else f"{view.fire} (seed {_seed(first, key[0])})"
        rows.append((fire, view.camera, each))

    def moved(row: tuple[str, str, list[View | None]]) -> tuple[bool, bool, float]:
        ttfds = [None if view is None else view.ttfd_s for view in row[2]]
        known = [t for t in ttfds if t is not None]
        lost = 0 < len(known) < len(ttfds)
        spread = max(known) - min(known) if known else -1.0
        return (not lost, not known, -spread)

    return sorted(rows, key=moved)


def _seed(side: Measured, digest: str) -> object:
    return next(run.get("seed") for run in side.runs if str(run.get("digest", "")) == digest)


def _views(found: Comparison) -> dict[str, Any] | None:
    rows = _ordered(found)
    if not rows:
        return None
    shown = [
        {
            "fire": fire,
            "camera": camera,
            "ttfd": [None if v is None else _plain(v.ttfd_s) for v in each],
        }
        for fire, camera, each in rows[:VIEW_ROWS]
    ]
    return {"rows": shown, "n": len(rows)}


def _parts(found: Comparison) -> dict[str, Any] | None:
    """The seconds of views that moved, taken apart on each side; the mean of all first."""
    rows = _ordered(found)
    moved = [row for row in rows if _spread(row[2]) is None or (_spread(row[2]) or 0) >= STILL_S]
    everywhere = [
        [v.parts for v in each if v is not None and v.parts is not None] for *_, each in rows
    ]
    everywhere = [parts for parts in everywhere if len(parts) == len(found.measured)]
    if not any(v is not None and v.parts is not None for *_, each in moved for v in each):
        return None
    table: list[dict[str, Any]] = []
    if everywhere:
        means = np.mean([[list(p.to_json().values()) for p in each] for each in everywhere], axis=0)
        table.append(
            {
                "label": f"mean of {len(everywhere)} found by all",
                "mean": True,
                "bars": [[_plain(s) for s in side] for side in means.tolist()],
            }
        )
    for fire, camera, each in moved[:PART_ROWS]:
        table.append(
            {
                "label": f"{fire} · {camera}",
                "mean": False,
                "bars": [
                    None
                    if v is None or v.parts is None
                    else [_plain(s) for s in v.parts.to_json().values()]
                    for v in each
                ],
            }
        )
    return {
        "names": [name.replace("_", " ") for name in Parts.__slots__],
        "rows": table,
        "hidden": max(0, len(moved) - PART_ROWS),
    }


def _spread(each: Sequence[View | None]) -> float | None:
    """Seconds between the soonest and the latest side; None where only some detected it."""
    known = [v.ttfd_s for v in each if v is not None and v.ttfd_s is not None]
    if known and len(known) < len(each):
        return None
    return max(known) - min(known) if known else 0.0


# --- detection over time -------------------------------------------------------------------------


def _survival(measured: Sequence[Measured]) -> dict[str, Any] | None:
    sides: list[dict[str, Any]] = []
    furthest = 0.0
    untils = []
    for each in measured:
        keys = list(each.views)
        views = [each.views[key] for key in keys]
        until = [min(HORIZON_S, v.censored_s if v.ttfd_s is None else v.ttfd_s) for v in views]
        found = [v.ttfd_s is not None for v in views]
        curve = detection_curve(until, found, [each.cluster_of[key] for key in keys])
        if curve is None:
            return None
        untils.append(until)
        furthest = max(furthest, *until, *curve.survival.times_s)
        rows = zip(curve.survival.times_s, curve.survival.undetected, strict=True)
        sides.append(
            {
                "steps": [[_plain(t), _plain(1 - share)] for t, share in rows],
                "band": [[_plain(t), _plain(1 - b), _plain(1 - a)] for t, a, b in curve.band],
                "median": _plain(curve.survival.median_s),
                "n": curve.n,
                "censored": [u for u, hit in zip(until, found, strict=True) if not hit],
            }
        )
    step = next(s for s in _STEPS if 5 * s >= min(HORIZON_S, 1.05 * furthest))
    ticks = [float(step * i) for i in range(6)]
    for side, until in zip(sides, untils, strict=True):
        side["at_risk"] = [sum(u >= t for u in until) for t in ticks]
    return {"shown": 5.0 * step, "ticks": ticks, "sides": sides}


def _detection(found: Comparison) -> Iterator[SideRow]:
    for place, each in enumerate(found.measured):
        views = list(each.views.values())
        if not views:
            return
        hits = sum(v.parts is not None for v in views)
        low, high = wilson_interval(hits, len(views)) or (0.0, 1.0)
        curve = survival(
            [v.ttfd_s for v in views if v.ttfd_s is not None],
            [v.censored_s for v in views if v.ttfd_s is None],
            HORIZON_S,
        )
        assert curve is not None
        median = curve.median_s
        yield SideRow(
            label(place),
            (
                f"{hits} of {len(views)}",
                f"{100 * low:.0f} to {100 * high:.0f} %",
                "not reached" if median is None else duration(median),
                duration(curve.rmst_s),
            ),
        )


# --- what it costs -------------------------------------------------------------------------------


def _latencies(each: Measured) -> np.ndarray[tuple[Any, ...], np.dtype[np.float64]]:
    return np.concatenate([np.empty(0), *(p for parts in each.latencies.values() for p in parts)])


def _latency(measured: Sequence[Measured]) -> dict[str, Any] | None:
    """Shares of each side's answers in quarter octaves from 10 ms on."""
    values = [_latencies(each) for each in measured]
    if not any(len(each) for each in values):
        return None
    bounds = np.concatenate(([0.0], 0.01 * 2 ** (np.arange(0, 65) / 4), [math.inf]))
    counts = [np.histogram(each, bounds)[0] for each in values]
    filled = np.flatnonzero(sum(counts))
    first, last = max(0, int(filled[0]) - 1), min(len(bounds) - 1, int(filled[-1]) + 2)
    return {
        "bounds": [_plain(float(b)) for b in bounds[first : last + 1]],
        "sides": [
            {
                "n": len(each),
                "shares": [_plain(float(c) / max(1, len(each))) for c in count[first:last]],
                "p50": _plain(percentile(each, 50)),
            }
            for each, count in zip(values, counts, strict=True)
        ],
    }


def _latency_rows(measured: Sequence[Measured]) -> Iterator[SideRow]:
    for place, each in enumerate(measured):
        values = _latencies(each)
        cells = [seconds_text(percentile(values, rank)) for rank in (50, 90, 95, 99)]
        yield SideRow(label(place), (*cells, f"{len(values):,}"))


def _exposure(each: Measured) -> tuple[int, float]:
    found = [score.false_alarms for score in each.scores]
    return sum(f.episodes for f in found), math.fsum(f.camera_hours for f in found)


def _rates(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    rows = []
    for each in measured:
        episodes, hours = _exposure(each)
        low, high = poisson_interval(episodes)
        day = 24 / hours if hours > 0 else None
        rate = [None if day is None else _plain(v * day) for v in (episodes, low, high)]
        rows.append({"episodes": episodes, "hours": _plain(hours), "rate": rate})
    return rows


def _false_rows(measured: Sequence[Measured]) -> Iterator[SideRow]:
    for place, row in enumerate(_rates(measured)):
        rate, low, high = row["rate"]
        yield SideRow(
            label(place),
            (
                str(row["episodes"]),
                number(row["hours"], 2),
                number(rate, 2),
                "" if low is None else f"{number(low, 2)} to {number(high, 2)}",
            ),
        )


def _blamed(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Cameras with false alarms, those first on which the sides differ most."""
    counts: dict[str, list[int]] = {}
    for place, each in enumerate(measured):
        for score in each.scores:
            for camera, episodes in score.false_alarms.by_camera.items():
                counts.setdefault(camera, [0] * len(measured))[place] += episodes
    rows = sorted(
        counts.items(), key=lambda item: (min(item[1]) - max(item[1]), -sum(item[1]), item[0])
    )
    return [{"camera": camera, "counts": found} for camera, found in rows[:BLAMED_ROWS]]


def _tokens(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    rows = []
    for each in measured:
        visual = sum(score.tokens.visual for score in each.scores)
        hours = math.fsum(score.tokens.camera_hours for score in each.scores)
        rows.append({"visual": visual, "rate": _plain(visual / hours) if hours > 0 else None})
    return rows


def _token_rows(measured: Sequence[Measured]) -> Iterator[SideRow]:
    for place, (each, row) in enumerate(zip(measured, _tokens(measured), strict=True)):
        used = [score.tokens for score in each.scores]
        requests = sum(u.requests for u in used)
        told = (score.answers for score in each.scores)
        sent, valid = (sum(pair) for pair in zip(*((t.sent, t.valid) for t in told), strict=True))
        yield SideRow(
            label(place),
            (
                f"{row['visual']:,}",
                number(row["rate"], 0),
                number(row["visual"] / requests if requests else None, 0),
                f"{requests:,}",
                f"{valid:,} of {sent:,}",
            ),
        )


# --- operating curves ----------------------------------------------------------------------------


def _operating(measured: Sequence[Measured]) -> tuple[list[list[dict[str, Any]]], str]:
    """Points of each side, the seeds of a side pooled; or none and the reason."""
    why = next((each.why_no_curve for each in measured if each.why_no_curve), "")
    if why:
        return [], why
    return [_pooled(each) for each in measured], ""


def _pooled(each: Measured) -> list[dict[str, Any]]:
    points = []
    for same in zip(*each.curves, strict=True):
        views, found = sum(p.views for p in same), sum(p.detected for p in same)
        episodes = sum(p.episodes for p in same)
        hours = math.fsum(p.camera_hours for p in same)
        low, high = poisson_interval(episodes)
        points.append(
            {
                "threshold": same[0].threshold,
                "chosen": same[0].chosen,
                "detected": found,
                "views": views,
                "recall": _plain(found / views),
                "recall_interval": wilson_interval(found, views),
                "rate": _plain(24 * episodes / hours),
                "rate_interval": [_plain(24 * low / hours), _plain(24 * high / hours)],
                "ttfd": _plain(same[0].median_ttfd_s) if len(same) == 1 else None,
            }
        )
    return points


# --- numbers -------------------------------------------------------------------------------------


def _fires(each: Measured) -> int:
    return len(set(each.cluster_of.values()))


def _plain(value: float | None, sign: int = 1) -> float | None:
    """Short enough to embed; None where there is no finite number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{sign * value:.6g}")
