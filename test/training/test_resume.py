"""A run that is stopped at any step and started again ends in the very same weights.

Processes that are really shot are in `test_kill.py`.
"""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from segrgbx_core.checkpoint import load_checkpoint
from segrgbx_core.errors import CheckpointError
from segrgbx_core.samples import RgbxSample
from training import datasets
from training.config import read_run
from training.datasets.labelled import Labelled
from training.train_segmentation import SegmentationTask, main, train

RUN = {
    "preset": "tiny",
    "tower": "tiny",
    "model": {
        "backbone": {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "drop_path": 0.3},
        "head": {"embed_dim": 16},
    },
    "ma_clip": {"image_size": 32, "output_dim": 16, "embed_dim": 24, "depth": 1},
    "input": {"height": 32, "width": 32},
    "augment": {"crop_height": 32, "crop_width": 32, "noise": 0.05},
    "loss": {"points": 100},
    "optimizer": {"learning_rate": 0.003, "ema_decay": 0.9, "clip_norm": 1.0},
    "data": [{"reader": "noise", "root": ".", "modality": "thermal"}],
    "run": {"steps": 9, "batch_size": 2, "device": "cpu", "threads": 1, "log_every": 1,
            "save_every": 3, "score_every": 100},
}  # fmt: skip


class Noise:
    """Random frames, the same for the same number."""

    native = "synthetic_street"

    def __init__(self, root, split, modality):
        self.modality = modality

    def __len__(self):
        return 5

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        rgb = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        thermal = rng.integers(28000, 31000, (40, 48), dtype=np.uint16)
        labels = rng.integers(0, 10, (40, 48), dtype=np.uint8)
        return Labelled(RgbxSample(rgb, thermal, self.modality), labels, str(index))


@pytest.fixture(scope="module", autouse=True)
def _noise():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.READERS, "noise", Noise)
        yield


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


@pytest.fixture(scope="module")
def whole(run_file):
    """The run that nothing disturbed."""
    out = run_file.parent / "whole"
    train(read_run(run_file, [f"run.out={out}"]))
    return out


def last(out):
    return load_checkpoint(out / "last.safetensors").model.state_dict()


def state(out):
    return torch.load(out / "state.pt", weights_only=True)


def assert_same(first, second):
    saved = last(second)
    for name, value in last(first).items():
        assert torch.equal(value, saved[name]), name
    one, two = state(first), state(second)
    assert one["progress"]["step"] == two["progress"]["step"]
    for name, value in one["module"].items():
        assert torch.equal(value, two["module"][name]), name
    for key, entry in one["optimizer"]["state"].items():
        for name, value in entry.items():
            assert torch.equal(value, two["optimizer"]["state"][key][name])


class Killed(BaseException):
    """Stands for a power cut: nothing is allowed to catch it."""


@pytest.mark.parametrize("killed_at", [1, 4, 7])
def test_a_killed_run_ends_bit_equal(tmp_path, run_file, whole, monkeypatch, killed_at):
    broken = tmp_path / "broken"
    batches = SegmentationTask.batches

    def dying(self, first_step, rank, world):
        for step, batch in enumerate(batches(self, first_step, rank, world), first_step):
            if step == killed_at:
                raise Killed
            yield batch

    monkeypatch.setattr(SegmentationTask, "batches", dying)
    with pytest.raises(Killed):
        train(read_run(run_file, [f"run.out={broken}"]))
    monkeypatch.setattr(SegmentationTask, "batches", batches)
    train(read_run(run_file, [f"run.out={broken}"]))
    assert_same(whole, broken)
    logs = [
        [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (whole, broken)
    ]
    for one, two in zip(*logs, strict=True):
        one.pop("seconds_per_step", None), two.pop("seconds_per_step", None)
        assert one == two


def test_bookkeeping_may_change_on_resume_but_the_recipe_may_not(tmp_path, run_file, whole):
    out = shutil.copytree(whole, tmp_path / "copy")
    train(read_run(run_file, [f"run.out={out}", "run.log_every=4", "run.save_every=2"]))
    with pytest.raises(CheckpointError, match="run with other options"):
        train(read_run(run_file, [f"run.out={out}", "optimizer.learning_rate=0.1"]))
    assert main([str(run_file), "--set", f"run.out={out}", "--set", "run.steps=10"]) == 2


def test_workers_change_nothing(tmp_path, run_file, whole):
    train(read_run(run_file, [f"run.out={tmp_path / 'b'}", "run.workers=1"]))
    assert_same(whole, tmp_path / "b")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, run_file):
    with pytest.raises(FloatingPointError, match="lower optimizer"):
        train(
            read_run(
                run_file,
                [f"run.out={tmp_path / 'a'}", "optimizer.learning_rate=1.0e+30", "run.steps=3"],
            )
        )
