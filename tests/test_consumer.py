"""The consumer: whatever arrives, and whenever it ends, each frame meets exactly one fate."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyfire_stream import consumer as consumer_module
from earlyfire_stream.clock import VIRTUAL_EPOCH_NS, Clock, virtual_run
from earlyfire_stream.consumer import Consumer, Seat
from earlyfire_stream.engines.base import Check, Reply, Request, Traits
from earlyfire_stream.errors import (
    EngineBroken,
    EngineError,
    EngineOverloaded,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    RunFolderError,
    UsageError,
)
from earlyfire_stream.frames import Capture, identity, shard_of, wrap
from earlyfire_stream.records import AlarmRecord, CameraPlan, Explanation, FirePlan, FrameRecord
from earlyfire_stream.scenario.models import Scenario
from earlyfire_stream.transport.base import Control
from earlyfire_stream.transport.memory import MemoryHub
from earlyfire_stream.verdict import Box, Fate, Reason

SECOND = 1_000_000_000
NO = '{"has_smoke": false, "bbox": null}'
YES = '{"has_smoke": true, "bbox": [0.5, 0.25, 0.25, 0.125]}'
BLANK = bytes.fromhex("ffd8ffc0000b0802d00500010111 00ffda0008010100003f00ffd9")
"""The header of a picture of 1280 x 720: 1,196 visual tokens."""
VERY_WIDE = bytes.fromhex("ffd8ffc0000b08000a271001011100ffda0008010100003f00ffd9")
"""10,000 x 10."""


@dataclass(frozen=True)
class Say:
    """What the engine does with a request."""

    text: str = NO
    after_s: float = 0.1
    error: EngineError | None = None
    hangs: bool = False


Script = Callable[[Request], Say]


class FakeEngine:
    """Does what its script says, and remembers what it was asked."""

    def __init__(
        self, clock: Clock, script: Script, needs_pixels: bool = False, **traits: Any
    ) -> None:
        self.traits = Traits("fake", "none", needs_pixels=needs_pixels, virtual_ok=True, **traits)
        self.asked: list[tuple[str, int, float]] = []
        self.requests: list[Request] = []
        self.busy = 0
        self.busiest = 0
        self._clock = clock
        self._script = script

    async def infer(self, request: Request) -> Reply:
        self.asked.append((request.camera, request.seq, round(self._clock.now(), 3)))
        self.requests.append(request)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            say = self._script(request)
            if say.hangs:
                await asyncio.get_running_loop().create_future()
            await asyncio.sleep(say.after_s)
        finally:
            self.busy -= 1
        if say.error is not None:
            raise say.error
        now_ns = self._clock.wall_ns()
        return Reply(say.text, "stop", now_ns, now_ns, request.visual_tokens)

    async def check(self) -> list[Check]:
        return []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


@dataclass
class Stage:
    """One consumer at work, and everything that went in and came out."""

    clock: Clock
    hub: MemoryHub
    engine: FakeEngine
    consumer: Consumer
    frames: list[FrameRecord]
    alarms: list[AlarmRecord]
    explanations: list[Explanation]
    ended_at: float = -1.0
    last_seqs: dict[str, int] = field(default_factory=dict)

    def deliver(self, camera: str, seq: int, at: float | None = None, **more: Any) -> None:
        """A frame arrives now; captured now unless `at` says when. It counts as scheduled."""
        self.last_seqs[camera] = max(seq, self.last_seqs.get(camera, -1))
        self.hub.deliver(camera, self.payload(camera, seq, at, **more))

    def payload(
        self, camera: str, seq: int, at: float | None = None, run: str = "r1", jpeg: bytes = BLANK
    ) -> bytes:
        at = self.clock.now() if at is None else at
        ns = self.clock.wall_of(at)
        return wrap(jpeg, Capture(run, camera, seq, at, ns, ns, self.clock.speed))

    async def stream(self, camera: str, count: int, every: float = 1.0, **more: Any) -> None:
        """`count` frames from now on, seq and capture in step."""
        begin = self.clock.now()
        for seq in range(count):
            await self.clock.until(begin + seq * every)
            self.deliver(camera, seq, **more)

    def end(self, **last_seqs: int) -> None:
        """The fleet's last word; what was delivered here was its all unless said otherwise."""
        last = self.last_seqs | last_seqs
        self.hub.announce(Control("r1", "d", self.clock.start_ns, self.clock.speed, last))

    def fates(self, camera: str = "a") -> dict[int, tuple[Fate, Reason]]:
        return {f.seq: (f.fate, f.reason) for f in self.frames if f.camera == camera}

    def scheduled(self) -> list[tuple[str, int]]:
        return sorted((c, seq) for c, last in self.last_seqs.items() for seq in range(last + 1))

    def recorded(self) -> list[tuple[str, int]]:
        return sorted((f.camera, f.seq) for f in self.frames)


Feed = Callable[[Stage], Awaitable[None]]


def quiet(_: Request) -> Say:
    return Say()


def scenario(**parts: Any) -> Scenario:
    defaults: dict[str, Any] = {
        "earlyfire": 1,
        "name": "t",
        "duration": 10_000,
        "cameras": [{"id": "a", "source": {"kind": "synthetic"}}],
        "sampling": {"policy": "every"},
        "budget": {"tokens_per_s": "none"},
        "engine": {"concurrency": 1},
    }
    return Scenario.model_validate(defaults | parts)


def seats(*names: str, fires: Iterable[FirePlan] = ()) -> dict[str, Seat]:
    return {name: Seat(CameraPlan(name, tuple(fires), 1.0)) for name in names}


def stage_of(
    script: Script,
    places: Mapping[str, Seat] | None = None,
    needs_pixels: bool = False,
    hub: MemoryHub | None = None,
    inlet: Any = None,
    more: Mapping[str, Any] | None = None,
    traits: Mapping[str, Any] | None = None,
    **parts: Any,
) -> Stage:
    settings_ = scenario(**parts)
    clock = Clock(settings_.speed)
    hub = hub or MemoryHub(clock.wall_ns)
    engine = FakeEngine(clock, script, needs_pixels, **dict(traits or {}))
    kept: dict[type, list[Any]] = {FrameRecord: [], AlarmRecord: [], Explanation: []}

    def emit(record: FrameRecord | AlarmRecord | Explanation) -> None:
        orjson.dumps(record)  # whatever cannot be written would end the run
        kept[type(record)].append(record)

    options: dict[str, Any] = {"pixels": False} | dict(more or {})
    consumer = Consumer(
        "r1",
        settings_,
        seats("a", "b", "c") if places is None else places,
        inlet or hub.inlet(),
        engine,
        clock,
        emit,
        **options,
    )
    return Stage(clock, hub, engine, consumer, *kept.values())


async def watched_by(stage: Stage, feed: Feed) -> Stage:
    async with stage.consumer._inlet:  # type: ignore[attr-defined]
        watching = asyncio.create_task(stage.consumer.watch())
        await asyncio.sleep(0)
        await feed(stage)
        await watching
        stage.ended_at = stage.clock.now()
    return stage


def watched(feed: Feed, script: Script = quiet, **options: Any) -> Stage:
    async def main() -> Stage:
        return await watched_by(stage_of(script, **options), feed)

    return virtual_run(main())


def only(**streams: tuple[int, float]) -> Feed:
    """Each camera's (count, seconds between frames), all from second 0; then the end."""

    async def feed(stage: Stage) -> None:
        async with asyncio.TaskGroup() as group:
            for name, (count, every) in streams.items():
                group.create_task(stage.stream(name, count, every))
        stage.end()

    return feed


