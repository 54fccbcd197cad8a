"""From a dataset's folder to its recordings, and from these to cameras.

A recording is one camera: its files stay where they are. Only names are read, and label files up to
the first smoke, so that hundreds of recordings are found in moments. Whatever is wrong with one of
them is a `Fault` that names file and remedy; nothing is guessed and no gap is averaged away.

What the layout tells of a fire (which recordings show the same one) becomes its id, and the share
of a split is drawn from that id alone: a fire never lies in two shares.
"""

from __future__ import annotations

__all__ = ["GAP_FACTOR", "Fault", "Found", "Recording", "cameras", "find", "fraction", "turns"]

import csv
import fnmatch
import hashlib
import heapq
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError

from earlyfire_stream.errors import SourceError
from earlyfire_stream.scenario.annotations import read_coco, read_yolo
from earlyfire_stream.scenario.image_names import SUFFIXES, epoch_of, images_in, natural_key
from earlyfire_stream.scenario.models import (
    SPLIT,
    BoxAt,
    Camera,
    Dataset,
    Fire,
    ImagesSource,
    StillsSource,
    VideoSource,
)
from earlyfire_stream.scenario.units import parse_seconds

GAP_FACTOR = 3
"""A gap of more than so many usual ones is a hole. FIgLib's double gaps pass."""
PLAUSIBLE_S = (0.5, 3600.0)
"""The usual gap of images whose names carry a clock; outside, the clock is not a camera's."""
PYRONEAR_INTERVAL_S = 30.0
"""Its file names' clocks tell 7 s, which is when the files were written, not when taken."""
MAX_DEPTH = 6
"""Folders below a dataset's own that are looked into."""
VIDEOS = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".ts", ".mpg", ".mpeg"})

_FIGLIB_FILE = re.compile(r"(\d+)_([+-]\d{1,5})(?:_(?:img|lbl))?\.jpe?g", re.IGNORECASE)
_FIGLIB_FOLDER = re.compile(r"(\d{8}_.+)_([^_]+)")
"""`20160604_FIRE_rm-n-mobo-c`: the fire, then the camera."""
_PYRONEAR_FOLDER = re.compile(r"(.+)_(\d+)_(\d{4}-\d{2}-\d{2})T\d{2}-\d{2}-\d{2}")
_SAI_FOLDER = re.compile(r"(.+)-([01])")
_HAS_PARTS = frozenset({"pyronear", "yolo", "coco"})
"""Layouts with a folder for each part: train, val, test."""
_UNTOLD = frozenset({"images", "frames", "img", "imgs"})
"""Folder names that say nothing about the recording."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one recording (its name), or with the whole dataset (no name)."""

    name: str
    message: str
    hint: str = ""
    place: str = ""
    """As in `Recording`: tells it from others of its name."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One camera's worth of files, before it has an id. Instants in seconds from its begin."""

    name: str
    """Its folder's or file's own name."""
    place: str
    """The way to it from the dataset's folder, `/` between the parts."""
    group: str
    """What it shares with recordings of the same fire; else its own name."""
    source: ImagesSource | StillsSource | VideoSource
    onset: float | None = None
    end: float | None = None
    onset_source: str = ""
    boxes: tuple[BoxAt, ...] = ()
    frames: int | None = None
    """None for a video, whose frames nobody has counted yet."""
    cadence_s: float | None = None
    length_s: float | None = None
    """From its first frame to the end of its last; None for a video."""
    widest_gap_s: float | None = None


@dataclass(slots=True)
class Found:
    """What a dataset holds."""

    recordings: list[Recording] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    left_out: int = 0
    """Recordings that `only`, `skip` or `split` leave out."""


def find(dataset: Dataset, base: Path) -> Found:
    """Every recording of `dataset` in order of name; relative paths start at `base`."""
    found = Found()
    try:
        root = _Root(dataset, base)
        _LAYOUTS[dataset.layout](root, found)
    except _Refused as why:
        found.faults.append(Fault("", *why.args))
    except SourceError as why:
        found.faults.append(Fault("", str(why)))
    except OSError as why:
        found.faults.append(Fault("", f"{why.filename}: cannot be read: {why.strerror}"))
    found.recordings.sort(key=lambda r: (natural_key(r.name), natural_key(r.place)))
    if not found.faults and not found.recordings:
        why_none, hint = "no recording in it", _WANTED[dataset.layout]
        if found.left_out:
            why_none = f"all {found.left_out} recordings are left out"
            hint = "look at only, skip and split"
        elif dataset.split is not None and not SPLIT.fullmatch(dataset.split):
            why_none = f"no recording in a folder {dataset.split!r:.40} of it, as split asks"
        found.faults.append(Fault("", f"{dataset.path!r:.200}: {why_none}", hint))
    return found


