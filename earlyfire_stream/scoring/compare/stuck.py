"""Where a view that was missed came to an end, by the names of the parts of a TTFD."""

from __future__ import annotations

__all__ = ["stuck"]

from collections import Counter

from earlyfire_stream.records import FirePlan
from earlyfire_stream.scoring.detection import HORIZON_S, View
from earlyfire_stream.scoring.footage import Footage
from earlyfire_stream.verdict import Fate, burns

_LEFT_AT = {
    Fate.UNSENT: "transport",
    Fate.LOST: "transport",
    Fate.UNDECODABLE: "transport",
    Fate.SAMPLED_OUT: "sampling",
    Fate.SUPERSEDED: "queue",
    Fate.EXPIRED: "queue",
    Fate.OVER_BUDGET: "queue",
    Fate.BAD_JSON: "inference",
    Fate.ENGINE_ERROR: "inference",
    Fate.ABANDONED: "inference",
}


def stuck(one: Footage, fire: FirePlan, view: View) -> str:
    """In which part of the way from onset to alarm a missed view ended, by the names of `Parts`.

    Without a frame: cadence. Without a valid answer: where most frames were left. Answered, never
    positive: the model. Positive, never k of n: confirmation. Alarmed beside the smoke: alarm.
    """
    smoky = [
        frame
        for frame in one.frames
        if burns(fire, frame.captured_at) and frame.captured_at - fire.onset <= HORIZON_S + 1e-6
    ]
    if not smoky:
        return "cadence_wait"
    told = [frame.verdict for frame in smoky if frame.verdict is not None]
    if not told:
        left = Counter(_LEFT_AT[f.fate] for f in smoky if f.fate in _LEFT_AT)
        return left.most_common(1)[0][0] if left else "sampling"
    if view.unlocated:
        return "alarm"
    return "confirmation" if any(verdict.has_smoke for verdict in told) else "model_miss"
