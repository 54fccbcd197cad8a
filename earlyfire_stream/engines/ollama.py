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
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import AddressValueError, IPv6Address
from types import TracebackType
from typing import Any, Self

import aiohttp
import numpy as np
import orjson
import pybase64
from yarl import URL

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines.base import Check, Reply, Request, Traits
from earlyfire_stream.engines.streaming import (
    ASKED_PLAIN,
    CONNECT_S,
    FINISH_CHARS,
    LINE_LIMIT,
    QUESTION_S,
    Busy,
    Growth,
    Once,
    ServerFailed,
    WatchedStream,
    asked_again,
    check_plain,
    coord_space,
    count,
    dumped,
    duration_s,
    error_said,
    grey_picture,
    in_time,
    jpeg_of,
    payload,
    printable,
    read_all,
    read_options,
    refusal,
    retry_after_s,
    series,
    shown,
    without_login,
    words,
)
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

log = logging.getLogger(__name__)

DEFAULT_MODEL = "qwen2.5vl:7b"
OLDEST = (0, 7, 0)
"""The first version with Qwen2.5-VL."""
IMAGE_FLOOR = (0, 30, 0)
"""From here on llama-server runs with --image-min-tokens 1024."""
FLOOR_TOKENS = 1024
ABOUT_LIMIT = 4_000_000
"""Bytes of what it says of itself; /api/show brings templates and licences."""


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


