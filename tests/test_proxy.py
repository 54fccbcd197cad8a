"""The proxy before the broker: each fault met by raw sockets, real clients and a real Mosquitto."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import paho.mqtt.client as paho
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlyfire_stream.clock import Clock
from earlyfire_stream.errors import UsageError
from earlyfire_stream.transport import proxy as proxy_module
from earlyfire_stream.transport.address import BrokerAddress, Level
from earlyfire_stream.transport.broker import EmbeddedBroker, embedded_broker
from earlyfire_stream.transport.mqtt import Connections, MqttInlet, MqttLink, MqttTiming
from earlyfire_stream.transport.proxy import Hello, Proxy, Unheard, read_hello
from earlyfire_stream.verdict import Reason

PATIENCE_S = 60
QUICK = MqttTiming(
    connect_s=PATIENCE_S,
    publish_s=2,
    keepalive_s=1,
    backoff_s=0.02,
    backoff_limit_s=0.1,
    connects_per_s=1000,
)

CONNECT_4 = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x0a\x00\x05north"
"""MQTT 3.1.1, clean session, keep alive 10 s, client `north`."""
CONNECT_5 = b"\x10\x17\x00\x04MQTT\x05\x02\x00\x0a\x05\x11\x00\x00\x00\x3c\x00\x05south"
"""MQTT 5 with one property: session expiry after 60 s."""


# --- who is it? ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "hello"),
    [
        (CONNECT_4, Hello("north", 4)),
        (CONNECT_5.replace(b"\x10\x17", b"\x10\x18"), Hello("south", 5)),
        (b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x0a\x00\x02ab", Hello("ab", 3)),
        (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00", Hello("", 4)),
        (CONNECT_4 + b"\xc0\x00", Hello("north", 4)),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x0a\x00\x01\xff", Hello("�", 4)),
    ],
    ids=["3.1.1", "5", "3.1", "no name", "more behind it", "no text"],
)
def test_a_connect_packet_says_who_comes(said: bytes, hello: Hello) -> None:
    assert read_hello(said) == hello


def test_until_the_name_is_complete_more_is_asked_for() -> None:
    assert {read_hello(CONNECT_4[:n]) for n in range(len(CONNECT_4))} == {Unheard.MORE}


def test_a_name_behind_a_large_will_is_not_waited_for() -> None:
    """The name stands before the will, so the rest of the packet need not have come."""
    assert read_hello(b"\x10\x90\x4e" + CONNECT_4[2:]) == Hello("north", 4)


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00", b"\x30\x05", b"\x10\xff\xff\xff\xff\xff",
     b"\x10\x11\x00\x04HTTP", b"\x10\x11\x00\x05", b"\x10\x11\x00\x04MQTT\x06",
     b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x05", b"\x10\x02\x00\x04",
     b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05\x02\x00\x0a\xff\xff\x7f"],
    ids=["HTTP", "TLS", "PUBLISH", "endless length", "another protocol", "odd name length",
         "another level", "name behind the end", "end within the head", "2 MB of properties"],
)  # fmt: skip
def test_what_is_no_connect_packet_is_known_at_once(said: bytes) -> None:
    assert read_hello(said) is Unheard.OTHER


@given(st.binary(max_size=64), st.integers(0, len(CONNECT_5)))
def test_no_bytes_are_too_odd_to_be_read(junk: bytes, keep: int) -> None:
    for said in (junk, CONNECT_5[:keep] + junk, CONNECT_4[:keep] + junk):
        assert isinstance(read_hello(said), Hello | Unheard)


# --- raw sockets ---------------------------------------------------------------------------------


class Target:
    """A server that hands over each connection as (reader, writer)."""

    def __init__(self) -> None:
        self.address: BrokerAddress
        self.accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self.accepted = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.accepted.put_nowait((reader, writer))

    async def next(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await within(self.accepted.get())


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    target = Target()
    server = await asyncio.start_server(target.take, "127.0.0.1", 0)
    target.address = BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1])
    yield target
    server.close()
    for writer in target.writers:
        writer.transport.abort()
    await server.wait_closed()


async def within(what: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(what, PATIENCE_S)


async def eventually(condition: Callable[[], bool]) -> None:
    """For what no event tells: bounded, and looked at often."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


