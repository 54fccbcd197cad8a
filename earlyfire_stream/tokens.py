"""Visual tokens: how many a picture takes, and how many a second the fleet may take.

A Qwen-VL picture is cut into patches of 14 pixels, merged two by two, so one visual token covers
28 x 28 pixels. Servers resize a picture that is no exact multiple of 28 or outside their range,
each in its own way; `fit` picks a size that every one of them leaves alone.

Everything here is pure. `now_s` is any clock that never runs backwards, in wall seconds.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

__all__ = [
    "FACTOR",
    "LearnedRate",
    "TokenBudget",
    "fit",
    "fit_clip",
    "smart_resize",
    "visual_tokens",
]

FACTOR = 28
"""Pixels along one side of a visual token: patch 14, merged 2 x 2."""
MAX_RATIO = 200
"""The longest side over the shortest; Qwen's preprocessing refuses more."""
MAX_TOKENS = 16384
"""The checkpoints' own upper limit."""
MIN_TOKENS = 4


def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: int, factor: int = FACTOR
) -> tuple[int, int]:
    """(height, width) as transformers makes it: multiples of `factor`, area within the limits.

    Kept to the letter, quirks included: Python rounds halves to even (14/28 -> 0, 42/28 -> 2),
    and a very long picture may leave the limits. ValueError if the ratio is above 200.

    720 x 1280 within 4..16384 tokens -> (728, 1288); 1080 x 1920 within 4..1280 -> (728, 1316).
    """
    if height <= 0 or width <= 0:
        raise ValueError(f"a picture of {width}x{height} has no pixels")
    if max(height, width) / min(height, width) > MAX_RATIO:
        raise ValueError(f"a picture of {width}x{height} is more than {MAX_RATIO} times too long")
    h = round(height / factor) * factor
    w = round(width / factor) * factor
    if h * w > max_pixels:
        beta = math.sqrt((height * width) / max_pixels)
        h = max(factor, math.floor(height / beta / factor) * factor)
        w = max(factor, math.floor(width / beta / factor) * factor)
    elif h * w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * beta / factor) * factor
        w = math.ceil(width * beta / factor) * factor
    return h, w


