"""Arrays of events (dvs_msgs/EventArray and alike) straight from their serialised bytes.

A message object would hold one Python object per event. In CDR every event after the first takes
16 bytes, so NumPy reads all of them where they lie. The same bytes come from a recording and from
a raw subscription.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from segrgbx_core.base.errors import EncodingError
from segrgbx_ros.messages.events.packets import (
    MAX_EVENTS,
    EventSlice,
    check_bytes,
    checked_size,
    make_slice,
)
from segrgbx_ros.messages.images import NS_PER_S, stamp_ns

TYPES = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")
"""ROS types of this layout: header, height, width, events of x, y, time and polarity."""
_PREFIX = 4  # encapsulation; alignment counts from its end
_STRIDE = 16
_TIME_SEC, _TIME_NANOSEC, _POLARITY, _SIZE = 6, 10, 14, 15


@dataclass(frozen=True, eq=False)
class EventArray:
    """One message.

    Attributes:
        stamp_ns: stamp of its header.
        size: of the sensor, width first.
        events: with the times that the message gives them; None when it has none.
        num_cut: events beyond the bound, older than those taken.
    """

    stamp_ns: int
    size: tuple[int, int]
    events: EventSlice | None
    num_cut: int = 0


def read_event_array(raw: bytes, max_events: int = MAX_EVENTS) -> EventArray:
    """Reads a serialised message.

    Args:
        raw: CDR bytes, with the four bytes of encapsulation.
        max_events: bound; of more events the newest are taken.

    Raises:
        EncodingError: when the bytes are not such a message.
    """
    data = memoryview(raw).cast("B")
    if len(data) < _PREFIX or data[0] != 0 or data[1] not in (0, 1):
        raise EncodingError(f"event array of {len(data)} bytes is no plain CDR message")
    check_bytes(len(data))
    order = "<" if data[1] else ">"

    def word(place: int) -> int:
        if place + 4 > len(data):
            raise EncodingError(f"event array ends after {len(data)} bytes, within its header")
        return int(np.frombuffer(data, f"{order}u4", 1, place)[0])

    place = _PREFIX + 12 + word(_PREFIX + 8)
    place += -(place - _PREFIX) % 4
    size = checked_size(word(place + 4), word(place))
    count, first = word(place + 8), place + 12
    if count == 0:
        return EventArray(stamp_ns(raw), size, None)
    # The first event lacks the two bytes of padding that the others have after x and y. Seen as if
    # it had them it begins two bytes early, and all but its x and y lie where they should.
    begin = first - 2
    needed = begin + _STRIDE * (count - 1) + _SIZE
    if needed > len(data):
        raise EncodingError(f"event array of {len(data)} bytes; {count} events need {needed}")
    items: Any = np.ndarray((count,), _item(order), data, begin, (_STRIDE,))
    num_cut = max(0, count - max_events)
    items = items[num_cut:]
    x, y = items["x"].astype(np.int64), items["y"].astype(np.int64)
    if num_cut == 0:
        x[0], y[0] = np.frombuffer(data, f"{order}u2", 2, first)
    t_ns = items["sec"].astype(np.int64) * NS_PER_S + items["nanosec"]
    p = (items["p"] != 0).astype(np.uint8)
    return EventArray(stamp_ns(raw), size, make_slice(x, y, t_ns, p, size), num_cut)


def _item(order: str) -> np.dtype[Any]:
    return np.dtype(
        {
            "names": ["x", "y", "sec", "nanosec", "p"],
            "formats": [f"{order}u2", f"{order}u2", f"{order}i4", f"{order}u4", "u1"],
            "offsets": [0, 2, _TIME_SEC, _TIME_NANOSEC, _POLARITY],
            "itemsize": _SIZE,
        }
    )
