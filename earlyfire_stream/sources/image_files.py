"""A folder of image files: which there are, in which order, and each one read with care.

Files come from strangers: what a file is, its first bytes say and not its name; its size is read
from the header before anything is decoded. A file that cannot be used is a SourceError that names
it and the remedy; the caller decides whether one such file matters.
"""

from __future__ import annotations

__all__ = ["StoredImage", "image_files", "read_image", "read_size"]

import io
import stat
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from earlyfire_stream.errors import SourceError
from earlyfire_stream.frames import FrameLimits, Refused, parse, strip
from earlyfire_stream.scenario.image_names import SUFFIXES, natural_key
from earlyfire_stream.sources.base import Image

_LIMITS = FrameLimits()
_MAX_FILE_BYTES = 200_000_000
"""An uncompressed image of the 50 million pixels that are allowed takes 150 MB."""
_ORIENTATION = 0x0112
"""The EXIF tag, table 4 of EXIF 2.3; 1 is upright."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image file, its header checked, its pixels still packed."""

    path: Path
    data: bytes
    size: tuple[int, int]
    """(width, height) as it is to be seen, turned upright."""
    passes: bool
    """An upright JPEG that may go on the wire as it is."""

    def decode(self) -> Image:
        """Upright pixels; SourceError if the data is broken behind its header."""
        packed = np.frombuffer(self.data, np.uint8)
        try:
            image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        except cv2.error as why:
            raise SourceError(f"{self.path}: cannot be decoded: {why.err}") from why
        if image is None:
            raise SourceError(f"{self.path}: cannot be decoded; the file is damaged")
        return cast(Image, image)


def image_files(folder: Path) -> list[Path]:
    """The images of `folder` in natural order of name, hidden files and subfolders aside.

    A link that leads nowhere is among them: that it cannot be read is said when it is read.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda p: natural_key(p.name))
    except FileNotFoundError as why:
        raise SourceError(f"{folder}: no such folder; check `path` of the source") from why
    except NotADirectoryError as why:
        raise SourceError(
            f"{folder}: is a file; images and stills need a folder (kind: video plays a file)"
        ) from why
    except OSError as why:
        raise SourceError(f"{folder}: cannot be read: {why.strerror}") from why
    seen = [p for p in entries if not p.name.startswith(".")]
    images = [p for p in seen if p.suffix.lower() in SUFFIXES and not p.is_dir()]
    if not images:
        raise SourceError(f"{folder}: no image in it ({', '.join(sorted(SUFFIXES))}){_hint(seen)}")
    return images


def _hint(entries: list[Path]) -> str:
    for entry in entries:
        if entry.is_dir() and any(p.suffix.lower() in SUFFIXES for p in entry.iterdir()):
            return f"; its subfolder {entry.name!r} has some: name that"
    others = Counter(p.suffix.lower() or "no suffix" for p in entries if not p.is_dir())
    if not others:
        return "; it is empty"
    return "; it has " + ", ".join(f"{n} of {suffix}" for suffix, n in others.most_common(4))


def read_image(path: Path) -> StoredImage:
    """One image file with its header checked; a comment of ours is taken out."""
    try:
        _check_file(path)  # first: opening a named pipe would wait for ever
        data = path.read_bytes()
    except OSError as why:
        raise SourceError(f"{path}: cannot be read: {why.strerror}") from why
    if not data:
        raise SourceError(f"{path}: is empty (0 bytes); copy it again or delete it")
    if data[:2] == b"\xff\xd8":
        data = strip(data)
        read = parse(data, FrameLimits(_MAX_FILE_BYTES, _LIMITS.max_pixels))
        if isinstance(read, Refused):
            raise SourceError(f"{path}: is no usable JPEG: {read.detail}; copy it again")
    size, turned, is_jpeg = _header(path, data)
    return StoredImage(path, data, size, passes=is_jpeg and not turned)


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) as `read_image` says it."""
    return read_image(path).size


def _check_file(path: Path) -> None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(f"{path}: is no regular file")
    if found.st_size > _MAX_FILE_BYTES:
        raise SourceError(
            f"{path}: {found.st_size:,} bytes, at most {_MAX_FILE_BYTES:,} are read; "
            "save it smaller"
        )


def _header(path: Path, data: bytes) -> tuple[tuple[int, int], bool, bool]:
    """((width, height) upright, is it stored turned, is it a JPEG), nothing decoded."""
    try:
        with warnings.catch_warnings():
            # Pillow's own bomb warning: the limit below is stricter and says what to do.
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            with Pillow.open(io.BytesIO(data)) as image:
                width, height = image.size
                kind = image.format
                if width * height > _LIMITS.max_pixels:
                    raise SourceError(f"{path}: {width}x{height}, {_TOO_MANY}; save it smaller")
                # Where there is none in the header, asking a PNG for it would decode the image.
                exif = image.getexif() if "exif" in image.info else {}
                turned = exif.get(_ORIENTATION, 1)
    except UnidentifiedImageError as why:
        raise SourceError(
            f"{path}: is no image in spite of its name; delete it or convert it to JPEG"
        ) from why
    except Pillow.DecompressionBombError as why:
        raise SourceError(f"{path}: {_TOO_MANY}; save it smaller") from why
    except (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError) as why:
        # Pillow's readers raise all of these on damaged headers.
        raise SourceError(f"{path}: its header is damaged ({why}); copy it again") from why
    if turned in (5, 6, 7, 8):
        width, height = height, width
    return (width, height), turned not in (0, 1), kind in ("JPEG", "MPO")


_TOO_MANY = f"more than the {_LIMITS.max_pixels:,} pixels that are allowed"
