"""The run folder: what is written is read back, and what breaks says where."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import RunFolderError, UsageError
from earlyfire_stream.records import (
    CAMERAS_LOG,
    RECORDS_LOG,
    UNTOLD,
    AlarmRecord,
    Answer,
    CameraPlan,
    Explanation,
    FirePlan,
    FrameRecord,
    FrameTable,
    Log,
    RunLog,
    SecondLook,
    Shot,
    Tail,
    load,
    read_faults,
    read_plans,
    write_json,
)
from earlyfire_stream.verdict import Alarm, Box, Fate, Reason, Truth, Verdict

BOX = Box(0.5, 0.25, 0.125, 0.0625)
SHOT = Shot(
    camera="north",
    seq=3,
    captured_at=30.25,
    captured_ns=1_700_000_000_000_000_003,
    late_s=0.125,
    unsent=Reason.OUTAGE,
    identity="ab" * 16,
    size_bytes=4711,
    smoke=True,
    truth=(Truth("oak", BOX), Truth("elm")),
    boxed=True,
)
ANSWER = Answer(
    started_ns=1,
    decided_ns=2,
    answered_ns=3,
    sent_size=(1288, 728),
    visual_tokens=1196,
    prompt_tokens=1500,
    output_tokens=31,
    finish="stop",
    text='{"has_smoke": true}\n\u2028 „ü“',
    verdict=Verdict(True, BOX, 0.75, ("fences", "comma")),
    box_error="none",
    server={"load_s": 0.5},
    context=(1, 2),
    second=SecondLook(
        crop=BOX,
        sent_size=(812, 364),
        started_ns=2,
        answered_ns=3,
        visual_tokens=377,
        first=Verdict(True, BOX, 0.5, ("comma",)),
        verdict=Verdict(False, None, 0.25),
        text="no",
        error="none",
    ),
)
FRAME = FrameRecord(
    camera="north",
    seq=3,
    captured_at=30.25,
    captured_ns=1_700_000_000_000_000_003,
    fate=Fate.ANSWERED,
    reason=Reason.NONE,
    detail="all is well",
    received_ns=5,
    published_ns=4,
    admitted=True,
    identity="cd" * 16,
    answer=ANSWER,
)
ALARM = AlarmRecord(Alarm("north", (1, 3), 30.25, 2, BOX, 0.75), True, 9)
EXPLANATION = Explanation("north", 3, 10, 20, 1196, "pale plume", 5, "none")
PLANS = (
    CameraPlan(
        "north",
        (FirePlan("oak", 10.0, 90.0), FirePlan("elm", 20.0)),
        60.0,
        True,
        (((0.0, 0.0), (0.5, 0.0), (0.5, 0.5)),),
        ((5.0, 6.0),),
    ),
    CameraPlan("south", truth=False),
)
RUN = {
    "schema": 1,
    "digest": "d1",
    "cameras": PLANS,
    "complete": True,
    "speed": 2.0,
    "played_s": 120.5,
    "settings": {"alarm": {"k": 2, "n": 3}},
}


def run_folder(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / "run.json", RUN | changes)
    return folder


def in_log(path: Path, *items: Any, rotate_bytes: int = 10**9, pause_s: float = 0.0) -> None:
    async def main() -> None:
        async with Log(path, rotate_bytes) as log:
            for item in items:
                log.write(item)
                await asyncio.sleep(pause_s)

    virtual_run(main())


# --- round trip ---


def test_every_record_is_read_back_with_every_field(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    for item in (SHOT, FRAME, ANSWER):  # a field left at its default would prove nothing
        untouched = [f.name for f in fields(item) if getattr(item, f.name) == f.default]
        assert untouched in ([], ["reason"])
    silent = replace(FRAME, seq=4, fate=Fate.LOST, reason=Reason.GAP, answer=None, received_ns=None)
    unread = replace(
        FRAME, seq=5, fate=Fate.BAD_JSON, reason=Reason.SCHEMA, answer=replace(ANSWER, verdict=None)
    )
    boxless = replace(FRAME, seq=6, answer=replace(ANSWER, verdict=Verdict(False)))
    bare = AlarmRecord(Alarm("north", (7,), 1.0, 2), False, 3)
    unknown = Shot("south", 0, 0.0, 1)
    in_log(folder / CAMERAS_LOG, SHOT, unknown)
    in_log(folder / RECORDS_LOG, FRAME, silent, ALARM, unread, EXPLANATION, boxless, bare)

    log = load(folder)

    assert list(log.shots) == [SHOT, unknown]
    assert list(log.frames) == [FRAME, silent, unread, boxless]
    assert list(log.alarms) == [ALARM, bare]
    assert list(log.explanations) == [EXPLANATION]
    assert tuple(log.cameras) == PLANS
    assert (log.complete, log.speed, log.duration_s, log.torn_lines) == (True, 2.0, 120.5, 0)
    assert log.alarm_policy == {"k": 2, "n": 3}


def test_a_log_without_the_newer_fields_is_read_with_their_defaults(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    in_log(folder / RECORDS_LOG, FRAME)
    line = orjson.loads((folder / RECORDS_LOG).read_bytes())
    for late in ("server", "context"):
        del line["v"]["answer"][late]
    del line["v"]["identity"]
    (folder / RECORDS_LOG).write_bytes(orjson.dumps(line) + b"\n")
    (frame,) = load(folder).frames
    assert frame == replace(FRAME, identity="", answer=replace(ANSWER, server={}, context=()))


def test_frames_are_a_sequence_that_can_be_cut_and_counted_from_the_end(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    made = [replace(FRAME, seq=seq) for seq in range(3)]
    in_log(folder / RECORDS_LOG, *made)
    frames = load(folder).frames
    assert (frames[0], frames[-1], frames[1:]) == (made[0], made[2], made[1:])
    assert frames == made
    assert frames != made[:2]
    with pytest.raises(IndexError):
        frames[3]


def test_the_columns_of_frames_and_their_answers_are_arrays(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    bare = replace(FRAME, camera="south", answer=None, received_ns=None)
    in_log(folder / RECORDS_LOG, bare, FRAME)
    frames = FrameTable.of(load(folder).frames)
    assert frames.cameras == ["south", "north"]
    assert frames.column("camera").tolist() == [0, 1]
    assert frames.column("received_ns").tolist() == [UNTOLD, 5]
    assert frames.column("answer").tolist() == [0, 1]
    assert frames.answer_column("verdict").tolist() == [1]
    assert [(n, p.tolist(), v.tolist()) for n, p, v in frames.server()] == [
        (("load_s",), [0], [[0.5]])
    ]


def test_a_large_cameras_log_is_read_by_a_second_process_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(tmp_path / "run")
    in_log(folder / CAMERAS_LOG, SHOT, replace(SHOT, seq=4))
    in_log(folder / RECORDS_LOG, FRAME, ALARM)
    alone = load(folder)
    monkeypatch.setattr("earlyfire_stream.records.APART_BYTES", 1)
    assert load(folder) == alone
    assert list(alone.shots) == [SHOT, replace(SHOT, seq=4)]

    (folder / CAMERAS_LOG).write_bytes(b"{}\n")  # what is wrong there is told all the same
    with pytest.raises(RunFolderError, match=r"cameras\.jsonl, line 1: no record"):
        load(folder)


@pytest.mark.parametrize("python", ["false", "there-is-no-such-program"])
def test_where_no_second_process_will_start_the_log_is_read_by_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    folder = run_folder(tmp_path / "run")
    in_log(folder / CAMERAS_LOG, SHOT)
    monkeypatch.setattr("earlyfire_stream.records.APART_BYTES", 1)
    monkeypatch.setattr(sys, "executable", python)
    assert list(load(folder).shots) == [SHOT]


def test_a_log_that_holds_the_others_records_is_read_all_the_same(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    in_log(folder / CAMERAS_LOG, SHOT, FRAME)
    in_log(folder / RECORDS_LOG, replace(SHOT, seq=4), replace(FRAME, seq=4), ALARM)
    log = load(folder)
    assert [s.seq for s in log.shots] == [3, 4]
    assert [f.seq for f in log.frames] == [3, 4]
    assert list(log.alarms) == [ALARM]


def test_reading_leaves_run_json_as_it_stands(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    assert load(folder).run == orjson.loads((folder / "run.json").read_bytes())


def test_notes_are_kept_and_the_sessions_duplicates_added_up(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")

    async def main() -> None:
        async with Log(folder / RECORDS_LOG) as log:
            log.note("session_end", 5, duplicates=3, refused={"not_jpeg": 1})
            log.note("pulse", 6, rss_bytes=None)
            log.note("session_end", 7, duplicates=4)

    virtual_run(main())
    log = load(folder)
    assert log.duplicates == 7
    assert [n["what"] for n in log.notes] == ["session_end", "pulse", "session_end"]
    assert log.notes[0] == {
        "what": "session_end", "wall_ns": 5, "duplicates": 3, "refused": {"not_jpeg": 1},
    }  # fmt: skip


def test_a_run_that_has_recorded_nothing_yet_can_be_read(tmp_path: Path) -> None:
    log = load(run_folder(tmp_path / "run", complete=False, played_s=None))
    assert (log.shots, log.frames, log.alarms, log.notes) == ([], [], [], [])
    assert (log.complete, log.duration_s) == (False, None)


# --- writing ---


def test_lines_are_on_disk_a_second_after_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / RECORDS_LOG

    async def main() -> list[int]:
        seen = []
        async with Log(path) as log:
            log.write(FRAME)
            for _ in range(3):
                await asyncio.sleep(0.6)
                seen.append(path.read_bytes().count(b"\n"))
        return seen

    assert virtual_run(main()) == [0, 1, 1]


def test_leaving_writes_what_is_still_buffered_even_when_the_body_fails(tmp_path: Path) -> None:
    path = tmp_path / RECORDS_LOG

    async def main() -> None:
        async with Log(path) as log:
            log.write(FRAME)
            raise KeyError("the run's own failure")

    with pytest.raises(KeyError, match="own failure"):
        virtual_run(main())
    assert path.read_bytes().count(b"\n") == 1


async def test_a_flush_still_under_way_in_its_thread_is_waited_for(tmp_path: Path) -> None:
    class SlowLog(Log):
        FLUSH_S = 0.0

    path = tmp_path / RECORDS_LOG
    began, go_on = threading.Event(), threading.Event()

    class Slow:
        """The log's file, whose first write takes until it is told to go on, byte by byte."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: bytes) -> int:
            began.set()
            assert go_on.wait(10)
            return int(self._file.write(data[:40]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    async with SlowLog(path) as log:
        log._file = Slow(log._file)  # type: ignore[assignment]
        log.write(replace(FRAME, seq=1))
        assert await asyncio.to_thread(began.wait, 10)
        log.write(replace(FRAME, seq=2))
        asyncio.get_running_loop().call_soon(go_on.set)
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["v"]["seq"] for line in lines] == [1, 2]


def test_past_its_size_the_log_is_set_aside_compressed_and_read_back_in_order(
    tmp_path: Path,
) -> None:
    folder = run_folder(tmp_path / "run")
    shots = [replace(SHOT, seq=seq) for seq in range(10)]
    line = len(orjson.dumps({"k": "shot", "v": SHOT})) + 1
    in_log(folder / CAMERAS_LOG, *shots, rotate_bytes=3 * line, pause_s=1.0)
    names = sorted(p.name for p in folder.glob("cameras*"))
    assert names == [
        "cameras-0001.jsonl.gz",
        "cameras-0002.jsonl.gz",
        "cameras-0003.jsonl.gz",
        "cameras.jsonl",
    ]
    with gzip.open(folder / "cameras-0001.jsonl.gz") as part:
        assert len(part.readlines()) == 3
    assert list(load(folder).shots) == shots


def test_a_log_that_is_continued_counts_its_parts_on(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    for seq in range(3):
        in_log(folder / RECORDS_LOG, replace(FRAME, seq=seq), rotate_bytes=1, pause_s=1.0)
    assert len(list(folder.glob("records-*.jsonl.gz"))) == 3
    assert [f.seq for f in load(folder).frames] == [0, 1, 2]


def told_by(tail: Tail) -> list[int]:
    """The seqs of all that is there, asked until nothing new has come twice."""
    seqs: list[int] = []
    silent = 0
    while silent < 2:
        items = tail.more()
        silent = 0 if items else silent + 1
        seqs += [item.seq for item in items if isinstance(item, FrameRecord)]
    return seqs


def test_who_follows_a_log_gets_each_record_once_across_its_rotation(tmp_path: Path) -> None:
    path = tmp_path / RECORDS_LOG
    in_log(path, replace(FRAME, seq=0), rotate_bytes=1, pause_s=1.0)
    in_log(path, replace(FRAME, seq=1))
    tail = Tail(path)
    assert told_by(tail) == [0, 1]
    in_log(path, replace(FRAME, seq=2), rotate_bytes=1, pause_s=1.0)
    in_log(path, replace(FRAME, seq=3))
    assert told_by(tail) == [2, 3]
    tail.close()


def test_what_is_written_just_before_a_rotation_is_not_lost_to_who_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / RECORDS_LOG
    in_log(path, replace(FRAME, seq=0))
    tail = Tail(path)
    assert told_by(tail) == [0]
    look = tail._rotated

    def late() -> bool:
        monkeypatch.undo()
        in_log(path, replace(FRAME, seq=1), rotate_bytes=1, pause_s=1.0)
        return look()

    monkeypatch.setattr(tail, "_rotated", late)
    assert told_by(tail) == [1]
    tail.close()


def test_a_part_that_was_left_half_packed_is_read_once(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    in_log(folder / RECORDS_LOG, FRAME, rotate_bytes=1, pause_s=1.0)
    packed = folder / "records-0001.jsonl.gz"
    plain = gzip.decompress(packed.read_bytes())
    (folder / "records-0001.jsonl").write_bytes(plain)  # killed before it was removed
    assert len(load(folder).frames) == 1
    packed.rename(folder / "records-0001.jsonl.gz.tmp")  # killed while it was packed
    assert len(load(folder).frames) == 1


# --- torn and broken lines ---


def test_a_torn_last_line_is_counted_and_left_out(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    in_log(folder / RECORDS_LOG, FRAME, replace(FRAME, seq=4))
    path = folder / RECORDS_LOG
    whole = path.read_bytes()
    for cut in (1, 2, 50):
        path.write_bytes(whole[:-cut])
        log = load(folder)
        assert [f.seq for f in log.frames] == [3]
        assert log.torn_lines == 1


def test_a_continued_log_cuts_off_what_was_torn(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    path = folder / RECORDS_LOG
    in_log(path, FRAME, replace(FRAME, seq=4))
    path.write_bytes(path.read_bytes()[:-20])
    in_log(path, replace(FRAME, seq=5))
    log = load(folder)
    assert [f.seq for f in log.frames] == [3, 5]
    assert log.torn_lines == 0


def test_a_log_that_is_nothing_but_a_torn_line_begins_anew(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / RECORDS_LOG).write_bytes(b'{"k":"frame","v":{"cam')
    in_log(folder / RECORDS_LOG, FRAME)
    assert list(load(folder).frames) == [FRAME]


@pytest.mark.parametrize(
    "line",
    [
        b'{"k":"frame","v":{"cam',
        b"",
        b"\x00\x00",
        b"[]",
        b"{}",
        b'{"k":"frame"}',
        b'{"k":"frame","v":{}}',
        b'{"k":"frame","v":[1]}',
        b'{"k":"shot","v":{"unsent":"by mistake","truth":[]}}',
        b'{"k":"shot","v":{"unsent":"","truth":[],"colour":"red"}}',
        orjson.dumps({"k": "frame", "v": replace(FRAME, seq=2**63)}),
        orjson.dumps({"k": "frame", "v": replace(FRAME, seq=1.5)}),
        orjson.dumps({"k": "frame", "v": replace(FRAME, camera=["north"])}),
        orjson.dumps({"k": "frame", "v": replace(FRAME, answer=[1])}),
        orjson.dumps({"k": "frame", "v": replace(FRAME, answer=replace(ANSWER, server=[]))}),
        orjson.dumps({"k": "frame", "v": replace(FRAME, answer=replace(ANSWER, sent_size=1))}),
        orjson.dumps({"k": "frame", "v": replace(FRAME, answer=replace(ANSWER, text=None))}),
        orjson.dumps({"k": "shot", "v": replace(SHOT, smoke="yes")}),
        b'{"k":"note","v":{"what":"pulse"}}',
        b'{"k":"poem","v":{}}',
        b'{"k":"frame","v":{"caf\xff',
    ],
)
def test_a_broken_line_in_the_middle_is_an_error_with_its_number(
    tmp_path: Path, line: bytes
) -> None:
    folder = run_folder(tmp_path / "run")
    path = folder / RECORDS_LOG
    in_log(path, FRAME, replace(FRAME, seq=4))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + second)
    with pytest.raises(RunFolderError, match=r"records\.jsonl, line 2: no record"):
        load(folder)


def test_a_damaged_part_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    in_log(folder / RECORDS_LOG, FRAME, rotate_bytes=1, pause_s=1.0)
    part = folder / "records-0001.jsonl.gz"
    whole = part.read_bytes()
    for broken in (whole[:-10], whole[:40], b"no gzip", whole[:20] + b"\xff" * 20 + whole[40:]):
        part.write_bytes(broken)
        with pytest.raises(RunFolderError, match=r"records-0001\.jsonl\.gz"):
            load(folder)


# --- disks that are full ---


def full_log(folder: Path) -> Path:
    path = folder / RECORDS_LOG
    path.symlink_to("/dev/full")
    return path


def test_a_full_disk_is_raised_to_whoever_waits_for_failure(tmp_path: Path) -> None:
    async def main() -> None:
        async with Log(full_log(tmp_path), held_bytes=10_000) as log:
            for _ in range(100):  # more than may wait for room
                log.write(FRAME)
            with pytest.raises(RunFolderError, match="the disk is full; free some space"):
                await asyncio.wait_for(log.failed(), 5)
            raise RunFolderError("seen")

    with pytest.raises(RunFolderError, match="the disk is full"):
        virtual_run(main())


def test_a_full_disk_is_raised_from_leaving_though_nobody_waited(tmp_path: Path) -> None:
    async def early() -> None:
        async with Log(full_log(tmp_path)) as log:
            log.write(FRAME)
            await asyncio.sleep(5)

    with pytest.raises(RunFolderError, match="the disk is full"):
        virtual_run(early())

    async def late() -> None:
        async with Log(tmp_path / RECORDS_LOG) as log:
            log.write(FRAME)

    with pytest.raises(RunFolderError, match="the disk is full"):
        virtual_run(late())


def test_what_came_while_the_disk_was_full_is_written_once_there_is_room(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    path = full_log(folder)
    real = folder / "real"

    async def main() -> None:
        async with Log(path) as log:
            for seq in range(30):
                log.write(Shot("north", seq, float(seq), seq))
                await asyncio.sleep(1)
                if seq == 19:
                    assert log._file is not None
                    with real.open("ab") as room:
                        os.dup2(room.fileno(), log._file.fileno())

    virtual_run(main())
    path.unlink()
    real.rename(path)
    log = load(folder)
    assert [shot.seq for shot in log.shots] == list(range(30))
    assert log.torn_lines == 0


def test_a_line_that_is_being_made_while_another_thread_writes_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = orjson.dumps

    async def main() -> None:
        async with Log(tmp_path / "cameras.jsonl") as log:

            def interrupted(item: Any) -> bytes:
                log._flush()
                return plain(item)

            log.write(Shot("c", 0, 0.0, 1))
            with monkeypatch.context() as patch:
                patch.setattr(orjson, "dumps", interrupted)
                log.write(Shot("c", 1, 1.0, 2))

    virtual_run(main())
    lines = (tmp_path / "cameras.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line)["v"]["seq"] for line in lines] == [0, 1]


@pytest.mark.parametrize("step", ["rename", "open"])
def test_a_log_that_finds_no_room_for_a_new_file_goes_on_in_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "cameras.jsonl"

    def no_room(self: Path, *how: Any, **more: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main() -> None:
        async with Log(path, rotate_bytes=1) as log:
            with monkeypatch.context() as patch:
                patch.setattr(Path, step, no_room)
                log.write(Shot("c", 0, 0.0, 1))
                await asyncio.sleep(2)
                assert os.listdir(tmp_path) == ["cameras.jsonl"]
            log.write(Shot("c", 1, 1.0, 2))
            await asyncio.sleep(2)

    virtual_run(main())
    assert path.read_bytes() == b""
    with gzip.open(tmp_path / "cameras-0001.jsonl.gz") as part:
        assert [orjson.loads(line)["v"]["seq"] for line in part] == [0, 1]


def test_a_log_that_cannot_be_set_aside_is_whole_and_says_nothing_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cameras.jsonl"

    def no_room(self: Path, target: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", no_room)
    in_log(path, Shot("c", 0, 0.0, 1), rotate_bytes=1, pause_s=1.0)
    assert [orjson.loads(line)["v"]["seq"] for line in path.read_bytes().splitlines()] == [0]
    assert caplog.messages == []


def test_a_log_whose_leaving_is_cancelled_is_written_and_says_that_it_was_cancelled(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cameras.jsonl"

    async def logged() -> None:
        async with Log(path) as log:
            log.write(Shot("c", 0, 0.0, 1))

    async def main() -> None:
        for turns in range(4):
            logging = asyncio.create_task(logged())
            for _ in range(turns):
                await asyncio.sleep(0)
            ended = logging.done()
            logging.cancel()
            await asyncio.wait({logging})
            assert logging.cancelled() or ended
            assert not path.exists() or path.read_bytes().endswith(b"}\n")
            path.unlink(missing_ok=True)

    virtual_run(main())


def test_no_fate_is_written_while_the_schedule_waits_for_room(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")

    async def main() -> None:
        async with (
            Log(folder / CAMERAS_LOG) as schedule,
            Log(folder / RECORDS_LOG, behind=schedule) as fates,
        ):
            schedule.no_room = True
            schedule.write(Shot("north", 0, 0.0, 0))
            fates.write(FRAME)
            await asyncio.sleep(3)
            assert (folder / CAMERAS_LOG).read_bytes() == b""
            assert (folder / RECORDS_LOG).read_bytes() == b""
            schedule.no_room = False
            await asyncio.sleep(3)
            assert (folder / CAMERAS_LOG).read_bytes().count(b"\n") == 1
            assert (folder / RECORDS_LOG).read_bytes().count(b"\n") == 1

    virtual_run(main())


def test_after_a_failed_write_nothing_is_put_behind_the_half_line(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    program = """
import asyncio, resource, sys
from pathlib import Path
from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import RunFolderError
from earlyfire_stream.records import Log, Shot

async def main():
    async with Log(Path(sys.argv[1])) as log:
        for seq in range(100):
            log.write(Shot("north", seq, float(seq), seq))
            await asyncio.sleep(1)
            if seq == 10:
                resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
            if seq == 50:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

try:
    virtual_run(main())
except RunFolderError as why:
    print(why)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / CAMERAS_LOG)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "cannot be written" in done.stdout
    assert "disk is full" in done.stdout
    log = load(folder)
    assert [s.seq for s in log.shots] == list(range(len(log.shots)))
    assert 11 <= len(log.shots) < 50
    assert log.torn_lines == 1


def test_a_folder_that_is_not_there_is_an_error_on_entering(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"cannot be written: No such file.*--out"):
        in_log(tmp_path / "nowhere" / RECORDS_LOG)


# --- run.json and its kin ---


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    write_json(path, {"a": 1})
    write_json(path, {"b": 2.5})
    assert orjson.loads(path.read_bytes()) == {"b": 2.5}
    assert [p.name for p in tmp_path.iterdir()] == ["score.json"]


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda monkeypatch: None, TypeError),
        (lambda m: m.setattr("os.fsync", _no_space), RunFolderError),
        (lambda m: m.setattr(Path, "replace", _no_space), RunFolderError),
    ],
)
def test_json_that_cannot_be_written_leaves_the_old_file_and_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    error: type[Exception],
) -> None:
    path = tmp_path / "score.json"
    write_json(path, {"a": 1})
    break_it(monkeypatch)
    with pytest.raises(error):
        write_json(path, {"a": object()} if error is TypeError else {"a": 2})
    monkeypatch.undo()
    assert orjson.loads(path.read_bytes()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["score.json"]


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


# --- folders that are none ---


def test_a_folder_that_does_not_exist_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run folder"):
        load(tmp_path / "nowhere")


def test_a_file_of_a_run_folder_is_told_from_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "score.json").write_text("{}")
    with pytest.raises(UsageError, match="a file; name the run folder it lies in"):
        load(tmp_path / "score.json")


def test_a_folder_without_run_json_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run folder \(it holds no run\.json\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "cannot be read"),
        (b'{"schema": 1', "cannot be read"),
        (b"[]", "no run of this version"),
        (b'{"schema": 2}', "no run of this version"),
        (b'{"schema": 1}', "lacks 'digest'"),
    ],
)
def test_a_run_json_that_cannot_be_used_is_an_error(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "run.json").write_bytes(text)
    with pytest.raises(RunFolderError, match=said):
        load(tmp_path)


@pytest.mark.parametrize("key", ["engine", "versions", "host", "git", "warnings"])
def test_a_run_json_that_tells_something_else_than_it_should_is_an_error(
    tmp_path: Path, key: str
) -> None:
    write_json(tmp_path / "run.json", RUN | {key: 7})
    with pytest.raises(RunFolderError, match=rf"run\.json: {key} is no (dict|list)"):
        load(tmp_path)
    write_json(tmp_path / "run.json", RUN | {"engine": {"prompt": {}, "cold_start_s": "1 s"}})
    with pytest.raises(RunFolderError, match=r"run\.json: engine\.cold_start_s is no float"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": ["a"]}, "a camera with ['a'] for a text"),
        ({"outages": [[0.0, "x"]]}, "a camera with 'x' for a number"),
        ({"cadence_s": "1s"}, "a cadence with '1s' for a number"),
        ({"truth": {}}, "truth is {}"),
        ({"fires": [{"id": "f", "onset": ""}]}, "a fire with '' for a number"),
        ({"fires": [{"id": "f", "onset": 1.0, "onset_source": 5}]}, "a fire with 5 for a text"),
    ],
)
def test_a_plan_that_is_none_is_refused_before_anything_is_scored(
    changes: dict[str, Any], said: str
) -> None:
    plan = {"id": "a", "fires": [], "cadence_s": 1.0, "ignore": [], "outages": [], **changes}
    with pytest.raises(RunFolderError, match=re.escape(f"cameras cannot be read: {said}")):
        read_plans({"cameras": [plan]})


def test_a_fault_that_is_none_is_refused() -> None:
    fault = {"id": "f", "kind": "engine-slow", "start": 1.0, "end": None, "cameras": []}
    with pytest.raises(RunFolderError, match="faults cannot be read: a fault with None for a num"):
        read_faults({"faults": [fault]})


def test_a_run_json_that_is_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(RunFolderError, match="cannot be read"):
        load(tmp_path)


# --- two halves ---


def halves(tmp_path: Path, digest: str) -> tuple[Path, Path]:
    consumer = run_folder(tmp_path / "consumer")
    cameras = run_folder(tmp_path / "cameras", digest=digest, cameras=PLANS[:1])
    in_log(cameras / CAMERAS_LOG, SHOT)
    in_log(cameras / RECORDS_LOG, replace(FRAME, seq=99))
    in_log(consumer / CAMERAS_LOG, replace(SHOT, seq=88))
    in_log(consumer / RECORDS_LOG, FRAME)
    return consumer, cameras


def read(consumer: Path, cameras: Path) -> RunLog:
    return load(consumer, cameras)


def test_the_cameras_half_gives_shots_and_plans_the_consumers_half_the_fates(
    tmp_path: Path,
) -> None:
    log = read(*halves(tmp_path, digest="d1"))
    assert list(log.shots) == [SHOT]
    assert list(log.frames) == [FRAME]
    assert tuple(log.cameras) == PLANS[:1]


def test_halves_of_two_scenarios_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="plays another scenario"):
        read(*halves(tmp_path, digest="d2"))
