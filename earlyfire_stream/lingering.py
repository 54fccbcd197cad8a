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
        told = f"{what} for {seconds:g} s (Ctrl-C: no longer)"
        until_told(seconds, began=lambda: say(told))


def until_told(seconds: float | None = None, began: Callable[[], None] = lambda: None) -> None:
    """Until SIGINT or SIGTERM, or the time is over.

    `began` is called once both are heard: whoever reads what it says may send one at once.
    """
    told = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: told.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        began()
        told.wait(seconds)
    finally:
        for number, handler in before.items():
            # told: only closing is left, and `timeout` sends its SIGTERM twice
            signal.signal(number, signal.SIG_IGN if told.is_set() else handler)
