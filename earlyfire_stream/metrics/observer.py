"""Counts what a run does, as an observer, and tells it to whoever scrapes.

Counting happens in the event loop, on plain integers and lists, in about a microsecond a frame.
Collecting happens in the scraper's thread: it copies what it reads in one step and builds the
samples from the copy, so neither ever waits for the other. What only the consumer knows is read in
the loop once a second and at the end. A histogram's `_sum` may therefore be one frame ahead of its
buckets while frames come; nothing is once the run has ended.
"""

from __future__ import annotations

__all__ = ["METRICS_FILE", "Metrics"]

import asyncio
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from earlyfire_stream import __version__
from earlyfire_stream.clock import Clock
from earlyfire_stream.gaps import Unsent
from earlyfire_stream.metrics.endpoint import write
from earlyfire_stream.metrics.families import (
    CAMERA_SERIES,
    FAMILIES,
    INTERVAL_S,
    LATENCY_S,
    LATENESS_S,
    PREFIX,
    SILENT_AFTER_S,
    TTFD_S,
    Family,
    Kind,
    Role,
)
from earlyfire_stream.records import (
    AlarmRecord,
    CameraPlan,
    Explanation,
    FrameRecord,
    Playing,
    Shot,
    Snapshot,
)
from earlyfire_stream.scoring import Score
from earlyfire_stream.scoring.detection import ASPECT, classify
from earlyfire_stream.verdict import AlarmKind, Fate, Reason, Truth, burns

METRICS_FILE = "metrics.prom"
TICK_S = 1.0
MOMENT_S = 15.0
"""Wall seconds for which a fault that happens in a moment lasts: no scrape misses it."""
LABEL_CHARS = 200
"""A model may be named by a long path; a label need not."""
EXEMPLAR_CAMERA_CHARS = 48
"""Prometheus takes 128 characters of names and values: 17 are names, 32 the picture's identity."""
LATE = "late"
"""The kind of an alarm beyond the horizon of a burning fire, as scoring calls it."""

_REASONS: Mapping[Fate, tuple[Reason, ...]] = {
    Fate.UNSENT: (Reason.OUTAGE, Reason.BROKER_DOWN, Reason.LATE, Reason.SOURCE_BROKEN),
    Fate.LOST: (Reason.GAP, Reason.CONSUMER_DOWN),
    Fate.UNDECODABLE: (
        Reason.NOT_JPEG,
        Reason.TOO_LARGE,
        Reason.TOO_MANY_PIXELS,
        Reason.BAD_HEADER,
        Reason.TRUNCATED,
    ),
    Fate.SAMPLED_OUT: (Reason.IDLE, Reason.LOAD),
    Fate.SUPERSEDED: (Reason.NEWER, Reason.STALE_ON_ARRIVAL, Reason.CAMERA_LIMIT),
    Fate.EXPIRED: (Reason.NONE,),
    Fate.OVER_BUDGET: (Reason.NONE,),
    Fate.CONTEXT: (Reason.NONE,),
    Fate.ANSWERED: (Reason.NONE,),
    Fate.BAD_JSON: (
        Reason.NOT_JSON,
        Reason.SCHEMA,
        Reason.CUT_OFF,
        Reason.SENTINEL,
        Reason.EMPTY,
    ),
    Fate.ENGINE_ERROR: (
        Reason.UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.TIMEOUT,
        Reason.REJECTED,
        Reason.BROKEN_ANSWER,
        Reason.ERROR,
    ),
    Fate.ABANDONED: (Reason.STOPPED,),
}
"""Each begins at 0, or the first frame of a kind would be no increase."""
_BAD = frozenset(reason.value for reason in _REASONS[Fate.BAD_JSON])
_ERRORS = frozenset(reason.value for reason in _REASONS[Fate.ENGINE_ERROR])
_ALARM_KINDS = (*(kind.value for kind in AlarmKind), LATE)
STAGES = ("send", "transit", "wait", "infer")
VERDICT, SECOND_LOOK, EXPLANATION = "verdict", "second_look", "explanation"

