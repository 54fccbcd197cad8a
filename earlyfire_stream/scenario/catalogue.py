"""The scenarios that come with the package, and starter files for new ones."""

from __future__ import annotations

__all__ = ["TEMPLATES", "Entry", "find", "init", "listed", "write_new"]

import difflib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from earlyfire_stream.errors import ScenarioError, UsageError
from earlyfire_stream.scenario import fleet
from earlyfire_stream.scenario.load import load

_PACKAGE = Path(__file__).resolve().parent.parent
_FOLDERS = (_PACKAGE / "scenarios", _PACKAGE.parent / "scenarios")
"""In a wheel inside the package, in a checkout beside it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One shipped scenario. `fires` counts distinct fire ids."""

    name: str
    path: Path
    description: str
    cameras: int
    fires: int
    duration_s: float | None


def listed() -> tuple[Entry, ...]:
    """Every shipped scenario, by name. ScenarioError if one is broken (a broken install)."""
    return tuple(_entry(path) for _, path in sorted(_shipped().items()))


def find(name_or_path: str | Path) -> Path:
    """The file of a shipped scenario's name, or of a path. UsageError if there is neither."""
    path = Path(name_or_path)
    if os.path.isfile(path):
        return path
    shipped = _shipped()
    if found := shipped.get(str(name_or_path)):
        return found
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.parent.name == "scenarios" and (found := shipped.get(path.stem)):
            return found
        if not path.is_dir():
            raise UsageError(f"{path}: there is no such scenario file")
    if path.is_dir():
        raise UsageError(f"{path}: a folder; name the scenario file in it")
    close = difflib.get_close_matches(str(name_or_path), list(shipped), 1)
    hint = f"did you mean {close[0]}?" if close else f"shipped are {', '.join(sorted(shipped))}"
    raise UsageError(f"{name_or_path}: there is no such scenario ({hint})")


def init(path: str | Path, template: str = "small", *, force: bool = False) -> Path:
    """Write a commented starter file; its folder must exist. UsageError names the remedy."""
    path = Path(path)
    if template not in TEMPLATES:
        close = difflib.get_close_matches(template, list(TEMPLATES), 1)
        hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(TEMPLATES)}"
        raise UsageError(f"--template: {template!r} is not known ({hint})")
    return write_new(path, TEMPLATES[template], force=force)


def write_new(path: Path, text: str, *, force: bool = False) -> Path:
    """Write a file whole or not at all; its folder must exist. UsageError names the remedy."""
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; name a file in it, such as {path / 'fleet.yaml'}")
    if os.path.exists(path) and not os.path.isfile(path):  # a rename would replace even /dev/null
        raise UsageError(f"{path} is a device or a pipe; name a file")
    try:
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(draft, 0o644)
            if force:
                os.replace(draft, path)
            else:
                # unlike a rename, a link never replaces what somebody wrote in the meantime
                os.link(draft, path)
        finally:
            Path(draft).unlink(missing_ok=True)
    except FileExistsError:
        raise UsageError(f"{path} is there already; --force replaces it") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def _shipped() -> dict[str, Path]:
    for folder in _FOLDERS:
        if found := {path.stem: path for path in folder.glob("*.yaml")}:
            return found
    return {}


def _entry(path: Path) -> Entry:
    try:
        scenario = load(path).scenario
    except ScenarioError as error:
        raise UsageError(f"a shipped scenario is broken, install again: {error}") from error
    cameras = fleet.expand(scenario)
    fires = {fire.id for camera in cameras for fire in camera.fires}
    return Entry(path.stem, path, scenario.description, len(cameras), len(fires), scenario.duration)


