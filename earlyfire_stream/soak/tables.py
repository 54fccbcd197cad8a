"""A soak on a terminal: a line for each window as it closes, tables at the end."""

from __future__ import annotations

__all__ = ["summary", "verdict_line", "window_line"]

from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from earlyfire_stream.soak.judging import State, Verdict
from earlyfire_stream.soak.play import Result
from earlyfire_stream.soak.windows import Part, Window
from earlyfire_stream.soak.words import clock, knee_line, seconds, share, verdict_cells

MARKS = {
    State.HELD: ("✓", "green"),
    State.BREACHED: ("✗", "red"),
    State.UNDECIDED: ("?", "yellow"),
}
WIDE = 76
"""Columns from which on every column of the windows has room."""
MOST_ROWS = 40
"""Windows that a terminal is shown; of more, the page has them all."""


def window_line(window: Window, for_s: float) -> str:
    """One window, as it closes."""
    ended = window.part is Part.END
    parts = [
        "after the end" if ended else f"{clock(window.end_s)} of {clock(for_s)}",
        f"{window.cameras} camera{'' if window.cameras == 1 else 's'}",
        *(_counts(window) if ended else _rates(window)),
        f"drops {share(window.dropped, window.wanted)}",
        f"p50 {seconds(window.latency.percentile(50))}",
        f"p95 {seconds(window.latency.percentile(95))}",
    ]
    if window.failed:
        parts.append(f"errors {share(window.failed, window.requests)}")
    memory = ", ".join(
        f"{role} {level.rss_bytes / 1e6:.0f} MB"
        for role, level in window.processes.items()
        if level.rss_bytes
    )
    if memory:
        parts.append(memory)
    if window.part is Part.WARM_UP:
        parts.append("(warming up)")
    if window.faults:
        parts.append("faults: " + ", ".join(window.faults))
    return "soak  " + "  ".join(parts)


def _rates(window: Window) -> tuple[str, str]:
    offered, served = window.a_second(window.offered), window.a_second(window.served)
    return f"offered {offered:.1f}/s", f"served {served:.1f}/s"


def _counts(window: Window) -> tuple[str, str]:
    return f"settled {sum(window.fates.values()):,}", f"served {window.served:,}"


def summary(found: Result, width: int) -> RenderableType:
    """Everything that a reader wants at the end, in so many columns."""
    parts: list[RenderableType] = [Text("no window was closed")]
    if found.windows:
        parts = [_windows(found.windows, width), "", _processes(found, width)]
    cold = [leg for leg in found.legs if leg.cold_start_s is not None]
    if cold:
        told = ", ".join(f"{leg.cold_start_s:.2f} s" for leg in cold)
        parts += ["", Text(f"cold start {told}, in no window")]
    for leg in found.legs[1:]:
        gap = "an unknown time" if leg.gap_s is None else f"{leg.gap_s:,.0f} s"
        on = f"leg {leg.number} goes on there, its footage and fires anew"
        parts.append(Text(f"gap of {gap} at {clock(leg.begin_s)}: {on}"))
    errors = Counter[str]()
    for window in found.windows:
        errors.update(window.errors)
    if errors:
        told = ", ".join(f"{reason} {count:,}" for reason, count in errors.most_common())
        parts += ["", Text(f"errors: {told}")]
    if found.knee is not None:
        parts += ["", Text(knee_line(found.knee), "bold")]
    return Group(*parts, "", *(verdict_line(verdict) for verdict in found.verdicts))


def _windows(windows: Sequence[Window], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", caption_justify="left")
    columns: list[tuple[str, Callable[[Window], str]]] = [
        ("until", lambda w: "rest" if w.part is Part.END else clock(w.end_s)),
        ("cams", lambda w: str(w.cameras)),
        ("offered/s", lambda w: _rate(w, w.offered, 1)),
        ("served/s", lambda w: _rate(w, w.served, 2)),
        ("drops", lambda w: share(w.dropped, w.wanted)),
        ("p50", lambda w: seconds(w.latency.percentile(50))),
        ("p95", lambda w: seconds(w.latency.percentile(95))),
    ]
    if width >= WIDE:
        columns += [
            ("errors", lambda w: share(w.failed, w.requests)),
            ("tokens/s", lambda w: _rate(w, w.visual_tokens, 0)),
        ]
    columns.append(("", _mark))
    for title, _ in columns:
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    shown = windows if len(windows) <= MOST_ROWS else windows[-MOST_ROWS:]
    for window in shown:
        style = "" if window.part is Part.MEASURED else "dim"
        table.add_row(*(cell(window) for _, cell in columns), style=style)
    told = []
    if len(shown) < len(windows):
        told.append(f"the last {MOST_ROWS} of {len(windows)} windows")
    if any(window.part is Part.WARM_UP for window in shown):
        told.append("w: warming up")
    if any(window.part is Part.END for window in shown):
        told.append("rest: what was settled after the end")
    if any(window.faults for window in shown):
        told.append("f: a scripted fault")
    table.caption = "; ".join(told) or None
    return table


def _rate(window: Window, count: float, digits: int) -> str:
    """A second; what is settled after the end has none."""
    return "" if window.part is Part.END else f"{window.a_second(count):,.{digits}f}"


def _mark(window: Window) -> str:
    return ("w" if window.part is Part.WARM_UP else "") + ("f" if window.faults else "")


def _processes(found: Result, width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    titles = ["process", "MB first", "last", "most", "files", "threads", "cores"]
    if width < WIDE:
        del titles[3]
    for title in titles:
        table.add_column(title, justify="left" if title == "process" else "right", no_wrap=True)
    measured = [w for w in found.windows if w.part is not Part.END] or found.windows
    for role in sorted({role for window in measured for role in window.processes}):
        seen = [window.processes[role] for window in measured if role in window.processes]
        memory = [level.gpu_bytes or 0 if role == "gpu" else level.rss_bytes for level in seen]
        first, last = memory[0], memory[-1]
        most = max(level.most_rss_bytes for level in seen) or max(memory)
        cpu = [level.cpu for level in seen if level.cpu is not None]
        cells = [
            role,
            f"{first / 1e6:.0f}",
            f"{last / 1e6:.0f}",
            *([f"{most / 1e6:.0f}"] if width >= WIDE else []),
            "" if seen[-1].files is None else str(seen[-1].files),
            str(seen[-1].threads or ""),
            f"{sum(cpu) / len(cpu):.2f}" if cpu else "",
        ]
        table.add_row(*cells)
    return table


def verdict_line(verdict: Verdict) -> Text:
    """`✓ p95_latency 1.20 s (1.10 to 1.31 s), limit 5 s, n 3,120`."""
    mark, colour = MARKS[verdict.state]
    cells = verdict_cells(verdict)
    line = Text().append(f"{mark} ", colour).append(cells["what"], "bold")
    if verdict.state is State.UNDECIDED:
        line.append(" undecided", colour)
    if cells["value"]:
        line.append(f" {cells['value']}")
    if cells["interval"]:
        line.append(f" ({cells['interval']})")
    if cells["limit"]:
        line.append(f", limit {cells['limit']}")
    if cells["n"]:
        line.append(f", n {cells['n']}")
    return line.append(f": {cells['why']}") if cells["why"] else line
