"""What is to be seen when: from a scenario's declared fires, or from YOLO label files.

Two rules decide the label of an instant t:

- **Declared fires alone.** Smoke is visible while a fire's [onset, end) covers t. Its box comes
  from the fire's `boxes`: linear between two instants, unknown before the first and after the
  last; a single one holds for the whole fire. Without smoke there is nothing to find, so the
  frame counts as boxed.
- **YOLO files.** Boxes of the smoke class are the truth, and make it a smoke frame whatever the
  fires say. An empty file means no smoke, unless a declared fire covers t: then smoke stays
  visible and its box is unknown (annotators often begin late and stop once smoke fills the sky),
  so the frame is left out of localization. Boxes belong to the first fire that covers t, else to
  the nearest one in time, else to a fire called `smoke`.
"""

from __future__ import annotations

__all__ = ["NAMELESS", "declared", "labelled"]

from collections.abc import Sequence
from itertools import pairwise

from earlyfire_stream.scenario.models import Fire
from earlyfire_stream.sources.base import Label
from earlyfire_stream.verdict import Box, Truth, burns

NAMELESS = "smoke"
"""The fire of a labelled box where the scenario declares none."""


def declared(fires: Sequence[Fire], at: float) -> Label:
    """The label of scenario instant `at` from what the scenario says."""
    truth = tuple(Truth(fire.id, _box_at(fire, at)) for fire in fires if burns(fire, at))
    return Label(bool(truth), truth, boxed=all(t.box is not None for t in truth))


def labelled(boxes: Sequence[Box], fires: Sequence[Fire], at: float) -> Label:
    """The label of scenario instant `at` whose label file holds `boxes`."""
    active = [fire.id for fire in fires if burns(fire, at)]
    if boxes:
        fire = active[0] if active else _nearest(fires, at)
        return Label(True, tuple(Truth(fire, box) for box in boxes), boxed=True)
    return Label(bool(active), tuple(Truth(fire) for fire in active), boxed=not active)


def _nearest(fires: Sequence[Fire], at: float) -> str:
    def distance(fire: Fire) -> float:
        return fire.onset - at if at < fire.onset else at - (fire.end or at)

    return min(fires, key=distance).id if fires else NAMELESS


def _box_at(fire: Fire, at: float) -> Box | None:
    track = fire.boxes
    if len(track) == 1:
        return Box(*track[0].box)
    for before, after in pairwise(track):
        if before.at <= at <= after.at:
            share = (at - before.at) / (after.at - before.at)
            xc, yc, w, h = (a + (b - a) * share for a, b in zip(before.box, after.box, strict=True))
            return Box(xc, yc, w, h)
    return None
