"""DeLiVER: what its paths, names and labels get wrong when they are read carelessly."""

import numpy as np
import pytest

from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import DELIVER
from training.data.datasets import deliver, open_reader
from training.data.datasets.deliver import Case, DeliverReader, scene_cases
from training.data.datasets.export import export_deliver
from training.data.datasets.label_files import ids_from_colours


@pytest.fixture
def root(tmp_path, make, rng):
    # Words that careless readers replace or search for anywhere in a path.
    root = tmp_path / "imgs_rain_rgb" / "img" / "set_rgb_motionblur"
    for split, names in {
        "train": (
            "rain/MAP_1_point2/000001",
            "sun/MAP_1_point2/000001",
            "sun/MAP_2_point7_motionblur/000001",
            "night/MAP_3_point1_eventlowres/000004",
        ),
        "val": ("sun/MAP_8_point2/000001",),
    }.items():
        export_deliver([make["deliver"](rng, name) for name in names], root, split)
    return root


def ids(root, split="train", **options):
    return open_reader("deliver", root, split, Modality.EVENT, options).ids


def test_frame_numbers_repeat_between_scenes(root):
    assert len(set(ids(root))) == 4


def test_rain_is_not_train(root):
    assert ids(root, weather=["rain"]) == ("rain/MAP_1_point2/000001",)


def test_weathers_and_cases_combine(root):
    assert ids(root, case=["motionblur"]) == ("sun/MAP_2_point7_motionblur/000001",)
    assert ids(root, weather=["sun"], case=["normal"]) == ("sun/MAP_1_point2/000001",)
    assert len(ids(root, case=["normal", "eventlowres"])) == 3


def test_an_empty_selection_is_an_error(root):
    with pytest.raises(DataError, match="selection holds no samples"):
        ids(root, weather=["fog"])


def test_unknown_weather_names_the_known(root):
    with pytest.raises(ConfigError, match=r"weather.*snow|snow.*cloud"):
        ids(root, weather=["snow"])


def test_groups_are_weather_and_case(root):
    reader = DeliverReader(root, "train")
    by_id = {item.name: item.groups for item in (reader[i] for i in range(len(reader)))}
    assert by_id["night/MAP_3_point1_eventlowres/000004"] == ("night", "eventlowres")
    assert by_id["rain/MAP_1_point2/000001"] == ("rain", "normal")


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("MAP_10_point102", Case.NORMAL),
        ("MAP_2_point3_motionblur", Case.MOTION_BLUR),
        ("MAP_2_point3_motion_blur", Case.MOTION_BLUR),
        ("MAP_2_point3_OverExposure", Case.OVER_EXPOSURE),
        ("MAP_2_point3-underexposure", Case.UNDER_EXPOSURE),
        ("MAP_2_notlidarjitterish", Case.NORMAL),
    ],
)
def test_cases_are_words_of_a_scene(name, case):
    assert scene_cases(name, "000001") == (case,)


def test_x_of_every_kind_comes_from_its_folder(root):
    words = {"event": "event_front", "hha": "depth_front", "depth": "depth_front"}
    words["lidar"] = "lidar_front"
    for kind, word in words.items():
        modality = Modality.EVENT if kind == "event" else Modality.DEPTH
        path = open_reader("deliver", root, "val", modality, {"x": kind}).files[0].x[0]
        assert path == root / kind / "sun/val/MAP_8_point2" / f"000001_{word}.png"


def test_x_must_fit_the_modality(root):
    with pytest.raises(ConfigError, match="x lidar is depth, not event"):
        ids(root, x="lidar")


def test_event_pictures_may_be_smaller(root):
    files = DeliverReader(root, "val").files[0]
    write_image(files.x[0], np.full((18, 27, 3), 255, np.uint8))
    item = DeliverReader(root, "val")[0]
    assert item.sample.x.shape == (18, 27, 3)
    assert item.sample.rgb.shape == (36, 54, 3)


