"""What strangers send into a run while it goes on: counted with its reason, and nothing hangs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiomqtt
import cv2
import numpy as np

from earlyfire_stream.frames import Capture, frame_topic, wrap
from earlyfire_stream.run import Options, play
from earlyfire_stream.transport.address import BrokerAddress
from tests.playing import camera, loaded, notes, open_mosquitto, pictures, proof, until, within
from tests.test_run import Shots


def jpeg(width: int = 96, height: int = 64) -> bytes:
    return cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


def enormous() -> bytes:
    """A sound JPEG of 96x64 whose header says 60,000x60,000: 10.8 GB once decoded."""
    picture = jpeg()
    at = picture.index(b"\xff\xc0") + 5
    return picture[:at] + (60_000).to_bytes(2, "big") * 2 + picture[at + 4 :]


def captured(picture: bytes, seq: int, at: float, camera: str = "north") -> bytes:
    return wrap(picture, Capture("r", camera, seq, at, 1_700_000_000_000_000_000, 1))


def commented(comment: bytes) -> bytes:
    picture = jpeg()
    return picture[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + picture[2:]


NORTH = frame_topic("r", "north")
WRONG_JSON = [
    b'{"earlyfire":1',
    b'{"earlyfire":1}',
    b'{"earlyfire":2,"run":"r"}',
    b'{"earlyfire":1,"run":"r","camera":"north","seq":-1,"captured_at":0,"captured_ns":0,'
    b'"published_ns":0,"speed":1}',
    b'{"earlyfire":1,"run":["r"],"camera":"north","seq":1,"captured_at":0,"captured_ns":0,'
    b'"published_ns":0,"speed":1}',
]


async def test_a_run_refuses_what_is_no_frame_and_its_ledger_still_balances(
    tmp_path: Path, mosquitto: str
) -> None:
    pictures(tmp_path / "pictures", 60)
    scenario = loaded(tmp_path, camera("north"), camera("south"))
    watched = Shots()
    with open_mosquitto(mosquitto, tmp_path) as port:
        # MQTT 3.1.1: a client cannot tell the broker to keep larger messages to itself
        address = BrokerAddress("127.0.0.1", port, level=4)
        options = Options(broker=address, out=tmp_path / "runs", run="r")
        playing = asyncio.create_task(play(scenario, options, [watched], asyncio.Event()))
        async with aiomqtt.Client("127.0.0.1", port) as stranger:
            await until(lambda: len(watched.records) >= 10)

            async def send(topic: str, payload: bytes) -> None:
                await stranger.publish(topic, payload, qos=1)

            await send(NORTH, b"")
            await send(NORTH, b"GIF89a, in truth")
            await send(NORTH, jpeg()[:-40])
            await send(NORTH, jpeg())
            await send(NORTH, enormous())
            await send(NORTH, b"\xff\xd8" + bytes(50_000_000))
            for comment in WRONG_JSON:
                await send(NORTH, commented(comment))
            await send(NORTH, captured(jpeg(), 3, 0.3, "south"))
            await send(NORTH, captured(jpeg(), 10**12, 0.3))
            await send(frame_topic("r", "n" * 200), jpeg())
            await send(frame_topic("r", "n" * 201), jpeg())
            await send(frame_topic("r", "ghost"), captured(jpeg(), 0, 0.0, "ghost"))
            await send("earlyfire/r/control", b'{"last_seqs": {}}')
        outcome = await within(playing)
    log, ledger = proof(outcome.folder)
    assert ledger.scheduled == 120
    assert ledger.fates == {"answered": 120}
    (end,) = notes(log, "session_end")
    assert end["refused"] == {
        "absurd_seq": 1,
        "another_stream": 1,
        "bad_header": 5,
        "control": 1,
        "name": 1,
        "no_capture_data": 1,
        "not_jpeg": 2,
        "size": 1,
        "too_many_pixels": 1,
        "truncated": 1,
        "unknown_camera": 2,
    }


async def test_forged_frames_that_anticipate_real_ones_are_one_fate_each(
    tmp_path: Path, mosquitto: str
) -> None:
    pictures(tmp_path / "pictures", 60)
    scenario = loaded(tmp_path, camera("north"))
    watched = Shots()
    with open_mosquitto(mosquitto, tmp_path) as port:
        options = Options(broker=BrokerAddress("127.0.0.1", port), out=tmp_path / "runs", run="r")
        playing = asyncio.create_task(play(scenario, options, [watched], asyncio.Event()))
        async with aiomqtt.Client("127.0.0.1", port) as stranger:
            await until(lambda: len(watched.records) >= 5)
            # capture times going backwards, a picture cut off, one that is too large
            for seq, at in ((55, 5.5), (56, 2.0), (57, -1000.0)):
                await stranger.publish(NORTH, captured(jpeg(), seq, at), qos=1)
            await stranger.publish(NORTH, captured(jpeg(), 58, 5.8)[:-40], qos=1)
            await stranger.publish(NORTH, captured(enormous(), 59, 5.9), qos=1)
        outcome = await within(playing)
    log, ledger = proof(outcome.folder)
    assert ledger.scheduled == 60
    assert ledger.duplicates == 5, "the real ones"
    assert ledger.reasons["undecodable(truncated)"] == 1
    assert ledger.reasons["undecodable(too_many_pixels)"] == 1
    assert {r.seq: r.reason for r in log.frames if r.fate == "undecodable"} == {
        58: "truncated",
        59: "too_many_pixels",
    }
