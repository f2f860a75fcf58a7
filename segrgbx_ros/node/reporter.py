"""Says all the time in /diagnostics, and now and then in the log, how the node fares."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode

from segrgbx_core.sync.counts import AlignCounts
from segrgbx_ros.config.node import NodeConfig, Stream
from segrgbx_ros.node import diagnostics
from segrgbx_ros.node.diagnostics import ERROR, OK, WARN, Status
from segrgbx_ros.node.inputs import Inputs
from segrgbx_ros.node.outputs import PairOutputs
from segrgbx_ros.node.stream_health import PairWatch, Throttle
from segrgbx_ros.node.worker import Worker
from segrgbx_ros.pairing.pipeline import Pipeline

if TYPE_CHECKING:
    from segrgbx_core.runtime.segmenter import Segmenter

PATIENCE_NS = 5_000_000_000
"""A pair that gives nothing for this long is worth a warning."""


class Reporter:
    """Collects the statuses of a configured node.

    Args:
        node: owns the publisher.
        config: limits and period.
        segmenter: the loaded model.
        pipeline: pairs messages.
        worker: runs the model.

    Attributes:
        inputs: the subscriptions while the node is active, else None.
        outputs: the publishers by pair.
        is_enabled: False while inference is switched off.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: NodeConfig,
        segmenter: Segmenter,
        pipeline: Pipeline,
        worker: Worker,
    ) -> None:
        self._node = node
        self._config = config
        self._segmenter = segmenter
        self._pipeline = pipeline
        self._worker = worker
        from segrgbx_ros.load_model import memory_facts  # noqa: PLC0415  torch is loaded by now

        self._memory = memory_facts
        self._totals: Counter[str] = Counter()
        self._lost_events: Counter[str] = Counter()
        self._since_ns = time.monotonic_ns()
        self._mismatch = Throttle(lambda text: node.get_logger().error(text))
        self._waiting = Throttle(lambda text: node.get_logger().warning(text))
        self._publisher = None
        kind = diagnostics.message_type()
        if config.diagnostics.enabled and kind is not None:
            self._publisher = node.create_publisher(kind, "/diagnostics", 10)
        self.inputs: Inputs | None = None
        self.is_enabled = True
        self.outputs: dict[str, PairOutputs] = {}

    def start(self, inputs: Inputs, pipeline: Pipeline) -> None:
        """All counts begin with an activation, so that they belong together.

        Args:
            inputs: the subscriptions to come.
            pipeline: new, too.
        """
        self._worker.report()
        self._totals.clear()
        self._lost_events.clear()
        self.inputs, self._pipeline = inputs, pipeline

    def destroy(self) -> None:
        """Destroys the publisher and lets go of the model; there are no reports any more."""
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
            self._publisher = None
        del self._segmenter

    def report(self) -> None:
        """Publishes one report and warns about pairs that give nothing."""
        statuses = self.statuses()
        if self._publisher is not None:
            self._publisher.publish(
                diagnostics.to_message(
                    self._node.get_name(),
                    self._segmenter.device_name,
                    statuses,
                    self._node.get_clock().now().to_msg(),
                )
            )

    def statuses(self) -> list[Status]:
        """State of every pair, then of worker, device and model."""
        now_ns = time.monotonic_ns()
        seconds, self._since_ns = (now_ns - self._since_ns) / 1e9, now_ns
        found: list[Status] = []
        if self.inputs is not None and self.is_enabled:
            for watch in self.inputs.watches.values():
                found += self._pair(watch, self.inputs, now_ns)
        for outputs in self.outputs.values():
            for topic, clauses in outputs.mismatches().items():
                found.append(diagnostics.output_status(topic, clauses))
                self._mismatch(topic, found[-1].message)
        work = self._worker.report()
        for name in ("answered", "replaced", "cleared", "exhausted"):
            self._totals[f"{name}_total"] += getattr(work, name)
        self._totals.update({f"failed_{cause}": count for cause, count in work.failed.items()})
        if self.inputs is None:
            found.append(Status(OK, "inference", "inactive"))
        elif not self.is_enabled:
            found.append(Status(WARN, "inference", "switched off by ~/enable"))
        else:
            limits = self._config.diagnostics
            found.append(diagnostics.inference_status(work, seconds, self._totals, limits))
            values = {**found[-1].values, "batch_max": self._worker.capacity}
            found[-1] = replace(found[-1], values=values)
            trouble = self._worker.trouble()
            if trouble:
                found[-1] = replace(found[-1], level=ERROR, message=trouble)
        memory = self._memory(self._segmenter)
        found.append(diagnostics.device_status(self._segmenter, memory, work.exhausted))
        labels = {pair: outputs.labels for pair, outputs in self.outputs.items()}
        found.append(diagnostics.model_status(self._segmenter, labels))
        return found

    def _pair(self, watch: PairWatch, inputs: Inputs, now_ns: int) -> list[Status]:
        silences = inputs.silences(watch.pair, now_ns)
        counts = self._pipeline[watch.pair].counts
        notes = self._notes(watch.pair, counts)
        state = diagnostics.input_status(watch, silences, self._config.diagnostics, notes)
        config = self._pipeline.config
        sync = diagnostics.sync_status(
            watch,
            counts,
            not silences,
            config.sync.max_dt_ms,
            config.pair(watch.pair).x_offset_ms,
        )
        if now_ns - watch.last_pair_ns > PATIENCE_NS:
            why = "; ".join(silences) or sync.message
            self._waiting(watch.pair, f"pair '{watch.pair}': waiting: {why}")
        return [state, sync]

    def _notes(self, pair: str, counts: AlignCounts) -> list[str]:
        """What a pair's answers lack, one sentence each."""
        found = []
        if self._pipeline[pair].info(Stream.RGB_INFO) is None:
            found.append(self.outputs[pair].lacking(self._pipeline.config.output))
        lost = counts.lost_events - self._lost_events[pair]
        self._lost_events[pair] = counts.lost_events
        if lost > 0:
            found.append(f"{lost} events found no room; raise sensor.event.max_buffer_mb")
        return [text for text in found if text]
