"""The `earlyfire` command: reads options, calls, prints. Decisions are made elsewhere.

Exit codes: 0 done; 2 bad input or nothing to work with; 99 a threshold failed; 130 interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from earlyfire_stream import __version__, bench, blocks, exports, logs, run
from earlyfire_stream.clock import virtual_run
from earlyfire_stream.contract import check_prompt
from earlyfire_stream.errors import EarlyfireError, Interrupted, UsageError
from earlyfire_stream.frames import SHARDS
from earlyfire_stream.lingering import INTERRUPTED, lingering
from earlyfire_stream.live.command import LiveCommand, LiveOpt, serving
from earlyfire_stream.live.command import live as live_command
from earlyfire_stream.live.screen import Watching, watch
from earlyfire_stream.merged import load as read_log
from earlyfire_stream.metrics.endpoint import Endpoint, parse_place, registry_of_process
from earlyfire_stream.metrics.families import CAMERA_SERIES
from earlyfire_stream.metrics.observer import METRICS_FILE, Metrics
from earlyfire_stream.records import Observer
from earlyfire_stream.report import comparison_page
from earlyfire_stream.report.comparison import comparison, comparison_plain, worse_line
from earlyfire_stream.report.operating import operating_table
from earlyfire_stream.report.summary import summary, summary_plain
from earlyfire_stream.scenario import catalogue
from earlyfire_stream.scenario.load import Loaded, Shard, load, overridden, schema
from earlyfire_stream.scenario.units import parse_seconds
from earlyfire_stream.scoring import Score
from earlyfire_stream.scoring.compare import Side, compare, parse_tolerances, worse
from earlyfire_stream.scoring.operating import (
    OperatingPoint,
    operating_curve,
    parse_policies,
    parse_thresholds,
)
from earlyfire_stream.soak import command as soaking
from earlyfire_stream.soak.asked import parse_bytes, unjudged
from earlyfire_stream.soak.folder import SoakFolder
from earlyfire_stream.soak.judging import State
from earlyfire_stream.soak.play import Result as SoakResult
from earlyfire_stream.soak.play import play_leg
from earlyfire_stream.soak.tables import summary as soak_summary
from earlyfire_stream.soak.tables import window_line
from earlyfire_stream.soak.windows import Window
from earlyfire_stream.transport.address import BrokerAddress, read_password
from earlyfire_stream.worker.command import worker

log = logging.getLogger("earlyfire_stream.cli")

BAD_INPUT = 2
THRESHOLD_FAILED = 99

LEFT_BEHIND = {
    "report.html": "the report, to be opened in a browser; it needs no network",
    "score.json": "the score and everything beside it",
    "records.jsonl": "the fate of every frame, every answer and alarm",
    "cameras.jsonl": "what the cameras scheduled and sent, with the truth",
    "frames": "the frames that raised alarms, and the first in which a fire was missed",
    "engine.jsonl": "what the engine's server told of itself",
    METRICS_FILE: "the last values of all metrics, as Prometheus reads them",
    "run.json": "the scenario, its settings, versions and host",
}
"""What a run folder may hold, in the order in which one would look at it."""

SOAK_LEFT_BEHIND = {
    "soak.html": "the soak drawn over time, to be opened in a browser",
    "soak.json": "verdicts, trends, the knee and every window",
    "windows.jsonl": "the windows as they closed, with all durations",
    "leg-1": "a run folder for each leg: records, report, score",
}

BESIDE_RESUME = {
    *("resume", "as_json", "live", "metrics", "linger", "camera_series"),
    *("log_format", "log_level"),
}
"""Parameters of `soak` that say nothing of what is played."""

app = typer.Typer(
    name="earlyfire",
    help=(
        "How many seconds after the smoke appears will the alarm come? Replays wildfires as camera "
        "streams over MQTT, watches them with a model, and scores how early the alarm came."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
scenarios = typer.Typer(help="Look at, check and write scenario files.", no_args_is_help=True)
app.add_typer(scenarios, name="scenario")


def main() -> None:
    """Run the command; an EarlyfireError becomes one message and exit code 2."""
    try:
        app()
    except Interrupted as why:
        _fail(str(why), INTERRUPTED)
    except EarlyfireError as why:
        _fail(str(why))
    except BaseExceptionGroup as group:
        # Tasks of a run fail in groups; the first of our own errors is what went wrong.
        ours, others = group.split(EarlyfireError)
        if ours is None or others is not None:
            raise
        _fail(str(_first(ours)))
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BAD_INPUT)


def _first(group: BaseException) -> BaseException:
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group


def _fail(message: str, code: int = BAD_INPUT) -> None:
    if logs.is_json():
        log.error("%s", message)
    else:
        Console(stderr=True).print(
            f"earlyfire: {message}", markup=False, highlight=False, soft_wrap=True, style="red"
        )
    sys.exit(code)


def _say(text: str, level: int = logging.INFO) -> None:
    """Beside what was asked for: a line on stderr, which whoever reads JSON gets as JSON."""
    if logs.is_json():
        log.log(level, "%s", text)
    elif level == logging.WARNING:
        Console(stderr=True).print(f"warning: {text}", markup=False, style="yellow")
    else:
        typer.echo(text, err=True)


def _log_as(form: str | None) -> None:
    logs.configure(form)


def _log_from(level: str | None) -> None:
    logs.configure(level=level)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    log_format: Annotated[
        str | None,
        typer.Option(help="console or json: a line an event.", envvar="EARLYFIRE_LOG_FORMAT"),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(help="debug, info, warning or error.", envvar="EARLYFIRE_LOG_LEVEL"),
    ] = None,
) -> None:
    logs.configure(log_format, log_level or ("info" if verbose else None))


def _seconds(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_seconds(text)
    except ValueError as why:
        raise UsageError(f"{option}: {why}") from None
    if not 0 <= seconds < math.inf:
        raise UsageError(f"{option} {text:.40}: is no length of time; write 90s, 10m or 2h")
    return seconds


ScenarioArg = Annotated[
    str, typer.Argument(help="A scenario file, or the name of a shipped one (`scenario list`).")
]
EngineOpt = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="baseline, ollama, openai, hf, simulated or recorded; else the scenario's.",
    ),
]
ModelOpt = Annotated[str | None, typer.Option("--model", help="The engine's model.")]
ProfileOpt = Annotated[
    str | None, typer.Option("--profile", help="Profile of the simulated engine.")
]
UrlOpt = Annotated[str | None, typer.Option("--url", help="Where the engine's server is.")]
WorkerOpt = Annotated[
    str | None,
    typer.Option("--worker", help="hf: addresses of running workers; else one is started here."),
]
RecordingOpt = Annotated[
    Path | None, typer.Option("--recording", help="recorded: the run folder to answer from.")
]
PromptOpt = Annotated[
    str | None, typer.Option("--prompt", help="A shipped prompt or a YAML file of your own.")
]
SetOpt = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting by its place, such as engine.explain=always."),
]
SpeedOpt = Annotated[
    float | None, typer.Option("--speed", help="Scenario seconds per wall second.")
]
DurationOpt = Annotated[
    str | None, typer.Option("--duration", help="Scenario time to play, such as 90s or 10m.")
]
SeedOpt = Annotated[int | None, typer.Option("--seed", help="Another seed for all that is drawn.")]
OutOpt = Annotated[Path, typer.Option("--out", help="Where run folders are made.")]
RunOpt = Annotated[str | None, typer.Option("--run", help="The run's name on the broker's topics.")]
PasswordOpt = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the broker's password; else the environment."),
]
MetricsOpt = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        help="Serve Prometheus' /metrics on this port; for other machines on host:port.",
    ),
]
LingerOpt = Annotated[
    str | None,
    typer.Option("--linger", help="Serve on so long after the end, such as 30s."),
]
CameraSeriesOpt = Annotated[
    int,
    typer.Option(
        "--camera-series", min=0, help="Fleets up to this size have series for each camera."
    ),
]
LogFormatOpt = Annotated[
    str | None,
    typer.Option("--log-format", callback=_log_as, help="console or json: a line an event."),
]
LogLevelOpt = Annotated[
    str | None,
    typer.Option("--log-level", callback=_log_from, help="debug, info, warning or error."),
]
BROKER_HELP = "auto, mosquitto, amqtt (private), memory, or mqtt[s]://[user@]host[:port]."


@app.command("run", cls=LiveCommand)
def run_command(
    scenario: ScenarioArg,
    engine: EngineOpt = None,
    model: ModelOpt = None,
    profile: ProfileOpt = None,
    url: UrlOpt = None,
    worker: WorkerOpt = None,
    recording: RecordingOpt = None,
    prompt: PromptOpt = None,
    settings: SetOpt = None,
    speed: SpeedOpt = None,
    clock: Annotated[str | None, typer.Option(help="wall or virtual.")] = None,
    duration: DurationOpt = None,
    seed: SeedOpt = None,
    broker: Annotated[str, typer.Option(help=BROKER_HELP)] = "auto",
    password_file: PasswordOpt = None,
    out: OutOpt = Path("runs"),
    run_name: RunOpt = None,
    shards: Annotated[
        str | None,
        typer.Option(help="k/n: play only this part of the cameras; a fire stays in one part."),
    ] = None,
    fail_under: Annotated[
        str | None, typer.Option(help="Exit with 99 if the score is lower, such as efs=60.")
    ] = None,
    live: LiveOpt = None,
    metrics: MetricsOpt = None,
    linger: LingerOpt = None,
    camera_series: CameraSeriesOpt = CAMERA_SERIES,
    log_format: LogFormatOpt = None,
    log_level: LogLevelOpt = None,
) -> None:
    """Play a scenario: cameras, broker, watcher, score."""
    threshold = _threshold(fail_under)
    loaded = _loaded(
        scenario,
        shard=None if shards is None else _part("--shards", shards, 10_000),
        engine=engine,
        model=model,
        profile=profile,
        url=url,
        worker=_listed(worker),
        recording=_absolute(recording),
        prompt=prompt,
        settings=settings,
        speed=speed,
        clock=clock,
        duration=_seconds("--duration", duration),
        seed=seed,
    )
    options = run.Options(broker=_broker(broker, password_file), out=out, run=run_name)
    with (
        serving(live, loaded.scenario, None if metrics else _seconds("--linger", linger)) as shown,
        _measured(metrics, linger if metrics or not live else None, camera_series) as measured,
    ):
        outcome = _play(run.play, loaded, options, measured, shown)
        _finish(outcome, threshold)


@app.command()
def cameras(
    scenario: ScenarioArg,
    broker: Annotated[str, typer.Option(help="mqtt[s]://[user@]host[:port]")],
    speed: SpeedOpt = None,
    duration: DurationOpt = None,
    seed: SeedOpt = None,
    password_file: PasswordOpt = None,
    out: OutOpt = Path("runs"),
    run_name: RunOpt = None,
    metrics: MetricsOpt = None,
    linger: LingerOpt = None,
    camera_series: CameraSeriesOpt = CAMERA_SERIES,
    log_format: LogFormatOpt = None,
    log_level: LogLevelOpt = None,
) -> None:
    """Play only the cameras, into your broker. Leaves the cameras' own log."""
    loaded = _loaded(scenario, speed=speed, duration=_seconds("--duration", duration), seed=seed)
    options = run.Options(broker=_broker(broker, password_file), out=out, run=run_name)
    with _measured(metrics, linger, camera_series) as measured:
        outcome = _play(run.play_cameras, loaded, options, measured)
        _finish(outcome, None)


