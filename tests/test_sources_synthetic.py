"""The synthetic scene as a camera's source: size, seed, truth."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources.base import Source
from earlyfire_stream.sources.open import open_source


def opened(seed: int = 3, **settings: Any) -> Source:
    source = {"kind": "synthetic", "size": [320, 240]} | settings.pop("source", {})
    camera = Camera.model_validate({"id": "cam", "source": source} | settings)
    # As the process that makes the pictures gets it.
    return open_source(pickle.loads(pickle.dumps(camera)), Path(), seed)


def shape_of(source: Source) -> tuple[int, ...]:
    picture = next(source.pictures([0]))
    assert picture is not None
    image = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    return tuple(image.shape[:2])


def test_it_can_be_asked_at_any_instant_and_never_ends() -> None:
    source = opened()
    assert (source.native_times, source.ends_at) == (None, None)
    assert all(p is not None for p in source.pictures([0, 0.1, 86_400]))


def test_a_height_is_rendered_and_not_scaled_up() -> None:
    assert shape_of(opened(perturb={"height": 480})) == (480, 640)
    assert shape_of(opened(perturb={"height": 240, "crop": [0.5, 0.5, 0.5, 0.5]})) == (240, 320)


def test_a_crop_that_would_need_a_huge_rendering_is_refused() -> None:
    with pytest.raises(SourceError, match="crop less"):
        opened(perturb={"height": 2160, "crop": [0.5, 0.5, 0.1, 0.1]})


def test_seed_and_camera_decide_what_it_looks_like_unless_the_source_names_a_seed() -> None:
    def first(source: Source) -> bytes:
        picture = next(source.pictures([0]))
        assert picture is not None
        return picture.jpeg

    assert first(opened(3)) == first(opened(3))
    assert first(opened(3)) != first(opened(4))
    assert first(opened(3)) != first(opened(3, id="other"))
    named = {"source": {"seed": 11}}
    assert first(opened(3, **named)) == first(opened(4, id="other", **named))


def test_before_the_onset_there_is_nothing_and_until_smoke_is_seen_nobody_knows() -> None:
    source = opened(fires=[{"id": "oak", "onset": 60, "plume": {"size": "large"}}])
    before, at = source.label(59.9), source.label(60)
    assert (before.smoke, before.truth, before.boxed) == (False, (), True)
    assert (at.smoke, at.truth, at.boxed) == (None, (), False)
    later = source.label(900)
    assert later.smoke is True
    assert later.truth[0].fire == "oak"
    assert later.boxed
    assert later.truth[0].box is not None


def test_the_label_is_the_same_with_and_without_pixels() -> None:
    source = opened(
        fires=[{"id": "oak", "onset": 10, "plume": {"size": "large"}}],
        perturb={"shake_px": 5, "crop": [0.5, 0.5, 0.9, 0.9]},
    )
    for picture in source.pictures([0, 10, 300, 301.5]):
        assert picture is not None
        assert picture.label == source.label(picture.at)
