"""What a camera asks of its source: when there are pictures, which one, and the truth in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from earlyfire_stream.verdict import Truth

Image = npt.NDArray[np.uint8]
"""Height x width x 3, BGR."""


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of one frame. `smoke` None: nobody knows. `boxed`: boxes are part of the truth."""

    smoke: bool | None
    truth: tuple[Truth, ...] = ()
    boxed: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame of a source, encoded. `at` is scenario seconds since the camera began."""

    at: float
    jpeg: bytes
    label: Label


class Source(Protocol):
    """One camera's pixels. Synchronous: it is played ahead of time, outside the event loop.

    `native_times` are the instants (seconds from the camera's begin, ascending) at which the source
    itself has frames, or None for one that can be asked at any instant (synthetic, stream).
    `pictures(times)` yields one Picture (or None for a frame that is lost, such as the undecodable
    rest of a video) for each of the ascending times, the newest frame at or before it.
    `label(at)` is the truth at an instant without touching pixels where that is possible.
    `warnings` says what was lost, after `pictures` is through.
    """

    native_times: tuple[float, ...] | None
    warnings: list[str]

    def pictures(self, times: Iterator[float]) -> Iterator[Picture | None]: ...

    def label(self, at: float) -> Label: ...

    def close(self) -> None: ...
