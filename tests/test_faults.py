"""Scripted faults: what each does inside its window, and that nothing happens outside it.

At the end whole runs in virtual time, their ledgers exact.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earlyfire_stream.clock import Clock, virtual_run
from earlyfire_stream.contract import read_reply
from earlyfire_stream.engines.base import Check, Gauged, Reply, Request, Traits
from earlyfire_stream.errors import (
    EngineBroken,
    EngineError,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
)
from earlyfire_stream.faults import FaultyEngine, FaultyLink, Planned, flapping, planned, spells
from earlyfire_stream.frames import Capture, Frame, Refused, identity, parse, wrap
from earlyfire_stream.records import FaultPlan, RunLog
from earlyfire_stream.scenario.models import Camera, Fault, Network, Scenario, SyntheticSource
from earlyfire_stream.sources.base import Label
from earlyfire_stream.transport.base import Control
from earlyfire_stream.transport.network import NetworkLink, Spell
from earlyfire_stream.verdict import Box, CoordSpace, Fate, Reason, ResizeMode, Truth, Verdict
from tests.playing import camera, loaded, notes, pictures, proof
from tests.test_run import virtually

T = TypeVar("T")
SECOND = 1_000_000_000


def fault(
    kind: str, start: float, end: float, cameras: tuple[str, ...] = (), **more: Any
) -> Planned:
    return Planned(
        Fault(kind=kind, start=start, end=end, **more),  # type: ignore[arg-type]
        FaultPlan(more.get("id") or kind, kind, start, end, cameras),
    )


# --- the plan ------------------------------------------------------------------------------------


def scenario(*faults: Fault, cameras: tuple[Camera, ...] = ()) -> Scenario:
    one = Camera(id="ridge", count=3, source=SyntheticSource())
    two = Camera(id="mast", source=SyntheticSource())
    return Scenario(
        earlyfire=1, name="t", duration=60.0, cameras=cameras or (one, two), faults=faults
    )


def test_faults_are_planned_in_order_of_their_start_each_with_its_own_settings() -> None:
    script = scenario(
        Fault(kind="engine-slow", start=30, end=40, factor=7),
        Fault(kind="network-loss", start=20, end=50, share=0.7, cameras=("ridge-00[12]", "mast")),
        Fault(kind="engine-slow", start=10, end=15, factor=3),
    )
    found = [(p.plan.id, p.plan.start, p.settings.factor, p.plan.cameras) for p in planned(script)]
    assert found == [
        ("engine-slow-2", 10, 3, ()),
        ("network-loss", 20, 5, ("ridge-001", "ridge-002", "mast")),
        ("engine-slow-1", 30, 7, ()),
    ]


def test_a_fault_of_cameras_that_play_in_another_part_meets_none_here() -> None:
    there = Fault(kind="camera-black", start=10, end=20, cameras=("ridge-*",))
    mast = Camera(id="mast", source=SyntheticSource())
    assert planned(scenario(there, cameras=(mast,))) == ()


def test_spells_come_to_the_cameras_that_are_met() -> None:
    script = [
        fault("network-delay", 1, 2, ("a",), delay=3.0),
        fault("network-jitter", 2, 3, ("a",), delay=0.2),
        fault("network-loss", 3, 4, ("a",), share=0.4),
        fault("camera-duplicate", 4, 5, ("a",), share=0.5),
        fault("camera-reorder", 5, 6, ("a", "b"), share=0.6),
        fault("camera-black", 6, 7, ("a", "b", "c")),
        fault("engine-hang", 7, 8),
    ]
    assert spells(script, ["a", "b", "c"]) == {
        "a": (
            Spell("network-delay", 1, 2, Network(delay=3.0)),
            Spell("network-jitter", 2, 3, Network(jitter=0.2)),
            Spell("network-loss", 3, 4, Network(loss=0.4)),
            Spell("camera-duplicate", 4, 5, Network(duplicate=0.5)),
            Spell("camera-reorder", 5, 6, Network(reorder=0.6)),
        ),
        "b": (Spell("camera-reorder", 5, 6, Network(reorder=0.6)),),
    }


# --- flapping ------------------------------------------------------------------------------------


def test_a_flapping_camera_is_off_for_the_first_half_of_each_period() -> None:
    off = flapping([fault("camera-flap", 100, 115, ("a",), period=10)])
    for at, expected in [
        (99.999, False),
        (100.0, True),
        (104.999, True),
        (105.0, False),
        (109.999, False),
        (110.0, True),
        (114.999, True),
        (115.0, False),
    ]:
        assert off("a", at) is expected, at
    assert not off("b", 102.0)


def test_two_flaps_of_a_camera_add_up() -> None:
    off = flapping([fault("camera-flap", 0, 4, period=4), fault("camera-flap", 3, 7, period=4)])
    assert [off("a", at) for at in range(7)] == [True, True, False, True, True, False, False]


@given(
    start=st.integers(0, 10_000),
    lasts=st.integers(1, 10_000),
    period=st.integers(1, 3_000),
    at=st.integers(0, 25_000),
)
def test_flaps_keep_to_the_thousandth(start: int, lasts: int, period: int, at: int) -> None:
    off = flapping(
        [fault("camera-flap", start / 1000, (start + lasts) / 1000, period=period / 1000)]
    )
    halves = Fraction(2 * (at - start), period)
    expected = start <= at < start + lasts and int(halves // 1) % 2 == 0
    assert off("a", at / 1000) is expected


# --- pictures and clocks -------------------------------------------------------------------------


@cache
def picture(grey: int, size: tuple[int, int] = (96, 64)) -> bytes:
    image = np.full((size[1], size[0], 3), grey, np.uint8)
    cv2.circle(image, (grey % size[0], size[1] // 2), 9, (255, 255, 255), -1)
    return cv2.imencode(".jpg", image)[1].tobytes()


def frame(seq: int, at: float | None = None, camera: str = "a", jpeg: bytes | None = None) -> bytes:
    """Camera a's frame; without an instant it is captured at second `seq`. Each looks different."""
    at = float(seq) if at is None else at
    captured_ns = 1_700_000_000 * SECOND + round(at * SECOND)
    capture = Capture("run", camera, seq, at, captured_ns, captured_ns + 5, 1.0)
    return wrap(picture(20 + 7 * seq % 200) if jpeg is None else jpeg, capture)


