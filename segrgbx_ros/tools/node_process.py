"""Runs the node in a process of its own and listens to it over real topics."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from segrgbx_core.base.errors import SegrgbxError
from segrgbx_core.base.process_memory import memory_mib
from segrgbx_ros.config.node import NODE_NAME

_POLL_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
_GRACE_S = 5.0
LOG_LINES = 12
"""Lines of the node's log that an error repeats."""


class NodeProcessError(SegrgbxError):
    """The node did not start, ended, or did not answer."""


class NodeProcess:
    """The node `segrgbx` in a process of its own; use it in a `with` block, which always ends it.

    Args:
        params_file: ROS parameter file.
        log: where its output goes.
        parameters: win over the file, by dotted name.
        domain_id: ROS domain of its own.
        environment: more variables, such as a Fast DDS profile.
        program: what Python runs, by default the node.
    """

    def __init__(
        self,
        params_file: Path,
        log: Path,
        parameters: Mapping[str, Any],
        domain_id: int,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "segrgbx_ros.node"),
    ) -> None:
        self.log = log
        command = [sys.executable, *program]
        command += ["--ros-args", "--params-file", str(params_file)]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            command += ["-p", f"{name}:={text}"]
        self._command = command
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain_id),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> NodeProcess:
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches this process, which then ends the node
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def exit_code(self) -> int | None:
        """Exit status, None while it runs."""
        return self._process.poll() if self._process else None

    def check(self) -> None:
        """Raises `NodeProcessError` with the end of the log when the process has ended."""
        if self.exit_code is not None:
            raise NodeProcessError(f"the node ended with status {self.exit_code}; {self.tail()}")

    def memory_mb(self) -> float:
        """Resident memory of the process; 0 when it has ended."""
        if self._process is None or self._process.poll() is not None:
            return 0.0
        return memory_mib(self._process.pid)

    def cpu_s(self) -> float:
        """Processor time that the process has used in s; 0 when it has ended."""
        if self._process is None or self._process.poll() is not None:
            return 0.0
        text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def tail(self) -> str:
        """The last lines of its log, with the log's place."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"its log {self.log} ends:\n" + "\n".join(lines[-LOG_LINES:])

    def stop(self) -> None:
        """Ends the process: SIGINT, then SIGTERM, then SIGKILL."""
        if self._process is None:
            return
        for number in _SIGNALS:
            if self._process.poll() is not None:
                return
            self._process.send_signal(number)
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                continue


class Listener:
    """Subscribes in a thread of its own; use it in a `with` block.

    Attributes:
        node: rclpy node for publishers of the same process.

    Args:
        domain_id: ROS domain.
        name: name of the node.
    """

    def __init__(self, domain_id: int, name: str = "segrgbx_listener") -> None:
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=domain_id)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._runs = True
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runs = False
        self._thread.join(_GRACE_S)
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def subscribe(
        self, kind: Any, topic: str, callback: Callable[[Any], None], latched: bool = False
    ) -> None:
        """Calls back in the listener's thread with every message; reliable.

        Args:
            kind: message class.
            topic: name.
            callback: gets the message.
            latched: True to get what was published before.
        """
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        profile = QoSProfile(
            depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=durability
        )
        self.node.create_subscription(kind, topic, callback, profile)

    def wait_active(self, process: NodeProcess, timeout_s: float) -> float:
        """Returns when the node says that it is active.

        Returns:
            how long it took in s.

        Raises:
            NodeProcessError: when it ends or is too slow; with the end of its log.
        """
        client = self.node.create_client(GetState, f"/{NODE_NAME}/get_state")
        began = time.monotonic()
        future = None
        while time.monotonic() - began < timeout_s:
            process.check()
            if future is not None and future.done():
                answer = future.result()
                if answer and answer.current_state.id == State.PRIMARY_STATE_ACTIVE:
                    self.node.destroy_client(client)
                    return time.monotonic() - began
                future = None
            if future is None and client.service_is_ready():
                future = client.call_async(GetState.Request())
            time.sleep(_POLL_S)
        raise NodeProcessError(f"the node is not active after {timeout_s:g} s; {process.tail()}")

    def _spin(self) -> None:
        try:
            while self._runs and self._context.ok():
                # Another thread may destroy a publisher between its collection and the wait.
                with suppress(rclpy_implementation.InvalidHandle):
                    self._executor.spin_once(timeout_sec=0.2)
        except ExternalShutdownException:
            return


def own_domain() -> int:
    """A ROS domain that other processes of this machine are unlikely to use."""
    return 1 + os.getpid() % 100
