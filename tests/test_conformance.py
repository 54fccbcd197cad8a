"""What every engine must do, whichever it is: one suite, run at each place of `conformance`.

In wall time on loopback; the `hf` engine talks to a real worker with a small random model.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from earlyfire_stream import engines
from earlyfire_stream.clock import Clock
from earlyfire_stream.engines import hf
from earlyfire_stream.engines.base import Engine, Reply, Request
from earlyfire_stream.errors import (
    EngineBroken,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    UsageError,
)
from earlyfire_stream.records import RECORDS_LOG
from earlyfire_stream.scenario import models
from tests.conformance import (
    CLEAR_AT,
    MANY,
    PLACES,
    SERVED,
    SERVERLESS,
    SMOKE_AT,
    BaselinePlace,
    Ground,
    Place,
    RecordedPlace,
    Served,
    engine_of,
    record_of,
    rendered,
    run_of_baseline,
    verdict_of,
)
from tests.fakes import worker as fake_worker
from tests.playing import LOADING_S, PATIENCE_S, overtaken, until, wait_for, within

MIB = 2**20


# --- where they run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Starts one real worker for all tests, when it is first asked for its address."""
    started: list[subprocess.Popen[bytes]] = []

    @cache
    def start() -> str:
        from tests.tiny_qwen import save_tiny  # torch: only where it is needed

        folder = save_tiny(tmp_path_factory.mktemp("models") / "tiny-qwen")
        environ = {k: v for k, v in os.environ.items() if k != "EARLYFIRE_WORKER_KEY"}
        with (folder / "worker.log").open("wb") as log:
            child = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "earlyfire_stream.worker", "--port=0"),
                    *(f"--model={folder}", "--dtype=float32", "--device=cpu", "--wait-ms=2"),
                    "--stdin-guard",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
            )
        started.append(child)
        assert child.stdout is not None
        url = str(orjson.loads(child.stdout.readline())["listening"])

        def ready() -> bool:
            assert child.poll() is None, (folder / "worker.log").read_text()
            try:
                with urllib.request.urlopen(f"{url}/ready") as answer:
                    return bool(answer.status == 200)
            except urllib.error.HTTPError as why:
                why.close()
                return False

        wait_for(ready, LOADING_S)
        return url

    yield start
    for child in started:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        child.wait(PATIENCE_S)
        child.stdout.close()


@pytest.fixture(scope="module")
def cached_renders() -> Callable[[], Any]:
    return cache(lambda: rendered(1280, 720, max(SMOKE_AT)))


