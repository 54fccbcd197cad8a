"""The Early-Fire Score: how early, how surely, and at what latency the alarm came.

    EFS = 100 · K · C · (0.70 + 0.15·L + 0.15·Q)

D detection and earliness · F false alarms · C their harmonic mean · L localization · Q latency ·
K readable answers. L and Q only multiply C, so a quick engine that always says "no" scores 0.
"""

from __future__ import annotations

__all__ = [
    "Score",
    "Terms",
    "alarm_policy",
    "earliness",
    "few_false_alarms",
    "harmonic_mean",
    "score",
]

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from earlyfire_stream.errors import RunFolderError
from earlyfire_stream.records import RunLog
from earlyfire_stream.scenario.models import AlarmPolicy
from earlyfire_stream.scoring.accuracy import (
    Confusion,
    Localization,
    camera_boxes,
    confusion,
    frame_score_v1,
    judged_sequence,
    pooled_boxes,
    streamed,
)
from earlyfire_stream.scoring.answers import (
    VALID_SHARE,
    Answers,
    Explanations,
    Latency,
    Served,
    Stage,
    Tokens,
    answers,
    explanations,
    latency,
    latency_quality,
    stages,
    tokens,
)
from earlyfire_stream.scoring.detection import (
    HORIZON_S,
    FalseAlarms,
    Fleet,
    View,
    false_alarms,
    fleet,
    never_seen,
    views,
    watched_hours,
)
from earlyfire_stream.scoring.faults import NORMAL_ANSWERS, FaultScore, faults
from earlyfire_stream.scoring.footage import Footage, footage, keys, packed
from earlyfire_stream.scoring.ledger import Ledger, balance, unbalanced
from earlyfire_stream.scoring.resampling import (
    Intervals,
    clusters,
    intervals,
    latencies_by_camera,
)
from earlyfire_stream.scoring.statistics import (
    Survival,
    bootstrap_means,
    median,
    median_interval,
    survival,
    wilson_interval,
)
from earlyfire_stream.verdict import Fate

SCHEMA = 1
TTFD_HALF_S = 240.0
"""SAI's `ttd_max`: by then an alarm's earliness is worth half."""
FALSE_PER_DAY = 5.0
"""λ0, SAI's target per camera-day: there F is one half."""
LOW_EXPOSURE_H = 24.0
DETECTED_WITHIN_S = (60, 180, 300)


def earliness(ttfd_s: float | None) -> float:
    """u = 0.4 + 0.6·2^(−TTFD/240 s) of a located alarm, 0 of a miss: a late hit beats a miss.

    0 s → 1.0 · 240 s → 0.7 · 480 s → 0.55 · None → 0. A TTFD below 0 (two hosts whose clocks
    differ) earns no more than 0 s.
    """
    return 0.0 if ttfd_s is None else 0.4 + 0.6 * 2 ** (-max(0.0, ttfd_s) / TTFD_HALF_S)


def few_false_alarms(per_camera_day: float) -> float:
    """F = 1/(1 + λ/5): none → 1 · 5 a camera-day → 0.5 · 36 → 0.122."""
    return 1 / (1 + per_camera_day / FALSE_PER_DAY)


def harmonic_mean(d: float | None, f: float | None) -> float | None:
    """2df/(d+f), 0 if both are 0; None unless both are known. (1, 0.5) → 0.667."""
    if d is None or f is None:
        return None
    return 2 * d * f / (d + f) if d + f > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Terms:
    """The six terms, 0 to 1; None where the run has nothing to measure one by."""

    detection: float | None
    false_alarms: float | None
    localization: float | None
    latency: float | None
    answers: float | None
    boxes_in_truth: bool

    @property
    def combined(self) -> float | None:
        """C = 2DF/(D+F), 0 if both are 0; None unless both are known. (1, 0.5) → 0.667."""
        return harmonic_mean(self.detection, self.false_alarms)

    @property
    def value(self) -> float | None:
        """EFS = 100·K·C·(0.70 + 0.15·L + 0.15·Q), without truth boxes (0.70 + 0.15·Q)/0.85.

        D=1, F=1, L=0, Q=0.5, K=1 → 77.5; the same without truth boxes → 91.18. K and Q of a run
        without a single request are 0.
        """
        if self.combined is None:
            return None
        q = self.latency or 0.0
        if self.boxes_in_truth:
            worth = 0.70 + 0.15 * (self.localization or 0.0) + 0.15 * q
        else:
            worth = (0.70 + 0.15 * q) / 0.85
        return 100 * (self.answers or 0.0) * self.combined * worth

    def to_json(self) -> dict[str, float | None]:
        return {
            "D": self.detection,
            "F": self.false_alarms,
            "C": self.combined,
            "L": self.localization,
            "Q": self.latency,
            "K": self.answers,
        }