@app.command(cls=LiveCommand)
def consume(
    scenario: ScenarioArg,
    broker: Annotated[str, typer.Option(help="mqtt[s]://[user@]host[:port]")],
    engine: EngineOpt = None,
    model: ModelOpt = None,
    profile: ProfileOpt = None,
    url: UrlOpt = None,
    worker: WorkerOpt = None,
    recording: RecordingOpt = None,
    prompt: PromptOpt = None,
    settings: SetOpt = None,
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
    metrics: MetricsOpt = None,
    linger: LingerOpt = None,
    camera_series: CameraSeriesOpt = CAMERA_SERIES,
    log_format: LogFormatOpt = None,
    log_level: LogLevelOpt = None,
) -> None:
    """Only watch what cameras send to your broker."""
    loaded = _loaded(
        scenario,
        engine=engine,
        model=model,
        profile=profile,
        url=url,
        worker=_listed(worker),
        recording=_absolute(recording),
        prompt=prompt,
        settings=settings,
        duration=_seconds("--duration", duration),
        seed=seed,
    )
    options = run.Options(
        broker=_broker(broker, password_file),
        out=out,
        run=run_name,
        folder=resume,
        shards=_shards(shard),
        topic=topic,
    )
    with (
        serving(live, loaded.scenario, None if metrics else _seconds("--linger", linger)) as shown,
        _measured(metrics, linger if metrics or not live else None, camera_series) as measured,
    ):
        outcome = _play(run.play_consumer, loaded, options, measured, shown)
        _finish(outcome, None)


