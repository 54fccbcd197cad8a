"""Was the pace kept: visual tokens within the budget, looks at a camera far enough apart?"""

from __future__ import annotations

__all__ = ["Pace", "pace"]

from collections import defaultdict
from dataclasses import dataclass

from earlyfire_stream.records import RunLog

SLACK_S = 0.1
"""Tokens are taken before a picture is decoded, the request starts when it is; wall seconds."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What the records say. Tokens and their spans are wall time, gaps scenario time."""

    rate: float | None
    """Visual tokens a second that were given; None without a budget."""
    burst_s: float
    requests: int
    spent: int
    span_s: float
    """From the first request to the last."""
    excess: float | None
    """The most that any span of T seconds spent above burst + rate × T; not above 0 is kept."""
    shortest_gap_s: float | None
    """Between two looks at one camera, scenario seconds."""

    @property
    def kept(self) -> bool:
        return self.excess is None or self.excess <= 0

    def to_json(self) -> dict[str, object]:
        return {
            "tokens_per_s": self.rate,
            "burst_s": self.burst_s,
            "requests": self.requests,
            "visual_tokens": self.spent,
            "span_s": self.span_s,
            "excess": self.excess,
            "within_budget": self.kept,
            "shortest_gap_s": self.shortest_gap_s,
        }


def pace(log: RunLog) -> Pace:
    """Held against every span between two requests, second looks and explanations included.

    At 100 tokens/s with a burst of 4 s: 300 at 0 s, 300 at 1 s → 600 − (400 + 100) = 100 above. A
    request larger than the burst may go by itself (and leaves a debt).
    """
    budget = log.run["settings"]["budget"]
    given = budget["tokens_per_s"]
    rate = float(given) if isinstance(given, int | float) else None
    burst_s = float(budget["burst"])
    spent: list[tuple[float, int]] = []
    looks: dict[str, list[float]] = defaultdict(list)
    for frame in log.frames:
        answer = frame.answer
        if answer is None:
            continue
        looks[frame.camera].append(frame.captured_at)
        again = answer.second
        rest = again.visual_tokens if again is not None else 0
        spent.append((answer.started_ns / 1e9, answer.visual_tokens - rest))
        if again is not None and rest:
            spent.append((again.started_ns / 1e9, rest))
    spent += [(each.started_ns / 1e9, each.visual_tokens) for each in log.explanations]
    spent.sort()
    gaps = [
        round(later - earlier, 6)  # instants are sums of cadences
        for times in looks.values()
        for earlier, later in zip(sorted(times), sorted(times)[1:], strict=False)
    ]
    return Pace(
        rate=rate,
        burst_s=burst_s,
        requests=len(spent),
        spent=sum(tokens for _, tokens in spent),
        span_s=spent[-1][0] - spent[0][0] if spent else 0.0,
        excess=None if rate is None or not spent else _excess(spent, rate, burst_s),
        shortest_gap_s=min(gaps) if gaps else None,
    )


def _excess(spent: list[tuple[float, int]], rate: float, burst_s: float) -> float:
    """max over i <= j of what i to j spent − rate × (t_j − t_i), in one pass, minus the burst."""
    allowed = max(rate * burst_s, *(float(tokens) for _, tokens in spent)) + rate * SLACK_S
    begin = spent[0][0]
    lowest, total, most = float("inf"), 0.0, float("-inf")
    for at, tokens in spent:
        granted = rate * (at - begin)
        lowest = min(lowest, total - granted)
        total += tokens
        most = max(most, total - granted - lowest)
    return most - allowed
