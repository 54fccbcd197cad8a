"""What the documentation says of the metrics is what the exporter has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from earlyfire_stream.metrics.families import (
    CAMERA_SERIES,
    LATENCY_S,
    SILENT_AFTER_S,
    TTFD_S,
    table,
)
from tests.deployed import exposed_names, named_in

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "deploy" / "METRICS.md"


def test_the_table_is_the_one_that_is_printed() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), (
        "print it anew: python -m earlyfire_stream.metrics"
    )


@pytest.mark.parametrize("name", ["deploy/METRICS.md", "README.md", "CHANGELOG.md"])
def test_no_text_names_a_metric_that_does_not_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert named_in(text) - exposed_names(in_words=True) == set()


def test_the_buckets_are_those_that_were_promised() -> None:
    doubling = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96]
    assert list(LATENCY_S) == [*doubling, 81.92, 163.84, 327.68, 655.36]
    assert list(TTFD_S) == [1, 5, 15, 30, 60, 120, 180, 240, 300, 600, 900, 1200, 1800, 2400, 3600]


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (told,) = re.findall(r"up to (\d+) cameras", text)
    assert int(told) == CAMERA_SERIES
    over = [f"`{seconds}s`" for seconds in SILENT_AFTER_S]
    assert ", ".join(over) in text
