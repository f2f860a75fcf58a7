"""Small scenes of a few bodies under a plain sky, for what one sensor shows of them."""

import dataclasses

import numpy as np

from training.world.rays.cameras import Camera, camera_axes
from training.world.scenes.scene import Scene
from training.world.shading.shader import Shader, View, see_through
from training.world.shading.stage import Stage
from training.world.surfaces.climate import TimeOfDay, draw_climate
from training.world.surfaces.materials import PartTable, street_id


def camera_at(position, pitch=0.0, size=(64, 48), focal=60.0):
    place = np.asarray(position, np.float32)
    return Camera(*size, focal, place, camera_axes(0.0, pitch, 0.0))


def small_scene(pieces, light=TimeOfDay.OVERCAST, panes=()):
    """A scene of given (mesh, part) pairs under a plain sky."""
    rng = np.random.default_rng(1)
    climate = dataclasses.replace(draw_climate(rng, light), fog=0.0)
    parts = PartTable(climate.air_kelvin)
    ids = [parts.add(part) for _, part in [*pieces, *panes]]
    scene = Scene(
        seed=0,
        climate=climate,
        parts=parts,
        painters={},
        sky_label=street_id("sky"),
        pane_label=street_id("glass"),
        label_space="synthetic_street",
        camera=lambda _: camera_at((0, 0, 1.5)),
    )
    scene.statics = [(mesh, part) for (mesh, _), part in zip(pieces, ids, strict=False)]
    scene.panes = [(mesh, part) for (mesh, _), part in zip(panes, ids[len(pieces) :], strict=True)]
    stage = Stage(scene)
    stage.set_time(0.0)
    return Shader(stage)


def view_of(shader, camera, panes=False):
    seen = see_through(shader, camera, panes)
    return View(
        camera, 0.0, seen, shader.light(seen), shader.panes(seen, np.arange(len(seen.directions)))
    )
