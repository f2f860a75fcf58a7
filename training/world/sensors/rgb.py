"""The RGB camera: exposure, lens, photon and read noise, tone curve."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.rays.vectors import Floats

KEY = 0.15
"""Radiance times exposure that an average scene is brought to."""
HIGHLIGHT = 0.85
"""Largest value that the brightest fifth of an image may start at."""
MAX_GAIN = 14.0
FULL_WELL = 9000.0
READ_NOISE = 3.5


@dataclass(frozen=True)
class Exposure:
    """How bright and how noisy the camera renders radiance 1.

    Attributes:
        gain: metered factor from radiance to the tone curve's input.
        factor: a wrong exposure on top of it, 1 for none.
    """

    gain: float
    factor: float = 1.0


def meter(radiance: Floats) -> Exposure:
    """Automatic exposure from the log mean of the lower two thirds of an image (H, W, 3)."""
    lower = radiance[radiance.shape[0] // 3 :].mean(axis=2)
    mean = float(np.exp(np.log(np.maximum(lower, 1e-4)).mean()))
    highlight = float(np.percentile(radiance[::4, ::4].mean(axis=2), 80))
    gain = min(KEY / mean, HIGHLIGHT / max(highlight, 1e-4))
    return Exposure(float(np.clip(gain, 0.3, MAX_GAIN)))


def photograph(
    radiance: Floats, exposure: Exposure, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """An 8-bit sRGB picture of linear radiance (H, W, 3)."""
    gain = exposure.gain * exposure.factor
    bright = np.clip(radiance * np.float32(gain), 0, 12)
    glare = np.maximum(bright - 0.9, 0)
    if float(glare.max()) > 0.2:
        scale = radiance.shape[1] / 320
        bright = bright + 0.05 * cv2.GaussianBlur(glare, (0, 0), 2.2 * scale)
        bright = bright + 0.03 * cv2.GaussianBlur(glare, (0, 0), 8.0 * scale)
    bright = cv2.GaussianBlur(bright, (0, 0), 0.5)
    well = FULL_WELL / max(exposure.gain, 1.0)
    electrons = bright * np.float32(well)
    noise = rng.standard_normal(electrons.shape, dtype=np.float32)
    electrons = electrons + noise * np.sqrt(np.maximum(electrons, 0) + np.float32(READ_NOISE**2))
    return tone(np.maximum(electrons, 0) / np.float32(well))


def tone(linear: Floats) -> NDArray[np.uint8]:
    """SRGB curve with a soft shoulder, to 8 bits."""
    soft = np.where(linear < 0.7, linear, 0.7 + 0.3 * (1 - np.exp(-(linear - 0.7) / 0.45)))
    curve = np.where(
        soft <= 0.0031308, 12.92 * soft, 1.055 * np.power(np.maximum(soft, 1e-6), 1 / 2.4) - 0.055
    )
    return np.clip(curve * 255 + 0.5, 0, 255).astype(np.uint8)
