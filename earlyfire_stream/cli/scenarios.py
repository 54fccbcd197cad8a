"""`earlyfire scenario …` and `earlyfire import`: scenario files, looked at, checked and written."""

from __future__ import annotations

__all__ = ["import_command", "scenarios"]

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from earlyfire_stream.cli.options import ScenarioArg
from earlyfire_stream.cli.outcome import BAD_INPUT
from earlyfire_stream.errors import UsageError
from earlyfire_stream.scenario import catalogue
from earlyfire_stream.scenario.load import load, schema

scenarios = typer.Typer(help="Look at, check and write scenario files.", no_args_is_help=True)


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
