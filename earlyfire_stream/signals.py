"""SIGINT and SIGTERM, heard the same way by whatever can be told to stop."""

from __future__ import annotations

__all__ = ["STOP_SIGNALS", "hearing"]

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
TWICE_S = 0.5
"""`timeout` sends SIGTERM to its child and then to the group that it is in: that is one."""


@contextlib.contextmanager
def hearing(heard: Callable[[int], None], done: Callable[[], bool]) -> Iterator[None]:
    """Both go to `heard`, in the main thread, until the body ends; then they do what they did.

    Unless all is `done`: one that comes while only the process's end is left asks for what it gets.
    """
    terminated_s = -math.inf

    def told(number: int, _frame: object) -> None:
        nonlocal terminated_s
        if number == signal.SIGTERM:
            since_s = time.monotonic() - terminated_s
            if since_s < TWICE_S:
                return
            terminated_s = time.monotonic()
        heard(number)

    before = {number: signal.signal(number, told) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if done() else handler)
