"""Scripted faults of cameras, of the way to the broker, and of the engine; seeded, counted, inert
outside their windows.

A camera's frame belongs to the window that its capture falls into, however late it is sent; what
the network does to it goes by the instant at which it is sent, and a request to the engine by the
instant at which it begins. Windows are scenario seconds, the end excluded.

    camera-frozen, -black, -wrong-size, -clock, -corrupt             FaultyLink
    network-delay, -jitter, -loss, camera-duplicate, camera-reorder  spells, for NetworkLink
    camera-flap                                                      flapping, for the fleet
    engine-*                                                         FaultyEngine

Whose frames a fault touches is a pure function of (seed, fault, camera, seq). Faults of brokers,
connections and hosts need real ones and are not made here. All of this works in virtual time.
"""

from __future__ import annotations

__all__ = ["FaultyEngine", "FaultyLink", "Planned", "flapping", "planned", "spells"]

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines.base import Check, Engine, Gauged, Reply, Request, Traits
from earlyfire_stream.errors import (
    EngineBroken,
    EngineError,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
)
from earlyfire_stream.frames import Capture, Frame, parse, wrap
from earlyfire_stream.records import FaultPlan
from earlyfire_stream.scenario.fleet import scripted
from earlyfire_stream.scenario.models import Fault, Network, Scenario
from earlyfire_stream.sources.base import Label, seed_for
from earlyfire_stream.transport.base import Control, Link
from earlyfire_stream.transport.network import Spell
from earlyfire_stream.verdict import Reason


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a scenario: how it is made, and whom it meets when."""

    settings: Fault
    plan: FaultPlan

    def covers(self, at: float) -> bool:
        """Does its window hold this scenario second?"""
        return self.plan.start <= at < self.plan.end


def planned(scenario: Scenario) -> tuple[Planned, ...]:
    """The scenario's faults, in order of their start."""
    return tuple(Planned(settings, plan) for settings, plan in scripted(scenario))


def _of_kinds(faults: Iterable[Planned], kinds: Iterable[str]) -> tuple[Planned, ...]:
    wanted = frozenset(kinds)
    return tuple(one for one in faults if one.plan.kind in wanted)


# --- the way to the broker -----------------------------------------------------------------------

_NETWORKS: Mapping[str, Callable[[Fault], Network]] = {
    "network-delay": lambda fault: Network(delay=fault.delay),
    "network-jitter": lambda fault: Network(jitter=fault.delay),
    "network-loss": lambda fault: Network(loss=fault.share),
    "camera-duplicate": lambda fault: Network(duplicate=fault.share),
    "camera-reorder": lambda fault: Network(reorder=fault.share),
}


def spells(faults: Iterable[Planned], cameras: Iterable[str]) -> dict[str, tuple[Spell, ...]]:
    """Camera -> the spells of a bad network that it gets; without those that get none."""
    found = [
        (one, Spell(one.plan.id, one.plan.start, one.plan.end, make(one.settings)))
        for one in faults
        if (make := _NETWORKS.get(one.plan.kind)) is not None
    ]
    by_camera = {c: tuple(spell for one, spell in found if one.plan.meets(c)) for c in cameras}
    return {camera: its for camera, its in by_camera.items() if its}


def flapping(faults: Iterable[Planned]) -> Callable[[str, float], bool]:
    """(camera, scenario second) -> is it off then, by a camera-flap?

    Off for the first half of each period, on for the second: with a period of 10 s and a window
    from 100 s to 115 s a camera is off in [100, 105) and [110, 115).
    """
    flaps = _of_kinds(faults, ["camera-flap"])

    def off(camera: str, at: float) -> bool:
        return any(
            one.covers(at) and one.plan.meets(camera) and _in_first_half(one, at) for one in flaps
        )

    return off


def _in_first_half(flap: Planned, at: float) -> bool:
    # whole microseconds, which is what schedules are rounded to: 0.6 % 0.2 is not 0
    since_us = round((at - flap.plan.start) * 1e6)
    period_us = max(2, round(flap.settings.period * 1e6))
    return since_us % period_us * 2 < period_us


# --- pictures and clocks -------------------------------------------------------------------------

