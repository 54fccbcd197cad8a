"""The command: what it prints, its exit codes, and how it says what is wrong with what it got."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from earlyfire_stream import __version__
from earlyfire_stream.scenario.load import load as load_scenario
from tests.playing import (
    PATIENCE_S,
    Nursery,
    camera,
    open_mosquitto,
    pictures,
    proof,
    records,
    run_folder,
    run_folders,
    scenario,
    wait_for,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Path:
    """The folder of a finished run of one camera with a fire."""
    home = tmp_path_factory.mktemp("finished")
    pictures(home / "pictures", 20)
    scenario(home, camera("north", fires=[{"id": "f", "onset": "1s"}]), clock="virtual")
    code, _ = nursery.run("run", "tiny.yaml", cwd=home)
    assert code == 0
    return run_folder(home / "runs")


def refused(nursery: Nursery, *arguments: object, cwd: Path, **more: object) -> str:
    """The one message of a command that must end with 2 and leave no run folder."""
    code, command = nursery.run(*arguments, cwd=cwd, **more)
    assert code == 2, command.err
    assert run_folders(cwd / "runs") == []
    return re.sub(r"\s+", " ", command.err)


# --- what it prints ------------------------------------------------------------------------------


def test_the_version_is_printed(nursery: Nursery, tmp_path: Path) -> None:
    code, command = nursery.run("--version", cwd=tmp_path)
    assert (code, command.out) == (0, f"{__version__}\n")


def test_piped_output_is_plain_lines(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 20)
    scenario(tmp_path, camera("north", fires=[{"id": "f", "onset": "1s"}]), clock="virtual")
    code, command = nursery.run("run", "tiny.yaml", cwd=tmp_path)
    assert code == 0
    assert command.err == ""
    assert "\x1b" not in command.out
    assert "\r" not in command.out
    lines = command.out.splitlines()
    assert lines[0] == "earlyfire · tiny · simulated"
    assert "ledger: 20 scheduled = 20 answered" in lines
    folder = run_folder(tmp_path / "runs")
    assert f"run folder: runs/{folder.name}" in lines


def test_score_as_json_has_the_documented_keys(nursery: Nursery, finished: Path) -> None:
    code, command = nursery.run("score", finished, "--json", cwd=finished)
    assert code == 0
    score = json.loads(command.out)
    assert score == json.loads((finished / "score.json").read_text())
    assert {"schema", "early_fire_score", "why_null", "frame_score_v1", "terms", "fires",
            "false_alarms", "frames", "localization", "latency_s", "tokens", "answers", "ledger",
            "warnings"} <= score.keys()  # fmt: skip
    assert set("DFCLQK") <= score["terms"].keys()
    assert {"fire", "camera", "onset_s", "alarm_s", "ttfd_s", "ttfd_frames", "located",
            "parts"} <= score["fires"][0].keys()  # fmt: skip
    assert {"episodes", "camera_hours", "per_camera_day", "interval"} <= score[
        "false_alarms"
    ].keys()
    assert {"p50", "p95", "p99", "n"} <= score["latency_s"].keys()
    assert {"sent", "valid", "bad_json", "errors"} <= score["answers"].keys()
    assert score["ledger"]["scheduled"] == 20
    assert score["ledger"]["fates"] == {"answered": 20}
    assert score["ledger"]["balanced"] is True


def test_score_with_thresholds_adds_the_operating_curve(nursery: Nursery, finished: Path) -> None:
    options = ("--threshold", "0.1,0.5…0.9", "--alarm", "1of1,2of3")
    code, command = nursery.run("score", finished, *options, "--json", cwd=finished)
    assert code == 0, command.err
    points = json.loads(command.out)["operating_curve"]
    assert [p["chosen"] for p in points] == [True] + [False] * 6
    assert [p["threshold"] for p in points] == [None, *[0.1, 0.5, 0.9] * 2]
    assert [p["alarm"] for p in points] == ["1of1"] * 4 + ["2of3"] * 3

    code, command = nursery.run("score", finished, "--alarm", "2of3", cwd=finished)
    assert code == 0, command.err
    assert re.search(r"from +alarm +recall +TTFD median +false/day +D +F", command.out)
    assert re.search(r"as run +1of1 .*\n0.1 +2of3 ", command.out)


def test_a_threshold_that_is_none_is_refused(nursery: Nursery, finished: Path) -> None:
    code, command = nursery.run("score", finished, "--threshold", "2", cwd=finished)
    assert (code, command.out) == (2, "")
    assert "--threshold '2'" in command.err


def test_a_score_under_the_threshold_exits_with_99(nursery: Nursery, finished: Path) -> None:
    code, command = nursery.run("score", finished, "--fail-under", "efs=101", cwd=finished)
    assert code == 99
    assert "below the threshold: efs " in command.err
    assert "< 101" in command.err
    code, _ = nursery.run("score", finished, "--fail-under", "efs=1", cwd=finished)
    assert code == 0


def test_a_run_under_the_threshold_exits_with_99(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 5)
    scenario(tmp_path, camera("north"), clock="virtual")
    code, command = nursery.run("run", "tiny.yaml", "--fail-under", "efs=101", cwd=tmp_path)
    assert code == 99
    assert "below the threshold" in command.err


def test_doctor_says_what_is_there_and_how_to_mend_what_is_not(
    nursery: Nursery, tmp_path: Path
) -> None:
    code, command = nursery.run("doctor", "--engine", "simulated", cwd=tmp_path)
    assert code in (0, 2)
    assert (code == 2) == ("✗" in command.out)
    assert "private broker" in command.out
    code, command = nursery.run(
        "doctor", "--engine", "baseline", "--broker", "mqtt://127.0.0.1:9", cwd=tmp_path
    )
    assert code == 2
    assert "is it running there" in re.sub(r"\s+", " ", command.out)


def test_every_shipped_scenario_is_listed_and_valid(nursery: Nursery, tmp_path: Path) -> None:
    code, command = nursery.run("scenario", "list", cwd=tmp_path)
    assert code == 0
    names = [line.split()[0] for line in command.out.splitlines()[1:] if line[:1].strip()]
    assert "demo" in names
    code, command = nursery.run("scenario", "validate", *names, cwd=tmp_path)
    assert code == 0
    assert command.out.count(": valid, ") == len(names)


def test_a_scenario_is_shown_as_it_will_be_played(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 2)
    scenario(tmp_path, camera("fleet", count=3))
    code, command = nursery.run("scenario", "show", "tiny.yaml", cwd=tmp_path)
    assert code == 0
    shown = json.loads(command.out)
    assert [c["id"] for c in shown["cameras"]] == ["fleet-001", "fleet-002", "fleet-003"]
    assert shown["alarm"]["repeat"] == 300.0


def test_the_schema_is_a_json_schema(nursery: Nursery, tmp_path: Path) -> None:
    code, command = nursery.run("scenario", "schema", cwd=tmp_path)
    assert code == 0
    schema = json.loads(command.out)
    assert schema["required"] == ["earlyfire", "name"]
    assert schema["anyOf"] == [{"required": ["cameras"]}, {"required": ["datasets"]}]


def test_init_writes_a_scenario_that_can_be_previewed_and_never_replaces_one(
    nursery: Nursery, tmp_path: Path
) -> None:
    code, _ = nursery.run("scenario", "init", "mine.yaml", cwd=tmp_path)
    assert code == 0
    assert load_scenario(tmp_path / "mine.yaml").scenario.name == "my-fleet"
    assert "is there already" in refused(nursery, "scenario", "init", "mine.yaml", cwd=tmp_path)
    pictures(tmp_path / "pictures", 5)
    scenario(tmp_path, camera("north"))
    code, _ = nursery.run("scenario", "preview", "tiny.yaml", "-o", "x.png", cwd=tmp_path)
    assert code == 0
    assert cv2.imread(str(tmp_path / "x.png")) is not None


def test_an_unknown_template_is_named_with_the_known_ones(nursery: Nursery, tmp_path: Path) -> None:
    words = refused(nursery, "scenario", "init", "x.yaml", "--template", "smal", cwd=tmp_path)
    assert "did you mean small?" in words
    assert os.listdir(tmp_path) == []


# --- bad input: exit code 2, one clear message, nothing left behind ------------------------------


def test_an_unknown_scenario_is_answered_with_the_nearest(nursery: Nursery, tmp_path: Path) -> None:
    words = refused(nursery, "run", "dmo", cwd=tmp_path)
    assert words == "earlyfire: dmo: there is no such scenario (did you mean demo?) "
    words = refused(nursery, "run", "no/such.yaml", cwd=tmp_path)
    assert "there is no such scenario file" in words


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--engine", "simulate"), "did you mean simulated?"),
        (("--profile", "perfec"), "did you mean 'perfect'?"),
        (("--fail-under", "60"), "--fail-under '60': write efs=60"),
        (("--fail-under", "efs=many"), "write efs=60"),
        (("--fail-under", "efs=nan"), "write efs=60"),
        (("--speed", "0"), "speed"),
        (("--duration", "soon"), "'soon' is no duration; write 250ms, 90s, 10m or 2h"),
        (("--broker", "localhost"), "has no scheme; write mqtt[s]://"),
        (("--broker", "mqtt://u:secret@h"), "a password in the address ends up in logs"),
        (("--clock", "virtual", "--broker", "mqtt://h"), "a virtual clock needs the memory"),
        (("--clock", "virtual", "--engine", "ollama"), "cannot run in virtual time"),
        (("--out", "tiny.yaml/runs"), "is no folder; choose another place with --out"),
        (("--password-file", "none", "--broker", "mqtt://u@h"), "--password-file none cannot be"),
    ],
)
def test_a_bad_option_is_named_with_its_remedy(
    nursery: Nursery, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    pictures(tmp_path / "pictures", 2)
    scenario(tmp_path, camera("north"))
    assert says in refused(nursery, "run", "tiny.yaml", *arguments, cwd=tmp_path)


@pytest.mark.parametrize("shard", ["1", "2/2", "-1/2", "a/b", "0/65", "0/0"])
def test_a_shard_is_k_of_n(nursery: Nursery, tmp_path: Path, shard: str) -> None:
    pictures(tmp_path / "pictures", 2)
    scenario(tmp_path, camera("north"))
    words = refused(
        nursery, "consume", "tiny.yaml", "--broker", "mqtt://h", f"--shard={shard}", cwd=tmp_path
    )
    assert f"--shard {shard}" in words.replace("'", "")
    assert "k" in words


def test_the_halves_need_a_broker_of_yours(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 2)
    scenario(tmp_path, camera("north"))
    for half in ("cameras", "consume"):
        words = refused(nursery, half, "tiny.yaml", "--broker", "auto", cwd=tmp_path)
        assert "two halves meet on a broker: give --broker mqtt://host:1883" in words


def a_cut_video(path: Path) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(10):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "clip.mp4"),
        (lambda path: path.write_bytes(b""), "clip.mp4"),
        (lambda path: path.write_text("this is no film\n" * 100), "clip.mp4"),
        (lambda path: path.mkdir(), "clip.mp4"),
        (a_cut_video, "clip.mp4"),
    ],
    ids=["missing", "empty", "text", "folder", "cut"],
)
def test_a_video_that_cannot_be_played_is_named(
    nursery: Nursery, tmp_path: Path, make: object, says: str
) -> None:
    make(tmp_path / "clip.mp4")  # type: ignore[operator]
    scenario(tmp_path, {"id": "north", "source": {"kind": "video", "path": "clip.mp4"}})
    words = refused(nursery, "run", "tiny.yaml", cwd=tmp_path)
    assert says in words
    assert len(words) < 500


def test_a_folder_without_images_is_named(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    scenario(tmp_path, camera("north"))
    assert "pictures" in refused(nursery, "run", "tiny.yaml", cwd=tmp_path)


def test_every_problem_of_a_scenario_is_told_at_once(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        """\
earlyfire: 1
name: bad
duration: 10s
cameras:
  - {id: north, source: {kind: synthetic}, fires: [{id: f, onset: 20s}]}
  - {id: north, source: {kind: synthetic}, cadence: -1s}
