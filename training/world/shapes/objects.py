"""Street furniture and plants as pieces: meshes with the parts they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.rays.vectors import Floats, cross
from training.world.shapes.geometry import (
    Mesh,
    Vector,
    box,
    ellipsoid,
    flat,
    join,
    loft,
    quad,
    tube,
    vector,
    yaw,
)
from training.world.surfaces.climate import Climate
from training.world.surfaces.materials import Part, PartTable, Pattern, street_id
from training.world.surfaces.variation import any_colour

Pieces = list[tuple[Mesh, "int | NDArray[np.int32]"]]
"""Meshes with the part that each is made of, or one part per triangle."""

POLE = street_id("pole")
SIGN = street_id("traffic sign")
LIGHT = street_id("traffic light")
VEGETATION = street_id("vegetation")
STATIC = street_id("static object")

STEEL = (0.26, 0.27, 0.28)


def placed(pieces: Pieces, position: Vector, heading: float = 0.0) -> Pieces:
    """Pieces turned about the vertical and moved."""
    turn = yaw(heading)
    return [(mesh.turned(turn).moved(position), part) for mesh, part in pieces]


def tree(
    parts: PartTable,
    rng: np.random.Generator,
    climate: Climate,
    size: float = 1.0,
    patches: int = 130,
) -> Pieces:
    """A broad-leaved tree: trunk and limbs, and a crown of leaf patches round a few dark cores."""
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
        draws = _LeafDraws.of(rng, patches)
        leaves.append(_leaf_patches(draws, centre, radii, 3.1 / np.sqrt(patches) * size))
    return [
        (join(wood), parts.add(bark)),
        (join(leaves), parts.add(leaf)),
        (join(cores), parts.add(core)),
    ]


def bare_tree(
    parts: PartTable, rng: np.random.Generator, climate: Climate, size: float = 1.0
) -> Pieces:
    """A broad-leaved tree in winter: trunk, limbs and twigs."""
    air = climate.air_kelvin
    tone = np.array([0.10, 0.08, 0.065]) * rng.uniform(0.5, 1.3)
    bark = Part(VEGETATION, tuple(tone), Pattern.BARK, kelvin=air + 0.8)
    twig = Part(VEGETATION, tuple(tone * 0.8), kelvin=air)
    top, radius = rng.uniform(1.8, 3.0) * size, rng.uniform(0.1, 0.2) * size
    wood, twigs = [tube((0, 0, 0), (0, 0, top), radius, 8, radius * 0.7)], []
    for turn in np.arange(int(rng.integers(5, 9))) * 2.4:
        start = vector(0, 0, top * rng.uniform(0.7, 1.0))
        reach, rise = rng.uniform(0.8, 1.8) * size, rng.uniform(0.8, 2.6) * size
        end = start + vector(reach * np.cos(turn), reach * np.sin(turn), rise)
        wood.append(tube(start, end, radius * 0.4, 5, radius * 0.15))
        for _ in range(int(rng.integers(4, 8))):
            foot = start + (end - start) * rng.uniform(0.3, 1.0)
            tip = foot + rng.normal(0, [0.5, 0.5, 0.3]) * size + vector(0, 0, 0.5 * size)
            twigs.append(tube(foot, tip, radius * 0.13, 4, radius * 0.05))
    return [(join(wood), parts.add(bark)), (join(twigs), parts.add(twig))]


def bush(parts: PartTable, rng: np.random.Generator, climate: Climate) -> Pieces:
    """A bush on the ground."""
    green = np.array([0.05, 0.085, 0.025]) * rng.uniform(0.6, 1.6) * rng.uniform(0.8, 1.3, 3)
    leaf = Part(
        VEGETATION, tuple(green), Pattern.LEAVES, kelvin=climate.air_kelvin - 0.3, sun_kelvin=1.5
    )
    radii = rng.uniform([0.8, 0.8, 0.5], [2.2, 2.2, 1.6])
    centre = vector(0, 0, 0.7 * radii[2])
    patches = _leaf_patches(_LeafDraws.of(rng, 60), centre, radii, 0.45)
    return [(join([ellipsoid(centre, radii * 0.85, 5, 7), patches]), parts.add(leaf))]


def oddment(parts: PartTable, rng: np.random.Generator, climate: Climate, label: int) -> Pieces:
    """A thing of any shape and colour on the ground, up to 2 m high."""
    pieces: Pieces = []
    base = 0.0
    for _ in range(int(rng.integers(1, 4))):
        size = np.exp(rng.uniform(np.log(0.08), np.log(0.9), 3))
        part = Part(
            label, any_colour(rng), ior=float(rng.choice([1.0, 1.0, 1.5])),
            kelvin=climate.air_kelvin + float(rng.normal(0, 3)),
            emissivity=float(rng.uniform(0.6, 0.97)),
        )  # fmt: skip
        middle = vector(rng.normal(0, 0.1), rng.normal(0, 0.1), base + size[2])
        shape = int(rng.integers(3))
        if shape == 0:
            mesh = box(middle, 2 * size)
        elif shape == 1:
            mesh = ellipsoid(middle, size)
        else:
            mesh = tube(middle - vector(0, 0, size[2]), middle + vector(0, 0, size[2]), size[0], 9)
        pieces.append((mesh.turned(yaw(rng.uniform(0, 3))), parts.add(part)))
        base += 2 * float(size[2])
        if base > 1.6:
            break
    return pieces


@dataclass(frozen=True)
class _LeafDraws:
    """Random numbers of N leaf patches.

    Attributes:
        outward: direction from the middle, not of unit length, (N, 3).
        share: distance from the middle as a share of the radius, (N, 1).
        first: direction of one diagonal, not of unit length, (N, 3).
        tilt: turns the other diagonal out of the surface, (N, 3).
        reach: half the size as a share of the mean, (N, 1).
    """

    outward: Floats
    share: Floats
    first: Floats
    tilt: Floats
    reach: Floats

    @staticmethod
    def of(rng: np.random.Generator, count: int) -> _LeafDraws:
        """Draws some patches."""
        return _LeafDraws(
            outward=rng.normal(size=(count, 3)),
            share=rng.uniform(0.72, 1.08, (count, 1)),
            first=rng.normal(size=(count, 3)),
            tilt=rng.normal(size=(count, 3)),
            reach=rng.uniform(0.5, 1.1, (count, 1)),
        )

    @staticmethod
    def joined(draws: Sequence[_LeafDraws]) -> _LeafDraws:
        """The patches of several draws."""
        columns = zip(*(vars(each).values() for each in draws), strict=True)
        return _LeafDraws(*(np.concatenate(column) for column in columns))


def _leaf_patches(draws: _LeafDraws, centre: Floats, radii: Floats, size: float) -> Mesh:
    """Square patches about an ellipsoid: an upper half of each, then a lower half of each."""
    outward = draws.outward / np.linalg.norm(draws.outward, axis=1, keepdims=True)
    middle = centre + outward * radii * draws.share
    first = draws.first / np.linalg.norm(draws.first, axis=1, keepdims=True)
    second = cross(first, outward + 0.6 * draws.tilt)
    second /= np.maximum(np.linalg.norm(second, axis=1, keepdims=True), 1e-6)
    reach = size * draws.reach
    a, b, c = middle + first * reach, middle + second * reach, middle - first * reach
    d = middle - second * reach
    mesh = flat(np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    normals = np.concatenate([outward, outward]) + 0.35 * mesh.normals[:, 0]
    return Mesh(mesh.corners, np.repeat(normals[:, None].astype(np.float32), 3, axis=1))


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
    draws = [_LeafDraws.of(rng, 2) for _ in spots]
    radii = np.array([0.2, 0.25, 0.35]) * high
    fringe = _leaf_patches(_LeafDraws.joined(draws), np.repeat(spots, 2, axis=0), radii, 0.2)
    # Each tuft has its two lower halves after its two upper ones.
    order = np.arange(4 * len(spots)).reshape(2, -1, 2).swapaxes(0, 1).ravel()
    fringe = Mesh(fringe.corners[order], fringe.normals[order])
    return [(join([core, fringe]), parts.add(leaf))]


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
    """A sign on a post that faces against x; in place already: its face is painted by position."""
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
    plate = loft(np.stack([ring - vector(0.02, 0, 0), ring + vector(0.02, 0, 0)]), smooth=False)
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
    pieces: Pieces = [
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
    pieces: Pieces = [
        (join(bars), frame),
        (box((0, 0.0, 2.45), (4.1, 1.7, 0.12)), roof),
        (join([box((0, 0.4, 0.5), (2.6, 0.4, 0.07)), box((-1, 0.4, 0.25), (0.08, 0.3, 0.5)),
               box((1, 0.4, 0.25), (0.08, 0.3, 0.5))]), bench),
    ]  # fmt: skip
    glass = parts.add(
        Part(street_id("glass"), (0.02, 0.025, 0.024), ior=1.5, kelvin=air - 1, emissivity=0.86)
    )
    panes = [
        quad((-1.85, 0.65, 0.25), (1.85, 0.65, 0.25), (1.85, 0.65, 2.35), (-1.85, 0.65, 2.35)),
        quad((1.9, -0.5, 0.25), (1.9, 0.6, 0.25), (1.9, 0.6, 2.35), (1.9, -0.5, 2.35)),
        quad((-1.9, -0.5, 0.25), (-1.9, 0.6, 0.25), (-1.9, 0.6, 2.35), (-1.9, -0.5, 2.35)),
    ]
    return pieces, [(join(panes), glass)]
