"""What an engine's server told of itself, as a report shows it."""

from __future__ import annotations

import gzip
from pathlib import Path

import orjson

from earlyfire_stream.records import GAUGES_LOG
from earlyfire_stream.report.gauges import MOST_LOOKS, gauges


def line(at: float, **values: float) -> bytes:
    """A look at scenario second `at`, played at twice the speed of the clock on the wall."""
    told = {"what": "gauges", "wall_ns": round(at * 5e8), "scenario_s": at, "values": values}
    return orjson.dumps({"k": "note", "v": told}) + b"\n"


def stored(folder: Path, *lines: bytes) -> Path:
    (folder / GAUGES_LOG).write_bytes(b"".join(lines))
    return folder


def test_a_run_that_looked_at_no_server_has_none(tmp_path: Path) -> None:
    assert gauges(tmp_path).looks == 0
    assert gauges(stored(tmp_path)).series == ()


def test_a_gauge_is_shown_as_it_is_and_a_counter_as_its_rate(tmp_path: Path) -> None:
    found = gauges(
        stored(
            tmp_path,
            line(0, waiting=0, done_total=5),
            line(10, waiting=4, done_total=25),
            line(20, waiting=1, done_total=3),  # the server was started again
        )
    )
    assert found.looks == 3
    waiting, *rest = found.series
    assert (waiting.title, waiting.how) == ("waiting", "")
    assert waiting.points == ((0, 0), (10, 4), (20, 1))
    assert rest == []  # one rate alone does not move: 20 in 5 wall seconds


def test_a_counter_s_rate_is_by_wall_second(tmp_path: Path) -> None:
    lines = [line(0, done_total=0), line(10, done_total=20), line(20, done_total=25)]
    (rate,) = gauges(stored(tmp_path, *lines)).series
    assert rate.how == "a second"
    assert rate.points == ((10, 4.0), (20, 1.0))


def test_a_histogram_is_shown_as_the_mean_of_what_came_between_two_looks(tmp_path: Path) -> None:
    found = gauges(
        stored(
            tmp_path,
            line(0, queue_seconds_sum=0, queue_seconds_count=0, queue_seconds_bucket=0),
            line(10, queue_seconds_sum=2, queue_seconds_count=4, queue_seconds_bucket=4),
            line(20, queue_seconds_sum=2, queue_seconds_count=4, queue_seconds_bucket=4),
            line(30, queue_seconds_sum=5, queue_seconds_count=5, queue_seconds_bucket=4),
        )
    )
    (mean,) = found.series
    assert (mean.name, mean.how) == ("queue_seconds", "mean")
    assert mean.points == ((10, 0.5), (30, 3.0))


def test_what_never_moved_is_one_number_and_zeros_are_left_out(tmp_path: Path) -> None:
    found = gauges(stored(tmp_path, line(0, memory=8e9, lost=0), line(5, memory=8e9, lost=0)))
    assert found.series == ()
    assert found.steady == (("memory", 8e9),)


def test_labels_that_every_series_has_are_left_out_of_titles(tmp_path: Path) -> None:
    names = ('run{model="m",worker="0"}', 'run{model="m",worker="1"}')
    lines = [line(at, **dict.fromkeys(names, at)) for at in (0.0, 5.0)]
    found = gauges(stored(tmp_path, *lines))
    assert [s.title for s in found.series] == ["run · worker 0", "run · worker 1"]
    assert [s.name for s in found.series] == list(names)


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    found = gauges(
        stored(tmp_path, line(0, a=1), b'{"k":"note","v":{"values":3}}\n', line(9, a=2), b'{"k":')
    )
    assert (found.looks, found.broken) == (4, 2)
    assert found.series[0].points == ((0, 1), (9, 2))


def test_a_long_run_is_thinned_and_its_packed_parts_are_read(tmp_path: Path) -> None:
    lines = [line(i, a=i) for i in range(2 * MOST_LOOKS)]
    with gzip.open(tmp_path / "engine-0001.jsonl.gz", "wb") as part:
        part.write(b"".join(lines[:MOST_LOOKS]))
    found = gauges(stored(tmp_path, *lines[MOST_LOOKS:]))
    assert found.looks == 2 * MOST_LOOKS
    points = found.series[0].points
    assert len(points) <= MOST_LOOKS + 1
    assert (points[0], points[1], points[-1]) == ((0, 0), (2, 2), (959, 959))
