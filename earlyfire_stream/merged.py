"""Several run folders read as one: watchers of one fleet, or parts of a fleet that ran apart.

Watchers (`consume --shard k/n`) share the log of their cameras; parts (`run --shards k/n`) each
have their own. A watcher that was started again in a new folder is one part with two sessions:
frames that the later one was away for have the fate that the earlier one knows.

What does not belong together is refused before a log is opened, since a sum of strangers would look
like a score. The whole is written as a folder of its own that names its parts, so that every
command reads it as it reads any other; nothing is copied.
"""

from __future__ import annotations

__all__ = ["Whole", "load", "load_part", "whole"]

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from earlyfire_stream.errors import RunFolderError, UsageError
from earlyfire_stream.records import (
    CAMERAS_LOG,
    RUN_FILE,
    CameraPlan,
    FaultPlan,
    FrameTable,
    RunLog,
    ShotTable,
    read_faults,
    read_logs,
    read_plans,
    read_run,
    write_json,
)
from earlyfire_stream.records import load as load_part
from earlyfire_stream.verdict import Fate, Reason

ELSEWHERE = ("engine.url", "engine.workers")
"""Settings that say where the engine is, not what it does: parts may each have their own."""
ENGINE = (
    "name",
    "model",
    "prompt",
    "coord_space",
    "resize_mode",
    "min_tokens",
    "max_tokens",
    "clips",
)
"""What two engines must have in common to be one."""
NAMED = 5
"""Cameras, frames or parts named in a message."""


def load(folder: Path, cameras: Path | None = None) -> RunLog:
    """Read a run folder, or one that `Whole.write` left."""
    run = read_run(folder)
    parts = run.get("parts")
    if parts is None:
        return load_part(folder, cameras)
    if cameras is not None:
        raise UsageError(f"{folder}: names its cameras' log itself; leave --cameras out")
    try:
        beside = parts["cameras"]
        folders = [folder / name for name in parts["folders"]]
        return whole(
            folders, None if beside is None else folder / beside, partial=parts["partial"]
        ).read()
    except (LookupError, TypeError) as why:
        raise RunFolderError(f"{folder / RUN_FILE}: its parts cannot be read: {why}") from why


@dataclass(frozen=True, slots=True)
class Whole:
    """Folders that belong together; see `whole`."""

    run: Mapping[str, Any]
    """What run.json would say had one process done it all."""
    plans: Sequence[CameraPlan]
    folders: Sequence[Path]
    cameras: Path | None
    """The folder with the log of the cameras that all watched; None where each part has its own."""
    partial: bool
    doubts: Sequence[str]
    unended: frozenset[str]
    """Cameras of parts that are not complete."""
    again: bool
    """A watcher was started again: frames that it was away for may have a fate in two sessions."""

    def read(self) -> RunLog:
        """All their logs as one."""
        sides = self.folders if self.cameras is None else [self.cameras]
        log = read_logs(self.run, self.plans, sides, self.folders)
        if self.again:
            log = replace(log, frames=_once(FrameTable.of(log.frames)))
        if self.partial:
            log = replace(log, shots=ShotTable.of(log.shots).only({p.id for p in self.plans}))
        # What a process notes of itself every ten seconds makes no curve together with others.
        notes = [note for note in log.notes if note["what"] != "pulse"]
        notes.sort(key=lambda note: note["wall_ns"])
        doubts = (*self.doubts, *self._swallowed(log))
        return replace(log, notes=notes, folders=self.folders, doubts=doubts)

    def _swallowed(self, log: RunLog) -> Iterator[str]:
        """Where a part was killed, the ledger takes every frame without a fate for that part's."""
        if not self.unended or len(self.unended) == len(self.plans):
            return
        shots, frames = ShotTable.of(log.shots), FrameTable.of(log.frames)
        told = set(_keys(frames))
        unsent = shots.column("unsent").tolist()
        untold = [
            key
            for key, why in zip(_keys(shots), unsent, strict=True)
            if not why and key not in told and key[0] not in self.unended
        ]
        if untold:
            named = ", ".join(f"{camera}/{seq}" for camera, seq in untold[:NAMED])
            yield (
                f"frames without a fate in parts that say they are complete: {len(untold):,} "
                f"({named}); the ledger counts them as abandoned(killed)"
            )

    def write(self, output: Path) -> None:
        """Make `output` the folder of the whole; it names its parts by the way from itself."""
        if (output / RUN_FILE).exists() and read_run(output).get("parts") is None:
            raise UsageError(f"{output}: is the folder of a run itself; name another with --output")

        def way(folder: Path) -> str:
            return os.path.relpath(folder.resolve(), output.resolve())

        parts = {
            "folders": [way(folder) for folder in self.folders],
            "cameras": None if self.cameras is None else way(self.cameras),
            "partial": self.partial,
        }
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise RunFolderError(
                f"{output}: cannot be made: {why.strerror}; name another with --output"
            ) from why
        write_json(output / RUN_FILE, {**self.run, "parts": parts})


