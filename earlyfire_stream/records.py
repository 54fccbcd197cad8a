"""What happened: one line of JSON per frame and alarm, appended, never rewritten.

A run folder holds two logs that know nothing of each other, so that one can be held against the
other: `cameras.jsonl`, what the cameras scheduled (the camera side's own count), and
`records.jsonl`, the fate that each frame met in the consumer. Everything after this module works
offline from the folder.

Instants named `captured_at` are scenario seconds; `*_ns` are wall nanoseconds.
"""

from __future__ import annotations

__all__ = [
    "CAMERAS_LOG",
    "GAUGES_LOG",
    "RECORDS_LOG",
    "UNTOLD",
    "AlarmRecord",
    "Answer",
    "CameraPlan",
    "Explanation",
    "FaultPlan",
    "FirePlan",
    "FrameRecord",
    "FrameTable",
    "Log",
    "Observer",
    "Playing",
    "RunLog",
    "SecondLook",
    "Shot",
    "ShotTable",
    "Snapshot",
    "Table",
    "Tail",
    "key_frame",
    "load",
    "read_faults",
    "read_logs",
    "read_plans",
    "read_run",
    "read_shots",
    "write_json",
]

import asyncio
import contextlib
import errno
import gzip
import io
import itertools
import logging
import math
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, dataclass, field, fields
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Protocol, Self, TypeAlias, TypeVar, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from earlyfire_stream.clock import Clock, VirtualLoop
from earlyfire_stream.errors import RunFolderError, UsageError
from earlyfire_stream.verdict import Alarm, Box, Fate, Reason, Truth, Verdict

log = logging.getLogger(__name__)

E = TypeVar("E")
T = TypeVar("T")

CAMERAS_LOG = "cameras.jsonl"
RECORDS_LOG = "records.jsonl"
GAUGES_LOG = "engine.jsonl"
"""What the engine's server told of itself during the run, where that was asked for."""
RUN_FILE = "run.json"
READ_BYTES = 1 << 20
NO_RECORD = (
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    ArithmeticError,
    struct.error,
)
"""What reading a line raises that holds something in the wrong place; JSONDecodeError is a
ValueError."""
HELD_BYTES = 64_000_000
"""What a log keeps in memory while the disk is full: some 100,000 frames."""
APART_BYTES = 16_000_000
"""On disk, from which on a second process is worth its start of a third of a second."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One frame that a camera scheduled. `unsent` says why it was never handed to the transport."""

    camera: str
    seq: int
    captured_at: float
    captured_ns: int
    late_s: float = 0.0
    """Wall seconds between the instant it was due and the instant it was handed over."""
    unsent: Reason = Reason.NONE
    identity: str = ""
    size_bytes: int = 0
    smoke: bool | None = None
    """Is smoke to be seen? None where nobody knows."""
    truth: tuple[Truth, ...] = ()
    """The visible fires with their boxes; a Truth without box where the data has none."""
    boxed: bool = False
    """True if the truth of this frame includes boxes (so that an empty `truth` means: none)."""


@dataclass(frozen=True, slots=True)
class SecondLook:
    """A crop around a suspected box, sent again before the verdict was settled."""

    crop: Box
    """The part of the frame that was sent."""
    sent_size: tuple[int, int]
    """(width, height) of the crop as the engine got it, pixels."""
    started_ns: int
    answered_ns: int
    visual_tokens: int
    """Of this request; 0 if it was never made. The answer's own count has them too."""
    first: Verdict
    """What the first look said."""
    verdict: Verdict | None = None
    """What this one said, its box in the frame; None if it failed, and then `first` stands."""
    text: str = ""
    error: str = ""
    """Why there is no verdict."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request cost and brought. Durations of the server's own timing in wall seconds.

    With a second look `verdict` and its instants are the settled ones and the tokens are those of
    both requests; `text`, `finish`, `sent_size` and `server` are the first one's.
    """

    started_ns: int
    decided_ns: int
    answered_ns: int
    sent_size: tuple[int, int]
    """(width, height) of the image as the engine got it, pixels."""
    visual_tokens: int
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish: str = ""
    text: str = ""
    """The reply, at most 4,000 characters of it."""
    verdict: Verdict | None = None
    """None if it could not be read (bad_json)."""
    box_error: str = ""
    """Why the reply's box could not be used although `has_smoke` could."""
    server: Mapping[str, float] = field(default_factory=dict)
    """The engine's own timing split, such as load_s, prompt_s, generate_s."""
    context: tuple[int, ...] = ()
    """The older frames of the clip that was sent, oldest first; empty for a single picture."""
    second: SecondLook | None = None
    """None where no crop was sent again."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """The one fate of one frame, written once."""

    camera: str
    seq: int
    captured_at: float
    captured_ns: int
    fate: Fate
    reason: Reason = Reason.NONE
    detail: str = ""
    received_ns: int | None = None
    """None for a frame that never came."""
    published_ns: int | None = None
    admitted: bool = False
    """Sampling wanted it: it entered the mailbox. Such frames count in Q and K."""
    identity: str = ""
    answer: Answer | None = None
    """Present for answered, bad_json and (as far as it got) engine_error."""


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """An alarm that completed k-of-n. `emitted` is False inside the repeat time."""

    alarm: Alarm
    emitted: bool
    alarmed_ns: int
    """Wall instant at which it was handed on."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the model said when it was asked for its reasons, after the verdict. Never scored."""

    camera: str
    seq: int
    started_ns: int
    answered_ns: int
    visual_tokens: int
    text: str = ""
    """At most 4,000 characters; a stranger's words."""
    output_tokens: int | None = None
    error: str = ""
    """Why there is no text."""


@dataclass(frozen=True, slots=True)
class FirePlan:
    """One fire of one camera, as the scenario states it. Scenario seconds."""

    id: str
    onset: float
    end: float | None = None
    onset_source: str = ""
    """How the onset is known; "" where the scenario does not say."""


