"""`earlyfire bench`: one scenario several ways, or the five blocks."""

from __future__ import annotations

__all__ = ["bench_command"]

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from earlyfire_stream import bench, blocks, run
from earlyfire_stream.cli.options import (
    DurationOpt,
    OutOpt,
    SeedOpt,
    SetOpt,
    SpeedOpt,
    listed,
    loaded,
)
from earlyfire_stream.cli.playing import play
from earlyfire_stream.contract import check_prompt
from earlyfire_stream.errors import EarlyfireError, UsageError
from earlyfire_stream.folder import held
from earlyfire_stream.lingering import INTERRUPTED
from earlyfire_stream.scenario import catalogue
from earlyfire_stream.scenario.load import Loaded, load


def bench_command(
    scenario: Annotated[
        str | None,
        typer.Argument(help="A scenario file or name; not needed with --block or --resume."),
    ] = None,
    block: Annotated[
        str | None,
        typer.Option(help=f"Blocks of the benchmark: {', '.join(blocks.BLOCKS)}, or all."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="Engines to compare, with their models: baseline,ollama:qwen2.5vl:7b.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="--block: your own footage, a scenario; else synthetic scenes."),
    ] = None,
    sampling: Annotated[
        str | None, typer.Option(help="Policies to compare, such as fixed:10s,adaptive:30s.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Prompts to compare, such as v1,v1-literal,mine.yaml.")
    ] = None,
    settings: SetOpt = None,
    speed: SpeedOpt = None,
    duration: DurationOpt = None,
    seed: SeedOpt = None,
    out: OutOpt = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the bench of blocks begun in this folder.")
    ] = None,
) -> None:
    """The five blocks of the benchmark, or one scenario several ways; the same frames each time."""
    if block is not None or resume is not None:
        if sampling is not None:
            raise UsageError("--sampling: the blocks choose their own; leave it out")
        if scenario is not None and data is not None:
            raise UsageError("SCENARIO and --data both name the footage; give one of them")
        shown = scenario or data
        asked = {
            "block": "all" if block is None else block,
            "engine": engine or "baseline",
            "data": None if shown is None else str(catalogue.find(shown).absolute()),
            "prompt": prompt,
            "settings": settings or [],
            "speed": speed,
            "duration": duration,
            "seed": seed,
        }
        given = (block, engine, data, scenario, prompt, settings, speed, duration, seed)
        if resume is not None and any(each is not None for each in given):
            raise UsageError("--resume goes on with what was asked then; leave the rest out")
        _bench_blocks(asked, out, resume)
        return
    if scenario is None:
        raise UsageError("name a scenario to compare engines on, or blocks with --block all")
    if data is not None:
        raise UsageError("--data goes with --block; without it name the scenario itself")
    base = loaded(scenario, speed=speed, duration=duration, seed=seed)
    chosen = bench.variants(
        base.scenario,
        listed(engine) or (),
        listed(sampling) or (),
        listed(prompt) or (),
        settings or (),
    )
    for variant in chosen:
        check_prompt(variant.scenario.engine.prompt)
    bench.check_engines((variant.scenario, base.base) for variant in chosen)
    numbers = itertools.count(1)

    def play_one(variant: bench.Variant, asked: Loaded, options: run.Options) -> run.Outcome:
        typer.echo(f"playing {next(numbers)} of {len(chosen)}: {variant.name}", err=True)
        return play(run.play, asked, options)

    results: list[bench.Result] = []
    try:
        for result in bench.bench(base, chosen, run.Options(out=out), play_one):
            results.append(result)
    finally:  # where one cannot be played, what was played before it is told all the same
        _print_bench(results)
    if results[-1].interrupted:
        typer.echo("interrupted: the last one is scored for the part that was played", err=True)
        raise typer.Exit(INTERRUPTED)


def _print_bench(results: list[bench.Result]) -> None:
    if not results:
        return
    Console().print(bench.comparison(results))
    for line in bench.paired(results):
        typer.echo(f"\n{line}")
    typer.echo("")
    for result in results:
        typer.echo(f"written: {result.folder}")


def _bench_blocks(asked: dict[str, Any], out: Path, resume: Path | None) -> None:
    ledger = None if resume is None else blocks.Ledger.resume(resume)
    asked = asked if ledger is None else dict(ledger.asked)
    footage = asked["data"]
    plan = blocks.jobs(
        blocks.parse_blocks(asked["block"]),
        listed(asked["engine"]) or ["baseline"],
        None if footage is None else load(Path(footage)),
        asked["settings"],
        prompt=asked["prompt"],
        speed=asked["speed"],
        duration=asked["duration"],
        seed=asked["seed"],
    )
    for prompt in {job.loaded.scenario.engine.prompt for job in plan.jobs}:
        check_prompt(prompt)
    bench.check_engines((job.loaded.scenario, job.loaded.base) for job in plan.jobs)
    for note in plan.notes:
        typer.echo(note, err=True)
    ledger = ledger or blocks.Ledger.new(out, asked)
    go_on = f"go on with: earlyfire bench --resume {ledger.folder}"
    with held(ledger.folder, "bench"):
        try:
            folders, interrupted = blocks.play_all(
                plan,
                ledger,
                lambda job, options: play(run.play, job.loaded, options),
                lambda line: typer.echo(line, err=True),
            )
        except (EarlyfireError, BaseExceptionGroup):
            typer.echo(f"what was played until now is kept; {go_on}", err=True)
            raise
        result = ledger.folder / blocks.RESULT_FILE
        cells = blocks.measure(plan, folders, result)
    console = Console()
    for cell in cells:
        if cell.rows:
            console.print(blocks.details(cell), "")
    console.print(blocks.overview(cells))
    typer.echo(f"\nwritten: {result}")
    if interrupted:
        typer.echo(f"interrupted; {go_on}", err=True)
        raise typer.Exit(INTERRUPTED)
