"""Polarization: Stokes parameters, mosaics, mirrors."""

import numpy as np
import pytest

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.images import read_image
from segrgbx_core.sensors.polarization import (
    ANGLES,
    PolarizationEncoding,
    PolarizationRepresentation,
    PolarizationSensor,
    _mean_of_colours,
    flip_horizontally,
    from_raw,
)

STOKES = PolarizationEncoding()
AOLP = PolarizationEncoding(representation="aolp")
DOLP = PolarizationEncoding(representation="dolp")
FULL = PolarizationEncoding(full_resolution=True)
MOSAIC = PolarizationSensor()
CHANNELS = PolarizationSensor(layout="channels4")
PAIR = PolarizationSensor(layout="aolp_dolp")


def light(aolp, dolp, s0=200.0):
    """Intensities at 0, 45, 90, 135 degrees of light with known polarization, float (..., 4)."""
    aolp, dolp = np.broadcast_arrays(np.asarray(aolp, float), np.asarray(dolp, float))
    angles = np.radians(ANGLES)
    return s0 / 2 * (1 + dolp[..., None] * np.cos(2 * (aolp[..., None] - angles)))


def mosaic_of(channels, pattern=(90, 45, 135, 0)):
    height, width = channels.shape[:2]
    mosaic = np.zeros((2 * height, 2 * width), channels.dtype)
    for place, angle in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = channels[..., ANGLES.index(angle)]
    return mosaic


def known(shape=(6, 8)):
    aolp = np.linspace(-np.pi / 2 + 0.01, np.pi / 2, shape[0] * shape[1]).reshape(shape)
    return aolp, np.linspace(0.1, 1, aolp.size).reshape(shape)


@pytest.mark.parametrize(
    ("aolp", "colour"), [(0, (0.5, 1)), (90, (0.5, 0)), (45, (1, 0.5)), (-45, (0, 0.5))]
)
def test_sine_and_cosine_of_twice_the_angle(aolp, colour):
    x = light(np.full((2, 2), np.radians(aolp)), 0.6).round().astype(np.uint8)
    pixel = from_raw(x, STOKES, CHANNELS)[0, 0]
    np.testing.assert_allclose(pixel, (0.6, *colour), atol=0.01)


def test_all_layouts_agree():
    aolp, dolp = known()
    channels = light(aolp, dolp, 50000.0).round().astype(np.uint16)
    pair = np.stack([aolp, dolp], axis=-1).astype(np.float32)
    colour = np.repeat(channels[..., None], 3, axis=-1)
    for encoding in (STOKES, AOLP, DOLP):
        want = from_raw(pair, encoding, PAIR)
        for x, sensor in (
            (channels, CHANNELS), (mosaic_of(channels), MOSAIC), (colour, CHANNELS),
            (mosaic_of(channels)[..., None], MOSAIC),
        ):  # fmt: skip
            np.testing.assert_allclose(from_raw(x, encoding, sensor), want, atol=1e-3)
    np.testing.assert_allclose(from_raw(pair, AOLP, PAIR)[..., 0], aolp / np.pi + 0.5, atol=1e-6)
    np.testing.assert_allclose(from_raw(pair, DOLP, PAIR)[..., 0], dolp, atol=1e-6)


def test_the_pattern_is_the_sensors():
    channels = light(*known()).astype(np.float32) / 255
    pattern = (0, 45, 135, 90)
    x = mosaic_of(channels, pattern)
    want = from_raw(channels, STOKES, CHANNELS)
    np.testing.assert_allclose(from_raw(x, STOKES, PolarizationSensor(pattern=pattern)), want)
    assert np.abs(from_raw(x, STOKES, MOSAIC) - want).max() > 0.1


def test_differences_do_not_wrap_in_eight_bits():
    x = np.zeros((2, 2, 4), np.uint8)
    x[..., :] = (10, 130, 250, 130)  # I0 - I90 is -240
    pixel = from_raw(x, STOKES, CHANNELS)[0, 0]
    np.testing.assert_allclose(pixel, (240 / 260, 0.5, 0), atol=1e-6)


def test_any_multiple_of_pi_may_be_added():
    aolp, dolp = known()
    for encoding in (STOKES, AOLP):
        pair, turned = (np.stack([aolp + k * np.pi, dolp], -1).astype(np.float32) for k in (0, -3))
        np.testing.assert_allclose(
            from_raw(turned, encoding, PAIR), from_raw(pair, encoding, PAIR), atol=1e-5
        )


