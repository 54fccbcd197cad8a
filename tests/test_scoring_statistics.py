"""Intervals against published values, percentiles under their floors, survival by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlyfire_stream.scoring.statistics import (
    bootstrap_means,
    median_interval,
    percentile,
    poisson_interval,
    survival,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_wilson_interval(hits: int, of: int, low: float, high: float) -> None:
    found = wilson_interval(hits, of)
    assert found == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_share_of_nothing_has_no_interval() -> None:
    assert wilson_interval(0, 0) is None


@pytest.mark.parametrize(
    ("events", "low", "high"),
    [(0, 0.0, 3.6889), (1, 0.0253, 5.5716), (8, 3.4538, 15.7632), (10, 4.7954, 18.3904)],
)
def test_exact_poisson_interval(events: int, low: float, high: float) -> None:
    found = poisson_interval(events)
    assert found == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@pytest.mark.parametrize(("rank", "floor"), [(50, 1), (90, 64), (95, 130), (99, 662)])
def test_a_percentile_is_null_one_sample_under_its_floor(rank: int, floor: int) -> None:
    assert percentile([1.0] * (floor - 1), rank) is None
    assert percentile([1.0] * floor, rank) == 1.0


def test_a_percentile_lies_between_its_neighbours() -> None:
    assert percentile([1.0, 2.0, 4.0, 8.0], 50) == 3.0


def test_survival_of_two_detected_and_one_given_up_at_the_horizon() -> None:
    found = survival([60, 120], [2400], 2400)
    assert found is not None
    assert found.times_s == (60, 120, 2400)
    assert found.undetected == (pytest.approx(2 / 3), pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.median_s == 120
    assert found.rmst_s == pytest.approx(860)


def test_a_view_that_is_censored_early_is_no_longer_at_risk() -> None:
    # at 100 s one of two is left: it alone decides, the curve falls from 1 to 0
    found = survival([100], [50], 2400)
    assert found is not None
    assert found.median_s == 100
    assert found.rmst_s == pytest.approx(100)


def test_no_median_while_most_views_are_undetected() -> None:
    found = survival([60], [2400, 2400], 2400)
    assert found is not None
    assert found.median_s is None
    assert found.rmst_s == pytest.approx(60 + 2340 * 2 / 3)


def test_nothing_to_survive_without_views() -> None:
    assert survival([], [], 2400) is None


def test_the_band_of_two_detected_of_three_is_greenwood_s_on_the_log_log_scale() -> None:
    # Greenwood's sums 1/(3·2) = 1/6 and 1/6 + 1/(2·1) = 2/3. At 60 s: √(1/6)/|ln 2/3| = 1.00687,
    # e^(±1.95996·1.00687) = 7.195 and 0.13898, (2/3)^ those = 0.0541 and 0.9452. At 120 s:
    # √(2/3)/|ln 1/3| = 0.74321, 4.2916 and 0.23301, (1/3)^ those = 0.00896 and 0.7742
    found = survival([60, 120], [2400], 2400)
    assert found is not None
    assert found.intervals[0] == pytest.approx((0.0541, 0.9452), abs=1e-4)
    assert found.intervals[1] == pytest.approx((0.00896, 0.7742), abs=1e-4)
    assert found.intervals[2] == found.intervals[1]  # nothing is detected when the watching ends
    assert found.at_risk == (3, 2, 1)


def test_the_median_lies_where_the_band_crosses_one_half() -> None:
    # the lower end is 0.054 from 60 s on; the upper end is never under 0.774
    found = survival([60, 120], [2400], 2400)
    assert found is not None
    assert found.median_interval_s == (60, None)


def test_a_curve_that_falls_to_nothing_at_once_has_no_band() -> None:
    found = survival([60, 60], [], 2400)
    assert found is not None
    assert found.undetected == (0.0,)
    assert found.intervals == (None,)
    assert found.median_interval_s is None


def test_views_censored_before_any_detection_leave_the_curve_at_one() -> None:
    found = survival([100], [50], 2400)
    assert found is not None
    assert found.undetected == (1.0, 0.0)
    assert found.intervals == (None, None)
    assert found.at_risk == (2, 1)


def test_the_restricted_mean_has_an_interval_from_eight_fires_on() -> None:
    # 4 of 8 fires at once, 4 never: RMST of a draw is 2400 s times the share of misses, and of 8
    # draws at p = 1/2 the central 95 % are 1 to 7 misses: 300 to 2100 s
    found = survival([0.0] * 4, [2400.0] * 4, 2400, range(8))
    assert found is not None
    assert found.rmst_s == pytest.approx(1200)
    assert found.rmst_interval_s == pytest.approx((300, 2100))
    seven = survival([0.0] * 3, [2400.0] * 4, 2400, range(7))
    assert seven is not None
    assert seven.rmst_interval_s is None


def test_a_hundred_cameras_of_a_fire_make_its_mean_no_surer() -> None:
    named = [*(i // 100 for i in range(400)), *(4 + i // 100 for i in range(400))]
    many = survival([0.0] * 400, [2400.0] * 400, 2400, named)
    assert many is not None
    assert many.rmst_interval_s == pytest.approx((300, 2100))


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], None),  # 2/32 of the time all lie on one side: 6.3 %
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], (1.0, 6.0)),  # 2/64
        ([float(i) for i in range(1, 11)], (2.0, 9.0)),  # 2·(1 + 10)/1024
    ],
)
def test_a_median_s_interval_comes_from_the_order_alone(
    values: list[float], interval: tuple[float, float] | None
) -> None:
    assert median_interval(values) == interval


def test_no_bootstrap_under_eight_fires() -> None:
    assert bootstrap_means([[0.5]] * 7) is None
    assert bootstrap_means([[0.5]] * 8) == (0.5, 0.5)


def test_cameras_of_one_fire_are_drawn_together() -> None:
    # 4 fires at 0 and 4 at 1: the mean of 8 draws has a standard deviation of 0.177, so its central
    # 95 % are 1/8 to 7/8; 100 cameras a fire make it no narrower
    alone = bootstrap_means([[0.0]] * 4 + [[1.0]] * 4)
    many = bootstrap_means([[0.0] * 100] * 4 + [[1.0] * 100] * 4)
    assert alone == many == (0.125, 0.875)


@given(st.lists(st.floats(0, 5000), max_size=20), st.lists(st.floats(0, 5000), max_size=20))
def test_the_curve_falls_from_one_and_its_mean_stays_within_the_horizon(
    detected: list[float], censored: list[float]
) -> None:
    found = survival(detected, censored, 2400)
    if found is None:
        assert not detected
        assert not censored
        return
    shares = [1.0, *found.undetected, 0.0]
    assert shares == sorted(shares, reverse=True)
    assert -1e-6 <= found.rmst_s <= 2400 + 1e-6
    for share, ends in zip(found.undetected, found.intervals, strict=True):
        assert ends is None or 0 <= ends[0] <= share <= ends[1] <= 1
