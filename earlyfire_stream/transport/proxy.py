"""A TCP proxy before a broker, in which faults of broker and network happen on purpose.

    async with Proxy(broker_address) as proxy, MqttLink(proxy.address, ...) as link:
        await proxy.gone()         # every connection is reset, new ones meet ECONNREFUSED
        proxy.back()
        await proxy.refuse()       # ... new ones are answered: CONNACK, server unavailable
        proxy.accept()
        proxy.slow(50_000)         # bytes a second: each connection, each way
        proxy.fast()
        proxy.freeze()             # a pulled cable: nothing passes, and neither side is told
        proxy.thaw()
        await proxy.cut()          # every connection is reset, once
        await proxy.cut([link.client_of["north"]])

Each of these may be called at any time, twice, and while another holds. What ends ends for all who
asked: calls are not counted. Of several, `gone` goes before `freeze`, `freeze` before `refuse`,
`refuse` before `slow`; a reset is told at once, through a freeze too.

Plain TCP only. Bytes pass unchanged and in order; of MQTT the proxy reads no more than who a client
says it is. A slow reader slows the writer: of each connection the proxy keeps at most 64 kB each
way, and its four buffers in the kernel take at most 128 kB each; 200 connections whose readers are
stuck hold 130 MB, mostly the kernel's. All waits are wall seconds.
"""

from __future__ import annotations

__all__ = ["Hello", "Proxy", "ProxyCounts", "Unheard", "read_hello"]

import asyncio
import logging
import math
import socket
import struct
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import Self

from earlyfire_stream.errors import TransportError, UsageError
from earlyfire_stream.transport.address import BrokerAddress
from earlyfire_stream.transport.base import Crew
from earlyfire_stream.transport.dial import dial, readable

log = logging.getLogger(__name__)

_HELLO_S = 5.0
"""Who says nothing for so long is hung up on, as brokers do."""
_DIAL_S = 5.0
_GRACE_S = 2.0
"""For the second of two ways to end after the first."""
_RETRY_S = 1.0
"""When no connection could be accepted: no file descriptor was left."""
_BITE = 65_536
"""Bytes read at a time."""
_SLOW_BITE_S = 0.1
"""A limited way moves so much at a time: short enough to flow, long enough to be cheap."""
_KERNEL_BYTES = 65_536
"""Asked for each of the kernel's buffers; its own choice on loopback is megabytes, and at 50 kB/s
a minute would pass before anybody felt it."""
_BACKLOG = 1024
"""Connections that the kernel takes in before we do."""


# --- who is it? ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client's CONNECT says of itself."""

    client: str
    """Its identifier; empty where the broker shall choose one."""
    level: int
    """3 is MQTT 3.1, 4 is 3.1.1, 5 is 5."""

    @property
    def refusal(self) -> bytes:
        """The CONNACK that says: server unavailable (MQTT 3.1.1 table 3.1, MQTT 5 table 3-1)."""
        return b"\x20\x03\x00\x88\x00" if self.level == 5 else b"\x20\x02\x00\x03"


class Unheard(Enum):
    """Why the bytes so far are no Hello."""

    MORE = auto()
    """They may become one."""
    OTHER = auto()
    """Nothing that follows makes them one."""


_PROTOCOLS = {b"MQIsdp": (3,), b"MQTT": (4, 5)}
_HELLO_BYTES = 131_072
"""Longest way to the end of the identifier, which alone may take 65535."""


def read_hello(said: bytes) -> Hello | Unheard:
    """Read the head of an MQTT CONNECT packet (section 3.1), up to the client identifier.

    Never raises, whatever the bytes. `said` may end before the packet does, or after it.
    """
    reader = _Reader(said)
    try:
        return _hello(reader)
    except _TooShort:
        return Unheard.MORE if reader.wants <= _HELLO_BYTES else Unheard.OTHER
    except _NoHello:
        return Unheard.OTHER


class _TooShort(Exception):
    pass


class _NoHello(Exception):
    pass


class _Reader:
    """Bytes from a peer, one field after another."""

    def __init__(self, data: bytes) -> None:
        self.wants = 0
        """How many bytes have been asked for: all of `data` and more, if it is too short."""
        self._data = data
        self._end: int | None = None

    def take(self, count: int) -> bytes:
        start = self.wants
        self.wants += count
        if self._end is not None and self.wants > self._end:
            raise _NoHello
        if self.wants > len(self._data):
            raise _TooShort
        return self._data[start : self.wants]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def length(self) -> int:
        """A variable byte integer (MQTT 5 section 1.5.5)."""
        value = 0
        for place in range(4):
            digit = self.number(1)
            value |= (digit & 0x7F) << 7 * place
            if digit < 0x80:
                return value
        raise _NoHello

    def end_after(self, count: int) -> None:
        self._end = self.wants + count


