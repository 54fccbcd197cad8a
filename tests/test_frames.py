"""The wire form: every JPEG comes back whole, and no payload of a stranger's ever raises."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from earlyfire_stream.frames import (
    Capture,
    Frame,
    FrameLimits,
    Refused,
    control_topic,
    frame_topic,
    identity,
    parse,
    shard_of,
    status_topic,
    strip,
    wrap,
)
from earlyfire_stream.verdict import Reason

CAPTURE = Capture(
    run="r1",
    camera="north",
    seq=7,
    captured_at=12.5,
    captured_ns=1_700_000_000_000_000_001,
    published_ns=1_700_000_000_100_000_000,
    speed=2.0,
)


def picture(width: int = 48, height: int = 32) -> np.ndarray:
    across = np.linspace(0, 255, width, dtype=np.uint8)
    return np.dstack([np.tile(across, (height, 1))] * 2 + [np.full((height, width), 90, np.uint8)])


def by_cv2(*options: int) -> bytes:
    done, data = cv2.imencode(".jpg", picture(), list(options))
    assert done
    return data.tobytes()


def by_pillow(**options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture()).save(out, "JPEG", **options)
    return out.getvalue()


def exif() -> Image.Exif:
    made = Image.Exif()
    made[0x010F] = "Acme"
    made[0x0132] = "2024:08:01 12:00:00"
    return made


PLAIN = by_cv2()
JPEGS = {
    "baseline": PLAIN,
    "progressive": by_cv2(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart markers": by_cv2(cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    "exif": by_pillow(exif=exif()),
    "icc and exif": by_pillow(exif=exif(), icc_profile=b"\1" * 70_000),
    "foreign comment": by_pillow(comment=b"made by somebody else"),
    "comment that looks like ours": by_pillow(comment=b'{"earlyfir": 1}'),
    "grey": cv2.imencode(".jpg", picture()[:, :, 0])[1].tobytes(),
}
EACH = pytest.mark.parametrize("jpeg", JPEGS.values(), ids=JPEGS.keys())


def with_comment(comment: bytes) -> bytes:
    """A sound JPEG with this comment segment in front."""
    return PLAIN[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + PLAIN[2:]


def with_capture(**changes: object) -> bytes:
    data = {
        "earlyfire": 1, "run": "r1", "camera": "north", "seq": 7, "captured_at": 12.5,
        "captured_ns": 1, "published_ns": 2, "speed": 1.0,
    }  # fmt: skip
    kept = {k: v for k, v in (data | changes).items() if v != "absent"}
    # without spaces, as the wire has it; integers of any size
    return with_comment(json.dumps(kept, separators=(",", ":")).encode())


def reason(payload: bytes, limits: FrameLimits | None = None) -> Reason | None:
    read = parse(payload, limits) if limits else parse(payload)
    return read.reason if isinstance(read, Refused) else None


# --- round trip ---


@EACH
def test_what_is_wrapped_is_read_back(jpeg: bytes) -> None:
    wire = wrap(jpeg, CAPTURE)
    assert parse(wire) == Frame(wire, 48, 32, CAPTURE)


@EACH
def test_a_plain_jpeg_is_a_frame_without_capture_data(jpeg: bytes) -> None:
    assert parse(jpeg) == Frame(jpeg, 48, 32, None)


@EACH
def test_stripping_gives_the_very_bytes_that_were_wrapped(jpeg: bytes) -> None:
    assert strip(wrap(jpeg, CAPTURE)) == jpeg
    assert strip(jpeg) is jpeg


@EACH
def test_a_frame_keeps_its_identity_on_the_wire(jpeg: bytes) -> None:
    name = hashlib.blake2b(jpeg, digest_size=16).hexdigest()
    assert identity(jpeg) == name
    assert identity(wrap(jpeg, CAPTURE)) == name


@EACH
def test_wrapping_again_replaces_the_capture_data(jpeg: bytes) -> None:
    later = replace(CAPTURE, seq=8, camera="süd")
    assert wrap(wrap(jpeg, CAPTURE), later) == wrap(jpeg, later)
    read = parse(wrap(wrap(jpeg, CAPTURE), later))
    assert isinstance(read, Frame)
    assert read.capture == later


@EACH
def test_decoders_see_the_same_picture_in_the_wire_form(jpeg: bytes) -> None:
    wire = wrap(jpeg, CAPTURE)
    for data in (jpeg, wire):
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (32, 48, 3)
    before, after = (np.asarray(Image.open(io.BytesIO(data))) for data in (jpeg, wire))
    assert np.array_equal(before, after)


def test_application_segments_stay_in_front_as_exif_asks() -> None:
    jpeg = JPEGS["exif"]
    assert Image.open(io.BytesIO(wrap(jpeg, CAPTURE))).getexif()[0x010F] == "Acme"
    assert wrap(jpeg, CAPTURE)[2:4] == jpeg[2:4]


def test_somebody_elses_comment_stays() -> None:
    wire = wrap(JPEGS["foreign comment"], CAPTURE)
    assert b"made by somebody else" in wire


def test_fill_bytes_before_a_marker_are_allowed() -> None:
    padded = PLAIN[:2] + b"\xff\xff\xff" + PLAIN[2:]
    assert parse(padded) == Frame(padded, 48, 32, None)
    read = parse(wrap(padded, CAPTURE))
    assert isinstance(read, Frame)
    assert read.capture == CAPTURE
    assert strip(wrap(padded, CAPTURE)) == padded


def test_bytes_after_the_end_of_the_image_do_no_harm() -> None:
    assert reason(PLAIN + b"padding of a camera") is None


# --- topics ---


def test_shards_of_some_cameras_never_change() -> None:
    # CRC-32 of "123456789" is CBF43926 (the algorithm's published check value); 0x26 = 38
    assert shard_of("123456789") == 38
    # CRC-32 of "a" is E8B7BE43, of "The quick brown fox jumps over the lazy dog" 414FA339
    assert shard_of("a") == 3
    assert shard_of("The quick brown fox jumps over the lazy dog") == 0x39


def test_topics_name_run_shard_and_camera() -> None:
    assert frame_topic("r1", "a") == "earlyfire/r1/3/a/frame"
    assert status_topic("r1", "a") == "earlyfire/r1/3/a/status"
    assert control_topic("r1") == "earlyfire/r1/control"


# --- payloads of strangers ---


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", Reason.NOT_JPEG),
        (b"\xff", Reason.NOT_JPEG),
        (b"\xff\xd8", Reason.NOT_JPEG),
        (b"hello, this is no picture", Reason.NOT_JPEG),
        (b'{"has_smoke": true}', Reason.NOT_JPEG),
        (bytes(1000), Reason.NOT_JPEG),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), Reason.NOT_JPEG),
        (b"\xff\xd8" + bytes(1000), Reason.BAD_HEADER),
        (b"\xff\xd8" + b"\xff" * 1000, Reason.TRUNCATED),
        (b"\xff\xd8\xff\xd9", Reason.TRUNCATED),
        (b"\xff\xd8\xff\xe0\x00\x00" + PLAIN[2:], Reason.BAD_HEADER),
        (b"\xff\xd8\xff\xe0\xff\xff", Reason.TRUNCATED),
        (b"\xff\xd8\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\xff\xd9", Reason.BAD_HEADER),
        (b"\xff\xd8\xff\xc0\x00\x04\x08\x01", Reason.BAD_HEADER),
    ],
)
def test_what_is_no_frame_is_refused_with_its_reason(payload: bytes, why: Reason) -> None:
    assert reason(payload) is why


def test_a_jpeg_cut_off_anywhere_is_refused_and_never_raises() -> None:
    for jpeg in (PLAIN, JPEGS["exif"], wrap(PLAIN, CAPTURE)):
        for length in range(len(jpeg)):
            short = jpeg[:length]
            assert reason(short) is not None, length
            assert reason(wrap(short, CAPTURE)) is not None, length
            identity(short)


def test_a_frame_cut_off_in_its_scan_still_says_whose_it_was() -> None:
    read = parse(wrap(PLAIN, CAPTURE)[:-2])
    assert isinstance(read, Refused)
    assert (read.reason, read.capture) == (Reason.TRUNCATED, CAPTURE)


def sized(width: int, height: int) -> bytes:
    at = PLAIN.index(b"\xff\xc0") + 5
    return PLAIN[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + PLAIN[at + 4 :]


def test_a_header_of_sixty_thousand_by_sixty_thousand_is_refused_undecoded() -> None:
    assert reason(sized(60_000, 60_000)) is Reason.TOO_MANY_PIXELS
    assert reason(sized(0, 32)) is Reason.BAD_HEADER
    assert reason(sized(48, 0)) is Reason.BAD_HEADER


def test_the_pixel_limit_is_inclusive() -> None:
    assert reason(PLAIN, FrameLimits(max_pixels=48 * 32)) is None
    assert reason(PLAIN, FrameLimits(max_pixels=48 * 32 - 1)) is Reason.TOO_MANY_PIXELS


def test_a_second_start_of_frame_does_not_get_around_the_limit() -> None:
    at = PLAIN.index(b"\xff\xc0")
    end = at + 2 + int.from_bytes(PLAIN[at + 2 : at + 4], "big")
    huge = sized(60_000, 60_000)[at:end]
    assert reason(PLAIN[:at] + huge + PLAIN[at:]) is Reason.TOO_MANY_PIXELS
    assert reason(PLAIN[:end] + huge + PLAIN[end:]) is Reason.TOO_MANY_PIXELS


def test_fifty_megabytes_are_refused_by_size_alone() -> None:
    assert reason(PLAIN + bytes(50_000_000)) is Reason.TOO_LARGE
    assert reason(PLAIN, FrameLimits(max_bytes=len(PLAIN))) is None
    assert reason(PLAIN, FrameLimits(max_bytes=len(PLAIN) - 1)) is Reason.TOO_LARGE


def test_capture_data_as_they_should_be_are_accepted() -> None:
    read = parse(with_capture())
    assert isinstance(read, Frame)
    assert read.capture == Capture("r1", "north", 7, 12.5, 1, 2, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"earlyfire": 2},
        {"earlyfire": "1"},
        {"earlyfire": None},
        {"seq": -1},
        {"seq": 2**63},
        {"seq": 10**30},
        {"seq": 1.5},
        {"seq": True},
        {"seq": "7"},
        {"seq": "absent"},
        {"camera": ""},
        {"camera": "x" * 201},
        {"camera": ["north"]},
        {"run": None},
        {"captured_at": None},
        {"captured_at": "12.5"},
        {"captured_at": True},
        {"captured_at": 1e12},
        {"captured_at": -1e300},
        {"captured_ns": -1},
        {"captured_ns": 1e18},
        {"published_ns": 2**64},
        {"speed": {}},
        {"speed": "absent"},
    ],
    ids=str,
)
def test_capture_data_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    assert reason(with_capture(**changes)) is Reason.BAD_HEADER


@pytest.mark.parametrize(
    "comment",
    [
        b'{"earlyfire":',
        b'{"earlyfire":1',
        b'{"earlyfire":1}',
        b'{"earlyfire":1}}',
        b'{"earlyfire":NaN}',
        b'{"earlyfire":1,"captured_at":NaN}',
        b'{"earlyfire":1,"captured_at":Infinity}',
        b'{"earlyfire":[[[[',
        b'{"earlyfire":' + b"[" * 60_000,
        b'{"earlyfire":1,"run":"\xff\xfe"}',
        b'{"earlyfire":"' + b"x" * 65_000 + b'"}',
    ],
    ids=lambda comment: comment[:30].decode(errors="replace"),
)
def test_a_comment_of_ours_that_is_no_capture_data_is_refused(comment: bytes) -> None:
    assert reason(with_comment(comment)) is Reason.BAD_HEADER


def test_sixty_five_kilobytes_of_somebody_elses_comment_are_passed_over() -> None:
    payload = with_comment(b"x" * 65_533)
    assert parse(payload) == Frame(payload, 48, 32, None)
    read = parse(wrap(payload, CAPTURE))
    assert isinstance(read, Frame)
    assert read.capture == CAPTURE


def test_what_is_said_of_a_refused_comment_stays_short() -> None:
    read = parse(with_comment(b'{"earlyfire":"' + b"x" * 65_000 + b'"}'))
    assert isinstance(read, Refused)
    assert len(read.detail) < 200


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    for payload in (data, b"\xff\xd8" + data, b"\xff\xd8\xff" + data):
        parse(payload)
        identity(payload)


SEEDS = (PLAIN, wrap(PLAIN, CAPTURE), wrap(JPEGS["exif"], CAPTURE), JPEGS["progressive"])


@settings(max_examples=300)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 700), st.binary(max_size=3), st.integers(0, 4)), max_size=5),
)
def test_damaged_jpegs_never_raise(jpeg: bytes, damage: list[tuple[int, bytes, int]]) -> None:
    payload = jpeg
    for at, put, cut in damage:
        payload = payload[:at] + put + payload[at + cut :]
    read = parse(payload)
    if isinstance(read, Frame):
        assert read.width * read.height <= 50_000_000
        assert read.jpeg is payload
    identity(payload)
    if payload[:2] == b"\xff\xd8":
        again = parse(wrap(payload, CAPTURE))
        assert isinstance(again, Frame) or again.reason is not Reason.NOT_JPEG


@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
    st.integers(0, 2**63 - 1),
    st.floats(-1e8, 1e8),
    st.floats(0.001, 10_000),
)
def test_any_capture_survives_the_wire(name: str, seq: int, at: float, speed: float) -> None:
    capture = Capture(name, name[::-1], seq, at, seq, seq, speed)
    read = parse(wrap(PLAIN, capture))
    assert isinstance(read, Frame)
    assert read.capture == capture
