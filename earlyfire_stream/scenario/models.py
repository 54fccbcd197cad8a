"""What a scenario file says: cameras, what they see, when fire starts, and every setting.

One frozen model per idea, each field with its unit. `load` reads files into these; nothing here
touches the disk. Instants are scenario seconds; a box is [x_center, y_center, width, height] as
fractions of the frame.

A model's `conflicts` lists every way in which its fields disagree, each with its place, so that
`load` can name them all at once instead of the first one.
"""

from __future__ import annotations

__all__ = [
    "ENGINES",
    "FAULTS",
    "SLO",
    "AlarmPolicy",
    "BoxAt",
    "Budget",
    "Camera",
    "Conflict",
    "Conflicts",
    "Dataset",
    "Engine",
    "EngineName",
    "Fault",
    "FaultKind",
    "Fire",
    "ImagesSource",
    "Layout",
    "Network",
    "Perturb",
    "Sampling",
    "Scenario",
    "Source",
    "StillsSource",
    "StreamSource",
    "SyntheticSource",
    "Vary",
    "VideoSource",
    "Window",
    "fault_ids",
]

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from earlyfire_stream.scenario.scenes import Plume, Scene
from earlyfire_stream.scenario.units import Duration, Seconds
from earlyfire_stream.verdict import Box

Unit = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Stands in MQTT topics and file names: no `/`, `+`, `#` or spaces, at most 64 characters."""
Speed = Annotated[float, Field(gt=0, le=10_000)]
Size = Annotated[tuple[int, int], Field(description="[width, height] in pixels")]


EngineName = Literal["baseline", "ollama", "hf", "openai", "simulated", "recorded"]
ENGINES: tuple[str, ...] = get_args(EngineName)

ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""`${NAME}` in a stream's url."""
_SECRETS = frozenset({"password", "passwd", "pwd", "pass", "token", "secret", "api_key", "apikey"})


@dataclass(frozen=True, slots=True)
class Conflict:
    """Fields that disagree. `at` is the place, from the model that says so downwards."""

    at: tuple[str | int, ...]
    message: str
    hint: str = ""
    fields: tuple[str, ...] = ()
    """The model's fields that it rests on: where one of them is wrong itself, this says nothing."""


class Conflicts(ValueError):
    """Everything in which the fields of one model disagree."""

    def __init__(self, found: Sequence[Conflict]) -> None:
        self.found = tuple(found)
        super().__init__("; ".join(c.message + (f" ({c.hint})" if c.hint else "") for c in found))


class Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def conflicts(self) -> Iterator[Conflict]:
        yield from ()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if found := tuple(self.conflicts()):
            raise Conflicts(found)
        return self


class Window(Model):
    """A span of scenario time, its end excluded."""

    start: Duration
    end: Duration

    def conflicts(self) -> Iterator[Conflict]:
        if self.end <= self.start:
            yield Conflict(
                ("end",), f"must come after start ({self.start:g} s), not at {self.end:g} s"
            )

    def __contains__(self, at: float) -> bool:
        return self.start <= at < self.end


def _overlapping(windows: Sequence[Window], at: tuple[str, ...]) -> Iterator[Conflict]:
    order = sorted(range(len(windows)), key=lambda i: windows[i].start)
    for earlier, later in pairwise(order):
        if windows[later].start < windows[earlier].end:
            first = windows[earlier]
            yield Conflict(
                (*at, later),
                f"overlaps the window from {first.start:g} s to {first.end:g} s",
                "make one window of the two",
            )


# --- fires ---------------------------------------------------------------------------------------


