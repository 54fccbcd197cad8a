"""The run's side of the live page: an observer that only puts things down.

Everything here that the run calls takes about a microsecond and never waits; counting, sorting and
drawing are done by the page's own thread when it calls `poll`.
"""

from __future__ import annotations

__all__ = ["Origin", "Told", "Watcher"]

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeAlias

from earlyfire_stream.clock import Clock
from earlyfire_stream.live.pictures import Pictures
from earlyfire_stream.live.wall import Wall
from earlyfire_stream.records import (
    AlarmRecord,
    CameraPlan,
    Explanation,
    FaultPlan,
    FrameRecord,
    Playing,
    Shot,
    Snapshot,
    read_run,
)
from earlyfire_stream.scoring import Score

ROOM = 500_000
"""Records that may wait for the page's thread; beyond, the oldest are lost to the page alone."""
GLANCE_S = 0.5
"""Wall seconds between two looks at the consumer."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a page says of the run as a whole; texts in it may be strangers'."""

    scenario: str
    engine: str = ""
    model: str = ""
    run: str = ""
    stage: str = ""
    share: float | None = None
    began: bool = False
    over: bool = False
    interrupted: bool = False
    virtual: bool = False
    following: bool = False
    """Read from a folder: there are no last pictures and no mailbox to be seen."""
    duration: float | None = None
    result: tuple[tuple[str, str], ...] = ()
    """(what, figure) of the finished run."""


class Origin(Protocol):
    """Where a page's content comes from. All but `poll` may be called at any time."""

    wall: Wall
    pictures: Pictures
    told: Told
    folder: Path | None

    def poll(self) -> None:
        """Take in what has happened. Called several times a second from the page's thread."""

    def now(self) -> tuple[float, int]:
        """The scenario second and the wall instant that it is, or was when all ended."""

    def close(self) -> None: ...


Item: TypeAlias = (
    Shot | FrameRecord | AlarmRecord | Explanation | Snapshot | tuple[Sequence[CameraPlan], Clock]
)


class Watcher:
    """Observes a run in its own process (records.Observer, run.Follower and run.Viewer)."""

    def __init__(
        self, scenario: str, engine: str = "", model: str = "", duration: float | None = None
    ) -> None:
        self.wall = Wall()
        self.pictures = Pictures()
        self.told = Told(scenario, engine, model, duration=duration, stage="starting")
        self.folder: Path | None = None
        self._inbox: deque[Item] = deque(maxlen=ROOM)
        self._clock: Clock | None = None
        self._snapshot: Callable[[], Snapshot] | None = None
        self._cuts: tuple[tuple[float, float], ...] = ()
        self._faults: tuple[FaultPlan, ...] = ()
        self._glance_at = 0.0
        self._newest_at = 0.0
        self._ended: tuple[float, int] | None = None

    # --- called by the run, on its event loop ---

    def stage(self, text: str, share: float | None = None) -> None:
        self.told = replace(self.told, stage=text, share=share)

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        self._inbox.append((plans, clock))
        self._snapshot = snapshot

    def shot(self, shot: Shot) -> None:
        self._inbox.append(shot)
        self._glance()

    def frame(self, record: FrameRecord) -> None:
        self._inbox.append(record)
        self._glance()

    def alarm(self, record: AlarmRecord) -> None:
        self._inbox.append(record)

    def picture(self, camera: str, seq: int, jpeg: bytes) -> None:
        self.pictures.keep(camera, seq, jpeg)

    def kept_in(self, folder: Path) -> None:
        self.folder = folder

    def opened(self, playing: Playing) -> None:
        self._cuts, self._faults = playing.network_outages, playing.faults
        self.told = replace(self.told, run=playing.run, engine=playing.engine, model=playing.model)

    def explanation(self, record: Explanation) -> None:
        self._inbox.append(record)

    def ended(self, folder: Path, score: Score | None) -> None:
        self.folder = folder
        self.told = replace(
            self.told,
            stage="",
            share=None,
            over=True,
            interrupted=bool(read_run(folder).get("interrupted")),
            result=() if score is None else told_score(score),
        )

    def _glance(self) -> None:
        # Here and not in the page's thread: the consumer belongs to the run's loop.
        now = time.monotonic()
        if now >= self._glance_at and self._snapshot is not None:
            self._glance_at = now + GLANCE_S
            self._inbox.append(self._snapshot())

    # --- called by the page's thread ---

    def poll(self) -> None:
        inbox = self._inbox
        over = self.told.over  # asked first: all that came before the end is in the inbox then
        for _ in range(len(inbox)):
            match inbox.popleft():
                case Shot() as shot:
                    self._newest_at = max(self._newest_at, shot.captured_at)
                    self.wall.shot(shot)
                case FrameRecord() as record:
                    self._newest_at = max(self._newest_at, record.captured_at)
                    self.wall.frame(record)
                case AlarmRecord() as record:
                    self.wall.alarm(record)
                case Explanation() as explanation:
                    self.wall.explanation(explanation)
                case Snapshot() as snapshot:
                    self.wall.snap(snapshot, self.now()[1])
                case (plans, clock):
                    self._clock = clock
                    heard = self._snapshot is not None
                    self.wall = Wall(plans, clock.speed, self._cuts, self._faults, heard)
                    self.told = replace(
                        self.told, began=True, stage="", share=None, virtual=clock.virtual
                    )
        if over and self._ended is None:
            self._ended = (self._newest_at, self.wall.newest_ns)

    def close(self) -> None:
        """Nothing is open."""

    def now(self) -> tuple[float, int]:
        clock = self._clock
        if self._ended is not None:
            return self._ended
        if clock is None:
            return 0.0, 0
        if clock.virtual:
            return self._newest_at, self.wall.newest_ns
        at = clock.now()
        if self.told.duration is not None:
            at = min(at, self.told.duration)
        return at, clock.wall_ns()


def told_score(score: Score) -> tuple[tuple[str, str], ...]:
    """The figures that a finished run is first asked for."""
    found = sum(view.ttfd_s is not None for view in score.fires)
    median = score.median_ttfd_s
    lambda_ = score.false_alarms
    figures = [
        (
            "Early-Fire Score",
            score.why_null if score.early_fire_score is None else f"{score.early_fire_score:.1f}",
        ),
        ("fires detected", f"{found} of {len(score.fires)}"),
        ("median TTFD", "n/a" if median is None else f"{median:.1f} s"),
        ("false alarms", f"{lambda_.episodes} in {lambda_.camera_hours:.2f} camera-hours"),
    ]
    return tuple(figures)
