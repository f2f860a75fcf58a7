"""Triangle meshes of simple solids: the bricks that every object of a scene is built from.

A mesh is a soup: corner positions and corner normals, no shared vertices. Unit solids are made
once and then only scaled, turned and moved, which keeps the set-up of a scene cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from training.world.rays.vectors import Floats, Mask, cross

Vector = Sequence[float] | Floats


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with a normal at every corner.

    Attributes:
        corners: float32 (T, 3, 3), metres.
        normals: float32 (T, 3, 3), outward; unit length is not promised.
    """

    corners: Floats
    normals: Floats

    def __len__(self) -> int:
        return len(self.corners)

    def moved(self, offset: Vector) -> Mesh:
        """The same mesh elsewhere."""
        return Mesh(self.corners + np.asarray(offset, np.float32), self.normals)

    def scaled(self, factors: Vector) -> Mesh:
        """Stretched along the axes about the origin."""
        scale = np.asarray(factors, np.float32)
        return Mesh(self.corners * scale, self.normals / scale)

    def turned(self, matrix: Floats) -> Mesh:
        """Turned by a 3x3 rotation about the origin."""
        turn = np.asarray(matrix, np.float32).T
        shape = self.corners.shape
        # One product of many rows is ten times as fast as many products of three.
        corners, normals = self.corners.reshape(-1, 3) @ turn, self.normals.reshape(-1, 3) @ turn
        return Mesh(corners.reshape(shape), normals.reshape(shape))


def vector(x: float, y: float, z: float) -> Floats:
    """A point or an offset."""
    return np.array([x, y, z])


