"""Street furniture, plants and vehicles as pieces: meshes with the parts they are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.synthetic.climate import Climate
from training.synthetic.geometry import (
    Floats,
    Mesh,
    Vector,
    block,
    box,
    ellipsoid,
    flat,
    join,
    loft,
    quad,
    tube,
    yaw,
)
from training.synthetic.materials import Part, PartTable, Pattern, street_id

Pieces = list[tuple[Mesh, int]]

POLE = street_id("pole")
SIGN = street_id("traffic sign")
LIGHT = street_id("traffic light")
VEGETATION = street_id("vegetation")
CAR = street_id("car")
BIKE = street_id("bike")
STATIC = street_id("static object")

STEEL = (0.26, 0.27, 0.28)
RUBBER = (0.022, 0.022, 0.024)
PAINTS = (
    (0.50, 0.50, 0.50), (0.02, 0.02, 0.025), (0.18, 0.19, 0.20), (0.42, 0.03, 0.03), (0.03, 0.08, 0.30),
    (0.62, 0.60, 0.55), (0.05, 0.16, 0.09), (0.48, 0.30, 0.05), (0.08, 0.09, 0.11), (0.30, 0.36, 0.42),
)  # fmt: skip


def placed(pieces: Pieces, position: Vector, heading: float = 0.0) -> Pieces:
    """Pieces turned about the vertical and moved."""
    turn = yaw(heading)
    return [(mesh.turned(turn).moved(position), part) for mesh, part in pieces]


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


def tree(
    parts: PartTable,
    rng: np.random.Generator,
    climate: Climate,
    size: float = 1.0,
    patches: int = 130,
) -> Pieces:
    """A broad-leaved tree: a trunk with limbs, and a crown of leaf patches round a few dark cores."""
    air = climate.air_kelvin
    trunk_top = rng.uniform(2.0, 2.8) * size
    radius = rng.uniform(0.12, 0.2) * size
    green = np.array([0.055, 0.10, 0.025]) * rng.uniform(0.8, 1.5) * rng.uniform(0.85, 1.2, 3)
    bark = Part(VEGETATION, (0.10, 0.075, 0.055), Pattern.BARK, kelvin=air + 0.8)
    leaf = Part(
        VEGETATION, tuple(green), Pattern.LEAVES, kelvin=air - 0.4, sun_kelvin=1.5, emissivity=0.97
    )
    core = Part(
        VEGETATION,
        tuple(green * 0.6),
        Pattern.LEAVES,
        kelvin=air - 0.2,
        sun_kelvin=1.0,
        emissivity=0.97,
    )
    wood = [tube((0, 0, 0), (0, 0, trunk_top), radius, 8, radius * 0.75)]
    leaves, cores = [], []
    for _ in range(int(rng.integers(4, 7))):
        offset = rng.normal(0, [0.8, 0.8, 0.55]) * size
        centre = np.array([0, 0, trunk_top + 1.1 * size]) + offset
        radii = rng.uniform(0.85, 1.35) * size * np.array([1, 1, 0.85])
        wood.append(tube((0, 0, trunk_top * 0.92), centre, radius * 0.5, 5, radius * 0.25))
        cores.append(ellipsoid(centre, radii * 0.72, 5, 7))
        leaves.append(_leaf_patches(rng, centre, radii, patches, 3.1 / np.sqrt(patches) * size))
    return [
        (join(wood), parts.add(bark)),
        (join(leaves), parts.add(leaf)),
        (join(cores), parts.add(core)),
    ]


def _leaf_patches(
    rng: np.random.Generator,
    centre: NDArray[np.floating],
    radii: NDArray[np.floating],
    count: int,
    size: float,
) -> Mesh:
    way = rng.normal(size=(count, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    middle = centre + way * radii * rng.uniform(0.72, 1.08, (count, 1))
    first = rng.normal(size=(count, 3))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(first, way + 0.6 * rng.normal(size=(count, 3)))
    second /= np.maximum(np.linalg.norm(second, axis=1, keepdims=True), 1e-6)
    reach = size * rng.uniform(0.5, 1.1, (count, 1))
    a, b, c = middle + first * reach, middle + second * reach, middle - first * reach
    d = middle - second * reach
    mesh = flat(np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    outward = np.concatenate([way, way]) + 0.35 * mesh.normals[:, 0]
    return Mesh(mesh.corners, np.repeat(outward[:, None].astype(np.float32), 3, axis=1))


def hedge(parts: PartTable, rng: np.random.Generator, climate: Climate, length: float) -> Pieces:
    """A clipped hedge along x, centred on the origin."""
    high, deep = rng.uniform(0.7, 1.5), rng.uniform(0.5, 0.9)
    green = np.array([0.05, 0.085, 0.025]) * rng.uniform(0.8, 1.4)
    leaf = Part(
        VEGETATION, tuple(green), Pattern.LEAVES, kelvin=climate.air_kelvin - 0.3, sun_kelvin=1.5
    )
    core = box((0, 0, high / 2), (length, deep, high))
    count = int(length * 14)
    spots = rng.uniform(-0.5, 0.5, (count, 3)) * [length, deep, 0] + [0, 0, high * 0.8]
    fringe = [
        _leaf_patches(rng, spot, np.array([0.2, 0.25, 0.35]) * high, 2, 0.2) for spot in spots
    ]
    return [(join([core, *fringe]), parts.add(leaf))]


def street_lamp(
    parts: PartTable, climate: Climate, height: float, reach: float
) -> tuple[Pieces, Floats]:
    """A lamp post whose arm points along +y; also gives the place of its light."""
    air = climate.air_kelvin
    steel = parts.add(Part(POLE, STEEL, kelvin=air - 0.5, emissivity=0.72))
    on = climate.lamps_on
    glow = parts.add(
        Part(
            POLE,
            (0.5, 0.5, 0.45),
            kelvin=air + (9 if on else 0),
            emission=(6.0, 4.4, 2.4) if on else (0, 0, 0),
        )
    )
    mast = [
        tube((0, 0, 0), (0, 0, height), 0.1, 8, 0.075),
        tube((0, 0, height - 0.05), (0, reach, height + 0.25), 0.05, 6),
        box((0, reach + 0.2, height + 0.26), (0.26, 0.62, 0.1)),
        tube((0, 0, 0), (0, 0, 0.9), 0.135, 8),
    ]
    lens = box((0, reach + 0.2, height + 0.2), (0.2, 0.5, 0.05))
    return [(join(mast), steel), (lens, glow)], np.array(
        [0, reach + 0.2, height + 0.1], np.float32
    )


def traffic_sign(
    parts: PartTable, rng: np.random.Generator, climate: Climate, position: Sequence[float]
) -> Pieces:
    """A sign on a post that faces against x; placed already, because its face is painted by position."""
    air = climate.air_kelvin
    kind = int(rng.integers(0, 3))
    radius = float(rng.uniform(0.42, 0.55))
    x, y, z = position
    height = 2.1 + radius
    post = tube((x + 0.06, y, z), (x + 0.06, y, z + height + radius * 0.8), 0.055, 7)
    sectors = {0: 20, 1: 8, 2: 4}[kind]
    corners = np.arange(sectors) * 2 * np.pi / sectors + np.pi / sectors
    wide = radius * (1.0 if kind < 2 else 1.25)
    ring = np.stack([np.zeros(sectors), np.cos(corners) * wide, np.sin(corners) * wide], axis=1)
    plate = loft(np.stack([ring - [0.02, 0, 0], ring + [0.02, 0, 0]]), smooth=False)
    face = Part(
        SIGN,
        (0.6, 0.6, 0.6),
        Pattern.SIGN,
        (x, y, z + height, radius, kind),
        kelvin=air - 1.0,
        emissivity=0.9,
    )
    steel = Part(POLE, STEEL, kelvin=air - 0.5, emissivity=0.72)
    return [(plate.moved((x, y, z + height)), parts.add(face)), (post, parts.add(steel))]


def traffic_light(parts: PartTable, climate: Climate, green: bool) -> Pieces:
    """A traffic light on a post, facing against x."""
    air = climate.air_kelvin
    steel = parts.add(Part(POLE, STEEL, kelvin=air - 0.5, emissivity=0.72))
    case = parts.add(Part(LIGHT, (0.02, 0.025, 0.02), kelvin=air + 2))
    pieces = [
        (tube((0, 0, 0), (0, 0, 3.4), 0.07, 7), steel),
        (box((-0.16, 0, 2.75), (0.26, 0.4, 1.12)), case),
    ]
    for row, colour in enumerate([(0.02, 0.8, 0.35), (0.7, 0.4, 0.02), (0.9, 0.03, 0.02)]):
        on = (row == 0) if green else (row == 2)
        light = Part(
            LIGHT, tuple(0.3 * np.array(colour)), kelvin=air + (8 if on else 2),
            emission=tuple(2.2 * np.array(colour)) if on else (0, 0, 0),
        )  # fmt: skip
        pieces.append(
            (ellipsoid((-0.29, 0, 2.4 + 0.35 * row), (0.05, 0.14, 0.14)), parts.add(light))
        )
    return pieces


def bin_box(parts: PartTable, rng: np.random.Generator, climate: Climate) -> Pieces:
    """A litter bin, a power box or an advertising column."""
    kind = int(rng.integers(3))
    tone = [(0.04, 0.12, 0.06), (0.30, 0.31, 0.29), (0.35, 0.25, 0.12)][kind]
    part = parts.add(Part(STATIC, tone, kelvin=climate.air_kelvin - 0.5, emissivity=0.93))
    if kind == 2:
        column = [
            tube((0, 0, 0), (0, 0, 2.5), 0.55, 14),
            ellipsoid((0, 0, 2.5), (0.62, 0.62, 0.22)),
        ]
        return [(join(column), part)]
    size = (0.5, 0.55, 1.0) if kind == 0 else (0.7, 1.1, 1.25)
    lid = box((0, 0, size[2] + 0.04), (size[0] + 0.08, size[1] + 0.08, 0.09))
    return [(join([box((0, 0, size[2] / 2), size), lid]), part)]


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


def shelter(parts: PartTable, climate: Climate) -> tuple[Pieces, Pieces]:
    """A bus shelter open towards -y: its frame and its panes."""
    air = climate.air_kelvin
    frame = parts.add(Part(STATIC, (0.07, 0.08, 0.09), kelvin=air - 0.5, emissivity=0.9))
    roof = parts.add(
        Part(STATIC, (0.2, 0.21, 0.22), kelvin=air - 3 if climate.lamps_on else air + 1)
    )
    bench = parts.add(Part(STATIC, (0.22, 0.13, 0.06), kelvin=air))
    bars = [box((x, y, 1.2), (0.09, 0.09, 2.4)) for x in (-1.9, 0, 1.9) for y in (0.65,)]
    bars += [box((x, -0.55, 1.2), (0.08, 0.08, 2.4)) for x in (-1.9, 1.9)]
    bars.append(box((0, 0.65, 0.2), (3.8, 0.06, 0.08)))
    pieces = [
        (join(bars), frame),
        (box((0, 0.0, 2.45), (4.1, 1.7, 0.12)), roof),
        (join([box((0, 0.4, 0.5), (2.6, 0.4, 0.07)), box((-1, 0.4, 0.25), (0.08, 0.3, 0.5)),
               box((1, 0.4, 0.25), (0.08, 0.3, 0.5))]), bench),
    ]  # fmt: skip
    glass = parts.add(
        Part(street_id("glass"), (0.02, 0.025, 0.024), index=1.5, kelvin=air - 1, emissivity=0.86)
    )
    panes = [
        quad((-1.85, 0.65, 0.25), (1.85, 0.65, 0.25), (1.85, 0.65, 2.35), (-1.85, 0.65, 2.35)),
        quad((1.9, -0.5, 0.25), (1.9, 0.6, 0.25), (1.9, 0.6, 2.35), (1.9, -0.5, 2.35)),
        quad((-1.9, -0.5, 0.25), (-1.9, 0.6, 0.25), (-1.9, 0.6, 2.35), (-1.9, -0.5, 2.35)),
    ]
    return pieces, [(join(panes), glass)]
