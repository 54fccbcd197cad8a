"""What the baseline detector does on real fires: `python -m tests.evaluate_baseline`.

Reads the folder named by EARLYFIRE_DATA and prints four tables: every sequence with the default
settings; every threshold 25 % lower and higher; leave-one-sequence-out over a small grid; and the
time one look takes. Frames are fed as a stream would bring them: in order, with their capture
instant. An alarm is one positive look. It is located if its box touches the truth, dilated by 5 %
of the frame's width, in that same frame; a false-alarm episode lasts 300 scenario seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from earlyfire_stream.engines.smoke import Look, SmokeDetector, SmokeSettings
from earlyfire_stream.verdict import Box

UNDECLARED_CADENCE_S = 30.0
"""For frames whose cadence nobody knows; the data's notes say 30 s by index."""
EPISODE_S = 300.0
DILATION = 0.05

THRESHOLDS = (
    "warmup_spacing_s",
    "background_spacing_s",
    "hold_s",
    "noise_floor",
    "drift_share",
    "noise_s",
    "settle_s",
    "seed_z",
    "extent_z",
    "edge",
    "min_area_px",
    "foot_reach_px",
    "veil_reach_px",
    "max_colour_gain",
    "max_transmission",
    "recognised",
    "min_paleness",
    "anchor",
    "max_birth_width",
    "persist_s",
    "growth",
    "disturbed_share",
    "max_shift_px",
)
GRID = {
    "seed_z": (4.5, 6.0, 7.5),
    "max_transmission": (0.65, 0.8, 0.95),
    "growth": (1.1, 1.25, 1.5),
}


@dataclass(frozen=True, slots=True)
class RealSequence:
    """One fixed camera's frames in order; `onset_s` and `first_box` are None without a fire."""

    name: str
    files: tuple[Path, ...]
    captured_at: tuple[float, ...]
    boxes: tuple[tuple[Box, ...], ...]
    aspect: float
    onset_s: float | None
    first_box: int | None


@dataclass(frozen=True, slots=True)
class FirstAlarm:
    """The first positive look after onset whose box touches the truth; None where there is none."""

    frame: int | None
    ttfd_s: float | None
    unlocated: int
    """Positive looks after onset whose box touches no truth of their frame."""

    @property
    def located(self) -> bool:
        return self.frame is not None


def _sequence(folder: Path) -> RealSequence:
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    frames = meta["frame_list"]
    if "figlib_offset_s" in frames[0]:
        start = frames[0]["figlib_offset_s"]
        captured_at = tuple(float(f["figlib_offset_s"] - start) for f in frames)
    else:
        captured_at = tuple(UNDECLARED_CADENCE_S * k for k in range(len(frames)))
    boxes = tuple(tuple(_box(b) for b in f["boxes_yolo"]) for f in frames)
    onset = meta["onset"]
    onset_n = None
    if onset is not None:
        onset_n = (
            onset["figlib_ignition_n"] if "figlib_ignition_n" in onset else onset["first_mask_n"]
        )
    return RealSequence(
        name=meta["name"],
        files=tuple(folder / f["file"] for f in frames),
        captured_at=captured_at,
        boxes=boxes,
        aspect=meta["width"] / meta["height"],
        onset_s=None if onset_n is None else captured_at[onset_n],
        first_box=next((n for n, b in enumerate(boxes) if b), None),
    )


def _box(yolo: Sequence[float]) -> Box:
    _, xc, yc, w, h = yolo
    return Box.from_corners(xc - w / 2, yc - h / 2, xc + w / 2, yc + h / 2)


def positives(root: Path) -> list[RealSequence]:
    return [_sequence(folder) for folder in sorted(root.glob("pos_*"))]


def negatives(root: Path) -> list[RealSequence]:
    """The negative sequences that have a cadence; stills are no stream."""
    return [_sequence(folder) for folder in sorted(root.glob("neg_figlib_*"))]