@dataclass
class Sink:
    """A link that keeps what reaches it."""

    sent: list[tuple[str, int, bytes]] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    statuses: list[tuple[str, bool]] = field(default_factory=list)
    answer: Reason = Reason.NONE

    async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
        self.sent.append((camera, seq, payload))
        return self.answer

    async def announce(self, control: Control) -> None:
        self.controls.append(control)

    async def set_status(self, camera: str, online: bool) -> None:
        self.statuses.append((camera, online))

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload in self.sent]


def through(
    faults: list[Planned], frames: Mapping[int, bytes], seed: int = 7, camera: str = "a"
) -> tuple[list[bytes], Mapping[str, int]]:
    """What comes out for what is put in, and the counts; in virtual time."""

    async def main() -> tuple[list[bytes], Mapping[str, int]]:
        sink = Sink()
        link = FaultyLink(sink, faults, Clock(), seed)
        for seq, payload in frames.items():
            assert await link.publish(camera, seq, payload) is Reason.NONE
        assert [(c, s) for c, s, _ in sink.sent] == [(camera, seq) for seq in frames]
        return sink.payloads, link.counts

    return virtual_run(main())


def plain(count: int) -> dict[int, bytes]:
    return {seq: frame(seq) for seq in range(count)}


def decoded(payload: bytes) -> np.ndarray[Any, Any]:
    return cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR)


def header(payload: bytes) -> Capture:
    capture = parse(payload).capture
    assert capture is not None
    return capture


def test_a_frozen_camera_shows_its_last_frame_under_each_frames_own_header() -> None:
    put = plain(8)
    sent, counts = through([fault("camera-frozen", 3, 6)], put)
    assert [identity(p) for p in sent] == [identity(put[n]) for n in (0, 1, 2, 2, 2, 2, 6, 7)]
    assert [header(p) for p in sent] == [header(p) for p in put.values()]
    assert counts == {"camera-frozen": 3}


def test_a_camera_frozen_from_its_first_frame_shows_that_one() -> None:
    put = plain(4)
    sent, counts = through([fault("camera-frozen", 0, 3)], put)
    assert [identity(p) for p in sent] == [identity(put[n]) for n in (0, 0, 0, 3)]
    assert counts == {"camera-frozen": 2}, "the first one is as it should be"


def test_a_camera_that_freezes_twice_shows_what_came_in_between() -> None:
    put = plain(7)
    script = [fault("camera-frozen", 1, 3, id="one"), fault("camera-frozen", 5, 7, id="two")]
    sent, _ = through(script, put)
    assert [identity(p) for p in sent] == [identity(put[n]) for n in (0, 0, 0, 3, 4, 4, 4)]


def test_a_black_camera_sends_black_pictures_of_its_own_size() -> None:
    put = {0: frame(0), 1: frame(1), 2: frame(2, jpeg=picture(90, (64, 96))), 3: frame(3)}
    sent, counts = through([fault("camera-black", 1, 3)], put)
    assert [p == put[n] for n, p in enumerate(sent)] == [True, False, False, True]
    assert [decoded(p).shape for p in sent[1:3]] == [(64, 96, 3), (96, 64, 3)]
    assert [decoded(p).max() for p in sent[1:3]] == [0, 0]
    assert [header(p) for p in sent] == [header(p) for p in put.values()]
    assert counts == {"camera-black": 2}


def test_a_picture_of_the_wrong_size_keeps_its_aspect() -> None:
    put = plain(3)
    sent, counts = through([fault("camera-wrong-size", 1, 2, height=16)], put)
    assert decoded(sent[1]).shape == (16, 24, 3)
    # a flat grey of 27 with a white disc of 9 pixels' radius: 254 of 6,144 pixels
    assert abs(float(decoded(sent[1]).mean()) - (27 * 5890 + 255 * 254) / 6144) < 2
    assert header(sent[1]) == header(put[1])
    assert (sent[0], sent[2]) == (put[0], put[2])
    assert counts == {"camera-wrong-size": 1}


def test_a_picture_without_pixels_gets_the_wrong_size_all_the_same() -> None:
    size = (720).to_bytes(2, "big") + (1280).to_bytes(2, "big")
    scan = bytes.fromhex("01011100ffda0008010100003f00ffd9")
    blank = b"\xff\xd8\xff\xc0\x00\x0b\x08" + size + scan
    sent, _ = through([fault("camera-wrong-size", 0, 2, height=180)], {0: frame(0, jpeg=blank)})
    seen = parse(sent[0])
    assert isinstance(seen, Frame)
    assert (seen.width, seen.height) == (320, 180)


@pytest.mark.parametrize("shift_s", [120.0, -0.5])
def test_a_skewed_clock_changes_every_instant_of_the_header_and_no_pixel(shift_s: float) -> None:
    async def main() -> tuple[Capture, Capture, bytes, bytes]:
        sink = Sink()
        link = FaultyLink(sink, [fault("camera-clock", 3, 6, shift=shift_s)], Clock(), 7)
        fast = wrap(picture(50), Capture("run", "a", 4, 4.0, 90 * SECOND, 91 * SECOND, speed=60.0))
        await link.publish("a", 4, fast)
        assert link.counts == {"camera-clock": 1}
        (payload,) = sink.payloads
        return header(fast), header(payload), fast, payload

    true, told, put, sent = virtual_run(main())
    shift_ns = round(shift_s * SECOND)
    assert told == replace(
        true,
        captured_at=4.0 + 60 * shift_s,
        captured_ns=90 * SECOND + shift_ns,
        published_ns=91 * SECOND + shift_ns,
    )
    assert identity(sent) == identity(put)


def test_a_clock_that_began_again_is_never_before_1970() -> None:
    slow = wrap(picture(50), Capture("run", "a", 0, 0.0, 90 * SECOND, 91 * SECOND, speed=0.01))
    (sent,), _ = through([fault("camera-clock", 0, 9, shift=-1e6)], {0: slow})
    assert header(sent) == Capture("run", "a", 0, -10_000.0, 0, 0, speed=0.01)