def cameras(dataset: Dataset, recordings: Sequence[Recording]) -> tuple[Camera, ...]:
    """A camera of each recording: ids from their names, valid and unique; phases for `at_once`."""
    made = []
    begins = turns(dataset, recordings)
    for recording, camera_id, begin in zip(
        recordings, _ids(dataset, recordings), begins, strict=True
    ):
        made.append(
            Camera(
                id=camera_id,
                source=recording.source,
                phase=begin,
                fires=_fires(recording),
                perturb=dataset.perturb,
                network=dataset.network,
            )
        )
    return tuple(made)


def _fires(recording: Recording) -> tuple[Fire, ...]:
    """ValidationError where its truth contradicts itself: a box before the onset, say."""
    if recording.onset is None:
        return ()
    return (
        Fire(
            id=_name(recording.group),
            onset=recording.onset,
            end=recording.end,
            onset_source=recording.onset_source,
            boxes=recording.boxes,
        ),
    )


def fraction(*words: str) -> float:
    """A number from 0 to 1 that belongs to these words for ever."""
    text = "\0".join(words).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def turns(dataset: Dataset, recordings: Sequence[Recording]) -> list[float | None]:
    """When each recording begins; None leaves it to the fleet's own stagger."""
    at_once = dataset.at_once
    if at_once is None:
        return [None] * len(recordings)
    lanes = [(0.0, lane) for lane in range(min(at_once, len(recordings)))]
    begins: list[float | None] = []
    for recording in recordings:
        free, lane = heapq.heappop(lanes)
        begin = free
        if not begin:
            # lanes that begin together would publish in bursts ever after
            begin = round(lane / at_once * (recording.cadence_s or 1.0), 3)
        begins.append(begin)
        heapq.heappush(lanes, (round(begin + (recording.length_s or 0.0), 3), lane))
    return begins


# --- names ---------------------------------------------------------------------------------------


def _name(text: str) -> str:
    """A valid id that tells its text apart from others: what had to go is told by a hash."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip("_.-")
    if clean == text and len(clean) <= 64:
        return clean
    return f"{clean[:57] or 'camera'}-{_mark(text)}"


def _mark(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=3).hexdigest()


def _ids(dataset: Dataset, recordings: Sequence[Recording]) -> list[str]:
    before = f"{dataset.prefix}-" if dataset.prefix else ""
    wanted = [_name(before + r.name) for r in recordings]
    often = Counter(wanted)
    # two folders of one name in different places: the place tells them apart
    return [
        name if often[name] == 1 else f"{name[:57]}-{_mark(r.place)}"
        for name, r in zip(wanted, recordings, strict=True)
    ]


def _group(name: str) -> str:
    """FIgLib's names tell the fire, wherever they are met."""
    found = _FIGLIB_FOLDER.fullmatch(name)
    return found[1] if found else name


# --- what is taken -------------------------------------------------------------------------------


_Wanted = tuple[str, str, str, Callable[[], Recording]]
"""(name, place, group) of a recording, and how it is made."""


class _Refused(Exception):
    """(message, hint) about the whole dataset."""


class _Skip(Exception):
    """(message, hint) about one recording."""


@dataclass(slots=True)
class _Names:
    """Names and patterns of recordings."""

    exact: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    spelled: set[str] = field(default_factory=set)
    """Those that stand in the scenario itself and have met nothing yet."""

    def add(self, text: str) -> None:
        (self.patterns if any(c in text for c in "*?[") else self.exact).add(text)

    def hold(self, name: str, place: str) -> bool:
        met = self.exact & {name, place}
        met |= {p for p in self.patterns for text in (name, place) if fnmatch.fnmatchcase(text, p)}
        self.spelled -= met
        return bool(met)


