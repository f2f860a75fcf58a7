"""Camera geometry: X onto RGB's grid, calibrations of resized images. NumPy and OpenCV only.

Images are rectified: lens distortion is not modelled. Pixel (0, 0) is the centre of the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.camera import Pinhole
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import Array, Events

Matrix = NDArray[np.float64]
_NEAREST_M = 1e-3
MAX_RATIO = 16
"""Focal lengths that differ more than this are taken for a mistake."""
_MARGIN = 1.1
_HALF = np.float32(0.5)
_BLOCK = 1 << 15
"""Points at a time; what is computed of them stays in the processor's cache."""


def pinhole(info: Any, height: int, width: int) -> Pinhole:
    """The camera that a sensor_msgs/CameraInfo describes, at the resolution of an image.

    Args:
        info: of rclpy or rosbags; `p` counts for rectified images, `k` where `p` is not set.
        height: rows of the image at hand.
        width: columns of the image at hand.

    Raises:
        EncodingError: when the camera is not calibrated.
    """
    k, p = (getattr(info, name, None) for name in ("k", "p"))
    values = [float(value) for value in (p if p is not None else [0.0] * 12)]
    if not values[0]:
        plain = [float(value) for value in (k if k is not None else [0.0] * 9)]
        values = [*plain[:3], 0.0, *plain[3:6], 0.0]
    if not (values[0] > 0 and values[5] > 0):
        raise EncodingError("camera_info: focal length is 0; calibrate the camera")
    left, top, full_width, full_height = _pictured(info)
    camera = Pinhole(values[0], values[5], values[2] - left, values[6] - top)
    return camera.scaled(width / full_width, height / full_height)


def calibration_fault(topic: str, info: Any) -> str:
    """What is wrong with a calibration that came on a topic, empty for nothing."""
    try:
        pinhole(info, 1, 1)
    except EncodingError as error:
        return f"'{topic}': {error}"
    return ""


def _pictured(info: Any) -> tuple[int, int, int, int]:
    """What of the sensor a camera's images show: left, top, width, height in unbinned px.

    Raises:
        EncodingError: when the calibration does not say.
    """
    roi = info.roi
    width, height = int(roi.width) or int(info.width), int(roi.height) or int(info.height)
    if not (width and height):
        raise EncodingError("camera_info: size is 0; the driver must set height and width")
    return int(roi.x_offset), int(roi.y_offset), width, height


def pose(extrinsics: Sequence[float]) -> tuple[Matrix, Matrix]:
    """Rotation (3, 3) and translation (3,) that take points of X's frame to RGB's.

    Args:
        extrinsics: x y z in metres, then the quaternion x y z w.
    """
    x, y, z, w = np.asarray(extrinsics[3:], np.float64) / np.linalg.norm(extrinsics[3:])
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    return rotation, np.asarray(extrinsics[:3], np.float64)


def plane_homography(
    rgb: Pinhole, x: Pinhole, rotation: Matrix, translation: Matrix, plane_m: float
) -> Matrix:
    """Pixel of X to pixel of RGB for points at depth `plane_m` of X; 0 is infinitely far."""
    motion = rotation.copy()
    if plane_m > 0:
        motion[:, 2] += translation / plane_m
    return np.asarray(rgb.matrix @ motion @ np.linalg.inv(x.matrix))


