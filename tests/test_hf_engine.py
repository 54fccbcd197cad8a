"""Workers behind one engine: who is asked, who is left alone, and what a crash costs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest

from earlyfire_stream import run
from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import prompt
from earlyfire_stream.engines import hf, pool
from earlyfire_stream.engines.base import Request
from earlyfire_stream.engines.hf import HfEngine
from earlyfire_stream.engines.pool import Card, Load, State, choose, labelled, never_began, pause_s
from earlyfire_stream.engines.streaming import Busy
from earlyfire_stream.errors import (
    EngineBroken,
    EngineError,
    EngineOverloaded,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    UsageError,
)
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import CoordSpace, Fate, Reason
from tests.fakes import worker as fake
from tests.fakes.openai import Answer, Fault
from tests.fakes.worker import MODEL, FakeWorker, card
from tests.playing import (
    LOADING_S,
    PATIENCE_S,
    camera,
    fates,
    loaded,
    overtaken,
    pictures,
    proof,
    reserved_port,
    run_folders,
    until,
    within,
)

PROMPT = prompt("v1", CoordSpace.RESIZED_ABS)
PICTURE = np.full((364, 644, 3), 90, np.uint8)
YES = '{"has_smoke": true, "bbox_2d": [28, 28, 56, 56]}'
NO = '{"has_smoke": false, "bbox_2d": null}'


def settings(*workers: str, **changes: Any) -> models.Engine:
    return models.Engine.model_validate({"name": "hf", "workers": workers, **changes})


def engine(*workers: FakeWorker | str, **changes: Any) -> HfEngine:
    urls = [one if isinstance(one, str) else one.root for one in workers]
    return HfEngine(settings(*urls, **changes), Clock())


def request(seq: int = 0, deadline_s: float = 30.0, **changes: Any) -> Request:
    given: dict[str, Any] = {
        "camera": "ridge", "seq": seq, "captured_at": float(seq), "image": PICTURE, "jpeg": b"",
        "visual_tokens": 299, "system": PROMPT.system, "user": PROMPT.user(644, 364),
        "schema": PROMPT.schema, "deadline_ns": Clock().wall_ns() + round(deadline_s * 1e9),
    }  # fmt: skip
    return Request(**given | changes)


@pytest.fixture
def port() -> Iterator[int]:
    """Where nobody listens but a worker that is told to."""
    with reserved_port() as found:
        yield found


def looks(worker: FakeWorker) -> list[dict[str, Any]]:
    """The requests it got after the warm-up."""
    return [body for body in worker.requests if body.get("user") != "warm-up"]


# --- decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loads", "turn", "asked"),
    [
        # 1/2 is more than 3/8
        ([Load(1, 2), Load(3, 8)], 0, 1),
        ([Load(0, 1), Load(0, 8)], 0, 0),
        # equal ones take turns, round about
        ([Load(2, 4), Load(1, 2), Load(4, 8)], 1, 1),
        ([Load(2, 4), Load(1, 2), Load(4, 8)], 2, 2),
        ([Load(2, 4), Load(1, 2)], 7, 1),
        # one that is full is asked only where nobody else can be
        ([Load(0, 8, State.BUSY), Load(7, 8)], 0, 1),
        ([Load(0, 8, State.BUSY), Load(7, 8, State.DOWN)], 0, 0),
        ([Load(3, 8, State.BUSY), Load(1, 8, State.BUSY)], 0, 1),
        ([Load(0, 8, State.DOWN)], 0, None),
        ([], 0, None),
    ],
)
def test_the_least_loaded_is_asked(loads: list[Load], turn: int, asked: int | None) -> None:
    assert choose(loads, turn) == asked


def test_pauses_grow_up_to_half_a_minute() -> None:
    assert [pause_s(n) for n in (1, 2, 3, 7, 50)] == [0.5, 1.0, 2.0, 30.0, 30.0]


def test_only_what_never_began_may_be_asked_elsewhere() -> None:
    def because(cause: Exception) -> EngineError:
        why = EngineUnavailable("nobody answers")
        why.__cause__ = cause
        return why

    key: Any = None
    assert never_began(Busy("queue full"))
    assert never_began(because(aiohttp.ClientConnectorError(key, OSError())))
    assert never_began(because(aiohttp.ConnectionTimeoutError()))
    assert not never_began(because(aiohttp.ServerDisconnectedError()))
    assert not never_began(EngineUnavailable("HTTP 502"))
    assert not never_began(EngineOverloaded("in mid-answer"))
    assert not never_began(EngineBroken("broke off"))


def test_a_card_is_believed_only_where_it_makes_sense() -> None:
    told = Card.read(MODEL, card(max_batch=4, min_visual_tokens=16, max_visual_tokens=1280))
    assert told == Card(MODEL, CoordSpace.RESIZED_ABS, 16, 1280, 4, True, "float32")
    nonsense = {
        "coord_space": ["unit"], "min_visual_tokens": -4, "max_visual_tokens": 1e9,
        "max_batch": "many", "clips": "yes", "dtype": {"a": 1}, "family": 7,
    }  # fmt: skip
    found = Card.read("Qwen/Qwen3-VL-8B", nonsense)
    assert found == Card("Qwen/Qwen3-VL-8B", CoordSpace.REL1000, 4, 16384, 1, False, "{'a': 1}")
    assert Card.read("x", {"min_visual_tokens": 900, "max_visual_tokens": 9}).min_tokens == 9
    assert Card.read("x", {"max_batch": 10**12}).max_batch == 1024


def test_series_get_the_worker_s_number() -> None:
    assert labelled("batches_total", 1) == 'batches_total{worker="1"}'
    assert labelled('size{model="a"}', 0) == 'size{model="a",worker="0"}'


# --- running workers -----------------------------------------------------------------------------


async def test_the_traits_are_what_all_workers_can_do() -> None:
    async with (
        FakeWorker(about=card(max_batch=2, min_visual_tokens=16)) as one,
        FakeWorker(about=card(max_batch=6, max_visual_tokens=1280)) as other,
        engine(one, other) as both,
    ):
        traits = both.traits
        assert (traits.name, traits.model) == ("hf", MODEL)
        assert traits.coord_space is CoordSpace.RESIZED_ABS
        assert (traits.min_tokens, traits.max_tokens) == (16, 1280)
        assert (traits.default_concurrency, traits.max_concurrency) == (8, 32)
        assert traits.clips
        assert traits.cold_start_s is not None
    async with (
        FakeWorker(about=card(clips=False)) as one,
        FakeWorker() as other,
        engine(one, other) as both,
    ):
        assert not both.traits.clips


async def test_looks_go_to_the_workers_in_the_measure_of_their_batches() -> None:
    gate = asyncio.Event()
    async with (
        FakeWorker(about=card(max_batch=2)) as small,
        FakeWorker(about=card(max_batch=6)) as large,
        engine(small, large) as both,
    ):
        for worker in (small, large):
            worker.script.extend(Answer(NO, gate=gate) for _ in range(8))
        tasks = [asyncio.create_task(both.infer(request(n))) for n in range(8)]
        await until(lambda: len(looks(small)) + len(looks(large)) == 8)
        assert (len(looks(small)), len(looks(large))) == (2, 6)
        assert (await both.gauges())['earlyfire_worker_asked{worker="1"}'] == 6.0
        gate.set()
        assert {(await task).text for task in tasks} == {NO}


async def test_a_request_carries_the_camera_and_a_clip_its_times() -> None:
    earlier = np.full((364, 644, 3), 40, np.uint8)
    async with FakeWorker(key="sesame-open-now") as one:
        os.environ["EARLYFIRE_WORKER_KEY"] = "sesame-open-now"
        try:
            pool = engine(one)
        finally:
            del os.environ["EARLYFIRE_WORKER_KEY"]
        async with pool:
            one.script.append(Answer(YES, true_probability=0.75))
            reply = await pool.infer(request(9, clip=((3.0, earlier), (6.0, earlier))))
    assert reply.text == YES
    assert reply.confidence == pytest.approx(0.75)
    (body,) = looks(one)
    assert body["user"] == "ridge"
    assert body["model"] == MODEL
    video, text = body["messages"][-1]["content"]
    assert video["type"] == "video_url"
    assert video["video_url"]["timestamps"] == [3.0, 6.0, 9.0]
    assert video["video_url"]["url"].startswith("data:video/jpeg;base64,")
    assert video["video_url"]["url"].count(",") == 3
    assert text["text"] == PROMPT.user(644, 364)


async def test_a_wrong_key_is_told_on_entering() -> None:
    async with FakeWorker(key="sesame-open-now") as one:
        with pytest.raises(EngineRejected, match="EARLYFIRE_WORKER_KEY"):
            async with engine(one):
                pass


async def test_the_metrics_of_all_workers_stand_side_by_side() -> None:
    async with FakeWorker() as one, FakeWorker() as other, engine(one, other) as both:
        found = await both.gauges()
    assert found['batches_total{worker="0"}'] == found['batches_total{worker="1"}'] == 3.0
    assert found['earlyfire_worker_up{worker="1"}'] == 1.0


# --- workers that fail ---------------------------------------------------------------------------


async def test_of_two_workers_one_dies_and_the_other_goes_on(port: int) -> None:
    async with FakeWorker() as one:
        async with FakeWorker(port=port) as other:
            both = await engine(one, other).__aenter__()
        try:
            # its port is closed now: each look that goes there is handed on
            texts = [(await both.infer(request(n))).text for n in range(4)]
            assert texts == [NO] * 4
            assert len(looks(one)) == 4
            assert (await both.gauges())['earlyfire_worker_up{worker="1"}'] == 0.0
            # and it is taken in again when it is back
            async with FakeWorker(port=port) as back:
                await until(lambda: both.pool.members[1].state is State.UP)
                for n in range(2):
                    await both.infer(request(n))
                assert len(looks(back)) == 1
        finally:
            await both.__aexit__(None, None, None)


async def test_a_look_that_began_is_not_asked_of_another_worker() -> None:
    async with FakeWorker() as one, FakeWorker() as other, engine(one, other) as both:
        for fault, kind in (
            (Fault.RESET, EngineUnavailable),
            (Fault.HALF_LINE, EngineBroken),
            (Fault.BAD_GATEWAY, EngineUnavailable),
            (Fault.DIED, EngineBroken),
        ):
            await until(lambda: all(m.state is State.UP for m in both.pool.members))
            before = len(looks(one)) + len(looks(other))
            one.script.clear()
            other.script.clear()
            one.script.append(Answer(NO, fault=fault))
            other.script.append(Answer(NO, fault=fault))
            with pytest.raises(kind):
                await both.infer(request())
            assert len(looks(one)) + len(looks(other)) == before + 1, fault


async def test_a_full_worker_is_passed_over_and_full_ones_all_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # asked again in the meantime it would say that it is ready
    monkeypatch.setattr(pool, "FIRST_PAUSE_S", PATIENCE_S)
    async with FakeWorker() as one, FakeWorker() as other, engine(one, other) as both:
        one.script.append(Answer(fault=Fault.UNAVAILABLE))
        assert (await both.infer(request())).text == NO
        assert (len(looks(one)), len(looks(other))) == (1, 1)
        assert both.pool.members[0].state is State.BUSY
        one.script.extend([Answer(fault=Fault.UNAVAILABLE)] * 2)
        other.script.extend([Answer(fault=Fault.UNAVAILABLE)] * 2)
        with pytest.raises(EngineOverloaded):
            await both.infer(request())
        # being full is no reason not to be asked when nobody else is there
        one.script.clear()
        other.script.clear()
        assert (await both.infer(request())).text == NO


async def test_when_all_are_gone_every_look_fails_at_once_with_the_remedy(port: int) -> None:
    async with FakeWorker(port=port) as one:
        alone = await engine(one).__aenter__()
    try:
        for _ in range(3):
            with pytest.raises(EngineUnavailable, match=r"earlyfire worker --model"):
                await alone.infer(request())
    finally:
        await alone.__aexit__(None, None, None)


async def test_a_slow_worker_is_asked_whether_it_lives_and_stays_if_it_does() -> None:
    async with FakeWorker() as one, engine(one) as alone:

        async def hangs() -> None:
            one.script.append(Answer(fault=Fault.HANG))
            with pytest.raises(EngineTimeout):
                await overtaken(one.asked, alone.infer(request(deadline_s=10)), 10)

        await hangs()
        await until(lambda: alone.pool.members[0].ask_at is None)
        assert (await alone.infer(request())).text == NO
        # one that does not even say that it is ready is left alone
        one.ready = False
        await hangs()
        await until(lambda: alone.pool.members[0].state is State.DOWN)
        with pytest.raises(EngineUnavailable):
            await alone.infer(request())


async def test_a_cancelled_look_is_cancelled_at_the_worker_and_counts_no_more() -> None:
    async with FakeWorker() as one, engine(one) as alone:
        one.script.append(Answer(NO, gate=asyncio.Event()))
        task = asyncio.create_task(alone.infer(request()))
        await until(lambda: looks(one))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(one.gone.wait(), 20)
        assert alone.pool.members[0].in_flight == 0


# --- entering ------------------------------------------------------------------------------------


async def test_a_worker_that_still_loads_is_waited_for() -> None:
    async with FakeWorker(ready=False) as one:
        entering = asyncio.create_task(engine(one).__aenter__())
        await until(lambda: one.ready_asked == 2)
        one.ready = True
        entered = await asyncio.wait_for(entering, 20)
        await entered.__aexit__(None, None, None)


async def test_one_worker_of_two_is_enough_to_begin_and_none_is_not(port: int) -> None:
    gone = f"http://127.0.0.1:{port}"
    async with FakeWorker() as one, engine(one, gone) as both:
        assert both.traits.default_concurrency == 8
        assert (await both.infer(request())).text == NO
    with pytest.raises(EngineUnavailable, match=r"earlyfire worker --model Qwen/Qwen2\.5-VL-7B"):
        async with engine(gone):
            pass


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"models": ("a",)}, {"models": ("b",)}, "serve different models: a, b"),
        (
            {"about": card(min_visual_tokens=1024)},
            {"about": card(max_visual_tokens=512)},
            "share no range",
        ),
        ({"about": card(coord_space="unit")}, {}, "disagree on how"),
    ],
)
async def test_workers_that_cannot_stand_for_each_other_are_refused(
    first: Mapping[str, Any], second: Mapping[str, Any], message: str
) -> None:
    async with FakeWorker(**first) as one, FakeWorker(**second) as other:
        with pytest.raises(UsageError, match=message):
            async with engine(one, other):
                pass


async def test_workers_of_another_model_than_the_wanted_one_are_refused() -> None:
    async with FakeWorker() as one:
        with pytest.raises(UsageError, match=f"serve {MODEL}, not qwen-x"):
            async with engine(one, model="qwen-x"):
                pass


async def test_a_worker_that_comes_back_with_another_model_stays_out(port: int) -> None:
    async with FakeWorker() as one:
        async with FakeWorker(port=port) as other:
            both = await engine(one, other).__aenter__()
        try:
            await both.infer(request(0))
            await both.infer(request(1))
            async with FakeWorker(port=port, models=("another",)):
                await until(lambda: "serves another" in both.pool.members[1].why)
                assert both.pool.members[1].state is State.DOWN
        finally:
            await both.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "http://127.0.0.1:8100"}, "--worker"),
        ({"options": {"retries": 3}}, "retries"),
        ({"options": {"max_batch": 0}}, "max_batch"),
        ({"options": {"wait_ms": float("nan")}}, "wait_ms"),
        ({"options": {"max_visual_tokens": 2}}, "max_visual_tokens"),
        ({"options": {"silence_s": 0}}, "silence_s"),
        ({"workers": ["ftp://box"]}, "http://"),
        ({"workers": ["box:1", "http://box:1/"]}, "twice"),
        ({"workers": ["box:1"], "options": {"dtype": "float32"}}, "where these run"),
    ],
)
async def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HfEngine(models.Engine.model_validate({"name": "hf", **changes}), Clock())


async def test_a_missing_package_is_told_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    with pytest.raises(UsageError, match=r"needs torch: pip install -e '\.\[hf\]'"):
        async with engine():
            pass
    # workers elsewhere need nothing here
    async with FakeWorker() as one, engine(one):
        pass


# --- a worker of our own -------------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local worker without a model; one that ends when it is asked by camera `poison`."""
    monkeypatch.setattr(hf, "missing_packages", list)
    monkeypatch.setattr(hf, "LOST_S", PATIENCE_S)  # each broken connection here is an end
    monkeypatch.setattr(hf, "worker_command", lambda model, options: fake.command("poison"))
    for name, value in fake.environ().items():
        monkeypatch.setenv(name, value)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_crash_costs_the_looks_under_way_and_the_worker_comes_back(own: None) -> None:
    async with engine() as mine:
        assert mine.supervisor is not None
        first = mine.supervisor.pid
        assert (await mine.infer(request())).text == NO
        with pytest.raises(EngineUnavailable, match=r"the worker ended \(signal 9"):
            await mine.infer(request(camera="poison"))
        # until it is back, looks fail at once instead of waiting for their deadline
        with pytest.raises(EngineUnavailable, match=r"the worker ended \(signal 9"):
            await mine.infer(request())
        await until(lambda: mine.supervisor and mine.supervisor.address)
        assert (await mine.infer(request())).text == NO
        assert (await mine.gauges())["earlyfire_worker_restarts_total"] == 1.0
        second = mine.supervisor.pid
        assert first is not None
        assert second is not None
    assert not alive(first)
    assert not alive(second)