def _printing(told: Callable[[], Any]) -> Callable[[bool], None]:
    """Of an option that prints something and ends, whatever else stands beside it."""

    def show(wanted: bool) -> None:
        if wanted:
            typer.echo(orjson.dumps(told(), option=orjson.OPT_INDENT_2))
            raise typer.Exit

    return show


RunsArg = Annotated[
    list[Path],
    typer.Argument(metavar="RUN…", help="A run folder; or all parts of one run, as one."),
]
PartialOpt = Annotated[
    bool, typer.Option("--partial", help="Leave out the cameras that are in none of the parts.")
]


@app.command()
def score(
    folders: RunsArg,
    cameras_folder: Annotated[
        Path | None,
        typer.Option("--cameras", help="The folder that `earlyfire cameras` left."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder of the whole, for several RUNs."),
    ] = None,
    partial: PartialOpt = False,
    thresholds: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            help="Operating curve: P(smoke) to alarm from, such as 0.1,0.5 or 0.1:0.9:0.1.",
        ),
    ] = None,
    policies: Annotated[
        str | None,
        typer.Option("--alarm", help="Operating curve: alarm policies, such as 1of1,2of3."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print score.json.")] = False,
    fail_under: Annotated[
        str | None, typer.Option(help="Exit with 99 if the score is lower, such as efs=60.")
    ] = None,
    schema_wanted: Annotated[
        bool,
        typer.Option(
            "--schema",
            callback=_printing(exports.score_schema),
            is_eager=True,
            help="Print the JSON Schema of score.json.",
        ),
    ] = False,
) -> None:
    """Score a run folder again, offline; a killed run too. Several parts of a run become one."""
    threshold = _threshold(fail_under)
    grid = parse_thresholds(thresholds or "0.1:0.9:0.1")
    alarms = parse_policies(policies) if policies is not None else ()
    asked = _one_or_parts(folders, partial or output is not None)
    result = run.rescore(asked, cameras_folder, output, partial=partial)
    folder = output or folders[0]
    told = result.to_json()
    points: tuple[OperatingPoint, ...] = ()
    if thresholds is not None or policies is not None:
        log = read_log(folder, None if output is not None else cameras_folder)
        points = operating_curve(log, grid, alarms)
        told["operating_curve"] = [point.to_json() for point in points]
    if as_json:
        typer.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2))
    else:
        _print_score(result)
        if points:
            typer.echo("")
            Console().print(operating_table(points))
        typer.echo(f"\nwritten: {folder / 'score.json'}, {folder / 'report.html'}")
    _judge(result, threshold)


@app.command()
def report(
    folders: RunsArg,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The file to write, else report.html in RUN; for several RUNs their folder.",
        ),
    ] = None,
    cameras_folder: Annotated[
        Path | None,
        typer.Option("--cameras", help="The folder that `earlyfire cameras` left."),
    ] = None,
    partial: PartialOpt = False,
) -> None:
    """Write the report of a run: one HTML file that needs no network."""
    asked = _one_or_parts(folders, partial)
    typer.echo(f"written: {run.report(asked, cameras_folder, output, partial=partial)}")


def _one_or_parts(folders: list[Path], partial: bool) -> Path | list[Path]:
    return folders[0] if len(folders) == 1 and not partial else folders


