"""A score on the terminal: how late each alarm was first, the scalar after.

The same facts twice: `summary` for a terminal of 60 columns or more, `summary_plain` for a pipe,
where each line begins with a word that stays the same.
"""

from __future__ import annotations

__all__ = ["clock", "duration", "number", "percent", "recovered", "summary", "summary_plain"]

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from earlyfire_stream.scoring import Score
from earlyfire_stream.scoring.detection import View
from earlyfire_stream.scoring.faults import FaultScore

MOST_FIRES = 30
"""Rows a terminal shows; the rest stands in score.json."""
MOST_FAULTS = 40
WIDE = 76
"""Columns from which onset and alarm instants fit beside the time to first detection."""


def summary(score: Score) -> RenderableType:
    """For `rich.print`; it adapts to the width it is given."""
    return _Summary(score)


@dataclass(frozen=True, slots=True)
class _Summary:
    score: Score

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        score = self.score
        if score.fires:
            yield _fires(score, wide=options.max_width >= WIDE)
            yield Text()
        if score.faults:
            yield _faults(score, wide=options.max_width >= WIDE)
            yield Text()
        facts = Table.grid(padding=(0, 2), expand=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        for label, value in _facts(score):
            style = {"Early-Fire Score": "bold", "ledger": _ledger_style(score)}.get(label, "")
            facts.add_row(label, Text(value, style=style))
        yield facts
        if score.warnings:
            warnings = Table.grid(padding=(0, 1, 0, 0))
            for warning in score.warnings:
                warnings.add_row(Text("!", style="bold yellow"), Text(warning, style="yellow"))
            yield Text()
            yield warnings


def summary_plain(score: Score) -> str:
    """One fact a line, without colours or boxes; ends with a line break."""
    lines = [_fire_line(view) for view in score.fires]
    lines += [_fault_line(fault) for fault in score.faults]
    lines += [f"{label}: {value}" for label, value in _facts(score)]
    lines += [f"warning: {warning}" for warning in score.warnings]
    return "\n".join(lines) + "\n"


# --- fires ---------------------------------------------------------------------------------------


def _fires(score: Score, wide: bool) -> Table:
    columns: list[tuple[str, Callable[[View], str], bool]] = [
        ("fire", lambda v: v.fire, False),
        ("camera", lambda v: v.camera, False),
        ("TTFD", lambda v: duration(v.ttfd_s) if v.ttfd_s is not None else "missed", True),
        ("frames", lambda v: "" if v.frames_late is None else str(v.frames_late), True),
        ("located", _located, False),
        ("largest part", _largest_part, False),
    ]
    if wide:
        columns[2:2] = [
            ("onset", lambda v: clock(v.onset_s), True),
            ("alarm", lambda v: clock(v.alarm_s) if v.alarm_s is not None else "", True),
        ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, _, is_number in columns:
        table.add_column(
            name,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
            style="bold" if name == "TTFD" else "",
        )
    for view in score.fires[:MOST_FIRES]:
        style = "red" if view.parts is None else ""
        table.add_row(*(Text(text(view), style=style) for _, text, _ in columns))
    hidden = len(score.fires) - MOST_FIRES
    if hidden > 0:
        table.add_row(f"… {hidden} more")
    return table


def _fire_line(view: View) -> str:
    where = f"fire: {view.fire} camera {view.camera} onset {clock(view.onset_s)}"
    if view.ttfd_s is None or view.alarm_s is None:
        return f"{where} missed" + (", alarmed beside the smoke only" if view.unlocated else "")
    return (
        f"{where} alarm {clock(view.alarm_s)} TTFD {duration(view.ttfd_s)} "
        f"frames {view.frames_late} located {_located(view)} largest part {_largest_part(view)}"
    )


def _located(view: View) -> str:
    if view.parts is None:
        return "beside it" if view.unlocated else ""
    return {True: "yes", False: "no", None: "n/a"}[view.located]


def _largest_part(view: View) -> str:
    if view.parts is None:
        return ""
    name, seconds = max(view.parts.to_json().items(), key=lambda part: part[1])
    # without `min`, which would not fit into 80 columns beside a name of usual length
    return f"{name.replace('_', ' ')} {duration(seconds).removesuffix(' min')}"


# --- faults --------------------------------------------------------------------------------------


_EXACT = {True: "exact", False: "WRONG", None: "n/a"}


def _faults(score: Score, wide: bool) -> Table:
    columns: list[tuple[str, Callable[[FaultScore], str], bool]] = [
        ("fault", lambda f: f.id, False),
        ("at", lambda f: clock(f.start_s), True),
        ("harmed", _harmed, True),
        ("recovery", recovered, True),
        ("ledger", lambda f: _EXACT[f.exact], False),
    ]
    if wide:
        columns[4:4] = [
            ("dropped", lambda f: percent(f.drops.share), True),
            ("latency", lambda f: _tail(f.latency.p50), True),
        ]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, _, is_number in columns:
        table.add_column(
            name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    for fault in score.faults[:MOST_FAULTS]:
        wrong = fault.recovery.not_recovered or fault.exact is False
        style = "red" if wrong else "dim" if fault.state in ("failed", "not reached") else ""
        table.add_row(*(Text(text(fault), style=style) for _, text, _ in columns))
    hidden = len(score.faults) - MOST_FAULTS
    if hidden > 0:
        table.add_row(f"… {hidden} more")
    return table


def _fault_line(fault: FaultScore) -> str:
    where = f"fault: {fault.id} kind {fault.kind} at {clock(fault.start_s)}"
    if fault.state in ("failed", "not reached"):
        return f"{where} {fault.state}"
    return (
        f"{where} to {clock(fault.end_s)} harmed {_harmed(fault)} dropped "
        f"{percent(fault.drops.share)} latency {_tail(fault.latency.p50)} recovery "
        f"{recovered(fault)} ledger {_EXACT[fault.exact]}"
    )


def _harmed(fault: FaultScore) -> str:
    if fault.state in ("failed", "not reached"):
        return fault.state
    return f"{fault.frames.harmed:,} of {fault.frames.scheduled:,}"


def recovered(fault: FaultScore) -> str:
    """How long the slowest camera took: `0 s` where none was harmed, `never`, or a duration."""
    found = fault.recovery
    if not found.n:
        return "n/a"
    if found.not_recovered:
        return "never"
    return "0 s" if not found.harmed or found.max_s is None else duration(found.max_s)


def percent(share: float | None, digits: int = 1) -> str:
    """`48.4 %`."""
    return "n/a" if share is None else f"{100 * share:.{digits}f} %"


# --- everything else -----------------------------------------------------------------------------


def _facts(score: Score) -> Iterator[tuple[str, str]]:
    if score.fires:
        detected = [v for v in score.fires if v.parts is not None]
        median = score.median_ttfd_s
        yield (
            "detected",
            f"{len(detected)} of {len(score.fires)}"
            + (f", median TTFD {duration(median)}" if median is not None else ""),
        )
    yield "false alarms", _false_alarms(score)
    yield "Early-Fire Score", _early_fire_score(score)
    yield "terms", " ".join(f"{k}={number(v, 3)}" for k, v in score.terms.to_json().items())
    yield "frame score v1", number(score.frame_score_v1, 1)
    frames = score.frames
    yield (
        "frames",
        f"precision {number(frames.precision, 3)} recall {number(frames.recall, 3)} "
        f"F1 {number(frames.f1, 3)} (n {frames.n})",
    )
    if score.localization is not None:
        boxes = score.localization
        yield (
            "boxes",
            f"AP@0.4 {number(boxes.ap40, 3)} AP@0.5 {number(boxes.ap50, 3)} "
            f"matched {boxes.matched} of {boxes.predicted} predicted (n {boxes.n})",
        )
    spent = score.latency
    yield (
        "latency",
        " ".join(
            f"p{rank} {_tail(value)}"
            for rank, value in ((50, spent.p50), (95, spent.p95), (99, spent.p99))
        )
        + f" (n {spent.n})",
    )
    if score.stages:
        yield "of it", _stages(score)
    used = score.tokens
    yield (
        "tokens",
        f"{used.visual:,} visual, {number(used.visual_per_request, 0)} a request, "
        f"{number(used.visual_per_camera_hour, 0)} a camera-hour",
    )
    yield "answers", _answers(score)
    told = score.explanations
    if told.asked:
        yield (
            "explanations",
            f"{told.given:,} of {told.asked:,} asked, p50 {_tail(told.p50_s)}, "
            f"{told.visual_tokens:,} visual and {told.output_tokens:,} output tokens",
        )
    yield "ledger", _ledger(score)


def _false_alarms(score: Score) -> str:
    found = score.false_alarms
    if found.interval is None:
        return f"{found.episodes}, no time without smoke to count them over"
    low, high = found.interval
    return (
        f"{found.episodes} in {number(found.camera_hours, 2)} camera-hours, "
        f"{number(found.per_camera_day, 2)} per camera-day (95 %: {low:.2f} to {high:.2f})"
    )


def _early_fire_score(score: Score) -> str:
    if score.early_fire_score is None:
        return f"none: {score.why_null}"
    text = number(score.early_fire_score, 1)
    if score.interval is not None:
        low, high = score.interval
        text += f" ({low:.1f} to {high:.1f} over the false alarms' interval)"
    return text


def _stages(score: Score) -> str:
    """Medians: waiting for a turn, then the engine's, then what its server says of itself."""
    told = {"waited_s": "waited", "decided_s": "decided after", "answered_s": "answered after"}
    parts = [
        f"{told.get(name, name.removesuffix('_s').replace('_', ' '))} {_tail(stage.p50)}"
        for name, stage in score.stages.items()
        if name.endswith("_s")
    ]
    return ", ".join(parts) + " (medians)"


def _answers(score: Score) -> str:
    asked = score.answers
    text = f"{asked.sent:,} sent, {asked.valid:,} valid, {asked.bad_json:,} bad_json"
    if asked.mended:
        mends = ", ".join(f"{count:,} {name}" for name, count in asked.repairs.items())
        text += f", {asked.mended:,} mended ({mends})"
    return text + "".join(f", {count:,} {kind}" for kind, count in asked.errors.items())


def _ledger(score: Score) -> str:
    ledger = score.ledger
    fates = " + ".join(f"{count:,} {fate}" for fate, count in ledger.fates.items()) or "nothing"
    text = f"{ledger.scheduled:,} scheduled = {fates}"
    if ledger.balanced is None:
        text = f"{fates}; what was scheduled is unknown"
    elif not ledger.balanced:
        text = (
            f"DOES NOT BALANCE: {ledger.missing:,} missing, {ledger.double:,} double, "
            f"{ledger.unknown:,} unknown; {ledger.scheduled:,} scheduled, {fates}"
        )
    if ledger.duplicates:
        text += f"; {ledger.duplicates:,} duplicates apart"
    return text


def _ledger_style(score: Score) -> str:
    return "bold white on red" if score.ledger.balanced is False else ""


# --- numbers -------------------------------------------------------------------------------------


def number(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """`0.42 s`, `59.4 s`, `3:02 min`, `1:02:03 h`."""
    if abs(seconds) < 9.995:
        return f"{seconds:.2f} s"
    if abs(seconds) < 59.95:
        return f"{seconds:.1f} s"
    return clock(seconds) + (" min" if abs(seconds) < 3599.5 else " h")


def clock(seconds: float) -> str:
    """`0:05`, `40:01`, `1:02:03`, to the nearest second."""
    sign = "-" if seconds < -0.5 else ""
    minutes, rest = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}:{minutes:02}:{rest:02}" if hours else f"{sign}{minutes}:{rest:02}"


def _tail(value: float | None) -> str:
    return "n/a" if value is None else duration(value)
