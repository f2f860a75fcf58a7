"""The long-wave infrared camera: Planck's law, emissivity, reflections, air and noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.rays.optics import mirrored
from training.world.rays.raytrace import FAR
from training.world.rays.vectors import Floats, Indices
from training.world.shading.shader import LIFT, Seen, Shader
from training.world.surfaces.climate import Climate

COUNTS_PER_KELVIN = 100.0
AIR_LOSS = 0.0006
NOISE_KELVIN = 0.05
COLUMN_NOISE_KELVIN = 0.03


@dataclass(frozen=True)
class GainControl:
    """How an infrared camera turns temperatures into 8 bits.

    Attributes:
        percentiles: of the temperatures that become black and white.
        equalized: share of a histogram equalization in the grey levels.
        local: clip limit of an equalization in tiles; 0 for none.
        tiles: per side, of that.
        detail: weight of an unsharp mask.
        detail_px: its standard deviation.
        gamma: exponent of the grey levels.
        is_inverted: warm is dark.
        noise: factor on the camera's noise.
        blur_px: standard deviation of the lens's blur.
    """

    percentiles: tuple[float, float]
    equalized: float
    local: float
    tiles: int
    detail: float
    detail_px: float
    gamma: float
    is_inverted: bool
    noise: float
    blur_px: float

    def picture(self, kelvin: Floats) -> NDArray[np.uint8]:
        """The camera's 8-bit picture of temperatures (H, W)."""
        low, high = np.percentile(kelvin, self.percentiles)
        level = np.clip((kelvin - low) / max(float(high - low), 0.5), 0, 1).astype(np.float32)
        if self.equalized > 0:
            counts = np.bincount((level * 255).astype(np.int64).ravel(), minlength=256)
            # A plateau keeps large even areas, such as the road, from taking all grey levels.
            rising = np.cumsum(np.minimum(counts, level.size / 64))
            equal = np.interp(level, np.arange(256) / 255, rising / rising[-1])
            level = level + self.equalized * (equal - level)
        if self.local > 0:
            tiles = cv2.createCLAHE(self.local, (self.tiles, self.tiles))
            level = tiles.apply(np.round(level * 255).astype(np.uint8)) / np.float32(255)
        level = level.astype(np.float32)
        soft = cv2.GaussianBlur(level, (0, 0), self.detail_px)
        level = np.clip(level + self.detail * (level - soft), 0, 1) ** self.gamma
        return np.round(255 * (1 - level if self.is_inverted else level)).astype(np.uint8)


def draw_gain_control(rng: np.random.Generator) -> GainControl | None:
    """An infrared camera as widely as they differ, radiometric ones among them."""
    gain = GainControl(
        percentiles=(float(rng.uniform(0, 4)), float(rng.uniform(96, 100))),
        equalized=float(rng.choice([0.0, rng.uniform(0.2, 1.0)])),
        local=float(rng.choice([0.0, rng.uniform(1.0, 4.0)])),
        tiles=int(rng.integers(2, 9)),
        detail=float(rng.choice([0.0, rng.uniform(0.3, 2.5)], p=[0.3, 0.7])),
        detail_px=float(rng.uniform(1.0, 5.0)),
        gamma=float(2 ** rng.uniform(-0.7, 0.9)),
        is_inverted=bool(rng.uniform() < 0.1),
        noise=float(2 ** rng.uniform(-1, 2.5)),
        blur_px=float(rng.uniform(0.4, 1.2)),
    )
    return gain if rng.uniform() < 0.8 else None


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
    is_coated = surface.ior > 1.01
    emissivity = surface.emissivity * (1 - np.where(is_coated, 1.0, 0.35) * grazing)
    around = _surroundings(climate, surface.normal)
    coated = np.flatnonzero(is_coated)
    if len(coated):
        around[coated] = _reflected(shader, seen, coated)
    body = emissivity * own + (1 - emissivity) * around
    clear = np.exp(-(AIR_LOSS + 0.12 * climate.fog) * seen.distance[seen.rays])
    radiance = band_radiance(shader.sky_temperature(seen.directions))
    radiance[seen.rays] = clear * body + (1 - clear) * band_radiance(climate.air_kelvin)
    return band_kelvin(radiance)


def _surroundings(climate: Climate, normal: Floats) -> Floats:
    """What matte surfaces reflect: sky above, air at the horizon; in a room its walls."""
    warm = band_radiance(climate.air_kelvin)
    if climate.sky_kelvin is None:
        return np.full(len(normal), warm, np.float32)
    up = 0.5 + 0.5 * normal[:, 2]
    cold = band_radiance(climate.sky_kelvin + 14.0)
    return (warm + (cold - warm) * up).astype(np.float32)


def _reflected(shader: Shader, seen: Seen, coated: Indices) -> Floats:
    """What smooth coats reflect, as black bodies at the temperature of their parts."""
    surface = seen.surface
    directions = mirrored(seen.directions[seen.rays[coated]], surface.normal[coated])
    start = surface.position[coated] + surface.normal[coated] * LIFT
    hits = shader.stage.first(start, directions)
    kelvin = shader.sky_temperature(directions)
    is_hit = hits.distance < FAR
    kelvin[is_hit] = shader.stage.columns["kelvin"][hits.part[is_hit]]
    return band_radiance(kelvin)


def thermograph(
    kelvin: Floats,
    rng: np.random.Generator,
    column_rng: np.random.Generator,
    gain: GainControl | None = None,
) -> NDArray[np.uint16] | NDArray[np.uint8]:
    """An image of apparent temperatures (H, W).

    Args:
        kelvin: the temperatures.
        rng: for noise of this image.
        column_rng: for noise that stays with the columns.
        gain: how the camera turns it into 8 bits; None for a radiometric camera.

    Returns:
        uint16 hundredths of a kelvin, or uint8 behind the gain control.
    """
    noise = 1.0 if gain is None else gain.noise
    image = cv2.GaussianBlur(kelvin, (0, 0), 0.7 if gain is None else gain.blur_px)
    white = rng.standard_normal(image.shape, dtype=np.float32)
    image = image + np.float32(NOISE_KELVIN * noise) * white
    columns = column_rng.standard_normal(image.shape[1], dtype=np.float32)
    image = image + np.float32(COLUMN_NOISE_KELVIN * noise) * columns
    if gain is not None:
        return gain.picture(image)
    return np.clip(np.round(image * COUNTS_PER_KELVIN), 0, 65535).astype(np.uint16)
