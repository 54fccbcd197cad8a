"""`earlyfire soak` between its options and its result; the options themselves stand in `cli`."""

from __future__ import annotations

__all__ = ["Plan", "check_disk", "emptied", "finished", "plan"]

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from earlyfire_stream.errors import UsageError
from earlyfire_stream.reel import Times
from earlyfire_stream.report import soak_page
from earlyfire_stream.scenario.fleet import declared_cadence, expand, told_by_source
from earlyfire_stream.scenario.load import Loaded
from earlyfire_stream.scenario.models import SLO
from earlyfire_stream.soak.asked import (
    Asked,
    leg,
    looks_due,
    parse_bytes,
    parse_ramp,
    repeated,
    window_length,
)
from earlyfire_stream.soak.disk import Need, need
from earlyfire_stream.soak.folder import SoakFolder
from earlyfire_stream.soak.play import Result, result
from earlyfire_stream.soak.processes import memory_bytes
from earlyfire_stream.soak.words import knee_line, verdict_cells
from earlyfire_stream.sources.open import open_source


@dataclass(frozen=True, slots=True)
class Plan:
    """A soak that can be played: what is asked, and the scenario with all its faults."""

    asked: Asked
    loaded: Loaded
    cadences: Mapping[str, float | None]
    """Of the cameras whose footage alone tells theirs."""

    def leg(self, played_s: float) -> Loaded:
        """What is left to play, which must not be over."""
        scenario = leg(self.loaded.scenario, self.asked, played_s, self.cadences)
        return replace(self.loaded, scenario=scenario)

    def need(self, played_s: float) -> Need:
        """Of the disk, for what is left."""
        scenario = self.leg(played_s).scenario
        cameras = [
            (camera, declared_cadence(camera, self.cadences.get(camera.id)))
            for camera in expand(scenario)
        ]
        left_s = self.asked.for_s - played_s
        # a suspicion may have every frame looked at
        busy = scenario.sampling.model_copy(update={"idle": scenario.sampling.suspect})
        looks = sum(looks_due(cadence, busy, scenario.speed) for _, cadence in cameras)
        windows = round(left_s / self.asked.window_s) + 1
        return need(cameras, left_s * scenario.speed, looks, left_s, windows)


def plan(given: Mapping[str, Any], load: Callable[[Mapping[str, Any]], Loaded]) -> Plan:
    """From what was asked on the command line, now or, of a resumed soak, then.

    `load` reads the scenario with the overrides that are given. UsageError for what cannot be.
    """
    loaded = load(given)
    scenario = loaded.scenario
    for_s = float(given["for_s"])
    if not for_s > 0:
        raise UsageError("--for: say how long, such as 8h")
    ramp = None if given["ramp"] is None else parse_ramp(given["ramp"])
    if ramp is not None and ramp.first < ramp.most and ramp.every_s >= for_s:
        raise UsageError(
            f"--ramp {given['ramp']}: its first step comes after {ramp.every_s:g} s, and the soak "
            f"ends at {for_s:g} s; soak longer, or let it grow sooner"
        )
    limits = {name: value for name, value in given["slo"].items() if value is not None}
    asked = Asked(
        for_s=for_s,
        window_s=window_length(for_s, given["window_s"], ramp),
        slo=_limits(scenario.slo, limits),
        memory_bytes=memory_bytes()
        if given["memory_limit"] is None
        else parse_bytes(given["memory_limit"], "--memory-limit"),
        ramp=ramp,
        score_up_to=given["score_up_to"],
    )
    faults = () if given["no_faults"] else scenario.faults
    if given["faults_every_s"] is not None:
        if given["no_faults"]:
            raise UsageError("--faults and --no-faults exclude each other; leave one out")
        if not faults:
            raise UsageError("--faults: the scenario has no `faults:` to repeat")
        faults = repeated(faults, given["faults_every_s"], for_s * scenario.speed)
    loaded = replace(loaded, scenario=scenario.model_copy(update={"faults": faults}))
    made = Plan(asked, loaded, {})
    return replace(made, cadences=_cadences(made.leg(0.0)))


def _limits(own: SLO, given: Mapping[str, Any]) -> SLO:
    """The scenario's, with those of the command line in their places."""
    try:
        return SLO.model_validate({**own.model_dump(), **given})
    except ValidationError as why:
        found = why.errors()[0]
        option = "--" + str(found["loc"][0]).replace("_", "-")
        raise UsageError(f"{option} {found['input']}: {found['msg'].lower()}") from None


def _cadences(loaded: Loaded) -> dict[str, float | None]:
    """What only the footage of a camera can tell; each recording is opened once."""
    told: dict[str, float | None] = {}
    scenario = loaded.scenario
    known: dict[str, float | None] = {}
    for camera in expand(scenario):
        native = camera.model_copy(update={"phase": None})
        if not told_by_source(native):
            continue
        key = camera.source_key
        if key not in known:
            source = open_source(camera, loaded.base, scenario.seed, scenario.duration)
            try:
                known[key] = Times.of(source).cadence_s
            finally:
                source.close()
        told[camera.id] = known[key]
    return told


def check_disk(told: Need, out: Path) -> str:
    """What it will take and what is free, in words. UsageError where it does not fit."""
    place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    text = f"disk: {told}; {free / 1e9:.1f} GB are free in {out}"
    if told.most_bytes > free:
        raise UsageError(f"{text}: that does not fit; choose another place with --out")
    return text


@contextmanager
def emptied(soak: SoakFolder) -> Iterator[None]:
    """Take the soak's folder away again where nothing was played: no leg, no window in it."""
    try:
        yield
    except BaseException:
        if not any(soak.path.glob("leg-*")):
            shutil.rmtree(soak.path, ignore_errors=True)
        raise


def finished(soak: SoakFolder, plan: Plan) -> Result:
    """Judge it, write what it came to, and the page."""
    scenario = plan.loaded.scenario
    found = result(soak, plan.asked, scenario.name, scenario.engine.name)
    told = orjson.loads(orjson.dumps(found.to_json()))
    knee = "" if found.knee is None else knee_line(found.knee)
    soak_page.write(soak.path, told, [verdict_cells(v) for v in found.verdicts], knee)
    return found