FIXED = {"policy": "fixed", "idle": 5}
DONE = (Fate.ANSWERED, Reason.NONE)


# --- looked at ---


def test_an_answered_frame_is_recorded_with_all_its_instants() -> None:
    async def feed(stage: Stage) -> None:
        await stage.clock.until(10.0)
        stage.deliver("a", 0, at=9.5)
        stage.end()

    stage = watched(feed, lambda _: Say(NO, after_s=0.25))
    (record,) = stage.frames
    assert (record.fate, record.admitted) == (Fate.ANSWERED, True)
    assert record.captured_at == 9.5
    assert record.captured_ns == VIRTUAL_EPOCH_NS + 9_500_000_000
    assert record.received_ns == VIRTUAL_EPOCH_NS + 10 * SECOND
    assert record.identity == identity(BLANK)
    answer = record.answer
    assert answer is not None
    assert answer.started_ns == VIRTUAL_EPOCH_NS + 10 * SECOND
    assert answer.answered_ns == answer.decided_ns == VIRTUAL_EPOCH_NS + 10_250_000_000
    assert (answer.sent_size, answer.visual_tokens) == ((1288, 728), 1196)
    assert answer.text == NO
    assert answer.verdict is not None
    assert not answer.verdict.has_smoke


def test_a_request_names_its_deadline_and_its_frame() -> None:
    stage = watched(only(a=(1, 1.0)), engine={"concurrency": 1, "deadline": 12})
    (request,) = stage.engine.requests
    assert request.deadline_ns == VIRTUAL_EPOCH_NS + 12 * SECOND
    assert (request.camera, request.seq, request.visual_tokens) == ("a", 0, 1196)
    assert (request.truth, request.smoke, request.image) == ((), None, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I think there is smoke", Reason.NOT_JSON),
        ("BAD_JSON", Reason.SENTINEL),
        ("", Reason.EMPTY),
        ('{"smoke": 1}', Reason.SCHEMA),
    ],
)
def test_a_reply_that_cannot_be_read_is_bad_json(text: str, reason: Reason) -> None:
    stage = watched(only(a=(1, 1.0)), lambda _: Say(text))
    (record,) = stage.frames
    assert (record.fate, record.reason) == (Fate.BAD_JSON, reason)
    assert record.answer is not None
    assert (record.answer.text, record.answer.verdict) == (text, None)
    assert stage.alarms == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EngineUnavailable("away"), Reason.UNAVAILABLE),
        (EngineOverloaded("busy"), Reason.OVERLOADED),
        (EngineTimeout("slow"), Reason.TIMEOUT),
        (EngineRejected("no"), Reason.REJECTED),
        (EngineBroken("what"), Reason.BROKEN_ANSWER),
        (EngineError("?"), Reason.ERROR),
    ],
)
def test_an_engines_failure_is_a_fate_and_the_next_frame_goes_on(
    error: EngineError, reason: Reason
) -> None:
    stage = watched(only(a=(2, 1.0)), lambda r: Say(error=error) if r.seq == 0 else Say())
    assert stage.fates() == {0: (Fate.ENGINE_ERROR, reason), 1: DONE}
    failed = stage.frames[0]
    assert failed.detail == str(error)
    assert failed.answer is not None
    assert failed.answer.answered_ns == VIRTUAL_EPOCH_NS + SECOND // 10


def dead_until(at: float, clocks: list[Clock], **how: Any) -> Script:
    return lambda _: Say(**how) if clocks[0].now() < at else Say()


def test_a_dead_engine_is_asked_ever_more_rarely_until_it_answers() -> None:
    clocks: list[Clock] = []

    async def feed(stage: Stage) -> None:
        clocks.append(stage.clock)
        await stage.stream("a", 24)
        stage.end()

    stage = watched(feed, dead_until(20.0, clocks, error=EngineUnavailable("away")))
    # Five failures open it; each question takes 0.1 s, the rests are 0.5, 1, 2, 2 ... s.
    asked = [at for _, _, at in stage.engine.asked]
    assert asked[:9] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.1, 8.2, 10.3]
    assert asked[9:14] == [12.4, 14.5, 16.6, 18.7, 20.8]
    assert Counter(stage.fates().values()) == {
        (Fate.ENGINE_ERROR, Reason.UNAVAILABLE): 13,
        DONE: 11,
    }
    assert stage.recorded() == stage.scheduled()


def test_frames_that_a_dead_engine_keeps_waiting_expire_for_that_reason() -> None:
    clocks: list[Clock] = []

    async def feed(stage: Stage) -> None:
        clocks.append(stage.clock)
        await stage.stream("a", 24)
        stage.end()

    stage = watched(
        feed,
        dead_until(20.0, clocks, error=EngineUnavailable("away")),
        engine={"concurrency": 1, "deadline": 1},
    )
    fates = stage.fates()
    # Asked at 6.1 s, 8.2 s, 10.3 s ...: what was captured at 7 s, 9 s ... is too old by then.
    expired = [seq for seq in fates if fates[seq] == (Fate.EXPIRED, Reason.UNAVAILABLE)]
    assert sorted(expired) == [7, 9, 11, 13, 15, 17, 19]
    assert fates[23] == DONE
    assert stage.recorded() == stage.scheduled()


def test_an_engine_that_hangs_is_one_that_does_not_answer() -> None:
    clocks: list[Clock] = []

    async def feed(stage: Stage) -> None:
        clocks.append(stage.clock)
        await stage.stream("a", 40)
        stage.end()

    stage = watched(
        feed, dead_until(20.0, clocks, hangs=True), engine={"concurrency": 4, "timeout": 2}
    )
    # One a camera at a time: five of them given up after 2 s each, then one question after another.
    assert [at for _, _, at in stage.engine.asked][:9] == [0, 2, 4, 6, 8, 10.5, 13.5, 17.5, 21.5]
    assert stage.fates()[39] == DONE


def test_an_engine_that_is_busy_or_rejects_is_alive() -> None:
    for error in (EngineOverloaded("busy"), EngineRejected("no"), EngineError("?")):
        stage = watched(only(a=(12, 1.0)), lambda _, why=error: Say(error=why))
        assert [at for _, _, at in stage.engine.asked] == [float(n) for n in range(12)]


def test_a_frame_with_little_time_left_says_nothing_about_the_engine() -> None:
    async def feed(stage: Stage) -> None:
        for seq in range(12):
            await stage.clock.until(20.0 + seq)
            stage.deliver("a", seq, at=stage.clock.now() - 4.0)  # 1 s is left
        stage.end()

    stage = watched(feed, lambda _: Say(hangs=True), engine={"concurrency": 1, "deadline": 5})
    assert len(stage.engine.asked) == 12


def test_an_engine_that_hangs_is_given_up_after_its_timeout() -> None:
    stage = watched(
        only(a=(1, 1.0)), lambda _: Say(hangs=True), engine={"concurrency": 1, "timeout": 2}
    )
    assert stage.fates() == {0: (Fate.ENGINE_ERROR, Reason.TIMEOUT)}
    answer = stage.frames[0].answer
    assert answer is not None
    assert answer.answered_ns == VIRTUAL_EPOCH_NS + 2 * SECOND


def test_nothing_is_waited_for_beyond_the_deadline_of_its_capture() -> None:
    async def feed(stage: Stage) -> None:
        await stage.clock.until(10.0)
        stage.deliver("a", 0, at=7.0)
        stage.end()

    stage = watched(feed, lambda _: Say(hangs=True), engine={"concurrency": 1, "deadline": 5})
    answer = stage.frames[0].answer
    assert answer is not None
    assert answer.answered_ns == VIRTUAL_EPOCH_NS + 12 * SECOND


