"""Sends synthetic frames to a node at a steady rate and keeps what comes back, to measure it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from segrgbx_ros.live import Listener
from segrgbx_ros.messages import fill_image

PAIR = "thermal"
NUMBER = 8
"""Different frames; they repeat."""
_QOS = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)


@dataclass
class Returned:
    """What came back.

    Attributes:
        masks: how many.
        ages_ms: stamp to reception of each mask.
        status: values of every status of the newest report, by name without the node's.
        messages: level and sentence of the same.
    """

    masks: int = 0
    ages_ms: list[float] = field(default_factory=list)
    status: dict[str, dict[str, str]] = field(default_factory=dict)
    messages: dict[str, tuple[int, str]] = field(default_factory=dict)

    def count(self, name: str, key: str) -> int:
        """A count of a status; 0 where it has not been said."""
        return int(self.status.get(name, {}).get(key, 0))

    def prefixed(self, name: str, prefix: str) -> dict[str, int]:
        """Counts of a status whose keys begin alike, without the beginning."""
        values = self.status.get(name, {})
        return {
            key.removeprefix(prefix): int(value)
            for key, value in values.items()
            if key.startswith(prefix) and value.isdigit()
        }


class Feeder:
    """Two cameras beside a node. Frames are stamped with the wall clock.

    Args:
        listener: whose node publishes and subscribes.
        width: of RGB; thermal has half of it.
        height: of RGB.
    """

    def __init__(self, listener: Listener, width: int, height: int) -> None:
        rng = np.random.default_rng(1)
        coarse = rng.integers(0, 255, (NUMBER, height // 16 + 1, width // 16 + 1, 3), np.uint8)
        counts = rng.integers(28000, 31000, (NUMBER, height // 2, width // 2)).astype(np.uint16)
        # X goes first, so that RGB's arrival completes the pair.
        self._frames = [
            (
                fill_image(Image(), x, "16UC1"),
                fill_image(Image(), _enlarged(rgb, height, width), "rgb8"),
            )
            for x, rgb in zip(counts, coarse, strict=True)
        ]
        node = listener.node
        self._clock = node.get_clock()
        self._publishers = [
            node.create_publisher(Image, f"/{PAIR}/{name}/image", _QOS) for name in ("x", "rgb")
        ]
        self.returned = Returned()
        self.sent = 0
        self._lock = threading.Lock()
        listener.subscribe(Image, f"/{PAIR}/mask", self._on_mask)
        listener.subscribe(DiagnosticArray, "/diagnostics", self._on_report)

    @property
    def is_heard(self) -> bool:
        """True once the node has subscribed."""
        return all(publisher.get_subscription_count() for publisher in self._publishers)

    def feed(self, seconds: float, rate_hz: float) -> None:
        """Sends frames for a while; falls behind rather than sending late ones at once."""
        end = time.monotonic() + seconds
        due = time.monotonic()
        while due < end:
            stamp = self._clock.now().to_msg()
            for publisher, message in zip(
                self._publishers, self._frames[self.sent % NUMBER], strict=True
            ):
                message.header.stamp = stamp
                message.header.frame_id = "camera_optical"
                publisher.publish(message)
            self.sent += 1
            due = max(due + 1 / rate_hz, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def take_ages(self) -> list[float]:
        """Ages of the masks that came since the last call, in ms."""
        with self._lock:
            ages, self.returned.ages_ms = self.returned.ages_ms, []
        return ages

    def _on_mask(self, mask: Any) -> None:
        stamp = mask.header.stamp
        age_ns = time.time_ns() - (stamp.sec * 1_000_000_000 + stamp.nanosec)
        with self._lock:
            self.returned.masks += 1
            self.returned.ages_ms.append(age_ns / 1e6)

    def _on_report(self, report: Any) -> None:
        for status in report.status:
            name = status.name.split(": ", 1)[1]
            self.returned.status[name] = {pair.key: pair.value for pair in status.values}
            self.returned.messages[name] = (status.level[0], status.message)


def _enlarged(coarse: Any, height: int, width: int) -> Any:
    """Blocks of 16 pixels: a picture that is cheap to make and not all alike."""
    rows = np.repeat(coarse, 16, axis=0)[:height]
    return np.ascontiguousarray(np.repeat(rows, 16, axis=1)[:, :width])
