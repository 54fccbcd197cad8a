"""Whole runs over a real broker: every frame has one fate, and the same seed the same frames."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import TransportError
from earlyfire_stream.live.tally import Tally
from earlyfire_stream.records import FrameRecord, Shot
from earlyfire_stream.run import Options, Outcome, play
from earlyfire_stream.scenario.load import Loaded
from earlyfire_stream.transport.base import Control
from earlyfire_stream.transport.broker import embedded_broker
from earlyfire_stream.transport.memory import MemoryLink
from earlyfire_stream.verdict import Fate, Reason
from tests.playing import camera, loaded, notes, pictures, proof, until, within


class Shots:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.shots: list[Shot] = []
        self.records: list[FrameRecord] = []

    def stage(self, text: str, share: float | None = None) -> None: ...
    def begin(self, plans: object, clock: object, snapshot: object) -> None: ...
    def alarm(self, record: object) -> None: ...

    def shot(self, shot: Shot) -> None:
        self.shots.append(shot)

    def frame(self, record: FrameRecord) -> None:
        self.records.append(record)


async def played(scenario: Loaded, out: Path, broker: object = "auto") -> Outcome:
    options = Options(broker=broker, out=out)  # type: ignore[arg-type]
    return await within(play(scenario, options, [], asyncio.Event()))


def virtually(scenario: Loaded, out: Path) -> Outcome:
    async def go() -> Outcome:
        return await play(scenario, Options(out=out), [], asyncio.Event())

    return virtual_run(go())


async def test_a_calm_run_answers_every_frame(tmp_path: Path, mosquitto: str) -> None:
    pictures(tmp_path / "pictures", 10)
    scenario = loaded(
        tmp_path, camera("north", fires=[{"id": "f", "onset": "500ms"}]), camera("south")
    )
    outcome = await played(scenario, tmp_path / "runs")
    _, ledger = proof(outcome.folder)
    assert ledger.fates == {"answered": 20}
    assert outcome.score is not None
    assert outcome.score.ledger.scheduled == 20
    assert not outcome.interrupted


async def test_an_engine_overloaded_ten_times_leaves_no_frame_without_a_fate(
    tmp_path: Path,
) -> None:
    pictures(tmp_path / "pictures", 100)
    # 8 cameras x 20 frames/s arrive; one slot of 62.5 ms answers 16 a second
    scenario = loaded(
        tmp_path,
        *(camera(f"c{n}", interval="50ms") for n in range(8)),
        engine={
            "name": "simulated",
            "profile": "perfect",
            "deadline": "1s",
            "mailbox": 4,
            "options": {"slots": 1, "base_s": 0.0625, "spread": 0.0, "visual_token_s": 0.0,
                        "output_token_s": 0.0, "floor_s": 0.0},
        },
        sampling={"policy": "every"},
    )  # fmt: skip
    outcome = await played(scenario, tmp_path / "runs")
    log, ledger = proof(outcome.folder)
    assert ledger.scheduled == 800
    # 5 s of frames at 16 a second, the last second's backlog, and what came before the first slot
    assert ledger.fates["answered"] <= 200
    assert set(ledger.fates) <= {"answered", "superseded", "expired", "engine_error", "abandoned"}
    assert not [record for record in log.frames if record.fate == "lost"]


async def test_with_a_bad_network_every_frame_still_has_one_fate(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 80)
    bad = {"delay": "50ms", "jitter": "40ms", "loss": 0.1, "duplicate": 0.2, "reorder": 0.2}
    scenario = loaded(
        tmp_path,
        *(camera(f"c{n}", interval="50ms", network=bad) for n in range(3)),
        camera("down", interval="50ms", network={"outages": [{"start": "1s", "end": "2s"}]}),
        camera("off", interval="50ms", outages=[{"start": "1s", "end": "2s"}]),
    )
    outcome = await played(scenario, tmp_path / "runs")
    log, ledger = proof(outcome.folder)
    assert ledger.scheduled == 400
    assert ledger.reasons["unsent(outage)"] == 20
    # the consumer sees the gap of the camera that was off as well; it is the same event
    lost = {(r.camera, r.seq) for r in log.frames if r.fate == "lost" and r.camera != "off"}
    assert ledger.fates["lost"] == len(lost)
    # which of them goes by the instant at which they are sent, late on a busy machine
    assert all(seq < 40 for name, seq in lost if name == "down")
    # 240 frames at 10 %: 24 are expected, and four standard deviations are 19
    assert 5 <= sum(name.startswith("c") for name, _ in lost) <= 43
    assert ledger.duplicates >= 20
    assert ledger.fates["answered"] == 400 - 20 - len(lost)


def test_a_network_that_is_down_loses_what_is_sent_meanwhile(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 80)
    down = camera("down", interval="50ms", network={"outages": [{"start": "1s", "end": "2s"}]})
    log, ledger = proof(virtually(loaded(tmp_path, down, clock="virtual"), tmp_path).folder)
    assert [r.seq for r in log.frames if r.fate == "lost"] == list(range(20, 40))
    assert ledger.fates == {"answered": 60, "lost": 20}


def test_a_frame_that_the_fleets_last_word_overtakes_is_waited_for_however_quiet_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = MemoryLink.publish
    under_way: list[asyncio.Task[Reason]] = []

    async def the_last_one_late(link: MemoryLink, camera: str, seq: int, payload: bytes) -> Reason:
        async def later() -> Reason:
            await asyncio.sleep(1.5)
            return await publish(link, camera, seq, payload)

        if seq < 9:
            return await publish(link, camera, seq, payload)
        under_way.append(asyncio.create_task(later()))
        return Reason.NONE

    monkeypatch.setattr(MemoryLink, "publish", the_last_one_late)
    pictures(tmp_path / "pictures", 10)
    # 5 s without a frame before it: more than makes a finished stream a drained one
    slow = loaded(tmp_path, camera("north", interval="5s"), clock="virtual")
    _, ledger = proof(virtually(slow, tmp_path / "runs").folder)
    assert ledger.fates == {"answered": 10}


def test_whoever_watches_counts_a_frame_that_was_not_sent_once(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 80)
    off = camera("off", interval="50ms", outages=[{"start": "1s", "end": "2s"}])
    scenario = loaded(tmp_path, off, clock="virtual")
    tally = Tally()

    async def go() -> Outcome:
        return await play(scenario, Options(out=tmp_path / "runs"), [tally], asyncio.Event())

    virtual_run(go())
    assert tally.scheduled == 80
    assert tally.fates == {Fate.ANSWERED: 60, Fate.UNSENT: 20}
    assert tally.pending == 0


async def test_a_broker_restarted_in_mid_run_costs_frames_but_loses_track_of_none(
    tmp_path: Path, mosquitto: str
) -> None:
    pictures(tmp_path / "pictures", 600)
    scenario = loaded(tmp_path, *(camera(f"c{n}", interval="50ms") for n in range(3)))
    watched, stop = Shots(), asyncio.Event()

    def all_are_back() -> bool:
        """Of each camera a frame was answered that is newer than all that could not be sent."""
        gone = {s.camera: s.seq for s in watched.shots if s.unsent == "broker_down"}
        seen = {r.camera: r.seq for r in watched.records if r.fate == "answered"}
        return all(seen[name] > gone.get(name, -1) for name in ("c0", "c1", "c2"))

    async with embedded_broker("mosquitto") as broker:
        options = Options(broker=broker.address, out=tmp_path / "runs")
        playing = asyncio.create_task(play(scenario, options, [watched], stop))
        await until(lambda: len(watched.records) >= 30)
        await broker.stop()
        await until(lambda: {s.camera for s in watched.shots if s.unsent} == {"c0", "c1", "c2"})
        await broker.start()
        await until(all_are_back)
        stop.set()
        outcome = await within(playing)
    log, ledger = proof(outcome.folder)
    assert ledger.scheduled == len(watched.shots)
    assert ledger.reasons["unsent(broker_down)"] >= 3
    assert ledger.fates["answered"] >= 30 + 3
    (end,) = notes(log, "session_end")
    assert end["reconnects"] == 1


async def test_the_end_of_an_earlier_run_of_the_same_name_does_not_end_this_one(
    tmp_path: Path, mosquitto: str
) -> None:
    pictures(tmp_path / "pictures", 10)
    scenario = loaded(tmp_path, camera("north"))
    async with embedded_broker("mosquitto") as broker:
        for out in ("first", "second"):
            options = Options(broker=broker.address, out=tmp_path / out, run="same")
            outcome = await within(play(scenario, options, [], asyncio.Event()))
            _, ledger = proof(outcome.folder)
            assert ledger.fates == {"answered": 10}


def test_two_runs_with_one_seed_publish_identical_frames(tmp_path: Path) -> None:
    cameras = [
        {
            "id": "synthetic",
            "cadence": "1s",
            "jitter": "100ms",
            "source": {"kind": "synthetic", "size": [320, 240]},
            "fires": [{"id": "f", "onset": "2s"}],
        },
        camera("shaken", interval="1s", perturb={"shake_px": 5, "rain": 0.5, "night_noise": 0.3}),
    ]
    pictures(tmp_path / "pictures", 6, (320, 240))
    scenario = loaded(tmp_path, *cameras, duration="6s", speed=20)
    frames = []
    for out in ("first", "second"):
        outcome = asyncio.run(played(scenario, tmp_path / out, "memory"))
        log, ledger = proof(outcome.folder)
        assert ledger.scheduled == 12
        frames.append({(s.camera, s.seq): (s.captured_at, s.identity) for s in log.shots})
    assert frames[0] == frames[1]
    assert all(identity for _, identity in frames[0].values())
    assert len({identity for _, identity in frames[0].values()}) == 12


@pytest.mark.parametrize("policy", ["every", "adaptive"])
def test_two_virtual_runs_leave_the_same_bytes(tmp_path: Path, policy: str) -> None:
    pictures(tmp_path / "pictures", 40)
    bad = {"delay": "2s", "jitter": "1s", "loss": 0.1, "duplicate": 0.1, "reorder": 0.1}
    scenario = loaded(
        tmp_path,
        *(
            camera(f"c{n}", interval="1s", network=bad, fires=[{"id": "f", "onset": "20s"}])
            for n in range(3)
        ),
        clock="virtual",
        sampling={"policy": policy},
        engine={"name": "simulated", "profile": "spec-cpu-int4",
                "options": {"bad_json": 0.1, "unavailable": 0.05}},
    )  # fmt: skip
    runs = [virtually(scenario, tmp_path / out).folder for out in ("first", "second")]
    _, ledger = proof(runs[0])
    assert ledger.scheduled == 120
    for name in ("records.jsonl", "cameras.jsonl"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()


async def test_a_run_that_is_stopped_is_scored_for_the_part_that_was_played(
    tmp_path: Path,
) -> None:
    pictures(tmp_path / "pictures", 300)
    scenario = loaded(tmp_path, camera("north"), camera("south"))
    watched, stop = Shots(), asyncio.Event()
    playing = asyncio.create_task(
        play(scenario, Options(broker="memory", out=tmp_path / "runs"), [watched], stop)
    )
    await until(lambda: len(watched.records) >= 10)
    stop.set()
    outcome = await within(playing)
    assert outcome.interrupted
    log, ledger = proof(outcome.folder)
    assert log.complete
    assert 10 <= ledger.scheduled < 600
    assert outcome.score is not None


def test_a_run_whose_broker_is_away_at_its_end_is_scored_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce, publish = MemoryLink.announce, MemoryLink.publish

    async def until_the_end(link: MemoryLink, control: Control) -> None:
        if control.last_seqs is not None:
            raise TransportError("is it reachable?")
        await announce(link, control)

    async def up_to_the_seventh(link: MemoryLink, camera: str, seq: int, payload: bytes) -> Reason:
        return await publish(link, camera, seq, payload) if seq < 7 else Reason.NONE

    monkeypatch.setattr(MemoryLink, "announce", until_the_end)
    monkeypatch.setattr(MemoryLink, "publish", up_to_the_seventh)
    pictures(tmp_path / "pictures", 10)
    outcome = virtually(loaded(tmp_path, camera("north"), clock="virtual"), tmp_path / "runs")
    log, ledger = proof(outcome.folder)
    assert log.complete
    assert not outcome.interrupted
    assert ledger.fates == {"answered": 7, "lost": 3}
    assert outcome.score is not None
    said = "the broker could not be told that the run is over: is it reachable?"
    assert outcome.warnings == (said,)


async def test_a_run_that_is_cancelled_leaves_a_folder_that_balances(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 300)
    watched = Shots()
    options = Options(broker="memory", out=tmp_path / "runs")
    playing = asyncio.create_task(
        play(loaded(tmp_path, camera("north")), options, [watched], asyncio.Event())
    )
    await until(lambda: len(watched.records) >= 5)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(playing)
    (folder,) = (tmp_path / "runs").iterdir()
    log, ledger = proof(folder)
    assert not log.complete
    assert ledger.scheduled >= 5