def fitted(image: Array, size: tuple[int, int]) -> Array:
    """A picture on a grid of `size` (rows, columns); the same one where it has that size."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))


def resized_ids(labels: Array, size: tuple[int, int]) -> Array:
    """Label ids on a grid of `size` (rows, columns), each pixel that of the nearest one."""
    if labels.shape == size:
        return labels
    return np.asarray(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


def warp(image: Array, homography: Matrix, height: int, width: int, linear: bool) -> Array:
    """An image on another grid; pixels that it does not reach are 0.

    Args:
        image: (h, w) or (h, w, C).
        homography: pixel of the image to pixel of the result.
        height: rows of the result.
        width: columns of the result.
        linear: False where values must not be mixed.
    """
    flags = cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST
    return cv2.warpPerspective(
        np.ascontiguousarray(image), homography, (width, height), None, flags
    )


def warp_events(events: Events, homography: Matrix, height: int, width: int) -> Events:
    """Events on another grid; those that fall outside are gone."""
    points = homography @ np.stack([events.x, events.y, np.ones(len(events))]).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns, rows = np.rint(points[:2] / points[2])
    inside = (points[2] > 0) & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return replace(
        events,
        x=columns[inside].astype(np.uint16),
        y=rows[inside].astype(np.uint16),
        t_ns=events.t_ns[inside],
        p=events.p[inside],
        width=width,
        height=height,
    )


class DepthRegistration:
    """Depth as RGB's camera would measure it: every point moved, the nearest one wins.

    What depends on calibrations alone is computed once. Points are collected on a grid that
    is no finer than the depth image, and one gather brings it to RGB's resolution, so that a finer
    RGB image has no holes and costs little more.

    Args:
        x: camera of the depth image.
        rgb: camera of the result.
        rotation: of X's frame in RGB's.
        translation: of X's frame in RGB's, in metres.
        shape: rows and columns of the depth image.
        size: rows and columns of the result.

    Raises:
        EncodingError: when one camera's focal length is more than `MAX_RATIO` times the other's.
    """

    def __init__(
        self,
        x: Pinhole,
        rgb: Pinhole,
        rotation: Matrix,
        translation: Matrix,
        shape: tuple[int, int],
        size: tuple[int, int],
    ) -> None:
        ratios = rgb.fx / x.fx, rgb.fy / x.fy
        if not all(1 / MAX_RATIO <= ratio <= MAX_RATIO for ratio in ratios):
            raise EncodingError(
                f"camera_info: focal lengths of {rgb.fx:g} px for RGB and {x.fx:g} px for X "
                f"differ more than {MAX_RATIO}-fold; check both calibrations"
            )
        # A little less dense than the points, which drift apart where the scene is slanted.
        across, down = (1.0 if ratio <= 1 else ratio * _MARGIN for ratio in ratios)
        self._grid = int(np.ceil(size[0] / down)), int(np.ceil(size[1] / across))
        # Pixel centres stay where they are, unlike in `Pinhole.scaled`.
        coarse = Pinhole(
            rgb.fx / across,
            rgb.fy / down,
            (rgb.cx + 0.5) / across - 0.5,
            (rgb.cy + 0.5) / down - 0.5,
        )
        rays = np.stack(
            np.broadcast_arrays(x.columns(shape[1])[None], x.rows(shape[0])[:, None], 1.0)
        ).reshape(3, -1)
        # A point at depth z falls on (u, v, w) = z * slopes + offsets, its pixel is (u/w, v/w).
        self._slopes = (coarse.matrix @ rotation @ rays).astype(np.float32)
        self._offsets = (coarse.matrix @ translation).astype(np.float32)
        self._gather = None
        if max(ratios) > 1:
            self._gather = np.ix_(
                ((np.arange(size[0]) + 0.5) / down).astype(np.intp),
                ((np.arange(size[1]) + 0.5) / across).astype(np.intp),
            )

    def apply(self, depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
        """Moves one image.

        Args:
            depth_m: (h, w) in metres; what is not finite or not positive is no measurement.

        Returns:
            float32 in metres, NaN where no point falls.
        """
        height, width = self._grid
        nearest = np.full(height * width, np.inf, np.float32)
        depth = depth_m.ravel()
        for first in range(0, len(depth), _BLOCK):
            block = slice(first, first + _BLOCK)
            self._collect(depth[block], self._slopes[:, block], nearest)
        nearest[np.isinf(nearest)] = np.nan
        moved = nearest.reshape(height, width)
        return moved if self._gather is None else moved[self._gather]

    def _collect(
        self, depth: NDArray[np.float32], slopes: NDArray[np.float32], nearest: NDArray[np.float32]
    ) -> None:
        height, width = self._grid
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            u, v, w = (
                slope * depth + offset for slope, offset in zip(slopes, self._offsets, strict=True)
            )
            columns, rows = np.floor(u / w + _HALF), np.floor(v / w + _HALF)
            inside = (depth > _NEAREST_M) & (depth < np.inf) & (w > _NEAREST_M)
            inside &= (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        places = rows[inside].astype(np.intp) * width + columns[inside].astype(np.intp)
        np.minimum.at(nearest, places, w[inside])


def fill_scaled_info(message: Any, info: Any, height: int, width: int) -> Any:
    """Fills a sensor_msgs/CameraInfo for an image that was resized; the header is left alone.

    The result describes the resized image as a whole: what the driver cut out or binned is worked
    into its matrices, so that it agrees with `pinhole`.

    Args:
        message: to be filled and returned.
        info: calibration of the image before.
        height: rows of the resized image.
        width: columns of the resized image.

    Raises:
        EncodingError: when the calibration has no size.
    """
    left, top, full_width, full_height = _pictured(info)
    sx, sy = width / full_width, height / full_height
    message.height, message.width = height, width
    message.distortion_model = info.distortion_model
    message.d, message.r = list(info.d), list(info.r)
    k, p = [float(value) for value in info.k], [float(value) for value in info.p]
    for matrix, centre_x, centre_y in ((k, 2, 5), (p, 2, 6)):
        if matrix[0]:  # a matrix that is not set stays so
            matrix[centre_x] -= left
            matrix[centre_y] -= top
    for index in (0, 2):
        k[index] *= sx
    for index in (4, 5):
        k[index] *= sy
    for index in (0, 2, 3):
        p[index] *= sx
    for index in (5, 6):
        p[index] *= sy
    message.k, message.p = k, p
    message.binning_x = message.binning_y = 0
    roi = message.roi
    roi.x_offset = roi.y_offset = roi.width = roi.height = 0
    roi.do_rectify = False
    return message
