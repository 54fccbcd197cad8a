"""The still part of a synthetic camera: land, sky, haze, lights and optics.

The land is a height field in metres seen from a mast through a cylindrical projection: rays
of one column walk outwards once, so ridges hide what lies behind them and every pixel has a
distance. Texture is made at the size of the picture, never scaled up. Colours are mixed in
linear light and leave through a camera curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.scenario.scenes import Overlay, Scene, Side, Terrain, TimeOfDay
from earlyfire_stream.sources.texture import (
    OCTAVE_PX,
    Field,
    crowns,
    generator,
    octave,
    sample,
)

__all__ = ["Landscape", "Look", "build", "settle", "to_display"]

EARTH_RADIUS_M: Final = 6_371_000 * 7 / 6
"""With the usual refraction of light near the ground, 7/6 of the geometric radius."""
NEAR_M: Final = 6.0
FAR_M: Final = 70_000.0
HAZE_SCALE_M: Final = 1800.0
"""Height over which haze falls by 1/e: a well mixed summer boundary layer."""
KOSCHMIEDER: Final = 3.912
"""Extinction x visibility at 2 % contrast (Koschmieder 1924; WMO No. 8, 9.1)."""

Colour = tuple[float, float, float]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Look:
    """A scene with every open choice made. Angles in radians, x to the right of the view axis."""

    time_of_day: TimeOfDay
    terrain: Terrain
    dryness: float
    haze: float
    fog: float
    clouds: float
    wind_mps: float
    """Along the picture, positive to the right, 10 m above ground."""
    sun_azimuth: float
    sun_elevation: float
    fov: float
    horizon: float
    noise: float
    overlay: Overlay
    site: str
    local_start: datetime
    mast_m: float
    relief_m: float
    wavelength_m: float
    summit: float
    rock: float
    trees: float
    roads: int
    exposure: float
    warmth: float
    vignette: float
    housing: bool
    wire: bool
    dirt: int
    mono: bool
    softness: float
    seed: int


@dataclass(frozen=True, slots=True)
class Landscape:
    """Static layers of one camera at one size. Arrays are (height, width[, 3])."""

    look: Look
    image: NDArray[np.uint8]
    """BGR, without clouds, noise or overlay."""
    distance_m: Field
    """Inf where there is sky."""
    ground_m: Field
    """(steps, width): terrain height above the lowest land, along `steps_m` in each column."""
    steps_m: Field
    grain_sixteenths: NDArray[np.uint8]
    """Noise, 1/16 grey levels of standard deviation, once per channel: (height, 3 * width)."""
    open_view: NDArray[np.uint8]
    """255 where the lens sees out, 0 behind the housing's rim."""
    focal_px: float
    horizon_px: float
    camera_m: float
    airlight: Colour
    """Linear RGB that haze adds at infinite distance."""
    extinction_per_m: float
    """Of the haze at the height of the lowest land."""


_SITES: Final = (
    "Granite Peak East", "Cedar Ridge North", "Otter Mesa South", "Lone Pine West",
    "Buck Summit North", "Quail Hill East", "Signal Butte South", "Palomino Knob West",
)  # fmt: skip


def _given(value: Value | None, drawn: Value) -> Value:
    return drawn if value is None else value


