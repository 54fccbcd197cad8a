"""k-of-n: which frame completes an alarm, whatever the order in which verdicts come."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlyfire_stream.alarms import LATE_PLACES, AlarmPolicyState, Candidate, heed, observe
from earlyfire_stream.scenario.models import AlarmPolicy
from earlyfire_stream.verdict import Alarm, Box, Verdict

BOX = Box(0.5, 0.5, 0.2, 0.2)
OTHER_BOX = Box(0.2, 0.2, 0.1, 0.1)

Seen = tuple[float, int, bool]
"""captured_at, seq, has_smoke"""


def play(policy: AlarmPolicy, seen: Iterable[Seen]) -> list[Candidate]:
    state = AlarmPolicyState()
    found = []
    for captured_at, seq, has_smoke in seen:
        state, candidate = observe(state, policy, captured_at, seq, has_smoke)
        if candidate is not None:
            found.append(candidate)
    return found


def frames(letters: str, every_s: float = 10.0) -> list[Seen]:
    return [(i * every_s, i, letter == "T") for i, letter in enumerate(letters)]


def test_one_positive_is_an_alarm_by_default() -> None:
    found = play(AlarmPolicy(), frames("FFT"))
    assert [(c.seqs, c.completed_at) for c in found] == [((2,), 20.0)]


def test_two_of_three_completes_at_the_second_positive_over_a_gap() -> None:
    found = play(AlarmPolicy(k=2, n=3), frames("TFTF"))
    assert [c.seqs for c in found] == [(0, 2)]


def test_positives_farther_apart_than_n_verdicts_do_not_confirm_each_other() -> None:
    assert play(AlarmPolicy(k=2, n=3), frames("TFFT")) == []


def test_positives_farther_apart_than_the_window_do_not_confirm_each_other() -> None:
    policy = AlarmPolicy(k=2, n=3, within=60)
    assert [c.seqs for c in play(policy, [(0, 0, True), (60, 1, True)])] == [(0, 1)]
    assert play(policy, [(0, 0, True), (60.5, 1, True)]) == []


def test_a_negative_frame_completes_nothing() -> None:
    found = play(AlarmPolicy(k=2, n=4), frames("TTFF"))
    assert [c.completed_at for c in found] == [10.0]


def test_every_frame_that_completes_is_a_candidate_and_one_in_300_s_is_emitted() -> None:
    found = play(AlarmPolicy(repeat=300), frames("T" * 7, every_s=60.0))
    assert [c.completed_at for c in found if c.emit] == [0.0, 300.0]
    assert len(found) == 7


def test_a_verdict_below_the_least_confidence_is_no_positive_and_one_without_any_is() -> None:
    policy = AlarmPolicy(min_confidence=0.6)
    state = AlarmPolicyState()
    state, low = observe(state, policy, 0, 0, True, 0.59)
    state, just = observe(state, policy, 10, 1, True, 0.6)
    state, silent = observe(state, policy, 20, 2, True, None)
    assert low is None
    assert just is not None
    assert silent is not None


def test_the_box_is_that_of_the_completing_frame_else_the_newest_in_the_set() -> None:
    policy = AlarmPolicy(k=2, n=2)
    state, _ = observe(AlarmPolicyState(), policy, 0, 0, True, 0.7, BOX)
    _, without = observe(state, policy, 10, 1, True, 0.8, None)
    _, own = observe(state, policy, 10, 1, True, 0.8, OTHER_BOX)
    assert without is not None
    assert own is not None
    assert (without.box, own.box) == (BOX, OTHER_BOX)
    assert own.alarm("north", 5) == Alarm("north", (0, 1), 10, 5, OTHER_BOX, 0.8)


def test_a_late_positive_completes_the_set_of_a_newer_frame() -> None:
    found = play(AlarmPolicy(k=3, n=3), [(0, 0, True), (20, 2, True), (10, 1, True)])
    assert [(c.seqs, c.completed_at) for c in found] == [((0, 1, 2), 20)]


def test_a_late_positive_alarms_alone_although_a_newer_frame_was_negative() -> None:
    found = play(AlarmPolicy(), [(10, 1, False), (0, 0, True)])
    assert [c.seqs for c in found] == [(0,)]


def test_a_frame_completes_once_however_many_late_verdicts_follow() -> None:
    policy = AlarmPolicy(k=2, n=4)
    found = play(policy, [(0, 0, True), (30, 3, True), (10, 1, False), (20, 2, False)])
    assert [c.seqs for c in found] == [(0, 3)]


def test_a_second_look_at_a_frame_replaces_the_first() -> None:
    policy = AlarmPolicy(k=2, n=2)
    found = play(policy, [(0, 0, True), (10, 1, False), (10, 1, True)])
    assert [c.seqs for c in found] == [(0, 1)]
    assert play(policy, [(0, 0, True), (0, 0, True)]) == []


def test_what_is_remembered_stays_bounded() -> None:
    state = AlarmPolicyState()
    policy = AlarmPolicy(k=2, n=3)
    for i in range(100):
        state, _ = observe(state, policy, float(i), i, True)
    assert len(state.recent) == 3 + LATE_PLACES


@given(
    letters=st.text("TF", max_size=24),
    k=st.integers(1, 3),
    extra=st.integers(0, 3),
    within=st.sampled_from([15.0, 40.0, 300.0]),
)
def test_a_frame_completes_exactly_if_a_search_over_the_whole_sequence_says_so(
    letters: str, k: int, extra: int, within: float
) -> None:
    n = k + extra
    expected = []
    for i, letter in enumerate(letters):
        last = [j for j in range(max(0, i - n + 1), i + 1) if letters[j] == "T"]
        close = [j for j in last if 10 * (i - j) <= within]
        if letter == "T" and len(close) >= k:
            expected.append(tuple(close[len(close) - k :]))
    found = play(AlarmPolicy(k=k, n=n, within=within), frames(letters))
    assert [c.seqs for c in found] == expected


@given(letters=st.text("TF", min_size=1, max_size=LATE_PLACES), data=st.data())
def test_one_of_one_finds_the_same_frames_in_any_order(letters: str, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(frames(letters)))
    found = {c.seqs for c in play(AlarmPolicy(), shuffled)}
    assert found == {(i,) for i, letter in enumerate(letters) if letter == "T"}


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        (Box(0.25, 0.25, 0.1, 0.1), False),
        (Box(0.75, 0.25, 0.1, 0.1), True),
        (Box(0.48, 0.25, 0.9, 0.1), False),
    ],
    ids=["inside", "outside", "centre inside, most of it outside"],
)
def test_a_box_whose_centre_lies_in_an_ignored_polygon_takes_the_claim_of_smoke_with_it(
    box: Box, kept: bool
) -> None:
    left_half = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    verdict = Verdict(True, box, 0.9)
    assert heed(verdict, [left_half]) == (verdict if kept else Verdict(False, None, 0.9))


def test_smoke_without_a_box_is_heeded_whatever_is_ignored() -> None:
    everything = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
    assert heed(Verdict(True), [everything]) == Verdict(True)
