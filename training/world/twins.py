"""Twins: objects whose class is hidden from RGB and can be read in one X modality only.

Ellipsoids of random colour hang before a wall. Which of two classes each belongs to shows in
warmth (thermal), in distance with size so that outline and shading stay (depth, light field), in
motion (event), or in the coat (polarization: smooth against rough). RGB is the same picture bit by
bit whatever the classes are, so a network that tells them apart has used X; one that does not find
them has a broken X branch. Cheap enough for tests: 96x96 pixels, hundredths of a CPU second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.tables import SYNTHETIC_STREET
from training.world.rays.cameras import Camera, camera_axes
from training.world.rays.vectors import Indices
from training.world.records import Record
from training.world.scenes.scene import Scene
from training.world.sensors import depth, event, polarization, thermal
from training.world.sensors.rgb import Exposure, photograph
from training.world.shading.shader import Quality, Shader, View, view_through
from training.world.shading.stage import Stage
from training.world.shapes.geometry import Mesh, block, ellipsoid
from training.world.shapes.objects import Pieces
from training.world.surfaces.climate import Climate
from training.world.surfaces.materials import Part, PartTable, street_id

BACKGROUND, FIRST, SECOND = street_id("building"), street_id("person"), street_id("static object")
"""Classes of a twin picture; the two that hide are warm, near, moving or smooth against not."""
PLAIN = Quality(occlusion=False, shadows=False, mirrors=False)
MIRRORED = Quality(occlusion=False, shadows=False)
NEAR, FAR = 0.62, 1.5
WINDOW_S, STEPS, BASE_M = 0.05, 5, 0.12
EXPOSURE = Exposure(1.0)
AIR_KELVIN = 290.0


@dataclass(frozen=True)
class _Ball:
    """One object: everything but its class, so that no draw depends on it."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    colour: tuple[float, float, float]
    velocity: tuple[float, float]
    is_first: bool


def twin_record(seed: int, modality: Modality, size: int = 96, swapped: bool = False) -> Record:
    """A twin picture of a seed.

    Args:
        seed: decides places, colours and classes.
        modality: the one in which classes show.
        size: pixels per side.
        swapped: gives every object the other class; RGB stays the same bit by bit.
    """
    rng = np.random.default_rng([seed, 41, modality.index])
    focal = size * 0.9
    camera = Camera(size, size, focal, np.zeros(3, np.float32), camera_axes(0.0, 0.0, 0.0))
    balls = _draw(rng, swapped)
    shader = Shader(Stage(_scene(rng, balls, modality, camera)))
    view = view_through(shader, camera, 0.0, PLAIN)
    labels = np.full(size * size, BACKGROUND, np.uint8)
    labels[view.seen.rays] = view.seen.surface.label
    noise = np.random.default_rng([seed, 43])
    return Record(
        seed=seed,
        stamp_ns=1_000_000_000,
        rgb=photograph(view.radiance, EXPOSURE, noise),
        labels=labels.reshape(size, size),
        label_space=SYNTHETIC_STREET.name,
        meta={"twins": modality.value},
        x_stamp_ns=1_000_000_000,
        **_x(shader, view, modality, noise),
    )


def _draw(rng: np.random.Generator, swapped: bool) -> list[_Ball]:
    balls = []
    for cell in range(6):
        row, column = divmod(cell, 3)
        place = (
            4.5,
            1.5 - 1.5 * column + rng.uniform(-0.2, 0.2),
            1.1 - 2.1 * row + rng.uniform(-0.3, 0.3),
        )
        radii = tuple(float(r) for r in rng.uniform(0.42, 0.66, 3))
        colour = tuple(float(c) for c in rng.uniform(0.08, 0.6, 3))
        turn, pace = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 4.0)
        velocity = (float(pace * np.cos(turn)), float(pace * np.sin(turn)))
        is_first = bool(rng.uniform() < 0.5) != swapped
        if rng.uniform() < 0.85:
            balls.append(_Ball(place, radii, colour, velocity, is_first))  # type: ignore[arg-type]
    return balls


def _scene(
    rng: np.random.Generator, balls: list[_Ball], modality: Modality, camera: Camera
) -> Scene:
    white = np.full(3, 0.8, np.float32)
    parts = PartTable(AIR_KELVIN)
    wall = parts.surface(BACKGROUND, tuple(rng.uniform(0.1, 0.5, 3)))
    scene = Scene(
        seed=0,
        climate=Climate(white, white, AIR_KELVIN),
        parts=parts,
        painters={},
        sky_label=BACKGROUND,
        pane_label=BACKGROUND,
        label_space=SYNTHETIC_STREET.name,
        camera=lambda _: camera,
    )
    scene.statics = [(block((9, 10), (-30, 30), (-30, 30)), wall)]
    for ball in balls:
        scene.movers.append(_mover(ball, modality, parts.add(_part(ball, modality))))
    return scene


def _part(ball: _Ball, modality: Modality) -> Part:
    shows = ball.is_first
    return Part(
        FIRST if shows else SECOND,
        ball.colour,
        ior=1.5 if modality is Modality.POLARIZATION and shows else 1.0,
        kelvin=AIR_KELVIN + (12.0 if modality is Modality.THERMAL and shows else 0.0),
    )


def _mover(ball: _Ball, modality: Modality, part: int) -> Callable[[float], Pieces]:
    mesh = ellipsoid(ball.centre, ball.radii, 12, 16)
    if modality in (Modality.DEPTH, Modality.LIGHT_FIELD):
        # Scaled about the eye: outline and normals stay, distance does not.
        scale = np.float32(NEAR if ball.is_first else FAR)
        mesh = Mesh(mesh.corners * scale, mesh.normals)
    moves = modality is Modality.EVENT and ball.is_first

    def mover(time_s: float) -> Pieces:
        shift = time_s if moves else 0.0
        return [(mesh.moved((0.0, ball.velocity[0] * shift, ball.velocity[1] * shift)), part)]

    return mover


def _x(shader: Shader, view: View, modality: Modality, rng: np.random.Generator) -> dict[str, Any]:
    if modality is Modality.THERMAL:
        kelvin = thermal.apparent_kelvin(shader, view.seen, view.light.sun_lit)
        return {"thermal": thermal.thermograph(view.image(kelvin), rng, rng)}
    if modality is Modality.DEPTH:
        truth = depth.true_depth(view)
        return {"depth": depth.stereo(truth, view.camera.focal, rng), "depth_truth": truth}
    if modality is Modality.POLARIZATION:
        coated = view_through(shader, view.camera, 0.0, MIRRORED)
        return {"polarization": polarization.analyse(shader, coated, rng)}
    if modality is Modality.LIGHT_FIELD:
        moved = view_through(shader, view.camera.shifted(-BASE_M, -BASE_M), 0.0, PLAIN)
        return {"light_field": photograph(moved.radiance, EXPOSURE, rng)[None]}
    moments = np.linspace(-WINDOW_S, 0.0, STEPS)
    pictures = [
        view_through(shader, view.camera, float(t), PLAIN).radiance.mean(axis=2) for t in moments
    ]
    stamps: Indices = 1_000_000_000 + np.round(moments * 1e9).astype(np.int64)
    return {"events": event.from_radiance(np.stack(pictures), stamps, rng, rng)}
