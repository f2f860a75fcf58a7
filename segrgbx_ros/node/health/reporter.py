"""Reports: statuses in /diagnostics all the time, warnings in the log now and then."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rclpy.lifecycle import LifecycleNode

from segrgbx_core.labels.label_space import PublishedLabels
from segrgbx_core.sync.aligner import AlignCounts
from segrgbx_ros.config.node import NodeConfig
from segrgbx_ros.node.health import reasons
from segrgbx_ros.node.health.endpoints import loss_reason
from segrgbx_ros.node.health.reasons import ERROR, OK, WARN, Status
from segrgbx_ros.node.health.streams import NS_PER_S, AnswerHealth, PairHealth, Patience, Throttle
from segrgbx_ros.node.worker import WorkReport
from segrgbx_ros.pairing.fused import FrameCollector
from segrgbx_ros.pairing.pipeline import SampleReader

if TYPE_CHECKING:
    from segrgbx_core.runtime.segmenter import Segmenter
    from segrgbx_ros.load_model import MemoryFacts  # torch ring: never imported from here

try:
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
except ImportError:  # an optional feature
    DiagnosticArray = None


@dataclass(frozen=True, eq=False)
class PairSnapshot:
    """State of one pair of an active node.

    Attributes:
        health: its counts.
        counts: of its aligner.
        reader: judges what its messages carry.
        silences: why nothing arrives, one sentence for each silent topic.
        notes: what its answers lack, one sentence each.
    """

    health: PairHealth
    counts: AlignCounts
    reader: SampleReader
    silences: Sequence[str]
    notes: Sequence[str]


@dataclass(frozen=True, eq=False)
class FusedSnapshot:
    """State of one fused mask of an active node.

    Attributes:
        collector: gathers its frames.
        answers: what came out.
        limited: frames not answered because of `rate.max_hz`.
    """

    collector: FrameCollector
    answers: AnswerHealth
    limited: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """State of a configured node at one moment.

    Attributes:
        config: the options in force.
        is_active: False between configure and activate.
        is_enabled: False while inference is switched off.
        pairs: every pair; empty unless the node is active and enabled.
        mismatches: subscribers whose quality of service does not match, by topic.
        work: what the worker did since the snapshot before.
        capacity: pairs that share a pass at most.
        trouble: what is wrong with the worker's thread, empty when nothing is.
        segmenter: the loaded model.
        memory: what is known of its memory.
        labels: published classes by pair.
        callback_errors: errors that left a callback so far, by type.
        failed_images: besides masks, so far, by topic.
        warnings: what is wrong with the node as a whole, one sentence each.
        fused: every fused mask; empty unless the node is active and enabled.
    """

    config: NodeConfig
    is_active: bool
    is_enabled: bool
    pairs: Sequence[PairSnapshot]
    mismatches: Mapping[str, Iterable[str]]
    work: WorkReport
    capacity: int
    trouble: str
    segmenter: Segmenter
    memory: MemoryFacts
    labels: Mapping[str, PublishedLabels] = field(default_factory=dict)
    callback_errors: Mapping[str, int] = field(default_factory=dict)
    failed_images: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    fused: Sequence[FusedSnapshot] = ()


class Reporter:
    """Turns snapshots of a configured node into reports.

    Args:
        node: owns the publisher.
        is_on: whether /diagnostics is published; the log gets its warnings anyway.
        patience: when to warn in the log.
    """

    def __init__(self, node: LifecycleNode, is_on: bool, patience: Patience) -> None:
        self._node = node
        self._explain_ns = patience.explain_s * NS_PER_S
        self._totals: Counter[str] = Counter()
        self._fused: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[tuple[str, str]] = Counter()
        self._lost_events: Counter[tuple[str, str]] = Counter()
        self._num_errors = 0
        self._arrivals: dict[str, tuple[int, int]] = {}
        self._told: set[str] = set()
        self._ever_told: set[str] = set()
        self._since_ns = time.monotonic_ns()
        self._mismatch = Throttle(lambda text: node.get_logger().error(text))
        self._waiting = Throttle(lambda text: node.get_logger().warning(text))
        self._publisher = None
        if is_on and DiagnosticArray is not None:
            self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def reset(self) -> None:
        """All counts begin with an activation, so that they belong together."""
        self._totals.clear()
        self._fused.clear()
        self._faults.clear()
        self._lost_events.clear()
        self._arrivals.clear()
        self._told.clear()
        self._ever_told.clear()

    def destroy(self) -> None:
        """Destroys the publisher."""
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
            self._publisher = None

    def report(self, snapshot: Snapshot) -> None:
        """Publishes one report and warns about pairs that give nothing."""
        statuses = self.statuses(snapshot)
        if self._publisher is not None:
            stamp = self._node.get_clock().now().to_msg()
            name = self._node.get_fully_qualified_name().lstrip("/")
            device = snapshot.segmenter.device_name
            self._publisher.publish(to_message(name, device, statuses, stamp))

    def statuses(self, snapshot: Snapshot) -> list[Status]:
        """State of every pair, then of worker, device, model and node."""
        now_ns = time.monotonic_ns()
        seconds, self._since_ns = (now_ns - self._since_ns) / NS_PER_S, now_ns
        statuses: list[Status] = []
        for pair in snapshot.pairs:
            statuses += self._pair(pair, snapshot.config, now_ns)
        self._fused.update(snapshot.work.fused)
        self._faults.update(snapshot.work.faults)
        statuses += [
            reasons.fused_status(
                one.collector, one.answers, one.limited, snapshot.work, self._fused, self._faults
            )
            for one in snapshot.fused
        ]
        for topic, clauses in snapshot.mismatches.items():
            statuses.append(reasons.output_status(topic, clauses))
            self._mismatch(topic, statuses[-1].message)
        statuses.append(self._inference(snapshot, seconds))
        statuses.append(
            reasons.device_status(snapshot.segmenter, snapshot.memory, snapshot.work.exhausted)
        )
        statuses.append(reasons.model_status(snapshot.segmenter, snapshot.labels))
        statuses.append(self._whole(snapshot))
        return statuses

    def _whole(self, snapshot: Snapshot) -> Status:
        number = sum(snapshot.callback_errors.values())
        num_new, self._num_errors = number - self._num_errors, number
        return reasons.node_status(snapshot.callback_errors, num_new, snapshot.warnings)

    def _inference(self, snapshot: Snapshot, seconds: float) -> Status:
        work = snapshot.work
        for name in ("answered", "replaced", "cleared", "exhausted"):
            self._totals[f"{name}_total"] += getattr(work, name)
        self._totals.update({f"failed_{cause}": count for cause, count in work.failed.items()})
        if not snapshot.is_active:
            return Status(OK, "inference", "inactive")
        if not snapshot.is_enabled:
            return Status(WARN, "inference", "switched off by ~/enable")
        limits = snapshot.config.diagnostics
        images = Counter(
            {
                name: number - self._totals[f"failed_{name}"]
                for name, number in snapshot.failed_images.items()
            }
        )
        self._totals.update({f"failed_{name}": number for name, number in images.items()})
        status = reasons.inference_status(work, seconds, self._totals, limits, +images)
        status = replace(status, values={**status.values, "batch_max": snapshot.capacity})
        if snapshot.trouble:
            return replace(status, level=ERROR, message=snapshot.trouble)
        return status

    def _pair(self, pair: PairSnapshot, config: NodeConfig, now_ns: int) -> list[Status]:
        health, counts = pair.health, pair.counts
        notes = list(pair.notes)
        for count, advice in (
            (counts.lost_events, "events found no room; raise sensor.event.max_buffer_mb"),
            (counts.cut_events, "events beyond what one message may hold; send shorter packets"),
        ):
            lost = count - self._lost_events[health.pair, advice]
            self._lost_events[health.pair, advice] = count
            if lost > 0:
                notes.append(f"{lost} {advice}")
        notes += reasons.content_notes(health, pair.reader)
        notes += reasons.answer_notes(health, config.label.min_confidence)
        if text := self._losses(health):
            notes.append(text)
        self._tell_answers(health, now_ns)
        state = reasons.input_status(health, pair.silences, config.diagnostics, notes)
        state = replace(state, values={**state.values, **reasons.content_values(pair.reader)})
        sync = reasons.sync_status(
            health,
            counts,
            not pair.silences,
            config.sync.max_dt_ms,
            config.pair(health.pair).x_offset_ms,
        )
        if now_ns - health.last_pair_ns > self._explain_ns:
            why = "; ".join(pair.silences) or sync.message
            self._waiting(health.pair, f"pair '{health.pair}': waiting: {why}")
            self._told.discard(health.pair)
        return [state, sync]

    def _losses(self, health: PairHealth) -> str:
        rgb = next(iter(health.inputs.values()))
        received, lost = self._arrivals.get(health.pair, (0, 0))
        self._arrivals[health.pair] = rgb.received, rgb.lost
        arrived = max(0, rgb.received - received)
        published = arrived + max(0, rgb.lost - lost)
        return reasons.loss_note(health, published, arrived, loss_reason())

    def _tell_answers(self, health: PairHealth, now_ns: int) -> None:
        """Says in the log that a pair is answered, at first and after every warning."""
        answers, pair = health.answers, health.pair
        if pair in self._told or answers.number < 2 or health.is_quiet(now_ns):
            return
        is_first = pair not in self._ever_told
        self._told.add(pair)
        self._ever_told.add(pair)
        latency_ms = float(np.median(list(answers.latencies_ms)))
        self._node.get_logger().info(
            f"pair '{pair}': {'first mask' if is_first else 'masks again'}, "
            f"{answers.rate_hz():.0f} Hz, {latency_ms:.0f} ms"
        )


def to_message(node_name: str, device: str, statuses: Iterable[Status], stamp: Any) -> Any:
    """A diagnostic_msgs/DiagnosticArray; only where that package is installed.

    Args:
        node_name: with its namespace, which distinguishes vehicles.
        device: hardware of what is not about a pair.
        statuses: to be sent.
        stamp: of the report.
    """
    array = DiagnosticArray()
    array.header.stamp = stamp
    array.status = [
        DiagnosticStatus(
            level=bytes([status.level]),
            name=f"{node_name}: {status.name}",
            message=status.message,
            hardware_id=status.pair or device,
            values=[KeyValue(key=key, value=str(value)) for key, value in status.values.items()],
        )
        for status in statuses
    ]
    return array
