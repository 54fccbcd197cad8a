"""One scenario played several ways, and how the ways compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from earlyfire_stream import run
from earlyfire_stream.bench import variants
from earlyfire_stream.cli import app, benching
from earlyfire_stream.errors import EngineUnavailable, UsageError
from earlyfire_stream.scenario.load import Loaded, loads

QUICK = """
earlyfire: 1
name: quick
clock: virtual
duration: 60s
cameras:
  - {id: north, source: {kind: synthetic}, cadence: 1s, fires: [{id: oak, onset: 20s}]}
  - {id: south, source: {kind: synthetic}, cadence: 1s}
sampling: {policy: every}
engine: {name: simulated, profile: perfect}
"""


def scenario_file(folder: Path) -> Path:
    path = folder / "quick.yaml"
    path.write_text(QUICK, encoding="utf-8")
    return path


def test_every_engine_is_combined_with_every_sampling_and_prompt() -> None:
    scenario = loads(QUICK).scenario
    chosen = variants(scenario, ["simulated", "baseline"], ["fixed:5s"], ["v1", "v1-literal"])
    assert [v.name for v in chosen] == [
        "simulated fixed:5s v1",
        "simulated fixed:5s v1-literal",
        "baseline fixed:5s v1",
        "baseline fixed:5s v1-literal",
    ]
    last = chosen[-1].scenario
    assert (last.engine.name, last.engine.prompt) == ("baseline", "v1-literal")
    assert (last.sampling.policy, last.sampling.idle) == ("fixed", 5.0)


@pytest.mark.parametrize(
    ("engine", "name", "setting", "value"),
    [
        ("ollama:qwen2.5vl:3b", "ollama", "model", "qwen2.5vl:3b"),
        ("hf:./model", "hf", "model", "./model"),
        ("simulated:spec-gpu", "simulated", "profile", "spec-gpu"),
        ("recorded:runs/a", "recorded", "recording", "runs/a"),
        ("ollama", "ollama", "model", None),
    ],
)
def test_an_engine_is_named_with_its_model(
    engine: str, name: str, setting: str, value: str | None
) -> None:
    (only,) = variants(loads(QUICK).scenario, [engine])
    assert only.scenario.engine.name == name
    assert getattr(only.scenario.engine, setting) == value


def test_nothing_named_is_the_scenario_as_it_stands() -> None:
    scenario = loads(QUICK).scenario
    (only,) = variants(scenario, [])
    assert (only.name, only.scenario) == ("simulated", scenario)


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ("fixed:soon", "--sampling 'fixed:soon': 'soon' is no duration"),
        ("fix:5s", "--sampling 'fix:5s': must be 'fixed', 'adaptive' or 'every'"),
        ("fixed:1s", "--sampling 'fixed:1s': sampling.idle: must be at least 3s"),
    ],
)
def test_a_sampling_that_cannot_be_is_named_as_it_was_written(sampling: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        variants(loads(QUICK).scenario, [], [sampling])
    assert str(caught.value).startswith(said)


def test_two_prompts_are_played_on_the_same_frames_and_held_against_each_other(
    tmp_path: Path,
) -> None:
    result = CliRunner().invoke(
        app,
        ["bench", str(scenario_file(tmp_path)), "--prompt", "v1,v1-literal",
         "--out", str(tmp_path / "runs")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    # what the perfect profile says does not depend on the prompt: the same on all 120 frames
    assert (
        "v1-literal: 120 frames in common with v1, the same verdict on 120, smoke seen by v1 "
        "alone on 0, by it alone on 0, no verdict from it on 0; right where the other is wrong: "
        "v1 0, it 0 (McNemar p = 1); 0.00 s slower (median)" in result.output
    )
    # the one fire was found: Wilson's interval for 1 of 1 begins at 1 / (1 + 1.96²)
    table = result.output.partition("latency\n")[2].partition("TTFD over")[0]
    assert table.count("1 of 1") == table.count("21–100 %") == table.count("n 120") == 2
    assert len(list((tmp_path / "runs").glob("*/score.json"))) == 2


def test_a_setting_that_cannot_be_is_told_before_anything_is_played(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["bench", str(scenario_file(tmp_path)), "--prompt", "v1,v2",
         "--out", str(tmp_path / "runs")],
    )  # fmt: skip
    assert isinstance(result.exception, UsageError)
    assert "there is no prompt 'v2'; did you mean 'v1'?" in str(result.exception)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("second", ["simulated:nobody", "recorded:nowhere"])
def test_an_engine_that_cannot_be_is_told_before_the_first_is_played(
    tmp_path: Path, second: str
) -> None:
    result = CliRunner().invoke(
        app,
        ["bench", str(scenario_file(tmp_path)), "--engine", f"simulated:perfect,{second}",
         "--out", str(tmp_path / "runs")],
    )  # fmt: skip
    assert isinstance(result.exception, UsageError)
    assert not (tmp_path / "runs").exists()


def test_what_was_played_before_an_engine_failed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = benching.play
    asked: list[Loaded] = []

    def fails_the_second_time(play: object, loaded: Loaded, *more: Any) -> run.Outcome:
        asked.append(loaded)
        if len(asked) == 2:
            raise EngineUnavailable("nobody answers")
        outcome: run.Outcome = real(play, loaded, *more)
        return outcome

    monkeypatch.setattr(benching, "play", fails_the_second_time)
    result = CliRunner().invoke(
        app,
        ["bench", str(scenario_file(tmp_path)), "--sampling", "every,fixed:5s",
         "--out", str(tmp_path / "runs")],
    )  # fmt: skip
    assert isinstance(result.exception, EngineUnavailable)
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"written: {folder}" in result.output
