"""The worker's HTTP service: OpenAI's chat completions in front of one model.

It listens at once, so that whoever started it can ask `/health` and `/ready` while the model is
loaded. Until then, and again while it stops, chat requests get 503 with Retry-After.

Three kinds of threads: the loop's, which reads, schedules and writes; a few that decode and prepare
pictures; one that owns the model. A client that goes away takes its request with it: out of the
line, or out of the batch at the next step. Nothing that a client is told names a path of this host.
"""

from __future__ import annotations

__all__ = ["KEY_VARIABLE", "ModelBroken", "Service", "WorkerSettings"]

import asyncio
import errno
import hmac
import ipaddress
import logging
import os
import queue
import re
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import orjson
from aiohttp import web

from earlyfire_stream.clock import Clock
from earlyfire_stream.errors import EarlyfireError, UsageError
from earlyfire_stream.worker.ask import Ask, Card, Piece, Timings, TokenLogprob
from earlyfire_stream.worker.batching import (
    Alive,
    Batcher,
    Emit,
    Full,
    Job,
    Line,
    ModelFailed,
    RowFailed,
    Stopping,
    TooBig,
)
from earlyfire_stream.worker.loading import ModelSettings
from earlyfire_stream.worker.metrics import Metrics, Outcome
from earlyfire_stream.worker.wire import (
    BadRequest,
    Chat,
    Limits,
    Writer,
    error_body,
    read_ask,
    read_chat,
    usage,
)

if TYPE_CHECKING:
    from earlyfire_stream.worker.generate import Brain, Prepared

log = logging.getLogger(__name__)

