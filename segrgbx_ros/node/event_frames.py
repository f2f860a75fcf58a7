"""The node `event_frames`: a stream of events in, images out, for RViz and for recordings.

Subscribes to `events` (the type that `sensor.message_type` names), publishes `image` (rgb8) while
someone listens. Images carry the end of their window as stamp and the frame of the events.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

from segrgbx_core.base.config import Config, from_mapping, option
from segrgbx_core.base.errors import EncodingError, SegrgbxError
from segrgbx_core.base.samples import Array, Events
from segrgbx_core.labels import overlay
from segrgbx_core.sensors.event import EventEncoding, EventMessage, EventSensor, from_raw
from segrgbx_ros.config.node import nested
from segrgbx_ros.config.parameter_files import check_parameter_files
from segrgbx_ros.messages.events.stream import EventStream
from segrgbx_ros.messages.images import NS_PER_S, fill_image
from segrgbx_ros.node import parameters as params
from segrgbx_ros.node.inputs import EVENT_DEPTH, message_class
from segrgbx_ros.node.outputs import IMAGE_QOS

_JUMP_NS = 500_000_000
"""A stream this far behind itself has started anew."""


class EventFramesConfig(Config):
    """Options of the node `event_frames`."""

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

    def push_message(self, message: Any, is_watched: bool = True) -> list[tuple[int, Array]]:
        """Takes one message.

        Args:
            message: as for `EventStream.read_message`.
            is_watched: False draws nothing.

        Returns:
            stamp in ns and picture uint8 (H, W, 3) of every window that is complete now.

        Raises:
            EncodingError: when the message cannot be decoded.
        """
        taken = self._stream.read_message(message)
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


class EventFramesNode(Node):
    """See the module.

    Raises:
        ConfigError: for the first parameter that is wrong, or when the message type is missing.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(
            "event_frames", automatically_declare_parameters_from_overrides=True, **arguments
        )
        where = f"node '{self.get_name()}'"
        values = nested(params.given_values(self), f"{where}: ")
        config = from_mapping(EventFramesConfig, values, where)
        params.declare(self, config)
        self._frames = EventFrames(config)
        self._publisher = self.create_publisher(
            Image,
            "image",
            IMAGE_QOS,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self.create_subscription(
            message_class(config.sensor.message_type.value),
            "events",
            self._on_events,
            QoSProfile(depth=EVENT_DEPTH, reliability=QoSReliabilityPolicy.BEST_EFFORT),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            raw=config.sensor.message_type is not EventMessage.PACKET,
        )

    def _on_events(self, message: Any) -> None:
        is_watched = self._publisher.get_subscription_count() > 0
        try:
            frames = self._frames.push_message(message, is_watched)
        except EncodingError as error:
            self.get_logger().warning(f"topic 'events': {error}", throttle_duration_sec=5.0)
            return
        for stamp_ns, picture in frames:
            image = fill_image(Image(), picture, "rgb8")
            image.header.stamp.sec, image.header.stamp.nanosec = divmod(stamp_ns, NS_PER_S)
            if not isinstance(message, bytes):
                image.header.frame_id = message.header.frame_id
            self._publisher.publish(image)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until it is shut down; 1 when it cannot start."""
    arguments = list(sys.argv if args is None else args)
    node = None
    try:
        check_parameter_files(arguments)
        argparse.ArgumentParser(
            prog="event_frames_node",
            description="Draws a stream of events as images.",
            epilog="Remap events and image; parameters: rate_hz, encoding.*, sensor.*.",
        ).parse_args(remove_ros_args(arguments)[1:])
        rclpy.init(args=arguments)
        node = EventFramesNode()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except SegrgbxError as error:
        sys.stderr.write(f"event_frames_node: {error}\n")
        return 1
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
