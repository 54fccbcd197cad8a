"""Bringing a Qwen-VL model into memory. Imports without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earlyfire_stream.worker.generate import Brain

__all__ = ["ModelSettings", "load_model", "memory_advice"]


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model, and how it is loaded."""

    model: str
    """A folder, or a name on the Hugging Face hub."""
    dtype: str = "auto"
    """auto, bfloat16 or float32; never float16, in which Qwen-VL writes only `!`."""
    device: str = "auto"
    attention: str = "auto"
    """auto, sdpa, eager or flash_attention_2."""
    four_bit: bool = False
    min_visual_tokens: int = 4
    max_visual_tokens: int = 16384
    revision: str | None = None


def load_model(settings: ModelSettings, say: Callable[[str], None]) -> Brain:
    """Blocking. UsageError with its remedy where it cannot be. `say` gets lines for a person."""
    raise NotImplementedError


def memory_advice(params_billion: float, four_bit: bool, free_bytes: int) -> str | None:
    """None if it fits, else what to do instead."""
    raise NotImplementedError