def test_rgb_without_labels_and_labels_without_rgb_are_both_missed(root):
    files = DeliverReader(root, "val").files[0]
    files.rgb.unlink()
    with pytest.raises(DataError, match=r"000001_rgb_front.png: is missing; expected the RGB"):
        DeliverReader(root, "val")


class TestLabels:
    def write(self, root, value, channels=3):
        path = DeliverReader(root, "val").files[0].label
        image = np.full((36, 54, channels), 7, np.uint8)
        image[..., 0] = value
        write_image(path, image)
        return path

    @pytest.mark.parametrize("channels", [3, 4])
    def test_the_id_is_in_the_first_channel(self, root, channels):
        self.write(root, 7, channels)
        assert (DeliverReader(root, "val")[0].labels == DELIVER.names.index("Road")).all()

    @pytest.mark.parametrize("value", [0, 255])
    def test_void(self, root, value):
        self.write(root, value)
        assert (DeliverReader(root, "val")[0].labels == VOID).all()

    @pytest.mark.parametrize(("value", "index"), [(1, 0), (25, 24)])
    def test_ends_of_the_table(self, root, value, index):
        self.write(root, value)
        assert (DeliverReader(root, "val")[0].labels == index).all()

    @pytest.mark.parametrize("value", [26, 254])
    def test_values_beyond_the_table_are_refused_by_name(self, root, value):
        path = self.write(root, value)
        with pytest.raises(DataError) as error:
            DeliverReader(root, "val")[0]
        for part in (str(path), f"value {value}", "1944 pixels", "table of 25 classes"):
            assert part in str(error.value)

    def test_another_size_than_rgb_is_refused(self, root):
        write_image(DeliverReader(root, "val").files[0].label, np.ones((20, 30), np.uint8))
        with pytest.raises(DataError, match=r"labels are 30x20 but .* is 54x36"):
            DeliverReader(root, "val")[0]


class TestCounts:
    def test_published(self):
        totals = {split: sum(counts.values()) for split, counts in deliver.COUNTS.items()}
        assert totals == {"train": 3983, "val": 2005, "test": 1897}

    @pytest.mark.parametrize(
        ("options", "published"),
        [
            ({}, 3983),
            ({"weather": ["rain"]}, 799),
            ({"case": ["normal"]}, 2585),
            ({"case": [c.value for c in Case if c is not Case.NORMAL]}, 1398),
            ({"case": ["motionblur"]}, None),
            ({"weather": ["rain"], "case": ["normal"]}, None),
        ],
    )
    def test_follow_the_selection(self, root, options, published):
        reader = open_reader("deliver", root, "train", Modality.EVENT, options)
        assert reader.describe().published == published

    def test_a_full_split_warns_of_nothing(self, root, monkeypatch):
        monkeypatch.setitem(deliver.COUNTS, "val", dict.fromkeys(deliver.COUNTS["val"], 0))
        monkeypatch.setitem(deliver.COUNTS["val"], "sun", 1)
        reader = open_reader("deliver", root, "val", Modality.EVENT, {"weather": ["sun"]})
        assert reader.describe().warnings == ()


def test_real_frames_by_colour(samples_dir):
    """Colours of the published animation are dithered: near ones count, far ones are void."""
    from segrgbx_core.base.images import read_image

    sky, road = DELIVER.names.index("Sky"), DELIVER.names.index("Road")
    for path in sorted((samples_dir / "deliver_small").glob("*_semantic.png")):
        picture = read_image(path)[..., :3]
        exact, missed = ids_from_colours(picture, DELIVER)
        labels, far = ids_from_colours(picture, DELIVER, tolerance=30)
        assert 0.05 < missed / labels.size < 0.15
        assert far / labels.size < 0.05
        assert (labels == VOID).sum() == far
        np.testing.assert_array_equal(labels[exact != VOID], exact[exact != VOID])
        assert np.bincount(labels[:29].ravel(), minlength=256).argmax() == sky
        assert np.bincount(labels[-29:, 116:174].ravel(), minlength=256).argmax() == road
