"""What strangers can make the worker hold in memory, and what the worker takes from them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from earlyfire_stream.worker.ask import Piece, Timings
from earlyfire_stream.worker.loading import ModelSettings
from earlyfire_stream.worker.service import Service, WorkerSettings
from tests.fuzz.http import Brain, Prepared
from tests.fuzz.targets import body
from tests.playing import PATIENCE_S, until

JSON = {"Content-Type": "application/json"}


@dataclass
class Held(Brain):
    """Answers when it may."""

    may: threading.Event = field(default_factory=threading.Event)

    def answer(
        self,
        batch: Sequence[Prepared],
        emit: Callable[[int, Piece], None],
        alive: Callable[[int], bool],
    ) -> Timings:
        assert self.may.wait(PATIENCE_S)
        return super().answer(batch, emit, alive)


@asynccontextmanager
async def serving(
    brain: Brain, **more: int
) -> AsyncIterator[tuple[Service, aiohttp.ClientSession]]:
    stop = asyncio.Event()
    settings = WorkerSettings(ModelSettings("small"), port=0, wait_ms=0.0, **more)  # type: ignore[arg-type]
    async with Service(settings, lambda: brain) as service:  # type: ignore[arg-type, return-value]
        working = asyncio.create_task(service.work(stop))
        try:
            async with aiohttp.ClientSession(service.url) as http:
                await asyncio.wait_for(service.ready.wait(), PATIENCE_S)
                yield service, http
        finally:
            stop.set()
            await working


async def post(http: aiohttp.ClientSession, data: object) -> int:
    async with http.post("/v1/chat/completions", data=data, headers=JSON) as response:
        await response.read()
        return response.status


def of_size(size: int) -> bytes:
    return body("x" * (size - len(body(""))))


async def test_all_bodies_together_stay_within_a_limit_however_many_may_wait() -> None:
    """256 requests of 32 MiB were 8 GiB."""
    brain = Held()
    async with serving(brain, held_limit=100_000, body_limit=60_000) as (service, http):
        asking = [asyncio.create_task(post(http, of_size(40_000))) for _ in range(2)]
        await until(lambda: service.held_bytes == 80_000)
        assert await post(http, of_size(20_001)) == 503
        assert await post(http, of_size(60_001)) == 413  # however little is held
        third = asyncio.create_task(post(http, of_size(20_000)))
        await until(lambda: service.held_bytes == 100_000)
        brain.may.set()
        assert await asyncio.gather(*asking, third) == [200, 200, 200]
        assert service.held_bytes == 0
        assert await post(http, of_size(40_000)) == 200


async def test_a_body_that_does_not_say_its_length_counts_as_the_longest() -> None:
    begun, rest = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        whole = of_size(1_000)
        yield whole[:10]
        begun.set()
        await rest.wait()
        yield whole[10:]

    brain = Held()
    async with serving(brain, held_limit=70_000, body_limit=60_000) as (service, http):
        chunked = asyncio.create_task(post(http, slowly()))
        await until(lambda: service.held_bytes == 60_000)
        assert await post(http, of_size(10_001)) == 503
        rest.set()
        await until(lambda: service.held_bytes == 1_000)  # now it is known
        brain.may.set()
        assert await chunked == 200
        assert service.held_bytes == 0


async def test_a_body_without_a_length_that_grows_beyond_the_limit_is_refused() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 10_000

    brain = Held()
    brain.may.set()
    async with serving(brain, body_limit=60_000) as (service, http):
        with contextlib.suppress(aiohttp.ClientError):  # it had more to say when it was hung up on
            assert await post(http, endless()) == 413
        await until(lambda: service.held_bytes == 0)
        assert await post(http, of_size(1_000)) == 200


async def test_who_goes_away_or_sends_nonsense_holds_nothing() -> None:
    brain = Held()
    async with serving(brain, held_limit=60_000, body_limit=60_000) as (service, http):
        gone = asyncio.create_task(post(http, of_size(50_000)))
        await until(lambda: service.held_bytes == 50_000)
        gone.cancel()
        await until(lambda: service.held_bytes == 0)
        assert await post(http, b"{" * 50_000) == 400
        assert service.held_bytes == 0
        brain.may.set()


async def test_one_request_of_the_longest_length_is_taken_whatever_the_limit_of_all() -> None:
    brain = Held()
    brain.may.set()
    async with serving(brain, held_limit=10, body_limit=60_000) as (_, http):
        assert await post(http, of_size(60_000)) == 200
