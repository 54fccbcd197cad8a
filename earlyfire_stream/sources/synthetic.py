"""Synthetic cameras: frames of a mountain-top camera, with smoke whose place is known exactly.

`SyntheticScene.render(at_s)` is a pure function of the settings, the seed and the instant:
nothing is carried from call to call, so frames may be asked for in any order, in any process.
(The same bytes on the same machine and library versions; another CPU may round differently.)

A fire is invisible before its onset. From then on it smokes; its truth begins with the first
frame in which at least MIN_VISIBLE_PX pixels (at 1280 pixels of width) differ by a visible
amount, which for a fire in plain sight is a few seconds after the onset, and for one behind a
ridge once its smoke has risen above it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.scenario.scenes import Overlay, Scene, TimeOfDay
from earlyfire_stream.sources.landscape import Landscape, build
from earlyfire_stream.sources.plume import Patch, PlumeEvent, Smoke
from earlyfire_stream.sources.texture import TILE_PX, Field, fractal, generator, grain, sample
from earlyfire_stream.verdict import Box, Truth

__all__ = ["PlumeEvent", "Rendered", "SyntheticScene"]

VISIBLE_LEVELS: Final = 6.0
"""Least change of luminance that counts as visible, grey levels; or 1.5 x the sensor noise."""
MIN_VISIBLE_PX: Final = 6.0
"""Visible pixels that make a truth, at 1280 pixels of width; grows with the picture's area."""
CLOUD_HEIGHT_M: Final = 2600.0
"""Of the cloud layer above the camera: fair-weather cumulus over warm hills."""
JITTER_PX: Final = 0.12
"""Standard deviation of the mast's sway at 1280 pixels of width; real masts show below 0.3."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One frame: uint8 (height, width, 3) BGR, and the fires visible in it."""

    image: NDArray[np.uint8]
    truth: tuple[Truth, ...]


