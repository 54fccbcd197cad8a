"""`python -m tests.live_load`: what an open live page costs a run of 200 cameras.

Plays the same run by turns without the page and with it open in a headless Chromium, and prints
how late the cameras were, the CPU that the harness took, and both as ratios. The browser's own CPU
is not the harness', but it takes cores from it where there are few: it is told beside, with the
load of the machine. Nothing is asserted: machines differ.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from earlyfire_stream import records, run
from earlyfire_stream.live.guard import LiveAddress
from earlyfire_stream.live.page import LivePage
from earlyfire_stream.live.tally import Tally
from earlyfire_stream.live.watching import Watcher
from earlyfire_stream.scenario.load import Loaded, loads
from earlyfire_stream.transport.broker import embedded_broker
from tests.browser import browser, opened

Row = dict[str, float]
LOADED = "[...document.querySelectorAll('.cam img')].filter((i) => i.naturalWidth).length"


def footage(folder: Path, count: int) -> Path:
    """Pictures of about 60 KB at 1280x720."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    ground = cv2.resize(rng.integers(40, 200, (18, 32, 3), np.uint8), (1280, 720))
    for number in range(count):
        image = cv2.add(ground, rng.integers(0, 14, ground.shape, np.uint8))
        cv2.circle(image, (60 + 40 * number, 300), 40, (220, 220, 220), -1)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1]
        (folder / f"{number:03}.jpg").write_bytes(jpeg.tobytes())
    return folder


def scenario(frames: Path, cameras: int, seconds: int) -> Loaded:
    return loads(
        f"""
        earlyfire: 1
        name: live-load
        duration: {seconds}s
        connections: shared
        cameras:
          - id: cam
            count: {cameras}
            cadence: 1s
            source: {{kind: images, path: {frames}, interval: 1s}}
        sampling: {{policy: fixed, idle: 5s}}
        engine: {{name: simulated, profile: perfect}}
        """
    )


async def play(loaded: Loaded, out: Path, *observers: Any) -> Row:
    """CPU seconds of this process, this thread's included, and ms that frames were late."""
    async with embedded_broker("auto") as broker:
        options = run.Options(broker=broker.address, out=out)
        before = resource.getrusage(resource.RUSAGE_SELF)
        outcome = await run.play(loaded, options, [Tally(), *observers], asyncio.Event())
        after = resource.getrusage(resource.RUSAGE_SELF)
    shots = records.read_shots(outcome.folder / records.CAMERAS_LOG)
    late = [shot.late_s * 1e3 for shot in shots]
    log = records.load(outcome.folder)
    latencies = [
        (f.answer.answered_ns - f.captured_ns) / 1e6 for f in log.frames if f.answer is not None
    ]
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "late p50, ms": float(np.percentile(late, 50)),
        "late p99, ms": float(np.percentile(late, 99)),
        "latency p50, ms": float(np.percentile(latencies, 50)),
        "latency p99, ms": float(np.percentile(latencies, 99)),
        "harness CPU, s": cpu_s,
        "frames": float(len(shots)),
    }


async def watched(loaded: Loaded, out: Path) -> Row:
    """The same with the page open, and what the browser took and saw."""
    watcher = Watcher(loaded.scenario.name, "simulated")
    async with browser() as chromium:
        with LivePage(watcher, LiveAddress("127.0.0.1", 0)) as page:
            async with opened(chromium, page.url) as told:
                crew = psutil.Process().children(recursive=True)
                before = sum(cpu(process) for process in crew)
                row = await play(loaded, out, watcher)
                row["browser CPU, s"] = (
                    sum(cpu(process) for process in psutil.Process().children(recursive=True))
                    - before
                )
                row["cards drawn"] = await told.ask("document.querySelectorAll('.cam').length")
                row["pictures in sight"] = await told.ask(LOADED)
                row["browsers dropped"] = page.dropped
                assert told.said == [], told.said
    return row


def cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    ours = any(word in process.name() for word in ("chrom", "node"))
    return float(times.user + times.system) if ours else 0.0


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    console = Console()
    rows: list[tuple[Row, Row]] = []
    with tempfile.TemporaryDirectory() as place:
        frames = footage(Path(place) / "frames", 30)
        loaded = scenario(frames, asked.cameras, asked.seconds)
        for number in range(asked.rounds):
            plain = await play(loaded, Path(place))
            seen = await watched(loaded, Path(place))
            rows.append((plain, seen))
            console.print(f"round {number + 1}: load average {os.getloadavg()[0]:.1f}", style="dim")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("", "without the page", "page open", "ratio"):
        table.add_column(title, justify="right" if title else "left")
    for key in rows[0][1]:
        seen = statistics.median(row[key] for _, row in rows)
        if key not in rows[0][0]:
            table.add_row(key, "", f"{seen:.1f}", "")
            continue
        plain = statistics.median(row[key] for row, _ in rows)
        ratio = statistics.median(b[key] / a[key] for a, b in rows if a[key])
        table.add_row(key, f"{plain:.2f}", f"{seen:.2f}", f"{ratio:.2f}")
    console.print(table)
    console.print(
        f"{asked.cameras} cameras at 1 frame/s for {asked.seconds} s, medians of {asked.rounds} "
        f"rounds by turns; {os.cpu_count()} cores, the browser's among them",
        style="dim",
    )


if __name__ == "__main__":
    asyncio.run(main())
