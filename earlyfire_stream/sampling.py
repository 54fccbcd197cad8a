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

    def relax(self, at: float) -> None:
        """What was suspected has been alarmed: close looks would tell nothing new."""
        self.suspicious_until = min(self.suspicious_until, at)

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
    """How far a camera's newest picture is from its background, in multiples of what is usual.

    The picture is cut into small blocks, since young smoke is small. Of each block the brightness
    relative to its surroundings is followed, freed from the picture's contrast, so that exposure,
    haze and broad cloud shadow cancel. It is compared with a background of a minute or two, not
    with the last picture: a plume grows too slowly for that. The distance counts in units of the
    largest usual distance nearby, so that clouds raise the yardstick of the sky that they drift
    into. And it must stay for two pictures: birds, insects and flicker do not.

    The constants were tuned on synthetic cameras at a picture every 2 s; the memories are counted
    in pictures.
    """

    EVERY_S = 2.0
    """A camera's pictures are scored no more often than this, scenario seconds."""
    GRID = (64, 36)
    """20 x 20 pixels of a 720p picture to a block. With 16 x 9 smoke of a minute moved a block by
    3 times its noise, with 32 x 18 by 10, with 64 x 36 by 30 times and more."""
    SURROUNDINGS = (9, 9)
    NEARBY = (17, 9)
    """Blocks whose yardstick a block shares: the way of a cloud in a minute or two."""
    WARM_UP = 8
    """Pictures before which every score is 0: the yardsticks are not known yet."""
    FLOOR = 0.4
    """Grey levels: twice the mean noise of a quiet block; below it nothing is a change."""
    BACKGROUND = 0.02
    """Weight of the newest picture in the background."""
    USUAL = 0.01
    """Weight of the newest distance in the yardstick: slow, or smoke would soon pass for usual."""

    def __init__(self) -> None:
        self._seen = 0
        shape = self.GRID[::-1]
        self._background: npt.NDArray[np.float32] = np.zeros(shape, np.float32)
        self._usual: npt.NDArray[np.float32] = np.full(shape, self.FLOOR, np.float32)
        self._before: npt.NDArray[np.float32] = np.zeros(shape, np.float32)
        """The last picture's distances over their yardsticks."""

    def score(self, gray: npt.NDArray[np.uint8]) -> float:
        """Score one picture, any size, grey; 0 while warming up, 2 to 4 for business as usual."""
        grid = cv2.resize(gray, self.GRID, interpolation=cv2.INTER_AREA).astype(np.float32)
        local = grid - cv2.blur(grid, self.SURROUNDINGS)
        local /= self._contrast(local)
        self._seen += 1
        step = local - self._background
        nearby = cv2.dilate(self._usual, np.ones(self.NEARBY[::-1], np.uint8))
        yard = np.maximum(nearby, self.FLOOR)
        ratio = np.abs(step) / yard
        score = float(np.minimum(ratio, self._before).max())
        self._before = ratio
        if self._seen <= self.WARM_UP:
            self._background += step / self._seen
        else:
            # A lone outlier, a bird or a torn picture, must leave no ghost behind.
            self._background += self.BACKGROUND * np.clip(step, -20 * yard, 20 * yard)
        if self._seen > 1:
            # Nor may a few move the yardstick far: they may be the smoke.
            bounded = np.minimum(np.abs(step), 4 * np.maximum(self._usual, self.FLOOR))
            self._usual += max(self.USUAL, 1 / self._seen) * (bounded - self._usual)
        return score if self._seen > self.WARM_UP else 0.0

    def _contrast(self, local: npt.NDArray[np.float32]) -> float:
        """The picture's contrast relative to the background's: the slope of one over the other."""
        power = float(np.vdot(self._background, self._background))
        if power == 0.0:
            return 1.0
        return min(max(float(np.vdot(local, self._background)) / power, 0.7), 1.4)
