"""kill -9 at any moment: what stands is a run that can be scored, and no process is left over."""

from __future__ import annotations

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.playing import (
    PATIENCE_S,
    Nursery,
    camera,
    fates,
    pictures,
    proof,
    records,
    run_folder,
    run_folders,
    scenario,
    wait_for,
)


def test_a_run_killed_at_any_moment_can_be_scored_and_leaves_no_process(
    nursery: Nursery, tmp_path: Path
) -> None:
    """20 moments: after a line that the run printed, its end coming near, or a fate on the disk."""
    pictures(tmp_path / "pictures", 15)
    scenario(tmp_path, camera("north", fires=[{"id": "f", "onset": "500ms"}]), camera("south"))
    draw = random.Random(20)
    marks = ("tiny", "engine", "opening", "private broker", "cameras, ", "ALARM", "closing")
    moments = [(marks[n % len(marks)], draw.uniform(0, 0.6)) for n in range(20)]

    families: list[int] = []

    def kill_one(number: int) -> int | None:
        """How many fates it had recorded; None for a run that had no folder yet."""
        home = tmp_path / str(number)
        mark, after_s = moments[number]
        command = nursery.start("run", "tiny.yaml", "--out", home, cwd=tmp_path)
        wait_for(lambda: mark in command.out or command.ended)
        if mark == "ALARM":
            wait_for(lambda: fates(run_folder(home)) or command.ended)
        time.sleep(after_s)  # waits for nothing: it is the random moment
        families.append(len(command.family()))
        command.send(signal.SIGKILL)
        assert nursery.code_of(command.pid, PATIENCE_S) in (-signal.SIGKILL, 0), command.err
        wait_for(lambda: not command.family())
        if not run_folders(home):
            return None
        folder = run_folder(home)
        code, score = nursery.run("score", folder, cwd=tmp_path)
        assert code == 0, score.err
        proof(folder)
        return len(fates(folder))

    with ThreadPoolExecutor(4) as killers:
        recorded = list(killers.map(kill_one, range(20)))
    # the moments are spread: some before there is a folder, some in mid-stream
    assert None in recorded
    assert sum(bool(count) for count in recorded) >= 3
    assert max(families) >= 3, "the command itself, its picture maker and its broker"


def test_a_folder_of_a_run_that_had_not_begun_says_so(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    code, command = nursery.run("score", "early", cwd=tmp_path)
    assert code == 2
    assert command.err == "earlyfire: early: no run folder (it holds no run.json)\n"


def test_a_killed_run_counts_what_it_had_not_judged_as_abandoned(
    nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 600)
    scenario(
        tmp_path,
        camera("north"),
        engine={"name": "simulated", "profile": "perfect", "options": {"hang": 1.0}},
    )
    command = nursery.start("run", "tiny.yaml", "--broker", "memory", cwd=tmp_path)
    folder = wait_for(lambda: run_folders(tmp_path / "runs"))[0]
    wait_for(lambda: len(records(folder, "cameras.jsonl")) >= 10)
    command.send(signal.SIGKILL)
    nursery.code_of(command.pid, 20)
    log, ledger = proof(run_folder(tmp_path / "runs"))
    assert not log.complete
    assert ledger.scheduled >= 10
    assert ledger.reasons == {"abandoned(killed)": ledger.scheduled}
