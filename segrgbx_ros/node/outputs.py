"""Answers as messages: what a pair publishes, with the RGB header on every image."""

from __future__ import annotations

import threading
import time
import traceback
from array import array
from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Float64, String

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import NS_PER_MS, Array, Prediction, RgbxSample, XForm
from segrgbx_core.labels import overlay
from segrgbx_core.labels.label_space import PublishedLabels
from segrgbx_ros.config.node import (
    ConfidenceEncoding,
    MaskEncoding,
    NodeConfig,
    OutputConfig,
    OutputSize,
    Stream,
)
from segrgbx_ros.messages.clouds import fill_cloud, sample_points
from segrgbx_ros.messages.geometry import fill_scaled_info, fitted
from segrgbx_ros.messages.images import fill_image
from segrgbx_ros.messages.labels import label_map_text
from segrgbx_ros.node.health.endpoints import full_name, subscriber_mismatches
from segrgbx_ros.node.health.reasons import absence_reason
from segrgbx_ros.pairing.pipeline import Pair
from segrgbx_ros.pairing.published_labels import published_ids

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not on PyPI; label_map says the same without it
    LabelInfo = None


IMAGE_QOS = QoSProfile(depth=2, reliability=QoSReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)
IMAGES = ("mask", "confidence", "mask_color", "overlay", "x/preview")
"""Image topics that every pair has."""
_CALIBRATED = ("points", "camera_info")
"""Topics that say nothing without a calibration of RGB."""
STAGES = ("preprocess", "inference", "postprocess", "total", "age", "sync_dt")
"""Three stages of a pass, arrival of RGB to now, its stamp to now, and how far apart X's is."""
_STAGE_OF = {"encode": "preprocess", "input": "preprocess", "decode": "postprocess"}


def has_label_info() -> bool:
    """True where vision_msgs is installed."""
    return LabelInfo is not None


