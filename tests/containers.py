"""What a container of ours does, done on this machine: its image's entry point with its command."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.deployed import DEPLOY
from tests.playing import PATIENCE_S, wait_for

HARNESS = DEPLOY / "docker" / "Dockerfile"
WORKER = DEPLOY / "docker" / "worker.Dockerfile"
ENTRYPOINT = DEPLOY / "docker" / "entrypoint.sh"
HEALTHY = DEPLOY / "docker" / "healthy.py"


def instructions(image: Path) -> list[tuple[str, str]]:
    lines = [line for line in image.read_text().splitlines() if not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [
        (w[0], w[1].strip()) for line in whole.splitlines() if len(w := line.split(None, 1)) > 1
    ]


def command_of(image: Path) -> list[str]:
    found = dict(instructions(image))
    return [*json.loads(found["ENTRYPOINT"]), *json.loads(found["CMD"])]


def words(command: Any) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else list(command)


def make_credentials(folder: Path) -> Path:
    made = folder / "credentials"
    subprocess.run([sys.executable, DEPLOY / "credentials.py", made], check=True)
    return made


def broker_settings(text: str, credentials: Path) -> tuple[str, str]:
    """A mosquitto.conf as `open_mosquitto` takes it, and the port at which it listens."""
    listener = re.search(r"^listener (\d+)$", text, re.M)
    assert listener is not None
    text = text.replace(listener[0] + "\n", "").replace("/run/credentials", str(credentials))
    return re.sub(r"^(persistence|log_dest) .*$", "", text, flags=re.M), listener[1]


@contextmanager
def container(
    image: Path, command: list[str], folder: Path, told: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """The image's entry point runs `earlyfire` with `command`, in a folder and an environment of
    its own."""
    assert command_of(image)[:2] == ["/usr/local/bin/entrypoint", "earlyfire"]
    place = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    folder.mkdir()
    with (folder / "err").open("wb") as err, (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [ENTRYPOINT, "earlyfire", *command],
            cwd=folder,
            env={**place, **told},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def healthy(url: str) -> bool:
    """What the images' HEALTHCHECK runs."""
    told = {"PATH": os.environ["PATH"], "EARLYFIRE_HEALTH_URL": url}
    done = subprocess.run([sys.executable, HEALTHY], env=told, capture_output=True, check=False)
    return done.returncode == 0


def metrics_address(folder: Path) -> str:
    """Where the command that runs in `folder` serves its metrics, once it says so."""
    err = folder / "err"
    found = wait_for(lambda: re.search(r"^metrics: (http://\S+)", err.read_text(), re.M))
    return str(found[1])


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return bytes(answer.read())
