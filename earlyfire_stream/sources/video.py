"""Video files as cameras.

Every frame stands at its own timestamp, never at index / rate: phones, screen recorders and IP
cameras write variable rates. The timestamps are read first, from the packets and without decoding
(an hour in well under a second) where the file allows that; then the file is decoded once, in
order, and only the frames that are asked for are turned into pixels.
"""

from __future__ import annotations

import os
import statistics
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

import cv2

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.models import Camera, VideoSource
from earlyfire_stream.sources.base import UNKNOWN, Image, Label, Picture
from earlyfire_stream.sources.mp4_index import read_index
from earlyfire_stream.sources.optics import Optics
from earlyfire_stream.sources.truth import declared

__all__ = ["VideoFile", "open_video", "silence_decoders"]

_SAME_INSTANT_S = 1e-3
"""Containers count in milliseconds or finer."""
_SEEK_BEYOND_S = 20.0
"""Below this, decoding on is as fast as seeking."""
_SEEK_BEYOND_FRAMES = 100
"""The same where frames lie far apart: a time lapse must not seek for each of them."""
_SEEK_MARGIN_S = 5.0
_HEADER_SLACK_S = 1.5
"""By so much a header's length may differ: the last frame's own time, sound that goes on."""


def silence_decoders() -> None:
    """Keep OpenCV and its FFmpeg from writing to stderr; to be called before the first video.

    What is broken in a file is said here, once and with its consequences, not by the decoder,
    once a macroblock. FFmpeg's part reads the variable when it is first used; -8 is AV_LOG_QUIET.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


class VideoFile:
    """One video file, `times` being its frames' instants from `start` on."""

    def __init__(self, camera: Camera, path: Path, optics: Optics, duration: float | None) -> None:
        source = camera.source
        assert isinstance(source, VideoSource)
        self.warnings: list[str] = []
        self._camera = camera
        self._path = path
        self._optics = optics
        stamps = _timestamps(path, self.warnings)
        gaps = [b - a for a, b in pairwise(stamps)]
        gap_s = statistics.median(gaps) if gaps else camera.cadence or 1.0
        length_s = stamps[-1] + gap_s
        if source.start >= length_s:
            raise SourceError(
                f"{path}: is {length_s:g} s long, start is {source.start:g} s; start earlier"
            )
        first = max(0, bisect_right(stamps, source.start + _SAME_INSTANT_S) - 1)
        self._stamps = stamps[first:]
        """Instants in the file, seconds from its first frame."""
        self._times = tuple(max(0.0, t - source.start) for t in self._stamps)
        self._cadence_s = gap_s
        self._pass_s = length_s - source.start
        """Scenario seconds of one pass."""
        self._loop = source.loop
        self._native: tuple[float, ...] | None = self._times
        if self._loop:
            # With a cadence, or without an end, it is asked at any instant instead.
            self._native = None
            if camera.cadence is None and duration is not None:
                passes = range(int(duration // self._pass_s) + 1)
                tiled = (n * self._pass_s + t for n in passes for t in self._times)
                self._native = tuple(t for t in tiled if t < duration)
        if self._loop and camera.fires:
            self.warnings.append(
                f"{path.name} loops, its fires do not: from {self._pass_s:g} s on the pictures "
                "begin again and the truth goes on"
            )
        self._decoder = _Decoder(path, max(_SEEK_BEYOND_S, _SEEK_BEYOND_FRAMES * gap_s))
        self._size = self._try_first_frame()

    @property
    def native_times(self) -> tuple[float, ...] | None:
        return self._native

    @property
    def cadence_s(self) -> float:
        return self._cadence_s

    @property
    def ends_at(self) -> float | None:
        return None if self._loop else self._pass_s

    def pictures(self, times: Iterable[float]) -> Iterator[Picture | None]:
        shown, jpeg = -1, b""
        image: Image | None = None
        for at in times:
            index = self._index(at)
            if index is None:
                yield None
                continue
            if index != shown:
                image, jpeg, shown = self._decoder.frame_at(self._stamps[index]), b"", index
                if image is None:
                    self._say_lost(index)
            if image is None:
                yield None
                continue
            if not jpeg or not self._optics.steady:
                jpeg = self._optics.develop(image, at)
            yield Picture(at, jpeg, self.label(at))

    def label(self, at: float) -> Label:
        index = self._index(at)
        if index is None or not self._camera.truth:
            return UNKNOWN
        begin = at - at % self._pass_s if self._loop else 0.0
        label = declared(self._camera.fires, begin + self._times[index])
        return self._optics.see(label, at, self._size)

    def close(self) -> None:
        self._decoder.close()

    def _index(self, at: float) -> int | None:
        if self._loop:
            at %= self._pass_s
        if not 0 <= at < self._pass_s:
            return None
        return max(0, bisect_right(self._times, at + _SAME_INSTANT_S) - 1)

    def _try_first_frame(self) -> tuple[int, int]:
        image = self._decoder.frame_at(self._stamps[0])
        if image is None:
            raise SourceError(
                f"{self._path}: none of its frames can be decoded from {self._stamps[0]:g} s on; "
                "convert it, for example with ffmpeg -i FILE -c:v libx264 new.mp4"
            )
        size = image.shape[1], image.shape[0]
        try:
            self._optics.check_size(size)
        except SourceError as why:
            raise SourceError(f"{self._path}: {why}") from why
        return size

    def _say_lost(self, index: int) -> None:
        end_s = self._decoder.ended_at_s
        if end_s is None:
            self.warnings.append(
                f"{self._path}: the frame at {self._stamps[index]:.3f} s cannot be decoded"
            )
            return
        whole = sum(t <= end_s + _SAME_INSTANT_S for t in self._stamps)
        text = (
            f"{self._path}: is cut off or damaged: {whole} of {len(self._stamps)} frames can be "
            f"decoded; what follows {end_s:.3f} s is lost"
        )
        if text not in self.warnings:
            self.warnings.append(text)


def open_video(camera: Camera, base: Path, optics: Optics, duration: float | None) -> VideoFile:
    """SourceError if the file is missing, empty, no video, or cannot be decoded at all."""
    source = camera.source
    assert isinstance(source, VideoSource)
    silence_decoders()
    path = base / Path(source.path).expanduser()
    if path.is_dir():
        raise SourceError(f"{path}: is a folder; kind: images plays a folder of images")
    if not path.is_file():
        raise SourceError(f"{path}: no such file; check `path` of the source")
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: is empty (0 bytes); copy it again")
    return VideoFile(camera, path.resolve(), optics, duration)


def _timestamps(path: Path, warnings: list[str]) -> list[float]:
    """Instants of all frames in order of display, seconds from the first one."""
    index = read_index(path)
    stamps: list[float] = []
    if index is None or not index.hides_some:
        stamps, header_s = _positions(path, [cv2.CAP_PROP_FORMAT, -1])
        found_s = max(stamps, default=0.0) - min(stamps, default=0.0)
        if index is not None and len(stamps) < index.packets:
            warnings.append(
                f"{path}: is cut off: its index names {index.packets} frames, {len(stamps)} are "
                "in it; the rest is lost"
            )
        elif index is None and stamps and header_s > found_s + _HEADER_SLACK_S:
            warnings.append(
                f"{path}: is cut off or damaged: it says that it is {header_s:.1f} s long, its "
                f"pictures end at {found_s:.1f} s"
            )
    if len(set(stamps)) <= 1:
        # Hidden packets, or an OpenCV before 4.11, which does not tell the time of packets.
        stamps, _ = _positions(path, [])
    if not stamps:
        raise SourceError(f"{path}: has no video frame that can be read")
    ordered = sorted(set(stamps))
    if len(ordered) == 1 and len(stamps) > 1:
        raise SourceError(
            f"{path}: has {len(stamps)} frames and no timestamps; put it into a container: "
            "ffmpeg -r RATE -i FILE -c copy new.mp4"
        )
    return [t - ordered[0] for t in ordered]


def _positions(path: Path, settings: list[int]) -> tuple[list[float], float]:
    """(instants of all that can be grabbed, length that the header says), seconds."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, settings)
    try:
        if not capture.isOpened():
            raise SourceError(
                f"{path}: cannot be read as a video: it is none, or it was cut off before its "
                "index was written (an MP4 keeps it at the end)"
            )
        count, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        stamps = []
        while capture.grab():
            stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        return stamps, count / rate if rate > 0 else 0.0
    finally:
        capture.release()


class _Decoder:
    """Decodes forwards; instants are seconds from the file's first frame."""

    def __init__(self, path: Path, seek_beyond_s: float) -> None:
        self._path = path
        self._seek_beyond_s = seek_beyond_s
        self._open()

    def _open(self) -> None:
        self._capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        self._at_s = -1.0
        self._zero_s: float | None = None
        self.ended_at_s: float | None = None
        """The last frame that could be decoded, once the file has come to its end."""

    def close(self) -> None:
        self._capture.release()

    def frame_at(self, wanted_s: float) -> Image | None:
        """The frame that stands at `wanted_s`, None if it cannot be decoded."""
        if wanted_s < self._at_s - _SAME_INSTANT_S:
            self.close()
            self._open()
        if self._at_s >= 0 and wanted_s - self._at_s > self._seek_beyond_s:
            self._leap(wanted_s - _SEEK_MARGIN_S)
        while self._at_s < wanted_s - _SAME_INSTANT_S:
            if not self._grab():
                return None
        if self._at_s > wanted_s + _SAME_INSTANT_S:
            return None
        done, image = self._capture.retrieve()
        return cast(Image, image) if done and image is not None else None

    def _grab(self) -> bool:
        if self.ended_at_s is not None:
            return False
        if not self._capture.grab():
            self.ended_at_s = max(self._at_s, 0.0)
            return False
        position_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self._zero_s is None:
            self._zero_s = position_s
        self._at_s = position_s - self._zero_s
        return True

    def _leap(self, to_s: float) -> None:
        """Seek near `to_s`, never beyond it: OpenCV seeks by the mean rate, which may be wrong."""
        zero_s = self._zero_s or 0.0
        self._capture.set(cv2.CAP_PROP_POS_MSEC, (to_s + zero_s) * 1000)
        if self._grab() and self._at_s <= to_s:
            return
        self.close()
        self._open()
