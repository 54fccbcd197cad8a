"""The baseline detector on small scenes whose answer is known by hand, and on real fires."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from earlyfire_stream.engines.smoke import Look, SmokeDetector, SmokeSettings, State
from earlyfire_stream.verdict import Box
from tests.evaluate_baseline import judged, negatives, positives

Pixels: TypeAlias = npt.NDArray[Any]

WIDTH, HEIGHT = 320, 240
HORIZON = 90
CADENCE_S = 10.0
QUIET_LOOKS = 10


def scene(seed: int = 1) -> Pixels:
    """Blue sky over brown ground with patches of two pixels, as hills look from afar."""
    rng = np.random.default_rng(seed)
    image: Pixels = np.empty((HEIGHT, WIDTH, 3), np.float32)
    image[:HORIZON] = (200, 160, 120)
    patches = cv2.resize(
        rng.uniform(-50, 50, (75, 160)).astype(np.float32), (WIDTH, HEIGHT - HORIZON)
    )
    image[HORIZON:] = np.array((60, 80, 90), np.float32) + patches[..., None]
    return image


def with_noise(image: Pixels, look: int) -> Pixels:
    noise = np.random.default_rng(1000 + look).normal(0, 1.5, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def veiled(image: Pixels, x: int, y: int, size: float, opacity: float, grey: float = 190) -> Pixels:
    """A soft translucent blob, `size` px in radius, centred at (x, y)."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(xs - x, ys - y) / size
    veil = (opacity * np.clip(1.5 - distance, 0, 1))[..., None].astype(np.float32)
    mixed: Pixels = image * (1 - veil) + grey * veil
    return mixed


def quiet(detector: SmokeDetector, image: Pixels, looks: int = QUIET_LOOKS) -> float:
    """Show an unchanged scene; returns the next capture instant."""
    for look in range(looks):
        assert not detector.look(with_noise(image, look), look * CADENCE_S).has_smoke
    return looks * CADENCE_S


def quiet_for(detector: SmokeDetector, seconds: int) -> None:
    """Show an unchanged scene once a second."""
    for second in range(seconds):
        assert not detector.look(with_noise(scene(), second), float(second)).has_smoke


def show(detector: SmokeDetector, images: list[Pixels], start_s: float) -> list[Look]:
    return [
        detector.look(with_noise(image, 100 + k), start_s + k * CADENCE_S)
        for k, image in enumerate(images)
    ]


def growing_plume(image: Pixels, looks: int = 8) -> list[Pixels]:
    return [veiled(image, 200, 120, 6 + 2 * k, 0.5) for k in range(looks)]


def test_growing_translucent_grey_blob_is_found_where_it_is() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    looks = show(detector, growing_plume(scene()), start_s)
    assert looks[-1].has_smoke
    assert looks[-1].confidence >= 0.5
    plume = Box.from_corners(180 / WIDTH, 100 / HEIGHT, 220 / WIDTH, 140 / HEIGHT)
    assert looks[-1].box is not None
    assert looks[-1].box.iou(plume) > 0.3


def test_smoke_needs_as_many_looks_as_the_settings_say() -> None:
    detector = SmokeDetector(SmokeSettings(confirm_looks=3))
    start_s = quiet(detector, scene())
    looks = show(detector, growing_plume(scene()), start_s)
    assert [look.has_smoke for look in looks[:2]] == [False, False]
    assert looks[1].state is State.SUSPICIOUS
    assert looks[1].confidence < 0.5


def test_every_positive_look_has_a_box_and_no_other_look_has_one() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    for look in show(detector, growing_plume(scene()), start_s):
        assert (look.box is not None) == look.has_smoke


def test_moving_shadow_of_a_cloud_is_not_smoke() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    images = []
    for k in range(12):
        shade = np.ones((HEIGHT, WIDTH, 1), np.float32)
        shade[HORIZON:, 20 * k : 20 * k + 90] = 0.7
        images.append(scene() * cv2.GaussianBlur(shade, (0, 0), 4)[..., None])
    assert not any(look.has_smoke for look in show(detector, images, start_s))


def test_sunlit_patch_is_not_smoke_because_its_contrast_rises() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    images = []
    for k in range(8):
        light = 1 + 0.4 * np.clip(1.5 - np.hypot(xs - 200, ys - 160) / (8 + 2 * k), 0, 1)
        images.append(scene() * light[..., None].astype(np.float32))
    assert not any(look.has_smoke for look in show(detector, images, start_s))


