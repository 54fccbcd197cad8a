"""The operating curve: what the same answers would have been worth under other thresholds.

Recomputed offline from the confidences of a run, no frame is looked at again. So it is exact for a
run whose sampling did not react to its verdicts (`fixed`); under `adaptive` sampling another
threshold would also have looked at other frames, which no log can tell.
"""

from __future__ import annotations

__all__ = ["OperatingPoint", "operating_curve", "parse_policies", "parse_thresholds"]

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np

from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import AlarmRecord, RunLog
from earlyfire_stream.scenario.models import AlarmPolicy
from earlyfire_stream.scoring.detection import FalseAlarms, View, false_alarms, views
from earlyfire_stream.scoring.early_fire import (
    alarm_policy,
    earliness,
    few_false_alarms,
    harmonic_mean,
)
from earlyfire_stream.scoring.footage import Footage, footage
from earlyfire_stream.scoring.statistics import median, wilson_interval

MOST_POINTS = 1000
"""A longer list is a slip of the finger."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one threshold and one alarm policy would have brought. Seconds as in `View.ttfd_s`."""

    threshold: float | None
    """P(smoke) from which a verdict counts as smoke; None: `has_smoke` as the engine gave it."""
    k: int
    n: int
    chosen: bool
    """The point at which the run was played: as the engine gave it, with the run's own policy."""
    views: int
    detected: int
    median_ttfd_s: float | None
    """Over the detected views alone."""
    episodes: int
    """False alarms."""
    camera_hours: float
    per_camera_day: float | None
    per_camera_day_interval: tuple[float, float] | None
    """Exact Poisson."""
    detection: float | None
    """The term D of the Early-Fire Score."""
    false_alarms: float | None
    """Its term F."""
    verdicts: int
    """Readable answers on cameras with a cadence and a truth."""
    without_confidence: int
    """Those of them that the threshold cannot move: their `has_smoke` stands."""

    @property
    def recall(self) -> float | None:
        """Share of views detected."""
        return self.detected / self.views if self.views else None

    @property
    def recall_interval(self) -> tuple[float, float] | None:
        """Wilson's."""
        return wilson_interval(self.detected, self.views)

    @property
    def combined(self) -> float | None:
        """C, the harmonic mean of D and F."""
        return harmonic_mean(self.detection, self.false_alarms)

    @property
    def alarm(self) -> str:
        return f"{self.k}of{self.n}"

    def to_json(self) -> dict[str, object]:
        return {
            "threshold": self.threshold,
            "alarm": self.alarm,
            "chosen": self.chosen,
            "views": {
                "n": self.views,
                "detected": self.detected,
                "recall": self.recall,
                "recall_interval": _listed(self.recall_interval),
                "median_ttfd_s": self.median_ttfd_s,
            },
            "false_alarms": {
                "episodes": self.episodes,
                "camera_hours": self.camera_hours,
                "per_camera_day": self.per_camera_day,
                "interval": _listed(self.per_camera_day_interval),
            },
            "D": self.detection,
            "F": self.false_alarms,
            "C": self.combined,
            "verdicts": self.verdicts,
            "without_confidence": self.without_confidence,
        }


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


Counts = tuple[int, int]
"""(k, n) of an alarm policy; `within` is the run's own."""


def operating_curve(
    log: RunLog, thresholds: Sequence[float], policies: Sequence[Counts] = ()
) -> tuple[OperatingPoint, ...]:
    """The run's own point first, marked `chosen`; then each policy with each threshold.

    Without `policies` the run's own alone. A verdict with a confidence counts as smoke from the
    threshold on; one without any, and one whose box an `ignore` polygon took, stands as it is. The
    run's `min_confidence` gives way to the threshold; `within` is kept. TTFDs of the chosen point
    use the recorded alarm instants, the others the instants at which verdicts were decided.
    """
    own = alarm_policy(log)
    known = [f for f in footage(log) if f.timed]
    points = [_point(log, known, None, own, log.alarms)]
    for k, n in policies or [(own.k, own.n)]:
        policy = own.model_copy(update={"k": k, "n": n, "min_confidence": 0.0})
        for threshold in thresholds:
            judged = [one.judged_at(threshold) for one in known]
            points.append(_point(log, judged, threshold, policy, ()))
    return tuple(points)


