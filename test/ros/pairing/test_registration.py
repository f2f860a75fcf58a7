"""X onto RGB's grid: homographies, calibrations, events; against hand calculations."""

from types import SimpleNamespace

import cv2
import made_messages
import numpy as np
import pytest

from segrgbx_core.base.camera import Pinhole
from segrgbx_core.base.errors import ConfigError, EncodingError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Events, RgbxSample, XForm
from segrgbx_core.sensors import EncodingConfig, encode
from segrgbx_ros.config.node import Stream, node_config
from segrgbx_ros.messages import geometry
from segrgbx_ros.pairing.pipeline import Pipeline
from segrgbx_ros.pairing.registration import Registrar

SHIFT = [1.0, 0, 5, 0, 1, 2, 0, 0, 1]
"""X lies 5 columns to the right and 2 rows down."""
IDENTITY = (0.0, 0, 0, 0, 0, 0, 1)


def info(fx=100.0, cx=40.0, cy=30.0, width=80, height=60):
    k = [fx, 0, cx, 0, fx, cy, 0, 0, 1]
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    return SimpleNamespace(k=k, p=[0.0] * 12, width=width, height=height, roi=roi)


def registrar(modality, rgb_info=None, x_info=None, **options):
    config = node_config({"pairs": ["a"], "a": {"modality": modality, **options}})
    made = Registrar("a", config.pair("a"), EncodingConfig(), config.sensor)
    return SimpleNamespace(register=lambda sample: made.register(sample, rgb_info, x_info))


def sample(modality, x, form=XForm.RAW, height=60, width=80):
    return RgbxSample(np.zeros((height, width, 3), np.uint8), x, Modality(modality), 1, "", form)


def test_depth_moves_raw_and_keeps_its_values():
    depth = np.full((60, 80), 3000, np.uint16)
    depth[10, 20] = 1234
    moved = registrar("depth", registration="homography", homography=SHIFT).register(
        sample("depth", depth)
    )
    assert moved.x.dtype == np.uint16
    assert moved.x[12, 25] == 1234
    assert (moved.x[:2] == 0).all(), "what X does not see is no measurement"
    assert moved.x_form is XForm.RAW


@pytest.mark.parametrize("modality", ["thermal", "light_field", "polarization"])
def test_others_are_drawn_before_they_move(modality, rng):
    shape = {"thermal": (60, 80), "light_field": (60, 80, 3), "polarization": (120, 160)}[modality]
    dtype = np.uint16 if modality == "thermal" else np.uint8
    x = rng.integers(0, 255, shape).astype(dtype)
    original = sample(modality, x)
    drawn = encode(original)
    # A mosaic of 120x160 is drawn at half its size; its pixels still count as those of the mosaic.
    shift = SHIFT if modality != "polarization" else [0.5, 0, 5, 0, 0.5, 2, 0, 0, 1]
    moved = registrar(modality, registration="homography", homography=shift).register(original)
    picture = encode(moved)
    assert picture.shape == (60, 80, 3)
    assert np.abs(picture[2:, 5:] - drawn[:-2, :-5]).max() < 1e-4
    assert (picture[:2] == 0).all()


def test_events_move_one_by_one():
    events = Events(
        x=np.uint16([0, 10, 79]),
        y=np.uint16([0, 20, 59]),
        t_ns=np.int64([1, 2, 3]),
        p=np.uint8([1, 0, 1]),
        width=80,
        height=60,
    )
    moved = registrar("event", registration="homography", homography=SHIFT).register(
        sample("event", events)
    )
    assert moved.x.x.tolist() == [5, 15]
    assert moved.x.y.tolist() == [2, 22]
    assert moved.x.t_ns.tolist() == [1, 2]
    assert (moved.x.width, moved.x.height) == (80, 60)


def test_equal_cameras_in_one_place_change_nothing(rng):
    depth = rng.integers(500, 4000, (60, 80)).astype(np.uint16)
    one = registrar("depth", info(), info(), registration="camera_info")
    np.testing.assert_allclose(one.register(sample("depth", depth)).x, depth * 0.001, rtol=1e-6)
    thermal = registrar("thermal", info(), info(), registration="camera_info")
    original = sample("thermal", depth)
    assert np.abs(encode(thermal.register(original)) - encode(original)).max() < 1e-4


