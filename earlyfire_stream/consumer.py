"""Receive, sample, wait, look, judge, alarm, record: one fate for every frame.

The receive task parses headers and decides at once; it never waits for an engine. Looks are taken
by a bounded number of workers. Whatever leaves the path leaves a record with its reason, and what
never came is found by its missing sequence number.
"""

from __future__ import annotations

__all__ = ["Consumer", "Seat", "check"]

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt
import orjson

from earlyfire_stream.alarms import AlarmPolicyState, Polygon, heed, observe
from earlyfire_stream.breaker import Breaker
from earlyfire_stream.clock import Clock
from earlyfire_stream.contract import Parsed, prompt, read_reply
from earlyfire_stream.engines.base import Engine, Reply, Request, Traits
from earlyfire_stream.errors import (
    EngineError,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
    UsageError,
)
from earlyfire_stream.frames import Capture, Frame, FrameLimits, Refused, identity, parse, shard_of
from earlyfire_stream.gaps import Coming, Gaps
from earlyfire_stream.knee import Knee
from earlyfire_stream.logs import about
from earlyfire_stream.mailbox import Mailbox, Waiting
from earlyfire_stream.records import (
    AlarmRecord,
    Answer,
    CameraPlan,
    Explanation,
    FrameRecord,
    SecondLook,
    Snapshot,
)
from earlyfire_stream.sampling import CameraSampling, ChangeDetector, Load, wants
from earlyfire_stream.scenario.models import Scenario
from earlyfire_stream.second_look import ENLARGED, Window, inside, outside, settle, window
from earlyfire_stream.sources.base import Label
from earlyfire_stream.tokens import LearnedRate, TokenBudget, fit, fit_clip
from earlyfire_stream.transport.base import Arrival, Inlet
from earlyfire_stream.verdict import AlarmKind, Box, Fate, Reason, Truth, Verdict, burns

log = logging.getLogger(__name__)

REORDER_S = 30.0
"""Wall seconds after which a missing frame counts as lost while the stream goes on."""
QUIET_S = 2.0
"""Wall seconds without an arrival after which a finished stream is taken to have drained."""
_TURN_S = 0.1
"""Of them, between two looks at whether all is there."""
GRACE_S = 2.0
"""Wall seconds that what is under way is given after `stop`."""
TEXT_KEPT = 4000
"""Characters of a reply that a record keeps."""
EVERY_DEPTH = 10_000
"""Frames of one camera that may queue up where each one is looked at (policy `every`)."""
LEEWAY = 1000
LEEWAY_FACTOR = 4
"""A camera's sequence number is believed up to 1000 + 4 x what its cadence allows by now."""
FASTEST_S = 0.01
"""Cadence of a camera that declares none, for that purpose."""
STRANGERS = 10_000
"""Most cameras that are watched without having been announced; bounds memory."""
SKEW_S = 10.0
"""Wall seconds that the quickest of the first frames cannot have been on its way: the clocks of two
hosts differ."""
COMPARED = 10
"""The first frames; one may have waited in a broker, all of them hardly."""
SCORING_BACKLOG = 8
"""Change scores waiting for a thread, beyond which frames are sampled without one."""

TruthOf = Callable[[str, int, float], Label]
"""(camera, seq, captured_at) -> what is in the frame; for the `simulated` engine alone."""


@dataclass(frozen=True, slots=True)
class Seat:
    """What the consumer knows of one camera beforehand; a foreign camera has an empty one."""

    plan: CameraPlan | None = None
    known: frozenset[int] = frozenset()
    """Frames whose fate an earlier session of this run has recorded."""


@dataclass(slots=True)
class _Camera:
    gaps: Gaps = field(default_factory=Gaps)
    plan: CameraPlan | None = None
    foreign: bool = False
    sampling: CameraSampling = field(default_factory=CameraSampling)
    changes: ChangeDetector = field(default_factory=ChangeDetector)
    scoring: bool = False
    scored_at: float = float("-inf")
    newest_at: float = float("-inf")
    """Capture of the newest admitted frame, scenario seconds."""
    newest_seq: int = -1
    """Of the newest admitted frame."""
    last_at: float = 0.0
    """Capture of the newest frame that came."""
    alarms: AlarmPolicyState = field(default_factory=AlarmPolicyState)
    first_seq: int | None = None
    """The first frame that came; None before."""
    recent: deque[Waiting] = field(default_factory=deque)
    """The newest frames that came, for clips; oldest first."""
    unused: dict[int, tuple[Waiting, Fate, Reason, bool]] = field(default_factory=dict)
    """Frames among them that nobody looks at by themselves, by seq, with the fate they meet unless
    a clip takes them in."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a request was made of, for its record."""

    started_ns: int
    size: tuple[int, int]
    visual_tokens: int
    context: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Again:
    """A second look: its record, its request, and the reply if one came."""

    look: SecondLook
    request: Request
    reply: Reply | None = None

    def added_to(self, answer: Answer) -> Answer:
        """The answer to the frame with what this look cost and said."""
        look, reply = self.look, self.reply
        settled = look.first if look.verdict is None else settle(look.first, look.verdict)
        spent = look.visual_tokens if reply is None else reply.visual_tokens
        decided_ns = look.answered_ns
        if reply is not None and look.verdict is not None:
            decided_ns = reply.decided_ns
        return replace(
            answer,
            decided_ns=max(answer.decided_ns, decided_ns),
            answered_ns=max(answer.answered_ns, look.answered_ns),
            visual_tokens=answer.visual_tokens + spent,
            prompt_tokens=_both(answer.prompt_tokens, reply.prompt_tokens if reply else None),
            output_tokens=_both(answer.output_tokens, reply.output_tokens if reply else None),
            verdict=settled,
            second=replace(look, visual_tokens=spent),
        )


def _both(first: int | None, second: int | None) -> int | None:
    return first if second is None else (first or 0) + second


def check(scenario: Scenario, traits: Traits) -> None:
    """UsageError if that engine, once entered, cannot do what the scenario asks of it."""
    prompt(scenario.engine.prompt, traits.coord_space)
    if scenario.sampling.clip > 1 and not traits.clips:
        raise UsageError(
            f"engine {traits.name} takes single pictures only: sampling.clip must be 1, "
            "or take --engine hf"
        )
    if scenario.sampling.second_look and not traits.crops:
        raise UsageError(
            f"engine {traits.name} cannot look at a part of a frame: sampling.second_look must be "
            "false, or take another engine"
        )


