"""The operating curve, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import CameraPlan, FirePlan, RunLog
from earlyfire_stream.scoring import score
from earlyfire_stream.scoring.operating import (
    operating_curve,
    parse_policies,
    parse_thresholds,
)
from earlyfire_stream.verdict import Box, Verdict
from tests.scored_runs import YES, answered, one_camera, run_log, shot


def said(*confidences: float | None) -> list[Verdict]:
    """What an engine says that claims smoke from 0.5 on; None: smoke, without a confidence."""
    return [Verdict(True) if c is None else Verdict(c >= 0.5, None, c) for c in confidences]


def ten_minutes() -> RunLog:
    """Ten frames a minute apart, onset at 300 s; smoke from 0.5 on: at 120, 420, 480, 540 s."""
    confidences = (0.1, 0.3, 0.6, 0.1, 0.1, 0.2, 0.4, 0.7, 0.9, 0.9)
    return one_camera(said(*confidences), onset=300.0)


def test_a_lower_threshold_finds_the_fire_sooner_and_raises_more_false_alarms() -> None:
    own, low, middle, high = operating_curve(ten_minutes(), (0.2, 0.5, 0.8))
    # 0.2: the onset's own frame (300 s) is smoke; before it those at 60 and 120 s, one episode
    assert low.median_ttfd_s == pytest.approx(0 + 1)  # answered 1 s after the capture
    assert (low.episodes, low.camera_hours) == (1, pytest.approx(300 / 3600))
    # 0.5: from 420 s on; before the onset the frame at 120 s
    assert middle.median_ttfd_s == pytest.approx(120 + 1)
    assert middle.episodes == 1
    # 0.8: from 480 s on, nothing before the onset
    assert high.median_ttfd_s == pytest.approx(180 + 1)
    assert high.episodes == 0
    assert high.per_camera_day == 0
    assert [p.threshold for p in (own, low, middle, high)] == [None, 0.2, 0.5, 0.8]
    # D = 0.4 + 0.6·2^(−181/240) = 0.7557; F = 1; C = 2·0.7557/1.7557 = 0.8609
    assert high.detection == pytest.approx(0.7557, abs=1e-4)
    assert high.false_alarms == 1
    assert high.combined == pytest.approx(0.8609, abs=1e-4)


def test_above_every_confidence_the_fire_is_missed() -> None:
    (_, never) = operating_curve(ten_minutes(), (0.95,))
    assert (never.detected, never.views, never.recall) == (0, 1, 0)
    assert never.median_ttfd_s is None
    assert never.detection == 0
    assert never.recall_interval == pytest.approx((0, 0.7935), abs=1e-4)  # Wilson, 0 of 1


def test_two_of_three_confirms_a_frame_later_and_forgives_a_single_false_positive() -> None:
    own, single, confirmed = operating_curve(ten_minutes(), (0.5,), ((1, 1), (2, 3)))
    assert (single.alarm, single.episodes) == ("1of1", 1)
    assert (confirmed.alarm, confirmed.episodes) == ("2of3", 0)
    assert confirmed.median_ttfd_s == pytest.approx(180 + 1)
    assert (own.alarm, own.chosen) == ("1of1", True)
    assert not single.chosen


def test_the_run_s_own_point_is_what_the_score_says() -> None:
    log = ten_minutes()
    (own,) = operating_curve(log, ())
    whole = score(log)
    assert own.chosen
    assert own.median_ttfd_s == whole.median_ttfd_s
    assert own.detection == whole.terms.detection
    assert own.false_alarms == whole.terms.false_alarms
    assert own.per_camera_day_interval == whole.false_alarms.interval


def test_verdicts_without_confidence_stand_as_they_are_and_are_counted() -> None:
    log = one_camera(said(0.1, 0.1, None, 0.3), onset=60.0)
    (_, point) = operating_curve(log, (0.9,))
    assert point.median_ttfd_s == pytest.approx(60 + 1)  # the bare "smoke" at 120 s
    assert (point.without_confidence, point.verdicts) == (1, 4)


def test_a_threshold_takes_the_place_of_the_run_s_least_confidence() -> None:
    log = one_camera(
        said(0.1, 0.6, 0.9), onset=60.0, policy={"k": 1, "n": 1, "min_confidence": 0.8}
    )
    own, point = operating_curve(log, (0.5,))
    assert own.median_ttfd_s == pytest.approx(60 + 1)
    assert point.median_ttfd_s == pytest.approx(0 + 1)


def test_no_threshold_brings_back_a_box_in_an_ignored_polygon() -> None:
    chimney = ((0.0, 0.0), (0.2, 0.0), (0.2, 0.2), (0.0, 0.2))
    smoke = Verdict(True, Box(0.1, 0.1, 0.1, 0.1), 0.9)
    log = one_camera([smoke] * 3, onset=60.0, plan={"ignore": (chimney,)})
    (_, point) = operating_curve(log, (0.1,))
    assert (point.detected, point.episodes) == (0, 0)


def test_cameras_without_truth_are_on_no_curve() -> None:
    seen = [shot("street", i, i * 60.0) for i in range(3)]
    log = run_log(
        [CameraPlan("street", (FirePlan("f", 60.0),), 60.0, truth=False)],
        seen,
        [answered(s, YES) for s in seen],
    )
    (own,) = operating_curve(log, ())
    assert (own.views, own.recall, own.per_camera_day, own.detection) == (0, None, None, None)
    assert own.to_json()["C"] is None


def test_a_point_as_json_holds_intervals_and_counts() -> None:
    (own,) = operating_curve(replace(ten_minutes(), complete=False), ())
    told = own.to_json()
    assert told["alarm"] == "1of1"
    assert told["views"]["n"] == 1  # type: ignore[index]
    assert len(told["false_alarms"]["interval"]) == 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5", (0.5,)),
        ("0.9, 0.1,0.1", (0.1, 0.9)),
        ("0.1:0.9:0.4", (0.1, 0.5, 0.9)),
        ("0.1:0.3:0.1", (0.1, 0.2, 0.3)),  # as floats 0.1 + 2·0.1 would lie above 0.3
        ("0.7…0.9", (0.7, 0.8, 0.9)),
        ("0.7...0.9", (0.7, 0.8, 0.9)),
        ("0.2,0.4…0.8", (0.2, 0.4, 0.6, 0.8)),
        ("0,1", (0.0, 1.0)),
    ],
)
def test_thresholds_are_lists_and_stretches(text: str, values: tuple[float, ...]) -> None:
    assert parse_thresholds(text) == values


@pytest.mark.parametrize(
    "text", ["", ",", "high", "1.5", "-0.1", "nan", "0.9:0.1:0.1", "0:1:0", "0:1:1e-9", "0.1…inf"]
)
def test_thresholds_that_are_none_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"--threshold.*0\.1:0\.9:0\.1"):
        parse_thresholds(text)


def test_a_step_that_makes_millions_of_thresholds_is_refused_for_that() -> None:
    with pytest.raises(UsageError, match="more than 1,000 points"):
        parse_thresholds("0:1:1e-6")


def test_policies_are_k_of_n() -> None:
    assert parse_policies("1of1, 2of3,1of1") == ((1, 1), (2, 3))


@pytest.mark.parametrize("text", ["", "3of2", "0of1", "2", "1of101", "-1of1", "²of3"])
def test_policies_that_are_none_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"--alarm.*1of1,2of3"):
        parse_policies(text)
