"""One server that speaks `/v1/chat/completions`, streamed: body, answer, refusals, its metrics.

`openai` uses one client, `hf` one for each of its workers. What it keeps to:

* Only fields that vLLM, SGLang, llama-server, LM Studio and Ollama understand. A server that
  answers 400 and names one it can do without (logprobs, say) is asked again without it, from then
  on for the whole session, and the log says so.
* Constant instructions come first and the picture before its text: what servers cache is a prefix.
* The API key goes into the Authorization header and nowhere else: redirects are not followed, and
  a server that echoes the key has it taken out of its words.
* Counts are kept as the server tells them; visual tokens never come from it (llama-cpp-python
  counts an image of 1196 tokens as 46).

Closing the connection cancels a request, on our cancellation too.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
import pybase64
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines.base import Reply, Request
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

__all__ = ["ChatClient", "ChatOptions", "Secret", "ServedModel", "ServerSentEvents", "base_url"]

log = logging.getLogger(__name__)

START = (
    "start one, for example `vllm serve Qwen/Qwen2.5-VL-7B-Instruct` or "
    "`llama-server -hf ggml-org/Qwen2.5-VL-7B-Instruct-GGUF --port 8000`"
)
TOP_LOGPROBS = 5
SECRET_CHARS = 8
"""Shorter keys are placeholders (`EMPTY`, `x`): nothing to hide, and hiding them garbles words."""
ANSWER_LIMIT = 4_000_000
"""Bytes of an answer that is not streamed, of a list of models, of metrics."""
LOADING_PAUSE_S = 1.0
"""Between two questions to a server that loads its model."""
DONE_TAIL_S = 0.25
"""Wall seconds from [DONE] to the end of the stream, which keeps the connection usable."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a server is asked."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 96
    """A reply with a box has about 40 tokens."""
    seed: int | None = None
    """None: the scenario's."""
    logprobs: bool = True
    """Ask for the probability of true against false."""
    cut_after_false: bool = False
    """Stop reading once has_smoke is false. Saves some ten tokens and costs the server's timing
    and the connection."""
    jpeg_quality: int = 90
    silence_s: float = 15.0
    """Longest pause between two tokens, once the first one came."""
    load_s: float = 600.0
    """Longest wait for the first answer, on entering."""
    retries: int = 1
    """Of a request that never began: connection lost, 429 or 503. Never past the deadline."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError("temperature must be at least 0")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must lie between 0 and 1")
        if self.max_tokens < 1 or self.retries < 0:
            raise ValueError("max_tokens must be at least 1, retries at least 0")
        if not 10 <= self.jpeg_quality <= 100:
            raise ValueError("jpeg_quality must lie between 10 and 100")
        if not (0 < self.silence_s < math.inf and 0 < self.load_s < math.inf):
            raise ValueError("silence_s and load_s must be above 0")


@dataclass(frozen=True, slots=True)
class Secret:
    """An API key, and the environment variable it came from."""

    variable: str
    value: str = field(repr=False)

    @classmethod
    def from_environment(cls, variable: str) -> Secret | None:
        """None where it is not set. UsageError for what no header can carry."""
        value = os.environ.get(variable, "").strip()
        if not value:
            return None
        if not re.fullmatch(r"[\x21-\x7e]+", value):
            raise UsageError(f"{variable} holds characters that no key can have")
        return cls(variable, value)

    def hide(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self.value, "***") if len(self.value) >= SECRET_CHARS else text


def base_url(given: str, what: str) -> URL:
    """Where the API is; `what` names the setting in a UsageError.

    `box:8000` and `http://box:8000/` -> http://box:8000/v1 · `https://box/llm/v1` as it is ·
    a whole `…/v1/chat/completions` without its end · 0.0.0.0 -> 127.0.0.1 (it is where a server
    listens, not where it is).
    """
    text = given.strip().strip("\"'").strip()
    whole = text if "://" in text else f"http://{text}"
    bad = f"{what} {without_login(printable(text))!r}"
    try:
        url = URL(whole)
        port = url.port
    except ValueError as error:
        raise UsageError(f"{bad} cannot be read; it looks like http://host:8000/v1") from error
    if url.scheme not in ("http", "https"):
        raise UsageError(f"{bad} must be http:// or https://")
    if not url.host or not port or re.search(r"\s", text):
        raise UsageError(f"{bad} cannot be read; it looks like http://host:8000/v1")
    if url.query_string or url.fragment:
        raise UsageError(f"{bad} must end with its path: nothing after ? or #")
    path = url.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    if not any(re.fullmatch(r"v\d\w*", part) for part in path.split("/")):
        path += "/v1"
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(url.host)
    return (url.with_host(here) if here else url).with_path(path)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry of /v1/models; `about` is all that the server says of it."""

    name: str
    about: Mapping[str, Any]


