"""What cameras and the consumer ask of a transport; memory and MQTT answer it alike.

A *link* publishes for the fleet, an *inlet* receives for the consumer. Both are entered with
`async with`, both reconnect by themselves, and neither ever blocks its caller on a slow peer
without bound: what cannot be taken is refused and counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from earlyfire_stream.verdict import Reason


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
    last_seqs: dict[str, int] | None = None
    """Camera -> its last scheduled seq (-1: none). Its presence is the end of the stream."""


@dataclass(slots=True)
class IntakeCounts:
    """What an inlet saw; read it at any time."""

    received: int = 0
    dropped: int = 0
    """Arrivals that the bounded intake had to let go (each shows as a gap and becomes `lost`)."""
    dropped_by_camera: dict[str, int] = field(default_factory=dict)
    reconnects: int = 0


class Link(Protocol):
    """The fleet's side."""

    async def publish(self, camera: str, payload: bytes) -> Reason:
        """Hand over one frame. Reason.NONE if the transport took it, else why it is unsent."""
        ...

    async def announce(self, control: Control) -> None:
        """Publish the retained control message; returns once the broker has it, or raises."""
        ...

    async def set_status(self, camera: str, online: bool) -> None: ...


class Inlet(Protocol):
    """The consumer's side."""

    counts: IntakeCounts

    def arrivals(self) -> AsyncIterator[Arrival]:
        """Frames in order of arrival, until the inlet is closed."""
        ...

    async def control(self) -> Control:
        """The newest control message; waits for the first one."""
        ...

    async def ended(self) -> Control:
        """Waits for the control message that carries `last_seqs`."""
        ...

    async def publish_json(self, camera: str, what: str, body: bytes) -> None:
        """Send a verdict or alarm (`what` names the topic's last level), QoS 1; may drop and count."""
        ...