@pytest.fixture(scope="module")
def cached_run(cached_renders: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        # beside the loop of the test that asks first
        found: list[Any] = []
        thread = threading.Thread(
            target=lambda: found.append(asyncio.run(run_of_baseline(cached_renders())))
        )
        thread.start()
        thread.join()
        return found[0]

    return cache(run)


@pytest.fixture
def ground(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    worker: Callable[[], str],
    cached_renders: Callable[[], Any],
    cached_run: Callable[[], Any],
) -> Ground:
    # the recording's baseline must run before a place may change its detector
    return Ground(tmp_path, monkeypatch, cached_renders, cached_run, worker)


@pytest.fixture
async def place(request: pytest.FixtureRequest, ground: Ground) -> AsyncIterator[Place]:
    async with PLACES[request.param](ground) as opened:
        traits = opened.engine.traits
        assert traits.name == engine_of(request.param)
        assert 1 <= traits.default_concurrency <= traits.max_concurrency
        assert 1 <= traits.min_tokens <= traits.max_tokens
        yield opened


@pytest.fixture
async def served(request: pytest.FixtureRequest, ground: Ground) -> AsyncIterator[Served]:
    async with SERVED[request.param](ground) as opened:
        assert isinstance(opened, Served)
        yield opened


everywhere = pytest.mark.parametrize("place", PLACES, indirect=True)
where_there_is_a_server = pytest.mark.parametrize("served", SERVED, indirect=True)
where_there_is_none = pytest.mark.parametrize("place", SERVERLESS, indirect=True)


def test_the_suite_covers_every_engine_there_is() -> None:
    with_server, without = {engine_of(p) for p in SERVED}, {engine_of(p) for p in SERVERLESS}
    assert with_server | without == set(engines.names()) == set(OPTIONS)
    assert with_server & without == set()


# --- what a reply is -----------------------------------------------------------------------------


async def answered(place: Place, request: Request) -> Reply:
    """The reply, after checking all that holds for every one."""
    began_ns = place.clock.wall_ns()
    reply = await within(place.engine.infer(request))
    ended_ns = place.clock.wall_ns()
    assert reply.finish in ("stop", "length", "cut")
    # the virtual and the wall clock count in floating seconds: a microsecond of grace
    assert began_ns - 1000 <= reply.decided_ns <= reply.answered_ns <= ended_ns + 1000
    sound(request, reply)
    verdict = verdict_of(request, reply, place.engine)
    assert verdict is not None, reply.text
    if verdict.box is not None:
        assert verdict.has_smoke
        assert all(0 <= value <= 1 for value in verdict.box.corners)
        assert verdict.box.area > 0
    orjson.loads(orjson.dumps(record_of(request, reply, verdict)))
    return reply


def sound(request: Request, reply: Reply) -> None:
    """Its numbers are numbers that a record and its readers can hold."""
    assert reply.visual_tokens == request.visual_tokens
    assert reply.confidence is None or 0 <= reply.confidence <= 1
    for count in (reply.prompt_tokens, reply.output_tokens):
        assert count is None or 0 <= count <= 2**53
    for name, value in reply.server.items():
        assert math.isfinite(value), name
        assert 0 <= value <= 2**53, name
    assert 0 < reply.decided_ns < 2**63
    assert 0 < reply.answered_ns < 2**63
    assert len(reply.text) <= MIB
    assert len(reply.finish) <= 100


@everywhere
async def test_three_clear_and_three_smoking_renders_are_answered(
    place: Place, ground: Ground
) -> None:
    judged = {}
    for render in ground.renders():
        asked = render.at_s in CLEAR_AT + SMOKE_AT
        if not asked and not place.warms_up:
            continue
        place.expect(render)
        request = place.look(render)
        reply = await answered(place, request)
        if asked:
            verdict = verdict_of(request, reply, place.engine)
            assert verdict is not None
            judged[render.at_s] = verdict.has_smoke
    assert list(judged) == [*CLEAR_AT, *SMOKE_AT]
    if place.sees:
        assert list(judged.values()) == [False, False, False, True, True, True]


# --- many at once --------------------------------------------------------------------------------


@everywhere
async def test_sixteen_requests_at_once_get_each_its_own_answer(place: Place) -> None:
    await place.learn()
    ask = place.last if isinstance(place, BaselinePlace) else place.question
    requests = [ask(n) for n in range(MANY)]
    replies = await asyncio.gather(*[answered(place, request) for request in requests])
    for n, (request, reply) in enumerate(zip(requests, replies, strict=True)):
        place.agrees(n, request, reply)


@everywhere
async def test_of_sixteen_requests_a_cancelled_half_does_not_touch_the_others(
    place: Place,
) -> None:
    requests = [place.question(n) for n in range(MANY)]
    looks = [asyncio.create_task(answered(place, request)) for request in requests]
    await asyncio.sleep(0)
    for look in looks[::2]:
        look.cancel()
    ends = await asyncio.gather(*looks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends[::2])
    assert all(isinstance(end, Reply) for end in ends[1::2]), ends[1::2]


# --- cancelled, late, slow -----------------------------------------------------------------------


@everywhere
async def test_a_cancelled_request_ends_at_once_and_leaves_the_engine_usable(
    place: Place,
) -> None:
    look = asyncio.create_task(place.engine.infer(place.hanging()))
    await place.reached()
    look.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(look)
    if isinstance(place, Served):
        await within(place.front.left.wait())
    place.release()
    await answered(place, place.question(1))
    await answered(place, place.question(0))


@everywhere
async def test_a_request_whose_deadline_has_passed_is_a_timeout_and_is_not_sent(
    place: Place,
) -> None:
    heard = place.front.heard if isinstance(place, Served) else 0
    if isinstance(place, BaselinePlace):
        place.detector.entered.clear()
    for deadline_s in (0.0, -1.0, -1e6):
        with pytest.raises(EngineTimeout):
            await within(place.engine.infer(place.question(1, deadline_s=deadline_s)))
    if isinstance(place, Served):
        assert place.front.heard == heard
    if isinstance(place, BaselinePlace):
        assert not place.detector.entered.is_set()
    await answered(place, place.question(1))


@everywhere
async def test_a_request_that_is_not_answered_ends_at_its_deadline(place: Place) -> None:
    request = place.hanging(deadline_s=0.2)
    with pytest.raises(EngineTimeout):
        await within(place.engine.infer(request))
    assert place.clock.wall_ns() >= request.deadline_ns - 1_000_000
    place.release()
    await answered(place, place.question(1))


@where_there_is_a_server
async def test_an_answer_that_stops_half_way_ends_at_the_deadline(served: Served) -> None:
    wire = served.wire
    served.front.say(wire.piece(b"{") + wire.piece(rb"\"has"), wire.kind, stall=True)
    # shorter than the silence that is borne with
    look = served.engine.infer(served.question(0, deadline_s=10))
    with pytest.raises(EngineTimeout):
        await overtaken(served.front.stalled, look, 10)
    await within(served.front.left.wait())
    served.front.be_itself()
    await answered(served, served.question(0))


# --- gone, and back ------------------------------------------------------------------------------


@where_there_is_a_server
async def test_a_server_that_is_gone_is_unavailable_and_is_used_again_when_it_is_back(
    served: Served,
) -> None:
    await answered(served, served.question(0))
    await served.front.go()
    for n in range(3):
        with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1"):
            await within(served.engine.infer(served.question(n)))
    await served.front.come()
    await used_again(served)
    await answered(served, served.question(2))


async def used_again(served: Served) -> None:
    """Returns when it answers; `hf` leaves a worker alone for a while and then looks again."""

    async def answers() -> bool:
        try:
            await served.engine.infer(served.question(1))
        except EngineUnavailable:
            return False
        return True

    async with asyncio.timeout(PATIENCE_S):
        while not await answers():  # noqa: ASYNC110 - nothing tells when it has looked
            await asyncio.sleep(0.05)


@where_there_is_a_server
async def test_a_server_that_goes_in_mid_answer_costs_that_answer_alone(served: Served) -> None:
    wire = served.wire
    served.front.asked.clear()
    served.front.say(wire.piece(b"{"), wire.kind, stall=True)
    look = asyncio.create_task(served.engine.infer(served.question(0)))
    await within(served.front.asked.wait())
    await served.front.go()
    with pytest.raises((EngineBroken, EngineUnavailable)):
        await within(look)


@where_there_is_none
async def test_an_engine_without_a_server_fails_in_its_own_ways_and_goes_on(place: Place) -> None:
    failing = place.failing()
    assert len(failing) >= 2
    for request, kind in failing:
        with pytest.raises(EngineError) as caught:
            await within(place.engine.infer(request))
        assert type(caught.value) is kind
        assert str(caught.value)
    place.release()
    await answered(place, place.question(0))


# --- nonsense ------------------------------------------------------------------------------------

SAID = [
    b"", b"{}", b"[]", b"null", b"7", b'"text"', b"true", b"NaN", b"{has_smoke}", b'{"a":',
    b"<html>proxy says no</html>", b"\xff\xfe\x00\x01", b"\x00" * 100, b"[" * 100_000,
    b'{"a":' * 100_000, b"9" * 100_000, b"-1e99999", b'{"message":null,"choices":null}',
    b'{"message":7,"choices":7}', b'{"message":[],"choices":[]}',
    b'{"message":{"content":7},"choices":[7]}', b'{"message":{"content":{}},"choices":[[]]}',
    b'{"message":{"content":""},"choices":[{"delta":7,"logprobs":7,"finish_reason":7}]}',
    b'{"logprobs":[[]],"choices":[{"delta":{"content":[7]},"logprobs":{"content":[null]}}]}',
    b'{"done":7,"choices":{"0":{}}}', b'{"done":"true","choices":[null]}',
    b'{"error":7}', b'{"error":{"message":{"message":[]}}}', b'{"error":[[[]]]}',
    rb'{"error":"\u0000\u001b[2J"}', rb'{"message":{"content":"\ud83d"}}',
    rb'{"choices":[{"delta":{"content":"\ud83d"}}]}', b'{"\xff":1}',
]  # fmt: skip
"""None of these is an answer, framed or not."""


@where_there_is_a_server
async def test_what_is_no_answer_is_broken_and_nothing_else(served: Served) -> None:
    wire = served.wire
    bodies = [wire.line(said) for said in SAID] + [wire.line(said) * 3 for said in SAID] + SAID
    for body in bodies:
        served.front.say(body, wire.kind)
        with pytest.raises(EngineBroken) as caught:
            await within(served.engine.infer(served.question(0)))
        readable(caught.value)
    served.front.be_itself()
    await answered(served, served.question(0))


@where_there_is_a_server
async def test_another_kind_of_content_is_broken(served: Served) -> None:
    for kind in ("text/html", "application/octet-stream", "image/jpeg", "text/plain; x=\xff", ""):
        for body in (b"", b"<html>", b"\xff\xd8\xff", b"null"):
            served.front.say(body, kind)
            with pytest.raises(EngineBroken) as caught:
                await within(served.engine.infer(served.question(0)))
            readable(caught.value)


@where_there_is_a_server
async def test_what_is_no_http_is_an_engine_error(served: Served) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + served.wire.kind.encode()
    for wire in (
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x00" * 4096,
        b"HTTP/9.9 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MIB + b"\r\n\r\n",
        head + b"\r\nContent-Length: -7\r\n\r\n",
        head + b"\r\nContent-Length: 1000\r\n\r\nshort",
        head + b"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        head + b"\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        head + b"\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
    ):
        served.front.answer_raw(wire)
        with pytest.raises((EngineBroken, EngineUnavailable)) as caught:
            await within(served.engine.infer(served.question(0)))
        readable(caught.value)
        served.front.be_itself()
        await used_again(served)


def readable(error: EngineError) -> None:
    """Its message is one that a log, a record and a terminal can show."""
    text = str(error)
    assert 0 < len(text) < 2000
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", text), text
    orjson.dumps(text)


@where_there_is_a_server
@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_an_end_is_broken_and_not_read_for_ever(
    served: Served, status: int
) -> None:
    wire = served.wire
    for part in (
        lambda n: b"x" * 65_536,
        lambda n: wire.before + b" " * 65_536,
        lambda n: wire.piece(b"word%d " % n) * 1000,
        lambda n: wire.piece(b"y" * 65_536),
        lambda n: wire.line(b'{"choices":[],"message":{"content":""}}') * 1000,
    ):
        served.front.sent_bytes = 0
        served.front.pour(part, wire.kind, status)
        with pytest.raises(EngineBroken):
            await within(served.engine.infer(served.question(0, deadline_s=50)))
        await within(served.front.left.wait())
        served.front.left.clear()
        # what lies in the buffers of two sockets is more than what was read
        assert served.front.sent_bytes < 48 * MIB
    served.front.be_itself()


@cache
def bomb_of_zeros() -> bytes:
    """A quarter of a megabyte."""
    return gzip.compress(b"\x00" * (256 * MIB), 6)


@where_there_is_a_server
async def test_a_bomb_of_zeros_is_not_unpacked(served: Served) -> None:
    bomb = bomb_of_zeros()
    before = psutil.Process().memory_info().rss
    served.front.say(bomb, served.wire.kind, Content_Encoding="gzip")
    with pytest.raises((EngineBroken, EngineUnavailable)):
        await within(served.engine.infer(served.question(0)))
    assert psutil.Process().memory_info().rss - before < 128 * MIB


ENDS = [
    *[
        (b'"stop"', number)
        for number in (b"1e308", b"-1", b"9" * 26, b'"many"', b"null", b"true", b"{}", b"[]")
    ],
    (b'"%b"' % (b"long" * 100_000), b"1"),
    (rb'"\u0000\u001b[2J\u202e"', b"1"),
]
"""How an answer says that it ends, and each of its counts and timings."""


@where_there_is_a_server
async def test_an_answer_with_impossible_numbers_is_an_answer_that_can_be_recorded(
    served: Served,
) -> None:
    wire = served.wire
    text = rb"{\"has_smoke\": false, \"bbox_2d\": null}"
    for finish, number in ENDS:
        served.front.say(wire.piece(text) + wire.end(finish, number), wire.kind)
        request = served.question(0)
        reply = await within(served.engine.infer(request))
        sound(request, reply)
        orjson.dumps(record_of(request, reply, None))
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", reply.finish)


# --- Unicode -------------------------------------------------------------------------------------

HALF_PAIRS = "\ud83d smoke \udd25"
"""The one text that JSON cannot carry: it may be refused."""
TEXTS = [
    "🔥🌲👩🏽‍🚒",
    "האם יש עשן؟ هل يوجد دخان",
    "e\u0301" * 50,
    "\u202e{has_smoke}\u2066",
    "a\x00b\x00",
    "\x1b[2J\x07\r\n\x85\u2028",
    HALF_PAIRS,
    "\U0010ffff\ufeff\ufffe",
]
"""Emoji, right to left, combining, reversed, NUL, terminal codes, half pairs, the far end."""


@everywhere
async def test_any_text_may_be_asked_and_any_camera_named(place: Place) -> None:
    asked = [(text, where) for text in TEXTS for where in ("system", "user", "camera")]
    requests = [place.question(1, **{where: text}) for text, where in asked]
    looks = [within(place.engine.infer(request)) for request in requests]
    ends = await asyncio.gather(*looks, return_exceptions=True)
    for (text, _), request, end in zip(asked, requests, ends, strict=True):
        if text == HALF_PAIRS and isinstance(end, EngineRejected):
            readable(end)
            continue
        assert isinstance(end, Reply), end
        sound(request, end)
        orjson.dumps(record_of(place.question(1), end, None))
    await answered(place, place.question(1))


@where_there_is_a_server
async def test_any_text_may_be_answered(served: Served) -> None:
    wire = served.wire
    for text in TEXTS:
        escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text).encode()
        plain = re.sub(r'[\x00-\x1f"\\]', "", text).encode("utf-8", "surrogatepass")
        # alone, and beside an answer
        whole = rb"{\"has_smoke\": false, \"bbox_2d\": null, \"x\": \"" + plain + rb"\"}"
        for words in (escaped, plain, whole):
            served.front.say(wire.piece(words) + wire.end(), wire.kind)
            request = served.question(1)
            try:
                reply = await within(served.engine.infer(request))
            except EngineError as why:
                readable(why)
            else:
                sound(request, reply)
                verdict = verdict_of(request, reply, served.engine)
                orjson.dumps(record_of(request, reply, verdict))


