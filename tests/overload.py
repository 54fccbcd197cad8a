"""`make overload`: 200 cameras for ten minutes on an engine that answers one frame a second.

Prints what must stay bounded: memory, latency of what is answered, the wait of each camera.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console

from earlyfire_stream import records, run
from earlyfire_stream.live.screen import PlainLines
from earlyfire_stream.scenario import catalogue
from earlyfire_stream.scenario.load import load, with_overrides
from earlyfire_stream.scenario.units import parse_seconds


def main() -> None:
    duration = parse_seconds(sys.argv[1] if len(sys.argv) > 1 else "10m")
    console = Console()
    loaded = load(catalogue.find("overload"))
    scenario = with_overrides(loaded.scenario, duration=duration)
    loaded = type(loaded)(scenario, loaded.text, loaded.file, loaded.base)
    outcome = asyncio.run(
        run.play(loaded, run.Options(out=Path("runs")), [PlainLines(console)], asyncio.Event())
    )
    log = records.load(outcome.folder)
    pulses = [n for n in log.notes if n["what"] == "pulse"]
    for minute in (duration / 60 * 0.2, duration / 60):
        pulse = min(pulses, key=lambda p: abs(p["scenario_s"] - minute * 60))
        at = pulse["scenario_s"] / 60
        console.print(f"RSS at minute {at:.1f}: {pulse['rss_bytes'] / 1e6:.0f} MB")
    answered = [f for f in log.frames if f.answer is not None and f.answer.verdict is not None]
    latency = [(f.answer.answered_ns - f.captured_ns) / 1e9 for f in answered if f.answer]
    console.print(
        f"answered: {len(answered)}, latency max {max(latency):.1f} s, "
        f"deadline {scenario.engine.deadline:g} s"
    )
    looks = Counter(f.camera for f in answered)
    cameras = [plan.id for plan in log.cameras]
    counts = [looks[camera] for camera in cameras]
    console.print(f"looks a camera: {min(counts)} to {max(counts)} over {len(cameras)} cameras")
    fates = Counter(f"{f.fate}({f.reason})" if f.reason else f.fate.value for f in log.frames)
    for fate, count in fates.most_common():
        console.print(f"  {count:7,} {fate}")
    assert outcome.score is not None
    console.print(f"ledger balanced: {outcome.score.ledger.balanced}")


if __name__ == "__main__":
    main()