@dataclass(frozen=True, slots=True)
class CameraPlan:
    """One camera as it was played: what the scorer must know of the scenario."""

    id: str
    fires: tuple[FirePlan, ...] = ()
    cadence_s: float | None = None
    """Declared seconds between frames; None for stills (frame metrics only)."""
    truth: bool = True
    """False: nobody knows what is in it; it is left out of every score."""
    ignore: tuple[tuple[tuple[float, float], ...], ...] = ()
    outages: tuple[tuple[float, float], ...] = ()
    """Scripted (start, end); they count neither as exposure nor against anybody."""
    network_outages: tuple[tuple[float, float], ...] = ()
    """In which its network loses all: no fault's doing."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """One scripted fault, as the scenario states it. Scenario seconds.

    What it really did and when stands in the notes `fault`: `id`, `kind`, `state` (`begun`, `over`,
    `failed`), `scenario_s` and `detail`.
    """

    id: str
    kind: str
    start: float
    end: float
    """Excluded; equal to `start` for what happens in a moment."""
    cameras: tuple[str, ...] = ()
    """The cameras it meets; empty where it meets them all, or what they share."""

    def meets(self, camera: str) -> bool:
        return not self.cameras or camera in self.cameras


@dataclass(frozen=True, slots=True)
class RunLog:
    """A run folder, read. Frames and shots are in no particular order."""

    run: Mapping[str, Any]
    """`run.json` as it stands."""
    cameras: Sequence[CameraPlan]
    shots: Sequence[Shot]
    frames: Sequence[FrameRecord]
    alarms: Sequence[AlarmRecord]
    notes: Sequence[Mapping[str, Any]]
    """Session ends, faults, pulses: `what`, `wall_ns` and more."""
    duplicates: int
    """Deliveries of a frame that had come before."""
    complete: bool
    """False for a run that was killed or is still going on."""
    torn_lines: int = 0
    duration_s: float | None = None
    """Scenario seconds that were played, None where the run did not say."""
    speed: float = 1.0
    alarm_policy: Mapping[str, Any] = field(default_factory=dict)
    """k, n, within (scenario seconds), min_confidence, repeat."""
    explanations: Sequence[Explanation] = ()
    folders: Sequence[Path] = ()
    """Of several folders read as one (`merged`): each of them, as its pictures are in it."""
    doubts: Sequence[str] = ()
    """What a reader must know of how it was put together."""
    faults: Sequence[FaultPlan] = ()
    """What went wrong on purpose, in order of its start."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The consumer at one moment, for whoever watches."""

    received: int
    waiting: int
    in_flight: int
    tokens_spent: int
    tokens_per_s: float | None
    """The budget, or the engine's learned rate; None while neither is known. Wall seconds."""
    utilization: float
    concurrency: int
    """Requests that may be under way at a time, as things stand."""
    duplicates: int
    refused: Mapping[str, int]
    online: frozenset[str] = frozenset()
    """The cameras whose last status was online."""
    budget_waited_s: float = 0.0
    """Wall seconds in which frames waited and the budget had no tokens for them."""
    dropped: int = 0
    """Payloads that the bounded intake had to let go."""
    turned_away: Mapping[str, int] = field(default_factory=dict)
    """Payloads that the transport did not take in, by reason."""
    reconnects: int = 0
    suspected: frozenset[str] = frozenset()
    """The cameras under suspicion as of their newest frame: a change, or a positive to confirm."""


@dataclass(frozen=True, slots=True)
class Playing:
    """What is about to run, for whoever watches; the words of run.json."""

    run: str
    scenario: str
    role: str
    """`run`, or the half that this process is: `cameras` or `consume`."""
    engine: str
    model: str
    policy: str
    """Of sampling."""
    clock: str
    duration_s: float | None = None
    """Scenario seconds to play; None where the footage decides."""
    network_outages: tuple[tuple[float, float], ...] = ()
    """Scripted (start, end) of a camera's network, scenario seconds; one for each camera."""
    faults: tuple[FaultPlan, ...] = ()


class Observer(Protocol):
    """Whoever watches a run. Called from the event loop, so it must be quick.

    A subclass writes down only what it cares for.
    """

    def stage(self, text: str, share: float | None = None) -> None:
        """What is being done before and after the stream; `share` 0 to 1 where it is known."""
        return

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        """The stream is about to start. `snapshot` is None where no consumer runs."""
        return

    def shot(self, shot: Shot) -> None:
        return None

    def frame(self, record: FrameRecord) -> None:
        return None

    def alarm(self, record: AlarmRecord) -> None:
        return None


# --- writing -------------------------------------------------------------------------------------

_KINDS: dict[type, bytes] = {
    Shot: b"shot",
    FrameRecord: b"frame",
    AlarmRecord: b"alarm",
    Explanation: b"explanation",
}


Entry: TypeAlias = Shot | FrameRecord | AlarmRecord | Explanation


