"""Faults of brokers, connections and hosts in whole runs: each really happens, none loses a frame
without a fate, and whenever a run is stopped nothing of them is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from earlyfire_stream.clock import Clock
from earlyfire_stream.drill import Drill, Reach
from earlyfire_stream.errors import TransportError, UsageError
from earlyfire_stream.faults import planned
from earlyfire_stream.records import RunLog
from earlyfire_stream.run import Options, Outcome, play, play_cameras, play_consumer
from earlyfire_stream.scenario.load import Loaded
from earlyfire_stream.transport.broker import embedded_broker
from earlyfire_stream.verdict import Fate, Reason
from tests.playing import camera, loaded, notes, pictures, proof, until, within


def troubled(folder: Path, *faults: dict[str, Any], frames: int = 60, cameras: int = 2) -> Loaded:
    """Each camera sends a frame every 100 ms."""
    pictures(folder / "pictures", frames)
    return loaded(folder, *(camera(f"c{n}") for n in range(cameras)), faults=list(faults))


async def played(scenario: Loaded, out: Path, broker: Any = "mosquitto") -> Outcome:
    playing = play(scenario, Options(broker=broker, out=out), [], asyncio.Event())
    return await within(playing, 150)  # nine at once, on a machine that is busy with others


def states(log: RunLog) -> list[tuple[str, str]]:
    return [(note["id"], note["state"]) for note in notes(log, "fault")]


def reasons(log: RunLog) -> Counter[tuple[Fate, Reason]]:
    return Counter((frame.fate, frame.reason) for frame in log.frames)


def answered_after(log: RunLog, at: float) -> set[str]:
    return {f.camera for f in log.frames if f.fate is Fate.ANSWERED and f.captured_at > at}


BROKEN: dict[str, dict[str, Any]] = {
    "restart": {"kind": "broker-restart"},
    "disconnects": {"kind": "broker-disconnects", "cameras": ["c1"]},
    "storm": {"kind": "camera-storm"},
    "gone": {"kind": "broker-gone", "end": "2s"},
    "refuses": {"kind": "broker-refuses", "end": "2s"},
    "slow": {"kind": "broker-slow", "end": "2s", "rate": 2_000},
    "partition": {"kind": "network-partition", "end": "2s"},
    "cameras-apart": {"kind": "network-partition", "end": "2s", "side": "cameras"},
    "consumer-apart": {"kind": "network-partition", "end": "2s", "side": "consumer"},
}


async def test_a_run_comes_back_from_each_fault_of_the_broker_and_its_ledger_is_exact(
    tmp_path: Path, mosquitto: str
) -> None:
    """All at once, each with its own broker: they wait most of the time."""

    async def one(name: str) -> Outcome:
        folder = tmp_path / name
        fault = {"id": "x", "start": "1s", **BROKEN[name]}
        return await played(troubled(folder, fault, frames=100), folder / "runs")

    for name, outcome in zip(BROKEN, await asyncio.gather(*map(one, BROKEN)), strict=True):
        log, _ = proof(outcome.folder)
        assert states(log) == [("x", "begun"), ("x", "over")], name
        assert answered_after(log, 2.0) == {"c0", "c1"}, name


async def test_a_broker_of_somebody_else_is_gone_for_us_alone(
    tmp_path: Path, mosquitto: str
) -> None:
    fault = {"kind": "broker-gone", "start": "1s", "end": "3s"}
    scenario = troubled(tmp_path, fault, frames=80)
    async with embedded_broker("mosquitto") as broker:
        pid = broker.pid
        outcome = await played(scenario, tmp_path / "runs", broker.address)
        assert broker.pid == pid
    log, _ = proof(outcome.folder)
    unsent = Counter(shot.unsent for shot in log.shots)
    assert unsent[Reason.BROKER_DOWN] > 0
    assert answered_after(log, 3.0) == {"c0", "c1"}


async def test_what_a_run_cannot_reach_is_refused_before_it_begins(
    tmp_path: Path, mosquitto: str
) -> None:
    restart = troubled(tmp_path, {"kind": "broker-restart", "start": "1s"})
    with pytest.raises(UsageError, match="fault broker-restart needs a broker"):
        await played(restart, tmp_path / "runs", "memory")
    async with embedded_broker("mosquitto") as broker:
        with pytest.raises(UsageError, match="somebody else's cannot be restarted from here"):
            await played(restart, tmp_path / "runs", broker.address)
    assert not list((tmp_path / "runs").glob("*"))


async def test_a_consumer_that_is_killed_leaves_no_frame_without_a_fate(
    tmp_path: Path, mosquitto: str
) -> None:
    fault = {"kind": "host-consumer-killed", "start": "1s", "end": "4s"}
    scenario = troubled(tmp_path, fault, frames=80)
    outcome = await played(scenario, tmp_path / "runs")
    log, ledger = proof(outcome.folder)
    assert ledger.scheduled == 160
    down = {
        (f.camera, f.seq)
        for f in log.frames
        if (f.fate, f.reason) == (Fate.LOST, Reason.CONSUMER_DOWN)
    }
    assert down
    # Nobody listened inside the window.
    begun_ns, over_ns = (note["wall_ns"] for note in notes(log, "fault"))
    came_ns = [f.received_ns for f in log.frames if f.received_ns is not None]
    assert not [ns for ns in came_ns if begun_ns < ns < over_ns]
    assert answered_after(log, 4.0) == {"c0", "c1"}
    # Each of the two consumers tells its end; together they received what was not lost.
    ends = notes(log, "session_end")
    assert len(ends) == 2
    assert sum(end["received"] for end in ends) == 160 - len(down)


async def test_a_consumer_killed_while_it_asks_leaves_its_frames_as_killed(tmp_path: Path) -> None:
    scenario = troubled(
        tmp_path, {"kind": "host-consumer-killed", "start": "1s", "end": "1500ms"}, frames=16
    )
    slow = scenario.scenario.engine.model_copy(update={"profile": "one-per-second"})
    settings = scenario.scenario.model_copy(update={"engine": slow})
    outcome = await played(replace(scenario, scenario=settings), tmp_path / "runs", "memory")
    log, _ = proof(outcome.folder)
    assert reasons(log)[Fate.ABANDONED, Reason.KILLED] >= 2


async def test_while_the_disk_is_full_nothing_is_written_and_nothing_lost(
    tmp_path: Path,
) -> None:
    scenario = troubled(tmp_path, {"kind": "host-disk-full", "start": "1s", "end": "4s"}, frames=60)
    stop = asyncio.Event()
    running = asyncio.create_task(
        play(scenario, Options(broker="memory", out=tmp_path / "runs"), [], stop)
    )

    def sizes() -> list[int]:
        return [p.stat().st_size for p in sorted((tmp_path / "runs").glob("[!.]*/*.jsonl"))]

    await until(lambda: len(sizes()) == 2 and all(sizes()))
    outcome = await within(running)
    log, ledger = proof(outcome.folder)
    assert ledger.fates == {"answered": 120}
    assert log.torn_lines == 0
    assert states(log) == [("host-disk-full", "begun"), ("host-disk-full", "over")]


async def test_a_busy_processor_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spinning: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def remembered(*command: Any, **more: Any) -> asyncio.subprocess.Process:
        process = await start(*command, **more)
        spinning.append(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remembered)
    scenario = troubled(
        tmp_path,
        {"kind": "host-cpu", "start": "0s", "end": "2s", "processes": 3},
        frames=30,
        cameras=1,
    )
    me = psutil.Process()
    before = set(me.children())
    outcome = await played(scenario, tmp_path / "runs", "memory")
    assert [process.returncode for process in spinning] == [-9] * 3, "they spun until the end"
    assert set(me.children()) <= before
    _, ledger = proof(outcome.folder)
    assert ledger.scheduled == 30


async def test_a_run_that_is_stopped_in_mid_fault_ends_and_is_scored(
    tmp_path: Path, mosquitto: str
) -> None:
    me = psutil.Process()
    before = set(me.children())

    async def one(kind: str) -> tuple[str, Outcome]:
        folder = tmp_path / kind
        fault = {"kind": kind, "start": "1s", "end": "50s"}
        stop = asyncio.Event()
        options = Options(broker="mosquitto", out=folder / "runs")
        scenario = troubled(folder, fault, frames=600)
        running = asyncio.create_task(play(scenario, options, [], stop))

        def begun() -> bool:
            logs = list((folder / "runs").glob("[!.]*/records.jsonl"))
            return bool(logs) and b'"state":"begun"' in logs[0].read_bytes()

        await until(begun)
        stop.set()
        return kind, await within(running)

    kinds = ("broker-gone", "broker-refuses", "network-partition", "host-consumer-killed")
    for kind, outcome in await asyncio.gather(*map(one, kinds)):
        assert outcome.interrupted, kind
        assert outcome.score is not None, kind
        log, _ = proof(outcome.folder)
        (over,) = [note for note in notes(log, "fault") if note["state"] == "over"]
        assert over["detail"] == "with the run", kind
    assert set(me.children()) <= before


# --- a run that ends in the middle of a fault's beginning or end ---------------------------------


class SlowBroker:
    """Takes a few turns of the loop to stop, and a few to start."""

    def __init__(self) -> None:
        self.up = True

    async def stop(self) -> None:
        self.up = False
        for _ in range(3):
            await asyncio.sleep(0)

    async def start(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self.up = True


class SlowProxy:
    def __init__(self) -> None:
        self.there = self.accepts = True

    async def gone(self) -> None:
        self.there = False
        await asyncio.sleep(0)

    def back(self) -> None:
        self.there = True

    async def refuse(self) -> None:
        self.accepts = False
        await asyncio.sleep(0)

    def accept(self) -> None:
        self.accepts = True


async def left_after(turns: int, scenario: Loaded, reach: Any) -> list[str]:
    """The fault is due at once, the run ends after so many turns of the loop; what was told."""
    told: list[str] = []
    clock = Clock()
    clock.begin(clock.wall_ns() - 10_000_000_000)
    drill = Drill(
        planned(scenario.scenario), reach, clock, lambda *_, **note: told.append(note["state"])
    )
    async with drill.going_on():
        for _ in range(turns):
            await asyncio.sleep(0)
    return told


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "broker-restart", "start": "1s"},
        {"kind": "broker-gone", "start": "1s", "end": "2s"},
    ],
)
async def test_whenever_a_run_ends_its_own_broker_is_there_for_the_last_words(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    scenario = troubled(tmp_path, fault, frames=2)
    for turns in range(1, 25):
        broker: Any = SlowBroker()
        told = await left_after(turns, scenario, Reach(broker))
        assert broker.up, turns
        assert told == ["begun", "over"], turns


@pytest.mark.parametrize("kind", ["broker-gone", "broker-refuses"])
async def test_whenever_a_run_ends_the_way_to_the_broker_is_open(tmp_path: Path, kind: str) -> None:
    scenario = troubled(tmp_path, {"kind": kind, "start": "1s", "end": "2s"}, frames=2)
    for turns in range(1, 12):
        near: Any = SlowProxy()
        far: Any = SlowProxy()
        await left_after(turns, scenario, Reach(None, near, far))
        assert (near.there, near.accepts, far.there, far.accepts) == (True,) * 4, turns


@pytest.mark.parametrize("stuck", [0, 1])
async def test_a_proxy_comes_back_though_the_other_cannot(tmp_path: Path, stuck: int) -> None:
    class Stuck(SlowProxy):
        def back(self) -> None:
            raise TransportError("no port for the proxy before the broker")

    sound = SlowProxy()
    proxies: list[Any] = [sound, sound]
    proxies[stuck] = Stuck()
    scenario = troubled(tmp_path, {"kind": "broker-gone", "start": "1s", "end": "2s"}, frames=2)
    assert await left_after(11, scenario, Reach(None, *proxies)) == ["begun", "failed"]
    assert sound.there


async def test_processes_are_ended_though_the_run_ends_while_they_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spinning:
        killed = False

        def kill(self) -> None:
            self.killed = True

        async def wait(self) -> int:
            return -9

    started: list[Spinning] = []

    async def start(*_: object, **__: object) -> Spinning:
        if started:
            await asyncio.Event().wait()
        started.append(Spinning())
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    fault = {"kind": "host-cpu", "start": "1s", "end": "2s", "processes": 2}
    scenario = troubled(tmp_path, fault, frames=2)
    await left_after(5, scenario, Reach())
    assert [one.killed for one in started] == [True]


async def test_a_broker_whose_stop_is_cancelled_is_gone_and_says_that_it_was_cancelled(
    mosquitto: str,
) -> None:
    async with embedded_broker("mosquitto") as broker:
        assert broker.pid is not None
        child = psutil.Process(broker.pid)
        stopping = asyncio.create_task(broker.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait({stopping})
        assert stopping.cancelled()
        assert not child.is_running()


async def test_a_consumer_that_joins_late_is_not_met_by_what_was_over_before(
    tmp_path: Path, mosquitto: str
) -> None:
    fault = {"kind": "host-consumer-killed", "start": "100ms", "end": "200ms"}
    scenario = troubled(tmp_path, fault, frames=600)
    stop = asyncio.Event()
    async with embedded_broker("mosquitto") as broker:
        near = Options(broker=broker.address, out=tmp_path / "near", run="late")
        far = Options(broker=broker.address, out=tmp_path / "far", run="late")
        cameras = asyncio.create_task(play_cameras(scenario, near, [], stop))

        def written(out: str, file: str, word: bytes) -> bool:
            logs = list((tmp_path / out).glob(f"[!.]*/{file}"))
            return bool(logs) and word in logs[0].read_bytes()

        await until(lambda: written("near", "cameras.jsonl", b'"state":"over"'))
        watching = asyncio.create_task(play_consumer(scenario, far, [], asyncio.Event()))
        await until(lambda: written("far", "records.jsonl", b'"fate":"answered"'))
        stop.set()
        seen = await within(watching)
        played_by = await within(cameras)
    log, _ = proof(seen.folder, played_by.folder)
    told = [
        orjson.loads(line) for line in (seen.folder / "records.jsonl").read_bytes().splitlines()
    ]
    assert [one["v"] for one in told if one["v"].get("what") == "fault"] == []
    assert len(notes(log, "session_end")) == 1
