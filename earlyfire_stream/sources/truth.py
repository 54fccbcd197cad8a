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

__all__ = ["NAMELESS", "declared", "labelled", "parse_yolo", "read_yolo"]

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.models import Fire
from earlyfire_stream.sources.base import Label
from earlyfire_stream.verdict import Box, Truth, burns

NAMELESS = "smoke"
"""The fire of a labelled box where the scenario declares none."""
ROUNDING = 1e-3
"""How far outside the frame a number in a label file may lie: a pixel of a 1000-pixel frame."""
_MAX_LABEL_BYTES = 1_000_000


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


def read_yolo(path: Path, smoke_class: int) -> tuple[Box, ...]:
    """The smoke boxes of one label file; SourceError names file and line of what is wrong."""
    try:
        if path.stat().st_size > _MAX_LABEL_BYTES:
            raise SourceError(f"{path}: {path.stat().st_size:,} bytes are no YOLO label file")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as why:
        raise SourceError(f"{path}: cannot be read: {why.strerror}") from why
    except UnicodeDecodeError as why:
        raise SourceError(f"{path}: is no text file; YOLO labels are plain text") from why
    return parse_yolo(text, smoke_class, str(path))


def parse_yolo(text: str, smoke_class: int, name: str) -> tuple[Box, ...]:
    """The boxes of `smoke_class` in `class x_center y_center width height` lines.

    Every line is checked, those of other classes too. Numbers and edges may leave [0, 1] by
    rounding (0.001) and are then clipped; more is an error, as is a box without an area.
    """
    boxes = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            kind, box = _parse_line(line.split())
        except ValueError as why:
            raise SourceError(f"{name}:{number}: {why}") from why
        if kind == smoke_class:
            boxes.append(box)
    return tuple(boxes)


def _parse_line(fields: list[str]) -> tuple[int, Box]:
    if len(fields) != 5:
        hint = "; polygons and confidences are not read" if len(fields) > 5 else ""
        raise ValueError(
            f"{len(fields)} numbers, `class x_center y_center width height` is needed{hint}"
        )
    try:
        kind = float(fields[0])
        xc, yc, w, h = (float(f) for f in fields[1:])
    except ValueError:
        raise ValueError(f"not a number in {' '.join(fields)!r:.80}") from None
    if not kind.is_integer() or kind < 0:
        raise ValueError(f"the class is {fields[0]}, a whole number from 0 is needed")
    values = (xc, yc, w, h)
    if not all(math.isfinite(v) for v in values):
        raise ValueError(f"not a finite number in {' '.join(fields)!r:.80}")
    if w <= 0 or h <= 0:
        raise ValueError(f"a box of {w:g} x {h:g} has no area")
    edges = (xc - w / 2, yc - h / 2, xc + w / 2, yc + h / 2)
    if min(*values, *edges) < -ROUNDING or max(*values, *edges) > 1 + ROUNDING:
        raise ValueError(
            f"the box {xc:g} {yc:g} {w:g} {h:g} leaves the frame; "
            "YOLO numbers are fractions of the image, not pixels"
        )
    return int(kind), Box.from_corners(*edges)
