"""What a synthetic camera looks at: the scene, and the plumes that rise in it.

A field that is None is drawn from the camera's seed, so `Scene()` with a seed alone is one
plausible camera, and another seed another one. When a fire starts and ends is not said here:
that belongs to the camera's fires.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Growth",
    "Overlay",
    "Plume",
    "PlumeColour",
    "PlumeSize",
    "Scene",
    "Side",
    "Terrain",
    "TimeOfDay",
]


class TimeOfDay(StrEnum):
    DAY = "day"
    DUSK = "dusk"
    NIGHT = "night"


class Terrain(StrEnum):
    """The lie of the land under the mast."""

    HILLS = "hills"
    """Rolling chaparral hills, several ridge lines."""
    VALLEY = "valley"
    """A wide low valley, mountains only far off."""
    PLATEAU = "plateau"
    """A near flat top with trees, the land beyond it seen over their crowns."""
    MOUNTAINS = "mountains"
    """Steep ridges close by, much of the land hidden behind them."""


class Side(StrEnum):
    LEFT = "left"
    RIGHT = "right"


class Overlay(StrEnum):
    """The text that the camera writes into its picture."""

    NONE = "none"
    LINE = "line"
    """One thin coloured line at the top left."""
    STRIP = "strip"
    """White text on a black strip at the bottom."""


class PlumeSize(StrEnum):
    """Names for a peak heat release and a growth; see `Plume`."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class PlumeColour(StrEnum):
    WHITE = "white"
    GREY = "grey"
    BROWN = "brown"
    DARK = "dark"


class Growth(StrEnum):
    """How fast the heat release grows; coefficients of the t-squared fire of NFPA 72, annex B.

    slow 0.00293, medium 0.01172, fast 0.0469, ultrafast 0.1876 kW/s².
    """

    SLOW = "slow"
    MEDIUM = "medium"
    FAST = "fast"
    ULTRAFAST = "ultrafast"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scene(_Settings):
    """A fixed camera on a height, its weather and its light. None: drawn from the seed."""

    time_of_day: TimeOfDay | None = Field(
        None, description="day, dusk or night (night is a near-infrared or low-light picture)"
    )
    terrain: Terrain | None = Field(None, description="the lie of the land")
    dryness: float | None = Field(
        None, ge=0, le=1, description="0 green brush and forest, 1 cured grass and bare soil"
    )
    haze: float | None = Field(
        None, ge=0, le=1, description="0 about 120 km of visibility, 1 about 6 km"
    )
    fog: float | None = Field(None, ge=0, le=1, description="fog lying in the low ground")
    clouds: float | None = Field(None, ge=0, le=1, description="part of the sky that is cloud")
    wind_mps: float | None = Field(
        None, ge=0, le=30, description="wind across the view at 10 m above ground, m/s"
    )
    wind_from: Side | None = Field(None, description="the side the wind comes from")
    sun_azimuth_deg: float | None = Field(
        None, ge=-180, le=180, description="sun from the view's axis, degrees, right positive"
    )
    sun_elevation_deg: float | None = Field(
        None, ge=-18, le=90, description="sun above the horizon, degrees"
    )
    fov_deg: float | None = Field(None, ge=10, le=120, description="horizontal angle of view")
    horizon: float | None = Field(
        None, ge=0.15, le=0.85, description="height of the level line, fraction from the top"
    )
    noise: float | None = Field(
        None, ge=0, le=20, description="sensor noise, standard deviation in grey levels"
    )
    overlay: Overlay | None = Field(None, description="the camera's own text in the picture")
    site: str | None = Field(None, max_length=60, description="the name in the overlay")
    local_start: datetime | None = Field(
        None, description="local time in the overlay at scenario second 0"
    )


class Plume(_Settings):
    """How one fire's smoke looks. None: drawn from the seed, or taken from `size`.

    Sizes: small from 2 to 20 MW, medium growth; medium from 4 to 200 MW, fast; large from 8 to
    1500 MW, ultrafast. The heat release is `start_mw` at the onset (the instant at which smoke
    starts to rise) and grows with the square of time to `peak_mw`.
    """

    size: PlumeSize = Field(PlumeSize.MEDIUM, description="names a peak and a growth")
    x: float | None = Field(
        None, ge=0, le=1, description="where the fire burns, fraction of the width from the left"
    )
    distance_m: float | None = Field(
        None, ge=200, le=60_000, description="how far away the fire burns, metres"
    )
    colour: PlumeColour | None = Field(None, description="colour of the sunlit smoke")
    opacity: float = Field(
        1.0, gt=0, le=10, description="factor on the smoke that a megawatt of fire gives"
    )
    growth: Growth | None = Field(None, description="growth law; None: as `size` says")
    start_mw: float | None = Field(
        None, gt=0, le=1000, description="heat release at the onset, megawatts"
    )
    peak_mw: float | None = Field(
        None, gt=0, le=20_000, description="largest heat release, megawatts"
    )
    decay_s: float = Field(
        180.0, gt=0, le=7200, description="after the end smoke falls by 1/e in this time, seconds"
    )
