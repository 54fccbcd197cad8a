"""`earlyfire doctor`: what is there, what is missing, and the command that mends it."""

from __future__ import annotations

__all__ = ["doctor"]

import asyncio

import typer
from rich.console import Console
from rich.text import Text

from earlyfire_stream.cli.options import (
    BrokerOpt,
    EngineOpt,
    ModelOpt,
    PasswordOpt,
    RecordingOpt,
    UrlOpt,
    WorkerOpt,
    absolute,
    broker_of,
    listed,
)
from earlyfire_stream.cli.outcome import BAD_INPUT


def doctor(
    engine: EngineOpt = None,
    model: ModelOpt = None,
    url: UrlOpt = None,
    worker: WorkerOpt = None,
    recording: RecordingOpt = None,
    broker: BrokerOpt = "auto",
    password_file: PasswordOpt = None,
) -> None:
    """Say what is there, what is missing, and the command that mends it."""
    from earlyfire_stream.doctor import examine

    checks = asyncio.run(
        examine(
            engine=engine,
            model=model,
            url=url,
            workers=listed(worker) or (),
            recording=absolute(recording),
            broker=broker_of(broker, password_file),
        )
    )
    console = Console(highlight=False, soft_wrap=True)  # a command in a remedy can be copied whole
    for check in checks:
        mark = Text("✓ ", "green") if check.ok else Text("✗ ", "red")
        console.print(mark.append(check.what, "bold").append(f": {check.found}", "default"))
        if not check.ok:
            console.print(Text("  → ", "yellow").append(check.remedy, "default"))
    if not all(check.ok for check in checks):
        raise typer.Exit(BAD_INPUT)