# --- leaving -------------------------------------------------------------------------------------


@everywhere
async def test_leaving_twice_is_harmless_and_entering_again_answers_again(place: Place) -> None:
    await answered(place, place.question(0))
    for _ in range(2):
        await place.engine.__aexit__(None, None, None)
    assert await place.engine.__aenter__() is place.engine
    await answered(place, place.question(0))


@where_there_is_a_server
async def test_leaving_closes_every_connection(served: Served) -> None:
    def open_connections() -> int:
        there = psutil.Process().net_connections("tcp4")
        port = served.front.port
        return sum(1 for c in there if c.raddr and c.raddr.port == port)

    await asyncio.gather(*[answered(served, served.question(n)) for n in range(MANY)])
    hanging = asyncio.create_task(served.engine.infer(served.hanging()))
    await served.reached()
    assert open_connections() > 0
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    tasks = asyncio.all_tasks()
    await served.engine.__aexit__(None, None, None)
    await until(lambda: open_connections() == 0)
    assert not [t for t in asyncio.all_tasks() - tasks if not t.done()]


async def test_leaving_ends_a_worker_that_was_started_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # not the real one: it takes ten seconds to load, and who is left is no matter of models
    monkeypatch.setattr(hf, "worker_command", lambda model, options: fake_worker.command("parent"))
    monkeypatch.setenv("PYTHONPATH", fake_worker.environ()["PYTHONPATH"])
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    engine = engines.create(models.Engine(name="hf"), Clock())
    async with engine:
        started = psutil.Process().children(recursive=True)
        assert {child.pid for child in started} - before
    await until(lambda: {c.pid for c in psutil.Process().children(recursive=True)} <= before)
    (here, *_) = [child for child in started if child.pid not in before]
    assert not here.is_running()