def _point(
    log: RunLog,
    known: Sequence[Footage],
    threshold: float | None,
    policy: AlarmPolicy,
    alarms: Sequence[AlarmRecord],
) -> OperatingPoint:
    found: Sequence[View] = views(known, policy, alarms, log.complete)
    raised: FalseAlarms = false_alarms(known, policy)
    ttfds = [v.ttfd_s for v in found]
    per_day = raised.per_camera_day
    return OperatingPoint(
        threshold=threshold,
        k=policy.k,
        n=policy.n,
        chosen=threshold is None,
        views=len(found),
        detected=sum(t is not None for t in ttfds),
        median_ttfd_s=median([t for t in ttfds if t is not None]),
        episodes=raised.episodes,
        camera_hours=raised.camera_hours,
        per_camera_day=per_day,
        per_camera_day_interval=raised.interval,
        detection=math.fsum(map(earliness, ttfds)) / len(ttfds) if ttfds else None,
        false_alarms=None if per_day is None else few_false_alarms(per_day),
        verdicts=sum(int((one.says >= 0).sum()) for one in known),
        without_confidence=sum(
            int(((one.says >= 0) & np.isnan(one.confidence)).sum()) for one in known
        ),
    )


# --- what a command line says --------------------------------------------------------------------

DEFAULT_STEP = Decimal("0.1")


def parse_thresholds(text: str) -> tuple[float, ...]:
    """`0.1,0.5` · `0.1:0.9:0.2` (from, to, step; the end is in) · `0.1…0.9` or `0.1..0.9`.

    The step of a `…` is the one before it, so that `0.2,0.4…0.8` is 0.2, 0.4, 0.6, 0.8; else 0.1.
    Sorted, each once. UsageError for anything else, and for values outside 0 to 1.
    """
    values: list[Decimal] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        try:
            values += _stretch(part, values)
        except (InvalidOperation, ValueError):
            raise UsageError(
                f"--threshold {part!r}: write numbers from 0 to 1, such as 0.1,0.5 or 0.1:0.9:0.1"
            ) from None
    if not values:
        raise UsageError("--threshold: no value; write 0.5, 0.1,0.5,0.9 or 0.1:0.9:0.1")
    return tuple(float(value) for value in sorted(set(values)))


def _stretch(part: str, before: Sequence[Decimal]) -> list[Decimal]:
    if found := re.fullmatch(r"([^:]+):([^:]+):([^:]+)", part):
        first, last, step = (Decimal(word) for word in found.groups())
    elif found := re.fullmatch(r"(.+?)(?:…|\.{2,3}(?=\d|\.\d))(.+)", part):
        first, last = (Decimal(word) for word in found.groups())
        step = first - before[-1] if before and first > before[-1] else DEFAULT_STEP
    else:
        first = last = Decimal(part)
        step = DEFAULT_STEP
    if not (0 <= first <= last <= 1 and step > 0):
        raise ValueError
    if (last - first) / step > MOST_POINTS:
        raise UsageError(
            f"--threshold {part!r}: more than {MOST_POINTS:,} points; write 0.1:0.9:0.1"
        )
    return [first + step * i for i in range(int((last - first) / step) + 1)]


def parse_policies(text: str) -> tuple[Counts, ...]:
    """`1of1,2of3` → ((1, 1), (2, 3)), each once, in their order; UsageError for anything else."""
    policies: dict[Counts, None] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = re.fullmatch(r"([0-9]{1,3})\s*(?:of|/)\s*([0-9]{1,3})", part)
        k, n = (int(word) for word in found.groups()) if found else (0, 0)
        if not 1 <= k <= n <= 100:
            raise UsageError(
                f"--alarm {part!r}: write k of n, such as 1of1,2of3 (k at most n, n at most 100)"
            )
        policies[k, n] = None
    if not policies:
        raise UsageError("--alarm: no policy; write 1of1 or 1of1,2of3")
    return tuple(policies)
