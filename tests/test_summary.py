"""What a person reads after a run."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from earlyfire_stream.records import CameraPlan, FaultPlan, FirePlan, RunLog
from earlyfire_stream.report.summary import clock, duration, summary, summary_plain
from earlyfire_stream.scoring import Score, score
from earlyfire_stream.verdict import Fate, Reason
from tests.scored_runs import fated, one_camera, verdicts


def three_frames_late() -> RunLog:
    return one_camera(verdicts("F" * 43 + "T" * 38), onset=2400)


def printed(found: Score, width: int) -> str:
    console = Console(file=StringIO(), width=width, force_terminal=False)
    console.print(summary(found))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_first_detection_stands_before_the_scalar_at_any_width(width: int) -> None:
    text = printed(score(three_frames_late()), width)
    assert text.index("3:01 min") < text.index("false alarms") < text.index("Early-Fire Score")
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


def test_onset_and_alarm_are_shown_where_there_is_room() -> None:
    found = score(three_frames_late())
    assert "43:01" in printed(found, 80)
    assert "43:01" not in printed(found, 60)


def test_plain_lines() -> None:
    lines = summary_plain(score(three_frames_late())).splitlines()
    assert lines[:3] == [
        "fire: f1 camera north onset 40:00 alarm 43:01 TTFD 3:01 min frames 3 located n/a "
        "largest part model miss 3:00",
        "detected: 1 of 1, median TTFD 3:01 min",
        "false alarms: 0 in 0.67 camera-hours, 0.00 per camera-day (95 %: 0.00 to 132.80)",
    ]
    assert "frame score v1: 95.9" in lines
    assert "answers: 81 sent, 81 valid, 0 bad_json" in lines
    assert "ledger: 81 scheduled = 81 answered" in lines
    assert lines[-1] == "warning: localization: n/a, the truth has no boxes"


def test_a_missed_fire_says_so() -> None:
    found = score(one_camera(verdicts("FFFF"), onset=60))
    assert "fire: f1 camera north onset 1:00 missed" in summary_plain(found)
    assert "missed" in printed(found, 60)


@pytest.mark.parametrize("width", [60, 80])
def test_a_ledger_that_does_not_balance_is_loud(width: int) -> None:
    log = three_frames_late()
    found = score(replace(log, frames=log.frames[1:]))
    assert "DOES NOT BALANCE: 1 missing" in printed(found, width)
    assert "ledger: DOES NOT BALANCE: 1 missing" in summary_plain(found)


def cut_for_ever() -> RunLog:
    """Frames 70 to 80 of 81 are lost in a partition from 70 to 75, and none comes again."""
    log = three_frames_late()
    lost = [fated(one, Fate.LOST, Reason.GAP) for one in log.shots[70:]]
    faults = (
        FaultPlan("twice", "camera-duplicate", 600.0, 720.0),
        FaultPlan("cut", "network-partition", 4200.0, 4500.0),
        FaultPlan("later", "host-cpu", 9000.0, 9100.0),
    )
    return replace(log, frames=[*log.frames[:70], *lost], faults=faults, duration_s=4860.0)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_faults_are_a_table_at_any_width(width: int) -> None:
    text = printed(score(cut_for_ever()), width)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["twice"][1:7] == ["10:00", "0", "of", "2", "0", "s"]
    assert rows["cut"][1:6] == ["1:10:00", "11", "of", "11", "never"]
    assert rows["later"][1:4] == ["2:30:00", "not", "reached"]
    assert (rows["twice"][-1], rows["cut"][-1]) == ("exact", "exact")
    assert ("dropped" in text) == (width >= 80)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


def test_faults_are_plain_lines() -> None:
    lines = summary_plain(score(cut_for_ever())).splitlines()
    assert lines[1:4] == [
        "fault: twice kind camera-duplicate at 10:00 to 12:00 harmed 0 of 2 dropped 0.0 % "
        "latency 1.00 s recovery 0 s ledger exact",
        "fault: cut kind network-partition at 1:10:00 to 1:15:00 harmed 11 of 11 dropped 100.0 % "
        "latency n/a recovery never ledger exact",
        "fault: later kind host-cpu at 2:30:00 not reached",
    ]
    assert "fault" not in summary_plain(score(three_frames_late()))


def test_why_there_is_no_score() -> None:
    found = score(one_camera(verdicts("FFFF")))
    assert "Early-Fire Score: none: no fire" in summary_plain(found)


def test_a_long_list_of_fires_is_cut_with_its_number() -> None:
    log = one_camera(verdicts("FT"), onset=60)
    fires = tuple(FirePlan(f"f{i}", 60) for i in range(35))
    found = score(replace(log, cameras=[CameraPlan("north", fires, 60)]))
    assert "… 5 more" in printed(found, 80)
    assert summary_plain(found).count("fire: ") == 35


def test_names_that_look_like_markup_are_printed_as_they_are() -> None:
    log = one_camera(verdicts("FT"), onset=60)
    plan = replace(log.cameras[0], fires=(FirePlan("[red]x", 60),))
    assert "[red]x" in printed(score(replace(log, cameras=[plan])), 100)


def test_a_run_in_which_nothing_happened_can_be_read() -> None:
    text = summary_plain(score(one_camera([])))
    assert "latency: p50 n/a p95 n/a p99 n/a (n 0)" in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 s"),
        (0.424, "0.42 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1:00 min"),
        (182.4, "3:02 min"),
        (3599.6, "1:00:00 h"),
        (3723.0, "1:02:03 h"),
        (-3.0, "-3.00 s"),
    ],
)
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (2401, "40:01"), (-90, "-1:30")])
def test_instants_as_people_say_them(seconds: float, text: str) -> None:
    assert clock(seconds) == text
