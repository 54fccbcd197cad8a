"""What takes in what strangers send, each with what it promises of any input.

A target's `check` returns a word for what became of an input, and raises if the module raised
anything but its own refusal or broke its promise otherwise.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
from hypothesis import strategies as st

from earlyfire_stream.contract import Parsed, read_reply, settled
from earlyfire_stream.errors import RunFolderError, ScenarioError, UsageError
from earlyfire_stream.frames import Capture, FrameLimits, Refused, identity, parse, wrap
from earlyfire_stream.records import (
    AlarmRecord,
    Answer,
    CameraPlan,
    Explanation,
    FirePlan,
    FrameRecord,
    SecondLook,
    Shot,
    Tail,
    load,
)
from earlyfire_stream.scenario.load import digest, loads, resolved
from earlyfire_stream.verdict import (
    Alarm,
    Box,
    CoordSpace,
    Fate,
    Reason,
    ResizeMode,
    Truth,
    Verdict,
)
from earlyfire_stream.worker.wire import BadRequest, Limits, error_body, read_ask, read_chat
from tests.fuzz import pictures
from tests.fuzz.mutation import mutated
from tests.fuzz.watch import Check, Escape

SCENARIOS = Path(__file__).parents[2] / "scenarios"
LONGEST_MESSAGE = 1_000
AT_ONCE = 48


@dataclass(frozen=True, slots=True)
class Target:
    """`opened` gives the check, for as long as the inputs come."""

    name: str
    opened: Callable[[], contextlib.AbstractContextManager[Check]]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]
    own: st.SearchStrategy[bytes] = field(default_factory=st.nothing)
    """Inputs that are nearly right, built piece by piece."""
    grow: Mapping[str, Callable[[int], bytes]] = field(default_factory=dict)
    """Inputs that can be made of any size: time must not grow with its square."""
    sizes: tuple[int, int] = (2_000, 16_000)
    guided: bool = True
    """Whether atheris can drive it: not where another task does the work."""

    @property
    def inputs(self) -> st.SearchStrategy[tuple[bytes, ...]]:
        """Some at a time: what Hypothesis builds costs it more time than the checks take."""

        def changed(start: int) -> tuple[bytes, ...]:
            return tuple(mutated(self.seeds, self.words, start + n) for n in range(AT_ONCE))

        def around(data: bytes) -> tuple[bytes, ...]:
            seed = zlib.crc32(data)
            return (data, *(mutated((data,), self.words, seed + n) for n in range(AT_ONCE // 2)))

        built = self.own | self.own | st.binary(max_size=300)
        return st.integers(0, 2**62).map(changed) | built.map(around)


def _plain(check: Check) -> Callable[[], contextlib.AbstractContextManager[Check]]:
    return lambda: contextlib.nullcontext(check)


def _short(text: str) -> None:
    """What is said of an input is short, and can be printed and written."""
    if len(text) > LONGEST_MESSAGE:
        raise Escape(f"a message of {len(text)} characters")
    text.encode()


def _or(common: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly that, now and then anything that JSON holds."""
    return st.one_of(common, common, common, ANYTHING)


