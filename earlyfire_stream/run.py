"""One run: opens everything, plays, closes everything, scores.

`play` does both halves in one process. `play_cameras` and `play_consumer` are the halves by
themselves, for two terminals or two machines; all they share is a broker and the run's topic.

A run's folder appears when everything stands, its run.json in it: what failed or was stopped
before leaves nothing behind, and what is killed later can be scored.
"""

from __future__ import annotations

__all__ = [
    "Follower",
    "Options",
    "Outcome",
    "Viewer",
    "play",
    "play_cameras",
    "play_consumer",
    "report",
    "rescore",
]

import asyncio
import contextlib
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from earlyfire_stream import logs
from earlyfire_stream.camera import Fleet
from earlyfire_stream.clock import Clock
from earlyfire_stream.consumer import Consumer, Seat, check
from earlyfire_stream.drill import PROXIED, Drill, Reach
from earlyfire_stream.engines import create
from earlyfire_stream.engines.base import Engine, Gauged, Housed, Traits
from earlyfire_stream.errors import Interrupted, TransportError, UsageError
from earlyfire_stream.faults import FaultyEngine, FaultyLink, Planned, flapping, planned, spells
from earlyfire_stream.folder import KeyFrames, RunFile, free_name
from earlyfire_stream.frames import SHARDS, shard_of
from earlyfire_stream.lookout import Lookout
from earlyfire_stream.merged import load, whole
from earlyfire_stream.records import (
    CAMERAS_LOG,
    GAUGES_LOG,
    RECORDS_LOG,
    AlarmRecord,
    CameraPlan,
    Explanation,
    FrameRecord,
    Log,
    Observer,
    Playing,
    RunLog,
    Shot,
    Snapshot,
    write_json,
)
from earlyfire_stream.reel import (
    AheadReel,
    BlankReel,
    Film,
    InlineReel,
    Reel,
    Shelf,
    Times,
    cadences,
    close,
)
from earlyfire_stream.report import page
from earlyfire_stream.scenario.fleet import (
    expand,
    plan,
    planned_faults,
    plays_native_times,
    told_by_source,
)
from earlyfire_stream.scenario.load import Loaded, digest
from earlyfire_stream.scenario.models import Camera, Scenario
from earlyfire_stream.scoring import Score, score
from earlyfire_stream.sources.base import Label, LiveSource, Source
from earlyfire_stream.sources.stream import open_live
from earlyfire_stream.transport.address import BrokerAddress, mqtt_version
from earlyfire_stream.transport.base import Control, Inlet, Link
from earlyfire_stream.transport.broker import BrokerKind, EmbeddedBroker, embedded_broker
from earlyfire_stream.transport.descriptors import make_room
from earlyfire_stream.transport.memory import MemoryHub
from earlyfire_stream.transport.mqtt import MqttInlet, MqttLink, clients
from earlyfire_stream.transport.network import NetworkLink
from earlyfire_stream.transport.proxy import Proxy

LEAD_S = 1.0
"""Wall seconds between everything being ready and scenario second 0."""
PULSE_S = 10.0
"""Wall seconds between two notes of the process's own state."""
ECHO_S = 10.0
"""Wall seconds within which the broker must bring our own control message back."""
LIVE_FILES = 8
"""Descriptors that a live stream may take: sockets for picture, sound and control, a decoder's."""


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
    name: str | None = None
    """`play`: what the folder in `out` is called; None: after the time, scenario and engine."""
    score_up_to: int | None = None
    """`play`: with more frames than that the run is left unscored; a million take 754 MB."""


@dataclass(frozen=True, slots=True)
class Outcome:
    folder: Path
    score: Score | None
    """None for a half that has nothing to score."""
    interrupted: bool
    warnings: tuple[str, ...] = ()


@runtime_checkable
class Follower(Protocol):
    """An observer that is also told what is about to run, what was explained, and the end."""

    def opened(self, playing: Playing) -> None:
        """Before `begin`."""

    def explanation(self, record: Explanation) -> None: ...

    def ended(self, folder: Path, score: Score | None) -> None:
        """Everything is closed and written. `score` is None where there is nothing to score."""