@app.command("compare")
def compare_command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Run folders; several of one setting over seeds as one, comma between: A1,A2.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    fail_under: Annotated[
        str | None,
        typer.Option(help="Exit with 99 if the last one scores lower, such as efs=60."),
    ] = None,
    fail_if_worse: Annotated[
        str | None,
        typer.Option(
            help="Exit with 99 if one is worse than the first by more, such as "
            "efs=2,ttfd=10s,false_alarms=1,recall=0.05."
        ),
    ] = None,
    sure: Annotated[
        bool,
        typer.Option("--sure", help="--fail-if-worse: only where the interval leaves out zero."),
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare what is only doubtfully comparable.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page; else comparison.html in the last folder."),
    ] = None,
    cameras_folders: Annotated[
        list[Path] | None,
        typer.Option(
            "--cameras",
            help="The folder that `earlyfire cameras` left: one for all runs, or one for each.",
        ),
    ] = None,
) -> None:
    """Hold runs of one scenario and seed against the first of them, view by view."""
    threshold = _threshold(fail_under)
    tolerances = parse_tolerances(fail_if_worse) if fail_if_worse is not None else {}
    if sure and not tolerances:
        raise UsageError("--sure says what --fail-if-worse takes for worse; write both")
    named = [_run_folders(text) for text in runs]
    with Console(stderr=True).status("comparing …"):
        found = compare(_sides(named, cameras_folders or []), anyway)
    page = comparison_page.write(
        output or Path(named[-1][-1]) / comparison_page.COMPARISON_FILE, found
    )
    console = Console()
    if as_json:
        typer.echo(orjson.dumps(found.to_json(), option=orjson.OPT_INDENT_2))
    elif console.is_terminal:
        console.print(comparison(found))
    else:
        typer.echo(comparison_plain(found), nl=False)
    if not as_json:
        typer.echo(f"\nwritten: {page}")
    failed = worse(found, tolerances, sure)
    for each in failed:
        typer.echo(worse_line(each), err=True)
    _below(found.against[-1].figure("efs").other, threshold)
    if failed:
        raise typer.Exit(THRESHOLD_FAILED)


def _run_folders(text: str) -> list[str]:
    return [text] if Path(text).exists() else (_listed(text) or [text])


def _sides(named: list[list[str]], cameras: list[Path]) -> list[Side]:
    """Each with its runs, and those with the cameras' logs that stand in for theirs."""
    count = sum(map(len, named))
    if len(cameras) not in (0, 1, count):
        raise UsageError(
            f"--cameras: {len(cameras)} folders for {count} runs; give one for all, or one for each"
        )
    given: list[Path | None] = [*cameras] or [None]
    logs = iter(given if len(given) == count else given * count)
    return [
        Side(tuple(names), tuple(read_log(Path(name), next(logs)) for name in names))
        for names in named
    ]


@app.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    cameras_folder: Annotated[
        Path | None,
        typer.Option("--cameras", help="The folder that `earlyfire cameras` left."),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write into; else RUN/export."),
    ] = None,
    schema_wanted: Annotated[
        bool,
        typer.Option(
            "--schema",
            callback=_printing(exports.schema),
            is_eager=True,
            help="Print the JSON Schema of the log's lines and of the exported rows.",
        ),
    ] = False,
) -> None:
    """Write a run's frames and alarms as flat tables for other tools."""
    chosen = exports.parse_format(format)
    log = read_log(folder, cameras_folder)
    for path in exports.export(log, chosen, output or folder / "export"):
        typer.echo(f"written: {path}")


@app.command("bench")
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
            "block": block or "all",
            "engine": engine or "baseline",
            "data": None if shown is None else str(catalogue.find(shown).absolute()),
            "prompt": prompt,
            "settings": settings or [],
            "speed": speed,
            "duration": _seconds("--duration", duration),
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
    loaded = _loaded(scenario, speed=speed, duration=_seconds("--duration", duration), seed=seed)
    chosen = bench.variants(
        loaded.scenario,
        _listed(engine) or (),
        _listed(sampling) or (),
        _listed(prompt) or (),
        settings or (),
    )
    for variant in chosen:
        check_prompt(variant.scenario.engine.prompt)
    numbers = itertools.count(1)

    def play(variant: bench.Variant, asked: Loaded, options: run.Options) -> run.Outcome:
        typer.echo(f"playing {next(numbers)} of {len(chosen)}: {variant.name}", err=True)
        return _play(run.play, asked, options)

    results, interrupted = bench.bench(loaded, chosen, run.Options(out=out), play)
    console = Console()
    console.print(bench.comparison(results))
    for line in bench.paired(results):
        typer.echo(f"\n{line}")
    typer.echo("")
    for result in results:
        typer.echo(f"written: {result.folder}")
    if interrupted:
        typer.echo("interrupted: the last one is scored for the part that was played", err=True)
        raise typer.Exit(INTERRUPTED)


