"""What the consumer asks of an engine: one async method, a check, and closing.

An engine gets images that fit its token range already, and answers with text (read by `contract`)
or with a verdict of its own. Its failures are the EngineError tree; `CancelledError` passes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from earlyfire_stream.errors import UsageError
from earlyfire_stream.verdict import CoordSpace, ResizeMode, Truth, Verdict


@dataclass(frozen=True, slots=True)
class Request:
    """One look at one frame."""

    camera: str
    seq: int
    captured_at: float
    """Scenario seconds."""
    image: npt.NDArray[np.uint8] | None
    """Height x width x 3, BGR, resized to the token budget; None if the engine needs no pixels."""
    jpeg: bytes
    """The frame as it came, for engines that decode themselves."""
    visual_tokens: int
    system: str
    """The prompt's constant part; stands before the image."""
    user: str
    """Stands after the image; names its size where the prompt needs that."""
    schema: Mapping[str, object] | None
    deadline_ns: int
    """Wall instant after which the answer is worthless."""
    clip: tuple[tuple[float, npt.NDArray[np.uint8]], ...] = ()
    """Earlier frames of this camera for one clip with `image`, oldest first: their captured_at and
    pixels, of the size of `image`. Empty for a single picture; `visual_tokens` counts them all."""
    identity: str = ""
    """Hash of the frame's bytes, see `frames.identity`."""
    truth: tuple[Truth, ...] = ()
    """For the `simulated` engine alone; empty for every other."""
    smoke: bool | None = None
    crop: bool = False
    """It shows a part of the frame only: a second look."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Instants are wall nanoseconds."""

    text: str
    finish: str
    """`stop`, `length`, or `cut` where we stopped reading after a settled `false`."""
    decided_ns: int
    """The token that settles has_smoke was there."""
    answered_ns: int
    visual_tokens: int
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    confidence: float | None = None
    verdict: Verdict | None = None
    """Set by engines that are no language models (baseline); `text` is then its record."""
    server: Mapping[str, float] = field(default_factory=dict)
    """Its own timing split in seconds: load_s, prompt_s, generate_s."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What is fixed for an engine."""

    name: str
    model: str
    coord_space: CoordSpace = CoordSpace.UNIT
    resize_mode: ResizeMode = ResizeMode.STRETCH
    min_tokens: int = 4
    max_tokens: int = 16384
    needs_pixels: bool = True
    needs_truth: bool = False
    max_concurrency: int = 64
    default_concurrency: int = 4
    """Requests at a time where the scenario says `auto`; where `seeks_knee`, the first guess."""
    seeks_knee: bool = False
    """`auto` may find a better number by measured throughput."""
    cold_start_s: float | None = None
    """Wall seconds that loading took on entering, kept apart from every latency; None: unknown."""
    reference_s: float | None = None
    """The latency that its profile or calibration states, wall seconds; None: none is stated."""
    clips: bool = False
    """Takes several frames of one camera as one clip."""
    crops: bool = True
    """Can be shown a part of a frame by itself (a second look)."""
    needs_identity: bool = False
    """Answers by `identity`: frames must be the real ones even where no pixels are looked at."""
    virtual_ok: bool = False
    """May run in virtual time: no thread, no socket, no wall clock on its path."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `earlyfire doctor`; `remedy` is a command or an instruction where ok is False."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


class Engine(Protocol):
    @property
    def traits(self) -> Traits:
        """Valid before entering; on entering an engine may learn more (its token range)."""

    async def infer(self, request: Request) -> Reply:
        """Answer before the request's deadline and the engine's timeout, or raise EngineError."""

    async def check(self) -> list[Check]:
        """Whether it could be used now, without entering it; never raises EngineError."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class Gauged(Protocol):
    """An engine whose server tells its own state."""

    async def gauges(self) -> Mapping[str, float]:
        """The server's metrics now, by series (`name{label="value"}`); never raises EngineError:
        a server that cannot be asked gives none."""


@runtime_checkable
class Housed(Protocol):
    """An engine whose model runs in a process of ours."""

    @property
    def worker_pid(self) -> int | None:
        """Of that process; None while there is none, or it is somebody else's."""


def unknown(what: str, word: str, known: Iterable[str]) -> UsageError:
    """`engine 'olama' is unknown; did you mean 'ollama'? Known: ...`"""
    names = sorted(known)
    meant = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"; did you mean {meant[0]!r}?" if meant else "."
    return UsageError(f"{what} {word!r} is unknown{hint} Known: {', '.join(names)}")
