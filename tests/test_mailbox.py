"""Who is looked at next, and who leaves unseen: nobody vanishes, nobody starves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earlyfire_stream.frames import Frame
from earlyfire_stream.mailbox import Dropped, Mailbox, Waiting
from earlyfire_stream.verdict import Fate, Reason

SECOND = 1_000_000_000
FRAME = Frame(b"", 1280, 720, None)


def frame(camera: str, seq: int, at: float = 0.0, suspicious: bool = False) -> Waiting:
    """Received the moment it was captured."""
    ns = round(at * SECOND)
    return Waiting(camera, seq, at, ns, ns, FRAME, suspicious)


def taken(mailbox: Mailbox, at: float) -> tuple[str, int] | None:
    waiting = mailbox.take(round(at * SECOND))
    return None if waiting is None else (waiting.camera, waiting.seq)


def test_an_empty_mailbox_gives_nothing() -> None:
    mailbox = Mailbox()
    assert taken(mailbox, 0) is None
    assert len(mailbox) == 0
    assert not mailbox.is_waiting("a")
    assert mailbox.empty() == []


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Mailbox(depth=0)
    with pytest.raises(ValueError, match="at least 1"):
        Mailbox(max_waiting=0)


def test_a_fresher_frame_takes_the_place_of_the_older_one() -> None:
    mailbox, old, new = Mailbox(), frame("a", 1, 1), frame("a", 2, 2)
    assert mailbox.offer(old) == []
    assert mailbox.offer(new) == [Dropped(old, Fate.SUPERSEDED, Reason.NEWER)]
    assert len(mailbox) == 1
    assert taken(mailbox, 2) == ("a", 2)
    assert taken(mailbox, 2) is None


def test_with_depth_a_cameras_frames_are_taken_in_order() -> None:
    mailbox = Mailbox(depth=3)
    for seq in range(3):
        assert mailbox.offer(frame("a", seq, seq)) == []
    order = []
    for _ in range(3):
        order.append(taken(mailbox, 3))
        mailbox.done("a")
    assert order == [("a", 0), ("a", 1), ("a", 2)]


def test_beyond_its_depth_a_camera_loses_its_oldest_frame() -> None:
    mailbox = Mailbox(depth=2)
    oldest = frame("a", 0, 0)
    for waiting in (oldest, frame("a", 1, 1)):
        mailbox.offer(waiting)
    dropped = mailbox.offer(frame("a", 2, 2))
    assert dropped == [Dropped(oldest, Fate.SUPERSEDED, Reason.CAMERA_LIMIT)]
    assert taken(mailbox, 2) == ("a", 1)


def test_one_frame_of_a_camera_is_out_at_a_time() -> None:
    mailbox = Mailbox()
    mailbox.offer(frame("a", 0, 0))
    assert taken(mailbox, 0) == ("a", 0)
    mailbox.offer(frame("a", 1, 1))
    assert mailbox.is_waiting("a")
    assert taken(mailbox, 1) is None
    mailbox.done("a")
    assert taken(mailbox, 1) == ("a", 1)


def test_a_frame_that_is_out_is_not_superseded() -> None:
    mailbox = Mailbox()
    mailbox.offer(frame("a", 0, 0))
    mailbox.take(0)
    assert mailbox.offer(frame("a", 1, 1)) == []


def test_the_camera_that_waited_longest_since_its_last_look_goes_first() -> None:
    mailbox = Mailbox()
    for camera, at in (("a", 3), ("b", 1), ("c", 2)):
        mailbox.offer(frame(camera, 0, at))
    assert [taken(mailbox, 4) for _ in range(3)] == [("b", 0), ("c", 0), ("a", 0)]
    for camera in "abc":
        mailbox.done(camera)
    # they were last looked at in their frames of 3, 1 and 2 s, however fresh the new ones are
    for camera, at in (("b", 5), ("a", 6), ("c", 7)):
        mailbox.offer(frame(camera, 1, at))
    assert [taken(mailbox, 8) for _ in range(3)] == [("b", 1), ("c", 1), ("a", 1)]


def looked_at(mailbox: Mailbox, camera: str, at: float) -> None:
    mailbox.offer(frame(camera, 0, at))
    assert taken(mailbox, at) == (camera, 0)
    mailbox.done(camera)


def test_a_suspicious_camera_counts_as_if_it_had_waited_four_times_as_long() -> None:
    for suspect_seen_at, first in ((7.5, "suspect"), (7.4, "suspect"), (7.6, "quiet")):
        mailbox = Mailbox()
        looked_at(mailbox, "quiet", 0)
        looked_at(mailbox, "suspect", suspect_seen_at)
        mailbox.offer(frame("quiet", 1, 10))
        mailbox.offer(frame("suspect", 1, 10, suspicious=True))
        # at 10 s: quiet has waited 10 s, the suspect (10 - 7.5) x 4 = 10 s, and wins the tie
        assert taken(mailbox, 10) == (first, 1), suspect_seen_at


def test_a_new_frame_without_suspicion_makes_the_place_quiet_again() -> None:
    mailbox = Mailbox()
    looked_at(mailbox, "x", 0)
    looked_at(mailbox, "y", 1)
    mailbox.offer(frame("y", 1, 2, suspicious=True))
    mailbox.offer(frame("y", 2, 3))
    mailbox.offer(frame("x", 1, 3))
    assert taken(mailbox, 3) == ("x", 1)


def test_ten_suspicious_cameras_cannot_starve_a_quiet_one() -> None:
    mailbox = Mailbox()
    cameras = [f"s{n}" for n in range(10)]
    looks_at_quiet = []
    for at in range(300):  # one look a second, a fresh frame of everybody each second
        for camera in cameras:
            mailbox.offer(frame(camera, at, at, suspicious=True))
        mailbox.offer(frame("quiet", at, at))
        got = taken(mailbox, at)
        assert got is not None
        mailbox.done(got[0])
        if got[0] == "quiet":
            looks_at_quiet.append(at)
    pauses = [b - a for a, b in pairwise(looks_at_quiet)]
    # the suspects take turns every 10 s and count 4 x 10 s; so the quiet one is due after 40-odd
    assert pauses
    assert max(pauses) <= 45
    assert min(pauses) >= 30


def test_frames_captured_before_an_instant_expire() -> None:
    mailbox = Mailbox(depth=3)
    old = [frame("a", 0, 0), frame("a", 1, 1), frame("b", 0, 1.5)]
    for waiting in (*old, frame("a", 2, 2)):
        mailbox.offer(waiting)
    gone = mailbox.expire(2 * SECOND)
    assert sorted(gone, key=lambda w: (w.camera, w.seq)) == old
    assert len(mailbox) == 1
    assert not mailbox.is_waiting("b")
    assert taken(mailbox, 3) == ("a", 2)
    assert taken(mailbox, 3) is None


def test_an_expired_camera_comes_back_with_its_next_frame() -> None:
    mailbox = Mailbox()
    mailbox.offer(frame("a", 0, 0))
    mailbox.expire(SECOND)
    assert mailbox.offer(frame("a", 1, 2)) == []
    assert taken(mailbox, 2) == ("a", 1)


def test_emptying_takes_everything_but_what_is_out() -> None:
    mailbox = Mailbox(depth=2)
    for camera in "ab":
        for seq in range(2):
            mailbox.offer(frame(camera, seq, seq))
    out = mailbox.take(0)
    assert out is not None
    left = {(w.camera, w.seq) for w in mailbox.empty()}
    assert left == {("a", 0), ("a", 1), ("b", 0), ("b", 1)} - {(out.camera, out.seq)}
    assert len(mailbox) == 0


def test_in_a_full_mailbox_the_camera_that_was_looked_at_last_gives_way() -> None:
    mailbox = Mailbox(max_waiting=2)
    for camera, at in (("a", 0), ("b", 5), ("c", 1)):
        looked_at(mailbox, camera, at)
    mailbox.offer(frame("a", 1, 6))
    of_b = frame("b", 1, 6)
    mailbox.offer(of_b)
    dropped = mailbox.offer(frame("c", 1, 6))
    assert dropped == [Dropped(of_b, Fate.SUPERSEDED, Reason.CAMERA_LIMIT)]
    assert [taken(mailbox, 7) for _ in range(3)] == [("a", 1), ("c", 1), None]


def test_in_a_full_mailbox_a_newcomer_that_was_looked_at_last_leaves_itself() -> None:
    mailbox = Mailbox(max_waiting=1)
    looked_at(mailbox, "a", 0)
    looked_at(mailbox, "b", 5)
    mailbox.offer(frame("a", 1, 6))
    of_b = frame("b", 1, 6)
    assert mailbox.offer(of_b) == [Dropped(of_b, Fate.SUPERSEDED, Reason.CAMERA_LIMIT)]
    assert taken(mailbox, 6) == ("a", 1)


def test_in_a_full_mailbox_a_suspicious_newcomer_drives_out_a_quiet_frame() -> None:
    mailbox = Mailbox(max_waiting=1)
    looked_at(mailbox, "a", 0)
    looked_at(mailbox, "b", 5)
    of_a = frame("a", 1, 6)
    mailbox.offer(of_a)
    dropped = mailbox.offer(frame("b", 1, 6, suspicious=True))
    assert dropped == [Dropped(of_a, Fate.SUPERSEDED, Reason.CAMERA_LIMIT)]
    assert taken(mailbox, 6) == ("b", 1)


def test_a_suspicious_frame_is_never_driven_out() -> None:
    mailbox = Mailbox(max_waiting=1)
    mailbox.offer(frame("a", 0, 5, suspicious=True))
    for newcomer in (frame("b", 0, 0), frame("c", 0, 0, suspicious=True)):
        assert mailbox.offer(newcomer)[0].waiting is newcomer
    assert taken(mailbox, 6) == ("a", 0)


def test_while_nobody_takes_anything_replacing_frames_costs_no_memory() -> None:
    mailbox = Mailbox()
    for seq in range(1000):
        mailbox.offer(frame("a", seq, seq, suspicious=seq < 500))
    assert sum(len(heap) for heap in mailbox._heaps) <= 3


STEPS = st.one_of(
    st.tuples(st.just("offer"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("take")),
    st.tuples(st.just("done"), st.integers(0, 5)),
    st.tuples(st.just("expire"), st.integers(0, 30)),
)


@given(st.lists(STEPS, max_size=120), st.integers(1, 3), st.integers(1, 5))
def test_every_frame_is_taken_dropped_expired_or_waiting_exactly_once(
    steps: list[tuple], depth: int, most: int
) -> None:
    mailbox = Mailbox(depth, most)
    offered: list[Waiting] = []
    ended: list[Waiting] = []
    out: dict[str, Waiting] = {}
    for at, step in enumerate(steps):
        match step:
            case ("offer", int(camera), bool(suspicious)):
                offered.append(frame(f"c{camera}", at, at, suspicious))
                ended += [d.waiting for d in mailbox.offer(offered[-1])]
            case ("take",):
                ready = any(mailbox.is_waiting(f"c{n}") and f"c{n}" not in out for n in range(6))
                got = mailbox.take(at * SECOND)
                assert (got is not None) == ready
                if got is not None:
                    assert got.camera not in out
                    out[got.camera] = got
                    ended.append(got)
            case ("done", int(camera)) if f"c{camera}" in out:
                del out[f"c{camera}"]
                mailbox.done(f"c{camera}")
            case ("expire", int(age)):
                gone = mailbox.expire((at - age) * SECOND)
                assert all(w.captured_at < at - age for w in gone)
                ended += gone
        assert len(mailbox) == len(offered) - len(ended) <= most
    ended += mailbox.empty()
    assert len(mailbox) == 0
    assert sorted((w.camera, w.seq) for w in ended) == sorted((w.camera, w.seq) for w in offered)


def test_an_offered_frame_is_handed_out_as_it_is() -> None:
    mailbox, offered = Mailbox(), replace(frame("a", 3, 2), received_ns=9)
    mailbox.offer(offered)
    assert mailbox.take(10) is offered


def sized(camera: str, seq: int, size: int) -> Waiting:
    return replace(frame(camera, seq, seq), frame=Frame(bytes(size), 1280, 720, None))


def test_what_waits_is_bounded_in_bytes_too() -> None:
    mailbox = Mailbox(max_bytes=1000)
    assert mailbox.offer(sized("a", 0, 400)) == []
    assert mailbox.offer(sized("b", 1, 400)) == []
    (gone,) = mailbox.offer(sized("c", 2, 400))
    assert (gone.fate, gone.reason) == (Fate.SUPERSEDED, Reason.CAMERA_LIMIT)
    assert (len(mailbox), mailbox.bytes) == (2, 800)


def test_a_frame_larger_than_the_bound_waits_alone() -> None:
    mailbox = Mailbox(max_bytes=1000)
    large = sized("a", 0, 5000)
    assert mailbox.offer(large) == []
    assert mailbox.bytes == 5000
    assert mailbox.take(0) is large
    assert mailbox.bytes == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 700),
            st.sampled_from(["offer", "offer", "take", "expire"]),
        ),
        max_size=60,
    ),
    st.sampled_from([1, 3]),
)
def test_whatever_comes_no_frame_vanishes_and_the_bytes_are_those_that_wait(
    events: list[tuple[str, int, str]], depth: int
) -> None:
    mailbox = Mailbox(depth=depth, max_waiting=4, max_bytes=1000)
    inside: dict[tuple[str, int], int] = {}
    for seq, (camera, size, what) in enumerate(events):
        out: list[Waiting] = []
        if what == "offer":
            inside[camera, seq] = size
            out = [one.waiting for one in mailbox.offer(sized(camera, seq, size))]
        elif what == "expire":
            out = mailbox.expire((seq - 3) * SECOND)
        elif (one := mailbox.take(seq * SECOND)) is not None:
            out = [one]
            mailbox.done(one.camera)
        for one in out:
            assert inside.pop((one.camera, one.seq)) == len(one.frame.jpeg)
        assert mailbox.bytes == sum(inside.values()) <= 1000
        assert len(mailbox) == len(inside) <= 4
