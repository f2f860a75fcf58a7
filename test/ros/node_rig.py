"""The node under test with a tester beside it, over real DDS; shared by the tests of the node.

Every rig has its own domain and namespace, so that neither tests nor neighbours hear each other.
"""

import itertools
import os
import time

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from made_messages import stamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from segrgbx_ros.messages.images import fill_image
from segrgbx_ros.node.health.streams import PATIENT
from segrgbx_ros.node.node import SegmentationNode

_RIGS = itertools.count(1)
LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)
BEST_EFFORT = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.RELIABLE)
HEIGHT, WIDTH = 48, 64
WARM = np.add.outer(np.arange(24), np.arange(30)).astype(np.uint16) * 20 + 29000
"""A thermal image that shows something, in counts."""


def depth_plane(height=24, width=30):
    """A wall that is not quite square to the camera, in m."""
    return np.tile(np.linspace(2.0, 2.01, width, dtype=np.float32), (height, 1))


class Rig:
    """The node under test and a tester beside it, in one context and one executor."""

    def __init__(self, parameters, remaps=(), patience=None):
        # Processes that run tests side by side have neighbouring ids: no sum of the two.
        number = next(_RIGS)
        self.namespace = f"/rig{os.getpid()}_{number}"
        self.context = Context()
        rclpy.init(context=self.context, domain_id=1 + (31 * os.getpid() + number) % 100)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.node = SegmentationNode(
            patience or PATIENT,
            context=self.context,
            namespace=self.namespace,
            cli_args=["--ros-args", *(word for remap in remaps for word in ("-r", remap))],
            parameter_overrides=[
                Parameter(name, value=value) for name, value in parameters.items()
            ],
        )
        self.tester = rclpy.create_node("tester", context=self.context, namespace=self.namespace)
        self.executor.add_node(self.node)
        self.executor.add_node(self.tester)
        self.diagnostics = self.hear("/diagnostics", DiagnosticArray)
        self._publishers = {}
        self._strangers = []

    def stranger(self):
        """A node that publishes only, as another process would: one topic has one type in each."""
        context = Context()
        rclpy.init(context=context, domain_id=self.context.get_domain_id())
        node = rclpy.create_node("stranger", context=context, namespace=self.namespace)
        self._strangers.append(node)
        return node

    def close(self):
        for node in self._strangers:
            node.destroy_node()
            rclpy.shutdown(context=node.context)
        self.node.release()
        self.executor.shutdown()
        self.node.destroy_node()
        self.tester.destroy_node()
        rclpy.shutdown(context=self.context)

    def hear(self, topic, kind=Image, qos=RELIABLE):
        heard = []
        self.tester.create_subscription(kind, topic, heard.append, qos)
        return heard

    def say(self, topic, message, qos=RELIABLE):
        if topic not in self._publishers:
            publisher = self.tester.create_publisher(type(message), topic, qos)
            self._publishers[topic] = publisher
            self.until(lambda: publisher.get_subscription_count() > 0)
        self._publishers[topic].publish(message)

    def until(self, condition, seconds=10.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"nothing happened; last report: {self.report()}"
            self.executor.spin_once(timeout_sec=0.02)

    def pump(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def call(self, kind, name, **fields):
        client = self.tester.create_client(kind, name)
        self.until(client.service_is_ready)
        future = client.call_async(kind.Request(**fields))
        self.until(future.done)
        self.tester.destroy_client(client)
        return future.result()

    def state(self):
        return self.call(GetState, "segrgbx/get_state").current_state.label

    def report(self):
        if not self.diagnostics:
            return {}
        return {
            status.name.split(": ", 1)[1]: (
                status.level[0],
                status.message,
                {pair.key: pair.value for pair in status.values},
            )
            for status in self.diagnostics[-1].status
        }

    def says(self, name, text, level):
        """True once a status has this level and says this."""
        found = self.report().get(name)
        return found is not None and found[0] == level and text in found[1]


STAMPS = itertools.count(1)


def header(message, stamp=None, frame="rgb_optical"):
    """Stamps a message in tenths of a second, by default later than any before."""
    stamp = next(STAMPS) if stamp is None else stamp
    return stamped(message, (10_000 + stamp) * 10**8, frame)


def rgb_image(stamp, height=HEIGHT, width=WIDTH):
    pixels = np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3)
    return header(fill_image(Image(), (pixels % 251).astype(np.uint8), "rgb8"), stamp)


def x_image(stamp, pixels=None, encoding="16UC1"):
    pixels = WARM if pixels is None else pixels
    return header(fill_image(Image(), pixels, encoding), stamp, "x_optical")


def ask(one, pair="thermal", rgb=None, x=None):
    """Sends a pair with a stamp of its own; gives the RGB message."""
    stamp = next(STAMPS)
    rgb = rgb_image(stamp) if rgb is None else header(rgb, stamp)
    x = x_image(stamp) if x is None else header(x, stamp, "x_optical")
    one.say(f"{pair}/x/image", x)
    one.say(f"{pair}/rgb/image", rgb)
    return rgb
