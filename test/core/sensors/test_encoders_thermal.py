"""Thermal: percentiles, calibration, and what has no temperature."""

import numpy as np
import pytest

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.sensors.thermal import (
    ThermalEncoding,
    ThermalSensor,
    from_image,
    from_raw,
    percentile_limits,
)

PERCENTILE = ThermalEncoding()
FIXED = ThermalEncoding(normalization="fixed", min_c=0.0, max_c=40.0)
PASS = ThermalEncoding(normalization="passthrough8")
SENSOR = ThermalSensor()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shares", [(1, 99), (0, 100), (25.5, 60)])
def test_percentiles_of_integers_are_exact(rng, dtype, shares):
    x = rng.integers(20, 220, (37, 53)).astype(dtype)
    want = np.percentile(x, shares, method="inverted_cdf")
    assert percentile_limits(x, *shares) == tuple(want)


@pytest.mark.parametrize("outlier", [None, 1e9, -1e9, np.nan, np.inf, -np.inf])
def test_percentiles_of_floats_do_not_suffer_from_outliers(rng, outlier):
    x = rng.normal(20, 5, (120, 160)).astype(np.float32)
    if outlier is not None:
        x[3, 4] = outlier
    want = np.percentile(x[np.isfinite(x)], (1, 99), method="inverted_cdf")
    np.testing.assert_allclose(percentile_limits(x, 1, 99), want, atol=0.03)


def test_percentile_ends_are_black_and_white_and_order_is_kept():
    x = np.arange(0, 1000, dtype=np.uint16).reshape(20, 50)
    image = from_raw(x, PERCENTILE, SENSOR)[..., 0].ravel()
    assert (image[:9] == 0).all()
    assert (image[990:] == 1).all()
    assert (np.diff(image[9:989]) > 0).all()


def test_counts_and_degrees_give_one_picture(rng):
    counts = rng.integers(28000, 31000, (48, 64)).astype(np.uint16)
    degrees = (counts * 0.01 - 273.15).astype(np.float32)
    for encoding in (PERCENTILE, FIXED):
        by_counts = from_raw(counts, encoding, SENSOR)
        np.testing.assert_allclose(by_counts, from_raw(degrees, encoding, SENSOR), atol=2e-3)


def test_fixed_limits_follow_the_sensor():
    optris = ThermalSensor(raw_scale=0.1, raw_offset=-100.0)
    x = np.array([[900, 1000, 1200, 1400, 1500]], np.uint16)
    np.testing.assert_allclose(from_raw(x, FIXED, optris)[0, :, 0], [0, 0, 0.5, 1, 1], atol=1e-6)


def test_pixels_without_a_value_are_black():
    x = np.array([[10, 20, np.nan, 30, np.inf, -np.inf]], np.float32)
    for encoding in (FIXED, ThermalEncoding(percentiles=(0, 100))):
        image = from_raw(x, encoding, SENSOR)[0, :, 0]
        assert image[2] == 0
        assert image[4] == 1
        assert image[5] == 0


def test_eight_bits_pass_through_as_the_image_door_sees_them(rng):
    x = rng.integers(0, 256, (9, 11)).astype(np.uint8)
    np.testing.assert_array_equal(from_raw(x, PASS, SENSOR), from_image(x))


@pytest.mark.parametrize(
    ("x", "encoding", "message"),
    [
        (np.zeros((4, 4), np.uint8), FIXED, "no temperatures"),
        (np.zeros((4, 4), np.uint16), PASS, "pass through"),
        (np.zeros((4, 4, 3), np.uint8), PERCENTILE, r"shape \(4, 4, 3\).*x_form to image"),
    ],
)
def test_what_cannot_be_is_refused(x, encoding, message):
    with pytest.raises(EncodingError, match=message):
        from_raw(x, encoding, SENSOR)
