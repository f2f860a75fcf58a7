"""The polarization camera: Stokes parameters of the light field, seen through four analysers.

Angles are measured in the image: 0 is horizontal, 45 degrees points to the upper right. Light
mirrored at a smooth coat leaves polarized perpendicular to the plane of incidence, light from
below the coat polarized in it; the clear sky is polarized across the direction to the sun, which
puddles and windows mirror.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.rays.cameras import Camera
from training.world.rays.optics import diffuse_dolp, fresnel, fresnel_amplitudes
from training.world.rays.raytrace import FAR
from training.world.rays.vectors import Floats, Indices, cross, dot, unit
from training.world.shading.shader import (
    PANE_CLEAR,
    PANE_IOR,
    Panes,
    Reflection,
    Seen,
    Shader,
    View,
)
from training.world.surfaces.climate import Climate, TimeOfDay

Complexes = NDArray[np.complex64]
ANGLES_DEG = (0, 45, 90, 135)
PATTERN_DEG = (90, 45, 135, 0)
"""Analysers of a sensor's 2x2 cell: top left, top right, bottom left, bottom right."""
FULL_SCALE = 4095
FULL_WELL = 10_500.0
READ_NOISE = 2.5
MATTE_IOR = 1.45
MATTE_SHARE = 0.3
"""How much of a smooth body's polarization a rough one keeps."""


@dataclass(eq=False)
class Stokes:
    """Linear Stokes parameters of N rays, mean over colours.

    Attributes:
        power: S0, (N,).
        linear: S1 + i S2 in image angles, (N,).
    """

    power: Floats
    linear: Complexes


def stokes(shader: Shader, view: View) -> tuple[Floats, Floats, Floats]:
    """Linear Stokes parameters S0, S1, S2 of a view, mean over colours, (H, W) each."""
    seen, light, climate = view.seen, view.light, shader.climate
    power = light.total.mean(axis=1)
    field = Stokes(power, np.zeros(len(power), np.complex64))
    _sky(climate, view.camera, seen, field)
    clear = np.exp(-climate.fog * seen.distance[seen.rays]).astype(np.float32)
    # What the bodies send, dimmed by the air; the air's own light is taken as unpolarized.
    body = light.diffuse[seen.rays].mean(axis=1) - climate.horizon.mean() * (1 - clear)
    _matte(view.camera, seen, body, field)
    if len(light.coated):
        _coated(climate, view, body, clear, field)
    if len(view.panes.rays):
        _panes(climate, view.camera, seen, view.panes, field)
    s1, s2 = field.linear.real.astype(np.float32), field.linear.imag.astype(np.float32)
    return view.image(field.power), view.image(s1), view.image(s2)


def analyse(shader: Shader, view: View, rng: np.random.Generator) -> NDArray[np.uint16]:
    """12-bit images (H, W, 4) behind analysers at 0, 45, 90 and 135 degrees."""
    s0, s1, s2 = (cv2.GaussianBlur(part, (0, 0), 0.5) for part in stokes(shader, view))
    gain = _gain(s0)
    images = []
    for angle in ANGLES_DEG:
        turn = np.radians(2 * angle)
        level = (s0 + s1 * np.cos(turn) + s2 * np.sin(turn)) / 2 * gain
        images.append(np.clip(level, 0, 4))
    electrons = np.stack(images, axis=2).astype(np.float32) * np.float32(FULL_WELL)
    noise = rng.standard_normal(electrons.shape, dtype=np.float32)
    electrons = electrons + noise * np.sqrt(np.maximum(electrons, 0) + np.float32(READ_NOISE**2))
    counts = np.round(electrons * np.float32(FULL_SCALE / FULL_WELL))
    return np.clip(counts, 0, FULL_SCALE).astype(np.uint16)


