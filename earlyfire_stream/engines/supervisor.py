"""Keeps one local inference worker running, and says at any moment what became of it.

The worker is a child process in a process group of its own, so that Ctrl-C reaches us and not it.
It ends with us however we end: it watches its stdin, which the kernel closes when we are gone. It
prints one line of JSON when it listens, and answers `/ready` with 200 once its model is loaded.

A worker that ends by itself is started again after a pause that grows; one that keeps ending is
given up, with the reason. Nothing here waits on behalf of a frame: `address` is None while there
is no worker that could be asked, and `trouble` says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import aiohttp
import orjson
from yarl import URL

from earlyfire_stream.engines.streaming import printable, words
from earlyfire_stream.errors import EngineUnavailable

__all__ = ["Supervisor", "pause_before_restart"]

log = logging.getLogger(__name__)

STDIN, STDOUT, STDERR = 0, 1, 2
MOST_RESTARTS = 5
WINDOW_S = 600.0
"""A worker that ends more often than that in this time does not mend itself."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
READY_EVERY_S = 0.2
"""Between two questions whether it is ready."""
ASK_S = 5.0
"""Wall seconds for one question whether it is ready; a worker that loads may be slow to answer."""
STOP_S = 10.0
"""Wall seconds that it may take to end once it was asked to."""
OWN_WORDS = "earlyfire worker: "
"""What the command's own messages begin with."""
LINE_CHARS = 1000
LAST_LINES = 12
LINE_BYTES = 4096
LAST_WORDS_S = 1.0
"""Wall seconds for its last lines after its end: they may still stand in the pipe, and a child of
its own may hold that open."""


def pause_before_restart(ended_at: Sequence[float], now_s: float) -> float | None:
    """Seconds to wait after the last of these ends; None if there were too many to go on.

    `ended_at` are the instants, oldest first, at which workers ended, the last one included. The
    first end costs 1 s, then 2, 4, 8, 16 s; the sixth within 600 s is the last.
    """
    recent = sum(1 for at in ended_at if now_s - at <= WINDOW_S)
    if recent > MOST_RESTARTS:
        return None
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** max(0, recent - 1))