@dataclass(frozen=True, slots=True)
class _Part:
    """One folder, and which cameras of the fleet are its."""

    folder: Path
    run: Mapping[str, Any]
    plans: Sequence[CameraPlan] = field(repr=False)
    kind: str
    """`shards` of one fleet's topics, `cameras` that ran by themselves, or `all`."""
    name: str
    """`1/4` for people; empty for a whole."""
    digest: str
    """Of the whole fleet's scenario."""
    fleet: int
    places: Sequence[int]
    """Of its cameras among those of the fleet."""


def whole(folders: Sequence[Path], cameras: Path | None = None, *, partial: bool = False) -> Whole:
    """What these folders are together; UsageError, by name, for what does not belong together.

    `partial`: cameras that are in none of them are left out of the score instead of refused.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("one run folder is named twice; name each part once")
    parts = [_part(folder) for folder in folders]
    first = parts[0]
    for part in parts[1:]:
        _check_alike(first, part)
    _check_apart(parts)
    plans, doubts = _fleet(parts, cameras, partial)
    # A later session that is complete has given a fate to all that the earlier ones had not.
    ended = {plan.id for part in parts if part.run["complete"] for plan in part.plans}
    unended = frozenset(plan.id for plan in plans) - ended
    versions = {str((part.run.get("versions") or {}).get("earlyfire-stream")) for part in parts}
    if len(versions) > 1:
        doubts.append(f"parts of different versions: {', '.join(sorted(versions))}")
    unfinished = [str(p.folder) for p in parts if any(plan.id in unended for plan in p.plans)]
    if unfinished:
        doubts.append(f"parts that are not complete: {', '.join(unfinished)}")
    run = _run_of(parts, plans, not unended)
    again = sum(len(part.plans) for part in parts) > len(plans)
    return Whole(run, plans, tuple(folders), cameras, partial, tuple(doubts), unended, again)


# --- one part ------------------------------------------------------------------------------------


def _part(folder: Path) -> _Part:
    run = read_run(folder)
    if run.get("parts") is not None:
        raise UsageError(f"{folder}: was scored from several folders itself; name those")
    if run.get("engine") is None:
        raise UsageError(f"{folder}: only cameras played there; name it with --cameras")
    plans, told = read_plans(run), run.get("part")
    if told is None:
        if not plans:
            raise UsageError(
                f"{folder}: watched other people's cameras, of which nothing is known; it cannot "
                "be part of a whole"
            )
        count = len(plans)
        return _Part(folder, run, plans, "all", "", run["digest"], count, range(count))
    try:
        kind, name, digest = str(told["of"]), str(told["name"]), str(told["digest"])
        fleet, places = int(told["cameras"]), [int(place) for place in told["places"]]
    except (LookupError, TypeError, ValueError) as why:
        raise RunFolderError(
            f"{folder / RUN_FILE}: which part it is cannot be read: {why}"
        ) from why
    if len(places) != len(plans) or any(not 0 <= place < fleet for place in places):
        raise RunFolderError(f"{folder / RUN_FILE}: its part and its cameras contradict each other")
    return _Part(folder, run, plans, kind, name, digest, fleet, places)


# --- what belongs together -----------------------------------------------------------------------


def _check_alike(first: _Part, other: _Part) -> None:
    """UsageError unless both are of one run of one setting."""

    def refuse(why: str) -> UsageError:
        return UsageError(
            f"{other.folder} and {first.folder} are not parts of one run: {why}; runs of their own "
            "are held against each other with `earlyfire compare`"
        )

    if (other.digest, other.fleet) != (first.digest, first.fleet):
        raise refuse("they play another scenario, seed or duration")
    if "cameras" in (first.kind, other.kind) and first.kind != other.kind:
        raise refuse("one watched a fleet that others played, the other played its own cameras")
    for name in ("clock", "speed"):
        if other.run.get(name) != first.run.get(name):
            raise refuse(f"{name} {other.run.get(name)} instead of {first.run.get(name)}")
    ours, theirs = _settings(first.run), _settings(other.run)
    for key in dict.fromkeys((*ours, *theirs)):
        if ours.get(key) != theirs.get(key):
            raise refuse(f"{key} {_text(theirs.get(key))} instead of {_text(ours.get(key))}")
    if first.kind == "cameras":
        return
    if other.run.get("run") != first.run.get("run"):
        raise refuse(f"run {_text(other.run.get('run'))} instead of {_text(first.run.get('run'))}")
    if other.run.get("start_ns") != first.run.get("start_ns"):
        raise refuse("the fleets that they watched began at different times")


def _settings(run: Mapping[str, Any]) -> dict[str, object]:
    """Every setting by its place, what the engine told of itself included."""
    told = run.get("engine")
    engine = {key: told.get(key) for key in ENGINE} if isinstance(told, dict) else {}
    flat = {f"used engine.{key}": value for key, value in engine.items()}
    for part, values in run["settings"].items():
        flat |= {f"{part}.{key}": value for key, value in values.items()}
    return {key: value for key, value in flat.items() if key not in ELSEWHERE}


def _text(value: object) -> str:
    """A run folder may be a stranger's: no control characters, and not for ever."""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return ascii(text)[1:-1][:60]


