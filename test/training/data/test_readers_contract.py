"""What every reader of a public data set promises, in every layout."""

import pickle

import numpy as np
import pytest

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import XForm
from segrgbx_core.labels.label_space import VOID, unified_label_space
from segrgbx_core.sensors import EncodingConfig, SensorConfig, encode
from training.data.augment import AugmentConfig
from training.data.config import DataConfig
from training.data.datasets import READERS, open_reader
from training.data.datasets.file_reader import FileReader
from training.data.preparation import Preparation, prepare

MODALITIES = {
    "deliver": Modality.EVENT,
    "mfnet": Modality.THERMAL,
    "nyu": Modality.DEPTH,
    "zju_rgbp": Modality.POLARIZATION,
    "urbanlf": Modality.LIGHT_FIELD,
}


def opened(world, split):
    name, root, _, options = world
    modality = Modality.DEPTH if options.get("x") == "hha" else MODALITIES[name]
    return open_reader(name, root, split, modality, options)


def splits(world):
    return list(world[2])


def near(image, colour, tolerance=12):
    return np.abs(image.astype(int) - colour).max() <= tolerance  # JPEG bends colours a little


def test_samples_are_those_that_were_written(world):
    for split, frames in world[2].items():
        reader = opened(world, split)
        assert len(reader) == len(reader.ids) == len(frames)
        names = {frame.name for frame in frames}
        assert {identity.rpartition("/")[2] for identity in reader.ids} == {
            name.rpartition("/")[2] for name in names
        }


def test_rgb_is_red_where_red_was_painted(world):
    item = opened(world, splits(world)[0])[0]
    rgb = item.sample.rgb
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    assert near(rgb[:12, :12], (255, 0, 0))


def test_three_channel_x_keeps_its_order(world):
    item = opened(world, splits(world)[0])[0]
    if item.sample.x_form is not XForm.IMAGE:
        pytest.skip("X is no picture here")
    assert near(item.sample.x[:12, :12], (8, 200, 90))


def test_labels_come_back_as_they_were(world):
    name, _, frames, _ = world
    split = splits(world)[0]
    reader = opened(world, split)
    by_name = {frame.name.rpartition("/")[2]: frame for frame in frames[split]}
    if name == "deliver":
        by_name = {frame.name: frame for frame in frames[split]}
    for index in range(len(reader)):
        item = reader[index]
        key = item.name if name == "deliver" else item.name.rpartition("/")[2]
        assert item.labels.dtype == np.uint8
        np.testing.assert_array_equal(item.labels, by_name[key].labels)


def test_ids_are_in_the_table_and_unify(world):
    reader = opened(world, splits(world)[0])
    space = unified_label_space()
    assert space.native(reader.native) is reader.space
    labels = reader[0].labels
    assert labels[labels != VOID].max() < reader.space.num_classes
    unified = space.unify(labels, reader.native)
    np.testing.assert_array_equal(unified == VOID, labels == VOID)


def test_x_goes_through_the_encoder(world):
    reader = opened(world, splits(world)[0])
    item = reader[0]
    assert item.sample.modality is reader.modality
    image = encode(item.sample, None, reader.sensor)
    assert image.dtype == np.float32
    assert image.shape == (*item.sample.rgb.shape[:2], 3)
    assert 0 <= image.min() < image.max() <= 1


def test_splits_share_nothing(world):
    first, second = (opened(world, split) for split in splits(world))
    assert not set(first.ids) & set(second.ids)
    assert not {f.rgb for f in first.files} & {f.rgb for f in second.files}


def test_reading_is_repeatable_also_in_another_process(world):
    reader = opened(world, splits(world)[0])
    copy = pickle.loads(pickle.dumps(reader))
    first, second = reader[1], copy[1]
    np.testing.assert_array_equal(first.sample.rgb, second.sample.rgb)
    np.testing.assert_array_equal(first.sample.x, second.sample.x)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.name == second.name == reader.ids[1]


