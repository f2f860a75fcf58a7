"""What surfaces are made of: colour, gloss, warmth and the class that a label image shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.labels.tables import SYNTHETIC_STREET

Colour = tuple[float, float, float]
Columns = dict[str, NDArray[Any]]
"""Parts as arrays by field name."""


SKINS: tuple[Colour, ...] = (
    (0.52, 0.33, 0.24), (0.40, 0.24, 0.16), (0.22, 0.12, 0.07), (0.11, 0.06, 0.04),
)  # fmt: skip


def street_id(name: str) -> int:
    """Native id of a class of the street label space."""
    return SYNTHETIC_STREET.names.index(name)


class Pattern(IntEnum):
    """How a surface varies from place to place; a scene has a painter for each that it uses."""

    PLAIN = 0
    ROAD = 1
    PAVING = 2
    GRASS = 3
    FACADE = 4
    TILES = 5
    LEAVES = 6
    BRICK = 7
    SIGN = 8
    CLOTH = 9
    BARK = 10
    WOOD = 11
    CARPET = 12
    PICTURE = 13
    BOOKS = 14


@dataclass(frozen=True)
class Part:
    """One surface of one object.

    Attributes:
        label: native class id.
        colour: linear albedo, each channel in [0, 1].
        pattern: how it varies.
        params: numbers that the pattern reads.
        ior: refractive index of a smooth coat; 1 for a matte surface.
        kelvin: temperature in the shade.
        sun_kelvin: what full sun adds.
        emissivity: long-wave infrared emissivity at normal incidence.
        emission: emitted linear radiance.
        instance: id of the object that it belongs to, 0 for the background.
    """

    label: int
    colour: Colour
    pattern: Pattern = Pattern.PLAIN
    params: Sequence[float] = ()
    ior: float = 1.0
    kelvin: float = 288.0
    sun_kelvin: float = 3.0
    emissivity: float = 0.95
    emission: Colour = (0.0, 0.0, 0.0)
    instance: int = 0


NUM_PARAMS = 8


@dataclass
class PartTable:
    """All parts of a scene, which its objects add themselves.

    Attributes:
        air_kelvin: temperature of parts that name no other.
    """

    air_kelvin: float
    parts: list[Part] = field(default_factory=list)
    instances: int = 0

    def add(self, part: Part) -> int:
        """Registers a part and returns its id."""
        self.parts.append(part)
        return len(self.parts) - 1

    def surface(
        self, label: int, colour: Colour, pattern: Pattern = Pattern.PLAIN, **properties: Any
    ) -> int:
        """Registers a part, at air temperature unless another is given; returns its id."""
        properties.setdefault("kelvin", self.air_kelvin)
        return self.add(Part(label, colour, pattern, **properties))

    def next_instance(self) -> int:
        """A new object id."""
        self.instances += 1
        return self.instances

    def columns(self) -> Columns:
        """One row per part; colours are (P, 3), params (P, NUM_PARAMS)."""
        rows = self.parts
        params = np.zeros((len(rows), NUM_PARAMS), np.float32)
        for row, part in zip(params, rows, strict=True):
            row[: len(part.params)] = part.params
        return {
            "label": np.array([part.label for part in rows], np.uint8),
            "colour": np.array([part.colour for part in rows], np.float32),
            "pattern": np.array([part.pattern for part in rows], np.int8),
            "params": params,
            "ior": np.array([part.ior for part in rows], np.float32),
            "kelvin": np.array([part.kelvin for part in rows], np.float32),
            "sun_kelvin": np.array([part.sun_kelvin for part in rows], np.float32),
            "emissivity": np.array([part.emissivity for part in rows], np.float32),
            "emission": np.array([part.emission for part in rows], np.float32),
            "instance": np.array([part.instance for part in rows], np.int32),
        }