class Log:
    """An append-only log: lines are buffered and written every second, off the event loop.

    While the disk is full up to `held_bytes` wait in memory and are written when there is room
    again. More than that, or any other write that fails, ends the log: it is raised from `failed()`
    at once and from leaving the context, as RunFolderError. Past `rotate_bytes` the file is set
    aside as `<name>-0001.jsonl.gz` and a new one begun.

    `behind` another log, what that was told first is written first: of a process that is killed,
    or whose disk is full, no fate is known of a frame whose schedule is not.
    """

    FLUSH_S = 1.0

    def __init__(
        self,
        path: Path,
        rotate_bytes: int = 256_000_000,
        *,
        behind: Log | None = None,
        held_bytes: int = HELD_BYTES,
    ) -> None:
        self.path = path
        self.no_room = False
        """A scripted fault: writing fails as on a full disk."""
        self._behind = behind
        self._held_bytes = held_bytes
        self._held = bytearray()
        """Lines that are next to be written; the first may be the rest of one."""
        self._waits = False
        """The disk was full when we last tried."""
        self._rotate_bytes = rotate_bytes
        self._lines: list[bytes] = []
        self._file: BinaryIO | None = None
        self._task: asyncio.Task[None] | None = None
        self._writing = threading.Lock()
        """A flush may still run in its thread when the context is left."""
        self._failure: RunFolderError | None = None
        self._parts = len(list(path.parent.glob(f"{path.stem}-*.jsonl*")))

    def write(self, item: Entry) -> None:
        self._lines.append(b'{"k":"%b","v":%b}\n' % (_KINDS[type(item)], orjson.dumps(item)))

    def note(self, what: str, wall_ns: int, **data: object) -> None:
        """Something worth telling that is no frame: a session's start and end, an outage."""
        line = orjson.dumps({"k": "note", "v": {"what": what, "wall_ns": wall_ns, **data}})
        self._lines.append(line + b"\n")

    async def failed(self) -> None:
        """Never returns; raises RunFolderError when a write has failed."""
        assert self._task is not None
        await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        try:
            mend_torn_line(self.path)
            self._file = self.path.open("ab", buffering=0)
        except OSError as why:
            raise _unwritable(self.path, why) from why
        self._task = asyncio.create_task(self._flush_for_ever(), name=f"flush {self.path.name}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        assert self._file is not None
        self._task.cancel()
        try:
            # Not awaited by itself: whether it or we are cancelled could not be told.
            await asyncio.wait({self._task})
        finally:
            if not self._task.cancelled():
                self._task.exception()  # looked at; what a write has met is raised below
            try:
                self._flush(last=True)
            finally:
                self._file.close()

    async def _flush_for_ever(self) -> None:
        virtual = isinstance(asyncio.get_running_loop(), VirtualLoop)
        while True:
            await asyncio.sleep(self.FLUSH_S)
            # A write of a second's lines takes well under a millisecond unless the disk is slow;
            # then the thread keeps the loop free. Virtual time has no threads.
            if virtual:
                self._flush()
            else:
                writing = asyncio.ensure_future(asyncio.to_thread(self._flush))
                # Left behind when we are cancelled; what it met is kept and raised on leaving.
                writing.add_done_callback(lambda done: done.cancelled() or done.exception())
                await asyncio.shield(writing)

    def _flush(self, *, last: bool = False) -> None:
        with self._writing:
            if self._failure is not None:
                # Half a line may stand there; one more behind it would make it unreadable.
                raise self._failure
            # The same list for ever: another thread may hold it while it makes the next line.
            told = len(self._lines)
            self._held += b"".join(self._lines[:told])
            del self._lines[:told]
            if not self._held:
                return
            if self._behind is not None:
                try:
                    self._behind._flush(last=last)
                except RunFolderError as why:
                    self._failure = why
                    raise
            try:
                self._write_held()
            except OSError as why:
                if not _is_full(why) or last or len(self._held) > self._held_bytes:
                    self._failure = _unwritable(self.path, why)
                    raise self._failure from why
                if not self._waits:
                    log.warning("%s: the disk is full; lines wait in memory", self.path)
                self._waits = True

    def _write_held(self) -> None:
        assert self._file is not None
        if self.no_room or (self._behind is not None and self._behind._waits):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        while self._held:
            del self._held[: self._file.write(self._held)]
        if self._waits:
            log.warning("%s: there is room again; what waited is written", self.path)
        self._waits = False
        if self._file.tell() >= self._rotate_bytes:
            self._rotate()

    def _rotate(self) -> None:
        assert self._file is not None
        part = self.path.with_name(f"{self.path.stem}-{self._parts + 1:04}.jsonl")
        try:
            self.path.rename(part)
            try:
                fresh = self.path.open("ab", buffering=0)
            except OSError:
                part.rename(self.path)
                raise
        except OSError as why:
            if not _is_full(why):
                raise
            return  # no room for a name: it grows on, and is set aside after the next write
        self._file.close()
        self._file = fresh
        self._parts += 1
        packed = part.with_suffix(".jsonl.gz.tmp")
        try:
            with part.open("rb") as plain, gzip.open(packed, "wb", compresslevel=3) as gz:
                shutil.copyfileobj(plain, gz)
            packed.rename(part.with_suffix(".jsonl.gz"))
        except OSError as why:
            packed.unlink(missing_ok=True)
            if not _is_full(why):
                raise
            log.warning("%s: no room to pack it; it stays as it is", part)
            return
        part.unlink()


def _is_full(why: OSError) -> bool:
    return why.errno in (errno.ENOSPC, errno.EDQUOT)


def _unwritable(path: Path, why: OSError) -> RunFolderError:
    full = why.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = (
        "the disk is full; free some space"
        if full
        else "let it be written to, or play into another folder with --out"
    )
    return RunFolderError(f"{path}: cannot be written: {why.strerror} ({remedy})")


def key_frame(camera: str, seq: int, what: str) -> str:
    """The name of a picture kept in a run's `frames`: `north-000017-alarm.jpg`.

    A foreign camera's name is a stranger's text: it must not decide where we write.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", camera)[:80]
    return f"{safe}-{seq:06}-{what}.jpg"


def write_json(path: Path, data: object) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    text = orjson.dumps(data, option=orjson.OPT_INDENT_2)
    try:
        with temporary.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as why:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _unwritable(path, why) from why


def mend_torn_line(path: Path) -> None:
    """Cut off the half line that a killed process may have left, so that appending is safe."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        step = min(size, 1 << 20)
        file.seek(size - step)
        tail = file.read(step)
        if not tail.endswith(b"\n"):
            file.truncate(size - step + tail.rfind(b"\n") + 1)


# --- a million frames in little memory -----------------------------------------------------------
#
# As objects a million frames with their answers take more than 2 GB. A table keeps each as one
# packed row of numbers; what has no fixed size stands apart, once. Objects are made when somebody
# asks for one, and whole columns can be had as arrays.

UNTOLD = -(2**63)
"""Stands for None in a column of integers."""
_MATTER: tuple[Fate, ...] = tuple(Fate)
_WHY: tuple[Reason, ...] = tuple(Reason)
_FATES: Mapping[str, int] = {fate: place for place, fate in enumerate(_MATTER)}
_REASONS: Mapping[str, int] = {reason: place for place, reason in enumerate(_WHY)}
_SMOKE: Mapping[bool | None, int] = {None: -1, False: 0, True: 1}
_SEEN = (False, True, None)
"""By the code in `_SMOKE`; -1 is the last."""


class _Kept(Generic[T]):
    """Each value once, known by its place."""

    def __init__(self, *values: T) -> None:
        self.values: list[T] = list(values)
        self._places: dict[T, int] = {value: place for place, value in enumerate(values)}

    def place(self, value: T) -> int:
        found = self._places.get(value)
        if found is None:
            found = self._places[value] = len(self.values)
            self.values.append(value)
        return found


class _Rows:
    """Packed rows, one behind the other. `layout` names each column with its struct letter."""

    def __init__(self, layout: Mapping[str, str]) -> None:
        packer = struct.Struct("<" + "".join(layout.values()))
        self._layout = layout
        self.pack = packer.pack
        self._unpack = packer.unpack_from
        self._size = packer.size
        self._type = np.dtype(list(zip(layout, map(np.dtype, layout.values()), strict=True)))
        self.data = bytearray()

    def __reduce__(self) -> tuple[Any, ...]:
        return _filled, (self._layout, self.data)

    def __len__(self) -> int:
        return len(self.data) // self._size

    def __getitem__(self, place: int) -> tuple[Any, ...]:
        return self._unpack(self.data, place * self._size)

    def column(self, name: str) -> NDArray[Any]:
        rows = np.frombuffer(self.data, self._type)
        return np.ascontiguousarray(rows[name])

    def where(self, chosen: NDArray[np.bool_]) -> _Rows:
        return _filled(
            self._layout, bytearray(np.frombuffer(self.data, self._type)[chosen].tobytes())
        )


def _filled(layout: Mapping[str, str], data: bytearray) -> _Rows:
    rows = _Rows(layout)
    rows.data = data
    return rows


class Table(Sequence[E]):
    """A sequence of records; `column` gives one number of each as an array."""

    def __init__(self, layout: Mapping[str, str]) -> None:
        self._rows = _Rows(layout)
        self._cameras: _Kept[str] = _Kept()
        self._texts = bytearray()

    @property
    def cameras(self) -> Sequence[str]:
        """By the number in the column `camera`, in order of their first record."""
        return self._cameras.values

    def column(self, name: str) -> NDArray[Any]:
        return self._rows.column(name)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> E: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[E]: ...
    def __getitem__(self, index: int | slice) -> E | Sequence[E]:
        places = range(len(self))[index]
        return self._at(places) if isinstance(places, int) else [self._at(i) for i in places]

    def __iter__(self) -> Iterator[E]:
        return map(self._at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _at(self, place: int) -> E:
        raise NotImplementedError

    def _text(self, start: int, length: int) -> str:
        return self._texts[start : start + length].decode()


def _whole(value: dict[str, Any], kind: type) -> dict[str, Any]:
    """With the defaults of fields that an older log does not have; TypeError for a stranger's."""
    if not isinstance(value, dict):
        raise TypeError(f"{kind.__name__} is no object")
    known = {f.name: f for f in fields(kind)}
    strange = value.keys() - known.keys()
    if strange:
        raise TypeError(f"{kind.__name__} has no {sorted(strange)[0]!r:.40}")
    made = {n: f.default_factory() for n, f in known.items() if f.default_factory is not MISSING}
    plain = {n: f.default for n, f in known.items() if f.default is not MISSING}
    return {**made, **plain, **value}


_SHOT_LAYOUT: Mapping[str, str] = {
    "camera": "I",
    "seq": "q",
    "captured_at": "d",
    "captured_ns": "q",
    "late_s": "d",
    "unsent": "B",
    "size_bytes": "q",
    "smoke": "b",
    "boxed": "?",
    "truth": "I",
    "identity": "Q",
    "identity_length": "I",
}
_shot_values = itemgetter(
    "camera", "seq", "captured_at", "captured_ns", "late_s", "unsent", "size_bytes", "smoke",
    "boxed", "truth", "identity",
)  # fmt: skip


class ShotTable(Table[Shot]):
    """Columns: `unsent` a place in Reason, `smoke` 1, 0 or -1, `truth` 0 for none; see Shot."""

    def __init__(self) -> None:
        super().__init__(_SHOT_LAYOUT)
        self._truths: list[tuple[Truth, ...]] = [()]

    @classmethod
    def of(cls, shots: Sequence[Shot]) -> ShotTable:
        if isinstance(shots, ShotTable):
            return shots
        table = cls()
        for shot in shots:
            table.take(orjson.loads(orjson.dumps(shot)))
        return table

    def take(self, v: dict[str, Any]) -> None:
        """Append one as its line holds it; KeyError, TypeError, ValueError if it is none."""
        if len(v) != _SHOT_FIELDS:
            v = _whole(v, Shot)
        camera, seq, at, ns, late, unsent, size, smoke, boxed, seen, identity = _shot_values(v)
        truth = 0
        if seen:
            truth = len(self._truths)
            self._truths.append(tuple(Truth(t["fire"], _box(t["box"])) for t in seen))
        name = identity.encode()
        texts, rows = self._texts, self._rows
        rows.data += rows.pack(
            self._cameras.place(camera),
            seq,
            at,
            ns,
            late,
            _REASONS[unsent],
            size,
            _SMOKE[smoke],
            boxed,
            truth,
            len(texts),
            len(name),
        )
        texts += name

    def only(self, cameras: Collection[str]) -> ShotTable:
        """The shots of these cameras."""
        wanted = np.array([camera in cameras for camera in self.cameras], bool)
        chosen = copy(self)
        chosen._rows = self._rows.where(wanted[self.column("camera")] if len(self) else wanted[:0])
        return chosen

    def truth(self, number: int) -> tuple[Truth, ...]:
        """By the number in the column `truth`."""
        return self._truths[number]

    def _at(self, place: int) -> Shot:
        camera, seq, at, ns, late, unsent, size, smoke, boxed, truth, start, length = self._rows[
            place
        ]
        return Shot(
            camera=self._cameras.values[camera],
            seq=seq,
            captured_at=at,
            captured_ns=ns,
            late_s=late,
            unsent=_WHY[unsent],
            identity=self._text(start, length),
            size_bytes=size,
            smoke=_SEEN[smoke],
            truth=self._truths[truth],
            boxed=boxed,
        )


_FRAME_LAYOUT: Mapping[str, str] = {
    "camera": "I",
    "seq": "q",
    "captured_at": "d",
    "captured_ns": "q",
    "fate": "B",
    "reason": "B",
    "detail": "I",
    "received_ns": "q",
    "published_ns": "q",
    "admitted": "?",
    "identity": "Q",
    "identity_length": "I",
    "answer": "I",
}
_ANSWER_LAYOUT: Mapping[str, str] = {
    "started_ns": "q",
    "decided_ns": "q",
    "answered_ns": "q",
    "width": "q",
    "height": "q",
    "visual_tokens": "q",
    "prompt_tokens": "q",
    "output_tokens": "q",
    "finish": "I",
    "text": "Q",
    "text_length": "I",
    "verdict": "b",
    "xc": "d",
    "yc": "d",
    "w": "d",
    "h": "d",
    "confidence": "d",
    "repairs": "I",
    "box_error": "I",
    "context": "I",
    "server": "I",
    "server_at": "Q",
}
_NAN = float("nan")
"""No box, no confidence: JSON has no such number."""
_NO_BOX = (_NAN, _NAN, _NAN, _NAN)
_frame_values = itemgetter(
    "camera", "seq", "captured_at", "captured_ns", "fate", "reason", "detail", "received_ns",
    "published_ns", "admitted", "identity", "answer",
)  # fmt: skip
_verdict_values = itemgetter("has_smoke", "box", "confidence", "repairs")
_answer_values = itemgetter(
    "started_ns", "decided_ns", "answered_ns", "sent_size", "visual_tokens", "prompt_tokens",
    "output_tokens", "finish", "text", "verdict", "box_error", "server", "context",
)  # fmt: skip


class FrameTable(Table[FrameRecord]):
    """Columns: `fate` and `reason` places in Fate and Reason, `answer` 0 for none; see FrameRecord.

    Those of `answer_column` are told by answer: number 1 of the column `answer` is the first.
    `verdict` is 1, 0, or -1 for none; `w` and `confidence` are NaN for none.
    """

    def __init__(self) -> None:
        super().__init__(_FRAME_LAYOUT)
        self._answers = _Rows(_ANSWER_LAYOUT)
        self._words: _Kept[str] = _Kept("")
        self._lists: _Kept[tuple[Any, ...]] = _Kept(())
        self._timings = array("d")
        self._seconds: dict[int, SecondLook] = {}
        """Second looks by their answer's place: most answers have none."""

    @classmethod
    def of(cls, frames: Sequence[FrameRecord]) -> FrameTable:
        if isinstance(frames, FrameTable):
            return frames
        table = cls()
        for frame in frames:
            table.take(orjson.loads(orjson.dumps(frame)))
        return table

    def answer_column(self, name: str) -> NDArray[Any]:
        return self._answers.column(name)

    def without(self, gone: NDArray[np.bool_]) -> FrameTable:
        """Without these records, which have no answer."""
        rest = copy(self)
        rest._rows = self._rows.where(~gone)
        return rest

    def take(self, v: dict[str, Any]) -> None:
        """Append one as its line holds it; KeyError, TypeError, ValueError if it is none."""
        if len(v) != _FRAME_FIELDS:
            v = _whole(v, FrameRecord)
        camera, seq, at, ns, fate, reason, detail, received, published, admitted, identity, told = (
            _frame_values(v)
        )
        answer = 0
        if told is not None:
            self._take_answer(told)
            answer = len(self._answers)
        name = identity.encode()
        texts, rows = self._texts, self._rows
        rows.data += rows.pack(
            self._cameras.place(camera),
            seq,
            at,
            ns,
            _FATES[fate],
            _REASONS[reason],
            self._words.place(detail) if detail else 0,
            UNTOLD if received is None else received,
            UNTOLD if published is None else published,
            admitted,
            len(texts),
            len(name),
            answer,
        )
        texts += name

    def _take_answer(self, v: dict[str, Any]) -> None:
        if len(v) != _ANSWER_FIELDS:
            v = _whole(v, Answer)
        (
            started, decided, answered, size, visual, prompt, output, finish, text, told, box_error,
            server, context,
        ) = _answer_values(v)  # fmt: skip
        smoke, box, confidence, repairs = -1, _NO_BOX, _NAN, 0
        if told is not None:
            if len(told) != _VERDICT_FIELDS:
                told = _whole(told, Verdict)
            claim, place, sure, mended = _verdict_values(told)
            smoke = _SMOKE[claim]
            if place is not None:
                found = Box(**place)
                box = found.xc, found.yc, found.w, found.h
            if sure is not None:
                confidence = sure
            if mended:
                repairs = self._lists.place(tuple(mended))
        again = v["second"]
        second = None if again is None else _second_look(again)
        width, height = size
        words = text.encode()
        timings = len(self._timings)
        self._timings.extend(server.values())
        texts, rows = self._texts, self._answers
        rows.data += rows.pack(
            started,
            decided,
            answered,
            width,
            height,
            visual,
            UNTOLD if prompt is None else prompt,
            UNTOLD if output is None else output,
            self._words.place(finish) if finish else 0,
            len(texts),
            len(words),
            smoke,
            *box,
            confidence,
            repairs,
            self._words.place(box_error) if box_error else 0,
            self._lists.place(tuple(context)) if context else 0,
            self._lists.place(tuple(server)),
            timings,
        )
        texts += words
        if second is not None:
            # Last: a broken line that is skipped must leave nothing for the next one.
            self._seconds[len(rows) - 1] = second

    def repairs(self, number: int) -> tuple[str, ...]:
        """By the number in the answers' column `repairs`."""
        return self._lists.values[number]

    def server(self) -> Iterator[tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.float64]]]:
        """The engine's own timings, by what it told of: names, the answers' places, a row each."""
        shape, begin = self.answer_column("server"), self.answer_column("server_at")
        values = np.frombuffer(self._timings, np.float64) if self._timings else np.empty(0)
        for number in dict.fromkeys(shape.tolist()):
            names = self._lists.values[number]
            places = np.flatnonzero(shape == number)
            where = begin[places, None].astype(np.int64) + np.arange(len(names))
            yield names, places, values[where]

    def _at(self, place: int) -> FrameRecord:
        (
            camera, seq, at, ns, fate, reason, detail, received, published, admitted, start, length,
            answer,
        ) = self._rows[place]  # fmt: skip
        return FrameRecord(
            camera=self._cameras.values[camera],
            seq=seq,
            captured_at=at,
            captured_ns=ns,
            fate=_MATTER[fate],
            reason=_WHY[reason],
            detail=self._words.values[detail],
            received_ns=None if received == UNTOLD else received,
            published_ns=None if published == UNTOLD else published,
            admitted=admitted,
            identity=self._text(start, length),
            answer=self._answer(answer - 1) if answer else None,
        )

    def _answer(self, place: int) -> Answer:
        (
            started, decided, answered, width, height, visual, prompt, output, finish, start,
            length, smoke, xc, yc, w, h, confidence, repairs, box_error, context, server, begin,
        ) = self._answers[place]  # fmt: skip
        verdict = None
        if smoke >= 0:
            verdict = Verdict(
                has_smoke=smoke == 1,
                box=None if math.isnan(w) else Box(xc, yc, w, h),
                confidence=None if math.isnan(confidence) else confidence,
                repairs=self._lists.values[repairs],
            )
        names = self._lists.values[server]
        return Answer(
            started_ns=started,
            decided_ns=decided,
            answered_ns=answered,
            sent_size=(width, height),
            visual_tokens=visual,
            prompt_tokens=None if prompt == UNTOLD else prompt,
            output_tokens=None if output == UNTOLD else output,
            finish=self._words.values[finish],
            text=self._text(start, length),
            verdict=verdict,
            box_error=self._words.values[box_error],
            server=dict(zip(names, self._timings[begin : begin + len(names)], strict=True)),
            context=self._lists.values[context],
            second=self._seconds.get(place),
        )


