"""How the command's options are declared: in groups, each an option of its own all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from earlyfire_stream.cli.options import duration, grouped
from earlyfire_stream.errors import UsageError

heard: list[object] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Spotting:
    """Options of a command of this file's own."""

    wait: Annotated[float | None, duration("--wait", "How long.")] = None
    peaks: Annotated[int, typer.Option("--peaks")] = 3


app = typer.Typer()


@app.command()
@grouped
def look(*, place: Annotated[str, typer.Argument()], how: Spotting, loud: bool = False) -> None:
    """Look somewhere."""
    heard.append((place, how, loud))


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("north", ("north", Spotting(), False)),
        (
            "--peaks 7 north --loud --wait 2m",
            ("north", Spotting(wait=120.0, peaks=7), True),
        ),
    ],
)
def test_a_group_of_options_arrives_as_one(given: str, means: tuple[object, ...]) -> None:
    heard.clear()
    assert CliRunner().invoke(app, given.split()).exit_code == 0
    assert heard == [means]


def test_help_lists_the_options_of_a_group_in_its_place() -> None:
    told = CliRunner().invoke(app, ["--help"]).output
    assert "Look somewhere." in told
    assert told.index("--wait") < told.index("--peaks") < told.index("--loud")
    assert "--how" not in told


@pytest.mark.parametrize("text", ["8x", "-5s", "1e999s", "nan", ""])
def test_a_bad_length_of_time_is_named_by_its_option(text: str) -> None:
    refused = CliRunner().invoke(app, ["north", f"--wait={text}"]).exception
    assert isinstance(refused, UsageError)
    assert str(refused).startswith("--wait")
