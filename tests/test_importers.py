"""Datasets of others: what is found in each layout, what is refused, and that all play alike."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from earlyfire_stream import run
from earlyfire_stream.cli import app
from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import ScenarioError, UsageError
from earlyfire_stream.importers import import_dataset
from earlyfire_stream.records import load as load_run
from earlyfire_stream.scenario.fleet import camera_plan, expand
from earlyfire_stream.scenario.load import load, loads
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources.open import open_source
from tests.real_sequences import meta

T0 = 1_465_065_600


def jpeg(path: Path, size: tuple[int, int] = (64, 48), grey: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".jpg", np.full((size[1], size[0], 3), grey, np.uint8))
    assert done
    path.write_bytes(data.tobytes())


def empty(path: Path) -> None:
    """An image of which only the name is looked at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def figlib(root: Path, name: str, offsets: Sequence[int], make: Any = empty) -> Path:
    for offset in offsets:
        make(root / name / f"{T0 + offset}_{offset:+06d}.jpg")
    return root / name


def cameras(base: Path, **settings: Any) -> tuple[Camera, ...]:
    return load(scenario(base, **settings)).scenario.cameras


def scenario(base: Path, *, whole: Mapping[str, Any] | None = None, **settings: Any) -> Path:
    """A scenario file of one dataset, `data` beside it unless `path` says else."""
    entry = {"path": "data", **settings}
    path = base / "s.yaml"
    text = yaml.safe_dump({"earlyfire": 1, "name": "t", "datasets": [entry], **(whole or {})})
    path.write_text(text)
    return path


def problems(base: Path, **settings: Any) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        load(scenario(base, **settings))
    return [f"{p.message} ({p.hint})" for p in caught.value.problems]


def onsets(found: Sequence[Camera]) -> dict[str, float | None]:
    return {c.id: c.fires[0].onset if c.fires else None for c in found}


# --- FIgLib --------------------------------------------------------------------------------------


def test_a_figlib_folder_is_a_camera_whose_fire_begins_at_its_offset_zero(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_rm-n-mobo-c", [-120, -60, 0, 60, 120])
    (only,) = cameras(tmp_path, layout="figlib")
    assert only.id == "20160604_FIRE_rm-n-mobo-c"
    assert only.source.kind == "images"
    assert only.source.path == "data/20160604_FIRE_rm-n-mobo-c"
    (fire,) = only.fires
    assert (fire.id, fire.onset) == ("20160604_FIRE", 120.0)
    assert fire.onset_source == "figlib median(epoch - offset)"


def test_the_plan_of_a_run_says_how_the_onset_is_known(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_rm-n-mobo-c", [-120, -60, 0, 60, 120])
    (only,) = cameras(tmp_path, layout="figlib")
    plan = camera_plan(only, 60.0)
    assert plan.cadence_s == 60.0
    assert plan.fires[0].onset_source == "figlib median(epoch - offset)"


def test_the_onset_is_the_median_where_one_name_is_a_second_off(tmp_path: Path) -> None:
    folder = figlib(tmp_path / "data", "20160604_FIRE_a", [-120, -60, 0, 60])
    empty(folder / f"{T0 + 121}_+00120.jpg")
    (only,) = cameras(tmp_path, layout="figlib")
    assert only.fires[0].onset == 120.0


def test_offset_zero_can_count_as_without_smoke(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [-60, 0, 60])
    (only,) = cameras(tmp_path, layout="figlib", onset_shift="1s")
    assert only.fires[0].onset == 61.0
    assert only.fires[0].onset_source == "figlib median(epoch - offset), +1 s"


def test_names_without_zeros_and_with_suffixes_are_read(tmp_path: Path) -> None:
    data = tmp_path / "data" / "20160604_FIRE_a"
    for name in (f"{T0 - 60}_-60.jpg", f"{T0}_+0.JPG", f"{T0 + 60}_+60_img.jpeg"):
        empty(data / name)
    (only,) = cameras(tmp_path, layout="figlib")
    assert only.fires[0].onset == 60.0


def test_a_sequence_that_ends_before_ignition_has_no_fire(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [-240, -180, -120])
    assert onsets(cameras(tmp_path, layout="figlib")) == {"20160604_FIRE_a": None}


def test_a_sequence_that_begins_in_smoke_begins_its_fire_with_the_clip(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [30, 90, 150])
    (only,) = cameras(tmp_path, layout="figlib")
    assert only.fires[0].onset == 0.0
    assert only.fires[0].onset_source == "clip start, 30 s after figlib's ignition"


def test_a_double_gap_passes_and_a_longer_one_must_be_declared(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_double", [-120, -60, 60, 120, 180])
    figlib(tmp_path / "data", "20160605_FIRE_hole", [-120, -60, 0, 300, 360], make=jpeg)
    (said,) = problems(tmp_path, layout="figlib")
    assert said.startswith(f"20160605_FIRE_hole/{T0}_+00000.jpg: 300 s to the next image")
    assert "the usual gap being 60 s (write gaps: accept if that is as it should be" in said
    taken = cameras(tmp_path, layout="figlib", gaps="accept")
    assert onsets(taken) == {"20160604_FIRE_double": 120.0, "20160605_FIRE_hole": 120.0}
    source = open_source(taken[1], tmp_path, 0)
    assert source.native_times == (0.0, 60.0, 120.0, 420.0, 480.0)
    assert source.cadence_s == 60.0


def test_a_hole_that_no_source_would_play_is_played_once_accepted(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160605_FIRE_hole", [-120, -60, 0, 3000], make=jpeg)
    (taken,) = cameras(tmp_path, layout="figlib", gaps="accept")
    assert open_source(taken, tmp_path, 0).native_times == (0.0, 60.0, 120.0, 3120.0)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([(0, 0), (60, 60), (60, 120)], "taken at the same instant as"),
        ([(0, 60), (60, 0), (120, 120)], "its epoch is later and its offset is not"),
        ([(0, 0), (60, 60), (120, 600)], "put ignition 480 s away from where the others put it"),
        ([(0, 0)], "one image only; a recording needs two"),
        ([(0, 0), (9000, 9000)], "lie 9000 s apart, which is no camera's cadence"),
    ],
)
def test_clocks_that_cannot_be_right_are_refused_by_name(
    tmp_path: Path, names: list[tuple[int, int]], said: str
) -> None:
    for epoch, offset in names:
        empty(tmp_path / "data" / "20160604_FIRE_a" / f"{T0 + epoch}_{offset:+06d}.jpg")
    (only,) = problems(tmp_path, layout="figlib")
    assert said in only
    assert only.startswith("20160604_FIRE_a")


def test_an_image_with_another_name_is_refused_where_it_lies(tmp_path: Path) -> None:
    folder = figlib(tmp_path / "data", "20160604_FIRE_a", [0, 60])
    empty(folder / "thumbnail.jpg")
    (said,) = problems(tmp_path, layout="figlib")
    assert said.startswith("20160604_FIRE_a/thumbnail.jpg: is no FIgLib name (1 of 3 images)")


def test_a_folder_without_a_recording_says_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert problems(tmp_path, layout="figlib") == [
        "'data': no recording in it (a folder of folders such as 20160604_FIRE_rm-n-mobo-c with "
        "1465063200_-02400.jpg)"
    ]


def test_a_dataset_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"line 2: datasets\[0\]: 'data' is not there"):
        load(scenario(tmp_path, layout="figlib"))


def test_an_unknown_layout_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, layout="figbil")
    assert said == "'figbil' is not known (did you mean figlib?)"


