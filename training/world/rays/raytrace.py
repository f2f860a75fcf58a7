"""Rays against triangles: a thin layer over Embree, the only module that knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import DataError
from training.world.shapes.geometry import Mesh, join

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.floating[Any]]
FAR = np.float32(1e30)


def _embree() -> tuple[Any, Any]:
    try:
        from embreex.mesh_construction import TriangleMesh  # noqa: PLC0415
        from embreex.rtcore_scene import EmbreeScene  # noqa: PLC0415
    except ImportError as error:
        raise DataError(
            f"synthetic scenes: embreex cannot be imported ({error}); rendering needs it: "
            "pip install embreex (wheels exist for x86-64 Linux, macOS and Windows)"
        ) from None
    return EmbreeScene, TriangleMesh


@dataclass(frozen=True, eq=False)
class Hits:
    """First hits of N rays.

    Attributes:
        distance: metres along the ray, float32 (N,); `FAR` where nothing was hit.
        part: part id, int32 (N,); -1 where nothing was hit.
        normal: interpolated unit normal that faces the ray's origin, float32 (N, 3); zero where
            nothing was hit.
    """

    distance: Floats
    part: NDArray[np.int32]
    normal: Floats


class Tracer:
    """A set of triangles with a part id each."""

    def __init__(self, meshes: Sequence[Mesh], parts: Sequence[int]) -> None:
        scene_type, mesh_type = _embree()
        self._scene = scene_type()
        self.is_empty = not meshes
        if self.is_empty:
            return
        mesh = join(meshes)
        counts = [len(item.corners) for item in meshes]
        self._part = np.repeat(np.asarray(parts, np.int32), counts)
        self._normals = mesh.normals
        mesh_type(self._scene, np.ascontiguousarray(mesh.corners, np.float32))

    def __len__(self) -> int:
        return 0 if self.is_empty else len(self._part)

    def find(self, origins: Floats, directions: Floats) -> dict[str, NDArray[Any]]:
        """Embree's raw answer to rays; origins and unit directions float32 (N, 3)."""
        return dict(self._scene.run(origins, directions, output=1))

    def describe(
        self, found: dict[str, NDArray[Any]], at: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], Floats]:
        """Part ids and interpolated normals of the rays `at`, which have hit."""
        triangle = found["primID"][at]
        corner = self._normals[triangle]
        u, v = found["u"][at][:, None], found["v"][at][:, None]
        normal = corner[:, 0] * (1 - u - v) + corner[:, 1] * u + corner[:, 2] * v
        return self._part[triangle], unit(normal)

    def blocked(
        self, origins: Floats, directions: Floats, reach: Floats | float
    ) -> NDArray[np.bool_]:
        """Whether anything lies on each ray before `reach` metres."""
        count = len(directions)
        if self.is_empty or count == 0:
            return np.zeros(count, bool)
        limits = np.full(count, reach, np.float32)
        found = self._scene.run(origins, directions, dists=limits, query="OCCLUDED")
        return np.asarray(found) >= 0


def first_hits(tracers: Sequence[Tracer], origins: Floats, directions: Floats) -> Hits:
    """First hit of each ray with any of several sets of triangles."""
    count = len(directions)
    distance = np.full(count, FAR, np.float32)
    owner = np.full(count, -1, np.int8)
    answers: dict[int, dict[str, NDArray[Any]]] = {}
    for index, tracer in enumerate(tracers):
        if tracer.is_empty or count == 0:
            continue
        found = answers[index] = tracer.find(origins, directions)
        nearer = (found["primID"] >= 0) & (found["tfar"] < distance)
        distance[nearer] = found["tfar"][nearer]
        owner[nearer] = index
    part, normal = np.full(count, -1, np.int32), np.zeros((count, 3), np.float32)
    for index, found in answers.items():
        at = np.flatnonzero(owner == index)
        part[at], normals = tracers[index].describe(found, at)
        normal[at] = _towards(normals, directions[at])
    return Hits(distance, part, normal)


def dot(a: Floats, b: Floats) -> Floats:
    """Row-wise dot product of (N, 3) arrays, or of one with a single vector."""
    if b.ndim == 1:
        return a @ b
    return np.einsum("ij,ij->i", a, b)


def unit(vectors: Floats) -> Floats:
    """Rows scaled to length one."""
    length = np.sqrt(dot(vectors, vectors))
    return (vectors / np.maximum(length, 1e-12)[:, None]).astype(np.float32)


def _towards(normals: Floats, directions: Floats) -> Floats:
    sign = np.where(dot(normals, directions) > 0, -1.0, 1.0).astype(np.float32)
    return normals * sign[:, None]
