"""From event messages to events on the clock of the RGB stamps, in order and with their state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segrgbx_core.base.samples import Events
from segrgbx_core.sensors.event import TimeSource
from segrgbx_core.sync.x_queue import SensorClock
from segrgbx_ros.messages.events.arrays import read_event_array
from segrgbx_ros.messages.events.packets import MAX_EVENTS, EventPacketDecoder, EventSlice
from segrgbx_ros.messages.images import stamp_ns

_ONE_CLOCK_NS = 10_000_000_000
"""Array events this near to their message's stamp are on its clock."""


@dataclass(frozen=True, eq=False)
class StampedEvents:
    """Events of one message on the clock of the stamps.

    Attributes:
        events: perhaps none.
        reached_ns: how far the stream has come.
    """

    events: Events
    reached_ns: int


class EventStream:
    """One topic of events; reads every message of it, in order.

    A message is an EventPacket of rclpy or rosbags, or the serialised bytes of an EventArray.
    Packets carry the sensor's time, which is mapped; arrays carry ROS time, which is taken as it
    is unless it is far from the stamp.

    Args:
        time_source: which clock counts.
        max_events: bound per message; of more events the newest are kept.
    """

    def __init__(self, time_source: TimeSource, max_events: int = MAX_EVENTS) -> None:
        self._time_source = time_source
        self._max_events = max_events
        self._packets = EventPacketDecoder(max_events)
        self._num_cut = 0
        self._clock = _clock(time_source)

    @property
    def num_lost(self) -> int:
        """Packets missing between those seen."""
        return self._packets.num_lost

    @property
    def num_cut(self) -> int:
        """Events of messages with more than `max_events` that were not taken."""
        return self._packets.num_cut + self._num_cut

    def reset(self) -> None:
        """Starts anew: messages may have been missed."""
        self._packets.reset()
        self._clock.reset()

    def read_message(self, message: Any) -> StampedEvents | None:
        """The events of a message; None when it holds neither an event nor a time.

        Raises:
            EncodingError: when the message cannot be decoded.
        """
        if not isinstance(message, bytes):
            events = self._packets.decode(message)
            return None if events is None else self._mapped(events, stamp_ns(message))
        array = read_event_array(message, self._max_events)
        self._num_cut += array.num_cut
        if array.events is None:  # the sensor saw nothing until then
            return StampedEvents(_no_events(*array.size), array.stamp_ns)
        is_ros_time = abs(array.events.begin_ns - array.stamp_ns) < _ONE_CLOCK_NS
        if is_ros_time and self._time_source is TimeSource.SENSOR_ALIGNED:
            return StampedEvents(array.events.events, array.events.end_ns)
        return self._mapped(array.events, array.stamp_ns)

    def _mapped(self, events: EventSlice, stamp: int) -> StampedEvents:
        """The message's own first time belongs to its stamp, smoothed over many messages."""
        times = np.concatenate(([events.begin_ns], events.events.t_ns, [events.end_ns]))
        mapped = self._clock.to_stamp_clock(stamp, times)
        return StampedEvents(replace(events.events, t_ns=mapped[1:-1]), int(mapped[-1]))


def _clock(time_source: TimeSource) -> SensorClock:
    return SensorClock(share=1) if time_source is TimeSource.HEADER else SensorClock()


def _no_events(width: int, height: int) -> Events:
    none = np.empty(0, np.uint16)
    return Events(none, none, none.astype(np.int64), none.astype(np.uint8), width, height)
