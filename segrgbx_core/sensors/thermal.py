"""Thermal (long-wave infrared): temperatures or camera counts become grey levels.

Cameras publish 8-bit pictures with the camera's own gain control (mono8), 16-bit counts (mono16,
16UC1) that are linear in temperature only in a radiometric mode, or degrees Celsius (32FC1). Data
sets such as MFNet hold 8-bit pictures. The X image is grey, copied into three channels.

Three ways to grey, chosen by the checkpoint because the model must see what it was trained on:

- `percentile`: stretch between two percentiles of each frame. Needs no calibration and is the
  same for counts and degrees; absolute temperature is lost.
- `fixed`: stretch between two temperatures. Keeps absolute temperature; needs a radiometric
  camera.
- `passthrough8`: the camera's 8-bit picture as it is.
"""

from __future__ import annotations

from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import Array
from segrgbx_core.sensors.content import XContent, on_grid
from segrgbx_core.sensors.picture import XImage, from_picture, grey, require_plane

_FLOAT_BINS = 65536
_FINE_BINS = 1024
_DTYPES = (np.uint8, np.uint16, np.float32, np.float64)
_HINT = "set x_form to image for a coloured or rendered picture"
_UNITS = {"u": "counts", "f": "degC"}
_FLAT = {np.dtype(np.uint8): 1.0, np.dtype(np.uint16): 4.0, np.dtype(np.float32): 0.1}
"""Difference of the 1st and 99th percentile that noise alone makes."""


class ThermalNormalization(str, Enum):
    """How temperature becomes grey."""

    PERCENTILE = "percentile"
    FIXED = "fixed"
    PASSTHROUGH8 = "passthrough8"


class ThermalEncoding(Config):
    """How thermal values become the X image."""

    normalization: ThermalNormalization = option(
        ThermalNormalization.PERCENTILE,
        doc="stretch by each frame's percentiles, by fixed temperatures, or 8 bits as they are",
    )
    percentiles: tuple[float, float] = option(
        (1.0, 99.0),
        doc="percentiles that become black and white (normalization percentile)",
        unit="%",
    )
    min_c: float = option(
        -20.0, doc="temperature that becomes black (fixed)", unit="degC", low=-273.15, high=3000
    )
    max_c: float = option(
        60.0, doc="temperature that becomes white (fixed)", unit="degC", low=-273.15, high=3000
    )

    @model_validator(mode="after")
    def _check_order(self) -> ThermalEncoding:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles ({low:g}, {high:g}) % must rise within [0, 100] %")
        if self.min_c >= self.max_c:
            raise ValueError(f"min_c {self.min_c:g} degC must be below max_c {self.max_c:g} degC")
        return self


class ThermalSensor(Config):
    """What the thermal driver's 16-bit counts mean: degC = counts * raw_scale + raw_offset."""

    raw_scale: float = option(
        0.01, doc="degrees per count of a 16-bit image", unit="degC", low=1e-6, high=100
    )
    raw_offset: float = option(
        -273.15, doc="temperature of count 0 of a 16-bit image", unit="degC", low=-5000, high=5000
    )


def from_raw(x: Array, encoding: ThermalEncoding, sensor: ThermalSensor) -> XImage:
    """The X image of what a thermal camera publishes.

    Args:
        x: (h, w) or (h, w, 1): uint8 (camera's own gain), uint16 (counts) or float (degC).
        encoding: the checkpoint's way to grey.
        sensor: what 16-bit counts mean; used by `fixed` only.

    Returns:
        float32 (h, w, 3) in [0, 1], warmer is brighter. NaN and frames without contrast are black.

    Raises:
        EncodingError: for another type or shape, or where the image cannot carry the
            normalization.
    """
    plane = require_plane(x, "thermal", _DTYPES, _HINT)
    if plane.dtype == np.float64:
        plane = plane.astype(np.float32)
    if encoding.normalization is ThermalNormalization.PASSTHROUGH8:
        if plane.dtype != np.uint8:
            raise EncodingError(
                f"thermal x: {plane.dtype} cannot pass through as 8 bits; use a mono8 topic or a "
                "checkpoint trained with normalization percentile or fixed"
            )
        return from_picture(plane, "thermal")
    if encoding.normalization is ThermalNormalization.FIXED:
        low, high = _fixed_limits(plane, encoding, sensor)
    else:
        low, high = percentile_limits(plane, *encoding.percentiles)
    return grey(_stretch(plane, low, high))


def from_image(x: Array) -> XImage:
    """The X image of a thermal picture as data sets store it; see `from_picture`."""
    return from_picture(x, "thermal")


def content(x: Array, encoding: ThermalEncoding, sensor: ThermalSensor) -> XContent:
    """Content of a thermal image; arguments and errors as of `from_raw`."""
    plane = require_plane(x, "thermal", _DTYPES, _HINT)
    return on_grid(plane, lambda part: _content(part, encoding, sensor))


