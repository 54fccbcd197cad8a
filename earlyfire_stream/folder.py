"""The run folder: made whole, told what was played, with the frames that raised alarms."""

from __future__ import annotations

__all__ = ["KeyFrames", "RunFile", "free_name", "held"]

import errno
import fcntl
import itertools
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from earlyfire_stream import __version__
from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import prompt
from earlyfire_stream.engines.base import Traits
from earlyfire_stream.errors import RunFolderError, UsageError
from earlyfire_stream.records import RUN_FILE, AlarmRecord, CameraPlan, key_frame, write_json
from earlyfire_stream.scenario.fleet import planned_faults
from earlyfire_stream.scenario.load import Loaded, digest, resolved

KEY_FRAMES = 200
"""Alarm frames that a run folder keeps."""
MISSES_A_VIEW = 2
"""Of a fire and a camera: the first frames with smoke in which none was seen."""
MISSED_FRAMES = 100
"""Of them, in all."""


def free_name(out: Path, scenario: str, who: str) -> str:
    """What the run's folder will be called. RunFolderError if none could be made there."""
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "may not be written to" if place.is_dir() else "is no folder"
        raise RunFolderError(f"{place} {why}; choose another place with --out")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return _numbered(out, f"{stamp}-{scenario}-{who}")


def _numbered(out: Path, stem: str) -> str:
    names = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
    return next(name for name in names if not (out / name).exists())


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """While a `what` (soak, bench) is played in its folder, which is there.

    UsageError where another process plays it; one that was killed does not.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"--resume {folder}: this {what} is running; stop it first, or let it end"
            ) from None
        yield
    finally:
        os.close(opened)


class RunFile:
    """Writes run.json: at the start, so that a killed run can be scored, and again at the end."""

    def __init__(
        self,
        folder: Path,
        run: str,
        loaded: Loaded,
        traits: Traits | None,
        clock: Clock,
        plans: Sequence[CameraPlan],
        broker: str,
        part: Mapping[str, Any] | None = None,
    ) -> None:
        """`part`: which part of which fleet; see `merged`."""
        scenario = loaded.scenario
        settings = resolved(scenario)
        self._folder = folder
        self._clock = clock
        self._data: dict[str, Any] = {
            "schema": 1,
            "run": run,
            "scenario": scenario.name,
            "scenario_file": loaded.file,
            "scenario_text": loaded.text,
            "digest": digest(loaded.scenario),
            "seed": scenario.seed,
            "clock": scenario.clock,
            "duration_s": scenario.duration,
            "engine": None if traits is None else _told(traits, scenario.engine.prompt),
            "broker": broker,
            "settings": {
                part: settings[part] for part in ("sampling", "budget", "alarm", "engine")
            },
            "cameras": plans,
            "faults": planned_faults(scenario),
            "part": part,
            "versions": _versions(),
            "host": _host(),
            "git": _git_state(),
        }

    def new_folder(self) -> Path:
        """Make the folder, run.json in it from its first moment on."""
        out, stem = self._folder.parent, self._folder.name
        try:
            out.mkdir(parents=True, exist_ok=True)
            draft = out / f".{stem}-{secrets.token_hex(4)}"
            draft.mkdir()
            try:
                self._write(draft, complete=False)
                self._folder = _renamed(draft, out, stem)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        except OSError as why:
            raise RunFolderError(
                f"{self._folder}: cannot be made: {why.strerror}; choose another place with --out"
            ) from why
        return self._folder

    def __call__(
        self,
        *,
        complete: bool,
        interrupted: bool = False,
        played_s: float | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        self._write(self._folder, complete, interrupted, played_s, warnings)

    def _write(
        self,
        folder: Path,
        complete: bool,
        interrupted: bool = False,
        played_s: float | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        write_json(
            folder / RUN_FILE,
            {
                **self._data,
                "speed": self._clock.speed,
                "start_ns": self._clock.start_ns,
                "complete": complete,
                "interrupted": interrupted,
                "played_s": played_s,
                "warnings": warnings,
            },
        )


def _renamed(draft: Path, out: Path, stem: str) -> Path:
    """Where the folder stands now; another run of the same second may have taken the name."""
    while True:
        folder = out / _numbered(out, stem)
        try:
            return draft.rename(folder)
        except OSError as why:
            if why.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _told(traits: Traits, asked: str) -> dict[str, Any]:
    """What was asked, and what the `recorded` engine must know to give the answers again."""
    wording = prompt(asked, traits.coord_space)
    return {
        "name": traits.name,
        "model": traits.model,
        "prompt": {"name": wording.name, "digest": wording.digest},
        "cold_start_s": traits.cold_start_s,
        "reference_s": traits.reference_s,
        "coord_space": wording.space,
        "resize_mode": traits.resize_mode,
        "min_tokens": traits.min_tokens,
        "max_tokens": traits.max_tokens,
        "concurrency": traits.default_concurrency,
        "max_concurrency": traits.max_concurrency,
        "clips": traits.clips,
    }


def _versions() -> dict[str, str]:
    packages = ("aiomqtt", "amqtt", "numpy", "opencv-python-headless", "pydantic", "scipy")
    return {
        "earlyfire-stream": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _host() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "implementation": sys.implementation.name,
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the code that runs, None where it is no checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--", str(here)],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed.strip())}


class KeyFrames:
    """Keeps the frame of every emitted alarm in the run folder, up to a number that it tells.

    Beside them the first frames of each view in which its fire was missed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "frames"
        self._kept = 0
        self._left = 0
        self._misses: Counter[tuple[str, str]] = Counter()

    def __call__(self, record: AlarmRecord, jpeg: bytes) -> None:
        if self._kept >= KEY_FRAMES:
            self._left += 1
            return
        self._kept += 1
        self._write(key_frame(record.alarm.camera, record.alarm.seqs[-1], "alarm"), jpeg)

    def missed(self, fire: str, camera: str, seq: int, jpeg: bytes) -> None:
        """A frame in which that fire burns and no smoke was seen."""
        view = (fire, camera)
        if self._misses[view] < MISSES_A_VIEW and self._misses.total() < MISSED_FRAMES:
            self._misses[view] += 1
            self._write(key_frame(camera, seq, "missed"), jpeg)

    def _write(self, name: str, jpeg: bytes) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
            (self._folder / name).write_bytes(jpeg)
        except OSError as why:
            raise RunFolderError(f"{self._folder / name}: cannot be written: {why}") from why

    @property
    def warnings(self) -> list[str]:
        if not self._left:
            return []
        return [f"{self._left} more alarm frames were not kept (the folder keeps {KEY_FRAMES})"]
