"""The worker's HTTP service, byte for byte as a stranger sends it, over a real socket.

And in memory: the same service and aiohttp's own parser in one thread and in virtual time, so that
atheris can guide the inputs by the branches they take, and a body that never comes is waited for to
the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
from hypothesis import strategies as st

from earlyfire_stream.clock import VirtualLoop
from earlyfire_stream.verdict import CoordSpace
from earlyfire_stream.worker.ask import Ask, Card, Piece, Timings, TokenLogprob
from earlyfire_stream.worker.loading import ModelSettings
from earlyfire_stream.worker.service import BODY_S, WRITE_S, Service, WorkerSettings
from tests.fuzz.targets import ANYTHING, BODIES, LIMITS, REQUESTS, WORDS, Target, body
from tests.fuzz.watch import Check, Escape

BODY_LIMIT = 60_000
ANSWER_S = 20.0
SILENT_S = 0.004
KNOWN = {100, 200, 400, 401, 404, 405, 408, 411, 413, 414, 415, 417, 431, 501, 503, 505}
"""What may be answered; 500 says that something of ours broke."""
_STATUS = re.compile(rb"HTTP/\d\.\d (\d{3}) ")
_HOST_PATHS = tuple(
    path.encode()
    for path in {os.getcwd(), os.path.expanduser("~"), "/usr/lib", "site-packages", "Traceback"}
    if len(path) > 3
)


@dataclass(frozen=True, slots=True)
class Prepared:
    ask: Ask
    prompt_tokens: int = 20
    visual_tokens: int = 4


class Brain:
    """Says the same whatever it is asked."""

    card = Card(
        "fuzzed", "qwen2_5_vl", CoordSpace.RESIZED_ABS, 4, 16384, "float32", "cpu", "sdpa",
        False, True, 1,
    )  # fmt: skip

    def memory(self) -> dict[str, int]:
        return {}

    def prepare(self, ask: Ask) -> Prepared:
        return Prepared(ask)

    def answer(
        self,
        batch: Sequence[Prepared],
        emit: Callable[[int, Piece], None],
        alive: Callable[[int], bool],
    ) -> Timings:
        for row in range(len(batch)):
            emit(row, Piece('{"has_smoke": ', (TokenLogprob("{", -0.1),)))
            emit(row, Piece("true}", (TokenLogprob("true}", -0.1),), "stop"))
        return Timings(rows=len(batch))


class _Said(logging.Handler):
    """What the service wrote in its log as an error: nothing, whatever it is sent."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.name}: {record.getMessage()} {record.exc_info}"[:300])


@contextlib.contextmanager
def _serving(runner: asyncio.Runner, inline: bool) -> Iterator[tuple[Service, _Said]]:
    """A service that is ready, and what it logs; `inline`: without threads of its own."""
    settings = WorkerSettings(
        ModelSettings("fuzzed"), port=0, wait_ms=0.0, body_limit=BODY_LIMIT, limits=LIMITS
    )
    said = _Said()
    log = logging.getLogger()
    log.addHandler(said)
    loop = runner.get_loop()
    stop = asyncio.Event()

    async def begin() -> tuple[Service, asyncio.Task[None]]:
        service = Service(settings, lambda: Brain())  # type: ignore[arg-type, return-value]
        if inline:
            service._close_threads()
            service._pool, service._model = _Inline(), _InlineModel()  # type: ignore[assignment]
            loop.set_default_executor(_Inline())
        await service.__aenter__()
        working = asyncio.create_task(service.work(stop))
        await service.ready.wait()
        return service, working

    async def end(service: Service, working: asyncio.Task[None]) -> None:
        stop.set()
        await working
        await service.__aexit__(None, None, None)

    service, working = loop.run_until_complete(begin())
    try:
        yield service, said
    finally:
        loop.run_until_complete(end(service, working))
        log.removeHandler(said)


@contextlib.contextmanager
def served() -> Iterator[Check]:
    # a loop of our own: the check is called from a plain function, again and again
    with asyncio.Runner() as runner, _serving(runner, inline=False) as (service, said):
        loop, port = runner.get_loop(), int(service.url.rpartition(":")[2])
        yield lambda data: loop.run_until_complete(_exchange(data, port, service, said))


async def _exchange(data: bytes, port: int, service: Service, said: _Said) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await _all(reader, service)
        except TimeoutError:
            raise Escape(f"no end of the answer within {ANSWER_S:g} s") from None
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    # whoever went away is out of the line by the next turns of the loop
    for _ in range(200):
        if not _holds(service):
            break
        await asyncio.sleep(0.005)
    return _judged(answer, service, said)


def _holds(service: Service) -> bool:
    return bool(service.held_bytes or service._reading or len(service._line))


def _judged(answer: bytes, service: Service, said: _Said) -> str:
    if said.said:
        raise Escape("in the log: " + said.said.pop())
    if any(path in answer for path in _HOST_PATHS):
        raise Escape("a path of this host in the answer")
    if _holds(service):
        raise Escape("a request is still waiting after its client has gone")
    statuses = [int(s) for s in _STATUS.findall(answer)]
    for status in statuses:
        if status not in KNOWN:
            raise Escape(f"status {status}")
    if not answer:
        return "no answer"
    if not statuses:
        raise Escape("an answer that is no HTTP")
    return f"{statuses[0]}"