def settle(scene: Scene, seed: int) -> Look:
    """Draws what the scene leaves open. Every draw is made, so that a field that is given
    changes itself alone."""
    rng = generator(seed, 1)
    u = rng.uniform(size=32)

    phase = TimeOfDay.DAY if u[0] < 0.8 else TimeOfDay.DUSK if u[0] < 0.92 else TimeOfDay.NIGHT
    phase = _given(scene.time_of_day, phase)
    terrain = _given(scene.terrain, tuple(Terrain)[int(u[1] * 4)])
    relief = {
        Terrain.HILLS: (520.0, 7000.0),
        Terrain.VALLEY: (420.0, 9000.0),
        Terrain.PLATEAU: (420.0, 8000.0),
        Terrain.MOUNTAINS: (760.0, 8500.0),
    }[terrain]
    elevation = {
        TimeOfDay.DAY: 22 + 38 * u[2],
        TimeOfDay.DUSK: -2 + 8 * u[2],
        TimeOfDay.NIGHT: -18.0,
    }[phase]
    elevation = _given(scene.sun_elevation_deg, float(elevation))
    azimuth = _given(scene.sun_azimuth_deg, float(-170 + 340 * u[3]))
    noise = {TimeOfDay.DAY: 1.0, TimeOfDay.DUSK: 1.8, TimeOfDay.NIGHT: 6.5}[phase]
    wind = _given(scene.wind_mps, float(0.6 + 4.0 * u[5] ** 1.4))
    side = _given(scene.wind_from, Side.LEFT if u[6] < 0.5 else Side.RIGHT)
    hour = {TimeOfDay.DAY: 9 + 7 * u[7], TimeOfDay.DUSK: 19.6, TimeOfDay.NIGHT: 22 + u[7]}[phase]
    start = datetime(2024, 6, 1) + timedelta(days=int(u[8] * 110), seconds=int(hour * 3600))
    pitch = {
        Terrain.HILLS: 0.36,
        Terrain.VALLEY: 0.42,
        Terrain.PLATEAU: 0.42,
        Terrain.MOUNTAINS: 0.36,
    }[terrain]
    return Look(
        time_of_day=phase,
        terrain=terrain,
        dryness=_given(scene.dryness, float(0.35 + 0.6 * u[9])),
        haze=_given(scene.haze, float(0.02 + 0.45 * u[10] ** 1.4)),
        fog=_given(scene.fog, 0.0 if u[11] < 0.85 else float(u[12])),
        clouds=_given(scene.clouds, 0.0 if u[13] < 0.6 else float(0.05 + 0.4 * u[14])),
        wind_mps=wind if side is Side.LEFT else -wind,
        sun_azimuth=math.radians(azimuth),
        sun_elevation=math.radians(elevation),
        fov=math.radians(_given(scene.fov_deg, float(48 + 26 * u[15]))),
        horizon=_given(scene.horizon, float(pitch + 0.16 * u[16])),
        noise=_given(scene.noise, float(noise * (0.8 + 0.6 * u[17]))),
        overlay=_given(scene.overlay, Overlay.LINE if u[18] < 0.75 else Overlay.STRIP),
        site=_given(scene.site, _SITES[int(u[19] * len(_SITES))]),
        local_start=_given(scene.local_start, start),
        mast_m=8 + 10 * u[20],
        relief_m=relief[0] * (0.75 + 0.5 * u[21]),
        wavelength_m=relief[1] * (0.7 + 0.6 * u[22]),
        summit=0.90 + 0.085 * u[23],
        rock=u[24],
        trees=u[25] if terrain is not Terrain.PLATEAU else 0.6 + 0.4 * u[25],
        roads=int(u[26] * 3),
        exposure=0.85 + 0.3 * u[27],
        warmth=-0.6 + 1.2 * u[28],
        vignette=0.12 + 0.4 * u[29],
        housing=bool(u[30] < 0.45),
        wire=bool(u[31] < 0.15),
        dirt=int(u[30] * 97) % 5,
        mono=phase is TimeOfDay.NIGHT and u[29] < 0.7,
        softness=0.45 + 0.3 * u[4],
        seed=seed,
    )


def to_display(linear: Field) -> Field:
    """Linear light 0..1 to grey levels 0..255 with the shoulder of a camera curve."""
    bright = np.maximum(linear, 0.0)
    rolled = np.where(bright > 0.7, 0.7 + 0.3 * (1 - np.exp((0.7 - bright) / 0.3)), bright)
    return np.asarray(255.0 * rolled ** np.float32(1 / 2.2), np.float32)


def build(scene: Scene, width: int, height: int, seed: int) -> Landscape:
    """Walks the land once and paints it; about a second at 1280x720."""
    look = settle(scene, seed)
    focal = width / look.fov
    horizon = look.horizon * height
    ground = _Ground(look)
    azimuth = ((np.arange(width) + 0.5 - width / 2) / focal).astype(np.float32)
    count = int(700 + width * 0.35)
    steps = np.geomspace(NEAR_M, FAR_M, count).astype(np.float32)
    x = steps[:, None] * np.sin(azimuth)[None, :]
    z = steps[:, None] * np.cos(azimuth)[None, :]
    land = ground.height(x, z, steps)
    camera = float(ground.mast_ground_m + look.mast_m)
    plants = ground.plants(x, z, steps)
    drop = (steps**2 / (2 * EARTH_RADIUS_M))[:, None]
    slope = np.asarray((land + plants - drop - camera) / steps[:, None], np.float32)
    crest = np.maximum.accumulate(slope, axis=0)

    rows: Field = ((horizon - (np.arange(height) + 0.5)) / focal).astype(np.float32)
    index, distance = _first_hits(crest, slope, steps, rows)
    sky = index >= count
    canvas = _Canvas(look, width, height, focal, horizon, azimuth, rows)
    light = canvas.sky()
    top = int(np.argmax((~sky).any(axis=1))) if (~sky).any() else height
    extinction = KOSCHMIEDER / (120_000 * (6 / 120) ** look.haze)
    airlight = canvas.airlight()
    if top < height:
        painted = _paint_land(
            look, ground, land, steps, index[top:], distance[top:], azimuth, focal
        )
        haze = _haze(look, distance[top:], camera, rows[top:], extinction)
        air = airlight[None, None, :] * canvas.air_shade(top)
        hazed = painted * haze + air * (1 - haze)
        light[top:] = np.where(sky[top:, :, None], light[top:], hazed)
    if look.time_of_day is TimeOfDay.NIGHT:
        canvas.lamps(light, distance, land, steps)
    image, open_view = canvas.develop(light)
    return Landscape(
        look=look,
        image=image,
        distance_m=np.where(sky, np.float32(np.inf), distance),
        ground_m=land,
        steps_m=steps,
        grain_sixteenths=_grain_map(look, image),
        open_view=open_view,
        focal_px=focal,
        horizon_px=horizon,
        camera_m=camera,
        airlight=(float(airlight[0]), float(airlight[1]), float(airlight[2])),
        extinction_per_m=extinction,
    )


