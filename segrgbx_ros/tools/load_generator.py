"""Sends synthetic frames to a node at a steady rate and keeps what comes back, to measure it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from segrgbx_core.base.samples import NS_PER_MS
from segrgbx_ros.messages.images import fill_image, stamp_ns
from segrgbx_ros.tools.node_process import Listener

PAIR = "thermal"
NUMBER = 8
"""Different frames; they repeat."""
SIDE_OUTPUTS = (
    "confidence", "mask_small", "camera_info", "points", "mask_color", "overlay", "x/preview",
)  # fmt: skip
"""What is published beside the mask."""
_QOS = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)


@dataclass(frozen=True)
class ReceivedMask:
    """A mask that came back.

    Attributes:
        stamp_ns: of the frame it answers.
        heard_ns: wall clock at its reception.
    """

    stamp_ns: int
    heard_ns: int

    @property
    def age_ms(self) -> float:
        """Stamp to reception."""
        return (self.heard_ns - self.stamp_ns) / NS_PER_MS


@dataclass
class Received:
    """What came back.

    Attributes:
        masks: in order of reception.
        status: values of every status of the newest report, by name without the node's.
        messages: level and sentence of the same.
    """

    masks: list[ReceivedMask] = field(default_factory=list)
    status: dict[str, dict[str, str]] = field(default_factory=dict)
    messages: dict[str, tuple[int, str]] = field(default_factory=dict)

    def on_mask(self, mask: Any) -> None:
        """Keeps the stamp of a mask and when it came."""
        self.masks.append(ReceivedMask(stamp_ns(mask), time.time_ns()))

    def on_report(self, report: Any) -> None:
        """Keeps the newest values of every status."""
        for status in report.status:
            name = status.name.split(": ", 1)[1]
            self.status[name] = {pair.key: pair.value for pair in status.values}
            self.messages[name] = (status.level[0], status.message)

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

    def frame_failures(self) -> dict[str, int]:
        """Failures by cause that cost a frame its mask; an overlay that fails costs none."""
        failed = self.prefixed("inference", "failed_")
        return {cause: count for cause, count in failed.items() if cause not in SIDE_OUTPUTS}


class LoadGenerator:
    """Two cameras beside a node. Frames are stamped with the wall clock.

    Args:
        listener: whose node publishes and subscribes.
        width: of RGB; thermal has half of it.
        height: of RGB.

    Attributes:
        received: what came back; another thread adds to it.
        sent_ns: stamps of the frames sent, ascending.
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
        self.received = Received()
        self.sent_ns: list[int] = []
        listener.subscribe(Image, f"/{PAIR}/mask", self.received.on_mask)
        listener.subscribe(DiagnosticArray, "/diagnostics", self.received.on_report)

    @property
    def sent(self) -> int:
        """Frames sent."""
        return len(self.sent_ns)

    @property
    def is_heard(self) -> bool:
        """True once the node has subscribed."""
        return all(publisher.get_subscription_count() for publisher in self._publishers)

    def send(self, seconds: float, rate_hz: float) -> None:
        """Sends frames for a while; falls behind rather than sending late ones at once."""
        end = time.monotonic() + seconds
        due = time.monotonic()
        while due < end:
            now = self._clock.now()
            stamp = now.to_msg()
            for publisher, message in zip(
                self._publishers, self._frames[self.sent % NUMBER], strict=True
            ):
                message.header.stamp = stamp
                message.header.frame_id = "camera_optical"
                publisher.publish(message)
            self.sent_ns.append(now.nanoseconds)
            due = max(due + 1 / rate_hz, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


def _enlarged(coarse: Any, height: int, width: int) -> Any:
    """Blocks of 16 pixels: a picture that is cheap to make and not all alike."""
    rows = np.repeat(coarse, 16, axis=0)[:height]
    return np.ascontiguousarray(np.repeat(rows, 16, axis=1)[:, :width])
