"""The bad network in front of a link: seeded, ordered, counted; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from earlyfire_stream.clock import Clock, virtual_run
from earlyfire_stream.scenario.models import Network, Window
from earlyfire_stream.transport.base import Control
from earlyfire_stream.transport.network import NetworkCounts, NetworkLink, effect_on
from earlyfire_stream.verdict import Reason


class Recorder:
    """A link that writes down what reaches it; `refusing` answers BROKER_DOWN."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sent: list[tuple[str, int, float]] = []
        self.controls: list[tuple[Control, float]] = []
        self.refusing = False

    async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
        if self.refusing:
            return Reason.BROKER_DOWN
        self.sent.append((camera, seq, round(self._clock.now(), 6)))
        return Reason.NONE

    async def announce(self, control: Control) -> None:
        self.controls.append((control, round(self._clock.now(), 6)))

    async def set_status(self, camera: str, online: bool) -> None: ...

    @property
    def seqs(self) -> list[int]:
        return [seq for _, seq, _ in self.sent]


Play = Callable[[NetworkLink, Clock, Recorder], Coroutine[Any, Any, None]]


def played(
    network: Network, play: Play, seed: int = 7, **settings: Any
) -> tuple[Recorder, NetworkCounts]:
    async def main() -> tuple[Recorder, NetworkCounts]:
        clock = Clock()
        recorder = Recorder(clock)
        link = NetworkLink(recorder, {"a": network}, clock, seed, **settings)
        async with link:
            await play(link, clock, recorder)
        assert link.counts.balanced
        assert all(c.balanced for c in link.by_camera.values())
        return recorder, link.counts

    return virtual_run(main())


def every(cadence_s: float, count: int) -> Play:
    async def play(link: NetworkLink, clock: Clock, recorder: Recorder) -> None:
        for seq in range(count):
            await clock.until(seq * cadence_s)
            await link.publish("a", seq, b"x" * 10)

    return play


def seq_where(network: Network, **wanted: bool) -> int:
    """The first seq whose luck under seed 7 is as wanted."""
    for seq in range(10_000):
        effect = effect_on(network, 7, "a", seq)
        if all(getattr(effect, name) == value for name, value in wanted.items()):
            return seq
    raise AssertionError("no such frame")


def test_luck_is_the_same_on_every_machine() -> None:
    # literals, drawn with scipy: a change of the draw would silently change every recorded scenario
    network = Network(delay=1.0, jitter=0.5, loss=0.5, duplicate=0.5, reorder=0.5)
    drawn = [effect_on(network, 7, "cam-1", seq) for seq in range(4)]
    assert [(e.lost, e.duplicated, e.held, round(e.delay_s, 4)) for e in drawn] == [
        (True, False, True, 0.937),
        (False, True, False, 1.2538),
        (True, True, True, 1.1974),
        (False, False, True, 0.3702),
    ]


def test_shares_come_out_as_asked() -> None:
    network = Network(delay=1.0, jitter=0.1, loss=0.1, duplicate=0.2, reorder=0.3)
    drawn = [effect_on(network, 1, "a", seq) for seq in range(20_000)]
    # four standard deviations of a binomial share
    assert abs(sum(e.lost for e in drawn) / 20_000 - 0.1) < 0.0085
    assert abs(sum(e.duplicated for e in drawn) / 20_000 - 0.2) < 0.0114
    assert abs(sum(e.held for e in drawn) / 20_000 - 0.3) < 0.013
    delays = [e.delay_s for e in drawn]
    assert abs(sum(delays) / 20_000 - 1.0) < 0.003


def test_a_delay_never_falls_below_zero() -> None:
    drawn = [effect_on(Network(delay=0.01, jitter=1.0), 1, "a", seq) for seq in range(1000)]
    assert min(e.delay_s for e in drawn) == 0.0
    assert max(e.delay_s for e in drawn) > 1.0


def test_another_seed_or_camera_has_other_luck() -> None:
    network = Network(loss=0.5)

    def losses(seed: int, camera: str) -> list[bool]:
        return [effect_on(network, seed, camera, seq).lost for seq in range(64)]

    assert losses(1, "a") == losses(1, "a")
    assert losses(1, "a") != losses(2, "a")
    assert losses(1, "a") != losses(1, "b")


def test_a_camera_without_network_settings_is_passed_through() -> None:
    async def play(link: NetworkLink, clock: Clock, recorder: Recorder) -> None:
        assert await link.publish("b", 0, b"x") is Reason.NONE
        recorder.refusing = True
        assert await link.publish("b", 1, b"x") is Reason.BROKER_DOWN

    recorder, counts = played(Network(delay=5.0), play)
    assert recorder.sent == [("b", 0, 0.0)]
    assert counts.given == 0


def test_frames_arrive_later_by_the_delay_and_in_order() -> None:
    recorder, counts = played(Network(delay=0.25), every(1.0, 3))
    assert recorder.sent == [("a", 0, 0.25), ("a", 1, 1.25), ("a", 2, 2.25)]
    assert counts.delayed == counts.delivered == 3


def test_jitter_changes_instants_but_not_the_order() -> None:
    recorder, counts = played(Network(delay=0.5, jitter=0.5), every(0.1, 200))
    assert recorder.seqs == list(range(200))
    assert counts.reordered == 0


