"""The node as a process: signals from the first moment on, the executor's loop, an orderly end.

Only the standard library is imported at once, because the rest takes seconds, and a signal that
comes meanwhile must end the process as quietly as a later one.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segrgbx_ros.node.node import SegmentationNode

SIGNALS = (signal.SIGINT, signal.SIGTERM)
END_S = 4.0
"""How long an orderly end may take at most; `ros2 launch` sends SIGTERM after 5 s."""
_SWITCH_S = 0.0005
_POLL_S = 0.05


class EndRequested(KeyboardInterrupt):
    """A signal to end.

    CPython remembers a plain KeyboardInterrupt that leaves `exec(text)`, which imports call for
    every namedtuple and dataclass, and ends `python -m` by SIGINT in spite of its status.
    """


class Ending:
    """Turns the first SIGINT or SIGTERM into EndRequested; the ones after it are ignored.

    Use it in a `with` block in the main thread. Whatever the main thread waits for, the process
    ends `END_S` after the signal at the latest, with status 0.

    Args:
        limit_s: in place of `END_S`.

    Attributes:
        is_requested: True once a signal has come.
        wake: called from another thread when it has, to end a wait outside Python.
    """

    def __init__(self, limit_s: float = END_S) -> None:
        self.is_requested = False
        self.wake: Callable[[], object] = lambda: None
        self._limit_s = limit_s
        self._over = threading.Event()
        self._pipe = os.pipe()

    def __enter__(self) -> Ending:
        for end in self._pipe:
            os.set_blocking(end, end == self._pipe[0])
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, name="segrgbx-ending", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        signal.set_wakeup_fd(-1)
        os.write(self._pipe[1], b"\0")

    def begin(self) -> None:
        """The end has begun, perhaps without a signal: they are ignored now, and time counts."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        os.write(self._pipe[1], bytes(SIGNALS[:1]))

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        is_first = not self.is_requested
        self.is_requested = True
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if is_first:
            raise EndRequested

    def _watch(self) -> None:
        """In a thread of its own: C code that the main thread is in holds up its handler only."""
        while os.read(self._pipe[0], 1)[0] not in SIGNALS:
            if self._over.is_set():
                return
        end = time.monotonic() + self._limit_s
        while time.monotonic() < end:
            self.wake()
            if self._over.wait(_POLL_S):
                return
        sys.stderr.write("segrgbx-node: something still runs; the process ends without it\n")
        end_now()


def end_now(code: int = 0) -> None:
    """Ends the process without waiting for its threads; what was logged is written out."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class SameError:
    """Says when an error comes again and again with nothing done in between.

    Args:
        limit: least number in a row.
        period_s: least time between the first and the last of them.
    """

    def __init__(self, limit: int = 100, period_s: float = 10.0) -> None:
        self._limit = limit
        self._period_s = period_s
        self.forget()

    def forget(self) -> None:
        """Something went well."""
        self._place = ""
        self._count = 0
        self._since = 0.0

    def is_endless(self, error: Exception) -> bool:
        """Takes one more error."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}"
        if place != self._place:
            self._place, self._count, self._since = place, 0, time.monotonic()
        self._count += 1
        return self._count >= self._limit and time.monotonic() - self._since >= self._period_s


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until a signal comes.

    Returns:
        0 after a signal, whenever it came; 1 when the node could not be configured, ROS refused
        its arguments or the same error came without end.
    """
    arguments = list(sys.argv if args is None else args)
    with Ending() as ending:
        try:
            return _run(arguments, ending)
        except KeyboardInterrupt:
            return 0
        except Exception:
            if ending.is_requested:  # the interrupt came out as another error
                return 0
            raise


def _run(arguments: Sequence[str], ending: Ending) -> int:
    import rclpy  # noqa: PLC0415  see the module
    from rclpy.executors import SingleThreadedExecutor  # noqa: PLC0415
    from rclpy.impl.implementation_singleton import rclpy_implementation  # noqa: PLC0415
    from rclpy.signals import SignalHandlerOptions  # noqa: PLC0415
    from rclpy.utilities import remove_ros_args  # noqa: PLC0415

    from segrgbx_ros.config.parameter_files import check_parameter_files  # noqa: PLC0415
    from segrgbx_ros.node import node as node_module  # noqa: PLC0415

    parser = argparse.ArgumentParser(
        prog="segrgbx-node",
        description="Segments RGB-X pairs as a ROS 2 lifecycle node.",
        epilog="Parameters: --ros-args --params-file FILE -p NAME:=VALUE; see docs/parameters.md.",
    )
    # The worker is to get its turn soon after a pair is ready; by default it waits up to 5 ms.
    sys.setswitchinterval(_SWITCH_S)
    node = None
    try:
        try:
            files = check_parameter_files(arguments)
            parser.parse_args(remove_ros_args(list(arguments))[1:])
            rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
            node = node_module.SegmentationNode()
            node.check_files(files)
        except (rclpy_implementation.RCLError, ValueError) as error:
            # ROS itself refuses an argument, or a parameter file cannot be read.
            sys.stderr.write(f"segrgbx-node: {error}\n")
            return 1
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        ending.wake = executor.wake
        return spin(node, executor.spin_once, lambda: rclpy.ok() and not ending.is_requested)
    finally:
        ending.wake = lambda: None
        ending.begin()
        is_idle = True
        if node is not None:
            is_idle = node.release()
            node.destroy_node()
        rclpy.try_shutdown()
        if not is_idle:  # torch does not survive the end of Python beside one of its passes
            end_now((node.exit_code or 0) if node is not None else 0)


def spin(
    node: SegmentationNode,
    spin_once: Callable[[], object],
    goes_on: Callable[[], bool],
    same: SameError | None = None,
) -> int:
    """Runs callbacks until the node or a signal ends it; an error in one ends nothing.

    Args:
        node: gets every error; its `exit_code` ends the loop.
        spin_once: runs one callback.
        goes_on: False ends the loop.
        same: when to give up.

    Returns:
        exit status.
    """
    from rclpy.executors import ExternalShutdownException  # noqa: PLC0415  see the module

    same = same or SameError()
    while goes_on() and node.exit_code is None:
        try:
            spin_once()
        except ExternalShutdownException:  # noqa: PERF203  once per callback
            break
        except Exception as error:  # the outermost frame of every callback
            if not goes_on():
                break
            node.on_callback_error(error)
            if same.is_endless(error):
                node.get_logger().fatal("the same error comes again and again; the node ends")
                return 1
        else:
            same.forget()
    return node.exit_code or 0


if __name__ == "__main__":
    sys.exit(main())
