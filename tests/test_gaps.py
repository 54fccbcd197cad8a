"""Which frames came, which came twice, which never did."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from earlyfire_stream.gaps import Coming, Gaps, Unsent
from earlyfire_stream.verdict import Fate


def test_frames_in_order_leave_no_gap() -> None:
    gaps = Gaps()
    assert [gaps.came(seq, 0, 99) for seq in range(3)] == [Coming.NEW] * 3
    assert gaps.next_seq == 3
    assert gaps.has_all(2)
    assert not gaps.has_all(3)
    assert gaps.close(2) == []


def test_a_frame_that_comes_late_fills_its_gap() -> None:
    gaps = Gaps()
    assert [gaps.came(seq, 0, 99) for seq in (0, 2, 1)] == [Coming.NEW] * 3
    assert gaps.has_all(2)


def test_every_further_delivery_is_a_duplicate() -> None:
    gaps = Gaps()
    assert [gaps.came(seq, 0, 99) for seq in (0, 0, 2, 1, 1, 2)] == [
        Coming.NEW,
        Coming.AGAIN,
        Coming.NEW,
        Coming.NEW,
        Coming.AGAIN,
        Coming.AGAIN,
    ]


def test_a_number_that_was_given_up_and_comes_after_all_is_no_news() -> None:
    gaps = Gaps()
    gaps.came(1, 100, 99)
    assert gaps.overdue(101) == [0]
    assert gaps.came(0, 200, 99) is Coming.AGAIN


def test_a_number_that_nobody_can_have_reached_changes_nothing() -> None:
    gaps = Gaps()
    gaps.came(0, 0, 99)
    assert gaps.came(100, 0, 99) is Coming.ABSURD
    assert gaps.came(2**62, 0, 99) is Coming.ABSURD
    assert gaps.next_seq == 1
    assert gaps.has_all(0)
    assert gaps.came(99, 0, 99) is Coming.NEW
    assert gaps.close(-1) == list(range(1, 99))


def test_a_missing_number_is_overdue_only_when_it_was_missed_before_that_instant() -> None:
    gaps = Gaps()
    gaps.came(2, 10, 99)  # 0 and 1 missed at 10
    gaps.came(4, 20, 99)  # 3 missed at 20
    assert gaps.overdue(10) == []
    assert gaps.overdue(11) == [0, 1]
    assert gaps.overdue(11) == []
    assert gaps.overdue(100) == [3]
    assert gaps.has_all(4)


def test_closing_gives_up_the_gaps_and_the_tail() -> None:
    gaps = Gaps()
    for seq in (0, 3):
        gaps.came(seq, 0, 99)
    assert gaps.close(6) == [1, 2, 4, 5, 6]
    assert gaps.close(6) == []
    assert gaps.has_all(6)


def test_closing_without_a_last_number_gives_up_the_known_gaps_alone() -> None:
    gaps = Gaps()
    gaps.came(2, 0, 99)
    assert gaps.close(-1) == [0, 1]
    assert gaps.next_seq == 3


def test_a_camera_that_never_sent_anything_has_all_of_nothing() -> None:
    assert Gaps().has_all(-1)
    assert Gaps().close(-1) == []
    assert Gaps().close(2) == [0, 1, 2]


@given(
    st.lists(st.one_of(st.integers(0, 40), st.just("overdue")), max_size=80), st.integers(-1, 60)
)
def test_the_bookkeeping_agrees_with_a_plain_set(steps: list[int | str], last_seq: int) -> None:
    gaps, came, gone, missed = Gaps(), set(), set(), {}
    for now_ns, step in enumerate(steps):
        if isinstance(step, int):
            highest = max(came | gone, default=-1)
            for skipped in range(highest + 1, step):
                missed.setdefault(skipped, now_ns)
            new = step not in came and step not in gone
            assert gaps.came(step, now_ns, 99) is (Coming.NEW if new else Coming.AGAIN)
            if new:
                came.add(step)
        else:
            before_ns = now_ns - 5
            expected = sorted(
                s for s, at in missed.items() if at < before_ns and s not in came | gone
            )
            assert sorted(gaps.overdue(before_ns)) == expected
            gone.update(expected)
    assert gaps.has_all(last_seq) == (
        set(range(max(came | gone | {last_seq}, default=-1) + 1)) <= came | gone
    )
    rest = set(range(max(came | {last_seq}, default=-1) + 1)) - came - gone
    assert gaps.close(last_seq) == sorted(rest)


def test_the_gap_that_an_unsent_frame_leaves_is_no_second_fate() -> None:
    unsent = Unsent()
    unsent.withheld("north", 3)
    assert not unsent.explains("north", 2, Fate.LOST)
    assert not unsent.explains("south", 3, Fate.LOST)
    assert unsent.explains("north", 3, Fate.LOST)
    assert not unsent.explains("north", 3, Fate.LOST)  # only once
    assert len(unsent) == 0


def test_an_unsent_frame_that_came_all_the_same_has_its_own_fate() -> None:
    unsent = Unsent()
    unsent.withheld("north", 3)
    assert not unsent.explains("north", 3, Fate.ANSWERED)
    assert len(unsent) == 0


def test_hours_of_silence_take_no_more_room_than_a_moment() -> None:
    unsent = Unsent()
    for seq in range(10_000):
        unsent.withheld("north", seq)
    assert len(unsent) == 10_000
    assert unsent._spans == {"north": [(0, 9_999)]}
    assert unsent.explains("north", 5_000, Fate.LOST)
    assert unsent._spans == {"north": [(0, 4_999), (5_001, 9_999)]}


@given(st.sets(st.integers(0, 30)), st.lists(st.integers(0, 30), max_size=40))
def test_each_unsent_frame_is_explained_once_in_whatever_order(
    withheld: set[int], asked: list[int]
) -> None:
    unsent = Unsent()
    for seq in sorted(withheld):
        unsent.withheld("north", seq)
    for seq in asked:
        assert unsent.explains("north", seq, Fate.LOST) == (seq in withheld)
        withheld.discard(seq)
        assert len(unsent) == len(withheld)
