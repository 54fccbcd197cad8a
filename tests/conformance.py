"""Where each engine runs for the conformance suite: its server, and what can be done to it.

    async with PLACES["ollama"](ground) as place:
        reply = await place.engine.infer(place.question(3))

An engine with a server is reached through a `Front`: an HTTP server that hands requests on to the
real one (a fake that behaves as Ollama or vLLM does, or our own worker with a small random model)
and can be told to hang, to talk nonsense, to go away and to come back at the same address. So one
set of faults serves every dialect. Engines without a server are made to hang and fail by what they
have instead: a detector, a profile, a recording.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import aiohttp
import cv2
import numpy as np
import numpy.typing as npt
import orjson
import pytest
from aiohttp import web

from earlyfire_stream import frames
from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import prompt, read_reply
from earlyfire_stream.engines import baseline, create
from earlyfire_stream.engines.base import Engine, Reply, Request
from earlyfire_stream.engines.simulated import SimulatedEngine, say
from earlyfire_stream.engines.smoke import Look, SmokeDetector
from earlyfire_stream.errors import (
    EngineError,
    EngineOverloaded,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from earlyfire_stream.records import RECORDS_LOG, RUN_FILE, Answer, FrameRecord
from earlyfire_stream.scenario import models
from earlyfire_stream.scenario.scenes import (
    Overlay,
    Plume,
    PlumeSize,
    Scene,
    Side,
    TimeOfDay,
)
from earlyfire_stream.sources.synthetic import PlumeEvent, SyntheticScene
from earlyfire_stream.tokens import fit
from earlyfire_stream.verdict import Box, CoordSpace, Fate, Reason, Truth, Verdict
from tests.fakes import ollama, openai
from tests.playing import PATIENCE_S, reserved_port

Pixels = npt.NDArray[np.uint8]

MANY = 16
"""Requests at once."""
SIDE_PX = 280
TOKENS = 100
"""Of a picture of that side."""


# --- what is asked, and what is right ------------------------------------------------------------


def picture(n: int) -> Pixels:
    """Flat grey, each `n` another one: 8, 22, 36 … which JPEG keeps."""
    return np.full((SIDE_PX, SIDE_PX, 3), 8 + 14 * (n % MANY), np.uint8)


def number_of(jpeg: bytes) -> int:
    """Which picture it is."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return round((float(image.mean()) - 8) / 14)


def jpeg_of(image: Pixels) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


def wanted(n: int) -> Verdict:
    """Smoke in every other picture, each at a place of its own."""
    x = 14 * (n % MANY) / SIDE_PX
    return Verdict(n % 2 == 0, Box.from_corners(x, 0.25, x + 0.15, 0.5) if n % 2 == 0 else None)


def text_of(verdict: Verdict, space: CoordSpace = CoordSpace.RESIZED_ABS) -> str:
    """As a model writes it, about a picture of SIDE_PX."""
    unit = space is CoordSpace.UNIT
    four: list[float] | None = None
    if (box := verdict.box) is not None:
        four = [round(v * SIDE_PX) for v in box.corners]
        four = [box.xc, box.yc, box.w, box.h] if unit else four
    key = "bbox" if unit else "bbox_2d"
    return orjson.dumps({"has_smoke": verdict.has_smoke, key: four}).decode()


def verdict_of(request: Request, reply: Reply, engine: Engine) -> Verdict | None:
    """What the consumer makes of it; None for a reply that cannot be read."""
    if reply.verdict is not None:
        return reply.verdict
    assert request.image is not None
    sent = (request.image.shape[1], request.image.shape[0])
    space = prompt("v1", engine.traits.coord_space).space
    parsed = read_reply(reply.text, reply.finish, space, engine.traits.resize_mode, sent, sent)
    return parsed.verdict


