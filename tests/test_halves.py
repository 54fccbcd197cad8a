"""Cameras and consumer as two processes that share nothing but a real Mosquitto."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import aiomqtt
import orjson
import pytest

from earlyfire_stream.frames import shard_of
from earlyfire_stream.records import load
from tests.playing import (
    Command,
    Nursery,
    camera,
    fates,
    notes,
    open_mosquitto,
    pictures,
    proof,
    records,
    run_folder,
    run_folders,
    scenario,
    wait_for,
)


@pytest.fixture
def port(mosquitto: str, tmp_path: Path) -> Iterator[int]:
    with open_mosquitto(mosquitto, tmp_path) as port:
        yield port


@pytest.fixture
def start(nursery: Nursery, tmp_path: Path, port: int) -> Callable[..., Command]:
    """Starts a half; its run folder appears in a folder named `out`."""

    def start(half: str, out: str, *more: object, file: str = "tiny.yaml") -> Command:
        broker = f"mqtt://127.0.0.1:{port}"
        return nursery.start(half, file, "--broker", broker, "--out", out, *more, cwd=tmp_path)

    return start


def test_the_halves_meet_whoever_comes_first(
    nursery: Nursery, start: Callable[..., Command], tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 20)
    scenario(tmp_path, camera("north", fires=[{"id": "f", "onset": "1s"}]), camera("south"))
    consumer = start("consume", "c")
    wait_for(lambda: "waiting for the cameras" in consumer.out)
    cameras = start("cameras", "k")
    assert cameras.wait() == 0
    assert consumer.wait() == 0
    watched, played = run_folder(tmp_path / "c"), run_folder(tmp_path / "k")
    _, ledger = proof(watched, played)
    assert ledger.fates == {"answered": 40}
    code, score = nursery.run("score", watched, "--cameras", played, "--json", cwd=tmp_path)
    assert code == 0
    told = orjson.loads(score.out)
    assert told["ledger"]["balanced"] is True
    assert [(fire["fire"], fire["ttfd_frames"]) for fire in told["fires"]] == [("f", 0)]

    # The broker still holds the first fleet's last word; it must not end this consumer at once.
    second = start("consume", "c2")
    wait_for(lambda: "waiting for the cameras" in second.out)
    assert start("cameras", "k2").wait() == 0
    assert second.wait() == 0
    _, ledger = proof(run_folder(tmp_path / "c2"), run_folder(tmp_path / "k2"))
    assert ledger.fates == {"answered": 40}


def test_a_fleet_that_was_killed_is_not_waited_upon_and_the_next_one_is_joined(
    start: Callable[..., Command], nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 100)
    scenario(tmp_path, camera("north"), duration="3s")
    killed = start("cameras", "k")
    wait_for(lambda: "1 camera, " in killed.out)
    killed.send(signal.SIGKILL)
    nursery.code_of(killed.pid, 20)
    consumer = start("consume", "c")
    wait_for(lambda: "waiting for the cameras" in consumer.out)
    assert start("cameras", "k2").wait() == 0
    assert consumer.wait() == 0
    _, ledger = proof(run_folder(tmp_path / "c"), run_folder(tmp_path / "k2"))
    assert ledger.fates == {"answered": 30}


def test_a_consumer_that_joins_late_was_away_for_the_frames_before(
    start: Callable[..., Command], tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 600)
    scenario(tmp_path, camera("north"))
    cameras = start("cameras", "k")
    wait_for(lambda: run_folders(tmp_path / "k"))
    played = run_folder(tmp_path / "k")
    wait_for(lambda: len(records(played, "cameras.jsonl")) >= 10)
    consumer = start("consume", "c")
    wait_for(lambda: any(len(fates(folder)) >= 5 for folder in run_folders(tmp_path / "c")))
    cameras.send(signal.SIGINT)
    assert cameras.wait() == 130
    assert consumer.wait() == 0
    log, ledger = proof(run_folder(tmp_path / "c"), played)
    away = sorted(r.seq for r in log.frames if r.reason == "consumer_down")
    assert len(away) >= 10
    assert away == list(range(len(away))), "the first ones, without a gap"
    seen = ledger.scheduled - len(away)
    assert seen >= 5
    assert ledger.reasons == {"answered": seen, "lost(consumer_down)": len(away)}


def test_a_consumer_that_was_killed_goes_on_where_it_was(
    nursery: Nursery, start: Callable[..., Command], tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 600)
    scenario(tmp_path, camera("north"), camera("south"))
    consumer = start("consume", "c")
    wait_for(lambda: "waiting for the cameras" in consumer.out)
    cameras = start("cameras", "k")
    wait_for(lambda: run_folders(tmp_path / "c"))
    watched = run_folder(tmp_path / "c")
    wait_for(lambda: len(records(watched)) >= 20)
    consumer.send(signal.SIGKILL)
    nursery.code_of(consumer.pid, 20)
    before = len(load(watched).frames)
    again = start("consume", "c", "--resume", watched)
    wait_for(lambda: len(fates(watched)) >= before + 10)
    cameras.send(signal.SIGINT)
    assert cameras.wait() == 130
    assert again.wait() == 0
    played = run_folder(tmp_path / "k")
    code, score = nursery.run("score", watched, "--cameras", played, cwd=tmp_path)
    assert code == 0, score.err
    log, ledger = proof(watched, played)
    assert f"ledger: {ledger.scheduled} scheduled = " in score.out
    assert log.complete
    assert ledger.reasons["lost(consumer_down)"] > 0
    assert set(ledger.fates) == {"answered", "lost"}
    assert len(notes(log, "session_end")) == 1
    assert ledger.fates["answered"] > before


def test_a_consumer_can_be_resumed_after_the_cameras_have_ended(
    nursery: Nursery, start: Callable[..., Command], tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 600)
    scenario(tmp_path, camera("north"))
    consumer = start("consume", "c")
    wait_for(lambda: "waiting for the cameras" in consumer.out)
    cameras = start("cameras", "k")
    wait_for(lambda: run_folders(tmp_path / "c"))
    wait_for(lambda: len(records(run_folder(tmp_path / "c"))) > 5)
    consumer.send(signal.SIGKILL)
    nursery.code_of(consumer.pid, 20)
    cameras.send(signal.SIGINT)
    assert cameras.wait() == 130
    watched, played = run_folder(tmp_path / "c"), run_folder(tmp_path / "k")
    known = len(fates(watched))
    assert start("consume", "c", "--resume", watched).wait() == 0
    _, ledger = proof(watched, played)
    assert ledger.reasons == {"answered": known, "lost(consumer_down)": ledger.scheduled - known}

    scenario(tmp_path, camera("other"))
    other = start("consume", "c", "--resume", watched)
    assert other.wait() == 2
    assert "this folder watched other cameras than" in re.sub(r"\s+", " ", other.err)


def test_halves_with_different_scenarios_refuse_each_other(
    start: Callable[..., Command], tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 200)
    scenario(tmp_path, camera("south")).rename(tmp_path / "other.yaml")
    scenario(tmp_path, camera("north"))
    cameras = start("cameras", "k")
    wait_for(lambda: "1 camera, " in cameras.out)
    consumer = start("consume", "c", file="other.yaml")
    assert consumer.wait() == 2
    assert "play another scenario; start both halves with the same file" in re.sub(
        r"\s+", " ", consumer.err
    )
    assert run_folders(tmp_path / "c") == []
    cameras.send(signal.SIGINT)
    assert cameras.wait() == 130


def test_two_shards_see_every_camera_exactly_once(
    start: Callable[..., Command], tmp_path: Path
) -> None:
    names = [f"c{n}" for n in range(6)]
    assert {shard_of(name) % 2 for name in names} == {0, 1}
    pictures(tmp_path / "pictures", 20)
    scenario(tmp_path, *map(camera, names))
    consumers = [start("consume", f"half-{k}", "--shard", f"{k}/2") for k in (0, 1)]
    for consumer in consumers:
        wait_for(lambda consumer=consumer: "waiting for the cameras" in consumer.out)
    assert start("cameras", "k").wait() == 0
    seen: list[tuple[str, int]] = []
    for k, consumer in enumerate(consumers):
        assert consumer.wait() == 0
        log = load(run_folder(tmp_path / f"half-{k}"))
        assert {shard_of(r.camera) % 2 for r in log.frames} == {k}
        assert all(r.fate == "answered" for r in log.frames)
        seen += [(r.camera, r.seq) for r in log.frames]
    assert sorted(seen) == [(name, seq) for name in names for seq in range(20)]


async def test_plain_jpegs_of_foreign_cameras_are_watched_and_nothing_is_scored(
    start: Callable[..., Command], tmp_path: Path, port: int
) -> None:
    jpegs = [p.read_bytes() for p in sorted(pictures(tmp_path / "pictures", 10).iterdir())]
    scenario(
        tmp_path,
        camera("north"),
        engine={"name": "simulated", "profile": "always"},
    )
    consumer = start("consume", "c", "--topic", "site/{camera}/image")
    await asyncio.to_thread(wait_for, lambda: run_folders(tmp_path / "c"))
    watched = run_folder(tmp_path / "c")
    async with aiomqtt.Client("127.0.0.1", port) as stranger:
        await stranger.subscribe("earlyfire/#", qos=1)
        for jpeg in jpegs:
            await stranger.publish("site/gate/image", jpeg, qos=1)
            await stranger.publish("site/mast/image", jpeg, qos=1)
        alarms = {}
        async with asyncio.timeout(60):
            async for message in stranger.messages:
                if message.topic.value.endswith("/alarm"):
                    alarms[message.topic.value.split("/")[3]] = orjson.loads(message.payload)
                if len(alarms) == 2:
                    break
        assert {name: alarm["kind"] for name, alarm in alarms.items()} == {
            "gate": "unknown",
            "mast": "unknown",
        }
        frames = await asyncio.to_thread(
            wait_for,
            lambda: len(found := fates(watched)) == 20 and found,
        )
    consumer.send(signal.SIGINT)
    assert await asyncio.to_thread(consumer.wait) == 130
    assert sorted((f["camera"], f["seq"]) for f in frames) == [
        (name, seq) for name in ("gate", "mast") for seq in range(10)
    ]
    assert {f["fate"] for f in frames} == {"answered"}
    assert not (watched / "score.json").exists()
