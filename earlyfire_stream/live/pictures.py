"""The last picture of each camera, kept as it came and made small only when a browser asks.

Keeping is done on the run's event loop and costs one entry in a dictionary; making small is done in
a thread of the page's own. Nothing of a stranger's file reaches a browser but its pixels.
"""

from __future__ import annotations

__all__ = ["Pictures", "small"]

import threading
from collections import OrderedDict

import cv2
import numpy as np

from earlyfire_stream.frames import FrameLimits, Refused, parse

KEPT_BYTES = 256_000_000
"""Of all cameras' last pictures together; the oldest go first."""
SMALL_BYTES = 24_000_000
"""Of the small pictures that are kept for the next browser."""
WIDTHS = (320, 960)
"""What a browser may ask for: a card, and the view of one camera."""
QUALITY = 78


class Pictures:
    """Written by one thread, read by others."""

    def __init__(self, room_bytes: int = KEPT_BYTES) -> None:
        self._room_bytes = room_bytes
        self._held_bytes = 0
        self._last: dict[str, tuple[int, bytes]] = {}
        """In order of their coming, the oldest first."""
        self._small: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._small_bytes = 0
        self._shrinking = threading.Lock()

    def keep(self, camera: str, seq: int, jpeg: bytes) -> None:
        before = self._last.pop(camera, None)
        if before is not None:
            self._held_bytes -= len(before[1])
        self._last[camera] = (seq, jpeg)
        self._held_bytes += len(jpeg)
        while self._held_bytes > self._room_bytes and len(self._last) > 1:
            _, jpeg = self._last.pop(next(iter(self._last)))
            self._held_bytes -= len(jpeg)

    def seq(self, camera: str) -> int | None:
        found = self._last.get(camera)
        return None if found is None else found[0]

    def shrunk(self, camera: str, width: int) -> tuple[int, bytes] | None:
        """(seq, JPEG) of the last picture at that width; None if there is none. Takes a while."""
        found = self._last.get(camera)
        if found is None:
            return None
        seq, jpeg = found
        key = (camera, seq, width)
        with self._shrinking:  # several browsers ask for the same picture at once
            if key in self._small:
                self._small.move_to_end(key)
                return seq, self._small[key]
            made = small(jpeg, width)
            if made is None:
                return None
            self._small[key] = made
            self._small_bytes += len(made)
            while self._small_bytes > SMALL_BYTES:
                _, gone = self._small.popitem(last=False)
                self._small_bytes -= len(gone)
        return seq, made


def small(jpeg: bytes, width: int) -> bytes | None:
    """That picture as a new JPEG, at most that wide; None for what cannot be decoded."""
    frame = parse(jpeg, FrameLimits())
    if isinstance(frame, Refused):
        return None
    how = cv2.IMREAD_COLOR
    for factor, reduced in (
        (8, cv2.IMREAD_REDUCED_COLOR_8),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
    ):
        if frame.width >= factor * width:
            how = reduced
            break
    try:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), how | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            return None
        if image.shape[1] > width:
            height = max(1, round(image.shape[0] * width / image.shape[1]))
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        ok, made = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    except cv2.error:
        return None
    return made.tobytes() if ok else None
