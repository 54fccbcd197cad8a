"""What deploy/SCALING.md says of memory is what the program is built with."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from earlyfire_stream.mailbox import MAX_BYTES
from earlyfire_stream.records import HELD_BYTES
from earlyfire_stream.reel import AheadReel
from earlyfire_stream.sampling import ChangeDetector
from earlyfire_stream.scenario.models import Engine
from earlyfire_stream.transport import mqtt
from earlyfire_stream.transport.base import DEFAULT_LIMITS
from earlyfire_stream.transport.network import NetworkLink

TEXT = (Path(__file__).parents[1] / "deploy" / "SCALING.md").read_text()


def told(row: str) -> list[float]:
    """The numbers of the table's row that begins so, MB as bytes."""
    (line,) = [line for line in TEXT.splitlines() if line.startswith(f"| {row}")]
    found = re.findall(r"([\d,.]*\d) ?(MB|kB)?", line.split("|")[2])
    scale = {"MB": 1e6, "kB": 1e3, "": 1.0}
    return [float(number.replace(",", "")) * scale[unit] for number, unit in found]


def default(of: Any, name: str) -> float:
    return float(inspect.signature(of).parameters[name].default)


def test_the_bounds_are_those_of_the_program() -> None:
    assert told("frames received") == [DEFAULT_LIMITS.bytes, DEFAULT_LIMITS.frames]
    assert told("frames waiting for a look") == [MAX_BYTES, Engine().mailbox]
    assert told("pictures made ahead") == [default(AheadReel, "buffer_bytes")]
    assert told("frames held back") == [default(NetworkLink, "max_pending_bytes")]
    assert told("lines of a log") == [HELD_BYTES]
    assert told("verdicts and alarms") == [mqtt._LETTERS]


def test_a_camera_s_own_state_takes_what_is_told() -> None:
    detector = ChangeDetector()
    arrays = [getattr(detector, f"_{name}") for name in ("background", "usual", "before")]
    (stated,) = told("of each camera")
    assert abs(sum(array.nbytes for array in arrays) - stated) < 500
