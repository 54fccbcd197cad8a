"""The five blocks: which runs they take, going on after an interruption, and what they say."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from earlyfire_stream import blocks, run
from earlyfire_stream.cli import app, benching
from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import EngineUnavailable, RunFolderError, UsageError
from earlyfire_stream.lingering import INTERRUPTED
from earlyfire_stream.scenario.load import Loaded, load, loads
from tests.fakes.ollama import Answer, FakeOllama
from tests.playing import camera, pictures, scenario

SMOKE = '{"has_smoke": true, "bbox_2d": [100, 100, 300, 200]}'
FIRE = [{"id": "f", "onset": 6}]


def footage(folder: Path, size: tuple[int, int] = (1280, 960)) -> Loaded:
    """Two recordings of six pictures 3 s apart: one with a fire, one quiet."""
    pictures(folder / "pictures", 6, size)
    return load(
        scenario(
            folder,
            camera("north", interval="3s", fires=FIRE),
            camera("south", interval="3s"),
        )
    )


def names(plan: blocks.Plan) -> list[str]:
    return [job.key for job in plan.jobs]


# --- which runs ---


def test_blocks_are_named_one_by_one_or_all_at_once() -> None:
    assert blocks.parse_blocks("all") == blocks.BLOCKS
    assert blocks.parse_blocks("early, calibration") == ("early", "calibration")
    with pytest.raises(UsageError, match="'erly' is not known; one of calibration, early,"):
        blocks.parse_blocks("erly")
    with pytest.raises(UsageError, match="name one of"):
        blocks.parse_blocks(" ")


def test_each_run_is_played_by_every_engine_before_the_next_film() -> None:
    plan = blocks.jobs(["localization"], ["simulated:perfect", "ollama:a:7b"])
    assert names(plan) == [
        "localization/one look/simulated:perfect",
        "localization/one look/ollama:a:7b",
        "localization/second look/simulated:perfect",
        "localization/second look/ollama:a:7b",
    ]
    first, second, third, _ = (job.loaded.scenario for job in plan.jobs)
    assert (first.engine.name, first.engine.profile, first.clock) == (
        "simulated", "perfect", "virtual",
    )  # fmt: skip
    assert (second.engine.name, second.engine.model, second.clock) == ("ollama", "a:7b", "wall")
    assert (first.sampling.second_look, third.sampling.second_look) == (False, True)


def test_what_makes_no_sense_for_an_engine_is_told_with_the_reason() -> None:
    plan = blocks.jobs(blocks.BLOCKS, ["baseline", "simulated"])
    assert plan.left_out == {
        ("explainability", "baseline"): "a detector gives no reasons",
        ("explainability", "simulated"): "a model of a model gives no reasons",
        ("robustness", "simulated"): "it answers from the truth, which nothing perturbs",
    }
    assert "localization/second look/baseline" not in names(plan)


def test_the_early_block_sweeps_from_dear_to_cheap_and_never_below_three_seconds() -> None:
    plan = blocks.jobs(["early"], ["baseline"])
    assert [job.part for job in plan.jobs] == [
        "fixed:5s", "fixed:10s", "fixed:30s", "adaptive:10s", "adaptive:30s",
    ]  # fmt: skip
    assert all(job.loaded.scenario.sampling.idle >= 3 for job in plan.jobs)


def test_each_perturbation_has_three_strengths_beside_the_clean_twin() -> None:
    plan = blocks.jobs(["robustness"], ["baseline"])
    assert len(plan.jobs) == 1 + 6 * 3
    by_name = {job.part: job.loaded.scenario for job in plan.jobs}
    assert {c.perturb.shake_px for c in by_name["clean"].cameras} == {0.0}
    assert {c.perturb.shake_px for c in by_name["shake severe"].cameras} == {8.0}
    assert {c.perturb.blur_px for c in by_name["motion blur mild"].cameras} == {3.0}
    assert {s.seed for s in by_name.values()} == {24}


def test_shipped_negatives_are_rendered_at_each_height() -> None:
    (job,) = blocks.jobs(["calibration"], ["baseline"]).jobs
    cameras = {c.id: c.source for c in job.loaded.scenario.cameras}
    heights = {s.size[1] for s in cameras.values() if s.kind == "synthetic"}
    assert heights == {480, 720, 1080, 1440, 2160}
    seeds = {s.seed for n, s in cameras.items() if n.startswith("fog") and s.kind == "synthetic"}
    assert len(seeds) == 1


def test_own_negatives_are_cut_to_16_by_9_and_never_enlarged(tmp_path: Path) -> None:
    # 1280 x 960 holds 1280 x 720 at 16:9
    plan = blocks.jobs(["calibration"], ["baseline"], footage(tmp_path))
    (job,) = plan.jobs
    cameras = job.loaded.scenario.cameras
    assert [c.id for c in cameras] == ["south-0480", "south-0720"]
    assert {c.perturb.crop for c in cameras} == {(0.5, 0.5, 1.0, 0.75)}
    assert plan.notes == (
        "calibration: south is 1280x960; 1080, 1440, 2160 lines would enlarge it and are left out",
    )


def test_footage_too_small_for_any_height_leaves_the_block_out(tmp_path: Path) -> None:
    plan = blocks.jobs(["calibration"], ["baseline"], footage(tmp_path, (320, 240)))
    assert plan.jobs == ()
    assert plan.left_out == {("calibration", "baseline"): "no footage that it could be shown"}


def test_own_footage_keeps_its_pace_and_takes_the_blocks_settings(tmp_path: Path) -> None:
    plan = blocks.jobs(["early", "localization"], ["baseline"], footage(tmp_path))
    shown = {job.part: job.loaded.scenario for job in plan.jobs}
    assert {s.seed for s in shown.values()} == {3}
    assert {tuple(c.id for c in s.cameras) for s in shown.values()} == {("north", "south")}
    assert shown["one look"].sampling.policy == "every"
    assert shown["fixed:5s"].sampling.idle == 5.0


def test_a_live_camera_is_no_footage_for_a_bench() -> None:
    live = loads(
        "{earlyfire: 1, name: l, duration: 60s, cameras: "
        "[{id: a, source: {kind: stream, url: 'rtsp://h/s'}}]}"
    )
    with pytest.raises(UsageError, match="a live camera shows nothing twice"):
        blocks.jobs(["early"], ["baseline"], live)


# --- playing, and going on ---


ASKED = {
    "block": "localization", "engine": "simulated:perfect", "data": None, "prompt": None,
    "settings": [], "speed": None, "duration": None, "seed": None,
}  # fmt: skip


def played(job: blocks.Job, options: run.Options) -> run.Outcome:
    return virtual_run(run.play(job.loaded, options, [], asyncio.Event()))


def test_an_interrupted_bench_goes_on_where_it_was(tmp_path: Path) -> None:
    plan = blocks.jobs(["localization"], ["simulated:perfect"], footage(tmp_path))
    ledger = blocks.Ledger.new(tmp_path / "out", ASKED)
    seen: list[str] = []

    def stops_at_the_second(job: blocks.Job, options: run.Options) -> run.Outcome:
        seen.append(job.part)
        outcome = played(job, options)
        return dataclasses.replace(outcome, interrupted=job.part == "second look")

    folders, interrupted = blocks.play_all(plan, ledger, stops_at_the_second, lambda _: None)
    assert interrupted
    assert list(folders) == ["localization/one look/simulated:perfect"]
    (cell,) = blocks.measure(plan, folders)
    assert cell.why == "not finished"

    again = blocks.Ledger.resume(ledger.folder)
    assert again.asked == ASKED
    folders, interrupted = blocks.play_all(
        plan, again, lambda job, options: seen.append(job.part) or played(job, options),
        lambda _: None,
    )  # fmt: skip
    assert not interrupted
    assert seen == ["one look", "second look", "second look"]
    assert len(folders) == 2


def test_a_run_with_other_settings_is_not_taken_for_the_same(tmp_path: Path) -> None:
    data = footage(tmp_path)
    plan = blocks.jobs(["localization"], ["simulated:perfect"], data)
    ledger = blocks.Ledger.new(tmp_path / "out", {})
    blocks.play_all(plan, ledger, played, lambda _: None)
    assert ledger.run_of(plan.jobs[0]) is not None
    other = blocks.jobs(["localization"], ["simulated:perfect"], data, ["alarm.k=2", "alarm.n=3"])
    assert ledger.run_of(other.jobs[0]) is None


def test_a_folder_without_a_bench_and_a_broken_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bench was begun there"):
        blocks.Ledger.resume(tmp_path)
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(RunFolderError, match=r"state\.json: cannot be read"):
        blocks.Ledger.resume(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block": None}, "asked: block is None"),
        ({"data": 5}, "asked: data is 5"),
        ({"settings": "engine"}, "asked: settings is 'engine'"),
        ({"settings": [1]}, "asked: settings must be texts"),
        ({"duration": "1s"}, "asked: duration is '1s'"),
    ],
)
def test_a_bench_that_was_asked_for_something_else_is_not_gone_on_with(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    state = {"schema": 1, "asked": {**ASKED, **changes}, "done": {}}
    (tmp_path / "state.json").write_bytes(orjson.dumps(state))
    with pytest.raises(RunFolderError, match=re.escape(f"state.json: cannot be read: {said}")):
        blocks.Ledger.resume(tmp_path)


# --- what they say ---


def told(cell: blocks.Cell) -> str:
    return "\n".join((*cell.headline, *cell.notes))


def test_the_command_prints_one_table_and_writes_it(tmp_path: Path) -> None:
    footage(tmp_path)
    arguments = ["bench", str(tmp_path / "tiny.yaml"), "--block", "early,localization"]
    engines = ["--engine", "simulated:perfect,simulated:never"]
    out = ["--out", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, [*arguments, *engines, *out], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").iterdir()
    written = orjson.loads((folder / "bench.json").read_bytes())
    assert list(written["blocks"]) == ["early", "localization"]
    sweep = written["blocks"]["early"]["simulated:perfect"]["sweep"]
    # looked at every 5 s of pictures 3 s apart: those at 0, 6 (the onset) and 12 s
    assert sweep["fixed:5s"]["views"]["detected"] == 1
    assert sweep["fixed:5s"]["pace"]["shortest_gap_s"] == 6.0
    assert written["blocks"]["localization"]["simulated:never"]["why_not"] == (
        "the truth has no boxes"
    )
    assert "simulated:perfect" in result.output
    assert "fixed:5s: 1 of 1 [21–100 %], 0.1 s" in result.output

    again = CliRunner().invoke(app, ["bench", "--resume", str(folder)], env={"COLUMNS": "160"})
    assert again.exit_code == 0, again.output
    assert "playing" not in again.output
    assert orjson.loads((folder / "bench.json").read_bytes()) == written


def test_calibration_counts_smoke_seen_where_there_is_none(tmp_path: Path) -> None:
    plan = blocks.jobs(["calibration"], ["simulated:always"], footage(tmp_path))
    ledger = blocks.Ledger.new(tmp_path / "out", {})
    folders, _ = blocks.play_all(plan, ledger, played, lambda _: None)
    (cell,) = blocks.measure(plan, folders)
    # six pictures at 480 and 720 lines; every answer is a false one
    assert cell.headline == ("false positives 100.0 % [75.8–100.0], n 12", "by height: p n/a")
    assert "smoke was seen in every frame" in told(cell)


def test_the_baseline_in_virtual_time_is_held_against_its_shaken_twin(tmp_path: Path) -> None:
    plan = blocks.jobs(["robustness"], ["baseline"], footage(tmp_path, (320, 240)))
    chosen = [job for job in plan.jobs if job.part in ("clean", "shake mild")]
    plan = dataclasses.replace(plan, jobs=tuple(chosen))
    ledger = blocks.Ledger.new(tmp_path / "out", {})
    folders, _ = blocks.play_all(plan, ledger, played, lambda _: None)
    (cell,) = blocks.measure(plan, folders)
    twin = cell.data["twins"]["shake mild"]
    assert twin["paired_frames"] == 12
    assert twin["extra_latency_s"] is not None
    assert cell.data["twins"]["clean"]["latency_s"]["p50"] > 0  # the looks' own time


async def test_reasons_are_paid_for_and_change_no_verdict(tmp_path: Path) -> None:
    data = footage(tmp_path)
    data = dataclasses.replace(data, scenario=data.scenario.model_copy(update={"speed": 20.0}))
    runs: dict[str, Path] = {}
    async with FakeOllama() as server:
        server.script.extend([Answer(SMOKE)] * 100)
        settings = [f"engine.url={server.url}", "engine.concurrency=1"]
        plan = blocks.jobs(["explainability"], ["ollama"], data, settings)
        for job in plan.jobs:
            options = run.Options(broker="memory", out=tmp_path / "runs")
            runs[job.key] = (await run.play(job.loaded, options, [], asyncio.Event())).folder
    (cell,) = blocks.measure(plan, runs)
    assert cell.headline[0] == "12 of 12 explained"
    cost = cell.data["explanations"]
    assert (cost["asked"], cost["given"]) == (12, 12)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a scenario to compare engines on, or blocks with --block all"),
        (["--block", "all", "--sampling", "fixed:5s"], "the blocks choose their own"),
        (["tiny.yaml", "--block", "all", "--data", "x.yaml"], "both name the footage"),
        (["tiny.yaml", "--data", "x.yaml"], "--data goes with --block"),
        (["--block", "all", "--resume", "x"], "--resume goes on with what was asked then"),
        (["--block", "all", "--engine", "olama"], "did you mean ollama?"),
        (["--block", "all", "--prompt", "v7"], "there is no prompt 'v7'"),
        (["--block", ""], "--block: name one of"),
        (["--block", "early", "--engine", "baseline,simulated:x"], "profile 'x' is unknown"),
        (["--block", "early", "--engine", "baseline,recorded:/x"], "/x: no such run folder"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_made(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments, "--out", str(tmp_path / "runs")])
    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_bench_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    footage(tmp_path)
    real: Callable[..., Any] = benching.play

    def interrupted(*arguments: Any) -> run.Outcome:
        return dataclasses.replace(real(*arguments), interrupted=True)

    monkeypatch.setattr(benching, "play", interrupted)
    result = CliRunner().invoke(
        app,
        ["bench", str(tmp_path / "tiny.yaml"), "--block", "localization",
         "--engine", "simulated:perfect", "--out", str(tmp_path / "runs")],
    )  # fmt: skip
    assert result.exit_code == INTERRUPTED
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"go on with: earlyfire bench --resume {folder}" in result.output.replace("\n", "")


def test_a_bench_that_fails_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    footage(tmp_path)

    def gone(*_: Any) -> run.Outcome:
        raise EngineUnavailable("nobody answers")

    monkeypatch.setattr(benching, "play", gone)
    result = CliRunner().invoke(
        app,
        ["bench", str(tmp_path / "tiny.yaml"), "--block", "localization",
         "--engine", "simulated:perfect", "--out", str(tmp_path / "runs")],
    )  # fmt: skip
    assert isinstance(result.exception, EngineUnavailable)
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"is kept; go on with: earlyfire bench --resume {folder}" in result.output
