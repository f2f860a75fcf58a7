"""MFNet: alpha that is thermal, labels that must not be shifted, copies that must not count."""

import cv2
import numpy as np
import pytest
from PIL import Image

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import XForm
from segrgbx_core.sensors import EncodingConfig, ThermalEncoding, encode
from training.data.datasets import open_reader
from training.data.datasets.export import export_mfnet
from training.data.datasets.mfnet import COUNTS, MfnetReader


@pytest.fixture
def frames(make, rng):
    return [make["mfnet"](rng, name) for name in ("00001D", "00002N", "00003N")]


@pytest.fixture
def root(tmp_path, frames):
    export_mfnet(frames, tmp_path, "train", flips=True)
    return tmp_path


def opened(root, **options):
    return open_reader("mfnet", root, "train", Modality.THERMAL, options)


def test_thermal_is_alpha_and_not_premultiplied(root, frames):
    item = MfnetReader(root, "train")[0]
    np.testing.assert_array_equal(item.sample.x, frames[0].x["thermal"])
    np.testing.assert_array_equal(item.sample.rgb, frames[0].rgb)
    assert item.sample.x_form is XForm.RAW


def test_the_file_is_the_one_that_others_read(root, frames):
    path = root / "images" / "00001D.png"
    with Image.open(path) as image:
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image)[..., 3], frames[0].x["thermal"])
    assert cv2.imread(str(path)).shape[2] == 3  # the default read drops thermal without a word


def test_the_checkpoint_says_how_thermal_is_greyed(root, frames):
    sample = MfnetReader(root, "train")[0].sample
    plain = EncodingConfig(thermal=ThermalEncoding(normalization="passthrough8"))
    image = encode(sample, plain)
    np.testing.assert_allclose(image[..., 0], frames[0].x["thermal"] / 255, atol=1e-6)
    stretched = encode(sample, EncodingConfig(thermal=ThermalEncoding(percentiles=(20, 80))))
    assert not np.array_equal(stretched, image)


def test_an_image_without_alpha_is_refused(root, frames):
    write_image(root / "images" / "00002N.png", frames[1].rgb)
    reader = MfnetReader(root, "train")
    with pytest.raises(DataError, match=r"00002N.png: shape \(36, 54, 3\).*thermal as alpha"):
        reader[1]


def test_values_are_ids_without_a_shift(root, frames):
    path = root / "labels" / "00001D.png"
    write_image(path, np.zeros((36, 54), np.uint8))
    assert (MfnetReader(root, "train")[0].labels == 0).all()


@pytest.mark.parametrize("value", [9, 255])
def test_nothing_is_void_in_the_files(root, value):
    write_image(root / "labels" / "00001D.png", np.full((36, 54), value, np.uint8))
    with pytest.raises(DataError, match=f"00001D.png: label value {value} .*table of 9 classes"):
        MfnetReader(root, "train")[0]


def test_mirrored_copies_count_when_wanted_only(root, frames):
    assert MfnetReader(root, "train").ids == ("00001D", "00002N", "00003N")
    reader = opened(root, flips=True)
    assert len(reader) == 6
    assert reader.describe().published == 2 * COUNTS["train"]
    plain, mirrored = reader[0], reader[1]
    assert mirrored.name == "00001D_flip"
    np.testing.assert_array_equal(mirrored.sample.x, plain.sample.x[:, ::-1])
    np.testing.assert_array_equal(mirrored.labels, plain.labels[:, ::-1])
    assert mirrored.groups == ("day",)


def test_wanted_copies_that_no_list_names_are_told(tmp_path, frames):
    export_mfnet(frames, tmp_path, "train")
    warnings = opened(tmp_path, flips=True).describe().warnings
    assert any("names no mirrored copies" in text for text in warnings)


def test_day_and_night(root):
    assert opened(root, time="night").ids == ("00002N", "00003N")
    assert opened(root, time="day").ids == ("00001D",)
    assert MfnetReader(root, "train")[1].groups == ("night",)


def test_a_name_without_time_is_refused(root):
    (root / "train.txt").write_text("00001\n")
    with pytest.raises(DataError, match="'00001' is no MFNet name"):
        MfnetReader(root, "train")


def test_a_split_without_its_list_is_refused(root):
    with pytest.raises(DataError, match=r"val.txt: is missing; expected the list of MFNet's val"):
        MfnetReader(root, "val")


def test_a_sample_listed_twice_is_told(root):
    (root / "train.txt").write_text("00001D\r\n\n00002N.png\n00001D\n", encoding="utf-8")
    reader = MfnetReader(root, "train")
    assert reader.ids == ("00001D", "00002N")
    assert any("names 1 samples twice" in text for text in reader.describe().warnings)


@pytest.mark.parametrize("names", [("RGB", "Modal", "Label"), ("img", "ther", "labels")])
def test_re_packs_are_found_by_folder_and_extension(tmp_path, frames, names):
    export_mfnet(frames, tmp_path, "train", in_folders=True)
    (tmp_path / "rgb").rename(tmp_path / names[0])
    (tmp_path / "ther").rename(tmp_path / names[1])
    (tmp_path / "labels").rename(tmp_path / names[2])
    coloured = np.dstack([frames[0].x["thermal"]] * 3)
    (tmp_path / names[1] / "00001D.jpg").unlink()
    write_image(tmp_path / names[1] / "00001D.png", coloured)  # grey stored as colour
    reader = MfnetReader(tmp_path, "train")
    np.testing.assert_array_equal(reader[0].sample.x, frames[0].x["thermal"])
    assert reader[1].sample.x.ndim == 2


def test_another_data_set_is_told_apart(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match=r"folders pictures are no MFNet; expected images"):
        MfnetReader(tmp_path, "train")