def _bench_blocks(asked: dict[str, Any], out: Path, resume: Path | None) -> None:
    ledger = None if resume is None else blocks.Ledger.resume(resume)
    asked = asked if ledger is None else dict(ledger.asked)
    footage = asked["data"]
    plan = blocks.jobs(
        blocks.parse_blocks(asked["block"]),
        _listed(asked["engine"]) or ["baseline"],
        None if footage is None else load(Path(footage)),
        asked["settings"],
        prompt=asked["prompt"],
        speed=asked["speed"],
        duration=asked["duration"],
        seed=asked["seed"],
    )
    for prompt in {job.loaded.scenario.engine.prompt for job in plan.jobs}:
        check_prompt(prompt)
    for note in plan.notes:
        typer.echo(note, err=True)
    ledger = ledger or blocks.Ledger.new(out, asked)
    folders, interrupted = blocks.play_all(
        plan,
        ledger,
        lambda job, options: _play(run.play, job.loaded, options),
        lambda line: typer.echo(line, err=True),
    )
    result = ledger.folder / blocks.RESULT_FILE
    cells = blocks.measure(plan, folders, result)
    console = Console()
    for cell in cells:
        if cell.rows:
            console.print(blocks.details(cell), "")
    console.print(blocks.overview(cells))
    typer.echo(f"\nwritten: {result}")
    if interrupted:
        typer.echo(f"interrupted; go on with: earlyfire bench --resume {ledger.folder}", err=True)
        raise typer.Exit(INTERRUPTED)


@app.command("soak", cls=LiveCommand)
def soak_command(
    context: typer.Context,
    scenario: Annotated[
        str | None, typer.Argument(help="A scenario file or name; not needed with --resume.")
    ] = None,
    for_: Annotated[str | None, typer.Option("--for", help="How long, such as 30m or 8h.")] = None,
    ramp: Annotated[
        str | None,
        typer.Option(help="A growing fleet: cameras=10:200:+10/5m (first:most:+by/every)."),
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(help="Play the scenario's faults again and again, such as every 30m."),
    ] = None,
    no_faults: Annotated[
        bool, typer.Option("--no-faults", help="Leave the scenario's faults out.")
    ] = False,
    window: Annotated[
        str | None, typer.Option(help="Of counting; else 5m, less for a short soak.")
    ] = None,
    p95_latency: Annotated[
        str | None, typer.Option("--p95-latency", help="Limit, capture to answer, such as 5s.")
    ] = None,
    drop_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Limit: wanted frames without an answer.")
    ] = None,
    error_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Limit: requests that failed.")
    ] = None,
    ttfd: Annotated[
        str | None, typer.Option(help="Limit: median from onset to alarm, such as 30s.")
    ] = None,
    rss_slope: Annotated[
        str | None, typer.Option(help="Limit: growth of a process an hour, such as 20MB.")
    ] = None,
    latency_slope: Annotated[
        float | None, typer.Option(help="Limit: growth of a request's time an hour, 0.1: a tenth.")
    ] = None,
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
    engine: EngineOpt = None,
    model: ModelOpt = None,
    profile: ProfileOpt = None,
    url: UrlOpt = None,
    worker: WorkerOpt = None,
    recording: RecordingOpt = None,
    prompt: PromptOpt = None,
    settings: SetOpt = None,
    speed: SpeedOpt = None,
    seed: SeedOpt = None,
    broker: Annotated[str, typer.Option(help=BROKER_HELP)] = "auto",
    password_file: PasswordOpt = None,
    out: OutOpt = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print soak.json.")] = False,
    live: LiveOpt = None,
    metrics: MetricsOpt = None,
    linger: LingerOpt = None,
    camera_series: CameraSeriesOpt = CAMERA_SERIES,
    log_format: LogFormatOpt = None,
    log_level: LogLevelOpt = None,
) -> None:
    """Hours of load, in windows: rates, drops, latency, memory; exits with 99 beyond a limit."""
    if resume is not None:
        _only_beside_resume(context)
    given: dict[str, Any] = {
        "scenario": None if scenario is None else str(catalogue.find(scenario).absolute()),
        "for_s": _seconds("--for", for_),
        "ramp": ramp,
        "faults_every_s": _seconds("--faults", faults),
        "no_faults": no_faults,
        "window_s": _seconds("--window", window),
        "slo": {
            "p95_latency": _seconds("--p95-latency", p95_latency),
            "drop_share": drop_share,
            "error_share": error_share,
            "ttfd": _seconds("--ttfd", ttfd),
            "rss_slope": None if rss_slope is None else parse_bytes(rss_slope, "--rss-slope"),
            "latency_slope": latency_slope,
        },
        "memory_limit": memory_limit,
        "score_up_to": score_up_to,
        "settings": settings,
        "overrides": {
            "engine": engine,
            "model": model,
            "profile": profile,
            "url": url,
            "worker": _listed(worker),
            "recording": _absolute(recording),
            "prompt": prompt,
            "speed": speed,
            "seed": seed,
        },
        "broker": broker,
        "password_file": _absolute(password_file),
    }
    linger_s = _seconds("--linger", linger)
    soak = None
    if resume is not None:
        soak = SoakFolder.resume(resume)
        given = dict(soak.asked)
    elif scenario is None or for_ is None:
        raise UsageError("name a scenario and say how long: earlyfire soak demo --for 30m")
    with contextlib.ExitStack() as held:
        if soak is not None:
            held.enter_context(soak.held())
        plan = soaking.plan(
            given, lambda g: _loaded(g["scenario"], g["settings"], **g["overrides"])
        )
        played_s = 0.0 if soak is None else soak.played_s()
        if soak is not None and plan.asked.is_over(played_s):
            _soaked(soak, soaking.finished(soak, plan), None, as_json)  # only judged again
            return
        loaded = plan.leg(played_s)
        file = given["password_file"]
        options = run.Options(broker=_broker(given["broker"], None if file is None else Path(file)))
        place = out if soak is None else soak.path
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            _say(soaking.check_disk(plan.need(played_s), place))
            if (note := unjudged(plan.asked)) is not None:
                _say(note, logging.WARNING)
            if soak is None:
                settled = plan.loaded.scenario
                soak = SoakFolder.new(out, settled.name, settled.engine.name, given)
                held.enter_context(soak.held())
                held.enter_context(soaking.emptied(soak))
            with (
                serving(live, loaded.scenario, None if metrics else linger_s) as shown,
                _measured(
                    metrics, linger if metrics or not live else None, camera_series
                ) as measured,
            ):
                outcome = _soak(soak, plan, loaded, options, measured, shown)
                found = soaking.finished(soak, plan)
    _soaked(soak, found, outcome, as_json)


