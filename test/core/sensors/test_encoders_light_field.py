"""Light field: the same view from every layout."""

import numpy as np
import pytest

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.sensors.light_field import (
    LightFieldEncoding,
    LightFieldSensor,
    from_image,
    from_raw,
)

ENCODING = LightFieldEncoding()


def sensor(layout, rows=2, cols=3, view_index=0):
    return LightFieldSensor(layout=layout, rows=rows, cols=cols, view_index=view_index)


def grid(rng, dtype=np.uint8):
    """Six views as a stack and as a 2 x 3 grid."""
    stack = rng.integers(0, 256, (6, 5, 7, 3)).astype(dtype)
    return stack, stack.reshape(2, 3, 5, 7, 3).swapaxes(1, 2).reshape(10, 21, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("view", range(6))
def test_layouts_agree(rng, dtype, view):
    stack, tiles = grid(rng, dtype)
    want = from_image(stack[view])
    np.testing.assert_array_equal(from_raw(stack[view], ENCODING, sensor("single")), want)
    for x, layout in ((stack, "stack"), (tiles, "tiled")):
        image = from_raw(x, ENCODING, sensor(layout, view_index=view))
        np.testing.assert_array_equal(image, want)


def test_grey_views_are_copied(rng):
    grey = rng.integers(0, 256, (4, 6)).astype(np.uint8)
    image = from_raw(grey, ENCODING, sensor("tiled", view_index=5))
    np.testing.assert_array_equal(image, from_image(grey[2:, 4:]))


@pytest.mark.parametrize(
    ("shape", "facts", "message"),
    [
        ((10, 21, 3), sensor("stack"), "does not fit layout stack"),
        ((6, 5, 7, 3), sensor("single"), "layout to stack"),
        ((6, 5, 7, 3), sensor("tiled"), "layout to stack"),
        ((10, 20, 3), sensor("tiled"), "20x10 pixels do not divide into 3x2 views"),
        ((10, 21, 3), sensor("tiled", view_index=6), "view 6 does not exist; views are 0 to 5"),
        ((6, 5, 7, 3), sensor("stack", view_index=9), "view 9 does not exist; views are 0 to 5"),
        ((1, 2, 3), sensor("tiled"), "do not divide"),
    ],
)
def test_shape_and_layout_must_agree(shape, facts, message):
    with pytest.raises(EncodingError, match=message):
        from_raw(np.zeros(shape, np.uint8), ENCODING, facts)