@dataclass(frozen=True, slots=True)
class Score:
    """Everything measured of one run; `to_json` is `score.json`."""

    early_fire_score: float | None
    why_null: str
    """Why there is no Early-Fire Score; empty if there is one."""
    interval: tuple[float, float] | None
    """The Early-Fire Score at both ends of λ's exact Poisson interval, lower value first."""
    terms: Terms
    detection_unlocated: float | None
    """D if no box were asked for."""
    detection_interval: tuple[float, float] | None
    """D's bootstrap over fires; None under 8 fires."""
    frame_score_v1: float | None
    frame_score_v1_parity: float | None
    """v1 with unreadable answers as "no smoke", to compare with [S]."""
    sequences: int
    """Of which v1 is the mean."""
    fires: tuple[View, ...]
    fleet: tuple[Fleet, ...]
    survival: Survival | None
    false_alarms: FalseAlarms
    emitted_alarms: int
    frames: Confusion
    streaming_accuracy: float | None
    localization: Localization | None
    latency: Latency
    latency_frames: int
    """Of which Q is the mean."""
    reference_s: float | None
    """The latency that the engine's own profile or calibration states; None without one."""
    intervals: Intervals
    """By drawing fires and quiet cameras again."""
    tokens: Tokens
    answers: Answers
    stages: Mapping[str, Stage]
    explanations: Explanations
    ledger: Ledger
    alarm_policy: Mapping[str, float]
    speed: float
    speed_distorted: bool
    """At another speed than 1, frames were dropped for lack of wall time."""
    complete: bool
    warnings: tuple[str, ...]
    faults: tuple[FaultScore, ...] = ()
    """What was scripted to go wrong, and what it did; empty where nothing was."""

    @property
    def median_ttfd_s(self) -> float | None:
        """Over the detected views alone; `survival` counts the others too."""
        return median([v.ttfd_s for v in self.fires if v.ttfd_s is not None])

    @property
    def median_ttfd_interval_s(self) -> tuple[float, float] | None:
        """From the order of the detected views alone; None under six."""
        return median_interval([v.ttfd_s for v in self.fires if v.ttfd_s is not None])

    @property
    def latency_ratio(self) -> float | None:
        """Median latency over the engine's own reference: 2 is twice as slow as stated."""
        if self.reference_s is None or self.latency.p50 is None:
            return None
        return self.latency.p50 / self.reference_s

    @property
    def latency_intervals(self) -> dict[str, tuple[float, float] | None]:
        """By name; none of a percentile that is itself withheld."""
        found = self.intervals.latency_s or {}
        return {
            name: found.get(name) if getattr(self.latency, name) is not None else None
            for name in ("mean", "p50", "p90", "p95", "p99")
        }

    @property
    def term_intervals(self) -> dict[str, tuple[float, float] | None]:
        """D, L and Q by drawing fires again, F from λ's exact Poisson interval, K from Wilson's."""
        per_day = self.false_alarms.interval
        valid = wilson_interval(self.answers.valid, self.answers.sent)
        return {
            "D": self.detection_interval,
            "F": None
            if per_day is None
            else (few_false_alarms(per_day[1]), few_false_alarms(per_day[0])),
            "L": self.intervals.localization,
            "Q": self.intervals.latency,
            "K": None
            if valid is None
            else (min(1.0, valid[0] / VALID_SHARE), min(1.0, valid[1] / VALID_SHARE)),
        }

    def detected_within(self, seconds: float) -> float | None:
        """Share of views detected within so many seconds of the onset."""
        return self._within(seconds) / len(self.fires) if self.fires else None

    def detected_within_interval(self, seconds: float) -> tuple[float, float] | None:
        """Wilson's."""
        return wilson_interval(self._within(seconds), len(self.fires))

    def _within(self, seconds: float) -> int:
        return sum(v.ttfd_s is not None and v.ttfd_s <= seconds for v in self.fires)

    def to_json(self) -> dict[str, Any]:
        """Only finite numbers, strings, lists, dicts, booleans and None."""
        detected = sum(v.parts is not None for v in self.fires)
        drawn = self.intervals
        asked = self.answers
        share_of = {
            "valid": asked.valid,
            "bad_json": asked.bad_json,
            "timeout": asked.errors.get("timeout", 0),
            "error": sum(asked.errors.values()) - asked.errors.get("unavailable", 0),
        }
        return {
            "schema": SCHEMA,
            "early_fire_score": self.early_fire_score,
            "why_null": self.why_null,
            "early_fire_score_interval": _listed(self.interval),
            "frame_score_v1": self.frame_score_v1,
            "frame_score_v1_interval": _listed(drawn.frame_score_v1),
            "frame_score_v1_parity": self.frame_score_v1_parity,
            "frame_score_v1_parity_interval": _listed(drawn.frame_score_v1_parity),
            "frame_score_v1_sequences": self.sequences,
            "terms": self.terms.to_json(),
            "term_intervals": {name: _listed(ends) for name, ends in self.term_intervals.items()},
            "D_unlocated": self.detection_unlocated,
            "D_interval": _listed(self.detection_interval),
            "fires": [v.to_json() for v in self.fires],
            "fleet": [f.to_json() for f in self.fleet],
            "views": {
                "n": len(self.fires),
                "detected": detected,
                "recall": detected / len(self.fires) if self.fires else None,
                "recall_interval": _listed(wilson_interval(detected, len(self.fires))),
                "median_ttfd_s": self.median_ttfd_s,
                "median_ttfd_interval_s": _listed(self.median_ttfd_interval_s),
                "detected_within": {str(s): self.detected_within(s) for s in DETECTED_WITHIN_S},
                "detected_within_intervals": {
                    str(s): _listed(self.detected_within_interval(s)) for s in DETECTED_WITHIN_S
                },
            },
            "survival": None if self.survival is None else _survival_json(self.survival),
            "false_alarms": self.false_alarms.to_json(),
            "alarms": {"candidates": dict(self.false_alarms.kinds), "emitted": self.emitted_alarms},
            "frames": {
                **self.frames.to_json(),
                "streaming_accuracy": self.streaming_accuracy,
                "streaming_accuracy_interval": _listed(drawn.streaming_accuracy),
            },
            "localization": {
                "truth": "n/a" if self.localization is None else "boxes",
                **(self.localization or Localization(0, 0, 0, None, None)).to_json(),
                "ap40_interval": _listed(drawn.ap40),
                "ap50_interval": _listed(drawn.ap50),
            },
            "latency_s": {
                **asdict(self.latency),
                "intervals": {k: _listed(ends) for k, ends in self.latency_intervals.items()},
                "scored": self.latency_frames,
                "reference": self.reference_s,
                "ratio": self.latency_ratio,
            },
            "tokens": {
                **asdict(self.tokens),
                "visual_per_request": self.tokens.visual_per_request,
                "visual_per_camera_hour": self.tokens.visual_per_camera_hour,
            },
            "answers": {
                **asdict(asked),
                "shares": {name: asked.share(count) for name, count in share_of.items()},
                "share_intervals": {
                    name: _listed(wilson_interval(count, asked.sent))
                    for name, count in share_of.items()
                },
            },
            "stages": {name: asdict(stage) for name, stage in self.stages.items()},
            "explanations": asdict(self.explanations),
            "ledger": {**asdict(self.ledger), "examples": list(self.ledger.examples)},
            "faults": [f.to_json() for f in self.faults],
            "alarm_policy": dict(self.alarm_policy),
            "speed": self.speed,
            "speed_distorted": self.speed_distorted,
            "complete": self.complete,
            "warnings": list(self.warnings),
        }


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _survival_json(curve: Survival) -> dict[str, object]:
    return {
        "times_s": list(curve.times_s),
        "undetected": list(curve.undetected),
        "intervals": [_listed(ends) for ends in curve.intervals],
        "at_risk": list(curve.at_risk),
        "median_s": curve.median_s,
        "median_interval_s": None
        if curve.median_interval_s is None
        else list(curve.median_interval_s),
        "rmst_s": curve.rmst_s,
        "rmst_interval_s": _listed(curve.rmst_interval_s),
        "horizon_s": HORIZON_S,
    }