_SHOT_FIELDS = len(fields(Shot))
_FRAME_FIELDS = len(fields(FrameRecord))
_ANSWER_FIELDS = len(fields(Answer))
_VERDICT_FIELDS = len(fields(Verdict))


# --- reading -------------------------------------------------------------------------------------


def load(folder: Path, cameras: Path | None = None) -> RunLog:
    """Read a run folder, complete or not.

    `cameras` is another folder whose cameras' log stands in for this one's (two halves on two
    machines). A torn last line is counted and left out; any other broken line is an error.
    """
    run = read_run(folder)
    side = cameras or folder
    cameras_run = run if side == folder else read_run(side)
    if cameras_run["digest"] != run["digest"]:
        raise UsageError(
            f"{side}: plays another scenario than {folder}; they cannot be scored as one"
        )
    plans = read_plans(cameras_run) or read_plans(run)
    return read_logs(run, plans, [side], [folder])


def read_plans(run: Mapping[str, Any]) -> tuple[CameraPlan, ...]:
    """The cameras of a run.json; RunFolderError if they are none."""
    try:
        return tuple(_plan(c) for c in run["cameras"] or ())
    except (LookupError, TypeError, ValueError) as why:
        raise RunFolderError(f"{RUN_FILE}: its cameras cannot be read: {why!s:.200}") from why


