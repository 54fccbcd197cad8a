"""What a camera asks of its source: when there are pictures, which one, and the truth in it."""

from __future__ import annotations

__all__ = ["UNKNOWN", "Image", "Label", "LiveSource", "Picture", "Source", "seed_for"]

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from earlyfire_stream.verdict import Truth

Image = npt.NDArray[np.uint8]
"""Height x width x 3, BGR."""


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of one frame. `smoke` None: nobody knows.

    `boxed`: boxes are part of the truth, so that an empty `truth` means that there is nothing to
    find. It is True wherever no smoke is to be seen, with boxes in the data or not.
    """

    smoke: bool | None
    truth: tuple[Truth, ...] = ()
    boxed: bool = False


UNKNOWN = Label(None)


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame of a source, encoded, without capture data.

    `at` is the instant it was asked for, scenario seconds since the camera began; its pixels may
    be older (the newest that the source had). The label is the truth of the pixels.
    """

    at: float
    jpeg: bytes
    label: Label


class Source(Protocol):
    """One camera's pixels. Synchronous: it is played ahead of time, outside the event loop.

    `native_times` are the instants (seconds from the camera's begin, ascending, the first one 0)
    at which the source itself has frames, or None for one that can be asked at any instant.
    `cadence_s` is its usual gap, None where it has no clock (stills, synthetic).
    `ends_at` is the instant from which it has nothing more to show, None if it never ends.

    `pictures(times)` yields exactly one item for each of the ascending times: the newest frame at
    or before it, or None for one that is lost (a broken image, the undecodable rest of a video, a
    time from `ends_at` on). `label(at)` is the truth of what `pictures` would show then, without
    decoding anything. `warnings` grows while it plays and says what was lost and why.
    """

    warnings: list[str]

    @property
    def native_times(self) -> tuple[float, ...] | None: ...

    @property
    def cadence_s(self) -> float | None: ...

    @property
    def ends_at(self) -> float | None: ...

    def pictures(self, times: Iterable[float]) -> Iterator[Picture | None]: ...

    def label(self, at: float) -> Label: ...

    def close(self) -> None: ...


class LiveSource(Protocol):
    """A real camera: it cannot be played ahead of time and has no truth.

    `newest(after)` waits for a picture whose `at` is above `after` and gives the newest one;
    pictures that nobody asked for in time are gone. `at` is loop seconds since the stream was
    opened. It never raises because the camera is away: it goes on waiting while the stream is
    connected anew, `problem` says why ("" while all is well), and `warnings` keeps the story.
    """

    warnings: list[str]
    problem: str

    async def newest(self, after: float = -1.0) -> Picture: ...


def seed_for(seed: int, *names: str) -> int:
    """A seed of 63 bits for one use of the scenario's seed; the same on every machine."""
    text = "/".join((str(seed), *names)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
