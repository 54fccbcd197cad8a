"""An earlier run's answers, given again: the same words for the same pictures, never others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from earlyfire_stream import consumer, run
from earlyfire_stream.clock import Clock, virtual_run
from earlyfire_stream.engines import create, recorded
from earlyfire_stream.engines.base import Engine, Request
from earlyfire_stream.errors import (
    EngineOverloaded,
    EngineRejected,
    EngineTimeout,
    RunFolderError,
    UsageError,
)
from earlyfire_stream.records import RECORDS_LOG, RUN_FILE, FrameRecord, RunLog, load
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import Fate, Reason
from tests.fakes.ollama import Answer, FakeOllama, Fault
from tests.playing import camera, loaded, pictures, proof

SMOKE = '{"has_smoke": true, "bbox_2d": [100, 100, 300, 200]}'
CLEAR = '{"has_smoke": false, "bbox_2d": null}'
FIRE = {"id": "f", "onset": "390ms"}


# --- recordings that tests write down ------------------------------------------------------------


def answered(picture: str, **changes: Any) -> dict[str, Any]:
    """One frame's line; the answer took 250 ms, the last 50 of them after has_smoke."""
    answer = {
        "started_ns": 1_000_000_000, "decided_ns": 1_200_000_000, "answered_ns": 1_250_000_000,
        "sent_size": [644, 364], "visual_tokens": 299, "prompt_tokens": 400, "output_tokens": 12,
        "finish": "stop", "text": CLEAR, "box_error": "", "server": {"prompt_s": 0.1},
        "verdict": {"has_smoke": False, "box": None, "confidence": 0.25, "repairs": []},
    }  # fmt: skip
    frame = {
        "camera": "ridge", "seq": 0, "captured_at": 0.0, "captured_ns": 0, "fate": "answered",
        "reason": "", "detail": "", "received_ns": 1, "published_ns": 1, "admitted": True,
        "identity": picture,
    }  # fmt: skip
    inside = {key: changes.pop(key) for key in tuple(changes) if key in answer}
    return {"k": "frame", "v": {**frame, **changes, "answer": answer | inside}}


def failed(picture: str, reason: str, detail: str, **changes: Any) -> dict[str, Any]:
    more = {"fate": "engine_error", "reason": reason, "detail": detail, "verdict": None}
    return answered(picture, **more, text="", **changes)


def recording(folder: Path, *lines: dict[str, Any], **engine: Any) -> Path:
    """A run folder of an Ollama that writes boxes in pixels."""
    folder.mkdir(exist_ok=True)
    told = {
        "name": "ollama", "model": "qwen2.5vl:7b", "coord_space": "resized_abs",
        "resize_mode": "stretch", "min_tokens": 1024, "max_tokens": 16384, "concurrency": 1,
        "max_concurrency": 64, "clips": False,
    }  # fmt: skip
    whole = {
        "schema": 1, "digest": "d", "cameras": [], "complete": True, "speed": 1.0,
        "settings": {"alarm": {}}, "engine": told | engine,
    }  # fmt: skip
    (folder / RUN_FILE).write_bytes(orjson.dumps(whole))
    (folder / RECORDS_LOG).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return folder


def settings(folder: Path, **changes: Any) -> models.Engine:
    return models.Engine.model_validate(
        {"name": "recorded", "recording": str(folder), **changes},
    )


def request(clock: Clock, picture: str, deadline_s: float = 20.0, **changes: Any) -> Request:
    given: dict[str, Any] = {
        "camera": "ridge", "seq": 0, "captured_at": 0.0, "image": None, "jpeg": b"",
        "visual_tokens": 299, "system": "", "user": "", "schema": {}, "identity": picture,
        "deadline_ns": clock.wall_ns() + round(deadline_s * 1e9),
    }  # fmt: skip
    return Request(**given | changes)


def asked(folder: Path, ask: Callable[[Engine, Clock], Awaitable[Any]], **changes: Any) -> Any:
    """What came of asking the engine in virtual time."""

    async def go() -> Any:
        clock = Clock()
        async with create(settings(folder, **changes), clock) as engine:
            return await ask(engine, clock)

    return virtual_run(go())


