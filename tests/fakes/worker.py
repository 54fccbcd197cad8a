"""A worker that behaves as ours does, model apart: FakeOpenAI with /ready, and as a process.

    async with FakeWorker(max_batch=2) as worker: ... worker.url

`command("mode")` starts it as a child process with the worker's manners: a line of JSON when it
listens, words on stderr, an end when stdin closes or SIGTERM comes. Modes:

    well     as it should be
    dies     says why on stderr and ends with code 3 before it listens
    loads    listens, and is never ready
    deaf     ends neither for SIGTERM nor when its stdin closes
    parent   has a child of its own, which sleeps for an hour
    poison   ends itself by signal 9 at the first look of a camera called `poison`
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.fakes.openai import FakeOpenAI

MODEL = "tiny-qwen2.5-vl"


def card(max_batch: int = 8, **changes: Any) -> dict[str, Any]:
    """What our worker says of its model."""
    return {
        "family": "qwen2_5_vl", "coord_space": "resized_abs", "min_visual_tokens": 4,
        "max_visual_tokens": 16384, "max_batch": max_batch, "clips": True, "dtype": "float32",
        "device": "cpu", "attention": "sdpa", "four_bit": False, **changes,
    }  # fmt: skip


@dataclass
class FakeWorker(FakeOpenAI):
    models: tuple[str, ...] | None = (MODEL,)
    about: Mapping[str, Any] = field(default_factory=card)
    clips: bool = True
    metrics: str | None = "# TYPE batches counter\nbatches_total 3.0\n"
    ready: bool = True
    ready_asked: int = 0
    port: int = 0
    """0 takes a free one."""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        self.root = f"http://127.0.0.1:{self.port}"
        return self

    async def _ready(self, request: web.Request) -> web.Response:
        self.ready_asked += 1
        return web.json_response({}, status=200 if self.ready else 503)


def command(mode: str = "well") -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.fakes.worker", mode)


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


class _Poisoned(FakeWorker):
    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if (await request.json()).get("user") == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        return await super()._chat(request)


async def _main(mode: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    kind = _Poisoned if mode == "poison" else FakeWorker
    key = os.environ.get("EARLYFIRE_WORKER_KEY")
    loop.add_signal_handler(signal.SIGTERM, stop.set if mode != "deaf" else lambda: None)
    if mode == "parent":
        await asyncio.create_subprocess_exec("sleep", "3600")
    async with kind(ready=mode != "loads", key=key) as worker:
        print("a library says hello", flush=True)
        print(json.dumps({"listening": worker.root, "model": MODEL}), flush=True)

        def guard() -> None:
            while os.read(0, 4096):
                pass
            loop.call_soon_threadsafe(stop.set)

        if mode != "deaf":
            threading.Thread(target=guard, daemon=True).start()
        print("loading 100%\rloaded the model", file=sys.stderr, flush=True)
        await stop.wait()


if __name__ == "__main__":
    if sys.argv[1] == "dies":
        print("loading\nthere is no such model", file=sys.stderr)
        sys.exit(3)
    asyncio.run(_main(sys.argv[1]))
