"""Key frames of a run folder as small pictures inside the page, with truth and predicted boxes.

A file is only shown as a frame if it is that frame's picture (its identity says so). Every picture
is decoded and encoded again, so that nothing of a stranger's file reaches the page but its pixels.
"""

from __future__ import annotations

__all__ = ["MAX_BYTES", "MAX_PICTURES", "Gallery", "Picture", "gallery"]

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from earlyfire_stream.frames import FrameLimits, Refused, identity, parse
from earlyfire_stream.records import RunLog, key_frame
from earlyfire_stream.report.figures import alarm_kind
from earlyfire_stream.report.summary import clock, duration
from earlyfire_stream.scoring.footage import Footage, FrameOutcome
from earlyfire_stream.verdict import Box, burns

MAX_PICTURES = 48
MAX_BYTES = 4_000_000
"""Of all pictures together, as they stand in the page."""
_NUMBER = re.compile(r"-(\d{6,18})-[a-z]+\.jpg$")
WIDTH = 640
QUALITY = 74


@dataclass(frozen=True, slots=True)
class Picture:
    kind: str
    """`true`, `false`, `unlocated`, `unknown`, `late` or `missed`."""
    camera: str
    caption: str
    said: str
    """What the model answered, and how sure it was."""
    explanation: str
    data: str
    """`data:` address of the picture."""
    width: int
    height: int
    truth: tuple[tuple[float, float, float, float], ...]
    """x, y, width, height in hundredths of the picture."""
    predicted: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    pictures: tuple[Picture, ...]
    left_out: int
    """Kept in the folder, but beyond what a page shows."""
    unusable: int
    """Files that are not the frame they are named after, or no picture at all."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    kind: str
    path: Path
    frame: FrameOutcome
    onset: float | None


def gallery(folder: Path, log: RunLog, everything: Sequence[Footage]) -> Gallery:
    """The pictures to show: alarms of every kind by turns, then misses.

    Those of a run that was scored from several folders lie in these.
    """
    places = [place / "frames" for place in log.folders or (folder,)]
    kept = {path.name: path for place in places if place.is_dir() for path in place.iterdir()}
    explanations = {(e.camera, e.seq): e.text for e in log.explanations if not e.error}
    chosen = list(_by_turns(_candidates(kept, log, everything)))
    pictures: list[Picture] = []
    room = MAX_BYTES
    unusable = 0
    for number, candidate in enumerate(chosen):
        if len(pictures) == MAX_PICTURES or room <= 0:
            return Gallery(tuple(pictures), len(chosen) - number, unusable)
        small = _small(candidate.path, candidate.frame)
        if small is None:
            unusable += 1
            continue
        data, width, height = small
        room -= len(data)
        shot = candidate.frame.shot
        pictures.append(
            _picture(candidate, data, width, height, explanations.get((shot.camera, shot.seq), ""))
        )
    return Gallery(tuple(pictures), 0, unusable)


def _candidates(
    kept: Mapping[str, Path], log: RunLog, everything: Sequence[Footage]
) -> Mapping[str, Sequence[_Candidate]]:
    numbers = {int(found[1]) for name in kept if (found := _NUMBER.search(name))}
    alarmed = {(r.alarm.camera, r.alarm.seqs[-1]): r for r in log.alarms if r.emitted}
    groups: dict[str, list[_Candidate]] = {}
    for one in everything:
        for frame in one.frames:
            if frame.seq not in numbers:
                continue
            record = alarmed.get((one.plan.id, frame.seq))
            if record is None and (frame.verdict is None or frame.verdict.has_smoke):
                continue
            name = key_frame(one.plan.id, frame.seq, "missed" if record is None else "alarm")
            if name not in kept:
                continue
            kind = "missed" if record is None else alarm_kind(one, record, frame)
            burning = (f.onset for f in one.plan.fires if burns(f, frame.captured_at))
            onset = max(burning, default=None)
            groups.setdefault(kind, []).append(_Candidate(kind, kept[name], frame, onset))
    return groups


def _by_turns(groups: Mapping[str, Sequence[_Candidate]]) -> Iterator[_Candidate]:
    """One of each kind in turn, so that hundreds of one kind leave room for the others."""
    kinds = ("true", "false", "missed", "unlocated", "late", "unknown")
    for row in zip_longest(*(groups.get(kind, ()) for kind in kinds)):
        yield from (c for c in row if c is not None)


def _small(path: Path, frame: FrameOutcome) -> tuple[str, int, int] | None:
    limits = FrameLimits()
    try:
        if path.stat().st_size > limits.max_bytes:
            return None
        jpeg = path.read_bytes()
        told = frame.shot.identity or (frame.record.identity if frame.record else "")
        if told and identity(jpeg) != told:
            return None
        if isinstance(parse(jpeg, limits), Refused):
            return None
        with Image.open(BytesIO(jpeg), formats=["JPEG"]) as picture:
            picture.draft("RGB", (WIDTH, WIDTH))
            small = picture.convert("RGB")
        small.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    out = BytesIO()
    small.save(out, "JPEG", quality=QUALITY, optimize=True)
    text = base64.b64encode(out.getvalue()).decode()
    return f"data:image/jpeg;base64,{text}", small.width, small.height


def _picture(
    candidate: _Candidate, data: str, width: int, height: int, explanation: str
) -> Picture:
    frame = candidate.frame
    shot = frame.shot
    at = clock(shot.captured_at)
    if candidate.onset is not None:
        caption = f"frame {shot.seq} at {at}, {duration(shot.captured_at - candidate.onset)} after"
        caption += " the onset"
    else:
        caption = f"frame {shot.seq} at {at}, no fire"
    verdict = frame.verdict
    said = ""
    if verdict is not None:
        said = "smoke" if verdict.has_smoke else "no smoke"
        if verdict.confidence is not None:
            said += f", confidence {verdict.confidence:.2f}"
    return Picture(
        kind=candidate.kind,
        camera=shot.camera,
        caption=caption,
        said=said,
        explanation=explanation,
        data=data,
        width=width,
        height=height,
        truth=tuple(_hundredths(t.box) for t in shot.truth if t.box is not None),
        predicted=(_hundredths(verdict.box),) if verdict is not None and verdict.box else (),
    )


def _hundredths(box: Box) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.corners
    return (
        round(100 * x1, 2),
        round(100 * y1, 2),
        round(100 * (x2 - x1), 2),
        round(100 * (y2 - y1), 2),
    )
