from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.scenes import Plume, PlumeSize, Scene, TimeOfDay
from earlyfire_stream.sources.realism import (
    Line,
    Shot,
    SuiteScene,
    compare,
    measure,
    noise_sigma,
    plume_contrast,
    read_sequence,
    table,
)
from earlyfire_stream.verdict import Box

MIDDLE = Box(0.5, 0.5, 0.25, 0.25)


def flat(level: float = 100.0, sigma: float = 0.0, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, (320, 640)) if sigma else 0.0
    return np.full((320, 640), level, np.float32) + np.asarray(noise, np.float32)


def shot(grey: np.ndarray, at_s: float | None, boxes: tuple[Box, ...] = ()) -> Shot:
    return Shot(at_s, grey, boxes, mono=False)


def with_smoke(levels: float) -> np.ndarray:
    grey = flat()
    grey[120:200, 240:400] += levels
    return grey


def test_noise_of_known_size_is_measured() -> None:
    assert noise_sigma(flat(sigma=3.0)) == pytest.approx(3.0, rel=0.12)


def test_a_slope_is_no_noise() -> None:
    ramp = np.tile(np.linspace(0, 200, 640, dtype=np.float32), (320, 1))
    assert noise_sigma(ramp) < 0.01


def test_smoke_of_twenty_levels_has_a_contrast_of_twenty() -> None:
    found = plume_contrast(shot(with_smoke(20.0), 0.0, (MIDDLE,)), flat())
    assert found is not None
    assert found[0] == pytest.approx(20.0)
    assert found[1] == pytest.approx(80.0)  # 20 against the floor of 0.25


def test_smoke_over_the_whole_frame_has_no_ring_to_compare_with() -> None:
    whole = Box(0.5, 0.5, 1.0, 1.0)
    assert plume_contrast(shot(with_smoke(20.0), 0.0, (whole,)), flat()) is None


def test_frames_a_minute_apart_are_compared_and_others_are_not() -> None:
    shots = [shot(flat(100), 0.0), shot(flat(103), 60.0), shot(flat(150), 900.0)]
    assert measure(shots).minute_mean == pytest.approx(3.0)


def test_without_known_times_nothing_is_said_of_change() -> None:
    assert measure([shot(flat(100), None), shot(flat(103), None)]).minute_mean is None


def test_without_a_clear_frame_nothing_is_said_of_smoke() -> None:
    assert measure([shot(with_smoke(9.0), 0.0, (MIDDLE,))]).plume_levels is None


def test_no_frame_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="no frame"):
        measure([])


def test_a_grey_frame_is_mono_and_a_blue_one_is_not() -> None:
    grey = np.full((60, 80, 3), 90, np.uint8)
    blue = grey.copy()
    blue[..., 0] = 200
    assert Shot.of(grey, None, ()).mono
    assert not Shot.of(blue, None, ()).mono


def test_a_line_counts_what_lies_within_the_real_range() -> None:
    line = Line("noise", False, real=(1.0, 2.0), synthetic=(0.5, 1.0, 1.5, 3.0))
    assert line.inside == 2
    assert line.median_inside


def test_a_median_outside_the_real_range_is_a_miss() -> None:
    assert not Line("noise", False, real=(1.0, 2.0), synthetic=(2.5, 3.0, 1.5)).median_inside


def test_a_folder_without_sequences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no folder with a meta\.json"):
        compare(tmp_path)


def test_a_broken_list_of_frames_is_named(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SourceError, match="no list of frames"):
        read_sequence(tmp_path)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    entry = {"file": "frames/a.jpg", "epoch": 0, "boxes_yolo": []}
    (tmp_path / "meta.json").write_text(json.dumps({"frame_list": [entry]}), encoding="utf-8")
    with pytest.raises(SourceError, match=r"a\.jpg"):
        read_sequence(tmp_path)


def write_sequence(folder: Path) -> None:
    """Three frames a minute apart; smoke of the class 0 in the last."""
    (folder / "frames").mkdir(parents=True)
    entries = []
    for n in range(3):
        image = np.full((480, 640, 3), (180, 140, 110), np.uint8)
        if n == 2:
            image[180:300, 240:400] += 30
        cv2.imwrite(str(folder / f"frames/{n}.jpg"), image)
        boxes = [[0.0, 0.5, 0.5, 0.25, 0.25]] if n == 2 else []
        entries.append({"file": f"frames/{n}.jpg", "epoch": 60 * n, "boxes_yolo": boxes})
    (folder / "meta.json").write_text(json.dumps({"frame_list": entries}), encoding="utf-8")


def test_a_sequence_is_read_with_its_times_and_boxes(tmp_path: Path) -> None:
    write_sequence(tmp_path / "one")
    shots = read_sequence(tmp_path / "one")
    assert [entry.at_s for entry in shots] == [0.0, 60.0, 120.0]
    assert [entry.boxes for entry in shots] == [(), (), (Box(0.5, 0.5, 0.25, 0.25),)]
    assert shots[0].grey.shape == (960, 1280)


def test_real_and_synthetic_are_laid_side_by_side(tmp_path: Path) -> None:
    write_sequence(tmp_path / "one")
    suite = [
        SuiteScene("a day", Scene(time_of_day=TimeOfDay.DAY), Plume(size=PlumeSize.LARGE), seed=5)
    ]
    comparison = compare(tmp_path, suite, height=480)
    assert {line.name for line in comparison.lines} >= {"noise", "gradient_p90", "minute_mean"}
    console = Console(width=120, record=True, quiet=True)
    console.print(table(comparison))
    assert "a day" in comparison.synthetic
    assert comparison.real["one"].plume_levels == pytest.approx(30, abs=2)
