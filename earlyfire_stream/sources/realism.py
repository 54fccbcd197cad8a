"""How near synthetic frames come to real ones, in numbers that are read off both alike.

Every measure works on luminance at a common width, without the strips at the top and bottom
where cameras write their text. Synthetic frames go through JPEG first, as real ones did.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.scenes import Overlay, Plume, PlumeSize, Scene, TimeOfDay
from earlyfire_stream.sources.synthetic import PlumeEvent, SyntheticScene
from earlyfire_stream.verdict import Box

__all__ = [
    "SUITE",
    "Comparison",
    "Line",
    "Measures",
    "Shot",
    "SuiteScene",
    "compare",
    "measure",
    "noise_sigma",
    "plume_contrast",
    "read_sequence",
    "table",
]

WIDTH_PX: Final = 1280
TEXT_SHARE: Final = 0.045
"""Part of the height left out at the top and at the bottom."""
JPEG_QUALITY: Final = 85
PAIR_S: Final = (45.0, 130.0)
"""Frames this far apart count as a minute apart; real sequences have 60 or 120 s."""

Grey = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shot:
    """One frame of a sequence: seconds on any clock (None: unknown), luminance at WIDTH_PX,
    grey levels, and the smoke boxes. `mono` where the camera gave no colour (night)."""

    at_s: float | None
    grey: Grey
    boxes: tuple[Box, ...]
    mono: bool

    @classmethod
    def of(cls, image: NDArray[np.uint8], at_s: float | None, boxes: Iterable[Box]) -> Shot:
        """From a BGR frame of any size."""
        height = round(image.shape[0] * WIDTH_PX / image.shape[1])
        small = image
        if image.shape[1] != WIDTH_PX:
            method = cv2.INTER_AREA if image.shape[1] > WIDTH_PX else cv2.INTER_CUBIC
            small = np.asarray(
                cv2.resize(image, (WIDTH_PX, height), interpolation=method), np.uint8
            )
        patches = cv2.resize(small, (40, 30), interpolation=cv2.INTER_AREA).astype(int)
        spread = patches.max(axis=2) - patches.min(axis=2)
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
        return cls(at_s, grey, tuple(boxes), bool(np.median(spread) < 3))


@dataclass(frozen=True, slots=True)
class Measures:
    """Medians over a sequence; None where it has nothing to measure them on. Grey levels."""

    mean: float
    spread: float
    """Standard deviation over the frame."""
    noise: float
    gradient_p50: float
    gradient_p90: float
    gradient_p99: float
    minute_mean: float | None
    """Mean |difference| of frames a minute apart."""
    minute_sky: float | None
    """The same over the top quarter."""
    minute_land: float | None
    """The same over the bottom third."""
    plume_levels: float | None
    """Mean |difference| from the background inside the smoke box, less that in a ring round it."""
    plume_ratio: float | None
    """The same two as a ratio."""


def noise_sigma(grey: Grey) -> float:
    """Noise in the smoothest part of a frame, standard deviation in grey levels.

    Immerkaer's Laplacian difference mask (CVIU 64(2), 1996), which no plane or gentle slope
    moves, as the root mean square over 32x32 blocks; the 10th percentile of the blocks, since
    most blocks of land hold texture.
    """
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    power = cv2.filter2D(grey, cv2.CV_32F, mask) ** 2 / np.float32(36)
    blocks = cv2.resize(
        power, (grey.shape[1] // 32, grey.shape[0] // 32), interpolation=cv2.INTER_AREA
    )
    return float(np.sqrt(np.quantile(blocks, 0.10)))


def plume_contrast(shot: Shot, background: Grey) -> tuple[float, float] | None:
    """(levels, ratio) of the change from the background inside the boxes against a ring of half
    a box round them; None without a box, or where the ring lies outside the frame."""
    height, width = shot.grey.shape
    inside = np.zeros((height, width), bool)
    around = np.zeros((height, width), bool)
    for box in shot.boxes:
        x1, y1, x2, y2 = box.corners
        grow_x, grow_y = box.w / 2 + 4 / width, box.h / 2 + 4 / height
        inside[_cells(y1, y2, height), _cells(x1, x2, width)] = True
        rows, columns = (
            _cells(y1 - grow_y, y2 + grow_y, height),
            _cells(x1 - grow_x, x2 + grow_x, width),
        )
        around[rows, columns] = True
    around &= ~inside
    if not inside.any() or not around.any():
        return None
    change = np.abs(shot.grey - background)
    within, beside = float(change[inside].mean()), float(change[around].mean())
    return within - beside, within / max(beside, 0.25)


def _cells(low: float, high: float, size: int) -> slice:
    first = int(np.clip(np.floor(low * size), 0, size - 1))
    return slice(first, max(first + 1, int(np.clip(np.ceil(high * size), 0, size))))


def measure(shots: Sequence[Shot]) -> Measures:
    """All measures of one sequence in order of time; ValueError without a frame."""
    if not shots:
        raise ValueError("no frame to measure")
    alone = [_still(_cut(shot.grey)) for shot in shots]
    pairs = [
        _moved(_cut(first.grey), _cut(second.grey))
        for first, second in pairwise(shots)
        if first.at_s is not None
        and second.at_s is not None
        and PAIR_S[0] <= second.at_s - first.at_s <= PAIR_S[1]
    ]
    clear = []
    for shot in shots:
        if shot.boxes:
            break
        clear.append(shot.grey)
    contrasts: list[tuple[float, float]] = []
    if clear:
        background = np.median(np.stack(clear[-5:]), axis=0).astype(np.float32)
        found = (plume_contrast(shot, background) for shot in shots if shot.boxes)
        contrasts = [pair for pair in found if pair is not None]
    still = np.median(np.array(alone), axis=0)
    moved = np.median(np.array(pairs), axis=0) if pairs else None
    plume = np.median(np.array(contrasts), axis=0) if contrasts else None
    return Measures(
        *(float(value) for value in still),
        *((float(moved[k]) if moved is not None else None) for k in range(3)),
        *((float(plume[k]) if plume is not None else None) for k in range(2)),
    )


def _cut(grey: Grey) -> Grey:
    rows = round(grey.shape[0] * TEXT_SHARE)
    return grey[rows : grey.shape[0] - rows]


def _still(grey: Grey) -> tuple[float, ...]:
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)) / 8
    p50, p90, p99 = np.percentile(gradient, (50, 90, 99))
    return float(grey.mean()), float(grey.std()), noise_sigma(grey), p50, p90, p99


def _moved(first: Grey, second: Grey) -> tuple[float, float, float]:
    change = np.abs(second - first)
    rows = len(change)
    return (
        float(change.mean()),
        float(change[: rows // 4].mean()),
        float(change[-rows // 3 :].mean()),
    )


def read_sequence(folder: Path, limit: int = 14) -> list[Shot]:
    """Up to about `limit` frames of a folder with a meta.json (`frame_list` of `file`, `epoch`
    and `boxes_yolo`), in neighbouring pairs spread over it. SourceError if it cannot be read."""
    path = folder / "meta.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["frame_list"]
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(f"{path}: no list of frames ({error})") from error
    count = len(entries)
    starts = np.unique(np.linspace(0, max(count - 2, 0), max(1, limit // 2)).astype(int))
    wanted = sorted({n for start in starts for n in (start, start + 1) if n < count})
    shots = []
    for entry in (entries[n] for n in wanted):
        image = cv2.imread(str(folder / entry["file"]), cv2.IMREAD_COLOR)
        if image is None:
            raise SourceError(f"{folder / entry['file']}: not a readable image")
        boxes = [Box(*(float(v) for v in row[1:5])) for row in entry.get("boxes_yolo", [])]
        seconds = entry.get("epoch", entry.get("figlib_offset_s"))
        shots.append(
            Shot.of(np.asarray(image, np.uint8), None if seconds is None else float(seconds), boxes)
        )
    return shots


@dataclass(frozen=True, slots=True)
class SuiteScene:
    """One synthetic camera to compare."""

    name: str
    scene: Scene
    plume: Plume
    seed: int


_DAY: Final = TimeOfDay.DAY
SUITE: Final = (
    *(
        SuiteScene(f"day {seed}", Scene(time_of_day=_DAY, overlay=Overlay.LINE), Plume(), seed)
        for seed in range(101, 107)
    ),
    SuiteScene("hazy", Scene(time_of_day=_DAY, haze=0.7), Plume(size=PlumeSize.LARGE), 107),
    SuiteScene("cloudy", Scene(time_of_day=_DAY, clouds=0.4), Plume(), 108),
    SuiteScene("far", Scene(time_of_day=_DAY), Plume(distance_m=16_000), 109),
    SuiteScene("dusk", Scene(time_of_day=TimeOfDay.DUSK), Plume(), 110),
    SuiteScene("night 1", Scene(time_of_day=TimeOfDay.NIGHT), Plume(), 111),
    SuiteScene("night 2", Scene(time_of_day=TimeOfDay.NIGHT, fog=0.6), Plume(), 112),
)
"""Six seeds as they come, then weather, distance and hours; smoke from second 150 on."""

ONSET_S: Final = 150.0
INSTANTS_S: Final = (0.0, 60.0, 120.0, 330.0, 390.0, 690.0, 1290.0)


def _film(entry: SuiteScene, height: int) -> list[Shot]:
    event = PlumeEvent("fire", ONSET_S, None, entry.plume)
    scene = SyntheticScene(entry.scene, [event], WIDTH_PX, height, entry.seed)
    shots = []
    for at_s in INSTANTS_S:
        frame = scene.render(at_s)
        _, coded = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
        boxes = [truth.box for truth in frame.truth if truth.box is not None]
        shots.append(Shot.of(image, at_s, boxes))
    return shots


@dataclass(frozen=True, slots=True)
class Line:
    """One measure over real and synthetic sequences of one kind of light."""

    name: str
    night: bool
    real: tuple[float, ...]
    synthetic: tuple[float, ...]

    @property
    def inside(self) -> int:
        """How many synthetic values lie within the real range."""
        if not self.real:
            return 0
        return sum(min(self.real) <= value <= max(self.real) for value in self.synthetic)

    @property
    def median_inside(self) -> bool:
        """Whether the synthetic median lies within the real range."""
        if not self.real or not self.synthetic:
            return False
        return min(self.real) <= float(np.median(self.synthetic)) <= max(self.real)


@dataclass(frozen=True, slots=True)
class Comparison:
    real: Mapping[str, Measures]
    synthetic: Mapping[str, Measures]
    lines: tuple[Line, ...]


def compare(
    real_root: Path, suite: Sequence[SuiteScene] = SUITE, height: int = 960, limit: int = 14
) -> Comparison:
    """Measures every folder with a meta.json under `real_root`, and the suite at 1280 x height.

    Frames without colour (night) are compared apart from the others. SourceError where the
    folder holds no sequence. About two minutes for the default suite on one core.
    """
    folders = sorted(path.parent for path in real_root.glob("*/meta.json"))
    folders = [folder for folder in folders if (folder / "frames").is_dir()]
    if not folders:
        raise SourceError(f"{real_root}: no folder with a meta.json and frames in it")
    real = _by_light({folder.name: read_sequence(folder, limit) for folder in folders})
    synthetic = _by_light({entry.name: _film(entry, height) for entry in suite})
    lines = []
    for night in (False, True):
        for field in fields(Measures):
            ours = _values(synthetic[night], field.name)
            theirs = _values(real[night], field.name)
            if ours and theirs:
                lines.append(Line(field.name, night, theirs, ours))
    return Comparison(
        {**real[False], **real[True]}, {**synthetic[False], **synthetic[True]}, tuple(lines)
    )


def _by_light(sequences: Mapping[str, list[Shot]]) -> dict[bool, dict[str, Measures]]:
    """Sequences by day; by night every frame alone, since real nights come as single frames."""
    result: dict[bool, dict[str, Measures]] = {False: {}, True: {}}
    for name, shots in sequences.items():
        if day := [shot for shot in shots if not shot.mono]:
            result[False][name] = measure(day)
        night = [shot for shot in shots if shot.mono]
        result[True] |= {f"{name} (night {n})": measure([shot]) for n, shot in enumerate(night)}
    return result


def _values(measures: Mapping[str, Measures], name: str) -> tuple[float, ...]:
    found = (getattr(entry, name) for entry in measures.values())
    return tuple(float(value) for value in found if value is not None)


def table(comparison: Comparison) -> Table:
    """Real range against synthetic range, one row a measure; misses are marked."""
    result = Table("light", "measure", "real min..max", "synthetic min / median / max", "inside")
    for line in comparison.lines:
        low, middle, high = np.quantile(line.synthetic, (0, 0.5, 1))
        mark = "" if line.median_inside else "  MISS"
        result.add_row(
            "night" if line.night else "day",
            line.name,
            f"{min(line.real):.2f} .. {max(line.real):.2f}",
            f"{low:.2f} / {middle:.2f} / {high:.2f}",
            f"{line.inside}/{len(line.synthetic)}{mark}",
        )
    return result
