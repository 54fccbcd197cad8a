"""What a report says, as values: the page's template only lays them out.

Texts of models, cameras and scenarios are plain `str` here; whoever lays them out must escape them.
"""

from __future__ import annotations

__all__ = ["Fact", "FaultRow", "FireRow", "Page", "Term", "Told", "page", "seconds_text"]

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from earlyfire_stream.records import FrameTable, RunLog, ShotTable
from earlyfire_stream.report.figures import Figures, figures
from earlyfire_stream.report.gallery import Gallery
from earlyfire_stream.report.gauges import NOTHING, Gauges
from earlyfire_stream.report.summary import clock, duration, number, percent
from earlyfire_stream.scenario.units import counted
from earlyfire_stream.scoring import Score
from earlyfire_stream.scoring.answers import FULL_S, HALF_S
from earlyfire_stream.scoring.detection import Rate, View
from earlyfire_stream.scoring.early_fire import DETECTED_WITHIN_S, Terms
from earlyfire_stream.scoring.faults import FaultScore
from earlyfire_stream.scoring.footage import Footage
from earlyfire_stream.scoring.operating import OperatingPoint, operating_curve
from earlyfire_stream.scoring.statistics import (
    FLOORS,
    MIN_CLUSTERS,
    wilson_interval,
)

FIRE_ROWS = 200
"""Views that the table of the page lists; the rest stands in score.json."""
FAULT_ROWS = 100
CAMERA_ROWS = 200
"""Cameras with false alarms that a table lists."""
TOLD_ROWS = 100
"""Explanations shown; the rest stands in records.jsonl."""
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CURVE_FRAMES = 60_000
"""Frames up to which a page draws the operating curve; each threshold reads them all again."""
LATE_S = 0.25
"""The quickest reference latency: cameras later than this distort what is measured."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure with what it takes to believe it."""

    label: str
    value: str
    interval: str = ""
    n: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Term:
    symbol: str
    name: str
    value: float | None
    text: str
    bounds: tuple[float, ...] | None
    """Its interval at 95 %; None where there is none."""
    interval: str
    made_of: str
    gain: str
    """Points the score would have more if this term were 1."""


@dataclass(frozen=True, slots=True)
class FireRow:
    fire: str
    camera: str
    onset: str
    onset_source: str
    """Who says so, where it is not the scenario."""
    alarm: str
    ttfd: str
    frames: str
    located: str
    detected: bool


@dataclass(frozen=True, slots=True)
class FaultRow:
    """What one fault did. Each text is for one cell; a note stands below it."""

    fault: str
    kind: str
    """Empty where it is the name."""
    when: str
    cameras: str
    harmed: str
    harmed_note: str
    latency: str
    latency_note: str
    recovery: str
    recovery_note: str
    bad: bool
    """A camera never recovered."""
    ttfd: str
    ttfd_note: str
    notes: tuple[str, ...]
    """What a reader must know of it; a stranger's words may be among them."""


@dataclass(frozen=True, slots=True)
class Told:
    """An explanation: a model's own words."""

    camera: str
    seq: int
    text: str
    error: str
    took: str


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    run: str
    engine: str
    model: str
    begun: str
    cameras: str
    played: str
    host: str
    """What the watcher ran on; an engine of its own may have run elsewhere."""
    badges: tuple[tuple[str, str], ...]
    """(tone, text); tones are `good`, `bad` and `plain`."""
    ttfd: Fact
    ttfd_interval: str
    """Of the median; `ttfd.interval` is that of the share detected."""
    within: tuple[tuple[str, str], ...]
    efs: Fact
    why_null: str
    false_alarms: Fact
    latency: Fact
    spent: Fact
    terms: tuple[Term, ...]
    formula: str
    warnings: tuple[str, ...]
    fires: tuple[FireRow, ...]
    fires_hidden: int
    faults: tuple[FaultRow, ...]
    faults_hidden: int
    faults_outside: str
    """What they are held against."""
    fleet: tuple[Fact, ...]
    detection: tuple[Fact, ...]
    alarms: tuple[Fact, ...]
    quiet: str
    """Of the cameras without a false alarm, together; empty where there are none."""
    blamed: tuple[Fact, ...]
    """Cameras with false alarms, the worst first."""
    blamed_hidden: int
    frames: tuple[Fact, ...]
    confusion: tuple[int, int, int, int]
    """tp, fp, fn, tn."""
    latencies: tuple[Fact, ...]
    stages: tuple[Fact, ...]
    tokens: tuple[Fact, ...]
    ledger: tuple[Fact, ...]
    balanced: bool | None
    operating: tuple[OperatingPoint, ...]
    why_no_operating: str
    gallery: Gallery
    told: tuple[Told, ...]
    told_hidden: int
    told_facts: tuple[Fact, ...]
    harness: tuple[Fact, ...]
    gauges: Gauges
    steady: tuple[Fact, ...]
    """What the engine's server said throughout."""
    settings: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    scenario_text: str
    figures: Figures
    data: Mapping[str, Any]
    """For the script; strangers' text in it stays text."""


