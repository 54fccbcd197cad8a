"""The Early-Fire Score, against the table that defines it and against each of its edge cases."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyfire_stream.errors import RunFolderError
from earlyfire_stream.records import CameraPlan, FirePlan, RunLog
from earlyfire_stream.scoring import score
from earlyfire_stream.scoring.early_fire import Terms, earliness, few_false_alarms
from earlyfire_stream.verdict import Box, Fate, Reason, Verdict
from tests.scored_runs import NO, YES, answered, fated, one_camera, run_log, shot, verdicts

BOX = Box(0.5, 0.5, 0.2, 0.2)

STRATEGIES = {
    "perfect": "F" * 40 + "T" * 41,
    "3 frames late": "F" * 43 + "T" * 38,
    "10 late": "F" * 50 + "T" * 31,
    "one false alarm at frame 0, then perfect": "T" + "F" * 39 + "T" * 41,
    "always smoke": "T" * 81,
    "never": "F" * 81,
}


def figlib_like(letters: str, latency_s: float, with_boxes: bool) -> RunLog:
    """81 frames at 60 s, onset at index 40; truth has a box wherever the strategy is right.

    With `with_boxes` it is predicted exactly there, so that L is 1, else never, so that L is 0.
    """
    said = [
        replace(YES, box=BOX) if v.has_smoke and with_boxes and i >= 40 else v
        for i, v in enumerate(verdicts(letters))
    ]
    boxes = {i: BOX for i in range(40, 81) if letters[i] == "T"} or {40: BOX}
    return one_camera(said, onset=2400, boxes=boxes, latency_s=latency_s)


@pytest.mark.parametrize(
    ("strategy", "v1", "slow_without_boxes", "quick_with_boxes"),
    [
        ("perfect", 100.0, 77.4, 100.0),
        ("3 frames late", 95.9, 66.7, 86.1),
        ("10 late", 86.4, 52.1, 67.2),
        ("one false alarm at frame 0, then perfect", 100.0, 16.8, 21.7),
        ("always smoke", 70.6, 2.6, 3.4),
        ("never", 49.4, 0.0, 0.0),
    ],
)
def test_the_strategies_over_81_frames_score_as_the_definition_says(
    strategy: str, v1: float, slow_without_boxes: float, quick_with_boxes: float
) -> None:
    slow = score(figlib_like(STRATEGIES[strategy], 1.0, with_boxes=False))
    quick = score(figlib_like(STRATEGIES[strategy], 0.25, with_boxes=True))
    assert slow.frame_score_v1 is not None
    assert slow.early_fire_score is not None
    assert quick.early_fire_score is not None
    assert round(slow.frame_score_v1, 1) == v1
    assert round(slow.early_fire_score, 1) == slow_without_boxes
    assert round(quick.early_fire_score, 1) == quick_with_boxes


@pytest.mark.parametrize(
    ("ttfd_s", "worth"), [(0.0, 1.0), (240.0, 0.7), (480.0, 0.55), (None, 0.0), (-5.0, 1.0)]
)
def test_an_alarm_is_worth_less_the_later_it_comes_and_a_miss_nothing(
    ttfd_s: float | None, worth: float
) -> None:
    assert earliness(ttfd_s) == pytest.approx(worth)


def test_five_false_alarms_a_camera_day_halve_that_term() -> None:
    assert few_false_alarms(0) == 1
    assert few_false_alarms(5) == 0.5


@pytest.mark.parametrize(
    ("terms", "value"),
    [
        (Terms(1, 1, 0, 0.5, 1, True), 77.5),
        (Terms(1, 1, None, 0.5, 1, False), 91.176),  # (0.70 + 0.075)/0.85
        (Terms(1, 0.5, 1, 1, 1, True), 66.667),  # C = 2·0.5/1.5
        (Terms(0, 0, 1, 1, 1, True), 0.0),
        (Terms(1, 1, 1, 1, 0.5, True), 50.0),
        (Terms(None, 1, 1, 1, 1, True), None),
        (Terms(1, None, 1, 1, 1, True), None),
        (Terms(1, 1, None, None, None, True), 0.0),
    ],
)
def test_the_score_is_the_product_of_answers_combined_terms_and_bonus(
    terms: Terms, value: float | None
) -> None:
    assert terms.value == (None if value is None else pytest.approx(value, abs=1e-3))


# --- when there is none --------------------------------------------------------------------------


def test_without_a_fire_the_score_is_null_and_the_false_alarm_term_stands_alone() -> None:
    found = score(one_camera(verdicts("FFFF")))
    assert found.early_fire_score is None
    assert "no fire" in found.why_null
    assert found.terms.false_alarms == 1
    assert found.terms.detection is None


def test_without_time_before_the_smoke_the_score_is_null_and_detection_stands_alone() -> None:
    found = score(one_camera(verdicts("TT"), onset=0))
    assert found.early_fire_score is None
    assert "no time without smoke" in found.why_null
    assert found.terms.false_alarms is None
    assert found.terms.detection == pytest.approx(0.99827, abs=1e-5)


def test_stills_have_frame_metrics_only() -> None:
    shots = [shot("stills", i, float(i), smoke=i > 1) for i in range(4)]
    frames = [answered(s, YES if s.seq > 0 else NO) for s in shots]
    found = score(run_log([CameraPlan("stills")], shots, frames))
    assert found.early_fire_score is None
    assert found.frame_score_v1 is None
    assert (found.frames.tp, found.frames.fp, found.frames.tn) == (2, 1, 1)
    assert found.false_alarms.episodes == 0


def test_cameras_without_truth_are_left_out_but_keep_their_place_in_the_ledger() -> None:
    log = figlib_like(STRATEGIES["perfect"], 1.0, with_boxes=False)
    real = [shot("real", i, i * 60.0) for i in range(3)]
    both = replace(
        log,
        cameras=[*log.cameras, CameraPlan("real", cadence_s=60, truth=False)],
        shots=[*log.shots, *real],
        frames=[*log.frames, *(answered(s, YES, answered_s=9) for s in real)],
    )
    assert score(both).early_fire_score == score(log).early_fire_score
    assert score(both).frames == score(log).frames
    assert score(both).ledger.fates == {"answered": 84}
    assert score(both).latency.n == 84


def test_a_run_of_real_cameras_alone_says_that_there_is_no_truth() -> None:
    taken = shot("real", 0, 0.0)
    found = score(run_log([], [], [answered(taken, YES)]))
    assert found.early_fire_score is None
    assert "truth" in found.why_null
    assert found.ledger.balanced is None


def test_a_run_in_which_nothing_happened_is_scored_too() -> None:
    found = score(run_log([], [], []))
    assert found.early_fire_score is None
    assert found.ledger.balanced is True
    json.dumps(found.to_json(), allow_nan=False)


# --- edge cases ----------------------------------------------------------------------------------


def test_without_a_valid_answer_the_score_is_0() -> None:
    found = score(one_camera([None] * 5, onset=120))
    assert found.early_fire_score == 0
    assert found.terms.answers == 0
    assert "not one answer could be read" in found.warnings


def test_without_a_request_the_score_is_0() -> None:
    log = one_camera(verdicts("FFFF"), onset=120)
    idle = [fated(s, Fate.SAMPLED_OUT, Reason.LOAD) for s in log.shots]
    found = score(replace(log, frames=idle))
    assert found.early_fire_score == 0
    assert found.terms.answers is None


def test_without_boxes_in_the_truth_the_other_terms_share_the_weight() -> None:
    said = verdicts(STRATEGIES["perfect"])
    found = score(one_camera(said, onset=2400))
    # C 0.99913 · 0.775/0.85
    assert found.early_fire_score == pytest.approx(91.10, abs=0.01)
    assert found.to_json()["localization"]["truth"] == "n/a"


def test_a_miss_halves_detection_of_two_views() -> None:
    log = figlib_like(STRATEGIES["perfect"], 1.0, with_boxes=False)
    blind = [shot("blind", i, i * 60.0) for i in range(81)]
    both = replace(
        log,
        cameras=[*log.cameras, CameraPlan("blind", (FirePlan("f1", 2400),), 60)],
        shots=[*log.shots, *blind],
        frames=[*log.frames, *(answered(s, NO) for s in blind)],
    )
    assert score(both).terms.detection == pytest.approx(0.99827 / 2, abs=1e-5)
    assert score(both).detected_within(60) == 0.5


def test_a_killed_run_is_scored_and_says_so() -> None:
    log = figlib_like(STRATEGIES["perfect"], 1.0, with_boxes=False)
    killed = replace(log, frames=log.frames[:60], complete=False)
    found = score(killed)
    assert found.early_fire_score == pytest.approx(77.4, abs=0.05)
    assert found.ledger.balanced is True
    assert found.ledger.reasons == {"abandoned(killed)": 21, "answered": 60}
    assert any("not complete" in w for w in found.warnings)


def test_a_run_killed_before_its_fire_counts_it_as_missed() -> None:
    log = figlib_like(STRATEGIES["perfect"], 1.0, with_boxes=False)
    found = score(replace(log, shots=log.shots[:30], frames=log.frames[:30], complete=False))
    assert found.early_fire_score == 0
    assert found.fires[0].censored_s == 2400


def test_the_score_stands_between_its_values_at_both_ends_of_the_interval() -> None:
    found = score(figlib_like(STRATEGIES["one false alarm at frame 0, then perfect"], 1.0, False))
    assert found.interval is not None
    # λ of 1 episode in 2/3 h: 0.911 to 200.6 a camera-day; F 0.8458 and 0.0243; C 0.9157 and 0.0475
    assert found.interval == (pytest.approx(3.68, abs=0.02), pytest.approx(70.97, abs=0.05))
    assert any("low exposure" in w for w in found.warnings)


def test_little_exposure_is_told_where_nothing_burns_too() -> None:
    told = " ".join(score(one_camera(verdicts("FF"))).warnings)
    assert "low exposure" in told
    assert "see its interval" in told


def test_a_day_without_smoke_is_exposure_enough() -> None:
    quiet = [shot("quiet", i, i * 3600.0) for i in range(26)]
    log = one_camera(verdicts("FT"), onset=60)
    log = replace(
        log,
        cameras=[*log.cameras, CameraPlan("quiet", cadence_s=3600)],
        shots=[*log.shots, *quiet],
        frames=[*log.frames, *(answered(s, NO) for s in quiet)],
    )
    assert not any("low exposure" in w for w in score(log).warnings)


@pytest.mark.parametrize(("speed", "distorted"), [(1.0, False), (20.0, True)])
def test_dropped_frames_distort_a_run_at_another_speed(speed: float, distorted: bool) -> None:
    log = one_camera(verdicts("FT"), onset=60, speed=speed)
    dropped = [fated(log.shots[0], Fate.EXPIRED), log.frames[1]]
    assert score(replace(log, frames=dropped)).speed_distorted is distorted
    assert score(log).speed_distorted is False


def test_a_policy_that_cannot_be_is_the_run_folder_s_fault() -> None:
    with pytest.raises(RunFolderError, match="alarm policy"):
        score(one_camera([YES], policy={"k": 3, "n": 2}))


def test_eight_fires_are_needed_for_an_interval_of_detection() -> None:
    def fires(count: int) -> RunLog:
        plans = [CameraPlan(f"c{i}", (FirePlan(f"f{i}", 60),), 60) for i in range(count)]
        shots = [shot(p.id, i, i * 60.0) for p in plans for i in range(2)]
        frames = [answered(s, YES if s.seq else NO) for s in shots]
        return run_log(plans, shots, frames)

    assert score(fires(7)).detection_interval is None
    interval = score(fires(8)).detection_interval
    assert interval == (pytest.approx(0.99827, abs=1e-5), pytest.approx(0.99827, abs=1e-5))


def eight_fires(seen: int) -> RunLog:
    """Eight cameras with a fire each, of which the first `seen` are detected at once, after 1 s.

    Two frames before the onset say "no smoke" in time; where a fire is missed, so does the third.
    """
    plans = [CameraPlan(f"c{i}", (FirePlan(f"f{i}", 120),), 60) for i in range(8)]
    shots = [shot(p.id, i, i * 60.0) for p in plans for i in range(3)]
    frames = [
        answered(s, YES if s.seq == 2 and int(s.camera[1:]) < seen else NO, answered_s=1.0)
        for s in shots
    ]
    return run_log(plans, shots, frames)


def test_what_fires_tell_has_an_interval_from_drawing_them_again() -> None:
    # v1 of a camera that sees its fire in the third of three frames: 1 + 0.2·(1 − 2/3) → 1, of one
    # that does not: 2/3. k of eight drawn see it, 1 to 7 in the central 95 %.
    found = score(eight_fires(4)).to_json()
    assert found["frame_score_v1"] == pytest.approx(100 * 5 / 6)
    assert found["frame_score_v1_interval"] == pytest.approx(
        [100 * (2 + 1 / 8) / 3, 100 * (2 + 7 / 8) / 3]
    )
    assert found["frame_score_v1_sequences"] == 8
    assert found["survival"]["rmst_interval_s"] is not None
    # every answer takes 1 s, which is worth one half
    assert found["terms"]["Q"] == 0.5
    assert found["term_intervals"]["Q"] == [0.5, 0.5]
    assert found["latency_s"]["scored"] == 24
    assert found["latency_s"]["intervals"]["mean"] == [1.0, 1.0]
    assert found["latency_s"]["intervals"]["p95"] is None  # itself withheld, under 130 answers
    # Wilson's of 24 of 24, 0.862, over 0.95; Poisson's of no event in 8 times 120 s
    assert found["term_intervals"]["K"] == [pytest.approx(0.8620 / 0.95, abs=1e-4), 1.0]
    hours = 8 * 120 / 3600
    assert found["term_intervals"]["F"] == [
        pytest.approx(1 / (1 + 24 * 3.6889 / hours / 5), abs=1e-5),
        1.0,
    ]


def test_under_eight_fires_their_figures_stand_without_an_interval() -> None:
    found = score(figlib_like(STRATEGIES["perfect"], 1.0, with_boxes=True)).to_json()
    assert found["frame_score_v1_interval"] is None
    assert found["term_intervals"]["D"] is found["term_intervals"]["L"] is None
    assert found["localization"]["ap40_interval"] is None


def test_shares_of_boxes_and_answers_have_wilson_s_interval() -> None:
    found = score(one_camera([YES, NO, None, NO, NO, NO, NO, NO, NO, NO], onset=0)).to_json()
    assert found["answers"]["shares"]["bad_json"] == 0.1
    assert found["answers"]["share_intervals"]["bad_json"] == pytest.approx(
        [0.0179, 0.4042], abs=1e-4
    )
    boxed = score(figlib_like(STRATEGIES["3 frames late"], 1.0, with_boxes=True)).to_json()
    assert boxed["localization"]["recall"] == 1.0
    # of 38 of 38: 38/(38 + 1.96²)
    assert boxed["localization"]["recall_interval"] == pytest.approx([0.9082, 1.0], abs=1e-4)


def test_latency_stands_beside_what_the_engine_s_profile_states() -> None:
    log = figlib_like(STRATEGIES["perfect"], 1.0, with_boxes=False)
    stated = score(replace(log, run={"engine": {"reference_s": 0.25}})).to_json()["latency_s"]
    assert (stated["reference"], stated["ratio"]) == (0.25, 4.0)
    unknown = score(log).to_json()["latency_s"]
    assert (unknown["reference"], unknown["ratio"]) == (None, None)


def test_detected_within_minutes_has_wilsons_interval() -> None:
    late = one_camera(verdicts("FFFFFFT"), onset=60.0)  # 300 s after the onset, and a second
    assert score(late).detected_within(300) == 0
    assert score(late).detected_within_interval(300) == pytest.approx((0, 0.7935), abs=1e-4)
    soon = one_camera(verdicts("FFT"), onset=120.0)
    assert score(soon).detected_within_interval(60) == pytest.approx((0.2065, 1), abs=1e-4)
    told = score(soon).to_json()["views"]["detected_within_intervals"]
    assert list(told) == ["60", "180", "300"]


def test_the_keys_others_rely_on_are_there() -> None:
    said = score(figlib_like(STRATEGIES["perfect"], 1.0, with_boxes=True)).to_json()
    assert {
        "schema",
        "early_fire_score",
        "why_null",
        "frame_score_v1",
        "terms",
        "fires",
        "false_alarms",
        "frames",
        "localization",
        "latency_s",
        "tokens",
        "answers",
        "ledger",
        "warnings",
    } <= said.keys()
    assert list(said["terms"]) == ["D", "F", "C", "L", "Q", "K"]
    fire = said["fires"][0]
    assert {"fire", "camera", "onset_s", "alarm_s", "ttfd_s", "ttfd_frames", "located"} <= set(fire)
    assert sum(fire["parts"].values()) == pytest.approx(fire["ttfd_s"])
    rates = {"episodes", "camera_hours", "per_camera_day", "interval"}
    assert rates <= said["false_alarms"].keys()
    assert {"precision", "recall", "f1"} <= said["frames"].keys()
    assert {"ap40", "ap50", "n"} <= said["localization"].keys()
    assert {"p50", "p95", "p99", "n"} <= said["latency_s"].keys()
    assert {"sent", "valid", "bad_json", "errors"} <= said["answers"].keys()
    assert {"scheduled", "fates", "balanced"} <= said["ledger"].keys()


# --- properties ----------------------------------------------------------------------------------


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    if isinstance(value, list | tuple):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, float) else []


@settings(deadline=None)
@given(
    said=st.lists(
        st.one_of(
            st.none(),
            st.builds(
                Verdict,
                st.booleans(),
                st.sampled_from([None, BOX, Box(0.1, 0.1, 0.1, 0.1)]),
                st.one_of(st.none(), st.floats(0, 1)),
            ),
        ),
        max_size=40,
    ),
    onset=st.one_of(st.none(), st.floats(-100, 3000)),
    boxed=st.booleans(),
    k=st.integers(1, 2),
    latency_s=st.floats(0, 1000),
)
def test_every_score_is_in_range_and_no_number_is_nan(
    said: list[Verdict | None],
    onset: float | None,
    boxed: bool,
    k: int,
    latency_s: float,
) -> None:
    log = one_camera(
        said,
        onset=onset,
        boxes=dict.fromkeys(range(0, len(said), 2), BOX) if boxed else None,
        latency_s=latency_s,
        policy={"k": k, "n": 2},
    )
    found = score(log)
    out = found.to_json()
    assert all(math.isfinite(n) for n in numbers(out))
    json.dumps(out, allow_nan=False)
    assert found.early_fire_score is None or 0 <= found.early_fire_score <= 100
    assert (found.early_fire_score is None) == bool(found.why_null)
    assert found.frame_score_v1 is None or 0 <= found.frame_score_v1 <= 100
    assert all(v is None or 0 <= v <= 1 for v in found.terms.to_json().values())
    if found.interval is not None:
        low, high = found.interval
        assert found.early_fire_score is not None
        assert low - 1e-9 <= found.early_fire_score <= high + 1e-9


@settings(deadline=None)
@given(first=st.integers(0, 41), later=st.integers(0, 41))
def test_a_later_alarm_never_scores_higher(first: int, later: int) -> None:
    early, late = sorted((first, later))
    scores = [
        score(one_camera(verdicts("F" * (40 + i) + "T" * (41 - i)), onset=2400)).early_fire_score
        for i in (early, late)
    ]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] >= scores[1]


@settings(deadline=None)
@given(before=st.sets(st.integers(0, 39), max_size=10), extra=st.integers(0, 39))
def test_one_more_false_alarm_never_scores_higher(before: set[int], extra: int) -> None:
    def early_fire_score(wrong: set[int]) -> float:
        said = [YES if i in wrong or i >= 40 else NO for i in range(81)]
        found = score(one_camera(said, onset=2400)).early_fire_score
        assert found is not None
        return found

    # greedy episodes may merge otherwise when one is added, but never become fewer
    assert early_fire_score(before | {extra}) <= early_fire_score(before) + 1e-9
