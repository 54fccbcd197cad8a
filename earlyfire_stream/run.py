"""One run: opens everything, plays, closes everything, scores.

`play` does both halves in one process. `play_cameras` and `play_consumer` are the halves by
themselves, for two terminals or two machines; all they share is a broker and the run's topic.

A run's folder appears when everything stands, its run.json in it: what failed or was stopped
before leaves nothing behind, and what is killed later can be scored.
"""

from __future__ import annotations

__all__ = ["Options", "Outcome", "play", "play_cameras", "play_consumer", "rescore"]

import asyncio
import contextlib
import errno
import itertools
import os
import platform
import re
import resource
import secrets
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from earlyfire_stream import __version__
from earlyfire_stream.camera import Fleet
from earlyfire_stream.clock import Clock
from earlyfire_stream.consumer import Consumer, Seat
from earlyfire_stream.engines import create
from earlyfire_stream.engines.base import Engine
from earlyfire_stream.errors import Interrupted, RunFolderError, TransportError, UsageError
from earlyfire_stream.frames import shard_of
from earlyfire_stream.records import (
    CAMERAS_LOG,
    RECORDS_LOG,
    RUN_FILE,
    AlarmRecord,
    CameraPlan,
    FrameRecord,
    Log,
    Observer,
    RunLog,
    Shot,
    Snapshot,
    load,
    write_json,
)
from earlyfire_stream.reel import AheadReel, BlankReel, Film, InlineReel, Reel, Shelf, Times, close
from earlyfire_stream.scenario.fleet import (
    camera_plan,
    declared_cadence,
    expand,
    plays_native_times,
)
from earlyfire_stream.scenario.load import Loaded, digest, resolved
from earlyfire_stream.scenario.models import Camera, Scenario
from earlyfire_stream.scoring import Score, score
from earlyfire_stream.sources.base import Label, LiveSource, Source
from earlyfire_stream.sources.stream import open_live
from earlyfire_stream.transport.address import BrokerAddress
from earlyfire_stream.transport.base import Control, Inlet, Link
from earlyfire_stream.transport.broker import BrokerKind, embedded_broker
from earlyfire_stream.transport.memory import MemoryHub
from earlyfire_stream.transport.mqtt import MqttInlet, MqttLink
from earlyfire_stream.transport.network import NetworkLink

LEAD_S = 1.0
"""Wall seconds between everything being ready and scenario second 0."""
KEY_FRAMES = 200
"""Alarm frames that a run folder keeps."""
PULSE_S = 10.0
"""Wall seconds between two notes of the process's own state."""
ECHO_S = 10.0
"""Wall seconds within which the broker must bring our own control message back."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a scenario, beside what the scenario says."""

    broker: BrokerKind | Literal["memory"] | BrokerAddress = "auto"
    """`auto`, `mosquitto` and `amqtt` are private brokers of this run's own."""
    out: Path = Path("runs")
    run: str | None = None
    """Name on the broker's topics; both halves must use the same."""
    folder: Path | None = None
    """Continue this run folder (a consumer that was killed)."""
    shards: frozenset[int] | None = None
    topic: str | None = None
    """Foreign topics to watch, such as site/{camera}/image."""
    shelf: Shelf | None = None
    """Keeps the pictures of a run in virtual time for the next run of the same film."""


@dataclass(frozen=True, slots=True)
class Outcome:
    folder: Path
    score: Score | None
    """None for a half that has nothing to score."""
    interrupted: bool
    warnings: tuple[str, ...] = ()


