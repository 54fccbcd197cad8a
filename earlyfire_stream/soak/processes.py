"""What the processes of a run use: memory, open files, threads, time of the processor, GPU memory.

The harness is this process. Its children are told apart by what they were started as, at each look
anew, so that a broker or worker that was started again is found again. An engine whose server
listens on this machine is found by its port, where this user may look; its children are its own (a
server that starts a process for each model is measured whole).
"""

from __future__ import annotations

__all__ = ["GPU", "Looker", "Usage", "engine_port", "memory_bytes"]

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from yarl import URL

from earlyfire_stream.scenario import models

GPU = "gpu"
"""Stands for all of the machine's GPUs together, where no process can be told from another."""
SMI_S = 5.0
"""Wall seconds that nvidia-smi may take."""
_DEFAULT_PORTS = {"ollama": 11434, "openai": 8000}
_LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}
_CGROUP = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Usage:
    """One process with its own children, at one moment. None where it could not be read."""

    pid: int
    rss_bytes: int
    files: int | None
    threads: int
    cpu_s: float
    """Since it began, all its threads."""
    gpu_bytes: int | None = None


class Looker:
    """Looks at the processes of this run. Calls take some milliseconds: keep them off the loop."""

    def __init__(self, port: int | None) -> None:
        self._port = port
        self._server: psutil.Process | None = None
        self._smi = shutil.which("nvidia-smi")

    def look(self, gpu: bool = False) -> dict[str, Usage]:
        """By role: harness, pictures, broker, worker, engine; and GPU, asked for with `gpu`."""
        here = psutil.Process()
        told = _gpu_bytes(self._smi) if gpu and self._smi is not None else {}
        seen: dict[str, Usage] = {}
        if (mine := _usage([here], told)) is not None:
            seen["harness"] = mine
        for child in here.children():
            role = _role(child)
            if role is not None and (usage := _usage(_with_children(child), told)) is not None:
                seen[role] = usage
        server = self._found_server()
        if server is not None and (usage := _usage(_with_children(server), told)) is not None:
            seen["engine"] = usage
        if None in told and all(usage.gpu_bytes is None for usage in seen.values()):
            seen[GPU] = Usage(0, 0, None, 0, 0.0, told[None])
        return seen

    def _found_server(self) -> psutil.Process | None:
        if self._port is None:
            return None
        if self._server is None or not self._server.is_running():
            self._server = _listening(self._port)
        return self._server


def engine_port(engine: models.Engine) -> int | None:
    """The port of this machine on which the engine's server listens; None where it has none here.

    Taken from the settings, then from OLLAMA_HOST, then from what the engine listens on by custom.
    """
    if engine.name not in ("ollama", "openai", "hf"):
        return None
    addresses = list(engine.workers) if engine.name == "hf" else [engine.url or ""]
    if engine.name == "ollama" and not addresses[0]:
        addresses = [os.environ.get("OLLAMA_HOST", "")]
    for address in addresses:
        try:
            url = URL(address if "://" in address else f"http://{address or 'localhost'}")
        except ValueError:
            continue
        if url.host in _LOCAL:
            told = url.explicit_port or _DEFAULT_PORTS.get(engine.name)
            return told if address else _DEFAULT_PORTS.get(engine.name)
    return None


def memory_bytes() -> int:
    """What this process may fill: the least of its control group's limit and the machine's memory.

    A control group is what a container is limited by.
    """
    total = psutil.virtual_memory().total
    for path in _CGROUP:
        try:
            return min(total, int(path.read_text()))
        except (OSError, ValueError):
            continue  # `max`: no limit; or no such file
    return total


def _role(child: psutil.Process) -> str | None:
    """What a child of ours is; None for what is none of the run's parts."""
    try:
        words = child.cmdline()
    except psutil.Error:
        return None
    line = " ".join(words)
    if "broker_child.py" in line or re.search(r"mosquitto$", words[0] if words else ""):
        return "broker"
    if "earlyfire_stream.worker" in line:
        return "worker"
    return "pictures" if "multiprocessing.spawn" in line else None


def _with_children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def _usage(processes: Iterable[psutil.Process], gpu: Mapping[int | None, int]) -> Usage | None:
    """Of them together, under the first one's pid; None if that one is gone or may not be read."""
    pid: int | None = None
    rss_bytes = threads = 0
    files: int | None = 0
    cpu_s = 0.0
    on_gpu: int | None = None
    for process in processes:
        try:
            with process.oneshot():
                rss_bytes += process.memory_info().rss
                threads += process.num_threads()
                times = process.cpu_times()
                cpu_s += times.user + times.system
        except psutil.Error:
            if pid is None:
                return None
            continue
        pid = process.pid if pid is None else pid
        try:
            files = None if files is None else files + process.num_fds()
        except (psutil.Error, AttributeError):  # another user's; not on Windows
            files = None
        if process.pid in gpu:
            on_gpu = (on_gpu or 0) + gpu[process.pid]
    return None if pid is None else Usage(pid, rss_bytes, files, threads, cpu_s, on_gpu)


def _listening(port: int) -> psutil.Process | None:
    """Whoever listens there; None where nobody does or we may not know."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            here = connection.laddr
            if connection.status == psutil.CONN_LISTEN and here and here[1] == port:
                return psutil.Process(connection.pid) if connection.pid else None
    except (psutil.Error, OSError):
        pass
    return None


def _gpu_bytes(smi: str) -> dict[int | None, int]:
    """By process, and for None on all GPUs together; empty where the driver does not tell."""
    told: dict[int | None, int] = {}
    for line in _asked(smi, "--query-compute-apps=pid,used_memory"):
        pid, _, used = line.partition(",")
        if pid.strip().isdigit() and used.strip().isdigit():
            told[int(pid)] = told.get(int(pid), 0) + int(used) * 2**20
    totals = [line.strip() for line in _asked(smi, "--query-gpu=memory.used")]
    if totals and all(total.isdigit() for total in totals):
        told[None] = sum(map(int, totals)) * 2**20
    return told


def _asked(smi: str, question: str) -> list[str]:
    try:
        return subprocess.run(
            [smi, question, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SMI_S,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
