"""The words all other modules share: boxes, verdicts, fates, alarms.

Coordinates are fractions of the original frame, origin top left, x to the right, y down.
Instants named `captured_at` are scenario seconds; instants named `*_ns` are wall nanoseconds
(see `clock`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = [
    "Alarm",
    "AlarmKind",
    "Box",
    "CoordSpace",
    "Fate",
    "Reason",
    "ResizeMode",
    "Truth",
    "Verdict",
    "burns",
]


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box: centre and size as fractions of the frame, never empty."""

    xc: float
    yc: float
    w: float
    h: float

    def __post_init__(self) -> None:
        values = (self.xc, self.yc, self.w, self.h)
        if not all(math.isfinite(v) for v in values):
            raise ValueError(f"box with a number that is not finite: {values}")
        if self.w <= 0 or self.h <= 0:
            raise ValueError(f"box without an area: {values}")
        if not (0 <= self.xc <= 1 and 0 <= self.yc <= 1 and self.w <= 1 and self.h <= 1):
            raise ValueError(f"box outside the frame: {values}")

    @classmethod
    def from_corners(cls, x1: float, y1: float, x2: float, y2: float) -> Box:
        """From corner fractions, clipped to the frame; ValueError if nothing remains."""
        x1, x2 = max(0.0, min(x1, x2)), min(1.0, max(x1, x2))
        y1, y2 = max(0.0, min(y1, y2)), min(1.0, max(y1, y2))
        return cls((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2), clipped to the frame."""
        return (
            max(0.0, self.xc - self.w / 2),
            max(0.0, self.yc - self.h / 2),
            min(1.0, self.xc + self.w / 2),
            min(1.0, self.yc + self.h / 2),
        )

    @property
    def area(self) -> float:
        x1, y1, x2, y2 = self.corners
        return (x2 - x1) * (y2 - y1)

    def overlap(self, other: Box, dilate_x: float = 0.0, dilate_y: float = 0.0) -> float:
        """Area shared with `other`, this box grown by dilate_x and dilate_y on each side first."""
        ax1, ay1, ax2, ay2 = self.corners
        bx1, by1, bx2, by2 = other.corners
        width = min(ax2 + dilate_x, bx2) - max(ax1 - dilate_x, bx1)
        height = min(ay2 + dilate_y, by2) - max(ay1 - dilate_y, by1)
        return max(0.0, width) * max(0.0, height)

    def iou(self, other: Box) -> float:
        """Intersection over union; 1 for equal boxes, 0 for boxes that share nothing."""
        shared = self.overlap(other)
        union = self.area + other.area - shared
        return shared / union if union > 0 else 0.0


class CoordSpace(StrEnum):
    """In which units a model writes its boxes."""

    RESIZED_ABS = "resized_abs"
    """Pixels of the image as the model saw it (Qwen2.5-VL)."""
    REL1000 = "rel1000"
    """0 to 1000 of the image (Qwen3-VL, Qwen2-VL)."""
    UNIT = "unit"
    """0 to 1 of the image (contract V1.0)."""


class ResizeMode(StrEnum):
    STRETCH = "stretch"
    LETTERBOX = "letterbox"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an engine said of one frame. `confidence` is P(smoke), 0 to 1, or None."""

    has_smoke: bool
    box: Box | None = None
    confidence: float | None = None
    repairs: tuple[str, ...] = ()
    """What the parser had to mend to read it, in order; empty for a strict answer."""


class Burning(Protocol):
    """A fire, as a scenario or a camera's plan states it. Scenario seconds."""

    @property
    def onset(self) -> float: ...

    @property
    def end(self) -> float | None: ...


def burns(fire: Burning, at: float) -> bool:
    """Is its smoke visible at that scenario second? From the onset on, the end excluded."""
    return fire.onset <= at and (fire.end is None or at < fire.end)


@dataclass(frozen=True, slots=True)
class Truth:
    """One fire visible in one frame; box None where the data has no boxes."""

    fire: str
    box: Box | None = None


class Fate(StrEnum):
    """What became of a scheduled frame. Every frame has exactly one."""

    UNSENT = "unsent"
    LOST = "lost"
    UNDECODABLE = "undecodable"
    SAMPLED_OUT = "sampled_out"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    OVER_BUDGET = "over_budget"
    CONTEXT = "context"
    ANSWERED = "answered"
    BAD_JSON = "bad_json"
    ENGINE_ERROR = "engine_error"
    ABANDONED = "abandoned"


class Reason(StrEnum):
    """Why a frame met its fate, where the fate alone does not say it."""

    NONE = ""
    # unsent
    OUTAGE = "outage"
    BROKER_DOWN = "broker_down"
    LATE = "late"
    SOURCE_BROKEN = "source_broken"
    # lost
    GAP = "gap"
    CONSUMER_DOWN = "consumer_down"
    # undecodable
    NOT_JPEG = "not_jpeg"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    BAD_HEADER = "bad_header"
    TRUNCATED = "truncated"
    # sampled_out
    IDLE = "idle"
    LOAD = "load"
    # superseded
    NEWER = "newer"
    STALE_ON_ARRIVAL = "stale_on_arrival"
    CAMERA_LIMIT = "camera_limit"
    # bad_json
    NOT_JSON = "not_json"
    SCHEMA = "schema"
    CUT_OFF = "cut_off"
    SENTINEL = "sentinel"
    EMPTY = "empty"
    # engine_error
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    REJECTED = "rejected"
    BROKEN_ANSWER = "broken_answer"
    ERROR = "error"
    # abandoned
    STOPPED = "stopped"
    KILLED = "killed"


class AlarmKind(StrEnum):
    TRUE = "true"
    FALSE = "false"
    UNLOCATED = "unlocated"
    UNKNOWN = "unknown"
    """The stream has no truth (a real camera)."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """k positive verdicts of one camera within the policy's window.

    `seqs` are the confirming frames, oldest first; the last one completed the set at scenario
    instant `completed_at`; `decided_ns` is the wall instant at which its verdict was decided.
    """

    camera: str
    seqs: tuple[int, ...]
    completed_at: float
    decided_ns: int
    box: Box | None = None
    confidence: float | None = None
