"""What is there, what is missing, and the command that mends it."""

from __future__ import annotations

__all__ = ["examine"]

import asyncio
import importlib.util
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines import create, names
from earlyfire_stream.engines.base import Check, unknown
from earlyfire_stream.engines.machine import gpus, main_memory
from earlyfire_stream.engines.ollama import DEFAULT_MODEL as OLLAMA_MODEL
from earlyfire_stream.engines.ollama import server_url
from earlyfire_stream.errors import EarlyfireError, UsageError
from earlyfire_stream.scenario.models import Engine
from earlyfire_stream.transport.address import BrokerAddress, mqtt_version
from earlyfire_stream.transport.broker import BrokerKind, embedded_broker, find_mosquitto

LEVELS = {4: "MQTT 3.1.1", 5: "MQTT 5"}
FREE_BYTES = 1_000_000_000
"""Below this much free disk a long run may not end well."""
HAS: Mapping[str, tuple[str, ...]] = {
    "baseline": (),
    "hf": ("model", "workers"),
    "ollama": ("model", "url"),
    "openai": ("model", "url"),
    "recorded": ("recording",),
    "simulated": (),
}
"""Which of its settings an engine has."""
OLLAMA_GB = {3: 3.2, 7: 6.0, 32: 21.0, 72: 49.0}
"""What `ollama pull qwen2.5vl:7b` and so on bring, GB (4-bit GGUF)."""
ROOM_GB = 2.0
"""Beside the weights: context of 4,096 tokens and the vision tower at work."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


async def examine(
    *,
    engine: str | None = None,
    model: str | None = None,
    url: str | None = None,
    workers: Sequence[str] = (),
    recording: str | None = None,
    broker: BrokerKind | Literal["memory"] | BrokerAddress = "auto",
) -> list[Check]:
    """Check disk, broker and engines (None: all of them). Never raises for what it finds.

    Where no engine is named, each is asked with those of the settings that it has.
    """
    if engine is not None and engine not in names():
        raise unknown("engine", engine, names())
    checks = [_disk(Path.cwd()), _mosquitto(), await _broker(broker)]
    given = {"model": model, "url": url, "workers": tuple(workers), "recording": recording}
    for name in [engine] if engine is not None else names():
        known = given if engine is not None else {key: given[key] for key in HAS[name]}
        checks += await _engine(name, {key: value for key, value in known.items() if value})
    return checks


async def _engine(name: str, given: Mapping[str, object]) -> list[Check]:
    if name == "recorded" and "recording" not in given:
        found = "gives the answers of an earlier run; --recording runs/... has one looked at"
        return [Check("recorded engine", True, found)]
    try:
        settings = Engine.model_validate({"name": name, **given})
        found_there = await create(settings, Clock()).check()
    except ValidationError as why:
        raise UsageError(f"engine {name}: {why.errors()[0]['msg']}") from why
    except UsageError as why:
        return [Check(f"engine {name}", False, str(why), "give it other settings")]
    if name == "ollama":
        found_there.append(await asyncio.to_thread(_ollama_memory, settings))
    return found_there


def _ollama_memory(settings: Engine) -> Check:
    """What its models need against what this machine has: all of it, for a model that is loaded
    already takes its share. Ollama spreads a model over graphics and main memory."""
    told = ", ".join(f"{size}b {gb + ROOM_GB:.0f} GB" for size, gb in OLLAMA_GB.items())
    what = "memory for Ollama's models"
    if server_url(settings.url or os.environ.get("OLLAMA_HOST")).host not in LOOPBACK:
        return Check(what, True, f"its machine is another one; in 4 bit qwen2.5vl needs {told}")
    cards = gpus()
    graphics_gb = sum(card.total_bytes for card in cards) / 1e9
    main_gb = main_memory() / 1e9
    place = f"{graphics_gb:.0f} GB on the GPU" if cards else "no NVIDIA GPU"
    found = f"{place}, {main_gb:.0f} GB main memory; in 4 bit qwen2.5vl needs {told}"
    named = re.fullmatch(r"qwen2\.?5-?vl:(\d+)b.*", settings.model or OLLAMA_MODEL)
    size_gb = OLLAMA_GB.get(int(named[1])) if named else None
    ok = size_gb is None or graphics_gb + main_gb >= size_gb + ROOM_GB
    fitting = [size for size, gb in OLLAMA_GB.items() if graphics_gb + main_gb >= gb + ROOM_GB]
    smaller = f"ollama pull qwen2.5vl:{fitting[-1]}b, and --model qwen2.5vl:{fitting[-1]}b"
    return Check(what, ok, found, smaller if fitting else "use a machine with more memory")


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
