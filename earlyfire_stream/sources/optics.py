"""From pixels to the wire's JPEG: the camera's perturbations, encoding, and the label that fits."""

from __future__ import annotations

__all__ = ["Optics", "encode"]

from dataclasses import dataclass

import cv2

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.models import Perturb
from earlyfire_stream.sources.base import Image, Label
from earlyfire_stream.sources.perturb import crop_window, map_box, perturb, result_size, varies
from earlyfire_stream.verdict import Truth


def encode(image: Image, quality: int) -> bytes:
    """Baseline JPEG, 4:2:0, without metadata; the same bytes for the same pixels."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise SourceError(f"an image of {image.shape[1]}x{image.shape[0]} cannot become a JPEG")
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Optics:
    """One camera's way of seeing. `quality` is used unless the perturbations name one."""

    settings: Perturb
    seed: int
    quality: int = 90

    @property
    def untouched(self) -> bool:
        """Nothing is asked: a JPEG may pass as it is."""
        return self.settings == Perturb()

    @property
    def steady(self) -> bool:
        """The same pixels give the same JPEG at every instant."""
        return not varies(self.settings)

    def develop(self, image: Image, at: float) -> bytes:
        """The JPEG of `image` as seen at scenario instant `at`; SourceError if it is too small."""
        quality = self.settings.quality or self.quality
        if self.untouched:
            return encode(image, quality)
        self.check_size((image.shape[1], image.shape[0]))
        return encode(perturb(image, self.settings, self.seed, at), quality)

    def see(self, label: Label, at: float, size: tuple[int, int]) -> Label:
        """`label` of a frame of `size` (width, height) as it is after `develop`.

        A fire whose every box is cut away is not to be seen any more.
        """
        if not label.truth or (self.settings.shake_px == 0 and self.settings.crop is None):
            return label
        seen: list[Truth] = []
        for truth in label.truth:
            if truth.box is None:
                seen.append(truth)
            elif box := map_box(truth.box, self.settings, self.seed, at, size):
                seen.append(Truth(truth.fire, box))
        return Label(bool(seen), tuple(seen), label.boxed or not seen)

    def check_size(self, size: tuple[int, int]) -> None:
        """SourceError if a frame of `size` (width, height) would have to be enlarged."""
        settings = self.settings
        if settings.height is None:
            return
        if settings.crop is not None:
            left, top, right, bottom = crop_window(settings.crop, size)
            size = right - left, bottom - top
        try:
            result_size(size, settings.height)
        except ValueError as why:
            raise SourceError(
                f"{why}; set perturb.height to {size[1]} or less, or leave it out"
            ) from None