class _Root:
    """One dataset on this machine, and what of it is wanted."""

    def __init__(self, dataset: Dataset, base: Path) -> None:
        self.dataset = dataset
        self.base = base
        self.given = Path(os.path.expanduser(dataset.path))
        """As sources name it."""
        self.real = base / self.given
        for name in ("path", "images", "onsets", "boxes", "only", "skip"):
            given = getattr(dataset, name) or ()
            if any("\0" in text for text in ((given,) if isinstance(given, str) else given)):
                raise _Refused(f"{name}: a name with a NUL in it is none", "mend or remove it")
        self._only = self._patterns("only", dataset.only)
        self._skip = self._patterns("skip", dataset.skip)
        if not self.real.exists():
            hint = "" if self.given.is_absolute() else "paths start at the scenario's own folder"
            raise _Refused(f"{dataset.path!r:.200} is not there", hint)
        part = None if SPLIT.fullmatch(dataset.split or "") else dataset.split
        if part is not None and dataset.layout not in _HAS_PARTS:
            raise _Refused(
                f"split: {part!r:.40}: {dataset.layout} has no folders for its parts",
                "write train:0.8 or test:0.2",
            )
        wants_file = dataset.layout == "coco"
        if dataset.layout != "video" and wants_file != self.real.is_file():
            raise _Refused(
                f"{dataset.path!r:.200} is a {'folder' if wants_file else 'file'}",
                _WANTED[dataset.layout],
            )

    def _patterns(self, field_name: str, entries: Sequence[str]) -> _Names:
        found = _Names()
        for entry in entries:
            if not entry.lower().endswith(".txt"):
                found.add(entry.strip("/"))
                found.spelled.add(entry.strip("/"))
                continue
            path = self.base / os.path.expanduser(entry)
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except OSError as why:
                raise _Refused(f"{field_name}: {path}: cannot be read: {why.strerror}") from why
            except UnicodeDecodeError as why:
                raise _Refused(f"{field_name}: {path}: is no text file") from why
            for line in lines:
                if text := line.partition("#")[0].strip().strip("/"):
                    found.add(text)
                    # FIgLib's own lists name images: folder/epoch_offset
                    found.add(text.partition("/")[0])
        return found

    def wants(self, name: str, place: str, group: str) -> bool:
        """False for what `only`, `skip` and `split` leave out."""
        if self.dataset.only and not self._only.hold(name, place):
            return False
        if self._skip.hold(name, place):
            return False
        share = SPLIT.fullmatch(self.dataset.split or "")
        if share is None:
            return True
        drawn = fraction("split", group)
        size = float(share[2])
        return drawn < size if share[1] == "train" else drawn >= 1 - size

    def unused(self) -> list[str]:
        """Names given in the scenario itself that no recording has: slips of the pen."""
        return sorted(self._only.spelled | self._skip.spelled)

    def folders(
        self,
        wanted: Callable[[str, list[str]], bool],
        though_empty: Callable[[str], bool] | None = None,
    ) -> list[tuple[str, list[str]]]:
        """(place, its images in order) of every folder below that has images and is wanted.

        `though_empty` says of a folder that holds nothing to look into whether it belongs to them.
        """
        found: list[tuple[str, list[str]]] = []
        seen: set[tuple[int, int]] = set()

        def visit(place: str, depth: int) -> None:
            real = self.real / place
            about = os.stat(real)
            if (about.st_dev, about.st_ino) in seen:
                return  # a link that leads back
            seen.add((about.st_dev, about.st_ino))
            images = images_in(real)
            if images and wanted(place, images):
                found.append((place, images))
            if depth == MAX_DEPTH:
                return
            with os.scandir(real) as entries:
                below = [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]
            if not images and not below and though_empty is not None and though_empty(place):
                found.append((place, []))
            for name in sorted(below, key=natural_key):
                visit(f"{place}/{name}" if place else name, depth + 1)

        visit("", 0)
        return found

    def path_of(self, place: str) -> str:
        return str(self.given / place)


def _each(
    root: _Root,
    found: Found,
    recordings: Iterable[_Wanted],
) -> None:
    """Make every (name, place, group) that is wanted; what is wrong with one is its own fault."""
    for name, place, group, make in recordings:
        if not root.wants(name, place, group):
            found.left_out += 1
            continue
        message, hint = "", ""
        try:
            made = _within(_shifted(make(), root.dataset.onset_shift))
            _fires(made)
            found.recordings.append(made)
        except _Skip as why:
            message, hint = why.args
        except ValidationError as why:
            said = why.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            message = f"{place or name}: {said}"
        except SourceError as why:
            message = str(why)
        except OSError as why:
            message = f"{why.filename}: cannot be read: {why.strerror}"
        if message:
            found.faults.append(Fault(name, message, hint, place))
    for pattern in root.unused():
        found.faults.append(
            Fault("", f"{pattern!r:.80} in only or skip names no recording", "mend or remove it")
        )


def _shifted(recording: Recording, shift: float) -> Recording:
    if recording.onset is None or not shift:
        return recording
    onset = recording.onset + shift
    if onset < 0:
        raise _Skip(
            f"{recording.place or recording.name}: onset_shift moves its onset to {onset:g} s, "
            "before its begin",
            "shift by less, or skip it",
        )
    moved = f"{recording.onset_source}, {shift:+g} s"
    return replace(recording, onset=onset, onset_source=moved)


def _within(recording: Recording) -> Recording:
    length = recording.length_s
    if recording.onset is not None and length is not None and recording.onset >= length:
        raise _Skip(
            f"{recording.place or recording.name}: its onset at {recording.onset:g} s lies behind "
            f"its end at {length:g} s",
            "mend the onset; a recording without a fire has none",
        )
    return recording


# --- clocks --------------------------------------------------------------------------------------


