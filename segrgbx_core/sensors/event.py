"""Event cameras: brightness changes of a short time become a picture.

An event says that one pixel got brighter (ON) or darker (OFF) at one instant. The X image
collects the events of a window that ends at the RGB image's stamp T: half-open, (T - window, T].

- `picture`: the accumulation picture of DeLiVER: white where nothing happened, blue where the
  last event was ON, red where it was OFF. Measured on the published DeLiVER frames: background
  (255, 255, 255), one pure colour per pixel, never mixed; red pixels lie on what is now 40 grey
  levels darker than its surroundings (the leading edge of dark poles and trees), blue ones on
  what such an edge has just left.
- `voxel`: three time bins as channels, oldest first. Each event adds its sign to the two bins
  nearest in time, in proportion (bilinear); 0.5 is silence, above is ON, below is OFF.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import Array, Events
from segrgbx_core.sensors.content import XContent
from segrgbx_core.sensors.picture import XImage, from_picture

_MAX_CLOCK_GAP_NS = 10_000_000_000
_RED = (1.0, 0.0, 0.0)
_BLUE = (0.0, 0.0, 1.0)


class EventRepresentation(str, Enum):
    """What the X image of events shows."""

    PICTURE = "picture"
    VOXEL = "voxel"


class Background(str, Enum):
    """Colour of pixels without events in an accumulation picture."""

    WHITE = "white"
    BLACK = "black"


class OnColour(str, Enum):
    """Colour of brighter events in an accumulation picture; darker events get the other one."""

    BLUE = "blue"
    RED = "red"


class EventEncoding(Config):
    """How events become the X image."""

    representation: EventRepresentation = option(
        EventRepresentation.PICTURE, doc="accumulation picture, or voxel grid of three time bins"
    )
    window_ms: float = option(
        50.0, doc="time before the RGB stamp whose events count", unit="ms", low=1, high=1000
    )
    background: Background = option(
        Background.WHITE, doc="colour of pixels without events (picture)"
    )
    on_colour: OnColour = option(
        OnColour.BLUE, doc="colour of brighter events; darker ones get the other colour (picture)"
    )
    saturation: int = option(
        1, doc="events of one pixel in the window that give its full colour", low=1, high=1000
    )


class TimeSource(str, Enum):
    """How the sensor's time becomes the time of the stamps."""

    SENSOR_ALIGNED = "sensor_aligned"
    HEADER = "header"


class EventMessage(str, Enum):
    """Message type of an event stream."""

    PACKET = "event_camera_msgs/msg/EventPacket"
    DVS_ARRAY = "dvs_msgs/msg/EventArray"
    PROPHESEE_ARRAY = "prophesee_event_msgs/msg/EventArray"


class EventSensor(Config):
    """Facts about the event driver."""

    message_type: EventMessage = option(
        EventMessage.PACKET, doc="type that the driver publishes; recordings name theirs"
    )
    time_source: TimeSource = option(
        TimeSource.SENSOR_ALIGNED,
        doc="sensor_aligned: sensor time, moved by the smoothed distance of the stamps; "
        "header: each message begins at its own stamp",
    )
    max_buffer_mb: int = option(
        64,
        doc="memory for events that wait, per pair; the oldest go first",
        unit="MB",
        low=1,
        high=1024,
    )
    inverted_polarity: bool = option(
        False, doc="true where the driver's polarity 1 means darker instead of brighter"
    )


class _Window(NamedTuple):
    """Events that count: flat pixel index, True for brighter, ns since the window began."""

    pixel: NDArray[np.intp]
    is_on: NDArray[np.bool_]
    t_ns: NDArray[np.int64]


def from_raw(
    x: Events, encoding: EventEncoding, sensor: EventSensor, stamp_ns: int | None = None
) -> XImage:
    """The X image of a slice of an event stream.

    Args:
        x: events in order of time, at least the window's; older and newer ones are ignored. Events
            outside the sensor's size are dropped.
        encoding: the checkpoint's window and representation.
        sensor: facts about the driver.
        stamp_ns: end of the window, on the clock of the events; None for the newest event.

    Returns:
        float32 (sensor height, sensor width, 3) in [0, 1].

    Raises:
        EncodingError: where `x` is no event stream, or its clock is not the stamp's.
    """
    _require_events(x)
    window = _cut(x, encoding, sensor, stamp_ns)
    if encoding.representation is EventRepresentation.VOXEL:
        return _voxel(window, x, encoding)
    return _picture(window, x, encoding)


