"""HHA: placeholder while being written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.encoders.picture import Array


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole intrinsics of a depth image in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


def hha_image(depth_m: Array, intrinsics: Intrinsics) -> NDArray[np.uint8]:
    """HHA picture."""
    raise NotImplementedError
