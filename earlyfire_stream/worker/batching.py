"""Which requests go to the model together, and when.

`Line` decides and is pure: it reads no clock and never waits. A request passes two queues: it waits
to be prepared (decoding, resizing, tokenising), then, ready, for a place in a batch. In both the
users (cameras) take turns and each one's oldest request goes first, so that a user who floods the
line delays the others by one place a turn and no more. At most `ahead` requests are prepared or
being prepared, because prepared pictures are large: the next batch is made ready while the model
works on this one.

A batch that does not fit into memory is answered in halves, and the size that fitted is the limit
for a while.

`Batcher` is the thin asynchronous edge: it moves requests through the line and pieces of answers
back. Threads are its callers' business: `prepare` and `answer` are coroutines to it. Instants are
seconds of the loop's clock.
"""

from __future__ import annotations

__all__ = [
    "Batcher",
    "Full",
    "Job",
    "Line",
    "ModelFailed",
    "Place",
    "RowFailed",
    "Stopping",
    "TooBig",
    "Watcher",
]

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar

from earlyfire_stream.worker.ask import OutOfMemory, Piece, Timings

log = logging.getLogger(__name__)

GROW_AFTER = 20
"""Full batches that fit before larger ones are tried again after memory ran out."""
PADDING_SHARE = 1 / 3
"""Most of a batch that may be padding. Rows are padded to the longest one, so a picture of 100
tokens beside one of 1,280 would be computed, and waited for, as if it had 1,280 as well."""


class Full(Exception):
    """As many requests are waiting as may; try again later."""


class Stopping(Exception):
    """The service is ending: it was not, or will not be, answered."""


class TooBig(Exception):
    """This request alone does not fit into the memory that is there."""


class RowFailed(Exception):
    """The model could not end this row's answer; the text says why."""


class ModelFailed(Exception):
    """Nobody expected that; the log says why."""


class Sized(Protocol):
    """What the line must know of a prepared request."""

    @property
    def prompt_tokens(self) -> int:
        """Length of its row, visual tokens included."""


P = TypeVar("P", bound=Sized)
A = TypeVar("A")
T = TypeVar("T")


# --- deciding ------------------------------------------------------------------------------------


class Stage(Enum):
    WAITING = "waiting"
    PREPARING = "preparing"
    READY = "ready"
    OUT = "out"
    """With the model, or gone."""


@dataclass(eq=False, slots=True)
class Place(Generic[T]):
    """One request's place in the line."""

    user: str
    item: T
    stage: Stage = Stage.WAITING
    tokens: int = 0
    ready_at: float = 0.0


