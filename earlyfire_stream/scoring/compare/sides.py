"""Who is compared: a side is one run, or the runs of one setting over several seeds."""

from __future__ import annotations

__all__ = ["Side", "by_digest", "label"]

from dataclasses import dataclass

from earlyfire_stream.records import RunLog


@dataclass(frozen=True, slots=True)
class Side:
    """One setting: a run, or its runs over several seeds. `names` say where each log came from."""

    names: tuple[str, ...]
    logs: tuple[RunLog, ...]

    def __post_init__(self) -> None:
        if not self.logs or len(self.logs) != len(self.names):
            raise ValueError("a side has one name for each of its runs, and at least one run")


def label(place: int) -> str:
    """A, B, … Z, then #27."""
    return chr(ord("A") + place) if place < 26 else f"#{place + 1}"


def by_digest(side: Side) -> dict[str, RunLog]:
    return {str(log.run.get("digest", "")): log for log in side.logs}