def test_description_says_what_was_decided(world):
    reader = opened(world, splits(world)[0])
    facts = reader.describe()
    assert facts.num_samples == len(reader)
    assert facts.coding
    assert reader.native in facts.lines()[0]
    if facts.published is not None:
        gap = facts.published - len(reader)
        text = f"{len(reader)} samples, {gap} fewer than the {facts.published} published"
        assert text in facts.warnings


def test_indices_end(world):
    reader = opened(world, splits(world)[0])
    with pytest.raises(IndexError):
        reader[len(reader)]


@pytest.mark.parametrize("role", ["rgb", "x", "label"])
def test_a_missing_file_is_named_on_opening(world, role):
    reader = opened(world, splits(world)[0])
    files = reader.files[-1]
    path = {"rgb": files.rgb, "x": (files.x or (None,))[-1], "label": files.label}[role]
    if path is None:
        pytest.skip("X lies in the RGB file")
    hidden = path.with_name(f"{path.name}.hidden")
    path.rename(hidden)
    try:
        with pytest.raises(DataError, match=r"is missing|holds no") as error:
            opened(world, splits(world)[0])
    finally:
        hidden.rename(path)
    assert str(path.parent) in str(error.value) or "holds no" in str(error.value)


@pytest.mark.parametrize("name", MODALITIES)
class TestRefusals:
    def test_split(self, name, tmp_path):
        with pytest.raises(ConfigError, match=r"split 'trian' does not exist.*train"):
            open_reader(name, tmp_path, "trian", MODALITIES[name])

    def test_modality(self, name, tmp_path):
        foreign = Modality.THERMAL if name != "mfnet" else Modality.EVENT
        with pytest.raises(ConfigError, match=f"{name}: has no {foreign}; its X is"):
            open_reader(name, tmp_path, "train", foreign)

    def test_option(self, name, tmp_path):
        with pytest.raises(ConfigError, match="unknown option 'colour'"):
            open_reader(name, tmp_path, "train", MODALITIES[name], {"colour": 1})

    def test_root(self, name, tmp_path):
        with pytest.raises(DataError, match=str(tmp_path / "nowhere")):
            open_reader(name, tmp_path / "nowhere", "train", MODALITIES[name])

    def test_empty_root(self, name, tmp_path):
        with pytest.raises(DataError, match=r"expected|cannot be read"):
            open_reader(name, tmp_path, "train", MODALITIES[name])


def test_all_five_are_registered():
    assert set(MODALITIES) <= set(READERS)
    for name in MODALITIES:
        assert issubclass(READERS[name], FileReader)
        assert READERS[name].options is not None


def test_a_sample_becomes_a_training_view(world):
    reader = opened(world, splits(world)[0])
    preparation = Preparation(
        unified_label_space(), EncodingConfig(), SensorConfig(), AugmentConfig()
    )
    views = prepare(reader, 0, preparation)  # the reader knows its sensors, the run need not
    assert views.rgb.shape == views.x.shape == (3, *views.labels.shape)
    assert views.modality is reader.modality


def test_options_of_a_run_reach_the_reader():
    data = {"reader": "deliver", "root": "d", "modality": "event"}
    stated = from_mapping(DataConfig, {**data, "options": {"weather": ["rain"]}})
    assert stated.options == {"weather": ["rain"]}
    assert from_mapping(DataConfig, data).options == {}


def test_data_sets_without_options_say_so(tmp_path, monkeypatch):
    monkeypatch.setitem(READERS, "plain", lambda *_: None)
    with pytest.raises(ConfigError, match="'plain' has no options; got weather"):
        open_reader("plain", tmp_path, "train", Modality.EVENT, {"weather": []})


def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown option 'weather' \(known: x\)"):
        open_reader("synthetic_street", tmp_path, "train", Modality.EVENT, {"weather": []})
