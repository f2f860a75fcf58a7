"""Stage 1 at tiny size: rendered records, captions, adapters, and on into stage 2."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from stage2_case import write_run

from segrgbx_core.base.errors import CheckpointError, ConfigError, DataError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import Events
from segrgbx_core.model.adapter_files import load_adapters
from segrgbx_core.model.clip_weights import load_clip_weights
from segrgbx_core.model.lora import adapter_tensors
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.tensor_files import read_metadata, read_tensors, write_tensors
from segrgbx_core.runtime.checkpoint import load_checkpoint
from training import captions
from training.engine.loop import Loop
from training.stage1.config import Batching, read_ma_clip_run
from training.stage1.pairs import plan_pairs
from training.stage1.retrieval import recall_at, separation
from training.stage1.task import BEST, MaClipTask, train
from training.stage1.text_tower import KEY
from training.stage2.config import read_run
from training.stage2.task import SegmentationTask
from training.stage2.task import train as train_stage_2
from training.train_ma_clip import main
from training.world.records import Record, save_record

pytestmark = pytest.mark.clip
pytest.importorskip("open_clip")
pytest.importorskip("peft")

ROOT = Path(__file__).resolve().parents[3]
THERMAL, EVENT = Modality.THERMAL, Modality.EVENT
SIZE = 32
RUN = {
    "tower": "tiny",
    "ma_clip": {"image_size": 16, "output_dim": 24, "embed_dim": 24, "depth": 1},
    "text": {"model": "tiny"},
    "data": [
        {"reader": "synthetic_street", "modality": "thermal"},
        {"reader": "synthetic_street", "modality": "event"},
    ],
    "input": {"height": SIZE, "width": SIZE},
    "lora_dropout": 0.0,
    "views": {"flip": 0.0, "smallest_crop": 0.95},
    "optimizer": {"learning_rate": 0.01},
    "run": {"steps": 6, "batch_size": 4, "device": "cpu", "threads": 1, "log_every": 2,
            "save_every": 2, "score_every": 3},
}  # fmt: skip


def record(seed):
    """A picture in halves whose classes, warmth and events all tell where the border is."""
    border = 4 + 6 * (seed % 4)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[:, border:] = 3 + seed % 4
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    rgb[:, border:] += 120
    thermal = np.full((SIZE, SIZE), 28000, np.uint16)
    thermal[:, border:] = 31000
    rows = np.repeat(np.arange(SIZE, dtype=np.uint16), 6)
    columns = (np.tile(np.arange(6), SIZE) - 3 + border).astype(np.uint16)
    times = np.arange(len(rows), dtype=np.int64) * 1000
    events = Events(columns, rows, times, (rows % 2).astype(np.uint8), SIZE, SIZE)
    stamp = int(times[-1])
    return Record(seed, stamp, rgb, labels, x_stamp_ns=stamp, thermal=thermal, events=events)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("street")
    for split, seeds in (("train", range(12)), ("val", range(100, 108))):
        (root / split).mkdir()
        for seed in seeds:
            save_record(root / split / f"{seed:05d}_00.npz", record(seed))
    return root


@pytest.fixture(scope="module")
def run_file(data):
    path = data / "run.yaml"
    run = {**RUN, "captions": str(data / "captions.jsonl")}
    run["data"] = [{**entry, "root": str(data)} for entry in RUN["data"]]
    run["run"] = {**RUN["run"], "out": str(data / "out")}
    path.write_text(yaml.safe_dump(run))
    assert captions.main([str(path)]) == 0
    return path


def read(run_file, out, *overrides):
    return read_ma_clip_run(run_file, [f"run.out={out}", *overrides])


@pytest.fixture(scope="module")
def trained(run_file, data):
    """One finished run with its precomputed embeddings."""
    out = data / "trained"
    assert main([str(run_file), "--set", f"run.out={out}", "--precompute"]) == 0
    return out


def test_learns_and_leaves_the_tower_alone(run_file, tmp_path):
    config = read(run_file, tmp_path, "run.steps=160", "run.score_every=160", "loss.scale=10")
    task = MaClipTask(config)
    frozen = {name: value.clone() for name, value in task.pool.tower.state_dict().items()
              if ".lora_" not in name}  # fmt: skip
    before = task.judge()
    Loop(task, config.run, config.optimizer, config, rests=True).train()
    after = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert after["thermal_r1"] > before["thermal_r1"]
    assert after["event_r1"] > before["event_r1"]
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    for name, value in frozen.items():
        assert torch.equal(task.pool.tower.state_dict()[name], value)


def test_run_folder_tells_the_whole_story(trained):
    assert sorted(path.name for path in (trained / BEST).iterdir()) == [
        "event.safetensors",
        "thermal.safetensors",
    ]
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["text"]["model"] == "tiny"
    (start,) = json.loads((trained / "environment.json").read_text())
    assert start["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert "commit" in start
    log = (trained / "log.txt").read_text()
    assert "before training" in log
    assert "step 6/6" in log
    assert "left 0m00s" in log
    header = read_metadata(trained / BEST / "thermal.safetensors")
    provenance = json.loads(header["segrgbx_adapter"])["provenance"]
    assert provenance["run"]["optimizer"]["learning_rate"] == 0.01
    assert provenance["scores"]["thermal_r1"] >= 0
    assert provenance["step"] in (3, 6)
    lines = map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
    scores = [line for line in lines if "score" in line]
    assert {"synthetic_street_thermal_x_r1", "synthetic_street_event_rgb_r5", "probe",
            "silhouette"} <= set(scores[0])  # fmt: skip
    size = (trained / "state.pt").stat().st_size
    assert size < 8 * (trained / "tower.safetensors").stat().st_size


def test_a_stopped_run_ends_bit_equal(run_file, trained, tmp_path):
    config = read(run_file, tmp_path)
    task = MaClipTask(config)
    step, taken = task.objective.forward, []

    def stops(batch):
        if len(taken) == 5:
            raise KeyboardInterrupt
        taken.append(1)
        return step(batch)

    task.objective.forward = stops
    with pytest.raises(KeyboardInterrupt):
        Loop(task, config.run, config.optimizer, config, rests=True).train()
    train(config)
    for folder in (BEST, "last"):
        ours, theirs = load_pool(tmp_path, folder), load_pool(trained, folder)
        for modality in (THERMAL, EVENT):
            for name, value in ours[modality].items():
                assert torch.equal(value, theirs[modality][name]), f"{folder} {name}"


def load_pool(out, folder=BEST):
    ma_clip = ModalityAwareClip(read_ma_clip_run(out / "config.yaml").ma_clip)
    load_clip_weights(ma_clip, out / "tower.safetensors")
    load_adapters(out / folder, ma_clip)
    return {modality: adapter_tensors(ma_clip.tower, modality) for modality in (THERMAL, EVENT)}


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(run_file, trained, tmp_path):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("-m", "training.train_ma_clip", str(run_file), "--precompute"),
        *("--set", f"run.out={tmp_path}"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    ours, theirs = load_pool(tmp_path, "last"), load_pool(trained, "last")
    for modality in (THERMAL, EVENT):
        for name, value in ours[modality].items():
            torch.testing.assert_close(value, theirs[modality][name], atol=1e-4, rtol=1e-3)
    assert len(list((tmp_path / "embeddings").iterdir())) == 4
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 1


def test_only_its_own_modality_moves_an_adapter(run_file, tmp_path):
    config = read(run_file, tmp_path, "run.steps=1", "run.score_every=9")
    task = MaClipTask(config)
    first = {m: {k: v.clone() for k, v in task.pool.adapter_tensors(m).items()}
             for m in task.modalities}  # fmt: skip
    batch = next(task.batches(0, 0, 1))
    (index,) = set(batch["modality"].tolist())
    Loop(task, config.run, config.optimizer, config, rests=True).train()
    for modality, tensors in first.items():
        now = task.pool.adapter_tensors(modality)
        is_same = all(torch.equal(now[name], value) for name, value in tensors.items())
        assert is_same is (modality.index != index)


def test_mixed_batches_give_the_gradients_of_their_parts(run_file, tmp_path):
    config = read(run_file, tmp_path, "batching=mixed", "run.batch_size=8")
    task = MaClipTask(config)
    batch = next(task.batches(0, 0, 1))
    assert len(set(batch["modality"].tolist())) == 2
    objective = task.objective
    objective.train()
    objective(batch)["loss"].backward()
    mixed = [p.grad.clone() for p in task.pool.adapter_parameters()]
    for name, parameter in task.pool.tower.named_parameters():
        assert ".lora_B." not in name or parameter.grad.abs().sum() > 0
    # By hand: each pair alone through its own adapter, then one loss.
    rgb, x = [], []
    for i, index in enumerate(batch["modality"].tolist()):
        modality = list(MODALITIES)[index]
        rgb.append(task.pool(batch["rgb"][i : i + 1], modality))
        x.append(task.pool(batch["x"][i : i + 1], modality))
        objective._learn_all()
    objective.zero_grad()
    terms = objective.loss(torch.cat(rgb), torch.cat(x), batch["text"], batch["caption"])
    terms["loss"].backward()
    for grad, parameter in zip(mixed, task.pool.adapter_parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, atol=1e-6, rtol=1e-3)


def test_checkpointed_blocks_give_the_same_gradients(run_file, tmp_path):
    gradients = []
    for value in ("false", "true"):
        task = MaClipTask(read(run_file, tmp_path, f"grad_checkpointing={value}"))
        task.objective.train()
        task.objective(next(task.batches(0, 0, 1)))["loss"].backward()
        gradients.append([p.grad for p in task.pool.adapter_parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_patience_ends_a_run_that_stands_still(run_file, tmp_path):
    config = read(run_file, tmp_path, "run.steps=50", "run.score_every=1", "run.patience=2",
                  "optimizer.learning_rate=0")  # fmt: skip
    progress = Loop(MaClipTask(config), config.run, config.optimizer, config, rests=True).train()
    assert progress.step == 3
    again = Loop(MaClipTask(config), config.run, config.optimizer, config, rests=True)
    assert again.train().step == 3


class Sized:
    native = "synthetic_street"

    def __init__(self, size, modality):
        self.size, self.modality = size, modality

    def __len__(self):
        return self.size


def test_plan_gives_modalities_equal_steps_and_one_per_step(run_file, tmp_path):
    readers = [Sized(30, THERMAL), Sized(300, EVENT)]
    config = read(run_file, tmp_path, "run.steps=40")
    plan = plan_pairs(readers, config)
    steps = plan.source.reshape(40, 4)
    assert (steps == steps[:, :1]).all()
    assert abs(int((steps[:, 0] == 0).sum()) - 20) <= 1
    assert set(plan.index[plan.source == 0]) == set(range(30))
    mixed = plan_pairs(readers, config.model_copy(update={"batching": Batching.MIXED}))
    assert len(set(mixed.source.reshape(40, 4)[0])) == 2
    same = plan_pairs(readers, config)
    assert all(np.array_equal(getattr(plan, n), getattr(same, n)) for n in ("source", "index"))


def test_recall_counts_captions_not_images():
    texts = torch.eye(3)
    images = torch.tensor([[1.0, 0.1, 0.0], [0.0, 0.2, 1.0], [0.3, 0.2, 0.1]])
    found = recall_at(
        images, torch.tensor([10, 11, 12]), texts, torch.tensor([10, 11, 12]), (1, 2)
    )
    assert found == pytest.approx({1: 1 / 3, 2: 2 / 3})
    alike = recall_at(torch.ones(3, 3), torch.tensor([10, 11, 12]), torch.ones(3, 3),
                      torch.tensor([10, 11, 12]), (1,))  # fmt: skip
    assert alike == {1: 0.0}


def test_separation_tells_clusters_from_a_crowd():
    noise = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))
    axis = torch.eye(8)[0] * 20
    apart = separation({"a": noise[0] + axis, "b": noise[1] - axis})
    together = separation({"a": noise[0], "b": noise[1]})
    assert apart["probe"] == 1.0
    assert apart["silhouette"] > 0.8 > 0.2 > together["silhouette"]
    assert together["probe"] < 0.8
    assert separation({"a": noise[0]}) == {}


def segmentation(data, trained, out, *overrides):
    run = {
        "ma_clip": RUN["ma_clip"],
        "data": [{**entry, "root": str(data)} for entry in RUN["data"]],
        "clip": {"weights": str(trained / "tower.safetensors"), "adapters": str(trained / BEST)},
        "run": {"out": str(out), "steps": 2, "batch_size": 2},
    }
    return read_run(write_run(out, run), overrides)


def test_adapters_reach_the_checkpoint_of_stage_2(data, trained, tmp_path):
    config = segmentation(data, trained, tmp_path)
    loaded = load_checkpoint(train_stage_2(config))
    expected = load_pool(trained)
    for modality, tensors in expected.items():
        stored = adapter_tensors(loaded.ma_clip.tower, modality)
        assert any(value.abs().sum() > 0 for name, value in tensors.items() if "lora_B" in name)
        for name, value in tensors.items():
            assert torch.equal(stored[name], value)
    assert loaded.contract.provenance["ma_clip_adapters"] == BEST
    assert loaded.ma_clip.base_hash() == load_base(config, trained).base_hash()


def load_base(config, trained):
    ma_clip = ModalityAwareClip(config.ma_clip)
    load_clip_weights(ma_clip, trained / "tower.safetensors")
    return ma_clip


def test_stage_2_reads_precomputed_embeddings(data, trained, tmp_path):
    ahead = f"clip.embeddings={trained / 'embeddings'}"
    one = SegmentationTask(segmentation(data, trained, tmp_path / "a"))
    two = SegmentationTask(segmentation(data, trained, tmp_path / "b", ahead))
    for ours, theirs in zip(one.dataset.sources, two.dataset.sources, strict=True):
        assert theirs.embeddings.shape == (12, 4, 2, 24)
        torch.testing.assert_close(ours.embeddings, theirs.embeddings, atol=1e-5, rtol=1e-4)
    assert not list((tmp_path / "b").glob("embeddings_0*"))
    other = segmentation(data, trained, tmp_path / "c", ahead, "input.height=40")
    with pytest.raises(CheckpointError, match="was made with another"):
        SegmentationTask(other)


def test_adapters_of_another_tower_are_refused(data, trained, tmp_path):
    with pytest.raises(CheckpointError, match="base_hash"):
        SegmentationTask(segmentation(data, trained, tmp_path, "clip.weights=''", "run.seed=5"))
    with pytest.raises(ConfigError, match="must be empty beside it"):
        SegmentationTask(segmentation(data, trained, tmp_path, "clip.checkpoint=x"))


def test_training_goes_on_from_adapters(run_file, trained, tmp_path):
    (tmp_path / "tower.safetensors").write_bytes((trained / "tower.safetensors").read_bytes())
    task = MaClipTask(read(run_file, tmp_path, f"adapters={trained / BEST}"))
    for modality, tensors in load_pool(trained).items():
        for name, value in task.pool.adapter_tensors(modality).items():
            assert torch.equal(value, tensors[name])


def test_mistakes_are_one_line(run_file, trained, data, tmp_path, capsys):
    def fails(error, text, *overrides):
        with pytest.raises(error, match=text):
            MaClipTask(read(run_file, tmp_path, *overrides))

    fails(ConfigError, "needs batching by_modality", "batching=mixed", "grad_checkpointing=true")
    fails(ConfigError, "choose one", "text.weights=a", "text.pretrained=b", "text.model=ViT-B-16")
    fails(ConfigError, "open_clip has no 'ViT-B-61'", "text.model=ViT-B-61")
    fails(ConfigError, "ma_clip.output_dim: is 24", "text.model=ViT-B-16")
    fails(ConfigError, "the tokenizer of .* lies on a hub", "text.model=ViT-B-16-SigLIP2")
    fails(ConfigError, "has no tag 'opneai'", "text.model=ViT-B-16", "text.pretrained=opneai")
    fails(ConfigError, "quick_gelu: is False", "text.model=ViT-B-16", "text.pretrained=openai",
          "ma_clip.output_dim=512")  # fmt: skip
    fails(DataError, "write captions with", "captions=missing.jsonl")
    lines = (data / "captions.jsonl").read_text().splitlines()
    (tmp_path / "short.jsonl").write_text("\n".join(lines[:3]) + "\n")
    fails(DataError, "9 of 12 samples have no caption", f"captions={tmp_path / 'short.jsonl'}")
    fails(CheckpointError, "comes from another CLIP", f"run.out={trained}", "run.seed=1")
    tensors, facts = read_tensors(trained / "texts.safetensors")
    for change in ({"scale": "many"}, {"scale": None}, {KEY: "["}, {KEY: None}):
        kept = {k: v for k, v in {**facts, **change}.items() if v is not None}
        write_tensors(tmp_path / "texts.safetensors", tensors, kept)
        fails(CheckpointError, "is damaged|comes from another CLIP")
    for name in ("captions", "embeddings"):
        fewer = {k: v[1:] if k == name else v for k, v in tensors.items()}
        write_tensors(tmp_path / "texts.safetensors", fewer, facts)
        fails(CheckpointError, r"texts\.safetensors: is damaged \(captions and embeddings")
    (tmp_path / "texts.safetensors").unlink()
    assert main([str(run_file), "--set", "captions=missing.jsonl", "--set",
                 f"run.out={tmp_path}"]) == 2  # fmt: skip
    assert "missing.jsonl: cannot be read" in capsys.readouterr().err


def test_shipped_run_file_loads():
    run = read_ma_clip_run("config/train/ma_clip.yaml")
    assert run.text.pretrained == run.text.weights == ""
