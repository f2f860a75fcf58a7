"""Labelled point clouds of depth pairs: what `points` publishes. NumPy only.

Organised like the mask, so that point (v, u) belongs to pixel (v, u), as Nav2's layers expect.
The bytes are laid out here: only some releases of sensor_msgs_py write mixed types in rows.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.camera import Pinhole, depth_metres
from segrgbx_core.base.samples import Array, Events, RgbxSample, XForm
from segrgbx_ros.messages.geometry import fitted, pinhole

POINT = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "label", "confidence"],
        "formats": ["f4", "f4", "f4", "f4", "u2", "u1"],
        "offsets": [0, 4, 8, 12, 16, 18],
        "itemsize": 20,
    }
)
"""One point: metres in RGB's optical frame, packed colour, class id, 255 = certain.

A byte of padding keeps every field on a multiple of its size, as readers of plain structs expect.
"""
_DATATYPES = {"u1": 2, "u2": 4, "f4": 7}


def metres(depth: Array, unit_16u: float) -> NDArray[np.float32]:
    """Raw depth in metres, NaN where nothing was measured.

    Args:
        depth: (h, w), uint16 counts or float metres.
        unit_16u: metres per count.
    """
    plane = depth.reshape(depth.shape[:2])
    depth_m = depth_metres(plane, unit_16u)
    depth_m[~(np.isfinite(depth_m) & (depth_m > 0))] = np.nan
    return depth_m


def sample_points(
    sample: RgbxSample,
    labels: Array,
    confidence: NDArray[np.uint8],
    rgb_info: Any,
    unit_16u: float,
) -> Array | None:
    """The points of an answer to a depth sample; see `labelled_points`.

    Args:
        sample: what was asked.
        labels: published ids (H, W).
        confidence: uint8 (H, W).
        rgb_info: calibration of RGB.
        unit_16u: metres per count of depth.

    Returns:
        None where RGB went alone.

    Raises:
        EncodingError: when the camera is not calibrated.
    """
    if isinstance(sample.x, Events) or sample.x_form is not XForm.RAW:
        return None
    camera = pinhole(rgb_info, *labels.shape)
    rgb = fitted(sample.rgb, labels.shape)
    return labelled_points(metres(sample.x, unit_16u), camera, rgb, labels, confidence)


def labelled_points(
    depth_m: NDArray[np.float32],
    camera: Pinhole,
    rgb: NDArray[np.uint8],
    labels: Array,
    confidence: NDArray[np.uint8],
) -> Array:
    """One point per pixel of RGB.

    Args:
        depth_m: (h, w) along the optical axis, of RGB's field of view; NaN without measurement.
        camera: RGB's, at RGB's resolution.
        rgb: uint8 (H, W, 3).
        labels: published ids (H, W).
        confidence: uint8 (H, W).

    Returns:
        `POINT` (H, W); x, y, z are NaN where depth is.
    """
    height, width = labels.shape
    if depth_m.shape != labels.shape:
        depth_m = cv2.resize(depth_m, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    points = np.zeros((height, width), POINT)  # the padding, too
    points["x"] = depth_m * camera.columns(width).astype(np.float32)
    points["y"] = depth_m * camera.rows(height).astype(np.float32)[:, None]
    points["z"] = depth_m
    # The old convention of point clouds: 0x00RRGGBB, its bits read as a float.
    channels = rgb.astype(np.uint32)
    packed = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
    points["rgb"] = packed.view(np.float32)
    points["label"] = labels
    points["confidence"] = confidence
    return points


def cloud_fields(field_type: Any, points: Array) -> dict[str, Any]:
    """The fields of a sensor_msgs/PointCloud2 beside the header; `data` is uint8.

    Args:
        field_type: class of sensor_msgs/PointField.
        points: `POINT` (H, W).
    """
    height, width = points.shape
    return {
        "height": height,
        "width": width,
        "fields": [
            field_type(name=name, offset=offset, datatype=_DATATYPES[kind.str[1:]], count=1)
            for name, (kind, offset, *_) in (POINT.fields or {}).items()
        ],
        "is_bigendian": sys.byteorder == "big",
        "point_step": POINT.itemsize,
        "row_step": POINT.itemsize * width,
        "data": np.frombuffer(points.tobytes(), np.uint8),
        "is_dense": False,
    }


def fill_cloud(message: Any, field_type: Any, points: Array) -> Any:
    """Fills a sensor_msgs/PointCloud2 of rclpy; the header is left alone; see `cloud_fields`."""
    fields = cloud_fields(field_type, points)
    data = array("B")  # rclpy copies any other type element by element
    data.frombytes(fields.pop("data").tobytes())
    for name, value in fields.items():
        setattr(message, name, value)
    message.data = data
    return message
