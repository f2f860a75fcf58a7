"""The node as a process: parameter files, signals, exit codes, images of full size."""

import re
import signal
import textwrap
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from node_process import READY, node  # noqa: E402


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_runs_from_the_shipped_file_and_ends_clean(run, checkpoint, number):
    process = run(
        *node("--params-file", "config/thermal.yaml", "-p", f"model.checkpoint:={checkpoint}")
    )
    process.wait_for(READY)
    assert process.end(number) == 0, process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_model_loads_ends_clean(run, checkpoint, number):
    process = run(*node("-p", f"model.checkpoint:={checkpoint}"))
    end = time.monotonic() + 30
    while not _imports_torch(process.child.pid):
        assert time.monotonic() < end, process.output
        time.sleep(0.01)
    assert process.end(number) == 0, process.output
    assert "Traceback" not in process.output
    assert "FATAL" not in process.output


def _imports_torch(pid):
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "sync.max_dt:=3.0"], "unknown option 'sync.max_dt' (did you mean 'max_dt_ms'?)"),
        (["-p", "diagnostics.max_latency_ms:=.inf"], "max_latency_ms: inf is not a finite number"),
        (["-p", "model.checkpoint:=/nowhere.safetensors"], "/nowhere.safetensors"),
    ],
)
def test_what_cannot_be_configured_ends_with_one_sentence_and_code_one(run, arguments, sentence):
    process = run(*node(*arguments))
    assert process.end(seconds=60) == 1
    fatal = [line for line in process.output.splitlines() if "[FATAL]" in line]
    assert len(fatal) == 1
    assert sentence in fatal[0]
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--ros-args", "--params-file", "/nowhere.yaml"], 1, "/nowhere.yaml: cannot be read"),
        (["--ros-args", "--params-file", "{empty}"], 1, "line 3: 'pairs': the list is empty"),
        (["--parms-file", "x"], 2, "unrecognized arguments: --parms-file x"),
        (["--help"], 0, "--params-file FILE"),
    ],
)
def test_wrong_arguments_are_refused_in_words(run, tmp_path, arguments, code, sentence):
    empty = tmp_path / "empty.yaml"
    empty.write_text("/**:\n  ros__parameters:\n    pairs: []\n")
    arguments = [word.format(empty=empty) for word in arguments]
    process = run("-m", "segrgbx_ros.node", *arguments)
    assert process.end(seconds=60) == code, process.output
    assert sentence in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_waits_to_be_configured_ends_clean(run, number):
    process = run(*node("-p", "autostart:=false", "--log-level", "rcl:=debug"))
    process.wait_for("segrgbx")
    time.sleep(0.5)
    assert process.end(number) == 0, process.output
    assert "Traceback" not in process.output


INACTIVE = """
import sys
from segrgbx_ros.node import node, process
configure = node.SegmentationNode.on_configure
def announced(self, state):
    done = configure(self, state)
    print("inactive now", flush=True)
    return done
node.SegmentationNode.on_configure = announced
node.SegmentationNode.trigger_activate = lambda self: node.SUCCESS
sys.exit(process.main(["node", *sys.argv[1:]]))
"""


def test_an_interrupt_while_inactive_ends_clean(run, checkpoint):
    parameter = f"model.checkpoint:={checkpoint}"
    process = run("-c", INACTIVE, "--ros-args", "-p", parameter)
    process.wait_for("inactive now")
    time.sleep(0.2)
    assert process.end(signal.SIGINT) == 0, process.output
    assert "Traceback" not in process.output


FINALIZED = """
import sys
from segrgbx_ros.node import node, process
class Gone(node.SegmentationNode):
    def __init__(self):
        super().__init__()
        self.trigger_shutdown()
        print("finalized now", flush=True)
node.SegmentationNode = Gone
sys.exit(process.main(["node", *sys.argv[1:]]))
"""


def test_an_interrupt_after_shutdown_ends_clean(run):
    process = run("-c", FINALIZED, "--ros-args", "-p", "autostart:=false")
    process.wait_for("finalized now")
    time.sleep(0.2)
    assert process.end(signal.SIGINT) == 0, process.output
    assert "Traceback" not in process.output


