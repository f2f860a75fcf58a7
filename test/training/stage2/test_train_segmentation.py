"""Stage 2 end to end on fabricated squares: it learns and writes checkpoints that say all."""

import json
from pathlib import Path

import pytest
import torch
from stage2_case import SQUARES, Squares, write_run

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.runtime.checkpoint import load_checkpoint
from training.engine.loop import Loop
from training.eval.scoring import evaluate
from training.stage2.config import read_run
from training.stage2.task import SegmentationTask, train
from training.train_segmentation import main

CHANCE = {
    "model": {"backbone": {"drop_path": 0.1}, "head": {"dropout": 0.1}},
    "augment": {"crop_height": 32, "noise": 0.02, "drop_x": 0.1, "jitter": 0.5, "min_scale": 0.5},
    "loss": {"points": 200, "class_weights": "inverse_root"},
    "optimizer": {"learning_rate": 0.003, "ema_decay": 0.9, "clip_norm": 1.0},
    "run": {"steps": 8, "log_every": 2},
}


@pytest.fixture
def run_file(tmp_path, made_readers):
    return write_run(tmp_path, SQUARES, CHANCE)


def test_learns_what_only_x_shows_and_keeps_the_clip_frozen(tmp_path, run_file):
    overrides = ["run.steps=60", "augment.drop_x=0", "augment.crop_height=64", "loss.points=0",
                 "optimizer.learning_rate=0.006", f"run.out={tmp_path / 'a'}"]  # fmt: skip
    config = read_run(run_file, overrides)
    task = SegmentationTask(config)
    before = {name: value.clone() for name, value in task.ma_clip.state_dict().items()}
    Loop(task, config.run, config.optimizer, config).train()
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.3 * losses[0]
    for name, value in task.ma_clip.state_dict().items():
        assert torch.equal(value, before[name])
    report = evaluate(tmp_path / "a/best.safetensors", Squares("", "val", Modality.THERMAL))
    assert report.miou > 0.7
    assert report.groups["night"].miou() == report.miou
    assert "person" in report.to_markdown()
    json.dumps(report.to_dict(), allow_nan=False)


def test_every_trained_weight_gets_a_gradient(tmp_path, run_file):
    config = read_run(run_file, [f"run.out={tmp_path / 'a'}", "model.backbone.drop_path=0"])
    task = SegmentationTask(config)
    batch = next(task.batches(0, 0, 1))
    task.objective.train()
    task.objective(batch)["loss"].backward()
    missing = [name for name, value in task.objective.named_parameters() if value.grad is None]
    assert missing == []


def test_checkpoint_carries_the_whole_contract(tmp_path, run_file):
    best = train(read_run(run_file, [f"run.out={tmp_path / 'a'}", "run.half_checkpoints=true"]))
    contract = load_checkpoint(best).contract
    assert contract.native_spaces == ("synthetic_street",)
    assert contract.modalities == (Modality.THERMAL,)
    assert contract.input.height == 64
    assert contract.provenance["steps"] == 8
    assert contract.provenance["scores"]["score"] >= 0
    assert contract.provenance["ma_clip_weights"] == "random"
    assert contract.provenance["run"]["optimizer"]["learning_rate"] == 0.003
    assert contract.provenance["run"]["run"]["out"] == "a"
    assert str(tmp_path) not in json.dumps(contract.provenance)


def test_embeddings_of_whole_frames_follow_the_variant(tmp_path, run_file):
    task = SegmentationTask(read_run(run_file, [f"run.out={tmp_path / 'a'}"]))
    embeddings = task.dataset.sources[0].embeddings
    assert embeddings.shape == (6, 4, 2, 16)
    plain, mirrored, without_x, without_rgb = embeddings[0]
    assert torch.equal(plain[0], without_x[0])
    assert torch.equal(plain[1], without_rgb[1])
    assert not torch.equal(plain[1], without_x[1])
    assert not torch.equal(plain, mirrored)


def test_crops_are_embedded_where_asked(tmp_path, run_file):
    config = read_run(run_file, [f"run.out={tmp_path / 'a'}", "clip.full_frame=false"])
    task = SegmentationTask(config)
    batch = next(task.batches(0, 0, 1))
    assert "rgb_embedding" not in batch
    assert torch.isfinite(task.objective(batch)["loss"])


def test_run_files_are_strict(tmp_path, run_file):
    with pytest.raises(ConfigError, match="did you mean 'steps'"):
        read_run(run_file, ["run.out=x", "run.stepps=3"])
    with pytest.raises(ConfigError, match="preset 'tinny' is not known"):
        read_run(run_file, ["run.out=x", "preset=tinny"])
    with pytest.raises(ConfigError, match="no entry"):
        read_run(run_file, ["run.out=x", "data.3.root=y"])
    assert read_run(run_file, ["run.out=x", "data.0.root=y"]).data[0].root == "y"


def test_mistakes_are_one_line_and_exit_2(tmp_path, run_file, capsys):
    assert main([str(run_file), "--set", f"run.out={tmp_path}", "--set", "data.0.reader=x"]) == 2
    assert "data set 'x' is not known" in capsys.readouterr().err


RUN_FILES = sorted(Path("config/train").glob("*.yaml"))
STAGE_2 = [path for path in RUN_FILES if not path.stem.endswith("clip")]


@pytest.mark.parametrize("path", STAGE_2, ids=lambda p: p.stem)
def test_shipped_run_files_load(path):
    assert read_run(path).run.steps > 0
