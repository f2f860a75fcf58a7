"""The subscriptions of all pairs: where they listen, what the middleware says about them."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.sensors.event import EventMessage
from segrgbx_core.sensors.freeze import FreezeDetector
from segrgbx_ros.config.node import (
    NodeConfig,
    Reliability,
    Stream,
    XTransport,
    named_transport,
    transport_topic,
)
from segrgbx_ros.messages.images import stamp_ns
from segrgbx_ros.node.health.endpoints import loss_reason, other_types, publisher_mismatches
from segrgbx_ros.node.health.reasons import silence_reason
from segrgbx_ros.node.health.streams import PairHealth, Patience, StreamHealth
from segrgbx_ros.node.transports import TransportChoice

OnMessage = Callable[[str, Stream, StreamHealth, Any, int], None]
OnInfo = Callable[[str, Stream, Any], None]

EVENT_DEPTH = 1000
"""Event messages that may queue: none of them must be lost, and they come every few ms."""
EVENT_BURST = 20
"""Event messages taken at once at most, so that other inputs get their turn."""
_LOOK_S = 0.25
"""Period of the look at inputs whose transport is open."""
_RELIABILITY = {
    Reliability.BEST_EFFORT: QoSReliabilityPolicy.BEST_EFFORT,
    Reliability.RELIABLE: QoSReliabilityPolicy.RELIABLE,
    Reliability.AUTO: QoSReliabilityPolicy.RELIABLE,  # at first; see `Inputs._incompatible`
}


class Inputs:
    """Subscriptions that exist while the node is active.

    Args:
        node: owns the subscriptions.
        config: pairs, transports and quality of service.
        on_message: called with pair, stream, the topic's health, message and when the middleware
            received it, in ns of the wall clock.
        on_info: called with pair, stream and calibration.
        patience: when a topic is called silent.

    Attributes:
        health: by pair.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: NodeConfig,
        on_message: OnMessage,
        on_info: OnInfo,
        patience: Patience,
    ) -> None:
        self._node = node
        self._config = config
        self._on_message = on_message
        self._on_info = on_info
        self._subscriptions: dict[tuple[str, Stream, str], Subscription] = {}
        self._choices = {
            (pair, stream): TransportChoice(self._topics(pair, stream))
            for pair in config.pairs
            for stream in config.streams(pair).values()
        }
        self._look_timer: Any = None
        self._asked: dict[str, QoSReliabilityPolicy] = {}
        self._mismatched: dict[str, QoSProfile] = {}
        self.health = {pair: self._pair_health(pair, patience) for pair in config.pairs}

    def create(self) -> None:
        """Starts to listen."""
        for pair in self._config.pairs:
            for short, stream in self._config.streams(pair).items():
                self._subscribe(pair, stream, self.health[pair].inputs[short])
            for stream in self._config.info_streams(pair):
                self._subscribe_info(pair, stream)
        if any(choice.is_open for choice in self._choices.values()):
            # The steady clock, because a paused simulation must not stop it.
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._look_timer = self._node.create_timer(_LOOK_S, self._look, clock=steady)

    def destroy(self) -> None:
        """Stops to listen."""
        if self._look_timer is not None:
            self._node.destroy_timer(self._look_timer)
            self._look_timer = None
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def silences(self, pair: str, now_ns: int) -> list[str]:
        """Why a pair's inputs give nothing, one sentence for each that is silent."""
        reasons = []
        for short, stream in self._config.streams(pair).items():
            health, choice = self.health[pair].inputs[short], self._choices[pair, stream]
            topics = list(choice.topics.values()) if choice.is_open else [health.topic]
            health.incompatible = [
                clause for topic in topics for clause in self._incompatible_publishers(topic)
            ]
            count = health.publishers = sum(map(self._node.count_publishers, topics))
            hint = self._hint(pair, stream, health) if health.is_quiet(now_ns) else ""
            reasons.append(silence_reason(health, now_ns, count, hint, loss_reason()))
        return [text for text in reasons if text]

    def _look(self) -> None:
        """Settles by which transport each input arrives; opens the choice again for a dead one."""
        now_ns = time.monotonic_ns()
        for (pair, stream), choice in self._choices.items():
            health = self._health(pair, stream)
            if choice.is_open:
                if choice.settle(now_ns):
                    self._keep_chosen(pair, stream, health)
                elif not health.received:
                    self._follow_type(pair, stream)
            elif (
                len(choice.topics) > 1
                and health.is_quiet(now_ns)
                and not self._is_published(choice.topic)
            ):
                choice.reopen()
                health.topic = choice.topic
                self._subscribe(pair, stream, health)

    def _keep_chosen(self, pair: str, stream: Stream, health: StreamHealth) -> None:
        choice = self._choices[pair, stream]
        for transport in choice.topics:
            if transport != choice.chosen:
                self._drop(pair, stream, transport)
        health.topic = self._subscriptions[pair, stream, choice.chosen].topic_name
        self._node.get_logger().info(
            f"pair '{pair}': {stream.value} arrives on '{health.topic}' ({choice.chosen})"
        )

    def _follow_type(self, pair: str, stream: Stream) -> None:
        """Takes compressed images under a name without suffix, where nothing else is published."""
        subscription = self._subscriptions.get((pair, stream, "raw"))
        if subscription is None or subscription.msg_type is not Image:
            return
        publishers = self._node.get_publishers_info_by_topic(subscription.topic_name)
        if {str(one.topic_type) for one in publishers} != {_type_name(CompressedImage)}:
            return
        others = [
            key
            for key, other in self._subscriptions.items()
            if other.topic_name == subscription.topic_name and other.msg_type is Image
        ]
        for key in others:  # first all, as a topic has one type in a process
            self._drop(*key)
        for one_pair, one_stream, transport in others:
            self._listen(one_pair, one_stream, transport, CompressedImage)

    def _drop(self, pair: str, stream: Stream, transport: str) -> None:
        subscription = self._subscriptions.pop((pair, stream, transport), None)
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def _health(self, pair: str, stream: Stream) -> StreamHealth:
        shorts = self._config.streams(pair)
        short = next(name for name, one in shorts.items() if one is stream)
        return self.health[pair].inputs[short]

    def _pair_health(self, pair: str, patience: Patience) -> PairHealth:
        inputs = {}
        for short, stream in self._config.streams(pair).items():
            is_thermal = self._config.pair(pair).modality is Modality.THERMAL
            inputs[short] = StreamHealth(
                self._choices[pair, stream].topic,
                freeze=FreezeDetector() if is_thermal and stream is Stream.X else None,
                quiet_s=patience.quiet_s,
            )
        is_depth = self._config.pair(pair).modality is Modality.DEPTH
        return PairHealth(pair, inputs, is_depth=is_depth, quiet_s=patience.quiet_s)

    def _topics(self, pair: str, stream: Stream) -> dict[str, str]:
        """Absolute topic by transport: the base name is remapped, then gets its suffix."""
        base = str(self._node.resolve_topic_name(f"{pair}/{stream.value}"))
        transports = self._config.pair(pair).transports(stream)
        named = named_transport(base)
        if len(transports) > 1 and named in transports and named != "raw":
            return {named: base}
        return {one: transport_topic(base, one) for one in transports}

    def _hint(self, pair: str, stream: Stream, health: StreamHealth) -> str:
        """What is wrong with the topic's publishers, or where else the images are."""
        choice = self._choices[pair, stream]
        publishers = self._node.get_publishers_info_by_topic(health.topic)
        wanted = _type_name(self._message_type(stream, choice.chosen or "raw"))
        if publishers:
            types = other_types(publishers, wanted)
            if not types or choice.is_open:
                return ""
            option = f"{pair}.{'rgb' if stream is Stream.RGB else 'x'}_transport"
            if stream is Stream.EVENTS:
                option = "sensor.event.message_type"
            return f"it carries {types}, this node requests {wanted}; set {option} or remap"
        if choice.is_open:
            others = " or ".join(
                f"'{one}'" for one in choice.topics.values() if one != health.topic
            )
            return f"nor has {others}; check the remapping"
        base = str(self._node.resolve_topic_name(f"{pair}/{stream.value}"))
        for transport in XTransport:
            base = base.removesuffix(f"/{transport.value}")
        suffixes = ("", *(f"/{transport.value}" for transport in XTransport))
        names = (base + suffix for suffix in suffixes)
        twin = next((name for name in names if self._node.count_publishers(name)), "")
        return f"'{twin}' has one: set the transport" if twin else ""

    def _incompatible_publishers(self, topic: str) -> list[str]:
        """Publishers that offer less than is asked for; empty again once they are gone."""
        if topic not in self._mismatched:
            return []
        offers = self._node.get_publishers_info_by_topic(topic)
        return publisher_mismatches(offers, self._mismatched[topic])

    def _subscribe(self, pair: str, stream: Stream, health: StreamHealth) -> None:
        """Listens to every transport by which an input may arrive."""
        choice = self._choices[pair, stream]
        for transport in choice.topics:
            # One that is there stays: it may hold the first message of a publisher that returns.
            if (pair, stream, transport) not in self._subscriptions:
                self._listen(pair, stream, transport, self._message_type(stream, transport))
        if not choice.is_open:
            health.topic = self._subscriptions[pair, stream, choice.chosen].topic_name

    def _listen(self, pair: str, stream: Stream, transport: str, kind: Any) -> None:
        is_events, health = stream is Stream.EVENTS, self._health(pair, stream)
        topic, requested = self._choices[pair, stream].topics[transport], self._reliability
        qos = QoSProfile(
            depth=EVENT_DEPTH if is_events else self._config.qos.input_depth,
            reliability=self._asked.get(topic, _RELIABILITY[requested]),
        )
        subscription = self._node.create_subscription(
            kind,
            topic,
            lambda message, info: self._on_received(pair, stream, transport, message, info),
            qos,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=lambda event: self._mismatch(
                    (pair, stream, transport), topic, qos, event
                ),
                message_lost=lambda event: _lost(health, event),
                use_default_callbacks=False,
            ),
            qos_overriding_options=self._overridable(),
            raw=is_events and self._config.sensor.event.message_type is not EventMessage.PACKET,
        )
        self._subscriptions[pair, stream, transport] = subscription

    @property
    def _reliability(self) -> Reliability:
        return self._config.qos.input_reliability

    def _on_received(
        self, pair: str, stream: Stream, transport: str, message: Any, info: dict[str, Any]
    ) -> None:
        choice, health = self._choices[pair, stream], self._health(pair, stream)
        if choice.is_open and not choice.takes(
            transport, stamp_ns(message), time.monotonic_ns(), self._is_published
        ):
            return
        self._hand_over(pair, stream, health, message, info)
        if stream is Stream.EVENTS:
            self._take_more(pair, stream, health)

    def _hand_over(
        self, pair: str, stream: Stream, health: StreamHealth, message: Any, info: dict[str, Any]
    ) -> None:
        publisher = info.get("publisher_gid") or {}
        health.on_number(publisher.get("data", b""), info.get("publication_sequence_number"))
        self._on_message(pair, stream, health, message, info["received_timestamp"])

    def _take_more(self, pair: str, stream: Stream, health: StreamHealth) -> None:
        """Takes what waits behind a message of events.

        The executor's wait costs more than a packet, so one wait serves several of them.
        """
        for _ in range(EVENT_BURST):
            subscription = self._subscriptions.get((pair, stream, "raw"))
            if subscription is None:
                return
            with subscription.handle:
                taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if taken is None:
                return
            self._hand_over(pair, stream, health, *taken)

    def _subscribe_info(self, pair: str, stream: Stream) -> None:
        qos = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        subscription = self._node.create_subscription(
            CameraInfo,
            self._topics(pair, stream)["raw"],
            lambda info: self._on_info(pair, stream, info),
            qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._subscriptions[pair, stream, "raw"] = subscription

    def _is_published(self, topic: str) -> bool:
        return self._node.count_publishers(topic) > 0

    def _overridable(self) -> QoSOverridingOptions:
        """What `qos_overrides` may change: all, but not the reliability that is found here."""
        if self._config.qos.input_reliability is not Reliability.AUTO:
            return QoSOverridingOptions.with_default_policies()
        return QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))

    def _message_type(self, stream: Stream, transport: str) -> Any:
        if stream is Stream.EVENTS:
            return message_class(self._config.sensor.event.message_type.value)
        return Image if transport == "raw" else CompressedImage

    def _mismatch(
        self, key: tuple[str, Stream, str], topic: str, requested: QoSProfile, event: Any
    ) -> None:
        """Asks for less where that is allowed, else complains."""
        is_auto = self._reliability is Reliability.AUTO
        subscription = self._subscriptions.get(key)
        if not is_auto or requested.reliability is QoSReliabilityPolicy.BEST_EFFORT:
            self._incompatible(topic, requested, event)
            return
        if subscription is None:  # another transport was chosen meanwhile
            return
        self._asked[topic] = QoSReliabilityPolicy.BEST_EFFORT
        self._drop(*key)
        self._listen(*key, subscription.msg_type)
        self._node.get_logger().info(
            f"topic '{topic}': a publisher is best effort, so this node requests that too"
        )

    def _incompatible(self, topic: str, requested: QoSProfile, event: Any) -> None:
        self._mismatched[topic] = requested
        clauses = self._incompatible_publishers(topic)
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        what = "; ".join(clauses) or f"a publisher offers another {policy} than is asked for"
        self._node.get_logger().error(
            f"topic '{topic}': QoS does not match: {what}; its messages do not arrive "
            "(see qos.input_reliability)"
        )


