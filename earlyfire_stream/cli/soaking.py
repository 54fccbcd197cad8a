"""`earlyfire soak`: its options, and what it prints."""

from __future__ import annotations

__all__ = ["soak_command"]

import asyncio
import contextlib
import logging
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from earlyfire_stream import logs, run
from earlyfire_stream.cli.options import (
    BrokerOpt,
    EngineOptions,
    JsonOpt,
    OutOpt,
    PasswordOpt,
    SeedOpt,
    ServingOptions,
    SpeedOpt,
    absolute,
    broker_of,
    duration,
    grouped,
    loaded,
)
from earlyfire_stream.cli.outcome import BAD_INPUT, THRESHOLD_FAILED, log, say
from earlyfire_stream.cli.playing import play, watched
from earlyfire_stream.errors import Interrupted, UsageError
from earlyfire_stream.folder import held
from earlyfire_stream.lingering import INTERRUPTED
from earlyfire_stream.live.command import LiveOpt
from earlyfire_stream.records import Observer
from earlyfire_stream.scenario import catalogue
from earlyfire_stream.scenario.load import Loaded
from earlyfire_stream.soak import command as soaking
from earlyfire_stream.soak.asked import parse_bytes, unjudged
from earlyfire_stream.soak.folder import SoakFolder
from earlyfire_stream.soak.judging import State
from earlyfire_stream.soak.play import Result as SoakResult
from earlyfire_stream.soak.play import play_leg
from earlyfire_stream.soak.tables import summary, window_line
from earlyfire_stream.soak.windows import Window

LEFT_BEHIND = {
    "soak.html": "the soak drawn over time, to be opened in a browser",
    "soak.json": "verdicts, trends, the knee and every window",
    "windows.jsonl": "the windows as they closed, with all durations",
    "leg-1": "a run folder for each leg: records, report, score",
}

BESIDE_RESUME = {"resume", "as_json", "live", *(option.name for option in fields(ServingOptions))}
"""Parameters that say nothing of what is played."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """Limits instead of the scenario's; a soak beyond one of them ends with 99."""

    p95_latency: Annotated[
        float | None,
        duration("--p95-latency", "Limit, capture to answer, such as 5s."),
    ] = None
    drop_share: Annotated[
        float | None,
        typer.Option("--drop-share", min=0, max=1, help="Limit: wanted frames without an answer."),
    ] = None
    error_share: Annotated[
        float | None,
        typer.Option("--error-share", min=0, max=1, help="Limit: requests that failed."),
    ] = None
    ttfd: Annotated[
        float | None,
        duration("--ttfd", "Limit: median from onset to alarm, such as 30s."),
    ] = None
    rss_slope: Annotated[
        str | None,
        typer.Option("--rss-slope", help="Limit: growth of a process an hour, such as 20MB."),
    ] = None
    latency_slope: Annotated[
        float | None,
        typer.Option(
            "--latency-slope", help="Limit: growth of a request's time an hour, 0.1: a tenth."
        ),
    ] = None

    def slo(self) -> dict[str, float | None]:
        """By their names in `slo:`, in its units."""
        return {
            "p95_latency": self.p95_latency,
            "drop_share": self.drop_share,
            "error_share": self.error_share,
            "ttfd": self.ttfd,
            "rss_slope": None
            if self.rss_slope is None
            else parse_bytes(self.rss_slope, "--rss-slope"),
            "latency_slope": self.latency_slope,
        }


