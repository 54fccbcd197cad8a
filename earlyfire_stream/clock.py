"""Two clocks, one source.

Scenario time is what the cameras show: seconds since the scenario began, running `speed` times as
fast as the wall. Wall instants are nanoseconds since the Unix epoch, anchored once to the event
loop's monotonic time, so that they never jump. Nothing else in the package reads a system clock.

`virtual_run` runs a coroutine on a loop that jumps to its next timer instead of waiting.
"""

from __future__ import annotations

__all__ = ["Clock", "VirtualLoop", "virtual_run"]

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

VIRTUAL_EPOCH_NS = 1_700_000_000_000_000_000
"""Wall instant at which every virtual run begins, so that two runs give identical records."""


class Clock:
    """Scenario time and wall instants of one run, over the running loop's `time()`.

    `start_ns` is the wall instant of scenario second 0; it may lie in the future (cameras get
    ready first) or in the past (a consumer that joins late). Call it from inside the loop.
    """

    def __init__(self, speed: float = 1.0, start_ns: int | None = None) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        self.speed = speed
        loop = asyncio.get_running_loop()
        self._time = loop.time
        self.virtual = isinstance(loop, VirtualLoop)
        anchor_ns = VIRTUAL_EPOCH_NS if self.virtual else time.time_ns()
        self._zero_ns = anchor_ns - round(loop.time() * 1e9)
        self.start_ns = anchor_ns if start_ns is None else start_ns

    def begin(self, start_ns: int) -> None:
        """Set the wall instant of scenario second 0."""
        self.start_ns = start_ns

    def wall_ns(self) -> int:
        """Now, in nanoseconds since the Unix epoch."""
        return self._zero_ns + round(self._time() * 1e9)

    def scenario_at(self, wall_ns: int) -> float:
        """The scenario second that a wall instant falls on; negative before the start."""
        return (wall_ns - self.start_ns) / 1e9 * self.speed

    def wall_of(self, scenario_s: float) -> int:
        """The wall instant of a scenario second."""
        return self.start_ns + round(scenario_s / self.speed * 1e9)

    def now(self) -> float:
        """The scenario second it is now."""
        return self.scenario_at(self.wall_ns())

    async def until(self, scenario_s: float) -> None:
        """Return at that scenario second, at once if it has passed."""
        await self.until_ns(self.wall_of(scenario_s))

    async def until_ns(self, wall_ns: int) -> None:
        """Return at that wall instant, at once if it has passed."""
        delay = (wall_ns - self.wall_ns()) / 1e9
        if delay > 0:
            await asyncio.sleep(delay)


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: what would have been waited for is added to the virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("virtual time stands still: every task waits and no timer is set")
        self.now_s += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` jumps to the next timer. No threads, no sockets on its path."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def virtual_run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in virtual time, from second 0; like `asyncio.run`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
