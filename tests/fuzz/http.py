"""The worker's HTTP service, byte for byte as a stranger sends it, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import orjson
from hypothesis import strategies as st

from earlyfire_stream.verdict import CoordSpace
from earlyfire_stream.worker.ask import Ask, Card, Piece, Timings, TokenLogprob
from earlyfire_stream.worker.loading import ModelSettings
from earlyfire_stream.worker.service import Service, WorkerSettings
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
def served() -> Iterator[Check]:
    settings = WorkerSettings(
        ModelSettings("fuzzed"), port=0, wait_ms=0.0, body_limit=BODY_LIMIT, limits=LIMITS
    )
    said = _Said()
    log = logging.getLogger()
    log.addHandler(said)
    # a loop of our own: the check is called from a plain function, again and again
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        stop = asyncio.Event()

        async def made() -> Service:
            return Service(settings, lambda: Brain())  # type: ignore[arg-type, return-value]

        service = loop.run_until_complete(made())

        async def begin() -> asyncio.Task[None]:
            await service.__aenter__()
            working = asyncio.create_task(service.work(stop))
            await service.ready.wait()
            return working

        async def end(working: asyncio.Task[None]) -> None:
            stop.set()
            await working
            await service.__aexit__(None, None, None)

        working = loop.run_until_complete(begin())
        port = int(service.url.rpartition(":")[2])
        try:
            yield lambda data: loop.run_until_complete(_exchange(data, port, service, said))
        finally:
            loop.run_until_complete(end(working))
            log.removeHandler(said)


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
    if said.said:
        raise Escape("in the log: " + said.said.pop())
    if any(path in answer for path in _HOST_PATHS):
        raise Escape("a path of this host in the answer")
    # whoever went away is out of the line by the next turns of the loop
    for _ in range(200):
        if not service.held_bytes and not service._reading and not len(service._line):
            break
        await asyncio.sleep(0.005)
    else:
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