def test_depth_follows_a_baseline_and_the_nearest_point_wins():
    depth = np.full((60, 80), 4.0, np.float32)
    depth[30, 40] = 1.0
    moved = geometry.DepthRegistration(
        Pinhole(100, 100, 40, 30),
        Pinhole(100, 100, 40, 30),
        np.eye(3),
        np.array([0.1, 0, 0]),
        (60, 80),
        (60, 80),
    ).apply(depth)
    # Disparity is fx * baseline / z: 10 px at 1 m, 2.5 px at 4 m.
    assert moved[30, 50] == 1.0
    assert np.isnan(moved[30, :2]).all()
    assert moved[30, 20] == 4.0


@pytest.mark.parametrize("fx", [101.0, 150.0, 400.0, 1500.0])
@pytest.mark.parametrize("centre", [0.0, 0.25, 0.5])
def test_a_finer_rgb_grid_gets_no_holes(fx, centre):
    """Wherever the points lie between the pixels, and for a surface that is slanted."""
    scale = fx / 100
    size = round(60 * scale), round(80 * scale)
    x, rgb = (
        Pinhole(100, 100, 39.5, 29.5),
        Pinhole(fx, fx, size[1] / 2 + centre, size[0] / 2 + centre),
    )
    depth = np.tile(np.linspace(3.0, 4.0, 80, dtype=np.float32), (60, 1))
    baseline = np.array([0.02, 0, 0])
    moved = geometry.DepthRegistration(x, rgb, np.eye(3), baseline, (60, 80), size).apply(depth)
    edge = max(2, round(4 * scale))
    assert moved.shape == size
    assert np.isfinite(moved[edge:-edge, edge:-edge]).all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5, 3.0])
def test_registered_depth_is_where_each_point_is_seen(rng, scale):
    """Against every point alone, on RGB's full grid, as far as the coarser grid may put it."""
    x = Pinhole(60.0, 61.0, 39.3, 29.8)
    rgb = Pinhole(60 * scale, 61 * scale, 40 * scale, 31 * scale)
    rotation, translation = geometry.pose((0.05, -0.02, 0.01, 0, 0.02, 0, np.sqrt(1 - 0.0004)))
    depth = rng.uniform(1.0, 6.0, (60, 80)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.97] = np.nan
    depth[5, 5], depth[6, 6], depth[7, 7] = np.inf, 0.0, -1.0
    size = round(60 * scale), round(80 * scale)
    one = geometry.DepthRegistration(x, rgb, rotation, translation, (60, 80), size)
    moved = one.apply(depth)
    reach = 1 + int(scale * 1.1)
    num_seen = 0
    for row, column in zip(*np.nonzero(np.isfinite(depth) & (depth > 0)), strict=True):
        z = float(depth[row, column])
        point = rotation @ [(column - x.cx) / x.fx * z, (row - x.cy) / x.fy * z, z] + translation
        u, v = (
            round(float(value))
            for value in (
                point[0] / point[2] * rgb.fx + rgb.cx,
                point[1] / point[2] * rgb.fy + rgb.cy,
            )
        )
        if not (reach <= u < size[1] - reach and reach <= v < size[0] - reach):
            continue
        around = moved[v - reach : v + reach + 1, u - reach : u + reach + 1]
        assert np.nanmin(around) <= point[2] * (1 + 1e-5), "the point or a nearer one is there"
        num_seen += 1
    assert num_seen > 50
    values = np.sort(np.unique(moved[np.isfinite(moved)]))
    assert values.size <= np.isfinite(depth).sum(), "no depth is made up"


@pytest.mark.parametrize("fx", [5.0, 2000.0])
def test_a_wrong_focal_length_is_refused_at_once(fx):
    one = registrar("depth", info(fx=fx), info(fx=100.0), registration="camera_info")
    with pytest.raises(EncodingError, match=r"focal lengths of .* differ more than 16-fold"):
        one.register(sample("depth", np.ones((60, 80), np.uint16)))


def test_what_depends_on_calibrations_is_computed_once_for_each(monkeypatch):
    made = []
    kind = geometry.DepthRegistration
    monkeypatch.setattr(geometry, "DepthRegistration", lambda *args: made.append(1) or kind(*args))
    config = node_config({"pairs": ["depth"], "depth": {"registration": "camera_info"}})
    one = Registrar("depth", config.pair("depth"), EncodingConfig(), config.sensor)
    depth = np.full((60, 80), 2000, np.uint16)
    for fx in (100.0, 100.0, 110.0, 110.0):
        one.register(sample("depth", depth), info(fx=100.0), info(fx=fx))
    assert len(made) == 2


