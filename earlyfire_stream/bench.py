"""One scenario, several ways: the same frames for every engine, sampling and prompt."""

from __future__ import annotations

__all__ = [
    "Result",
    "Variant",
    "bench",
    "check_engines",
    "comparison",
    "engine_options",
    "paired",
    "sampling_options",
    "variants",
]

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from rich.table import Table
from rich.text import Text

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines import create
from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import load
from earlyfire_stream.reel import Shelf
from earlyfire_stream.report.summary import percent
from earlyfire_stream.run import Options, Outcome
from earlyfire_stream.scenario.load import Loaded, with_overrides
from earlyfire_stream.scenario.models import Scenario
from earlyfire_stream.scenario.units import parse_seconds
from earlyfire_stream.scoring import Score
from earlyfire_stream.scoring.pairs import Pairs, pairs


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to play the scenario, under a name that tells it from the others."""

    name: str
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class Result:
    variant: Variant
    folder: Path
    score: Score
    interrupted: bool = False


def variants(
    scenario: Scenario,
    engines: Sequence[str],
    samplings: Sequence[str] = (),
    prompts: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> list[Variant]:
    """Every engine with every sampling and prompt; an empty sequence leaves the scenario's own.

    An engine is written `ollama`, or `ollama:qwen2.5vl:3b` with its model (`simulated`: its
    profile, `recorded`: its recording). A sampling is written `fixed:10s` or `adaptive:30s`: the
    policy and its idle interval. `settings` hold for every variant.
    """
    own: Sequence[str | None] = [None]
    chosen = []
    for engine in engines or own:
        for sampling, wording in itertools.product(samplings or own, prompts or own):
            options = engine_options(engine) | sampling_options(sampling) | {"prompt": wording}
            try:
                other = with_overrides(scenario, settings, **options)
            except UsageError as why:
                option, _, said = str(why).partition(": ")
                if sampling is None or not option.startswith(("--policy", "--idle")):
                    raise
                raise UsageError(f"--sampling {sampling!r}: {said}") from why
            name = " ".join(filter(None, (engine, sampling, wording))) or scenario.engine.name
            chosen.append(Variant(name, other))
    return chosen


def engine_options(text: str | None) -> dict[str, Any]:
    """`ollama:qwen2.5vl:7b` as overrides of a scenario."""
    if text is None:
        return {}
    name, _, which = text.partition(":")
    setting = {"simulated": "profile", "recorded": "recording"}.get(name, "model")
    return {"engine": name, setting: which or None}


def sampling_options(text: str | None) -> dict[str, Any]:
    """`fixed:10s` as a policy and its idle interval, which is None where none is given."""
    if text is None:
        return {}
    policy, _, idle = text.partition(":")
    try:
        return {"policy": policy, "idle": parse_seconds(idle) if idle else None}
    except ValueError as why:
        raise UsageError(f"--sampling {text!r}: {why}") from why


def check_engines(chosen: Iterable[tuple[Scenario, Path]]) -> None:
    """Make every engine, unopened: one that cannot be is told before hours are spent on others.

    `chosen` are scenarios with the folders that their paths start from. UsageError names what is
    wrong: a profile, an option, a recording that is not there. No server is asked.
    """

    async def made() -> None:
        for scenario, base in chosen:
            create(scenario.engine, Clock(), scenario.seed, base=base)

    asyncio.run(made())


Play: TypeAlias = Callable[[Variant, Loaded, Options], Outcome]
"""Plays one variant to its end, showing how it goes."""


def bench(
    loaded: Loaded, chosen: Sequence[Variant], options: Options, play: Play
) -> Iterator[Result]:
    """Play every variant in turn; each leaves a run folder of its own.

    An interrupted variant is the last: its part is scored.
    """
    if any(v.scenario.sampling.policy == "adaptive" for v in chosen):
        options = replace(options, shelf=Shelf())
    for variant in chosen:
        outcome = play(variant, replace(loaded, scenario=variant.scenario), options)
        assert outcome.score is not None
        yield Result(variant, outcome.folder, outcome.score, outcome.interrupted)
        if outcome.interrupted:
            return


def comparison(results: Sequence[Result]) -> Table:
    """A row a variant: what was found and how soon, against what it cost; below it how sure."""
    table = Table(box=None, pad_edge=False, header_style="dim", caption_justify="left")
    table.caption = (
        "TTFD over the fires that were found; tokens are visual tokens a camera-hour; below "
        "them 95 % intervals (EFS over that of the false alarms) and sample sizes"
    )
    table.add_column("", overflow="fold")
    titles = ["EFS", "found", "TTFD median", "mean", "false/day", "tokens", "p50 latency"]
    unreadable = any(result.score.answers.bad_json for result in results)
    if unreadable:
        titles.append("bad_json")
    for title in titles:
        table.add_column(title, justify="right", overflow="fold")
    for result in results:
        data = result.score.to_json()
        ttfds = [f["ttfd_s"] for f in data["fires"] if f["ttfd_s"] is not None]
        views, false_alarms, latency = data["views"], data["false_alarms"], data["latency_s"]
        cells = [
            (_figure(data["early_fire_score"], 1), _span(data["early_fire_score_interval"], 0)),
            (f"{views['detected']} of {views['n']}", _span(views["recall_interval"], 0, 100, " %")),
            (
                _figure(views["median_ttfd_s"], 1, " s"),
                _span(views["median_ttfd_interval_s"], 0, 1, " s"),
            ),
            (_figure(sum(ttfds) / len(ttfds) if ttfds else None, 1, " s"), f"n {len(ttfds)}"),
            (_figure(false_alarms["per_camera_day"], 1), _span(false_alarms["interval"], 1)),
            (_figure(data["tokens"]["visual_per_camera_hour"], 0), ""),
            (_figure(latency["p50"], 2, " s"), f"n {latency['n']:,}"),
        ]
        if unreadable:
            answers = data["answers"]
            cells.append(
                (
                    percent(answers["shares"]["bad_json"]),
                    _span(answers["share_intervals"]["bad_json"], 1, 100, " %"),
                )
            )
        table.add_row(result.variant.name, *map(_two_lines, cells))
    return table


def paired(results: Sequence[Result]) -> list[str]:
    """Every other result against the first, frame by frame: a line each."""
    name = results[0].variant.name
    first = load(results[0].folder)
    return [
        _pair_line(name, result.variant.name, pairs(first, load(result.folder)))
        for result in results[1:]
    ]


def _pair_line(first: str, second: str, found: Pairs) -> str:
    if not found.n:
        return f"{second}: no frame that {first} was asked about too"
    read = found.both_smoke + found.neither_smoke
    speed = ""
    if found.slower_s is not None:
        word = "slower" if found.slower_s >= 0 else "quicker"
        speed = f"; {abs(found.slower_s):.2f} s {word} (median)"
    return (
        f"{second}: {found.n:,} frames in common with {first}, the same verdict on {read:,}, "
        f"smoke seen by {first} alone on {found.only_first_smoke:,}, by it alone on "
        f"{found.only_second_smoke:,}, no verdict from it on {found.unreadable_second:,}; right "
        f"where the other is wrong: {first} {found.only_first_right:,}, it "
        f"{found.only_second_right:,} (McNemar p = {found.p_value:.3g}){speed}"
    )


def _figure(value: float | None, digits: int, unit: str = "") -> str:
    return "n/a" if value is None else f"{value:,.{digits}f}{unit}"


def _span(interval: Sequence[float] | None, digits: int, scale: float = 1.0, unit: str = "") -> str:
    if interval is None:
        return ""
    low, high = (f"{scale * end:,.{digits}f}" for end in interval)
    return f"{low}–{high}{unit}"


def _two_lines(cell: tuple[str, str]) -> Text:
    figure, sure = cell
    return Text(figure) if not sure else Text.assemble(f"{figure}\n", (sure, "dim"))
