"""Fires found and false alarms raised: time to first detection, episodes, exposure.

Onset, windows, episodes and exposure are scenario seconds; what passes between the capture of a
frame and its alarm is wall seconds.
"""

from __future__ import annotations

__all__ = [
    "FalseAlarms",
    "Fleet",
    "Parts",
    "Rate",
    "View",
    "alarm_kind",
    "classify",
    "clear_time",
    "false_alarms",
    "fleet",
    "never_seen",
    "views",
    "watched_hours",
]

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.alarms import AlarmPolicyState, Candidate, observe
from earlyfire_stream.records import AlarmRecord, CameraPlan, FirePlan
from earlyfire_stream.scenario.models import AlarmPolicy
from earlyfire_stream.scoring.footage import Footage, Frame, FrameOutcome
from earlyfire_stream.scoring.statistics import poisson_interval
from earlyfire_stream.verdict import AlarmKind, Box, Fate, Reason, Truth, burns

HORIZON_S = 2400.0
"""H: a first alarm later than this after the onset is none (FIgLib's sequences end there)."""
EPISODE_S = 300.0
TOUCH = 0.05
"""Share of the frame's width by which the truth is grown before a box must touch it."""
ASPECT = 16 / 9
"""Width to height of a frame whose answer does not say in which size it was sent."""


Seconds = NDArray[np.float64]
Spans = Sequence[tuple[float, float]]
"""Scenario seconds (start, end), in order, none touching another."""


def candidates(
    frames: Iterable[FrameOutcome], policy: AlarmPolicy
) -> Iterator[tuple[FrameOutcome, Candidate]]:
    """Every frame that completes k-of-n, with its candidate; `frames` in order of capture."""
    state = AlarmPolicyState()
    for frame in frames:
        verdict = frame.verdict
        if verdict is None:
            continue
        state, candidate = observe(
            state,
            policy,
            frame.captured_at,
            frame.seq,
            verdict.has_smoke,
            verdict.confidence,
            verdict.box,
        )
        if candidate is not None:
            yield frame, candidate


def _near_claims(footage: Footage, policy: AlarmPolicy) -> Sequence[FrameOutcome]:
    """The frames that matter to k-of-n: the n verdicts up to each claim of smoke.

    Of an uneventful camera nothing need be remembered.
    """
    answered = np.flatnonzero(footage.says >= 0)
    claims = footage.says[answered] == 1
    near = claims.copy()
    for back in range(1, min(policy.n, len(claims))):
        near[:-back] |= claims[back:]
    return footage.those(answered[near])


# --- true, false or beside the fire --------------------------------------------------------------


def classify(
    camera: CameraPlan,
    at: float,
    truth: Sequence[Truth] = (),
    box: Box | None = None,
    aspect: float = ASPECT,
) -> AlarmKind | None:
    """What an alarm is whose completing frame was captured at scenario second `at`.

    `truth` and `box` are that frame's. False: no fire burns then (before the onset, after the end,
    a camera without fires). Unlocated: it lies beside each burning fire that has a box. None: only
    fires burn whose onset is more than HORIZON_S ago, where an alarm is neither right nor wrong.
    """
    if not camera.truth:
        return AlarmKind.UNKNOWN
    burning = [fire for fire in camera.fires if burns(fire, at)]
    if not burning:
        return AlarmKind.FALSE
    in_time = [fire for fire in burning if _in_time(fire, at)]
    if not in_time:
        return None
    if any(located(fire.id, truth, box, aspect) is not False for fire in in_time):
        return AlarmKind.TRUE
    return AlarmKind.UNLOCATED


def alarm_kind(
    footage: Footage, frame: FrameOutcome, outages: Spans | None = None
) -> AlarmKind | None:
    """What an alarm is that this frame completed; None beyond the horizon of a burning fire.

    Unknown is one on smoke that the labels know and the plan does not, or of a camera that is
    scripted to be off. `outages` are the plan's, merged, if they are at hand.
    """
    plan, at = footage.plan, frame.captured_at
    box = frame.verdict.box if frame.verdict is not None else None
    # the aspect stands in the frame's record, which is dear to look up
    aspect = ASPECT if box is None or not frame.truth else _aspect(frame)
    kind = classify(plan, at, frame.truth, box, aspect)
    off = _merged(plan.outages) if outages is None else outages
    if kind is AlarmKind.FALSE and (frame.smoke or _within(at, off)):
        return AlarmKind.UNKNOWN
    return kind


def _in_time(fire: FirePlan, at: float) -> bool:
    # instants are sums of cadences; a microsecond keeps their rounding out of the comparison
    return burns(fire, at) and at - fire.onset <= HORIZON_S + 1e-6


