"""Runs held against each other, on the terminal: what differs, how surely, which fires moved.

The same facts twice, as in `summary`: `comparison` for a terminal of 60 columns or more,
`comparison_plain` for a pipe, where each line begins with words that stay the same.
"""

from __future__ import annotations

__all__ = ["comparison", "comparison_plain", "worse_line"]

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from earlyfire_stream.report.comparison_words import (
    change_text,
    facts_told,
    fire_text,
    interval_text,
    method,
    p_text,
    plain_text,
    sample_text,
    signed_text,
    through_text,
    ttfd_text,
    value_text,
    verdict,
)
from earlyfire_stream.scoring.compare import (
    Against,
    Comparison,
    Figure,
    Moved,
    Worse,
    label,
)

MOST_MOVED = 30
"""Rows a terminal shows; the rest stands in `--json`."""
WIDE = 76
"""Columns from which an interval fits beside its difference."""
DIGITS = {"efs": 1, "v1": 1, "tokens": 0, "false_alarms": 2}


def comparison(found: Comparison) -> RenderableType:
    """For `rich.print`; it adapts to the width it is given."""
    return _Shown(found)


@dataclass(frozen=True, slots=True)
class _Shown:
    found: Comparison

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        wide = options.max_width >= WIDE
        sides = Table.grid(padding=(0, 2, 0, 0))
        for place, names in enumerate(self.found.sides):
            for row, name in enumerate(names):
                mark = label(place) if row == 0 else ""
                sides.add_row(Text(mark, style="bold"), Text(name, overflow="fold"))
        yield sides
        for against in self.found.against:
            yield Text()
            yield Text(f"{against.label} against A", style="bold")
            yield Text(verdict(against).sentence)
            yield from _settings(against)
            yield Text()
            yield _figures(against, wide, several=len(self.found.against) > 1)
            yield Text()
            yield from _facts(against)
            yield Text()
            yield _moved(against, wide)
        yield Text()
        yield from _notes(self.found)
        told = [("not quite comparable", said) for said in self.found.doubts]
        told += [("" if side == "all" else side, said) for side, said in self.found.warnings]
        if told:
            warnings = Table.grid(padding=(0, 1, 0, 0))
            for side, said in told:
                text = f"{side}: {said}" if side else said
                warnings.add_row(Text("!", style="bold yellow"), Text(text, style="yellow"))
            yield Text()
            yield warnings


def _settings(against: Against) -> Iterator[RenderableType]:
    if not against.stated:
        yield Text("no setting differs", style="dim")
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    for key, ours, theirs in against.stated:
        table.add_row(Text(key, style="dim"), Text(f"{ours} → {theirs}"))
    yield table