class _Ground:
    """Heights, plants and cover of the land at (x, z) metres from the mast."""

    def __init__(self, look: Look) -> None:
        self.look = look
        rng = generator(look.seed, 2)
        self.offsets = rng.uniform(0, 1024, (24, 2)).astype(np.float32)
        self.turn = float(rng.uniform(0, 2 * math.pi))
        self.mast_ground_m = self._summit()

    def _read(self, x: Field, z: Field, wavelength_m: float, slot: int, seed: int = 5) -> Field:
        angle = self.turn + 0.7 * slot
        scale = np.float32(OCTAVE_PX / wavelength_m)
        cos, sin = np.float32(math.cos(angle)) * scale, np.float32(math.sin(angle)) * scale
        u = x * cos - z * sin + self.offsets[slot, 0]
        v = x * sin + z * cos + self.offsets[slot, 1]
        return sample(octave(seed), u, v)

    def _summit(self) -> float:
        """Height of the mast's own top: higher than most of what it looks at, not than all.

        Read on a fixed polar grid, so that it does not depend on the picture's size.
        """
        steps = np.geomspace(1200, 12_000, 60).astype(np.float32)
        azimuth = np.linspace(-0.5, 0.5, 60, dtype=np.float32)
        x = steps[:, None] * np.sin(azimuth)[None, :]
        z = steps[:, None] * np.cos(azimuth)[None, :]
        return float(np.quantile(self._relief(x, z, steps), self.look.summit))

    def _relief(self, x: Field, z: Field, steps: Field) -> Field:
        """Height of the land at large, metres: ridges upon ridges, gullied and rounded."""
        look = self.look
        total = np.zeros_like(x)
        weight = np.ones_like(x)
        amplitude, wavelength = 1.0, look.wavelength_m
        for slot in range(8):
            # Octaves shorter than about two pixels are left out.
            part = slice(0, int((steps < wavelength * 300).sum()))
            noise = self._read(x[part], z[part], wavelength, slot)
            ridge = np.float32(1.12) - np.sqrt(noise * noise * np.float32(0.5) + np.float32(0.07))
            ridge *= weight[part]
            weight[part] = np.clip(ridge * np.float32(1.5), 0.12, 1.0)
            total[part] += np.float32(amplitude) * ridge
            amplitude *= 0.44
            wavelength *= 0.52
        total = np.clip(total * np.float32(0.62), 0, None) ** np.float32(1.5)
        d = steps[:, None]
        if look.terrain is Terrain.VALLEY:
            reach = 0.3 + 1.2 * (1 - np.exp(-((d / 24_000) ** 2)))
        else:
            reach = 0.8 + 0.4 * (1 - np.exp(-d / 15_000))
        far = np.clip(self._read(x, z, 21_000.0, 8) + np.float32(0.5), 0, 3)
        far = far * np.float32(260 + 0.5 * look.relief_m) * (1 - np.exp(-((d / 26_000) ** 3)))
        return np.asarray(total * look.relief_m * reach.astype(np.float32) + far, np.float32)

    def height(self, x: Field, z: Field, steps: Field) -> Field:
        """Terrain height above the lowest land, metres; (steps, columns) like x and z."""
        look = self.look
        d = steps[:, None]
        spread = {Terrain.PLATEAU: 420.0, Terrain.MOUNTAINS: 420.0}.get(look.terrain, 520.0)
        bulge = np.exp(-((d / spread) ** (2.4 if look.terrain is Terrain.PLATEAU else 1.1)))
        bulge = bulge.astype(np.float32)
        rolling = self._read(x, z, 240.0, 9) * np.float32(11) * np.exp(-d / 1500)
        rolling = rolling * (1 - np.exp(-d / 90))
        top = np.float32(self.mast_ground_m)
        land = self._relief(x, z, steps) * (1 - bulge) + top * bulge + rolling
        return np.asarray(land, np.float32)

    def plants(self, x: Field, z: Field, steps: Field) -> Field:
        """Height of brush and trees, metres; only nearer than 4 km, beyond it is below a pixel."""
        result = np.zeros_like(x)
        near = slice(0, int((steps < 4000).sum()))
        cover, wood = self.cover(x[near], z[near])
        result[near] = (
            np.clip(cover * 1.5, 0, 1) * self.crown(x[near], z[near], 2.6)[0] * np.float32(1.5)
        )
        result[near] += wood * self.crown(x[near], z[near], 8.0)[0] * np.float32(7.0)
        away = np.clip((steps[near, None] - 12) / 30, 0, 1)
        result[near] *= away
        return result

    def crown(self, x: Field, z: Field, spacing_m: float) -> tuple[Field, Field]:
        """Crown height 0..1 and tint 0..1 of plants spacing_m apart."""
        scale = np.float32(8 / spacing_m)
        high, tint = crowns(6)
        return sample(high, x * scale, z * scale), sample(tint, x * scale, z * scale)

    def crest(self, x: Field, z: Field) -> Field:
        """About 1 on the ridges of middle size, about -1 in the gullies between them."""
        wavelength = self.look.wavelength_m * 0.52**2
        total = np.zeros_like(x)
        for slot, share in ((2, 0.5), (3, 0.45), (4, 0.4)):
            noise = self._read(x, z, wavelength, slot)
            total += np.float32(share) * (np.float32(0.72) - np.abs(noise))
            wavelength *= 0.52
        return total * np.float32(1.6)

    def cover(self, x: Field, z: Field) -> tuple[Field, Field]:
        """Share of ground under brush and under trees, 0..1 each: gullies are greener."""
        look = self.look
        patch = 0.55 * self._read(x, z, 900, 10) + 0.5 * self._read(x, z, 240, 11)
        patch += 0.35 * self._read(x, z, 70, 12)
        crest = self.crest(x, z)
        brush = np.float32(1.08 - 0.42 * look.dryness) + 0.25 * patch - np.float32(0.12) * crest
        grove = 0.8 * self._read(x, z, 650, 13) + 0.45 * self._read(x, z, 130, 14) - 0.5 * crest
        wood = np.clip((grove - np.float32(2.0 - 1.9 * look.trees)) * 1.2, 0, 1)
        return np.clip(brush, 0.05, 1).astype(np.float32), wood.astype(np.float32)

    def road(self, x: Field, z: Field, footprint_m: Field, slot: int) -> Field:
        """Share of a pixel that is dirt road, 0..1: the zero line of a smooth field."""
        wavelength = 1500.0 + 900 * slot
        value = self._read(x, z, wavelength, 16 + slot)
        gradient = np.float32(2 * math.pi / wavelength)
        off = np.abs(value) / gradient
        gate = self._read(x, z, 4200.0, 20 + slot) > 0.1
        half = np.float32(2.8)
        wide = np.maximum(half, footprint_m)
        return np.asarray(np.clip(1.3 - off / wide, 0, 1) * (half / wide) * gate, np.float32)