def score(log: RunLog) -> Score:
    """Score a run, complete or not.

    Cameras without a truth enter neither the Early-Fire Score nor v1; latency, tokens, answers and
    the ledger are of all cameras.
    """
    policy = alarm_policy(log)
    log, shots, frames = packed(log)
    key = keys(log, shots, frames)
    everything = footage(log, key)
    known = tuple(f for f in everything if f.plan.truth)
    all_records = Served(frames, everything)
    known_records = Served(frames, known)

    found = views(known, policy, log.alarms, log.complete)
    alarms = false_alarms(known, policy)
    boxed = [camera_boxes(one) for one in everything]
    boxes = pooled_boxes(boxed)
    lambda_ = alarms.per_camera_day
    terms = Terms(
        detection=_mean([earliness(v.ttfd_s) for v in found]),
        false_alarms=None if lambda_ is None else few_false_alarms(lambda_),
        localization=None if boxes is None else boxes.value,
        latency=latency_quality(known_records),
        answers=answers(known_records).quality,
        boxes_in_truth=boxes is not None,
    )
    ledger = balance(log, key)
    spent = latency(all_records)
    asked = answers(all_records)
    harmed_by = faults(log, frames, everything, found, unbalanced(log, key)) if log.faults else ()
    distorted = log.speed != 1 and any(
        ledger.fates.get(fate.value, 0)
        for fate in (Fate.EXPIRED, Fate.SUPERSEDED, Fate.OVER_BUDGET)
    )
    v1 = _frame_scores(everything)
    stream = np.array(streamed(frames, everything), float).reshape(len(everything), 2)
    quality, latencies = latencies_by_camera(all_records, everything)
    quality *= np.array([[one.plan.truth] for one in everything]).reshape(-1, 1)
    detected = [v for v in found if v.ttfd_s is not None]
    missed = [v for v in found if v.ttfd_s is None]
    by_fire: dict[str, list[float]] = {}
    for view in found:
        by_fire.setdefault(view.fire, []).append(earliness(view.ttfd_s))
    return Score(
        early_fire_score=terms.value,
        why_null=_why_null(found, known, alarms),
        interval=_at_both_ends(terms, alarms),
        terms=terms,
        detection_unlocated=_mean([earliness(v.unlocated_ttfd_s) for v in found]),
        detection_interval=bootstrap_means(list(by_fire.values())),
        frame_score_v1=_ratio(v1[:, 0], v1[:, 2]),
        frame_score_v1_parity=_ratio(v1[:, 1], v1[:, 2]),
        sequences=int(v1[:, 2].sum()),
        fires=found,
        fleet=fleet(found),
        survival=survival(
            [v.ttfd_s for v in detected if v.ttfd_s is not None],
            [v.censored_s for v in missed],
            HORIZON_S,
            [v.fire for v in (*detected, *missed)],
        ),
        false_alarms=alarms,
        emitted_alarms=sum(a.emitted for a in log.alarms),
        frames=confusion(known),
        streaming_accuracy=_ratio(stream[:, 0], stream[:, 1]),
        localization=boxes,
        latency=spent,
        latency_frames=int(quality[:, 1].sum()),
        reference_s=_reference_s(log),
        intervals=intervals(
            clusters(everything),
            boxes=boxed,
            quality=quality,
            v1=v1,
            streamed=stream,
            latencies=latencies,
        ),
        tokens=tokens(all_records, watched_hours(everything)),
        answers=asked,
        stages=stages(all_records),
        explanations=explanations(log.explanations),
        ledger=ledger,
        alarm_policy=policy.model_dump(),
        speed=log.speed,
        speed_distorted=distorted,
        complete=log.complete,
        warnings=tuple(_warnings(log, known, found, alarms, boxes, spent, asked, ledger, distorted))
        + tuple(_warnings_of_faults(harmed_by)),
        faults=harmed_by,
    )