class PairOutputs:
    """The publishers of one pair.

    Args:
        node: owns the publishers.
        pair: name that starts every topic.
        labels: names, colours and ids of the published labels.
        config: which topics exist.

    Attributes:
        failed: images besides the mask that could not be made, by topic.
    """

    def __init__(
        self, node: LifecycleNode, pair: str, labels: PublishedLabels, config: NodeConfig
    ) -> None:
        self._node = node
        self._pair = pair
        self.labels = replace(labels, unlabeled_id=config.label.unlabeled_id)
        self._unit_16u = config.sensor.depth.unit_16u
        self._palette = labels.palette_array()
        self._latched: dict[str, Any] = {}
        self.failed: Counter[str] = Counter()
        kinds: dict[str, Any] = dict.fromkeys(IMAGES, Image)
        kinds["overlay/compressed"] = CompressedImage
        is_fused = pair not in config.pairs  # several X, of which none is drawn
        if is_fused:
            del kinds["x/preview"]
        if config.output.small_width:
            kinds |= {"mask_small": Image, "confidence_small": Image, "camera_info": CameraInfo}
        elif config.output.size is not OutputSize.INPUT:
            kinds["camera_info"] = CameraInfo
        section = None if is_fused else config.pair(pair)
        if section and section.x_form is XForm.RAW and section.modality is Modality.DEPTH:
            kinds["points"] = PointCloud2
        self._publishers = {name: self._publisher(name, kind) for name, kind in kinds.items()}

    @property
    def topics(self) -> list[str]:
        """Resolved names of the topics, the mask first."""
        return [publisher.topic_name for publisher in self._publishers.values()]

    def publish_labels(self, threshold: float) -> None:
        """Publishes what the ids mean, for whoever comes later too; again when it has changed.

        Args:
            threshold: confidence below which pixels are unlabeled, in [0, 1].
        """
        self._latch("label_map", String(data=label_map_text(self.labels)))
        if LabelInfo is None:
            return
        info = LabelInfo(threshold=float(threshold))
        info.header.stamp = self._node.get_clock().now().to_msg()
        info.class_map = [
            VisionClass(class_id=int(index), class_name=name)
            for index, name in zip(self.labels.ids, self.labels.names, strict=True)
        ]
        self._latch("label_info", info)

    def publish(
        self,
        header: Any,
        sample: RgbxSample,
        prediction: Prediction,
        options: OutputConfig,
        rgb_info: Any = None,
    ) -> None:
        """Publishes one answer: mask and confidence first, the rest only if somebody looks.

        Args:
            header: of the RGB message; goes out unchanged.
            sample: what was asked.
            prediction: what was answered.
            options: which topics are on.
            rgb_info: calibration of RGB, None where none has come.
        """
        is_wide = options.mask_encoding is MaskEncoding.MONO16
        labels = published_ids(prediction.labels, self.labels.unlabeled_id, is_wide)
        self._send("mask", header, labels, options.mask_encoding.value)
        confidence = prediction.confidence
        if options.publish_confidence and self._is_heard("confidence"):
            self._try("confidence", self._send_confidence, header, confidence, options)
        if options.small_width and self._is_heard("mask_small", "confidence_small", "camera_info"):
            small = labels, confidence, options, rgb_info
            self._try("mask_small", self._publish_small, header, *small)
        elif options.size is not OutputSize.INPUT and self._is_heard("camera_info"):
            self._try("camera_info", self._publish_info, header, labels.shape, rgb_info)
        if options.publish_points and rgb_info is not None and self._is_heard("points"):
            cloud = sample, labels, confidence, rgb_info
            self._try("points", self._publish_points, header, *cloud)
        if options.publish_color and self._is_heard("mask_color"):
            self._try("mask_color", self._publish_colours, header, prediction.labels)
        if options.publish_overlay and self._is_heard("overlay", "overlay/compressed"):
            picture = sample, prediction.labels, options
            self._try("overlay", self._publish_overlay, header, *picture)
        if options.publish_preview and self._is_heard("x/preview"):
            self._try("x/preview", self._publish_preview, header, prediction.x_image)

    def mismatches(self) -> dict[str, list[str]]:
        """Subscribers whose quality of service does not match, one clause each, by topic."""
        clauses_by_topic = {}
        for publisher in self._publishers.values():
            asking = self._node.get_subscriptions_info_by_topic(publisher.topic_name)
            clauses_by_topic[publisher.topic_name] = subscriber_mismatches(
                asking, publisher.qos_profile
            )
        return {topic: clauses for topic, clauses in clauses_by_topic.items() if clauses}

    def rivals(self, node_name: str) -> str:
        """Who else publishes the mask, one sentence; empty where nobody does.

        Args:
            node_name: own node, with its namespace.
        """
        publishers = self._node.get_publishers_info_by_topic(self.topics[0])
        if len(publishers) < 2:
            return ""
        names = sorted({full_name(one) for one in publishers} - {node_name}) or [node_name]
        return f"'{self.topics[0]}' has {len(publishers)} publishers, also {', '.join(names[:3])}"

    def lacking(self, options: OutputConfig) -> str:
        """Why outputs stay silent that somebody listens to, while no calibration of RGB has come.

        Args:
            options: which topics are on.

        Returns:
            one sentence, empty where nobody listens to an output that needs a calibration.
        """
        silent = [name for name in _CALIBRATED if self._is_heard(name)]
        if not options.publish_points:
            silent = [name for name in silent if name != "points"]
        if not silent:
            return ""
        topic = self._node.resolve_topic_name(f"{self._pair}/{Stream.RGB_INFO.value}")
        why = absence_reason(topic, self._node.count_publishers(topic))
        return f"{why}; {' and '.join(silent)} {'need' if silent[1:] else 'needs'} it"

    def destroy(self) -> None:
        """Destroys all publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        for publisher in self._latched.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()
        self._latched.clear()

    def _publisher(self, name: str, kind: Any) -> Any:
        return self._node.create_lifecycle_publisher(
            kind,
            f"{self._pair}/{name}",
            copy(IMAGE_QOS),  # overrides are written into it
            # Every event handler would cost time each time the executor waits; `mismatches` asks.
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _is_heard(self, *names: str) -> bool:
        found = (self._publishers.get(name) for name in names)
        return any(one is not None and one.get_subscription_count() > 0 for one in found)

    def _latch(self, name: str, message: Any) -> None:
        if name not in self._latched:
            topic = f"{self._pair}/{name}"
            self._latched[name] = self._node.create_publisher(
                type(message),
                topic,
                copy(LATCHED_QOS),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        self._latched[name].publish(message)

    def _try(self, name: str, publish: Callable[..., None], *arguments: Any) -> None:
        """The mask is out: whatever else fails, the rest goes out and the pair is answered."""
        try:
            publish(*arguments)
        except Exception as error:
            self.failed[name] += 1
            trace = "".join(traceback.format_exception(error))
            text = f"pair '{self._pair}': no {name}: {type(error).__name__}: {error}\n{trace}"
            self._node.get_logger().error(text, throttle_duration_sec=5.0)

    def _publish_colours(self, header: Any, labels: Array) -> None:
        self._send("mask_color", header, overlay.colourise(labels, self._palette), "rgb8")

    def _publish_preview(self, header: Any, x_image: Array) -> None:
        self._send("x/preview", header, overlay.preview(x_image), "rgb8")

    def _publish_small(
        self, header: Any, labels: Array, confidence: Array, options: OutputConfig, rgb_info: Any
    ) -> None:
        height, width = labels.shape
        small = (options.small_width, max(1, round(height * options.small_width / width)))
        # Nearest for both, so that a confidence is that of its label.
        labels, confidence = (
            cv2.resize(image, small, interpolation=cv2.INTER_NEAREST_EXACT)
            for image in (labels, confidence)
        )
        self._send("mask_small", header, labels, options.mask_encoding.value)
        self._send_confidence(header, confidence, options, "confidence_small")
        self._publish_info(header, small[::-1], rgb_info)

    def _publish_info(self, header: Any, size: tuple[int, int], rgb_info: Any) -> None:
        """RGB's calibration on the grid of `size` (rows, columns), once it has come."""
        if rgb_info is None:
            return
        try:
            scaled = fill_scaled_info(CameraInfo(), rgb_info, *size)
        except EncodingError as error:
            self._warn_calibration(error, "camera_info")
            return
        scaled.header = header
        self._publishers["camera_info"].publish(scaled)

    def _publish_points(
        self, header: Any, sample: RgbxSample, labels: Array, confidence: Array, rgb_info: Any
    ) -> None:
        try:
            points = sample_points(sample, labels, confidence, rgb_info, self._unit_16u)
        except EncodingError as error:
            self._warn_calibration(error, "points")
            return
        if points is None:
            return
        cloud = fill_cloud(PointCloud2(), PointField, points)
        cloud.header = header
        self._publishers["points"].publish(cloud)

    def _warn_calibration(self, error: EncodingError, output: str) -> None:
        text = f"topic '{self._pair}/{Stream.RGB_INFO.value}': {error}; no {output}"
        self._node.get_logger().warning(text, throttle_duration_sec=5.0)

    def _publish_overlay(
        self, header: Any, sample: RgbxSample, labels: Array, options: OutputConfig
    ) -> None:
        rgb = fitted(sample.rgb, labels.shape)
        picture = overlay.blend(rgb, labels, self._palette, options.overlay_alpha)
        if self._is_heard("overlay"):
            self._send("overlay", header, picture, "rgb8")
        if self._is_heard("overlay/compressed"):
            quality = [cv2.IMWRITE_JPEG_QUALITY, options.overlay_jpeg_quality]
            _, coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
            data = array("B")
            data.frombytes(coded.tobytes())
            message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
            message.data = data
            self._publishers["overlay/compressed"].publish(message)

    def _send_confidence(
        self, header: Any, confidence: Array, options: OutputConfig, name: str = "confidence"
    ) -> None:
        if options.confidence_encoding is ConfidenceEncoding.FLOAT:
            confidence = confidence.astype(np.float32) / np.float32(255)
        self._send(name, header, confidence, options.confidence_encoding.value)

    def _send(self, name: str, header: Any, pixels: Array, encoding: str) -> None:
        message = fill_image(Image(), pixels, encoding)
        message.header = header
        self._publishers[name].publish(message)


