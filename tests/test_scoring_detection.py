"""Fires and false alarms, worked by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlyfire_stream.records import AlarmRecord, CameraPlan, FirePlan, RunLog
from earlyfire_stream.scoring import score
from earlyfire_stream.scoring.detection import HORIZON_S, View, classify
from earlyfire_stream.verdict import Alarm, AlarmKind, Box, Fate, Reason, Truth, Verdict
from tests.scored_runs import (
    NO,
    SECOND,
    START_NS,
    YES,
    answered,
    fated,
    one_camera,
    run_log,
    shot,
    verdicts,
)

TRUTH = Box(0.5, 0.5, 0.1, 0.1)
ELSEWHERE = Box(0.1, 0.1, 0.1, 0.1)


def only_view(log: RunLog) -> View:
    (view,) = score(log).fires
    return view


# --- time to first detection ---------------------------------------------------------------------


def confirmed_by_two_of_three(
    policy: Mapping[str, float] | None = None,
    alarms: tuple[AlarmRecord, ...] = (),
    slow_member: dict[str, float] | None = None,
) -> RunLog:
    """Frames at 0, 30 … 240 s, onset at 100; YES at 180 and 240, frame 4 (120 s) not looked at."""
    shots = [shot("north", i, i * 30.0) for i in range(9)]
    plan = CameraPlan("north", (FirePlan("f1", 100.0),), 30.0)
    frames = [answered(s, NO) for s in shots[:4]]
    frames.append(fated(shots[4], Fate.SAMPLED_OUT, Reason.IDLE))
    frames.append(answered(shots[5], NO))
    frames.append(answered(shots[6], YES, **(slow_member or {})))
    frames.append(answered(shots[7], NO))
    frames.append(
        answered(shots[8], YES, received_s=0.2, started_s=0.5, decided_s=1.4, answered_s=1.6)
    )
    chosen = policy or {"k": 2, "n": 3}
    return run_log([plan], shots, frames, alarms=alarms, policy=chosen)


def alarm_of_frame_8(after_capture_s: float) -> AlarmRecord:
    captured_ns = START_NS + 240 * SECOND
    alarm = Alarm("north", (6, 8), 240.0, captured_ns + round(1.4 * SECOND))
    return AlarmRecord(alarm, True, captured_ns + round(after_capture_s * SECOND))


def test_time_to_first_detection_and_its_parts() -> None:
    view = only_view(confirmed_by_two_of_three(alarms=(alarm_of_frame_8(1.5),)))
    assert view.parts is not None
    assert view.parts.to_json() == pytest.approx(
        {
            "cadence_wait": 20.0,  # onset 100 → frame at 120
            "sampling": 30.0,  # → first answer, of the frame at 150
            "model_miss": 30.0,  # → first positive that confirms, at 180
            "confirmation": 60.0,  # → completing frame at 240
            "transport": 0.2,
            "queue": 0.3,
            "inference": 0.9,
            "alarm": 0.1,
        }
    )
    assert view.ttfd_s == pytest.approx(140 + 1.5)
    assert view.alarm_s == pytest.approx(241.5)
    assert view.frames_late == 4  # those at 120, 150, 180 and 210 came before
    assert view.located is None


def test_without_an_alarm_record_the_alarm_comes_when_the_frame_is_decided() -> None:
    view = only_view(confirmed_by_two_of_three())
    assert view.ttfd_s == pytest.approx(140 + 1.4)


def test_the_alarm_waits_for_an_older_frame_whose_verdict_comes_later() -> None:
    # frame 6, captured 60 s before frame 8, is decided 65 s after its capture: 5 s after frame 8's
    view = only_view(confirmed_by_two_of_three(slow_member={"answered_s": 65.0}))
    assert view.ttfd_s == pytest.approx(145)
    assert view.parts is not None
    assert view.parts.alarm == pytest.approx(3.6)


def test_second_alarm_does_not_improve_time_to_first_detection() -> None:
    late = only_view(one_camera(verdicts("FFTFTT"), onset=60))
    assert late.ttfd_s == pytest.approx(61)
    assert late.frames_late == 1


def test_a_positive_before_the_onset_confirms_nothing() -> None:
    # 2 of 2: frame 1 (before) and frame 2 (after the onset) complete, but only 2 and 3 count
    log = one_camera(verdicts("FTTTF"), onset=120, policy={"k": 2, "n": 2})
    view = only_view(log)
    assert view.ttfd_s == pytest.approx(60 + 1)
    assert view.parts is not None
    assert view.parts.model_miss == 0
    assert view.parts.confirmation == 60


def test_detection_before_the_onset_is_a_false_alarm_and_the_fire_still_needs_one() -> None:
    found = score(one_camera(verdicts("TFFFFF"), onset=180))
    assert found.false_alarms.episodes == 1
    assert found.fires[0].ttfd_s is None


def test_the_horizon_is_the_last_instant_of_a_true_alarm() -> None:
    at_horizon = one_camera(verdicts("F" * 40 + "T"), onset=0)
    beyond = one_camera(verdicts("F" * 41 + "T"), onset=0)
    assert only_view(at_horizon).ttfd_s == pytest.approx(HORIZON_S + 1)
    assert only_view(beyond).ttfd_s is None
    assert score(beyond).false_alarms.kinds == {"late": 1}
    assert score(beyond).false_alarms.episodes == 0


def test_an_alarm_after_the_fire_s_end_is_false() -> None:
    found = score(one_camera(verdicts("FFFFTF"), onset=60, end=240))
    assert found.fires[0].ttfd_s is None
    assert found.false_alarms.episodes == 1


def test_a_fire_from_the_first_frame_on_is_said_to_begin_with_the_clip() -> None:
    assert only_view(one_camera(verdicts("TT"), onset=0)).onset_source == "clip_start"
    assert only_view(one_camera(verdicts("FT"), onset=60)).onset_source == "scenario"


def test_a_view_without_a_single_frame_is_a_miss() -> None:
    view = only_view(one_camera([], onset=60))
    assert view.ttfd_s is None
    assert view.censored_s == HORIZON_S


def test_a_fire_hidden_by_scripted_outages_from_first_to_last_counts_against_nobody() -> None:
    shots = [
        shot("north", i, i * 60.0, unsent=Reason.OUTAGE if i >= 2 else Reason.NONE)
        for i in range(5)
    ]
    frames = [answered(s, NO) for s in shots[:2]]
    plan = CameraPlan("north", (FirePlan("f1", 120, 240),), 60, outages=((120, 300),))
    found = score(run_log([plan], shots, frames))
    assert found.fires == ()
    assert any("scripted outages" in w for w in found.warnings)
    open_at_last = replace(plan, outages=((120, 239),))
    assert len(score(run_log([open_at_last], shots, frames)).fires) == 1


def test_frames_of_an_outage_are_no_captures_to_wait_for() -> None:
    shots = [
        shot("north", i, i * 60.0, unsent=Reason.OUTAGE if i == 1 else Reason.NONE)
        for i in range(4)
    ]
    frames = [answered(s, NO if s.seq < 2 else YES) for s in shots if s.unsent is Reason.NONE]
    plan = CameraPlan("north", (FirePlan("f1", 60),), 60, outages=((60, 120),))
    view = only_view(run_log([plan], shots, frames))
    assert view.parts is not None
    assert view.parts.cadence_wait == 60
    assert view.frames_late == 0


def test_the_fleet_counts_from_the_first_onset_to_the_first_alarm() -> None:
    shots = [shot(c, i, i * 60.0) for c in ("east", "west") for i in range(5)]
    plans = [
        CameraPlan("east", (FirePlan("f1", 60),), 60),
        CameraPlan("west", (FirePlan("f1", 120),), 60),
    ]
    seen = {"east": 4, "west": 3}
    frames = [answered(s, YES if s.seq >= seen[s.camera] else NO) for s in shots]
    found = score(run_log(plans, shots, frames))
    (fleet,) = found.fleet
    # east alarms at 241 s, west at 181 s; the fire could be seen from 60 s on
    assert (fleet.camera, fleet.detected) == ("west", 2)
    assert fleet.ttfd_s == pytest.approx(121)
    assert [v.ttfd_s for v in found.fires] == [pytest.approx(181), pytest.approx(61)]


@given(
    said=st.lists(st.sampled_from([YES, NO, None]), min_size=1, max_size=30),
    onset=st.floats(0, 1800),
    k=st.integers(1, 3),
    latency_s=st.floats(0, 100),
)
def test_the_parts_always_add_up(
    said: list[Verdict | None], onset: float, k: int, latency_s: float
) -> None:
    log = one_camera(said, onset=onset, latency_s=latency_s, policy={"k": k, "n": k + 1})
    view = only_view(log)
    if view.parts is not None:
        assert view.frames_late is not None
        first = -(-onset // 60)
        completing = (first + view.frames_late) * 60
        assert view.ttfd_s == pytest.approx(completing - onset + latency_s)
        assert all(part >= 0 for part in view.parts.to_json().values())


# --- located -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "sent_size", "located"),
    [
        # the truth ends at 0.55; grown by 0.05 of the width it ends at 0.60
        (Box.from_corners(0.59, 0.45, 0.7, 0.55), (1280, 720), True),
        (Box.from_corners(0.61, 0.45, 0.7, 0.55), (1280, 720), False),
        # downwards 0.05 of the width is 0.0889 of the height at 16:9, 0.05 of a square
        (Box.from_corners(0.45, 0.63, 0.55, 0.7), (1280, 720), True),
        (Box.from_corners(0.45, 0.65, 0.55, 0.7), (1280, 720), False),
        (Box.from_corners(0.45, 0.63, 0.55, 0.7), (700, 700), False),
        (Box.from_corners(0.45, 0.59, 0.55, 0.7), (700, 700), True),
    ],
)
def test_a_box_must_touch_the_truth_grown_by_5_percent_of_the_width(
    box: Box, sent_size: tuple[int, int], located: bool
) -> None:
    taken = shot("north", 0, 0.0, truth=(Truth("f1", TRUTH),), boxed=True)
    plan = CameraPlan("north", (FirePlan("f1", 0),), 60)
    frame = answered(taken, Verdict(True, box), sent_size=sent_size)
    view = only_view(run_log([plan], [taken], [frame]))
    assert view.located is located
    assert (view.ttfd_s is not None) is located


def test_an_unlocated_alarm_earns_nothing_until_one_touches_the_smoke() -> None:
    said = [NO, Verdict(True, ELSEWHERE), Verdict(True, ELSEWHERE), Verdict(True, TRUTH)]
    found = score(one_camera(said, onset=60, boxes=dict.fromkeys((1, 2, 3), TRUTH)))
    (view,) = found.fires
    assert view.ttfd_s == pytest.approx(121)
    assert view.unlocated_ttfd_s == pytest.approx(1)
    assert view.unlocated == 2
    assert found.false_alarms.kinds == {"true": 1, "unlocated": 2}
    assert found.false_alarms.episodes == 0


def test_a_fire_alarmed_beside_it_only_is_missed_but_not_without_the_test() -> None:
    said = [NO, Verdict(True, ELSEWHERE)]
    found = score(one_camera(said, onset=60, boxes={1: TRUTH}))
    assert found.fires[0].located is False
    assert found.terms.detection == 0
    # 0.4 + 0.6·2^(−1/240)
    assert found.detection_unlocated == pytest.approx(0.99827, abs=1e-5)


def test_without_a_predicted_box_there_is_nothing_to_locate() -> None:
    view = only_view(one_camera([NO, YES], onset=60, boxes={1: TRUTH}))
    assert view.located is None
    assert view.ttfd_s == pytest.approx(1)


def test_of_two_fires_at_once_only_the_one_that_is_touched_is_detected() -> None:
    truth = (Truth("near", TRUTH), Truth("far", ELSEWHERE))
    taken = shot("north", 0, 0.0, truth=truth, boxed=True)
    plan = CameraPlan("north", (FirePlan("near", 0), FirePlan("far", 0)), 60)
    found = score(run_log([plan], [taken], [answered(taken, Verdict(True, TRUTH))]))
    assert {v.fire: v.ttfd_s is not None for v in found.fires} == {"near": True, "far": False}
    assert found.false_alarms.kinds == {"true": 1}


def test_a_box_in_an_ignored_polygon_raises_no_alarm() -> None:
    polygon = ((0.0, 0.0), (0.2, 0.0), (0.2, 0.2), (0.0, 0.2))
    said = [Verdict(True, ELSEWHERE)] * 3
    assert score(one_camera(said)).false_alarms.episodes == 1
    assert score(one_camera(said, plan={"ignore": (polygon,)})).false_alarms.episodes == 0


@pytest.mark.parametrize(
    ("at", "box", "kind"),
    [
        (59.9, None, AlarmKind.FALSE),
        (60.0, None, AlarmKind.TRUE),
        (60.0, TRUTH, AlarmKind.TRUE),
        (60.0, ELSEWHERE, AlarmKind.UNLOCATED),
        (2460.0, None, AlarmKind.TRUE),
        (2460.1, None, None),
        (5000.0, None, AlarmKind.FALSE),
    ],
)
def test_an_alarm_is_classified_by_the_capture_of_its_completing_frame(
    at: float, box: Box | None, kind: AlarmKind | None
) -> None:
    plan = CameraPlan("north", (FirePlan("f1", 60, 5000),), 60)
    assert classify(plan, at, (Truth("f1", TRUTH),), box) is kind


def test_nobody_knows_what_an_alarm_of_a_camera_without_truth_is() -> None:
    assert classify(CameraPlan("real", truth=False), 0) is AlarmKind.UNKNOWN


# --- false alarms --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letters", "episodes"),
    [("TTTF", 1), ("TTTT", 2), ("TFFT", 2), ("TTTTTTT", 3), ("FFFF", 0)],
)
def test_episodes_are_greedy_and_300_s_long(letters: str, episodes: int) -> None:
    found = score(one_camera(verdicts(letters), cadence_s=100.0)).false_alarms
    assert found.episodes == episodes


def test_oversampling_does_not_change_the_false_alarm_rate() -> None:
    seldom = score(one_camera(verdicts("T" * 11), cadence_s=60.0)).false_alarms
    often = score(one_camera(verdicts("T" * 601), cadence_s=1.0)).false_alarms
    assert (seldom.episodes, often.episodes) == (3, 3)
    assert seldom.camera_hours == often.camera_hours == pytest.approx(600 / 3600)


def timed(instants: list[float], **plan: Any) -> RunLog:
    shots = [shot("north", i, at) for i, at in enumerate(instants)]
    frames = [answered(s, NO) for s in shots]
    return run_log([CameraPlan("north", cadence_s=60, **plan)], shots, frames)


def seconds(log: RunLog) -> float:
    return score(log).false_alarms.camera_hours * 3600


def test_a_gap_counts_as_twice_the_cadence_at_most() -> None:
    assert seconds(timed([0, 60, 1000])) == pytest.approx(60 + 120)


def test_scripted_outages_are_no_exposure() -> None:
    # the frame at 60 s stands for 60 to 180, of which 90 to 180 remain
    assert seconds(timed([0, 60, 1000], outages=((60, 90),))) == pytest.approx(60 + 90)


def test_time_before_the_onset_and_after_the_end_is_exposure() -> None:
    instants = [i * 60.0 for i in range(9)]
    assert seconds(timed(instants, fires=(FirePlan("f1", 150, 270),))) == pytest.approx(360)
    assert seconds(timed(instants, fires=(FirePlan("f1", 150),))) == pytest.approx(150)


def test_frames_that_never_came_are_no_exposure() -> None:
    log = timed([i * 60.0 for i in range(11)])
    lost = [
        fated(s, Fate.LOST, Reason.GAP) if 1 <= s.seq < 10 else answered(s, NO) for s in log.shots
    ]
    assert seconds(replace(log, frames=lost)) == pytest.approx(120)


def test_a_false_alarm_while_the_camera_is_scripted_off_counts_against_nobody() -> None:
    found = score(one_camera([YES], plan={"outages": ((0, 10),)})).false_alarms
    assert found.episodes == 0


def test_an_alarm_on_labelled_smoke_without_a_planned_fire_is_neither_right_nor_wrong() -> None:
    smoky = [shot("north", i, i * 60.0, smoke=True) for i in range(3)]
    found = score(
        run_log([CameraPlan("north", cadence_s=60)], smoky, [answered(s, YES) for s in smoky])
    ).false_alarms
    assert (found.episodes, found.camera_hours) == (0, 0)


def test_the_rate_is_pooled_over_cameras_with_its_exact_interval() -> None:
    # 2 episodes in 2 · 12 hours: 2 a camera-day; Poisson of 2 is (0.2422, 7.2247)
    plans = [CameraPlan(c, cadence_s=3600) for c in ("east", "west")]
    shots = [shot(c, i, i * 3600.0) for c in ("east", "west") for i in range(13)]
    frames = [answered(s, YES if s.camera == "east" and s.seq in (3, 5) else NO) for s in shots]
    found = score(run_log(plans, shots, frames)).false_alarms
    assert found.per_camera_day == pytest.approx(2)
    assert found.interval == (pytest.approx(0.2422, abs=1e-4), pytest.approx(7.2247, abs=1e-4))
    assert found.by_camera == {"east": 2}
    assert found.by_hour[3] == (1, 2.0)
    assert found.by_hour[0] == (0, 2.0)
    # each camera alone: twice the interval, and of none up to 3.6889 in 12 hours
    told = found.to_json()["by_camera"]
    assert told == {
        "east": {
            "episodes": 2,
            "camera_hours": 12.0,
            "per_camera_day": 4.0,
            "interval": pytest.approx([0.4844, 14.4493], abs=1e-4),
        },
        "west": {
            "episodes": 0,
            "camera_hours": 12.0,
            "per_camera_day": 0.0,
            "interval": pytest.approx([0.0, 7.3778], abs=1e-4),
        },
    }
    assert found.to_json()["by_hour"]["3"]["interval"] == pytest.approx(  # type: ignore[index]
        [0.3038, 66.8597], abs=1e-3
    )


# --- smoke that never shows ----------------------------------------------------------------------


def drawn(seen: set[int], complete: bool = True) -> RunLog:
    """A source that labels what it draws: ten frames, a fire from frame 4 on, smoke in `seen`."""
    shots = [
        shot("north", i, i * 60.0, smoke=True if i in seen else False if i < 4 else None)
        for i in range(10)
    ]
    plan = CameraPlan("north", (FirePlan("f1", 240.0),), 60.0)
    return run_log([plan], shots, [answered(s, NO) for s in shots], complete=complete)


def test_a_fire_whose_smoke_is_in_no_picture_is_no_view() -> None:
    found = score(drawn(set()))
    assert found.fires == ()
    assert "smoke is in no picture: 1 (f1 (north))" in " ".join(found.warnings)
    assert "outages" not in " ".join(found.warnings)


def test_a_fire_that_shows_in_one_picture_is_a_view_and_can_be_missed() -> None:
    found = score(drawn({9}))
    assert [v.parts for v in found.fires] == [None]


def test_a_killed_run_cannot_tell_whether_the_smoke_would_have_shown() -> None:
    assert len(score(drawn(set(), complete=False)).fires) == 1


def test_a_camera_without_any_label_says_nothing_of_what_can_be_seen() -> None:
    log = drawn(set())
    bare = [shot("north", i, i * 60.0) for i in range(10)]
    assert len(score(replace(log, shots=bare)).fires) == 1


# --- survival ------------------------------------------------------------------------------------


def test_a_miss_is_censored_where_the_clip_ends() -> None:
    assert only_view(one_camera(verdicts("FFFFF"), onset=60)).censored_s == 180
    assert only_view(one_camera(verdicts("FFFFF"), onset=60, end=150)).censored_s == 90


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        (Fate.OVER_BUDGET, Reason.NONE),
        (Fate.LOST, Reason.CONSUMER_DOWN),
        (Fate.ENGINE_ERROR, Reason.UNAVAILABLE),
    ],
)
def test_a_miss_for_lack_of_service_stays_at_risk_until_the_horizon(
    fate: Fate, reason: Reason
) -> None:
    log = one_camera(verdicts("FFF"), onset=60)
    broken = [*log.frames[:-1], fated(log.shots[-1], fate, reason)]
    assert only_view(replace(log, frames=broken)).censored_s == HORIZON_S


def test_a_miss_of_a_killed_run_stays_at_risk_until_the_horizon() -> None:
    log = one_camera(verdicts("FFF"), onset=60, complete=False)
    assert only_view(log).censored_s == HORIZON_S
