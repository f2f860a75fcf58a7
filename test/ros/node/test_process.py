"""How the process of the node ends, and what does not end it."""

import signal
import textwrap
import time
from collections import Counter
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from node_process import READY, node  # noqa: E402
from node_rig import ask  # noqa: E402

from segrgbx_ros.node.process import SameError, spin  # noqa: E402

SIGNALS = [signal.SIGINT, signal.SIGTERM]
SPEAKING = """
import sys
from segrgbx_ros.node import process
enter = process.Ending.__enter__
def announced(self):
    enter(self)
    print("begins", flush=True)
    return self
process.Ending.__enter__ = announced
sys.exit(process.main(["node", *sys.argv[1:]]))
"""
EXECUTING = """
import sys
from segrgbx_ros.node import process
def run(arguments, ending):
    exec("print('begins', flush=True)\\nwhile True: pass")
process._run = run
sys.exit(process.main([]))
"""
HANGING = """
import sys, threading, time
from segrgbx_ros.node import process
from segrgbx_ros.pairing import published_labels
def hang(self, samples, streams):
    print("in a pass", flush=True)
    threading.Event().wait()
published_labels.PairPredictor.predict = hang
sys.exit(process.main(["node", *sys.argv[1:]]))
"""


def ends_clean(process, number=None, seconds=60):
    code = process.end(number, seconds)
    assert code == 0, process.output
    for word in ("Traceback", "terminate called", "FATAL", "KeyboardInterrupt"):
        assert word not in process.output, process.output


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.2, 3.0])
def test_a_signal_at_any_moment_ends_the_node_without_a_word(run, checkpoint, number, delay_s):
    process = run("-c", SPEAKING, "--ros-args", "-p", f"model.checkpoint:={checkpoint}")
    process.wait_for("begins")
    time.sleep(delay_s)
    ends_clean(process, number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_inside_an_exec_of_text_leaves_the_status_alone(
    run, environment, tmp_path, number
):
    """Imports run such code for every namedtuple; only `python -m` shows the fault."""
    (tmp_path / "executing.py").write_text(EXECUTING)
    environment["PYTHONPATH"] = str(tmp_path)
    process = run("-m", "executing")
    process.wait_for("begins")
    ends_clean(process, number)


def test_more_signals_disturb_the_end_as_little_as_none(run, checkpoint):
    process = run(*node("-p", f"model.checkpoint:={checkpoint}"))
    process.wait_for(READY)
    for number in SIGNALS * 3:
        if process.child.poll() is None:
            process.child.send_signal(number)
        time.sleep(0.02)
    ends_clean(process)


FEEDER = textwrap.dedent(
    """
    import sys, time, rclpy
    import numpy as np
    from sensor_msgs.msg import Image
    from segrgbx_ros.messages.images import fill_image
    rclpy.init()
    feeder = rclpy.create_node("feeder")
    rgb = feeder.create_publisher(Image, "thermal/rgb/image", 10)
    x = feeder.create_publisher(Image, "thermal/x/image", 10)
    counts = np.arange(29000, 29720, dtype=np.uint16).reshape(24, 30)
    images = (fill_image(Image(), np.full((48, 64, 3), 9, np.uint8), "rgb8"),
              fill_image(Image(), counts, "16UC1"))
    while True:
        stamp = feeder.get_clock().now().to_msg()
        for publisher, image in zip((rgb, x), images):
            image.header.stamp = stamp
            publisher.publish(image)
        time.sleep(0.1)
    """
)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_pass_that_never_ends_does_not_hold_the_process_back(run, checkpoint, number):
    process = run("-c", HANGING, "--ros-args", "-p", f"model.checkpoint:={checkpoint}")
    process.wait_for(READY)
    run("-c", FEEDER)
    process.wait_for("in a pass")
    ends_clean(process, number)
    assert "a pass still runs; its answer will be dropped" in process.output


# ---- errors in callbacks ----


class Log:
    def __init__(self):
        self.fatal_said = []

    def fatal(self, text):
        self.fatal_said.append(text)


def looping(errors, same):
    """Runs the loop over these outcomes of a callback; gives status and errors noticed."""
    outcomes, noticed, log = iter(errors), Counter(), Log()

    def spin_once():
        outcome = next(outcomes, None)
        if outcome is StopIteration:
            fake.exit_code = 0
        elif outcome is not None:
            raise outcome

    fake = SimpleNamespace(
        exit_code=None,
        on_callback_error=lambda error: noticed.update([type(error).__name__]),
        get_logger=lambda: log,
    )
    return spin(fake, spin_once, lambda: True, same), noticed, log.fatal_said


def test_errors_of_callbacks_end_nothing():
    errors = [ValueError("a"), None, KeyError("b"), ValueError("a"), StopIteration]
    assert looping(errors, SameError(limit=3, period_s=0.0)) == (
        0,
        {"ValueError": 2, "KeyError": 1},
        [],
    )


def test_the_same_error_without_end_ends_the_node():
    code, noticed, said = looping([ValueError("x")] * 9, SameError(limit=3, period_s=0.0))
    assert (code, noticed, len(said)) == (1, {"ValueError": 3}, 1)


def test_progress_in_between_is_no_endless_error():
    errors = [ValueError("x"), ValueError("x"), None] * 3
    code, noticed, said = looping([*errors, StopIteration], SameError(limit=3, period_s=0.0))
    assert (code, noticed, said) == (0, {"ValueError": 6}, [])


def test_a_request_that_rclpy_cannot_read_is_counted_and_the_node_goes_on(rig):
    """A type of parameter that does not exist raises out of the executor."""
    from rcl_interfaces.msg import Parameter, ParameterValue
    from rcl_interfaces.srv import SetParameters

    one = rig()
    client = one.tester.create_client(SetParameters, "segrgbx/set_parameters")
    one.until(client.service_is_ready)
    bad = Parameter(name="sync.wait_ms", value=ParameterValue(type=77))
    client.call_async(SetParameters.Request(parameters=[bad]))

    def counted():
        spin_some(one)
        return one.report().get("node", (0, "", {}))[2].get("callback_errors") == "1"

    def spin_some(one):
        one.node.exit_code = None
        steps = iter(range(20))
        spin(
            one.node,
            lambda: one.executor.spin_once(timeout_sec=0.01),
            lambda: next(steps, None) is not None,
        )

    one.until(counted)
    masks = one.hear("thermal/mask")
    ask(one)
    one.until(lambda: masks)
