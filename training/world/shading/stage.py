"""A scene made ready for rays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.world.rays.raytrace import Hits, Tracer, first_hits
from training.world.rays.vectors import Floats, Mask
from training.world.scenes.scene import Lamp, Scene
from training.world.shapes.geometry import Mesh, join
from training.world.shapes.objects import Pieces

KEPT_MOMENTS = 6
"""As many as a blurred exposure has: RGB's and the light field's pass through the same ones."""


class Stage:
    """Static triangles are indexed once, moving ones per moment."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.columns = scene.parts.columns()
        self._static = _tracer(_bent(scene.statics, scene.bend))
        panes = _bent(scene.panes, scene.bend)
        self.panes = _tracer(panes)
        self.pane_corners = [mesh.corners.reshape(-1, 3) for mesh, _ in panes]
        self._moments: dict[float, tuple[Tracer, list[Lamp]]] = {}
        self._moving = _tracer([])
        self.lamps: list[Lamp] = []

    def set_time(self, time_s: float) -> None:
        """Puts everything that moves in place; the moments last used are kept."""
        moment = self._moments.pop(time_s, None)
        if moment is None:
            pieces = [piece for mover in self.scene.movers for piece in mover(time_s)]
            moving = [lamp for mover in self.scene.moving_lamps for lamp in mover(time_s)]
            moment = _tracer(pieces), self.scene.lamps + moving
        self._moments[time_s] = moment
        if len(self._moments) > KEPT_MOMENTS:
            del self._moments[next(iter(self._moments))]
        self._moving, self.lamps = moment

    def first(self, origins: Floats, directions: Floats, panes: bool = False) -> Hits:
        """First hit of each ray with anything opaque; with `panes` clear glass counts too."""
        tracers = [self._static, self._moving]
        return first_hits([*tracers, self.panes] if panes else tracers, origins, directions)

    def blocked(self, origins: Floats, directions: Floats, reach: Floats | float) -> Mask:
        """Whether anything opaque lies on each ray before `reach` metres."""
        stopped = self._static.blocked(origins, directions, reach)
        open_rays = np.flatnonzero(~stopped)
        limits = np.broadcast_to(np.asarray(reach, np.float32), stopped.shape)[open_rays]
        stopped[open_rays] = self._moving.blocked(
            origins[open_rays], directions[open_rays], limits
        )
        return stopped


def _tracer(pieces: Pieces) -> Tracer:
    if not pieces:
        none = np.zeros((0, 3, 3), np.float32)
        return Tracer(none, none, np.zeros(0, np.int32))
    mesh = join([mesh for mesh, _ in pieces])
    parts = [np.broadcast_to(np.int32(part), len(mesh)) for mesh, part in pieces]
    return Tracer(mesh.corners, mesh.normals, np.concatenate(parts))


def _bent(pieces: Pieces, bend: Callable[[Floats], Floats] | None) -> Pieces:
    if bend is None:
        return pieces
    bent = []
    for mesh, part in pieces:
        corners = mesh.corners.copy()
        corners[..., 1] += bend(corners[..., 0])
        bent.append((Mesh(corners, mesh.normals), part))
    return bent
