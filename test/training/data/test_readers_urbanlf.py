"""UrbanLF: black that is a class, colours that are none, parts that folder names do not tell."""

import numpy as np
import pytest

from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.images import read_image, write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import URBANLF
from training.data.datasets import open_reader
from training.data.datasets.export import UrbanLfLayout, export_urbanlf
from training.data.datasets.label_files import ColourFiles, ids_from_colours
from training.data.datasets.urbanlf import UrbanLfReader

OTHERS, BIKE = URBANLF.names.index("others"), URBANLF.names.index("bike")


@pytest.fixture
def frames(make, rng):
    return [make["urbanlf"](rng, f"Image{n:03d}") for n in (1, 2)]


@pytest.fixture
def root(tmp_path, frames):
    export_urbanlf(frames, tmp_path, "train")
    return tmp_path


def opened(root, split="train", **options):
    return open_reader("urbanlf", root, split, Modality.LIGHT_FIELD, options)


class TestColours:
    def test_black_is_others_not_void(self, root):
        path = root / "train" / "Image001" / "label.png"
        write_image(path, np.zeros((36, 54, 3), np.uint8))
        reader = opened(root, labels="colours")
        assert (reader[0].labels == OTHERS).all()
        assert reader.unmatched == {}

    def test_unknown_colours_are_void_and_counted_not_bikes(self, root):
        path = root / "train" / "Image001" / "label.png"
        picture = URBANLF.palette_array()[np.full((36, 54), 6, np.uint8)]
        picture[0, :5] = (53, 42, 198)  # one off road
        write_image(path, picture)
        reader = opened(root, labels="colours")
        labels = reader[0].labels
        assert (labels[0, :5] == VOID).all()
        assert (labels == BIKE).sum() == 0
        assert reader.unmatched == {str(path): 5}

    def test_colours_and_ids_agree(self, root):
        by_ids, by_colours = opened(root), opened(root, labels="colours")
        for index in range(2):
            np.testing.assert_array_equal(by_ids[index].labels, by_colours[index].labels)

    def test_colours_are_rgb(self, root):
        """Some code lists the palette the other way round: bridge would then be no class."""
        path = root / "train" / "Image001" / "label.png"
        write_image(path, np.full((36, 54, 3), (202, 154, 198), np.uint8))
        assert (opened(root, labels="colours")[0].labels == URBANLF.names.index("fence")).all()

    def test_grey_labels_are_refused(self, root):
        write_image(root / "train" / "Image001" / "label.png", np.ones((36, 54), np.uint8))
        with pytest.raises(DataError, match="is no colour label"):
            opened(root, labels="colours")[0]

    @pytest.mark.parametrize("tolerance", [0, 5, 40])
    def test_tolerance_against_a_plain_loop(self, rng, tolerance):
        picture = rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)
        picture[:6] = np.asarray(URBANLF.palette, np.uint8)[rng.integers(0, 14, (6, 9))]
        picture[3:6] += rng.integers(0, 4, (3, 9, 3), dtype=np.uint8)
        labels, unmatched = ids_from_colours(picture, URBANLF, tolerance)
        for row in range(12):
            for column in range(9):
                pixel = picture[row, column].astype(float)
                gaps = [np.linalg.norm(pixel - np.array(c, float)) for c in URBANLF.palette]
                nearest = min(gaps)
                expected = gaps.index(nearest) if nearest <= tolerance else VOID
                assert labels[row, column] == expected
        assert unmatched == (labels == VOID).sum()

    def test_any_type_of_file_is_read_by_its_colours(self, tmp_path, frames):
        path = tmp_path / "label.png"
        colours = URBANLF.palette_array()[np.minimum(frames[0].labels, 13)]
        write_image(path, np.dstack([colours, np.full((36, 54), 255, np.uint8)]))
        expected = np.minimum(frames[0].labels, 13)
        np.testing.assert_array_equal(ColourFiles(URBANLF).read(path), expected)


