"""A whole run against a server that speaks like Ollama, well and badly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from earlyfire_stream import run
from earlyfire_stream.records import FrameRecord
from earlyfire_stream.scenario.load import Loaded
from earlyfire_stream.verdict import Fate, Reason
from tests.fakes.ollama import Answer, FakeOllama, Fault
from tests.playing import camera, loaded, pictures, proof, reserved_port, within

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


# --- a server in trouble -------------------------------------------------------------------------


def watched(
    folder: Path, server: FakeOllama, frames: int, limit: str = "20s", **options: Any
) -> Loaded:
    """One camera, ten frames a second, each looked at, one at a time."""
    pictures(folder / "pictures", frames)
    engine = {
        "name": "ollama",
        "url": server.url,
        "concurrency": 1,
        "timeout": limit,
        "options": {"retries": 0, **options},
    }
    # the fire begins with the fourth frame
    fires = [{"id": "f", "onset": "290ms"}]
    return loaded(folder, camera("north", fires=fires), engine=engine)


async def played(scenario: Loaded, folder: Path, observers: Any = ()) -> run.Outcome:
    options = run.Options(broker="memory", out=folder / "runs")
    return await within(run.play(scenario, options, list(observers), asyncio.Event()))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.HANG, Reason.TIMEOUT),
        (Fault.SILENT, Reason.TIMEOUT),
        (Fault.REPEAT, Reason.BROKEN_ANSWER),
        (Fault.REPEAT_ON, Reason.BROKEN_ANSWER),
        (Fault.HALF_LINE, Reason.BROKEN_ANSWER),
        (Fault.NO_FINAL, Reason.BROKEN_ANSWER),
        (Fault.ERROR_LINE, Reason.BROKEN_ANSWER),
        (Fault.DIED, Reason.BROKEN_ANSWER),
        (Fault.RESET, Reason.UNAVAILABLE),
        (Fault.CANCELLED, Reason.UNAVAILABLE),
    ],
)
async def test_a_fault_in_mid_run_costs_the_frames_it_touched_and_no_other(
    fault: Fault, reason: Reason, tmp_path: Path
) -> None:
    # the limits stay wide where they are not what is tested: a busy machine is no silent server
    limits: dict[Fault, Any] = {Fault.HANG: {"limit": "2s"}, Fault.SILENT: {"silence_s": 1.5}}
    async with FakeOllama() as server:
        # after the warm-up: two frames, two that it touches, four more
        server.script.extend([Answer(CLEAR)] * 3)
        server.script.extend([Answer(SMOKE, fault=fault)] * 2)
        server.script.extend([Answer(SMOKE)] * 4)
        outcome = await played(watched(tmp_path, server, 8, **limits.get(fault, {})), tmp_path)
    log, ledger = proof(outcome.folder)
    assert ledger.fates == {"answered": 6, "engine_error": 2}
    fates = {frame.seq: (frame.fate, frame.reason) for frame in log.frames}
    assert [fates[n] for n in (2, 3)] == [(Fate.ENGINE_ERROR, reason)] * 2
    assert {fates[n][0] for n in (0, 1, 4, 5, 6, 7)} == {Fate.ANSWERED}
    assert outcome.score is not None
    score = outcome.score.to_json()
    assert score["answers"]["errors"] == {reason.value: 2}
    # the alarm came with the fifth frame and not with the fourth: that is what it cost
    assert score["fires"][0]["ttfd_frames"] == 1


async def test_a_server_that_is_busy_for_a_while_is_asked_again_and_costs_what_it_refused(
    tmp_path: Path,
) -> None:
    async with FakeOllama() as server:
        server.script.extend([Answer(CLEAR)] * 3)
        # refused, and refused again on the second try: two frames; the third is refused once
        server.script.extend([Answer(fault=Fault.BUSY)] * 5)
        server.script.extend([Answer(CLEAR)] * 6)
        scenario = watched(tmp_path, server, 8, retries=1)
        outcome = await played(scenario, tmp_path)
    log, ledger = proof(outcome.folder)
    assert ledger.fates == {"answered": 6, "engine_error": 2}
    refused = [frame for frame in log.frames if frame.fate is Fate.ENGINE_ERROR]
    assert {frame.reason for frame in refused} == {Reason.OVERLOADED}
    assert all("maximum pending requests" in frame.detail for frame in refused)
    assert outcome.score is not None
    assert outcome.score.to_json()["answers"]["errors"] == {"overloaded": 2}


class Restarting:
    """An observer that stops the server after three answers and starts it after two errors."""

    def __init__(self, server: FakeOllama) -> None:
        self.server = server
        self.answers = 0
        self.errors = 0
        self.work: set[asyncio.Task[None]] = set()

    def stage(self, text: str, share: float | None = None) -> None: ...
    def begin(self, plans: object, clock: object, snapshot: object) -> None: ...
    def shot(self, shot: object) -> None: ...
    def alarm(self, record: object) -> None: ...

    def frame(self, record: FrameRecord) -> None:
        self.answers += record.fate is Fate.ANSWERED
        self.errors += record.fate is Fate.ENGINE_ERROR
        if record.fate is Fate.ANSWERED and self.answers == 3:
            self.work.add(asyncio.create_task(self.server.stop()))
        if record.fate is Fate.ENGINE_ERROR and self.errors == 2:
            self.work.add(asyncio.create_task(self.server.start()))


async def test_a_server_that_restarts_costs_the_frames_of_its_absence(tmp_path: Path) -> None:
    with reserved_port() as port:
        async with FakeOllama(port=port) as server:
            restarting = Restarting(server)
            scenario = watched(tmp_path, server, 12)
            outcome = await played(scenario, tmp_path, [restarting])
            await asyncio.gather(*restarting.work)
    log, ledger = proof(outcome.folder)
    touched = [frame.seq for frame in log.frames if frame.fate is Fate.ENGINE_ERROR]
    # those of its absence, in one row, and one more if a request met the very moment
    assert touched == list(range(touched[0], touched[0] + len(touched)))
    assert 2 <= len(touched) <= 3
    assert ledger.fates == {"answered": 12 - len(touched), "engine_error": len(touched)}
    reasons = {frame.reason for frame in log.frames if frame.fate is Fate.ENGINE_ERROR}
    assert reasons == {Reason.UNAVAILABLE}
    assert outcome.score is not None
    assert outcome.score.to_json()["answers"]["errors"] == {"unavailable": len(touched)}
