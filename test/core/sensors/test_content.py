"""What X and RGB carry: faults of sensors and drivers, each with the cause that was looked at."""

import math

import cv2
import numpy as np
import pytest

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import Events, RgbxSample, XForm
from segrgbx_core.sensors import EncodingConfig, SensorConfig, encode, rgb_content, x_content

SIZE = (96, 128)
RGB = np.zeros((*SIZE, 3), np.uint8)
RNG = np.random.default_rng(0)
ROOM_MM = np.linspace(1500, 6000, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
SMOOTH = cv2.resize(RNG.random((12, 16)), SIZE[::-1])
WARM = (30000 + 500 * SMOOTH).astype(np.uint16)
MOSAIC = (40 + 160 * SMOOTH).astype(np.uint8)


def content(modality, x, form=XForm.RAW, stamp_ns=0, encoding=None, sensor=None):
    sample = RgbxSample(RGB, x, modality, stamp_ns, x_form=form)
    section = modality.value
    return x_content(
        sample,
        from_mapping(EncodingConfig, {section: encoding or {}}),
        from_mapping(SensorConfig, {section: sensor or {}}),
    )


def refusal(ask, sample, sensor):
    try:
        ask(sample, sensor=sensor)
    except EncodingError as error:
        return str(error)
    return ""


def full(value, dtype):
    return np.full(SIZE, value, dtype)


def test_good_depth_has_shares_and_range():
    found = content(Modality.DEPTH, ROOM_MM)
    assert (found.valid, found.usable, found.unit) == (1, 1, "m")
    assert found.low == pytest.approx(1.5)
    assert found.median == pytest.approx(3.75, abs=0.01)
    assert found.high == pytest.approx(6.0, abs=0.01)
    assert (found.problem, found.is_empty) == ("", False)


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (full(np.nan, np.float32), "every pixel is NaN: no measurement"),
        (full(0, np.float32), "every pixel is 0: no measurement"),
        (full(0, np.uint16), "every pixel is 0: no measurement"),
        (full(np.inf, np.float32), "every pixel is +inf: no measurement"),
        (full(-1, np.float64), "no pixel holds a measurement ()"),
        (
            np.where(np.arange(SIZE[1]) < 32, np.nan, np.zeros(SIZE)).astype(np.float32),
            "no pixel holds a measurement (25 % NaN, 75 % 0)",
        ),
        (
            ROOM_MM.astype(np.float32),
            "no pixel within 1 to 80 m, median 3750 m: millimetres? 32FC1 holds metres",
        ),
        (ROOM_MM // 1000, "median 0.003 m: metres in 16UC1? set sensor.depth.unit_16u: 1.0"),
        (
            ROOM_MM.astype(np.float32) / 10000,
            "m: the checkpoint resolves no depth nearer than 1 m",
        ),
        (full(65535, np.uint16), "every measured pixel is 65535, the largest count: saturated?"),
    ],
)
def test_depth_without_content(x, problem):
    found = content(Modality.DEPTH, x)
    assert problem in found.problem
    assert found.is_empty


def test_a_room_before_a_checkpoint_of_the_street():
    encoding = {"min_m": 3.0, "max_m": 80.0}
    near = (np.linspace(400, 2900, 96 * 128).reshape(SIZE)).astype(np.uint16)
    found = content(Modality.DEPTH, near, encoding=encoding)
    assert found.is_empty
    assert "nearer than 3 m" in found.problem
    near[:4] = 4000
    found = content(Modality.DEPTH, near, encoding=encoding)
    assert not found.is_empty
    assert "only 4.2 % of the measured pixels are within 3 to 80 m, median" in found.problem
    assert content(Modality.DEPTH, ROOM_MM, encoding=encoding).problem == ""


def test_one_depth_all_over_is_suspect_and_may_be_a_wall():
    found = content(Modality.DEPTH, full(7, np.float32))
    assert found.problem == "every measured pixel reads 7 m: a frozen driver?"
    assert not found.is_empty


@pytest.mark.parametrize(
    ("modality", "smooth"),
    [
        (Modality.THERMAL, WARM),
        (Modality.DEPTH, ROOM_MM),
        (Modality.POLARIZATION, MOSAIC),
        (Modality.DEPTH, np.where(RNG.random(SIZE) < 0.5, ROOM_MM, 0)),
    ],
)
def test_noise_is_named_and_what_is_measured_is_none(modality, smooth):
    sensor = {"layout": "mosaic"} if modality is Modality.POLARIZATION else None
    assert not content(modality, smooth, sensor=sensor).is_noise
    shuffled = RNG.permuted(RNG.permuted(smooth, axis=0), axis=1)
    found = content(modality, shuffled, sensor=sensor)
    assert found.is_noise
    assert "neighbouring pixels are unrelated (correlation" in found.problem
    assert not found.is_empty


