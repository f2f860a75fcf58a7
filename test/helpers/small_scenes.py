"""Small scenes of a few bodies under a plain sky, for what one sensor shows of them."""

import dataclasses

import numpy as np

from training.world.rays.cameras import Camera, look
from training.world.rays.shading import Shader
from training.world.rays.view import View
from training.world.scenes.climate import TimeOfDay, draw_climate
from training.world.scenes.plan import draw_plan
from training.world.scenes.scene import Scene, Stage
from training.world.shapes.materials import PartTable, street_id


def camera_at(position, pitch=0.0, size=(64, 48), focal=60.0):
    place = np.asarray(position, np.float32)
    return Camera(*size, focal, place, look(place, 0.0, pitch, 0.0))


def small_scene(pieces, light=TimeOfDay.OVERCAST, panes=()):
    """A scene of given (mesh, part) pairs under a plain sky."""
    rng = np.random.default_rng(1)
    parts = PartTable()
    ids = [parts.add(part) for _, part in [*pieces, *panes]]
    climate = dataclasses.replace(draw_climate(rng, light), fog=0.0)
    scene = Scene(
        seed=0,
        climate=climate,
        plan=dataclasses.replace(draw_plan(rng), bend=0.0),
        parts=parts,
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
    ways = camera.rays()
    origins = np.ascontiguousarray(np.broadcast_to(camera.position, ways.shape))
    seen = shader.see(origins, ways, camera.focal, camera.width, panes)
    return View(camera, 0.0, seen, shader.light(seen), shader.panes(seen))
