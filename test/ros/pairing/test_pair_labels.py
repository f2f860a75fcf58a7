"""Label spaces of pairs, classes of a vehicle's own, colours: from files to published ids."""

import json

import numpy as np
import pytest

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import unified_label_space
from segrgbx_core.runtime.checkpoint import default_contract, random_weights
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_ros.config.node import node_config
from segrgbx_ros.messages.labels import label_map_text
from segrgbx_ros.pairing.published_labels import PairPredictor, pair_labels, published_ids

GROUPS = """
classes:
  - {name: drivable, rgb: [1, 2, 3], members: [road, road line]}
  - {name: people, rgb: [9, 8, 7], members: [person]}
"""
NAMES = unified_label_space().names


@pytest.fixture(scope="module")
def segmenter():
    config = InferenceConfig(device="cpu", input_height=64, input_width=64)
    return Segmenter(random_weights(default_contract("tiny")), config)


@pytest.fixture
def groups(tmp_path):
    path = tmp_path / "costmap.yaml"
    path.write_text(GROUPS)
    return path


def sample(modality="thermal"):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)
    return RgbxSample(rgb, rng.integers(900, 9000, (40, 60)).astype(np.uint16), Modality(modality))


def test_every_pair_has_its_own_label_space(segmenter):
    config = node_config({"pairs": ["thermal", "depth"], "thermal.label_space": "mfnet"})
    labels = pair_labels(config, segmenter)
    assert [one.classes.space for one in labels.values()] == ["mfnet", "unified"]
    predictor = PairPredictor(segmenter, labels)
    asked = [sample("thermal"), sample("depth")]
    mixed = predictor.predict(asked, ["thermal", "depth"])
    for one, pair, answer in zip(asked, labels, mixed, strict=True):
        alone = predictor.answer(one, pair)
        assert (alone.labels != answer.labels).mean() < 1e-3, "batches round differently"
    assert mixed[0].labels.max() < len(labels["thermal"].classes.names) <= mixed[1].labels.max()


def test_a_label_space_that_the_checkpoint_lacks_is_refused(segmenter):
    config = node_config({"thermal.label_space": "mfnett"})
    with pytest.raises(ConfigError, match="did you mean 'mfnet'"):
        pair_labels(config, segmenter)


def test_classes_of_the_vehicles_own(segmenter, groups):
    config = node_config({"label.file": str(groups)})
    (labels,) = pair_labels(config, segmenter).values()
    described = json.loads(label_map_text(labels.classes))
    assert described["label_space"] == "costmap"
    assert described["classes"] == [
        {"id": 0, "name": "drivable", "rgb": [1, 2, 3]},
        {"id": 1, "name": "people", "rgb": [9, 8, 7]},
    ]
    ids = [NAMES.index(name) for name in ("road", "road line", "person", "sky")]
    assert labels.grouped(np.uint8([[*ids, 255]])).tolist() == [[0, 0, 1, 255, 255]]
    plain = pair_labels(node_config({}), segmenter)
    one = sample()
    answer = PairPredictor(segmenter, {"thermal": labels}).answer(one, "thermal")
    before = PairPredictor(segmenter, plain).answer(one, "thermal")
    np.testing.assert_array_equal(answer.labels, labels.grouped(before.labels))
    np.testing.assert_array_equal(answer.confidence, before.confidence)


def test_fixed_ids_are_published_and_void_may_be_0(segmenter, groups):
    groups.write_text(GROUPS.replace("[road, road line]", "[road, road line], id: 40"))
    with pytest.raises(ConfigError, match="'people' has no id, but 'drivable' has"):
        pair_labels(node_config({"label.file": str(groups)}), segmenter)
    groups.write_text(groups.read_text().replace("[person]", "[person], id: 7"))
    config = node_config({"label.file": str(groups), "label.unlabeled_id": 0})
    (labels,) = pair_labels(config, segmenter).values()
    described = json.loads(label_map_text(labels.classes))
    assert described["unlabeled_id"] == 0
    assert [(entry["id"], entry["name"]) for entry in described["classes"]] == [
        (40, "drivable"),
        (7, "people"),
    ]
    with pytest.raises(ConfigError, match="unlabeled_id: 7 is the id of 'people'"):
        pair_labels(node_config({"label.file": str(groups), "label.unlabeled_id": 7}), segmenter)


def test_colours_from_a_file(tmp_path, segmenter):
    path = tmp_path / "palette.yaml"
    path.write_text("road: [90, 91, 92]\n")
    (labels,) = pair_labels(node_config({"label.palette_file": str(path)}), segmenter).values()
    place = NAMES.index("road")
    assert labels.classes.palette[place] == (90, 91, 92)
    assert labels.classes.palette[place + 1 :] == unified_label_space().palette[place + 1 :]


def test_void_gets_the_id_that_was_asked_for():
    labels = np.uint8([[3, 255]])
    assert published_ids(labels, 255, is_wide=False) is labels
    assert published_ids(labels, 99, is_wide=False).tolist() == [[3, 99]]
    wide = published_ids(labels, 700, is_wide=True)
    assert (wide.tolist(), wide.dtype) == ([[3, 700]], np.uint16)
