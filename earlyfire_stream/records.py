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
    "AlarmRecord",
    "Answer",
    "CameraPlan",
    "Explanation",
    "FirePlan",
    "FrameRecord",
    "Log",
    "Observer",
    "RunLog",
    "Shot",
    "Snapshot",
    "key_frame",
    "load",
    "read_run",
    "read_shots",
    "write_json",
]

import asyncio
import contextlib
import errno
import gzip
import os
import re
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self, TypeAlias

import orjson

from earlyfire_stream.clock import Clock, VirtualLoop
from earlyfire_stream.errors import RunFolderError, UsageError
from earlyfire_stream.verdict import Alarm, Box, Fate, Reason, Truth, Verdict

CAMERAS_LOG = "cameras.jsonl"
RECORDS_LOG = "records.jsonl"
GAUGES_LOG = "engine.jsonl"
"""What the engine's server told of itself during the run, where that was asked for."""
RUN_FILE = "run.json"


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
class Answer:
    """What a request cost and brought. Durations of the server's own timing in wall seconds."""

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
    """Session starts and ends, outages: `what`, `wall_ns` and more."""
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


class Observer(Protocol):
    """Whoever watches a run. Called from the event loop, so it must be quick."""

    def stage(self, text: str, share: float | None = None) -> None:
        """What is being done before and after the stream; `share` 0 to 1 where it is known."""

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        """The stream is about to start. `snapshot` is None where no consumer runs."""

    def shot(self, shot: Shot) -> None: ...

    def frame(self, record: FrameRecord) -> None: ...

    def alarm(self, record: AlarmRecord) -> None: ...


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

    A write that fails (disk full) ends the log: it is raised from `failed()` at once and from
    leaving the context, as RunFolderError. Past `rotate_bytes` the file is set aside as
    `<name>-0001.jsonl.gz` and a new one begun.

    `behind` another log, what that was told first is written first: of a process that is killed,
    or whose disk is full, no fate is known of a frame whose schedule is not.
    """

    FLUSH_S = 1.0

    def __init__(
        self, path: Path, rotate_bytes: int = 256_000_000, *, behind: Log | None = None
    ) -> None:
        self.path = path
        self._behind = behind
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
            with contextlib.suppress(asyncio.CancelledError, RunFolderError):
                await self._task
            self._flush()
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

    def _flush(self) -> None:
        with self._writing:
            if self._failure is not None:
                # Half a line may stand there; one more behind it would make it unreadable.
                raise self._failure
            lines, self._lines = self._lines, []
            if not lines:
                return
            if self._behind is not None:
                try:
                    self._behind._flush()
                except RunFolderError as why:
                    self._failure = why
                    raise
            assert self._file is not None
            data = memoryview(b"".join(lines))
            try:
                while data:
                    data = data[self._file.write(data) :]
                if self._file.tell() >= self._rotate_bytes:
                    self._rotate()
            except OSError as why:
                self._failure = _unwritable(self.path, why)
                raise self._failure from why

    def _rotate(self) -> None:
        assert self._file is not None
        self._file.close()
        self._parts += 1
        part = self.path.with_name(f"{self.path.stem}-{self._parts:04}.jsonl")
        self.path.rename(part)
        self._file = self.path.open("ab", buffering=0)
        packed = part.with_suffix(".jsonl.gz.tmp")
        with part.open("rb") as plain, gzip.open(packed, "wb", compresslevel=3) as gz:
            shutil.copyfileobj(plain, gz)
        packed.rename(part.with_suffix(".jsonl.gz"))
        part.unlink()


def _unwritable(path: Path, why: OSError) -> RunFolderError:
    full = why.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "the disk is full; free some space" if full else "choose another folder with --out"
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
    shots: list[Shot] = []
    frames: list[FrameRecord] = []
    alarms: list[AlarmRecord] = []
    explanations: list[Explanation] = []
    notes: list[Mapping[str, Any]] = []
    torn = 0
    for log in (side / CAMERAS_LOG, folder / RECORDS_LOG):
        for item in _items(log):
            match item:
                case Shot():
                    shots.append(item)
                case FrameRecord():
                    frames.append(item)
                case AlarmRecord():
                    alarms.append(item)
                case Explanation():
                    explanations.append(item)
                case None:
                    torn += 1
                case _:
                    notes.append(item)
    return RunLog(
        run=run,
        cameras=tuple(_plan(c) for c in cameras_run.get("cameras") or run["cameras"]),
        shots=shots,
        frames=frames,
        alarms=alarms,
        explanations=explanations,
        notes=notes,
        duplicates=sum(int(n.get("duplicates", 0)) for n in notes if n["what"] == "session_end"),
        complete=bool(run["complete"]),
        torn_lines=torn,
        duration_s=run.get("played_s"),
        speed=float(run["speed"]),
        alarm_policy=run["settings"]["alarm"],
    )


def read_shots(path: Path) -> Iterator[Shot]:
    """The frames of one cameras' log."""
    return (item for item in _items(path) if isinstance(item, Shot))