async def play(
    loaded: Loaded, options: Options, observers: Sequence[Observer], stop: asyncio.Event
) -> Outcome:
    """Play a scenario from end to end: cameras, broker, consumer, score.

    `stop` set: ends within seconds with a scored partial run, or with Interrupted where nothing was
    played yet. Raises UsageError, TransportError or RunFolderError; what was opened is closed again
    and what was recorded stays.
    """
    scenario = loaded.scenario
    clock = Clock(scenario.speed)
    _check_virtual(scenario, clock, options)
    engine = create(scenario.engine, clock, scenario.seed)
    if clock.virtual and not engine.traits.virtual_ok:
        raise UsageError(
            f"engine {scenario.engine.name} cannot run in virtual time; use --engine simulated, "
            "or --clock wall"
        )
    tell = _Tell(observers)
    async with AsyncExitStack() as stack:
        name = _free_name(loaded, options, engine)
        run = options.run or name
        async with _opening(stop):
            tell.stage(f"engine {engine.traits.name} ({engine.traits.model})")
            await stack.enter_async_context(engine)
            film = _film(loaded)
            reel = await _open_reel(stack, film, clock, scenario, engine, tell, options.shelf)
            live = await _open_live(stack, loaded, expand(scenario))
            phases = film.phases(reel.times)
            plans = _plans(expand(scenario), reel.times, phases)
            bare, inlet = await _open_transport(stack, scenario, options, run, plans, clock, tell)
            link = await stack.enter_async_context(
                NetworkLink(bare, {c.id: c.network for c in expand(scenario)}, clock, scenario.seed)
            )
        write_run = _RunFile(options.out / name, run, loaded, engine, clock, plans, options)
        folder = write_run.new_folder()
        cameras_log = await stack.enter_async_context(Log(folder / CAMERAS_LOG))
        records_log = await stack.enter_async_context(Log(folder / RECORDS_LOG, behind=cameras_log))
        truths = _Truths()
        seats = {plan.id: Seat(plan) for plan in plans}
        keep = _KeyFrames(folder)

        def emit(record: FrameRecord | AlarmRecord) -> None:
            records_log.write(record)
            tell.record(record)
            if isinstance(record, FrameRecord):
                truths.forget(record.camera, record.seq)

        def on_shot(shot: Shot) -> None:
            cameras_log.write(shot)
            tell.shot(shot)

        consumer = Consumer(
            run,
            scenario,
            seats,
            inlet,
            engine,
            clock,
            emit,
            truth_of=truths.of if engine.traits.needs_truth else None,
            strangers=False,
            pixels=not isinstance(reel, BlankReel),
            on_alarm_frame=keep,
        )
        fleet = Fleet(
            run,
            expand(scenario),
            phases,
            reel,
            link,
            clock,
            on_label=truths.learn if engine.traits.needs_truth else lambda *_: None,
            on_shot=on_shot,
            seed=scenario.seed,
            duration=scenario.duration,
            live=live,
        )
        lead_s = 0.0 if clock.virtual else LEAD_S
        clock.begin(clock.wall_ns() + round(lead_s * 1e9))
        write_run(complete=False)
        control = Control(run, digest(loaded.scenario), clock.start_ns, clock.speed)
        await link.announce(control)
        await _echo(inlet, control)
        tell.begin(plans, clock, consumer.snapshot)
        try:
            async with asyncio.TaskGroup() as group:
                guards = [
                    group.create_task(cameras_log.failed(), name="cameras log"),
                    group.create_task(records_log.failed(), name="records log"),
                    group.create_task(_pulse(records_log, clock), name="pulse"),
                ]
                watching = group.create_task(consumer.watch(), name="consumer")
                await _play_fleet(fleet, link, control, stop)
                if stop.is_set():
                    consumer.stop()
                await watching
                for guard in guards:
                    guard.cancel()
        finally:
            _note_end(records_log, clock, consumer, inlet)
        tell.stage("closing")
        played_s = _played_s(clock, scenario)
        interrupted = stop.is_set()
    warnings = (*reel.warnings, *keep.warnings)
    write_run(complete=True, interrupted=interrupted, played_s=played_s, warnings=warnings)
    tell.stage("scoring")
    return Outcome(folder, rescore(folder), interrupted, warnings)


