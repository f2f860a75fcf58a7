"""Cars, bicycles and motor scooters as pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.shapes.geometry import Mesh, block, box, ellipsoid, join, loft, quad, tube
from training.world.shapes.objects import Pieces
from training.world.surfaces.climate import Climate
from training.world.surfaces.materials import Colour, Part, PartTable, street_id

CAR = street_id("car")
BIKE = street_id("bike")
Span = tuple[float, float]
RUBBER = (0.022, 0.022, 0.024)
PAINTS = (
    (0.50, 0.50, 0.50), (0.02, 0.02, 0.025), (0.18, 0.19, 0.20), (0.42, 0.03, 0.03),
    (0.03, 0.08, 0.30), (0.62, 0.60, 0.55), (0.05, 0.16, 0.09), (0.48, 0.30, 0.05),
    (0.08, 0.09, 0.11), (0.30, 0.36, 0.42),
)  # fmt: skip


def car(
    parts: PartTable,
    rng: np.random.Generator,
    climate: Climate,
    running: bool,
    instance: int,
    is_van: bool = False,
) -> Pieces:
    """A passenger car, or a van, that faces along x, wheels on z = 0."""
    return _CarMaker(parts, rng, climate, running, instance, is_van).pieces


class _CarMaker:
    """Puts a random car together; `pieces` is the result."""

    def __init__(
        self,
        parts: PartTable,
        rng: np.random.Generator,
        climate: Climate,
        running: bool,
        instance: int,
        is_van: bool,
    ) -> None:
        self.parts, self.climate, self.running, self.instance = parts, climate, running, instance
        self.pieces: Pieces = []
        self.length, width = rng.uniform(3.9, 4.8), rng.uniform(1.72, 1.88)
        self.tall = rng.choice([1.44, 1.5, 1.68, 1.95], p=[0.4, 0.3, 0.2, 0.1])
        paint = np.array(PAINTS[int(rng.integers(len(PAINTS)))]) * rng.uniform(0.8, 1.15)
        if is_van:
            self.length, width, self.tall = rng.uniform([4.8, 1.9, 2.0], [6.2, 2.1, 2.7])
        self.front, self.rear = self.length / 2, -self.length / 2
        self.half, self.shoulder = width / 2, 0.62 * self.tall
        self.air = climate.air_kelvin
        engine = rng.uniform(7, 15) if running else rng.uniform(0, 1.5)
        brakes = rng.uniform(7, 13) if running else rng.uniform(0, 1)
        self._hull(tuple(paint), engine)
        self._wheels(brakes, engine)
        self._lamps()

    def _add(self, mesh: Mesh, colour: Colour, kelvin: float, **properties: Any) -> None:
        part = Part(CAR, colour, kelvin=self.air + kelvin, instance=self.instance, **properties)
        self.pieces.append((mesh, self.parts.add(part)))

    def _hull(self, paint: Colour, engine: float) -> None:
        """Body, hood over the engine, glass and roof; cars radiate to the night sky."""
        rear, front, half, high = self.rear, self.front, self.half, self.shoulder
        stations = [
            (rear, 0.36, high * 0.88, 0.88), (rear + 0.12, 0.24, high, 0.97),
            (rear + 1.1, 0.2, high, 1.0), (front - 1.35, 0.2, high, 1.0),
            (front - 0.45, 0.22, high * 0.9, 0.98), (front - 0.08, 0.26, high * 0.76, 0.93),
            (front, 0.34, high * 0.66, 0.84),
        ]  # fmt: skip
        rings = np.array(
            [_hull_ring(x, low, top, half * share) for x, low, top, share in stations]
        )
        cool = -2.5 if self.climate.lamps_on else 0.5
        coat = {"ior": 1.5, "emissivity": 0.93, "sun_kelvin": 16.0}
        self._add(loft(rings[:4]), paint, cool, **coat)
        self._add(loft(rings[3:]), paint, cool * 0.3 + engine, **coat)
        boxy = self.tall > 1.6
        bottom = (rear + 0.25, front - (0.9 if boxy else 1.25))
        top = (rear + (0.45 if boxy else 0.85), front - (1.75 if boxy else 2.15))
        glass, roof = _cabin(bottom, top, (half * 0.92, half * 0.74), (high, self.tall))
        self._add(glass, (0.015, 0.017, 0.018), -1.0, ior=1.5, emissivity=0.86, sun_kelvin=5.0)
        self._add(roof, paint, cool - 1.0, **coat)

    def _wheels(self, brakes: float, engine: float) -> None:
        tyres, hubs = [], []
        for x in (-0.3 * self.length, 0.31 * self.length):
            for side in (-1, 1):
                outer = side * (self.half + 0.01)
                tyres.append(tube((x, outer - side * 0.2, 0.32), (x, outer, 0.32), 0.32, 14))
                start, end = outer - side * 0.02, outer + side * 0.012
                hubs.append(tube((x, start, 0.32), (x, end, 0.32), 0.19, 10))
        self._add(join(tyres), RUBBER, brakes * 0.8, emissivity=0.96)
        self._add(join(hubs), (0.3, 0.3, 0.31), brakes, emissivity=0.75)
        wide = self.half * 0.9
        skirt = block((self.rear + 0.3, self.front - 0.3), (-wide, wide), (0.16, 0.3))
        self._add(skirt, (0.02, 0.02, 0.02), engine * 0.7)

    def _lamps(self) -> None:
        front, rear, half, high = self.front, self.rear, self.half, self.shoulder
        on = self.climate.lamps_on and self.running
        sides = (-1, 1)
        heads = [
            ellipsoid((front - 0.1, s * half * 0.68, high * 0.68), (0.09, 0.17, 0.08))
            for s in sides
        ]
        tails = [
            box((rear + 0.06, s * half * 0.75, high * 0.8), (0.12, 0.26, 0.14)) for s in sides
        ]
        plates = [
            box((x, 0, z), (0.05, 0.5, 0.12)) for x, z in ((front, 0.42), (rear, high * 0.62))
        ]
        white = (5.0, 4.8, 4.2) if on else (0.0, 0.0, 0.0)
        red = (0.9, 0.02, 0.015) if on else (0.0, 0.0, 0.0)
        self._add(join(heads), (0.6, 0.6, 0.6), 6 if on else 0, ior=1.5, emission=white)
        self._add(join(tails), (0.35, 0.01, 0.01), 2 if on else 0, ior=1.5, emission=red)
        self._add(join(plates), (0.65, 0.65, 0.6), 0)


def _hull_ring(x: float, low: float, high: float, half: float) -> NDArray[np.float64]:
    profile = [
        (0.90, low), (1.0, low + 0.16), (1.0, high - 0.2), (0.96, high - 0.06), (0.84, high),
    ]  # fmt: skip
    right = [(x, -share * half, z) for share, z in profile]
    return np.array(right + [(x, share * half, z) for share, z in profile[::-1]])


def _cabin(bottom: Span, top: Span, halves: Span, heights: Span) -> tuple[Mesh, Mesh]:
    """Glass, and roof with posts, between a lower and an upper rectangle."""
    (low, high), (z0, z1) = halves, heights

    def corner(x: float, y: float, z: float) -> tuple[float, float, float]:
        return (x, y, z)

    base = [corner(bottom[i], s * low, z0 - 0.02) for i in (0, 1) for s in (-1, 1)]
    roof = [corner(top[i], s * high, z1) for i in (0, 1) for s in (-1, 1)]
    glass = join(
        [
            quad(base[2], base[3], roof[3], roof[2]),
            quad(base[1], base[0], roof[0], roof[1]),
            quad(base[0], base[2], roof[2], roof[0]),
            quad(base[3], base[1], roof[1], roof[3]),
        ]
    )
    lid = np.array([[x, y, z] for x, y, z in roof])
    thick = [quad(roof[0], roof[2], roof[3], roof[1])]
    rim = lid.mean(axis=0) + (lid - lid.mean(axis=0)) * [1.03, 1.03, 1] - [0, 0, 0.09]
    order = [0, 2, 3, 1]
    for i, j in zip(order, [*order[1:], order[0]], strict=True):
        thick.append(quad(rim[i], rim[j], lid[j], lid[i]))
    posts = [tube(base[i], roof[i], 0.05, 5) for i in range(4)]
    for side in (-1, 1):
        middle = 0.45 * bottom[0] + 0.55 * bottom[1]
        upper = 0.45 * top[0] + 0.55 * top[1]
        posts.append(tube((middle, side * low, z0), (upper, side * high, z1), 0.05, 5))
    return glass, join(thick + posts)


def bicycle(
    parts: PartTable,
    rng: np.random.Generator,
    climate: Climate,
    instance: int,
    motor: bool,
    running: bool,
) -> Pieces:
    """A bicycle or a motor scooter along x; wheels are discs, so that all of them has a label."""
    air = climate.air_kelvin
    paint = np.array(PAINTS[int(rng.integers(len(PAINTS)))])
    frame = parts.add(Part(BIKE, tuple(paint), ior=1.5, kelvin=air - 0.5, instance=instance))
    rubber = parts.add(
        Part(BIKE, (0.03, 0.03, 0.03), kelvin=air + (5 if running else 0), instance=instance)
    )
    radius, base = (0.26, 0.62) if motor else (0.34, 0.53)
    wheels = [tube((x, -0.03, radius), (x, 0.03, radius), radius, 14) for x in (-base, base)]
    body = [tube((base, 0, radius), (base * 0.72, 0, 0.98), 0.045, 6)]
    body.append(tube((base * 0.7, -0.3, 1.02), (base * 0.7, 0.3, 1.02), 0.035, 6))
    if motor:
        hot = parts.add(
            Part(BIKE, (0.05, 0.05, 0.05), kelvin=air + (22 if running else 1), instance=instance)
        )
        body += [
            box((base * 0.72, 0, 0.6), (0.12, 0.4, 0.7)),
            box((0.05, 0, 0.3), (0.6, 0.34, 0.12)),
            ellipsoid((-0.42, 0, 0.55), (0.5, 0.2, 0.24)),
            box((-0.35, 0, 0.8), (0.7, 0.28, 0.1)),
        ]
        engine = join(
            [
                ellipsoid((-0.4, 0.0, 0.32), (0.3, 0.16, 0.14)),
                tube((-0.9, 0.16, 0.3), (-0.3, 0.16, 0.28), 0.06, 6),
            ]
        )
        return [(join(wheels), rubber), (join(body), frame), (engine, hot)]
    seat, crank = (-0.22, 0, 0.95), (-0.02, 0, 0.32)
    body += [
        tube((base * 0.75, 0, 0.86), crank, 0.04, 6),
        tube((base * 0.75, 0, 0.9), (-0.18, 0, 0.8), 0.04, 6),
        tube(crank, seat, 0.04, 6),
        tube((-base, 0, radius), crank, 0.03, 6),
        tube((-base, 0, radius), (-0.19, 0, 0.82), 0.03, 6),
        ellipsoid(seat, (0.14, 0.08, 0.05)),
    ]
    return [(join(wheels), rubber), (join(body), frame)]
