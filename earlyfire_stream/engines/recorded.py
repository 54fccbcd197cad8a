"""The answers of an earlier run, given again to the same pictures.

A picture is known by its identity (the hash of its bytes), so a changed scenario, sampling or
alarm policy may be tried on old answers. The text of an answer goes through the contract once
more, so that a change of the contract shows; only the baseline's verdicts, which never were text,
and texts too long to have been kept whole are given back as they were judged. Failures fail again
in the same way. Where one picture was answered several times, as with a camera and its copies, the
same camera's same frame comes first; any other frame gets these answers in their order, and from
the beginning again when they are used up.

A picture that the recording does not hold is rejected: nothing is made up.

Boxes in pixels hold for one size alone. If the token range has changed since, such an answer is
rejected as well.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import prompt
from earlyfire_stream.engines.base import Check, Reply, Request, Traits, unknown
from earlyfire_stream.errors import (
    EarlyfireError,
    EngineBroken,
    EngineError,
    EngineOverloaded,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    RunFolderError,
    UsageError,
)
from earlyfire_stream.frames import identity
from earlyfire_stream.records import Answer, Explanation, FrameRecord, RunLog, load, read_run
from earlyfire_stream.scenario import models
from earlyfire_stream.verdict import CoordSpace, Fate, Reason, ResizeMode

__all__ = ["RecordedEngine"]

TEXT_KEPT = 4000
"""Characters of a reply that a record keeps; a text of that length may have lost its end."""
NO_TEXT = ("baseline",)
"""Engines whose verdicts were not read from their text."""
OWN_UNITS = ("baseline", "simulated")
"""Engines of which older run folders tell enough: they write fractions whatever the size."""
FAULTS: dict[str, type[EngineError]] = {
    kind.kind: kind
    for kind in (
        EngineError,
        EngineUnavailable,
        EngineOverloaded,
        EngineTimeout,
        EngineRejected,
        EngineBroken,
    )
}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one request came to."""

    camera: str
    seq: int
    answer: Answer
    fault: type[EngineError] | None = None
    detail: str = ""

    @property
    def lasted_s(self) -> float:
        return max(0, self.answer.answered_ns - self.answer.started_ns) / 1e9


class RecordedEngine:
    """Settings: `recording` (relative to `base`), `timeout`, and the option `pace`: `recorded`
    takes as long as the answers took then, `instant` no time.

    Traits are those of the engine that was recorded, `model` is `engine/model`. UsageError for a
    folder that is no run, was asked in another convention than `prompt` wants, or (on entering)
    holds no answers.
    """

    def __init__(self, settings: models.Engine, clock: Clock, base: Path = Path()) -> None:
        if settings.profile is not None or settings.model is not None or settings.url is not None:
            raise UsageError("engine 'recorded' has no profile, model or url of its own")
        if settings.recording is None:
            raise UsageError("engine 'recorded' needs a run folder: recording: runs/...")
        self._pace = _pace(settings.options)
        self._folder = base / settings.recording
        self._clock = clock
        self._timeout_s = settings.timeout
        self.traits = _traits(self._folder, read_run(self._folder))
        space = self.traits.coord_space
        if prompt(settings.prompt, space).space is not space:
            raise UsageError(
                f"the answers in {self._folder} write boxes as {space}, prompt "
                f"{settings.prompt!r} asks for another form; give the prompt of that run"
            )
        self._whole = self.traits.model.partition("/")[0] not in NO_TEXT
        self._outcomes: Mapping[str, list[_Outcome]] = {}
        self._explanations: Mapping[tuple[str, int], Explanation] = {}
        self._asked: set[tuple[str, int]] = set()
        """Frames whose verdict was given, where explanations may be asked for next."""
        self._turns: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        # virtual time has no threads
        log = load(self._folder) if self._clock.virtual else await asyncio.to_thread(self._load)
        if any(not shot.identity and shot.unsent is Reason.NONE for shot in log.shots):
            raise UsageError(
                f"{self._folder}: its pictures were blank, as they are in virtual time for an "
                "engine that looks at none; record it in wall time or with sampling.policy adaptive"
            )
        self._outcomes = _outcomes(log)
        self._explanations = {(one.camera, one.seq): one for one in log.explanations}
        if not self._outcomes:
            raise UsageError(f"{self._folder}: holds no answers that could be given again")
        return self

    def _load(self) -> RunLog:
        return load(self._folder)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._outcomes = {}
        self._explanations = {}

    async def check(self) -> list[Check]:
        try:
            log = await asyncio.to_thread(self._load)
        except EarlyfireError as why:
            return [Check("recording", False, str(why), "record a run again")]
        count = sum(len(several) for several in _outcomes(log).values())
        found = f"{count} answers of {self.traits.model} in {self._folder}"
        return [Check("recording", count > 0, found, "give a run folder with answers")]

    async def infer(self, request: Request) -> Reply:
        began_ns = self._clock.wall_ns()
        left_s = min(self._timeout_s, (request.deadline_ns - began_ns) / 1e9)
        if left_s <= 0:
            raise EngineTimeout("the deadline had passed before it was asked")
        explanation = self._explanation(request)
        if explanation is not None:
            return await self._explain(explanation, request, left_s)
        outcome = self._find(request)
        await self._take(outcome.lasted_s, left_s)
        if outcome.fault is not None:
            raise outcome.fault(outcome.detail)
        answer, now_ns = outcome.answer, self._clock.wall_ns()
        given_back = not self._whole or len(answer.text) >= TEXT_KEPT
        rest_ns = answer.answered_ns - answer.decided_ns if self._pace == "recorded" else 0
        return Reply(
            text=answer.text,
            # half a text must not be mended into an answer that nobody gave
            finish="length" if len(answer.text) >= TEXT_KEPT else answer.finish,
            decided_ns=now_ns - max(0, rest_ns),
            answered_ns=now_ns,
            visual_tokens=request.visual_tokens,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            confidence=answer.verdict.confidence if answer.verdict is not None else None,
            verdict=answer.verdict if given_back else None,
            server=answer.server,
        )

    def _explanation(self, request: Request) -> Explanation | None:
        """The reasons given for this frame, if it is for them that it comes a second time."""
        if not self._explanations:
            return None
        frame = (request.camera, request.seq)
        if request.schema is None and frame in self._asked:
            self._asked.remove(frame)
            return self._explanations.get(frame)
        self._asked.add(frame)
        return None

    async def _explain(self, explanation: Explanation, request: Request, left_s: float) -> Reply:
        await self._take((explanation.answered_ns - explanation.started_ns) / 1e9, left_s)
        if explanation.error:
            kind, _, detail = explanation.error.partition(": ")
            raise FAULTS.get(kind, EngineError)(detail or kind)
        now_ns = self._clock.wall_ns()
        return Reply(
            text=explanation.text,
            finish="stop",
            decided_ns=now_ns,
            answered_ns=now_ns,
            visual_tokens=request.visual_tokens,
            output_tokens=explanation.output_tokens,
        )

    def _find(self, request: Request) -> _Outcome:
        picture = request.identity or identity(request.jpeg)
        several = self._outcomes.get(picture)
        if several is None:
            raise EngineRejected(f"{self._folder} holds no answer to this picture")
        outcome = _same_frame(several, request)
        if outcome is None:
            outcome = several[self._turns[picture] % len(several)]
            self._turns[picture] += 1
        then, now = outcome.answer.visual_tokens, request.visual_tokens
        pixels = self.traits.coord_space is CoordSpace.RESIZED_ABS
        if pixels and outcome.fault is None and then != now:
            raise EngineRejected(
                f"recorded with {then} visual tokens and asked with {now}: its boxes are in pixels "
                "of another size; replay with the same budget"
            )
        return outcome

    async def _take(self, lasted_s: float, left_s: float) -> None:
        """As long as it took then; EngineTimeout where that is longer than may be waited."""
        if self._pace == "instant":
            lasted_s = 0.0
        await asyncio.sleep(min(lasted_s, left_s))
        if lasted_s > left_s:
            raise EngineTimeout(f"no answer within {left_s:.3g} s; then it took {lasted_s:.3g} s")


