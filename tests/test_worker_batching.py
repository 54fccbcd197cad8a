"""Who goes to the model next, with whom, and when; in virtual time and without a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from earlyfire_stream.clock import virtual_run
from earlyfire_stream.worker.ask import OutOfMemory, Piece, Timings
from earlyfire_stream.worker.batching import (
    GROW_AFTER,
    Alive,
    Batcher,
    Emit,
    Full,
    Job,
    Line,
    ModelFailed,
    Place,
    RowFailed,
    Stopping,
    TooBig,
)

# --- deciding ------------------------------------------------------------------------------------


def all_ready(line: Line[str], now: float = 0.0, tokens: int = 100) -> None:
    while (place := line.next_to_prepare()) is not None:
        line.prepared(place, tokens, now)


def items(batch: object) -> list[str]:
    assert isinstance(batch, list), batch
    return [place.item for place in batch]


def ready_line(*asked: tuple[str, str], max_batch: int = 4, ahead: int = 100) -> Line[str]:
    line: Line[str] = Line(max_batch, 0.02, 1000, ahead)
    for user, item in asked:
        line.enter(user, item)
    all_ready(line)
    return line


def test_a_flooding_user_delays_a_quiet_one_by_one_place() -> None:
    line = ready_line(*(("flood", f"f{n}") for n in range(50)), ("quiet", "q0"))
    assert items(line.next_batch(0)) == ["f0", "q0", "f1", "f2"]


def test_turns_go_on_from_batch_to_batch() -> None:
    line = ready_line(
        *(("a", f"a{n}") for n in range(3)),
        *(("b", f"b{n}") for n in range(3)),
        *(("c", f"c{n}") for n in range(3)),
        max_batch=2,
    )
    batches = [items(line.next_batch(0)) for _ in range(5)]
    assert batches == [["a0", "b0"], ["c0", "a1"], ["b1", "c1"], ["a2", "b2"], ["c2"]]
    assert line.next_batch(0) is None


def test_one_user_is_answered_in_the_order_of_asking() -> None:
    line = ready_line(*(("a", f"a{n}") for n in range(5)), max_batch=3)
    assert items(line.next_batch(0)) == ["a0", "a1", "a2"]
    assert items(line.next_batch(0)) == ["a3", "a4"]


def test_preparing_is_as_fair_as_answering() -> None:
    line: Line[str] = Line(4, 0.02, 1000, ahead=3)
    for n in range(20):
        line.enter("flood", f"f{n}")
    line.enter("quiet", "q0")
    prepared = [line.next_to_prepare() for _ in range(4)]
    assert [place.item if place else None for place in prepared] == ["f0", "q0", "f1", None]


def test_only_so_many_are_prepared_ahead_of_the_model() -> None:
    line: Line[str] = Line(2, 0.02, 1000)  # two rows, and two more
    for n in range(9):
        line.enter("a", f"a{n}")
    all_ready(line)
    assert len(line) == 9
    assert line.next_to_prepare() is None
    assert items(line.next_batch(0)) == ["a0", "a1"]
    place = line.next_to_prepare()
    assert place is not None
    assert place.item == "a4"


def test_an_idle_model_waits_for_those_that_are_being_prepared_but_not_longer_than_it_may() -> None:
    line: Line[str] = Line(4, 0.02, 1000)
    line.enter("a", "a0")
    line.enter("b", "b0")
    first, second = line.next_to_prepare(), line.next_to_prepare()
    assert first is not None
    assert second is not None
    line.prepared(first, 100, now=5.0)
    assert line.next_batch(5.0) == pytest.approx(5.02)
    assert line.next_batch(5.015) == pytest.approx(5.02)
    assert items(line.next_batch(5.02)) == ["a0"]


def test_it_goes_at_once_when_the_batch_is_full_or_nobody_else_is_coming() -> None:
    full = ready_line(*(("a", f"a{n}") for n in range(4)))
    full.enter("b", "coming")
    assert items(full.next_batch(0.0)) == ["a0", "a1", "a2", "a3"]
    alone = ready_line(("a", "a0"))
    assert items(alone.next_batch(0.0)) == ["a0"]


def test_the_wait_is_counted_from_the_oldest() -> None:
    line: Line[str] = Line(4, 0.02, 1000)
    for n in range(3):
        line.enter(f"user {n}", f"r{n}")
    places = [line.next_to_prepare() for _ in range(3)]
    for place, now in zip(places[:2], (1.0, 1.019), strict=True):
        assert place is not None
        line.prepared(place, 100, now)
    assert line.next_batch(1.019) == pytest.approx(1.02)
    assert items(line.next_batch(1.02)) == ["r0", "r1"]


def test_a_full_line_refuses_and_takes_again_once_one_has_left() -> None:
    line: Line[str] = Line(2, 0.02, max_waiting=2)
    first = line.enter("a", "a0")
    line.enter("a", "a1")
    with pytest.raises(Full):
        line.enter("b", "b0")
    assert line.leave(first)
    line.enter("b", "b0")
    assert len(line) == 2


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_one_may_leave_at_any_stage(steps: int) -> None:
    line: Line[str] = Line(2, 0.02, 10)
    place = line.enter("a", "a0")
    if steps > 0:
        assert line.next_to_prepare() is place
    if steps > 1:
        line.prepared(place, 100, 0.0)
    assert line.leave(place)
    assert not line.leave(place)
    line.prepared(place, 100, 0.0)  # a thread that comes to its end afterwards
    assert len(line) == 0
    assert line.next_batch(1.0) is None
    assert line.next_to_prepare() is None


def test_a_short_prompt_is_not_padded_to_a_long_one() -> None:
    line: Line[str] = Line(4, 0.0, 100)
    sizes = {"a0": 1300, "b0": 100, "c0": 1200, "d0": 90, "e0": 80}
    places = [line.enter(item[0], item) for item in sizes]
    for place in places:
        assert line.next_to_prepare() is place
        line.prepared(place, sizes[place.item], 0.0)
    # a0 with b0 would be 2 x 1300 tokens for 1400 of use; with c0 and d0 3900 for 2590, where two
    # thirds are 2600
    assert items(line.next_batch(0.0)) == ["a0", "c0"]
    assert items(line.next_batch(0.0)) == ["b0", "d0", "e0"]


def test_a_user_whose_oldest_does_not_fit_is_not_overtaken_by_its_own_newer_ones() -> None:
    line: Line[str] = Line(4, 0.0, 100)
    for item, tokens in [("a0", 100), ("b0", 4000), ("b1", 100), ("a1", 100)]:
        place = line.enter(item[0], item)
        assert line.next_to_prepare() is place
        line.prepared(place, tokens, 0.0)
    assert items(line.next_batch(0.0)) == ["a0", "a1"]
    assert items(line.next_batch(0.0))[0] == "b0"


def test_after_a_shortage_of_memory_batches_are_smaller_and_grow_again() -> None:
    line: Line[str] = Line(16, 0.0, 100)
    line.did_not_fit(16)
    assert line.rows == 8
    line.did_not_fit(8)
    assert line.rows == 4
    for _ in range(GROW_AFTER - 1):
        line.fitted(4)
    assert line.rows == 4
    line.fitted(3)  # says nothing of larger ones
    assert line.rows == 4
    line.fitted(4)
    assert line.rows == 5
    for _ in range(100 * GROW_AFTER):
        line.fitted(line.rows)
    assert line.rows == 16


def test_one_request_that_never_fits_does_not_make_the_others_smaller() -> None:
    line: Line[str] = Line(16, 0.0, 100)
    line.did_not_fit(1)
    assert line.rows == 16


@pytest.mark.parametrize("bad", [(0, 0.0, 1), (1, -1.0, 1), (1, float("nan"), 1), (1, 0.0, 0)])
def test_a_line_that_cannot_be_is_refused(bad: tuple[int, float, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Line(*bad)


# --- moving, in virtual time ---------------------------------------------------------------------


@dataclass(frozen=True)
class Sheet:
    """A prepared request of the fake model."""

    name: str
    prompt_tokens: int = 100


@dataclass
class FakeModel:
    """Takes 10 ms to prepare, then `step_s` for each of its words; instants are written down."""

    step_s: float = 0.1
    words: tuple[str, ...] = ('{"has_smoke":', " false", "}")
    most_rows: int = 1000
    too_big: frozenset[str] = frozenset()
    fails_after: int | None = None
    """Words after which the memory runs out, where too many rows are asked."""
    error: Exception | None = None
    row_error: str = ""
    batches: list[tuple[float, list[str]]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)

    async def prepare(self, name: str) -> Sheet:
        if name.startswith("bad"):
            raise ValueError(name)
        await asyncio.sleep(0.01)
        self.prepared.append(name)
        return Sheet(name)

    async def answer(self, batch: Sequence[Sheet], emit: Emit, alive: Alive) -> Timings:
        loop = asyncio.get_running_loop()
        self.batches.append((round(loop.time(), 3), [sheet.name for sheet in batch]))
        if self.error is not None:
            raise self.error
        short = len(batch) > self.most_rows or any(s.name in self.too_big for s in batch)
        if short and self.fails_after is None:
            raise OutOfMemory("no room", emitted=False)
        for n, word in enumerate(self.words):
            if short and n == self.fails_after:
                raise OutOfMemory("no room", emitted=n > 0)
            await asyncio.sleep(self.step_s)
            last = n == len(self.words) - 1
            for row, sheet in enumerate(batch):
                if not alive(row):
                    if sheet.name not in self.dropped:
                        self.dropped.append(sheet.name)
                    continue
                if self.row_error and sheet.name == "odd":
                    emit(row, Piece("", error=self.row_error), loop.time())
                    continue
                emit(row, Piece(word, finish="stop" if last else None), loop.time())
            if not any(alive(row) for row in range(len(batch))):
                break
        return Timings(rows=len(batch))


@dataclass
class Watching:
    rows: list[int] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    ended: list[Timings] = field(default_factory=list)
    prepared_s: list[float] = field(default_factory=list)
    splits: int = 0

    def prepared(self, took_s: float) -> None:
        self.prepared_s.append(took_s)

    def batch_began(self, rows: int, queued_s: Sequence[float]) -> None:
        self.rows.append(rows)
        self.queued += queued_s

    def batch_ended(self, timings: Timings) -> None:
        self.ended.append(timings)

    def split(self) -> None:
        self.splits += 1


@dataclass
class Desk:
    """A batcher at work, and readers of its jobs."""

    model: FakeModel
    batcher: Batcher[str, Sheet]
    watching: Watching

    async def ask(self, name: str, user: str = "") -> str:
        job = self.batcher.enter(name, user)
        try:
            return "".join([piece.text async for piece in job])
        finally:
            self.batcher.leave(job)


def at_the_desk(
    test: Callable[[Desk], Coroutine[Any, Any, None]],
    model: FakeModel,
    *,
    max_batch: int = 4,
    wait_s: float = 0.02,
    max_waiting: int = 100,
    at_once: int = 2,
    on_broken: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> Desk:
    async def run() -> Desk:
        watching = Watching()
        line: Line[Job[str, Sheet]] = Line(max_batch, wait_s, max_waiting)
        batcher: Batcher[str, Sheet] = Batcher(
            line,
            model.prepare,
            model.answer,
            at_once=at_once,
            watcher=watching,
            on_broken=on_broken,
        )
        desk = Desk(model, batcher, watching)
        working = asyncio.create_task(batcher.run())
        try:
            await test(desk)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        return desk

    return virtual_run(run())


ANSWER = '{"has_smoke": false}'


def test_who_comes_together_is_answered_together_while_the_next_ones_are_prepared() -> None:
    async def test(desk: Desk) -> None:
        names = [f"r{n}" for n in range(8)]
        answers = await asyncio.gather(*(desk.ask(name, name) for name in names))
        assert answers == [ANSWER] * 8

    desk = at_the_desk(test, FakeModel())
    # two threads prepare two each 10 ms, so four are ready after 20 ms; three words take 300 ms
    assert [(at, sorted(names)) for at, names in desk.model.batches] == [
        (0.02, ["r0", "r1", "r2", "r3"]),
        (0.32, ["r4", "r5", "r6", "r7"]),
    ]
    assert desk.watching.rows == [4, 4]


def test_a_slow_neighbour_is_waited_for_20_ms_and_no_longer() -> None:
    class Slow(FakeModel):
        async def prepare(self, name: str) -> Sheet:
            await asyncio.sleep(0.5 if name == "clip" else 0)
            return await super().prepare(name)

    async def test(desk: Desk) -> None:
        await asyncio.gather(desk.ask("clip"), desk.ask("picture"))

    desk = at_the_desk(test, Slow())
    assert desk.model.batches == [(0.03, ["picture"]), (0.51, ["clip"])]


def test_a_lone_request_does_not_wait() -> None:
    async def test(desk: Desk) -> None:
        assert await desk.ask("alone") == ANSWER

    assert at_the_desk(test, FakeModel()).model.batches == [(0.01, ["alone"])]


def test_who_leaves_the_line_is_not_answered() -> None:
    async def test(desk: Desk) -> None:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(desk.ask("first"))
            await asyncio.sleep(0.05)
            second = group.create_task(desk.ask("second"))
            third = group.create_task(desk.ask("third"))
            await asyncio.sleep(0.05)
            second.cancel()
        assert first.result() == third.result() == ANSWER
        assert len(desk.batcher.line) == 0

    desk = at_the_desk(test, FakeModel())
    assert [names for _, names in desk.model.batches] == [["first"], ["third"]]


def test_who_leaves_while_being_answered_frees_the_model_once_nobody_is_left() -> None:
    async def test(desk: Desk) -> None:
        task = asyncio.create_task(desk.ask("gone"))
        await asyncio.sleep(0.05)
        task.cancel()
        assert await desk.ask("next") == ANSWER

    desk = at_the_desk(test, FakeModel())
    # its first word came at 0.11 s, when nobody was there any more; its last one was due at 0.31 s
    assert desk.model.dropped == ["gone"]
    assert desk.model.batches == [(0.01, ["gone"]), (0.11, ["next"])]


def test_a_row_that_is_dropped_leaves_the_others_alone() -> None:
    async def test(desk: Desk) -> None:
        gone = asyncio.create_task(desk.ask("gone"))
        stays = asyncio.create_task(desk.ask("stays"))
        await asyncio.sleep(0.15)
        gone.cancel()
        assert await stays == ANSWER
        with pytest.raises(asyncio.CancelledError):
            await gone

    desk = at_the_desk(test, FakeModel())
    assert desk.model.batches == [(0.01, ["gone", "stays"])]
    assert desk.model.dropped == ["gone"]


def test_a_batch_that_does_not_fit_is_answered_in_halves_and_the_next_ones_are_smaller() -> None:
    async def test(desk: Desk) -> None:
        names = [f"r{n}" for n in range(8)]
        answers = await asyncio.gather(*(desk.ask(name, name) for name in names))
        assert answers == [ANSWER] * 8

    desk = at_the_desk(test, FakeModel(most_rows=2))
    assert [len(names) for _, names in desk.model.batches] == [4, 2, 2, 2, 2]
    assert desk.watching.splits == 1
    assert desk.batcher.line.rows == 2
    assert len(desk.watching.queued) == 8  # each waited once, however often it was tried


def test_what_had_been_said_before_the_memory_ran_out_is_not_said_twice() -> None:
    async def test(desk: Desk) -> None:
        answers = await asyncio.gather(*(desk.ask(f"r{n}", f"r{n}") for n in range(4)))
        assert answers == [ANSWER] * 4

    desk = at_the_desk(test, FakeModel(most_rows=2, fails_after=2))
    assert [len(names) for _, names in desk.model.batches] == [4, 2, 2]
    assert sorted(desk.model.prepared) == ["r0", "r1", "r2", "r3"]


def test_a_second_try_that_says_something_else_is_a_failure_not_a_mixture() -> None:
    @dataclass
    class Fickle(FakeModel):
        async def answer(self, batch: Sequence[Sheet], emit: Emit, alive: Alive) -> Timings:
            if self.batches:
                self.words = ("something else", "}")
            return await super().answer(batch, emit, alive)

    async def test(desk: Desk) -> None:
        answers = await asyncio.gather(
            *(desk.ask(f"r{n}") for n in range(2)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [ModelFailed] * 2

    at_the_desk(test, Fickle(most_rows=1, fails_after=1))


def test_one_that_does_not_fit_alone_fails_alone() -> None:
    async def test(desk: Desk) -> None:
        answers = await asyncio.gather(
            *(desk.ask(name, name) for name in ("a", "b", "huge", "d")), return_exceptions=True
        )
        assert [answers[0], answers[1], answers[3]] == [ANSWER] * 3
        assert isinstance(answers[2], TooBig)

    at_the_desk(test, FakeModel(too_big=frozenset({"huge"})))


def test_what_cannot_be_prepared_fails_alone() -> None:
    async def test(desk: Desk) -> None:
        good, bad = await asyncio.gather(
            desk.ask("good"), desk.ask("bad picture"), return_exceptions=True
        )
        assert good == ANSWER
        assert isinstance(bad, ValueError)
        assert len(desk.batcher.line) == 0

    at_the_desk(test, FakeModel())


def test_a_row_that_fails_fails_alone() -> None:
    async def test(desk: Desk) -> None:
        even, odd = await asyncio.gather(desk.ask("even"), desk.ask("odd"), return_exceptions=True)
        assert even == ANSWER
        assert isinstance(odd, RowFailed)
        assert str(odd) == "its schema became too complex"

    at_the_desk(test, FakeModel(row_error="its schema became too complex"))


def test_a_model_that_fails_is_examined_and_goes_on_if_it_can() -> None:
    examined: list[str] = []
    model = FakeModel(error=RuntimeError("device-side assert"))

    async def examine() -> None:
        examined.append("once")
        model.error = None

    async def test(desk: Desk) -> None:
        with pytest.raises(ModelFailed):
            await desk.ask("first")
        assert await desk.ask("second") == ANSWER

    at_the_desk(test, model, on_broken=examine)
    assert examined == ["once"]


def test_a_full_line_is_told_at_once() -> None:
    async def test(desk: Desk) -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(5):  # one goes to the model, four wait
                group.create_task(desk.ask(f"r{n}"))
                await asyncio.sleep(0.02)
            with pytest.raises(Full):
                desk.batcher.enter("one more", "")

    at_the_desk(test, FakeModel(), max_batch=1, max_waiting=4)


def test_draining_answers_everybody_who_was_taken_in_and_nobody_else() -> None:
    async def test(desk: Desk) -> None:
        asked = [asyncio.create_task(desk.ask(f"r{n}")) for n in range(6)]
        await asyncio.sleep(0.05)
        draining = asyncio.create_task(desk.batcher.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(Stopping):
            desk.batcher.enter("late", "")
        assert await asyncio.gather(*asked) == [ANSWER] * 6
        assert await draining

    at_the_desk(test, FakeModel())


def test_draining_gives_up_after_its_grace_and_tells_those_who_wait() -> None:
    async def test(desk: Desk) -> None:
        asked = [asyncio.create_task(desk.ask(f"r{n}")) for n in range(3)]
        await asyncio.sleep(0.05)
        assert not await desk.batcher.drain(0.5)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Stopping] * 3

    at_the_desk(test, FakeModel(step_s=100.0))


def test_an_answer_without_an_end_is_a_failure() -> None:
    @dataclass
    class Mute(FakeModel):
        async def answer(self, batch: Sequence[Sheet], emit: Emit, alive: Alive) -> Timings:
            emit(0, Piece("{"), 0.0)
            return Timings()

    async def test(desk: Desk) -> None:
        with pytest.raises(ModelFailed):
            await desk.ask("r0")

    at_the_desk(test, Mute())


def test_waiting_times_leave_the_preparation_out() -> None:
    async def test(desk: Desk) -> None:
        await asyncio.gather(*(desk.ask(f"r{n}") for n in range(2)))

    desk = at_the_desk(test, FakeModel(), max_batch=1, at_once=1)
    # r0: 10 ms prepared, answered at once. r1: waits 10 ms for its preparation, which takes 10,
    # and then until r0 is answered at 310 ms
    assert desk.watching.prepared_s == pytest.approx([0.01, 0.01])
    assert desk.watching.queued == pytest.approx([0.0, 0.3])


def test_a_place_is_one_of_a_kind() -> None:
    assert Place("a", "x") != Place("a", "x")
