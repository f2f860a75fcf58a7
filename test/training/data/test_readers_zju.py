"""ZJU RGB-P: names in many spellings, four angles, and what a mirror does to them."""

import os

import numpy as np
import pytest

from segrgbx_core.base.errors import DataError, EncodingError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample, XForm
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.sensors import EncodingConfig, PolarizationEncoding, encode, flip_horizontally
from training.data.datasets import open_reader
from training.data.datasets.export import Frame, export_zju
from training.data.datasets.zju_rgbp import ZjuReader, angle_of


@pytest.fixture
def frames(make, rng):
    return [make["zju_rgbp"](rng, f"outdoor_{n}_image0") for n in (45, 46)]


def opened(root, **options):
    return open_reader("zju_rgbp", root, "train", Modality.POLARIZATION, options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_image0_0.png", ("a_image0", 0)),
        ("a_image0_45°.png", ("a_image0", 45)),
        ("a_image0_135º.png", ("a_image0", 135)),
        ("a_image0_90\udcb0.png", ("a_image0", 90)),
        ("x_45_90.PNG", ("x_45", 90)),
        ("a_image0_145.png", None),
        ("a_image0_450.png", None),
        ("a_image045.png", None),
        ("a_0.jpg", None),
    ],
)
def test_angles_of_names(name, expected):
    assert angle_of(name) == expected


def test_a_degree_sign_in_a_foreign_encoding(tmp_path, frames):
    export_zju(frames, tmp_path, "train")
    for angle in (0, 45, 90, 135):
        for path in (tmp_path / "train" / str(angle)).iterdir():
            raw = os.fsencode(path.with_suffix("")) + b"\xb0.png"
            try:
                path.rename(os.fsdecode(raw))
            except OSError:
                pytest.skip("this disk knows no such name")
    assert opened(tmp_path).ids == ("outdoor_45_image0", "outdoor_46_image0")


def test_the_stack_is_in_the_order_of_angles(tmp_path, frames):
    export_zju(frames, tmp_path, "train", sign="°")
    sample = ZjuReader(tmp_path, "train")[0].sample
    assert sample.x_form is XForm.RAW
    np.testing.assert_array_equal(sample.x, frames[0].x["angles"])
    np.testing.assert_array_equal(sample.rgb, frames[0].x["angles"][:, :, 0])


def test_differences_do_not_wrap_round(tmp_path, frames):
    dark, bright = np.full((36, 54, 3), 50, np.uint8), np.full((36, 54, 3), 150, np.uint8)
    middle = np.full((36, 54, 3), 100, np.uint8)
    angles = np.stack([dark, middle, bright, middle], axis=2)  # S1 = -100, S0 = 200, S2 = 0
    export_zju([Frame("a", dark, frames[0].labels, {"angles": angles})], tmp_path, "train")
    reader = ZjuReader(tmp_path, "train")
    image = encode(reader[0].sample, EncodingConfig(), reader.sensor)
    np.testing.assert_allclose(image[0, 0], [0.5, 0.5, 0.0], atol=1e-6)


def test_the_default_sensor_says_what_to_set(tmp_path, frames):
    export_zju(frames, tmp_path, "train")
    with pytest.raises(EncodingError, match=r"sensor.polarization.layout to channels4"):
        encode(ZjuReader(tmp_path, "train")[0].sample)


@pytest.mark.parametrize("representation", ["stokes", "aolp", "dolp"])
def test_mirroring_swaps_45_and_135(tmp_path, frames, representation):
    export_zju(frames, tmp_path, "train")
    reader = ZjuReader(tmp_path, "train")
    encoding = EncodingConfig(polarization=PolarizationEncoding(representation=representation))
    sample = reader[0].sample
    image = encode(sample, encoding, reader.sensor)
    mirrored_world = np.ascontiguousarray(sample.x[:, ::-1][:, :, [0, 3, 2, 1]])
    mirrored = RgbxSample(sample.rgb, mirrored_world, sample.modality)
    expected = encode(mirrored, encoding, reader.sensor)
    flipped = flip_horizontally(image, sample.modality, encoding)
    # The angle is circular: its two ends are one direction.
    gap = np.abs(flipped - expected)
    assert (np.minimum(gap, 1 - gap) if representation == "aolp" else gap).max() < 1e-5