_PICTURES = ("camera-frozen", "camera-black", "camera-wrong-size", "camera-clock", "camera-corrupt")
"""In the order in which they act on a frame: what a sensor does comes before what a cable does."""
_NOISE_BYTES = 64
QUALITY = 90
"""JPEG quality of pictures that are made here."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A frame as it came from its camera: the picture, and what is to be seen in it."""

    jpeg: bytes
    label: Label | None


class FaultyLink:
    """A `Link` in front of `inner` that spoils the pictures and clocks of the cameras met.

    - camera-frozen: the picture of the camera's last frame before the window (the window's first,
      where there was none) under each frame's own header.
    - camera-black: a black picture of the same size.
    - camera-wrong-size: the picture at another height, its aspect kept. One that cannot be decoded
      (virtual time without pixels) becomes a black one of that size.
    - camera-clock: captured_at, captured_ns and published_ns of the header are off by `shift` wall
      seconds; none is before 1970. The camera's own log stays true.
    - camera-corrupt: of a seeded share the second half of the picture is cut off, or its tables are
      overwritten; half of them each. The header stays readable, so it is known whose frame it was.

    All other frames pass as the very same bytes. One picture is held for each camera that a later
    camera-frozen meets, and one black picture for each size. Pixels are worked on in a thread, in
    virtual time at once.

    The `simulated` engine looks at the truth instead of pixels. Let `learn` hear each frame's truth
    just before it is published, and `on_label` is told what there is to be seen in what is sent.
    """

    def __init__(
        self,
        inner: Link,
        faults: Sequence[Planned],
        clock: Clock,
        seed: int,
        on_label: Callable[[str, int, Label], None] = lambda *_: None,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._seed = seed
        self._on_label = on_label
        found = _of_kinds(faults, _PICTURES)
        self._faults = sorted(found, key=lambda one: _PICTURES.index(one.plan.kind))
        self._by_camera: dict[str, tuple[Planned, ...]] = {}
        self._labels: dict[str, Label] = {}
        """Camera -> the truth of the frame that it is about to publish."""
        self._before: dict[str, _Shown] = {}
        """Camera -> its last frame that was not frozen."""
        self._blacks: dict[tuple[int, int], bytes] = {}
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> Mapping[str, int]:
        """Fault -> frames that it changed."""
        return self._counts

    def learn(self, camera: str, seq: int, label: Label) -> None:
        if self._met(camera):
            self._labels[camera] = label
        else:
            self._on_label(camera, seq, label)

    async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
        if met := self._met(camera):
            payload = await self._spoiled(met, camera, seq, payload)
        return await self._inner.publish(camera, seq, payload)

    async def announce(self, control: Control) -> None:
        await self._inner.announce(control)

    async def set_status(self, camera: str, online: bool) -> None:
        await self._inner.set_status(camera, online)

    def _met(self, camera: str) -> tuple[Planned, ...]:
        if camera not in self._by_camera:
            self._by_camera[camera] = tuple(f for f in self._faults if f.plan.meets(camera))
        return self._by_camera[camera]

    async def _spoiled(
        self, met: Sequence[Planned], camera: str, seq: int, payload: bytes
    ) -> bytes:
        frame = parse(payload)
        own = _Shown(payload, self._labels.pop(camera, None))
        shown, capture = own, None
        if isinstance(frame, Frame) and frame.capture is not None:
            capture = frame.capture
            on = [one for one in met if one.covers(frame.capture.captured_at)]
            self._remember(met, camera, capture.captured_at, own)
            for one in on:
                shown, capture = await self._touched(one, camera, shown, capture)
            if shown is not own or capture is not frame.capture:
                payload = wrap(shown.jpeg, capture)
            for one in on:
                if one.plan.kind == "camera-corrupt":
                    payload = self._damaged(one, camera, seq, payload)
        if shown.label is not None:
            self._on_label(camera, seq, shown.label)
        return payload

    def _remember(self, met: Sequence[Planned], camera: str, at: float, own: _Shown) -> None:
        """Keep it if a camera-frozen may need it; the first in a window stands for itself."""
        freezes = [one for one in met if one.plan.kind == "camera-frozen" and at < one.plan.end]
        if not freezes:
            self._before.pop(camera, None)
        elif camera not in self._before or not any(one.covers(at) for one in freezes):
            self._before[camera] = own

    async def _touched(
        self, one: Planned, camera: str, shown: _Shown, capture: Capture
    ) -> tuple[_Shown, Capture]:
        before = (shown, capture)
        match one.plan.kind:
            case "camera-frozen":
                shown = self._before[camera]
            case "camera-black":
                label = shown.label and _of_nothing(shown.label)
                shown = _Shown(await self._black(shown.jpeg), label)
            case "camera-wrong-size":
                jpeg = await self._in_thread(_at_height, shown.jpeg, one.settings.height)
                shown = replace(shown, jpeg=jpeg)
            case "camera-clock":
                capture = _shifted(capture, one.settings.shift)
        if (shown, capture) != before:
            self._counts[one.plan.id] += 1
        return shown, capture

    async def _black(self, jpeg: bytes) -> bytes:
        frame = parse(jpeg)
        assert isinstance(frame, Frame)
        size = (frame.width, frame.height)
        if size not in self._blacks:
            self._blacks[size] = await self._in_thread(_black_of, *size)
        return self._blacks[size]

    def _damaged(self, one: Planned, camera: str, seq: int, payload: bytes) -> bytes:
        draw = random.Random(seed_for(self._seed, one.plan.id, camera, str(seq)))
        if draw.random() >= one.settings.share:
            return payload
        self._counts[one.plan.id] += 1
        return _cut(payload) if draw.random() < 0.5 else _overwritten(payload, draw)

    async def _in_thread(self, work: Callable[..., bytes], *given: bytes | int) -> bytes:
        return work(*given) if self._clock.virtual else await asyncio.to_thread(work, *given)


def _of_nothing(label: Label) -> Label:
    """Of a picture in which nothing is to be seen; unknown stays unknown."""
    return replace(label, smoke=label.smoke and False, truth=())


def _shifted(capture: Capture, shift_s: float) -> Capture:
    shift_ns = round(shift_s * 1e9)
    return replace(
        capture,
        captured_at=round(capture.captured_at + shift_s * capture.speed, 6),
        captured_ns=max(0, capture.captured_ns + shift_ns),
        published_ns=max(0, capture.published_ns + shift_ns),
    )


def _black_of(width: int, height: int) -> bytes:
    return _encoded(np.zeros((height, width, 3), np.uint8))


def _at_height(jpeg: bytes, height: int) -> bytes:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        frame = parse(jpeg)
        assert isinstance(frame, Frame)
        return _black_of(max(1, round(frame.width * height / frame.height)), height)
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return _encoded(np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8))


