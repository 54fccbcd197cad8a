"""What the blocks of the benchmark measure: resolution, size of the smoke, pace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from earlyfire_stream.records import CameraPlan, Explanation, FirePlan, RunLog, SecondLook
from earlyfire_stream.scoring.footage import footage
from earlyfire_stream.scoring.pace import pace
from earlyfire_stream.scoring.resolution import calibration, cochran_q
from earlyfire_stream.scoring.smoke_size import by_size
from earlyfire_stream.verdict import Box, Truth, Verdict
from tests.scored_runs import answered, one_camera, run_log, shot, verdicts


def said(**columns: str) -> dict[int, dict[tuple[str, float], bool]]:
    """h480="TF..": by frame, four frames to a scene."""
    return {
        int(name[1:]): {(f"s{n // 4}", float(n)): c == "T" for n, c in enumerate(letters)}
        for name, letters in columns.items()
    }


def test_cochrans_q_is_the_textbooks() -> None:
    rows = [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]]
    # C = 6, 4, 1; N = 11; ΣR² = 3·4 + 2·1 + 9 = 23: Q = 2·(3·53 − 121)/(3·11 − 23) = 7.6
    assert cochran_q(np.array(rows, float)) == pytest.approx(7.6)
    assert cochran_q(np.ones((3, 2))) == 0.0


def test_the_false_positive_rate_is_told_by_height_with_its_interval() -> None:
    found = calibration(said(h480="TTTTTTTTFF", h720="FFFFFFFFFF"))
    low, high = found.rates[0].interval or (0, 0)
    assert (found.rates[0].height, found.rates[0].false, found.rates[0].n) == (480, 8, 10)
    assert (low, high) == pytest.approx((0.490, 0.943), abs=0.001)
    assert found.whole.false == 8
    assert found.whole.n == 20


def test_matched_frames_are_tested_in_pairs_and_whole_scenes_are_shuffled() -> None:
    # four scenes in all of which only 480 lines give false positives: of 2^4 ways to shuffle two
    # are as extreme, so p is near 1/8 although 16 frames alone would say 0.00003
    found = calibration(said(h480="T" * 16, h720="F" * 16))
    assert found.test.startswith("Cochran's Q over 16 matched sets of 4 scenes")
    assert found.statistic == pytest.approx(16.0)
    assert found.p_value == pytest.approx(0.125, abs=0.012)


def test_frames_that_do_not_match_are_tested_by_counts() -> None:
    apart = {480: {("a", float(n)): n < 8 for n in range(10)},
             720: {("b", float(n)): n < 1 for n in range(10)}}  # fmt: skip
    found = calibration(apart)
    assert found.test == "Fisher's exact test"
    # 8 of 10 against 1 of 10: 2·(C(10,8)·C(10,1) + C(10,9)·C(10,0))/C(20,9) = 920/167960
    assert found.p_value == pytest.approx(0.00548, abs=0.00001)


def test_without_a_false_positive_there_is_nothing_to_test() -> None:
    found = calibration(said(h480="FFFF", h720="FFFF"))
    assert found.p_value is None
    assert found.test == "none: smoke was seen in no frame"
    assert calibration(said(h480="TF")).test == "none: one height alone"


# --- pace ---


def paced(tokens: list[int], rate: Any, burst: float = 4.0) -> RunLog:
    """One request every 60 s, of so many tokens."""
    log = one_camera([verdicts("F")[0] for _ in tokens], onset=1e6)
    frames = [
        replace(f, answer=replace(f.answer, visual_tokens=n))
        for f, n in zip(log.frames, tokens, strict=True)
        if f.answer is not None
    ]
    settings = {"budget": {"tokens_per_s": rate, "burst": burst}}
    return replace(log, frames=frames, run={**log.run, "settings": settings})


def test_tokens_within_the_budget_are_kept() -> None:
    # a burst of 4 s x 10 and 600 more in every minute
    found = pace(paced([40, 600, 600], 10))
    assert found.kept
    assert (found.requests, found.spent) == (3, 1240)
    assert found.span_s == pytest.approx(120.0)
    assert found.shortest_gap_s == pytest.approx(60.0)


def test_the_span_that_spent_most_above_the_budget_is_found() -> None:
    # the last two: 1,000 + 1,000 in 60 s; the largest request (1,000) and 600 are allowed, and
    # 1 token for the tenth of a second of slack
    found = pace(paced([10, 1000, 1000], 10))
    assert not found.kept
    assert found.excess == pytest.approx(2000 - 1000 - 600 - 1)


def test_second_looks_and_explanations_count() -> None:
    log = paced([600, 600], 10)
    answer = log.frames[0].answer
    assert answer is not None
    again = SecondLook(
        Box(0.5, 0.5, 0.5, 0.5), (28, 28), answer.answered_ns, answer.answered_ns, 500,
        Verdict(True, Box(0.5, 0.5, 0.1, 0.1)),
    )  # fmt: skip
    both = replace(answer, visual_tokens=1100, second=again)
    told = replace(log, frames=[replace(log.frames[0], answer=both), log.frames[1]])
    assert pace(log).kept
    assert not pace(told).kept
    assert pace(told).spent == 1700
    asked = Explanation("c", 0, answer.answered_ns, answer.answered_ns, 500)
    assert not pace(replace(log, explanations=[asked])).kept


def test_without_a_budget_there_is_nothing_to_exceed() -> None:
    found = pace(paced([5000, 5000], "none"))
    assert found.excess is None
    assert found.kept


# --- by size ---


def test_boxes_are_told_by_the_size_of_the_smoke() -> None:
    # 0.04 x 0.1 of the frame is 0.004 of its area, 0.2 x 0.2 is 0.04
    small, large = Box(0.5, 0.5, 0.04, 0.1), Box(0.5, 0.5, 0.2, 0.2)
    off = Box(0.1, 0.1, 0.04, 0.1)
    seen = [(small, small, 0.9), (small, off, 0.8), (small, None, None), (large, large, 0.7)]
    shots = [shot("c", n, 60.0 * n, smoke=True, truth=(Truth("f", t),), boxed=True)
             for n, (t, _, _) in enumerate(seen)]  # fmt: skip
    frames = [
        answered(s, Verdict(p is not None, p, c)) for s, (_, p, c) in zip(shots, seen, strict=True)
    ]
    plan = CameraPlan("c", (FirePlan("f", 0.0),), 60.0)
    bins = {b.low: b for b in by_size(footage(run_log([plan], shots, frames)))}
    assert {low: b.n for low, b in bins.items() if b.n} == {0.001: 3, 0.02: 1}
    assert (bins[0.001].predicted, bins[0.001].matched) == (2, 1)
    # precision 1/2, recall 1/3; ranked: a hit first, then a miss: 1/3 of the recall at precision 1
    assert bins[0.001].value == pytest.approx(1 / 6)
    assert bins[0.001].ap40 == pytest.approx(1 / 3)
    assert bins[0.02].value == 1.0
    assert bins[0.0].value is None