@grouped
def soak_command(
    *,
    context: typer.Context,
    scenario: Annotated[
        str | None, typer.Argument(help="A scenario file or name; not needed with --resume.")
    ] = None,
    for_: Annotated[
        float | None,
        duration("--for", "How long, such as 30m or 8h."),
    ] = None,
    ramp: Annotated[
        str | None,
        typer.Option(help="A growing fleet: cameras=10:200:+10/5m (first:most:+by/every)."),
    ] = None,
    faults: Annotated[
        float | None,
        duration("--faults", "Play the scenario's faults again and again, such as every 30m."),
    ] = None,
    no_faults: Annotated[
        bool, typer.Option("--no-faults", help="Leave the scenario's faults out.")
    ] = False,
    window: Annotated[
        float | None,
        duration("--window", "Of counting; else 5m, less for a short soak."),
    ] = None,
    limits: LimitOptions,
    memory_limit: Annotated[
        str | None, typer.Option(help="What a process may grow to; else what this machine has.")
    ] = None,
    score_up_to: Annotated[
        int, typer.Option(min=0, help="Frames beyond which the full score is left out.")
    ] = 1_000_000,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the soak of this folder; one that is over is judged again."),
    ] = None,
    asked: EngineOptions,
    speed: SpeedOpt = None,
    seed: SeedOpt = None,
    broker: BrokerOpt = "auto",
    password_file: PasswordOpt = None,
    out: OutOpt = Path("runs"),
    as_json: JsonOpt = False,
    live: LiveOpt = None,
    told: ServingOptions,
) -> None:
    """Hours of load, in windows: rates, drops, latency, memory; exits with 99 beyond a limit."""
    if resume is not None:
        _only_beside_resume(context)
    given: dict[str, Any] = {
        "scenario": None if scenario is None else str(catalogue.find(scenario).absolute()),
        "for_s": for_,
        "ramp": ramp,
        "faults_every_s": faults,
        "no_faults": no_faults,
        "window_s": window,
        "slo": limits.slo(),
        "memory_limit": memory_limit,
        "score_up_to": score_up_to,
        "settings": asked.settings,
        "overrides": {**asked.overrides(), "speed": speed, "seed": seed},
        "broker": broker,
        "password_file": absolute(password_file),
    }
    soak = None
    if resume is not None:
        soak = SoakFolder.resume(resume)
        given = dict(soak.asked)
    elif scenario is None or for_ is None:
        raise UsageError("name a scenario and say how long: earlyfire soak demo --for 30m")
    with contextlib.ExitStack() as stack:
        if soak is not None:
            stack.enter_context(held(soak.path, "soak"))
        plan = soaking.plan(given, lambda g: loaded(g["scenario"], g["settings"], **g["overrides"]))
        played_s = 0.0 if soak is None else soak.played_s()
        if soak is not None and plan.asked.is_over(played_s):
            _soaked(soak, soaking.finished(soak, plan), None, as_json)  # only judged again
            return
        leg = plan.leg(played_s)
        file = given["password_file"]
        broker_at = broker_of(given["broker"], None if file is None else Path(file))
        place = out if soak is None else soak.path
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            say(soaking.check_disk(plan.need(played_s), place))
            if (note := unjudged(plan.asked)) is not None:
                say(note, logging.WARNING)
            if soak is None:
                settled = plan.loaded.scenario
                soak = SoakFolder.new(out, settled.name, settled.engine.name, given)
                stack.enter_context(held(soak.path, "soak"))
                stack.enter_context(soaking.emptied(soak))
            with watched(told, leg.scenario, live) as observers:
                outcome, cut = None, ""
                try:
                    outcome = _soak(soak, plan, leg, run.Options(broker=broker_at), observers)
                except Interrupted as why:
                    if not soak.windows():
                        raise
                    cut = str(why)  # the windows are known all the same
                found = soaking.finished(soak, plan)
    _soaked(soak, found, outcome, as_json, cut)


def _only_beside_resume(context: typer.Context) -> None:
    """What is played was asked when the soak was begun; it may be looked at in another way."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in BESIDE_RESUME and source is not None and source.name == "COMMANDLINE":
            option = "SCENARIO" if name == "scenario" else parameter.opts[0]
            raise UsageError(f"--resume goes on with what was asked then; leave {option} out")


def _soak(
    soak: SoakFolder,
    plan: soaking.Plan,
    leg: Loaded,
    options: run.Options,
    observers: list[Observer],
) -> run.Outcome:
    def told(window: Window) -> None:
        line = window_line(window, plan.asked.for_s)
        if logs.is_json():
            log.info("%s", line)
        else:
            # above the live screen, which stands in for stdout; echo would write past it, into it
            print(line, flush=True)

    async def how(
        leg: Loaded, options: run.Options, observers: list[Observer], stop: asyncio.Event
    ) -> run.Outcome:
        return await play_leg(soak, plan.asked, leg, options, observers, stop, told)

    return play(how, leg, options, observers)


def _soaked(
    soak: SoakFolder,
    found: SoakResult,
    outcome: run.Outcome | None,
    as_json: bool,
    cut: str = "",
) -> None:
    """Print what a soak came to, and exit by it. `cut`: how a leg without an outcome ended."""
    if as_json:
        typer.echo(orjson.dumps(found.to_json(), option=orjson.OPT_INDENT_2))
    else:
        console = Console(highlight=False)
        console.print("", summary(found, console.width))
        typer.echo(f"\nsoak folder: {soak.path}")
        for name, what in LEFT_BEHIND.items():
            if (soak.path / name).exists():
                typer.echo(f"  {name:<14} {what}")
    for warning in () if outcome is None else outcome.warnings:
        say(warning, logging.WARNING)
    # those that were killed; the last one's own warnings say why it is not scored
    for leg in found.legs if outcome is None else found.legs[:-1]:
        folder = soak.leg_folder(leg.number)
        if folder.exists() and not (folder / "score.json").exists():
            say(f"not scored: earlyfire score {folder}")
    if outcome is not None and outcome.interrupted:
        cut = "interrupted"
    if cut:
        on = "" if found.complete else f"; go on with: earlyfire soak --resume {soak.path}"
        say(f"{cut}{on}")
        raise typer.Exit(INTERRUPTED)
    if found.state is State.BREACHED:
        raise typer.Exit(THRESHOLD_FAILED)
    if found.state is State.UNDECIDED:
        say("undecided: too little was measured for a limit that was set; soak longer")
        raise typer.Exit(BAD_INPUT)
