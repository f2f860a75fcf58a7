"""A run of stage 2 as small as it gets, on made frames; tests and their processes share it."""

import contextlib
import io
import json
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save as safetensors_bytes

from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.model import tensor_files
from training import train_segmentation
from training.data import datasets
from training.data.datasets.labelled_sample import Labelled
from training.engine.batch_norm import set_training
from training.engine.loop import Loop
from training.stage2.config import read_run
from training.stage2.task import SegmentationTask

RUN = {
    "preset": "tiny",
    "tower": "tiny",
    "model": {
        "backbone": {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "drop_path": 0.0},
        "head": {"embed_dim": 16, "dropout": 0.0},
    },
    "ma_clip": {"image_size": 32, "output_dim": 16, "embed_dim": 24, "depth": 1},
    "input": {"height": 32, "width": 32},
    "augment": {"crop_height": 32, "crop_width": 32, "min_scale": 0.9},
    "data": [{"reader": "patches", "root": ".", "modality": "thermal"}],
    "run": {"steps": 4, "batch_size": 4, "device": "cpu", "threads": 1, "log_every": 1,
            "save_every": 2, "score_every": 100},
}  # fmt: skip
"""Without chance but for flips, crops and colours; see `write_run`."""

SQUARES = {
    "input": {"height": 64, "width": 64},
    "augment": {"crop_height": 64, "crop_width": 64},
    "data": [{"reader": "squares", "root": ".", "modality": "thermal"}],
    "run": {"batch_size": 2},
}
"""What differs in a run that can learn something."""


class Patches:
    """Random frames; the labelled share differs much from frame to frame."""

    native = "synthetic_street"

    def __init__(self, root, split, modality):
        self.modality = modality

    def __len__(self):
        return 10

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        rgb = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        thermal = rng.integers(28000, 31000, (40, 48), dtype=np.uint16)
        labels = rng.integers(0, 10, (40, 48), dtype=np.uint8)
        labels[: 4 * (index % 9)] = 255
        return Labelled(RgbxSample(rgb, thermal, self.modality), labels, str(index))


class Squares:
    """Warm squares (persons) on a road: RGB shows nothing of them, thermal does."""

    native = "synthetic_street"

    def __init__(self, root, split, modality):
        self.modality, self.size = modality, 6 if split == "train" else 2
        self.offset = 0 if split == "train" else 100

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        rng = np.random.default_rng(self.offset + index)
        labels = np.zeros((64, 64), np.uint8)
        thermal = np.full((64, 64), 28000, np.uint16)
        top, left = rng.integers(0, 32, 2)
        labels[top : top + 32, left : left + 32] = 9
        thermal[top : top + 32, left : left + 32] = 30500
        labels[:2] = 255
        rgb = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        return Labelled(RgbxSample(rgb, thermal, self.modality), labels, f"{index}", ("night",))


MADE = {"patches": Patches, "squares": Squares}


def register():
    """Makes both data sets known to this process; tests use the fixture `made_readers`."""
    datasets.READERS.update(MADE)