def _first_hits(
    crest: Field, slope: Field, steps: Field, rows: Field
) -> tuple[NDArray[np.int32], Field]:
    """For each pixel the first step at which the land reaches its line of sight, and how far.

    `crest` is the running maximum of `slope` along the steps; rows are slopes, falling.
    """
    count, width = crest.shape
    index = np.empty((len(rows), width), np.int32)
    for column in range(width):
        index[:, column] = np.searchsorted(crest[:, column], rows)
    hit = np.clip(index, 1, count - 1)
    columns = np.arange(width)[None, :]
    before = crest[hit - 1, columns]
    after = slope[hit, columns]
    share = np.clip((rows[:, None] - before) / np.maximum(after - before, 1e-9), 0, 1)
    distance = steps[hit - 1] + share * (steps[hit] - steps[hit - 1])
    return index, distance.astype(np.float32)


_BRUSH: Final = np.array((0.043, 0.042, 0.028), np.float32)
_BRUSH_DRY: Final = np.array((0.076, 0.062, 0.045), np.float32)
_TREE: Final = np.array((0.021, 0.026, 0.019), np.float32)
_GRASS: Final = np.array((0.42, 0.345, 0.21), np.float32)
_SOIL: Final = np.array((0.30, 0.22, 0.15), np.float32)
_GRASS_GREEN: Final = np.array((0.135, 0.13, 0.078), np.float32)
_ROCK: Final = np.array((0.43, 0.37, 0.29), np.float32)