def page(
    log: RunLog,
    score: Score,
    everything: Sequence[Footage],
    pictures: Gallery,
    server: Gauges = NOTHING,
) -> Page:
    drawn = figures(log, score, everything)
    points, why_no_points = _operating(log, score)
    run = log.run
    engine = run.get("engine") or {}
    told = log.explanations
    blamed = _blamed(score)
    return Page(
        title=str(run.get("scenario") or "a run"),
        run=str(run.get("run") or ""),
        engine=str(engine.get("name") or "no engine"),
        model=str(engine.get("model") or ""),
        begun=_begun(run),
        cameras=counted(len(everything), "camera"),
        host=_host(run.get("host") or {}),
        played="" if log.duration_s is None else duration(log.duration_s),
        badges=_badges(log, score),
        ttfd=_ttfd(score),
        ttfd_interval=_median_between(score),
        within=_within(score),
        efs=Fact(
            "Early-Fire Score",
            number(score.early_fire_score, 1) if score.early_fire_score is not None else "none",
            _between(score.interval, 1),
            note="at both ends of the false alarms' interval" if score.interval else "",
        ),
        why_null=score.why_null,
        false_alarms=_false_alarms(score),
        latency=Fact(
            "Latency, median",
            seconds_text(score.latency.p50),
            _seconds_between(score.latency_intervals["p50"]),
            f"{score.latency.n:,} answers",
            f"p95 {seconds_text(score.latency.p95)}; capture to answer, queueing included",
        ),
        spent=_spent(score),
        terms=_terms(score),
        formula=_formula(score.terms),
        warnings=(*score.warnings, *map(str, run.get("warnings") or ()), *_distrust(log, drawn)),
        fires=tuple(_fire(v) for v in score.fires[:FIRE_ROWS]),
        fires_hidden=max(0, len(score.fires) - FIRE_ROWS),
        faults=tuple(_fault(f, log) for f in score.faults[:FAULT_ROWS]),
        faults_hidden=max(0, len(score.faults) - FAULT_ROWS),
        faults_outside=_outside(score),
        fleet=_fleet(score),
        detection=_detection(score),
        alarms=_alarms(score),
        quiet=_quiet(score),
        blamed=blamed[:CAMERA_ROWS],
        blamed_hidden=max(0, len(blamed) - CAMERA_ROWS),
        frames=_frames(score),
        confusion=(score.frames.tp, score.frames.fp, score.frames.fn, score.frames.tn),
        latencies=_latencies(score),
        stages=_stages(score),
        tokens=_tokens(log, score),
        ledger=_ledger(score),
        balanced=score.ledger.balanced,
        operating=points,
        why_no_operating=why_no_points,
        gallery=pictures,
        told=tuple(
            Told(
                e.camera,
                e.seq,
                e.text,
                e.error,
                seconds_text((e.answered_ns - e.started_ns) / 1e9),
            )
            for e in told[:TOLD_ROWS]
        ),
        told_hidden=max(0, len(told) - TOLD_ROWS),
        told_facts=_told(score),
        harness=_harness(log, drawn),
        gauges=server,
        steady=tuple(Fact(title, _amount(value)) for title, value in server.steady),
        settings=_settings(log),
        scenario_text=str(run.get("scenario_text") or ""),
        figures=drawn,
        data={
            **drawn.data,
            "operating": [_point(p) for p in points],
            "gauges": [
                {
                    "title": s.title,
                    "name": s.name,
                    "how": s.how,
                    "points": [[_digits(at), _digits(value)] for at, value in s.points],
                }
                for s in server.series
            ],
        },
    )


# --- head ----------------------------------------------------------------------------------------


