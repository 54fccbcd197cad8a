"""Two and four watchers on one real Mosquitto: no frame is seen twice or missed, none unproved."""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from earlyfire_stream import merged, run
from earlyfire_stream.frames import shard_of
from earlyfire_stream.records import load
from earlyfire_stream.scoring.ledger import balance
from tests.fakes.worker import FakeWorker
from tests.playing import (
    Command,
    Nursery,
    camera,
    fates,
    loaded,
    notes,
    open_mosquitto,
    pictures,
    proof,
    records,
    run_folder,
    run_folders,
    scenario,
    until,
    wait_for,
    within,
)

NAMES = [f"c{n}" for n in range(16)]
Start = Callable[..., Command]


@pytest.fixture
def port(mosquitto: str, tmp_path: Path) -> Iterator[int]:
    with open_mosquitto(mosquitto, tmp_path) as port:
        yield port


@pytest.fixture
def start(nursery: Nursery, tmp_path: Path, port: int) -> Start:
    def start(half: str, out: str, *more: object) -> Command:
        broker = f"mqtt://127.0.0.1:{port}"
        return nursery.start(
            half, "tiny.yaml", "--broker", broker, "--out", out, *more, cwd=tmp_path
        )

    return start


def watchers(start: Start, count: int) -> list[Command]:
    """All of them subscribed before they are given back."""
    started = [start("consume", f"w{k}", "--shard", f"{k}/{count}") for k in range(count)]
    for one in started:
        wait_for(lambda one=one: "waiting for the cameras" in one.out)
    return started


def seqs_sent(folder: Path) -> list[int]:
    return [r["v"]["seq"] for r in records(folder, "cameras.jsonl") if r["k"] == "shot"]


def seen_after(seq: int, folder: Path) -> bool:
    return any(f["fate"] == "answered" and f["seq"] > seq for f in fates(folder))


@pytest.mark.parametrize("count", [2, 4])
def test_so_many_watchers_see_every_frame_exactly_once(
    nursery: Nursery, start: Start, tmp_path: Path, count: int
) -> None:
    assert len({shard_of(name) % count for name in NAMES}) == count
    pictures(tmp_path / "pictures", 20)
    fire = [{"id": "oak", "onset": "1s"}]
    scenario(tmp_path, *(camera(n, interval="200ms", fires=fire) for n in NAMES))
    started = watchers(start, count)
    assert start("cameras", "k").wait() == 0
    for one in started:
        assert one.wait() == 0
    folders = [run_folder(tmp_path / f"w{k}") for k in range(count)]
    played = run_folder(tmp_path / "k")

    # by the logs themselves, before anything merges them
    scheduled = {(s["v"]["camera"], s["v"]["seq"]) for s in records(played, "cameras.jsonl")}
    seen = Counter((f["camera"], f["seq"]) for folder in folders for f in fates(folder))
    assert len(scheduled) == 16 * 20
    assert seen == dict.fromkeys(scheduled, 1)
    for k, folder in enumerate(folders):
        assert {shard_of(f["camera"]) % count for f in fates(folder)} == {k}

    asked = ["score", *folders, "--cameras", played, "--output", "whole", "--json"]
    code, command = nursery.run(*asked, cwd=tmp_path)
    assert code == 0, command.err
    told = orjson.loads(command.out)
    assert told["ledger"]["balanced"] is True
    assert told["ledger"]["scheduled"] == 320
    assert told["ledger"]["fates"] == {"answered": 320}
    assert told["answers"]["sent"] == 320
    assert [(view["camera"], view["ttfd_frames"]) for view in told["fires"]] == [
        (name, 0) for name in NAMES
    ]
    assert (tmp_path / "whole" / "report.html").exists()

    code, command = nursery.run("score", *folders[1:], "--cameras", played, "-o", "w", cwd=tmp_path)
    assert code == 2
    lacking = sum(shard_of(name) % count == 0 for name in NAMES)
    said = re.sub(r"\s+", " ", command.err)
    assert f"{lacking} of 16 cameras are in none of these folders (" in said
    assert f"missing: 0/{count}" in said
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("resumed", [True, False], ids=["in its folder", "in a new one"])
def test_a_watcher_that_is_killed_loses_what_was_under_way_and_the_others_nothing(
    nursery: Nursery, start: Start, tmp_path: Path, resumed: bool
) -> None:
    pictures(tmp_path / "pictures", 600)
    scenario(tmp_path, *(camera(n) for n in NAMES))
    alive, killed = watchers(start, 2)
    cameras = start("cameras", "k")
    folder = wait_for(lambda: run_folders(tmp_path / "w1"))[0]
    wait_for(lambda: len(fates(folder)) >= 40)
    killed.send(signal.SIGKILL)
    nursery.code_of(killed.pid, 20)
    before = {(f["camera"], f["seq"]) for f in fates(folder)}
    # something is sent while nobody is there, however soon the next one is
    newest = max(seq for _, seq in before)
    wait_for(lambda: max(seqs_sent(run_folder(tmp_path / "k"))) > newest + 5)
    more = ("--resume", folder) if resumed else ()
    again = start("consume", "w1" if resumed else "again", "--shard", "1/2", *more)
    theirs = tmp_path / ("w1" if resumed else "again")
    wait_for(lambda: any(seen_after(newest, one) for one in run_folders(theirs)))
    cameras.send(signal.SIGINT)
    assert [one.wait() for one in (cameras, again, alive)] == [130, 0, 0]

    folders = [run_folder(tmp_path / "w0"), folder]
    if not resumed:
        folders.append(run_folder(tmp_path / "again"))
    log = merged.whole(folders, run_folder(tmp_path / "k")).read()
    ledger = balance(log)
    assert ledger.balanced, ledger
    assert log.complete
    assert ledger.scheduled == len(log.shots) > 16 * newest
    assert set(ledger.fates) == {"answered", "lost"}
    lost = [f for f in log.frames if f.fate == "lost"]
    assert {f.reason for f in lost} == {"consumer_down"}
    assert {shard_of(f.camera) % 2 for f in lost} == {1}, "none of the watcher that stayed"
    assert len(notes(log, "session_end")) == 2
    # what was recorded before stays as it was, and what is lost is one stretch of each camera
    assert before <= {(f.camera, f.seq) for f in log.frames if f.fate == "answered"}
    for name in {f.camera for f in lost}:
        away = sorted(f.seq for f in lost if f.camera == name)
        assert away == list(range(away[0], away[0] + len(away)))
    assert len({(f.camera, f.seq) for f in log.frames}) == len(log.frames)


