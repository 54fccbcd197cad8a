"""The count of an independent subscriber, held against the cameras' own log and the ledger.

Cameras publish through a proxy in which something goes wrong now and then. The subscriber is a bare
client on the broker itself; it shares no code with the consumer but the reading of the comment.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from earlyfire_stream.frames import parse
from earlyfire_stream.run import Options, play_cameras, play_consumer
from earlyfire_stream.transport.broker import EmbeddedBroker, embedded_broker
from earlyfire_stream.transport.proxy import Proxy
from tests.playing import camera, loaded, pictures, proof, run_folder, run_folders, until, within
from tests.test_run import Shots


class Independent:
    """Counts every frame that arrives at the broker, by (camera, seq)."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.counted: Counter[tuple[str, int]] = Counter()
        self.ended = asyncio.Event()
        self.ready = asyncio.Event()
        self._broker = broker

    async def count(self) -> None:
        login = self._broker.address.login
        assert login is not None
        async with aiomqtt.Client(
            "127.0.0.1", self._broker.address.port, username=login.user, password=login.password
        ) as client:
            await client.subscribe("earlyfire/tiny/#")
            self.ready.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                topic = message.topic.value
                if topic.endswith("/frame"):
                    capture = parse(message.payload).capture
                    assert capture is not None
                    self.counted[capture.camera, capture.seq] += 1
                elif topic.endswith("/control") and b'"last_seqs":{' in message.payload:
                    self.ended.set()


@asynccontextmanager
async def going_wrong(proxy: Proxy, fault: str) -> AsyncIterator[None]:
    if fault == "cut":
        await proxy.cut()
        yield
    elif fault == "gone":
        await proxy.gone()
        yield
        proxy.back()
    elif fault == "refuses":
        await proxy.refuse()
        yield
        proxy.accept()
    else:
        proxy.freeze()
        yield
        proxy.thaw()


@pytest.mark.parametrize(
    ("connections", "fault"),
    [("per_camera", "cut"), ("shared", "cut"), ("shared", "gone"), ("per_camera", "refuses"),
     ("per_camera", "frozen")],
)  # fmt: skip
async def test_what_an_independent_subscriber_counts_is_what_the_ledger_says(
    tmp_path: Path, mosquitto: str, connections: str, fault: str
) -> None:
    pictures(tmp_path / "pictures", 100, (640, 480))
    scenario = loaded(
        tmp_path,
        *(camera(f"c{n}", interval="50ms") for n in range(4)),
        connections=connections,
    )
    draw, stop = random.Random(7), asyncio.Event()
    watched, played = Shots(), Shots()
    async with (
        embedded_broker("mosquitto") as broker,
        Proxy(broker.address) as proxy,
        asyncio.TaskGroup() as group,
    ):
        independent = Independent(broker)
        counting = group.create_task(independent.count())
        await within(independent.ready.wait())
        consume = Options(broker=broker.address, out=tmp_path / "c")
        consuming = group.create_task(play_consumer(scenario, consume, [watched], stop))
        playing = group.create_task(
            play_cameras(
                scenario, Options(broker=proxy.address, out=tmp_path / "k"), [played], stop
            )
        )
        for _ in range(3):  # a fault, then again after some more frames have been sent
            sent = sum(not shot.unsent for shot in played.shots)
            more = draw.randint(50, 80)
            await until(
                lambda sent=sent, more=more: (
                    sum(not s.unsent for s in played.shots) >= sent + more or playing.done()
                )
            )
            async with going_wrong(proxy, fault):
                played_by_now = len(played.shots)
                await until(
                    lambda then=played_by_now: len(played.shots) >= then + 12 or playing.done()
                )
        await within(playing)
        await within(consuming)
        await within(independent.ended.wait())
        # control goes over a connection of its own and may overtake the last frames
        answered = {(r.camera, r.seq) for r in watched.records if r.fate == "answered"}
        await until(lambda: answered <= independent.counted.keys())
        counting.cancel()

    log, ledger = proof(run_folder(tmp_path / "c"), run_folder(tmp_path / "k"))
    assert ledger.scheduled == 400
    assert len(run_folders(tmp_path / "c")) == 1
    sent = {(s.camera, s.seq) for s in log.shots if not s.unsent}
    unsent = {(s.camera, s.seq) for s in log.shots if s.unsent}
    lost = {(r.camera, r.seq) for r in log.frames if r.fate == "lost"}
    arrived = set(independent.counted)
    assert arrived <= sent, "nothing arrives that the log does not call sent"
    assert arrived == sent - lost, "what was sent arrived, or is lost in the ledger"
    assert set(independent.counted.values()) == {1}
    assert lost - sent == unsent, "the consumer saw the gap of every frame that was not sent"
    # What waited out a pulled cable in the kernel arrives late; every other fault costs something.
    assert bool(unsent) == (fault != "frozen")
    assert ledger.fates["answered"] == len(arrived)
