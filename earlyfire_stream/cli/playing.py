"""`earlyfire run`, `cameras` and `consume`, and how a run is played on a terminal."""

from __future__ import annotations

__all__ = ["Play", "cameras", "consume", "play", "run_command", "watched"]

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from earlyfire_stream import logs, run
from earlyfire_stream.cli.options import (
    BrokerOpt,
    DurationOpt,
    EngineOptions,
    FailUnderOpt,
    OutOpt,
    PasswordOpt,
    RunOpt,
    ScenarioArg,
    SeedOpt,
    ServingOptions,
    SpeedOpt,
    broker_of,
    grouped,
    loaded,
    part,
    threshold,
)
from earlyfire_stream.cli.outcome import finish, say
from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import Interrupted, UsageError
from earlyfire_stream.frames import SHARDS
from earlyfire_stream.lingering import lingering
from earlyfire_stream.live.command import LiveOpt, serving
from earlyfire_stream.live.screen import Watching, watch
from earlyfire_stream.metrics.endpoint import Endpoint, parse_place, registry_of_process
from earlyfire_stream.metrics.observer import Metrics
from earlyfire_stream.records import Observer
from earlyfire_stream.scenario.load import Loaded
from earlyfire_stream.scenario.models import Scenario
from earlyfire_stream.signals import hearing

ForeignBrokerOpt = Annotated[str, typer.Option("--broker", help="mqtt[s]://[user@]host[:port]")]


@grouped
def run_command(
    *,
    scenario: ScenarioArg,
    asked: EngineOptions,
    speed: SpeedOpt = None,
    clock: Annotated[str | None, typer.Option(help="wall or virtual.")] = None,
    duration: DurationOpt = None,
    seed: SeedOpt = None,
    broker: BrokerOpt = "auto",
    password_file: PasswordOpt = None,
    out: OutOpt = Path("runs"),
    run_name: RunOpt = None,
    shards: Annotated[
        str | None,
        typer.Option(help="k/n: play only this part of the cameras; a fire stays in one part."),
    ] = None,
    fail_under: FailUnderOpt = None,
    live: LiveOpt = None,
    told: ServingOptions,
) -> None:
    """Play a scenario: cameras, broker, watcher, score."""
    wanted = threshold(fail_under)
    playing = loaded(
        scenario,
        asked.settings,
        shard=None if shards is None else part("--shards", shards, 10_000),
        speed=speed,
        clock=clock,
        duration=duration,
        seed=seed,
        **asked.overrides(),
    )
    options = run.Options(broker=broker_of(broker, password_file), out=out, run=run_name)
    with watched(told, playing.scenario, live) as observers:
        finish(play(run.play, playing, options, observers), wanted)


@grouped
def cameras(
    *,
    scenario: ScenarioArg,
    broker: ForeignBrokerOpt,
    speed: SpeedOpt = None,
    duration: DurationOpt = None,
    seed: SeedOpt = None,
    password_file: PasswordOpt = None,
    out: OutOpt = Path("runs"),
    run_name: RunOpt = None,
    told: ServingOptions,
) -> None:
    """Play only the cameras, into your broker. Leaves the cameras' own log."""
    playing = loaded(scenario, speed=speed, duration=duration, seed=seed)
    options = run.Options(broker=broker_of(broker, password_file), out=out, run=run_name)
    with watched(told, playing.scenario) as observers:
        finish(play(run.play_cameras, playing, options, observers), None)


@grouped
def consume(
    *,
    scenario: ScenarioArg,
    broker: ForeignBrokerOpt,
    asked: EngineOptions,
    duration: DurationOpt = None,
    seed: SeedOpt = None,
    password_file: PasswordOpt = None,
    out: OutOpt = Path("runs"),
    run_name: RunOpt = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run folder after the watcher was killed.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="k/n: this watcher takes the shards s with s mod n = k.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Watch other people's cameras: site/{camera}/image.")
    ] = None,
    live: LiveOpt = None,
    told: ServingOptions,
) -> None:
    """Only watch what cameras send to your broker."""
    playing = loaded(scenario, asked.settings, duration=duration, seed=seed, **asked.overrides())
    options = run.Options(
        broker=broker_of(broker, password_file),
        out=out,
        run=run_name,
        folder=resume,
        shards=_shards(shard),
        topic=topic,
    )
    with watched(told, playing.scenario, live) as observers:
        finish(play(run.play_consumer, playing, options, observers), None)