def read_run(folder: Path) -> Mapping[str, Any]:
    """Its run.json. UsageError for a folder that is no run's, RunFolderError for a broken one."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such run folder")
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
    return run


Item = Entry | Mapping[str, Any]
"""What one line holds; a mapping is a note."""


def _items(path: Path) -> Iterator[Item | None]:
    """What a log and its rotated parts hold, in order; None for the torn last line."""
    parts = sorted(path.parent.glob(f"{path.stem}-*.jsonl*"))
    for part in [p for p in parts if not p.name.endswith(".tmp")] + [path]:
        packed = part.suffix == ".gz"
        if not packed and part.with_suffix(".jsonl.gz").exists() and part != path:
            continue  # killed between packing and removing
        if not part.exists():
            continue
        number = 0
        try:
            with gzip.open(part, "rb") if packed else part.open("rb") as file:
                for line in file:
                    number += 1
                    # A line without its end is torn even if it can be read: it is cut off when
                    # the log is continued (`mend_torn_line`).
                    yield _item(line) if line.endswith(b"\n") else None
        except (KeyError, TypeError, ValueError) as why:  # JSONDecodeError is a ValueError
            raise RunFolderError(f"{part}, line {number}: no record: {why!s:.200}") from why
        except (OSError, EOFError, zlib.error) as why:
            raise RunFolderError(f"{part}, after line {number}: cannot be read: {why}") from why


def _item(line: bytes) -> Item:
    data = orjson.loads(line)
    kind, value = data["k"], data["v"]
    match kind:
        case "shot":
            return _shot(value)
        case "frame":
            return _frame(value)
        case "alarm":
            return _alarm(value)
        case "explanation":
            return Explanation(**value)
        case "note":
            if not isinstance(value, dict) or not {"what", "wall_ns"} <= value.keys():
                raise ValueError("a note without what or wall_ns")
            return value
        case _:
            raise ValueError(f"kind {kind!r:.20} is unknown")


def _box(value: Mapping[str, float] | None) -> Box | None:
    return None if value is None else Box(**value)


def _shot(v: dict[str, Any]) -> Shot:
    v["unsent"] = Reason(v["unsent"])
    v["truth"] = tuple(Truth(t["fire"], _box(t["box"])) for t in v["truth"])
    return Shot(**v)


def _frame(v: dict[str, Any]) -> FrameRecord:
    v["fate"] = Fate(v["fate"])
    v["reason"] = Reason(v["reason"])
    answer = v["answer"]
    if answer is not None:
        verdict = answer["verdict"]
        if verdict is not None:
            verdict["box"] = _box(verdict["box"])
            verdict["repairs"] = tuple(verdict["repairs"])
            answer["verdict"] = Verdict(**verdict)
        answer["sent_size"] = tuple(answer["sent_size"])
        answer["context"] = tuple(answer.get("context", ()))
        v["answer"] = Answer(**answer)
    return FrameRecord(**v)


def _alarm(v: dict[str, Any]) -> AlarmRecord:
    alarm = v["alarm"]
    alarm["seqs"] = tuple(alarm["seqs"])
    alarm["box"] = _box(alarm["box"])
    return AlarmRecord(Alarm(**alarm), v["emitted"], v["alarmed_ns"])


def _plan(v: Mapping[str, Any]) -> CameraPlan:
    parts = {
        "fires": tuple(FirePlan(**f) for f in v["fires"]),
        "ignore": tuple(tuple((x, y) for x, y in polygon) for polygon in v["ignore"]),
        "outages": tuple((start, end) for start, end in v["outages"]),
    }
    return CameraPlan(**{**v, **parts})
