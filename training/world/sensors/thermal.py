"""The long-wave infrared camera: Planck's law, emissivity, reflections, air and noise."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.rays.optics import mirrored
from training.world.rays.raytrace import FAR
from training.world.rays.shading import LIFT, Seen, Shader
from training.world.scenes.climate import Climate, sky_kelvin

Floats = NDArray[np.floating[Any]]
COUNTS_PER_KELVIN = 100.0
AIR_LOSS = 0.0006
NOISE_KELVIN = 0.05
COLUMN_NOISE_KELVIN = 0.03


@lru_cache(maxsize=1)
def _band() -> tuple[Floats, Floats]:
    kelvin = np.arange(180.0, 420.0, 0.25)
    wave = np.linspace(8e-6, 14e-6, 121)[:, None]
    h, c, k = 6.62607015e-34, 2.99792458e8, 1.380649e-23
    spectral = 2 * h * c**2 / wave**5 / np.expm1(h * c / (wave * k * kelvin))
    step = float(wave[1, 0] - wave[0, 0])
    radiance = (spectral[1:] + spectral[:-1]).sum(axis=0) * step / 2
    return kelvin.astype(np.float32), radiance.astype(np.float32)


def band_radiance(kelvin: Floats | float) -> Floats:
    """Black-body radiance between 8 and 14 um, W / (m2 sr)."""
    table, radiance = _band()
    return np.asarray(np.interp(kelvin, table, radiance), np.float32)


def band_kelvin(radiance: Floats) -> Floats:
    """Temperature of the black body with this band radiance."""
    table, values = _band()
    return np.asarray(np.interp(radiance, values, table), np.float32)


def apparent_kelvin(shader: Shader, seen: Seen, sun_lit: Floats) -> Floats:
    """Temperature that a perfect infrared camera reads along each ray, (N,).

    Args:
        shader: answers mirrored rays.
        seen: first surfaces, glass panes included.
        sun_lit: direct sun on each surface, cosine included.
    """
    climate, surface = shader.climate, seen.surface
    heat = climate.sun_factor * np.sqrt(np.clip(sun_lit, 0, 1)) * surface.sun_kelvin
    own = band_radiance(surface.kelvin + heat)
    grazing = np.power(1 - seen.cosine, 5)
    smooth = surface.index > 1.01
    emissivity = surface.emissivity * (1 - np.where(smooth, 1.0, 0.35) * grazing)
    around = _surroundings(climate, surface.normal)
    mirror = np.flatnonzero(smooth)
    if len(mirror):
        around[mirror] = _mirrored(shader, seen, mirror)
    body = emissivity * own + (1 - emissivity) * around
    clear = np.exp(-(AIR_LOSS + 0.12 * climate.fog) * seen.distance[seen.at])
    radiance = band_radiance(sky_kelvin(climate, seen.directions))
    radiance[seen.at] = clear * body + (1 - clear) * band_radiance(climate.air_kelvin)
    return band_kelvin(radiance)


def _surroundings(climate: Climate, normal: Floats) -> Floats:
    up = 0.5 + 0.5 * normal[:, 2]
    cold, warm = band_radiance(climate.sky_kelvin + 14.0), band_radiance(climate.air_kelvin)
    return (warm + (cold - warm) * up).astype(np.float32)


def _mirrored(shader: Shader, seen: Seen, mirror: NDArray[np.int64]) -> Floats:
    surface = seen.surface
    ways = mirrored(seen.directions[seen.at[mirror]], surface.normal[mirror])
    start = surface.position[mirror] + surface.normal[mirror] * LIFT
    met = shader.stage.first(start, ways)
    kelvin = sky_kelvin(shader.climate, ways)
    hit = met.distance < FAR
    kelvin[hit] = shader.stage.columns["kelvin"][met.part[hit]]
    return band_radiance(kelvin)


def thermograph(
    kelvin: Floats, rng: np.random.Generator, column_rng: np.random.Generator
) -> NDArray[np.uint16]:
    """A radiometric image in hundredths of a kelvin of apparent temperatures (H, W)."""
    image = cv2.GaussianBlur(kelvin, (0, 0), 0.7)
    image = image + np.float32(NOISE_KELVIN) * rng.standard_normal(image.shape, dtype=np.float32)
    columns = column_rng.standard_normal(image.shape[1], dtype=np.float32)
    image = image + np.float32(COLUMN_NOISE_KELVIN) * columns
    return np.clip(np.round(image * COUNTS_PER_KELVIN), 0, 65535).astype(np.uint16)
