"""What a rendered world is asked for, and what it delivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.samples import Events

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


@dataclass(frozen=True, eq=False)
class Record:
    """One moment of a scene as all sensors delivered it.

    Attributes:
        seed: the scene.
        stamp_ns: time of the RGB exposure from the start of the scene, ns.
        rgb: uint8 (H, W, 3).
        labels: uint8 (H, W), native ids of `label_space`, on the RGB grid.
        label_space: name of the native label space.
        meta: time of day, exposure and the like, plain values.
        x_stamp_ns: time of the X exposure.
        thermal: uint16 (h, w), hundredths of a kelvin, or None when not asked for.
        depth: float32 (h, w), metres along the optical axis as a stereo camera measures it; 0
            invalid.
        depth_truth: float32 (h, w), the exact depth; inf for the sky.
        events: events of the window that ends at `x_stamp_ns`.
        polarization: uint16 (h, w, 4), 12-bit images behind analysers at 0, 45, 90, 135 degrees.
        light_field: uint8 (V, h, w, 3), views row by row (one corner view when V is 1).
    """

    seed: int
    stamp_ns: int
    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    label_space: str = "synthetic_street"
    meta: Mapping[str, Any] = field(default_factory=dict)
    x_stamp_ns: int = 0
    thermal: NDArray[np.uint16] | None = None
    depth: NDArray[np.float32] | None = None
    depth_truth: NDArray[np.float32] | None = None
    events: Events | None = None
    polarization: NDArray[np.uint16] | None = None
    light_field: NDArray[np.uint8] | None = None