# --- doctor --------------------------------------------------------------------------------------


async def checked(engine: Engine) -> bool:
    """Is all well? After checking that each line says what it is, and what mends it."""
    found = await within(engine.check())
    assert found
    for check in found:
        assert check.what
        assert check.ok or check.remedy, check
        orjson.dumps([check.what, check.found, check.remedy])
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", check.found + check.remedy), check
    return all(check.ok for check in found)


@where_there_is_a_server
async def test_check_says_what_is_wrong_with_a_server_and_never_raises(served: Served) -> None:
    front, wire = served.front, served.wire
    await checked(served.engine)
    front.everywhere = True
    for body in (b"", b"{}", b"[]", b"null", b"7", b"<html>", b"\xff\xfe", b"[" * 100_000):
        for kind in ("application/json", wire.kind, "text/html"):
            front.say(body, kind)
            assert not await checked(served.engine)
    for status in (301, 400, 401, 403, 404, 413, 429, 500, 502, 503, 504):
        front.say(b'{"error": "no\\u001b[2J"}', "application/json", status=status)
        assert not await checked(served.engine)
    for raw in (b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"):
        front.answer_raw(raw)
        assert not await checked(served.engine)
    await front.go()
    assert not await checked(served.engine)
    front.be_itself()
    await front.come()
    await checked(served.engine)


@where_there_is_none
async def test_check_without_a_server_says_what_is_there_and_never_raises(place: Place) -> None:
    assert await checked(place.engine)
    if isinstance(place, RecordedPlace):
        log = place.folder / RECORDS_LOG
        for content in (b"", b"\x00\xff", b"[" * 100_000 + b"\n", b'{"k":"frame","v":{}}\n'):
            log.write_bytes(content)
            assert not await checked(place.engine)
        log.unlink()
        assert not await checked(place.engine)


# --- creating ------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[str, str]] = {
    "baseline": ("thread", "threads"),
    "hf": ("max_bach", "max_batch"),
    "ollama": ("top_kk", "top_k"),
    "openai": ("max_token", "max_tokens"),
    "recorded": ("paec", "pace"),
    "simulated": ("slot", "slots"),
}
"""A mistyped option, and the one that was meant."""
WRONG = [None, True, "two", "", [], [[]], {}, {"a": 1}, -1, math.nan, math.inf, 10**400, b"x"]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Engine]:
    from tests.conformance import write_recording

    folder = write_recording(tmp_path / "recording", [])

    def create(name: str, **options: Any) -> Engine:
        more = {"recording": str(folder)} if name == "recorded" else {}
        return engines.create(models.Engine(name=name, options=options, **more), Clock())

    return create


