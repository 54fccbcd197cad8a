"""Durations as people write them: `90s`, `10m`, `2h`, `250ms`, or a plain number of seconds.

And numbers with what they count.
"""

from __future__ import annotations

__all__ = ["Duration", "Seconds", "counted", "parse_seconds"]

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SEXAGESIMAL = re.compile(r"\d{1,4}(:\d{1,2}){1,2}", re.ASCII)
"""`1:30`, which YAML 1.1 reads as the number 90."""
_FORM = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", re.ASCII)
_DESCRIPTION = "seconds, or a duration such as 250ms, 90s, 10m, 2h"
_DIGITS = r"\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*$"
_SIGNED = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*[+-]?" + _DIGITS}],
    "description": _DESCRIPTION,
}
_UNSIGNED = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*\+?" + _DIGITS},
    ],
    "description": _DESCRIPTION,
}


def counted(n: int, what: str) -> str:
    """`1 camera`, `2,000 cameras`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def parse_seconds(value: Any) -> float:
    """Seconds of `90s`, `10m`, `1.5` …; ValueError with the accepted forms otherwise."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and (found := _FORM.fullmatch(value)):
        return float(found[1]) * _UNITS[found[2] or "s"]
    if isinstance(value, str) and (found := _SEXAGESIMAL.fullmatch(value.strip())):
        seconds = 0
        for part in found[0].split(":"):
            seconds = seconds * 60 + int(part)
        raise ValueError(f"{value!r:.60} is no duration; write {seconds}s")
    raise ValueError(f"{value!r:.60} is no duration; write 250ms, 90s, 10m or 2h")


Seconds = Annotated[float, BeforeValidator(parse_seconds), WithJsonSchema(_SIGNED)]
"""An instant or signed offset in seconds; must be finite."""
Duration = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0), WithJsonSchema(_UNSIGNED)]
"""A length of time in seconds, never negative."""