KEY_VARIABLE = "EARLYFIRE_WORKER_KEY"
BODY_S = 30.0
"""Longest time that a request may take to send its body."""
WRITE_S = 30.0
"""Longest time that a client may let a piece of its answer wait."""
CLOSE_S = 1.0
"""What is left of an answer to write once the model is done with it."""
RETRY_LOADING_S = 5
RETRY_BUSY_S = 1

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ModelBroken(EarlyfireError):
    """The model failed, and then on the plainest question as well: only a new process helps."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What `earlyfire worker` may be told."""

    model: ModelSettings
    host: str = "127.0.0.1"
    port: int = 8100
    """0 takes a free one."""
    max_batch: int = 8
    wait_ms: float = 20.0
    """How long an idle model waits for requests that are being prepared."""
    max_waiting: int = 256
    """Requests on their way to the model, beyond which 503 is answered."""
    body_limit: int = 32 * 2**20
    """Bytes of a request."""
    held_limit: int = 512 * 2**20
    """Bytes of all requests that are being read or wait for their answer, beyond which 503 is
    answered; one request of `body_limit` is always taken."""
    threads: int = 2
    """Threads that decode and prepare pictures."""
    grace_s: float = 10.0
    """What is under way may take as long once it is told to stop."""
    stdin_guard: bool = False
    """End when standard input closes: whoever started it has gone."""
    key: str | None = field(default=None, repr=False)
    """Clients must send it as Bearer token; needed to listen beyond this machine."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port} is none: 0 to 65535")
        counts = (self.max_batch, self.max_waiting, self.threads, self.body_limit, self.held_limit)
        if min(counts) < 1:
            raise UsageError(
                "the batch, the waiting requests, the threads and the bodies' limits must be "
                "at least 1"
            )
        if not 0 <= self.wait_ms < 60_000 or not 0 <= self.grace_s < 86_400:
            raise UsageError("the wait and the grace must be at least 0 and not for ever")
        if self.key is not None and not re.fullmatch("[!-~]+", self.key):
            # what else there is does not pass every client's headers
            raise UsageError(
                f"{KEY_VARIABLE} is set, but is no key: ASCII characters, no spaces, at least one"
            )
        if self.key is None and not _is_loopback(self.host):
            raise UsageError(
                f"listening on {self.host} lets other machines in: "
                f"set {KEY_VARIABLE} to a key of your choice, or listen on 127.0.0.1"
            )

    @property
    def name(self) -> str:
        """What clients call the model: no folder of this host."""
        given = self.model.model
        return Path(given).resolve().name if os.path.isdir(given) else given


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _State(Enum):
    LOADING = "the model is being loaded"
    READY = "ready"
    STOPPING = "the worker is stopping"


class _Refused(Exception):
    """An answer that is an error; `outcome` counts it."""

    def __init__(
        self,
        status: int,
        message: str,
        outcome: Outcome,
        code: str = "",
        param: str = "",
        retry_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.outcome = outcome
        self.code = code
        self.param = param
        self.retry_s = retry_s

    def response(self) -> web.Response:
        headers = {} if self.retry_s is None else {"Retry-After": str(self.retry_s)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return _json(
            error_body(self.status, str(self), self.code, self.param), self.status, headers
        )


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=body, status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def _refusal(why: Exception) -> _Refused:
    """What a client is told of anything that can go wrong; details stay in the log."""
    match why:
        case _Refused():
            return why
        case BadRequest():
            return _Refused(why.status, str(why), Outcome.BAD_REQUEST, why.code, why.param)
        case UsageError():
            return _Refused(400, str(why), Outcome.BAD_REQUEST)
        case Full():
            return _Refused(
                503,
                "too many requests are waiting",
                Outcome.OVERLOADED,
                "overloaded",
                retry_s=RETRY_BUSY_S,
            )
        case Stopping():
            return _Refused(
                503,
                "the worker is stopping",
                Outcome.STOPPING,
                "stopping",
                retry_s=RETRY_LOADING_S,
            )
        case TooBig():
            return _Refused(
                503,
                "this request does not fit into the memory that is there: "
                "send smaller or fewer pictures",
                Outcome.OUT_OF_MEMORY,
                "out_of_memory",
            )
        case RowFailed():
            return _Refused(500, str(why), Outcome.FAILED, "generation_failed")
        case web.HTTPRequestEntityTooLarge():
            return _Refused(413, "the body is too large", Outcome.TOO_LARGE, "body_too_large")
        case web.HTTPException():
            return _Refused(why.status, why.reason, Outcome.BAD_REQUEST)
        case _:
            return _Refused(
                500, "the model failed; the worker's log says why", Outcome.FAILED, "model_failed"
            )


class _ModelThread:
    """Runs one call after the other, all in one thread, which does not keep the process alive:
    loading a model takes minutes and cannot be interrupted."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()
        self._begun = self._ended = 0

    @property
    def busy(self) -> bool:
        """It works, or has work to do."""
        return self._begun > self._ended

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            self._ended += 1

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def settle(result: R | None, error: Exception | None) -> None:
            if future.done():
                return  # whoever asked has left
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def call() -> None:
            result: R | None = None
            error: Exception | None = None
            try:
                result = function(*args, **kwargs)
            except Exception as why:  # handed to whoever awaits
                error = why
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                log.info("the model came to an end after the service did")

        self._begun += 1
        self._calls.put(call)
        return await future

    def close(self) -> None:
        """Returns at once; what runs in the thread runs on."""
        self._calls.put(None)