def _begun(run: Mapping[str, Any]) -> str:
    if run.get("clock") == "virtual":
        return "in virtual time"
    start_ns = run.get("start_ns")
    if not isinstance(start_ns, int):
        return ""
    return datetime.fromtimestamp(start_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _host(host: Mapping[str, Any]) -> str:
    cores = host.get("cores")
    return counted(cores, "core") if isinstance(cores, int) else ""


def _badges(log: RunLog, score: Score) -> tuple[tuple[str, str], ...]:
    said = []
    if log.run.get("interrupted"):
        said.append(("bad", "interrupted"))
    elif log.complete:
        said.append(("good", "complete"))
    else:
        said.append(("bad", "not complete"))
    if score.ledger.balanced:
        said.append(("good", f"every one of {score.ledger.scheduled:,} frames accounted for"))
    elif score.ledger.balanced is False:
        said.append(("bad", "the ledger does not balance"))
    said.append(("bad" if score.speed_distorted else "plain", f"speed {log.speed:g}×"))
    if log.run.get("seed") is not None:
        said.append(("plain", f"seed {log.run['seed']}"))
    return tuple(said)


def _ttfd(score: Score) -> Fact:
    detected = sum(v.parts is not None for v in score.fires)
    total = len(score.fires)
    if not total:
        return Fact("Time to first detection", "no fire", note="nothing to be detected")
    median = score.median_ttfd_s
    return Fact(
        "Time to first detection" + (", median" if detected > 1 else ""),
        "missed" if median is None else duration(median),
        _shares(wilson_interval(detected, total)),
        f"{detected} of {total}",
        "smoke visible to alarm, over the detected views",
    )


def _median_between(score: Score) -> str:
    sure = score.median_ttfd_interval_s
    return "" if sure is None else _spanned(*sure)


def _within(score: Score) -> tuple[tuple[str, str], ...]:
    shares = ((s, score.detected_within(s)) for s in DETECTED_WITHIN_S)
    return tuple((f"{s // 60} min", percent(v, 0)) for s, v in shares if v is not None)


def _false_alarms(score: Score) -> Fact:
    found = score.false_alarms
    if found.per_camera_day is None:
        return Fact(
            "False alarms", "n/a", n=f"{found.episodes}", note="no time without smoke to count in"
        )
    return Fact(
        "False alarms per camera-day",
        number(found.per_camera_day, 2),
        _between(found.interval, 2),
        f"{found.episodes} in {number(found.camera_hours, 2)} camera-hours",
        "episodes of 300 s; exact Poisson interval",
    )


# --- what the score is made of -------------------------------------------------------------------


def _terms(score: Score) -> tuple[Term, ...]:
    terms = score.terms
    found = score.false_alarms
    asked = score.answers
    boxes = score.localization
    sure = score.term_intervals
    fire_count = len({v.fire for v in score.fires})
    unlocated = number(score.detection_unlocated, 3)
    rows: list[tuple[str, str, float | None, tuple[float, ...] | None, str, Terms]] = [
        (
            "D",
            "Detection and earliness",
            terms.detection,
            sure["D"],
            f"mean over {counted(len(score.fires), 'view')} of {counted(fire_count, 'fire')}; a "
            "miss counts 0, an alarm at once 1, after 4 minutes 0.7. Without asking for the "
            f"place: {unlocated}",
            replace(terms, detection=1.0),
        ),
        (
            "F",
            "Few false alarms",
            terms.false_alarms,
            sure["F"],
            f"1/(1 + λ/5), λ = {number(found.per_camera_day, 2)} per camera-day "
            f"({found.episodes} in {number(found.camera_hours, 2)} h)",
            replace(terms, false_alarms=1.0),
        ),
        (
            "L",
            "Localization",
            terms.localization,
            sure["L"],
            "the truth has no boxes"
            if boxes is None
            else "precision × recall of boxes at IoU ≥ 0.4: "
            f"{boxes.matched:,} of {boxes.predicted:,} predicted match, "
            f"{boxes.n:,} frames with boxes",
            replace(terms, localization=1.0),
        ),
        (
            "Q",
            "Latency",
            terms.latency,
            sure["Q"],
            f"mean over {counted(score.latency_frames, 'frame')}: 1 up to 0.25 s from capture to "
            "answer, one half at 1.0 s; expired frames, frames over budget and errors count 0",
            replace(terms, latency=1.0),
        ),
        (
            "K",
            "Readable answers",
            terms.answers,
            sure["K"],
            f"{asked.valid:,} of {asked.sent:,} requests answered readably; full from 95 %",
            replace(terms, answers=1.0),
        ),
    ]
    return tuple(
        Term(
            symbol,
            name,
            value,
            number(value, 3),
            bounds,
            _between(bounds, 3),
            made_of,
            _gain(terms, perfect),
        )
        for symbol, name, value, bounds, made_of, perfect in rows
    )


def _gain(terms: Terms, perfect: Terms) -> str:
    if terms.value is None or perfect.value is None:
        return ""
    return f"+{perfect.value - terms.value:.1f}"


def _formula(terms: Terms) -> str:
    if terms.value is None or terms.combined is None:
        return ""
    k, q = number(terms.answers or 0.0, 3), number(terms.latency or 0.0, 3)
    c = number(terms.combined, 3)
    if terms.boxes_in_truth:
        worth = f"(0.70 + 0.15 × L {number(terms.localization or 0.0, 3)} + 0.15 × Q {q})"
    else:
        worth = f"(0.70 + 0.15 × Q {q}) / 0.85"
    return f"100 × K {k} × C {c} × {worth} = {terms.value:.1f}"


# --- fires ---------------------------------------------------------------------------------------


def _fire(view: View) -> FireRow:
    if view.parts is None:
        located = "beside the smoke only" if view.unlocated else ""
    else:
        located = {True: "yes", False: "no", None: "n/a"}[view.located]
    return FireRow(
        fire=view.fire,
        camera=view.camera,
        onset=clock(view.onset_s),
        onset_source="" if view.onset_source == "scenario" else view.onset_source.replace("_", " "),
        alarm="" if view.alarm_s is None else clock(view.alarm_s),
        ttfd="missed" if view.ttfd_s is None else duration(view.ttfd_s),
        frames="" if view.frames_late is None else str(view.frames_late),
        located=located,
        detected=view.parts is not None,
    )


def _fleet(score: Score) -> tuple[Fact, ...]:
    """Fires that several cameras see, by whichever alarmed first."""
    return tuple(
        Fact(
            f.fire,
            "missed" if f.ttfd_s is None else duration(f.ttfd_s),
            n=f"{f.detected} of {f.cameras} cameras",
            note=f.camera or "",
        )
        for f in score.fleet[:FIRE_ROWS]
        if f.cameras > 1
    )


def _detection(score: Score) -> tuple[Fact, ...]:
    total = len(score.fires)
    if not total:
        return ()
    detected = sum(v.parts is not None for v in score.fires)
    views = f"{total} views"
    sure = _median_between(score)
    facts = [
        Fact(
            "Views detected",
            percent(detected / total, 0),
            _shares(wilson_interval(detected, total)),
            f"{detected} of {total}",
        ),
        Fact(
            "Median TTFD of the detected",
            seconds_text(score.median_ttfd_s),
            sure,
            f"{detected} views",
            "" if sure or not detected else "an interval from 6 views on",
        ),
    ]
    curve = score.survival
    if curve is not None:
        never = "not reached"
        facts += [
            Fact(
                "Median, misses counted",
                never if curve.median_s is None else duration(curve.median_s),
                _open_ends(curve.median_interval_s),
                views,
                "Kaplan–Meier: when half of the views are detected",
            ),
            Fact(
                "Mean time undetected",
                duration(curve.rmst_s),
                "" if curve.rmst_interval_s is None else _spanned(*curve.rmst_interval_s),
                views,
                "restricted to 40 min (RMST)"
                + ("" if curve.rmst_interval_s else f"; an interval from {MIN_CLUSTERS} fires on"),
            ),
        ]
    for seconds in DETECTED_WITHIN_S:
        share = score.detected_within(seconds)
        assert share is not None
        hits = round(share * total)
        facts.append(
            Fact(
                f"Within {seconds // 60} min",
                percent(share, 0),
                _shares(wilson_interval(hits, total)),
                f"{hits} of {total}",
            )
        )
    return tuple(facts)


def _alarms(score: Score) -> tuple[Fact, ...]:
    kinds = score.false_alarms.kinds
    said = {
        "true": "on a fire, in the right place",
        "false": "where nothing burns",
        "unlocated": "on a fire, but beside the smoke",
        "late": "more than 40 min after the onset",
        "unknown": "where nobody knows",
    }
    rows = [
        Fact(kind, f"{kinds[kind]:,}", note=note) for kind, note in said.items() if kind in kinds
    ]
    rows.append(Fact("emitted", f"{score.emitted_alarms:,}", note="at most one per repeat time"))
    return tuple(rows)


def _quiet(score: Score) -> str:
    """What the cameras that never cried wolf say together: no alarm in so many hours."""
    quiet = [rate for rate in score.false_alarms.rates_by_camera.values() if not rate.episodes]
    together = Rate(0, sum(rate.camera_hours for rate in quiet))
    if together.interval is None:
        return ""
    return (
        f"{counted(len(quiet), 'camera')} without a false alarm, "
        f"{number(together.camera_hours, 2)} camera-hours together: 0 a camera-day, 95 % below "
        f"{number(together.interval[1], 2)}."
    )


def _blamed(score: Score) -> tuple[Fact, ...]:
    found = score.false_alarms.rates_by_camera.items()
    rows = [(camera, rate) for camera, rate in found if rate.episodes]
    rows.sort(key=lambda row: (-row[1].episodes, -(row[1].per_camera_day or 0.0), row[0]))
    return tuple(
        Fact(
            camera,
            "n/a" if rate.per_camera_day is None else number(rate.per_camera_day, 1),
            _between(rate.interval, 1),
            f"{rate.episodes:,} in {number(rate.camera_hours, 2)} h",
        )
        for camera, rate in rows
    )


# --- faults --------------------------------------------------------------------------------------

_WRONG_PICTURE = {
    "camera-frozen": "the same picture again and again",
    "camera-black": "a black picture",
    "camera-wrong-size": "a picture of another size",
}
"""Kinds whose frames come and are answered: what they do shows in what was detected alone."""


def _fault(fault: FaultScore, log: RunLog) -> FaultRow:
    frames, found = fault.frames, fault.recovery
    inside, drops = fault.latency, fault.drops
    nothing = fault.state in ("failed", "not reached")
    when = clock(fault.start_s)
    if fault.end_s > fault.start_s:
        when += f" to {clock(fault.end_s)}"
    met = sum(fault.meets(camera.id) for camera in log.cameras)
    return FaultRow(
        fault=fault.id,
        kind="" if fault.kind == fault.id else fault.kind,
        when=when,
        cameras=fault.cameras[0]
        if len(fault.cameras) == 1
        else "all"
        if met == len(log.cameras)
        else counted(met, "camera"),
        harmed="–" if nothing else f"{frames.harmed:,} of {frames.scheduled:,}",
        harmed_note=""
        if not frames.scheduled
        else f"dropped {percent(drops.share)}"
        + (f", {frames.late:,} late" if frames.late else "")
        + {True: "", False: "; THE LEDGER DOES NOT BALANCE", None: ""}[fault.exact],
        latency="–" if not inside.n else seconds_text(inside.p50),
        latency_note=""
        if not inside.n
        else ("" if inside.p95 is None else f"p95 {seconds_text(inside.p95)}, ")
        + counted(inside.n, "answer"),
        recovery=_recovered(fault),
        recovery_note=""
        if found.resolution_s is None or not found.harmed
        else f"median {_middle(found.median_s)}, "
        f"{found.harmed:,} of {counted(found.n, 'camera')} harmed; told to within "
        f"{seconds_text(found.resolution_s)}",
        bad=found.not_recovered > 0,
        ttfd="–"
        if not fault.ttfd.n
        else "missed"
        if fault.ttfd.median_s is None
        else duration(fault.ttfd.median_s),
        ttfd_note="" if not fault.ttfd.n else _looks(fault),
        notes=_fault_notes(fault),
    )


def _recovered(fault: FaultScore) -> str:
    found = fault.recovery
    if not found.n:
        return "–"
    if found.not_recovered:
        return f"never ({found.not_recovered:,} of {counted(found.n, 'camera')})"
    if not found.harmed:
        return "at once"
    return "n/a" if found.max_s is None else seconds_text(found.max_s)


def _middle(median_s: float | None) -> str:
    if not median_s:
        return "never" if median_s is None else "0 s"
    return seconds_text(median_s)


def _looks(fault: FaultScore) -> str:
    harmed = sum(met.harmed for met in fault.fires)
    frames = sum(met.frames for met in fault.fires)
    said = counted(fault.ttfd.n, "view")
    if fault.ttfd.missed and fault.ttfd.median_s is not None:
        said += f", {fault.ttfd.missed:,} missed"
    return said + (f"; {harmed:,} of {frames:,} frames on the way harmed" if harmed else "")


def _fault_notes(fault: FaultScore) -> tuple[str, ...]:
    said = []
    if fault.state == "failed":
        said.append(f"could not be played: {fault.detail or 'no reason told'}")
    elif fault.state == "not reached":
        said.append("not reached: the run ended before it")
    elif fault.state == "cut short":
        said.append("the run ended within it")
    if fault.state in ("played", "cut short"):
        if not fault.noted:
            said.append("the run noted no begin: times as planned")
        if fault.kind in _WRONG_PICTURE:
            said.append(f"{_WRONG_PICTURE[fault.kind]}: frames come, their worth shows in the TTFD")
    if fault.overlaps:
        said.append(f"overlaps {', '.join(fault.overlaps)}: what each did cannot be told apart")
    if fault.state != "failed" and fault.detail:
        said.append(fault.detail)
    return tuple(said)


def _outside(score: Score) -> str:
    if not score.faults:
        return ""
    one = score.faults[0]
    spent, drops, fires = one.latency_outside, one.drops_outside, one.ttfd_outside
    said = [
        f"median latency {seconds_text(spent.p50)}, p95 {seconds_text(spent.p95)} (n {spent.n:,})",
        f"dropped {percent(drops.share)}"
        + ("" if drops.interval is None else f", 95 %: {' to '.join(map(percent, drops.interval))}")
        + f" (n {drops.scheduled:,})",
    ]
    if fires.n:
        middle = "n/a" if fires.median_s is None else duration(fires.median_s)
        said.append(
            f"median TTFD {middle} ({counted(fires.n, 'view')}"
            + (f", {fires.missed:,} missed)" if fires.missed else ")")
        )
    return "; ".join(said)


# --- frames, latency, tokens ---------------------------------------------------------------------


def _frames(score: Score) -> tuple[Fact, ...]:
    c = score.frames
    boxes = score.localization
    facts = [
        _share_fact("Precision", c.tp, c.tp + c.fp),
        _share_fact("Recall", c.tp, c.tp + c.fn),
        Fact("F1", number(c.f1, 3), _between(c.f1_interval, 3), f"{c.n:,} frames"),
        _share_fact("Accuracy", c.tp + c.tn, c.n),
        Fact(
            "Streaming accuracy",
            number(score.streaming_accuracy, 3),
            _between(score.intervals.streaming_accuracy, 3),
            note="the newest answer given by each instant (sAP)",
        ),
        Fact(
            "Frame score v1",
            number(score.frame_score_v1, 1),
            _between(score.intervals.frame_score_v1, 1),
            counted(score.sequences, "camera"),
            note=f"{number(score.frame_score_v1_parity, 1)} with unreadable answers as “no smoke”",
        ),
    ]
    if boxes is not None:
        facts += [
            _share_fact("Box precision, IoU ≥ 0.4", boxes.matched, boxes.predicted),
            _share_fact("Box recall, IoU ≥ 0.4", boxes.matched, boxes.n),
            Fact(
                "AP@0.4",
                number(boxes.ap40, 3),
                _between(score.intervals.ap40, 3),
                f"{boxes.n:,} frames with boxes",
            ),
            Fact(
                "AP@0.5",
                number(boxes.ap50, 3),
                _between(score.intervals.ap50, 3),
                f"{boxes.n:,} frames with boxes",
            ),
        ]
    return tuple(facts)


def _share_fact(label: str, hits: int, of: int) -> Fact:
    bounds = wilson_interval(hits, of)
    return Fact(
        label, number(hits / of if of else None, 3), _between(bounds, 3), f"{hits:,} of {of:,}"
    )


def _latencies(score: Score) -> tuple[Fact, ...]:
    spent = score.latency
    ends = score.latency_intervals
    rows = [(50, spent.p50), (90, spent.p90), (95, spent.p95), (99, spent.p99)]
    facts = [
        Fact(
            f"p{rank}",
            seconds_text(value),
            _seconds_between(ends[f"p{rank}"]),
            f"{spent.n:,} answers",
            ""
            if value is not None or not spent.n
            else f"stated from {FLOORS.get(rank, 1)} answers on",
        )
        for rank, value in rows
    ]
    facts.append(
        Fact(
            "Mean", seconds_text(spent.mean), _seconds_between(ends["mean"]), f"{spent.n:,} answers"
        )
    )
    if score.latency_ratio is not None and score.reference_s is not None:
        facts.append(
            Fact(
                "Median to the engine's own reference",
                f"{score.latency_ratio:,.2f} ×",
                note=f"its profile states {seconds_text(score.reference_s)}",
            )
        )
    elif spent.p50 is not None:
        facts += [
            Fact(f"Median to the specification's {where}", f"{spent.p50 / stated_s:,.2f} ×")
            for where, stated_s in (("GPU, 0.25 s", FULL_S), ("CPU, 1 s", HALF_S))
        ]
    return tuple(facts)


def _stages(score: Score) -> tuple[Fact, ...]:
    ours = {
        "waited_s": ("Waited for a turn", "receipt to request"),
        "decided_s": ("Decided", "request to the deciding token"),
        "answered_s": ("Answered", "request to the whole answer"),
    }
    facts = []
    for name, stage in score.stages.items():
        label, note = ours.get(name, (name.removesuffix("_s").replace("_", " "), "server's split"))
        facts.append(
            Fact(
                label,
                seconds_text(stage.p50),
                seconds_text(stage.p95),
                f"{stage.n:,} answers",
                note,
            )
        )
    return tuple(facts)


def _spent(score: Score) -> Fact:
    used = score.tokens
    rate = used.visual_per_camera_hour
    return Fact(
        "Visual tokens per camera-hour",
        f"{rate / 1e6:,.2f} M" if rate is not None and rate >= 1e6 else number(rate, 0),
        n=f"{used.requests:,} requests in {number(used.camera_hours, 2)} camera-hours",
        note=f"{number(used.visual_per_request, 0)} a request",
    )


def _tokens(log: RunLog, score: Score) -> tuple[Fact, ...]:
    used = score.tokens
    budget = log.run.get("settings", {}).get("budget", {})
    told = budget.get("tokens_per_s", "n/a")
    learned = {"auto": "learned from the engine's rate", "none": "no budget"}.get(str(told), "")
    return (
        Fact("Visual tokens", f"{used.visual:,}", n=f"{used.requests:,} requests"),
        Fact("A request", number(used.visual_per_request, 0), n=f"{used.requests:,} requests"),
        Fact(
            "A camera-hour",
            number(used.visual_per_camera_hour, 0),
            n=f"{number(used.camera_hours, 2)} camera-hours",
        ),
        Fact("Prompt and output", f"{used.prompt:,} + {used.output:,}"),
        Fact(
            "Budget a second",
            f"{told:,}" if isinstance(told, int | float) else str(told),
            note=learned,
        ),
        Fact(
            "Range a request", f"{budget.get('min_tokens', '?')} to {budget.get('max_tokens', '?')}"
        ),
    )


def _ledger(score: Score) -> tuple[Fact, ...]:
    total = score.ledger.scheduled or sum(score.ledger.fates.values())
    return tuple(
        Fact(what, f"{count:,}", n=percent(count / total) if total else "")
        for what, count in sorted(score.ledger.reasons.items(), key=lambda pair: -pair[1])
    )


def _told(score: Score) -> tuple[Fact, ...]:
    told = score.explanations
    if not told.asked:
        return ()
    return (
        Fact("Given", f"{told.given:,}", n=f"{told.asked:,} asked"),
        Fact("Took, median", seconds_text(told.p50_s), n=f"{told.asked:,} asked"),
        Fact("Took, all", duration(told.seconds), note="engine time that no verdict got"),
        Fact("Tokens", f"{told.visual_tokens:,} visual, {told.output_tokens:,} output"),
    )


# --- the operating curve -------------------------------------------------------------------------


def _operating(log: RunLog, score: Score) -> tuple[tuple[OperatingPoint, ...], str]:
    """The run's own point and nine thresholds; or none and the reason."""
    if not score.fires and not score.false_alarms.camera_hours:
        return (), "There is neither a fire nor time without smoke to judge thresholds by."
    if len(log.frames) > CURVE_FRAMES:
        return (), (
            f"Not drawn for more than {CURVE_FRAMES:,} frames; "
            "`earlyfire score RUN --threshold 0.1:0.9:0.1` computes it."
        )
    if np.isnan(FrameTable.of(log.frames).answer_column("confidence")).all():
        return (), "The engine gave no confidence, so that no threshold can be moved."
    return operating_curve(log, THRESHOLDS), ""


def _point(point: OperatingPoint) -> dict[str, Any]:
    told = point.to_json()
    return {
        "threshold": point.threshold,
        "chosen": point.chosen,
        "recall": point.recall,
        "recall_interval": told["views"]["recall_interval"],  # type: ignore[index]
        "ttfd": point.median_ttfd_s,
        "rate": point.per_camera_day,
        "rate_interval": told["false_alarms"]["interval"],  # type: ignore[index]
        "episodes": point.episodes,
        "detected": point.detected,
        "views": point.views,
    }


# --- the harness and the settings ----------------------------------------------------------------


def _harness(log: RunLog, drawn: Figures) -> tuple[Fact, ...]:
    late, way = drawn.lateness, drawn.on_the_way
    ends = [n for n in log.notes if n["what"] == "session_end"]
    total = {key: sum(int(n.get(key) or 0) for n in ends) for key in ("dropped", "reconnects")}
    engine = log.run.get("engine") or {}
    cold = engine.get("cold_start_s")
    host = log.run.get("host") or {}
    facts = [
        Fact("Cameras late, median", seconds_text(late.p50), n=f"{late.n:,} frames"),
        Fact(
            "Cameras late, p99",
            seconds_text(late.p99),
            n=f"{late.n:,} frames",
            note="" if late.p99 is not None or not late.n else f"stated from {FLOORS[99]} on",
        ),
        Fact("Cameras late, worst", seconds_text(late.worst), n=f"{late.n:,} frames"),
        Fact(
            "Capture to receipt, median",
            seconds_text(way.p50),
            n=f"{way.n:,} frames",
            note="lateness, encoding and transport: no engine is faster than this",
        ),
        Fact(
            "Capture to receipt, p95",
            seconds_text(way.p95),
            n=f"{way.n:,} frames",
            note="" if way.p95 is not None or not way.n else f"stated from {FLOORS[95]} on",
        ),
        Fact("Cold start of the engine", "not told" if cold is None else duration(float(cold))),
        Fact("Deliveries twice", f"{log.duplicates:,}"),
        Fact("Dropped by our own inlet", f"{total['dropped']:,}"),
        Fact("Broker reconnects", f"{total['reconnects']:,}"),
    ]
    pulses = [n for n in log.notes if n["what"] == "pulse" and "cpu_s" in n]
    if len(pulses) > 1:
        first, last = pulses[0], pulses[-1]
        wall_s = (last["wall_ns"] - first["wall_ns"]) / 1e9
        cores = (last["cpu_s"] - first["cpu_s"]) / wall_s if wall_s > 0 else None
        facts.append(
            Fact(
                "Cores kept busy",
                number(cores, 2),
                n=f"{len(pulses)} pulses",
                note=f"of {host.get('cores', '?')}; cameras, consumer and an engine in our process",
            )
        )
        begun, ended = first.get("scenario_s", 0.0), last.get("scenario_s", 0.0)
        at = ShotTable.of(log.shots).column("captured_at") if len(log.shots) else np.empty(0)
        frames = int(((at >= begun) & (at < ended)).sum())
        if frames:
            facts.append(
                Fact(
                    "CPU a scheduled frame",
                    seconds_text((last["cpu_s"] - first["cpu_s"]) / frames),
                    n=f"{frames:,} frames",
                    note="made, sent, received, decided on; an engine in our process too",
                )
            )
    resident = [n["rss_bytes"] for n in pulses if n.get("rss_bytes")]
    if resident:
        facts.append(
            Fact("Most memory", f"{max(resident) / 1e6:,.0f} MB", n=f"{len(pulses)} pulses")
        )
    return tuple(facts)


def _distrust(log: RunLog, drawn: Figures) -> list[str]:
    """What the harness itself did to the figures."""
    said = []
    worst = drawn.lateness.worst
    if worst is not None and worst > LATE_S:
        said.append(
            f"the cameras themselves were up to {duration(worst)} late: this host was busy, and "
            "latencies hold its lateness too"
        )
    cores = (log.run.get("host") or {}).get("cores")
    busy = [row[2] for row in drawn.data["pulses"] if row[2] is not None]
    if isinstance(cores, int) and busy and max(busy) > 0.85 * cores:
        said.append(
            f"saturated host: up to {max(busy):.1f} of {cores} cores were busy with the run"
        )
    return said


def _settings(log: RunLog) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    run = log.run
    engine = dict(run.get("engine") or {})
    prompt = engine.pop("prompt", None) or {}
    git = run.get("git") or {}
    groups: list[tuple[str, Mapping[str, Any]]] = [
        (
            "run",
            {
                "run": run.get("run"),
                "scenario file": run.get("scenario_file"),
                "scenario digest": run.get("digest"),
                "seed": run.get("seed"),
                "clock": run.get("clock"),
                "speed": log.speed,
                "broker": run.get("broker"),
                "duration asked for": _lasting(run.get("duration_s")),
                "played": _lasting(run.get("played_s")),
            },
        ),
        (
            "engine",
            {**engine, "prompt": prompt.get("name"), "prompt digest": prompt.get("digest")},
        ),
        *(
            (name if name != "engine" else "engine's settings", values)
            for name, values in (run.get("settings") or {}).items()
            if isinstance(values, Mapping)
        ),
        ("versions", run.get("versions") or {}),
        (
            "host",
            {
                **(run.get("host") or {}),
                "git commit": git.get("commit"),
                "changed since": git.get("changed"),
            },
        ),
    ]
    return tuple(
        (name, tuple((key.replace("_", " "), _said(value)) for key, value in values.items()))
        for name, values in groups
    )


def _lasting(seconds: object) -> object:
    return duration(float(seconds)) if isinstance(seconds, int | float) else seconds


def _said(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value, ensure_ascii=False)


# --- numbers -------------------------------------------------------------------------------------


def _between(bounds: Sequence[float] | None, digits: int) -> str:
    return "" if bounds is None else f"{bounds[0]:,.{digits}f} to {bounds[1]:,.{digits}f}"


def _shares(bounds: Interval | None) -> str:
    return "" if bounds is None else f"{100 * bounds[0]:.0f} to {100 * bounds[1]:.0f} %"


def _seconds_between(bounds: Interval | None) -> str:
    return "" if bounds is None else _one_unit(*map(seconds_text, bounds))


def _open_ends(bounds: tuple[float | None, float | None] | None) -> str:
    """An end that lies beyond what was watched is told as such."""
    if bounds is None:
        return ""
    low, high = bounds
    if low is not None and high is not None:
        return _spanned(low, high)
    return " to ".join("not reached" if end is None else duration(end) for end in bounds)


def _spanned(low: float, high: float) -> str:
    return _one_unit(duration(low), duration(high))


def _one_unit(first: str, last: str) -> str:
    """`2:29 to 8:35 min`: a unit that both ends have is told once."""
    unit = last.rpartition(" ")[2]
    return f"{first.removesuffix(f' {unit}')} to {last}"


def _amount(value: float) -> str:
    """`8.19 G`, `512 k`, `3`, `0.0012`: of a stranger's unit."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= factor:
            return f"{value / (1e3 if letter == 'k' else factor):.3g} {letter}"
    return f"{value:.4g}"


def _digits(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None


def seconds_text(value: float | None) -> str:
    """`1.3 ms`, `31 ms`, then as `duration`: a median of 0.03 s says too little."""
    if value is None:
        return "n/a"
    if abs(value) >= 0.9995:
        return duration(value)
    return f"{1000 * value:.{1 if abs(value) < 0.00995 else 0}f} ms"