def read_faults(run: Mapping[str, Any]) -> tuple[FaultPlan, ...]:
    """The scripted faults of a run.json; none where it is older than they are."""
    try:
        return tuple(_fault_plan(fault) for fault in run.get("faults") or ())
    except (LookupError, TypeError, ValueError) as why:
        raise RunFolderError(f"{RUN_FILE}: its faults cannot be read: {why!s:.200}") from why


def read_logs(
    run: Mapping[str, Any],
    plans: Sequence[CameraPlan],
    sides: Sequence[Path],
    folders: Sequence[Path],
) -> RunLog:
    """The cameras' logs of `sides` and the records of `folders` as one; `run` speaks for all."""
    scheduled_in = [side / CAMERAS_LOG for side in sides]
    told_in = [folder / RECORDS_LOG for folder in folders]
    with _reading_apart(scheduled_in) as scheduled:
        read = _Logs()
        read.take(*told_in)
        before = scheduled()
    if len(before.frames) or len(read.shots):
        before = _Logs()  # a log that holds what belongs into the other: one after the other
        before.take(*scheduled_in, *told_in)
        read = _Logs(shots=before.shots, frames=before.frames)
    shots, frames = before.shots, read.frames
    others = before.others
    others.take(read.others)
    notes = others.notes
    return RunLog(
        run=run,
        cameras=plans,
        shots=shots,
        frames=frames,
        alarms=others.alarms,
        explanations=others.explanations,
        notes=notes,
        duplicates=sum(int(n.get("duplicates", 0)) for n in notes if n["what"] == "session_end"),
        complete=bool(run["complete"]),
        torn_lines=others.torn,
        duration_s=run.get("played_s"),
        speed=float(run["speed"]),
        alarm_policy=run["settings"]["alarm"],
        faults=read_faults(run),
    )


