"""When each frame falls due, and the pictures, made ahead of time.

A camera's schedule is a pure function of the scenario. Its pictures are decoded, rendered and
encoded in a process of their own, a bounded stretch ahead of the clock, so that publishing is never
late because of them. In virtual time there are no processes: pictures are made on the spot, or not
at all where neither engine nor sampling looks at pixels.
"""

from __future__ import annotations

__all__ = [
    "NOTHING",
    "AheadReel",
    "BlankReel",
    "Due",
    "Film",
    "InlineReel",
    "Plate",
    "Reel",
    "Shelf",
    "Times",
    "cadences",
    "close",
    "dues",
]

import asyncio
import contextlib
import heapq
import itertools
import math
import multiprocessing
import os
import pickle
import random
import signal
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from earlyfire_stream.errors import EarlyfireError, SourceError
from earlyfire_stream.frames import Frame, identity, parse
from earlyfire_stream.scenario.fleet import declared_cadence, phases, plays_native_times
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources.base import Label, Picture, Source
from earlyfire_stream.sources.open import open_source

DEFAULT_CADENCE_S = 1.0
"""Of cameras whose source has no times of its own and that declare none."""


@dataclass(frozen=True, slots=True)
class Due:
    """One scheduled frame. `captured_at` in scenario seconds, `source_at` in its source's own."""

    seq: int
    captured_at: float
    source_at: float


@dataclass(frozen=True, slots=True)
class Plate:
    """A picture ready to be published; `jpeg` None where the source had none to give."""

    jpeg: bytes | None
    identity: str
    label: Label


NOTHING = Plate(None, "", Label(None))


@dataclass(frozen=True, slots=True)
class Times:
    """What a source says of its own time; see `sources.base.Source`."""

    native: tuple[float, ...] | None
    cadence_s: float | None
    ends_at: float | None

    @classmethod
    def of(cls, source: Source) -> Times:
        return cls(source.native_times, source.cadence_s, source.ends_at)


def cadences(times: Mapping[str, Times]) -> dict[str, float | None]:
    """Camera -> what its source's own times amount to."""
    return {name: own.cadence_s for name, own in times.items()}


def dues(
    camera: Camera, phase: float, times: Times, duration: float | None, seed: int
) -> Iterator[Due]:
    """The camera's schedule, seq counted from 0; ends with the duration or the source.

    A source with times of its own is played at these, begun at `phase`, unless a cadence is
    declared; else the first frame falls on `phase`. Jitter is normal, seeded by the camera, and cut
    off at 0.45 cadences so that captures keep their order.
    """
    end = math.inf if duration is None else duration
    if times.native is not None and plays_native_times(camera):
        for seq, at in enumerate(times.native):
            if phase + at >= end:
                return
            yield Due(seq, round(phase + at, 6), at)
        return
    cadence = camera.cadence or declared_cadence(camera, times.cadence_s) or DEFAULT_CADENCE_S
    if times.ends_at is not None:
        end = min(end, times.ends_at)
    rng = random.Random(zlib.crc32(f"{seed}/{camera.id}/jitter".encode()))
    for seq in itertools.count():
        at = phase + seq * cadence
        if at >= end:
            return
        if camera.jitter:
            at += max(-0.45 * cadence, min(0.45 * cadence, rng.gauss(0, camera.jitter)))
        at = round(min(max(0.0, at), end - 1e-6), 6)
        yield Due(seq, at, at)