def test_no_more_requests_are_under_way_than_there_are_workers() -> None:
    cameras = [f"c{n}" for n in range(10)]
    stage = watched(
        only(**dict.fromkeys(cameras, (3, 1.0))),
        lambda _: Say(after_s=0.2),
        places=seats(*cameras),
        engine={"concurrency": 3},
    )
    assert stage.engine.busiest == 3
    assert stage.recorded() == stage.scheduled()


def test_an_engines_own_limit_bounds_the_workers() -> None:
    stage = watched(only(a=(1, 1.0)), engine={"concurrency": 256})
    assert stage.consumer.limit == 64
    assert watched(only(a=(1, 1.0)), engine={"concurrency": "auto"}).consumer.limit == 4


def test_text_that_is_no_utf8_is_recorded_all_the_same() -> None:
    stage = watched(only(a=(1, 1.0)), lambda _: Say('{"has_smoke": false} \ud83d'))
    assert [f.seq for f in stage.frames] == [0]
    other = watched(only(a=(1, 1.0)), lambda _: Say(error=EngineRejected("caf\udce9")))
    assert other.fates() == {0: (Fate.ENGINE_ERROR, Reason.REJECTED)}


def test_of_a_long_reply_four_thousand_characters_are_kept() -> None:
    stage = watched(only(a=(1, 1.0)), lambda _: Say("x" * 10_000))
    answer = stage.frames[0].answer
    assert answer is not None
    assert answer.text == "x" * 4000


# --- sampled, waiting ---


def test_a_quiet_camera_is_looked_at_every_idle_interval() -> None:
    stage = watched(only(a=(11, 1.0)), sampling=FIXED)
    assert [(seq, at) for _, seq, at in stage.engine.asked] == [(0, 0.0), (5, 5.0), (10, 10.0)]
    for seq, fate in stage.fates().items():
        assert fate == (DONE if seq % 5 == 0 else (Fate.SAMPLED_OUT, Reason.IDLE))
    assert all(f.admitted == (f.seq % 5 == 0) for f in stage.frames)


def test_under_a_token_budget_frames_are_sampled_out_for_load() -> None:
    # 119.6 tokens a second are one look of 1,196 tokens in 10 s
    stage = watched(
        only(a=(21, 1.0)),
        places=seats("a"),
        sampling={"policy": "adaptive"},
        budget={"tokens_per_s": 119.6},
    )
    assert [seq for _, seq, _ in stage.engine.asked] == [0, 10, 20]
    others = {fate for seq, fate in stage.fates().items() if seq % 10}
    assert others == {(Fate.SAMPLED_OUT, Reason.LOAD)}
    assert stage.consumer.tokens_spent == 3 * 1196


def test_while_the_engine_is_busy_a_fresher_frame_replaces_the_waiting_one() -> None:
    stage = watched(only(a=(5, 5.0)), lambda _: Say(after_s=20.1), sampling=FIXED)
    newer = (Fate.SUPERSEDED, Reason.NEWER)
    assert stage.fates() == {0: DONE, 1: newer, 2: newer, 3: newer, 4: DONE}
    assert all(f.admitted for f in stage.frames)


def test_an_older_frame_behind_an_admitted_one_is_stale() -> None:
    async def feed(stage: Stage) -> None:
        await stage.clock.until(10.0)
        stage.deliver("a", 1, at=5.0)
        stage.deliver("a", 0, at=0.0)
        stage.end()

    stage = watched(feed, sampling=FIXED)
    assert stage.fates() == {0: (Fate.SUPERSEDED, Reason.STALE_ON_ARRIVAL), 1: DONE}
    assert [f.admitted for f in stage.frames if f.seq == 0] == [False]


def test_a_camera_whose_clock_was_set_back_is_looked_at_by_its_new_clock() -> None:
    async def feed(stage: Stage) -> None:
        for seq in range(20):
            await stage.clock.until(float(seq))
            ahead = 120.0 if 5 <= seq < 10 else 0.0
            stage.deliver("a", seq, at=stage.clock.now() + ahead)
        stage.end()

    stage = watched(feed, sampling=FIXED)
    looked = [seq for seq, fate in sorted(stage.fates().items()) if fate == DONE]
    # Every 5 s, at once where the clock leaps ahead, and at once when it is right again.
    assert looked == [0, 5, 10, 15]
    assert {fate for fate, _ in stage.fates().values()} == {Fate.ANSWERED, Fate.SAMPLED_OUT}


def test_after_a_clock_was_set_back_the_next_alarm_is_not_held_for_a_repeat() -> None:
    async def feed(stage: Stage) -> None:
        for seq in range(4):
            await stage.clock.until(5.0 * seq)
            stage.deliver("a", seq, at=stage.clock.now() + (250.0 if seq == 0 else 0.0))
        stage.end()

    stage = watched(feed, lambda _: Say(YES), sampling=FIXED, alarm={"repeat": 300})
    assert [(a.alarm.seqs, a.emitted) for a in stage.alarms][:3] == [
        ((0,), True),
        ((1,), True),
        ((2,), False),
    ]


def test_where_every_frame_counts_late_ones_are_looked_at_too() -> None:
    async def feed(stage: Stage) -> None:
        await stage.clock.until(10.0)
        for seq in (2, 0, 1):
            stage.deliver("a", seq, at=seq * 2.0)
            await asyncio.sleep(1)
        stage.end()

    stage = watched(feed)
    assert stage.fates() == {0: DONE, 1: DONE, 2: DONE}


def test_a_frame_that_waits_past_its_deadline_expires() -> None:
    async def feed(stage: Stage) -> None:
        await stage.clock.until(1.0)
        stage.deliver("a", 0)
        await stage.clock.until(1.2)
        stage.deliver("b", 0, at=0.9)
        stage.end()

    stage = watched(feed, lambda _: Say(hangs=True), engine={"concurrency": 1, "deadline": 4})
    assert stage.fates("a") == {0: (Fate.ENGINE_ERROR, Reason.TIMEOUT)}
    assert stage.fates("b") == {0: (Fate.EXPIRED, Reason.NONE)}
    # given up at 5.0 s, nothing is left to wait for
    assert stage.ended_at == pytest.approx(5.0, abs=0.11)


def test_a_frame_that_the_budget_held_back_till_its_deadline_is_over_budget() -> None:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 0)
        await stage.clock.until(1.0)
        stage.deliver("b", 0)
        stage.end()

    # 1,196 tokens at 100 a second: nobody may ask again for 12 s
    stage = watched(
        feed,
        sampling=FIXED,
        budget={"tokens_per_s": 100},
        engine={"concurrency": 1, "deadline": 5},
    )
    assert stage.fates("a") == {0: DONE}
    assert stage.fates("b") == {0: (Fate.OVER_BUDGET, Reason.NONE)}


def test_two_requests_are_as_far_apart_as_the_budget_says() -> None:
    stage = watched(
        only(a=(1, 1.0), b=(1, 1.0), c=(1, 1.0)),
        budget={"tokens_per_s": 598, "burst": 2},
        engine={"concurrency": 3},
    )
    # the bucket holds 1,196; each further request needs 2 s of 598 tokens
    assert sorted(at for _, _, at in stage.engine.asked) == [0.0, 2.0, 4.0]


