"""Ollama over its own HTTP interface, `/api/chat`, streamed.

What it is known to do, and what is done about it:

* A request that needs a model to be (re)loaded blocks for minutes: entering the engine loads the
  model with one small picture and keeps that time apart (`cold_start_s`). Every option is sent
  every time, with the same values, because a changed num_ctx reloads the model, and because the
  defaults changed between versions (repeat_penalty was 1.1 and punished digits and JSON).
* From 0.30 it enlarges pictures below 1024 visual tokens and letterboxes what is no multiple of
  28: the token range follows the version, and `tokens.fit` makes sizes it leaves alone, so the
  stretch map holds for every version.
* It hangs, repeats itself for ever, and ends such a stream without a final line: deadline, silence
  and repetition are watched. Once the model is loaded it takes any number of requests: the caller
  bounds them.
* Errors come as a status, or as a line of a stream that had begun with 200.

Closing the connection cancels a request, on our cancellation too.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address
from types import TracebackType
from typing import Any, Self

import aiohttp
import cv2
import numpy as np
import orjson
import pybase64
from yarl import URL

from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import settled
from earlyfire_stream.engines.base import Check, Reply, Request, Traits, unknown
from earlyfire_stream.errors import (
    EngineBroken,
    EngineError,
    EngineOverloaded,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    UsageError,
)
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import CoordSpace, ResizeMode

__all__ = ["OllamaEngine", "server_url"]

DEFAULT_MODEL = "qwen2.5vl:7b"
OLDEST = (0, 7, 0)
"""The first version with Qwen2.5-VL."""
IMAGE_FLOOR = (0, 30, 0)
"""From here on llama-server runs with --image-min-tokens 1024."""
FLOOR_TOKENS = 1024
LINE_LIMIT = 1_000_000
"""Bytes; a line holds one token."""
TEXT_LIMIT = 20_000
"""Characters; contract replies have about 60."""
REPEATS = 30
"""Ollama gives up after as many identical tokens, without a word; so do we, with one."""
CONNECT_S = 10.0
QUESTION_S = 10.0
"""Wall seconds for a question about the server itself."""
RETRY_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class OllamaOptions:
    """What `options:` of a scenario may set."""

    temperature: float = 0.0
    top_k: int = 1
    top_p: float = 1.0
    num_predict: int = 96
    """A reply with a box has about 40 tokens."""
    num_ctx: int = 4096
    """1,280 visual tokens, prompt and reply, twice over; the default depends on the VRAM."""
    repeat_penalty: float = 1.0
    seed: int | None = None
    """None: the scenario's."""
    keep_alive: str = "30m"
    logprobs: bool = True
    """Ask for the probability of true against false (from 0.12.11; older servers ignore it)."""
    cut_after_false: bool = False
    """Stop reading once has_smoke is false. Saves some ten tokens and costs the server's timing
    and the connection."""
    jpeg_quality: int = 90
    silence_s: float = 15.0
    """Longest pause between two tokens, once the first one came."""
    load_s: float = 600.0
    """Longest wait for the model to be loaded on entering."""
    retries: int = 1
    """Of a request that never began: connection lost, or 503. Never past the deadline."""
    coord_space: str | None = None
    """How the model writes boxes, where its name and family do not tell."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError("temperature must be at least 0")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must lie between 0 and 1")
        if not (math.isfinite(self.repeat_penalty) and self.repeat_penalty > 0):
            raise ValueError("repeat_penalty must be above 0")
        if self.top_k < 0 or self.num_predict < 1 or self.retries < 0:
            raise ValueError("top_k and retries must be at least 0, num_predict at least 1")
        if self.num_ctx < 2048:
            raise ValueError("num_ctx must be at least 2048 to hold picture, prompt and reply")
        if not 10 <= self.jpeg_quality <= 100:
            raise ValueError("jpeg_quality must lie between 10 and 100")
        if not (0 < self.silence_s < math.inf and 0 < self.load_s < math.inf):
            raise ValueError("silence_s and load_s must be above 0")
        if self.coord_space is not None and self.coord_space not in list(CoordSpace):
            raise ValueError(f"coord_space must be one of {', '.join(CoordSpace)}")


_KINDS: dict[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_k": (int,),
    "top_p": (int, float),
    "num_predict": (int,),
    "num_ctx": (int,),
    "repeat_penalty": (int, float),
    "seed": (int,),
    "keep_alive": (str,),
    "logprobs": (bool,),
    "cut_after_false": (bool,),
    "jpeg_quality": (int,),
    "silence_s": (int, float),
    "load_s": (int, float),
    "retries": (int,),
    "coord_space": (str,),
}


def _options(given: Mapping[str, Any]) -> OllamaOptions:
    for key, value in given.items():
        if key not in _KINDS:
            raise unknown("option of engine 'ollama'", key, _KINDS)
        # bool is an int in Python, and `top_k: true` is a mistake
        if not isinstance(value, _KINDS[key]) or (isinstance(value, bool) != (bool in _KINDS[key])):
            raise UsageError(f"option {key} of engine 'ollama' cannot be {value!r}")
    try:
        return OllamaOptions(**given)
    except ValueError as error:
        raise UsageError(f"engine 'ollama': {error}") from error


def _words(error: Exception) -> str:
    """What a person can read of it; a timeout says nothing of its own."""
    return str(error) or type(error).__name__


def server_url(given: str | None) -> URL:
    """The server's address, from any form that OLLAMA_HOST may have.

    Nothing -> http://127.0.0.1:11434 · `box` -> http://box:11434 · `:5000` and `0.0.0.0:5000` ->
    http://127.0.0.1:5000 (0.0.0.0 is where it listens) · `::1`, `[::1]:5000` · `http://box` ->
    port 80, `https://box/ollama` -> port 443. UsageError for anything else.
    """
    text = (given or "").strip().strip("\"'").strip()
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest, port = "http", text, 11434
    elif scheme.lower() in ("http", "https"):
        port = 443 if scheme.lower() == "https" else 80
    else:
        raise UsageError(f"Ollama's address {_shown_host(text)!r} must be http:// or https://")
    place, slash, path = rest.partition("/")
    user, at, place = place.rpartition("@")
    try:
        IPv6Address(place)
    except AddressValueError:
        pass
    else:
        place = f"[{place}]"
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]?#]*)(?::(\d{1,5}))?", place)
    if found is None or (found[2] and not 0 < int(found[2]) < 65536):
        raise UsageError(
            f"Ollama's address {_shown_host(text)!r} cannot be read; "
            "it looks like host, host:port or http://host:port"
        )
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(found[1], found[1])
    try:
        return URL(
            f"{scheme.lower()}://{user}{at}{host}:{found[2] or port}{slash}{path}".rstrip("/")
        )
    except ValueError as error:
        raise UsageError(f"Ollama's address {_shown_host(text)!r} cannot be read") from error


def _shown_host(text: str) -> str:
    """Without a user name and password."""
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


def _version(text: str) -> tuple[int, int, int]:
    """`0.33.0-rc2` -> (0, 33, 0); (0, 0, 0) for a build without a number, which is a recent one."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Model:
    """What /api/show says."""

    capabilities: tuple[str, ...]
    family: str


