"""What cameras and the consumer ask of a transport; memory and MQTT answer it alike.

A *link* publishes for the fleet, an *inlet* receives for the consumer. Both are entered with
`async with`, both reconnect by themselves, and neither ever blocks its caller on a slow peer
without bound: what cannot be taken is refused and counted. `Intake` is that bound on the
receiving side.
"""

from __future__ import annotations

__all__ = [
    "DEFAULT_LIMITS",
    "Arrival",
    "Control",
    "Crew",
    "Inlet",
    "Intake",
    "IntakeCounts",
    "IntakeLimits",
    "Link",
    "is_camera_name",
]

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from earlyfire_stream.verdict import Reason

_TURN = 32
"""Arrivals handed over before others on the loop get a turn: a backlog must not delay cameras."""
_CAMERAS_COUNTED = 10_000
"""Names come from the wire: a stranger who invents them must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One frame payload as it came in. `camera` from the topic; `received_ns` a wall instant."""

    camera: str
    payload: bytes
    received_ns: int


@dataclass(frozen=True, slots=True)
class Control:
    """The run's retained control message; `last_seqs` appears when the fleet is through."""

    run: str
    digest: str
    """Of the scenario: two halves that play different files refuse each other."""
    start_ns: int
    speed: float
    last_seqs: Mapping[str, int] | None = None
    """Camera -> its last scheduled seq (-1: none). Its presence is the end of the stream."""


@dataclass(slots=True)
class IntakeCounts:
    """What an inlet saw; read it at any time."""

    received: int = 0
    """Frames that came in, those dropped or refused afterwards included."""
    dropped: int = 0
    """Arrivals that the bounded intake had to let go (each shows as a gap and becomes `lost`)."""
    dropped_by_camera: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """Never taken in: `name` (hostile camera name), `size` (over the limit), `retained` (an old
    picture that the broker kept)."""
    reconnects: int = 0
    unsent_json: int = 0
    """Verdicts and alarms that never reached the broker."""


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """How much may wait between the transport and the consumer's receive task."""

    frames: int = 4096
    bytes: int = 256_000_000
    frame_bytes: int = 20_000_000
    """A larger payload is refused. The same bound as `frames.FrameLimits.max_bytes`."""


DEFAULT_LIMITS = IntakeLimits()


class Link(Protocol):
    """The fleet's side."""

    async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
        """Hand over one frame. Reason.NONE if the transport took it, else why it is unsent."""
        ...

    async def announce(self, control: Control) -> None:
        """Publish the retained control message; returns once the broker has it, or raises."""
        ...

    async def set_status(self, camera: str, online: bool) -> None:
        """Publish the camera's retained status; while disconnected it is remembered instead."""
        ...


class Inlet(Protocol):
    """The consumer's side."""

    @property
    def counts(self) -> IntakeCounts: ...

    @property
    def online(self) -> frozenset[str]:
        """The cameras whose last status was online."""
        ...

    def arrivals(self) -> AsyncIterator[Arrival]:
        """Frames in order of arrival; ends when the inlet is closed and the rest has been read."""
        ...

    async def control(self, start_ns: int | None = None) -> Control:
        """The control message of the fleet that plays now, or began at `start_ns`; waits for it.

        The broker keeps an old fleet's last word: one that has ended or is gone does not play.
        """
        ...

    async def ended(self) -> Control:
        """Waits for the end of the fleet that `control` gave (of any, if it gave none).

        That is its control message with `last_seqs`, or a later fleet's, which has taken its place.
        """
        ...

    def post(self, camera: str, what: str, body: bytes) -> None:
        """Send a verdict or alarm (`what` names the topic's last level), QoS 1. Never waits."""
        ...


def is_camera_name(name: str) -> bool:
    """Whether a name from the wire may be used: 1 to 200 printable characters, no path tricks."""
    return 0 < len(name) <= 200 and name.isprintable() and "/" not in name and name.strip(".") != ""


class Intake:
    """Arrivals that wait for the consumer: bounded by count and bytes, the oldest is let go first.

    A fresh frame is worth more than an old one, and a broker that is not read from drops frames
    where nobody counts them; so everything is taken in at once, and dropped here.
    """

    def __init__(self, limits: IntakeLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.counts = IntakeCounts()
        self.bytes = 0
        self._waiting: deque[Arrival] = deque()
        self._something = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, arrival: Arrival) -> None:
        """Never blocks and never raises."""
        counts, waiting, size = self.counts, self._waiting, len(arrival.payload)
        counts.received += 1
        if not is_camera_name(arrival.camera):
            counts.refused["name"] += 1
            return
        if size > self.limits.frame_bytes:
            counts.refused["size"] += 1
            return
        waiting.append(arrival)
        self.bytes += size
        while len(waiting) > self.limits.frames or (
            self.bytes > self.limits.bytes and len(waiting) > 1
        ):
            oldest = waiting.popleft()
            self.bytes -= len(oldest.payload)
            counts.dropped += 1
            if oldest.camera in counts.dropped_by_camera or (
                len(counts.dropped_by_camera) < _CAMERAS_COUNTED
            ):
                counts.dropped_by_camera[oldest.camera] += 1
        self._something.set()

    def close(self) -> None:
        self._closed = True
        self._something.set()

    async def drain(self) -> AsyncIterator[Arrival]:
        """Every arrival once, oldest first, until `close` and then until nothing waits."""
        taken = 0
        while True:
            while self._waiting:
                arrival = self._waiting.popleft()
                self.bytes -= len(arrival.payload)
                yield arrival
                taken += 1
                if taken % _TURN == 0:
                    await asyncio.sleep(0)
            if self._closed:
                return
            self._something.clear()
            await self._something.wait()


class Crew:
    """The tasks that a link or inlet owns, in a `TaskGroup`: none outlives `dismiss`.

    A bare group would wrap whatever its owner's body raises into an ExceptionGroup; here the
    body's exception passes unchanged. If one of the tasks fails, the body is cancelled and the
    failure comes out of `dismiss`.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def muster(self) -> None:
        await self._group.__aenter__()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def dismiss(self) -> None:
        """Cancel what still runs and wait for its end."""
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)
