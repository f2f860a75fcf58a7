"""Surfaces where rays end, before and after their patterns were painted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.rays.vectors import Floats, Indices
from training.world.surfaces.materials import Columns, Pattern


@dataclass(eq=False)
class Surface:
    """What light and heat meet at N hits; patterns change it in place.

    Attributes:
        position: metres in the world, (N, 3).
        local: the same, before the scene was bent.
        normal: unit shading normal (N, 3).
        footprint: size of a pixel on the surface in metres (N,).
        albedo: linear (N, 3).
        label: native class ids (N,).
        ior: refractive index of a smooth coat, 1 where matte (N,).
        kelvin: temperature in the shade (N,).
        sun_kelvin: what full sun adds (N,).
        emissivity: at normal incidence (N,).
        emission: emitted radiance (N, 3).
        params: pattern parameters (N, 8).
        part: part ids (N,).
    """

    position: Floats
    local: Floats
    normal: Floats
    footprint: Floats
    albedo: Floats
    label: NDArray[np.uint8]
    ior: Floats
    kelvin: Floats
    sun_kelvin: Floats
    emissivity: Floats
    emission: Floats
    params: Floats
    part: NDArray[np.int32]

    def of(self, rows: Indices) -> Surface:
        """Some of the surfaces."""
        return Surface(**{name: values[rows] for name, values in vars(self).items()})

    def joined(self, other: Surface) -> Surface:
        """These surfaces, then the other ones."""
        rest = vars(other)
        return Surface(
            **{name: np.concatenate([own, rest[name]]) for name, own in vars(self).items()}
        )

    def mix(self, rows: Indices, colour: Floats, share: Floats) -> None:
        """Covers a share (n,) of the surfaces `rows` with a colour, (3,) or (n, 3)."""
        old = self.albedo[rows]
        self.albedo[rows] = old + (colour - old) * share[:, None]


Painter = Callable[[Surface, Indices], None]
"""Paints a pattern onto the rows of a surface that have it."""


def bare(columns: Columns, part: NDArray[np.int32], places: dict[str, Floats]) -> Surface:
    """Surfaces of parts without their patterns.

    Args:
        columns: of the parts.
        part: part id of each hit.
        places: `position`, `local`, `normal` and `footprint` of each hit.
    """
    return Surface(
        **places,
        albedo=columns["colour"][part],
        label=columns["label"][part],
        ior=columns["ior"][part],
        kelvin=columns["kelvin"][part],
        sun_kelvin=columns["sun_kelvin"][part],
        emissivity=columns["emissivity"][part],
        emission=columns["emission"][part],
        params=columns["params"][part],
        part=part,
    )


def paint(
    surface: Surface, pattern: NDArray[np.int8], painters: Mapping[Pattern, Painter]
) -> None:
    """Paints each hit's pattern; patterns without a painter stay plain."""
    for kind in np.unique(pattern):
        painter = painters.get(Pattern(int(kind)))
        if painter is not None:
            painter(surface, np.flatnonzero(pattern == kind))


def wall_coordinates(surface: Surface, rows: Indices) -> tuple[Floats, Floats]:
    """Coordinates along an upright surface: the one that runs sideways, and the height."""
    along_x = np.abs(surface.normal[rows, 1]) > np.abs(surface.normal[rows, 0])
    u = np.where(along_x, surface.local[rows, 0], surface.local[rows, 1])
    return u.astype(np.float32), surface.local[rows, 2]


def face_coordinates(surface: Surface, rows: Indices) -> tuple[Floats, Floats]:
    """Coordinates on any axis-aligned face; level ones use x and y."""
    level = np.abs(surface.normal[rows, 2]) > 0.7
    u, v = wall_coordinates(surface, rows)
    x, y = surface.local[rows, 0], surface.local[rows, 1]
    return np.where(level, x, u), np.where(level, y, v)
