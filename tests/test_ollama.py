"""The Ollama engine against a server that behaves as Ollama does, in wall time on loopback."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import ollama
import orjson
import pytest

from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import prompt, read_reply
from earlyfire_stream.engines import create
from earlyfire_stream.engines.base import Gauged, Request
from earlyfire_stream.engines.ollama import OllamaEngine, server_url
from earlyfire_stream.engines.streaming import coord_space
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
from earlyfire_stream.verdict import CoordSpace, ResizeMode
from tests.fakes.ollama import MODEL, Answer, FakeOllama, Fault
from tests.playing import overtaken

PROMPT = prompt("v1", CoordSpace.RESIZED_ABS)
YES = '{"has_smoke": true, "bbox_2d": [322, 182, 644, 364]}'
NO = '{"has_smoke": false, "bbox_2d": null}'


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
    server: FakeOllama, limit_s: float = 20.0, **options: Any
) -> AsyncIterator[tuple[OllamaEngine, Clock]]:
    clock = Clock()
    settings = models.Engine(name="ollama", url=server.url, timeout=limit_s, options=options)
    engine = create(settings, clock, seed=7)
    assert isinstance(engine, OllamaEngine)
    async with engine:
        yield engine, clock


def jpeg() -> bytes:
    return cv2.imencode(".jpg", np.zeros((56, 56, 3), np.uint8))[1].tobytes()


# --- where it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("  'box' ", "http://box:11434"),
        ("box:5000", "http://box:5000"),
        (":5000", "http://127.0.0.1:5000"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("[::]:5000", "http://[::1]:5000"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:8443/ollama/", "https://box:8443/ollama"),
        ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("box/ollama", "http://box:11434/ollama"),
        ("https://me:word@box", "https://me:word@box:443"),
    ],
)
def test_every_form_of_ollama_host_is_understood(given: str | None, url: str) -> None:
    found = server_url(given)
    assert (found.scheme, found.host, found.port) == (
        server_url(url).scheme, server_url(url).host, int(url.split("/")[2].rsplit(":", 1)[1])
    )  # fmt: skip
    assert (found / "api/chat").path == server_url(url).path.rstrip("/") + "/api/chat"


@pytest.mark.parametrize("given", ["ftp://box", "box:port", "box:99999", "a b", "[::1", "box:0"])
def test_an_address_that_cannot_be_read_is_a_usage_error(given: str) -> None:
    with pytest.raises(UsageError, match="Ollama's address"):
        server_url(given)


def test_a_password_is_never_shown() -> None:
    with pytest.raises(UsageError) as caught:
        server_url("ftp://me:secret@box")
    assert "secret" not in str(caught.value)


def test_ollama_host_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def address() -> str:
        engine = create(models.Engine(name="ollama"), Clock())
        assert isinstance(engine, OllamaEngine)
        return engine.address

    monkeypatch.setenv("OLLAMA_HOST", "box:5000")
    assert asyncio.run(address()) == "http://box:5000"


@pytest.mark.parametrize(
    ("model", "family", "space"),
    [
        ("qwen2.5vl:7b", "", CoordSpace.RESIZED_ABS),
        ("hf.co/Qwen/Qwen2.5-VL-3B", "", CoordSpace.RESIZED_ABS),
        ("qwen3-vl:8b", "", CoordSpace.REL1000),
        ("qwen2-vl:2b", "", CoordSpace.REL1000),
        ("smoke:latest", "qwen25vl", CoordSpace.RESIZED_ABS),
        ("smoke:latest", "qwen3vlmoe", CoordSpace.REL1000),
        ("gemma3:4b", "gemma3", None),
    ],
)
def test_how_a_model_writes_boxes_follows_from_its_name_or_family(
    model: str, family: str, space: CoordSpace | None
) -> None:
    assert coord_space(model, family) is space


# --- opening -------------------------------------------------------------------------------------


async def test_entering_loads_the_model_with_the_very_options_of_every_look() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        assert engine.traits.cold_start_s is not None
        assert engine.version == "0.33.0"
        await engine.infer(request(clock))
        warm_up, look = server.requests
        assert warm_up["options"] == look["options"]
        assert look["options"] == {
            "temperature": 0.0, "top_k": 1, "top_p": 1.0, "num_predict": 96, "num_ctx": 4096,
            "repeat_penalty": 1.0, "seed": 7,
        }  # fmt: skip
        assert look["keep_alive"] == "30m"


@pytest.mark.parametrize(
    ("version", "least"), [("0.13.4", 4), ("0.29.9", 4), ("0.30.0", 1024), ("0.33.0-rc2", 1024)]
)
async def test_the_token_range_follows_the_version(version: str, least: int) -> None:
    async with FakeOllama(version=version) as server, opened(server) as (engine, _):
        assert engine.traits.min_tokens == least
        assert engine.traits.resize_mode is ResizeMode.STRETCH
        assert engine.traits.seeks_knee


async def test_a_missing_model_is_refused_with_the_command_that_pulls_it() -> None:
    async with FakeOllama(model="llava:7b") as server:
        with pytest.raises(EngineRejected, match=r"ollama pull qwen2\.5vl:7b"):
            async with opened(server):
                pass


async def test_a_model_that_cannot_see_is_refused() -> None:
    async with FakeOllama(capabilities=("completion",)) as server:
        with pytest.raises(EngineRejected, match="cannot see"):
            async with opened(server):
                pass


async def test_a_thinking_model_is_told_not_to() -> None:
    able = ("completion", "vision", "thinking")
    async with FakeOllama(capabilities=able) as server, opened(server):
        assert server.requests[0]["think"] is False
    async with FakeOllama() as server, opened(server):
        assert "think" not in server.requests[0]


async def test_nobody_there_is_unavailable_and_says_what_to_start() -> None:
    async with FakeOllama() as server:
        url = server.url
    engine = create(models.Engine(name="ollama", url=url), Clock())
    with pytest.raises(EngineUnavailable, match="ollama serve"):
        await engine.__aenter__()


async def test_a_model_that_is_never_loaded_ends_in_a_timeout() -> None:
    async with FakeOllama() as server:
        server.script.append(Answer(fault=Fault.HANG))
        with pytest.raises(EngineTimeout, match="not loaded"):
            async with opened(server, load_s=0.1):
                pass


async def test_a_server_that_fails_while_loading_is_reported() -> None:
    async with FakeOllama() as server:
        server.script.append(Answer(fault=Fault.DIED))
        with pytest.raises(EngineBroken, match="runner process has terminated"):
            async with opened(server):
                pass


# --- one look ------------------------------------------------------------------------------------


async def test_a_look_sends_instructions_then_the_picture_then_its_size() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        await engine.infer(request(clock))
        sent = server.requests[-1]
        system, user = sent["messages"]
        assert system == {"role": "system", "content": PROMPT.system}
        assert "1288 pixels wide and 728 pixels high" in user["content"]
        picture = cv2.imdecode(
            np.frombuffer(base64.b64decode(user["images"][0]), np.uint8), cv2.IMREAD_COLOR
        )
        assert picture is not None
        assert picture.shape == (728, 1288, 3)
        assert sent["format"] == PROMPT.schema
        assert list(sent["format"]["properties"]) == ["has_smoke", "bbox_2d"]
        assert sent["stream"] is True


async def test_a_reply_brings_text_counts_and_seconds() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        server.script.append(Answer(YES))
        reply = await engine.infer(request(clock))
        assert reply.text == YES
        assert reply.finish == "stop"
        assert reply.prompt_tokens == 1300
        assert reply.visual_tokens == 1196
        assert reply.output_tokens is not None
        assert reply.server == {
            "load_s": 0.01, "prompt_s": 0.15, "generate_s": 0.1, "total_s": 0.26
        }  # fmt: skip
        assert reply.decided_ns <= reply.answered_ns
        parsed = read_reply(
            reply.text, reply.finish, PROMPT.space, ResizeMode.STRETCH, (1280, 720), (1288, 728)
        )
        assert parsed.verdict is not None
        assert parsed.verdict.box is not None
        assert parsed.verdict.box.corners == pytest.approx((0.25, 0.25, 0.5, 0.5))


@pytest.mark.parametrize("huge", [2**53 + 1, 2**64 - 1, 10**30, -1, True, "12", None, [1]])
async def test_a_number_that_no_record_holds_is_left_out(huge: Any) -> None:
    names = ("prompt_eval_count", "eval_count", "prompt_eval_duration", "total_duration")
    async with FakeOllama() as server, opened(server) as (engine, clock):
        server.script.append(Answer(NO, final=dict.fromkeys(names, huge)))
        reply = await engine.infer(request(clock))
        assert (reply.text, reply.prompt_tokens, reply.output_tokens) == (NO, None, None)
        assert reply.server == {"load_s": 0.01, "generate_s": 0.1}
        orjson.dumps(reply, option=orjson.OPT_SERIALIZE_DATACLASS)


async def test_a_finish_of_a_megabyte_is_shortened() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        server.script.append(Answer(NO, done_reason="\x1b[31m" + "x" * 900_000))
        assert (await engine.infer(request(clock))).finish == "[31m" + "x" * 36


async def test_looks_one_after_another_share_a_connection() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        for _ in range(5):
            await engine.infer(request(clock))
        assert len(server.connections) == 1


async def test_the_decision_is_dated_at_its_token_and_not_at_the_end() -> None:
    # tokens 1 to 3 are `{`, `"`, `has_smoke`; 4 to 6 settle it
    gate = asyncio.Event()
    async with FakeOllama() as server, opened(server) as (engine, clock):
        server.script.append(Answer(YES, gate=gate))
        look = asyncio.create_task(engine.infer(request(clock)))
        server.asked.clear()
        await server.asked.wait()
        opened_ns = clock.wall_ns()
        gate.set()
        reply = await look
        assert opened_ns <= reply.decided_ns <= reply.answered_ns


async def test_reading_stops_after_a_settled_false_where_that_is_asked_for() -> None:
    async with FakeOllama() as server, opened(server, cut_after_false=True) as (engine, clock):
        server.script.append(Answer(NO))
        reply = await engine.infer(request(clock))
        assert reply.finish == "cut"
        assert reply.text.endswith("false")
        server.script.append(Answer(YES))
        assert (await engine.infer(request(clock))).finish == "stop"


async def test_the_probability_of_smoke_comes_from_the_deciding_token() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        server.script.append(Answer(YES, true_probability=0.8))
        assert (await engine.infer(request(clock))).confidence == pytest.approx(0.8)
        server.script.append(Answer(NO, true_probability=0.1))
        assert (await engine.infer(request(clock))).confidence == pytest.approx(0.1)
        server.script.append(Answer(YES))
        assert (await engine.infer(request(clock))).confidence is None
    async with FakeOllama() as server, opened(server, logprobs=False) as (engine, clock):
        server.script.append(Answer(YES, true_probability=0.8))
        assert (await engine.infer(request(clock))).confidence is None


async def test_a_reply_cut_by_the_token_limit_says_so() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        server.script.append(Answer('{"has_smoke": true, "bbox_2d": [1', done_reason="length"))
        assert (await engine.infer(request(clock))).finish == "length"


async def test_a_frame_without_decoded_pixels_is_sent_as_it_came() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        await engine.infer(request(clock, image=None, jpeg=jpeg()))
        images = server.requests[-1]["messages"][-1]["images"]
        assert base64.b64decode(images[0]) == jpeg()


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (Fault.BUSY, EngineOverloaded, "maximum pending requests"),
        (Fault.NOT_FOUND, EngineRejected, "ollama pull"),
        (Fault.MODEL_REQUIRED, EngineRejected, "ollama pull"),
        (Fault.CANCELLED, EngineUnavailable, "499"),
        (Fault.DIED, EngineBroken, "terminated"),
        (Fault.ERROR_LINE, EngineBroken, "error was encountered"),
        (Fault.NO_FINAL, EngineBroken, "without a final line"),
        (Fault.REPEAT, EngineBroken, "repeats itself"),
        (Fault.REPEAT_ON, EngineBroken, "repeats itself"),
        (Fault.NOT_NDJSON, EngineBroken, "no JSON"),
        (Fault.HALF_LINE, EngineBroken, "broke off|no JSON"),
        (Fault.RESET, EngineUnavailable, "nobody answers"),
    ],
)
async def test_each_fault_is_an_engine_error_of_its_own_kind(
    fault: Fault, kind: type[EngineError], says: str
) -> None:
    async with FakeOllama() as server, opened(server, retries=0) as (engine, clock):
        server.script.append(Answer(fault=fault))
        with pytest.raises(kind, match=says):
            await engine.infer(request(clock))
        # and the next look is served as if nothing had been
        assert (await engine.infer(request(clock))).finish == "stop"


async def test_a_request_that_never_began_is_tried_again() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        server.script.append(Answer(fault=Fault.RESET))
        server.script.append(Answer(YES))
        assert (await engine.infer(request(clock))).text == YES


async def test_no_retry_goes_beyond_the_deadline() -> None:
    async with FakeOllama() as server, opened(server, retries=100) as (engine, clock):
        sent = len(server.requests)
        server.script.extend([Answer(fault=Fault.BUSY)] * 100)
        with pytest.raises(EngineTimeout):
            await engine.infer(request(clock, deadline_s=0.1))
        # the second try was due after 0.25 s
        assert len(server.requests) - sent <= 1


async def test_a_rejected_request_is_not_tried_again() -> None:
    async with FakeOllama() as server, opened(server, retries=5) as (engine, clock):
        server.script.append(Answer(fault=Fault.NOT_FOUND))
        with pytest.raises(EngineRejected):
            await engine.infer(request(clock))
        assert len(server.requests) == 2


async def test_a_hang_ends_at_the_timeout_and_the_server_is_told() -> None:
    async with FakeOllama() as server, opened(server, limit_s=10) as (engine, clock):
        server.script.append(Answer(fault=Fault.HANG))
        with pytest.raises(EngineTimeout, match=r"no answer within 10 s"):
            await overtaken(server.asked, engine.infer(request(clock)), 10)
        await asyncio.wait_for(server.gone.wait(), 10)
        assert server.cancelled == 1


async def test_silence_in_mid_answer_is_a_timeout_long_before_the_deadline() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        # only now: a pause of the machine while it warms up is no silence of the server
        engine.options = replace(engine.options, silence_s=0.1)
        server.script.append(Answer(YES, fault=Fault.SILENT))
        with pytest.raises(EngineTimeout, match=r"silent for 0\.1 s"):
            await engine.infer(request(clock))
        await asyncio.wait_for(server.gone.wait(), 10)


async def test_a_deadline_that_has_passed_sends_nothing() -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        sent = len(server.requests)
        with pytest.raises(EngineTimeout, match="had passed"):
            await engine.infer(request(clock, deadline_s=-1))
        assert len(server.requests) == sent


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.SILENT])
async def test_cancelling_a_look_closes_its_connection(fault: Fault) -> None:
    async with FakeOllama() as server, opened(server) as (engine, clock):
        server.script.append(Answer(YES, fault=fault))
        server.asked.clear()
        look = asyncio.create_task(engine.infer(request(clock)))
        await server.asked.wait()
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look
        await asyncio.wait_for(server.gone.wait(), 10)


async def test_looks_run_side_by_side() -> None:
    gate = asyncio.Event()
    async with FakeOllama() as server, opened(server) as (engine, clock):
        server.script.extend([Answer(YES, gate=gate), Answer(NO)])
        slow = asyncio.create_task(engine.infer(request(clock)))
        server.asked.clear()
        await server.asked.wait()
        assert (await engine.infer(request(clock, seq=2))).text == NO
        gate.set()
        assert (await slow).text == YES


# --- what it has loaded --------------------------------------------------------------------------


async def test_what_it_has_loaded_is_told_by_series() -> None:
    async with FakeOllama() as server, opened(server) as (engine, _):
        assert isinstance(engine, Gauged)
        assert await engine.gauges() == {
            "ollama_models_loaded": 1.0,
            'ollama_model_size_bytes{model="qwen2.5vl:7b"}': 5_969_245_856.0,
            'ollama_model_vram_bytes{model="qwen2.5vl:7b"}': 5_000_000_000.0,
            'ollama_model_context_tokens{model="qwen2.5vl:7b"}': 4096.0,
        }


@pytest.mark.parametrize(
    ("says", "count"),
    [
        ({"models": []}, 0.0),
        ({"models": None}, 0.0),
        ({}, 0.0),
        ({"models": [3, None]}, 0.0),
        ({"models": [{"name": ["x"], "size": 10**30, "size_vram": -1}]}, 1.0),
    ],
)
async def test_odd_words_about_what_is_loaded_are_left_out(
    says: dict[str, Any], count: float
) -> None:
    async with FakeOllama(ps=says) as server, opened(server) as (engine, _):
        assert await engine.gauges() == {"ollama_models_loaded": count}


async def test_a_server_that_cannot_be_asked_gives_no_gauges_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeOllama() as server, opened(server) as (engine, _):
        await server.stop()
        assert [await engine.gauges() for _ in range(3)] == [{}, {}, {}]
    assert len([r for r in caplog.records if "has loaded" in r.getMessage()]) == 1


# --- doctor --------------------------------------------------------------------------------------


async def test_check_reports_server_model_and_vision() -> None:
    async with FakeOllama() as server:
        engine = create(models.Engine(name="ollama", url=server.url), Clock())
        found = await engine.check()
        assert [c.ok for c in found] == [True] * 4
        assert "0.33.0" in found[0].found
        assert "1024" in found[1].found


async def test_check_names_the_remedy_for_each_thing_that_is_missing() -> None:
    async with FakeOllama(version="0.6.8", model="llava:7b") as server:
        old, _, missing = await create(
            models.Engine(name="ollama", url=server.url), Clock()
        ).check()
        assert "0.7.0" in old.remedy
        assert missing.remedy == "ollama pull qwen2.5vl:7b"
    async with FakeOllama(capabilities=("completion",)) as server:
        *_, vision = await create(models.Engine(name="ollama", url=server.url), Clock()).check()
        assert not vision.ok
        assert "ollama pull" in vision.remedy
        url = server.url
    (down,) = await create(models.Engine(name="ollama", url=url), Clock()).check()
    assert not down.ok
    assert "ollama serve" in down.remedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"top_k": True}, "top_k"),
        ({"logprobs": 1}, "logprobs"),
        ({"num_ctx": 512}, "num_ctx"),
        ({"top_p": 0}, "top_p"),
        ({"coord_space": "pixels"}, "coord_space"),
        ({"silence_s": 0}, "silence_s"),
        ({"jpeg_quality": 500}, "jpeg_quality"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
async def test_an_impossible_option_is_refused_before_anything_is_sent(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        create(models.Engine(name="ollama", options=options), Clock())


# --- the fake itself -----------------------------------------------------------------------------


async def test_the_official_client_works_against_the_fake() -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    message = {"role": "user", "content": "Smoke?", "images": [jpeg()]}
    async with FakeOllama() as server:
        client = ollama.AsyncClient(host=server.url)
        server.script.append(Answer(YES))
        whole = await client.chat(model=MODEL, messages=[message], format=dict(PROMPT.schema or {}))
        assert whole.message.content == YES
        assert whole.eval_duration == 100_000_000
        server.script.append(Answer(YES))
        text, last = "", None
        async for part in await client.chat(model=MODEL, messages=[message], stream=True):
            text += part.message.content or ""
            last = part
        assert text == YES
        assert last is not None
        assert last.done_reason == "stop"
        assert [m.model for m in (await client.list()).models] == [MODEL]
        assert (await client.ps()).models[0].context_length == 4096
        assert "vision" in ((await client.show(MODEL)).capabilities or [])
        assert (await client.generate(model=MODEL, prompt="")).done_reason == "load"
        with pytest.raises(ollama.ResponseError, match="not found"):
            await client.chat(model="llava", messages=[message])
        server.script.append(Answer(fault=Fault.ERROR_LINE, text=YES))
        with pytest.raises(ollama.ResponseError, match="error was encountered"):
            async for _ in await client.chat(model=MODEL, messages=[message], stream=True):
                pass
        await client._client.aclose()


async def test_the_official_blocking_client_works_against_the_fake() -> None:
    message = {"role": "user", "content": "Smoke?", "images": [jpeg()]}
    async with FakeOllama() as server:

        def talk() -> str | None:
            client = ollama.Client(host=server.url)
            try:
                return client.chat(
                    model=MODEL, messages=[message], format=dict(PROMPT.schema or {})
                ).message.content
            finally:
                client._client.close()

        assert await asyncio.to_thread(talk) == NO


async def test_the_fake_refuses_pictures_that_are_none() -> None:
    async with FakeOllama() as server:
        client = ollama.AsyncClient(host=server.url)
        for images, says in (([], "wants a picture"), (["!!!"], "base64"), (["AAAA"], "format")):
            with pytest.raises(ollama.ResponseError, match=says):
                await client._request_raw(
                    "POST",
                    "/api/chat",
                    json={"model": MODEL, "messages": [{"role": "user", "images": images}]},
                )
        await client._client.aclose()
