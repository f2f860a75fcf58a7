"""A scene: what stands, what moves, what shines, and where the camera is at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.rays.cameras import Camera
from training.world.rays.raytrace import Hits, Tracer, first_hits
from training.world.scenes.climate import Climate
from training.world.scenes.plan import StreetPlan
from training.world.shapes.geometry import Mesh
from training.world.shapes.materials import Colour, Part, PartTable, Pattern
from training.world.shapes.objects import Pieces
from training.world.surfaces.surface import Columns

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Lamp:
    """A light that shines downwards in a wide cone, or forwards as a beam.

    Attributes:
        position: metres.
        colour: radiance that it gives a white surface at one metre, RGB.
        way: unit vector of the cone's axis.
        spread: cosine of the cone's half angle; light fades towards it.
        reach: metres beyond which it is not computed.
    """

    position: Floats
    colour: Floats
    way: Floats
    spread: float
    reach: float


@dataclass(eq=False)
class Scene:
    """Everything of one seed; moving things are functions of time in seconds."""

    seed: int
    climate: Climate
    plan: StreetPlan
    parts: PartTable
    sky_label: int
    pane_label: int
    label_space: str
    camera: Callable[[float], Camera]
    statics: Pieces = field(default_factory=list)
    panes: Pieces = field(default_factory=list)
    movers: list[Callable[[float], Pieces]] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    moving_lamps: list[Callable[[float], list[Lamp]]] = field(default_factory=list)
    meta: dict[str, float | int | str] = field(default_factory=dict)
    instances: int = 0
    is_indoor: bool = False

    def surface(
        self, label: int, colour: Colour, pattern: Pattern = Pattern.PLAIN, **facts: Any
    ) -> int:
        """Registers a part at air temperature, unless its facts say otherwise; returns its id."""
        facts.setdefault("kelvin", self.climate.air_kelvin)
        return self.parts.add(Part(label, colour, pattern, **facts))

    def next_instance(self) -> int:
        """A new object id."""
        self.instances += 1
        return self.instances


class Stage:
    """A scene made ready for rays: static triangles are indexed once, moving ones per moment."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.columns: Columns = scene.parts.columns()
        self._static = _tracer(scene.statics, scene.plan)
        self.panes = _tracer(scene.panes, scene.plan)
        self._moment: float | None = None
        self._moving = Tracer([], [])
        self.lamps: list[Lamp] = []

    def set_time(self, time_s: float) -> None:
        """Puts everything that moves in place."""
        if self._moment == time_s:
            return
        pieces = [piece for mover in self.scene.movers for piece in mover(time_s)]
        self._moving = Tracer([mesh for mesh, _ in pieces], [part for _, part in pieces])
        moving = [lamp for mover in self.scene.moving_lamps for lamp in mover(time_s)]
        self.lamps = self.scene.lamps + moving
        self._moment = time_s

    def first(self, origins: Floats, directions: Floats, panes: bool = False) -> Hits:
        """First hit of each ray with anything opaque; with `panes` clear glass counts too."""
        tracers = (
            [self._static, self._moving, self.panes] if panes else [self._static, self._moving]
        )
        return first_hits(tracers, origins, directions)

    def blocked(
        self, origins: Floats, directions: Floats, reach: Floats | float
    ) -> NDArray[np.bool_]:
        """Whether anything opaque lies on each ray before `reach` metres."""
        stopped = self._static.blocked(origins, directions, reach)
        open_rays = np.flatnonzero(~stopped)
        limits = np.broadcast_to(np.asarray(reach, np.float32), stopped.shape)[open_rays]
        stopped[open_rays] = self._moving.blocked(
            origins[open_rays], directions[open_rays], limits
        )
        return stopped


def _tracer(pieces: Pieces, plan: StreetPlan) -> Tracer:
    return Tracer([_bent(mesh, plan) for mesh, _ in pieces], [part for _, part in pieces])


def _bent(mesh: Mesh, plan: StreetPlan) -> Mesh:
    if plan.bend == 0:
        return mesh
    corners = mesh.corners.copy()
    corners[..., 1] += plan.shift(corners[..., 0])
    return Mesh(corners, mesh.normals)
