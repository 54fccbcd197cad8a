"""Connections are made without holding up a thread, and nothing is left of those that fail."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from earlyfire_stream.transport.address import BrokerAddress
from earlyfire_stream.transport.dial import dial
from earlyfire_stream.transport.mqtt import _Client

PATIENCE_S = 20


@pytest.fixture
def nowhere() -> Iterator[int]:
    """A port whose kernel answers nobody: its queue is full, so that a dialler waits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        place = listener.getsockname()
        waiting = []
        while True:
            end = socket.socket()
            end.setblocking(False)
            waiting.append(end)
            end.connect_ex(place)
            if len(waiting) > 3:  # one more than a backlog of nothing lets in
                break
        yield place[1]
        for end in waiting:
            end.close()


@pytest.fixture
async def one_thread() -> AsyncIterator[None]:
    """The loop's pool has a single thread; who holds it holds everything."""
    pool = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(pool)
    yield
    pool.shutdown()


async def passes_of_the_loop() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_diallers_that_wait_hold_up_no_thread(nowhere: int, one_thread: None) -> None:
    gc.collect()
    files = psutil.Process().num_fds()
    address = BrokerAddress("127.0.0.1", nowhere)
    clients = [_Client(address, None, 60.0, identifier=f"c{n}") for n in range(30)]
    opening = [asyncio.create_task(client.open()) for client in clients]
    await passes_of_the_loop()
    assert await asyncio.wait_for(asyncio.to_thread(int), PATIENCE_S) == 0
    assert not any(task.done() for task in opening)
    for task in opening:
        task.cancel()
    await asyncio.wait(opening)
    assert psutil.Process().num_fds() == files


async def test_a_name_service_that_hangs_holds_up_nobody_else(
    monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    answer, asked = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def hanging(host: str, *rest: object, **options: object) -> object:
        if host == "camp.invalid" and not options.get("flags"):
            asked.set()
            assert answer.wait(PATIENCE_S)
            raise socket.gaierror(socket.EAI_NONAME, "nobody knows it")
        return real(host, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    dialling = [asyncio.create_task(dial("camp.invalid", 1883)) for _ in range(5)]
    await passes_of_the_loop()
    assert await asyncio.wait_for(asyncio.to_thread(asked.wait, PATIENCE_S), PATIENCE_S)
    assert not any(task.done() for task in dialling)
    with socket.create_server(("127.0.0.1", 0)) as server:
        end = await asyncio.wait_for(dial("127.0.0.1", server.getsockname()[1]), PATIENCE_S)
        end.close()
    answer.set()
    with pytest.raises(OSError, match="nobody knows it"):
        await dialling[0]
    for task in dialling[1:]:
        task.cancel()
    await asyncio.wait(dialling)


async def test_the_next_address_is_tried_when_one_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as nobody, socket.create_server(("127.0.0.1", 0)) as server:
        nobody.bind(("127.0.0.1", 0))
        ports = [nobody.getsockname()[1], server.getsockname()[1]]
        places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", p)) for p in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
        with await dial("two.example", 1) as end:
            assert end.getpeername() == server.getsockname()
            assert end.gettimeout() == 0
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places[:1])
        with pytest.raises(ConnectionRefusedError):
            await dial("one.example", 1)
