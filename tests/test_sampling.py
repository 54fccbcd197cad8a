"""When a camera's next frame matters."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from earlyfire_stream.sampling import CameraSampling, ChangeDetector, Load, interval, wants
from earlyfire_stream.scenario.models import Sampling
from earlyfire_stream.verdict import Reason

ADAPTIVE = Sampling(idle=5, suspect=1, slowest=60, hold=15)
FIXED = Sampling(policy="fixed", idle=5)
EVERY = Sampling(policy="every")
FREE = Load(cameras=1, looks_per_s=None)


@pytest.mark.parametrize(
    ("settings", "suspicious", "load", "seconds"),
    [
        (ADAPTIVE, False, FREE, 5),
        (ADAPTIVE, True, FREE, 1),
        (ADAPTIVE, False, Load(10, 4.0), 5),  # 10 / 4 = 2.5 s: less than idle
        (ADAPTIVE, False, Load(200, 4.0), 50),
        (ADAPTIVE, False, Load(400, 4.0), 60),  # 100 s: no camera waits longer than slowest
        (ADAPTIVE, False, Load(10, 0.0), 60),
        (ADAPTIVE, True, Load(200, 4.0, spare=0.1), 1),
        (ADAPTIVE, True, Load(200, 4.0, spare=0.09), 50),
        (ADAPTIVE, True, Load(200, 4.0, spare=-0.5), 50),
        (ADAPTIVE, True, Load(10, None, spare=0.0), 5),
        (FIXED, False, Load(200, 4.0), 5),
        (FIXED, True, FREE, 5),
        (EVERY, False, Load(200, 4.0), 0),
        (EVERY, True, FREE, 0),
    ],
)
def test_the_interval_follows_policy_suspicion_and_load(
    settings: Sampling, suspicious: bool, load: Load, seconds: float
) -> None:
    assert interval(settings, suspicious, load) == seconds


def looks(settings: Sampling, frames: list[float], load: Load = FREE) -> list[float]:
    """The instants of those frames that are wanted, each of them then looked at."""
    state, wanted = CameraSampling(), []
    for at in frames:
        if wants(state, settings, at, load) is None:
            state.last_look_at = at
            wanted.append(at)
    return wanted


def test_on_a_grid_of_one_second_every_fifth_frame_is_looked_at() -> None:
    assert looks(FIXED, [float(n) for n in range(16)]) == [0, 5, 10, 15]


def test_on_a_grid_that_does_not_divide_the_interval_the_next_frame_is() -> None:
    assert looks(FIXED, [2.0 * n for n in range(10)]) == [0, 6, 12, 18]


def test_the_rounding_of_a_frame_grid_does_not_cost_a_whole_interval() -> None:
    grid = [round(n / 30, 6) for n in range(30 * 20)]
    assert looks(FIXED, grid) == [0, 5, 10, 15]
    early = [0.0, 4.9996, 4.9994 + 4.9996]
    assert looks(FIXED, early) == [0.0, 4.9996]


def test_a_sparser_camera_has_every_frame_looked_at() -> None:
    assert looks(FIXED, [0.0, 30.0, 60.0]) == [0, 30, 60]


def test_under_load_the_fleet_asks_for_no_more_than_is_served() -> None:
    # 60 cameras at 2 looks/s: each one every 30 s
    assert looks(ADAPTIVE, [float(n) for n in range(91)], Load(60, 2.0)) == [0, 30, 60, 90]


def test_every_looks_at_each_frame_even_at_one_that_comes_late() -> None:
    assert looks(EVERY, [0.0, 60.0, 30.0, 30.0, 90.0]) == [0, 60, 30, 30, 90]


def test_a_frame_that_is_not_wanted_says_whether_idleness_or_load_did_it() -> None:
    state = CameraSampling(last_look_at=0.0)
    assert wants(state, ADAPTIVE, 4.0, FREE) is Reason.IDLE
    assert state.interval_s == 5
    assert wants(state, ADAPTIVE, 7.0, Load(200, 4.0)) is Reason.LOAD
    assert state.interval_s == 50
    assert wants(state, ADAPTIVE, 7.0, FREE) is None


def test_suspicion_holds_for_its_time_and_is_renewed() -> None:
    state = CameraSampling(last_look_at=10.0)
    state.suspect(10.0, ADAPTIVE)
    assert wants(state, ADAPTIVE, 11.0, FREE) is None
    assert state.interval_s == 1
    assert state.is_suspicious(24.999)
    assert not state.is_suspicious(25.0)
    state.suspect(20.0, ADAPTIVE)
    assert state.is_suspicious(34.999)


def test_an_alarm_ends_the_suspicion_that_led_to_it() -> None:
    state = CameraSampling(last_look_at=10.0)
    state.suspect(10.0, ADAPTIVE)
    state.relax(12.0)
    assert state.is_suspicious(11.9)
    assert not state.is_suspicious(12.0)
    state.relax(30.0)
    assert not state.is_suspicious(12.0)


def test_an_older_suspicion_does_not_shorten_a_newer_one() -> None:
    state = CameraSampling()
    state.suspect(20.0, ADAPTIVE)
    state.suspect(10.0, ADAPTIVE)
    assert state.is_suspicious(34.0)


# --- change ---

SIZE = (180, 320)


def scene(seed: int) -> np.ndarray:
    """A still landscape: smooth structure between 60 and 190."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 190, (6, 8)).astype(np.float32)
    return cv2.resize(coarse, (SIZE[1], SIZE[0]), interpolation=cv2.INTER_CUBIC)


