"""What the engine gave for the requests it got: how quickly, how readably, at what cost."""

from __future__ import annotations

__all__ = [
    "Answers",
    "Explanations",
    "Latency",
    "Served",
    "Stage",
    "Tokens",
    "answers",
    "explanations",
    "latency",
    "latency_quality",
    "stages",
    "tokens",
]

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.records import UNTOLD, Explanation, FrameTable
from earlyfire_stream.scoring.footage import Footage
from earlyfire_stream.scoring.statistics import percentile
from earlyfire_stream.verdict import Fate, Reason

FULL_S = 0.25
"""Answers up to here are as quick as is asked: the specification's GPU figure."""
HALF_S = 1.0
"""Worth one half: the specification's CPU figure (int4, 0.8–1.2 s)."""
VALID_SHARE = 0.95
"""Share of valid answers from which on nothing is taken off."""
WORTHLESS = (Fate.BAD_JSON, Fate.ENGINE_ERROR, Fate.EXPIRED, Fate.OVER_BUDGET)
"""Fates of an admitted frame that never got a parsed answer: they have no ℓ and count 0 in Q."""


_FATES = tuple(Fate)
_REASONS = tuple(Reason)


class Served:
    """The records of some cameras, each frame once, as columns."""

    def __init__(self, frames: FrameTable, footages: Iterable[Footage]) -> None:
        self.frames = frames
        of = [f.records[f.records >= 0] for f in footages]
        rows = np.concatenate(of) if of else np.empty(0, np.int64)
        self.fate = frames.column("fate")[rows]
        self.reason = frames.column("reason")[rows]
        self.admitted = frames.column("admitted")[rows]
        self.captured_ns = frames.column("captured_ns")[rows]
        self.received_ns = frames.column("received_ns")[rows]
        self.answer = frames.column("answer")[rows].astype(np.int64) - 1
        """The answer's place; -1 without one."""

    def met(self, *fates: Fate) -> NDArray[np.bool_]:
        return np.isin(self.fate, [_FATES.index(fate) for fate in fates])

    def of_answers(self, name: str, chosen: NDArray[np.bool_]) -> NDArray[Any]:
        """A column of the answers of the chosen records, all of which must have one."""
        return self.frames.answer_column(name)[self.answer[chosen]]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Answered, with a verdict."""
        chosen = self.met(Fate.ANSWERED) & (self.answer >= 0)
        chosen[chosen] = self.of_answers("verdict", chosen) >= 0
        return chosen


@dataclass(frozen=True, slots=True)
class Answers:
    sent: int
    """Requests that reached the engine."""
    valid: int
    bad_json: int
    errors: Mapping[str, int]
    """Engine errors by kind, those that never reached it (unavailable) included."""
    bad_json_kinds: Mapping[str, int]
    box_errors: int
    """Valid answers whose box could not be used."""
    mended: int
    """Valid answers that the parser had to repair."""
    repairs: Mapping[str, int]
    """Each repair by its name; one answer may have needed several."""

    @property
    def quality(self) -> float | None:
        """K = min(1, A/0.95), A = valid/sent; None if nothing was sent. 90 of 100 → 0.947."""
        return min(1.0, self.valid / self.sent / VALID_SHARE) if self.sent else None

    def share(self, count: int) -> float | None:
        """A count as a share of what was sent."""
        return count / self.sent if self.sent else None


def answers(served: Served) -> Answers:
    """Count requests. An error that says that nobody was there is no request sent."""
    valid = served.valid
    mends = Counter(served.of_answers("repairs", valid).tolist())
    del mends[0]
    repairs: Counter[str] = Counter()
    for number, count in mends.items():
        for name in served.frames.repairs(number):
            repairs[name] += count
    errors = _by_reason(served, Fate.ENGINE_ERROR, Reason.ERROR.value)
    bad = _by_reason(served, Fate.BAD_JSON, "bad_json")
    reached = errors.total() - errors[Reason.UNAVAILABLE.value]
    return Answers(
        sent=int(served.met(Fate.ANSWERED).sum()) + bad.total() + reached,
        valid=int(valid.sum()),
        bad_json=bad.total(),
        errors=dict(sorted(errors.items())),
        bad_json_kinds=dict(sorted(bad.items())),
        box_errors=int((served.of_answers("box_error", valid) > 0).sum()),
        mended=mends.total(),
        repairs=dict(sorted(repairs.items())),
    )


def _by_reason(served: Served, fate: Fate, without: str) -> Counter[str]:
    told: Counter[str] = Counter()
    for place, count in Counter(served.reason[served.met(fate)].tolist()).items():
        told[_REASONS[place].value or without] += count
    return told


@dataclass(frozen=True, slots=True)
class Latency:
    """ℓ = answered − capture, wall seconds, queueing included, of all valid answers."""

    n: int
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    skewed: int
    """Answers before their capture: the two hosts' clocks disagree, ℓ is unknown."""


