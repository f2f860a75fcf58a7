"""Durations as topics, for whoever looks for lost milliseconds: `~/debug/<stage>_ms`."""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Float64

from segrgbx_core.base.samples import Prediction
from segrgbx_core.sync.counts import NS_PER_MS
from segrgbx_ros.pairing.pipeline import Pair

STAGES = ("preprocess", "inference", "postprocess", "total", "age", "sync_dt")
"""Three stages of a pass, arrival of RGB to now, its stamp to now, and how far apart X's is."""
_STAGE_OF = {"encode": "preprocess", "input": "preprocess", "decode": "postprocess"}


class DebugOutputs:
    """The debug topics of a node; none exist while they are switched off.

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

    def publish(self, paired: Pair, answer: Prediction) -> None:
        """Publishes the durations of one answer; in the worker's thread."""
        if not self._publishers:
            return
        durations = self._durations(paired, answer)
        with self._lock:
            for stage, publisher in self._publishers.items():
                if stage in durations:
                    publisher.publish(Float64(data=float(durations[stage])))

    def _durations(self, paired: Pair, answer: Prediction) -> dict[str, float]:
        """In ms, by stage; a stage that this answer does not have is left out."""
        durations = dict.fromkeys(STAGES[:3], 0.0) if answer.timings_ms else {}
        for name, value in answer.timings_ms.items():
            durations[_STAGE_OF.get(name, "inference")] += value
        durations["total"] = (time.time_ns() - paired.arrival_ns) / NS_PER_MS
        now_ns = self._node.get_clock().now().nanoseconds
        durations["age"] = (now_ns - paired.rgb_stamp_ns) / NS_PER_MS
        if paired.dt_ns is not None:
            durations["sync_dt"] = paired.dt_ns / NS_PER_MS
        return durations