def _check_apart(parts: Sequence[_Part]) -> None:
    """UsageError where two parts have one camera, unless they are sessions of one watcher."""
    seen: dict[str, _Part] = {}
    for part in parts:
        for plan in part.plans:
            if (other := seen.setdefault(plan.id, part)) is part:
                continue
            if part.kind != "cameras" and list(part.places) == list(other.places):
                break  # a later session of the same watcher
            raise UsageError(
                f"{part.folder} and {other.folder} both watched camera {_text(plan.id)}; name one "
                "folder for each part"
            )


def _fleet(
    parts: Sequence[_Part], cameras: Path | None, partial: bool
) -> tuple[tuple[CameraPlan, ...], list[str]]:
    """The cameras in the fleet's own order, and what is doubtful about them."""
    places = {place: plan for p in parts for place, plan in zip(p.places, p.plans, strict=True)}
    doubts = []
    names: Sequence[CameraPlan] = ()
    if cameras is not None:
        side = read_run(cameras)
        first = parts[0]
        if first.kind == "cameras":
            raise UsageError("--cameras: each of these parts has the log of its own cameras")
        if (side["digest"], side.get("run")) != (first.digest, first.run.get("run")):
            raise UsageError(f"{cameras}: plays another scenario or run than {first.folder}")
        if side.get("start_ns") != first.run.get("start_ns"):
            raise UsageError(
                f"{cameras}: these are not the cameras that {first.folder} watched: they began at "
                "another time"
            )
        names = read_plans(side)
        known = {plan.id: plan for plan in names}
        places = {place: known.get(plan.id, plan) for place, plan in places.items()}
    elif not any(any(p.folder.glob(f"{CAMERAS_LOG.removesuffix('.jsonl')}*")) for p in parts):
        doubts.append("name the folder of the cameras with --cameras to prove the ledger")
    missing = [place for place in range(parts[0].fleet) if place not in places]
    if missing:
        told = _missing(parts, [names[place].id for place in missing if place < len(names)])
        if not partial:
            raise UsageError(
                f"{len(missing):,} of {parts[0].fleet:,} cameras are in none of these folders"
                f"{told}; name the missing part's folder as well, or score what is there with "
                "--partial"
            )
        doubts.append(
            f"partial: {len(missing):,} of {parts[0].fleet:,} cameras are in none of the folders "
            f"and left out{told}"
        )
    return tuple(places[place] for place in sorted(places)), doubts


