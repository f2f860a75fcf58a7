"""Cars, bicycles and motor scooters as pieces."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.synthetic.climate import Climate
from training.synthetic.geometry import Mesh, block, box, ellipsoid, join, loft, quad, tube
from training.synthetic.materials import Part, PartTable, street_id
from training.synthetic.objects import Pieces

CAR = street_id("car")
BIKE = street_id("bike")
RUBBER = (0.022, 0.022, 0.024)
PAINTS = (
    (0.50, 0.50, 0.50), (0.02, 0.02, 0.025), (0.18, 0.19, 0.20), (0.42, 0.03, 0.03), (0.03, 0.08, 0.30),
    (0.62, 0.60, 0.55), (0.05, 0.16, 0.09), (0.48, 0.30, 0.05), (0.08, 0.09, 0.11), (0.30, 0.36, 0.42),
)  # fmt: skip


def car(
    parts: PartTable, rng: np.random.Generator, climate: Climate, running: bool, instance: int
) -> Pieces:
    """A passenger car that faces along x, wheels on z = 0."""
    length, width = rng.uniform(3.9, 4.8), rng.uniform(1.72, 1.88)
    tall = rng.choice([1.44, 1.5, 1.68, 1.95], p=[0.4, 0.3, 0.2, 0.1])
    paint = np.array(PAINTS[int(rng.integers(len(PAINTS)))]) * rng.uniform(0.8, 1.15)
    colour = (float(paint[0]), float(paint[1]), float(paint[2]))
    air = climate.air_kelvin
    cool = -2.5 if climate.lamps_on else 0.5

    def piece(mesh: Mesh, **facts: object) -> tuple[Mesh, int]:
        return mesh, parts.add(Part(label=CAR, instance=instance, **facts))  # type: ignore[arg-type]

    hull = {"colour": colour, "index": 1.5, "emissivity": 0.93, "sun_kelvin": 16.0}
    engine = rng.uniform(7, 15) if running else rng.uniform(0, 1.5)
    front, rear = length / 2, -length / 2
    half, shoulder = width / 2, 0.62 * tall
    stations = [
        (rear, 0.36, shoulder * 0.88, 0.88), (rear + 0.12, 0.24, shoulder, 0.97), (rear + 1.1, 0.2, shoulder, 1.0),
        (front - 1.35, 0.2, shoulder, 1.0), (front - 0.45, 0.22, shoulder * 0.9, 0.98),
        (front - 0.08, 0.26, shoulder * 0.76, 0.93), (front, 0.34, shoulder * 0.66, 0.84),
    ]  # fmt: skip
    rings = np.array([_hull_ring(x, low, high, half * share) for x, low, high, share in stations])
    pieces = [
        piece(loft(rings[:4]), kelvin=air + cool, **hull),
        piece(loft(rings[3:]), kelvin=air + cool * 0.3 + engine, **hull),
    ]
    boxy = tall > 1.6
    bottom = (rear + 0.25, front - (1.25 if not boxy else 0.9))
    top = (rear + (0.45 if boxy else 0.85), front - (1.75 if boxy else 2.15))
    glass, roof = _cabin(bottom, top, half * 0.92, half * 0.74, shoulder, tall)
    pieces.append(
        piece(
            glass,
            colour=(0.015, 0.017, 0.018),
            index=1.5,
            emissivity=0.86,
            kelvin=air - 1.0,
            sun_kelvin=5.0,
        )
    )
    pieces.append(piece(roof, kelvin=air + cool - 1.0, **hull))
    wheel, hub = _wheels(length, half)
    warm = rng.uniform(7, 13) if running else rng.uniform(0, 1)
    pieces.append(piece(wheel, colour=RUBBER, kelvin=air + warm * 0.8, emissivity=0.96))
    pieces.append(piece(hub, colour=(0.3, 0.3, 0.31), kelvin=air + warm, emissivity=0.75))
    skirt = block((rear + 0.3, front - 0.3), (-half * 0.9, half * 0.9), (0.16, 0.3))
    pieces.append(piece(skirt, colour=(0.02, 0.02, 0.02), kelvin=air + engine * 0.7))
    pieces += _car_lamps(piece, climate, running, (front, rear, half, shoulder))
    return pieces


def _hull_ring(x: float, low: float, high: float, half: float) -> NDArray[np.float64]:
    profile = [
        (0.90, low), (1.0, low + 0.16), (1.0, high - 0.2), (0.96, high - 0.06), (0.84, high),
    ]  # fmt: skip
    right = [(x, -share * half, z) for share, z in profile]
    return np.array(right + [(x, share * half, z) for share, z in profile[::-1]])


def _cabin(
    bottom: tuple[float, float],
    top: tuple[float, float],
    low: float,
    high: float,
    z0: float,
    z1: float,
) -> tuple[Mesh, Mesh]:
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


def _wheels(length: float, half: float) -> tuple[Mesh, Mesh]:
    tyres, hubs = [], []
    for x in (-0.3 * length, 0.31 * length):
        for side in (-1, 1):
            outer = side * (half + 0.01)
            tyres.append(tube((x, outer - side * 0.2, 0.32), (x, outer, 0.32), 0.32, 14))
            hubs.append(
                tube((x, outer - side * 0.02, 0.32), (x, outer + side * 0.012, 0.32), 0.19, 10)
            )
    return join(tyres), join(hubs)


def _car_lamps(piece, climate: Climate, running: bool, shape: tuple[float, ...]) -> Pieces:  # type: ignore[no-untyped-def]  # noqa: ANN001
    front, rear, half, shoulder = shape
    on = climate.lamps_on and running
    head = join(
        [
            ellipsoid((front - 0.1, s * half * 0.68, shoulder * 0.68), (0.09, 0.17, 0.08))
            for s in (-1, 1)
        ]
    )
    tail = join(
        [box((rear + 0.06, s * half * 0.75, shoulder * 0.8), (0.12, 0.26, 0.14)) for s in (-1, 1)]
    )
    plate = join(
        [
            box((front + 0.0, 0, 0.42), (0.05, 0.5, 0.12)),
            box((rear - 0.0, 0, shoulder * 0.62), (0.05, 0.5, 0.12)),
        ]
    )
    air = climate.air_kelvin
    return [
        piece(head, colour=(0.6, 0.6, 0.6), index=1.5, kelvin=air + (6 if on else 0),
              emission=(5.0, 4.8, 4.2) if on else (0, 0, 0)),
        piece(tail, colour=(0.35, 0.01, 0.01), index=1.5, kelvin=air + (2 if on else 0),
              emission=(0.9, 0.02, 0.015) if on else (0, 0, 0)),
        piece(plate, colour=(0.65, 0.65, 0.6), kelvin=air),
    ]  # fmt: skip


def bicycle(
    parts: PartTable,
    rng: np.random.Generator,
    climate: Climate,
    instance: int,
    motor: bool,
    running: bool,
) -> Pieces:
    """A bicycle or a motor scooter along x; wheels are discs so that they have a label everywhere."""
    air = climate.air_kelvin
    paint = np.array(PAINTS[int(rng.integers(len(PAINTS)))])
    frame = parts.add(Part(BIKE, tuple(paint), index=1.5, kelvin=air - 0.5, instance=instance))
    rubber = parts.add(
        Part(BIKE, (0.03, 0.03, 0.03), kelvin=air + (5 if running else 0), instance=instance)
    )
    radius, base = (0.26, 0.62) if motor else (0.34, 0.53)
    wheels = []
    for x in (-base, base):
        wheels.append(tube((x, -0.03, radius), (x, 0.03, radius), radius, 14))
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
