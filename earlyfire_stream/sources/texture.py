"""Periodic noise tiles from which synthetic scenes are woven.

Tiles are made once a process from fixed seeds and shared by all cameras; what tells cameras
apart is where, how large and at which angle they read a tile. All tiles are float32, square,
periodic in both directions.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import scipy
from numpy.typing import NDArray

__all__ = [
    "OCTAVE_PX",
    "TILE_PX",
    "crowns",
    "fractal",
    "fractal_pair",
    "generator",
    "grain",
    "octave",
    "sample",
]

TILE_PX = 1024
OCTAVE_PX = 16.0
"""Wavelength of `octave`, in texels."""

Field = NDArray[np.float32]


def generator(*key: int) -> np.random.Generator:
    """Numbers drawn from up to two integers of 64 bits, the same in every process."""
    words = [k & 0xFFFFFFFFFFFFFFFF for k in key]
    return np.random.Generator(np.random.Philox(key=[*words, 0][:2]))


def _shaped(amplitude: NDArray[np.float64], seed: int) -> Field:
    """White noise with the given spectrum, mean 0, variance 1."""
    size = amplitude.shape[0]
    white = np.fft.rfft2(generator(seed, 71).standard_normal((size, size)))
    tile = np.fft.irfft2(white * amplitude[:, : size // 2 + 1], (size, size))
    return np.asarray((tile - tile.mean()) / tile.std(), np.float32)


def _radius(size: int) -> NDArray[np.float64]:
    """Spatial frequency of each Fourier cell, cycles per texel."""
    frequency = np.fft.fftfreq(size)
    return np.asarray(np.hypot(frequency[:, None], frequency[None, :]), np.float64)


@lru_cache(maxsize=8)
def fractal(slope: float, seed: int, longest_px: float = TILE_PX / 2) -> Field:
    """Noise whose amplitude falls with frequency to the power -slope; 1 rough, 2 cloud-like.

    Nothing in it is longer than longest_px texels.
    """
    radius = _radius(TILE_PX)
    radius[0, 0] = 1.0
    amplitude = radius**-slope * (radius >= 1 / longest_px)
    return _shaped(amplitude, seed)


@lru_cache(maxsize=4)
def fractal_pair(slope: float, seed: int, longest_px: float) -> Field:
    """Two independent `fractal` tiles as channels, for one reading of both."""
    pair = [fractal(slope, seed, longest_px), fractal(slope, seed + 100, longest_px)]
    return np.ascontiguousarray(np.stack(pair, axis=-1))


@lru_cache(maxsize=8)
def octave(seed: int) -> Field:
    """Noise of one wavelength, OCTAVE_PX texels, an octave wide."""
    radius = _radius(TILE_PX)
    radius[0, 0] = 1e-9
    amplitude = np.exp(-((np.log2(radius * OCTAVE_PX) / 0.6) ** 2))
    return _shaped(amplitude, seed)


@lru_cache(maxsize=2)
def crowns(seed: int) -> tuple[Field, Field]:
    """Plant crowns seen from above: height 0..1 and a tint 0..1 of each plant.

    Plants stand 8 texels apart on average; 512 texels a side.
    """
    size, spacing = 512, 8
    rng = generator(seed, 72)
    grid = np.stack(np.meshgrid(*[np.arange(0, size, spacing)] * 2), -1).reshape(-1, 2)
    places = (grid + rng.uniform(0, spacing, grid.shape)) % size
    reach = spacing * rng.uniform(0.35, 0.85, len(places))
    tall = rng.uniform(0.45, 1.0, len(places))
    tint = rng.uniform(0, 1, len(places))
    tree = scipy.spatial.cKDTree(places, boxsize=np.array([size, size]))
    pixels = np.stack(np.meshgrid(*[np.arange(size)] * 2), -1).reshape(-1, 2)
    distance, index = tree.query(pixels, k=3)
    index = np.asarray(index)
    height = tall[index] * np.sqrt(np.maximum(0.0, 1 - (distance / reach[index]) ** 2))
    best = height.argmax(axis=1)
    rows = np.arange(len(best))
    shape = (size, size)
    return (
        height[rows, best].reshape(shape).astype(np.float32),
        tint[index[rows, best]].reshape(shape).astype(np.float32),
    )


@lru_cache(maxsize=1)
def grain() -> NDArray[np.int8]:
    """Sensor noise in 1/16 standard deviations of luminance, TILE_PX square, 3 channels.

    Two thirds of it is common to the channels and it is slightly wider than a pixel, as
    demosaicing and the camera's own compression leave it.
    """
    rng = generator(73)
    common = rng.standard_normal((TILE_PX, TILE_PX, 1), dtype=np.float32)
    own = rng.standard_normal((TILE_PX, TILE_PX, 3), dtype=np.float32)
    noise = scipy.ndimage.gaussian_filter(0.8 * common + 0.6 * own, (0.55, 0.55, 0), mode="wrap")
    luminance = cv2.cvtColor(noise, cv2.COLOR_BGR2GRAY)
    levels = np.clip(np.rint(noise * (16 / luminance.std())), -127, 127)
    return np.asarray(levels, np.int8)


def sample(tile: Field, u: Field, v: Field) -> Field:
    """The tile at texel coordinates (u, v), arrays of one shape; bilinear, periodic."""
    reach = max(abs(float(edge)) for axis in (u, v) for edge in (axis.min(), axis.max()))
    if reach > 30_000:  # cv2.remap counts whole texels in 16 bits
        size = np.float32(tile.shape[0])
        u, v = np.mod(u, size), np.mod(v, size)
    found = cv2.remap(tile, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(found, np.float32)
