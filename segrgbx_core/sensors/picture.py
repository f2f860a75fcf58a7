"""Shared by all encoders: input checks, and the encoding of pictures."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import Array

XImage = NDArray[np.float32]
"""float32 (h, w, 3) in [0, 1]: the output of every encoder."""

_FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}


def from_picture(x: Array, name: str) -> XImage:
    """The X image of a picture that a data set or renderer has drawn.

    Args:
        x: uint8 or uint16, (h, w), (h, w, 1) or (h, w, 3) in RGB order.
        name: modality, for messages.

    Returns:
        float32 (h, w, 3): values over the type's largest one; grey is copied into the three
        channels.

    Raises:
        EncodingError: for another type or shape, or an empty picture.
    """
    require_picture(x, name)
    scaled = np.divide(x, np.float32(_FULL_SCALE[x.dtype]), dtype=np.float32)
    return scaled if scaled.ndim == 3 and scaled.shape[2] == 3 else grey(scaled)


def require_picture(x: Array, name: str) -> None:
    """Refuses what is no picture; see `from_picture`.

    Raises:
        EncodingError: for another type or shape, or an empty picture.
    """
    require_array(x, name)
    if x.dtype not in _FULL_SCALE:
        raise EncodingError(
            f"{name} picture: type {x.dtype} is not supported; use uint8 or uint16, "
            "or set x_form to raw for sensor values"
        )
    if x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[2] not in (1, 3)):
        raise EncodingError(
            f"{name} picture: shape {x.shape} is not supported; "
            "use (h, w) or (h, w, 3) in RGB order"
        )


def grey(plane: NDArray[np.float32]) -> XImage:
    """One channel copied into three.

    Args:
        plane: float32 (h, w) or (h, w, 1).
    """
    plane = np.ascontiguousarray(plane.reshape(plane.shape[:2]))
    return np.asarray(cv2.merge([plane, plane, plane]), dtype=np.float32)


def full_scale(dtype: np.dtype[Any]) -> float:
    """The largest value of an integer type; 1 for floats."""
    return _FULL_SCALE.get(dtype, 1.0)


def require_array(x: object, name: str) -> None:
    """Refuses what is no array or has no pixels.

    Raises:
        EncodingError: naming the modality and what came instead.
    """
    if not isinstance(x, np.ndarray):
        raise EncodingError(
            f"{name} x: holds {type(x).__name__}; expected an image array; "
            "check the pair's modality"
        )
    if x.size == 0:
        raise EncodingError(f"{name} x: shape {x.shape} has no pixels; drop the message")


def require_plane(x: object, name: str, dtypes: tuple[type, ...], hint: str) -> Array:
    """A single-channel sensor image as (h, w), checked.

    Args:
        x: (h, w) or (h, w, 1).
        name: modality, for messages.
        dtypes: NumPy types that are accepted.
        hint: what to do about a wrong one.

    Raises:
        EncodingError: for another type or shape, or an empty image.
    """
    require_array(x, name)
    plane = np.asarray(x)
    if plane.ndim == 3 and plane.shape[2] == 1:
        plane = plane[:, :, 0]
    if plane.ndim != 2 or plane.dtype not in dtypes:
        names = ", ".join(np.dtype(kind).name for kind in dtypes)
        raise EncodingError(
            f"{name} x: shape {plane.shape} of {plane.dtype} is not supported; "
            f"expected (h, w) of {names}; {hint}"
        )
    return plane
