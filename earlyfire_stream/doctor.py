"""What is there, what is missing, and the command that mends it."""

from __future__ import annotations

__all__ = ["examine"]

import importlib.util
import shutil
from pathlib import Path
from typing import Literal

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines import create, names
from earlyfire_stream.engines.base import Check, unknown
from earlyfire_stream.errors import EarlyfireError
from earlyfire_stream.scenario.models import Engine
from earlyfire_stream.transport.address import BrokerAddress, mqtt_version
from earlyfire_stream.transport.broker import BrokerKind, embedded_broker, find_mosquitto

LEVELS = {4: "MQTT 3.1.1", 5: "MQTT 5"}
FREE_BYTES = 1_000_000_000
"""Below this much free disk a long run may not end well."""


async def examine(
    *,
    engine: str | None = None,
    model: str | None = None,
    url: str | None = None,
    broker: BrokerKind | Literal["memory"] | BrokerAddress = "auto",
) -> list[Check]:
    """Check disk, broker and engines (None: all of them). Never raises for what it finds."""
    checks = [_disk(Path.cwd()), _mosquitto(), await _broker(broker)]
    for name in [engine] if engine is not None else names():
        if name not in names():
            raise unknown("engine", name, names())
        settings = Engine.model_validate({"name": name, "model": model, "url": url})
        checks += await create(settings, Clock()).check()
    return checks


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return Check(
        "disk for run folders",
        free >= FREE_BYTES,
        f"{free / 1e9:.1f} GB free here",
        "free some space, or choose another place with --out",
    )


def _mosquitto() -> Check:
    found = find_mosquitto()
    if found is not None:
        return Check("mosquitto", True, found)
    amqtt = importlib.util.find_spec("amqtt") is not None
    return Check(
        "mosquitto",
        amqtt,
        "not installed; amqtt stands in (MQTT 3.1.1, about a sixth of the frames a second)",
        "apt-get install mosquitto, or brew install mosquitto",
    )


async def _broker(broker: BrokerKind | Literal["memory"] | BrokerAddress) -> Check:
    if isinstance(broker, BrokerAddress):
        try:
            level = await mqtt_version(broker, 5.0)
        except EarlyfireError as why:
            return Check(f"broker {broker}", False, "cannot be used", str(why))
        return Check(f"broker {broker}", True, LEVELS[level])
    try:
        async with embedded_broker("auto" if broker == "memory" else broker) as private:
            return Check("private broker", True, f"{private.kind} starts and answers")
    except EarlyfireError as why:
        return Check("private broker", False, "does not start", str(why))
