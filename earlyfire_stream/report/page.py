"""A run's report: one HTML file that needs nothing else, no network and no other file.

Charts are drawn by a small script of our own. A library would bring more code than the charts take
(the smallest that draw survival curves and timelines weigh 45 kB and up), and none draws a timeline
of frames. Tables beside the charts hold the same figures, so the page says everything on paper too.
"""

from __future__ import annotations

__all__ = ["render", "write"]

from pathlib import Path

from earlyfire_stream.records import RunLog
from earlyfire_stream.report.gallery import MAX_BYTES, MAX_PICTURES, gallery
from earlyfire_stream.report.gauges import gauges
from earlyfire_stream.report.single_file import filled, write_whole
from earlyfire_stream.report.view import Page, page
from earlyfire_stream.scoring import Score
from earlyfire_stream.scoring.footage import footage, packed

REPORT_FILE = "report.html"


def write(folder: Path, log: RunLog, score: Score, output: Path | None = None) -> Path:
    """Write the report of a run folder, whole or not at all; gives its place."""
    path = output or folder / REPORT_FILE
    log, *_ = packed(log)
    everything = footage(log)
    pictures = gallery(folder, log, everything)
    write_whole(path, render(page(log, score, everything, pictures, gauges(folder))))
    return path


def render(told: Page) -> str:
    """The page as HTML; no text of the run becomes markup or script."""
    return filled(
        "page.html.jinja",
        styles=["page.css"],
        scripts=["drawing.js", "timeline.js", "page.js"],
        data=told.data,
        page=told,
        max_pictures=MAX_PICTURES,
        max_megabytes=MAX_BYTES / 1e6,
    )
