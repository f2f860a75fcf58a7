"""Pinhole cameras with a pose in the world."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from training.world.rays.vectors import Floats, Indices

NEAREST = 0.01
"""Depth in metres below which nothing is projected into the image."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera in the world.

    Attributes:
        width: pixels.
        height: pixels.
        focal: focal length in pixels.
        position: metres.
        axes: rows are right, down and forward as unit vectors in the world, (3, 3).
    """

    width: int
    height: int
    focal: float
    position: Floats
    axes: Floats

    def rays(self) -> Floats:
        """Unit directions through the pixel centres, row by row, float32 (H * W, 3)."""
        return np.ascontiguousarray(_pixel_rays(self.width, self.height, self.focal) @ self.axes)

    def rays_near(self, corners: Floats) -> Indices:
        """Rays through the smallest rectangle of pixels about what has these corners, metres.

        Args:
            corners: of flat faces, (N, 3).
        """
        x, y, depth = ((corners - self.position) @ self.axes.T).T
        if (depth <= 0).all():
            return np.zeros(0, np.int64)
        if (depth < NEAREST).any():
            return np.arange(self.width * self.height)
        columns = x / depth * self.focal + self.width / 2
        rows = y / depth * self.focal + self.height / 2
        left, right = np.clip([columns.min() - 1, columns.max() + 1], 0, self.width).astype(int)
        top, bottom = np.clip([rows.min() - 1, rows.max() + 1], 0, self.height).astype(int)
        grid = np.arange(top, bottom)[:, None] * self.width + np.arange(left, right)
        return np.asarray(grid.ravel(), np.int64)

    def shifted(self, right: float, down: float = 0.0) -> Camera:
        """The same camera moved in its image plane, metres."""
        offset = right * self.axes[0] + down * self.axes[1]
        return replace(self, position=(self.position + offset).astype(np.float32))

    def panned(self, pixels: float) -> Camera:
        """The same camera turned about its vertical by a shift of the image in pixels."""
        angle = pixels / self.focal
        right, forward = self.axes[0], self.axes[2]
        cos, sin = np.cos(angle), np.sin(angle)
        axes = np.stack([cos * right - sin * forward, self.axes[1], cos * forward + sin * right])
        return replace(self, axes=axes.astype(np.float32))

    def same_as(self, other: Camera) -> bool:
        """Whether both have the same pose and pixel grid."""
        return (
            (self.width, self.height, self.focal) == (other.width, other.height, other.focal)
            and np.array_equal(self.position, other.position)
            and np.array_equal(self.axes, other.axes)
        )

    def rolled(self, angle: float) -> Camera:
        """The same camera turned about its optical axis, rad."""
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        return replace(self, axes=(turn @ self.axes).astype(np.float32))

    def resized(self, scale: float) -> Camera:
        """The same view on another pixel grid."""
        width, height = max(8, round(self.width * scale)), max(8, round(self.height * scale))
        return replace(self, width=width, height=height, focal=self.focal * width / self.width)


@lru_cache(maxsize=4)
def _pixel_rays(width: int, height: int, focal: float) -> Floats:
    """Unit directions through the pixel centres in the camera's own axes."""
    column = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / focal
    row = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / focal
    grid = np.empty((height, width, 3), np.float32)
    grid[..., 0], grid[..., 1], grid[..., 2] = column[None], row[:, None], 1
    directions = grid.reshape(-1, 3)
    directions /= np.sqrt(np.einsum("ij,ij->i", directions, directions))[:, None]
    return directions


def camera_axes(heading: float, pitch: float, roll: float) -> Floats:
    """Camera axes for a heading about the vertical, a downward pitch and a roll, rad."""
    cos, sin = np.cos(heading), np.sin(heading)
    forward = np.array([cos * np.cos(pitch), sin * np.cos(pitch), -np.sin(pitch)])
    right = np.array([sin, -cos, 0.0])
    down = np.cross(forward, right)
    cos, sin = np.cos(roll), np.sin(roll)
    return np.stack([cos * right + sin * down, cos * down - sin * right, forward]).astype(
        np.float32
    )