def test_a_setting_that_the_layout_does_not_have_is_refused(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, layout="figlib", interval="30s")
    assert said == "has no meaning for figlib (it takes gaps)"


@pytest.mark.parametrize("setting", [{"onsets": "a\0b"}, {"only": ["a\0.txt"]}, {"path": "\0"}])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, setting: dict[str, Any]) -> None:
    (tmp_path / "data").mkdir()
    (said,) = problems(tmp_path, layout="yolo", **setting)
    assert said.startswith(f"{next(iter(setting))}: a name with a NUL in it is none")


def test_only_so_many_problems_are_told_and_the_rest_is_counted(tmp_path: Path) -> None:
    for n in range(20):
        figlib(tmp_path / "data", f"201606{n:02}_FIRE_a", [0])
    said = problems(tmp_path, layout="figlib")
    assert len(said) == 13
    assert any(s.startswith("and 8 more recordings like these") for s in said)


# --- many of them --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 fires of three cameras each, names alone."""
    base = tmp_path_factory.mktemp("library")
    for n in range(100):
        for camera in ("a-n-mobo-c", "b-s-mobo-c", "c-iqeye"):
            name = f"2016{n // 28 + 1:02}{n % 28 + 1:02}_FIRE_{camera}"
            figlib(base / "data", name, [-120, -60, 0, 60])
    return base


def test_hundreds_of_recordings_are_one_entry_and_always_the_same_cameras(library: Path) -> None:
    found = cameras(library, layout="figlib")
    assert len(found) == 300
    assert found == cameras(library, layout="figlib")
    assert len({c.fires[0].id for c in found}) == 100
    assert [c.id for c in found] == sorted(c.id for c in found)


def test_a_fire_lies_in_one_share_of_a_split_with_all_its_cameras(library: Path) -> None:
    train = cameras(library, layout="figlib", split="train:0.8")
    test = cameras(library, layout="figlib", split="test:0.2")
    assert len(train) + len(test) == 300
    fires = [{c.fires[0].id for c in part} for part in (train, test)]
    assert not fires[0] & fires[1]
    assert [len(part) for part in (train, test)] == [3 * len(part) for part in fires]
    assert 70 <= len(fires[0]) <= 90


def test_the_parts_of_a_fleet_are_whole_and_apart_by_fire(library: Path) -> None:
    path = scenario(library, layout="figlib")
    parts = [load(path, shard=(k, 4)).scenario.cameras for k in range(4)]
    assert sorted(c.id for part in parts for c in part) == [
        c.id for c in load(path).scenario.cameras
    ]
    fires = [{c.fires[0].id for c in part} for part in parts]
    assert sum(map(len, fires)) == 100
    assert min(map(len, fires)) >= 15


def test_parts_of_a_fleet_of_plain_cameras_keep_their_seeds() -> None:
    fleet = {"id": "a", "count": 30, "source": {"kind": "synthetic"}}
    text = json.dumps({"earlyfire": 1, "name": "t", "duration": 9, "cameras": [fleet]})
    whole = {c.id: c.source for c in expand(loads(text).scenario)}
    parts = [expand(loads(text, shard=(k, 3)).scenario) for k in range(3)]
    assert {c.id: c.source for part in parts for c in part} == whole


def test_a_part_without_a_camera_is_refused(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [0, 60])
    path = scenario(tmp_path, layout="figlib")
    refused = 0
    for k in range(20):
        try:
            assert len(load(path, shard=(k, 20)).scenario.cameras) == 1
        except UsageError:
            refused += 1
    assert refused == 19


def test_recordings_in_turn_never_overlap_in_their_lane(library: Path) -> None:
    found = cameras(library, layout="figlib", at_once=4)
    begins = sorted(c.phase for c in found if c.phase is not None)
    assert len(begins) == 300
    # four frames 60 s apart, 240 s with the last one; lanes begin a quarter of a cadence apart
    assert begins[:5] == [0.0, 15.0, 30.0, 45.0, 240.0]
    for at in range(0, int(begins[-1]), 500):
        assert sum(b <= at < b + 240 for b in begins) <= 4


def test_names_patterns_and_lists_choose_recordings(library: Path) -> None:
    (library / "list.txt").write_text(
        "# FIgLib's own lists name images\n20160101_FIRE_a-n-mobo-c/1465065540_-00060\nnot-here\n"
    )
    taken = cameras(library, layout="figlib", only=["list.txt"])
    assert [c.id for c in taken] == ["20160101_FIRE_a-n-mobo-c"]
    left = cameras(library, layout="figlib", skip=["*_a-n-mobo-c", "20160101_FIRE_c-iqeye"])
    assert len(left) == 199


def test_a_name_that_leaves_nothing_out_is_a_slip_of_the_pen(library: Path) -> None:
    assert problems(library, layout="figlib", skip=["20990101_FIRE_a"]) == [
        "'20990101_FIRE_a' in only or skip names no recording (mend or remove it)"
    ]


