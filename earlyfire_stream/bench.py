"""One scenario, several ways: the same frames for every engine and sampling, side by side."""

from __future__ import annotations

__all__ = ["Variant", "bench", "comparison", "variants"]

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from earlyfire_stream import run
from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import Observer
from earlyfire_stream.reel import Shelf
from earlyfire_stream.scenario.load import Loaded, with_overrides
from earlyfire_stream.scenario.models import Scenario
from earlyfire_stream.scenario.units import parse_seconds
from earlyfire_stream.scoring import Score


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to play the scenario, under a name that tells it from the others."""

    name: str
    scenario: Scenario


def variants(scenario: Scenario, engines: Sequence[str], samplings: Sequence[str]) -> list[Variant]:
    """Every engine with every sampling; an empty sequence leaves the scenario's own.

    A sampling is written `fixed:10s` or `adaptive:30s`: the policy and its idle interval.
    """
    own: Sequence[str | None] = [None]
    chosen = []
    for engine in engines or own:
        for sampling in samplings or own:
            policy, idle = _sampling(sampling)
            other = with_overrides(scenario, engine=engine, policy=policy, idle=idle)
            name = " ".join(filter(None, (engine, sampling))) or scenario.engine.name
            chosen.append(Variant(name, other))
    return chosen


def _sampling(text: str | None) -> tuple[str | None, float | None]:
    if text is None:
        return None, None
    policy, _, idle = text.partition(":")
    try:
        return policy, parse_seconds(idle) if idle else None
    except ValueError as why:
        raise UsageError(f"--sampling {text!r}: {why}") from why


def bench(
    loaded: Loaded,
    chosen: Sequence[Variant],
    options: run.Options,
    observe: Callable[[Variant, int], Observer],
) -> list[tuple[Variant, Path, Score]]:
    """Play every variant in turn; each leaves a run folder of its own."""
    results = []
    if any(v.scenario.sampling.policy == "adaptive" for v in chosen):
        options = replace(options, shelf=Shelf())
    for number, variant in enumerate(chosen):
        observer = observe(variant, number)
        asked = replace(loaded, scenario=variant.scenario)

        async def play(asked: Loaded = asked, observer: Observer = observer) -> run.Outcome:
            return await run.play(asked, options, [observer], asyncio.Event())

        virtual = variant.scenario.clock == "virtual"
        outcome = virtual_run(play()) if virtual else asyncio.run(play())
        assert outcome.score is not None
        results.append((variant, outcome.folder, outcome.score))
    return results


def comparison(results: Sequence[tuple[Variant, Path, Score]]) -> Table:
    """A row a variant: what was found and how soon, against what it cost."""
    table = Table(box=None, pad_edge=False, header_style="dim", caption_justify="left")
    table.caption = "TTFD over the fires that were found; tokens are visual tokens a camera-hour"
    table.add_column("", no_wrap=True)
    for title in ("EFS", "found", "TTFD median", "mean", "false/day", "tokens", "p50 latency"):
        table.add_column(title, justify="right")
    for variant, _, score in results:
        data = score.to_json()
        ttfds = sorted(f["ttfd_s"] for f in data["fires"] if f["ttfd_s"] is not None)
        median = ttfds[len(ttfds) // 2] if ttfds else None
        mean = sum(ttfds) / len(ttfds) if ttfds else None
        per_day = data["false_alarms"]["per_camera_day"]
        table.add_row(
            variant.name,
            _figure(data["early_fire_score"], 1),
            f"{len(ttfds)} of {len(data['fires'])}",
            _figure(median, 1, " s"),
            _figure(mean, 1, " s"),
            _figure(per_day, 1),
            _figure(data["tokens"]["visual_per_camera_hour"], 0),
            _figure(data["latency_s"]["p50"], 2, " s"),
        )
    return table


def _figure(value: float | None, digits: int, unit: str = "") -> str:
    return "n/a" if value is None else f"{value:,.{digits}f}{unit}"
