"""Pictures from a stream of events at a steady rate, on the clock of the stamps. NumPy only."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.samples import Array, Events
from segrgbx_core.labels import overlay
from segrgbx_core.sensors.event import EventEncoding, EventSensor, from_raw
from segrgbx_ros.messages.events.stream import EventStream
from segrgbx_ros.messages.images import NS_PER_S

_JUMP_NS = 500_000_000
"""A stream this far behind itself has started anew."""


class EventFramesConfig(Config):
    """Options of `event_frames_node`."""

    rate_hz: float = option(25.0, doc="pictures per second", unit="Hz", low=0.1, high=1000)
    encoding: EventEncoding = EventEncoding()
    sensor: EventSensor = EventSensor()


class EventFrames:
    """Cuts a stream into windows that end at multiples of the period, and draws them.

    A picture shows the events of (T - window, T] as a model with this encoding sees them, so that
    it can also feed a pair with `x_form: image`.

    Args:
        config: rate, drawing, facts about the driver.
    """

    def __init__(self, config: EventFramesConfig) -> None:
        self._config = config
        self._stream = EventStream(config.sensor.time_source)
        self._period_ns = round(NS_PER_S / config.rate_hz)
        self._window_ns = round(config.encoding.window_ms * 1e6)
        self._parts: deque[Events] = deque()
        self._reached_ns = 0
        self._due_ns = 0

    def push(self, message: Any, is_watched: bool = True) -> list[tuple[int, Array]]:
        """Takes one message.

        Args:
            message: as `EventStream.take` wants it.
            is_watched: False draws nothing.

        Returns:
            stamp in ns and picture uint8 (H, W, 3) of every window that is complete now.

        Raises:
            EncodingError: when the message cannot be decoded.
        """
        taken = self._stream.take(message)
        if taken is None:
            return []
        if taken.reached_ns < self._reached_ns - _JUMP_NS:
            self._parts.clear()
            self._due_ns = 0
        self._reached_ns = taken.reached_ns
        if len(taken.events):
            self._parts.append(taken.events)
        if self._due_ns == 0 or self._reached_ns - self._due_ns > NS_PER_S:  # new, or long silent
            self._due_ns = self._reached_ns // self._period_ns * self._period_ns + self._period_ns
        frames = []
        while self._due_ns <= self._reached_ns:
            if is_watched and self._parts:
                frames.append((self._due_ns, self._drawn(self._due_ns)))
            self._due_ns += self._period_ns
        oldest_ns = self._due_ns - self._window_ns
        while self._parts and self._parts[0].t_ns[-1] <= oldest_ns:
            self._parts.popleft()
        return frames

    def _drawn(self, stamp_ns: int) -> Array:
        last = self._parts[-1]
        times = np.concatenate([part.t_ns for part in self._parts])
        order = np.argsort(times, kind="stable")
        x, y, p = (
            np.concatenate([getattr(part, name) for part in self._parts])[order]
            for name in ("x", "y", "p")
        )
        events = Events(x, y, times[order], p, last.width, last.height)
        image = from_raw(events, self._config.encoding, self._config.sensor, stamp_ns)
        return overlay.preview(image)
