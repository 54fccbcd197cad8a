"""A server of chat completions that behaves as vLLM or llama-server do, faults included.

    async with FakeOpenAI(dialect=Dialect.LLAMA) as server:
        server.script.append(Answer('{"has_smoke": true, "bbox_2d": [28, 28, 56, 56]}'))
        ... server.url ... server.requests

Without a script it honours `response_format`: a JSON object with the schema's keys, `false` and
`null`; without a schema it answers in prose. Requests are checked strictly: a field of the wrong
type, an unknown one, or a picture that is none is a 400.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from aiohttp import web

MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen2.5-VL-7B-Instruct"} 3.0
# HELP vllm:kv_cache_usage_perc KV-cache usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="Qwen/Qwen2.5-VL-7B-Instruct"} 0.25
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="0.1"} 2.0
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 5.0
vllm:time_to_first_token_seconds_count 5.0
vllm:time_to_first_token_seconds_sum 0.9
# TYPE lazy gauge
lazy NaN
"""


class Dialect(StrEnum):
    VLLM = "vllm"
    LLAMA = "llama-server"


class Fault(StrEnum):
    NONE = ""
    HANG = "no answer at all"
    SILENT = "no word after three tokens"
    REPEAT = "the same token for ever, and no end"
    ENDLESS = "other tokens for ever"
    ERROR_EVENT = "an error event under status 200"
    BUSY_EVENT = "a first event that says 503"
    NO_DONE = "the end without [DONE]"
    NO_FINISH = "the end in mid-answer"
    LINGER = "all of the answer, and then no end"
    HALF_LINE = "the connection breaks in mid-line"
    RESET = "the connection breaks before a status"
    NOT_SSE = "a page of HTML"
    NOT_JSON = "events that are no JSON"
    OVERSIZE = "a line without an end"
    WHOLE = "one JSON object although a stream was asked for"
    BAD_REQUEST = "400"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    NOT_FOUND = "404"
    SLOW = "408"
    TOO_LARGE = "413"
    TOO_MANY = "429"
    DIED = "500"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"
    REDIRECT = "307"


REFUSALS = {
    Fault.BAD_REQUEST: "The decoder prompt (length 9000) is longer than the maximum model length",
    Fault.UNAUTHORIZED: "Incorrect API key provided",
    Fault.FORBIDDEN: "This key may not use this model",
    Fault.NOT_FOUND: f"The model `{MODEL}` does not exist.",
    Fault.SLOW: "request timed out",
    Fault.TOO_LARGE: "Request Entity Too Large",
    Fault.TOO_MANY: "Rate limit reached",
    Fault.DIED: "EngineCore encountered an issue",
    Fault.BAD_GATEWAY: "Bad gateway",
    Fault.UNAVAILABLE: "Loading model",
    Fault.GATEWAY_TIMEOUT: "upstream timed out",
    Fault.REDIRECT: "",
}


@dataclass(frozen=True)
class Answer:
    """One scripted reply to /v1/chat/completions. Tokens are words, digits, signs."""

    text: str | None = None
    """None: what `response_format` asks for."""
    fault: Fault = Fault.NONE
    finish: str = "stop"
    true_probability: float | None = None
    """Sent as logprobs where the request asks for them."""
    gate: asyncio.Event | None = None
    """Tokens after the first three wait for it: a slow model, without a clock."""
    late_gate: asyncio.Event | None = None
    """The last token waits for it."""
    retry_after: str | None = None
    message: str | None = None
    """In place of a refusal's usual words."""
    raw: bytes | None = None
    """The whole stream, byte for byte."""
    usage: Mapping[str, Any] | None = None
    timings: Mapping[str, Any] | None = None
    """In place of what is usually told."""


