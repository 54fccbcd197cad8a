"""What wind, weather and cheap optics do to a picture, and where that moves the truth boxes.

Pure functions of (image, settings, seed, instant): the same four give the same bytes. The order
is that of the light: haze in the air, the mast's sway and its motion blur, drops on the lens,
the sensor's noise, then what the camera's software cuts out and scales down.

Lengths in the settings are pixels of a frame 1280 wide and scale with the frame.
"""

from __future__ import annotations

__all__ = ["Sway", "crop_window", "map_box", "perturb", "result_size", "sway", "varies"]

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from earlyfire_stream.scenario.models import Perturb
from earlyfire_stream.sources.base import Image, seed_for
from earlyfire_stream.verdict import Box

REFERENCE_WIDTH = 1280


@dataclass(frozen=True, slots=True)
class Sway:
    """Where the picture stands and how it moves: pixels and pixels/s at 1280 wide."""

    dx: float
    dy: float
    vx: float
    vy: float


def varies(settings: Perturb) -> bool:
    """Does the same picture look different at another instant?"""
    return bool(settings.shake_px or settings.rain or settings.night_noise)


def perturb(image: Image, settings: Perturb, seed: int, at: float) -> Image:
    """`image` as the camera would have shown it at scenario instant `at`; the input stays whole.

    ValueError if `height` asks for more than the (cropped) picture has: nothing is enlarged.
    """
    scale = image.shape[1] / REFERENCE_WIDTH
    if settings.haze:
        image = _veil(image, settings.haze)
    if settings.shake_px or settings.blur_px:
        moved = sway(settings.shake_px, seed, at)
        if settings.shake_px:
            image = _shift(image, moved.dx * scale, moved.dy * scale)
        if settings.blur_px:
            image = _smear(image, settings.blur_px * scale, _direction(moved, seed))
    if settings.rain:
        image = _drops(image, settings.rain, seed, at)
    if settings.night_noise:
        image = _darken(image, settings.night_noise, seed, at)
    if settings.crop is not None:
        left, top, right, bottom = crop_window(settings.crop, (image.shape[1], image.shape[0]))
        image = image[top:bottom, left:right]
    if settings.height is not None and settings.height != image.shape[0]:
        width, height = result_size((image.shape[1], image.shape[0]), settings.height)
        image = _as_image(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(image)


def map_box(box: Box, settings: Perturb, seed: int, at: float, size: tuple[int, int]) -> Box | None:
    """Where `box` lies in the perturbed frame; None if it was cut away.

    `size` is (width, height) of the frame before. Haze, rain and noise hide smoke but do not move
    it; scaling changes no fraction.
    """
    width, height = size
    x1, y1, x2, y2 = box.corners
    if settings.shake_px:
        moved = sway(settings.shake_px, seed, at)
        dx = moved.dx / REFERENCE_WIDTH
        dy = moved.dy / REFERENCE_WIDTH * width / height
        x1, y1, x2, y2 = x1 + dx, y1 + dy, x2 + dx, y2 + dy
    if settings.crop is not None:
        left, top, right, bottom = crop_window(settings.crop, size)
        x1, x2 = ((x * width - left) / (right - left) for x in (x1, x2))
        y1, y2 = ((y * height - top) / (bottom - top) for y in (y1, y2))
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, 1.0), min(y2, 1.0)
    return Box.from_corners(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def crop_window(
    crop: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in whole pixels, inside the frame, never empty."""
    x1, y1, x2, y2 = Box(*crop).corners
    width, height = size
    left, top = min(round(x1 * width), width - 1), min(round(y1 * height), height - 1)
    return left, top, max(round(x2 * width), left + 1), max(round(y2 * height), top + 1)


def result_size(size: tuple[int, int], height: int) -> tuple[int, int]:
    """`size` (width, height) scaled down to `height`, aspect kept; ValueError if it is smaller."""
    if height > size[1]:
        raise ValueError(f"{size[0]}x{size[1]} would have to be enlarged to a height of {height}")
    return max(1, round(size[0] * height / size[1])), height


# --- wind ----------------------------------------------------------------------------------------

_WAVES = 5
_Values = npt.NDArray[np.float64]


def sway(shake_px: float, seed: int, at: float) -> Sway:
    """The mast's movement at an instant: smooth, mean 0, `shake_px` its standard deviation.

    A sum of sines between 0.1 and 2 Hz per axis, slow ones larger, as a mast with a few modes
    does it. Amplitudes a_i with sum(a_i²)/2 = shake_px², so the deviation holds over time.
    """
    position, speed = [], []
    for hertz, phase, size in _waves(seed):
        angle = 2 * math.pi * hertz * at + phase
        position.append(shake_px * float(np.sum(size * np.sin(angle))))
        speed.append(shake_px * float(np.sum(size * np.cos(angle) * 2 * math.pi * hertz)))
    return Sway(position[0], position[1], speed[0], speed[1])


@lru_cache(maxsize=1024)
def _waves(seed: int) -> tuple[tuple[_Values, _Values, _Values], ...]:
    """(frequency, phase, amplitude) of the waves of each axis, for a deviation of 1."""
    axes = []
    for axis in ("x", "y"):
        rng = np.random.default_rng(seed_for(seed, "sway", axis))
        hertz = np.exp(rng.uniform(math.log(0.1), math.log(2.0), _WAVES))
        phase = rng.uniform(0, 2 * math.pi, _WAVES)
        size = 1 / np.sqrt(hertz)
        axes.append((hertz, phase, size * math.sqrt(2) / math.sqrt(float(np.sum(size**2)))))
    return tuple(axes)


def _shift(image: Image, dx: float, dy: float) -> Image:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], dtype=np.float64)
    size = (image.shape[1], image.shape[0])
    return _as_image(cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REFLECT_101))


def _direction(moved: Sway, seed: int) -> float:
    """Angle of the motion blur: along the sway, else one that the camera keeps."""
    if moved.vx or moved.vy:
        return math.atan2(moved.vy, moved.vx)
    return float(np.random.default_rng(seed_for(seed, "blur")).uniform(0, math.pi))


def _smear(image: Image, length_px: float, angle: float) -> Image:
    """Motion blur: the mean along a line of `length_px`, sub-pixel exact at both ends."""
    if length_px < 0.5:
        return image
    reach = math.ceil(length_px / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    steps = 8 * math.ceil(length_px) + 1
    for t in np.linspace(-length_px / 2, length_px / 2, steps):
        x, y = reach + t * math.cos(angle), reach + t * math.sin(angle)
        left, top = int(x), int(y)
        fx, fy = x - left, y - top
        kernel[top, left] += (1 - fx) * (1 - fy)
        kernel[top, left + 1] += fx * (1 - fy)
        kernel[top + 1, left] += (1 - fx) * fy
        kernel[top + 1, left + 1] += fx * fy
    kernel /= kernel.sum()
    return _as_image(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


# --- weather -------------------------------------------------------------------------------------

_HAZE_DEPTH = 3.0
"""Optical depth of haze 1 at the horizon: 5 % of the contrast is left."""


def _veil(image: Image, haze: float) -> Image:
    """Haze: I·t + A·(1 − t), t = exp(−depth), the airlight A being the picture's own sky.

    How far away a pixel is, nobody knows; on a look-out camera distance grows upwards, so the
    depth rises from a quarter at the bottom to all of it at 45 % of the height and above.
    """
    height = image.shape[0]
    third = image[: max(1, height // 3)].reshape(-1, 3)
    bright = third[third.sum(axis=1) >= np.percentile(third.sum(axis=1), 50)]
    airlight = bright.mean(axis=0)
    airlight = (airlight + 2 * airlight.mean()) / 3  # haze is greyer than a blue sky
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    distance = 0.25 + 0.75 * np.clip((1 - y) / 0.55, 0, 1)
    kept = np.exp(-_HAZE_DEPTH * haze * distance)[:, None, None].astype(np.float32)
    veiled = image * kept + airlight.astype(np.float32) * (1 - kept)
    return cast(Image, np.clip(veiled + 0.5, 0, 255).astype(np.uint8))


_DROPS = 64
"""Drops on the lens at rain 1."""


def _drops(image: Image, rain: float, seed: int, at: float) -> Image:
    """Drops on the lens: each shows the scene upside down, small and out of focus.

    Every place for a drop holds one for 15 to 90 s, then the next one falls elsewhere, so that
    drops persist over frames and yet each instant can be drawn on its own.
    """
    height, width = image.shape[:2]
    soft = cv2.resize(
        image, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA
    )
    soft = cv2.GaussianBlur(soft, (0, 0), max(0.6, width / REFERENCE_WIDTH * 2.0))
    out = image.copy()
    for place in range(math.ceil(_DROPS * rain)):
        keeper = np.random.default_rng(seed_for(seed, "place", str(place)))
        life_s = float(keeper.uniform(15, 90))
        drop = math.floor((at + keeper.uniform(0, life_s)) / life_s)
        rng = np.random.default_rng(seed_for(seed, "drop", str(place), str(drop)))
        radius = width * min(0.05, 0.013 * math.exp(rng.normal(0, 0.6)))
        _draw_drop(
            out,
            soft,
            x=float(rng.uniform(0, width)),
            y=float(rng.uniform(0, height)),
            radius=radius,
            tall=float(rng.uniform(1.0, 1.35)),
            lobe=float(rng.uniform(0, 2 * math.pi)),
        )
    return out


def _draw_drop(
    out: Image, soft: object, *, x: float, y: float, radius: float, tall: float, lobe: float
) -> None:
    height, width = out.shape[:2]
    reach_x, reach_y = math.ceil(radius * 1.4), math.ceil(radius * tall * 1.4)
    left, right = max(0, int(x) - reach_x), min(width, int(x) + reach_x + 1)
    top, bottom = max(0, int(y) - reach_y), min(height, int(y) + reach_y + 1)
    if left >= right or top >= bottom:
        return
    v, u = np.mgrid[top:bottom, left:right].astype(np.float32)
    u, v = (u - x) / radius, (v - y) / (radius * tall)
    angle = np.arctan2(v, u)
    rho = np.hypot(u, v) / (1 + 0.08 * np.cos(2 * angle + lobe) + 0.05 * np.cos(3 * angle - lobe))
    # Out of focus: the rim is a third of the radius wide.
    cover = np.clip((1.17 - rho) / 0.34, 0, 1)
    cover = (cover * cover * (3 - 2 * cover))[..., None].astype(np.float32)
    # A drop is a fish-eye lens: whatever its size, it sees a wide part of the scene.
    reach = 0.22 * width
    map_x = (x - u * reach) / width * (width // 4)
    map_y = (y - v * reach) / height * (height // 4)
    seen = cv2.remap(
        soft,  # type: ignore[call-overload]
        map_x.astype(np.float32),
        map_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    shade = (1.04 - 0.30 * np.clip(rho, 0, 1) ** 3)[..., None].astype(np.float32)
    under = out[top:bottom, left:right]
    mixed = under * (1 - cover) + seen * shade * cover
    out[top:bottom, left:right] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


# --- night ---------------------------------------------------------------------------------------

_FULL_WELL = 6000.0
"""Electrons of a white pixel by day: a small sensor's."""
_STOPS = 5.0
"""Light that is lost at night_noise 1, in powers of two; the gain gives half of it back."""
_READ_NOISE = 6.0
"""Electrons."""


def _darken(image: Image, strength: float, seed: int, at: float) -> Image:
    """Dusk to night on a cheap sensor: less light, gain, shot and read noise, colour lost."""
    rng = np.random.default_rng(seed_for(seed, "night", f"{at:.3f}"))
    light = 2.0 ** (-_STOPS * strength)
    gain = math.sqrt(1 / light)
    ycc = cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)
    electrons = ((np.arange(256) / 255.0) ** 2.2 * _FULL_WELL * light).astype(np.float32)
    signal = electrons[ycc[..., 0]]
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    signal += noise * np.sqrt(signal + (_READ_NOISE * strength) ** 2)
    luma = 255 * (np.clip(signal * (gain / _FULL_WELL), 0, 1)) ** np.float32(1 / 2.2)
    colour = (ycc[..., 1:].astype(np.float32) - 128) * (1 - 0.9 * strength)
    height, width = signal.shape
    speckle = rng.standard_normal((max(1, height // 2), max(1, width // 2), 2), dtype=np.float32)
    colour += cv2.resize(speckle, (width, height), interpolation=cv2.INTER_LINEAR) * (6 * strength)
    noisy = np.dstack((luma, colour + 128))
    return _as_image(
        cv2.cvtColor(np.clip(noisy + 0.5, 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2BGR)
    )


def _as_image(array: npt.NDArray[np.generic] | object) -> Image:
    return cast(Image, array)