def _content(plane: Array, encoding: ThermalEncoding, sensor: ThermalSensor) -> XContent:
    is_float = plane.dtype.kind == "f"
    plane = plane.astype(np.float32) if is_float else plane
    valid = np.isfinite(plane)
    low, high = 0.0, np.inf if is_float else np.iinfo(plane.dtype).max - 1.0
    is_fixed = encoding.normalization is ThermalNormalization.FIXED
    if is_fixed:
        low, high = _fixed_limits(plane, encoding, sensor)
    elif is_float:
        low = -np.inf
    usable = valid & (plane >= low) & (plane <= high)
    stats = XContent.of(plane, valid, usable, _UNITS[plane.dtype.kind])
    if not stats.valid:
        return stats.empty("every pixel is NaN or infinite")
    if is_fixed and stats.is_empty:
        return stats.empty(_beyond_limits(stats.median, is_float, encoding, sensor))
    dark, bright = percentile_limits(plane, 1, 99)
    if bright - dark <= _FLAT[plane.dtype]:
        return stats.empty(
            f"flat, 98 % of the pixels within {bright - dark:.2g} {stats.unit} around "
            f"{stats.median:g}: shutter closed, lens covered or camera not started?"
        )
    if stats.is_empty:
        return stats.empty(f"saturated, the median is {stats.median:g} {stats.unit}")
    return stats


def _beyond_limits(
    median: float, is_float: bool, encoding: ThermalEncoding, sensor: ThermalSensor
) -> str:
    degrees = median if is_float else median * sensor.raw_scale + sensor.raw_offset
    span = f"{encoding.min_c:g} to {encoding.max_c:g} degC"
    cause = "check sensor.thermal.raw_scale and raw_offset"
    if is_float:
        is_kelvin = encoding.min_c <= degrees - 273.15 <= encoding.max_c
        cause = "kelvin? 32FC1 holds degrees Celsius here" if is_kelvin else "which unit is it?"
    return f"no pixel within {span}, median {degrees:.4g} degC: {cause}"


def percentile_limits(plane: Array, low: float, high: float) -> tuple[float, float]:
    """Two percentiles of an image from histograms, much faster than sorting.

    A percentile is the smallest value with at least that share of the pixels at or below it:
    exact for integers; for floats to 1/1024 of the distance between the two. NaN and infinities
    do not count.

    Args:
        plane: uint8, uint16 or float32 (h, w).
        low: lower percentile in [0, 100].
        high: upper percentile in [0, 100].

    Returns:
        the two values; (0, 0) where no pixel is finite.
    """
    if plane.dtype != np.float32:
        bins = 256 if plane.dtype == np.uint8 else 65536
        counts = cv2.calcHist([np.ascontiguousarray(plane)], [0], None, [bins], [0, bins]).ravel()
        first, last = _ranks(counts, (low, high), plane.size)
        return float(first), float(last)
    return _float_limits(plane, low, high)


def _float_limits(plane: NDArray[np.float32], low: float, high: float) -> tuple[float, float]:
    least, most = float(plane.min()), float(plane.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        plane = plane[np.isfinite(plane)].reshape(-1, 1)
        if plane.size == 0:
            return 0.0, 0.0
        least, most = float(plane.min()), float(plane.max())
    plane = np.ascontiguousarray(plane)
    begin, end = least, most
    for _ in range(3):  # each pass narrows the range until outliers no longer cost resolution
        step = (end - begin) / _FLOAT_BINS
        above = float(np.nextafter(np.float32(end), np.float32(np.inf)))
        if not step > 0 or not above > begin:
            break
        below = int(np.count_nonzero(plane < np.float32(begin))) if begin > least else 0
        counts = cv2.calcHist([plane], [0], None, [_FLOAT_BINS], [begin, above]).ravel()
        first, last = _ranks(counts, (low, high), plane.size, below)
        begin, end = begin + first * step, min(begin + (last + 1) * step, most)
        if last - first >= _FINE_BINS:
            break
    return begin, end


def _ranks(
    counts: Array, percentiles: tuple[float, float], total: int, below: int = 0
) -> tuple[int, int]:
    reached = np.cumsum(counts, dtype=np.float64) + below
    wanted = [max(np.ceil(share * total / 100), 1) for share in percentiles]
    bins = np.minimum(np.searchsorted(reached, wanted), len(counts) - 1)
    return int(bins[0]), int(bins[1])


def _fixed_limits(
    plane: Array, encoding: ThermalEncoding, sensor: ThermalSensor
) -> tuple[float, float]:
    if plane.dtype == np.uint8:
        raise EncodingError(
            "thermal x: uint8 holds no temperatures, which normalization fixed needs; "
            "publish mono16 or degrees, or use a checkpoint with percentile or passthrough8"
        )
    if plane.dtype == np.uint16:
        return (
            (encoding.min_c - sensor.raw_offset) / sensor.raw_scale,
            (encoding.max_c - sensor.raw_offset) / sensor.raw_scale,
        )
    return encoding.min_c, encoding.max_c


def _stretch(plane: Array, low: float, high: float) -> NDArray[np.float32]:
    if not high > low:
        return np.zeros(plane.shape, np.float32)
    if plane.dtype != np.float32:
        levels = np.arange(256 if plane.dtype == np.uint8 else 65536, dtype=np.float64)
        table = np.clip((levels - low) / (high - low), 0, 1).astype(np.float32)
        return np.take(table, plane)
    stretched = np.subtract(plane, np.float32(low))
    stretched *= np.float32(1 / (high - low))
    np.clip(stretched, 0, 1, out=stretched)
    np.copyto(stretched, 0, where=np.isnan(stretched))
    return stretched