def from_image(x: Array) -> XImage:
    """The X image of an event picture as data sets store it; see `from_picture`."""
    return from_picture(x, "event")


def content(
    x: Events, encoding: EventEncoding, sensor: EventSensor, stamp_ns: int | None = None
) -> XContent:
    """Content of the window of an event stream; arguments and errors as of `from_raw`.

    Returns:
        events per pixel (at most 1) as shares, the number of events as values.
    """
    _require_events(x)
    count = len(_cut(x, encoding, sensor, stamp_ns).pixel)
    share = min(1.0, count / (x.width * x.height))
    stats = XContent(share, share, low=count, median=count, high=count, unit="events")
    return stats if count else stats.empty(f"no event within {encoding.window_ms:g} ms")


def _require_events(x: object) -> None:
    if not isinstance(x, Events):
        raise EncodingError(
            f"event x: holds {type(x).__name__}; expected events; "
            "set x_form to image for event pictures"
        )


def _cut(
    events: Events, encoding: EventEncoding, sensor: EventSensor, stamp_ns: int | None
) -> _Window:
    newest_ns = int(events.t_ns[-1]) if len(events) else 0
    end_ns = newest_ns if stamp_ns is None else stamp_ns
    begin_ns = end_ns - _length_ns(encoding)
    if len(events):
        gap_ns = max(begin_ns - newest_ns, int(events.t_ns[0]) - end_ns)
        if gap_ns > _MAX_CLOCK_GAP_NS:
            raise EncodingError(
                f"event x: events are {gap_ns / 1e9:.3f} s away from the window at the RGB stamp; "
                "both must be on one clock; map sensor time to the RGB clock first"
            )
    part = slice(*np.searchsorted(events.t_ns, [begin_ns, end_ns], side="right"))
    column, row = events.x[part], events.y[part]
    t_ns, is_on = events.t_ns[part] - begin_ns, events.p[part] > 0
    inside = (column < events.width) & (row < events.height)
    if np.issubdtype(column.dtype, np.signedinteger):
        inside &= (column >= 0) & (row >= 0)
    if not inside.all():
        column, row, t_ns, is_on = column[inside], row[inside], t_ns[inside], is_on[inside]
    pixel = row.astype(np.intp)
    pixel *= events.width
    pixel += column
    return _Window(pixel, ~is_on if sensor.inverted_polarity else is_on, t_ns)


def _picture(window: _Window, events: Events, encoding: EventEncoding) -> XImage:
    size = events.height * events.width
    on, off = (_BLUE, _RED) if encoding.on_colour is OnColour.BLUE else (_RED, _BLUE)
    ground = 1.0 if encoding.background is Background.WHITE else 0.0
    # Levels 0 (silence) to saturation, for OFF, then again for ON: one look-up paints the picture.
    share = np.linspace(0, 1, encoding.saturation + 1)[:, None]
    paint = np.concatenate(
        [ground + share * (np.asarray(colour) - ground) for colour in (off, on)]
    )
    if encoding.saturation == 1:
        level = np.zeros(size, np.intp)
        level[window.pixel] = 1 + 2 * window.is_on  # repeated pixels keep the last event
    else:
        level = np.minimum(np.bincount(window.pixel, minlength=size), encoding.saturation)
        is_on = np.zeros(size, np.bool_)
        is_on[window.pixel] = window.is_on
        level += is_on * (encoding.saturation + 1)
    image = np.take(paint.astype(np.float32), level, axis=0)
    return image.reshape(events.height, events.width, 3)


def _voxel(window: _Window, events: Events, encoding: EventEncoding) -> XImage:
    place = window.t_ns * (
        2 / _length_ns(encoding)
    )  # 0 is the oldest bin's centre, 2 the newest's
    sign = window.is_on * 2.0 - 1.0
    half = int(np.searchsorted(place, 1.0))
    shares = (
        (slice(0, half), 1 - place[:half]),
        (slice(None), 1 - np.abs(place - 1)),
        (slice(half, None), place[half:] - 1),
    )
    planes = []
    for part, share in shares:
        share *= sign[part]
        total = np.bincount(window.pixel[part], share, minlength=events.height * events.width)
        level = total.astype(np.float32)
        level *= np.float32(0.5 / encoding.saturation)
        level += np.float32(0.5)
        planes.append(np.clip(level, 0, 1, out=level).reshape(events.height, events.width))
    return np.asarray(cv2.merge(planes), dtype=np.float32)


def _length_ns(encoding: EventEncoding) -> int:
    return round(encoding.window_ms * 1e6)