def _only_beside_resume(context: typer.Context) -> None:
    """What is played was asked when the soak was begun; it may be looked at in another way."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in BESIDE_RESUME and source is not None and source.name == "COMMANDLINE":
            option = "SCENARIO" if name == "scenario" else parameter.opts[0]
            raise UsageError(f"--resume goes on with what was asked then; leave {option} out")


def _soaked(
    soak: SoakFolder, found: SoakResult, outcome: run.Outcome | None, as_json: bool
) -> None:
    """Print what a soak came to, and exit by it."""
    if as_json:
        typer.echo(orjson.dumps(found.to_json(), option=orjson.OPT_INDENT_2))
    else:
        console = Console(highlight=False)
        console.print("", soak_summary(found, console.width))
        typer.echo(f"\nsoak folder: {soak.path}")
        for name, what in SOAK_LEFT_BEHIND.items():
            if (soak.path / name).exists():
                typer.echo(f"  {name:<14} {what}")
    for warning in () if outcome is None else outcome.warnings:
        _say(warning, logging.WARNING)
    if outcome is not None and outcome.interrupted:
        _say(f"interrupted; go on with: earlyfire soak --resume {soak.path}")
        raise typer.Exit(INTERRUPTED)
    if found.state is State.BREACHED:
        raise typer.Exit(THRESHOLD_FAILED)
    if found.state is State.UNDECIDED:
        _say("undecided: too little was measured for a limit that was set; soak longer")
        raise typer.Exit(BAD_INPUT)


def _soak(
    soak: SoakFolder,
    plan: soaking.Plan,
    loaded: Loaded,
    options: run.Options,
    measured: Metrics,
    shown: Observer | None,
) -> run.Outcome:
    def told(window: Window) -> None:
        line = window_line(window, plan.asked.for_s)
        if logs.is_json():
            log.info("%s", line)
        else:
            # above the live screen, which stands in for stdout; echo would write past it, into it
            print(line, flush=True)

    async def play(
        loaded: Loaded, options: run.Options, observers: list[Observer], stop: asyncio.Event
    ) -> run.Outcome:
        return await play_leg(soak, plan.asked, loaded, options, observers, stop, told)

    return _play(play, loaded, options, measured, shown)


def _listed(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def _absolute(path: Path | None) -> str | None:
    """A path of the command line belongs to the folder one is in, not to the scenario's."""
    return None if path is None else str(path.absolute())


app.command()(worker)
app.command("live")(live_command)


@app.command()
def doctor(
    engine: EngineOpt = None,
    model: ModelOpt = None,
    url: UrlOpt = None,
    worker: WorkerOpt = None,
    recording: RecordingOpt = None,
    broker: Annotated[str, typer.Option(help=BROKER_HELP)] = "auto",
    password_file: PasswordOpt = None,
) -> None:
    """Say what is there, what is missing, and the command that mends it."""
    from earlyfire_stream.doctor import examine

    checks = asyncio.run(
        examine(
            engine=engine,
            model=model,
            url=url,
            workers=_listed(worker) or (),
            recording=_absolute(recording),
            broker=_broker(broker, password_file),
        )
    )
    console = Console(highlight=False, soft_wrap=True)  # a command in a remedy can be copied whole
    for check in checks:
        mark = Text("✓ ", "green") if check.ok else Text("✗ ", "red")
        console.print(mark.append(check.what, "bold").append(f": {check.found}", "default"))
        if not check.ok:
            console.print(Text("  → ", "yellow").append(check.remedy, "default"))
    if not all(check.ok for check in checks):
        raise typer.Exit(BAD_INPUT)


