"""The classical detector as an engine: needs no model, no server and no GPU.

It compares a camera's looks with that camera's earlier looks, so each camera has a detector of its
own, and a camera's looks run one after the other in the order of their capture, in a thread. A look
that nobody waits for any more (deadline, cancellation) still runs to its end before the next one
of its camera begins: half a look would leave half a memory.

A detector remembers nine looks, about 6 MB. At most `cameras` of them are kept; beyond that the
one that looked longest ago is forgotten and has to warm up again, which is logged: a larger fleet
needs a larger `cameras` (and 6 MB each) or several consumers with `--shard`.

In virtual time there are no threads: a look runs at once, and then as much virtual time passes as
it took in truth, so that its latency is a measured one.

It takes no visual tokens; the request's count is reported all the same, so that sampling policies
compare with those of language models.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt
import orjson

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines.base import Check, Reply, Request, Traits, unknown
from earlyfire_stream.engines.smoke import Look, SmokeDetector, SmokeSettings
from earlyfire_stream.errors import EngineRejected, EngineTimeout, UsageError
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import CoordSpace, Verdict

__all__ = ["BaselineEngine"]

log = logging.getLogger(__name__)

CAMERAS = 512
"""About 3 GB when all of them are in use."""


@dataclass(slots=True)
class _Watch:
    """One camera: its detector, what it saw last, and the look that runs or ran last."""

    detector: SmokeDetector
    seen_at: float = -math.inf
    """Scenario seconds."""
    busy: asyncio.Future[Look] | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Fair: looks get their turn in the order in which they were asked for."""
    waiting: int = 0

    @property
    def idle(self) -> bool:
        return self.waiting == 0 and (self.busy is None or self.busy.done())


class BaselineEngine:
    """Settings: `timeout`, and as options any field of SmokeSettings, `cameras` and `threads`."""

    def __init__(self, settings: models.Engine, clock: Clock) -> None:
        if settings.profile is not None or settings.model is not None or settings.url is not None:
            raise UsageError("engine 'baseline' has no profile, model or url")
        self._settings, self._cameras, threads = _options(settings.options)
        self._clock = clock
        self._timeout_s = settings.timeout
        self._threads = threads
        self._watches: OrderedDict[str, _Watch] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        self.forgotten = 0
        """Detectors dropped because more cameras came than are kept."""
        self.traits = Traits(
            name="baseline",
            model="median-change",
            coord_space=CoordSpace.UNIT,
            max_concurrency=threads,
            default_concurrency=threads,
            virtual_ok=True,
            crops=False,  # it compares a camera's looks, which must all show the same view
        )

    async def __aenter__(self) -> Self:
        if not self._clock.virtual:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="baseline")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pool, self._pool = self._pool, None
        self._watches.clear()
        if pool is not None:
            # the looks that still run take milliseconds; those that wait are dropped
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)

    async def check(self) -> list[Check]:
        found = f"OpenCV {cv2.__version__}, {self._threads} threads"
        return [Check("baseline detector", True, found)]

    async def infer(self, request: Request) -> Reply:
        began_ns = self._clock.wall_ns()
        left_s = min(self._timeout_s, (request.deadline_ns - began_ns) / 1e9)
        if left_s <= 0:
            raise EngineTimeout("the deadline had passed before it was asked")
        watch = self._watch(request.camera)
        try:
            async with asyncio.timeout(left_s):
                watch.waiting += 1
                try:
                    async with watch.turn:
                        queued_ns = self._clock.wall_ns()
                        look = await self._look(watch, request)
                finally:
                    watch.waiting -= 1
        except TimeoutError:
            raise EngineTimeout(f"no look within {left_s:.3g} s") from None
        now_ns = self._clock.wall_ns()
        box = look.box if look.has_smoke else None
        four = None if box is None else [box.xc, box.yc, box.w, box.h]
        return Reply(
            text=orjson.dumps({"has_smoke": look.has_smoke, "bbox": four}).decode(),
            finish="stop",
            decided_ns=now_ns,
            answered_ns=now_ns,
            visual_tokens=request.visual_tokens,
            confidence=look.confidence,
            verdict=Verdict(look.has_smoke, box, look.confidence),
            server={
                "queue_s": (queued_ns - began_ns) / 1e9,
                "look_s": (now_ns - queued_ns) / 1e9,
            },
        )

    async def _look(self, watch: _Watch, request: Request) -> Look:
        """Run one look in the pool. Holds the camera's turn."""
        if watch.busy is not None and not watch.busy.done():
            # its caller went away, the thread did not
            await asyncio.wait([watch.busy])
        if request.captured_at < watch.seen_at:
            raise EngineRejected(
                f"camera {request.camera}: a frame of {request.captured_at:g} s came after one "
                f"of {watch.seen_at:g} s; looks must come in order of capture"
            )
        watch.seen_at = request.captured_at
        if self._clock.virtual:
            began_s = time.perf_counter()
            look = _judge(watch.detector, request)
            await asyncio.sleep(time.perf_counter() - began_s)
            return look
        assert self._pool is not None, "enter the engine first"
        loop = asyncio.get_running_loop()
        watch.busy = loop.run_in_executor(self._pool, _judge, watch.detector, request)
        watch.busy.add_done_callback(_retrieve)
        return await asyncio.shield(watch.busy)

    def _watch(self, camera: str) -> _Watch:
        watch = self._watches.get(camera)
        if watch is not None:
            self._watches.move_to_end(camera)
            return watch
        if len(self._watches) >= self._cameras:
            self._forget_one()
        watch = self._watches[camera] = _Watch(SmokeDetector(self._settings))
        return watch

    def _forget_one(self) -> None:
        oldest = next((name for name, watch in self._watches.items() if watch.idle), None)
        if oldest is None:
            return  # all of them are looking this very moment; the bound holds again soon
        del self._watches[oldest]
        self.forgotten += 1
        if self.forgotten == 1:
            log.warning(
                "more than %d cameras: baseline forgets %s and others, which must warm up again; "
                "raise its option `cameras` or use --shard",
                self._cameras,
                oldest,
            )


