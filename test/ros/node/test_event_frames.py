"""Streams of events as pictures: which windows, what they show; the node over real DDS."""

import numpy as np
import pytest
from made_messages import STORE, event_packet

from segrgbx_core.bags.message_types import EVENT_PACKET
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import Events
from segrgbx_core.sensors.event import EventEncoding
from segrgbx_ros.node.event_frames import EventFrames, EventFramesConfig

MS = 1_000_000
START = 1_700_000_000_000 * MS
HEIGHT, WIDTH = 12, 16


def packet(begin_ns, pixels, number=0):
    """One millisecond between events; the stamp is that of the first."""
    times = begin_ns + np.arange(len(pixels)) * MS
    x, y = (np.asarray(axis, np.uint16) for axis in zip(*pixels, strict=True))
    events = Events(x, y, times, np.ones(len(pixels), np.uint8), WIDTH, HEIGHT)
    return event_packet(events, begin_ns, "libcaer_cmp", number, "event_optical")


def frames_of(rate_hz=50.0, window_ms=20.0, **given):
    encoding = EventEncoding(window_ms=window_ms)
    return EventFrames(EventFramesConfig(rate_hz=rate_hz, encoding=encoding, **given))


def touched(picture):
    """Pixels (x, y) that are not white."""
    return {(int(x), int(y)) for y, x in zip(*np.nonzero((picture < 255).any(2)), strict=True)}


def test_pictures_show_the_window_before_their_stamp():
    frames = frames_of()
    made = []
    for index in range(12):  # ten events, ten milliseconds, each packet on a column of its own
        pixels = [(index, row) for row in range(10)]
        made += frames.push_message(packet(START + index * 10 * MS + 1, pixels, index))
    stamps = [stamp for stamp, _ in made]
    assert all(stamp % (20 * MS) == 0 for stamp in stamps)
    assert np.diff(stamps).tolist() == [20 * MS] * (len(stamps) - 1)
    assert len(stamps) >= 4
    for stamp, picture in made:
        assert (picture.shape, picture.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
        first = (stamp - START) // (10 * MS) - 2
        columns = {x for x, _ in touched(picture)}
        assert columns == {column for column in (first, first + 1) if column >= 0}


def test_nothing_is_drawn_for_nobody_and_memory_stays_small():
    frames = frames_of()
    for index in range(200):
        pixels = [(index % WIDTH, row) for row in range(10)]
        assert frames.push_message(packet(START + index * 10 * MS, pixels, index), False) == []
    assert len(frames._parts) <= 6


@pytest.mark.parametrize("jump_ns", [-3600 * 1000 * MS, 3600 * 1000 * MS])
def test_a_stream_may_start_anew(jump_ns):
    frames = frames_of()
    for index in range(6):
        frames.push_message(
            packet(START + index * 10 * MS, [(1, row) for row in range(10)], index)
        )
    made = []
    for index in range(6):
        begin = START + jump_ns + index * 10 * MS
        made += frames.push_message(packet(begin, [(2, row) for row in range(10)], index))
    assert 2 <= len(made) <= 4
    assert touched(made[-1][1]) <= {(2, row) for row in range(10)}
    assert abs(made[0][0] - START - jump_ns) < 50 * MS


def test_what_cannot_be_decoded_is_said():
    bad = packet(START, [(1, 1)])
    bad.encoding = "evt2"
    with pytest.raises(EncodingError, match="evt2"):
        frames_of().push_message(bad)


@pytest.mark.ros
def test_the_node_publishes_pictures_that_somebody_wants(monkeypatch):
    rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
    import os
    import time

    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from sensor_msgs.msg import CompressedImage, Image

    from segrgbx_ros.messages.images import image_array
    from segrgbx_ros.node import event_frames

    # A type that lends its topic; its bytes are those of the packet.
    monkeypatch.setattr(event_frames, "message_class", lambda kind: CompressedImage)
    take = event_frames.EventStream.read_message
    monkeypatch.setattr(
        event_frames.EventStream,
        "read_message",
        lambda self, raw: take(self, STORE.deserialize_cdr(raw, EVENT_PACKET)),
    )
    context = Context()
    rclpy.init(context=context, domain_id=1 + os.getpid() % 100)
    values = {"rate_hz": 50, "sensor.message_type": "dvs_msgs/msg/EventArray"}
    node = event_frames.EventFramesNode(
        context=context,
        namespace=f"/frames{os.getpid()}",
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
    )
    tester = rclpy.create_node("tester", context=context, namespace=f"/frames{os.getpid()}")
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    executor.add_node(tester)
    heard = []
    tester.create_subscription(Image, "image", heard.append, 10)
    events = tester.create_publisher(CompressedImage, "events", 100)
    end = time.monotonic() + 20
    index = 0
    try:
        while len(heard) < 3 and time.monotonic() < end:
            if events.get_subscription_count() and tester.count_publishers("image"):
                pixels = [(index % WIDTH, row) for row in range(10)]
                message = packet(START + index * 10 * MS, pixels, index)
                events.publish(bytes(STORE.serialize_cdr(message, EVENT_PACKET)))
                index += 1
            executor.spin_once(timeout_sec=0.02)
        assert len(heard) >= 3
        assert image_array(heard[0]).shape == (HEIGHT, WIDTH, 3)
        stamps = [message.header.stamp.nanosec for message in heard]
        assert all(stamp % (20 * MS) == 0 for stamp in stamps)
        assert node.describe_parameter("rate_hz").floating_point_range[0].to_value == 1000.0
    finally:
        executor.shutdown()
        node.destroy_node()
        tester.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.ros
def test_wrong_parameters_are_refused_in_words(capfd):
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    from segrgbx_ros.node import event_frames

    assert event_frames.main(["x", "--ros-args", "-p", "rate:=3.0"]) == 1
    assert "unknown option 'rate' (did you mean 'rate_hz'?)" in capfd.readouterr().err
