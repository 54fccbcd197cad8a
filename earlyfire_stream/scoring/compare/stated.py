"""Which settings differ.

Whatever a run folder says of itself is a stranger's text: no control characters, and cut short.
"""

from __future__ import annotations

__all__ = ["STATED", "UNSTATED", "legible", "settings_unlike"]

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from earlyfire_stream.records import RunLog

STATED = ("settings", "engine", "clock", "speed", "host", "broker")
UNSTATED = ("engine.cold_start_s",)
"""Measured, not set."""


def settings_unlike(first: RunLog, other: RunLog) -> list[tuple[str, str, str]]:
    """(place, the first's, the other's) of every setting that differs."""
    ours, theirs = _settings(first), _settings(other)
    keys = dict.fromkeys((*ours, *theirs))
    return [
        (key, ours.get(key, "unset"), theirs.get(key, "unset"))
        for key in keys
        if ours.get(key) != theirs.get(key)
    ]


def _settings(log: RunLog) -> dict[str, str]:
    told = {part: log.run.get(part) for part in STATED}
    settings = told.pop("settings", None)
    # what was asked for stands without the word `settings`, as on the command line
    whole = {**(settings if isinstance(settings, dict) else {})}
    for part, value in told.items():
        whole[f"used {part}" if part in whole else part] = value
    whole["faults"] = {
        legible(f.id): f"{f.kind} from {f.start:g} s to {f.end:g} s" for f in log.faults
    }
    versions = log.run.get("versions")
    if isinstance(versions, dict):
        whole["versions"] = {"earlyfire-stream": versions.get("earlyfire-stream")}
    flat = dict(_flat(whole))
    return {k: v for k, v in flat.items() if k.removeprefix("used ") not in UNSTATED}


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        place = f"{above}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{place}.")
        elif value is not None:
            yield place, legible(value if isinstance(value, str) else orjson.dumps(value).decode())


def legible(text: str) -> str:
    """A run folder may be a stranger's: no control characters, and not for ever."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= 60 else f"{text[:59]}…"
