"""Qwen-VL through Hugging Face Transformers, in worker processes of our own.

Settings: `workers` (addresses of `earlyfire worker` services, so that machines can be added), else
one worker is started here for `model`, and restarted when it ends by itself. Torch is imported in
the worker alone, never in this process.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import math
import os
import re
import secrets
import sys
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import schema
from earlyfire_stream.engines.base import Check, Reply, Request, Traits
from earlyfire_stream.engines.chat import ChatClient, ChatOptions, Secret, base_url
from earlyfire_stream.engines.machine import Device, find_device
from earlyfire_stream.engines.pool import Card, Pool, State
from earlyfire_stream.engines.streaming import coord_space, read_options
from earlyfire_stream.engines.supervisor import Supervisor
from earlyfire_stream.errors import (
    EngineBroken,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    UsageError,
)
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import CoordSpace
from earlyfire_stream.worker.loading import INSTALL, NEEDS_GB, memory_advice

__all__ = ["HfEngine", "HfOptions", "check_memory", "check_model"]

log = logging.getLogger(__name__)

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
KEY_VARIABLE = "EARLYFIRE_WORKER_KEY"
PACKAGES = ("torch", "transformers", "accelerate", "llguidance")
MOST_CONCURRENT = 256
LOST_S = 1.0
"""Wall seconds in which a broken connection may turn out to be the worker's end."""


@dataclass(frozen=True, slots=True)
class HfOptions:
    """What `options:` of a scenario may set. Those of the model are for a worker started here."""

    dtype: str = "auto"
    """auto, bfloat16 or float32."""
    device: str = "auto"
    """auto, cuda, cuda:1, cpu."""
    attention: str = "auto"
    """auto, sdpa, eager or flash_attention_2."""
    four_bit: bool = False
    max_batch: int = 8
    """Most requests that are answered together."""
    wait_ms: float = 20.0
    """How long an idle model waits to fill a batch."""
    max_visual_tokens: int = 16384
    load_s: float = 1800.0
    """Longest wait for a worker to be ready, on entering; a model may have to be downloaded."""
    silence_s: float = 30.0
    """Longest pause between two tokens, once the first one came."""
    max_tokens: int = 96
    """A reply with a box has about 40 tokens."""
    logprobs: bool = True
    """Ask for the probability of true against false."""
    jpeg_quality: int = 90

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError("max_batch must be at least 1")
        if not (math.isfinite(self.wait_ms) and self.wait_ms >= 0):
            raise ValueError("wait_ms must be at least 0")
        if not 4 <= self.max_visual_tokens <= 16384:
            raise ValueError("max_visual_tokens must lie between 4 and 16384")
        self.chat()

    def chat(self) -> ChatOptions:
        return ChatOptions(
            max_tokens=self.max_tokens,
            logprobs=self.logprobs,
            jpeg_quality=self.jpeg_quality,
            silence_s=self.silence_s,
            load_s=self.load_s,
            retries=0,  # the pool knows better whom to ask next
        )


THE_WORKER_S = ("dtype", "device", "attention", "four_bit", "max_batch", "wait_ms")
"""Options that a running worker was given when it was started."""


