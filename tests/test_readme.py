"""What the README files show works: scenarios load, commands, options and files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from earlyfire_stream.cli import app
from earlyfire_stream.scenario.fleet import expand
from earlyfire_stream.scenario.load import loads

ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    *(
        ROOT / folder / "README.md"
        for folder in ("earlyfire_stream", "earlyfire_stream/engines", "scenarios", "tests")
    ),
)
README = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("sh")).splitlines() + re.findall(r"`(earlyfire [^`]+)`", README)
    words = [shlex.split(line, comments=True) for line in lines]
    return [found[1:] for found in words if found and found[0] == "earlyfire"]


def test_the_scenario_in_the_readme_is_complete() -> None:
    text, *_ = blocks("yaml")
    scenario = loads(text, "README.md").scenario
    assert len(expand(scenario)) == 21
    assert scenario.duration == 300


def test_the_other_parts_of_scenarios_fit_into_it() -> None:
    text, *parts = blocks("yaml")
    assert len(parts) == 2
    scenario = loads("\n".join([text, *parts]), "README.md").scenario
    assert len(scenario.faults) == 3
    assert scenario.slo.p95_latency == 5


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_in_the_readme_exists_with_its_options(command: list[str]) -> None:
    path = command[:2] if command[0] == "scenario" else command[:1]
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for word in command:
        if word.startswith("-"):
            assert word in shown.output


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {t for line in re.findall(r"`?make ([a-z -]+)`", README) for t in line.split()}
    lines = "\n".join(blocks("sh")).splitlines()
    named |= {line.split()[1] for line in lines if line.startswith("make ")}
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_every_file_that_it_links_exists_and_has_the_heading(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]+)(?:#([^)]*))?\)", page.read_text("utf-8")):
        linked = page.parent / target
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)", linked.read_text("utf-8"), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles]