def test_sunlit_patch_of_a_textured_hillside_is_not_smoke_in_a_fast_stream() -> None:
    detector = SmokeDetector()
    quiet_for(detector, 20)
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    for k in range(40):
        light = 1 + 0.6 * np.clip(1.5 - np.hypot(xs - 200, ys - 160) / (8 + k / 2), 0, 1)
        lit = scene() * light[..., None].astype(np.float32)
        assert not detector.look(with_noise(lit, 100 + k), 20.0 + k).has_smoke


def test_dense_plume_with_a_texture_of_its_own_is_found() -> None:
    """Its texture is stronger than the ground's, but another one; and no colour fades."""
    grey = np.repeat(scene().mean(axis=2, keepdims=True), 3, axis=2)
    detector = SmokeDetector()
    for k in range(20):
        detector.look(with_noise(grey, k), float(k))
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    puffs = np.random.default_rng(7).uniform(110, 255, (HEIGHT // 2, WIDTH // 2))
    smoke = cv2.resize(puffs.astype(np.float32), (WIDTH, HEIGHT))[..., None]
    for k in range(20):
        inside = (np.hypot(xs - 200, ys - 150) < 8 + k / 2)[..., None]
        image = np.where(inside, smoke, grey).astype(np.float32)
        look = detector.look(with_noise(image, 100 + k), 20.0 + k)
    assert look.has_smoke


def drifting(at_s: float, px_per_s: float, seed: int) -> Pixels:
    """A soft random pattern, 0 to 1, that moves sideways: (HEIGHT, WIDTH, 1)."""
    coarse = np.random.default_rng(seed).uniform(0, 1, (10, 40)).astype(np.float32)
    wide = cv2.resize(coarse, (4 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    start = round(px_per_s * at_s)
    pattern: Pixels = np.clip(wide[:, start : start + WIDTH, None] * 2 - 0.5, 0, 1)
    return pattern


def distant(image: Pixels) -> Pixels:
    """Hills so far away that nearly all of their texture is gone."""
    plain = image.copy()
    plain[HORIZON:] = cv2.GaussianBlur(image[HORIZON:], (0, 0), 4)
    return plain


FAST = [(gap_s, seed) for gap_s in (1, 2, 5) for seed in (1, 2, 3)]


@pytest.mark.parametrize(("gap_s", "seed"), FAST)
def test_drifting_fog_is_not_smoke_in_a_fast_stream(gap_s: int, seed: int) -> None:
    detector = SmokeDetector()
    depth = np.exp(-(((np.arange(HEIGHT) - 150) / 30) ** 2)).astype(np.float32)[:, None, None]
    for at_s in range(0, 90, gap_s):
        veil = 0.6 * depth * drifting(at_s, 0.6, seed)
        image = distant(scene()) * (1 - veil) + 150 * veil
        assert not detector.look(with_noise(image, at_s), float(at_s)).has_smoke


@pytest.mark.parametrize(("gap_s", "seed"), FAST)
def test_drifting_shadows_are_not_smoke_in_a_fast_stream(gap_s: int, seed: int) -> None:
    detector = SmokeDetector()
    for at_s in range(0, 90, gap_s):
        shade = 1 - 0.35 * drifting(at_s, 1.0, seed)
        shade[:HORIZON] = 1
        image = with_noise(distant(scene()) * shade, at_s)
        assert not detector.look(image, float(at_s)).has_smoke


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_plume_is_found_within_twenty_seconds_at_an_irregular_fast_cadence(seed: int) -> None:
    """Looks 1 to 5 s apart, as adaptive sampling gives them; smoke from second 30 on."""
    rng = np.random.default_rng(seed)
    detector = SmokeDetector()
    at_s, found_at = 0.0, None
    while at_s < 60 and found_at is None:
        image = scene() if at_s < 30 else veiled(scene(), 200, 120, 4 + 0.4 * (at_s - 30), 0.6)
        look = detector.look(with_noise(image, round(10 * at_s)), at_s)
        found_at = at_s if look.has_smoke else None
        at_s += float(rng.choice([1.0, 2.0, 5.0]))
    assert found_at is not None
    assert 36 <= found_at <= 50


def test_ten_looks_within_five_seconds_do_not_confirm_a_place() -> None:
    detector = SmokeDetector(SmokeSettings(persist_s=6))
    quiet_for(detector, 20)
    images = [veiled(scene(), 200, 120, 6 + k, 0.6) for k in range(10)]
    for k, image in enumerate(images):
        assert not detector.look(with_noise(image, 100 + k), 20 + k / 2).has_smoke


def test_bird_seen_in_one_look_is_not_smoke() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    images = [scene() for _ in range(8)]
    images[3][100:110, 150:165] = 220
    assert not any(look.has_smoke for look in show(detector, images, start_s))


def test_bird_that_flies_through_the_view_is_not_smoke() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    images = [scene() for _ in range(8)]
    for k, image in enumerate(images):
        image[100:108, 20 + 30 * k : 32 + 30 * k] = 220
    assert not any(look.has_smoke for look in show(detector, images, start_s))


def test_cloud_that_drifts_across_the_sky_is_not_smoke() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    images = [veiled(scene(), 20 + 8 * k, 30, 18, 0.6, grey=235) for k in range(20)]
    assert not any(look.has_smoke for look in show(detector, images, start_s))


@pytest.mark.parametrize("gain", [0.6, 0.85, 1.15, 1.3])
def test_exposure_jump_is_not_smoke(gain: float) -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    looks = show(detector, [scene() * gain] * 6, start_s)
    assert not any(look.has_smoke for look in looks)


def test_smoke_is_found_after_an_exposure_jump() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    images = [image * 0.8 for image in growing_plume(scene())]
    assert show(detector, images, start_s)[-1].has_smoke


def shaken(image: Pixels, look: int) -> Pixels:
    dx, dy = np.random.default_rng(look).uniform(-4, 4, 2)
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    moved: Pixels = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    return moved


def test_camera_shake_is_not_smoke() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    images = [shaken(scene(), k) for k in range(12)]
    assert not any(look.has_smoke for look in show(detector, images, start_s))


def test_smoke_is_found_by_a_shaking_camera() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    images = [shaken(image, k) for k, image in enumerate(growing_plume(scene()))]
    assert any(look.has_smoke for look in show(detector, images, start_s))


def test_first_looks_say_no_whatever_they_show() -> None:
    detector = SmokeDetector(SmokeSettings(warmup_looks=5))
    looks = show(detector, growing_plume(scene(), 5), 0.0)
    assert [look.state for look in looks] == [State.WARMING_UP] * 5
    assert not any(look.has_smoke for look in looks)
    assert [look.confidence for look in looks] == [0.0] * 5


def test_fast_stream_warms_up_over_seconds_and_not_over_looks() -> None:
    detector = SmokeDetector(SmokeSettings(warmup_looks=5, warmup_spacing_s=3))
    states = [detector.look(with_noise(scene(), k), float(k)).state for k in range(14)]
    assert states == [State.WARMING_UP] * 13 + [State.CLEAR]


def test_plume_that_grows_over_fifty_looks_of_a_fast_stream_is_found() -> None:
    detector = SmokeDetector()
    for k in range(30):
        assert not detector.look(with_noise(scene(), k), float(k)).has_smoke
    looks = [
        detector.look(with_noise(veiled(scene(), 200, 120, 3 + 0.2 * k, 0.4), 100 + k), 30.0 + k)
        for k in range(50)
    ]
    assert looks[-1].has_smoke


def test_frame_that_arrives_late_does_not_crash() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    assert not detector.look(with_noise(scene(), 50), start_s - 45.0).has_smoke


def test_state_of_one_camera_does_not_leak_to_another() -> None:
    burning, calm = SmokeDetector(), SmokeDetector()
    start_s = quiet(burning, scene(1))
    quiet(calm, scene(2))
    plume, clear = growing_plume(scene(1)), [scene(2)] * 8
    for k in range(8):
        instant = start_s + k * CADENCE_S
        burning_look = burning.look(with_noise(plume[k], 100 + k), instant)
        calm_look = calm.look(with_noise(clear[k], 200 + k), instant)
    assert burning_look.has_smoke
    assert calm_look.state is State.CLEAR


def test_same_looks_give_the_same_answers() -> None:
    answers = []
    for _ in range(2):
        detector = SmokeDetector()
        start_s = quiet(detector, scene())
        answers.append(show(detector, growing_plume(scene()), start_s))
    assert answers[0] == answers[1]


def test_smoke_is_found_although_the_resolution_halves_in_mid_stream() -> None:
    detector = SmokeDetector()
    large = [cv2.resize(i, (2 * WIDTH, 2 * HEIGHT)) for i in (scene(), *growing_plume(scene()))]
    start_s = quiet(detector, large[0])
    looks = show(detector, [*large[1:3], *growing_plume(scene())[2:]], start_s)
    assert looks[-1].has_smoke


def test_new_aspect_ratio_is_learnt_anew() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    look = detector.look(with_noise(scene()[:180], 0), start_s)
    assert look.state is State.WARMING_UP


def test_another_view_is_no_smoke_and_is_learnt_anew() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene(1))
    elsewhere = cv2.flip(scene(2), 0)
    looks = show(detector, [elsewhere] * 12, start_s)
    assert looks[0].state is State.DISTURBED
    assert State.WARMING_UP in {look.state for look in looks}
    assert looks[-1].state is State.CLEAR
    assert not any(look.has_smoke for look in looks)


def test_night_falls_without_an_alarm() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    images = [scene() * max(0.05, 0.9**k) for k in range(30)]
    assert not any(look.has_smoke for look in show(detector, images, start_s))


def test_camera_that_returns_after_hours_is_learnt_anew() -> None:
    detector = SmokeDetector(SmokeSettings(stale_s=1800))
    start_s = quiet(detector, scene())
    assert detector.look(with_noise(scene(), 0), start_s + 2000).state is State.WARMING_UP


def test_short_outage_keeps_what_was_learnt() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    looks = show(detector, growing_plume(scene()), start_s + 600)
    assert looks[-1].has_smoke


def test_lasting_change_does_not_alarm_for_ever() -> None:
    settings = SmokeSettings(hold_s=300)
    detector = SmokeDetector(settings)
    start_s = quiet(detector, scene())
    images = growing_plume(scene())
    looks = show(detector, images + [images[-1]] * 80, start_s)
    assert looks[8].has_smoke
    assert not any(look.has_smoke for look in looks[-10:])


def test_slowly_growing_plume_is_not_absorbed() -> None:
    detector = SmokeDetector()
    start_s = quiet(detector, scene())
    images = [veiled(scene(), 200, 120, 5 + 0.25 * k, 0.2 + 0.005 * k) for k in range(60)]
    looks = show(detector, images, start_s)
    assert looks[-1].has_smoke


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
    ],
)
def test_what_is_no_bgr_image_is_refused(image: Pixels) -> None:
    with pytest.raises(ValueError, match="BGR"):
        SmokeDetector().look(image, 0.0)


@pytest.mark.parametrize("size", [(1, 1), (3, 640), (640, 3), (17, 23)])
def test_odd_sizes_do_not_crash(size: tuple[int, int]) -> None:
    detector = SmokeDetector()
    for k in range(8):
        assert not detector.look(np.full((*size, 3), 100, np.uint8), 10.0 * k).has_smoke


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        SmokeSettings(background_looks=8)
    with pytest.raises(ValueError, match="extent_z"):
        SmokeSettings(extent_z=6, seed_z=5)


def test_at_least_four_of_five_real_fires_are_located(real_data: Path) -> None:
    alarms = [judged(sequence, SmokeSettings())[0] for sequence in positives(real_data)]
    assert sum(alarm is not None and alarm.located for alarm in alarms) >= 4


def test_fast_plume_is_found_within_three_frames_of_its_first_box(real_data: Path) -> None:
    (sequence,) = (s for s in positives(real_data) if "smer" in s.name)
    alarm, _ = judged(sequence, SmokeSettings())
    assert alarm is not None
    assert alarm.frame is not None
    assert sequence.first_box is not None
    assert alarm.frame - sequence.first_box <= 3


def test_at_most_one_false_alarm_before_onset_and_on_negatives(real_data: Path) -> None:
    sequences = (*positives(real_data), *negatives(real_data))
    assert sum(judged(sequence, SmokeSettings())[1] for sequence in sequences) <= 1
