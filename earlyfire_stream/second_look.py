"""The second look: which part of a frame is sent again, and where its box lies in the frame.

Small smoke is a few of a frame's visual tokens. A crop around the suspected box spends a request of
its own on that part alone, so that the same smoke covers several times as many. Pure.
"""

from __future__ import annotations

__all__ = ["ENLARGED", "Window", "inside", "outside", "settle", "window"]

from earlyfire_stream.verdict import Box, Verdict

AROUND = 2.5
"""The crop's sides as multiples of the box's: what stands around smoke tells it from a cloud."""
LEAST_SIDE = 0.5
"""Of the frame's: a crop is never less than a quarter of the frame, whose place a model guesses."""

ENLARGED = 2
"""A crop is sent at up to this many times its own pixels, as far as the token range goes: a model
reads small things better when they cover more tokens, even if they gain no detail."""

Window = tuple[int, int, int, int]
"""(left, top, right, bottom), whole pixels of the frame."""


def window(box: Box, size: tuple[int, int]) -> Window | None:
    """The crop around a box, moved inside the frame where it would stick out; `size` is (w, h).

    None where it would be the whole frame, of which nothing new could be seen. A box of 0.1 x 0.1
    in the middle of 1280 x 720 -> (320, 180, 960, 540); the same at x = 0.9 -> (640, 180, 1280,
    540); one of 0.3 x 0.1 in the middle -> (160, 180, 1120, 540).
    """
    width, height = size
    x1, y1, x2, y2 = box.corners
    left, right = _span(x1, x2, width)
    top, bottom = _span(y1, y2, height)
    if right - left == width and bottom - top == height:
        return None
    return left, top, right, bottom


def _span(low: float, high: float, length_px: int) -> tuple[int, int]:
    side = min(1.0, max(AROUND * (high - low), LEAST_SIDE))
    side_px = max(1, round(side * length_px))
    begin = round((low + high) / 2 * length_px - side_px / 2)
    begin = max(0, min(begin, length_px - side_px))
    return begin, begin + side_px


def inside(box: Box, part: Window, size: tuple[int, int]) -> Box | None:
    """A box of the frame as fractions of the crop; None if it lies outside."""
    width, height = size
    left, top, right, bottom = part
    x1, y1, x2, y2 = box.corners
    x1, x2 = ((x * width - left) / (right - left) for x in (x1, x2))
    y1, y2 = ((y * height - top) / (bottom - top) for y in (y1, y2))
    if max(x1, 0.0) >= min(x2, 1.0) or max(y1, 0.0) >= min(y2, 1.0):
        return None
    return Box.from_corners(x1, y1, x2, y2)


def outside(box: Box, part: Window, size: tuple[int, int]) -> Box:
    """A box of the crop as fractions of the frame."""
    width, height = size
    left, top, right, bottom = part
    x1, y1, x2, y2 = box.corners
    return Box.from_corners(
        (left + x1 * (right - left)) / width,
        (top + y1 * (bottom - top)) / height,
        (left + x2 * (right - left)) / width,
        (top + y2 * (bottom - top)) / height,
    )


def settle(first: Verdict, second: Verdict) -> Verdict:
    """What both looks come to; `second` is of the whole frame already.

    The second decides. Smoke that it confirms without a box stays where the first one saw it.
    """
    if not second.has_smoke or second.box is not None:
        return second
    return Verdict(True, first.box, second.confidence, second.repairs)
