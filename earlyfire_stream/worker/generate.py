"""The model at work: one pass over a micro-batch, then only what must be decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from earlyfire_stream.worker.ask import (
    Ask,
    Card,
    Clip,
    OutOfMemory,
    Picture,
    Piece,
    Timings,
    TokenLogprob,
)

__all__ = [
    "Ask",
    "Brain",
    "Card",
    "Clip",
    "OutOfMemory",
    "Picture",
    "Piece",
    "Prepared",
    "Timings",
    "TokenLogprob",
]


@dataclass(slots=True)
class Prepared:
    """A request as the model reads it; used for one answer (or for one try after OutOfMemory)."""

    ask: Ask
    visual_tokens: int
    prompt_tokens: int
    prefix: tuple[int, ...]
    """The token ids whose cache is shared; batches may mix prefixes, equal ones are cheaper."""


class Brain:
    """A loaded model. `prepare` may run in any thread; `answer` in one thread only."""

    card: Card

    def prepare(self, ask: Ask) -> Prepared:
        """Tokens, patches, positions and grammar; no work for the model. UsageError if it cannot
        be asked: a picture's shape, a schema, a special token in a text."""
        raise NotImplementedError

    def answer(
        self,
        batch: Sequence[Prepared],
        emit: Callable[[int, Piece], None],
        alive: Callable[[int], bool],
    ) -> Timings:
        """Run the batch to its end. OutOfMemory says whether anything had been emitted.

        `emit(row, piece)` is called in this thread, as early as the piece is known. A row whose
        `alive(row)` is False gets no more pieces.
        """
        raise NotImplementedError

    def memory(self) -> dict[str, int]:
        """Bytes of the device: used, peak, total."""
        raise NotImplementedError
