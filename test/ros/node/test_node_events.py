"""The node with an event stream, over real DDS.

No package of event messages is needed: arrays of events are read from their bytes, so any message
type with a type support lends its topic.
"""

import importlib.util
import threading
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from made_messages import event_array, events, stamped  # noqa: E402
from node_rig import HEIGHT, WIDTH, ask  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from segrgbx_ros.config.node import Stream  # noqa: E402
from segrgbx_ros.messages.events.arrays import TYPES  # noqa: E402
from segrgbx_ros.messages.events.stream import EventStream  # noqa: E402
from segrgbx_ros.messages.images import fill_image, image_array, stamp_ns  # noqa: E402
from segrgbx_ros.node import inputs  # noqa: E402
from segrgbx_ros.node.health.streams import StreamHealth  # noqa: E402
from segrgbx_ros.node.intake import MAX_WAITING, PairIntake, Received  # noqa: E402
from segrgbx_ros.node.node import FAILURE  # noqa: E402

MS = 1_000_000
SIZE = {"model.input_height": 64, "model.input_width": 64}
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


def test_a_packet_that_takes_long_to_decode_stops_no_other_pair(rig, monkeypatch):
    """Its own pair says how far it is behind; nothing of it is lost."""
    monkeypatch.setattr(inputs, "message_class", lambda config: CompressedImage)
    one = rig(
        wait=False,
        pairs=["event", "thermal"],
        **{"sensor.event.message_type": TYPES[0], "sync.wait_ms": 500.0},
        **SIZE,
    )
    stream = one.tester.create_publisher(CompressedImage, "event/x/events", 200)
    one.until(lambda: stream.get_subscription_count(), seconds=20)
    masks, others = one.hear("event/mask"), one.hear("thermal/mask")
    one.until(lambda: one.tester.count_publishers("event/mask") == 1, seconds=20)
    reached, opened = threading.Event(), threading.Event()
    read = EventStream.read_message

    def slow(self, message):
        reached.set()
        assert opened.wait(30)
        return read(self, message)

    monkeypatch.setattr(EventStream, "read_message", slow)
    for index in range(5):
        times = START + (20 * index + np.arange(20)) * MS
        stream.publish(event_array(events(times, (WIDTH, HEIGHT)), times[0]))
    one.until(reached.is_set)
    one.say("event/rgb/image", rgb(START + 80 * MS))
    for number in range(3):
        ask(one)
        one.until(lambda number=number: len(others) > number)
    assert not masks

    def says_behind():
        return any(
            "s behind with its messages" in status.message
            for report in one.diagnostics
            for status in report.status
            if status.name.endswith("event input")
        )

    one.pump(0.4)
    opened.set()
    one.until(lambda: masks)
    assert masks[0].header.stamp.nanosec == 80 * MS
    one.until(says_behind)


class Lane:
    """An intake whose messages are decoded only when `opened`; a clock that is set by hand."""

    def __init__(self):
        self.taken, self.polled, self.opened = [], [], threading.Event()
        self.deadline_ns, self.now_ns, self.busy = None, 0, threading.Event()
        self.intake = PairIntake(
            "event",
            self.on_message,
            lambda _, now_ns: self.on_poll(now_ns),
            lambda _: self.deadline_ns,
            lambda: self.now_ns,
            10.0,
        )

    def on_message(self, _, received):
        self.busy.set()
        assert self.opened.wait(10)
        self.taken.append(received.stamp_ns)

    def on_poll(self, now_ns):
        self.polled.append(now_ns)
        self.deadline_ns = None


def received(stamp, health=None):
    return Received(Stream.EVENTS, health or StreamHealth("/x"), None, 0, stamp)


@pytest.fixture
def lane():
    one = Lane()
    yield one
    one.opened.set()
    one.intake.stop()


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_intake_keeps_the_order_and_refuses_more_than_it_may_hold(lane):
    assert lane.intake.put(received(0))
    assert lane.busy.wait(10)
    accepted = [lane.intake.put(received(number)) for number in range(1, MAX_WAITING + 3)]
    assert accepted == [True] * MAX_WAITING + [False] * 2
    assert lane.intake.num_waiting == MAX_WAITING
    lane.opened.set()
    until(lambda: len(lane.taken) == MAX_WAITING + 1)
    assert lane.taken == list(range(MAX_WAITING + 1))


def test_what_an_intake_gives_up_is_counted(lane):
    health = StreamHealth("/x")
    lane.intake.put(received(0, health))
    assert lane.busy.wait(10)
    for number in range(1, 4):
        lane.intake.put(received(number, health))
    lane.intake.clear()
    lane.opened.set()
    until(lambda: lane.taken == [0])
    assert health.cleared == 3


def test_a_deadline_is_kept_while_nothing_comes(lane):
    lane.opened.set()
    lane.deadline_ns, lane.now_ns = 5, 100 * MS
    lane.intake.put(received(1))
    until(lambda: lane.polled == [100 * MS])
    assert lane.taken == [1], "what has arrived goes first"


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
