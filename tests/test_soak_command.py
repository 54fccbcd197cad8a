"""`earlyfire soak` from end to end: what grows is caught, what ends early can be gone on with."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from earlyfire_stream import signals
from earlyfire_stream.cli import app, soaking
from earlyfire_stream.cli.playing import play
from earlyfire_stream.errors import Interrupted, RunFolderError, UsageError
from earlyfire_stream.folder import held
from earlyfire_stream.records import Observer
from earlyfire_stream.run import Options, Outcome
from earlyfire_stream.scenario.load import Loaded, load
from earlyfire_stream.soak.folder import SoakFolder
from tests.playing import (
    PATIENCE_S,
    Command,
    Nursery,
    proof,
    records,
    run_folder,
    run_folders,
    wait_for,
)
from tests.test_soak import window


def soak_scenario(folder: Path, **more: Any) -> Path:
    """One small camera at ten frames a second, every frame looked at."""
    whole = {
        "earlyfire": 1,
        "name": "tiny",
        "seed": 3,
        "duration": "60s",
        "cameras": [
            {
                "id": "mast",
                "cadence": "100ms",
                "source": {"kind": "synthetic", "size": [320, 240]},
            }
        ],
        "sampling": {"policy": "every"},
        "engine": {"name": "simulated", "profile": "perfect"},
        **more,
    }
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(whole))  # YAML reads JSON
    return path


@contextmanager
def failing(kind: str) -> Iterator[str]:
    """The address of a server that fails in that way."""
    command = [sys.executable, "-m", "tests.fakes.failing", kind]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        yield server.stdout.readline().strip()
        server.stdin.close()
        server.wait(PATIENCE_S)


def result(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((run_folder(out) / "soak.json").read_bytes())
    return told


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [told["v"] for told in records(folder, "windows.jsonl") if told["k"] == kind]


def judged(out: Path, count: int) -> bool:
    """Whether the one soak there has written down that many windows."""
    return any(len(lines(folder, "window")) >= count for folder in run_folders(out))


@pytest.fixture(scope="module")
def soaked(
    nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Command, dict[str, Any]]]:
    """Soaks of three engines side by side: one leaks, one gets slower, one is as it should be."""
    home = tmp_path_factory.mktemp("soaked")
    kinds = ("leaks", "slows", "clean")
    with ExitStack() as servers:
        running = {}
        for kind in kinds:
            url = servers.enter_context(failing(kind))
            # the deadline: what waits for the slow one is not waited for after the end
            engine = {"name": "ollama", "url": url, "deadline": "5s"}
            file = soak_scenario(home / kind, engine=engine)
            limits = ["--drop-share", "0.9", "--error-share", "0.5"]
            running[kind] = nursery.start(
                *("soak", file, "--for", "9s", "--broker", "memory", "--out", home / kind / "runs"),
                *limits,
                cwd=home,
            )
        for command in running.values():
            command.wait()
    return {kind: (running[kind], result(home / kind / "runs")) for kind in kinds}


Soaked = dict[str, tuple[Command, dict[str, Any]]]


def states(told: dict[str, Any]) -> dict[str, str]:
    return {verdict["what"]: verdict["state"] for verdict in told["verdicts"]}


def test_an_engine_that_leaks_is_caught(soaked: Soaked) -> None:
    command, told = soaked["leaks"]
    assert command.wait() == 99, command.out
    assert states(told)["rss_slope engine"] == "breached"
    assert states(told)["rss_slope harness"] != "breached"
    (leak,) = [v for v in told["verdicts"] if v["what"] == "rss_slope engine"]
    # a megabyte of ten requests a second is 36 GB an hour; a slow machine asks less often
    assert 3e9 < leak["value"] < 60e9
    assert leak["exhausted_s"] is not None
    assert "at that slope memory is full in" in command.out


def test_an_engine_that_gets_slower_is_caught(soaked: Soaked) -> None:
    command, told = soaked["slows"]
    assert command.wait() == 99, command.out
    assert states(told)["latency_slope"] == "breached"
    assert states(told)["rss_slope engine"] != "breached"


def test_an_engine_that_is_as_it_should_be_is_not_flagged(soaked: Soaked) -> None:
    command, told = soaked["clean"]
    assert command.wait() == 0, command.out + command.err
    assert "breached" not in states(told).values()
    assert states(told)["drop_share"] == states(told)["error_share"] == "held"


def test_windows_tell_rates_latency_and_every_process(soaked: Soaked) -> None:
    _, told = soaked["clean"]
    whole = [w for w in told["windows"] if w["part"] != "end"]
    assert [w["window"] for w in whole] == list(range(1, 13))
    assert [w["end_s"] for w in whole] == pytest.approx([0.75 * n for n in range(1, 13)])
    warm = [w["part"] for w in whole].index("measured")
    assert [w["part"] for w in whole] == ["warm-up"] * warm + ["measured"] * (12 - warm)
    assert [bool(w["served"]) for w in whole[:warm]] == [False] * (warm - 1) + [True]
    assert sum(w["offered"] for w in told["windows"]) == 90
    assert {"harness", "engine"} <= set().union(*(w["processes"] for w in whole))
    assert sum(w["seconds"]["latency"]["n"] for w in told["windows"]) == sum(
        w["served"] for w in told["windows"]
    )
    assert told["legs"][0]["cold_start_s"] is not None


def test_ctrl_c_scores_what_was_played_and_says_how_to_go_on(
    nursery: Nursery, tmp_path: Path
) -> None:
    soak_scenario(tmp_path)
    command = nursery.start(
        *("soak", "tiny.yaml", "--for", "10m", "--window", "500ms", "--broker", "memory"),
        cwd=tmp_path,
    )
    wait_for(lambda: "soak  1 s of 10:00" in command.out or command.ended)
    command.send(signal.SIGINT)
    assert command.wait() == 130
    folder = run_folder(tmp_path / "runs")
    assert f"earlyfire soak --resume runs/{folder.name}" in command.err
    told = json.loads((folder / "soak.json").read_bytes())
    assert not told["complete"]
    assert states(told)["latency_slope"] == "undecided", "too few windows are no pass"
    assert (folder / "leg-1" / "score.json").exists()
    proof(folder / "leg-1")


def test_a_soak_whose_harness_was_killed_goes_on_where_its_windows_end(
    nursery: Nursery, tmp_path: Path
) -> None:
    soak_scenario(tmp_path)
    command = nursery.start(
        *("soak", "tiny.yaml", "--for", "5s", "--window", "500ms"),
        *("--ramp", "cameras=1:3:+1/1500ms"),
        cwd=tmp_path,
    )
    wait_for(lambda: command.ended or judged(tmp_path / "runs", 2))
    command.send(signal.SIGKILL)
    nursery.code_of(command.pid, PATIENCE_S)
    wait_for(lambda: not command.family())
    folder = run_folder(tmp_path / "runs")
    known = lines(folder, "window")
    played_s = known[-1]["end_s"]
    assert 1 <= played_s < 5

    code, resumed = nursery.run("soak", "--resume", folder, cwd=tmp_path)
    assert code == 0, resumed.err
    windows = [w for w in lines(folder, "window") if w["part"] != "end"]
    assert [w["end_s"] for w in windows] == pytest.approx([0.5 * n for n in range(1, 11)])
    assert windows[: len(known)] == known, "what is known stays as it is"
    assert {w["leg"] for w in windows[len(known) :]} == {2}
    # one camera until 1.5 s, two until 3 s, then three, whichever leg plays them
    assert [w["cameras"] for w in windows] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    legs = json.loads((folder / "soak.json").read_bytes())["legs"]
    assert [leg["begin_s"] for leg in legs] == [0.0, played_s]
    assert legs[0]["gap_s"] is None
    assert legs[1]["gap_s"] > 0
    assert "goes on there" in resumed.out
    assert resumed.err.splitlines()[-1] == f"not scored: earlyfire score {folder / 'leg-1'}"
    for leg in ("leg-1", "leg-2"):
        nursery.run("score", folder / leg, cwd=tmp_path)
        proof(folder / leg)

    for name in ("soak.json", "soak.html"):
        (folder / name).unlink()
    code, again = nursery.run("soak", "--resume", folder, cwd=tmp_path)
    assert code == 0, "one that is over is judged again"
    assert (folder / "soak.html").exists()
    assert [w for w in lines(folder, "window") if w["part"] != "end"] == windows
    assert again.out.splitlines()[-8:] == resumed.out.splitlines()[-8:]


def refusal(*arguments: object) -> str:
    """What is said of a soak that cannot be; nothing is started for it."""
    done = CliRunner().invoke(app, ["soak", *map(str, arguments)])
    assert isinstance(done.exception, UsageError), done.output
    return str(done.exception)


@pytest.mark.parametrize(
    ("more", "options", "words"),
    [
        ({}, ["--for", "1s"], "windows of 0.0833333 s in a soak of 1 s"),
        ({}, ["--for", "1m", "--ramp", "10:200"], "write cameras=10:200:+10/5m"),
        ({}, ["--for", "1m", "--ramp", "cameras=1:３:+1/5s"], "write cameras=10:200:+10/5m"),
        ({}, ["--for", "5m", "--ramp", "cameras=1:4:+1/10m"], "its first step comes after 600 s"),
        ({}, ["--for", "1m", "--faults", "10s"], "the scenario has no `faults:` to repeat"),
        (
            {"faults": [{"kind": "broker-restart", "start": 0}]},
            ["--for", "1m", "--faults", "0"],
            "--faults 0s: say how often",
        ),
        ({}, ["--for", "1m", "--faults", "10s", "--no-faults"], "exclude each other"),
        ({}, ["--for", "900000h"], "that does not fit; choose another place with --out"),
        ({"clock": "virtual"}, ["--for", "1m"], "a soak needs the wall clock"),
        ({}, ["--for", "8x"], "--for: '8x' is no duration"),
        ({}, ["--for", "-8s"], "--for -8s: is no length of time"),
        ({}, ["--for", "1m", "--window", "１s"], "--window: '１s' is no duration"),
        ({}, ["--for", "1m", "--p95-latency", "0"], "--p95-latency 0.0: input should be greater"),
        ({}, ["--for", "1m", "--latency-slope", "nan"], "--latency-slope nan"),
        ({}, ["--for", "1m", "--latency-slope", "-1"], "--latency-slope -1"),
        ({}, ["--for", "1m", "--rss-slope", "0MB"], "--rss-slope '0MB'"),
        ({}, ["--for", "1m", "--memory-limit", "5TBB"], "--memory-limit '5TBB'"),
    ],
)
def test_what_cannot_be_soaked_is_said_before_anything_is_made(
    tmp_path: Path, more: dict[str, Any], options: list[str], words: str
) -> None:
    out = tmp_path / "runs"
    assert words in refusal(soak_scenario(tmp_path, **more), "--out", out, *options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "left_out"),
    [
        (["tiny.yaml"], "SCENARIO"),
        (["--for", "1m"], "--for"),
        (["--drop-share", "0.1"], "--drop-share"),
        (["--broker", "auto"], "--broker"),
    ],
)
def test_a_soak_goes_on_with_what_was_asked_and_nothing_else(
    tmp_path: Path, more: list[str], left_out: str
) -> None:
    told = refusal("--resume", tmp_path, *more)
    assert told == f"--resume goes on with what was asked then; leave {left_out} out"


def test_a_limit_that_too_little_was_measured_for_is_no_pass(
    nursery: Nursery, tmp_path: Path
) -> None:
    soak_scenario(tmp_path)
    code, command = nursery.run(
        *("soak", "tiny.yaml", "--for", "2s", "--window", "500ms", "--p95-latency", "10s"),
        *("--broker", "memory", "--json"),
        cwd=tmp_path,
    )
    assert code == 2
    told = json.loads(command.out)
    assert told["state"] == "undecided"
    assert "undecided: too little was measured for a limit that was set" in command.err


def test_windows_that_cannot_be_written_end_the_soak_with_the_reason(
    nursery: Nursery, tmp_path: Path
) -> None:
    soak_scenario(tmp_path)
    command = nursery.start(
        *("soak", "tiny.yaml", "--for", "10m", "--window", "500ms", "--broker", "memory"),
        cwd=tmp_path,
    )
    wait_for(lambda: "soak  1 s of 10:00" in command.out or command.ended)
    windows = run_folder(tmp_path / "runs") / "windows.jsonl"
    # in one step: between two the next window would be written into a new file
    windows.with_suffix(".new").symlink_to(tmp_path)
    windows.with_suffix(".new").replace(windows)
    assert command.wait() == 2
    assert f"runs/{windows.parent.name}/windows.jsonl: cannot be written" in command.err
    proof(windows.parent / "leg-1")


def test_too_many_frames_leave_the_score_out_and_say_so(nursery: Nursery, tmp_path: Path) -> None:
    soak_scenario(tmp_path)
    code, command = nursery.run(
        *("soak", "tiny.yaml", "--for", "2s", "--window", "500ms", "--score-up-to", "5"),
        *("--broker", "memory"),
        cwd=tmp_path,
    )
    assert code == 0
    leg = run_folder(tmp_path / "runs") / "leg-1"
    assert "20 frames are not scored here: earlyfire score runs/" in command.err
    assert not (leg / "score.json").exists()


@pytest.mark.parametrize("what", ["soak", "bench"])
def test_what_is_running_is_not_resumed_beside_itself(tmp_path: Path, what: str) -> None:
    running = pytest.raises(UsageError, match=f"this {what} is running")
    with held(tmp_path, what), running, held(tmp_path, what):
        pass
    with held(tmp_path, what):
        pass  # free again


def test_what_was_played_is_judged_also_where_the_scoring_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"

    def cut(*_: object) -> None:
        SoakFolder(run_folder(out), {}).add_window(window(1))
        raise Interrupted("interrupted twice")

    monkeypatch.setattr(soaking, "play", cut)
    file = soak_scenario(tmp_path)
    done = CliRunner().invoke(app, ["soak", str(file), "--for", "10m", "--out", str(out)])
    assert done.exit_code == 130
    told = result(out)
    assert (told["played_s"], told["state"]) == (50.0, "held")
    assert (
        f"interrupted twice; go on with: earlyfire soak --resume {run_folder(out)}" in done.output
    )


def test_ctrl_c_does_not_wait_for_the_scoring_of_a_long_run(tmp_path: Path) -> None:
    async def how(
        playing: Loaded, options: Options, observers: list[Observer], stop: asyncio.Event
    ) -> Outcome:
        for observer in observers:
            observer.stage("scoring")
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    tiny = load(soak_scenario(tmp_path))
    with pytest.raises(Interrupted, match="while scoring"):
        play(how, tiny, Options(broker="memory"))
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_sigterm_to_a_process_and_to_its_group_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "TWICE_S", PATIENCE_S)  # should we stand still between the two
    ended = Outcome(tmp_path, None, True, ())

    async def how(
        playing: Loaded, options: Options, observers: list[Observer], stop: asyncio.Event
    ) -> Outcome:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        await stop.wait()
        await asyncio.sleep(0)  # where it would be cancelled
        return ended

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert play(how, load(soak_scenario(tmp_path)), Options(broker="memory")) is ended
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"[1]",
        b'{"k":"window","v":{"window":1}}',
        b'{"k":"leg","v":{"number":1,"begin_s":0.0,"x":1}}',
        b'{"k":"window","v":null}',
    ],
)
def test_a_damaged_line_of_the_windows_is_named(tmp_path: Path, line: bytes) -> None:
    soak = SoakFolder.new(tmp_path, "calm", "simulated", {})
    good = b'{"k":"leg","v":{"number":1,"begin_s":0.0,"gap_s":null}}\n'
    (soak.path / "windows.jsonl").write_bytes(good + line + b"\n")
    with pytest.raises(RunFolderError, match=r"windows\.jsonl: line 2 is damaged"):
        soak.windows()


def test_what_was_asked_is_read_whole_or_refused_with_what_can_still_be_done(
    tmp_path: Path,
) -> None:
    soak = SoakFolder.new(tmp_path, "calm", "simulated", {"for_s": 60.0})
    with pytest.raises(RunFolderError, match=r"asked\.json: cannot be read.*scenario.*is missing"):
        SoakFolder.resume(soak.path)
    (soak.path / "asked.json").write_bytes(b'{"schema":1,"as')
    remedy = rf"start a new soak, and score what this one played .*: earlyfire score {soak.path}"
    with pytest.raises(RunFolderError, match=remedy):
        SoakFolder.resume(soak.path)


def test_one_that_is_over_is_not_judged_while_another_process_has_it(tmp_path: Path) -> None:
    asked = (
        *("scenario", "for_s", "ramp", "faults_every_s", "no_faults", "window_s", "slo"),
        *("memory_limit", "score_up_to", "settings", "overrides", "broker", "password_file"),
    )
    soak = SoakFolder.new(tmp_path, "calm", "simulated", dict.fromkeys(asked))
    with held(soak.path, "soak"):
        assert "this soak is running" in refusal("--resume", soak.path)
