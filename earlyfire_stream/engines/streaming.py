"""What every engine behind an HTTP server needs: options, deadlines, watchdogs, plain words.

A server is another program, and all it sends is hostile until read: lines without an end, numbers
that no record holds, errors with terminal codes in them. Nothing here knows one server's dialect;
those are `ollama` and `chat`.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import re
import types
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
import cv2
import numpy as np
import numpy.typing as npt
import orjson
from yarl import URL

from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import settled
from earlyfire_stream.engines.base import Reply, unknown
from earlyfire_stream.errors import (
    EngineBroken,
    EngineOverloaded,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    UsageError,
)
from earlyfire_stream.verdict import CoordSpace

T = TypeVar("T")

CONNECT_S = 10.0
QUESTION_S = 10.0
"""Wall seconds for a question about the server itself."""
RETRY_PAUSE_S = 0.25
"""Before the second try; doubled each time."""
LINE_LIMIT = 1_000_000
"""Bytes; a line holds one token."""
TEXT_LIMIT = 20_000
"""Characters; contract replies have about 60."""
REPEATS = 30
"""Ollama gives up after as many identical tokens, without a word; so do we, with one."""
MOST_TOKENS = 1_000
"""Of one event that are looked at for the deciding one; each that could be it costs a reading of
all before it."""
FINISH_CHARS = 40
"""Of a finish reason; the known ones are words."""
STREAM_LIMIT = 16_000_000
"""Bytes of an answer; TEXT_LIMIT characters of one-letter tokens, each with its probabilities."""
ERROR_BYTES = 16_384
ERROR_CHARS = 300
ERROR_S = 2.0
"""Wall seconds that the words of a refusal may take; its status is known by then."""
TAIL_S = 1.0
"""Wall seconds that counts and timings may take after the last token."""
GREATEST = 2**53
"""Greater counts are nonsense, and not every reader of a record holds them."""
ONE_WRITE_BYTES = 2**20
"""aiohttp warns of larger bodies handed over in one piece."""


# --- options -------------------------------------------------------------------------------------


def read_options(kind: type[T], engine: str, given: Mapping[str, Any]) -> T:
    """`options:` of a scenario as that dataclass; UsageError for a name or value it cannot have."""
    hints = typing.get_type_hints(kind)
    for key, value in given.items():
        if key not in hints:
            raise unknown(f"option of engine {engine!r}", key, hints)
        if not _suits(value, hints[key]):
            raise UsageError(f"option {key} of engine {engine!r} cannot be {value!r:.80}")
    try:
        return kind(**given)
    except ValueError as error:
        raise UsageError(f"engine {engine!r}: {error}") from error


def _suits(value: object, hint: Any) -> bool:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        return type(None) in kinds
    # bool is an int in Python, and `top_k: true` is a mistake
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int):
        return (int in kinds or float in kinds) and abs(value) <= GREATEST
    return isinstance(value, tuple(k for k in kinds if k is not bool))


# --- where a server is, and how its models write boxes -------------------------------------------


def shown(url: URL) -> str:
    """For messages: without user name and password."""
    return str(url.with_user(None))


def without_login(text: str) -> str:
    """The same for an address that could not be read."""
    return re.sub(r"[^/@]*@", "", text)


def coord_space(model: str, family: str = "") -> CoordSpace | None:
    """How that model was trained to write boxes; None for one we do not know.

    Qwen2.5-VL writes pixels, Qwen2-VL and Qwen3-VL thousandths.
    """
    for name in (model.lower(), family.lower()):
        if re.search(r"qwen2[.-]?5-?vl", name):
            return CoordSpace.RESIZED_ABS
        if re.search(r"qwen-?[23](\.\d)?-?vl", name):
            return CoordSpace.REL1000
    return None


# --- before it is sent ---------------------------------------------------------------------------


def jpeg_of(image: npt.NDArray[np.uint8], quality: int) -> bytes:
    """Takes milliseconds: call it in a thread."""
    ok, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise EngineRejected(f"a picture of {image.shape} cannot be encoded")
    return encoded.tobytes()


def grey_picture() -> npt.NDArray[np.uint8]:
    """280 x 280, 100 visual tokens: for warming up and for asking whether a model sees."""
    return np.full((280, 280, 3), 128, np.uint8)


def dumped(body: Mapping[str, Any]) -> bytes:
    """As JSON; EngineRejected for half a surrogate pair, which YAML lets into a prompt."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise EngineRejected(f"the request cannot be sent: {error}") from error


def payload(body: bytes) -> bytes | io.BytesIO:
    """As aiohttp likes it."""
    return body if len(body) <= ONE_WRITE_BYTES else io.BytesIO(body)


# --- in time -------------------------------------------------------------------------------------


