"""The polarization camera: Stokes parameters of the light field, seen through four analysers.

Angles are measured in the image: 0 is horizontal, 45 degrees points to the upper right. Light
mirrored at a smooth coat leaves polarized perpendicular to the plane of incidence, light from
below the coat polarized in it; the clear sky is polarized across the direction to the sun, which
puddles and windows mirror.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.rays.cameras import Camera
from training.world.rays.optics import diffuse_dolp, fresnel, fresnel_amplitudes
from training.world.rays.raytrace import FAR, dot, unit
from training.world.rays.shading import (
    PANE_CLEAR,
    PANE_INDEX,
    Light,
    Mirrored,
    Panes,
    Seen,
    Shader,
)
from training.world.rays.view import View
from training.world.scenes.climate import Climate, TimeOfDay

Floats = NDArray[np.floating[Any]]
ANGLES_DEG = (0, 45, 90, 135)
PATTERN_DEG = (90, 45, 135, 0)
"""Analysers of a sensor's 2x2 cell: top left, top right, bottom left, bottom right."""
FULL_SCALE = 4095
FULL_WELL = 10_500.0
READ_NOISE = 2.5
MATTE_INDEX = 1.45
MATTE_SHARE = 0.3
"""How much of a smooth body's polarization a rough one keeps."""


def stokes(shader: Shader, view: View) -> tuple[Floats, Floats, Floats]:
    """Linear Stokes parameters S0, S1, S2 of a view, mean over colours, (H, W) each."""
    seen, light = view.seen, view.light
    total = light.total.mean(axis=1)
    linear = np.zeros(len(total), np.complex64)
    _sky(shader.climate, view.camera, seen, total, linear)
    clear = np.exp(-shader.climate.fog * seen.distance[seen.at]).astype(np.float32)
    # What the bodies send, dimmed by the air; the air's own light is taken as unpolarized.
    body = light.diffuse[seen.at].mean(axis=1) - shader.climate.horizon.mean() * (1 - clear)
    _matte(view.camera, seen, body, linear)
    _smooth(shader.climate, view.camera, seen, light, (body, clear), (total, linear))
    if len(view.panes.at):
        _panes(shader.climate, view.camera, seen, view.panes, (total, linear))
    s1, s2 = linear.real.astype(np.float32), linear.imag.astype(np.float32)
    return view.image(total), view.image(s1), view.image(s2)


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
    made = np.zeros(images.shape[:2], np.uint16)
    for place, angle in enumerate(PATTERN_DEG):
        row, column = divmod(place, 2)
        made[row::2, column::2] = images[row::2, column::2, ANGLES_DEG.index(angle)]
    return made


def sky_polarization(climate: Climate, directions: Floats) -> tuple[Floats, Floats]:
    """Degree of polarization of sky light (N,) and the unit direction of its E field (N, 3)."""
    most = (
        0.0
        if climate.time_of_day is TimeOfDay.NIGHT
        else 0.75 * (1 - min(1.0, max(0.0, climate.clouds)))
    )
    cos = directions @ climate.to_sun
    degree = most * (1 - cos * cos) / (1 + cos * cos)
    field = np.cross(directions, climate.to_sun[None])
    return degree.astype(np.float32), unit(field)


def _gain(s0: Floats) -> float:
    bright = float(np.percentile(s0, 92))
    return min(0.9 / max(bright, 1e-4), 14.0 * 2)


def _turn(camera: Camera, vectors: Floats) -> NDArray[np.complex64]:
    """exp(2 i phi) of the image angle phi of world vectors (N, 3)."""
    flat = (vectors @ camera.axes[0]) - 1j * (vectors @ camera.axes[1])
    size = np.maximum(np.abs(flat), 1e-9)
    return np.square(flat / size).astype(np.complex64)


def _sky(
    climate: Climate, camera: Camera, seen: Seen, total: Floats, linear: NDArray[np.complex64]
) -> None:
    gone = np.flatnonzero(seen.distance >= FAR)
    degree, field = sky_polarization(climate, seen.directions[gone])
    linear[gone] = total[gone] * degree * _turn(camera, field)