class OllamaEngine:
    """Settings: `model`, `url` (else OLLAMA_HOST), `timeout`, and the options above.

    Entering asks for version and model and loads it; EngineUnavailable or EngineRejected, with the
    remedy, if that fails. Read `traits` after entering: the version decides the token range, the
    model's family how boxes are written.
    """

    def __init__(self, settings: models.Engine, clock: Clock, seed: int = 0) -> None:
        if settings.profile is not None:
            raise UsageError("engine 'ollama' has no profiles; they belong to 'simulated'")
        self.options = _options(settings.options)
        self._url = server_url(settings.url or os.environ.get("OLLAMA_HOST"))
        self._clock = clock
        self._timeout_s = settings.timeout
        self._model = settings.model or DEFAULT_MODEL
        self._session: aiohttp.ClientSession | None = None
        self.version = ""
        self.cold_start_s: float | None = None
        """Wall seconds that loading the model took on entering; 0.1 or less if it was loaded."""
        given = self.options.coord_space
        self.traits = Traits(
            name="ollama",
            model=self._model,
            coord_space=CoordSpace(given) if given else coord_space(self._model) or CoordSpace.UNIT,
            resize_mode=ResizeMode.STRETCH,
            max_concurrency=64,
            # its own default is one request at a time (OLLAMA_NUM_PARALLEL=1)
            default_concurrency=1,
        )
        o = self.options
        self._fixed: dict[str, Any] = {
            "model": self._model,
            "stream": True,
            "keep_alive": o.keep_alive,
            "options": {
                "temperature": o.temperature,
                "top_k": o.top_k,
                "top_p": o.top_p,
                "num_predict": o.num_predict,
                "num_ctx": o.num_ctx,
                "repeat_penalty": o.repeat_penalty,
                "seed": o.seed if o.seed is not None else seed % 2**31,
            },
        }
        if o.logprobs:
            self._fixed |= {"logprobs": True, "top_logprobs": 5}

    @property
    def address(self) -> str:
        """For messages: without a password."""
        return str(self._url.with_user(None))

    # --- opening and closing ---

    async def __aenter__(self) -> Self:
        self._session = self._new_session()
        try:
            self.version = await self._ask_version(self._session)
            model = await self._ask_model(self._session)
            if "vision" not in model.capabilities:
                raise EngineRejected(
                    f"model {self._model} cannot see pictures; try: ollama pull {DEFAULT_MODEL}"
                )
            self._learn(model)
            await self._warm_up()
        except BaseException:
            await self._session.close()
            self._session = None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.traits.max_concurrency),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )

    def _learn(self, model: _Model) -> None:
        """What version and model decide of our traits."""
        t = self.traits
        known = self.options.coord_space or coord_space(self._model, model.family) or t.coord_space
        self.traits = Traits(
            name=t.name,
            model=t.model,
            coord_space=CoordSpace(known),
            resize_mode=t.resize_mode,
            min_tokens=FLOOR_TOKENS if _has_floor(self.version) else t.min_tokens,
            max_tokens=t.max_tokens,
            max_concurrency=t.max_concurrency,
            default_concurrency=t.default_concurrency,
        )
        if "thinking" in model.capabilities:
            self._fixed["think"] = False  # it would think for minutes before has_smoke

    async def _warm_up(self) -> None:
        grey = np.full((280, 280, 3), 128, np.uint8)
        body = self._body(grey, b"", "", "Is there smoke?", None)
        began_ns = self._clock.wall_ns()
        try:
            async with asyncio.timeout(self.options.load_s):
                await self._stream(body, visual_tokens=100)
        except TimeoutError:
            raise EngineTimeout(
                f"{self.address}: model {self._model} was not loaded within "
                f"{self.options.load_s:g} s"
            ) from None
        except EngineBroken as error:
            # the picture is empty and so may be the reply; whether it can answer shows in the run
            if isinstance(error, _ServerFailed):
                raise
        self.cold_start_s = (self._clock.wall_ns() - began_ns) / 1e9

    # --- one look ---

    async def infer(self, request: Request) -> Reply:
        left_s = min(self._timeout_s, (request.deadline_ns - self._clock.wall_ns()) / 1e9)
        if left_s <= 0:
            raise EngineTimeout("the deadline had passed before it was asked")
        try:
            async with asyncio.timeout(left_s):
                # encoding takes milliseconds that would delay every other camera's frame
                body = await asyncio.to_thread(
                    self._body,
                    request.image,
                    request.jpeg,
                    request.system,
                    request.user,
                    request.schema,
                )
                return await self._ask(body, request.visual_tokens)
        except TimeoutError:
            raise EngineTimeout(f"{self.address}: no answer within {left_s:.3g} s") from None

    def _body(
        self,
        image: np.ndarray[Any, np.dtype[np.uint8]] | None,
        jpeg: bytes,
        system: str,
        user: str,
        schema: Mapping[str, object] | None,
    ) -> bytes:
        """The request: constant instructions first, then the picture, then what follows it."""
        if image is not None:
            quality = [cv2.IMWRITE_JPEG_QUALITY, self.options.jpeg_quality]
            ok, encoded = cv2.imencode(".jpg", image, quality)
            if not ok:
                raise EngineRejected(f"a picture of {image.shape} cannot be encoded")
            jpeg = encoded.tobytes()
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        picture = pybase64.b64encode(jpeg).decode("ascii")
        messages.append({"role": "user", "content": user, "images": [picture]})
        body = {**self._fixed, "messages": messages}
        if schema is not None:
            body["format"] = schema
        return orjson.dumps(body)

    async def _ask(self, body: bytes, visual_tokens: int) -> Reply:
        """With another try for a request that never began. Runs under the caller's deadline."""
        for again in range(self.options.retries):
            try:
                return await self._stream(body, visual_tokens)
            except (EngineUnavailable, EngineOverloaded):
                await asyncio.sleep(RETRY_PAUSE_S * 2**again)
        return await self._stream(body, visual_tokens)

    async def _stream(self, body: bytes, visual_tokens: int) -> Reply:
        assert self._session is not None, "enter the engine first"
        reading = _Reading()
        try:
            async with self._session.post(
                self._url / "api/chat", data=body, headers={"Content-Type": "application/json"}
            ) as response:
                if response.status != 200:
                    raise self._refused(response.status, await _error_text(response))
                async for line in self._lines(response.content):
                    if reading.add(line, self._clock.wall_ns()):
                        break
                    if reading.decided is False and self.options.cut_after_false:
                        # closing before the end cancels the rest on the server
                        response.close()
                        return reading.reply("cut", self._clock.wall_ns(), visual_tokens)
        except aiohttp.ClientError as error:
            if reading.begun:
                raise EngineBroken(
                    f"{self.address}: the answer broke off: {_words(error)}"
                ) from error
            raise EngineUnavailable(
                f"nobody answers at {self.address} ({_words(error)}); is `ollama serve` running?"
            ) from error
        if not reading.done:
            raise EngineBroken(
                f"{self.address}: the stream ended without a final line "
                "(Ollama does that when a model repeats itself)"
            )
        return reading.reply(reading.finish, self._clock.wall_ns(), visual_tokens)

    async def _lines(self, content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
        """Whole lines. The first may take as long as the deadline allows, the others may not."""
        rest = b""
        patience_s: float | None = None
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    chunk = await content.readany()
            except TimeoutError:
                raise EngineTimeout(
                    f"{self.address}: silent for {self.options.silence_s:g} s in mid-answer"
                ) from None
            if not chunk:
                break
            patience_s = self.options.silence_s
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield line
            if len(rest) > LINE_LIMIT:
                raise EngineBroken(f"{self.address}: a line without an end")
        if rest.strip():
            yield rest

    def _refused(self, status: int, text: str) -> EngineError:
        what = f"{self.address}: HTTP {status}: {text}"
        missing = status == 404 or "model is required" in text
        if missing:
            return EngineRejected(f"{what}; try: ollama pull {self._model}")
        if status in (429, 503):
            return EngineOverloaded(what)
        if status in (408, 504):
            return EngineTimeout(what)
        if status in (499, 502):
            return EngineUnavailable(what)
        return EngineRejected(what) if status < 500 else _ServerFailed(what)

    # --- questions about the server ---

    async def _ask_version(self, session: aiohttp.ClientSession) -> str:
        found = await self._question(session, "GET", "api/version")
        return str(found.get("version", ""))

    async def _ask_model(self, session: aiohttp.ClientSession) -> _Model:
        found = await self._question(session, "POST", "api/show", {"model": self._model})
        details = found.get("details")
        family = details.get("family", "") if isinstance(details, dict) else ""
        able = found.get("capabilities")
        if not isinstance(able, list):
            able = ["vision"]  # before 0.6.4 nothing was said; the first picture will tell
        return _Model(tuple(str(a) for a in able), str(family))

    async def _question(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        try:
            async with (
                asyncio.timeout(QUESTION_S),
                session.request(method, self._url / path, json=body) as response,
            ):
                if response.status != 200:
                    raise self._refused(response.status, await _error_text(response))
                found = orjson.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineUnavailable(
                f"nobody answers at {self.address} ({_words(error)}); is `ollama serve` running?"
            ) from error
        except orjson.JSONDecodeError as error:
            raise EngineBroken(f"{self.address}: that is no Ollama: {error}") from error
        if not isinstance(found, dict):
            raise EngineBroken(f"{self.address}: that is no Ollama")
        return found

    async def check(self) -> list[Check]:
        async with self._new_session() as session:
            try:
                version = await self._ask_version(session)
            except EngineError as error:
                return [
                    Check(
                        "Ollama server",
                        False,
                        str(error),
                        "start it with `ollama serve` (https://ollama.com/download), "
                        "or set OLLAMA_HOST to where it runs",
                    )
                ]
            number = _version(version)
            fresh = number >= OLDEST or number == (0, 0, 0)
            server = Check(
                "Ollama server",
                fresh,
                f"version {version or 'unknown'} at {self.address}",
                "" if fresh else "needs 0.7.0 or newer: https://ollama.com/download",
            )
            floor = Check(
                "picture size",
                True,
                f"pictures are enlarged to {FLOOR_TOKENS} visual tokens at least: "
                "only the rate of frames can be budgeted"
                if _has_floor(version)
                else "any token range is kept",
            )
            try:
                model = await self._ask_model(session)
            except EngineError as error:
                pull = f"ollama pull {self._model}"
                return [server, floor, Check(f"model {self._model}", False, str(error), pull)]
            sees = "vision" in model.capabilities
            return [
                server,
                floor,
                Check(f"model {self._model}", True, model.family or "present"),
                Check(
                    "vision",
                    sees,
                    ", ".join(model.capabilities),
                    "" if sees else f"it cannot see; try: ollama pull {DEFAULT_MODEL}",
                ),
            ]


def _has_floor(version: str) -> bool:
    number = _version(version)
    return number >= IMAGE_FLOOR or number == (0, 0, 0)


class _ServerFailed(EngineBroken):
    """The server itself says so (HTTP 500, an error line)."""


async def _error_text(response: aiohttp.ClientResponse) -> str:
    """The `error` of a refusal, shortened."""
    raw = (await response.content.read(4096)).decode("utf-8", "replace")
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw.strip()[:300] or str(response.reason)
    return str(found.get("error", raw) if isinstance(found, dict) else raw)[:300]


@dataclass(slots=True)
class _Reading:
    """A reply as it grows, line by line."""

    text: str = ""
    done: bool = False
    finish: str = ""
    begun: bool = False
    decided: bool | None = None
    decided_ns: int = 0
    confidence: float | None = None
    last: str = ""
    repeats: int = 0
    final: dict[str, Any] = field(default_factory=dict)

    def add(self, line: bytes, now_ns: int) -> bool:
        """Take one line; True after the final one. EngineBroken if it is no line of an answer."""
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise EngineBroken(f"a line that is no JSON: {line[:80]!r}") from error
        if not isinstance(said, dict):
            raise EngineBroken(f"a line that is no answer: {line[:80]!r}")
        self.begun = True
        if "error" in said:
            text = str(said["error"])[:300]
            raise (EngineOverloaded if "server busy" in text else _ServerFailed)(text)
        message = said.get("message")
        piece = message.get("content") if isinstance(message, dict) else None
        if isinstance(piece, str) and piece:
            self._take(piece, said.get("logprobs"), now_ns)
        if said.get("done") is True:
            self.done, self.final = True, said
            self.finish = str(said.get("done_reason") or "stop")
            return True
        return False

    def _take(self, piece: str, logprobs: object, now_ns: int) -> None:
        self.repeats = self.repeats + 1 if piece == self.last else 0
        self.last = piece
        self.text += piece
        if self.repeats >= REPEATS:
            raise EngineBroken(f"the model repeats itself: {self.text[-60:]!r}")
        if len(self.text) > TEXT_LIMIT:
            raise EngineBroken("the answer has no end")
        if self.decided is None:
            self.decided = settled(self.text)
            if self.decided is not None:
                self.decided_ns = now_ns
                self.confidence = _probability_of_true(logprobs)

    def reply(self, finish: str, now_ns: int, visual_tokens: int) -> Reply:
        return Reply(
            text=self.text,
            finish=finish,
            decided_ns=self.decided_ns or now_ns,
            answered_ns=now_ns,
            visual_tokens=visual_tokens,
            prompt_tokens=_count(self.final.get("prompt_eval_count")),
            output_tokens=_count(self.final.get("eval_count")),
            confidence=self.confidence,
            server={
                name: nanoseconds / 1e9
                for name, key in _TIMINGS
                if (nanoseconds := _count(self.final.get(key))) is not None
            },
        )


_TIMINGS = (
    ("load_s", "load_duration"),
    ("prompt_s", "prompt_eval_duration"),
    ("generate_s", "eval_duration"),
    ("total_s", "total_duration"),
)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _probability_of_true(logprobs: object) -> float | None:
    """P(true) against P(false) at the deciding token, spaced and unspaced variants together.

    None if the server gave no probabilities, or neither word is among those it gave.
    """
    if not isinstance(logprobs, list):
        return None
    for token in reversed(logprobs):
        if not isinstance(token, dict) or str(token.get("token")).strip() not in ("true", "false"):
            continue
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
    return None


def _probabilities(tokens: Iterable[object]) -> list[tuple[str, float]]:
    found = []
    for token in tokens:
        if isinstance(token, dict):
            value = token.get("logprob")
            if isinstance(value, int | float) and not math.isnan(value) and value <= 0:
                found.append((str(token.get("token")).strip(), math.exp(value)))
    return found