@runtime_checkable
class Viewer(Protocol):
    """An observer that also wants to see: the pictures that come, and where key frames are kept."""

    def kept_in(self, folder: Path) -> None:
        """The run's folder, as soon as there is one."""

    def picture(self, camera: str, seq: int, jpeg: bytes) -> None:
        """A sound frame has come. It must be kept or left, not looked into: the stream goes on."""


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
    faults = planned(scenario)
    if not clock.virtual and options.broker != "memory":
        _make_room(scenario, faults, private=not isinstance(options.broker, BrokerAddress))
    bare = create(scenario.engine, clock, scenario.seed, base=loaded.base)
    engine = _spoiled_engine(bare, faults, clock, scenario)
    if clock.virtual and not engine.traits.virtual_ok:
        raise UsageError(
            f"engine {scenario.engine.name} cannot run in virtual time; use baseline or simulated, "
            "or --clock wall"
        )
    tell = _Tell(observers)
    async with AsyncExitStack() as stack:
        name = options.name or free_name(options.out, scenario.name, engine.traits.name)
        run = options.run or name
        logs.bind(run)
        async with _opening(stop):
            if isinstance(options.broker, BrokerAddress):
                await mqtt_version(options.broker)  # before pictures are made for nothing
            tell.stage(f"engine {engine.traits.name} ({engine.traits.model})")
            await stack.enter_async_context(engine)
            check(scenario, engine.traits)
            stock = await _open_stock(stack, loaded, clock, tell, engine, options.shelf)
            link, lookout, reach = await _open_transport(
                stack, scenario, options, run, stock.plans, clock, tell, faults
            )
        write_run = RunFile(
            options.out / name,
            run,
            loaded,
            engine.traits,
            clock,
            stock.plans,
            str(options.broker),
            _part(loaded, stock.plans),
        )
        folder = write_run.new_folder()
        cameras_log = await stack.enter_async_context(Log(folder / CAMERAS_LOG))
        records_log = await stack.enter_async_context(Log(folder / RECORDS_LOG, behind=cameras_log))
        truths = _Truths() if engine.traits.needs_truth else None
        keep = KeyFrames(folder)
        tell.kept_in(folder)

        def emit(record: FrameRecord | AlarmRecord | Explanation) -> None:
            records_log.write(record)
            tell.record(record)
            if truths is not None and isinstance(record, FrameRecord):
                truths.forget(record.camera, record.seq)

        def consumer(inlet: Inlet) -> Consumer:
            return Consumer(
                run,
                scenario,
                {plan.id: Seat(plan) for plan in stock.plans},
                inlet,
                engine,
                clock,
                emit,
                truth_of=truths.of if truths is not None else None,
                strangers=False,
                pixels=not isinstance(stock.reel, BlankReel),
                on_alarm_frame=keep,
                on_missed_frame=keep.missed,
                on_picture=tell.picture,
            )

        lookout.employ(consumer, lambda: _note_end(records_log, clock, lookout))
        learn = truths.learn if truths is not None else _unheard
        way = await stack.enter_async_context(
            _way(link, stock.cameras, scenario, clock, faults, learn)
        )
        fleet = _fleet(run, stock, way, scenario, clock, cameras_log, tell, faults)
        control = await _announce(run, way.link, loaded, clock, write_run)
        await _echo(lookout.inlet, control)
        tell.opened(_playing("run", run, scenario, engine.traits))
        tell.begin(stock.plans, clock, lookout.snapshot)
        logs_ = [cameras_log, records_log]
        reach = replace(reach, logs=logs_, lookout=lookout, worker_pid=_worker_of(bare))
        drill = Drill(faults, reach, clock, records_log.note)
        untold: list[str] = []

        async def playing() -> None:
            await _play_fleet(fleet, stop, drill)
            end = replace(control, last_seqs=dict(fleet.last_seqs))
            try:
                await way.link.announce(end)
            except TransportError as why:  # all is played and on record: it is scored
                untold.append(f"the broker could not be told that the run is over: {why}")
                lookout.stop(end.last_seqs)

        async with _gauging(folder, engine, scenario, clock):
            await _watch(lookout, logs_, clock, stop, playing())
        tell.stage("closing")
        played_s = _played_s(clock, scenario)
    warnings = (*stock.reel.warnings, *keep.warnings, *untold)
    frames = sum(last + 1 for last in fleet.last_seqs.values())
    scored = options.score_up_to is None or frames <= options.score_up_to
    if not scored:
        warnings += (f"{frames:,} frames are not scored here: earlyfire score {folder}",)
    write_run(complete=True, interrupted=stop.is_set(), played_s=played_s, warnings=warnings)
    tell.stage("scoring")
    result = rescore(folder) if scored else None
    tell.ended(folder, result)
    return Outcome(folder, result, stop.is_set(), warnings)


