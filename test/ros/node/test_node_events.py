"""The node with an event stream, over real DDS.

No package of event messages is needed: arrays of events are read from their bytes, so any message
type with a type support lends its topic.
"""

import importlib.util

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from made_messages import event_array, events, stamped  # noqa: E402
from node_rig import HEIGHT, WIDTH  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from segrgbx_ros.messages.events.arrays import TYPES  # noqa: E402
from segrgbx_ros.messages.images import fill_image, image_array, stamp_ns  # noqa: E402
from segrgbx_ros.node import inputs  # noqa: E402
from segrgbx_ros.node.node import FAILURE  # noqa: E402

MS = 1_000_000
START = 1_700_000_000 * 1000 * MS


def rgb(stamp_ns):
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    return stamped(fill_image(Image(), pixels, "rgb8"), stamp_ns)


def test_a_stream_of_events_gives_masks(rig, monkeypatch, capfd):
    monkeypatch.setattr(inputs, "message_class", lambda config: CompressedImage)
    one = rig(wait=False, pairs=["event"], **{"sensor.event.message_type": TYPES[0]})
    one.until(lambda: one.tester.count_subscribers("event/x/events") == 1, seconds=20)
    (found,) = one.tester.get_subscriptions_info_by_topic(
        one.tester.resolve_topic_name("event/x/events")
    )
    assert found.qos_profile.reliability.name == "BEST_EFFORT"
    masks = one.hear("event/mask")
    stream = one.tester.create_publisher(CompressedImage, "event/x/events", 10)
    images = one.tester.create_publisher(Image, "event/rgb/image", 10)
    one.until(
        lambda: stream.get_subscription_count() and images.get_subscription_count(), seconds=20
    )
    one.until(lambda: one.tester.count_publishers("event/mask") == 1, seconds=20)
    stream.publish(b"\0\1\0\0")
    one.until(lambda: "within its header" in capfd.readouterr().err, seconds=20)
    for index in range(5):
        times = START + (20 * index + np.arange(20)) * MS
        stream.publish(event_array(events(times, (WIDTH, HEIGHT)), times[0]))
    images.publish(rgb(START + 80 * MS))
    one.until(lambda: masks, seconds=20)
    assert image_array(masks[0]).shape == (HEIGHT, WIDTH)
    assert masks[0].header.stamp.nanosec == 80 * MS


def test_messages_that_wait_are_taken_together_and_in_order(rig, monkeypatch):
    monkeypatch.setattr(inputs, "message_class", lambda config: CompressedImage)
    one = rig(wait=False, pairs=["event"], **{"sensor.event.message_type": TYPES[0]})
    stream = one.tester.create_publisher(CompressedImage, "event/x/events", 200)
    one.until(lambda: stream.get_subscription_count(), seconds=20)
    one.until(lambda: one.tester.count_publishers("event/mask") == 1, seconds=20)
    seen = []
    push = one.node.runtime._pipeline["event"].push_message

    def kept(kind, message, *more):
        seen.append(stamp_ns(message))
        return push(kind, message, *more)

    monkeypatch.setattr(one.node.runtime._pipeline["event"], "push_message", kept)
    stamps = [START + index * MS for index in range(3 * inputs.EVENT_BURST)]
    for stamp in stamps:
        stream.publish(event_array(events([stamp], (WIDTH, HEIGHT)), stamp))
    one.until(lambda: len(seen) == len(stamps), seconds=20)
    assert seen == stamps
    one.until(lambda: one.report()["event input"][2]["x_received"] == str(len(stamps)))


@pytest.mark.skipif(
    importlib.util.find_spec("event_camera_msgs") is not None,
    reason="event_camera_msgs is installed",
)
def test_a_missing_message_package_is_named(rig, capfd):
    one = rig(wait=False, pairs=["event"], autostart=False)
    assert one.node.trigger_configure() == FAILURE
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "[FATAL]" in line]
    assert line.endswith(
        "cannot be configured: pair 'event': message type event_camera_msgs/msg/EventPacket "
        "is not installed; install the ROS package 'event_camera_msgs', or set event.x_form: "
        "image for drawn pictures"
    )