def _clock(
    place: str, images: Sequence[str], times: Sequence[float], dataset: Dataset
) -> tuple[float, float]:
    """(usual gap, widest gap) of ascending times; _Skip where they cannot be a camera's."""
    gaps = [b - a for a, b in pairwise(times)]
    if not gaps:
        raise _Skip(f"{place}: one image only; a recording needs two", "skip it")
    for n, gap in enumerate(gaps):
        if gap <= 0:
            raise _Skip(
                f"{place}/{images[n + 1]}: taken at the same instant as {images[n]}",
                "each image needs its own time; remove one",
            )
    usual = statistics.median(gaps)
    widest = max(gaps)
    if dataset.gaps == "accept":
        return usual, widest
    if not PLAUSIBLE_S[0] <= usual <= PLAUSIBLE_S[1]:
        raise _Skip(
            f"{place}: its images lie {usual:g} s apart, which is no camera's cadence",
            "mend the names, or write gaps: accept",
        )
    if widest > GAP_FACTOR * usual:
        n = gaps.index(widest)
        raise _Skip(
            f"{place}/{images[n]}: {widest:g} s to the next image {images[n + 1]}, the usual gap "
            f"being {usual:g} s",
            "write gaps: accept if that is as it should be, or skip it",
        )
    return usual, widest


# --- FIgLib --------------------------------------------------------------------------------------


def _figlib(root: _Root, found: Found) -> None:
    def recording(place: str, images: list[str], name: str) -> Recording:
        stamps: list[tuple[float, float, str]] = []
        strange: list[str] = []
        for image in images:
            read = _FIGLIB_FILE.fullmatch(image)
            if read is None or epoch_of(image) is None:
                strange.append(image)
            else:
                stamps.append((float(read[1]), float(read[2]), image))
        where = place or name
        if not images:
            raise _Skip(f"{where}: holds no picture", "fetch it again, or skip the folder")
        if strange:
            raise _Skip(
                f"{where}/{strange[0]}: is no FIgLib name ({len(strange)} of {len(images)} images)",
                "<epoch>_<sign><offset>.jpg is needed; move the others away, or skip the folder",
            )
        stamps.sort()
        for (_, before, _), (_, after, image) in pairwise(stamps):
            if after <= before and root.dataset.gaps == "refuse":
                raise _Skip(
                    f"{where}/{image}: its epoch is later and its offset is not: {before:+g} s "
                    f"comes before {after:+g} s",
                    "mend the name, skip the folder, or write gaps: accept",
                )
        times = [epoch for epoch, _, _ in stamps]
        usual, widest = _clock(where, [image for *_, image in stamps], times, root.dataset)
        zeros = [epoch - offset for epoch, offset, _ in stamps]
        zero = statistics.median(zeros)
        off = max(range(len(zeros)), key=lambda i: abs(zeros[i] - zero))
        if abs(zeros[off] - zero) > usual and root.dataset.gaps == "refuse":
            raise _Skip(
                f"{where}/{stamps[off][2]}: its epoch and offset put ignition "
                f"{abs(zeros[off] - zero):g} s away from where the others put it",
                "mend the name, skip the folder, or write gaps: accept",
            )
        length = times[-1] - times[0] + usual
        onset, source = zero - times[0], "figlib median(epoch - offset)"
        if onset < 0:
            onset, source = 0.0, f"clip start, {-onset:g} s after figlib's ignition"
        made = Recording(
            name=name,
            place=place,
            group=_group(name),
            source=ImagesSource(
                kind="images",
                path=root.path_of(place),
                epoch_names=True,
                gaps=root.dataset.gaps,
            ),
            frames=len(images),
            cadence_s=usual,
            length_s=length,
            widest_gap_s=widest,
        )
        if zero > times[-1]:
            return made  # it ends before ignition
        return replace(made, onset=onset, onset_source=source)

    def is_sequence(_: str, images: list[str]) -> bool:
        return any(_FIGLIB_FILE.fullmatch(image) for image in images)

    def is_named_like_one(place: str) -> bool:
        return _FIGLIB_FOLDER.fullmatch(place.rpartition("/")[2]) is not None

    def all_of_them() -> Iterable[_Wanted]:
        for place, images in root.folders(is_sequence, is_named_like_one):
            name = _told(place, root)
            yield name, place, _group(name), partial(recording, place, images, name)

    _each(root, found, all_of_them())


def _told(place: str, root: _Root) -> str:
    """The name of a recording's folder, passing over those that say nothing."""
    parts = [p for p in place.split("/") if p and p.lower() not in _UNTOLD]
    return parts[-1] if parts else root.real.resolve().name


# --- images with YOLO labels ----------------------------------------------------------------------


