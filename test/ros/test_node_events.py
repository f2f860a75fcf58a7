"""The node with an event stream, over real DDS.

No package of event messages is needed: arrays of events are read from their bytes, so any message
type with a type support lends its topic.
"""

import importlib.util
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from segrgbx_core.checkpoint import random_checkpoint  # noqa: E402
from segrgbx_ros import inputs  # noqa: E402
from segrgbx_ros.bags import new_typestore  # noqa: E402
from segrgbx_ros.event_arrays import TYPES  # noqa: E402
from segrgbx_ros.messages import fill_image, image_array  # noqa: E402
from segrgbx_ros.node import FAILURE, SegmentationNode  # noqa: E402

MS = 1_000_000
START = 1_700_000_000 * 1000 * MS
HEIGHT, WIDTH = 48, 64
STORE = new_typestore()


@pytest.fixture
def make(tmp_path):
    """Makes a node, a tester beside it and an executor for both."""
    number = os.getpid() % 100
    context = Context()
    rclpy.init(context=context, domain_id=1 + number)
    made = []

    def node(**parameters):
        path = tmp_path / "tiny.safetensors"
        random_checkpoint(path)
        values = {"pairs": ["event"], "model.checkpoint": str(path), **parameters}
        one = SimpleNamespace(
            node=SegmentationNode(
                context=context,
                namespace=f"/events{os.getpid()}",
                parameter_overrides=[Parameter(name, value=values[name]) for name in values],
            ),
            tester=rclpy.create_node("tester", context=context, namespace=f"/events{os.getpid()}"),
            executor=SingleThreadedExecutor(context=context),
        )
        one.executor.add_node(one.node)
        one.executor.add_node(one.tester)
        made.append(one)
        return one

    yield node
    for one in made:
        one.node.release()
        one.executor.shutdown()
        one.node.destroy_node()
        one.tester.destroy_node()
    rclpy.shutdown(context=context)


def until(one, condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened in time"
        one.executor.spin_once(timeout_sec=0.02)


def event_array(first_ns, count=20):
    types = STORE.types
    event, when = types["dvs_msgs/msg/Event"], types["builtin_interfaces/msg/Time"]

    def stamp(t_ns):
        return when(sec=t_ns // 10**9, nanosec=t_ns % 10**9)

    items = [
        event(x=index % WIDTH, y=index % HEIGHT, ts=stamp(first_ns + index * MS), polarity=True)
        for index in range(count)
    ]
    header = types["std_msgs/msg/Header"](stamp=stamp(first_ns), frame_id="event")
    message = types[TYPES[0]](header=header, height=HEIGHT, width=WIDTH, events=items)
    return bytes(STORE.serialize_cdr(message, TYPES[0]))


def rgb(stamp_ns):
    message = fill_image(Image(), np.full((HEIGHT, WIDTH, 3), 90, np.uint8), "rgb8")
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return message


def test_a_stream_of_events_gives_masks(make, monkeypatch, capfd):
    monkeypatch.setattr(inputs, "event_message_type", lambda config: CompressedImage)
    one = make(**{"sensor.event.message_type": TYPES[0]})
    until(one, lambda: one.tester.count_subscribers("event/x/events") == 1)
    (found,) = one.tester.get_subscriptions_info_by_topic(
        one.tester.resolve_topic_name("event/x/events")
    )
    assert found.qos_profile.reliability.name == "BEST_EFFORT"
    masks = []
    one.tester.create_subscription(Image, "event/mask", masks.append, 10)
    events = one.tester.create_publisher(CompressedImage, "event/x/events", 10)
    images = one.tester.create_publisher(Image, "event/rgb/image", 10)
    until(one, lambda: events.get_subscription_count() and images.get_subscription_count())
    until(one, lambda: one.tester.count_publishers("event/mask") == 1)
    events.publish(b"\0\1\0\0")
    until(one, lambda: "within its header" in capfd.readouterr().err)
    for index in range(5):
        events.publish(event_array(START + 20 * index * MS))
    images.publish(rgb(START + 80 * MS))
    until(one, lambda: masks)
    assert image_array(masks[0]).shape == (HEIGHT, WIDTH)
    assert masks[0].header.stamp.nanosec == 80 * MS


@pytest.mark.skipif(
    importlib.util.find_spec("event_camera_msgs") is not None,
    reason="event_camera_msgs is installed",
)
def test_a_missing_message_package_is_named(make, capfd):
    one = make(autostart=False)
    assert one.node.trigger_configure() == FAILURE
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "[FATAL]" in line]
    assert line.endswith(
        "cannot be configured: pair 'event': message type event_camera_msgs/msg/EventPacket "
        "is not installed; install the ROS package 'event_camera_msgs', or set event.x_form: "
        "image for drawn pictures"
    )
