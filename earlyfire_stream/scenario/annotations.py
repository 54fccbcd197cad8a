"""Where the smoke is, as files of others tell it: YOLO text files, COCO JSON.

Both come from strangers: every value is checked, and what is wrong is a SourceError that names
file and place. Numbers and edges may leave the frame by rounding and are then clipped.
"""

from __future__ import annotations

__all__ = [
    "ROUNDING",
    "Coco",
    "CocoImage",
    "of_class",
    "parse_yolo",
    "read_coco",
    "read_yolo",
    "read_yolo_all",
]

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from earlyfire_stream.errors import SourceError
from earlyfire_stream.verdict import Box

ROUNDING = 1e-3
"""How far outside the frame a number may lie: a pixel of a 1000-pixel frame."""
_MAX_LABEL_BYTES = 1_000_000
_MAX_COCO_BYTES = 500_000_000
"""COCO's own train2017 instances, polygons included, take 470 MB."""


def read_yolo(path: Path, smoke_class: int) -> tuple[Box, ...]:
    """The smoke boxes of one label file; SourceError names file and line of what is wrong."""
    return of_class(smoke_class, read_yolo_all(path))


def of_class(smoke_class: int, found: Iterable[tuple[int, Box]]) -> tuple[Box, ...]:
    return tuple(box for kind, box in found if kind == smoke_class)


def read_yolo_all(path: Path) -> tuple[tuple[int, Box], ...]:
    """(class, box) of every line of one label file; SourceError as in `read_yolo`."""
    try:
        if path.stat().st_size > _MAX_LABEL_BYTES:
            raise SourceError(f"{path}: {path.stat().st_size:,} bytes are no YOLO label file")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as why:
        raise SourceError(f"{path}: cannot be read: {why.strerror}") from why
    except UnicodeDecodeError as why:
        raise SourceError(f"{path}: is no text file; YOLO labels are plain text") from why
    return parse_yolo(text, str(path))


def parse_yolo(text: str, name: str) -> tuple[tuple[int, Box], ...]:
    """(class, box) of each `class x_center y_center width height` line.

    Numbers and edges may leave [0, 1] by rounding (0.001) and are then clipped; more is an error,
    as is a box without an area.
    """
    boxes = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            boxes.append(_parse_line(line.split()))
        except ValueError as why:
            raise SourceError(f"{name}:{number}: {why}") from why
    return tuple(boxes)


def _parse_line(fields: list[str]) -> tuple[int, Box]:
    if len(fields) != 5:
        hint = "; polygons and confidences are not read" if len(fields) > 5 else ""
        raise ValueError(
            f"{len(fields)} numbers, `class x_center y_center width height` is needed{hint}"
        )
    try:
        kind = float(fields[0])
        xc, yc, w, h = (float(f) for f in fields[1:])
    except ValueError:
        raise ValueError(f"not a number in {' '.join(fields)!r:.80}") from None
    if not kind.is_integer() or kind < 0:
        raise ValueError(f"the class is {fields[0]:.40}, a whole number from 0 is needed")
    values = (xc, yc, w, h)
    if not all(math.isfinite(v) for v in values):
        raise ValueError(f"not a finite number in {' '.join(fields)!r:.80}")
    if w <= 0 or h <= 0:
        raise ValueError(f"a box of {w:g} x {h:g} has no area")
    edges = (xc - w / 2, yc - h / 2, xc + w / 2, yc + h / 2)
    if min(*values, *edges) < -ROUNDING or max(*values, *edges) > 1 + ROUNDING:
        raise ValueError(
            f"the box {xc:g} {yc:g} {w:g} {h:g} leaves the frame; "
            "YOLO numbers are fractions of the image, not pixels"
        )
    return int(kind), Box.from_corners(*edges)


