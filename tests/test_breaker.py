"""The breaker: when an engine is left alone, and when it is asked again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from earlyfire_stream.breaker import Breaker


def opened(at: float = 10.0) -> Breaker:
    breaker = Breaker()
    told = [breaker.failed(at) for _ in range(5)]
    assert told == [False, False, False, False, True]
    return breaker


def test_four_failures_in_a_row_keep_nothing_waiting() -> None:
    breaker = Breaker()
    for _ in range(4):
        assert not breaker.failed(0.0)
    assert breaker.wait_s(0.0) == 0.0
    assert breaker.sent() is None


def test_an_answer_between_them_starts_the_count_again() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.failed(0.0)
    assert not breaker.answered()
    for _ in range(4):
        breaker.failed(0.0)
    assert not breaker.is_open


def test_the_fifth_failure_makes_the_next_request_wait_half_a_second() -> None:
    breaker = opened(10.0)
    assert breaker.is_open
    assert breaker.wait_s(10.0) == 0.5
    assert breaker.wait_s(10.25) == 0.25
    assert breaker.wait_s(11.0) == 0.0


def test_while_one_asks_the_others_wait_for_its_end() -> None:
    breaker = opened(10.0)
    assert breaker.sent() is not None
    assert breaker.wait_s(60.0) is None


def test_each_question_in_vain_doubles_the_rest_up_to_two_seconds() -> None:
    breaker = opened(0.0)
    rests = []
    for _ in range(6):
        assert not breaker.failed(100.0, breaker.sent())
        rests.append(breaker.wait_s(100.0))
    assert rests == [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_failures_of_what_was_under_way_do_not_lengthen_the_rest() -> None:
    breaker = opened(10.0)
    for _ in range(20):
        breaker.failed(10.4)
    assert breaker.wait_s(10.4) == 10.5 - 10.4


def test_a_failure_of_what_was_under_way_sends_no_second_question() -> None:
    breaker = opened(10.0)
    probe = breaker.sent()
    breaker.failed(11.0)
    assert breaker.wait_s(60.0) is None
    breaker.failed(20.0, probe)
    assert breaker.wait_s(20.0) == 1.0  # doubled once


def test_the_end_of_an_earlier_question_is_not_that_of_the_one_under_way() -> None:
    breaker = opened(0.0)
    earlier = breaker.sent()
    assert earlier is not None
    breaker.answered()  # by what was under way before
    for _ in range(5):
        breaker.failed(1.0)
    breaker.sent()
    breaker.failed(2.0, earlier)
    breaker.done(earlier)
    assert breaker.wait_s(60.0) is None


def test_an_answer_closes_it_and_the_next_trouble_begins_with_a_short_rest() -> None:
    breaker = opened(0.0)
    breaker.failed(1.0, breaker.sent())
    assert breaker.answered()
    assert breaker.wait_s(1.0) == 0.0
    for _ in range(5):
        breaker.failed(2.0)
    assert breaker.wait_s(2.0) == 0.5


def test_a_question_that_was_never_sent_keeps_nobody_waiting() -> None:
    breaker = opened(10.0)
    probe = breaker.sent()
    assert probe is not None
    breaker.done(probe)
    assert breaker.wait_s(10.5) == 0.0


@given(st.lists(st.sampled_from(["sent", "answered", "failed", "asked", "done"]), max_size=60))
def test_whatever_happens_it_asks_again_within_two_seconds(events: list[str]) -> None:
    breaker, probe = Breaker(), None
    for n, event in enumerate(events):
        match event:
            case "sent":
                probe = breaker.sent() or probe
            case "answered":
                breaker.answered()
            case "failed":
                breaker.failed(float(n))
            case "asked":
                breaker.failed(float(n), probe)
            case _ if probe is not None:
                breaker.done(probe)
    if probe is not None:
        breaker.done(probe)  # whatever is under way comes to an end
    wait_s = breaker.wait_s(float(len(events)))
    assert wait_s is not None
    assert 0 <= wait_s <= 2