def test_ids_are_valid_and_differ_where_folders_have_the_same_name(tmp_path: Path) -> None:
    for place in ("one/Fire näher!", "two/Fire näher!", "one/" + "x" * 80):
        figlib(tmp_path / "data", place, [0, 60])
    ids = [c.id for c in cameras(tmp_path, layout="figlib")]
    assert len(set(ids)) == 3
    assert all(len(i) <= 64 for i in ids)
    assert ids == [c.id for c in cameras(tmp_path, layout="figlib")]


def test_two_datasets_with_the_same_names_need_a_prefix(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [0, 60])
    entry = {"layout": "figlib", "path": "data"}
    twice = {"earlyfire": 1, "name": "t", "datasets": [entry, entry]}
    with pytest.raises(ScenarioError, match="is a camera already \\(tell them apart with prefix"):
        loads(json.dumps(twice), base=tmp_path)
    apart = {**twice, "datasets": [entry, {**entry, "prefix": "b"}]}
    found = loads(json.dumps(apart), base=tmp_path).scenario.cameras
    assert [c.id for c in found] == ["20160604_FIRE_a", "b-20160604_FIRE_a"]


def test_a_run_that_ends_before_a_fire_begins_is_refused(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [-120, -60, 0])
    with pytest.raises(ScenarioError) as caught:
        load(scenario(tmp_path, layout="figlib", whole={"duration": 100}))
    assert "camera 20160604_FIRE_a: fires[0].onset: fire 20160604_FIRE begins at 120 s" in str(
        caught.value
    )


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [0, 60])
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    assert len(cameras(tmp_path, layout="figlib")) == 1


# --- Pyronear ------------------------------------------------------------------------------------


def pyronear(base: Path, place: str, labels: Sequence[str | None]) -> None:
    """Names 7 s apart, as in the published data; None: no label file."""
    for n, text in enumerate(labels):
        stem = f"{place.rsplit('/', 1)[-1]}_2023-05-01T10-00-{n * 7:02}"
        empty(base / "data" / place / "images" / f"{stem}.jpg")
        path = base / "data" / place / "labels" / f"{stem}.txt"
        path.parent.mkdir(exist_ok=True)
        if text is not None:
            path.write_text(text)


BOX = "0 0.5 0.5 0.1 0.1\n"


def test_pyronear_runs_at_thirty_seconds_by_index_whatever_the_names_say(tmp_path: Path) -> None:
    pyronear(tmp_path, "test/wildfire/pyro_brison_999_2023-05-01T10-00-00", ["", "", BOX, BOX])
    pyronear(tmp_path, "test/fp/pyro_brison_200_2023-05-02T10-00-00", [BOX, BOX])
    quiet, fire = cameras(tmp_path, layout="pyronear")
    assert fire.source.kind == quiet.source.kind == "images"
    assert fire.source.interval == quiet.source.interval == 30.0
    assert fire.fires[0].onset == 60.0
    assert fire.fires[0].onset_source == "first labelled frame"
    assert not quiet.fires
    assert quiet.source.labels is None


def test_a_pyronear_fire_that_nobody_labelled_begins_with_its_clip(tmp_path: Path) -> None:
    pyronear(tmp_path, "train/wildfire/pyro_brison_999_2023-05-01T10-00-00", ["", ""])
    (fire,) = cameras(tmp_path, layout="pyronear")
    assert fire.fires[0].onset == 0.0
    assert fire.fires[0].onset_source == "clip start (no frame is labelled)"


def test_pyronear_splits_are_folders_and_a_camera_day_is_one_fire(tmp_path: Path) -> None:
    for part, name in (
        ("train", "pyro_a_999_2023-05-01T10-00-00"),
        ("train", "pyro_a_120_2023-05-01T15-00-00"),
        ("val", "pyro_b_999_2023-05-01T10-00-00"),
    ):
        pyronear(tmp_path, f"{part}/wildfire/{name}", [BOX, BOX])
    train = cameras(tmp_path, layout="pyronear", split="train")
    assert [c.fires[0].id for c in train] == ["pyro_a_2023-05-01"] * 2
    assert len(cameras(tmp_path, layout="pyronear", split="val")) == 1
    assert len(cameras(tmp_path, layout="pyronear")) == 3


def test_a_missing_label_is_refused_or_declared_empty(tmp_path: Path) -> None:
    pyronear(tmp_path, "val/wildfire/pyro_a_999_2023-05-01T10-00-00", ["", BOX, None])
    (said,) = problems(tmp_path, layout="pyronear")
    assert "no label file in val/wildfire/pyro_a_999_2023-05-01T10-00-00/labels (1 of 3" in said
    (taken,) = cameras(tmp_path, layout="pyronear", unlabelled="empty")
    assert taken.fires[0].onset == 30.0


# --- SAI -----------------------------------------------------------------------------------------


def sai(base: Path, name: str, labels: Sequence[str | None]) -> None:
    for n, text in enumerate(labels):
        jpeg(base / "data" / name / f"{n}.jpg")
        if text is not None:
            (base / "data" / name / f"{n}.txt").write_text(text)


def test_sai_folders_decide_unless_a_label_file_does(tmp_path: Path) -> None:
    sai(tmp_path, "sec01-1", [None, None])
    sai(tmp_path, "sec02-1", ["", "", BOX])
    sai(tmp_path, "sec03-0", [None, None])
    sai(tmp_path, "sec04-0", [None, BOX])
    found = cameras(tmp_path, layout="sai", interval="10s")
    assert onsets(found) == {"sec01-1": 0.0, "sec02-1": 20.0, "sec03-0": None, "sec04-0": 10.0}
    assert found[0].fires[0].onset_source == "sai folder -1, first frame without a label"
    smoke = [[open_source(c, tmp_path, 0).label(at).smoke for at in (0.0, 10.0)] for c in found]
    assert smoke == [[True, True], [False, False], [False, False], [False, True]]


def test_both_folders_of_a_sai_section_fall_into_the_same_share(tmp_path: Path) -> None:
    for n in range(20):
        sai(tmp_path, f"sec{n:02}-1", [None])
        sai(tmp_path, f"sec{n:02}-0", [None])
    train = cameras(tmp_path, layout="sai", interval="10s", split="train:0.5")
    sections = [c.id.partition("-")[0] for c in train]
    assert all(sections.count(s) == 2 for s in sections)