async def play_cameras(
    loaded: Loaded, options: Options, observers: Sequence[Observer], stop: asyncio.Event
) -> Outcome:
    """Only the fleet, into somebody's broker. Leaves the cameras' own log."""
    scenario = loaded.scenario
    clock = Clock(scenario.speed)
    address = _half_address(scenario, options)
    faults = planned(scenario)
    _make_room(scenario, faults)
    tell = _Tell(observers)
    async with AsyncExitStack() as stack:
        name = free_name(options.out, scenario.name, "cameras")
        run = options.run or scenario.name
        logs.bind(run)
        async with _opening(stop):
            tell.stage(f"broker {address}")
            await mqtt_version(address)  # before pictures are made for nothing
            stock = await _open_stock(stack, loaded, clock, tell)
            reach = await _proxied(stack, address, faults, cameras=True)
            mqtt = await stack.enter_async_context(
                _mqtt_link(reach.camera_address(address), scenario, run, stock.plans)
            )
            way = await stack.enter_async_context(
                _way(mqtt, stock.cameras, scenario, clock, faults, _unheard)
            )
        write_run = RunFile(options.out / name, run, loaded, None, clock, stock.plans, str(address))
        folder = write_run.new_folder()
        cameras_log = await stack.enter_async_context(Log(folder / CAMERAS_LOG))
        fleet = _fleet(run, stock, way, scenario, clock, cameras_log, tell, faults)
        control = await _announce(run, way.link, loaded, clock, write_run)
        tell.opened(_playing("cameras", run, scenario))
        tell.begin(stock.plans, clock, None)
        async with asyncio.TaskGroup() as group:
            guard = group.create_task(cameras_log.failed(), name="cameras log")
            reach = replace(reach, client_of=mqtt.client_of, logs=[cameras_log])
            drill = Drill(faults, reach, clock, cameras_log.note)
            await _play_fleet(fleet, stop, drill)
            await way.link.announce(replace(control, last_seqs=dict(fleet.last_seqs)))
            guard.cancel()
        played_s = _played_s(clock, scenario)
    warnings = tuple(stock.reel.warnings)
    write_run(complete=True, interrupted=stop.is_set(), played_s=played_s, warnings=warnings)
    tell.ended(folder, None)
    return Outcome(folder, None, stop.is_set(), warnings)


