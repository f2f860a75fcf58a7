"""The view of a camera at a moment: rays, surfaces, and the light along them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.rays.cameras import Camera
from training.world.rays.vectors import Floats
from training.world.shading.shader import FULL, Light, Panes, Quality, Seen, Shader


@dataclass(eq=False)
class View:
    """Surfaces and light before a camera at a moment, before any sensor has measured them.

    Attributes:
        camera: pose and pixel grid.
        time_s: the moment.
        seen: first opaque surfaces.
        light: radiance from them.
        panes: clear glass before them.
    """

    camera: Camera
    time_s: float
    seen: Seen
    light: Light
    panes: Panes

    @property
    def radiance(self) -> Floats:
        """Linear radiance with glass panes, (H, W, 3)."""
        return self.image(self.panes.over(self.light.total))

    def image(self, values: NDArray[Any]) -> NDArray[Any]:
        """Per-ray values (N, ...) on the pixel grid."""
        return values.reshape(self.camera.height, self.camera.width, *values.shape[1:])


def see_through(shader: Shader, camera: Camera, panes: bool = False) -> Seen:
    """First surfaces of a camera's rays at the stage's present moment."""
    directions = camera.rays()
    origins = np.ascontiguousarray(np.broadcast_to(camera.position, directions.shape))
    return shader.see(origins, directions, camera.focal, camera.width, panes)


def view_through(shader: Shader, camera: Camera, time_s: float, quality: Quality = FULL) -> View:
    """The view of a camera at a moment."""
    shader.stage.set_time(time_s)
    seen = see_through(shader, camera)
    near = [camera.rays_near(corners) for corners in shader.stage.pane_corners]
    rays = np.unique(np.concatenate([np.zeros(0, np.int64), *near]))
    return View(camera, time_s, seen, shader.light(seen, quality), shader.panes(seen, rays))