def _figures(against: Against, wide: bool, several: bool) -> Table:
    """A row a figure; in a narrow terminal the interval stands below, n below the title."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("" if wide else "n below", no_wrap=True)
    for title in ("A", against.label, "difference"):
        table.add_column(title, justify="right", no_wrap=True)
    if wide:
        table.add_column("95 %", no_wrap=True)
    table.add_column("p, Holm" if several else "p", justify="right", no_wrap=True)
    if wide:
        table.add_column("n", justify="right", no_wrap=True)
    for figure in against.figures:
        name, between = Text(figure.title), interval_text(figure)
        change = Text(signed_text(figure, figure.difference), style=_style(figure))
        if not wide:
            name.append(f"\n  {sample_text(figure)}", "dim")
            change.append(f"\n{between}", "default")
        table.add_row(
            name,
            value_text(figure, figure.first),
            value_text(figure, figure.other),
            change,
            *([between] if wide else []),
            p_text(figure.p_holm),
            *([sample_text(figure)] if wide else []),
        )
    return table


def _style(figure: Figure) -> str:
    if not figure.surely or figure.worse_by is None:
        return ""
    return "red" if figure.worse_by > 0 else "green"


def _facts(against: Against) -> Iterator[RenderableType]:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, said in facts_told(against):
        facts.add_row(name, Text(said))
    yield facts


def _moved(against: Against, wide: bool) -> RenderableType:
    if not against.moved:
        return Text("no view moved", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    columns: list[tuple[str, Callable[[Moved], str], bool]] = [
        ("A", lambda m: ttfd_text(m.first_s), True),
        (against.label, lambda m: ttfd_text(m.other_s), True),
        ("change", change_text, True),
        ("through", through_text, False),
    ]
    if wide:
        columns[:0] = [("fire", fire_text, False), ("camera", lambda m: m.camera, False)]
    else:
        columns[:0] = [("view", lambda m: f"{fire_text(m)}\n{m.camera}", False)]
    for name, _, is_number in columns:
        table.add_column(
            name,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    for moved in against.moved[:MOST_MOVED]:
        style = "red" if moved.other_s is None else "green" if moved.first_s is None else ""
        table.add_row(*(Text(text(moved), style=style) for _, text, _ in columns))
    hidden = len(against.moved) - MOST_MOVED
    if hidden > 0:
        table.add_row(f"… {hidden} more")
    return table


def _notes(found: Comparison) -> Iterator[RenderableType]:
    for said in method(found):
        yield Text(said, style="dim")


# --- a pipe --------------------------------------------------------------------------------------


def comparison_plain(found: Comparison) -> str:
    """One fact a line, without colours or boxes; ends with a line break."""
    lines = [
        f"run {label(place)}: {name}" for place, names in enumerate(found.sides) for name in names
    ]
    for against in found.against:
        who = f"{against.label} against A"
        lines.append(f"{who}: verdict: {verdict(against).sentence}")
        lines += [f"{who}: differs: {key} {a} → {b}" for key, a, b in against.stated]
        lines += [f"{who}: {_figure_line(figure, against.label)}" for figure in against.figures]
        lines += [f"{who}: {name}: {said}" for name, said in facts_told(against)]
        lines += [f"{who}: moved: {_moved_line(moved, against.label)}" for moved in against.moved]
        if not against.moved:
            lines.append(f"{who}: no view moved")
    lines += [f"note: {said}" for said in method(found)]
    lines += [f"warning: not quite comparable: {said}" for said in found.doubts]
    lines += [
        f"warning: {said}" if side == "all" else f"warning: {side}: {said}"
        for side, said in found.warnings
    ]
    return "\n".join(lines) + "\n"


def _figure_line(figure: Figure, other: str) -> str:
    ours, theirs = (value_text(figure, each) for each in (figure.first, figure.other))
    said = f"{figure.key}: A {ours} {other} {theirs}"
    if figure.difference is None:
        return f"{said} n {sample_text(figure)} {figure.of}"
    between = interval_text(figure)
    said += f" difference {signed_text(figure, figure.difference)}"
    said += f" (95 %: {between})" if between else ""
    if figure.p is not None:
        said += f" p {p_text(figure.p)}"
        if figure.p_holm != figure.p:
            said += f" (Holm {p_text(figure.p_holm)})"
    return f"{said} n {sample_text(figure)} {figure.of}"


def _moved_line(moved: Moved, other: str) -> str:
    return (
        f"fire {fire_text(moved)} camera {moved.camera} A {ttfd_text(moved.first_s)} {other} "
        f"{ttfd_text(moved.other_s)} {change_text(moved)} through {through_text(moved)}"
    )


# --- a threshold ------------------------------------------------------------------------------


def worse_line(found: Worse) -> str:
    """`B: efs is worse by 3.1, allowed are 2`."""
    figure = found.figure
    if figure is None or found.by is None:
        return f"{found.label}: {found.key} cannot be compared: a side has nothing to measure it by"
    by, allowed = (plain_text(figure, value) for value in (found.by, found.allowed))
    return f"{found.label}: {found.key} is worse than A's by {by}, allowed are {allowed}"
