"""Classical smoke detection for one fixed camera: the floor that a vision-language model must beat.

A look is compared with the median of earlier looks, after camera shake and the local illumination
are taken out, and measured by the changes that are usual there. What remains is smoke if it

* is pale: it brightens the ground, or veils the sky near the skyline, and colours nothing;
* hides what is behind it: the ground's own texture fades, where sunlight brings it out;
* stands on the ground: clouds do not reach below the skyline;
* is one-sided: what moves darkens on one side what it brightens on the other;
* stays where it began and grows over several looks: birds, insects and drifting things do not.

Known weakness: a fast stream (looks a few seconds apart) has only seen what drifts in a quarter
of a minute when its warm-up ends, so that in its first minutes faint plumes must grow three or four
times stronger than later on.

Lengths in `*_px` are pixels of the working image, 640 wide. The evidence lives on a grid of half
that resolution ("cells"), where a plume of 10 px still covers 25 cells. Nothing here reads a
clock: time is what `look` is told.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from earlyfire_stream.verdict import Box

__all__ = ["Look", "SmokeDetector", "SmokeSettings", "State"]

Pixels: TypeAlias = npt.NDArray[Any]

WIDTH_PX = 640
ILLUMINATION_CELLS = 8
"""Illumination is estimated in blocks of this many cells; their 5x5 median spans 80 px, so that a
young plume cannot pass for illumination."""
DARK_OFFSET = 10.0
"""Grey levels added before ratios are taken, so that noise in black corners stays near 1."""
DRIFT = (61, 21)
"""Cells, width and height, in which drifting things stay for a minute or so; mostly sideways."""
RIM_CELLS = 2
"""Filters reach this far beyond the frame's edge, where there is nothing to see."""
DETAIL_PX = 5
"""Texture is what a box mean of this width leaves; wider structure may be the plume's own."""
TEXTURE_POWER = 4.0
"""Grey levels squared of fine detail; less than this is a plain surface and noise."""
SMOOTH_LEVELS = 2.0
"""Mean texture in grey levels below which a place may be sky; JPEG noise alone stays under 1."""
DAYLIGHT_LEVELS = 25.0
"""By which the top of the frame outshines the bottom if there is a sky above ground by day."""
CLOUDLESS = 0.75
"""Share of the bright sky that is smooth, above which there are no clouds to speak of."""


