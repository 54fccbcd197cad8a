"""Looks into every file of a dataset once, before a scenario is written.

What playing would find out hours later is found here: sizes that change within a recording, label
lines that cannot be read, onsets behind a video's end. Images are opened, not decoded.
"""

from __future__ import annotations

__all__ = ["Look", "look"]

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from PIL import Image as Pillow

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.annotations import of_class, read_coco, read_yolo_all
from earlyfire_stream.scenario.datasets import Fault, Recording
from earlyfire_stream.scenario.image_names import images_in
from earlyfire_stream.scenario.models import Camera, ImagesSource, StillsSource, VideoSource
from earlyfire_stream.sources.open import open_source


@dataclass(slots=True)
class Look:
    """What looking into the files brought."""

    recordings: list[Recording] = field(default_factory=list)
    """The sound ones, with what only their files tell."""
    faults: list[Fault] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Images that will be lost frames."""
    smoke: int = 0
    """Boxes that count as smoke in all labels."""
    other: Counter[int] = field(default_factory=Counter)
    """Class of the other boxes -> how many."""


def look(
    recordings: Sequence[Recording], base: Path, progress: Callable[[int], None] = lambda _: None
) -> Look:
    """Look into the files of all recordings; `progress` is told how many are done."""
    result = Look()
    for n, recording in enumerate(recordings):
        try:
            if isinstance(recording.source, VideoSource):
                result.recordings.append(_video(recording, base))
            else:
                _images(recording, recording.source, base, result)
                result.recordings.append(recording)
        except _Wrong as why:
            message, hint = why.args
            result.faults.append(Fault(recording.name, message, hint, recording.place))
        except SourceError as why:
            result.faults.append(Fault(recording.name, str(why), "", recording.place))
        except OSError as why:
            message = f"{why.filename}: cannot be read: {why.strerror}"
            result.faults.append(Fault(recording.name, message, "", recording.place))
        progress(n + 1)
    return result


class _Wrong(Exception):
    """(message, hint)"""


def _images(
    recording: Recording, source: ImagesSource | StillsSource, base: Path, result: Look
) -> None:
    folder = base / source.path
    images = images_in(folder)
    if source.labels is not None:
        images = _check_labels(source, folder, images, base / source.labels, result)
    first: tuple[str, tuple[int, int]] | None = None
    unreadable = []
    for image in images:
        size = _size(folder / image)
        if size is None:
            unreadable.append(f"{recording.place or recording.name}/{image}")
        elif first is None:
            first = image, size
        elif size != first[1] and isinstance(source, ImagesSource):
            raise _Wrong(
                f"{recording.place or recording.name}/{image}: is {size[0]}x{size[1]}, "
                f"{first[0]} is {first[1][0]}x{first[1][1]}; one camera has one size",
                "skip it, or move the other images away",
            )
    if first is None:
        raise _Wrong(f"{folder}: none of its {len(images)} images can be read", "copy them again")
    result.unreadable += unreadable


def _check_labels(
    source: ImagesSource | StillsSource,
    folder: Path,
    images: list[str],
    labels: Path,
    result: Look,
) -> list[str]:
    """Read and count every label; the images that are played."""
    if labels.suffix.lower() == ".json":
        coco = read_coco(labels)
        listed = {image: coco.all_of(folder / image) for image in images}
        images = [image for image in images if listed[image] is not None]
        found = [box for image in images for box in listed[image] or ()]
    else:
        paths = [labels / f"{Path(image).stem}.txt" for image in images]
        found = [box for path in paths if path.is_file() for box in read_yolo_all(path)]
    result.smoke += len(of_class(source.smoke_class, found))
    result.other.update(kind for kind, _ in found if kind != source.smoke_class)
    return images


def _size(path: Path) -> tuple[int, int] | None:
    """(width, height) from the header, None if there is none to read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            with Pillow.open(path) as image:
                return image.size
    except (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError):
        return None  # Pillow's readers raise all of these on damaged headers
    except Pillow.DecompressionBombError:
        return None


def _video(recording: Recording, base: Path) -> Recording:
    """With its frames counted and its length; _Wrong if its truth lies behind its end."""
    assert isinstance(recording.source, VideoSource)
    video = open_source(Camera(id="video", source=recording.source), base, 0)
    try:
        times, length_s = video.native_times or (), video.ends_at or 0.0
    finally:
        video.close()
    last = max([recording.onset or 0.0, *(box.at for box in recording.boxes)])
    if last >= length_s:
        raise _Wrong(
            f"{recording.place or recording.name}: is {length_s:g} s long, its truth speaks of "
            f"{last:g} s",
            "mend the onset or the boxes",
        )
    gaps = [b - a for a, b in pairwise(times)]
    return replace(
        recording,
        frames=len(times),
        cadence_s=round(video.cadence_s, 6) if video.cadence_s else None,
        length_s=length_s,
        widest_gap_s=max(gaps, default=None),
    )
