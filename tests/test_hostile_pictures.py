"""What a stranger's picture may cost: its size is known, and bounded, before a pixel is decoded."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from earlyfire_stream.frames import Frame, FrameLimits, Refused, parse
from earlyfire_stream.verdict import Reason
from tests.fuzz import pictures

LIMITS = FrameLimits(max_pixels=1_000_000)


@pytest.mark.parametrize("marker", [0x00, 0x01, 0xD0, 0xD7])
def test_a_marker_without_a_length_hides_no_larger_picture(marker: int) -> None:
    """A decoder passes such a marker over as two bytes; we once took what follows for its length,
    and 64 x 64 pixels for the size of a picture of 1200 x 900."""
    jpeg = pictures.two_faced(marker, shown=(64, 64), hidden=(1200, 900))
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (900, 1200, 3)
    read = parse(jpeg, LIMITS)
    assert isinstance(read, Refused)
    assert read.reason is Reason.BAD_HEADER


@pytest.mark.parametrize("marker", [0xD8, 0xD9, 0xC8, 0x02, 0xBF])
def test_a_marker_that_has_no_place_in_a_header_is_refused(marker: int) -> None:
    jpeg = pictures.plain(64, 64)
    read = parse(jpeg[:2] + bytes((0xFF, marker, 0, 4, 0, 0)) + jpeg[2:])
    assert isinstance(read, Refused)
    assert read.reason is Reason.BAD_HEADER


def test_a_progressive_picture_is_a_frame() -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 60)).save(out, "JPEG", progressive=True)
    assert out.getvalue().count(b"\xff\xda") > 5
    assert isinstance(parse(out.getvalue()), Frame)


def test_a_picture_of_a_hundred_scans_is_refused() -> None:
    """Each is a few bytes and a pass over the whole picture."""
    assert isinstance(parse(pictures.scans(64)), Frame)
    read = parse(pictures.scans(65))
    assert isinstance(read, Refused)
    assert "more scans than the 64" in read.detail


def test_the_scans_of_a_thumbnail_are_not_counted() -> None:
    jpeg = pictures.scans(20)
    thumbnail = b"\xff\xe1" + (602).to_bytes(2, "big") + b"\xff\xda" * 300
    assert isinstance(parse(jpeg[:2] + thumbnail + jpeg[2:]), Frame)
