"""Two runs over the same frames."""

from __future__ import annotations

from dataclasses import replace

import pytest

from earlyfire_stream.records import RunLog
from earlyfire_stream.scoring.pairs import Pairs, pairs
from earlyfire_stream.verdict import Fate
from tests.scored_runs import fated, one_camera, verdicts

PAIRS = Pairs(0, 0, 0, 0, 0, 0, 0, 0, 0, None)


def log(letters: str, latency_s: float = 1.0) -> RunLog:
    """T smoke, F none, ? unreadable; the fire begins with frame 2."""
    said = [None if c == "?" else verdicts(c)[0] for c in letters]
    return one_camera(said, onset=120.0, latency_s=latency_s)


def test_each_frame_is_held_against_itself() -> None:
    #            truth  FFTTTT
    found = pairs(log("FTTTF?"), log("FFTFTT"))
    assert found == Pairs(
        n=6,
        unreadable_first=1,
        unreadable_second=0,
        both_smoke=1,
        only_first_smoke=2,
        only_second_smoke=1,
        neither_smoke=1,
        only_first_right=1,
        only_second_right=3,
        slower_s=0.0,
        both_right=2,
        neither_right=0,
    )
    assert found.known == 6


def test_frames_that_one_run_did_not_ask_about_are_left_out() -> None:
    second = log("FFTT")
    frames = list(second.frames)
    frames[1] = fated(second.shots[1], Fate.SAMPLED_OUT)
    assert pairs(log("TTTT"), replace(second, frames=frames)).n == 3


def test_frames_with_other_pictures_are_left_out() -> None:
    second = log("FFTT")
    shots = [replace(shot, identity="another") for shot in second.shots[:2]]
    assert pairs(log("TTTT"), replace(second, shots=[*shots, *second.shots[2:]])).n == 2


def test_a_perturbed_twin_keeps_its_frames_although_its_pictures_differ() -> None:
    second = log("FFTT")
    shots = [replace(shot, identity="shaken") for shot in second.shots]
    assert pairs(log("TTTT"), replace(second, shots=shots), same_pictures=False).n == 4


def test_the_time_between_request_and_answer_is_compared_by_its_median() -> None:
    assert pairs(log("FFT", latency_s=1.0), log("FFT", latency_s=1.75)).slower_s == 0.75
    assert pairs(log("???"), log("FFT")).slower_s is None


@pytest.mark.parametrize(
    ("first", "second", "p"),
    # two-sided binomial at one half: 2 x (1 + 10) / 1024; 2 x 1 / 32; all
    [(1, 9, 0.021484), (0, 5, 0.0625), (3, 3, 1.0), (0, 0, 1.0)],
)
def test_mcnemars_exact_test_asks_whether_one_is_right_more_often(
    first: int, second: int, p: float
) -> None:
    found = replace(PAIRS, only_first_right=first, only_second_right=second)
    assert found.p_value == pytest.approx(p, abs=1e-6)