class HfEngine:
    """Entering starts the worker, or finds those that run; UsageError where packages are missing or
    workers serve different models, EngineUnavailable with the remedy where nobody gets ready. Read
    `traits` after entering: the served model decides them.
    """

    def __init__(self, settings: models.Engine, clock: Clock, seed: int = 0) -> None:
        if settings.profile is not None:
            raise UsageError("engine 'hf' has no profiles; they belong to 'simulated'")
        if settings.url is not None:
            raise UsageError("engine 'hf' has no url: give the workers' addresses with --worker")
        self.options = read_options(HfOptions, "hf", settings.options)
        self._urls = [base_url(given, "worker of engine 'hf'") for given in settings.workers]
        useless = [name for name in THE_WORKER_S if name in settings.options]
        if self._urls and useless:
            raise UsageError(
                f"option {useless[0]} of engine 'hf' is for a worker that is started here; give it "
                "to `earlyfire worker` where these run"
            )
        if len(set(self._urls)) < len(self._urls):
            raise UsageError("engine 'hf': a worker stands twice among its workers")
        self._settings = settings
        self._clock = clock
        self._seed = seed
        self._model = settings.model or DEFAULT_MODEL
        self._key = (
            Secret.from_environment(KEY_VARIABLE)
            if self._urls
            else Secret(KEY_VARIABLE, secrets.token_urlsafe(32))
        )
        self._stack = AsyncExitStack()
        self.pool = Pool(clock, self._client)
        self.supervisor: Supervisor | None = None
        self._followed: URL | None = None
        """Where the pool believes the local worker to be."""
        self.traits = Traits(
            name="hf",
            model=self._model,
            coord_space=coord_space(self._model) or CoordSpace.UNIT,
            max_tokens=self.options.max_visual_tokens,
            default_concurrency=self.options.max_batch,
            seeks_knee=True,
            clips=True,
        )

    def _client(self, url: URL) -> ChatClient:
        remedy = (
            "start one there: earlyfire worker --model " + self._model
            if self._urls
            else "it was started by this process"
        )
        return ChatClient(
            url,
            self._clock,
            self.options.chat(),
            seed=self._seed,
            key=self._key,
            key_variable=KEY_VARIABLE,
            clips=True,
            names_camera=True,
            start=remedy,
        )

    # --- opening and closing ---

    async def __aenter__(self) -> Self:
        if not self._urls and (missing := missing_packages()):
            raise UsageError(f"engine 'hf' needs {', '.join(missing)}: {INSTALL}")
        began_ns = self._clock.wall_ns()
        try:
            urls = self._urls or [await self._start_worker()]
            await self._stack.enter_async_context(self.pool)
            members = [await self.pool.add(url) for url in urls]
            await _all(self.pool.join(member, self.options.load_s) for member in members)
            there = [member for member in members if member.state is not State.DOWN]
            if not there:
                raise EngineUnavailable(self.pool.trouble)
            self.traits = self._learned([m.card for m in there if m.card is not None])
            self.pool.misfit = self._misfit
            form = schema(self.traits.coord_space) if self._is_constrained else None
            await _all(member.client.warm_up(form) for member in there)
        except BaseException:
            await self._stack.aclose()
            raise
        took_s = (self._clock.wall_ns() - began_ns) / 1e9
        self.traits = replace(self.traits, cold_start_s=took_s)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def _is_constrained(self) -> bool:
        return self._settings.decode == "constrained"

    async def _start_worker(self) -> URL:
        """Start one here. Its address; the supervisor ends it when the stack is closed."""
        assert self._key is not None
        log.info("HF_HOME is %s", hub_cache().parent)
        supervisor = Supervisor(
            worker_command(self._model, self.options),
            {**os.environ, KEY_VARIABLE: self._key.value},
            self.options.load_s,
        )
        self.supervisor = await self._stack.enter_async_context(supervisor)
        assert supervisor.address is not None
        self._followed = supervisor.address
        return base_url(str(supervisor.address), "the worker")

    def _learned(self, cards: Sequence[Card]) -> Traits:
        """What all of them can do. UsageError where they cannot stand for each other."""
        names = sorted({card.model for card in cards})
        if len(names) > 1:
            raise UsageError(f"the workers serve different models: {', '.join(names)}")
        wanted = self._settings.model
        if wanted is not None and self._urls and names[0] not in (wanted, Path(wanted).name):
            raise UsageError(f"the workers serve {names[0]}, not {wanted}")
        if len({card.coord_space for card in cards}) > 1:
            raise UsageError(f"the workers disagree on how {names[0]} writes boxes")
        if len(kinds := sorted({card.precision for card in cards})) > 1:
            log.warning("workers of different precision (%s) may differ a little", "; ".join(kinds))
        least = max(card.min_tokens for card in cards)
        most = min(self.options.max_visual_tokens, *(card.max_tokens for card in cards))
        if least > most:
            raise UsageError(
                f"the workers share no range of visual tokens: one takes {least} and more, "
                f"another {most} at most"
            )
        batches = sum(card.max_batch for card in cards)
        return Traits(
            name="hf",
            model=names[0],
            coord_space=cards[0].coord_space,
            min_tokens=least,
            max_tokens=most,
            max_concurrency=min(MOST_CONCURRENT, 4 * batches),
            default_concurrency=min(MOST_CONCURRENT, batches),
            seeks_knee=True,
            clips=all(card.clips for card in cards),
        )

    def _misfit(self, card: Card) -> str:
        """Why a worker that comes back, or comes late, cannot take part; empty if it can."""
        t = self.traits
        if (card.model, card.coord_space) != (t.model, t.coord_space):
            return f"serves {card.model}, not {t.model}"
        if card.min_tokens > t.min_tokens or card.max_tokens < t.max_tokens:
            # it would resize what it is sent, and its boxes would be of another size
            return f"takes {card.min_tokens} to {card.max_tokens} visual tokens, others do more"
        return "takes no clips" if t.clips and not card.clips else ""

    # --- one look ---

    @property
    def worker_pid(self) -> int | None:
        return self.supervisor.pid if self.supervisor is not None else None

    async def infer(self, request: Request) -> Reply:
        await self._follow()
        try:
            return await self.pool.infer(request, self._settings.timeout)
        except (EngineUnavailable, EngineBroken) as why:
            if await self._has_lost(why):
                assert self.supervisor is not None
                raise EngineUnavailable(self.supervisor.trouble) from why
            raise

    async def _follow(self) -> None:
        """A local worker that was started again stands elsewhere."""
        supervisor = self.supervisor
        if supervisor is None:
            return
        if supervisor.address is None:
            raise EngineUnavailable(supervisor.trouble)
        if supervisor.address != self._followed:
            self._followed = supervisor.address
            await self.pool.replace(base_url(str(supervisor.address), "the worker"))

    async def _has_lost(self, why: EngineError) -> bool:
        """Was it the end of the local worker that broke the connection?"""
        if self.supervisor is None or self._followed is None:
            return False
        broke = isinstance(why.__cause__, aiohttp.ClientError)
        return await self.supervisor.lost(self._followed, LOST_S if broke else 0.0)

    async def gauges(self) -> Mapping[str, float]:
        found = dict(await self.pool.scrape())
        if self.supervisor is not None:
            found["earlyfire_worker_restarts_total"] = float(self.supervisor.restarts)
        return found

    # --- doctor ---

    async def check(self) -> list[Check]:
        if self._urls:
            return [await self._check_worker(url) for url in self._urls]
        missing = missing_packages()
        checks = [
            Check(
                "Hugging Face packages",
                not missing,
                f"without {', '.join(missing)}" if missing else _versions(),
                INSTALL,
            )
        ]
        if self.options.four_bit:
            there = importlib.util.find_spec("bitsandbytes") is not None
            checks.append(
                Check("4 bit", there, "bitsandbytes", "" if there else "pip install bitsandbytes")
            )
        device = await asyncio.to_thread(find_device, "torch" not in missing)
        return [
            *checks,
            device.check,
            check_model(self._model),
            check_memory(self._model, self.options.four_bit, device),
        ]

    async def _check_worker(self, url: URL) -> Check:
        async with self._client(url) as client:
            remedy = f"start it there: earlyfire worker --model {self._model}"
            what = f"worker {client.address}"
            try:
                await client.ready()
                served = await client.models()
            except EngineOverloaded as why:
                return Check(what, False, str(why), "wait until its model is loaded")
            except EngineError as why:
                return Check(what, False, str(why), remedy)
            if not served:
                return Check(what, False, "serves no model", remedy)
            about = served[0].about
            card = Card.read(served[0].name, about)
            found = f"{card.model}, {about.get('dtype')!s:.20} on {about.get('device')!s:.20}"
            return Check(what, True, f"{found}, {card.max_batch} at a time")


