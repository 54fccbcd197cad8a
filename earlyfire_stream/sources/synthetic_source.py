"""A synthetic scene as a camera: rendered at the instant that is asked for, truth included."""

from __future__ import annotations

__all__ = ["SyntheticCamera", "native_size"]

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.models import Camera, SyntheticSource
from earlyfire_stream.sources.base import UNKNOWN, Label, Picture, seed_for
from earlyfire_stream.sources.optics import Optics
from earlyfire_stream.sources.synthetic import PlumeEvent, SyntheticScene
from earlyfire_stream.verdict import Truth, burns

_MAX_SIDE_PX = 8192
"""8K: beyond it one frame takes seconds to render."""


class SyntheticCamera:
    """Draws pictures; its seed is the source's own, else drawn from the camera's.

    `perturb.height` asks for a native rendering of that height (nothing is enlarged or scaled
    down), a `crop` taken into account: a crop of half the height renders twice as high.
    """

    native_times = None
    cadence_s = None
    ends_at = None

    def __init__(self, camera: Camera, optics: Optics) -> None:
        source = camera.source
        assert isinstance(source, SyntheticSource)
        self.warnings: list[str] = []
        self._camera = camera
        self._optics = replace(optics, quality=source.quality)
        self._size = native_size(source.size, optics)
        self._seed = source.seed if source.seed is not None else seed_for(optics.seed, "scene")

    @cached_property
    def _scene(self) -> SyntheticScene:
        """Made when something is first to be seen: a landscape of 3840 x 2160 takes seconds, and
        pictures that are on a shelf, or blank, need none."""
        source = self._camera.source
        assert isinstance(source, SyntheticSource)
        plumes = [PlumeEvent(f.id, f.onset, f.end, f.plume) for f in self._camera.fires]
        width, height = self._size
        return SyntheticScene(source.scene, plumes, width, height, self._seed)

    def pictures(self, times: Iterable[float]) -> Iterator[Picture | None]:
        for at in times:
            rendered = self._scene.render(at)
            jpeg = self._optics.develop(rendered.image, at)
            yield Picture(at, jpeg, self._label(rendered.truth, at))

    def label(self, at: float) -> Label:
        return self._label(self._scene.truth(at) if self._camera.fires else (), at)

    def close(self) -> None:
        """Nothing is held open."""

    def _label(self, truth: tuple[Truth, ...], at: float) -> Label:
        """Boxes from the rendered opacity. Burns a fire that is not to be seen yet, nobody knows:
        by the scenario there is smoke, in the picture there is none.
        """
        if not self._camera.truth:
            return UNKNOWN
        named = {t.fire for t in truth}
        burning = tuple(
            Truth(f.id) for f in self._camera.fires if f.id not in named and burns(f, at)
        )
        if burning and not truth:
            return UNKNOWN
        label = Label(bool(truth), (*truth, *burning), boxed=not burning)
        return self._optics.see(label, at, self._size)


def native_size(size: tuple[int, int], optics: Optics) -> tuple[int, int]:
    """(width, height) to render so that the perturbed picture has the height that is asked for."""
    height = optics.settings.height
    if height is None:
        return size
    crop = optics.settings.crop
    full = height if crop is None else -(-height // crop[3])
    width = round(size[0] * full / size[1])
    if max(width, full) > _MAX_SIDE_PX:
        raise SourceError(
            f"perturb.height {height} with this crop needs a rendering of {width}x{full:g}; "
            "ask for less height or crop less"
        )
    return width, int(full)
