"""The subscriptions of all pairs: where they listen, what the middleware says about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, QoSReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from segrgbx_ros.config import NodeConfig, Reliability, Stream, XTransport
from segrgbx_ros.diagnostics import InputWatch, PairWatch

Receive = Callable[[str, Stream, InputWatch, Any, int], None]

_SHORT = {Stream.RGB: "rgb", Stream.X: "x"}
_RELIABILITY = {
    Reliability.BEST_EFFORT: QoSReliabilityPolicy.BEST_EFFORT,
    Reliability.RELIABLE: QoSReliabilityPolicy.RELIABLE,
}


class Inputs:
    """Subscriptions that exist while the node is active.

    Args:
        node: owns the subscriptions.
        config: pairs, transports and quality of service.
        receive: called with pair, stream, watch, message and when the middleware received it, in
            ns of the wall clock.
    """

    def __init__(self, node: LifecycleNode, config: NodeConfig, receive: Receive) -> None:
        self._node = node
        self._config = config
        self._receive = receive
        self._subscriptions: list[Subscription] = []
        self.watches = {
            pair: PairWatch(
                pair,
                {
                    short: InputWatch(self._resolve(pair, stream))
                    for stream, short in _SHORT.items()
                },
            )
            for pair in config.pairs
        }

    def create(self) -> None:
        """Starts to listen."""
        for pair in self._config.pairs:
            for stream, short in _SHORT.items():
                self._subscribe(pair, stream, self.watches[pair].inputs[short])

    def destroy(self) -> None:
        """Stops to listen."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def silences(self, pair: str, now_ns: int) -> list[str]:
        """Why a pair's inputs give nothing, one sentence for each that is silent."""
        watches = self.watches[pair].inputs
        found = []
        for stream, short in _SHORT.items():
            watch = watches[short]
            count = self._node.count_publishers(watch.topic)
            twin = "" if count else self._twin(pair, stream)
            found.append(watch.silence(now_ns, count, twin))
        return [text for text in found if text]

    def _resolve(self, pair: str, stream: Stream) -> str:
        """Absolute topic: the base name is remapped first, then gets the transport's suffix."""
        base = f"{pair}/{stream.value}"
        suffix = self._config.topic(pair, stream).removeprefix(base)
        return str(self._node.resolve_topic_name(base)) + suffix

    def _twin(self, pair: str, stream: Stream) -> str:
        """The same image under another transport, where that one has a publisher."""
        base = str(self._node.resolve_topic_name(f"{pair}/{stream.value}"))
        suffixes = ("", *(f"/{transport.value}" for transport in XTransport))
        names = (base + suffix for suffix in suffixes)
        return next((name for name in names if self._node.count_publishers(name)), "")

    def _subscribe(self, pair: str, stream: Stream, watch: InputWatch) -> None:
        is_raw = self._config.topic(pair, stream) == f"{pair}/{stream.value}"
        qos = QoSProfile(
            depth=self._config.qos.input_depth,
            reliability=_RELIABILITY[self._config.qos.input_reliability],
        )
        subscription = self._node.create_subscription(
            Image if is_raw else CompressedImage,
            watch.topic,
            lambda message, info: self._receive(
                pair, stream, watch, message, info["received_timestamp"]
            ),
            qos,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=lambda event: self._incompatible(watch, event),
                message_lost=lambda event: _lost(watch, event),
            ),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        watch.topic = subscription.topic_name
        self._subscriptions.append(subscription)

    def _incompatible(self, watch: InputWatch, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        if policy not in watch.incompatible:
            watch.incompatible.add(policy)
            self._node.get_logger().error(
                f"topic '{watch.topic}': a publisher offers another {policy} than is asked for; "
                "its messages do not arrive (see qos.input_reliability)"
            )


def _lost(watch: InputWatch, event: Any) -> None:
    watch.lost += event.total_count_change