def noisy(image: np.ndarray, rng: np.random.Generator, sigma: float = 4.0) -> np.ndarray:
    return np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


def settled(still: np.ndarray, rng: np.random.Generator) -> ChangeDetector:
    """A detector that has seen a scene for 40 s."""
    detector = ChangeDetector()
    for _ in range(20):
        detector.score(noisy(still, rng))
    return detector


def smoky(still: np.ndarray, radius_px: float, opacity: float = 0.5) -> np.ndarray:
    veil = np.zeros(SIZE, np.float32)
    cv2.circle(veil, (160, 90), round(radius_px), 1.0, -1)
    return still + cv2.GaussianBlur(veil, (0, 0), 1.5) * opacity * (215 - still)


def test_the_first_pictures_score_nothing_whatever_they_show() -> None:
    detector = ChangeDetector()
    pictures = [np.full(SIZE, grey, np.uint8) for grey in (0, 255, 0, 255, 0, 255, 0, 255)]
    pictures[3][40:90, 40:120] = 0
    assert [detector.score(p) for p in pictures] == [0.0] * ChangeDetector.WARM_UP


def test_noise_alone_is_business_as_usual() -> None:
    for seed in range(3):
        rng, detector, still = np.random.default_rng(seed), ChangeDetector(), scene(seed)
        scores = [detector.score(noisy(still, rng)) for _ in range(60)][ChangeDetector.WARM_UP :]
        # the highest of 2304 blocks in each of two pictures
        assert max(scores) < 3.5
        assert np.mean(scores) < 2.5


def test_smoke_of_eight_pixels_raises_suspicion_with_its_second_picture() -> None:
    rng, still = np.random.default_rng(1), scene(1)
    detector = settled(still, rng)
    assert detector.score(noisy(smoky(still, 4), rng)) < Sampling().change
    assert detector.score(noisy(smoky(still, 4), rng)) > Sampling().change


def test_smoke_that_grows_slowly_scores_high_soon_and_for_most_of_a_minute() -> None:
    rng, still = np.random.default_rng(1), scene(1)
    detector = settled(still, rng)
    scores = [detector.score(noisy(smoky(still, 0.5 * step), rng)) for step in range(1, 26)]
    assert min(scores[3:]) > Sampling().change


def test_a_change_of_exposure_over_the_whole_picture_is_no_change() -> None:
    rng, still = np.random.default_rng(2), scene(2)
    detector = settled(still, rng)
    brighter = [detector.score(noisy(still + shift, rng)) for shift in (5, 15, 30, 30, 10, 0)]
    assert max(brighter) < 3.5
    stronger = [detector.score(noisy(still * gain, rng)) for gain in (1.05, 1.1, 1.2, 1.2, 0.9)]
    assert max(stronger) < 3.5


def test_what_is_gone_in_the_next_picture_is_a_bird() -> None:
    rng, still = np.random.default_rng(3), scene(3)
    detector = settled(still, rng)
    for x in (60, 100, 140):
        bird = still.copy()
        bird[100:108, x : x + 10] = 255
        assert detector.score(noisy(bird, rng)) < 3.5
        assert detector.score(noisy(still, rng)) < 3.5


def test_what_came_to_stay_belongs_to_the_background_in_the_end() -> None:
    rng, still = np.random.default_rng(5), scene(5)
    detector = settled(still, rng)
    scores = [detector.score(noisy(smoky(still, 8, 0.2), rng)) for _ in range(200)]
    assert scores[5] > Sampling().change
    assert max(scores[-50:]) < 3.5


def test_motion_that_always_goes_on_raises_its_own_yardstick() -> None:
    rng, detector, still = np.random.default_rng(4), ChangeDetector(), scene(4)
    scores = []
    for _ in range(150):
        moving = still.copy()
        moving[:60] += np.kron(rng.uniform(-40, 40, (3, 8)), np.ones((20, 40))).astype(np.float32)
        scores.append(detector.score(noisy(moving, rng)))
    assert np.median(scores[-40:]) < Sampling().change


def test_pictures_of_any_size_are_scored() -> None:
    for shape in ((1, 1), (2, 300), (9, 16), (2160, 3840)):
        detector = ChangeDetector()
        assert [detector.score(np.zeros(shape, np.uint8)) for _ in range(10)] == [0.0] * 10
