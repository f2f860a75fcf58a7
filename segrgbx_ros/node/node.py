"""The lifecycle node `segrgbx`: any number of RGB-X pairs in, label images out, one model.

The node holds parameters, transitions and services. What exists between configure and cleanup is
a `NodeRuntime`; messages come in by its `on_message`.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from segrgbx_core.base.errors import ConfigError, SegrgbxError
from segrgbx_ros.config.node import NODE_NAME, NodeConfig
from segrgbx_ros.config.parameter_files import ParameterFile, misfit
from segrgbx_ros.node import parameters as params
from segrgbx_ros.node.health.streams import PATIENT, Patience, Throttle
from segrgbx_ros.node.inputs import check_fused_topics, check_message_types
from segrgbx_ros.node.outputs import has_label_info
from segrgbx_ros.node.runtime import NodeRuntime
from segrgbx_ros.pairing.published_labels import pair_labels

if TYPE_CHECKING:
    from segrgbx_core.runtime.segmenter import Segmenter

Transition = Callable[["SegmentationNode", LifecycleState], TransitionCallbackReturn]

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE


def _logged(transition: Transition) -> Transition:
    """Logs what rclpy swallows: an exception in a transition becomes an error without a word."""

    @wraps(transition)
    def run(node: SegmentationNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            if not node.context.ok():  # interrupted: nothing is wrong with the node
                return FAILURE
            node.get_logger().fatal(_traced(error))
            raise

    return run


class SegmentationNode(LifecycleNode):
    """See the module.

    Args:
        patience: how long to wait before something is reported or given up.
        arguments: of `LifecycleNode`.

    Attributes:
        exit_code: set when the process should end by itself.
        callback_errors: errors that left a callback, by type.
        warnings: what is wrong with how the node was started, one sentence each.
        runtime: None unless the node is configured.
    """

    def __init__(self, patience: Patience = PATIENT, **arguments: Any) -> None:
        super().__init__(
            NODE_NAME, automatically_declare_parameters_from_overrides=True, **arguments
        )
        self.exit_code: int | None = None
        self.runtime: NodeRuntime | None = None
        self._patience = patience
        self.callback_errors: Counter[str] = Counter()
        self.warnings: list[str] = []
        self._warn = Throttle(lambda text: self.get_logger().error(text))
        self._made_services: list[Any] = []
        self._config: NodeConfig | None = None
        self._config_error = ""
        try:
            self._config = params.read_overrides(self)
            params.declare(self, self._config)
            self.add_on_set_parameters_callback(self._on_parameters)
            autostart = self._config.autostart
        except ConfigError as error:
            self._config_error = str(error)
            autostart = self.get_parameter_or(
                "autostart", Parameter("autostart", value=True)
            ).value
        if autostart:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._start = self.create_timer(0.0, self._on_start, clock=steady)

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model, announces the labels, offers the services."""
        try:
            if self._config is None:
                raise ConfigError(self._config_error)
            segmenter = loaded_segmenter(self, self._config)
            labels = pair_labels(self._config, segmenter)
        except SegrgbxError as error:
            self.get_logger().fatal(f"cannot be configured: {error}")
            return FAILURE
        self.runtime = NodeRuntime(self, self._config, segmenter, labels, self._patience)
        self._made_services = [
            self.create_service(SetBool, "~/enable", self._on_enable),
            self.create_service(Trigger, "~/reset", self._on_reset),
            self.create_service(Trigger, "~/reload_model", self._on_reload),
        ]
        if not has_label_info():
            self.get_logger().info("vision_msgs is not installed: label_map but no label_info")
        _keep_loaded()
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts to listen and to answer."""
        if not self._configured.start():
            self.get_logger().error(
                "cannot be activated: a pass that began before still runs; activate again when it "
                "has ended, or restart the node if it never does"
            )
            return FAILURE
        return super().on_activate(state)

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops to listen; the model stays."""
        self._configured.stop()
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

    def release(self) -> bool:
        """Frees model, publishers, services and timers; may be called in any state.

        Returns:
            False where a pass still runs, in a thread that nothing can end.
        """
        for service in self._made_services:
            self.destroy_service(service)
        self._made_services = []
        return self._drop_runtime()

    def check_files(self, files: Iterable[ParameterFile]) -> None:
        """Warns about parameter files of which nothing fits this node."""
        namespace = self.get_namespace().rstrip("/")
        for file in files:
            if text := misfit(file, namespace, self.get_name()):
                self.warnings.append(text)
                self.get_logger().warning(text)

    def on_callback_error(self, error: Exception) -> None:
        """Takes note of an error that left a callback; the executor goes on."""
        self.callback_errors[type(error).__name__] += 1
        self._warn(type(error).__name__, f"a request or message was given up: {_traced(error)}")

    def _drop_runtime(self) -> bool:
        gc.unfreeze()
        if self.runtime is None:
            return True
        runtime, self.runtime = self.runtime, None
        is_idle = runtime.close()
        del runtime
        _free_memory()
        return is_idle

    @property
    def _configured(self) -> NodeRuntime:
        assert self.runtime is not None, "the lifecycle allows this only when configured"
        return self.runtime

    def _on_start(self) -> None:
        self.destroy_timer(self._start)
        done = self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS
        if not done and self.context.ok():
            self.exit_code = 1

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        assert self._config is not None
        try:
            self._config = params.changed(self._config, parameters)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self.runtime is not None:
            self.runtime.configure(self._config)
        return SetParametersResult(successful=True)

    def _on_enable(self, request: Any, response: Any) -> Any:
        self._configured.enable(request.data)
        return _answer(response, "enabled" if request.data else "disabled; the model stays loaded")

    def _on_reset(self, _request: Any, response: Any) -> Any:
        self._configured.reset()
        return _answer(response, "forgot all messages that waited, and all scenes")

    def _on_reload(self, _request: Any, response: Any) -> Any:
        """Loads the checkpoint anew, beside the old model, which stays if that fails.

        Both must fit into the memory for a moment; where they do not, clean up and configure.
        """
        if self._configured.is_active:
            return _answer(response, "deactivate the node first", success=False)
        if not self._configured.is_idle:
            return _answer(response, "a pass still runs; try again later", success=False)
        assert self._config is not None
        try:
            segmenter = loaded_segmenter(self, self._config)
            labels = pair_labels(self._config, segmenter)
        except Exception as error:  # whatever a new file does, the old model is still good
            text = str(error) if isinstance(error, SegrgbxError) else _traced(error)
            self.get_logger().error(f"cannot be reloaded: {text}")
            reason = f"{text.splitlines()[0]}; the old model stays"
            return _answer(response, reason, success=False)
        is_enabled = self._configured.is_enabled
        self._drop_runtime()
        self.runtime = NodeRuntime(self, self._config, segmenter, labels, self._patience)
        self.runtime.enable(is_enabled)
        _keep_loaded()
        return _answer(response, f"loaded {segmenter.checkpoint.name}")