_SMALL = """\
# A small synthetic fleet: no pictures, no model and no broker are needed.
#   earlyfire scenario validate THIS_FILE
#   earlyfire run THIS_FILE
earlyfire: 1                 # version of this format
name: my-fleet
description: Two synthetic cameras, one fire.
seed: 1                      # the same seed gives the same pictures, to the byte
duration: 60s                # durations: 250ms, 90s, 10m, 2h, or plain seconds

cameras:
  - id: north-ridge
    cadence: 1s              # seconds between two frames
    source:
      kind: synthetic
      size: [1280, 720]
      scene: {terrain: hills, time_of_day: day, haze: 0.2}
    fires:
      - id: canyon           # two cameras that see the same fire use the same id
        onset: 20s           # when its smoke first becomes visible
        plume: {size: large, x: 0.6}

  - id: south-ridge          # no fire: whatever it raises is a false alarm
    cadence: 1s
    source:
      kind: synthetic
      scene: {terrain: valley, fog: 0.6}
    # outages:               # the camera is off in this time
    #   - {start: 30s, end: 40s}
    # perturb: {shake_px: 2, haze: 0.3, rain: 0.2}
    # network: {delay: 200ms, loss: 0.02}

sampling:
  policy: adaptive           # fixed, adaptive or every
  idle: 5s                   # between two looks at a quiet camera, at least 3s
  suspect: 1s                # between two looks while something moves

alarm: {k: 1, n: 1, within: 300s}

# faults:                    # what goes wrong on purpose: recorded, drawn and scored
#   - {kind: camera-frozen, start: 30s, end: 40s, cameras: [north-*]}
#   - {kind: network-loss, start: 40s, end: 50s, share: 0.3}   # none named: every camera
#   - {kind: engine-hang, start: 50s, end: 55s}

engine:
  name: baseline             # baseline, ollama, hf, openai, simulated, recorded
"""

_VIDEO = """\
# A fire in a video file. Paths start at this file's own folder.
earlyfire: 1
name: my-video
description: One recorded fire, one quiet camera.
# duration: 10m              # without it the run ends with the longest video

cameras:
  - id: fire-cam
    cadence: 1s              # leave it out to play every frame of the file
    source:
      kind: video
      path: clips/fire.mp4   # <- your file
      # start: 30s           # where in the file the camera starts
    fires:
      - id: fire
        onset: 42s           # seconds from the camera's start to the first visible smoke
        # end: 5m
        # boxes:             # [x_center, y_center, width, height], fractions of the frame
        #   - {at: 42s, box: [0.61, 0.48, 0.02, 0.03]}
        #   - {at: 90s, box: [0.60, 0.42, 0.10, 0.16]}

  - id: quiet-cam
    cadence: 1s
    source: {kind: video, path: clips/quiet.mp4, loop: true}   # <- your file

engine: {name: baseline}
"""

_FIGLIB = """\
# A FIgLib sequence: 81 images 60 s apart, from 40 min before ignition to 40 min after.
# `earlyfire import figlib FOLDER` writes such a file with the true onset.
earlyfire: 1
name: my-figlib
description: One FIgLib sequence, replayed 60 times as fast.
speed: 60                    # 80 minutes in 80 seconds

cameras:
  - id: sequence
    source:
      kind: images
      path: 20160604_FIRE_rm-n-mobo-c   # <- your folder
      epoch_names: true      # 1465063200_-02400.jpg
    fires:
      - id: 20160604_FIRE
        onset: 40m           # seconds from the first image

sampling: {policy: every}
engine:
  name: baseline
  deadline: 60s              # wall time
"""

_RTSP = """\
# A live camera. Nobody knows what is in it, so alarms are `unknown` and nothing is scored.
# The password stays in the environment: export CAM_USER=… CAM_PASSWORD=…
earlyfire: 1
name: my-camera
description: One live camera.
duration: 1h

cameras:
  - id: mast
    cadence: 5s
    source:
      kind: stream
      url: rtsp://${CAM_USER}:${CAM_PASSWORD}@192.0.2.10:554/stream1   # <- your camera
    # ignore:                # a chimney: boxes whose centre lies inside are dropped
    #   - [[0.10, 0.40], [0.20, 0.40], [0.20, 0.60], [0.10, 0.60]]

alarm: {k: 2, n: 3, within: 2m}
engine: {name: baseline}
"""

TEMPLATES = {"small": _SMALL, "video": _VIDEO, "figlib": _FIGLIB, "rtsp": _RTSP}
