"""Cameras and consumer in one process: no broker, no sockets, no threads, so virtual time works.

    hub = MemoryHub(clock.wall_ns)
    async with hub.link() as link, hub.inlet() as inlet:
        ...

Delivery is immediate and in order of `publish`; the same program gives the same order every time.
"""

from __future__ import annotations

__all__ = ["MemoryHub", "MemoryInlet", "MemoryLink"]

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

from earlyfire_stream.frames import shard_of
from earlyfire_stream.transport.base import (
    DEFAULT_LIMITS,
    Arrival,
    Control,
    Intake,
    IntakeCounts,
    IntakeLimits,
)
from earlyfire_stream.verdict import Reason


class MemoryHub:
    """What a broker would hold: the control message, who is online, who listens.

    `wall_ns` stamps arrivals (`Clock.wall_ns`); `messages` keeps the newest (camera, what, body)
    that consumers published.
    """

    def __init__(self, wall_ns: Callable[[], int], keep_messages: int = 10_000) -> None:
        self.wall_ns = wall_ns
        self.control: Control | None = None
        self.online: set[str] = set()
        self.messages: deque[tuple[str, str, bytes]] = deque(maxlen=keep_messages)
        self._inlets: list[MemoryInlet] = []
        self._announced = asyncio.Event()
        self._ended = asyncio.Event()

    def link(self) -> MemoryLink:
        return MemoryLink(self)

    def inlet(
        self, shards: frozenset[int] | None = None, limits: IntakeLimits = DEFAULT_LIMITS
    ) -> MemoryInlet:
        """A consumer's side; it gets the frames of `shards` (None: all) from its entering on."""
        return MemoryInlet(self, shards, limits)

    def deliver(self, camera: str, payload: bytes) -> None:
        arrival = Arrival(camera, payload, self.wall_ns())
        for inlet in self._inlets:
            inlet.offer(arrival)

    def announce(self, control: Control) -> None:
        self.control = control
        self._announced.set()
        if control.last_seqs is not None:
            self._ended.set()

    async def newest_control(self) -> Control:
        await self._announced.wait()
        assert self.control is not None
        return self.control

    async def final_control(self) -> Control:
        await self._ended.wait()
        assert self.control is not None
        return self.control

    def attach(self, inlet: MemoryInlet) -> None:
        self._inlets.append(inlet)

    def detach(self, inlet: MemoryInlet) -> None:
        self._inlets.remove(inlet)


class MemoryLink:
    """The fleet's side of a hub."""

    def __init__(self, hub: MemoryHub) -> None:
        self._hub = hub

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        why: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hub.online.clear()

    async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
        self._hub.deliver(camera, payload)
        return Reason.NONE

    async def announce(self, control: Control) -> None:
        self._hub.announce(control)

    async def set_status(self, camera: str, online: bool) -> None:
        if online:
            self._hub.online.add(camera)
        else:
            self._hub.online.discard(camera)


class MemoryInlet:
    """The consumer's side of a hub."""

    def __init__(self, hub: MemoryHub, shards: frozenset[int] | None, limits: IntakeLimits) -> None:
        self._hub = hub
        self._shards = shards
        self._intake = Intake(limits)

    async def __aenter__(self) -> Self:
        self._hub.attach(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        why: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hub.detach(self)
        self._intake.close()

    @property
    def counts(self) -> IntakeCounts:
        return self._intake.counts

    @property
    def online(self) -> frozenset[str]:
        return frozenset(self._hub.online)

    def offer(self, arrival: Arrival) -> None:
        if self._shards is None or shard_of(arrival.camera) in self._shards:
            self._intake.put(arrival)

    def arrivals(self) -> AsyncIterator[Arrival]:
        return self._intake.drain()

    async def control(self, start_ns: int | None = None) -> Control:
        return await self._hub.newest_control()  # a hub has one fleet

    async def ended(self) -> Control:
        return await self._hub.final_control()

    def post(self, camera: str, what: str, body: bytes) -> None:
        self._hub.messages.append((camera, what, body))
