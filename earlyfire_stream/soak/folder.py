"""The folder of a soak: what was asked, its windows as they closed, and its legs' run folders.

asked.json      what was asked, so that a soak whose harness was killed can be gone on with
windows.jsonl   a line a window and a line a leg, each on the disk before the next is begun
leg-1/ …        run folders
soak.json       what it came to
soak.html       the same to look at
"""

from __future__ import annotations

__all__ = ["RESULT_FILE", "Leg", "SoakFolder"]

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from earlyfire_stream.errors import RunFolderError, UsageError
from earlyfire_stream.records import mend_torn_line, read_run, write_json
from earlyfire_stream.soak.windows import Part, Window

SCHEMA = 1
ASKED_FILE = "asked.json"
WINDOWS_FILE = "windows.jsonl"
RESULT_FILE = "soak.json"
_ASKED = {
    *("scenario", "for_s", "ramp", "faults_every_s", "no_faults", "window_s", "slo"),
    *("memory_limit", "score_up_to", "settings", "overrides", "broker", "password_file"),
}
"""What must stand in asked.json."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One run of the harness. Wall seconds of the soak; `gap_s` of the clock on the wall."""

    number: int
    begin_s: float
    gap_s: float | None = None
    """Between the last window of the leg before, and the begin of this one; None for the first."""
    cold_start_s: float | None = None
    """That the engine took to be ready, kept apart from every latency."""
    interrupted: bool = False
    complete: bool = False


class SoakFolder:
    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self.path = path
        self.asked = asked
        """As it was written; JSON."""

    @classmethod
    def new(cls, out: Path, scenario: str, engine: str, asked: Mapping[str, Any]) -> SoakFolder:
        stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{scenario}-{engine}-soak"
        for number in itertools.count(1):
            path = out / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if not path.is_dir():
                    raise RunFolderError(f"{path}: cannot be made: a file is there") from None
                continue
            except OSError as why:
                raise RunFolderError(
                    f"{path}: cannot be made: {why.strerror}; choose another place with --out"
                ) from why
            write_json(path / ASKED_FILE, {"schema": SCHEMA, "asked": asked})
            return cls(path, asked)
        raise AssertionError("there is always another number")

    @classmethod
    def resume(cls, path: Path) -> SoakFolder:
        """The soak that was begun there. UsageError where none was."""
        file = path / ASKED_FILE
        try:
            state = orjson.loads(file.read_bytes())
            if state["schema"] != SCHEMA:
                raise UsageError(f"{file}: of another version of this command; start a new soak")
            asked = state["asked"]
            if not isinstance(asked, dict):
                raise TypeError("asked must be an object")
            if missing := _ASKED - asked.keys():
                raise LookupError(f"{', '.join(sorted(missing))} is missing")
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"--resume {path}: no soak was begun there") from None
        except (OSError, LookupError, TypeError, ValueError) as why:
            raise RunFolderError(
                f"{file}: cannot be read: {why}; start a new soak, and score what this one played "
                f"with: earlyfire score {path}/leg-1"
            ) from why
        return cls(path, asked)

    # --- what has been played ---

    def windows(self) -> list[Window]:
        """In order. A torn last line is what a killed harness was writing: it is left out."""
        return [made for made in self._made() if isinstance(made, Window)]

    def legs(self) -> list[Leg]:
        """In order, with what their run folders tell."""
        return [self._told(made) for made in self._made() if isinstance(made, Leg)]

    def played_s(self) -> float:
        """Up to the end of the last window that is known; what came after it is played again."""
        whole = [w.end_s for w in self.windows() if w.part is not Part.END]
        return max(whole, default=0.0)

    def next_leg(self) -> int:
        """One that neither a line nor a folder has: a leg may be killed between the two."""
        told = sum(isinstance(made, Leg) for made in self._made())
        numbers = itertools.count(told + 1)
        return next(n for n in numbers if not self.leg_folder(n).exists())

    def leg_folder(self, number: int) -> Path:
        return self.path / f"leg-{number}"

    def _made(self) -> list[Window | Leg]:
        file = self.path / WINDOWS_FILE
        try:
            text = file.read_bytes() if file.exists() else b""
        except OSError as why:
            raise RunFolderError(f"{file}: cannot be read: {why.strerror}") from why
        lines = [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
        made: list[Window | Leg] = []
        for number, line in enumerate(lines, 1):
            try:
                told = orjson.loads(line)
                value = told["v"]
                made.append(Leg(**value) if told["k"] == "leg" else Window.from_json(value))
            except (LookupError, TypeError, ValueError, AttributeError) as why:
                raise RunFolderError(
                    f"{file}: line {number} is damaged ({why}); take it out, or start a new soak"
                ) from why
        return made

    def _told(self, leg: Leg) -> Leg:
        try:
            run = read_run(self.leg_folder(leg.number))
        except (UsageError, RunFolderError):
            return leg  # killed before it stood
        cold = (run.get("engine") or {}).get("cold_start_s")
        return Leg(
            leg.number,
            leg.begin_s,
            leg.gap_s,
            cold,
            bool(run.get("interrupted")),
            bool(run["complete"]),
        )

    # --- writing ---

    def add_leg(self, leg: Leg) -> None:
        mend_torn_line(self.path / WINDOWS_FILE)
        value = {"number": leg.number, "begin_s": leg.begin_s, "gap_s": leg.gap_s}
        self._add("leg", value)

    def add_window(self, window: Window) -> None:
        self._add("window", window.to_json())

    def _add(self, kind: str, value: object) -> None:
        """On the disk when it returns; RunFolderError where it cannot be."""
        file = self.path / WINDOWS_FILE
        try:
            with file.open("ab") as opened:
                opened.write(orjson.dumps({"k": kind, "v": value}) + b"\n")
                opened.flush()
                os.fsync(opened.fileno())
        except OSError as why:
            raise RunFolderError(f"{file}: cannot be written: {why.strerror}") from why

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_json(self.path / RESULT_FILE, {"schema": SCHEMA, **result})
