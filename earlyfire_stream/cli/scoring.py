"""`earlyfire score`, `report`, `compare` and `export`: what a finished run is asked."""

from __future__ import annotations

__all__ = ["compare_command", "export_command", "report", "score"]

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from earlyfire_stream import exports, run
from earlyfire_stream.cli.options import (
    CamerasFolderOpt,
    FailUnderOpt,
    JsonOpt,
    PartialOpt,
    RunsArg,
    listed,
    schema_option,
    threshold,
)
from earlyfire_stream.cli.outcome import THRESHOLD_FAILED, below, judge, print_score
from earlyfire_stream.errors import UsageError
from earlyfire_stream.merged import load as read_log
from earlyfire_stream.report import comparison_page
from earlyfire_stream.report.comparison import comparison, comparison_plain, worse_line
from earlyfire_stream.report.operating import operating_table
from earlyfire_stream.scoring.compare import Side, compare, parse_tolerances, worse
from earlyfire_stream.scoring.operating import (
    OperatingPoint,
    operating_curve,
    parse_policies,
    parse_thresholds,
)


def score(
    folders: RunsArg,
    cameras_folder: CamerasFolderOpt = None,
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
    as_json: JsonOpt = False,
    fail_under: FailUnderOpt = None,
    schema_wanted: Annotated[
        bool,
        schema_option(exports.score_schema, "Print the JSON Schema of score.json."),
    ] = False,
) -> None:
    """Score a run folder again, offline; a killed run too. Several parts of a run become one."""
    wanted = threshold(fail_under)
    grid = parse_thresholds("0.1:0.9:0.1" if thresholds is None else thresholds)
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
        print_score(result)
        if points:
            typer.echo("")
            Console().print(operating_table(points))
        typer.echo(f"\nwritten: {folder / 'score.json'}, {folder / 'report.html'}")
    judge(result, wanted)


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
    cameras_folder: CamerasFolderOpt = None,
    partial: PartialOpt = False,
) -> None:
    """Write the report of a run: one HTML file that needs no network."""
    asked = _one_or_parts(folders, partial)
    typer.echo(f"written: {run.report(asked, cameras_folder, output, partial=partial)}")


def _one_or_parts(folders: list[Path], partial: bool) -> Path | list[Path]:
    return folders[0] if len(folders) == 1 and not partial else folders


def compare_command(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Run folders; several of one setting over seeds as one, comma between: A1,A2.",
        ),
    ],
    as_json: JsonOpt = False,
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
    wanted = threshold(fail_under)
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
    below(found.against[-1].figure("efs").other, wanted)
    if failed:
        raise typer.Exit(THRESHOLD_FAILED)


def _run_folders(text: str) -> list[str]:
    return [text] if Path(text).exists() else (listed(text) or [text])


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


def export_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    cameras_folder: CamerasFolderOpt = None,
    format: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write into; else RUN/export."),
    ] = None,
    schema_wanted: Annotated[
        bool,
        schema_option(
            exports.schema, "Print the JSON Schema of the log's lines and of the exported rows."
        ),
    ] = False,
) -> None:
    """Write a run's frames and alarms as flat tables for other tools."""
    chosen = exports.parse_format(format)
    log = read_log(folder, cameras_folder)
    for path in exports.export(log, chosen, output or folder / "export"):
        typer.echo(f"written: {path}")
