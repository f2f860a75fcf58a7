"""A run that is stopped at any step and started again ends in the very same weights.

Processes that are really shot are in `test_kill.py`.
"""

import shutil

import pytest
from stage2_case import assert_same_run, write_run

from segrgbx_core.base.errors import CheckpointError
from training.stage2.config import read_run
from training.stage2.task import SegmentationTask, train
from training.train_segmentation import main

CHANCE = {
    "model": {"backbone": {"drop_path": 0.3}, "head": {"dropout": 0.1}},
    "augment": {"noise": 0.05, "min_scale": 0.5},
    "loss": {"points": 100},
    "optimizer": {"learning_rate": 0.003, "ema_decay": 0.9, "clip_norm": 1.0},
    "run": {"steps": 9, "save_every": 3},
}


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, made_readers):
    return write_run(tmp_path_factory.mktemp("run"), CHANCE)


@pytest.fixture(scope="module")
def whole(run_file):
    """The run that nothing disturbed."""
    out = run_file.parent / "whole"
    train(read_run(run_file, [f"run.out={out}"]))
    return out


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
    assert_same_run(broken, whole)


def test_bookkeeping_may_change_on_resume_but_the_recipe_may_not(tmp_path, run_file, whole):
    out = shutil.copytree(whole, tmp_path / "copy")
    train(read_run(run_file, [f"run.out={out}", "run.log_every=4", "run.save_every=2"]))
    with pytest.raises(CheckpointError, match="run with other options"):
        train(read_run(run_file, [f"run.out={out}", "optimizer.learning_rate=0.1"]))
    assert main([str(run_file), "--set", f"run.out={out}", "--set", "run.steps=10"]) == 2


def test_workers_change_nothing(tmp_path, run_file, whole):
    train(read_run(run_file, [f"run.out={tmp_path / 'b'}", "run.workers=1"]))
    assert_same_run(tmp_path / "b", whole)
