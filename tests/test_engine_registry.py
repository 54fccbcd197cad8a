"""Engines by name, and the baseline detector behind the same interface."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import cv2
import numpy as np
import pytest

from earlyfire_stream import engines
from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import read_reply
from earlyfire_stream.engines import baseline
from earlyfire_stream.engines.base import Request
from earlyfire_stream.engines.baseline import BaselineEngine
from earlyfire_stream.engines.smoke import Look, SmokeSettings, State
from earlyfire_stream.errors import EngineRejected, EngineTimeout, UsageError
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import Box, CoordSpace, ResizeMode
from tests.playing import PATIENCE_S, time_passes, until

PICTURE = np.full((364, 644, 3), 90, np.uint8)


def request(
    clock: Clock, at: float = 0.0, camera: str = "ridge", deadline_s: float = 20.0, **changes: Any
) -> Request:
    given: dict[str, Any] = {
        "camera": camera, "seq": round(at), "captured_at": at, "image": PICTURE, "jpeg": b"",
        "visual_tokens": 299, "system": "", "user": "", "schema": None,
        "deadline_ns": clock.wall_ns() + round(deadline_s * 1e9),
    }  # fmt: skip
    return Request(**given | changes)


def created(clock: Clock, **options: Any) -> BaselineEngine:
    engine = engines.create(models.Engine(name="baseline", options=options), clock)
    assert isinstance(engine, BaselineEngine)
    return engine


# --- by name -------------------------------------------------------------------------------------


def nameable() -> list[str]:
    """Engines that need no more than their name; `recorded` needs a recording."""
    return [name for name in engines.names() if name != "recorded"]


async def test_every_listed_engine_can_be_created_and_carries_its_name() -> None:
    for name in nameable():
        engine = engines.create(models.Engine(name=name), Clock())
        assert engine.traits.name == name
        assert 1 <= engine.traits.default_concurrency <= engine.traits.max_concurrency


async def test_engines_without_a_server_may_run_in_virtual_time_and_one_sees_the_truth() -> None:
    traits = [engines.create(models.Engine(name=n), Clock()).traits for n in nameable()]
    assert [t.name for t in traits if t.virtual_ok] == ["baseline", "simulated"]
    assert [t.name for t in traits if t.needs_truth] == ["simulated"]


async def test_an_unknown_engine_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'ollama'"):
        engines.create(models.Engine.model_construct(name="olama"), Clock())


def test_naming_an_engine_imports_no_other() -> None:
    code = (
        "import sys, earlyfire_stream.engines\n"
        "bad = [m for m in sys.modules if m.startswith('earlyfire_stream.engines.')]\n"
        "assert bad == ['earlyfire_stream.engines.base'], bad\n"
        "assert 'aiohttp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the baseline --------------------------------------------------------------------------------


class ScriptedDetector:
    """Stands where SmokeDetector does: notes who looks when, and waits at a gate."""

    seen: list[float]
    running = 0
    most_running = 0
    gate: threading.Event

    def __init__(self, settings: SmokeSettings | None = None) -> None:
        pass

    def look(self, image: np.ndarray[Any, Any], captured_at: float) -> Look:
        kind = type(self)
        kind.running += 1
        kind.most_running = max(kind.most_running, kind.running)
        assert kind.gate.wait(PATIENCE_S)
        kind.seen.append(captured_at)
        kind.running -= 1
        smoke = captured_at >= 100
        return Look(smoke, Box(0.5, 0.5, 0.1, 0.2) if smoke else None, 0.75, State.SMOKE)


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> type[ScriptedDetector]:
    class Fresh(ScriptedDetector):
        seen: list[float] = []  # noqa: RUF012 - shared by its instances on purpose
        gate = threading.Event()

    Fresh.gate.set()
    monkeypatch.setattr(baseline, "SmokeDetector", Fresh)
    return Fresh


async def test_the_baseline_answers_with_a_verdict_and_its_contract_text(
    detector: type[ScriptedDetector],
) -> None:
    clock = Clock()
    async with created(clock) as engine:
        reply = await engine.infer(request(clock, at=100))
        assert reply.verdict is not None
        assert reply.verdict.has_smoke
        assert reply.verdict.box == Box(0.5, 0.5, 0.1, 0.2)
        assert reply.verdict.confidence == 0.75
        assert reply.visual_tokens == 299
        parsed = read_reply(
            reply.text, reply.finish, CoordSpace.UNIT, ResizeMode.STRETCH, (640, 360), (644, 364)
        )
        assert parsed.verdict is not None
        assert parsed.verdict.box is not None
        assert parsed.verdict.box.corners == pytest.approx(reply.verdict.box.corners)
        assert (await engine.infer(request(clock, at=101, camera="valley"))).finish == "stop"


async def test_the_looks_of_one_camera_run_in_order_and_never_together(
    detector: type[ScriptedDetector],
) -> None:
    clock = Clock()
    async with created(clock, threads=4) as engine:
        await asyncio.gather(*[engine.infer(request(clock, at=float(n))) for n in range(12)])
    assert detector.seen == [float(n) for n in range(12)]
    assert detector.most_running == 1


async def test_a_frame_older_than_the_last_one_is_rejected(
    detector: type[ScriptedDetector],
) -> None:
    clock = Clock()
    async with created(clock) as engine:
        await engine.infer(request(clock, at=10))
        with pytest.raises(EngineRejected, match="order of capture"):
            await engine.infer(request(clock, at=9))
        await engine.infer(request(clock, at=9, camera="valley"))


async def test_a_look_given_up_still_ends_before_the_next_one_of_its_camera_begins(
    detector: type[ScriptedDetector],
) -> None:
    clock = Clock()
    detector.gate.clear()
    async with created(clock, threads=4) as engine:
        first = asyncio.create_task(engine.infer(request(clock, at=1)))
        await until(lambda: detector.running == 1)
        time_passes(20)
        with pytest.raises(EngineTimeout):
            await first
        given_up = asyncio.create_task(engine.infer(request(clock, at=2)))
        later = asyncio.create_task(engine.infer(request(clock, at=3)))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert detector.seen == []
        detector.gate.set()
        await later
    # the second look was cancelled before its turn came
    assert detector.seen == [1.0, 3.0]
    assert detector.most_running == 1


async def test_beyond_its_bound_the_camera_that_looked_longest_ago_is_forgotten(
    detector: type[ScriptedDetector], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with created(clock, cameras=2) as engine:
        for at, camera in enumerate(["a", "b", "a", "c"]):
            await engine.infer(request(clock, at=float(at), camera=camera))
        assert engine.forgotten == 1
        # `a` is remembered: an older frame of it is noticed; `b` has started anew
        with pytest.raises(EngineRejected):
            await engine.infer(request(clock, at=1, camera="a"))
        await engine.infer(request(clock, at=0, camera="b"))
    assert "forgets b" in caplog.text


async def test_a_deadline_that_has_passed_is_a_timeout_without_a_look(
    detector: type[ScriptedDetector],
) -> None:
    clock = Clock()
    async with created(clock) as engine:
        with pytest.raises(EngineTimeout):
            await engine.infer(request(clock, deadline_s=-1))
    assert detector.seen == []


async def test_the_real_detector_warms_up_and_says_no_to_a_still_scene() -> None:
    clock = Clock()
    jpeg = cv2.imencode(".jpg", PICTURE)[1].tobytes()
    async with created(clock) as engine:
        for n in range(7):
            reply = await engine.infer(request(clock, at=10.0 * n, image=None, jpeg=jpeg))
            assert reply.verdict is not None
            assert not reply.verdict.has_smoke
        with pytest.raises(EngineRejected, match="cannot be decoded"):
            await engine.infer(request(clock, at=90, image=None, jpeg=b"none"))
        (check,) = await engine.check()
        assert check.ok


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seedz": 4}, "did you mean 'seed_z'"),
        ({"cameras": 0}, "at least 1"),
        ({"cameras": 2.5}, "cameras"),
        ({"seed_z": "high"}, "seed_z"),
        ({"seed_z": float("inf")}, "seed_z"),
        ({"confirm_looks": 0}, "looks"),
        ({"threads": True}, "threads"),
    ],
)
async def test_an_impossible_option_of_the_baseline_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        created(Clock(), **options)


async def test_the_baseline_has_neither_profile_nor_model_nor_url() -> None:
    asked = models.Engine(name="baseline")
    for extra in ({"profile": "perfect"}, {"model": "x"}, {"url": "http://box"}):
        with pytest.raises(UsageError, match="has no profile"):
            engines.create(asked.model_copy(update=extra), Clock())