ODD_NUMBERS = st.sampled_from(
    [0, 1, -1, 0.5, -0.0, 1e-320, 1e308, -1e308, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64]
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | ODD_NUMBERS | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
NUMBERS = st.floats(-2, 2) | st.floats(-2000, 2000) | ODD_NUMBERS | st.integers(0, 1000)


def dumped(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


# --- frames --------------------------------------------------------------------------------------

CAPTURE = Capture("r1", "north", 7, 12.5, 1_700_000_000_000_000_000, 1_700_000_000_500_000_000)
SMALL = FrameLimits(max_bytes=80_000, max_pixels=40_000)


def check_frame(data: bytes) -> str:
    identity(data)
    read = parse(data, SMALL)
    sent = parse(wrap(data, CAPTURE), SMALL)
    if isinstance(read, Refused):
        _short(read.detail)
        orjson.dumps(read)
        return f"refused: {read.reason}"
    if isinstance(sent, Refused) and sent.reason is not Reason.TOO_LARGE:
        raise Escape(f"a frame that is none on the wire: {sent.detail}")
    if not 0 < read.width * read.height <= SMALL.max_pixels:
        raise Escape(f"{read.width}x{read.height} pixels")
    orjson.dumps(read.capture)
    how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    if seen is None:
        return "a frame that cannot be decoded"
    if seen.shape[:2] != (read.height, read.width):
        raise Escape(f"{seen.shape} decoded, {read.width}x{read.height} read")
    return "a frame" if read.capture is None else "a frame of ours"


def _segment(marker: int, content: bytes, wrong: int) -> bytes:
    length = max(0, min(0xFFFF, len(content) + 2 + wrong))
    return bytes((0xFF, marker)) + length.to_bytes(2, "big") + content


_capture = st.fixed_dictionaries(
    {"earlyfire": _or(st.just(1))},
    optional={
        "run": _or(st.just("r1")),
        "camera": _or(st.text(max_size=12)),
        "seq": _or(st.integers(0, 99)),
        "captured_at": _or(NUMBERS),
        "captured_ns": _or(st.integers(0, 2**63)),
        "published_ns": _or(st.integers(0, 2**63)),
        "speed": _or(NUMBERS),
        "more": ANYTHING,
    },
).map(lambda told: json.dumps(told, separators=(",", ":")).encode())
_wrong = st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1, -2, 5, 60_000])
_markers = st.sampled_from([0xE0, 0xE1, 0xEF, 0xDB, 0xC4, 0xDD, 0xC0, 0xC2, 0xD0, 0x01, 0x00, 0xD8])
_segments = st.one_of(
    st.builds(_segment, st.just(0xFE), _capture, _wrong),
    st.builds(_segment, _markers, st.binary(max_size=24), _wrong),
    st.sampled_from([b"\xff", b"\xff\xff\xff", b""]),
)
_PLAIN = pictures.plain(48, 32)
_JPEGS = (
    _PLAIN,
    pictures.progressive(40, 24),
    wrap(_PLAIN, CAPTURE),
    wrap(pictures.progressive(40, 24), CAPTURE),
    pictures.scans(12),
    pictures.two_faced(0x01, (48, 32), (96, 64)),
)
_frames = st.builds(
    lambda parts, jpeg: jpeg[:2] + b"".join(parts) + jpeg[2:],
    st.lists(_segments, max_size=4),
    st.sampled_from(_JPEGS),
)

FRAMES = Target(
    "frames",
    _plain(check_frame),
    _JPEGS,
    (
        *(bytes((0xFF, m)) for m in range(0xC0, 0x100)),
        b"\xff\x01", b'{"earlyfire":1,', b'"seq":', b'"camera":', b"\x00\x02",
    ),
    _frames,
    {
        "comments": lambda n: b"\xff\xd8" + pictures.comment(b"") * n + _PLAIN[2:],
        "comments of ours": lambda n: b"\xff\xd8" + pictures.comment(b'{"earlyfire":') * n,
        "fill bytes": lambda n: b"\xff\xd8" + b"\xff" * (20 * n) + _PLAIN[2:],
        "starts of frame": lambda n: _PLAIN[:2] + _segment(0xC0, b"\x08" + b"\0\1" * 8, 0) * n,
        "scans": lambda n: _PLAIN[:-2] + b"\xff\xda\x00\x08" * n + b"\xff\xd9",
        "no end": lambda n: _PLAIN[:-2] + b"\xff" * (100 * n),
        "nested comment": lambda n: wrap(_PLAIN, CAPTURE)[:30] + b"[" * min(n, 60_000),
    },
    (10_000, 80_000),
)  # fmt: skip


# --- replies -------------------------------------------------------------------------------------

_SIZES = ((1280, 720), (28, 28), (1, 10_000), (3840, 2160))


