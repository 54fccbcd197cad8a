"""A private broker for one run: a child process on a free loopback port, with random credentials.

    async with embedded_broker() as broker:
        async with MqttLink(broker.address, ...) as link: ...

Mosquitto where it is installed, else amqtt. Both are children: in our own process a broker would
steal the very loop whose lateness is measured. The credentials stand in files that only we can
read, never on a command line, and only until the broker has read them: however we end, nothing of
it is left on the disk.
"""

from __future__ import annotations

__all__ = ["BrokerKind", "EmbeddedBroker", "embedded_broker", "find_mosquitto"]

import asyncio
import base64
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from earlyfire_stream.errors import TransportError
from earlyfire_stream.transport.address import BrokerAddress, Login, mqtt_version
from earlyfire_stream.transport.base import DEFAULT_LIMITS

log = logging.getLogger(__name__)

BrokerKind = Literal["auto", "mosquitto", "amqtt"]

_CHILD = Path(__file__).with_name("broker_child.py")
_START_S = 15.0
"""amqtt imports for a second or two on a loaded machine."""
_STOP_S = 3.0

_MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous false
password_file {folder}/passwords
persistence false
log_dest stdout
log_type error
log_type warning
log_type notice
connection_messages false
# A subscriber that stalls must not fill the memory; what the broker drops shows as a gap.
max_queued_messages 10000
max_queued_bytes 268435456
max_inflight_messages 100
message_size_limit {message_bytes}
max_keepalive 120
set_tcp_nodelay true
"""


def find_mosquitto() -> str | None:
    """Its path; Debian installs it where an ordinary user's PATH does not look."""
    return shutil.which("mosquitto") or shutil.which(
        "mosquitto", path=os.pathsep.join(("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"))
    )


class EmbeddedBroker:
    """A child broker that can be stopped and started again on its port; see `embedded_broker`."""

    def __init__(
        self, kind: Literal["mosquitto", "amqtt"], program: str | None, words: BinaryIO
    ) -> None:
        """What it writes goes to `words`, a file without a name."""
        self.kind = kind
        self.address = BrokerAddress(
            "127.0.0.1",
            _free_port(),
            Login("earlyfire", secrets.token_urlsafe(24)),
            level=5 if kind == "mosquitto" else 4,
        )
        self._program = program
        self._words = words
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running child; None while it is stopped."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self) -> None:
        """Returns once it answers with our credentials; TransportError with its last words."""
        assert self.pid is None
        with tempfile.TemporaryDirectory(prefix="earlyfire-broker-") as folder:
            config = self._write_files(Path(folder))
            arguments = [str(os.getpid()), str(config)]
            if self._program is not None:
                arguments.insert(1, self._program)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the module's own folder must not shadow other modules
                str(_CHILD),
                self.kind,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=self._words,
                stderr=self._words,
                cwd="/",
                process_group=0,  # a terminal's Ctrl-C is ours: the broker goes last
            )
            try:
                await self._answering(self._process)
            except BaseException:
                await self.stop()
                raise
        self._watch = asyncio.create_task(self._report_death(self._process), name="broker watch")

    async def stop(self) -> None:
        """End the child: asked first, killed after 3 s. Without a child it does nothing."""
        process, watch = self._process, self._watch
        self._process = self._watch = None
        if watch is not None:
            watch.cancel()
        if process is None:
            return
        try:
            if watch is not None:
                await asyncio.wait({watch})
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.terminate()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_S):
                        await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()

    def last_words(self) -> str:
        """The last lines that the broker wrote; never a password."""
        end = os.fstat(self._words.fileno()).st_size
        tail = os.pread(self._words.fileno(), 4096, max(0, end - 4096))
        lines = tail.decode("utf-8", "replace").splitlines()[-10:]
        return " | ".join(line for line in lines if line.strip())[-1000:]

    async def _answering(self, process: asyncio.subprocess.Process) -> None:
        """It is ours only if it takes our password: the port may belong to somebody else."""
        ready = asyncio.create_task(mqtt_version(self.address, _START_S), name="broker ready")
        ended = asyncio.create_task(process.wait(), name="broker ended")
        try:
            await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.exception() is None:
                return
            why = "it ended at once" if ended.done() else str(ready.exception())
            raise TransportError(
                f"the {self.kind} broker did not start: {why}. Its last words: "
                f"{self.last_words() or 'none'}. Another one can be named with --broker"
            )
        finally:
            for task in (ready, ended):
                task.cancel()
            await asyncio.gather(ready, ended, return_exceptions=True)

    async def _report_death(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        log.error("the %s broker ended by itself (%s): %s", self.kind, code, self.last_words())

    def _write_files(self, folder: Path) -> Path:
        """What it reads when it starts; the place of its configuration."""
        login = self.address.login
        assert login is not None
        if self.kind == "amqtt":
            settings = {"port": self.address.port, "user": login.user, "password": login.password}
            return _write_secret(folder / "config", json.dumps(settings))
        _write_secret(folder / "passwords", f"{login.user}:{_hashed(login.password)}\n")
        config = _MOSQUITTO.format(
            port=self.address.port,
            folder=folder,
            message_bytes=DEFAULT_LIMITS.frame_bytes + 1_000_000,
        )
        if os.geteuid() == 0:
            # Otherwise it changes to the user mosquitto, who may not read our folder, and the
            # kernel forgets the promise to end it with us when a process changes its user.
            config += "user root\n"
        return _write_secret(folder / "config", config)


@asynccontextmanager
async def embedded_broker(kind: BrokerKind = "auto") -> AsyncIterator[EmbeddedBroker]:
    """A running broker; the child is gone when the block is left, however it is left."""
    program = find_mosquitto() if kind != "amqtt" else None
    if kind == "mosquitto" and program is None:
        raise TransportError(
            "no mosquitto found; install it (Debian: apt-get install mosquitto) or use amqtt"
        )
    with tempfile.TemporaryFile() as words:
        chosen: Literal["mosquitto", "amqtt"] = "amqtt" if program is None else "mosquitto"
        broker = EmbeddedBroker(chosen, program, words)
        await broker.start()
        try:
            yield broker
        finally:
            await broker.stop()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _write_secret(path: Path, text: str) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def _hashed(password: str) -> str:
    """Mosquitto's `$7$` form: PBKDF2-SHA512. Few rounds will do for 192 random bits."""
    salt, rounds = secrets.token_bytes(12), 101
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"
