"""The memory transport and the bounded intake, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from earlyfire_stream.clock import Clock, virtual_run
from earlyfire_stream.frames import shard_of
from earlyfire_stream.transport.base import Arrival, Control, Crew, Intake, IntakeLimits
from earlyfire_stream.transport.memory import MemoryHub
from earlyfire_stream.verdict import Reason


def test_frames_arrive_in_order_of_publishing_with_the_virtual_instant() -> None:
    async def main() -> list[tuple[str, bytes, float]]:
        clock = Clock()
        hub = MemoryHub(clock.wall_ns)
        async with hub.link() as link, hub.inlet() as inlet:

            async def camera(name: str, cadence_s: float) -> None:
                for seq in range(3):
                    await clock.until(seq * cadence_s)
                    assert await link.publish(name, seq, b"%d" % seq) is Reason.NONE

            async with asyncio.TaskGroup() as group:
                group.create_task(camera("a", 10))
                group.create_task(camera("b", 4))
        return [
            (a.camera, a.payload, clock.scenario_at(a.received_ns)) async for a in inlet.arrivals()
        ]

    expected = [
        ("a", b"0", 0.0),
        ("b", b"0", 0.0),
        ("b", b"1", 4.0),
        ("b", b"2", 8.0),
        ("a", b"1", 10.0),
        ("a", b"2", 20.0),
    ]
    assert virtual_run(main()) == expected
    assert virtual_run(main()) == expected


def test_a_waiting_consumer_gets_the_frame_at_once_and_ends_when_the_inlet_closes() -> None:
    async def main() -> list[float]:
        clock = Clock()
        hub = MemoryHub(clock.wall_ns)
        seen: list[float] = []

        async def consume(inlet: object) -> None:
            async for _ in inlet.arrivals():  # type: ignore[attr-defined]
                seen.append(clock.now())

        async with asyncio.TaskGroup() as group, hub.link() as link, hub.inlet() as inlet:
            group.create_task(consume(inlet))
            for at in (1.0, 2.5):
                await clock.until(at)
                await link.publish("a", 0, b"x")
        return seen

    assert virtual_run(main()) == [1.0, 2.5]


def test_overflow_drops_the_oldest_and_counts_it_per_camera() -> None:
    async def main() -> None:
        intake = Intake(IntakeLimits(frames=3))
        for number, camera in enumerate("aabab"):
            intake.put(Arrival(camera, b"%d" % number, 0))
        intake.close()
        assert [a.payload async for a in intake.drain()] == [b"2", b"3", b"4"]
        assert intake.counts.received == 5
        assert intake.counts.dropped == 2
        assert intake.counts.dropped_by_camera == {"a": 2}

    virtual_run(main())


def test_the_intake_is_bounded_by_bytes_as_well() -> None:
    async def main() -> None:
        intake = Intake(IntakeLimits(bytes=100))
        for number in range(5):
            intake.put(Arrival("a", bytes([number]) * 40, 0))
        assert intake.bytes == 80
        assert len(intake) == 2
        intake.close()
        assert [a.payload[0] async for a in intake.drain()] == [3, 4]
        assert intake.bytes == 0

    virtual_run(main())


@pytest.mark.parametrize("name", ["", "x" * 201, "..", "a/b", "a\nb", "a\x00b", "a\u202eb"])
def test_a_hostile_camera_name_is_refused_and_counted(name: str) -> None:
    async def main() -> None:
        intake = Intake()
        intake.put(Arrival(name, b"x", 0))
        assert len(intake) == 0
        assert intake.counts.refused == {"name": 1}

    virtual_run(main())


def test_an_oversized_payload_is_refused_and_counted() -> None:
    async def main() -> None:
        intake = Intake(IntakeLimits(frame_bytes=10))
        intake.put(Arrival("a", b"x" * 11, 0))
        intake.put(Arrival("a", b"x" * 10, 0))
        assert len(intake) == 1
        assert intake.counts.refused == {"size": 1}

    virtual_run(main())


def test_an_inlet_with_shards_gets_its_cameras_alone() -> None:
    async def main() -> None:
        hub = MemoryHub(Clock().wall_ns)
        cameras = [f"cam-{n}" for n in range(40)]
        mine = frozenset(range(0, 64, 2))
        async with hub.link() as link, hub.inlet(mine) as even, hub.inlet() as everything:
            for camera in cameras:
                await link.publish(camera, 0, b"x")
        assert [a.camera async for a in everything.arrivals()] == cameras
        expected = [c for c in cameras if shard_of(c) % 2 == 0]
        assert [a.camera async for a in even.arrivals()] == expected
        assert 0 < len(expected) < 40

    virtual_run(main())


def test_control_is_kept_for_a_consumer_that_joins_late_and_its_end_is_seen() -> None:
    async def main() -> None:
        clock = Clock()
        hub = MemoryHub(clock.wall_ns)
        begun = Control("r", "digest", clock.start_ns, 1.0)
        ended = Control("r", "digest", clock.start_ns, 1.0, {"a": 7})
        async with hub.link() as link:
            await link.announce(begun)
            async with hub.inlet() as inlet:
                assert await inlet.control() == begun
                waiting = asyncio.create_task(inlet.ended())
                await clock.until(3)
                assert not waiting.done()
                await link.announce(ended)
                assert await waiting == ended
                assert await inlet.control() == ended

    virtual_run(main())


def test_who_is_online_follows_the_statuses() -> None:
    async def main() -> None:
        hub = MemoryHub(Clock().wall_ns)
        async with hub.inlet() as inlet:
            async with hub.link() as link:
                await link.set_status("a", True)
                await link.set_status("b", True)
                await link.set_status("a", False)
                assert inlet.online == {"b"}
            assert inlet.online == frozenset()

    virtual_run(main())


def test_a_crew_ends_with_its_owner_and_leaves_the_owners_exception_as_it_is() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(True)

    async def main() -> None:
        crew = Crew()
        await crew.muster()
        try:
            crew.start(work(), "work")
            await asyncio.sleep(1)
            raise KeyError("the owner's own")
        finally:
            await crew.dismiss()

    with pytest.raises(KeyError, match="the owner's own"):
        virtual_run(main())
    assert ended == [True]


def test_a_failing_crew_member_stops_the_owner() -> None:
    async def work() -> None:
        await asyncio.sleep(1)
        raise RuntimeError("broken")

    async def main() -> None:
        crew = Crew()
        await crew.muster()
        try:
            crew.start(work(), "work")
            await asyncio.sleep(100)
        finally:
            await crew.dismiss()

    with pytest.raises(ExceptionGroup) as caught:
        virtual_run(main())
    assert caught.group_contains(RuntimeError, match="broken")
