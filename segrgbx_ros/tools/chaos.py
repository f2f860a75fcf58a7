"""Faulty drivers beside a node: every fault that a vehicle may send, mixed, over real topics.

Two pairs get frames of random sizes. Between whole ones come frames that lack a partner, have a
wrong stamp, encoding, step, size or length, bytes that are no message, calibrations without sense,
bursts, publishers and subscribers that come and go, and parameter requests that ROS itself chokes
on. What was sent is counted, so that the node's own counts can be held against it.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image

from segrgbx_ros.config.node import NODE_NAME
from segrgbx_ros.messages.images import NS_PER_S, fill_image
from segrgbx_ros.tools.load_generator import Received
from segrgbx_ros.tools.node_process import Listener

PAIRS = ("thermal", "depth")
CONFIG = """
/**:
  ros__parameters:
    pairs: [thermal, depth]
    depth: {registration: none}
    output: {publish_points: true, publish_overlay: true}
"""
_RELIABLE = QoSProfile(depth=20, reliability=QoSReliabilityPolicy.RELIABLE)
_BEST_EFFORT = QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT)
_MAX_HEIGHT, _MAX_WIDTH = 360, 480
_LIE = 2**32 - 1


class ChaosLoad:
    """Sends frames and faults of two pairs.

    Args:
        listener: its node publishes, subscribes and calls services.
        seed: of sizes, contents and the order of the faults.

    Attributes:
        received: what came back; another thread adds to it.
        sent: RGB messages by pair, whatever was in them.
        faults: how often each fault was sent.
    """

    def __init__(self, listener: Listener, seed: int) -> None:
        self.received = Received()
        self.sent: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._node = listener.node
        self._rng = np.random.default_rng(seed)
        self._last_ns = 0
        self._publishers = {name: self._publisher(name) for name in self._topics()}
        self._infos = {
            pair: self._node.create_publisher(CameraInfo, f"/{pair}/rgb/camera_info", 5)
            for pair in PAIRS
        }
        self._client = self._node.create_client(SetParameters, f"/{NODE_NAME}/set_parameters")
        for pair in PAIRS:
            listener.subscribe(Image, f"/{pair}/mask", self.received.on_mask)
            listener.subscribe(Image, f"/{pair}/overlay", lambda _: None)
        listener.subscribe(DiagnosticArray, "/diagnostics", self.received.on_report)
        self._kinds: list[Callable[[str], None]] = [
            self._no_x, self._no_rgb, self._stamp_unset, self._stamp_negative, self._stamp_twice,
            self._stamp_back, self._stamp_ahead, self._encoding_wrong, self._encoding_long,
            self._step_short, self._data_short, self._size_zero, self._size_huge, self._side_long,
            self._one_pixel, self._x_without_content, self._no_message, self._message_cut,
            self._length_huge, self._calibration, self._burst, self._publisher_anew,
            self._subscriber_mismatched, self._parameter_odd,
        ]  # fmt: skip

    @property
    def is_heard(self) -> bool:
        """True once the node has subscribed to every input."""
        return all(one.get_subscription_count() for one in self._publishers.values())

    def send(self, seconds: float, rate_hz: float) -> None:
        """Sends frames of both pairs for a while, every second of them with a fault."""
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            for pair in PAIRS:
                if self._rng.random() < 0.5:
                    kind = self._kinds[int(self._rng.integers(len(self._kinds)))]
                    self.faults[kind.__name__.strip("_")] += 1
                    kind(pair)
                else:
                    self.send_good(pair)
            time.sleep(max(0.0, began + 1 / rate_hz - time.monotonic()))

    def send_good(self, pair: str) -> int:
        """Sends one whole frame of random size; gives its stamp in ns."""
        stamp_ns = self._stamp()
        self._send_x(pair, self._x(pair), stamp_ns)
        self._send_rgb(pair, self._rgb(), stamp_ns)
        return stamp_ns

    # ---- frames

    def _size(self) -> tuple[int, int]:
        height, width = self._rng.integers(16, (_MAX_HEIGHT, _MAX_WIDTH))
        return int(height), int(width)

    def _rgb(self, size: tuple[int, int] | None = None) -> Image:
        height, width = size or self._size()
        row = self._rng.integers(0, 255, (1, width, 3)).astype(np.uint8)
        return fill_image(Image(), np.repeat(row, height, axis=0), "rgb8")

    def _x(self, pair: str, size: tuple[int, int] | None = None) -> Image:
        height, width = size or self._size()
        low, high = (28000, 31000) if pair == "thermal" else (500, 9000)
        row = self._rng.integers(low, high, (1, width)).astype(np.uint16)
        return fill_image(Image(), np.repeat(row, height, axis=0), "16UC1")

    def _stamp(self) -> int:
        self._last_ns = max(self._node.get_clock().now().nanoseconds, self._last_ns + 1000)
        return self._last_ns

    def _send_rgb(self, pair: str, message: Any, stamp_ns: int | None = None) -> None:
        self.sent[pair] += 1
        self._send(f"/{pair}/rgb/image", message, stamp_ns)

    def _send_x(self, pair: str, message: Any, stamp_ns: int | None = None) -> None:
        self._send(f"/{pair}/x/image", message, stamp_ns)

    def _send(self, topic: str, message: Any, stamp_ns: int | None) -> None:
        if stamp_ns is not None:
            seconds, rest = divmod(stamp_ns, NS_PER_S)
            message.header.stamp.sec, message.header.stamp.nanosec = seconds, rest
            message.header.frame_id = "camera_optical"
        self._publishers[topic].publish(message)

    def _both(self, pair: str, rgb: Image | None = None, x: Image | None = None) -> None:
        stamp_ns = self._stamp()
        self._send_x(pair, x or self._x(pair), stamp_ns)
        self._send_rgb(pair, rgb or self._rgb(), stamp_ns)

    # ---- faults, each of one frame of a pair

    def _no_x(self, pair: str) -> None:
        self._send_rgb(pair, self._rgb(), self._stamp())

    def _no_rgb(self, pair: str) -> None:
        self._send_x(pair, self._x(pair), self._stamp())

    def _stamp_unset(self, pair: str) -> None:
        self._send_x(pair, self._x(pair), 0)
        self._send_rgb(pair, self._rgb(), 0)

    def _stamp_negative(self, pair: str) -> None:
        self._send_rgb(pair, self._rgb(), -5 * NS_PER_S)

    def _stamp_twice(self, pair: str) -> None:
        stamp_ns = self.send_good(pair)
        self._send_rgb(pair, self._rgb(), stamp_ns)

    def _stamp_back(self, pair: str) -> None:
        past_ns = self._stamp() - 20 * NS_PER_S
        self._send_x(pair, self._x(pair), past_ns)
        self._send_rgb(pair, self._rgb(), past_ns)

    def _stamp_ahead(self, pair: str) -> None:
        self._send_x(pair, self._x(pair), self._stamp() + 300 * NS_PER_S)

    def _changed(self, message: Image, **fields: Any) -> Image:
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    def _encoding_wrong(self, pair: str) -> None:
        names = ["", "foo8", "32FC1", "bayer_rggb8", "nv12", "8UC0", "yuv422", "16UC1"]
        name = str(self._rng.choice(names))
        if self._rng.random() < 0.5:
            self._both(pair, rgb=self._changed(self._rgb(), encoding=name))
        else:
            self._both(pair, x=self._changed(self._x(pair), encoding=name or "rgb8"))

    def _encoding_long(self, pair: str) -> None:
        self._both(pair, rgb=self._changed(self._rgb(), encoding="8UC" + "9" * 5000))

    def _step_short(self, pair: str) -> None:
        self._both(pair, rgb=self._changed(self._rgb(), step=3))

    def _data_short(self, pair: str) -> None:
        x = self._x(pair)
        self._both(pair, x=self._changed(x, data=array("B", bytes(len(x.data) // 2))))

    def _size_zero(self, pair: str) -> None:
        side = str(self._rng.choice(["height", "width"]))
        self._both(pair, x=self._changed(self._x(pair), **{side: 0}))

    def _size_huge(self, pair: str) -> None:
        side = str(self._rng.choice(["height", "width", "step"]))
        self._both(pair, rgb=self._changed(self._rgb(), **{side: _LIE}))

    def _side_long(self, pair: str) -> None:
        self._both(pair, rgb=self._rgb((1, 40_000)))

    def _one_pixel(self, pair: str) -> None:
        self._both(pair, rgb=self._rgb((1, 1)), x=self._x(pair, (1, 1)))

    def _x_without_content(self, pair: str) -> None:
        value = float(self._rng.choice([np.nan, np.inf, 0.0, 3e38]))
        flat = np.full(self._size(), value, np.float32)
        self._both(pair, x=fill_image(Image(), flat, "32FC1"))

    def _no_message(self, pair: str) -> None:
        self._send_rgb(pair, self._rng.bytes(int(self._rng.integers(0, 3000))))

    def _message_cut(self, pair: str) -> None:
        whole = bytes(serialize_message(self._rgb()))
        self._send_rgb(pair, whole[: int(self._rng.integers(0, len(whole)))])

    def _length_huge(self, pair: str) -> None:
        raw = bytearray(serialize_message(self._rgb((2, 2))))
        place = len(raw) - 12 - 4
        raw[place : place + 4] = b"\xff" * 4
        self._send_rgb(pair, bytes(raw))

    def _calibration(self, pair: str) -> None:
        values = [float(self._rng.choice([0.0, np.nan, np.inf, -1.0, 1e300]))] * 12
        info = CameraInfo(width=int(self._rng.integers(0, 3)), k=values[:9], p=values)
        self._infos[pair].publish(info)
        self.send_good(pair)

    def _burst(self, pair: str) -> None:
        for _ in range(20):
            self.send_good(pair)

    def _publisher_anew(self, pair: str) -> None:
        topic = f"/{pair}/rgb/image"
        self._node.destroy_publisher(self._publishers[topic])
        self._publishers[topic] = self._publisher(topic)

    def _subscriber_mismatched(self, pair: str) -> None:
        latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        one = self._node.create_subscription(
            Image,
            f"/{pair}/mask",
            lambda _: None,
            latched,
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        )
        time.sleep(0.02)
        self._node.destroy_subscription(one)

    def _parameter_odd(self, pair: str) -> None:
        kinds = [77, 0, 3, 4]  # 3 is a double: legal, and too small to part the pairs
        value = ParameterValue(type=int(self._rng.choice(kinds)), double_value=20.0)
        name = str(self._rng.choice(["sync.max_dt_ms", f"{pair}.x_offset_ms", "pairs", "nothing"]))
        if self._client.service_is_ready():
            self._client.call_async(
                SetParameters.Request(parameters=[Parameter(name=name, value=value)])
            )

    def _topics(self) -> list[str]:
        return [f"/{pair}/{stream}/image" for pair in PAIRS for stream in ("rgb", "x")]

    def _publisher(self, topic: str) -> Any:
        profile = _RELIABLE if self._rng.random() < 0.5 else _BEST_EFFORT
        return self._node.create_publisher(Image, topic, profile)


def balance(load: ChaosLoad) -> dict[str, Any]:
    """What became of every RGB message of both pairs; `adds_up` when none is unaccounted for."""
    heard, pairs, checks = load.received, 0, {}
    totals: Counter[str] = Counter()
    by_pair = {}
    for pair in PAIRS:
        sync, inputs = f"{pair} sync", f"{pair} input"
        received, taken = heard.count(inputs, "rgb_received"), heard.count(sync, "rgb_taken")
        paired = sum(heard.count(sync, key) for key in ("pairs", "held", "rgb_only"))
        dropped = heard.prefixed(sync, "dropped_")
        pairs += paired
        totals["rate_limited"] += heard.count(sync, "rate_limited")
        by_pair[pair] = {
            "sent": load.sent[pair],
            "received": received,
            "paired": paired,
            "dropped": dropped,
            "bad": heard.prefixed(inputs, "bad_"),
        }
        checks[f"{pair}: sent >= received"] = load.sent[pair] >= received
        checks[f"{pair}: received = taken"] = received == taken
        checks[f"{pair}: taken = paired + dropped"] = taken == paired + sum(dropped.values())
    failed = heard.frame_failures()
    for key in ("answered_total", "replaced_total", "cleared_total"):
        totals[key] = heard.count("inference", key)
    checks["paired = answered + replaced + failed + limited + cleared"] = pairs == sum(
        totals.values()
    ) + sum(failed.values())
    checks["published = heard"] = totals["answered_total"] == len(heard.masks)
    return {
        "pairs": by_pair,
        "paired": pairs,
        **totals,
        "failed": failed,
        "masks_heard": len(heard.masks),
        "checks": checks,
        "adds_up": all(checks.values()),
    }
