"""Options of a rendered world, and which seeds serve which purpose."""

from __future__ import annotations

from enum import Enum

import numpy as np
from pydantic import field_validator

from segrgbx_core.base.config import Config, option

TRAIN_SEEDS = range(0, 10_000)
"""Scenes that models are trained on."""
VALIDATION_SEEDS = range(10_000, 20_000)
"""Scenes that choose between trained models."""
TEST_SEEDS = range(20_000, 30_000)
"""Scenes that no model is trained or chosen on. The demo's recordings lie below 21000; their light
was chosen with results in sight."""


class Family(str, Enum):
    """Kinds of scenes."""

    STREET = "street"
    INDOOR = "indoor"


class Light(str, Enum):
    """Time of day of a world; `any` draws it per scene."""

    ANY = "any"
    DAY = "day"
    OVERCAST = "overcast"
    DUSK = "dusk"
    NIGHT = "night"


class Corruption(str, Enum):
    """How the RGB camera (or the event camera) fails; `any` fails in half of the scenes."""

    NONE = "none"
    ANY = "any"
    OVER_EXPOSURE = "over_exposure"
    UNDER_EXPOSURE = "under_exposure"
    MOTION_BLUR = "motion_blur"
    EVENT_LOW_RESOLUTION = "event_low_resolution"


class Variation(str, Enum):
    """What is drawn per scene as widely as it varies between real streets and real cameras.

    Each kind draws from its own stream, so that one changes nothing that another one draws. The
    distributions are in `docs/data.md`.
    """

    REAL = "real"
    """All of the others."""
    LAYOUT = "layout"
    """Width, lanes, markings and kerbs of streets; how near and high houses stand; greenery, rows
    of parked cars, crowds. See `scenes.street_layout`."""
    CLUTTER = "clutter"
    """Fences, walls, bollards, wires and things of any shape, all without a class (void)."""
    SURFACES = "surfaces"
    """Colours as real cars, clothes and walls have them, some at random; textures of any scale,
    also in temperature; emissivities. See `surfaces.variation`."""
    SKY = "sky"
    """Clouds with structure, haze. See `surfaces.climate`."""
    CAMERA = "camera"
    """Height, pitch, heading, place in the lane and field of view."""
    RESPONSE = "response"
    """RGB: metering, white balance, colours, tone curve, veiling glare. See `sensors.rgb`."""
    READOUT = "readout"
    """RGB: lens blur, vignette, noise, rolling bands, sharpening, resolution, JPEG."""
    THERMAL = "thermal"
    """Gain control to 8 bits, polarity, detail enhancement, noise. See `sensors.thermal`."""
    DEPTH = "depth"
    """Base, noise, range and shadows of the stereo pair. See `sensors.depth`."""
    EVENT = "event"
    """Thresholds, noise and speed of the event camera. See `sensors.event`."""


def variation_rng(seed: int, kind: Variation) -> np.random.Generator:
    """The stream of one kind of variation of a scene."""
    return np.random.default_rng([seed, 61, list(Variation).index(kind)])


class WorldConfig(Config):
    """One world: what is seen, by which cameras."""

    width: int = option(320, doc="width of the RGB image", unit="px", low=32, high=4096)
    height: int = option(240, doc="height of the RGB image", unit="px", low=32, high=4096)
    family: Family = option(Family.STREET, doc="kind of scene")
    light: Light = option(Light.ANY, doc="time of day")
    field_of_view_deg: float = option(
        66.0, doc="horizontal angle of view", unit="deg", low=20, high=120
    )
    speed_mps: float = option(
        -1.0, doc="speed of the camera; negative draws it", unit="m/s", low=-1, high=40
    )
    corruption: Corruption = option(Corruption.NONE, doc="failure of a camera")
    exposure: float = option(
        1.0, doc="RGB's exposure as a multiple of the metered one", low=1e-3, high=20
    )
    x_scale: float = option(1.0, doc="size of X images relative to RGB", low=0.1, high=2)
    x_shift_m: float = option(
        0.0, doc="how far X cameras sit to the right of RGB", unit="m", low=-1, high=1
    )
    x_turn_deg: float = option(
        0.0,
        doc="how far X cameras are turned about the optical axis",
        unit="deg",
        low=-10,
        high=10,
    )
    x_delay_ms: float = option(
        0.0, doc="how much later than RGB the X cameras expose", unit="ms", low=-500, high=500
    )
    event_window_ms: float = option(
        50.0, doc="span of events that end at the stamp", unit="ms", low=1, high=500
    )
    event_substeps: int = option(
        4, doc="pictures between which brightness is interpolated", low=1, high=50
    )
    light_field_views: int = option(
        1, doc="views per side of the square grid, and 1 for one corner", low=1, high=9
    )
    light_field_base_m: float = option(
        0.08, doc="distance of neighbouring views", unit="m", low=0.001, high=0.5
    )
    variation: tuple[Variation, ...] = option(
        (), doc="what is drawn as widely as in reality, a list of kinds; real stands for all"
    )

    @field_validator("variation", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Takes `real` and `camera,response` for lists."""
        names = value.split(",") if isinstance(value, str) and value else value or ()
        if not isinstance(names, (list, tuple)):
            return value
        known = {kind.value: kind for kind in Variation}
        return tuple(known.get(name, name) for name in names)

    def varies(self, kind: Variation) -> bool:
        """Whether this kind is among `variation`."""
        return kind in self.variation or Variation.REAL in self.variation
