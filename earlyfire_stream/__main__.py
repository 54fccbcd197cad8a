"""The `earlyfire` command, also as `python -m earlyfire_stream`."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command. Importing it takes a second or more, in which Ctrl-C may come as well."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        # No KeyboardInterrupt there: raised in some module's clean-up it would be swallowed.
        signal.signal(signal.SIGINT, _give_up)
    from earlyfire_stream.cli import main as command

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command()
    except KeyboardInterrupt:
        _give_up(signal.SIGINT, None)


def _give_up(number: int, frame: FrameType | None) -> None:
    print("earlyfire: interrupted: nothing was played", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    main()