@app.command("import")
def import_command(
    layout: Annotated[
        str, typer.Argument(help="figlib, pyronear, sai, yolo, coco or video: how the files lie.")
    ],
    path: Annotated[str, typer.Argument(help="Their folder (coco: the JSON; video: a file, too).")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The scenario file to write.")
    ] = Path("scenario.yaml"),
    onset: Annotated[
        str | None, typer.Option(help="When smoke first becomes visible, from the begin: 42s.")
    ] = None,
    onsets: Annotated[
        str | None, typer.Option(help="The same for each: CSV with name,onset and perhaps end.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="video: nothing burns in it.")] = False,
    boxes: Annotated[
        str | None, typer.Option(help="video: CSV with at,x_center,y_center,width,height.")
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="The true time between two images, such as 30s.")
    ] = None,
    epoch_names: Annotated[
        bool, typer.Option("--epoch-names", help="yolo, coco: names begin with Unix seconds.")
    ] = False,
    images: Annotated[
        str | None, typer.Option(help="coco: the folder that file_name starts from.")
    ] = None,
    smoke_class: Annotated[int | None, typer.Option(help="The class that is smoke.")] = None,
    unlabelled: Annotated[
        str | None, typer.Option(help="empty: an image without a label file shows no smoke.")
    ] = None,
    gaps: Annotated[
        str | None, typer.Option(help="accept: holes in a recording are as they should be.")
    ] = None,
    onset_shift: Annotated[
        str | None, typer.Option(help="Added to every onset, such as 1s.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Take these: names, patterns, or a .txt of them.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Leave these out, written as in --only.")
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out what something is wrong with.")
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="A part's folder (val), or train:0.8, test:0.2 by fire.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(help="So many recordings at a time, not all together.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="Before each camera's id.")] = None,
    speed: Annotated[float, typer.Option(help="Scenario seconds per wall second.")] = 60.0,
    name: Annotated[str | None, typer.Option(help="The scenario's name.")] = None,
    force: Annotated[bool, typer.Option(help="Write over a file that is there.")] = False,
) -> None:
    """Write a scenario that plays your own recordings from where they lie."""
    from earlyfire_stream.importers import import_dataset

    settings = {
        "layout": layout,
        "path": path,
        "images": images,
        "prefix": prefix,
        "only": tuple(only or ()),
        "skip": tuple(skip or ()),
        "split": split,
        "interval": interval,
        "epoch_names": epoch_names,
        "gaps": gaps,
        "smoke_class": smoke_class,
        "unlabelled": unlabelled,
        "onset": onset,
        "onsets": onsets,
        "quiet": quiet,
        "boxes": boxes,
        "onset_shift": onset_shift,
        "at_once": at_once,
    }
    with Console(stderr=True).status("looking …") as status:
        done = import_dataset(
            settings,
            output,
            name=name,
            speed=speed,
            skip_broken=skip_broken,
            force=force,
            progress=lambda n: status.update(f"looking … {n} recordings"),
        )
    for line in done.told:
        typer.echo(line)
    for fault in done.skipped:
        typer.echo(f"left out: {fault.message}", err=True)
    typer.echo(f"written: {done.path}")
    typer.echo(f"next:    earlyfire run {done.path}")


# --- scenario … ----------------------------------------------------------------------------------


@scenarios.command("validate")
def scenario_validate(
    files: Annotated[list[str], typer.Argument(metavar="SCENARIO…", help="Files or names.")],
) -> None:
    """Check scenario files and tell every problem of each."""
    bad = False
    for name in files:
        try:
            loaded = load(catalogue.find(name))
        except UsageError as why:
            bad = True
            Console(stderr=True).print(str(why), markup=False, highlight=False, style="red")
            continue
        cameras = sum(camera.count for camera in loaded.scenario.cameras)
        typer.echo(f"{loaded.file}: valid, {cameras} camera{'s' if cameras != 1 else ''}")
    if bad:
        raise typer.Exit(BAD_INPUT)


@scenarios.command("list")
def scenario_list() -> None:
    """The scenarios that are shipped."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("name", "cameras", "fires", "lasts", "what"):
        table.add_column(title)
    for entry in catalogue.listed():
        lasts = "" if entry.duration_s is None else f"{entry.duration_s:g} s"
        table.add_row(entry.name, str(entry.cameras), str(entry.fires), lasts, entry.description)
    Console().print(table)


@scenarios.command("show")
def scenario_show(scenario: ScenarioArg) -> None:
    """A scenario as it will be played: every camera and every default."""
    from earlyfire_stream.scenario.fleet import expand
    from earlyfire_stream.scenario.load import resolved

    loaded = load(catalogue.find(scenario))
    whole = resolved(loaded.scenario)
    whole["cameras"] = [camera.model_dump(mode="json") for camera in expand(loaded.scenario)]
    typer.echo(orjson.dumps(whole, option=orjson.OPT_INDENT_2))


@scenarios.command("schema")
def scenario_schema() -> None:
    """The JSON Schema of scenario files, for editors."""
    typer.echo(orjson.dumps(schema(), option=orjson.OPT_INDENT_2))


@scenarios.command("init")
def scenario_init(
    path: Annotated[Path, typer.Argument(help="The file to write.")],
    template: Annotated[
        str, typer.Option(help=f"One of {', '.join(catalogue.TEMPLATES)}.")
    ] = "small",
    force: Annotated[bool, typer.Option(help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented scenario to start from."""
    typer.echo(f"written: {catalogue.init(path, template, force=force)}")
    typer.echo(f"next:    earlyfire scenario validate {path}")


@scenarios.command("preview")
def scenario_preview(
    scenario: ScenarioArg,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = Path(
        "preview.png"
    ),
) -> None:
    """Draw a contact sheet of every camera over time, with the truth in it."""
    from earlyfire_stream.scenario.fleet import expand
    from earlyfire_stream.sources.preview import contact_sheet

    loaded = load(catalogue.find(scenario))
    with Console(stderr=True).status("drawing …") as status:
        sheet = contact_sheet(
            expand(loaded.scenario),
            loaded.base,
            loaded.scenario.seed,
            loaded.scenario.duration,
            progress=lambda done, total: status.update(f"drawing … {done} of {total} pictures"),
        )
    try:
        output.write_bytes(sheet)
    except OSError as why:
        raise UsageError(f"{output}: cannot be written: {why.strerror}") from why
    typer.echo(f"written: {output}")


