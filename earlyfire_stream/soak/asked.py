"""What a soak is asked for, and the scenario of each of its legs. Nothing here touches the world.

A soak is played in one leg, or in several where the harness was killed and the soak resumed. Its
time is counted in wall seconds that were played: a leg begins where the last window that is known
ended, and plays what is left. The ramp and the faults go on from there; the cameras' footage, its
fires included, begins anew in every leg, as does each camera's count of frames.
"""

from __future__ import annotations

__all__ = [
    "Asked",
    "Ramp",
    "leg",
    "looks_due",
    "parse_bytes",
    "parse_ramp",
    "repeated",
    "steps",
    "unjudged",
    "window_length",
]

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from earlyfire_stream.errors import UsageError
from earlyfire_stream.reel import DEFAULT_CADENCE_S
from earlyfire_stream.scenario.fleet import expand, phases
from earlyfire_stream.scenario.models import SLO, Camera, Fault, Sampling, Scenario
from earlyfire_stream.scenario.units import parse_seconds
from earlyfire_stream.scoring.statistics import MIN_CLUSTERS
from earlyfire_stream.scoring.trend import MIN_POINTS

LONGEST_WINDOW_S = 300.0
WINDOWS = 12
"""Of a short soak: one for warming up and eleven to judge by."""
WINDOWS_A_STEP = 2
"""The first of a ramp's step is the change itself; the later ones are judged."""
SHORTEST_WINDOW_S = 0.5
_RAMP = re.compile(r"cameras=(\d+):(\d+):\+(\d+)/(\S+)", re.ASCII)
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ramp:
    """`first` cameras to begin with, `by` more every `every_s` wall seconds, up to `most`."""

    first: int
    most: int
    by: int
    every_s: float

    def at(self, second: float) -> int:
        """How many cameras play then. 10:200:+10/5m: 10 at 299 s, 20 at 300 s, 200 from 5700 s."""
        return min(self.most, self.first + self.by * int(second // self.every_s))

    def begins_s(self, place: int) -> float:
        """When the camera of that place in the fleet, from 0, begins."""
        return self.every_s * max(0, math.ceil((place + 1 - self.first) / self.by))

    @property
    def full_s(self) -> float:
        """When the last camera begins."""
        return self.begins_s(self.most - 1)

    def __str__(self) -> str:
        return f"cameras={self.first}:{self.most}:+{self.by}/{self.every_s:g}s"


@dataclass(frozen=True, slots=True)
class Asked:
    """A soak, before anything is played. Durations in wall seconds."""

    for_s: float
    window_s: float
    slo: SLO
    memory_bytes: int
    """What a process may grow to."""
    ramp: Ramp | None = None
    score_up_to: int = 1_000_000
    """Frames of a leg beyond which its full score is left out."""

    def is_over(self, played_s: float) -> bool:
        """Nothing is left that would be a window: less than half of one is none."""
        return self.for_s - played_s < self.window_s / 2


def parse_ramp(text: str) -> Ramp:
    found = _RAMP.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        ramp = Ramp(int(found[1]), int(found[2]), int(found[3]), parse_seconds(found[4]))
    except ValueError:
        raise UsageError(
            f"--ramp {text!r:.80}: write cameras=10:200:+10/5m, ten cameras first and ten more "
            "every five minutes up to 200"
        ) from None
    if not (1 <= ramp.first <= ramp.most <= 10_000 and ramp.by >= 1 and ramp.every_s >= 1):
        raise UsageError(
            f"--ramp {text}: from 1 to 10,000 cameras, at least one more each time, 1 s apart or "
            "more"
        )
    return ramp


def parse_bytes(text: str, option: str) -> int:
    """`500MB` → 500,000,000; `2GiB` → 2,147,483,648. UsageError for 0 and else."""
    found = _BYTES.fullmatch(text)
    if found is None or float(found[1]) == 0:
        raise UsageError(f"{option} {text!r:.40}: is no size above 0; write 500MB or 2GiB")
    power = "kMGT".find(found[2].replace("K", "k")) + 1 if found[2] else 0
    unit: int = (1024 if found[3] else 1000) ** power
    return round(float(found[1]) * unit)


def window_length(for_s: float, asked_s: float | None, ramp: Ramp | None) -> float:
    """Wall seconds of a window: 5 min, less where that gives under twelve, or two a step of a ramp.

    8 h → 300 s; 30 min → 150 s; a ramp with steps of 5 min → 150 s. A ramp's step holds a whole
    number of them, also of those that are asked for.
    """
    length_s = min(LONGEST_WINDOW_S, for_s / WINDOWS) if asked_s is None else asked_s
    if ramp is not None:
        length_s = ramp.every_s / max(WINDOWS_A_STEP, math.ceil(ramp.every_s / length_s - 1e-9))
    if length_s < SHORTEST_WINDOW_S or length_s > for_s:
        raise UsageError(
            f"windows of {length_s:g} s in a soak of {for_s:g} s: they last at least "
            f"{SHORTEST_WINDOW_S:g} s, and no longer than the soak; choose --for and --window"
        )
    return length_s


def repeated(faults: Sequence[Fault], every_s: float, until_s: float) -> tuple[Fault, ...]:
    """The faults again and again, `every_s` scenario seconds apart, as long as they begin in time.

    Of the second round on a fault's name has its round behind it: `outage`, `outage.2`.
    """
    if not every_s > 0:
        raise UsageError(f"--faults {every_s:g}s: say how often, such as 30m")
    last = max((fault.until for fault in faults), default=0.0)
    if last > every_s:
        raise UsageError(
            f"--faults {every_s:g}s: the scenario's faults take {last:g} s; repeat them less often"
        )
    again: list[Fault] = []
    for round_number in itertools.count():
        shift = round_number * every_s
        begun = [_moved(fault, shift, round_number) for fault in faults]
        begun = [fault for fault in begun if fault.start < until_s]
        if not begun:
            return tuple(again)
        again += begun
    raise AssertionError("rounds have no end")


def _moved(fault: Fault, shift: float, round_number: int) -> Fault:
    name = fault.id or fault.kind
    return fault.model_copy(
        update={
            "id": fault.id if round_number == 0 else f"{name}.{round_number + 1}",
            "start": fault.start + shift,
            "end": None if fault.end is None else fault.end + shift,
        }
    )


def leg(
    scenario: Scenario,
    asked: Asked,
    played_s: float,
    cadences: Mapping[str, float | None] | None = None,
) -> Scenario:
    """The scenario of the leg that begins after `played_s` wall seconds of the soak.

    `scenario.faults` lie in the soak's time. `cadences` are those of sources that know their own.
    UsageError where a camera's footage ends by itself.
    """
    if scenario.clock == "virtual":
        raise UsageError("a soak needs the wall clock: virtual time loads nothing")
    for camera in scenario.cameras:
        sources = (camera.source, *(camera.vary.sources if camera.vary else ()))
        for source in sources:
            if source.kind in ("images", "stills") or (source.kind == "video" and not source.loop):
                remedy = "write loop: true" if source.kind == "video" else "use a looped video"
                raise UsageError(
                    f"camera {camera.id}: its footage ({source.kind}) ends by itself, and a soak "
                    f"goes on; {remedy}, a synthetic source or a stream"
                )
    begun = played_s * scenario.speed
    changed: dict[str, object] = {
        "duration": (asked.for_s - played_s) * scenario.speed,
        "faults": tuple(_from_here(scenario.faults, begun)),
    }
    if asked.ramp is not None:
        changed["cameras"] = _ramped(scenario, asked.ramp, played_s, cadences or {})
    return scenario.model_copy(update=changed)


def _from_here(faults: Sequence[Fault], begun: float) -> list[Fault]:
    """Those that are not over yet, in the leg's own time."""
    left = []
    for fault in faults:
        start = fault.start - begun
        if fault.end is None:
            if start >= 0:
                left.append(fault.model_copy(update={"start": start}))
        elif fault.end > begun:
            changed = {"start": max(0.0, start), "end": fault.end - begun}
            left.append(fault.model_copy(update=changed))
    return left


def _ramped(
    scenario: Scenario, ramp: Ramp, played_s: float, cadences: Mapping[str, float | None]
) -> tuple[Camera, ...]:
    """The whole fleet of the ramp, each camera begun in its turn by its phase.

    A scenario with one camera is played in as many copies; several are played again and again in
    their order, the second time as `<id>.2`.
    """
    if len(scenario.cameras) == 1:
        entry = scenario.cameras[0].model_copy(update={"count": ramp.most})
        fleet = list(expand(scenario.model_copy(update={"cameras": (entry,)})))
    else:
        own = expand(scenario)
        fleet = []
        for place in range(ramp.most):
            round_number, which = divmod(place, len(own))
            camera = own[which]
            name = camera.id if round_number == 0 else f"{camera.id}.{round_number + 1}"
            fleet.append(camera.model_copy(update={"id": name}))
    offsets = phases(fleet, cadences)
    cameras = []
    for place, camera in enumerate(fleet):
        wait_s = max(0.0, ramp.begins_s(place) - played_s) * scenario.speed
        cameras.append(camera.model_copy(update={"phase": round(offsets[camera.id] + wait_s, 6)}))
    return tuple(cameras)


def steps(ramp: Ramp, for_s: float) -> list[tuple[float, float, int]]:
    """(begin, end, cameras) of each step; the last lasts to the end of the soak. Wall seconds."""
    edges = [k * ramp.every_s for k in range(round(ramp.full_s / ramp.every_s) + 1)]
    edges = [edge for edge in edges if edge < for_s]
    return [(begin, end, ramp.at(begin)) for begin, end in itertools.pairwise([*edges, for_s])]


def unjudged(asked: Asked) -> str | None:
    """What cannot be judged however it goes, said before it is played; None where all can be.

    A slope takes MIN_POINTS windows after warming up, or after a ramp's last step; an interval of
    p95 takes MIN_CLUSTERS.
    """
    ramp = asked.ramp
    if ramp is not None and ramp.full_s >= asked.for_s:
        most = steps(ramp, asked.for_s)[-1][2]
        return (
            f"--ramp {ramp}: its last step comes after {ramp.full_s:g} s, and the soak ends at "
            f"{asked.for_s:g} s with {most} cameras: the knee will be told, but no limit judged"
        )
    begin_s = asked.window_s if ramp is None else ramp.full_s
    windows = math.floor((asked.for_s - begin_s) / asked.window_s + 0.5)
    what, least = "memory and slowing down are", MIN_POINTS
    if asked.slo.p95_latency is not None:
        what, least = "p95 latency is", MIN_CLUSTERS
    if windows >= least:
        return None
    whence = "after warming up" if ramp is None else "after the ramp's last step"
    return (
        f"{windows} windows {whence}, and {what} judged by {least} or more: soak longer, or give a "
        "shorter --window"
    )


def looks_due(cadence_s: float | None, sampling: Sampling, speed: float) -> float:
    """Looks a wall second that a quiet camera is due, while nothing makes sampling hold back.

    `every` looks at each frame; else at the first frame that comes `idle` or more after the last
    look: at 1 fps and idle 5 s every 5 s, at a frame every 2 s every 6 s.
    """
    cadence = cadence_s or DEFAULT_CADENCE_S
    if sampling.policy == "every":
        return speed / cadence
    return speed / (max(1, math.ceil(sampling.idle / cadence - 1e-9)) * cadence)