def _paint_land(
    look: Look,
    ground: _Ground,
    land: Field,
    steps: Field,
    index: NDArray[np.int32],
    distance: Field,
    azimuth: Field,
    focal: float,
) -> Field:
    """Linear RGB of the land without air, (rows, width, 3)."""
    count, width = land.shape
    x = distance * np.sin(azimuth)[None, :]
    z = distance * np.cos(azimuth)[None, :]
    pixel_m = distance / np.float32(focal)

    # Slopes of the ground in the column's own directions: outwards and to the right.
    outward = np.gradient(land, steps, axis=0)
    sideways = np.gradient(land, axis=1) * np.float32(focal) / steps[:, None]
    hit = np.clip(index, 0, count - 1)
    columns = np.arange(width)[None, :]
    out, side = outward[hit, columns], sideways[hit, columns]
    turned = np.float32(look.sun_azimuth) - azimuth[None, :]
    height = max(math.sin(look.sun_elevation), 0.06)
    flat = math.cos(look.sun_elevation)
    facing = height - flat * (out * np.cos(turned) + side * np.sin(turned))
    facing = np.clip(facing / np.sqrt(1 + out * out + side * side), 0, None)

    # Detail at the size of the picture: octaves whose strength follows what their wavelength
    # measures on the ground (leaves, shrubs, clumps, stands), so near and far both look right.
    rng = generator(look.seed, 3)
    bump = np.zeros_like(distance)
    tile = octave(7)
    rows = distance.shape[0]
    v, u = np.mgrid[0:rows, 0:width].astype(np.float32)
    for level in range(7):
        wave_px = 2.2 * 2.0**level
        if wave_px > width / 6:
            break
        size_m = wave_px * pixel_m
        strength = _detail_strength(size_m)
        scale = np.float32(OCTAVE_PX / wave_px)
        du, dv = rng.uniform(0, 1024, 2)
        noise = sample(
            tile, u * scale * np.float32(0.6) + np.float32(du), v * scale + np.float32(dv)
        )
        bump += strength * noise
    shift = 1 if look.sun_azimuth < 0 else -1
    relief = bump - np.roll(np.roll(bump, 1, axis=0), -shift, axis=1)

    brush, wood = ground.cover(x, z)
    high, tint = ground.crown(x, z, 2.6)
    tall, shade = ground.crown(x, z, 8.0)
    near = np.clip(1.3 - pixel_m / 1.2, 0, 1)
    # Cover says how much of the ground plants hide, the detail says where they stand.
    stand = bump + near * (1.6 * high - 0.7)
    brush_here = np.clip((brush * 2.6 - 1.3 + stand) * 1.6 + 0.5, 0, 1)
    tree_here = np.clip((wood * 2.8 - 1.6 + bump + near * (1.6 * tall - 0.7)) * 1.8 + 0.5, 0, 1)
    tree_here *= wood > 0
    dry = np.float32(look.dryness)
    bare = _GRASS * dry + _GRASS_GREEN * (1 - dry)
    soil = np.clip(0.35 + 0.5 * ground._read(x, z, 300, 15) + 0.25 * bump, 0, 1)[..., None]
    albedo = bare * (1 - soil) + _SOIL * soil
    albedo = albedo * (0.72 + 0.16 * bump[..., None])
    dusty = np.clip(dry * 0.8 + 0.22 * ground._read(x, z, 520, 21), 0, 1)[..., None]
    green = _BRUSH * (1 - dusty) + _BRUSH_DRY * dusty
    mottle = np.clip(1 + 0.36 * bump + near * (0.9 * tint - 0.45), 0.3, 2)
    albedo = albedo * (1 - 0.6 * wood)[..., None]  # litter under trees
    albedo += (green * mottle[..., None] - albedo) * brush_here[..., None]
    leaf = _TREE * np.clip(0.7 + 0.7 * shade + 0.2 * bump, 0.3, 2)[..., None]
    albedo += (leaf - albedo) * tree_here[..., None]

    steep = np.sqrt(out * out + side * side)
    crest = ground.crest(x, z)
    outcrop = 0.8 * ground._read(x, z, 900, 22) + 0.7 * ground._read(x, z, 190, 23) + 0.5 * crest
    stony = np.clip(outcrop + 0.5 * steep - np.float32(3.3 - 2.2 * look.rock), 0, 0.8)
    boulder = np.clip((bump - np.float32(1.5) + 1.1 * stony) * 2.5, 0, 1) * (stony > 0)
    stone = _ROCK * np.clip(0.85 + 0.35 * ground._read(x, z, 45, 19), 0.4, 1.4)[..., None]
    stone = stone * np.clip(0.45 + 0.28 * bump, 0.3, 1.2)[..., None]
    albedo += (stone - albedo) * boulder[..., None]
    for slot in range(look.roads):
        track = ground.road(x, z, pixel_m * 1.1, slot)[..., None]
        albedo += (_SOIL * 1.35 - albedo) * track

    # Plants throw shadows on the ground beside them, away from the sun.
    plants = np.maximum(brush_here, tree_here)
    cast = np.roll(np.roll(plants, shift * max(1, round(width / 800)), axis=1), 1, axis=0)
    shadow = 1 - 0.75 * np.clip(cast - plants, 0, 1)

    # Crowns shade their far side; gaps between plants are dark.
    close = np.clip(1.4 - pixel_m / 0.35, 0, 1)
    round_px = max(1, round(width / 640))
    shrub = high + 0.5 * tall
    dome = shrub - np.roll(np.roll(shrub, -round_px, axis=0), -shift * round_px, axis=1)
    sunlit = np.clip(1 + 0.14 * relief + close * (1.1 * dome + 0.22 * bump), 0.1, 2.2)
    gap = np.clip(1 + 0.2 * bump, 0.35, 1.6) * np.clip(1 + 0.22 * crest, 0.5, 1.3)
    facing = facing * np.clip(1 + 0.18 * crest, 0.6, 1.3)
    sun, ambient = _lights(look)
    lit = (facing * sunlit * shadow)[..., None] * sun + ambient * gap[..., None]
    return np.asarray(albedo * lit, np.float32)


