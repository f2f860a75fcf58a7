"""A run of stage 2 as small as it gets, on random frames; tests and their processes share it."""

import contextlib
import io
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save as safetensors_bytes

from segrgbx_core import tensor_files
from segrgbx_core.samples import RgbxSample
from training import datasets, train_segmentation
from training.batch_norm import set_training
from training.config import read_run
from training.datasets.labelled import Labelled
from training.loop import Loop
from training.train_segmentation import SegmentationTask

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


def register():
    """Makes `Patches` a data set of this process."""
    datasets.READERS["patches"] = Patches


def read_case(folder, *overrides, out="a"):
    """The run with changed options; its folder is `folder / out`."""
    path = folder / "run.yaml"
    if not path.exists():
        path.write_text(yaml.safe_dump(RUN))
    return read_run(path, [f"run.out={folder / out}", *overrides])


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


def equal(one, two):
    """Whether two groups of tensors are equal bit by bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


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
