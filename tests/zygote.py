"""A process that has imported `earlyfire` already and forks a command out of itself on request.

Importing takes seconds on a busy machine and is the same every time. A command forked here is a
process of its own: it can be killed, interrupted and waited for, and its own children are started
as always. Requests come as JSON lines on standard input, answers go out as JSON lines.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import warnings


def serve() -> dict | None:
    """The request that this process is to become; None when nobody asks any more."""
    children: set[int] = set()
    while True:
        if select.select([0], [], [], 0.02)[0]:
            line = _line()
            if not line:
                return None
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                return request
            children.add(pid)
            _tell(started=pid)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            children.discard(pid)
            _tell(exited=pid, code=os.waitstatus_to_exitcode(status))


def _line() -> bytes:
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _tell(**message: int) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def become(request: dict) -> None:
    os.setsid()
    for target, name, mode in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        descriptor = os.open(name, mode, 0o644)
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.update(request["environ"])
    if request["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("error")
    sys.argv = ["earlyfire", *request["arguments"]]


if __name__ == "__main__":
    import scipy.ndimage
    import scipy.spatial
    import scipy.stats  # noqa: F401  (a command loads these when it needs them)

    from earlyfire_stream.cli import main

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (wanted := serve()) is not None:
        become(wanted)
        main()
