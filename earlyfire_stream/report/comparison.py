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

from earlyfire_stream.report.summary import duration, number
from earlyfire_stream.scoring.compare import (
    IN_SECONDS,
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
        name, between = Text(figure.title), _interval(figure)
        change = Text(_signed(figure, figure.difference), style=_style(figure))
        if not wide:
            name.append(f"\n  {_n(figure)}", "dim")
            change.append(f"\n{between}", "default")
        table.add_row(
            name,
            _value(figure, figure.first),
            _value(figure, figure.other),
            change,
            *([between] if wide else []),
            _p(figure.p_holm),
            *([_n(figure)] if wide else []),
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
    for name, said in _told(against):
        facts.add_row(name, Text(said))
    yield facts


def _told(against: Against) -> Iterator[tuple[str, str]]:
    other = against.label
    views = against.detected
    if views.views:
        yield (
            "views",
            f"{views.views}: detected by both {views.both}, by A only {views.only_first}, by "
            f"{other} only {views.only_other}, by neither {views.neither}",
        )
    rates = against.false_alarms
    said = (
        f"{rates.first_episodes} in {rates.first_hours:.3g} camera-hours against "
        f"{rates.other_episodes} in {rates.other_hours:.3g}"
    )
    if rates.low is not None:
        many = "infinitely" if rates.high is None else f"{rates.high:.3g}"
        ratio = "" if rates.ratio is None else f"{rates.ratio:.3g} times A's rate, "
        said += f"; {other}: {ratio}95 % {rates.low:.3g} to {many} times"
    yield "false alarms", said
    frames = against.frames
    if frames.n:
        yield (
            "frames",
            f"{frames.n:,} that both asked about: the same verdict on "
            f"{frames.both_smoke + frames.neither_smoke:,}, smoke in A only "
            f"{frames.only_first_smoke:,}, in {other} only {frames.only_second_smoke:,}; right "
            f"where the other is wrong: A {frames.only_first_right:,}, {other} "
            f"{frames.only_second_right:,} (McNemar p {_p(frames.p_value)})",
        )
    else:
        yield "frames", "none that both asked about"


def _moved(against: Against, wide: bool) -> RenderableType:
    if not against.moved:
        return Text("no view moved", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    columns: list[tuple[str, Callable[[Moved], str], bool]] = [
        ("A", lambda m: _ttfd(m.first_s), True),
        (against.label, lambda m: _ttfd(m.other_s), True),
        ("change", _change, True),
        ("through", _through, False),
    ]
    if wide:
        columns[:0] = [("fire", _fire, False), ("camera", lambda m: m.camera, False)]
    else:
        columns[:0] = [("view", lambda m: f"{_fire(m)}\n{m.camera}", False)]
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


def _fire(moved: Moved) -> str:
    return moved.fire if moved.seed is None else f"{moved.fire} (seed {moved.seed})"


def _ttfd(seconds: float | None) -> str:
    return "missed" if seconds is None else duration(seconds).removesuffix(" min")


def _change(moved: Moved) -> str:
    if moved.change_s is not None:
        return _plus(moved.change_s) + duration(moved.change_s).removesuffix(" min")
    return "lost" if moved.other_s is None else "gained"


def _through(moved: Moved) -> str:
    part = moved.part.replace("_", " ")
    if moved.part_change_s is None:
        return part
    return f"{part} {_plus(moved.part_change_s)}{duration(moved.part_change_s)}".removesuffix(
        " min"
    )


def _notes(found: Comparison) -> Iterator[RenderableType]:
    for said in _method(found):
        yield Text(said, style="dim")


def _method(found: Comparison) -> Iterator[str]:
    """How the intervals and p-values were made, without which they say nothing."""
    without = dict.fromkeys(a.why_no_interval for a in found.against if a.why_no_interval)
    if without:
        yield f"No bootstrap: {'; '.join(without)}."
    else:
        first = found.against[0]
        yield (
            f"Differences are the other's less A's. 95 %: bootstrap over {first.fires} fires and "
            f"{first.cameras} cameras without one."
        )
    yield "False alarms and F: exact Poisson intervals joined; p binomial, given their sum."
    unlike = max(
        (f.unlike or 0 for a in found.against for f in a.figures if f.key in ("recall", "rmst")),
        default=0,
    )
    floor = f"; {unlike} differ in TTFD, so {_p(2.0 ** (1 - unlike))} there" if unlike else ""
    yield (
        "p otherwise: each fire's halves trade sides or not, all ways or 9,999 drawn. Where n "
        f"fires differ it cannot be below 2^-(n-1){floor}."
    )
    yield (
        "n: the views, frames, boxed frames, requests or camera-hours behind a figure, A's/the "
        "other's where they differ. Rates are per camera."
    )
    if len(found.against) > 1:
        yield (
            f"p is adjusted (Holm) over the {len(found.against)} comparisons of a figure, not over "
            "the figures."
        )


# --- a pipe --------------------------------------------------------------------------------------


def comparison_plain(found: Comparison) -> str:
    """One fact a line, without colours or boxes; ends with a line break."""
    lines = [
        f"run {label(place)}: {name}" for place, names in enumerate(found.sides) for name in names
    ]
    for against in found.against:
        who = f"{against.label} against A"
        lines += [f"{who}: differs: {key} {a} → {b}" for key, a, b in against.stated]
        lines += [f"{who}: {_figure_line(figure, against.label)}" for figure in against.figures]
        lines += [f"{who}: {name}: {said}" for name, said in _told(against)]
        lines += [f"{who}: moved: {_moved_line(moved, against.label)}" for moved in against.moved]
        if not against.moved:
            lines.append(f"{who}: no view moved")
    lines += [f"note: {said}" for said in _method(found)]
    lines += [f"warning: not quite comparable: {said}" for said in found.doubts]
    lines += [
        f"warning: {said}" if side == "all" else f"warning: {side}: {said}"
        for side, said in found.warnings
    ]
    return "\n".join(lines) + "\n"


def _figure_line(figure: Figure, other: str) -> str:
    said = f"{figure.key}: A {_value(figure, figure.first)} {other} {_value(figure, figure.other)}"
    if figure.difference is None:
        return f"{said} n {_n(figure)} {figure.of}"
    between = _interval(figure)
    said += f" difference {_signed(figure, figure.difference)}"
    said += f" (95 %: {between})" if between else ""
    if figure.p is not None:
        said += f" p {_p(figure.p)}"
        if figure.p_holm != figure.p:
            said += f" (Holm {_p(figure.p_holm)})"
    return f"{said} n {_n(figure)} {figure.of}"


def _moved_line(moved: Moved, other: str) -> str:
    change = _change(moved)
    through = _through(moved)
    return (
        f"fire {_fire(moved)} camera {moved.camera} A {_ttfd(moved.first_s)} {other} "
        f"{_ttfd(moved.other_s)} {change} through {through}"
    )


# --- numbers -------------------------------------------------------------------------------------


def worse_line(found: Worse) -> str:
    """`B: efs is worse by 3.1, allowed are 2`."""
    figure = found.figure
    if figure is None or found.by is None:
        return f"{found.label}: {found.key} cannot be compared: a side has nothing to measure it by"
    by, allowed = (_plain(figure, value) for value in (found.by, found.allowed))
    return f"{found.label}: {found.key} is worse than A's by {by}, allowed are {allowed}"


def _plain(figure: Figure, value: float) -> str:
    if figure.key in IN_SECONDS:
        return duration(value)
    return number(value, DIGITS.get(figure.key, 3))


def _value(figure: Figure, value: float | None) -> str:
    if value is None:
        return "n/a"
    return _plain(figure, value).removesuffix(" min")


def _signed(figure: Figure, value: float | None) -> str:
    return "" if value is None else _plus(value) + _value(figure, value)


def _plus(value: float) -> str:
    return "+" if value > 0 else ""


def _interval(figure: Figure) -> str:
    if figure.interval is None:
        return ""
    low, high = (_signed(figure, end) for end in figure.interval)
    return f"{low} to {high}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _n(figure: Figure) -> str:
    one, two = (f"{n:,.0f}" if n >= 100 or n == int(n) else f"{n:.2g}" for n in figure.n)
    return one if one == two else f"{one}/{two}"