async def play_cameras(
    loaded: Loaded, options: Options, observers: Sequence[Observer], stop: asyncio.Event
) -> Outcome:
    """Only the fleet, into somebody's broker. Leaves the cameras' own log."""
    scenario = loaded.scenario
    clock = Clock(scenario.speed)
    address = _half_address(scenario, options)
    tell = _Tell(observers)
    async with AsyncExitStack() as stack:
        name = _free_name(loaded, options, None)
        run = options.run or scenario.name
        async with _opening(stop):
            film = _film(loaded)
            reel = await _open_reel(stack, film, clock, scenario, None, tell)
            live = await _open_live(stack, loaded, expand(scenario))
            phases = film.phases(reel.times)
            plans = _plans(expand(scenario), reel.times, phases)
            tell.stage(f"broker {address}")
            mqtt = await stack.enter_async_context(_mqtt_link(address, scenario, run, plans))
            link = await stack.enter_async_context(
                NetworkLink(mqtt, {c.id: c.network for c in expand(scenario)}, clock, scenario.seed)
            )
        write_run = _RunFile(options.out / name, run, loaded, None, clock, plans, options)
        folder = write_run.new_folder()
        cameras_log = await stack.enter_async_context(Log(folder / CAMERAS_LOG))

        def on_shot(shot: Shot) -> None:
            cameras_log.write(shot)
            tell.shot(shot)

        fleet = Fleet(
            run,
            expand(scenario),
            phases,
            reel,
            link,
            clock,
            on_label=lambda *_: None,
            on_shot=on_shot,
            seed=scenario.seed,
            duration=scenario.duration,
            live=live,
        )
        clock.begin(clock.wall_ns() + round(LEAD_S * 1e9))
        write_run(complete=False)
        control = Control(run, digest(loaded.scenario), clock.start_ns, clock.speed)
        await link.announce(control)
        tell.begin(plans, clock, None)
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(cameras_log.failed(), name="cameras log")
            await _play_fleet(fleet, link, control, stop)
            guard.cancel()
        played_s = _played_s(clock, scenario)
    warnings = tuple(reel.warnings)
    write_run(complete=True, interrupted=stop.is_set(), played_s=played_s, warnings=warnings)
    return Outcome(folder, None, stop.is_set(), warnings)


async def play_consumer(
    loaded: Loaded, options: Options, observers: Sequence[Observer], stop: asyncio.Event
) -> Outcome:
    """Only the watcher. Joins the fleet of the same run name, or foreign cameras with `topic`.

    `options.folder` continues a run folder: frames whose fate it knows are left alone.
    """
    scenario = loaded.scenario
    clock = Clock(scenario.speed)
    address = _half_address(scenario, options)
    engine = create(scenario.engine, clock, scenario.seed)
    tell = _Tell(observers)
    foreign = options.topic is not None
    earlier = load(options.folder) if options.folder is not None else None
    async with AsyncExitStack() as stack:
        name = _free_name(loaded, options, engine)
        run = options.run or (earlier.run["run"] if earlier is not None else scenario.name)
        truths: _SourceTruths | None = None
        plans: tuple[CameraPlan, ...] = ()
        async with _opening(stop):
            if not foreign:
                cameras = _in_shards(expand(scenario), options.shards)
                film = _film(loaded)
                film = replace(film, cameras=_in_shards(film.cameras, options.shards))
                sources = await asyncio.to_thread(film.open)
                stack.callback(close, sources)
                times = {name: Times.of(source) for name, source in sources.items()}
                phases = film.phases(times)
                plans = _plans(cameras, times, phases)
                truths = _SourceTruths(cameras, sources, phases)
            if earlier is not None:
                _check_same(loaded, plans, earlier, options)
            tell.stage(f"engine {engine.traits.name} ({engine.traits.model})")
            await stack.enter_async_context(engine)
            tell.stage(f"broker {address}")
            inlet = await stack.enter_async_context(_mqtt_inlet(address, options, run, clock))
            if not foreign:
                tell.stage(f"waiting for the cameras of run {run!r}")
                start_ns = earlier.run["start_ns"] if earlier is not None else None
                control = await inlet.control(start_ns)
                _check_control(loaded, control, start_ns)
                clock.speed = control.speed
                clock.begin(control.start_ns)
        folder = options.folder or options.out / name
        write_run = _RunFile(folder, run, loaded, engine, clock, plans, options)
        if earlier is None:
            folder = write_run.new_folder()
        else:
            write_run(complete=False)
        records_log = await stack.enter_async_context(Log(folder / RECORDS_LOG))
        keep = _KeyFrames(folder)
        known: dict[str, set[int]] = {}
        for record in earlier.frames if earlier is not None else ():
            known.setdefault(record.camera, set()).add(record.seq)

        def emit(record: FrameRecord | AlarmRecord) -> None:
            records_log.write(record)
            tell.record(record)

        consumer = Consumer(
            run,
            scenario,
            {p.id: Seat(p, frozenset(known.get(p.id, ()))) for p in plans},
            inlet,
            engine,
            clock,
            emit,
            truth_of=truths.of if truths is not None and engine.traits.needs_truth else None,
            foreign=foreign,
            strangers=foreign,
            shards=options.shards,
            joined_late=clock.now() > 0 or earlier is not None,
            on_alarm_frame=keep,
        )
        tell.begin(plans, clock, consumer.snapshot)
        try:
            async with asyncio.TaskGroup() as group:
                guards = [
                    group.create_task(records_log.failed(), name="records log"),
                    group.create_task(_pulse(records_log, clock), name="pulse"),
                ]
                watching = group.create_task(consumer.watch(), name="consumer")
                stopping = group.create_task(stop.wait(), name="stop")
                await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if stop.is_set():
                    consumer.stop()
                await watching
                for guard in (*guards, stopping):
                    guard.cancel()
        finally:
            _note_end(records_log, clock, consumer, inlet)
        played_s = _played_s(clock, scenario)
    write_run(
        complete=True, interrupted=stop.is_set(), played_s=played_s, warnings=tuple(keep.warnings)
    )
    result = rescore(folder) if plans else None
    return Outcome(folder, result, stop.is_set(), tuple(keep.warnings))


