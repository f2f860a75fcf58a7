"""What import-linter cannot say: what importing a folder loads; no one imports a command."""

import subprocess
import sys

import pytest
from import_graph import PACKAGES, ROOT, modules, named_imports

HEAVY = {
    "torch", "torchvision", "timm", "open_clip", "peft", "transformers", "rosbags", "rclpy",
    "embreex", "matplotlib", "scipy", "sklearn", "training",
}  # fmt: skip
LIGHT_FOLDERS = (
    "segrgbx_core.base", "segrgbx_core.labels", "segrgbx_core.sensors", "segrgbx_core.sync",
    "segrgbx_ros.config", "segrgbx_ros.messages", "segrgbx_ros.pairing",
)  # fmt: skip


@pytest.mark.parametrize(
    ("modules_of", "forbidden"),
    [
        (LIGHT_FOLDERS, HEAVY),
        (
            ("segrgbx_core.runtime.segmenter",),
            {"timm", "torchvision", "torch._dynamo", "onnxruntime"},
        ),
        (("segrgbx_ros.replay",), {"rclpy", "open_clip", "peft", "transformers", "training"}),
    ],
    ids=["light folders", "segmenter", "replay"],
)
def test_heavy_libraries_stay_out(modules_of, forbidden):
    names = [one for one in modules() if f"{one}.".startswith(tuple(f"{m}." for m in modules_of))]
    code = f"import sys\nimport {', '.join(names)}\nprint(*sorted(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert forbidden & set(run.stdout.split()) == set()


def test_nothing_imports_a_command_of_training():
    commands = {name for name, path in modules().items() if path.parent == ROOT / "training"}
    commands -= set(PACKAGES)
    importers = {name: set(named_imports(path)) & commands for name, path in modules().items()}
    assert {name: found for name, found in importers.items() if found} == {}


def test_launch_config_and_test_are_no_packages():
    for folder in ("launch", "config", "test"):
        assert not list((ROOT / folder).rglob("__init__.py"))