async def play_consumer(
    loaded: Loaded, options: Options, observers: Sequence[Observer], stop: asyncio.Event
) -> Outcome:
    """Only the lookout. Joins the fleet of the same run name, or foreign cameras with `topic`.

    `options.folder` continues a run folder: frames whose fate it knows are left alone.
    """
    scenario = loaded.scenario
    clock = Clock(scenario.speed)
    address = _half_address(scenario, options)
    faults = planned(scenario)
    bare = create(scenario.engine, clock, scenario.seed, base=loaded.base)
    engine = _spoiled_engine(bare, faults, clock, scenario)
    tell = _Tell(observers)
    foreign = options.topic is not None
    earlier = load(options.folder) if options.folder is not None else None
    async with AsyncExitStack() as stack:
        name = free_name(options.out, scenario.name, engine.traits.name)
        run = options.run or (earlier.run["run"] if earlier is not None else scenario.name)
        logs.bind(run)
        truths: _SourceTruths | None = None
        plans: tuple[CameraPlan, ...] = ()
        async with _opening(stop):
            if not foreign:
                cameras = _in_shards(expand(scenario), options.shards)
                film = await asyncio.to_thread(_film, loaded, options.shards)
                sources = await asyncio.to_thread(_opened, film)
                stack.callback(close, sources)
                times = {name: Times.of(source) for name, source in sources.items()}
                phases = film.phases(times)
                plans = plan(cameras, cadences(times), phases)
                truths = _SourceTruths(cameras, sources, phases)
            if earlier is not None:
                _check_same(loaded, plans, earlier, options)
            tell.stage(f"engine {engine.traits.name} ({engine.traits.model})")
            await stack.enter_async_context(engine)
            check(scenario, engine.traits)
            tell.stage(f"broker {address}")
            reach = await _proxied(stack, address, faults, consumer=True)
            lookout = await stack.enter_async_context(
                Lookout(lambda: _mqtt_inlet(reach.consumer_address(address), options, run, clock))
            )
            if not foreign:
                tell.stage(f"waiting for the cameras of run {run!r}")
                start_ns = earlier.run["start_ns"] if earlier is not None else None
                control = await lookout.inlet.control(start_ns)
                _check_control(loaded, control, start_ns)
                clock.speed = control.speed
                clock.begin(control.start_ns)
        folder = options.folder or options.out / name
        part = None if foreign else _part(loaded, plans, options.shards)
        write_run = RunFile(folder, run, loaded, engine.traits, clock, plans, str(address), part)
        if earlier is None:
            folder = write_run.new_folder()
        else:
            write_run(complete=False)
        records_log = await stack.enter_async_context(Log(folder / RECORDS_LOG))
        keep = KeyFrames(folder)
        tell.kept_in(folder)
        known: dict[str, set[int]] = {}
        for record in earlier.frames if earlier is not None else ():
            known.setdefault(record.camera, set()).add(record.seq)

        def emit(record: FrameRecord | AlarmRecord | Explanation) -> None:
            records_log.write(record)
            tell.record(record)

        joined_late = clock.now() > 0 or earlier is not None

        def consumer(inlet: Inlet) -> Consumer:
            return Consumer(
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
                joined_late=joined_late,
                on_alarm_frame=keep,
                on_missed_frame=keep.missed,
                on_picture=tell.picture,
            )

        lookout.employ(consumer, lambda: _note_end(records_log, clock, lookout))
        tell.opened(_playing("consume", run, scenario, engine.traits))
        tell.begin(plans, clock, lookout.snapshot)
        reach = replace(reach, logs=[records_log], lookout=lookout, worker_pid=_worker_of(bare))
        # What was over before we joined has happened, perhaps to the one whose work we go on with.
        ahead = [one for one in faults if one.plan.end >= clock.now()]
        drill = Drill(ahead, reach, clock, records_log.note)
        async with _gauging(folder, engine, scenario, clock), drill.going_on():
            await _watch(lookout, [records_log], clock, stop)
        played_s = _played_s(clock, scenario)
    warnings = tuple(keep.warnings)
    write_run(complete=True, interrupted=stop.is_set(), played_s=played_s, warnings=warnings)
    result = rescore(folder) if plans else None
    tell.ended(folder, result)
    return Outcome(folder, result, stop.is_set(), warnings)


def rescore(
    folders: Path | Sequence[Path],
    cameras: Path | None = None,
    output: Path | None = None,
    *,
    partial: bool = False,
) -> Score:
    """Score a run folder; write its score.json and, beside it, its report.

    Several folders are scored as the one run that they are parts of, into the folder `output`.
    """
    log, folder = _read(folders, cameras, output, partial)
    result = score(log)
    write_json(folder / "score.json", result.to_json())
    page.write(folder, log, result)
    return result