@dataclass(frozen=True, slots=True)
class SmokeSettings:
    """Thresholds of the detector; evidence `z` is change divided by the usual change there."""

    warmup_looks: int = 5
    """A median of fewer looks is still led by a single odd one."""
    warmup_spacing_s: float = 3.0
    """At least this long between two looks of the warm-up, so that drifting clouds show."""
    background_looks: int = 9
    """Odd; the median then forgets what fewer than five of them show."""
    background_spacing_s: float = 30.0
    """At least this long between two looks of the background, so that fast streams too remember
    minutes; slower streams give every look."""
    hold_s: float = 900.0
    """How long a suspicious place is kept out of the background; after that it is absorbed, so
    that a lasting change (a new building) does not alarm for ever."""
    stale_s: float = 1800.0
    """After a gap this long shadows have moved by several degrees: start again."""
    noise_floor: float = 1.0
    """Grey levels; JPEG and sensor noise after smoothing, where the scene itself is still."""
    drift_share: float = 1.5
    """What is usual on average further around counts this much: where things drift, bright and
    dark patches alternate, and their peaks stand above that average."""
    noise_s: float = 90.0
    """Usual changes are learnt over this many seconds, and over `background_looks` at least."""
    settle_s: float = 60.0
    """As long as clouds, their shadows and fog drift further from what the background shows."""
    seed_z: float = 6.0
    """A place is suspicious where the smoothed evidence peaks above this..."""
    extent_z: float = 2.5
    """...and reaches as far as it stays above this."""
    edge: float = 0.15
    """...and above this share of its peak: a dense plume is cut out of weak surroundings."""
    min_area_px: float = 32.0
    """About 6 x 6 px: 12 x 12 in a 1280-pixel frame; smaller is an insect or JPEG noise."""
    foot_reach_px: float = 16.0
    """How far above the skyline a plume's foot may seem to be: how well the skyline is known."""
    veil_reach_px: float = 20.0
    """How far below the skyline a plume may darken: smoke before bright haze."""
    max_colour_gain: float = 10.0
    """Grey levels of (max - min) over B, G, R: smoke is grey and colours its background less."""
    max_transmission: float = 0.8
    """Share of the ground's texture that shows through: smoke hides it, sunlight raises it."""
    recognised: float = 0.6
    """Correlation with the ground's usual texture below which it does not show through at all."""
    min_paleness: float = 0.75
    """Share of the change in and round a place that a veil explains. Whatever moves (branches,
    clouds, their shadows, fog banks) darkens on one side what it brightens on the other."""
    confirm_looks: int = 3
    """Looks at the same place before a yes."""
    forget_looks: int = 2
    """Looks without it after which a place is no longer followed."""
    persist_s: float = 6.0
    """A bird sits, a car passes: fast streams wait at least this long."""
    anchor: float = 0.33
    """Share of its first rectangle that a place still covers: fires stay, small clouds drift."""
    max_birth_width: float = 0.25
    """Of the frame's width: between two looks a plume does not come to more; exposure does."""
    growth: float = 1.25
    """Evidence of the strongest look over that of the first; what never grows is no plume."""
    disturbed_share: float = 0.3
    """More of the frame changed at once: another view, fog, headlights; nothing is concluded."""
    restart_looks: int = 3
    """Disturbed looks in a row after which the scene is learnt anew."""
    max_shift_px: float = 24.0
    """Camera shake beyond this is another view."""

    def __post_init__(self) -> None:
        if self.background_looks % 2 == 0 or self.background_looks < self.warmup_looks:
            raise ValueError("background_looks must be odd and at least warmup_looks")
        if min(self.warmup_looks, self.confirm_looks, self.forget_looks, self.restart_looks) < 1:
            raise ValueError("numbers of looks must be at least 1")
        if not 0 < self.extent_z <= self.seed_z:
            raise ValueError("extent_z must be above 0 and at most seed_z")


class State(StrEnum):
    """Why a look said what it said."""

    WARMING_UP = "warming_up"
    CLEAR = "clear"
    SUSPICIOUS = "suspicious"
    """Something smoke-like, not yet often enough."""
    DISTURBED = "disturbed"
    SMOKE = "smoke"


@dataclass(frozen=True, slots=True)
class Look:
    """What the detector says of one image. `box` is set where `has_smoke` is.

    `confidence` is a monotone score and no calibrated probability: 0.5 where evidence and number
    of looks just suffice, below 0.5 without smoke.
    """

    has_smoke: bool
    box: Box | None
    confidence: float
    state: State


@dataclass(frozen=True, slots=True)
class _Blob:
    """A connected suspicious place; corners in cells, x2 and y2 exclusive."""

    x1: int
    y1: int
    x2: int
    y2: int
    peak: float
    mass: float
    """Summed evidence: grows with both extent and density."""
    pale: bool
    """Grey, brighter than what it covers, and standing on the ground."""
    smoke_like: bool
    """Pale and translucent."""

    def covers(self, other: _Blob) -> float:
        """Share of the other's rectangle inside this one's."""
        width = max(0, min(self.x2, other.x2) - max(self.x1, other.x1))
        height = max(0, min(self.y2, other.y2) - max(self.y1, other.y1))
        return width * height / ((other.x2 - other.x1) * (other.y2 - other.y1))

    def touches(self, other: _Blob, reach: int) -> bool:
        return (
            self.x1 - reach < other.x2
            and other.x1 - reach < self.x2
            and self.y1 - reach < other.y2
            and other.y1 - reach < self.y2
        )


@dataclass(slots=True)
class _Place:
    """A suspicious place followed over looks."""

    origin: _Blob
    latest: _Blob
    born_at: float
    looks: int = 1
    pale_looks: int = 1
    """A confirmed place may miss some, but not most."""
    missed: int = 0
    top_mass: float = 0.0
    confirmed: bool = False