def test_sai_needs_an_interval_and_names_of_its_own(tmp_path: Path) -> None:
    sai(tmp_path, "section", [None])
    (said,) = problems(tmp_path, layout="sai")
    assert said.startswith("is missing: the names do not say when an image was taken")
    (said,) = problems(tmp_path, layout="sai", interval="10s")
    assert said == "section: is no SAI name (sec12-1 or sec12-0 is needed)"


def test_what_is_no_sai_section_can_be_left_out(tmp_path: Path) -> None:
    sai(tmp_path, "sec01-1", [None])
    sai(tmp_path, "section", [None])
    (tmp_path / "data" / "sec02-0").mkdir()
    assert cameras(tmp_path, layout="sai", interval="1s", skip=["section", "sec02-0"])
    settings = {"layout": "sai", "path": str(tmp_path / "data"), "interval": "10s"}
    done = import_dataset(settings, tmp_path / "out.yaml", skip_broken=True)
    assert [fault.message for fault in done.skipped] == [
        "sec02-0: holds no picture",
        "section: is no SAI name",
    ]


# --- YOLO ----------------------------------------------------------------------------------------


def yolo(base: Path, images: str, labels: str, texts: Sequence[str | None]) -> None:
    for n, text in enumerate(texts):
        jpeg(base / "data" / images / f"{n}.jpg")
        (base / "data" / labels).mkdir(parents=True, exist_ok=True)
        if text is not None:
            (base / "data" / labels / f"{n}.txt").write_text(text)


def test_a_yolo_recording_begins_its_fire_with_the_first_labelled_frame(tmp_path: Path) -> None:
    yolo(tmp_path, "north/images", "north/labels", ["", "1 0.5 0.5 0.1 0.1\n", BOX])
    (only,) = cameras(tmp_path, layout="yolo", interval="20s")
    assert only.id == "north"
    assert onsets([only]) == {"north": 40.0}
    assert open_source(only, tmp_path, 0).label(40.0).boxed


def test_the_yolo_folders_of_training_tools_are_found(tmp_path: Path) -> None:
    yolo(tmp_path, "images/train", "labels/train", [BOX])
    yolo(tmp_path, "images/val", "labels/val", [BOX, ""])
    (only,) = cameras(tmp_path, layout="yolo", split="val")
    assert only.source.kind == "stills"
    assert only.source.labels == "data/labels/val"


def test_yolo_images_without_a_clock_are_stills_for_frame_metrics(tmp_path: Path) -> None:
    yolo(tmp_path, "images", "labels", [BOX, ""])
    (only,) = cameras(tmp_path, layout="yolo")
    assert only.source.kind == "stills"
    assert not only.fires
    source = open_source(only, tmp_path, 0)
    assert sorted(bool(source.label(float(at)).smoke) for at in range(2)) == [False, True]


def test_a_broken_label_line_is_named_before_anything_is_written(tmp_path: Path) -> None:
    yolo(tmp_path, "north/images", "north/labels", [BOX, "0 0.5 0.5 7\n"])
    with pytest.raises(UsageError) as caught:
        import_dataset(
            {"layout": "yolo", "path": str(tmp_path / "data"), "interval": "20s"},
            tmp_path / "out.yaml",
        )
    assert "north/labels/1.txt:1: 4 numbers" in str(caught.value)
    assert not (tmp_path / "out.yaml").exists()


def test_boxes_of_another_class_alone_are_pointed_out(tmp_path: Path) -> None:
    yolo(tmp_path, "north/images", "north/labels", ["", "1 0.5 0.5 0.1 0.1\n" * 2, "2 .5 .5 1 1\n"])
    settings = {"layout": "yolo", "path": str(tmp_path / "data"), "interval": "20s"}
    said = "no box is of the class that is smoke; they are of 1 (2), 2 (1): --smoke-class"
    assert said in import_dataset(settings, tmp_path / "out.yaml").told
    told = import_dataset({**settings, "smoke_class": 1}, tmp_path / "other.yaml").told
    assert not any("no box" in line for line in told)


def test_onsets_may_come_from_a_table_of_the_users_own(tmp_path: Path) -> None:
    for name in ("north", "south"):
        yolo(tmp_path, f"{name}/images", f"{name}/labels", ["", BOX, BOX])
    (tmp_path / "on.csv").write_text("name,onset,end\nnorth,10s,\nsouth,,\n")
    found = cameras(tmp_path, layout="yolo", interval="20s", onsets="on.csv", only=["north"])
    assert onsets(found) == {"north": 10.0}
    assert found[0].fires[0].onset_source == "given by the user (on.csv)"
    (tmp_path / "on.csv").write_text("name,onset\nnorth,10s\nsouht,1\n")
    said = problems(tmp_path, layout="yolo", interval="20s", onsets="on.csv")
    assert said == ["on.csv: 'souht' names no recording (mend or remove it)"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file,onset\nnorth,1\n", "has no column name (line 1 names them: name,onset)"),
        ("name,onset\nnorth,soon\n", "on.csv:2: 'soon' is no duration"),
        ("name,onset\nnorth,1\nnorth,2\n", "on.csv:3: 'north' stands there twice"),
        ("name,onset,end\nnorth,9,5\n", "onset must not lie before 0 and end must come after it"),
        ("name,onset\nnorth,90m\n", "its onset at 5400 s lies behind its end at 60 s"),
    ],
)
def test_a_wrong_table_of_onsets_is_named_with_its_line(
    tmp_path: Path, table: str, said: str
) -> None:
    yolo(tmp_path, "north/images", "north/labels", ["", BOX, BOX])
    (tmp_path / "on.csv").write_text(table)
    (only,) = problems(tmp_path, layout="yolo", interval="20s", onsets="on.csv")
    assert said in only


def test_yolo_images_without_labels_are_refused_unless_nothing_burns_in_them(
    tmp_path: Path,
) -> None:
    jpeg(tmp_path / "data" / "north" / "1.jpg")
    (said,) = problems(tmp_path, layout="yolo", interval="20s")
    assert said.startswith("north: no labels folder beside its images")
    (tmp_path / "data" / "north" / "labels").mkdir()
    (quiet,) = cameras(tmp_path, layout="yolo", interval="20s", unlabelled="empty")
    assert not quiet.fires