def check_reply(data: bytes) -> str:
    """The first byte says how the request was; the rest is the text as a server's JSON holds it."""
    how = data[0] if data else 0
    text = data[1:].decode("utf-8", "surrogatepass" if how & 1 else "replace")
    parsed = read_reply(
        text,
        ("stop", "stop", "length", "cut")[how >> 1 & 3],
        list(CoordSpace)[(how >> 3) % 3],
        list(ResizeMode)[how >> 5 & 1],
        _SIZES[how >> 6 & 3],
        (280, 280),
        0.5,
    )
    settled(text)
    if not isinstance(parsed, Parsed):
        raise Escape(f"{type(parsed).__name__} instead of Parsed")
    orjson.dumps(parsed)  # what no record holds would be found out when it is too late
    _short(parsed.box_error)
    if parsed.bad is not None:
        _short(parsed.bad.detail)
        return f"bad_json: {parsed.bad.reason}"
    assert parsed.verdict is not None
    if type(parsed.verdict.has_smoke) is not bool:
        raise Escape("has_smoke is no boolean")
    box = parsed.verdict.box
    if box is not None and not (box.w > 0 and box.h > 0 and 0 <= box.xc <= 1 and 0 <= box.yc <= 1):
        raise Escape(f"{box}")
    return "a verdict with a box" if box else "a verdict"


def _safe_reply(data: bytes) -> str:
    try:
        return check_reply(data)
    except UnicodeDecodeError:
        return "no text"  # no JSON of a server holds it


_boxes = st.lists(NUMBERS, min_size=4, max_size=4)
_answers = st.fixed_dictionaries(
    {},
    optional={
        "has_smoke": _or(st.booleans()),
        "bbox": _or(_boxes),
        "bbox_2d": _or(_boxes | st.lists(_boxes, max_size=3)),
        "more": ANYTHING,
    },
)
_around = st.sampled_from(
    ["", "", "", "```json\n", "Sure! ", "{", "[", "\n", "```", "}", "{'", '"', "\x00", "\u2028"]
)
_replies = st.builds(
    lambda how, before, told, after: (
        bytes((how,)) + before.encode() + dumped(told) + after.encode()
    ),
    st.integers(0, 255),
    _around,
    _answers | st.lists(_answers, max_size=2),
    _around,
)  # fmt: skip
_TEXTS = (
    b'{"has_smoke": true, "bbox": [0.5, 0.25, 0.125, 0.0625]}',
    b'{"has_smoke": true, "bbox_2d": [10, 20, 110, 220]}',
    b'```json\n{"has_smoke": false, "bbox": null}\n```',
    b"I see {smoke}: {'has_smoke': True, 'bbox_2d': [[1, 2, 3, 4], [5, 6, 7, 8]],}",
    b"BAD_JSON",
    b'[{"has_smoke": true, "has_smoke": false}]',
)