def _hello(reader: _Reader) -> Hello:
    if reader.take(1) != b"\x10":
        raise _NoHello
    reader.end_after(reader.length())
    name_bytes = reader.number(2)
    if name_bytes not in map(len, _PROTOCOLS):
        raise _NoHello
    levels = _PROTOCOLS.get(reader.take(name_bytes))
    if levels is None or (level := reader.number(1)) not in levels:
        raise _NoHello
    reader.take(3)  # flags, keep alive
    if level == 5:
        reader.take(reader.length())
    return Hello(reader.take(reader.number(2)).decode(errors="replace"), level)


# --- the proxy -----------------------------------------------------------------------------------


@dataclass(slots=True)
class ProxyCounts:
    """What a proxy saw; read it at any time."""

    accepted: int = 0
    """Connections, those refused, cut or given up afterwards included."""
    refused: int = 0
    """Answered with a CONNACK that says no."""
    cut: int = 0
    """Reset on purpose."""
    given_up: int = 0
    """Whose client had hung up before the broker was asked, as after a freeze."""
    bytes_up: int = 0
    """To the broker."""
    bytes_down: int = 0


@dataclass(eq=False, slots=True)
class _Line:
    """One connection: from the client (near) to the broker (far)."""

    near: socket.socket
    far: socket.socket | None = None
    hello: Hello | None = None
    ended_well: bool = False

    def close(self) -> None:
        for end in (self.near, self.far):
            if end is not None:
                if not self.ended_well:
                    # Zero seconds of lingering: the kernel sends a reset, and forgets the rest.
                    with suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.close()


