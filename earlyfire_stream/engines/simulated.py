"""An engine made of numbers: it answers from the truth, through a model of how models err.

It writes real replies in contract V1.0, so that everything after it is exercised, and needs
neither pixels nor time of its own. What it says of a frame is a pure function of (seed, camera,
seq, what is to be seen): two virtual runs give identical answers in whatever order frames come.

Detection. Smoke that covers s visual tokens (its share of the frame times the request's tokens) is
detected with probability p(s), read off the profile's curve. Looks at one fire are not independent:
a fire is hard or easy for as long as it burns. With one normal draw f per fire and camera and one
draw n per look, a look is positive where

    sqrt(c) f + sqrt(1 - c) n  <  Phi^-1(p(s))        c = `correlation`

so that over many fires exactly a share p(s) is seen, while looking again at the same size helps
only as far as c is below 1.

A second look at a crop draws its look and its jitter anew, at the greater size that the smoke has
there; what passed for smoke at the first look passes at the second as well.

False alarms come in spells: with `false_alarms_per_hour` spells of `false_alarm_s` scenario seconds
a camera shows something that looks like smoke, always at the same place.

Latency, in wall seconds: (base + per visual token + per output token) x a lognormal factor, never
below `floor_s`; `slots` requests are served at a time, the others wait in order of arrival.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
import re
import struct
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from types import TracebackType
from typing import Any, Self

from earlyfire_stream.clock import Clock
from earlyfire_stream.engines.base import Check, Reply, Request, Traits, unknown
from earlyfire_stream.errors import (
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    UsageError,
)
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import Box, CoordSpace

__all__ = ["PROFILES", "Profile", "SimulatedEngine"]

NORMAL = NormalDist()
GREATEST = 2**53
"""Of an option."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How an engine answers and how long it takes. Every field may be overridden by an option."""

    source: str
    """Where the figures come from; no option."""
    reference_s: float | None = None
    """The latency that this source states, wall seconds; no option."""
    detect: tuple[tuple[float, float], ...] = ((0.5, 0.05), (4.0, 0.5), (30.0, 0.95))
    """(smoke in visual tokens, P(detected)), in order of size; interpolated over the logarithm,
    constant outside. Assumed where a profile does not say otherwise."""
    unboxed_tokens: float = 12.0
    """Size of smoke whose truth has no box: 1 % of a 1280x720 frame."""
    correlation: float = 0.7
    """Between two looks at the same fire: 0 independent, 1 the same draw. Assumed."""
    false_alarms_per_hour: float = 0.02
    """Spells per camera and scenario hour."""
    false_alarm_s: float = 60.0
    bad_json: float = 0.0
    """Share of replies that nobody can read, spread evenly over their kinds."""
    boxed: float = 1.0
    """Share of positives that come with a box."""
    box_jitter: float = 0.1
    """Standard deviation of centre and size, relative to the box: 0.1 gives a median IoU near
    0.73, 0.15 one near 0.62. Assumed."""
    base_s: float = 0.05
    visual_token_s: float = 0.0
    output_token_s: float = 0.0
    spread: float = 0.0
    """Standard deviation of the logarithm of the latency."""
    floor_s: float = 0.0
    slots: int = 1
    """Requests served at the same time."""
    queue: int = 512
    """Requests that may wait for a slot; one more is refused as overloaded."""
    hang: float = 0.0
    """Share of requests that are never answered."""
    unavailable: float = 0.0
    overloaded: float = 0.0
    """Shares of requests that fail at once."""

    def __post_init__(self) -> None:
        sizes = [s for s, _ in self.detect]
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] <= 0:
            raise ValueError("detect needs sizes above 0 in rising order, each once")
        shares = {
            "detect": max(p for _, p in self.detect),
            "least detect": min(p for _, p in self.detect),
            **{n: getattr(self, n) for n in _SHARES},
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {share}")
        for name in _AMOUNTS:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.false_alarm_s <= 0 or self.unboxed_tokens <= 0:
            raise ValueError("false_alarm_s and unboxed_tokens must be above 0")
        if self.slots < 1 or self.queue < 0:
            raise ValueError("slots must be at least 1 and queue at least 0")
        if self.hang + self.unavailable + self.overloaded + self.bad_json > 1:
            raise ValueError(
                "hang, unavailable, overloaded and bad_json must not exceed 1 together"
            )

    def chance(self, tokens: float) -> float:
        """P(detected) of smoke that covers so many visual tokens."""
        at = bisect_right(self.detect, (tokens, math.inf))
        if at == 0:
            return self.detect[0][1]
        if at == len(self.detect):
            return self.detect[-1][1]
        (small, low), (large, high) = self.detect[at - 1], self.detect[at]
        part = math.log(tokens / small) / math.log(large / small)
        return low + part * (high - low)


_SHARES = ("correlation", "bad_json", "boxed", "hang", "unavailable", "overloaded")
_AMOUNTS = (
    "false_alarms_per_hour",
    "box_jitter",
    "base_s",
    "visual_token_s",
    "output_token_s",
    "spread",
    "floor_s",
)
_SURE = ((1.0, 1.0),)
_BLIND = ((1.0, 0.0),)

PROFILES: dict[str, Profile] = {
    "spec-gpu": Profile(
        source="The specification's GPU reference: 0.25 s. Split so that a `no` on 1280x720 "
        "(1,196 tokens) takes 0.25 s at the median; four slots and the accuracy are assumed.",
        reference_s=0.25,
        base_s=0.06,
        visual_token_s=0.0001,
        output_token_s=0.005,
        spread=0.15,
        floor_s=0.05,
        slots=4,
    ),
    "spec-cpu-int4": Profile(
        source="The specification's CPU int4 reference: 0.8 to 1.2 s. A `no` on 1280x720 takes "
        "1.0 s at the median and nine in ten lie within the range; the accuracy is assumed.",
        reference_s=1.0,
        base_s=0.25,
        visual_token_s=0.0004,
        output_token_s=0.02,
        spread=0.11,
        floor_s=0.3,
        slots=1,
    ),
    "smokebench-qwen2.5vl-7b": Profile(
        source="SmokeBench (arXiv 2512.11215), Qwen2.5-VL 7B zero-shot: accuracy 0.098, 0.232, "
        "0.423, 0.463, 0.686 by smoke size, and mIoU 0.000, hence no boxes. The limits of its five "
        "size classes are assumed here: centres at 0.1, 0.5, 1, 3 and 10 % of a 1,196-token frame. "
        "False alarms are assumed; latency as spec-gpu.",
        detect=((1.2, 0.098), (6.0, 0.232), (12.0, 0.423), (36.0, 0.463), (120.0, 0.686)),
        boxed=0.0,
        base_s=0.06,
        visual_token_s=0.0001,
        output_token_s=0.005,
        spread=0.15,
        floor_s=0.05,
        slots=4,
    ),
    "perfect": Profile(
        source="By definition: sees all smoke at once, boxes it exactly, in 0.1 s.",
        detect=_SURE,
        false_alarms_per_hour=0.0,
        box_jitter=0.0,
        base_s=0.1,
        slots=64,
    ),
    "never": Profile(
        source="By definition: always says no, in 0.1 s. It must score 0.",
        detect=_BLIND,
        false_alarms_per_hour=0.0,
        base_s=0.1,
        slots=64,
    ),
    "always": Profile(
        source="By definition: always says smoke, in 0.1 s, without a box. It must score near 0.",
        detect=_SURE,
        false_alarms_per_hour=1e9,
        boxed=0.0,
        base_s=0.1,
        slots=64,
    ),
    "one-per-second": Profile(
        source="By definition: perfect answers, one frame a second, one at a time. Shows what the "
        "fleet's size alone costs.",
        detect=_SURE,
        false_alarms_per_hour=0.0,
        box_jitter=0.0,
        base_s=1.0,
        slots=1,
    ),
}
DEFAULT = "spec-gpu"


def _profile(settings: models.Engine) -> tuple[str, Profile]:
    """The profile with the options put over it; UsageError where that cannot be."""
    name = settings.profile or settings.model or DEFAULT
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    if settings.url is not None:
        raise UsageError("engine 'simulated' has no url")
    profile = PROFILES[name]
    return name, _overridden(profile, settings.options) if settings.options else profile


def _overridden(profile: Profile, options: Mapping[str, Any]) -> Profile:
    known = {f.name for f in fields(Profile)} - {"source", "reference_s"}
    changes: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise unknown("option of engine 'simulated'", key, known)
        try:
            changes[key] = _option(getattr(profile, key), value)
        except (TypeError, ValueError):
            raise UsageError(f"option {key} of engine 'simulated' cannot be {value!r}") from None
    try:
        return replace(profile, **changes)
    except ValueError as error:
        raise UsageError(f"engine 'simulated': {error}") from error


def _option(old: object, value: object) -> object:
    """`value` in the type of the field's present value; ValueError or TypeError if it is not."""
    if isinstance(old, tuple):
        if not isinstance(value, list | tuple):
            raise TypeError("a list of [tokens, probability] is needed")
        return tuple((_finite(size), _finite(chance)) for size, chance in value)
    if isinstance(old, int):
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > GREATEST:
            raise TypeError("a whole number is needed")
        return value
    return _finite(value)


def _finite(value: object) -> float:
    # NaN fails the comparison, and an int that no float holds passes no conversion
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= GREATEST:
        raise TypeError("a number is needed")
    return float(value)


# --- what it says: pure --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Said:
    """One reply, and the wall seconds that it takes once it has a slot."""

    text: str
    finish: str
    confidence: float
    prompt_s: float
    decide_s: float
    """Of the output, up to the token that settles has_smoke."""
    rest_s: float
    output_tokens: int
    fault: str = ""

    @property
    def service_s(self) -> float:
        return self.prompt_s + self.decide_s + self.rest_s


def _draws(*key: object) -> tuple[float, ...]:
    """Eight uniform draws strictly between 0 and 1, fixed by the key (52 bits each)."""
    text = "\x1f".join(map(str, key))
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=64).digest()
    return tuple([((word >> 12) + 0.5) / 2**52 for word in struct.unpack(">8Q", digest)])