async def test_a_run_goes_on_after_a_crash_and_every_frame_has_its_fate(
    own: None, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 600, (320, 240))
    scenario = loaded(
        tmp_path,
        camera("north", interval="200ms"),
        camera("poison", path="pictures", interval="10m", phase="1s"),
        # nobody lives to see that deadline: whoever waits for it is not told at once
        engine={"name": "hf", "deadline": "1h", "timeout": "1h"},
    )
    options = run.Options(broker="memory", out=tmp_path / "runs")
    stop = asyncio.Event()
    playing = asyncio.create_task(run.play(scenario, options, [], stop))

    def went_on() -> bool:
        folders = run_folders(options.out)
        told = [(f["camera"], f["fate"]) for folder in folders for f in fates(folder)]
        crash = ("poison", "engine_error")
        return crash in told and ("north", "answered") in told[told.index(crash) :]

    await until(went_on)
    stop.set()
    outcome = await within(playing)
    log, ledger = proof(outcome.folder)
    assert ledger.fates.keys() >= {"answered", "engine_error"}
    assert ledger.fates.keys() <= {"answered", "engine_error", "abandoned"}
    assert min((f for f in log.frames if f.camera == "north"), key=lambda f: f.seq).fate is (
        Fate.ANSWERED
    )
    failed = [f for f in log.frames if f.fate is Fate.ENGINE_ERROR]
    assert {f.reason for f in failed} == {Reason.UNAVAILABLE}
    assert all("ended (signal 9" in f.detail for f in failed if f.camera == "poison")


