"""Playing a recording over real topics."""

import os
import threading
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")

from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from segrgbx_core.bags.bag_writer import BagWriter  # noqa: E402
from segrgbx_core.base.errors import ConfigError, DataError  # noqa: E402
from segrgbx_ros.replay.bags import Bag  # noqa: E402
from segrgbx_ros.replay.topic_routes import parse_remaps  # noqa: E402
from segrgbx_ros.tools.player import BagPlayer, main  # noqa: E402

pytestmark = pytest.mark.ros
START = 1_700_000_000_000_000_000
STEP = 50_000_000


@pytest.fixture
def recording(tmp_path, rng):
    with BagWriter(tmp_path / "bag") as bag:
        for index in range(6):
            stamp = START + index * STEP
            pixels = rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)
            bag.write("/cam/image", bag.image(pixels, "rgb8", stamp, "optical"), stamp + 1000)
            bag.write("/cam/odd", bag.label_info({0: "road"}, 0.0), stamp + 2000)
            bag.write("/cam/c", bag.compressed(b"abc", "jpeg", stamp - 5), stamp + 3000)
    return tmp_path / "bag"


@pytest.fixture
def context():
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=10 + os.getpid() % 90)
    yield context
    context.try_shutdown()


@pytest.fixture
def listener(context):
    """Subscribes in its own thread and keeps every message with its arrival time."""
    from rclpy.executors import SingleThreadedExecutor

    node = rclpy.create_node("listener", context=context)
    node.received = []

    def subscribe(kind, topic):
        node.create_subscription(
            kind, topic, lambda m: node.received.append((topic, m, time.monotonic())), 50
        )

    node.subscribe = subscribe
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    running = threading.Event()
    running.set()

    def spin():
        while running.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    yield node
    running.clear()
    thread.join()
    executor.shutdown()
    node.destroy_node()


def wait_until(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_bytes_arrive_unchanged_at_the_recorded_rate(recording, context, listener):
    listener.subscribe(Image, "/renamed")
    listener.subscribe(CompressedImage, "/cam/c")
    node = rclpy.create_node("player", context=context)
    with Bag(recording) as bag:
        player = BagPlayer(
            node, bag, topics=["/cam/image", "/cam/c"], remaps={"/cam/image": "/renamed"}
        )
        player.wait_for_subscribers(timeout_s=20)
        sent = []
        played = player.play(on_publish=lambda message, now: sent.append((message, now)))
        originals = [bag.decode(m) for m, _ in sent if m.topic == "/cam/image"]
    assert played.counts == {"/renamed": 6, "/cam/c": 6}
    wait_until(lambda: len(listener.received) == 12)
    images = [message for topic, message, _ in listener.received if topic == "/renamed"]
    for original, image in zip(originals, images, strict=True):
        assert bytes(image.data) == original.data.tobytes()
        assert image.header.frame_id == "optical"
        assert image.header.stamp.nanosec == original.header.stamp.nanosec
    # 5 steps of 50 ms; a loaded machine may be late but never early.
    assert sent[-1][1] - sent[0][1] >= 5 * STEP / 1e9 - 0.001


def test_messages_of_one_moment_stay_together_at_any_speed(recording, context, monkeypatch):
    sleeps = []
    monkeypatch.setattr(BagPlayer, "_sleep", lambda self, due, *_: sleeps.append(due))
    node = rclpy.create_node("player", context=context)
    with Bag(recording) as bag:
        player = BagPlayer(node, bag, topics=["/cam/image", "/cam/c"])
        player.play(rate=0.25, keep_ns=1_000_000)
    gaps = np.diff(sleeps)
    np.testing.assert_allclose(gaps[::2], 2e-6, atol=1e-7)  # 1000 and 3000 ns after the stamp
    np.testing.assert_allclose(gaps[1::2], STEP / 1e9 / 0.25 - 2e-6, atol=1e-5)


def test_clock_runs_along(recording, context, listener):
    from rosgraph_msgs.msg import Clock

    listener.subscribe(Clock, "/clock")
    node = rclpy.create_node("player", context=context)
    wait_until(lambda: node.count_subscribers("/clock") == 1)
    with Bag(recording) as bag:
        player = BagPlayer(node, bag, topics=["/cam/image"], clock=True)
        time.sleep(0.5)
        player.play(rate=2.0)

    def stamps():
        return [m.clock.sec * 10**9 + m.clock.nanosec for _, m, _ in listener.received]

    wait_until(lambda: stamps() and stamps()[-1] == START + 5 * STEP + 1000)
    assert stamps() == sorted(stamps())
    assert len(stamps()) > 6


def test_nobody_listens(recording, context):
    node = rclpy.create_node("player", context=context)
    with Bag(recording) as bag:
        player = BagPlayer(node, bag, topics=["/cam/c"], remaps={"/cam/c": "/other"})
        with pytest.raises(DataError, match="no subscriber on /other within"):
            player.wait_for_subscribers(timeout_s=0.2)


def test_unknown_message_packages_are_skipped_unless_asked_for(recording, context):
    node = rclpy.create_node("player", context=context)
    with Bag(recording) as bag:
        player = BagPlayer(node, bag)
        if "/cam/odd" in player.topics:
            pytest.skip("vision_msgs is installed here")
        assert "vision_msgs" in player.skipped["/cam/odd"]
        with pytest.raises(ConfigError, match="install the ROS package 'vision_msgs'"):
            BagPlayer(node, bag, topics=["/cam/odd"])
        with pytest.raises(DataError, match="no topic '/cam/none'"):
            BagPlayer(node, bag, topics=["/cam/none"])


def test_remaps_are_checked():
    assert parse_remaps(["/a:=/b", "c:=d"]) == {"/a": "/b", "c": "d"}
    with pytest.raises(ConfigError, match="has not the form"):
        parse_remaps(["/a=/b"])


def test_command_line(recording, capsys, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(10 + os.getpid() % 90))
    assert main([str(recording), "--rate", "0", "--topic", "/cam/c", "--loop", "2"]) == 0
    assert capsys.readouterr().out.count("played /cam/c 6") == 2
    assert main([str(recording), "--topic", "/cam/c", "--wait", "0.1"]) == 2
    assert "no subscriber" in capsys.readouterr().err
    assert main([str(recording / "nothing")]) == 2
