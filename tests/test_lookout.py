"""The consumer of a run dies and is followed by another, whatever else goes wrong meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import TransportError
from earlyfire_stream.lookout import Lookout


class Working:
    """A consumer that works until it is stopped or killed."""

    def __init__(self, inlet: Any) -> None:
        self.inlet = inlet
        self.works = False
        self.ended = asyncio.Event()

    async def watch(self) -> None:
        self.works = True
        try:
            await self.ended.wait()
        finally:
            self.works = False

    def stop(self, last_seqs: Any) -> None:
        self.ended.set()

    def snapshot(self) -> None:
        return None

    def take_over(self, fallen: Working) -> None:
        pass


class Broker:
    """Lets a client in after `takes_s`, or not at all while it is away."""

    def __init__(self) -> None:
        self.away = False
        self.takes_s = 0.0
        self.clients = 0

    @asynccontextmanager
    async def inlet(self) -> AsyncIterator[Any]:
        await asyncio.sleep(self.takes_s)
        if self.away:
            raise TransportError("cannot reach the broker")
        self.clients += 1
        try:
            yield object()
        finally:
            self.clients -= 1


Story = Callable[[Lookout, Broker, list[Working]], Any]


def play(story: Story) -> None:
    """The story beside a lookout that watches; then the lookout is stopped and must end."""

    async def whole() -> None:
        broker, made = Broker(), list[Working]()

        def make(inlet: Any) -> Any:
            made.append(Working(inlet))
            return made[-1]

        async with Lookout(broker.inlet) as lookout:
            lookout.employ(make, lambda: None)
            watching = asyncio.create_task(lookout.watch())
            await asyncio.sleep(1)
            await story(lookout, broker, made)
            lookout.stop()
            async with asyncio.timeout(60):
                await watching
        assert broker.clients == 0
        assert not any(one.works for one in made)

    virtual_run(whole())


def test_a_consumer_that_comes_back_before_the_broker_does_waits_for_it() -> None:
    async def story(lookout: Lookout, broker: Broker, made: list[Working]) -> None:
        broker.away = True
        async with lookout.down():
            await asyncio.sleep(5)
        await asyncio.sleep(100)
        assert [one.works for one in made] == [False]
        broker.away = False
        await asyncio.sleep(10)
        assert [one.works for one in made] == [False, True]

    play(story)


def test_a_consumer_that_waits_for_the_broker_can_be_stopped() -> None:
    async def story(lookout: Lookout, broker: Broker, made: list[Working]) -> None:
        broker.away = True
        async with lookout.down():
            pass
        await asyncio.sleep(100)

    play(story)


def test_a_consumer_killed_again_while_it_connects_stays_dead_until_that_is_over() -> None:
    async def story(lookout: Lookout, broker: Broker, made: list[Working]) -> None:
        broker.takes_s = 4
        async with lookout.down():
            await asyncio.sleep(5)
        await asyncio.sleep(2)
        async with lookout.down():
            await asyncio.sleep(50)
            assert not any(one.works for one in made)
            assert broker.clients == 0
        await asyncio.sleep(10)
        assert [one.works for one in made] == [False, True]

    play(story)


def test_a_consumer_whose_killing_is_cut_short_is_followed_by_another() -> None:
    async def story(lookout: Lookout, broker: Broker, made: list[Working]) -> None:
        async def kill() -> None:
            async with lookout.down():
                await asyncio.sleep(1000)

        killing = asyncio.create_task(kill())
        await asyncio.sleep(0)  # it waits for the consumer's end
        killing.cancel()
        await asyncio.sleep(5)
        assert [one.works for one in made] == [False, True]

    play(story)


def test_a_consumer_that_is_stopping_is_not_killed_any_more() -> None:
    async def story(lookout: Lookout, broker: Broker, made: list[Working]) -> None:
        lookout.stop()
        async with lookout.down():
            await asyncio.sleep(50)
        assert len(made) == 1

    play(story)


def test_a_consumer_that_is_dead_before_it_began_does_not_begin() -> None:
    async def whole() -> None:
        broker, made = Broker(), list[Working]()

        def make(inlet: Any) -> Any:
            made.append(Working(inlet))
            return made[-1]

        async with Lookout(broker.inlet) as lookout:
            lookout.employ(make, lambda: None)
            async with lookout.down():
                watching = asyncio.create_task(lookout.watch())
                await asyncio.sleep(5)
                assert [one.works for one in made] == [False]
            await asyncio.sleep(5)
            assert [one.works for one in made] == [False, True]
            lookout.stop()
            await watching

    virtual_run(whole())
