"""What the live page shows, as values: cards, totals, events, one camera's history.

A `Wall` is told what happens and asked for what changed. It belongs to one thread, knows no clock
of its own (`now` is given, scenario seconds) and is bounded by the fleet, not by the run's length.
What it returns is JSON's own types; names and texts in it are strangers'.
"""

from __future__ import annotations

__all__ = ["Wall"]

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from earlyfire_stream.live.tally import MOMENT_S, CameraTally, Tally
from earlyfire_stream.records import (
    AlarmRecord,
    CameraPlan,
    Explanation,
    FaultPlan,
    FrameRecord,
    Shot,
    Snapshot,
)
from earlyfire_stream.report.figures import group
from earlyfire_stream.scoring.detection import classify
from earlyfire_stream.scoring.statistics import percentile
from earlyfire_stream.verdict import AlarmKind, Box, Fate, Reason, Truth, Verdict, burns

CARDS = 1000
"""Cameras that have a card; those with fires come first. All are counted, all have a history."""
HISTORY = 600
"""Frames that one camera's timeline holds."""
ALL_HISTORY = 300_000
"""Of all cameras together."""
LEAST_HISTORY = 60
LOOKS = 24
"""Answers of one camera that are shown word by word."""
TEXT = 600
"""Characters shown of an answer."""
EVENTS = 200
MINUTES = 5
POINTS = MINUTES * 60
"""Wall seconds that the fleet's charts reach back."""
LATENCY_WINDOW_S = 15
RATE_WINDOW_S = 5
"""Wall seconds over which a chart's latency and rates are told."""
RECENT_S = 60
"""The same for the figures above the wall."""
HOLD_NS = 20_000_000_000
"""An alarm is shown at least so long, and while smoke is seen or its fire burns."""
TOGETHER = 4
"""More cameras than this that go off or come back at once are one event."""

FATES = tuple(Fate)
_KINDS = ("true", "false", "unlocated", "late", "unknown")


@dataclass(frozen=True, slots=True)
class _Look:
    """One frame in a camera's history."""

    at: float
    seq: int
    group: str
    fate: Fate
    reason: Reason
    sure: float | None
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class _Raised:
    at: float
    kind: str
    seq: int
    box: Box | None
    truth: tuple[Truth, ...]
    after_s: float | None
    """Since the onset of the fire that burned; None where none did."""


@dataclass(slots=True)
class _Card:
    number: int
    tally: CameraTally
    truths: dict[int, tuple[Truth, ...]] = field(default_factory=dict)
    """Of the newest frames that showed smoke, by seq."""
    history: deque[_Look] = field(default_factory=deque)
    looks: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LOOKS))
    alarms: deque[_Raised] = field(default_factory=lambda: deque(maxlen=60))
    raised: int = 0
    tokens: int = 0
    alarmed_ns: int = 0
    gone: bool = False
    """It has said that it is off, to a watcher who hears of it no other way."""
    kind: str = ""
    told_fires: set[str] = field(default_factory=set)
    newest_seq: int | None = None
    dirty: bool = True


@dataclass(slots=True)
class _Fault:
    """A scripted fault, as planned until the run has noted when it was. Scenario seconds."""

    plan: FaultPlan
    count: int
    """Cameras that it meets."""
    camera: str
    """Its only one; empty where it meets more, or none."""
    start: float
    end: float
    told: int = 0
    """Of its begin and its end."""
    failed: bool = False

    @classmethod
    def planned(cls, plan: FaultPlan, cameras: Sequence[CameraPlan]) -> _Fault:
        met = [camera.id for camera in cameras if plan.meets(camera.id)]
        return cls(plan, len(met), met[0] if len(met) == 1 else "", plan.start, plan.end)


@dataclass(slots=True)
class _Second:
    """One wall second of the fleet."""

    answered: int = 0
    tokens: int = 0
    latencies: list[float] = field(default_factory=list)
    late: float = 0.0
    waiting: int | None = None
    in_flight: int | None = None