async def _all(reader: asyncio.StreamReader, service: Service) -> bytes:
    """Up to the end, or until it is silent with no request at work: half a request is waited for
    for as long as its sender stays."""
    parts: list[bytes] = []
    with contextlib.suppress(ConnectionError):
        while True:
            try:
                async with asyncio.timeout(SILENT_S):
                    part = await reader.read(65536)
            except TimeoutError:
                if len(service._line) or service._batcher.inflight:
                    continue
                break
            if not part:
                break
            parts.append(part)
    return b"".join(parts)


# --- in memory -----------------------------------------------------------------------------------


class _Inline(ThreadPoolExecutor):
    """Does at once, in the caller's thread, what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as why:
            done.set_exception(why)
        return done


class _InlineModel:
    busy = False

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        done = function(*args)
        await asyncio.sleep(0)  # what it has emitted comes first, as it does from a thread
        return done

    def close(self) -> None: ...


class _Wire(asyncio.Transport):
    """What a server writes to, kept."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = asyncio.Event()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed.set()

    abort = close

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@contextlib.contextmanager
def served_in_memory() -> Iterator[Check]:
    virtual = asyncio.Runner(loop_factory=VirtualLoop)
    with virtual as runner, _serving(runner, inline=True) as (service, said):
        loop = runner.get_loop()
        yield lambda data: loop.run_until_complete(_told(_framed(data), service, said))


async def _told(data: bytes, service: Service, said: _Said) -> str:
    """The answer to what comes in two pieces, when all has been waited for that can be."""
    assert service._runner is not None
    assert service._runner.server is not None
    protocol, wire = service._runner.server(), _Wire()
    protocol.connection_made(wire)
    for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
        if piece and not wire.is_closing():
            protocol.data_received(piece)
            await asyncio.sleep(0)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_S + WRITE_S):
            await wire.closed.wait()
    protocol.connection_lost(None)
    await asyncio.sleep(1.0)
    return _judged(bytes(wire.written), service, said)


def _framed(data: bytes) -> bytes:
    """With the length of its body in its head, unless that speaks of one: a body that has grown or
    shrunk would be read in the wrong place, and nothing behind the head would ever be tried."""
    head, blank, content = data.partition(b"\r\n\r\n")
    if not blank or re.search(rb"content-length|transfer-encoding", head, re.IGNORECASE):
        return data
    return head + b"\r\nContent-Length: %d" % len(content) + blank + content


def request(
    content: bytes, head: str = "POST /v1/chat/completions HTTP/1.1", length: int = 0, **more: str
) -> bytes:
    headers = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(content) + length),
        "Connection": "close",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    lines = [head, *(f"{name}: {value}" for name, value in headers.items() if value)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogatepass") + content


def _chunked(content: bytes) -> bytes:
    half = len(content) // 2
    parts = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (content[:half], content[half:]) if p)
    return request(b"", Transfer_Encoding="chunked", Content_Length="") + parts + b"0\r\n\r\n"


_heads = st.builds(
    "{} {} HTTP/1.{}".format,
    st.sampled_from(["POST", "POST", "GET", "HEAD", "OPTIONS", "PUT", "TRACE", "BREW"]),
    st.sampled_from(
        [
            "/v1/chat/completions",
            "/v1/chat/completions",
            "/v1/models",
            "/v1/models/x",
            "/health",
            "/ready",
            "/metrics",
            "/../../etc/passwd",
            "/v1/models/%2e%2e%2f%00",
            "*",
            "/?" + "a" * 99,
        ]
    ),
    st.sampled_from(["1", "1", "0", "9"]),
)
_contents = st.one_of(
    st.sampled_from(BODIES),
    REQUESTS.own,
    st.builds(lambda told: body(told), ANYTHING),
    st.binary(max_size=60),
)
_requests = st.one_of(
    st.builds(request, _contents, _heads, st.sampled_from([0, 0, 0, 1, -1, 10_000, 10**12])),
    st.builds(
        lambda content, more: request(content, **more),
        _contents,
        st.dictionaries(
            st.sampled_from(
                [
                    "Content_Type",
                    "Content_Encoding",
                    "Content_Length",
                    "Expect",
                    "Host",
                    "Transfer_Encoding",
                    "Connection",
                    "Authorization",
                    "Upgrade",
                    "X",
                ]
            ),
            st.sampled_from(
                [
                    "",
                    "gzip",
                    "chunked",
                    "100-continue",
                    "identity",
                    "-1",
                    "text/plain",
                    "close",
                    "application/json; charset=utf-16",
                    "a" * 9_000,
                    "Bearer x",
                    "websocket",
                ]
            ),
            max_size=3,
        ),
    ),
    st.builds(_chunked, _contents),
)

HTTP = Target(
    "worker HTTP",
    served,
    (
        *(request(one) for one in BODIES),
        _chunked(BODIES[0]),
        request(b"", "GET /v1/models HTTP/1.1", Content_Length=""),
        request(b"", "GET /metrics HTTP/1.1", Content_Length=""),
        request(b"x" * 70_000),
        request(orjson.dumps({"messages": []})) * 2,
    ),
    (
        *WORDS, b"\r\n", b"POST ", b"GET ", b" HTTP/1.1", b"Content-Length: ", b"chunked",
        b"Transfer-Encoding: ", b"Content-Encoding: gzip\r\n", b"Expect: 100-continue\r\n",
        b"Connection: keep-alive", b"Upgrade: h2c\r\n", b"0\r\n\r\n", b"ffffffff\r\n",
    ),
    _requests,
    guided=False,
)  # fmt: skip

IN_MEMORY = Target(
    "worker in memory",
    served_in_memory,
    (*HTTP.seeds, *(request(one, Content_Length="") for one in BODIES)),
    HTTP.words,
    _requests,
)
