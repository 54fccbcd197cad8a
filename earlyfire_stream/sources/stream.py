"""Live cameras: RTSP and HTTP video, MJPEG over HTTP, snapshot addresses.

A live camera is read all the time and only its newest picture is kept; whoever asks gets that.
What an HTTP address answers decides how it is read: `multipart/*` is MJPEG, its JPEG parts passed
on unchanged; `image/jpeg` is a snapshot, fetched again once per cadence of the camera; anything
else, like RTSP, is video and is decoded by OpenCV in a thread of its own, where a frame is encoded
only while somebody waits for one.

A camera that is away is no error. It is connected again and again, after 0.5 s and then after
twice the time, at most 30 s; `problem` says why it is away.
"""

from __future__ import annotations

__all__ = ["LiveSource", "LiveStream", "MjpegParts", "open_live"]

import asyncio
import os
import random
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
import cv2

from earlyfire_stream.errors import SourceError
from earlyfire_stream.frames import FrameLimits, Refused, parse, strip
from earlyfire_stream.scenario.models import Camera, StreamSource
from earlyfire_stream.sources.base import UNKNOWN, LiveSource, Picture
from earlyfire_stream.sources.optics import encode
from earlyfire_stream.sources.video import silence_decoders

CONNECT_S = 10.0
READ_S = 15.0
"""Wall seconds without a byte after which a stream counts as dead."""
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
SNAPSHOT_S = 1.0
"""Between two snapshots of a camera without a cadence."""
_LIMITS = FrameLimits()
_MAX_WARNINGS = 100
_MAX_HEAD_BYTES = 16_384


