"""Event packets (event_camera_msgs/EventPacket) to events on the sensor's own clock, by field.

Neither ROS nor one Python object per event. The encodings are those of the drivers for Prophesee
and iniVation cameras: evt3, libcaer_cmp, libcaer and the deprecated mono; triggers are passed
over. Whatever bytes come, the only exception is EncodingError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import EncodingError, shortened
from segrgbx_core.base.images import size_fault
from segrgbx_core.base.samples import Array, Events
from segrgbx_core.sensors.event_words import EVT3, LIBCAER_CMP, WordDecoder

Size = tuple[int, int]

NS_PER_US = 1000
MAX_EVENTS = 1 << 20
"""Events taken of one message: at 250 messages/s more than 200 million a second."""
MAX_BYTES = 16 << 20
"""Largest payload of a message; sensors send less than 1 MB in 4 ms."""
ENCODINGS = ("evt3", "libcaer_cmp", "libcaer", "mono", "trigger")
_MAX_NS = 1 << 62
_ROLL_OVER_US = 1 << 31
_LIBCAER = np.dtype([("data", "<u4"), ("t_us", "<i4")])
_HINTS = {
    "evt2": "; set the driver to evt3",
    "evt21": "; set the driver to evt3",
    "evt4": "; set the driver to evt3",
}


@dataclass(frozen=True, eq=False)
class EventSlice:
    """The events of one message with the stretch of sensor time that it covers.

    Attributes:
        events: sorted by time; perhaps none, when the sensor saw nothing.
        begin_ns: first sensor time of the message, not after any event.
        end_ns: how far the stream has come, not before any event.
    """

    events: Events
    begin_ns: int
    end_ns: int


class EventPacketDecoder:
    """Decodes the packets of one stream, all of them, in order.

    Args:
        max_events: bound per message; of more events the newest are kept.

    Attributes:
        num_lost: packets missing between those seen, by their sequence numbers.
        num_cut: events beyond `max_events`.
    """

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self.num_lost = 0
        self.num_cut = 0
        self._max_events = max_events
        self._evt3 = WordDecoder(EVT3)
        self._next_seq: int | None = None

    def reset(self) -> None:
        """Forgets the stream's state, as when it starts anew."""
        self._evt3 = WordDecoder(EVT3)
        self._next_seq = None

    def decode(self, packet: Any) -> EventSlice | None:
        """The events of an EventPacket of rclpy or rosbags.

        Returns:
            None for a packet without events and time.

        Raises:
            EncodingError: for an unknown encoding, a damaged payload or an impossible sensor size.
        """
        encoding = str(packet.encoding)
        if encoding not in ENCODINGS:
            hint = _HINTS.get(encoding, f"; known are {', '.join(ENCODINGS)}")
            raise EncodingError(f"event encoding '{shortened(encoding)}' is not supported{hint}")
        if packet.is_bigendian:
            raise EncodingError("big-endian events are not supported; use a little-endian host")
        size = checked_size(packet.width, packet.height)
        self._follow(int(packet.seq))
        payload = np.frombuffer(packet.events, np.uint8)
        check_bytes(payload.size)
        if encoding == "trigger":
            return None
        if encoding == "evt3":
            return self._decode_evt3(_items(payload, "<u2", encoding), size)
        base_ns = int(packet.time_base)
        _check_times(base_ns, base_ns)
        if encoding == "libcaer_cmp":
            return self._decode_libcaer_cmp(_items(payload, "<u2", encoding), base_ns, size)
        is_mono = encoding == "mono"
        items = _items(payload, "<u8" if is_mono else _LIBCAER, encoding)
        newest = items[-self._max_events :]
        self.num_cut += len(items) - len(newest)
        return (_mono if is_mono else _libcaer)(newest, base_ns, size)

    def _decode_evt3(self, words: NDArray[np.uint16], size: Size) -> EventSlice | None:
        y, x, t_us, p = self._evt3.decode(words, size[::-1], self._max_events)
        self.num_cut += self._evt3.num_cut
        if not self._evt3.has_time:
            return None
        end_ns = self._evt3.now_us * NS_PER_US
        begin_ns = end_ns if self._evt3.first_us is None else self._evt3.first_us * NS_PER_US
        stated_ns = begin_ns, end_ns
        return make_slice(x, y, t_us * NS_PER_US, p, size, stated_ns, is_inside=True)

    def _decode_libcaer_cmp(
        self, words: NDArray[np.uint16], base_ns: int, size: Size
    ) -> EventSlice | None:
        if len(words) == 0:
            return None
        decoder = WordDecoder(LIBCAER_CMP, has_high=True, has_time=True)
        x, y, t_us, p = decoder.decode(words, size, self._max_events)
        self.num_cut += decoder.num_cut
        t_us *= NS_PER_US
        t_us += base_ns
        stated_ns = base_ns, base_ns + decoder.now_us * NS_PER_US
        return make_slice(x, y, t_us, p, size, stated_ns, is_inside=True)

    def _follow(self, seq: int) -> None:
        """Words after a gap may belong to a row or a time that was never seen."""
        if self._next_seq is not None and seq != self._next_seq:
            if seq < self._next_seq:  # the driver started anew, or the recording did
                self.reset()
            else:
                self.num_lost += seq - self._next_seq
                self._evt3.forget_place()
        self._next_seq = seq + 1