def rescore(folder: Path, cameras: Path | None = None) -> Score:
    """Score a run folder and write its score.json."""
    result = score(load(folder, cameras))
    write_json(folder / "score.json", result.to_json())
    return result


# --- opening -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _opening(stop: asyncio.Event) -> AsyncIterator[None]:
    """Getting ready may take minutes: `stop` ends it at once, with Interrupted."""
    loop = asyncio.get_running_loop()

    async def end(limit: asyncio.Timeout) -> None:
        await stop.wait()
        limit.reschedule(loop.time())

    try:
        async with asyncio.timeout(None) as limit:
            ending = asyncio.create_task(end(limit), name="interrupt")
            try:
                yield
            finally:
                ending.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
        raise Interrupted("interrupted while getting ready: nothing was played") from None


def _check_virtual(scenario: Scenario, clock: Clock, options: Options) -> None:
    if (scenario.clock == "virtual") != clock.virtual:
        raise UsageError(f"the scenario's clock is {scenario.clock}: run it on that kind of loop")
    if not clock.virtual:
        return
    if options.broker not in ("auto", "memory"):
        raise UsageError(
            f"a virtual clock needs the memory transport, not --broker {options.broker}"
        )
    live = [c.id for c in scenario.cameras if c.source.kind == "stream"]
    if live:
        raise UsageError(f"camera {live[0]}: a live stream cannot run in virtual time")


def _half_address(scenario: Scenario, options: Options) -> BrokerAddress:
    if scenario.clock == "virtual":
        raise UsageError("two halves need the wall clock; use `run` for a virtual one")
    if not isinstance(options.broker, BrokerAddress):
        raise UsageError("two halves meet on a broker: give --broker mqtt://host:1883")
    return options.broker


def _needs_pixels(scenario: Scenario, engine: Engine | None) -> bool:
    if scenario.clock == "wall" or engine is None or engine.traits.needs_pixels:
        return True
    return scenario.sampling.policy == "adaptive"


def _film(loaded: Loaded) -> Film:
    scenario = loaded.scenario
    cameras = tuple(c for c in expand(scenario) if c.source.kind != "stream")
    return Film(cameras, loaded.base, scenario.duration, scenario.seed)


async def _open_reel(
    stack: AsyncExitStack,
    film: Film,
    clock: Clock,
    scenario: Scenario,
    engine: Engine | None,
    tell: _Tell,
    shelf: Shelf | None = None,
) -> Reel:
    tell.stage(f"opening {len(film.cameras)} cameras")
    if clock.virtual:
        # With a shelf pictures are made in any case: another run will need them.
        inline = shelf is not None or _needs_pixels(scenario, engine)
        reel = InlineReel(film, shelf) if inline else BlankReel(film)
        stack.callback(reel.close)
        _check_ends(scenario, reel.times)
        return reel
    ahead = await stack.enter_async_context(AheadReel(film))
    _check_ends(scenario, ahead.times)
    await ahead.ready(
        scenario.speed, scenario.duration, lambda share: tell.stage("making pictures", share)
    )
    return ahead


