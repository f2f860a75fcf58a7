"""The same recording gives the same labels through real topics and through replay."""

import json
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from sensor_msgs.msg import Image
from std_msgs.msg import String

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.base.images import encode_image
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.replay import main
from segrgbx_ros.tools.node_process import Listener, NodeProcess, own_domain
from segrgbx_ros.tools.player import BagPlayer

pytestmark = pytest.mark.ros

START = 1_700_000_000_000_000_000
STEP = 250_000_000
FRAMES = 6
CONFIG = """
/**:
  ros__parameters:
    pairs: [thermal]
    thermal: {rgb_transport: compressed, x_transport: compressed}
    model: {checkpoint: CHECKPOINT, device: cpu, input_height: 64, input_width: 64}
    sync: {wait_ms: 200.0}
"""


def write_recording(path):
    rng = np.random.default_rng(3)
    with BagWriter(path) as bag:
        for index in range(FRAMES):
            stamp = START + index * STEP
            rgb = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (96, 72))
            thermal = cv2.resize(rng.integers(28000, 31000, (6, 8), dtype=np.uint16), (80, 60))
            jpeg = encode_image(rgb, ".jpg")
            message = bag.compressed(jpeg, "rgb8; jpeg compressed bgr8", stamp, "cam_optical")
            bag.write("/thermal/rgb/image/compressed", message, stamp + 5_000_000)
            # X arrives before and after RGB by turns, once too far away to pair.
            delay = 90_000_000 if index == 3 else (-1) ** index * 8_000_000
            message = bag.compressed(
                encode_image(thermal), "16UC1; png compressed ", stamp + delay
            )
            bag.write("/thermal/x/image/compressed", message, stamp + max(delay, 0) + 6_000_000)
    return path


def play_live(bag_path, config, log):
    masks, described = [], []
    domain = own_domain()
    with NodeProcess(config, log, {}, domain) as process, Listener(domain) as listener:
        listener.subscribe(Image, "/thermal/mask", masks.append)
        listener.subscribe(String, "/thermal/label_map", described.append, latched=True)
        listener.wait_active(process, 120)
        with Bag(bag_path) as bag:
            player = BagPlayer(listener.node, bag)
            player.wait_for_subscribers(timeout_s=20, check=process.check)
            time.sleep(0.5)  # the node's publishers must have found this process too
            player.play(check=process.check)
        end = time.monotonic() + 10
        while len(masks) < FRAMES - 1 and time.monotonic() < end:
            time.sleep(0.05)
        process.check()
    assert process.exit_code == 0, log.read_text()
    return masks, described


def test_live_node_and_replay_give_equal_labels(checkpoint, tmp_path):
    config = tmp_path / "thermal.yaml"
    config.write_text(CONFIG.replace("CHECKPOINT", checkpoint))
    recording = write_recording(tmp_path / "bag")
    live, described = play_live(recording, config, tmp_path / "node.log")
    out = ["--out", str(tmp_path / "out"), "--write-bag", str(tmp_path / "predicted")]
    assert main([str(recording), "--config", str(config), *out, "--quiet"]) == 0
    with Bag(tmp_path / "predicted") as bag:
        replayed = [bag.decode(m) for m in bag.messages({"/thermal/mask"})]
        (text,) = [bag.decode(m).data for m in bag.messages({"/thermal/label_map"})]
    assert len(replayed) == FRAMES - 1
    assert len(live) == len(replayed), (tmp_path / "node.log").read_text()
    assert len({bytes(mask.data) for mask in live}) > 1
    for ours, theirs in zip(replayed, live, strict=True):
        assert ours.header.stamp.sec == theirs.header.stamp.sec
        assert ours.header.stamp.nanosec == theirs.header.stamp.nanosec
        assert ours.header.frame_id == theirs.header.frame_id == "cam_optical"
        assert (ours.encoding, ours.step) == (theirs.encoding, theirs.step) == ("mono8", 96)
        np.testing.assert_array_equal(ours.data, np.asarray(theirs.data))
    assert json.loads(text) == json.loads(described[0].data)