def _quantile(share: float) -> float:
    """Phi^-1, with its limits."""
    if share <= 0:
        return -math.inf
    return math.inf if share >= 1 else NORMAL.inv_cdf(share)


_TOKENS = re.compile(r"\d|[a-z_]+|[^\s\w]", re.IGNORECASE)


@functools.lru_cache(maxsize=1024)
def _count_tokens(text: str) -> int:
    """About as many as Qwen's vocabulary needs: one per digit, word and sign, and one to stop."""
    return len(_TOKENS.findall(text)) + 1


def _which(draw: str, request: Request) -> str:
    return f"{draw} again" if request.crop else draw


DECIDING_TOKENS = 6
"""`{` `"` `has_smoke` `"` `:` `true`"""


def say(profile: Profile, seed: int, request: Request) -> _Said:
    """The reply to a request."""
    which = _which("look", request)
    look, kind, slow, fault, boxed, sure, *_ = _draws(seed, request.camera, request.seq, which)
    has_smoke, box, confidence = _see(profile, seed, request, NORMAL.inv_cdf(look), sure)
    if has_smoke and box is not None and boxed >= profile.boxed:
        box = None
    text, finish = _text(has_smoke, box), "stop"

    share = profile.bad_json
    named = ""
    if fault < share:
        text, finish = _BAD[int(kind * len(_BAD))]
    for name in ("hang", "unavailable", "overloaded"):
        if share <= fault < share + getattr(profile, name):
            named = name
        share += getattr(profile, name)

    output_tokens = _count_tokens(text)
    factor = math.exp(profile.spread * NORMAL.inv_cdf(slow))
    prompt_s = (profile.base_s + profile.visual_token_s * request.visual_tokens) * factor
    token_s = profile.output_token_s * factor
    prompt_s = max(prompt_s, profile.floor_s - token_s * output_tokens)
    deciding = min(DECIDING_TOKENS, output_tokens)
    return _Said(
        text,
        finish,
        confidence,
        prompt_s,
        deciding * token_s,
        (output_tokens - deciding) * token_s,
        output_tokens,
        named,
    )