# --- one answer ----------------------------------------------------------------------------------


def test_an_answer_comes_back_word_for_word_and_takes_as_long_as_it_took(tmp_path: Path) -> None:
    folder = recording(tmp_path, answered("aa"))

    async def ask(engine: Engine, clock: Clock) -> None:
        began_ns = clock.wall_ns()
        reply = await engine.infer(request(clock, "aa"))
        assert (reply.text, reply.finish, reply.confidence) == (CLEAR, "stop", 0.25)
        assert (reply.prompt_tokens, reply.output_tokens) == (400, 12)
        assert reply.server == {"prompt_s": 0.1}
        assert reply.verdict is None
        # to the microsecond: the virtual clock counts in floating seconds
        assert (reply.decided_ns - began_ns) / 1e9 == pytest.approx(0.2, abs=1e-6)
        assert (reply.answered_ns - began_ns) / 1e9 == pytest.approx(0.25, abs=1e-6)

    asked(folder, ask)


def test_the_instant_pace_takes_no_time(tmp_path: Path) -> None:
    folder = recording(tmp_path, answered("aa"))

    async def ask(engine: Engine, clock: Clock) -> None:
        began_ns = clock.wall_ns()
        reply = await engine.infer(request(clock, "aa"))
        assert reply.decided_ns == reply.answered_ns == began_ns

    asked(folder, ask, options={"pace": "instant"})


def test_the_traits_are_those_of_the_recorded_engine(tmp_path: Path) -> None:
    folder = recording(tmp_path, answered("aa"), clips=True, concurrency=3)

    async def ask(engine: Engine, clock: Clock) -> None:
        traits = engine.traits
        assert (traits.name, traits.model) == ("recorded", "ollama/qwen2.5vl:7b")
        assert (traits.coord_space, traits.resize_mode) == ("resized_abs", "stretch")
        assert (traits.min_tokens, traits.max_tokens) == (1024, 16384)
        assert (traits.default_concurrency, traits.max_concurrency) == (3, 64)
        assert traits.clips
        assert traits.virtual_ok
        assert traits.needs_identity
        assert not traits.needs_pixels

    asked(folder, ask)


def test_a_picture_without_an_answer_is_rejected_and_nothing_is_made_up(tmp_path: Path) -> None:
    folder = recording(tmp_path, answered("aa"))

    async def ask(engine: Engine, clock: Clock) -> None:
        with pytest.raises(EngineRejected, match="no answer to this picture"):
            await engine.infer(request(clock, "bb"))

    asked(folder, ask)


def test_a_recorded_failure_fails_again_in_the_same_way_and_time(tmp_path: Path) -> None:
    folder = recording(
        tmp_path,
        failed("aa", "overloaded", "HTTP 503: server busy"),
        failed("bb", "timeout", "no answer within 5 s", answered_ns=6_000_000_000),
    )

    async def ask(engine: Engine, clock: Clock) -> None:
        began_ns = clock.wall_ns()
        with pytest.raises(EngineOverloaded, match="HTTP 503: server busy"):
            await engine.infer(request(clock, "aa"))
        assert (clock.wall_ns() - began_ns) / 1e9 == pytest.approx(0.25, abs=1e-6)
        with pytest.raises(EngineTimeout, match="within 5 s"):
            await engine.infer(request(clock, "bb"))
        assert (clock.wall_ns() - began_ns) / 1e9 == pytest.approx(5.25, abs=1e-6)

    asked(folder, ask)


def test_an_answer_that_took_longer_than_the_deadline_allows_now_is_a_timeout(
    tmp_path: Path,
) -> None:
    folder = recording(tmp_path, answered("aa"))

    async def ask(engine: Engine, clock: Clock) -> None:
        began_ns = clock.wall_ns()
        with pytest.raises(EngineTimeout):
            await engine.infer(request(clock, "aa", deadline_s=0.1))
        assert (clock.wall_ns() - began_ns) / 1e9 == pytest.approx(0.1, abs=1e-6)
        with pytest.raises(EngineTimeout, match="had passed"):
            await engine.infer(request(clock, "aa", deadline_s=-1))

    asked(folder, ask)