def test_a_seeded_share_of_frames_is_damaged_and_each_is_still_known() -> None:
    put = {seq: frame(seq, at=10 + seq / 100) for seq in range(1000)}
    sent, counts = through([fault("camera-corrupt", 10, 20, share=0.3)], put)
    damaged = [n for n, p in enumerate(sent) if p != put[n]]
    assert abs(len(damaged) - 300) < 58, "four standard deviations of a binomial share"
    assert counts == {"camera-corrupt": len(damaged)}
    kinds: Counter[Reason] = Counter()
    for n in damaged:
        refused = parse(sent[n])
        assert isinstance(refused, Refused)
        assert refused.capture == header(put[n])
        kinds[refused.reason] += 1
        if refused.reason is Reason.BAD_HEADER:
            assert len(sent[n]) == len(put[n])
            assert sum(a != b for a, b in zip(sent[n], put[n], strict=True)) <= 64
        else:
            assert put[n].startswith(sent[n])
    assert kinds.keys() == {Reason.TRUNCATED, Reason.BAD_HEADER}
    assert abs(kinds[Reason.TRUNCATED] - len(damaged) / 2) < 2 * len(damaged) ** 0.5
    again, _ = through([fault("camera-corrupt", 10, 20, share=0.3)], put)
    assert again == sent
    other, _ = through([fault("camera-corrupt", 10, 20, share=0.3)], put, seed=8)
    assert other != sent


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_of_none_and_all_mean_none_and_all(share: float) -> None:
    put = plain(50)
    sent, _ = through([fault("camera-corrupt", 0, 60, share=share)], put)
    assert sum(p != put[n] for n, p in enumerate(sent)) == 50 * share


def test_a_camera_that_is_not_met_is_left_alone_whatever_it_sends() -> None:
    script = [fault(kind, 0, 100, ("b",)) for kind in ("camera-black", "camera-clock")]
    put = {0: frame(0), 1: b"no picture at all"}
    assert through(script, put) == (list(put.values()), {})


def test_a_picture_that_is_none_of_ours_passes() -> None:
    script = [fault(kind, 0, 100) for kind in ("camera-black", "camera-clock", "camera-corrupt")]
    put = {0: picture(50), 1: b"no picture at all", 2: b""}
    assert through(script, put) == (list(put.values()), {})


def test_several_faults_of_a_camera_act_together() -> None:
    put = plain(6)
    script = [
        fault("camera-clock", 2, 6, shift=10.0),
        fault("camera-wrong-size", 2, 6, height=32),
        fault("camera-frozen", 2, 4),
    ]
    sent, counts = through(script, put)
    assert [header(p).captured_at for p in sent] == [0, 1, 12, 13, 14, 15]
    assert [decoded(p).shape[0] for p in sent] == [64, 64, 32, 32, 32, 32]
    # greys of frames 1, 4 and 5, looked at in a corner
    assert [int(decoded(p)[2, 40].mean().round()) for p in sent[2:]] == [27, 27, 48, 55]
    assert counts == {"camera-clock": 4, "camera-wrong-size": 4, "camera-frozen": 2}


def test_what_is_no_frame_passes_and_refusals_come_back() -> None:
    async def main() -> None:
        sink = Sink(answer=Reason.BROKER_DOWN)
        link = FaultyLink(sink, [fault("camera-black", 0, 9)], Clock(), 7)
        assert await link.publish("a", 0, frame(0)) is Reason.BROKER_DOWN
        control = Control("r", "d", 0, 1.0)
        await link.announce(control)
        await link.set_status("a", True)
        assert sink.controls == [control]
        assert sink.statuses == [("a", True)]

    virtual_run(main())


async def test_pixels_are_worked_on_beside_the_loop_in_wall_time() -> None:
    sink = Sink()
    link = FaultyLink(sink, [fault("camera-black", 0, 9)], Clock(), 7)
    await link.publish("a", 0, frame(0))
    assert decoded(sink.payloads[0]).max() == 0


SMOKE = Label(True, (Truth("oak", Box(0.5, 0.5, 0.1, 0.1)),), boxed=True)
CLEAR = Label(False, (), boxed=True)


def seen(script: list[Planned], labels: list[Label]) -> list[tuple[str, int, Label]]:
    """What an engine that looks at the truth is told, for a frame a second."""

    async def main() -> list[tuple[str, int, Label]]:
        heard: list[tuple[str, int, Label]] = []
        sink = Sink()
        link = FaultyLink(sink, script, Clock(), 7, lambda *told: heard.append(told))
        for seq, label in enumerate(labels):
            link.learn("a", seq, label)
            await link.publish("a", seq, frame(seq))
            assert len(heard) == seq + 1, "before the frame can have been asked about"
        return heard

    return virtual_run(main())


def test_nothing_is_to_be_seen_in_a_black_picture() -> None:
    script = [fault("camera-black", 1, 3)]
    told = seen(script, [SMOKE, SMOKE, CLEAR, SMOKE])
    assert told == [("a", 0, SMOKE), ("a", 1, CLEAR), ("a", 2, CLEAR), ("a", 3, SMOKE)]
    unknown = Label(None)
    assert seen([fault("camera-black", 0, 1)], [unknown]) == [("a", 0, unknown)]


def test_in_a_frozen_picture_the_smoke_of_later_is_not_to_be_seen() -> None:
    told = seen([fault("camera-frozen", 2, 4)], [CLEAR, CLEAR, SMOKE, SMOKE, SMOKE])
    assert [label for _, _, label in told] == [CLEAR, CLEAR, CLEAR, CLEAR, SMOKE]


def test_the_truth_of_a_camera_that_is_not_met_is_handed_on() -> None:
    assert seen([fault("camera-black", 0, 9, ("b",))], [SMOKE]) == [("a", 0, SMOKE)]


WINDOWS = st.tuples(st.integers(0, 40), st.integers(1, 40)).map(lambda w: (w[0], w[0] + w[1]))


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(
        st.tuples(
            st.sampled_from(["camera-black", "camera-wrong-size", "camera-clock"]),
            WINDOWS,
            st.sampled_from([(), ("a",), ("b",)]),
        ),
        max_size=4,
    ),
    instants=st.lists(st.integers(0, 90), min_size=1, max_size=12, unique=True).map(sorted),
)
def test_a_frame_is_the_same_bytes_exactly_where_no_window_holds_it(
    script: list[tuple[str, tuple[int, int], tuple[str, ...]]], instants: list[int]
) -> None:
    faults = [
        fault(kind, start, end, cameras, id=f"{kind}-{n}")
        for n, (kind, (start, end), cameras) in enumerate(script)
    ]
    put = {seq: frame(seq, at=float(at)) for seq, at in enumerate(instants)}
    sent, counts = through(faults, put)
    for seq, at in enumerate(instants):
        met = [w for _, w, cameras in script if w[0] <= at < w[1] and "b" not in cameras]
        assert (sent[seq] == put[seq]) is (not met)
    if not any("b" not in cameras for _, _, cameras in script):
        assert counts == {}