def report(
    folders: Path | Sequence[Path],
    cameras: Path | None = None,
    output: Path | None = None,
    *,
    partial: bool = False,
) -> Path:
    """Write the report of a run folder, beside its score or elsewhere; gives its place.

    That of several folders, parts of one run, is written into the folder `output`.
    """
    several = not isinstance(folders, Path)
    log, folder = _read(folders, cameras, output, partial)
    return page.write(folder, log, score(log), None if several else output)


def _read(
    folders: Path | Sequence[Path], cameras: Path | None, output: Path | None, partial: bool
) -> tuple[RunLog, Path]:
    """The log, and the folder that what follows from it belongs into."""
    if isinstance(folders, Path):
        return load(folders, cameras), folders
    if output is None:
        raise UsageError("several run folders become one: name its folder with --output")
    parts = whole(folders, cameras, partial=partial)
    log = parts.read()
    parts.write(output)
    return log, output


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


def _make_room(scenario: Scenario, faults: Sequence[Planned], *, private: bool = False) -> None:
    """UsageError if the system does not let the cameras have their connections."""
    cameras = expand(scenario)
    live = sum(camera.source.kind == "stream" for camera in cameras)
    make_room(
        clients(scenario.connections, len(cameras)) + 1,  # and the consumer's
        proxied=_is_proxied(faults, private=private),
        more=live * LIVE_FILES,
    )


def _half_address(scenario: Scenario, options: Options) -> BrokerAddress:
    if scenario.clock == "virtual":
        raise UsageError("two halves need the wall clock; use `run` for a virtual one")
    if not isinstance(options.broker, BrokerAddress):
        raise UsageError("two halves meet on a broker: give --broker mqtt://host:1883")
    return options.broker


def _needs_pixels(scenario: Scenario, engine: Engine | None) -> bool:
    if scenario.clock == "wall" or engine is None:
        return True
    if engine.traits.needs_pixels or engine.traits.needs_identity:
        return True
    return scenario.sampling.policy == "adaptive"


def _opened(film: Film) -> Mapping[str, Source]:
    """Its sources, with what they make at the first look at them made: off the event loop."""
    sources = film.open()
    for source in sources.values():
        source.label(0.0)
    return sources


def _film(loaded: Loaded, shards: frozenset[int] | None = None) -> Film:
    """Of a part of the fleet, too, each camera has the phase that it has in the whole of it."""
    scenario = loaded.scenario
    whole = scenario if loaded.part is None else loaded.part.whole
    film = Film(_filmed(whole), loaded.base, scenario.duration, scenario.seed)
    mine = _in_shards(_filmed(scenario), shards)
    if len(mine) == len(film.cameras):
        return replace(film, cameras=mine)
    # Turns of recordings are the part's own; elsewhere the whole says when a camera begins.
    own = {c.id: c for c in mine}
    fleet = replace(film, cameras=tuple(own.get(c.id, c) for c in film.cameras))
    asked = replace(fleet, cameras=tuple(c for c in fleet.cameras if told_by_source(c)))
    sources = asked.open()
    try:
        phases = fleet.phases({name: Times.of(source) for name, source in sources.items()})
    finally:
        close(sources)
    placed = (c.model_copy(update={"phase": phases[c.id]}) for c in mine)
    return replace(film, cameras=tuple(placed))


def _filmed(scenario: Scenario) -> tuple[Camera, ...]:
    return tuple(c for c in expand(scenario) if c.source.kind != "stream")


@dataclass(frozen=True, slots=True)
class _Stock:
    """The fleet's pictures, and what follows from them."""

    cameras: tuple[Camera, ...]
    reel: Reel
    live: Mapping[str, LiveSource]
    phases: Mapping[str, float]
    plans: tuple[CameraPlan, ...]


