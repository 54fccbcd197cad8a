"""Several workers that serve the same model: who is asked next, and who is left alone for a while.

The least loaded is asked: requests under way against the batch that it can take. A worker that
cannot be reached is left alone and asked now and then whether it is ready, after pauses that grow;
the others go on. A request that never began on one worker (connection refused, queue full) is
handed to the next; one that began is not: a request that ends workers must not end all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines.base import Reply, Request
from earlyfire_stream.engines.chat import ChatClient
from earlyfire_stream.engines.streaming import Busy, coord_space, count
from earlyfire_stream.errors import (
    EngineBroken,
    EngineError,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
)
from earlyfire_stream.tokens import MAX_TOKENS, MIN_TOKENS
from earlyfire_stream.verdict import CoordSpace

__all__ = [
    "Card",
    "Load",
    "Member",
    "Pool",
    "State",
    "choose",
    "labelled",
    "never_began",
    "pause_s",
]

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LOADING_S = 0.5
"""Between two questions to a worker that loads its model."""
MOST_BATCH = 1024
"""A worker that tells a larger one is not believed."""


# --- decisions -----------------------------------------------------------------------------------


class State(StrEnum):
    UP = "up"
    BUSY = "busy"
    """It said that it is full; it is asked only where nobody else can be."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Load:
    """How things stand with one worker."""

    in_flight: int
    max_batch: int
    state: State = State.UP


def choose(loads: Sequence[Load], turn: int) -> int | None:
    """Whom to ask: the least in_flight / max_batch; None if all of them are down.

    Equal ones take turns: the first from `turn` on, round about. 1/2 and 3/8 -> the second.
    """
    for state in (State.UP, State.BUSY):
        there = [n for n, load in enumerate(loads) if load.state is state]
        if there:
            return min(
                there,
                key=lambda n: (loads[n].in_flight / loads[n].max_batch, (n - turn) % len(loads)),
            )
    return None


def pause_s(failures: int) -> float:
    """Seconds until a worker that has failed so often in a row is asked again: 0.5, 1, 2 … 30."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10)))


def never_began(why: EngineError) -> bool:
    """May the same request be sent elsewhere without its being done twice?"""
    if isinstance(why, Busy):
        return True
    refused = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    return isinstance(why, EngineUnavailable) and isinstance(why.__cause__, refused)


@dataclass(frozen=True, slots=True)
class Card:
    """What a worker says of its model; two workers with equal names give the same answers."""

    model: str
    coord_space: CoordSpace
    min_tokens: int
    max_tokens: int
    max_batch: int
    clips: bool
    precision: str
    """dtype and bits: answers differ a little where it does."""

    @classmethod
    def read(cls, model: str, about: Mapping[str, object]) -> Card:
        """Whatever it left out, or told amiss, is what the model's name suggests."""
        family = about.get("family")
        told = about.get("coord_space")
        space = CoordSpace(told) if isinstance(told, str) and told in list(CoordSpace) else None
        space = space or coord_space(model, family if isinstance(family, str) else "")
        most = min(count(about.get("max_visual_tokens")) or MAX_TOKENS, MAX_TOKENS)
        least = max(1, count(about.get("min_visual_tokens")) or MIN_TOKENS)
        batch = count(about.get("max_batch")) or 1
        return cls(
            model=model,
            coord_space=space or CoordSpace.UNIT,
            min_tokens=min(least, most),
            max_tokens=most,
            max_batch=min(batch, MOST_BATCH),
            clips=about.get("clips") is True,
            precision=f"{about.get('dtype')!s:.20}{', 4 bit' if about.get('four_bit') else ''}",
        )


# --- the workers ---------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Member:
    """One worker, as far as we know of it."""

    number: int
    client: ChatClient
    card: Card | None = None
    """None until it has answered."""
    state: State = State.DOWN
    why: str = "it has not been asked yet"
    """Why it is not up."""
    in_flight: int = 0
    failures: int = 0
    """In a row."""
    ask_at: float | None = None
    """Loop time at which it is asked whether it is ready; None if nothing hangs on it."""

    @property
    def load(self) -> Load:
        return Load(self.in_flight, self.card.max_batch if self.card else 1, self.state)