def _labelled(
    root: _Root,
    place: str,
    images: list[str],
    labels: str,
    interval: float | None,
    unlabelled: str,
    *,
    known: tuple[float | None, float | None, str] | None = None,
) -> Recording:
    """A recording with label files; `known` is the (onset, end, its source) that others gave."""
    dataset = root.dataset
    name, where = _told(place, root), place or root.given.name
    smoke_class = dataset.smoke_class or 0
    folder = root.real / labels
    with os.scandir(folder) as entries:
        there = {entry.name for entry in entries}
    missing = [i for i in images if _stem(i) + ".txt" not in there]
    if missing and unlabelled == "refuse":
        raise _Skip(
            f"{where}/{missing[0]}: no label file in {labels or '.'} ({len(missing)} of "
            f"{len(images)} images have none)",
            "an image without smoke needs an empty file, or write unlabelled: empty",
        )
    if interval is None and not dataset.epoch_names:
        source = StillsSource(
            kind="stills",
            path=root.path_of(place),
            labels=root.path_of(labels),
            smoke_class=smoke_class,
            unlabelled="empty" if missing else "refuse",
        )
        return Recording(name, place, _group(name), source, frames=len(images))
    images, times = _timed(where, images, interval)
    usual, widest = _clock(where, images, times, dataset) if interval is None else (interval,) * 2
    onset, end, onset_source = None, None, ""
    if known is not None:
        onset, end, onset_source = known
    else:
        for image, at in zip(images, times, strict=True):
            if _stem(image) + ".txt" in there and read_yolo(
                folder / (_stem(image) + ".txt"), smoke_class
            ):
                onset, onset_source = at, "first labelled frame"
                break
    made_of = ImagesSource(
        kind="images",
        path=root.path_of(place),
        interval=interval,
        epoch_names=interval is None,
        labels=root.path_of(labels),
        smoke_class=smoke_class,
        unlabelled="empty" if missing else "refuse",
        gaps=dataset.gaps,
    )
    return Recording(
        name,
        place,
        _group(name),
        made_of,
        onset=onset,
        end=end,
        onset_source=onset_source,
        frames=len(images),
        cadence_s=usual,
        length_s=times[-1] + usual,
        widest_gap_s=widest,
    )


def _timed(
    where: str, images: Sequence[str], interval: float | None
) -> tuple[list[str], list[float]]:
    """The images in order of time, and seconds from the first to each."""
    if interval is not None:
        return list(images), [n * interval for n in range(len(images))]
    stamps = []
    for image in images:
        epoch = epoch_of(image)
        if epoch is None:
            raise _Skip(
                f"{where}/{image}: its name does not begin with Unix epoch seconds",
                "give interval: 30s, or whatever it is, instead of epoch_names",
            )
        stamps.append((epoch, image))
    stamps.sort()
    return [image for _, image in stamps], [at - stamps[0][0] for at, _ in stamps]


def _stem(image: str) -> str:
    return os.path.splitext(image)[0]


def _labels_of(root: _Root, place: str) -> str | None:
    """Where the label files of an image folder lie, from the dataset's folder; None: nowhere."""
    parts = place.split("/") if place else []
    tried = []
    for n in reversed(range(len(parts))):
        if parts[n].lower() in _UNTOLD:
            tried.append("/".join([*parts[:n], "labels", *parts[n + 1 :]]))
    tried.append("/".join([*parts, "labels"]))
    tried.append("/".join([*parts[:-1], "labels"]) if parts else "labels")
    for candidate in tried:
        if os.path.isdir(root.real / candidate):
            return candidate
    with os.scandir(root.real / place) as entries:
        beside = any(entry.name.endswith(".txt") for entry in entries)
    return place if beside else None


def _yolo(root: _Root, found: Found) -> None:
    dataset = root.dataset
    given = _given_onsets(root)
    labelled: dict[tuple[str, str], str] = {}
    """(folder of labels, name of one) -> the place of the image that it is of."""

    def is_wanted(place: str, _: list[str]) -> bool:
        if dataset.split is None or SPLIT.fullmatch(dataset.split):
            return True
        return dataset.split in place.split("/")

    def recording(place: str, images: list[str]) -> Recording:
        labels = _labels_of(root, place)
        if labels is None:
            raise _Skip(
                f"{place or root.given.name}: no labels folder beside its images",
                "one label file an image is needed (where nothing burns, an empty folder and "
                "unlabelled: empty); or leave it out with skip",
            )
        for image in images:
            other = labelled.setdefault((labels, _stem(image)), place)
            if other != place:  # masks beside frames, say
                raise _Skip(
                    f"{place}/{image}: its label in {labels} is that of an image in {other} too",
                    "leave one of them out with skip",
                )
        known = given(_told(place, root))
        return _labelled(
            root, place, images, labels, dataset.interval, dataset.unlabelled, known=known
        )

    def all_of_them() -> Iterable[_Wanted]:
        for place, images in root.folders(is_wanted):
            name = _told(place, root)
            yield name, place, _group(name), partial(recording, place, images)

    _each(root, found, all_of_them())
    _check_all_named(given, found)


