"""The openai engine against a server that behaves as vLLM or llama-server do, on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from earlyfire_stream import run
from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import prompt, read_reply
from earlyfire_stream.engines import create
from earlyfire_stream.engines.base import Gauged, Request
from earlyfire_stream.engines.chat import (
    ChatClient,
    ChatOptions,
    Secret,
    ServerSentEvents,
    base_url,
)
from earlyfire_stream.engines.openai import OpenAIEngine
from earlyfire_stream.engines.streaming import probability_of_true, retry_after_s
from earlyfire_stream.errors import (
    EngineBroken,
    EngineError,
    EngineOverloaded,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    UsageError,
)
from earlyfire_stream.records import GAUGES_LOG
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import CoordSpace, ResizeMode
from tests.fakes.openai import MODEL, Answer, Dialect, FakeOpenAI, Fault
from tests.playing import camera, loaded, overtaken, pictures, proof, records, within

PROMPT = prompt("v1", CoordSpace.RESIZED_ABS)
YES = '{"has_smoke": true, "bbox_2d": [322, 182, 644, 364]}'
NO = '{"has_smoke": false, "bbox_2d": null}'
KEY = "sk-earlyfire-0123456789"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def request(clock: Clock, deadline_s: float = 20.0, **changes: Any) -> Request:
    given: dict[str, Any] = {
        "camera": "ridge", "seq": 1, "captured_at": 0.0,
        "image": np.zeros((728, 1288, 3), np.uint8), "jpeg": b"", "visual_tokens": 1196,
        "system": PROMPT.system, "user": PROMPT.user(1288, 728), "schema": PROMPT.schema,
        "deadline_ns": clock.wall_ns() + round(deadline_s * 1e9),
    }  # fmt: skip
    return Request(**given | changes)


@asynccontextmanager
async def opened(
    server: FakeOpenAI, limit_s: float = 20.0, model: str | None = None, **options: Any
) -> AsyncIterator[tuple[OpenAIEngine, Clock]]:
    clock = Clock()
    engine = create(
        models.Engine(name="openai", url=server.url, model=model, timeout=limit_s, options=options),
        clock,
        seed=7,
    )
    assert isinstance(engine, OpenAIEngine)
    async with engine:
        yield engine, clock


def jpeg() -> bytes:
    return cv2.imencode(".jpg", np.zeros((56, 56, 3), np.uint8))[1].tobytes()


def event(said: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(said) + b"\n\n"


def piece(text: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish, **more}]}


# --- where it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://box:8000/v1", "http://box:8000/v1"),
        ("http://box:8000", "http://box:8000/v1"),
        (" 'http://box:8000/' ", "http://box:8000/v1"),
        ("box:8000", "http://box:8000/v1"),
        ("https://box/llm/v1/", "https://box/llm/v1"),
        ("https://box/llm", "https://box/llm/v1"),
        ("https://box/v1beta/openai", "https://box/v1beta/openai"),
        ("http://box:8000/v1/chat/completions", "http://box:8000/v1"),
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_is_taken_with_or_without_its_version(given: str, url: str) -> None:
    assert str(base_url(given, "url")) == url


@pytest.mark.parametrize(
    "given",
    ["ftp://box", "http://", "http://box:port", "http://box:99999", "http://a b", "http://box:0",
     "http://[::1", "http://box/v1?key=1", "http://box/v1#x", "box\n:8000"],
)  # fmt: skip
def test_an_address_that_cannot_be_read_is_a_usage_error_that_names_the_setting(given: str) -> None:
    with pytest.raises(UsageError, match="OPENAI_BASE_URL"):
        base_url(given, "OPENAI_BASE_URL")


def test_a_password_in_an_address_is_never_shown() -> None:
    with pytest.raises(UsageError) as caught:
        base_url("ftp://me:secret@box", "url")
    assert "secret" not in str(caught.value)


async def test_the_address_comes_from_the_settings_then_the_environment_then_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def address(**settings: Any) -> str:
        engine = create(models.Engine(name="openai", **settings), Clock())
        assert isinstance(engine, OpenAIEngine)
        return engine.address

    assert address() == "http://127.0.0.1:8000/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:secret@box/v1")
    assert address() == "https://box/v1"
    assert address(url="http://other:1234") == "http://other:1234/v1"


# --- the key -------------------------------------------------------------------------------------


async def test_the_key_goes_into_one_header_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    echo = f'{{"has_smoke": false, "bbox_2d": null, "note": "{KEY}"}}'
    async with FakeOpenAI(key=KEY, refuses=frozenset({"seed"})) as server:
        server.metrics = f'# TYPE a gauge\na{{key="{KEY}"}} 1\n'
        async with opened(server, retries=0) as (engine, clock):
            server.script.append(Answer(echo))
            reply = await engine.infer(request(clock))
            told = [repr(reply), repr(engine.options), repr(await engine.gauges())]
            for fault in (Fault.BAD_REQUEST, Fault.DIED, Fault.UNAUTHORIZED, Fault.TOO_MANY):
                server.script.append(Answer(fault=fault, message=f"you sent {KEY}, did you?"))
                with pytest.raises(EngineError) as caught:
                    await engine.infer(request(clock))
                told.append(str(caught.value))
            for raw in (
                event({"error": {"message": KEY}}),
                event(piece(KEY)) * 40,
                b"data: " + KEY.encode() + b"\n\n",
                event(piece(None, KEY)),
            ):
                server.script.append(Answer(raw=raw))
                try:
                    told.append(repr(await engine.infer(request(clock))))
                except EngineError as error:
                    told.append(str(error))
        assert {h["Authorization"] for h in server.headers} == {f"Bearer {KEY}"}
        told += [str(server.requests), caplog.text, repr(engine._key)]
    assert len(told) == 14
    assert not [text for text in told if KEY in text]
    assert '"note": "***"' in reply.text


async def test_a_placeholder_for_a_key_is_sent_and_garbles_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "false")
    async with FakeOpenAI(key="false") as server, opened(server) as (engine, clock):
        assert (await engine.infer(request(clock))).text == NO


async def test_without_the_key_it_is_refused_and_says_which_variable_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeOpenAI(key=KEY) as server:
        with pytest.raises(EngineRejected, match="set OPENAI_API_KEY"):
            async with opened(server):
                pass
        monkeypatch.setenv("OPENAI_API_KEY", "sk-another-0123")
        with pytest.raises(
            EngineRejected, match="does not accept the key in OPENAI_API_KEY"
        ) as why:
            async with opened(server):
                pass
        assert "sk-another" not in str(why.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
async def test_a_key_that_no_header_can_carry_is_a_usage_error_without_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as why:
        create(models.Engine(name="openai"), Clock())
    assert key not in str(why.value)


async def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.append(Answer(fault=Fault.REDIRECT))
        with pytest.raises(EngineRejected, match=r"redirects to http://elsewhere\.example"):
            await engine.infer(request(clock))


# --- opening -------------------------------------------------------------------------------------


async def test_entering_finds_the_only_model_and_warms_it_up() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, _):
        assert engine.traits.model == MODEL
        assert engine.traits.coord_space is CoordSpace.RESIZED_ABS
        assert engine.traits.cold_start_s is not None
        assert engine.traits.seeks_knee
        assert not engine.traits.clips
        (warm_up,) = server.requests
        assert warm_up["model"] == MODEL
        assert warm_up["response_format"]["json_schema"]["schema"] == PROMPT.schema


async def test_several_models_are_listed_and_one_must_be_chosen() -> None:
    async with FakeOpenAI(models=(MODEL, "Qwen/Qwen3-VL-8B")) as server:
        with pytest.raises(UsageError, match=f"{MODEL}, Qwen/Qwen3-VL-8B: choose one"):
            async with opened(server):
                pass
        async with opened(server, model="Qwen/Qwen3-VL-8B") as (engine, _):
            assert engine.traits.coord_space is CoordSpace.REL1000


async def test_a_server_without_a_list_of_models_needs_a_name() -> None:
    async with FakeOpenAI(models=None) as server:
        with pytest.raises(UsageError, match="--model"):
            async with opened(server):
                pass
        async with opened(server, model="llava") as (engine, clock):
            assert engine.traits.coord_space is CoordSpace.UNIT
            assert (await engine.infer(request(clock))).text == NO


async def test_a_model_that_is_not_served_is_rejected_with_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeOpenAI() as server:
        with pytest.raises(EngineRejected, match=r"does not exist.*vllm serve"):
            async with opened(server, model="llava"):
                pass
    assert f"lists {MODEL}, not llava" in caplog.text


async def test_what_a_server_tells_of_its_model_is_believed() -> None:
    told = {"coord_space": "rel1000", "min_visual_tokens": 64, "max_visual_tokens": 2048}
    async with FakeOpenAI(about=told) as server:
        async with opened(server) as (engine, _):
            t = engine.traits
            assert (t.coord_space, t.min_tokens, t.max_tokens) == (CoordSpace.REL1000, 64, 2048)
        own = {"coord_space": "unit", "min_visual_tokens": 1024}
        async with opened(server, **own) as (engine, _):
            assert (engine.traits.coord_space, engine.traits.min_tokens) == (CoordSpace.UNIT, 1024)
    # vLLM serves a model under any name, and says what it is
    named = FakeOpenAI(models=("smoke",), about={"root": "/models/Qwen2.5-VL-3B"})
    async with named as server, opened(server) as (engine, _):
        assert engine.traits.coord_space is CoordSpace.RESIZED_ABS
    odd = {"coord_space": ["x"], "min_visual_tokens": 10**30, "max_visual_tokens": -1, "root": 3}
    async with FakeOpenAI(about=odd) as server, opened(server) as (engine, _):
        assert (engine.traits.min_tokens, engine.traits.max_tokens) == (4, 16384)


async def test_nobody_there_is_unavailable_and_says_what_to_start() -> None:
    async with FakeOpenAI() as server:
        url = server.url
    engine = create(models.Engine(name="openai", url=url), Clock())
    with pytest.raises(EngineUnavailable, match=r"vllm serve Qwen/Qwen2\.5-VL-7B-Instruct"):
        await engine.__aenter__()


async def test_a_server_that_fails_at_the_first_look_is_reported() -> None:
    async with FakeOpenAI() as server:
        server.script.append(Answer(fault=Fault.DIED))
        with pytest.raises(EngineBroken, match="EngineCore"):
            async with opened(server):
                pass


async def test_a_model_that_never_answers_ends_in_a_timeout() -> None:
    async with FakeOpenAI() as server:
        server.script.append(Answer(fault=Fault.HANG))
        with pytest.raises(EngineTimeout):
            async with opened(server, load_s=0.1):
                pass


async def test_a_server_that_still_loads_its_model_is_waited_for() -> None:
    loading = Answer(fault=Fault.UNAVAILABLE, retry_after="0.01")
    async with FakeOpenAI(dialect=Dialect.LLAMA) as server:
        server.script.extend([loading] * 5)
        async with opened(server, retries=0) as (engine, clock):
            assert len(server.requests) == 6
            assert (await engine.infer(request(clock))).text == NO
        # but not for ever, and not one that has had enough of us
        server.script.extend([loading] * 100)
        with pytest.raises((EngineOverloaded, EngineTimeout)):
            async with opened(server, retries=0, load_s=0.1):
                pass
    # another one: a request that the first has yet to read would take this answer
    async with FakeOpenAI(dialect=Dialect.LLAMA) as server:
        server.script.append(Answer(fault=Fault.TOO_MANY, retry_after="0.01"))
        with pytest.raises(EngineOverloaded):
            async with opened(server, retries=0):
                pass


@pytest.mark.parametrize("says", [b"<html>", b"[]", b"{}", b'{"data": 3}', b"x" * 5_000_000])
async def test_another_kind_of_server_is_told_apart(says: bytes) -> None:
    async with FakeOpenAI(models_say=says) as server:
        with pytest.raises(EngineBroken, match=r"no OpenAI-compatible server|more than"):
            async with opened(server):
                pass


# --- one look ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_a_look_sends_instructions_then_the_picture_then_its_size(dialect: Dialect) -> None:
    async with FakeOpenAI(dialect=dialect) as server, opened(server) as (engine, clock):
        await engine.infer(request(clock))
        sent = server.requests[-1]
        system, user = sent.pop("messages")
        assert system == {"role": "system", "content": PROMPT.system}
        picture, text = user["content"]
        assert "1288 pixels wide and 728 pixels high" in text["text"]
        head, _, code = picture["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64"
        image = cv2.imdecode(np.frombuffer(base64.b64decode(code), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (728, 1288, 3)
        form = sent.pop("response_format")
        assert form["json_schema"]["schema"] == PROMPT.schema
        assert list(form["json_schema"]["schema"]["properties"]) == ["has_smoke", "bbox_2d"]
        assert sent == {
            "model": MODEL, "max_tokens": 96, "temperature": 0.0, "top_p": 1.0, "seed": 7,
            "stream": True, "stream_options": {"include_usage": True},
            "logprobs": True, "top_logprobs": 5,
        }  # fmt: skip


async def test_free_decoding_sends_no_schema() -> None:
    async with FakeOpenAI() as server:
        free = models.Engine(name="openai", url=server.url, decode="free")
        clock = Clock()
        async with create(free, clock) as engine:
            reply = await engine.infer(request(clock, schema=None))
            assert reply.text == "A valley with hills in the distance."
        assert ["response_format" in r for r in server.requests] == [False, False]


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_a_reply_brings_text_counts_and_seconds(dialect: Dialect) -> None:
    async with FakeOpenAI(dialect=dialect) as server, opened(server) as (engine, clock):
        server.script.append(Answer(YES))
        reply = await engine.infer(request(clock))
        assert reply.text == YES
        assert reply.finish == "stop"
        # from the size that was sent, never from usage
        assert reply.visual_tokens == 1196
        assert reply.prompt_tokens == 46
        # `{"has_smoke": true,` 7, `"bbox_2d": [` 7, four times three digits and a sign 16, `}` 1
        assert reply.output_tokens == 31
        first_s = reply.server["first_token_s"]
        rest = {name: value for name, value in reply.server.items() if name != "first_token_s"}
        assert rest == ({} if dialect is Dialect.VLLM else {"prompt_s": 0.15, "generate_s": 0.1005})
        assert 0 < first_s <= 20
        assert reply.decided_ns <= reply.answered_ns
        parsed = read_reply(
            reply.text, reply.finish, PROMPT.space, ResizeMode.STRETCH, (1280, 720), (1288, 728)
        )
        assert parsed.verdict is not None
        assert parsed.verdict.box is not None
        assert parsed.verdict.box.corners == pytest.approx((0.25, 0.25, 0.5, 0.5))


async def test_the_timings_of_our_worker_are_told_in_seconds() -> None:
    told = {"queue_ms": 20, "preprocess_ms": 16.5, "prompt_ms": 33, "predicted_ms": 0, "batch": 8}
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.append(Answer(NO, timings=told))
        reply = await engine.infer(request(clock))
        assert {k: v for k, v in reply.server.items() if k != "first_token_s"} == {
            "queue_s": 0.02, "preprocess_s": 0.0165, "prompt_s": 0.033, "generate_s": 0.0,
            "batch": 8.0,
        }  # fmt: skip


@pytest.mark.parametrize("huge", [2**53 + 1, 2**64 - 1, 10**30, -1, True, "12", None, 1.5])
async def test_a_number_that_no_record_holds_is_left_out(huge: Any) -> None:
    usage = {"prompt_tokens": huge, "completion_tokens": huge}
    timings = {"prompt_ms": huge, "predicted_ms": -1.0, "queue_ms": 1e300, "batch": [2]}
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.append(Answer(NO, usage=usage, timings=timings))
        reply = await engine.infer(request(clock))
        assert reply.prompt_tokens is None
        assert reply.output_tokens is None
        assert reply.server.keys() <= {"first_token_s", "prompt_s"}
        assert reply.server.get("prompt_s", 0.0015) == 0.0015
        orjson.dumps(reply, option=orjson.OPT_SERIALIZE_DATACLASS)


async def test_the_decision_is_dated_at_its_token_and_not_at_the_end() -> None:
    gate, late = asyncio.Event(), asyncio.Event()
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.append(Answer(YES, gate=gate, late_gate=late))
        server.asked.clear()
        look = asyncio.create_task(engine.infer(request(clock)))
        await server.asked.wait()
        settles_ns = clock.wall_ns()
        gate.set()
        # another look goes through the same loop meanwhile: by then the tokens have been read
        await engine.infer(request(clock, seq=2))
        ends_ns = clock.wall_ns()
        late.set()
        reply = await look
        assert settles_ns <= reply.decided_ns <= ends_ns <= reply.answered_ns


async def test_reading_stops_after_a_settled_false_where_that_is_asked_for() -> None:
    never = asyncio.Event()
    async with FakeOpenAI() as server, opened(server, cut_after_false=True) as (engine, clock):
        server.script.append(Answer(NO, late_gate=never))
        reply = await engine.infer(request(clock))
        assert reply.finish == "cut"
        assert read_reply(
            reply.text, reply.finish, PROMPT.space, ResizeMode.STRETCH, (1280, 720), (1288, 728)
        ).verdict is not None  # fmt: skip
        await asyncio.wait_for(server.gone.wait(), 10)
        server.script.append(Answer(YES))
        assert (await engine.infer(request(clock))).finish == "stop"
        # what has come already is not thrown away, and its connection stays
        whole = event(piece(NO)) + event(piece(None, "stop")) + b"data: [DONE]\n\n"
        server.script.append(Answer(raw=whole))
        assert (await engine.infer(request(clock))).text == NO


async def test_the_probability_of_smoke_comes_from_the_deciding_token() -> None:
    for fault in (Fault.NONE, Fault.WHOLE):
        async with FakeOpenAI() as server, opened(server) as (engine, clock):
            server.script.append(Answer(YES, true_probability=0.8, fault=fault))
            assert (await engine.infer(request(clock))).confidence == pytest.approx(0.8)
            server.script.append(Answer(NO, true_probability=0.1, fault=fault))
            assert (await engine.infer(request(clock))).confidence == pytest.approx(0.1)
            server.script.append(Answer(YES, fault=fault))
            assert (await engine.infer(request(clock))).confidence is None
    async with FakeOpenAI() as server, opened(server, logprobs=False) as (engine, clock):
        server.script.append(Answer(YES, true_probability=0.8))
        assert (await engine.infer(request(clock))).confidence is None
        assert not {"logprobs", "top_logprobs"} & server.requests[-1].keys()


def test_of_several_words_the_one_that_settles_it_counts() -> None:
    def token(text: str, p: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(p)}

    said = [token("true", 0.9), token(' {"has_smoke":', 1.0), token(" false", 0.7),
            token(',"sure":', 1.0), token("true", 0.6)]  # fmt: skip
    assert probability_of_true(said) == pytest.approx(0.3)
    assert probability_of_true([token(" true", 0.6)], '{"has_smoke":') == pytest.approx(0.6)
    for odd in (None, {}, [], [None], [{"token": 3}], [{"token": "true"}], [token("maybe", 0.5)],
                [{"token": "true", "logprob": float("nan")}], [{"token": "true", "logprob": 1.0}],
                [{"token": "true", "logprob": "x", "top_logprobs": [3, None]}]):  # fmt: skip
        assert probability_of_true(odd) is None


async def test_a_reply_cut_by_the_token_limit_says_so() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.append(Answer('{"has_smoke": true, "bbox_2d": [1', finish="length"))
        assert (await engine.infer(request(clock))).finish == "length"


async def test_a_frame_without_decoded_pixels_is_sent_as_it_came() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        await engine.infer(request(clock, image=None, jpeg=jpeg()))
        url = server.requests[-1]["messages"][-1]["content"][0]["image_url"]["url"]
        assert base64.b64decode(url.partition(",")[2]) == jpeg()


async def test_a_picture_of_several_megabytes_is_sent() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (1456, 1456, 3), np.uint8)
    async with FakeOpenAI() as server, opened(server, jpeg_quality=100) as (engine, clock):
        assert (await engine.infer(request(clock, image=noise))).text == NO
        url = server.requests[-1]["messages"][-1]["content"][0]["image_url"]["url"]
        assert len(url) > 2**21


async def test_looks_one_after_another_share_a_connection() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        for _ in range(5):
            await engine.infer(request(clock))
        assert len(server.connections) == 1


async def test_looks_run_side_by_side() -> None:
    gate = asyncio.Event()
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.extend([Answer(YES, gate=gate), Answer(NO)])
        server.asked.clear()
        slow = asyncio.create_task(engine.infer(request(clock)))
        await server.asked.wait()
        assert (await engine.infer(request(clock, seq=2))).text == NO
        gate.set()
        assert (await slow).text == YES


async def test_a_clip_goes_with_its_times_and_the_cameras_name_where_that_is_wanted() -> None:
    older = np.zeros((56, 56, 3), np.uint8)
    clock = Clock()
    clip = ((10.0, older), (12.5, older))
    async with FakeOpenAI(clips=True) as server:
        look = request(clock, image=older, clip=clip, captured_at=15.0)
        url = base_url(server.url, "url")
        async with ChatClient(
            url, clock, ChatOptions(), model=MODEL, clips=True, names_camera=True
        ) as client:
            assert (await client.infer(look, 20.0)).text == NO
            assert client.in_flight == 0
        sent = server.requests[-1]
        video = sent["messages"][-1]["content"][0]
        assert video["type"] == "video_url"
        assert video["video_url"]["timestamps"] == [10.0, 12.5, 15.0]
        assert video["video_url"]["url"].count(",") == 3
        assert sent["user"] == "ridge"
        async with ChatClient(url, clock, ChatOptions(), model=MODEL) as client:
            await client.infer(look, 20.0)
        assert server.requests[-1]["messages"][-1]["content"][0]["type"] == "image_url"


# --- fields it does not know ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logprobs", "stream_options", "response_format", "seed"])
async def test_a_field_that_a_server_names_in_a_400_is_left_out_from_then_on(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeOpenAI(refuses=frozenset({name})) as server, opened(server) as (engine, clock):
        assert [name in r for r in server.requests] == [True, False]
        await engine.infer(request(clock))
        assert [name in r for r in server.requests] == [True, False, False]
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"does not take {name}" in warnings[0].getMessage()


async def test_several_unknown_fields_are_left_out_one_by_one() -> None:
    refuses = frozenset({"logprobs", "stream_options", "response_format", "user", "seed"})
    clock = Clock()
    async with FakeOpenAI(refuses=refuses) as server:
        url = base_url(server.url, "url")
        async with ChatClient(url, clock, ChatOptions(), model=MODEL, names_camera=True) as client:
            looks = [client.infer(request(clock, seq=n), 20.0) for n in range(4)]
            assert {r.text for r in await asyncio.gather(*looks)} == {
                "A valley with hills in the distance."
            }
        assert not refuses & server.requests[-1].keys()


async def test_a_400_that_names_no_field_is_rejected_without_another_try() -> None:
    async with FakeOpenAI() as server, opened(server, retries=5) as (engine, clock):
        server.script.append(Answer(fault=Fault.BAD_REQUEST))
        with pytest.raises(EngineRejected, match=r"maximum model length.*must take pictures"):
            await engine.infer(request(clock))
        # a role is no field
        words = "roles must alternate user/assistant"
        server.script.append(Answer(fault=Fault.BAD_REQUEST, message=words))
        with pytest.raises(EngineRejected):
            await engine.infer(request(clock))
        assert len(server.requests) == 3


async def test_a_refusal_that_goes_on_without_the_field_costs_the_others_nothing() -> None:
    # it only quotes the request: the field was not what it did not like
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        quote = Answer(fault=Fault.BAD_REQUEST, message="bad input {'logprobs': True}")
        server.script.extend([quote] * 3)
        with pytest.raises(EngineRejected, match="logprobs"):
            await engine.infer(request(clock))
        assert len(server.script) == 1
        server.script.clear()
        await engine.infer(request(clock))
        assert ["logprobs" in r for r in server.requests] == [True, True, False, True]


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (Fault.BAD_REQUEST, EngineRejected, "fit its context"),
        (Fault.UNAUTHORIZED, EngineRejected, "OPENAI_API_KEY"),
        (Fault.FORBIDDEN, EngineRejected, "OPENAI_API_KEY"),
        (Fault.NOT_FOUND, EngineRejected, "vllm serve"),
        (Fault.SLOW, EngineTimeout, "408"),
        (Fault.TOO_LARGE, EngineRejected, "jpeg_quality"),
        (Fault.TOO_MANY, EngineOverloaded, "Rate limit"),
        (Fault.DIED, EngineBroken, "EngineCore"),
        (Fault.BAD_GATEWAY, EngineUnavailable, "502"),
        (Fault.UNAVAILABLE, EngineOverloaded, "Loading model"),
        (Fault.GATEWAY_TIMEOUT, EngineTimeout, "504"),
        (Fault.REDIRECT, EngineRejected, "redirects"),
        (Fault.ERROR_EVENT, EngineBroken, "CUDA error"),
        (Fault.BUSY_EVENT, EngineOverloaded, "queue is full"),
        (Fault.NO_FINISH, EngineBroken, "ended in mid-answer"),
        (Fault.REPEAT, EngineBroken, "repeats itself"),
        (Fault.ENDLESS, EngineBroken, "has no end"),
        (Fault.NOT_SSE, EngineBroken, "no chat completions there, but text/html: <html>proxy"),
        (Fault.NOT_JSON, EngineBroken, "no JSON: '{has_smoke}'"),
        (Fault.OVERSIZE, EngineBroken, "without an end"),
        (Fault.HALF_LINE, EngineBroken, "broke off|no JSON"),
        (Fault.RESET, EngineUnavailable, "nobody answers"),
    ],
)
async def test_each_fault_is_an_engine_error_of_its_own_kind(
    fault: Fault, kind: type[EngineError], says: str, dialect: Dialect
) -> None:
    async with (
        FakeOpenAI(dialect=dialect) as server,
        opened(server, retries=0) as (engine, clock),
    ):
        server.script.append(Answer(fault=fault))
        with pytest.raises(kind, match=says):
            await engine.infer(request(clock))
        # and the next look is served as if nothing had been
        assert (await engine.infer(request(clock))).finish == "stop"


async def test_a_server_that_is_gone_is_unavailable_with_the_remedy() -> None:
    async with FakeOpenAI() as server, opened(server, retries=0) as (engine, clock):
        assert server._runner is not None
        await server._runner.cleanup()
        with pytest.raises(EngineUnavailable, match="vllm serve"):
            await engine.infer(request(clock))


@pytest.mark.parametrize("fault", [Fault.NO_DONE, Fault.LINGER, Fault.WHOLE])
async def test_a_whole_answer_is_taken_however_its_stream_ends(fault: Fault) -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.append(Answer(YES, fault=fault))
        reply = await engine.infer(request(clock))
        assert (reply.text, reply.finish, reply.prompt_tokens) == (YES, "stop", 46)


@pytest.mark.parametrize(
    "fault", [Fault.RESET, Fault.TOO_MANY, Fault.UNAVAILABLE, Fault.BUSY_EVENT, Fault.BAD_GATEWAY]
)
async def test_a_request_that_never_began_is_tried_again(fault: Fault) -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.extend([Answer(fault=fault, retry_after="0"), Answer(YES)])
        assert (await engine.infer(request(clock))).text == YES


@pytest.mark.parametrize(
    "fault", [Fault.HALF_LINE, Fault.DIED, Fault.ERROR_EVENT, Fault.NO_FINISH, Fault.BAD_REQUEST]
)
async def test_a_request_that_began_or_was_refused_is_not_tried_again(fault: Fault) -> None:
    async with FakeOpenAI() as server, opened(server, retries=5) as (engine, clock):
        server.script.append(Answer(fault=fault))
        with pytest.raises(EngineError):
            await engine.infer(request(clock))
        assert len(server.requests) == 2


async def test_retry_after_is_waited_for() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.extend([Answer(fault=Fault.TOO_MANY, retry_after="0.4"), Answer(YES)])
        began_ns = clock.wall_ns()
        assert (await engine.infer(request(clock))).text == YES
        assert clock.wall_ns() - began_ns >= 0.4e9


async def test_a_retry_after_beyond_the_deadline_is_told_at_once() -> None:
    async with FakeOpenAI() as server, opened(server, retries=5) as (engine, clock):
        server.script.append(Answer(fault=Fault.UNAVAILABLE, retry_after="3600"))
        with pytest.raises(EngineOverloaded):
            await engine.infer(request(clock))
        assert len(server.requests) == 2


def test_retry_after_is_read_in_both_its_forms() -> None:
    # 2026-01-01T00:00:00Z
    now_ns = 1_767_225_600_000_000_000
    for text, seconds in (
        ("30", 30.0),
        ("0.5", 0.5),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Wed, 31 Dec 2025 23:59:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e400", None),
        ("9" * 400, None),
        ("Thu, 99 Jan 2026 00:01:00 GMT", None),
    ):
        assert retry_after_s({"Retry-After": text}, now_ns) == seconds, text
    assert retry_after_s({}, now_ns) is None


async def test_no_retry_goes_beyond_the_deadline() -> None:
    async with FakeOpenAI() as server, opened(server, retries=100) as (engine, clock):
        sent = len(server.requests)
        server.script.extend([Answer(fault=Fault.UNAVAILABLE)] * 100)
        with pytest.raises(EngineTimeout):
            await engine.infer(request(clock, deadline_s=0.1))
        # the second try was due after 0.25 s
        assert len(server.requests) - sent <= 1


async def test_a_hang_ends_at_the_timeout_and_the_server_is_told() -> None:
    async with FakeOpenAI() as server, opened(server, limit_s=10) as (engine, clock):
        server.script.append(Answer(fault=Fault.HANG))
        with pytest.raises(EngineTimeout, match=r"no answer within 10 s"):
            await overtaken(server.asked, engine.infer(request(clock)), 10)
        await asyncio.wait_for(server.gone.wait(), 10)
        assert server.cancelled == 1


async def test_silence_in_mid_answer_is_a_timeout_long_before_the_deadline() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        # only now: a pause of the machine while it warms up is no silence of the server
        engine._client.options = replace(engine._client.options, silence_s=0.1)
        server.script.append(Answer(YES, fault=Fault.SILENT))
        with pytest.raises(EngineTimeout, match=r"silent for 0\.1 s"):
            await engine.infer(request(clock))
        await asyncio.wait_for(server.gone.wait(), 10)


async def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        with pytest.raises(EngineTimeout, match="had passed"):
            await engine.infer(request(clock, deadline_s=-1))
        assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.SILENT])
async def test_cancelling_a_look_closes_its_connection(fault: Fault) -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.append(Answer(YES, fault=fault))
        server.asked.clear()
        look = asyncio.create_task(engine.infer(request(clock)))
        await server.asked.wait()
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look
        await asyncio.wait_for(server.gone.wait(), 10)


async def test_control_codes_of_a_server_reach_no_terminal() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        words = "\x1b[31mred\x1b[0m\r\nand \ud800 " + "x" * 5000
        server.script.append(Answer(fault=Fault.DIED, message=words))
        with pytest.raises(EngineBroken) as caught:
            await engine.infer(request(clock))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400


# --- the stream ----------------------------------------------------------------------------------


async def said(raw: bytes) -> Any:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        server.script.append(Answer(raw=raw))
        return await engine.infer(request(clock))


async def test_comments_other_line_ends_and_split_data_are_read() -> None:
    halves = orjson.dumps(piece(NO)).split(b",", 1)
    raw = (
        b"\xef\xbb\xbf: ping\r\n\r\nevent: message\r\nid: 7\r\nretry: 10\r\n"
        b"data: " + halves[0] + b",\r\ndata:" + halves[1] + b"\r\n\r\n"
        b":\n\ndata:" + orjson.dumps(piece(None, "stop")) + b"\r\rdata: [DONE]\n\n"
    )
    reply = await said(raw)
    assert (reply.text, reply.finish) == (NO, "stop")


async def test_nulls_reasoning_and_empty_choices_say_nothing() -> None:
    thinking = {"choices": [{"delta": {"reasoning_content": '{"has_smoke": true}'}}]}
    odd = [
        {"choices": [{"delta": {"role": "assistant", "content": None}}]},
        thinking,
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": ""}}]},
        {"choices": [], "usage": None},
        {"choices": None},
        {"choices": [None]},
        {"choices": [{"delta": {"content": ["x"]}, "finish_reason": 3, "logprobs": 7}]},
        {"error": None, "choices": []},
        {},
        piece(NO),
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}},
        piece(None, "stop"),
    ]
    reply = await said(b"".join(event(one) for one in odd))
    assert (reply.text, reply.finish, reply.output_tokens) == (NO, "stop", 9)


async def test_a_last_event_without_an_empty_line_counts_and_half_of_one_does_not() -> None:
    whole = event(piece(NO)) + event(piece(None, "stop"))
    assert (await said(whole.rstrip(b"\n"))).text == NO
    with pytest.raises(EngineBroken, match="no JSON"):
        await said(whole[:-20])


async def test_done_without_a_finish_reason_ends_an_answer() -> None:
    assert (await said(event(piece(NO)) + b"data: [DONE]\n\n")).finish == "stop"


async def test_what_follows_the_end_is_not_read() -> None:
    tail = event({"error": {"message": "too late"}}) + b"data: {garbage\n\n"
    reply = await said(event(piece(NO)) + b"data: [DONE]\n\n" + tail)
    assert (reply.text, reply.finish) == (NO, "stop")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
)
def test_events_are_the_same_however_the_bytes_are_cut(
    texts: list[str], end: str, cuts: list[int]
) -> None:
    wire = "".join(f"data: {text}{end}{end}" for text in texts).encode()
    events, found, at, n = ServerSentEvents(), [], 0, 0
    while at < len(wire):
        step = cuts[n % len(cuts)]
        found += events.feed(wire[at : at + step])
        at, n = at + step, n + 1
    found += events.end()
    assert found == [text.encode() for text in texts]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_bytes_break_the_reading_of_events(wire: bytes, step: int) -> None:
    events = ServerSentEvents()
    for at in range(0, len(wire), step):
        events.feed(wire[at : at + step])
    events.end()
    assert events.end() == []


# --- its metrics ---------------------------------------------------------------------------------


async def test_the_servers_metrics_are_told_by_series() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, _):
        assert isinstance(engine, Gauged)
        name = f'{{engine="0",model_name="{MODEL}"}}'
        assert await engine.gauges() == {
            f"vllm:num_requests_running{name}": 3.0,
            f"vllm:kv_cache_usage_perc{name}": 0.25,
            'vllm:time_to_first_token_seconds_bucket{le="0.1"}': 2.0,
            'vllm:time_to_first_token_seconds_bucket{le="+Inf"}': 5.0,
            "vllm:time_to_first_token_seconds_count": 5.0,
            "vllm:time_to_first_token_seconds_sum": 0.9,
        }


@pytest.mark.parametrize(
    "metrics",
    [None, "{", "a{b=", 'a{b="c} 1', "<html>\n", "a b c d e\n", "a{} x\n", "x" * 5_000_000],
)
async def test_metrics_that_cannot_be_had_are_none_and_are_logged_once(
    metrics: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeOpenAI(metrics=metrics) as server, opened(server) as (engine, _):
        assert [await engine.gauges() for _ in range(3)] == [{}, {}, {}]
    assert len([r for r in caplog.records if "no metrics" in r.getMessage()]) == 1


async def test_a_run_stores_answers_and_the_servers_metrics_beside_each_other(
    tmp_path: Path,
) -> None:
    pictures(tmp_path / "pictures", 6, (640, 480))
    async with FakeOpenAI() as server:
        # after the warm-up: three clear frames, three with smoke
        server.script.extend([Answer(NO)] * 4 + [Answer(YES, true_probability=0.8)] * 3)
        scenario = loaded(
            tmp_path,
            camera("north", fires=[{"id": "f", "onset": "290ms"}]),
            engine={"name": "openai", "url": server.url, "concurrency": 1, "scrape": "100ms"},
        )
        options = run.Options(broker="memory", out=tmp_path / "runs")
        outcome = await within(run.play(scenario, options, [], asyncio.Event()))
    log, ledger = proof(outcome.folder)
    assert ledger.fates == {"answered": 6}
    answers = {frame.seq: frame.answer for frame in log.frames}
    verdicts = [answers[n].verdict for n in range(6)]  # type: ignore[union-attr]
    assert [v.has_smoke for v in verdicts if v] == [False] * 3 + [True] * 3
    assert verdicts[5].confidence == pytest.approx(0.8)  # type: ignore[union-attr]
    assert answers[5].visual_tokens == 23 * 17  # type: ignore[union-attr]
    told = [line["v"] for line in records(outcome.folder, GAUGES_LOG) if line["k"] == "note"]
    assert told
    name = f'vllm:num_requests_running{{engine="0",model_name="{MODEL}"}}'
    assert {note["values"][name] for note in told} == {3.0}


# --- doctor --------------------------------------------------------------------------------------


async def checked(server: FakeOpenAI, **more: Any) -> list[Any]:
    return await create(models.Engine(name="openai", url=server.url, **more), Clock()).check()


async def test_check_reports_server_model_picture_schema_and_probabilities() -> None:
    async with FakeOpenAI() as server:
        server.script.append(Answer(true_probability=0.2))
        found = await checked(server)
    assert [(c.what, c.ok, c.remedy) for c in found] == [
        ("OpenAI-compatible server", True, ""),
        (f"model {MODEL}", True, ""),
        ("vision", True, ""),
        ("structured output", True, ""),
        ("probabilities", True, ""),
    ]


async def test_check_names_the_remedy_for_each_thing_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeOpenAI(schemas=False) as server:
        *_, vision, schema, odds = await checked(server)
        assert vision.ok
        assert not schema.ok
        assert "A valley" in schema.found
        assert "decode: free" in schema.remedy
        assert not odds.ok
        assert "vLLM" in odds.remedy
        *_, model, vision = await checked(server, model="llava")
        assert (model.ok, vision.ok) == (False, False)
        assert "vllm serve" in model.remedy
        server.script.append(Answer(fault=Fault.BAD_REQUEST))
        assert "takes pictures" in (await checked(server))[-1].remedy
    async with FakeOpenAI(models=("a", "b")) as server:
        assert "--model" in (await checked(server))[-1].remedy
    async with FakeOpenAI(key=KEY) as server:
        (locked,) = await checked(server)
        assert "set OPENAI_API_KEY" in locked.found
        url = server.url
    (down,) = await create(models.Engine(name="openai", url=url), Clock()).check()
    assert not down.ok
    assert "vllm serve" in down.remedy
    assert "OPENAI_BASE_URL" in down.remedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"api_key": "x"}, "unknown"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**60}, "max_tokens"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_p": 0}, "top_p"),
        ({"coord_space": "pixels"}, "coord_space"),
        ({"silence_s": 0}, "silence_s"),
        ({"silence_s": 10**400}, "silence_s"),
        ({"jpeg_quality": 500}, "jpeg_quality"),
        ({"temperature": float("nan")}, "temperature"),
        ({"min_visual_tokens": 0}, "visual"),
        ({"min_visual_tokens": 10, "max_visual_tokens": 9}, "visual"),
        ({"max_visual_tokens": 10**6}, "visual"),
    ],
)
async def test_an_impossible_option_is_refused_before_anything_is_sent(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        create(models.Engine(name="openai", options=options), Clock())


# --- the fake itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", list(Dialect))
async def test_the_official_client_works_against_the_fake(dialect: Dialect) -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    uri = f"data:image/jpeg;base64,{base64.b64encode(jpeg()).decode()}"
    message: Any = {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": "Smoke?"},
        ],
    }
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "verdict", "schema": PROMPT.schema, "strict": True},
    }
    async with (
        FakeOpenAI(dialect=dialect, key=KEY) as server,
        openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0) as client,
    ):
        ask: Any = client.chat.completions.create
        whole = await ask(model=MODEL, messages=[message], response_format=form)
        assert json.loads(whole.choices[0].message.content) == {"has_smoke": False, "bbox_2d": None}
        server.script.append(Answer(YES, true_probability=0.8))
        stream = await ask(
            model=MODEL, messages=[message], stream=True, logprobs=True, top_logprobs=5,
            stream_options={"include_usage": True},
        )  # fmt: skip
        text, odds, usage, finish = "", [], None, None
        async for part in stream:
            for choice in part.choices:
                text += choice.delta.content or ""
                odds += (choice.logprobs.content or []) if choice.logprobs else []
                finish = choice.finish_reason or finish
            usage = part.usage or usage
        assert (text, finish) == (YES, "stop")
        assert usage is not None
        assert usage.completion_tokens == len(odds) == 31
        (decider,) = [o for o in odds if o.token.strip() == "true"]
        assert math.exp(decider.top_logprobs[0].logprob) == pytest.approx(0.9 * 0.8 * 0.75)
        assert [m.id async for m in client.models.list()] == [MODEL]
        for fault, kind in (
            (Fault.BAD_REQUEST, openai.BadRequestError),
            (Fault.UNAUTHORIZED, openai.AuthenticationError),
            (Fault.FORBIDDEN, openai.PermissionDeniedError),
            (Fault.NOT_FOUND, openai.NotFoundError),
            (Fault.TOO_MANY, openai.RateLimitError),
            (Fault.DIED, openai.InternalServerError),
            (Fault.RESET, openai.APIConnectionError),
        ):
            server.script.append(Answer(fault=fault))
            with pytest.raises(kind):
                await ask(model=MODEL, messages=[message])
        server.script.append(Answer(YES, fault=Fault.ERROR_EVENT))
        with pytest.raises(openai.APIError, match="CUDA error"):
            async for _ in await ask(model=MODEL, messages=[message], stream=True):
                pass


async def test_the_fake_refuses_what_a_strict_server_would() -> None:
    async with FakeOpenAI() as server, opened(server) as (engine, clock):
        good = json.loads(engine._client._body(request(clock), [base64.b64encode(jpeg())], {}))

        async def refused(**changes: Any) -> str:
            url = URL(server.url) / "chat/completions"
            async with engine._client._open.post(url, json=good | changes) as response:
                return "" if response.status == 200 else (await response.json())["error"]["message"]

        def picture(url: str) -> list[Any]:
            part = {"type": "image_url", "image_url": {"url": url}}
            return [{"role": "user", "content": [part]}]

        assert await refused() == ""
        assert "max_tokens" in await refused(max_tokens="96")
        assert "temprature" in await refused(temprature=0)
        assert "top_logprobs" in await refused(top_logprobs=5)
        assert "stream_options" in await refused(stream=False, stream_options={})
        assert "response_format" in await refused(response_format={"type": "xml"})
        assert "base64" in await refused(messages=picture("data:image/jpeg;base64,!!!"))
        assert "identify" in await refused(messages=picture("data:image/jpeg;base64,AAAA"))
        assert "data URIs" in await refused(messages=picture("http://box/a.jpg"))


def test_a_secret_shows_nothing_of_itself() -> None:
    secret = Secret("OPENAI_API_KEY", KEY)
    assert KEY not in repr(secret)
    assert secret.hide(f"a {KEY} b") == "a *** b"