def latency(served: Served) -> Latency:
    valid = served.valid
    spent_s = (served.of_answers("answered_ns", valid) - served.captured_ns[valid]) / 1e9
    values = spent_s[spent_s >= 0]
    return Latency(
        n=len(values),
        mean=float(values.mean()) if len(values) else None,
        p50=percentile(values, 50),
        p90=percentile(values, 90),
        p95=percentile(values, 95),
        p99=percentile(values, 99),
        skewed=int((spent_s < 0).sum()),
    )


def quickness(latency_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each answer's latency is worth: 1 up to 0.25 s, 1/2 at 1.0 s, 1/3 at 1.75 s."""
    return 1 / (1 + np.maximum(0.0, latency_s - FULL_S) / (HALF_S - FULL_S))


def latency_quality(served: Served) -> float | None:
    """Q: the mean of `quickness` over frames that sampling admitted; None without any.

    Expired frames, those over budget, errors and unreadable answers count 0. Left aside: superseded
    frames and older frames of a clip (a newer one answers for them), frames in hand at the end of
    the run, frames that were no picture, and answers whose ℓ is negative, hence unknown.
    """
    worthless = served.admitted & served.met(*WORTHLESS)
    answered = served.admitted & served.met(Fate.ANSWERED) & (served.answer >= 0)
    spent_s = (served.of_answers("answered_ns", answered) - served.captured_ns[answered]) / 1e9
    known = spent_s[spent_s >= 0]
    n = int(worthless.sum()) + len(known)
    return float(quickness(known).sum()) / n if n else None


@dataclass(frozen=True, slots=True)
class Tokens:
    requests: int
    """Those that reached the engine; a failed one has cost its picture too."""
    visual: int
    prompt: int
    output: int
    camera_hours: float
    """Scenario hours that cameras with a cadence were watched."""

    @property
    def visual_per_request(self) -> float | None:
        return self.visual / self.requests if self.requests else None

    @property
    def visual_per_camera_hour(self) -> float | None:
        return self.visual / self.camera_hours if self.camera_hours > 0 else None


def tokens(served: Served, camera_hours: float) -> Tokens:
    reached = (served.answer >= 0) & (served.reason != _REASONS.index(Reason.UNAVAILABLE))

    def total(name: str) -> int:
        spent = served.of_answers(name, reached)
        return int(spent[spent != UNTOLD].sum())

    return Tokens(
        requests=int(reached.sum()),
        visual=total("visual_tokens"),
        prompt=total("prompt_tokens"),
        output=total("output_tokens"),
        camera_hours=camera_hours,
    )


@dataclass(frozen=True, slots=True)
class Explanations:
    """What asking for reasons cost beside the verdicts; what was said is never scored."""

    asked: int
    given: int
    seconds: float
    """Wall seconds that the requests took, all together."""
    visual_tokens: int
    output_tokens: int
    p50_s: float | None
    p95_s: float | None


def explanations(records: Sequence[Explanation]) -> Explanations:
    spent = [(r.answered_ns - r.started_ns) / 1e9 for r in records]
    return Explanations(
        asked=len(records),
        given=sum(not r.error for r in records),
        seconds=sum(spent),
        visual_tokens=sum(r.visual_tokens for r in records),
        output_tokens=sum(r.output_tokens or 0 for r in records),
        p50_s=percentile(spent, 50),
        p95_s=percentile(spent, 95),
    )


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the wall seconds of valid answers went. `n` answers told of it."""

    n: int
    p50: float | None
    p95: float | None


def stages(served: Served) -> dict[str, Stage]:
    """Seconds by stage: ours first, then the engine's own timing split under its own names.

    `waited_s` from receipt to the request, `decided_s` and `answered_s` from the request on.
    """
    answered = served.met(Fate.ANSWERED) & (served.answer >= 0)
    arrived = answered & (served.received_ns != UNTOLD)
    started = served.of_answers("started_ns", answered)
    waited = served.of_answers("started_ns", arrived) - served.received_ns[arrived]
    spent: dict[str, list[NDArray[np.float64]]] = {
        "waited_s": [waited / 1e9],
        "decided_s": [(served.of_answers("decided_ns", answered) - started) / 1e9],
        "answered_s": [(served.of_answers("answered_ns", answered) - started) / 1e9],
    }
    asked = np.zeros(len(served.frames.answer_column("server")), np.bool_)
    asked[served.answer[answered]] = True
    for names, places, values in served.frames.server():
        for name, seconds in zip(names, values[asked[places]].T, strict=True):
            spent.setdefault(name, []).append(seconds)
    told = {name: np.concatenate(parts) for name, parts in spent.items()}
    return {
        name: Stage(len(values), percentile(values, 50), percentile(values, 95))
        for name, values in told.items()
        if len(values)
    }