def _pyronear(root: _Root, found: Found) -> None:
    dataset = root.dataset
    interval = dataset.interval or PYRONEAR_INTERVAL_S
    part = None if SPLIT.fullmatch(dataset.split or "") else dataset.split

    def kind_of(place: str) -> str | None:
        """wildfire or fp, the folder above the recording's own; None outside of both."""
        parts = place.split("/")
        if parts[-1].lower() in _UNTOLD:
            parts = parts[:-1]
        return parts[-2] if len(parts) > 1 and parts[-2] in ("wildfire", "fp") else None

    def is_wanted(place: str, _: list[str]) -> bool:
        return kind_of(place) is not None and (part is None or part in place.split("/"))

    def recording(place: str, images: list[str], group: str) -> Recording:
        name = _told(place, root)
        if kind_of(place) == "fp":  # whatever boxes it has are those of false alarms
            source = ImagesSource(kind="images", path=root.path_of(place), interval=interval)
            length = len(images) * interval
            return Recording(
                name,
                place,
                group,
                source,
                frames=len(images),
                cadence_s=interval,
                length_s=length,
            )
        labels = _labels_of(root, place)
        if labels is None:
            raise _Skip(f"{place}: no labels folder beside its images", "skip it, or move it to fp")
        made = _labelled(root, place, images, labels, interval, dataset.unlabelled)
        if made.onset is None:
            made = replace(made, onset=0.0, onset_source="clip start (no frame is labelled)")
        return replace(made, group=group)

    def all_of_them() -> Iterable[_Wanted]:
        for place, images in root.folders(is_wanted):
            name = _told(place, root)
            # one camera on one day: as likely as not the same fire, cut in two
            read = _PYRONEAR_FOLDER.fullmatch(name)
            group = f"{read[1]}_{read[3]}" if read else name
            yield name, place, group, partial(recording, place, images, group)

    _each(root, found, all_of_them())


def _sai(root: _Root, found: Found) -> None:
    """`sec12-1` shows a fire, `sec12-0` none; a label file of an image overrules its folder."""
    dataset = root.dataset
    assert dataset.interval is not None

    def recording(place: str, images: list[str], read: re.Match[str] | None) -> Recording:
        assert dataset.interval is not None
        if read is None:
            where = place or root.given.name
            raise _Skip(f"{where}: is no SAI name", "sec12-1 or sec12-0 is needed")
        if not images:
            raise _Skip(f"{place}: holds no picture", "fetch it again, or skip the folder")
        fire = read[2] == "1"
        made = _labelled(root, place, images, place, dataset.interval, "empty")
        assert isinstance(made.source, ImagesSource)
        with os.scandir(root.real / place) as entries:
            there = {entry.name for entry in entries}
        bare = next((n for n, i in enumerate(images) if _stem(i) + ".txt" not in there), None)
        if not any(_stem(i) + ".txt" in there for i in images):
            made = replace(made, source=made.source.model_copy(update={"labels": None}))
        if (
            fire
            and bare is not None
            and (made.onset is None or bare * dataset.interval < made.onset)
        ):
            at = bare * dataset.interval
            made = replace(
                made, onset=at, onset_source="sai folder -1, first frame without a label"
            )
        return replace(made, group=read[1])

    def is_named_like_one(place: str) -> bool:
        return _SAI_FOLDER.fullmatch(place.rpartition("/")[2]) is not None

    def all_of_them() -> Iterable[_Wanted]:
        for place, images in root.folders(lambda *_: True, is_named_like_one):
            name = _told(place, root)
            read = _SAI_FOLDER.fullmatch(name)
            yield name, place, read[1] if read else name, partial(recording, place, images, read)

    _each(root, found, all_of_them())


# --- COCO ----------------------------------------------------------------------------------------


