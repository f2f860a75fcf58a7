"""Patterns of rooms: planks, carpets, cloth, pictures, books, leaves."""

from __future__ import annotations

import numpy as np

from training.world.rays.vectors import Indices, unit
from training.world.surfaces.materials import Pattern
from training.world.surfaces.noise import hashed, noise, smooth_noise, stripes
from training.world.surfaces.surface import Painter, Surface, face_coordinates, wall_coordinates


def _wood(surface: Surface, rows: Indices) -> None:
    """Planks of the width in params; width 0 is one solid piece."""
    u, v = face_coordinates(surface, rows)
    footprint, width = surface.footprint[rows], surface.params[rows, 0]
    board = np.maximum(width, 0.02)
    row = np.floor(v / board).astype(np.int64)
    tone = (hashed(row, np.floor(u / 1.3 + 0.37 * row).astype(np.int64), 3) - 0.5) * (width > 0)
    grain = noise(u * 0.25, v * 2.5, 0.02, footprint, 0.7)
    gap = np.where(width > 0, stripes(v, 0.12, 0.006, footprint), 0)
    shade = (1 + 0.3 * tone + 0.22 * grain) * (1 - 0.5 * gap)
    surface.albedo[rows] *= shade[:, None]
    surface.kelvin[rows] += 0.1 * grain


def _carpet(surface: Surface, rows: Indices) -> None:
    u, v = face_coordinates(surface, rows)
    footprint = surface.footprint[rows]
    figure = np.sign(np.sin(u * 9) * np.sin(v * 9)) * surface.params[rows, 0]
    pile = noise(u, v, 0.01, footprint, 0.2)
    surface.albedo[rows] *= np.clip(1 + 0.3 * pile + 0.35 * figure, 0.1, 2)[:, None]


def _cloth(surface: Surface, rows: Indices) -> None:
    """Folds and weave for things that stand still; people are left plain, as they move."""
    folded = surface.params[rows, 0] > 0
    if not folded.any():
        return
    u, v = face_coordinates(surface, rows)
    fold = smooth_noise(u * 3, v * 0.6, 0.5) * folded
    surface.albedo[rows] *= (1 + 0.3 * fold)[:, None]


def _picture(surface: Surface, rows: Indices) -> None:
    """A printed picture: coarse patches of colour about the part's own."""
    u, v = wall_coordinates(surface, rows)
    key = surface.params[rows, 0].astype(np.int64)
    tones = [smooth_noise(u + key * 3.7 + k * 11, v + k * 5, 0.16) for k in range(3)]
    surface.albedo[rows] *= np.clip(1 + 1.5 * np.stack(tones, axis=1), 0.1, 2.2)


def _books(surface: Surface, rows: Indices) -> None:
    """Rows of spines in many colours."""
    u, v = wall_coordinates(surface, rows)
    footprint = surface.footprint[rows]
    spine = np.floor(u / 0.035).astype(np.int64)
    shelf = np.floor(v / 0.33).astype(np.int64)
    hue = np.stack([hashed(spine, shelf, k) for k in (1, 2, 3)], axis=1)
    fade = np.clip(1.6 - footprint / 0.035, 0, 1)[:, None]
    mean = np.array([0.24, 0.16, 0.12])
    surface.albedo[rows] = (mean + (0.45 * hue * hue + 0.03 - mean) * fade).astype(np.float32)
    surface.albedo[rows] *= (1 - 0.6 * stripes(u, 0.035, 0.005, footprint))[:, None]


def _leaves(surface: Surface, rows: Indices) -> None:
    x, y, z = surface.local[rows].T
    footprint = surface.footprint[rows]
    blade = noise(x + y, z + 0.6 * y, 0.035, footprint, 0.3)
    clump = smooth_noise(x + 0.7 * y, z - 0.5 * y, 0.4)
    # Leaves let light through: undersides are not as dark as those of a solid.
    surface.normal[rows] = unit(surface.normal[rows] + np.array([0, 0, 0.55], np.float32))
    surface.albedo[rows] *= np.clip(1 + 0.75 * blade + 0.45 * clump, 0.15, 2)[:, None]
    surface.kelvin[rows] += 0.3 * blade + 0.3 * clump


ROOM_PAINTERS: dict[Pattern, Painter] = {
    Pattern.WOOD: _wood,
    Pattern.CARPET: _carpet,
    Pattern.CLOTH: _cloth,
    Pattern.PICTURE: _picture,
    Pattern.BOOKS: _books,
    Pattern.LEAVES: _leaves,
}
