"""The lifecycle node `segrgbx`: any number of RGB-X pairs in, label images out, one model.

Callbacks only store; one worker thread owns the model. What is wrong is said now and then in the
log and all the time in /diagnostics.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from segrgbx_core.errors import ConfigError, SegrgbxError
from segrgbx_core.samples import Prediction, RgbxSample
from segrgbx_ros import messages, params
from segrgbx_ros.config import NODE_NAME, NodeConfig, Stream
from segrgbx_ros.diagnostics import InputWatch, Throttle
from segrgbx_ros.inputs import Inputs
from segrgbx_ros.outputs import PairOutputs, has_label_info
from segrgbx_ros.pipeline import PairedMessages, Pipeline
from segrgbx_ros.reporter import Reporter
from segrgbx_ros.worker import Worker

if TYPE_CHECKING:
    from segrgbx_core.inference import Segmenter

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
_NS_PER_MS = 1_000_000

Transition = Callable[["SegmentationNode", LifecycleState], TransitionCallbackReturn]


def _logged(transition: Transition) -> Transition:
    """Logs what rclpy swallows: an exception in a transition becomes an error without a word."""

    @wraps(transition)
    def run(node: SegmentationNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            if not node.context.ok():  # interrupted: nothing is wrong with the node
                return FAILURE
            node.get_logger().fatal(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            raise

    return run


class SegmentationNode(LifecycleNode):
    """See the module. `exit_code` is set when the process should end by itself."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(
            NODE_NAME, automatically_declare_parameters_from_overrides=True, **arguments
        )
        self.exit_code: int | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._warn = Throttle(lambda text: self.get_logger().warning(text))
        self._config_error = ""
        self._inputs: Inputs | None = None
        self._outputs: dict[str, PairOutputs] = {}
        self._reporter: Reporter | None = None
        self._worker: Worker | None = None
        self._segmenter: Segmenter | None = None
        self._destroyers: list[Callable[[], Any]] = []
        self._config = NodeConfig()
        try:
            self._config = params.read_overrides(self)
            params.declare(self, self._config)
            self.add_on_set_parameters_callback(self._on_parameters)
            autostart = self._config.autostart
        except ConfigError as error:
            self._config_error = str(error)
            autostart = self.get_parameter_or("autostart", Parameter("", value=True)).value
        if autostart:
            self._start = self.create_timer(0.0, self._on_start, clock=self._steady)

    # ---- transitions ----

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model, announces the labels, offers the services."""
        try:
            if self._config_error:
                raise ConfigError(self._config_error)
            segmenter = self._load()
        except SegrgbxError as error:
            self.get_logger().fatal(f"cannot be configured: {error}")
            return FAILURE
        self._prepare(segmenter)
        for pair in self._config.pairs:
            outputs = PairOutputs(self, pair, segmenter.classes, self._reporter.incompatible)
            outputs.publish_labels(self._config.label.min_confidence)
            self._outputs[pair] = outputs
        for name, kind, answer in (
            ("~/enable", SetBool, self._on_enable),
            ("~/reset", Trigger, self._on_reset),
            ("~/reload_model", Trigger, self._on_reload),
        ):
            service = self.create_service(kind, name, answer)
            self._destroyers.append(lambda service=service: self.destroy_service(service))
        period_s = self._config.diagnostics.period_s
        self._make_timer(period_s, lambda: self._reporter.report())
        self._deadline = self._make_timer(1.0, self._on_deadline)
        self._deadline.cancel()
        if not has_label_info():
            self.get_logger().info("vision_msgs is not installed: label_map but no label_info")
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts the worker, then the subscriptions."""
        inputs = Inputs(self, self._config, self._on_message)
        for watch in inputs.watches.values():
            watch.last_pair_ns = time.monotonic_ns()
        self._inputs = self._reporter.inputs = inputs
        self._worker.start()
        inputs.create()
        reliability = self._config.qos.input_reliability.value
        for pair, watch in inputs.watches.items():
            topics = " + ".join(topic.topic for topic in watch.inputs.values())
            masks = self._outputs[pair].topics[0]
            self.get_logger().info(f"pair '{pair}': {topics} ({reliability}) -> {masks}")
        return super().on_activate(state)

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops subscriptions and worker; the model stays."""
        self._stop()
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Gives everything back that configure made."""
        self.release()
        return SUCCESS

    @_logged
    def on_shutdown(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Gives everything back, from any state."""
        self.release()
        return SUCCESS

    @_logged
    def on_error(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Gives everything back; the node can be configured again."""
        self.release()
        return SUCCESS

    def release(self) -> None:
        """Frees model, publishers, services and timers; may be called in any state."""
        self._stop()
        for destroy in self._destroyers:
            destroy()
        self._destroyers.clear()
        for outputs in self._outputs.values():
            outputs.destroy()
        self._outputs.clear()
        if self._reporter is not None:
            self._reporter.destroy()
        self._reporter = self._worker = None
        if self._segmenter is not None:
            self._segmenter = None
            from segrgbx_ros.loading import free_memory  # noqa: PLC0415  torch: see _load

            free_memory()

    # ---- events ----

    def _on_start(self) -> None:
        self.destroy_timer(self._start)
        done = self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS
        if not done and self.context.ok():
            self.exit_code = 1

    def _on_message(self, pair: str, stream: Stream, watch: InputWatch, message: Any) -> None:
        now_ns = time.monotonic_ns()
        watch.arrived(now_ns, messages.encoding_of(message))
        if not self._reporter.is_enabled:
            return
        if messages.stamp_ns(message) == 0:
            text = f"topic '{watch.topic}': stamp is zero; let the driver set header.stamp"
            self._refuse(pair, "zero_stamp", text)
        self._submit(self._pipeline.push(pair, stream, message, now_ns), now_ns)

    def _on_deadline(self) -> None:
        self._deadline.cancel()
        now_ns = time.monotonic_ns()
        self._submit(self._pipeline.poll(now_ns), now_ns)

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        try:
            self._config = params.changed(self._config, parameters)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self._segmenter is not None:
            self._pipeline.configure(self._config)
        return SetParametersResult(successful=True)

    def _on_enable(self, request: Any, response: Any) -> Any:
        self._reporter.is_enabled = request.data
        self._reset()
        response.success, response.message = True, "enabled" if request.data else "disabled"
        return response

    def _on_reset(self, _request: Any, response: Any) -> Any:
        self._reset()
        response.success, response.message = True, "forgot all messages that waited"
        return response

    def _on_reload(self, _request: Any, response: Any) -> Any:
        if self._inputs is not None:
            response.success, response.message = False, "deactivate the node first"
            return response
        try:
            segmenter = self._load()
            if segmenter.classes != self._segmenter.classes:
                raise ConfigError("checkpoint has other labels; clean up and configure instead")
        except SegrgbxError as error:
            response.success, response.message = False, str(error)
            return response
        self._reporter.destroy()
        self._prepare(segmenter)
        response.success, response.message = True, f"loaded {segmenter.checkpoint.name}"
        return response

    # ---- parts ----

    def _load(self) -> Segmenter:
        # torch takes seconds to import; a node that waits to be configured should be there at once
        from segrgbx_ros.loading import load_segmenter  # noqa: PLC0415

        start = time.monotonic()
        segmenter = load_segmenter(self._config)
        modalities = [section.modality for _, section in self._config.sections()]
        largest = min(self._config.batch.max_size, len(modalities))
        segmenter.warm_up((0, 0), modalities, range(1, largest + 1))
        self.get_logger().info(
            f"checkpoint {segmenter.checkpoint.name}, {len(segmenter.classes.names)} classes "
            f"({segmenter.classes.space}), {segmenter.device_name}, {segmenter.precision}, "
            f"ready after {time.monotonic() - start:.1f} s"
        )
        return segmenter

    def _prepare(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._pipeline = Pipeline(self._config, segmenter.contract.encoding)
        self._worker = Worker(
            segmenter, self._config.batch, len(self._config.pairs), self._deliver, self._refuse
        )
        self._reporter = Reporter(self, self._config, segmenter, self._pipeline, self._worker)

    def _make_timer(self, period_s: float, callback: Callable[[], None]) -> Any:
        timer = self.create_timer(period_s, callback, clock=self._steady)
        self._destroyers.append(lambda: self.destroy_timer(timer))
        return timer

    def _submit(self, pairs: Sequence[PairedMessages], now_ns: int) -> None:
        for paired in pairs:
            self._inputs.watches[paired.pair].paired(now_ns)
            self._worker.submit(paired)
        deadline_ns = self._pipeline.next_deadline_ns()
        if deadline_ns is not None and self._deadline.is_canceled():
            self._deadline.timer_period_ns = max(_NS_PER_MS, deadline_ns - now_ns)
            self._deadline.reset()

    def _deliver(self, paired: PairedMessages, sample: RgbxSample, answer: Prediction) -> None:
        """In the worker's thread."""
        self._outputs[paired.pair].publish(paired.rgb.header, sample, answer, self._config.output)
        self._inputs.watches[paired.pair].last_bad = ""

    def _refuse(self, pair: str, cause: str, text: str) -> None:
        """In the worker's thread and in callbacks."""
        inputs = self._inputs
        if inputs is not None:
            inputs.watches[pair].refused(cause, text.split("\n", 1)[0])
            self._warn(f"{pair} {cause}", f"pair '{pair}': {text}")

    def _reset(self) -> None:
        self._pipeline.clear()
        self._worker.clear()

    def _stop(self) -> None:
        if self._inputs is None:
            return
        self._inputs.destroy()
        if not self._worker.stop():
            self.get_logger().warning("the model is still in a pass; its answer will be dropped")
        self._deadline.cancel()
        self._pipeline.clear()
        self._inputs = self._reporter.inputs = None


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until it is told to stop; 1 when it could not be configured."""
    rclpy.init(args=args)
    node = None
    try:
        node = SegmentationNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while rclpy.ok() and node.exit_code is None:
            executor.spin_once()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node is not None:
            node.release()
            node.destroy_node()
        rclpy.try_shutdown()
    return (node.exit_code or 0) if node is not None else 1


if __name__ == "__main__":
    sys.exit(main())
