"""Small scenarios of real image files, and the command itself, for tests from end to end."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import psutil

from earlyfire_stream.records import RunLog, load
from earlyfire_stream.scenario.load import Loaded
from earlyfire_stream.scenario.load import load as load_scenario
from earlyfire_stream.scoring.ledger import Ledger, balance

PATIENCE_S = 60.0
LOADING_S = 150.0
"""For a real worker, which imports for ten seconds where nothing else runs."""
"""Bounds every wait; a busy machine needs some seconds for what takes a moment elsewhere."""


# --- scenarios -----------------------------------------------------------------------------------


def pictures(folder: Path, count: int, size: tuple[int, int] = (96, 64)) -> Path:
    """`count` JPEGs that differ from each other."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = np.full((size[1], size[0], 3), 40 + number * 7 % 180, np.uint8)
        cv2.circle(image, (number * 5 % size[0], size[1] // 2), 9, (255, 255, 255), -1)
        (folder / f"{number:04}.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    return folder


def camera(name: str, path: str = "pictures", interval: str = "100ms", **more: Any) -> dict:
    return {"id": name, "source": {"kind": "images", "path": path, "interval": interval}, **more}


def scenario(folder: Path, *cameras: dict, **more: Any) -> Path:
    """A scenario file; every frame is looked at by a simulated engine unless `more` says else."""
    whole = {
        "earlyfire": 1,
        "name": "tiny",
        "seed": 3,
        "cameras": list(cameras),
        "sampling": {"policy": "every"},
        "engine": {"name": "simulated", "profile": "perfect"},
        **more,
    }
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(whole))  # YAML reads JSON
    return path


def loaded(folder: Path, *cameras: dict, **more: Any) -> Loaded:
    return load_scenario(scenario(folder, *cameras, **more))


# --- what came of it -----------------------------------------------------------------------------


def proof(folder: Path, cameras: Path | None = None) -> tuple[RunLog, Ledger]:
    """The run's log and its ledger, after checking that every frame has exactly one fate."""
    log = load(folder, cameras)
    ledger = balance(log)
    assert ledger.balanced, ledger
    assert ledger.scheduled == len(log.shots) == sum(ledger.fates.values()), ledger
    return log, ledger


def run_folders(out: Path) -> list[Path]:
    """Drafts that were never named (.20…) are not runs."""
    return sorted(p for p in out.glob("[!.]*")) if out.is_dir() else []


def run_folder(out: Path) -> Path:
    (folder,) = run_folders(out)
    return folder


def notes(log: RunLog, what: str) -> list[Mapping[str, Any]]:
    return [note for note in log.notes if note["what"] == what]


def records(folder: Path, log: str = "records.jsonl") -> list[dict]:
    """What a log that is still being written holds by now; whole lines only."""
    path = folder / log
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [orjson.loads(line) for line in lines if line.endswith(b"\n")]


def fates(folder: Path) -> list[dict]:
    """The frames whose fate stands there by now."""
    return [record["v"] for record in records(folder) if record["k"] == "frame"]


# --- waiting -------------------------------------------------------------------------------------


def wait_for(what: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """What the question brings once it brings something; fails when the time is over."""
    ends = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < ends, "it did not come to pass"
        threading.Event().wait(0.02)
    return found


async def until(what: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    async with asyncio.timeout(within_s):
        while not (found := what()):  # noqa: ASYNC110 - files and processes set no events
            await asyncio.sleep(0.02)
        return found


async def within(work: Awaitable[Any], within_s: float = PATIENCE_S) -> Any:
    return await asyncio.wait_for(work, within_s)


def time_passes(seconds: float) -> None:
    """To the running loop: every timer of so many seconds is due now, however busy the machine.

    A deadline of milliseconds would pass before what it is to end has begun.
    """
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]


async def overtaken(asked: asyncio.Event, look: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """What comes of the look when so many seconds pass once its server was `asked`."""
    asked.clear()
    under_way = asyncio.create_task(look)
    await within(asked.wait())
    time_passes(seconds)
    return await within(under_way)


# --- the command ---------------------------------------------------------------------------------


@dataclass
class Command:
    """A running or finished `earlyfire …`."""

    pid: int
    out_file: Path
    err_file: Path
    nursery: Nursery

    @property
    def out(self) -> str:
        return self.out_file.read_text() if self.out_file.exists() else ""

    @property
    def err(self) -> str:
        return self.err_file.read_text() if self.err_file.exists() else ""

    @property
    def ended(self) -> bool:
        return self.pid in self.nursery.codes

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def family(self) -> list[psutil.Process]:
        """The command's living processes, its children's children and orphans included."""

        def ours(process: psutil.Process) -> bool:
            try:
                alive = process.status() != psutil.STATUS_ZOMBIE
                return alive and os.getsid(process.pid) == self.pid
            except (psutil.NoSuchProcess, ProcessLookupError):
                return False

        return [process for process in psutil.process_iter() if ours(process)]

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """The exit code; what a crash writes must not be in its words."""
        code = self.nursery.code_of(self.pid, within_s)
        for word in ("Traceback", "Exception ignored", "Warning:", "never awaited"):
            assert word not in self.err, self.err
        return code


class Nursery:
    """Forks commands out of a process that has imported everything; see `zygote`."""

    def __init__(self, folder: Path) -> None:
        self.codes: dict[int, int] = {}
        self._folder = folder
        self._numbers = itertools.count()
        self._heard = threading.Condition()
        self._started: list[int] = []
        self._asking = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(
        self,
        *arguments: object,
        cwd: Path,
        environ: Mapping[str, str] | None = None,
        file_bytes: int | None = None,
    ) -> Command:
        number = next(self._numbers)
        out = self._folder / f"{number}.out"
        err = self._folder / f"{number}.err"
        request = {
            "arguments": [str(a) for a in arguments],
            "cwd": str(cwd),
            "environ": dict(environ or {}),
            "file_bytes": file_bytes,
            "out": str(out),
            "err": str(err),
        }
        assert self._process.stdin is not None
        with self._asking, self._heard:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            assert self._heard.wait_for(lambda: self._started, PATIENCE_S)
            pid = self._started.pop()
        return Command(pid, out, err, self)

    def run(self, *arguments: object, cwd: Path, **more: Any) -> tuple[int, Command]:
        command = self.start(*arguments, cwd=cwd, **more)
        return command.wait(), command

    def code_of(self, pid: int, within_s: float) -> int:
        with self._heard:
            assert self._heard.wait_for(lambda: pid in self.codes, within_s), "it does not end"
            return self.codes[pid]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            with self._heard:
                if "started" in message:
                    self._started.append(message["started"])
                else:
                    self.codes[message["exited"]] = message["code"]
                self._heard.notify_all()


# --- brokers -------------------------------------------------------------------------------------


def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def reserved_port() -> Iterator[int]:
    """A loopback port that nobody else is given; only a server that asks for it listens there."""
    with socket.socket() as holder:
        # two sockets that say so may share a port of which one listens
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@contextmanager
def open_mosquitto(program: str, folder: Path, settings: str = "") -> Iterator[int]:
    """A Mosquitto that takes messages of any size; gives its port.

    It lets everybody in unless `settings`, lines of its configuration, say who.
    """
    with reserved_port() as port:
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\npersistence false\nlog_dest file {folder / 'broker.log'}\n"
            + ("user root\n" if os.geteuid() == 0 else "")
            + (settings or "allow_anonymous true")
            + "\n"
        )
        process = subprocess.Popen([program, "-c", str(config)])

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_for(answers)
            yield port
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