def _coco(root: _Root, found: Found) -> None:
    dataset = root.dataset
    coco = read_coco(root.real)
    smoke = coco.smoke_class() if dataset.smoke_class is None else dataset.smoke_class
    if smoke not in coco.categories:
        known = ", ".join(f"{i} {n!r:.40}" for i, n in sorted(coco.categories.items()))
        raise _Refused(f"{dataset.path}: has no category {smoke}", f"it has {known or 'none'}")
    given = _given_onsets(root)
    if dataset.images is not None:
        images_root = Path(os.path.expanduser(dataset.images))
    else:
        images_root = root.given.parent
        first, beside = coco.images[0].file, root.base / images_root
        if not (beside / first).exists() and (beside / "images" / first.parent).is_dir():
            images_root = images_root / "images"
    by_folder: dict[str, list[tuple[str, bool]]] = {}
    for image in coco.images:
        smoky = any(kind == smoke for kind, _ in image.boxes)
        parent = image.file.parent.as_posix()
        by_folder.setdefault("" if parent == "." else parent, []).append((image.file.name, smoky))

    def name_of(place: str) -> str:
        parts = [p for p in place.split("/") if p and p.lower() not in _UNTOLD]
        return parts[-1] if parts else root.given.stem

    def recording(place: str, entries: list[tuple[str, bool]]) -> Recording:
        name = name_of(place)
        real = root.base / images_root / place
        try:
            there = set(images_in(real))
        except OSError:
            raise _Skip(
                f"{real}: no such folder, {root.given.name} says that its images are there",
                "give images: FOLDER, where they lie",
            ) from None
        missing = [file for file, _ in entries if file not in there]
        if missing:
            raise _Skip(
                f"{real}/{missing[0]}: is not there ({len(missing)} of the {len(entries)} images "
                f"that {root.given.name} lists)",
                "give images: FOLDER, where they lie"
                if len(missing) == len(entries)
                else "copy it, or take it out of the file",
            )
        smoky = {file for file, smoke in entries if smoke}
        images = sorted({file for file, _ in entries}, key=natural_key)
        path, labels = str(images_root / place), str(root.given)
        if dataset.interval is None and not dataset.epoch_names:
            stills = StillsSource(kind="stills", path=path, labels=labels, smoke_class=smoke)
            return Recording(name, place, _group(name), stills, frames=len(images))
        images, times = _timed(place or name, images, dataset.interval)
        usual = widest = dataset.interval or 0.0
        if dataset.interval is None:
            usual, widest = _clock(place or name, images, times, dataset)
        known = given(name)
        if known is None:
            first_at = next((t for i, t in zip(images, times, strict=True) if i in smoky), None)
            known = first_at, None, "" if first_at is None else "first labelled frame"
        source = ImagesSource(
            kind="images",
            path=path,
            interval=dataset.interval,
            epoch_names=dataset.epoch_names,
            labels=labels,
            smoke_class=smoke,
            gaps=dataset.gaps,
        )
        return Recording(
            name,
            place,
            _group(name),
            source,
            onset=known[0],
            end=known[1],
            onset_source=known[2],
            frames=len(images),
            cadence_s=usual,
            length_s=times[-1] + usual,
            widest_gap_s=widest,
        )

    def all_of_them() -> Iterable[_Wanted]:
        part = None if SPLIT.fullmatch(dataset.split or "") else dataset.split
        for place, entries in by_folder.items():
            if part is None or part in place.split("/"):
                name = name_of(place)
                yield name, place, _group(name), partial(recording, place, entries)

    _each(root, found, all_of_them())
    _check_all_named(given, found)


# --- videos --------------------------------------------------------------------------------------


def _video(root: _Root, found: Found) -> None:
    dataset = root.dataset
    given = _given_onsets(root)
    tracks = _box_tracks(root)
    if root.real.is_file():
        files = [""]
    else:
        files = sorted(
            (
                e.name
                for e in os.scandir(root.real)
                if Path(e.name).suffix.lower() in VIDEOS and not e.name.startswith(".")
            ),
            key=natural_key,
        )
    if dataset.onset is not None and len(files) > 1:
        raise _Refused(
            f"{dataset.path!r:.200}: has {len(files)} videos, one onset cannot hold for all",
            "give onsets: FILE with a row for each",
        )
    if "" in tracks and len(files) > 1:
        raise _Refused(
            f"boxes: {dataset.boxes}: has rows without a name, which of the {len(files)} videos "
            "they are of is not known",
            "write it into a column `name`",
        )

    def recording(place: str, name: str) -> Recording:
        known = given(name)
        if known is None and not dataset.quiet:
            raise _Skip(
                f"{name}: has no row in {dataset.onsets}",
                "give it one; without an onset it counts as without a fire",
            )
        onset, end, source = known or (None, None, "")
        boxes = tracks.get(name, tracks.get("", ()))
        if boxes and onset is None:
            raise _Skip(f"{name}: has boxes in {dataset.boxes} and no onset", "give it one")
        return Recording(
            name,
            place,
            _group(name),
            VideoSource(kind="video", path=root.path_of(place)),
            onset=onset,
            end=end,
            onset_source=source,
            boxes=boxes,
        )

    def all_of_them() -> Iterable[_Wanted]:
        for file in files:
            name = Path(file).stem if file else root.given.stem
            yield name, file, _group(name), partial(recording, file, name)

    _each(root, found, all_of_them())
    _check_all_named(given, found)
    _check_known(dataset.boxes or "", set(tracks) - {""}, found)


# --- what the user says --------------------------------------------------------------------------


class _Onsets:
    """Name of a recording -> (onset, end, its source); None where nobody said anything."""

    def __init__(
        self,
        table: Mapping[str, tuple[float | None, float | None]] | None,
        every: float | None,
        file: str,
    ) -> None:
        self._table = table
        self._every = every
        self.file = file
        self.left = set(table or ())

    def __call__(self, name: str) -> tuple[float | None, float | None, str] | None:
        if self._every is not None:
            return self._every, None, "given by the user"
        if self._table is None or name not in self._table:
            return None
        self.left.discard(name)
        onset, end = self._table[name]
        return onset, end, "" if onset is None else f"given by the user ({Path(self.file).name})"


