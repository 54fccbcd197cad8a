"""A contact sheet: what the cameras of a scenario show, over time, with the truth drawn in.

One row a camera: its name and source, a time line with its fires (amber) and outages (red), and
frames picked so that the first onset is among them, about a third of them before it. Boxes are
the truth that a run is scored against; small ones are shown again, enlarged, in a corner.
"""

from __future__ import annotations

__all__ = ["contact_sheet"]

import io
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from earlyfire_stream.scenario.models import Camera, Fire
from earlyfire_stream.sources.base import Label, Picture, Source
from earlyfire_stream.sources.open import open_source
from earlyfire_stream.verdict import Box

Progress = Callable[[int, int], None]
"""(frames done, frames in all)"""

ENDLESS_S = 600.0
"""Scenario seconds shown of a camera that never ends, after its last onset."""

_PAPER = (17, 20, 24)
_INK = (232, 234, 237)
_FAINT = (148, 155, 164)
_RULE = (52, 58, 66)
_FIRE = (255, 159, 28)
_ALERT = (239, 83, 80)

_MARGIN = 28
_GAP = 10
_HEAD = 62
"""Height of a row's name and time line."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    cameras: Sequence[Camera],
    base: Path,
    seed: int,
    duration: float | None = None,
    *,
    columns: int = 6,
    width: int = 1920,
    max_cameras: int = 12,
    progress: Progress | None = None,
) -> bytes:
    """A PNG of `width` pixels; `base`, `seed` and `duration` are the scenario's.

    `cameras` are expanded ones; of more than `max_cameras` the first ones are shown and the rest
    is counted. SourceError if a camera that is shown cannot be opened. ValueError if `width`
    leaves no room for `columns`.
    """
    tile = (width - 2 * _MARGIN - (columns - 1) * _GAP) // columns
    if columns < 1 or tile < 80:
        raise ValueError(f"{columns} columns do not fit into {width} pixels")
    shown = cameras[:max_cameras]
    rows = []
    total = columns * sum(c.source.kind != "stream" for c in shown)
    done = 0

    def made() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, max(done, total))

    for camera in shown:
        if camera.source.kind == "stream":
            rows.append(_bare_row(camera, width))
            continue
        source = open_source(camera, base, seed, duration)
        try:
            rows.append(_row(camera, source, duration, columns, tile, width, made))
        finally:
            source.close()
    if progress is not None:
        progress(total, total)
    rest = len(cameras) - len(shown)
    if rest:
        rows.append(_note_row(f"and {rest} more camera{'s' if rest > 1 else ''}", width))
    sheet = Pillow.new("RGB", (width, sum(r.height for r in rows) + 2 * _MARGIN), _PAPER)
    top = _MARGIN
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


# --- which instants ------------------------------------------------------------------------------


def _span(camera: Camera, source: Source, duration: float | None) -> float:
    """Scenario seconds that the row covers."""
    ends = [e for e in (duration, source.ends_at) if e is not None]
    if ends:
        return min(ends)
    return max((f.onset for f in camera.fires), default=0.0) + ENDLESS_S


def instants(
    span: float, fires: Sequence[Fire], native_times: Sequence[float] | None, count: int
) -> list[float]:
    """Up to `count` instants to show: the first onset, a third before it, the rest spread after.

    Sources with times of their own are asked at these, each once, so there may be fewer.
    """
    onset = min((f.onset for f in fires), default=math.inf)
    if 0 < onset < span and count > 1:
        before = max(1, round(count / 3))
        after = count - before
        picked = [onset * i / before for i in range(before)]
        picked += [onset + (span - onset) * i / after for i in range(after)]
    else:
        picked = [span * i / count for i in range(count)]
    if native_times is None:
        return picked
    # Not `bisect_left`: what stands at an instant between two frames is the older one. Only the
    # onset is moved on to the first frame that can show it.
    found = set()
    for at in picked:
        index = max(0, bisect_right(native_times, at + 1e-6) - 1)
        if at == onset and native_times[index] < onset - 1e-6:
            index = min(index + 1, len(native_times) - 1)
        found.add(native_times[index])
    return sorted(found)


# --- one camera ----------------------------------------------------------------------------------


def _row(
    camera: Camera,
    source: Source,
    duration: float | None,
    columns: int,
    tile: int,
    width: int,
    made: Callable[[], None],
) -> Pillow.Image:
    span = _span(camera, source, duration)
    times = instants(span, camera.fires, source.native_times, columns)
    pictures = []
    for picture in source.pictures(times):
        pictures.append(picture)
        made()
    sizes = [_pixels(p).shape[1::-1] for p in pictures if p is not None]
    size = sizes[0] if sizes else (16, 9)
    height = min(round(tile * size[1] / size[0]), 2 * tile)
    row = Pillow.new("RGB", (width, _HEAD + height + 34), _PAPER)
    draw = ImageDraw.Draw(row)
    _title(draw, camera, _description(camera, source, size if sizes else None), width)
    _time_line(draw, camera, span, times, width)
    for column, (at, picture) in enumerate(zip(times, pictures, strict=True)):
        left = _MARGIN + column * (tile + _GAP)
        image = _tile(camera, at, picture, source.label(at), (tile, height))
        row.paste(image, (left, _HEAD))
    if source.warnings:
        _text(draw, (_MARGIN, _HEAD + height + 6), source.warnings[0][:200], 13, _ALERT)
    return row


def _bare_row(camera: Camera, width: int) -> Pillow.Image:
    row = Pillow.new("RGB", (width, _HEAD), _PAPER)
    _title(ImageDraw.Draw(row), camera, "a live camera: nothing to show before it runs", width)
    return row


def _note_row(text: str, width: int) -> Pillow.Image:
    row = Pillow.new("RGB", (width, 30), _PAPER)
    _text(ImageDraw.Draw(row), (_MARGIN, 4), text, 16, _FAINT)
    return row


def _description(camera: Camera, source: Source, size: tuple[int, int] | None) -> str:
    parts: list[str] = [camera.source.kind]
    if size is not None:
        parts.append(f"{size[0]}x{size[1]}")
    cadence = camera.cadence or source.cadence_s
    if cadence and camera.source.kind != "stills":
        parts.append(f"a frame every {cadence:.3g} s")
    if source.native_times is not None:
        parts.append(f"{len(source.native_times):,} frames")
    if not camera.truth:
        parts.append("no truth")
    return "  ·  ".join(parts)


def _title(draw: ImageDraw.ImageDraw, camera: Camera, text: str, width: int) -> None:
    draw.line((_MARGIN, 0, width - _MARGIN, 0), _RULE)
    end = _text(draw, (_MARGIN, 8), camera.id, 20, _INK)
    _text(draw, (end + 16, 12), text, 15, _FAINT)
    fires = ", ".join(f"{f.id} at {_clock(f.onset)}" for f in camera.fires[:4])
    clocked = camera.source.kind not in ("stills", "stream")
    right = fires if fires else "no fire" if camera.truth and clocked else ""
    _text(draw, (width - _MARGIN, 12), right, 15, _FIRE if fires else _FAINT, anchor="ra")


def _time_line(
    draw: ImageDraw.ImageDraw, camera: Camera, span: float, times: Sequence[float], width: int
) -> None:
    y = 46
    left, right = _MARGIN, width - _MARGIN

    def x(at: float) -> float:
        return left + (right - left) * min(max(at / span, 0.0), 1.0)

    if camera.source.kind == "stills":
        return
    draw.line((left, y, right, y), _RULE, 3)
    for fire in camera.fires:
        draw.line((x(fire.onset), y, x(span if fire.end is None else fire.end), y), _FIRE, 3)
    for outage in camera.outages:
        draw.line((x(outage.start), y, x(outage.end), y), _ALERT, 3)
    for at in times:
        draw.ellipse((x(at) - 3, y - 3, x(at) + 3, y + 3), _FAINT)
    for fire in camera.fires:
        at = x(fire.onset)
        draw.polygon([(at - 6, y - 10), (at + 6, y - 10), (at, y - 1)], _FIRE)


# --- one frame -----------------------------------------------------------------------------------


def _tile(
    camera: Camera, at: float, picture: Picture | None, label: Label, size: tuple[int, int]
) -> Pillow.Image:
    if picture is None:
        image = Pillow.new("RGB", size, (34, 24, 26))
        draw = ImageDraw.Draw(image)
        _text(draw, (size[0] / 2, size[1] / 2), "lost", 18, _ALERT, anchor="mm")
    else:
        pixels = _pixels(picture)
        label = picture.label
        whole = Pillow.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        # Another shape than the first picture (stills): shown whole, bars beside or above it.
        scale = min(size[0] / whole.width, size[1] / whole.height)
        inner = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
        scene = whole.resize(inner, Pillow.Resampling.LANCZOS)
        draw = ImageDraw.Draw(scene)
        boxes = [(t.fire, t.box) for t in label.truth if t.box is not None]
        for fire, box in boxes:
            _draw_box(draw, box, fire if len(camera.fires) > 1 else "", inner)
        if len(boxes) == 1 and boxes[0][1].w < 0.16 and boxes[0][1].h < 0.24:
            _draw_inset(scene, whole, boxes[0][1])
        image = Pillow.new("RGB", size, (0, 0, 0))
        image.paste(scene, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
        draw = ImageDraw.Draw(image)
    _draw_stamp(draw, camera, at, label, size)
    return image


def _draw_box(draw: ImageDraw.ImageDraw, box: Box, name: str, size: tuple[int, int]) -> None:
    x1, y1, x2, y2 = (v * size[i % 2] for i, v in enumerate(box.corners))
    draw.rectangle((x1 - 2, y1 - 2, x2 + 2, y2 + 2), outline=_PAPER)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_FIRE)
    if name:
        above = y1 > 18
        _text(draw, (x1, y1 - 3 if above else y2 + 3), name, 12, _FIRE, "ls" if above else "la", 2)


def _draw_inset(image: Pillow.Image, whole: Pillow.Image, box: Box) -> None:
    """The box's surroundings, enlarged, in the lower corner that is farther from it."""
    side = round(image.height * 0.38)
    reach = max(box.w * whole.width, box.h * whole.height, 24) * 0.9
    x, y = box.xc * whole.width, box.yc * whole.height
    reach = min(reach, whole.width / 2, whole.height / 2)
    x = min(max(x, reach), whole.width - reach)
    y = min(max(y, reach), whole.height - reach)
    part = whole.crop((round(x - reach), round(y - reach), round(x + reach), round(y + reach)))
    part = part.resize((side, side), Pillow.Resampling.LANCZOS)
    left = 6 if box.xc > 0.5 else image.width - side - 6
    top = image.height - side - 6
    image.paste(part, (left, top))
    ImageDraw.Draw(image).rectangle(
        (left - 1, top - 1, left + side, top + side), outline=_FIRE, width=1
    )