def checked_size(width: Any, height: Any) -> Size:
    """A sensor's size, width first.

    Raises:
        EncodingError: when no sensor has it.
    """
    if fault := size_fault(int(height), int(width)):
        raise EncodingError(f"event sensor: {fault}")
    return int(width), int(height)


def check_bytes(size: int) -> None:
    """Nothing for a message of a size that sensors send.

    Raises:
        EncodingError: for a larger one.
    """
    if size > MAX_BYTES:
        raise EncodingError(
            f"{size} bytes of events in one message; at most {MAX_BYTES} are taken; let the "
            "driver send shorter packets"
        )


def make_slice(
    x: Array,
    y: Array,
    t_ns: Array,
    p: Array,
    size: Size,
    stated_ns: tuple[int, ...] = (),
    *,
    is_inside: bool = False,
) -> EventSlice | None:
    """Events within the sensor and in order of time.

    Args:
        x: columns.
        y: rows.
        t_ns: sensor times, int64.
        p: polarities, 0 or 1.
        size: of the sensor; what lies outside is dropped.
        stated_ns: times that the message states besides those of its events.
        is_inside: True where no event lies outside.

    Returns:
        None when there is neither an event nor a time.

    Raises:
        EncodingError: when the times are no times.
    """
    if not is_inside:
        inside = (x < size[0]) & (y < size[1])
        if not inside.all():
            x, y, t_ns, p = x[inside], y[inside], t_ns[inside], p[inside]
    if np.any(t_ns[1:] < t_ns[:-1]):
        order = np.argsort(t_ns, kind="stable")
        x, y, t_ns, p = x[order], y[order], t_ns[order], p[order]
    times = (*stated_ns, int(t_ns[0]), int(t_ns[-1])) if len(t_ns) else stated_ns
    if not times:
        return None
    begin_ns, end_ns = min(times), max(times)
    _check_times(begin_ns, end_ns)
    columns = x.astype(np.uint16), y.astype(np.uint16), t_ns, p.astype(np.uint8)
    return EventSlice(Events(*columns, *size), begin_ns, end_ns)


def _items(payload: Array, dtype: Any, encoding: str) -> NDArray[Any]:
    size = np.dtype(dtype).itemsize
    if payload.size % size:
        raise EncodingError(
            f"{payload.size} bytes of '{encoding}' events; expected a multiple of {size}"
        )
    return payload.view(dtype)


def _check_times(begin_ns: int, end_ns: int) -> None:
    if not (begin_ns >= 0 and end_ns < _MAX_NS):
        raise EncodingError(f"event times from {begin_ns} to {end_ns} ns; is the message whole?")


def _libcaer(items: NDArray[Any], base_ns: int, size: Size) -> EventSlice | None:
    """Eight bytes per event; the 31-bit time may roll over once within a packet."""
    data, t_us = items["data"], items["t_us"].astype(np.int64)
    back = np.flatnonzero(t_us[1:] < t_us[:-1])
    if len(back) > 1:
        raise EncodingError(
            f"'libcaer' times run back {len(back)} times within a packet; is the message whole?"
        )
    if len(back):
        t_us[back[0] + 1 :] += _ROLL_OVER_US
    t_us *= NS_PER_US
    t_us += base_ns
    return make_slice(data >> 17, (data >> 2) & 0x7FFF, t_us, (data >> 1) & 1, size)


def _mono(items: NDArray[np.uint64], base_ns: int, size: Size) -> EventSlice | None:
    """Eight bytes per event: nanoseconds since the base, then place and polarity."""
    t_ns = (items & 0xFFFFFFFF).astype(np.int64)
    t_ns += base_ns
    return make_slice((items >> 32) & 0xFFFF, (items >> 48) & 0x7FFF, t_ns, items >> 63, size)