async def _open_stock(
    stack: AsyncExitStack,
    loaded: Loaded,
    clock: Clock,
    tell: _Tell,
    engine: Engine | None = None,
    shelf: Shelf | None = None,
) -> _Stock:
    cameras = expand(loaded.scenario)
    film = _film(loaded) if clock.virtual else await asyncio.to_thread(_film, loaded)
    reel = await _open_reel(stack, film, clock, loaded.scenario, engine, tell, shelf)
    live = {
        camera.id: await stack.enter_async_context(open_live(camera))
        for camera in cameras
        if camera.source.kind == "stream"
    }
    phases = film.phases(reel.times)
    return _Stock(cameras, reel, live, phases, plan(cameras, cadences(reel.times), phases))


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


async def _open_transport(
    stack: AsyncExitStack,
    scenario: Scenario,
    options: Options,
    run: str,
    plans: Sequence[CameraPlan],
    clock: Clock,
    tell: _Tell,
    faults: Sequence[Planned],
) -> tuple[Link, Lookout, Reach]:
    """The cameras' link, the consumer's place at its inlet, and what lies between them."""
    if clock.virtual or options.broker == "memory":
        if away := [one.plan.id for one in faults if one.plan.kind in (*PROXIED, "broker-restart")]:
            raise UsageError(f"fault {away[0]} needs a broker; --broker memory has none")
        hub = MemoryHub(clock.wall_ns)
        link = await stack.enter_async_context(hub.link())
        return link, await stack.enter_async_context(Lookout(hub.inlet)), Reach()
    address, broker = options.broker, None
    if not isinstance(address, BrokerAddress):
        broker = await stack.enter_async_context(embedded_broker(address))
        address = broker.address
        tell.stage(f"private broker: {broker.kind} on {address}")
    else:
        tell.stage(f"broker {address}")
        if ours := [one.plan.id for one in faults if one.plan.kind == "broker-restart"]:
            raise UsageError(
                f"fault {ours[0]}: a broker of somebody else's cannot be restarted from here; "
                "leave --broker out, or write broker-gone"
            )
    reach = await _proxied(stack, address, faults, broker, cameras=True, consumer=True)
    # The consumer subscribes before the first frame is sent.
    lookout = await stack.enter_async_context(
        Lookout(lambda: _mqtt_inlet(reach.consumer_address(address), options, run, clock))
    )
    mqtt = await stack.enter_async_context(
        _mqtt_link(reach.camera_address(address), scenario, run, plans)
    )
    return mqtt, lookout, replace(reach, client_of=mqtt.client_of)


async def _proxied(
    stack: AsyncExitStack,
    address: BrokerAddress,
    faults: Sequence[Planned],
    broker: EmbeddedBroker | None = None,
    *,
    cameras: bool = False,
    consumer: bool = False,
) -> Reach:
    """Put proxies before the broker where a fault needs one."""
    if not _is_proxied(faults, private=broker is not None):
        return Reach(broker)
    return Reach(
        broker,
        await stack.enter_async_context(Proxy(address)) if cameras else None,
        await stack.enter_async_context(Proxy(address)) if consumer else None,
    )


def _is_proxied(faults: Sequence[Planned], *, private: bool) -> bool:
    # A private broker that is gone is really ended.
    kinds = PROXIED - {"broker-gone"} if private else PROXIED
    return any(one.plan.kind in kinds for one in faults)


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


def _part(
    loaded: Loaded, plans: Sequence[CameraPlan], shards: frozenset[int] | None = None
) -> dict[str, object] | None:
    """Which part of the fleet these cameras are, for `merged`; None where they are all of it."""
    if loaded.part is None and shards is None:
        return None
    fleet = loaded.scenario if loaded.part is None else loaded.part.whole
    places = {camera.id: place for place, camera in enumerate(expand(fleet))}
    part = loaded.part
    return {
        "of": "shards" if part is None else "cameras",
        "name": _shards_name(shards or frozenset()) if part is None else f"{part.k}/{part.n}",
        "digest": digest(fleet),
        "cameras": len(places),
        "places": [places[plan.id] for plan in plans],
    }


