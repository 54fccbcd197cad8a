"""The consumer of a run and its inlet, which a scripted fault may kill and start again.

Killed, a consumer is cancelled where it stands and its connection closed; what it had in hand is
`abandoned(killed)`. The one that follows connects anew, knows which frames have their fate, and
nothing else; what came in between is `lost(consumer_down)`. That is what the end of its process and
`consume --resume` amount to, without the process: cameras, logs and the engine's server live on.
"""

from __future__ import annotations

__all__ = ["Lookout"]

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace

from earlyfire_stream.consumer import Consumer
from earlyfire_stream.errors import TransportError
from earlyfire_stream.records import Snapshot
from earlyfire_stream.transport.base import Inlet

log = logging.getLogger(__name__)

RETRY_S = 1.0
"""Wall seconds after an inlet that could not connect; it has tried for some seconds itself."""

OpenInlet = Callable[[], AbstractAsyncContextManager[Inlet]]
Make = Callable[[Inlet], Consumer]


class Lookout:
    """Entered before the first frame: connects; `watch` works until the stream has ended."""

    def __init__(self, open_inlet: OpenInlet) -> None:
        self._open_inlet = open_inlet
        self._stack = AsyncExitStack()
        self.inlet: Inlet
        self.consumer: Consumer
        self._make: Make
        self._ended: Callable[[], None]
        self._working: asyncio.Task[None] | None = None
        self._again = asyncio.Event()
        """Clear while no consumer may run."""
        self._again.set()
        self._fallen: list[Snapshot] = []
        self._stopped = False
        self._last_seqs: Mapping[str, int] = {}

    async def __aenter__(self) -> Lookout:
        self.inlet = await self._stack.enter_async_context(self._open_inlet())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def employ(self, make: Make, ended: Callable[[], None]) -> None:
        """`make` gives a consumer for an inlet; `ended` is told whenever one has ended."""
        self._make, self._ended = make, ended
        self.consumer = make(self.inlet)

    def snapshot(self) -> Snapshot:
        """Of the one at work; what is counted from the run's begin has the fallen ones' share."""
        now = self.consumer.snapshot()
        if not self._fallen:
            return now
        told = [*self._fallen, now]
        return replace(
            now,
            received=sum(s.received for s in told),
            tokens_spent=sum(s.tokens_spent for s in told),
            duplicates=sum(s.duplicates for s in told),
            refused=sum((Counter(s.refused) for s in told), Counter()),
            budget_waited_s=sum(s.budget_waited_s for s in told),
            dropped=sum(s.dropped for s in told),
            turned_away=sum((Counter(s.turned_away) for s in told), Counter()),
            reconnects=sum(s.reconnects for s in told),
        )

    def stop(self, last_seqs: Mapping[str, int] | None = None) -> None:
        """End soon; see `Consumer.stop`."""
        self._stopped = True
        self._last_seqs = last_seqs or self._last_seqs
        self.consumer.stop(self._last_seqs)
        self._again.set()

    async def watch(self) -> None:
        """Work until the stream has ended or `stop` is called, through any number of deaths."""
        if not self._again.is_set():
            await self._succeed()
        while True:
            self._working = asyncio.create_task(self.consumer.watch(), name="consumer")
            try:
                await asyncio.wait({self._working})
            except asyncio.CancelledError:
                self._working.cancel()
                await asyncio.gather(self._working, return_exceptions=True)
                raise
            finally:
                self._ended()
            if not self._working.cancelled():
                return self._working.result()
            await self._succeed()

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """Dead while the block lasts, unless it is stopping already. Not for two at a time."""
        try:
            if not self._stopped:
                self._again.clear()
                if self._working is not None:
                    self._working.cancel()
                    await asyncio.wait({self._working})
            yield
        finally:
            self._again.set()

    async def _succeed(self) -> None:
        fallen = self.consumer
        self._fallen.append(fallen.snapshot())
        await self._stack.aclose()
        await self._connect_again()
        self.consumer = self._make(self.inlet)
        self.consumer.take_over(fallen)
        if self._stopped:
            self.consumer.stop(self._last_seqs)

    async def _connect_again(self) -> None:
        """Until the broker lets us in while nobody wants us dead.

        Stopped before that, we are left with the closed inlet: nothing comes of it any more.
        """
        while True:
            await self._again.wait()
            try:
                inlet = await self._stack.enter_async_context(self._open_inlet())
            except TransportError as why:
                if self._stopped:
                    return
                log.warning("the consumer that is to follow cannot connect: %s", why)
                await asyncio.sleep(RETRY_S)
                continue
            if self._again.is_set():
                self.inlet = inlet
                return
            await self._stack.aclose()  # killed again while it connected
