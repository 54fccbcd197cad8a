"""A whole run against a server that speaks like Ollama, well and badly."""

from __future__ import annotations

import asyncio
from pathlib import Path

from earlyfire_stream import run
from earlyfire_stream.verdict import Fate, Reason
from tests.fakes.ollama import Answer, FakeOllama, Fault
from tests.playing import camera, loaded, pictures, proof

SMOKE = '{"has_smoke": true, "bbox_2d": [100, 100, 300, 200]}'
CLEAR = '{"has_smoke": false, "bbox_2d": null}'


async def test_answers_of_ollama_become_verdicts_alarms_and_fates(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 6, (640, 480))
    async with FakeOllama() as server:
        # the first answer is to the warm-up; the fire begins with the third frame
        server.script.extend(
            [
                Answer(CLEAR),
                Answer(CLEAR),
                Answer(CLEAR),
                Answer(SMOKE),
                Answer(SMOKE),
                Answer("I see a mountain."),
                Answer(CLEAR, fault=Fault.DIED),
            ]
        )
        scenario = loaded(
            tmp_path,
            camera("north", interval="200ms", fires=[{"id": "f", "onset": "390ms"}]),
            engine={"name": "ollama", "url": server.url, "options": {"retries": 0}},
        )
        options = run.Options(broker="memory", out=tmp_path / "runs")
        outcome = await run.play(scenario, options, [], asyncio.Event())
        chats = [r for r in server.requests if "messages" in r]

    log, ledger = proof(outcome.folder)
    assert ledger.fates == {"answered": 4, "bad_json": 1, "engine_error": 1}
    by_seq = {frame.seq: frame for frame in log.frames}
    assert [by_seq[n].fate for n in range(6)] == [
        *[Fate.ANSWERED] * 4,
        Fate.BAD_JSON,
        Fate.ENGINE_ERROR,
    ]
    assert by_seq[4].reason is Reason.NOT_JSON
    verdicts = [by_seq[n].answer.verdict for n in range(4)]  # type: ignore[union-attr]
    assert [v.has_smoke for v in verdicts if v] == [False, False, True, True]
    # sent as 1036x784, 1036 tokens: this version blows up anything below 1024
    box = verdicts[2].box  # type: ignore[union-attr]
    assert box is not None
    assert [round(v, 4) for v in box.corners] == [0.0965, 0.1276, 0.2896, 0.2551]
    (fire,) = outcome.score.to_json()["fires"]  # type: ignore[union-attr]
    assert fire["ttfd_frames"] == 0
    # one warm-up and six looks, each with one picture and the same num_ctx
    assert {r["options"]["num_ctx"] for r in chats} == {4096}
    assert all(r["messages"][-1]["images"] for r in chats if r["messages"][-1]["role"] == "user")