def server_url(given: str | None) -> URL:
    """The server's address, from any form that OLLAMA_HOST may have.

    Nothing -> http://127.0.0.1:11434 · `box` -> http://box:11434 · `:5000` and `0.0.0.0:5000` ->
    http://127.0.0.1:5000 (0.0.0.0 is where it listens) · `::1`, `[::1]:5000` · `http://box` ->
    port 80, `https://box/ollama` -> port 443. UsageError for anything else.
    """
    text = (given or "").strip().strip("\"'").strip()
    hidden = without_login(printable(text))
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest, port = "http", text, 11434
    elif scheme.lower() in ("http", "https"):
        port = 443 if scheme.lower() == "https" else 80
    else:
        raise UsageError(f"Ollama's address {hidden!r} must be http:// or https://")
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
            f"Ollama's address {hidden!r} cannot be read; "
            "it looks like host, host:port or http://host:port"
        )
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(found[1], found[1])
    try:
        return URL(
            f"{scheme.lower()}://{user}{at}{host}:{found[2] or port}{slash}{path}".rstrip("/")
        )
    except ValueError as error:
        raise UsageError(f"Ollama's address {hidden!r} cannot be read") from error


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
        self.options = read_options(OllamaOptions, "ollama", settings.options)
        self._url = server_url(settings.url or os.environ.get("OLLAMA_HOST"))
        self._clock = clock
        self._timeout_s = settings.timeout
        self._model = settings.model or DEFAULT_MODEL
        self._session: aiohttp.ClientSession | None = None
        self._once = Once()
        self.version = ""
        given = self.options.coord_space
        self.traits = Traits(
            name="ollama",
            model=self._model,
            coord_space=CoordSpace(given) if given else coord_space(self._model) or CoordSpace.UNIT,
            resize_mode=ResizeMode.STRETCH,
            max_concurrency=64,
            # its own default is one request at a time (OLLAMA_NUM_PARALLEL=1)
            default_concurrency=1,
            seeks_knee=True,
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
        return shown(self._url)

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
            headers=ASKED_PLAIN,
            auto_decompress=False,
        )

    def _learn(self, model: _Model) -> None:
        """What version and model decide of our traits."""
        known = coord_space(self._model, model.family) or self.traits.coord_space
        self.traits = replace(
            self.traits,
            coord_space=CoordSpace(self.options.coord_space or known),
            min_tokens=FLOOR_TOKENS if _has_floor(self.version) else self.traits.min_tokens,
        )
        if "thinking" in model.capabilities:
            self._fixed["think"] = False  # it would think for minutes before has_smoke

    async def _warm_up(self) -> None:
        body = self._body(grey_picture(), b"", "", "Is there smoke?", None)
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
            if isinstance(error, ServerFailed):
                raise
            # the picture is empty and so may be the reply; whether it can answer shows in the run
            log.info("%s: no answer to the warm-up: %s", self.address, error)
        took_s = (self._clock.wall_ns() - began_ns) / 1e9
        self.traits = replace(self.traits, cold_start_s=took_s)

    # --- one look ---

    async def infer(self, request: Request) -> Reply:
        async def look(ends_at: float) -> Reply:
            # encoding takes milliseconds that would delay every other camera's frame
            body = await asyncio.to_thread(
                self._body,
                request.image,
                request.jpeg,
                request.system,
                request.user,
                request.schema,
            )
            return await asked_again(
                lambda: self._stream(body, request.visual_tokens), self.options.retries, ends_at
            )

        return await in_time(look, request.deadline_ns, self._timeout_s, self._clock, self.address)

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
            jpeg = jpeg_of(image, self.options.jpeg_quality)
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        # base64 has nothing to escape: as a fragment it is copied, not looked at
        picture = orjson.Fragment(b"".join((b'"', pybase64.b64encode(jpeg), b'"')))
        messages.append({"role": "user", "content": user, "images": [picture]})
        body = {**self._fixed, "messages": messages}
        if schema is not None:
            body["format"] = schema
        return dumped(body)

    async def _stream(self, body: bytes, visual_tokens: int) -> Reply:
        assert self._session is not None, "enter the engine first"
        reading = _Reading()
        growth = reading.growth
        try:
            async with self._session.post(
                self._url / "api/chat",
                data=payload(body),
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise await self._refused(response)
                check_plain(response, self.address)
                stream = WatchedStream(response.content, self.options.silence_s, self.address)
                while chunk := await stream.read(reading.begun):
                    now_ns = self._clock.wall_ns()
                    for line in reading.lines(chunk):
                        reading.add(line, now_ns)
                        if growth.decided is False and not reading.finish and self._cuts:
                            # closing before the end cancels the rest on the server
                            response.close()
                            reading.end("cut", now_ns)
                            return reading.reply(visual_tokens)
                    if reading.finish:
                        stream.whole()
                if reading.rest:
                    reading.add(reading.rest, self._clock.wall_ns())
        except aiohttp.ClientResponseError as error:
            raise EngineBroken(f"{self.address}: that is no HTTP: {words(error)}") from error
        except aiohttp.ClientError as error:
            if reading.begun:
                raise EngineBroken(
                    f"{self.address}: the answer broke off: {words(error)}"
                ) from error
            raise self._nobody(error) from error
        if not reading.finish:
            raise EngineBroken(
                f"{self.address}: the stream ended without a final line "
                "(Ollama does that when a model repeats itself)"
            )
        return reading.reply(visual_tokens)

    @property
    def _cuts(self) -> bool:
        return self.options.cut_after_false

    def _nobody(self, error: BaseException) -> EngineUnavailable:
        return EngineUnavailable(
            f"nobody answers at {self.address} ({words(error)}); is `ollama serve` running?"
        )

    async def _refused(self, response: aiohttp.ClientResponse) -> EngineError:
        status, text = response.status, await refusal(response)
        what = f"{self.address}: HTTP {status}: {text}"
        missing = status == 404 or "model is required" in text
        if missing:
            return EngineRejected(f"{what}; try: ollama pull {self._model}")
        if status in (429, 503):
            return Busy(what, retry_after_s(response.headers, self._clock.wall_ns()))
        if status in (408, 504):
            return EngineTimeout(what)
        if status in (499, 502):
            return EngineUnavailable(what)
        return EngineRejected(what) if status < 500 else ServerFailed(what)

    # --- questions about the server ---

    async def _ask_version(self, session: aiohttp.ClientSession) -> str:
        found = await self._question(session, "GET", "api/version")
        if not isinstance(version := found.get("version"), str):
            raise EngineBroken(f"{self.address}: that is no Ollama: it tells no version")
        return version

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
                session.request(
                    method, self._url / path, json=body, allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    raise await self._refused(response)
                check_plain(response, self.address)
                found = orjson.loads(await read_all(response, ABOUT_LIMIT))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._nobody(error) from error
        except orjson.JSONDecodeError as error:
            raise EngineBroken(f"{self.address}: that is no Ollama: {error}") from error
        if not isinstance(found, dict):
            raise EngineBroken(f"{self.address}: that is no Ollama")
        return found

    async def gauges(self) -> dict[str, float]:
        """What /api/ps says of the models it has loaded; it has no other metrics. Never raises.

        A model whose size_vram is below its size runs partly on the CPU, ten times slower.
        """
        assert self._session is not None, "enter the engine first"
        try:
            found = await self._question(self._session, "GET", "api/ps")
        except EngineError as error:
            if self._once.first("gauges"):
                log.warning("%s does not tell what it has loaded: %s", self.address, error)
            return {}
        loaded = found.get("models")
        entries = [e for e in loaded if isinstance(e, dict)] if isinstance(loaded, list) else []
        gauges = {"ollama_models_loaded": float(len(entries))}
        for entry in entries:
            for name, key in _LOADED:
                if (value := count(entry.get(key))) is not None:
                    gauges[series(name, model=printable(str(entry.get("name"))))] = float(value)
        return gauges

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


_LOADED = (
    ("ollama_model_size_bytes", "size"),
    ("ollama_model_vram_bytes", "size_vram"),
    ("ollama_model_context_tokens", "context_length"),
)
_TIMINGS = (
    ("load_s", "load_duration"),
    ("prompt_s", "prompt_eval_duration"),
    ("generate_s", "eval_duration"),
    ("total_s", "total_duration"),
)


@dataclass(slots=True)
class _Reading:
    """A reply as it grows, line by line."""

    growth: Growth = field(default_factory=Growth)
    begun: bool = False
    finish: str = ""
    ended_ns: int = 0
    rest: bytes = b""
    """The beginning of a line that has not ended yet."""
    final: dict[str, Any] = field(default_factory=dict)

    def lines(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk."""
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        if len(self.rest) > LINE_LIMIT:
            raise EngineBroken("a line without an end")
        return lines

    def add(self, line: bytes, now_ns: int) -> None:
        """Take one line. EngineBroken if it is no line of an answer."""
        if self.finish or not line.strip():
            return
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise EngineBroken(f"a line that is no JSON: {line[:80]!r}") from error
        if not isinstance(said, dict):
            raise EngineBroken(f"a line that is no answer: {line[:80]!r}")
        self.begun = True
        if "error" in said:
            raise self._failed(said)
        message = said.get("message")
        piece = message.get("content") if isinstance(message, dict) else None
        if isinstance(piece, str) and piece:
            self.growth.add(piece, said.get("logprobs"), now_ns)
        if said.get("done") is True:
            self.final = said
            self.end(printable(str(said.get("done_reason") or "stop"))[:FINISH_CHARS], now_ns)

    def end(self, finish: str, now_ns: int) -> None:
        self.finish, self.ended_ns = finish, now_ns

    def _failed(self, said: dict[str, Any]) -> EngineError:
        text = printable(error_said(said) or "an error without words")
        if "server busy" not in text:
            return ServerFailed(text)
        return EngineOverloaded(text) if self.growth.text else Busy(text)

    def reply(self, visual_tokens: int) -> Reply:
        return Reply(
            text=self.growth.text,
            finish=self.finish,
            decided_ns=self.growth.decided_ns or self.ended_ns,
            answered_ns=self.ended_ns,
            visual_tokens=visual_tokens,
            prompt_tokens=count(self.final.get("prompt_eval_count")),
            output_tokens=count(self.final.get("eval_count")),
            confidence=self.growth.confidence,
            server={
                name: seconds
                for name, key in _TIMINGS
                if (seconds := duration_s(self.final.get(key), 1e9)) is not None
            },
        )