def _shards(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    k, n = part("--shard", text, SHARDS)
    return frozenset(s for s in range(SHARDS) if s % n == k)


@contextlib.contextmanager
def watched(
    told: ServingOptions, scenario: Scenario, live: str | None = None
) -> Iterator[list[Observer]]:
    """What counts a run and what shows it, served for as long after the end as was asked.

    The live page lingers by itself only where no metrics are served.
    """
    if told.metrics is None and live is None and told.linger:
        raise UsageError("--linger serves on after the end: give --metrics 9464 or --live as well")
    registry = registry_of_process()
    measured = Metrics(registry, told.camera_series)
    with serving(live, scenario, None if told.metrics else told.linger) as shown:
        observers: list[Observer] = [measured] if shown is None else [measured, shown]
        if told.metrics is None:
            yield observers
            return
        with (
            Endpoint(registry, *parse_place(told.metrics)) as endpoint,
            lingering(f"metrics stay at {endpoint.url}", told.linger or 0.0, say),
        ):
            say(f"metrics: {endpoint.url}")
            yield observers


Play = Callable[[Loaded, run.Options, list[Observer], asyncio.Event], Awaitable[run.Outcome]]


def play(
    how: Play,
    playing: Loaded,
    options: run.Options,
    observers: Sequence[Observer] | None = None,
) -> run.Outcome:
    """Play it on this terminal, to its end or to Ctrl-C; a second Ctrl-C is Interrupted.

    Without `observers` it is only counted.
    """
    beside = [Metrics(registry_of_process())] if observers is None else observers
    console = Console()
    scenario = playing.scenario
    title = f"earlyfire · {scenario.name} · {scenario.engine.name}"
    if not console.is_terminal and not logs.is_json():
        console.print(title, markup=False, highlight=False)
    with logs.Narrator() if logs.is_json() else watch(console, title) as watching:

        async def go() -> run.Outcome:
            stop, scoring = asyncio.Event(), _Scoring()
            with _stop_on_signals(stop, watching, scoring):
                return await how(playing, options, [watching, *beside, scoring], stop)

        try:
            return virtual_run(go()) if scenario.clock == "virtual" else asyncio.run(go())
        except asyncio.CancelledError:
            raise Interrupted(
                "interrupted twice, ended unscored; `earlyfire score` reads what was recorded"
            ) from None


class _Scoring(Observer):
    """Is what was played being scored? The event loop hears nothing meanwhile."""

    under_way = False

    def stage(self, text: str, share: float | None = None) -> None:
        self.under_way = text == "scoring"


@contextlib.contextmanager
def _stop_on_signals(stop: asyncio.Event, watching: Watching, scoring: _Scoring) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run cleanly; a second one cancels it, unscored.

    More of them change nothing: closing takes seconds at most, and a broker's folder would be left.
    One that comes while a long run is scored is Interrupted there and then.
    """
    loop = asyncio.get_running_loop()
    playing = asyncio.current_task()
    assert playing is not None

    def ask() -> None:
        if stop.is_set():
            if not playing.cancelling():
                playing.cancel()
        else:
            stop.set()
            watching.stage("stopping (Ctrl-C again: at once)")

    def heard(_number: int) -> None:
        if scoring.under_way:
            raise Interrupted(
                "interrupted while scoring, ended unscored; `earlyfire score` reads what was "
                "recorded"
            )
        loop.call_soon_threadsafe(ask)

    with hearing(heard, done=stop.is_set):  # stopped: only printing is left
        yield
