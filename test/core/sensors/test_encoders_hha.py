"""HHA against the data set's own picture and against scenes whose geometry is known."""

import numpy as np
import pytest

from segrgbx_core.base.camera import Pinhole
from segrgbx_core.base.images import read_image
from segrgbx_core.sensors.depth import DepthEncoding, DepthSensor, from_image, from_raw
from segrgbx_core.sensors.hha import hha_image, search_gravity

NYU = Pinhole(518.85790117450188, 519.46961112127485, 324.58244941119034, 252.73616633400465)
SMALL = Pinhole(200.0, 200.0, 160.0, 120.0)


def room(pitch, roll=0.0, camera_height=1.5, wall=4.0):
    """Depth of a floor and a wall seen by a camera that looks down by pitch, and gravity."""
    y, x = np.mgrid[:240, :320]
    rays = np.stack([(x - 160) / 200, (y - 120) / 200, np.ones(x.shape)], axis=-1)
    gravity = np.array([0, np.cos(pitch), np.sin(pitch)])
    ahead = np.array([0, -np.sin(pitch), np.cos(pitch)])
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    gravity, ahead = turn @ gravity, turn @ ahead
    with np.errstate(divide="ignore"):
        floor = camera_height / np.maximum(rays @ gravity, 0)
        return np.minimum(floor, wall / np.maximum(rays @ ahead, 0)), gravity, floor


@pytest.mark.parametrize("pitch", [0, 10, 25])
@pytest.mark.parametrize("roll", [0, -12])
def test_a_tilted_camera_sees_the_same_room(pitch, roll):
    depth_m, _, floor = room(np.radians(pitch), np.radians(roll))
    disparity, height, angle = np.moveaxis(hha_image(depth_m, SMALL).astype(int), -1, 0)
    np.testing.assert_array_equal(
        disparity, np.rint(np.clip(310 / np.maximum(depth_m, 1), 0, 255))
    )
    inner = np.zeros(depth_m.shape, bool)
    inner[8:-8, 8:-8] = True
    on_floor = (depth_m == floor) & inner
    assert np.median(angle[on_floor]) == 38  # normal along gravity
    assert np.median(angle[~on_floor & inner]) == 128  # normal across gravity
    assert np.abs(height[on_floor]).max() <= 3


def test_gravity_is_found_within_half_a_degree(rng):
    want = np.array([0.1, 0.9, 0.3]) / np.linalg.norm([0.1, 0.9, 0.3])
    side = np.cross(want, [0, 0, 1.0])
    side /= np.linalg.norm(side)
    planes = np.repeat([want, side, np.cross(want, side)], 2000, axis=0)
    normals = planes + rng.normal(0, 0.05, planes.shape)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals[::50] = np.nan
    assert search_gravity(normals.T) @ want > np.cos(np.radians(0.5))


def test_one_flat_wall_leaves_gravity_at_the_cameras_axis():
    picture = hha_image(np.full((60, 80), 2.0), SMALL)
    assert set(np.unique(picture[..., 2])) == {128}
    rows = picture[:, 0, 1].astype(int)
    assert (np.diff(rows) <= 0).all()
    np.testing.assert_array_equal(picture[..., 1], np.repeat(picture[:, :1, 1], 80, axis=1))


def test_holes_are_black_and_do_not_disturb_their_surroundings():
    depth_m, _, _ = room(np.radians(10))
    holey = depth_m.copy()
    holey[60:90, 100:140] = np.nan
    holey[200, :] = 0
    holey[:, 300] = np.inf
    whole, picture = hha_image(depth_m, SMALL).astype(int), hha_image(holey, SMALL).astype(int)
    is_hole = ~(np.isfinite(holey) & (holey > 0))
    assert (picture[is_hole] == 0).all()
    assert (np.abs(picture - whole).max(axis=-1)[~is_hole] <= 1).mean() > 0.97


def test_one_false_point_below_the_floor_lifts_nothing_with_a_percentile():
    depth_m, _, floor = room(np.radians(10))
    whole = hha_image(depth_m, SMALL, ground_percentile=1.0).astype(int)
    depth_m[230, 40:43] *= 2
    picture = hha_image(depth_m, SMALL, ground_percentile=1.0).astype(int)
    assert np.median(np.abs(picture - whole)[..., 1]) <= 1
    lifted = hha_image(depth_m, SMALL).astype(int)
    assert np.median((lifted - whole)[..., 1][depth_m == floor]) > 50


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (7, 5)])
@pytest.mark.parametrize("value", [0.0, 2.0, 1e-30, 1e30, np.nan, np.inf])
def test_tiny_and_strange_images_are_survived(size, value):
    picture = hha_image(np.full(size, value), SMALL)
    assert picture.shape == (*size, 3)
    assert picture.dtype == np.uint8


def test_real_frame_equals_the_data_sets_own_hha(samples_dir):
    counts = read_image(samples_dir / "nyu_hha" / "0.png")
    want = read_image(samples_dir / "nyu_hha" / "matlab_hha.png")
    picture = hha_image(counts / 1e4, NYU)
    difference = np.abs(picture.astype(int) - want)
    assert difference.max() <= 1
    assert (difference == 0).mean(axis=(0, 1)).min() >= 0.9999  # measured: 1 in all channels

    sensor = DepthSensor(unit_16u=1e-4, fx=NYU.fx, fy=NYU.fy, cx=NYU.cx, cy=NYU.cy)
    x_image = from_raw(counts, DepthEncoding(representation="hha"), sensor)
    np.testing.assert_allclose(x_image, from_image(want), atol=1 / 255 + 1e-6)


def test_real_frame_with_missing_pixels_agrees_where_there_is_depth(samples_dir):
    folder = samples_dir / "nyu_hha"
    is_measured = read_image(folder / "0_raw.png") > 0
    counts = read_image(folder / "0.png")
    want = read_image(folder / "hha.png").astype(int)[is_measured]
    holey = np.where(is_measured, counts / 1e4, np.nan)
    difference = np.abs(hha_image(holey, NYU)[is_measured] - want)
    assert difference[:, 0].max() == 0
    # Its height starts at the lowest pixel of the filled image, which is no measurement.
    assert difference[:, 1].max() <= 4
    assert (difference[:, 2] <= 1).mean() > 0.9999
