"""The options that several commands take, alone and in groups, and how they are read."""

from __future__ import annotations

__all__ = [
    "BROKER_HELP",
    "BrokerOpt",
    "CamerasFolderOpt",
    "DurationOpt",
    "EngineOpt",
    "EngineOptions",
    "FailUnderOpt",
    "JsonOpt",
    "ModelOpt",
    "OutOpt",
    "PartialOpt",
    "PasswordOpt",
    "RecordingOpt",
    "RunOpt",
    "RunsArg",
    "ScenarioArg",
    "SeedOpt",
    "ServingOptions",
    "SetOpt",
    "SpeedOpt",
    "UrlOpt",
    "WorkerOpt",
    "absolute",
    "broker_of",
    "duration",
    "grouped",
    "listed",
    "loaded",
    "part",
    "schema_option",
    "threshold",
]

import inspect
import math
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import orjson
import typer

from earlyfire_stream import logs
from earlyfire_stream.contract import check_prompt
from earlyfire_stream.errors import UsageError
from earlyfire_stream.metrics.families import CAMERA_SERIES
from earlyfire_stream.scenario import catalogue
from earlyfire_stream.scenario.load import Loaded, Shard, load, overridden
from earlyfire_stream.scenario.units import parse_seconds
from earlyfire_stream.transport.address import BrokerAddress, read_password


def duration(option: str, help: str) -> Any:
    """An option that is a length of time, in seconds once it is read; UsageError otherwise."""

    def read(text: str) -> float:
        try:
            seconds = parse_seconds(text)
        except ValueError as why:
            raise UsageError(f"{option}: {why}") from None
        if not 0 <= seconds < math.inf:
            raise UsageError(f"{option} {text:.40}: is no length of time; write 90s, 10m or 2h")
        return seconds

    return typer.Option(option, parser=read, metavar="<duration>", help=help)


def _log_as(form: str | None) -> None:
    logs.configure(form)


def _log_from(level: str | None) -> None:
    logs.configure(level=level)


# --- single options ------------------------------------------------------------------------------

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
    float | None,
    duration("--duration", "Scenario time to play, such as 90s or 10m."),
]
SeedOpt = Annotated[int | None, typer.Option("--seed", help="Another seed for all that is drawn.")]
OutOpt = Annotated[Path, typer.Option("--out", help="Where run folders are made.")]
RunOpt = Annotated[str | None, typer.Option("--run", help="The run's name on the broker's topics.")]
BROKER_HELP = "auto, mosquitto, amqtt (private), memory, or mqtt[s]://[user@]host[:port]."
BrokerOpt = Annotated[str, typer.Option("--broker", help=BROKER_HELP)]
PasswordOpt = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the broker's password; else the environment."),
]
FailUnderOpt = Annotated[
    str | None,
    typer.Option("--fail-under", help="Exit with 99 if the score is lower, such as efs=60."),
]
RunsArg = Annotated[
    list[Path],
    typer.Argument(metavar="RUN…", help="A run folder; or all parts of one run, as one."),
]
CamerasFolderOpt = Annotated[
    Path | None, typer.Option("--cameras", help="The folder that `earlyfire cameras` left.")
]
PartialOpt = Annotated[
    bool, typer.Option("--partial", help="Leave out the cameras that are in none of the parts.")
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


# --- groups --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What is asked, and how, instead of what the scenario says."""

    engine: EngineOpt = None
    model: ModelOpt = None
    profile: ProfileOpt = None
    url: UrlOpt = None
    worker: WorkerOpt = None
    recording: RecordingOpt = None
    prompt: PromptOpt = None
    settings: SetOpt = None

    def overrides(self) -> dict[str, Any]:
        """All but `settings`, as the scenario takes them and JSON can keep them."""
        return {
            "engine": self.engine,
            "model": self.model,
            "profile": self.profile,
            "url": self.url,
            "worker": listed(self.worker),
            "recording": absolute(self.recording),
            "prompt": self.prompt,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """What a run tells while it is played."""

    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Serve Prometheus' /metrics on this port; for other machines on host:port.",
        ),
    ] = None
    linger: Annotated[
        float | None,
        duration("--linger", "Serve on so long after the end, such as 30s."),
    ] = None
    camera_series: Annotated[
        int,
        typer.Option(
            "--camera-series", min=0, help="Fleets up to this size have series for each camera."
        ),
    ] = CAMERA_SERIES
    log_format: Annotated[
        str | None,
        typer.Option("--log-format", callback=_log_as, help="console or json: a line an event."),
    ] = None
    log_level: Annotated[
        str | None,
        typer.Option("--log-level", callback=_log_from, help="debug, info, warning or error."),
    ] = None


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take options in groups: a parameter that is a dataclass becomes its fields.

    Each field is an option of its own, in the parameter's place. All parameters are given by name.
    """
    own = inspect.signature(command).parameters
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hints[name] for name in own if is_dataclass(hints[name])}
    options: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if (group := groups.get(name)) is None:
            options.append(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            )
            continue
        kinds = get_type_hints(group, include_extras=True)
        options += [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if each.default is MISSING else each.default,
                annotation=kinds[each.name],
            )
            for each in fields(group)
        ]

    def called(**given: Any) -> None:
        filled = {
            name: group(**{each.name: given.pop(each.name) for each in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **filled)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__dict__["__signature__"] = inspect.Signature(options)
    called.__annotations__ = {each.name: each.annotation for each in options}
    return called


def schema_option(told: Callable[[], Any], help: str) -> Any:
    """`--schema`, which prints one and ends, whatever else stands beside it."""

    def show(wanted: bool) -> None:
        if wanted:
            typer.echo(orjson.dumps(told(), option=orjson.OPT_INDENT_2))
            raise typer.Exit

    return typer.Option("--schema", callback=show, is_eager=True, help=help)


# --- what they mean ------------------------------------------------------------------------------


def listed(text: str | None) -> list[str] | None:
    """The parts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def absolute(path: Path | None) -> str | None:
    """A path of the command line belongs to the folder one is in, not to the scenario's."""
    return None if path is None else str(path.absolute())


def loaded(
    name: str, settings: list[str] | None = None, shard: Shard | None = None, **overrides: Any
) -> Loaded:
    """A scenario as the command line changes it; UsageError for what cannot be played."""
    changed = overridden(load(catalogue.find(name), shard=shard), settings or (), **overrides)
    check_prompt(changed.scenario.engine.prompt)
    return changed


def broker_of(text: str, password_file: Path | None) -> Any:
    """The kind of a private broker, or the address of another with its password."""
    if text in ("auto", "mosquitto", "amqtt", "memory"):
        return text
    password = read_password(password_file, os.environ)
    logs.hide(password)
    return BrokerAddress.parse(text, password)


def part(option: str, text: str, most: int) -> Shard:
    """(k, n) of `k/n`, n up to `most`."""
    try:
        k, n = (int(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(f"{option} {text!r}: write k/n, such as 0/2 and 1/2") from None
    if not 1 <= n <= most or not 0 <= k < n:
        raise UsageError(f"{option} {text}: n is 1 to {most}, k is 0 to n-1")
    return k, n


def threshold(text: str | None) -> float | None:
    """The Early-Fire Score that `--fail-under efs=60` asks for."""
    if text is None:
        return None
    name, _, value = text.partition("=")
    try:
        wanted = float(value)
        if name != "efs" or math.isnan(wanted):
            raise ValueError
        return wanted
    except ValueError:
        raise UsageError(f"--fail-under {text!r}: write efs=60") from None
