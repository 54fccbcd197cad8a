"""Visual tokens: sizes to the letter of transformers, and a budget that is never overdrawn."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyfire_stream.tokens import LearnedRate, TokenBudget, fit, smart_resize, visual_tokens

PX = 28 * 28
unhurried = settings(deadline=None)
"""On a busy machine any example may take a while."""


@pytest.mark.parametrize(
    ("width", "height", "checkpoint", "capped", "floor_1024"),
    [
        (640, 480, 391, 391, 1036),
        (1280, 720, 1196, 1196, 1196),
        (1920, 1080, 2691, 1222, 2691),
        (3840, 2160, 10549, 1222, None),
    ],
)
def test_common_frames_take_the_tokens_that_the_models_were_seen_to_count(
    width: int, height: int, checkpoint: int, capped: int, floor_1024: int | None
) -> None:
    assert visual_tokens(width, height) == checkpoint
    assert visual_tokens(width, height, max_tokens=1280) == capped
    if floor_1024 is not None:
        assert visual_tokens(width, height, min_tokens=1024) == floor_1024


def test_halves_are_rounded_to_even_as_python_does() -> None:
    # 42/28 = 1.5 -> 2 and 70/28 = 2.5 -> 2; 854/28 = 30.5 -> 30 (llama.cpp makes it 31)
    assert smart_resize(42, 280, 4 * PX, 16384 * PX) == (56, 280)
    assert smart_resize(70, 280, 4 * PX, 16384 * PX) == (56, 280)
    assert smart_resize(854, 854, 4 * PX, 16384 * PX) == (840, 840)


def test_too_large_is_floored_and_too_small_is_raised() -> None:
    assert smart_resize(1080, 1920, 4 * PX, 1280 * PX) == (728, 1316)
    assert smart_resize(480, 640, 1024 * PX, 16384 * PX) == (784, 1036)


def test_a_picture_longer_than_two_hundred_times_its_width_is_refused() -> None:
    assert smart_resize(28, 5600, 4 * PX, 16384 * PX) == (28, 5600)
    with pytest.raises(ValueError, match="200"):
        smart_resize(28, 5601, 4 * PX, 16384 * PX)
    with pytest.raises(ValueError, match="no pixels"):
        smart_resize(0, 10, 4 * PX, 16384 * PX)


def test_fit_gives_what_smart_resize_gives_wherever_that_keeps_the_range() -> None:
    assert fit(1280, 720, 256, 1280) == (1288, 728, 1196)
    assert fit(1920, 1080, 256, 1280) == (1316, 728, 1222)
    assert fit(640, 480, 256, 1280) == (644, 476, 391)
    assert fit(320, 240, 256, 1280) == (532, 392, 266)


def test_fit_stays_below_the_maximum_where_smart_resize_does_not() -> None:
    # 5600 x 28 within 100 tokens: smart_resize keeps one row of 141 columns and leaves the range
    assert smart_resize(28, 5600, 4 * PX, 100 * PX) == (28, 141 * 28)
    assert fit(5600, 28, 4, 100) == (2800, 28, 100)


def test_fit_falls_below_a_range_that_holds_no_grid() -> None:
    # 257 is prime and 1 x 257 is longer than 200 times its height
    width, height, tokens = fit(1000, 1000, 257, 257)
    assert tokens == 256
    assert (width, height) == (448, 448)


@unhurried
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(4, 1500), st.integers(0, 1500))
def test_a_fitted_size_is_left_alone_by_every_later_resize(
    width: int, height: int, low: int, more: int
) -> None:
    if max(width, height) > 200 * min(width, height):
        return
    w, h, tokens = fit(width, height, low, low + more)
    assert tokens == (w // 28) * (h // 28) <= low + more
    assert w % 28 == 0
    assert h % 28 == 0
    if more:
        assert tokens >= low
        assert smart_resize(h, w, low * PX, (low + more) * PX) == (h, w)
        assert fit(w, h, low, low + more) == (w, h, tokens)


def test_a_bucket_starts_full_and_refills_at_its_rate() -> None:
    budget = TokenBudget(rate=1000, burst_s=4, now_s=100)
    assert budget.capacity == 4000
    assert budget.can_spend(4000, 100)
    budget.spend(4000, 100)
    assert not budget.can_spend(1, 100)
    assert budget.wait_s(1200, 100) == pytest.approx(1.2)
    assert not budget.can_spend(1200, 101.1)
    assert budget.can_spend(1200, 101.2)


def test_savings_never_exceed_the_burst() -> None:
    budget = TokenBudget(rate=10, burst_s=2)
    budget.spend(0, 1000)
    assert budget.level == 20


def test_a_refund_makes_room_again_but_never_more_than_the_bucket_holds() -> None:
    budget = TokenBudget(rate=100, burst_s=1)
    budget.spend(80, 0)
    budget.refund(80, 0)
    assert budget.level == 100
    budget.refund(80, 0)
    assert budget.level == 100


def test_a_request_larger_than_the_bucket_goes_when_it_is_full_and_leaves_a_debt() -> None:
    budget = TokenBudget(rate=100, burst_s=4)
    assert budget.can_spend(1280, 0)
    budget.spend(1280, 0)
    assert budget.level == -880
    # 1280 tokens at 100 a second: the bucket is full again after 12.8 s
    assert budget.wait_s(1280, 0) == pytest.approx(12.8)


def test_without_a_rate_everything_may_be_spent() -> None:
    budget = TokenBudget(rate=None, burst_s=4)
    budget.spend(10**9, 0)
    assert budget.can_spend(10**9, 0)
    assert budget.utilization(1) == 0
    budget.set_rate(100, 1)
    assert budget.level == 400


def test_a_clock_that_steps_back_grants_nothing() -> None:
    budget = TokenBudget(rate=100, burst_s=1, now_s=50)
    budget.spend(100, 50)
    assert not budget.can_spend(100, 10)
    assert budget.can_spend(100, 51)


def test_utilization_is_one_when_all_that_is_granted_is_spent() -> None:
    budget = TokenBudget(rate=1000, burst_s=1)
    for second in range(1, 61):
        budget.spend(1000, float(second))
    assert budget.utilization(60) == pytest.approx(1.0, abs=0.06)
    assert budget.utilization(120) < 0.01


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        TokenBudget(rate=rate, burst_s=1)
    with pytest.raises(ValueError, match="rate"):
        TokenBudget(rate=1, burst_s=1).set_rate(rate, 0)


@unhurried
@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(4, 1280)), min_size=1, max_size=60),
    st.floats(10, 5000),
    st.floats(0, 5),
)
def test_spending_never_exceeds_the_burst_plus_the_rate_times_the_time(
    steps: list[tuple[float, int]], rate: float, burst_s: float
) -> None:
    budget = TokenBudget(rate=rate, burst_s=burst_s)
    now_s, spent = 0.0, 0
    for pause_s, tokens in steps:
        now_s += pause_s
        if budget.can_spend(tokens, now_s):
            budget.spend(tokens, now_s)
            spent += tokens
        assert spent <= max(rate * burst_s, 1280) + rate * now_s + 1
    waited_s = now_s + budget.wait_s(1280, now_s)
    assert budget.can_spend(1280, waited_s)


def test_the_rate_is_unknown_until_the_engine_was_full_often_enough() -> None:
    learned = LearnedRate()
    for _ in range(50):
        learned.observe(1000, 0.5, in_flight=1, slots=4)
    assert learned.rate is None
    for _ in range(8):
        learned.observe(1000, 1.0, in_flight=4, slots=4)
    assert learned.rate == 4000


def test_one_stuck_request_and_a_cold_start_do_not_move_the_rate() -> None:
    learned = LearnedRate()
    learned.observe(1000, 40.0, in_flight=4, slots=4)
    for _ in range(10):
        learned.observe(1000, 1.0, in_flight=4, slots=4)
    learned.observe(1000, 30.0, in_flight=4, slots=4)
    assert learned.rate == 4000


def test_a_faster_engine_shows_even_when_it_is_no_longer_full() -> None:
    learned = LearnedRate()
    for _ in range(8):
        learned.observe(1000, 1.0, in_flight=2, slots=2)
    for _ in range(8):
        learned.observe(1000, 0.1, in_flight=1, slots=2)
    assert learned.rate == 10_000


def test_observations_that_cannot_be_are_left_out() -> None:
    learned = LearnedRate()
    for _ in range(20):
        learned.observe(0, 1.0, 1, 1)
        learned.observe(10, 0.0, 1, 1)
        learned.observe(10, math.nan, 1, 1)
        learned.observe(10, 1.0, 0, 1)
    assert learned.rate is None