class ChatClient:
    """Enter it for a session of connections; `model` may be set afterwards, from `models()`.

    `clips`: earlier frames are sent as a `video_url` part with their times, which our own worker
    understands (and vLLM without the times); otherwise they are left out. `names_camera`: `user`
    is the camera's name, for a server that takes turns. `start` is the remedy where nobody answers.
    """

    def __init__(
        self,
        url: URL,
        clock: Clock,
        options: ChatOptions,
        *,
        model: str = "",
        seed: int = 0,
        key: Secret | None = None,
        key_variable: str = "OPENAI_API_KEY",
        clips: bool = False,
        names_camera: bool = False,
        start: str = START,
    ) -> None:
        if key is not None and (url.user or url.password):
            raise UsageError(
                f"{shown(url)}: either a login in the address or {key.variable}, not both"
            )
        self.model = model
        self.options = options
        self.in_flight = 0
        """Looks that are being taken."""
        self._url = url
        self._chat_url = url / "chat/completions"
        self._clock = clock
        self._key = key
        self._key_variable = key_variable
        self._clips = clips
        self._names_camera = names_camera
        self._start = start
        self._seed = options.seed if options.seed is not None else seed % 2**31
        self._refused_fields: set[str] = set()
        self._once = Once()
        self._session: aiohttp.ClientSession | None = None

    @property
    def address(self) -> str:
        """For messages: without a password."""
        return shown(self._url)

    @property
    def root(self) -> URL:
        """Where /metrics, /health and the like are."""
        path = re.sub(r"/v\d\w*$", "", self._url.path)
        return self._url.with_path(path or "/")

    # --- opening and closing ---

    async def __aenter__(self) -> Self:
        headers = {"Content-Type": "application/json", **ASKED_PLAIN}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.value}"
        self._session = aiohttp.ClientSession(
            # how many requests there are at a time is for the caller to say
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            headers=headers,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
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

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "enter the client first"
        return self._session

    # --- one look ---

    async def infer(self, request: Request, timeout_s: float) -> Reply:
        """Answer before the request's deadline and the timeout, or raise EngineError."""

        async def look(ends_at: float) -> Reply:
            pictures = await self._pictures(request)
            refusals: list[_FieldRefused] = []
            fields = self._fields(request)
            while True:
                body = self._body(request, pictures, fields)
                try:
                    reply = await asked_again(
                        lambda: self._stream(body, fields, request.visual_tokens),  # noqa: B023
                        self.options.retries,
                        ends_at,
                    )
                except _FieldRefused as why:
                    # it names only what was sent, so there is less each time, and this ends
                    refusals.append(why)
                    fields = {name: f for name, f in fields.items() if name not in why.fields}
                    continue
                # only now is it certain that the fields were what it did not like
                for one in refusals:
                    self._do_without(one)
                return reply

        self.in_flight += 1
        try:
            return await in_time(look, request.deadline_ns, timeout_s, self._clock, self.address)
        finally:
            self.in_flight -= 1

    async def warm_up(self, schema: Mapping[str, object] | None) -> float:
        """Wall seconds of a first small look, which may load the model and compile the schema.

        EngineError where the server refuses it or fails; what the model says of it is no matter.
        A server that is still loading (503) is waited for.
        """
        began_ns = self._clock.wall_ns()
        request = Request(
            camera="warm-up",
            seq=0,
            captured_at=0.0,
            image=grey_picture(),
            jpeg=b"",
            visual_tokens=100,
            system="",
            user="Is there smoke? Answer with JSON.",
            schema=schema,
            deadline_ns=began_ns + round(self.options.load_s * 1e9),
        )
        try:
            await self._infer_loaded(request)
        except EngineBroken as error:
            if isinstance(error, ServerFailed):
                raise
            # the picture is empty and so may be the reply; whether it can answer shows in the run
            log.info("%s: no answer to the warm-up: %s", self.address, error)
        return (self._clock.wall_ns() - began_ns) / 1e9

    async def _infer_loaded(self, request: Request) -> Reply:
        while True:
            try:
                return await self.infer(request, self.options.load_s)
            except Busy as why:
                left_s = (request.deadline_ns - self._clock.wall_ns()) / 1e9
                pause_s = LOADING_PAUSE_S if why.after_s is None else why.after_s
                if not why.loading or pause_s >= left_s:
                    raise
                if self._once.first("loading"):
                    log.info("%s is not ready yet: %s", self.address, why)
                await asyncio.sleep(pause_s)

    async def _pictures(self, request: Request) -> list[bytes]:
        """Base64 of what is sent, oldest first."""
        frames = [pixels for _, pixels in request.clip] if self._clips else []
        if request.image is None:
            # microseconds; a thread would cost more
            return [pybase64.b64encode(request.jpeg)]
        quality = self.options.jpeg_quality
        image = request.image

        def encode() -> list[bytes]:
            return [pybase64.b64encode(jpeg_of(pixels, quality)) for pixels in (*frames, image)]

        # encoding pixels takes milliseconds that would delay every other camera's frame
        return await asyncio.to_thread(encode)

    def _fields(self, request: Request) -> dict[str, Any]:
        """The fields that a server may refuse without being useless, by the name it will use."""
        fields: dict[str, Any] = {
            "seed": {"seed": self._seed},
            "stream_options": {"stream_options": {"include_usage": True}},
        }
        if self.options.logprobs:
            fields["logprobs"] = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if request.schema is not None:
            form = {"name": "verdict", "schema": request.schema, "strict": True}
            fields["response_format"] = {
                "response_format": {"type": "json_schema", "json_schema": form}
            }
        if self._names_camera:
            fields["user"] = {"user": request.camera}
        return {name: said for name, said in fields.items() if name not in self._refused_fields}

    def _body(self, request: Request, pictures: list[bytes], fields: Mapping[str, Any]) -> bytes:
        # base64 has nothing to escape: as a fragment it is copied, not looked at
        media = orjson.Fragment
        content: list[dict[str, Any]]
        if len(pictures) > 1:
            url = media(b"".join((b'"data:video/jpeg;base64,', b",".join(pictures), b'"')))
            times = [*(at for at, _ in request.clip), request.captured_at]
            content = [{"type": "video_url", "video_url": {"url": url, "timestamps": times}}]
        else:
            url = media(b"".join((b'"data:image/jpeg;base64,', pictures[0], b'"')))
            content = [{"type": "image_url", "image_url": {"url": url}}]
        content.append({"type": "text", "text": request.user})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if request.system:
            messages.insert(0, {"role": "system", "content": request.system})
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.options.max_tokens,
            "temperature": self.options.temperature,
            "top_p": self.options.top_p,
            "stream": True,
        }
        for said in fields.values():
            body |= said
        return dumped(body)

    def _do_without(self, why: _FieldRefused) -> None:
        self._refused_fields |= why.fields
        for name in sorted(why.fields):
            if self._once.first(name):
                log.warning(
                    "%s does not take %s and is asked without it from now on: %s",
                    self.address,
                    name,
                    why,
                )

    async def _stream(self, body: bytes, fields: Mapping[str, Any], visual_tokens: int) -> Reply:
        answer = _Answer(self._clock.wall_ns(), self._hidden)
        growth = answer.growth
        try:
            async with self._open.post(
                self._chat_url, data=payload(body), allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise await self._refused(response, fields)
                check_plain(response, self.address)
                if response.content_type == "application/json":
                    answer.take_whole(await read_all(response, ANSWER_LIMIT), self._clock.wall_ns())
                elif response.content_type == "text/event-stream":
                    await self._hear(response, answer)
                else:
                    text = await refusal(response, self._hidden)
                    raise EngineBroken(
                        f"{self.address}: no chat completions there, but "
                        f"{printable(response.content_type)}: {text}"
                    )
        except aiohttp.ClientResponseError as error:
            raise EngineBroken(
                f"{self.address}: that is no HTTP: {self._hidden(words(error))}"
            ) from error
        except aiohttp.ClientError as error:
            if growth.text:
                raise EngineBroken(
                    f"{self.address}: the answer broke off: {words(error)}"
                ) from error
            raise self._nobody(error) from error
        if not answer.finish:
            raise EngineBroken(f"{self.address}: the stream ended in mid-answer")
        return answer.reply(visual_tokens)

    async def _hear(self, response: aiohttp.ClientResponse, answer: _Answer) -> None:
        events = ServerSentEvents()
        stream = WatchedStream(response.content, self.options.silence_s, self.address)
        growth = answer.growth
        while chunk := await stream.read(bool(growth.text)):
            now_ns = self._clock.wall_ns()
            for event in events.feed(chunk):
                answer.add(event, now_ns)
            if answer.done:
                stream.whole(DONE_TAIL_S)
            elif answer.finish:
                stream.whole()
            elif growth.decided is False and self.options.cut_after_false:
                # closing before the end cancels the rest on the server
                response.close()
                answer.end("cut", now_ns)
                return
        for event in events.end():
            answer.add(event, self._clock.wall_ns())

    def _hidden(self, text: str) -> str:
        return self._key.hide(text) if self._key is not None else text

    def _nobody(self, error: BaseException) -> EngineUnavailable:
        return EngineUnavailable(
            f"nobody answers at {self.address} ({self._hidden(words(error))}); {self._start}"
        )

    async def _refused(
        self, response: aiohttp.ClientResponse, fields: Mapping[str, Any]
    ) -> EngineError:
        status = response.status
        text = await refusal(response, self._hidden)
        what = f"{self.address}: HTTP {status}: {text}"
        if status in (401, 403):
            name = self._key_variable
            remedy = f"it does not accept the key in {name}" if self._key else f"set {name}"
            return EngineRejected(f"{what}; {remedy}")
        if status in (429, 503):
            after_s = retry_after_s(response.headers, self._clock.wall_ns())
            return Busy(what, after_s, loading=status == 503)
        if status in (408, 504):
            return EngineTimeout(what)
        if status in (499, 502):
            return EngineUnavailable(what)
        if status >= 500:
            return ServerFailed(what)
        if status in (400, 422):
            named = frozenset(name for name in fields if _NAMES[name].search(text))
            if named:
                return _FieldRefused(what, named)
            return EngineRejected(
                f"{what}; {self.model} must take pictures, "
                "and prompt and picture must fit its context"
            )
        if status == 404:
            return EngineRejected(
                f"{what}; what it serves stands at {self.address}/models, {self._start}"
            )
        if status == 413:
            return EngineRejected(f"{what}; lower the token budget or jpeg_quality")
        if 300 <= status < 400:
            to = self._hidden(without_login(printable(response.headers.get("Location", ""))))
            return EngineRejected(f"{what}; it redirects to {to}: give that as its address")
        return EngineRejected(what)

    # --- questions about the server ---

    async def models(self) -> list[ServedModel] | None:
        """What it serves; None if it has no such list. EngineError if it cannot be asked."""
        raw = await self._get(self._url / "models")
        if raw is None:
            return None
        try:
            found = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise EngineBroken(
                f"{self.address}: that is no OpenAI-compatible server: {error}"
            ) from error
        entries = found.get("data") if isinstance(found, dict) else None
        if not isinstance(entries, list):
            raise EngineBroken(f"{self.address}: that is no OpenAI-compatible server")
        return [
            ServedModel(printable(self._hidden(entry["id"])), entry)
            for entry in entries
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        ]

    async def ready(self) -> None:
        """Returns if it may be asked, or has no /ready. EngineOverloaded while its model loads."""
        await self._get(self.root / "ready")

    async def gauges(self) -> dict[str, float]:
        """Its /metrics by series; {} where it has none, which the log says once. Never raises.

        NaN and infinities, which no record holds, are left out.
        """
        try:
            raw = await self._get(self.root / "metrics")
            if raw is None:
                raise EngineRejected("there is none")
            # some thousand lines take tens of milliseconds
            return await asyncio.to_thread(_series_of, self._hidden(raw.decode()))
        except (EngineError, ValueError) as error:
            if self._once.first("metrics"):
                log.warning(
                    "%s: no metrics at %s: %s",
                    self.address,
                    shown(self.root / "metrics"),
                    words(error),
                )
            return {}

    async def _get(self, url: URL) -> bytes | None:
        """The body; None where the server has no such page."""
        try:
            async with (
                asyncio.timeout(QUESTION_S),
                self._open.get(url, allow_redirects=False) as response,
            ):
                if response.status in (404, 405, 501):
                    return None
                if response.status != 200:
                    raise await self._refused(response, {})
                check_plain(response, self.address)
                return await read_all(response, ANSWER_LIMIT)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._nobody(error) from error


class _FieldRefused(EngineRejected):
    """A 400 that names fields which can be left out."""

    def __init__(self, message: str, fields: frozenset[str]) -> None:
        super().__init__(message)
        self.fields = fields


_NAMES = {
    "seed": re.compile(r"\bseed\b"),
    "stream_options": re.compile(r"stream_options|include_usage"),
    "logprobs": re.compile(r"logprobs"),
    "response_format": re.compile(r"response_format|json_schema"),
    # a role is called user as well: only in quotes is it the field
    "user": re.compile(r"""['"`]user['"`]"""),
}
"""How a refusal names a field."""


def _series_of(text: str) -> dict[str, float]:
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, IndexError, KeyError) as error:  # what its parser raises on nonsense
        raise EngineBroken(f"that is not Prometheus's format: {words(error)}") from error
    return {
        series(sample.name, **sample.labels): sample.value
        for family in families
        for sample in family.samples
        if math.isfinite(sample.value)
    }