# --- COCO ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image of a COCO file: where it lies, and its boxes by category."""

    file: PurePosixPath
    """Relative to the folder of the images."""
    boxes: tuple[tuple[int, Box], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Coco:
    path: Path
    categories: Mapping[int, str]
    images: tuple[CocoImage, ...]

    def smoke_class(self) -> int:
        """The category that is smoke: the one that says so, or the only one there is."""
        named = [i for i, name in self.categories.items() if "smoke" in name.lower()]
        if len(named) == 1:
            return named[0]
        if len(self.categories) == 1:
            return next(iter(self.categories))
        known = ", ".join(f"{i} {name!r:.40}" for i, name in sorted(self.categories.items()))
        raise SourceError(
            f"{self.path}: which category is smoke? It has {known or 'none'}; give smoke_class"
        )

    def boxes_of(self, image: Path, smoke_class: int) -> tuple[Box, ...] | None:
        """The smoke boxes of the file `image`, None if it is not in here."""
        found = self.all_of(image)
        return None if found is None else of_class(smoke_class, found)

    def all_of(self, image: Path) -> tuple[tuple[int, Box], ...] | None:
        """(category, box) of the file `image`, None if it is not in here."""
        for found in _by_name(self).get(image.name, ()):
            if image.parts[-len(found.file.parts) :] == found.file.parts:
                return found.boxes
        return None


@lru_cache(maxsize=4)
def _by_name(coco: Coco) -> dict[str, list[CocoImage]]:
    found: dict[str, list[CocoImage]] = {}
    for image in coco.images:
        found.setdefault(image.file.name, []).append(image)
    for several in found.values():
        several.sort(key=lambda i: -len(i.file.parts))  # the most exact name first
    return found


def read_coco(path: Path) -> Coco:
    """A COCO file; read once however many cameras ask for it."""
    try:
        about = path.stat()
        if about.st_size > _MAX_COCO_BYTES:
            raise SourceError(
                f"{path}: {about.st_size:,} bytes, at most {_MAX_COCO_BYTES:,} are read"
            )
        return _read_coco(path, about.st_mtime_ns, about.st_size)
    except OSError as why:
        raise SourceError(f"{path}: cannot be read: {why.strerror}") from why


@lru_cache(maxsize=4)
def _read_coco(path: Path, _changed_ns: int, _size_bytes: int) -> Coco:
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as why:  # ValueError: also a number of 5,000 digits
        raise SourceError(f"{path}: is no JSON: {why}") from why
    if not isinstance(whole, dict):
        raise SourceError(f"{path}: is no COCO file; an object with images and annotations is")
    images = _listed(whole, "images", path)
    if not images:
        raise SourceError(f"{path}: images: has none; a COCO file lists its images there")
    names: dict[object, PurePosixPath] = {}
    sizes: dict[object, tuple[float, float]] = {}
    for n, image in enumerate(images):
        place = f"{path}: images[{n}]"
        file = image.get("file_name")
        if not isinstance(file, str) or not file:
            raise SourceError(f"{place}: file_name is missing")
        name = PurePosixPath(file.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or "\0" in file:
            raise SourceError(f"{place}: {file!r:.80} leaves the folder of the images")
        try:
            os.fsencode(file)
        except UnicodeEncodeError as why:  # half a surrogate pair, which JSON can write
            raise SourceError(f"{place}: {file!a:.80} is no name of a file") from why
        key = _id(image, "id", place)
        if key in names:
            raise SourceError(f"{place}: id {key} stands there twice")
        names[key] = name
        sizes[key] = (_number(image, "width", place), _number(image, "height", place))
    categories = {
        _id(category, "id", f"{path}: categories[{n}]"): str(category.get("name", ""))
        for n, category in enumerate(_listed(whole, "categories", path))
    }
    boxes: dict[object, list[tuple[int, Box]]] = {key: [] for key in names}
    for n, annotation in enumerate(_listed(whole, "annotations", path)):
        place = f"{path}: annotations[{n}]"
        key = _id(annotation, "image_id", place)
        if key not in names:
            raise SourceError(f"{place}: there is no image {key}")
        kind = _id(annotation, "category_id", place)
        if kind not in categories:
            raise SourceError(f"{place}: there is no category {kind}")
        boxes[key].append((kind, _box(annotation, sizes[key], place)))
    return Coco(
        path,
        categories,
        tuple(CocoImage(name, tuple(boxes[key])) for key, name in names.items()),
    )


def _listed(whole: Mapping[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    found = whole.get(name)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise SourceError(f"{path}: {name}: is missing or no list; a COCO file has one")
    return found


def _id(entry: Mapping[str, Any], name: str, place: str) -> int:
    value = entry.get(name)
    if type(value) is not int:
        raise SourceError(f"{place}: {name} is {value!r:.40}, a whole number is needed")
    return value


def _number(entry: Mapping[str, Any], name: str, place: str) -> float:
    value: Any = entry.get(name)
    if not _is_number(value) or value <= 0:
        raise SourceError(f"{place}: {name} is {value!r:.40}, a number of pixels is needed")
    return float(value)


def _is_number(value: object) -> bool:
    """False also for whole numbers that no float can hold; JSON has them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _box(annotation: Mapping[str, Any], size: tuple[float, float], place: str) -> Box:
    """COCO's [left, top, width, height] in pixels as fractions of the frame."""
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(v) for v in bbox):
        raise SourceError(f"{place}: bbox is {bbox!r:.60}, [left, top, width, height] is needed")
    left, top, width, height = bbox
    if width <= 0 or height <= 0:
        raise SourceError(f"{place}: a box of {width:g} x {height:g} has no area")
    edges = left / size[0], top / size[1], (left + width) / size[0], (top + height) / size[1]
    if min(edges) < -ROUNDING or max(edges) > 1 + ROUNDING:
        raise SourceError(
            f"{place}: the box {bbox!r:.60} leaves the image of {size[0]:g}x{size[1]:g}"
        )
    try:
        return Box.from_corners(*edges)
    except ValueError as why:
        raise SourceError(f"{place}: {why}") from why
