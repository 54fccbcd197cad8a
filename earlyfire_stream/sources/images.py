"""Image folders as cameras: a timed sequence (`images`) or unrelated stills (`stills`).

JPEG files pass unchanged where nothing is asked of the picture, so that a frame's identity is
that of the file. Anything else (PNG, BMP, WebP, a JPEG that EXIF says to turn, a perturbation)
is decoded and encoded once.
"""

from __future__ import annotations

__all__ = ["ImageFolder", "open_images", "open_stills"]

import csv
import random
import statistics
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.annotations import read_coco, read_yolo
from earlyfire_stream.scenario.image_names import epoch_of, natural_key
from earlyfire_stream.scenario.models import Camera, ImagesSource, StillsSource
from earlyfire_stream.scenario.units import parse_seconds
from earlyfire_stream.sources.base import UNKNOWN, Label, Picture, seed_for
from earlyfire_stream.sources.image_files import StoredImage, image_files, read_image
from earlyfire_stream.sources.optics import Optics
from earlyfire_stream.sources.truth import NAMELESS, declared, labelled
from earlyfire_stream.verdict import Box, Truth

STILLS_GAP_S = 1.0
"""Scenario seconds between two stills where the camera declares no cadence."""
IMPLAUSIBLE_GAP = 20
"""A gap of so many medians is a hole in the data or a wrong clock. FIgLib's double gaps pass."""

LabelAt = Callable[[int], Label]
"""Index of a file -> its label, before the optics."""


class ImageFolder:
    """Image files at their instants; a broken one is a lost frame, all broken is an error."""

    def __init__(
        self,
        files: Sequence[Path],
        times: tuple[float, ...],
        *,
        gap_s: float,
        cadence_s: float | None,
        label_of: LabelAt,
        optics: Optics,
        warnings: Iterable[str] = (),
    ) -> None:
        self.warnings = list(warnings)
        self._files = files
        self._times = times
        self._gap_s = gap_s
        self._cadence_s = cadence_s
        self._label_of = label_of
        self._optics = optics
        self._broken: dict[int, str] = {}
        self._size_of = lru_cache(maxsize=4096)(self._read_size)
        self._usual_size = self._first_usable()

    @property
    def native_times(self) -> tuple[float, ...]:
        return self._times

    @property
    def cadence_s(self) -> float | None:
        return self._cadence_s

    @property
    def ends_at(self) -> float:
        return self._times[-1] + self._gap_s

    def pictures(self, times: Iterable[float]) -> Iterator[Picture | None]:
        shown, jpeg = -1, b""
        stored: StoredImage | None = None
        for at in times:
            index = self._index(at)
            if index is None or index in self._broken:
                yield None
                continue
            try:
                if index != shown:
                    stored, jpeg, shown = read_image(self._files[index]), b"", index
                assert stored is not None
                if not jpeg or not self._optics.steady:
                    jpeg = self._develop(stored, at)
            except SourceError as why:
                self._lose(index, str(why))
                shown = -1
                yield None
                continue
            label = self._optics.see(self._label_of(index), at, stored.size)
            yield Picture(at, jpeg, label)

    def label(self, at: float) -> Label:
        index = self._index(at)
        if index is None:
            return UNKNOWN
        return self._optics.see(self._label_of(index), at, self._size_of(index))

    def close(self) -> None:
        """Nothing is held open."""

    def _develop(self, stored: StoredImage, at: float) -> bytes:
        if not (stored.passes and self._optics.untouched):
            return self._optics.develop(stored.decode(), at)
        if len(stored.data) > MAX_WIRE_BYTES:
            raise SourceError(
                f"{stored.path}: {len(stored.data):,} bytes, a frame may have "
                f"{MAX_WIRE_BYTES:,}; set perturb.quality or perturb.height"
            )
        return stored.data

    def _index(self, at: float) -> int | None:
        if not 0 <= at < self.ends_at:
            return None
        return max(0, bisect_right(self._times, at + _SAME_INSTANT_S) - 1)

    def _read_size(self, index: int) -> tuple[int, int]:
        if not self._optics.settings.shake_px and self._optics.settings.crop is None:
            return self._usual_size  # nothing depends on it
        try:
            return read_image(self._files[index]).size
        except SourceError:
            return self._usual_size

    def _lose(self, index: int, why: str) -> None:
        self._broken[index] = why
        self.warnings.append(f"frame lost: {why}")

    def _first_usable(self) -> tuple[int, int]:
        """The size of the first image that can be shown; the ones before it are lost."""
        for index, file in enumerate(self._files):
            try:
                stored = read_image(file)
                self._develop(stored, self._times[index])
            except SourceError as why:
                self._lose(index, str(why))
                if index == MAX_BROKEN_AT_START:
                    break
                continue
            return stored.size
        count = len(self._broken)
        reasons = "; ".join(list(self._broken.values())[:3])
        raise SourceError(f"{self._files[0].parent}: none of {count} images can be used: {reasons}")


