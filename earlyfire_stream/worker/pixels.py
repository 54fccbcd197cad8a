"""Pictures as the vision tower reads them: patches of bytes, and how bytes become numbers.

The official processor turns bytes into floats first and cuts them into patches then, eight times
as many bytes to move and every still picture twice (a patch spans two frames). Here bytes are cut
(2 ms for 1280 x 720), and normalised beside the model: an affine map per colour, the second frame
of a still picture a mere view until the last moment. The numbers are the processor's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from earlyfire_stream.errors import UsageError
from earlyfire_stream.tokens import smart_resize
from earlyfire_stream.worker.ask import Pixels

__all__ = ["PatchRules", "Patches", "normalised"]


@dataclass(frozen=True, slots=True)
class PatchRules:
    """The checkpoint's preprocessor_config.json, as far as it matters here."""

    patch: int
    merge: int
    temporal: int
    mean: tuple[float, ...]
    """RGB, of values from 0 to 1."""
    std: tuple[float, ...]
    min_tokens: int
    max_tokens: int

    def __post_init__(self) -> None:
        if min(self.patch, self.merge, self.temporal, self.min_tokens) < 1:
            raise ValueError("patch, merge and temporal sizes must be at least 1")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std must hold three numbers, std above 0")
        if self.max_tokens < self.min_tokens:
            raise ValueError(f"no token range: {self.min_tokens} to {self.max_tokens}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], min_tokens: int, max_tokens: int) -> PatchRules:
        """`config` as the file holds it, old keys (min_pixels) or new (size); the token range is
        the wanted one, clipped to the checkpoint's. ValueError, TypeError or KeyError if it is no
        such file."""
        patch, merge = int(config["patch_size"]), int(config["merge_size"])
        size = config.get("size") or {}
        area = (patch * merge) ** 2
        least = int(config.get("min_pixels") or size.get("shortest_edge") or 56 * 56)
        most = int(config.get("max_pixels") or size.get("longest_edge") or 16384 * 784)
        least_tokens = max(min_tokens, -(-least // area))
        return cls(
            patch,
            merge,
            int(config.get("temporal_patch_size", 2)),
            tuple(float(v) for v in config["image_mean"]),
            tuple(float(v) for v in config["image_std"]),
            least_tokens,
            max(least_tokens, min(max_tokens, most // area)),
        )

    @property
    def factor(self) -> int:
        """Pixels along one side of a visual token."""
        return self.patch * self.merge

    def fitted(self, pixels: Pixels) -> Pixels:
        """In a size the model takes: unchanged where the client saw to it. UsageError if too
        long."""
        height, width = pixels.shape[:2]
        area = self.factor * self.factor
        try:
            to_height, to_width = smart_resize(
                height, width, self.min_tokens * area, self.max_tokens * area, self.factor
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        if (to_height, to_width) == (height, width):
            return pixels
        resized = cv2.resize(pixels, (to_width, to_height), interpolation=cv2.INTER_CUBIC)
        return np.asarray(resized, dtype=np.uint8)

    def cut(self, frames: Sequence[Pixels]) -> Patches:
        """The patches of a picture (one frame) or a clip. An odd last frame of a clip stands for
        itself and its missing neighbour; so does a picture."""
        fitted = [self.fitted(frame) for frame in frames]
        height, width = fitted[0].shape[:2]
        rows, columns = height // self.factor, width // self.factor
        if len(fitted) == 1:
            pairs = [fitted]
        else:
            while len(fitted) % self.temporal:
                fitted.append(fitted[-1])
            pairs = [fitted[k : k + self.temporal] for k in range(0, len(fitted), self.temporal)]
        p, m = self.patch, self.merge
        cut = np.empty((len(pairs), rows, columns, m, m, 3, len(pairs[0]), p, p), np.uint8)
        for k, pair in enumerate(pairs):
            for t, frame in enumerate(pair):
                for colour in range(3):
                    plane = frame[..., 2 - colour].reshape(rows, m, p, columns, m, p)
                    cut[k, ..., colour, t, :, :] = plane.transpose(0, 3, 1, 4, 2, 5)
        return Patches(
            cut.reshape(-1, 3, len(pairs[0]), p, p), (len(pairs), rows * m, columns * m), self
        )


@dataclass(frozen=True, slots=True)
class Patches:
    """One picture or clip, cut."""

    values: npt.NDArray[np.uint8]
    """Patches x colour (RGB) x frames (1 or `temporal`) x patch x patch, merged ones together."""
    grid: tuple[int, int, int]
    """Temporal, vertical and horizontal number of patches."""
    rules: PatchRules

    @property
    def tokens(self) -> int:
        t, h, w = self.grid
        return t * h * w // self.rules.merge**2


def normalised(
    cut: Sequence[Patches], device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, grids) of several pictures as the model's `pixel_values` and `image_grid_thw`."""
    rules = cut[0].rules
    per_patch = 3 * rules.temporal * rules.patch**2
    # (v / 255 - mean) / std, as one product and one sum
    scale = torch.tensor([1 / (255 * s) for s in rules.std], device=device).view(1, 3, 1, 1, 1)
    shift = torch.tensor(
        [-m / s for m, s in zip(rules.mean, rules.std, strict=True)], device=device
    ).view(1, 3, 1, 1, 1)
    values = []
    for one in cut:
        numbers = torch.from_numpy(one.values).to(device).to(torch.float32)
        numbers = torch.addcmul(shift, numbers, scale).to(dtype)
        values.append(numbers.expand(-1, -1, rules.temporal, -1, -1).reshape(-1, per_patch))
    grids = torch.tensor([one.grid for one in cut], device=device)
    return values[0] if len(values) == 1 else torch.cat(values), grids
