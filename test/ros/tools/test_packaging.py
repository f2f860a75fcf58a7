"""What colcon, pip and `ros2` find: the manifest, the executables, the shared files."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

import segrgbx_core

ROOT = Path(__file__).parents[3]
DATA = f"segrgbx_ros-{segrgbx_core.__version__}.data/data"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> dict[str, zipfile.ZipInfo]:
    """Files of the wheel that pip builds from a copy of the tracked tree, by name."""
    pytest.importorskip("setuptools", reason="building a wheel needs setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # A copy, because setuptools leaves build/ and *.egg-info in the tree that it builds.
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(source)], check=True
    )
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


def test_every_executable_imports_an_existing_main():
    for script in (ROOT / "resource" / "lib").iterdir():
        line = next(line for line in script.read_text().splitlines() if line.startswith("from "))
        module = line.split()[1]
        path = ROOT / Path(*module.split(".")).with_suffix(".py")
        assert "def main(" in path.read_text(), f"{script.name} names {module}"