def test_sparse_depth_is_no_noise():
    sparse = np.where(RNG.random((480, 640)) < 0.01, RNG.integers(2000, 40000, (480, 640)), 0)
    assert not content(Modality.DEPTH, sparse.astype(np.uint16)).is_noise


def test_sparse_depth_is_no_empty_depth():
    """The grid that is looked at first misses all of its pixels."""
    sparse = np.zeros((480, 640), np.uint16)
    sparse[1::6, 1::60] = 5000
    sparse[7, 1] = 6000
    assert not sparse[::3, ::3].any()
    found = content(Modality.DEPTH, sparse)
    assert not found.is_empty
    assert found.usable == pytest.approx(80 * 11 / sparse.size)


@pytest.mark.parametrize("representation", ["inverse", "metric", "hha"])
def test_every_depth_encoding_has_a_content(representation):
    encoding = {"representation": representation}
    assert content(Modality.DEPTH, ROOM_MM, encoding=encoding).problem == ""
    wrong = ROOM_MM.astype(np.float32)
    assert "millimetres" in content(Modality.DEPTH, wrong, encoding=encoding).problem


@pytest.mark.parametrize(
    ("x", "encoding", "problem"),
    [
        (WARM, {}, ""),
        (WARM, {"normalization": "fixed"}, ""),
        (WARM / np.float32(100) - np.float32(273.15), {}, ""),
        ((100 + RNG.integers(0, 2, SIZE)).astype(np.uint8), {}, "flat"),
        ((255 * SMOOTH).astype(np.uint8), {"normalization": "passthrough8"}, ""),
        (full(30000, np.uint16), {}, "flat, 98 % of the pixels within 0 counts around 30000"),
        ((30000 + RNG.integers(0, 2, SIZE)).astype(np.uint16), {}, "flat, 98 % of the pixels"),
        (full(21.5, np.float32), {}, "within 0 degC around 21.5: shutter closed"),
        (full(np.nan, np.float32), {}, "every pixel is NaN or infinite"),
        (full(255, np.uint8), {}, "flat"),
        (
            WARM / np.float64(100),
            {"normalization": "fixed"},
            "no pixel within -20 to 60 degC, median 302.7 degC: kelvin?",
        ),
        (
            WARM // 4,
            {"normalization": "fixed"},
            "median -197.5 degC: check sensor.thermal.raw_scale and raw_offset",
        ),
    ],
)
def test_thermal(x, encoding, problem):
    found = content(Modality.THERMAL, x, encoding=encoding)
    assert problem in found.problem
    assert found.is_empty == bool(problem)
    assert bool(found.problem) == bool(problem)


def test_thermal_with_holes_has_its_share():
    warm = np.linspace(10, 30, 96 * 128).reshape(SIZE).astype(np.float32)
    warm[:24] = np.nan
    found = content(Modality.THERMAL, warm)
    assert found.valid == found.usable == 0.75
    assert (found.high, found.unit, found.is_empty) == (30, "degC", False)


@pytest.mark.parametrize(
    ("x", "sensor", "problem", "is_empty"),
    [
        (MOSAIC, {}, "", False),
        (np.repeat(MOSAIC[..., None], 4, axis=2), {"layout": "channels4"}, "", False),
        (full(0, np.uint8), {}, "no light, the median is 0 of 255: lens covered", True),
        (full(255, np.uint8), {}, "saturated, the median is 255 of 255", True),
        (full(np.nan, np.float32), {}, "every pixel is NaN", True),
        (MOSAIC.astype(np.uint16) * 16, {}, "12 bits in the low end of 16", False),
        (MOSAIC.astype(np.uint16) * 16, {"full_scale": 4095}, "", False),
        (MOSAIC.astype(np.uint16), {}, "8 bits in the low end of 16", True),
        (np.zeros((*SIZE, 2), np.float32), {"layout": "aolp_dolp"}, "DoLP is 0 in", True),
        (np.full((*SIZE, 2), np.nan), {"layout": "aolp_dolp"}, "every pixel is NaN", True),
        (np.full((*SIZE, 2), 0.5), {"layout": "aolp_dolp"}, "", False),
        (np.zeros((*SIZE, 3), np.uint8), {"layout": "rgb"}, "one colour all over, 0", True),
    ],
)
def test_polarization(x, sensor, problem, is_empty):
    found = content(Modality.POLARIZATION, x, sensor=sensor)
    assert problem in found.problem
    assert (bool(found.problem), found.is_empty) == (bool(problem), is_empty)