class TestArrays:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float64])
    def test_any_whole_numbers(self, root, frames, dtype):
        path = root / "train" / "Image001" / "label.npy"
        np.save(path, np.load(path).astype(dtype))
        np.testing.assert_array_equal(opened(root)[0].labels, frames[0].labels)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.full((36, 54), 1.5), "holds fractions"),
            (np.ones((36, 54, 3), np.uint8), r"expected \(H, W\)"),
            (np.full((36, 54), 15, np.uint8), "label value 15 .* table of 14 classes"),
            (np.full((36, 54), -1, np.int32), "label value -1"),
            (np.full((36, 54), 300, np.int32), "label value 300"),
        ],
    )
    def test_what_is_no_label_is_refused(self, root, values, message):
        path = root / "train" / "Image001" / "label.npy"
        np.save(path, values)
        with pytest.raises(DataError, match=message) as error:
            opened(root)[0]
        assert str(path) in str(error.value)

    @pytest.mark.parametrize(
        "values",
        [
            np.full((36, 54), np.nan),
            np.full((36, 54), np.inf),
            np.full((36, 54), 1e300),
            np.full((36, 54), 1j),
            np.full((36, 54), "text"),
            np.zeros((36, 54), "datetime64[s]"),
            np.full((36, 54), None),
        ],
        ids=lambda values: str(values.dtype) + str(values.flat[0]),
    )
    @pytest.mark.filterwarnings("error")
    def test_numbers_that_are_no_ids_are_refused(self, root, values):
        path = root / "train" / "Image001" / "label.npy"
        np.save(path, values)
        with pytest.raises(DataError, match=r"label\.npy: "):
            opened(root)[0]

    @pytest.mark.parametrize("content", [b"\x93NUMPY broken", b"", b"PK\3\4"])
    def test_a_broken_file_is_named(self, root, content):
        path = root / "train" / "Image001" / "label.npy"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"label\.npy: is no array of numbers"):
            opened(root)[0]

    def test_any_bytes_are_labels_or_one_error(self, root):
        path, reader = root / "train" / "Image001" / "label.npy", opened(root)
        data, chance, refused = path.read_bytes(), np.random.default_rng(2), 0
        for _ in range(300):
            broken = bytearray(data)
            for _ in range(int(chance.integers(1, 5))):
                broken[int(chance.integers(140))] = int(chance.integers(256))
            path.write_bytes(broken[: len(broken) - int(chance.integers(0, 3))])
            try:
                reader[0]
            except DataError as error:
                assert str(path) in str(error)  # noqa: PT017
                refused += 1
        assert refused > 200


class TestParts:
    @pytest.fixture
    def both(self, tmp_path, frames):
        # Names that say nothing, or the wrong thing: only files tell.
        export_urbanlf(frames, tmp_path / "Syn_is_not_real", "train")
        export_urbanlf(frames[:1], tmp_path / "REAL", "train", UrbanLfLayout.SYNTHETIC)
        return tmp_path

    def test_files_tell_the_parts(self, both):
        real, synthetic = opened(both, part="real"), opened(both, part="synthetic")
        assert real.ids == ("real/train/Image001", "real/train/Image002")
        assert synthetic.ids == ("synthetic/train/Image001",)
        assert real.files[0].rgb.is_relative_to(both / "Syn_is_not_real")

    def test_both_are_pooled_with_their_groups(self, both):
        reader = UrbanLfReader(both, "train")
        groups = [reader[i].groups for i in range(3)]
        assert groups == [("real",), ("real",), ("synthetic",)]
        assert reader.describe().published == 580 + 172

    def test_colours_and_arrays_are_read_together(self, both, frames):
        reader = opened(both, labels="colours")
        for index, frame in enumerate((*frames, frames[0])):
            np.testing.assert_array_equal(reader[index].labels, frame.labels)

    def test_each_part_is_a_root_too(self, both):
        assert len(UrbanLfReader(both / "REAL", "train")) == 1

    def test_an_absent_part_is_told(self, root):
        with pytest.raises(DataError, match="holds no synthetic part of UrbanLF"):
            opened(root, part="synthetic")

    def test_one_part_twice_is_refused(self, both, frames):
        export_urbanlf(frames, both / "copy", "train")
        with pytest.raises(DataError, match="Syn_is_not_real and copy hold a real part"):
            UrbanLfReader(both, "train")


def test_x_is_the_view_that_is_asked_for(root, frames):
    for view in ("1_1", "9_1"):
        sample = opened(root, view=view)[0].sample
        np.testing.assert_array_equal(sample.x, frames[0].x[view])
        np.testing.assert_array_equal(sample.rgb, frames[0].rgb)


@pytest.mark.parametrize("view", ["0_1", "1_10", "11", "a_b"])
def test_views_that_do_not_exist(root, view):
    with pytest.raises(ConfigError, match="a view is row_column"):
        opened(root, view=view)


def test_a_view_that_was_not_unpacked_is_named(root):
    with pytest.raises(DataError, match=r"Image001/3_3.png: is missing.*2 of 2 samples"):
        opened(root, view="3_3")


def test_labels_of_test_are_kept_back(root, frames):
    export_urbanlf(frames, root, "test")
    for path in (root / "test").glob("*/label.*"):
        path.unlink()
    with pytest.raises(DataError, match="keeps the labels of its test split back, score on val"):
        opened(root, "test")


def test_odd_sizes_stay(tmp_path, frames):
    small = [type(f)(f.name, f.rgb[:31, :53], f.labels[:31, :53], {}) for f in frames]
    small = [type(f)(f.name, f.rgb, f.labels, {"1_1": f.rgb}) for f in small]
    export_urbanlf(small, tmp_path, "train")
    item = UrbanLfReader(tmp_path, "train")[0]
    assert item.sample.rgb.shape == item.sample.x.shape == (31, 53, 3)
    assert item.labels.shape == (31, 53)


def test_views_of_the_re_pack(tmp_path, frames):
    export_urbanlf(frames, tmp_path, "train", UrbanLfLayout.REPACK)
    reader = opened(tmp_path, view="9_1")
    assert reader.files[0].x[0] == tmp_path / "View" / "V91" / "Image001.png"
    np.testing.assert_array_equal(read_image(reader.files[0].x[0]), frames[0].x["9_1"])