# --- spells of a bad network ---------------------------------------------------------------------


def spelled(
    script: list[Planned], cadence_s: float, count: int, seed: int = 7, **network: Any
) -> tuple[list[tuple[int, float]], NetworkLink]:
    """(seq, instant) of what arrives of `count` frames, one every `cadence_s`."""

    async def main() -> tuple[list[tuple[int, float]], NetworkLink]:
        clock = Clock()
        arrived: list[tuple[int, float]] = []

        class Stamps(Sink):
            async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
                arrived.append((seq, round(clock.now(), 6)))
                return Reason.NONE

        own = {"a": Network(**network)}
        async with NetworkLink(Stamps(), own, clock, seed, spells(script, own)) as link:
            for seq in range(count):
                await clock.until(seq * cadence_s)
                await link.publish("a", seq, b"x")
        assert link.counts.balanced
        return arrived, link

    return virtual_run(main())


def test_frames_of_the_window_come_later_by_the_delay_and_no_others() -> None:
    arrived, link = spelled([fault("network-delay", 2, 4, delay=0.25)], 1.0, 6)
    assert arrived == [(0, 0.0), (1, 1.0), (2, 2.25), (3, 3.25), (4, 4.0), (5, 5.0)]
    assert link.touched == {"network-delay": 2}


def test_two_delays_and_the_cameras_own_add_up() -> None:
    script = [
        fault("network-delay", 1, 3, delay=0.25, id="one"),
        fault("network-delay", 2, 4, delay=0.1, id="two"),
    ]
    arrived, link = spelled(script, 1.0, 4, delay=0.05)
    assert [at for _, at in arrived] == [0.05, 1.30, 2.40, 3.15]
    assert link.touched == {"one": 2, "two": 2}


def test_jitter_delays_about_half_of_the_frames() -> None:
    arrived, link = spelled([fault("network-jitter", 0, 1000, delay=0.2)], 1.0, 1000)
    late = [at - seq for seq, at in arrived]
    assert abs(sum(x > 0 for x in late) - 500) < 64, "normal around 0, cut off there"
    # the mean of max(0, N(0, 0.2)) is 0.2 / sqrt(2 pi) = 0.0798
    assert abs(sum(late) / 1000 - 0.0798) < 0.016
    assert link.touched == {"network-jitter": sum(x > 0 for x in late)}


def test_a_share_of_the_windows_frames_is_lost_by_seed() -> None:
    script = [fault("network-loss", 100, 900, share=0.25)]
    arrived, link = spelled(script, 1.0, 1000)
    lost = set(range(1000)) - {seq for seq, _ in arrived}
    assert abs(len(lost) - 200) < 49
    assert lost <= set(range(100, 900))
    assert link.touched == {"network-loss": len(lost)}
    assert link.counts.lost == len(lost)
    assert spelled(script, 1.0, 1000)[0] == arrived
    assert spelled(script, 1.0, 1000, seed=8)[0] != arrived
    renamed = [fault("network-loss", 100, 900, share=0.25, id="other")]
    assert spelled(renamed, 1.0, 1000)[0] != arrived, "each fault has a luck of its own"


def test_a_spell_changes_nothing_of_the_cameras_own_luck() -> None:
    own, _ = spelled([], 1.0, 300, loss=0.2)
    both, link = spelled([fault("network-loss", 100, 200, share=0.5)], 1.0, 300, loss=0.2)
    assert set(both) < set(own)
    assert {seq for seq, _ in own} - {seq for seq, _ in both} <= set(range(100, 200))
    assert link.touched == {"network-loss": len(own) - len(both)}


def test_frames_of_the_window_come_twice() -> None:
    arrived, link = spelled([fault("camera-duplicate", 2, 4, share=1.0)], 1.0, 6)
    assert [seq for seq, _ in arrived] == [0, 1, 2, 2, 3, 3, 4, 5]
    assert link.touched == {"camera-duplicate": 2}


def test_a_reordered_frame_follows_the_next_one() -> None:
    arrived, link = spelled([fault("camera-reorder", 2, 3, share=1.0)], 1.0, 6)
    assert arrived == [(0, 0.0), (1, 1.0), (3, 3.0), (2, 3.0), (4, 4.0), (5, 5.0)]
    assert link.touched == {"camera-reorder": 1}
    assert link.counts.reordered == 1


def test_a_window_holds_its_start_at_any_speed() -> None:
    async def main() -> None:
        clock = Clock(speed=3.0)  # a third of a second is no whole number of nanoseconds
        sink = Sink()
        script = spells([fault("network-loss", 10, 20, share=1.0)], ["a"])
        async with NetworkLink(sink, {}, clock, 7, script) as link:
            for seq, at in enumerate((9.9, 10.0, 19.9, 20.0)):
                await clock.until(at)
                await link.publish("a", seq, b"x")
        assert [seq for _, seq, _ in sink.sent] == [0, 3]

    virtual_run(main())


# --- the engine ----------------------------------------------------------------------------------

YES = '{"has_smoke": true, "bbox": [0.5, 0.5, 0.1, 0.1]}'
FAR_S = 1e6


@dataclass
class Scripted:
    """An engine that takes `service_s` and decides at half time."""

    clock: Clock
    service_s: float = 1.0
    text: str = YES
    verdict: Verdict | None = None
    server: Mapping[str, float] = field(default_factory=dict)
    output_tokens: int | None = 12
    name: str = "openai"
    error: Exception | None = None
    inside: bool = False
    left_with: list[object] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    cancelled: list[float] = field(default_factory=list)

    @property
    def traits(self) -> Traits:
        return Traits(name=self.name, model="scripted", virtual_ok=True)

    async def infer(self, request: Request) -> Reply:
        self.asked.append(round(self.clock.now(), 6))
        began_ns = self.clock.wall_ns()
        try:
            await asyncio.sleep(self.service_s)
        except asyncio.CancelledError:
            self.cancelled.append(round(self.clock.now(), 6))
            raise
        if self.error is not None:
            raise self.error
        return Reply(
            text=self.text,
            finish="stop",
            decided_ns=began_ns + round(self.service_s / 2 * SECOND),
            answered_ns=self.clock.wall_ns(),
            visual_tokens=100,
            output_tokens=self.output_tokens,
            confidence=0.9,
            verdict=self.verdict,
            server=self.server,
        )

    async def check(self) -> list[Check]:
        return [Check("scripted", True, "here")]

    async def __aenter__(self) -> Self:
        self.inside = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.inside = False
        self.left_with.append(error)