class Pool:
    """Enter it, `join` workers, ask. `connect` makes a client for an address, not entered yet."""

    def __init__(self, clock: Clock, connect: Callable[[URL], ChatClient]) -> None:
        self._clock = clock
        self._connect = connect
        self._stack = AsyncExitStack()
        self._probing: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._turn = 0
        self.members: list[Member] = []
        self.misfit: Callable[[Card], str] = lambda _: ""
        """Why a worker cannot stand for the others; empty if it can."""

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self._probing = asyncio.create_task(self._probe_for_ever(), name="worker probe")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        probing, self._probing = self._probing, None
        try:
            if probing is not None:
                probing.cancel()
                with suppress(asyncio.CancelledError):
                    await probing
        finally:
            await self._stack.aclose()
            self.members.clear()

    async def add(self, url: URL) -> Member:
        """A worker that is not asked yet; see `join`."""
        client = await self._stack.enter_async_context(self._connect(url))
        member = Member(len(self.members), client)
        self.members.append(member)
        return member

    async def replace(self, url: URL) -> None:
        """The one worker there is has moved; it is ready, and serves what it served."""
        (member,) = self.members
        assert member.card is not None
        # The old client stays open until the end: its requests are failing this very moment.
        client = await self._stack.enter_async_context(self._connect(url))
        client.model = member.card.model
        member.client = client
        self._is_up(member)

    async def join(self, member: Member, load_s: float) -> None:
        """Wait while it loads its model, then take it in. A worker that is not there is left for
        later; EngineRejected passes (a wrong key, say)."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + load_s
        while True:
            try:
                await self._look(member)
            except EngineOverloaded as why:
                if loop.time() < ends_at:
                    await asyncio.sleep(LOADING_S)
                    continue
                self._is_down(member, str(why))
            except (EngineUnavailable, EngineTimeout, EngineBroken) as why:
                self._is_down(member, str(why))
            else:
                self._is_up(member)
            return

    async def _look(self, member: Member) -> None:
        """Returns if it is ready and its card was read; EngineError if not."""
        client = member.client
        await client.ready()
        served = await client.models()
        if not served:
            raise EngineBroken(f"{client.address}: no worker; it lists no model")
        member.card = Card.read(served[0].name, served[0].about)
        client.model = member.card.model

    # --- asking ---

    async def infer(self, request: Request, timeout_s: float) -> Reply:
        """Ask the least loaded, and the next one where a request never began."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_s
        tried: set[int] = set()
        last: EngineError | None = None
        while (member := self._next(tried)) is not None:
            tried.add(member.number)
            client = member.client
            member.in_flight += 1
            try:
                reply = await client.infer(request, max(0.0, ends_at - loop.time()))
            except EngineError as why:
                if member.client is client:  # else it has moved, and this says nothing of it now
                    self._note(member, why)
                if not never_began(why):
                    raise
                last = why
            else:
                if member.state is State.BUSY:
                    self._is_up(member)
                member.failures = 0
                return reply
            finally:
                member.in_flight -= 1
        raise last or EngineUnavailable(self.trouble)

    @property
    def trouble(self) -> str:
        """Why nobody can be asked."""
        return "; ".join(member.why for member in self.members) or "there is no worker"

    def _next(self, tried: set[int]) -> Member | None:
        left = [member for member in self.members if member.number not in tried]
        at = choose([member.load for member in left], self._turn % max(1, len(left)))
        if at is None:
            return None
        self._turn = (left[at].number + 1) % len(self.members)
        return left[at]

    def _note(self, member: Member, why: EngineError) -> None:
        match why:
            case EngineOverloaded():
                member.state, member.why = State.BUSY, str(why)
                self._ask_later(member)
            case EngineUnavailable():
                self._is_down(member, str(why))
            case EngineTimeout() if member.ask_at is None:
                # Slow, or stuck? It is asked at once, and goes on being used meanwhile.
                member.ask_at = asyncio.get_running_loop().time()
                self._due.set()
            case _:
                pass

    # --- who is there ---

    def _is_up(self, member: Member) -> None:
        assert member.card is not None
        if why := self.misfit(member.card):
            self._is_down(member, f"{member.client.address} {why}")
            return
        if member.state is State.DOWN and member.failures:
            log.info("worker %s is ready", member.client.address)
        member.state, member.why, member.failures, member.ask_at = State.UP, "", 0, None

    def _is_down(self, member: Member, why: str) -> None:
        if member.state is not State.DOWN:
            log.warning("worker %s is left alone: %s", member.client.address, why)
        member.state, member.why = State.DOWN, why
        self._ask_later(member)

    def _ask_later(self, member: Member) -> None:
        member.failures += 1
        member.ask_at = asyncio.get_running_loop().time() + pause_s(member.failures)
        self._due.set()

    async def _probe_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._due.clear()
            times = [member.ask_at for member in self.members if member.ask_at is not None]
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(times, default=None)):
                    await self._due.wait()
                continue
            due = [m for m in self.members if m.ask_at is not None and m.ask_at <= loop.time()]
            await asyncio.gather(*[self._probe(member) for member in due])

    async def _probe(self, member: Member) -> None:
        client = member.client
        try:
            await self._look(member)
        except EngineError as why:
            if member.client is client:
                self._is_down(member, str(why))
        else:
            self._is_up(member)

    def gauges(self) -> Mapping[str, float]:
        """What we know ourselves."""
        found: dict[str, float] = {}
        for member in self.members:
            label = f'{{worker="{member.number}"}}'
            found[f"earlyfire_worker_up{label}"] = float(member.state is not State.DOWN)
            found[f"earlyfire_worker_asked{label}"] = float(member.in_flight)
        return found

    async def scrape(self) -> Mapping[str, float]:
        """The workers' own metrics, each with its number as a label, and ours."""
        there = [member for member in self.members if member.state is not State.DOWN]
        several = await asyncio.gather(*[member.client.gauges() for member in there])
        found = dict(self.gauges())
        for member, one in zip(there, several, strict=True):
            found |= {labelled(name, member.number): value for name, value in one.items()}
        return found


def labelled(series: str, number: int) -> str:
    """`a` -> `a{worker="0"}`, `a{b="c"}` -> `a{b="c",worker="0"}`."""
    if series.endswith("}"):
        return f'{series[:-1]},worker="{number}"}}'
    return f'{series}{{worker="{number}"}}'