class Service:
    """`async with Service(...)` listens; `await work(stop)` loads the model and serves."""

    def __init__(self, settings: WorkerSettings, load: Callable[[], Brain]) -> None:
        """`load` brings the model; it is called in the model's thread. UsageError if it cannot."""
        self.settings = settings
        self.metrics = Metrics()
        self.url = ""
        self.ready = asyncio.Event()
        """Set once the model is loaded."""
        self._load = load
        self._state = _State.LOADING
        self._brain: Brain | None = None
        self._model = _ModelThread()
        self._pool = ThreadPoolExecutor(settings.threads, "prepare")
        self._broken: Exception | None = None
        self._broke = asyncio.Event()
        self._clock = Clock()
        self._line: Line[Job[Chat, Prepared]] = Line(
            settings.max_batch, settings.wait_ms / 1000, settings.max_waiting
        )
        self._batcher: Batcher[Chat, Prepared] = Batcher(
            self._line,
            self._prepare,
            self._answer,
            at_once=settings.threads,
            watcher=self.metrics,
            on_broken=self._examine,
        )
        self._reading = 0
        """Requests whose body is on its way."""
        self.held_bytes = 0
        """Of the bodies that are on their way or wait for their answer."""
        self._runner: web.AppRunner | None = None

    @property
    def busy(self) -> bool:
        """The model's thread has not come to its end; the process can only be left."""
        return self._model.busy

    # --- opening, working, closing ---

    async def __aenter__(self) -> Self:
        app = web.Application(
            client_max_size=self.settings.body_limit, middlewares=[self._errors, self._keyed]
        )
        app.router.add_post("/v1/chat/completions", self._chat, expect_handler=_expectation)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name:.+}", self._one_model)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._readiness)
        app.router.add_get("/metrics", self._metrics_text)
        # What is no HTTP would fill the log with tracebacks; `_errors` logs what is ours.
        http_log = log.getChild("http")
        http_log.setLevel(logging.CRITICAL)
        runner = web.AppRunner(
            app,
            logger=http_log,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=CLOSE_S,
            auto_decompress=False,  # a megabyte of zeros fits into a kilobyte
        )
        await runner.setup()
        host, port = self.settings.host, self.settings.port
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as why:
            await runner.cleanup()
            self._close_threads()
            raise UsageError(_cannot_listen(host, port, why)) from why
        self._runner = runner
        bound = runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self.url = f"http://{shown}:{bound[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._state = _State.STOPPING
        if self._runner is not None:
            await self._runner.cleanup()
        self._close_threads()

    def _close_threads(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._model.close()

    async def work(self, stop: asyncio.Event) -> None:
        """Load, serve until `stop`, let what is under way end within the grace.

        UsageError if the model cannot be loaded; ModelBroken if it does not answer any more.
        """
        stopped = asyncio.create_task(stop.wait(), name="stop")
        broke = asyncio.create_task(self._broke.wait(), name="broken")
        loading = asyncio.create_task(self._model.run(self._load), name="load")
        batching: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({stopped, loading}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                return
            self._brain = loading.result()
            batching = asyncio.create_task(self._batcher.run(), name="batches")
            self.metrics.loaded(self.settings.name, self._card())
            self._state = _State.READY
            self.ready.set()
            await asyncio.wait({stopped, batching, broke}, return_when=asyncio.FIRST_COMPLETED)
            self._state = _State.STOPPING
            if batching.done():
                batching.result()
            if self._broken is not None:
                raise ModelBroken(
                    "the model does not answer any more; start the worker again"
                ) from self._broken
            if not await self._batcher.drain(self.settings.grace_s):
                log.warning("not every request was answered within %g s", self.settings.grace_s)
        finally:
            self._state = _State.STOPPING
            tasks = [task for task in (stopped, broke, loading, batching) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- what the batcher asks for ---

    async def _prepare(self, chat: Chat) -> Prepared:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._prepare_now, chat)

    def _prepare_now(self, chat: Chat) -> Prepared:
        assert self._brain is not None  # nothing enters the line before it is loaded
        return self._brain.prepare(read_ask(chat, self.settings.limits))

    async def _answer(self, batch: Sequence[Prepared], emit: Emit, alive: Alive) -> Timings:
        assert self._brain is not None
        loop = asyncio.get_running_loop()

        def emit_from_thread(row: int, piece: Piece) -> None:
            loop.call_soon_threadsafe(emit, row, piece, loop.time())

        return await self._model.run(self._brain.answer, batch, emit_from_thread, alive)

    async def _examine(self) -> None:
        """After a failure: can the model still answer anything? A device that is lost cannot."""
        brain = self._brain
        assert brain is not None

        def ask() -> None:
            plain = brain.prepare(Ask("", ("Hello",), max_tokens=1))
            brain.answer([plain], lambda row, piece: None, lambda row: True)

        try:
            await self._model.run(ask)
        except Exception as why:
            log.exception("the model does not answer any more")
            self._broken = why
            self._broke.set()

    # --- what stands around every request ---

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every error in OpenAI's form; chat requests are counted by their outcome."""
        outcome = Outcome.OK
        try:
            return await handler(request)
        except asyncio.CancelledError:
            outcome = Outcome.CANCELLED
            raise
        except _Told as told:
            outcome = told.outcome
            return told.response
        except Exception as why:
            refused = _refusal(why)
            outcome = refused.outcome
            if refused.status == 500 and not isinstance(why, RowFailed | ModelFailed):
                log.error("a request failed", exc_info=why)
            return refused.response()
        finally:
            if request.path == "/v1/chat/completions":
                self.metrics.request(outcome)

    @web.middleware
    async def _keyed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Health and readiness are open: those who probe them have no key."""
        key = self.settings.key
        if key is not None and request.path not in ("/health", "/ready"):
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {key}".encode()):
                raise _Refused(
                    401,
                    "a key is needed: Authorization: Bearer ...",
                    Outcome.UNAUTHORIZED,
                    "invalid_api_key",
                )
        return await handler(request)

    # --- what it says of itself ---

    async def _health(self, request: web.Request) -> web.Response:
        return _json(orjson.dumps({"status": "ok"}))

    async def _readiness(self, request: web.Request) -> web.Response:
        if self._state is _State.READY:
            return _json(orjson.dumps({"status": "ready"}))
        return _json(
            orjson.dumps({"status": self._state.name.lower(), "message": self._state.value}),
            503,
            {"Retry-After": str(RETRY_LOADING_S)},
        )

    def _card(self) -> Card:
        if self._brain is None:
            raise self._unready()
        return self._brain.card

    def _unready(self) -> _Refused:
        loading = self._state is _State.LOADING
        return _Refused(
            503,
            self._state.value,
            Outcome.LOADING if loading else Outcome.STOPPING,
            self._state.name.lower(),
            retry_s=RETRY_LOADING_S,
        )

    def _entry(self) -> dict[str, Any]:
        card = self._card()
        return {
            "id": self.settings.name,
            "object": "model",
            "created": self._clock.start_ns // 10**9,
            "owned_by": "earlyfire",
            "family": card.family,
            "coord_space": card.coord_space.value,
            "min_visual_tokens": card.min_visual_tokens,
            "max_visual_tokens": card.max_visual_tokens,
            "max_batch": self.settings.max_batch,
            "clips": card.clips,
            "dtype": card.dtype,
            "device": card.device,
            "attention": card.attention,
            "four_bit": card.four_bit,
            "parameters": card.parameters,
        }

    async def _models(self, request: web.Request) -> web.Response:
        return _json(orjson.dumps({"object": "list", "data": [self._entry()]}))

    async def _one_model(self, request: web.Request) -> web.Response:
        self._check_name(request.match_info["name"])
        return _json(orjson.dumps(self._entry()))

    def _check_name(self, name: str) -> None:
        if name not in (self.settings.name, self.settings.model.model):
            raise _Refused(
                404,
                f"model {name[:100]!r} is not served here; {self.settings.name!r} is",
                Outcome.NOT_FOUND,
                "model_not_found",
                "model",
            )

    async def _metrics_text(self, request: web.Request) -> web.Response:
        m = self.metrics
        m.waiting.set(len(self._line))
        m.inflight.set(self._batcher.inflight)
        m.row_limit.set(self._line.rows)
        m.ready.set(self._state is _State.READY)
        brain = self._brain

        def write() -> bytes:
            if brain is not None:
                m.memory(brain.memory())
            return m.text()

        return web.Response(
            body=await asyncio.to_thread(write),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    # --- answering ---

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if self._state is not _State.READY:
            raise self._unready()
        # before megabytes are read for nothing, or by all at once
        if len(self._line) + self._reading >= self.settings.max_waiting:
            raise Full
        limit = self.settings.body_limit
        # of a body that does not say how long it is, the longest is expected
        share = request.content_length if request.content_length is not None else limit
        if share > limit:
            raise web.HTTPRequestEntityTooLarge(limit, share)
        if self.held_bytes + share > max(self.settings.held_limit, limit):
            raise Full
        self.held_bytes += share
        try:
            self._reading += 1
            try:
                raw = await _body(request, limit)
                self.held_bytes += len(raw) - share
                share = len(raw)
                chat = read_chat(raw, self.settings.limits)
                del raw  # the chat's texts are as long
            finally:
                self._reading -= 1
            return await self._reply(request, chat)
        finally:
            self.held_bytes -= share

    async def _reply(self, request: web.Request, chat: Chat) -> web.StreamResponse:
        if chat.model is not None:
            self._check_name(chat.model)
        if self._state is not _State.READY:
            raise self._unready()
        job = self._batcher.enter(chat, chat.user)
        try:
            writer = Writer(
                f"chatcmpl-{secrets.token_hex(12)}",
                self._clock.wall_ns() // 10**9,
                self.settings.name,
                chat,
            )
            if chat.stream:
                return await self._stream(request, job, writer)
            return await self._whole(job, writer)
        finally:
            self._batcher.leave(job)

    async def _whole(self, job: Job[Chat, Prepared], writer: Writer) -> web.Response:
        tokens: list[TokenLogprob] = []
        finish = ""
        async for piece in job:
            tokens.extend(piece.tokens)
            finish = piece.finish or finish
        body = writer.whole(job.text, tokens, finish, _usage(job, len(tokens)), _timings(job))
        return _json(body)

    async def _stream(
        self, request: web.Request, job: Job[Chat, Prepared], writer: Writer
    ) -> web.StreamResponse:
        """Events as the pieces come. What fails before the first one still has a status."""
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )

        async def send(event: bytes) -> None:
            try:
                async with asyncio.timeout(WRITE_S):
                    await response.write(event)
            except (TimeoutError, ConnectionError):
                if request.transport is not None:
                    request.transport.abort()
                raise _Told(Outcome.CANCELLED, response) from None

        output_tokens = 0
        try:
            async for piece in job:
                first = not response.prepared
                if first:
                    await response.prepare(request)
                output_tokens += len(piece.tokens)
                last = piece.finish is not None and not writer.chat.include_usage
                await send(
                    writer.chunk(
                        piece.text,
                        piece.tokens,
                        piece.finish,
                        first=first,
                        timings=_timings(job) if last else None,
                    )
                )
        except _Told:
            raise
        except Exception as why:
            if not response.prepared:
                raise
            refused = _refusal(why)
            log.warning("an answer broke off: %s", refused)
            body = error_body(refused.status, str(refused), refused.code)
            await send(b"data: " + body + b"\n\n")
            raise _Told(refused.outcome, response) from why
        if writer.chat.include_usage:
            await send(writer.usage_chunk(_usage(job, output_tokens), _timings(job)))
        await send(b"data: [DONE]\n\n")
        return response


class _Told(Exception):
    """The client has been told already: its stream had begun."""

    def __init__(self, outcome: Outcome, response: web.StreamResponse) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.response = response


async def _expectation(request: web.Request) -> None:
    """aiohttp's own repeats what was expected, and fails where that is no text."""
    if request.headers.get("Expect", "").lower() != "100-continue":
        raise web.HTTPExpectationFailed(text="")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _body(request: web.Request, limit: int) -> bytes:
    """At most `limit` bytes; aiohttp's own `read` would keep them as long as the request lives."""
    if request.content_type != "application/json":
        # a web page can make a browser send anything else to this machine unasked
        raise BadRequest("Content-Type must be application/json", status=415)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest("a compressed body is not taken", status=415)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while part := await request.content.readany():
                body += part
                if len(body) > limit:
                    raise web.HTTPRequestEntityTooLarge(limit, len(body))
    except TimeoutError:
        raise BadRequest("the body did not come in time", status=408) from None
    return bytes(body)


def _usage(job: Job[Chat, Prepared], output_tokens: int) -> dict[str, Any]:
    assert job.prepared is not None  # it was answered
    return usage(job.prepared.prompt_tokens, job.prepared.visual_tokens, output_tokens)


def _timings(job: Job[Chat, Prepared]) -> dict[str, float]:
    """In llama-server's words and milliseconds."""

    def ms(seconds: float) -> float:
        return round(max(0.0, seconds) * 1000, 3)

    return {
        "queue_ms": ms(job.queued_s),
        "preprocess_ms": ms(job.prepare_s),
        "prompt_ms": ms(job.first_at - job.began_at),
        "predicted_ms": ms(job.ended_at - job.first_at),
        "batch": job.rows,
    }


def _cannot_listen(host: str, port: int, why: OSError) -> str:
    if why.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken; choose another one, or 0 for any"
    if isinstance(why, socket.gaierror) or why.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine"
    return f"cannot listen on {host} port {port}: {why.strerror or why}"
