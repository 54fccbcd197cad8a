"""What a command says when it is done, and the code it ends with."""

from __future__ import annotations

__all__ = ["BAD_INPUT", "THRESHOLD_FAILED", "below", "finish", "judge", "print_score", "say"]

import logging
import math

import typer
from rich.console import Console

from earlyfire_stream import logs, run
from earlyfire_stream.lingering import INTERRUPTED
from earlyfire_stream.metrics.observer import METRICS_FILE
from earlyfire_stream.report.summary import summary, summary_plain
from earlyfire_stream.scoring import Score

log = logging.getLogger("earlyfire_stream.cli")

BAD_INPUT = 2
THRESHOLD_FAILED = 99


LEFT_BEHIND = {
    "report.html": "the report, to be opened in a browser; it needs no network",
    "score.json": "the score and everything beside it",
    "records.jsonl": "the fate of every frame, every answer and alarm",
    "cameras.jsonl": "what the cameras scheduled and sent, with the truth",
    "frames": "the frames that raised alarms, and the first in which a fire was missed",
    "engine.jsonl": "what the engine's server told of itself",
    METRICS_FILE: "the last values of all metrics, as Prometheus reads them",
    "run.json": "the scenario, its settings, versions and host",
}
"""What a run folder may hold, in the order in which one would look at it."""


def say(text: str, level: int = logging.INFO) -> None:
    """Beside what was asked for: a line on stderr, which whoever reads JSON gets as JSON."""
    if logs.is_json():
        log.log(level, "%s", text)
    elif level == logging.WARNING:
        Console(stderr=True).print(f"warning: {text}", markup=False, style="yellow")
    else:
        typer.echo(text, err=True)


def finish(outcome: run.Outcome, threshold: float | None) -> None:
    if outcome.score is not None:
        print_score(outcome.score)
    for warning in outcome.warnings:
        say(warning, logging.WARNING)
    typer.echo(f"\nrun folder: {outcome.folder}")
    for name, what in LEFT_BEHIND.items():
        if (outcome.folder / name).exists():
            typer.echo(f"  {name:<14} {what}")
    if outcome.interrupted:
        say("interrupted: the score is of the part that was played")
        raise typer.Exit(INTERRUPTED)
    judge(outcome.score, threshold)


def print_score(result: Score) -> None:
    console = Console()
    if console.is_terminal:
        console.print(summary(result))
    else:
        typer.echo(summary_plain(result))


def judge(result: Score | None, threshold: float | None) -> None:
    below(None if result is None else result.early_fire_score, threshold)


def below(reached: float | None, threshold: float | None) -> None:
    if threshold is not None and (reached is None or reached < threshold):
        # cut off, not rounded: 59.999 is not told as 60
        told = "n/a" if reached is None else math.floor(reached * 100) / 100
        say(f"below the threshold: efs {told} < {threshold:g}")
        raise typer.Exit(THRESHOLD_FAILED)
