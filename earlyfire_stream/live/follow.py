"""The live page of a run folder, finished or still growing: its logs are followed."""

from __future__ import annotations

__all__ = ["Following"]

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from earlyfire_stream.errors import EarlyfireError
from earlyfire_stream.live.pictures import Pictures
from earlyfire_stream.live.wall import Wall
from earlyfire_stream.live.watching import Told
from earlyfire_stream.records import (
    CAMERAS_LOG,
    GAUGES_LOG,
    RECORDS_LOG,
    AlarmRecord,
    CameraPlan,
    Entry,
    Explanation,
    FrameRecord,
    Shot,
    Tail,
    read_faults,
    read_plans,
    read_run,
)

POLL_S = 0.08
"""Wall seconds that one poll may read; a large finished run is taken in over several."""
LOOK_S = 1.0
"""Between two looks at run.json."""


class Following:
    """Reads what a run writes, in another process or long ago. UsageError if it is no run's."""

    def __init__(self, folder: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        run = read_run(folder)
        self.folder: Path | None = folder
        self._path = folder
        self._monotonic = monotonic
        self._plans: tuple[CameraPlan, ...] = read_plans(run)
        # the cameras' half has no engine, and no records of what became of its frames
        heard = run.get("engine") is not None
        self.wall = Wall(
            self._plans, float(run["speed"]), faults=read_faults(run), hears_fates=heard
        )
        self.pictures = Pictures()
        engine = run.get("engine") or {}
        self.told = Told(
            scenario=str(run.get("scenario") or ""),
            engine=str(engine.get("name") or ""),
            model=str(engine.get("model") or ""),
            run=str(run.get("run") or ""),
            began=True,
            following=True,
            virtual=run.get("clock") == "virtual",
            duration=run.get("duration_s"),
        )
        self._run = run
        self._shots = Tail(folder / CAMERAS_LOG)
        self._records = Tail(folder / RECORDS_LOG)
        self._gauges = Tail(folder / GAUGES_LOG)
        self._waiting: deque[Entry | Mapping[str, Any]] = deque()
        """Read from the records, and ahead of the shots."""
        self._shots_at = self._frames_at = -1.0
        self._look_at = 0.0
        self._trouble = ""

    def poll(self) -> None:
        try:
            self._read()
        except EarlyfireError as why:
            self._trouble = str(why).replace(str(self._path), self._path.name)
        if self._trouble:
            self.told = replace(self.told, stage=self._trouble)

    def _read(self) -> None:
        ends = self._monotonic() + POLL_S
        complete = bool(self._run["complete"])
        idle = False
        while not idle and self._monotonic() < ends:
            idle = not self._step()
        for item in self._gauges.more():
            if isinstance(item, Mapping) and item.get("what") == "gauges":
                self.wall.gauges = item.get("values")
        if idle and complete and not self.told.over:
            self.told = replace(
                self.told,
                over=True,
                interrupted=bool(self._run.get("interrupted")),
                result=_result(self._path),
            )
        if not complete and self._monotonic() >= self._look_at:
            self._look_at = self._monotonic() + LOOK_S
            self._run = read_run(self._path)

    def _step(self) -> bool:
        """Whether anything came. The cameras' word comes first: the truth of a frame, and that it
        was never sent, must be at hand when its fate is told."""
        if not self._waiting:
            self._waiting.extend(self._records.more())
        behind = not self._waiting or self._shots_at <= _captured_at(self._waiting[0])
        if behind:
            shots = self._shots.more()
            for item in shots:
                self._tell(item)
            if shots:
                return True
        came = bool(self._waiting)
        while self._waiting and (behind or _captured_at(self._waiting[0]) < self._shots_at):
            self._tell(self._waiting.popleft())
        return came

    def _tell(self, item: Entry | Mapping[str, Any]) -> None:
        match item:
            case Shot():
                self.wall.shot(item)
                self._shots_at = max(self._shots_at, item.captured_at)
            case FrameRecord():
                self.wall.frame(item)
                self._frames_at = max(self._frames_at, item.captured_at)
            case AlarmRecord():
                self.wall.alarm(item)
            case Explanation():
                self.wall.explanation(item)
            case {
                "what": "fault",
                "id": str(name),
                "state": str(state),
                "scenario_s": (int() | float()) as at,
            }:
                self.wall.fault(name, state, at)

    def close(self) -> None:
        for tail in (self._shots, self._records, self._gauges):
            tail.close()

    def now(self) -> tuple[float, int]:
        newest_at = max(self._shots_at, self._frames_at, 0.0)
        start_ns = self._run.get("start_ns")
        if self.told.over or self.told.virtual or not isinstance(start_ns, int):
            return newest_at, self.wall.newest_ns
        # What was written a moment ago is what is known: the log is flushed every second.
        wall_ns = time.time_ns()
        at = (wall_ns - start_ns) / 1e9 * self.wall.speed
        if self.told.duration is not None:
            at = min(at, self.told.duration)
        return max(0.0, at), wall_ns


def _captured_at(item: Entry | Mapping[str, Any]) -> float:
    """Of a frame; what is no frame waits for no shot."""
    return item.captured_at if isinstance(item, FrameRecord) else -math.inf


def _result(folder: Path) -> tuple[tuple[str, str], ...]:
    """What score.json says; nothing where there is none."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        score: dict[str, Any] = orjson.loads((folder / "score.json").read_bytes())
        fires = score["fires"]
        found = sum(fire["ttfd"] is not None for fire in fires)
        alarms = score["false_alarms"]
        efs = score["early_fire_score"]
        return (
            ("Early-Fire Score", score["why_null"] if efs is None else f"{efs:.1f}"),
            ("fires detected", f"{found} of {len(fires)}"),
            ("false alarms", f"{alarms['episodes']} in {alarms['camera_hours']:.2f} camera-hours"),
        )
    return ()