def _same_frame(several: list[_Outcome], request: Request) -> _Outcome | None:
    frame = (request.camera, request.seq)
    return next((one for one in several if (one.camera, one.seq) == frame), None)


def _outcomes(log: RunLog) -> Mapping[str, list[_Outcome]]:
    """By identity, in the order in which they were asked."""
    found: defaultdict[str, list[_Outcome]] = defaultdict(list)
    answered = [frame for frame in log.frames if frame.answer is not None and frame.identity]
    for frame in sorted(answered, key=_began):
        outcome = _outcome(frame)
        if outcome is not None:
            found[frame.identity].append(outcome)
    return dict(found)


def _began(frame: FrameRecord) -> int:
    assert frame.answer is not None
    return frame.answer.started_ns


def _outcome(frame: FrameRecord) -> _Outcome | None:
    assert frame.answer is not None
    if frame.fate is Fate.ENGINE_ERROR:
        fault = FAULTS.get(frame.reason.value, EngineError)
        return _Outcome(frame.camera, frame.seq, frame.answer, fault, frame.detail)
    if frame.fate in (Fate.ANSWERED, Fate.BAD_JSON):
        # most answers are the same few words: kept once
        answer = replace(frame.answer, text=sys.intern(frame.answer.text))
        return _Outcome(frame.camera, frame.seq, answer)
    return None


def _traits(folder: Path, run: Mapping[str, Any]) -> Traits:
    """Those of the recorded engine, as far as sizes, boxes and crowds depend on them."""
    told = run.get("engine")
    if not isinstance(told, dict):
        raise UsageError(f"{folder}: holds no answers (the cameras' half of a run)")
    try:
        name, model = str(told["name"]), str(told["model"])
        if name == "recorded":
            name, _, model = model.partition("/")
        plain = Traits(
            name="recorded",
            model=f"{name}/{model}",
            needs_pixels=False,
            crops=False,  # only whole frames were recorded
            needs_identity=True,
            virtual_ok=True,
        )
        if "coord_space" not in told:
            if name in OWN_UNITS:
                return plain
            raise UsageError(
                f"{folder}: was recorded before run folders told how {name} writes boxes; "
                "record it again"
            )
        return replace(
            plain,
            coord_space=CoordSpace(told["coord_space"]),
            resize_mode=ResizeMode(told["resize_mode"]),
            min_tokens=int(told["min_tokens"]),
            max_tokens=int(told["max_tokens"]),
            max_concurrency=int(told["max_concurrency"]),
            default_concurrency=int(told["concurrency"]),
            clips=told["clips"] is True,
        )
    except (KeyError, TypeError, ValueError) as why:
        raise RunFolderError(f"{folder}: run.json does not tell its engine: {why!r}") from why


def _pace(options: Mapping[str, Any]) -> Literal["recorded", "instant"]:
    for key in options:
        if key != "pace":
            raise unknown("option of engine 'recorded'", key, ["pace"])
    match options.get("pace", "recorded"):
        case "recorded":
            return "recorded"
        case "instant":
            return "instant"
        case other:
            raise UsageError(f"option pace of engine 'recorded' is recorded or instant: {other!r}")