def test_of_several_answers_the_same_frame_s_comes_first_then_they_come_in_order(
    tmp_path: Path,
) -> None:
    folder = recording(
        tmp_path,
        answered("aa", camera="c", seq=2, text="third", started_ns=900_000_000),
        answered("aa", camera="a", seq=7, text="first", started_ns=100_000_000),
        answered("aa", camera="b", seq=0, text="second", started_ns=500_000_000),
    )

    async def ask(engine: Engine, clock: Clock) -> list[str]:
        frames = [("c", 2), ("x", 0), ("b", 0), ("x", 1), ("b", 1), ("y", 5)]
        return [
            (await engine.infer(request(clock, "aa", camera=name, seq=seq))).text
            for name, seq in frames
        ]

    texts = asked(folder, ask)
    assert texts == ["third", "first", "second", "second", "third", "first"]


def test_boxes_in_pixels_of_another_size_are_not_read(tmp_path: Path) -> None:
    folder = recording(tmp_path / "pixels", answered("aa", text=SMOKE))

    async def ask(engine: Engine, clock: Clock) -> str:
        return (await engine.infer(request(clock, "aa", visual_tokens=1196))).text

    with pytest.raises(EngineRejected, match="recorded with 299 visual tokens and asked with 1196"):
        asked(folder, ask)
    # fractions hold for any size
    folder = recording(tmp_path / "unit", answered("aa", text=SMOKE), coord_space="unit")
    assert asked(folder, ask) == SMOKE


def test_a_text_that_was_not_kept_whole_is_not_read_again(tmp_path: Path) -> None:
    assert recorded.TEXT_KEPT == consumer.TEXT_KEPT
    prose = "x" * 4000
    long = {"text": prose, "verdict": {"has_smoke": True, "box": None, "confidence": None,
                                       "repairs": ["extracted"]}}  # fmt: skip
    folder = recording(
        tmp_path,
        answered("aa", **long),
        answered("bb", fate="bad_json", reason="not_json", text=prose, verdict=None),
    )

    async def ask(engine: Engine, clock: Clock) -> None:
        reply = await engine.infer(request(clock, "aa"))
        assert reply.verdict is not None
        assert reply.verdict.has_smoke
        assert reply.verdict.repairs == ("extracted",)
        reply = await engine.infer(request(clock, "bb"))
        assert reply.verdict is None
        assert reply.finish == "length"

    asked(folder, ask)


def test_reasons_asked_for_after_a_verdict_are_those_that_were_given(tmp_path: Path) -> None:
    said = {
        "camera": "ridge", "seq": 0, "started_ns": 0, "answered_ns": 500_000_000,
        "visual_tokens": 299, "text": "A grey plume over the ridge.", "output_tokens": 7,
        "error": "",
    }  # fmt: skip
    folder = recording(
        tmp_path,
        answered("aa"),
        answered("bb", seq=1),
        {"k": "explanation", "v": said},
        {"k": "explanation", "v": said | {"seq": 1, "text": "", "error": "timeout: no answer"}},
    )

    async def ask(engine: Engine, clock: Clock) -> None:
        # free decoding: the first request has no schema either
        verdict = await engine.infer(request(clock, "aa", schema=None))
        assert verdict.text == CLEAR
        began_ns = clock.wall_ns()
        reasons = await engine.infer(request(clock, "aa", schema=None))
        assert reasons.text == "A grey plume over the ridge."
        assert (clock.wall_ns() - began_ns) / 1e9 == pytest.approx(0.5, abs=1e-6)
        await engine.infer(request(clock, "bb", seq=1))
        with pytest.raises(EngineTimeout, match="no answer"):
            await engine.infer(request(clock, "bb", seq=1, schema=None))

    asked(folder, ask)


# --- recordings that cannot be used --------------------------------------------------------------