def _check_ends(scenario: Scenario, times: Mapping[str, Times]) -> None:
    if scenario.duration is not None:
        return
    endless = [name for name, t in times.items() if t.native is None and t.ends_at is None]
    if endless:
        raise UsageError(
            f"camera {endless[0]} never ends by itself: give the scenario a `duration`"
        )


async def _open_live(
    stack: AsyncExitStack, loaded: Loaded, cameras: Sequence[Camera]
) -> dict[str, LiveSource]:
    return {
        camera.id: await stack.enter_async_context(open_live(camera))
        for camera in cameras
        if camera.source.kind == "stream"
    }


def _plans(
    cameras: Sequence[Camera], times: Mapping[str, Times], phases: Mapping[str, float]
) -> tuple[CameraPlan, ...]:
    plans = []
    for camera in cameras:
        own = times[camera.id].cadence_s if camera.id in times else None
        begins = phases[camera.id] if plays_native_times(camera) else 0.0
        plans.append(camera_plan(camera, declared_cadence(camera, own), begins))
    return tuple(plans)


async def _open_transport(
    stack: AsyncExitStack,
    scenario: Scenario,
    options: Options,
    run: str,
    plans: Sequence[CameraPlan],
    clock: Clock,
    tell: _Tell,
) -> tuple[Link, Inlet]:
    if clock.virtual or options.broker == "memory":
        hub = MemoryHub(clock.wall_ns)
        return await stack.enter_async_context(hub.link()), await stack.enter_async_context(
            hub.inlet()
        )
    address = options.broker
    if not isinstance(address, BrokerAddress):
        broker = await stack.enter_async_context(embedded_broker(address))
        address = broker.address
        tell.stage(f"private broker: {broker.kind} on {address}")
    else:
        tell.stage(f"broker {address}")
    # The consumer subscribes before the first frame is sent.
    inlet = await stack.enter_async_context(_mqtt_inlet(address, options, run, clock))
    link = await stack.enter_async_context(_mqtt_link(address, scenario, run, plans))
    return link, inlet


def _mqtt_link(
    address: BrokerAddress, scenario: Scenario, run: str, plans: Sequence[CameraPlan]
) -> MqttLink:
    cameras = [plan.id for plan in plans]
    return MqttLink(address, run, cameras, connections=scenario.connections)


def _mqtt_inlet(address: BrokerAddress, options: Options, run: str, clock: Clock) -> MqttInlet:
    return MqttInlet(
        address, run, clock.wall_ns, shards=options.shards, topic_template=options.topic
    )


def _in_shards(cameras: tuple[Camera, ...], shards: frozenset[int] | None) -> tuple[Camera, ...]:
    return tuple(c for c in cameras if shards is None or shard_of(c.id) in shards)


async def _echo(inlet: Inlet, control: Control) -> None:
    """Wait for our own control message, so that an earlier fleet's end is not taken for ours."""
    try:
        async with asyncio.timeout(ECHO_S):
            await inlet.control(control.start_ns)
    except TimeoutError:
        raise TransportError(
            f"the broker does not bring the control message of run {control.run!r} back within "
            f"{ECHO_S:g} s; may this user read its topics?"
        ) from None


def _check_control(loaded: Loaded, control: Control, start_ns: int | None) -> None:
    if control.digest != digest(loaded.scenario):
        raise UsageError(
            f"{loaded.file}: the cameras of run {control.run!r} play another scenario; start both "
            "halves with the same file, or give this pair a name of its own with --run"
        )
    if start_ns not in (None, control.start_ns):
        raise UsageError(
            f"--resume: the cameras that this folder watched are gone, and others play as run "
            f"{control.run!r}; leave --resume out to watch these"
        )


