"""Rays against triangles: a thin layer over Embree, the only module that imports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import DataError
from training.world.rays.vectors import Floats, Indices, Mask, dot, unit

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def of(self, rays: Indices) -> Hits:
        """Those of some rays."""
        return Hits(self.distance[rays], self.part[rays], self.normal[rays])


class Tracer:
    """A set of T triangles, indexed for rays.

    Args:
        corners: metres, (T, 3, 3).
        normals: at the corners, outward, (T, 3, 3).
        parts: part id of each triangle, (T,).

    Raises:
        DataError: where Embree is not available.
    """

    def __init__(self, corners: Floats, normals: Floats, parts: NDArray[np.int32]) -> None:
        scene_type, mesh_type = _embree()
        self._scene = scene_type()
        self._normals, self._part = normals, parts
        if len(parts):
            mesh_type(self._scene, np.ascontiguousarray(corners, np.float32))

    def __len__(self) -> int:
        return len(self._part)

    def find(self, origins: Floats, directions: Floats) -> dict[str, NDArray[Any]]:
        """Embree's raw answer to rays; origins and unit directions float32 (N, 3)."""
        return dict(self._scene.run(origins, directions, output=1))

    def describe(
        self, answer: dict[str, NDArray[Any]], rays: Indices
    ) -> tuple[NDArray[np.int32], Floats]:
        """Part ids and interpolated normals of those rays, which have hit."""
        triangle = answer["primID"][rays]
        corner = self._normals[triangle]
        u, v = answer["u"][rays][:, None], answer["v"][rays][:, None]
        normal = corner[:, 0] * (1 - u - v) + corner[:, 1] * u + corner[:, 2] * v
        return self._part[triangle], unit(normal)

    def blocked(self, origins: Floats, directions: Floats, reach: Floats | float) -> Mask:
        """Whether anything lies on each ray before `reach` metres."""
        count = len(directions)
        if count == 0 or not len(self):
            return np.zeros(count, bool)
        limits = np.full(count, reach, np.float32)
        answer = self._scene.run(origins, directions, dists=limits, query="OCCLUDED")
        return np.asarray(answer) >= 0


def first_hits(tracers: Sequence[Tracer], origins: Floats, directions: Floats) -> Hits:
    """First hit of each ray with any of several sets of triangles."""
    count = len(directions)
    distance = np.full(count, FAR, np.float32)
    owner = np.full(count, -1, np.int8)
    answers: dict[int, dict[str, NDArray[Any]]] = {}
    for index, tracer in enumerate(tracers):
        if count == 0 or not len(tracer):
            continue
        answer = answers[index] = tracer.find(origins, directions)
        nearer = (answer["primID"] >= 0) & (answer["tfar"] < distance)
        distance[nearer] = answer["tfar"][nearer]
        owner[nearer] = index
    part, normal = np.full(count, -1, np.int32), np.zeros((count, 3), np.float32)
    for index, answer in answers.items():
        rays = np.flatnonzero(owner == index)
        part[rays], normals = tracers[index].describe(answer, rays)
        normal[rays] = _towards(normals, directions[rays])
    return Hits(distance, part, normal)


def _towards(normals: Floats, directions: Floats) -> Floats:
    sign = np.where(dot(normals, directions) > 0, -1.0, 1.0).astype(np.float32)
    return normals * sign[:, None]
