"""The `earlyfire` command: reads options, calls, prints. Decisions are made elsewhere.

Exit codes: 0 done; 2 bad input or nothing to work with; 99 a threshold failed; 130 interrupted.
"""

from __future__ import annotations

__all__ = ["app", "main"]

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from earlyfire_stream import __version__, logs
from earlyfire_stream.cli import benching, playing, scoring, soaking
from earlyfire_stream.cli.doctor import doctor
from earlyfire_stream.cli.outcome import BAD_INPUT, log
from earlyfire_stream.cli.scenarios import import_command, scenarios
from earlyfire_stream.errors import EarlyfireError, Interrupted
from earlyfire_stream.lingering import INTERRUPTED
from earlyfire_stream.live.command import LiveCommand
from earlyfire_stream.live.command import live as live_command
from earlyfire_stream.worker.command import worker

app = typer.Typer(
    name="earlyfire",
    help=(
        "How many seconds after the smoke appears will the alarm come? Replays wildfires as camera "
        "streams over MQTT, watches them with a model, and scores how early the alarm came."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    log_format: Annotated[
        str | None,
        typer.Option(help="console or json: a line an event.", envvar="EARLYFIRE_LOG_FORMAT"),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(help="debug, info, warning or error.", envvar="EARLYFIRE_LOG_LEVEL"),
    ] = None,
) -> None:
    logs.configure(log_format, log_level or ("info" if verbose else None))


# In the order in which `--help` lists them.
app.command("run", cls=LiveCommand)(playing.run_command)
app.command("cameras")(playing.cameras)
app.command("consume", cls=LiveCommand)(playing.consume)
app.command("score")(scoring.score)
app.command("report")(scoring.report)
app.command("compare")(scoring.compare_command)
app.command("export")(scoring.export_command)
app.command("bench")(benching.bench_command)
app.command("soak", cls=LiveCommand)(soaking.soak_command)
app.command("worker")(worker)
app.command("live")(live_command)
app.command("doctor")(doctor)
app.command("import")(import_command)
app.add_typer(scenarios, name="scenario")


def main() -> None:
    """Run the command; an EarlyfireError becomes one message and exit code 2."""
    try:
        app()
    except Interrupted as why:
        _fail(str(why), INTERRUPTED)
    except EarlyfireError as why:
        _fail(str(why))
    except BaseExceptionGroup as group:
        # Tasks of a run fail in groups; the first of our own errors is what went wrong.
        ours, others = group.split(EarlyfireError)
        if ours is None or others is not None:
            raise
        _fail(str(_first(ours)))
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BAD_INPUT)


def _first(group: BaseException) -> BaseException:
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


def _fail(message: str, code: int = BAD_INPUT) -> None:
    if logs.is_json():
        log.error("%s", message)
    else:
        Console(stderr=True).print(
            f"earlyfire: {message}", markup=False, highlight=False, soft_wrap=True, style="red"
        )
    sys.exit(code)