def record_of(request: Request, reply: Reply, verdict: Verdict | None) -> FrameRecord:
    """As the consumer writes it."""
    answer = Answer(
        started_ns=reply.decided_ns,
        decided_ns=reply.decided_ns,
        answered_ns=reply.answered_ns,
        sent_size=(SIDE_PX, SIDE_PX),
        visual_tokens=reply.visual_tokens,
        prompt_tokens=reply.prompt_tokens,
        output_tokens=reply.output_tokens,
        finish=reply.finish,
        text=reply.text[:4000],
        verdict=verdict,
        server=reply.server,
    )
    fate, reason = (Fate.ANSWERED, Reason.NONE) if verdict else (Fate.BAD_JSON, Reason.NOT_JSON)
    return FrameRecord(
        request.camera, request.seq, request.captured_at, 0, fate, reason,
        admitted=True, identity=request.identity, answer=answer,
    )  # fmt: skip


# --- renders -------------------------------------------------------------------------------------

ONSET_S = 100.0
CLEAR_AT = (70.0, 80.0, 90.0)
SMOKE_AT = (140.0, 150.0, 160.0)


@dataclass(frozen=True)
class Render:
    """One look at a synthetic camera; `truth` is empty before the fire."""

    at_s: float
    image: Pixels
    jpeg: bytes
    truth: tuple[Truth, ...]


def rendered(width: int, height: int, until_s: float, every_s: float = 10.0) -> list[Render]:
    """A clear day; a large fire in plain sight begins at ONSET_S."""
    day = Scene(
        time_of_day=TimeOfDay.DAY, clouds=0.0, haze=0.1, fog=0.0, wind_mps=2.0,
        wind_from=Side.LEFT, overlay=Overlay.NONE,
    )  # fmt: skip
    fire = PlumeEvent("oak", ONSET_S, None, Plume(size=PlumeSize.LARGE, x=0.5, distance_m=3000))
    scene = SyntheticScene(day, [fire], width, height, seed=5)
    found = []
    for n in range(round(until_s / every_s) + 1):
        frame = scene.render(n * every_s)
        found.append(Render(n * every_s, frame.image, jpeg_of(frame.image), frame.truth))
    return found


