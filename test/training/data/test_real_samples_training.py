"""Real frames laid out as their data sets lay them, through readers, encoders and the audit.

The frames lie beside the checkout and are no part of it. Labels are real for DeLiVER only.
"""

import numpy as np
import pytest

from segrgbx_core.base.images import read_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample, XForm
from segrgbx_core.labels.label_space import VOID, unified_label_space
from segrgbx_core.labels.tables import DELIVER
from segrgbx_core.sensors import EncodingConfig, SensorConfig, encode
from segrgbx_core.sensors.depth import DepthEncoding
from segrgbx_core.sensors.polarization import PolarizationSensor
from training.data.audit import audit, sheet
from training.data.augment import AugmentConfig
from training.data.datasets import open_reader
from training.data.datasets.export import Frame, NyuLayout, export_deliver, export_nyu, export_zju
from training.data.datasets.label_files import ids_from_colours
from training.data.preparation import Preparation, prepare

COUNT = 8
DITHER = 30
"""How far the animation's colours lie from the palette's; further ones are void."""


def deliver_frames(samples):
    for number in range(COUNT):
        parts = {
            name: read_image(samples / "deliver_small" / f"{number:02}_{name}.png")[..., :3]
            for name in ("rgb", "semantic", "event", "depth", "lidar")
        }
        labels, _ = ids_from_colours(parts["semantic"], DELIVER, DITHER)
        x = {name: parts[name] for name in ("event", "depth", "lidar")}
        yield Frame(f"sun/MAP_1_point1/{number:06d}", parts["rgb"], labels, x)


