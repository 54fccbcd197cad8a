"""Which views moved, and through which part of the way from onset to alarm."""

from __future__ import annotations

__all__ = ["STILL_S", "Detected", "Moved", "detected_by", "moved_views"]

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from earlyfire_stream.scoring.compare.measured import Measured, ViewKey

STILL_S = 1e-3
"""A TTFD that changed by less did not move."""


@dataclass(frozen=True, slots=True)
class Detected:
    """Views by who detected them."""

    both: int
    only_first: int
    only_other: int
    neither: int

    @property
    def views(self) -> int:
        return self.both + self.only_first + self.only_other + self.neither


@dataclass(frozen=True, slots=True)
class Moved:
    """A view whose TTFD changed. Seconds as `View.ttfd_s`; None is a miss."""

    fire: str
    camera: str
    seed: int | None
    """Told where several seeds are pooled."""
    first_s: float | None
    other_s: float | None
    part: str
    """The part of the TTFD that changed most in the change's direction, by its name in `Parts`; of
    a view that one side missed, where it got stuck."""
    part_change_s: float | None

    @property
    def change_s(self) -> float | None:
        if self.first_s is None or self.other_s is None:
            return None
        return self.other_s - self.first_s

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "change_s": self.change_s}


def detected_by(keys: Sequence[ViewKey], first: Measured, other: Measured) -> Detected:
    told = Counter(
        (first.views[key].parts is not None, other.views[key].parts is not None) for key in keys
    )
    return Detected(told[True, True], told[True, False], told[False, True], told[False, False])


def moved_views(
    keys: Sequence[ViewKey],
    first: Measured,
    other: Measured,
    seeds: Mapping[str, int | None],
) -> tuple[Moved, ...]:
    found = []
    for key in keys:
        a, b = first.views[key], other.views[key]
        if a.parts is None and b.parts is None:
            continue
        part, change_s = "", None
        if a.parts is not None and b.parts is not None:
            change = b.parts.total - a.parts.total
            if abs(change) < STILL_S:
                continue
            before, after = a.parts.to_json(), b.parts.to_json()
            by_part = {name: after[name] - before[name] for name in before}
            part = max(by_part, key=lambda n: by_part[n] * math.copysign(1, change))
            change_s = by_part[part]
        else:
            part = (other if b.parts is None else first).stuck[key]
        seed = seeds.get(key[0])
        found.append(Moved(a.fire, a.camera, seed, a.ttfd_s, b.ttfd_s, part, change_s))
    return tuple(sorted(found, key=_by_size))


def _by_size(moved: Moved) -> tuple[object, ...]:
    lost = moved.other_s is None
    change = moved.change_s
    return (change is not None, not lost, -abs(change or 0.0), moved.fire, moved.camera)
