"""Serving on after the end, so that the last values are scraped and the last page is seen."""

from __future__ import annotations

__all__ = ["INTERRUPTED", "lingering", "until_told"]

import contextlib
import math
import time
from collections.abc import Callable, Iterator

import typer

from earlyfire_stream.signals import hearing

INTERRUPTED = 130
"""Exit code of a run that was told to stop."""
LOOK_S = 0.1
"""Between two looks whether a signal has come."""


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
    told: list[int] = []
    with hearing(told.append, done=lambda: bool(told)):
        began()
        ends = math.inf if seconds is None else time.monotonic() + seconds
        # In short pieces: while all threads were stopped (SIGSTOP), any of them may have taken the
        # signal, and that does not wake this one, which alone runs the handler.
        while not told and (rest_s := ends - time.monotonic()) > 0:
            time.sleep(min(LOOK_S, rest_s))
