"""A bad network between camera and broker, in front of any link: delay, loss, duplicates, outages.

What happens to a frame is a pure function of (seed, camera, seq), so two runs lose the same frames
whatever else they do. A camera does not learn that its frame was lost on the way; every effect is
counted here instead.

On top of a camera's own network come spells, in which it is worse for a while (scripted faults).
Each has a luck of its own, so that a spell changes nothing of what happens without it.

Delay and jitter are wall seconds (latencies are), outages and spells are scenario seconds. Like
TCP, the network keeps a camera's frames in order; only `reorder` lets one fall behind its
successor.
"""

from __future__ import annotations

__all__ = ["Effect", "NetworkCounts", "NetworkLink", "Spell", "effect_on"]

import asyncio
import hashlib
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import count
from statistics import NormalDist
from types import TracebackType
from typing import Self

from earlyfire_stream.clock import Clock
from earlyfire_stream.scenario.models import Network
from earlyfire_stream.transport.base import Control, Crew, Link
from earlyfire_stream.verdict import Reason

_PERFECT = Network()
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Effect:
    """What the network does to one frame. `delay_s` in wall seconds."""

    lost: bool
    duplicated: bool
    held: bool
    delay_s: float

    def __add__(self, other: Effect) -> Effect:
        return Effect(
            self.lost or other.lost,
            self.duplicated or other.duplicated,
            self.held or other.held,
            self.delay_s + other.delay_s,
        )


_NONE = Effect(lost=False, duplicated=False, held=False, delay_s=0.0)


@dataclass(frozen=True, slots=True)
class Spell:
    """From `start` to before `end` (scenario seconds) `network` lies on a camera's way as well."""

    id: str
    start: float
    end: float
    network: Network
    """Its outages are not looked at: the spell is one itself where all is lost."""