async def test_what_is_no_recording_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run folder"):
        create(settings(tmp_path / "none"), Clock())
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        create(settings(tmp_path), Clock())
    folder = recording(tmp_path / "other", answered("aa"), coord_space="furlongs")
    with pytest.raises(RunFolderError, match=r"run\.json does not tell its engine"):
        create(settings(folder), Clock())


async def test_a_recording_without_answers_is_told_on_entering(tmp_path: Path) -> None:
    line = answered("aa", fate="expired")
    line["v"]["answer"] = None
    with pytest.raises(UsageError, match="holds no answers"):
        async with create(settings(recording(tmp_path, line)), Clock()):
            pass


async def test_a_recording_of_another_convention_than_the_prompt_s_is_refused(
    tmp_path: Path,
) -> None:
    folder = recording(tmp_path, answered("aa"))
    with pytest.raises(UsageError, match="write boxes as resized_abs, prompt 'v1-literal'"):
        create(settings(folder, prompt="v1-literal"), Clock())


async def test_an_older_folder_is_taken_where_its_engine_writes_fractions(tmp_path: Path) -> None:
    folder = recording(tmp_path, answered("aa"))
    run_file = folder / RUN_FILE
    whole = orjson.loads(run_file.read_bytes())
    whole["engine"] = {"name": "baseline", "model": "median-change"}
    run_file.write_bytes(orjson.dumps(whole))
    assert create(settings(folder), Clock()).traits.coord_space == "unit"
    whole["engine"] = {"name": "ollama", "model": "qwen2.5vl:7b"}
    run_file.write_bytes(orjson.dumps(whole))
    with pytest.raises(UsageError, match="record it again"):
        create(settings(folder), Clock())


async def test_the_recording_s_path_starts_at_the_scenario_s_folder(tmp_path: Path) -> None:
    recording(tmp_path / "runs", answered("aa"))
    engine = create(settings(Path("runs")), Clock(), base=tmp_path)
    assert engine.traits.model == "ollama/qwen2.5vl:7b"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pace": "fast"}, "pace"), ({"paece": "instant"}, "did you mean 'pace'")],
)
async def test_an_impossible_option_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    folder = recording(tmp_path, answered("aa"))
    with pytest.raises(UsageError, match=message):
        create(settings(folder, options=options), Clock())


async def test_check_counts_the_answers_or_says_what_is_broken(tmp_path: Path) -> None:
    folder = recording(tmp_path, answered("aa"), failed("bb", "timeout", "no answer"))
    engine = create(settings(folder), Clock())
    (found,) = await engine.check()
    assert found.ok
    assert found.found.startswith("2 answers of ollama/qwen2.5vl:7b in ")
    (folder / RECORDS_LOG).write_bytes(b"no record\n")
    (found,) = await engine.check()
    assert not found.ok
    assert "line 1" in found.found


# --- whole runs, played and played again ---------------------------------------------------------


def fates(log: RunLog) -> dict[tuple[str, int], tuple[Fate, Reason, Any]]:
    def verdict(frame: FrameRecord) -> Any:
        return frame.answer.verdict if frame.answer is not None else None

    return {(f.camera, f.seq): (f.fate, f.reason, verdict(f)) for f in log.frames}


async def played(folder: Path, *cameras: dict[str, Any], **more: Any) -> Path:
    scenario = loaded(folder, *cameras, **more)
    options = run.Options(broker="memory", out=folder / "runs")
    return (await run.play(scenario, options, [], asyncio.Event())).folder


async def test_a_run_of_the_baseline_gives_the_same_verdicts_again(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 12, (320, 240))
    north = camera("north", fires=[FIRE])
    first = await played(tmp_path, north, engine={"name": "baseline"})
    again = await played(tmp_path, north, engine={"name": "recorded", "recording": str(first)})
    before, after = fates(proof(first)[0]), fates(proof(again)[0])
    assert len(before) == 12
    assert after == before
    # and a recording of the replay is as good as the first one
    third = await played(tmp_path, north, engine={"name": "recorded", "recording": str(again)})
    assert fates(load(third)) == before


