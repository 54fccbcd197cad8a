"""What a scenario file says: cameras, what they see, when fire starts, and every setting.

One frozen model per idea, each field with its unit. `load` reads files into these; nothing here
touches the disk. Instants are scenario seconds; a box is [x_center, y_center, width, height] as
fractions of the frame.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from earlyfire_stream.scenario.scenes import Plume, Scene
from earlyfire_stream.scenario.units import Duration, Seconds
from earlyfire_stream.verdict import Box

Unit = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Stands in MQTT topics and file names: no `/`, `+`, `#` or spaces, at most 64 characters."""
Size = Annotated[tuple[int, int], Field(description="[width, height] in pixels")]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Window(Model):
    """A span of scenario time, its end excluded."""

    start: Duration
    end: Duration

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end ({self.end:g} s) must come after start ({self.start:g} s)")
        return self

    def __contains__(self, at: float) -> bool:
        return self.start <= at < self.end


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
    boxes: tuple[BoxAt, ...] = ()
    plume: Plume = Plume()
    """How it looks in a synthetic scene; elsewhere it has no effect."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end is not None and self.end <= self.onset:
            raise ValueError(f"end ({self.end:g} s) must come after onset ({self.onset:g} s)")
        times = [b.at for b in self.boxes]
        if times != sorted(set(times)):
            raise ValueError("boxes must stand in order of time, each instant once")
        return self


# --- where pixels come from ----------------------------------------------------------------------


class SyntheticSource(Model):
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
    """Folder of YOLO text files; an empty file says: no smoke. A missing file is an error."""
    smoke_class: int = 0

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        given = [self.interval is not None, self.times is not None, self.epoch_names]
        if sum(given) != 1:
            raise ValueError(
                "say when the images were taken: exactly one of interval, times, epoch_names"
            )
        if self.interval is not None and self.interval <= 0:
            raise ValueError("interval must be above 0")
        return self


class StillsSource(Model):
    """Unrelated images without a cadence: they count for frame metrics alone."""

    kind: Literal["stills"]
    path: str
    labels: str | None = None
    smoke_class: int = 0
    smoke: bool | None = None
    """The truth of all of them, where there are no label files."""

    @model_validator(mode="after")
    def _labelled_once(self) -> Self:
        if self.labels is not None and self.smoke is not None:
            raise ValueError("give labels or smoke, not both")
        return self


class StreamSource(Model):
    """A live camera (RTSP or HTTP); it has no truth."""

    kind: Literal["stream"]
    url: Annotated[str, Field(pattern=r"^(rtsps?|https?)://[^\s]+$")]
    """A password belongs into the environment: rtsp://user:${CAM_PASSWORD}@host/…"""
    quality: Annotated[int, Field(ge=10, le=100)] = 85


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
    """With `count`, `{n}` is appended as `-001`, `-002` …"""
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

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.cadence == 0:
            raise ValueError("cadence must be above 0")
        ids = [f.id for f in self.fires]
        if len(set(ids)) != len(ids):
            raise ValueError("two fires of one camera have the same id")
        if self.vary is not None and self.count == 1:
            raise ValueError("vary needs count above 1")
        if any(len(p) < 3 for p in self.ignore):
            raise ValueError("an ignore polygon needs at least 3 points")
        if self.source.kind == "stream" and (self.fires or not self.live_ok()):
            raise ValueError("a live stream has no fires, network, perturb or loop settings")
        return self

    def live_ok(self) -> bool:
        return self.perturb == Perturb()


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


# --- how the consumer works ----------------------------------------------------------------------


class Sampling(Model):
    """Dynamic FPS: when a camera's next frame is looked at. Intervals in scenario seconds."""

    policy: Literal["fixed", "adaptive", "every"] = "adaptive"
    """`every` looks at each frame (benchmarks of stills and recorded sequences)."""
    idle: Duration = 5.0
    """Between two looks at a quiet camera; at least 3 s (the specification's N)."""
    suspect: Duration = 1.0
    """Between two looks while something changed or a positive is unconfirmed."""
    slowest: Duration = 60.0
    """Under load no camera waits longer than this, whatever the budget says."""
    hold: Duration = 15.0
    """How long a suspicion lasts without being renewed."""
    change: Annotated[float, Field(gt=0)] = 4.0
    """Change score (multiples of the camera's own usual change) that raises suspicion."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.policy != "every" and self.idle < 3:
            raise ValueError("idle must be at least 3s")
        if not 0 < self.suspect <= self.idle <= self.slowest:
            raise ValueError("needs 0 < suspect <= idle <= slowest")
        return self


class Budget(Model):
    """Visual tokens: how many a request may take, how many a second the fleet may take."""

    min_tokens: Annotated[int, Field(ge=4, le=16384)] = 256
    max_tokens: Annotated[int, Field(ge=4, le=16384)] = 1280
    tokens_per_s: Annotated[float, Field(gt=0)] | Literal["auto", "none"] = "auto"
    """`auto`: learned from the engine's measured rate. Wall seconds."""
    burst: Duration = 4.0
    """Seconds of budget that may be saved up."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError("min_tokens must not be above max_tokens")
        return self


class AlarmPolicy(Model):
    """k positive verdicts among the last n within `within` scenario seconds."""

    k: Annotated[int, Field(ge=1, le=100)] = 1
    n: Annotated[int, Field(ge=1, le=100)] = 1
    within: Duration = 300.0
    min_confidence: Unit = 0.0
    """A verdict with a confidence below this is no positive; one without any counts."""
    repeat: Duration = 300.0
    """At most one alarm is emitted per camera in this time (scoring is not affected)."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.k > self.n:
            raise ValueError("k must not be above n")
        return self


class Engine(Model):
    """Which engine answers, and how it is asked. Unset: the engine's own default."""

    name: str = "baseline"
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
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the engine as they are; it refuses what it does not know."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.deadline <= 0 or self.timeout <= 0:
            raise ValueError("deadline and timeout must be above 0")
        return self


class Scenario(Model):
    """A whole scenario file."""

    earlyfire: Literal[1]
    """Version of this format."""
    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    duration: Duration | None = None
    """Scenario seconds. None: until the longest source ends (needs one that ends)."""
    speed: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    """Scenario seconds per wall second."""
    clock: Literal["wall", "virtual"] = "wall"
    connections: Literal["auto", "per_camera", "shared"] = "auto"
    """MQTT clients of the fleet; auto: one per camera up to 50 cameras."""
    cameras: Annotated[tuple[Camera, ...], Field(min_length=1)]
    sampling: Sampling = Sampling()
    budget: Budget = Budget()
    alarm: AlarmPolicy = AlarmPolicy()
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        seen: set[str] = set()
        for camera in self.cameras:
            if camera.id in seen:
                raise ValueError(f"two cameras are called {camera.id!r}; ids must differ")
            seen.add(camera.id)
            if self.duration is None:
                continue
            for fire in camera.fires:
                if fire.onset >= self.duration:
                    raise ValueError(
                        f"camera {camera.id}: fire {fire.id} begins at {fire.onset:g} s, "
                        f"after the scenario's end at {self.duration:g} s"
                    )
        if self.duration == 0:
            raise ValueError("duration must be above 0")
        return self


Camera.model_rebuild()
Scenario.model_rebuild()
