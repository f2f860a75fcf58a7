"""Modalities that a checkpoint adds to the paper's five, and the encoder of plain pictures.

A picture is an image with one or three channels, registered to RGB, whose range is known: LiDAR
range, near infrared, radar, ultrasound. It needs no code of its own.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import MODALITIES
from segrgbx_core.base.samples import Array
from segrgbx_core.sensors.content import FEW_SHARE, XContent, on_grid, share_of
from segrgbx_core.sensors.picture import XImage, from_picture, require_array

PICTURE = "picture"
Triple = tuple[float, float, float]
_DTYPES = (np.uint8, np.uint16, np.float32, np.float64)
_IDENTITY: tuple[Triple, ...] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class AddedModality(Config):
    """One modality beyond the paper's five: which encoder draws it, which adapter serves it."""

    encoder: Literal["event", "thermal", "depth", "polarization", "light_field", "picture"] = (
        option(PICTURE, doc="what draws its X image: that of one of the five, or picture")
    )
    slot: int = option(
        len(MODALITIES),
        doc="number of its LoRA adapter and of its aligned prompts; the five have 0 to 4",
        low=len(MODALITIES),
        high=255,
    )
    reveals: tuple[str, ...] = option(
        (), doc="unified classes that it shows better than RGB; reports score them apart"
    )
    channels: int = option(1, doc="channels of a picture: 1 or 3", low=1, high=3)
    low: float = option(0.0, doc="value that becomes black (picture), in its unit")
    high: float = option(1.0, doc="value that becomes white (picture), in its unit")
    unit: str = option("", doc="unit of the values, such as m")
    count: float = option(
        1.0, doc="value of one count of an integer image (picture); floats are in the unit", low=0
    )
    zero_is_missing: bool = option(
        False, doc="0 stands for no measurement (picture), as NaN and infinity always do"
    )
    interpolates: bool = option(
        True, doc="false where a mean of neighbours would invent values, as of sparse ranges"
    )
    curve: tuple[Triple, ...] = option(
        _IDENTITY,
        doc="the three channels of the X image at equal steps from low to high (picture); learned",
    )

    @field_validator("channels")
    @classmethod
    def _grey_or_colour(cls, value: int) -> int:
        if value == 2:
            raise ValueError("must be 1 or 3")
        return value

    @field_validator("curve")
    @classmethod
    def _within_image(cls, value: tuple[Triple, ...]) -> tuple[Triple, ...]:
        if not 2 <= len(value) <= 256 or not all(0 <= v <= 1 for row in value for v in row):
            raise ValueError("must be 2 to 256 rows of three numbers in [0, 1]")
        return value

    @model_validator(mode="after")
    def _check_order(self) -> AddedModality:
        if self.low >= self.high or not self.count > 0:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}, count above 0")
        return self


def from_raw(x: Array, encoding: AddedModality, name: str) -> XImage:
    """The X image of a picture in sensor units.

    Args:
        x: (h, w), (h, w, 1) or, for three channels, (h, w, 3): uint8, uint16 or float.
        encoding: range and curve.
        name: of the modality, for messages.

    Returns:
        float32 (h, w, 3) in [0, 1]: the curve at each value; black where nothing was measured.

    Raises:
        EncodingError: for another type or shape.
    """
    values, measured = _values(x, encoding, name)
    level = (values - np.float32(encoding.low)) / np.float32(encoding.high - encoding.low)
    level = np.where(measured, np.clip(level, 0, 1), 0).astype(np.float32)
    if encoding.curve == _IDENTITY:
        return np.ascontiguousarray(np.broadcast_to(level, (*level.shape[:2], 3)))
    curve = np.asarray(encoding.curve, np.float32)
    steps = np.linspace(0, 1, len(curve))
    x_image = np.empty((*level.shape[:2], 3), np.float32)
    for channel in range(3):
        one = channel % level.shape[2]
        drawn = np.interp(level[..., one], steps, curve[:, channel])
        x_image[..., channel] = np.where(measured[..., one], drawn, 0)
    return x_image


def from_image(x: Array, name: str) -> XImage:
    """The X image that somebody has drawn already; see `from_picture`."""
    return from_picture(x, name)


def content(x: Array, encoding: AddedModality, name: str) -> XContent:
    """Content of a picture in sensor units; arguments and errors as of `from_raw`."""
    _values(x, encoding, name)
    return on_grid(x, lambda part: _content(part, encoding, name))


def _content(x: Array, encoding: AddedModality, name: str) -> XContent:
    values, measured = _values(x, encoding, name)
    inside = measured & (values >= encoding.low) & (values <= encoding.high)
    stats = XContent.of(values, measured, inside, encoding.unit or "levels")
    if stats.is_empty:
        why = "beyond its range" if measured.any() else "no measurement"
        return stats.empty(f"{why}, {share_of(~inside)} of the picture")
    if np.count_nonzero(inside) < FEW_SHARE * np.count_nonzero(measured):
        limits = f"[{encoding.low:g}, {encoding.high:g}] {encoding.unit}".rstrip()
        return stats.suspect(f"{share_of(inside[measured])} of its values lie within {limits}")
    if stats.valid == 1 and stats.low == stats.high:
        return stats.empty(f"one value all over, {stats.median:g}")
    return stats


def _values(
    x: Array, encoding: AddedModality, name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values (h, w, C) in the modality's unit, and which of them are measurements."""
    require_array(x, name)
    planes = x[..., None] if x.ndim == 2 else x
    if planes.ndim != 3 or planes.shape[2] != encoding.channels or x.dtype not in _DTYPES:
        form = "(h, w)" if encoding.channels == 1 else "(h, w, 3)"
        raise EncodingError(
            f"{name} x: shape {x.shape} of {x.dtype} is not supported; expected {form} of uint8, "
            "uint16 or float; set x_form to image for an X image that was drawn already"
        )
    counts = np.issubdtype(x.dtype, np.integer)
    values = planes.astype(np.float32) * np.float32(encoding.count if counts else 1.0)
    measured = np.isfinite(values)
    if encoding.zero_is_missing:
        measured &= planes != 0
    return values, measured