def _missing(parts: Sequence[_Part], cameras: Sequence[str]) -> str:
    """` (north, south, …; missing: 1/4, 3/4)`, as far as it is known."""
    said = []
    if cameras:
        more = ", …" if len(cameras) > NAMED else ""
        said.append(", ".join(map(_text, cameras[:NAMED])) + more)
    names = {part.name for part in parts}
    sizes = {name.partition("/")[2] for name in names}
    if len(sizes) == 1 and (size := sizes.pop()).isdigit():
        lacking = [
            f"{k}/{size}" for k in range(min(int(size), 10_000)) if f"{k}/{size}" not in names
        ]
        more = ", …" if len(lacking) > NAMED else ""
        said.append(f"missing: {', '.join(lacking[:NAMED])}{more}")
    return f" ({'; '.join(said)})" if said else ""


# --- what the whole says of itself ---------------------------------------------------------------


def _run_of(parts: Sequence[_Part], plans: Sequence[CameraPlan], complete: bool) -> dict[str, Any]:
    first = parts[0]
    runs = [part.run for part in parts]
    played = [run.get("played_s") for run in runs if run["complete"]]
    watchers = len({tuple(part.places) for part in parts})
    settings = {name: dict(values) for name, values in first.run["settings"].items()}
    rate = settings.get("budget", {}).get("tokens_per_s")
    if isinstance(rate, int | float):
        settings["budget"]["tokens_per_s"] = rate * watchers  # each has its own budget
    names = list(dict.fromkeys(str(run.get("run")) for run in runs))
    brokers = list(dict.fromkeys(str(run.get("broker")) for run in runs))
    hosts = [run.get("host") for run in runs]
    return {
        **{key: value for key, value in first.run.items() if key != "part"},
        "run": names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more",
        "digest": first.digest,
        "cameras": plans,
        "faults": _faults_of(parts, plans),
        "settings": settings,
        "broker": ", ".join(brokers[:NAMED]),
        "host": hosts[0] if all(host == hosts[0] for host in hosts) else {"parts": len(parts)},
        "start_ns": min((run.get("start_ns") or 0 for run in runs), default=0),
        "complete": complete,
        "interrupted": any(run.get("interrupted") for run in runs),
        "played_s": max((s for s in played if s is not None), default=None) if complete else None,
        "warnings": [
            f"{part.folder.name}: {text}"
            for part in parts
            for text in part.run.get("warnings") or ()
        ],
    }


def _faults_of(parts: Sequence[_Part], plans: Sequence[CameraPlan]) -> list[dict[str, Any]]:
    """Each fault once, with the cameras that it meets in any part; none named means all."""
    told: dict[str, list[FaultPlan]] = {}
    for part in parts:
        for fault in read_faults(part.run):
            told.setdefault(fault.id, []).append(fault)
    found = []
    for same in told.values():
        everywhere = not all(fault.cameras for fault in same)
        met = [p.id for p in plans if any(p.id in fault.cameras for fault in same)]
        found.append({**asdict(same[0]), "cameras": [] if everywhere else met})
    return sorted(found, key=lambda fault: float(fault["start"]))


def _once(frames: FrameTable) -> FrameTable:
    """Of a frame that one session knows and another was away for, only the session that knows.

    Two sessions that both know it stay: somebody watched twice, and the ledger says so.
    """
    if not len(frames):
        return frames
    lost, down = tuple(Fate).index(Fate.LOST), tuple(Reason).index(Reason.CONSUMER_DOWN)
    away = (frames.column("fate") == lost) & (frames.column("reason") == down)
    keys = list(_keys(frames))
    told = {key for key, missed in zip(keys, away.tolist(), strict=True) if not missed}
    gone = np.zeros(len(frames), bool)
    for place in np.flatnonzero(away).tolist():
        gone[place] = keys[place] in told
        told.add(keys[place])
    return frames.without(gone)


def _keys(table: ShotTable | FrameTable) -> Iterator[tuple[str, int]]:
    names = table.cameras
    cameras = table.column("camera").tolist() if len(table) else []
    seqs = table.column("seq").tolist() if len(table) else []
    return zip(map(names.__getitem__, cameras), seqs, strict=True)