def located(fire: str, truth: Sequence[Truth], box: Box | None, aspect: float) -> bool | None:
    """Does the predicted box touch the fire's truth, grown by 5 % of the frame's width?

    None where either has no box: then there is nothing to test. Coordinates are fractions, so the
    same pixels are `aspect` times as much of the height: 0.05 of the width is 0.089 of the height
    at 16:9.
    """
    boxes = [t.box for t in truth if t.fire == fire and t.box is not None]
    if box is None or not boxes:
        return None
    return any(b.overlap(box, TOUCH, TOUCH * aspect) > 0 for b in boxes)


def _aspect(frame: FrameOutcome) -> float:
    answer = frame.record.answer if frame.record is not None else None
    if answer is None or min(answer.sent_size) <= 0:
        return ASPECT
    width, height = answer.sent_size
    return width / height


# --- time to first detection ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the time from onset to alarm went; their sum is the TTFD.

    The first four are scenario seconds, the others wall seconds of the completing frame. An instant
    that was not recorded leaves its time to the next part. A negative part is a clock that differs
    between two hosts; it is kept, so that the sum holds.
    """

    cadence_wait: float
    """Onset → the first frame captured."""
    sampling: float
    """→ the first frame with a valid answer."""
    model_miss: float
    """→ the first positive of the confirming set."""
    confirmation: float
    """→ the frame that completed it."""
    transport: float
    """Capture → received."""
    queue: float
    """→ inference started."""
    inference: float
    """→ decided."""
    alarm: float
    """→ alarm handed on; with several workers also the wait for an older frame's verdict."""

    @property
    def total(self) -> float:
        return math.fsum(self.to_json().values())

    def to_json(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class View:
    """One fire as one camera saw it. `parts` and `frames_late` are None if it was not detected."""

    fire: str
    camera: str
    onset_s: float
    parts: Parts | None
    frames_late: int | None
    """Frames captured since the onset before the completing one; 0 is the first possible."""
    located: bool | None
    """The alarm's box touches the fire; None without boxes to compare or without an alarm."""
    unlocated_ttfd_s: float | None
    """TTFD if no box were asked for."""
    unlocated: int
    """Alarms beside the fire."""
    censored_s: float
    """Seconds after the onset up to which it is known to be undetected, if it is."""
    onset_source: str
    """What the scenario says of it, else `scenario`; `clip_start` where footage begins in smoke."""

    @property
    def ttfd_s(self) -> float | None:
        return None if self.parts is None else self.parts.total

    @property
    def alarm_s(self) -> float | None:
        """The onset plus the TTFD; at speed 1 the scenario second of the alarm."""
        return None if self.ttfd_s is None else self.onset_s + self.ttfd_s

    def to_json(self) -> dict[str, object]:
        return {
            "fire": self.fire,
            "camera": self.camera,
            "onset_s": self.onset_s,
            "onset_source": self.onset_source,
            "alarm_s": self.alarm_s,
            "ttfd_s": self.ttfd_s,
            "ttfd_frames": self.frames_late,
            "located": self.located,
            "unlocated_ttfd_s": self.unlocated_ttfd_s,
            "unlocated_alarms": self.unlocated,
            "parts": {} if self.parts is None else self.parts.to_json(),
        }


def views(
    footages: Iterable[Footage],
    policy: AlarmPolicy,
    alarms: Iterable[AlarmRecord],
    complete: bool = True,
) -> tuple[View, ...]:
    """Each (fire, camera) of the run.

    Left out: fires whose smoke one camera's scripted outages hide from first to last, since an
    outage counts against nobody, and in a complete run those of `never_seen`.
    """
    alarmed: dict[Frame, int] = {}
    for record in alarms:
        key = (record.alarm.camera, record.alarm.seqs[-1])
        alarmed[key] = min(record.alarmed_ns, alarmed.get(key, record.alarmed_ns))
    return tuple(
        _view(footage, fire, policy, alarmed, complete)
        for footage in footages
        if footage.timed
        for fire in footage.plan.fires
        if not _hidden(footage, fire) and not (complete and _unseen(footage, fire))
    )


def never_seen(footages: Iterable[Footage]) -> tuple[tuple[str, str], ...]:
    """(fire, camera) where smoke is in none of the pictures that were taken while the fire burnt.

    A source that draws its own pictures knows that; there is no onset then, which is the instant
    at which smoke becomes visible. Nothing is said of a camera that labels none of its frames.
    """
    return tuple(
        (fire.id, footage.plan.id)
        for footage in footages
        if footage.timed
        for fire in footage.plan.fires
        if not _hidden(footage, fire) and _unseen(footage, fire)
    )


def _unseen(footage: Footage, fire: FirePlan) -> bool:
    end = min(math.inf if fire.end is None else fire.end, fire.onset + HORIZON_S)
    burning = (fire.onset <= footage.captured_at) & (footage.captured_at < end)
    labels = footage.labelled
    return bool(burning.any() and labels.any() and not labels[burning].any())


def _hidden(footage: Footage, fire: FirePlan) -> bool:
    last = float(footage.captured_at[-1]) if len(footage.captured_at) else fire.onset
    end = min(fire.onset + HORIZON_S, last if fire.end is None else fire.end)
    blocked = _merged(footage.plan.outages)
    return end > fire.onset and _clear_of(fire.onset, end, blocked) <= 0


def _view(
    footage: Footage,
    fire: FirePlan,
    policy: AlarmPolicy,
    alarmed: Mapping[Frame, int],
    complete: bool,
) -> View:
    captured_at = footage.captured_at
    begin = int(np.searchsorted(captured_at, fire.onset))
    beyond = np.searchsorted(captured_at, fire.onset + HORIZON_S + 1e-3)
    near = footage.frames[begin : int(beyond)]
    smoky = list(takewhile(lambda f: _in_time(fire, f.captured_at), near))

    parts: Parts | None = None
    frames_late: int | None = None
    touches: bool | None = None
    unlocated_ttfd_s: float | None = None
    beside = 0
    # from the onset on with an empty memory: an earlier positive confirms nothing
    for frame, candidate in candidates(smoky, policy):
        box = frame.verdict.box if frame.verdict is not None else None
        touches = located(fire.id, frame.truth, box, _aspect(frame))
        if touches is not False or unlocated_ttfd_s is None:
            found = _parts(smoky, fire, candidate, alarmed)
            if unlocated_ttfd_s is None:
                unlocated_ttfd_s = found.total
            if touches is not False:
                parts = found
                frames_late = _taken_before(smoky, frame)
                break
        beside += 1

    last = float(captured_at[-1]) if len(captured_at) else fire.onset
    clip_end = min(fire.onset + HORIZON_S, last if fire.end is None else min(last, fire.end))
    # a camera of which nothing came since the onset is no clip that ended at the onset
    broken = not complete or not smoky or any(_broken_off(f) for f in smoky)
    return View(
        fire=fire.id,
        camera=footage.plan.id,
        onset_s=fire.onset,
        parts=parts,
        frames_late=frames_late,
        located=touches,
        unlocated_ttfd_s=unlocated_ttfd_s,
        unlocated=beside,
        censored_s=HORIZON_S if broken else max(0.0, clip_end - fire.onset),
        onset_source=(
            "clip_start"
            if len(captured_at) and fire.onset <= captured_at[0]
            else fire.onset_source or "scenario"
        ),
    )


def _broken_off(frame: FrameOutcome) -> bool:
    """Did a crash, a lost broker or an empty budget take it? Then the view is at risk until H."""
    if frame.unsent is Reason.BROKER_DOWN or frame.fate in (Fate.OVER_BUDGET, Fate.ABANDONED):
        return True
    if frame.fate not in (Fate.UNSENT, Fate.LOST, Fate.ENGINE_ERROR):
        return False  # spares looking up the records of a million frames
    record = frame.record
    return record is not None and record.reason in (Reason.CONSUMER_DOWN, Reason.UNAVAILABLE)


def _captured(frame: FrameOutcome) -> bool:
    """False while the camera was off."""
    off = frame.unsent in (Reason.OUTAGE, Reason.SOURCE_BROKEN)
    return not off or frame.verdict is not None


def _taken_before(smoky: Sequence[FrameOutcome], completing: FrameOutcome) -> int:
    count = 0
    for frame in smoky:
        if frame is completing:
            break
        count += _captured(frame)
    return count


def _parts(
    smoky: Sequence[FrameOutcome],
    fire: FirePlan,
    candidate: Candidate,
    alarmed: Mapping[Frame, int],
) -> Parts:
    """TTFD = (t_cap − τ, scenario seconds) + (alarm − capture, wall seconds), taken apart.

    The alarm's instant is the recorded one; without a record it is when the last verdict of the
    confirming set was decided. The capture's is the cameras' log's, where there is one: a frame's
    own header may be wrong (camera-clock), and an alarm must not come early by that.
    """
    first = next(f for f in smoky if _captured(f)).captured_at
    answered = next(f for f in smoky if f.verdict is not None).captured_at
    confirming = [
        (f, f.record, f.record.answer)
        for f in smoky
        if f.seq in candidate.seqs and f.record is not None and f.record.answer is not None
    ]
    positive = next(f for f in smoky if f.seq == candidate.seqs[0]).captured_at
    last, record, answer = confirming[-1]
    captured_ns = last.shot.captured_ns
    received_ns = record.received_ns if record.received_ns is not None else captured_ns
    alarm_ns = max(
        alarmed.get((record.camera, record.seq), 0),
        *(each.decided_ns for _, _, each in confirming),
    )
    return Parts(
        cadence_wait=first - fire.onset,
        sampling=answered - first,
        model_miss=positive - answered,
        confirmation=candidate.completed_at - positive,
        transport=(received_ns - captured_ns) / 1e9,
        queue=(answer.started_ns - received_ns) / 1e9,
        inference=(answer.decided_ns - answer.started_ns) / 1e9,
        alarm=(alarm_ns - answer.decided_ns) / 1e9,
    )


@dataclass(frozen=True, slots=True)
class Fleet:
    """One fire, by whichever camera was first."""

    fire: str
    onset_s: float
    """The earliest of its onsets."""
    camera: str | None
    ttfd_s: float | None
    cameras: int
    detected: int

    def to_json(self) -> dict[str, object]:
        return {
            "fire": self.fire,
            "onset_s": self.onset_s,
            "camera": self.camera,
            "ttfd_s": self.ttfd_s,
            "cameras": self.cameras,
            "detected": self.detected,
        }


def fleet(found: Sequence[View]) -> tuple[Fleet, ...]:
    """First onset to first alarm of each fire, over all cameras that see it."""
    by_fire: dict[str, list[View]] = {}
    for view in found:
        by_fire.setdefault(view.fire, []).append(view)
    result = []
    for fire, group in by_fire.items():
        onset_s = min(v.onset_s for v in group)
        alarms = sorted((v.alarm_s, v.camera) for v in group if v.alarm_s is not None)
        result.append(
            Fleet(
                fire=fire,
                onset_s=onset_s,
                camera=alarms[0][1] if alarms else None,
                ttfd_s=alarms[0][0] - onset_s if alarms else None,
                cameras=len(group),
                detected=len(alarms),
            )
        )
    return tuple(result)


# --- false alarms --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """False alarms of some cameras or hours, with their exact Poisson interval per camera-day.

    2 episodes in 12 h → 4 a camera-day, 0.484 to 14.45.
    """

    episodes: int
    camera_hours: float

    @property
    def per_camera_day(self) -> float | None:
        return 24 * self.episodes / self.camera_hours if self.camera_hours > 0 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.camera_hours <= 0:
            return None
        low, high = poisson_interval(self.episodes)
        return 24 * low / self.camera_hours, 24 * high / self.camera_hours

    def to_json(self) -> dict[str, object]:
        interval = self.interval
        return {
            "episodes": self.episodes,
            "camera_hours": self.camera_hours,
            "per_camera_day": self.per_camera_day,
            "interval": None if interval is None else list(interval),
        }


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """False alarms over all cameras; `interval` is λ's exact Poisson interval, per camera-day."""

    episodes: int
    camera_hours: float
    kinds: Mapping[str, int]
    """Candidates by kind: true, false, unlocated, late (beyond the horizon of a burning fire)."""
    by_camera: Mapping[str, int]
    """Episodes of the cameras that had any."""
    by_hour: Mapping[int, tuple[int, float]]
    """Scenario hour of day, 0 to 23 → (episodes, camera-hours)."""
    hours_by_camera: Mapping[str, float] = field(default_factory=dict)
    """Camera-hours of each camera that was watched while nothing burnt."""

    @property
    def rates_by_camera(self) -> Mapping[str, Rate]:
        """Of the cameras that were watched or had an episode."""
        cameras = dict.fromkeys([*self.hours_by_camera, *self.by_camera])
        return {
            camera: Rate(self.by_camera.get(camera, 0), self.hours_by_camera.get(camera, 0.0))
            for camera in cameras
        }

    @property
    def per_camera_day(self) -> float | None:
        """λ = 24·Σ episodes / Σ hours; None without non-smoke time."""
        return Rate(self.episodes, self.camera_hours).per_camera_day

    @property
    def interval(self) -> tuple[float, float] | None:
        return Rate(self.episodes, self.camera_hours).interval

    def to_json(self) -> dict[str, object]:
        return {
            **Rate(self.episodes, self.camera_hours).to_json(),
            "low_exposure": self.camera_hours < 24,
            "by_camera": {name: rate.to_json() for name, rate in self.rates_by_camera.items()},
            "by_hour": {
                str(hour): Rate(episodes, hours).to_json()
                for hour, (episodes, hours) in sorted(self.by_hour.items())
            },
        }


def false_alarms(footages: Iterable[Footage], policy: AlarmPolicy) -> FalseAlarms:
    """Count false candidates as episodes, over the time in which there could be any.

    Episodes are greedy: the first false candidate of a camera opens one, which takes in all others
    within 300 s; the next one after that opens the next. Every frame of 40 at 60 s is 8 episodes.
    """
    kinds: Counter[str] = Counter()
    by_camera: Counter[str] = Counter()
    episodes_by_hour: Counter[int] = Counter()
    seconds_by_hour: defaultdict[int, float] = defaultdict(float)
    exposure: dict[str, float] = {}
    for footage in footages:
        if not footage.timed:
            continue
        plan = footage.plan
        outages = _merged(plan.outages)
        open_until = -math.inf
        for frame, candidate in candidates(_near_claims(footage, policy), policy):
            at = candidate.completed_at
            kind = alarm_kind(footage, frame, outages)
            kinds["late" if kind is None else kind.value] += 1
            if kind is AlarmKind.FALSE and at >= open_until:
                open_until = at + EPISODE_S
                by_camera[plan.id] += 1
                episodes_by_hour[_hour(at)] += 1
        begin, seconds = clear_time(footage)
        if len(seconds):
            exposure[plan.id] = float(seconds.sum())
        hours = np.floor_divide(begin, 3600).astype(np.int64) % 24
        for hour in np.unique(hours).tolist():
            seconds_by_hour[hour] += float(seconds[hours == hour].sum())
    return FalseAlarms(
        episodes=by_camera.total(),
        camera_hours=math.fsum(exposure.values()) / 3600,
        kinds=dict(sorted(kinds.items())),
        by_camera=dict(by_camera),
        by_hour={
            hour: (episodes_by_hour[hour], seconds_by_hour[hour] / 3600)
            for hour in sorted(episodes_by_hour.keys() | seconds_by_hour.keys())
        },
        hours_by_camera={camera: seconds / 3600 for camera, seconds in exposure.items()},
    )


def clear_time(footage: Footage) -> tuple[Seconds, Seconds]:
    """(captured_at, seconds), by frame that stands for time in which no fire burnt.

    A frame that reached the consumer stands for the time to the next such frame, twice the cadence
    at most; the last one for none. Time in which a fire burns or the camera is scripted to be off
    is taken out: before the onset, after the end and negative cameras remain, which is where an
    alarm is false. 40 frames at 60 s, then the onset → 2400 s.
    """
    fires = _merged((f.onset, math.inf if f.end is None else f.end) for f in footage.plan.fires)
    blocked = _merged((*fires, *footage.plan.outages))
    places, begin, seconds = _stands_for(footage)
    end = begin + seconds
    for start, until in blocked:
        seconds = seconds - np.maximum(0, np.minimum(end, until) - np.maximum(begin, start))
    # labelled smoke that no fire of the plan explains: nobody knows how long
    puzzling = footage.smoke[places] == 1
    for start, until in fires:
        puzzling &= (begin < start) | (begin >= until)
    chosen = (seconds > 0) & ~puzzling
    return begin[chosen], seconds[chosen]


def watched_hours(footages: Iterable[Footage]) -> float:
    """Scenario hours for which frames of cameras with a cadence came, with fire or without."""
    return math.fsum(float(_stands_for(footage)[2].sum()) for footage in footages) / 3600


def _stands_for(footage: Footage) -> tuple[NDArray[np.int64], Seconds, Seconds]:
    """Which frames came, when they were captured, and for how long each stands."""
    came = np.flatnonzero(footage.came)
    at = footage.captured_at[came]
    if footage.plan.cadence_s is None:
        return came[:0], at[:0], at[:0]
    return came[:-1], at[:-1], np.minimum(np.diff(at), 2 * footage.plan.cadence_s)


def _merged(spans: Iterable[tuple[float, float]]) -> Spans:
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _clear_of(start: float, end: float, blocked: Spans) -> float:
    """Seconds from start to end outside the blocked spans."""
    seconds = end - start
    for begin, until in blocked:
        seconds -= max(0.0, min(end, until) - max(start, begin))
    return seconds


def _within(at: float, spans: Spans) -> bool:
    return any(start <= at < end for start, end in spans)


def _hour(at: float) -> int:
    """The hour of day, if scenario second 0 is midnight."""
    return int(at // 3600) % 24