def _given_onsets(root: _Root) -> _Onsets:
    dataset = root.dataset
    if dataset.onsets is None:
        return _Onsets(None, dataset.onset, "")
    table: dict[str, tuple[float | None, float | None]] = {}
    for place, row in _rows(root, "onsets", dataset.onsets, ("name", "onset")):
        name = row["name"]
        for key in {name, Path(name).stem if Path(name).suffix.lower() in VIDEOS else name}:
            if key in table:
                raise _Refused(f"{place}: {name!r:.80} stands there twice", "keep one row of each")
            onset = _seconds(row["onset"], place)
            end = _seconds(row.get("end", ""), place)
            if onset is None and end is not None:
                raise _Refused(f"{place}: an end without an onset")
            if onset is not None and (onset < 0 or (end is not None and end <= onset)):
                raise _Refused(f"{place}: onset must not lie before 0 and end must come after it")
            table[key] = onset, end
    return _Onsets(table, None, dataset.onsets)


def _check_all_named(given: _Onsets, found: Found) -> None:
    """A row for nothing is a slip of the pen, unless the recording is left out on purpose."""
    _check_known(
        given.file,
        {Path(n).stem if Path(n).suffix.lower() in VIDEOS else n for n in given.left},
        found,
    )


def _check_known(file: str, names: set[str], found: Found) -> None:
    known = {r.name for r in found.recordings} | {f.name for f in found.faults}
    if unknown := sorted(names - known, key=natural_key):
        if found.left_out:
            return
        found.faults.append(
            Fault("", f"{file}: {unknown[0]!r:.80} names no recording", "mend or remove it")
        )


def _box_tracks(root: _Root) -> dict[str, tuple[BoxAt, ...]]:
    """Name of a video ("" for the only one) -> its boxes in order of time."""
    if root.dataset.boxes is None:
        return {}
    columns = ("at", "x_center", "y_center", "width", "height")
    tracks: dict[str, list[BoxAt]] = {}
    for place, row in _rows(root, "boxes", root.dataset.boxes, columns):
        if empty := next((c for c in columns if not row[c]), None):
            raise _Refused(f"{place}: {empty} is empty", "at, then fractions of the frame")
        at = _seconds(row["at"], place)
        assert at is not None
        try:
            xc, yc, w, h = (float(row[c]) for c in columns[1:])
            box = BoxAt(at=at, box=(xc, yc, w, h))
        except ValueError as why:
            reason = str(why).partition("\n")[0]
            if isinstance(why, ValidationError):
                reason = why.errors()[0]["msg"].removeprefix("Value error, ")
            raise _Refused(f"{place}: {reason}", "at, then fractions of the frame") from why
        name = row.get("name", "")
        name = Path(name).stem if Path(name).suffix.lower() in VIDEOS else name
        tracks.setdefault(name, []).append(box)
    return {name: tuple(sorted(boxes, key=lambda b: b.at)) for name, boxes in tracks.items()}


def _rows(
    root: _Root, setting: str, file: str, columns: Sequence[str]
) -> list[tuple[str, dict[str, str]]]:
    """(place, values by column) of a CSV file that must have these columns."""
    path = root.base / os.path.expanduser(file)
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.DictReader(opened)
            missing = set(columns) - set(rows.fieldnames or ())
            if missing:
                raise _Refused(
                    f"{setting}: {path}: has no column {', '.join(sorted(missing))}",
                    f"line 1 names them: {','.join(columns)}",
                )
            return [
                (
                    f"{setting}: {path}:{rows.line_num}",
                    {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)},
                )
                for row in rows
            ]
    except OSError as why:
        raise _Refused(f"{setting}: {path}: cannot be read: {why.strerror}") from why
    except (UnicodeDecodeError, csv.Error) as why:
        raise _Refused(f"{setting}: {path}: is no CSV file in UTF-8: {why}") from why


def _seconds(text: str, place: str) -> float | None:
    if not text:
        return None
    try:
        return parse_seconds(text)
    except ValueError as why:
        raise _Refused(f"{place}: {why}") from why


_LAYOUTS: dict[str, Callable[[_Root, Found], None]] = {
    "figlib": _figlib,
    "pyronear": _pyronear,
    "sai": _sai,
    "yolo": _yolo,
    "coco": _coco,
    "video": _video,
}
_WANTED = {
    "figlib": "a folder of folders such as 20160604_FIRE_rm-n-mobo-c with 1465063200_-02400.jpg",
    "pyronear": "a folder with {train,val,test}/{wildfire,fp}/NAME/{images,labels}",
    "sai": "a folder of folders such as sec12-1 and sec12-0",
    "yolo": "a folder with images (" + ", ".join(sorted(SUFFIXES)) + "), and labels beside them",
    "coco": "name the JSON file",
    "video": "a video file, or a folder of " + ", ".join(sorted(VIDEOS)),
}