@asynccontextmanager
async def open_live(
    camera: Camera, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[LiveSource]:
    """Read `camera` for as long as the block lasts. Being away at first is no error.

    SourceError if the address names an environment variable that is not set.
    """
    source = camera.source
    if not isinstance(source, StreamSource):
        raise SourceError(f"camera {camera.id} is not live; use open_source")
    try:
        url = source.opened(environ)
    except KeyError as why:
        raise SourceError(
            f"camera {camera.id}: its url needs the environment variable {why.args[0]}; set it"
        ) from why
    if not re.fullmatch(r"(rtsps?|https?)://\S+", url):
        raise SourceError(f"camera {camera.id}: its url must begin with rtsp:// or http://")
    live = LiveStream(camera.id, url, camera.cadence or SNAPSHOT_S, source.quality)
    # No TaskGroup: it would wrap whatever the caller's block raises.
    reader = asyncio.create_task(live.read(), name=f"stream {camera.id}")
    try:
        yield live
    finally:
        reader.cancel()
        await asyncio.wait([reader])
        if not reader.cancelled() and (crash := reader.exception()) is not None:
            raise crash


class LiveStream:
    """One live camera. `read` runs as a task of `open_live`; `newest` is for everybody else."""

    def __init__(self, camera: str, url: str, cadence_s: float, quality: int) -> None:
        self.warnings: list[str] = []
        self.problem = "not connected yet"
        self._camera = camera
        self._url = url
        self._cadence_s = cadence_s
        self._quality = quality
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._picture: Picture | None = None
        self._fresh = asyncio.Event()
        self._waiting = 0
        self._closed = False

    async def newest(self, after: float = -1.0) -> Picture:
        """The newest picture with `at` above `after`; waits for one, however long that takes.

        SourceError once the stream is closed.
        """
        self._waiting += 1
        try:
            while self._picture is None or self._picture.at <= after:
                if self._closed:
                    raise SourceError(f"camera {self._camera}: the stream is closed")
                await self._fresh.wait()
            return self._picture
        finally:
            self._waiting -= 1

    async def read(self) -> None:
        """Connect, read, connect again; ends only by being cancelled."""
        try:
            await self._read_on()
        finally:
            self._closed = True
            self._fresh.set()

    async def _read_on(self) -> None:
        pause_s = FIRST_RETRY_S
        while True:
            had = self._picture
            try:
                await self._follow()
                self._away("the stream ended")
            except SourceError as why:
                self._away(str(why))
            except TimeoutError:
                self._away(f"no answer within {CONNECT_S:g} s, or silence for {READ_S:g} s")
            except (aiohttp.ClientError, OSError) as why:
                self._away(f"{type(why).__name__}: {why}")
            if self._picture is not had:
                pause_s = FIRST_RETRY_S
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(2 * pause_s, LAST_RETRY_S)

    async def _follow(self) -> None:
        if self._url.startswith("rtsp"):
            await self._follow_video()
            return
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            async with session.get(self._url) as response:
                _check_status(response)
                kind = response.content_type
                if kind.startswith("multipart/"):
                    boundary = response.headers.get("Content-Type", "").partition("boundary=")[2]
                    parts = MjpegParts(boundary)
                    async for chunk in response.content.iter_any():
                        for part in parts.feed(chunk):
                            self._accept(part)
                    return
                if kind == "image/jpeg":
                    self._accept(await _body(response))
            if kind == "image/jpeg":
                await self._poll(session)
            else:
                await self._follow_video()

    async def _poll(self, session: aiohttp.ClientSession) -> None:
        due_s = self._loop.time()
        while True:
            due_s = max(due_s + self._cadence_s, self._loop.time())
            await asyncio.sleep(due_s - self._loop.time())
            async with session.get(self._url) as response:
                _check_status(response)
                self._accept(await _body(response))

    async def _follow_video(self) -> None:
        ended: asyncio.Future[str] = self._loop.create_future()
        stop = threading.Event()

        def tell(jpeg: bytes | None, why: str = "") -> None:
            if jpeg is not None:
                self._accept(jpeg)
            elif not ended.done():
                ended.set_result(why)

        def from_thread(jpeg: bytes | None, why: str = "") -> None:
            if not stop.is_set() and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(tell, jpeg, why)

        def work() -> None:
            try:
                from_thread(None, self._decode(from_thread, stop))
            except (cv2.error, SourceError) as why:
                from_thread(None, f"OpenCV: {why}")

        # A daemon: OpenCV cannot be interrupted, a dead camera must not keep the process alive.
        threading.Thread(target=work, name=f"stream {self._camera}", daemon=True).start()
        try:
            raise SourceError(await ended)
        finally:
            stop.set()

    def _decode(self, tell: Callable[[bytes], None], stop: threading.Event) -> str:
        """The thread: grab everything, decode what somebody waits for. Returns why it ended."""
        silence_decoders()
        timeouts = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            int(CONNECT_S * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            int(READ_S * 1000),
        ]
        capture = cv2.VideoCapture(self._url, cv2.CAP_FFMPEG, timeouts)
        try:
            if not capture.isOpened():
                return "cannot be opened as video: nobody answers, access refused, or no video"
            while not stop.is_set():
                if not capture.grab():
                    return "the stream broke off"
                if self._waiting:
                    done, image = capture.retrieve()
                    if done and image is not None:
                        tell(encode(image, self._quality))  # type: ignore[arg-type]
            return "stopped"
        finally:
            capture.release()

    def _accept(self, jpeg: bytes) -> None:
        read = parse(jpeg, _LIMITS)
        if isinstance(read, Refused):
            self._warn(f"a picture was dropped: {read.detail}")
            return
        if self.problem:
            if self._picture is not None:
                self._warn("the stream is back")
            self.problem = ""
        self._picture = Picture(self._loop.time() - self._began_s, strip(jpeg), UNKNOWN)
        fresh, self._fresh = self._fresh, asyncio.Event()
        fresh.set()

    def _away(self, why: str) -> None:
        why = _without_password(why, self._url)
        if why != self.problem:
            self._warn(why)
        self.problem = why

    def _warn(self, text: str) -> None:
        text = f"camera {self._camera}: {text}"
        if len(self.warnings) < _MAX_WARNINGS and text not in self.warnings[-3:]:
            self.warnings.append(text)


class MjpegParts:
    """Cuts a multipart/x-mixed-replace body into its parts, bounded and without I/O.

    Cameras disagree on this format: some write `--` into the boundary parameter as well, some
    send no Content-Length. With a length, it is believed; without one, a part ends at the next
    boundary line.
    """

    def __init__(self, boundary: str) -> None:
        core = boundary.split(";")[0].strip().strip('"').strip("-")
        self._mark = b"--" + core.encode("latin-1", "replace")
        self._buffer = bytearray()
        self._in_body = False
        self._length: int | None = None

    def feed(self, chunk: bytes) -> list[bytes]:
        """The parts that `chunk` completes; SourceError if one grows beyond all bounds."""
        self._buffer += chunk
        parts = []
        while True:
            if not self._in_body and not self._read_head():
                break
            part = self._read_body()
            if part is None:
                break
            if part:
                parts.append(part)
        return parts

    def _read_head(self) -> bool:
        # The line break that closes the part before may stand in front of the boundary.
        del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))]
        end = re.search(rb"\r?\n\r?\n", self._buffer)
        if end is None:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise SourceError("an MJPEG part has no header; this is no MJPEG stream")
            return False
        length = re.search(rb"(?im)^content-length:\s*(\d{1,9})\s*$", self._buffer[: end.end()])
        self._length = int(length[1]) if length else None
        del self._buffer[: end.end()]
        self._in_body = True
        return True

    def _read_body(self) -> bytes | None:
        if self._length is not None:
            if self._length > _LIMITS.max_bytes:
                raise SourceError(f"an MJPEG part of {self._length:,} bytes, too large")
            if len(self._buffer) < self._length:
                return None
            end = self._length
        else:
            end = self._buffer.find(self._mark)
            if end < 0:
                if len(self._buffer) > _LIMITS.max_bytes:
                    raise SourceError("an MJPEG part without an end, too large")
                return None
        part = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._in_body = False
        if self._length is None:
            part = part[: part.rfind(b"\xff\xd9") + 2]  # the line break belongs to the boundary
        return part


def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status in (401, 403):
        raise SourceError(f"HTTP {response.status}: user name or password refused")
    if response.status != 200:
        raise SourceError(f"HTTP {response.status}: {response.reason}")


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LIMITS.max_bytes:
            raise SourceError(f"a snapshot of more than {_LIMITS.max_bytes:,} bytes")
    return bytes(body)


def _without_password(text: str, url: str) -> str:
    """`text` without the address's user, password and query, where tokens stand."""
    parts = urlsplit(url)
    secrets = [url, parts.netloc.rpartition("@")[0], parts.password or "", parts.query]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
