"""Light field: one sub-aperture view becomes the X image.

A light-field camera sees the scene through a grid of slightly shifted apertures. The paper uses
one extra view, the first (`1_1` of UrbanLF's 9 x 9), beside the centre view that serves as RGB;
parallax between the two carries the geometry. A view is an ordinary colour picture.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import Array
from segrgbx_core.sensors.content import XContent, picture_content
from segrgbx_core.sensors.picture import XImage, from_picture, require_array


class LightFieldLayout(str, Enum):
    """How the driver delivers views."""

    SINGLE = "single"
    """One view, (h, w, 3)."""
    TILED = "tiled"
    """All views side by side in one image, row by row."""
    STACK = "stack"
    """All views behind each other, (V, h, w, 3)."""


class LightFieldEncoding(Config):
    """How a view becomes the X image: as it is; nothing to choose."""


class LightFieldSensor(Config):
    """Facts about the light-field driver."""

    layout: LightFieldLayout = option(
        LightFieldLayout.SINGLE, doc="one view, a grid of views in one image, or a stack of views"
    )
    rows: int = option(9, doc="rows of the grid (tiled)", low=1, high=64)
    cols: int = option(9, doc="columns of the grid (tiled)", low=1, high=64)
    view_index: int = option(
        0, doc="which view serves as X, counted row by row from the top left (tiled, stack)", low=0
    )


def from_raw(x: Array, encoding: LightFieldEncoding, sensor: LightFieldSensor) -> XImage:  # noqa: ARG001
    """The X image of what a light-field driver publishes.

    Args:
        x: uint8 or uint16: (h, w, 3) or (h, w) for `single`, (rows * h, cols * w, 3) for `tiled`,
            (V, h, w, 3) for `stack`; RGB order.
        encoding: nothing yet.
        sensor: layout and which view to take.

    Returns:
        float32 (h, w, 3) in [0, 1].

    Raises:
        EncodingError: where shape and layout disagree or the view does not exist.
    """
    return from_image(_view(x, sensor))


def content(x: Array, encoding: LightFieldEncoding, sensor: LightFieldSensor) -> XContent:  # noqa: ARG001
    """Content of the view that serves as X; arguments and errors as of `from_raw`."""
    return picture_content(_view(x, sensor), "light_field")


def _view(x: Array, sensor: LightFieldSensor) -> Array:
    require_array(x, "light_field")
    if sensor.layout is LightFieldLayout.STACK:
        return _view_of_stack(x, sensor)
    if x.ndim not in (2, 3):
        raise EncodingError(
            f"light_field x: shape {x.shape} does not fit layout {sensor.layout.value}; "
            "set sensor.light_field.layout to stack for (views, h, w, 3)"
        )
    return x if sensor.layout is LightFieldLayout.SINGLE else _view_of_tiles(x, sensor)


def from_image(x: Array) -> XImage:
    """The X image of one view, (h, w, 3) or (h, w); see `from_picture`."""
    return from_picture(x, "light_field")


def _view_of_stack(x: Array, sensor: LightFieldSensor) -> Array:
    if x.ndim != 4:
        raise EncodingError(
            f"light_field x: shape {x.shape} does not fit layout stack; expected "
            "(views, h, w, 3); set sensor.light_field.layout to single or tiled"
        )
    _require_view(sensor, len(x))
    return np.asarray(x[sensor.view_index])


def _view_of_tiles(x: Array, sensor: LightFieldSensor) -> Array:
    height, width = x.shape[0] // sensor.rows, x.shape[1] // sensor.cols
    if height * sensor.rows != x.shape[0] or width * sensor.cols != x.shape[1]:
        raise EncodingError(
            f"light_field x: {x.shape[1]}x{x.shape[0]} pixels do not divide into "
            f"{sensor.cols}x{sensor.rows} views; check sensor.light_field.rows and cols"
        )
    _require_view(sensor, sensor.rows * sensor.cols)
    row, col = divmod(sensor.view_index, sensor.cols)
    return x[row * height : (row + 1) * height, col * width : (col + 1) * width]


def _require_view(sensor: LightFieldSensor, count: int) -> None:
    if sensor.view_index >= count:
        raise EncodingError(
            f"light_field x: view {sensor.view_index} does not exist; views are 0 to {count - 1}; "
            "set sensor.light_field.view_index"
        )