def test_a_turned_camera_at_a_finite_plane():
    angle = np.deg2rad(10)
    extrinsics = (0.2, 0, 0, 0, np.sin(angle / 2), 0, np.cos(angle / 2))
    rotation, translation = geometry.pose(extrinsics)
    rgb, x = Pinhole(100, 100, 40, 30), Pinhole(80, 80, 20, 15)
    homography = geometry.plane_homography(rgb, x, rotation, translation, 5.0)
    point_x = np.array([0.3, -0.2, 5.0])
    point_rgb = rotation @ point_x + translation
    pixel_x = x.matrix @ (point_x / point_x[2])
    pixel_rgb = rgb.matrix @ (point_rgb / point_rgb[2])
    mapped = homography @ pixel_x
    np.testing.assert_allclose(mapped / mapped[2], pixel_rgb, atol=1e-9)


@pytest.mark.parametrize(
    ("rgb_info", "x_info", "reason"),
    [
        (None, info(), "needs topic 'a/rgb/camera_info', where nothing has arrived"),
        (info(), None, "needs topic 'a/x/camera_info', where nothing has arrived"),
        (info(fx=0.0), info(), "'a/rgb/camera_info': camera_info: focal length is 0"),
        (info(), info(width=0), "'a/x/camera_info': camera_info: size is 0"),
    ],
)
def test_what_is_missing_is_named(rgb_info, x_info, reason):
    one = registrar("depth", rgb_info, x_info, registration="camera_info")
    with pytest.raises(EncodingError, match=reason):
        one.register(sample("depth", np.ones((60, 80), np.uint16)))


def test_calibrations_of_another_resolution_and_of_rectified_images():
    one = info()
    assert geometry.pinhole(one, 30, 40) == Pinhole(50, 50, 20, 15)
    one.p = [90.0, 0, 41, 0, 0, 91.0, 31, 0, 0, 0, 1, 0]
    assert geometry.pinhole(one, 60, 80) == Pinhole(90, 91, 41, 31)
    one.roi = SimpleNamespace(x_offset=10, y_offset=20, width=40, height=30, do_rectify=False)
    assert geometry.pinhole(one, 30, 40) == Pinhole(90, 91, 31, 11)


def test_the_pipeline_hands_calibrations_on():
    config = node_config({"pairs": ["depth"], "depth": {"registration": "camera_info"}})
    assert config.info_streams("depth") == (Stream.RGB_INFO, Stream.X_INFO)
    pipeline = Pipeline(config, EncodingConfig())
    for stream in config.info_streams("depth"):
        assert pipeline.push_message("depth", stream, info(), 0) == []
    pipeline.push_message("depth", Stream.RGB, message(np.zeros((60, 80, 3), np.uint8), "rgb8"), 0)
    depth = np.tile(np.arange(1621, 1701, dtype=np.uint16), (60, 1))
    (paired,) = pipeline.push_message("depth", Stream.X, message(depth, "16UC1"), 0)
    found = paired.sample()
    assert found.x.dtype == np.float32
    assert np.nanmax(found.x) == pytest.approx(1.7)


def message(pixels, encoding, stamp_s=5):
    return made_messages.image(pixels, encoding, stamp_s * 10**9)


# ---- one topic per polarizer angle ----

ANGLES = {"pairs": ["polarization"], "polarization": {"x_source": "angles"}}
CHANNELS = {"sensor": {"polarization": {"layout": "channels4"}}}


def test_four_topics_make_one_exposure():
    pipeline = Pipeline(node_config({**ANGLES, **CHANNELS}), EncodingConfig())
    pipeline.push_message(
        "polarization", Stream.RGB, message(np.zeros((6, 8, 3), np.uint8), "rgb8"), 0
    )
    values = {Stream.I90: 90, Stream.I0: 10, Stream.I135: 135, Stream.I45: 45}
    for number, (stream, value) in enumerate(values.items()):
        image = message(np.full((3, 4), value, np.uint8), "mono8")
        found = pipeline.push_message("polarization", stream, image, 0)
        assert bool(found) == (number == 3)
    x = found[0].sample().x
    assert x.shape == (3, 4, 4)
    assert x[0, 0].tolist() == [10, 45, 90, 135]
    assert encode(found[0].sample(), None, node_config({**ANGLES, **CHANNELS}).sensor).shape == (
        3,
        4,
        3,
    )


def test_incomplete_exposures_are_given_up_and_counted():
    pipeline = Pipeline(node_config({**ANGLES, **CHANNELS}), EncodingConfig())
    for stamp in range(1, 31):
        for stream in (Stream.I0, Stream.I45, Stream.I90):
            image = message(np.zeros((3, 4), np.uint8), "mono8", stamp)
            assert pipeline.push_message("polarization", stream, image, 0) == []
    assert pipeline["polarization"].num_lost == 30 - 8
    assert pipeline["polarization"].counts.pushed_x == 0