@pytest.fixture(scope="module")
def deliver(samples_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("deliver")
    export_deliver(deliver_frames(samples_dir), root, "val")
    return root


def preparation(reader):
    augment = AugmentConfig(crop_height=64, crop_width=64)
    return Preparation(unified_label_space(), EncodingConfig(), reader.sensor, augment)


def test_deliver_labels_are_streets(deliver, samples_dir):
    reader = open_reader("deliver", deliver, "val", Modality.EVENT)
    found = audit(reader)
    assert (found.samples, found.problems) == (COUNT, [])
    share = dict(zip(DELIVER.names, found.counts / found.counts.sum(), strict=False))
    assert share["Sky"] == pytest.approx(0.425, abs=0.005)
    assert share["Road"] == pytest.approx(0.272, abs=0.005)
    assert share["SideWalk"] == pytest.approx(0.133, abs=0.005)
    assert 0.04 < share["Building"] < 0.06
    assert 0.03 < share["Vegetation"] < 0.045
    assert 0.015 < share["Bus"] < 0.03
    assert found.counts[VOID] / found.counts.sum() < 0.04
    for index, frame in enumerate(deliver_frames(samples_dir)):
        item = reader[index]
        assert item.name == frame.name
        np.testing.assert_array_equal(item.labels, frame.labels)
        np.testing.assert_array_equal(item.sample.rgb, frame.rgb)


def test_deliver_events_are_drawn_on_white_and_reach_the_model_unchanged(deliver, samples_dir):
    reader = open_reader("deliver", deliver, "val", Modality.EVENT)
    assert "commonest colour (255, 255, 255)" in audit(reader).to_text()
    for index, frame in enumerate(deliver_frames(samples_dir)):
        sample = reader[index].sample
        assert sample.x_form is XForm.IMAGE
        x_image = encode(sample, EncodingConfig(), reader.sensor)
        np.testing.assert_allclose(x_image, frame.x["event"] / np.float32(255), atol=1e-6)
        is_drawn = (x_image < 0.9).any(axis=-1)
        assert 0.02 < is_drawn.mean() < 0.35


@pytest.mark.parametrize("kind", ["depth", "lidar"])
def test_the_other_pictures_of_deliver_serve_as_depth(deliver, samples_dir, kind):
    reader = open_reader("deliver", deliver, "val", Modality.DEPTH, {"x": kind})
    first = next(deliver_frames(samples_dir))
    np.testing.assert_array_equal(reader[0].sample.x, first.x[kind])


def test_deliver_becomes_training_frames_and_a_sheet(deliver):
    reader = open_reader("deliver", deliver, "val", Modality.EVENT)
    views = prepare(reader, 3, preparation(reader))
    assert views.rgb.shape == views.x.shape == (3, 290, 290)
    names = unified_label_space().names
    seen = {names[i] for i in views.labels.unique().tolist() if i != VOID}
    assert {"sky", "road", "sidewalk", "building"} <= seen
    assert seen <= {names[i] for i in DELIVER.to_unified}
    assert sheet(reader, 3).std() > 20


def nyu_frame(samples, kind, file):
    """Some labels and a grey RGB: neither is part of the sample."""
    x = read_image(samples / "nyu_hha" / file)
    labels = (np.arange(x.shape[0])[:, None] // 12 % 40 + np.zeros(x.shape[1], int)).astype(
        np.uint8
    )
    return Frame("0", np.full((*x.shape[:2], 3), 128, np.uint8), labels, {kind: x})


def test_nyu_hha_keeps_its_channel_order(samples_dir, tmp_path):
    export_nyu([nyu_frame(samples_dir, "hha", "hha_complete.png")], tmp_path, "test",
               NyuLayout.STITCHFUSION)  # fmt: skip
    reader = open_reader("nyu", tmp_path, "test", Modality.DEPTH)
    x_image = encode(reader[0].sample, EncodingConfig(), reader.sensor)
    metres = read_image(samples_dir / "nyu_hha" / "0.png") * 1e-4
    disparity = np.minimum(np.round(31000 / np.maximum(100 * metres, 100)), 255)
    np.testing.assert_allclose(x_image[..., 0] * 255, disparity, atol=1e-3)


def test_nyu_depth_through_our_encoder_is_the_published_hha(samples_dir, tmp_path):
    frame = nyu_frame(samples_dir, "depth", "0.png")
    export_nyu([frame], tmp_path, "test", NyuLayout.ESANET)
    options = {"x": "depth", "unit_16u": 0.0001}
    reader = open_reader("nyu", tmp_path, "test", Modality.DEPTH, options)
    encoding = EncodingConfig(depth=DepthEncoding(representation="hha"))
    x_image = encode(reader[0].sample, encoding, reader.sensor)
    want = read_image(samples_dir / "nyu_hha" / "matlab_hha.png") / 255
    assert np.abs(x_image - want).max() <= 1 / 255 + 1e-6


def test_kinect_depth_keeps_its_holes_and_its_order(samples_dir, tmp_path):
    counts = read_image(samples_dir / "kinect2_sample" / "depth.png")
    rgb = read_image(samples_dir / "kinect2_sample" / "rgb.png")
    labels = np.arange(rgb.shape[0])[:, None] // 8 % 40 + np.zeros(rgb.shape[1], int)
    frame = Frame("0001", rgb, labels.astype(np.uint8), {"depth": counts})
    export_nyu([frame], tmp_path, "train", NyuLayout.ESANET)
    options = {"x": "depth", "unit_16u": 0.0001}
    reader = open_reader("nyu", tmp_path, "train", Modality.DEPTH, options)
    x = prepare(reader, 0, preparation(reader)).x[0].numpy()
    np.testing.assert_array_equal(x == 0, counts == 0)
    near, far = (
        x[(counts > low) & (counts < high)] for low, high in ((1, 20_000), (30_000, 65_535))
    )
    assert near.min() > far.max()  # inverse depth: near is bright


@pytest.mark.parametrize("name", ["fruits", "polarizer"])
def test_polarization_of_files_is_that_of_the_live_sensor(samples_dir, tmp_path, name):
    mosaic = read_image(samples_dir / "polarization_raw" / f"{name}_IMX250MZR.png")[
        512:1024, 512:1152
    ]
    planes = [mosaic[1::2, 1::2], mosaic[::2, 1::2], mosaic[::2, ::2], mosaic[1::2, ::2]]
    angles = np.stack([np.repeat(plane[..., None], 3, axis=2) for plane in planes], axis=2)
    labels = np.arange(angles.shape[0])[:, None] // 64 % 8 + np.zeros(angles.shape[1], int)
    frame = Frame("scene_image0", angles[:, :, 0], labels.astype(np.uint8), {"angles": angles})
    export_zju([frame], tmp_path, "val")
    reader = open_reader("zju_rgbp", tmp_path, "val", Modality.POLARIZATION)
    sample = reader[0].sample
    np.testing.assert_array_equal(sample.x, angles)
    x_image = encode(sample, EncodingConfig(), reader.sensor)
    live = RgbxSample(sample.rgb, mosaic, Modality.POLARIZATION)
    sensor = SensorConfig(polarization=PolarizationSensor(layout="mosaic", full_scale=255))
    np.testing.assert_allclose(x_image, encode(live, EncodingConfig(), sensor), atol=1e-5)
    assert 0.05 < x_image[..., 0].mean() < 0.2  # degree of polarization
