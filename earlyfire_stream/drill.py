"""Begins and ends a run's scripted faults by its clock, and has each of them on record.

What cameras, networks between camera and broker, and engines do wrong happens by itself, in
`faults`; here such a fault is noted. Those of the broker, of connections and of the host are done
here, with what `Reach` holds: a private broker, the proxies before it, the logs, the consumer, the
inference worker.

A fault that cannot be done or ended (a broker that does not start again) is on record as failed,
and the run goes on without it. When a run ends, whatever still lasts is ended first: cameras must
be able to say goodbye.
"""

from __future__ import annotations

__all__ = ["PROXIED", "Drill", "Reach"]

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    ExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field
from pathlib import Path

from earlyfire_stream.clock import Clock
from earlyfire_stream.errors import EarlyfireError
from earlyfire_stream.faults import Planned
from earlyfire_stream.lookout import Lookout
from earlyfire_stream.records import Log
from earlyfire_stream.transport.address import BrokerAddress
from earlyfire_stream.transport.broker import EmbeddedBroker
from earlyfire_stream.transport.proxy import Proxy

log = logging.getLogger(__name__)

PROXIED = frozenset(
    {
        "broker-gone",
        "broker-refuses",
        "broker-slow",
        "broker-disconnects",
        "network-partition",
        "camera-storm",
    }
)
"""Kinds that need a proxy between us and the broker."""

_SPIN = """\
import os, sys
parent = int(sys.argv[1])
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@dataclass(frozen=True, slots=True)
class Reach:
    """What faults may lay hands on; what a process does not have, its faults pass by."""

    broker: EmbeddedBroker | None = None
    cameras: Proxy | None = None
    """Before the cameras' connections."""
    consumer: Proxy | None = None
    """Before the consumer's."""
    client_of: Mapping[str, str] = field(default_factory=dict)
    """Camera -> its MQTT client."""
    logs: Sequence[Log] = ()
    lookout: Lookout | None = None
    worker_pid: Callable[[], int | None] = lambda: None

    def camera_address(self, broker: BrokerAddress) -> BrokerAddress:
        return broker if self.cameras is None else self.cameras.address

    def consumer_address(self, broker: BrokerAddress) -> BrokerAddress:
        return broker if self.consumer is None else self.consumer.address


