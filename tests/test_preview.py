"""The contact sheet: which instants it shows, and that truth and trouble can be seen in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.models import Camera, Fire
from earlyfire_stream.sources.optics import encode
from earlyfire_stream.sources.preview import contact_sheet, instants

FIRE = (255, 159, 28)


def folder(base: Path, count: int = 9) -> None:
    (base / "frames").mkdir()
    (base / "labels").mkdir()
    for i in range(count):
        image = np.full((90, 160, 3), 60 + 10 * i, np.uint8)
        (base / "frames" / f"{i}.jpg").write_bytes(encode(image, 90))
        (base / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.4 0.4\n" if i > 4 else "")


def camera(**settings: Any) -> Camera:
    source = {"kind": "images", "path": "frames", "labels": "labels", "interval": 60}
    fires = [{"id": "oak", "onset": 240}]
    return Camera.model_validate({"id": "north", "source": source, "fires": fires} | settings)


def sheet_of(png: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Pillow.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def pixels_of(sheet: np.ndarray[Any, np.dtype[np.uint8]], colour: tuple[int, int, int]) -> int:
    return int((sheet == colour).all(axis=2).sum())


def test_a_third_of_the_frames_lies_before_the_onset_which_is_always_among_them() -> None:
    fire = Fire(id="oak", onset=240)
    assert instants(600, [fire], None, 6) == [0, 120, 240, 330, 420, 510]
    assert instants(600, [], None, 4) == [0, 150, 300, 450]
    assert instants(600, [Fire(id="oak", onset=0)], None, 3) == [0, 200, 400]


def test_a_source_with_times_of_its_own_is_asked_at_these_and_shows_the_first_frame_of_smoke() -> (
    None
):
    fire = Fire(id="oak", onset=230)
    assert instants(540, [fire], [60.0 * i for i in range(9)], 6) == [0, 60, 240, 300, 360, 420]


def test_the_truth_can_be_seen_and_leaves_the_sheet_with_the_fire(tmp_path: Path) -> None:
    folder(tmp_path)
    with_fire = sheet_of(contact_sheet([camera()], tmp_path, 0, width=900))
    unknown = camera(truth=False, fires=[])
    without = sheet_of(contact_sheet([unknown], tmp_path, 0, width=900))
    assert with_fire.shape[1] == 900
    assert pixels_of(with_fire, FIRE) > 500
    assert pixels_of(without, FIRE) == 0


def test_progress_counts_the_frames_and_ends_at_all_of_them(tmp_path: Path) -> None:
    folder(tmp_path)
    told: list[tuple[int, int]] = []
    contact_sheet(
        [camera()], tmp_path, 0, width=900, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6), (6, 6)]


def test_of_a_large_fleet_the_first_cameras_are_shown(tmp_path: Path) -> None:
    folder(tmp_path)
    fleet = [camera(id=f"c{i}") for i in range(5)]
    two = sheet_of(contact_sheet(fleet, tmp_path, 0, width=900, max_cameras=2))
    one = sheet_of(contact_sheet(fleet[:1], tmp_path, 0, width=900))
    assert two.shape[0] < 2.6 * one.shape[0]


def test_a_live_camera_has_a_row_and_is_not_connected() -> None:
    live = Camera.model_validate({"id": "gate", "source": {"kind": "stream", "url": "rtsp://h/1"}})
    assert sheet_of(contact_sheet([live], Path(), 0, width=900)).shape[0] < 150


def test_a_lost_frame_is_shown_as_lost(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "frames" / "0.jpg").write_bytes(b"")
    sheet = sheet_of(contact_sheet([camera()], tmp_path, 0, width=900))
    assert pixels_of(sheet, (239, 83, 80)) > 20


def test_a_camera_that_cannot_be_opened_stops_the_sheet(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        contact_sheet([camera()], tmp_path, 0)


def test_too_many_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        contact_sheet([camera()], tmp_path, 0, columns=40, width=900)
