"""The run on a terminal: what scripted faults look like there."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from earlyfire_stream.clock import Clock, virtual_run
from earlyfire_stream.live.screen import PlainLines, Screen
from earlyfire_stream.live.tally import Tally
from earlyfire_stream.records import CameraPlan, FaultPlan, Playing
from tests.scored_runs import SECOND, shot

PLANS = tuple(CameraPlan(name, (), 1.0) for name in ("a", "b", "c"))
FAULTS = (
    FaultPlan("cut", "network-partition", 2.0, 5.0),
    FaultPlan("camera-frozen", "camera-frozen", 3.0, 9.0, ("b",)),
    FaultPlan("restart", "broker-restart", 4.0, 4.0),
)


def begun(tally: Tally, at: float = 0.0) -> None:
    """It is that scenario second of a run with these faults."""
    tally.opened(Playing("r", "s", "run", "simulated", "m", "fixed", "virtual", faults=FAULTS))

    async def begin() -> None:
        clock = Clock()
        tally.begin(PLANS, clock, None)
        clock.begin(clock.wall_ns() - round(at * SECOND))

    virtual_run(begin())


def test_faults_are_lines_when_a_frame_of_their_time_is_due() -> None:
    out = StringIO()
    lines = PlainLines(Console(file=out, width=100))
    begun(lines)
    for seq in (0, 3, 8):
        lines.shot(shot("a", seq, float(seq)))
    told = [line.strip() for line in out.getvalue().splitlines()]
    assert told == [
        "3 cameras, 0 fires, speed 1",
        "2.0 s  FAULT cut: network-partition (all cameras)",
        "3.0 s  FAULT camera-frozen (b)",
        "4.0 s  FAULT restart: broker-restart (all cameras)",
        "5.0 s  fault over: cut",
    ]


def test_what_is_under_way_is_planned_for_that_second() -> None:
    tally = Tally()
    begun(tally)
    told = [[fault.id for fault in tally.under_way(at)] for at in (1.0, 2.0, 4.5, 9.0, 14.0)]
    assert told == [[], ["cut"], ["cut", "camera-frozen", "restart"], ["restart"], []]


def test_the_screen_names_the_faults_under_way() -> None:
    out = StringIO()
    screen = Screen(Console(file=out, width=100, height=30), "hills")
    begun(screen, at=4.5)
    Console(file=out, width=100).print(screen._draw())
    text = out.getvalue()
    assert "FAULT cut: network-partition, since 2.0 s, all cameras" in text
    assert "FAULT camera-frozen, since 3.0 s, b" in text