def _check_same(
    loaded: Loaded, plans: Sequence[CameraPlan], earlier: RunLog, options: Options
) -> None:
    """UsageError unless the folder to be continued watched the same cameras."""
    same = earlier.run["digest"] == digest(loaded.scenario)
    if not same or [plan.id for plan in plans] != [plan.id for plan in earlier.cameras]:
        raise UsageError(
            f"--resume {options.folder}: this folder watched other cameras than {loaded.file} with "
            "these options; give the same scenario, --seed, --duration, --shard and --topic"
        )


# --- playing -------------------------------------------------------------------------------------


async def _play_fleet(fleet: Fleet, link: Link, control: Control, stop: asyncio.Event) -> None:
    """Play until the fleet is through or `stop` is set, then say what the last frames were."""
    playing = asyncio.create_task(fleet.play(), name="fleet")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()
    finally:
        for task in (playing, stopping):
            task.cancel()
        await asyncio.gather(playing, stopping, return_exceptions=True)
    await link.announce(replace(control, last_seqs=dict(fleet.last_seqs)))


def _played_s(clock: Clock, scenario: Scenario) -> float:
    now = max(0.0, clock.now())
    return now if scenario.duration is None else min(now, scenario.duration)


async def _pulse(log: Log, clock: Clock) -> None:
    """Note now and then how the process itself fares; in virtual time that would mean nothing."""
    while not clock.virtual:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        log.note(
            "pulse",
            clock.wall_ns(),
            scenario_s=round(clock.now(), 3),
            rss_bytes=_rss_bytes(),
            cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
        )
        await asyncio.sleep(PULSE_S)


def _rss_bytes() -> int | None:
    """Resident memory of this process, bytes; None where the system does not tell (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * resource.getpagesize()


def _note_end(log: Log, clock: Clock, consumer: Consumer, inlet: Inlet) -> None:
    seen = consumer.snapshot()
    counts = inlet.counts
    refused = Counter(seen.refused) + counts.refused
    log.note(
        "session_end",
        clock.wall_ns(),
        received=seen.received,
        duplicates=seen.duplicates,
        refused=dict(sorted(refused.items())),
        tokens_spent=seen.tokens_spent,
        dropped=counts.dropped,
        reconnects=counts.reconnects,
        unsent_json=counts.unsent_json,
    )


class _Tell:
    """Hands everything on to the observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def stage(self, text: str, share: float | None = None) -> None:
        for observer in self._observers:
            observer.stage(text, share)

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        for observer in self._observers:
            observer.begin(plans, clock, snapshot)

    def shot(self, shot: Shot) -> None:
        for observer in self._observers:
            observer.shot(shot)

    def record(self, record: FrameRecord | AlarmRecord) -> None:
        for observer in self._observers:
            if isinstance(record, FrameRecord):
                observer.frame(record)
            else:
                observer.alarm(record)


class _Truths:
    """What is in the frames under way, told by the cameras of the same process."""

    def __init__(self) -> None:
        self._labels: dict[tuple[str, int], Label] = {}

    def learn(self, camera: str, seq: int, label: Label) -> None:
        self._labels[camera, seq] = label

    def of(self, camera: str, seq: int, captured_at: float) -> Label:
        return self._labels.get((camera, seq), Label(None))

    def forget(self, camera: str, seq: int) -> None:
        self._labels.pop((camera, seq), None)


class _SourceTruths:
    """The same, worked out from the scenario where the cameras play elsewhere."""

    def __init__(
        self, cameras: Sequence[Camera], sources: Mapping[str, Source], phases: Mapping[str, float]
    ) -> None:
        self._sources = sources
        self._begins = {c.id: phases[c.id] if plays_native_times(c) else 0.0 for c in cameras}

    def of(self, camera: str, seq: int, captured_at: float) -> Label:
        source = self._sources.get(camera)
        return Label(None) if source is None else source.label(captured_at - self._begins[camera])


