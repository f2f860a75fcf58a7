"""Fixtures of the tests of the node; `node_rig` holds what they make."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Path of a tiny checkpoint with random weights."""
    from segrgbx_core.runtime.checkpoint import random_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    random_checkpoint(path)
    return str(path)


@pytest.fixture
def rig(checkpoint):
    """Makes rigs; the node starts itself and reports ten times a second."""
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from node_rig import Rig

    rigs = []

    def make(wait=True, remaps=(), patience=None, **parameters):
        defaults = {"model.checkpoint": checkpoint, "diagnostics.period_s": 0.1}
        rigs.append(Rig({**defaults, **parameters}, remaps, patience))
        if wait:  # torch may have to be imported first
            rigs[-1].until(lambda: rigs[-1].report(), seconds=60.0)
        return rigs[-1]

    yield make
    for one in rigs:
        one.close()


@pytest.fixture
def environment(tmp_path):
    """Environment of the processes of one test."""
    from node_process import environment_of

    return environment_of(tmp_path)


@pytest.fixture
def run(environment, tmp_path):
    """Starts processes and leaves none behind."""
    from node_process import Process

    processes = []

    def start(*arguments):
        log = tmp_path / f"process{len(processes)}.txt"
        processes.append(Process(arguments, environment, log))
        return processes[-1]

    yield start
    for process in processes:
        if process.child.poll() is None:
            process.child.kill()
            process.child.wait()
