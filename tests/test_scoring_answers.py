"""Latency, readable answers and tokens, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from earlyfire_stream.scoring import score
from earlyfire_stream.scoring.answers import quickness
from earlyfire_stream.verdict import Fate, Reason, Verdict
from tests.scored_runs import NO, YES, answer, answered, fated, one_camera, verdicts


@pytest.mark.parametrize(
    ("latency_s", "worth"),
    [(0.0, 1.0), (0.25, 1.0), (1.0, 0.5), (1.75, 1 / 3), (7.0, 0.1)],
)
def test_what_an_answer_is_worth_by_its_latency(latency_s: float, worth: float) -> None:
    assert quickness(latency_s) == pytest.approx(worth)


def test_latency_term_counts_admitted_frames_and_leaves_superseded_ones_aside() -> None:
    log = one_camera(verdicts("F" * 11), onset=120)
    s = log.shots
    frames = [
        answered(s[0], NO, answered_s=1.0),  # 1/2
        answered(s[1], NO, answered_s=0.25),  # 1
        fated(s[2], Fate.EXPIRED),  # 0
        fated(s[3], Fate.OVER_BUDGET),  # 0
        fated(s[4], Fate.ENGINE_ERROR, Reason.TIMEOUT),  # 0
        fated(s[5], Fate.BAD_JSON, Reason.NOT_JSON),  # 0: there is no parsed answer
        fated(s[6], Fate.SUPERSEDED, Reason.NEWER),
        fated(s[7], Fate.CONTEXT),
        fated(s[8], Fate.SAMPLED_OUT, Reason.IDLE),
        fated(s[9], Fate.OVER_BUDGET, admitted=False),
        fated(s[10], Fate.ABANDONED, Reason.STOPPED),
    ]
    assert score(replace(log, frames=frames)).terms.latency == pytest.approx(1.5 / 6)


def test_an_answer_before_its_capture_is_no_latency_and_is_told() -> None:
    log = one_camera(verdicts("FF"), onset=60)
    frames = [answered(log.shots[0], NO, answered_s=-2.0), log.frames[1]]
    found = score(replace(log, frames=frames))
    assert (found.latency.n, found.latency.skewed) == (1, 1)
    assert found.terms.latency == pytest.approx(0.5)
    assert any("clocks" in w for w in found.warnings)


def test_percentiles_are_null_under_their_floors() -> None:
    few = score(one_camera(verdicts("F" * 63))).latency
    enough = score(one_camera(verdicts("F" * 662))).latency
    assert (few.p50, few.p90, few.p95, few.p99) == (1.0, None, None, None)
    assert (enough.p50, enough.p90, enough.p95, enough.p99) == (1.0, 1.0, 1.0, 1.0)


def test_valid_answers_are_a_share_of_the_requests_that_reached_the_engine() -> None:
    log = one_camera([YES] * 4 + [None] * 2)
    s = log.shots
    frames = [
        *log.frames[:3],
        fated(s[3], Fate.ENGINE_ERROR, Reason.TIMEOUT),
        log.frames[4],
        fated(s[5], Fate.ENGINE_ERROR, Reason.UNAVAILABLE, answer=answer(s[5].captured_ns, None)),
    ]
    found = score(replace(log, frames=frames))
    assert (found.answers.sent, found.answers.valid, found.answers.bad_json) == (5, 3, 1)
    assert found.answers.errors == {"timeout": 1, "unavailable": 1}
    assert found.terms.answers == pytest.approx(3 / 5 / 0.95)


def test_up_to_5_percent_of_unreadable_answers_cost_nothing() -> None:
    assert score(one_camera([NO] * 19 + [None])).terms.answers == 1
    assert score(one_camera([NO] * 9 + [None])).terms.answers == pytest.approx(0.9 / 0.95)


def test_a_broken_box_is_a_valid_answer() -> None:
    log = one_camera([NO])
    broken = answer(log.shots[0].captured_ns, Verdict(True, repairs=("comma",)))
    broken = replace(broken, box_error="three numbers")
    found = score(replace(log, frames=[replace(log.frames[0], answer=broken)])).answers
    assert (found.valid, found.box_errors, found.mended) == (1, 1, 1)


def test_tokens_by_request_and_by_camera_hour() -> None:
    # 61 frames at 60 s are one hour; each answer took 300 visual tokens
    found = score(one_camera(verdicts("F" * 61))).tokens
    assert found.visual == 18_300
    assert found.visual_per_request == 300
    assert found.visual_per_camera_hour == pytest.approx(18_300)


def test_a_request_that_failed_has_cost_its_picture_unless_nobody_was_there() -> None:
    log = one_camera(verdicts("FFF"))
    frames = [
        log.frames[0],
        *(
            fated(s, Fate.ENGINE_ERROR, reason, answer=answer(s.captured_ns, None))
            for s, reason in zip(log.shots[1:], (Reason.TIMEOUT, Reason.UNAVAILABLE), strict=True)
        ),
    ]
    assert score(replace(log, frames=frames)).tokens.visual == 600


def test_tokens_of_nothing_are_null_per_anything() -> None:
    found = score(one_camera([])).tokens
    assert found.visual_per_request is None
    assert found.visual_per_camera_hour is None