@asynccontextmanager
async def dialled(
    proxy: Proxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await within(asyncio.open_connection("127.0.0.1", proxy.address.port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def is_reset(reader: asyncio.StreamReader) -> bool:
    try:
        await within(reader.read())
    except ConnectionResetError:
        return True
    return False


async def other_things_happen(target: Target) -> None:
    """A round trip through a proxy without faults: whatever is to happen has had its turn."""
    async with Proxy(target.address) as free, dialled(free) as (reader, writer):
        writer.write(b"GET ")
        far_reader, far_writer = await target.next()
        for _ in range(3):
            assert await within(far_reader.readexactly(4)) == b"GET "
            far_writer.write(b"done")
            assert await within(reader.readexactly(4)) == b"done"
            writer.write(b"GET ")


async def test_bytes_pass_unchanged_both_ways_and_are_counted(target: Target) -> None:
    up, down = bytes(range(256)) * 8000, bytes(range(255, -1, -1)) * 3000
    async with Proxy(target.address) as proxy, dialled(proxy) as (reader, writer):
        writer.write(up)
        far_reader, far_writer = await target.next()
        far_writer.write(down)
        assert await within(reader.readexactly(len(down))) == down
        assert await within(far_reader.readexactly(len(up))) == up
        assert (proxy.counts.bytes_up, proxy.counts.bytes_down) == (2_048_000, 768_000)
        assert (proxy.counts.accepted, proxy.open, proxy.clients) == (1, 1, frozenset())


async def test_the_last_words_before_a_hang_up_still_arrive(target: Target) -> None:
    async with Proxy(target.address) as proxy:
        async with dialled(proxy) as (reader, writer):
            writer.write(CONNECT_4)
            far_reader, far_writer = await target.next()
            writer.write(b"\xe0\x00")
            writer.write_eof()
            assert await within(far_reader.read()) == CONNECT_4 + b"\xe0\x00"
            far_writer.write(b"bye")
            far_writer.write_eof()
            assert await within(reader.read()) == b"bye"
        await eventually(lambda: proxy.open == 0)


async def test_a_broker_that_is_away_is_a_reset(target: Target) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = BrokerAddress("127.0.0.1", nobody.getsockname()[1])
        async with Proxy(away) as proxy, dialled(proxy) as (reader, writer):
            writer.write(CONNECT_4)
            assert await is_reset(reader)


async def test_who_never_says_a_word_is_hung_up_on(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "_HELLO_S", 0.05)
    async with Proxy(target.address) as proxy:
        async with dialled(proxy) as (reader, _):
            assert await is_reset(reader)
        async with dialled(proxy) as (reader, writer):
            writer.write(CONNECT_4[:7])
            assert await is_reset(reader)
        assert target.accepted.empty()


async def test_gone_is_refused_by_tcp_and_nobody_else_gets_the_port(target: Target) -> None:
    async with Proxy(target.address) as proxy, dialled(proxy) as (reader, writer):
        address = proxy.address
        writer.write(b"hello")
        far_reader, _ = await target.next()
        await proxy.gone()
        await proxy.gone()
        assert await is_reset(reader)
        await is_reset(far_reader)
        assert (proxy.counts.cut, proxy.open) == (1, 0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", address.port)
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", address.port))
        proxy.back()
        proxy.back()
        assert proxy.address == address
        async with dialled(proxy) as (_, writer):
            writer.write(b"again")
            far_reader, _ = await target.next()
            assert await within(far_reader.readexactly(5)) == b"again"


@pytest.mark.parametrize(
    ("connect", "answer"),
    [(CONNECT_4, b"\x20\x02\x00\x03"), (CONNECT_5, b"\x20\x03\x00\x88\x00"), (b"GET /", b"")],
    ids=["MQTT 3.1.1", "MQTT 5", "HTTP"],
)
async def test_refusing_answers_each_connect_in_its_own_version(
    target: Target, connect: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "_GRACE_S", PATIENCE_S)
    async with Proxy(target.address) as proxy, dialled(proxy) as (before, writer):
        writer.write(CONNECT_4)
        await target.next()
        await proxy.refuse()
        assert await is_reset(before)
        async with dialled(proxy) as (reader, writer):
            writer.write(connect + b" and much more" * 1000 * bool(answer))
            if answer:
                assert await within(reader.read()) == answer
            else:
                assert await is_reset(reader)
        assert proxy.counts.refused == bool(answer)
        assert target.accepted.empty()
        proxy.accept()
        async with dialled(proxy) as (_, writer):
            writer.write(connect)
            far_reader, _ = await target.next()
            assert await within(far_reader.readexactly(len(connect))) == connect


async def test_slow_holds_for_open_connections_and_fast_ends_it_at_once(target: Target) -> None:
    async with Proxy(target.address) as proxy, dialled(proxy) as (reader, writer):
        writer.write(b"GET /")
        far_reader, far_writer = await target.next()
        await within(far_reader.readexactly(5))
        proxy.slow(0.01)
        writer.write(b"x" * 1000)  # at this rate it would take a day, and each byte 100 s
        far_writer.write(b"y" * 1000)
        await within(far_reader.readexactly(1))
        await within(reader.readexactly(1))
        assert proxy.counts.bytes_up < 1000
        assert proxy.counts.bytes_down < 1000
        proxy.fast()
        assert await within(far_reader.readexactly(999)) == b"x" * 999
        assert await within(reader.readexactly(999)) == b"y" * 999


async def test_a_slow_way_takes_at_least_as_long_as_its_rate_says(target: Target) -> None:
    loop = asyncio.get_running_loop()
    async with Proxy(target.address) as proxy, dialled(proxy) as (_, writer):
        writer.write(b"GET /")
        far_reader, _ = await target.next()
        await within(far_reader.readexactly(5))
        proxy.slow(100_000)
        began = loop.time()
        writer.write(b"x" * 40_000)
        await within(far_reader.readexactly(40_000))
        # The last bite arrives before it is paid for: 30 kB are, at 100 kB/s.
        assert loop.time() - began >= 0.3


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
async def test_a_rate_that_is_none_is_refused(target: Target, rate: float) -> None:
    with pytest.raises(UsageError, match="rate"):
        Proxy(target.address).slow(rate)


async def test_a_slow_reader_slows_the_writer(target: Target) -> None:
    """Nobody reads at the far end: what the writer gets rid of is bounded."""
    async with Proxy(target.address) as proxy:
        near = socket.create_connection(("127.0.0.1", proxy.address.port))
        near.setblocking(False)
        with near:
            near.send(b"GET /")
            reader, _ = await target.next()
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            stuck = 0
            while stuck < 100:  # passes of the loop in a row without a byte
                try:
                    near.send(b"x" * 65_536)
                    stuck = 0
                except BlockingIOError:
                    stuck += 1
                await asyncio.sleep(0)
            # The kernels of the two ends keep what they like; the proxy's own share is small.
            assert proxy.counts.bytes_up < 16_000_000


async def test_in_a_freeze_nothing_passes_and_nobody_is_told(target: Target) -> None:
    async with Proxy(target.address) as proxy, dialled(proxy) as (reader, writer):
        writer.write(b"GET /")
        far_reader, far_writer = await target.next()
        await within(far_reader.readexactly(5))
        proxy.freeze()
        proxy.freeze()
        writer.write(b"held")
        far_writer.write(b"back")
        far_writer.write_eof()
        hearing = asyncio.create_task(reader.read())
        await other_things_happen(target)
        assert not hearing.done()
        assert (proxy.counts.bytes_up, proxy.counts.bytes_down) == (5, 0)
        proxy.thaw()
        assert await within(hearing) == b"back"
        assert await within(far_reader.readexactly(4)) == b"held"


async def test_a_reset_during_a_freeze_is_told_when_it_is_over(target: Target) -> None:
    async with Proxy(target.address) as proxy, dialled(proxy) as (reader, writer):
        writer.write(b"GET /")
        _, far_writer = await target.next()
        proxy.freeze()
        far_writer.transport.abort()
        hearing = asyncio.create_task(is_reset(reader))
        await other_things_happen(target)
        assert not hearing.done()
        proxy.thaw()
        await within(hearing)


async def test_what_dialled_in_a_freeze_is_served_after_it_unless_it_has_hung_up(
    target: Target,
) -> None:
    async with Proxy(target.address) as proxy:
        proxy.freeze()
        async with dialled(proxy) as (_, early):
            early.write(CONNECT_4)
            early.write_eof()
            dialling = asyncio.create_task(asyncio.open_connection("127.0.0.1", proxy.address.port))
            await other_things_happen(target)
            assert not dialling.done()
            assert proxy.counts.accepted == 0
            proxy.thaw()
            _, late = await within(dialling)
            late.write(CONNECT_5)
            far_reader, _ = await target.next()
            assert await within(far_reader.readexactly(len(CONNECT_5))) == CONNECT_5
            late.transport.abort()
        assert (proxy.counts.accepted, proxy.counts.given_up) == (2, 1)
        assert target.accepted.empty()


async def test_a_cut_meets_only_the_clients_that_are_named(target: Target) -> None:
    async with Proxy(target.address) as proxy:
        async with dialled(proxy) as (north, first), dialled(proxy) as (south, second):
            first.write(CONNECT_4)
            await target.next()
            second.write(CONNECT_5)
            _, far = await target.next()
            assert proxy.clients == {"north", "south"}
            assert await proxy.cut(["north", "nobody"]) == 1
            assert await is_reset(north)
            assert proxy.clients == {"south"}
            far.write(b"still here")
            assert await within(south.readexactly(10)) == b"still here"
            proxy.freeze()
            assert await proxy.cut() == 1  # told at once, through a freeze too
            assert await is_reset(south)
        assert (proxy.counts.cut, proxy.open) == (2, 0)


async def test_faults_may_hold_together(target: Target) -> None:
    async with Proxy(target.address) as proxy:
        proxy.freeze()
        await proxy.refuse()
        proxy.slow(10_000_000)
        await proxy.gone()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.address.port)
        proxy.back()
        async with dialled(proxy) as (reader, writer):
            writer.write(CONNECT_4)
            await other_things_happen(target)
            assert proxy.counts.accepted == 0  # still frozen
            proxy.thaw()
            assert await within(reader.read()) == b"\x20\x02\x00\x03"  # still refusing
        proxy.accept()
        async with dialled(proxy) as (_, writer):
            writer.write(CONNECT_4)
            far_reader, _ = await target.next()
            assert await within(far_reader.readexactly(len(CONNECT_4))) == CONNECT_4
            proxy.fast()


@pytest.mark.parametrize("fault", ["none", "frozen", "gone", "slow", "refusing"])
async def test_it_leaves_no_task_and_no_socket(target: Target, fault: str) -> None:
    gc.collect()
    tasks, files = asyncio.all_tasks(), psutil.Process().num_fds()
    async with Proxy(target.address) as proxy:
        ends = [await asyncio.open_connection("127.0.0.1", proxy.address.port) for _ in range(4)]
        for number, (_, writer) in enumerate(ends):
            writer.write((CONNECT_4, b"GET /", CONNECT_4[:5], b"")[number])
        far = [await target.next() for _ in range(2)]
        if fault == "frozen":
            proxy.freeze()
        elif fault == "slow":
            proxy.slow(1)
        elif fault == "gone":
            await proxy.gone()
        elif fault == "refusing":
            await proxy.refuse()
    for _, writer in (*ends, *far):
        writer.transport.abort()
    await eventually(lambda: psutil.Process().num_fds() <= files)
    assert asyncio.all_tasks() == tasks


async def test_cancelling_its_owner_leaves_nothing(target: Target) -> None:
    tasks = asyncio.all_tasks()
    up = asyncio.Event()

    async def own() -> None:
        async with Proxy(target.address) as proxy, dialled(proxy) as (reader, writer):
            writer.write(b"GET /")
            await target.next()
            proxy.slow(1)
            up.set()
            await reader.read()

    owner = asyncio.create_task(own())
    await within(up.wait())
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert asyncio.all_tasks() == tasks


async def test_two_hundred_connections_are_served_and_cut_at_once(target: Target) -> None:
    async with Proxy(target.address) as proxy, AsyncExitStack() as stack:
        ends = []
        for number in range(200):
            ends.append(await stack.enter_async_context(dialled(proxy)))
            ends[-1][1].write(b"%07d" % number)
        seen = set()
        for _ in range(200):
            far_reader, _ = await target.next()
            seen.add(int(await within(far_reader.readexactly(7))))
        assert seen == set(range(200))
        assert proxy.open == 200
        assert await proxy.cut() == 200
        assert proxy.open == 0
        for reader, _ in ends:
            assert await is_reset(reader)


def test_a_broker_behind_tls_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"plain mqtt:// connection, not mqtts://h:8883.*leave"):
        Proxy(BrokerAddress("h", 8883, tls=True))


def test_the_address_keeps_the_login_and_the_version() -> None:
    target = BrokerAddress.parse("mqtt://me@far:1234?version=3.1.1", "secret")
    address = Proxy(target).address
    assert (address.host, address.login, address.level) == ("127.0.0.1", target.login, 4)


# --- real clients and a real broker --------------------------------------------------------------


@pytest.fixture
async def broker(mosquitto: str) -> AsyncIterator[EmbeddedBroker]:
    async with embedded_broker("mosquitto") as broker:
        yield broker


class PahoClient:
    """The official client, as anybody would use it, in a thread of its own."""

    def __init__(self, address: BrokerAddress, version: Any) -> None:
        self.codes: list[tuple[int, str]] = []
        self.answered = threading.Event()
        self.disconnected = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, "official", protocol=version)
        assert address.login is not None
        self._client.username_pw_set(address.login.user, address.login.password)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = lambda *_: self.disconnected.set()
        self._client.connect(address.host, address.port)
        self._client.loop_start()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, extra: Any) -> None:
        self.codes.append((reason.value, str(reason)))
        self.answered.set()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.parametrize("version", [paho.MQTTv5, paho.MQTTv311], ids=["MQTT 5", "MQTT 3.1.1"])