def test_rgb_may_be_the_mean(tmp_path, frames):
    export_zju(frames, tmp_path, "train")
    rgb = opened(tmp_path, rgb="mean")[0].sample.rgb
    expected = frames[0].x["angles"].astype(float).mean(axis=2)
    assert np.abs(rgb - expected).max() <= 0.5


def test_half_resolution_averages_intensities(tmp_path, frames):
    export_zju(frames, tmp_path, "train")
    item = opened(tmp_path, half_resolution=True)[0]
    angles = frames[0].x["angles"].astype(float)
    expected = angles.reshape(18, 2, 27, 2, 4, 3).mean(axis=(1, 3))
    assert item.sample.x.shape == (18, 27, 4, 3)
    assert np.abs(item.sample.x - expected).max() <= 0.75
    np.testing.assert_array_equal(item.labels, frames[0].labels[::2, ::2])


def test_zero_is_void_and_nine_is_foreign(tmp_path, frames):
    export_zju(frames, tmp_path, "train")
    reader = ZjuReader(tmp_path, "train")
    path = reader.files[0].label
    write_image(path, np.zeros((36, 54), np.uint8))
    assert (reader[0].labels == VOID).all()
    write_image(path, np.full((36, 54), 9, np.uint8))
    with pytest.raises(DataError, match=f"{path.name}: label value 9 .* table of 8 classes"):
        reader[0]


def test_a_mix_up_of_angles_is_refused(tmp_path, frames):
    export_zju(frames, tmp_path, "train")
    path = tmp_path / "train" / "45" / "outdoor_45_image0_45.png"
    path.rename(path.with_name("outdoor_45_image0_135.png"))
    with pytest.raises(DataError, match="states 135 degrees but lies in folder 45"):
        ZjuReader(tmp_path, "train")


def test_one_missing_angle_is_named(tmp_path, frames):
    export_zju(frames, tmp_path, "train")
    (tmp_path / "train" / "90" / "outdoor_46_image0_90.png").unlink()
    with pytest.raises(
        DataError, match=r"90/outdoor_46_image0_90.png: is missing.*1 of 2 samples"
    ):
        ZjuReader(tmp_path, "train")


def test_files_without_an_angle_are_told(tmp_path, frames):
    export_zju(frames, tmp_path, "train")
    (tmp_path / "train" / "0" / "Thumbs.db").write_bytes(b"x")
    warnings = ZjuReader(tmp_path, "train").describe().warnings
    assert "Thumbs.db in folder 0 states no angle; left out" in warnings


def test_images_of_another_size_are_refused(tmp_path, frames):
    export_zju(frames, tmp_path, "train")
    path = tmp_path / "train" / "135" / "outdoor_45_image0_135.png"
    write_image(path, np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(DataError, match=r"image0_135.png: is not as large as outdoor_45_image0_0"):
        ZjuReader(tmp_path, "train")[0]


def test_drawn_aolp_is_a_picture(tmp_path, make, rng):
    aolp = rng.integers(0, 256, (36, 54), dtype=np.uint8)
    frame = make["zju_rgbp"](rng, "12")
    export_zju([Frame("12", frame.rgb, frame.labels, {"aolp": aolp})], tmp_path, "train")
    reader = ZjuReader(tmp_path, "train")
    item = reader[0]
    assert item.sample.x_form is XForm.IMAGE
    assert "aolp" in reader.describe().notes[0]
    np.testing.assert_array_equal(item.sample.x[..., 0], aolp)
    np.testing.assert_array_equal(item.sample.rgb, frame.rgb)