def _frame_scores(footages: Sequence[Footage]) -> NDArray[np.float64]:
    """By camera v1 and its parity mode, ×100, and 1; all 0 where it has no sequence."""
    rows = np.zeros((len(footages), 3))
    for row, one in zip(rows, footages, strict=True):
        judged = judged_sequence(one)
        if judged is not None:
            row[:] = 100 * frame_score_v1(*judged), 100 * frame_score_v1(*judged, "negative"), 1
    return rows


def _ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> float | None:
    whole = math.fsum(wholes)
    return math.fsum(parts) / whole if whole else None


def _reference_s(log: RunLog) -> float | None:
    told = log.run.get("engine")
    reference = told.get("reference_s") if isinstance(told, dict) else None
    return float(reference) if isinstance(reference, int | float) and reference > 0 else None


def alarm_policy(log: RunLog) -> AlarmPolicy:
    """The run's own; RunFolderError if it is none."""
    try:
        return AlarmPolicy.model_validate(dict(log.alarm_policy))
    except ValidationError as why:
        raise RunFolderError(f"run.json: its alarm policy cannot be used: {why}") from why


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _why_null(found: Sequence[View], known: Sequence[Footage], alarms: FalseAlarms) -> str:
    if not known:
        return "no camera has a known truth"
    if not found and alarms.camera_hours <= 0:
        return "no fire and no time without smoke; frame metrics only"
    if not found:
        return "no fire: D cannot be measured, F is reported alone"
    if alarms.camera_hours <= 0:
        return "no time without smoke: F cannot be measured, D is reported alone"
    return ""