def check_message_types(config: NodeConfig) -> None:
    """Nothing, when the message package of every pair with an event stream is installed.

    Raises:
        ConfigError: naming the pair and what it lacks.
    """
    for pair in config.pairs:
        if Stream.EVENTS in config.streams(pair).values():
            try:
                message_class(config.sensor.event.message_type.value)
            except ConfigError as error:
                raise ConfigError(
                    f"pair '{pair}': {error}, or set {pair}.x_form: image for drawn pictures"
                ) from None


def check_fused_topics(node: LifecycleNode, config: NodeConfig) -> None:
    """Nothing, when the pairs of every fused mask get the same RGB images.

    Raises:
        ConfigError: naming the two pairs whose topics differ.
    """
    for name, members in config.fuse.members().items():
        base = f"{members[0]}/{Stream.RGB.value}"
        first = node.resolve_topic_name(base)
        for pair in members[1:]:
            other = node.resolve_topic_name(f"{pair}/{Stream.RGB.value}")
            if other != first:
                raise ConfigError(
                    f"fuse.{name}: '{members[0]}' has RGB of '{first}', '{pair}' of '{other}'; "
                    f"remap both to one topic: -r {pair}/{Stream.RGB.value}:={first}"
                )


def message_class(name: str) -> Any:
    """The class of a message type such as `sensor_msgs/msg/Image`.

    Raises:
        ConfigError: when its package is not installed.
    """
    package, folder, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.{folder}"), kind)
    except (ImportError, AttributeError):
        raise ConfigError(
            f"message type {name} is not installed; install the ROS package '{package}'"
        ) from None


def _type_name(kind: Any) -> str:
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


def _lost(health: StreamHealth, event: Any) -> None:
    if not health.has_numbers:
        health.lost += event.total_count_change
