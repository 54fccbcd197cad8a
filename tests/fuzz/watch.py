"""One input at a time: what it raised, how long it took, what it cost in memory.

Time is the processor's for this thread, so that a busy machine is no finding; memory is the highest
water mark of the process. Both bounds are far above what any input should take: they are there for
what grows with the square of its size, or holds what a few bytes promised.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

CPU_S = 2.0
MEMORY_BYTES = 256 * 2**20
HANG_S = 30.0
_UNIT = 1 if sys.platform == "darwin" else 1024

Check = Callable[[bytes], str]
"""Says what became of an input; raises whatever should never be raised."""


class Escape(AssertionError):
    """Not what the module promises."""


class _Hangs(BaseException):
    """Beyond all patience; no handler for Exception takes it for its own."""


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    where: str
    data: bytes


@dataclass(slots=True)
class Watch:
    """Counts what became of the inputs; of each kind of finding the shortest input is kept."""

    check: Check
    became: Counter[str] = field(default_factory=Counter)
    found: dict[tuple[str, str], Finding] = field(default_factory=dict)
    inputs: int = 0
    slowest_s: float = 0.0
    on_finding: Callable[[Finding], None] = lambda finding: None

    def __call__(self, data: bytes) -> None:
        self.inputs += 1
        high = _high_water()
        began = time.thread_time()
        try:
            with _patience():
                self.became[self.check(data)] += 1
        except _Hangs:
            self._keep(f"no end after {HANG_S:g} s", "", data)
        except Exception as why:
            self._keep(f"{type(why).__name__}: {str(why)[:160]}", _where(why), data)
        took_s = time.thread_time() - began
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > CPU_S:
            self._keep(f"took more than {CPU_S:g} s", "", data)
        if (grown := _high_water() - high) > MEMORY_BYTES:
            self._keep(f"took {grown // 2**20} MiB", "", data)

    def _keep(self, what: str, where: str, data: bytes) -> None:
        key = (what.partition(":")[0], where)
        known = self.found.get(key)
        if known is None or len(data) < len(known.data):
            self.found[key] = Finding(what, where, data)
        if known is None:
            self.on_finding(self.found[key])


def _high_water() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def _where(why: BaseException) -> str:
    """The place that raised it, in the project if any of the way leads through it."""
    frames = traceback.extract_tb(why.__traceback__)
    ours = [f for f in frames if "earlyfire_stream" in f.filename] or frames
    last = ours[-1]
    return f"{last.filename.rpartition('earlyfire_stream/')[2]}:{last.lineno} {last.name}"


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    def enough(number: int, frame: FrameType | None) -> None:
        raise _Hangs

    before = signal.signal(signal.SIGVTALRM, enough)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