# --- the stream ----------------------------------------------------------------------------------


class ServerSentEvents:
    """Bytes as they come -> the data of whole events, as the WHATWG specification reads them.

    Lines end in LF, CR or CRLF; several `data` lines make one event; comments and other fields are
    skipped. EngineBroken for a line or an event without an end.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> list[bytes]:
        lines = (self._rest + chunk).splitlines(keepends=True)
        # a line that ends in CR may yet turn out to end in CRLF
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        if len(self._rest) > LINE_LIMIT:
            raise EngineBroken("a line without an end")
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        return [event for line in lines if (event := self._line(line.rstrip(b"\r\n"))) is not None]

    def end(self) -> list[bytes]:
        """What the stream ended with, where it forgot the empty line after it."""
        found = [self._line(self._rest.rstrip(b"\r\n")), self._line(b"")]
        self._rest = b""
        return [event for event in found if event is not None]

    def _line(self, line: bytes) -> bytes | None:
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._size += len(value)
            if self._size > LINE_LIMIT:
                raise EngineBroken("an event without an end")
            self._data.append(value.removeprefix(b" "))
        return None


_TIMINGS = (
    ("queue_s", "queue_ms"),
    ("preprocess_s", "preprocess_ms"),
    ("prompt_s", "prompt_ms"),
    ("generate_s", "predicted_ms"),
)
"""Ours, and what llama-server and our worker call them."""


class _Answer:
    """A completion as it comes."""

    def __init__(self, sent_ns: int, hide: Callable[[str], str]) -> None:
        self.growth = Growth(hide)
        self.finish = ""
        self.done = False
        self._sent_ns = sent_ns
        self._ended_ns = 0
        self._hide = hide
        self._usage: dict[str, Any] = {}
        self._timings: dict[str, Any] = {}

    def add(self, event: bytes, now_ns: int) -> None:
        """Take one event. EngineBroken if it is none of an answer."""
        if event.strip() == b"[DONE]":
            self.done = True
            self.end("stop", now_ns)
        elif not self.done:
            self._take(self._read(event), "delta", now_ns)

    def take_whole(self, body: bytes, now_ns: int) -> None:
        """The same for a server that does not stream."""
        self._take(self._read(body), "message", now_ns)
        if self.growth.text:
            self.end("stop", now_ns)

    def end(self, finish: str, now_ns: int) -> None:
        """It is whole; said again, it stays as it was."""
        if not self.finish:
            self.finish, self._ended_ns = finish, now_ns

    def _read(self, event: bytes) -> dict[str, Any]:
        try:
            said = orjson.loads(event)
        except orjson.JSONDecodeError as error:
            raise EngineBroken(f"an event that is no JSON: {self._part(event)!r}") from error
        if not isinstance(said, dict):
            raise EngineBroken(f"an event that is no answer: {self._part(event)!r}")
        return said

    def _part(self, event: bytes) -> str:
        return printable(self._hide(event.decode("utf-8", "replace")))[:80]

    def _take(self, said: dict[str, Any], key: str, now_ns: int) -> None:
        if said.get("error") and not self.finish:
            raise self._failed(said)
        choices = said.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            choice = choices[0]
            message = choice.get(key)
            piece = message.get("content") if isinstance(message, dict) else None
            if isinstance(piece, str) and piece:
                odds = choice.get("logprobs")
                odds = odds.get("content") if isinstance(odds, dict) else None
                self.growth.add(piece, odds, now_ns)
            finish = choice.get("finish_reason")
            if isinstance(finish, str) and finish:
                self.end(printable(self._hide(finish))[:FINISH_CHARS], now_ns)
        for name, kept in (("usage", self._usage), ("timings", self._timings)):
            if isinstance(said.get(name), dict):
                kept.update(said[name])

    def _failed(self, said: dict[str, Any]) -> EngineError:
        error = said["error"]
        text = printable(self._hide(error_said(said) or ""))
        marks = [error.get("code"), error.get("type")] if isinstance(error, dict) else []
        code = str(marks[0]) if marks else ""
        if code in ("429", "503") or any(
            re.search("overload|rate_limit|unavailable", str(mark)) for mark in marks
        ):
            return EngineOverloaded(text) if self.growth.text else Busy(text)
        return ServerFailed(text)

    def reply(self, visual_tokens: int) -> Reply:
        growth = self.growth
        server = {
            name: seconds
            for name, key in _TIMINGS
            if (seconds := duration_s(self._timings.get(key), 1e3)) is not None
        }
        if (batch := duration_s(self._timings.get("batch"), 1)) is not None:
            server["batch"] = batch
        if growth.first_ns:
            server["first_token_s"] = (growth.first_ns - self._sent_ns) / 1e9
        return Reply(
            text=self._hide(growth.text),
            finish=self.finish,
            decided_ns=growth.decided_ns or self._ended_ns,
            answered_ns=self._ended_ns,
            visual_tokens=visual_tokens,
            prompt_tokens=count(self._usage.get("prompt_tokens")),
            output_tokens=count(self._usage.get("completion_tokens")),
            confidence=growth.confidence,
            server=server,
        )