def test_a_folder_of_other_pictures_is_told_which_are_played(tmp_path: Path) -> None:
    empty(tmp_path / "data" / "images" / "1.tiff")
    (said,) = problems(tmp_path, layout="yolo", interval="20s")
    assert said.endswith(
        "no recording in it (a folder with images (.bmp, .jpe, .jpeg, .jpg, .png, .webp), and "
        "labels beside them)"
    )


def test_masks_beside_frames_are_no_second_recording(tmp_path: Path) -> None:
    yolo(tmp_path, "frames", "labels", ["", BOX])
    jpeg(tmp_path / "data" / "masks" / "1.jpg")
    (said,) = problems(tmp_path, layout="yolo", interval="20s")
    assert said.startswith("masks/1.jpg: its label in labels is that of an image in frames too")
    (only,) = cameras(tmp_path, layout="yolo", interval="20s", skip=["masks"])
    assert onsets([only]) == {"data": 20.0}


# --- COCO ----------------------------------------------------------------------------------------


def coco(base: Path, **changes: Any) -> Path:
    """Three images of 64x48, smoke in the last two; `extra.jpg` is not in the file."""
    for n in range(3):
        jpeg(base / "data" / "images" / "north" / f"{n}.jpg")
    jpeg(base / "data" / "images" / "north" / "extra.jpg")
    whole = {
        "images": [
            {"id": 7 + n, "file_name": f"north/{n}.jpg", "width": 64, "height": 48}
            for n in range(3)
        ],
        "annotations": [
            {"image_id": 8, "category_id": 3, "bbox": [16, 12, 32, 24]},
            {"image_id": 9, "category_id": 3, "bbox": [0, 0, 32, 24]},
            {"image_id": 7, "category_id": 4, "bbox": [0, 0, 32, 24]},
        ],
        "categories": [{"id": 3, "name": "smoke"}, {"id": 4, "name": "cloud"}],
        **changes,
    }
    path = base / "data" / "all.json"
    path.write_text(json.dumps(whole))
    return path


def test_a_coco_file_says_which_images_play_and_where_the_smoke_is(tmp_path: Path) -> None:
    coco(tmp_path)
    (only,) = cameras(tmp_path, layout="coco", path="data/all.json", interval="20s")
    assert onsets([only]) == {"north": 20.0}
    source = open_source(only, tmp_path, 0)
    assert source.native_times == (0.0, 20.0, 40.0)
    assert not source.label(0.0).smoke
    (truth,) = source.label(20.0).truth
    # 16/64 .. 48/64 and 12/48 .. 36/48
    assert truth.box is not None
    assert (truth.box.xc, truth.box.yc, truth.box.w, truth.box.h) == (0.5, 0.5, 0.5, 0.5)


def test_coco_images_without_a_clock_are_stills(tmp_path: Path) -> None:
    coco(tmp_path)
    (only,) = cameras(tmp_path, layout="coco", path="data/all.json")
    assert only.source.kind == "stills"
    assert len(open_source(only, tmp_path, 0).native_times or ()) == 3


def image(file: str, **more: Any) -> dict[str, Any]:
    return {"id": 7, "file_name": file, "width": 64, "height": 48, **more}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": []}, "images: has none"),
        ({"images": 3}, "images: is missing or no list"),
        ({"images": [image("../../etc/passwd.jpg")]}, "leaves the folder of the images"),
        ({"images": [image("\ud800/a.jpg")]}, "images[0]: '\\ud800/a.jpg' is no name of a file"),
        ({"images": [image("a.jpg", width=0)], "annotations": []}, "width is 0"),
        ({"images": [image("a.jpg"), image("b.jpg")]}, "images[1]: id 7 stands there twice"),
        ({"images": [{"id": 7}]}, "images[0]: file_name is missing"),
        ({"images": [image("gone/a.jpg")], "annotations": []}, "gone: no such folder"),
        ({"images": [image("north/gone.jpg")], "annotations": []}, "gone.jpg: is not there (1 of"),
        ({"annotations": [{"image_id": 99}]}, "annotations[0]: there is no image 99"),
        (
            {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [60, 0, 30, 9]}]},
            "annotations[0]: the box [60, 0, 30, 9] leaves the image of 64x48",
        ),
        (
            {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3]}]},
            "bbox is [1, 2, 3], [left, top, width, height] is needed",
        ),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}]}, "which category is"),
        ({"categories": [{"id": 3, "name": "smoke"}]}, "annotations[2]: there is no category 4"),
        # whole numbers that no float can hold
        ({"images": [image("a.jpg", width=10**400)]}, "images[0]: width is 1000"),
        (
            {"annotations": [{"image_id": 7, "category_id": 3, "bbox": [10**400, 0, 1, 1]}]},
            "annotations[0]: bbox is [1000",
        ),
    ],
)
def test_a_wrong_coco_file_is_refused_with_the_place(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    coco(tmp_path, **changes)
    (only,) = problems(tmp_path, layout="coco", path="data/all.json", interval="20s")
    assert said in only


def test_what_is_no_json_is_no_coco_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "all.json").write_text("{")
    (said,) = problems(tmp_path, layout="coco", path="data/all.json")
    assert "all.json: is no JSON" in said
    (tmp_path / "data" / "all.json").write_text('{"images": [{"id": ' + "9" * 5000 + "}]}")
    (said,) = problems(tmp_path, layout="coco", path="data/all.json")
    assert "all.json: is no JSON: Exceeds the limit (4300 digits)" in said


def test_coco_images_that_lie_elsewhere_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    coco(tmp_path).rename(tmp_path / "elsewhere" / "all.json")
    (tmp_path / "elsewhere" / "north").mkdir()
    settings = {"layout": "coco", "path": str(tmp_path / "elsewhere" / "all.json")}
    with pytest.raises(UsageError, match=r"\(3 of the 3 images .* \(give --images FOLDER, where"):
        import_dataset(settings, tmp_path / "out.yaml")
    settings["images"] = str(tmp_path / "data" / "images")
    assert import_dataset(settings, tmp_path / "out.yaml").told[0].startswith("1 recording, 3 f")


