"""What an MP4 or MOV file says of its own frames: how many there are, and are some hidden?

`ffmpeg -ss … -c copy` and phones cut at any instant but must keep the packets from the keyframe
before it; an edit list then tells players to decode them without showing them. OpenCV lists such
packets like all others, so only decoding tells which frames there really are. Boxes: ISO/IEC
14496-12, 8.6.6 (elst), 8.6.1.3 (ctts), 8.7.3 (stsz).
"""

from __future__ import annotations

__all__ = ["Mp4Index", "read_index"]

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAX_INDEX_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class Mp4Index:
    """The first video track. `packets` is 0 for a fragmented file, which counts elsewhere."""

    packets: int
    hides_some: bool


def read_index(path: Path) -> Mp4Index | None:
    """None for another container or a damaged index: FFmpeg will have its say."""
    try:
        for kind, track in _boxes(_index(path)):
            if kind == b"trak" and _is_video(track):
                return Mp4Index(_packets(track), _edit_begins(track) > _first_shown(track))
    except struct.error:
        pass
    return None


def _index(path: Path) -> bytes:
    """The content of the `moov` box, empty where there is none."""
    end = path.stat().st_size
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            read = 8
            if size == 1:
                size, read = struct.unpack(">Q", file.read(8))[0], 16
            if kind == b"moov":
                return file.read(max(0, min(size - read, _MAX_INDEX_BYTES)))
            if size < read or file.tell() + size - read > end:
                break
            file.seek(size - read, 1)
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of the boxes that stand one after another in `data`."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        yield kind, data[at + 8 : at + size]
        at += size


def _inside(data: bytes, *path: bytes) -> bytes:
    """The content of the first box at `path`, empty where there is none."""
    for wanted in path:
        data = next((content for kind, content in _boxes(data) if kind == wanted), b"")
    return data


def _is_video(track: bytes) -> bool:
    return _inside(track, b"mdia", b"hdlr")[8:12] == b"vide"


def _edit_begins(track: bytes) -> int:
    """Media time at which the first edit that is not empty begins; 0 without an edit list."""
    edits = _inside(track, b"edts", b"elst")
    if len(edits) < 8:
        return 0
    form = ">Qqi" if edits[0] == 1 else ">Iii"
    (count,) = struct.unpack_from(">I", edits, 4)
    for number in range(min(count, 16)):
        begins = struct.unpack_from(form, edits, 8 + number * struct.calcsize(form))[1]
        if begins >= 0:  # -1: an empty edit, a delay before the picture
            return int(begins)
    return 0


def _first_shown(track: bytes) -> int:
    """Media time at which the first frame is shown: B-frames move it behind 0."""
    offsets = _inside(track, b"mdia", b"minf", b"stbl", b"ctts")
    return int(struct.unpack_from(">i", offsets, 12)[0]) if len(offsets) >= 16 else 0


def _packets(track: bytes) -> int:
    sizes = _inside(track, b"mdia", b"minf", b"stbl", b"stsz")
    return int(struct.unpack_from(">I", sizes, 8)[0]) if sizes else 0
