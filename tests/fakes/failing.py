"""An Ollama as a process of its own that fails slowly: `python -m tests.fakes.failing KIND`.

`leaks` keeps a megabyte of every request, `slows` takes five more milliseconds for each than for
the one before, `clean` does neither. Prints its address, answers until its standard input closes.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from tests.fakes.ollama import FakeOllama

ANSWER_S = 0.05
"""Of every answer: next to it what a busy machine adds, now more and now less, is no trend."""
LEAK_BYTES = 1_000_000
SLOWER_S = 0.02
"""Each answer than the one before: a second after fifty."""


class FailingOllama(FakeOllama):
    kind = "clean"
    answered = 0
    kept: list[bytearray]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.clear()  # a clean server keeps nothing
        self.answered += 1
        if self.kind == "leaks":
            self.kept.append(bytearray(b"x") * LEAK_BYTES)  # written to, or it would take no memory
        slower_s = self.answered * SLOWER_S if self.kind == "slows" else 0.0
        await asyncio.sleep(ANSWER_S + slower_s)
        return await super()._chat(request)


async def main(kind: str) -> None:
    server = FailingOllama()
    server.kind, server.kept = kind, []
    async with server:
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
