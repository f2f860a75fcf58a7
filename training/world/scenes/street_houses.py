"""Houses along a street: fronts with windows and shops, roofs, chimneys, balconies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.world.scenes.scene import Scene
from training.world.scenes.street_layout import StreetLayout
from training.world.shapes.geometry import block, flat, join, quad
from training.world.shapes.objects import hedge, placed
from training.world.surfaces.materials import Colour, Pattern, street_id
from training.world.surfaces.street_plan import StreetPlan

NEAR, END = -16.0, 112.0
PLASTER, BRICK, CONCRETE = 0, 1, 2
WALLS: tuple[tuple[Colour, ...], ...] = (
    (
        (0.55, 0.48, 0.36), (0.60, 0.58, 0.53), (0.50, 0.36, 0.26), (0.36, 0.42, 0.42),
        (0.55, 0.30, 0.22), (0.44, 0.47, 0.36), (0.58, 0.44, 0.20),
    ),
    ((0.27, 0.12, 0.08), (0.34, 0.20, 0.13), (0.22, 0.15, 0.12)),
    ((0.33, 0.33, 0.32), (0.42, 0.40, 0.37)),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((0.24, 0.08, 0.05), (0.09, 0.09, 0.10), (0.16, 0.10, 0.07))
BUILDING = street_id("building")


@dataclass(frozen=True)
class _Front:
    """One bay of a house front.

    Attributes:
        left: where it begins, x in metres.
        bay: its width.
        y: of the front.
        storey: height of a storey.
        levels: number of storeys.
    """

    left: float
    bay: float
    y: float
    storey: float
    levels: int


class Houses:
    """Adds houses to a scene."""

    def __init__(
        self, scene: Scene, plan: StreetPlan, layout: StreetLayout, rng: np.random.Generator
    ) -> None:
        self.scene, self.plan, self.layout, self.rng = scene, plan, layout, rng
        self.air = scene.climate.air_kelvin

    def rows(self) -> None:
        """Two rows with gaps and garden hedges, and a closing row far away."""
        rng, plan = self.rng, self.plan
        for side, is_open in zip((-1, 1), self.layout.open_sides, strict=True):
            if is_open:
                continue
            gap = float(rng.choice([0.05, 2.5, 5.0], p=self.layout.setbacks))
            setback = plan.walk_outer + gap
            x = NEAR + rng.uniform(-8, 0)
            while x < END + 40:
                width = rng.uniform(8, 17)
                if self._fits(x, x + width) and rng.uniform() < 0.88:
                    self._house(x, width, side, setback)
                    if setback > plan.walk_outer + 1 and rng.uniform() < 0.6:
                        self._hedge(x + width / 2, width * 0.8, side)
                x += width + (0.0 if rng.uniform() < 0.55 else rng.uniform(1.5, 7))
        for y in (-26.0, -9.0, 8.0, 25.0):
            self._house(END + 60 + rng.uniform(0, 12), 14.0, 0, y)

    def _fits(self, left: float, right: float) -> bool:
        margin = self.plan.crossing_half + self.plan.walk_width * 0.8
        return all(right < c - margin or left > c + margin for c in self.plan.crossings)

    def _hedge(self, x: float, length: float, side: int) -> None:
        pieces = hedge(self.scene.parts, self.rng, self.scene.climate, length)
        place = (x, side * (self.plan.walk_outer + 0.5), 0.12)
        self.scene.statics += placed(pieces, place)

    def _house(self, x: float, width: float, side: int, setback: float) -> None:
        """A house whose front stands `setback` from the centre; side 0 closes the street."""
        rng = self.rng
        style = int(rng.choice([PLASTER, BRICK, CONCRETE], p=[0.45, 0.35, 0.2]))
        tones = WALLS[style]
        tone = np.array(tones[int(rng.integers(len(tones)))]) * rng.uniform(0.75, 1.15)
        storey, levels = float(rng.uniform(2.8, 3.3)), int(rng.integers(*self.layout.storeys))
        depth, high = rng.uniform(8, 11), storey * levels + rng.uniform(0.2, 0.6)
        bay = width / max(2, round(width / rng.uniform(2.4, 3.4)))
        window = (min(bay * 0.62, rng.uniform(0.95, 1.7)), rng.uniform(1.25, 1.7))
        y0, y1 = sorted((side * setback, side * (setback + depth)))
        if side == 0:
            y0, y1 = setback - 8, setback + 8
        params = (x if side else y0, 0.0, storey, bay, *window, style, int(rng.integers(1, 9999)))
        warm = rng.uniform(0.5, 4.0)
        wall = self.scene.parts.surface(
            BUILDING, tuple(tone), Pattern.FACADE, params=params,
            kelvin=self.air + warm, sun_kelvin=8.0, emissivity=0.93,
        )  # fmt: skip
        light = np.minimum(tone * 1.25, 0.75)
        trim = self.scene.parts.surface(BUILDING, tuple(light), kelvin=self.air + 0.8)
        cornice = block((x - 0.08, x + width + 0.08), (y0 - 0.15, y1 + 0.15), (high - 0.25, high))
        self.scene.statics.append((block((x, x + width), (y0, y1), (-0.1, high)), wall))
        self.scene.statics.append((cornice, trim))
        if rng.uniform() < 0.62:
            self._roof((x, x + width), (y0, y1), high)
        if side and rng.uniform() < 0.4:
            left = x + int(rng.integers(0, 3)) * bay
            front = _Front(left, bay, side * setback, storey, levels)
            self._balconies(front, trim)

    def _roof(self, x: tuple[float, float], y: tuple[float, float], high: float) -> None:
        rng = self.rng
        cold = -4.0 if self.scene.climate.lamps_on else 1.0
        tone = ROOFS[int(rng.integers(3))]
        tiles = self.scene.parts.surface(
            BUILDING, tone, Pattern.TILES, kelvin=self.air + cold, sun_kelvin=14.0
        )
        (x0, x1), (y0, y1) = x, (y[0] - 0.35, y[1] + 0.35)
        ridge, middle = high + rng.uniform(2.0, 3.8), (y0 + y1) / 2
        slopes = [
            quad((x0, y0, high), (x1, y0, high), (x1, middle, ridge), (x0, middle, ridge)),
            quad((x1, y1, high), (x0, y1, high), (x0, middle, ridge), (x1, middle, ridge)),
            flat(np.array([[(x0, y0, high), (x0, middle, ridge), (x0, y1, high)]])),
            flat(np.array([[(x1, y0, high), (x1, y1, high), (x1, middle, ridge)]])),
        ]
        self.scene.statics.append((join(slopes), tiles))
        if rng.uniform() < 0.6:
            brick = self.scene.parts.surface(
                BUILDING, (0.26, 0.12, 0.08), Pattern.BRICK, kelvin=self.air + 3
            )
            left = x0 + rng.uniform(0.2, 0.8) * (x1 - x0)
            stack = block((left, left + 0.6), (middle - 1.5, middle - 0.9), (high, ridge + 0.7))
            self.scene.statics.append((stack, brick))

    def _balconies(self, front: _Front, trim: int) -> None:
        span = (front.left + 0.15, front.left + front.bay - 0.15)
        sign = np.sign(front.y)
        for level in range(1, front.levels):
            z = level * front.storey
            near, rail = front.y - sign * 0.95, front.y - sign * 0.9
            slab = block(span, (min(front.y, near), max(front.y, near)), (z - 0.1, z + 0.05))
            fence = block(span, (min(rail, near), max(rail, near)), (z, z + 0.9))
            self.scene.statics += [(slab, trim), (fence, trim)]