def test_watchers_of_two_fleets_do_not_add_up(
    nursery: Nursery, start: Start, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 5)
    scenario(tmp_path, *(camera(n) for n in NAMES[:4]))
    for fleet in ("first", "second"):
        started = [
            start("consume", f"{fleet}{k}", "--shard", f"{k}/2", "--run", fleet) for k in (0, 1)
        ]
        for one in started:
            wait_for(lambda one=one: "waiting for the cameras" in one.out)
        assert start("cameras", f"{fleet}-k", "--run", fleet).wait() == 0
        assert [one.wait() for one in started] == [0, 0]
    mixed = [run_folder(tmp_path / name) for name in ("first0", "second1")]
    code, command = nursery.run("score", *mixed, "--output", "whole", cwd=tmp_path)
    assert code == 2
    assert "run second instead of first" in re.sub(r"\s+", " ", command.err)
    ours = [run_folder(tmp_path / f"first{k}") for k in (0, 1)]
    theirs = run_folder(tmp_path / "second-k")
    code, command = nursery.run("score", *ours, "--cameras", theirs, "-o", "whole", cwd=tmp_path)
    assert code == 2
    assert "plays another scenario or run than" in re.sub(r"\s+", " ", command.err)
    code, command = nursery.run("score", *ours, theirs, "-o", "whole", cwd=tmp_path)
    assert code == 2
    assert "only cameras played there; name it with --cameras" in re.sub(r"\s+", " ", command.err)
    assert not (tmp_path / "whole").exists()
    code, command = nursery.run("score", *ours, "-o", "whole", cwd=tmp_path)
    assert code == 0, command.err
    assert "name the folder of the cameras with --cameras" in re.sub(r"\s+", " ", command.out)


def test_a_watcher_of_a_part_knows_when_the_fires_of_its_cameras_begin(
    start: Start, tmp_path: Path
) -> None:
    """Recordings begin at a phase that follows from the whole fleet, not from the part."""
    pictures(tmp_path / "pictures", 10)
    scenario(tmp_path, *(camera(n, fires=[{"id": n, "onset": "500ms"}]) for n in NAMES[:6]))
    started = watchers(start, 2)
    assert start("cameras", "k").wait() == 0
    assert [one.wait() for one in started] == [0, 0]
    told = {plan.id: plan for plan in load(run_folder(tmp_path / "k")).cameras}
    begins = [plan.fires[0].onset for plan in told.values()]
    assert len(set(begins)) == 6
    for k in (0, 1):
        folder = run_folder(tmp_path / f"w{k}")
        known = load(folder).cameras
        assert [plan.fires[0].onset for plan in known] == [
            told[plan.id].fires[0].onset for plan in known
        ]


# --- several workers behind one watcher ----------------------------------------------------------


def looks(worker: FakeWorker) -> int:
    return sum(body.get("user") != "warm-up" for body in worker.requests)


async def test_two_workers_share_the_looks_of_one_watcher_and_one_of_them_may_go(
    tmp_path: Path,
) -> None:
    """Workers that speak as ours do; a real run asks them, and one leaves in the middle."""
    pictures(tmp_path / "pictures", 30, (320, 240))
    async with FakeWorker() as stays, AsyncExitStack() as stack:
        leaves = await stack.enter_async_context(FakeWorker())
        asked = loaded(
            tmp_path,
            *(camera(name, interval="200ms") for name in NAMES[:6]),
            # 8 at a time for each worker, also after a moment in which frames have piled up
            engine={"name": "hf", "workers": [stays.root, leaves.root], "concurrency": 16},
        )
        options = run.Options(broker="memory", out=tmp_path / "runs")
        playing = asyncio.create_task(run.play(asked, options, [], asyncio.Event()))
        await until(lambda: (looks(stays) > 20 and looks(leaves) > 20) or playing.done())
        assert not playing.done()
        await stack.aclose()
        gone_after = looks(leaves)
        outcome = await within(playing)
    log, ledger = proof(outcome.folder)
    assert ledger.scheduled == 180
    assert set(ledger.fates) <= {"answered", "engine_error"}
    assert ledger.fates.get("engine_error", 0) <= 8, "no more than were with the one that went"
    assert looks(stays) > gone_after
    last = {name: max(f.seq for f in log.frames if f.camera == name) for name in NAMES[:6]}
    ends = [f for f in log.frames if f.seq == last[f.camera]]
    assert {f.fate for f in ends} == {"answered"}