def _detail_strength(size_m: Field) -> Field:
    """Contrast of vegetation against the wavelength seen, metres.

    Strongest at shrubs and crowns (1 to 10 m), less at stands, little at leaves below 0.1 m:
    read off close and far slopes of real frames, not fitted.
    """
    octaves = np.log2(np.maximum(size_m, 1e-3) / 4.0)
    fine = np.exp(-((np.minimum(octaves, 0) / 5.0) ** 2))
    coarse = np.exp(-((np.maximum(octaves, 0) / 3.6) ** 2))
    return np.asarray(0.62 * fine * coarse, np.float32)


def _lights(look: Look) -> tuple[Field, Field]:
    """Linear RGB of direct sun and of sky light on the ground."""
    if look.time_of_day is TimeOfDay.NIGHT:
        return np.zeros(3, np.float32), np.array((0.13, 0.13, 0.14), np.float32) * np.float32(
            _night_gain(look)
        )
    low = float(np.clip(1 - look.sun_elevation / 0.35, 0, 1))
    up = float(np.clip((look.sun_elevation + 0.03) / 0.15, 0, 1))
    sun = np.array((1.75, 1.64 - 0.45 * low, 1.48 - 0.8 * low), np.float32) * up
    sky = np.array((0.20, 0.235, 0.30), np.float32) * (0.45 + 0.55 * up)
    return sun * look.exposure, sky * look.exposure


def _night_gain(look: Look) -> float:
    """How far the camera turns up its gain in the dark, 1 to 4.6."""
    return 1.0 + 12 * (look.exposure - 0.85)


def _haze(look: Look, distance: Field, camera: float, rows: Field, extinction: float) -> Field:
    """Share of the land's light that reaches the camera, (rows, width, 3)."""
    end = camera + distance * rows[:, None].astype(np.float32)
    depth = extinction * distance * _layer_mean(camera, end, HAZE_SCALE_M)
    # Molecules and fine haze take blue first (Angstrom exponent about 1.3).
    colour = np.exp(-depth[..., None] * np.array((0.85, 1.0, 1.3), np.float32))
    if look.fog > 0:
        layer = 25.0 + 0.16 * look.relief_m
        wet = KOSCHMIEDER / 350 * look.fog * distance * _layer_mean(camera, end, layer)
        colour = colour * np.exp(-wet)[..., None]
    return np.asarray(colour, np.float32)


def _layer_mean(start: float, end: Field, scale: float) -> Field:
    """Mean of exp(-height/scale) along a straight line between two heights.

    1 at sea level all along; from 0 to a height of one scale it is 1 - 1/e = 0.632.
    """
    rise = (np.maximum(end, -50.0) - start) / scale
    rise = np.where(np.abs(rise) < 1e-3, 1e-3, rise)
    return np.asarray(math.exp(-start / scale) * (1 - np.exp(-rise)) / rise, np.float32)