class SyntheticScene:
    """One synthetic camera of a given size; builds its static layers when made."""

    def __init__(
        self, scene: Scene, plumes: Sequence[PlumeEvent], width: int, height: int, seed: int
    ) -> None:
        if width < 64 or height < 48:
            raise ValueError(f"a synthetic frame is at least 64x48 pixels, not {width}x{height}")
        self.width, self.height, self.seed = width, height, seed
        self._land: Landscape = build(scene, width, height, seed)
        self._grey = np.asarray(cv2.cvtColor(self._land.image, cv2.COLOR_BGR2GRAY), np.uint8)
        self._smokes = tuple(
            Smoke(event, self._land, seed + 7919 * (number + 1))
            for number, event in enumerate(plumes)
        )
        self._sky = _Clouds(self._land, seed) if self._land.look.clouds > 0 else None

    def truth(self, at_s: float) -> tuple[Truth, ...]:
        """The fires visible at `at_s`, exactly as `render` reports them, without the picture."""
        return self._truth(self._patches(at_s))

    def render(self, at_s: float) -> Rendered:
        """The frame at `at_s` scenario seconds."""
        land = self._land
        rng = generator(self.seed, round(at_s * 1000) * 8 + 5)
        patches = self._patches(at_s)
        frame = self._sway(rng)
        if self._sky is not None:
            self._sky.cover(frame, at_s)
        for _, patch in sorted(patches, key=lambda pair: -pair[0].distance_m):
            _blend(frame, patch, land.open_view)
        cv2.add(frame, self._noise(rng), dst=frame, dtype=cv2.CV_8U)
        self._write(frame, at_s)
        return Rendered(frame, self._truth(patches))

    def _patches(self, at_s: float) -> list[tuple[Smoke, Patch]]:
        found = ((smoke, smoke.patch(at_s, self._grey)) for smoke in self._smokes)
        return [(smoke, patch) for smoke, patch in found if patch is not None]

    def _truth(self, patches: Sequence[tuple[Smoke, Patch]]) -> tuple[Truth, ...]:
        """Boxes round the cells whose luminance smoke changes visibly."""
        threshold = max(VISIBLE_LEVELS, 1.5 * self._land.look.noise)
        least = MIN_VISIBLE_PX * (self.width / 1280) ** 2
        result = []
        for smoke, patch in patches:
            seen = patch.change > threshold
            if seen.sum() * patch.cell_px**2 < max(least, 2.0):
                continue
            rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
            x1 = patch.left + float(columns[0]) * patch.cell_px
            x2 = patch.left + min((float(columns[-1]) + 1) * patch.cell_px, patch.width)
            y1 = patch.top + float(rows[0]) * patch.cell_px
            y2 = patch.top + min((float(rows[-1]) + 1) * patch.cell_px, patch.height)
            box = Box.from_corners(
                x1 / self.width, y1 / self.height, x2 / self.width, y2 / self.height
            )
            result.append(Truth(smoke.event.fire, box))
        return tuple(result)

    def _sway(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """The still picture, moved by a part of a pixel, its exposure breathing a little."""
        dx, dy = rng.normal(0, JITTER_PX * self.width / 1280, 2)
        gain = 1 + rng.normal(0, 0.004)
        frame = cv2.warpAffine(
            self._land.image,
            np.array([[1, 0, dx], [0, 1, dy]], np.float64),
            (self.width, self.height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(cv2.convertScaleAbs(frame, alpha=gain), np.uint8)

    def _noise(self, rng: np.random.Generator) -> NDArray[np.int16]:
        """Sensor noise in grey levels: blocks of the shared grain from drawn places.

        By night the grain is twice as coarse: cameras smooth what they amplify.
        """
        night = self._land.look.time_of_day is TimeOfDay.NIGHT
        tile, block = grain(), 512
        coarse = 2 if night else 1
        height, width = -(-self.height // coarse), -(-self.width // coarse)
        noise = np.empty((height, width, 3), np.int8)
        for top in range(0, height, block):
            for left in range(0, width, block):
                y, x = rng.integers(0, TILE_PX - block, 2)
                tall, wide = min(block, height - top), min(block, width - left)
                part = tile[y : y + tall, x : x + wide]
                if self._land.look.mono:
                    part = part[..., 1:2]
                noise[top : top + tall, left : left + wide] = part
        if night:
            size = (self.width, self.height)
            noise = np.asarray(cv2.resize(noise.astype(np.float32), size), np.int8)
        # Enlarging twice by bilinear reading leaves 0.625 of the standard deviation.
        scale = 1 / 256 / (0.625 if night else 1.0)
        flat = noise.reshape(self.height, self.width * 3)
        scaled = cv2.multiply(flat, self._land.grain_sixteenths, scale=scale, dtype=cv2.CV_16S)
        return np.asarray(scaled, np.int16).reshape(self.height, self.width, 3)

    def _write(self, frame: NDArray[np.uint8], at_s: float) -> None:
        """The camera's own text."""
        look = self._land.look
        if look.overlay is Overlay.NONE:
            return
        unit = self.width / 1280
        now = look.local_start + timedelta(seconds=math.floor(at_s))
        if look.overlay is Overlay.LINE:
            text = f"{now:%Y%m%d.%H%M%S} {look.site}, a{look.seed % 8}"
            place, colour = (int(2 * unit), int(11 * unit) + 1), (40, 205, 205)
        else:
            band = max(10, int(15 * unit))
            frame[-band:] = 0
            text = f"{look.site}  {now:%Y/%m/%d %H:%M:%S}  {math.degrees(look.fov):.1f} deg"
            place, colour = (int(4 * unit), self.height - max(3, int(4 * unit))), (235, 235, 235)
        cv2.putText(
            frame, text, place, cv2.FONT_HERSHEY_PLAIN, max(0.55, 0.95 * unit), colour,
            max(1, round(unit * 0.8)),
        )  # fmt: skip


def _blend(frame: NDArray[np.uint8], patch: Patch, open_view: NDArray[np.uint8]) -> None:
    """Lays the smoke over the frame in place."""
    size = (patch.width, patch.height)
    alpha, colour = patch.alpha, patch.colour
    if alpha.shape != (patch.height, patch.width):
        alpha = np.asarray(cv2.resize(alpha, size), np.float32)
        colour = np.asarray(cv2.resize(colour, size), np.float32)
    part = np.s_[patch.top : patch.top + patch.height, patch.left : patch.left + patch.width]
    alpha = alpha * (open_view[part] * np.float32(1 / 255))
    under = frame[part].astype(np.float32)
    under += alpha[..., None] * (colour - under)
    frame[part] = np.rint(under)


class _Clouds:
    """Clouds that drift with the wind, and their shadows on the land."""

    STEP: Final = 3
    """Clouds are soft: one value in three by three pixels."""

    def __init__(self, land: Landscape, seed: int) -> None:
        self.look = look = land.look
        height, width = land.distance_m.shape
        rng = generator(seed, 41)
        self.offset = rng.uniform(0, TILE_PX, 4).astype(np.float32)
        sky = np.isinf(land.distance_m)
        open_rows = np.flatnonzero(sky.max(axis=1))
        self.sky_rows = int(open_rows[-1]) + 1 if len(open_rows) else 0
        columns = np.arange(0, width, self.STEP)
        azimuth = ((columns + 0.5 - width / 2) / land.focal_px).astype(np.float32)
        rows = np.arange(0, max(self.sky_rows, 1), self.STEP)
        up = np.maximum((land.horizon_px - rows - 0.5) / land.focal_px, 0.012).astype(np.float32)
        away = np.float32(CLOUD_HEIGHT_M) / (up + np.float32(0.05))
        self.x = (away[:, None] * np.sin(azimuth)[None, :]).astype(np.float32)
        self.z = (away[:, None] * np.cos(azimuth)[None, :]).astype(np.float32)
        self.fade = np.clip((up - 0.012) / 0.05, 0, 1)[:, None] * np.float32(0.92)
        mask = sky[: self.sky_rows] * (land.open_view[: self.sky_rows] / np.float32(255))
        self.mask = np.asarray(mask, np.float32)
        self.land_top = int(np.argmin(sky.min(axis=1))) if not sky.all() else height
        ground = np.where(sky, 60_000, land.distance_m)[self.land_top :: 8, ::8]
        az = ((np.arange(0, width, 8) + 0.5 - width / 2) / land.focal_px).astype(np.float32)
        self.ground_x = (ground * np.sin(az)[None, :]).astype(np.float32)
        self.ground_z = (ground * np.cos(az)[None, :]).astype(np.float32)
        air = land.extinction_per_m * ground * 0.6
        self.sun = np.asarray(0.38 * np.exp(-air), np.float32)
        self.shaded = (~sky[self.land_top :]).astype(np.float32)
        day = {"day": 1.0, "dusk": 0.45, "night": 0.10}[str(look.time_of_day)]
        self.bright = np.array((250, 247, 244), np.float32) * np.float32(day**0.5)
        self.dim = np.array((214, 203, 197), np.float32) * np.float32(day**0.5)

    def _thickness(self, x: Field, z: Field, at_s: float) -> Field:
        """0 in the gaps, towards 1 in the middle of clouds, at places over the land, metres."""
        drift = np.float32(self.look.wind_mps * 1.6 * at_s)
        scale = np.float32(TILE_PX / 26_000)
        broad = sample(
            fractal(1.55, 9), (x - drift) * scale + self.offset[0], z * scale + self.offset[1]
        )
        churn = np.float32(0.012 * at_s)
        small = sample(
            fractal(1.3, 10),
            (x - drift) * scale * 3 + self.offset[2] + churn,
            z * scale * 3 + self.offset[3] - churn,
        )
        level = np.float32(1.7 - 2.6 * self.look.clouds)
        return np.asarray(np.clip((broad + 0.35 * small - level) * 0.55, 0, 1), np.float32)

    def cover(self, frame: NDArray[np.uint8], at_s: float) -> None:
        """Draws clouds over the sky and their shadows over the land, in place."""
        height, width = frame.shape[:2]
        if self.sky_rows > 0:
            thick = self._thickness(self.x, self.z, at_s)
            thick = np.asarray(cv2.GaussianBlur(thick, (0, 0), 0.9), np.float32)
            alpha = (1 - np.exp(-5.5 * thick**1.25)) * self.fade
            size = (width, self.sky_rows)
            full = cv2.resize(alpha.astype(np.float32), size) * self.mask
            belly = np.clip(thick * 1.5 - 0.1, 0, 1)[..., None]
            colour = np.asarray(self.bright + (self.dim - self.bright) * belly, np.uint8)
            top = np.ascontiguousarray(frame[: self.sky_rows])
            frame[: self.sky_rows] = cv2.blendLinear(cv2.resize(colour, size), top, full, 1 - full)
        if self.land_top < height and str(self.look.time_of_day) == "day":
            shade = np.clip(self._thickness(self.ground_x, self.ground_z, at_s) * 4, 0, 1)
            shade = self.sun * cv2.GaussianBlur(shade, (0, 0), 1.5)
            full = cv2.resize(shade.astype(np.float32), (width, height - self.land_top))
            factor = np.rint(255 * (1 - full * self.shaded)).astype(np.uint8)
            part = frame[self.land_top :]
            cv2.multiply(part, cv2.merge([factor] * 3), dst=part, scale=1 / 255)