class _Turns(Generic[T]):
    """Users take turns; each one's oldest goes first."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Place[T]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, place: Place[T]) -> None:
        self._queues.setdefault(place.user, deque()).append(place)
        self._count += 1

    def remove(self, place: Place[T]) -> None:
        queue = self._queues[place.user]
        queue.remove(place)
        self._count -= 1
        if not queue:
            del self._queues[place.user]

    def oldest_ready_at(self) -> float:
        return min(queue[0].ready_at for queue in self._queues.values())

    def take(
        self, limit: int, fits: Callable[[Sequence[Place[T]], Place[T]], bool]
    ) -> list[Place[T]]:
        """Up to `limit`, the first one always, each further one if it `fits` those before it.

        A user whose oldest does not fit keeps its turn, and with it the first place of the next
        batch; its newer ones do not go ahead, or the oldest would wait for ever.
        """
        taken: list[Place[T]] = []
        passed: set[str] = set()
        while len(taken) < limit:
            user = next((u for u in self._queues if u not in passed), None)
            if user is None:
                break
            queue = self._queues[user]
            if taken and not fits(taken, queue[0]):
                passed.add(user)
                continue
            taken.append(queue.popleft())
            if queue:
                self._queues.move_to_end(user)
            else:
                del self._queues[user]
        self._count -= len(taken)
        return taken


def _share(together: Sequence[Place[T]], another: Place[T]) -> bool:
    """Whether padding all rows to the longest one leaves enough of the batch to be of use."""
    tokens = [place.tokens for place in together] + [another.tokens]
    return sum(tokens) >= (1 - PADDING_SHARE) * max(tokens) * len(tokens)


class Line(Generic[T]):
    """At most `max_waiting` requests on their way to the model, `max_batch` of them at a time."""

    def __init__(
        self, max_batch: int, wait_s: float, max_waiting: int, ahead: int | None = None
    ) -> None:
        """`wait_s`: how long an idle model waits for requests that are being prepared."""
        if max_batch < 1 or max_waiting < 1 or not wait_s >= 0:
            raise ValueError("max_batch and max_waiting must be at least 1, wait_s at least 0")
        self.max_batch = max_batch
        self.rows = max_batch
        """Rows in a batch now: fewer than `max_batch` after memory ran out."""
        self._wait_s = wait_s
        self._max_waiting = max_waiting
        self._ahead = ahead if ahead is not None else max_batch + 2
        self._raw: _Turns[T] = _Turns()
        self._ready: _Turns[T] = _Turns()
        self._preparing = 0
        self._fitted = 0

    def __len__(self) -> int:
        """Those that are not yet with the model."""
        return len(self._raw) + self._preparing + len(self._ready)

    @property
    def full(self) -> bool:
        return len(self) >= self._max_waiting

    def enter(self, user: str, item: T) -> Place[T]:
        if self.full:
            raise Full
        place = Place(user, item)
        self._raw.add(place)
        return place

    def leave(self, place: Place[T]) -> bool:
        """Take out one that needs no answer any more; False if it was out already."""
        if place.stage is Stage.OUT:
            return False
        if place.stage is Stage.WAITING:
            self._raw.remove(place)
        elif place.stage is Stage.READY:
            self._ready.remove(place)
        else:
            self._preparing -= 1
        place.stage = Stage.OUT
        return True

    def next_to_prepare(self) -> Place[T] | None:
        """Whose turn it is to be prepared; None if nobody waits or enough is prepared."""
        if self._preparing + len(self._ready) >= self._ahead:
            return None
        for place in self._raw.take(1, _share):
            place.stage = Stage.PREPARING
            self._preparing += 1
            return place
        return None

    def prepared(self, place: Place[T], tokens: int, now: float) -> None:
        """It is ready for a batch, unless it has left meanwhile."""
        if place.stage is Stage.PREPARING:
            self._preparing -= 1
            place.stage, place.tokens, place.ready_at = Stage.READY, tokens, now
            self._ready.add(place)

    def next_batch(self, now: float) -> list[Place[T]] | float | None:
        """For an idle model: the batch to answer now, or the instant to ask again, or None.

        It waits only for requests it knows of, and only while the batch is not full: a lone client
        never waits for company that does not come.
        """
        if not len(self._ready):
            return None
        coming = self._preparing + len(self._raw)
        until = self._ready.oldest_ready_at() + self._wait_s
        if len(self._ready) < self.rows and coming and now < until:
            return until
        batch = self._ready.take(self.rows, _share)
        for place in batch:
            place.stage = Stage.OUT
        return batch

    def did_not_fit(self, rows: int) -> None:
        """A batch of `rows` ran out of memory; it is tried again in halves."""
        if rows > 1:  # one that does not fit alone says nothing of the others
            self.rows = min(self.rows, rows // 2)
            self._fitted = 0

    def fitted(self, rows: int) -> None:
        """A batch of `rows` was answered; after some full ones the limit grows by a quarter."""
        if rows < self.rows or self.rows == self.max_batch:
            return
        self._fitted += 1
        if self._fitted >= GROW_AFTER:
            self._fitted = 0
            self.rows = min(self.max_batch, self.rows + max(1, self.rows // 4))


# --- moving --------------------------------------------------------------------------------------


class Watcher(Protocol):
    """Observes from the side; its methods are quick and never raise. Durations in seconds."""

    def prepared(self, took_s: float) -> None: ...

    def batch_began(self, rows: int, queued_s: Sequence[float]) -> None: ...

    def batch_ended(self, timings: Timings) -> None: ...

    def split(self) -> None: ...


@dataclass(eq=False, slots=True)
class Job(Generic[A, P]):
    """One request from its arrival to its last piece: `async for piece in job`.

    Iterating raises what kept it from being answered: what `prepare` raised, RowFailed, TooBig,
    ModelFailed or Stopping. The instants are 0 until they come.
    """

    ask: A
    user: str
    entered_at: float
    prepared: P | None = None
    gone: bool = False
    """Nobody reads the answer any more; the model drops its row at the next step."""
    done: bool = False
    text: str = ""
    """The answer so far."""
    rows: int = 0
    """Size of the batch it was answered in."""
    prepare_s: float = 0.0
    began_at: float = 0.0
    first_at: float = 0.0
    ended_at: float = 0.0
    _again: str = ""
    """What is still to come of what a first try had said already."""
    _place: Place[Job[A, P]] | None = None
    _pieces: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)

    @property
    def queued_s(self) -> float:
        """Waiting before and after being prepared."""
        return max(0.0, self.began_at - self.entered_at - self.prepare_s)

    def __aiter__(self) -> Job[A, P]:
        return self

    async def __anext__(self) -> Piece:
        if self.done and self._pieces.empty():
            raise StopAsyncIteration
        piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        return piece

    def begin(self, rows: int, now: float) -> None:
        """A batch with it begins, for the second time if the first one did not fit."""
        self.rows = rows
        self.began_at = self.began_at or now
        self._again = self.text

    def take(self, piece: Piece, now: float) -> None:
        """A piece from the model. What a first try has said already is not said again."""
        if self.done:
            return
        if piece.error:
            self.fail(RowFailed(piece.error), now)
            return
        if self._again:
            if not self._again.startswith(piece.text) or piece.finish is not None:
                log.error("a second try gave another answer than %r", self.text)
                self.fail(ModelFailed(), now)
                return
            self._again = self._again[len(piece.text) :]
            return
        self.first_at = self.first_at or now
        self.text += piece.text
        if piece.finish is not None:
            self.done, self.ended_at = True, now
        self._pieces.put_nowait(piece)

    def fail(self, why: Exception, now: float) -> None:
        if not self.done:
            self.done, self.ended_at = True, now
            self._pieces.put_nowait(why)


Emit = Callable[[int, Piece, float], None]
"""(row, piece, instant); on the loop's thread."""
Alive = Callable[[int], bool]
"""Whether anybody still wants that row; may be called from any thread."""
Prepare = Callable[[A], Awaitable[P]]
Answer = Callable[[Sequence[P], Emit, Alive], Awaitable[Timings]]