def loaded_segmenter(node: LifecycleNode, config: NodeConfig) -> Segmenter:
    """The model, warm; see `load_model.load_warm_segmenter`."""
    # torch takes seconds to import; a node that waits to be configured should be there at once
    from segrgbx_ros import load_model  # noqa: PLC0415

    check_message_types(config)
    check_fused_topics(node, config)
    start = time.monotonic()
    segmenter = load_model.load_warm_segmenter(config)
    node.get_logger().info(
        f"checkpoint {segmenter.checkpoint.name}, {len(segmenter.classes.names)} classes "
        f"({segmenter.classes.space}), {segmenter.device_name}, {segmenter.precision}, "
        f"ready after {time.monotonic() - start:.1f} s"
    )
    if segmenter.warning:
        node.get_logger().warning(f"checkpoint {segmenter.checkpoint.name}: {segmenter.warning}")
    return segmenter


def _free_memory() -> None:
    """Gives the memory of a segmenter that nobody holds any more back to the device."""
    from segrgbx_ros import load_model  # noqa: PLC0415  torch: see loaded_segmenter

    load_model.free_memory()


def _keep_loaded() -> None:
    """Spares the collector from walking all of torch now and then, a tenth of a second each."""
    gc.collect()  # what is garbage when it is frozen stays for ever
    gc.freeze()


def _traced(error: Exception) -> str:
    trace = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {error}\n{trace}"


def _answer(response: Any, message: str, success: bool = True) -> Any:
    response.success, response.message = success, message
    return response