REPLIES = Target(
    "replies",
    _plain(_safe_reply),
    tuple(bytes((how,)) + text for how in (0, 8, 17, 36, 6) for text in _TEXTS),
    (
        b'"has_smoke"', b'"bbox"', b'"bbox_2d"', b"true", b"false", b"null", b"[", b"]", b"{", b"}",
        b"```", b"'", b'"', b",", b":", b"0.5", b"1e400", b"BAD_JSON", b"//", b"/*", b"\\u0000",
    ),
    _replies,
    {
        "braces": lambda n: b"\0" + b"{" * (6 * n),
        "brackets": lambda n: b"\0" + b"[" * (6 * n),
        "quotes": lambda n: b"\0" + b"{'" * (3 * n),
        "keys": lambda n: b"\0" + b'{"has_smoke":' * (n // 2),
        "objects": lambda n: b"\0" + b'{"a":1}' * (n // 2),
        "spaces": lambda n: b"\0" + b'{"has_smoke"' + b" " * (5 * n),
        "escapes": lambda n: b"\0" + b'{"has_smoke": "' + b"\\u00" * n,
        "members": lambda n: b"\0{" + b'"a":1,' * (n // 2) + b'"has_smoke":true}',
        "digits": lambda n: b'\0{"has_smoke":true,"bbox":[' + b"9" * (5 * n) + b",1,1,1]}",
        "boxes": lambda n: b'\0{"has_smoke":true,"bbox":[' + b"[]," * n + b"[]]}",
        "short and odd": lambda n: b"\0" + (b"{'a\"[(" * 400)[: min(n, 2_000)],
    },
)  # fmt: skip


# --- scenarios -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _scenarios() -> Iterator[Check]:
    with tempfile.TemporaryDirectory() as folder:
        yield functools.partial(check_scenario, base=Path(folder))


def check_scenario(data: bytes, base: Path) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "no text"
    # A folder of recordings may be named as `/`: that is searched, which is what was asked for.
    files = b"datasets" not in data and b"path" not in data
    try:
        loaded = loads(text, "scenario.yaml", base, files=files)
    except ScenarioError as why:
        str(why).encode()
        for problem in why.problems:
            _short(problem.message + problem.hint)
        return "refused"
    json.dumps(resolved(loaded.scenario))
    digest(loaded.scenario)
    return "a scenario"


_keys = st.sampled_from(
    [
        "earlyfire", "name", "seed", "duration", "cameras", "id", "count", "source", "kind",
        "cadence", "fires", "onset", "plume", "size", "x", "vary", "sampling", "policy", "idle",
        "budget", "tokens_per_s", "alarm", "k", "n", "within", "engine", "options", "faults",
        "outages", "perturb", "scene", "terrain", "speed", "clock", "<<", "datasets", "phase",
        "end", "ignore", "width", "height", "slo",
    ]
)  # fmt: skip
_scalars = st.sampled_from(
    [
        "1", "0", "-1", "90s", "1h", "2m", "1e400", ".inf", "~", "yes", "synthetic", "images",
        "{}", "[]", "&a", "*a", "!!python/object:os.system", "'", '"', "|", ">", "- x", "{a: b}",
        "fire", "2025-08-14", "99999999999999999999", "0x10", "1_000", "${HOME}", "1:30",
    ]
)  # fmt: skip
_lines = st.builds(
    lambda depth, dash, key, value: f"{'  ' * depth}{dash}{key}: {value}",
    st.integers(0, 4),
    st.sampled_from(["", "", "", "- "]),
    _keys,
    _scalars | st.just("") | st.text(max_size=10),
)
_START = (
    "earlyfire: 1\nname: x\ncameras:\n  - id: a\n    cadence: 5s\n    source: {kind: synthetic}\n"
)
_files = st.builds(
    lambda lines, begun: ((_START if begun else "") + "\n".join(lines)).encode(
        "utf-8", "surrogatepass"
    ),
    st.lists(_lines, max_size=10),
    st.booleans(),
)


def _bomb(n: int) -> bytes:
    lines = ["a0: &a0 [x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, min(20, n))]
    return "\n".join(lines).encode()


SCENARIO = Target(
    "scenarios",
    _scenarios,
    (
        _START.encode(),
        *(path.read_bytes() for path in sorted(SCENARIOS.glob("*.yaml"))),
    ),
    (
        b"cameras:", b"- id:", b"source:", b"kind:", b"synthetic", b"fires:", b"onset:", b"count:",
        b"duration:", b"cadence:", b"&a ", b"*a", b"<<: ", b"vary:", b"faults:", b"engine:", b": ",
        b"\n  ", b"\n- ", b"{", b"}", b"[", b"]", b"#", b"'", b'"', b"|", b"---\n", b"!!set", b"5s",
    ),
    _files,
    {
        "bomb of aliases": _bomb,
        "cameras": lambda n: (
            _START + "".join(f"  - {{id: c{i}, cadence: 5s}}\n" for i in range(n // 20))
        ).encode(),
        "equal cameras": lambda n: (_START + "  - {id: c, cadence: 5s}\n" * (n // 20)).encode(),
        "keys": lambda n: "\n".join(f"k{i}: 1" for i in range(n)).encode(),
        "brackets": lambda n: b"a: " + b"[" * n,
        "dashes": lambda n: b"- " * n,
        "one long text": lambda n: b"name: " + b"x" * (20 * n),
        "digits": lambda n: b"seed: " + b"9" * (20 * n),
        "fires": lambda n: (
            _START
            + "    fires:\n"
            + "".join(f"      - {{id: f{i}, onset: 1s}}\n" for i in range(n // 20))
        ).encode(),
        "anchors": lambda n: "\n".join(f"k{i}: &a{i} 1" for i in range(n)).encode(),
        "copies": lambda n: (_START + f"    count: {'9' * min(n, 4_000)}\n").encode(),
    },
)  # fmt: skip


# --- run folders ---------------------------------------------------------------------------------

_BOX = Box(0.5, 0.25, 0.125, 0.0625)
_PLANS = (
    CameraPlan(
        "north",
        (FirePlan("oak", 10.0, 90.0), FirePlan("elm", 20.0)),
        60.0,
        True,
        (((0.0, 0.0), (0.5, 0.0), (0.5, 0.5)),),
        ((5.0, 6.0),),
    ),
    CameraPlan("south", truth=False),
)
_RUN = {
    "schema": 1, "digest": "d1", "cameras": _PLANS, "complete": True, "speed": 2.0,
    "played_s": 120.5, "settings": {"alarm": {"k": 2, "n": 3}},
}  # fmt: skip
_SHOT = Shot("north", 3, 30.25, 1_700, 0.125, Reason.OUTAGE, "ab" * 16, 47, True,
             (Truth("oak", _BOX), Truth("elm")), True)  # fmt: skip
_LOOK = SecondLook(_BOX, (812, 364), 2, 3, 377, Verdict(True, _BOX, 0.5, ("comma",)),
                   Verdict(False, None, 0.25), "no", "none")  # fmt: skip
_ANSWER = Answer(1, 2, 3, (1288, 728), 1196, 1500, 31, "stop", '{"has_smoke": true}',
                 Verdict(True, _BOX, 0.75, ("comma",)), "", {"load_s": 0.5}, (1, 2),
                 _LOOK)  # fmt: skip
_FRAME = FrameRecord("north", 3, 30.25, 17, Fate.ANSWERED, Reason.NONE, "", 5, 4, True, "cd" * 16,
                     _ANSWER)  # fmt: skip
_LOST = FrameRecord("north", 4, 40.25, 27, Fate.LOST, Reason.GAP)
_LINES = tuple(
    b'{"k":"%b","v":%b}\n' % (kind, orjson.dumps(value))
    for kind, value in (
        (b"shot", _SHOT),
        (b"frame", _FRAME),
        (b"frame", _LOST),
        (b"alarm", AlarmRecord(Alarm("north", (1, 3), 30.25, 2, _BOX, 0.75), True, 9)),
        (b"explanation", Explanation("north", 3, 10, 20, 1196, "pale plume", 5, "none")),
        (b"note", {"what": "session_end", "wall_ns": 5, "duplicates": 2}),
    )
)
PART = b"\n=== "
"""Begins a file of a run folder, its name up to the line's end."""
_QUICK = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""A folder in memory, where there is one: three files are written for each input."""
_NAMES = ("run.json", "records.jsonl", "cameras.jsonl", "records-0001.jsonl.gz")


def _folder(run: bytes, records: bytes, cameras: bytes, packed: bytes = b"") -> bytes:
    parts = zip(_NAMES, (run, records, cameras, packed), strict=True)
    return b"".join(PART + name.encode() + b"\n" + data for name, data in parts if data)


@contextlib.contextmanager
def _run_folders() -> Iterator[Check]:
    with tempfile.TemporaryDirectory(dir=_QUICK) as folder:
        yield functools.partial(check_records, folder=Path(folder))


def check_records(data: bytes, folder: Path) -> str:
    for name in _NAMES:
        (folder / name).unlink(missing_ok=True)
    for part in data.split(PART):
        head, _, content = part.partition(b"\n")
        if (name := head.decode("latin-1")) in _NAMES:
            (folder / name).write_bytes(content)
    followed = _follow(folder)
    try:
        run = load(folder)
    except (RunFolderError, UsageError) as why:
        _short(str(why).replace(str(folder), ""))
        return f"refused, {followed}"
    entries = [*run.shots, *run.frames, *run.alarms, *run.explanations, *run.notes]
    for entry in entries:
        orjson.dumps(entry)
    return f"{'an empty run' if not entries else 'a run'}, {followed}"


def _follow(folder: Path) -> str:
    tail = Tail(folder / "records.jsonl")
    entries: list[Any] = []
    try:
        empty = 0
        while empty < 5:  # a piece may hold broken lines alone
            more = tail.more()
            empty = 0 if more else empty + 1
            entries += more
    except RunFolderError as why:
        _short(str(why).replace(str(folder), ""))
        return "not to be followed"
    finally:
        tail.close()
    # What a line is taken for must not depend on the lines before it.
    again = [entry for line in _whole_lines(folder) for entry in tail._taken([line])]
    if orjson.dumps(entries) != orjson.dumps(again):
        raise Escape("a line is taken for something else behind a broken one")
    return "some of it broken" if tail.broken else "followed"


def _whole_lines(folder: Path) -> list[bytes]:
    packed, plain = folder / "records-0001.jsonl.gz", folder / "records.jsonl"
    lines = gzip.decompress(packed.read_bytes()).split(b"\n")[:-1] if packed.exists() else []
    return lines + (plain.read_bytes().split(b"\n")[:-1] if plain.exists() else [])


_HEAD = orjson.dumps(_RUN)
_ALL = b"".join(_LINES)
_keyed = st.sampled_from([json.loads(line) for line in _LINES])


def _changed(entry: dict[str, Any], place: int, value: Any) -> bytes:
    """With one of its values, however deep, made something else."""
    entry = json.loads(json.dumps(entry))
    places: list[tuple[Any, Any]] = []
    todo: list[Any] = [entry]
    while todo:
        inner = todo.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        for key in keys:
            places.append((inner, key))
            if isinstance(inner[key], dict | list):
                todo.append(inner[key])
    inside, key = places[place % len(places)]
    if isinstance(inside, dict) and value == "gone":
        del inside[key]
    else:
        inside[key] = value
    return dumped(entry) + b"\n"


_wrong_lines = st.builds(_changed, _keyed, st.integers(0, 99), ANYTHING | st.just("gone"))
_some = st.lists(st.sampled_from(_LINES) | _wrong_lines, max_size=5).map(b"".join)
_heads = st.one_of(
    st.just(_HEAD),
    st.builds(_changed, st.just(json.loads(_HEAD)), st.integers(0, 99), ANYTHING | st.just("gone")),
)
_folders = st.builds(
    _folder, _heads, _some, _some, st.one_of(st.just(b""), _some.map(gzip.compress))
)


def _lines_of(n: int, line: bytes) -> bytes:
    return _folder(_HEAD, line * max(1, n // 10), b"")


RECORDS = Target(
    "records",
    _run_folders,
    (
        _folder(_HEAD, _ALL, _LINES[0] * 3),
        _folder(_HEAD, _ALL, _ALL, gzip.compress(_ALL)),
        _folder(_HEAD, _LINES[1], _LINES[0]),
    ),
    (
        PART, *(name.encode() + b"\n" for name in _NAMES), b'"k":"frame"', b'"k":"shot"', b'"note"',
        b'"seq":', b'"box":', b'"answer":', b'"second":', b'"verdict":', b'"fate":"lost"', b"\n",
        b'"settings":', b'"cameras":', b'"speed":', b'"sent_size":', b"null", b"[]", b"{}",
    ),
    _folders,
    {
        "frames": lambda n: _lines_of(n, _LINES[1]),
        "broken lines": lambda n: _lines_of(n, b'{"k":"frame","v":{}}\n'),
        "one long line": lambda n: _folder(_HEAD, b'{"k":"' + b"x" * (100 * n), b""),
        "one long line, packed": lambda n: _folder(
            _HEAD, b"", b"", gzip.compress(b"x" * (100 * n))
        ),
        "brackets": lambda n: _folder(_HEAD, b"[" * n + b"\n", b""),
        "torn": lambda n: _folder(_HEAD, b"\r" * n, b""),
    },
)  # fmt: skip


# --- requests to the worker ----------------------------------------------------------------------

LIMITS = Limits(pictures=4, frames=8, picture=SMALL)


def check_request(data: bytes) -> str:
    try:
        chat = read_chat(data, LIMITS)
        ask = read_ask(chat, LIMITS)
    except BadRequest as why:
        _short(str(why) + why.param)
        error_body(why.status, str(why), why.code, why.param)
        return "refused" if why.status == 400 else f"refused: {why.status}"
    orjson.dumps(chat.schema)
    return (
        "a question without a picture" if all(isinstance(p, str) for p in ask.parts) else "a look"
    )


def body(content: Any, **more: Any) -> bytes:
    return dumped({"messages": [{"role": "user", "content": content}], **more})


@functools.cache
def uri(kind: str = "jpeg") -> str:
    ok, data = cv2.imencode(f".{kind}", np.full((28, 28, 3), 90, np.uint8))
    assert ok
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


_TEXT = {"type": "text", "text": "Is there smoke?"}
_LOOK_PART = {"type": "image_url", "image_url": {"url": uri()}}
_PNG_PART = {"type": "image_url", "image_url": {"url": uri("png")}}
_CLIP_PART = {
    "type": "video_url",
    "video_url": {
        "url": uri().replace("image/", "video/") + "," + uri().partition(",")[2],
        "timestamps": [0.0, 0.5],
    },
}
_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "v1", "schema": {"type": "object", "properties": {"a": {}}}},
}
BODIES = (
    body("hello"),
    body([_LOOK_PART, _TEXT], max_tokens=20, temperature=0, stream=False),
    body([_PNG_PART, _TEXT], logprobs=True, top_logprobs=4, response_format=_FORMAT),
    body([_CLIP_PART, _TEXT], stream=True, stream_options={"include_usage": True}, user="north"),
    dumped(
        {
            "model": "tiny",
            "messages": [
                {"role": "system", "content": "You look for smoke."},
                {"role": "user", "content": [_LOOK_PART, _CLIP_PART, _TEXT]},
            ],
        }
    ),
)
_bodies = st.builds(
    _changed,
    st.sampled_from([json.loads(one) for one in BODIES]),
    st.integers(0, 99),
    ANYTHING | st.just("gone") | st.sampled_from([uri(), uri("png"), uri()[:60], "data:,"]),
)
WORDS = (
    b'"messages"', b'"role"', b'"user"', b'"system"', b'"content"', b'"type"', b'"image_url"',
    b'"video_url"', b'"url"', b'"timestamps"', b'"data:image/png;base64,', b'"stream":true',
    b'"logprobs":true', b'"max_tokens":', b'"response_format":', b"iVBORw0KGgo", b"/9j/", b"AAAA",
)  # fmt: skip

REQUESTS = Target(
    "worker requests",
    _plain(check_request),
    BODIES,
    WORDS,
    _bodies,
    {
        "brackets": lambda n: b"[" * n,
        "messages": lambda n: dumped({"messages": [{"role": "user", "content": "x"}] * n}),
        "parts": lambda n: body([_TEXT] * n),
        "fields": lambda n: dumped({"seed": 1, **{f"f{i}": None for i in range(n)}}),
        "commas": lambda n: body(
            [{"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + "," * n}}]
        ),
        "a wide schema": lambda n: body(
            "x",
            response_format={
                "type": "json_schema",
                "json_schema": {"schema": {f"p{i}": {"a": [1]} for i in range(n)}},
            },
        ),
        "base64 that is none": lambda n: body(
            [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + "*" * 20 * n}}]
        ),
    },
)

TARGETS = (FRAMES, REPLIES, SCENARIO, RECORDS, REQUESTS)
