"""From a scenario to the cameras that are played: copies, their variation, their phases.

Every draw is a hash of the scenario's seed, the camera's id and the copy, so that a camera stays
what it is when others are added, moved or removed.
"""

from __future__ import annotations

__all__ = [
    "camera_plan",
    "copies",
    "declared_cadence",
    "expand",
    "in_shard",
    "matches",
    "phases",
    "plan",
    "planned_faults",
    "plays_native_times",
    "scripted",
    "share",
    "told_by_source",
]

import hashlib
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from earlyfire_stream.records import CameraPlan, FaultPlan, FirePlan
from earlyfire_stream.scenario.models import Camera, Fault, Fire, Scenario, Source, Vary, fault_ids

GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, modulo 1, stay nearly even however many there are."""


def copies(camera_id: str, count: int) -> tuple[str, ...]:
    """The ids that a camera with `count` is played under; ("a",) for ("a", 1)."""
    if count == 1:
        return (camera_id,)
    return tuple(f"{camera_id}-{n:03d}" for n in range(1, count + 1))


def expand(scenario: Scenario) -> tuple[Camera, ...]:
    """Every camera by itself: no `count`, no `vary`, each synthetic source with its seed."""
    played: list[Camera] = []
    for camera in scenario.cameras:
        ids = copies(camera.id, camera.count)
        distinct = (camera.vary.distinct if camera.vary else None) or camera.count
        first = [_variation(camera, n, distinct, scenario.seed) for n in range(distinct)]
        for n, camera_id in enumerate(ids):
            played.append(first[n % distinct].model_copy(update={"id": camera_id}))
    return tuple(played)


def share(scenario: Scenario, k: int, n: int, groups: Mapping[str, str] | None = None) -> Scenario:
    """The scenario with the cameras of the k-th of n parts, from 0.

    A camera's part follows from what it belongs to (`groups`, by camera): where nothing is said
    there, its first fire, or itself. It stays where it is when others are added, and all that see
    a fire stay together.
    """
    told = groups or {}
    cameras = expand(scenario)
    kept = [
        c
        for c in cameras
        if in_shard(told.get(c.id) or (c.fires[0].id if c.fires else c.id), (k, n))
    ]
    return scenario.model_copy(update={"cameras": tuple(kept)})


def in_shard(group: str, shard: tuple[int, int] | None) -> bool:
    """Does what is called `group` (a fire, or a camera without one) fall into part k of n?"""
    return shard is None or _below(shard[1], "shard", group) == shard[0]


def phases(
    cameras: Sequence[Camera], cadences: Mapping[str, float | None] | None = None
) -> dict[str, float]:
    """Seconds from the scenario's start to each camera's first frame, by camera id.

    Staggered over each cadence, since a fleet that publishes at one instant would measure its own
    burst. Cameras that share rendered pictures also share a phase, or sharing would be in vain.
    `cadences` are the ones of the sources themselves, for cameras that declare none. A camera added
    at the end moves no other.
    """
    offsets: dict[str, float] = {}
    used: dict[float, int] = {}
    shared: dict[tuple[str, float], float] = {}
    for camera in cameras:
        cadence = declared_cadence(camera, (cadences or {}).get(camera.id)) or 1.0
        if camera.phase is not None:
            offsets[camera.id] = camera.phase
            continue
        key = (camera.source_key, cadence)
        if camera.source.kind == "synthetic" and key in shared:
            offsets[camera.id] = shared[key]
            continue
        n = used.get(cadence, 0)
        used[cadence] = n + 1
        offsets[camera.id] = shared[key] = round(n * GOLDEN % 1.0 * cadence, 3)
    return offsets


def declared_cadence(camera: Camera, native_s: float | None = None) -> float | None:
    """Seconds between two frames; None for stills, which have no clock.

    `native_s` is what the source's own times amount to, for videos and images.
    """
    if camera.source.kind == "stills":
        return None
    if camera.cadence is not None:
        return camera.cadence
    if camera.source.kind == "images" and camera.source.interval is not None:
        return camera.source.interval
    return native_s or 1.0


def plays_native_times(camera: Camera) -> bool:
    """True if the camera publishes each frame of its source, at the source's own distances.

    Its phase then delays all that it shows; elsewhere a phase only chooses other instants.
    """
    return camera.cadence is None and camera.source.kind in ("images", "video")


def told_by_source(camera: Camera) -> bool:
    """True if only its opened source can tell its cadence, and with it its phase in the fleet."""
    listed = camera.source.kind == "images" and camera.source.interval is not None
    return camera.phase is None and plays_native_times(camera) and not listed


def camera_plan(camera: Camera, cadence_s: float | None, begins_at: float = 0.0) -> CameraPlan:
    """What the scorer must know of an expanded camera.

    `begins_at` is the scenario second at which its source begins: its phase if it plays native
    times, else 0. Its fires are delayed by as much; outages stand in scenario time already.
    """
    return CameraPlan(
        id=camera.id,
        fires=tuple(
            FirePlan(
                f.id,
                f.onset + begins_at,
                None if f.end is None else f.end + begins_at,
                f.onset_source,
            )
            for f in camera.fires
        ),
        cadence_s=cadence_s,
        truth=camera.truth and camera.source.kind != "stream",
        ignore=camera.ignore,
        outages=tuple((w.start, w.end) for w in camera.outages),
        network_outages=tuple((w.start, w.end) for w in camera.network.outages),
    )


def planned_faults(scenario: Scenario) -> tuple[FaultPlan, ...]:
    """The plans of the scripted faults, in order of their start."""
    return tuple(plan for _, plan in scripted(scenario))


def scripted(scenario: Scenario) -> tuple[tuple[Fault, FaultPlan], ...]:
    """Each fault with the cameras that it meets, in order of their start.

    A fault that meets none of the cameras there are is left out: they play in another part of the
    fleet, and an empty list would mean all of these.
    """
    cameras = [camera.id for camera in expand(scenario)]
    found = []
    for name, fault in zip(fault_ids(scenario.faults), scenario.faults, strict=True):
        met = tuple(c for c in cameras if matches(c, fault.cameras))
        if fault.cameras and not met:
            continue
        found.append((fault, FaultPlan(name, fault.kind, fault.start, fault.until, met)))
    return tuple(sorted(found, key=lambda one: one[1].start))


def matches(camera: str, patterns: Sequence[str]) -> bool:
    """Is the camera's id one of these, or does it follow one of the patterns (`ridge-*`)?"""
    return any(fnmatchcase(camera, pattern) for pattern in patterns)


