"""The live page's server: a thread with an event loop of its own, beside the run or without one.

What a browser sees is sent as server-sent events: everything goes one way, a proxy needs no special
setting for them, and a browser reconnects by itself. Changes are gathered for `BEAT_S` and encoded
once for all who look; each has a short queue, and who does not read is dropped and may come again.
Pictures are made small when they are asked for. Nothing can be changed through this page.

Nothing that a camera, a model or a scenario says becomes markup: it travels as JSON and is only
ever set as text. No answer names a path of this machine.
"""

from __future__ import annotations

__all__ = ["LivePage"]

import asyncio
import contextlib
import hashlib
import logging
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from earlyfire_stream import __version__
from earlyfire_stream.live.guard import LiveAddress, Tries, cookie_for, needed, same
from earlyfire_stream.live.pictures import WIDTHS, small
from earlyfire_stream.live.watching import Origin
from earlyfire_stream.records import key_frame

log = logging.getLogger(__name__)

BEAT_S = 0.4
"""Between two messages to the browsers."""
QUEUE = 20
"""Messages that may wait for one browser: eight seconds of them."""
SEND_BYTES = 1 << 18
"""What the system may hold for one browser beside its queue."""
BROWSERS = 32
QUIET_S = 10.0
"""A sign of life is sent at least so often, so that a browser that is gone is noticed."""
SHRINKING = 64
"""Pictures that may wait to be made small."""
BODY_BYTES = 4096
STARTING_S = 10.0
CLOSING_S = 3.0
KEYS_LISTED = 40
ODD_TOLD = 3
"""Records that could not be shown, of which the log tells."""
ASSETS = ("drawing.js", "timeline.js", "live.js", "page.css", "live.css", "icon.svg")
_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}
_MISSED = re.compile(r"-(\d{6,18})-missed\.jpg$")

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
    "Server": "earlyfire",
}
_REPORT_POLICY = (
    # A report brings its own script and styles, held by a policy of its own; here it is also kept
    # from everything of this page.
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Browser:
    """One who looks: what waits for it, and whether it has fallen behind."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.waiting: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE)
        self.dropped = False

    def offer(self, message: bytes | None) -> None:
        if self.dropped:
            return
        try:
            self.waiting.put_nowait(message)
        except asyncio.QueueFull:
            self.dropped = True
            if (transport := self._request.transport) is not None:
                transport.abort()


class LivePage:
    """Serves an `Origin` from entering to leaving; all its own work is done in its own thread.

    UsageError, before anything is started, if the address cannot be had or needs a token.
    """

    def __init__(self, origin: Origin, address: LiveAddress, token: str | None = None) -> None:
        needed(address, token)
        self._origin = origin
        self._address = address
        self._token = token
        self._cookie = None if token is None else cookie_for(token)
        self._tries = Tries()
        self._listener = address.listen()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self.port: int = self._listener.getsockname()[1]
        self._cookie_name = f"earlyfire_live_{self.port}"
        self._browsers: set[_Browser] = set()
        self._told_run: dict[str, Any] = {}
        self._wall = origin.wall
        self._shrinking = 0
        self._odd = 0
        self.dropped = 0
        """Browsers that did not read what they were sent."""
        self._began = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="live page", daemon=True)
        self._threads = ThreadPoolExecutor(1, "live pictures")

    @property
    def url(self) -> str:
        host = self._address.host
        if host in ("0.0.0.0", "::", ""):
            host = socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        self._began.wait(STARTING_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended by itself
                loop.call_soon_threadsafe(stop.set)
        self._thread.join(2 * CLOSING_S)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._listener.close()
        self._origin.close()

    # --- the thread ---

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # whatever breaks here, the run goes on: this is its boundary
            log.exception("the live page has ended")
        finally:
            self._began.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=BODY_BYTES, middlewares=[self._guarded])
        app.on_response_prepare.append(_dress)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/events", self._events),
                web.get("/camera/{n:\\d{1,6}}", self._camera),
                web.get("/camera/{n:\\d{1,6}}/picture", self._picture),
                web.get("/camera/{n:\\d{1,6}}/key/{seq:\\d{1,18}}", self._key),
                web.get("/report", self._report),
                web.get("/login", self._login_form),
                web.post("/login", self._login),
                web.get("/assets/{name}", self._asset),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSING_S / 2)
        await runner.setup()
        try:
            await web.SockSite(runner, self._listener).start()
            beating = asyncio.create_task(self._beat(), name="live beat")
            self._began.set()
            await self._stop.wait()
            beating.cancel()
            self._tell()  # the last word
            for browser in self._browsers:
                browser.offer(None)
        finally:
            await runner.cleanup()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                self._tell()
            except Exception:  # one odd record must not take the page down
                self._odd += 1
                if self._odd <= ODD_TOLD:
                    log.exception("the live page could not show something")

    def _tell(self) -> None:
        """Take in what has happened and tell it to all who look."""
        self._origin.poll()
        if not self._browsers:
            return
        if self._wall is not self._origin.wall:
            self._wall = self._origin.wall
            self._changes()
            whole = self._whole()
            for browser in tuple(self._browsers):
                browser.offer(whole)
            return
        message = self._changes()
        if message:
            for browser in tuple(self._browsers):
                browser.offer(message)

    def _changes(self) -> bytes:
        now, wall_ns = self._origin.now()
        told = self._wall.changes(now, wall_ns, self._origin.pictures.seq)
        run = self._run_told()
        if run != self._told_run:
            told["run"] = self._told_run = run
        if not told["totals"]:
            del told["totals"]
        return _event("tick", told) if told else b""

    def _whole(self) -> bytes:
        return _event("whole", {**self._wall.whole(), "run": self._told_run})

    def _run_told(self) -> dict[str, Any]:
        return {**asdict(self._origin.told), "report": self._report_file() is not None}

    def _report_file(self) -> Path | None:
        folder = self._origin.folder
        if folder is None or not self._origin.told.over:
            return None
        path = folder / "report.html"
        return path if path.is_file() else None

    # --- who may look ---

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._address.answers_to(request.host):
            raise web.HTTPMisdirectedRequest(text="this page is not served under that name\n")
        site = request.headers.get("Sec-Fetch-Site", "same-origin")
        visits = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("same-origin", "none") and not visits:
            raise web.HTTPForbidden(text="not for other pages\n")
        open_to_all = request.path == "/login" or request.path.startswith("/assets/")
        if not open_to_all and not self._admitted(request):
            if request.path == "/":
                raise web.HTTPSeeOther("/login")
            raise web.HTTPUnauthorized(
                text="a token is needed: open / in a browser, or send it as Bearer\n",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await handler(request)

    def _admitted(self, request: web.Request) -> bool:
        if self._token is None or self._cookie is None:
            return True
        if same(request.cookies.get(self._cookie_name, ""), self._cookie):
            return True
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or self._tries.exhausted(time.monotonic()):
            return False
        if same(given, self._token):
            return True
        self._tries.wrong(time.monotonic())
        return False

    async def _login_form(self, request: web.Request) -> web.StreamResponse:
        if self._token is None:
            raise web.HTTPSeeOther("/")
        return _file("login.html")

    async def _login(self, request: web.Request) -> web.StreamResponse:
        if self._token is None or self._cookie is None:
            raise web.HTTPSeeOther("/")
        if self._tries.exhausted(time.monotonic()):
            raise web.HTTPTooManyRequests(text="too many wrong tokens; try again in a minute\n")
        given = (await request.post()).get("token", "")
        if not isinstance(given, str) or not same(given.strip(), self._token):
            self._tries.wrong(time.monotonic())
            return _file("login.html", 401)
        response = web.HTTPSeeOther("/")
        response.set_cookie(
            self._cookie_name, self._cookie, httponly=True, samesite="Strict", path="/"
        )
        raise response

    # --- what is served ---

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return _file("live.html")

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in ASSETS:
            raise web.HTTPNotFound(text="no such file\n")
        return _file(name, match=request.headers.get("If-None-Match"))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if len(self._browsers) >= BROWSERS:
            raise web.HTTPServiceUnavailable(text="too many browsers look already\n")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        browser = _Browser(request)
        self._tell()  # whoever looks already must not miss what the newcomer is told
        if not self._browsers:
            self._wall = self._origin.wall
            self._changes()
        self._browsers.add(browser)
        browser.offer(b"retry: 1000\n\n" + self._whole())
        try:
            while True:
                try:
                    async with asyncio.timeout(QUIET_S):
                        message = await browser.waiting.get()
                except TimeoutError:
                    message = b": still here\n\n"
                if message is None:
                    break
                await response.write(message)
        except ConnectionError:
            pass  # it has gone, or was dropped
        finally:
            self._browsers.discard(browser)
            self.dropped += browser.dropped
        return response

    async def _camera(self, request: web.Request) -> web.StreamResponse:
        number = int(request.match_info["n"])
        wall = self._origin.wall
        told = wall.camera(number, self._origin.now()[0])
        if told is None:
            raise web.HTTPNotFound(text="no such camera\n")
        told["missed"] = await asyncio.to_thread(self._missed, told["id"])
        for one in told["missed"]:
            one["t"] = wall.truth_of(number, one["seq"])
        return _json(told)

    def _missed(self, camera: str) -> list[dict[str, Any]]:
        """The kept pictures in which a fire was missed."""
        folder = self._origin.folder
        if folder is None:
            return []
        try:
            names = {path.name for path in (folder / "frames").iterdir()}
        except OSError:
            return []
        seqs = sorted({int(found[1]) for name in names if (found := _MISSED.search(name))})
        return [{"seq": s} for s in seqs if key_frame(camera, s, "missed") in names][:KEYS_LISTED]

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        name = self._origin.wall.name_of(int(request.match_info["n"]))
        width = _width(request)
        pictures = self._origin.pictures
        seq = None if name is None else pictures.seq(name)
        if name is None or seq is None:
            return _no_picture()
        if request.headers.get("If-None-Match") == f'"{seq}-{width}"':
            return web.Response(status=304, headers={"ETag": f'"{seq}-{width}"'})
        found = await self._in_thread(lambda: pictures.shrunk(name, width))
        if found is None:
            return _no_picture()
        seq, jpeg = found
        return _jpeg(jpeg, f'"{seq}-{width}"')

    async def _key(self, request: web.Request) -> web.StreamResponse:
        name = self._origin.wall.name_of(int(request.match_info["n"]))
        seq = int(request.match_info["seq"])
        width = _width(request)
        folder = self._origin.folder
        if name is None or folder is None:
            return _no_picture()

        def read() -> bytes | None:
            for what in ("alarm", "missed"):
                with contextlib.suppress(OSError):
                    path = folder / "frames" / key_frame(name, seq, what)
                    if path.stat().st_size <= 20_000_000:
                        return small(path.read_bytes(), width)
            return None

        jpeg = await self._in_thread(read)
        if jpeg is None:
            return _no_picture()
        return _jpeg(jpeg, f'"key-{seq}-{width}"')

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        if self._shrinking >= SHRINKING:
            raise web.HTTPServiceUnavailable(text="busy\n", headers={"Retry-After": "1"})
        self._shrinking += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._shrinking -= 1

    async def _report(self, request: web.Request) -> web.StreamResponse:
        path = self._report_file()
        if path is None:
            raise web.HTTPNotFound(text="there is no report yet\n")
        try:
            text = await asyncio.to_thread(path.read_bytes)
        except OSError:
            raise web.HTTPNotFound(text="the report cannot be read\n") from None
        return web.Response(
            body=text,
            content_type="text/html",
            charset="utf-8",
            headers={"Content-Security-Policy": _REPORT_POLICY},
        )


async def _dress(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        if name == "Server":
            response.headers[name] = value
        else:
            response.headers.setdefault(name, value)


def _event(kind: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _dumps(data))


def _dumps(data: object) -> bytes:
    try:
        return orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # a stranger's text with a lone surrogate, which UTF-8 cannot hold
        return orjson.dumps(_sound(data), option=orjson.OPT_NON_STR_KEYS)


def _sound(data: Any) -> Any:
    match data:
        case str():
            return data.encode("utf-8", "replace").decode()
        case dict():
            return {_sound(key): _sound(value) for key, value in data.items()}
        case list() | tuple():
            return [_sound(value) for value in data]
    return data


def _json(data: object) -> web.Response:
    return web.Response(body=_dumps(data), content_type="application/json")


def _jpeg(jpeg: bytes, tag: str) -> web.Response:
    return web.Response(
        body=jpeg,
        content_type="image/jpeg",
        headers={"ETag": tag, "Cache-Control": "private, no-cache"},
    )


def _no_picture() -> web.Response:
    """A browser would put a 404 into its console: no error has happened."""
    return web.Response(status=204)


def _width(request: web.Request) -> int:
    asked = request.query.get("w", "")
    return WIDTHS[1] if asked == str(WIDTHS[1]) else WIDTHS[0]


def _file(name: str, status: int = 200, match: str | None = None) -> web.Response:
    body, tag = _packaged(name)
    if match == tag:
        return web.Response(status=304, headers={"ETag": tag})
    return web.Response(
        body=body,
        status=status,
        content_type=_TYPES[Path(name).suffix],
        charset="utf-8",
        headers={"ETag": tag, "Cache-Control": "no-cache"},
    )


@cache
def _packaged(name: str) -> tuple[bytes, str]:
    """The report's assets are served as they are: both pages draw with the same."""
    ours = files("earlyfire_stream.live").joinpath("assets", name)
    found = ours if ours.is_file() else files("earlyfire_stream.report").joinpath("assets", name)
    body = found.read_bytes()
    return body, f'"{__version__}-{hashlib.sha256(body).hexdigest()[:16]}"'