async def in_time(
    work: Callable[[float], Awaitable[Reply]],
    deadline_ns: int,
    timeout_s: float,
    clock: Clock,
    address: str,
) -> Reply:
    """What `work` brings before the deadline and the timeout; EngineTimeout after the earlier one.

    It is handed the loop time at which it will be cancelled.
    """
    left_s = min(timeout_s, (deadline_ns - clock.wall_ns()) / 1e9)
    if left_s <= 0:
        raise EngineTimeout("the deadline had passed before it was asked")
    ends_at = asyncio.get_running_loop().time() + left_s
    try:
        async with asyncio.timeout_at(ends_at):
            return await work(ends_at)
    except TimeoutError:
        raise EngineTimeout(f"{address}: no answer within {left_s:.3g} s") from None


class Busy(EngineOverloaded):
    """It said so before it began: asking again is safe."""

    def __init__(
        self, message: str, after_s: float | None = None, *, loading: bool = False
    ) -> None:
        super().__init__(message)
        self.after_s = after_s
        """Wall seconds after which it wants to be asked again, where it told."""
        self.loading = loading
        """Its status was 503, which is what a server says that is not ready yet."""


class ServerFailed(EngineBroken):
    """The server itself says so (HTTP 500, an error in a stream)."""


async def asked_again(attempt: Callable[[], Awaitable[T]], retries: int, ends_at: float) -> T:
    """With other tries for a request that never began, until `ends_at` (loop time).

    A server that wants to be left alone for longer than that is not asked again.
    """
    for n in range(retries):
        pause_s = RETRY_PAUSE_S * 2.0 ** min(n, 10)
        try:
            return await attempt()
        except EngineUnavailable:
            pass
        except Busy as why:
            if why.after_s is not None:
                if asyncio.get_running_loop().time() + why.after_s >= ends_at:
                    raise
                pause_s = why.after_s
        await asyncio.sleep(pause_s)
    return await attempt()


def retry_after_s(headers: Mapping[str, str], now_ns: int) -> float | None:
    """Retry-After, in seconds or as a date; None where there is none that can be read."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, when.timestamp() - now_ns / 1e9)


# --- while it streams ----------------------------------------------------------------------------


class WatchedStream:
    """A response's bytes as they come.

    The first token may take as long as the deadline allows, a pause between two tokens may not.
    Once the answer is whole, its tail has a moment, and reading it to the end keeps the connection.
    """

    def __init__(self, content: aiohttp.StreamReader, silence_s: float, address: str) -> None:
        self._content = content
        self._silence_s = silence_s
        self._address = address
        self._tail_until: float | None = None
        self._size = 0

    def whole(self, tail_s: float = TAIL_S) -> None:
        """The last token is there; no error can come any more, only the end."""
        self._tail_until = asyncio.get_running_loop().time() + tail_s

    async def read(self, speaking: bool) -> bytes:
        """The next bytes; b"" at the end, or when the tail of a whole answer does not come."""
        until = self._tail_until
        if until is None and speaking:
            until = asyncio.get_running_loop().time() + self._silence_s
        try:
            async with asyncio.timeout_at(until):
                chunk = await self._content.readany()
        except TimeoutError:
            if self._tail_until is not None:
                return b""
            raise EngineTimeout(
                f"{self._address}: silent for {self._silence_s:g} s in mid-answer"
            ) from None
        except aiohttp.ClientError:
            if self._tail_until is not None:
                return b""  # the answer is whole; what broke off were counts and timings
            raise
        self._size += len(chunk)
        if self._size > STREAM_LIMIT:
            raise EngineBroken(f"{self._address}: an answer of more than {STREAM_LIMIT:,} bytes")
        return chunk


@dataclass(slots=True)
class Growth:
    """A reply's text as it grows, with the moment that decided it."""

    hide: Callable[[str], str] = str
    """Takes out of a message what must not be shown."""
    text: str = ""
    decided: bool | None = None
    decided_ns: int = 0
    first_ns: int = 0
    """When its first token came; 0 before."""
    confidence: float | None = None
    _last: str = ""
    _repeats: int = 0

    def add(self, piece: str, logprobs: object, now_ns: int) -> None:
        """Take one token, or a few; EngineBroken if the model runs away."""
        before, self.text = self.text, self.text + piece
        self.first_ns = self.first_ns or now_ns
        self._repeats = self._repeats + 1 if piece == self._last else 0
        self._last = piece
        if self._repeats >= REPEATS:
            raise EngineBroken(f"the model repeats itself: {self.hide(self.text)[-60:]!r}")
        if len(self.text) > TEXT_LIMIT:
            raise EngineBroken("the answer has no end")
        if self.decided is None:
            self.decided = settled(self.text)
            if self.decided is not None:
                self.decided_ns = now_ns
                self.confidence = probability_of_true(logprobs, before)


