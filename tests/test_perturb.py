"""Perturbations measured on what they do, and held against the box map."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from earlyfire_stream.scenario.models import Perturb
from earlyfire_stream.sources.base import Image
from earlyfire_stream.sources.perturb import map_box, perturb, result_size, sway
from earlyfire_stream.verdict import Box

SIZE = (640, 360)


def scene(size: tuple[int, int] = SIZE) -> Image:
    """Blue sky over a textured brown hillside, the same every time."""
    width, height = size
    rng = np.random.default_rng(3)
    grain = cv2.GaussianBlur(rng.uniform(0, 255, (height, width)).astype(np.float32), (0, 0), 2)
    grain = (grain - grain.mean()) / grain.std()
    image = np.empty((height, width, 3), np.float32)
    image[:] = (210, 170, 130)
    image[height // 2 :] = (50, 75, 95)
    image[height // 2 :] += 18 * grain[height // 2 :, :, None]
    image[: height // 2] += 4 * grain[: height // 2, :, None]
    return np.clip(image, 0, 255).astype(np.uint8)


def seen(at: float = 10.0, seed: int = 1, image: Image | None = None, **settings: Any) -> Image:
    return perturb(scene() if image is None else image, Perturb(**settings), seed, at)


def grey(image: Image) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.float32)


def sharpness(image: Image, dx: int, dy: int) -> float:
    return float(np.mean(cv2.Sobel(grey(image), cv2.CV_32F, dx, dy) ** 2))


def displacement(a: Image, b: Image) -> tuple[float, float]:
    """By how many pixels b stands to the right of and below a."""
    window = cv2.createHanningWindow((a.shape[1], a.shape[0]), cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(grey(a), grey(b), window)
    return dx, dy


ALL = {
    "shake_px": 4,
    "blur_px": 5,
    "haze": 0.3,
    "rain": 0.5,
    "night_noise": 0.4,
    "crop": (0.5, 0.5, 0.8, 0.8),
    "height": 240,
}


def test_the_same_seed_and_instant_give_the_same_pixels() -> None:
    assert np.array_equal(seen(**ALL), seen(**ALL))
    assert not np.array_equal(seen(10.0, **ALL), seen(10.1, **ALL))
    assert not np.array_equal(seen(seed=1, **ALL), seen(seed=2, **ALL))


def test_the_given_picture_is_left_as_it_was() -> None:
    image = scene()
    before = image.copy()
    seen(image=image, **ALL)
    assert np.array_equal(image, before)


def test_nothing_asked_means_nothing_changed() -> None:
    assert np.array_equal(seen(), scene())


# --- shake ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0.0, 3.7, 61.25])
def test_shake_moves_the_picture_by_the_declared_sway(at: float) -> None:
    shaken = seen(at, shake_px=12)
    dx, dy = displacement(scene(), shaken)
    expected = sway(12, 1, at)
    # The frame is 640 wide, half of the width that pixels are stated for.
    assert (dx, dy) == pytest.approx((expected.dx / 2, expected.dy / 2), abs=0.3)


def test_the_sway_has_the_declared_deviation_and_no_drift() -> None:
    places = [sway(4, 9, 0.1 * i) for i in range(20_000)]
    for axis in ([p.dx for p in places], [p.dy for p in places]):
        assert np.std(axis) == pytest.approx(4, rel=0.05)
        assert np.mean(axis) == pytest.approx(0, abs=0.1)


def test_the_sway_is_smooth_and_its_velocity_is_the_slope_of_its_path() -> None:
    step = 0.001
    for at in (0.0, 5.3, 100.0):
        a, b = sway(4, 9, at), sway(4, 9, at + step)
        assert (b.dx - a.dx) / step == pytest.approx(a.vx, abs=0.5)
        assert (b.dy - a.dy) / step == pytest.approx(a.vy, abs=0.5)
    # 2 Hz at the most: within 20 ms even a strong sway moves by less than its deviation.
    moves = [abs(sway(4, 9, 0.1 * i + 0.02).dx - sway(4, 9, 0.1 * i).dx) for i in range(500)]
    assert max(moves) < 4


def test_the_truth_box_moves_with_the_picture() -> None:
    image = np.zeros((360, 640, 3), np.uint8)
    image[90:180, 160:320] = 255
    box = Box.from_corners(0.25, 0.25, 0.5, 0.5)
    settings = Perturb(shake_px=20)
    shaken = perturb(image, settings, 5, 7.0)
    ys, xs = np.nonzero(grey(shaken) > 127)
    found = (xs.min() / 640, ys.min() / 360, (xs.max() + 1) / 640, (ys.max() + 1) / 360)
    mapped = map_box(box, settings, 5, 7.0, (640, 360))
    assert mapped is not None
    assert mapped.corners == pytest.approx(found, abs=0.003)
    assert mapped.corners != pytest.approx(box.corners, abs=0.003)


# --- crop and height -----------------------------------------------------------------------------


def test_a_crop_maps_boxes_and_drops_those_cut_away() -> None:
    settings = Perturb(crop=(0.75, 0.5, 0.5, 1.0))  # the right half
    kept = map_box(Box.from_corners(0.625, 0.2, 0.75, 0.4), settings, 0, 0, SIZE)
    cut = map_box(Box.from_corners(0.4, 0.2, 0.6, 0.4), settings, 0, 0, SIZE)
    assert kept is not None
    assert kept.corners == pytest.approx((0.25, 0.2, 0.5, 0.4))
    assert cut is not None
    assert cut.corners == pytest.approx((0.0, 0.2, 0.2, 0.4))
    assert map_box(Box.from_corners(0.1, 0.2, 0.5, 0.4), settings, 0, 0, SIZE) is None


def test_a_crop_keeps_exactly_its_pixels() -> None:
    image = scene()
    assert np.array_equal(seen(image=image, crop=(0.75, 0.5, 0.5, 1.0)), image[:, 320:])


def test_a_resize_keeps_the_aspect_and_never_enlarges() -> None:
    assert seen(height=180).shape == (180, 320, 3)
    assert result_size((1920, 1080), 480) == (853, 480)
    with pytest.raises(ValueError, match="640x360 would have to be enlarged to a height of 480"):
        seen(height=480)


# --- blur, haze, rain, night ---------------------------------------------------------------------


def test_blur_takes_sharpness_along_the_movement_more_than_across_it() -> None:
    # This seed and instant: mostly sideways.
    at = next(
        t / 10 for t in range(600) if abs(sway(4, 1, t / 10).vx) > 9 * abs(sway(4, 1, t / 10).vy)
    )
    sharp, blurred = seen(at, shake_px=4), seen(at, shake_px=4, blur_px=16)
    along = sharpness(blurred, 1, 0) / sharpness(sharp, 1, 0)
    across = sharpness(blurred, 0, 1) / sharpness(sharp, 0, 1)
    assert along < 0.4
    assert across > 1.5 * along


def test_blur_alone_keeps_the_mean_and_the_place() -> None:
    blurred = seen(blur_px=10)
    assert blurred.mean() == pytest.approx(scene().mean(), abs=0.5)
    assert displacement(scene(), blurred) == pytest.approx((0, 0), abs=0.2)


def test_haze_takes_contrast_more_from_far_away_and_goes_towards_the_skys_colour() -> None:
    def contrast(image: Image, top: int, bottom: int) -> float:
        return float(grey(image)[top:bottom].std())

    clear, thick = scene(), seen(haze=0.6)
    far = contrast(thick, 185, 230) / contrast(clear, 185, 230)
    near = contrast(thick, 315, 360) / contrast(clear, 315, 360)
    assert far < 0.35
    assert far < near < 0.8
    assert grey(thick)[185:230].mean() > grey(clear)[185:230].mean() + 30
    assert contrast(seen(haze=0.9), 185, 230) < contrast(thick, 185, 230)


def test_drops_stay_where_they_are_while_the_picture_goes_on() -> None:
    wet = [np.abs(seen(at, rain=0.6).astype(int) - scene()).max(axis=2) > 12 for at in (0, 1, 300)]
    assert 0.002 < wet[0].mean() < 0.2
    same = (wet[0] & wet[1]).sum() / wet[0].sum()
    later = (wet[0] & wet[2]).sum() / wet[0].sum()
    assert same > 0.85
    assert later < 0.5


def test_a_drop_shows_the_scene_upside_down() -> None:
    """Over dark ground the lower part of a drop is bright: it shows the sky."""
    image = np.zeros((360, 640, 3), np.uint8)
    image[:180] = 255
    change = grey(seen(image=image, rain=1.0)) - grey(image)
    assert change[200:].max() > 150
    assert change[:160].min() < -150


def test_rain_leaves_the_truth_where_it_was() -> None:
    box = Box(0.5, 0.5, 0.2, 0.2)
    settings = Perturb(rain=1, haze=1, night_noise=1, blur_px=9, quality=30, height=240)
    mapped = map_box(box, settings, 1, 1.0, SIZE)
    assert mapped is not None
    assert mapped.corners == pytest.approx(box.corners)


def test_night_is_darker_greyer_and_noisier_the_stronger_it_is() -> None:
    def noise(image: Image) -> float:
        plane = grey(image)[:150]
        return float((plane - cv2.GaussianBlur(plane, (0, 0), 2)).std())

    def colour(image: Image) -> float:
        return float(cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1].mean())

    steps = [scene(), seen(night_noise=0.3), seen(night_noise=0.6), seen(night_noise=1.0)]
    assert [s.mean() for s in steps] == sorted((s.mean() for s in steps), reverse=True)
    assert steps[-1].mean() < 0.55 * steps[0].mean()
    assert [colour(s) for s in steps] == sorted((colour(s) for s in steps), reverse=True)
    assert noise(steps[-1]) > 3 * noise(steps[0])


def test_night_noise_differs_from_frame_to_frame() -> None:
    a, b = seen(1.0, night_noise=0.8), seen(2.0, night_noise=0.8)
    residue = (grey(a) - cv2.blur(grey(a), (9, 9))).ravel()
    other = (grey(b) - cv2.blur(grey(b), (9, 9))).ravel()
    sky = slice(0, 640 * 150)
    assert abs(np.corrcoef(residue[sky], other[sky])[0, 1]) < 0.5