def _encoded(image: np.typing.NDArray[np.uint8]) -> bytes:
    done, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return jpeg.tobytes()


def _cut(payload: bytes) -> bytes:
    """Without the second half of what follows our comment; the end of the image is gone with it."""
    behind = _behind_comment(payload)
    return payload[: behind + (len(payload) - behind) // 2]


def _overwritten(payload: bytes, draw: random.Random) -> bytes:
    """Noise right behind our comment, where a marker and the tables should be."""
    behind = _behind_comment(payload)
    noise = b"\x00" + draw.randbytes(_NOISE_BYTES - 1)  # 0xFF might be read as a marker
    return payload[:behind] + noise + payload[behind + _NOISE_BYTES :]


def _behind_comment(payload: bytes) -> int:
    comment = payload.index(b'{"earlyfire":')  # `wrap` puts it before the tables and the scan
    return comment - 2 + int.from_bytes(payload[comment - 2 : comment], "big")


# --- the engine ----------------------------------------------------------------------------------

_GARBAGE: tuple[Callable[[random.Random], str], ...] = (
    lambda draw: (
        "<html><head><title>502 Bad Gateway</title></head><body><center>"
        f"<h1>502 Bad Gateway</h1></center><hr>id {draw.getrandbits(64):016x}</body></html>"
    ),
    lambda draw: draw.randbytes(160).decode("utf-8", "replace"),
    lambda draw: f'{{"label": "smoke", "score": {draw.random():.3f}}}',
    lambda draw: (
        "I am sorry, but I cannot look at pictures. In general a column of grey over a ridge "
        f"deserves a second look (reference {draw.getrandbits(32)})."
    ),
)
"""A proxy's page, bytes that are no text, an object of another contract, prose."""
_BABBLE = ("haze", "or", "cloud", "or", "mist", "or", "dust", "or")
MOST_TOKENS = 96
"""What a reply may have at most, unless an engine's options say else."""

_FAILS = ("engine-restart", "engine-out-of-memory", "engine-overloaded")
_SPOILS = ("engine-slow", "engine-endless", "engine-garbage", "engine-half")
_ENGINE = (*_FAILS, "engine-hang", *_SPOILS)
"""In the order in which they act where several meet a request."""


class FaultyEngine:
    """An `Engine` around another, which its owner's `async with` enters and leaves with this one.

    Each fault stands for real trouble, and is made at the engine's interface, not on the wire: what
    an engine does of its own against it (asking again, another worker) is not exercised.

    - engine-overloaded: a burst of HTTP 503. EngineOverloaded at once.
    - engine-restart: the server goes down and comes back with its model loaded. Requests under way
      at its start and all within it: EngineUnavailable.
    - engine-out-of-memory: another process took the GPU's memory. As the engine itself would say
      it: EngineBroken (HTTP 500 of Ollama and of OpenAI-compatible servers), from our own worker
      (`hf`) EngineOverloaded.
    - engine-hang: the server is stuck, its connections stay open. Requests that begin in it, and
      answers that come in it, wait for its end; EngineTimeout where deadline or timeout come first.
    - engine-slow: a throttled or shared GPU. An answer is held back until `factor` times its time
      has passed, EngineTimeout where that is too late.
    - engine-garbage: the text becomes a proxy's page, noise, another object or prose, by seed.
    - engine-endless: the model babbles until it is stopped at 96 tokens (`length`), and takes as
      much longer as its own timings tell (`generate_s` for `output_tokens`; else no longer).
    - engine-half: the connection broke in mid-answer. Half of the text, `length`.

    A reply that was spoilt has no verdict and no confidence of the engine's any more. A request is
    met by the faults of the instant at which it begins, or is let go by a hang.
    `timeout_s` is the engine's own, wall seconds; None: only deadlines count.
    """

    gauges: Callable[[], Awaitable[Mapping[str, float]]]
    """Only where `inner` has it: see `Gauged`."""

    def __init__(
        self,
        inner: Engine,
        faults: Sequence[Planned],
        clock: Clock,
        seed: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        self._inner = inner
        found = _of_kinds(faults, _ENGINE)
        self._faults = sorted(found, key=lambda one: _ENGINE.index(one.plan.kind))
        self._clock = clock
        self._seed = seed
        self._timeout_s = timeout_s
        self._counts: Counter[str] = Counter()
        if isinstance(inner, Gauged):
            self.gauges = inner.gauges

    @property
    def counts(self) -> Mapping[str, int]:
        """Fault -> requests that it met."""
        return self._counts

    @property
    def traits(self) -> Traits:
        return self._inner.traits

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)

    async def check(self) -> list[Check]:
        return await self._inner.check()

    async def infer(self, request: Request) -> Reply:
        ends_ns = request.deadline_ns
        if self._timeout_s is not None:
            ends_ns = min(ends_ns, self._clock.wall_ns() + round(self._timeout_s * 1e9))
        restart = self._next_restart(ends_ns)
        if restart is None:
            return await self._answer(request, ends_ns)
        left_s = (self._clock.wall_of(restart.plan.start) - self._clock.wall_ns()) / 1e9
        try:
            async with asyncio.timeout(left_s) as cut:
                return await self._answer(request, ends_ns)
        except TimeoutError:
            if not cut.expired():
                raise
            self._counts[restart.plan.id] += 1
            raise self._failure(restart) from None

    def _next_restart(self, before_ns: int) -> Planned | None:
        """The next restart that begins from now on and before that instant."""
        now_ns, of = self._clock.wall_ns(), self._clock.wall_of
        found = [
            one
            for one in self._faults
            if one.plan.kind == "engine-restart" and now_ns < of(one.plan.start) < before_ns
        ]
        return min(found, key=lambda one: one.plan.start, default=None)

    async def _answer(self, request: Request, ends_ns: int) -> Reply:
        held: set[str] = set()
        while True:
            on = self._on()
            if on and on[0].plan.kind in _FAILS:
                self._counts[on[0].plan.id] += 1
                raise self._failure(on[0])
            if not await self._hung(on, held, ends_ns):
                break
        began_ns = self._clock.wall_ns()
        reply = await self._inner.infer(request)
        while await self._hung(self._on(), held, ends_ns):
            late_ns = self._clock.wall_ns() - reply.answered_ns
            reply = replace(
                reply,
                decided_ns=reply.decided_ns + late_ns,
                answered_ns=reply.answered_ns + late_ns,
            )
        for one in on:
            if one.plan.kind in _SPOILS:
                self._counts[one.plan.id] += 1
                reply = await self._spoilt(one, request, reply, began_ns, ends_ns)
        return reply

    def _on(self) -> list[Planned]:
        """The faults of this instant."""
        if not self._faults:
            return []
        # in wall time: wall_of rounds, and a wait for a window's end must lead out of it
        now_ns, of = self._clock.wall_ns(), self._clock.wall_of
        return [f for f in self._faults if of(f.plan.start) <= now_ns < of(f.plan.end)]

    async def _hung(self, on: Sequence[Planned], held: set[str], ends_ns: int) -> bool:
        """Waits for the end of a hang that is on; False if there is none."""
        hang = next((one for one in on if one.plan.kind == "engine-hang"), None)
        if hang is None:
            return False
        if hang.plan.id not in held:
            held.add(hang.plan.id)
            self._counts[hang.plan.id] += 1
        await self._wait(hang, self._clock.wall_of(hang.plan.end), ends_ns)
        return True

    async def _wait(self, one: Planned, until_ns: int, ends_ns: int) -> None:
        """Until that instant; EngineTimeout if the request's own end comes first."""
        await self._clock.until_ns(min(until_ns, ends_ns))
        if until_ns >= ends_ns:
            raise EngineTimeout(f"fault {one.plan.id}: no answer in time")

    def _failure(self, one: Planned) -> EngineError:
        fault = f"fault {one.plan.id}"
        if one.plan.kind == "engine-restart":
            return EngineUnavailable(f"{fault}: nobody answers, the server starts again")
        if one.plan.kind == "engine-overloaded":
            return EngineOverloaded(f"{fault}: HTTP 503: server busy, please try again")
        if self.traits.name == "hf":
            return EngineOverloaded(
                f"{fault}: HTTP 503: this request does not fit into the memory that is there"
            )
        return EngineBroken(f"{fault}: HTTP 500: CUDA error: out of memory")

    async def _spoilt(
        self, one: Planned, request: Request, reply: Reply, began_ns: int, ends_ns: int
    ) -> Reply:
        match one.plan.kind:
            case "engine-slow":
                factor = one.settings.factor
                answered_ns = began_ns + round((reply.answered_ns - began_ns) * factor)
                decided_ns = began_ns + round((reply.decided_ns - began_ns) * factor)
                await self._wait(one, answered_ns, ends_ns)
                return replace(reply, decided_ns=decided_ns, answered_ns=answered_ns)
            case "engine-garbage":
                draw = random.Random(
                    seed_for(self._seed, one.plan.id, request.camera, str(request.seq))
                )
                return _unreadable(reply, draw.choice(_GARBAGE)(draw), "stop")
            case "engine-half":
                return _unreadable(reply, reply.text[: len(reply.text) // 2], "length")
        answered_ns = reply.answered_ns + round(_babbling_s(reply) * 1e9)
        await self._wait(one, answered_ns, ends_ns)
        text = " ".join(islice(cycle(_BABBLE), MOST_TOKENS))
        reply = replace(reply, answered_ns=answered_ns, output_tokens=MOST_TOKENS)
        return _unreadable(reply, text, "length")


def _babbling_s(reply: Reply) -> float:
    """What the tokens up to the most there may be take longer than those there were."""
    generate_s, tokens = reply.server.get("generate_s"), reply.output_tokens
    if generate_s is None or not tokens or tokens >= MOST_TOKENS:
        return 0.0
    return generate_s / tokens * (MOST_TOKENS - tokens)


def _unreadable(reply: Reply, text: str, finish: str) -> Reply:
    """Nothing settles has_smoke in it, so nothing is decided before its end."""
    return replace(
        reply,
        text=text,
        finish=finish,
        verdict=None,
        confidence=None,
        decided_ns=reply.answered_ns,
    )
