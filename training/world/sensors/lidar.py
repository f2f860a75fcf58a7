"""A LiDAR's range picture, registered to the camera: one row per ring, one range per ray.

Pulses of 905 nm come back from surfaces by their reflectance in near infrared, the angle at which
they are met and the square of the distance; the sky, far dark surfaces and much of what smooth
coats mirror away send none back. It brings its own light: day and night are alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.world.rays.optics import fresnel
from training.world.rays.raytrace import FAR
from training.world.rays.vectors import Floats
from training.world.sensors.nir import reflectance
from training.world.shading.shader import View

RINGS = 60
METRES_PER_COUNT = 0.01
NEAREST_M, FARTHEST_M = 0.8, 120.0
DARK_RANGE_M = 60.0
"""Range at which a surface of a tenth of reflectance, met head on, is just measured."""
NOISE_M = 0.02
LOST_SHARE = 0.02
"""Pulses that never come back, whatever they meet."""
PANE_SHARE = 0.75
"""Pulses at clean glass that measure what is behind it; the others are mirrored away."""


def measure(view: View, rng: np.random.Generator, labels: bool = True) -> NDArray[np.uint16]:
    """Ranges along the rays, uint16 (`RINGS`, W) in `METRES_PER_COUNT`; 0 where none came back.

    Args:
        view: of the camera that the picture is registered to.
        rng: of noise and losses.
        labels: classes are those of the street, see `reflectance`.
    """
    camera, seen = view.camera, view.seen
    count = camera.height * camera.width
    distance = np.where(seen.distance < FAR, seen.distance, 0).astype(np.float32)
    power = np.zeros(count, np.float32)
    power[seen.rays] = _returned(view, labels)
    limit = 0.1 / DARK_RANGE_M**2
    is_lost = (power < limit) | (distance < NEAREST_M) | (distance > FARTHEST_M)
    is_lost |= rng.uniform(size=count) < LOST_SHARE
    mirrored = rng.uniform(size=len(view.panes.rays)) > PANE_SHARE
    is_lost[view.panes.rays[mirrored]] = True
    noisy = distance + NOISE_M * rng.standard_normal(count, dtype=np.float32)
    counts = np.where(is_lost, 0, np.rint(noisy / METRES_PER_COUNT)).astype(np.uint16)
    rings = ((np.arange(RINGS) + 0.5) * camera.height / RINGS).astype(int)
    return np.ascontiguousarray(view.image(counts)[rings])


def _returned(view: View, labels: bool) -> Floats:
    """Share of a pulse's power that each surface sends back, (n,), without constants."""
    seen, surface = view.seen, view.seen.surface
    s, p = fresnel(seen.cosine, np.maximum(surface.ior, 1.0))
    enters = np.where(surface.ior > 1.01, 1 - (s + p) / 2, 1.0)
    distance = np.maximum(seen.distance[seen.rays], NEAREST_M)
    back = reflectance(surface, labels) * seen.cosine * enters / distance**2
    return np.asarray(back, np.float32)