class Supervisor:
    """`async with Supervisor(command, environ, load_s)`: entered, the worker is ready.

    `command` starts it. Entering raises EngineUnavailable with its last words where it ends or is
    not ready within `load_s` wall seconds; after that it is restarted as the module says.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        load_s: float,
        *,
        pause: Callable[[Sequence[float], float], float | None] = pause_before_restart,
    ) -> None:
        self._command = tuple(command)
        self._environ = dict(environ)
        self._load_s = load_s
        self._pause = pause
        self._worker: _Worker | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self.address: URL | None = None
        """Where a worker stands that is ready; None while there is none."""
        self.trouble = "the worker has not been started"
        """Why there is none."""
        self.restarts = 0
        self.given_up = False

    @property
    def pid(self) -> int | None:
        """Of the running child."""
        return self._worker.pid if self._worker is not None else None

    async def __aenter__(self) -> Self:
        await self._start()
        self._keeping = asyncio.create_task(self._keep(), name="worker supervisor")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_gone("the worker was stopped")
        keeping, self._keeping = self._keeping, None
        try:
            if keeping is not None:
                keeping.cancel()
                with suppress(asyncio.CancelledError):
                    await keeping
        finally:
            await self._stop()

    async def lost(self, address: URL, within_s: float) -> bool:
        """Has the worker at that address ended, or does it within so many seconds?

        A connection breaks a moment before the end of the process is known.
        """
        if self.address == address:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._gone.wait()
        return self.address != address

    async def _start(self) -> None:
        """Returns when a worker is ready; otherwise nothing of it is left."""
        self._worker = await _Worker.begin(self._command, self._environ)
        try:
            self.address = await self._worker.ready(self._load_s)
        except BaseException:
            await self._stop()
            raise
        self._gone.clear()

    async def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop()

    def _is_gone(self, why: str) -> None:
        self.address, self.trouble = None, why
        self._gone.set()

    async def _keep(self) -> None:
        """Start again what ends; returns when it is given up."""
        now_s = asyncio.get_running_loop().time
        ended_at: deque[float] = deque(maxlen=MOST_RESTARTS + 1)
        while True:
            assert self._worker is not None
            code = await self._worker.ended()
            # at once, before its last words: frames are being asked of it
            self._is_gone(f"the worker {_how(code)}")
            why = f"the worker {_how(code)}{await self._worker.last_words()}"
            await self._stop()
            while self._worker is None:
                ended_at.append(now_s())
                pause_s = self._pause(tuple(ended_at), now_s())
                if pause_s is None:
                    self.given_up = True
                    self._is_gone(f"{why}; it ended too often and is not started again")
                    log.error("%s", self.trouble)
                    return
                self._is_gone(f"{why}; it is being started again")
                log.warning("%s, in %g s", self.trouble, pause_s)
                await asyncio.sleep(pause_s)
                self.restarts += 1
                try:
                    await self._start()
                except EngineUnavailable as again:
                    why = str(again)
            log.warning("the worker is back, start %d", self.restarts + 1)


class _Worker(asyncio.SubprocessProtocol):
    """One process. `stop` leaves nothing of it.

    A protocol, not asyncio's Process: that one's `wait` may not return while a child of the child
    holds its pipes open (Python 3.11).
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[int] = loop.create_future()
        self._silent: asyncio.Future[None] = loop.create_future()
        """Done when nothing can be heard any more."""
        self._listening: asyncio.Future[URL] = loop.create_future()
        self._said: deque[str] = deque(maxlen=LAST_LINES)
        self._rest = {STDOUT: b"", STDERR: b""}
        self._transport: asyncio.SubprocessTransport

    @classmethod
    async def begin(cls, command: Sequence[str], environ: Mapping[str, str]) -> _Worker:
        try:
            _, worker = await asyncio.get_running_loop().subprocess_exec(
                cls, *command, env=environ, process_group=0
            )
        except OSError as why:
            raise EngineUnavailable(f"the worker cannot be started: {why}") from why
        return worker

    @property
    def pid(self) -> int | None:
        return None if self._exited.done() else self._transport.get_pid()

    async def ended(self) -> int:
        """Its exit code, negative for a signal."""
        return await asyncio.shield(self._exited)

    async def ready(self, within_s: float) -> URL:
        """Where it stands, once its model is loaded. EngineUnavailable if it does not get there."""
        ready = asyncio.create_task(self._until_ready(), name="worker ready")
        try:
            done, _ = await asyncio.wait(
                (ready, self._exited), timeout=within_s, return_when=asyncio.FIRST_COMPLETED
            )
            if self._exited.done():
                how = _how(self._exited.result())
                raise EngineUnavailable(f"the worker {how}{await self.last_words()}")
            if ready in done:
                return ready.result()
            raise EngineUnavailable(
                f"the worker was not ready within {within_s:g} s (its option load_s)"
                f"{await self.last_words()}"
            )
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    async def _until_ready(self) -> URL:
        address = await asyncio.shield(self._listening)
        limit = aiohttp.ClientTimeout(total=ASK_S)
        async with aiohttp.ClientSession(timeout=limit, auto_decompress=False) as session:
            while True:
                try:
                    async with session.get(address / "ready") as response:
                        if response.status == 200:
                            return address
                except (aiohttp.ClientError, TimeoutError) as why:
                    log.debug("the worker at %s does not answer yet: %s", address, words(why))
                await asyncio.sleep(READY_EVERY_S)

    async def last_words(self) -> str:
        """`: line | line`, of a process that has ended or is stuck; empty if it said nothing."""
        if self._exited.done():
            await asyncio.wait((self._silent,), timeout=LAST_WORDS_S)
        refused = [line for line in self._said if line.startswith(OWN_WORDS)]
        if refused:  # it knew what was wrong; what came before is of no use to anybody
            return f": {refused[-1].removeprefix(OWN_WORDS)}"
        return f": {' | '.join(self._said)}" if self._said else ""

    async def stop(self) -> None:
        """Asked first, killed when it does not end; children of its own with it."""
        group = self._transport.get_pid()
        try:
            if not self._exited.done():
                guard = self._transport.get_pipe_transport(STDIN)
                if guard is not None:
                    guard.close()
                _signal(group, signal.SIGTERM)
                await asyncio.wait((self._exited,), timeout=STOP_S)
        finally:
            # the group outlives its leader while children of it are left
            _signal(group, signal.SIGKILL)
            await self._exited
            self._transport.close()

    # --- what asyncio tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        # progress bars end their lines in CR
        *lines, rest = re.split(rb"[\r\n]+", self._rest[fd] + data)
        self._rest[fd] = rest[-LINE_BYTES:]
        for line in lines:
            self._take(fd, line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd in self._rest:
            self._take(fd, self._rest[fd])
        if fd == STDERR and not self._silent.done():
            self._silent.set_result(None)

    def process_exited(self) -> None:
        code = self._transport.get_returncode()
        assert code is not None
        self._exited.set_result(code)

    def _take(self, fd: int, raw: bytes) -> None:
        text = raw.decode("utf-8", "replace")
        if fd == STDERR and (line := printable(text, LINE_CHARS)):
            self._said.append(line)
            log.info("worker: %s", line)
        elif fd == STDOUT and not self._listening.done():
            # libraries may greet us before the line that says where it listens
            address = _listening(text)
            if address is not None:
                self._listening.set_result(address)


def _listening(line: str) -> URL | None:
    """`{"listening": "http://127.0.0.1:40123", …}` -> its address; None for any other line."""
    try:
        said = orjson.loads(line)
        return URL(said["listening"]) if isinstance(said, dict) else None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def _how(code: int) -> str:
    """`ended (signal 9)`, `ended (exit code 1)`; the kernel kills who takes too much memory."""
    if code == -signal.SIGKILL:
        return "ended (signal 9; the kernel does that when memory runs out)"
    return f"ended (signal {-code})" if code < 0 else f"ended (exit code {code})"


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
