"""Messages as drivers send them, made without ROS; `node_rig` has what the live node is sent."""

from array import array
from types import SimpleNamespace

import numpy as np

from segrgbx_core.bags.message_types import EVENT_PACKET, new_typestore
from segrgbx_core.base.samples import Events
from segrgbx_core.sensors.event_words import encode_evt3, encode_libcaer_cmp
from segrgbx_ros.messages.events.arrays import TYPES
from segrgbx_ros.messages.images import fill_image

STORE = new_typestore()
_TYPE = STORE.types


def stamped(message, stamp_ns, frame_id="camera"):
    """Sets the header of a message of any library; gives the message."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.header.frame_id = frame_id
    return message


def image(pixels, encoding, stamp_ns, frame_id="camera"):
    """Something with the fields of an Image."""
    header = SimpleNamespace(stamp=SimpleNamespace())
    message = fill_image(SimpleNamespace(header=header), pixels, encoding)
    return stamped(message, stamp_ns, frame_id)


def compressed(data, form):
    """Something with the fields of a CompressedImage, without a header."""
    return SimpleNamespace(format=form, data=array("B", bytes(data)))


def events(times_ns, size):
    """Events in time, each with a place of its own; `size` is (width, height)."""
    number = np.arange(len(times_ns))
    return Events(
        x=(number % size[0]).astype(np.uint16),
        y=(number // size[0] % size[1]).astype(np.uint16),
        t_ns=np.asarray(times_ns, np.int64),
        p=(number % 2).astype(np.uint8),
        width=size[0],
        height=size[1],
    )


def _time(stamp_ns):
    sec, nanosec = divmod(int(stamp_ns), 10**9)
    return _TYPE["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)


def _header(stamp_ns, frame_id):
    return _TYPE["std_msgs/msg/Header"](stamp=_time(stamp_ns), frame_id=frame_id)


def event_array(stream, stamp_ns, kind=TYPES[0], frame_id="camera", order="little"):
    """The bytes of an EventArray of one of both packages."""
    one = _TYPE[kind.replace("EventArray", "Event")]
    items = [
        one(x=int(x), y=int(y), ts=_time(t), polarity=p > 0)
        for x, y, t, p in zip(stream.x, stream.y, stream.t_ns, stream.p, strict=True)
    ]
    header = _header(stamp_ns, frame_id)
    message = _TYPE[kind](header=header, height=stream.height, width=stream.width, events=items)
    return bytes(STORE.serialize_cdr(message, kind, little_endian=order == "little"))


def event_packet(stream, stamp_ns, encoding="evt3", seq=0, frame_id="camera"):
    """An EventPacket of rosbags; empty in an encoding that we cannot write."""
    base, payload = 0, b""
    if encoding == "evt3":
        payload = encode_evt3(stream)
    elif encoding == "libcaer_cmp":
        base, payload = encode_libcaer_cmp(stream)
    return _TYPE[EVENT_PACKET](
        header=_header(stamp_ns, frame_id),
        height=stream.height,
        width=stream.width,
        seq=seq,
        time_base=base,
        encoding=encoding,
        is_bigendian=False,
        events=np.frombuffer(payload, np.uint8),
    )