class DebugOutputs:
    """Durations as topics, `~/debug/<stage>_ms`; none exist while they are switched off.

    Args:
        node: owns the publishers.
        is_on: whether they exist from the start.
    """

    def __init__(self, node: LifecycleNode, is_on: bool) -> None:
        self._node = node
        self._publishers: dict[str, Any] = {}
        self._lock = threading.Lock()  # the worker publishes while the executor switches
        self.switch(is_on)

    def switch(self, is_on: bool) -> None:
        """Makes or destroys the topics."""
        with self._lock:
            if is_on and not self._publishers:
                self._publishers = {
                    stage: self._node.create_publisher(Float64, f"~/debug/{stage}_ms", 1)
                    for stage in STAGES
                }
            elif not is_on:
                for publisher in self._publishers.values():
                    self._node.destroy_publisher(publisher)
                self._publishers = {}

    def publish(self, pair: Pair, answer: Prediction) -> None:
        """Publishes the durations of one answer; in the worker's thread."""
        if not self._publishers:
            return
        durations = self._durations(pair, answer)
        with self._lock:
            for stage, publisher in self._publishers.items():
                if stage in durations:
                    publisher.publish(Float64(data=float(durations[stage])))

    def _durations(self, pair: Pair, answer: Prediction) -> dict[str, float]:
        """In ms, by stage; a stage that this answer does not have is left out."""
        durations = dict.fromkeys(STAGES[:3], 0.0) if answer.timings_ms else {}
        for name, value in answer.timings_ms.items():
            durations[_STAGE_OF.get(name, "inference")] += value
        durations["total"] = (time.time_ns() - pair.arrival_ns) / NS_PER_MS
        now_ns = self._node.get_clock().now().nanoseconds
        durations["age"] = (now_ns - pair.rgb_stamp_ns) / NS_PER_MS
        if pair.dt_ns is not None:
            durations["sync_dt"] = pair.dt_ns / NS_PER_MS
        return durations
