"""Models come and go: `~/reload_model`, cleanup and an activation that finds the model busy."""

import gc
import threading
import time
import weakref

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from lifecycle_msgs.srv import ChangeState  # noqa: E402
from node_rig import ask  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from segrgbx_core.base.errors import ConfigError  # noqa: E402
from segrgbx_ros.node.health.streams import Patience  # noqa: E402
from segrgbx_ros.node.node import FAILURE, SUCCESS  # noqa: E402

SIZE = {"model.input_height": 64, "model.input_width": 64}
CLEANUP = 2


@pytest.fixture
def no_collector():
    """What is free must be so because the node saw to it."""
    gc.disable()
    yield
    gc.enable()


def reload(one):
    answer = one.call(Trigger, "segrgbx/reload_model")
    return answer.success, answer.message


def answers(one):
    masks = one.hear("thermal/mask")
    one.until(lambda: one.tester.count_publishers(f"{one.namespace}/thermal/mask") == 1)
    one.pump(0.2)
    ask(one)
    one.until(lambda: masks)


def test_a_reload_frees_the_old_model(rig, no_collector):
    one = rig(**SIZE)
    answers(one)
    one.node.trigger_deactivate()
    for _ in range(3):
        old = weakref.ref(one.node.runtime.segmenter)
        assert reload(one) == (True, "loaded tiny.safetensors")
        assert old() is None
        assert gc.get_freeze_count() > 0
    one.node.trigger_activate()
    answers(one)


def test_cleanup_frees_the_model(rig, no_collector):
    one = rig(**SIZE)
    one.node.trigger_deactivate()
    old = weakref.ref(one.node.runtime.segmenter)
    transition = ChangeState.Request().transition
    transition.id = CLEANUP
    assert one.call(ChangeState, "segrgbx/change_state", transition=transition).success
    assert old() is None


@pytest.mark.parametrize("error", [ConfigError("model.checkpoint: no"), RuntimeError("odd")])
def test_a_reload_that_fails_keeps_the_old_model(rig, monkeypatch, capfd, error):
    one = rig(**SIZE)
    one.node.trigger_deactivate()
    before = one.node.runtime.segmenter

    def refuse(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("segrgbx_ros.node.node.loaded_segmenter", refuse)
        success, message = reload(one)
    assert not success
    assert str(error) in message
    assert message.endswith("; the old model stays")
    assert f"cannot be reloaded: {message.split(';')[0]}" in capfd.readouterr().err
    assert one.node.runtime.segmenter is before
    one.node.trigger_activate()
    answers(one)
    one.node.trigger_deactivate()
    assert reload(one) == (True, "loaded tiny.safetensors")


@pytest.mark.parametrize("is_enabled", [False, True])
def test_a_reload_keeps_what_enable_was_told(rig, is_enabled):
    one = rig(**SIZE)
    assert one.call(SetBool, "segrgbx/enable", data=is_enabled).success
    one.node.trigger_deactivate()
    assert reload(one)[0]
    assert one.node.runtime.is_enabled is is_enabled
    one.node.trigger_activate()
    if is_enabled:
        answers(one)
    else:
        one.until(lambda: one.says("inference", "switched off", 1))


def test_a_pass_that_hangs_stops_activation_and_reload_but_not_the_node(rig, monkeypatch, capfd):
    one = rig(patience=Patience(stop_s=0.1), **SIZE)
    segmenter = one.node.runtime.segmenter
    predict, reached, opened = segmenter.predict, threading.Event(), threading.Event()

    def hang(*arguments):
        reached.set()
        opened.wait(30)
        return predict(*arguments)

    monkeypatch.setattr(segmenter, "predict", hang)
    try:
        ask(one)
        one.until(reached.is_set)
        assert one.node.trigger_deactivate() == SUCCESS
        began = time.monotonic()
        assert one.node.trigger_activate() == FAILURE
        assert time.monotonic() - began < 5
        assert one.state() == "inactive"
        assert "a pass that began before still runs" in capfd.readouterr().err
        assert reload(one) == (False, "a pass still runs; try again later")
    finally:
        opened.set()
    one.until(lambda: one.node.trigger_activate() == SUCCESS)
    answers(one)
