"""Video files: true timestamps, cut-off files, loops, box tracks. The files are made here."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources.base import Source
from earlyfire_stream.sources.open import open_source
from earlyfire_stream.verdict import Box

VARIABLE_MS = (0, 40, 80, 1000, 1500, 5000)
"""Two quick frames, then slow ones: index / rate would be far off."""


def write_video(
    path: Path,
    stamps_ms: Sequence[int],
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    *,
    movflags: str = "",
) -> Path:
    """One frame per stamp; frame i has the grey level 20 + 20·i."""
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec != "mjpeg":  # an AVI has nothing but its rate
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, stamp in enumerate(stamps_ms):
            grey = np.full((size[1], size[0], 3), 20 + 20 * number % 220, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="bgr24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def opened(path: Path, duration: float | None = None, **settings: Any) -> Source:
    source = {"kind": "video", "path": path.name} | settings.pop("source", {})
    camera = Camera.model_validate({"id": "cam", "source": source} | settings)
    return open_source(camera, path.parent, 7, duration)


def levels(source: Source, times: Sequence[float]) -> list[int | None]:
    """Index of the written frame that is shown at each time."""
    found: list[int | None] = []
    for picture in source.pictures(times):
        if picture is None:
            found.append(None)
            continue
        image = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
        found.append(round((float(image.mean()) - 20) / 20))
    return found


@pytest.mark.parametrize(
    ("name", "codec"), [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.webm", "libvpx-vp9")]
)
def test_frames_of_a_variable_rate_stand_at_their_own_timestamps(
    tmp_path: Path, name: str, codec: str
) -> None:
    source = opened(write_video(tmp_path / name, VARIABLE_MS, codec=codec))
    assert source.native_times == pytest.approx((0, 0.04, 0.08, 1.0, 1.5, 5.0))
    assert levels(source, [0, 0.05, 0.9, 1.0, 1.4, 1.6, 4.99, 5.0]) == [0, 1, 2, 3, 3, 4, 4, 5]


def test_an_avi_without_packet_times_plays_at_its_rate(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), 20 + 20 * number, np.uint8))
    writer.release()
    source = opened(path)
    assert source.native_times == pytest.approx((0, 0.1, 0.2, 0.3, 0.4))
    assert levels(source, [0, 0.25, 0.4]) == [0, 2, 4]


def test_after_the_last_frame_and_its_usual_gap_there_is_nothing(tmp_path: Path) -> None:
    source = opened(write_video(tmp_path / "v.mp4", [0, 1000, 2000]))
    assert source.cadence_s == pytest.approx(1.0)
    assert source.ends_at == pytest.approx(3.0)
    assert levels(source, [2.9, 3.1]) == [2, None]


def test_start_skips_into_the_file_and_the_camera_still_begins_at_zero(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [0, 1000, 2000, 3000])
    source = opened(path, source={"start": 1.5})
    assert source.native_times == pytest.approx((0, 0.5, 1.5))
    assert levels(source, [0, 0.5, 1.5]) == [1, 2, 3]
    with pytest.raises(SourceError, match="4 s long, start is 9 s"):
        opened(path, source={"start": 9})


def test_a_loop_begins_again_and_never_ends(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [0, 1000, 2000])
    source = opened(path, 7, source={"loop": True})
    assert source.ends_at is None
    assert source.native_times == pytest.approx((0, 1, 2, 3, 4, 5, 6))
    assert levels(source, [0, 2, 3, 4, 6.5]) == [0, 2, 0, 1, 0]
    with_cadence = opened(path, 7, source={"loop": True}, cadence=0.7)
    assert with_cadence.native_times is None


def test_a_long_leap_finds_the_right_frame(tmp_path: Path) -> None:
    stamps = [*range(0, 3000, 500), *range(40_000, 44_000, 1000), 90_000]
    source = opened(write_video(tmp_path / "v.mp4", stamps))
    assert levels(source, [0, 40.2, 42, 90]) == [0, 6, 8, 10]


def test_a_clip_cut_without_encoding_plays_what_players_show(tmp_path: Path) -> None:
    """An edit list hides the frames between the keyframe and the cut."""
    whole = write_video(tmp_path / "v.mp4", [0, 1000, 2000, 3000, 4000])
    data = bytearray(whole.read_bytes())
    at = data.index(b"elst") + 4 + 8 + 4  # version and flags, count, then duration and begin
    (begin,) = struct.unpack_from(">i", data, at)
    (scale,) = struct.unpack_from(">I", data, data.index(b"mdhd") + 4 + 12)
    struct.pack_into(">i", data, at, begin + 2 * scale)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data)
    source = opened(cut)
    assert source.native_times == pytest.approx((0, 1, 2))
    assert levels(source, [0, 1, 2]) == [2, 3, 4]
    assert source.warnings == []


def test_a_bare_stream_without_timestamps_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.h264", [0, 40, 80])
    with pytest.raises(SourceError, match="3 frames and no timestamps; put it into a container"):
        opened(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("v.mp4", b"", "is empty"),
        ("v.mp4", b"This is text, whatever its name says.\n" * 50, "cannot be read as a video"),
    ],
)
def test_a_file_that_is_no_video_is_refused(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        opened(tmp_path / name)


def test_a_missing_video_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        opened(tmp_path / "gone.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match="kind: images"):
        opened(tmp_path / "folder")


def test_an_mp4_cut_off_before_its_index_is_refused_with_the_reason(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "v.mp4", range(0, 4000, 40), (320, 240))
    data = whole.read_bytes()
    assert data.find(b"moov") > data.find(b"mdat")
    whole.write_bytes(data[: len(data) // 3])
    with pytest.raises(SourceError, match="cut off before its index"):
        opened(whole)


def test_a_video_that_breaks_off_plays_what_is_there_and_counts_the_rest(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", range(0, 4000, 100), (320, 240), movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    source = opened(path)
    assert source.native_times is not None
    there = len(source.native_times)
    assert 1 < there < 40
    assert f"names 40 frames, {there} are in it" in source.warnings[0]
    assert source.ends_at == pytest.approx(source.native_times[-1] + 0.1)
    assert next(source.pictures([0])) is not None


def test_a_container_without_an_index_is_held_against_its_own_length(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", range(0, 9000, 100), (320, 240))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = opened(path)
    assert "it says that it is 9.0 s long, its pictures end at" in source.warnings[0]


def test_frames_that_cannot_be_decoded_are_lost_and_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", range(0, 400, 40), codec="mjpeg")
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data.startswith(b"\xff\xd8\xff", i)]
    assert len(starts) == 10
    for at in starts[6:]:
        data[at : at + 600] = bytes(600)
    path.write_bytes(data)
    source = opened(path)
    found = list(source.pictures([0, 0.2, 0.24, 0.36]))
    assert [p is not None for p in found] == [True, True, False, False]
    assert len(source.warnings) == 1
    assert "6 of 10 frames can be decoded" in source.warnings[0]


def test_the_decoder_writes_nothing_of_its_own(tmp_path: Path) -> None:
    """In a process of its own, as FFmpeg's log level is read once in the life of a process."""
    (tmp_path / "text.mp4").write_bytes(b"This is text, whatever its name says.\n" * 50)
    path = write_video(tmp_path / "v.avi", range(0, 400, 40), codec="mjpeg")
    data = bytearray(path.read_bytes())
    data[7000:10_000] = bytes(3000)
    path.write_bytes(data)
    program = f"""
from pathlib import Path
from earlyfire_stream.scenario.models import Camera
from earlyfire_stream.sources.open import open_source
for name in ("v.avi", "text.mp4"):
    source = {{"kind": "video", "path": name}}
    camera = Camera.model_validate({{"id": "c", "source": source}})
    try:
        list(open_source(camera, Path({str(tmp_path)!r}), 0).pictures([0, 0.3, 0.36]))
    except Exception as why:
        print(why)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    assert "cannot be read as a video" in done.stdout


def test_a_real_clip_with_hidden_frames_shows_the_seventeen_that_players_show(
    real_data: Path,
) -> None:
    """Its index names 37 frames; 20 of them lie before the cut."""
    source = opened(real_data / "video_pyronear_synthetic_parts" / "test_bg.mp4")
    assert source.native_times is not None
    assert len(source.native_times) == 17
    assert [p is not None for p in source.pictures([0, 0.64, 0.7])] == [True, True, False]
    assert source.warnings == []
    source.close()


def test_the_box_track_of_a_fire_is_interpolated_at_the_frames_own_instant(tmp_path: Path) -> None:
    fire = {
        "id": "oak",
        "onset": 1,
        "boxes": [
            {"at": 1, "box": [0.4, 0.5, 0.1, 0.2]},
            {"at": 3, "box": [0.6, 0.5, 0.3, 0.4]},
        ],
    }
    path = write_video(tmp_path / "v.mp4", [0, 1000, 2000, 3000, 4000])
    source = opened(path, fires=[fire])
    assert (source.label(0.5).smoke, source.label(0.5).boxed) == (False, True)
    assert source.label(1).truth[0].box == Box(0.4, 0.5, 0.1, 0.2)
    between = source.label(2.9).truth[0].box  # the frame of second 2 is still shown
    assert between is not None
    assert (between.xc, between.w, between.h) == pytest.approx((0.5, 0.2, 0.3))
    after = source.label(4)
    assert (after.smoke, after.truth[0].box, after.boxed) == (True, None, False)


def test_a_single_box_holds_for_the_whole_fire(tmp_path: Path) -> None:
    fire = {"id": "oak", "onset": 1, "boxes": [{"at": 1, "box": [0.4, 0.5, 0.1, 0.2]}]}
    path = write_video(tmp_path / "v.mp4", [0, 1000, 2000])
    assert opened(path, fires=[fire]).label(2).truth[0].box == Box(0.4, 0.5, 0.1, 0.2)


def test_equal_frames_are_encoded_once_and_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [0, 1000])
    a = [p.jpeg for p in opened(path).pictures([0, 0.5]) if p is not None]
    b = [p.jpeg for p in opened(path).pictures([0, 0.5]) if p is not None]
    assert a == b
    assert a[0] is a[1]


def test_a_video_smaller_than_the_asked_height_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [0])
    with pytest.raises(SourceError, match=r"v\.mp4: 64x48 would have to be enlarged"):
        opened(path, perturb={"height": 480})
