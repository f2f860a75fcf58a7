"""A fused mask and its members, live over DDS and replayed: equal, bit for bit."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from fused_recording import FRAMES, NAMES, PAIRS, write_config, write_recording  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from segrgbx_ros.replay.bags import Bag  # noqa: E402
from segrgbx_ros.replay.replay import main  # noqa: E402
from segrgbx_ros.tools.node_process import Listener, NodeProcess, own_domain  # noqa: E402
from segrgbx_ros.tools.player import BagPlayer  # noqa: E402


def play_live(recording, config, log):
    masks = {name: [] for name in NAMES}
    domain = own_domain()
    remaps = [text for pair in PAIRS for text in ("-r", f"{pair}/rgb/image:=/camera")]
    program = ("-m", "segrgbx_ros.node", "--ros-args", *remaps)
    process = NodeProcess(config, log, {}, domain, program=program)
    with process, Listener(domain) as listener:
        for name in NAMES:
            listener.subscribe(Image, f"/{name}/mask", masks[name].append)
        listener.wait_active(process, 120)
        with Bag(recording) as bag:
            played = BagPlayer(listener.node, bag)
            played.wait_for_subscribers(timeout_s=30, check=process.check)
            time.sleep(0.5)  # the node's publishers must have found this process too
            played.play(rate=0.3, check=process.check)
        end = time.monotonic() + 30
        while min(map(len, masks.values())) < FRAMES and time.monotonic() < end:
            time.sleep(0.05)
        process.check()
    return masks


def test_live_and_replayed_fused_masks_are_equal(checkpoint, tmp_path):
    config = write_config(tmp_path / "fused.yaml", checkpoint)
    recording = write_recording(tmp_path / "bag", has_truth=False)
    live = play_live(recording, config, tmp_path / "node.log")
    remaps = [text for pair in PAIRS for text in ("--remap", f"{pair}/rgb/image:=/camera")]
    out = ["--out", str(tmp_path / "out"), "--write-bag", str(tmp_path / "predicted"), "--quiet"]
    assert main([str(recording), "--config", str(config), *remaps, *out]) == 0
    replayed = {name: [] for name in NAMES}
    with Bag(tmp_path / "predicted") as bag:
        for item in bag.messages({f"/{name}/mask" for name in NAMES}):
            replayed[item.topic.split("/")[1]].append(bag.decode(item))
    for name in NAMES:
        assert len(live[name]) == len(replayed[name]) == FRAMES, (
            tmp_path / "node.log"
        ).read_text()
        assert len({bytes(mask.data) for mask in live[name]}) > 1, f"{name}: all masks are alike"
        for ours, theirs in zip(replayed[name], live[name], strict=True):
            assert ours.header.stamp.nanosec == theirs.header.stamp.nanosec
            assert ours.header.frame_id == theirs.header.frame_id == "cam"
            np.testing.assert_array_equal(ours.data, np.asarray(theirs.data), err_msg=name)
