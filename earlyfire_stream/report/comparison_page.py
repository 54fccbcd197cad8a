"""A comparison's page: one HTML file like a run's report, for runs held against each other."""

from __future__ import annotations

__all__ = ["COMPARISON_FILE", "render", "write"]

from pathlib import Path

from earlyfire_stream.report.comparison_view import ComparisonPage, comparison_page
from earlyfire_stream.report.single_file import filled, write_whole
from earlyfire_stream.scoring.compare import Comparison

COMPARISON_FILE = "comparison.html"
COLOURS = 6
"""Sides beyond them share a colour; their letters tell them apart."""


def write(path: Path, found: Comparison) -> Path:
    """Write the page, whole or not at all; gives its place."""
    write_whole(path, render(comparison_page(found)))
    return path


def render(told: ComparisonPage) -> str:
    """The page as HTML; no text of the runs becomes markup or script."""
    return filled(
        "comparison.html.jinja",
        styles=["page.css", "comparison.css"],
        scripts=["drawing.js", "comparison.js"],
        data=told.data,
        page=told,
        places={side.label: place % COLOURS for place, side in enumerate(told.sides)},
    )
