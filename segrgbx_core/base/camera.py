"""The pinhole camera, and depth in counts and in metres.

Images are rectified: lens distortion is not modelled. Pixel (0, 0) is the centre of the first one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.samples import Array

MILLIMETRE = 0.001
"""Metres per count of a 16UC1 depth image (REP 118)."""


@dataclass(frozen=True)
class Pinhole:
    """A rectified camera; focal lengths and the optical axis in pixels, as in camera_info."""

    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Camera matrix (3, 3)."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    def scaled(self, sx: float, sy: float) -> Pinhole:
        """The camera of an image resized by these factors, without a half-pixel term.

        As image_proc does it, so that consumers agree.
        """
        return Pinhole(self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy)

    def columns(self, width: int) -> NDArray[np.float64]:
        """x/z of every column, (width,)."""
        return np.asarray((np.arange(width) - self.cx) / self.fx)

    def rows(self, height: int) -> NDArray[np.float64]:
        """y/z of every row, (height,)."""
        return np.asarray((np.arange(height) - self.cy) / self.fy)


def depth_metres(depth: Array, unit_16u: float, dtype: Any = np.float32) -> NDArray[Any]:
    """Depth in metres; values that are no measurement stay what they are (0, NaN, inf).

    Args:
        depth: uint16 counts of `unit_16u`, or floats in metres.
        unit_16u: metres per count.
        dtype: float type of the result and of the product.
    """
    metres = depth.astype(dtype)
    if depth.dtype == np.uint16:
        metres *= dtype(unit_16u)
    return metres


def depth_counts(depth_m: NDArray[Any], unit_16u: float = MILLIMETRE) -> NDArray[np.uint16]:
    """Metres as counts of a 16UC1 image.

    0 is no measurement, and stands for what is not finite or does not fit into 16 bits, too.
    """
    counts = np.rint(np.nan_to_num(depth_m, nan=0, posinf=0, neginf=0) * (1 / unit_16u))
    fits = (counts > 0) & (counts <= np.iinfo(np.uint16).max)
    return np.where(fits, counts, 0).astype(np.uint16)
