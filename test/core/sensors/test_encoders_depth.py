"""Depth: units, invalid and far pixels, the two grey forms."""

import numpy as np
import pytest

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.images import read_image
from segrgbx_core.sensors.depth import DepthEncoding, DepthSensor, from_image, from_raw

INVERSE = DepthEncoding(min_m=1.0, max_m=21.0)
METRIC = DepthEncoding(representation="metric", min_m=1.0, max_m=21.0)
SENSOR = DepthSensor()
FIRST = 1 / 255


def level(depth_m, encoding):
    return from_raw(np.array([[depth_m]], np.float32), encoding, SENSOR)[0, 0, 0]


def test_near_is_bright_when_inverse_and_far_is_bright_when_metric():
    assert level(1.0, INVERSE) == 1
    assert level(21.0, INVERSE) == pytest.approx(FIRST)
    assert level(2.0, INVERSE) == pytest.approx(FIRST + (1 - FIRST) * (1 / 2 - 1 / 21) / (20 / 21))
    assert level(1.0, METRIC) == pytest.approx(FIRST)
    assert level(21.0, METRIC) == 1
    assert level(11.0, METRIC) == pytest.approx(FIRST + (1 - FIRST) / 2)


@pytest.mark.parametrize("encoding", [INVERSE, METRIC])
def test_outside_the_range_is_clipped_but_never_taken_for_missing(encoding):
    assert level(0.2, encoding) == level(1.0, encoding)
    assert level(500.0, encoding) == level(21.0, encoding)


@pytest.mark.parametrize("encoding", [INVERSE, METRIC])
def test_no_measurement_is_zero_and_plus_infinity_is_far(encoding):
    """REP-117: NaN invalid, -Inf too near to measure, +Inf beyond range; REP-118: 0 invalid."""
    for depth_m in (np.nan, -np.inf, 0.0, -1.0):
        assert level(depth_m, encoding) == 0
    assert level(np.inf, encoding) == level(21.0, encoding) > 0


@pytest.mark.parametrize("encoding", [INVERSE, METRIC])
def test_counts_and_metres_give_one_picture(rng, encoding):
    counts = rng.integers(0, 30000, (24, 32)).astype(np.uint16)
    metres = (counts * 0.001).astype(np.float32)
    want = from_raw(metres, encoding, SENSOR)
    np.testing.assert_allclose(from_raw(counts, encoding, SENSOR), want, atol=1e-6)
    fine = DepthSensor(unit_16u=0.0001)
    tenth = from_raw((metres / 10).astype(np.float32), encoding, SENSOR)
    np.testing.assert_allclose(from_raw(counts, encoding, fine), tenth, atol=1e-6)


def test_eight_bits_are_no_raw_depth():
    with pytest.raises(EncodingError, match=r"uint16, float32, float64; publish 16UC1"):
        from_raw(np.zeros((4, 4), np.uint8), INVERSE, SENSOR)


def test_hha_without_intrinsics_is_refused():
    with pytest.raises(EncodingError, match=r"sensor\.depth\.fx"):
        from_raw(np.ones((4, 4), np.float32), DepthEncoding(representation="hha"), SENSOR)


def test_hha_pictures_keep_their_channel_order():
    disparity_height_angle = np.array([[[255, 128, 0]]], np.uint8)
    np.testing.assert_allclose(
        from_image(disparity_height_angle)[0, 0], [1, 128 / 255, 0], atol=1e-7
    )


def test_real_kinect_frame(samples_dir):
    counts = read_image(samples_dir / "kinect2_sample" / "depth.png")
    image = from_raw(counts, DepthEncoding(), DepthSensor(unit_16u=1e-4))
    assert image.shape == (424, 512, 3)
    np.testing.assert_array_equal(image[..., 0] == 0, counts == 0)
