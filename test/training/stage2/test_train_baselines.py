"""The baselines train with the same program and run files, into the same checkpoints."""

import pytest
import torch
from stage2_case import SQUARES, Squares, write_run

from segrgbx_core.base.modality import Modality
from segrgbx_core.runtime.checkpoint import load_checkpoint
from training.eval.scoring import evaluate
from training.stage2.config import read_run
from training.stage2.task import SegmentationTask, train


@pytest.mark.parametrize("name", ["cmx", "cmnext", "geminifusion", "stitchfusion", "segformer"])
def test_a_baseline_trains_and_is_scored(name, tmp_path, monkeypatch, made_readers):
    path = write_run(tmp_path, SQUARES, {"preset": f"{name}_tiny", "run": {"steps": 3}})
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
    assert 0 <= evaluate(best, Squares("", "val", Modality.THERMAL)).miou <= 1
