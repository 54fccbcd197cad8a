"""Schedules, and pictures made on the spot or ahead of the clock: the same ones either way."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from earlyfire_stream.errors import SourceError
from earlyfire_stream.frames import Frame, identity, parse
from earlyfire_stream.reel import (
    NOTHING,
    AheadReel,
    BlankReel,
    Due,
    Film,
    InlineReel,
    Plate,
    Reel,
    Shelf,
    Times,
    close,
    dues,
)
from earlyfire_stream.scenario.models import Camera


def camera(name: str = "cam", kind: str = "images", **settings: Any) -> Camera:
    source: dict[str, Any] = {"kind": kind}
    if kind == "images":
        source |= {"path": "frames", "interval": 10}
    if kind == "synthetic":
        source |= {"size": [320, 240], "seed": 3}
    source |= settings.pop("source", {})
    return Camera.model_validate({"id": name, "source": source} | settings)


def schedule(
    of: Camera, times: Times, phase: float = 0.0, duration: float | None = None, seed: int = 0
) -> list[tuple[int, float, float]]:
    return [(d.seq, d.captured_at, d.source_at) for d in dues(of, phase, times, duration, seed)]


NATIVE = Times((0.0, 10.0, 25.0), 10.0, 35.0)
CLOCKLESS = Times(None, None, None)


# --- schedules ---


def test_a_source_with_times_of_its_own_is_played_at_these_from_its_phase_on() -> None:
    assert schedule(camera(), NATIVE, phase=2.5) == [
        (0, 2.5, 0.0),
        (1, 12.5, 10.0),
        (2, 27.5, 25.0),
    ]


def test_the_duration_ends_a_schedule_and_is_itself_excluded() -> None:
    assert schedule(camera(), NATIVE, phase=2.5, duration=27.5) == [(0, 2.5, 0.0), (1, 12.5, 10.0)]
    assert schedule(camera(), NATIVE, phase=2.5, duration=2.5) == []


def test_a_declared_cadence_overrides_the_sources_own_times() -> None:
    assert schedule(camera(cadence=15), NATIVE, phase=4.0) == [
        (0, 4.0, 4.0),
        (1, 19.0, 19.0),
        (2, 34.0, 34.0),
    ]


def test_a_synthetic_camera_publishes_once_a_second_unless_told_otherwise() -> None:
    made = schedule(camera(kind="synthetic"), CLOCKLESS, phase=0.25, duration=3)
    assert made == [(0, 0.25, 0.25), (1, 1.25, 1.25), (2, 2.25, 2.25)]


def test_a_schedule_without_any_end_goes_on() -> None:
    endless = dues(camera(kind="synthetic", cadence=2), 0.0, CLOCKLESS, None, 0)
    assert [d.captured_at for d in islice(endless, 1000, 1002)] == [2000.0, 2002.0]


@pytest.mark.parametrize("jitter", [0.01, 0.3, 50.0])
def test_jitter_stays_within_its_bounds_and_keeps_the_order(jitter: float) -> None:
    of = camera(kind="synthetic", cadence=2, jitter=jitter)
    made = schedule(of, CLOCKLESS, phase=0.5, duration=1000)
    assert [seq for seq, _, _ in made] == list(range(500))
    instants = [at for _, at, _ in made]
    for seq, at in enumerate(instants):
        assert abs(at - (0.5 + 2 * seq)) <= 0.9 + 1e-6  # 0.45 cadences
    assert all(a < b for a, b in pairwise(instants))
    assert instants[0] >= 0
    assert instants[-1] < 1000


def test_jitter_never_puts_a_frame_at_or_behind_the_end() -> None:
    for seed in range(20):
        of = camera(kind="synthetic", cadence=1, jitter=10.0)
        instants = [at for _, at, _ in schedule(of, CLOCKLESS, phase=0.9, duration=5, seed=seed)]
        assert len(instants) == 5
        assert instants[-1] < 5
        assert instants == sorted(set(instants))


def test_jitter_depends_on_seed_and_camera_alone() -> None:
    def instants(name: str, seed: int) -> list[float]:
        of = camera(name, kind="synthetic", jitter=0.2)
        return [at for _, at, _ in schedule(of, CLOCKLESS, duration=20, seed=seed)]

    assert instants("a", 1) == instants("a", 1)
    assert len({tuple(instants("a", 1)), tuple(instants("b", 1)), tuple(instants("a", 2))}) == 3


# --- films ---


def film(base: Path, *cameras: Camera, duration: float | None = 45.0, pictures: int = 5) -> Film:
    folder = base / "frames"
    folder.mkdir(exist_ok=True)
    for n in range(pictures):
        done, jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 40 * n, np.uint8))
        assert done
        (folder / f"{n:02}.jpg").write_bytes(jpeg.tobytes())
    return Film(cameras, base, duration, seed=7)


def fleet() -> tuple[Camera, ...]:
    return (
        camera("b", phase=3),
        camera("a", phase=0),
        camera("c", kind="synthetic", cadence=20, phase=1),
        camera("d", kind="synthetic", cadence=20, jitter=4, phase=1),
    )


def grey_of(plate: Plate) -> int:
    assert plate.jpeg is not None
    image = cv2.imdecode(np.frombuffer(plate.jpeg, np.uint8), cv2.IMREAD_COLOR)
    return round(float(image.mean()))


def test_a_film_gives_the_whole_fleets_plates_in_order_of_capture(tmp_path: Path) -> None:
    made = film(tmp_path, *fleet(), camera("e", phase=3))
    sources = made.open()
    plates = list(made.plates(sources))
    close(sources)
    instants = [due.captured_at for _, due, _ in plates]
    assert instants == sorted(instants)
    assert all(at < 45 for at in instants)
    for name in "abcde":
        seqs = [due.seq for camera_id, due, _ in plates if camera_id == name]
        # a 0 10 20 30 40; b and e 3 13 23 33 43; c and d near 1 21 41
        assert seqs == list(range(3 if name in "cd" else 5))
    for camera_id, due, plate in plates:
        assert plate.identity == identity(plate.jpeg or b"")
        if camera_id in "abe":
            assert grey_of(plate) == pytest.approx(40 * due.seq, abs=1)


def test_cameras_that_show_the_same_at_the_same_instants_share_a_picture(tmp_path: Path) -> None:
    made = film(tmp_path, camera("a", phase=3), camera("b", phase=3), camera("c", phase=4))
    sources = made.open()
    plates = {(name, due.seq): plate for name, due, plate in made.plates(sources)}
    close(sources)
    assert plates["a", 2] is plates["b", 2]
    assert plates["a", 2] is not plates["c", 2]
    assert plates["a", 2] == plates["c", 2]


def test_a_camera_that_begins_later_shares_the_pictures_from_then_on(tmp_path: Path) -> None:
    """One picture a second; b joins at 2.2 s, c in between two pictures of the others."""
    shown = {"kind": "synthetic", "cadence": "1s"}
    made = film(
        tmp_path,
        *(camera("a", phase=0.2, **shown), camera("b", phase=2.2, **shown)),
        camera("c", phase=2.5, **shown),
        duration=4.0,
    )
    sources = made.open()
    plates = {(name, due.seq): (due, plate) for name, due, plate in made.plates(sources)}
    close(sources)
    assert sorted(plates) == [*(("a", n) for n in range(4)), ("b", 0), ("b", 1), ("c", 0), ("c", 1)]
    for later, earlier in ((("b", 0), ("a", 2)), (("b", 1), ("a", 3))):
        assert plates[later][1] is plates[earlier][1]
        assert plates[later][0].captured_at == plates[earlier][0].captured_at
    assert plates["c", 0][1] is not plates["a", 2][1]


def test_a_source_that_cannot_be_opened_is_an_error_for_every_reel(tmp_path: Path) -> None:
    broken = film(tmp_path, camera("a"), camera("b", source={"path": "nowhere"}))
    for kind in (BlankReel, InlineReel):
        with pytest.raises(SourceError, match="nowhere"):
            kind(broken)


def all_dues(reel: Reel, of: Film) -> Iterator[tuple[str, Due]]:
    """In order of capture, as a fleet asks."""
    phases = of.phases(reel.times)
    due = [
        (d.captured_at, c.id, d)
        for c in of.cameras
        for d in dues(c, phases[c.id], reel.times[c.id], of.duration, of.seed)
    ]
    for _, name, each in sorted(due, key=lambda entry: entry[:2]):
        yield name, each


async def played(reel: Reel, of: Film) -> list[tuple[str, Due, Plate]]:
    return [(name, due, await reel.take(name, due)) for name, due in all_dues(reel, of)]


async def test_blank_and_inline_reels_play_the_same_schedule_and_truth(tmp_path: Path) -> None:
    made = film(tmp_path, *fleet())
    blank, inline = BlankReel(made), InlineReel(made)
    without, pictures = await played(blank, made), await played(inline, made)
    assert blank.times == inline.times
    assert [(n, d, p.label) for n, d, p in without] == [(n, d, p.label) for n, d, p in pictures]
    for (_, _, empty), (_, _, full) in zip(without, pictures, strict=True):
        header, whole = parse(empty.jpeg or b""), parse(full.jpeg or b"")
        assert isinstance(header, Frame)
        assert isinstance(whole, Frame)
        assert (header.width, header.height) == (whole.width, whole.height)
    blank.close()
    inline.close()


async def test_two_reels_give_the_same_identities(tmp_path: Path) -> None:
    made = film(tmp_path, *fleet())
    names = []
    for _ in range(2):
        reel = InlineReel(made)
        names.append([plate.identity for _, _, plate in await played(reel, made)])
        reel.close()
    assert names[0] == names[1]
    assert len(set(names[0])) > 5


async def test_a_shelf_gives_the_next_run_the_same_plates_without_making_them(
    tmp_path: Path,
) -> None:
    made, shelf = film(tmp_path, *fleet()), Shelf()
    first, second = InlineReel(made, shelf), InlineReel(made, shelf)
    plates = await played(first, made)
    again = await played(second, made)
    assert all(p is q for (_, _, p), (_, _, q) in zip(plates, again, strict=True))
    first.close()
    second.close()


async def test_what_a_full_shelf_does_not_hold_is_made_again(tmp_path: Path) -> None:
    made = film(tmp_path, *fleet())
    plain = InlineReel(made)
    plates = await played(plain, made)
    half_bytes = sum(len(plate.jpeg or b"") for _, _, plate in plates) // 2
    shelf = Shelf(half_bytes)
    for _ in range(2):
        reel = InlineReel(made, shelf)
        assert await played(reel, made) == plates
        reel.close()
    plain.close()


async def test_a_shelf_forgets_one_film_for_another(tmp_path: Path) -> None:
    made, shelf = film(tmp_path, *fleet()), Shelf()
    reel = InlineReel(made, shelf)
    name, due, plate = (await played(reel, made))[0]
    assert shelf.get(name, due.seq) is plate
    other = InlineReel(film(tmp_path, *fleet()[:1]), shelf)
    assert shelf.get(name, due.seq) is None
    reel.close()
    other.close()


# --- ahead of the clock ---


def children() -> list[str]:
    return [p.name for p in multiprocessing.active_children() if p.name == "earlyfire-reel"]


async def test_the_child_makes_the_very_plates_that_are_made_on_the_spot(tmp_path: Path) -> None:
    made = film(tmp_path, *fleet())
    inline = InlineReel(made)
    async with AheadReel(made) as ahead:
        assert children() == ["earlyfire-reel"]
        assert ahead.times == inline.times
        assert await played(ahead, made) == await played(inline, made)
        # past the end of its source a camera gets nothing more
        assert await ahead.take("a", Due(5, 50.0, 50.0)) == NOTHING
    assert children() == []
    inline.close()


async def test_what_was_not_fetched_in_time_is_passed_over(tmp_path: Path) -> None:
    made = film(tmp_path, camera("a", phase=0))
    async with AheadReel(made) as ahead:
        third = await ahead.take("a", Due(2, 20.0, 20.0))
        assert grey_of(third) == pytest.approx(80, abs=1)
        assert await ahead.take("a", Due(1, 10.0, 10.0)) == NOTHING
        assert grey_of(await ahead.take("a", Due(3, 30.0, 30.0))) == pytest.approx(120, abs=1)


async def test_a_source_that_cannot_be_opened_is_raised_from_entering(tmp_path: Path) -> None:
    ahead = AheadReel(film(tmp_path, camera(source={"path": "nowhere"})))
    with pytest.raises(SourceError, match="nowhere"):
        async with ahead:
            pytest.fail("entered")
    assert children() == []


async def test_ready_tells_its_progress_and_ends_when_all_is_made(tmp_path: Path) -> None:
    made = film(tmp_path, camera("a", phase=0))
    shares: list[float] = []
    async with AheadReel(made) as ahead:
        await ahead.ready(1000.0, 45.0, shares.append)
        assert ahead.warnings == []
    assert all(0 <= share <= 1 for share in shares)


async def test_pictures_wait_in_memory_up_to_the_bound_and_no_further(tmp_path: Path) -> None:
    jpeg_bytes = 60_000
    rng = np.random.default_rng(5)
    folder = tmp_path / "frames"
    folder.mkdir()
    for n in range(40):
        noise = rng.integers(0, 255, (240, 320, 3), np.uint8)
        done, jpeg = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert done
        assert jpeg.nbytes > jpeg_bytes
        (folder / f"{n:02}.jpg").write_bytes(jpeg.tobytes())
    made = Film((camera("a", phase=0),), tmp_path, None, seed=7)
    async with AheadReel(made, buffer_bytes=5 * jpeg_bytes) as ahead:
        await ahead.ready(10_000.0, None, lambda share: None)
        # it may overshoot by the one that was on its way; the rest waits in the child
        assert ahead.made <= 6
        taken = [(await ahead.take("a", Due(n, 10.0 * n, 10.0 * n))).jpeg for n in range(40)]
        assert taken == [(folder / f"{n:02}.jpg").read_bytes() for n in range(40)]
        assert ahead._held_bytes == 0


async def test_waiting_for_a_plate_can_be_cancelled_and_begun_again(tmp_path: Path) -> None:
    made = film(tmp_path, camera("a", kind="synthetic", cadence=1, phase=0), duration=400.0)
    # one plate at a time: however long we stand still, the thirtieth is not there yet
    async with AheadReel(made, buffer_bytes=1) as ahead:
        late = asyncio.create_task(ahead.take("a", Due(30, 30.0, 30.0)))
        await asyncio.sleep(0)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        plate = await ahead.take("a", Due(30, 30.0, 30.0))
        assert plate.jpeg is not None
    assert children() == []


async def test_cancelling_while_it_opens_leaves_no_child(tmp_path: Path) -> None:
    ahead = AheadReel(film(tmp_path, *fleet()))
    entering = asyncio.create_task(ahead.__aenter__())
    while not children():  # noqa: ASYNC110 - nothing tells that a process has begun
        await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert children() == []


async def test_a_child_that_dies_is_an_error_for_whoever_waits(tmp_path: Path) -> None:
    made = film(tmp_path, camera("a", kind="synthetic", cadence=1, phase=0), duration=4000.0)
    async with AheadReel(made) as ahead:
        waiting = asyncio.create_task(ahead.take("a", Due(3999, 3999.0, 3999.0)))
        await asyncio.sleep(0)
        ahead._process.kill()
        with pytest.raises(SourceError, match="died"):
            await waiting


async def test_news_that_come_after_entering_was_cancelled_do_no_harm(tmp_path: Path) -> None:
    ahead = AheadReel(film(tmp_path, camera("a")))
    ahead._opened = asyncio.get_running_loop().create_future()
    ahead._opened.cancel()
    ahead._hear(("opened", {}))
    ahead._hear(("failed", SourceError("gone")))
    assert ahead._opened.cancelled()