def test_dark_and_unpolarized_pixels_have_no_angle():
    dark = light(np.full((1, 1), 0.3), 1.0, s0=4.0).round().astype(np.uint8)
    assert from_raw(dark, STOKES, CHANNELS)[0, 0].tolist() == [0, 0.5, 0.5]
    assert from_raw(dark, AOLP, CHANNELS)[0, 0].tolist() == [0.5, 0.5, 0.5]
    plain = np.full((1, 1, 4), 90, np.uint8)
    assert from_raw(plain, STOKES, CHANNELS)[0, 0].tolist() == [0, 0.5, 0.5]
    pair = np.array([[[0.4, 0.0], [np.nan, 0.5], [0.5, np.nan]]], np.float32)
    assert from_raw(pair, STOKES, PAIR).tolist() == [[[0, 0.5, 0.5]] * 3]


def test_full_scale_of_twelve_bits_decides_what_is_dark():
    x = light(np.full((1, 1), 0.3), 0.5, s0=800.0).round().astype(np.uint16)
    assert from_raw(x, STOKES, CHANNELS)[0, 0, 0] == 0
    twelve = PolarizationSensor(layout="channels4", full_scale=4095.0)
    assert from_raw(x, STOKES, twelve)[0, 0, 0] == pytest.approx(0.5, abs=0.01)


def test_full_resolution_is_exact_on_ramps_and_keeps_odd_sizes():
    y, x = np.mgrid[:9, :11]
    intensity = (100 + 3 * x + 2 * y).astype(np.float32) / 255
    image = from_raw(intensity, FULL, MOSAIC)
    assert image.shape == (9, 11, 3)
    # Unpolarized light with a brightness ramp: inside, interpolation leaves no false polarization,
    np.testing.assert_allclose(image[2:-2, 2:-2, 0], 0, atol=1e-5)
    # while neighbours taken for one place show some.
    assert from_raw(intensity, STOKES, MOSAIC)[..., 0].min() > 1e-3


def test_a_mirrored_scene_has_mirrored_angles():
    aolp, dolp = known()
    pair = np.stack([aolp, dolp], axis=-1).astype(np.float32)
    mirrored = np.stack([-aolp, dolp], axis=-1)[:, ::-1].astype(np.float32)
    for representation in PolarizationRepresentation:
        encoding = PolarizationEncoding(representation=representation)
        image = from_raw(pair, encoding, PAIR)
        before = image.copy()
        flipped = flip_horizontally(image, representation)
        np.testing.assert_array_equal(image, before)
        want = from_raw(mirrored, encoding, PAIR)
        # At the wrap, -pi/2 and pi/2 are one plane.
        difference = np.abs(flipped - want)
        assert np.minimum(difference, np.abs(difference - 1)).max() < 1e-5


@pytest.mark.parametrize(
    ("shape", "sensor", "message"),
    [
        ((4, 4, 4), MOSAIC, "does not fit layout mosaic"),
        ((1, 4), MOSAIC, "no 2x2 cell"),
        ((4, 4), CHANNELS, "does not fit layout channels4"),
        ((4, 4), PAIR, "does not fit layout aolp_dolp"),
    ],
)
def test_shape_and_layout_must_agree(shape, sensor, message):
    with pytest.raises(EncodingError, match=message):
        from_raw(np.zeros(shape, np.uint8), STOKES, sensor)


def test_real_mosaics(samples_dir):
    """Opposite angles add up to the same light, which no wrong cell pattern achieves."""
    for name in ("fruits", "polarizer"):
        mosaic = read_image(samples_dir / "polarization_raw" / f"{name}_IMX250MZR.png")
        i90, i45 = mosaic[::2, ::2].astype(float), mosaic[::2, 1::2].astype(float)
        i135, i0 = mosaic[1::2, ::2].astype(float), mosaic[1::2, 1::2].astype(float)
        error = np.abs(i0 + i90 - i45 - i135) / np.maximum((i0 + i45 + i90 + i135) / 2, 1)
        assert np.median(error) < 0.03
        image = from_raw(mosaic, STOKES, MOSAIC)
        assert image.shape == (1024, 1224, 3)
        assert 0.05 < image[..., 0].mean() < 0.2


def test_real_polarizers_show_their_angles(samples_dir):
    """Four polarizer sheets at 90, 45, 0 and -45 degrees, turned about 5 degrees by hand."""
    mosaic = read_image(samples_dir / "polarization_raw" / "polarizer_IMX250MZR.png")
    aolp = (from_raw(mosaic, AOLP, MOSAIC)[..., 0] - 0.5) * 180
    seen = [
        np.median(aolp[510:560, column - 25 : column + 25]) for column in (154, 481, 778, 1056)
    ]
    np.testing.assert_allclose(seen, [90, 45, 0, -45], atol=8)


def test_mean_of_colours_has_numpys_bits(rng):
    plane = rng.normal(0, 300, (37, 53, 3)).astype(np.float32)
    np.testing.assert_array_equal(_mean_of_colours(plane), plane.mean(axis=2))