def read_shots(path: Path) -> Sequence[Shot]:
    """The frames of one cameras' log."""
    logs = _Logs()
    logs.take(path)
    return logs.shots


def read_run(folder: Path) -> Mapping[str, Any]:
    """Its run.json. UsageError for a folder that is no run's, RunFolderError for a broken one."""
    if not folder.is_dir():
        what = "a file; name the run folder it lies in" if folder.exists() else "no such run folder"
        raise UsageError(f"{folder}: {what}")
    path = folder / RUN_FILE
    try:
        run = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{folder}: no run folder (it holds no {RUN_FILE})") from None
    except (OSError, orjson.JSONDecodeError) as why:
        raise RunFolderError(f"{path}: cannot be read: {why}") from why
    if not isinstance(run, dict) or run.get("schema") != 1:
        raise RunFolderError(f"{path}: no run of this version (schema 1)")
    for key in ("digest", "cameras", "complete", "speed", "settings"):
        if key not in run:
            raise RunFolderError(f"{path}: lacks {key!r}")
    settings, played_s = run["settings"], run.get("played_s")
    if not isinstance(settings, dict) or not isinstance(settings.get("alarm"), dict):
        raise RunFolderError(f"{path}: its settings hold no alarm policy")
    if not _is_number(run["speed"]) or run["speed"] <= 0:
        raise RunFolderError(f"{path}: its speed is no number above 0")
    if played_s is not None and not _is_number(played_s):
        raise RunFolderError(f"{path}: played_s is no number")
    for place, kind in _TOLD.items():
        value: Any = run
        for name in place.split("."):
            value = None if value is None else value.get(name)
        if value is not None and not (_is_number(value) if kind is float else type(value) is kind):
            raise RunFolderError(f"{path}: {place} is no {kind.__name__}")
    return run