Labels: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class _Histogram:
    """Observations by bucket, the last one behind the greatest bound."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0
    latest: list[Shot | FrameRecord | None] = field(init=False)
    """By bucket: of which frame the newest observation is, where that is told."""
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)
        self.latest = [None] * (len(self.bounds) + 1)
        self.names = tuple(_number(bound) for bound in (*self.bounds, math.inf))

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class _Cell:
    """A count and the frame that raised it last."""

    count: int = 0
    latest: FrameRecord | None = None


Value: TypeAlias = float | _Histogram | _Cell
Points: TypeAlias = Iterable[tuple[Labels, Value]]


@dataclass(slots=True)
class _Camera:
    plan: CameraPlan | None
    last_ns: int
    """Wall instant at which its newest frame came; before the first, when the run began."""
    frames: int = 0
    answers: int = 0
    alarms: int = 0
    looked_at: float | None = None
    looked_seq: int = -1
    truth: tuple[Truth, ...] = ()
    """What is in the frame that was looked at last, as far as the cameras' half tells."""
    smoke: bool | None = None
    aspect: float = ASPECT
    interval_s: float | None = None
    latency_s: float | None = None
    verdict: bool | None = None


def _number(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


class _Spans:
    """How many of some spans of scenario time have begun, and how many last at an instant."""

    def __init__(self, spans: Iterable[tuple[float, float | None]]) -> None:
        known = [(start, math.inf if end is None else end) for start, end in spans]
        self._starts = sorted(start for start, _ in known)
        self._ends = sorted(end for _, end in known)

    def begun(self, at: float) -> int:
        return bisect_right(self._starts, at)

    def lasting(self, at: float) -> int:
        return self.begun(at) - bisect_right(self._ends, at)


def _scripted(
    playing: Playing | None, plans: Sequence[CameraPlan], speed: float
) -> dict[str, _Spans]:
    """By kind, what the scene and its faults take from the cameras: each kind from the begin on."""
    spans: dict[str, list[tuple[float, float | None]]] = {
        "network": list(playing.network_outages) if playing is not None else [],
        "outage": [window for plan in plans for window in plan.outages],
    }
    for fault in playing.faults if playing is not None else ():
        end = fault.end if fault.end > fault.start else fault.start + MOMENT_S * speed
        # one that meets no camera of this process is under way all the same
        met = max(1, sum(fault.meets(plan.id) for plan in plans))
        spans.setdefault(fault.kind, []).extend([(fault.start, end)] * met)
    return {kind: _Spans(windows) for kind, windows in spans.items()}


class Metrics:
    """An observer of one run that registers itself with `registry`.

    `camera_series`: cameras up to which each one has series of its own.
    At the end everything in the registry is written to the run's folder, as METRICS_FILE.
    """

    def __init__(self, registry: CollectorRegistry, camera_series: int = CAMERA_SERIES) -> None:
        self._registry = registry
        self._camera_series = camera_series
        self._playing: Playing | None = None
        self._clock: Clock | None = None
        self._snapshot: Callable[[], Snapshot] | None = None
        self._seen: Snapshot | None = None
        self._streaming = False
        self._over = False
        self._frozen_at: float | None = None
        """The scenario second at which the run ended."""
        self._cameras: dict[str, _Camera] = {}
        self._fires = _Spans(())
        self._scripted: dict[str, _Spans] = {}
        """By kind of fault: one span a camera that it meets."""
        self._sides = frozenset[Role]()
        # the cameras' half
        self._scheduled = self._published = self._bytes = 0
        self._unsent: dict[str, int] = {}
        self._unsent_frames = Unsent()
        self._sent: set[str] = set()
        self._truths: dict[tuple[str, int], tuple[tuple[Truth, ...], bool | None]] = {}
        self._lateness = _Histogram(LATENESS_S)
        self._lag = _Histogram(LATENESS_S)
        # the consumer's half
        self._model: Labels = ("", "")
        self._fates: dict[tuple[Fate, Reason], _Cell] = {}
        self._requests: dict[tuple[str, str], int] = {}
        """By purpose and outcome; those for verdicts are told by the fates."""
        self._visual: dict[str, int] = {VERDICT: 0}
        self._prompt = self._output = self._skewed = 0
        self._inference = _Histogram(LATENCY_S)
        self._decision = _Histogram(LATENCY_S)
        self._latency = _Histogram(LATENCY_S)
        self._stages = {name: _Histogram(LATENCY_S) for name in STAGES}
        self._interval = _Histogram(INTERVAL_S)
        self._alarms = dict.fromkeys(_ALARM_KINDS, 0)
        self._candidates = dict.fromkeys(_ALARM_KINDS, 0)
        self._alarmed: set[tuple[str, str]] = set()
        # the end
        self._score: Score | None = None
        self._ttfd = _Histogram(TTFD_S)
        registry.register(self)

    # --- what an observer is told ---

    def stage(self, text: str, share: float | None = None) -> None:
        """Nothing to count."""

    def opened(self, playing: Playing) -> None:
        self._playing = playing
        self._model = (playing.engine, playing.model)

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        role = self._playing.role if self._playing is not None else None
        sides = {Role.EITHER}
        if snapshot is not None:
            sides.add(Role.CONSUMER)
        if snapshot is None or role != "consume":
            sides.add(Role.CAMERAS)
        if sides == {Role.EITHER, Role.CONSUMER, Role.CAMERAS}:
            sides.add(Role.BOTH)
        self._sides = frozenset(sides)
        if Role.CONSUMER in sides:
            for fate, reasons in _REASONS.items():
                if fate is not Fate.UNSENT or Role.BOTH in sides:
                    self._fates.update({(fate, reason): _Cell() for reason in reasons})
        if Role.CAMERAS in sides:
            self._unsent.update({reason.value: 0 for reason in _REASONS[Fate.UNSENT]})
        self._fires = _Spans((fire.onset, fire.end) for plan in plans for fire in plan.fires)
        self._scripted = _scripted(self._playing, plans, clock.speed)
        begun_ns = max(clock.wall_ns(), clock.start_ns)
        self._cameras = {plan.id: _Camera(plan, begun_ns) for plan in plans}
        self._clock, self._snapshot = clock, snapshot
        self._streaming = True
        self._look()
        if not clock.virtual:  # nobody scrapes a run that is over in a moment
            loop = asyncio.get_running_loop()
            loop.call_at(loop.time() + TICK_S, self._tick, loop.time() + TICK_S)

    def _tick(self, due: float) -> None:
        if not self._streaming:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._lag.observe(max(0.0, now - due))
        self._look()
        due = max(due + TICK_S, now)
        loop.call_at(due, self._tick, due)

    def _look(self) -> None:
        if self._snapshot is not None:
            self._seen = self._snapshot()

    def shot(self, shot: Shot) -> None:
        self._scheduled += 1
        late_s, lateness = shot.late_s, self._lateness
        place = bisect_left(LATENESS_S, late_s)
        lateness.counts[place] += 1
        lateness.latest[place] = shot
        lateness.total += late_s
        if shot.unsent:
            self._withhold(shot)
            return
        self._published += 1
        self._bytes += shot.size_bytes
        if self._snapshot is None:
            self._sent.add(shot.camera)
        elif shot.smoke or shot.truth:
            self._truths[shot.camera, shot.seq] = shot.truth, shot.smoke

    def _withhold(self, shot: Shot) -> None:
        reason = shot.unsent
        self._unsent[reason.value] = self._unsent.get(reason.value, 0) + 1
        if self._snapshot is None:
            self._sent.discard(shot.camera)
        else:
            self._unsent_frames.withheld(shot.camera, shot.seq)
            self._fates.setdefault((Fate.UNSENT, reason), _Cell()).count += 1

    def frame(self, record: FrameRecord) -> None:
        name, fate = record.camera, record.fate
        if self._unsent_frames and self._unsent_frames.explains(name, record.seq, fate):
            return
        key = fate, record.reason
        cell = self._fates.get(key)
        if cell is None:
            cell = self._fates[key] = _Cell()
        cell.count += 1
        cell.latest = record
        camera = self._cameras.get(name)
        if camera is None:
            camera = self._cameras[name] = _Camera(None, record.received_ns or 0)
        received_ns = record.received_ns
        if received_ns is not None:
            camera.frames += 1
            if received_ns > camera.last_ns:
                camera.last_ns = received_ns
        told = self._truths.pop((name, record.seq), None) if self._truths else None
        if record.answer is not None:
            self._answered(record, camera)
            camera.truth, camera.smoke = told or ((), None)

    def _answered(self, record: FrameRecord, camera: _Camera) -> None:
        answer = record.answer
        assert answer is not None
        started_ns, answered_ns = answer.started_ns, answer.answered_ns
        busy_s = (answered_ns - started_ns) / 1e9
        self._inference.observe(busy_s)
        captured_at, before = record.captured_at, camera.looked_at
        if before is None or captured_at > before:
            if before is not None:
                self._interval.observe(captured_at - before)
                camera.interval_s = captured_at - before
            camera.looked_at = captured_at
        camera.looked_seq = record.seq
        camera.aspect = answer.sent_size[0] / answer.sent_size[1]
        if record.reason is not Reason.UNAVAILABLE:
            self._visual[VERDICT] += answer.visual_tokens
            self._prompt += answer.prompt_tokens or 0
            self._output += answer.output_tokens or 0
            if answer.second is not None:
                self._looked_again(record)
        if answer.verdict is None:
            return
        camera.answers += 1
        camera.verdict = answer.verdict.has_smoke
        self._decision.observe((answer.decided_ns - started_ns) / 1e9)
        captured_ns = record.captured_ns
        latency_s = (answered_ns - captured_ns) / 1e9
        if latency_s < 0:
            self._skewed += 1
            return
        camera.latency_s = latency_s
        latency = self._latency
        place = bisect_left(LATENCY_S, latency_s)
        latency.counts[place] += 1
        latency.latest[place] = record
        latency.total += latency_s
        stages = self._stages
        received_ns = record.received_ns
        if received_ns is not None:
            sent_ns = captured_ns if record.published_ns is None else record.published_ns
            if captured_ns <= sent_ns <= received_ns:  # else two clocks disagree
                stages["send"].observe((sent_ns - captured_ns) / 1e9)
                stages["transit"].observe((received_ns - sent_ns) / 1e9)
            stages["wait"].observe((started_ns - received_ns) / 1e9)
        stages["infer"].observe(busy_s)

    def _spent(self, purpose: str, tokens: int) -> None:
        self._visual[purpose] = self._visual.get(purpose, 0) + tokens

    def _looked_again(self, record: FrameRecord) -> None:
        answer = record.answer
        assert answer is not None
        second = answer.second
        assert second is not None
        if second.visual_tokens == 0:
            return  # it was wanted and never asked for
        self._spent(VERDICT, -second.visual_tokens)
        self._spent(SECOND_LOOK, second.visual_tokens)
        self._asked(SECOND_LOOK, second.error)

    def _asked(self, purpose: str, error: str) -> None:
        kind = error.partition(":")[0]
        outcome = "answered"
        if error:
            outcome = "bad_json" if kind in _BAD else kind if kind in _ERRORS else "error"
        self._requests[purpose, outcome] = self._requests.get((purpose, outcome), 0) + 1

    def explanation(self, record: Explanation) -> None:
        self._asked(EXPLANATION, record.error)
        self._spent(EXPLANATION, record.visual_tokens)

    def alarm(self, record: AlarmRecord) -> None:
        alarm = record.alarm
        camera = self._cameras.get(alarm.camera)
        if camera is None:
            camera = self._cameras[alarm.camera] = _Camera(None, record.alarmed_ns)
        kind = self._kind(record, camera)
        self._candidates[kind] += 1
        if not record.emitted:
            return
        self._alarms[kind] += 1
        camera.alarms += 1
        for fire in camera.plan.fires if camera.plan is not None else ():
            if burns(fire, alarm.completed_at):
                self._alarmed.add((alarm.camera, fire.id))

    @staticmethod
    def _kind(record: AlarmRecord, camera: _Camera) -> str:
        """As scoring classifies it, as far as the truth of the frame is told to this process."""
        alarm, plan = record.alarm, camera.plan
        if plan is None:
            return AlarmKind.UNKNOWN.value
        known = camera.looked_seq == alarm.seqs[-1]
        truth = camera.truth if known else ()
        kind = classify(plan, alarm.completed_at, truth, alarm.box, camera.aspect)
        if kind is AlarmKind.FALSE:
            off = any(start <= alarm.completed_at < end for start, end in plan.outages)
            if off or (known and camera.smoke):
                kind = AlarmKind.UNKNOWN
        return LATE if kind is None else kind.value

    def ended(self, folder: Path, score: Score | None) -> None:
        """The run is over; nothing counts any more."""
        self._look()
        self._frozen_at = self._now()
        self._streaming = False
        self._sent = set()
        self._score = score
        for view in score.fires if score is not None else ():
            if view.ttfd_s is not None:
                self._ttfd.observe(view.ttfd_s)
        self._over = True
        write(folder / METRICS_FILE, self._registry)

    # --- what a scraper is told ---

    def describe(self) -> Iterator[Metric]:
        for family in FAMILIES:
            yield _empty(family)

    def collect(self) -> Iterator[Metric]:
        """Every metric of this process; those of which nothing is known yet without samples."""
        created_s = None if self._clock is None else self._clock.start_ns / 1e9
        points = self._points()
        small = len(self._cameras) <= self._camera_series
        for family in FAMILIES:
            if family.role not in self._sides and family.name != "run":
                continue
            if family.per_camera and not small:
                continue
            metric = _empty(family)
            for labels, value in points[family.name]():
                _add(metric, family, labels, value, None if family.per_camera else created_s)
            yield metric
            # Gives the interpreter back: the event loop must not wait until all is written.
            time.sleep(0)

    def _now(self) -> float:
        if self._frozen_at is not None:
            return self._frozen_at
        now = 0.0 if self._clock is None else max(0.0, self._clock.now())
        last = self._playing.duration_s if self._playing is not None else None
        return now if last is None else min(now, last)

    def _points(self) -> Mapping[str, Callable[[], Points]]:
        """By family: its samples as they stand."""
        seen, score = self._seen, self._score

        def one(value: Value | None) -> Callable[[], Points]:
            return lambda: () if value is None else (((), value),)

        def by(values: Mapping[str, Value]) -> Callable[[], Points]:
            return lambda: [((name,), value) for name, value in tuple(values.items())]

        def of_cameras(value: Callable[[_Camera], float | None]) -> Callable[[], Points]:
            return lambda: [
                ((name,), told)
                for name, camera in tuple(self._cameras.items())
                if (told := value(camera)) is not None
            ]

        refused = {} if seen is None else {**seen.refused}
        for reason, count in {} if seen is None else seen.turned_away.items():
            refused[reason] = refused.get(reason, 0) + count
        ledger = score.ledger if score is not None else None
        proved = ledger is not None and ledger.balanced is not None
        return {
            "run": self._info,
            "run_playing": one(int(self._streaming)),
            "run_ended": one(int(self._over)),
            "scenario_time_seconds": one(self._now()),
            "speed_ratio": one(None if self._clock is None else self._clock.speed),
            "cameras": one(len(self._cameras)),
            "onsets": one(self._fires.begun(self._now())),
            "fires_burning": one(0 if self._over else self._fires.lasting(self._now())),
            "faults_active": by(
                {
                    kind: 0 if self._over else spans.lasting(self._now())
                    for kind, spans in self._scripted.items()
                }
            ),
            "cameras_online": one(len(self._sent if seen is None else seen.online)),
            "event_loop_lag_seconds": one(self._lag),
            "frames_scheduled": one(self._scheduled),
            "frames_published": one(self._published),
            "frames_unsent": by(self._unsent),
            "published_bytes": one(self._bytes),
            "replay_lateness_seconds": one(self._lateness),
            "frames_received": one(None if seen is None else seen.received),
            "frames_duplicate": one(None if seen is None else seen.duplicates),
            "payloads_refused": by(refused),
            "frames_fate": lambda: [
                ((fate.value, reason.value), cell)
                for (fate, reason), cell in tuple(self._fates.items())
            ],
            "cameras_silent": self._silent,
            "cameras_suspected": one(None if seen is None else len(seen.suspected)),
            "mailbox_frames": one(None if seen is None else seen.waiting),
            "sampling_interval_seconds": one(self._interval),
            "inflight_requests": one(None if seen is None else seen.in_flight),
            "concurrency_limit": one(None if seen is None else seen.concurrency),
            "inference_requests": self._requests_made,
            "inference_duration_seconds": lambda: ((self._model, self._inference),),
            "decision_duration_seconds": one(self._decision),
            "end_to_end_latency_seconds": one(self._latency),
            "stage_duration_seconds": by(self._stages),
            "clock_skewed_frames": one(self._skewed),
            "visual_tokens": lambda: [
                ((*self._model, purpose), count) for purpose, count in tuple(self._visual.items())
            ],
            "prompt_tokens": lambda: ((self._model, self._prompt),),
            "output_tokens": lambda: ((self._model, self._output),),
            "token_budget_tokens_per_second": one(None if seen is None else seen.tokens_per_s),
            "token_budget_utilization_ratio": one(None if seen is None else seen.utilization),
            "token_budget_waited_seconds": one(None if seen is None else seen.budget_waited_s),
            "alarms": by(self._alarms),
            "alarm_candidates": by(self._candidates),
            "fires_alarmed": one(len(self._alarmed)),
            "transport_reconnects": one(None if seen is None else seen.reconnects),
            "transport_dropped_payloads": one(None if seen is None else seen.dropped),
            "early_fire_score": one(None if score is None else score.early_fire_score),
            "score_term_ratio": by(
                {}
                if score is None
                else {k: v for k, v in score.terms.to_json().items() if v is not None}
            ),
            "time_to_first_detection_seconds": one(self._ttfd),
            "fires_missed": one(
                None if score is None else sum(view.ttfd_s is None for view in score.fires)
            ),
            "false_alarms_per_camera_day": one(
                None if score is None else score.false_alarms.per_camera_day
            ),
            "ledger_unaccounted_frames": one(
                self._scheduled - sum(cell.count for cell in tuple(self._fates.values()))
            ),
            "ledger_faulty_frames": by(
                {"double": ledger.double, "missing": ledger.missing, "unknown": ledger.unknown}
                if ledger is not None and proved
                else {}
            ),
            "camera_last_frame_timestamp_seconds": of_cameras(
                lambda camera: camera.last_ns / 1e9 if camera.frames else None
            ),
            "camera_frames": of_cameras(lambda camera: camera.frames),
            "camera_answers": of_cameras(lambda camera: camera.answers),
            "camera_latency_seconds": of_cameras(lambda camera: camera.latency_s),
            "camera_sampling_interval_seconds": of_cameras(lambda camera: camera.interval_s),
            "camera_smoke": of_cameras(
                lambda camera: None if camera.verdict is None else int(camera.verdict)
            ),
            "camera_alarms": of_cameras(lambda camera: camera.alarms),
        }

    def _info(self) -> Points:
        if self._playing is None:
            return ()
        told = self._playing
        values = (
            told.run, told.scenario, told.role, told.engine, told.model, told.policy, told.clock,
            __version__,
        )  # fmt: skip
        return ((tuple(value[:LABEL_CHARS] for value in values), 1),)

    def _requests_made(self) -> Points:
        for_verdicts = dict.fromkeys((Fate.ANSWERED.value, Fate.BAD_JSON.value), 0)
        for (fate, reason), cell in tuple(self._fates.items()):
            if fate is Fate.ENGINE_ERROR:
                for_verdicts[reason.value] = cell.count
            elif fate.value in for_verdicts:
                for_verdicts[fate.value] += cell.count
        for outcome, count in for_verdicts.items():
            yield (*self._model, VERDICT, outcome), count
        for key, count in tuple(self._requests.items()):
            yield (*self._model, *key), count

    def _silent(self) -> Points:
        counts = dict.fromkeys(SILENT_AFTER_S, 0)
        clock, seen = self._clock, self._seen
        if self._streaming and clock is not None and seen is not None:
            now_ns = clock.wall_ns()
            # What says that it is off, or has come to its end, is not silent. Foreign cameras
            # say nothing of the kind.
            online = seen.online
            last_ns = np.array(
                [
                    camera.last_ns
                    for name, camera in tuple(self._cameras.items())
                    if camera.plan is None or name in online
                ],
                np.float64,
            )
            for after_s in SILENT_AFTER_S:
                counts[after_s] = int((now_ns - last_ns > after_s * 10**9).sum())
        return [((f"{after_s}s",), count) for after_s, count in counts.items()]


# --- samples -------------------------------------------------------------------------------------


def _empty(family: Family) -> Metric:
    unit = next((u for u in ("seconds", "bytes", "ratio") if family.name.endswith("_" + u)), "")
    return Metric(PREFIX + family.name, family.text, family.kind.value, unit)


def _add(
    metric: Metric, family: Family, labels: Labels, value: Value, created_s: float | None
) -> None:
    told = dict(zip(family.labels, labels, strict=True))
    if isinstance(value, _Histogram):
        counts, total, latest = value.counts[:], value.total, value.latest[:]
        below = 0
        for name, count, frame in zip(value.names, counts, latest, strict=True):
            below += count
            exemplar = None if frame is None else _exemplar(frame)
            metric.add_sample(
                metric.name + "_bucket", {**told, "le": name}, below, exemplar=exemplar
            )
        metric.add_sample(metric.name + "_count", told, below)
        metric.add_sample(metric.name + "_sum", told, total)
    elif isinstance(value, _Cell):
        count, newest = value.count, value.latest
        traced = None if newest is None else Exemplar(_identified(newest), 1.0)
        metric.add_sample(metric.name + "_total", told, count, exemplar=traced)
    elif family.kind is Kind.COUNTER:
        metric.add_sample(metric.name + "_total", told, value)
    elif family.kind is Kind.INFO:
        metric.add_sample(metric.name + "_info", told, value)
    else:
        metric.add_sample(metric.name, told, value)
    if created_s is not None and family.kind in (Kind.COUNTER, Kind.HISTOGRAM):
        metric.add_sample(metric.name + "_created", told, created_s)


def _identified(frame: Shot | FrameRecord) -> dict[str, str]:
    """Which frame it was: enough to find it in the run's log."""
    labels = {"camera": frame.camera[:EXEMPLAR_CAMERA_CHARS], "seq": str(frame.seq)}
    if frame.identity:
        labels["identity"] = frame.identity
    return labels


def _exemplar(frame: Shot | FrameRecord) -> Exemplar:
    """Of a histogram that measures from capture: what the frame added to it, and when."""
    if isinstance(frame, Shot):
        observed_s = frame.late_s
    else:
        assert frame.answer is not None
        observed_s = (frame.answer.answered_ns - frame.captured_ns) / 1e9
    return Exemplar(_identified(frame), observed_s, frame.captured_ns / 1e9 + observed_s)
