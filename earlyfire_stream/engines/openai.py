"""Any server with `/v1/chat/completions`: vLLM, SGLang, llama-server, LM Studio, Ollama's /v1.

Settings: `model` (else the only one it serves), `url` (else OPENAI_BASE_URL, else loopback port
8000), `timeout`, and the options below. The key comes from OPENAI_API_KEY alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import orjson

from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import schema, settled
from earlyfire_stream.engines.base import Check, Reply, Request, Traits
from earlyfire_stream.engines.chat import (
    START,
    ChatClient,
    ChatOptions,
    Secret,
    ServedModel,
    base_url,
)
from earlyfire_stream.engines.streaming import coord_space, count, grey_picture, read_options
from earlyfire_stream.errors import EngineError, EngineUnavailable, UsageError
from earlyfire_stream.scenario import models
from earlyfire_stream.tokens import MAX_TOKENS, MIN_TOKENS
from earlyfire_stream.verdict import CoordSpace

__all__ = ["OpenAIEngine", "OpenAIOptions"]

log = logging.getLogger(__name__)

LOOPBACK = "http://127.0.0.1:8000/v1"
"""Where vLLM and our own worker listen."""
NAMES_SHOWN = 10
CHECK_S = 60.0
"""Wall seconds that `doctor` waits for one picture; a model may have to be loaded first."""


@dataclass(frozen=True, slots=True)
class OpenAIOptions(ChatOptions):
    """What `options:` of a scenario may set."""

    coord_space: str | None = None
    """How the model writes boxes, where its name does not tell."""
    min_visual_tokens: int | None = None
    max_visual_tokens: int | None = None
    """What the server leaves as it is, where it does not tell: Ollama from 0.30 enlarges pictures
    below 1024 visual tokens, llama-server shrinks those above 4096."""

    def __post_init__(self) -> None:
        # with slots the class is made anew, and a bare super() would miss it
        ChatOptions.__post_init__(self)
        if self.coord_space is not None and self.coord_space not in list(CoordSpace):
            raise ValueError(f"coord_space must be one of {', '.join(CoordSpace)}")
        least, most = self.min_visual_tokens, self.max_visual_tokens
        if not 1 <= (least or 1) <= (most if most is not None else MAX_TOKENS) <= MAX_TOKENS:
            raise ValueError(f"visual tokens must lie between 1 and {MAX_TOKENS}, min before max")
        if least == 0:
            raise ValueError("min_visual_tokens must be at least 1")


class OpenAIEngine:
    """Entering finds the model and warms it up; EngineUnavailable or EngineRejected, with the
    remedy, if that fails. Read `traits` after entering: the served model decides how boxes are
    written.
    """

    def __init__(self, settings: models.Engine, clock: Clock, seed: int = 0) -> None:
        if settings.profile is not None:
            raise UsageError("engine 'openai' has no profiles; they belong to 'simulated'")
        self.options = read_options(OpenAIOptions, "openai", settings.options)
        if settings.url is not None:
            self._url = base_url(settings.url, "url of engine 'openai'")
        else:
            self._url = base_url(
                os.environ.get("OPENAI_BASE_URL", "").strip() or LOOPBACK, "OPENAI_BASE_URL"
            )
        self._key = Secret.from_environment("OPENAI_API_KEY")
        self._clock = clock
        self._seed = seed
        self._settings = settings
        self._client = self._new_client()
        self.traits = self._learned(ServedModel(settings.model or "", {}))

    @property
    def address(self) -> str:
        """For messages: without a password."""
        return self._client.address

    def _new_client(self) -> ChatClient:
        return ChatClient(
            self._url,
            self._clock,
            self.options,
            model=self._settings.model or "",
            seed=self._seed,
            key=self._key,
        )

    def _learned(self, model: ServedModel) -> Traits:
        """Its traits as name, options and what the server says of the model decide them."""
        given = self.options.coord_space or _space_told(model.about.get("coord_space"))
        root = model.about.get("root")  # vLLM: what is served under another name
        space = given or coord_space(model.name, root if isinstance(root, str) else "")
        least = self.options.min_visual_tokens or count(model.about.get("min_visual_tokens"))
        most = self.options.max_visual_tokens or count(model.about.get("max_visual_tokens"))
        most = min(most or MAX_TOKENS, MAX_TOKENS)
        return Traits(
            name="openai",
            model=model.name,
            coord_space=CoordSpace(space) if space else CoordSpace.UNIT,
            min_tokens=min(least or MIN_TOKENS, most),
            max_tokens=most,
            max_concurrency=256,
            default_concurrency=8,
            seeks_knee=True,
        )

    # --- opening and closing ---

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        try:
            served = await self._client.models()
            model = self._chosen(served)
            self._client.model = model.name
            self.traits = self._learned(model)
            constrained = self._settings.decode == "constrained"
            form = schema(self.traits.coord_space) if constrained else None
            took_s = await self._client.warm_up(form)
            self.traits = replace(self.traits, cold_start_s=took_s)
        except BaseException:
            await self._client.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    def _chosen(self, served: list[ServedModel] | None) -> ServedModel:
        """The model that is meant; UsageError if that cannot be told."""
        wanted = self._settings.model
        if wanted is None:
            if served is None:
                raise UsageError(f"{self.address} lists no models: name one with --model")
            if len(served) != 1:
                raise UsageError(
                    f"{self.address} serves {_listed(served)}: choose one with --model"
                )
            return served[0]
        for model in served or ():
            if model.name == wanted:
                return model
        if served:
            # no error yet: llama-server answers to any name, Ollama to a name without its tag
            log.warning("%s lists %s, not %s", self.address, _listed(served), wanted)
        return ServedModel(wanted, {})

    # --- one look ---

    async def infer(self, request: Request) -> Reply:
        return await self._client.infer(request, self._settings.timeout)

    async def gauges(self) -> Mapping[str, float]:
        return await self._client.gauges()

    # --- doctor ---

    async def check(self) -> list[Check]:
        async with self._new_client() as client:
            try:
                served = await client.models()
            except EngineError as error:
                remedy = f"{START}; or set OPENAI_BASE_URL to where it runs"
                found = str(error)
                if isinstance(error, EngineUnavailable):
                    found = found.partition("; ")[0]  # the remedy stands beside it
                return [Check("OpenAI-compatible server", False, found, remedy)]
            lists = "no list of models" if served is None else f"serves {_listed(served)}"
            checks = [Check("OpenAI-compatible server", True, f"{lists} at {client.address}")]
            try:
                model = self._chosen(served)
            except UsageError as error:
                return [*checks, Check("model", False, str(error), "name one with --model")]
            listed = served is None or any(m.name == model.name for m in served)
            client.model = model.name
            checks.append(
                Check(
                    f"model {model.name}",
                    listed,
                    "present" if listed and served else "nothing says which" if listed else lists,
                    "" if listed else f"choose one of them with --model, or {START}",
                )
            )
            return [*checks, *await self._try_out(client, self._learned(model))]

    async def _try_out(self, client: ChatClient, traits: Traits) -> list[Check]:
        """What it does with a picture, a schema and the wish for probabilities."""
        form = schema(traits.coord_space)
        request = Request(
            camera="doctor",
            seq=0,
            captured_at=0.0,
            image=grey_picture(),
            jpeg=b"",
            visual_tokens=100,
            system="",
            user="Describe this picture in one sentence of plain text.",
            schema=form,
            deadline_ns=self._clock.wall_ns() + round(CHECK_S * 1e9),
        )
        try:
            reply = await client.infer(request, CHECK_S)
        except EngineError as error:
            remedy = f"serve a model that takes pictures: {START}"
            return [Check("vision", False, str(error), remedy)]
        # asked for prose: only a server that keeps the schema answers with its keys
        kept = settled(reply.text) is not None and _keys(reply.text) == list(_properties(form))
        took_s = (reply.answered_ns - request.deadline_ns) / 1e9 + CHECK_S
        return [
            Check("vision", True, f"answers a picture in {took_s:.3g} s"),
            Check(
                "structured output",
                kept,
                "keeps the JSON schema" if kept else f"does not keep it: {reply.text[:60]!r}",
                ""
                if kept
                else "serve it with guided decoding (vLLM, llama-server and Ollama have it), "
                "or write decode: free and have its BAD_JSON counted",
            ),
            Check(
                "probabilities",
                reply.confidence is not None,
                "gives logprobs" if reply.confidence is not None else "gives no logprobs",
                ""
                if reply.confidence is not None
                else "alarms then go by yes and no alone; vLLM and llama-server give them",
            ),
        ]


def _space_told(value: object) -> str | None:
    return value if isinstance(value, str) and value in list(CoordSpace) else None


def _listed(served: list[ServedModel]) -> str:
    names = ", ".join(model.name for model in served[:NAMES_SHOWN])
    more = len(served) - NAMES_SHOWN
    return (names or "no model") + (f" and {more} more" if more > 0 else "")


def _properties(form: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = form["properties"]
    return found


def _keys(text: str) -> list[str]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    return list(found) if isinstance(found, dict) else []
