"""A server that behaves as Ollama does, faults included, and answers what the test wrote down.

    async with FakeOllama(version="0.33.0") as server:
        server.script.append(Answer('{"has_smoke": true, "bbox_2d": [28, 28, 56, 56]}'))
        ... server.url ... server.requests

Without a script it honours `format`: a JSON object with the schema's keys, `false` and `null`;
without a schema it answers in prose.
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

MODEL = "qwen2.5vl:7b"
MS = 1_000_000


class Fault(StrEnum):
    NONE = ""
    HANG = "no answer at all"
    SILENT = "no word after three tokens"
    REPEAT = "the same token for ever; after 30 of them the end, without a final line"
    REPEAT_ON = "the same token for ever, and no end"
    ERROR_LINE = "an error line under status 200"
    NO_FINAL = "the end without a final line"
    HALF_LINE = "the connection breaks in mid-line"
    RESET = "the connection breaks before a status"
    NOT_NDJSON = "lines that are no JSON"
    BUSY = "503"
    NOT_FOUND = "404"
    MODEL_REQUIRED = "400"
    CANCELLED = "499"
    DIED = "500"


REFUSALS = {
    Fault.BUSY: (503, "server busy, please try again.  maximum pending requests exceeded"),
    Fault.NOT_FOUND: (404, f"model '{MODEL}' not found"),
    Fault.MODEL_REQUIRED: (400, "model is required"),
    Fault.CANCELLED: (499, "request cancelled"),
    Fault.DIED: (500, "llama runner process has terminated: exit status 2"),
}


@dataclass(frozen=True)
class Answer:
    """One scripted reply to /api/chat. Tokens are words, digits, signs."""

    text: str | None = None
    """None: what `format` asks for."""
    fault: Fault = Fault.NONE
    done_reason: str = "stop"
    final: Mapping[str, Any] = field(default_factory=dict)
    """Over what the final line usually tells."""
    true_probability: float | None = None
    """Sent as logprobs where the request asks for them."""
    gate: asyncio.Event | None = None
    """Tokens after the first three wait for it: a slow model, without a clock."""


@dataclass
class FakeOllama:
    """Records every request to /api/chat and /api/generate, oldest first."""

    version: str = "0.33.0"
    model: str = MODEL
    family: str = "qwen25vl"
    capabilities: tuple[str, ...] = ("completion", "vision")
    needs_images: bool = True
    script: deque[Answer] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    """Ports that requests to /api/chat came from."""
    cancelled: int = 0
    """Streams whose reader went away."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when one did."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request to /api/chat came."""
    ps: dict[str, Any] | None = None
    """What /api/ps says; None: the model is loaded."""
    url: str = ""
    port: int = 0
    """0: any; the same again when it is started again."""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/tags", self._tags)
        app.router.add_get("/api/ps", self._ps)
        app.router.add_post("/api/show", self._show)
        app.router.add_post("/api/chat", self._chat)
        app.router.add_post("/api/generate", self._generate)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Every connection is closed, and nobody answers any more."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    # --- what it says of itself ---

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    def _entry(self) -> dict[str, Any]:
        return {
            "name": self.model,
            "model": self.model,
            "modified_at": "2026-01-01T00:00:00Z",
            "size": 5_969_245_856,
            "digest": "5ced39dfa4ba",
            "details": {"format": "gguf", "family": self.family, "quantization_level": "Q4_K_M"},
        }

    async def _tags(self, request: web.Request) -> web.Response:
        return web.json_response({"models": [self._entry()]})

    async def _ps(self, request: web.Request) -> web.Response:
        if self.ps is not None:
            return web.json_response(self.ps)
        loaded = {
            "size_vram": 5_000_000_000,
            "expires_at": "2026-01-01T00:30:00Z",
            "context_length": 4096,
        }
        return web.json_response({"models": [self._entry() | loaded]})

    async def _show(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("model") != self.model:
            return _error(404, f"model '{body.get('model')}' not found")
        return web.json_response(
            {
                "modelfile": f"FROM {self.model}",
                "details": self._entry()["details"],
                "model_info": {"general.architecture": self.family},
                "capabilities": list(self.capabilities),
                "modified_at": "2026-01-01T00:00:00Z",
            }
        )

    # --- answering ---

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if body.get("model") != self.model:
            return _error(404, f"model '{body.get('model')}' not found")
        if not body.get("prompt"):
            return web.json_response(self._final("load", "", 0, 0) | {"response": ""})
        text = self._text(Answer(), body)
        return web.json_response(self._final("stop", "", 1200, 12) | {"response": text})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        assert request.transport is not None
        self.connections.add(request.transport.get_extra_info("peername")[1])
        self.asked.set()
        answer = self.script.popleft() if self.script else Answer()
        if not body.get("model"):
            return _error(400, "model is required")
        if body["model"] != self.model:
            return _error(404, f"model '{body['model']}' not found")
        wrong = self._wrong_images(body)
        if wrong:
            return _error(400, wrong)
        if answer.fault in REFUSALS:
            return _error(*REFUSALS[answer.fault])
        try:
            return await self._speak(request, body, answer)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled += 1
            self.gone.set()
            raise

    def _wrong_images(self, body: dict[str, Any]) -> str:
        images = [one for m in body["messages"] for one in m.get("images") or []]
        if self.needs_images and not images:
            return "this test wants a picture"
        for image in images:
            try:
                raw = base64.b64decode(image, validate=True)
            except (binascii.Error, ValueError) as error:
                return f"illegal base64 data: {error}"
            if not raw.startswith((b"\xff\xd8\xff", b"\x89PNG")):
                return "image: unknown format"
        return ""

    def _text(self, answer: Answer, body: dict[str, Any]) -> str:
        if answer.text is not None:
            return answer.text
        wanted = body.get("format")
        if isinstance(wanted, dict):
            return json.dumps(
                {
                    key: False if rule.get("type") == "boolean" else None
                    for key, rule in wanted["properties"].items()
                }
            )
        return "{}" if wanted == "json" else "A valley with hills in the distance."

    async def _speak(
        self, request: web.Request, body: dict[str, Any], answer: Answer
    ) -> web.StreamResponse:
        if answer.fault is Fault.HANG:
            await asyncio.Event().wait()
        if answer.fault is Fault.RESET:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        text = self._text(answer, body)
        tokens = re.findall(r"\s*(?:\d|[A-Za-z_]+|[^\s\w])", text)
        if not body.get("stream", True):
            message = {"role": "assistant", "content": text}
            return web.json_response(
                self._final(answer.done_reason, "", 1300, len(tokens)) | {"message": message}
            )
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)

        async def send(line: dict[str, Any]) -> None:
            await response.write(json.dumps(line).encode() + b"\n")

        if answer.fault in (Fault.REPEAT, Fault.REPEAT_ON):
            tokens = ["!"] * (31 if answer.fault is Fault.REPEAT else 100_000)
        if answer.fault is Fault.NOT_NDJSON:
            await response.write(b"<html>proxy says no</html>\n")
            return response
        for n, token in enumerate(tokens):
            if n == 3:
                if answer.gate is not None:
                    await answer.gate.wait()
                if answer.fault is Fault.SILENT:
                    await asyncio.Event().wait()
                if answer.fault is Fault.ERROR_LINE:
                    await send({"error": "an error was encountered while running the model"})
                    return response
                if answer.fault is Fault.HALF_LINE:
                    await response.write(b'{"model": "qwen2.5vl:7b", "mess')
                    assert request.transport is not None
                    request.transport.close()
                    return response
            line: dict[str, Any] = {
                "model": self.model,
                "created_at": "2026-01-01T00:00:00Z",
                "message": {"role": "assistant", "content": token},
                "done": False,
            }
            if body.get("logprobs") and answer.true_probability is not None:
                line["logprobs"] = _logprobs(token, answer.true_probability)
            await send(line)
        if answer.fault in (Fault.NO_FINAL, Fault.REPEAT):
            return response
        final = self._final(answer.done_reason, "", 1300, len(tokens))
        await send(final | dict(answer.final))
        return response

    def _final(self, reason: str, content: str, prompt: int, output: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "created_at": "2026-01-01T00:00:00Z",
            "message": {"role": "assistant", "content": content},
            "done": True,
            "done_reason": reason,
            "total_duration": 260 * MS,
            "load_duration": 10 * MS,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": 150 * MS,
            "eval_count": output,
            "eval_duration": 100 * MS,
        }


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


def _logprobs(token: str, p_true: float) -> list[dict[str, Any]]:
    """What is sent beside one token; the mass of `true` is split over two spellings."""

    def entry(text: str, p: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(p), "bytes": list(text.encode())}

    if token.strip() not in ("true", "false"):
        return [entry(token, 0.99) | {"top_logprobs": [entry(token, 0.99)]}]
    tops = [
        entry(" true", 0.9 * p_true * 0.75),
        entry("true", 0.9 * p_true * 0.25),
        entry(" false", 0.9 * (1 - p_true)),
        entry(" maybe", 0.1),
    ]
    return [entry(token, 0.9) | {"top_logprobs": tops}]