def test_a_frame_found_late_by_a_worker_at_the_end_does_not_keep_it_waiting() -> None:
    async def feed(stage: Stage) -> None:
        await stage.clock.until(1.2)
        stage.deliver("a", 0)
        await stage.clock.until(1.3)
        stage.deliver("b", 0, at=1.15)
        stage.end()

    stage = watched(feed, lambda _: Say(hangs=True), engine={"concurrency": 1, "deadline": 4})
    # b is late from 5.15 s on, a is given up at 5.2 s; housekeeping would come at 5.5 s
    assert stage.fates("b") == {0: (Fate.EXPIRED, Reason.NONE)}
    assert stage.ended_at == pytest.approx(5.2, abs=0.05)


# --- suspicion ---


def test_an_unconfirmed_positive_is_looked_at_again_soon() -> None:
    stage = watched(
        only(a=(21, 1.0)),
        lambda r: Say(YES if r.seq == 5 else NO),
        sampling={"policy": "adaptive", "idle": 5, "suspect": 1, "hold": 4},
        alarm={"k": 2, "n": 3},
    )
    # suspicious from 5 s until 9 s; then every 5 s again, counted from the look at 8 s
    assert [seq for _, seq, _ in stage.engine.asked] == [0, 5, 6, 7, 8, 13, 18]
    assert stage.alarms == []


def test_whoever_watches_is_told_which_cameras_are_under_suspicion() -> None:
    told: list[frozenset[str]] = []

    async def feed(stage: Stage) -> None:
        for seq in range(12):
            await stage.clock.until(seq)
            stage.deliver("a", seq)
            await stage.clock.until(seq + 0.5)
            told.append(stage.consumer.snapshot().suspected)
        stage.end()

    watched(
        feed,
        lambda r: Say(YES if r.seq == 5 else NO),
        sampling={"policy": "adaptive", "idle": 5, "suspect": 1, "hold": 4},
        alarm={"k": 2, "n": 3},
    )
    # one positive at 5 s, held for 4 s, never confirmed
    assert [seq for seq, names in enumerate(told) if names == {"a"}] == [5, 6, 7, 8]
    assert [seq for seq, names in enumerate(told) if not names] == [0, 1, 2, 3, 4, 9, 10, 11]


def test_a_change_in_the_picture_has_the_very_frame_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = {7: 9.0}
    monkeypatch.setattr(
        consumer_module,
        "_change",
        lambda detector, frame: scores.get(frame.capture.seq, 0.0),
    )
    stage = watched(
        only(a=(15, 1.0)),
        sampling={"policy": "adaptive", "idle": 30, "suspect": 1, "hold": 2},
        more={"pixels": True},
    )
    # scored every second frame or oftener, so 7 is either scored itself or passed over
    asked = [seq for _, seq, _ in stage.engine.asked]
    assert asked[0] == 0
    assert stage.recorded() == stage.scheduled()
    scores.update({8: 9.0})
    again = watched(
        only(a=(15, 1.0)),
        sampling={"policy": "adaptive", "idle": 30, "suspect": 1, "hold": 2},
        more={"pixels": True},
    )
    looked = [seq for _, seq, _ in again.engine.asked]
    assert 8 in looked
    assert looked[-1] < 15
    assert set(looked) <= {0, 7, 8, 9, 10}


# --- alarms ---


def test_k_of_n_positives_raise_an_alarm_that_names_its_frames() -> None:
    stage = watched(only(a=(4, 1.0)), lambda r: Say(YES if r.seq else NO), alarm={"k": 2, "n": 2})
    first, second = stage.alarms
    assert first.alarm.seqs == (1, 2)
    assert first.alarm.completed_at == 2.0
    assert first.alarm.box == Box(0.5, 0.25, 0.25, 0.125)
    assert first.alarm.decided_ns == VIRTUAL_EPOCH_NS + 2_100_000_000
    assert (first.emitted, second.emitted) == (True, False)


@pytest.mark.parametrize(
    ("fires", "kind"),
    [
        ([FirePlan("oak", 2.0)], "true"),
        ([FirePlan("oak", 2.5)], "false"),
        ([FirePlan("oak", 0.0, 2.0)], "false"),
        ([FirePlan("oak", 0.0, 1.0), FirePlan("elm", 1.5, 2.5)], "true"),
        ([], "false"),
    ],
)
def test_an_alarm_is_true_if_a_fire_burns_when_its_frame_is_captured(
    fires: list[FirePlan], kind: str
) -> None:
    stage = watched(
        only(a=(3, 1.0)), lambda r: Say(YES if r.seq == 2 else NO), places=seats("a", fires=fires)
    )
    messages = [(what, orjson.loads(body)) for _, what, body in stage.hub.messages]
    assert [what for what, _ in messages] == ["verdict", "verdict", "verdict", "alarm"]
    assert messages[-1][1]["kind"] == kind
    assert messages[2][1] == {
        "run": "r1", "camera": "a", "seq": 2, "captured_at": 2.0,
        "captured_ns": VIRTUAL_EPOCH_NS + 2 * SECOND, "has_smoke": True,
        "box": {"xc": 0.5, "yc": 0.25, "w": 0.25, "h": 0.125}, "confidence": None,
    }  # fmt: skip


def test_smoke_inside_an_ignored_polygon_raises_no_alarm() -> None:
    chimney = ((0.25, 0.0), (0.75, 0.0), (0.75, 0.5), (0.25, 0.5))
    places = {"a": Seat(CameraPlan("a", ignore=(chimney,)))}
    stage = watched(only(a=(3, 1.0)), lambda _: Say(YES), places=places)
    assert stage.alarms == []
    assert stage.fates() == {0: DONE, 1: DONE, 2: DONE}


def test_the_frame_of_an_emitted_alarm_is_handed_on() -> None:
    kept: list[tuple[int, bytes]] = []
    watched(
        only(a=(3, 1.0)),
        lambda _: Say(YES),
        more={"on_alarm_frame": lambda r, jpeg: kept.append((r.alarm.seqs[-1], identity(jpeg)))},
    )
    assert kept == [(0, identity(BLANK))]


def test_a_frame_whose_alarm_could_not_be_kept_has_one_fate() -> None:
    def full(record: AlarmRecord, jpeg: bytes) -> None:
        raise RunFolderError("disk full")

    async def main() -> Stage:
        stage = stage_of(lambda _: Say(YES), more={"on_alarm_frame": full})
        async with stage.consumer._inlet:  # type: ignore[attr-defined]
            watching = asyncio.create_task(stage.consumer.watch())
            await asyncio.sleep(0)
            stage.deliver("a", 0)
            with pytest.raises(ExceptionGroup) as caught:
                await watching
        assert caught.group_contains(RunFolderError)
        return stage

    stage = virtual_run(main())
    assert [(f.seq, f.fate) for f in stage.frames] == [(0, Fate.ANSWERED)]


# --- what cannot be decoded ---


def test_a_frame_cut_off_on_its_way_is_undecodable() -> None:
    async def feed(stage: Stage) -> None:
        stage.hub.deliver("a", stage.payload("a", 0)[:-2])
        stage.last_seqs["a"] = 0
        stage.end()

    stage = watched(feed)
    (record,) = stage.frames
    assert (record.fate, record.reason) == (Fate.UNDECODABLE, Reason.TRUNCATED)
    assert record.received_ns is not None
    assert not record.admitted


def test_a_picture_two_hundred_times_too_long_is_undecodable() -> None:
    stage = watched(lambda s: _one(s, VERY_WIDE))
    assert stage.fates() == {0: (Fate.UNDECODABLE, Reason.BAD_HEADER)}
    assert stage.engine.asked == []