class BoxAt(Model):
    """The smoke's box at one instant; between two instants it is interpolated."""

    at: Seconds
    box: tuple[float, float, float, float]

    @field_validator("box")
    @classmethod
    def _is_box(cls, value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        Box(*value)
        return value


class Fire(Model):
    """One fire as one camera sees it. `onset` is when its smoke first becomes visible."""

    id: Name
    onset: Seconds
    end: Seconds | None = None
    onset_source: Annotated[str, Field(max_length=200)] = ""
    """How the onset is known, such as `first labelled frame`. For people; nothing depends on it."""
    boxes: tuple[BoxAt, ...] = ()
    plume: Plume = Plume()
    """How it looks in a synthetic scene; elsewhere it has no effect."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.onset < 0:
            yield Conflict(
                ("onset",),
                f"smoke cannot begin before the camera does, at {self.onset:g} s",
                "write 0 for a camera that starts in smoke",
            )
        if self.end is not None and self.end <= self.onset:
            yield Conflict(
                ("end",), f"must come after onset ({self.onset:g} s), not at {self.end:g} s"
            )
        last = math.inf if self.end is None else self.end
        for i, box in enumerate(self.boxes):
            if i and box.at <= self.boxes[i - 1].at:
                yield Conflict(
                    ("boxes", i, "at"), "boxes must stand in order of time, each instant once"
                )
            elif not self.onset <= box.at <= last:
                yield Conflict(
                    ("boxes", i, "at"), f"a box at {box.at:g} s, when the fire shows no smoke"
                )


# --- where pixels come from ----------------------------------------------------------------------


class SyntheticSource(Model):
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["synthetic"] = "synthetic"
    scene: Scene = Scene()
    size: Size = (1280, 720)
    seed: int | None = None
    """None: drawn from the scenario's seed and the camera's id."""
    quality: Annotated[int, Field(ge=10, le=100)] = 85
    """JPEG quality."""

    @field_validator("size")
    @classmethod
    def _bounds(cls, value: tuple[int, int]) -> tuple[int, int]:
        width, height = value
        if not (320 <= width <= 4096 and 240 <= height <= 2160):
            raise ValueError("size must lie between 320x240 and 4096x2160")
        return value


class VideoSource(Model):
    kind: Literal["video"]
    path: str
    start: Duration = 0.0
    """Where in the file the camera starts."""
    loop: bool = False


class ImagesSource(Model):
    """A folder of images in order of name, with one of `interval`, `times` or `epoch_names`."""

    kind: Literal["images"]
    path: str
    interval: Duration | None = None
    """The true time between two images."""
    times: str | None = None
    """CSV file with the columns `file` and `at` (seconds from the first image, any zero)."""
    epoch_names: bool = False
    """File names begin with Unix epoch seconds (FIgLib: `1465063200_-02400.jpg`)."""
    labels: str | None = None
    """Folder of YOLO text files (an empty one says: no smoke), or a COCO file (`.json`)."""
    smoke_class: int = 0
    unlabelled: Literal["refuse", "empty"] = "refuse"
    """An image without a label file is an error, or counts as one with an empty file."""
    gaps: Literal["refuse", "accept"] = "refuse"
    """Holes in the recording are an error, or as they should be."""

    def conflicts(self) -> Iterator[Conflict]:
        given = [self.interval is not None, self.times is not None, self.epoch_names]
        if sum(given) != 1:
            yield Conflict(
                (),
                "say when the images were taken: exactly one of interval, times, epoch_names",
                fields=("interval", "times", "epoch_names"),
            )
        if self.interval == 0:
            yield Conflict(("interval",), "must be above 0")


class StillsSource(Model):
    """Unrelated images without a cadence: they count for frame metrics alone."""

    kind: Literal["stills"]
    path: str
    labels: str | None = None
    """Folder of YOLO text files, or a COCO file (`.json`)."""
    smoke_class: int = 0
    unlabelled: Literal["refuse", "empty"] = "refuse"
    smoke: bool | None = None
    """The truth of all of them, where there are no label files."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.labels is not None and self.smoke is not None:
            yield Conflict(("smoke",), "give labels or smoke, not both", fields=("labels",))


class StreamSource(Model):
    """A live camera (RTSP or HTTP); it has no truth."""

    kind: Literal["stream"]
    url: Annotated[str, Field(pattern=r"^((rtsps?|https?)://\S+|\$\{[A-Za-z_][A-Za-z0-9_]*\})$")]
    """A password belongs into the environment: rtsp://user:${CAM_PASSWORD}@host/… It is filled in
    when the stream is opened, so this text can stand in any record."""
    quality: Annotated[int, Field(ge=10, le=100)] = 85

    def conflicts(self) -> Iterator[Conflict]:
        yield from _no_password(self.url, "url", "${CAM_PASSWORD}")

    def opened(self, environ: Mapping[str, str]) -> str:
        """The url with its variables filled in; it holds passwords: never log it.

        KeyError names a variable that is not set (`load` has looked before).
        """
        return ENV.sub(lambda found: environ[found[1]], self.url)


def _no_password(url: str, field: str, remedy: str) -> Iterator[Conflict]:
    try:
        parts = urlsplit(url)
        secrets = [parts.password or ""]
        secrets += [v for k, v in parse_qsl(parts.query) if k.lower() in _SECRETS]
    except ValueError:
        yield Conflict((field,), "is no address that can be read")
        return
    if any(secret and not ENV.fullmatch(secret) for secret in secrets):
        yield Conflict(
            (field,),
            "a password stands in the file",
            f"write {remedy} in its place and set that variable in the environment",
        )


Source = Annotated[
    SyntheticSource | VideoSource | ImagesSource | StillsSource | StreamSource,
    Field(discriminator="kind"),
]


class Perturb(Model):
    """What wind, weather and cheap optics do to a picture. 0 means: off."""

    shake_px: Annotated[float, Field(ge=0, le=50)] = 0.0
    """Standard deviation of the camera's sway, pixels at 1280 wide."""
    blur_px: Annotated[float, Field(ge=0, le=50)] = 0.0
    """Length of motion blur, pixels at 1280 wide."""
    haze: Unit = 0.0
    rain: Unit = 0.0
    """Drops on the lens."""
    night_noise: Unit = 0.0
    quality: Annotated[int, Field(ge=5, le=100)] | None = None
    """Encode again at this JPEG quality."""
    crop: tuple[Unit, Unit, Unit, Unit] | None = None
    """Keep [x_center, y_center, width, height] of the frame; truth boxes follow."""
    height: Annotated[int, Field(ge=120, le=2160)] | None = None
    """Resize to this height (480 to 2160), aspect kept."""

    @field_validator("crop")
    @classmethod
    def _is_box(
        cls, value: tuple[float, float, float, float] | None
    ) -> tuple[float, float, float, float] | None:
        if value is not None:
            Box(*value)
        return value


class Network(Model):
    """What lies between camera and broker. Seeded per camera; every effect is counted."""

    delay: Duration = 0.0
    jitter: Duration = 0.0
    """Standard deviation of the delay; a delay never falls below 0."""
    loss: Unit = 0.0
    duplicate: Unit = 0.0
    reorder: Unit = 0.0
    """Share of frames held back until the next one has been sent."""
    outages: tuple[Window, ...] = ()
    """The link is down: frames are lost on their way. Scenario seconds."""


class Camera(Model):
    """One camera, or with `count` several that vary by seed."""

    id: Name
    """With `count`, the copies are called `<id>-001`, `<id>-002` …"""
    source: Source
    cadence: Duration | None = None
    """Seconds between two frames. None: the source's own times (images, video), else 1 s."""
    phase: Duration | None = None
    """Offset of the first frame. None: staggered over the fleet."""
    jitter: Duration = 0.0
    """Standard deviation of the capture instant around its schedule."""
    fires: tuple[Fire, ...] = ()
    truth: bool = True
    """False: nobody knows what is in it; alarms are `unknown` and nothing is scored."""
    ignore: tuple[tuple[tuple[Unit, Unit], ...], ...] = ()
    """Polygons; a predicted box whose centre lies inside is dropped."""
    perturb: Perturb = Perturb()
    network: Network = Network()
    outages: tuple[Window, ...] = ()
    """The camera is off: frames fall due and are not sent (`unsent(outage)`)."""
    count: Annotated[int, Field(ge=1, le=10_000)] = 1
    vary: Vary | None = None

    def conflicts(self) -> Iterator[Conflict]:
        if self.cadence == 0:
            yield Conflict(("cadence",), "must be above 0")
        yield from self._fire_conflicts()
        for i, polygon in enumerate(self.ignore):
            if len(polygon) < 3:
                yield Conflict(("ignore", i), "a polygon needs at least 3 points")
        yield from _overlapping(self.outages, ("outages",))
        yield from _overlapping(self.network.outages, ("network", "outages"))
        if self.vary is not None and self.count == 1:
            yield Conflict(("vary",), "needs count above 1", fields=("count",))
        kinds = {s.kind for s in (self.source, *(self.vary.sources if self.vary else ()))}
        if "stream" in kinds:
            heights = self.vary.heights if self.vary else ()
            if self.perturb != Perturb() or heights:
                at = ("perturb",) if self.perturb != Perturb() else ("vary", "heights")
                yield Conflict(at, "a live stream is shown as it is", "remove it")
        if self.fires and (bare := kinds & {"stream", "stills"}):
            yield Conflict(
                ("fires",), f"a camera of {' and '.join(sorted(bare))} has no fires", "remove them"
            )

    def _fire_conflicts(self) -> Iterator[Conflict]:
        seen: set[str] = set()
        for i, fire in enumerate(self.fires):
            if fire.id in seen:
                yield Conflict(("fires", i, "id"), f"two fires here are called {fire.id!r}")
            seen.add(fire.id)
        order = sorted(range(len(self.fires)), key=lambda i: self.fires[i].onset)
        for earlier, later in pairwise(order):
            first, second = self.fires[earlier], self.fires[later]
            if first.end is None or second.onset < first.end:
                yield Conflict(
                    ("fires", later, "onset"),
                    f"fire {second.id} begins while fire {first.id} still burns",
                    f"give {first.id} an end before that: an alarm could not be told apart",
                )

    @property
    def source_key(self) -> str:
        """Equal for two expanded cameras exactly if they show the same at the same instants.

        Such cameras can share encoded pictures wherever their capture instants agree.
        """
        shown = self.model_dump(mode="json", include={"source", "fires", "perturb"})
        text = json.dumps(shown, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Vary(Model):
    """How the copies of a `count:` camera differ; every draw is seeded by scenario and copy."""

    sources: tuple[Source, ...] = ()
    """Each copy gets one of these (none: `source` of the camera)."""
    onset: Duration = 0.0
    """Each fire's onset moves by up to this much, later."""
    fire_share: Unit = 1.0
    """Share of the copies that have the fires at all."""
    heights: tuple[Annotated[int, Field(ge=240, le=2160)], ...] = ()
    """Synthetic copies are rendered at one of these heights, 16:9; others resized to it."""
    distinct: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """How many of the copies differ: copy n shows what copy n - distinct shows, the same fire
    included, so that a large fleet needs few rendered pictures. None: all of them differ."""


# --- other people's recordings -------------------------------------------------------------------

Layout = Literal["figlib", "pyronear", "sai", "yolo", "coco", "video"]
_CLOCKED = ("interval", "epoch_names")
_LABELLED = ("smoke_class", "unlabelled", "onset", "onsets")
_TAKES: Mapping[str, tuple[str, ...]] = {
    "figlib": ("gaps",),
    "pyronear": ("interval", "smoke_class", "unlabelled"),
    "sai": ("interval", "smoke_class"),
    "yolo": (*_CLOCKED, *_LABELLED, "gaps"),
    "coco": (*_CLOCKED, "smoke_class", "onset", "onsets", "gaps", "images"),
    "video": ("onset", "onsets", "quiet", "boxes"),
}
"""What each layout leaves open, beside the settings that all of them take."""
_OPEN = tuple(dict.fromkeys(name for names in _TAKES.values() for name in names))


class Dataset(Model):
    """Many recordings that are already there, each of them one camera; nothing is copied.

    The cameras are found anew whenever the scenario is read, in order of name and always the same.
    """

    layout: Layout
    """How the files lie: figlib, pyronear, sai, yolo, coco or video."""
    path: str
    """The folder that holds it all; for coco the JSON file, for video a file or a folder."""
    images: str | None = None
    """coco: the folder that `file_name` starts from. None: `images` beside the file, or its own."""
    prefix: Name | None = None
    """Stands before the id of each camera, where two datasets would use the same ones."""
    only: tuple[str, ...] = ()
    """Recordings to take: names, patterns (`2016*`), or text files (.txt) with a name a line."""
    skip: tuple[str, ...] = ()
    """Recordings to leave out, written as in `only`."""
    split: Annotated[str, Field(min_length=1)] | None = None
    """A part that the layout has a folder for (`val`), or a share of the fires: `train:0.8` and
    `test:0.2` have none in common. A fire is in one of them with all its cameras."""
    interval: Duration | None = None
    """True time between two images of a recording, in order of name. pyronear: 30 s unless given;
    yolo and coco: without any clock the images are stills, which count for frame metrics alone."""
    epoch_names: bool = False
    """yolo, coco: file names begin with Unix epoch seconds."""
    gaps: Literal["refuse", "accept"] = "refuse"
    """A recording with a hole of more than three usual gaps is refused, or taken as it is."""
    smoke_class: Annotated[int, Field(ge=0)] | None = None
    """None: 0, and for coco the category called smoke."""
    unlabelled: Literal["refuse", "empty"] = "refuse"
    """An image without a label file is an error, or counts as one with an empty file."""
    onset: Duration | None = None
    """When smoke first becomes visible, seconds from the begin of each recording."""
    onsets: str | None = None
    """The same by recording: CSV with the columns `name`, `onset` and perhaps `end`; no onset means
    no fire."""
    quiet: bool = False
    """video: there is no fire in any of them."""
    boxes: str | None = None
    """video: where the smoke is. CSV with `at,x_center,y_center,width,height`, fractions of the
    frame, and `name` where there are several files."""
    onset_shift: Seconds = 0.0
    """Added to every onset. `1s`: FIgLib's image at offset 0 counts as without smoke."""
    at_once: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """So many recordings play at a time, the next one when one has ended. None: all together."""
    perturb: Perturb = Perturb()
    network: Network = Network()

    def conflicts(self) -> Iterator[Conflict]:
        for name in _OPEN:
            if name in self.model_fields_set and name not in _TAKES[self.layout]:
                if getattr(self, name) == type(self).model_fields[name].default:
                    continue  # written out, as in a resolved scenario
                takes = ", ".join(_TAKES[self.layout])
                yield Conflict((name,), f"has no meaning for {self.layout}", f"it takes {takes}")
        if self.interval == 0:
            yield Conflict(("interval",), "must be above 0")
        if self.interval is not None and self.epoch_names:
            yield Conflict(
                ("epoch_names",), "give interval or epoch_names, not both", fields=("interval",)
            )
        if self.layout == "sai" and self.interval is None:
            yield Conflict(
                ("interval",),
                "is missing: the names do not say when an image was taken",
                "write the true time between two images, such as interval: 30s",
                fields=("interval",),
            )
        ways = {"onset": self.onset, "onsets": self.onsets, "quiet": self.quiet or None}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) > 1:
            yield Conflict((given[1],), f"{' and '.join(given)} are given, only one can be true")
        if self.layout == "video" and not given:
            yield Conflict(
                ("onset",),
                "is missing: nothing in a video says when smoke first becomes visible",
                "write onset: 42s, onsets: FILE, or quiet: true where nothing burns",
                fields=("onset", "onsets", "quiet"),
            )
        if self.boxes is not None and self.quiet:
            yield Conflict(("boxes",), "nothing burns, so there are none", "remove it")
        if self.layout == "video" and self.at_once is not None:
            yield Conflict(
                ("at_once",),
                "needs recordings whose length their names tell; videos play all together",
                "remove it, or run parts of the fleet with --shards",
            )
        if self.split is not None and ":" in self.split and not SPLIT.fullmatch(self.split):
            yield Conflict(
                ("split",),
                f"{self.split!r:.40} is no share of the fires",
                "write train:0.8 or test:0.2",
            )


SPLIT = re.compile(r"(train|test):(0?\.[0-9]{1,6}|0|1|1\.0)")
"""`train:0.8`, `test:0.2`."""


# --- what goes wrong, and when -------------------------------------------------------------------

FaultKind = Literal[
    "broker-restart",
    "broker-gone",
    "broker-refuses",
    "broker-slow",
    "broker-disconnects",
    "network-delay",
    "network-jitter",
    "network-loss",
    "network-partition",
    "camera-flap",
    "camera-frozen",
    "camera-black",
    "camera-clock",
    "camera-duplicate",
    "camera-reorder",
    "camera-corrupt",
    "camera-wrong-size",
    "camera-storm",
    "engine-overloaded",
    "engine-hang",
    "engine-slow",
    "engine-garbage",
    "engine-endless",
    "engine-half",
    "engine-restart",
    "engine-out-of-memory",
    "host-disk-full",
    "host-cpu",
    "host-consumer-killed",
    "host-worker-killed",
]
FAULTS: tuple[str, ...] = get_args(FaultKind)
_MOMENTARY = frozenset(
    {"broker-restart", "broker-disconnects", "camera-storm", "host-worker-killed"}
)
_ONE_AT_A_TIME = frozenset(
    {
        "broker-gone",
        "broker-refuses",
        "broker-slow",
        "network-partition",
        "host-disk-full",
        "host-consumer-killed",
    }
)
"""Kinds that are on or off: where the first of two ended, the second would be over as well."""
_OF_CAMERAS = ("cameras",)
_FAULT_TAKES: Mapping[str, tuple[str, ...]] = {
    "broker-refuses": ("side",),
    "broker-slow": ("side", "rate"),
    "broker-disconnects": ("side", *_OF_CAMERAS),
    "network-delay": (*_OF_CAMERAS, "delay"),
    "network-jitter": (*_OF_CAMERAS, "delay"),
    "network-loss": (*_OF_CAMERAS, "share"),
    "network-partition": ("side",),
    "camera-flap": (*_OF_CAMERAS, "period"),
    "camera-frozen": _OF_CAMERAS,
    "camera-black": _OF_CAMERAS,
    "camera-clock": (*_OF_CAMERAS, "shift"),
    "camera-duplicate": (*_OF_CAMERAS, "share"),
    "camera-reorder": (*_OF_CAMERAS, "share"),
    "camera-corrupt": (*_OF_CAMERAS, "share"),
    "camera-wrong-size": (*_OF_CAMERAS, "height"),
    "engine-slow": ("factor",),
    "host-cpu": ("processes",),
}
"""What each kind leaves open, beside `id`, `start` and `end`."""
_WALL = ("broker-", "network-partition", "camera-storm", "host-")
"""How the kinds begin that meet brokers, connections and processes."""
_FAULT_OPEN = tuple(dict.fromkeys(name for names in _FAULT_TAKES.values() for name in names))


Instant = Annotated[Duration, Field(le=1e8)]
"""Of a fault, scenario seconds; three years, which fit wall nanoseconds at any speed."""


class Fault(Model):
    """Something that goes wrong at a stated time, on purpose. Scenario seconds.

    Unlike a camera's `outages` and `network`, which belong to the scene and count against nobody,
    a fault is recorded, drawn, and scored by what it did.
    """

    kind: FaultKind
    id: Name | None = None
    """Its name in the report; None: its kind, with a number where there are several."""
    start: Instant
    end: Instant | None = None
    """Excluded. None for what happens in a moment: broker-restart, broker-disconnects,
    camera-storm, host-worker-killed."""
    cameras: tuple[str, ...] = ()
    """Ids or patterns (`ridge-*`) of the cameras it meets; none: all of them."""
    side: Literal["both", "cameras", "consumer"] = "both"
    """Whose connections to the broker it meets."""
    delay: Annotated[Duration, Field(le=86_400)] = 0.5
    """network-delay: added to each frame, wall seconds; network-jitter: the standard deviation of
    what is added."""
    share: Unit = 0.3
    """Of the frames in the window that are lost, doubled, reordered or corrupt."""
    period: Annotated[Duration, Field(le=1e8)] = 10.0
    """camera-flap: off for half of it, on for the other half."""
    shift: Annotated[Seconds, Field(ge=-2e9, le=2e9)] = 120.0
    """camera-clock: the camera's clock is ahead by this many wall seconds; below 0: behind. One
    that began again in 1970 is behind by 1.8e9."""
    height: Annotated[int, Field(ge=16, le=2160)] = 180
    """camera-wrong-size: the picture is sent at this height, its aspect kept."""
    rate: Annotated[float, Field(gt=0)] = 50_000.0
    """broker-slow: bytes a second that pass each connection, each way. A frame that has not left
    after 5 s, such as one of more than 250 kB at 50,000, is unsent and its connection replaced."""
    factor: Annotated[float, Field(gt=1, le=1000)] = 5.0
    """engine-slow: every answer takes this many times as long."""
    processes: Annotated[int, Field(ge=1, le=64)] = 2
    """host-cpu: processes that do nothing but take time of the processor."""

    @property
    def until(self) -> float:
        """Where it ends; the start of what happens in a moment."""
        return self.start if self.end is None else self.end

    def conflicts(self) -> Iterator[Conflict]:
        takes = _FAULT_TAKES.get(self.kind, ())
        for name in _FAULT_OPEN:
            if name in self.model_fields_set and name not in takes:
                if getattr(self, name) == type(self).model_fields[name].default:
                    continue  # written out, as in a resolved scenario
                known = ", ".join(("id", "start", "end", *takes))
                yield Conflict((name,), f"has no meaning for {self.kind}", f"it takes {known}")
        if self.kind in _MOMENTARY:
            if self.end is not None:
                yield Conflict(("end",), f"{self.kind} happens in a moment", "remove it")
        elif self.end is None:
            yield Conflict(
                ("end",),
                "is missing",
                "write when the fault ends, such as end: 60s",
                fields=("end",),
            )
        elif self.end <= self.start:
            yield Conflict(
                ("end",), f"must come after start ({self.start:g} s), not at {self.end:g} s"
            )
        if self.period == 0:
            yield Conflict(("period",), "must be above 0")


def fault_ids(faults: Sequence[Fault]) -> tuple[str, ...]:
    """Their names: their own, else their kind, with a number where there are several of it."""
    kinds = Counter(fault.kind for fault in faults)
    seen: Counter[str] = Counter()
    names = []
    for fault in faults:
        seen[fault.kind] += 1
        several = kinds[fault.kind] > 1
        names.append(fault.id or (f"{fault.kind}-{seen[fault.kind]}" if several else fault.kind))
    return tuple(names)


# --- how the consumer works ----------------------------------------------------------------------


class Sampling(Model):
    """Dynamic FPS: when a camera's next frame is looked at. Intervals in scenario seconds."""

    policy: Literal["fixed", "adaptive", "every"] = "adaptive"
    """`every` looks at each frame (benchmarks of stills and recorded sequences)."""
    idle: Duration = 5.0
    """Between two looks at a quiet camera; at least 3 s (the specification's N)."""
    suspect: Duration = 2.0
    """Between two looks while something changed or a positive is unconfirmed."""
    clip: Annotated[int, Field(ge=1, le=16)] = 1
    """Frames of one camera in one look: the newest and those received just before it, as one clip
    under one token budget. Only for engines that take clips (`hf`)."""
    second_look: bool = False
    """Send a crop around the box of a positive once more before the verdict counts; it confirms or
    withdraws the smoke and refines the box. Costs a second request for every positive."""
    slowest: Duration = 60.0
    """Under load no camera waits longer than this, whatever the budget says."""
    hold: Duration = 15.0
    """How long a suspicion lasts without being renewed."""
    change: Annotated[float, Field(gt=0)] = 5.0
    """Change score (multiples of the camera's own usual change) that raises suspicion. Usual is 2
    to 3, moving clouds reach 4; at 5 clear synthetic cameras are hardly ever suspicious without a
    fire, cloudy and foggy ones for a fifth to two fifths of the time.
    """

    def conflicts(self) -> Iterator[Conflict]:
        if self.policy != "every" and self.idle < 3:
            yield Conflict(("idle",), "must be at least 3s", fields=("policy",))
        if not 0 < self.suspect <= self.idle:
            yield Conflict(
                ("suspect",),
                f"must lie above 0 and not above idle ({self.idle:g} s)",
                fields=("suspect", "idle"),
            )
        if self.idle > self.slowest:
            yield Conflict(
                ("slowest",),
                f"must not lie below idle ({self.idle:g} s)",
                fields=("slowest", "idle"),
            )


class Budget(Model):
    """Visual tokens: how many a request may take, how many a second the fleet may take."""

    min_tokens: Annotated[int, Field(ge=4, le=16384)] = 256
    max_tokens: Annotated[int, Field(ge=4, le=16384)] = 1280
    tokens_per_s: Annotated[float, Field(gt=0)] | Literal["auto", "none"] = "auto"
    """`auto`: learned from the engine's measured rate. Wall seconds."""
    burst: Duration = 4.0
    """Seconds of budget that may be saved up."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.min_tokens > self.max_tokens:
            yield Conflict(
                ("min_tokens",),
                f"must not lie above max_tokens ({self.max_tokens})",
                fields=("min_tokens", "max_tokens"),
            )


class AlarmPolicy(Model):
    """k positive verdicts among the last n within `within` scenario seconds."""

    k: Annotated[int, Field(ge=1, le=100)] = 1
    n: Annotated[int, Field(ge=1, le=100)] = 1
    within: Duration = 300.0
    min_confidence: Unit = 0.0
    """A verdict with a confidence below this is no positive; one without any counts."""
    repeat: Duration = 300.0
    """At most one alarm is emitted per camera in this time (scoring is not affected)."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.k > self.n:
            yield Conflict(("k",), f"must not lie above n ({self.n})", fields=("k", "n"))


class Engine(Model):
    """Which engine answers, and how it is asked. Unset: the engine's own default."""

    name: EngineName = "baseline"
    model: str | None = None
    profile: str | None = None
    """A named profile of the `simulated` engine."""
    url: str | None = None
    """Where the server is; None: its usual environment variable, then loopback."""
    concurrency: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"
    deadline: Duration = 30.0
    """Wall seconds from capture after which an answer is worthless; waiting frames expire then."""
    timeout: Duration = 30.0
    """Wall seconds for one request."""
    mailbox: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """Most cameras that may have a frame waiting; bounds memory."""
    prompt: str = "v1"
    """A shipped prompt, or a YAML file of your own."""
    decode: Literal["constrained", "free"] = "constrained"
    """`free` asks for no schema, so that the share of BAD_JSON can be measured."""
    explain: Literal["never", "positives", "always"] = "never"
    """Ask again, after the verdict, for its reasons in 20 words. Stored and shown, never scored."""
    workers: tuple[str, ...] = ()
    """Addresses of `earlyfire worker` services for `hf`; none: one is started here."""
    recording: str | None = None
    """Run folder whose answers the `recorded` engine gives again."""
    scrape: Duration = 0.0
    """Wall seconds between two looks at the server's own /metrics; 0: none."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the engine as they are; it refuses what it does not know."""

    def conflicts(self) -> Iterator[Conflict]:
        if self.deadline == 0:
            yield Conflict(("deadline",), "must be above 0")
        if self.timeout == 0:
            yield Conflict(("timeout",), "must be above 0")
        if self.profile is not None and self.name != "simulated":
            yield Conflict(
                ("profile",),
                f"only the simulated engine has profiles, not {self.name}",
                fields=("name",),
            )
        if (self.recording is None) == (self.name == "recorded"):
            yield Conflict(
                ("recording",),
                "the recorded engine needs the run folder whose answers it gives again"
                if self.recording is None
                else f"only the recorded engine has a recording, not {self.name}",
                "write recording: runs/..." if self.recording is None else "remove it",
                fields=("name",),
            )
        if self.workers and self.name != "hf":
            yield Conflict(
                ("workers",), f"only the hf engine has workers, not {self.name}", fields=("name",)
            )
        for i, worker in enumerate(self.workers):
            yield from _no_password(worker, f"workers.{i}", "nothing")
        if self.url is not None and self.name in ("baseline", "simulated", "recorded"):
            yield Conflict(
                ("url",), f"the {self.name} engine has no server", "remove it", fields=("name",)
            )
        if self.url is not None:
            yield from _no_password(self.url, "url", "nothing")


class SLO(Model):
    """What `earlyfire soak` holds a run to; what is left out is told but not judged.

    Memory and slowing down are judged in any case, against what `soak` takes for a leak and for an
    engine that gets slower.
    """

    p95_latency: Annotated[Duration, Field(gt=0)] | None = None
    """Of the answers, wall seconds from capture."""
    drop_share: Unit | None = None
    """Of the frames that sampling wanted: those that got no answer."""
    error_share: Unit | None = None
    """Of the requests: those that failed or brought nothing readable."""
    ttfd: Annotated[Duration, Field(gt=0)] | None = None
    """The median over the fires that were watched, scenario seconds; an undetected one counts."""
    rss_slope: Annotated[float, Field(gt=0)] | None = None
    """Growth of each process's resident memory, bytes an hour."""
    latency_slope: Annotated[float, Field(gt=0)] | None = None
    """Growth of the time that a request takes, as a share of it an hour: 0.1 is a tenth."""


class Scenario(Model):
    """A whole scenario file."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["cameras"]}, {"required": ["datasets"]}]}
    )

    earlyfire: Literal[1]
    """Version of this format: 1."""
    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    duration: Duration | None = None
    """Scenario seconds. None: until the longest source ends (needs one that ends)."""
    speed: Speed = 1.0
    """Scenario seconds per wall second."""
    clock: Literal["wall", "virtual"] = "wall"
    connections: Literal["auto", "per_camera", "shared"] = "auto"
    """MQTT clients of the fleet; auto: one per camera up to 50 cameras."""
    cameras: Annotated[tuple[Camera, ...], Field(json_schema_extra={"minItems": 1})] = ()
    datasets: tuple[Dataset, ...] = ()
    """Recordings of others; reading the file makes a camera of each."""
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    alarm: AlarmPolicy = AlarmPolicy()
    engine: Engine = Engine()
    faults: tuple[Fault, ...] = ()
    """What goes wrong on purpose, and when."""
    slo: SLO = SLO()

    def conflicts(self) -> Iterator[Conflict]:
        if not self.cameras and not self.datasets:
            yield Conflict(
                ("cameras",),
                "is missing: a scenario needs a camera or a dataset",
                "write cameras: or datasets:",
                fields=("cameras", "datasets"),
            )
        elif self.duration == 0:
            yield Conflict(("duration",), "must be above 0")
        elif self.duration is not None:
            for i, camera in enumerate(self.cameras):
                for conflict in _after_the_end(camera, self.duration):
                    yield Conflict(("cameras", i, *conflict.at), conflict.message, conflict.hint)
            for i, fault in enumerate(self.faults):
                if fault.start >= self.duration:
                    yield Conflict(
                        ("faults", i, "start"),
                        f"begins at {fault.start:g} s, after the scenario's end at "
                        f"{self.duration:g} s",
                    )
        elif not self.datasets and not any(_ends(camera) for camera in self.cameras):
            yield Conflict(
                ("duration",),
                "is missing, and no camera's source ends by itself",
                "write duration: 90s",
                fields=("duration", "cameras"),
            )
        yield from self._fault_conflicts()

    def _fault_conflicts(self) -> Iterator[Conflict]:
        for kind in sorted(_ONE_AT_A_TIME & {fault.kind for fault in self.faults}):
            mine = [i for i, fault in enumerate(self.faults) if fault.kind == kind]
            mine.sort(key=lambda i: self.faults[i].start)
            for earlier, later in pairwise(mine):
                first = self.faults[earlier]
                if self.faults[later].start < first.until:
                    yield Conflict(
                        ("faults", later, "start"),
                        f"begins before the {kind} from {first.start:g} s to {first.until:g} s is "
                        "over",
                        "make one fault of the two",
                    )
        taken: set[str] = set()
        for i, (name, fault) in enumerate(zip(fault_ids(self.faults), self.faults, strict=True)):
            at = ("faults", i, "kind")
            if name in taken:
                message = f"two faults are called {name!r}"
                yield Conflict(("faults", i, "id"), message, "give one of them another id")
            taken.add(name)
            if self.clock == "virtual" and fault.kind.startswith(_WALL):
                yield Conflict(
                    at,
                    f"{fault.kind} needs the wall clock: in virtual time there are no broker, no "
                    "connections and no other processes",
                    "write clock: wall, or remove it",
                )
            started = self.engine.name == "hf" and not self.engine.workers
            if fault.kind == "host-worker-killed" and not started:
                yield Conflict(
                    at,
                    "host-worker-killed needs a worker that is started here",
                    "write engine: {name: hf} without workers, or remove it",
                    fields=("engine",),
                )


def _ends(camera: Camera) -> bool:
    return any(
        source.kind in ("images", "stills") or (source.kind == "video" and not source.loop)
        for source in (camera.source, *(camera.vary.sources if camera.vary else ()))
    )


def _after_the_end(camera: Camera, duration: float) -> Iterator[Conflict]:
    end = f"the scenario's end at {duration:g} s"
    shift = camera.vary.onset if camera.vary else 0.0
    for i, fire in enumerate(camera.fires):
        if fire.onset >= duration:
            yield Conflict(
                ("fires", i, "onset"), f"fire {fire.id} begins at {fire.onset:g} s, after {end}"
            )
        elif fire.onset + shift >= duration:
            yield Conflict(
                ("vary", "onset"),
                f"may move fire {fire.id} to {fire.onset + shift:g} s, after {end}",
            )
    if camera.phase is not None and camera.phase >= duration:
        yield Conflict(("phase",), f"the first frame would come after {end}")
    for at, windows in (
        (("outages",), camera.outages),
        (("network", "outages"), camera.network.outages),
    ):
        for i, window in enumerate(windows):
            if window.start >= duration:
                yield Conflict((*at, i), f"begins at {window.start:g} s, after {end}")


Camera.model_rebuild()
Scenario.model_rebuild()