@dataclass(slots=True)
class _Background:
    """What the camera usually shows: medians of the kept looks and the usual change."""

    grey: Pixels
    """(h, 640) uint8."""
    colour: Pixels
    """(h/2, 320, 3) uint8."""
    cells: Pixels
    """(h/2, 320) float32: `grey` reduced."""
    noise: Pixels
    """(h/2, 320) float32 grey levels: usual change, illumination taken out."""
    noise_age_s: float
    """How far from `shown_at` the looks were, on average, that `noise` was learnt from."""
    shown_at: float
    """The middle one of the instants of its looks, scenario seconds."""
    skyline: Pixels
    """(320,) cells from the top; 0 where no sky is seen."""


@dataclass(slots=True)
class _Memory:
    """Everything one camera has taught so far."""

    shape: tuple[int, int]
    greys: deque[Pixels]
    colours: deque[Pixels]
    kept_at: deque[float]
    """Scenario seconds of `greys` and `colours`."""
    looked_at: float = 0.0
    disturbed: int = 0
    background: _Background | None = None
    places: list[_Place] = field(default_factory=list)


class SmokeDetector:
    """Watches one camera. Not thread-safe: looks of one camera come one after the other."""

    def __init__(self, settings: SmokeSettings | None = None) -> None:
        self.settings = settings or SmokeSettings()
        self._memory: _Memory | None = None

    def look(self, image: Pixels, captured_at: float) -> Look:
        """Judge one image: (height, width, 3) uint8 BGR of any size, captured at a scenario second.

        The first `warmup_looks` looks say no, and so do those after a change of aspect ratio, of
        view or of daylight. ValueError if `image` is not such an array.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"not a BGR uint8 image: {image.shape} {image.dtype}")
        grey, colour = _reduce(image)
        memory = self._memory
        if (
            memory is None
            or memory.shape != grey.shape
            or abs(captured_at - memory.looked_at) > self.settings.stale_s
        ):
            memory = self._memory = self._learn_anew(grey)
        elapsed_s = max(0.0, captured_at - memory.looked_at)  # a late frame teaches no noise
        memory.looked_at = captured_at
        if memory.background is None:
            self._warm_up(memory, grey, colour, captured_at)
            return Look(False, None, 0.0, State.WARMING_UP)
        return self._watch(memory, memory.background, grey, colour, captured_at, elapsed_s)

    def _learn_anew(self, grey: Pixels) -> _Memory:
        keep = self.settings.background_looks
        shape = (grey.shape[0], grey.shape[1])
        return _Memory(shape, deque(maxlen=keep), deque(maxlen=keep), deque(maxlen=keep))

    def _warm_up(self, memory: _Memory, grey: Pixels, colour: Pixels, captured_at: float) -> None:
        if memory.greys and captured_at - memory.kept_at[-1] < self.settings.warmup_spacing_s:
            return
        if memory.greys:
            shift = _shift(memory.greys[0], grey, self.settings.max_shift_px)
            grey, colour = _moved(grey, shift), _moved(colour, (shift[0] / 2, shift[1] / 2))
        memory.greys.append(grey)
        memory.colours.append(colour)
        memory.kept_at.append(captured_at)
        if len(memory.greys) < self.settings.warmup_looks:
            return
        background = memory.background = _background(memory)
        deviations = [_change(_cells(g), background.cells, None)[1] for g in memory.greys]
        background.noise = np.asarray(np.mean(deviations, axis=0), np.float32)
        ages_s = [abs(kept_at - background.shown_at) for kept_at in memory.kept_at]
        background.noise_age_s = float(np.mean(ages_s))

    def _watch(
        self,
        memory: _Memory,
        background: _Background,
        grey: Pixels,
        colour: Pixels,
        captured_at: float,
        elapsed_s: float,
    ) -> Look:
        settings = self.settings
        shift = _shift(background.grey, grey, settings.max_shift_px)
        grey, colour = _moved(grey, shift), _moved(colour, (shift[0] / 2, shift[1] / 2))
        held = self._held(memory, captured_at)
        change, deviation = _change(_cells(grey), background.cells, held)
        usual = self._usual_change(background, captured_at)
        evidence = _without_rim(cv2.boxFilter(change / usual, -1, (3, 3)), shift)

        strong = np.abs(evidence) > settings.extent_z
        if float(np.mean(strong)) > settings.disturbed_share:
            memory.disturbed += 1
            if memory.disturbed >= settings.restart_looks:
                self._memory = None
            return Look(False, None, 0.0, State.DISTURBED)
        memory.disturbed = 0

        blobs = self._blobs(background, evidence, grey, colour)
        self._follow(memory, blobs, captured_at)
        self._learn(memory, background, grey, colour, deviation, captured_at, elapsed_s)
        return self._answer(memory)

    def _usual_change(self, background: _Background, captured_at: float) -> Pixels:
        """Grey levels by which the scene itself is wont to differ from the background by now.

        Not much less than further around, since clouds, shadows and fog drift. It grows with
        the root of the background's age, as drift does: a fast stream learns noise in the seconds
        of its warm-up, and meets the changes of a minute (3.6 s and 40 s: 3.3 times as much).
        """
        here = cv2.boxFilter(background.noise, -1, (5, 5))
        around = cv2.boxFilter(background.noise, -1, DRIFT)
        noise = np.maximum(here, self.settings.drift_share * around)
        age_s = min(captured_at - background.shown_at, self.settings.settle_s)
        growth = math.sqrt(max(1.0, age_s / max(1.0, background.noise_age_s)))
        usual: Pixels = growth * (noise + self.settings.noise_floor)
        return usual

    def _blobs(
        self, background: _Background, evidence: Pixels, grey: Pixels, colour: Pixels
    ) -> list[_Blob]:
        """The suspicious places of one look, heaviest first."""
        settings = self.settings
        rows = np.arange(evidence.shape[0])[:, None]
        reach = settings.veil_reach_px / 2
        pale = evidence > settings.extent_z
        dark = evidence < -settings.extent_z
        below = rows >= background.skyline + reach
        veil = dark & ~below
        suspicious = cv2.dilate((pale | veil).astype(np.uint8), np.ones((3, 3), np.uint8))
        _, labels, stats, _ = cv2.connectedComponentsWithStats(suspicious, connectivity=8)
        strength = np.abs(evidence)
        seeds = np.unique(labels[(strength > settings.seed_z) & (suspicious > 0)])
        blobs = []
        for label in seeds:
            x, y, w, h, _ = (int(v) for v in stats[label])
            window = np.s_[y : y + h, x : x + w]
            one = np.where(labels[window] == label, strength[window], 0)
            inside = one > max(settings.extent_z, settings.edge * float(one.max()))
            if np.count_nonzero(inside) * 4 < settings.min_area_px:
                continue
            columns, heights = (
                np.flatnonzero(inside.any(axis=0)),
                np.flatnonzero(inside.any(axis=1)),
            )
            inside = inside[heights[0] : heights[-1] + 1, columns[0] : columns[-1] + 1]
            x, y, (h, w) = x + int(columns[0]), y + int(heights[0]), inside.shape
            window = np.s_[y : y + h, x : x + w]
            foot = rows[y : y + h] >= background.skyline[x : x + w] - settings.foot_reach_px / 2
            margin = max(3, w, h)
            around = np.s_[max(0, y - margin) : y + h + margin, max(0, x - margin) : x + w + margin]
            brighter, darker, veiled = (
                float(strength[around][kind[around]].sum()) for kind in (pale, dark, veil)
            )
            change = brighter + darker
            ground = inside & (rows[y : y + h] >= background.skyline[x : x + w])
            colour_gain = _colour_gain(colour, background.colour, window, inside)
            pale_place = (
                bool(np.any(inside & foot))
                and brighter + veiled >= settings.min_paleness * change
                and colour_gain <= settings.max_colour_gain
            )
            # Light bleaches nothing; what does may have all the texture of a dense plume.
            still = max(brighter, veiled) >= settings.min_paleness * change
            shared, likeness = _texture(grey, background.grey, window, ground)
            seen_through = shared if likeness >= settings.recognised else 0.0
            smoke_like = (
                pale_place
                and still
                and (
                    colour_gain < -settings.max_colour_gain
                    or seen_through <= settings.max_transmission
                )
            )
            part = strength[window][inside]
            blobs.append(
                _Blob(
                    x, y, x + w, y + h, float(part.max()), float(part.sum()), pale_place, smoke_like
                )
            )
        return sorted(blobs, key=lambda blob: blob.mass, reverse=True)

    def _follow(self, memory: _Memory, blobs: Sequence[_Blob], captured_at: float) -> None:
        """Join this look's blobs to the places followed; the oldest place takes what it touches."""
        settings = self.settings
        free = list(blobs)
        followed = []
        for place in memory.places:
            mine = [
                b for b in free if (b.smoke_like or place.confirmed) and b.touches(place.latest, 2)
            ]
            if not mine or not (
                place.confirmed or _joined(mine).covers(place.origin) >= settings.anchor
            ):
                place.missed += 1
                if place.missed <= settings.forget_looks:
                    followed.append(place)
                continue
            free = [b for b in free if b not in mine]
            place.latest = _joined(mine)
            place.missed = 0
            place.looks += 1
            place.pale_looks += place.latest.pale
            place.top_mass = max(place.top_mass, place.latest.mass)
            place.confirmed = place.confirmed or (
                place.looks >= settings.confirm_looks
                and captured_at - place.born_at >= settings.persist_s
                and place.top_mass >= settings.growth * place.origin.mass
            )
            followed.append(place)
        widest = settings.max_birth_width * WIDTH_PX / 2
        followed += [
            _Place(b, b, captured_at, top_mass=b.mass)
            for b in free
            if b.smoke_like and b.x2 - b.x1 <= widest
        ]
        memory.places = followed

    def _held(self, memory: _Memory, captured_at: float) -> Pixels | None:
        """Cells kept out of the background and of the illumination, or None."""
        held: Pixels | None = None
        for place in memory.places:
            if captured_at - place.born_at > self.settings.hold_s:
                continue
            if held is None:
                held = np.zeros((memory.shape[0] // 2, memory.shape[1] // 2), np.uint8)
            blob = place.latest
            held[max(0, blob.y1 - 4) : blob.y2 + 4, max(0, blob.x1 - 4) : blob.x2 + 4] = 1
        return held

    def _learn(
        self,
        memory: _Memory,
        background: _Background,
        grey: Pixels,
        colour: Pixels,
        deviation: Pixels,
        captured_at: float,
        elapsed_s: float,
    ) -> None:
        settings = self.settings
        held = self._held(memory, captured_at)
        usual = background.noise
        # In a fast stream a plume may need fifty looks to grow: noise is learnt by time, not looks.
        share = min(1 / settings.background_looks, elapsed_s / settings.noise_s)
        step = share * (np.minimum(deviation, 3 * (usual + settings.noise_floor)) - usual)
        if held is not None:
            step[held > 0] = 0
        background.noise = usual + step
        age_s = abs(captured_at - background.shown_at)
        background.noise_age_s += share * (age_s - background.noise_age_s)
        if captured_at - memory.kept_at[-1] < settings.background_spacing_s:
            return
        if held is not None:
            kept = cv2.resize(held, grey.shape[::-1], interpolation=cv2.INTER_NEAREST)
            grey = np.where(kept > 0, background.grey, grey)
            colour = np.where(held[..., None] > 0, background.colour, colour)
        memory.greys.append(grey)
        memory.colours.append(colour)
        memory.kept_at.append(captured_at)
        renewed = memory.background = _background(memory)
        renewed.noise, renewed.noise_age_s = background.noise, background.noise_age_s

    def _answer(self, memory: _Memory) -> Look:
        settings = self.settings
        best: tuple[tuple[bool, float], float, _Place] | None = None
        for place in memory.places:
            if place.missed or 2 * place.pale_looks < place.looks:
                continue
            enough = place.looks / settings.confirm_looks * place.latest.peak / settings.seed_z
            confidence = (
                1 - 0.5 ** (enough / 2 + 0.5)
                if place.confirmed
                else 0.5 * min(0.9, place.looks / (settings.confirm_looks + 1))
            )
            rank = (place.confirmed, place.latest.mass)
            if best is None or rank > best[0]:
                best = (rank, confidence, place)
        if best is None:
            return Look(False, None, 0.0, State.CLEAR)
        _, confidence, place = best
        if not place.confirmed:
            return Look(False, None, confidence, State.SUSPICIOUS)
        height, width = memory.shape[0] // 2, memory.shape[1] // 2
        blob = place.latest
        box = Box.from_corners(blob.x1 / width, blob.y1 / height, blob.x2 / width, blob.y2 / height)
        return Look(True, box, confidence, State.SMOKE)


def _reduce(image: Pixels) -> tuple[Pixels, Pixels]:
    """Smoothed grey (h, 640) and colour (h/2, 320, 3); h keeps the aspect ratio, up to 1:2."""
    height = 2 * round(image.shape[0] * WIDTH_PX / image.shape[1] / 2)
    # No camera is that narrow or that tall; a broken one must not cost memory or time.
    height = min(max(height, 2 * ILLUMINATION_CELLS), 2 * WIDTH_PX)
    small = cv2.resize(image, (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    colour = cv2.resize(small, (WIDTH_PX // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), (3, 3), 0), colour


def _cells(grey: Pixels) -> Pixels:
    """Half the resolution, float32, smoothed to what a plume's edge shows."""
    size = (grey.shape[1] // 2, grey.shape[0] // 2)
    reduced = cv2.resize(grey.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(reduced, (3, 3), 0)


def _shift(reference: Pixels, grey: Pixels, limit: float) -> tuple[float, float]:
    """(dx, dy) px by which `grey` stands off `reference`; (0, 0) where moving would not help."""
    size = (WIDTH_PX // 4, reference.shape[0] // 4)
    a, b = (
        _detail(cv2.resize(g, size, interpolation=cv2.INTER_AREA).astype(np.float32))
        for g in (reference, grey)
    )
    window = cv2.createHanningWindow(size, cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(a, b, window)
    if not 0.1 < max(abs(dx), abs(dy)) <= limit / 4:
        return 0.0, 0.0
    moved = _moved(b, (dx, dy))
    inner = np.s_[8:-8, 8:-8]
    if np.mean(np.abs(moved - a)[inner]) > 0.9 * np.mean(np.abs(b - a)[inner]):
        return 0.0, 0.0
    return 4 * dx, 4 * dy


def _moved(image: Pixels, shift: tuple[float, float]) -> Pixels:
    if shift == (0.0, 0.0):
        return image
    matrix = np.array([[1, 0, -shift[0]], [0, 1, -shift[1]]], np.float32)
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REPLICATE)


def _without_rim(evidence: Pixels, shift: tuple[float, float]) -> Pixels:
    """Zero where shake brought in what the camera does not usually see, and at the very edge."""
    across, down = (RIM_CELLS + math.ceil(abs(s) / 2) for s in shift)
    kept = np.zeros_like(evidence)
    kept[down:-down, across:-across] = evidence[down:-down, across:-across]
    return kept


def _detail(image: Pixels) -> Pixels:
    return image - cv2.boxFilter(image, -1, (DETAIL_PX, DETAIL_PX))


def _change(cells: Pixels, usual: Pixels, held: Pixels | None) -> tuple[Pixels, Pixels]:
    """Grey levels by which `cells` differ from `usual`, whether or not today's light is on it.

    Whatever lies between the two is explained: a saturated sky does not follow the light, and at
    the border of two lights either may hold.
    """
    height, width = usual.shape
    blocks = (max(1, width // ILLUMINATION_CELLS), max(1, height // ILLUMINATION_CELLS))
    ratio = (cells + DARK_OFFSET) / (usual + DARK_OFFSET)
    gain = cv2.resize(ratio, blocks, interpolation=cv2.INTER_AREA)
    if held is not None:
        gain[cv2.resize(held, blocks, interpolation=cv2.INTER_AREA) > 0] = np.median(gain)
    gain = cv2.resize(cv2.medianBlur(gain, 5), (width, height), interpolation=cv2.INTER_LINEAR)
    lit = gain * (usual + DARK_OFFSET) - DARK_OFFSET
    unexplained = cells - np.clip(cells, np.minimum(usual, lit), np.maximum(usual, lit))
    return unexplained, np.abs(cells - lit)


def _background(memory: _Memory) -> _Background:
    """What the kept looks show, its noise still unknown."""
    grey = _median(memory.greys)
    cells = _cells(grey)
    return _Background(
        grey=grey,
        colour=_median(memory.colours),
        cells=cells,
        noise=np.zeros_like(cells),
        noise_age_s=0.0,
        shown_at=sorted(memory.kept_at)[len(memory.kept_at) // 2],
        skyline=_skyline(grey),
    )


def _median(images: Sequence[Pixels]) -> Pixels:
    """Per-pixel (upper) median by a sorting network: min and max run far faster than np.median."""
    planes = list(images)
    for round_ in range(len(planes)):
        for k in range(round_ % 2, len(planes) - 1, 2):
            planes[k], planes[k + 1] = (
                cv2.min(planes[k], planes[k + 1]),
                cv2.max(planes[k], planes[k + 1]),
            )
    return planes[len(planes) // 2]


def _skyline(grey: Pixels) -> Pixels:
    """(320,) cells: where the sky ends that begins at the top of the frame, per column.

    A cloudless sky is smooth at a quarter of the resolution, where ridges are not. Under clouds,
    and in haze that smooths the ridges too, sky is what is nearer in brightness to the top of the
    frame than to its bottom; at night there is only smoothness.
    """
    width, height = grey.shape[1] // 4, grey.shape[0] // 4
    quarter = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    texture = np.abs(quarter - cv2.boxFilter(quarter, -1, (5, 5)))
    sky = _from_top(cv2.boxFilter(texture, -1, (3, 3)) < SMOOTH_LEVELS)
    above = float(np.median(quarter[: max(1, height // 6)]))
    below = float(np.median(quarter[-max(1, height // 3) :]))
    if above - below > DAYLIGHT_LEVELS:
        bright = _from_top(quarter > 0.4 * below + 0.6 * above)
        cloudless = np.count_nonzero(sky & bright) > CLOUDLESS * np.count_nonzero(bright)
        sky = sky & bright if cloudless else bright
    lowest = np.where(sky.any(axis=0), height - np.argmax(sky[::-1], axis=0), 0)
    # A mast or a wire cuts the sky open; the median over its neighbours closes it.
    lowest = cv2.medianBlur(lowest.astype(np.float32)[None], 5)[0]
    return np.repeat(lowest * 2, 2)[: grey.shape[1] // 2]


def _from_top(airy: Pixels) -> Pixels:
    """The large parts of a mask that reach the top of the frame, without their thin branches."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(airy.astype(np.uint8), connectivity=4)
    large = 0.02 * airy.size
    top = np.unique(labels[: airy.shape[0] // 10 + 1])
    kept = [k for k in top if k and stats[k, cv2.CC_STAT_AREA] > large]
    mask = np.isin(labels, kept).astype(np.uint8)
    opened: Pixels = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0
    return opened


def _colour_gain(
    colour: Pixels, usual: Pixels, window: tuple[slice, slice], inside: Pixels
) -> float:
    """How much more colourful the place became: change of mean (max - min) over B, G, R."""
    now, before = colour[window][inside].astype(np.int16), usual[window][inside].astype(np.int16)
    return float(np.mean(np.ptp(now, axis=1)) - np.mean(np.ptp(before, axis=1)))


def _texture(
    grey: Pixels, usual: Pixels, window: tuple[slice, slice], ground: Pixels
) -> tuple[float, float]:
    """(slope, correlation) of today's texture over the usual one, away from the place's edge.

    Slope 1 as before, more in sunlight, less behind a veil; correlation near 1 in all three, near
    0 if what is seen has a texture of its own, as dense smoke does. (0, 0) if the place is too
    small to tell.
    """
    inner = cv2.erode(np.pad(ground.astype(np.uint8), 2), np.ones((5, 5), np.uint8))[2:-2, 2:-2]
    if not inner.any():
        return 0.0, 0.0
    ys, xs = window
    wide = np.s_[2 * ys.start : 2 * ys.stop, 2 * xs.start : 2 * xs.stop]
    mask = np.repeat(np.repeat(inner > 0, 2, axis=0), 2, axis=1)
    now, before = (_detail(g[wide].astype(np.float32))[mask] for g in (grey, usual))
    common = float(np.mean(now * before))
    power_now, power_before = float(np.mean(now * now)), float(np.mean(before * before))
    likeness = common / max(math.sqrt(power_now * power_before), 1e-6)
    return common / max(power_before, TEXTURE_POWER), likeness


def _joined(blobs: Sequence[_Blob]) -> _Blob:
    return _Blob(
        min(b.x1 for b in blobs),
        min(b.y1 for b in blobs),
        max(b.x2 for b in blobs),
        max(b.y2 for b in blobs),
        max(b.peak for b in blobs),
        sum(b.mass for b in blobs),
        any(b.pale for b in blobs),
        any(b.smoke_like for b in blobs),
    )