_TOLD: Mapping[str, type] = {
    "engine": dict,
    "engine.cold_start_s": float,
    "engine.prompt": dict,
    "settings.budget": dict,
    "versions": dict,
    "host": dict,
    "git": dict,
    "warnings": list,
}
"""What a run.json may tell beside what a score needs; an object before what stands in it."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(slots=True)
class _Others:
    """What a log holds beside shots and frames."""

    alarms: list[AlarmRecord] = field(default_factory=list)
    explanations: list[Explanation] = field(default_factory=list)
    notes: list[Mapping[str, Any]] = field(default_factory=list)
    torn: int = 0

    def take(self, later: _Others) -> None:
        self.alarms += later.alarms
        self.explanations += later.explanations
        self.notes += later.notes
        self.torn += later.torn


@dataclass(slots=True)
class _Logs:
    """What one log, or several one after the other, hold."""

    shots: ShotTable = field(default_factory=ShotTable)
    frames: FrameTable = field(default_factory=FrameTable)
    others: _Others = field(default_factory=_Others)

    def take(self, *paths: Path) -> None:
        for path in paths:
            _read(path, self.shots, self.frames, self.others)


@contextlib.contextmanager
def _reading_apart(paths: Sequence[Path]) -> Iterator[Callable[[], _Logs]]:
    """Read large logs in a process of its own, so that others can be read meanwhile.

    The function that is given waits for it. Should the process fail, for whatever reason, the logs
    are read here, which tells the true error.
    """

    def here() -> _Logs:
        logs = _Logs()
        logs.take(*paths)
        return logs

    if sum(part.stat().st_size for path in paths for part in _parts(path)) < APART_BYTES:
        yield here
        return
    code = "import sys; from earlyfire_stream.records import hand_over; hand_over(*sys.argv[1:])"
    try:
        started = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, paths)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        yield here
        return
    with started as child:

        def there() -> _Logs:
            told, _ = child.communicate()
            if child.returncode:
                return here()
            logs = pickle.loads(told)  # from our own child, which nobody else can write to
            assert isinstance(logs, _Logs)
            return logs

        try:
            yield there
        finally:
            child.kill()


def hand_over(*paths: str) -> None:
    """What the process of `_reading_apart` does."""
    logs = _Logs()
    logs.take(*map(Path, paths))
    pickle.dump(logs, sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)


def _parts(path: Path) -> list[Path]:
    """The files of a log, in order: its rotated parts, then itself."""
    parts = sorted(path.parent.glob(f"{path.stem}-*.jsonl*"))
    return [
        part
        for part in [*parts, path]
        if part.suffix != ".tmp"
        # killed between packing and removing: the packed one counts
        and not (part != path and part.suffix != ".gz" and part.with_suffix(".jsonl.gz").exists())
        and part.exists()
    ]


def _read(path: Path, shots: ShotTable, frames: FrameTable, others: _Others) -> None:
    """Take in what a log and its rotated parts hold, in order."""
    for part in _parts(path):
        packed = part.suffix == ".gz"
        number = 0
        try:
            with _lines(part, packed) as file:
                loads, take_frame, take_shot = orjson.loads, frames.take, shots.take
                for line in file:
                    number += 1
                    # A line without its end is torn even if it can be read: it is cut off when
                    # the log is continued (`mend_torn_line`).
                    if not line.endswith(b"\n"):
                        others.torn += 1
                        continue
                    data = loads(line)
                    kind = data["k"]
                    if kind == "frame":
                        take_frame(data["v"])
                    elif kind == "shot":
                        take_shot(data["v"])
                    else:
                        _take_other(kind, data["v"], others)
        except NO_RECORD as why:
            raise RunFolderError(f"{part}, line {number}: no record: {why!s:.200}") from why
        except (OSError, EOFError, zlib.error) as why:
            raise RunFolderError(f"{part}, after line {number}: cannot be read: {why}") from why


@contextlib.contextmanager
def _lines(part: Path, packed: bool) -> Iterator[BinaryIO]:
    """A file to be read line by line; gzip's own lines come at half the speed."""
    if not packed:
        with part.open("rb", buffering=READ_BYTES) as plain:
            yield plain
        return
    with gzip.open(part, "rb") as unpacked:
        yield io.BufferedReader(unpacked, READ_BYTES)


def _take_other(kind: object, value: Any, others: _Others) -> None:
    match kind:
        case "alarm":
            others.alarms.append(_alarm(value))
        case "explanation":
            others.explanations.append(Explanation(**value))
        case "note":
            if not isinstance(value, dict) or not {"what", "wall_ns"} <= value.keys():
                raise ValueError("a note without what or wall_ns")
            if type(value.get("duplicates", 0)) is not int:
                raise ValueError("duplicates is no whole number")
            others.notes.append(value)
        case _:
            raise ValueError(f"kind {kind!r:.20} is unknown")


def _box(value: Mapping[str, float] | None) -> Box | None:
    return None if value is None else Box(**value)


