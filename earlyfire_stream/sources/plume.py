"""Smoke of one fire: where it is and how thick, at any instant, as a pure function.

The fire releases puffs of smoke at fixed instants; each rises, drifts and widens by formulae in
its own age, so an instant needs no instant before it:

    heat release     P(t) = P0 + growth t², up to a peak                     (NFPA 72, annex B)
    buoyancy flux    F = 8.9 m⁴/s³ per MW of convective heat                 (Briggs 1969)
    rise             z = 1.6 F^(1/3) x^(2/3) / U with x = U age,
                     levelling at z∞ = 2.6 (F / (U s))^(1/3)                 (Briggs 1975)
    wind             U(z) = U10 (z/10)^p                                     (power law)
    width            sigma² = sigma0² + (0.3 z)² + 2 K age                   (entrainment)
    opacity          alpha = 1 - exp(-tau), tau summed over the puffs        (Beer-Lambert)

Turbulence is noise carried along by the smoke's own speed at each place; an eddy of a given
length lives for a few turns and fades into the next, so smoke drifts from one second to the next
and has become other smoke a minute later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.scenario.scenes import Growth, Plume, PlumeColour, PlumeSize, TimeOfDay
from earlyfire_stream.sources.landscape import Landscape, to_display
from earlyfire_stream.sources.texture import Field, fractal_pair, generator, sample

__all__ = ["Patch", "PlumeEvent", "Smoke"]

BUOYANCY_PER_MW: Final = 8.9
"""m⁴/s³ per MW: g / (pi cp rho T) for air at 288 K (Briggs 1969)."""
EXTINCTION_M2S_PER_MW: Final = 22.0
"""m² of light extinction a second per MW: 0.055 kg fuel/s (18 MJ/kg) x 12 g PM2.5/kg fuel
(Andreae 2019, temperate forest) x 4.5 m²/g (Reid et al. 2005) is 3; moist, smouldering fuel
and water droplets of a young plume give several times that."""
STABILITY_PER_S2: Final = 4e-5
"""Brunt-Väisälä frequency squared: a well mixed summer afternoon under a weak inversion, the
mean over the rise (1e-4 would be a standard atmosphere)."""
SHEAR: Final = 0.18
YOUNG_S: Final = 60.0
"""Younger smoke is drawn from puffs close together, older from puffs further apart."""
MAX_CELLS: Final = 64_000
MAX_COARSE_CELLS: Final = 14_000

_GROWTH_KW_PER_S2: Final = {
    Growth.SLOW: 0.00293,
    Growth.MEDIUM: 0.01172,
    Growth.FAST: 0.0469,
    Growth.ULTRAFAST: 0.1876,
}
_SIZES: Final = {
    PlumeSize.SMALL: (2.0, 20.0, Growth.MEDIUM),
    PlumeSize.MEDIUM: (4.0, 200.0, Growth.FAST),
    PlumeSize.LARGE: (8.0, 1500.0, Growth.ULTRAFAST),
}
"""Heat release at the onset and at the peak, MW, and the growth law."""

_COLOURS: Final = {
    PlumeColour.WHITE: ((1.15, 1.12, 1.08), (0.42, 0.44, 0.48)),
    PlumeColour.GREY: ((0.80, 0.79, 0.78), (0.25, 0.25, 0.27)),
    PlumeColour.BROWN: ((0.72, 0.60, 0.50), (0.22, 0.175, 0.145)),
    PlumeColour.DARK: ((0.24, 0.23, 0.22), (0.05, 0.048, 0.045)),
}
"""Linear RGB of smoke in the sun and in its own shadow."""


@dataclass(frozen=True, slots=True)
class PlumeEvent:
    """One fire of a camera: it smokes from `onset` to `end`, scenario seconds; None: for ever."""

    fire: str
    onset: float
    end: float | None
    plume: Plume

    def __post_init__(self) -> None:
        if self.end is not None and self.end <= self.onset:
            raise ValueError(f"fire {self.fire}: end {self.end} is not after onset {self.onset}")


@dataclass(frozen=True, slots=True)
class Patch:
    """Smoke over one part of a frame, on cells of `cell_px` pixels from (left, top) pixels on."""

    left: int
    top: int
    width: int
    height: int
    cell_px: float
    alpha: Field
    """Opacity 0..1 per cell, ridges in front already taken away."""
    colour: Field
    """Grey levels BGR of smoke so thick that nothing shines through, per cell."""
    change: Field
    """|change| of the luminance of the cloudless picture, grey levels, per cell."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """Puffs as seen in the picture: pixels, optical depth at the middle, metres a second."""

    x: Field
    y: Field
    size: Field
    depth: Field
    pace: Field
    climb: Field


class Smoke:
    """The plume of one event in one landscape."""

    def __init__(self, event: PlumeEvent, land: Landscape, seed: int) -> None:
        self.event = event
        self.land = land
        self.seed = seed
        plume = event.plume
        look = land.look
        rng = generator(seed, 31)
        width = land.distance_m.shape[1]
        start, peak, growth = _SIZES[plume.size]
        self.start_mw = plume.start_mw or start
        self.peak_mw = max(plume.peak_mw or peak, self.start_mw)
        self.growth = _GROWTH_KW_PER_S2[plume.growth or growth] / 1000
        x = float(rng.uniform(0.12, 0.88)) if plume.x is None else plume.x
        self.column_px = min(max(x * width, 0.5), width - 0.5)
        self.distance_m, self.base_m = self._place(plume.distance_m, rng)
        self.scale = land.focal_px / self.distance_m
        drop = self.distance_m**2 / (2 * 6_371_000 * 7 / 6)
        self.base_px = land.horizon_px - self.scale * (self.base_m - drop - land.camera_m)
        self.wind = look.wind_mps
        self.speed = max(abs(self.wind), 0.6)
        self.drift = math.copysign(1.0, self.wind) if self.wind else 1.0
        drawn = tuple(PlumeColour)[int(rng.choice(4, p=[0.45, 0.35, 0.15, 0.05]))]
        self.lit, self.dark = (np.array(c, np.float32) for c in _COLOURS[plume.colour or drawn])
        self.offset = rng.uniform(0, 1024, 12).astype(np.float32)
        self.wander = rng.standard_normal((3, 4096)).astype(np.float32)
        self.ageing_s = 900.0
        """Smoke thins by 1/e in this time besides spreading: evaporation, dry deposition."""

    def _place(self, asked: float | None, rng: np.random.Generator) -> tuple[float, float]:
        """Distance and ground height of the fire: in sight, or a little behind a ridge."""
        land = self.land
        column = int(self.column_px)
        lined = land.distance_m[:, column]
        seen = lined[(lined > 1500) & (lined < 16_000)]
        pick = float(rng.uniform())
        behind = 1 + 0.06 * float(rng.uniform())
        if asked is not None:
            distance = asked
        elif len(seen):
            wished = 2200 * (12_000 / 2200) ** pick
            distance = float(seen[np.argmin(np.abs(seen - wished))]) * behind
        else:
            distance = 4000.0 + 4000.0 * pick
        step = int(np.searchsorted(land.steps_m, distance))
        return distance, float(land.ground_m[min(step, len(land.steps_m) - 1), column])

    def heat_mw(self, since_onset_s: Field) -> Field:
        """Heat release of a fire that still burns, megawatts."""
        grown = self.start_mw + self.growth * since_onset_s**2
        return np.asarray(np.minimum(grown, self.peak_mw), np.float32)

    def _puffs(self, at_s: float) -> tuple[Field, ...] | None:
        """Across and up (metres from the fire), sigma, extinction (m²), speeds across
        and up (m/s)."""
        since = at_s - self.event.onset
        if since <= 0:
            return None
        times, weight = _releases(since, 1800.0)
        heat = self.heat_mw(times)
        emitted = heat.copy()
        if self.event.end is not None:
            over = np.maximum(times - (self.event.end - self.event.onset), 0)
            fading = np.exp(-over / self.event.plume.decay_s)
            emitted *= fading
            heat *= fading**2
        age = np.maximum(since - times, 0.05)
        gust = 1 + 0.18 * self._wander(0, times, 25) + 0.12 * self._wander(0, times, 7)
        speed = self.speed * np.clip(gust, 0.4, 1.8)
        flux = BUOYANCY_PER_MW * np.maximum(heat, 0.05)
        free = 1.6 * np.cbrt(flux) * (speed * age) ** (2 / 3) / speed
        free = np.minimum(free, 1.9 * flux**0.25 * age**0.75)
        level = 2.6 * np.cbrt(flux / (speed * STABILITY_PER_S2))
        up = level * np.tanh(free / level)
        aloft = speed * (np.maximum(up, 4) / 10) ** SHEAR
        across = self.drift * aloft * age / (1 + 2 * SHEAR / 3)
        pace = across / age * (1 + 0.5 * SHEAR)
        climb = 0.67 * up / age * (1 - (up / level) ** 2)
        base = 2.5 + 1.1 * np.sqrt(np.maximum(emitted, 0.2))
        spread = 0.5 + 0.25 * self.speed
        sigma = np.sqrt(base**2 + (0.30 * up) ** 2 + 2 * spread * age)
        sway = 0.55 * sigma * np.minimum(age / 12, 1)
        across = across + sway * self._wander(1, times, 11) + 0.6 * sway * self._wander(1, times, 4)
        up = up + 0.5 * sway * self._wander(2, times, 9)
        power = EXTINCTION_M2S_PER_MW * self.event.plume.opacity
        extinction = power * emitted * weight * np.exp(-age / self.ageing_s)
        keep = extinction > 1e-4
        arrays = (across, up, sigma, extinction, pace, climb)
        return tuple(np.asarray(a[keep], np.float32) for a in arrays)

    def _wander(self, row: int, times: Field, period_s: float) -> Field:
        """Smooth random numbers of variance near 1, a knot every period_s."""
        knots = self.wander[row]
        place = times / period_s + 37 * row
        low = np.floor(place).astype(np.int64)
        share = place - low
        share = share * share * (3 - 2 * share)
        first, second = knots[low % len(knots)], knots[(low + 1) % len(knots)]
        return np.asarray(first + (second - first) * share, np.float32)

    def patch(self, at_s: float, grey: NDArray[np.uint8]) -> Patch | None:
        """The smoke in the frame at `at_s`; `grey` is the cloudless picture's luminance."""
        puffs = self._puffs(at_s)
        if puffs is None or not len(puffs[0]):
            return None
        across, up, sigma, extinction, pace, climb = puffs
        height, width = grey.shape
        scale = self.scale
        x = self.column_px + across * scale
        y = self.base_px - up * scale
        size = sigma * scale
        # Sub-pixel puffs are as wide as a pixel's blur, with the same total extinction.
        blurred = np.sqrt(size**2 + 0.35)
        depth = extinction * scale * scale / (2 * math.pi * blurred**2)
        strong = depth > 2e-3
        if not strong.any():
            return None
        x, y, size = x[strong], y[strong], blurred[strong]
        depth, pace, climb = depth[strong], pace[strong], climb[strong]
        left = int(np.clip(np.floor((x - 3 * size).min()), 0, width))
        right = int(np.clip(np.ceil((x + 3 * size).max()), 0, width))
        top = int(np.clip(np.floor((y - 3 * size).min()), 0, height))
        bottom = int(np.clip(np.ceil((y + 3 * size).max()), 0, height))
        if right - left < 2 or bottom - top < 2:
            return None
        area = (right - left) * (bottom - top)
        cell = max(1.0, math.sqrt(area / MAX_CELLS))
        columns, rows = math.ceil((right - left) / cell), math.ceil((bottom - top) / cell)
        sums = _Sums(x, y, size, depth, pace, climb)
        tau = self._optical_depth(sums, at_s, left, top, cell, columns, rows)
        return self._compose(tau, at_s, grey, left, top, right, bottom, cell)

    def _optical_depth(
        self,
        puffs: _Sums,
        at_s: float,
        left: int,
        top: int,
        cell: float,
        columns: int,
        rows: int,
    ) -> Field:
        """Optical depth per cell: smooth sums on a coarse grid, turbulence on the fine one."""
        ratio = max(1.0, math.sqrt(columns * rows / MAX_COARSE_CELLS))
        wide, tall = math.ceil(columns / ratio) + 1, math.ceil(rows / ratio) + 1
        px = left + (np.arange(wide, dtype=np.float32) + 0.5) * np.float32(cell * ratio)
        py = top + (np.arange(tall, dtype=np.float32) + 0.5) * np.float32(cell * ratio)
        size = np.maximum(puffs.size, np.float32(0.7 * cell * ratio if ratio > 1 else 0.0))
        gx = np.exp(-0.5 * ((px[None, :] - puffs.x[:, None]) / size[:, None]) ** 2)
        gy = np.exp(-0.5 * ((py[:, None] - puffs.y[None, :]) / size[None, :]) ** 2)
        gy = gy * puffs.depth[None, :]
        total = gy @ gx
        safe = np.maximum(total, 1e-12)
        metres = size / np.float32(self.scale)
        length = (gy * np.log2(metres)[None, :]) @ gx / safe
        pace = (gy * puffs.pace[None, :]) @ gx / safe
        climb = (gy * puffs.climb[None, :]) @ gx / safe

        grid = np.mgrid[0:rows, 0:columns].astype(np.float32)
        v, u = (grid + np.float32(0.5)) / np.float32(ratio) - np.float32(0.5)

        def fine(field: Field) -> Field:
            found = cv2.remap(field, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            return np.asarray(found, np.float32)

        shortest = math.log2(max(1.5 * cell / self.scale, 1.0))
        length = np.maximum(fine(length) + np.float32(0.8), np.float32(shortest))
        per_cell = np.float32(cell / self.scale)
        across = (grid[1] + np.float32((left - self.column_px) / cell)) * per_cell
        up = -(grid[0] + np.float32((top - self.base_px) / cell)) * per_cell
        lump, fray = self._turbulence(across, up, fine(pace), fine(climb), length, at_s)
        # Eddies push smoke about by a part of the plume's width: edges billow.
        shift = np.exp2(length) * np.float32(0.2 * self.scale / (cell * ratio))
        pushed = cv2.remap(
            total.astype(np.float32),
            u + shift * lump,
            v + shift * fray,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        uneven = np.exp(np.float32(0.7) * np.abs(lump) + np.float32(0.35) * fray - np.float32(0.6))
        return np.asarray(pushed * uneven, np.float32)

    def _turbulence(
        self, across: Field, up: Field, pace: Field, climb: Field, length: Field, at_s: float
    ) -> tuple[Field, Field]:
        """Two noises of variance near 1 at places in metres, carried with the smoke.

        `length` is the log2 of the plume's width in metres: eddies are as long as that, those of
        two neighbouring powers of two mixed.
        """
        tile = fractal_pair(2.3, 8, 200.0)
        total = np.zeros((*across.shape, 2), np.float32)
        norm = np.full_like(across, 1e-6)
        low, high = int(np.floor(length.min())), int(np.ceil(length.max()))
        for level in range(low, high + 1):
            here = np.abs(length - level) < 1
            if not here.any():
                continue
            part = np.s_[_span(here.max(axis=1)), _span(here.max(axis=0))]
            weight = np.clip(1 - np.abs(length[part] - level), 0, 1)
            texels = np.float32(110.0 / 2.0**level)
            life_s = 5.0 * 2.0**level / (1.0 + self.speed)
            for half in (0, 1):
                turns = at_s / life_s + 0.5 * half
                number, phase = divmod(turns, 1.0)
                share = np.float32(1 - abs(2 * phase - 1))
                since = np.float32((phase - 0.5) * life_s)
                place = self.offset[level % 6 + 6 * half] + np.float32(number * 331.7 % 1024)
                u = (across[part] - pace[part] * since) * texels + place
                v = (up[part] - climb[part] * since) * texels + np.float32(number * 117.3 % 1024)
                mix = weight * share
                total[part] += mix[..., None] * sample(tile, u, v)
                norm[part] += mix * mix
        total /= np.sqrt(norm)[..., None]
        return total[..., 0], total[..., 1]

    def _compose(
        self,
        tau: Field,
        at_s: float,
        grey: NDArray[np.uint8],
        left: int,
        top: int,
        right: int,
        bottom: int,
        cell: float,
    ) -> Patch:
        rows, columns = tau.shape
        land, look = self.land, self.land.look
        part = np.s_[top:bottom, left:right]
        front = _fit(land.distance_m[part] > self.distance_m * 0.985, columns, rows)
        below = _fit(grey[part], columns, rows)
        alpha = (1 - np.exp(-tau)) * front

        # The sun's side is bright; smoke behind smoke is in shadow; folds show as relief.
        towards = math.copysign(1.0, math.sin(look.sun_azimuth) or 1.0)
        reach = max(1, round(0.10 * min(rows, columns)))
        soft = cv2.GaussianBlur(tau, (0, 0), max(0.7, 0.35 * reach))
        shaded = cv2.warpAffine(
            soft,
            np.array([[1, 0, -towards * reach], [0, 1, reach]], np.float32),
            (columns, rows),
            borderMode=cv2.BORDER_REPLICATE,
        )
        gleam = np.exp(-0.55 * shaded)
        fold = cv2.GaussianBlur(tau, (0, 0), 1.2)
        relief = towards * cv2.Sobel(fold, cv2.CV_32F, 1, 0) - cv2.Sobel(fold, cv2.CV_32F, 0, 1)
        relief = np.tanh(relief / (0.25 + 0.6 * fold) * 0.35)
        gleam = np.clip(gleam + 0.22 * (1 - np.exp(-tau)) * -relief, 0, 1)[..., None]
        light = self.dark + (self.lit - self.dark) * gleam
        light = light * np.float32(look.exposure)
        if look.time_of_day is TimeOfDay.DUSK:
            light = light * np.array((0.50, 0.36, 0.29), np.float32)
        elif look.time_of_day is TimeOfDay.NIGHT:
            light = light * np.float32(0.10) + self._glow(at_s, left, top, cell, rows, columns)
        air = np.array(land.airlight, np.float32)
        clear = math.exp(-land.extinction_per_m * self.distance_m * 0.8)
        light = light * np.float32(clear) + air * np.float32(1 - clear)
        if look.mono:
            light = np.repeat(light.mean(axis=2, keepdims=True), 3, axis=2)
        colour = to_display(light)[..., ::-1]
        shown = colour @ np.array((0.114, 0.587, 0.299), np.float32)
        change = np.abs(alpha * (shown - below))
        return Patch(
            left, top, right - left, bottom - top, cell,
            alpha.astype(np.float32), np.ascontiguousarray(colour), change.astype(np.float32),
        )  # fmt: skip

    def _glow(
        self, at_s: float, left: int, top: int, cell: float, rows: int, columns: int
    ) -> Field:
        """Fire light on the smoke above it, linear RGB, flickering."""
        since = np.array([max(at_s - self.event.onset, 0.0)], np.float32)
        power = float(self.heat_mw(since)[0])
        if self.event.end is not None and at_s > self.event.end:
            power *= math.exp(-(at_s - self.event.end) / (0.5 * self.event.plume.decay_s))
        reach = max(3.0, self.scale * (12 + 9 * math.sqrt(power)))
        x = left + (np.arange(columns, dtype=np.float32) + 0.5) * cell - self.column_px
        y = top + (np.arange(rows, dtype=np.float32) + 0.5) * cell - self.base_px
        near = 1 / (1 + (x[None, :] ** 2 + y[:, None] ** 2) / reach**2)
        flicker = 1 + 0.12 * math.sin(9.1 * at_s) + 0.1 * math.sin(23.7 * at_s + 1)
        tone = np.array((1.0, 0.42, 0.12), np.float32)
        return np.asarray((0.9 * flicker * near**1.5)[..., None] * tone, np.float32)


def _releases(since_s: float, life_s: float) -> tuple[Field, Field]:
    """Instants after the onset at which smoke that is still about left the fire, and the
    seconds each stands for.

    Instants are multiples of a step, whatever the time now, so puffs keep their identity.
    """
    fine = np.arange(max(0.0, math.floor(since_s - YOUNG_S)), since_s, 0.5, dtype=np.float64)
    young = 0.5 * np.clip((YOUNG_S - (since_s - fine)) / 20, 0, 1)
    first = max(0.0, math.floor((since_s - life_s) / 3) * 3)
    coarse = np.arange(first, max(since_s - YOUNG_S + 20, 0.0), 3.0, dtype=np.float64)
    old = 3.0 * np.clip(((since_s - coarse) - (YOUNG_S - 20)) / 20, 0, 1)
    times = np.concatenate([fine, coarse])
    return times.astype(np.float32), np.concatenate([young, old]).astype(np.float32)


def _span(flags: NDArray[np.bool_]) -> slice:
    """From the first to the last true flag."""
    found = np.flatnonzero(flags)
    return slice(int(found[0]), int(found[-1]) + 1)


def _fit(values: NDArray[np.uint8] | NDArray[np.bool_], columns: int, rows: int) -> Field:
    """Means over the cells of a patch."""
    full = values.astype(np.float32)
    if full.shape == (rows, columns):
        return full
    return np.asarray(cv2.resize(full, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)
