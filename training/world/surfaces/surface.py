"""What light and heat see where a ray ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.scenes.climate import Climate
from training.world.scenes.plan import StreetPlan

Floats = NDArray[np.floating[Any]]
Columns = dict[str, NDArray[Any]]


@dataclass(eq=False)
class Surface:
    """What light and heat see at N hits; patterns change it in place.

    Attributes:
        position: metres in the world, (N, 3).
        local: the same, before the street was bent.
        normal: unit shading normal (N, 3).
        footprint: size of a pixel on the surface in metres (N,).
        albedo: linear (N, 3).
        label: native class ids (N,).
        index: refractive index of a smooth coat, 1 where matte (N,).
        kelvin: temperature in the shade (N,).
        sun_kelvin: what full sun adds (N,).
        emissivity: at normal incidence (N,).
        emission: emitted radiance (N, 3).
        params: pattern parameters (N, 8).
        part: part ids (N,).
        plan: what paint on the road follows.
        climate: light and air that surfaces answer to.
    """

    position: Floats
    local: Floats
    normal: Floats
    footprint: Floats
    albedo: Floats
    label: NDArray[np.uint8]
    index: Floats
    kelvin: Floats
    sun_kelvin: Floats
    emissivity: Floats
    emission: Floats
    params: Floats
    part: NDArray[np.int32]
    plan: StreetPlan
    climate: Climate


Painter = Callable[[Surface, NDArray[np.int64]], None]


def gather(
    columns: Columns,
    part: NDArray[np.int32],
    places: dict[str, Floats],
    plan: StreetPlan,
    climate: Climate,
) -> Surface:
    """The plain surface of each hit; `places` holds position, local, normal and footprint."""
    return Surface(
        **places,
        albedo=columns["colour"][part],
        label=columns["label"][part],
        index=columns["index"][part],
        kelvin=columns["kelvin"][part],
        sun_kelvin=columns["sun_kelvin"][part],
        emissivity=columns["emissivity"][part],
        emission=columns["emission"][part],
        params=columns["params"][part],
        part=part,
        plan=plan,
        climate=climate,
    )