class Told(Scripted):
    async def gauges(self) -> Mapping[str, float]:
        return {"queue": 3.0}


def request(clock: Clock, seq: int = 0, deadline_at: float = FAR_S, camera: str = "a") -> Request:
    return Request(
        camera=camera, seq=seq, captured_at=0.0, image=None, jpeg=b"", visual_tokens=100,
        system="Look.", user="Smoke?", schema=None, deadline_ns=clock.wall_of(deadline_at),
    )  # fmt: skip


Work = Callable[[FaultyEngine, Scripted, Clock], Coroutine[Any, Any, T]]


def engaged(
    script: list[Planned],
    work: Work[T],
    *,
    speed: float = 1.0,
    timeout_s: float | None = None,
    seed: int = 7,
    **inner: Any,
) -> T:
    async def main() -> T:
        clock = Clock(speed)
        scripted = Scripted(clock, **inner)
        async with FaultyEngine(scripted, script, clock, seed, timeout_s) as engine:
            return await work(engine, scripted, clock)

    return virtual_run(main())


@dataclass(frozen=True)
class Came:
    """What came of a request, and when. Scenario seconds."""

    at: float
    reply: Reply | None = None
    error: EngineError | None = None

    @property
    def kind(self) -> type[EngineError] | None:
        return None if self.error is None else type(self.error)


async def ask(engine: FaultyEngine, clock: Clock, at: float, **more: Any) -> Came:
    await clock.until(at)
    try:
        reply = await engine.infer(request(clock, **more))
    except EngineError as why:
        return Came(round(clock.now(), 6), error=why)
    assert reply.answered_ns == clock.wall_ns(), "an answer is told when it is there"
    return Came(round(clock.now(), 6), reply)


def came_of(script: list[Planned], *ats: float, **more: Any) -> list[Came]:
    """One request at each of these seconds, side by side, to an engine that takes a second."""
    of_request = {name: more.pop(name) for name in ("deadline_at",) if name in more}

    async def work(engine: FaultyEngine, scripted: Scripted, clock: Clock) -> list[Came]:
        asking = (ask(engine, clock, at, seq=n, **of_request) for n, at in enumerate(ats))
        return list(await asyncio.gather(*asking))

    return engaged(script, work, **more)


def instants(came: Came) -> tuple[float, float]:
    """When it was decided and answered, in seconds of a run that began at 0."""
    assert came.reply is not None
    epoch_ns = 1_700_000_000 * SECOND
    return (
        (came.reply.decided_ns - epoch_ns) / SECOND,
        (came.reply.answered_ns - epoch_ns) / SECOND,
    )


