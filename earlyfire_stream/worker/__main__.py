"""`python -m earlyfire_stream.worker`: the worker without the rest of the command."""

from __future__ import annotations

import logging
import sys

import typer

from earlyfire_stream.errors import EarlyfireError
from earlyfire_stream.worker.command import worker

BAD_INPUT = 2


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        typer.run(worker)
    except EarlyfireError as why:
        print(f"earlyfire worker: {why}", file=sys.stderr)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
