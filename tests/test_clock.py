"""Scenario seconds, wall instants, and a loop that jumps instead of waiting."""

from __future__ import annotations

import asyncio
import time

import pytest

from earlyfire_stream.clock import VIRTUAL_EPOCH_NS, Clock, virtual_run

SECOND = 1_000_000_000


def test_a_speed_that_is_not_above_zero_is_refused() -> None:
    async def main() -> None:
        for speed in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="speed"):
                Clock(speed)

    virtual_run(main())


def test_at_speed_ten_one_wall_second_is_ten_scenario_seconds() -> None:
    async def main() -> None:
        clock = Clock(10.0, start_ns=1_000 * SECOND)
        assert clock.scenario_at(1_000 * SECOND) == 0.0
        assert clock.scenario_at(1_001 * SECOND) == 10.0
        assert clock.scenario_at(999 * SECOND) == -10.0
        assert clock.wall_of(25.0) == 1_002_500_000_000
        assert clock.wall_of(-5.0) == 999_500_000_000

    virtual_run(main())


def test_a_scenario_second_maps_to_the_wall_and_back() -> None:
    async def main() -> None:
        clock = Clock(3.0)
        for at in (0.0, 0.1, 1 / 3, 12.345678, 86_400.5):
            assert clock.scenario_at(clock.wall_of(at)) == pytest.approx(at, abs=3e-9)

    virtual_run(main())


def test_virtual_time_begins_at_its_fixed_epoch_and_at_scenario_second_zero() -> None:
    async def main() -> tuple[bool, int, int, float]:
        clock = Clock()
        return clock.virtual, clock.wall_ns(), clock.start_ns, clock.now()

    assert virtual_run(main()) == (True, VIRTUAL_EPOCH_NS, VIRTUAL_EPOCH_NS, 0.0)


def test_the_virtual_loop_jumps_to_the_exact_instant() -> None:
    async def main() -> list[tuple[float, int]]:
        clock = Clock(4.0)
        seen = []
        for at in (0.5, 1.0, 1000.0, 604_800.0):
            await clock.until(at)
            seen.append((clock.now(), clock.wall_ns() - VIRTUAL_EPOCH_NS))
        return seen

    assert virtual_run(main()) == [
        (0.5, 125_000_000),
        (1.0, 250_000_000),
        (1000.0, 250 * SECOND),
        (604_800.0, 151_200 * SECOND),
    ]


def test_an_instant_that_has_passed_is_no_wait() -> None:
    async def main() -> float:
        clock = Clock()
        await clock.until(5.0)
        await clock.until(2.0)
        await clock.until_ns(0)
        return clock.now()

    assert virtual_run(main()) == 5.0


def test_a_start_in_the_future_makes_scenario_time_negative_until_then() -> None:
    async def main() -> list[float]:
        clock = Clock(2.0)
        clock.begin(clock.wall_ns() + 3 * SECOND)
        seen = [clock.now()]
        await clock.until(0.0)
        seen += [clock.now(), (clock.wall_ns() - VIRTUAL_EPOCH_NS) / 1e9]
        await clock.until(4.0)
        return [*seen, (clock.wall_ns() - VIRTUAL_EPOCH_NS) / 1e9]

    assert virtual_run(main()) == [-6.0, 0.0, 3.0, 5.0]


def test_a_start_in_the_past_means_joining_late() -> None:
    async def main() -> float:
        clock = Clock(2.0)
        clock.begin(clock.wall_ns() - 30 * SECOND)
        return clock.now()

    assert virtual_run(main()) == 60.0


def test_sleepers_wake_in_order_of_time_whatever_order_they_began_in() -> None:
    async def main() -> list[float]:
        clock, woken = Clock(), []

        async def sleep(at: float) -> None:
            await clock.until(at)
            woken.append(clock.now())

        async with asyncio.TaskGroup() as group:
            for at in (3.0, 0.25, 7.5, 0.5):
                group.create_task(sleep(at))
        return woken

    assert virtual_run(main()) == [0.25, 0.5, 3.0, 7.5]


def test_two_virtual_runs_are_identical() -> None:
    async def main() -> list[tuple[str, int]]:
        clock, seen = Clock(7.0), []

        async def tick(name: str, every: float) -> None:
            for n in range(1, 50):
                await clock.until(n * every)
                seen.append((name, clock.wall_ns()))

        async with asyncio.TaskGroup() as group:
            for name, every in (("a", 0.3), ("b", 0.7), ("c", 0.1)):
                group.create_task(tick(name, every))
        return seen

    assert virtual_run(main()) == virtual_run(main())


def test_a_program_in_which_nothing_can_happen_any_more_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="virtual time stands still"):
        virtual_run(main())


def test_a_timeout_fires_in_virtual_time() -> None:
    async def main() -> float:
        clock = Clock()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(90):
                await asyncio.Event().wait()
        return clock.now()

    assert virtual_run(main()) == 90.0


async def test_on_a_real_loop_wall_instants_are_those_of_the_system() -> None:
    clock = Clock()
    assert not clock.virtual
    before = time.time_ns()
    now = clock.wall_ns()
    assert before - SECOND < now < time.time_ns() + SECOND  # the two may drift apart, not far
    assert clock.wall_ns() <= clock.wall_ns()