def _across(seen: Seen, which: NDArray[np.int64]) -> Floats:
    """Unit vectors perpendicular to the plane of incidence of surfaces `which` of `Seen.at`."""
    return unit(np.cross(seen.surface.normal[which], seen.directions[seen.at[which]]))


def _matte(camera: Camera, seen: Seen, body: Floats, linear: NDArray[np.complex64]) -> None:
    which = np.flatnonzero(seen.surface.index <= 1.01)
    cosine = np.clip(seen.cosine[which], 0.03, 1)
    index = np.full(len(which), MATTE_INDEX, np.float32)
    s, p = fresnel(cosine, index)
    share = MATTE_SHARE * ((s - p) * 0.8 - diffuse_dolp(cosine, index))
    linear[seen.at[which]] = body[which] * share * _turn(camera, _across(seen, which))


def _smooth(
    climate: Climate,
    camera: Camera,
    seen: Seen,
    light: Light,
    air: tuple[Floats, Floats],
    image: tuple[Floats, NDArray[np.complex64]],
) -> None:
    """Bodies below a coat and what the coat mirrors.

    Args:
        climate: of the scene.
        camera: whose image angles count.
        seen: surfaces.
        light: from them.
        air: what bodies send through it and the share that it lets through, per surface.
        image: S0, in which mirrored light has Fresnel's mean so far, and S1 + i S2; both changed.
    """
    which = light.mirror
    if not len(which):
        return
    rays, (total, linear) = seen.at[which], image
    body, clear = (part[which] for part in air)
    cosine, index = seen.cosine[which], seen.surface.index[which]
    across = _across(seen, which)
    turn = _turn(camera, across)
    power, mirrored = _reflected(climate, light.met, across, fresnel_amplitudes(cosine, index))
    total[rays] += power * clear - light.specular[rays].mean(axis=1)
    linear[rays] = (mirrored * clear - body * diffuse_dolp(cosine, index)) * turn


def _reflected(
    climate: Climate, met: Mirrored, across: Floats, amplitudes: tuple[Floats, Floats]
) -> tuple[Floats, NDArray[np.complex64]]:
    """S0 and S1 + i S2 of mirrored light about the axis `across`.

    Sky light arrives polarized already, so that its share also depends on its direction.
    """
    power = met.radiance.mean(axis=1)
    degree, field = sky_polarization(climate, met.ways)
    degree = degree * met.is_sky
    onto = np.clip(dot(field, across), -1, 1)
    upright = dot(field, np.cross(-met.ways, across).astype(np.float32))
    r_s, r_p = amplitudes
    in_s = power * (1 + degree * (2 * onto * onto - 1)) / 2
    in_p = power - in_s
    crossed = 2 * power * degree * onto * upright / 2
    out_s, out_p = r_s * r_s * in_s, r_p * r_p * in_p
    linear = out_s - out_p + 2j * r_s * r_p * crossed
    return out_s + out_p, linear.astype(np.complex64)


def _panes(
    climate: Climate,
    camera: Camera,
    seen: Seen,
    panes: Panes,
    behind: tuple[Floats, NDArray[np.complex64]],
) -> None:
    total, linear = behind
    at, (s, p) = panes.at, panes.share.T
    across = unit(np.cross(panes.normal, seen.directions[at]))
    turn = _turn(camera, across)
    light, met = total[at] * PANE_CLEAR, linear[at] * turn.conj() * PANE_CLEAR
    mean, gap = 1 - (s + p) / 2, (p - s) / 2  # of what passes in s and p
    through = mean * met.real + gap * light + 1j * np.sqrt((1 - s) * (1 - p)) * met.imag
    cosine = np.clip(-dot(seen.directions[at], panes.normal), 0, 1)
    _, r_p = fresnel_amplitudes(cosine, np.full(len(at), PANE_INDEX, np.float32))
    amplitudes = -np.sqrt(s), np.sign(r_p) * np.sqrt(p)
    power, mirrored = _reflected(climate, panes.met, across, amplitudes)
    total[at] = mean * light + gap * met.real + power
    linear[at] = (through + mirrored) * turn