def test_angles_of_different_size_are_refused():
    pipeline = Pipeline(node_config({**ANGLES, **CHANNELS}), EncodingConfig())
    pipeline.push_message(
        "polarization", Stream.RGB, message(np.zeros((6, 8, 3), np.uint8), "rgb8"), 0
    )
    for number, stream in enumerate((Stream.I0, Stream.I45, Stream.I90, Stream.I135)):
        image = message(np.zeros((3 + number, 4), np.uint8), "mono8")
        found = pipeline.push_message("polarization", stream, image, 0)
    with pytest.raises(EncodingError, match="images of one exposure have shapes"):
        found[0].sample()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (ANGLES, "set sensor.polarization.layout: channels4"),
        ({"thermal": {"x_source": "angles"}}, "'angles' is for raw X of modality polarization"),
        ({"thermal": {"homography": [0.0] * 9}}, "determinant is 0"),
        ({"thermal": {"homography": [1.0] * 8}}, "homography"),
        ({"thermal": {"extrinsics": [0.0] * 7}}, "quaternion x y z w, whose length is 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, reason):
    with pytest.raises(ConfigError, match=reason):
        node_config(options)


def test_a_warp_agrees_with_opencv(rng):
    image = rng.random((40, 50, 3)).astype(np.float32)
    matrix = np.array([[1.1, 0.1, -3], [0.05, 0.9, 4], [1e-4, 2e-4, 1]])
    moved = geometry.warp(image, matrix, 60, 70, linear=True)
    corner = cv2.perspectiveTransform(np.float32([[[20, 20]]]), matrix)[0, 0]
    column, row = np.rint(corner).astype(int)
    assert abs(moved[row, column] - image[20, 20]).max() < 0.6
    assert moved.shape == (60, 70, 3)


# ---- calibrations of resized images


def calibration(roi=(0, 0, 0, 0), binning=0, width=640, height=480, p=True):
    """A camera whose two matrices differ; `roi` is left, top, width, height in unbinned px."""
    k = [500.0, 0, 330, 0, 510, 250, 0, 0, 1]
    projection = [520.0, 0, 324, -52, 0, 530, 244, 0, 0, 0, 1, 0] if p else [0.0] * 12
    names = ("x_offset", "y_offset", "width", "height")
    region = SimpleNamespace(**dict(zip(names, roi, strict=True)), do_rectify=any(roi))
    return SimpleNamespace(
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.1, 0, 0, 0, 0],
        k=k,
        r=[1.0, 0, 0, 0, 1, 0, 0, 0, 1],
        p=projection,
        binning_x=binning,
        binning_y=binning,
        roi=region,
    )


def scaled(info, height, width):
    return geometry.fill_scaled_info(SimpleNamespace(roi=SimpleNamespace()), info, height, width)


@pytest.mark.parametrize("p", [True, False])
@pytest.mark.parametrize("binning", [0, 1, 2])
@pytest.mark.parametrize("roi", [(0, 0, 0, 0), (0, 0, 640, 480), (100, 40, 400, 300)])
def test_the_published_calibration_is_the_camera_of_the_points(roi, binning, p):
    info = calibration(roi, binning, p=p)
    made = scaled(info, 60, 80)
    assert geometry.pinhole(made, 60, 80) == geometry.pinhole(info, 60, 80)
    assert (made.width, made.height, made.binning_x, made.binning_y) == (80, 60, 0, 0)
    assert set(vars(made.roi).values()) == {0}
    assert (made.d, made.r, made.distortion_model) == (info.d, info.r, "plumb_bob")


def test_a_region_and_binning_by_hand():
    made = scaled(calibration((100, 40, 400, 300), 2), 75, 100)  # a quarter of the region
    assert made.k == [125, 0, (330 - 100) / 4, 0, 127.5, (250 - 40) / 4, 0, 0, 1]
    assert made.p == [130, 0, (324 - 100) / 4, -13, 0, 132.5, (244 - 40) / 4, 0, 0, 0, 1, 0]


def test_a_matrix_that_is_not_set_stays_so():
    made = scaled(calibration((100, 40, 400, 300), p=False), 75, 100)
    assert made.p == [0] * 12


def test_a_calibration_without_size_says_nothing():
    with pytest.raises(EncodingError, match="size is 0; the driver must set height and width"):
        scaled(calibration(width=0), 60, 80)