def events(t_ms):
    zeros = np.zeros(len(t_ms), np.uint16)
    t_ns = np.array(t_ms, np.int64) * 1_000_000
    return Events(zeros, zeros, t_ns, np.zeros(len(t_ms), np.uint8), 20, 10)


def test_events():
    found = content(Modality.EVENT, events([1, 70, 80]), stamp_ns=100_000_000)
    assert (found.usable, found.median, found.unit, found.is_empty) == (0.01, 2, "events", False)
    for none in (events([]), events([1, 2])):
        found = content(Modality.EVENT, none, stamp_ns=100_000_000)
        assert found.is_empty
        assert found.problem == "no event within 50 ms"


@pytest.mark.parametrize("modality", list(MODALITIES))
def test_pictures(modality):
    picture = np.zeros((480, 640, 3), np.uint8)
    found = content(modality, picture, XForm.IMAGE)
    assert found.is_empty
    assert found.problem == "one colour all over, 0 of 255"
    picture[401, 333] = 255  # a single event
    assert not content(modality, picture, XForm.IMAGE).is_empty
    noisy = 200 + RNG.integers(0, 3, (64, 64)).astype(np.uint8)
    assert content(modality, noisy, XForm.IMAGE).is_empty


def test_the_view_of_a_light_field_is_what_counts():
    stack = np.zeros((3, *SIZE, 3), np.uint8)
    stack[1] = RNG.integers(0, 255, (*SIZE, 3))
    for view, is_empty in enumerate((True, False, True)):
        sensor = {"layout": "stack", "view_index": view}
        assert content(Modality.LIGHT_FIELD, stack, sensor=sensor).is_empty == is_empty


@pytest.mark.parametrize(
    ("modality", "x"),
    [
        (Modality.DEPTH, np.zeros(SIZE, np.uint8)),
        (Modality.THERMAL, np.zeros((4, 4, 3), np.uint16)),
        (Modality.EVENT, np.zeros(SIZE, np.uint8)),
        (Modality.POLARIZATION, events([])),
        (Modality.LIGHT_FIELD, np.zeros(SIZE, np.float32)),
        *((modality, np.zeros((0, 4), np.uint16)) for modality in MODALITIES),
        *((modality, np.zeros(7, np.uint8)) for modality in MODALITIES),
        *((modality, np.zeros((4, 4), np.complex64)) for modality in MODALITIES),
    ],
)
@pytest.mark.parametrize("form", list(XForm))
@pytest.mark.parametrize("layout", ["mosaic", "channels4", "aolp_dolp", "rgb"])
def test_what_the_encoder_refuses_has_no_content(modality, x, form, layout):
    sample = RgbxSample(RGB, x, modality, x_form=form)
    sensor = from_mapping(SensorConfig, {"polarization": {"layout": layout}})
    assert refusal(encode, sample, sensor) == refusal(x_content, sample, sensor)


@pytest.mark.parametrize(
    ("rgb", "problem", "is_empty"),
    [
        (RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8), "", False),
        (RNG.integers(0, 65536, (*SIZE, 3)).astype(np.uint16), "", False),
        (RNG.integers(0, 4096, (*SIZE, 3)).astype(np.uint16), "12 bits in the low end", False),
        (RNG.integers(0, 1024, SIZE).astype(np.uint16), "10 bits in the low end", False),
        (np.minimum(RNG.integers(0, 9, (*SIZE, 3)), 7).astype(np.uint8), "nearly black", False),
        (np.zeros((*SIZE, 3), np.uint8), "one colour all over, 0 of 255", True),
        (np.zeros((*SIZE, 3), np.uint16), "one colour all over, 0 of 65535", True),
    ],
)
def test_rgb(rgb, problem, is_empty):
    found = rgb_content(rgb)
    assert problem in found.problem
    assert (bool(found.problem), found.is_empty) == (bool(problem), is_empty)


def test_range_is_undefined_where_nothing_is_measured():
    found = content(Modality.DEPTH, full(np.nan, np.float32))
    assert math.isnan(found.low)
    assert math.isnan(found.median)
    assert found.valid == 0
