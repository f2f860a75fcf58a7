"""NYUDepthV2: five layouts, two label codings, and X in three channels or millimetres."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import XForm
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import NYU
from segrgbx_core.sensors import DepthEncoding, EncodingConfig, encode
from training.data.datasets import open_reader
from training.data.datasets.export import NyuLayout, export_nyu
from training.data.datasets.label_files import detect_offset
from training.data.datasets.nyu import NyuReader


@pytest.fixture
def frames(make, rng):
    return [make["nyu"](rng, name) for name in ("000003", "000004", "000007")]


def opened(root, **options):
    return open_reader("nyu", root, "train", Modality.DEPTH, options)


class TestLists:
    def test_columns_of_tabs_are_rgb_labels_depth(self, tmp_path, frames):
        export_nyu(frames, tmp_path, "train", NyuLayout.TOKENFUSION, from_zero=True)
        line = (tmp_path / "train.txt").read_text().splitlines()[0]
        assert line == "rgb/000003.png\tmasks/000003.png\tdepth/000003.png"
        reader = NyuReader(tmp_path, "train")
        item = reader[0]
        assert reader.ids == ("000003", "000004", "000007")
        np.testing.assert_array_equal(item.sample.x, frames[0].x["depth"])  # not the labels
        np.testing.assert_array_equal(item.labels, frames[0].labels)

    def test_its_test_list_may_be_called_val(self, tmp_path, frames):
        export_nyu(frames, tmp_path, "train", NyuLayout.TOKENFUSION)
        (tmp_path / "train.txt").rename(tmp_path / "val.txt")
        assert len(NyuReader(tmp_path, "test")) == 3

    @pytest.mark.parametrize(
        "line", ["000004", "RGB/000004.jpg Label/000004.png", "RGB\\000004.jpg", " 000004.jpg "]
    )
    def test_entries_of_every_form(self, tmp_path, frames, line):
        export_nyu(frames, tmp_path, "train")
        (tmp_path / "train.txt").write_text(f"\ufeff{line}\n", encoding="utf-8")
        assert NyuReader(tmp_path, "train").ids == ("000004",)

    def test_val_does_not_exist(self, tmp_path):
        with pytest.raises(ConfigError, match="val does not exist, models are usually chosen on"):
            open_reader("nyu", tmp_path, "val", Modality.DEPTH)


class TestX:
    def test_hha_is_a_picture_with_disparity_in_red(self, tmp_path, frames):
        export_nyu(frames, tmp_path, "train", NyuLayout.STITCHFUSION)
        sample = NyuReader(tmp_path, "train")[0].sample
        assert sample.x_form is XForm.IMAGE
        np.testing.assert_array_equal(sample.x, frames[0].x["hha"])

    def test_sixteen_bit_depth_is_millimetres(self, tmp_path, frames):
        export_nyu(frames, tmp_path, "train", NyuLayout.ESANET)
        reader = NyuReader(tmp_path, "train")
        sample = reader[0].sample
        assert sample.x_form is XForm.RAW
        assert sample.x.dtype == np.uint16
        metric = DepthEncoding(representation="metric", min_m=1e-3, max_m=10)
        image = encode(sample, EncodingConfig(depth=metric), reader.sensor)
        expected = frames[0].x["depth"] / 1e4
        np.testing.assert_allclose(image[..., 0], expected, atol=0.01)

    def test_other_units_can_be_stated(self, tmp_path, frames):
        export_nyu(frames, tmp_path, "train", NyuLayout.ESANET)
        reader = opened(tmp_path, unit_16u=0.0001)
        metric = DepthEncoding(representation="metric", min_m=1e-3, max_m=1)
        image = encode(reader[0].sample, EncodingConfig(depth=metric), reader.sensor)
        np.testing.assert_allclose(image[..., 0], frames[0].x["depth"] / 1e4, atol=0.01)

    def test_live_hha_works_with_the_cameras_intrinsics(self, tmp_path, frames):
        export_nyu(frames, tmp_path, "train", NyuLayout.ESANET)
        reader = NyuReader(tmp_path, "train")
        hha = EncodingConfig(depth=DepthEncoding(representation="hha"))
        assert encode(reader[0].sample, hha, reader.sensor).shape == (36, 54, 3)

    def test_eight_bit_depth_is_a_picture(self, tmp_path, frames):
        export_nyu(frames, tmp_path, "train", NyuLayout.DFORMER)
        grey = (frames[0].x["depth"] // 64).astype(np.uint8)
        write_image(tmp_path / "Depth" / "000003.png", grey)
        sample = NyuReader(tmp_path, "train")[0].sample
        assert sample.x_form is XForm.IMAGE
        np.testing.assert_array_equal(sample.x, grey)

    def test_hha_goes_before_depth_unless_asked(self, tmp_path, frames):
        for layout in (NyuLayout.DFORMER, NyuLayout.CMX):
            export_nyu(frames, tmp_path, "train", layout)
        assert opened(tmp_path).describe().x == "HHA/"
        assert opened(tmp_path, x="depth").describe().x == "Depth/"
        with pytest.raises(DataError, match="has no depth_raw; x may be hha, depth here"):
            opened(tmp_path, x="depth_raw")

    def test_raw_depth_of_esanet(self, tmp_path, frames):
        export_nyu(frames, tmp_path, "train", NyuLayout.ESANET)
        (tmp_path / "train" / "depth").rename(tmp_path / "train" / "depth_raw")
        assert opened(tmp_path).describe().x == "depth_raw/"

    def test_unknown_layouts_list_the_known(self, tmp_path):
        (tmp_path / "RGB").mkdir()
        with pytest.raises(DataError, match=r"folders RGB are no known layout.*masks.*labels_40"):
            NyuReader(tmp_path, "train")


class TestCoding:
    def files(self, folder, *maps):
        paths = []
        for number, values in enumerate(maps):
            path = folder / f"{number}.png"
            write_image(path, np.resize(np.array(values, np.uint8), (8, 8)))
            paths.append(path)
        return paths

    def test_value_40_means_from_one(self, tmp_path):
        found = detect_offset(self.files(tmp_path, [0, 1, 2], [0, 12], [3, 40]), NYU)
        assert (found.offset, found.void) == (1, (0, 255))
        assert "value 40 seen in 2.png" in found.coding

    def test_255_without_40_means_from_zero(self, tmp_path):
        found = detect_offset(self.files(tmp_path, [0, 1, 39], [5, 255]), NYU)
        assert (found.offset, found.void) == (0, (255,))

    def test_one_image_with_255_does_not_decide(self, tmp_path):
        found = detect_offset(self.files(tmp_path, [0, 1, 255], [40, 255]), NYU)
        assert found.offset == 1

    def test_absence_of_40_is_believed_after_enough_files(self, tmp_path):
        paths = self.files(tmp_path, *[[0, 255]] * 10)
        assert "in 4 files" in detect_offset(paths, NYU, enough=4).coding

    def test_undecided_is_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"2 label files hold neither 40 nor 255.*`coding`"):
            detect_offset(self.files(tmp_path, [0, 1], [2, 39]), NYU)

    def test_values_of_neither_coding_are_refused(self, tmp_path):
        with pytest.raises(DataError, match=r"0.png: label value 41 is not in the table of 40"):
            detect_offset(self.files(tmp_path, [0, 41]), NYU)

    def test_statement_goes_before_detection(self, tmp_path, frames):
        export_nyu(frames, tmp_path, "train", from_zero=True)
        reader = opened(tmp_path, coding="from_zero")
        assert "as stated" in reader.describe().coding
        np.testing.assert_array_equal(reader[0].labels, frames[0].labels)
        wrong = opened(tmp_path, coding="from_one")[0].labels
        assert (wrong == VOID).sum() > (frames[0].labels == VOID).sum()  # walls are lost

    @pytest.mark.parametrize("layout", [NyuLayout.CMX, NyuLayout.ESANET])
    def test_one_split_decides_for_the_other(self, tmp_path, frames, layout):
        few = replace(frames[0], labels=np.full((36, 54), 3, np.uint8))
        export_nyu([few], tmp_path, "train", layout)
        export_nyu(frames[1:], tmp_path, "test", layout)
        coding = opened(tmp_path).describe().coding
        assert coding == open_reader("nyu", tmp_path, "test", Modality.DEPTH).describe().coding
        assert "1 to 40 are the classes" in coding

    @pytest.mark.parametrize("from_zero", [False, True])
    def test_both_codings_give_the_same_ids(self, tmp_path, frames, from_zero):
        export_nyu(frames, tmp_path, "train", from_zero=from_zero)
        np.testing.assert_array_equal(NyuReader(tmp_path, "train")[2].labels, frames[2].labels)


def test_indexed_labels_are_ids_not_luminance(tmp_path, frames):
    export_nyu(frames, tmp_path, "train")
    with Image.open(tmp_path / "Label" / "000003.png") as image:
        assert image.mode == "P"
        luminance = np.asarray(image.convert("L"))
    labels = NyuReader(tmp_path, "train")[0].labels
    np.testing.assert_array_equal(labels, frames[0].labels)
    assert not np.array_equal(np.where(labels == VOID, 0, labels + 1), luminance)


def test_void_is_no_wrapped_zero(tmp_path, frames):
    export_nyu(frames, tmp_path, "train")
    labels = NyuReader(tmp_path, "train")[0].labels
    assert set(np.unique(labels)) == {*range(40), VOID}
    assert (labels[-3:] == VOID).all()


def test_sixteen_bit_labels(tmp_path, frames):
    export_nyu(frames, tmp_path, "train")
    values = np.resize(np.arange(41, dtype=np.uint16), (36, 54))
    path = tmp_path / "Label" / "000003.png"
    write_image(path, values)
    reader = opened(tmp_path, coding="from_one")
    np.testing.assert_array_equal(reader[0].labels, np.where(values == 0, VOID, values - 1))
    values[0, 0] = 894  # the full vocabulary of the original file
    write_image(path, values)
    with pytest.raises(DataError, match=r"000003.png: label value 894 \(1 pixels\)"):
        reader[0]
