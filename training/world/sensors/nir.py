"""A near-infrared camera (850 nm) with a lamp of its own beside the lens.

Leaves and most dyed cloth are bright in near infrared whatever their colour, water is black, and
the clear sky is dark. By night the lamp lights what is near; the camera sets its own exposure.

Reflectances: ECOSTRESS spectral library (vegetation, asphalt, water); dyes of cloth hardly absorb
beyond 800 nm.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.labels.tables import SYNTHETIC_STREET
from training.world.rays.raytrace import FAR
from training.world.rays.vectors import Floats
from training.world.sensors.rgb import meter, photograph
from training.world.shading.shader import Shader, View
from training.world.surfaces.surface import Surface

LAMP = 6.0
"""Radiance of a white surface that the camera's lamp meets head on, times square metres."""
SKY_SHARE = 0.4
"""Of the red sky, which scatters less the longer the wave."""
LAMP_SHARE = 0.3
"""Of the red light of lamps and lit windows, most of which are LEDs."""
_WATER = 0.03
_LEAVES = (0.25, 2.5)
_CLOTH = (0.35, 0.3)


def reflectance(surface: Surface, labels: bool = True) -> Floats:
    """Diffuse reflectance at 850 to 905 nm, (n,) in [0, 1].

    Args:
        surface: as painted for visible light.
        labels: its classes are those of the street; else colour alone counts.
    """
    grey = surface.albedo.mean(axis=1)
    value = 0.6 * surface.albedo[:, 0] + 0.4 * grey
    if labels:
        for names, (base, slope) in (
            (("vegetation", "terrain"), _LEAVES),
            (("person",), _CLOTH),
            (("water",), (_WATER, 0.0)),
        ):
            ids = [SYNTHETIC_STREET.names.index(n) for n in names if n in SYNTHETIC_STREET.names]
            rows = np.isin(surface.label, ids)
            value[rows] = base + slope * grey[rows]
    return np.clip(value, 0, 0.8).astype(np.float32)


def photograph_nir(
    shader: Shader, view: View, rng: np.random.Generator, labels: bool = True
) -> NDArray[np.uint8]:
    """An 8-bit grey picture, (H, W).

    Args:
        shader: of the view.
        view: surfaces and light of the moment.
        rng: of photon and read noise.
        labels: see `reflectance`.
    """
    seen, light = view.seen, view.light
    grey = reflectance(seen.surface, labels)
    surface = replace(seen.surface, albedo=np.repeat(grey[:, None], 3, axis=1))
    own = replace(seen, surface=surface)
    radiance = shader.quick(own, light).diffuse[:, 0].copy()
    radiance[seen.distance >= FAR] *= SKY_SHARE
    distance = np.maximum(seen.distance[seen.rays], 1.0)
    clear = np.exp(-2 * shader.climate.fog * distance)
    radiance[seen.rays] += LAMP * grey * seen.cosine / distance**2 * clear
    radiance += LAMP_SHARE * light.emitted[:, 0] + light.specular[:, 0]
    total = view.panes.over(np.repeat(radiance[:, None], 3, axis=1).astype(np.float32))
    image = view.image(total)
    return np.ascontiguousarray(photograph(image, meter(image), rng)[..., 0])