def test_a_picture_whose_header_alone_is_sound_is_undecodable() -> None:
    stage = watched(lambda s: _one(s, BLANK), needs_pixels=True)
    assert stage.fates() == {0: (Fate.UNDECODABLE, Reason.TRUNCATED)}
    assert stage.consumer.tokens_spent == 0


def test_an_engine_that_needs_pixels_gets_them_resized() -> None:
    image = np.zeros((360, 640, 3), np.uint8)
    image[:, 320:] = (0, 0, 255)
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    stage = watched(lambda s: _one(s, jpeg), needs_pixels=True)
    (request,) = stage.engine.requests
    assert request.image is not None
    height, width, channels = request.image.shape
    assert (height % 28, width % 28, channels) == (0, 0, 3)
    assert request.visual_tokens == height // 28 * (width // 28)
    assert 256 <= request.visual_tokens <= 1280
    assert request.image[height // 2, width - 10, 2] > 240
    assert request.image[height // 2, 10, 2] < 15


async def _one(stage: Stage, jpeg: bytes) -> None:
    stage.deliver("a", 0, jpeg=jpeg)
    stage.end()


# --- lost and double ---


def test_what_never_came_is_lost_the_tail_included() -> None:
    async def feed(stage: Stage) -> None:
        for seq in (0, 2):
            stage.deliver("a", seq)
        stage.end(a=4, b=1)

    stage = watched(feed)
    lost = (Fate.LOST, Reason.GAP)
    assert stage.fates("a") == {0: DONE, 1: lost, 2: DONE, 3: lost, 4: lost}
    assert stage.fates("b") == {0: lost, 1: lost}
    assert all(f.received_ns is None for f in stage.frames if f.fate is Fate.LOST)
    # two seconds of silence, then it is over
    assert stage.ended_at == pytest.approx(2.0, abs=0.2)


def test_a_gap_is_recorded_after_thirty_seconds_while_the_stream_goes_on() -> None:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 1)
        for at in range(1, 30):
            await stage.clock.until(at)
            stage.deliver("a", at + 1)
        assert 0 not in stage.fates()
        await stage.clock.until(31.0)
        assert stage.fates()[0] == (Fate.LOST, Reason.GAP)
        stage.deliver("a", 0, at=0.0)  # too late: its fate is sealed
        stage.end()

    stage = watched(feed)
    assert stage.recorded() == stage.scheduled()
    assert stage.consumer.duplicates == 1


def test_a_frame_that_comes_late_but_in_time_is_not_lost() -> None:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 1, at=0.0)
        await stage.clock.until(29.0)
        stage.deliver("a", 0)
        stage.end()

    assert watched(feed).fates() == {0: DONE, 1: DONE}


def test_what_a_late_joiner_missed_was_lost_to_its_absence() -> None:
    async def feed(stage: Stage) -> None:
        for seq in (3, 5):
            stage.deliver("a", seq)
        stage.end(b=0)

    stage = watched(feed, more={"joined_late": True})
    away, gap = (Fate.LOST, Reason.CONSUMER_DOWN), (Fate.LOST, Reason.GAP)
    assert stage.fates("a") == {0: away, 1: away, 2: away, 3: DONE, 4: gap, 5: DONE}
    assert stage.fates("b") == {0: away}


@pytest.mark.parametrize(
    ("behind_s", "said"),
    [(60, "60 s ahead of"), (11, "11 s ahead of"), (9, ""), (-9, ""), (-60, "60 s behind")],
)
def test_clocks_of_two_hosts_that_differ_are_told_once(
    behind_s: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def feed(stage: Stage) -> None:
        for seq in range(30):
            await stage.clock.until(100.0 + seq)
            stage.deliver("a", seq, at=stage.clock.now() - behind_s)
        stage.end()

    watched(feed)
    told = [line for line in caplog.messages if "this host's clock" in line]
    assert len(told) == bool(said)
    assert all(f"this host's clock is {said} that of the cameras" in line for line in told)


def test_frames_that_have_waited_in_a_broker_say_nothing_of_the_clocks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def feed(stage: Stage) -> None:
        await stage.clock.until(100.0)
        for seq in range(9):
            stage.deliver("a", seq, at=60.0 + seq)
        await stage.stream("b", 10)
        stage.end()

    watched(feed, places=seats("a", "b"))
    assert not [line for line in caplog.messages if "clock" in line]


def test_a_second_delivery_is_counted_and_has_no_fate() -> None:
    async def feed(stage: Stage) -> None:
        for seq in (0, 0, 1, 0, 1):
            stage.deliver("a", seq)
            await asyncio.sleep(1)
        stage.end()

    stage = watched(feed)
    assert stage.recorded() == [("a", 0), ("a", 1)]
    assert (stage.consumer.duplicates, stage.consumer.received) == (3, 5)


def test_frames_whose_fate_an_earlier_session_recorded_are_left_alone() -> None:
    async def feed(stage: Stage) -> None:
        for seq in (2, 5, 8, 10):
            stage.deliver("a", seq)
            await asyncio.sleep(1)
        stage.end()

    places = {"a": Seat(CameraPlan("a"), frozenset({0, 1, 2, 5}))}
    stage = watched(feed, places=places, more={"joined_late": True})
    away = (Fate.LOST, Reason.CONSUMER_DOWN)
    # its first own frame is 8: 3 and 4 went unrecorded when the earlier session died, 6 and 7 since
    assert stage.fates() == {
        3: away, 4: away, 6: away, 7: away, 8: DONE, 9: (Fate.LOST, Reason.GAP), 10: DONE,
    }  # fmt: skip
    assert stage.consumer.duplicates == 2


def test_a_consumer_of_some_shards_answers_for_their_cameras_alone() -> None:
    # CRC-32 modulo 64: "a" is 3, "b" is 57
    assert (shard_of("a"), shard_of("b")) == (3, 57)

    async def main() -> Stage:
        clock = Clock()
        hub = MemoryHub(clock.wall_ns)
        only_a = frozenset({3})
        stage = stage_of(
            quiet,
            places=seats("a"),
            hub=hub,
            inlet=hub.inlet(only_a),
            more={"shards": only_a},
        )
        return await watched_by(stage, only(a=(2, 1.0), b=(2, 1.0)))

    stage = virtual_run(main())
    assert stage.recorded() == [("a", 0), ("a", 1)]
    assert stage.ended_at < 2.0


# --- strangers ---


def test_a_plain_jpeg_of_a_foreign_camera_is_captured_on_arrival() -> None:
    async def feed(stage: Stage) -> None:
        for at in (3.0, 4.5):
            await stage.clock.until(at)
            stage.hub.deliver("gate", BLANK)
        stage.end()

    stage = watched(feed, lambda _: Say(YES))
    assert [(f.camera, f.seq, f.captured_at, f.fate) for f in stage.frames] == [
        ("gate", 0, 3.0, Fate.ANSWERED),
        ("gate", 1, 4.5, Fate.ANSWERED),
    ]
    alarm = next(orjson.loads(body) for _, what, body in stage.hub.messages if what == "alarm")
    assert alarm["kind"] == "unknown"


def test_on_foreign_topics_capture_data_count_for_nothing() -> None:
    async def feed(stage: Stage) -> None:
        await stage.clock.until(3.0)
        stage.hub.deliver("gate", stage.payload("gate", 77, at=1.0, run="theirs"))
        await stage.clock.until(4.0)
        stage.hub.deliver("gate", b"no picture")
        await asyncio.sleep(1)
        stage.consumer.stop()

    stage = watched(feed, places={}, more={"foreign": True})
    assert [(f.seq, f.captured_at, f.fate) for f in stage.frames] == [
        (0, 3.0, Fate.ANSWERED),
        (1, 4.0, Fate.UNDECODABLE),
    ]


def test_payloads_that_are_no_frames_of_our_cameras_are_refused_and_counted() -> None:
    async def feed(stage: Stage) -> None:
        for payload in (
            b"",
            b"garbage",
            BLANK,
            stage.payload("a", 0, run="another"),
            stage.payload("b", 0),
            stage.payload("a", 2**62),
            stage.payload("a", 200_000),
        ):
            stage.hub.deliver("a", payload)
        stage.deliver("a", 0)
        stage.end()

    stage = watched(feed)
    assert stage.recorded() == [("a", 0)]
    assert stage.consumer.refused == Counter(
        not_jpeg=2, no_capture_data=1, another_stream=2, absurd_seq=2
    )
    assert stage.consumer.snapshot().refused == dict(stage.consumer.refused)


def test_a_strangers_capture_instant_cannot_break_the_records() -> None:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 1, at=9.9e7)
        stage.end()

    stage = watched(feed)
    assert stage.fates()[0] == (Fate.LOST, Reason.GAP)


