"""The node `event_frames`: a stream of events in, pictures out, for RViz and for recordings.

Subscribes to `events` (the type that `sensor.message_type` names), publishes `image` (rgb8) while
someone listens. Pictures carry the end of their window as stamp and the frame of the events.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import EncodingError, SegrgbxError
from segrgbx_core.sensors.event import EventMessage
from segrgbx_ros.config.node import nested
from segrgbx_ros.messages.images import NS_PER_S, fill_image
from segrgbx_ros.node import parameters as params
from segrgbx_ros.node.event_frames import EventFrames, EventFramesConfig
from segrgbx_ros.node.inputs import EVENT_DEPTH, message_class
from segrgbx_ros.node.qos import IMAGE_QOS


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
            frames = self._frames.push(message, is_watched)
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
    """Runs the node until it is told to stop; 1 when it cannot start."""
    arguments = list(sys.argv if args is None else args)
    argparse.ArgumentParser(
        prog="event_frames_node",
        description="Draws a stream of events as images.",
        epilog="Remap events and image; parameters: rate_hz, encoding.*, sensor.*.",
    ).parse_args(remove_ros_args(arguments)[1:])
    rclpy.init(args=arguments)
    node = None
    try:
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