def visual_tokens(
    width: int, height: int, min_tokens: int = MIN_TOKENS, max_tokens: int = MAX_TOKENS
) -> int:
    """Tokens of a picture after the model's own resize: 640 x 480 -> 391, 1280 x 720 -> 1196."""
    area = FACTOR * FACTOR
    h, w = smart_resize(height, width, min_tokens * area, max_tokens * area)
    return (h // FACTOR) * (w // FACTOR)


def fit(width: int, height: int, min_tokens: int, max_tokens: int) -> tuple[int, int, int]:
    """(width', height', tokens): multiples of 28 inside the range that no engine resizes again.

    It is smart_resize's answer wherever that one keeps the range (1280 x 720 -> 1288, 728, 1196);
    otherwise the grid whose shape is nearest. Never above max_tokens. Below min_tokens only where
    the range holds no grid at all (a lone prime above 200). ValueError if the ratio is above 200.
    """
    if not 1 <= min_tokens <= max_tokens:
        raise ValueError(f"no token range: {min_tokens} to {max_tokens}")
    area = FACTOR * FACTOR
    h, w = smart_resize(height, width, min_tokens * area, max_tokens * area)
    rows, columns = h // FACTOR, w // FACTOR
    if not _allowed(rows, columns, min_tokens, max_tokens):
        rows, columns = _nearest_grid(width / height, min_tokens, max_tokens)
    return columns * FACTOR, rows * FACTOR, rows * columns


def fit_clip(
    width: int, height: int, frames: int, min_tokens: int, max_tokens: int
) -> tuple[int, int, int]:
    """(width', height', tokens in all) for a clip of `frames` pictures under one token range.

    Two frames share one grid of tokens (temporal patch size 2), an odd one has a grid of its own:
    4 frames of 1280 x 720 within 256 to 1280 tokens -> 924, 504, 2 x 594 = 1188.
    """
    grids = (frames + 1) // 2
    most = max(1, max_tokens // grids)
    new_width, new_height, tokens = fit(width, height, min(most, -(-min_tokens // grids)), most)
    return new_width, new_height, tokens * grids


def _allowed(rows: int, columns: int, min_tokens: int, max_tokens: int) -> bool:
    return (
        min(rows, columns) > 0
        and min_tokens <= rows * columns <= max_tokens
        and max(rows, columns) <= MAX_RATIO * min(rows, columns)
    )


def _nearest_grid(ratio: float, min_tokens: int, max_tokens: int) -> tuple[int, int]:
    """(rows, columns) inside the range, nearest in shape to `ratio` = width / height, then fewest.

    Shapes that are nearly as good (a tenth of an octave) count as equal, so that a small picture
    is not blown up to the limit for a shape that nobody can tell apart.
    """
    best: tuple[float, int, int, int] | None = None
    for rows in range(1, max_tokens + 1):
        fewest, most = math.ceil(min_tokens / rows), max_tokens // rows
        columns = min(max(round(rows * ratio), fewest), most)
        if not _allowed(rows, columns, min_tokens, max_tokens):
            continue
        bend = round(abs(math.log2(columns / rows / ratio)), 1)
        candidate = (bend, rows * columns, rows, columns)
        if best is None or candidate < best:
            best = candidate
    if best is None:
        return _nearest_grid(ratio, max(1, min_tokens - 1), max_tokens)
    return best[2], best[3]


UTILIZATION_WINDOW_S = 10.0
"""Spending older than this hardly counts in `utilization`."""
ROUNDING_TOKENS = 1e-6
"""A caller that waits exactly `wait_s` must not fail on the last bit of a float."""


@dataclass(slots=True)
class TokenBudget:
    """A token bucket: `rate` visual tokens a second, of which `burst_s` seconds may be saved up.

    It starts full. `rate=None` means: no limit (nothing is known yet, or none was asked for).
    A request larger than the whole bucket may go when the bucket is full and leaves a debt, so
    that a small budget slows the fleet down and never stops it. Over any span of T seconds at most
    max(burst_s x rate, the largest request) + rate x T tokens are spent.
    """

    rate: float | None
    burst_s: float
    now_s: float = 0.0
    level: float = field(init=False)
    _recent: float = field(init=False, default=0.0)
    _began_s: float = field(init=False)

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"rate must be above 0, not {self.rate}")
        if not 0 <= self.burst_s < math.inf:
            raise ValueError(f"burst_s must be at least 0, not {self.burst_s}")
        self.level = self.capacity
        self._began_s = self.now_s

    @property
    def capacity(self) -> float:
        """Most tokens that can be saved up; infinite without a rate."""
        return math.inf if self.rate is None else self.rate * self.burst_s

    def can_spend(self, tokens: int, now_s: float) -> bool:
        return self.wait_s(tokens, now_s) == 0

    def wait_s(self, tokens: int, now_s: float) -> float:
        """Seconds from now until `tokens` can be spent; 0 if they can be now."""
        if self.rate is None:
            return 0.0
        self._settle(now_s)
        lacking = min(tokens, self.capacity) - self.level
        return lacking / self.rate if lacking > ROUNDING_TOKENS else 0.0

    def spend(self, tokens: int, now_s: float) -> None:
        """Take them, whether or not there are enough: ask `can_spend` first."""
        self._settle(now_s)
        self._recent += tokens
        if self.rate is not None:
            self.level -= tokens

    def refund(self, tokens: int, now_s: float) -> None:
        """Give back what a request that never reached the engine had taken."""
        self._settle(now_s)
        self._recent = max(0.0, self._recent - tokens)
        self.level = min(self.capacity, self.level + tokens)

    def set_rate(self, rate: float | None, now_s: float) -> None:
        """Another rate from now on; what was saved up is kept as far as the new bucket holds it."""
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError(f"rate must be above 0, not {rate}")
        self._settle(now_s)
        self.rate = rate
        self.level = min(self.level, self.capacity)

    def utilization(self, now_s: float) -> float:
        """Tokens spent over tokens granted in the last seconds, newer ones counting more.

        0 without a limit; above 1 while savings are being spent.
        """
        if self.rate is None:
            return 0.0
        self._settle(now_s)
        window_s = UTILIZATION_WINDOW_S * -math.expm1(
            -(self.now_s - self._began_s) / UTILIZATION_WINDOW_S
        )
        # within the first second there is too little time to speak of a rate
        return self._recent / (self.rate * max(1.0, window_s))

    def _settle(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self.now_s)
        if passed_s == 0.0:
            return
        self.now_s = now_s
        self._recent *= math.exp(-passed_s / UTILIZATION_WINDOW_S)
        if self.rate is not None:
            self.level = min(self.capacity, self.level + passed_s * self.rate)


class LearnedRate:
    """An engine's capacity in visual tokens per second, learned from what it did.

    A request of `tokens` that took `busy_s` while `in_flight` requests shared the engine says
    that it served about tokens / busy_s x in_flight tokens a second. Only with all `slots` taken
    is that its capacity; with fewer it is merely a lower bound, and a budget set from it would
    throttle the fleet to what the fleet happened to ask. So the rate is unknown (None) until
    enough requests met a full engine, and lower bounds can only raise it. The median of the last
    observations decides, so that neither a cold start nor one stuck request moves it.
    """

    ENOUGH = 8
    KEPT = 32

    def __init__(self) -> None:
        self._full: deque[float] = deque(maxlen=self.KEPT)
        self._partly: deque[float] = deque(maxlen=self.KEPT)

    def observe(self, tokens: int, busy_s: float, in_flight: int, slots: int) -> None:
        """One finished request; `in_flight` counts it too. Anything impossible is left out."""
        if tokens <= 0 or not 0 < busy_s < math.inf or not in_flight >= 1:
            return
        served = tokens / busy_s * in_flight
        (self._full if in_flight >= slots else self._partly).append(served)

    @property
    def rate(self) -> float | None:
        """Tokens per second, or None while unknown."""
        if len(self._full) < self.ENOUGH:
            return None
        capacity = median(self._full)
        if len(self._partly) >= self.ENOUGH:
            capacity = max(capacity, median(self._partly))
        return capacity
