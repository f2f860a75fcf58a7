"""Fine-tuning: classes by name, frozen parts, own data sets from the audit to the replay."""

import json
import logging

import numpy as np
import pytest
import torch
import yaml
from own_data import dataset, write_dataset, write_yaml
from stage2_case import RUN, assert_same_run, changed

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.images import read_image
from segrgbx_core.labels.label_space import synthetic_label_space
from segrgbx_core.runtime.checkpoint import load_checkpoint, read_contract
from segrgbx_ros.replay.replay import main as replay
from training.audit import main as audit
from training.data.mixing import TrainingSplit, count_classes
from training.evaluate import main as evaluate
from training.stage2.config import read_run
from training.stage2.losses import median_frequency_weights
from training.stage2.task import SegmentationTask, train

SMALL = {
    "augment": {"min_scale": 0.9, "max_scale": 1.1, "flip": 0.0},
    "run": {"steps": 2, "score_every": 2, "save_every": 1},
}


def run_of(folder, root, *overrides, **changes):
    """A run on an own data set, read from a file."""
    run = changed(changed(RUN, SMALL), {"data": [{"reader": "folder", "root": str(root)}]})
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(changed(run, changes)))
    return read_run(path, [f"run.out={folder / 'out'}", *overrides])


def rows(model):
    return model.head.classifier.weight[:, :, 0, 0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of three own classes beside the unified ones, and its data set."""
    folder = tmp_path_factory.mktemp("trained")
    content = dataset()
    content["classes"][0]["unified"] = "road"
    write_dataset(folder / "yard", content)
    train(run_of(folder, folder / "yard"))
    return folder


def test_new_classes_come_behind_the_unified_ones(trained):
    contract = read_contract(trained / "out/best.safetensors")
    names = contract.label_space["names"]
    assert names[:71] == list(synthetic_label_space().names)
    assert names[71:] == ["person (yard)", "pallet"]
    assert contract.native_spaces == ("yard",)
    assert [m.value for m in contract.modalities] == ["thermal"]


def test_equal_names_keep_their_weights_and_the_log_says_which(trained, tmp_path, caplog):
    rows_of_set = [
        {"name": "gate", "value": 0},
        {"name": "pallet", "value": 1},
        {"name": "street", "value": 2, "unified": "road"},
    ]
    write_dataset(tmp_path / "gates", dataset(classes=rows_of_set))
    start = trained / "out/last.safetensors"
    before = load_checkpoint(start)
    with caplog.at_level(logging.INFO):
        task = SegmentationTask(run_of(tmp_path, tmp_path / "gates", init=str(start)))
    assert (
        "init: 73 classes keep their weights, 1 start anew (gate), 0 are left out" in caplog.text
    )
    assert task.label_space.names == (*before.label_space.names, "gate")
    assert torch.equal(rows(task.model)[:-1], rows(before.model))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        task = SegmentationTask(
            run_of(tmp_path, tmp_path / "gates", init=str(start), classes="own")
        )
    assert (
        "init: 2 classes keep their weights, 1 start anew (gate), 71 are left out" in caplog.text
    )
    assert task.label_space.names == ("gate", "pallet", "road")
    places = [before.label_space.names.index(name) for name in ("pallet", "road")]
    assert torch.equal(rows(task.model)[1:], rows(before.model)[places])
    assert not torch.equal(rows(task.model)[0], rows(before.model)[0])
    other = [name for name in task.model.state_dict() if not name.startswith("head.classifier")]
    own = before.model.state_dict()
    assert all(torch.equal(task.model.state_dict()[name], own[name]) for name in other)


def test_another_architecture_is_refused(trained, tmp_path):
    config = run_of(
        tmp_path,
        trained / "yard",
        "model.head.embed_dim=8",
        init=str(trained / "out/last.safetensors"),
    )
    with pytest.raises(CheckpointError, match="does not fit the run's model, first at 'head"):
        SegmentationTask(config)


def test_preset_init_takes_what_the_checkpoint_states(trained, tmp_path):
    start = trained / "out/last.safetensors"
    plain = {"data": [{"reader": "folder", "root": str(trained / "yard")}],
             "run": {"out": str(tmp_path / "out")}, "preset": "init", "init": str(start),
             "clip": {"checkpoint": "init"}, "encoding": {"depth": {"min_m": 2.0}}}  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain))
    config, contract = read_run(path), read_contract(start)
    assert (config.model, config.ma_clip) == (contract.model, contract.ma_clip)
    assert config.input == contract.input
    assert config.encoding.depth.min_m == 2.0
    assert config.encoding.thermal == contract.encoding.thermal
    task = SegmentationTask(config)
    own = load_checkpoint(start).ma_clip.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in task.ma_clip.state_dict().items())
    for change, message in (
        ({"init": ""}, "preset: init needs a checkpoint in init"),
        ({"tower": "tiny"}, "tower has no effect with preset: init"),
    ):
        path.write_text(yaml.safe_dump({**plain, **change}))
        with pytest.raises(ConfigError, match=message):
            read_run(path)


def test_frozen_parts_keep_weights_and_statistics(trained, tmp_path):
    start = trained / "out/last.safetensors"
    names = ["backbone", "head.projections", "head.norm"]
    config = run_of(tmp_path, trained / "yard", init=str(start), freeze=names)
    train(config)
    before = load_checkpoint(start).model.state_dict()
    after = load_checkpoint(tmp_path / "out/last.safetensors").model.state_dict()
    for name, value in after.items():
        is_frozen = name.startswith(tuple(f"{part}." for part in names))
        if is_frozen or name in ("head.fuse.weight", "head.classifier.weight"):
            assert torch.equal(value, before[name]) is is_frozen, name


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("backbon", r"the model has no part 'backbon' \(did you mean 'backbone'\?\)"),
        ("zzz", r"the model has no part 'zzz' \(parts: backbone, "),
        ("head.fuse.", "the model has no part"),
    ],
)
def test_a_part_that_does_not_exist_is_refused(trained, tmp_path, part, message):
    with pytest.raises(ConfigError, match=message):
        SegmentationTask(run_of(tmp_path, trained / "yard", freeze=[part]))


def test_nothing_left_to_train_is_refused(trained, tmp_path):
    task = SegmentationTask(run_of(tmp_path, trained / "yard"))
    parts = [name for name, _ in task.model.named_children()]
    parts += [name for name, _ in task.model.named_parameters() if "." not in name]
    with pytest.raises(ConfigError, match="nothing is left to train"):
        SegmentationTask(run_of(tmp_path, trained / "yard", freeze=parts))


class Killed(BaseException):
    """Stands for a power cut: nothing is allowed to catch it."""


def test_a_run_resumes_exactly_and_only_on_the_same_samples(tmp_path, monkeypatch):
    root = tmp_path / "yard"
    write_dataset(root)
    train(run_of(tmp_path, root, f"run.out={tmp_path / 'whole'}"))
    half = run_of(tmp_path, root, f"run.out={tmp_path / 'parts'}")

    batches = SegmentationTask.batches

    def dying(*arguments):
        yield next(batches(*arguments))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "batches", dying)
        with pytest.raises(Killed):
            train(half)
    train(half)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    (root / "train.txt").write_text("0000\n0002\n0001\n0003\n")
    with pytest.raises(CheckpointError, match=r"data.0 held 4 samples \(.* when the run began"):
        train(half)


def test_median_frequency_by_hand(tmp_path):
    counts = np.array([60, 20, 1, 0]), np.array([100, 40, 100, 0])
    weights = median_frequency_weights(*counts, largest=4.0)
    assert weights.tolist() == pytest.approx([0.5 / 0.6, 1.0, 4.0, 1.0])
    write_dataset(tmp_path / "yard", dataset(classes=("road", "person")), frames=3)
    task = SegmentationTask(
        run_of(tmp_path, tmp_path / "yard", "loss.class_weights=median_frequency", classes="own")
    )
    found = count_classes([TrainingSplit(task.readers[0])], [1.0], task.label_space)
    assert found.frames.tolist() == [2, 2]
    assert found.around.tolist() == [10**9, 10**9]
    expected = median_frequency_weights(found.pixels, found.around)
    assert torch.equal(task.objective.loss.class_weights, torch.from_numpy(expected))


def test_counts_are_logged_first(trained, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        SegmentationTask(run_of(tmp_path, trained / "yard"))
    lines = caplog.text.splitlines()
    assert "yard: classes in 4 of 4 training frames" in lines[0]
    assert any(line.startswith("| pallet ") for line in lines[:8])


SETS = {
    "three": (dataset(), "ids"),
    "twenty in colour": (
        dataset(classes=[f"kind {number}" for number in range(20)], ignore=[[255, 255, 255]]),
        "colors",
    ),
    "two hundred": (
        dataset(classes=[f"kind {number}" for number in range(200)]),
        "ids",
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_own_classes_from_the_audit_to_the_replay(tmp_path, name, capsys):
    content, form = SETS[name]
    root = tmp_path / "mine"
    truth = write_dataset(root, content, size=(32, 200), form=form)
    assert audit(["folder", str(root)]) == 0
    choice = "own" if len(truth) and len(content["classes"]) > 180 else "extend"
    steps = {"steps": 20, "score_every": 20, "save_every": 20, "log_every": 20}
    train(run_of(tmp_path, root, classes=choice, run=steps))
    checkpoint = str(tmp_path / "out/best.safetensors")
    out = str(tmp_path / "report")
    assert evaluate([checkpoint, "--reader", "folder", "--root", str(root), "--out", out]) == 0
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["label_space"] == "mine"
    number = len(content["classes"])
    assert list(report["iou"]) == [row["name"] for row in content["classes"]]
    bag = tmp_path / "bag"
    write_bag(bag, root, sorted(truth)[-2:], truth)
    config = tmp_path / "thermal.yaml"
    config.write_text("/**:\n  ros__parameters:\n    pairs: [thermal]\n    model: {device: cpu}\n")
    arguments = [str(bag), "--config", str(config), "--checkpoint", checkpoint, "--quiet",
                 "--label-space", "mine", "--truth-space", "mine"]  # fmt: skip
    assert replay([*arguments, "--out", str(tmp_path / "replayed")]) == 0
    capsys.readouterr()
    replayed = json.loads((tmp_path / "replayed/report.json").read_text())
    scores = replayed["pairs"]["thermal"]["scores"]
    assert scores["frames"] == 2
    assert scores["classes"] == number
    assert scores["miou"] == pytest.approx(report["miou"]["skip"], abs=1e-6)


def write_bag(path, root, stems, truth):
    """Writes frames of a data set with their labels' ids as a recording."""
    with BagWriter(path) as bag:
        for index, stem in enumerate(stems):
            stamp = (index + 1) * 10**9
            images = {
                "rgb": (read_image(root / f"rgb/{stem}.png"), "rgb8"),
                "x": (read_image(root / f"thermal/{stem}.png"), "mono16"),
                "label": (truth[stem], "mono8"),
            }
            for name, (array, encoding) in images.items():
                topic = f"/thermal/{name}" if name == "label" else f"/thermal/{name}/image"
                bag.write(topic, bag.image(array, encoding, stamp, "cam"), stamp)


def test_own_and_rendered_data_sets_are_learned_together(tmp_path, made_readers):
    write_dataset(tmp_path / "yard")
    data = [
        {"reader": "folder", "root": str(tmp_path / "yard")},
        {"reader": "patches", "root": ".", "modality": "thermal", "share": 0.5},
    ]
    rgb_alone = dataset(modality=None, x=None, name="rgb_alone")
    write_dataset(tmp_path / "rgb", rgb_alone)
    data.append({"reader": "folder", "root": str(tmp_path / "rgb"), "share": 0.2})
    config = run_of(tmp_path, tmp_path / "yard", augment={"drop_rgb": 1.0}, data=data)
    task = SegmentationTask(config)
    assert task.label_space.num_classes == 71 + 5  # pallet, and road and person of each
    assert {native.name for native in task.label_space.natives} >= {"yard", "rgb_alone"}
    for draw in range(len(task.dataset)):
        item = task.dataset[draw]
        is_rgb_alone = task.dataset.plan.source[draw] == 2
        assert bool(item["rgb"].any()) == is_rgb_alone, "RGB is all that such data have"
        assert bool(item["x"].any()) != is_rgb_alone
    train(config)


def test_a_dataset_file_that_contradicts_the_run(tmp_path):
    write_dataset(tmp_path / "yard")
    with pytest.raises(ConfigError, match="has no depth; its X is thermal"):
        SegmentationTask(run_of(tmp_path, tmp_path / "yard", "data.0.modality=depth"))
    write_yaml(tmp_path / "yard", dataset(splits={"train": "train.txt"}))
    task = SegmentationTask(run_of(tmp_path, tmp_path / "yard"))
    with pytest.raises(ConfigError, match="has no split 'val'; name it under splits"):
        list(task._val_readers())
