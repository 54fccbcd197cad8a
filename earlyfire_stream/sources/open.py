"""From a scenario's camera to its open source."""

from __future__ import annotations

__all__ = ["open_source"]

from pathlib import Path

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources.base import Source, seed_for
from earlyfire_stream.sources.optics import Optics


def open_source(camera: Camera, base: Path, seed: int, duration: float | None = None) -> Source:
    """Open what `camera` names, in the process that will play it (nothing here is picklable).

    Relative paths start at `base`, the scenario file's folder. `seed` is the scenario's; what is
    drawn depends on it and the camera's id. `duration` (scenario seconds) bounds the times of a
    looped video. SourceError, with the remedy, if there is nothing to play.
    """
    optics = Optics(camera.perturb, seed_for(seed, camera.id))
    match camera.source.kind:
        case "images":
            from earlyfire_stream.sources.images import open_images

            return open_images(camera, base, optics)
        case "stills":
            from earlyfire_stream.sources.images import open_stills

            return open_stills(camera, base, optics)
        case "video":
            from earlyfire_stream.sources.video import open_video

            return open_video(camera, base, optics, duration)
        case "synthetic":
            from earlyfire_stream.sources.synthetic_source import SyntheticCamera

            return SyntheticCamera(camera, optics)
        case "stream":
            raise SourceError(
                f"camera {camera.id} is live and cannot be played ahead of time; use open_live"
            )
