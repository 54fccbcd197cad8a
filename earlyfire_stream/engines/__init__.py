"""Engines by name. Each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines.base import Engine, unknown
from earlyfire_stream.scenario import models

__all__ = ["create", "names"]

Factory: TypeAlias = Callable[[models.Engine, Clock, int, Path], Engine]


def _baseline(settings: models.Engine, clock: Clock, seed: int, base: Path) -> Engine:
    from earlyfire_stream.engines.baseline import BaselineEngine

    return BaselineEngine(settings, clock)


def _hf(settings: models.Engine, clock: Clock, seed: int, base: Path) -> Engine:
    from earlyfire_stream.engines.hf import HfEngine

    return HfEngine(settings, clock, seed)


def _ollama(settings: models.Engine, clock: Clock, seed: int, base: Path) -> Engine:
    from earlyfire_stream.engines.ollama import OllamaEngine

    return OllamaEngine(settings, clock, seed)


def _openai(settings: models.Engine, clock: Clock, seed: int, base: Path) -> Engine:
    from earlyfire_stream.engines.openai import OpenAIEngine

    return OpenAIEngine(settings, clock, seed)


def _recorded(settings: models.Engine, clock: Clock, seed: int, base: Path) -> Engine:
    from earlyfire_stream.engines.recorded import RecordedEngine

    return RecordedEngine(settings, clock, base)


def _simulated(settings: models.Engine, clock: Clock, seed: int, base: Path) -> Engine:
    from earlyfire_stream.engines.simulated import SimulatedEngine

    return SimulatedEngine(settings, clock, seed)


ENGINES: dict[str, Factory] = {
    "baseline": _baseline,
    "hf": _hf,
    "ollama": _ollama,
    "openai": _openai,
    "recorded": _recorded,
    "simulated": _simulated,
}


def names() -> list[str]:
    """The engines that `create` knows."""
    return sorted(ENGINES)


def create(settings: models.Engine, clock: Clock, seed: int = 0, *, base: Path = Path()) -> Engine:
    """The engine that the settings name, not entered yet. UsageError for a name or option it lacks.

    `seed` is the scenario's: it fixes what `simulated` answers and how servers sample. `base` is
    the folder that the scenario's relative paths start from (a recording's).
    """
    factory = ENGINES.get(settings.name)
    if factory is None:
        raise unknown("engine", settings.name, ENGINES)
    return factory(settings, clock, seed, base)
