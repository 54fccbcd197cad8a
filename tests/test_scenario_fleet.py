"""Copies, their variation, phases and plans."""

from __future__ import annotations

from typing import Any

import pytest

from earlyfire_stream.records import CameraPlan, FirePlan
from earlyfire_stream.scenario.fleet import (
    camera_plan,
    copies,
    declared_cadence,
    expand,
    phases,
    plan,
    plays_native_times,
)
from earlyfire_stream.scenario.models import Camera, Scenario


def camera(**settings: Any) -> dict[str, Any]:
    return {"id": "a", "source": {"kind": "synthetic"}, **settings}


def scenario(*cameras: dict[str, Any], seed: int = 0) -> Scenario:
    return Scenario.model_validate(
        {"earlyfire": 1, "name": "t", "seed": seed, "duration": 60, "cameras": cameras}
    )


def seeds(cameras: tuple[Camera, ...]) -> list[int | None]:
    return [c.source.seed for c in cameras if c.source.kind == "synthetic"]


FIRE = {"id": "f", "onset": 10, "end": 20, "boxes": [{"at": 12, "box": [0.5, 0.5, 0.1, 0.1]}]}


def test_copies_are_numbered_from_one() -> None:
    assert copies("a", 1) == ("a",)
    assert copies("a", 3) == ("a-001", "a-002", "a-003")
    assert copies("a", 1000)[-1] == "a-1000"


def test_one_camera_stays_as_it_is_but_for_its_seed() -> None:
    (only,) = expand(scenario(camera(fires=[FIRE])))
    assert only.id == "a"
    assert only.fires[0].id == "f"
    assert only.fires[0].onset == 10.0
    assert seeds((only,)) != [None]


def test_a_seed_that_is_given_is_kept_for_a_single_camera() -> None:
    assert seeds(expand(scenario(camera(source={"kind": "synthetic", "seed": 5})))) == [5]


def test_the_same_seed_gives_the_same_fleet_and_another_seed_another() -> None:
    fleet = camera(count=20, fires=[FIRE], vary={"onset": 30, "fire_share": 0.5})
    assert expand(scenario(fleet)) == expand(scenario(fleet))
    assert expand(scenario(fleet)) != expand(scenario(fleet, seed=1))


def test_a_camera_that_is_added_changes_no_other() -> None:
    fleet = camera(count=20, fires=[FIRE], vary={"onset": 30, "fire_share": 0.5})
    alone = expand(scenario(fleet))
    with_more = expand(scenario(camera(id="before"), fleet, camera(id="after")))
    assert with_more[1:-1] == alone


def test_every_copy_has_a_scene_and_a_fire_of_its_own() -> None:
    fleet = expand(scenario(camera(count=30, fires=[FIRE], vary={"onset": 30})))
    assert len(set(seeds(fleet))) == 30
    assert [c.fires[0].id for c in fleet[:2]] == ["f-001", "f-002"]
    onsets = [c.fires[0].onset for c in fleet]
    assert min(onsets) >= 10
    assert max(onsets) <= 40
    assert len(set(onsets)) == 30


def test_copies_of_a_camera_with_a_seed_differ_as_well() -> None:
    fleet = expand(scenario(camera(count=3, source={"kind": "synthetic", "seed": 5})))
    other = expand(scenario(camera(count=3, source={"kind": "synthetic", "seed": 6})))
    assert len({*seeds(fleet), *seeds(other)}) == 6


def test_end_and_boxes_move_with_the_onset() -> None:
    (first, *_) = expand(scenario(camera(count=2, fires=[FIRE], vary={"onset": 30})))
    fire = first.fires[0]
    assert fire.end == pytest.approx(fire.onset + 10)
    assert fire.boxes[0].at == pytest.approx(fire.onset + 2)


@pytest.mark.parametrize(("share", "burning"), [(0.0, 0), (0.3, 3), (0.5, 5), (1.0, 10)])
def test_the_share_of_copies_with_fires_is_met_exactly(share: float, burning: int) -> None:
    fleet = expand(scenario(camera(count=10, fires=[FIRE], vary={"fire_share": share})))
    assert sum(bool(c.fires) for c in fleet) == burning


def test_heights_change_a_synthetic_size_and_resize_everything_else() -> None:
    fleet = expand(scenario(camera(count=8, vary={"heights": [480]})))
    assert {c.source.size for c in fleet if c.source.kind == "synthetic"} == {(854, 480)}
    video = {"kind": "video", "path": "x.mp4"}
    fleet = expand(scenario(camera(source=video, count=2, vary={"heights": [480]})))
    assert {c.perturb.height for c in fleet} == {480}


def test_copies_choose_among_the_varied_sources() -> None:
    sources = [{"kind": "video", "path": f"{n}.mp4"} for n in range(3)]
    fleet = expand(scenario(camera(count=60, vary={"sources": sources})))
    assert {c.source.path for c in fleet if c.source.kind == "video"} == {
        "0.mp4",
        "1.mp4",
        "2.mp4",
    }