_BAD = (
    ("I can see a hazy landscape with hills in the distance.", "stop"),
    ('{"has_smoke": true, "bbox": [0.4', "length"),
    ('{"smoke": "maybe"}', "stop"),
    ("BAD_JSON", "stop"),
    ("", "stop"),
)
"""One of each kind of bad_json: not_json, cut_off, schema, sentinel, empty."""


def _see(
    profile: Profile, seed: int, request: Request, look: float, sure: float
) -> tuple[bool, Box | None, float]:
    """(has_smoke, box, P(smoke)) of what is to be seen."""
    best, best_box = -math.inf, None
    visible = [(t.fire, t.box) for t in request.truth] or ([("", None)] if request.smoke else [])
    for fire, box in visible:
        area = None if box is None else box.area * request.visual_tokens
        tokens = profile.unboxed_tokens if area is None else area
        hard = NORMAL.inv_cdf(_draws(seed, request.camera, fire, "fire")[0])
        c = profile.correlation
        z = math.sqrt(c) * hard + math.sqrt(1 - c) * look
        margin = _quantile(profile.chance(tokens)) - z
        if margin > best:
            best, best_box = margin, box
    if best > 0:
        return True, _jittered(best_box, profile, seed, request), NORMAL.cdf(best)

    spell = math.floor(request.captured_at / profile.false_alarm_s)
    decoy = _draws(seed, request.camera, spell, "spell")
    rate = profile.false_alarms_per_hour * profile.false_alarm_s / 3600
    if decoy[0] < -math.expm1(-rate):
        width, height = 0.03 + 0.07 * decoy[3], 0.03 + 0.07 * decoy[4]
        box = Box(0.1 + 0.8 * decoy[1], 0.35 + 0.5 * decoy[2], width, height)
        return True, box, 0.5 + 0.4 * sure
    unsure = NORMAL.cdf(best) if visible else NORMAL.cdf(-1.5 + 0.6 * NORMAL.inv_cdf(sure))
    return False, None, min(0.49, unsure)