def test_a_flood_of_refused_payloads_does_not_put_off_the_end() -> None:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 0)
        stage.end(a=1)
        for n in range(1, 100):
            await stage.clock.until(n * 0.5)
            stage.hub.deliver("a", b"garbage")
            if stage.frames and len(stage.frames) == 2:
                return

    stage = watched(feed)
    assert stage.fates() == {0: DONE, 1: (Fate.LOST, Reason.GAP)}
    assert stage.ended_at < 4.0


# --- the end ---


def test_stopping_ends_within_the_grace_and_abandons_what_is_left() -> None:
    async def feed(stage: Stage) -> None:
        for camera in "abc":
            stage.deliver(camera, 0)
        await stage.clock.until(5.0)
        stage.consumer.stop()

    stage = watched(feed, lambda _: Say(hangs=True), engine={"concurrency": 2, "deadline": 60})
    assert {f.camera: (f.fate, f.reason) for f in stage.frames} == dict.fromkeys(
        "abc", (Fate.ABANDONED, Reason.STOPPED)
    )
    # half a second for the fleet's last word, two for what is under way
    assert stage.ended_at == pytest.approx(7.5)


def test_what_is_answered_within_the_grace_still_counts() -> None:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 0)
        await stage.clock.until(0.5)
        stage.consumer.stop()

    stage = watched(feed, lambda _: Say(after_s=2.0))
    assert stage.fates() == {0: DONE}
    assert stage.ended_at == pytest.approx(2.0)


def test_stopping_while_the_rest_is_looked_at_ends_within_the_grace_as_well() -> None:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 0)
        stage.end()
        await stage.clock.until(5.0)
        stage.consumer.stop()

    stage = watched(feed, lambda _: Say(hangs=True), engine={"concurrency": 1, "deadline": 600})
    assert stage.fates() == {0: (Fate.ABANDONED, Reason.STOPPED)}
    assert stage.ended_at <= 7.5


def test_a_stopped_fleet_that_tells_its_last_numbers_leaves_no_frame_without_a_fate() -> None:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 0)
        await stage.clock.until(1.0)
        stage.end(a=3)
        stage.consumer.stop()

    stage = watched(feed)
    lost = (Fate.LOST, Reason.GAP)
    assert stage.fates() == {0: DONE, 1: lost, 2: lost, 3: lost}


def test_the_last_numbers_may_come_with_the_stop_where_the_transport_cannot_bring_them() -> None:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 0)
        await stage.clock.until(1.0)
        stage.consumer.stop({"a": 3})
        stage.consumer.stop()  # which takes nothing back

    stage = watched(feed)
    lost = (Fate.LOST, Reason.GAP)
    assert stage.fates() == {0: DONE, 1: lost, 2: lost, 3: lost}


def test_frames_that_expire_at_the_end_do_not_keep_the_consumer_waiting() -> None:
    async def feed(stage: Stage) -> None:
        await stage.clock.until(40.0)
        stage.deliver("a", 0, at=0.0)
        stage.end()

    stage = watched(feed)
    assert stage.fates() == {0: (Fate.EXPIRED, Reason.NONE)}
    assert stage.ended_at < 40.6


@pytest.mark.parametrize("at", [n * 0.05 for n in range(0, 70, 2)])
def test_cancelled_at_any_instant_every_frame_that_came_has_one_fate(at: float) -> None:
    async def main() -> Stage:
        stage = stage_of(
            lambda r: Say(YES if r.seq % 2 else NO, after_s=0.3, hangs=r.camera == "c"),
            sampling=FIXED,
            budget={"tokens_per_s": 3000},
            engine={"concurrency": 2},
        )
        async with stage.consumer._inlet:  # type: ignore[attr-defined]
            watching = asyncio.create_task(stage.consumer.watch())
            await asyncio.sleep(0)
            feeding = asyncio.create_task(only(a=(3, 0.7), b=(3, 0.9), c=(2, 1.0))(stage))
            await asyncio.sleep(at)
            for task in (watching, feeding):
                task.cancel()
            await asyncio.gather(watching, feeding, return_exceptions=True)
            assert watching.cancelled()
        return stage

    stage = virtual_run(main())
    # nothing was lost or delivered twice, so what came is what was received
    assert len(set(stage.recorded())) == len(stage.recorded()) == stage.consumer.received


@pytest.mark.parametrize("turns", range(8))
def test_cancelled_in_any_turn_after_the_fleets_last_word_it_ends_as_cancelled(turns: int) -> None:
    async def main() -> None:
        stage = stage_of(quiet)
        async with stage.consumer._inlet:  # type: ignore[attr-defined]
            watching = asyncio.create_task(stage.consumer.watch())
            await asyncio.sleep(1)
            stage.end(a=3)  # of which none came: it would be waited for
            for _ in range(turns):
                await asyncio.sleep(0)
            watching.cancel()
            await asyncio.wait({watching})
            assert watching.cancelled()
            assert stage.clock.now() == 1.0

    virtual_run(main())


async def test_cancelled_while_a_change_is_rated_in_a_thread_the_frame_has_its_fate_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rating, go_on = threading.Event(), threading.Event()

    def slow(detector: object, frame: object) -> float:
        rating.set()
        go_on.wait(10)
        return 0.0

    def never(_: Request) -> Say:
        return Say(hangs=True)

    stage = stage_of(never, sampling={"policy": "adaptive", "idle": 30}, more={"pixels": True})
    monkeypatch.setattr(consumer_module, "_change", lambda detector, frame: 0.0)
    async with stage.consumer._inlet:  # type: ignore[attr-defined]
        watching = asyncio.create_task(stage.consumer.watch())
        await asyncio.sleep(0)
        stage.deliver("a", 0, at=1000.0)
        while stage.consumer._scoring or not stage.engine.asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
        monkeypatch.setattr(consumer_module, "_change", slow)
        stage.deliver("a", 1, at=1010.0)
        try:
            await asyncio.to_thread(rating.wait, 10)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            assert stage.recorded() == [("a", 0), ("a", 1)]
        finally:
            go_on.set()
    while stage.consumer._scoring:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert stage.recorded() == [("a", 0), ("a", 1)]


