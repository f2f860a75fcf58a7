"""Depth: distances along the optical axis become near-is-bright grey, metric grey, or HHA.

Cameras publish 16UC1 in millimetres with 0 for "no measurement" (REP-118's raw form), or 32FC1 in
metres where NaN and -Inf mean "no measurement" and +Inf "beyond range" (REP-117). The type
decides the unit, never the magnitude of the values.

- `inverse`: 1/z, which falls off as a stereo disparity does; most contrast near the camera.
- `metric`: z, linear; most contrast is spread over the whole range.
- `hha`: disparity, height, angle with gravity (see `hha`); what NYUDepthV2 models are trained on.

The grey forms keep 0 for pixels without a measurement: a measured pixel is at least 1/255.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from segrgbx_core.base.camera import Pinhole, depth_metres
from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import Array
from segrgbx_core.sensors.content import FEW_SHARE, XContent, on_grid, share_of
from segrgbx_core.sensors.hha import hha_image
from segrgbx_core.sensors.picture import XImage, from_picture, grey, require_plane

_FIRST_LEVEL = np.float32(1 / 255)
_DTYPES = (np.uint16, np.float32, np.float64)
_HINT = "publish 16UC1 (mm) or 32FC1 (m), or set x_form to image for a rendered picture"
_MOST_COUNTS = 65535
_HHA_RANGE_M = (0.1, 100.0)
"""Depths that a plausible room or street has; HHA itself has no range."""


class DepthRepresentation(str, Enum):
    """What the X image of depth shows."""

    INVERSE = "inverse"
    METRIC = "metric"
    HHA = "hha"


class DepthEncoding(Config):
    """How depth becomes the X image."""

    representation: DepthRepresentation = option(
        DepthRepresentation.INVERSE,
        doc="inverse depth (near is bright), metric depth (far is bright), or HHA",
    )
    min_m: float = option(
        1.0,
        doc="nearest depth that is resolved (inverse, metric)",
        unit="m",
        low=0.001,
        high=1000,
    )
    max_m: float = option(
        80.0,
        doc="farthest depth that is resolved (inverse, metric)",
        unit="m",
        low=0.001,
        high=10000,
    )

    ground_percentile: float = option(
        0.0,
        doc="percentile of height that is ground (HHA): 0 as in NYUDepthV2, 1 against outliers",
        unit="%",
        low=0,
        high=50,
    )

    @model_validator(mode="after")
    def _check_order(self) -> DepthEncoding:
        if self.min_m >= self.max_m:
            raise ValueError(f"min_m {self.min_m:g} m must be below max_m {self.max_m:g} m")
        return self


class DepthSensor(Config):
    """Facts about the depth driver."""

    unit_16u: float = option(
        0.001, doc="metres per count of a 16-bit depth image", unit="m", low=1e-6, high=1
    )
    fx: float = option(
        0.0, doc="focal length in x of the depth image, 0 when unknown (HHA)", unit="px", low=0
    )
    fy: float = option(
        0.0, doc="focal length in y of the depth image, 0 when unknown (HHA)", unit="px", low=0
    )
    cx: float = option(0.0, doc="column of the optical axis (HHA)", unit="px")
    cy: float = option(0.0, doc="row of the optical axis (HHA)", unit="px")


def from_raw(x: Array, encoding: DepthEncoding, sensor: DepthSensor) -> XImage:
    """The X image of what a depth camera publishes.

    Args:
        x: (h, w) or (h, w, 1): uint16 counts of `sensor.unit_16u` (0 invalid), or float metres
            (NaN, -Inf and anything <= 0 invalid, +Inf far).
        encoding: the checkpoint's representation and range.
        sensor: unit of 16-bit counts; intrinsics for HHA.

    Returns:
        float32 (h, w, 3) in [0, 1]; pixels without a measurement are 0.

    Raises:
        EncodingError: for another type or shape, or HHA without intrinsics.
    """
    plane = require_plane(x, "depth", _DTYPES, _HINT)
    if encoding.representation is DepthRepresentation.HHA:
        depth_m = depth_metres(plane, sensor.unit_16u, np.float64)
        lowest = encoding.ground_percentile
        return from_image(hha_image(depth_m, _camera(sensor), lowest))
    if plane.dtype == np.uint16:
        counts = np.arange(65536, dtype=np.uint16)
        depth_m = depth_metres(counts, sensor.unit_16u, np.float64).astype(np.float32)
        return grey(np.take(_grade(depth_m, encoding), plane))
    return grey(_grade(plane.astype(np.float32, copy=False), encoding))


def from_image(x: Array) -> XImage:
    """The X image of a depth or HHA picture as data sets store it; see `from_picture`.

    HHA pictures in file order: red disparity, green height, blue angle.
    """
    return from_picture(x, "depth")


def content(x: Array, encoding: DepthEncoding, sensor: DepthSensor) -> XContent:
    """Content of a depth image; arguments and errors as of `from_raw`."""
    plane = require_plane(x, "depth", _DTYPES, _HINT)
    return on_grid(plane, lambda part: _content(part, encoding, sensor))


def _content(plane: Array, encoding: DepthEncoding, sensor: DepthSensor) -> XContent:
    depth_m = depth_metres(plane, sensor.unit_16u)
    near, far = encoding.min_m, encoding.max_m
    if encoding.representation is DepthRepresentation.HHA:
        near, far = _HHA_RANGE_M
    with np.errstate(invalid="ignore"):
        measured = depth_m > 0
        usable = (depth_m >= np.float32(near)) & (depth_m <= np.float32(far))
    stats = XContent.of(depth_m, measured & np.isfinite(depth_m), usable, "m")
    if not stats.valid:
        return stats.empty(_without_measurement(plane))
    if plane.dtype == np.uint16 and (plane[measured] == _MOST_COUNTS).all():
        return stats.empty(
            f"every measured pixel is {_MOST_COUNTS}, the largest count: saturated?"
        )
    span = f"{near:g} to {far:g} m"
    if stats.is_empty:
        cause = _cause(stats.median, plane.dtype == np.uint16, sensor.unit_16u, near, far)
        return stats.empty(f"no pixel within {span}, median {stats.median:.4g} m: {cause}")
    if stats.low == stats.high:
        return stats.suspect(f"every measured pixel reads {stats.median:.4g} m: a frozen driver?")
    if stats.usable < FEW_SHARE * stats.valid:
        return stats.suspect(
            f"only {100 * stats.usable / stats.valid:.1f} % of the measured pixels are within "
            f"{span}, median {stats.median:.4g} m"
        )
    return stats


def _without_measurement(plane: Array) -> str:
    kinds = {"NaN": np.isnan(plane), "0": plane == 0, "+inf": np.isposinf(plane)}
    for name, mask in kinds.items():
        if mask.all():
            return f"every pixel is {name}: no measurement"
    shares = ", ".join(f"{share_of(mask)} {name}" for name, mask in kinds.items() if mask.any())
    return f"no pixel holds a measurement ({shares})"


def _cause(median_m: float, is_counts: bool, unit: float, near: float, far: float) -> str:
    if not is_counts and near <= median_m / 1000 <= far:
        return "millimetres? 32FC1 holds metres (REP 118)"
    if is_counts and near <= median_m / unit <= far:
        return "metres in 16UC1? set sensor.depth.unit_16u: 1.0"
    if median_m < near:
        return f"the checkpoint resolves no depth nearer than {near:g} m"
    return f"the checkpoint resolves no depth beyond {far:g} m; check sensor.depth.unit_16u"


def _grade(depth_m: NDArray[np.float32], encoding: DepthEncoding) -> NDArray[np.float32]:
    invalid = ~(depth_m > 0)
    near, far = encoding.min_m, encoding.max_m
    if encoding.representation is DepthRepresentation.INVERSE:
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.divide(np.float32(1), depth_m)
        near, far = 1 / far, 1 / near
    else:
        level = depth_m.copy()
    # Clipping first keeps +Inf finite; NaN stays and is blanked below.
    np.clip(level, np.float32(near), np.float32(far), out=level)
    level -= np.float32(near)
    level /= np.float32(far) - np.float32(near)
    level *= 1 - _FIRST_LEVEL
    level += _FIRST_LEVEL
    np.minimum(level, np.float32(1), out=level)
    np.copyto(level, 0, where=invalid)
    return level


def _camera(sensor: DepthSensor) -> Pinhole:
    if sensor.fx <= 0 or sensor.fy <= 0:
        raise EncodingError(
            f"depth x: HHA needs intrinsics, and fx, fy are {sensor.fx:g}, {sensor.fy:g} px; "
            "set sensor.depth.fx, fy, cx and cy from the camera's camera_info"
        )
    return Pinhole(fx=sensor.fx, fy=sensor.fy, cx=sensor.cx, cy=sensor.cy)
