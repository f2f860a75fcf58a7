"""What exists between configure and cleanup: pairing, worker, publishers and reports."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from segrgbx_core.base.errors import ConfigError, EncodingError
from segrgbx_core.base.samples import Prediction, RgbxSample
from segrgbx_core.sync.counts import NS_PER_MS
from segrgbx_ros.config.node import NodeConfig, Stream
from segrgbx_ros.messages import images as messages
from segrgbx_ros.messages.images import NS_PER_S
from segrgbx_ros.node.debug import DebugOutputs
from segrgbx_ros.node.inputs import Inputs, check_message_types
from segrgbx_ros.node.outputs import PairOutputs
from segrgbx_ros.node.reporter import Reporter
from segrgbx_ros.node.stream_health import InputWatch, Throttle
from segrgbx_ros.node.worker import Memory, Worker
from segrgbx_ros.pairing.pipeline import Pair, Pipeline
from segrgbx_ros.pairing.published_labels import PairLabels, PairPredictor

if TYPE_CHECKING:
    from segrgbx_core.runtime.segmenter import Segmenter

_FIRST_PERIOD_S = 1.0
_LONGEST_QUEUE_NS = 5 * NS_PER_S


class ArrivalClock:
    """Wall time at which messages arrived, never running backward unless the wall clock was set.

    The middleware's time of reception is used and not the time of the callback, so that a busy
    executor makes no X look late.
    """

    def __init__(self) -> None:
        self._newest_ns = 0

    def at(self, received_ns: int) -> int:
        """The time to pair by, in ns; for `received_ns` 0 it is now."""
        now_ns = time.time_ns()
        if not now_ns - _LONGEST_QUEUE_NS < received_ns < now_ns:  # not told, or another clock
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


class Session:
    """One configured node at work.

    Everything but `_deliver` and `_refuse` runs in the executor's thread, so messages, time-outs
    and reports never meet; answers leave from the worker's thread.

    Args:
        node: owns publishers, subscriptions and timers.
        config: all options.
        segmenter: the loaded model.
        labels: what each pair publishes.
    """

    def __init__(
        self,
        node: LifecycleNode,
        config: NodeConfig,
        segmenter: Segmenter,
        labels: Mapping[str, PairLabels],
    ) -> None:
        self._node = node
        self._config = config
        self.segmenter = segmenter
        self._warn = Throttle(lambda text: node.get_logger().warning(text))
        self._pipeline = Pipeline(config, segmenter.contract.encoding)
        self._predictor = PairPredictor(segmenter, labels, config.label.min_confidence)
        self._worker = Worker(
            self._predictor,
            config.batch,
            len(config.pairs),
            self._deliver,
            self._refuse,
            _memory(),
            config.drop.depth,
        )
        self._reporter = Reporter(node, config, segmenter, self._pipeline, self._worker)
        self._debug = DebugOutputs(node, config.output.publish_debug)
        self._limit = RateLimit()
        self._inputs: Inputs | None = None
        self._outputs = self._reporter.outputs
        for pair in config.pairs:
            outputs = PairOutputs(node, pair, labels[pair].classes, config)
            outputs.publish_labels(config.label.min_confidence)
            self._outputs[pair] = outputs
        # Time-outs and reports run on the steady clock: a paused simulation must not stop them.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(
            config.diagnostics.period_s, self._reporter.report, clock=steady
        )
        self._deadline = node.create_timer(_FIRST_PERIOD_S, self._on_deadline, clock=steady)
        self._deadline.cancel()
        self._looks = 0
        self._clock = ArrivalClock()

    @property
    def is_active(self) -> bool:
        """True between `start` and `stop`."""
        return self._inputs is not None

    @property
    def is_enabled(self) -> bool:
        """False while inference is switched off."""
        return self._reporter.is_enabled

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
        inputs = Inputs(self._node, self._config, self._on_message, self._on_info)
        for watch in inputs.watches.values():
            watch.last_pair_ns = time.monotonic_ns()
        self._inputs = inputs
        self._reporter.start(inputs, self._pipeline)
        inputs.create()
        reliability = self._config.qos.input_reliability.value
        for pair, watch in inputs.watches.items():
            topics = " + ".join(topic.topic for topic in watch.inputs.values())
            mask = self._outputs[pair].topics[0]
            self._node.get_logger().info(f"pair '{pair}': {topics} ({reliability}) -> {mask}")
        return True

    def stop(self) -> None:
        """Stops to listen, then the worker; the model stays."""
        if self._inputs is None:
            return
        self._inputs.destroy()
        if not self._worker.stop():
            self._node.get_logger().warning("a pass still runs; its answer will be dropped")
        self.reset()
        self._deadline.cancel()
        self._inputs = self._reporter.inputs = None

    def close(self) -> None:
        """Stops, destroys everything and lets go of the model; this session is of no more use."""
        self.stop()
        self._node.destroy_timer(self._timer)
        self._node.destroy_timer(self._deadline)
        for outputs in self._outputs.values():
            outputs.destroy()
        self._outputs.clear()
        self._debug.switch(False)
        self._reporter.destroy()
        # The executor holds timers, and with them this session, for some rounds more.
        self._worker.close()
        del self.segmenter, self._predictor

    def configure(self, config: NodeConfig) -> None:
        """Takes changed values of dynamic options."""
        self._config = config
        self._pipeline.configure(config)
        threshold = config.label.min_confidence
        if threshold != self._predictor.min_confidence:
            self._predictor.min_confidence = threshold
            for outputs in self._outputs.values():
                outputs.publish_labels(threshold)
        self._debug.switch(config.output.publish_debug)

    def enable(self, is_enabled: bool) -> None:
        """Switches inference on or off; subscriptions stay."""
        self._reporter.is_enabled = is_enabled
        self.reset()
        if self._inputs is not None:
            for watch in self._inputs.watches.values():
                watch.last_pair_ns = time.monotonic_ns()  # a pause is no reason to complain

    def reset(self) -> None:
        """Forgets all messages that wait or are in a pass, and what the model keeps of streams."""
        self._pipeline.clear()
        self._worker.clear()

    def _fresh_pipeline(self) -> Pipeline:
        """One that has counted nothing yet; calibrations, which may come only once, are kept."""
        pipeline = Pipeline(self._config, self.segmenter.contract.encoding)
        for pair in self._config.pairs:
            for stream in self._config.info_streams(pair):
                info = self._pipeline[pair].info(stream)
                if info is not None:
                    pipeline.push_message(pair, stream, info, 0)
        return pipeline

    def _on_message(
        self, pair: str, stream: Stream, watch: InputWatch, message: Any, received_ns: int
    ) -> None:
        now_ns, stamp_ns = self._clock.at(received_ns), messages.stamp_ns(message)
        watch.arrived(time.monotonic_ns(), messages.encoding_of(message), now_ns - stamp_ns)
        if watch.freeze is not None:
            watch.freeze.take(message.data, stamp_ns)
        if not self._reporter.is_enabled:
            return
        if stamp_ns == 0:
            text = f"topic '{watch.topic}': stamp is zero; let the driver set header.stamp"
            self._refuse(pair, "zero_stamp", text)
        try:
            pairs = self._pipeline.push_message(pair, stream, message, now_ns)
        except EncodingError as error:  # of events, which are decoded at once
            self._refuse(pair, "message", str(error))
            return
        except Exception as error:  # no message may end the node
            text = f"topic '{watch.topic}': {type(error).__name__}: {error}"
            self._refuse(pair, "exception", f"{text}\n{traceback.format_exc()}")
            return
        if self._inputs is not None:
            self._inputs.watches[pair].stream_lost = self._pipeline[pair].num_lost
        self._submit(pairs, now_ns)

    def _on_info(self, pair: str, stream: Stream, info: Any) -> None:
        self._pipeline.push_message(pair, stream, info, 0)

    def _on_deadline(self) -> None:
        self._deadline.cancel()
        # Timers go before messages: an X that has arrived but not been handed over gets its turn.
        self._looks += 1
        if self._looks < 2:
            self._arm(NS_PER_MS)
            return
        self._looks = 0
        now_ns = self._clock.at(0)
        self._submit(self._pipeline.poll(now_ns), now_ns)

    def _arm(self, delay_ns: int) -> None:
        self._deadline.timer_period_ns = max(NS_PER_MS, delay_ns)
        self._deadline.reset()

    def _submit(self, pairs: Sequence[Pair], now_ns: int) -> None:
        if self._inputs is None:
            return
        for paired in pairs:
            watch = self._inputs.watches[paired.name]
            watch.paired(time.monotonic_ns(), paired.dt_ns, paired.held)
            if self._limit.allows(paired.name, paired.rgb_stamp_ns, self._config.rate.max_hz):
                self._worker.submit(paired)
            else:
                watch.limited += 1
        deadline_ns = self._pipeline.next_deadline_ns()
        if deadline_ns is not None and self._deadline.is_canceled():
            self._arm(deadline_ns - now_ns)

    def _deliver(self, paired: Pair, sample: RgbxSample, answer: Prediction) -> None:
        """In the worker's thread."""
        self._outputs[paired.name].publish(
            paired.rgb.header, sample, answer, self._config.output, paired.rgb_info
        )
        self._debug.publish(paired, answer)
        inputs = self._inputs
        if inputs is not None:
            inputs.watches[paired.name].last_bad = ""

    def _refuse(self, pair: str, cause: str, text: str) -> None:
        """In the worker's thread and in callbacks."""
        inputs = self._inputs
        if inputs is not None:
            inputs.watches[pair].refused(cause, text.split("\n", 1)[0])
            self._warn(f"{pair} {cause}", f"pair '{pair}': {text}")