REFUSED = {
    "engine-overloaded": EngineOverloaded,
    "engine-restart": EngineUnavailable,
    "engine-out-of-memory": EngineBroken,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_engine_that_fails_does_so_at_once_and_in_its_window_alone(kind: str) -> None:
    found = came_of([fault(kind, 10, 20)], 8.5, 10.0, 15.0, 19.999, 20.0)
    expected = REFUSED[kind]
    assert [(c.at, c.kind) for c in found] == [
        (9.5, None),
        (10.0, expected),
        (15.0, expected),
        (19.999, expected),
        (21.0, None),
    ]
    assert f"fault {kind}" in str(found[1].error)


def test_out_of_memory_is_said_as_the_engine_says_it() -> None:
    script = [fault("engine-out-of-memory", 0, 9)]
    # the worker answers 503, which is overloaded; servers of others answer 500
    assert came_of(script, 1.0, name="hf")[0].kind is EngineOverloaded
    for name in ("ollama", "openai", "baseline", "simulated"):
        assert came_of(script, 1.0, name=name)[0].kind is EngineBroken


def test_requests_under_way_break_when_the_engine_restarts() -> None:
    async def work(engine: FaultyEngine, scripted: Scripted, clock: Clock) -> None:
        found = await asyncio.gather(*(ask(engine, clock, at) for at in (8.9, 9.5, 9.9, 20.0)))
        assert [(c.at, c.kind) for c in found] == [
            (9.9, None),
            (10.0, EngineUnavailable),
            (10.0, EngineUnavailable),
            (21.0, None),
        ]
        assert scripted.cancelled == [10.0, 10.0]
        assert engine.counts == {"engine-restart": 2}

    engaged([fault("engine-restart", 10, 20)], work)


def test_of_two_restarts_the_first_one_breaks_what_is_under_way() -> None:
    script = [fault("engine-restart", 10, 11, id="one"), fault("engine-restart", 15, 16, id="two")]
    (came,) = came_of(script, 5.0, service_s=20.0)
    assert (came.at, came.kind) == (10.0, EngineUnavailable)
    assert "fault one" in str(came.error)


def test_a_failure_that_was_under_way_already_stays_what_it_is() -> None:
    script = [fault("engine-overloaded", 10, 20), fault("engine-out-of-memory", 10, 20)]
    assert [c.at for c in came_of(script, 9.5)] == [10.5]


def test_a_hung_engine_answers_when_it_is_over() -> None:
    async def work(engine: FaultyEngine, scripted: Scripted, clock: Clock) -> None:
        found = await asyncio.gather(*(ask(engine, clock, at) for at in (8.5, 9.5, 10.0, 15.0)))
        assert [c.at for c in found] == [9.5, 20.0, 21.0, 21.0]
        # the second one was answered at 10.5 and decided at 10.0; nobody hears of it before 20
        assert [instants(c) for c in found] == [(9.0, 9.5), (19.5, 20), (20.5, 21), (20.5, 21)]
        assert scripted.asked == [8.5, 9.5, 20.0, 20.0]
        assert engine.counts == {"engine-hang": 3}

    engaged([fault("engine-hang", 10, 20)], work)


def test_a_hung_engine_is_given_up_at_the_deadline_or_after_the_timeout() -> None:
    script = [fault("engine-hang", 10, 60)]
    (before, within) = came_of(script, 9.5, 12.0, deadline_at=15.0)
    assert [(c.at, c.kind) for c in (before, within)] == [(15.0, EngineTimeout)] * 2
    (late,) = came_of(script, 12.0, timeout_s=5.0)
    assert (late.at, late.kind) == (17.0, EngineTimeout)


def test_a_deadline_at_the_end_of_the_hang_is_missed() -> None:
    (came,) = came_of([fault("engine-hang", 10, 20)], 12.0, deadline_at=20.0)
    assert (came.at, came.kind) == (20.0, EngineTimeout)


def test_whoever_leaves_a_hang_meets_what_comes_next() -> None:
    script = [fault("engine-hang", 10, 20), fault("engine-overloaded", 20, 30)]
    (came,) = came_of(script, 15.0)
    assert (came.at, came.kind) == (20.0, EngineOverloaded)
    script = [fault("engine-hang", 10, 20, id="one"), fault("engine-hang", 20, 30, id="two")]
    assert [c.at for c in came_of(script, 15.0)] == [31.0]
    script = [fault("engine-hang", 10, 30), fault("engine-restart", 20, 25)]
    (came,) = came_of(script, 15.0)
    assert (came.at, came.kind) == (20.0, EngineUnavailable)


def test_a_slow_engine_takes_so_many_times_as_long() -> None:
    found = came_of([fault("engine-slow", 10, 20, factor=5)], 9.5, 10.0, 19.5)
    assert [c.at for c in found] == [10.5, 15.0, 24.5]
    assert [instants(c) for c in found] == [(10.0, 10.5), (12.5, 15.0), (22.0, 24.5)]


def test_a_slow_answer_that_comes_too_late_is_a_timeout() -> None:
    script = [fault("engine-slow", 10, 20, factor=5)]
    (came,) = came_of(script, 10.0, deadline_at=13.0)
    assert (came.at, came.kind) == (13.0, EngineTimeout)
    (came,) = came_of(script, 10.0, timeout_s=2.0)
    assert (came.at, came.kind) == (12.0, EngineTimeout)


def read(reply: Reply) -> Reason | None:
    parsed = read_reply(
        reply.text, reply.finish, CoordSpace.UNIT, ResizeMode.STRETCH, (1280, 720), (1288, 728)
    )
    return None if parsed.bad is None else parsed.bad.reason


def garbage(seed: int = 7) -> list[Reply]:
    script = [fault("engine-garbage", 0, 1000)]
    found = came_of(script, *range(200), seed=seed, verdict=Verdict(True))
    return [c.reply for c in found if c.reply is not None]


def test_garbage_is_of_several_kinds_by_seed_and_never_an_answer() -> None:
    replies = garbage()
    assert len(replies) == 200
    reasons = Counter(read(reply) for reply in replies)
    assert set(reasons) == {Reason.NOT_JSON, Reason.SCHEMA}
    openings = Counter(
        next((w for w in ("<html", '{"label', "I am sorry") if r.text.startswith(w)), "noise")
        for r in replies
    )
    assert min(openings.values()) > 25, openings
    assert len(openings) == 4
    for reply in replies:
        assert reply.verdict is None
        assert reply.confidence is None
        assert reply.decided_ns == reply.answered_ns
        reply.text.encode()
    assert [r.text for r in garbage()] == [r.text for r in replies]
    assert [r.text for r in garbage(seed=8)] != [r.text for r in replies]


def test_a_reply_cut_in_half_is_no_verdict_of_any_engine() -> None:
    for verdict in (None, Verdict(True, Box(0.5, 0.5, 0.1, 0.1), 0.9)):
        (came,) = came_of([fault("engine-half", 0, 9)], 1.0, verdict=verdict)
        assert came.at == 2.0
        assert came.reply is not None
        assert (came.reply.text, came.reply.finish) == ('{"has_smoke": true, "bbo', "length")
        assert came.reply.verdict is None
        assert read(came.reply) is Reason.CUT_OFF


def test_an_endless_reply_takes_as_long_as_its_tokens() -> None:
    script = [fault("engine-endless", 0, 9)]
    # 84 tokens more than the 12, at 0.6 / 12 = 0.05 s each: 4.2 s
    (came,) = came_of(script, 1.0, server={"generate_s": 0.6})
    assert came.at == 6.2
    assert came.reply is not None
    assert came.reply.finish == "length"
    assert came.reply.output_tokens == len(came.reply.text.split()) == 96
    assert read(came.reply) is Reason.CUT_OFF
    (came,) = came_of(script, 1.0, server={"generate_s": 0.6}, deadline_at=5.0)
    assert (came.at, came.kind) == (5.0, EngineTimeout)
    for unknown in ({"output_tokens": None}, {"server": {}}, {"output_tokens": 120}):
        told: dict[str, Any] = {"server": {"generate_s": 0.6}} | unknown
        assert came_of(script, 1.0, **told)[0].at == 2.0


def test_a_slow_engine_talks_nonsense_slowly() -> None:
    script = [fault("engine-half", 0, 9), fault("engine-slow", 0, 9, factor=3)]
    (came,) = came_of(script, 1.0)
    assert came.at == 4.0
    assert came.reply is not None
    assert read(came.reply) is Reason.CUT_OFF


ENGINE_KINDS = (
    "engine-overloaded",
    "engine-hang",
    "engine-slow",
    "engine-garbage",
    "engine-endless",
    "engine-half",
    "engine-restart",
    "engine-out-of-memory",
)


@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_outside_the_window_the_very_reply_of_the_engine_comes_back(kind: str) -> None:
    async def work(engine: FaultyEngine, scripted: Scripted, clock: Clock) -> None:
        replies = []

        async def remembered(asked: Request) -> Reply:
            replies.append(await Scripted.infer(scripted, asked))
            return replies[-1]

        scripted.infer = remembered  # type: ignore[method-assign]
        for at in (0.0, 8.999, 20.0, 30.0):
            came = await ask(engine, clock, at)
            assert came.reply is replies[-1]
            assert came.at == at + 1
        assert engine.counts == {}

    engaged([fault(kind, 10, 20)], work)


def test_faults_that_are_none_of_the_engines_do_not_touch_it() -> None:
    script = [fault(k, 0, 9) for k in ("camera-black", "network-loss", "host-cpu", "broker-gone")]
    assert [c.at for c in came_of(script, 1.0)] == [2.0]


def test_an_error_of_the_engine_itself_passes() -> None:
    own = EngineBroken("its own")
    script = [fault("engine-slow", 0, 9), fault("engine-restart", 50, 60)]
    (came,) = came_of(script, 1.0, error=own)
    assert came.error is own

    async def work(engine: FaultyEngine, scripted: Scripted, clock: Clock) -> None:
        with pytest.raises(TimeoutError, match="its own"):
            await engine.infer(request(clock))

    engaged(script, work, error=TimeoutError("its own"))


def test_an_engine_is_entered_left_checked_and_described_as_if_it_were_alone() -> None:
    async def main() -> None:
        clock = Clock()
        inner, told = Scripted(clock), Told(clock)
        engine = FaultyEngine(inner, [], clock)
        async with engine as entered:
            assert entered is engine
            assert inner.inside
        assert not inner.inside
        why = KeyError("the body's own")
        with pytest.raises(KeyError):
            async with engine:
                raise why
        assert inner.left_with == [None, why]
        assert engine.traits == inner.traits
        assert await engine.check() == [Check("scripted", True, "here")]
        assert not isinstance(engine, Gauged)
        gauged = FaultyEngine(told, [], clock)
        assert isinstance(gauged, Gauged)
        assert await gauged.gauges() == {"queue": 3.0}

    virtual_run(main())


@pytest.mark.parametrize(
    ("kind", "at"),
    [("engine-hang", 12.0), ("engine-hang", 9.5), ("engine-slow", 10.0), ("engine-restart", 9.0)],
)
def test_whoever_no_longer_waits_is_let_go_at_once(kind: str, at: float) -> None:
    async def work(engine: FaultyEngine, scripted: Scripted, clock: Clock) -> None:
        await clock.until(at)
        asking = asyncio.create_task(engine.infer(request(clock)))
        await asyncio.sleep(0.75)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert round(clock.now(), 6) == at + 0.75
        assert asyncio.all_tasks() == {asyncio.current_task()}

    engaged([fault(kind, 10, 20)], work)


async def _let_go(engine: FaultyEngine, scripted: Scripted, clock: Clock, at: float) -> float:
    await clock.until(at)
    await engine.infer(request(clock))
    return clock.now()


@settings(max_examples=80, deadline=None)
@given(
    speed=st.sampled_from([0.3, 1.0, 3.0, 7.0, 59.97]),
    window=WINDOWS,
    at=st.integers(0, 90_000).map(lambda ms: ms / 1000),
)
def test_a_hang_lets_go_at_its_end_and_holds_nobody_else(
    speed: float, window: tuple[int, int], at: float
) -> None:
    start, end = window

    def work(engine: FaultyEngine, scripted: Scripted, clock: Clock) -> Awaitable[float]:
        return _let_go(engine, scripted, clock, at)

    came = engaged([fault("engine-hang", start, end)], work, speed=speed, service_s=0.0)  # type: ignore[arg-type]
    expected = end if start <= at < end else at
    assert abs(came - expected) < 1e-6


# --- whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    pictures(folder / "pictures", 40)
    return folder


def run_of(stage: Path, out: str, *script: dict[str, Any], **more: Any) -> tuple[RunLog, Path]:
    """40 s of two cameras, a frame a second; a fire on `a` from 15 s. Each frame is looked at."""
    found = loaded(
        stage,
        camera("a", interval="1s", phase="0s", fires=[{"id": "oak", "onset": "15s"}]),
        camera("b", interval="1s", phase="0s"),
        clock="virtual",
        faults=list(script),
        **more,
    )
    folder = virtually(found, stage / out).folder
    log, ledger = proof(folder)
    assert ledger.scheduled == 80
    return log, folder


def ttfd_s(folder: Path) -> float:
    (fire,) = json.loads((folder / "score.json").read_text())["fires"]
    return float(round(fire["ttfd_s"], 3))


def fates(log: RunLog, name: str | None = None) -> dict[tuple[Fate, Reason], int]:
    """Those that are no plain answers."""
    found = Counter((f.fate, f.reason) for f in log.frames if name in (None, f.camera))
    found.pop((Fate.ANSWERED, Reason.NONE), None)
    return dict(found)


UNREAD = [(Fate.BAD_JSON, Reason.NOT_JSON), (Fate.BAD_JSON, Reason.SCHEMA)]
CUT = (Fate.BAD_JSON, Reason.CUT_OFF)
GAP = (Fate.LOST, Reason.GAP)

OF_A: list[tuple[str, dict[str, Any], dict[tuple[Fate, Reason], int], float]] = [
    ("camera-frozen", {}, {}, 5.1),
    ("camera-black", {}, {}, 5.1),
    ("camera-wrong-size", {"height": 32}, {}, 0.1),
    # cut off or overwritten: 10 frames, of which 15 to 19 would have shown the smoke
    ("camera-corrupt", {"share": 1}, {(Fate.UNDECODABLE, Reason.NONE): 10}, 5.1),
    # off at 10, 11, 14, 15, 18 and 19
    ("camera-flap", {"period": 4}, {GAP: 6}, 1.1),
    ("camera-duplicate", {"share": 1}, {}, 0.1),
    # held until frame 20 has gone, since there is none between them that is not
    ("camera-reorder", {"share": 1}, {}, 5.1),
    ("network-loss", {"share": 1}, {GAP: 10}, 5.1),
    ("network-delay", {"delay": 2}, {}, 2.1),
]


@pytest.mark.parametrize(("kind", "more", "expected", "late_s"), OF_A, ids=[o[0] for o in OF_A])
def test_a_fault_of_one_camera_costs_that_camera_what_it_must(
    stage: Path,
    kind: str,
    more: dict[str, Any],
    expected: dict[tuple[Fate, Reason], int],
    late_s: float,
) -> None:
    script = {"kind": kind, "start": 10, "end": 20, "cameras": ["a"], **more}
    log, folder = run_of(stage, kind, script)
    found = fates(log, "a")
    if kind == "camera-corrupt":
        found = {(fate, Reason.NONE): 10 for fate, _ in found if sum(found.values()) == 10}
    assert found == expected
    assert fates(log, "b") == {}
    assert ttfd_s(folder) == late_s
    unsent = Counter(shot.unsent for shot in log.shots if shot.unsent is not Reason.NONE)
    assert unsent == ({Reason.OUTAGE: 6} if kind == "camera-flap" else {})
    (end,) = notes(log, "session_end")
    assert end["duplicates"] == (10 if kind == "camera-duplicate" else 0)


OF_ENGINE: list[tuple[str, dict[str, Any], dict[tuple[Fate, Reason], int], float]] = [
    ("engine-overloaded", {}, {(Fate.ENGINE_ERROR, Reason.OVERLOADED): 20}, 5.1),
    ("engine-out-of-memory", {}, {(Fate.ENGINE_ERROR, Reason.BROKEN_ANSWER): 20}, 5.1),
    # frames 10 to 15 are answered one after the other when it is over, a tenth of a second each
    ("engine-hang", {}, {}, 5.6),
    ("engine-slow", {"factor": 5}, {}, 0.5),
    ("engine-half", {}, {CUT: 20}, 5.1),
    ("engine-endless", {}, {CUT: 20}, 5.1),
]


@pytest.mark.parametrize(
    ("kind", "more", "expected", "late_s"), OF_ENGINE, ids=[o[0] for o in OF_ENGINE]
)
def test_a_fault_of_the_engine_costs_all_cameras_what_it_must(
    stage: Path,
    kind: str,
    more: dict[str, Any],
    expected: dict[tuple[Fate, Reason], int],
    late_s: float,
) -> None:
    log, folder = run_of(stage, kind, {"kind": kind, "start": 10, "end": 20, **more})
    assert fates(log) == expected
    assert ttfd_s(folder) == late_s
    assert all(10 <= f.captured_at < 20 for f in log.frames if f.fate is not Fate.ANSWERED)


def test_garbage_is_scored_as_an_answer_that_nobody_can_read(stage: Path) -> None:
    log, folder = run_of(stage, "garbage", {"kind": "engine-garbage", "start": 10, "end": 20})
    found = fates(log)
    assert found.keys() <= set(UNREAD)
    assert sum(found.values()) == 20
    assert ttfd_s(folder) == 5.1


def test_an_engine_that_starts_again_fails_requests_and_is_found_again(stage: Path) -> None:
    log, folder = run_of(stage, "restart", {"kind": "engine-restart", "start": 10, "end": 20})
    found = fates(log)
    assert found.keys() == {(Fate.ENGINE_ERROR, Reason.UNAVAILABLE)}
    assert 1 <= found[Fate.ENGINE_ERROR, Reason.UNAVAILABLE] <= 20
    assert ttfd_s(folder) >= 5.1
    last = [f for f in log.frames if f.captured_at >= 30]
    assert {f.fate for f in last} == {Fate.ANSWERED}


def test_a_camera_whose_clock_is_ahead_is_no_earlier_for_it(stage: Path) -> None:
    script = {"kind": "camera-clock", "start": 10, "end": 20, "shift": 120, "cameras": ["a"]}
    _, folder = run_of(stage, "ahead", script)
    assert ttfd_s(folder) == 0.1


@pytest.mark.parametrize("policy", ["every", "adaptive"])
@pytest.mark.parametrize("shift", [1000, -1000, 2e9, -1.8e9])
def test_however_wrong_a_cameras_clock_every_frame_has_its_fate(
    stage: Path, shift: float, policy: str
) -> None:
    script = {"kind": "camera-clock", "start": 10, "end": 20, "shift": shift, "cameras": ["a"]}
    log, _ = run_of(stage, f"clock-{shift}-{policy}", script, sampling={"policy": policy})
    told = {f.seq: f.captured_at for f in log.frames if f.camera == "a"}
    assert {s.seq: s.captured_at for s in log.shots if s.camera == "a"} == {
        seq: float(seq) for seq in range(40)
    }, "the camera's own log stays true"
    if abs(shift) == 1000:
        assert [told[seq] - seq for seq in range(9, 21)] == [0.0] + [shift] * 10 + [0.0]
    else:
        # no header holds such an instant: the frames are refused, and missing
        assert [f.fate for f in log.frames if f.camera == "a" and 10 <= f.seq < 20] == [
            Fate.LOST
        ] * 10
        (end,) = notes(log, "session_end")
        assert sum(end["refused"].values()) == 10


def test_an_engine_with_eyes_meets_black_small_and_broken_pictures(stage: Path) -> None:
    log, _ = run_of(
        stage,
        "eyes",
        {"kind": "camera-black", "start": 5, "end": 10},
        {"kind": "camera-wrong-size", "start": 8, "end": 14, "height": 40},
        {"kind": "camera-corrupt", "start": 12, "end": 20, "share": 0.5},
        {"kind": "camera-frozen", "start": 18, "end": 30},
        engine={"name": "baseline"},
    )
    broken = {(f.camera, f.seq) for f in log.frames if f.fate is Fate.UNDECODABLE}
    assert {seq for _, seq in broken} <= set(range(12, 20))
    assert 2 <= len(broken) <= 14, "of 16 frames, half"
    assert {f.fate for f in log.frames} == {Fate.ANSWERED, Fate.UNDECODABLE}


def test_faults_happen_alike_in_every_run_and_elsewhere_nothing_changes(stage: Path) -> None:
    script = [
        {"kind": "camera-corrupt", "start": 5, "end": 30, "cameras": ["a"]},
        {"kind": "network-loss", "start": 10, "end": 35, "cameras": ["a"]},
        {"kind": "camera-duplicate", "start": 0, "end": 40, "cameras": ["a"]},
        {"kind": "network-jitter", "start": 20, "end": 40, "cameras": ["a"]},
    ]
    engine = {"name": "simulated", "profile": "spec-gpu"}
    runs = [run_of(stage, f"again-{n}", *script, engine=engine)[0] for n in range(2)]
    assert runs[0].frames == runs[1].frames
    assert runs[0].shots == runs[1].shots
    assert len(fates(runs[0], "a")) == 3, "cut, overwritten, lost"
    clean, _ = run_of(stage, "clean", engine=engine)
    for log in (runs[0], clean):
        assert fates(log, "b") == {}
    assert [f for f in runs[0].frames if f.camera == "a" and f.seq < 5] == [
        f for f in clean.frames if f.camera == "a" and f.seq < 5
    ]
    other, _ = run_of(stage, "other", *script, engine=engine, seed=4)
    assert fates(other, "a") != fates(runs[0], "a")


VIRTUAL_KINDS = (*(o[0] for o in OF_A), *ENGINE_KINDS, "camera-clock", "network-jitter")
RUNS = itertools.count()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=st.lists(
        st.tuples(
            st.sampled_from(VIRTUAL_KINDS),
            st.integers(0, 39),
            st.integers(1, 30),
            st.sampled_from([[], ["a"], ["b"]]),
        ),
        min_size=1,
        max_size=6,
    ),
    policy=st.sampled_from(["every", "fixed", "adaptive"]),
)
def test_whatever_goes_wrong_together_the_ledger_is_exact(
    stage: Path, script: list[tuple[str, int, int, list[str]]], policy: str
) -> None:
    faults = [
        {"kind": kind, "start": start, "end": start + lasts}
        | ({} if kind.startswith("engine-") else {"cameras": cameras})
        for kind, start, lasts, cameras in script
    ]
    run_of(stage, f"any-{next(RUNS)}", *faults, sampling={"policy": policy})
