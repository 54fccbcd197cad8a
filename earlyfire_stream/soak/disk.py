"""What a soak's logs will take on the disk, said before anything is played.

The arithmetic is (frames) x (bytes a frame), packed as the logs are when they rotate, plus what is
not packed yet: of each of the two logs up to ROTATE_BYTES, and as much again while one is packed.
Bytes a frame were measured (FRAME_BYTES and ANSWER_BYTES say on what).
"""

from __future__ import annotations

__all__ = ["Need", "need"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

from earlyfire_stream.scenario.models import Camera

ROTATE_BYTES = 256_000_000
"""Of `records.Log`."""
LOGS = 2
FRAME_BYTES = 560
"""A frame's two lines, without an answer; 510 on `overload`, more with longer names and boxes."""
ANSWER_BYTES = 500
"""More of a frame that was asked about, its reply of 60 characters included."""
PACKED = 0.12
"""Of that, after gzip at level 3; 0.06 to 0.08 were measured."""
WINDOW_BYTES = 12_000
KEPT_BYTES = 30_000_000
"""Key frames (at most 300 pictures), run.json, score and report of a leg."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes, at most; `frames` over the whole soak."""

    frames: int
    looks: int
    raw_bytes: int
    """Of the logs, were they not packed."""
    most_bytes: int
    """At any moment of the soak."""

    def __str__(self) -> str:
        return (
            f"{self.frames:,} frames x {FRAME_BYTES} bytes + up to {self.looks:,} answers x "
            f"{ANSWER_BYTES} bytes = {_size(self.raw_bytes)} of logs, packed and with what waits "
            f"for it at most {_size(self.most_bytes)} on disk"
        )


def _size(count: int) -> str:
    """237,600,000 → 238 MB; 1,700,000 → 1.7 MB; 9,676,800,000 → 9.7 GB."""
    if count < 1e9:
        return f"{count / 1e6:.1f} MB" if count < 1e7 else f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB"


def need(
    cameras: Sequence[tuple[Camera, float | None]],
    seconds: float,
    looks_per_s: float,
    wall_s: float,
    windows: int,
) -> Need:
    """Of cameras with their cadence over `seconds` of scenario time, which take `wall_s`.

    `looks_per_s` a wall second are due at most. 200 cameras at 1 fps for 1,800 s, 40 looks a
    second: 360,000 frames, 72,000 answers, 238 MB of logs.
    """
    frames = sum(
        math.ceil(max(0.0, seconds - (camera.phase or 0.0)) / (cadence or 1.0))
        for camera, cadence in cameras
    )
    looks = min(frames, math.ceil(looks_per_s * wall_s))
    raw = frames * FRAME_BYTES + looks * ANSWER_BYTES
    waiting = min(raw, LOGS * ROTATE_BYTES)
    packing = min(raw, ROTATE_BYTES)
    most = waiting + packing + round((raw - waiting) * PACKED) + windows * WINDOW_BYTES + KEPT_BYTES
    return Need(frames, looks, raw, most)