"""
    )
    words = refused(nursery, "run", "bad.yaml", cwd=tmp_path)
    assert "bad.yaml: 3 problems" in words
    assert "line 5: cameras[0].fires[0].onset: fire f begins at 20 s, after the scenario's end" in (
        words.replace("cameras.0.fires.0", "cameras[0].fires[0]")
    )
    assert "line 6" in words
    assert refused(nursery, "scenario", "validate", "bad.yaml", cwd=tmp_path).count("line") >= 3


def test_an_alias_bomb_is_refused_before_it_goes_off(nursery: Nursery, tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(rows) + "\nearlyfire: 1\nname: bomb\n")
    words = refused(nursery, "run", "bomb.yaml", cwd=tmp_path)
    assert "alias" in words
    assert len(words) < 1000


def test_a_folder_that_is_no_run_is_refused(nursery: Nursery, tmp_path: Path) -> None:
    assert "no such run folder" in refused(nursery, "score", "nothing", cwd=tmp_path)
    (tmp_path / "empty").mkdir()
    words = refused(nursery, "score", "empty", cwd=tmp_path)
    assert words == "earlyfire: empty: no run folder (it holds no run.json) "


def test_a_run_folder_with_a_broken_line_is_named(
    nursery: Nursery, tmp_path: Path, finished: Path
) -> None:
    broken = shutil.copytree(finished, tmp_path / "broken")
    log = broken / "records.jsonl"
    log.write_bytes(b"no json\n" + log.read_bytes())
    assert "records.jsonl, line 1" in refused(nursery, "score", broken, cwd=tmp_path)


# --- brokers and disks ---------------------------------------------------------------------------


def test_a_broker_that_is_not_there_is_named(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 2)
    scenario(tmp_path, camera("north"))
    words = refused(nursery, "run", "tiny.yaml", "--broker", "mqtt://127.0.0.1:9", cwd=tmp_path)
    assert "cannot reach the broker mqtt://127.0.0.1:9" in words
    assert "is it running there" in words


def test_a_wrong_password_is_told_without_repeating_it(
    nursery: Nursery, tmp_path: Path, mosquitto: str
) -> None:
    pictures(tmp_path / "pictures", 2)
    scenario(tmp_path, camera("north"))
    secret = tmp_path / "secret"
    secret.write_text("not-the-password\n")
    # earlyfire:right, hashed as mosquitto_passwd does
    users = tmp_path / "users"
    users.write_text("earlyfire:$7$101$AAAAAAAAAAAAAAAA$" + "A" * 86 + "==\n")
    settings = f"password_file {users}"
    with open_mosquitto(mosquitto, tmp_path, settings) as port:
        words = refused(
            nursery, "run", "tiny.yaml", "--broker", f"mqtt://earlyfire@127.0.0.1:{port}",
            "--password-file", secret, cwd=tmp_path,
        )  # fmt: skip
    assert "does not let user 'earlyfire' in: wrong password or not authorised" in words
    assert "not-the-password" not in words


def test_a_full_disk_ends_the_run_and_what_was_recorded_can_be_scored(
    nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 200)
    scenario(
        tmp_path, *(camera(f"c{n}", interval="20ms") for n in range(4)), alarm={"k": 2, "n": 2}
    )
    code, command = nursery.run(
        "run", "tiny.yaml", "--broker", "memory", cwd=tmp_path, file_bytes=40_000
    )
    assert code == 2
    assert "cannot be written: File too large (the disk is full; free some space)" in command.err
    folder = run_folder(tmp_path / "runs")
    log, _ = proof(folder)
    assert not log.complete
    code, command = nursery.run("score", folder, cwd=tmp_path)
    assert code == 0


def test_a_disk_that_is_full_from_the_start_leaves_nothing(
    nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 5)
    scenario(tmp_path, camera("north"))
    words = refused(nursery, "run", "tiny.yaml", "--broker", "memory", cwd=tmp_path, file_bytes=500)
    assert "the disk is full" in words
    assert os.listdir(tmp_path / "runs") == []


# --- Ctrl-C --------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_run_with_a_scored_partial_result(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 600)
    scenario(tmp_path, camera("north", fires=[{"id": "f", "onset": "500ms"}]))
    command = nursery.start("run", "tiny.yaml", cwd=tmp_path)
    wait_for(lambda: "ALARM" in command.out)
    command.send(signal.SIGINT)
    assert command.wait() == 130
    assert "Early-Fire Score" in command.out
    assert "interrupted: the score is of the part that was played" in command.err
    folder = run_folder(tmp_path / "runs")
    log, ledger = proof(folder)
    assert log.complete
    assert log.run["interrupted"] is True
    assert 5 <= ledger.scheduled < 600
    assert (folder / "score.json").exists()


def test_ctrl_c_while_pictures_are_made_leaves_nothing(nursery: Nursery, tmp_path: Path) -> None:
    scenario(
        tmp_path,
        {"id": "slow", "cadence": "100ms", "count": 2,
         "source": {"kind": "synthetic", "size": [640, 480]}},
        duration="10m",
        speed=50,
    )  # fmt: skip
    command = nursery.start("run", "tiny.yaml", cwd=tmp_path)
    wait_for(lambda: "making pictures" in command.out)
    command.send(signal.SIGINT)
    assert command.wait() == 130
    assert command.err == "earlyfire: interrupted while getting ready: nothing was played\n"
    assert run_folders(tmp_path / "runs") == []


def test_ctrl_c_while_waiting_for_cameras_leaves_nothing(
    nursery: Nursery, tmp_path: Path, mosquitto: str
) -> None:
    pictures(tmp_path / "pictures", 2)
    scenario(tmp_path, camera("north"))
    with open_mosquitto(mosquitto, tmp_path) as port:
        broker = f"mqtt://127.0.0.1:{port}"
        command = nursery.start("consume", "tiny.yaml", "--broker", broker, cwd=tmp_path)
        wait_for(lambda: "waiting for the cameras" in command.out)
        command.send(signal.SIGINT)
        assert command.wait() == 130
    assert "nothing was played" in command.err
    assert run_folders(tmp_path / "runs") == []


def test_a_second_ctrl_c_ends_at_once(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 600)
    # every frame is under way for an hour, so that the first Ctrl-C has ten seconds to wait for
    scenario(tmp_path, camera("north", network={"delay": "1h"}))
    command = nursery.start("run", "tiny.yaml", "--broker", "memory", cwd=tmp_path)
    folder = wait_for(lambda: run_folders(tmp_path / "runs"))[0]
    wait_for(lambda: len(records(folder, "cameras.jsonl")) >= 5)
    command.send(signal.SIGINT)
    wait_for(lambda: "stopping (Ctrl-C again: at once)" in command.out)
    command.send(signal.SIGINT)
    assert command.wait() == 130
    assert command.err == (
        "earlyfire: interrupted twice, ended unscored; `earlyfire score` reads what was recorded\n"
    )
    log, _ = proof(folder)
    assert not log.complete


def test_a_terminal_s_ctrl_c_reaches_us_and_not_the_private_broker(
    nursery: Nursery, tmp_path: Path, mosquitto: str
) -> None:
    pictures(tmp_path / "pictures", 600)
    scenario(tmp_path, camera("north"))
    command = nursery.start("run", "tiny.yaml", "--broker", "mosquitto", cwd=tmp_path)
    wait_for(lambda: "1 camera, " in command.out)
    os.killpg(command.pid, signal.SIGINT)
    assert command.wait() == 130
    assert "ended by itself" not in command.err
    proof(run_folder(tmp_path / "runs"))
    wait_for(lambda: not command.family())


def test_any_number_of_ctrl_cs_leaves_no_process(
    nursery: Nursery, tmp_path: Path, mosquitto: str
) -> None:
    pictures(tmp_path / "pictures", 600)
    scenario(tmp_path, camera("north"))
    command = nursery.start("run", "tiny.yaml", cwd=tmp_path)
    wait_for(lambda: "1 camera, " in command.out)
    assert len(command.family()) >= 3

    def again() -> bool:
        command.send(signal.SIGINT)
        return command.ended

    wait_for(again)
    assert command.wait() == 130
    wait_for(lambda: not command.family())


def test_ctrl_c_while_modules_are_imported_is_no_crash(tmp_path: Path) -> None:
    # one of them takes as long as we like
    (tmp_path / "typer.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(600)\n")
    with subprocess.Popen(
        [sys.executable, "-m", "earlyfire_stream", "doctor"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert words == "earlyfire: interrupted: nothing was played\n"
