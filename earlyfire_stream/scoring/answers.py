"""What the engine gave for the requests it got: how quickly, how readably, at what cost."""

from __future__ import annotations

__all__ = [
    "Answers",
    "Explanations",
    "Latency",
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from earlyfire_stream.records import Explanation, FrameRecord
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


def answers(records: Sequence[FrameRecord]) -> Answers:
    """Count requests. An error that says that nobody was there is no request sent."""
    sent = valid = boxes = mended = 0
    errors: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    repairs: Counter[str] = Counter()
    for record in records:
        if record.fate is Fate.ANSWERED:
            sent += 1
            answer = record.answer
            if answer is not None and answer.verdict is not None:
                valid += 1
                boxes += bool(answer.box_error)
                mended += bool(answer.verdict.repairs)
                repairs.update(answer.verdict.repairs)
        elif record.fate is Fate.BAD_JSON:
            sent += 1
            bad[record.reason.value or "bad_json"] += 1
        elif record.fate is Fate.ENGINE_ERROR:
            errors[record.reason.value or Reason.ERROR.value] += 1
            sent += record.reason is not Reason.UNAVAILABLE
    return Answers(
        sent=sent,
        valid=valid,
        bad_json=bad.total(),
        errors=dict(sorted(errors.items())),
        bad_json_kinds=dict(sorted(bad.items())),
        box_errors=boxes,
        mended=mended,
        repairs=dict(sorted(repairs.items())),
    )


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


def latency(records: Sequence[FrameRecord]) -> Latency:
    values = []
    skewed = 0
    for record in records:
        answer = record.answer
        if record.fate is Fate.ANSWERED and answer is not None and answer.verdict is not None:
            spent_s = (answer.answered_ns - record.captured_ns) / 1e9
            if spent_s < 0:
                skewed += 1
            else:
                values.append(spent_s)
    return Latency(
        n=len(values),
        mean=sum(values) / len(values) if values else None,
        p50=percentile(values, 50),
        p90=percentile(values, 90),
        p95=percentile(values, 95),
        p99=percentile(values, 99),
        skewed=skewed,
    )


def quickness(latency_s: float) -> float:
    """What one answer's latency is worth: 1 up to 0.25 s, 1/2 at 1.0 s, 1/3 at 1.75 s."""
    return 1 / (1 + max(0.0, latency_s - FULL_S) / (HALF_S - FULL_S))


def latency_quality(records: Sequence[FrameRecord]) -> float | None:
    """Q: the mean of `quickness` over frames that sampling admitted; None without any.

    Expired frames, those over budget, errors and unreadable answers count 0. Left aside: superseded
    frames and older frames of a clip (a newer one answers for them), frames in hand at the end of
    the run, frames that were no picture, and answers whose ℓ is negative, hence unknown.
    """
    total = 0.0
    n = 0
    for record in records:
        if not record.admitted:
            continue
        if record.fate in WORTHLESS:
            n += 1
        elif record.fate is Fate.ANSWERED and record.answer is not None:
            spent_s = (record.answer.answered_ns - record.captured_ns) / 1e9
            if spent_s >= 0:
                total += quickness(spent_s)
                n += 1
    return total / n if n else None


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


def tokens(records: Sequence[FrameRecord], camera_hours: float) -> Tokens:
    requests = visual = prompt = output = 0
    for record in records:
        if record.answer is not None and record.reason is not Reason.UNAVAILABLE:
            requests += 1
            visual += record.answer.visual_tokens
            prompt += record.answer.prompt_tokens or 0
            output += record.answer.output_tokens or 0
    return Tokens(requests, visual, prompt, output, camera_hours)


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


def stages(records: Sequence[FrameRecord]) -> dict[str, Stage]:
    """Seconds by stage: ours first, then the engine's own timing split under its own names.

    `waited_s` from receipt to the request, `decided_s` and `answered_s` from the request on.
    """
    spent: dict[str, list[float]] = {"waited_s": [], "decided_s": [], "answered_s": []}
    for record in records:
        answer = record.answer
        if record.fate is not Fate.ANSWERED or answer is None:
            continue
        if record.received_ns is not None:
            spent["waited_s"].append((answer.started_ns - record.received_ns) / 1e9)
        spent["decided_s"].append((answer.decided_ns - answer.started_ns) / 1e9)
        spent["answered_s"].append((answer.answered_ns - answer.started_ns) / 1e9)
        for name, seconds in answer.server.items():
            spent.setdefault(name, []).append(seconds)
    return {
        name: Stage(len(values), percentile(values, 50), percentile(values, 95))
        for name, values in spent.items()
        if values
    }