class Batcher(Generic[A, P]):
    """Moves jobs through a line. `run()` works until cancelled; `drain()` ends it kindly."""

    def __init__(
        self,
        line: Line[Job[A, P]],
        prepare: Prepare[A, P],
        answer: Answer[P],
        *,
        at_once: int,
        watcher: Watcher,
        on_broken: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`at_once`: how many are prepared side by side.

        `on_broken` is awaited after a batch failed for a reason that nobody expected.
        """
        self.line = line
        self._prepare = prepare
        self._answer = answer
        self._at_once = at_once
        self._watcher = watcher
        self._on_broken = on_broken
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._jobs: set[Job[A, P]] = set()
        self._running: list[Job[A, P]] = []
        self.stopping = False

    @property
    def inflight(self) -> int:
        """Jobs that the model is working on."""
        return sum(not job.done for job in self._running)

    def enter(self, ask: A, user: str) -> Job[A, P]:
        """Take a place. Full or Stopping if there is none; give it back with `leave`."""
        if self.stopping:
            raise Stopping
        job: Job[A, P] = Job(ask, user, _now())
        job._place = self.line.enter(user, job)
        self._jobs.add(job)
        self._idle.clear()
        self._room.set()
        return job

    def leave(self, job: Job[A, P]) -> None:
        """Nobody reads this job any more, answered or not."""
        job.gone = True
        if job._place is not None and self.line.leave(job._place):
            self._moved()
        self._jobs.discard(job)
        if not self._jobs:
            self._idle.set()

    def _moved(self) -> None:
        self._wake.set()
        self._room.set()

    async def run(self) -> None:
        """Prepare and answer until cancelled. Those who are left then get Stopping."""
        try:
            async with asyncio.TaskGroup() as group:
                for n in range(self._at_once):
                    group.create_task(self._keep_preparing(), name=f"prepare {n}")
                group.create_task(self._keep_answering(), name="answer")
        finally:
            self.stopping = True
            for job in self._jobs:
                job.fail(Stopping(), _now())

    async def drain(self, grace_s: float) -> bool:
        """Take nobody in any more and wait for those who are; False if time ran out first.

        Those who are left then get Stopping.
        """
        self.stopping = True
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            for job in self._jobs:
                job.fail(Stopping(), _now())
                job.gone = True
            return False
        return True

    async def _keep_preparing(self) -> None:
        while True:
            place = self.line.next_to_prepare()
            if place is None:
                self._room.clear()
                await self._room.wait()
                continue
            await self._prepare_one(place)

    async def _prepare_one(self, place: Place[Job[A, P]]) -> None:
        job = place.item
        began = _now()
        try:
            prepared = await self._prepare(job.ask)
        except Exception as why:  # whatever it is, it is this one request's
            self.line.leave(place)
            job.fail(why, _now())
        else:
            now = _now()
            job.prepared, job.prepare_s = prepared, now - began
            self.line.prepared(place, prepared.prompt_tokens, now)
            self._watcher.prepared(job.prepare_s)
        self._moved()

    async def _keep_answering(self) -> None:
        while True:
            self._wake.clear()
            batch = self.line.next_batch(_now())
            if isinstance(batch, list):
                self._room.set()
                self._running = [place.item for place in batch]
                try:
                    await self._answer_all(self._running)
                finally:
                    self._running = []
            elif batch is None:
                await self._wake.wait()
            else:
                try:
                    async with asyncio.timeout_at(batch):
                        await self._wake.wait()
                except TimeoutError:
                    pass  # it has waited long enough

    async def _answer_all(self, jobs: Sequence[Job[A, P]]) -> None:
        """Answer them together or, where memory is short, in halves."""
        jobs = [job for job in jobs if not (job.done or job.gone)]
        if not jobs:
            return
        now = _now()
        fresh = [job for job in jobs if not job.began_at]
        for job in jobs:
            job.begin(len(jobs), now)
        self._watcher.batch_began(len(jobs), [job.queued_s for job in fresh])

        def emit(row: int, piece: Piece, at: float) -> None:
            jobs[row].take(piece, at)

        def alive(row: int) -> bool:
            return not jobs[row].gone

        rows = [job.prepared for job in jobs if job.prepared is not None]
        assert len(rows) == len(jobs)  # only what was prepared gets into a batch
        try:
            timings = await self._answer(rows, emit, alive)
        except OutOfMemory as why:
            self._watcher.split()
            self.line.did_not_fit(len(jobs))
            log.warning("%d rows did not fit into memory: %s", len(jobs), why)
            if len(jobs) == 1:
                jobs[0].fail(TooBig(), _now())
                return
            half = (len(jobs) + 1) // 2
            await self._answer_all(jobs[:half])
            await self._answer_all(jobs[half:])
            return
        except Exception:
            log.exception("a batch of %d failed", len(jobs))
            for job in jobs:
                job.fail(ModelFailed(), _now())
            if self._on_broken is not None:
                await self._on_broken()
            return
        self.line.fitted(len(jobs))
        self._watcher.batch_ended(timings)
        for job in jobs:
            if not job.done and not job.gone:
                log.error("the model came to an end without an end of the answer")
                job.fail(ModelFailed(), _now())


def _now() -> float:
    return asyncio.get_running_loop().time()