BUSY = """
import sys, time
from segrgbx_ros.node import node, process
from segrgbx_ros.node import worker
take = worker.Worker._take
def busy(self):
    print("in a pass", flush=True)
    time.sleep(1.0)
    return take(self)
worker.Worker._take = busy
sys.exit(process.main(["node", *sys.argv[1:]]))
"""


def test_an_interrupt_during_a_pass_waits_for_it_and_ends_clean(run, checkpoint):
    process = run("-c", BUSY, "--ros-args", "-p", f"model.checkpoint:={checkpoint}")
    process.wait_for("in a pass")
    process.wait_for(READY)
    assert process.end(signal.SIGINT) == 0, process.output
    assert "Traceback" not in process.output


SENDER = textwrap.dedent(
    """
    import time
    import numpy as np, rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.qos import QoSProfile, QoSReliabilityPolicy
    from sensor_msgs.msg import Image
    from segrgbx_ros.messages.images import fill_image

    NUMBER, RATE_HZ = 60, 20
    rclpy.init()
    sender = rclpy.create_node("sender")
    qos = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    topics = ("thermal/rgb/image", "thermal/x/image")
    rgb, x = (sender.create_publisher(Image, topic, qos) for topic in topics)
    values, masks = {}, []

    def heard(report):
        for status in report.status:
            values.update({pair.key: pair.value for pair in status.values})

    sender.create_subscription(DiagnosticArray, "/diagnostics", heard, 10)
    sender.create_subscription(Image, "thermal/mask", masks.append, 10)
    while not (rgb.get_subscription_count() and x.get_subscription_count()):
        rclpy.spin_once(sender, timeout_sec=0.05)
    while "pairs" not in values:
        rclpy.spin_once(sender, timeout_sec=0.05)
    time.sleep(0.5)
    before = dict(values)

    def new(key):
        return int(values[key]) - int(before[key])

    counts = np.add.outer(np.arange(29000, 29512), np.arange(640))
    pictures = (
        fill_image(Image(), np.random.randint(0, 255, (720, 1280, 3), np.uint8), "rgb8"),
        fill_image(Image(), counts.astype(np.uint16), "16UC1"),
    )
    start = time.monotonic()
    for number in range(NUMBER):
        stamp = sender.get_clock().now().to_msg()
        for publisher, picture in zip((rgb, x), pictures):
            picture.header.stamp = stamp
            publisher.publish(picture)
        while time.monotonic() < start + (number + 1) / RATE_HZ:
            rclpy.spin_once(sender, timeout_sec=0.005)
    end = time.monotonic() + 4
    while time.monotonic() < end and new("pairs") != NUMBER:
        rclpy.spin_once(sender, timeout_sec=0.05)
    counts = {key: new(key) for key in ("rgb_received", "x_received", "pairs")}
    print("sent", NUMBER, "rgb", counts["rgb_received"], "x", counts["x_received"],
          "pairs", counts["pairs"], "masks", len(masks), flush=True)
    rclpy.shutdown()
    """
)


def test_images_of_full_size_at_20_hz_arrive_complete(run, checkpoint):
    """Without the profile next to nothing arrives; an overloaded machine gets three tries."""
    served = run(*node("-p", f"model.checkpoint:={checkpoint}", "-p", "diagnostics.period_s:=0.2"))
    served.wait_for(READY)
    for _ in range(3):
        sender = run("-c", SENDER)
        assert sender.end(seconds=60) == 0, sender.output
        words = re.findall(r"\w+", sender.output.splitlines()[-1])
        counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        if counts["rgb"] == counts["x"] == counts["pairs"] == counts["sent"]:
            break
    else:
        pytest.fail(f"incomplete: {counts}")
    assert counts["masks"] > 0, "newest wins, so not every pair has its mask"


def test_a_file_of_which_nothing_fits_is_named(run, tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("segrgbx_node:\n  ros__parameters: {sync: {max_dt_ms: 77.0}}\n")
    process = run(*node("--params-file", str(file), "-p", "autostart:=false"))
    process.wait_for("nothing in it is for '/segrgbx'; it holds options of /segrgbx_node")
    assert process.end(signal.SIGINT) == 0