class Consumer:
    """Watches one run. `watch()` returns when the stream has ended and every frame has its fate."""

    def __init__(
        self,
        run: str,
        scenario: Scenario,
        seats: Mapping[str, Seat],
        inlet: Inlet,
        engine: Engine,
        clock: Clock,
        emit: Callable[[FrameRecord | AlarmRecord | Explanation], None],
        *,
        truth_of: TruthOf | None = None,
        foreign: bool = False,
        strangers: bool = True,
        pixels: bool = True,
        shards: frozenset[int] | None = None,
        joined_late: bool = False,
        on_alarm_frame: Callable[[AlarmRecord, bytes], None] | None = None,
        on_missed_frame: Callable[[str, str, int, bytes], None] | None = None,
        on_picture: Callable[[str, int, bytes], None] | None = None,
        limits: FrameLimits | None = None,
    ) -> None:
        """`foreign`: topics of other people's cameras, whose comments count for nothing.

        `strangers` False: a camera without a seat is none of this run's, and what it sends is
        refused; its frames would have fates that nobody scheduled.
        `pixels` False: the frames are blank (virtual time), so nothing is decoded for sampling.
        `on_missed_frame` gets (fire, camera, seq, jpeg) of a frame in which a fire burns and no
        smoke was seen. `on_picture` gets (camera, seq, jpeg) of every sound frame as it comes.
        `joined_late`: what is missing before a camera's first arrival was lost to our absence.
        """
        self._run = run
        self._scenario = scenario
        self._inlet = inlet
        self._engine = engine
        self._clock = clock
        self._emit = emit
        self._truth_of = truth_of
        self._foreign = foreign
        self._strangers = strangers
        self._shards = shards
        self._joined_late = joined_late
        self._on_alarm_frame = on_alarm_frame
        self._on_missed_frame = on_missed_frame
        self._on_picture = on_picture
        self.limits = limits or FrameLimits()
        traits = engine.traits
        self._prompt = prompt(scenario.engine.prompt, traits.coord_space)
        self._min_tokens = max(scenario.budget.min_tokens, traits.min_tokens)
        # An engine's floor counts: Ollama from 0.30 blows smaller images up to 1024 tokens anyway.
        self._max_tokens = min(scenario.budget.max_tokens, traits.max_tokens)
        self._max_tokens = max(self._max_tokens, self._min_tokens)
        check(scenario, traits)
        self._clip = scenario.sampling.clip
        wanted = scenario.engine.concurrency
        first = traits.default_concurrency if wanted == "auto" else wanted
        first = min(first, traits.max_concurrency)
        seeks = wanted == "auto" and traits.seeks_knee
        self._knee = Knee(first, traits.max_concurrency) if seeks else None
        self._workers = traits.max_concurrency if seeks else first
        self._breaker = Breaker()
        self._cameras: dict[str, _Camera] = {}
        self._suspected: set[str] = set()
        """All that are under suspicion, and some that no longer are."""
        for name, seat in seats.items():
            self._cameras[name] = self._seated(seat)
        depth = EVERY_DEPTH if scenario.sampling.policy == "every" else 1
        self._mailbox = Mailbox(depth, max(scenario.engine.mailbox, depth))
        rate = scenario.budget.tokens_per_s
        given = rate if isinstance(rate, float | int) else None
        self._budget = TokenBudget(given, scenario.budget.burst, now_s=self._now_s())
        self._learn = rate == "auto"
        self._learned = LearnedRate()
        self._scores = pixels and scenario.sampling.policy == "adaptive"
        self._threads = None if clock.virtual else ThreadPoolExecutor(2, "decode")
        self._scoring = 0
        self._undecided: dict[str, Waiting] = {}
        """Frames whose fate hangs on a change score that a thread is working out."""
        self._in_flight: dict[str, Waiting] = {}
        self._asking = 0
        """Requests under way, those for explanations included."""
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        """Something under way has come to its end."""
        self._stop = asyncio.Event()
        self._last_seqs: Mapping[str, int] = {}
        """As `stop` was told."""
        self._over = False
        self._throttled_until_ns = 0
        self._throttled_ns = 0
        """Wall time for which the budget has held frames back; several workers wait at once."""
        self._usual_ns = 0.0
        """What a request has taken of late, a running mean."""
        self._last_tokens = self._max_tokens
        self._last_arrival_ns = clock.wall_ns()
        self._compared = 0
        self._quickest_s = float("inf")
        self.received = 0
        self.duplicates = 0
        self.tokens_spent = 0
        self.refused: Counter[str] = Counter()
        """Payloads that were no frame of anybody, by reason; they have no fate."""

    def _seated(self, seat: Seat) -> _Camera:
        camera = _Camera(plan=seat.plan)
        for seq in sorted(seat.known):
            camera.gaps.came(seq, 0, seq)
        return camera

    def _highest(self, plan: CameraPlan | None) -> int:
        """The last sequence number that a camera can have reached by now, with room to spare."""
        cadence_s = plan.cadence_s if plan is not None else None
        return LEEWAY + int(max(0.0, self._clock.now()) * LEEWAY_FACTOR / (cadence_s or FASTEST_S))

    @property
    def limit(self) -> int:
        """Requests that may be under way."""
        return self._knee.limit if self._knee is not None else self._workers

    def snapshot(self) -> Snapshot:
        self._suspected = {name for name in self._suspected if self._is_suspected(name)}
        return Snapshot(
            received=self.received,
            waiting=len(self._mailbox),
            in_flight=len(self._in_flight),
            tokens_spent=self.tokens_spent,
            tokens_per_s=self._budget.rate or self._learned.rate,
            utilization=self._budget.utilization(self._now_s()),
            concurrency=self.limit,
            duplicates=self.duplicates,
            refused=dict(self.refused),
            online=self._inlet.online,
            budget_waited_s=self._throttled_ns / 1e9,
            dropped=self._inlet.counts.dropped,
            turned_away=dict(self._inlet.counts.refused),
            reconnects=self._inlet.counts.reconnects,
            suspected=frozenset(self._suspected),
        )

    def _is_suspected(self, name: str) -> bool:
        camera = self._cameras[name]
        return camera.sampling.is_suspicious(camera.last_at)

    def stop(self, last_seqs: Mapping[str, int] | None = None) -> None:
        """End soon: nothing new is taken in, what is under way gets a short grace.

        `last_seqs` is the fleet's last word where the transport cannot bring it any more.
        """
        self._last_seqs = last_seqs or self._last_seqs
        self._stop.set()
        self._moved.set()

    def take_over(self, fallen: Consumer) -> None:
        """Go on where one has ended that was cancelled: a frame that it saw has its fate.

        Of what it thought of the cameras nothing is left, as after the end of its process.
        """
        self._joined_late = True
        for name, camera in fallen._cameras.items():
            mine = self._cameras.setdefault(name, _Camera(foreign=camera.foreign))
            mine.gaps, mine.last_at = camera.gaps, camera.last_at

    async def watch(self) -> None:
        """Work until the stream has ended or `stop` is called. Every frame then has its fate.

        Cancelled, it leaves what it had in hand as `abandoned(killed)`.
        """
        try:
            async with asyncio.TaskGroup() as group:
                intake = group.create_task(self._receive_all(), name="intake")
                housekeeping = group.create_task(self._keep_house(), name="housekeeping")
                crew = [
                    group.create_task(self._work(), name=f"worker {n}")
                    for n in range(self._workers)
                ]
                last_seqs = await self._until_drained()
                intake.cancel()
                self._give_up_missing(last_seqs)
                await self._until_idle()
                self._over = True
                self._wake.set()
                for task in (housekeeping, *crew):
                    task.cancel()
        except asyncio.CancelledError:
            self._abandon_rest(Reason.KILLED)
            raise
        finally:
            self._abandon_rest(Reason.STOPPED)
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)

    # --- the end of the stream ---

    async def _until_drained(self) -> Mapping[str, int]:
        """Wait for the fleet's last word and the frames before it, or for `stop`."""
        # Nobody announces the end of foreign cameras; a fleet of our run's name is another's.
        never = asyncio.get_running_loop().create_future()
        ended = asyncio.ensure_future(never if self._foreign else self._inlet.ended())
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                # Our own stop: the fleet may be stopping as well and tell its last numbers.
                await asyncio.wait({ended}, timeout=0.5)
            told = self._last_seqs
            if ended.done():
                control = ended.result()
                if control.start_ns > self._clock.start_ns:
                    return {}  # another fleet has taken the place of ours: not our numbers
                told = control.last_seqs or {}
            plans = {name: camera.plan for name, camera in self._cameras.items()}
            last_seqs = {
                name: last
                for name, last in told.items()
                if (self._shards is None or shard_of(name) in self._shards)
                and last <= self._highest(plans.get(name))
            }
        finally:
            for future in (ended, stopped):
                future.cancel()
            # not awaited by themselves: whether they or we are cancelled could not be told
            await asyncio.wait({ended, stopped})
        # Counted from the fleet's last word, which may overtake frames, and in turns of the loop:
        # while this process or the broker stood still nobody could come.
        quiet_s, newest_ns = 0.0, self._last_arrival_ns
        while quiet_s < QUIET_S and not all(
            name in self._cameras and self._cameras[name].gaps.has_all(last)
            for name, last in last_seqs.items()
            if last >= 0
        ):
            await asyncio.sleep(_TURN_S)
            quiet_s = quiet_s + _TURN_S if self._last_arrival_ns == newest_ns else 0.0
            newest_ns = self._last_arrival_ns
        return last_seqs

    async def _until_idle(self) -> None:
        """Until all is answered or expired; once `stop` is called, no longer than the grace."""
        loop = asyncio.get_running_loop()
        hurried = False
        # Housekeeping comes round every half second and expires what is past its deadline.
        patience_s = self._scenario.engine.deadline + 1.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s) as limit:
                while self._is_busy():
                    if self._stop.is_set() and not hurried:
                        hurried = True
                        limit.reschedule(loop.time() + GRACE_S)
                    self._moved.clear()
                    await self._moved.wait()

    def _is_busy(self) -> bool:
        return bool(len(self._mailbox) or self._in_flight or self._scoring or self._asking)

    def _give_up_missing(self, last_seqs: Mapping[str, int]) -> None:
        for name in last_seqs:
            if name not in self._cameras:
                self._cameras[name] = _Camera()
        for name, camera in self._cameras.items():
            self._let_go(camera)
            if not camera.foreign:
                gone = camera.gaps.close(last_seqs.get(name, -1))
                self._record_lost(name, camera, gone)

    def _record_lost(self, name: str, camera: _Camera, seqs: list[int]) -> None:
        for seq in seqs:
            first = camera.first_seq
            absent = self._joined_late and (first is None or seq < first)
            self._emit(
                FrameRecord(
                    camera=name,
                    seq=seq,
                    captured_at=camera.last_at,
                    captured_ns=self._clock.wall_of(camera.last_at),
                    fate=Fate.LOST,
                    reason=Reason.CONSUMER_DOWN if absent else Reason.GAP,
                )
            )

    def _abandon_rest(self, why: Reason) -> None:
        for waiting in (*self._mailbox.empty(), *self._in_flight.values()):
            self._fate(waiting, Fate.ABANDONED, why, admitted=True)
        for waiting in self._undecided.values():
            self._fate(waiting, Fate.ABANDONED, why)
        self._undecided.clear()
        for camera in self._cameras.values():
            self._let_go(camera)

    # --- receiving ---

    async def _receive_all(self) -> None:
        async for arrival in self._inlet.arrivals():
            self._receive(arrival)

    def _receive(self, arrival: Arrival) -> None:
        self.received += 1
        parsed = parse(arrival.payload, self.limits)
        capture = None if self._foreign else parsed.capture
        camera = self._cameras.get(arrival.camera)
        if camera is None and (not self._strangers or len(self._cameras) >= STRANGERS):
            self._refuse(arrival, parsed, "unknown_camera")
            return
        if capture is None:
            if camera is not None and not camera.foreign:
                # One of our own cameras never sends a picture without capture data.
                self._refuse(arrival, parsed, "no_capture_data")
                return
            if camera is None:
                camera = self._cameras[arrival.camera] = _Camera(foreign=True)
            capture = self._capture_on_arrival(arrival, camera)
        elif capture.run != self._run or capture.camera != arrival.camera:
            self._refuse(arrival, parsed, "another_stream")
            return
        if camera is None:
            camera = self._cameras[arrival.camera] = _Camera()
        coming = camera.gaps.came(capture.seq, arrival.received_ns, self._highest(camera.plan))
        if coming is Coming.ABSURD:
            self._refuse(arrival, parsed, "absurd_seq")
            return
        if coming is Coming.AGAIN:
            self.duplicates += 1
            return
        self._last_arrival_ns = arrival.received_ns
        self._compare_clocks(capture, arrival.received_ns)
        if camera.first_seq is None:
            camera.first_seq = capture.seq
        camera.last_at = max(camera.last_at, capture.captured_at)
        if isinstance(parsed, Refused):
            self._emit(
                FrameRecord(
                    camera=arrival.camera,
                    seq=capture.seq,
                    captured_at=capture.captured_at,
                    captured_ns=capture.captured_ns,
                    fate=Fate.UNDECODABLE,
                    reason=parsed.reason,
                    detail=parsed.detail,
                    received_ns=arrival.received_ns,
                    published_ns=capture.published_ns,
                )
            )
            return
        if self._on_picture is not None:
            self._on_picture(arrival.camera, capture.seq, parsed.jpeg)
        waiting = Waiting(
            camera=arrival.camera,
            seq=capture.seq,
            captured_at=capture.captured_at,
            captured_ns=capture.captured_ns,
            received_ns=arrival.received_ns,
            frame=parsed if parsed.capture is capture else replace(parsed, capture=capture),
        )
        if self._clip > 1:
            self._remember(camera, waiting)
        self._sample(camera, waiting)

    def _compare_clocks(self, capture: Capture, received_ns: int) -> None:
        if self._compared == COMPARED:
            return
        self._compared += 1
        self._quickest_s = min(self._quickest_s, (received_ns - capture.published_ns) / 1e9)
        if self._compared == COMPARED and abs(self._quickest_s) > SKEW_S:
            log.warning(
                "this host's clock is %.0f s %s that of the cameras: have both set by NTP; a frame "
                "that seems older than %g s is not looked at",
                abs(self._quickest_s),
                "ahead of" if self._quickest_s > 0 else "behind",
                self._scenario.engine.deadline,
            )

    def _remember(self, camera: _Camera, waiting: Waiting) -> None:
        """Keep it for the next clip; who is too old for one meets the fate that was put off."""
        camera.recent.append(waiting)
        if len(camera.recent) > self._clip:
            self._settle(camera, camera.recent.popleft().seq)

    def _settle(self, camera: _Camera, seq: int, taken: Fate | None = None) -> None:
        """Give a frame of `unused` its fate: the one that was put off, or `taken`."""
        if (found := camera.unused.pop(seq, None)) is None:
            return
        waiting, fate, reason, admitted = found
        if taken is None:
            self._close(waiting, fate, reason, admitted=admitted)
        else:
            self._close(waiting, taken, admitted=admitted)

    def _take_into_clip(self, one: Waiting) -> None:
        camera = self._cameras[one.camera]
        undecided = self._undecided.get(one.camera)
        if undecided is not None and undecided.seq == one.seq:
            del self._undecided[one.camera]
            self._close(one, Fate.CONTEXT)
        else:
            self._settle(camera, one.seq, Fate.CONTEXT)

    def _let_go(self, camera: _Camera) -> None:
        for seq in tuple(camera.unused):
            self._settle(camera, seq)

    def _capture_on_arrival(self, arrival: Arrival, camera: _Camera) -> Capture:
        now_ns = arrival.received_ns
        return Capture(
            run=self._run,
            camera=arrival.camera,
            seq=camera.gaps.next_seq,
            captured_at=self._clock.scenario_at(now_ns),
            captured_ns=now_ns,
            published_ns=now_ns,
            speed=self._clock.speed,
        )

    def _refuse(self, arrival: Arrival, parsed: Frame | Refused, why: str) -> None:
        reason = parsed.reason.value if isinstance(parsed, Refused) else why
        self.refused[reason] += 1
        if self.refused[reason] == 1:
            detail = parsed.detail if isinstance(parsed, Refused) else why.replace("_", " ")
            with about(arrival.camera):
                log.warning("a payload of camera %.80r was refused: %s", arrival.camera, detail)

    # --- sampling ---

    def _sample(self, camera: _Camera, waiting: Waiting) -> None:
        settings = self._scenario.sampling
        if waiting.seq > camera.newest_seq and waiting.captured_at < camera.newest_at:
            # Its clock was set back. What was concluded by the old one would blind us till then.
            camera.sampling = CameraSampling()
            camera.alarms = AlarmPolicyState()
            camera.newest_at = camera.scored_at = float("-inf")
        if waiting.captured_at <= camera.newest_at and settings.policy != "every":
            self._fate(waiting, Fate.SUPERSEDED, Reason.STALE_ON_ARRIVAL, admitted=False)
            return
        reason = wants(camera.sampling, settings, waiting.captured_at, self._load())
        if reason is None or self._mailbox.is_waiting(waiting.camera):
            # A frame that waits already is replaced by the fresher one, due or not.
            self._admit(camera, waiting)
            self._score_change(camera, waiting, undecided=None)
        else:
            self._score_change(camera, waiting, undecided=reason)

    def _score_change(self, camera: _Camera, waiting: Waiting, undecided: Reason | None) -> None:
        """Rate the change in a frame, if it is time to; an undecided frame's fate hangs on it."""
        due = waiting.captured_at - camera.scored_at >= ChangeDetector.EVERY_S - 0.0005
        if not self._scores or not due or camera.scoring or self._scoring >= SCORING_BACKLOG:
            if undecided is not None:
                self._fate(waiting, Fate.SAMPLED_OUT, undecided)
            return
        camera.scored_at = waiting.captured_at
        if self._threads is None:
            self._scored(camera, waiting, undecided, _change(camera.changes, waiting.frame))
            return
        camera.scoring = True
        self._scoring += 1
        if undecided is not None:
            self._undecided[waiting.camera] = waiting
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, _change, camera.changes, waiting.frame)

        def finish(done: asyncio.Future[float]) -> None:
            camera.scoring = False
            self._scoring -= 1
            self._moved.set()
            if undecided is not None and self._undecided.pop(waiting.camera, None) is None:
                return  # it has met its fate meanwhile: abandoned, or taken into a clip
            if not done.cancelled():
                self._scored(camera, waiting, undecided, done.result())

        future.add_done_callback(finish)

    def _scored(
        self, camera: _Camera, waiting: Waiting, undecided: Reason | None, score: float
    ) -> None:
        settings = self._scenario.sampling
        # Smoke that has been alarmed goes on changing the picture; its fire is known.
        alarmed_at = camera.alarms.emitted_at
        known = alarmed_at is not None and (
            waiting.captured_at - alarmed_at < self._scenario.alarm.repeat
        )
        if score >= settings.change and not known:
            self._suspect(camera, waiting)
        if undecided is None:
            return
        stale = waiting.captured_at <= camera.newest_at
        again = wants(camera.sampling, settings, waiting.captured_at, self._load())
        if again is None and not stale and not self._over:
            self._admit(camera, waiting)
        else:
            self._fate(waiting, Fate.SAMPLED_OUT, undecided)

    def _suspect(self, camera: _Camera, waiting: Waiting) -> None:
        camera.sampling.suspect(waiting.captured_at, self._scenario.sampling)
        self._suspected.add(waiting.camera)

    def _admit(self, camera: _Camera, waiting: Waiting) -> None:
        camera.newest_at = max(camera.newest_at, waiting.captured_at)
        camera.newest_seq = max(camera.newest_seq, waiting.seq)
        camera.sampling.last_look_at = waiting.captured_at
        if camera.sampling.is_suspicious(waiting.captured_at):
            waiting = replace(waiting, suspicious=True)
        if self._clip > 1:
            before = [w for w in camera.recent if w.captured_at < waiting.captured_at]
            before.sort(key=lambda w: w.captured_at)
            waiting = replace(waiting, context=tuple(before[1 - self._clip :]))
        for gone in self._mailbox.offer(waiting):
            self._fate(gone.waiting, gone.fate, gone.reason, admitted=True)
        self._wake.set()

    def _load(self) -> Load:
        rate = self._budget.rate or (self._learned.rate if self._learn else None)
        looks = None if rate is None else rate / self._last_tokens / self._clock.speed
        spare = 1.0 - self._budget.utilization(self._now_s()) if self._budget.rate else 1.0
        return Load(len(self._cameras), looks, spare)

    # --- looking ---

    async def _work(self) -> None:
        while True:
            waiting = await self._next()
            probe = self._breaker.sent()
            self._in_flight[waiting.camera] = waiting
            self._asking += 1
            question: Request | None = None
            try:
                try:
                    with about(waiting.camera):
                        question = await self._look(waiting, probe)
                finally:
                    self._mailbox.done(waiting.camera)
                    if probe is not None:
                        self._breaker.done(probe)
                self._wake.set()
                if question is not None:
                    await self._explain(question)
            finally:
                self._asking -= 1
            self._wake.set()
            self._moved.set()

    async def _next(self) -> Waiting:
        """The most urgent frame, once the budget has tokens for it."""
        while True:
            if self._asking >= self.limit:
                self._wake.clear()
                await self._wake.wait()
                continue
            rest_s = self._breaker.wait_s(self._now_s())
            if rest_s is None or (rest_s > 0 and not len(self._mailbox)):
                self._wake.clear()
                await self._wake.wait()
                continue
            if rest_s > 0:
                await asyncio.sleep(rest_s)
                continue
            pause_s = self._budget.wait_s(self._last_tokens, self._now_s())
            if pause_s > 0 and len(self._mailbox):
                now_ns = self._clock.wall_ns()
                until_ns = now_ns + round(pause_s * 1e9)
                self._throttled_ns += max(0, until_ns - max(now_ns, self._throttled_until_ns))
                self._throttled_until_ns = max(self._throttled_until_ns, until_ns)
                await asyncio.sleep(pause_s)
                continue
            waiting = self._mailbox.take(self._clock.wall_ns())
            if waiting is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            if self._is_late(waiting):
                self._expire(waiting)
                self._mailbox.done(waiting.camera)
                self._moved.set()
                continue
            return waiting

    def _is_late(self, waiting: Waiting) -> bool:
        """The deadline has passed, or will before the engine can be expected to answer."""
        left_ns = waiting.captured_ns + self._deadline_ns - self._clock.wall_ns()
        # An engine that always takes longer than half the deadline is tried all the same.
        return left_ns < min(self._usual_ns, self._deadline_ns / 2)

    @property
    def _deadline_ns(self) -> int:
        return round(self._scenario.engine.deadline * 1e9)

    def _expire(self, waiting: Waiting) -> None:
        if self._breaker.is_open:
            self._fate(waiting, Fate.EXPIRED, Reason.UNAVAILABLE, admitted=True)
            return
        # If the budget held a worker back while this frame waited, the budget is to blame.
        blame_budget = self._throttled_until_ns > waiting.received_ns
        fate = Fate.OVER_BUDGET if blame_budget else Fate.EXPIRED
        self._fate(waiting, fate, admitted=True)

    async def _look(self, waiting: Waiting, probe: int | None) -> Request | None:
        """Ask the engine for a verdict. Returns what to ask next, where reasons are wanted.

        `probe` is the breaker's number for it, if the engine did not answer of late.
        """
        frame = waiting.frame
        frames = (*waiting.context, waiting)
        try:
            width, height, count = fit_clip(
                frame.width, frame.height, len(frames), self._min_tokens, self._max_tokens
            )
        except ValueError as why:
            self._fate(waiting, Fate.UNDECODABLE, Reason.BAD_HEADER, str(why), admitted=True)
            return None
        # Before decoding, which takes a while: another worker must find the budget as it is.
        self._last_tokens = count
        self._budget.spend(count, self._now_s())
        images: list[npt.NDArray[np.uint8] | None] = [None] * len(frames)
        if self._engine.traits.needs_pixels:
            for n, one in enumerate(frames):
                images[n] = await self._in_thread(_decode, one.frame.jpeg, width, height)
            if images[-1] is None:
                detail = "the header is sound, the picture is not"
                self._fate(waiting, Fate.UNDECODABLE, Reason.TRUNCATED, detail, admitted=True)
                self._budget.refund(count, self._now_s())
                return None
        self.tokens_spent += count
        label = Label(None)
        if self._truth_of is not None:
            label = self._truth_of(waiting.camera, waiting.seq, waiting.captured_at)
        # An older frame that cannot be decoded is left out; it meets the fate it would have met.
        context = [
            (one, image)
            for one, image in zip(frames[:-1], images[:-1], strict=True)
            if image is not None or not self._engine.traits.needs_pixels
        ]
        for one, _ in context:
            self._take_into_clip(one)
        user = self._prompt.user(width, height)
        if context:
            seconds = round(waiting.captured_at - context[0][0].captured_at, 3)
            user = self._prompt.user_of_clip(width, height, len(context) + 1, seconds)
        started_ns = self._clock.wall_ns()
        request = Request(
            camera=waiting.camera,
            seq=waiting.seq,
            captured_at=waiting.captured_at,
            image=images[-1],
            jpeg=frame.jpeg,
            visual_tokens=count,
            system=self._prompt.system,
            user=user,
            schema=self._prompt.schema if self._scenario.engine.decode == "constrained" else None,
            deadline_ns=waiting.captured_ns + self._deadline_ns,
            clip=tuple((one.captured_at, image) for one, image in context if image is not None),
            identity=identity(frame.jpeg),
            truth=label.truth,
            smoke=label.smoke,
        )
        crowd = len(self._in_flight)
        # Whether the engine is the bottleneck shows as the request begins and as it ends.
        full = self._is_full()
        sent = _Sent(started_ns, (width, height), count, tuple(o.seq for o, _ in context))
        try:
            reply = await self._ask(request, started_ns, probe)
        except EngineError as why:
            if self._knee is not None and isinstance(why, EngineOverloaded | EngineTimeout):
                self._knee.failed(self._now_s())
            self._failed(waiting, sent, request.identity, why)
            return None
        busy_s = (reply.answered_ns - started_ns) / 1e9
        self._usual_ns += 0.2 * (busy_s * 1e9 - self._usual_ns)
        self._learned.observe(count, busy_s, crowd, self.limit)
        if self._knee is not None:
            self._knee.answered(self._now_s(), full=full and self._is_full())
        parsed = self._read(waiting, reply, sent.size)
        again = await self._look_again(waiting, request, parsed.verdict)
        verdict = self._judge(waiting, reply, parsed, sent, request.identity, again)
        wanted = self._scenario.engine.explain
        if wanted == "never" or verdict is None or reply.verdict is not None:
            return None
        if wanted == "positives" and not verdict.has_smoke:
            return None
        # reasons are asked for where the verdict was settled
        if again is not None and again.look.verdict is not None:
            request, said, size = again.request, again.look.text, again.look.sent_size
        else:
            said, size = reply.text[:TEXT_KEPT], sent.size
        return replace(request, user=self._prompt.explain(*size, said), schema=None)

    async def _look_again(
        self, waiting: Waiting, request: Request, verdict: Verdict | None
    ) -> _Again | None:
        """Send a crop around the box of a positive, where that is wanted; None where it is not.

        It is bound by the frame's deadline and by the budget, and never fails: then its record says
        why there is no second verdict.
        """
        if not self._scenario.sampling.second_look or verdict is None:
            return None
        if not verdict.has_smoke or verdict.box is None:
            return None
        size = (waiting.frame.width, waiting.frame.height)
        part = window(verdict.box, size)
        if part is None:
            return None
        left, top, right, bottom = part
        try:
            width, height, count = fit(
                ENLARGED * (right - left),
                ENLARGED * (bottom - top),
                self._min_tokens,
                self._max_tokens,
            )
        except ValueError:
            return None  # a strip that no engine takes
        look = SecondLook(
            crop=outside(Box(0.5, 0.5, 1.0, 1.0), part, size),
            sent_size=(width, height),
            started_ns=self._clock.wall_ns(),
            answered_ns=self._clock.wall_ns(),
            visual_tokens=0,
            first=verdict,
        )
        again = _Again(look, request)
        while (pause_s := self._budget.wait_s(count, self._now_s())) > 0:
            if self._clock.wall_ns() + round(pause_s * 1e9) >= request.deadline_ns:
                return self._given_up(again, "over_budget: no tokens before the deadline")
            await asyncio.sleep(pause_s)
        # Before decoding, which takes a while: another worker must find the budget as it is.
        self._budget.spend(count, self._now_s())
        image = None
        if self._engine.traits.needs_pixels:
            image = await self._in_thread(_Crop(part), waiting.frame.jpeg, width, height)
            if image is None:
                self._budget.refund(count, self._now_s())
                return self._given_up(again, "undecodable: the picture is not sound")
        self.tokens_spent += count
        started_ns = self._clock.wall_ns()
        again = _Again(
            replace(look, started_ns=started_ns, visual_tokens=count),
            replace(
                request,
                image=image,
                visual_tokens=count,
                user=self._prompt.user(width, height),
                clip=(),
                truth=_truth_inside(request.truth, part, size),
                crop=True,
            ),
        )
        try:
            reply = await self._ask(again.request, started_ns)
        except EngineError as why:
            return self._given_up(again, _utf8(f"{why.kind}: {why}"[:300]))
        parsed = self._read(waiting, reply, (width, height), (right - left, bottom - top))
        told, error = parsed.verdict, ""
        if told is None:
            assert parsed.bad is not None
            error = _utf8(f"{parsed.bad.reason.value}: {parsed.bad.detail}"[:300])
        elif told.box is not None:
            told = replace(told, box=outside(told.box, part, size))
        look = replace(
            again.look,
            answered_ns=reply.answered_ns,
            verdict=told,
            text=_utf8(reply.text[:TEXT_KEPT]),
            error=error,
        )
        return _Again(look, again.request, reply)

    def _given_up(self, again: _Again, why: str) -> _Again:
        look = replace(again.look, answered_ns=self._clock.wall_ns(), error=why)
        return _Again(look, again.request)

    def _is_full(self) -> bool:
        return self._asking >= self.limit and len(self._mailbox) > 0

    async def _ask(self, request: Request, started_ns: int, probe: int | None = None) -> Reply:
        """One request within its deadline and the engine's timeout; EngineError if it fails."""
        limit_s = min(self._scenario.engine.timeout, (request.deadline_ns - started_ns) / 1e9)
        try:
            async with asyncio.timeout(max(0.0, limit_s)):
                reply = await self._engine.infer(request)
        except TimeoutError:
            self._timed_out(started_ns, probe)
            raise EngineTimeout("no answer") from None
        except EngineTimeout:
            self._timed_out(started_ns, probe)
            raise
        except EngineUnavailable:
            self._unanswered(probe)
            raise
        except EngineError:
            self._somebody()
            raise
        except Exception as why:  # an engine's bug must not end the run: this is its boundary
            self._somebody()
            log.exception("engine %s failed on a frame", self._engine.traits.name)
            raise EngineError(f"{type(why).__name__}: {why}") from why
        self._somebody()
        return reply

    def _timed_out(self, started_ns: int, probe: int | None) -> None:
        """A frame that had little time left when it was sent says nothing about the engine."""
        usual_s = min(self._scenario.engine.timeout, self._scenario.engine.deadline)
        if self._breaker.is_open or self._now_s() - started_ns / 1e9 >= usual_s / 2:
            self._unanswered(probe)

    def _unanswered(self, probe: int | None) -> None:
        if self._breaker.failed(self._now_s(), probe):
            log.warning("the engine does not answer: one frame at a time asks until it does")

    def _somebody(self) -> None:
        """Whatever it said, somebody is there."""
        if self._breaker.answered():
            log.warning("the engine answers again")

    async def _explain(self, question: Request) -> None:
        """Ask for the reasons of a verdict that is known, recorded and acted upon already."""
        if self._stop.is_set():
            return
        started_ns = self._clock.wall_ns()
        timeout_ns = round(self._scenario.engine.timeout * 1e9)
        question = replace(question, deadline_ns=started_ns + timeout_ns)
        reply, error, tokens = None, "", question.visual_tokens
        try:
            if self._breaker.is_open:  # one request at a time asks then, and it is a frame's
                tokens = 0
                raise EngineUnavailable("not asked: the engine does not answer")
            self._budget.spend(tokens, self._now_s())
            self.tokens_spent += tokens
            reply = await self._ask(question, started_ns)
        except EngineError as why:
            error = _utf8(f"{why.kind}: {why}"[:300])
        self._emit(
            Explanation(
                camera=question.camera,
                seq=question.seq,
                started_ns=started_ns,
                answered_ns=self._clock.wall_ns() if reply is None else reply.answered_ns,
                visual_tokens=tokens,
                text="" if reply is None else _utf8(reply.text[:TEXT_KEPT]),
                output_tokens=None if reply is None else reply.output_tokens,
                error=error,
            )
        )

    def _failed(self, waiting: Waiting, sent: _Sent, key: str, why: EngineError) -> None:
        now_ns = self._clock.wall_ns()
        answer = Answer(
            started_ns=sent.started_ns,
            decided_ns=now_ns,
            answered_ns=now_ns,
            sent_size=sent.size,
            visual_tokens=sent.visual_tokens,
            context=sent.context,
        )
        self._fate(
            waiting,
            Fate.ENGINE_ERROR,
            Reason(why.kind),
            _utf8(str(why)[:300]),
            admitted=True,
            answer=answer,
            key=key,
        )

    def _read(
        self,
        waiting: Waiting,
        reply: Reply,
        sent_size: tuple[int, int],
        original: tuple[int, int] | None = None,
    ) -> Parsed:
        """`original` is the size of what was sent before it was resized: the frame's, or a crop's.

        An engine's own verdict needs no reading.
        """
        if reply.verdict is not None:
            return Parsed(reply.verdict)
        return read_reply(
            reply.text,
            reply.finish,
            self._prompt.space,
            self._engine.traits.resize_mode,
            original or (waiting.frame.width, waiting.frame.height),
            sent_size,
            reply.confidence,
        )

    def _judge(
        self,
        waiting: Waiting,
        reply: Reply,
        parsed: Parsed,
        sent: _Sent,
        key: str,
        again: _Again | None,
    ) -> Verdict | None:
        verdict, bad = parsed.verdict, parsed.bad
        answer = Answer(
            started_ns=sent.started_ns,
            decided_ns=reply.decided_ns,
            answered_ns=reply.answered_ns,
            sent_size=sent.size,
            visual_tokens=reply.visual_tokens,
            prompt_tokens=reply.prompt_tokens,
            output_tokens=reply.output_tokens,
            finish=reply.finish,
            text=_utf8(reply.text[:TEXT_KEPT]),
            verdict=verdict,
            box_error=parsed.box_error,
            server=reply.server,
            context=sent.context,
        )
        if again is not None and verdict is not None:
            answer = again.added_to(answer)
            verdict = answer.verdict
        if verdict is None:
            assert bad is not None
            fate, reason, detail = Fate.BAD_JSON, bad.reason, bad.detail
        else:
            fate, reason, detail = Fate.ANSWERED, Reason.NONE, ""
        self._fate(waiting, fate, reason, detail, admitted=True, answer=answer, key=key)
        if verdict is not None:
            self._consider(waiting, verdict, answer)
        return verdict

    # --- alarming ---

    def _consider(self, waiting: Waiting, verdict: Verdict, answer: Answer) -> None:
        camera = self._cameras[waiting.camera]
        policy = self._scenario.alarm
        heeded = heed(verdict, _polygons(camera))
        camera.alarms, candidate = observe(
            camera.alarms,
            policy,
            waiting.captured_at,
            waiting.seq,
            heeded.has_smoke,
            heeded.confidence,
            heeded.box,
        )
        if heeded.has_smoke and candidate is None:
            self._suspect(camera, waiting)
        body = {
            "run": self._run,
            "camera": waiting.camera,
            "seq": waiting.seq,
            "captured_at": waiting.captured_at,
            "captured_ns": waiting.captured_ns,
            "has_smoke": verdict.has_smoke,
            "box": verdict.box,
            "confidence": verdict.confidence,
        }
        self._inlet.post(waiting.camera, "verdict", orjson.dumps(body))
        if not heeded.has_smoke and self._on_missed_frame is not None and camera.plan is not None:
            for fire in camera.plan.fires if camera.plan.truth else ():
                if burns(fire, waiting.captured_at):
                    self._on_missed_frame(fire.id, waiting.camera, waiting.seq, waiting.frame.jpeg)
        if candidate is None:
            return
        alarm = candidate.alarm(waiting.camera, answer.decided_ns)
        record = AlarmRecord(alarm, candidate.emit, self._clock.wall_ns())
        self._emit(record)
        if candidate.emit:
            camera.sampling.relax(alarm.completed_at)
            kind = self._kind(camera, alarm.completed_at)
            message = orjson.dumps({"run": self._run, "kind": kind, "alarm": alarm})
            self._inlet.post(waiting.camera, "alarm", message)
            if self._on_alarm_frame is not None:
                self._on_alarm_frame(record, waiting.frame.jpeg)

    @staticmethod
    def _kind(camera: _Camera, at: float) -> AlarmKind:
        """By time alone; whether the box is in the right place is left to scoring."""
        if camera.plan is None or not camera.plan.truth:
            return AlarmKind.UNKNOWN
        burning = any(burns(fire, at) for fire in camera.plan.fires)
        return AlarmKind.TRUE if burning else AlarmKind.FALSE

    # --- keeping house ---

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            now_ns = self._clock.wall_ns()
            for waiting in self._mailbox.expire(now_ns - self._deadline_ns):
                self._expire(waiting)
                self._moved.set()
            for name, camera in self._cameras.items():
                overdue = camera.gaps.overdue(now_ns - round(REORDER_S * 1e9))
                self._record_lost(name, camera, overdue)

    def _fate(
        self,
        waiting: Waiting,
        fate: Fate,
        reason: Reason = Reason.NONE,
        detail: str = "",
        *,
        admitted: bool = False,
        answer: Answer | None = None,
        key: str = "",
    ) -> None:
        """The frame's fate; put off where a clip may still take the frame in."""
        if self._in_flight.get(waiting.camera) is waiting:
            del self._in_flight[waiting.camera]
        if self._clip > 1 and fate in (Fate.SAMPLED_OUT, Fate.SUPERSEDED):
            camera = self._cameras[waiting.camera]
            if any(one.seq == waiting.seq for one in camera.recent):
                camera.unused[waiting.seq] = (waiting, fate, reason, admitted)
                return
        self._close(waiting, fate, reason, detail, admitted=admitted, answer=answer, key=key)

    def _close(
        self,
        waiting: Waiting,
        fate: Fate,
        reason: Reason = Reason.NONE,
        detail: str = "",
        *,
        admitted: bool = False,
        answer: Answer | None = None,
        key: str = "",
    ) -> None:
        capture = waiting.frame.capture
        assert capture is not None
        self._emit(
            FrameRecord(
                camera=waiting.camera,
                seq=waiting.seq,
                captured_at=waiting.captured_at,
                captured_ns=waiting.captured_ns,
                fate=fate,
                reason=reason,
                detail=detail,
                received_ns=waiting.received_ns,
                published_ns=capture.published_ns,
                admitted=admitted,
                identity=key,
                answer=answer,
            )
        )

    def _now_s(self) -> float:
        return self._clock.wall_ns() / 1e9

    async def _in_thread(
        self,
        work: Callable[[bytes, int, int], npt.NDArray[np.uint8] | None],
        jpeg: bytes,
        width: int,
        height: int,
    ) -> npt.NDArray[np.uint8] | None:
        if self._threads is None:
            return work(jpeg, width, height)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, jpeg, width, height)