@dataclass
class FakeOpenAI:
    """Records every request to /v1/chat/completions, oldest first."""

    dialect: Dialect = Dialect.VLLM
    models: tuple[str, ...] | None = (MODEL,)
    """None: it has no /v1/models."""
    models_say: bytes | None = None
    """In place of the list."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """More about each model, in its list."""
    key: str | None = None
    """Requests need it, and a wrong one is echoed, as OpenAI does."""
    refuses: frozenset[str] = frozenset()
    """Fields it does not know."""
    logprobs: bool = True
    schemas: bool = True
    """Whether it keeps `response_format`; otherwise it takes and ignores it."""
    metrics: str | None = METRICS
    clips: bool = False
    script: deque[Answer] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    """Ports that requests came from."""
    cancelled: int = 0
    """Streams whose reader went away."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when one did."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request to /v1/chat/completions came."""
    root: str = ""
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.root = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    # --- what it says of itself ---

    async def _models(self, request: web.Request) -> web.Response:
        if (wrong := self._locked(request)) is not None:
            return wrong
        if self.models_say is not None:
            return web.Response(body=self.models_say, content_type="application/json")
        if self.models is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        entries = [
            {"id": name, "object": "model", "created": 1, "owned_by": "me", **self.about}
            for name in self.models
        ]
        return web.json_response({"object": "list", "data": entries})

    async def _metrics(self, request: web.Request) -> web.Response:
        if self.metrics is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.Response(
            text=self.metrics, headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    def _locked(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.key is None or given == self.key:
            return None
        return self._error(401, f"Incorrect API key provided: {given}.")

    # --- answering ---

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if (locked := self._locked(request)) is not None:
            return locked
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])
        self.asked.set()
        wrong = _wrong(body, self.refuses, self.clips)
        if wrong:
            return self._error(400, wrong)
        if self.models is not None and body["model"] not in self.models:
            return self._error(404, f"The model `{body['model']}` does not exist.")
        answer = self.script.popleft() if self.script else Answer()
        if answer.fault in REFUSALS:
            status = int(answer.fault.value)
            said = answer.message if answer.message is not None else REFUSALS[answer.fault]
            refusal = self._error(status, said)
            if answer.retry_after is not None:
                refusal.headers["Retry-After"] = answer.retry_after
            if answer.fault is Fault.REDIRECT:
                refusal.headers["Location"] = "http://elsewhere.example/v1/chat/completions"
            return refusal
        try:
            return await self._speak(request, body, answer)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled += 1
            self.gone.set()
            raise

    def _error(self, status: int, text: str) -> web.Response:
        if self.dialect is Dialect.LLAMA:
            kind = "unavailable_error" if status == 503 else "invalid_request_error"
            error = {"code": status, "message": text, "type": kind}
        else:
            error = {"message": text, "type": "BadRequestError", "param": None, "code": status}
        return web.json_response({"error": error}, status=status)

    def _text(self, answer: Answer, body: dict[str, Any]) -> str:
        if answer.text is not None:
            return answer.text
        form = body.get("response_format", {"type": "text"})
        if form["type"] == "json_schema" and self.schemas:
            wanted = form["json_schema"]["schema"]
            return json.dumps(
                {
                    key: False if rule.get("type") == "boolean" else None
                    for key, rule in wanted["properties"].items()
                }
            )
        return "A valley with hills in the distance."

    async def _speak(
        self, request: web.Request, body: dict[str, Any], answer: Answer
    ) -> web.StreamResponse:
        assert request.transport is not None
        if answer.fault is Fault.HANG:
            await asyncio.Event().wait()
        if answer.fault is Fault.RESET:
            request.transport.abort()
            return web.Response()
        text = self._text(answer, body)
        tokens = re.findall(r"\s*(?:\d|[A-Za-z_]+|[^\s\w])", text)
        if answer.fault is Fault.NOT_SSE:
            return web.Response(text="<html>proxy says hello</html>", content_type="text/html")
        if not body.get("stream", False) or answer.fault is Fault.WHOLE:
            return web.json_response(self._completion(body, answer, text, tokens))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if answer.raw is not None:
            await response.write(answer.raw)
            return response

        async def send(said: dict[str, Any]) -> None:
            await response.write(b"data: " + json.dumps(said).encode() + b"\n\n")

        if answer.fault is Fault.NOT_JSON:
            await response.write(b"data: {has_smoke}\n\n")
            return response
        if answer.fault is Fault.BUSY_EVENT:
            await send({"error": {"message": "queue is full", "type": "overloaded", "code": 503}})
            return response
        llama = self.dialect is Dialect.LLAMA
        first = {"role": "assistant", "content": None if llama else ""}
        await send(self._chunk(body, first, None))
        if answer.fault is Fault.REPEAT:
            tokens = ["!"] * 100_000
        elif answer.fault is Fault.ENDLESS:
            tokens = [f" word{n}" for n in range(100_000)]
        for n, token in enumerate(tokens):
            if n == 3:
                if answer.gate is not None:
                    await answer.gate.wait()
                if answer.fault is Fault.SILENT:
                    await asyncio.Event().wait()
                if answer.fault is Fault.NO_FINISH:
                    return response
                if answer.fault is Fault.ERROR_EVENT:
                    await send(
                        {"error": {"message": "CUDA error", "type": "server_error", "code": 500}}
                    )
                    await response.write(b"data: [DONE]\n\n")
                    return response
                if answer.fault is Fault.HALF_LINE:
                    await response.write(b'data: {"id": "chatcmpl-1", "choi')
                    request.transport.close()
                    return response
                if answer.fault is Fault.OVERSIZE:
                    while True:
                        await response.write(b"data: " + b"x" * 65_536)
            if answer.late_gate is not None and n == len(tokens) - 1:
                await answer.late_gate.wait()
            odds = self._odds(body, answer, [token])
            await send(self._chunk(body, {"content": token}, None, odds))
        await send(self._chunk(body, {} if llama else {"content": ""}, answer.finish))
        if body.get("stream_options", {}).get("include_usage"):
            last = self._chunk(body, {}, None) | {"choices": []} | self._usage(answer, tokens)
            await send(last | self._timings(answer, tokens))
        if answer.fault is Fault.LINGER:
            await asyncio.Event().wait()
        if answer.fault is not Fault.NO_DONE:
            await response.write(b"data: [DONE]\n\n")
        return response

    def _chunk(
        self,
        body: dict[str, Any],
        delta: dict[str, Any],
        finish: str | None,
        odds: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        if odds is not None or self.dialect is Dialect.VLLM:
            choice["logprobs"] = odds
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
        }

    def _completion(
        self, body: dict[str, Any], answer: Answer, text: str, tokens: list[str]
    ) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "logprobs": self._odds(body, answer, tokens),
            "finish_reason": answer.finish,
        }
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1}
        whole = head | {"model": body["model"], "choices": [choice]}
        return whole | self._usage(answer, tokens) | self._timings(answer, tokens)

    def _usage(self, answer: Answer, tokens: list[str]) -> dict[str, Any]:
        if answer.usage is not None:
            return {"usage": dict(answer.usage)}
        out = len(tokens)
        # llama-cpp-python counts an image of 1196 tokens as 46
        return {"usage": {"prompt_tokens": 46, "completion_tokens": out, "total_tokens": 46 + out}}

    def _timings(self, answer: Answer, tokens: list[str]) -> dict[str, Any]:
        if answer.timings is not None:
            return {"timings": dict(answer.timings)}
        if self.dialect is Dialect.VLLM:
            return {}
        known = {"prompt_n": 46, "prompt_ms": 150.0, "predicted_n": len(tokens)}
        return {"timings": known | {"predicted_ms": 100.5, "predicted_per_second": 30.0}}

    def _odds(
        self, body: dict[str, Any], answer: Answer, tokens: list[str]
    ) -> dict[str, Any] | None:
        if not (body.get("logprobs") and self.logprobs and answer.true_probability is not None):
            return None
        return {"content": [_logprobs(token, answer.true_probability) for token in tokens]}


def _logprobs(token: str, p_true: float) -> dict[str, Any]:
    """What is sent beside one token; the mass of `true` is split over two spellings."""

    def entry(text: str, p: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(p), "bytes": list(text.encode())}

    if token.strip() not in ("true", "false"):
        return entry(token, 0.99) | {"top_logprobs": [entry(token, 0.99)]}
    tops = [
        entry(" true", 0.9 * p_true * 0.75),
        entry("true", 0.9 * p_true * 0.25),
        entry(" false", 0.9 * (1 - p_true)),
        entry(" maybe", 0.1),
    ]
    return entry(token, 0.9) | {"top_logprobs": tops}


# --- what a request must look like ---------------------------------------------------------------

FIELDS: dict[str, Any] = {
    "model": lambda v: isinstance(v, str) and v != "",
    "messages": lambda v: isinstance(v, list) and v != [],
    "max_tokens": lambda v: type(v) is int and v >= 1,
    "max_completion_tokens": lambda v: type(v) is int and v >= 1,
    "temperature": lambda v: type(v) in (int, float) and 0 <= v <= 2,
    "top_p": lambda v: type(v) in (int, float) and 0 < v <= 1,
    "seed": lambda v: type(v) is int and abs(v) < 2**63,
    "stream": lambda v: type(v) is bool,
    "stream_options": lambda v: isinstance(v, dict) and v.keys() <= {"include_usage"},
    "logprobs": lambda v: type(v) is bool,
    "top_logprobs": lambda v: type(v) is int and 0 <= v <= 20,
    "response_format": lambda v: isinstance(v, dict),
    "user": lambda v: isinstance(v, str),
}


def _wrong(body: Any, refuses: frozenset[str], clips: bool) -> str:
    """What is wrong with it, naming the field; empty if nothing is."""
    if not isinstance(body, dict):
        return "the body is no object"
    for name in body:
        if name not in FIELDS or name in refuses:
            return f"Unrecognized request argument supplied: '{name}'"
    for name in ("model", "messages"):
        if name not in body:
            return f"{name}: field required"
    for name, value in body.items():
        if not FIELDS[name](value):
            return f"{name}: {value!r:.60} is not valid"
    if "stream_options" in body and not body.get("stream"):
        return "stream_options can only be defined when `stream=True`"
    if "top_logprobs" in body and not body.get("logprobs"):
        return "top_logprobs needs logprobs"
    return _wrong_form(body.get("response_format")) or _wrong_messages(body["messages"], clips)


def _wrong_form(form: Any) -> str:
    if form is None or form == {"type": "text"} or form == {"type": "json_object"}:
        return ""
    inner = form.get("json_schema")
    if form.get("type") != "json_schema" or not isinstance(inner, dict):
        return "response_format: must be text, json_object or json_schema"
    name, wanted = inner.get("name"), inner.get("schema")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        return "response_format.json_schema.name is not valid"
    if not isinstance(wanted, dict) or not isinstance(wanted.get("properties"), dict):
        return "response_format.json_schema.schema is not valid"
    return "" if type(inner.get("strict", True)) is bool else "response_format.json_schema.strict"


def _wrong_messages(messages: list[Any], clips: bool) -> str:
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in (
            "system",
            "user",
            "assistant",
        ):
            return "messages: a message needs a role"
        content = message.get("content")
        if isinstance(content, str):
            continue
        if not isinstance(content, list) or message["role"] != "user":
            return "messages: content must be a text, or parts of a user's message"
        for part in content:
            if wrong := _wrong_part(part, clips):
                return f"messages: {wrong}"
    return ""


def _wrong_part(part: Any, clips: bool) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return "" if isinstance(part.get("text"), str) else "text must be a text"
    if kind == "image_url":
        found = re.fullmatch(r"data:image/(?:jpeg|png);base64,(.+)", part["image_url"]["url"])
        return "only data URIs are taken" if found is None else _wrong_jpeg(found[1])
    if kind == "video_url" and clips:
        video = part["video_url"]
        found = re.fullmatch(r"data:video/jpeg;base64,(.+)", video["url"])
        if found is None:
            return "only data URIs are taken"
        frames, times = found[1].split(","), video["timestamps"]
        if len(frames) != len(times) or times != sorted(times):
            return "a time for each frame, oldest first"
        return next((wrong for frame in frames if (wrong := _wrong_jpeg(frame))), "")
    return f"a part of type {kind!r}"


def _wrong_jpeg(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        return f"illegal base64 data: {error}"
    whole = raw.startswith(b"\xff\xd8\xff") and raw.endswith(b"\xff\xd9")
    return "" if whole or raw.startswith(b"\x89PNG") else "cannot identify image file"