@pytest.mark.parametrize("name", engines.names())
async def test_an_unknown_option_is_refused_with_the_nearest_known_one(
    name: str, make: Callable[..., Engine]
) -> None:
    wrong, meant = OPTIONS[name]
    with pytest.raises(UsageError, match=f"'{wrong}' is unknown; did you mean '{meant}'") as caught:
        make(name, **{wrong: 2})
    assert f"engine {name!r}" in str(caught.value)
    for strange in ("", "\x00", "🔥", "\ud83d", "__class__", "x" * 10_000):
        with pytest.raises(UsageError):
            make(name, **{strange: 2})


@pytest.mark.parametrize("name", engines.names())
async def test_a_value_of_the_wrong_type_is_refused_and_named(
    name: str, make: Callable[..., Engine]
) -> None:
    option = OPTIONS[name][1]
    for value in WRONG:
        with pytest.raises(UsageError) as caught:
            make(name, **{option: value})
        assert option in str(caught.value)
        assert f"engine {name!r}" in str(caught.value)


async def test_an_engine_is_told_apart_before_anything_is_opened(
    make: Callable[..., Engine],
) -> None:
    """Making one opens nothing, and its traits can be read."""
    before = psutil.Process().net_connections("tcp")
    for name in engines.names():
        traits = make(name).traits
        assert traits.name == name
        assert 1 <= traits.default_concurrency <= traits.max_concurrency
    assert len(psutil.Process().net_connections("tcp")) == len(before)
