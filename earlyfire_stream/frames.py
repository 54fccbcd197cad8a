"""A frame and its wire form: a plain JPEG whose comment segment carries the capture data.

Any MQTT tool shows the picture, a saved frame can be replayed, and a plain JPEG from a real camera
is accepted. A frame's identity is the hash of its bytes without our comment, so one scenario and
seed give the same identities every time.

Here bytes from strangers are parsed: everything is bounded and nothing is decoded.
"""

from __future__ import annotations

__all__ = [
    "Capture",
    "Frame",
    "FrameLimits",
    "Refused",
    "control_topic",
    "frame_topic",
    "identity",
    "parse",
    "shard_of",
    "status_topic",
    "wrap",
]

import hashlib
import zlib
from dataclasses import dataclass

import orjson

from earlyfire_stream.verdict import Reason

WIRE_VERSION = 1
SHARDS = 64
"""Fixed for ever: a camera's shard must not depend on how many consumers there are."""
ROOT = "earlyfire"
MAX_SCENARIO_S = 1e8
"""Three years. A stranger's capture instant must still fit a record as wall nanoseconds."""

_OURS = b'{"earlyfire":'
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers, ITU T.81 table B.1; C4, C8 and CC are tables and extensions."""
_SEGMENTS = frozenset(range(0xC0, 0xFF)) - {0xC8} - frozenset(range(0xD0, 0xDA))
"""Markers with a length behind them. Decoders pass the others over as two bytes: what we would
read as their length could hide another start of frame from us."""
_SEQUENTIAL = frozenset({0xC0, 0xC1})
"""Here a scan holds some bits for every block of the picture; elsewhere a few bytes do for all."""
MAX_SCANS = 64
"""A progressive JPEG has about ten. Each costs a pass over the picture, whatever its length: a
hundred of 98 bytes each take six seconds at 49 million pixels (measured)."""


@dataclass(frozen=True, slots=True)
class Capture:
    """Where and when a frame was taken. `captured_at` in scenario seconds, `*_ns` wall instants."""

    run: str
    camera: str
    seq: int
    captured_at: float
    captured_ns: int
    published_ns: int
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One received frame, its header parsed and its pixels untouched."""

    jpeg: bytes
    """As received, our comment included: decoders ignore it."""
    width: int
    height: int
    capture: Capture | None
    """None for a plain JPEG from a real camera."""


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What is accepted from the wire before anything is decoded."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    """Six times 2160p; a decoded frame of this size takes 150 MB."""


DEFAULT_LIMITS = FrameLimits()


@dataclass(frozen=True, slots=True)
class Refused:
    """A payload that is no usable frame; `capture` where the comment could still be read."""

    reason: Reason
    detail: str
    capture: Capture | None = None


def shard_of(camera: str) -> int:
    """0 to 63, the same on every machine and in every version."""
    return zlib.crc32(camera.encode()) % SHARDS


def frame_topic(run: str, camera: str) -> str:
    return f"{ROOT}/{run}/{shard_of(camera)}/{camera}/frame"


def status_topic(run: str, camera: str) -> str:
    return f"{ROOT}/{run}/{shard_of(camera)}/{camera}/status"


def control_topic(run: str) -> str:
    return f"{ROOT}/{run}/control"


def identity(jpeg: bytes) -> str:
    """32 hex digits that name the picture, whether or not it carries our comment."""
    return hashlib.blake2b(strip(jpeg), digest_size=16).hexdigest()


def wrap(jpeg: bytes, capture: Capture) -> bytes:
    """The wire form of `jpeg`: our comment behind its APPn segments, an older one replaced."""
    jpeg = strip(jpeg)
    comment = orjson.dumps(
        {
            "earlyfire": WIRE_VERSION,
            "run": capture.run,
            "camera": capture.camera,
            "seq": capture.seq,
            "captured_at": capture.captured_at,
            "captured_ns": capture.captured_ns,
            "published_ns": capture.published_ns,
            "speed": capture.speed,
        }
    )
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and 0xE0 <= jpeg[at + 1] <= 0xEF:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    head = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big")
    return b"".join((jpeg[:at], head, comment, jpeg[at:]))


def strip(jpeg: bytes) -> bytes:
    """`jpeg` without our comment segment; the same object where there is none."""
    at = _find_ours(jpeg)
    if at is None:
        return jpeg
    length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg[:at] + jpeg[at + 2 + length :]


def _find_ours(jpeg: bytes) -> int | None:
    # Only ahead of the first marker that is neither APPn nor COM: that is where wrap puts it.
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFE:
            if jpeg.startswith(_OURS, at + 4):
                return at
        elif not 0xE0 <= marker <= 0xEF:
            return None
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return None


def parse(payload: bytes, limits: FrameLimits = DEFAULT_LIMITS) -> Frame | Refused:
    """Read the JPEG's header. Never raises, never decodes pixels; time linear in the header."""
    size = len(payload)
    if size > limits.max_bytes:
        return Refused(Reason.TOO_LARGE, f"{size} bytes, {limits.max_bytes} allowed")
    if size < 4 or payload[:2] != b"\xff\xd8":
        return Refused(Reason.NOT_JPEG, "empty payload" if not size else "no JPEG signature")
    capture: Capture | None = None
    width = height = coding = 0
    at = 2
    while True:
        while at + 1 < size and payload[at] == 0xFF and payload[at + 1] == 0xFF:
            at += 1  # fill bytes, T.81 B.1.1.2
        if at + 4 > size:
            return Refused(Reason.TRUNCATED, "the header breaks off", capture)
        if payload[at] != 0xFF:
            return Refused(Reason.BAD_HEADER, f"no marker at byte {at}", capture)
        marker = payload[at + 1]
        if marker not in _SEGMENTS:
            return Refused(Reason.BAD_HEADER, f"marker {marker:02x} at byte {at}", capture)
        length = int.from_bytes(payload[at + 2 : at + 4], "big")
        if length < 2:
            return Refused(Reason.BAD_HEADER, f"segment of length {length} at byte {at}", capture)
        if marker == 0xFE and capture is None and payload.startswith(_OURS, at + 4):
            read = _read_capture(payload[at + 4 : at + 2 + length])
            if isinstance(read, Refused):
                return read
            capture = read
        elif marker in _SOF:
            if length < 8 or at + 9 > size:
                return Refused(Reason.BAD_HEADER, "broken start of frame", capture)
            coding = marker
            height = int.from_bytes(payload[at + 5 : at + 7], "big")
            width = int.from_bytes(payload[at + 7 : at + 9], "big")
            if not width or not height:
                return Refused(Reason.BAD_HEADER, f"a size of {width}x{height}", capture)
            if width * height > limits.max_pixels:
                return Refused(
                    Reason.TOO_MANY_PIXELS,
                    f"{width}x{height}, {limits.max_pixels} pixels allowed",
                    capture,
                )
        elif marker == 0xDA:
            if not width:
                return Refused(Reason.BAD_HEADER, "scan before start of frame", capture)
            if payload.rfind(b"\xff\xd9", at) < 0:
                return Refused(Reason.TRUNCATED, "no end of image", capture)
            if coding not in _SEQUENTIAL and payload.count(b"\xff\xda", at) > MAX_SCANS:
                return Refused(
                    Reason.BAD_HEADER, f"more scans than the {MAX_SCANS} allowed", capture
                )
            return Frame(payload, width, height, capture)
        at += 2 + length


def _read_capture(comment: bytes) -> Capture | Refused:
    try:
        data = orjson.loads(comment)
        if data["earlyfire"] != WIRE_VERSION:
            return Refused(Reason.BAD_HEADER, f"wire version {data['earlyfire']!r:.40}")
        return Capture(
            run=_text(data["run"]),
            camera=_text(data["camera"]),
            seq=_count(data["seq"]),
            captured_at=_finite(data["captured_at"], MAX_SCENARIO_S),
            captured_ns=_count(data["captured_ns"]),
            published_ns=_count(data["published_ns"]),
            speed=_finite(data["speed"], 1e6),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as why:
        return Refused(Reason.BAD_HEADER, f"comment is no capture data: {str(why)[:80]}")


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ValueError("a name must be text of 1 to 200 characters")
    return value


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("a count must be a whole number from 0")
    return value


def _finite(value: object, limit: float) -> float:
    # orjson refuses NaN and Infinity; a huge integer must not become inf
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > limit:
        raise ValueError(f"a number up to {limit:g} is needed")
    return float(value)