def _utf8(text: str) -> str:
    """A server's JSON may hold half a surrogate pair, which no record can."""
    return text.encode(errors="replace").decode()


def _polygons(camera: _Camera) -> tuple[Polygon, ...]:
    return camera.plan.ignore if camera.plan is not None else ()


def _decode(jpeg: bytes, width: int, height: int) -> npt.NDArray[np.uint8] | None:
    """Decode and resize, BGR; None if the picture cannot be read.

    Area averaging where it shrinks by half or more (no aliasing), linear otherwise (five times
    faster, and between 1 and 2 the difference cannot be seen).
    """
    # As the header says: turned by its EXIF data it would not fit the size that was worked out.
    how_read = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), how_read)
    if image is None:
        return None
    shrink = image.shape[1] / width
    how = cv2.INTER_AREA if shrink >= 2 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


@dataclass(frozen=True, slots=True)
class _Crop:
    """Decodes a part of a picture, resized to the size that is asked for; see `_decode`."""

    part: Window

    def __call__(self, jpeg: bytes, width: int, height: int) -> npt.NDArray[np.uint8] | None:
        how_read = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), how_read)
        if image is None:
            return None
        left, top, right, bottom = self.part
        cut = image[top:bottom, left:right]
        if not cut.size:
            return None  # the header spoke of a larger picture
        how = cv2.INTER_AREA if cut.shape[1] >= 2 * width else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(cut, (width, height), interpolation=how), np.uint8)


def _truth_inside(truth: Iterable[Truth], part: Window, size: tuple[int, int]) -> tuple[Truth, ...]:
    """What of the truth is to be seen in a crop; for the `simulated` engine alone."""
    seen = []
    for one in truth:
        if one.box is None:
            seen.append(one)
        elif (box := inside(one.box, part, size)) is not None:
            seen.append(replace(one, box=box))
    return tuple(seen)


def _change(detector: ChangeDetector, frame: Frame) -> float:
    """The change score of a frame, decoded 160 pixels wide or more; 0 if it cannot be read."""
    if frame.width >= 1280:
        size = cv2.IMREAD_REDUCED_GRAYSCALE_8
    elif frame.width >= 640:
        size = cv2.IMREAD_REDUCED_GRAYSCALE_4
    else:
        size = cv2.IMREAD_REDUCED_GRAYSCALE_2
    gray = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), size)
    return 0.0 if gray is None else detector.score(np.asarray(gray, np.uint8))