@scenarios.command("realism")
def scenario_realism(
    real: Annotated[Path, typer.Option("--real", help="Folder of real camera sequences.")],
) -> None:
    """Measure synthetic frames against real ones: noise, gradients, change, plume contrast."""
    from earlyfire_stream.sources.realism import compare, table

    with Console(stderr=True).status("measuring …"):
        comparison = compare(real)
    Console().print(table(comparison))


# --- between the options and the run -------------------------------------------------------------


def _loaded(
    name: str, settings: list[str] | None = None, shard: Shard | None = None, **overrides: Any
) -> Loaded:
    loaded = load(catalogue.find(name), shard=shard)
    changed = overridden(loaded, settings or (), **overrides)
    check_prompt(changed.scenario.engine.prompt)
    return changed


def _broker(text: str, password_file: Path | None) -> Any:
    if text in ("auto", "mosquitto", "amqtt", "memory"):
        return text
    password = read_password(password_file, os.environ)
    logs.hide(password)
    return BrokerAddress.parse(text, password)


def _shards(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    k, n = _part("--shard", text, SHARDS)
    return frozenset(s for s in range(SHARDS) if s % n == k)


def _part(option: str, text: str, most: int) -> Shard:
    try:
        k, n = (int(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(f"{option} {text!r}: write k/n, such as 0/2 and 1/2") from None
    if not 1 <= n <= most or not 0 <= k < n:
        raise UsageError(f"{option} {text}: n is 1 to {most}, k is 0 to n-1")
    return k, n


def _threshold(text: str | None) -> float | None:
    if text is None:
        return None
    name, _, value = text.partition("=")
    try:
        threshold = float(value)
        if name != "efs" or math.isnan(threshold):
            raise ValueError
        return threshold
    except ValueError:
        raise UsageError(f"--fail-under {text!r}: write efs=60") from None


@contextlib.contextmanager
def _measured(place: str | None, linger: str | None, camera_series: int) -> Iterator[Metrics]:
    """What counts a run; served at `place`, and for as long after the end as `linger` says."""
    linger_s = _seconds("--linger", linger) or 0.0
    if place is None and linger_s:
        raise UsageError("--linger serves on after the end: give --metrics 9464 or --live as well")
    registry = registry_of_process()
    measured = Metrics(registry, camera_series)
    if place is None:
        yield measured
        return
    with Endpoint(registry, *parse_place(place)) as endpoint:
        _say(f"metrics: {endpoint.url}")
        with lingering(f"metrics stay at {endpoint.url}", linger_s, _say):
            yield measured


Play = Callable[[Loaded, run.Options, list[Observer], asyncio.Event], Awaitable[run.Outcome]]


def _play(
    play: Play,
    loaded: Loaded,
    options: run.Options,
    measured: Metrics | None = None,
    shown: Observer | None = None,
) -> run.Outcome:
    beside = [o for o in (measured or Metrics(registry_of_process()), shown) if o is not None]
    console = Console()
    scenario = loaded.scenario
    title = f"earlyfire · {scenario.name} · {scenario.engine.name}"
    if not console.is_terminal and not logs.is_json():
        console.print(title, markup=False, highlight=False)
    with logs.Narrator() if logs.is_json() else watch(console, title) as watching:

        async def go() -> run.Outcome:
            stop = asyncio.Event()
            with _stop_on_signals(stop, watching):
                return await play(loaded, options, [watching, *beside], stop)

        try:
            return virtual_run(go()) if scenario.clock == "virtual" else asyncio.run(go())
        except asyncio.CancelledError:
            raise Interrupted(
                "interrupted twice, ended unscored; `earlyfire score` reads what was recorded"
            ) from None


@contextlib.contextmanager
def _stop_on_signals(stop: asyncio.Event, watching: Watching) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run cleanly; a second one cancels it, unscored.

    More of them change nothing: closing takes seconds at most, and a broker's folder would be left.
    """
    loop = asyncio.get_running_loop()
    playing = asyncio.current_task()
    assert playing is not None
    signals = (signal.SIGINT, signal.SIGTERM)

    def ask() -> None:
        if stop.is_set():
            if not playing.cancelling():
                playing.cancel()
        else:
            stop.set()
            watching.stage("stopping (Ctrl-C again: at once)")

    for number in signals:
        loop.add_signal_handler(number, ask)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
            if stop.is_set():
                signal.signal(number, signal.SIG_IGN)  # only printing is left


def _finish(outcome: run.Outcome, threshold: float | None) -> None:
    if outcome.score is not None:
        _print_score(outcome.score)
    for warning in outcome.warnings:
        _say(warning, logging.WARNING)
    typer.echo(f"\nrun folder: {outcome.folder}")
    for name, what in LEFT_BEHIND.items():
        if (outcome.folder / name).exists():
            typer.echo(f"  {name:<14} {what}")
    if outcome.interrupted:
        _say("interrupted: the score is of the part that was played")
        raise typer.Exit(INTERRUPTED)
    _judge(outcome.score, threshold)


def _print_score(result: Score) -> None:
    console = Console()
    if console.is_terminal:
        console.print(summary(result))
    else:
        typer.echo(summary_plain(result))


def _judge(result: Score | None, threshold: float | None) -> None:
    _below(None if result is None else result.early_fire_score, threshold)


def _below(reached: float | None, threshold: float | None) -> None:
    if threshold is not None and (reached is None or reached < threshold):
        # cut off, not rounded: 59.999 is not told as 60
        told = "n/a" if reached is None else math.floor(reached * 100) / 100
        _say(f"below the threshold: efs {told} < {threshold:g}")
        raise typer.Exit(THRESHOLD_FAILED)
