"""How the surfaces of a room vary from place to place: planks, carpets, cloth, pictures, books."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.shapes.materials import Pattern
from training.world.surfaces.noise import hashed, noise, smooth_noise, stripes
from training.world.surfaces.surface import Painter, Surface

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]


def wall_coordinates(surface: Surface, at: Indices) -> tuple[Floats, Floats]:
    """Coordinates along an upright surface: the one that runs sideways, and the height."""
    along_x = np.abs(surface.normal[at, 1]) > np.abs(surface.normal[at, 0])
    u = np.where(along_x, surface.local[at, 0], surface.local[at, 1])
    return u.astype(np.float32), surface.local[at, 2]


def _face_coordinates(surface: Surface, at: Indices) -> tuple[Floats, Floats]:
    """Coordinates on any axis-aligned face; level ones use x and y."""
    level = np.abs(surface.normal[at, 2]) > 0.7
    u, v = wall_coordinates(surface, at)
    x, y = surface.local[at, 0], surface.local[at, 1]
    return np.where(level, x, u), np.where(level, y, v)


def _wood(surface: Surface, at: Indices) -> None:
    """Planks of the width in params; width 0 is one solid piece."""
    u, v = _face_coordinates(surface, at)
    size, width = surface.footprint[at], surface.params[at, 0]
    board = np.maximum(width, 0.02)
    row = np.floor(v / board).astype(np.int64)
    tone = (hashed(row, np.floor(u / 1.3 + 0.37 * row).astype(np.int64), 3) - 0.5) * (width > 0)
    grain = noise(u * 0.25, v * 2.5, 0.02, size, 0.7)
    gap = np.where(width > 0, stripes(v, 0.12, 0.006, size), 0)
    shade = (1 + 0.3 * tone + 0.22 * grain) * (1 - 0.5 * gap)
    surface.albedo[at] *= shade[:, None]
    surface.kelvin[at] += 0.1 * grain


def _carpet(surface: Surface, at: Indices) -> None:
    u, v = _face_coordinates(surface, at)
    size = surface.footprint[at]
    figure = np.sign(np.sin(u * 9) * np.sin(v * 9)) * surface.params[at, 0]
    pile = noise(u, v, 0.01, size, 0.2)
    surface.albedo[at] *= np.clip(1 + 0.3 * pile + 0.35 * figure, 0.1, 2)[:, None]


def _cloth(surface: Surface, at: Indices) -> None:
    """Folds and weave for things that stand still; people are left plain, as they move."""
    folded = surface.params[at, 0] > 0
    if not folded.any():
        return
    u, v = _face_coordinates(surface, at)
    fold = smooth_noise(u * 3, v * 0.6, 0.5) * folded
    surface.albedo[at] *= (1 + 0.3 * fold)[:, None]


def _picture(surface: Surface, at: Indices) -> None:
    """A printed picture: coarse patches of colour about the part's own."""
    u, v = wall_coordinates(surface, at)
    key = surface.params[at, 0].astype(np.int64)
    tones = [smooth_noise(u + key * 3.7 + k * 11, v + k * 5, 0.16) for k in range(3)]
    surface.albedo[at] *= np.clip(1 + 1.5 * np.stack(tones, axis=1), 0.1, 2.2)


def _books(surface: Surface, at: Indices) -> None:
    """Rows of spines in many colours."""
    u, v = wall_coordinates(surface, at)
    size = surface.footprint[at]
    spine = np.floor(u / 0.035).astype(np.int64)
    shelf = np.floor(v / 0.33).astype(np.int64)
    hue = np.stack([hashed(spine, shelf, k) for k in (1, 2, 3)], axis=1)
    fade = np.clip(1.6 - size / 0.035, 0, 1)[:, None]
    mean = np.array([0.24, 0.16, 0.12])
    surface.albedo[at] = (mean + (0.45 * hue * hue + 0.03 - mean) * fade).astype(np.float32)
    surface.albedo[at] *= (1 - 0.6 * stripes(u, 0.035, 0.005, size))[:, None]


ROOM_PAINTERS: dict[Pattern, Painter] = {
    Pattern.WOOD: _wood,
    Pattern.CARPET: _carpet,
    Pattern.CLOTH: _cloth,
    Pattern.PICTURE: _picture,
    Pattern.BOOKS: _books,
}
