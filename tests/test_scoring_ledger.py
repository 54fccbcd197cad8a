"""Scheduled frames against their fates: exact, by sets, not by sums."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from earlyfire_stream.records import CameraPlan, FrameRecord, RunLog, Shot
from earlyfire_stream.scoring.ledger import balance
from earlyfire_stream.verdict import Fate, Reason
from tests.scored_runs import fated, run_log, shot


def sampled_out(count: int) -> RunLog:
    shots = [shot("north", i, float(i)) for i in range(count)]
    return run_log(
        [CameraPlan("north", cadence_s=1)],
        shots,
        [fated(s, Fate.SAMPLED_OUT, Reason.IDLE) for s in shots],
    )


def test_each_frame_once_is_balanced() -> None:
    found = balance(sampled_out(3))
    assert (found.scheduled, found.fates, found.balanced) == (3, {"sampled_out": 3}, True)
    assert found.reasons == {"sampled_out(idle)": 3}


def test_a_frame_without_a_fate_is_missing_and_named() -> None:
    log = sampled_out(3)
    found = balance(replace(log, frames=log.frames[:2]))
    assert (found.missing, found.balanced) == (1, False)
    assert found.examples == ("missing north/2",)


def test_one_missing_and_one_double_do_not_cancel_out() -> None:
    log = sampled_out(3)
    found = balance(replace(log, frames=[log.frames[0], log.frames[0], log.frames[1]]))
    assert (found.missing, found.double, found.balanced) == (1, 1, False)


def test_a_fate_that_nobody_scheduled_is_unknown_and_in_no_sum() -> None:
    log = sampled_out(2)
    stray = fated(shot("south", 7, 1.0), Fate.SAMPLED_OUT, Reason.IDLE)
    found = balance(replace(log, frames=[*log.frames, stray]))
    assert (found.unknown, found.balanced) == (1, False)
    assert found.fates == {"sampled_out": 2}
    assert found.examples == ("unknown south/7",)


def test_a_frame_scheduled_twice_is_double() -> None:
    log = sampled_out(2)
    found = balance(replace(log, shots=[*log.shots, log.shots[0]]))
    assert (found.scheduled, found.double, found.balanced) == (2, 1, False)


def test_an_unsent_frame_has_its_fate_from_the_camera_and_the_gap_noted_for_it_is_the_same() -> (
    None
):
    log = sampled_out(3)
    shots = [*log.shots[:2], replace(log.shots[2], unsent=Reason.BROKER_DOWN)]
    expected = {"sampled_out(idle)": 2, "unsent(broker_down)": 1}
    for said in ([], [fated(shots[2], Fate.LOST, Reason.GAP)], [fated(shots[2], Fate.UNSENT)]):
        found = balance(replace(log, shots=shots, frames=[*log.frames[:2], *said]))
        assert found.reasons == expected
        assert found.balanced is True


def test_an_unsent_frame_that_came_all_the_same_is_a_contradiction() -> None:
    log = sampled_out(2)
    shots = [log.shots[0], replace(log.shots[1], unsent=Reason.LATE)]
    found = balance(replace(log, shots=shots))
    assert (found.double, found.balanced) == (1, False)


def test_frames_of_a_killed_run_without_a_fate_are_abandoned() -> None:
    log = sampled_out(3)
    found = balance(replace(log, frames=log.frames[:1], complete=False))
    assert (found.inferred, found.missing, found.balanced) == (2, 0, True)
    assert found.reasons == {"abandoned(killed)": 2, "sampled_out(idle)": 1}


def test_duplicates_stand_apart() -> None:
    found = balance(replace(sampled_out(2), duplicates=5))
    assert (found.duplicates, found.scheduled, found.balanced) == (5, 2, True)


def test_without_a_cameras_log_nothing_is_proved() -> None:
    found = balance(replace(sampled_out(2), shots=[]))
    assert found.balanced is None
    assert (found.unknown, found.fates) == (0, {"sampled_out": 2})


FRAMES = [shot(camera, seq, float(seq)) for camera in ("north", "south") for seq in range(6)]


@given(
    shots=st.lists(st.sampled_from(FRAMES), max_size=16),
    met=st.lists(st.tuples(st.sampled_from(FRAMES), st.sampled_from(list(Fate))), max_size=16),
    complete=st.booleans(),
)
def test_the_sum_of_fates_is_what_was_scheduled_exactly_if_nothing_is_missing(
    shots: list[Shot], met: list[tuple[Shot, Fate]], complete: bool
) -> None:
    frames: list[FrameRecord] = [fated(s, fate) for s, fate in met]
    found = balance(run_log([], shots, frames, complete=complete))
    if found.balanced is None:
        return
    assert sum(found.fates.values()) + found.missing == found.scheduled
    assert sum(found.reasons.values()) == sum(found.fates.values())
    each_once = len(shots) == len(set(shots)) and len(met) == len({s for s, _ in met})
    none_strange = {s for s, _ in met} <= set(shots)
    none_missing = set(shots) <= {s for s, _ in met} or not complete
    assert found.balanced is (each_once and none_strange and none_missing)