# --- between an engine and its server ------------------------------------------------------------

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Front:
    """Hands requests on to a server, until it is told to behave otherwise."""

    def __init__(self, server: str, path: str) -> None:
        """`path` is where answers are asked for; `behave` concerns it alone, or `everywhere`."""
        self._server = server
        self._path = path
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.behave: Behaviour | None = None
        self.everywhere = False
        self._reserved = reserved_port()
        self.port = 0
        """The same again when it comes back."""
        self.heard = 0
        """Requests for an answer."""
        self.asked = asyncio.Event()
        """Set when one came."""
        self.left = asyncio.Event()
        """Set when whoever had asked went away before the end."""
        self.stalled = asyncio.Event()
        """Set when `say` has said all that it will."""
        self.sent_bytes = 0
        """Of what `pour` had to say."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        self.port = self._reserved.__enter__()
        await self.come()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.go()
        self._reserved.__exit__(None, None, None)
        assert self._session is not None
        await self._session.close()

    async def come(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def go(self) -> None:
        """Every connection is closed, and nobody answers any more."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        for_answer = request.path == self._path
        if for_answer:
            self.heard += 1
            self.asked.set()
        try:
            if self.behave is not None and (for_answer or self.everywhere):
                return await self.behave(request)
            return await self._hand_on(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            if for_answer:
                self.left.set()
            raise

    async def _hand_on(self, request: web.Request, body: bytes) -> web.StreamResponse:
        assert self._session is not None
        kept = {k: v for k, v in request.headers.items() if k in ("Content-Type", "Authorization")}
        async with self._session.request(
            request.method, self._server + request.path_qs, data=body, headers=kept
        ) as answer:
            kind = {"Content-Type": answer.headers["Content-Type"]}
            response = web.StreamResponse(status=answer.status, headers=kind)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    # --- how it may behave ---

    def hang(self) -> None:
        async def behave(request: web.Request) -> web.StreamResponse:
            return await asyncio.get_running_loop().create_future()

        self.behave = behave

    def say(
        self,
        body: bytes,
        kind: str,
        *,
        status: int = 200,
        stall: bool = False,
        **headers: str,
    ) -> None:
        """Say that and end, or `stall`: say no more, and do not end."""

        async def behave(request: web.Request) -> web.StreamResponse:
            given = {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}}
            response = web.StreamResponse(status=status, headers=given)
            await response.prepare(request)
            await response.write(body)
            if stall:
                self.stalled.set()
                await asyncio.get_running_loop().create_future()
            return response

        self.behave = behave

    def pour(self, part: Callable[[int], bytes], kind: str, status: int = 200) -> None:
        """Parts without an end, as fast as they are taken."""

        async def behave(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(status=status, headers={"Content-Type": kind})
            await response.prepare(request)
            for n in itertools.count():
                piece = part(n)
                await response.write(piece)
                self.sent_bytes += len(piece)
            raise AssertionError

        self.behave = behave

    def answer_raw(self, wire: bytes) -> None:
        """Those bytes in place of an HTTP response, and the end."""

        async def behave(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.write(wire)  # type: ignore[attr-defined]
            request.transport.close()
            return web.Response()

        self.behave = behave

    def be_itself(self) -> None:
        self.behave = None
        self.everywhere = False


@dataclass(frozen=True)
class Wire:
    """How a server streams an answer."""

    path: str
    kind: str
    before: bytes
    after: bytes
    sse: bool

    def line(self, said: bytes) -> bytes:
        """One thing said, framed as this server frames it."""
        return self.before + said + self.after

    def piece(self, text: bytes) -> bytes:
        """`text` stands between the quotes of a JSON string as it is."""
        if self.sse:
            said = b'{"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}'
        else:
            said = b'{"message":{"role":"assistant","content":"%b"},"done":false}'
        return self.line(said % text)

    def end(self, finish: bytes = b'"stop"', number: bytes = b"1") -> bytes:
        """The end of an answer; every number in it is `number`."""
        if not self.sse:
            return self.line(
                b'{"message":{"content":""},"done":true,"done_reason":%b,"total_duration":%b,'
                b'"load_duration":%b,"prompt_eval_count":%b,"prompt_eval_duration":%b,'
                b'"eval_count":%b,"eval_duration":%b}' % (finish, *[number] * 6)
            )
        last = (
            b'{"choices":[],"usage":{"prompt_tokens":%b,"completion_tokens":%b},"timings":'
            b'{"queue_ms":%b,"prompt_ms":%b,"predicted_ms":%b,"batch":%b}}' % ((number,) * 6)
        )
        chunk = b'{"choices":[{"index":0,"delta":{},"finish_reason":%b}]}' % finish
        return self.line(chunk) + self.line(last) + self.line(b"[DONE]")


NDJSON = Wire("/api/chat", "application/x-ndjson", b"", b"\n", sse=False)
SSE = Wire("/v1/chat/completions", "text/event-stream", b"data: ", b"\n\n", sse=True)


# --- a place -------------------------------------------------------------------------------------


@dataclass
class Ground:
    """What places stand on."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    renders: Callable[[], Sequence[Render]]
    baseline_run: Callable[[], Sequence[FrameRecord]]
    worker: Callable[[], str]
    """Each is made when it is first asked for; the address is that of a real worker."""


@dataclass
class Place:
    """An entered engine, and what it can be made to do."""

    engine: Engine
    clock: Clock
    warms_up: ClassVar[bool] = False
    """It needs the looks before the one that counts."""
    sees: ClassVar[bool] = True
    """Its answers are right; otherwise only their form can be."""
    most_tokens: ClassVar[int] = 1280
    """Of a render."""

    def question(self, n: int, deadline_s: float = PATIENCE_S, **changes: Any) -> Request:
        """The nth request, unlike every other."""
        asked = prompt("v1", self.engine.traits.coord_space)
        image, verdict = picture(n), wanted(n)
        given: dict[str, Any] = {
            "camera": f"camera-{n}", "seq": n, "captured_at": float(n), "image": image,
            "jpeg": jpeg_of(image), "visual_tokens": TOKENS, "system": asked.system,
            "user": asked.user(SIDE_PX, SIDE_PX), "schema": asked.schema,
            "deadline_ns": self.clock.wall_ns() + round(deadline_s * 1e9),
            "identity": f"picture-{n}", "smoke": verdict.has_smoke,
            "truth": (Truth("fire", verdict.box),) if verdict.box is not None else (),
        }  # fmt: skip
        return Request(**given | changes)

    def look(self, render: Render) -> Request:
        """A request about a render, sized as the consumer sizes it."""
        traits = self.engine.traits
        height, width = render.image.shape[:2]
        least, most = max(256, traits.min_tokens), min(self.most_tokens, traits.max_tokens)
        width, height, tokens = fit(width, height, least, most)
        asked = prompt("v1", traits.coord_space)
        return self.question(
            0,
            camera="ridge",
            seq=round(render.at_s),
            captured_at=render.at_s,
            image=np.asarray(cv2.resize(render.image, (width, height)), np.uint8),
            jpeg=render.jpeg,
            visual_tokens=tokens,
            user=asked.user(width, height),
            identity=frames.identity(render.jpeg),
            smoke=bool(render.truth),
            truth=render.truth,
        )

    def expect(self, render: Render) -> None:
        """The next look is at this one: what a scripted server must know beforehand."""

    async def learn(self) -> None:
        """Whatever must have been seen before the answers to questions 0 to MANY - 1 are told."""

    def agrees(self, n: int, request: Request, reply: Reply) -> None:
        """It is the nth answer and nobody else's."""
        verdict, right = verdict_of(request, reply, self.engine), wanted(n)
        assert verdict is not None
        assert verdict.has_smoke == right.has_smoke
        assert (verdict.box is None) == (right.box is None)
        if verdict.box is not None and right.box is not None:
            assert verdict.box.corners == pytest.approx(right.box.corners, abs=1e-3)

    def hanging(self, **changes: Any) -> Request:
        """A request that is not answered until `release`."""
        raise NotImplementedError

    async def reached(self) -> None:
        """The engine has that request."""
        await asyncio.sleep(0)

    def release(self) -> None:
        """Answer as usual again."""

    def failing(self) -> list[tuple[Request, type[EngineError]]]:
        """Requests that fail, each in its own way."""
        return []


Opened = Callable[[Ground], AbstractAsyncContextManager[Place]]


async def entered(settings: Mapping[str, Any], clock: Clock) -> Engine:
    engine = create(models.Engine.model_validate(settings), clock, seed=7)
    return await engine.__aenter__()


# --- engines without a server --------------------------------------------------------------------


class HeldDetector(SmokeDetector):
    """The real one, which waits at a gate."""

    gate: ClassVar[threading.Event]
    entered: ClassVar[threading.Event]

    def look(self, image: npt.NDArray[Any], captured_at: float) -> Look:
        type(self).entered.set()
        assert type(self).gate.wait(PATIENCE_S)
        return super().look(image, captured_at)


@dataclass
class BaselinePlace(Place):
    """Questions are looks in the order of their capture; cameras with even numbers see a fire."""

    detector: type[HeldDetector] = HeldDetector
    warms_up = True
    _looks: list[Render] = field(default_factory=list)
    _at: itertools.count[int] = field(default_factory=itertools.count)

    def question(self, n: int, deadline_s: float = PATIENCE_S, **changes: Any) -> Request:
        return super().question(n, deadline_s, **{"captured_at": float(next(self._at)), **changes})

    async def learn(self) -> None:
        """Nine looks at the quiet scene, then the plume for those with even numbers."""
        # 308 x 224: the smallest that is quick and still a scene
        self._looks = [r for r in rendered(308, 224, 140.0) if r.at_s >= 10]
        for at in range(len(self._looks) - 1):
            await asyncio.gather(
                *[self.engine.infer(self._seen(n, at)) for n in range(MANY)],
            )

    def _seen(self, n: int, at: int) -> Request:
        fire = self._looks[at]
        # a second scene would cost as much again; the quiet one repeats its last ten looks
        image = fire.image if n % 2 == 0 else self._looks[at % 9].image
        return self.question(n, image=image, captured_at=fire.at_s)

    def last(self, n: int) -> Request:
        return self._seen(n, len(self._looks) - 1)

    def agrees(self, n: int, request: Request, reply: Reply) -> None:
        assert reply.verdict is not None
        assert reply.verdict.has_smoke == wanted(n).has_smoke

    def hanging(self, **changes: Any) -> Request:
        self.detector.entered.clear()
        self.detector.gate.clear()
        return self.question(0, **changes)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.detector.entered.wait, PATIENCE_S)

    def release(self) -> None:
        self.detector.gate.set()

    def failing(self) -> list[tuple[Request, type[EngineError]]]:
        late = self.question(1)
        return [
            (self.question(0, image=None, jpeg=b"no picture"), EngineRejected),
            (replace(late, camera="other", image=None, jpeg=b""), EngineRejected),
        ]


@asynccontextmanager
async def baseline_place(ground: Ground) -> AsyncIterator[Place]:
    class Held(HeldDetector):
        gate = threading.Event()
        entered = threading.Event()

    Held.gate.set()
    ground.monkeypatch.setattr(baseline, "SmokeDetector", Held)
    clock = Clock()
    engine = await entered({"name": "baseline"}, clock)
    try:
        yield BaselinePlace(engine, clock, Held)
    finally:
        Held.gate.set()
        await engine.__aexit__(None, None, None)


class SimulatedPlace(Place):
    def _engine(self) -> SimulatedEngine:
        assert isinstance(self.engine, SimulatedEngine)
        return self.engine

    def hanging(self, **changes: Any) -> Request:
        engine = self._engine()
        engine.profile = replace(engine.profile, hang=1.0)
        return self.question(0, **changes)

    def release(self) -> None:
        engine = self._engine()
        engine.profile = replace(engine.profile, hang=0.0, unavailable=0.0, overloaded=0.0)

    def failing(self) -> list[tuple[Request, type[EngineError]]]:
        engine = self._engine()
        engine.profile = replace(engine.profile, unavailable=0.5, overloaded=0.5)
        kinds: dict[type[EngineError], Request] = {}
        for n in range(50):  # which it is is drawn by camera and number
            fault = say(engine.profile, 7, self.question(n)).fault
            kind = EngineUnavailable if fault == "unavailable" else EngineOverloaded
            kinds[kind] = self.question(n)
        assert len(kinds) == 2
        return [(request, kind) for kind, request in kinds.items()]


@asynccontextmanager
async def simulated_place(ground: Ground) -> AsyncIterator[Place]:
    clock = Clock()
    options = {"base_s": 0.01, "slots": 4}
    settings = {"name": "simulated", "profile": "perfect", "options": options}
    engine = await entered(settings, clock)
    try:
        yield SimulatedPlace(engine, clock)
    finally:
        await engine.__aexit__(None, None, None)


FAILURES: dict[Reason, type[EngineError]] = {
    Reason.UNAVAILABLE: EngineUnavailable,
    Reason.OVERLOADED: EngineOverloaded,
    Reason.TIMEOUT: EngineTimeout,
    Reason.REJECTED: EngineRejected,
}


@dataclass
class RecordedPlace(Place):
    folder: Path = Path()

    def hanging(self, **changes: Any) -> Request:
        """Then it took an hour, and now it takes as long."""
        return self.question(0, camera="slow", identity="slow", **changes)

    def failing(self) -> list[tuple[Request, type[EngineError]]]:
        return [
            *[(self.question(0, camera=r, identity=r.value), k) for r, k in FAILURES.items()],
            (self.question(0, identity="never seen"), EngineRejected),
        ]


def write_recording(folder: Path, records: Sequence[FrameRecord]) -> Path:
    """A run folder of the baseline with those frames."""
    run = {
        "schema": 1, "digest": "d", "cameras": [], "complete": True, "speed": 1.0,
        "settings": {"alarm": {}}, "engine": {
            "name": "baseline", "model": "median-change", "coord_space": "unit",
            "resize_mode": "stretch", "min_tokens": 4, "max_tokens": 16384, "concurrency": 2,
            "max_concurrency": 2, "clips": False,
        },
    }  # fmt: skip
    folder.mkdir()
    (folder / RUN_FILE).write_bytes(orjson.dumps(run))
    lines = [orjson.dumps({"k": "frame", "v": record}) + b"\n" for record in records]
    (folder / RECORDS_LOG).write_bytes(b"".join(lines))
    return folder


def _written(ground: Ground, clock: Clock) -> list[FrameRecord]:
    """What the recording holds beside the renders: MANY questions, an hour's, and failures."""
    engine = create(models.Engine(name="baseline"), clock)
    place = Place(engine, clock)
    found = []
    for n in range(MANY):
        verdict = replace(wanted(n), confidence=0.5)
        text = text_of(verdict, CoordSpace.UNIT)
        reply = Reply(text, "stop", 2_000_000, 3_000_000, TOKENS, verdict=verdict)
        found.append(record_of(place.question(n), reply, verdict))
    first = found[0]
    assert first.answer is not None
    hour = replace(first.answer, answered_ns=first.answer.started_ns + 3600 * 10**9)
    found.append(replace(first, camera="slow", identity="slow", answer=hour))
    bare = replace(first.answer, verdict=None, text="")
    for reason in FAILURES:
        failed = replace(first, camera=reason.value, identity=reason.value, answer=bare)
        found.append(
            replace(failed, fate=Fate.ENGINE_ERROR, reason=reason, detail="as it was then")
        )
    return found


@asynccontextmanager
async def recorded_place(ground: Ground) -> AsyncIterator[Place]:
    clock = Clock()
    records = [*ground.baseline_run(), *_written(ground, clock)]
    folder = write_recording(ground.folder / "recording", records)
    engine = await entered({"name": "recorded", "recording": str(folder)}, clock)
    try:
        yield RecordedPlace(engine, clock, folder)
    finally:
        await engine.__aexit__(None, None, None)


async def run_of_baseline(renders: Sequence[Render]) -> list[FrameRecord]:
    """What the baseline made of every render, as a run records it."""
    clock = Clock()
    engine = await entered({"name": "baseline"}, clock)
    try:
        place = Place(engine, clock)
        found = []
        for render in renders:
            request = place.look(render)
            reply = await engine.infer(request)
            found.append(record_of(request, reply, reply.verdict))
        return found
    finally:
        await engine.__aexit__(None, None, None)


# --- engines with a server -----------------------------------------------------------------------


class SeeingOllama(ollama.FakeOllama):
    """Answers as `wanted` says for the picture it was sent."""

    def _text(self, answer: ollama.Answer, body: dict[str, Any]) -> str:
        if answer.text is not None:
            return answer.text
        (image,) = body["messages"][-1]["images"]
        return text_of(wanted(number_of(base64.b64decode(image))))


class SeeingOpenAI(openai.FakeOpenAI):
    def _text(self, answer: openai.Answer, body: dict[str, Any]) -> str:
        if answer.text is not None:
            return answer.text
        url = body["messages"][-1]["content"][0]["image_url"]["url"]
        return text_of(wanted(number_of(base64.b64decode(url.partition(",")[2]))))


@dataclass
class Served(Place):
    """An engine whose server is behind a front."""

    front: Front = field(kw_only=True)
    wire: Wire = field(kw_only=True)
    script: Callable[[str], None] | None = field(kw_only=True, default=None)
    """Put down the server's next answer; None where a real model answers."""

    def expect(self, render: Render) -> None:
        if self.script is not None:
            self.script(text_of(Verdict(bool(render.truth), None)))

    def hanging(self, **changes: Any) -> Request:
        self.front.asked.clear()
        self.front.left.clear()
        self.front.hang()
        return self.question(0, **changes)

    async def reached(self) -> None:
        await asyncio.wait_for(self.front.asked.wait(), PATIENCE_S)

    def release(self) -> None:
        self.front.be_itself()


@asynccontextmanager
async def ollama_place(ground: Ground) -> AsyncIterator[Place]:
    clock = Clock()
    async with SeeingOllama() as server, Front(server.url, NDJSON.path) as front:
        # a floor of 1024 tokens comes from 0.30 on; questions are smaller, and the fake lets them
        engine = await entered({"name": "ollama", "url": front.url}, clock)
        try:

            def script(text: str) -> None:
                server.script.append(ollama.Answer(text, true_probability=0.8))

            yield Served(engine, clock, front=front, wire=NDJSON, script=script)
        finally:
            await engine.__aexit__(None, None, None)


def openai_place(dialect: openai.Dialect) -> Opened:
    @asynccontextmanager
    async def place(ground: Ground) -> AsyncIterator[Place]:
        ground.monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        clock = Clock()
        async with (
            SeeingOpenAI(dialect=dialect) as server,
            Front(server.root, SSE.path) as front,
        ):
            engine = await entered({"name": "openai", "url": front.url}, clock)
            try:

                def script(text: str) -> None:
                    server.script.append(openai.Answer(text, true_probability=0.8))

                yield Served(engine, clock, front=front, wire=SSE, script=script)
            finally:
                await engine.__aexit__(None, None, None)

    return place


@dataclass
class WorkerPlace(Served):
    """A random model has no eyes: each picture's own answer is the one it gets when asked alone."""

    sees = False
    most_tokens = 400  # on two cores
    _alone: dict[int, Reply] = field(default_factory=dict)

    async def learn(self) -> None:
        self._alone = {n: await self.engine.infer(self.question(n)) for n in range(MANY)}
        sure = sorted(reply.confidence or 0.0 for reply in self._alone.values())
        gaps = [b - a for a, b in itertools.pairwise(sure)]
        assert sum(gap > 1e-3 for gap in gaps) >= MANY // 2, "the pictures cannot be told apart"

    def agrees(self, n: int, request: Request, reply: Reply) -> None:
        alone = self._alone[n]
        assert reply.text == alone.text
        assert reply.confidence == pytest.approx(alone.confidence, abs=1e-4)


@asynccontextmanager
async def hf_place(ground: Ground) -> AsyncIterator[Place]:
    ground.monkeypatch.delenv("EARLYFIRE_WORKER_KEY", raising=False)
    clock = Clock()
    async with Front(ground.worker(), SSE.path) as front:
        engine = await entered({"name": "hf", "workers": [front.url]}, clock)
        try:
            yield WorkerPlace(engine, clock, front=front, wire=SSE)
        finally:
            await engine.__aexit__(None, None, None)


SERVED: dict[str, Opened] = {
    "ollama": ollama_place,
    "openai-vllm": openai_place(openai.Dialect.VLLM),
    "openai-llama": openai_place(openai.Dialect.LLAMA),
    "hf": hf_place,
}
SERVERLESS: dict[str, Opened] = {
    "baseline": baseline_place,
    "recorded": recorded_place,
    "simulated": simulated_place,
}
PLACES = SERVED | SERVERLESS


def engine_of(place: str) -> str:
    """`openai-vllm` -> `openai`"""
    return place.partition("-")[0]