class _KeyFrames:
    """Keeps the frame of every emitted alarm in the run folder, up to a number that it tells."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "frames"
        self._kept = 0
        self._left = 0

    def __call__(self, record: AlarmRecord, jpeg: bytes) -> None:
        if self._kept >= KEY_FRAMES:
            self._left += 1
            return
        self._kept += 1
        # A foreign camera's name is a stranger's text: it must not decide where we write.
        camera = re.sub(r"[^A-Za-z0-9_.-]", "_", record.alarm.camera)[:80]
        name = f"{camera}-{record.alarm.seqs[-1]:06}-alarm.jpg"
        try:
            self._folder.mkdir(exist_ok=True)
            (self._folder / name).write_bytes(jpeg)
        except OSError as why:
            raise RunFolderError(f"{self._folder / name}: cannot be written: {why}") from why

    @property
    def warnings(self) -> list[str]:
        if not self._left:
            return []
        return [f"{self._left} more alarm frames were not kept (the folder keeps {KEY_FRAMES})"]


# --- the run folder ------------------------------------------------------------------------------


def _free_name(loaded: Loaded, options: Options, engine: Engine | None) -> str:
    """What the run's folder will be called. RunFolderError if none could be made there."""
    place = next(p for p in (options.out.absolute(), *options.out.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "may not be written to" if place.is_dir() else "is no folder"
        raise RunFolderError(f"{place} {why}; choose another place with --out")
    who = engine.traits.name if engine is not None else "cameras"
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return _numbered(options.out, f"{stamp}-{loaded.scenario.name}-{who}")


def _numbered(out: Path, stem: str) -> str:
    names = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
    return next(name for name in names if not (out / name).exists())


class _RunFile:
    """Writes run.json: at the start, so that a killed run can be scored, and again at the end."""

    def __init__(
        self,
        folder: Path,
        run: str,
        loaded: Loaded,
        engine: Engine | None,
        clock: Clock,
        plans: Sequence[CameraPlan],
        options: Options,
    ) -> None:
        scenario = loaded.scenario
        self._folder = folder
        self._clock = clock
        self._data: dict[str, Any] = {
            "schema": 1,
            "run": run,
            "scenario": scenario.name,
            "scenario_file": loaded.file,
            "scenario_text": loaded.text,
            "digest": digest(loaded.scenario),
            "seed": scenario.seed,
            "clock": scenario.clock,
            "duration_s": scenario.duration,
            "engine": None
            if engine is None
            else {"name": engine.traits.name, "model": engine.traits.model},
            "broker": str(options.broker),
            "settings": {
                part: resolved(scenario)[part] for part in ("sampling", "budget", "alarm", "engine")
            },
            "cameras": plans,
            "versions": _versions(),
            "host": _host(),
            "git": _git_state(),
        }

    def new_folder(self) -> Path:
        """Make the folder, run.json in it from its first moment on."""
        out, stem = self._folder.parent, self._folder.name
        try:
            out.mkdir(parents=True, exist_ok=True)
            draft = out / f".{stem}-{secrets.token_hex(4)}"
            draft.mkdir()
            try:
                self._write(draft, complete=False)
                self._folder = _renamed(draft, out, stem)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        except OSError as why:
            raise RunFolderError(
                f"{self._folder}: cannot be made: {why.strerror}; choose another place with --out"
            ) from why
        return self._folder

    def __call__(
        self,
        *,
        complete: bool,
        interrupted: bool = False,
        played_s: float | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        self._write(self._folder, complete, interrupted, played_s, warnings)

    def _write(
        self,
        folder: Path,
        complete: bool,
        interrupted: bool = False,
        played_s: float | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        write_json(
            folder / RUN_FILE,
            {
                **self._data,
                "speed": self._clock.speed,
                "start_ns": self._clock.start_ns,
                "complete": complete,
                "interrupted": interrupted,
                "played_s": played_s,
                "warnings": warnings,
            },
        )


def _renamed(draft: Path, out: Path, stem: str) -> Path:
    """Where the folder stands now; another run of the same second may have taken the name."""
    while True:
        folder = out / _numbered(out, stem)
        try:
            return draft.rename(folder)
        except OSError as why:
            if why.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _versions() -> dict[str, str]:
    packages = ("aiomqtt", "amqtt", "numpy", "opencv-python-headless", "pydantic", "scipy")
    return {
        "earlyfire-stream": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _host() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "implementation": sys.implementation.name,
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the code that runs, None where it is no checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--", str(here)],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": bool(changed.strip())}
