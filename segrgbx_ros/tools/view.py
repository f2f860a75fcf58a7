"""Shows running nodes live in Rerun, for whoever has no RViz: `segrgbx-view`.

RGB, X as the model sees it, mask and confidence of every published pair, diagnostics as text, and
latency. Needs `pip install 'segrgbx_ros[viewer]'`. `--save FILE.rrd` writes a recording in place
of the window; `rerun FILE.rrd` opens it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

from segrgbx_core.base.errors import ConfigError, EncodingError, command
from segrgbx_core.base.files import user_path
from segrgbx_ros.messages.images import any_array, rgb_array, stamp_ns
from segrgbx_ros.messages.labels import parse_label_map
from segrgbx_ros.node.inputs import message_class

try:
    import rerun as rr
    import rerun.blueprint as rrb
except ImportError:  # an optional extra
    rr = rrb = None  # type: ignore[assignment]

LOOK_S = 0.5
"""Period of the look for new pairs and topics."""
MASK_OPACITY = 0.5
_NEWEST = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
_LATCHED = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)
_LEVELS = {DiagnosticStatus.OK: "INFO", DiagnosticStatus.WARN: "WARN"}
_LATENCIES = ("latency_p50_ms", "latency_p95_ms")


class LiveView:
    """Logs what nodes publish to a recording of Rerun.

    A pair is found by its topic `label_map`, its RGB topic in the node's diagnostics, whatever
    the transport is.

    Args:
        node: makes the subscriptions; is spun by the caller.
        stream: a `rerun.RecordingStream`.

    Attributes:
        counts: images logged by entity.
    """

    def __init__(self, node: Any, stream: Any) -> None:
        self._node = node
        self._stream = stream
        self._homes: list[str] = []
        self._rgb: dict[str, tuple[str, Any]] = {}
        self._said: dict[str, tuple[str, str]] = {}
        self.counts: dict[str, int] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        # The steady clock, because a paused simulation must not stop it.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(LOOK_S, self._look, clock=steady)

    def _look(self) -> None:
        """Opens the pairs that have appeared."""
        for topic, _ in self._node.get_topic_names_and_types():
            home = topic.removesuffix("/label_map")
            if home != topic and home not in self._homes:
                self._homes.append(home)
                self._open(home)
                self._stream.send_blueprint(_blueprint(self._homes))

    def _open(self, home: str) -> None:
        def label_map(message: String) -> None:
            self._stream.log(home, _annotations(message.data), static=True)

        self._node.create_subscription(String, f"{home}/label_map", label_map, _LATCHED)
        self._hear(Image, f"{home}/mask", f"{home}/mask", _mask)
        self._hear(Image, f"{home}/confidence", f"{home}/confidence", _grey)
        self._hear(Image, f"{home}/x/preview", f"{home}/x", _picture)

    def _hear(self, kind: Any, topic: str, entity: str, drawn: Callable[[Any], Any]) -> Any:
        def log(message: Any) -> None:
            try:
                picture = drawn(message)
            except EncodingError as error:
                self._say(entity, "WARN", str(error))
                return
            self._stream.set_time("stamp", timestamp=np.datetime64(stamp_ns(message), "ns"))
            self._stream.log(entity, picture)
            self.counts[entity] = self.counts.get(entity, 0) + 1

        return self._node.create_subscription(kind, topic, log, _NEWEST)

    def _on_diagnostics(self, report: DiagnosticArray) -> None:
        self._stream.disable_timeline("stamp")  # of images; without a simulation another clock
        for status in report.status:
            node, _, name = status.name.partition(": ")
            node = f"/{node.strip('/')}"
            if "segrgbx" not in node:  # other drivers report on the same topic
                continue
            values = {item.key: item.value for item in status.values}
            self._say(f"{node}/{name}", _LEVELS.get(status.level, "ERROR"), status.message)
            if "rgb_topic" in values:
                home = f"{node.rpartition('/')[0]}/{status.hardware_id}"
                self._follow(home, values["rgb_topic"])
            for key in _LATENCIES:
                if values.get(key):
                    self._stream.log(f"latency{node}/{key}", rr.Scalars(float(values[key])))

    def _say(self, place: str, level: str, text: str) -> None:
        """Logs a status when it changes."""
        if self._said.get(place) != (level, text):
            self._said[place] = (level, text)
            self._stream.log("diagnostics", rr.TextLog(f"{place}: {text}", level=level))

    def _follow(self, home: str, topic: str) -> None:
        """Listens to the RGB topic that the node listens to."""
        shown, subscription = self._rgb.get(home, ("", None))
        publishers = self._node.get_publishers_info_by_topic(topic)
        if shown == topic or not publishers:
            return
        if subscription is not None:
            self._node.destroy_subscription(subscription)
        kind = message_class(str(publishers[0].topic_type))
        self._rgb[home] = topic, self._hear(kind, topic, f"{home}/rgb", _photo)


def _blueprint(homes: Sequence[str]) -> Any:
    """A row of pictures per pair above diagnostics and latency."""
    rows = [
        rrb.Horizontal(
            _pictures(home, "RGB", "rgb"),
            _pictures(home, "X as the model sees it", "x"),
            _pictures(home, "mask on RGB", "rgb", "mask"),
            _pictures(home, "confidence", "confidence"),
            name=home,
        )
        for home in homes
    ]
    below = rrb.Horizontal(
        rrb.TextLogView(origin="diagnostics", name="diagnostics"),
        rrb.TimeSeriesView(origin="latency", name="latency in ms"),
        column_shares=[2, 1],
    )
    layout = rrb.Vertical(*rows, below, row_shares=[2] * len(rows) + [1])
    newest = rrb.TimePanel(timeline="log_time", play_state="following", state="collapsed")
    return rrb.Blueprint(layout, newest, collapse_panels=True)


def _pictures(home: str, name: str, *entities: str) -> Any:
    contents = [f"+ $origin/{entity}" for entity in entities]
    return rrb.Spatial2DView(origin=home, contents=contents, name=name)


def _annotations(text: str) -> Any:
    """Names and colours of the ids; pixels without an answer stay clear."""
    labels = parse_label_map(text)
    rows = [
        rr.AnnotationInfo(index, name, colour)
        for index, name, colour in zip(labels.ids, labels.names, labels.palette, strict=True)
    ]
    clear = rr.AnnotationInfo(labels.unlabeled_id, "(no answer)", (0, 0, 0, 0))
    return rr.AnnotationContext([*rows, clear])


def _mask(message: Any) -> Any:
    return rr.SegmentationImage(any_array(message), opacity=MASK_OPACITY, draw_order=1)


def _grey(message: Any) -> Any:
    pixels = any_array(message)
    if pixels.dtype.kind == "f":
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return rr.Image(pixels, color_model="L")


def _picture(message: Any) -> Any:
    return rr.Image(any_array(message), color_model="RGB").compress(jpeg_quality=90)


def _photo(message: Any) -> Any:
    return rr.Image(rgb_array(message), color_model="RGB", draw_order=0).compress(jpeg_quality=90)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="segrgbx-view", description=__doc__)
    add = parser.add_argument
    add("--save", type=user_path, metavar="FILE.rrd", help="record in place of opening a window")
    add("--seconds", type=float, help="end after this time (default: at Ctrl-C)")
    options = parser.parse_args(arguments)
    if rr is None:
        raise ConfigError(
            "the library rerun-sdk is not installed: pip install 'segrgbx_ros[viewer]'"
        )
    stream = rr.RecordingStream("segrgbx")
    if options.save:
        stream.save(options.save)
    else:
        stream.spawn(memory_limit="2GB")
    rclpy.init(args=[])
    node = rclpy.create_node("segrgbx_view")
    view = LiveView(node, stream)
    where = f"to {options.save}" if options.save else "to the window"
    print(f"waiting for pairs; what comes goes {where}; Ctrl-C ends", flush=True)
    try:
        _spin(node, options.seconds)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
        stream.flush()
    _print_counts(view, options.save)
    return 0


def _spin(node: Any, seconds: float | None) -> None:
    end = float("inf") if seconds is None else time.monotonic() + seconds
    while rclpy.ok() and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.2)


def _print_counts(view: LiveView, saved: Path | None) -> None:
    shown = ", ".join(f"{entity} {count}" for entity, count in sorted(view.counts.items()))
    print(f"images: {shown or 'none; does a node run in this ROS_DOMAIN_ID?'}")
    if saved:
        print(f"open it with: rerun {saved}")


if __name__ == "__main__":
    sys.exit(main())