MAX_BROKEN_AT_START = 200
"""So many unusable images in a row, and the folder is given up."""
MAX_WIRE_BYTES = 20_000_000
"""What a consumer accepts, `frames.FrameLimits`."""
_SAME_INSTANT_S = 1e-6
"""Times that went through arithmetic still find their image."""


def open_images(camera: Camera, base: Path, optics: Optics) -> ImageFolder:
    """A timed sequence. SourceError for a clock, a label or a folder that cannot be right."""
    source = camera.source
    assert isinstance(source, ImagesSource)
    folder = _under(base, source.path)
    files, boxes_of = _labelled_files(image_files(folder), base, source)
    if source.interval is not None:
        times = [i * source.interval for i in range(len(files))]
    elif source.times is not None:
        times = _times_of_csv(_under(base, source.times), files)
    else:
        times = [_epoch_of(file) for file in files]
    order = sorted(range(len(files)), key=lambda i: (times[i], i))
    files, times = [files[i] for i in order], [times[i] for i in order]
    gap_s = _check_gaps(files, times, accept=source.gaps == "accept")
    if gap_s is None:
        gap_s = source.interval or camera.cadence or 1.0
    instants = tuple(t - times[0] for t in times)

    boxes = None
    warnings: list[str] = []
    if boxes_of is not None:
        boxes = [boxes_of[file] for file in files]
        warnings = _check_onset(camera, boxes, instants)

    def label_of(index: int) -> Label:
        if not camera.truth:
            return UNKNOWN
        if boxes is None:
            return declared(camera.fires, instants[index])
        return labelled(boxes[index], camera.fires, instants[index])

    return ImageFolder(
        files,
        instants,
        gap_s=gap_s,
        cadence_s=gap_s,
        label_of=label_of,
        optics=optics,
        warnings=warnings,
    )


def open_stills(camera: Camera, base: Path, optics: Optics) -> ImageFolder:
    """Unrelated images, one per cadence of the camera, in an order drawn from its seed.

    The order is drawn so that neighbours (often from one camera) do not stand together and a run
    that stops early has seen a fair sample.
    """
    source = camera.source
    assert isinstance(source, StillsSource)
    files, boxes_of = _labelled_files(image_files(_under(base, source.path)), base, source)
    random.Random(seed_for(optics.seed, "stills")).shuffle(files)
    gap_s = camera.cadence or STILLS_GAP_S
    fire = camera.fires[0].id if camera.fires else NAMELESS
    boxes = None if boxes_of is None else [boxes_of[file] for file in files]

    def label_of(index: int) -> Label:
        if not camera.truth:
            return UNKNOWN
        if boxes is not None:
            truth = tuple(Truth(fire, box) for box in boxes[index])
            return Label(bool(truth), truth, boxed=True)
        if source.smoke is None:
            return UNKNOWN
        return Label(source.smoke, (Truth(fire),) if source.smoke else (), boxed=not source.smoke)

    return ImageFolder(
        files,
        tuple(i * gap_s for i in range(len(files))),
        gap_s=gap_s,
        cadence_s=None,
        label_of=label_of,
        optics=optics,
    )


def _under(base: Path, path: str) -> Path:
    return base / Path(path).expanduser()


# --- clocks --------------------------------------------------------------------------------------


def _epoch_of(file: Path) -> float:
    epoch = epoch_of(file.name)
    if epoch is None:
        raise SourceError(
            f"{file}: its name does not begin with Unix epoch seconds; "
            "give `interval` or a `times` file instead of epoch_names"
        )
    return epoch


