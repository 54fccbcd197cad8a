"""What a hostile engine server may send: nothing of it is unpacked, nothing keeps the loop busy."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from functools import cache

import pytest
from aiohttp import web

from earlyfire_stream.engines.streaming import MOST_TOKENS, probability_of_true
from earlyfire_stream.errors import EngineBroken
from tests import test_ollama, test_openai
from tests.fakes.ollama import FakeOllama
from tests.fakes.openai import FakeOpenAI

BOMB_BYTES = 200_000_000


@cache
def bomb() -> bytes:
    """200 MB in 200 kB, packed once: that takes a second, which is not the server's."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1_000_000)
    return b"".join(packer.compress(zeros) for _ in range(200)) + packer.flush()


def packed(request: web.Request, asked: list[str]) -> web.Response:
    asked.append(request.headers["Accept-Encoding"])
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    return web.Response(body=bomb(), headers=headers)


@dataclass
class PackingOpenAI(FakeOpenAI):
    asked: list[str] = field(default_factory=list)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return packed(request, self.asked)


@dataclass
class PackingOllama(FakeOllama):
    asked: list[str] = field(default_factory=list)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return packed(request, self.asked)


async def test_a_packed_answer_is_refused_without_unpacking_it_openai() -> None:
    bomb()
    async with PackingOpenAI() as server:
        with pytest.raises(EngineBroken, match=r"packed \(gzip\).*turn compression off"):
            async with test_openai.opened(server) as (engine, clock):
                await engine.infer(test_openai.request(clock))
    assert set(server.asked) == {"identity"}


async def test_a_packed_answer_is_refused_without_unpacking_it_ollama() -> None:
    bomb()
    async with PackingOllama() as server:
        with pytest.raises(EngineBroken, match=r"packed \(gzip\).*turn compression off"):
            async with test_ollama.opened(server) as (engine, clock):
                await engine.infer(test_ollama.request(clock))
    assert set(server.asked) == {"identity"}


def test_of_an_event_with_too_many_deciding_words_the_rest_is_not_looked_at() -> None:
    """Each costs a reading of all before it: thirty thousand took seconds."""
    word = {"token": "true", "logprob": -0.5, "top_logprobs": [{"token": "true", "logprob": -0.5}]}
    other = {"token": "false", "logprob": -1.0}
    assert probability_of_true([word] * MOST_TOKENS + [other] * 30_000) == 1.0
