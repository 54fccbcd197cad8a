"""`--live`, and `earlyfire live RUN`: the live page on the command line."""

from __future__ import annotations

__all__ = ["LiveCommand", "LiveOpt", "live", "serving"]

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from earlyfire_stream.lingering import lingering, until_told
from earlyfire_stream.live.follow import Following
from earlyfire_stream.live.guard import DEFAULT_ADDRESS, LiveAddress, is_place, read_token
from earlyfire_stream.live.page import LivePage
from earlyfire_stream.live.watching import Origin, Watcher
from earlyfire_stream.scenario.models import Scenario

LiveOpt = Annotated[
    str | None,
    typer.Option(
        "--live",
        metavar="[HOST:PORT]",
        help=f"Serve a live page for browsers, on {DEFAULT_ADDRESS} unless you say where.",
    ),
]


class LiveCommand(TyperCommand):
    """A command whose `--live` may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _placed(args))


def _placed(args: list[str]) -> list[str]:
    """With the usual place where `--live` names none; whatever follows is the command's own."""
    placed: list[str] = []
    for n, arg in enumerate(args):
        placed.append(arg)
        if arg == "--live" and (n + 1 == len(args) or not is_place(args[n + 1])):
            placed.append(DEFAULT_ADDRESS)
    return placed


@contextlib.contextmanager
def serving(
    text: str | None, scenario: Scenario, linger_s: float | None = None
) -> Iterator[Watcher | None]:
    """The page of a run that is about to be played in this process, and what is to observe it.

    It stays for `linger_s` after the end, unless the run was interrupted.

    None where no page is wanted. UsageError, before anything is started, if it cannot be served.
    """
    if text is None:
        yield None
        return
    watcher = Watcher(scenario.name, scenario.engine.name, duration=scenario.duration)
    with _page(watcher, text) as page, lingering(f"{page.url} stays", linger_s, _say):
        yield watcher


def live(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, finished or still growing.")
    ],
    at: Annotated[
        str, typer.Option("--at", metavar="HOST:PORT", help="Where to serve it.")
    ] = DEFAULT_ADDRESS,
) -> None:
    """Serve the live page of a run folder until Ctrl-C; the run itself is not touched."""
    with _page(Following(folder), at):
        until_told()


@contextlib.contextmanager
def _page(origin: Origin, text: str) -> Iterator[LivePage]:
    page = LivePage(origin, LiveAddress.parse(text), read_token(os.environ))
    with page:
        _say(f"live page: {page.url}")
        yield page


def _say(text: str) -> None:
    typer.echo(text, err=True)