class _Canvas:
    """Sky, air light, lamps and the camera's own marks, at the picture's size."""

    def __init__(
        self,
        look: Look,
        width: int,
        height: int,
        focal: float,
        horizon: float,
        azimuth: Field,
        rows: Field,
    ) -> None:
        self.look, self.width, self.height = look, width, height
        self.focal, self.horizon = focal, horizon
        self.azimuth, self.rows = azimuth, rows
        self.rng = generator(look.seed, 4)
        pale = 0.25 + 0.75 * look.haze
        if look.time_of_day is TimeOfDay.NIGHT:
            gain = np.float32(_night_gain(look))
            self.zenith = np.array((0.028, 0.029, 0.034), np.float32) * gain
            self.low = np.array((0.085, 0.085, 0.090), np.float32) * gain
        elif look.time_of_day is TimeOfDay.DUSK:
            self.zenith = np.array((0.10, 0.15, 0.28), np.float32)
            self.low = np.array((0.70, 0.42, 0.26), np.float32)
        else:
            deep = np.array((0.085, 0.24, 0.64), np.float32)
            grey = np.array((0.27, 0.32, 0.42), np.float32)
            self.zenith = deep + (grey - deep) * np.float32(min(1.0, pale * 0.85 - 0.15))
            self.low = np.array((0.70 + 0.35 * pale, 0.92 + 0.16 * pale, 1.12), np.float32)
        self.zenith = self.zenith * np.float32(look.exposure)

    def _glow(self) -> Field:
        """Forward scattering round the sun, 0..1, at a quarter of the picture's width."""
        columns = self.azimuth[None, ::4] - self.look.sun_azimuth
        columns = (columns + math.pi) % (2 * math.pi) - math.pi
        rows = self.rows[::4, None] - self.look.sun_elevation
        angle = columns**2 + rows**2
        glow = 0.65 * np.exp(-angle / 0.5) + 0.35 * np.exp(-angle / 0.03)
        full = cv2.resize(glow.astype(np.float32), (self.width, self.height))
        return np.asarray(full, np.float32)

    def sky(self) -> Field:
        """Linear RGB of the cloudless sky over the whole frame."""
        up = np.maximum(self.rows, 0.0)
        thick = np.exp(-up / np.float32(0.10 + 0.10 * self.look.haze))
        thick = 0.8 * thick + 0.2 * np.exp(-up / 0.4)
        column = self.zenith + (self.low - self.zenith) * thick[:, None]
        light = np.repeat(column[:, None, :], self.width, axis=1).astype(np.float32)
        if self.look.time_of_day is TimeOfDay.NIGHT:
            self._stars(light)
            return light
        warm = np.array((0.9, 0.5, 0.25), np.float32)
        if self.look.time_of_day is TimeOfDay.DAY:
            warm = np.array((0.55, 0.52, 0.45), np.float32)
        light += self._glow()[..., None] * warm * np.float32(0.4 + 0.6 * self.look.haze)
        return light

    def _stars(self, light: Field) -> None:
        for _ in range(int(25 * (1 - self.look.haze) * (1 - self.look.clouds))):
            y = int(self.rng.uniform(0, max(self.horizon * 0.9, 1)))
            x = int(self.rng.uniform(0, self.width))
            light[min(y, self.height - 1), x] += np.float32(self.rng.uniform(0.03, 0.4))

    def airlight(self) -> Field:
        """What haze adds at infinity: bluer and darker than the horizon sky by day."""
        if self.look.time_of_day is TimeOfDay.NIGHT:
            return self.low * np.float32(0.55)
        if self.look.time_of_day is TimeOfDay.DUSK:
            return np.array((0.33, 0.25, 0.22), np.float32) * np.float32(self.look.exposure)
        pale = np.float32(self.look.haze)
        clear = np.array((0.24, 0.30, 0.42), np.float32)
        murk = np.array((0.50, 0.55, 0.60), np.float32)
        return (clear + (murk - clear) * pale) * np.float32(self.look.exposure)

    def air_shade(self, top: int) -> Field:
        """Air light is brighter towards the sun; factor per pixel from row `top` on."""
        if self.look.time_of_day is TimeOfDay.NIGHT:
            return np.ones((1, 1, 1), np.float32)
        return (np.float32(0.85) + np.float32(0.5) * self._glow()[top:])[..., None]

    def lamps(self, light: Field, distance: Field, land: Field, steps: Field) -> None:
        """Lamps of farms and towns: clusters on low land between 1 and 20 km."""
        rng, unit = self.rng, self.width / 1280
        candidates = np.argwhere((distance > 1200) & (distance < 22_000) & (self.rows < 0)[:, None])
        if not len(candidates):
            return
        for _ in range(int(rng.integers(2, 7))):
            cy, cx = candidates[int(rng.integers(len(candidates)))]
            for _ in range(int(rng.integers(2, 22))):
                x = cx + rng.normal(0, 38 * unit)
                y = cy + rng.normal(0, 3.0 * unit)
                if not (2 <= x < self.width - 2 and 2 <= y < self.height - 2):
                    continue
                if distance[int(y), int(x)] > 30_000:
                    continue
                power = float(rng.lognormal(-0.6, 0.9))
                warm = np.array((1.0, rng.uniform(0.6, 0.95), rng.uniform(0.3, 0.8)), np.float32)
                for sigma, share in ((0.8 * unit, 1.0), (4.0 * unit, 0.03)):
                    _splat(light, x, y, max(sigma, 0.6), warm * np.float32(power * share))

    def develop(self, light: Field) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Lens, curve, sharpening and the marks on the dome: linear light to grey levels."""
        look, width, height = self.look, self.width, self.height
        unit = width / 1280
        soft = cv2.GaussianBlur(light, (0, 0), max(0.45, look.softness))
        veil = cv2.resize(
            light, (max(width // 16, 8), max(height // 16, 8)), interpolation=cv2.INTER_AREA
        )
        veil = cv2.GaussianBlur(veil, (0, 0), 6)
        soft = soft * np.float32(0.975) + cv2.resize(veil, (width, height)) * np.float32(0.025)
        v, u = np.mgrid[0:height, 0:width].astype(np.float32)
        r2 = ((u - width / 2) ** 2 + (v - height / 2) ** 2) / np.float32(width**2 / 4)
        soft *= (1 - np.float32(look.vignette) * 0.75 * r2 / (1 + 0.4 * r2))[..., None]
        tint = np.array((1 + 0.07 * look.warmth, 1.0, 1 - 0.10 * look.warmth), np.float32)
        if look.mono:
            tint = np.ones(3, np.float32)
            soft = np.repeat((soft @ np.array((0.4, 0.4, 0.2), np.float32))[..., None], 3, axis=2)
        elif look.time_of_day is TimeOfDay.NIGHT:
            tint = np.array((0.95, 0.85, 1.5), np.float32)
        shown = to_display(soft * tint)
        halo = cv2.GaussianBlur(shown, (0, 0), 1.3)
        shown += np.float32(1.05) * (shown - halo)
        open_view = np.full((height, width), 255, np.uint8)
        if look.housing:
            radius = width * (0.535 + 0.05 * ((look.seed * 0.618) % 1))
            centre = height * (0.52 if look.seed % 2 else 0.62)
            reach = np.sqrt((u - width * 0.49) ** 2 + (v - centre) ** 2)
            rim = np.clip((reach - radius) / (14 * unit), 0, 1)
            if look.seed % 3:
                rim *= v < centre
            dark = (
                np.array((58, 60, 52), np.float32)
                * (1 - 0.5 * np.clip((reach / radius - 1) * 4, 0, 1))[..., None]
            )
            if look.time_of_day is TimeOfDay.NIGHT:
                dark *= np.float32(0.3)
            shown += (dark - shown) * rim[..., None]
            open_view = np.asarray(255 * (1 - rim), np.uint8)
        for _ in range(look.dirt):
            x, y = self.rng.uniform(0, width), self.rng.uniform(0, height)
            _splat(shown, x, y, self.rng.uniform(4, 14) * unit, np.full(3, -11.0, np.float32))
        image = np.clip(shown[..., ::-1], 0, 255).astype(np.uint8)
        if look.wire:
            x = int(width * self.rng.uniform(0.2, 0.9))
            curve = np.array(
                [(x + 0.03 * width * t * t, height * 0.45 * t) for t in np.linspace(0, 1, 24)]
            )
            cv2.polylines(image, [np.rint(curve * 16).astype(np.int32)], False, (70, 66, 62),
                          max(1, round(1.6 * unit)), cv2.LINE_AA, 4)  # fmt: skip
        return np.ascontiguousarray(image), open_view


def _splat(light: Field, x: float, y: float, sigma: float, colour: Field) -> None:
    """Adds a round spot in place."""
    height, width = light.shape[:2]
    reach = int(3 * sigma + 2)
    left, right = max(0, int(x) - reach), min(width, int(x) + reach + 1)
    top, bottom = max(0, int(y) - reach), min(height, int(y) + reach + 1)
    if left >= right or top >= bottom:
        return
    across = np.exp(-((np.arange(left, right) - x) ** 2) / (2 * sigma**2))
    down = np.exp(-((np.arange(top, bottom) - y) ** 2) / (2 * sigma**2))
    light[top:bottom, left:right] += (down[:, None] * across)[..., None].astype(np.float32) * colour


def _grain_map(look: Look, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Noise per pixel: the sensor's, more in shadows, and more on fine texture.

    Leaves that move in the wind and the camera's compression make texture flicker; in real
    frames a minute apart brush differs about twice as much as sky does.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    texture = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)) / 8
    sigma = look.noise * (1.15 - 0.4 * grey / 255) + np.minimum(0.10 * texture, 3.0)
    levels = np.clip(np.rint(sigma * 16), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(levels, 3, axis=1))