def _judge(detector: SmokeDetector, request: Request) -> Look:
    """In a thread. ValueError becomes EngineRejected: that picture cannot be looked at."""
    image: npt.NDArray[Any] | None = request.image
    if image is None and request.jpeg:  # OpenCV asserts that there are bytes
        image = cv2.imdecode(np.frombuffer(request.jpeg, np.uint8), cv2.IMREAD_COLOR)
    try:
        if image is None:
            raise ValueError("it cannot be decoded")
        return detector.look(image, request.captured_at)
    except ValueError as error:
        raise EngineRejected(f"camera {request.camera}: {error}") from error


def _retrieve(look: asyncio.Future[Look]) -> None:
    """Look at the outcome of a look that nobody waits for, or asyncio complains."""
    if not look.cancelled():
        look.exception()


def _options(given: Mapping[str, Any]) -> tuple[SmokeSettings, int, int]:
    """(settings, cameras, threads); UsageError for what cannot be."""
    whole = {"cameras": CAMERAS, "threads": min(8, os.cpu_count() or 1)}
    smoke = {f.name: f.default for f in fields(SmokeSettings)}
    changes: dict[str, Any] = {}
    for key, value in given.items():
        if key not in whole and key not in smoke:
            raise unknown("option of engine 'baseline'", key, [*whole, *smoke])
        integer = isinstance({**whole, **smoke}[key], int)
        allowed = isinstance(value, int if integer else int | float) and not isinstance(value, bool)
        if not allowed or not abs(value) <= 2**53:  # nor NaN, nor what no float holds
            raise UsageError(f"option {key} of engine 'baseline' cannot be {value!r}")
        if key in whole:
            if value < 1:
                raise UsageError(f"option {key} of engine 'baseline' must be at least 1")
            whole[key] = value
        else:
            changes[key] = value
    try:
        return SmokeSettings(**changes), whole["cameras"], whole["threads"]
    except ValueError as error:
        raise UsageError(f"engine 'baseline': {error}") from error