async def test_the_official_client_is_let_through_and_reads_the_refusal(
    broker: EmbeddedBroker, version: Any
) -> None:
    def meet() -> tuple[int, str]:
        client = PahoClient(proxy.address, version)
        try:
            assert client.answered.wait(PATIENCE_S)
            if proxy.counts.refused:
                assert client.disconnected.wait(PATIENCE_S)
            return client.codes[0]
        finally:
            client.close()

    async with Proxy(broker.address) as proxy:
        assert await asyncio.to_thread(meet) == (0, "Success")
        await proxy.refuse()
        # paho says both versions' codes in the words and numbers of MQTT 5
        assert await asyncio.to_thread(meet) == (0x88, "Server unavailable")
        assert proxy.counts.refused >= 1
        proxy.accept()
        proxy.counts.refused = 0
        assert await asyncio.to_thread(meet) == (0, "Success")


Fault = Callable[[Proxy], Awaitable[None]]
End = Callable[[Proxy], None]
FAULTS: dict[str, tuple[Fault, End]] = {}


def fault(name: str, end: End) -> Callable[[Fault], Fault]:
    def register(begin: Fault) -> Fault:
        FAULTS[name] = (begin, end)
        return begin

    return register


@fault("gone", Proxy.back)
async def _gone(proxy: Proxy) -> None:
    await proxy.gone()


