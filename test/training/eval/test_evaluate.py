"""Evaluation from files to reports: pooling, run files, the command line, errors."""

import json

import numpy as np
import pytest
import yaml

from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.images import read_labels, write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import random_checkpoint
from segrgbx_core.runtime.segmenter import InferenceConfig
from training.data.datasets import Labelled, open_reader
from training.data.datasets.export import UrbanLfLayout, export_urbanlf
from training.data.datasets.synthetic import is_rendered, mark_rendered
from training.eval.eval_data import open_splits
from training.eval.scoring import EvalOptions, evaluate, evaluate_splits
from training.eval.test_time_augmentation import Fit, TtaConfig
from training.evaluate import main

CPU = InferenceConfig(device="cpu")
NAMES = ("deliver", "mfnet", "nyu", "zju_rgbp", "urbanlf")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluate") / "tiny.safetensors"
    random_checkpoint(path, input=InputConfig(height=32, width=64))
    return path


@pytest.fixture
def urbanlf(tmp_path, make):
    """Both parts in two roots: three real samples and two synthetic ones."""
    rng = np.random.default_rng(3)
    frames = {
        layout: [make["urbanlf"](rng, f"Image{n:03d}") for n in range(count)]
        for layout, count in ((UrbanLfLayout.REAL, 3), (UrbanLfLayout.SYNTHETIC, 2))
    }
    for layout, listed in frames.items():
        export_urbanlf(listed, tmp_path / layout.value, "val", layout)
    return [str(tmp_path / layout.value) for layout in frames]


def iou_of(matrix):
    """Mean IoU over the classes that occur, written out."""
    values = []
    for index in range(len(matrix)):
        union = matrix[index].sum() + matrix[:, index].sum() - matrix[index, index]
        if union:
            values.append(matrix[index, index] / union)
    return sum(values) / len(values)


def test_several_roots_are_one_matrix(checkpoint, urbanlf):
    def scored(roots, **options):
        splits = open_splits("urbanlf", roots, "val")
        return evaluate_splits(checkpoint, splits, CPU, EvalOptions(**options))

    real, synthetic = (scored([root]) for root in urbanlf)
    pooled = scored(urbanlf)
    assert (real.samples, synthetic.samples, pooled.samples) == (3, 2, 5)
    total = real.matrix.matrix + synthetic.matrix.matrix
    assert np.array_equal(pooled.matrix.matrix, total)
    assert pooled.miou == pytest.approx(iou_of(total))
    assert np.array_equal(pooled.groups["real"].matrix, real.matrix.matrix)
    assert np.array_equal(pooled.groups["synthetic"].matrix, synthetic.matrix.matrix)
    assert pooled.sizes == {"real": 3, "synthetic": 2}
    assert pooled.part_mean() == pytest.approx((real.miou + synthetic.miou) / 2)
    assert pooled.conditions.whole == 108
    assert (
        not pooled.conditions.is_synthetic
    )  # UrbanLF's own rendered part is the public data set's
    ahead = scored(urbanlf, workers=2, batch_size=1)
    assert np.array_equal(ahead.matrix.matrix, total)


def test_limits_spread_over_the_split(checkpoint, urbanlf):
    reader = open_reader("urbanlf", urbanlf[0], "val", Modality.LIGHT_FIELD)
    found = evaluate(checkpoint, reader, CPU, options=EvalOptions(limit=2))
    assert found.samples == 2
    assert found.conditions.split == "val"
    assert "**2 of 108 samples**" in found.to_markdown()
    assert found.matrix.num_pixels == sum(
        int((reader[index].labels != VOID).sum()) for index in (0, 2)
    )


def test_views_change_the_answers_and_are_named(checkpoint, urbanlf):
    reader = open_reader("urbanlf", urbanlf[1], "val", Modality.LIGHT_FIELD)
    plain = evaluate(checkpoint, reader, CPU)
    views = TtaConfig(fit=Fit.NATIVE, scales=(0.75, 1.0), flip=True)
    other = evaluate(checkpoint, reader, CPU, options=EvalOptions(views))
    assert other.matrix.num_pixels == plain.matrix.num_pixels
    assert not np.array_equal(other.matrix.matrix, plain.matrix.matrix)
    assert "native resolution, scales 0.75, 1, mirrored too" in other.to_markdown()
    assert "whole frames at 64x32, single scale" in plain.to_markdown()