def test_copies_that_show_the_same_can_be_told_by_their_source_key() -> None:
    fleet = expand(scenario(camera(count=200, fires=[FIRE], vary={"distinct": 10, "onset": 30})))
    assert len({c.id for c in fleet}) == 200
    assert len({c.source_key for c in fleet}) == 10
    assert fleet[0].source_key == fleet[10].source_key
    assert fleet[0].fires == fleet[10].fires
    assert fleet[0].fires[0].id == "f-001"


def test_a_source_key_tells_pictures_apart_and_not_schedules() -> None:
    (plain,) = expand(scenario(camera(source={"kind": "synthetic", "seed": 1})))
    (slow,) = expand(scenario(camera(id="b", cadence=5, source={"kind": "synthetic", "seed": 1})))
    (hazy,) = expand(
        scenario(camera(source={"kind": "synthetic", "seed": 1}, perturb={"haze": 0.1}))
    )
    assert plain.source_key == slow.source_key
    assert plain.source_key != hazy.source_key


# --- phases ---------------------------------------------------------------------------------------


def test_phases_spread_a_fleet_over_its_cadence() -> None:
    fleet = expand(scenario(camera(count=50, cadence=10)))
    offsets = sorted(phases(fleet).values())
    assert offsets[0] == 0.0
    assert offsets[-1] < 10.0
    gaps = [b - a for a, b in zip(offsets, [*offsets[1:], 10.0], strict=True)]
    # even would be 0.2 s; the golden ratio keeps every gap within a factor of two and a bit
    assert min(gaps) > 0.07
    assert max(gaps) < 0.35


def test_a_phase_that_is_given_is_kept() -> None:
    fleet = expand(scenario(camera(id="a", phase=3), camera(id="b"), camera(id="c")))
    assert phases(fleet) == {"a": 3.0, "b": 0.0, "c": 0.618}


def test_a_camera_added_at_the_end_moves_no_phase() -> None:
    fewer = phases(expand(scenario(camera(id="a"), camera(id="b"))))
    more = phases(expand(scenario(camera(id="a"), camera(id="b"), camera(id="c"))))
    assert {name: more[name] for name in fewer} == fewer


def test_cameras_that_share_pictures_share_a_phase() -> None:
    fleet = expand(scenario(camera(count=6, cadence=1, vary={"distinct": 2})))
    assert [phases(fleet)[c.id] for c in fleet] == [0.0, 0.618, 0.0, 0.618, 0.0, 0.618]


def test_a_sources_own_cadence_sets_the_spread() -> None:
    video = {"kind": "video", "path": "x.mp4"}
    fleet = expand(scenario(camera(id="a", source=video), camera(id="b", source=video)))
    assert phases(fleet, {"a": 60.0, "b": 60.0}) == {"a": 0.0, "b": 37.082}


# --- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "native", "cadence", "native_times"),
    [
        ({"cadence": 2}, None, 2.0, False),
        ({}, None, 1.0, False),
        ({"source": {"kind": "video", "path": "x"}}, 0.04, 0.04, True),
        ({"source": {"kind": "video", "path": "x"}, "cadence": 2}, 0.04, 2.0, False),
        ({"source": {"kind": "images", "path": "x", "interval": "1m"}}, None, 60.0, True),
        ({"source": {"kind": "stills", "path": "x"}, "cadence": 2}, None, None, False),
    ],
)
def test_the_declared_cadence(
    settings: dict[str, Any], native: float | None, cadence: float | None, native_times: bool
) -> None:
    (only,) = expand(scenario(camera(**settings)))
    assert declared_cadence(only, native) == cadence
    assert plays_native_times(only) is native_times


def test_a_plan_says_what_the_scorer_needs() -> None:
    (only,) = expand(
        scenario(
            camera(
                cadence=2,
                fires=[FIRE],
                outages=[{"start": 5, "end": 6}],
                ignore=[[[0, 0], [1, 0], [1, 1]]],
            )
        )
    )
    assert camera_plan(only, 2.0) == CameraPlan(
        id="a",
        fires=(FirePlan("f", 10.0, 20.0),),
        cadence_s=2.0,
        truth=True,
        ignore=(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)),),
        outages=((5.0, 6.0),),
    )


def test_nobody_knows_what_a_live_stream_shows() -> None:
    (only,) = expand(scenario(camera(source={"kind": "stream", "url": "rtsp://h/s"})))
    assert camera_plan(only, 1.0).truth is False


def test_fires_of_recorded_sequences_are_delayed_with_their_camera() -> None:
    images = {"kind": "images", "path": "x", "interval": "10s"}
    fires = [{"id": "f", "onset": 20}]
    fleet = expand(
        scenario(*(camera(id=name, source=images, fires=fires) for name in ("a", "b", "c")))
    )
    own = dict.fromkeys("abc", 10.0)
    plans = plan(fleet, own, phases(fleet, own))
    assert [p.fires[0].onset for p in plans] == [20.0, 26.18, 22.361]
    assert [p.cadence_s for p in plans] == [10.0, 10.0, 10.0]


def test_fires_of_sampled_cameras_stay_where_they_are() -> None:
    fleet = expand(scenario(camera(id="a"), camera(id="b", fires=[FIRE])))
    assert plan(fleet, {}, phases(fleet))[1].fires == (FirePlan("f", 10.0, 20.0),)