class Proxy:
    """Listens on a free port of 127.0.0.1, forwards to `target`; see the module.

    UsageError for a target with TLS: the proxy could not speak for its broker.
    """

    def __init__(self, target: BrokerAddress) -> None:
        if target.tls:
            raise UsageError(
                f"faults of the broker need a plain mqtt:// connection, not {target}: they are "
                "made by a proxy before the broker, whose name no certificate holds; use the "
                "broker's plain port for this, or leave these faults out"
            )
        self.counts = ProxyCounts()
        self._target = target
        self._loop: asyncio.AbstractEventLoop
        self._crew = Crew()
        self._lines: dict[asyncio.Task[None], _Line] = {}
        self._port = 0
        self._reserve: socket.socket | None = None
        """Bound and never listening: while the listener is closed nobody else gets the port."""
        self._listener: socket.socket | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._running = asyncio.Event()
        self._running.set()
        self._refusing = False
        self._rate: float | None = None
        self._rate_changed = asyncio.Event()

    @property
    def address(self) -> BrokerAddress:
        """The target's, with this proxy's host and port; known after entering."""
        return replace(self._target, host="127.0.0.1", port=self._port)

    @property
    def open(self) -> int:
        """Connections now."""
        return len(self._lines)

    @property
    def clients(self) -> frozenset[str]:
        """The identifiers of the clients that are connected now."""
        return frozenset(line.hello.client for line in self._lines.values() if line.hello)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._crew.muster()
        try:
            self._reserve = _bound(0)
            self._port = self._reserve.getsockname()[1]
            self.back()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        why: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        self._hang_up()
        if self._reserve is not None:
            self._reserve.close()
        await self._crew.dismiss()

    # --- faults

    async def gone(self) -> None:
        """As if no broker ran: every connection is reset, and new ones are refused by TCP."""
        self._hang_up()
        await self.cut()

    def back(self) -> None:
        """On the same port as before."""
        if self._listener is None:
            self._listener = _bound(self._port)
            self._watch()

    async def refuse(self) -> None:
        """As a broker that is overloaded: every connection is reset, and each new CONNECT is
        answered with "server unavailable"."""
        self._refusing = True
        await self.cut()

    def accept(self) -> None:
        self._refusing = False

    def slow(self, bytes_per_s: float) -> None:
        """From now on each connection moves so much each way, those that are open included."""
        if not 0 < bytes_per_s < math.inf:
            raise UsageError(f"a rate of {bytes_per_s} bytes a second: write one above 0")
        self._set_rate(bytes_per_s)

    def fast(self) -> None:
        self._set_rate(None)

    def freeze(self) -> None:
        """As if the cable were pulled: nothing passes, and neither side is told.

        What either side sends waits in the kernel until its buffers are full. Who dials gets no
        answer; he goes on trying for as long as his own patience lasts.
        """
        self._running.clear()
        self._watch()

    def thaw(self) -> None:
        """What waits goes on. Who dialled in the freeze and has hung up since is not introduced to
        the broker: his late CONNECT would put out the connection that took its place."""
        self._running.set()
        self._watch()

    async def cut(self, clients: Collection[str] | None = None) -> int:
        """Reset the connections of these clients (None: every one); how many it were."""
        met = [
            task
            for task, line in self._lines.items()
            if clients is None or (line.hello is not None and line.hello.client in clients)
        ]
        for task in met:
            task.cancel()
        self.counts.cut += len(met)
        if met:
            await asyncio.wait(met)
        return len(met)

    def _set_rate(self, rate: float | None) -> None:
        self._rate = rate
        self._rate_changed.set()
        self._rate_changed = asyncio.Event()

    # --- listening

    def _hang_up(self) -> None:
        listener, self._listener = self._listener, None
        if self._retry is not None:
            self._retry.cancel()
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()

    def _watch(self) -> None:
        if self._listener is None:
            return
        if self._running.is_set():
            self._listener.listen(_BACKLOG)
            self._loop.add_reader(self._listener, self._take)
        else:
            # The kernel then takes in one more, and leaves the others without an answer.
            self._loop.remove_reader(self._listener)
            self._listener.listen(0)

    def _take(self) -> None:
        assert self._listener is not None
        try:
            near, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as why:
            log.warning("the proxy on port %d can take no connection: %s", self._port, why)
            self._loop.remove_reader(self._listener)
            self._retry = self._loop.call_later(_RETRY_S, self._watch)
            return
        self.counts.accepted += 1
        line = _Line(near)
        task = self._crew.start(self._serve(line), name="proxy connection")
        self._lines[task] = line
        # Not in the task: cancelled before its first step it would never run.
        task.add_done_callback(partial(self._ended, line))

    def _ended(self, line: _Line, task: asyncio.Task[None]) -> None:
        del self._lines[task]
        line.close()

    # --- one connection

    async def _serve(self, line: _Line) -> None:
        try:
            _prepare(line.near)
            said = await self._hear(line)
            if self._refusing:
                await self._turn_away(line)
                return
            if not said or _hung_up(line.near):
                self.counts.given_up += 1
                return
            async with asyncio.timeout(_DIAL_S):
                line.far = await dial(self._target.host, self._target.port)
            _prepare(line.far)
            async with asyncio.TaskGroup() as ways:
                up = self._move(line.near, line.far, self._went_up, said)
                down = self._move(line.far, line.near, self._went_down)
                both = [
                    ways.create_task(up, name="proxy up"),
                    ways.create_task(down, name="proxy down"),
                ]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait(both, timeout=_GRACE_S)
                for way in both:
                    way.cancel()
            line.ended_well = True
        except* OSError:
            pass  # one side is gone: the other sees a reset
        await self._running.wait()  # but not before the cable is back

    async def _hear(self, line: _Line) -> bytes:
        """The first bytes of a client, up to its name if it gives one."""
        said = b""
        async with asyncio.timeout(_HELLO_S) as limit:
            while True:
                data = await self._read(line.near)
                said += data
                heard = read_hello(said)
                if isinstance(heard, Hello):
                    line.hello = heard
                if heard is not Unheard.MORE or not data:
                    return said
                limit.reschedule(self._loop.time() + _HELLO_S)

    async def _turn_away(self, line: _Line) -> None:
        if line.hello is None:
            return
        self.counts.refused += 1
        await self._loop.sock_sendall(line.near, line.hello.refusal)
        line.near.shutdown(socket.SHUT_WR)
        # Closed with something unread, the answer would be forgotten for a reset.
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                while await self._read(line.near):
                    pass
        line.ended_well = True

    async def _move(
        self,
        source: socket.socket,
        sink: socket.socket,
        tally: Callable[[int], None],
        said: bytes = b"",
    ) -> None:
        """Write `said`, then what the source says, to its end."""
        said = said or await self._read(source)
        while said:
            began = self._loop.time()
            await self._loop.sock_sendall(sink, said)
            tally(len(said))
            if self._rate is not None:
                changed = self._rate_changed
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(began + len(said) / self._rate):
                        await changed.wait()
            said = await self._read(source)
        sink.shutdown(socket.SHUT_WR)

    def _went_up(self, count: int) -> None:
        self.counts.bytes_up += count

    def _went_down(self, count: int) -> None:
        self.counts.bytes_down += count

    async def _read(self, source: socket.socket) -> bytes:
        """A bite; empty at the end. In a freeze nothing is read: no end is seen, and no reset."""
        while True:
            await readable(source)
            await self._running.wait()
            size = _BITE if self._rate is None else int(self._rate * _SLOW_BITE_S)
            with suppress(BlockingIOError):
                return source.recv(min(max(size, 1), _BITE))


def _bound(port: int) -> socket.socket:
    """Several of ours may be bound to one port; TCP asks only those that listen.

    Without SO_REUSEADDR: with it a stranger might listen where ours is merely bound.
    """
    bound = socket.socket()
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Inherited by what is accepted; after the handshake it would be too late.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
        bound.bind(("127.0.0.1", port))
    except OSError as why:
        bound.close()
        raise TransportError(f"no port for the proxy before the broker: {why}") from why
    return bound


def _prepare(end: socket.socket) -> None:
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)


def _hung_up(end: socket.socket) -> bool:
    try:
        return end.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
