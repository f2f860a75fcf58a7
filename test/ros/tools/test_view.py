"""The live view over real DDS, into a recording of Rerun."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
rr = pytest.importorskip("rerun", reason="rerun-sdk is not installed")
pytestmark = pytest.mark.ros

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # noqa: E402
from made_messages import stamped  # noqa: E402
from node_rig import LATCHED, RELIABLE  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from segrgbx_core.base.images import encode_image  # noqa: E402
from segrgbx_core.labels.label_space import PublishedLabels  # noqa: E402
from segrgbx_ros.messages.images import fill_image  # noqa: E402
from segrgbx_ros.messages.labels import label_map_text  # noqa: E402
from segrgbx_ros.tools import view  # noqa: E402

HOME = f"/view{os.getpid()}"
LABELS = PublishedLabels(
    ("road", "person"), ((1, 2, 3), (9, 8, 7)), space="two", hash="abc", fixed_ids=(40, 7)
)
SIZE = 12, 16


@pytest.fixture
def nodes():
    """A node that publishes and one that views, with a function that spins both."""
    context = Context()
    rclpy.init(context=context, domain_id=1 + 17 * os.getpid() % 100)
    executor = SingleThreadedExecutor(context=context)
    made = [rclpy.create_node(name, context=context) for name in ("publisher", "viewer")]
    for node in made:
        executor.add_node(node)

    def until(condition, each=lambda: None):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "nothing happened"
            each()
            executor.spin_once(timeout_sec=0.05)

    yield *made, until
    executor.shutdown()
    for node in made:
        node.destroy_node()
    rclpy.shutdown(context=context)


def report(rgb_topic):
    """Diagnostics as the node makes them, beside those of another driver."""
    own = DiagnosticStatus(
        name=f"{HOME}/segrgbx: thermal input",
        message="slow: 3 Hz",
        level=DiagnosticStatus.WARN,
        hardware_id="thermal",
        values=[KeyValue(key="rgb_topic", value=rgb_topic)],
    )
    speed = DiagnosticStatus(
        name=f"{HOME}/segrgbx: inference",
        message="running",
        level=DiagnosticStatus.OK,
        values=[KeyValue(key="latency_p95_ms", value="42.5")],
    )
    foreign = DiagnosticStatus(name="lidar: motor", message="hot", level=DiagnosticStatus.OK)
    return DiagnosticArray(status=[own, speed, foreign])


def test_what_a_node_publishes_is_logged(nodes, tmp_path):
    publisher, viewer, until = nodes
    file = tmp_path / "seen.rrd"
    stream = rr.RecordingStream("test")
    stream.save(file)
    shown = view.LiveView(viewer, stream)
    base, camera = f"{HOME}/thermal", f"{HOME}/camera/compressed"
    ids = np.full(SIZE, 40, np.uint8)
    pictures = {
        f"{base}/mask": fill_image(Image(), ids, "mono8"),
        f"{base}/confidence": fill_image(Image(), np.full(SIZE, 0.5, np.float32), "32FC1"),
        f"{base}/x/preview": fill_image(Image(), np.zeros((*SIZE, 3), np.uint8), "rgb8"),
        camera: CompressedImage(
            format="jpeg", data=encode_image(np.zeros((*SIZE, 3), np.uint8), ".jpg")
        ),
    }
    publishers = {
        topic: publisher.create_publisher(type(message), topic, RELIABLE)
        for topic, message in pictures.items()
    }
    labels = publisher.create_publisher(String, f"{base}/label_map", LATCHED)
    labels.publish(String(data=label_map_text(LABELS)))
    diagnostics = publisher.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)

    def send():
        diagnostics.publish(report(camera))
        for topic, message in pictures.items():
            publishers[topic].publish(stamped(message, 10**18, "optical"))

    entities = {f"{base}/{name}" for name in ("rgb", "x", "mask", "confidence")}
    until(lambda: set(shown.counts) == entities, send)
    stream.flush()
    stream.disconnect()
    program = Path(sys.executable).with_name("rerun")
    done = subprocess.run(
        [str(program), "rrd", "print", "-vv", str(file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for part in (
        *entities,
        "AnnotationContext",
        "SegmentationImage",
        "/diagnostics",
        f"latency{HOME}/segrgbx/latency_p95_ms",
    ):
        assert part in done.stdout, part
    assert "lidar" not in done.stdout


def test_a_picture_that_cannot_be_read_is_said_once(nodes, tmp_path):
    publisher, viewer, until = nodes
    stream = rr.RecordingStream("test")
    stream.save(tmp_path / "seen.rrd")
    shown = view.LiveView(viewer, stream)
    labels = publisher.create_publisher(String, f"{HOME}/thermal/label_map", LATCHED)
    labels.publish(String(data=label_map_text(LABELS)))
    masks = publisher.create_publisher(Image, f"{HOME}/thermal/mask", RELIABLE)
    broken = fill_image(Image(), np.zeros(SIZE, np.uint8), "mono8")
    broken.height = 99
    until(lambda: shown._said, lambda: masks.publish(broken))
    ((place, (level, text)),) = shown._said.items()
    assert (place, level) == (f"{HOME}/thermal/mask", "WARN")
    assert "99" in text
    assert not shown.counts


def test_the_command_ends_and_says_what_it_saw(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(1 + 19 * os.getpid() % 100))
    file = tmp_path / "seen.rrd"
    assert view.main(["--save", str(file), "--seconds", "0.3"]) == 0
    said = capsys.readouterr().out
    assert "images: none; does a node run in this ROS_DOMAIN_ID?" in said
    assert f"rerun {file}" in said
    assert file.is_file()


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(view, "rr", None)
    assert view.main([]) == 2
    assert "pip install 'segrgbx_ros[viewer]'" in capsys.readouterr().err
