"""`python -m tests.live_load`: what an open live page costs a run of 200 cameras.

Plays the same run by turns without the page and with it open in a headless Chromium, and prints
how late the cameras were, the CPU that the harness took, and both as ratios. A browser usually runs
on another machine: here it is given the lowest priority, so that it takes from the run what nobody
else wants (`--fair` leaves it the usual one), and its CPU is told beside, with the load of the
machine. Nothing is asserted: machines differ.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
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
BEGINNING_S = 5.0
"""When the page has been drawn for the first time."""
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
    at = np.array([shot.captured_at for shot in shots])
    later = np.array(late)[at >= BEGINNING_S]
    return {
        "late p99 after 5 s, ms": float(np.percentile(later, 99)),
        "late p50, ms": float(np.percentile(late, 50)),
        "late p99, ms": float(np.percentile(late, 99)),
        "latency p50, ms": float(np.percentile(latencies, 50)),
        "latency p99, ms": float(np.percentile(latencies, 99)),
        "harness CPU, s": cpu_s,
        "frames": float(len(shots)),
    }


async def watched(loaded: Loaded, out: Path, fair: bool) -> Row:
    """The same with the page open, and what the browser took and saw.

    The browser's driver is a process of its own: what it hears of every picture is not the run's.
    """
    watcher = Watcher(loaded.scenario.name, "simulated")
    with LivePage(watcher, LiveAddress("127.0.0.1", 0)) as page:
        words = ["-m", "tests.live_load", "--look", page.url, *(["--fair"] if fair else [])]
        looker = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert looker.stdout is not None
        await looker.stdout.readline()  # it looks
        row = await play(loaded, out, watcher)
        told, _ = await looker.communicate(b"\n")
        return row | json.loads(told) | {"browsers dropped": page.dropped}


async def look(url: str, fair: bool) -> None:
    """Open the page, say so, and tell what was seen once a line comes in."""
    async with browser() as chromium, opened(chromium, url) as told:
        await told.page.wait_for_selector("body[data-link=live]")
        crew = psutil.Process().children(recursive=True)
        for process in crew:
            if not fair:
                process.nice(19)
        before = sum(map(cpu, crew))
        print("looking", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        spent = sum(map(cpu, psutil.Process().children(recursive=True))) - before
        assert told.said == [], told.said
        cards = await told.ask("document.querySelectorAll('.cam').length")
        seen = await told.ask(LOADED)
        print(json.dumps({"browser CPU, s": spent, "cards": cards, "pictures in sight": seen}))


def cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
        name = process.name()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system) if "chrom" in name else 0.0


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fair", action="store_true", help="leave the browser its priority")
    parser.add_argument("--look", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.look:
        await look(asked.look, asked.fair)
        return
    console = Console()
    rows: list[tuple[Row, Row]] = []
    with tempfile.TemporaryDirectory() as place:
        frames = footage(Path(place) / "frames", 30)
        loaded = scenario(frames, asked.cameras, asked.seconds)
        for number in range(asked.rounds):
            plain = await play(loaded, Path(place))
            seen = await watched(loaded, Path(place), asked.fair)
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
