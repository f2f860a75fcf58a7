"""Real processes shot by SIGKILL, and disks that are full: the run goes on bit by bit the same."""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from stage2_case import (
    FullDisk,
    HalfWritten,
    assert_same_run,
    read_case,
    run_in_trouble,
    state_of,
)

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model.tensor_files import read_tensors, write_tensors
from segrgbx_core.runtime.checkpoint import load_checkpoint
from training.engine.run import forget_after, write_state

# Chance in every step, and every step is saved: whatever is wrong in a state shows.
OPTIONS = (
    *("run.steps=8", "run.save_every=1", "run.score_every=4", "run.workers=1"),
    *("model.backbone.drop_path=0.3", "augment.noise=0.05", "augment.drop_x=0.2"),
    *("optimizer.ema_decay=0.9", "clip.stale.probability=0.5"),
)
PATIENCE_S = 3000


@pytest.fixture(scope="module")
def start():
    """Starts a training in a process of its own that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stage2_case"])

    def start(folder, out, trouble=None):
        process = context.Process(target=run_in_trouble, args=(folder, out, trouble, OPTIONS))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """The run that nothing disturbed; every other run of this file lies beside it."""
    folder = tmp_path_factory.mktemp("kill")
    read_case(folder)
    ended(start(folder, "whole"), 0)
    return folder / "whole"


def ended(process, code):
    process.join(PATIENCE_S)
    assert process.exitcode == code


def wait_for(process, condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process.exitcode is not None:
            return False
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return True


def count_lines(out):
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def assert_whole(out, whole):
    assert state_of(out)["progress"]["step"] == 8
    assert (out / "best.safetensors").exists()
    assert_same_run(out, whole)


def test_a_run_shot_at_random_moments_ends_bit_equal(start, whole):
    out, chance, shots = whole.parent / "shot", np.random.default_rng(4), 0
    while True:
        wanted = count_lines(out) + int(chance.integers(2, 4))
        process = start(whole.parent, out.name)
        if not wait_for(process, lambda wanted=wanted: count_lines(out) >= wanted):
            break
        time.sleep(float(chance.uniform(0, 0.05)))  # somewhere in the step or the saving
        process.kill()
        process.join()
        shots += process.exitcode == -9
    assert process.exitcode == 0
    assert shots >= 3
    assert_whole(out, whole)


@pytest.mark.parametrize(("kind", "number"), [("state", 3), ("checkpoint", 3)])
def test_a_shot_in_the_middle_of_writing_leaves_the_earlier_file(start, whole, kind, number):
    """States: that of step 3. Tensors: embeddings, last, best of step 4."""
    out = whole.parent / kind
    (whole.parent / "half").unlink(missing_ok=True)
    process = start(whole.parent, kind, HalfWritten(whole.parent, kind, number))
    assert wait_for(process, (whole.parent / "half").exists)
    process.kill()
    process.join()
    done = {"state": 2, "checkpoint": 3}[kind]
    assert state_of(out)["progress"]["step"] == done
    begun = [path for path in out.iterdir() if ".part" in path.name]
    assert len(begun) == 1
    assert begun[0].stat().st_size > 1000
    if kind == "checkpoint":
        assert not (out / "best.safetensors").exists()
        load_checkpoint(out / "last.safetensors")
    ended(start(whole.parent, kind), 0)
    assert not [path for path in out.iterdir() if ".part" in path.name]
    assert_whole(out, whole)


def test_a_full_disk_is_one_line_and_the_next_start_goes_on(start, whole):
    out = whole.parent / "full"
    ended(start(whole.parent, "full", FullDisk(5, 20_000)), 2)
    (line,) = (whole.parent / "full.errors").read_text().splitlines()[-1:]
    assert f"{out / 'state.pt'}: cannot be written" in line
    assert "too large" in line  # what the system calls the limit of this test
    assert "B free there" in line
    assert "Traceback" not in (whole.parent / "full.errors").read_text()
    assert state_of(out)["progress"]["step"] == 5
    assert not list(out.glob(".*.part"))
    for name in ("last", "best"):
        load_checkpoint(out / f"{name}.safetensors")
    ended(start(whole.parent, "full"), 0)
    assert_whole(out, whole)


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("size", [10, 200_000])
def test_no_space_left_names_file_and_free_space(tmp_path, size):
    """Files go to a device that is always full, by the names that are written first."""
    tensors = {"a": torch.ones(size)}
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(3)}, {})
    write_state(tmp_path / "state.pt", {"a": torch.zeros(3)})
    (tmp_path / f".state.pt.{os.getpid()}.part").symlink_to(FULL)
    with pytest.raises(CheckpointError, match=r"state\.pt: .*No space left.*B free there"):
        write_state(tmp_path / "state.pt", tensors)
    assert torch.load(tmp_path / "state.pt")["a"].tolist() == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir() if path.is_symlink()] == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segrgbx_core.model.tensor_files.save_file", _onto_full)
        with pytest.raises(CheckpointError, match=r"a\.safetensors: .*No space left.*B free"):
            write_tensors(tmp_path / "a.safetensors", tensors, {})
    assert read_tensors(tmp_path / "a.safetensors")[0]["a"].tolist() == [0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "state.pt"]


def _onto_full(tensors, path, metadata):
    path.symlink_to(FULL)
    with path.open("wb") as file:
        file.write(b"x" * 100)


def test_what_is_left_of_a_line_is_forgotten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    forget_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    before = path.stat().st_mtime_ns
    forget_after(path, 2)
    assert path.stat().st_mtime_ns == before