async def test_a_run_of_ollama_gives_the_same_verdicts_and_failures_again(
    tmp_path: Path,
) -> None:
    pictures(tmp_path / "pictures", 6, (640, 480))
    north = camera("north", interval="200ms", fires=[FIRE])
    async with FakeOllama() as server:
        # the first answer is to the warm-up
        texts = [CLEAR, CLEAR, CLEAR, SMOKE, SMOKE, "I see a mountain."]
        server.script.extend(Answer(text, true_probability=0.75) for text in texts)
        server.script.append(Answer(CLEAR, fault=Fault.DIED))
        engine = {"name": "ollama", "url": server.url, "options": {"retries": 0}}
        first = await played(tmp_path, north, engine=engine)
    again = await played(
        tmp_path,
        north,
        engine={"name": "recorded", "recording": str(first), "options": {"pace": "instant"}},
    )
    before, after = fates(proof(first)[0]), fates(proof(again)[0])
    assert [before["north", seq][0] for seq in range(6)] == [
        *[Fate.ANSWERED] * 4,
        Fate.BAD_JSON,
        Fate.ENGINE_ERROR,
    ]
    assert before["north", 3][2].confidence == pytest.approx(0.75)
    assert after == before
    old, new = load(first), load(again)
    assert new.run["engine"]["model"] == "ollama/qwen2.5vl:7b"
    for one, other in zip(
        sorted(old.frames, key=lambda f: f.seq),
        sorted(new.frames, key=lambda f: f.seq),
        strict=True,
    ):
        assert one.answer is not None
        assert other.answer is not None
        assert one.answer.sent_size == other.answer.sent_size
        assert one.detail == other.detail


def played_in_virtual_time(folder: Path, *cameras: dict[str, Any], **more: Any) -> run.Outcome:
    scenario = loaded(folder, *cameras, clock="virtual", **more)
    options = run.Options(out=folder / "runs")
    return virtual_run(run.play(scenario, options, [], asyncio.Event()))


def test_in_virtual_time_a_replay_has_the_score_of_its_recording(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 60, (320, 240))
    north = camera("north", interval="1s", fires=[{"id": "f", "onset": "20s"}])
    sampling = {"policy": "adaptive"}
    first = played_in_virtual_time(tmp_path, north, sampling=sampling)
    engine = {"name": "recorded", "recording": str(first.folder)}
    again = played_in_virtual_time(tmp_path, north, sampling=sampling, engine=engine)
    before, after = proof(first.folder)[0], proof(again.folder)[0]
    assert fates(after) == fates(before)
    assert len({frame.fate for frame in before.frames}) > 1
    assert first.score is not None
    assert again.score is not None
    old, new = first.score.to_json(), again.score.to_json()
    for key in ("terms", "fires", "frames", "false_alarms", "localization", "answers"):
        assert new[key] == pytest.approx(old[key]) if key == "terms" else new[key] == old[key], key
    # another alarm policy on the same answers: the second positive is a second later
    alarm = {"k": 2, "n": 2}
    later = played_in_virtual_time(tmp_path, north, sampling=sampling, engine=engine, alarm=alarm)
    assert later.score is not None
    (early,), (late,) = old["fires"], later.score.to_json()["fires"]
    assert late["ttfd_s"] > early["ttfd_s"]


async def test_a_run_in_wall_time_is_replayed_in_virtual_time(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 8, (320, 240))
    north = camera("north", fires=[FIRE])
    first = await played(tmp_path, north, engine={"name": "baseline"})
    engine = {"name": "recorded", "recording": str(first)}
    again = await asyncio.to_thread(played_in_virtual_time, tmp_path, north, engine=engine)
    assert fates(proof(again.folder)[0]) == fates(proof(first)[0])


def test_a_run_of_blank_pictures_cannot_be_recognised(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 5)
    first = played_in_virtual_time(tmp_path, camera("north"))
    engine = {"name": "recorded", "recording": str(first.folder)}
    with pytest.raises(UsageError, match="its pictures were blank"):
        played_in_virtual_time(tmp_path, camera("north"), engine=engine)
