"""Stage 2 on two processes (gloo): the gradients of one process with the whole batch.

BatchNorm is why that needs saying: with its own statistics each process normalises by its half
of the samples, which is what a step in two parts does too; shared or frozen, the halves are the
whole.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stage2_case import (
    assert_close,
    assert_same_run,
    curve_of,
    one_step,
    read_case,
    register,
    statistics,
)
from torch import distributed

from training.stage2.task import SegmentationTask, train

pytestmark = pytest.mark.usefixtures("made_readers")

ROOT = Path(__file__).resolve().parents[3]

WHOLE = ("run.batch_norm=frozen", "optimizer.ema_decay=0.9")
CASES = {
    "frozen": ("run.batch_norm=frozen",),
    "shared": ("run.batch_norm=shared",),
    "weighted": ("run.batch_norm=frozen", "loss.class_weights=inverse_root"),
    "own": ("model.backbone.drop_path=0.3", "model.head.dropout=0.2"),
    "parts": ("run.batch_norm=frozen", "run.accumulate=2"),
}


def _rank(folder):
    register()
    found = {}
    for name, options in CASES.items():
        gradients, terms, task = one_step(read_case(folder, *options, out=f"two_{name}"))
        found[name] = gradients, terms, statistics(task)
    rank = os.environ["RANK"]
    torch.save(found, folder / f"{rank}.pt")
    train(read_case(folder, *WHOLE, out="run"))
    interrupted(read_case(folder, *WHOLE, out="resumed"))
    distributed.barrier()
    if rank == "0":
        shutil.copytree(folder / "resumed", folder / "halfway")
    distributed.barrier()
    train(read_case(folder, *WHOLE, out="resumed"))


class StoppedError(Exception):
    """Ends a run in its third step."""


def interrupted(config):
    """A run that ends after the state of step 2 was saved."""
    batches = SegmentationTask.batches

    def ending(task, *place):
        for step, batch in enumerate(batches(task, *place)):
            if step == 2:
                raise StoppedError
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationTask, "batches", ending)
        with pytest.raises(StoppedError):
            train(config)


def two_processes(folder, *arguments):
    """Runs this file on two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", __file__, str(folder), *arguments]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "test" / "helpers")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both ranks saw, by case, and the folder."""
    folder = tmp_path_factory.mktemp("two")
    read_case(folder)
    done = two_processes(folder)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def alone(folder, name, *options):
    gradients, terms, task = one_step(read_case(folder, *options, out=f"one_{name}"))
    return gradients, terms, statistics(task)


@pytest.mark.parametrize("name", ["frozen", "weighted", "parts"])
def test_frozen_statistics_make_two_processes_one(found, name):
    folder, ranks = found
    options = [option for option in CASES[name] if "accumulate" not in option]
    gradients, terms, _ = alone(folder, name, *options)
    for rank in ranks:
        assert_close(rank[name][0], gradients)
        assert rank[name][1] == pytest.approx(terms, rel=1e-5)


def test_shared_statistics_make_two_processes_one(found):
    folder, ranks = found
    gradients, terms, kept = alone(folder, "shared")
    for rank in ranks:
        assert_close(rank["shared"][0], gradients)
        assert rank["shared"][1] == pytest.approx(terms, rel=1e-5)
        assert_close(rank["shared"][2], kept)


def test_own_statistics_are_those_of_two_parts(found):
    """Drop path and dropout on: a part draws the same numbers on a device of its own."""
    folder, ranks = found
    parts, terms, _ = alone(folder, "own", *CASES["own"], "run.accumulate=2")
    whole, _, _ = alone(folder, "whole", *CASES["own"])
    for rank in ranks:
        assert_close(rank["own"][0], parts)
        assert rank["own"][1] == pytest.approx(terms, rel=1e-5)
        with pytest.raises(AssertionError):
            assert_close(rank["own"][0], whole)


def test_a_whole_run_of_two_processes_logs_and_learns_as_one(found):
    folder, _ = found
    train(read_case(folder, *WHOLE, out="single"))
    curves = [curve_of(folder / name) for name in ("run", "single")]
    for two, one in zip(*curves, strict=True):
        assert two == pytest.approx(one, rel=2e-3, abs=2e-3)
    assert len(json.loads((folder / "run" / "environment.json").read_text())) == 1


def test_two_processes_resume_bit_equal(found):
    folder, _ = found
    log = (folder / "resumed" / "log.txt").read_text()
    assert "resuming at step 2 of 4" in log
    assert_same_run(folder / "resumed", folder / "run")


def test_one_process_goes_on_where_two_stopped(found):
    folder, _ = found
    train(read_case(folder, *WHOLE, out="halfway"))
    assert "resuming at step 2 of 4" in (folder / "halfway" / "log.txt").read_text()
    curves = [curve_of(folder / name) for name in ("halfway", "single")]
    for resumed, one in zip(*curves, strict=True):
        assert resumed == pytest.approx(one, rel=2e-3, abs=2e-3)


def test_two_processes_go_on_where_one_stopped(found):
    folder, _ = found
    config = read_case(folder, *WHOLE, out="alone_first")
    interrupted(config)
    done = two_processes(folder, "alone_first")
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert "resuming at step 2 of 4" in (folder / "alone_first" / "log.txt").read_text()
    curves = [curve_of(folder / name) for name in ("alone_first", "single")]
    for resumed, one in zip(*curves, strict=True):
        assert resumed == pytest.approx(one, rel=2e-3, abs=2e-3)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _rank(Path(sys.argv[1]))
    else:
        register()
        train(read_case(Path(sys.argv[1]), *WHOLE, out=sys.argv[2]))
