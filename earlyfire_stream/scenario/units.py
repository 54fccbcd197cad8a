"""Durations as people write them: `90s`, `10m`, `2h`, `250ms`, or a plain number of seconds."""

from __future__ import annotations

__all__ = ["Duration", "Seconds", "parse_seconds"]

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*")
_SCHEMA = {
    "anyOf": [
        {"type": "number"},
        {"type": "string", "pattern": r"^\s*[+-]?\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*$"},
    ],
    "description": "seconds, or a duration such as 250ms, 90s, 10m, 2h",
}


def parse_seconds(value: Any) -> float:
    """Seconds of `90s`, `10m`, `1.5` …; ValueError with the accepted forms otherwise."""
    if isinstance(value, bool):
        raise ValueError("a duration is needed, such as 90s or 10m")
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str) and (found := _FORM.fullmatch(value)):
        return float(found[1]) * _UNITS[found[2] or "s"]
    raise ValueError(f"{value!r:.60} is no duration; write 250ms, 90s, 10m or 2h")


Seconds = Annotated[float, BeforeValidator(parse_seconds), WithJsonSchema(_SCHEMA)]
"""An instant or signed offset in seconds; must be finite."""
Duration = Annotated[Seconds, Field(ge=0)]
"""A length of time in seconds, never negative."""