def _at_both_ends(terms: Terms, alarms: FalseAlarms) -> tuple[float, float] | None:
    if alarms.interval is None:
        return None
    few, many = alarms.interval
    ends = [_with_false_alarms(terms, few_false_alarms(end)).value for end in (many, few)]
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def _with_false_alarms(terms: Terms, f: float) -> Terms:
    return Terms(
        terms.detection, f, terms.localization, terms.latency, terms.answers, terms.boxes_in_truth
    )


def _warnings(
    log: RunLog,
    known: Sequence[Footage],
    found: Sequence[View],
    alarms: FalseAlarms,
    boxes: Localization | None,
    spent: Latency,
    asked: Answers,
    ledger: Ledger,
    distorted: bool,
) -> list[str]:
    """What a reader must know before believing the figures, gravest first."""
    said = list(log.doubts)
    if ledger.balanced is False:
        said.append(
            f"the ledger does not balance; frames without a fate: {ledger.missing}, with more than "
            f"one: {ledger.double}, never scheduled: {ledger.unknown} "
            f"({', '.join(ledger.examples)})"
        )
    if ledger.balanced is None:
        said.append("no cameras' log: what was scheduled is unknown, the ledger proves nothing")
    if not log.complete:
        said.append(
            f"the run is not complete; frames without a fate: {ledger.inferred}, counted as "
            "abandoned(killed); fires without an alarm count as missed"
        )
    if log.torn_lines:
        said.append(f"torn lines left out of the log: {log.torn_lines}")
    if spent.skewed or any(v.parts is not None and v.parts.transport < 0 for v in found):
        said.append(
            "frames arrive or are answered before their capture: the clocks of cameras and "
            f"consumer differ; latencies that are n/a: {spent.skewed}"
        )
    if distorted:
        said.append(
            f"speed {log.speed:g} distorts: frames expired, were superseded or over budget for "
            "lack of wall time; compare with runs at the same speed only"
        )
    if asked.sent and not asked.valid:
        said.append("not one answer could be read")
    if 0 < alarms.camera_hours < LOW_EXPOSURE_H:
        see = "the score at both ends of its interval" if found else "its interval"
        said.append(
            f"low exposure: {alarms.camera_hours:.3g} camera-hours without smoke "
            f"({LOW_EXPOSURE_H:g} are needed for a steady false alarm rate); see {see}"
        )
    unseen = never_seen(known) if log.complete else ()
    if unseen:
        named = ", ".join(f"{fire} ({camera})" for fire, camera in unseen[:5])
        said.append(
            f"views left out because their smoke is in no picture: {len(unseen)} ({named}"
            f"{', …' if len(unseen) > 5 else ''}); play longer, or make the plume larger or nearer"
        )
    hidden = sum(len(f.plan.fires) for f in known if f.timed) - len(found) - len(unseen)
    if hidden:
        said.append(
            f"views left out because scripted outages hide them from first to last: {hidden}"
        )
    late = [v for v in found if v.onset_source == "clip_start"]
    if late:
        said.append(
            f"views that begin in smoke, so that their onset is the clip's start: {len(late)}"
        )
    stray = sum(v.parts is None and v.unlocated > 0 for v in found)
    if stray:
        said.append(f"views alarmed only with boxes that do not touch the smoke: {stray}")
    if boxes is None and found:
        said.append("localization: n/a, the truth has no boxes")
    return said


def _warnings_of_faults(found: Sequence[FaultScore]) -> list[str]:
    said = []
    if found:
        played = sum(one.state in ("played", "cut short") for one in found)
        said.append(
            f"things were made to go wrong on purpose: {played}; every figure holds what they did"
        )
    for one in found:
        if one.state == "failed":
            said.append(f"fault {one.id} could not be played: {one.detail or 'no reason told'}")
        elif one.state == "not reached":
            said.append(f"fault {one.id} was not reached: the run ended before it")
    if found and found[0].late_after_s is None:
        said.append(
            f"fewer than {NORMAL_ANSWERS} answers outside the faults and their recovery: what is "
            "normal is unknown, no answer counts as late"
        )
    return said
