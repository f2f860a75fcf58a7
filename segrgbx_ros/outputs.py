"""Answers as messages: what a pair publishes, with the RGB header on every image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from segrgbx_core import overlay
from segrgbx_core.labels import palette_array
from segrgbx_core.samples import Array, Prediction, RgbxSample
from segrgbx_ros.config import OutputConfig
from segrgbx_ros.label_map import label_map
from segrgbx_ros.messages import fill_image
from segrgbx_ros.qos import IMAGE_QOS, LATCHED_QOS, subscriber_mismatch

if TYPE_CHECKING:
    from segrgbx_core.inference import PublishedLabels  # torch ring: never imported from here

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not on PyPI; label_map says the same without it
    LabelInfo = None


def has_label_info() -> bool:
    """True where vision_msgs is installed."""
    return LabelInfo is not None


class PairOutputs:
    """The publishers of one pair.

    Args:
        node: owns the publishers.
        pair: name that starts every topic.
        labels: names, colours and ids of the published labels.
    """

    def __init__(self, node: LifecycleNode, pair: str, labels: PublishedLabels) -> None:
        self._node = node
        self._labels = labels
        self._palette = palette_array(labels.palette)
        self._latched: list[Any] = []
        self._mismatched: set[str] = set()
        self._latched_topics = f"{pair}/label_map", f"{pair}/label_info"
        self._images = {
            name: node.create_lifecycle_publisher(
                Image,
                f"{pair}/{name}",
                IMAGE_QOS,
                event_callbacks=PublisherEventCallbacks(
                    incompatible_qos=partial(self._on_mismatch, name)
                ),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for name in ("mask", "confidence", "mask_color", "overlay", "x/preview")
        }

    @property
    def topics(self) -> list[str]:
        """Resolved names of the image topics, the mask first."""
        return [publisher.topic_name for publisher in self._images.values()]

    def publish_labels(self, threshold: float) -> None:
        """Publishes what the ids mean, once, for whoever comes later too.

        Args:
            threshold: confidence below which pixels are unlabeled, in [0, 1].
        """
        map_topic, info_topic = self._latched_topics
        described = self._node.create_publisher(String, map_topic, LATCHED_QOS)
        self._latched.append(described)
        described.publish(String(data=label_map(self._labels)))
        if LabelInfo is None:
            return
        info = LabelInfo(threshold=float(threshold))
        info.header.stamp = self._node.get_clock().now().to_msg()
        info.class_map = [
            VisionClass(class_id=int(index), class_name=name)
            for index, name in zip(self._labels.ids, self._labels.names, strict=True)
        ]
        publisher = self._node.create_publisher(LabelInfo, info_topic, LATCHED_QOS)
        self._latched.append(publisher)
        publisher.publish(info)

    def publish(
        self, header: Any, sample: RgbxSample, prediction: Prediction, options: OutputConfig
    ) -> None:
        """Publishes one answer: mask and confidence first, pictures only if somebody looks.

        Args:
            header: of the RGB message; goes out unchanged.
            sample: what was asked.
            prediction: what was answered.
            options: which topics are on.
        """
        self._send("mask", header, prediction.labels, "mono8")
        if options.publish_confidence:
            self._send("confidence", header, prediction.confidence, "mono8")
        pictures: list[tuple[bool, str, Callable[[], Array]]] = [
            (
                options.publish_color,
                "mask_color",
                lambda: overlay.colourise(prediction.labels, self._palette),
            ),
            (
                options.publish_overlay,
                "overlay",
                lambda: overlay.blend(
                    sample.rgb, prediction.labels, self._palette, options.overlay_alpha
                ),
            ),
            (options.publish_preview, "x/preview", lambda: overlay.preview(prediction.x_image)),
        ]
        for is_on, name, draw in pictures:
            if is_on and self._images[name].get_subscription_count() > 0:
                self._send(name, header, draw(), "rgb8")

    def mismatches(self) -> dict[str, list[str]]:
        """Subscribers whose quality of service does not match, one clause each, by topic."""
        found = {}
        for name in self._mismatched:
            publisher = self._images[name]
            topic = publisher.topic_name
            asking = self._node.get_subscriptions_info_by_topic(topic)
            clauses = [subscriber_mismatch(info, publisher.qos_profile) for info in asking]
            found[topic] = [clause for clause in clauses if clause]
        return {topic: clauses for topic, clauses in found.items() if clauses}

    def destroy(self) -> None:
        """Destroys all publishers."""
        for publisher in self._images.values():
            self._node.destroy_lifecycle_publisher(publisher)
        for publisher in self._latched:
            self._node.destroy_publisher(publisher)
        self._images.clear()
        self._latched.clear()

    def _on_mismatch(self, name: str, event: Any) -> None:
        self._mismatched.add(name)
        topic = self._images[name].topic_name
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        what = "; ".join(self.mismatches().get(topic, ())) or f"{policy} differs"
        self._node.get_logger().error(
            f"topic '{topic}': QoS of a subscriber does not match: {what}; it gets no messages"
        )

    def _send(self, name: str, header: Any, pixels: Array, encoding: str) -> None:
        if encoding == "rgb8" and pixels.ndim == 2:
            encoding = "mono8"
        message = fill_image(Image(), pixels, encoding)
        message.header = header
        self._images[name].publish(message)
