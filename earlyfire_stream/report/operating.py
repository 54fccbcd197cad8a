"""The operating curve on the terminal: a row a point, the run's own first."""

from __future__ import annotations

__all__ = ["operating_table"]

from collections.abc import Sequence

from rich.table import Table

from earlyfire_stream.report.summary import duration, number
from earlyfire_stream.scoring.operating import OperatingPoint

CHOSEN = "as run"


def operating_table(points: Sequence[OperatingPoint]) -> Table:
    """Shares and rates each with their 95 % interval, over the sample that the caption tells."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.caption_justify = "left"
    table.add_column("from", no_wrap=True)
    table.add_column("alarm", no_wrap=True)
    for title in ("recall", "TTFD median", "false/day"):
        table.add_column(title, justify="right", overflow="fold")
    for title in ("D", "F"):
        table.add_column(title, justify="right", no_wrap=True)
    for point in points:
        table.add_row(
            CHOSEN if point.threshold is None else f"{point.threshold:g}",
            point.alarm,
            _between(point.recall, point.recall_interval, 2),
            "n/a" if point.median_ttfd_s is None else duration(point.median_ttfd_s),
            _between(point.per_camera_day, point.per_camera_day_interval, 1),
            number(point.detection, 3),
            number(point.false_alarms, 3),
            style="bold" if point.chosen else "",
        )
    if points:
        table.caption = _caption(points[0])
    return table


def _between(value: float | None, interval: tuple[float, float] | None, digits: int) -> str:
    if value is None or interval is None:
        return number(value, digits)
    if interval[1] >= 100:
        digits = 0
    low, high = (number(end, digits) for end in interval)
    return f"{number(value, digits)} ({low}–{high})"


def _caption(own: OperatingPoint) -> str:
    said = (
        f"smoke from that confidence on; {own.views:,} views, {own.camera_hours:,.3g} camera-hours "
        f"without smoke, {own.verdicts:,} verdicts"
    )
    if own.without_confidence:
        said += (
            f", {own.without_confidence:,} of them without a confidence, which no threshold moves"
        )
    return said