def plan(
    cameras: Sequence[Camera], cadences: Mapping[str, float | None], offsets: Mapping[str, float]
) -> tuple[CameraPlan, ...]:
    """The plans of a whole fleet, from its sources' own cadences and its phases."""
    return tuple(
        camera_plan(
            camera,
            declared_cadence(camera, cadences.get(camera.id)),
            offsets[camera.id] if plays_native_times(camera) else 0.0,
        )
        for camera in cameras
    )


def _variation(camera: Camera, n: int, distinct: int, seed: int) -> Camera:
    """The n-th of a camera's `distinct` variations, from 0, still under the camera's own id."""
    alone = camera.count == 1
    key = (seed, camera.id) if alone else (seed, camera.id, n)
    vary = camera.vary or Vary()
    source: Source = camera.source
    if vary.sources:
        source = vary.sources[_below(len(vary.sources), *key, "source")]
    perturb = camera.perturb
    if vary.heights:
        height = vary.heights[_below(len(vary.heights), *key, "height")]
        if source.kind == "synthetic":
            source = source.model_copy(update={"size": (round(height * 16 / 18) * 2, height)})
        else:
            perturb = perturb.model_copy(update={"height": height})
    if source.kind == "synthetic" and (source.seed is None or not alone):
        chosen = () if source.seed is None else (source.seed,)
        source = source.model_copy(update={"seed": _below(2**32, *key, "scene", *chosen)})
    fires = camera.fires
    if not alone:
        fires = _fires_of_copy(camera, n, distinct, seed, vary)
    changed = {"source": source, "perturb": perturb, "fires": fires, "count": 1, "vary": None}
    return camera.model_copy(update=changed)


def _fires_of_copy(
    camera: Camera, n: int, distinct: int, seed: int, vary: Vary
) -> tuple[Fire, ...]:
    # the share is met exactly (to rounding), so that small fleets do not end up without fires
    order = sorted(range(distinct), key=lambda i: _hash(seed, camera.id, i, "has_fire"))
    if n not in order[: round(vary.fire_share * distinct)]:
        return ()
    shift = round(_share(seed, camera.id, n, "onset") * vary.onset, 3)
    return tuple(
        fire.model_copy(
            update={
                "id": f"{fire.id}-{n + 1:03d}",
                "onset": round(fire.onset + shift, 3),
                "end": None if fire.end is None else round(fire.end + shift, 3),
                "boxes": tuple(b.model_copy(update={"at": b.at + shift}) for b in fire.boxes),
            }
        )
        for fire in camera.fires
    )


def _hash(*parts: object) -> int:
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _below(bound: int, *parts: object) -> int:
    return _hash(*parts) * bound >> 64


def _share(*parts: object) -> float:
    """A number from 0 to below 1."""
    return (_hash(*parts) >> 11) / 2**53