def _second_look(v: dict[str, Any]) -> SecondLook:
    first = _verdict(v["first"])
    if first is None:
        raise ValueError("a second look without a first one")
    width, height = v["sent_size"]
    counts = (width, height, v["started_ns"], v["answered_ns"], v["visual_tokens"])
    if not all(type(one) is int for one in counts):
        raise ValueError("a second look with a size, instant or count that is no whole number")
    parts = {
        "crop": Box(**v["crop"]),
        "sent_size": (width, height),
        "first": first,
        "verdict": _verdict(v["verdict"]),
    }
    return SecondLook(**{**v, **parts})


def _verdict(v: dict[str, Any] | None) -> Verdict | None:
    if v is None:
        return None
    told = _whole(v, Verdict)
    return Verdict(
        bool(told["has_smoke"]), _box(told["box"]), told["confidence"], tuple(told["repairs"])
    )


def _alarm(v: dict[str, Any]) -> AlarmRecord:
    alarm = v["alarm"]
    alarm["seqs"] = tuple(alarm["seqs"])
    alarm["box"] = _box(alarm["box"])
    return AlarmRecord(Alarm(**alarm), v["emitted"], v["alarmed_ns"])


def _plan(v: Mapping[str, Any]) -> CameraPlan:
    parts = {
        "fires": tuple(_fire_plan(f) for f in v["fires"]),
        "ignore": tuple(tuple((x, y) for x, y in polygon) for polygon in v["ignore"]),
        "outages": tuple((start, end) for start, end in v["outages"]),
        "network_outages": tuple((start, end) for start, end in v.get("network_outages", ())),
    }
    plan = CameraPlan(**{**v, **parts})
    pairs = itertools.chain(plan.outages, plan.network_outages, *plan.ignore)
    _check("a camera", (plan.id,), itertools.chain.from_iterable(pairs))
    _check("a cadence", (), () if plan.cadence_s is None else (plan.cadence_s,))
    if not isinstance(plan.truth, bool):
        raise TypeError(f"truth is {plan.truth!r:.40}")
    return plan


def _fire_plan(v: Mapping[str, Any]) -> FirePlan:
    fire = FirePlan(**v)
    end = () if fire.end is None else (fire.end,)
    _check("a fire", (fire.id, fire.onset_source), (fire.onset, *end))
    return fire


def _fault_plan(v: Mapping[str, Any]) -> FaultPlan:
    fault = FaultPlan(**{**v, "cameras": tuple(v["cameras"])})
    _check("a fault", (fault.id, fault.kind, *fault.cameras), (fault.start, fault.end))
    return fault


def _check(what: str, texts: Iterable[object], numbers: Iterable[object]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{what} with {text!r:.40} for a text")
    for number in numbers:
        if not _is_number(number):
            raise TypeError(f"{what} with {number!r:.40} for a number")


# --- following -----------------------------------------------------------------------------------


class Tail:
    """A log that may still grow, read a piece at a time: each line once, and only when it is whole.

    What is no record is skipped and counted: a page that follows a run has to go on.
    """

    def __init__(self, path: Path, piece_bytes: int = 1 << 18) -> None:
        self._path = path
        self._piece_bytes = piece_bytes
        self._packed: list[Path] | None = None
        """Rotated parts that were there before us; None before the first look."""
        self._file: BinaryIO | None = None
        self._lines: Iterator[bytes] = iter(())
        self.broken = 0

    def more(self) -> list[Entry | Mapping[str, Any]]:
        """What came since the last call, up to a piece of it; empty where there is nothing new.

        RunFolderError if it cannot be read. Notes are the mappings they are.
        """
        try:
            return self._taken(self._piece())
        except (OSError, EOFError, zlib.error) as why:
            raise RunFolderError(f"{self._path}: cannot be read: {why}") from why

    def _piece(self) -> list[bytes]:
        if self._packed is None:
            self._begin()
        assert self._packed is not None
        while self._packed:
            piece = list(itertools.islice(self._lines, 1000))
            if piece:
                return piece
            # the part that is read through is the first one; the next is opened when it has gone
            self._packed.pop(0)
            self._lines = self._unpacked(self._packed[0]) if self._packed else iter(())
        if self._file is None:
            if not self._path.exists():
                return []
            self._file = self._path.open("rb")
        rotated = self._rotated()  # asked first: what was written until then is read now
        start = self._file.tell()
        data = self._file.read(self._piece_bytes)
        end = data.rfind(b"\n") + 1
        if not end and len(data) == self._piece_bytes:  # one line, longer than a piece
            data += self._file.readline()
            end = data.rfind(b"\n") + 1
        self._file.seek(start + end)
        if rotated and not end:
            self._file.close()
            self._file = None
        return data[:end].split(b"\n")[:-1]

    def _begin(self) -> None:
        while True:
            before = _parts(self._path)[:-1] if self._path.exists() else _parts(self._path)
            self._file = self._path.open("rb") if self._path.exists() else None
            after = _parts(self._path)[:-1] if self._path.exists() else _parts(self._path)
            if before == after:  # else it was rotated while we looked
                break
            if self._file is not None:
                self._file.close()
        self._packed = before
        self._lines = self._unpacked(before[0]) if before else iter(())

    def _unpacked(self, part: Path) -> Iterator[bytes]:
        with _lines(part, part.suffix == ".gz") as file:
            yield from (line for line in file if line.endswith(b"\n"))

    def _rotated(self) -> bool:
        """Whether our file is no longer the one that is written."""
        assert self._file is not None
        try:
            return os.stat(self._path).st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False  # between two names

    def _taken(self, lines: Sequence[bytes]) -> list[Entry | Mapping[str, Any]]:
        shots, frames = ShotTable(), FrameTable()
        taken: list[Entry | Mapping[str, Any]] = []
        for line in lines:
            try:
                data = orjson.loads(line)
                kind, value = data["k"], data["v"]
                if kind == "frame":
                    frames.take(value)
                    taken.append(frames[-1])
                elif kind == "shot":
                    shots.take(value)
                    taken.append(shots[-1])
                else:
                    others = _Others()
                    _take_other(kind, value, others)
                    taken += [*others.alarms, *others.explanations, *others.notes]
            except NO_RECORD:
                self.broken += 1
        return taken

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
