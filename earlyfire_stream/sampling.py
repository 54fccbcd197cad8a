"""When a camera's next frame matters: dynamic FPS.

A quiet camera is looked at every `idle` scenario seconds (never more often than every 3 s). Under
suspicion, raised by a change in the picture or by a positive verdict that still needs confirming,
it is looked at every `suspect` seconds, as far as the token budget allows. Under load the idle
interval grows until the fleet asks for no more than the engine serves, up to `slowest`.

Pure: values in, values out; scenario seconds throughout.
"""

from __future__ import annotations

__all__ = ["CameraSampling", "ChangeDetector", "Load", "interval", "wants"]

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from earlyfire_stream.scenario.models import Sampling
from earlyfire_stream.verdict import Reason


@dataclass(slots=True)
class CameraSampling:
    """What sampling remembers of one camera. Instants in scenario seconds."""

    last_look_at: float | None = None
    suspicious_until: float = float("-inf")
    interval_s: float = 0.0
    """The interval that the last decision applied; for the screen and the metrics."""

    def suspect(self, at: float, settings: Sampling) -> None:
        self.suspicious_until = max(self.suspicious_until, at + settings.hold)

    def is_suspicious(self, at: float) -> bool:
        return at < self.suspicious_until


@dataclass(frozen=True, slots=True)
class Load:
    """How the fleet and the engine stand to each other."""

    cameras: int
    looks_per_s: float | None
    """What engine and token budget serve, looks per scenario second; None: unknown yet."""
    spare: float = 1.0
    """Share of the token budget that is free, 0 to 1."""


def interval(settings: Sampling, suspicious: bool, load: Load) -> float:
    """Scenario seconds between two looks at one camera.

    fixed: `idle`. adaptive: `idle`, or n cameras / looks per second where that is longer (5 s for
    10 cameras at 4 looks/s; 50 s for 200; `slowest` caps it). Suspicion: `suspect`, if a tenth of
    the budget is free.
    """
    if settings.policy == "every":
        return 0.0
    if settings.policy == "fixed":
        return settings.idle
    if suspicious and load.spare >= 0.1:
        return settings.suspect
    if load.looks_per_s is None:
        return settings.idle
    fair = load.cameras / load.looks_per_s if load.looks_per_s > 0 else settings.slowest
    return min(max(settings.idle, fair), settings.slowest)


def wants(
    state: CameraSampling, settings: Sampling, captured_at: float, load: Load
) -> Reason | None:
    """None if the frame should be looked at, else why not (`idle`, or `load` where load did it)."""
    wait = interval(settings, state.is_suspicious(captured_at), load)
    state.interval_s = wait
    if state.last_look_at is None or settings.policy == "every":
        return None
    # Frames come on a grid of their own: half a millisecond of rounding must not cost a whole one.
    if captured_at - state.last_look_at >= wait - 0.0005:
        return None
    return Reason.LOAD if wait > settings.idle else Reason.IDLE


class ChangeDetector:
    """How unusual a camera's newest picture is, as a multiple of that camera's usual change.

    The picture is cut into blocks; of each block the local brightness relative to its surroundings
    is followed, so that exposure and cloud shadow cancel. A block's change counts in units of its
    own running mean absolute change: clouds that always drift raise their own yardstick.
    """

    GRID = (16, 9)
    WARM_UP = 5
    """Pictures before which every score is 0: the yardsticks are not known yet."""
    FLOOR = 0.6
    """Grey levels: below the noise of a quiet block in the real sequences nothing is a change."""
    MEMORY = 0.1
    """Weight of the newest picture in background and yardstick."""

    def __init__(self) -> None:
        self._seen = 0
        self._level: npt.NDArray[np.float32] | None = None
        self._usual: npt.NDArray[np.float32] | None = None

    def score(self, gray: npt.NDArray[np.uint8]) -> float:
        """Score one picture, any size, grey; 0 while warming up, 1 to 2 for business as usual."""
        grid = cv2.resize(gray, self.GRID, interpolation=cv2.INTER_AREA).astype(np.float32)
        local = grid - cv2.blur(grid, (5, 5))
        if self._level is None or self._usual is None:
            self._level = local
            self._usual = np.full_like(local, self.FLOOR)
            self._seen = 1
            return 0.0
        change = np.abs(local - self._level)
        # The second highest block: one block alone is a bird, a drop or an insect.
        score = float(np.partition((change / self._usual).ravel(), -2)[-2])
        self._seen += 1
        # A change that is followed at once would hide a growing plume: outliers move it slowly.
        weight = np.where(change > 3 * self._usual, self.MEMORY / 4, self.MEMORY)
        self._level += weight * (local - self._level)
        self._usual += weight * (np.maximum(change, self.FLOOR) - self._usual)
        return score if self._seen > self.WARM_UP else 0.0