def test_any_class_may_answer_in_the_unified_space(checkpoint, urbanlf):
    reader = open_reader("urbanlf", urbanlf[0], "val", Modality.LIGHT_FIELD)
    found = evaluate(checkpoint, reader, CPU, options=EvalOptions(space="unified"))
    assert len(found.names) > 14
    figures = found.to_dict()["figures"]
    assert figures["miou"]["skip"] < figures["miou_own"]["skip"]


def test_random_weights_are_named(checkpoint, urbanlf):
    reader = open_reader("urbanlf", urbanlf[0], "val", Modality.LIGHT_FIELD)
    found = evaluate(checkpoint, reader, CPU)
    assert found.conditions.is_random
    assert "**Untrained**" in found.to_markdown()


@pytest.fixture
def run_file(tmp_path, write_world):
    """A run over all five data sets, UrbanLF's in two roots."""
    data = []
    for name in NAMES:
        modality, val = write_world(name, tmp_path / name)
        root = str(tmp_path / name)
        data.append({"reader": name, "root": root, "modality": modality.value, "val_split": val})
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"data": data, "run": {"out": str(tmp_path / "out")}}))
    return path


def test_a_run_file_gives_the_joint_table(tmp_path, checkpoint, run_file, urbanlf, capsys):
    entries = yaml.safe_load(run_file.read_text())
    entries["data"][4]["root"] = urbanlf[0]
    entries["data"].append({**entries["data"][4], "root": urbanlf[1]})
    run_file.write_text(yaml.safe_dump(entries))
    out = tmp_path / "report"
    status = main([str(checkpoint), "--run", str(run_file), "--device", "cpu", "--out", str(out)])
    page = capsys.readouterr().out
    assert status == 0
    columns = "deliver event | mfnet thermal | nyu depth | zju_rgbp polarization"
    assert f"| mIoU | mean | {columns} | urbanlf light_field |" in page
    joint = json.loads((out / "report.json").read_text())
    reports = {entry["native"]: entry for entry in joint["reports"]}
    assert {name: entry["split"] for name, entry in reports.items()} == {
        **dict.fromkeys(NAMES, "val"), "nyu": "test"
    }  # fmt: skip
    assert reports["urbanlf"]["samples"] == 5
    firsts = [entry["figures"][entry["primary"]]["skip"] for entry in joint["reports"]]
    assert joint["means"]["real"]["first reading"] == pytest.approx(np.mean(firsts), abs=2e-6)
    for entry in joint["reports"]:
        folder = out / f"{entry['native']}_{entry['modality']}"
        assert json.loads((folder / "report.json").read_text()) == entry
        assert (folder / "confusion.png").stat().st_size > 5000
        assert f"]({folder.name}/report.md)" in (out / "report.md").read_text()
    assert {"day", "night"} == set(reports["mfnet"]["groups"])
    assert {"rain", "sun", "motionblur"} == set(reports["deliver"]["groups"])


def test_published_splits_differ_by_data_set(tmp_path, checkpoint, run_file, capsys):
    arguments = [str(checkpoint), "--run", str(run_file), "--split", "published"]
    assert main(arguments) == 2  # the fixture has no test split of MFNet
    assert "test.txt: is missing; expected the list of MFNet's test" in capsys.readouterr().err
    assert open_splits("nyu", [str(tmp_path / "nyu")], "published")[0].split == "test"