@dataclass(frozen=True, slots=True)
class Film:
    """All that decides a fleet's pictures, fit to be sent to another process."""

    cameras: tuple[Camera, ...]
    base: Path
    """The folder that relative paths of the scenario start from."""
    duration: float | None
    seed: int

    def open(self) -> dict[str, Source]:
        """Open every camera's source, shared ones once; SourceError if one cannot be."""
        opened: dict[str, Source] = {}
        sources: dict[str, Source] = {}
        try:
            for camera in self.cameras:
                key = camera.id if camera.jitter else camera.source_key
                if key not in opened:
                    opened[key] = open_source(camera, self.base, self.seed, self.duration)
                sources[camera.id] = opened[key]
        except BaseException:
            close(sources)
            raise
        return sources

    def phases(self, times: Mapping[str, Times]) -> dict[str, float]:
        """Each camera's phase, scenario seconds."""
        return phases(self.cameras, cadences(times))

    def plates(self, sources: Mapping[str, Source]) -> Iterator[tuple[str, Due, Plate]]:
        """Every frame of the fleet in order of capture; shared pictures are made once.

        A camera that begins some cadences later than another that shows the same joins it then.
        """
        times = {name: Times.of(source) for name, source in sources.items()}
        phase = self.phases(times)
        groups: dict[tuple[int, float, float | None], list[Camera]] = {}
        for camera in self.cameras:
            begins = phase[camera.id]
            if camera.cadence is not None and not camera.jitter:
                begins = round(begins % camera.cadence, 6) % round(camera.cadence, 6)
            groups.setdefault((id(sources[camera.id]), begins, camera.cadence), []).append(camera)

        def of(group: list[Camera]) -> Iterator[tuple[float, str, Due, Plate]]:
            first = min(group, key=lambda camera: phase[camera.id])
            schedule, asked = itertools.tee(
                dues(first, phase[first.id], times[first.id], self.duration, self.seed)
            )
            pictures = sources[first.id].pictures(due.source_at for due in asked)
            later = [
                round((phase[c.id] - phase[first.id]) / c.cadence) if c.cadence else 0
                for c in group
            ]
            for due, picture in zip(schedule, pictures, strict=True):
                plate = _plate(picture)
                for camera, frames in zip(group, later, strict=True):
                    if due.seq >= frames:
                        mine = due if not frames else replace(due, seq=due.seq - frames)
                        yield due.captured_at, camera.id, mine, plate

        made = heapq.merge(*map(of, groups.values()), key=lambda entry: entry[:2])
        for _, camera_id, due, plate in made:
            yield camera_id, due, plate


def close(sources: Mapping[str, Source]) -> None:
    for source in {id(s): s for s in sources.values()}.values():
        source.close()


def _plate(picture: Picture | None) -> Plate:
    if picture is None:
        return NOTHING
    return Plate(picture.jpeg, identity(picture.jpeg), picture.label)


class Reel(Protocol):
    """Where a camera gets its plates from, in order of seq."""

    times: Mapping[str, Times]
    warnings: list[str]

    async def take(self, camera: str, due: Due) -> Plate: ...


class BlankReel:
    """No pixels: a JPEG header of the camera's true size, and the truth. For virtual time alone."""

    def __init__(self, film: Film) -> None:
        self._sources = film.open()
        self.times: Mapping[str, Times] = {
            name: Times.of(source) for name, source in self._sources.items()
        }
        self.warnings: list[str] = []
        blanks: dict[int, bytes] = {}
        for source in self._sources.values():
            if id(source) not in blanks:
                blanks[id(source)] = _blank_like(next(iter(source.pictures([0.0])), None))
        self._blanks = {name: blanks[id(source)] for name, source in self._sources.items()}

    async def take(self, camera: str, due: Due) -> Plate:
        return Plate(self._blanks[camera], "", self._sources[camera].label(due.source_at))

    def close(self) -> None:
        close(self._sources)


def _blank_like(picture: Picture | None) -> bytes:
    """As much JPEG as tells a size, and nothing that could be decoded; 720p without a picture."""
    seen = None if picture is None else parse(picture.jpeg)
    width, height = (seen.width, seen.height) if isinstance(seen, Frame) else (1280, 720)
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    scan = bytes.fromhex("01011100ffda0008010100003f00ffd9")  # one component, one empty scan
    return b"\xff\xd8\xff\xc0\x00\x0b\x08" + size + scan


