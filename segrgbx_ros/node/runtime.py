"""What exists between configure and cleanup: pairing, worker, inputs, outputs, reports."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rclpy.clock import Clock, ClockType

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import NS_PER_MS, Prediction, RgbxSample
from segrgbx_core.labels.label_space import VOID
from segrgbx_ros.config.node import NodeConfig, Stream
from segrgbx_ros.messages import images as messages
from segrgbx_ros.messages.geometry import calibration_fault
from segrgbx_ros.messages.images import NS_PER_S
from segrgbx_ros.node.health.reporter import FusedSnapshot, PairSnapshot, Reporter, Snapshot
from segrgbx_ros.node.health.streams import AnswerHealth, Patience, StreamHealth, Throttle
from segrgbx_ros.node.inputs import Inputs
from segrgbx_ros.node.intake import MAX_WAITING, PairIntake, Received
from segrgbx_ros.node.outputs import DebugOutputs, PairOutputs
from segrgbx_ros.node.worker import Memory, Worker
from segrgbx_ros.pairing.fused import FusedFrame, FusedFrames, FuseRule, Member
from segrgbx_ros.pairing.pipeline import X_EMPTY, Pair, Pipeline
from segrgbx_ros.pairing.published_labels import PairLabels, PairPredictor

if TYPE_CHECKING:
    from segrgbx_core.runtime.segmenter import Segmenter
    from segrgbx_ros.node.node import SegmentationNode

_FIRST_PERIOD_S = 1.0
_LONGEST_QUEUE_NS = 5 * NS_PER_S


class ArrivalClock:
    """Wall time at which messages arrived, never running backward unless the wall clock was set.

    The middleware's time of reception is used and not the time of the callback, so that a busy
    executor makes no X look late.
    """

    def __init__(self) -> None:
        self._newest_ns = 0
        self._lock = threading.Lock()

    def at(self, received_ns: int) -> int:
        """The time to pair by, in ns; for `received_ns` 0 it is now. From any thread."""
        with self._lock:
            return self._at(received_ns)

    def _at(self, received_ns: int) -> int:
        now_ns = time.time_ns()
        if not now_ns - _LONGEST_QUEUE_NS < received_ns < now_ns:  # not set, or another clock
            received_ns = now_ns
        if received_ns > self._newest_ns or now_ns < self._newest_ns - NS_PER_S:
            self._newest_ns = received_ns
        return self._newest_ns


class RateLimit:
    """Lets through at most so many pairs a second, judged by stamps."""

    def __init__(self) -> None:
        self._due_ns: dict[str, int] = {}

    def allows(self, pair: str, stamp_ns: int, max_hz: float) -> bool:
        """True when this one may be answered; 0 Hz means no limit."""
        if max_hz <= 0:
            return True
        period_ns = round(NS_PER_S / max_hz)
        due_ns = self._due_ns.get(pair, stamp_ns)
        late_ns = stamp_ns - due_ns
        if -2 * period_ns < late_ns < -period_ns // 20:  # further back, time has jumped
            return False
        self._due_ns[pair] = (due_ns if abs(late_ns) < period_ns else stamp_ns) + period_ns
        return True


class NodeRuntime:
    """One configured node at work.

    Messages come in by `on_message`, in the executor's thread like time-outs and reports. Pairs
    with a stream of events are paired by `_pair` in a thread of their own (`PairIntake`), the
    others in the executor's. Answers leave by `_deliver`, in the worker's thread.

    Args:
        node: owns publishers, subscriptions and timers.
        config: all options.
        segmenter: the loaded model.
        labels: what each pair publishes.
        patience: how long to wait before something is reported or given up.

    Attributes:
        segmenter: the loaded model.
        is_enabled: False while inference is switched off.
    """

    def __init__(
        self,
        node: SegmentationNode,
        config: NodeConfig,
        segmenter: Segmenter,
        labels: Mapping[str, PairLabels],
        patience: Patience,
    ) -> None:
        self._node = node
        self._config = config
        self._patience = patience
        self.segmenter = segmenter
        self.is_enabled = True
        # torch, which is loaded by now
        from segrgbx_core.runtime.devices import is_out_of_memory  # noqa: PLC0415
        from segrgbx_ros import load_model  # noqa: PLC0415

        self._memory_facts = load_model.memory_facts
        self._warn = Throttle(lambda text: node.get_logger().warning(text))
        self._pipeline = Pipeline(config, segmenter.contract.encoding)
        self._fused = FusedFrames(config)
        self._limited: Counter[str] = Counter()
        self._fused_answers: dict[str, AnswerHealth] = {}
        self._predictor = PairPredictor(
            segmenter, labels, config.label.min_confidence, config.fused_names
        )
        self._worker = Worker(
            self._predictor,
            config.batch,
            len(config.pairs) + len(config.fuse.members()),
            self._deliver,
            self._refuse,
            Memory(is_out_of_memory, load_model.free_memory),
            config.drop.depth,
            patience,
        )
        self._worker.deliver_fused = self._deliver_fused
        self._worker.fuse_rule = FuseRule.of(config)
        self._reporter = Reporter(node, config.diagnostics.enabled, patience)
        self._debug = DebugOutputs(node, config.output.publish_debug)
        self._limit = RateLimit()
        self._inputs: Inputs | None = None
        self._intakes: dict[str, PairIntake] = {}
        self._outputs: dict[str, PairOutputs] = {}
        for pair in (*config.pairs, *config.fuse.members()):
            outputs = PairOutputs(node, pair, labels[pair].classes, config)
            outputs.publish_labels(config.label.min_confidence)
            self._outputs[pair] = outputs
        # Time-outs and reports run on the steady clock: a paused simulation must not stop them.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(config.diagnostics.period_s, self._on_report, clock=steady)
        self._deadline = node.create_timer(_FIRST_PERIOD_S, self._on_deadline, clock=steady)
        self._deadline.cancel()
        self._looks = 0
        self._clock = ArrivalClock()

    @property
    def is_active(self) -> bool:
        """True between `start` and `stop`."""
        return self._inputs is not None

    @property
    def is_idle(self) -> bool:
        """True when nothing uses the model: neither active, nor in a pass from before."""
        return not self.is_active and not self._worker.is_alive

    def start(self) -> bool:
        """Starts the worker, then listens; logs where.

        Returns:
            False when a pass from before still runs; nothing has started then.
        """
        if not self._worker.start():
            return False
        self._pipeline = self._fresh_pipeline()
        self._fused = FusedFrames(self._config)
        self._limited.clear()
        self._fused_answers = {name: AnswerHealth() for name in self._fused.collectors}
        inputs = Inputs(self._node, self._config, self.on_message, self.on_info, self._patience)
        for health in inputs.health.values():
            health.last_pair_ns = time.monotonic_ns()
        self._worker.report()
        self._reporter.reset()
        self._inputs = inputs
        self._intakes = {
            pair: PairIntake(
                pair,
                self._pair,
                self._poll,
                lambda pair: self._pipeline[pair].next_deadline_ns(),
                lambda: self._clock.at(0),
                self._patience.stop_s,
            )
            for pair, section in self._config.sections()
            if section.x_stream is Stream.EVENTS
        }
        inputs.create()
        reliability = self._config.qos.input_reliability.value
        for pair, health in inputs.health.items():
            topics = " + ".join(stream.topic for stream in health.inputs.values())
            mask = self._outputs[pair].topics[0]
            self._node.get_logger().info(f"pair '{pair}': {topics} ({reliability}) -> {mask}")
        for name, members in self._config.fuse.members().items():
            mask = self._outputs[name].topics[0]
            self._node.get_logger().info(f"fused '{name}': {' + '.join(members)} -> {mask}")
        return True

    def stop(self) -> None:
        """Stops to listen, then the worker; the model stays."""
        if self._inputs is None:
            return
        self._inputs.destroy()
        for intake in self._intakes.values():
            intake.stop()
        self._intakes.clear()
        if not self._worker.stop():
            self._node.get_logger().warning("a pass still runs; its answer will be dropped")
        self.reset()
        self._deadline.cancel()
        self._inputs = None

    def close(self) -> bool:
        """Stops, destroys everything and lets go of the model; of no more use after that.

        Returns:
            False where a pass still runs.
        """
        self.stop()
        self._node.destroy_timer(self._timer)
        self._node.destroy_timer(self._deadline)
        for outputs in self._outputs.values():
            outputs.destroy()
        self._outputs.clear()
        self._debug.switch(False)
        self._reporter.destroy()
        # The executor holds timers, and with them this object, for some rounds more.
        self._worker.close()
        del self.segmenter, self._predictor
        return not self._worker.is_alive

    def configure(self, config: NodeConfig) -> None:
        """Takes changed values of dynamic options."""
        self._config = config
        self._pipeline.configure(config)
        self._fused.configure(config)
        self._worker.fuse_rule = FuseRule.of(config)
        threshold = config.label.min_confidence
        if threshold != self._predictor.min_confidence:
            self._predictor.min_confidence = threshold
            for outputs in self._outputs.values():
                outputs.publish_labels(threshold)
        self._debug.switch(config.output.publish_debug)

    def enable(self, is_enabled: bool) -> None:
        """Switches inference on or off; subscriptions stay."""
        self.is_enabled = is_enabled
        self.reset()
        if self._inputs is not None:
            for health in self._inputs.health.values():
                health.last_pair_ns = time.monotonic_ns()  # a pause is no reason to complain

    def reset(self) -> None:
        """Forgets all messages that wait or are in a pass, and what the model keeps of streams."""
        for intake in self._intakes.values():
            intake.clear()
        self._pipeline.clear()
        self._fused.clear()
        self._worker.clear()

    def on_message(
        self, pair: str, stream: Stream, health: StreamHealth, message: Any, received_ns: int
    ) -> None:
        """Takes a message of an input; whatever is in it, the node goes on.

        Args:
            pair: name of the pair.
            stream: which of its inputs.
            health: counts of that input.
            message: as rclpy gives it; bytes for event arrays.
            received_ns: when the middleware received it, wall clock.
        """
        now_ns, stamp_ns = self._clock.at(received_ns), messages.stamp_ns(message)
        health.on_message(time.monotonic_ns(), messages.encoding_of(message), now_ns - stamp_ns)
        if health.freeze is not None:
            health.freeze.on_image(message.data, stamp_ns)
        if not self.is_enabled:
            health.disabled += 1
            return
        if stamp_ns <= 0:
            kind = "negative" if stamp_ns else "zero"
            text = f"topic '{health.topic}': stamp is {kind}; let the driver set header.stamp"
            self._refuse(pair, f"{kind}_stamp", text)
        received = Received(stream, health, message, now_ns, stamp_ns)
        if stream is Stream.RGB:
            self._fused.on_rgb(pair, stamp_ns, now_ns)
        intake = self._intakes.get(pair)
        if intake is None:
            self._pair(pair, received)
            self._rearm(now_ns)
        elif not intake.put(received):
            text = (
                f"topic '{health.topic}': {MAX_WAITING} messages wait to be decoded; one is lost"
            )
            self._refuse(pair, "overflow", text)
        elif pair in self._fused.name_of:
            self._rearm(now_ns)

    def _pair(self, pair: str, received: Received) -> None:
        """Pairs one message; in the executor's thread, or in that of the pair's intake."""
        inputs = self._inputs
        if inputs is None:
            return
        health, behind_ns = received.health, time.time_ns() - received.now_ns
        num_waiting = self._intakes[pair].num_waiting if pair in self._intakes else 0
        inputs.health[pair].on_behind(behind_ns / NS_PER_S, num_waiting)
        try:
            pairs = self._pipeline.push_message(
                pair, received.stream, received.message, received.now_ns, received.stamp_ns
            )
        except EncodingError as error:  # of events, which are decoded at once
            self._refuse(pair, "message", str(error))
            return
        except Exception as error:  # no message may end the node
            text = f"topic '{health.topic}': {type(error).__name__}: {error}"
            self._refuse(pair, "exception", f"{text}\n{traceback.format_exc()}")
            return
        inputs.health[pair].stream_lost = self._pipeline[pair].num_lost
        self._submit(pairs)

    def _poll(self, pair: str, now_ns: int) -> None:
        """Decides what has waited long enough for its X."""
        self._submit(self._pipeline[pair].poll(now_ns))

    def on_info(self, pair: str, stream: Stream, info: Any) -> None:
        """Takes a calibration."""
        self._pipeline.push_message(pair, stream, info, 0)

    def _fresh_pipeline(self) -> Pipeline:
        """One that has counted nothing yet; calibrations, which may come only once, are kept."""
        pipeline = Pipeline(self._config, self.segmenter.contract.encoding)
        for pair in self._config.pairs:
            for stream in self._config.info_streams(pair):
                info = self._pipeline[pair].info(stream)
                if info is not None:
                    pipeline.push_message(pair, stream, info, 0)
        return pipeline

    def _on_deadline(self) -> None:
        self._deadline.cancel()
        # Timers go before messages: an X that has arrived but not been handed over gets its turn.
        self._looks += 1
        if self._looks < 2:
            self._arm(NS_PER_MS)
            return
        self._looks = 0
        now_ns = self._clock.at(0)
        for pair in self._pipeline:
            if pair.name not in self._intakes:
                self._poll(pair.name, now_ns)
        for frame in self._fused.poll(now_ns):
            self._submit_limited(frame, frame.stamp_ns)
        self._rearm(now_ns)

    def _arm(self, delay_ns: int) -> None:
        self._deadline.timer_period_ns = max(NS_PER_MS, delay_ns)
        self._deadline.reset()

    def _rearm(self, now_ns: int) -> None:
        """Sets the timer that calls `_on_deadline` when the next RGB has waited long enough."""
        if self._inputs is None or not self._deadline.is_canceled():
            return
        deadlines = [
            deadline_ns
            for pair in self._pipeline
            if pair.name not in self._intakes
            and (deadline_ns := pair.next_deadline_ns()) is not None
        ]
        if (deadline_ns := self._fused.next_deadline_ns()) is not None:
            deadlines.append(deadline_ns)
        if deadlines:
            self._arm(min(deadlines) - now_ns)

    def _submit(self, pairs: Sequence[Pair]) -> None:
        inputs = self._inputs
        if inputs is None:
            return
        for pair in pairs:
            inputs.health[pair.name].on_pair(time.monotonic_ns(), pair.dt_ns, pair.held)
        for one in self._fused.sorted_out(pairs, self._clock.at(0)):
            stamp_ns = one.stamp_ns if isinstance(one, FusedFrame) else one.rgb_stamp_ns
            self._submit_limited(one, stamp_ns)

    def _submit_limited(self, one: Pair | FusedFrame, stamp_ns: int) -> None:
        """Submits a pair or a frame, unless `rate.max_hz` forbids."""
        inputs = self._inputs
        if inputs is None:
            return
        if self._limit.allows(one.name, stamp_ns, self._config.rate.max_hz):
            self._worker.submit(one)
            return
        is_frame = isinstance(one, FusedFrame)
        self._limited[one.name] += is_frame
        for pair in one.pairs if isinstance(one, FusedFrame) else (one,):
            inputs.health[pair.name].limited += 1

    def _deliver_fused(
        self, frame: FusedFrame, first: Member, answer: Prediction, _members: Sequence[Member]
    ) -> None:
        """In the worker's thread."""
        pair, sample = first.pair, first.sample
        assert sample is not None
        self._outputs[frame.name].publish(
            pair.rgb.header, sample, answer, self._config.output, pair.rgb_info
        )
        health = self._fused_answers.get(frame.name)
        if health is not None:
            latency_ms = (time.time_ns() - frame.arrival_ns) / NS_PER_MS
            is_unlabeled = bool((answer.labels == VOID).all())
            health.on_answer(time.monotonic_ns(), latency_ms, is_unlabeled)

    def _deliver(self, pair: Pair, sample: RgbxSample, answer: Prediction) -> None:
        """In the worker's thread."""
        self._outputs[pair.name].publish(
            pair.rgb.header, sample, answer, self._config.output, pair.rgb_info
        )
        self._debug.publish(pair, answer)
        inputs = self._inputs
        if inputs is not None:
            health = inputs.health[pair.name]
            health.last_bad = ""
            latency_ms = (time.time_ns() - pair.arrival_ns) / NS_PER_MS
            is_unlabeled = bool((answer.labels == VOID).all())
            health.answers.on_answer(time.monotonic_ns(), latency_ms, is_unlabeled)

    def _refuse(self, pair: str, cause: str, text: str) -> None:
        """In the worker's thread and in callbacks."""
        if cause == X_EMPTY:  # reported whatever the policy
            return
        inputs = self._inputs
        if inputs is not None:
            inputs.health[pair].on_refused(cause, text.split("\n", 1)[0])
            self._warn(f"{pair} {cause}", f"pair '{pair}': {text}")

    def _on_report(self) -> None:
        self._reporter.report(self._snapshot())

    def _snapshot(self) -> Snapshot:
        pairs = []
        if self._inputs is not None and self.is_enabled:
            now_ns = time.monotonic_ns()
            for name, health in self._inputs.health.items():
                pipeline = self._pipeline[name]
                silences = self._inputs.silences(name, now_ns)
                counts = pipeline.counts_by_now()
                pairs.append(
                    PairSnapshot(health, counts, pipeline.reader, silences, self._notes(name))
                )
        return Snapshot(
            config=self._config,
            is_active=self.is_active,
            is_enabled=self.is_enabled,
            pairs=pairs,
            mismatches={
                topic: clauses
                for outputs in self._outputs.values()
                for topic, clauses in outputs.mismatches().items()
            },
            work=self._worker.report(),
            capacity=self._worker.capacity,
            trouble=self._worker.trouble(),
            segmenter=self.segmenter,
            memory=self._memory_facts(self.segmenter),
            fused=self._fused_snapshots(),
            labels={pair: outputs.labels for pair, outputs in self._outputs.items()},
            callback_errors=dict(self._node.callback_errors),
            failed_images=sum((one.failed for one in self._outputs.values()), Counter()),
            warnings=self._warnings(),
        )

    def _fused_snapshots(self) -> list[FusedSnapshot]:
        if not self.is_active or not self.is_enabled:
            return []
        return [
            FusedSnapshot(collector, self._fused_answers[name], self._limited[name])
            for name, collector in self._fused.collectors.items()
        ]

    def _warnings(self) -> list[str]:
        """What is wrong with the node as a whole, one sentence each."""
        name = self._node.get_fully_qualified_name()
        namesakes = self._node.get_fully_qualified_node_names().count(name) - 1
        texts = list(self._node.warnings)
        if namesakes > 0:
            texts.append(f"{namesakes} more node is called '{name}'; rename one (-r __node:=)")
        rivals = (outputs.rivals(name) for outputs in self._outputs.values())
        return [*texts, *filter(None, rivals)]

    def _notes(self, pair: str) -> list[str]:
        """What a pair's answers lack, one sentence each."""
        pipeline, notes = self._pipeline[pair], []
        if pipeline.info(Stream.RGB_INFO) is None:
            notes.append(self._outputs[pair].lacking(self._config.output))
        for stream in self._config.info_streams(pair):
            info = pipeline.info(stream)
            if info is not None:
                notes.append(calibration_fault(f"{pair}/{stream.value}", info))
        return [text for text in notes if text]
