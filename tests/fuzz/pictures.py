"""JPEGs that are what they should be, and some that only seem so."""

from __future__ import annotations

import functools
import io

from PIL import Image

SOF = b"\xff\xc0"
SOS = b"\xff\xda"
EOI = b"\xff\xd9"


@functools.cache
def plain(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 60)).save(out, "JPEG", quality=50)
    return out.getvalue()


@functools.cache
def progressive(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 60)).save(out, "JPEG", progressive=True)
    return out.getvalue()


def scans(count: int) -> bytes:
    """A progressive JPEG of so many scans, the last of its own again and again."""
    jpeg = progressive(64, 48)
    end = jpeg.rfind(EOI)
    tables = jpeg.rfind(b"\xff\xc4", 0, jpeg.rfind(SOS))
    return jpeg[:end] + jpeg[tables:end] * (count - jpeg.count(SOS)) + EOI


def two_faced(marker: int, shown: tuple[int, int], hidden: tuple[int, int]) -> bytes:
    """A JPEG that decoders see as `hidden`, (width, height), and as `shown` whoever takes the two
    bytes behind `marker`, which has none, for its length."""
    jpeg = plain(*shown)
    start = jpeg.index(SOF)
    end = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    scan = jpeg.index(SOS)
    small = jpeg[start:end]
    large = small[:5] + hidden[1].to_bytes(2, "big") + hidden[0].to_bytes(2, "big") + small[9:]
    # The comment that follows the marker is, read as a length, 0xFFFE: there the other face begins.
    body = comment(b"a" * 14) + large + jpeg[end:scan]
    body += comment(b"b" * (0xFFFE - len(body) - 8))
    body += comment(small + jpeg[scan : scan + 14])
    return jpeg[:start] + bytes((0xFF, marker)) + body + jpeg[scan:]


def comment(content: bytes) -> bytes:
    return b"\xff\xfe" + (len(content) + 2).to_bytes(2, "big") + content