@fault("refuses", Proxy.accept)
async def _refuses(proxy: Proxy) -> None:
    await proxy.refuse()


@fault("slow", Proxy.fast)
async def _slow(proxy: Proxy) -> None:
    proxy.slow(2_000)


@fault("frozen", Proxy.thaw)
async def _frozen(proxy: Proxy) -> None:
    proxy.freeze()


@fault("cut", lambda _: None)
async def _cut(proxy: Proxy) -> None:
    await proxy.cut()


@pytest.mark.parametrize("side", ["cameras", "consumer"])
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("level", [5, 4], ids=["MQTT 5", "MQTT 3.1.1"])
async def test_frames_flow_again_after_a_fault_and_none_is_unaccounted_for(
    broker: EmbeddedBroker, name: str, side: str, level: Level
) -> None:
    """Each seq was unsent, or received, or lies in a gap between two that were received."""
    address = replace(broker.address, level=level)
    begin, end = FAULTS[name]
    sent: list[int] = []
    unsent: list[int] = []
    received: list[int] = []
    async with (
        Proxy(address) as near,
        Proxy(address) as far,
        MqttInlet(far.address, "r", Clock().wall_ns, timing=QUICK) as inlet,
        MqttLink(near.address, "r", ["a"], timing=QUICK) as link,
    ):
        proxy = near if side == "cameras" else far
        sides = {"cameras": link._sessions["a"], "consumer": inlet._session}

        async def receive() -> None:
            async for arrival in inlet.arrivals():
                received.append(int(arrival.payload[:8]))

        async def publish(seqs: Iterator[int]) -> None:
            seq = next(seqs)
            reason = await link.publish("a", seq, b"%08d" % seq + b"." * 992)
            (sent if reason is Reason.NONE else unsent).append(seq)
            await asyncio.sleep(0.005)  # the camera's cadence

        receiving = asyncio.create_task(receive())
        seqs = count()
        async with asyncio.timeout(PATIENCE_S):
            while not received:
                await publish(seqs)
            before = sides[side].connected
            await begin(proxy)
            lost_touch = name in ("gone", "refuses", "frozen")
            for _ in range(60):
                await publish(seqs)
            while lost_touch and sides[side].up.is_set():
                await publish(seqs)
            if lost_touch:
                assert not any(seq > max(sent) for seq in received)
            end(proxy)
            last = next(seqs)
            seqs = count(last)
            while not received or received[-1] < last:
                await publish(seqs)
        receiving.cancel()
        await asyncio.wait([receiving])
        if name != "slow":
            await eventually(lambda: sides[side].connected > before)
    assert sorted(sent + unsent) == list(range(max(sent + unsent) + 1))
    assert received == sorted(set(received)), "in order, none twice"
    assert set(received) <= set(sent), "what was unsent never arrives"
    assert max(received) >= last, "so what is missing before it lies in a gap"