def ready(node: LifecycleNode, config: NodeConfig) -> Segmenter:
    """Loads the model and warms it up with every batch size that can come.

    Raises:
        ConfigError: when an option does not fit the machine or the checkpoint, or the model not
            its memory.
        CheckpointError: when the checkpoint cannot be used.
    """
    # torch takes seconds to import; a node that waits to be configured should be there at once
    from segrgbx_ros import load_model as loading  # noqa: PLC0415

    check_message_types(config)
    start = time.monotonic()
    modalities = [section.modality for _, section in config.sections()]
    largest = min(config.batch.max_size, len(modalities))
    try:
        segmenter = loading.load_segmenter(config)
        for _ in range(config.model.warmup_iterations):
            segmenter.warm_up(None, modalities, range(1, largest + 1))
    except Exception as error:
        if not loading.is_out_of_memory(error):
            raise
        text = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"model.device: the memory of '{config.model.device}' does not suffice for "
            f"{largest} pairs at once ({text}); lower batch.max_size or model.input_height"
        ) from None
    node.get_logger().info(
        f"checkpoint {segmenter.checkpoint.name}, {len(segmenter.classes.names)} classes "
        f"({segmenter.classes.space}), {segmenter.device_name}, {segmenter.precision}, "
        f"ready after {time.monotonic() - start:.1f} s"
    )
    return segmenter


def _memory() -> Memory:
    from segrgbx_ros import load_model as loading  # noqa: PLC0415  torch: see ready

    return Memory(loading.is_out_of_memory, loading.free_memory)


def free_memory() -> None:
    """Gives the memory of a segmenter that nobody holds any more back to the device."""
    from segrgbx_ros import load_model as loading  # noqa: PLC0415  torch: see ready

    loading.free_memory()
