"""Whose fault it is.

    EarlyfireError
    ├── UsageError              the caller's: a bad option, scenario, file or setting; exit code 2
    │   ├── ScenarioError       a scenario file, with every problem found in it
    │   └── SourceError         a video, image or folder that cannot be played
    ├── RunFolderError          a run folder that cannot be written or read; exit code 2
    ├── TransportError          the broker's: unreachable, refused, wrong password; exit code 2
    ├── Interrupted             Ctrl-C before anything was played; exit code 130
    └── EngineError             the engine's answer to one request: a fate, never a crash
        ├── EngineUnavailable   nobody answers there
        ├── EngineOverloaded    it says that it is busy (503, queue full)
        ├── EngineTimeout       it did not answer in time
        ├── EngineRejected      it refuses this request (400, 404): sending it again is useless
        └── EngineBroken        it answered with something that is no answer

A model's reply that cannot be read is no error: it is `bad_json`, a result to score.
"""

from __future__ import annotations

__all__ = [
    "EarlyfireError",
    "EngineBroken",
    "EngineError",
    "EngineOverloaded",
    "EngineRejected",
    "EngineTimeout",
    "EngineUnavailable",
    "Interrupted",
    "Problem",
    "RunFolderError",
    "ScenarioError",
    "SourceError",
    "TransportError",
    "UsageError",
]

from dataclasses import dataclass


class EarlyfireError(Exception):
    """The root; its text is one message for a person, with the remedy where there is one."""


class UsageError(EarlyfireError):
    """The caller asked for something that cannot be; nothing was started."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a scenario file. `line` counts from 1; 0 where no line can be named."""

    line: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        where = f"{self.path}: " if self.path else ""
        return f"{place}{where}{self.message}" + (f" ({self.hint})" if self.hint else "")


class ScenarioError(UsageError):
    """Every problem of one scenario file at once."""

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        self.file = file
        self.problems = problems
        count = len(problems)
        head = f"{file}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  {p}" for p in problems)]))


class SourceError(UsageError):
    """A camera's pixels cannot be had; names the file and what to do."""


class RunFolderError(EarlyfireError):
    """The run folder cannot be written (disk full, no permission) or read."""


class TransportError(EarlyfireError):
    """The broker cannot be used; names its address (never the password) and what to do."""


class Interrupted(EarlyfireError):
    """Stopped by whoever started it, before anything was played; later it is a partial result."""


class EngineError(EarlyfireError):
    """One request failed on the engine's side; `kind` becomes the frame's fate reason."""

    kind = "error"


class EngineUnavailable(EngineError):
    kind = "unavailable"


class EngineOverloaded(EngineError):
    kind = "overloaded"


class EngineTimeout(EngineError):
    kind = "timeout"


class EngineRejected(EngineError):
    kind = "rejected"


class EngineBroken(EngineError):
    kind = "broken_answer"
