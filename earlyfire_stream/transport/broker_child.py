"""What runs in the broker's child process; started as a file by `broker`, never imported.

    broker_child.py mosquitto PARENT_PID PROGRAM CONFIG
    broker_child.py amqtt PARENT_PID CONFIG

A broker must not outlive a parent that is killed. Mosquitto: the kernel is asked to end it with
its parent (Linux), then this process becomes Mosquitto. A `preexec_fn` would do the same, but runs
Python between fork and exec, which may deadlock where there are threads; and a supervisor would be
one more process that can be killed. amqtt: the same, and where the kernel cannot do it, the end
of standard input, which the parent holds open, tells it to stop.
"""

from __future__ import annotations

import asyncio
import ctypes
import hmac
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def _die_with(parent: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)


def _become_mosquitto(program: str, config: str) -> None:
    os.execv(program, [program, "-c", config])


async def _serve_amqtt(settings: dict[str, Any]) -> None:
    from amqtt.broker import Broker
    from amqtt.plugins.base import BaseAuthPlugin

    class OnlyUs(BaseAuthPlugin):  # type: ignore[misc]
        """Its own file plugin hashes with Argon2 on the loop: 50 cameras would take seconds."""

        async def authenticate(self, *, session: Any) -> bool:
            user, password = session.username or "", session.password or ""
            return hmac.compare_digest(
                f"{user}\n{password}".encode(),
                f"{settings['user']}\n{settings['password']}".encode(),
            )

    # amqtt loads plugins by dotted name
    setattr(sys.modules["__main__"], OnlyUs.__name__, OnlyUs)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{settings['port']}"}},
            "plugins": {f"__main__.{OnlyUs.__name__}": {}},
        }
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), stop.set)  # nothing is ever written: readable means closed
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main(kind: str, parent: str, *rest: str) -> None:
    _die_with(int(parent))
    if kind == "mosquitto":
        _become_mosquitto(*rest)
    else:
        asyncio.run(_serve_amqtt(json.loads(Path(rest[0]).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main(*sys.argv[1:])