def probability_of_true(logprobs: object, before: str = "") -> float | None:
    """P(true) against P(false) at the deciding token, spaced and unspaced variants together.

    `logprobs` are those of the tokens that came after the text `before` and settled has_smoke.
    None if the server gave no probabilities, or neither word is among those it gave.
    """
    token = _deciding(logprobs, before) if isinstance(logprobs, list) else None
    if token is None:
        return None
    tops = token.get("top_logprobs")
    mass = {"true": 0.0, "false": 0.0}
    for word, p in _probabilities(tops if isinstance(tops, list) and tops else [token]):
        if word in mass:
            mass[word] += p
    total = mass["true"] + mass["false"]
    if total <= 0:
        return None
    if not isinstance(tops, list) or not tops:
        # only the chosen token is known: what it leaves belongs to the other
        p = min(1.0, total)
        return p if mass["true"] > 0 else 1 - p
    return mass["true"] / total


def _deciding(tokens: list[object], before: str) -> dict[str, Any] | None:
    last: dict[str, Any] | None = None
    for token in tokens[:MOST_TOKENS]:
        if not isinstance(token, dict) or not isinstance(token.get("token"), str):
            continue
        before += token["token"]
        if token["token"].strip() in ("true", "false"):
            last = token
            if settled(before) is not None:
                return token
    # tokens that do not add up to the text (parts of characters): the last such word it is
    return last


def _probabilities(tokens: Iterable[object]) -> list[tuple[str, float]]:
    found = []
    for token in tokens:
        if isinstance(token, dict):
            value = token.get("logprob")
            if isinstance(value, int | float) and not math.isnan(value) and value <= 0:
                found.append((str(token.get("token")).strip(), math.exp(value)))
    return found


# --- numbers and words of a server ---------------------------------------------------------------


def count(value: object) -> int | None:
    """A number of tokens; None for what is none, or beyond 2**53 (no record could hold it)."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= GREATEST:
        return value
    return None


def duration_s(value: object, per_second: float) -> float | None:
    """A duration told in nanoseconds (1e9) or milliseconds (1e3); None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # NaN fails the comparison
    return value / per_second if 0 <= value <= GREATEST else None


def words(error: BaseException) -> str:
    """What a person can read of it; a timeout says nothing of its own."""
    if isinstance(error, aiohttp.ClientConnectorError) and (number := error.os_error.errno):
        # aiohttp's own text names the address again, and an `ssl:default` that is no TLS
        return os.strerror(number) if number > 0 else printable(str(error.os_error))
    return printable(str(error)) or type(error).__name__


def printable(text: str, limit: int = ERROR_CHARS) -> str:
    """One line of at most `limit` characters, without control codes, half surrogates, newlines."""
    plain = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text[: 4 * limit])
    return plain.encode(errors="replace").decode().strip()[:limit]


def error_said(found: object) -> str | None:
    """The text of an error object, in any of the shapes servers use; None if it is none.

    `{"error": "…"}` · `{"error": {"message": "…"}}` · `{"message": "…"}` · `{"detail": …}`
    """
    if not isinstance(found, dict):
        return None
    for key in ("error", "message", "detail"):
        said = found.get(key)
        if isinstance(said, dict):
            said = said.get("message") or said
        if said:
            return str(said)
    return None


ASKED_PLAIN = {"Accept-Encoding": "identity"}
"""With `auto_decompress=False`: a kilobyte of a hostile server unpacks to a megabyte, in one go."""


def check_plain(response: aiohttp.ClientResponse, address: str) -> None:
    """EngineBroken for an answer that came packed although it was asked for as it is."""
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing not in ("identity", ""):
        raise EngineBroken(
            f"{address}: the answer is packed ({printable(packing, 40)}), which was not asked for; "
            "turn compression off in the server or in the proxy before it"
        )


async def read_all(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body; EngineBroken if it is longer than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > limit:
            raise EngineBroken(f"an answer of more than {limit:,} bytes")
        parts.append(chunk)
    return b"".join(parts)


async def refusal(response: aiohttp.ClientResponse, tidy: Callable[[str], str] = str) -> str:
    """What a refusal says, shortened; `tidy` takes out what must not be shown.

    The status is the answer; if its words do not come, it stands alone.
    """
    raw = b""
    try:
        async with asyncio.timeout(ERROR_S):
            while len(raw) < ERROR_BYTES and (chunk := await response.content.readany()):
                raw += chunk
    except (aiohttp.ClientError, TimeoutError):
        pass
    text = raw[:ERROR_BYTES].decode("utf-8", "replace")
    try:
        said = error_said(orjson.loads(text))
    except orjson.JSONDecodeError:
        said = None
    return printable(tidy(said or text.strip() or str(response.reason or "")))


def series(name: str, **labels: str) -> str:
    """`series("size_bytes", model="a")` -> `size_bytes{model="a"}`, escaped as Prometheus does."""
    if not labels:
        return name
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


@dataclass(slots=True)
class Once:
    """Words already said: each warning stands in a log once, however many frames it touches."""

    _said: set[str] = field(default_factory=set)

    def first(self, what: str) -> bool:
        if what in self._said:
            return False
        self._said.add(what)
        return True