class Shelf:
    """Plates of the film that was played last, so that a bench makes them once for all variants.

    Beyond `room_bytes` no more are put down; they are made again.
    """

    def __init__(self, room_bytes: int = 1_000_000_000) -> None:
        self._room_bytes = room_bytes
        self._held_bytes = 0
        self._film: Film | None = None
        self._plates: dict[tuple[str, int], Plate] = {}

    def clear_for(self, film: Film) -> None:
        """Forget the plates of any other film."""
        if film != self._film:
            self._film = film
            self._plates.clear()
            self._held_bytes = 0

    def get(self, camera: str, seq: int) -> Plate | None:
        return self._plates.get((camera, seq))

    def put(self, camera: str, seq: int, plate: Plate) -> None:
        size_bytes = len(plate.jpeg or b"")
        if self._held_bytes + size_bytes <= self._room_bytes:
            self._plates[camera, seq] = plate
            self._held_bytes += size_bytes


class InlineReel:
    """Pictures made when they are asked for, in the caller's own thread. For virtual time."""

    def __init__(self, film: Film, shelf: Shelf | None = None) -> None:
        self._shelf = shelf
        if shelf is not None:
            shelf.clear_for(film)
        self._sources = film.open()
        self.times: Mapping[str, Times] = {
            name: Times.of(source) for name, source in self._sources.items()
        }
        self.warnings: list[str] = []
        self._made = film.plates(self._sources)
        self._plates: dict[str, deque[tuple[Due, Plate]]] = {
            camera.id: deque() for camera in film.cameras
        }

    async def take(self, camera: str, due: Due) -> Plate:
        shelved = self._shelf.get(camera, due.seq) if self._shelf is not None else None
        if shelved is not None:
            return shelved
        waiting = self._plates[camera]
        # The fleet asks in order of capture, so what is made on the way is asked for next; only
        # what came from the shelf is not.
        while not waiting or waiting[0][0].seq < due.seq:
            if waiting:
                waiting.popleft()
                continue
            name, made, plate = next(self._made)
            self._plates[name].append((made, plate))
        made, plate = waiting.popleft()
        assert made.seq == due.seq
        if self._shelf is not None:
            self._shelf.put(camera, due.seq, plate)
        return plate

    def close(self) -> None:
        close(self._sources)


