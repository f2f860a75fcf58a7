"""What colcon, pip and `ros2` find: the manifest, the executables, the shared files."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

import segrgbx_core

ROOT = Path(__file__).parents[3]
DATA = f"segrgbx_ros-{segrgbx_core.__version__}.data/data"


def clone(to: Path) -> Path:
    """A copy of the tracked tree, because setuptools leaves files in the tree that it builds."""
    pytest.importorskip("setuptools", reason="building needs setuptools")
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(to)], check=True
    )
    return to


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> dict[str, zipfile.ZipInfo]:
    """Files of the wheel that pip builds, by name."""
    folder = tmp_path_factory.mktemp("wheel")
    source = clone(folder / "source")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(folder),
            str(source),
        ],
        check=True,
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return {info.filename: info for info in archive.infolist()}


def test_manifest_names_the_package_and_its_run_dependencies():
    root = ElementTree.parse(ROOT / "package.xml").getroot()
    depends = {item.text for item in root.findall("exec_depend")}
    assert root.get("format") == "3"
    assert root.findtext("name") == "segrgbx_ros"
    assert root.findtext("version") == segrgbx_core.__version__
    assert root.findtext("export/build_type") == "ament_python"
    assert depends >= {
        "rclpy", "cv_bridge", "sensor_msgs_py", "sensor_msgs", "std_msgs", "lifecycle_msgs",
        "diagnostic_msgs", "vision_msgs", "launch", "launch_ros", "ros2launch",
    }  # fmt: skip


def test_wheel_holds_code_but_neither_training_nor_tests(wheel):
    tops = {name.split("/")[0] for name in wheel}
    assert {"segrgbx_core", "segrgbx_ros"} <= tops
    assert not tops & {"training", "test", "launch", "config"}


@pytest.mark.parametrize("folder", ["launch", "config"])
def test_shared_files_lie_where_ros2_launch_looks(wheel, folder):
    expected = {path.name for path in (ROOT / folder).iterdir() if path.is_file()}
    prefix = f"{DATA}/share/segrgbx_ros/{folder}/"
    assert expected == {name.removeprefix(prefix) for name in wheel if name.startswith(prefix)}
    assert expected


def test_package_is_registered(wheel):
    assert f"{DATA}/share/ament_index/resource_index/packages/segrgbx_ros" in wheel
    assert f"{DATA}/share/segrgbx_ros/package.xml" in wheel


def test_executables_lie_where_ros2_run_looks_and_can_be_run(wheel):
    prefix = f"{DATA}/lib/segrgbx_ros/"
    executables = {
        name.removeprefix(prefix): info for name, info in wheel.items() if prefix in name
    }
    assert set(executables) >= {"segrgbx_node", "replay", "bench"}
    assert all((info.external_attr >> 16) & 0o111 for info in executables.values())


def test_commands_and_executables_have_a_folder_each(wheel):
    """So that `ros2 pkg executables`, which lists lib/, shows each once."""
    scripts = (ROOT / "setup.cfg").read_text()
    assert scripts.count("$base/bin") == 2
    assert "$base/lib" not in scripts


@pytest.mark.parametrize("kind", ["plain", "merged", "symlink"])
def test_a_workspace_installs_what_launch_and_run_look_for(kind, tmp_path):
    source = clone(tmp_path / "ws" / "src" / "segrgbx")
    prefix = colcon_build(tmp_path / "ws", kind) if has_colcon() else setup(source, kind)
    share = prefix / "share" / "segrgbx_ros"
    for folder in ("launch", "config", "resource/demo/thermal"):
        expected = {one.name for one in (ROOT / folder).iterdir() if one.is_file()}
        assert {one.name for one in (share / folder).iterdir()} == expected
    assert (share / "resource" / "demo" / "segrgbx_tiny.safetensors").stat().st_size > 1_000_000
    executables = {one.name for one in (prefix / "lib" / "segrgbx_ros").iterdir()}
    assert executables == {one.name for one in (ROOT / "resource" / "lib").iterdir()}
    assert (prefix / "bin" / "segrgbx-replay").is_file()
    assert (prefix / "share/ament_index/resource_index/packages/segrgbx_ros").is_file()


def has_colcon() -> bool:
    """Whether colcon is installed; it needs a setuptools older than 80."""
    return importlib.util.find_spec("colcon_core") is not None


def colcon_build(workspace: Path, kind: str) -> Path:
    """Builds the workspace with colcon; returns the prefix that `ros2` would search."""
    options = {"plain": [], "merged": ["--merge-install"], "symlink": ["--symlink-install"]}[kind]
    done = subprocess.run(
        [sys.executable, "-m", "colcon", "build", *options],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return workspace / "install" / ("" if kind == "merged" else "segrgbx_ros")


def setup(source: Path, kind: str) -> Path:
    """The call of setup.py that colcon makes, for symlink through a folder of links."""
    folder, prefix = source, source.parents[1] / "install"
    if kind == "symlink":
        folder = source.parents[1] / "build"
        folder.mkdir()
        linked = "setup.py setup.cfg package.xml resource launch config segrgbx_core segrgbx_ros"
        for name in linked.split():
            (folder / name).symlink_to(source / name)
    command = ["egg_info", "build", "install", "--prefix", str(prefix), "--install-scripts"]
    command += [str(prefix / "bin"), "--single-version-externally-managed"]
    done = subprocess.run(
        [sys.executable, "setup.py", *command, "--record", str(prefix.parent / "record.txt")],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return prefix


def test_every_executable_imports_an_existing_main():
    for script in (ROOT / "resource" / "lib").iterdir():
        line = next(line for line in script.read_text().splitlines() if line.startswith("from "))
        module = line.split()[1]
        path = ROOT / Path(*module.split(".")).with_suffix(".py")
        assert "def main(" in path.read_text(), f"{script.name} names {module}"
