"""Secrets are planted, whole runs are played, and everything they leave is searched for them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import psutil
import pybase64
import pytest

from earlyfire_stream.engines.supervisor import Supervisor
from earlyfire_stream.transport.broker import BrokerKind, embedded_broker
from tests.fakes import worker as fake_worker
from tests.fakes.openai import Answer, FakeOpenAI, Fault
from tests.fakes.worker import FakeWorker
from tests.playing import (
    PATIENCE_S,
    camera,
    free_port,
    open_mosquitto,
    pictures,
    run_folder,
    scenario,
    until,
)

_OURS = secrets.token_hex(6)
"""In each secret: the same tests may be running elsewhere on this machine, which is looked at."""
PASSWORD = f"planted-broker-{_OURS}"
OPENAI_KEY = f"sk-planted-openai-{_OURS}"
WORKER_KEY = f"planted-worker-{_OURS}"
TOKEN = f"planted-live-token-{_OURS}"
ENVIRON = {
    "EARLYFIRE_MQTT_PASSWORD": PASSWORD,
    "OPENAI_API_KEY": OPENAI_KEY,
    "EARLYFIRE_WORKER_KEY": WORKER_KEY,
    "EARLYFIRE_LIVE_TOKEN": TOKEN,
}


def written(secret: str) -> list[bytes]:
    """The forms in which it may stand somewhere."""
    plain = secret.encode()
    return [plain, quote(secret, safe="").encode(), pybase64.b64encode(plain), plain.hex().encode()]


def leaks(place: str, data: bytes, planted: Mapping[str, str] = ENVIRON) -> list[str]:
    return [
        f"{name} in {place}"
        for name, secret in planted.items()
        if any(form in data for form in written(secret))
    ]


def command_lines() -> Iterator[tuple[str, bytes]]:
    """Of every process of this machine that we may look at; its environment is its own matter."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            yield f"arguments of {process.pid}", "\0".join(process.cmdline()).encode()


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            yield str(path), gzip.decompress(data) if path.suffix == ".gz" else data


@dataclass
class Played:
    """A run that is being played, and what was found on the way."""

    process: asyncio.subprocess.Process
    live: str
    metrics: str
    found: list[str] = field(default_factory=list)

    async def look(self) -> None:
        """At all that can be seen of it while it runs."""
        for place, data in command_lines():
            self.found += leaks(place, data)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(headers=bearer) as http:
            pages = (
                "/",
                "/login",
                "/camera/0",
                "/camera/0/picture",
                "/report",
                "/nothing",
                "/assets/x",
            )
            for url in (*(self.live + page for page in pages), self.metrics):
                async with http.get(url, allow_redirects=False) as answer:
                    head = repr(dict(answer.headers)).encode()
                    self.found += leaks(f"answer of {url}", head + await answer.read())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0), http.get(self.live + "/events") as answer:
                    self.found += leaks("events", await answer.content.read(100_000))


@asynccontextmanager
async def played(folder: Path, port: int, *more: str) -> AsyncIterator[Played]:
    live, metrics = free_port(), free_port()
    command = [
        sys.executable, "-m", "earlyfire_stream", "run", "tiny.yaml", "--out", "out",
        "--broker", f"mqtt://fleet@127.0.0.1:{port}", "--live", f"127.0.0.1:{live}",
        "--metrics", str(metrics), "--log-level", "debug", *more,
    ]  # fmt: skip
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, stdout=out, stderr=err, env={**os.environ, **ENVIRON}
        )
        try:
            yield Played(process, f"http://127.0.0.1:{live}", f"http://127.0.0.1:{metrics}/metrics")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
def port(mosquitto: str, tmp_path: Path) -> Iterator[int]:
    place = tmp_path / "broker"
    place.mkdir()
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", "passwords", "fleet", PASSWORD],
        cwd=place, check=True, capture_output=True,
    )  # fmt: skip
    settings = f"allow_anonymous false\npassword_file {place}/passwords"
    with open_mosquitto(mosquitto, place, settings) as port:
        yield port