def _shards_name(shards: frozenset[int]) -> str:
    """`1/4` for the shards s with s mod 4 = 1; else each of them."""
    for size in (SHARDS, *range(1, SHARDS)):
        least = min(shards, default=0)
        if least < size and shards == frozenset(range(least, SHARDS, size)):
            return f"{least}/{size}"
    return ",".join(map(str, sorted(shards)))


# --- playing -------------------------------------------------------------------------------------


def _spoiled_engine(
    bare: Engine, faults: Sequence[Planned], clock: Clock, scenario: Scenario
) -> Engine:
    if not any(one.plan.kind.startswith("engine-") for one in faults):
        return bare
    return FaultyEngine(bare, faults, clock, scenario.seed, scenario.engine.timeout)


def _worker_of(engine: Engine) -> Callable[[], int | None]:
    return lambda: engine.worker_pid if isinstance(engine, Housed) else None


Hear = Callable[[str, int, Label], None]


def _unheard(camera: str, seq: int, label: Label) -> None:
    """Nobody in this process asks for the truth."""


@dataclass(frozen=True, slots=True)
class _Way:
    """From the cameras to the broker, with all that happens to frames on it."""

    link: Link
    learn: Hear
    """To be told each frame's truth just before it is published."""


@contextlib.asynccontextmanager
async def _way(
    link: Link,
    cameras: Sequence[Camera],
    scenario: Scenario,
    clock: Clock,
    faults: Sequence[Planned],
    hear: Hear,
) -> AsyncIterator[_Way]:
    networks = {c.id: c.network for c in cameras}
    bad = spells(faults, networks)
    async with NetworkLink(link, networks, clock, scenario.seed, bad) as network:
        spoiling = FaultyLink(network, faults, clock, scenario.seed, hear)
        yield _Way(spoiling, spoiling.learn)


def _fleet(
    run: str,
    stock: _Stock,
    way: _Way,
    scenario: Scenario,
    clock: Clock,
    log: Log,
    tell: _Tell,
    faults: Sequence[Planned],
) -> Fleet:
    def on_shot(shot: Shot) -> None:
        log.write(shot)
        tell.shot(shot)

    return Fleet(
        run,
        stock.cameras,
        stock.phases,
        stock.reel,
        way.link,
        clock,
        on_label=way.learn,
        on_shot=on_shot,
        seed=scenario.seed,
        duration=scenario.duration,
        live=stock.live,
        off=flapping(faults),
    )


async def _announce(
    run: str, link: Link, loaded: Loaded, clock: Clock, write_run: RunFile
) -> Control:
    """Set the start a moment ahead, and tell folder and broker."""
    lead_s = 0.0 if clock.virtual else LEAD_S
    clock.begin(clock.wall_ns() + round(lead_s * 1e9))
    write_run(complete=False)
    control = Control(run, digest(loaded.scenario), clock.start_ns, clock.speed)
    await link.announce(control)
    return control


async def _watch(
    lookout: Lookout,
    logs: Sequence[Log],
    clock: Clock,
    stop: asyncio.Event,
    playing: Coroutine[Any, Any, None] | None = None,
) -> None:
    """Run the consumer to its end, the fleet beside it where it is ours; a failed log ends both."""
    records_log = logs[-1]

    async def stop_lookout() -> None:
        await stop.wait()
        lookout.stop()

    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(log.failed(), name=f"guard {log.path}") for log in logs]
        beside.append(group.create_task(_pulse(records_log, clock, lookout), name="pulse"))
        watching = group.create_task(lookout.watch(), name="lookout")
        if playing is not None:
            await playing  # when it is stopped, it still tells the consumer its last frames
        beside.append(group.create_task(stop_lookout(), name="stop"))
        await watching
        for task in beside:
            task.cancel()