async def _all(jobs: Iterable[Coroutine[Any, Any, object]]) -> None:
    """All of them beside each other; the first failure ends the others and is raised itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job, name="worker")
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


def worker_command(model: str, options: HfOptions) -> tuple[str, ...]:
    """`-P`: a folder of that name where we happen to stand must not shadow the package."""
    return (
        *(sys.executable, "-P", "-m", "earlyfire_stream.worker"),
        *("--port=0", "--stdin-guard", f"--model={model}"),
        *(f"--dtype={options.dtype}", f"--device={options.device}"),
        *(f"--attention={options.attention}", f"--max-batch={options.max_batch}"),
        *(f"--wait-ms={options.wait_ms}", f"--max-visual-tokens={options.max_visual_tokens}"),
        *(("--four-bit",) if options.four_bit else ()),
    )


# --- what is there -------------------------------------------------------------------------------


def missing_packages() -> list[str]:
    """Of the extra `hf`; nothing is imported."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def _versions() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)


# --- the model's files and memory ----------------------------------------------------------------


def hub_cache() -> Path:
    """Where the hub's files are kept, by the hub's own rules."""
    if given := os.environ.get("HF_HUB_CACHE"):
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(home).expanduser() / "hub"


def cached(model: str) -> tuple[Path | None, str]:
    """(folder, what is there) of a model; no folder if it is not there, or not all of it."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith((".", "/", "~")):
            return None, f"no folder {model}"
        kept = hub_cache() / f"models--{model.replace('/', '--')}"
        try:
            revision = (kept / "refs" / "main").read_text().strip()
        except OSError:
            return None, f"not in {hub_cache()}"
        folder = kept / "snapshots" / revision
    lacking = _lacking(folder)
    return (None, f"{folder} lacks {lacking}") if lacking else (folder, str(folder))


def _lacking(folder: Path) -> str:
    """A file that should be there and is not; a download may have been broken off."""
    if not (folder / "config.json").is_file():
        return "config.json"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "a sound model.safetensors.index.json"
        gone = sorted(str(part) for part in parts if not (folder / str(part)).is_file())
        return f"{len(gone)} of {len(parts)} weight files" if gone else ""
    return "" if (folder / "model.safetensors").is_file() else "model.safetensors"


def check_model(model: str) -> Check:
    folder, found = cached(model)
    remedy = f"hf download {model} (else it is downloaded when the worker starts)"
    if folder is None and Path(model).expanduser().is_absolute():
        remedy = "give a folder with a model, or its name on the Hugging Face hub"
    return Check(f"model {model}", folder is not None, found, remedy)


def check_memory(model: str, four_bit: bool, device: Device) -> Check:
    told = ", ".join(f"{size}B {gb} GB (4 bit {less})" for size, gb, less in NEEDS_GB)
    place = "on the GPU" if device.gpu else "in main memory"
    found = f"{device.free_bytes / 1e9:.1f} GB free {place}; Qwen2.5-VL needs {told}"
    named = re.search(r"(\d+)b\b", model.lower())
    advice = memory_advice(float(named[1]), four_bit, device.free_bytes) if named else None
    return Check("memory for the model", advice is None, found, advice or "")
