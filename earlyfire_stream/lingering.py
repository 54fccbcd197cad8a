"""Serving on after the end, so that the last values are scraped and the last page is seen."""

from __future__ import annotations

__all__ = ["INTERRUPTED", "lingering", "until_told"]

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import typer

INTERRUPTED = 130
"""Exit code of a run that was told to stop."""


@contextlib.contextmanager
def lingering(what: str, seconds: float | None, say: Callable[[str], None]) -> Iterator[None]:
    """Stay so long after the block, however it ends, unless it was interrupted or failed.

    `what` begins the sentence that says so, such as `metrics stay at http://…`. Wall seconds.
    """
    try:
        yield
    except typer.Exit as why:
        if why.exit_code != INTERRUPTED:
            _stay(what, seconds, say)
        raise
    _stay(what, seconds, say)


def _stay(what: str, seconds: float | None, say: Callable[[str], None]) -> None:
    if seconds:
        say(f"{what} for {seconds:g} s (Ctrl-C: no longer)")
        until_told(seconds)


def until_told(seconds: float | None = None) -> None:
    """Until SIGINT or SIGTERM, or the time is over."""
    told = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: told.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        told.wait(seconds)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
