"""`python -m tests.faults`: every kind of scripted fault, one run each, over a real Mosquitto.

Six cameras at two frames a second send for 30 seconds; the fault holds from second 8 to second 12,
smoke appears in every picture at second 9. A run without any fault comes first. The table says of
each fault whether the ledger is exact (every scheduled frame has one fate), how many frames it
harmed, how long recovery took, and what the fires cost. Two rows are made otherwise:
the consumer's process really killed with signal 9 and resumed, the cameras being another process;
and host-worker-killed is the real inference worker with the real model classes on a small random
model, which looks at each camera every three seconds, for a minute: its verdicts mean nothing.

Several runs go on at a time (`--at-once`): recovery on a busy machine takes longer. Nothing is
asserted but that every ledger is exact: then it ends with 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from earlyfire_stream.scenario.models import FAULTS
from tests.playing import (
    Nursery,
    open_mosquitto,
    pictures,
    records,
    run_folder,
    run_folders,
    wait_for,
)

BEGIN, END, ONSET, LENGTH = 8, 12, 9, 30
CAMERAS = 6
MOMENTARY = {"broker-restart", "broker-disconnects", "camera-storm", "host-worker-killed"}
WORKER = "host-worker-killed"


@dataclass(frozen=True)
class Row:
    """What one fault did. Seconds are wall seconds; None where there is nothing to tell."""

    fault: str
    balanced: bool
    harmed: int | None
    scheduled: int | None
    recovery_median_s: float | None
    recovery_max_s: float | None
    not_recovered: int
    detected: int
    ttfd_s: float | None
    fates: dict[str, int]
    """Of the frames from its begin until recovery that were not answered; of the whole run where
    no window says when that was."""


def scenario(kind: str | None, folder: Path, seconds: int = LENGTH, **engine: Any) -> Path:
    camera = {
        "source": {"kind": "images", "path": str(folder / "pictures"), "interval": "500ms"},
        "fires": [{"id": "fire", "onset": f"{ONSET}s"}],
    }
    told: dict[str, Any] = {
        "earlyfire": 1,
        "name": kind or "none",
        "duration": f"{seconds}s",
        "cameras": [{"id": f"c{n}", **camera} for n in range(CAMERAS)],
        "sampling": {"policy": "every"},
        "budget": {"tokens_per_s": "none"},
        "engine": {"name": "simulated", "profile": "perfect", "deadline": "10s"} | engine,
    }
    if kind is not None:
        fault: dict[str, Any] = {"kind": kind, "start": f"{BEGIN}s"}
        if kind not in MOMENTARY:
            fault["end"] = f"{END}s"
        if kind == "camera-flap":
            fault["period"] = "2s"
        if kind == "broker-slow":
            fault["rate"] = 4000  # the pictures are small
        told["faults"] = [fault]
    path = folder / f"{kind or 'none'}.yaml"
    path.write_text(json.dumps(told))  # JSON is YAML
    return path


def row(name: str, folder: Path) -> Row:
    told = json.loads((folder / "score.json").read_text())
    fault = told["faults"][0] if told["faults"] else {}
    frames, recovery = fault.get("frames", {}), fault.get("recovery_s", {})
    fires = [one["ttfd_s"] for one in told["fires"] if one["ttfd_s"] is not None]
    fates = frames["by_fate"] if frames else told["ledger"]["fates"]
    return Row(
        fault=name,
        balanced=told["ledger"]["balanced"],
        harmed=frames.get("harmed"),
        scheduled=frames.get("scheduled"),
        recovery_median_s=recovery.get("median"),
        recovery_max_s=recovery.get("max"),
        not_recovered=recovery.get("not_recovered", 0),
        detected=len(fires),
        ttfd_s=statistics.median(fires) if fires else None,
        fates={"late": frames.get("late", 0)}
        | {fate: count for fate, count in fates.items() if fate != "answered"},
    )


def played(nursery: Nursery, folder: Path, kind: str | None) -> Row:
    out = folder / f"runs-{kind}"
    file = scenario(kind, folder)
    nursery.run("run", file, "--broker", "mosquitto", "--out", out, cwd=folder)
    return row(kind or "none", run_folder(out))


def consumer_killed(nursery: Nursery, folder: Path) -> Row:
    """Two processes and a broker of their own; the watching one is killed and resumed."""
    file, out = scenario(None, folder), folder / "watching"
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    assert program is not None, "no Mosquitto"
    with open_mosquitto(program, folder) as port:
        broker = ("--broker", f"mqtt://127.0.0.1:{port}")
        watching = nursery.start("consume", file, *broker, "--out", out, cwd=folder)
        wait_for(lambda: "waiting for the cameras" in watching.out)
        sending = nursery.start("cameras", file, *broker, "--out", folder / "sending", cwd=folder)
        wait_for(lambda: run_folders(out) and len(records(run_folder(out))) > 60)
        watching.send(signal.SIGKILL)
        nursery.code_of(watching.pid, 60)
        kept = run_folder(out)
        again = nursery.start("consume", file, *broker, "--resume", kept, cwd=folder)
        sending.wait(120)
        again.wait(120)
    nursery.run("score", kept, "--cameras", run_folder(folder / "sending"), cwd=folder)
    return row("consumer's process killed, resumed", kept)


def worker_killed(nursery: Nursery, folder: Path) -> Row:
    """The real model classes on a small random model: its answers mean nothing."""
    from tests.tiny_qwen import save_tiny

    model, out = save_tiny(folder / "tiny-qwen"), folder / "runs-worker"
    engine = {"name": "hf", "profile": None, "model": str(model), "timeout": "5s"}
    file = scenario(WORKER, folder, 60, **engine, deadline="30s")
    told = json.loads(file.read_text()) | {"sampling": {"policy": "fixed", "idle": "3s"}}
    file.write_text(json.dumps(told))
    nursery.run("run", file, "--broker", "mosquitto", "--out", out, cwd=folder)
    return row(WORKER, run_folder(out))


def shown(rows: Sequence[Row], console: Console) -> None:
    table = Table(title="what went wrong on purpose, 8 s to 12 s; smoke at 9 s in six cameras")
    table.add_column("fault", no_wrap=True)
    table.add_column("ledger")
    for name in ("harmed", "recovery\nmedian s", "\nmax s", "fires\nfound", "TTFD s"):
        table.add_column(name, justify="right")
    table.add_column("answered late, or not at all")
    for one in rows:
        seconds = [
            "" if value is None else f"{value:.1f}"
            for value in (one.recovery_median_s, one.recovery_max_s)
        ]
        if one.not_recovered:
            seconds[1] = f"never ({one.not_recovered})"
        table.add_row(
            one.fault,
            "exact" if one.balanced else "WRONG",
            "" if one.harmed is None else f"{one.harmed} of {one.scheduled}",
            *seconds,
            f"{one.detected} of {CAMERAS}",
            "" if one.ttfd_s is None else f"{one.ttfd_s:.2f}",
            ", ".join(f"{count} {fate}" for fate, count in one.fates.items() if count),
        )
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help="all of them unless some are named"
    )
    parser.add_argument("--at-once", type=int, default=3, help="runs at a time (default 3)")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    asked = parser.parse_args()
    if unknown := set(asked.kinds) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    kinds: list[str | None] = [k for k in asked.kinds or FAULTS if k != WORKER]
    if not asked.kinds:
        kinds.insert(0, None)
    console = Console(width=None if sys.stdout.isatty() else 160)
    with tempfile.TemporaryDirectory(prefix="earlyfire-faults-") as place:
        folder = Path(place)
        pictures(folder / "pictures", 2 * LENGTH)
        nursery = Nursery(folder)
        try:
            with (
                ThreadPoolExecutor(asked.at_once) as several,
                Progress(console=console, transient=True) as progress,
            ):
                doing = progress.add_task("faults", total=len(kinds))

                def play(kind: str | None) -> Row:
                    found = played(nursery, folder, kind)
                    progress.advance(doing)
                    return found

                rows = list(several.map(play, kinds))
            if not asked.kinds:
                rows.append(consumer_killed(nursery, folder))
            if not asked.kinds or WORKER in asked.kinds:
                rows.append(worker_killed(nursery, folder))
        finally:
            nursery.close()
    shown(rows, console)
    if asked.json is not None:
        asked.json.write_text(json.dumps([one.__dict__ for one in rows], indent=2))
        console.print(f"written: {asked.json}")
    wrong = [one.fault for one in rows if not one.balanced]
    console.print(
        f"{len(rows)} runs, every ledger exact" if not wrong else f"NOT EXACT: {', '.join(wrong)}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