@contextlib.asynccontextmanager
async def _gauging(
    folder: Path, engine: Engine, scenario: Scenario, clock: Clock
) -> AsyncIterator[None]:
    """Store what the engine's server tells of itself, every `scrape` seconds, beside the run."""
    every_s = scenario.engine.scrape
    if not every_s or clock.virtual or not isinstance(engine, Gauged):
        yield
        return

    async def look(log: Log) -> None:
        while True:
            values = await engine.gauges()
            log.note("gauges", clock.wall_ns(), scenario_s=round(clock.now(), 3), values=values)
            await asyncio.sleep(every_s)

    async with Log(folder / GAUGES_LOG) as log:
        looking = asyncio.create_task(look(log), name="gauges")
        try:
            yield
        finally:
            looking.cancel()
            (ended,) = await asyncio.gather(looking, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended


async def _play_fleet(fleet: Fleet, stop: asyncio.Event, drill: Drill) -> None:
    """Play until the fleet is through or `stop` is set."""
    playing = asyncio.create_task(fleet.play(), name="fleet")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        async with drill.going_on():
            await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()
    finally:
        for task in (playing, stopping):
            task.cancel()
        await asyncio.gather(playing, stopping, return_exceptions=True)


def _played_s(clock: Clock, scenario: Scenario) -> float:
    now = max(0.0, clock.now())
    return now if scenario.duration is None else min(now, scenario.duration)


async def _pulse(log: Log, clock: Clock, lookout: Lookout) -> None:
    """Note now and then how the process itself fares; in virtual time that would mean nothing."""
    while not clock.virtual:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        log.note(
            "pulse",
            clock.wall_ns(),
            scenario_s=round(clock.now(), 3),
            rss_bytes=_rss_bytes(),
            cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
            concurrency=lookout.consumer.limit,
            tokens_per_s=lookout.snapshot().tokens_per_s,
        )
        await asyncio.sleep(PULSE_S)


def _rss_bytes() -> int | None:
    """Resident memory of this process, bytes; None where the system does not tell (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * resource.getpagesize()


def _note_end(log: Log, clock: Clock, lookout: Lookout) -> None:
    seen = lookout.consumer.snapshot()
    counts = lookout.inlet.counts
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


def _playing(role: str, run: str, scenario: Scenario, traits: Traits | None = None) -> Playing:
    cut = [w for camera in expand(scenario) for w in camera.network.outages]
    return Playing(
        run=run,
        scenario=scenario.name,
        role=role,
        engine="" if traits is None else traits.name,
        model="" if traits is None else traits.model,
        policy=scenario.sampling.policy,
        clock=scenario.clock,
        duration_s=scenario.duration,
        network_outages=tuple((window.start, window.end) for window in cut),
        faults=planned_faults(scenario),
    )


class _Tell:
    """Hands everything on to the observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._followers = [o for o in observers if isinstance(o, Follower)]
        self._viewers = [o for o in observers if isinstance(o, Viewer)]

    def opened(self, playing: Playing) -> None:
        for follower in self._followers:
            follower.opened(playing)

    def ended(self, folder: Path, result: Score | None) -> None:
        for follower in self._followers:
            follower.ended(folder, result)

    def kept_in(self, folder: Path) -> None:
        for viewer in self._viewers:
            viewer.kept_in(folder)

    @property
    def picture(self) -> Callable[[str, int, bytes], None] | None:
        """What is to be told of every sound frame; None where nobody wants to see."""
        if len(self._viewers) == 1:
            return self._viewers[0].picture
        return self._show if self._viewers else None

    def _show(self, camera: str, seq: int, jpeg: bytes) -> None:
        for viewer in self._viewers:
            viewer.picture(camera, seq, jpeg)

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

    def record(self, record: FrameRecord | AlarmRecord | Explanation) -> None:
        for observer in self._observers:
            match record:
                case FrameRecord():
                    observer.frame(record)
                case AlarmRecord():
                    observer.alarm(record)
                case Explanation() if isinstance(observer, Follower):
                    observer.explanation(record)


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
