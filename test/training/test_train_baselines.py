"""The baselines train with the same program and run files, into the same checkpoints."""

import numpy as np
import pytest
import torch
import yaml

from segrgbx_core.checkpoint import load_checkpoint
from segrgbx_core.modality import Modality
from segrgbx_core.samples import RgbxSample
from training import datasets
from training.config import read_run
from training.datasets.labelled import Labelled
from training.evaluate import evaluate
from training.train_segmentation import SegmentationTask, train

RUN = {
    "tower": "tiny",
    "model": {
        "backbone": {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
        "head": {"embed_dim": 16},
    },
    "ma_clip": {"image_size": 32, "output_dim": 16, "embed_dim": 24, "depth": 1},
    "input": {"height": 64, "width": 64},
    "augment": {"crop_height": 64, "crop_width": 64},
    "data": [{"reader": "halves", "root": ".", "modality": "thermal"}],
    "run": {"steps": 3, "batch_size": 2, "device": "cpu", "threads": 1, "log_every": 1,
            "save_every": 3, "score_every": 100},
}  # fmt: skip


class Halves:
    """A warm lower half (a person, to the labels) that RGB does not show."""

    native = "synthetic_street"

    def __init__(self, root, split, modality):
        self.modality = modality

    def __len__(self):
        return 2

    def __getitem__(self, index):
        labels = np.zeros((64, 64), np.uint8)
        labels[32:] = 9
        thermal = np.where(labels == 9, 30500, 28000).astype(np.uint16)
        rgb = np.full((64, 64, 3), 90 + index, np.uint8)
        return Labelled(RgbxSample(rgb, thermal, self.modality), labels, f"{index}", ())


@pytest.mark.parametrize("name", ["cmx", "cmnext", "geminifusion", "stitchfusion"])
def test_a_baseline_trains_and_is_scored(name, tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.READERS, "halves", Halves)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, "preset": f"{name}_tiny"}))
    config = read_run(path, [f"run.out={tmp_path / 'out'}"])
    task = SegmentationTask(config)
    monkeypatch.setattr(type(task.ma_clip), "forward", None)  # nobody asks for embeddings
    task.objective.train()
    task.objective(next(task.batches(0, 0, 1)))["loss"].backward()
    assert all(value.grad is not None for value in task.objective.parameters())
    best = train(config)
    loaded = load_checkpoint(best)
    assert loaded.contract.model.architecture == name
    started = SegmentationTask(config).model.state_dict()
    learned = loaded.model.state_dict()
    assert not torch.equal(learned["head.fuse.weight"], started["head.fuse.weight"])
    assert 0 <= evaluate(best, Halves("", "val", Modality.THERMAL)).miou <= 1
