"""What every encoder promises, whatever the sensor."""

import subprocess
import sys

import numpy as np
import pytest

from segrgbx_core.base.config import from_mapping, leaves, to_plain
from segrgbx_core.base.errors import ConfigError, EncodingError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import Events, RgbxSample, XForm
from segrgbx_core.sensors import ENCODERS, EncodingConfig, SensorConfig, encode, flip_horizontally

SIZES = ((1, 1), (1, 7), (5, 1), (33, 47), (48, 64))


def make_events(height, width, count=0, fill=0):
    order = np.arange(count)
    return Events(
        (order % width).astype(np.uint16),
        (order // width % height).astype(np.uint16),
        np.linspace(0, 40_000_000, count).astype(np.int64),
        np.full(count, fill, np.uint8),
        width,
        height,
    )


def raw(name, dtype, **sections):
    """One way to deliver X: modality, type, shape behind (h, w), sections of configuration."""
    modality, _, form = name.partition("/")
    shape = {"4": (4,), "4x3": (4, 3), "2": (2,), "rgb": (3,)}.get(form.split("-")[0], ())
    return pytest.param(Modality(modality), dtype, shape, sections, id=f"{name}-{np.dtype(dtype)}")


def of(encoding=None, sensor=None):
    return {"encoding": encoding or {}, "sensor": sensor or {}}


FIXED = of({"normalization": "fixed"})
HHA = of({"representation": "hha"}, {"fx": 60.0, "fy": 60.0, "cx": 32.0, "cy": 24.0})
METRIC = of({"representation": "metric"})
MOSAIC = of({"full_resolution": True})
AOLP = of({"representation": "aolp"}, {"layout": "channels4"})
DOLP = of({"representation": "dolp"}, {"layout": "channels4"})

RAWS = [
    raw("thermal", np.uint8),
    raw("thermal", np.uint16),
    raw("thermal", np.float32),
    raw("thermal", np.float64),
    raw("thermal/-fixed", np.uint16, **FIXED),
    raw("thermal/-fixed", np.float32, **FIXED),
    raw("thermal/-pass", np.uint8, **of({"normalization": "passthrough8"})),
    raw("depth", np.uint16),
    raw("depth", np.float32),
    raw("depth/-metric", np.uint16, **METRIC),
    raw("depth/-metric", np.float64, **METRIC),
    raw("depth/-hha", np.uint16, **HHA),
    raw("depth/-hha", np.float32, **HHA),
    raw("polarization", np.uint8),
    raw("polarization", np.uint16),
    raw("polarization/-full", np.uint8, **MOSAIC),
    raw("polarization/4", np.uint8, **of(sensor={"layout": "channels4"})),
    raw("polarization/4-aolp", np.uint16, **AOLP),
    raw("polarization/4-dolp", np.float32, **DOLP),
    raw("polarization/4x3", np.uint8, **of(sensor={"layout": "channels4"})),
    raw("polarization/4x3-aolp", np.uint8, **AOLP),
    raw("polarization/2", np.float32, **of(sensor={"layout": "aolp_dolp"})),
    raw("polarization/2-a", np.float32, **of({"representation": "aolp"}, {"layout": "aolp_dolp"})),
    raw("polarization/2-d", np.float32, **of({"representation": "dolp"}, {"layout": "aolp_dolp"})),
    raw("polarization/rgb", np.uint8, **of(sensor={"layout": "rgb"})),
    raw("light_field/rgb", np.uint8),
    raw("light_field/rgb", np.uint16),
]


def sections_of(modality, sections):
    encoding = from_mapping(EncodingConfig, {modality.value: sections.get("encoding", {})})
    sensor = from_mapping(SensorConfig, {modality.value: sections.get("sensor", {})})
    return encoding, sensor


def run(x, modality, sections):
    sample = RgbxSample(np.zeros((4, 6, 3), np.uint8), x, modality)
    return encode(sample, *sections_of(modality, sections))


def check(image, size=None):
    assert image.dtype == np.float32
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags.c_contiguous
    assert not np.isnan(image).any()
    assert image.min() >= 0
    assert image.max() <= 1
    if size is not None:
        assert image.shape[:2] == size


def is_mosaic(modality, shape):
    return modality is Modality.POLARIZATION and shape == ()


def fills(dtype):
    if np.dtype(dtype).kind == "u":
        return [0, 1, np.iinfo(dtype).max]
    return [0.0, -1e30, 1e30, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize(("modality", "dtype", "shape", "sections"), RAWS)
class TestFromRaw:
    @pytest.mark.parametrize("size", SIZES)
    def test_any_size(self, rng, modality, dtype, shape, sections, size):
        if is_mosaic(modality, shape):
            size = (size[0] + 1, size[1] + 1)
        x = rng.integers(0, 256, (*size, *shape)).astype(dtype)
        full = sections.get("encoding", {}).get("full_resolution")
        halves = is_mosaic(modality, shape) and not full
        check(run(x, modality, sections), (size[0] // 2, size[1] // 2) if halves else size)

    def test_constant_and_extreme_values(self, modality, dtype, shape, sections):
        for value in fills(dtype):
            check(run(np.full((9, 12, *shape), value, dtype), modality, sections))

    def test_extremes_mixed_with_ordinary_values(self, rng, modality, dtype, shape, sections):
        x = rng.integers(0, 256, (16, 20, *shape)).astype(dtype)
        for place, value in enumerate(fills(dtype)):
            x[place, ::3] = value
        check(run(x, modality, sections))

    def test_same_input_same_output_and_input_untouched(
        self, rng, modality, dtype, shape, sections
    ):
        x = rng.integers(0, 256, (30, 41, *shape)).astype(dtype)
        before = x.copy()
        first = run(x, modality, sections)
        np.testing.assert_array_equal(first, run(x, modality, sections))
        np.testing.assert_array_equal(x, before)

    def test_bits_do_not_depend_on_where_arrays_lie(self, rng, modality, dtype, shape, sections):
        """Node and replay promise equal bits, and some vectorised functions round by alignment."""
        x = (rng.random((37, 53, *shape)) * 250).astype(dtype)
        want = run(x, modality, sections)
        for offset in range(0, 64, 8):
            buffer = np.empty(x.nbytes + 128, np.uint8)
            start = -buffer.ctypes.data % 64 + offset
            moved = buffer[start : start + x.nbytes].view(dtype).reshape(x.shape)
            moved[...] = x
            clutter = [np.empty(size) for size in rng.integers(1, 3000, 5)]
            np.testing.assert_array_equal(run(moved, modality, sections), want)
            del clutter

    def test_views_and_read_only_arrays_are_fine(self, rng, modality, dtype, shape, sections):
        x = rng.integers(0, 256, (30, 42, *shape)).astype(dtype)
        view = x[::-1, ::-1]
        view.flags.writeable = False
        want = run(np.ascontiguousarray(view), modality, sections)
        np.testing.assert_array_equal(run(view, modality, sections), want)

    def test_wrong_type_or_shape_is_refused_by_name(self, modality, dtype, shape, sections):
        for x in (
            np.zeros((4, 4, 5), dtype),
            np.zeros((4, 4, *shape), np.int64),
            np.zeros((0, 4)),
        ):
            with pytest.raises(EncodingError, match=modality.value):
                run(x, modality, sections)


@pytest.mark.parametrize("modality", MODALITIES)
class TestFromImage:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("size", SIZES)
    def test_any_size_and_depth(self, rng, modality, dtype, size):
        top = np.iinfo(dtype).max
        for shape in ((), (1,), (3,)):
            x = rng.integers(0, top, (*size, *shape), endpoint=True).astype(dtype)
            image = ENCODERS[modality].from_image(x)
            check(image, size)
            want = x.reshape(*size, -1) / top
            np.testing.assert_allclose(image, np.broadcast_to(want, image.shape), atol=1e-7)

    def test_black_and_white_reach_the_ends(self, modality):
        ends = ENCODERS[modality].from_image(np.array([[0, 255]], np.uint8))
        np.testing.assert_array_equal(ends[0, :, 0], [0, 1])

    def test_goes_through_the_image_door(self, modality):
        picture = np.full((5, 6, 3), 51, np.uint8)
        sample = RgbxSample(picture, picture, modality, x_form=XForm.IMAGE)
        np.testing.assert_allclose(encode(sample), 0.2, atol=1e-7)

    def test_floats_and_four_channels_are_refused(self, modality):
        for x in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.uint8)):
            with pytest.raises(EncodingError, match=f"{modality.value} picture"):
                ENCODERS[modality].from_image(x)


def test_events_need_the_raw_door_and_pictures_the_image_door():
    rgb = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(EncodingError, match="x_form to raw"):
        encode(RgbxSample(rgb, make_events(4, 6), Modality.EVENT, x_form=XForm.IMAGE))
    with pytest.raises(EncodingError, match="x_form to image"):
        encode(RgbxSample(rgb, rgb, Modality.EVENT))
    with pytest.raises(EncodingError, match="thermal x: holds Events"):
        encode(RgbxSample(rgb, make_events(4, 6), Modality.THERMAL))


def test_pictures_of_x_images_come_back_through_the_image_door(rng):
    """Two doors, one exit: 8 bits of an X image encode to that image within half a level."""
    x = {
        Modality.THERMAL: rng.integers(28000, 31000, (24, 32)).astype(np.uint16),
        Modality.DEPTH: rng.integers(0, 20000, (24, 32)).astype(np.uint16),
        Modality.EVENT: make_events(24, 32, 100, 1),
        Modality.POLARIZATION: rng.integers(0, 256, (24, 32)).astype(np.uint8),
        Modality.LIGHT_FIELD: rng.integers(0, 256, (24, 32, 3)).astype(np.uint8),
    }
    for modality in MODALITIES:
        image = run(x[modality], modality, {})
        picture = np.rint(image * 255).astype(np.uint8)
        again = ENCODERS[modality].from_image(picture)
        np.testing.assert_allclose(again, image, atol=0.5 / 255 + 1e-6)


def test_mirroring_twice_is_nothing(rng):
    for modality in MODALITIES:
        image = rng.random((8, 9, 3), np.float32)
        once = flip_horizontally(image, modality, EncodingConfig())
        twice = flip_horizontally(once, modality, EncodingConfig())
        np.testing.assert_allclose(twice, image, atol=1e-6)
        if modality is not Modality.POLARIZATION:
            np.testing.assert_array_equal(once, image[:, ::-1])


@pytest.mark.parametrize("cls", [EncodingConfig, SensorConfig])
def test_configs_survive_yaml_and_every_option_is_documented(cls):
    assert from_mapping(cls, to_plain(cls())) == cls()
    for leaf in leaves(cls):
        assert leaf.doc, leaf.name
        assert leaf.default is not None, leaf.name


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (EncodingConfig, {"thermal": {"percentiles": [99, 1]}}, "must rise"),
        (EncodingConfig, {"thermal": {"min_c": 50.0, "max_c": 20.0}}, "below max_c"),
        (EncodingConfig, {"thermal": {"normalisation": "fixed"}}, "did you mean 'normalization'"),
        (EncodingConfig, {"depth": {"min_m": 9.0, "max_m": 3.0}}, "below max_m"),
        (EncodingConfig, {"event": {"window_ms": 0.0}}, "outside"),
        (EncodingConfig, {"event": {"background": "grey"}}, "white, black"),
        (SensorConfig, {"polarization": {"pattern": [0, 45, 90, 90]}}, "once each"),
        (SensorConfig, {"depth": {"unit_16u": 0.0}}, "outside"),
    ],
)
def test_wrong_options_are_named(cls, data, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(cls, data)


def test_import_is_quick_and_without_torch():
    code = "import sys, segrgbx_core.sensors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