async def test_several_workers_at_once_do_not_overdraw_the_budget() -> None:
    """In wall time decoding takes a while: the tokens are taken before, not after."""
    jpeg = cv2.imencode(".jpg", np.zeros((720, 1280, 3), np.uint8))[1].tobytes()
    cameras = [f"c{n}" for n in range(6)]
    stage = stage_of(
        quiet,
        places=seats(*cameras),
        needs_pixels=True,
        sampling=FIXED,
        budget={"tokens_per_s": 1, "burst": 0},
        engine={"concurrency": 6, "deadline": 600},
    )
    async with stage.consumer._inlet:  # type: ignore[attr-defined]
        watching = asyncio.create_task(stage.consumer.watch())
        await asyncio.sleep(0)
        for camera in cameras:
            stage.deliver(camera, 0, jpeg=jpeg)
        while not stage.frames:  # noqa: ASYNC110
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert len(stage.engine.asked) == 1


# --- whatever arrives ---

NAMES = ("a", "b", "c")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["every", "fixed", "adaptive"]))
def test_whatever_the_network_does_every_scheduled_frame_has_exactly_one_fate(
    seed: int, policy: str
) -> None:
    rng = random.Random(seed)

    def script(request: Request) -> Say:
        draw = rng.random()
        if draw < 0.1:
            return Say(error=EngineOverloaded("busy"))
        if draw < 0.15:
            return Say(hangs=True)
        if draw < 0.3:
            return Say("mumble")
        return Say(YES if draw < 0.5 else NO, after_s=rng.uniform(0, 4))

    async def play_camera(stage: Stage, name: str) -> None:
        held: list[tuple[int, float]] = []
        for seq in range(30):
            at = seq * 1.5 + rng.uniform(0, 0.5)
            await stage.clock.until(at)
            stage.last_seqs[name] = seq
            draw = rng.random()
            if draw < 0.15:
                continue  # lost on its way
            if draw < 0.3:
                held.append((seq, at))  # overtaken
                continue
            stage.deliver(name, seq, at)
            if draw < 0.4:
                stage.deliver(name, seq, at)
            if draw < 0.5:
                junk = (b"", b"junk", BLANK, stage.payload(name, seq, at)[:-3], rng.randbytes(99))
                stage.hub.deliver(name, rng.choice(junk))
            if held and draw > 0.7:
                late = held.pop(0)
                cut = 2 if rng.random() < 0.2 else None
                payload = stage.payload(name, *late)
                stage.hub.deliver(name, payload[:-cut] if cut else payload)

    async def feed(stage: Stage) -> None:
        async with asyncio.TaskGroup() as group:
            for name in NAMES:
                group.create_task(play_camera(stage, name))
        stage.end()

    stage = watched(
        feed,
        script,
        sampling={"policy": policy},
        budget={"tokens_per_s": rng.choice([300, 1500, "none"])},
        engine={
            "concurrency": rng.choice([1, 2, 5]),
            "deadline": rng.choice([2, 8, 30]),
            "mailbox": rng.choice([1, 2, 100]),
        },
    )
    assert stage.recorded() == stage.scheduled()
    assert stage.scheduled() == sorted((name, seq) for name in NAMES for seq in range(30))
    admitted = {Fate.ANSWERED, Fate.BAD_JSON, Fate.ENGINE_ERROR, Fate.EXPIRED, Fate.OVER_BUDGET}
    for record in stage.frames:
        assert record.admitted or record.fate not in admitted
        assert (record.answer is not None) == (
            record.fate in (Fate.ANSWERED, Fate.BAD_JSON, Fate.ENGINE_ERROR)
        )
    assert len(stage.consumer._mailbox) == 0


def test_two_virtual_runs_give_the_same_records() -> None:
    def once() -> list[FrameRecord]:
        return watched(
            only(a=(20, 1.0), b=(20, 1.1), c=(20, 0.9)),
            lambda r: Say(YES if r.seq % 3 == 0 else NO, after_s=1.3),
            sampling={"policy": "adaptive"},
            engine={"concurrency": 2},
        ).frames

    assert once() == once()


# --- clips ---

CLIPS = {"traits": {"clips": True}, "needs_pixels": True}


def picture(level: int, width: int = 280, height: int = 140) -> bytes:
    ok, jpeg = cv2.imencode(".jpg", np.full((height, width, 3), level, np.uint8))
    assert ok
    return jpeg.tobytes()


def shades(count: int, every: float = 1.0) -> Feed:
    """One camera whose frame n is grey of level 10 n."""

    async def feed(stage: Stage) -> None:
        for seq in range(count):
            await stage.clock.until(seq * every)
            stage.deliver("a", seq, jpeg=picture(10 * seq))
        stage.end()

    return feed


def test_a_clip_holds_the_frames_just_before_the_one_looked_at() -> None:
    stage = watched(shades(8), sampling={"policy": "fixed", "idle": 5, "clip": 3}, **CLIPS)
    first, second = stage.engine.requests
    assert (first.seq, first.clip) == (0, ())
    assert second.seq == 5
    assert [at for at, _ in second.clip] == [3.0, 4.0]
    assert second.image is not None
    means = [float(image.mean()) for _, image in second.clip] + [float(second.image.mean())]
    assert means == pytest.approx([30, 40, 50], abs=1)
    assert {image.shape for _, image in second.clip} == {second.image.shape}


def test_the_older_frames_of_a_clip_are_context_and_the_others_keep_their_fate() -> None:
    stage = watched(shades(8), sampling={"policy": "fixed", "idle": 5, "clip": 3}, **CLIPS)
    idle = (Fate.SAMPLED_OUT, Reason.IDLE)
    context = (Fate.CONTEXT, Reason.NONE)
    assert stage.fates() == {
        0: DONE, 1: idle, 2: idle, 3: context, 4: context, 5: DONE, 6: idle, 7: idle,
    }  # fmt: skip
    assert stage.recorded() == stage.scheduled()
    answers = {f.seq: f.answer for f in stage.frames if f.answer is not None}
    assert answers[0].context == ()
    assert answers[5].context == (3, 4)


def test_a_clip_shares_one_budget_of_tokens() -> None:
    stage = watched(
        shades(4),
        sampling={"policy": "every", "clip": 4},
        budget={"min_tokens": 4, "max_tokens": 64, "tokens_per_s": "none"},
        **CLIPS,
    )
    # 280 x 140 alone is 10 x 5 tokens; two grids of at most 32 hold four frames: 224 x 112, 8 x 4
    assert [r.visual_tokens for r in stage.engine.requests] == [50, 50, 64, 64]
    last = stage.engine.requests[-1]
    assert last.image is not None
    assert last.image.shape == (112, 224, 3)


def test_a_clip_says_how_many_frames_it_has_over_what_time() -> None:
    stage = watched(shades(3, every=2.5), sampling={"policy": "every", "clip": 3}, **CLIPS)
    assert "3 frames" in stage.engine.requests[2].user
    assert "5 seconds" in stage.engine.requests[2].user
    assert "frames" not in stage.engine.requests[0].user


def test_an_older_frame_that_cannot_be_decoded_is_left_out_of_the_clip() -> None:
    async def feed(stage: Stage) -> None:
        for seq, jpeg in enumerate((picture(10), BLANK, picture(30), picture(40))):
            await stage.clock.until(seq * 1.0)
            stage.deliver("a", seq, jpeg=jpeg)
        stage.end()

    stage = watched(feed, sampling={"policy": "fixed", "idle": 3, "clip": 3}, **CLIPS)
    last = stage.engine.requests[-1]
    assert [at for at, _ in last.clip] == [2.0]
    assert stage.fates()[1] == (Fate.SAMPLED_OUT, Reason.IDLE)
    assert stage.fates()[2] == (Fate.CONTEXT, Reason.NONE)


