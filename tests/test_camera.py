"""The fleet: each frame on its schedule, each frame that falls due logged exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from earlyfire_stream import camera as camera_module
from earlyfire_stream.camera import Fleet
from earlyfire_stream.clock import VIRTUAL_EPOCH_NS, Clock, virtual_run
from earlyfire_stream.frames import Capture, Frame, parse
from earlyfire_stream.records import Shot
from earlyfire_stream.reel import NOTHING, Due, Plate, Times
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources.base import Label, Picture
from earlyfire_stream.transport.base import Arrival, Control
from earlyfire_stream.transport.memory import MemoryHub
from earlyfire_stream.verdict import Box, Reason, Truth

SECOND = 1_000_000_000
JPEG = bytes.fromhex("ffd8ffc0000b0800300040010111 00ffda0008010100003f00ffd9")
"""The header of a grey picture of 64 x 48."""
LABEL = Label(True, (Truth("oak", Box(0.5, 0.5, 0.1, 0.1)),), True)


def camera(name: str = "a", cadence: float = 10.0, **more: Any) -> Camera:
    return Camera.model_validate(
        {"id": name, "source": {"kind": "synthetic"}, "cadence": cadence, **more}
    )


@dataclass
class FakeReel:
    """Plates at once, but for the seqs in `delays_s` (seconds) and `broken`."""

    cameras: Sequence[Camera]
    delays_s: dict[int, float] = field(default_factory=dict)
    broken: frozenset[int] = frozenset()
    warnings: list[str] = field(default_factory=list)

    @property
    def times(self) -> dict[str, Times]:
        return {camera.id: Times(None, None, None) for camera in self.cameras}

    async def take(self, camera: str, due: Due) -> Plate:
        if due.seq in self.delays_s:
            await asyncio.sleep(self.delays_s[due.seq])
        if due.seq in self.broken:
            return NOTHING
        return Plate(JPEG, f"{camera}{due.seq}", LABEL)


@dataclass
class FakeLink:
    """Remembers what was published; `slow_s` seconds a frame, `unsent` for some."""

    clock: Clock
    slow_s: float = 0.0
    unsent: dict[int, Reason] = field(default_factory=dict)
    sent: list[tuple[str, int, bytes, float]] = field(default_factory=list)
    statuses: list[tuple[str, bool, float]] = field(default_factory=list)

    async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
        if self.slow_s:
            await asyncio.sleep(self.slow_s)
        self.sent.append((camera, seq, payload, self.clock.now()))
        return self.unsent.get(seq, Reason.NONE)

    async def set_status(self, camera: str, online: bool) -> None:
        self.statuses.append((camera, online, self.clock.now()))

    async def announce(self, control: Control) -> None:
        raise NotImplementedError


@dataclass
class Stage:
    """A fleet in virtual time, with everything that it told."""

    clock: Clock
    link: FakeLink
    fleet: Fleet
    shots: list[Shot]
    labels: list[tuple[str, int, Label]]


def staged(
    *cameras: Camera,
    phases: dict[str, float] | None = None,
    duration: float | None = 35.0,
    reel: dict[str, Any] | None = None,
    link: dict[str, Any] | None = None,
    speed: float = 1.0,
    live: Any = None,
) -> Stage:
    clock = Clock(speed)
    fake_link = FakeLink(clock, **(link or {}))
    shots: list[Shot] = []
    labels: list[tuple[str, int, Label]] = []
    fleet = Fleet(
        "r1",
        cameras,
        phases or {camera.id: 0.0 for camera in cameras},
        FakeReel(cameras, **(reel or {})),
        fake_link,
        clock,
        on_label=lambda name, seq, label: labels.append((name, seq, label)),
        on_shot=shots.append,
        seed=0,
        duration=duration,
        live=live,
    )
    return Stage(clock, fake_link, fleet, shots, labels)


def played(*cameras: Camera, **more: Any) -> Stage:
    async def main() -> Stage:
        stage = staged(*cameras, **more)
        await stage.fleet.play()
        return stage

    return virtual_run(main())


def outcome(stage: Stage) -> list[tuple[int, Reason]]:
    return [(shot.seq, shot.unsent) for shot in stage.shots]


def test_every_frame_is_published_at_the_instant_it_is_scheduled_for() -> None:
    stage = played(camera("a"), camera("b", cadence=15), phases={"a": 0.0, "b": 2.5})
    assert [(name, seq, at) for name, seq, _, at in stage.link.sent] == [
        ("a", 0, 0.0),
        ("b", 0, 2.5),
        ("a", 1, 10.0),
        ("b", 1, 17.5),
        ("a", 2, 20.0),
        ("a", 3, 30.0),
        ("b", 2, 32.5),
    ]
    assert stage.fleet.last_seqs == {"a": 3, "b": 2}


def test_at_speed_ten_the_wall_instants_lie_ten_times_as_close() -> None:
    stage = played(camera(), speed=10.0)
    assert [shot.captured_ns - VIRTUAL_EPOCH_NS for shot in stage.shots] == [
        0, 1 * SECOND, 2 * SECOND, 3 * SECOND,
    ]  # fmt: skip
    assert [shot.captured_at for shot in stage.shots] == [0.0, 10.0, 20.0, 30.0]


def test_a_published_frame_carries_its_capture_and_the_log_its_truth() -> None:
    stage = played(camera(), phases={"a": 2.0}, duration=3.0, speed=2.0)
    (_, _, payload, _), (shot,) = stage.link.sent[0], stage.shots
    read = parse(payload)
    assert isinstance(read, Frame)
    ns = VIRTUAL_EPOCH_NS + SECOND
    assert read.capture == Capture("r1", "a", 0, 2.0, ns, ns, 2.0)
    assert shot == Shot(
        "a", 0, 2.0, ns, identity="a0", size_bytes=len(JPEG), smoke=True, truth=LABEL.truth,
        boxed=True,
    )  # fmt: skip
    assert stage.labels == [("a", 0, LABEL)]


def test_frames_that_fall_due_in_an_outage_are_logged_unsent() -> None:
    stage = played(camera(outages=[{"start": 10, "end": 30}]))
    assert outcome(stage) == [
        (0, Reason.NONE), (1, Reason.OUTAGE), (2, Reason.OUTAGE), (3, Reason.NONE),
    ]  # fmt: skip
    assert [seq for _, seq, _, _ in stage.link.sent] == [0, 3]
    assert stage.shots[1].truth == LABEL.truth
    assert stage.fleet.last_seqs == {"a": 3}


def test_a_camera_is_online_from_its_first_frame_to_its_last_outages_aside() -> None:
    stage = played(camera(outages=[{"start": 10, "end": 30}]))
    assert stage.link.statuses == [
        ("a", True, 0.0), ("a", False, 10.0), ("a", True, 30.0), ("a", False, 30.0),
    ]  # fmt: skip


def test_a_camera_that_begins_and_ends_in_an_outage_is_never_online() -> None:
    stage = played(camera(outages=[{"start": 0, "end": 60}]))
    assert stage.link.statuses == []
    assert [unsent for _, unsent in outcome(stage)] == [Reason.OUTAGE] * 4


def test_a_frame_without_a_picture_is_the_sources_fault() -> None:
    stage = played(camera(), reel={"broken": frozenset({1})})
    assert outcome(stage)[1] == (1, Reason.SOURCE_BROKEN)
    assert [seq for _, seq, _, _ in stage.link.sent] == [0, 2, 3]


def test_what_the_transport_could_not_take_is_logged_with_its_reason() -> None:
    stage = played(camera(), link={"unsent": {2: Reason.BROKER_DOWN}})
    assert outcome(stage) == [
        (0, Reason.NONE), (1, Reason.NONE), (2, Reason.BROKER_DOWN), (3, Reason.NONE),
    ]  # fmt: skip


def test_a_late_picture_is_sent_late_with_its_scheduled_capture() -> None:
    stage = played(camera(), reel={"delays_s": {1: 4.0}})
    assert [at for _, _, _, at in stage.link.sent] == [0.0, 14.0, 20.0, 30.0]
    assert [shot.late_s for shot in stage.shots] == [0.0, 4.0, 0.0, 0.0]
    assert stage.shots[1].captured_at == 10.0


def test_a_picture_later_than_the_patience_leaves_its_frame_unsent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert camera_module.PATIENCE_S == 5.0

    async def main() -> Stage:
        stage = staged(camera(), reel={"delays_s": {1: 6.0}})
        stage.clock.virtual = False  # patience is for pictures that another process makes
        await stage.fleet.play()
        return stage

    stage = virtual_run(main())
    assert outcome(stage)[1] == (1, Reason.LATE)
    assert stage.shots[1].late_s == 5.0
    assert [at for _, _, _, at in stage.link.sent] == [0.0, 20.0, 30.0]


def test_a_slow_link_delays_its_own_camera_alone() -> None:
    class SlowForA(FakeLink):
        async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
            if camera == "a":
                await asyncio.sleep(12)
            return await super().publish(camera, seq, payload)

    async def main() -> Stage:
        stage = staged(camera("a"), camera("b"))
        stage.link.__class__ = SlowForA
        await stage.fleet.play()
        return stage

    stage = virtual_run(main())
    assert [at for name, _, _, at in stage.link.sent if name == "b"] == [0.0, 10.0, 20.0, 30.0]
    # a: due at 0, 10, 20, 30; each takes 12 s, so they begin at 0, 12, 24, 36
    assert [shot.late_s for shot in stage.shots if shot.camera == "a"] == [0.0, 2.0, 4.0, 6.0]


def cancelled_at(wall_s: float, **more: Any) -> Stage:
    async def main() -> Stage:
        stage = staged(camera(), **more)
        playing = asyncio.create_task(stage.fleet.play())
        await asyncio.sleep(wall_s)
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        return stage

    return virtual_run(main())


def test_cancelled_between_two_frames_it_has_logged_those_before() -> None:
    stage = cancelled_at(15.0)
    assert outcome(stage) == [(0, Reason.NONE), (1, Reason.NONE)]
    assert stage.fleet.last_seqs == {"a": 1}


def test_cancelled_while_publishing_it_logs_the_frame_under_way_exactly_once() -> None:
    stage = cancelled_at(11.0, link={"slow_s": 2.0})
    assert outcome(stage) == [(0, Reason.NONE), (1, Reason.NONE)]
    assert [seq for _, seq, _, _ in stage.link.sent] == [0]
    assert stage.fleet.last_seqs == {"a": 1}


def test_cancelled_before_the_first_frame_nothing_was_due() -> None:
    async def main() -> Stage:
        stage = staged(camera(), phases={"a": 5.0})
        playing = asyncio.create_task(stage.fleet.play())
        await asyncio.sleep(1)
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        return stage

    stage = virtual_run(main())
    assert stage.shots == []
    assert stage.fleet.last_seqs == {"a": -1}


class FakeLive:
    """A real camera that has a picture every `every_s`; after `until_s` it is away."""

    def __init__(self, clock: Clock, every_s: float, until_s: float = 1e9) -> None:
        self.warnings: list[str] = []
        self.problem = ""
        self._clock, self._every_s, self._until_s = clock, every_s, until_s

    async def newest(self, after: float = -1.0) -> Picture:
        now = self._clock.now()
        at = (now // self._every_s) * self._every_s
        if at <= after:
            at = (after // self._every_s + 1) * self._every_s
            if at > self._until_s:
                await asyncio.Event().wait()
            await asyncio.sleep(at - now)
        return Picture(at, JPEG, Label(None))


def live(every_s: float, until_s: float, watch: Callable[[Stage], Awaitable[None]]) -> Stage:
    async def main() -> Stage:
        stage = staged(camera(), duration=35.0)
        stage.fleet._live = {"a": FakeLive(stage.clock, every_s, until_s)}
        await watch(stage)
        return stage

    return virtual_run(main())


def test_a_live_camera_passes_on_one_picture_a_cadence() -> None:
    stage = live(1.0, 1e9, lambda stage: stage.fleet.play())
    assert [shot.seq for shot in stage.shots] == [0, 1, 2, 3]
    assert [round(shot.captured_at) for shot in stage.shots] == [0, 10, 20, 30]
    assert stage.labels[0] == ("a", 0, Label(None))


def test_a_live_camera_that_is_away_does_not_keep_the_run_from_its_end() -> None:
    ended_at: list[float] = []

    async def watch(stage: Stage) -> None:
        await stage.fleet.play()
        ended_at.append(stage.clock.now())

    stage = live(1.0, 12.0, watch)
    assert [shot.seq for shot in stage.shots] == [0, 1]
    assert ended_at == [35.0]
    assert stage.link.statuses == [("a", True, 0.0), ("a", False, 35.0)]


def test_the_same_fleet_plays_the_same_way_over_the_memory_transport() -> None:
    async def main() -> list[Arrival]:
        clock = Clock()
        hub = MemoryHub(clock.wall_ns)
        cameras = (camera("a"), camera("b"))
        got: list[Arrival] = []
        async with hub.link() as link, hub.inlet() as inlet:
            fleet = Fleet(
                "r1", cameras, {"a": 0.0, "b": 5.0}, FakeReel(cameras), link, clock,
                on_label=lambda *_: None, on_shot=lambda _: None, seed=0, duration=35.0,
            )  # fmt: skip
            await fleet.play()
            assert inlet.online == frozenset()
        async for arrival in inlet.arrivals():
            got.append(arrival)
        return got

    first, second = virtual_run(main()), virtual_run(main())
    assert first == second
    assert [(a.camera, (a.received_ns - VIRTUAL_EPOCH_NS) // SECOND) for a in first] == [
        ("a", 0), ("b", 5), ("a", 10), ("b", 15), ("a", 20), ("b", 25), ("a", 30),
    ]  # fmt: skip