@cache
def _image(file: Path) -> npt.NDArray[np.uint8]:
    """A decoded frame, reduced as the detector itself does first, so that a sweep fits memory."""
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(file)
    height = 2 * round(image.shape[0] * 640 / image.shape[1] / 2)
    return np.asarray(cv2.resize(image, (640, height), interpolation=cv2.INTER_AREA), np.uint8)


def watch(sequence: RealSequence, settings: SmokeSettings) -> list[Look]:
    """The answers of a fresh detector to the whole sequence."""
    detector = SmokeDetector(settings)
    return [
        detector.look(_image(file), captured_at)
        for file, captured_at in zip(sequence.files, sequence.captured_at, strict=True)
    ]


def alarm_of(sequence: RealSequence, looks: Sequence[Look]) -> FirstAlarm:
    assert sequence.onset_s is not None
    first: int | None = None
    unlocated = 0
    for n, (look, captured_at) in enumerate(zip(looks, sequence.captured_at, strict=True)):
        if look.box is None or captured_at < sequence.onset_s:
            continue
        touching = any(
            truth.overlap(look.box, DILATION, DILATION * sequence.aspect) > 0
            for truth in sequence.boxes[n]
        )
        if touching and first is None:
            first = n
        unlocated += not touching
    ttfd_s = None if first is None else sequence.captured_at[first] - sequence.onset_s
    return FirstAlarm(first, ttfd_s, unlocated)


def false_alarm_episodes(sequence: RealSequence, looks: Sequence[Look]) -> int:
    """Greedy episodes of positive looks before onset, or anywhere where nothing burns."""
    end_s = float("inf") if sequence.onset_s is None else sequence.onset_s
    episodes = 0
    until_s = float("-inf")
    for look, captured_at in zip(looks, sequence.captured_at, strict=True):
        if look.has_smoke and captured_at < end_s and captured_at >= until_s:
            episodes += 1
            until_s = captured_at + EPISODE_S
    return episodes


@dataclass(frozen=True, slots=True)
class Outcome:
    """One setting on some sequences."""

    located: int
    fires: int
    false_alarms: int
    delays: tuple[int | None, ...]
    """Frames from the first truth box to the alarm, per fire; negative if it came before."""

    @property
    def merit(self) -> tuple[float, float]:
        """For choosing settings: fires found less false alarms, then earliness."""
        late = sum(20 if d is None else d for d in self.delays)
        return (self.located - self.false_alarms, -late)


@cache
def judged(sequence: RealSequence, settings: SmokeSettings) -> tuple[FirstAlarm | None, int]:
    """The first true alarm (None without a fire) and the false-alarm episodes."""
    looks = watch(sequence, settings)
    alarm = None if sequence.onset_s is None else alarm_of(sequence, looks)
    return alarm, false_alarm_episodes(sequence, looks)


def outcome(sequences: Iterable[RealSequence], settings: SmokeSettings) -> Outcome:
    located = fires = episodes = 0
    delays: list[int | None] = []
    for sequence in sequences:
        alarm, false_alarms = judged(sequence, settings)
        episodes += false_alarms
        if alarm is None or sequence.first_box is None:
            continue
        fires += 1
        located += alarm.located
        delays.append(None if alarm.frame is None else alarm.frame - sequence.first_box)
    return Outcome(located, fires, episodes, tuple(delays))


