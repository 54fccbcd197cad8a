"""What the names in a folder tell: which files are images, in which order, and when taken."""

from __future__ import annotations

__all__ = ["SUFFIXES", "epoch_of", "images_in", "natural_key"]

import os
import re
from pathlib import Path

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp"})
_EPOCH = re.compile(r"([0-9]{9,10}|[0-9]{13})(?![0-9])")
"""Unix seconds from 1973 on, or milliseconds."""


def natural_key(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Sorts `img2` before `img10`; names that differ only in zeros by the text itself."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((int(p), "") if p.isdecimal() else (-1, p) for p in parts), name


def epoch_of(name: str) -> float | None:
    """Unix seconds that a file name begins with; None if it does not."""
    found = _EPOCH.match(name)
    if found is None:
        return None
    return int(found[1]) / (1000 if len(found[1]) == 13 else 1)


def images_in(folder: Path) -> list[str]:
    """Names of the images in `folder` in natural order, hidden ones aside; OSError as it comes.

    These are the ones that a source of that folder plays.
    """
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in SUFFIXES
            and not entry.is_dir()
        ]
    return sorted(names, key=natural_key)
