"""A scene: what stands, what moves, what shines, and where the camera is at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from training.world.rays.cameras import Camera
from training.world.rays.vectors import Floats
from training.world.shapes.objects import Pieces
from training.world.surfaces.climate import Climate
from training.world.surfaces.materials import PartTable, Pattern
from training.world.surfaces.surface import Painter, Surface


@dataclass(frozen=True, eq=False)
class Lamp:
    """A light that shines downwards in a wide cone, or forwards as a beam.

    Attributes:
        position: metres.
        colour: radiance that it gives a white surface at one metre, RGB.
        direction: unit vector of the cone's axis.
        spread: cosine of the cone's half angle; light fades towards it.
        reach: metres beyond which it is not computed.
    """

    position: Floats
    colour: Floats
    direction: Floats
    spread: float
    reach: float


@dataclass(eq=False)
class Scene:
    """Everything of one seed; moving things are functions of time in seconds.

    Attributes:
        seed: integer that everything was drawn from.
        climate: light, air and warmth.
        parts: what surfaces are made of.
        painters: of the patterns that the parts name.
        sky_label: native id of rays that hit nothing.
        pane_label: native id of clear glass.
        label_space: name of the native label space.
        camera: the RGB camera at a time.
        statics: what stands, before it is bent.
        panes: clear glass, before it is bent.
        movers: what moves, in place.
        lamps: lights that stand.
        moving_lamps: lights that move.
        bend: sideways shift of what stands by its x, metres; None for none.
        texture: painted over all patterns; None for nothing.
        meta: plain facts for the record.
        is_indoor: a room.
    """

    seed: int
    climate: Climate
    parts: PartTable
    painters: Mapping[Pattern, Painter]
    sky_label: int
    pane_label: int
    label_space: str
    camera: Callable[[float], Camera]
    statics: Pieces = field(default_factory=list)
    panes: Pieces = field(default_factory=list)
    movers: list[Callable[[float], Pieces]] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    moving_lamps: list[Callable[[float], list[Lamp]]] = field(default_factory=list)
    bend: Callable[[Floats], Floats] | None = None
    texture: Callable[[Surface], None] | None = None
    meta: dict[str, float | int | str] = field(default_factory=dict)
    is_indoor: bool = False
