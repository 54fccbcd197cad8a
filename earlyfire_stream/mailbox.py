"""Waiting frames: who is looked at next, who leaves unseen, and why.

A camera normally holds one place, taken by its freshest frame; the older one leaves as
`superseded(newer)`. With `depth` above 1 (every frame counts: recorded sequences) a camera's frames
queue up in order instead. One frame of a camera is out at a time, so its verdicts come back in
order of capture.

Next is the camera that has waited longest since its last look, a suspicious one as if it had
waited `URGENCY` times as long: suspicion goes first, yet a hundred suspicious cameras cannot starve
a quiet one. Memory is bounded by `max_waiting` frames of together at most `max_bytes`.

Pure: it reads no clock and never waits. Instants are wall nanoseconds.
"""

from __future__ import annotations

__all__ = ["Dropped", "Mailbox", "Waiting"]

import heapq
from collections import deque
from dataclasses import dataclass, field

from earlyfire_stream.frames import Frame
from earlyfire_stream.verdict import Fate, Reason

URGENCY = 4
MAX_BYTES = 1_000_000_000
"""More than 1,000 cameras have waiting at 1280x720; with larger pictures it comes first."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An admitted frame on its way to the engine."""

    camera: str
    seq: int
    captured_at: float
    captured_ns: int
    received_ns: int
    frame: Frame
    suspicious: bool = False
    context: tuple[Waiting, ...] = ()
    """Frames of the same camera just before it, oldest first, for a clip; each without its own."""


@dataclass(frozen=True, slots=True)
class Dropped:
    waiting: Waiting
    fate: Fate
    reason: Reason = Reason.NONE


@dataclass(slots=True)
class _Place:
    """One camera's waiting frames and what orders it among the others."""

    order: int
    last_look_ns: int
    frames: deque[Waiting] = field(default_factory=deque)
    suspicious: bool = False
    out: bool = False
    ticket: int = 0
    """Names the only heap entry of this camera that still counts."""


class Mailbox:
    """Frames waiting for a look, at most `depth` a camera and `max_waiting` in all.

    A single frame may be larger than `max_bytes` if it waits alone. The older frames of clips are
    not counted: the consumer holds them in any case.
    """

    def __init__(self, depth: int = 1, max_waiting: int = 1024, max_bytes: int = MAX_BYTES) -> None:
        if depth < 1 or max_waiting < 1:
            raise ValueError("depth and max_waiting must be at least 1")
        self._depth = depth
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self.bytes = 0
        self._places: dict[str, _Place] = {}
        self._heaps: tuple[list[tuple[int, int, int, str]], ...] = ([], [])
        self._tickets = 0
        self.waiting = 0

    def __len__(self) -> int:
        return self.waiting

    def is_waiting(self, camera: str) -> bool:
        """True if the camera has a frame here that nobody has taken yet."""
        place = self._places.get(camera)
        return place is not None and bool(place.frames)

    def offer(self, waiting: Waiting) -> list[Dropped]:
        """Put a frame in; returns whoever had to leave for it, perhaps itself."""
        place = self._places.get(waiting.camera)
        if place is None:
            place = _Place(order=len(self._places), last_look_ns=waiting.captured_ns)
            self._places[waiting.camera] = place
        dropped = []
        if len(place.frames) >= self._depth:
            reason = Reason.NEWER if self._depth == 1 else Reason.CAMERA_LIMIT
            dropped.append(Dropped(self._leave(place), Fate.SUPERSEDED, reason))
        size = len(waiting.frame.jpeg)
        while self.waiting and (
            self.waiting >= self._max_waiting or self.bytes + size > self._max_bytes
        ):
            dropped.append(self._make_room(waiting))
            if dropped[-1].waiting is waiting:
                if not place.frames:
                    place.ticket = 0
                return dropped
        place.frames.append(waiting)
        self.waiting += 1
        self.bytes += size
        suspicious = waiting.suspicious or (place.suspicious and len(place.frames) > 1)
        # A place keeps its entry while its frame is replaced: else a stuck engine fills the heap.
        if not place.ticket or suspicious != place.suspicious:
            place.suspicious = suspicious
            self._enter(waiting.camera, place)
        return dropped

    def take(self, now_ns: int) -> Waiting | None:
        """The most urgent frame, or None; its camera rests until `done`."""
        quiet, suspects = (self._top(heap) for heap in self._heaps)
        if quiet is None and suspects is None:
            return None
        camera = quiet or suspects
        assert camera is not None
        if quiet is not None and suspects is not None:
            # Instants lie ahead of now only when a clock is skewed; max keeps the product's sign.
            waited = max(0, now_ns - self._places[quiet].last_look_ns)
            urged = max(0, now_ns - self._places[suspects].last_look_ns) * URGENCY
            camera = suspects if urged >= waited else quiet
        place = self._places[camera]
        waiting = self._leave(place)
        place.out = True
        place.ticket = 0
        place.last_look_ns = max(place.last_look_ns, waiting.captured_ns)
        return waiting

    def done(self, camera: str) -> None:
        """The look that `take` handed out is over."""
        place = self._places[camera]
        place.out = False
        if place.frames:
            self._enter(camera, place)

    def expire(self, before_ns: int) -> list[Waiting]:
        """Take out every waiting frame that was captured before that wall instant."""
        gone: list[Waiting] = []
        for place in self._places.values():
            while place.frames and place.frames[0].captured_ns < before_ns:
                gone.append(self._leave(place))
            if not place.frames:
                place.ticket = 0
        return gone

    def empty(self) -> list[Waiting]:
        """Take everything out, in no order that matters."""
        return self.expire(1 << 63)

    def _leave(self, place: _Place) -> Waiting:
        """Take out the camera's oldest frame."""
        gone = place.frames.popleft()
        self.waiting -= 1
        self.bytes -= len(gone.frame.jpeg)
        return gone

    def _enter(self, camera: str, place: _Place) -> None:
        if place.out:
            return
        self._tickets += 1
        place.ticket = self._tickets
        heap = self._heaps[place.suspicious]
        heapq.heappush(heap, (place.last_look_ns, place.order, place.ticket, camera))

    def _top(self, heap: list[tuple[int, int, int, str]]) -> str | None:
        while heap:
            _, _, ticket, camera = heap[0]
            if self._places[camera].ticket == ticket:
                return camera
            heapq.heappop(heap)
        return None

    def _make_room(self, newcomer: Waiting) -> Dropped:
        # The one that was looked at last can best do without: it, or the newcomer, leaves. But a
        # suspicious camera has just been looked at, and is wanted again: a quiet one leaves for it.
        candidates = [c for c, p in self._places.items() if p.frames and not p.suspicious]
        place = self._places[newcomer.camera]
        camera = max(candidates, key=lambda c: self._places[c].last_look_ns, default=None)
        if camera is None or (
            not newcomer.suspicious and self._places[camera].last_look_ns <= place.last_look_ns
        ):
            return Dropped(newcomer, Fate.SUPERSEDED, Reason.CAMERA_LIMIT)
        other = self._places[camera]
        gone = self._leave(other)
        if not other.frames:
            other.ticket = 0
        return Dropped(gone, Fate.SUPERSEDED, Reason.CAMERA_LIMIT)