def print_sequences(root: Path, settings: SmokeSettings) -> None:
    print("\n## Every sequence, default settings\n")
    print(
        "| sequence | onset s | first box | alarm frame | TTFD s | frames after first box "
        "| false-alarm episodes | positive looks | unlocated |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    stills = [_sequence(folder) for folder in sorted(root.glob("neg_knmi_*"))]
    for sequence in (*positives(root), *negatives(root), *stills):
        looks = watch(sequence, settings)
        episodes = false_alarm_episodes(sequence, looks)
        yes = f"{sum(look.has_smoke for look in looks)} of {len(looks)}"
        if sequence.onset_s is None or sequence.first_box is None:
            print(f"| {sequence.name} | - | - | - | - | - | {episodes} | {yes} | - |")
            continue
        alarm = alarm_of(sequence, looks)
        delay = "missed" if alarm.frame is None else f"{alarm.frame - sequence.first_box:+d}"
        print(
            f"| {sequence.name} | {sequence.onset_s:.0f} | {sequence.first_box} | {alarm.frame} "
            f"| {alarm.ttfd_s} | {delay} | {episodes} | {yes} | {alarm.unlocated} |"
        )


def print_sensitivity(root: Path) -> None:
    print("\n## Every threshold 25 % lower and higher\n")
    print("| threshold | value | located | false alarms | frames after first box |")
    print("|---|---|---|---|---|")
    sequences = [*positives(root), *negatives(root)]
    default = SmokeSettings()
    for name in THRESHOLDS:
        for factor in (0.75, 1.25):
            value = getattr(default, name) * factor
            changes = {name: min(value, 1.0)} if name == "min_paleness" else {name: value}
            print(_line(name, changes[name], outcome(sequences, replace(default, **changes))))


def _line(name: str, value: float, result: Outcome) -> str:
    delays = " ".join("miss" if d is None else f"{d:+d}" for d in result.delays)
    return (
        f"| {name} | {value:g} | {result.located} of {result.fires} "
        f"| {result.false_alarms} | {delays} |"
    )


def print_leave_one_out(root: Path) -> None:
    print("\n## Leave one sequence out: settings chosen on the others, applied to it\n")
    print("| left out | " + " | ".join(GRID) + " | located | false alarms | frames after box |")
    print("|---|" + "---|" * (len(GRID) + 3))
    sequences = [*positives(root), *negatives(root)]
    grid = [
        SmokeSettings(seed_z=seed_z, max_transmission=max_transmission, growth=growth)
        for seed_z, max_transmission, growth in product(*GRID.values())
    ]
    for left_out in sequences:
        others = [s for s in sequences if s is not left_out]
        chosen = max(grid, key=lambda settings: outcome(others, settings).merit)
        result = outcome([left_out], chosen)
        values = " | ".join(f"{getattr(chosen, name):g}" for name in GRID)
        found = f"{result.located} of {result.fires}" if result.fires else "-"
        delay = " ".join("miss" if d is None else f"{d:+d}" for d in result.delays) or "-"
        print(f"| {left_out.name} | {values} | {found} | {result.false_alarms} | {delay} |")


def print_speed(root: Path) -> None:
    cv2.setNumThreads(1)
    file = positives(root)[1].files
    images = [cv2.imread(str(f), cv2.IMREAD_COLOR) for f in file[:20]]
    detector = SmokeDetector()
    taken_ms = []
    for k in range(100):
        image = images[k % len(images)]
        assert image is not None
        started = time.perf_counter()
        detector.look(image, 60.0 * k)
        taken_ms.append(1000 * (time.perf_counter() - started))
    low, middle, high = np.percentile(taken_ms[10:], [5, 50, 95])
    height, width = images[0].shape[:2] if images[0] is not None else (0, 0)
    print(
        f"\n## Time per look, one core, {width} x {height}: "
        f"{middle:.1f} ms (5 % {low:.1f}, 95 % {high:.1f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("EARLYFIRE_DATA"))
    parser.add_argument("--quick", action="store_true", help="only the table of sequences")
    options = parser.parse_args()
    if options.data is None:
        parser.error("set EARLYFIRE_DATA or --data to the folder of real sequences")
    print_sequences(options.data, SmokeSettings())
    if not options.quick:
        print_sensitivity(options.data)
        print_leave_one_out(options.data)
    print_speed(options.data)


if __name__ == "__main__":
    main()