def test_command_line_of_one_data_set(tmp_path, checkpoint, urbanlf, capsys):
    out = tmp_path / "one"
    status = main(
        [str(checkpoint), "--reader", "urbanlf", "--root", urbanlf[0], "--root", urbanlf[1],
         "--device", "cpu", "--fit", "window", "--size", "32x32", "--stride", "0.5", "--flip",
         "--scales", "1", "--set", "view='9_1'", "--out", str(out)]
    )  # fmt: skip
    assert status == 0
    assert capsys.readouterr().out in (out / "report.md").read_text()
    plain = json.loads((out / "report.json").read_text())
    assert plain["views"] == "windows 32x32, stride 0.5, single scale, mirrored too"
    assert plain["options"] == "view=9_1"
    assert plain["modality"] == "light_field"
    assert len(plain["hash"]) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--root", "x", "--reader", "mfnet", "--modality", "radar"],
            "has no radar; its X is thermal",
        ),
        (["--root", "x", "--reader", "mfnt"], "did you mean 'mfnet'"),
        (["--root", "x", "--reader", "nyu", "--split", "vall"], "split 'vall' does not exist"),
        ([], "name the data set's folder with --root"),
        (["--root", "x", "--run", "y.yaml"], "--root has no effect with --run"),
        (["--run", "missing.yaml"], "missing.yaml: cannot be read"),
        (["--size", "64x64", "--fit", "native"], "--size has no effect with --fit native"),
        (["--stride", "0.5"], "--stride has no effect without --fit window"),
        (["--fit", "windows"], "'windows' is not one of whole, aspect, native, window"),
        (["--scales", "0"], "scales are one or more factors"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(checkpoint, urbanlf, capsys, arguments, message):
    if arguments and arguments[0] not in ("--root", "--run"):
        arguments = ["--reader", "urbanlf", "--root", urbanlf[0], *arguments]
    assert main([str(checkpoint), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_label_outside_the_table_names_the_file(tmp_path, checkpoint, write_world):
    modality, val = write_world("mfnet", tmp_path)
    reader = open_reader("mfnet", tmp_path, val, modality)
    path = reader.files[1].label
    labels = read_labels(path).copy()
    labels[3, 3] = 77
    write_image(path, labels)
    refused = rf"{path}: label value 77 \(1 pixels\) is not in the table"
    with pytest.raises(DataError, match=refused):
        evaluate(checkpoint, reader, CPU)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "other file"])
@pytest.mark.parametrize("role", ["label", "image"])
def test_a_damaged_file_is_named(tmp_path, checkpoint, write_world, damage, role):
    modality, val = write_world("mfnet", tmp_path)
    reader = open_reader("mfnet", tmp_path, val, modality)
    splits = open_splits("mfnet", [str(tmp_path)], val)  # all files are there when it begins
    path = reader.files[1].label if role == "label" else reader.files[1].rgb
    data = path.read_bytes()
    broken = {"empty": b"", "cut short": data[: len(data) // 2], "other file": b"text"}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(broken[damage])
    with pytest.raises(DataError) as caught:
        evaluate_splits(checkpoint, splits, CPU, EvalOptions(workers=2))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_label_is_seen_before_anything_is_computed(tmp_path, write_world, capsys):
    _, val = write_world("mfnet", tmp_path)
    reader = open_reader("mfnet", tmp_path, val, Modality.THERMAL)
    reader.files[0].label.unlink()
    arguments = ["no.safetensors", "--reader", "mfnet", "--root", str(tmp_path), "--split", val]
    assert main(arguments) == 2
    assert f"{reader.files[0].label}: is missing" in capsys.readouterr().err


class Odd:
    """A reader of two samples whose second one is wrong in some way."""

    native, modality = "mfnet", Modality.THERMAL

    def __init__(self, fault):
        self.fault = fault

    def __len__(self):
        return 0 if self.fault == "empty" else 2

    def __getitem__(self, index):
        labels = np.zeros((32, 64), np.uint8)
        thermal = np.full((32, 64), 28000, np.uint16)
        if index and self.fault == "id":
            labels[0, 0] = 99
        if index and self.fault == "size":
            labels = labels[:-1]
        if index and self.fault == "x":
            thermal = np.zeros((2, 2, 5, 5))
        rgb = np.zeros((32, 64, 3), np.uint8)
        return Labelled(RgbxSample(rgb, thermal, self.modality), labels, f"frame{index}")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("id", "mfnet: sample 'frame1': truth: id 99 is none of 9 classes"),
        ("size", r"mfnet: sample 'frame1': labels are \(32, 64\) but truth is \(31, 64\)"),
        ("x", "mfnet: sample 'frame1': thermal x: "),
        ("empty", "mfnet: the split has no samples to score"),
    ],
)
def test_wrong_samples_are_named(checkpoint, fault, message):
    with pytest.raises(DataError, match=message):
        evaluate(checkpoint, Odd(fault), CPU)


def test_label_spaces_that_the_checkpoint_lacks_are_refused(checkpoint):
    class Foreign(Odd):
        native = "cityscapes"

    with pytest.raises(ConfigError, match="label space 'cityscapes' is not known"):
        evaluate(checkpoint, Foreign(""), CPU)


def test_rendered_scenes_in_a_public_layout_are_marked(tmp_path, checkpoint, write_world):
    modality, val = write_world("mfnet", tmp_path / "data")
    reader = open_reader("mfnet", tmp_path / "data", val, modality)
    assert not evaluate(checkpoint, reader, CPU).conditions.is_synthetic
    mark_rendered(tmp_path / "data")
    assert evaluate(checkpoint, reader, CPU).conditions.is_synthetic
    assert is_rendered("mfnet", tmp_path)
    assert is_rendered("synthetic_street")
    assert not is_rendered("mfnet", tmp_path / "data" / "images" / "deeper")