def test_frames_that_wait_for_a_clip_meet_their_fate_when_the_watch_is_stopped() -> None:
    async def feed(stage: Stage) -> None:
        for seq in range(3):
            await stage.clock.until(seq * 1.0)
            stage.deliver("a", seq, jpeg=picture(10))
        await stage.clock.until(2.5)
        stage.consumer.stop()

    stage = watched(feed, sampling={"policy": "fixed", "idle": 5, "clip": 4}, **CLIPS)
    assert stage.recorded() == [("a", 0), ("a", 1), ("a", 2)]
    assert stage.fates()[2] == (Fate.SAMPLED_OUT, Reason.IDLE)


def test_an_engine_without_clips_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match="single pictures only"):
        watched(only(a=(1, 1.0)), sampling={"policy": "every", "clip": 2})


@settings(max_examples=30, deadline=None)
@given(
    seqs=st.permutations(list(range(12))).map(lambda order: order[:9]),
    clip=st.integers(2, 5),
    policy=st.sampled_from(["every", "fixed"]),
    slow=st.booleans(),
)
def test_with_clips_every_frame_has_one_fate_whatever_arrives_in_whatever_order(
    seqs: list[int], clip: int, policy: str, slow: bool
) -> None:
    async def feed(stage: Stage) -> None:
        for n, seq in enumerate(seqs):
            await stage.clock.until(n * 1.0)
            stage.deliver("a", seq, at=seq * 1.0, jpeg=BLANK)
        stage.end(a=11)

    stage = watched(
        feed,
        lambda _: Say(after_s=4.0 if slow else 0.1),
        sampling={"policy": policy, "idle": 3, "clip": clip},
        traits={"clips": True},
    )
    assert stage.recorded() == [("a", seq) for seq in range(12)]


# --- reasons ---


def explained(wanted: str, script: Script, **options: Any) -> Stage:
    engine = {"concurrency": 1, "explain": wanted}
    return watched(only(a=(2, 1.0)), script, engine=engine, **options)


def talkative(request: Request) -> Say:
    """Sees smoke in frame 1 and says why."""
    if request.schema is None:
        return Say("a pale plume over the ridge", after_s=0.5)
    return Say(YES if request.seq == 1 else NO)


def test_reasons_are_asked_for_after_the_verdict_in_a_request_of_their_own() -> None:
    stage = explained("positives", talkative)
    assert [(r.seq, r.schema is None) for r in stage.engine.requests] == [
        (0, False), (1, False), (1, True),
    ]  # fmt: skip
    question = stage.engine.requests[2]
    assert YES in question.user
    assert "20 words" in question.user
    assert question.system == stage.engine.requests[1].system  # its cache is used again
    (told,) = stage.explanations
    assert (told.camera, told.seq, told.text) == ("a", 1, "a pale plume over the ridge")
    assert told.answered_ns - told.started_ns == SECOND // 2
    verdict = stage.frames[1].answer
    assert verdict is not None
    assert verdict.answered_ns == told.started_ns  # recorded before, and not delayed


def test_reasons_can_be_asked_for_every_answer_or_for_none() -> None:
    assert [e.seq for e in explained("always", talkative).explanations] == [0, 1]
    assert explained("never", talkative).explanations == []


def test_a_failed_request_for_reasons_costs_no_frame() -> None:
    def fails(request: Request) -> Say:
        return Say(error=EngineBroken("half a line")) if request.schema is None else Say(YES)

    stage = explained("always", fails)
    assert set(stage.fates().values()) == {DONE}
    assert [e.error for e in stage.explanations] == ["broken_answer: half a line"] * 2
    assert [e.text for e in stage.explanations] == ["", ""]


def test_reasons_that_fail_while_a_dead_engine_is_asked_send_no_second_question() -> None:
    def script(request: Request) -> Say:
        away = EngineUnavailable("away")
        if request.camera == "a":
            return Say(YES) if request.schema else Say(after_s=9.0, error=away)
        return Say(after_s=0.1 if request.seq < 5 else 20.0, error=away)

    stage = watched(
        only(a=(1, 1.0), b=(24, 1.0)),
        script,
        places=seats("a", "b"),
        engine={"concurrency": 4, "explain": "positives"},
    )
    # The fifth failure at 4.1 s, asked again from 5 s to 25 s; the reasons fail at 9.1 s.
    assert [at for c, _, at in stage.engine.asked if c == "b"][:7] == [0, 1, 2, 3, 4, 5, 26]
    assert [e.error for e in stage.explanations] == ["unavailable: away"]


def test_an_engine_that_does_not_answer_is_not_asked_for_reasons() -> None:
    def script(request: Request) -> Say:
        if request.camera == "a" and not request.crop:
            return Say(YES)
        return Say(after_s=9.0 if request.crop else 0.1, error=EngineUnavailable("away"))

    stage = watched(
        only(a=(1, 1.0), b=(5, 1.0)),
        script,
        places=seats("a", "b"),
        sampling={"policy": "every", "second_look": True},
        engine={"concurrency": 2, "explain": "positives"},
        traits={"crops": True},
    )
    assert [r.crop for r in stage.engine.requests if r.camera == "a"] == [False, True]
    (told,) = stage.explanations
    assert told.error == "unavailable: not asked: the engine does not answer"
    assert told.visual_tokens == 0


def test_the_picture_of_a_request_for_reasons_counts_as_tokens() -> None:
    assert explained("always", talkative).consumer.tokens_spent == 4 * 1196


def test_nobody_is_asked_for_the_reasons_of_an_answer_that_could_not_be_read() -> None:
    assert explained("always", lambda _: Say("no idea")).explanations == []


def test_free_decoding_sends_no_schema() -> None:
    stage = watched(only(a=(1, 1.0)), engine={"concurrency": 1, "decode": "free"})
    assert stage.engine.requests[0].schema is None
    assert watched(only(a=(1, 1.0))).engine.requests[0].schema is not None


# --- how many at a time ---


def test_auto_finds_how_many_requests_the_engine_works_on_at_a_time() -> None:
    cameras = [f"c{n:02}" for n in range(40)]

    class Four:
        """An engine that works on four requests at a time and queues the others."""

        def __init__(self) -> None:
            self.free = [0.0] * 4

        def __call__(self, request: Request) -> Say:
            now_s = asyncio.get_running_loop().time()
            slot = min(range(4), key=lambda n: self.free[n])
            self.free[slot] = max(self.free[slot], now_s) + 0.25
            return Say(NO, after_s=self.free[slot] - now_s)

    engine = {"concurrency": "auto", "deadline": 30}
    parts: dict[str, Any] = {
        "places": seats(*cameras),
        "engine": engine,
        "sampling": {"policy": "fixed", "idle": 3},
        "traits": {"seeks_knee": True, "default_concurrency": 1},
    }
    stage = watched(only(**dict.fromkeys(cameras, (120, 1.0))), Four(), **parts)
    assert 4 <= stage.consumer.limit <= 6
    assert stage.recorded() == stage.scheduled()
    calm = watched(only(a=(50, 3.0)), Four(), **parts)
    assert calm.consumer.limit == 1  # nothing ever waited: nothing is known, nothing is changed


def test_an_overloaded_engine_is_given_less_at_a_time() -> None:
    cameras = [f"c{n:02}" for n in range(40)]
    stage = watched(
        only(**dict.fromkeys(cameras, (20, 1.0))),
        lambda _: Say(error=EngineOverloaded("server busy")),
        places=seats(*cameras),
        engine={"concurrency": "auto"},
        traits={"seeks_knee": True, "default_concurrency": 16},
    )
    assert stage.consumer.limit == 1
    assert stage.consumer.snapshot().concurrency == 1
