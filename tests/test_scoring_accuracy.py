"""Frame metrics: v1 as the SAI benchmark defines it, confusion, boxes, streaming accuracy."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlyfire_stream.records import CameraPlan, FirePlan
from earlyfire_stream.scoring import frame_score_v1, score
from earlyfire_stream.scoring.accuracy import Confusion
from earlyfire_stream.verdict import Box, Fate, Reason, Truth, Verdict
from tests.scored_runs import NO, YES, answered, fated, one_camera, run_log, shot, verdicts

TRUTH = Box(0.5, 0.5, 0.2, 0.2)
HIT = Box(0.5, 0.5, 0.2, 0.18)
"""IoU with the truth 0.9."""
NEAR = Box(0.55, 0.5, 0.2, 0.2)
"""Shares 0.15 of 0.25 widths: IoU 0.6."""
POOR = Box(0.57, 0.5, 0.2, 0.2)
"""Shares 0.13 of 0.27 widths: IoU 0.48, between the two thresholds."""
MISS = Box(0.1, 0.1, 0.1, 0.1)


def letters(text: str) -> list[bool | None]:
    return [{"T": True, "F": False, "?": None}[c] for c in text]


@pytest.mark.parametrize(
    ("said", "truth", "v1"),
    [
        ("FFTT", "0011", 1.0),
        ("FFFT", "0011", 0.725),
        ("TFTT", "0011", 0.95),
        ("FFFF", "0011", 0.5),
        ("TTTT", "0011", 0.7),
        ("FTTT", "1111", 0.725),
        ("F" * 10, "0" * 10, 1.0),
        ("FFFTFFFFFF", "0" * 10, 0.9),
        ("", "0011", 0.0),
        ("FF", "", 0.0),
    ],
)
def test_v1_of_short_sequences(said: str, truth: str, v1: float) -> None:
    gold = [c == "1" for c in truth]
    assert frame_score_v1(letters(said), gold) == pytest.approx(v1)
    assert frame_score_v1(letters(said), gold, bad_json="negative") == pytest.approx(v1)


def test_a_discarded_answer_leaves_accuracy_but_keeps_its_place_in_the_sequence() -> None:
    # accuracy 3/3 of those read; found at index 3, fire at 2, N 4: 1 − 0.1·1/4
    assert frame_score_v1(letters("FF?T"), [False, False, True, True]) == pytest.approx(0.975)
    # as a negative: 3/4 − 0.1·1/4
    parity = frame_score_v1(letters("FF?T"), [False, False, True, True], bad_json="negative")
    assert parity == pytest.approx(0.725)


def test_answers_that_are_all_discarded_score_0() -> None:
    assert frame_score_v1([None, None], [False, False]) == 0
    assert frame_score_v1([None, None], [False, False], bad_json="negative") == 1


def transliterated(p: list[bool], g: list[bool]) -> float:
    """The pseudo code of the definition, line by line."""
    if len(p) == 0 or len(g) == 0:
        return 0.0
    n, total = min(len(p), len(g)), len(p)
    acc = 0.0
    for i in range(n):
        if p[i] == g[i]:
            acc += 1
    acc /= n
    f = g.index(True) if True in g else None
    d = p.index(True) if True in p else None
    bonus = 0.0
    if f is not None and d is not None and d <= f:
        bonus = 0.2 * (1 - d / total)
    if f is not None and d is not None and d > f:
        bonus = -0.1 * (d - f) / total
    return max(0.0, min(1.0, acc + bonus))


@given(
    st.lists(st.one_of(st.none(), st.booleans()), max_size=30), st.lists(st.booleans(), max_size=30)
)
def test_parity_mode_is_the_pseudo_code_with_unreadable_answers_as_no_smoke(
    said: list[bool | None], truth: list[bool]
) -> None:
    expected = transliterated([bool(p) for p in said], truth)
    assert frame_score_v1(said, truth, bad_json="negative") == pytest.approx(expected)
    assert 0 <= frame_score_v1(said, truth) <= 1


def evaluate(predictions: list[dict[str, bool]], truth: list[int]) -> float:
    """The published `evaluate.py` from its prose: accuracy, then bonus or penalty, then clipping.

    Written apart from the pseudo code: the first positives are looked for by counting, the shares
    are taken with exact fractions.
    """
    length = len(predictions)
    compared = min(length, len(truth))
    if compared == 0:
        return 0.0
    said = [1 if p["has_smoke"] else 0 for p in predictions]
    equal = compared - sum(abs(said[i] - truth[i]) for i in range(compared))
    result = Fraction(equal, compared)
    onset = 0
    while onset < len(truth) and truth[onset] != 1:
        onset += 1
    detection = 0
    while detection < length and said[detection] != 1:
        detection += 1
    if onset < len(truth) and detection < length:
        if detection <= onset:
            result += Fraction(1, 5) * (1 - Fraction(detection, length))
        else:
            result -= Fraction(1, 10) * Fraction(detection - onset, length)
    return float(min(Fraction(1), max(Fraction(0), result)))


def test_parity_on_five_thousand_random_sequences() -> None:
    rng = np.random.default_rng(2024)
    for _ in range(5000):
        length, labels = rng.integers(0, 90, 2)
        said = (rng.random(length) < rng.random()).tolist()
        truth = (np.arange(labels) >= rng.integers(0, labels + 1)).tolist()  # smoke to the end
        if rng.random() < 0.3:
            truth = (rng.random(labels) < 0.4).tolist()  # smoke that comes and goes
        expected = evaluate([{"has_smoke": p} for p in said], [int(g) for g in truth])
        assert frame_score_v1(said, truth, bad_json="negative") == pytest.approx(expected)
        assert frame_score_v1(said, truth) == pytest.approx(expected)  # nothing to discard


def test_f1_has_the_interval_of_the_share_it_is_made_of() -> None:
    counts = Confusion(tp=8, fp=1, fn=1, tn=30)
    assert counts.f1 == pytest.approx(16 / 18)
    # Wilson of 8 in 10: 0.4902 to 0.9433; 2·0.4902/1.4902 and 2·0.9433/1.9433
    assert counts.f1_interval == pytest.approx((0.6579, 0.9708), abs=1e-4)
    assert Confusion(0, 0, 0, 30).f1_interval is None


def test_a_camera_that_nobody_asked_about_scores_0_in_v1() -> None:
    quiet = shot("quiet", 0, 0.0)
    log = one_camera(verdicts("FFTT"), onset=120)
    log = replace(
        log,
        cameras=[*log.cameras, CameraPlan("quiet", cadence_s=60)],
        shots=[*log.shots, quiet],
        frames=[*log.frames, fated(quiet, Fate.SAMPLED_OUT, Reason.IDLE)],
    )
    assert score(log).frame_score_v1 == pytest.approx(50.0)


def test_unreadable_answers_and_errors_enter_no_confusion_count() -> None:
    log = one_camera([YES, NO, None, YES, NO], onset=120)
    timed_out = shot("north", 5, 300.0)
    log = replace(
        log,
        shots=[*log.shots, timed_out],
        frames=[*log.frames, fated(timed_out, Fate.ENGINE_ERROR, Reason.TIMEOUT)],
    )
    found = score(log).frames
    assert (found.tp, found.fp, found.fn, found.tn) == (1, 1, 1, 1)
    assert (found.precision, found.recall, found.f1, found.accuracy) == (0.5, 0.5, 0.5, 0.5)


def test_shares_of_nothing_are_null() -> None:
    said = score(one_camera([])).to_json()["frames"]
    assert said["precision"] is None
    assert said["recall_interval"] is None
    assert said["streaming_accuracy"] is None


def test_a_frame_label_counts_before_the_plan_and_an_unlabelled_still_is_unknown() -> None:
    labelled = shot("north", 0, 0.0, smoke=True)
    unknown = shot("stills", 0, 0.0)
    log = run_log(
        [CameraPlan("north", (FirePlan("f1", 100),), 60), CameraPlan("stills")],
        [labelled, unknown],
        [answered(labelled, YES), answered(unknown, YES)],
    )
    found = score(log).frames
    assert (found.tp, found.n) == (1, 1)


def test_the_newest_answer_at_each_capture_is_the_one_before_if_answers_take_a_second() -> None:
    # captures at 0, 60, 120, 180; smoke from 120: judged are none, F, F, T
    log = one_camera(verdicts("FFTT"), onset=120)
    assert score(log).streaming_accuracy == pytest.approx(3 / 4)


def test_an_older_frame_that_is_answered_later_does_not_replace_a_newer_answer() -> None:
    shots = [shot("north", i, i * 60.0) for i in range(4)]
    frames = [
        answered(shots[0], NO, answered_s=170.0),
        answered(shots[1], YES),
        answered(shots[2], YES),
        answered(shots[3], YES),
    ]
    plan = CameraPlan("north", (FirePlan("f1", 0),), 60)
    # nothing at 0 and 60, then always YES: the NO of frame 0, given at 170, is stale at 180
    assert score(run_log([plan], shots, frames)).streaming_accuracy == pytest.approx(2 / 4)


# --- boxes ---------------------------------------------------------------------------------------


def test_localization_is_precision_times_recall_of_boxes() -> None:
    said = [
        Verdict(True, MISS),  # before the onset: a false box
        Verdict(True, HIT),
        Verdict(True, POOR),
        Verdict(True, MISS),
        Verdict(True),  # smoke without a box: a miss
        NO,
    ]
    log = one_camera(said, onset=60, boxes=dict.fromkeys(range(1, 6), TRUTH))
    found = score(log)
    assert found.localization is not None
    assert (found.localization.matched, found.localization.predicted) == (2, 4)
    assert found.localization.n == 5
    assert found.terms.localization == pytest.approx(2 / 4 * 2 / 5)


def test_smoky_frames_without_truth_boxes_are_left_out_of_localization() -> None:
    log = one_camera([NO, Verdict(True, HIT), Verdict(True, MISS)], onset=60, boxes={1: TRUTH})
    assert score(log).terms.localization == 1


def test_one_match_a_frame_with_the_truth_box_that_fits_best() -> None:
    taken = shot("north", 0, 0.0, truth=(Truth("f1", MISS), Truth("f2", TRUTH)), boxed=True)
    plan = CameraPlan("north", (FirePlan("f1", 0), FirePlan("f2", 0)), 60)
    found = score(run_log([plan], [taken], [answered(taken, Verdict(True, HIT))]))
    assert found.localization is not None
    assert (found.localization.matched, found.localization.n) == (1, 1)


def test_a_box_with_has_smoke_false_counts_nowhere() -> None:
    log = one_camera([NO, Verdict(False, HIT)], onset=60, boxes={1: TRUTH})
    found = score(log).localization
    assert found is not None
    assert (found.predicted, found.value) == (0, 0)


def test_ranked_precision_is_the_area_under_the_envelope() -> None:
    # by confidence: hit, miss, hit, over 3 frames: 1/3·1 + 1/3·2/3 = 5/9
    said = [NO, Verdict(True, HIT, 0.9), Verdict(True, MISS, 0.8), Verdict(True, NEAR, 0.7)]
    found = score(one_camera(said, onset=60, boxes=dict.fromkeys((1, 2, 3), TRUTH))).localization
    assert found is not None
    assert found.ap40 == pytest.approx(5 / 9)


def test_ap50_asks_for_more_overlap_than_ap40() -> None:
    said = [NO, Verdict(True, POOR, 0.9)]
    found = score(one_camera(said, onset=60, boxes={1: TRUTH})).localization
    assert found is not None
    assert (found.ap40, found.ap50) == (1, 0)


def test_boxes_of_equal_confidence_are_ranked_together() -> None:
    # one hit and one miss at the same confidence over 2 frames: recall 1/2 at precision 1/2
    for order in ((HIT, MISS), (MISS, HIT)):
        said = [NO, *(Verdict(True, box, 0.5) for box in order)]
        found = score(one_camera(said, onset=60, boxes={1: TRUTH, 2: TRUTH})).localization
        assert found is not None
        assert found.ap40 == pytest.approx(0.25)


def test_without_any_confidence_there_is_no_ranked_precision_but_localization() -> None:
    found = score(one_camera([NO, Verdict(True, HIT)], onset=60, boxes={1: TRUTH})).localization
    assert found is not None
    assert (found.ap40, found.ap50, found.value) == (None, None, 1)