def test_the_category_0_is_taken_when_it_is_asked_for(tmp_path: Path) -> None:
    coco(
        tmp_path,
        categories=[{"id": 0, "name": "fire"}, {"id": 3, "name": "smoke"}],
        annotations=[
            {"image_id": 8, "category_id": 3, "bbox": [16, 12, 32, 24]},
            {"image_id": 9, "category_id": 0, "bbox": [0, 0, 32, 24]},
        ],
    )
    settings = {"layout": "coco", "path": str(tmp_path / "data/all.json"), "interval": "20s"}
    import_dataset({**settings, "smoke_class": 0}, tmp_path / "out.yaml")
    assert onsets(load(tmp_path / "out.yaml").scenario.cameras) == {"north": 40.0}


# --- video ---------------------------------------------------------------------------------------


def film(path: Path, frames: Sequence[tuple[float, np.ndarray]]) -> None:
    """A video that keeps every pixel, each frame at its own instant (seconds)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0][1].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(1, 60))
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for at, pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format="bgr0")
            frame.pts, frame.time_base = round(at * 1000), Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def grey_film(path: Path, count: int = 4) -> None:
    film(path, [(n * 10.0, np.full((48, 64, 3), 40 * n, np.uint8)) for n in range(count)])


def test_a_video_with_an_onset_and_a_track_of_boxes(tmp_path: Path) -> None:
    grey_film(tmp_path / "data" / "fire.mkv")
    (tmp_path / "boxes.csv").write_text(
        "at,x_center,y_center,width,height\n30,0.5,0.5,0.4,0.4\n10,0.5,0.5,0.2,0.2\n"
    )
    (only,) = cameras(
        tmp_path, layout="video", path="data/fire.mkv", onset="10s", boxes="boxes.csv"
    )
    assert (only.id, onsets([only])) == ("fire", {"fire": 10.0})
    assert only.fires[0].onset_source == "given by the user"
    (truth,) = open_source(only, tmp_path, 0).label(20.0).truth
    assert truth.box is not None
    assert truth.box.w == pytest.approx(0.3)


def test_a_video_without_a_word_about_fire_is_refused(tmp_path: Path) -> None:
    grey_film(tmp_path / "data" / "fire.mkv")
    (said,) = problems(tmp_path, layout="video")
    assert said.startswith("is missing: nothing in a video says when smoke first becomes visible")
    (quiet,) = cameras(tmp_path, layout="video", quiet=True)
    assert not quiet.fires
    (smoky,) = cameras(tmp_path, layout="video", onset=0)
    assert onsets([smoky]) == {"fire": 0.0}


def test_each_of_several_videos_needs_its_own_onset(tmp_path: Path) -> None:
    for name in ("a", "b"):
        grey_film(tmp_path / "data" / f"{name}.mkv")
    (said,) = problems(tmp_path, layout="video", onset="10s")
    assert "has 2 videos, one onset cannot hold for all (give onsets: FILE" in said
    (tmp_path / "on.csv").write_text("name,onset\na.mkv,10s\n")
    (said,) = problems(tmp_path, layout="video", onsets="on.csv")
    assert said.startswith("b: has no row in on.csv")
    (tmp_path / "on.csv").write_text("name,onset\na.mkv,10s\nb,\n")
    found = cameras(tmp_path, layout="video", onsets="on.csv")
    assert onsets(found) == {"a": 10.0, "b": None}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("at\n10\n", "boxes.csv: has no column height, width, x_center, y_center"),
        ("10,0.5,0.5,,0.2\n", "boxes.csv:2: width is empty"),
        ("10,0.5,0.5,x,0.2\n", "boxes.csv:2: could not convert string to float: 'x'"),
        ("5,0.5,0.5,0.2,0.2\n", "fire.mkv: a box at 5 s, when the fire shows no smoke"),
        ("10,0.5,0.5,0.2,0.2\n10,0.6,0.5,0.2,0.2\n", "fire.mkv: boxes must stand in order of time"),
        ("10,0.5,0.5,0.2,0.2,fier\n", "boxes.csv: 'fier' names no recording"),
    ],
)
def test_a_wrong_track_of_boxes_is_named_with_its_place(
    tmp_path: Path, rows: str, said: str
) -> None:
    grey_film(tmp_path / "data" / "fire.mkv")
    head = "" if rows.startswith("at") else "at,x_center,y_center,width,height,name\n"
    (tmp_path / "boxes.csv").write_text(head + rows)
    (only,) = problems(tmp_path, layout="video", onset="10s", boxes="boxes.csv")
    assert said in only


def test_boxes_without_a_name_are_not_those_of_several_videos(tmp_path: Path) -> None:
    for name in ("a", "b"):
        grey_film(tmp_path / "data" / f"{name}.mkv")
    (tmp_path / "on.csv").write_text("name,onset\na,10s\nb,10s\n")
    (tmp_path / "boxes.csv").write_text("at,x_center,y_center,width,height\n10,0.5,0.5,0.2,0.2\n")
    (said,) = problems(tmp_path, layout="video", onsets="on.csv", boxes="boxes.csv")
    assert said.startswith("boxes: boxes.csv: has rows without a name")


def test_an_onset_behind_the_end_of_a_video_is_found_on_import(tmp_path: Path) -> None:
    grey_film(tmp_path / "data" / "fire.mkv")
    settings = {"layout": "video", "path": str(tmp_path / "data"), "onset": "90s"}
    with pytest.raises(UsageError, match="is 40 s long, its truth speaks of 90 s"):
        import_dataset(settings, tmp_path / "out.yaml")


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_a_scenario_that_says_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [-120, -60, 0, 60], make=jpeg)
    figlib(tmp_path / "data", "20160604_FIRE_b", [-240, -120, -60], make=jpeg)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["import", "figlib", "data", "-o", "out.yaml", "--at-once", "1"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out.yaml").read_text()
    assert "# 2 recordings, 7 frames, 1 fire, 1 without one\n" in text
    assert "# onset: figlib median(epoch - offset) (1)\n" in text
    # 240 s, then 180 s and one more gap of 90 s, at 60 times the speed
    assert "at speed 60: 8 s, up to 1 at once, up to 1 frames/s" in text
    assert str(tmp_path) not in text
    assert [c.phase for c in load(tmp_path / "out.yaml").scenario.cameras] == [0.0, 240.0]


def test_mixed_sizes_are_refused_and_can_be_left_out_with_their_reason(tmp_path: Path) -> None:
    folder = figlib(tmp_path / "data", "20160604_FIRE_a", [-60, 0, 60], make=jpeg)
    jpeg(folder / f"{T0 + 120}_+00120.jpg", size=(80, 60))
    figlib(tmp_path / "data", "20160605_FIRE_b", [-60, 0, 60], make=jpeg)
    settings = {"layout": "figlib", "path": str(tmp_path / "data")}
    out = tmp_path / "out.yaml"
    with pytest.raises(UsageError) as caught:
        import_dataset(settings, out)
    assert f"20160604_FIRE_a/{T0 + 120}_+00120.jpg: is 80x60" in str(caught.value)
    assert "--skip-broken leaves them out" in str(caught.value)
    assert not out.exists()
    done = import_dataset(settings, out, skip_broken=True)
    assert [fault.name for fault in done.skipped] == ["20160604_FIRE_a"]
    assert [c.id for c in load(out).scenario.cameras] == ["20160605_FIRE_b"]
    assert "is 80x60" in out.read_text()


def test_where_all_is_broken_it_is_told_why(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [0], make=jpeg)
    settings = {"layout": "figlib", "path": str(tmp_path / "data")}
    with pytest.raises(UsageError, match="20160604_FIRE_a: one image only"):
        import_dataset(settings, tmp_path / "out.yaml", skip_broken=True)


def test_a_sound_recording_stays_beside_a_broken_one_of_its_name(tmp_path: Path) -> None:
    figlib(tmp_path / "data" / "new", "20160604_FIRE_[a", [0, 60], make=jpeg)
    figlib(tmp_path / "data" / "old", "20160604_FIRE_[a", [0], make=jpeg)
    settings = {"layout": "figlib", "path": str(tmp_path / "data")}
    import_dataset(settings, tmp_path / "out.yaml", skip_broken=True)
    (only,) = load(tmp_path / "out.yaml").scenario.cameras
    assert only.source.kind == "images"
    assert only.source.path == "data/new/20160604_FIRE_[a"


def test_the_name_of_a_folder_adds_no_line_to_the_scenario(tmp_path: Path) -> None:
    folder = figlib(tmp_path / "data", "20160604_FIRE_a\nduration: 1s\x1b[2J", [0, 60], make=jpeg)
    (folder / f"{T0}_+00000.jpg").write_bytes(b"")
    settings = {"layout": "figlib", "path": str(tmp_path / "data")}
    done = import_dataset(settings, tmp_path / "out.yaml")
    assert any("20160604_FIRE_a?duration: 1s?[2J" in line for line in done.told)
    assert load(tmp_path / "out.yaml").scenario.duration is None


def test_a_figlib_folder_without_pictures_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [-60, 0, 60], make=jpeg)
    (tmp_path / "data" / "20160605_FIRE_b").mkdir()
    (tmp_path / "data" / "notes").mkdir()
    settings = {"layout": "figlib", "path": str(tmp_path / "data")}
    with pytest.raises(UsageError, match="20160605_FIRE_b: holds no picture"):
        import_dataset(settings, tmp_path / "out.yaml")
    done = import_dataset(settings, tmp_path / "out.yaml", skip_broken=True)
    assert [fault.name for fault in done.skipped] == ["20160605_FIRE_b"]


def test_an_image_that_cannot_be_read_is_told_and_a_folder_of_them_refused(
    tmp_path: Path,
) -> None:
    folder = figlib(tmp_path / "data", "20160604_FIRE_a", [-60, 0, 60], make=jpeg)
    (folder / f"{T0}_+00000.jpg").write_bytes(b"")
    settings = {"layout": "figlib", "path": str(tmp_path / "data")}
    done = import_dataset(settings, tmp_path / "out.yaml")
    assert any("1 image that cannot be read will be lost frames" in line for line in done.told)
    figlib(tmp_path / "data", "20160605_FIRE_b", [0, 60])
    with pytest.raises(UsageError, match="none of its 2 images can be read"):
        import_dataset(settings, tmp_path / "other.yaml")


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path: Path) -> None:
    figlib(tmp_path / "data", "20160604_FIRE_a", [0, 60], make=jpeg)
    out = tmp_path / "out.yaml"
    out.write_text("mine")
    settings = {"layout": "figlib", "path": str(tmp_path / "data")}
    with pytest.raises(UsageError, match="--force replaces it"):
        import_dataset(settings, out)
    assert out.read_text() == "mine"
    import_dataset(settings, out, force=True)
    assert load(out).scenario.cameras[0].id == "20160604_FIRE_a"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"layout": "nothing"}, "layout: Input should be 'figlib'"),
        ({"layout": "video"}, "--onset: is missing"),
        ({"layout": "figlib", "split": "train:2"}, "--split: 'train:2' is no share of the fires"),
        ({"layout": "yolo", "interval": "soon"}, "--interval: 'soon' is no duration"),
        ({"layout": "sai"}, "--interval: is missing"),
        ({"layout": "figlib", "at_once": 0}, "--at-once: Input should be greater than or equal"),
        ({"layout": "yolo", "smoke_class": -1}, "--smoke-class: Input should be greater than or"),
        ({"layout": "figlib", "path": ""}, "path: is empty"),
        ({"layout": "figlib", "path": "\udce9"}, "path: '\\udce9' is not UTF-8"),
        (
            {"layout": "figlib", "split": "val"},
            "nothing was written, 1 problem:\n  split: 'val': figlib has no folders for its parts",
        ),
        (
            {"layout": "figlib", "path": "nowhere"},
            "nothing was written, 1 problem:\n  'nowhere' is not there",
        ),
    ],
)
def test_a_wrong_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        import_dataset({"path": "data", **settings}, Path("out.yaml"))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("sai", "such as --interval 30s)"),
        ("video", "(write --onset 42s, --onsets FILE, or --quiet where nothing burns)"),
    ],
)
def test_the_remedy_is_written_as_options(tmp_path: Path, layout: str, said: str) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(UsageError) as caught:
        import_dataset({"path": str(tmp_path / "data"), "layout": layout}, tmp_path / "out.yaml")
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"name": "a: b"}, "--name 'a: b': write letters"),
        ({"name": "x\nduration: 3s"}, "--name 'x\\nduration: 3s': write letters"),
        ({"speed": float("nan")}, "--speed nan: write a number above 0"),
        ({"speed": -3.0}, "--speed -3: write a number above 0"),
    ],
)
def test_a_name_or_speed_that_no_scenario_has_is_refused_before_anything_is_read(
    tmp_path: Path, head: dict[str, Any], said: str
) -> None:
    out = tmp_path / "out.yaml"
    with pytest.raises(UsageError) as caught:
        import_dataset({"path": "nowhere", "layout": "figlib"}, out, **head)
    assert str(caught.value).startswith(said)
    assert not out.exists()


# --- the same frames, however they came -----------------------------------------------------------


def rebuilt(data: Path, base: Path, layouts: Sequence[str]) -> list[str]:
    """Every FIgLib sequence of the real data as links in FIgLib's, YOLO's layout, and as video."""
    rows = ["name,onset"]
    for folder in sorted(data.glob("*_figlib_*")):
        about = meta(data, folder.name)
        name, frames = about["figlib_sequence"], about["frame_list"]
        zero = frames[0]["epoch"] - frames[0]["figlib_offset_s"]
        fire = zero <= frames[-1]["epoch"]
        rows.append(f"{name},{zero - frames[0]['epoch'] if fire else ''}")
        shown = []
        for frame in frames:
            stem = f"{frame['epoch']}_{frame['figlib_offset_s']:+06d}"
            links = {
                "figlib": base / "figlib" / name / f"{stem}.jpg",
                "yolo": base / "yolo" / name / "images" / f"{stem}.jpg",
            }
            for layout, link in links.items():
                if layout in layouts:
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(folder / frame["file"])
            label = base / "yolo" / name / "labels" / f"{stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("")  # FIgLib has no boxes
            if "video" in layouts:
                shown.append((frame["epoch"] - frames[0]["epoch"], folder / frame["file"]))
        if "video" in layouts:
            pixels = [(at, cv2.imread(str(file))) for at, file in shown]
            film(base / "video" / f"{name}.mkv", pixels)
    (base / "onsets.csv").write_text("\n".join(rows) + "\n")
    return rows


@pytest.fixture(scope="module")
def three_ways(
    real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Path]]:
    base = tmp_path_factory.mktemp("three")
    rebuilt(real_data, base, ("figlib", "yolo", "video"))
    settings: dict[str, dict[str, Any]] = {
        "figlib": {},
        "yolo": {"epoch_names": True, "onsets": str(base / "onsets.csv")},
        "video": {"onsets": str(base / "onsets.csv")},
    }
    return base, {
        layout: import_dataset(
            {"layout": layout, "path": str(base / layout), **more}, base / f"{layout}.yaml"
        ).path
        for layout, more in settings.items()
    }


def plain(score: dict[str, Any]) -> dict[str, Any]:
    """A score without how its onsets are known, which differs by rights."""
    fires = [{k: v for k, v in f.items() if k != "onset_source"} for f in score["fires"]]
    return {**score, "fires": fires}


def test_figlib_as_figlib_as_yolo_and_as_video_gives_the_same_score(
    three_ways: tuple[Path, dict[str, Path]],
) -> None:
    base, paths = three_ways
    scores, frames, truths = {}, {}, {}
    for layout, path in paths.items():
        loaded = load(path)
        changed = loaded.scenario.model_dump()
        changed |= {"clock": "virtual", "speed": 1.0, "seed": 5, "name": "same"}
        changed["engine"] = {"name": "simulated", "profile": "smokebench-qwen2.5vl-7b"}
        scenario_of = type(loaded.scenario).model_validate(changed)
        asked = type(loaded)(scenario_of, loaded.text, loaded.file, loaded.base)
        options = run.Options(out=base / "runs" / layout)
        outcome = virtual_run(run.play(asked, options, [], asyncio.Event()))
        assert outcome.score is not None
        scores[layout] = plain(outcome.score.to_json())
        log = load_run(outcome.folder)
        frames[layout] = len(log.shots)
        truths[layout] = sorted((s.camera, s.seq, s.captured_at, s.smoke) for s in log.shots)
    assert frames == {"figlib": 241, "yolo": 241, "video": 241}
    assert truths["figlib"] == truths["yolo"] == truths["video"]
    assert len(scores["figlib"]["fires"]) == 4
    assert scores["figlib"] == scores["yolo"] == scores["video"]


def test_encoded_alike_they_are_the_same_pictures_to_the_byte(
    three_ways: tuple[Path, dict[str, Path]],
) -> None:
    _, paths = three_ways
    name = "20160619_FIRE_om-e-mobo-c"
    shown = {}
    for layout, path in paths.items():
        loaded = load(path)
        (camera,) = (c for c in loaded.scenario.cameras if c.id == name)
        camera = Camera.model_validate({**camera.model_dump(), "perturb": {"quality": 90}})
        source = open_source(camera, loaded.base, 0)
        times = source.native_times or ()
        shown[layout] = [(p.at, p.jpeg) for p in source.pictures(times) if p is not None]
        source.close()
    assert len(shown["figlib"]) == 41
    assert shown["figlib"] == shown["yolo"] == shown["video"]


def test_the_onsets_of_the_real_sequences_are_figlibs_own_marks(
    three_ways: tuple[Path, dict[str, Path]],
) -> None:
    _, paths = three_ways
    found = load(paths["figlib"]).scenario.cameras
    assert onsets(found) == {
        "20160604_FIRE_rm-n-mobo-c": None,
        "20160604_FIRE_smer-tcs3-mobo-c": 2400.0,
        "20160619_FIRE_lp-e-iqeye": 2400.0,
        "20160619_FIRE_om-e-mobo-c": 960.0,
        "20160718_FIRE_mg-s-iqeye": 2400.0,
        "20160722_FIRE_mg-s-iqeye": None,
    }
    assert {c.fires[0].id for c in found if c.fires} == {
        "20160604_FIRE",
        "20160619_FIRE",
        "20160718_FIRE",
    }
    assert all(os.path.islink(p) for p in (paths["figlib"].parent / "figlib").rglob("*.jpg"))
