"""The run on a terminal: a row a camera, totals below; or plain lines where nobody looks on."""

from __future__ import annotations

__all__ = ["PlainLines", "Screen", "watch"]

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from earlyfire_stream.clock import Clock
from earlyfire_stream.live.tally import CameraTally, Tally, rate
from earlyfire_stream.records import (
    AlarmRecord,
    CameraPlan,
    FaultPlan,
    Observer,
    Shot,
    Snapshot,
)
from earlyfire_stream.scenario.units import counted

REFRESH_HZ = 4
MOST_FAULTS = 3
"""Under way at a time that a screen shows."""
PLAIN_EVERY_S = 10.0
"""Scenario seconds between two plain lines of totals."""


class Watching(Observer, Protocol):
    """An observer that is entered and left with the run."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def watch(console: Console, title: str) -> Watching:
    """The live screen on a terminal, plain lines elsewhere."""
    return Screen(console, title) if console.is_terminal else PlainLines(console)


class PlainLines(Tally):
    """Events as they happen and totals now and then, one line each, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._next_line_at = PLAIN_EVERY_S
        self._to_tell: list[tuple[float, str]] = []
        """What faults have still to be told, the next one last: when, and in which words."""
        self._stage = ""
        self._told_share = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def stage(self, text: str, share: float | None = None) -> None:
        if text != self._stage:
            self._stage, self._told_share = text, 0.0
            self._say(f"… {text}")
        elif share is not None and share >= self._told_share + 0.25:
            self._told_share = share
            self._say(f"… {text}: {share:.0%}")

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        super().begin(plans, clock, snapshot)
        fires = len({fire.id for plan in plans for fire in plan.fires})
        told = f"{counted(len(plans), 'camera')}, {counted(fires, 'fire')}"
        self._say(f"{told}, speed {clock.speed:g}")
        begins = [(f.start, f"FAULT {_named(f)} ({self.met(f)})") for f in self.faults]
        ends = [(f.end, f"fault over: {f.id}") for f in self.faults if f.end > f.start]
        self._to_tell = sorted(begins + ends, reverse=True)

    def shot(self, shot: Shot) -> None:
        while self._to_tell and self._to_tell[-1][0] <= shot.captured_at:
            at, what = self._to_tell.pop()
            self._say(f"{at:7.1f} s  {what}")
        was_off = self.camera(shot.camera).off
        super().shot(shot)
        camera = self.camera(shot.camera)
        if camera.off and not was_off:
            self._say(f"{shot.captured_at:7.1f} s  {shot.camera}: off ({shot.unsent})")
        elif was_off and not camera.off:
            self._say(f"{shot.captured_at:7.1f} s  {shot.camera}: back")
        if shot.captured_at >= self._next_line_at:
            self._next_line_at += PLAIN_EVERY_S * max(1.0, self.clock.speed if self.clock else 1.0)
            self._say(f"{shot.captured_at:7.1f} s  {_ledger(self)}")

    def alarm(self, record: AlarmRecord) -> None:
        super().alarm(record)
        if record.emitted:
            at = record.alarm.completed_at
            burning = self.camera(record.alarm.camera).fire_at(at)
            what = f"{burning[0]}, {burning[1]:.1f} s after onset" if burning else "no fire there"
            self._say(f"{at:7.1f} s  {record.alarm.camera}: ALARM ({what})")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Screen(Tally):
    """A table that is drawn four times a second."""

    def __init__(self, console: Console, title: str) -> None:
        super().__init__()
        self._console = console
        self._title = title
        self._stage = ""
        self._share: float | None = None
        self._spent: tuple[float, int] = (time.monotonic(), 0)
        self._tokens_per_s = 0.0
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=REFRESH_HZ,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def stage(self, text: str, share: float | None = None) -> None:
        self._stage, self._share = text, share

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        super().begin(plans, clock, snapshot)
        self._stage = ""

    def _draw(self) -> RenderableType:
        if self.clock is None or self._stage:
            stage = Text(f" {self._stage} …" if self._stage else "", style="dim")
            if self._share is not None:
                bar = ProgressBar(total=1.0, completed=self._share, width=30)
                return Group(Text(self._title, style="bold"), stage, bar)
            return Group(Text(self._title, style="bold"), stage)
        now = self.clock.now()
        head = Text.assemble(
            (self._title, "bold"),
            f"   {max(0.0, now):6.1f} s",
            (f" × {self.clock.speed:g}" if self.clock.speed != 1 else "", "dim"),
        )
        faults = [
            Text(f"FAULT {_named(f)}, since {f.start:.1f} s, {self.met(f)}", style="magenta")
            for f in self.under_way(now)[:MOST_FAULTS]
        ]
        return Group(head, *faults, self._table(now), *self._totals())

    def _table(self, now: float) -> Table:
        table = Table(box=None, pad_edge=False, expand=False, header_style="dim")
        narrow = self._console.width < 76
        table.add_column("camera", no_wrap=True, overflow="ellipsis", max_width=22)
        table.add_column("state", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("since onset", justify="right", no_wrap=True)
        if not narrow:
            table.add_column("latency", justify="right", no_wrap=True)
            table.add_column("fps", justify="right", no_wrap=True)
            table.add_column("looks/min", justify="right", no_wrap=True)
        room = max(3, self._console.height - 10 - min(MOST_FAULTS, len(self.under_way(now))))
        cameras = list(self.cameras.values())
        if len(cameras) > room:
            cameras.sort(key=lambda c: _urgency(c, now), reverse=True)
        for camera in cameras[:room]:
            cells = _row(camera, now)
            table.add_row(*(cells[:4] if narrow else cells))
        if len(cameras) > room:
            table.add_row(Text(f"… and {len(cameras) - room} more", style="dim"))
        return table

    def _totals(self) -> list[Text]:
        lines = [Text("")]
        if self.snapshot is not None:
            seen = self.snapshot()
            then, spent = self._spent
            now = time.monotonic()
            if now - then >= 1.0:
                self._tokens_per_s = (seen.tokens_spent - spent) / (now - then)
                self._spent = (now, seen.tokens_spent)
            budget = f" of {seen.tokens_per_s:,.0f}" if seen.tokens_per_s else ""
            lines.append(
                Text.assemble(
                    ("fleet   ", "dim"),
                    f"{len(self.cameras)} cameras · waiting {seen.waiting} · "
                    f"in flight {seen.in_flight} · alarms {self.alarms}",
                )
            )
            lines.append(
                Text.assemble(
                    ("tokens  ", "dim"),
                    f"{self._tokens_per_s:,.0f} visual tokens/s{budget} · "
                    f"{seen.tokens_spent:,} so far",
                )
            )
        lines.append(Text.assemble(("ledger  ", "dim"), _ledger(self)))
        return lines


def _named(fault: FaultPlan) -> str:
    return fault.kind if fault.id == fault.kind else f"{fault.id}: {fault.kind}"


def _ledger(tally: Tally) -> str:
    fates = " ".join(f"{fate} {count}" for fate, count in sorted(tally.fates.items()))
    if not tally.scheduled:
        return fates
    return f"scheduled {tally.scheduled} = {fates} + {tally.pending} under way"


def _urgency(camera: CameraTally, now: float) -> tuple[bool, bool, bool, float]:
    positive = camera.verdict is not None and camera.verdict.has_smoke
    burning = camera.fire_at(now) is not None
    return positive, burning, camera.off, camera.alarmed_at or 0.0


def _row(camera: CameraTally, now: float) -> list[Text]:
    burning = camera.fire_at(now)
    if camera.off:
        state = Text(f"○ {camera.why_off}", style="yellow")
    elif not camera.scheduled and camera.verdict_at is None:
        state = Text("· waiting", style="dim")
    elif camera.alarmed_at is not None and burning is not None:
        state = Text("● ALARM", style="bold red")
    elif camera.alarmed_at is not None and camera.false_alarms:
        state = Text("● false alarm", style="magenta")
    elif burning is not None:
        state = Text("● burning", style="dark_orange")
    else:
        state = Text("● on", style="green")
    return [
        Text(camera.plan.id),
        state,
        _verdict(camera),
        _since(camera, burning),
        Text("" if camera.latency_s is None else f"{camera.latency_s:.2f} s"),
        Text(_number(rate(camera.shots), 2)),
        Text(_number(rate(camera.looks), 1, 60)),
    ]


def _verdict(camera: CameraTally) -> Text:
    if camera.trouble:
        return Text(camera.trouble, style="yellow")
    if camera.verdict is None:
        return Text("–", style="dim")
    sure = camera.verdict.confidence
    share = "" if sure is None else f" {sure:.0%}"
    if camera.verdict.has_smoke:
        return Text(f"smoke{share}", style="bold red")
    return Text(f"clear{share}", style="green")


def _since(camera: CameraTally, burning: tuple[str, float] | None) -> Text:
    if burning is None:
        return Text("")
    fire, since_s = burning
    if fire in camera.first_alarms:
        onset = next(f.onset for f in camera.plan.fires if f.id == fire)
        took = camera.first_alarms[fire] - onset
        return Text(f"{since_s:.0f} s (alarm at {took:.0f})", style="red")
    return Text(f"{since_s:.0f} s", style="dark_orange")


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"
