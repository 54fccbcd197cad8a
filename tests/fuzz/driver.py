"""Runs one target: with Hypothesis, or with atheris where that is installed."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.targets import Target
from tests.fuzz.watch import Finding, Watch

EXAMPLES = 500
"""Hypothesis remembers every example of a session: many sessions of few stay small."""
Told = Callable[[int, int], None]
"""(inputs so far, findings so far)"""


@dataclass(slots=True)
class Outcome:
    target: str
    driver: str
    inputs: int = 0
    wall_s: float = 0.0
    slowest_s: float = 0.0
    became: dict[str, int] = field(default_factory=dict)
    found: list[Finding] = field(default_factory=list)


def hypothesis(target: Target, inputs: int, first_seed: int, told: Told) -> Outcome:
    """The same inputs for the same seed."""
    began = time.monotonic()
    with target.opened() as check:
        watch = Watch(check)
        session = 0
        while watch.inputs < inputs:
            _session(target, watch, inputs, f"{first_seed}/{session}")
            session += 1
            told(watch.inputs, len(watch.found))
    return _outcome(target, "hypothesis", watch, began)


def _session(target: Target, watch: Watch, inputs: int, named: str) -> None:
    @seed(named)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(target.inputs)
    def each(several: tuple[bytes, ...]) -> None:
        for data in several:
            if watch.inputs < inputs:
                watch(data)

    each()


def _outcome(target: Target, driver: str, watch: Watch, began: float) -> Outcome:
    return Outcome(
        target.name,
        driver,
        watch.inputs,
        time.monotonic() - began,
        watch.slowest_s,
        dict(watch.became.most_common()),
        list(watch.found.values()),
    )


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def instrument() -> None:
    """Before anything of ours is imported: atheris follows the branches that an input takes."""
    import atheris

    with atheris.instrument_imports(
        include=[
            "earlyfire_stream.frames",
            "earlyfire_stream.contract",
            "earlyfire_stream.records",
            "earlyfire_stream.scenario",
            "earlyfire_stream.worker",
            "aiohttp.streams",
            "aiohttp.web_protocol",
            "aiohttp.web_request",
            "aiohttp.web_urldispatcher",
            "json_repair",
        ],
        enable_loader_override=False,
    ):
        import tests.fuzz.http
        import tests.fuzz.targets  # noqa: F401


def guided(
    target: Target, inputs: int, first_seed: int, told: Told, done: Callable[[Outcome], None]
) -> None:
    """Never returns: libFuzzer ends the process. `done` is called at the last input."""
    import atheris

    began = time.monotonic()
    with target.opened() as check, tempfile.TemporaryDirectory() as corpus:
        for n, data in enumerate(target.seeds):
            (Path(corpus) / f"seed-{n}").write_bytes(data)
        watch = Watch(check)

        def one(data: bytes) -> None:
            if watch.inputs < inputs:
                watch(data)
                if watch.inputs % 2_000 == 0:
                    told(watch.inputs, len(watch.found))
                if watch.inputs == inputs:
                    done(_outcome(target, "atheris", watch, began))
                    sys.stdout.flush()
                    os._exit(0)  # libFuzzer would count its seeds once more

        atheris.Setup(
            [sys.argv[0], f"-runs={2 * inputs}", f"-seed={first_seed}", "-max_len=20000",
             "-timeout=60", "-rss_limit_mb=4096", "-verbosity=0", "-len_control=0", corpus],
            one,
        )  # fmt: skip
        atheris.Fuzz()