def _jittered(box: Box | None, profile: Profile, seed: int, request: Request) -> Box | None:
    if box is None or profile.box_jitter == 0:
        return box
    x, y, w, h = (
        profile.box_jitter * NORMAL.inv_cdf(u)
        for u in _draws(seed, request.camera, request.seq, _which("box", request))[:4]
    )
    x1, y1, x2, y2 = box.corners
    width, height = x2 - x1, y2 - y1
    xc, yc = (x1 + x2) / 2 + x * width, (y1 + y2) / 2 + y * height
    width, height = width * math.exp(w), height * math.exp(h)
    try:
        return Box.from_corners(xc - width / 2, yc - height / 2, xc + width / 2, yc + height / 2)
    except ValueError:
        return box  # jittered out of the frame


def _text(has_smoke: bool, box: Box | None) -> str:
    if not has_smoke:
        return '{"has_smoke": false, "bbox": null}'
    if box is None:
        return '{"has_smoke": true, "bbox": null}'
    four = ", ".join(f"{v:.4f}" for v in (box.xc, box.yc, max(box.w, 1e-4), max(box.h, 1e-4)))
    return f'{{"has_smoke": true, "bbox": [{four}]}}'


# --- when it says it -----------------------------------------------------------------------------


class SimulatedEngine:
    """See the module. Settings: `profile`, `timeout`, and `options` that override its fields."""

    def __init__(self, settings: models.Engine, clock: Clock, seed: int = 0) -> None:
        name, self.profile = _profile(settings)
        self._clock = clock
        self._seed = seed
        self._timeout_s = settings.timeout
        self._slots = asyncio.Semaphore(self.profile.slots)
        self._waiting = 0
        self.traits = Traits(
            name="simulated",
            model=name,
            reference_s=self.profile.reference_s,
            coord_space=CoordSpace.UNIT,
            needs_pixels=False,
            needs_truth=True,
            max_concurrency=256,
            default_concurrency=min(256, self.profile.slots),
            virtual_ok=True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    async def check(self) -> list[Check]:
        return [Check("simulated engine", True, f"profile {self.traits.model}: a model, no eyes")]

    async def infer(self, request: Request) -> Reply:
        said = say(self.profile, self._seed, request)
        if said.fault == "unavailable":
            raise EngineUnavailable("simulated: nobody answers")
        full = self._slots.locked() and self._waiting >= self.profile.queue
        if said.fault == "overloaded" or full:
            raise EngineOverloaded("simulated: server busy, please try again")
        began_ns = self._clock.wall_ns()
        left_s = min(self._timeout_s, (request.deadline_ns - began_ns) / 1e9)
        try:
            async with asyncio.timeout(left_s):
                self._waiting += 1
                try:
                    await self._slots.acquire()
                finally:
                    self._waiting -= 1
                try:
                    served_ns = self._clock.wall_ns()
                    await self._serve(said)
                finally:
                    self._slots.release()
        except TimeoutError:
            raise EngineTimeout(f"simulated: no answer within {left_s:.3g} s") from None
        answered_ns = self._clock.wall_ns()
        return Reply(
            text=said.text,
            finish=said.finish,
            # one timer instead of two: the instant of decision is computed back from the end
            decided_ns=answered_ns - round(said.rest_s * 1e9),
            answered_ns=answered_ns,
            visual_tokens=request.visual_tokens,
            prompt_tokens=request.visual_tokens + _count_tokens(request.system + request.user),
            output_tokens=said.output_tokens,
            confidence=said.confidence,
            server={
                "queue_s": (served_ns - began_ns) / 1e9,
                "prompt_s": said.prompt_s,
                "generate_s": said.decide_s + said.rest_s,
            },
        )

    async def _serve(self, said: _Said) -> None:
        if said.fault == "hang":
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(said.service_s)