class Wall:
    """Counts and remembers; `changes` gives what a page that is up to date must learn."""

    def __init__(
        self,
        plans: Sequence[CameraPlan] = (),
        speed: float = 1.0,
        cuts: Sequence[tuple[float, float]] = (),
        faults: Sequence[FaultPlan] = (),
        hears_fates: bool = True,
    ) -> None:
        """`cuts`: when the scenario takes the network away from a camera, scenario seconds.

        `hears_fates`: False where only the cameras' half is told.
        """
        self.speed = speed
        self._faults = [_Fault.planned(plan, plans) for plan in faults]
        cut = Counter((begin, "cut") for begin, _ in cuts)
        cut.update((end, "mended") for _, end in cuts)
        self._cuts = sorted(((*when, n) for when, n in cut.items()), reverse=True)
        """(when, what, of how many cameras) of all still to come, the next one last."""
        self.tally = Tally()
        self.tally.hears_fates = hears_fates
        self.tally.cameras = {plan.id: CameraTally(plan) for plan in plans}
        self.plans = tuple(plans)
        self.errors: Counter[str] = Counter()
        self.unreadable: Counter[str] = Counter()
        self.snapshot: Snapshot | None = None
        self.gauges: Mapping[str, Any] | None = None
        self.trouble = ""
        """The newest failure of the engine, in its own words."""
        self._names: list[str] = []
        self._cards: dict[str, _Card] = {}
        self._kinds: Counter[str] = Counter()
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._numbers = 0
        self._turned: dict[tuple[bool, Reason], list[tuple[float | None, str]]] = {}
        """(off, why) -> (when, None for just now; camera)."""
        self._seconds: dict[int, _Second] = {}
        self._points: deque[list[Any]] = deque(maxlen=POINTS)
        self._pointed = 0
        """The wall second up to which points were made."""
        self.newest_ns = 0
        """The latest wall instant that was told."""
        self._rows: dict[int, dict[str, Any]] = {}
        self._told_totals: dict[str, Any] = {}
        self._told_event = 0
        self._new_points: list[list[Any]] = []
        share = ALL_HISTORY // max(1, len(plans))
        self._history = max(LEAST_HISTORY, min(HISTORY, share))
        for plan in sorted(plans, key=lambda plan: not plan.fires):  # stable: scenario's order
            self._card(plan.id)

    def _card(self, name: str) -> _Card:
        card = self._cards.get(name)
        if card is None:
            card = _Card(len(self._names), self.tally.camera(name))
            card.history = deque(maxlen=self._history)
            self._names.append(name)
            self._cards[name] = card
        return card

    # --- being told ---

    def shot(self, shot: Shot) -> None:
        card = self._card(shot.camera)
        was_off = card.tally.off
        self.tally.shot(shot)
        card.dirty = True
        if card.tally.off != was_off:
            key = (card.tally.off, card.tally.why_off)
            self._turned.setdefault(key, []).append((shot.captured_at, shot.camera))
        if shot.truth:
            card.truths[shot.seq] = shot.truth
            if len(card.truths) > self._history:
                del card.truths[next(iter(card.truths))]
        if shot.unsent is not Reason.NONE:
            look = _Look(
                shot.captured_at, shot.seq, group(Fate.UNSENT), Fate.UNSENT, shot.unsent, None, None
            )
            card.history.append(look)
        second = self._second(shot.captured_ns + round(shot.late_s * 1e9))
        second.late = max(second.late, shot.late_s)

    def frame(self, record: FrameRecord) -> None:
        if self.tally.knows(record):
            return
        card = self._card(record.camera)
        self.tally.count(record)
        card.dirty = True
        card.newest_seq = max(record.seq, card.newest_seq or 0)
        answer = record.answer
        verdict = None if answer is None else answer.verdict
        latency_s = None
        if answer is not None:
            second = self._second(answer.answered_ns)
            if record.reason is not Reason.UNAVAILABLE:
                card.tokens += answer.visual_tokens
                second.tokens += answer.visual_tokens
            if verdict is not None:
                latency_s = (answer.answered_ns - record.captured_ns) / 1e9
                second.answered += 1
                second.latencies.append(latency_s)
            card.looks.append(_said(record, latency_s))
        if record.fate is Fate.ENGINE_ERROR:
            self.errors[record.reason.value] += 1
            self.trouble = record.detail[:300]
        elif record.fate is Fate.BAD_JSON:
            self.unreadable[record.reason.value] += 1
        positive = verdict is not None and verdict.has_smoke
        sure = None if verdict is None or verdict.confidence is None else verdict.confidence
        card.history.append(
            _Look(
                record.captured_at,
                record.seq,
                group(record.fate, positive),
                record.fate,
                record.reason,
                None if sure is None else round(sure, 2),
                None if latency_s is None else round(latency_s, 3),
            )
        )

    def alarm(self, record: AlarmRecord) -> None:
        self.tally.alarm(record)
        if not record.emitted:
            return
        alarm = record.alarm
        card = self._card(alarm.camera)
        card.dirty = True
        plan, at = card.tally.plan, alarm.completed_at
        truth = card.truths.get(alarm.seqs[-1], ())
        kind = classify(plan, at, truth, alarm.box)
        if kind is AlarmKind.FALSE and any(a <= at < b for a, b in plan.outages):
            kind = AlarmKind.UNKNOWN
        word = "late" if kind is None else kind.value
        burning = [fire for fire in plan.fires if burns(fire, at)]
        after_s = at - max(burning, key=lambda f: f.onset).onset if burning else None
        card.raised += 1
        card.kind = word
        card.alarmed_ns = record.alarmed_ns
        card.alarms.append(_Raised(at, word, alarm.seqs[-1], alarm.box, truth, after_s))
        self._kinds[word] += 1
        self.newest_ns = max(self.newest_ns, record.alarmed_ns)
        self._event(at, word, alarm.camera, seq=alarm.seqs[-1], after=_short(after_s))

    def explanation(self, told: Explanation) -> None:
        card = self._card(told.camera)
        for look in card.looks:
            if look["seq"] == told.seq:
                look["why"] = (told.text or told.error)[:TEXT]

    def fault(self, name: str, state: str, at: float) -> None:
        """What the run notes of one: it has `begun`, is `over`, or has `failed`."""
        for one in self._faults:
            if one.plan.id != name:
                continue
            if state == "begun":
                one.start, one.end = at, max(at, one.plan.end)
            elif state == "over":
                one.end = max(one.start, at)
            elif state == "failed" and not one.failed:
                one.failed = True
                self._tell_fault(one, at, "unplayed")

    def snap(self, snapshot: Snapshot, wall_ns: int) -> None:
        before, self.snapshot = self.snapshot, snapshot
        online, suspected = (
            (frozenset[str](), frozenset[str]())
            if before is None
            else (before.online, before.suspected)
        )
        for name in suspected ^ snapshot.suspected:
            if (card := self._cards.get(name)) is not None:
                card.dirty = True
        for name in online ^ snapshot.online:
            self._switched(name, off=name in online)
        second = self._second(wall_ns)
        second.waiting = snapshot.waiting
        second.in_flight = snapshot.in_flight

    def _switched(self, name: str, off: bool) -> None:
        """A camera's status has changed; whose shots are told here, those say more."""
        card = self._cards.get(name)
        if card is None or card.tally.scheduled or card.gone == off:
            return
        card.gone, card.dirty = off, True
        self._turned.setdefault((off, Reason.NONE), []).append((None, name))

    def _second(self, wall_ns: int) -> _Second:
        self.newest_ns = max(self.newest_ns, wall_ns)
        number = wall_ns // 1_000_000_000
        second = self._seconds.get(number)
        if second is None:
            second = self._seconds[number] = _Second()
            if len(self._seconds) > 2 * POINTS:
                for old in sorted(self._seconds)[: POINTS // 2]:
                    del self._seconds[old]
        return second

    def _event(self, at: float, kind: str, camera: str, **more: object) -> None:
        self._numbers += 1
        event = {"id": self._numbers, "at": round(at, 2), "kind": kind, "camera": camera, **more}
        event["n"] = self._cards[camera].number if camera in self._cards else None
        self._events.append(event)

    # --- telling ---

    def whole(self) -> dict[str, Any]:
        """Everything that a page needs to begin with; as of the last `changes`."""
        return {
            "names": self._names[:CARDS],
            "plans": [
                [[[f.id, f.onset, f.end] for f in c.tally.plan.fires], c.tally.plan.truth]
                for c in self._shown()
            ],
            "cameras": len(self._names),
            "rows": list(self._rows.values()),
            "events": list(self._events),
            "points": list(self._points),
            "totals": self._told_totals,
            "fates": [fate.value for fate in FATES],
            "minutes": MINUTES,
            "speed": self.speed,
        }

    def changes(
        self, now: float, wall_ns: int, pictures: Callable[[str], int | None]
    ) -> dict[str, Any]:
        """What is new since the last call. `pictures` gives the seq of a camera's last picture."""
        while self._cuts and self._cuts[-1][0] <= now:
            at, kind, count = self._cuts.pop()
            self._event(at, kind, "", count=count)
        self._tell_faults(now)
        self._tell_turned(now)
        self._tell_onsets(now)
        told: dict[str, Any] = {}
        known = len(self._rows)
        rows = [r for card in self._shown() if (r := self._news(card, now, wall_ns, pictures))]
        if rows:
            told["rows"] = rows
        if len(self._names) > known and known < CARDS:
            told["names"] = self._names[:CARDS]
        if self._numbers > self._told_event:
            told["events"] = [e for e in self._events if e["id"] > self._told_event]
            self._told_event = self._numbers
        self._draw_points(wall_ns)
        if self._new_points:
            told["points"], self._new_points = self._new_points, []
        totals = self._totals(now, wall_ns)
        news = {k: v for k, v in totals.items() if self._told_totals.get(k, ...) != v}
        self._told_totals = totals
        told["totals"] = news
        return told

    def _shown(self) -> Iterable[_Card]:
        return (self._cards[name] for name in self._names[:CARDS])

    def _news(
        self, card: _Card, now: float, wall_ns: int, pictures: Callable[[str], int | None]
    ) -> dict[str, Any]:
        old = self._rows.get(card.number)
        picture = pictures(card.tally.plan.id)
        # Time alone changes nothing where there is neither a fire nor an alarm.
        still = old is not None and not card.dirty and picture == old["q"]
        if still and not card.tally.plan.fires and not card.alarmed_ns:
            return {}
        card.dirty = False
        row = self._row(card, now, wall_ns, picture)
        self._rows[card.number] = row
        if old is None:
            return row
        news = {key: value for key, value in row.items() if old[key] != value}
        return {"n": card.number, **news} if news else {}

    def _row(self, card: _Card, now: float, wall_ns: int, picture: int | None) -> dict[str, Any]:
        tally = card.tally
        verdict = tally.verdict
        fire = tally.fire_at(now)
        told_fire: list[Any] | None = None
        if fire is not None:
            onset = next(f.onset for f in tally.plan.fires if f.id == fire[0])
            first = tally.first_alarms.get(fire[0])
            told_fire = [fire[0], onset, None if first is None else round(first - onset, 2)]
        seq = card.newest_seq if picture is None else picture
        truth = () if seq is None else card.truths.get(seq, ())
        return {
            "n": card.number,
            "s": self._state(card, now, wall_ns),
            "u": self._is_suspected(tally.plan.id),
            "q": picture,
            "r": card.alarms[-1].seq if card.alarms else None,
            "v": None
            if verdict is None
            else [verdict.has_smoke, _short(verdict.confidence), _short(tally.verdict_at)],
            "b": None if verdict is None else _corners(verdict.box),
            "t": [c for t in truth if (c := _corners(t.box)) is not None],
            "f": told_fire,
            "l": _short(tally.latency_s, 3),
            "i": _short(_gap(tally.looks)),
            "c": _short(_gap(tally.shots)),
            "k": card.tokens,
            "w": tally.why_off.value if tally.off else tally.trouble,
            "a": card.raised,
        }

    def _state(self, card: _Card, now: float, wall_ns: int) -> str:
        tally = card.tally
        if tally.off or card.gone:
            return "off"
        positive = tally.verdict is not None and tally.verdict.has_smoke
        fire = tally.fire_at(now)
        if card.alarmed_ns:
            held = wall_ns - card.alarmed_ns < HOLD_NS
            known = fire is not None and fire[0] in tally.first_alarms
            if held or positive or known:
                return "false" if card.kind == "false" and not known else "alarm"
            card.alarmed_ns = 0
        if positive:
            return "suspicious"
        if fire is not None:
            return "burning"
        if self._is_suspected(tally.plan.id):
            return "closer"
        return "quiet" if tally.scheduled or tally.verdict_at is not None else "waiting"

    def _is_suspected(self, name: str) -> bool | None:
        """By the sampler, which then looks more often; None where nobody tells of it."""
        return None if self.snapshot is None else name in self.snapshot.suspected

    def _tell_turned(self, now: float) -> None:
        for (off, reason), cameras in self._turned.items():
            kind = "off" if off else "back"
            if len(cameras) > TOGETHER:
                first = cameras[0][0]
                at = now if first is None else first
                self._event(at, kind, "", why=reason.value, count=len(cameras))
            else:
                for when, camera in cameras:
                    self._event(now if when is None else when, kind, camera, why=reason.value)
        self._turned.clear()

    def _tell_onsets(self, now: float) -> None:
        for card in self._cards.values():
            for fire in card.tally.plan.fires:
                if fire.onset <= now and fire.id not in card.told_fires:
                    card.told_fires.add(fire.id)
                    self._event(fire.onset, "onset", card.tally.plan.id, fire=fire.id)

    def _tell_faults(self, now: float) -> None:
        due: list[tuple[float, str, _Fault]] = []
        for one in self._faults:
            if one.failed:
                continue
            if one.told == 0 and one.start <= now:
                one.told = 1
                due.append((one.start, "fault", one))
            if one.told == 1 and one.start < one.end <= now:
                one.told = 2
                due.append((one.end, "fault_over", one))
        for at, kind, one in sorted(due, key=lambda event: event[0]):
            self._tell_fault(one, at, kind)

    def _tell_fault(self, one: _Fault, at: float, kind: str) -> None:
        self._event(at, kind, one.camera, why=one.plan.kind, count=one.count)

    def _draw_points(self, wall_ns: int) -> None:
        """A point for every wall second that is over."""
        over = wall_ns // 1_000_000_000
        if not self._seconds:
            return
        first = max(min(self._seconds), over - POINTS, self._pointed)
        for number in range(first, over):
            point = self._point(number)
            self._points.append(point)
            self._new_points.append(point)
        self._pointed = max(self._pointed, over)
        del self._new_points[:-POINTS]

    def _point(self, number: int) -> list[Any]:
        """Wall second, latency p50 and p95, answered and tokens a second, waiting, in flight."""
        latencies = self._latencies(number, LATENCY_WINDOW_S)
        rates = [self._seconds.get(n) for n in range(number - RATE_WINDOW_S + 1, number + 1)]
        answered = sum(s.answered for s in rates if s) / RATE_WINDOW_S
        tokens = sum(s.tokens for s in rates if s) / RATE_WINDOW_S
        here = self._seconds.get(number)
        return [
            number,
            _short(percentile(latencies, 50), 3),
            _short(percentile(latencies, 95), 3),
            round(answered, 2),
            round(tokens),
            here.waiting if here else None,
            here.in_flight if here else None,
        ]

    def _shown_until(self, one: _Fault) -> float:
        momentary = one.plan.start == one.plan.end
        return max(one.end, one.start + MOMENT_S * self.speed) if momentary else one.end

    def _latencies(self, number: int, window_s: int) -> list[float]:
        seconds = (self._seconds.get(n) for n in range(number - window_s + 1, number + 1))
        return [latency for s in seconds if s for latency in s.latencies]

    def _totals(self, now: float, wall_ns: int) -> dict[str, Any]:
        number = wall_ns // 1_000_000_000
        latencies = self._latencies(number, RECENT_S)
        last = self._points[-1] if self._points else None
        recent = [s for n in range(number - RECENT_S, number + 1) if (s := self._seconds.get(n))]
        states = Counter(row["s"] for row in self._rows.values())
        seen = self.snapshot
        return {
            "now": round(now, 1),
            "states": dict(sorted(states.items())),
            "burning": sum(row["f"] is not None for row in self._rows.values()),
            "alarms": {k: n for k in _KINDS if (n := self._kinds[k])},
            "p50": _short(percentile(latencies, 50), 3),
            "p95": _short(percentile(latencies, 95), 3),
            "n": len(latencies),
            "answered": None if last is None else last[3],
            "tokens": None if last is None else last[4],
            "late": _short(max((s.late for s in recent), default=None), 4)
            if self.tally.scheduled
            else None,
            "scheduled": self.tally.scheduled,
            "fate": {f.value: n for f in FATES if (n := self.tally.fates[f])},
            "pending": self.tally.pending if self.tally.scheduled else None,
            "faults": [
                [one.plan.id, one.plan.kind, _short(one.start), one.camera, one.count]
                for one in self._faults
                if not one.failed and one.start <= now < self._shown_until(one)
            ],
            "errors": dict(self.errors),
            "unreadable": dict(self.unreadable),
            "trouble": self.trouble,
            "gauges": self.gauges,
            "consumer": None
            if seen is None
            else {
                "received": seen.received,
                "waiting": seen.waiting,
                "in_flight": seen.in_flight,
                "concurrency": seen.concurrency,
                "spent": seen.tokens_spent,
                "budget": None if seen.tokens_per_s is None else round(seen.tokens_per_s),
                "utilization": round(seen.utilization, 2),
                "duplicates": seen.duplicates,
                "refused": dict(seen.refused),
            },
        }

    # --- one camera ---

    def name_of(self, number: int) -> str | None:
        return self._names[number] if 0 <= number < len(self._names) else None

    def camera(self, number: int, now: float) -> dict[str, Any] | None:
        """One camera's history: its timeline as a report draws it, and its latest answers."""
        name = self.name_of(number)
        if name is None:
            return None
        card = self._cards[name]
        plan = card.tally.plan
        frames = sorted(card.history, key=lambda look: look.at)
        begin = frames[0].at if frames else 0.0
        end = max(now, begin + 1.0, frames[-1].at if frames else 0.0)
        return {
            "n": number,
            "id": name,
            "span": [_short(begin), _short(end)],
            "cut": len(frames) == card.history.maxlen,
            "lane": {
                "id": name,
                "truth": plan.truth,
                "fires": [[f.id, f.onset, f.end] for f in plan.fires],
                "outages": [list(outage) for outage in plan.outages],
                "faults": [
                    n
                    for n, one in enumerate(self._faults)
                    if one.plan.meets(name) and not one.failed
                ],
                "alarms": [[a.at, a.kind, a.seq] for a in card.alarms if a.at >= begin],
                "alarms_hidden": 0,
                "bins": {},
                "frames": {
                    "t": [round(f.at, 2) for f in frames],
                    "g": "".join(f.group for f in frames),
                    "fate": [FATES.index(f.fate) for f in frames],
                    "why": [f.reason.value for f in frames],
                    "seq": [f.seq for f in frames],
                    "c": [f.sure for f in frames],
                    "l": [f.latency_s for f in frames],
                },
            },
            "faults": [
                [one.plan.id, one.plan.kind, _short(one.start), _short(one.end)]
                for one in self._faults
            ],
            "looks": list(reversed(card.looks)),
            "alarms": [
                {
                    "seq": a.seq,
                    "at": _short(a.at),
                    "kind": a.kind,
                    "after": _short(a.after_s),
                    "b": _corners(a.box),
                    "t": [c for t in a.truth if (c := _corners(t.box)) is not None],
                }
                for a in reversed(card.alarms)
            ],
        }

    def truth_of(self, number: int, seq: int) -> list[list[float]]:
        """Corners of the true boxes in a frame, as far as it is remembered."""
        card = self._cards[self._names[number]]
        boxes = (_corners(t.box) for t in card.truths.get(seq, ()))
        return [corners for corners in boxes if corners is not None]


def _said(record: FrameRecord, latency_s: float | None) -> dict[str, Any]:
    answer = record.answer
    assert answer is not None
    verdict: Verdict | None = answer.verdict
    return {
        "seq": record.seq,
        "at": round(record.captured_at, 2),
        "fate": record.fate.value,
        "reason": record.reason.value,
        "smoke": None if verdict is None else verdict.has_smoke,
        "sure": None if verdict is None else _short(verdict.confidence),
        "latency": _short(latency_s, 3),
        "tokens": answer.visual_tokens,
        "text": (answer.text or record.detail)[:TEXT],
        "twice": answer.second is not None,
    }


def _gap(instants: deque[float]) -> float | None:
    """Seconds between the latest two."""
    return instants[-1] - instants[-2] if len(instants) > 1 else None


def _corners(box: Box | None) -> list[float] | None:
    """x, y, width, height in hundredths of the picture."""
    if box is None:
        return None
    x1, y1, x2, y2 = box.corners
    return [round(100 * v, 1) for v in (x1, y1, x2 - x1, y2 - y1)]


def _short(value: float | None, digits: int = 2) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