async def play(folder: Path, port: int, server: FakeOpenAI, *more: str) -> None:
    """Play, look while it runs, search what it left."""
    pictures(folder / "pictures", 600)  # a minute, of which it sees as much as the look takes
    scenario(folder, camera("north", fires=[{"id": "oak", "onset": "1s"}]), camera("south"))
    async with played(folder, port, *more) as run:
        await until(lambda: len(server.requests) >= 8 or run.process.returncode is not None)
        await run.look()
        run.process.send_signal(signal.SIGINT)
        code = await asyncio.wait_for(run.process.wait(), PATIENCE_S)
        assert code == 130, (folder / "stderr").read_text()[-2000:]
    report = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "earlyfire_stream", "report", str(run_folder(folder / "out")),
        cwd=folder, env={**os.environ, **ENVIRON},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await report.communicate()
    assert report.returncode == 0, said
    found = run.found + leaks("words of report", said)
    names = set()
    for place, data in files(folder):
        names.add(Path(place).name)
        found += leaks(place, data)
    assert names >= {"run.json", "records.jsonl", "cameras.jsonl", "score.json", "report.html",
                     "metrics.prom", "stdout", "stderr"}  # fmt: skip
    assert found == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    forms = written(TOKEN)
    assert all(leaks("here", b"before " + form + b" behind") for form in forms)
    (tmp_path / "part.jsonl.gz").write_bytes(gzip.compress(forms[0]))
    assert [leak for place, data in files(tmp_path) for leak in leaks(place, data)] != []
    child = [sys.executable, "-c", "input()", WORKER_KEY]
    with subprocess.Popen(child, stdin=subprocess.PIPE) as process:
        found = [leak for place, data in command_lines() for leak in leaks(place, data)]
        assert found == [f"EARLYFIRE_WORKER_KEY in arguments of {process.pid}"]
        process.communicate(b"\n")


@pytest.mark.parametrize("form", ["console", "json"])
async def test_a_run_with_openai_leaves_no_secret_anywhere(
    mosquitto: str, port: int, tmp_path: Path, form: str
) -> None:
    """Its server repeats the key in an error, which goes into records, log and report."""
    echo = f"Incorrect API key provided: {OPENAI_KEY}"
    async with FakeOpenAI(key=OPENAI_KEY) as server:
        server.script.extend(
            [Answer(), *[Answer(fault=Fault.DIED, message=echo) for _ in range(3)],
             Answer(text=f"my key is {OPENAI_KEY}")]
        )  # fmt: skip
        await play(
            tmp_path / "run", port, server,
            "--engine", "openai", "--url", server.url, "--log-format", form,
        )  # fmt: skip
        assert any(OPENAI_KEY in h.get("Authorization", "") for h in server.headers)


@pytest.mark.parametrize("form", ["console", "json"])
async def test_a_run_with_workers_leaves_no_secret_anywhere(
    mosquitto: str, port: int, tmp_path: Path, form: str
) -> None:
    async with FakeWorker(key=WORKER_KEY) as server:
        await play(
            tmp_path / "run", port, server,
            "--engine", "hf", "--worker", server.root, "--log-format", form,
        )  # fmt: skip
        assert any(WORKER_KEY in h.get("Authorization", "") for h in server.headers)


async def test_a_worker_that_is_started_gets_its_key_in_its_environment_alone() -> None:
    environ: dict[str, str] = {**fake_worker.environ(), **ENVIRON}
    async with Supervisor(fake_worker.command(), environ, PATIENCE_S) as supervisor:
        assert supervisor.pid is not None
        found: list[Any] = [leak for place, data in command_lines() for leak in leaks(place, data)]
        assert found == []


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
async def test_a_private_broker_gets_its_password_in_no_argument(
    mosquitto: str, kind: BrokerKind
) -> None:
    async with embedded_broker(kind) as broker:
        assert broker.address.login is not None
        made = {"password": broker.address.login.password}
        assert [leak for place, data in command_lines() for leak in leaks(place, data, made)] == []
        assert leaks("its address", str(broker.address).encode(), made) == []
