"""The simulated engine: real replies, the profile's statistics, time that only the loop knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from statistics import median
from typing import Any, TypeVar

import pytest

from earlyfire_stream import engines
from earlyfire_stream.clock import Clock, virtual_run
from earlyfire_stream.contract import read_reply
from earlyfire_stream.engines.base import Engine, Reply, Request
from earlyfire_stream.engines.simulated import PROFILES, Profile, say
from earlyfire_stream.errors import (
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    UsageError,
)
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import Box, CoordSpace, Reason, ResizeMode, Truth

T = TypeVar("T")
FAR_NS = 2**62


def request(
    seq: int = 0,
    box: Box | None = None,
    smoke: bool = False,
    camera: str = "ridge",
    fire: str = "oak",
    at: float = 0.0,
    deadline_ns: int = FAR_NS,
) -> Request:
    truth = (Truth(fire, box),) if box is not None else ()
    return Request(
        camera=camera, seq=seq, captured_at=at, image=None, jpeg=b"", visual_tokens=1196,
        system="Look.", user="Smoke?", schema=None, deadline_ns=deadline_ns,
        truth=truth, smoke=smoke or bool(truth),
    )  # fmt: skip


def box_of(tokens: float) -> Box:
    """A square-ish box that covers so many of 1,196 tokens."""
    side = (tokens / 1196) ** 0.5
    return Box(0.5, 0.5, side, side)


def run(
    work: Callable[[Engine, Clock], Awaitable[T]], profile: str = "perfect", **options: Any
) -> T:
    async def main() -> T:
        clock = Clock()
        timeout = options.pop("timeout", 30)
        settings = models.Engine(
            name="simulated", profile=profile, options=options, timeout=timeout
        )
        async with engines.create(settings, clock, seed=7) as engine:
            return await work(engine, clock)

    return virtual_run(main())


def understood(reply: Reply) -> tuple[bool | None, Box | None]:
    parsed = read_reply(
        reply.text, reply.finish, CoordSpace.UNIT, ResizeMode.STRETCH, (1280, 720), (1288, 728)
    )
    return (
        (None, None) if parsed.verdict is None else (parsed.verdict.has_smoke, parsed.verdict.box)
    )


def test_perfect_sees_smoke_from_its_first_pixel_and_boxes_it() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        seen = await engine.infer(request(box=Box(0.5, 0.4, 0.01, 0.02)))
        has_smoke, box = understood(seen)
        assert has_smoke
        assert box is not None
        assert box.corners == pytest.approx((0.495, 0.39, 0.505, 0.41))
        assert understood(await engine.infer(request(seq=1))) == (False, None)
        assert seen.answered_ns - clock.start_ns == 100_000_000

    run(work)


def test_smoke_whose_truth_has_no_box_is_seen_without_one() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        assert understood(await engine.infer(request(smoke=True))) == (True, None)

    run(work)


def test_never_and_always_say_what_their_names_say() -> None:
    async def work(engine: Engine, clock: Clock) -> set[bool | None]:
        shown = [request(n, box_of(200) if n % 2 else None, at=61.0 * n) for n in range(40)]
        return {understood(await engine.infer(one))[0] for one in shown}

    assert run(work, "never") == {False}
    assert run(work, "always") == {True}


def test_two_runs_give_identical_replies_in_whatever_order_frames_come() -> None:
    frames = [
        request(n, box_of(5), camera=c, at=5.0 * n) for c in ("ridge", "valley") for n in range(30)
    ]

    async def forward(engine: Engine, clock: Clock) -> dict[tuple[str, int], str]:
        return {(f.camera, f.seq): (await engine.infer(f)).text for f in frames}

    async def together(engine: Engine, clock: Clock) -> dict[tuple[str, int], str]:
        replies = await asyncio.gather(*[engine.infer(f) for f in reversed(frames)])
        return {(f.camera, f.seq): r.text for f, r in zip(reversed(frames), replies, strict=True)}

    assert run(forward, "spec-gpu") == run(together, "spec-gpu")


def share_detected(tokens: float, profile: Profile, fires: int, looks: int = 1) -> float:
    """Over many fires, the share in which at least one of the looks is positive."""
    hits = 0
    for n in range(fires):
        hits += any(
            '"has_smoke": true' in say(profile, 1, request(seq, box_of(tokens), fire=f"f{n}")).text
            for seq in range(n * looks, (n + 1) * looks)
        )
    return hits / fires


@pytest.mark.parametrize(
    ("tokens", "accuracy"), [(1.2, 0.098), (6, 0.232), (12, 0.423), (36, 0.463), (120, 0.686)]
)
def test_smokebench_profile_sees_as_often_as_was_published(tokens: float, accuracy: float) -> None:
    profile = replace(PROFILES["smokebench-qwen2.5vl-7b"], false_alarms_per_hour=0.0)
    # 2,000 fires: three standard errors are 0.034
    assert share_detected(tokens, profile, 2000) == pytest.approx(accuracy, abs=0.035)


def test_looking_again_helps_less_the_more_looks_are_correlated() -> None:
    half = Profile("test", detect=((10.0, 0.5),), false_alarms_per_hour=0.0)
    same = share_detected(10, replace(half, correlation=1.0), 400, looks=5)
    alike = share_detected(10, replace(half, correlation=0.7), 400, looks=5)
    apart = share_detected(10, replace(half, correlation=0.0), 400, looks=5)
    assert same == pytest.approx(0.5, abs=0.08)
    assert apart == pytest.approx(1 - 0.5**5, abs=0.03)
    assert same + 0.08 < alike < apart - 0.05


def test_chance_is_read_off_the_curve_over_the_logarithm_of_size() -> None:
    profile = Profile("test", detect=((1.0, 0.0), (4.0, 0.5), (16.0, 1.0)))
    assert profile.chance(0.1) == 0
    assert profile.chance(2) == pytest.approx(0.25)
    assert profile.chance(4) == 0.5
    assert profile.chance(8) == pytest.approx(0.75)
    assert profile.chance(500) == 1


def test_false_alarms_come_in_spells_at_one_place_and_at_the_stated_rate() -> None:
    profile = replace(PROFILES["perfect"], false_alarms_per_hour=2.0, false_alarm_s=60.0)
    texts = [say(profile, 3, request(n, at=10.0 * n)).text for n in range(360 * 100)]
    spells = {}
    for n, text in enumerate(texts):
        spells.setdefault(n // 6, set()).add(text)
    assert all(len(said) == 1 for said in spells.values())
    alarms = sum('"has_smoke": true' in text for (text,) in spells.values())
    # 100 hours x 2, less the 1.6 % of spells that would coincide; three sigma are 42
    assert alarms == pytest.approx(197, abs=42)


def test_boxes_are_jittered_around_the_truth() -> None:
    profile = Profile("test", detect=((1.0, 1.0),), box_jitter=0.1)
    truth = box_of(40)
    ious = []
    for n in range(500):
        _, box = understood_text(say(profile, 5, request(n, truth)).text)
        assert box is not None
        ious.append(box.iou(truth))
    assert 0.65 < median(ious) < 0.85
    assert sum(iou >= 0.4 for iou in ious) / 500 > 0.95


def understood_text(text: str) -> tuple[bool | None, Box | None]:
    parsed = read_reply(text, "stop", CoordSpace.UNIT, ResizeMode.STRETCH, (1280, 720), (1288, 728))
    assert parsed.verdict is not None
    return parsed.verdict.has_smoke, parsed.verdict.box


def test_bad_json_comes_in_all_its_kinds() -> None:
    profile = Profile("test", bad_json=1.0)
    kinds = set()
    for n in range(200):
        said = say(profile, 1, request(n))
        bad = read_reply(
            said.text, said.finish, CoordSpace.UNIT, ResizeMode.STRETCH, (1280, 720), (1288, 728)
        ).bad
        assert bad is not None
        kinds.add(bad.reason)
    assert kinds == {
        Reason.NOT_JSON, Reason.CUT_OFF, Reason.SCHEMA, Reason.SENTINEL, Reason.EMPTY
    }  # fmt: skip


def test_confidence_agrees_with_the_verdict() -> None:
    profile = PROFILES["spec-gpu"]
    for n in range(300):
        said = say(profile, 1, request(n, box_of(4) if n % 2 else None, fire=f"f{n}"))
        assert (said.confidence > 0.5) == ('"has_smoke": true' in said.text)
        assert 0 <= said.confidence <= 1


@pytest.mark.parametrize(
    ("name", "low", "high"), [("spec-gpu", 0.24, 0.26), ("spec-cpu-int4", 0.96, 1.04)]
)
def test_a_no_takes_what_the_specification_states(name: str, low: float, high: float) -> None:
    times = sorted(say(PROFILES[name], 1, request(n)).service_s for n in range(1000))
    assert low < median(times) < high
    if name == "spec-cpu-int4":
        assert sum(0.8 <= t <= 1.2 for t in times) > 880


def test_a_yes_with_a_box_takes_longer_and_is_decided_before_it_is_answered() -> None:
    profile = replace(PROFILES["spec-gpu"], spread=0.0, detect=((1.0, 1.0),))
    no, yes = say(profile, 1, request(0)), say(profile, 1, request(0, box_of(50)))
    assert yes.service_s > no.service_s + 0.05
    assert yes.prompt_s == no.prompt_s

    async def work(engine: Engine, clock: Clock) -> None:
        reply = await engine.infer(request(0, box_of(50)))
        assert 0.05 < (reply.answered_ns - reply.decided_ns) / 1e9 < 0.3

    run(work, "spec-gpu", detect=[[1.0, 1.0]])


def test_no_answer_comes_before_the_floor() -> None:
    profile = Profile("test", base_s=0.0, floor_s=0.3)
    assert say(profile, 1, request()).service_s == pytest.approx(0.3)


def test_one_per_second_serves_one_frame_a_second_in_order_of_arrival() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        order: list[int] = []

        async def ask(n: int) -> float:
            reply = await engine.infer(request(n))
            order.append(n)
            return (reply.answered_ns - clock.start_ns) / 1e9

        assert await asyncio.gather(*[ask(n) for n in range(5)]) == pytest.approx([1, 2, 3, 4, 5])
        assert order == [0, 1, 2, 3, 4]

    run(work, "one-per-second")


def test_a_full_queue_is_refused_as_overloaded() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        replies = await asyncio.gather(
            *[engine.infer(request(n)) for n in range(4)], return_exceptions=True
        )
        kinds = [type(r) for r in replies]
        assert kinds == [Reply, Reply, EngineOverloaded, EngineOverloaded]

    run(work, "one-per-second", queue=1)


def test_the_deadline_and_the_timeout_end_a_request() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        with pytest.raises(EngineTimeout):
            await engine.infer(request(deadline_ns=clock.wall_ns() + 400_000_000))
        assert clock.now() == pytest.approx(0.4)
        with pytest.raises(EngineTimeout):
            await engine.infer(request(deadline_ns=clock.wall_ns() - 1))
        assert clock.now() == pytest.approx(0.4)

    run(work, "one-per-second")


def test_a_hang_lasts_until_the_timeout_and_frees_its_slot() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        for n in range(3):
            with pytest.raises(EngineTimeout):
                await engine.infer(request(n))
        assert clock.now() == pytest.approx(15)

    run(work, "one-per-second", hang=1.0, timeout=5)


def test_scripted_failures_are_typed() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        with pytest.raises((EngineUnavailable, EngineOverloaded)) as caught:
            await engine.infer(request())
        kinds.append(type(caught.value))

    kinds: list[type[BaseException]] = []
    run(work, unavailable=1.0)
    run(work, overloaded=1.0)
    assert kinds == [EngineUnavailable, EngineOverloaded]


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.5])
def test_a_cancelled_request_passes_the_cancellation_on_and_frees_its_slot(after_s: float) -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        first = asyncio.create_task(engine.infer(request(0)))
        second = asyncio.create_task(engine.infer(request(1)))
        await asyncio.sleep(after_s)
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert second.cancelled()
        began = clock.now()
        await engine.infer(request(2))
        assert clock.now() - began == pytest.approx(1.0)

    run(work, "one-per-second")


def test_options_override_single_fields_of_a_profile() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        await engine.infer(request())
        assert clock.now() == pytest.approx(2.5)

    run(work, base_s=2.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": 1}, "did you mean 'base_s'"),
        ({"source": "me"}, "unknown"),
        ({"bad_json": 2}, "between 0 and 1"),
        ({"bad_json": "often"}, "cannot be 'often'"),
        ({"slots": 1.5}, "slots"),
        ({"slots": 0}, "slots"),
        ({"spread": -1}, "spread"),
        ({"detect": []}, "detect"),
        ({"detect": 0.5}, "detect"),
        ({"detect": [[3, 0.5], [1, 0.6]]}, "rising"),
        ({"detect": [[3]]}, "detect"),
        ({"base_s": float("nan")}, "base_s"),
        ({"hang": True}, "hang"),
        ({"hang": 0.7, "bad_json": 0.7}, "together"),
    ],
)
def test_an_impossible_option_is_refused(options: dict[str, Any], message: str) -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        raise AssertionError("it was created")

    with pytest.raises(UsageError, match=message):
        run(work, **options)


def test_an_unknown_profile_names_the_nearest_one() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        raise AssertionError("it was created")

    with pytest.raises(UsageError, match="did you mean 'perfect'"):
        run(work, "prefect")


def test_every_profile_says_where_its_figures_come_from() -> None:
    assert all(len(profile.source) > 20 for profile in PROFILES.values())


def test_a_profile_of_the_specification_states_its_latency_and_others_state_none() -> None:
    stated = {name: profile.reference_s for name, profile in PROFILES.items()}
    assert stated["spec-gpu"] == 0.25
    assert stated["spec-cpu-int4"] == 1.0
    assert stated["perfect"] is None


def test_the_engine_says_that_it_may_run_in_virtual_time() -> None:
    async def work(engine: Engine, clock: Clock) -> None:
        assert engine.traits.virtual_ok
        assert engine.traits.needs_truth
        assert not engine.traits.needs_pixels
        (check,) = await engine.check()
        assert check.ok

    run(work)
