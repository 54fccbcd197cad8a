"""Live cameras, against real HTTP servers on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from aiohttp import web

from earlyfire_stream.errors import SourceError
from earlyfire_stream.frames import identity
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources import stream
from earlyfire_stream.sources.optics import encode
from earlyfire_stream.sources.stream import MjpegParts, open_live
from tests.playing import PATIENCE_S, until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PARTS = [encode(np.full((48, 64, 3), grey, np.uint8), 80) for grey in (40, 120, 200)]


def live_camera(url: str, cadence: float | None = None) -> Camera:
    return Camera.model_validate(
        {"id": "live", "cadence": cadence, "source": {"kind": "stream", "url": url}}
    )


@contextlib.asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/cam", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}/cam"
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FIRST_RETRY_S", 0.02)


def part(jpeg: bytes, *, length: bool) -> bytes:
    head = b"--edge\r\nContent-Type: image/jpeg\r\n"
    head += b"Content-Length: %d\r\n" % len(jpeg) if length else b""
    return head + b"\r\n" + jpeg + b"\r\n"


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_mjpeg_parts_come_out_whole_however_the_bytes_arrive(length: bool, step: int) -> None:
    wire = b"".join(part(p, length=length) for p in PARTS) + b"--edge--\r\n"
    cutter = MjpegParts("--edge")
    found = [p for i in range(0, len(wire), step) for p in cutter.feed(wire[i : i + step])]
    assert found == PARTS


def test_an_mjpeg_part_without_an_end_is_refused_instead_of_filling_the_memory() -> None:
    cutter = MjpegParts("edge")
    cutter.feed(b"--edge\r\n\r\n")
    with pytest.raises(SourceError, match="too large"):
        cutter.feed(bytes(20_000_001))


def test_a_page_that_is_no_mjpeg_is_refused() -> None:
    with pytest.raises(SourceError, match="no MJPEG stream"):
        MjpegParts("edge").feed(b"x" * 20_000)


async def test_an_mjpeg_camera_gives_its_own_jpeg_bytes_and_comes_back_after_a_break() -> None:
    visits = 0

    async def two_frames_then_gone(request: web.Request) -> web.StreamResponse:
        nonlocal visits
        visits += 1
        answer = web.StreamResponse()
        answer.content_type = "multipart/x-mixed-replace"
        answer.headers["Content-Type"] = "multipart/x-mixed-replace; boundary=--edge"
        await answer.prepare(request)
        await answer.write(part(PARTS[visits % 3], length=True))
        return answer

    async with server(two_frames_then_gone) as url, open_live(live_camera(url)) as live:
        async with asyncio.timeout(PATIENCE_S):
            first = await live.newest()
            second = await live.newest(first.at)
        assert first.jpeg == PARTS[1]
        assert second.jpeg in PARTS
        assert first.at < second.at
        assert first.label.smoke is None
        assert "live: the stream ended" in live.warnings[0]
        assert "back" in " ".join(live.warnings)


async def test_a_snapshot_address_is_fetched_once_per_cadence() -> None:
    asked: list[float] = []

    async def snapshot(request: web.Request) -> web.Response:
        asked.append(asyncio.get_running_loop().time())
        return web.Response(body=PARTS[len(asked) % 3], content_type="image/jpeg")

    async with server(snapshot) as url, open_live(live_camera(url, 0.1)) as live:
        async with asyncio.timeout(PATIENCE_S):
            at = -1.0
            for _ in range(4):
                at = (await live.newest(at)).at
        assert live.problem == ""
    # never earlier than its turn, however late the one before was
    assert [n for n, at in enumerate(asked) if at - asked[0] < 0.1 * n - 0.001] == []


async def test_a_refused_password_is_named_as_the_problem_and_never_shown() -> None:
    async def refuse(request: web.Request) -> web.Response:
        return web.Response(status=401)

    async with server(refuse) as url:
        camera = live_camera(url.replace("http://", "http://me:${CAM_PASSWORD}@"))
        async with open_live(camera, {"CAM_PASSWORD": "s3cret"}) as live:
            await until(lambda: "refused" in live.problem)
            assert "s3cret" not in live.problem + "".join(live.warnings)


async def test_a_camera_that_is_away_keeps_its_reader_waiting_and_says_why() -> None:
    async with open_live(live_camera("http://127.0.0.1:9/cam")) as live:
        waiting = asyncio.create_task(live.newest())
        await until(lambda: "Cannot connect" in live.problem)
        assert not waiting.done()
        waiting.cancel()


async def test_a_broken_picture_is_dropped_and_the_next_one_taken() -> None:
    count = 0

    async def sometimes_broken(request: web.Request) -> web.Response:
        nonlocal count
        count += 1
        body = b"\xff\xd8 torn" if count == 1 else PARTS[0]
        return web.Response(body=body, content_type="image/jpeg")

    async with server(sometimes_broken) as url, open_live(live_camera(url, 0.02)) as live:
        async with asyncio.timeout(PATIENCE_S):
            picture = await live.newest()
        assert identity(picture.jpeg) == identity(PARTS[0])
        assert "a picture was dropped" in live.warnings[0]


async def test_video_over_http_is_decoded_and_only_the_newest_frame_kept(tmp_path: Path) -> None:
    file = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for grey in range(0, 250, 10):
        writer.write(np.full((48, 64, 3), grey, np.uint8))
    writer.release()

    async def video(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(file, headers={"Content-Type": "video/x-msvideo"})

    async with server(video) as url, open_live(live_camera(url)) as live:
        async with asyncio.timeout(PATIENCE_S):
            picture = await live.newest()
        assert picture.jpeg[:2] == b"\xff\xd8"


async def test_closing_while_somebody_waits_ends_the_wait() -> None:
    async with open_live(live_camera("http://127.0.0.1:9/cam")) as live:
        waiting = asyncio.create_task(live.newest())
        await asyncio.sleep(0)
    with pytest.raises(SourceError, match="closed"):
        await waiting


async def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(SourceError, match="CAM_PASSWORD"):
        async with open_live(live_camera("rtsp://me:${CAM_PASSWORD}@host/1"), {}):
            pass
