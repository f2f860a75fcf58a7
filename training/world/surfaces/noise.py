"""Procedural detail that does not alias: noise with mip levels, edges as wide as a pixel."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.world.rays.vectors import Floats, Indices

_SIZE = 256


@lru_cache(maxsize=16)
def _pyramid(exponent: float) -> tuple[Floats, Indices]:
    """Tileable noise with a 1/f^exponent spectrum: all levels flat, and their offsets."""
    rng = np.random.default_rng(1234)
    spectrum = np.fft.rfft2(rng.normal(size=(_SIZE, _SIZE)))
    row, column = np.fft.fftfreq(_SIZE)[:, None], np.fft.rfftfreq(_SIZE)[None]
    radius = np.hypot(row, column)
    radius[0, 0] = np.inf
    level = np.fft.irfft2(spectrum / radius**exponent, s=(_SIZE, _SIZE))
    level = np.clip(level / level.std(), -3, 3) / 3
    levels = []
    while level.shape[0] >= 1:
        levels.append(level.ravel())
        if level.shape[0] == 1:
            break
        level = level.reshape(level.shape[0] // 2, 2, level.shape[1] // 2, 2).mean(axis=(1, 3))
    offsets = np.cumsum([0, *[len(item) for item in levels[:-1]]])
    return np.concatenate(levels).astype(np.float32), offsets


def noise(
    u: Floats, v: Floats, texel: Floats | float, footprint: Floats, exponent: float = 1.0
) -> Floats:
    """Smooth random values in [-1, 1].

    Args:
        u: first surface coordinate in metres, (N,).
        v: second one.
        texel: size of the finest detail in metres.
        footprint: size of a pixel on the surface in metres; detail below it is averaged away.
        exponent: how much coarse detail outweighs fine detail.
    """
    table, offsets = _pyramid(exponent)
    fine = np.maximum(footprint, 1e-6) / texel
    level = np.clip(np.log2(np.maximum(fine, 1)), 0, len(offsets) - 1).astype(np.int64)
    size = _SIZE >> level
    scale = 1.0 / (texel * (1 << level))
    column = np.floor(u * scale).astype(np.int64) & (size - 1)
    row = np.floor(v * scale).astype(np.int64) & (size - 1)
    return table[offsets[level] + row * size + column]


def smooth_noise(u: Floats, v: Floats, period: float) -> Floats:
    """Coarse noise in [-1, 1] without steps (bilinear), repeating after 64 periods."""
    table, offsets = _pyramid(1.0)
    level = 2
    size = _SIZE >> level
    x, y = u / period, v / period
    left, top = np.floor(x), np.floor(y)
    fx, fy = x - left, y - top
    i, j = left.astype(np.int64), top.astype(np.int64)

    def texel(column: Indices, row: Indices) -> Floats:
        return table[offsets[level] + (row & (size - 1)) * size + (column & (size - 1))]

    upper = texel(i, j) * (1 - fx) + texel(i + 1, j) * fx
    lower = texel(i, j + 1) * (1 - fx) + texel(i + 1, j + 1) * fx
    return (upper * (1 - fy) + lower * fy).astype(np.float32)


def hashed(*keys: NDArray[np.integer] | int) -> Floats:
    """Random values in [0, 1) that depend only on integer keys."""
    state = np.uint32(0x9E3779B9)
    value: NDArray[np.uint32] = np.zeros(1, np.uint32)
    with np.errstate(over="ignore"):
        for key in keys:
            value = (value ^ np.asarray(key).astype(np.int64).astype(np.uint32)) * np.uint32(
                0x85EBCA6B
            )
            value = (value ^ (value >> np.uint32(13))) * np.uint32(0xC2B2AE35) + state
            value = value ^ (value >> np.uint32(16))
    return (value.astype(np.float64) / 2**32).astype(np.float32)


def inside(value: Floats, low: float | Floats, high: float | Floats, footprint: Floats) -> Floats:
    """Coverage of [low, high] by a pixel centred on `value`: 1 inside, 0 outside."""
    half = np.maximum(footprint, 1e-4) * 0.5
    reach = np.minimum(value + half, high) - np.maximum(value - half, low)
    return np.clip(reach / (2 * half), 0, 1).astype(np.float32)


def stripes(value: Floats, period: float, width: float, footprint: Floats) -> Floats:
    """Coverage of stripes [0, width] that repeat; fades to the mean below the size of a pixel."""
    fade = np.clip(1.5 - footprint / period, 0, 1)
    phase = np.mod(value, period)
    sharp = inside(phase, 0, width, footprint) + inside(phase - period, 0, width, footprint)
    return (np.clip(sharp, 0, 1) * fade + (width / period) * (1 - fade)).astype(np.float32)
