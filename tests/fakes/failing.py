"""An Ollama as a process of its own that fails slowly: `python -m tests.fakes.failing KIND`.

`leaks` keeps a megabyte of every request, `slows` takes five more milliseconds for each than for
the one before, `clean` does neither. Prints its address, answers until its standard input closes.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from tests.fakes.ollama import FakeOllama

LEAK_BYTES = 1_000_000
SLOWER_S = 0.005


class FailingOllama(FakeOllama):
    kind = "clean"
    answered = 0
    kept: list[bytearray]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.clear()  # a clean server keeps nothing
        self.answered += 1
        if self.kind == "leaks":
            self.kept.append(bytearray(b"x") * LEAK_BYTES)  # written to, or it would take no memory
        if self.kind == "slows":
            await asyncio.sleep(self.answered * SLOWER_S)
        return await super()._chat(request)


async def main(kind: str) -> None:
    server = FailingOllama()
    server.kind, server.kept = kind, []
    async with server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
