"""Plays a leg of a soak and closes its windows as time goes; says in the end what it came to."""

from __future__ import annotations

__all__ = ["Result", "play_leg", "result"]

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from earlyfire_stream import run
from earlyfire_stream.records import CameraPlan, Observer
from earlyfire_stream.scenario.fleet import planned_faults
from earlyfire_stream.scenario.load import Loaded
from earlyfire_stream.scenario.models import Scenario
from earlyfire_stream.soak.asked import Asked, looks_due
from earlyfire_stream.soak.folder import Leg, SoakFolder
from earlyfire_stream.soak.judging import Knee, State, Verdict, judge, knee, trends
from earlyfire_stream.soak.processes import Looker, engine_port
from earlyfire_stream.soak.windows import LOOKS, Gathering, Part, Window

LONGEST_LOOK_S = 15.0
"""Wall seconds between two looks at the processes."""
LOOKS_A_WINDOW = 10
GPU_EVERY_S = 10.0
"""Wall seconds between two questions to the GPU's driver, which takes its time."""

assert LOOKS_A_WINDOW < LOOKS


async def play_leg(
    soak: SoakFolder,
    asked: Asked,
    loaded: Loaded,
    options: run.Options,
    observers: Sequence[Observer],
    stop: asyncio.Event,
    told: Callable[[Window], None],
) -> run.Outcome:
    """Play `loaded`, the leg's own scenario, into the soak's next leg; as `run.play` in all else.

    Every window is written when it closes, and `told`. Where that cannot be, the leg is stopped and
    RunFolderError raised.
    """
    windows = soak.windows()
    played_s = soak.played_s()
    number = soak.next_leg()
    scenario = loaded.scenario
    speed = scenario.speed
    gathering = Gathering(
        number,
        played_s,
        len(windows) + 1,
        _due(scenario),
        {} if asked.ramp is None else {c.id: (c.phase or 0.0) / speed for c in scenario.cameras},
        [(f.id, f.start / speed, f.end / speed) for f in planned_faults(scenario)],
    )
    options = replace(
        options,
        out=soak.path,
        name=soak.leg_folder(number).name,
        run=options.run or f"{soak.path.name}-{number}",
        score_up_to=asked.score_up_to,
    )
    looker = Looker(engine_port(scenario.engine))
    last_ns = windows[-1].wall_ns if windows else None
    keeping = asyncio.create_task(
        _keep(gathering, soak, asked, looker, Leg(number, played_s), last_ns, stop, told),
        name="soak windows",
    )
    try:
        outcome = await run.play(loaded, options, [*observers, gathering], stop)
    finally:
        keeping.cancel()
        (ended,) = await asyncio.gather(keeping, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
    _close_rest(gathering, soak, asked, asked.for_s - played_s, not outcome.interrupted, told)
    return outcome


def _due(scenario: Scenario) -> Callable[[CameraPlan], float]:
    return lambda plan: looks_due(plan.cadence_s, scenario.sampling, scenario.speed)


async def _keep(
    gathering: Gathering,
    soak: SoakFolder,
    asked: Asked,
    looker: Looker,
    leg: Leg,
    last_ns: int | None,
    stop: asyncio.Event,
    told: Callable[[Window], None],
) -> None:
    """Look at the processes now and then, close each window at its time; until cancelled."""
    try:
        await gathering.ready.wait()
        assert gathering.clock is not None
        gap_s = None if last_ns is None else (gathering.clock.start_ns - last_ns) / 1e9
        await _settled(asyncio.to_thread(soak.add_leg, replace(leg, gap_s=gap_s)))
        every_s = min(LONGEST_LOOK_S, asked.window_s / LOOKS_A_WINDOW)
        left_s = asked.for_s - leg.begin_s
        end_s, gpu_at = asked.window_s, -GPU_EVERY_S
        while True:
            now_s = gathering.now_s()
            if now_s < end_s or end_s > left_s + 1e-6:
                await asyncio.sleep(every_s if end_s > left_s else min(every_s, end_s - now_s))
                if now_s >= 0:
                    gpu = now_s - gpu_at >= GPU_EVERY_S
                    gpu_at = now_s if gpu else gpu_at
                    gathering.saw(await asyncio.to_thread(looker.look, gpu))
                continue
            window = gathering.close(end_s)
            end_s += asked.window_s
            told(window)
            await _settled(asyncio.to_thread(soak.add_window, window))
    except Exception:
        stop.set()
        raise


async def _settled(writing: Coroutine[Any, Any, None]) -> None:
    """Write to the end, also when cancelled meanwhile: lines must not overtake each other."""
    task = asyncio.ensure_future(writing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _close_rest(
    gathering: Gathering,
    soak: SoakFolder,
    asked: Asked,
    left_s: float,
    whole: bool,
    told: Callable[[Window], None],
) -> None:
    """What came after the last whole window; half of one or more, before the end, is one still.

    `whole`: nothing was cut off. The last frame may have met its fate a moment before the end, or
    in the moment in which the last window would have been closed.
    """
    begin_s = gathering.open_since_s
    end_s = gathering.now_s() if gathering.over_s is None else gathering.over_s
    if whole and begin_s < left_s - 1e-6:
        end_s = left_s
    played_s = min(end_s, left_s) - begin_s
    part = None if played_s >= asked.window_s / 2 else Part.END
    if gathering.is_empty and part is Part.END:
        return
    window = gathering.close(end_s, part)
    soak.add_window(window)
    told(window)


# --- what it came to -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """A soak, whole or as far as it got."""

    scenario: str
    engine: str
    asked: Asked
    windows: tuple[Window, ...]
    legs: tuple[Leg, ...]
    verdicts: tuple[Verdict, ...]
    knee: Knee | None
    played_s: float
    folder: Path

    @property
    def state(self) -> State:
        """Breached if one limit is; else undecided if one that was given is; else held."""
        if any(v.state is State.BREACHED for v in self.verdicts):
            return State.BREACHED
        undecided = any(v.state is State.UNDECIDED and v.given for v in self.verdicts)
        return State.UNDECIDED if undecided else State.HELD

    @property
    def complete(self) -> bool:
        return self.asked.is_over(self.played_s)

    def to_json(self) -> dict[str, Any]:
        asked = self.asked
        windows = [window.to_json() for window in self.windows]
        for window in windows:
            for told in window["seconds"].values():
                del told["bins"]  # they stand in windows.jsonl
        return {
            "scenario": self.scenario,
            "engine": self.engine,
            "for_s": asked.for_s,
            "played_s": self.played_s,
            "complete": self.complete,
            "window_s": asked.window_s,
            "memory_bytes": asked.memory_bytes,
            "ramp": None if asked.ramp is None else str(asked.ramp),
            "slo": asked.slo.model_dump(),
            "state": self.state.value,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "knee": None if self.knee is None else self.knee.to_json(),
            "trends": trends(self.windows, asked),
            "legs": self.legs,
            "windows": windows,
        }


def result(soak: SoakFolder, asked: Asked, scenario: str, engine: str) -> Result:
    """Judge what stands in the folder; write soak.json."""
    windows = soak.windows()
    found = Result(
        scenario=scenario,
        engine=engine,
        asked=asked,
        windows=tuple(windows),
        legs=tuple(soak.legs()),
        verdicts=judge(windows, asked),
        knee=None if asked.ramp is None else knee(windows, asked.ramp, asked),
        played_s=soak.played_s(),
        folder=soak.path,
    )
    soak.write_result(found.to_json())
    return found
