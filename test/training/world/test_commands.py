"""The renderer's commands under their present and their former package name."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

pytest.importorskip("embreex", reason="rendering needs embreex")


@pytest.mark.parametrize("name", ["render", "recording", "gallery", "twins"])
def test_the_former_package_name_finds_the_same_files(name):
    former, present = (
        find_spec(f"training.{package}.{name}") for package in ("synthetic", "world")
    )
    assert former.origin == present.origin


def test_a_command_of_the_former_name_renders_with_worker_processes(tmp_path):
    arguments = ["--out", tmp_path, "--seeds", "3:4", "--size", "32x32", "--frames-per-scene", "1"]
    command = [sys.executable, "-m", "training.synthetic.render", *arguments]
    subprocess.run([*command, "--workers", "1"], check=True, timeout=300)
    assert [path.name for path in tmp_path.glob("*.npz")] == ["00003_00.npz"]
