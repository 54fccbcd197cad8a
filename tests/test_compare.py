"""Runs held against each other: differences by hand, what is sure, what moved, what is refused."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import CameraPlan, FaultPlan, FirePlan, RunLog
from earlyfire_stream.report.comparison import comparison, comparison_plain, worse_line
from earlyfire_stream.scoring.compare import (
    Against,
    Comparison,
    Figure,
    Side,
    compare,
    doubts,
    holm,
    parse_tolerances,
    worse,
)
from earlyfire_stream.scoring.early_fire import score
from earlyfire_stream.scoring.statistics import restricted_means
from earlyfire_stream.verdict import Box, Fate, Reason, Truth, Verdict
from tests.playing import Nursery, camera, pictures, run_folders, scenario
from tests.scored_runs import answered, fated, one_camera, run_log, shot

RUN: Mapping[str, Any] = {
    "digest": "d1",
    "scenario": "hills",
    "scenario_text": "the same words",
    "seed": 1,
    "clock": "wall",
    "engine": {"name": "simulated", "model": "spec-gpu"},
    "settings": {"sampling": {"policy": "every"}, "alarm": {"k": 1}},
}


def told(log: RunLog, **run: Any) -> RunLog:
    return replace(log, run={**RUN, **run})


def fires(
    said: Sequence[str],
    onset: float = 120.0,
    latency_s: float = 0.0,
    quiet: Sequence[str] = (),
    **run: Any,
) -> RunLog:
    """A camera a word, each with a fire of its own from `onset`; then cameras without a fire.

    A frame a minute; T smoke, F none, ? unreadable, . sampled out.
    """
    plans, shots, frames = [], [], []
    for number, letters in enumerate([*said, *quiet]):
        name = f"c{number:02}"
        burning = (FirePlan(f"f{number:02}", onset),) if number < len(said) else ()
        plans.append(CameraPlan(name, burning, 60.0))
        for seq, letter in enumerate(letters):
            taken = shot(name, seq, 60.0 * seq)
            shots.append(taken)
            if letter in "TF":
                frames.append(answered(taken, Verdict(letter == "T"), answered_s=latency_s))
            elif letter == "?":
                frames.append(fated(taken, Fate.BAD_JSON, Reason.NOT_JSON))
            else:
                frames.append(fated(taken, Fate.SAMPLED_OUT))
    return told(run_log(plans, shots, frames), **run)


def side(*logs: RunLog, name: str = "run") -> Side:
    return Side(tuple(f"{name}{i}" for i in range(len(logs))), logs)


def against(first: RunLog, other: RunLog, **options: Any) -> Against:
    return compare([side(first, name="a"), side(other, name="b")], **options).against[0]


def values(figure: Figure) -> tuple[float | None, float | None, float | None]:
    return figure.first, figure.other, figure.difference


# --- differences by hand -------------------------------------------------------------------------

AT_ONCE = "FFTTTTTTTT"
FOUR_MINUTES = "FFFFFFTTTT"
NEVER = "FFFFFFFFFF"


@pytest.fixture(scope="module")
def by_hand() -> Against:
    """A finds both fires at once; B finds one after four minutes and misses the other."""
    return against(fires([AT_ONCE, AT_ONCE]), fires([FOUR_MINUTES, NEVER]))


@pytest.mark.parametrize(
    ("key", "first", "other"),
    [
        # u is 1 at once, 0.7 after 240 s and 0 of a miss
        ("D", 1.0, 0.35),
        ("F", 1.0, 1.0),
        # 2 x 0.35 / 1.35
        ("C", 1.0, 0.5185185),
        ("Q", 1.0, 1.0),
        ("K", 1.0, 1.0),
        ("efs", 100.0, 51.85185),
        ("recall", 1.0, 0.5),
        # of the one view that both found
        ("ttfd", 0.0, 240.0),
        # 240 s undetected, half of the views from then to 2400 s
        ("rmst", 0.0, 1320.0),
        ("precision", 1.0, 1.0),
        # 4 of 16 smoky frames; 2 x 4 / (2 x 4 + 12)
        ("frame_recall", 1.0, 0.25),
        ("f1", 1.0, 0.4),
        ("false_alarms", 0.0, 0.0),
        ("latency_p50", 0.0, 0.0),
        # 300 tokens a frame, ten frames in nine minutes
        ("tokens", 20000.0, 20000.0),
        # 1 + bonus, clipped; 0.6 - 0.1 x 4/10 and 0.2, x 100
        ("v1", 100.0, 38.0),
    ],
)
def test_every_figure_is_told_on_both_sides_with_its_difference(
    by_hand: Against, key: str, first: float, other: float
) -> None:
    assert values(by_hand.figure(key)) == pytest.approx((first, other, other - first))


def test_views_are_counted_by_who_detected_them(by_hand: Against) -> None:
    found = by_hand.detected
    assert (found.both, found.only_first, found.only_other, found.neither) == (1, 1, 0, 0)
    assert by_hand.figure("ttfd").n == (1.0, 1.0)
    assert by_hand.figure("rmst").n == (2.0, 2.0)


def test_without_boxes_in_the_truth_there_is_nothing_to_say_of_boxes(by_hand: Against) -> None:
    assert not {"L", "ap40", "ap50"} & {figure.key for figure in by_hand.figures}


def test_percentiles_under_their_floor_have_no_difference(by_hand: Against) -> None:
    assert values(by_hand.figure("latency_p95")) == (None, None, None)


def test_without_a_fire_there_is_no_score_to_compare() -> None:
    found = against(fires([], quiet=["FFFF"]), fires([], quiet=["TFFF"]))
    assert values(found.figure("efs")) == (None, None, None)
    assert found.figure("ttfd").difference is None
    assert found.figure("false_alarms").difference == pytest.approx(24 / 0.05)


def mixed(seed: int) -> RunLog:
    """Fires with boxes, quiet cameras, unreadable answers, one camera without truth."""
    draw = np.random.default_rng(seed)
    plans, shots, frames = [], [], []
    for number in range(12):
        name = f"c{number:02}"
        burning = (FirePlan(f"f{number // 2}", 600.0, 1500.0),) if number < 9 else ()
        plans.append(CameraPlan(name, burning, 60.0, truth=number != 11))
        for seq in range(40):
            smoke = bool(burning) and 600 <= 60 * seq < 1500
            lies = Box(0.5, 0.5, 0.2, 0.2)
            truth = (Truth(burning[0].id, lies),) if smoke else ()
            taken = shot(name, seq, 60.0 * seq, truth=truth, boxed=True)
            shots.append(taken)
            kind = draw.random()
            if kind < 0.1:
                frames.append(fated(taken, Fate.BAD_JSON, Reason.NOT_JSON))
            elif kind < 0.15:
                frames.append(fated(taken, Fate.ENGINE_ERROR, Reason.UNAVAILABLE))
            elif kind < 0.2:
                frames.append(fated(taken, Fate.EXPIRED))
            else:
                says = bool(draw.random() < (0.6 if smoke else 0.05))
                box = Box(0.5 + draw.uniform(-0.1, 0.1), 0.5, 0.2, 0.2) if says else None
                sure = round(float(draw.random()), 1)
                verdict = Verdict(says, box, sure)
                frames.append(answered(taken, verdict, answered_s=float(draw.uniform(0.1, 3))))
    return told(run_log(plans, shots, frames))


def test_a_side_of_one_run_has_the_figures_of_its_score() -> None:
    log = mixed(5)
    alone = score(log)
    found = against(log, mixed(6))
    first = {figure.key: figure.first for figure in found.figures}
    assert alone.localization is not None
    assert alone.survival is not None
    expected = {
        "efs": alone.early_fire_score,
        **alone.terms.to_json(),
        "v1": alone.frame_score_v1,
        "rmst": alone.survival.rmst_s,
        "recall": sum(v.parts is not None for v in alone.fires) / len(alone.fires),
        "false_alarms": alone.false_alarms.per_camera_day,
        "precision": alone.frames.precision,
        "frame_recall": alone.frames.recall,
        "f1": alone.frames.f1,
        "ap40": alone.localization.ap40,
        "ap50": alone.localization.ap50,
        "latency_p50": alone.latency.p50,
        "latency_p95": alone.latency.p95,
        "tokens": alone.tokens.visual_per_camera_hour,
    }
    assert expected.keys() | {"ttfd"} == first.keys()
    for key, value in expected.items():
        assert first[key] == pytest.approx(value), key


def test_a_run_against_itself_differs_in_nothing() -> None:
    found = against(mixed(5), mixed(5))
    assert {figure.difference for figure in found.figures} == {0.0}
    assert {figure.p for figure in found.figures} == {1.0, None}
    assert not any(figure.surely for figure in found.figures)
    assert found.moved == ()


# --- how sure ------------------------------------------------------------------------------------


def test_two_fires_cannot_give_a_p_below_one_half(by_hand: Against) -> None:
    figure = by_hand.figure("D")
    assert (figure.p, figure.unlike) == (0.5, 2)


def test_a_p_value_is_the_share_of_sign_flips_that_differ_as_much() -> None:
    # +240, +120 and -60 s: of the eight signings ±240±120±60 only 420 and 300 reach 300,
    # and as many on the other side: 2 x 2/8
    first = fires([AT_ONCE, AT_ONCE, "FFFTTTTTTT"])
    other = fires([FOUR_MINUTES, "FFFFTTTTTT", AT_ONCE])
    figure = against(first, other).figure("ttfd")
    assert figure.difference == pytest.approx(100.0)
    assert (figure.p, figure.unlike) == (0.5, 3)


def test_five_fires_that_all_got_later_give_the_smallest_p_there_is() -> None:
    figure = against(fires([AT_ONCE] * 5), fires([FOUR_MINUTES] * 5)).figure("rmst")
    assert figure.p == 2**-4


def test_fires_that_are_alike_on_both_sides_do_not_lower_p() -> None:
    first, other = fires([AT_ONCE] * 12), fires([FOUR_MINUTES] * 3 + [AT_ONCE] * 9)
    figure = against(first, other).figure("ttfd")
    assert (figure.p, figure.unlike) == (2**-2, 3)


def test_cameras_of_one_fire_are_one_witness() -> None:
    def seen_twice(log: RunLog) -> RunLog:
        same = (FirePlan("f", 120.0),)
        return replace(log, cameras=[replace(plan, fires=same) for plan in log.cameras])

    found = against(seen_twice(fires([AT_ONCE] * 2)), seen_twice(fires([FOUR_MINUTES] * 2)))
    assert (found.fires, found.figure("D").unlike, found.figure("D").p) == (1, 1, 1.0)


def test_under_eight_fires_there_is_no_bootstrap_and_the_reason_is_told() -> None:
    found = against(fires([AT_ONCE] * 7), fires([FOUR_MINUTES] * 7))
    assert found.figure("efs").interval is None
    assert found.why_no_interval.startswith("7 fires")


def test_from_eight_fires_on_differences_have_intervals() -> None:
    found = against(fires([AT_ONCE] * 8), fires([FOUR_MINUTES] * 8))
    # every fire is 240 s later, whichever are drawn
    assert found.figure("ttfd").interval == pytest.approx((240.0, 240.0))
    assert found.figure("D").interval == pytest.approx((-0.3, -0.3))
    assert found.figure("D").surely
    assert found.why_no_interval == ""


def test_what_never_differed_has_no_interval_of_zero_width() -> None:
    found = against(fires([AT_ONCE] * 8), fires([FOUR_MINUTES] * 8))
    assert found.figure("precision").difference == 0
    assert found.figure("precision").interval is None


def test_intervals_are_the_same_every_time() -> None:
    first, other = mixed(1), mixed(2)
    many = [replace_fires(first), replace_fires(other)]
    once, again = (against(*many).to_json() for _ in range(2))
    assert once == again
    low, high = once["figures"]["D"]["interval"]  # type: ignore[index]
    assert low < once["figures"]["D"]["difference"] < high  # type: ignore[index]


def replace_fires(log: RunLog) -> RunLog:
    """Each camera with a fire of its own, which makes nine."""
    plans = [
        replace(p, fires=tuple(replace(f, id=f"{f.id} {p.id}") for f in p.fires))
        for p in log.cameras
    ]
    shots = [
        replace(s, truth=tuple(Truth(f"{t.fire} {s.camera}", t.box) for t in s.truth))
        for s in log.shots
    ]
    return replace(log, cameras=plans, shots=shots)


FIVE_FALSE = "TFFFFF" * 5
NONE_FALSE = "FFFFFF" * 5


def test_false_alarm_rates_are_compared_by_the_exact_conditional_test() -> None:
    rates = against(
        fires([], quiet=[FIVE_FALSE]), fires([], quiet=["T" + NONE_FALSE[1:]])
    ).false_alarms
    # 1 of 6 at one half: 2 x (1 + 6)/64; Clopper-Pearson 0.0042107 to 0.6412346, as odds
    assert (rates.first_episodes, rates.other_episodes) == (5, 1)
    assert rates.ratio == pytest.approx(0.2)
    assert rates.p == pytest.approx(0.21875)
    assert rates.low == pytest.approx(0.0042285, rel=1e-3)
    assert rates.high == pytest.approx(1.78734, rel=1e-3)


def test_a_rate_against_none_is_infinitely_higher_with_a_finite_lower_end() -> None:
    rates = against(fires([], quiet=[NONE_FALSE]), fires([], quiet=[FIVE_FALSE])).false_alarms
    assert (rates.ratio, rates.high, rates.p) == (None, None, 0.0625)
    # 0.025^(1/5) = 0.47818, as odds
    assert rates.low == pytest.approx(0.91637, rel=1e-3)


def test_the_difference_of_rates_joins_both_exact_intervals() -> None:
    figure = against(fires([], quiet=[NONE_FALSE]), fires([], quiet=[FIVE_FALSE])).figure(
        "false_alarms"
    )
    a_day = 24 / (29 / 60)
    # 5 events: 1.6235 to 11.6683; none: 0 to 3.6889
    low = 5 - math.hypot(5 - 1.6235, 3.6889)
    assert figure.difference == pytest.approx(5 * a_day)
    assert figure.interval == pytest.approx((low * a_day, 11.6683 * a_day), rel=1e-4, abs=0.05)


def test_no_false_alarm_on_either_side_is_no_proof_of_equality() -> None:
    figure = against(fires([AT_ONCE] * 8), fires([AT_ONCE] * 8)).figure("false_alarms")
    assert figure.difference == 0
    assert figure.interval is not None
    assert figure.interval[0] < 0 < figure.interval[1]


def test_the_restricted_mean_counts_each_view_by_its_weight() -> None:
    times, seen = np.array([120.0, 60.0, 2400.0]), np.array([True, True, False])
    # as in `survival`: 60 + 60·2/3 + 2280/3; the last view three times: 60 + 60·4/5 + 2280·3/5
    weights = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 3.0], [0.0, 0.0, 0.0]])
    found = restricted_means(times, seen, weights, 2400.0)
    assert found[:2] == pytest.approx([860.0, 1476.0])
    assert math.isnan(found[2])


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_with_several_runs_p_is_adjusted_over_them() -> None:
    five, late = [AT_ONCE] * 5, [FOUR_MINUTES] * 5
    found = compare([side(fires(words)) for words in (five, late, five)])
    late_p, same_p = (each.figure("D") for each in found.against)
    assert (late_p.p, late_p.p_holm) == (2**-4, 2**-3)
    assert (same_p.p, same_p.p_holm) == (1.0, 1.0)


# --- seeds ---------------------------------------------------------------------------------------

DRAWN = """
earlyfire: 1
name: drawn
duration: 10m
cameras: [{id: c00, source: {kind: synthetic}, cadence: 60s, fires: [{id: f00, onset: 120s}]}]
"""


def over_seeds(words: Sequence[str], **run: Any) -> Side:
    return side(
        *(fires([word], digest=f"d{seed}", seed=seed, **run) for seed, word in enumerate(words, 1))
    )


def test_runs_of_one_setting_over_seeds_are_pooled_and_paired_by_seed() -> None:
    first = over_seeds([AT_ONCE, AT_ONCE])
    other = over_seeds([FOUR_MINUTES, NEVER])
    backwards = Side(other.names[::-1], other.logs[::-1])
    for second in (other, backwards):
        found = compare([first, second]).against[0]
        assert values(found.figure("efs")) == pytest.approx((100.0, 51.85185, -48.14815))
        assert [(m.seed, m.first_s, m.other_s) for m in found.moved] == [
            (2, 0.0, None),
            (1, 0.0, 240.0),
        ]


def test_footage_shows_the_same_fire_whatever_the_seed() -> None:
    found = compare([over_seeds([AT_ONCE] * 9), over_seeds([FOUR_MINUTES] * 9)]).against[0]
    assert (found.fires, found.figure("D").interval) == (1, None)


def test_synthetic_scenes_show_another_fire_with_another_seed() -> None:
    words = [AT_ONCE] * 9, [FOUR_MINUTES] * 9
    found = compare([over_seeds(w, scenario_text=DRAWN) for w in words]).against[0]
    assert found.fires == 9
    assert found.figure("ttfd").interval == pytest.approx((240.0, 240.0))


# --- which fires moved ---------------------------------------------------------------------------


def test_lost_and_gained_views_come_first_then_the_largest_change() -> None:
    first = fires([AT_ONCE, AT_ONCE, AT_ONCE, NEVER, AT_ONCE, NEVER])
    other = fires(["FFFTTTTTTT", FOUR_MINUTES, NEVER, AT_ONCE, AT_ONCE, NEVER])
    moved = against(first, other).moved
    assert [(m.fire, m.first_s, m.other_s, m.part, m.part_change_s) for m in moved] == [
        ("f02", 0.0, None, "model_miss", None),
        ("f03", None, 0.0, "model_miss", None),
        ("f01", 0.0, 240.0, "model_miss", 240.0),
        ("f00", 0.0, 60.0, "model_miss", 60.0),
    ]


@pytest.mark.parametrize(
    ("letters", "latency_s", "part", "change_s"),
    [
        ("FF..TTTTTT", 0.0, "sampling", 120.0),
        ("FFFFTTTTTT", 0.0, "model_miss", 120.0),
        ("FFTTTTTTTT", 9.0, "inference", 9.0),
        # sampled a minute later and answered 9 s after that
        ("FF.TTTTTTT", 9.0, "sampling", 60.0),
    ],
)
def test_a_change_is_told_with_the_part_that_grew_most(
    letters: str, latency_s: float, part: str, change_s: float
) -> None:
    (moved,) = against(fires([AT_ONCE]), fires([letters], latency_s=latency_s)).moved
    assert (moved.part, moved.part_change_s) == (part, pytest.approx(change_s))


@pytest.mark.parametrize(
    ("letters", "part"),
    [
        ("FFFFF", "model_miss"),
        ("FF...", "sampling"),
        ("FF???", "inference"),
        ("FF", "cadence_wait"),
    ],
)
def test_a_lost_view_is_told_with_where_it_got_stuck(letters: str, part: str) -> None:
    (moved,) = against(fires([AT_ONCE]), fires([letters])).moved
    assert (moved.other_s, moved.part) == (None, part)


def test_positives_that_never_add_up_got_stuck_in_confirmation() -> None:
    policy = {"k": 2, "n": 2}
    first, other = (
        replace(fires([letters]), alarm_policy=policy) for letters in (AT_ONCE, "FFTFFFFTFF")
    )
    (moved,) = against(first, other).moved
    assert moved.part == "confirmation"


def test_alarms_beside_the_smoke_got_stuck_at_the_alarm() -> None:
    def pointing(at: float) -> RunLog:
        log = one_camera(
            [Verdict(False), Verdict(True, Box(at, 0.8, 0.05, 0.05))],
            onset=60.0,
            boxes={1: Box(0.1, 0.8, 0.1, 0.1)},
        )
        return told(log)

    (moved,) = against(pointing(0.1), pointing(0.9)).moved
    assert (moved.other_s, moved.part) == (None, "alarm")


# --- what is not comparable ----------------------------------------------------------------------


def reasons(first: RunLog, other: RunLog) -> list[tuple[str, bool]]:
    return [(d.text, d.grave) for d in doubts([side(first, name="a"), side(other, name="b")])]


PLAIN = fires([AT_ONCE])


@pytest.mark.parametrize(
    ("other", "said", "grave"),
    [
        (told(PLAIN, digest="d2", scenario_text="other words"), "another scenario", True),
        (told(PLAIN, digest="d2"), "another duration or other cameras", True),
        (told(PLAIN, digest="d2", seed=2), r"another seed \(2, not 1\)", True),
        (told(PLAIN, engine=None), "b0: only cameras played there", True),
        (replace(PLAIN, alarm_policy={"k": 2, "n": 3}), "another alarm policy", False),
        (replace(PLAIN, complete=False), "b0: the run is not complete", False),
        (told(replace(PLAIN, duration_s=30.0), interrupted=True), "interrupted after 30", False),
        (told(PLAIN, clock="virtual"), "virtual clock, the first ran in wall time", False),
    ],
)
def test_what_is_not_comparable_is_refused_and_why_is_told(
    other: RunLog, said: str, grave: bool
) -> None:
    ((text, is_grave),) = reasons(PLAIN, other)
    assert re.search(said, text)
    assert is_grave is grave
    with pytest.raises(UsageError, match=said):
        against(PLAIN, other)


def test_a_distorted_speed_is_refused_against_another_speed() -> None:
    fast = replace(PLAIN, speed=60.0)
    dropped = replace(fast, frames=[replace(PLAIN.frames[0], fate=Fate.EXPIRED), *PLAIN.frames[1:]])
    assert reasons(PLAIN, fast) == []
    assert reasons(dropped, dropped) == []
    for pair in ((PLAIN, dropped), (dropped, PLAIN), (fast, replace(dropped, speed=30.0))):
        ((text, grave),) = reasons(*pair)
        assert "speed_distorted" in text
        assert not grave


def test_every_reason_is_told_at_once() -> None:
    other = told(
        replace(PLAIN, alarm_policy={"k": 2, "n": 2}, complete=False), clock="virtual", digest="x"
    )
    with pytest.raises(UsageError) as refused:
        against(PLAIN, other)
    lines = str(refused.value).splitlines()
    assert len(lines) == 5
    assert "digest" in lines[1]  # grave ones first
    assert "--anyway" not in str(refused.value)


def test_what_is_only_doubtful_can_be_compared_anyway_and_is_said() -> None:
    other = replace(PLAIN, complete=False)
    with pytest.raises(UsageError, match="--anyway"):
        against(PLAIN, other)
    found = compare([side(PLAIN), side(other, name="b")], anyway=True)
    assert len(found.doubts) == 1
    assert "warning: not quite comparable: b0: the run is not complete" in comparison_plain(found)


def test_another_scenario_is_never_compared() -> None:
    with pytest.raises(UsageError, match="not comparable"):
        against(PLAIN, told(PLAIN, digest="d2", scenario_text="other words"), anyway=True)


def test_a_side_has_one_run_for_each_seed_and_one_setting() -> None:
    twice = side(PLAIN, PLAIN)
    assert "name one run for each seed" in doubts([side(PLAIN), twice])[0].text
    other = told(PLAIN, digest="d2", seed=2, settings={"sampling": {"policy": "fixed"}})
    unlike = [d.text for d in doubts([side(PLAIN, other), side(PLAIN, other)])]
    assert any("run1 is no run of the same setting" in text for text in unlike)


def test_another_prompt_and_engine_are_allowed_but_stated() -> None:
    other = told(PLAIN, engine={"name": "ollama", "prompt": {"name": "mine"}})
    assert against(PLAIN, other).stated == (
        ("engine.name", "simulated", "ollama"),
        ("engine.model", "spec-gpu", "unset"),
        ("engine.prompt.name", "unset", "mine"),
    )


def test_the_same_run_with_and_without_a_fault_is_compared_and_the_fault_stated() -> None:
    broken = replace(PLAIN, faults=(FaultPlan("gone", "broker-gone", 60.0, 75.5),))
    assert against(PLAIN, broken).stated == (
        ("faults.gone", "unset", "broker-gone from 60 s to 75.5 s"),
    )


def test_a_strangers_settings_cannot_command_the_terminal() -> None:
    other = told(PLAIN, engine={"name": "\x1b[2Jgone\r" + "x" * 100, "model": "spec-gpu"})
    ((_, _, said),) = against(PLAIN, other).stated
    assert said == "\ufffd[2Jgone\ufffd" + "x" * 50 + "…"


# --- thresholds ----------------------------------------------------------------------------------


def test_tolerances_are_read_with_their_units() -> None:
    assert parse_tolerances("efs=2, ttfd=1m,recall=0.05") == {
        "efs": 2.0,
        "ttfd": 60.0,
        "recall": 0.05,
    }


@pytest.mark.parametrize("text", ["", "efs", "efs=-1", "efs=nan", "speed=2", "ttfd=soon", "efs=2s"])
def test_what_is_no_tolerance_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-if-worse"):
        parse_tolerances(text)


@pytest.mark.parametrize(
    ("allowed", "fails"),
    [
        ({"efs": 48.0}, True),
        ({"efs": 49.0}, False),
        ({"ttfd": 239.0}, True),
        ({"ttfd": 240.0}, False),
        ({"recall": 0.4}, True),
        # nothing got worse there
        ({"precision": 0.0, "tokens": 0.0}, False),
        # p95 needs 130 answers: what cannot be compared does not pass
        ({"latency_p95": 5.0}, True),
        ({"ap40": 0.5}, True),
    ],
)
def test_a_figure_that_is_worse_by_more_than_allowed_is_named(
    allowed: Mapping[str, float], fails: bool
) -> None:
    found = compare([side(fires([AT_ONCE] * 2)), side(fires([FOUR_MINUTES, NEVER]))])
    assert [each.key for each in worse(found, allowed)] == (list(allowed) if fails else [])


def test_better_is_not_worse() -> None:
    found = compare([side(fires([FOUR_MINUTES, NEVER])), side(fires([AT_ONCE] * 2))])
    assert worse(found, {"efs": 0.0, "ttfd": 0.0, "rmst": 0.0, "recall": 0.0}) == []


def test_sure_asks_for_an_interval_without_zero() -> None:
    few = compare([side(fires([AT_ONCE] * 2)), side(fires([FOUR_MINUTES] * 2))])
    many = compare([side(fires([AT_ONCE] * 8)), side(fires([FOUR_MINUTES] * 8))])
    assert worse(few, {"efs": 1.0}, sure=True) == []
    (found,) = worse(many, {"efs": 1.0}, sure=True)
    # 100 against 100 x 2 x 0.7 / 1.7
    assert worse_line(found) == "B: efs is worse than A's by 17.6, allowed are 1.0"


# --- how it looks --------------------------------------------------------------------------------


def drawn(found: Comparison, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(comparison(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_cut_off_in_a_narrow_terminal(width: int) -> None:
    late = [FOUR_MINUTES, NEVER] * 5
    found = compare([side(fires([AT_ONCE] * 10)), side(fires(late)), side(fires(late))])
    lines = drawn(found, width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    for figure in found.against[0].figures:
        assert any(line.startswith(figure.title) for line in lines), figure.title


def test_a_pipe_gets_one_fact_a_line() -> None:
    text = comparison_plain(
        compare([side(fires([AT_ONCE] * 2)), side(fires([FOUR_MINUTES, NEVER]))])
    )
    lines = text.splitlines()
    assert "run A: run0" in lines
    assert "B against A: recall: A 1.000 B 0.500 difference -0.500 p 1.000 n 2 views" in lines, text
    assert (
        "B against A: moved: fire f01 camera c01 A 0.00 s B missed lost through model miss" in lines
    )
    assert (
        "B against A: views: 2: detected by both 1, by A only 1, by B only 0, by neither 0" in lines
    )
    assert any("No bootstrap: 2 fires" in line for line in lines)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Path:
    """A folder with `sharp`, `blind` and `other` (another seed), each a run in virtual time."""
    home = tmp_path_factory.mktemp("played")
    pictures(home / "pictures", 20)
    scenario(
        home,
        camera("north", fires=[{"id": "oak", "onset": "1s"}]),
        camera("south"),
        clock="virtual",
    )
    for name, more in {
        "sharp": ("--profile", "perfect"),
        "blind": ("--profile", "never"),
        "other": ("--profile", "perfect", "--seed", "4"),
    }.items():
        code, command = nursery.run("run", "tiny.yaml", "--out", name, *more, cwd=home)
        assert code == 0, command.err
        (folder,) = run_folders(home / name)
        folder.rename(home / f"{name}-run")
    return home


def test_the_command_compares_real_runs(nursery: Nursery, played: Path) -> None:
    code, command = nursery.run("compare", "sharp-run", "blind-run", cwd=played)
    assert (code, command.err) == (0, "")
    assert "\x1b" not in command.out
    lines = command.out.splitlines()
    assert lines[:2] == ["run A: sharp-run", "run B: blind-run"]
    assert "B against A: differs: engine.profile perfect → never" in lines
    assert (
        "B against A: views: 1: detected by both 0, by A only 1, by B only 0, by neither 0" in lines
    )
    (moved,) = [line for line in lines if ": moved: " in line]
    assert moved.endswith("B missed lost through model miss")
    assert lines[-1] == "written: blind-run/comparison.html"
    assert (played / "blind-run" / "comparison.html").stat().st_size < 200_000


def test_the_page_can_be_written_elsewhere(nursery: Nursery, played: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.html"
    code, command = nursery.run("compare", "sharp-run", "blind-run", "-o", place, cwd=played)
    assert (code, command.out.splitlines()[-1]) == (0, f"written: {place}")
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]
    nowhere = tmp_path / "no" / "x.html"
    code, command = nursery.run("compare", "sharp-run", "blind-run", "-o", nowhere, cwd=played)
    assert (code, command.out) == (2, "")
    assert "choose another place with -o" in command.err


def test_a_watcher_that_saw_only_its_half_is_compared_with_the_cameras_log(
    nursery: Nursery, played: Path, tmp_path: Path
) -> None:
    for name in ("sharp-run", "blind-run"):
        shutil.copytree(played / name, tmp_path / name)
    cameras = tmp_path / "cameras"
    shutil.copytree(tmp_path / "sharp-run", cameras)
    (cameras / "records.jsonl").unlink()
    for name in ("sharp-run", "blind-run"):
        (tmp_path / name / "cameras.jsonl").unlink()
    whole = nursery.run("compare", "sharp-run", "blind-run", "--json", cwd=played)[1].out
    code, command = nursery.run(
        "compare", "sharp-run", "blind-run", "--json", "--cameras", "cameras", cwd=tmp_path
    )
    assert (code, json.loads(command.out)) == (0, json.loads(whole))
    code, command = nursery.run(
        "compare", "sharp-run", "blind-run", *["--cameras", "cameras"] * 3, cwd=tmp_path
    )
    assert code == 2
    assert "3 folders for 2 runs; give one for all, or one for each" in command.err


def test_the_commands_json_has_the_scores_of_both(nursery: Nursery, played: Path) -> None:
    code, command = nursery.run("compare", "sharp-run", "blind-run", "--json", cwd=played)
    assert code == 0
    found = json.loads(command.out)
    assert found["sides"] == {"A": ["sharp-run"], "B": ["blind-run"]}
    (other,) = found["against"]
    for place, name in (("first", "sharp-run"), ("other", "blind-run")):
        alone = json.loads((played / name / "score.json").read_text())
        assert other["figures"]["efs"][place] == pytest.approx(alone["early_fire_score"])
        assert other["figures"]["D"][place] == pytest.approx(alone["terms"]["D"])
    assert other["detected"]["only_first"] == 1


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--fail-under", "efs=1"], 99, "below the threshold: efs 0.0 < 1"),
        (["--fail-under", "efs=0"], 0, ""),
        (["--fail-if-worse", "efs=2,recall=0.5"], 99, "B: recall is worse than A's by 1.000"),
        (["--fail-if-worse", "efs=2", "--sure"], 0, ""),
        (["--fail-if-worse", "ttfd=10s"], 99, "B: ttfd cannot be compared"),
        (["--fail-if-worse", "speed=1"], 2, "no such figure"),
        (["--sure"], 2, "write both"),
    ],
)
def test_a_threshold_on_the_difference_decides_the_exit_code(
    nursery: Nursery, played: Path, options: list[str], code: int, said: str
) -> None:
    got, command = nursery.run("compare", "sharp-run", "blind-run", *options, cwd=played)
    assert got == code, command.err
    assert said in re.sub(r"\s+", " ", command.err)


def test_the_command_refuses_another_seed_and_pools_when_asked(
    nursery: Nursery, played: Path
) -> None:
    code, command = nursery.run("compare", "sharp-run", "other-run", "--anyway", cwd=played)
    assert code == 2
    assert "B: another seed (4, not 3)" in re.sub(r"\s+", " ", command.err)
    pooled = "sharp-run,other-run"
    code, command = nursery.run("compare", pooled, pooled, cwd=played)
    assert code == 0, command.err
    assert "B against A: no view moved" in command.out


def test_a_run_alone_and_a_folder_that_is_none_are_told(nursery: Nursery, played: Path) -> None:
    for arguments, said in (
        (["sharp-run"], "name two runs at least"),
        (["sharp-run", "nowhere"], "nowhere: no such run folder"),
        (["sharp-run", "pictures"], "no run folder"),
    ):
        code, command = nursery.run("compare", *arguments, cwd=played)
        assert code == 2
        assert said in re.sub(r"\s+", " ", command.err)