class Drill:
    """The faults of one run. `note` is told of each that begins, ends or fails."""

    def __init__(
        self, faults: Sequence[Planned], reach: Reach, clock: Clock, note: Callable[..., None]
    ) -> None:
        self._faults = faults
        self._reach = reach
        self._clock = clock
        self._note = note

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """The drill beside the block; leaving it ends what lasts."""
        async with asyncio.TaskGroup() as group:
            playing = [
                group.create_task(self._one(fault), name=f"fault {fault.plan.id}")
                for fault in self._faults
            ]
            try:
                yield
            finally:
                for one in playing:
                    one.cancel()

    async def _one(self, fault: Planned) -> None:
        plan = fault.plan
        await self._clock.until(plan.start)
        try:
            self._tell(fault, "begun")
            async with self._doing(fault):
                await self._clock.until(plan.end)
            self._tell(fault, "over")
        except asyncio.CancelledError:
            self._tell(fault, "over", "with the run")
            raise
        except (EarlyfireError, OSError) as why:
            self._tell(fault, "failed", str(why))
            log.error("fault %s: %s", plan.id, why)

    def _tell(self, fault: Planned, state: str, detail: str = "") -> None:
        self._note(
            "fault",
            self._clock.wall_ns(),
            id=fault.plan.id,
            kind=fault.plan.kind,
            state=state,
            scenario_s=round(self._clock.now(), 3),
            detail=detail,
        )

    # --- each kind that is done here ---

    def _doing(self, fault: Planned) -> AbstractAsyncContextManager[None]:
        match fault.plan.kind:
            case "broker-restart":
                return self._restarted()
            case "broker-gone":
                return self._gone()
            case "broker-disconnects" | "camera-storm":
                return self._cut(fault)
            case "broker-refuses" | "broker-slow" | "network-partition":
                return self._in_the_way(fault)
            case "host-cpu":
                return _busy(fault.settings.processes)
            case "host-disk-full":
                return self._no_room()
            case "host-consumer-killed" if self._reach.lookout is not None:
                return self._reach.lookout.down()
            case "host-worker-killed":
                return self._worker_killed()
            case _:
                return nullcontext()

    @asynccontextmanager
    async def _restarted(self) -> AsyncIterator[None]:
        if (broker := self._reach.broker) is not None:
            try:
                await broker.stop()
            finally:
                await _up_again(broker)
        yield

    @asynccontextmanager
    async def _gone(self) -> AsyncIterator[None]:
        """A broker of our own is really ended; one of somebody else's cannot be reached."""
        broker = self._reach.broker
        if broker is not None:
            try:
                await broker.stop()
                yield
            finally:
                await _up_again(broker)
            return
        with ExitStack() as undoing:  # the second though the first cannot be undone
            for proxy in self._proxies("both"):
                undoing.callback(proxy.back)
                await proxy.gone()
            yield

    @asynccontextmanager
    async def _cut(self, fault: Planned) -> AsyncIterator[None]:
        reach, side = self._reach, fault.settings.side
        if fault.plan.kind == "camera-storm":
            side = "cameras"
        if reach.cameras is not None and side != "consumer":
            met = [client for c, client in reach.client_of.items() if fault.plan.meets(c)]
            await reach.cameras.cut(None if not fault.plan.cameras else frozenset(met))
        if reach.consumer is not None and side != "cameras" and not fault.plan.cameras:
            await reach.consumer.cut()
        yield

    @asynccontextmanager
    async def _in_the_way(self, fault: Planned) -> AsyncIterator[None]:
        with ExitStack() as undoing:
            for proxy in self._proxies(fault.settings.side):
                match fault.plan.kind:
                    case "broker-refuses":
                        undoing.callback(proxy.accept)
                        await proxy.refuse()
                    case "broker-slow":
                        undoing.callback(proxy.fast)
                        proxy.slow(fault.settings.rate)
                    case _:
                        undoing.callback(proxy.thaw)
                        proxy.freeze()
            yield

    def _proxies(self, side: str) -> Collection[Proxy]:
        sides = {"cameras": self._reach.cameras, "consumer": self._reach.consumer}
        found = [sides[side]] if side in sides else sides.values()
        return [proxy for proxy in found if proxy is not None]

    @asynccontextmanager
    async def _no_room(self) -> AsyncIterator[None]:
        for one in self._reach.logs:
            one.no_room = True
        try:
            yield
        finally:
            for one in self._reach.logs:
                one.no_room = False

    @asynccontextmanager
    async def _worker_killed(self) -> AsyncIterator[None]:
        pid = self._reach.worker_pid()
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        yield


async def _up_again(broker: EmbeddedBroker) -> None:
    """Start it. A run that ends just then needs it for its last words: cancelled once, we see it
    started all the same, and then are cancelled."""
    starting = asyncio.create_task(broker.start(), name="broker again")
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({starting})
        finally:
            starting.cancel()
            await asyncio.wait({starting})
        if not starting.cancelled() and (why := starting.exception()) is not None:
            raise why from None
        raise


@asynccontextmanager
async def _busy(processes: int) -> AsyncIterator[None]:
    """So many processes beside us that do nothing but spin; they end with us, however we end."""
    spinning: list[asyncio.subprocess.Process] = []
    try:
        for _ in range(processes):
            spinning.append(
                await asyncio.create_subprocess_exec(
                    sys.executable, "-S", "-E", "-c", _SPIN, str(os.getpid()), cwd=Path("/")
                )
            )
        yield
    finally:
        for process in spinning:
            with suppress(ProcessLookupError):
                process.kill()
        for process in spinning:
            await process.wait()