def _draw_stamp(
    draw: ImageDraw.ImageDraw, camera: Camera, at: float, label: Label, size: tuple[int, int]
) -> None:
    words: list[tuple[str, tuple[int, int, int]]] = []
    if camera.source.kind == "stills":
        words.append(({True: "smoke", False: "no smoke", None: "unknown"}[label.smoke], _INK))
    else:
        words.append((_clock(at), _INK))
        begun = [f.onset for f in camera.fires if f.onset <= at]
        if begun and label.smoke:
            since = at - max(begun)
            words.append(("onset" if since < 1e-6 else f"+{_clock(since)}", _FIRE))
    font = _font(14)
    wide = sum(font.getlength(w) for w, _ in words) + 8 * (len(words) - 1)
    draw.rectangle((0, 0, wide + 14, 23), _PAPER)
    left = 7.0
    for word, colour in words:
        left = _text(draw, (left, 4), word, 14, colour) + 8
    if label.smoke:
        draw.rectangle((0, size[1] - 3, size[0], size[1]), _FIRE)


# --- drawing -------------------------------------------------------------------------------------


def _pixels(picture: Picture) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[return-value]


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    anchor: str = "la",
    stroke: int = 0,
) -> float:
    """Write `text`; gives the x of its end."""
    font = _font(size)
    draw.text(at, text, colour, font=font, anchor=anchor, stroke_width=stroke, stroke_fill=_PAPER)
    return at[0] + font.getlength(text)


def _clock(seconds: float) -> str:
    """`4:07`, `1:02:30`; below a minute with tenths where they matter: `0:07.4`."""
    whole = int(seconds)
    tenths = f".{int(seconds * 10) % 10}" if seconds < 60 and seconds != whole else ""
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{second:02d}{tenths}"