@pytest.mark.parametrize("connections", ["per_camera", "shared"])
async def test_one_cameras_connection_can_be_cut_by_its_name(
    broker: EmbeddedBroker, connections: Connections
) -> None:
    cameras = ["north", "south", "west"]
    calm = replace(QUICK, publish_s=PATIENCE_S, keepalive_s=PATIENCE_S)
    async with (
        Proxy(broker.address) as proxy,
        MqttLink(proxy.address, "r", cameras, connections=connections, timing=calm) as link,
    ):
        assert link.client_of.keys() == set(cameras)
        assert set(link.client_of.values()) <= proxy.clients
        own = len(set(link.client_of.values()))
        assert own == (3 if connections == "per_camera" else 1)
        assert await proxy.cut([link.client_of["south"]]) == 1
        await eventually(lambda: link.reconnects == 1)
        await eventually(lambda: all(s.up.is_set() for s in link._sessions.values()))
        again = {camera: session.connected for camera, session in link._sessions.items()}
        if connections == "per_camera":
            assert again == {"north": 1, "south": 2, "west": 1}
        else:
            assert again == dict.fromkeys(cameras, 2)
        assert link.client_of["south"] in proxy.clients, "it keeps its identifier"
        for camera in cameras:
            assert await link.publish(camera, 0, b"x") is Reason.NONE


async def test_every_link_has_clients_of_its_own() -> None:
    address = BrokerAddress("h", 1)
    links = [MqttLink(address, "r", ["a", "b"], connections="per_camera") for _ in range(2)]
    inlets = [MqttInlet(address, "r", Clock().wall_ns) for _ in range(2)]
    ids = [client for link in links for client in link.client_of.values()]
    ids += [inlet.client for inlet in inlets]
    assert len(set(ids)) == 6
    assert all(len(client) <= 23 for client in ids)