def effect_on(network: Network, seed: int | str, camera: str, seq: int) -> Effect:
    """The frame's luck, drawn from a hash of (seed, camera, seq): the same on every machine."""
    digest = hashlib.blake2b(f"{seed}/{camera}/{seq}".encode(), digest_size=32).digest()
    loss, duplicate, reorder, spread = (
        # the middle of 2^64 equal cells: never 0 or 1, where the normal quantile is infinite
        (int.from_bytes(digest[at : at + 8], "big") // 2048 + 0.5) / 2**53
        for at in (0, 8, 16, 24)
    )
    return Effect(
        lost=loss < network.loss,
        duplicated=duplicate < network.duplicate,
        held=reorder < network.reorder,
        delay_s=max(0.0, network.delay + network.jitter * _NORMAL.inv_cdf(spread)),
    )


@dataclass(slots=True)
class NetworkCounts:
    """What became of the frames given to the link."""

    given: int = 0
    delivered: int = 0
    """Taken by the transport behind, copies not included."""
    lost: int = 0
    outage: int = 0
    overflow: int = 0
    """More was under way than `max_pending_bytes`; lost."""
    refused: int = 0
    """Delayed or held, and refused by the transport behind when its turn came; lost."""
    returned: int = 0
    """Refused at once by the transport behind; the camera was told."""
    abandoned: int = 0
    """Still under way when the link was closed."""
    duplicated: int = 0
    reordered: int = 0
    """Sent after a later frame of the same camera."""
    delayed: int = 0

    @property
    def balanced(self) -> bool:
        """Every frame that is no longer under way has been counted exactly once."""
        gone = self.lost + self.outage + self.overflow + self.refused + self.abandoned
        return self.given == self.delivered + self.returned + gone


@dataclass(order=True, slots=True)
class _Pending:
    due_ns: int
    order: int
    seq: int = field(compare=False)
    payload: bytes = field(compare=False)
    held: bool = field(compare=False)
    duplicated: bool = field(compare=False)


class _Lane:
    """One camera's frames under way, the next one due on top."""

    def __init__(self, network: Network, spells: Sequence[Spell]) -> None:
        self.network = network
        self.spells = spells
        self.counts = NetworkCounts()
        self.heap: list[_Pending] = []
        self.last_due_ns = 0
        self.last_sent = -1
        self.running = False
        self.wake = asyncio.Event()


class NetworkLink:
    """A `Link` in front of `inner`, which its owner opens and closes.

    `spells` are by camera; what is in one is decided by the instant at which a frame is given.
    `hold_s` bounds how long a held frame waits for its successor, `drain_s` how long closing waits
    for frames under way; both in wall seconds.
    """

    def __init__(
        self,
        inner: Link,
        networks: Mapping[str, Network],
        clock: Clock,
        seed: int,
        spells: Mapping[str, Sequence[Spell]] | None = None,
        *,
        max_pending_bytes: int = 256_000_000,
        hold_s: float = 5.0,
        drain_s: float = 10.0,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._seed = seed
        self._max_pending_bytes = max_pending_bytes
        self._hold_s = hold_s
        self._drain_s = drain_s
        self._pending_bytes = 0
        self._order = count()
        worse = spells or {}
        self._lanes = {
            c: _Lane(networks.get(c, _PERFECT), worse.get(c, ()))
            for c in dict.fromkeys((*networks, *worse))
            if networks.get(c, _PERFECT) != _PERFECT or worse.get(c)
        }
        self._touched: Counter[str] = Counter()
        self._crew = Crew()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def by_camera(self) -> Mapping[str, NetworkCounts]:
        """Counts of the cameras whose network is not always perfect."""
        return {camera: lane.counts for camera, lane in self._lanes.items()}

    @property
    def touched(self) -> Mapping[str, int]:
        """Spell -> how many frames it lost, doubled, held or delayed."""
        return self._touched

    @property
    def counts(self) -> NetworkCounts:
        total = NetworkCounts()
        for lane in self._lanes.values():
            for part in fields(NetworkCounts):
                value = getattr(total, part.name) + getattr(lane.counts, part.name)
                setattr(total, part.name, value)
        return total

    async def __aenter__(self) -> Self:
        await self._crew.muster()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        why: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self._drained()
        finally:
            for lane in self._lanes.values():
                lane.counts.abandoned += len(lane.heap)
                self._pending_bytes -= sum(len(p.payload) for p in lane.heap)
                lane.heap.clear()
            await self._crew.dismiss()

    async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
        """Reason.NONE also for a frame lost on its way: the camera cannot know."""
        lane = self._lanes.get(camera)
        if lane is None:
            return await self._inner.publish(camera, seq, payload)
        counts, network = lane.counts, lane.network
        counts.given += 1
        now = self._clock.now()
        if any(now in window for window in network.outages):
            counts.outage += 1
            return Reason.NONE
        effect = effect_on(network, self._seed, camera, seq)
        if not effect.lost:
            effect += self._worse(lane, camera, seq)
        if effect.lost:
            counts.lost += 1
            return Reason.NONE
        if not (effect.delay_s or effect.held or lane.running):
            return await self._send_now(lane, camera, seq, payload, effect.duplicated)
        if self._pending_bytes + len(payload) > self._max_pending_bytes:
            counts.overflow += 1
            return Reason.NONE
        counts.delayed += effect.delay_s > 0
        due_ns = self._clock.wall_ns() + round(effect.delay_s * 1e9)
        if effect.held:
            due_ns += round(self._hold_s * 1e9)
        else:
            due_ns = lane.last_due_ns = max(due_ns, lane.last_due_ns)
        frame = _Pending(due_ns, next(self._order), seq, payload, effect.held, effect.duplicated)
        heapq.heappush(lane.heap, frame)
        self._pending_bytes += len(payload)
        lane.wake.set()
        if not lane.running:
            lane.running = True
            self._idle.clear()
            self._crew.start(self._carry(lane, camera), name=f"network {camera}")
        return Reason.NONE

    def _worse(self, lane: _Lane, camera: str, seq: int) -> Effect:
        """What the spells that are on do to the frame."""
        # in wall time: wall_of rounds, and a frame due at a spell's start must not fall before it
        now_ns, of = self._clock.wall_ns(), self._clock.wall_of
        total = _NONE
        for spell in lane.spells:
            if of(spell.start) <= now_ns < of(spell.end):
                effect = effect_on(spell.network, f"{self._seed}/{spell.id}", camera, seq)
                if effect != _NONE:
                    self._touched[spell.id] += 1
                    total += effect
        return total

    async def announce(self, control: Control) -> None:
        """The end of the stream is announced when nothing is under way any more."""
        if control.last_seqs is not None:
            await self._drained()
        await self._inner.announce(control)

    async def set_status(self, camera: str, online: bool) -> None:
        await self._inner.set_status(camera, online)

    async def _drained(self) -> None:
        """Wait for the frames under way; held ones need not wait for a successor any more."""
        for lane in self._lanes.values():
            newest = max((frame.order for frame in lane.heap if not frame.held), default=-1)
            for frame in lane.heap:
                if frame.held and frame.order > newest:
                    frame.held = False
                    frame.due_ns -= round(self._hold_s * 1e9)
            heapq.heapify(lane.heap)
            lane.wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._idle.wait()

    async def _send_now(
        self, lane: _Lane, camera: str, seq: int, payload: bytes, duplicated: bool
    ) -> Reason:
        unsent = await self._inner.publish(camera, seq, payload)
        if unsent is not Reason.NONE:
            lane.counts.returned += 1
            return unsent
        lane.counts.delivered += 1
        lane.last_sent = max(lane.last_sent, seq)
        if duplicated:
            lane.counts.duplicated += 1
            await self._inner.publish(camera, seq, payload)
        return Reason.NONE

    async def _carry(self, lane: _Lane, camera: str) -> None:
        """Send the lane's frames when they are due; ends when none is under way."""
        try:
            while lane.heap:
                wait_ns = lane.heap[0].due_ns - self._clock.wall_ns()
                if wait_ns > 0:
                    lane.wake.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_ns / 1e9):
                            await lane.wake.wait()
                    continue
                frame = heapq.heappop(lane.heap)
                await self._send_late(lane, camera, frame)
                if not frame.held:
                    await self._release(lane, camera, before=frame.order)
        finally:
            lane.running = False
            if not any(other.running for other in self._lanes.values()):
                self._idle.set()

    async def _release(self, lane: _Lane, camera: str, before: int) -> None:
        """Send the held frames that their successor has now overtaken."""
        overtaken = sorted(
            (p for p in lane.heap if p.held and p.order < before), key=lambda p: p.order
        )
        for frame in overtaken:
            lane.heap.remove(frame)
            heapq.heapify(lane.heap)
            await self._send_late(lane, camera, frame)

    async def _send_late(self, lane: _Lane, camera: str, frame: _Pending) -> None:
        self._pending_bytes -= len(frame.payload)
        try:
            unsent = await self._inner.publish(camera, frame.seq, frame.payload)
        except asyncio.CancelledError:
            lane.counts.abandoned += 1
            raise
        if unsent is not Reason.NONE:
            lane.counts.refused += 1
            return
        lane.counts.delivered += 1
        lane.counts.reordered += frame.seq < lane.last_sent
        lane.last_sent = max(lane.last_sent, frame.seq)
        if frame.duplicated:
            lane.counts.duplicated += 1
            await self._inner.publish(camera, frame.seq, frame.payload)