# --- the real worker -----------------------------------------------------------------------------

VERDICT_ALONE = {
    "type": "object",
    "properties": {"has_smoke": {"type": "boolean"}, "bbox_2d": {"type": "null"}},
    "required": ["has_smoke", "bbox_2d"],
    "additionalProperties": False,
}
"""Random weights would write numbers without an end into a box."""


async def test_the_real_worker_answers_looks_and_clips_and_survives_being_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(hf, "LOST_S", PATIENCE_S)
    from tests.tiny_qwen import save_tiny

    save_tiny(tmp_path / "tiny-qwen")
    # the automatic choice is by time, which two starts may take differently
    model = str(tmp_path / "tiny-qwen")
    mine = HfEngine(settings(model=model, options={"dtype": "float32"}), Clock())
    shades = [np.full((280, 280, 3), shade, np.uint8) for shade in (20, 120, 240)]
    checks = {check.what: check for check in await mine.check()}
    assert checks["Hugging Face packages"].ok
    assert checks[f"model {tmp_path / 'tiny-qwen'}"].ok
    async with mine:
        assert mine.traits.model == "tiny-qwen"
        assert mine.traits.coord_space is CoordSpace.RESIZED_ABS
        assert mine.traits.clips

        def look(n: int, **changes: Any) -> Request:
            return request(n, image=shades[n % 3], schema=VERDICT_ALONE, **changes)

        replies = await asyncio.gather(*[mine.infer(look(n)) for n in range(6)])
        for reply in replies:
            assert reply.text in (
                '{"has_smoke": true, "bbox_2d": null}',
                '{"has_smoke": false, "bbox_2d": null}',
            )
            assert reply.finish == "stop"
            assert reply.confidence is not None
            assert (reply.confidence >= 0.5) == ("true" in reply.text)
            assert reply.server["prompt_s"] > 0
        # the same picture has the same answer, whoever shared its batch
        assert replies[0].confidence == pytest.approx(replies[3].confidence, abs=1e-4)
        assert replies[0].confidence != pytest.approx(replies[1].confidence, abs=1e-4)
        clip = await mine.infer(look(9, clip=((3.0, shades[1]), (6.0, shades[2]))))
        assert clip.prompt_tokens is not None
        assert replies[0].prompt_tokens is not None
        # three frames are padded to four, two grids of 100 tokens; one picture has one
        assert clip.prompt_tokens - replies[0].prompt_tokens == 100
        found = await mine.gauges()
        assert found['earlyfire_worker_up{worker="0"}'] == 1.0
        assert len([name for name in found if name.endswith('worker="0"}')]) > 20

        assert mine.supervisor is not None
        first = mine.supervisor.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # or it could answer before it is killed
        under_way = [asyncio.create_task(mine.infer(look(n))) for n in range(4)]
        await until(lambda: mine.pool.members[0].in_flight == 4)
        os.kill(first, signal.SIGKILL)
        fates = await asyncio.gather(*under_way, return_exceptions=True)
        assert all(isinstance(fate, EngineUnavailable) for fate in fates), fates
        await until(lambda: mine.supervisor and mine.supervisor.address, LOADING_S)
        assert (await mine.infer(look(0))).confidence == pytest.approx(
            replies[0].confidence, abs=1e-4
        )
        second = mine.supervisor.pid
        assert second is not None
    assert not alive(first)
    assert not alive(second)


async def test_a_model_that_is_not_there_is_told_in_the_worker_s_own_words(
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineUnavailable, match=r"the worker ended \(exit code 2\).*cannot be l"):
        async with HfEngine(settings(model=str(tmp_path / "empty")), Clock()):
            pass