def changed(run, changes):
    """A run with changes at any depth; lists are replaced as a whole."""
    values = {
        name: changed(run.get(name, {}), value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return {**run, **values}


def write_run(folder, *changes):
    """Writes `RUN` with changes, the later ones over the earlier, as `folder / run.yaml`."""
    run = RUN
    for one in changes:
        run = changed(run, one)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def read_case(folder, *overrides, out="a"):
    """The run of a folder, `RUN` where it has none yet, with changed options."""
    path = folder / "run.yaml"
    if not path.exists():
        write_run(folder)
    return read_run(path, [f"run.out={folder / out}", *overrides])


def curve_of(out):
    """What a run has logged by step, without the time that it took."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds_per_step", None)
    return lines


def state_of(out):
    """All that a run needs to go on."""
    return torch.load(out / "state.pt", weights_only=True)


def assert_same_run(out, other):
    """Both runs have ended with the same state, checkpoints and curve, bit by bit."""
    states = [state_of(one) for one in (out, other)]
    for state in states:
        del state["progress"]["seconds"], state["options"]
    assert_same(*states)
    names = [sorted(path.name for path in one.glob("*.safetensors")) for one in (out, other)]
    assert names[0] == names[1]
    assert "last.safetensors" in names[0]
    for name in names[0]:
        assert_same(*(tensor_files.read_tensors(one / name)[0] for one in (out, other)), name)
    assert curve_of(out) == curve_of(other)


def assert_same(one, two, place=""):
    """Equal down to the last bit of every tensor; `place` names what is compared."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), place
        for name, value in one.items():
            assert_same(value, two[name], f"{place}.{name}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), place
    else:
        assert one == two, place


def one_step(config):
    """Gradients of a step as the optimizer sees them, its loss terms, and the task afterwards."""
    task = SegmentationTask(config)
    loop = Loop(task, config.run, config.optimizer, config)
    gradients = {}

    def look(*_):
        gradients.update({n: p.grad.clone() for n, p in task.model.named_parameters()})

    loop.optimizer.register_step_pre_hook(look)
    set_training(loop.model, config.run.batch_norm)
    batches = task.batches(0, loop.accelerator.process_index, loop.accelerator.num_processes)
    terms = loop._step(0, next(batches))
    means = loop._mean_over_devices({name: float(value) for name, value in terms.items()})
    return gradients, means, task


def statistics(task):
    """Running means and variances of all BatchNorms."""
    return {n: v.clone() for n, v in task.model.named_buffers() if "running_" in n}


def assert_close(one, two):
    """Equal to rounding: relative to each tensor, or to the whole where a tensor is nearly 0."""
    assert one.keys() == two.keys()
    largest = max(float(value.abs().max()) for value in two.values())
    for name, value in one.items():
        near = max(2e-4 * float(two[name].abs().max()), 2e-6 * largest)
        off = float((value - two[name]).abs().max())
        assert off <= near, f"{name}: {off:.2e} is above {near:.2e}"


def run_in_trouble(folder, out, trouble=None, overrides=()):
    """Trains by the command line in a process of its own; stderr goes to `<out>.errors`."""
    multiprocessing.set_start_method("fork", force=True)  # of workers: nothing to import again
    register()
    torch.set_num_threads(1)
    if trouble:
        trouble.install()
    errors = folder / f"{out}.errors"
    with errors.open("w") as file, contextlib.redirect_stderr(file):
        read_case(folder)
        arguments = [str(folder / "run.yaml"), "--set", f"run.out={folder / out}"]
        code = train_segmentation.main([*arguments, *_sets(overrides)])
    raise SystemExit(code)


def _sets(overrides):
    return [part for override in overrides for part in ("--set", override)]


class HalfWritten:
    """Writes half of the n-th file of a kind, says so by a file `half`, and waits to be shot."""

    def __init__(self, folder, kind, number):
        self.folder, self.kind, self.number = folder, kind, number

    def install(self):
        """Puts itself in the place of what writes that kind."""
        module, name = {"state": (torch, "save"), "checkpoint": (tensor_files, "save_file")}[
            self.kind
        ]
        whole, seen = getattr(module, name), []

        def writes(*arguments, **options):
            seen.append(1)
            if len(seen) < self.number:
                return whole(*arguments, **options)
            content = io.BytesIO()
            if self.kind == "state":
                whole(arguments[0], content)
                target = arguments[1]
            else:
                content.write(safetensors_bytes(dict(arguments[0])))
                target = Path(arguments[1]).open("wb")  # noqa: SIM115  (never closed: shot)
            target.write(content.getvalue()[: content.tell() // 2])
            target.flush()
            (self.folder / "half").touch()
            return time.sleep(600)

        setattr(module, name, writes)


class FullDisk:
    """From a step on, no file may grow beyond some bytes: the system's own limit."""

    def __init__(self, step, size):
        self.step, self.size = step, size

    def install(self):
        """Sets the limit when the batch of that step is asked for."""
        batches = SegmentationTask.batches

        def limited(task, first_step, *place):
            for step, batch in enumerate(batches(task, first_step, *place), first_step):
                if step == self.step:
                    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                    resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, hard))
                yield batch

        SegmentationTask.batches = limited