class AheadReel:
    """Pictures made ahead of the clock by a child process; `async with` starts and stops it.

    Up to `buffer_bytes` of finished frames wait in memory; when they do, the child rests.
    """

    def __init__(self, film: Film, buffer_bytes: int = 384_000_000) -> None:
        self.times: Mapping[str, Times] = {}
        self.warnings: list[str] = []
        self._film = film
        self._buffer_bytes = buffer_bytes
        self._plates: dict[str, deque[tuple[Due, Plate]]] = {
            camera.id: deque() for camera in film.cameras
        }
        self._wanted: dict[str, asyncio.Future[None]] = {}
        self._room = threading.Condition()
        self._held_bytes = 0
        self._stopping = False
        self._ended = False
        self._failure: BaseException | None = None
        self.made = 0
        """Frames made so far."""
        self.made_until = 0.0
        """Scenario second up to which every frame is made."""
        self._opened: asyncio.Future[None] | None = None
        self._progress = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_make, args=(self._film, theirs), name="earlyfire-reel", daemon=True
        )
        starting = asyncio.ensure_future(asyncio.to_thread(self._process.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting  # a process half started could not be stopped
            self._process.kill()
            await asyncio.to_thread(self._process.join)
            self._pipe.close()
            raise
        finally:
            theirs.close()
        self._thread = threading.Thread(target=self._read, name="reel reader", daemon=True)
        self._thread.start()
        try:
            await self._opened
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        with self._room:
            self._stopping = True
            self._room.notify_all()
        self._process.terminate()
        await asyncio.to_thread(self._process.join, 5)
        if self._process.is_alive():
            self._process.kill()
            await asyncio.to_thread(self._process.join)
        await asyncio.to_thread(self._thread.join)
        self._pipe.close()
        self._process.close()

    async def take(self, camera: str, due: Due) -> Plate:
        """The plate of that frame, waiting for it if it is not made yet; NOTHING if it never is."""
        waiting = self._plates[camera]
        while True:
            while waiting:
                head, plate = waiting[0]
                if head.seq > due.seq:
                    return NOTHING
                waiting.popleft()
                with self._room:
                    self._held_bytes -= len(plate.jpeg or b"")
                    self._room.notify_all()
                if head.seq == due.seq:
                    return plate
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return NOTHING
            future = self._wanted.setdefault(camera, self._loop.create_future())
            await asyncio.shield(future)

    async def ready(
        self, speed: float, duration: float | None, progress: Callable[[float], None]
    ) -> None:
        """Return once playing can begin without ever overtaking the child.

        That is when the scenario seconds made, and those it will make meanwhile at the pace seen
        so far (a fifth deducted), cover the whole; or when the buffer is full.
        """
        total = duration if duration is not None else math.inf
        began = self._loop.time()
        while not self._ended and self._failure is None:
            made = self.made_until
            spent = max(self._loop.time() - began, 1e-3)
            pace = 0.8 * made / (spent * speed)
            lead = min(3.0 * speed, total)
            need = lead if pace >= 1 else max(lead, (1 - pace) * total)
            if self.made > 2 * len(self._plates) and made >= need:
                return
            if self._held_bytes >= 0.9 * self._buffer_bytes:
                if pace < 1:
                    self.warnings.append(
                        f"pictures are made at {pace:.2f} of the speed they are shown at, and the "
                        f"look-ahead of {self._buffer_bytes // 1_000_000} MB is full: expect late "
                        "frames; use fewer cameras, a smaller size or a lower speed"
                    )
                return
            progress(min(1.0, made / need) if math.isfinite(need) and need > 0 else 0.0)
            self._progress.clear()
            await self._progress.wait()
        if self._failure is not None:
            raise self._failure

    # The reader thread: moves plates from the pipe to the loop, and rests while memory is full.

    def _read(self) -> None:
        try:
            while True:
                with self._room:
                    while self._held_bytes >= self._buffer_bytes and not self._stopping:
                        self._room.wait()
                    if self._stopping:
                        return
                message = pickle.loads(self._pipe.recv_bytes())
                if message[0] == "plate":
                    with self._room:
                        self._held_bytes += len(message[3].jpeg or b"")
                self._tell(message)
                if message[0] in ("end", "failed"):
                    return
        except (EOFError, OSError):
            if not self._stopping:
                self._tell(("failed", SourceError("the process that makes the pictures died")))

    def _tell(self, message: tuple[object, ...]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._hear, message)

    def _hear(self, message: tuple[object, ...]) -> None:
        match message:
            case ("opened", dict() as times):
                self.times = times
                assert self._opened is not None
                if not self._opened.done():  # cancelled while this was on its way
                    self._opened.set_result(None)
            case ("plate", str() as camera, Due() as due, Plate() as plate):
                self._plates[camera].append((due, plate))
                self.made += 1
                self.made_until = due.captured_at
                if (future := self._wanted.pop(camera, None)) is not None:
                    future.set_result(None)
            case ("warning", str() as text):
                self.warnings.append(text)
            case ("end",):
                self._ended = True
                self._wake_all()
            case ("failed", BaseException() as why):
                self._failure = why
                assert self._opened is not None
                if not self._opened.done():
                    self._opened.set_exception(why)
                self._wake_all()
        self._progress.set()

    def _wake_all(self) -> None:
        for future in self._wanted.values():
            future.set_result(None)
        self._wanted.clear()


def _make(film: Film, pipe: Connection) -> None:
    """The child: open, report, make every plate in order. Ends when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if hasattr(os, "nice"):
        os.nice(10)  # making pictures ahead must not take the cores from publishing on time

    def send(*message: object) -> None:
        pipe.send_bytes(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

    try:
        sources = film.open()
        try:
            send("opened", {name: Times.of(source) for name, source in sources.items()})
            for camera, due, plate in film.plates(sources):
                send("plate", camera, due, plate)
            for name, source in {id(s): (n, s) for n, s in sources.items()}.values():
                for warning in source.warnings:
                    send("warning", f"camera {name}: {warning}")
            send("end")
        finally:
            close(sources)
    except EarlyfireError as why:
        send("failed", why)
    except BrokenPipeError:
        return