def mosaic(images: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """One value per sensor pixel (H, W), as the sensor's 2x2 cells deliver it."""
    cells = np.zeros(images.shape[:2], np.uint16)
    for place, angle in enumerate(PATTERN_DEG):
        row, column = divmod(place, 2)
        cells[row::2, column::2] = images[row::2, column::2, ANGLES_DEG.index(angle)]
    return cells


def sky_polarization(climate: Climate, directions: Floats) -> tuple[Floats, Floats]:
    """Degree of polarization of sky light (N,) and the unit direction of its E field (N, 3)."""
    most = (
        0.0
        if climate.time_of_day is TimeOfDay.NIGHT
        else 0.75 * (1 - min(1.0, max(0.0, climate.clouds)))
    )
    cos = directions @ climate.to_sun
    degree = most * (1 - cos * cos) / (1 + cos * cos)
    field = cross(directions, climate.to_sun[None])
    return degree.astype(np.float32), unit(field)


def _gain(s0: Floats) -> float:
    bright = float(np.percentile(s0, 92))
    return min(0.9 / max(bright, 1e-4), 14.0 * 2)


def _turn(camera: Camera, vectors: Floats) -> Complexes:
    """exp(2 i phi) of the image angle phi of world vectors (N, 3)."""
    flat = (vectors @ camera.axes[0]) - 1j * (vectors @ camera.axes[1])
    size = np.maximum(np.abs(flat), 1e-9)
    return np.square(flat / size).astype(np.complex64)


def _sky(climate: Climate, camera: Camera, seen: Seen, field: Stokes) -> None:
    rays = np.flatnonzero(seen.distance >= FAR)
    degree, axis = sky_polarization(climate, seen.directions[rays])
    field.linear[rays] = field.power[rays] * degree * _turn(camera, axis)


def _across(seen: Seen, rows: Indices) -> Floats:
    """Unit vectors perpendicular to the plane of incidence of surfaces `rows` of `Seen.rays`."""
    return unit(cross(seen.surface.normal[rows], seen.directions[seen.rays[rows]]))


def _matte(camera: Camera, seen: Seen, body: Floats, field: Stokes) -> None:
    rows = np.flatnonzero(seen.surface.ior <= 1.01)
    cosine = np.clip(seen.cosine[rows], 0.03, 1)
    ior = np.full(len(rows), MATTE_IOR, np.float32)
    s, p = fresnel(cosine, ior)
    share = MATTE_SHARE * ((s - p) * 0.8 - diffuse_dolp(cosine, ior))
    field.linear[seen.rays[rows]] = body[rows] * share * _turn(camera, _across(seen, rows))


def _coated(climate: Climate, view: View, body: Floats, clear: Floats, field: Stokes) -> None:
    """Bodies below a smooth coat and what the coat reflects.

    Args:
        climate: of the scene.
        view: what the camera sees.
        body: power that each surface sends through the air from below its coat, (n,).
        clear: share that the air lets through, (n,).
        field: changed in place; its power has Fresnel's mean of what coats reflect so far.
    """
    seen, light, rows = view.seen, view.light, view.light.coated
    rays, cosine, ior = seen.rays[rows], seen.cosine[rows], seen.surface.ior[rows]
    body, clear = body[rows], clear[rows]
    across = _across(seen, rows)
    turn = _turn(view.camera, across)
    mirror = _reflected(climate, light.reflection, across, fresnel_amplitudes(cosine, ior))
    field.power[rays] += mirror.power * clear - light.specular[rays].mean(axis=1)
    field.linear[rays] = (mirror.linear * clear - body * diffuse_dolp(cosine, ior)) * turn


def _reflected(
    climate: Climate, reflection: Reflection, across: Floats, amplitudes: tuple[Floats, Floats]
) -> Stokes:
    """Reflected light about the axis `across`, after the amplitudes r_s and r_p.

    Sky light arrives polarized already, so that its share also depends on its direction.
    """
    power = reflection.radiance.mean(axis=1)
    degree, axis = sky_polarization(climate, reflection.directions)
    degree = degree * reflection.is_sky
    onto = np.clip(dot(axis, across), -1, 1)
    upright = dot(axis, cross(-reflection.directions, across).astype(np.float32))
    r_s, r_p = amplitudes
    in_s = power * (1 + degree * (2 * onto * onto - 1)) / 2
    in_p = power - in_s
    crossed = 2 * power * degree * onto * upright / 2
    out_s, out_p = r_s * r_s * in_s, r_p * r_p * in_p
    linear = out_s - out_p + 2j * r_s * r_p * crossed
    return Stokes(out_s + out_p, linear.astype(np.complex64))


def _panes(climate: Climate, camera: Camera, seen: Seen, panes: Panes, field: Stokes) -> None:
    """Clear glass before what `field` holds so far."""
    rays, (s, p) = panes.rays, panes.share.T
    across = unit(cross(panes.hits.normal, seen.directions[rays]))
    turn = _turn(camera, across)
    light = field.power[rays] * PANE_CLEAR
    linear = field.linear[rays] * turn.conj() * PANE_CLEAR
    mean, gap = 1 - (s + p) / 2, (p - s) / 2  # of what passes in s and p
    through = mean * linear.real + gap * light + 1j * np.sqrt((1 - s) * (1 - p)) * linear.imag
    cosine = np.clip(-dot(seen.directions[rays], panes.hits.normal), 0, 1)
    _, r_p = fresnel_amplitudes(cosine, np.full(len(rays), PANE_IOR, np.float32))
    amplitudes = -np.sqrt(s), np.sign(r_p) * np.sqrt(p)
    mirror = _reflected(climate, panes.reflection, across, amplitudes)
    field.power[rays] = mean * light + gap * linear.real + mirror.power
    field.linear[rays] = (through + mirror.linear) * turn