def test_exactly_the_seeded_frames_are_lost_and_the_camera_does_not_learn_of_it() -> None:
    network = Network(loss=0.3)

    async def play(link: NetworkLink, clock: Clock, recorder: Recorder) -> None:
        for seq in range(100):
            assert await link.publish("a", seq, b"x") is Reason.NONE

    recorder, counts = played(network, play)
    kept = [seq for seq in range(100) if not effect_on(network, 7, "a", seq).lost]
    assert recorder.seqs == kept
    assert counts.lost == 100 - len(kept)


def test_exactly_the_seeded_frames_come_twice() -> None:
    network = Network(duplicate=0.3)
    recorder, counts = played(network, every(1.0, 50))
    expected: list[int] = []
    for seq in range(50):
        expected += [seq] * (2 if effect_on(network, 7, "a", seq).duplicated else 1)
    assert recorder.seqs == expected
    assert counts.duplicated == len(expected) - 50
    assert counts.delivered == 50


def test_a_held_frame_follows_its_successor() -> None:
    network = Network(reorder=0.3)
    first = seq_where(network, held=True)
    while effect_on(network, 7, "a", first + 1).held:
        first += 1

    async def play(link: NetworkLink, clock: Clock, recorder: Recorder) -> None:
        await link.publish("a", first, b"x")
        await clock.until(1.0)
        assert recorder.sent == []
        await link.publish("a", first + 1, b"x")

    recorder, counts = played(network, play)
    assert recorder.sent == [("a", first + 1, 1.0), ("a", first, 1.0)]
    assert counts.reordered == 1


def test_a_held_frame_without_successor_goes_after_a_bounded_time() -> None:
    network = Network(reorder=1.0)

    async def play(link: NetworkLink, clock: Clock, recorder: Recorder) -> None:
        await link.publish("a", 0, b"x")
        await clock.until(60.0)

    recorder, counts = played(network, play, hold_s=5.0)
    assert recorder.sent == [("a", 0, 5.0)]
    assert counts.reordered == 0


def test_in_an_outage_frames_are_lost_on_their_way() -> None:
    network = Network(outages=(Window(start=2.0, end=4.0),))
    recorder, counts = played(network, every(1.0, 6))
    assert recorder.seqs == [0, 1, 4, 5]
    assert counts.outage == 2


def test_more_bytes_under_way_than_allowed_are_lost_and_counted() -> None:
    recorder, counts = played(
        Network(delay=100.0), every(1.0, 5), max_pending_bytes=30, drain_s=200
    )
    assert recorder.seqs == [0, 1, 2]
    assert counts.overflow == 2


def test_closing_sends_what_is_under_way_and_does_not_wait_for_successors() -> None:
    recorder, counts = played(Network(delay=2.0, reorder=1.0), every(0.5, 3))
    # held frames have no successor to wait for any more: they go when their own delay is over
    assert recorder.sent == [("a", 0, 2.0), ("a", 1, 2.5), ("a", 2, 3.0)]
    assert counts.abandoned == 0


def test_closing_counts_what_it_cannot_wait_for() -> None:
    recorder, counts = played(Network(delay=60.0), every(1.0, 3), drain_s=1.0)
    assert recorder.sent == []
    assert counts.abandoned == 3


def test_an_exception_in_the_body_passes_unchanged_and_frames_under_way_are_counted() -> None:
    links: list[NetworkLink] = []

    async def play(link: NetworkLink, clock: Clock, recorder: Recorder) -> None:
        links.append(link)
        await link.publish("a", 0, b"x")
        raise KeyError("the body's own")

    with pytest.raises(KeyError, match="the body's own"):
        played(Network(delay=5.0), play)
    assert links[0].counts.abandoned == 1
    assert links[0].counts.balanced


def test_cancelling_the_owner_leaves_no_task_and_every_frame_counted() -> None:
    async def main() -> None:
        clock = Clock()
        recorder = Recorder(clock)
        link = NetworkLink(recorder, {"a": Network(delay=5.0)}, clock, 7)

        async def own() -> None:
            async with link:
                await link.publish("a", 0, b"x")
                await asyncio.sleep(100)

        owner = asyncio.create_task(own())
        await asyncio.sleep(1)
        owner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await owner
        assert link.counts.abandoned == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual_run(main())


def test_a_late_refusal_is_counted_because_the_camera_has_gone_on() -> None:
    async def play(link: NetworkLink, clock: Clock, recorder: Recorder) -> None:
        recorder.refusing = True
        assert await link.publish("a", 0, b"x") is Reason.NONE
        await clock.until(5.0)

    _, counts = played(Network(delay=1.0), play)
    assert counts.refused == 1


def test_an_undelayed_refusal_is_told_to_the_camera() -> None:
    async def play(link: NetworkLink, clock: Clock, recorder: Recorder) -> None:
        recorder.refusing = True
        assert await link.publish("a", 0, b"x") is Reason.BROKER_DOWN

    _, counts = played(Network(outages=(Window(start=50, end=60),)), play)
    assert counts.returned == 1


def test_the_end_of_the_stream_is_announced_behind_the_last_frame() -> None:
    async def play(link: NetworkLink, clock: Clock, recorder: Recorder) -> None:
        await link.announce(Control("r", "d", 0, 1.0))
        await link.publish("a", 0, b"x")
        await link.announce(Control("r", "d", 0, 1.0, {"a": 0}))

    recorder, _ = played(Network(delay=3.0), play)
    assert [at for _, at in recorder.controls] == [0.0, 3.0]
    assert recorder.sent == [("a", 0, 3.0)]
