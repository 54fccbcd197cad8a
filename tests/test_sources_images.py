"""Image folders: order, clocks, labels, broken files, and bytes that pass unchanged."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from earlyfire_stream.errors import SourceError
from earlyfire_stream.frames import Capture, wrap
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources.base import Source
from earlyfire_stream.sources.open import open_source
from earlyfire_stream.sources.optics import encode
from earlyfire_stream.verdict import Box, Truth


def grey_jpeg(grey: int, size: tuple[int, int] = (64, 48)) -> bytes:
    return encode(np.full((size[1], size[0], 3), grey, np.uint8), 90)


def folder_of(base: Path, files: dict[str, bytes], name: str = "frames") -> Path:
    folder = base / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return folder


def three(base: Path) -> Path:
    return folder_of(base, {f"img{i}.jpg": grey_jpeg(20 * i) for i in (1, 2, 10)})


def opened(base: Path, duration: float | None = None, **settings: Any) -> Source:
    source = {"kind": "images", "path": "frames"} | settings.pop("source", {})
    if not {"interval", "times", "epoch_names"} & source.keys() and source["kind"] == "images":
        source["interval"] = 60
    camera = Camera.model_validate({"id": "cam", "source": source} | settings)
    return open_source(camera, base, 7, duration)


def jpegs(source: Source, times: Sequence[float]) -> list[bytes | None]:
    return [p.jpeg if p is not None else None for p in source.pictures(times)]


def greys(source: Source, times: Sequence[float]) -> list[int]:
    return [
        round(float(cv2.imdecode(np.frombuffer(j, np.uint8), cv2.IMREAD_COLOR).mean()))
        for j in jpegs(source, times)
        if j is not None
    ]


# --- order and clocks ----------------------------------------------------------------------------


def test_images_play_in_natural_order_of_name(tmp_path: Path) -> None:
    three(tmp_path)
    source = opened(tmp_path)
    assert source.native_times == (0, 60, 120)
    assert source.cadence_s == 60
    assert source.ends_at == 180
    assert greys(source, [0, 60, 120]) == [20, 40, 200]


def test_between_two_images_the_older_one_is_shown_and_after_the_end_none(tmp_path: Path) -> None:
    three(tmp_path)
    found = jpegs(opened(tmp_path), [0, 59.9, 60, 179, 180])
    assert found[0] == found[1] == grey_jpeg(20)
    assert found[2] == grey_jpeg(40)
    assert found[3] == grey_jpeg(200)
    assert found[4] is None


def test_epoch_names_give_the_times_and_the_order(tmp_path: Path) -> None:
    names = ("1465065660_+00000.jpg", "1465063260_-02400.jpg", "1465063320_-02340.jpg")
    folder_of(tmp_path, {n: grey_jpeg(9) for n in (*names, "1465063380_-02280.jpg")})
    (tmp_path / "frames" / "1465065660_+00000.jpg").unlink()
    source = opened(tmp_path, source={"epoch_names": True})
    assert source.native_times == (0, 60, 120)


def test_a_name_without_an_epoch_is_refused(tmp_path: Path) -> None:
    three(tmp_path)
    with pytest.raises(SourceError, match=r"img1\.jpg.*epoch seconds.*interval"):
        opened(tmp_path, source={"epoch_names": True})


def test_a_times_table_says_when_each_image_was_taken(tmp_path: Path) -> None:
    three(tmp_path)
    (tmp_path / "t.csv").write_text("at,file\n100,img1.jpg\n107.5,img2.jpg\n2m,img10.jpg\n")
    source = opened(tmp_path, source={"times": "t.csv"})
    assert source.native_times == (0, 7.5, 20)
    assert source.cadence_s == 10  # the median of 7.5 and 12.5


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,when\nimg1.jpg,0\n", "columns `file` and `at`"),
        ("file,at\nimg1.jpg,0\nimg2.jpg,soon\nimg10.jpg,9\n", "t.csv:3: 'soon'"),
        ("file,at\nimg1.jpg,0\nimg2.jpg,5\n", "no time for img10.jpg"),
        ("file,at\nimg1.jpg,0\nimg1.jpg,5\n", "t.csv:3: img1.jpg stands there twice"),
        ("file,at\nimg1.jpg,0\nimg2.jpg,5\nimg10.jpg,9\nx.jpg,11\n", "not there: x.jpg"),
        ("file,at\nimg1.jpg,0\nimg2.jpg,5\nimg10.jpg,5\n", "img10.jpg have the same time"),
    ],
)
def test_a_times_table_that_cannot_be_right_is_refused(
    tmp_path: Path, table: str, message: str
) -> None:
    three(tmp_path)
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(SourceError, match=message):
        opened(tmp_path, source={"times": "t.csv"})


def test_a_gap_of_more_than_twenty_medians_is_refused_with_both_files(tmp_path: Path) -> None:
    files = {f"{1465063200 + t}.jpg": grey_jpeg(9) for t in (0, 60, 120, 180, 1500)}
    folder_of(tmp_path, files)
    with pytest.raises(SourceError, match=r"1465063380\.jpg and 1465064700\.jpg lie 1320 s apart"):
        opened(tmp_path, source={"epoch_names": True})


def test_a_gap_of_two_medians_as_figlib_has_them_is_accepted(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"{1465063200 + t}.jpg": grey_jpeg(9) for t in (0, 60, 180, 240)})
    source = opened(tmp_path, source={"epoch_names": True})
    assert source.native_times == (0, 60, 180, 240)
    assert source.cadence_s == 60


# --- bytes ---------------------------------------------------------------------------------------


def test_a_jpeg_passes_byte_for_byte_and_loses_only_a_comment_of_ours(tmp_path: Path) -> None:
    plain = grey_jpeg(77)
    capture = Capture("r", "c", 1, 2.0, 3, 4)
    folder_of(tmp_path, {"1.jpg": plain, "2.jpg": wrap(plain, capture)})
    assert jpegs(opened(tmp_path), [0, 60]) == [plain, plain]


def test_png_bmp_and_webp_are_encoded_and_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    image = np.full((48, 64, 3), 90, np.uint8)
    names = [(".png", "1.png"), (".bmp", "2.bmp"), (".webp", "3.webp"), (".png", "4.jpg")]
    folder_of(tmp_path, {n: bytes(cv2.imencode(kind, image)[1]) for kind, n in names})
    source = opened(tmp_path)
    assert all(j is not None and j[:2] == b"\xff\xd8" for j in jpegs(source, [0, 60, 120, 180]))
    assert source.warnings == []


def test_an_image_that_exif_turns_is_shown_upright(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {})
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = 255  # bright on the left
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it: the left side comes to the top
    Pillow.fromarray(pixels).save(folder / "1.jpg", exif=exif, quality=95)
    (jpeg,) = jpegs(opened(tmp_path), [0])
    assert jpeg is not None
    with Pillow.open(folder / "1.jpg") as stored:
        assert stored.size == (64, 48)
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (64, 48, 3)
    assert shown[:20].mean() > 240
    assert shown[44:].mean() < 15


def test_the_same_camera_gives_the_same_bytes_twice_and_another_camera_others(
    tmp_path: Path,
) -> None:
    folder_of(tmp_path, {"1.jpg": grey_jpeg(77)})
    noisy = {"perturb": {"night_noise": 0.5}}
    first = jpegs(opened(tmp_path, **noisy), [0, 30])
    assert first == jpegs(opened(tmp_path, **noisy), [0, 30])
    assert first[0] != first[1]
    assert first[0] != jpegs(opened(tmp_path, id="other", **noisy), [0])[0]


# --- broken files --------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDATx"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello, I am text", "is no image in spite of its name"),
        (grey_jpeg(1)[:200], "is no usable JPEG"),
        (png_header(60_000, 60_000), "50,000,000 pixels"),
        (png_header(9_000, 9_000), "9000x9000, more than"),
        (grey_jpeg(1).replace(b"\x00\x30\x00\x40", b"\xea\x60\xea\x60", 1), "60000x60000"),
    ],
    ids=["empty", "text", "cut off", "png bomb", "large png", "jpeg bomb"],
)
def test_one_broken_image_is_a_lost_frame_that_is_named(
    tmp_path: Path, data: bytes, message: str
) -> None:
    folder_of(tmp_path, {"1.jpg": grey_jpeg(50), "2.jpg": data, "3.jpg": grey_jpeg(60)})
    source = opened(tmp_path)
    found = jpegs(source, [0, 60, 120])
    assert [j is not None for j in found] == [True, False, True]
    assert len(source.warnings) == 1
    assert "2.jpg" in source.warnings[0]
    assert message in source.warnings[0]


def test_a_folder_of_broken_images_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    folder_of(tmp_path, {"1.jpg": b"", "2.jpg": b"no"})
    with pytest.raises(SourceError, match=r"none of 2 images can be used: .*1\.jpg: is empty"):
        opened(tmp_path)


def test_a_jpeg_whose_pixels_are_damaged_is_lost_when_it_must_be_decoded(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"1.jpg": grey_jpeg(50)})
    torn = Pillow.new("RGB", (64, 48))
    torn.save(folder / "2.png")
    data = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(data[: len(data) // 2])
    source = opened(tmp_path)
    assert jpegs(source, [60]) == [None]
    assert "2.png" in source.warnings[0]


def test_links_are_followed_and_a_dangling_one_is_a_lost_frame(tmp_path: Path) -> None:
    real = folder_of(tmp_path, {"real.jpg": grey_jpeg(50)}, "elsewhere") / "real.jpg"
    folder = folder_of(tmp_path, {})
    (folder / "1.jpg").symlink_to(real)
    (folder / "2.jpg").symlink_to(tmp_path / "gone.jpg")
    source = opened(tmp_path)
    assert jpegs(source, [0, 60]) == [grey_jpeg(50), None]
    assert "2.jpg: cannot be read" in source.warnings[0]


def test_a_named_pipe_does_not_hang_the_run(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"1.jpg": grey_jpeg(50)})
    os.mkfifo(folder / "2.jpg")
    source = opened(tmp_path)
    assert jpegs(source, [60]) == [None]
    assert "no regular file" in source.warnings[0]


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ({}, "nowhere", "no such folder"),
        ({}, "frames", "it is empty"),
        ({"a.heic": b"x", "b.heic": b"x"}, "frames", r"it has 2 of \.heic"),
        ({"a.txt": b"x"}, "frames/a.txt", "is a file"),
    ],
)
def test_a_folder_without_images_says_what_is_there_instead(
    tmp_path: Path, files: dict[str, bytes], path: str, message: str
) -> None:
    folder_of(tmp_path, files)
    with pytest.raises(SourceError, match=message):
        opened(tmp_path, source={"path": path})


def test_images_in_a_subfolder_are_hinted_at(tmp_path: Path) -> None:
    folder_of(tmp_path, {"1.jpg": b"x"}, "frames/images")
    with pytest.raises(SourceError, match="subfolder 'images'"):
        opened(tmp_path)


def test_an_image_smaller_than_the_asked_height_is_refused_not_enlarged(tmp_path: Path) -> None:
    folder_of(tmp_path, {"1.jpg": grey_jpeg(50, (320, 240))})
    with pytest.raises(
        SourceError, match=r"enlarged to a height of 480; set perturb.height to 240"
    ):
        opened(tmp_path, perturb={"height": 480})


# --- labels --------------------------------------------------------------------------------------

FIRE = {"id": "oak", "onset": 60}


def labelled(base: Path, texts: Sequence[str], fires: Sequence[dict[str, Any]] = (FIRE,)) -> Source:
    folder_of(base, {f"{i}.jpg": grey_jpeg(9) for i in range(len(texts))})
    folder_of(base, {f"{i}.txt": t.encode() for i, t in enumerate(texts)}, "labels")
    return opened(base, source={"labels": "labels"}, fires=list(fires))


def test_a_labelled_box_is_the_truth_of_the_fire_that_burns(tmp_path: Path) -> None:
    source = labelled(tmp_path, ["", "0 0.5 0.5 0.2 0.1\n1 0.1 0.1 0.1 0.1\n"])
    label = source.label(60)
    assert label.smoke is True
    assert label.boxed
    assert [t.fire for t in label.truth] == ["oak"]
    assert label.truth[0].box is not None
    assert label.truth[0].box.corners == pytest.approx((0.4, 0.45, 0.6, 0.55))


def test_before_the_onset_an_empty_label_means_nothing_to_find(tmp_path: Path) -> None:
    label = labelled(tmp_path, ["", "0 0.5 0.5 0.2 0.1"]).label(0)
    assert (label.smoke, label.truth, label.boxed) == (False, (), True)


def test_after_the_onset_an_empty_label_leaves_the_smoke_and_takes_the_box(tmp_path: Path) -> None:
    label = labelled(tmp_path, ["", "", "0 0.5 0.5 0.2 0.1"]).label(60)
    assert (label.smoke, label.truth, label.boxed) == (True, (Truth("oak"),), False)


def test_after_the_end_of_a_fire_an_empty_label_means_no_smoke(tmp_path: Path) -> None:
    source = labelled(tmp_path, ["", "0 0.5 0.5 0.2 0.1", ""], [FIRE | {"end": 120}])
    assert source.label(120).smoke is False


def test_a_camera_without_known_truth_has_none(tmp_path: Path) -> None:
    three(tmp_path)
    assert opened(tmp_path, truth=False).label(0).smoke is None


def test_smoke_labels_on_a_camera_without_a_fire_are_refused_with_the_line_to_add(
    tmp_path: Path,
) -> None:
    with pytest.raises(SourceError, match=r"smoke from 60 s on.*onset: 60s"):
        labelled(tmp_path, ["", "0 0.5 0.5 0.2 0.1"], [])


def test_labels_that_begin_before_the_declared_onset_are_said_loudly(tmp_path: Path) -> None:
    source = labelled(tmp_path, ["0 0.5 0.5 0.2 0.1", ""], [FIRE])
    assert "60 s before the declared onset" in source.warnings[0]
    assert source.label(0).truth[0].fire == "oak"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.2\n", r"1\.txt:1: 4 numbers"),
        ("\n0 0.5 0.5 0.2 0.1 0.9\n", r"1\.txt:2: 6 numbers.*confidences are not read"),
        ("0 0.5 0.5 0.2 nan\n", "not a finite number"),
        ("0 half 0.5 0.2 0.1\n", "not a number"),
        ("0.5 0.5 0.5 0.2 0.1\n", "the class is 0.5"),
        ("0 0.5 0.5 0 0.1\n", "no area"),
        ("0 640 360 100 50\n", "fractions of the image, not pixels"),
        ("0 0.95 0.5 0.12 0.1\n", "leaves the frame"),
        ("1 0.5 0.5 7 0.1\n", "leaves the frame"),
    ],
)
def test_a_label_line_that_cannot_be_right_is_refused_with_file_and_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        labelled(tmp_path, ["", text])


def test_a_label_box_outside_by_rounding_is_clipped(tmp_path: Path) -> None:
    source = labelled(tmp_path, ["", "\ufeff0 0.9504 0.5 0.1 0.1\r\n"])
    assert source.label(60).truth[0].box == Box.from_corners(0.9004, 0.45, 1.0, 0.55)


def test_missing_label_files_are_counted_and_named(tmp_path: Path) -> None:
    labelled(tmp_path, ["", "", ""])
    (tmp_path / "labels" / "1.txt").unlink()
    with pytest.raises(SourceError, match=r"no label file for 1\.txt \(1 of 3 missing\)"):
        opened(tmp_path, source={"labels": "labels"}, fires=[FIRE])


def test_a_cropped_picture_has_the_box_where_the_smoke_now_is(tmp_path: Path) -> None:
    folder_of(tmp_path, {"0.jpg": grey_jpeg(9, (200, 100)), "1.jpg": grey_jpeg(9, (200, 100))})
    folder_of(tmp_path, {"0.txt": b"", "1.txt": b"0 0.75 0.5 0.25 0.5"}, "labels")
    right = {"crop": [0.75, 0.5, 0.5, 1.0]}
    source = opened(tmp_path, source={"labels": "labels"}, fires=[FIRE], perturb=right)
    (box,) = (t.box for t in source.label(60).truth)
    assert box is not None
    assert box.corners == pytest.approx((0.25, 0.25, 0.75, 0.75))
    left = {"crop": [0.25, 0.5, 0.5, 1.0]}
    label = opened(tmp_path, source={"labels": "labels"}, fires=[FIRE], perturb=left).label(60)
    assert (label.smoke, label.truth, label.boxed) == (False, (), True)


# --- stills --------------------------------------------------------------------------------------


def test_stills_come_once_each_in_an_order_drawn_from_the_seed(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"{i}.jpg": grey_jpeg(10 * i) for i in range(8)})
    stills = {"source": {"kind": "stills", "smoke": True}}
    source = opened(tmp_path, cadence=2, **stills)
    assert source.native_times == tuple(range(0, 16, 2))
    assert source.cadence_s is None
    order = greys(source, list(range(0, 16, 2)))
    assert sorted(order) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert order != sorted(order)
    assert order == greys(opened(tmp_path, cadence=2, **stills), list(range(0, 16, 2)))


def test_stills_are_labelled_by_file_by_setting_or_not_at_all(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.jpg": grey_jpeg(9)})
    folder_of(tmp_path, {"a.txt": b"0 0.5 0.5 0.2 0.1"}, "labels")
    by_file = opened(tmp_path, source={"kind": "stills", "labels": "labels"}).label(0)
    assert (by_file.smoke, by_file.boxed, len(by_file.truth)) == (True, True, 1)
    smoke = opened(tmp_path, source={"kind": "stills", "smoke": True}).label(0)
    assert (smoke.smoke, smoke.boxed, smoke.truth) == (True, False, (Truth("smoke"),))
    none = opened(tmp_path, source={"kind": "stills", "smoke": False}).label(0)
    assert (none.smoke, none.boxed, none.truth) == (False, True, ())
    assert opened(tmp_path, source={"kind": "stills"}).label(0).smoke is None


# --- real data -----------------------------------------------------------------------------------


def test_a_real_sequence_plays_its_own_bytes_with_its_own_boxes(real_data: Path) -> None:
    name = "pos_figlib_20160604_smer-tcs3-mobo-c"
    camera = Camera.model_validate(
        {
            "id": "smer",
            "source": {
                "kind": "images",
                "path": f"{name}/frames",
                "labels": f"{name}/labels",
                "interval": 60,
            },
            "fires": [{"id": "border", "onset": 2400}],
        }
    )
    source = open_source(camera, real_data, 0)
    files = sorted((real_data / name / "frames").iterdir())
    assert source.native_times is not None
    assert len(source.native_times) == 81
    assert jpegs(source, [0, 2400, 2460]) == [files[i].read_bytes() for i in (0, 40, 41)]
    assert source.label(2340).smoke is False
    assert (source.label(2400).smoke, source.label(2400).boxed) == (True, False)
    assert source.label(2460).boxed
    assert (source.label(4680).smoke, source.label(4680).boxed) == (True, False)
    assert source.warnings == []