def _times_of_csv(path: Path, files: Sequence[Path]) -> list[float]:
    """Seconds of each file; the table must name every image once and nothing else."""
    table: dict[str, float] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"file", "at"} <= set(rows.fieldnames or ()):
                raise SourceError(f"{path}: the columns `file` and `at` are needed in line 1")
            for row in rows:
                name = Path((row["file"] or "").strip()).name
                if name in table:
                    raise SourceError(f"{path}:{rows.line_num}: {name} stands there twice")
                try:
                    table[name] = parse_seconds((row["at"] or "").strip())
                except ValueError as why:
                    raise SourceError(f"{path}:{rows.line_num}: {why}") from why
    except OSError as why:
        raise SourceError(f"{path}: cannot be read: {why.strerror}") from why
    except (UnicodeDecodeError, csv.Error) as why:
        raise SourceError(f"{path}: is no CSV file in UTF-8: {why}") from why
    names = {file.name for file in files}
    for what, some in (
        ("no time for", sorted(names - table.keys(), key=natural_key)),
        ("a time for files that are not there:", sorted(table.keys() - names, key=natural_key)),
    ):
        if some:
            raise SourceError(f"{path}: {what} {_few(some)}; one line for each image is needed")
    return [table[file.name] for file in files]


def _check_gaps(
    files: Sequence[Path], times: Sequence[float], *, accept: bool = False
) -> float | None:
    """The median gap in seconds, None for a single image; SourceError for an implausible one."""
    gaps = [b - a for a, b in pairwise(times)]
    if not gaps:
        return None
    median = statistics.median(gaps)
    for index, gap in enumerate(gaps):
        a, b = files[index], files[index + 1]
        if gap <= 0:
            raise SourceError(f"{a} and {b.name} have the same time; each image needs its own")
        if gap > IMPLAUSIBLE_GAP * median and not accept:
            raise SourceError(
                f"{a} and {b.name} lie {gap:g} s apart, the usual gap being {median:g} s; "
                "correct the times, split the folder there into two cameras, or write gaps: accept"
            )
    return median


# --- labels --------------------------------------------------------------------------------------


def _labelled_files(
    files: list[Path], base: Path, source: ImagesSource | StillsSource
) -> tuple[list[Path], dict[Path, tuple[Box, ...]] | None]:
    """The files that are played, and the smoke boxes of each; None where there are no labels."""
    if source.labels is None:
        return files, None
    labels = _under(base, source.labels)
    if labels.suffix.lower() == ".json":
        return _of_coco(files, labels, source)
    if not labels.is_dir():
        raise SourceError(f"{labels}: no such folder; check `labels` of the source")
    paths = {file: labels / f"{file.stem}.txt" for file in files}
    there = {file for file, path in paths.items() if path.is_file()}
    missing = [path.name for file, path in paths.items() if file not in there]
    if missing and source.unlabelled == "refuse":
        raise SourceError(
            f"{labels}: no label file for {_few(missing)} "
            f"({len(missing)} of {len(paths)} missing); an image without smoke needs an empty "
            "file, or write unlabelled: empty"
        )
    return files, {
        file: read_yolo(path, source.smoke_class) if file in there else ()
        for file, path in paths.items()
    }


def _of_coco(
    files: list[Path], labels: Path, source: ImagesSource | StillsSource
) -> tuple[list[Path], dict[Path, tuple[Box, ...]]]:
    """A COCO file's own list says which images of the folder are played."""
    coco = read_coco(labels)
    found = {file: coco.boxes_of(file, source.smoke_class) for file in files}
    boxes = {file: its for file, its in found.items() if its is not None}
    if not boxes:
        raise SourceError(f"{labels}: names none of the images in {files[0].parent}")
    return [file for file in files if file in boxes], boxes


def _check_onset(
    camera: Camera, boxes: Sequence[tuple[Box, ...]], times: Sequence[float]
) -> list[str]:
    """Do labels and declared fires tell the same story? Loud where alarms would be misjudged."""
    first = next((t for t, found in zip(times, boxes, strict=True) if found), None)
    if first is None or not camera.truth:
        return []
    if not camera.fires:
        raise SourceError(
            f"camera {camera.id}: its labels show smoke from {first:g} s on, but it declares no "
            f"fire, so every alarm would count as false; add `fires: [{{id: {NAMELESS}, "
            f"onset: {first:g}s}}]`, or use kind: stills for frame metrics alone"
        )
    onset = min(fire.onset for fire in camera.fires)
    if first < onset:
        return [
            f"camera {camera.id}: its labels show smoke from {first:g} s on, {onset - first:g} s "
            f"before the declared onset; an alarm in between counts as false"
        ]
    return []


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