def join(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of many."""
    return Mesh(
        np.concatenate([mesh.corners for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
    )


def yaw(angle: float) -> Floats:
    """Rotation about the vertical, counter-clockwise seen from above."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)


def pitch(angle: float) -> Floats:
    """Rotation about the y axis; a positive angle lowers the x axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], np.float32)


def flat(corners: Floats) -> Mesh:
    """Triangles with their own face normals; (T, 3, 3) corners, counter-clockwise from outside."""
    points = np.asarray(corners, np.float32)
    normal = cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    unit = (normal / np.maximum(length, 1e-12)).astype(np.float32)
    return Mesh(points, np.repeat(unit[:, None], 3, axis=1))


def quad(a: Vector, b: Vector, c: Vector, d: Vector) -> Mesh:
    """A flat four-sided face, corners counter-clockwise seen from its front."""
    return flat(np.array([[a, b, c], [a, c, d]], np.float32))


def sheet(x: tuple[float, float], y: tuple[float, float], z: float, step: float = 0.0) -> Mesh:
    """A horizontal rectangle facing up, cut along x every `step` metres (0: uncut)."""
    count = max(1, int(np.ceil((x[1] - x[0]) / step))) if step > 0 else 1
    edges = np.linspace(x[0], x[1], count + 1)
    parts = [
        quad((left, y[0], z), (right, y[0], z), (right, y[1], z), (left, y[1], z))
        for left, right in pairwise(edges)
    ]
    return join(parts)


@lru_cache(maxsize=1)
def _unit_box() -> Mesh:
    faces = []
    for axis in range(3):
        for side in (-0.5, 0.5):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            corners = np.zeros((4, 3))
            corners[:, axis] = side
            corners[:, u] = [-0.5, 0.5, 0.5, -0.5]
            corners[:, v] = [-0.5, -0.5, 0.5, 0.5]
            ring = corners if side > 0 else corners[::-1]
            faces.append(quad(*ring))
    return join(faces)


def box(centre: Vector, size: Vector) -> Mesh:
    """A box along the axes."""
    return _unit_box().scaled(size).moved(centre)


def block(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> Mesh:
    """A box along the axes by its limits."""
    limits = np.array([x, y, z], np.float32)
    return box(limits.mean(axis=1), limits[:, 1] - limits[:, 0])


@lru_cache(maxsize=16)
def _unit_sphere(rings: int, sectors: int) -> Mesh:
    grid = _sphere_points(np.linspace(0, np.pi, rings + 1), sectors)
    return _grid_mesh(grid, grid)


def _sphere_points(polar: Floats, sectors: int) -> Floats:
    """Points of the unit sphere, once round at each polar angle in rad, (P, sectors + 1, 3)."""
    turn = np.linspace(0, 2 * np.pi, sectors + 1)
    return np.stack(
        [
            np.outer(np.sin(polar), np.cos(turn)),
            np.outer(np.sin(polar), np.sin(turn)),
            np.outer(np.cos(polar), np.ones_like(turn)),
        ],
        axis=-1,
    )


def _grid_mesh(points: Floats, normals: Floats) -> Mesh:
    def split(grid: Floats) -> Floats:
        a, b, c, d = grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]
        upper = np.stack([a, b, c], axis=2)
        lower = np.stack([a, c, d], axis=2)
        return np.concatenate([upper.reshape(-1, 3, 3), lower.reshape(-1, 3, 3)]).astype(
            np.float32
        )

    corners, outward = split(points), split(normals)
    edge = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    keep = np.einsum("ij,ij->i", edge, edge) > 1e-14
    return Mesh(corners[keep], outward[keep])


def ellipsoid(centre: Vector, radii: Vector, rings: int = 6, sectors: int = 8) -> Mesh:
    """An ellipsoid along the axes with smooth normals."""
    return _unit_sphere(rings, sectors).scaled(radii).moved(centre)


@lru_cache(maxsize=16)
def _unit_tube(sectors: int, closed: bool) -> Mesh:
    turn = np.linspace(0, 2 * np.pi, sectors + 1)
    ring = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], axis=-1)
    top = ring + np.array([0, 0, 1.0])
    side = _grid_mesh(np.stack([top, ring]), np.stack([ring, ring]))
    if not closed:
        return side
    fan = [quad((0, 0, 1), top[i], top[i + 1], (0, 0, 1)) for i in range(sectors)]
    base = [quad((0, 0, 0), ring[i + 1], ring[i], (0, 0, 0)) for i in range(sectors)]
    caps = join(fan + base)
    return join([side, Mesh(caps.corners[::2], caps.normals[::2])])


def _lengths(vectors: Floats) -> Floats:
    """Lengths of float32 rows (N, 3); equal to `np.linalg.norm` of each one bit by bit."""
    squares = (vectors * vectors).astype(np.float64)
    return np.sqrt((squares[:, 0] + squares[:, 1] + squares[:, 2]).astype(np.float32))


def _frames(directions: Floats) -> Floats:
    """Rotations that turn the z axis into float32 directions (N, 3), (N, 3, 3)."""
    axes = directions / np.maximum(_lengths(directions), np.float32(1e-9))[:, None]
    helpers = np.where(np.abs(axes[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])
    sides = cross(axes, helpers)
    x, y, z = sides.T
    sides /= np.sqrt(x * x + y * y + z * z)[:, None]
    return np.stack([sides, cross(axes, sides), axes], axis=2).astype(np.float32)


def tube(
    start: Vector, end: Vector, radius: float, sectors: int = 8, end_radius: float | None = None
) -> Mesh:
    """A closed cylinder or cone stump between two points."""
    low, high = np.asarray(start, np.float32), np.asarray(end, np.float32)
    length = float(np.linalg.norm(high - low))
    unit = _unit_tube(sectors, True)
    taper = 1.0 if end_radius is None else end_radius / radius
    scale = 1 + (taper - 1) * unit.corners[..., 2:]
    corners = unit.corners * np.array([radius, radius, length], np.float32)
    corners = np.concatenate([corners[..., :2] * scale, corners[..., 2:]], axis=2)
    return Mesh(corners, unit.normals).turned(_frames((high - low)[None])[0]).moved(low)


@lru_cache(maxsize=8)
def _unit_capsule(sectors: int) -> tuple[Mesh, Mask]:
    polar = np.array([0.0, 0.28, 0.5, 0.5, 0.72, 1.0]) * np.pi
    grid = _sphere_points(polar, sectors)
    upper = np.repeat(np.arange(len(polar)) < 3, sectors + 1).reshape(len(polar), sectors + 1)
    lifted = grid + upper[..., None] * np.array([0, 0, 8.0])
    mesh = _grid_mesh(lifted, grid)
    is_upper = mesh.corners[..., 2] > 4.0
    return Mesh(
        mesh.corners - is_upper[..., None] * np.array([0, 0, 8], np.float32), mesh.normals
    ), is_upper


def capsules(starts: Floats, ends: Floats, radii: Floats, end_radii: Floats, sectors: int) -> Mesh:
    """Rounded limbs whose radius may change along the way, all at once.

    Args:
        starts: metres, (N, 3).
        ends: metres, (N, 3).
        radii: at the starts, (N,).
        end_radii: at the ends, (N,).
        sectors: corners of a cross-section.

    Returns:
        N limbs of equally many triangles each, one after the other.
    """
    low, high = np.asarray(starts, np.float32), np.asarray(ends, np.float32)
    unit, is_upper = _unit_capsule(sectors)
    count, is_upper = len(low), is_upper.reshape(-1)
    sizes = np.where(is_upper, end_radii[:, None], radii[:, None])[..., None].astype(np.float32)
    corners = unit.corners.reshape(-1, 3) * sizes
    corners[..., 2] += is_upper * _lengths(high - low)[:, None]
    turns = _frames(high - low).transpose(0, 2, 1)
    corners = corners @ turns + low[:, None]
    normals = np.broadcast_to(unit.normals.reshape(-1, 3), (count, *corners.shape[1:])) @ turns
    return Mesh(corners.reshape(-1, 3, 3), normals.reshape(-1, 3, 3))


def ellipsoids(centres: Floats, radii: Floats, rings: int = 6, sectors: int = 8) -> Mesh:
    """Ellipsoids along the axes, all at once; centres and radii are (N, 3) each."""
    unit = _unit_sphere(rings, sectors)
    middle, scale = (np.asarray(each, np.float32)[:, None, None] for each in (centres, radii))
    corners, normals = unit.corners * scale + middle, unit.normals / scale
    return Mesh(corners.reshape(-1, 3, 3), normals.reshape(-1, 3, 3))


def loft(rings: Floats, smooth: bool = True) -> Mesh:
    """A closed hull through cross-sections.

    Args:
        rings: (S, P, 3), S sections of P points each, counter-clockwise seen against the axis from
            section 0 to the last one.
        smooth: corner normals averaged over neighbouring faces instead of face normals.
    """
    points = np.asarray(rings, np.float64)
    loop = np.concatenate([points, points[:, :1]], axis=1)
    if smooth:
        along = np.gradient(loop, axis=0)
        around = np.roll(points, -1, axis=1) - np.roll(points, 1, axis=1)
        around = np.concatenate([around, around[:, :1]], axis=1)
        side = _grid_mesh(loop, cross(around, along))
    else:
        side = flat(_grid_mesh(loop, loop).corners)
    outward = side.corners.mean(axis=1) - points.mean(axis=(0, 1))
    if float(np.einsum("ij,ij->", side.normals[:, 0], outward)) < 0:
        side = Mesh(side.corners, -side.normals)
    caps = []
    for ring in (points[0], points[-1]):
        centre = ring.mean(axis=0)
        fan = np.stack([np.tile(centre, (len(ring), 1)), ring, np.roll(ring, -1, axis=0)], axis=1)
        cap = flat(fan)
        outward = centre - points.mean(axis=(0, 1))
        sign = 1.0 if float(cap.normals[0, 0] @ outward) >= 0 else -1.0
        caps.append(Mesh(cap.corners, cap.normals * np.float32(sign)))
    return join([side, *caps])
