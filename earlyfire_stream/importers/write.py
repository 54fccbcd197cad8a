"""Writes the scenario of a dataset: one entry, and above it what was found."""

from __future__ import annotations

__all__ = ["Imported", "import_dataset"]

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from earlyfire_stream.errors import ScenarioError, UsageError
from earlyfire_stream.importers.inspect import Look, look
from earlyfire_stream.scenario import datasets
from earlyfire_stream.scenario.catalogue import write_new
from earlyfire_stream.scenario.datasets import GAP_FACTOR, Fault, Found, Recording
from earlyfire_stream.scenario.load import loads
from earlyfire_stream.scenario.models import Conflicts, Dataset, Name, Speed, StillsSource
from earlyfire_stream.scenario.units import counted

MAX_TOLD = 25
"""Faults that are told one by one; the rest is counted."""
_PATHS = ("path", "images", "onsets", "boxes")
_ARGUMENTS = ("layout", "path")
"""Given by their place on the command line; all other settings are options there."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A scenario that was written, and what stands in it."""

    path: Path
    told: tuple[str, ...]
    """What was found, in lines for people."""
    skipped: tuple[Fault, ...]
    """What was left out because something is wrong with it."""


def import_dataset(
    settings: Mapping[str, Any],
    output: Path,
    *,
    name: str | None = None,
    speed: float = 60.0,
    skip_broken: bool = False,
    force: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Look a dataset over and write a scenario of it to `output`.

    `settings` are those of `Dataset`, paths starting at the current folder. UsageError names every
    recording that cannot be played as it is; with `skip_broken` these go into `skip`.
    """
    _check_head(name, speed)
    base = Path(os.path.abspath(output.parent))
    # by identity: 0 equals False, and is a class of smoke and an onset
    settings = {k: v for k, v in settings.items() if v is not None and v is not False and v != ()}
    for key in _PATHS:
        if key in settings:
            settings[key] = _seen_from(base, str(settings[key]), key)
    for key in ("only", "skip"):
        if key in settings:
            settings[key] = [
                _seen_from(base, entry, key) if entry.lower().endswith(".txt") else entry
                for entry in settings[key]
            ]
    found, looked = _looked(_dataset(settings), base, progress)
    broken = (*found.faults, *looked.faults)
    if broken and skip_broken and all(fault.name for fault in broken):
        settings["skip"] = [*settings.get("skip", ()), *_left_out(broken, found)]
        found, looked = _looked(_dataset(settings), base, progress)
        if found.faults or looked.faults:
            raise _objection((*broken, *found.faults, *looked.faults))
    elif broken:
        raise _objection(broken)
    told = _told(_dataset(settings), found, looked, speed)
    text = _text(settings, name or _plain(settings), speed, told, broken)
    try:
        loads(text, str(output), base)
    except ScenarioError as why:  # its lines are those of a file that will not be written
        raise _objection([Fault("", p.message, p.hint) for p in why.problems]) from why
    skipped = tuple(replace(fault, message=_one_line(fault.message)) for fault in broken)
    return Imported(write_new(output, text, force=force), told, skipped)


def _check_head(name: str | None, speed: float) -> None:
    """What would otherwise be told of a line of a file that was not written, or become YAML."""
    try:
        if name is not None:
            TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise UsageError(
            f"--name {name!r}: write letters, digits, `_`, `.` and `-`, at most 64, "
            "the first a letter or digit"
        ) from error
    try:
        TypeAdapter(Speed).validate_python(speed)
    except ValidationError as error:
        raise UsageError(f"--speed {speed:g}: write a number above 0, at most 10000") from error


def _seen_from(base: Path, path: str, setting: str) -> str:
    """A path of the command line as the scenario names it: relative only where it lies below."""
    if not path:
        raise UsageError(f"{_option(setting)}: is empty, a path is needed")
    try:
        path.encode()
    except UnicodeEncodeError as why:
        raise UsageError(
            f"{_option(setting)}: {path!a:.200} is not UTF-8, as a scenario has to be; rename it"
        ) from why
    whole = os.path.abspath(os.path.expanduser(path))
    inside = os.path.relpath(whole, base)
    return whole if inside.startswith("..") else inside


def _dataset(settings: Mapping[str, Any]) -> Dataset:
    try:
        return Dataset.model_validate(dict(settings))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place, text = detail["loc"], detail["msg"].removeprefix("Value error, ")
        raised = detail.get("ctx", {}).get("error")
        if isinstance(raised, Conflicts):
            conflict = raised.found[0]
            place, text = conflict.at, conflict.message
            text += f" ({_as_options(conflict.hint)})" if conflict.hint else ""
        option = _option(str(place[0])) if place else "import"
        raise UsageError(f"{option}: {text}") from error


def _option(setting: str) -> str:
    return setting if setting in _ARGUMENTS else "--" + setting.replace("_", "-")


def _as_options(hint: str) -> str:
    """A scenario's `interval: 30s` and `quiet: true` as one types them: --interval 30s, --quiet."""
    for setting in Dataset.model_fields:
        hint = re.sub(rf"\b{setting}:(?: true\b)?", _option(setting), hint)
    return hint


def _looked(dataset: Dataset, base: Path, progress: Callable[[int], None]) -> tuple[Found, Look]:
    found = datasets.find(dataset, base)
    return found, look(found.recordings, base, progress)


def _left_out(broken: Sequence[Fault], found: Found) -> list[str]:
    """What `skip` has to hold so that these are left out, and no sound one of the same name."""
    wrong = {(fault.name, fault.place) for fault in broken}
    every = wrong | {(recording.name, recording.place) for recording in found.recordings}
    often = Counter(name for name, _ in every)
    return sorted({glob.escape(name if often[name] == 1 else place) for name, place in wrong})


def _objection(broken: Sequence[Fault]) -> UsageError:
    lines = [
        "  " + _one_line(fault.message) + (f" ({_as_options(fault.hint)})" if fault.hint else "")
        for fault in broken[:MAX_TOLD]
    ]
    if (more := len(broken) - MAX_TOLD) > 0:
        lines.append(f"  and {more} more")
    named = sum(bool(fault.name) for fault in broken)
    if named == len(broken):
        lines.append("--skip-broken leaves them out and writes their names into the scenario")
    count = "1 problem" if len(broken) == 1 else f"{len(broken)} problems"
    return UsageError("\n".join([f"nothing was written, {count}:", *lines]))


def _plain(settings: Mapping[str, Any]) -> str:
    stem = Path(str(settings["path"])).stem
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip("_.-")[:40]
    return f"{settings['layout']}-{clean}" if clean else str(settings["layout"])


# --- what is told ---------------------------------------------------------------------------------


def _told(dataset: Dataset, found: Found, looked: Look, speed: float) -> tuple[str, ...]:
    recordings = looked.recordings
    frames = sum(r.frames or 0 for r in recordings)
    fires = {r.group for r in recordings if r.onset is not None}
    quiet = sum(r.onset is None and not isinstance(r.source, StillsSource) for r in recordings)
    left = f", {found.left_out} left out by only, skip or split" if found.left_out else ""
    lines = [
        f"{counted(len(recordings), 'recording')}, {counted(frames, 'frame')}, "
        f"{counted(len(fires), 'fire')}, {quiet} without one{left}",
    ]
    cadences = Counter(r.cadence_s for r in recordings if r.cadence_s is not None)
    if cadences:
        usual = ", ".join(f"{c:g} s ({n})" for c, n in cadences.most_common(5))
        more = len(cadences) - 5
        by = "by index" if dataset.interval or dataset.layout == "pyronear" else "by the files"
        lines.append(f"cadence {by}: {usual}" + (f" and {more} others" if more > 0 else ""))
    stills = sum(isinstance(r.source, StillsSource) for r in recordings)
    if stills:
        lines.append(
            f"no clock ({stills}): stills, which count for frame metrics alone; "
            "an interval makes recordings of them"
        )
    holes = sum(
        r.widest_gap_s is not None
        and r.cadence_s is not None
        and r.widest_gap_s > GAP_FACTOR * r.cadence_s
        for r in recordings
    )
    if holes:
        lines.append(f"gaps of more than {GAP_FACTOR} cadences, accepted: {holes}")
    sources = Counter(r.onset_source.partition(",")[0] for r in recordings if r.onset_source)
    if sources:
        lines.append("onset: " + ", ".join(f"{s} ({n})" for s, n in sources.most_common()))
    if looked.other and not looked.smoke:
        others = ", ".join(f"{kind} ({n})" for kind, n in looked.other.most_common(5))
        lines.append(f"no box is of the class that is smoke; they are of {others}: --smoke-class")
    if looked.unreadable:
        lines.append(
            f"{counted(len(looked.unreadable), 'image')} that cannot be read will be lost frames: "
            + ", ".join(looked.unreadable[:3])
        )
    lines += _pace(dataset, recordings, speed)
    return tuple(map(_one_line, lines))


def _pace(dataset: Dataset, recordings: Sequence[Recording], speed: float) -> list[str]:
    """How long a run takes, and what an engine has to keep up with so that nothing is dropped."""
    timed = [r for r in recordings if r.cadence_s and r.length_s]
    if not timed:
        return []
    turns = datasets.cameras(dataset, timed)
    together = min(dataset.at_once or len(timed), len(timed))
    rate = sum(sorted((speed / (r.cadence_s or 1.0) for r in timed), reverse=True)[:together])
    ends = max((c.phase or 0.0) + (r.length_s or 0.0) for c, r in zip(turns, timed, strict=True))
    return [
        f"at speed {speed:g}: {_minutes(ends / speed)}, up to {together} at once, "
        f"up to {rate:.3g} frames/s"
    ]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _text(
    settings: Mapping[str, Any],
    name: str,
    speed: float,
    told: Sequence[str],
    broken: Sequence[Fault],
) -> str:
    entry = yaml.safe_dump(
        [dict(settings)], sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000
    )
    lines = [
        "# Nothing was copied: the files are played from where they lie, and found anew each time.",
        *(f"# {line}" for line in told),
    ]
    if broken:
        lines.append("# Left out, because something is wrong:")
        lines += [f"#   {_one_line(fault.message)}" for fault in broken]
    lines += [
        "earlyfire: 1",
        f"name: {name}",
        f"speed: {speed:g}                    # scenario seconds per wall second",
        "",
        "datasets:",
        *(f"  {line}" for line in entry.splitlines()),
        "",
        "sampling: {policy: every}    # look at each frame; `adaptive` chooses",
        "engine:",
        "  name: baseline",
        "  deadline: 60s              # wall time",
        "",
    ]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    """As much of a message as a line can hold; names of files may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in text)[:600]
