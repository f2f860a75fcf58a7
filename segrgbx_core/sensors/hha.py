"""HHA: depth as disparity, height above the ground and angle with gravity.

Gupta, Girshick, Arbelaez and Malik (ECCV 2014) turn a depth image into three quantities that mean
the same wherever the camera is and however it is tilted. In data sets' pictures, in file order:

- red: disparity, 31000 / z with z in cm and not below 100 cm,
- green: height above the lowest point in cm,
- blue: angle between surface normal and gravity in degrees, plus 38,

rounded and clipped to 8 bits. Gravity is not measured but searched for (Gupta, Arbelaez and Malik,
CVPR 2013): starting from the camera's own downward axis, take the direction to which the normals
within some angle are most parallel and those near 90 degrees to it most perpendicular, and repeat,
five times with 45 degrees and five times with 15.

A normal is that of the plane n . X = 1 that fits the points of a square window best. Divided by z
this reads n . (x/z, y/z, 1) = 1/z: least squares in inverse depth, whose sums are box filters.
Windows of 21 x 21 pixels serve the search, where noise counts most; 7 x 7 the angle.

On the NYUDepthV2 frame of the tests the picture equals the data set's own in every pixel.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.camera import Pinhole
from segrgbx_core.base.samples import Array

_Plane = NDArray[np.float64]

_FINE_RADIUS = 3
_COARSE_RADIUS = 10
_SEARCH_DEGREES = (45.0,) * 5 + (15.0,) * 5
_NEAREST_CM = 100.0
_DISPARITY = 31000.0
_CAMERA_HEIGHT_CM = 130.0
_GROUND_IN_VIEW_CM = 90.0
_ANGLE_OFFSET = 128.0 - 90.0
_UNKNOWN_ANGLE = 180.0
_BAND_PIXELS = 16384


def hha_image(
    depth_m: Array, camera: Pinhole, ground_percentile: float = 0.0
) -> NDArray[np.uint8]:
    """The HHA picture of a depth image.

    Args:
        depth_m: float (h, w), metres along the optical axis; NaN, infinite and <= 0 are no
            measurement.
        camera: of the depth image. NYUDepthV2 counts pixels from (1, 1): subtract 1 from the cx
            and cy that it publishes.
        ground_percentile: percentile of all heights that counts as the ground. 0, the lowest
            point, is what data sets have; one false point below the floor then lifts everything.

    Returns:
        uint8 (h, w, 3): disparity, height, angle; pixels without a measurement are 0.
    """
    depth_cm = np.asarray(depth_m, np.float64) * 100
    is_valid = np.isfinite(depth_cm) & (depth_cm > 0)
    if not is_valid.any():
        return np.zeros((*depth_cm.shape, 3), np.uint8)
    depth_cm = np.where(is_valid, depth_cm, np.inf)
    height, width = depth_cm.shape
    x, y = np.meshgrid(camera.columns(width), camera.rows(height))
    products = _plane_products(depth_cm, x, y)
    right, down, ahead = search_gravity(_normals(products, _COARSE_RADIUS))

    rise = np.where(is_valid, depth_cm, 0) * -(right * x + down * y + ahead)
    lowest = float(np.percentile(rise[is_valid], ground_percentile))
    if lowest > -_GROUND_IN_VIEW_CM:
        lowest = -_CAMERA_HEIGHT_CM  # no ground in view: take the height a camera is carried at
    rise -= lowest

    normals = _normals(products, _FINE_RADIUS)
    cosine = right * normals[0] + down * normals[1] + ahead * normals[2]
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1, out=cosine)))
    np.copyto(angle, _UNKNOWN_ANGLE, where=np.isnan(angle))
    angle += _ANGLE_OFFSET

    hha = cv2.merge([_DISPARITY / np.maximum(depth_cm, _NEAREST_CM), rise, angle])
    np.copyto(hha, 0, where=~is_valid[..., None])
    return np.asarray(np.rint(np.clip(hha, 0, 255, out=hha)).astype(np.uint8))


def search_gravity(normals: _Plane) -> NDArray[np.float64]:
    """The direction of gravity in camera axes (x right, y down, z forward).

    Args:
        normals: unit vectors of surfaces in view, (3, ...); NaN ones do not count.

    Returns:
        (3,) unit vector; the camera's y axis where no normal is known.
    """
    known = normals.reshape(3, -1)
    known = known[:, np.isfinite(known[0])]
    gravity = np.array([0.0, 1.0, 0.0])
    if known.shape[1] == 0:
        return gravity
    moments = known @ known.T
    # One flat wall leaves every direction within it equally good: stay with the camera's axis.
    moments -= 1e-9 * known.shape[1] * np.outer(gravity, gravity)
    for degrees in _SEARCH_DEGREES:
        cosine = np.abs(gravity @ known)
        # Walls are most of what is in view: their sum is found faster by summing all but them.
        is_no_wall = cosine >= np.sin(np.radians(degrees))
        no_wall, cosine = known.compress(is_no_wall, axis=1), cosine.compress(is_no_wall)
        floor = no_wall.compress(cosine > np.cos(np.radians(degrees)), axis=1)
        _, directions = np.linalg.eigh(moments - no_wall @ no_wall.T - floor @ floor.T)
        gravity = directions[:, 0] * (1.0 if directions[:, 0] @ gravity >= 0 else -1.0)
    return gravity


def _plane_products(depth: _Plane, x: _Plane, y: _Plane) -> list[_Plane]:
    """What the least-squares sums add up, per pixel; 0 where depth is infinite."""
    seen = np.isfinite(depth).astype(np.float64)
    inverse = 1 / depth
    sx, sy = x * seen, y * seen
    return [x * sx, x * sy, sx, y * sy, sy, seen, x * inverse, y * inverse, inverse]


def _normals(products: list[_Plane], radius: int) -> _Plane:
    """Unit normals (3, h, w), away from the camera; NaN where points do not span a plane."""
    size = (2 * radius + 1, 2 * radius + 1)
    sums = [
        cv2.boxFilter(part, cv2.CV_64F, size, normalize=False, borderType=cv2.BORDER_CONSTANT)
        for part in products
    ]
    height, width = sums[0].shape
    normals = np.empty((3, height, width))
    rows = max(1, _BAND_PIXELS // width)  # bands that stay in the processor's cache
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        normals[:, band] = _solve([part[band] for part in sums])
    return normals


def _solve(sums: list[_Plane]) -> _Plane:
    """Solves the symmetric 3 x 3 normal equations by cofactors, for every pixel at once."""
    xx, xy, x1, yy, y1, count, rx, ry, r1 = sums
    a, b, c = yy * count - y1 * y1, x1 * y1 - xy * count, xy * y1 - x1 * yy
    d, e, f = xx * count - x1 * x1, xy * x1 - xx * y1, xx * yy - xy * xy
    normal = np.stack(
        [a * rx + b * ry + c * r1, b * rx + d * ry + e * r1, c * rx + e * ry + f * r1]
    )
    determinant = xx * a + xy * b + x1 * c
    # Points on one line leave a determinant of rounding errors only.
    is_flat = (count < 2.5) | (determinant <= 1e-14 * xx * yy * count)
    with np.errstate(divide="ignore", invalid="ignore"):
        normal /= np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    np.copyto(normal, np.nan, where=is_flat)
    return normal
