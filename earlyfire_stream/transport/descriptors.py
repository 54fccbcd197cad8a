"""File descriptors: every connection takes one, and a process may have only so many.

Many systems give a process 1024 of them, and more if it asks.
"""

from __future__ import annotations

__all__ = ["make_room"]

import resource

from earlyfire_stream.errors import UsageError

SPARE = 256
"""For logs, pipes, pages, an engine's connections, whoever scrapes."""
PROXIED = 5
"""Of a connection through a proxy of ours: its own and the proxy's two, and while it is replaced
two more."""


def make_room(connections: int, *, proxied: bool, more: int = 0) -> None:
    """Raise our limit, which children inherit, as far as so many connections to a broker need.

    `more` descriptors are wanted beside them. UsageError with the remedy where the system does not
    let us have that many.
    """
    needed = connections * (PROXIED if proxied else 1) + more + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    try:
        # In a container "hard" may be a thousand millions, over which some children would walk.
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError):  # macOS has a lower bound than it says
        allowed = soft if hard == resource.RLIM_INFINITY else hard
        raise UsageError(
            f"{connections} connections to the broker take {needed:,} open files, and this system "
            f"allows {allowed:,}: write `connections: shared` into the scenario (one connection "
            "for all cameras), or have the limit raised (ulimit -Hn, in Docker --ulimit nofile)"
        ) from None
