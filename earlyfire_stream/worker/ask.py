"""What the worker's model is asked, and what it says: plain values, no torch.

Colours are BGR as everywhere in this project. Times named `*_s` are wall seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from earlyfire_stream.errors import EarlyfireError
from earlyfire_stream.verdict import CoordSpace

__all__ = ["Ask", "Card", "Clip", "OutOfMemory", "Picture", "Piece", "Timings", "TokenLogprob"]

Pixels = npt.NDArray[np.uint8]
"""Height x width x 3, BGR."""


def _check_pixels(pixels: Pixels) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"pixels must be height x width x 3 bytes, not {pixels.shape}")


@dataclass(frozen=True, slots=True)
class Picture:
    """One image."""

    pixels: Pixels

    def __post_init__(self) -> None:
        _check_pixels(self.pixels)


@dataclass(frozen=True, slots=True)
class Clip:
    """Several frames of one camera, oldest first, all of one size; `timestamps` in seconds."""

    frames: tuple[Pixels, ...]
    timestamps: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("a clip needs a frame")
        for frame in self.frames:
            _check_pixels(frame)
        if len({frame.shape for frame in self.frames}) > 1:
            raise ValueError("the frames of a clip must have one size")
        if len(self.timestamps) != len(self.frames):
            raise ValueError(
                f"{len(self.frames)} frames need as many timestamps, not {len(self.timestamps)}"
            )
        if not all(math.isfinite(at) for at in self.timestamps):
            raise ValueError("timestamps must be finite numbers")
        if any(b <= a for a, b in zip(self.timestamps, self.timestamps[1:], strict=False)):
            raise ValueError("timestamps must ascend")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `parts` is the user's message in its order; `schema` None decodes freely."""

    system: str
    parts: tuple[Picture | Clip | str, ...]
    schema: Mapping[str, object] | None = None
    max_tokens: int = 96
    top_logprobs: int = 0
    """Alternatives to tell for each chosen token. A verdict's token always has all its four."""
    threshold: float = 0.5
    """P(true) from which a verdict is true; one half is greedy decoding."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        if not 0 <= self.top_logprobs <= 20:
            raise ValueError("top_logprobs must lie between 0 and 20")
        if not 0 <= self.threshold <= 1:
            raise ValueError("threshold must lie between 0 and 1")
        if not self.parts:
            raise ValueError("the user's message is empty")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of an answer. `logprob` is the model's own, before any schema was enforced, and
    0 for a token that was forced. `top`: (text, logprob), likeliest first."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What an answer grew by. The last piece of a row has `finish` or `error`."""

    text: str
    tokens: tuple[TokenLogprob, ...] = ()
    finish: str | None = None
    """None while it goes on, then `stop` or `length`."""
    error: str = ""
    """Why this row alone failed; its schema became too complex, for example."""


@dataclass(slots=True)
class Timings:
    """What one micro-batch took."""

    rows: int = 0
    prompt_tokens: int = 0
    """Of all rows, without what came from the prefix cache."""
    visual_tokens: int = 0
    prompt_s: float = 0.0
    """The one pass over the prompts, images included."""
    predicted_s: float = 0.0
    """Everything after it."""
    steps: int = 0
    """Forward passes after the first."""
    generated_tokens: int = 0
    forced_tokens: int = 0
    """Those of the generated ones that needed no sampling."""
    prefix_hits: int = 0
    prefix_misses: int = 0
    dropped_rows: tuple[int, ...] = field(default_factory=tuple)
    """Rows whose client left before their end."""


@dataclass(frozen=True, slots=True)
class Card:
    """What is fixed once a model is loaded."""

    model: str
    family: str
    coord_space: CoordSpace
    min_visual_tokens: int
    max_visual_tokens: int
    dtype: str
    device: str
    attention: str
    four_bit: bool
    clips: bool
    parameters: int


class OutOfMemory(EarlyfireError):
    """A micro-batch did not fit. `emitted`: pieces of it had gone out already, so that it cannot
    simply be asked again; otherwise a smaller batch may do."""

    def __init__(self, text: str, emitted: bool) -> None:
        super().__init__(text)
        self.emitted = emitted
