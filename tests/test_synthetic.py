from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from earlyfire_stream.scenario.scenes import Overlay, Plume, PlumeSize, Scene, Side, TimeOfDay
from earlyfire_stream.sources.synthetic import PlumeEvent, SyntheticScene

DAY = Scene(
    time_of_day=TimeOfDay.DAY,
    clouds=0.0,
    haze=0.1,
    fog=0.0,
    wind_mps=2.0,
    wind_from=Side.LEFT,
    overlay=Overlay.NONE,
)
FIRE = PlumeEvent("oak", 100.0, None, Plume(size=PlumeSize.LARGE, x=0.5, distance_m=3000))


@cache
def burning(width: int = 320, height: int = 240, seed: int = 5) -> SyntheticScene:
    return SyntheticScene(DAY, [FIRE], width, height, seed)


def digest(scene: SyntheticScene, at_s: float) -> str:
    return hashlib.sha256(scene.render(at_s).image.tobytes()).hexdigest()


def fine_energy(image: np.ndarray) -> float:
    """Power of what a blur of one pixel takes away."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return float(((grey - cv2.GaussianBlur(grey, (0, 0), 1.0)) ** 2).mean())


def test_a_frame_has_the_size_asked_for() -> None:
    frame = burning().render(0.0)
    assert frame.image.shape == (240, 320, 3)
    assert frame.image.dtype == np.uint8


def test_the_same_instant_gives_the_same_bytes_in_any_order() -> None:
    scene = burning()
    first = digest(scene, 400.0)
    scene.render(900.0)
    scene.render(10.0)
    fresh = SyntheticScene(DAY, [FIRE], 320, 240, 5)
    assert digest(scene, 400.0) == first
    assert digest(fresh, 400.0) == first


def test_another_process_gives_the_same_bytes() -> None:
    code = "import tests.test_synthetic as t; print(t.digest(t.burning(160, 120), 250.0))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == digest(burning(160, 120), 250.0)


def test_another_seed_is_another_camera() -> None:
    one, other = burning().render(0.0).image, burning(seed=6).render(0.0).image
    assert np.abs(one.astype(int) - other).mean() > 10


def test_noise_differs_from_one_millisecond_to_the_next() -> None:
    scene = burning()
    assert digest(scene, 10.0) != digest(scene, 10.001)


def test_render_and_truth_say_the_same() -> None:
    scene = burning()
    for at_s in (0.0, 100.0, 101.0, 130.0, 400.0, 2500.0):
        assert scene.render(at_s).truth == scene.truth(at_s)


def test_there_is_no_truth_before_and_at_the_onset() -> None:
    scene = burning()
    assert [scene.truth(at_s) for at_s in (0.0, 99.0, 100.0)] == [(), (), ()]


def test_a_fire_changes_no_pixel_before_its_onset() -> None:
    quiet = SyntheticScene(DAY, [], 320, 240, 5)
    assert np.array_equal(burning().render(99.9).image, quiet.render(99.9).image)


def test_a_fire_in_plain_sight_is_visible_within_half_a_minute() -> None:
    assert burning().truth(130.0) != ()


def test_truth_names_the_fire() -> None:
    assert [truth.fire for truth in burning().truth(300.0)] == ["oak"]


def test_the_box_grows_over_the_first_minutes() -> None:
    scene = burning()
    areas = [scene.truth(100.0 + age_s)[0].box.area for age_s in (40, 120, 400)]  # type: ignore[union-attr]
    assert areas[0] < areas[1] < areas[2]


def test_smoke_changes_pixels_inside_its_box_and_not_far_outside() -> None:
    scene, quiet = burning(), SyntheticScene(DAY, [], 320, 240, 5)
    frame = scene.render(400.0)
    change = np.abs(frame.image.astype(int) - quiet.render(400.0).image).max(axis=2)
    box = frame.truth[0].box
    assert box is not None
    x1, y1, x2, y2 = box.corners
    inside = np.zeros(change.shape, bool)
    inside[round(y1 * 240) : round(y2 * 240), round(x1 * 320) : round(x2 * 320)] = True
    assert change[inside].mean() > 6
    assert change[~inside].mean() < 1.5


def test_smoke_goes_where_the_wind_goes() -> None:
    middles = {}
    for side in Side:
        scene = SyntheticScene(DAY.model_copy(update={"wind_from": side}), [FIRE], 320, 240, 5)
        box = scene.truth(500.0)[0].box
        assert box is not None
        middles[side] = box.xc
    assert middles[Side.LEFT] > 0.52
    assert middles[Side.RIGHT] < 0.48


def test_smoke_lingers_after_the_end_and_then_is_gone() -> None:
    plume = FIRE.plume.model_copy(update={"decay_s": 60.0})
    scene = SyntheticScene(DAY, [PlumeEvent("oak", 100.0, 400.0, plume)], 320, 240, 5)
    assert scene.truth(420.0) != ()
    assert scene.truth(4000.0) == ()


def test_a_bigger_fire_smokes_over_more_of_the_frame() -> None:
    areas = []
    for size in PlumeSize:
        plume = FIRE.plume.model_copy(update={"size": size})
        scene = SyntheticScene(DAY, [PlumeEvent("oak", 0.0, None, plume)], 320, 240, 5)
        truth = scene.truth(900.0)
        areas.append(truth[0].box.area if truth and truth[0].box else 0.0)
    assert areas[0] < areas[1] < areas[2]


def test_smoke_moves_little_in_a_second_and_much_in_a_minute() -> None:
    scene = burning()
    at_400, at_401, at_460 = (scene.render(at_s).image.astype(int) for at_s in (400, 401, 460))
    box = scene.truth(400.0)[0].box
    assert box is not None
    x1, y1, x2, y2 = box.corners
    part = np.s_[round(y1 * 240) : round(y2 * 240), round(x1 * 320) : round(x2 * 320)]
    second = np.abs(at_401 - at_400)[part].mean()
    minute = np.abs(at_460 - at_400)[part].mean()
    assert minute > 1.5 * second


def test_two_fires_have_two_truths() -> None:
    events = [
        PlumeEvent("left", 0.0, None, Plume(size=PlumeSize.LARGE, x=0.2, distance_m=3000)),
        PlumeEvent("right", 50.0, None, Plume(size=PlumeSize.LARGE, x=0.8, distance_m=3000)),
    ]
    scene = SyntheticScene(DAY, events, 320, 240, 5)
    assert [truth.fire for truth in scene.truth(40.0)] == ["left"]
    assert [truth.fire for truth in scene.truth(200.0)] == ["left", "right"]


def test_detail_is_native_and_not_enlarged() -> None:
    large = burning(960, 720).render(0.0).image
    enlarged = cv2.resize(burning(320, 240).render(0.0).image, (960, 720))
    assert fine_energy(large) > 2 * fine_energy(np.asarray(enlarged))


def test_the_same_camera_at_two_sizes_shows_the_same_view() -> None:
    small = cv2.GaussianBlur(burning(320, 240).render(0.0).image, (0, 0), 3)
    large = cv2.resize(
        burning(640, 480).render(0.0).image, (320, 240), interpolation=cv2.INTER_AREA
    )
    apart = np.abs(small.astype(int) - cv2.GaussianBlur(large, (0, 0), 3)).mean()
    assert apart < 8


def test_clouds_drift_with_the_wind() -> None:
    scene = SyntheticScene(DAY.model_copy(update={"clouds": 0.5}), [], 320, 240, 5)
    first, later = scene.render(0.0).image[:80], scene.render(120.0).image[:80]
    assert np.abs(first.astype(int) - later).mean() > 3


def test_the_night_is_darker_and_noisier_than_the_day() -> None:
    night = SyntheticScene(Scene(time_of_day=TimeOfDay.NIGHT), [], 320, 240, 5)
    day = burning()
    dark, light = night.render(0.0).image, day.render(0.0).image
    assert dark.mean() < 0.8 * light.mean()
    flicker = [
        np.abs(s.render(0.0).image.astype(int) - s.render(1.0).image)[:60].mean()
        for s in (night, day)
    ]
    assert flicker[0] > 2 * flicker[1]


@pytest.mark.parametrize("overlay", [Overlay.LINE, Overlay.STRIP])
def test_the_overlay_changes_only_its_own_edge(overlay: Overlay) -> None:
    plain = burning().render(0.0).image
    scene = SyntheticScene(DAY.model_copy(update={"overlay": overlay}), [], 320, 240, 5)
    changed = (scene.render(0.0).image != plain).any(axis=(1, 2)).nonzero()[0]
    assert len(changed) > 0
    assert changed.max() < 24 if overlay is Overlay.LINE else changed.min() >= 216


def test_a_fire_must_end_after_its_onset() -> None:
    with pytest.raises(ValueError, match="not after onset"):
        PlumeEvent("oak", 100.0, 100.0, Plume())


def test_a_frame_too_small_to_show_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="64x48"):
        SyntheticScene(Scene(), [], 32, 24, 1)


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="hase"):
        Scene.model_validate({"hase": 0.5})


def test_an_impossible_value_is_refused() -> None:
    with pytest.raises(ValidationError):
        Scene(haze=1.5)
    with pytest.raises(ValidationError):
        Plume(distance_m=10)
