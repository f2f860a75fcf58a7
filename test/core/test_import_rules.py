"""Who may import whom. Two rings keep start-up fast; three packages keep their subjects apart."""

import subprocess
import sys

import pytest
from import_graph import PACKAGES, ROOT, named_imports

NUMPY_RING = {
    "align",
    "align_counts",
    "config",
    "encoders",
    "errors",
    "images",
    "inference_options",
    "label_tables",
    "labels",
    "metrics",
    "modality",
    "overlay",
    "samples",
    "x_buffers",
}
NUMPY_RING_LIBRARIES = {"numpy", "pydantic", "pydantic_core", "yaml"}
PICTURE_LIBRARIES = {"cv2", "PIL"}
MAY_USE_PICTURES = {"images", "encoders", "overlay"}

ROS_FREE = {
    "angles",
    "compressed_depth",
    "config",
    "event_arrays",
    "event_frames",
    "event_packets",
    "event_stream",
    "event_words",
    "geometry",
    "label_files",
    "messages",
    "options",
    "output_options",
    "pipeline",
    "points",
    "registration",
    "watches",
}
ROS_LIBRARIES = {
    "rclpy",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "builtin_interfaces",
    "diagnostic_msgs",
    "rcl_interfaces",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "vision_msgs",
}
MAY_USE_ROS = {
    "debug",
    "demo",
    "diagnostics",
    "event_frames_node",
    "feeder",
    "inputs",
    "live",
    "node",
    "outputs",
    "overhead",
    "params",
    "player",
    "qos",
    "reporter",
    "roundtrip",
    "session",
    "soak",
}
TRAINING_LIBRARIES = {"open_clip", "peft", "transformers", "accelerate", "sklearn"}


def _part(name):
    """`segrgbx_core.sensors.depth` -> `encoders`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def _files(package):
    """Each file with the part of the package that it belongs to and all its imports."""
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").parts
        yield path, name[1], sorted(set(named_imports(path, for_types=True)))


def _third_party(imports):
    own = {*PACKAGES, "__future__"}
    return {_top(name) for name in imports} - own - set(sys.stdlib_module_names)


def _offences(package, is_offence):
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, part, imports in _files(package)
        for name in imports
        if is_offence(path, part, name)
    ]


def _top(name):
    return name.split(".")[0]


def test_numpy_ring_is_complete():
    found = {part for _, part, _ in _files("segrgbx_core")}
    assert found >= NUMPY_RING


def test_numpy_ring_knows_only_itself():
    def is_offence(_, part, name):
        is_core = _top(name) == "segrgbx_core" and _part(name) not in ("", *NUMPY_RING)
        return part in NUMPY_RING and is_core

    assert _offences("segrgbx_core", is_offence) == []


def test_numpy_ring_uses_few_libraries():
    for path, part, imports in _files("segrgbx_core"):
        if part not in NUMPY_RING:
            continue
        allowed = NUMPY_RING_LIBRARIES | (PICTURE_LIBRARIES if part in MAY_USE_PICTURES else set())
        assert _third_party(imports) <= allowed, path


def test_numpy_ring_has_layers():
    """Errors know nobody, labels know no pictures, pictures may know labels."""
    below = {
        "errors": set(),
        "config": {"errors"},
        "modality": set(),
        "samples": {"errors", "modality"},
        "label_tables": {"errors", "modality"},
        "labels": {"errors", "modality", "label_tables"},
        "align_counts": set(),
        "x_buffers": {"align_counts", "samples"},
        "align": {"align_counts", "config", "samples", "x_buffers"},
        "images": {"errors", "samples"},
        "metrics": {"errors", "labels"},
        "overlay": {"errors", "labels", "samples"},
        "inference_options": {"config", "errors"},
        "encoders": {"config", "encoders", "errors", "images", "modality", "samples"},
    }

    def is_offence(_, part, name):
        return (
            part in below
            and _top(name) == "segrgbx_core"
            and _part(name) not in ("", *below[part])
        )

    assert set(below) == NUMPY_RING
    assert _offences("segrgbx_core", is_offence) == []


def test_core_knows_neither_ros_nor_bags_nor_training():
    foreign = (
        ROS_LIBRARIES | TRAINING_LIBRARIES | {"rosbags", "embreex", "segrgbx_ros", "training"}
    )
    assert _offences("segrgbx_core", lambda _path, _part, name: _top(name) in foreign) == []


def test_ros_package_knows_nothing_of_training():
    foreign = TRAINING_LIBRARIES | {"training", "embreex"}
    assert _offences("segrgbx_ros", lambda _path, _part, name: _top(name) in foreign) == []


def test_ros_only_in_the_live_part():
    def is_offence(_, part, name):
        return _top(name) in ROS_LIBRARIES and part not in MAY_USE_ROS

    assert _offences("segrgbx_ros", is_offence) == []


def test_pairing_and_decoding_need_neither_ros_nor_torch():
    def is_offence(_, part, name):
        if part not in ROS_FREE:
            return False
        if _top(name) == "segrgbx_core":
            return _part(name) not in ("", *NUMPY_RING)
        if _top(name) == "segrgbx_ros":
            return _part(name) not in ("", *ROS_FREE)
        return _top(name) in {"torch", "torchvision", "timm", "rosbags"}

    assert _offences("segrgbx_ros", is_offence) == []


def test_bags_only_where_recordings_are():
    may = {"replay", "bags", "bag_writer", "player"}

    def is_offence(path, part, name):
        is_allowed = part in may or path.name == "recording.py"
        return _top(name) == "rosbags" and not is_allowed

    assert _offences("segrgbx_ros", is_offence) == []
    assert _offences("training", is_offence) == []


def test_training_knows_nothing_of_the_ros_package():
    foreign = ROS_LIBRARIES | {"segrgbx_ros"}
    assert _offences("training", lambda _path, _part, name: _top(name) in foreign) == []


def test_only_the_renderer_renders():
    def is_offence(_, part, name):
        return _top(name) == "embreex" and part != "synthetic"

    assert _offences("training", is_offence) == []


def test_launch_config_and_test_are_no_packages():
    for folder in ("launch", "config", "test"):
        assert not list((ROOT / folder).rglob("__init__.py"))


HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "open_clip",
    "peft",
    "transformers",
    "rosbags",
    "rclpy",
    "embreex",
    "matplotlib",
    "scipy",
    "sklearn",
    "training",
}


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ([f"segrgbx_core.{part}" for part in sorted(NUMPY_RING)], HEAVY),
        ([f"segrgbx_ros.{part}" for part in sorted(ROS_FREE)], HEAVY),
        (
            ["segrgbx_core.runtime.segmenter"],
            {"timm", "torchvision", "torch._dynamo", "onnxruntime"},
        ),
        (
            ["segrgbx_ros.replay.replay"],
            {"rclpy", "open_clip", "peft", "transformers", "training"},
        ),
    ],
    ids=["numpy ring", "pairing and decoding", "inference", "replay"],
)
def test_heavy_libraries_stay_out(modules, forbidden):
    code = f"import sys\nimport {', '.join(modules)}\nprint(*sorted(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert forbidden & set(run.stdout.split()) == set()
