"""What the figures in /diagnostics mean: their lifetime, losses, the device's own state."""

import threading
import time
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

import torch  # noqa: E402
from node_rig import HEIGHT, STAMPS, WIDTH, ask, depth_plane, header, rgb_image  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from segrgbx_core.sync.aligner import AlignCounts  # noqa: E402
from segrgbx_ros import load_model as loading  # noqa: E402
from segrgbx_ros.config.node import DiagnosticsConfig, Stream  # noqa: E402
from segrgbx_ros.load_model import MemoryFacts  # noqa: E402
from segrgbx_ros.messages.images import fill_image  # noqa: E402
from segrgbx_ros.node.health.reasons import (  # noqa: E402
    ERROR,
    OK,
    WARN,
    device_status,
    input_status,
    sync_status,
)
from segrgbx_ros.node.health.streams import PairHealth, Patience, StreamHealth  # noqa: E402

SIZE = {"model.input_height": 64, "model.input_width": 64}
MS = 1_000_000


def watch():
    return PairHealth("event", {name: StreamHealth(f"/{name}") for name in ("rgb", "x")})


def sync(pair, inputs_ok=True):
    return sync_status(pair, AlignCounts(), inputs_ok, max_dt_ms=50)


def test_distances_of_stamps_are_those_since_the_report_before():
    pair = watch()
    for dt_ms in (40, 20):
        pair.on_pair(time.monotonic_ns(), dt_ms * MS, held=False)
    pair.on_pair(time.monotonic_ns(), -200 * MS, held=True)
    pair.on_pair(time.monotonic_ns(), None, held=False)
    values = sync(pair).values
    assert (values["dt_mean_ms"], values["dt_max_ms"]) == ("30.00", "40.00")
    pair.on_pair(time.monotonic_ns(), -1 * MS, held=False)
    values = sync(pair).values
    assert (values["dt_mean_ms"], values["dt_max_ms"]) == ("-1.00", "1.00")
    values = sync(pair).values
    assert (values["dt_mean_ms"], values["dt_max_ms"]) == ("", "")


def test_inputs_get_their_time_before_missing_pairs_are_an_error():
    pair = watch()
    pair.last_pair_ns = time.monotonic_ns()
    assert (sync(pair).level, sync(pair).message) == (OK, "no pairs yet")
    assert sync(pair, inputs_ok=False).level == ERROR
    pair.last_pair_ns -= 3000 * MS
    assert "no pairs although both inputs arrive" in sync(pair).message


def test_losses_of_the_middleware_and_gaps_in_x_have_keys_of_their_own():
    pair = watch()
    pair.inputs["rgb"].lost, pair.inputs["x"].lost, pair.stream_lost = 1, 2, 3
    values = input_status(pair, [], DiagnosticsConfig()).values
    assert [values[f"{key}_lost"] for key in ("rgb", "x", "x_stream")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("memory", "exhausted", "level", "text"),
    [
        (MemoryFacts({"rss_mb": 5.0}), 0, OK, "cpu"),
        (MemoryFacts({"mem_free_mb": 5.0, "mem_total_mb": 100.0}), 0, WARN, "5 MB of 100 MB are"),
        (MemoryFacts({"mem_free_mb": 50.0, "mem_total_mb": 100.0}), 1, ERROR, "memory ran out"),
        (MemoryFacts({}, "CUDA error: odd"), 0, ERROR, "does not answer (CUDA error: odd); rest"),
    ],
)
def test_the_device_explains_itself(memory, exhausted, level, text):
    status = device_status(SimpleNamespace(device_name="cpu", precision="fp32"), memory, exhausted)
    assert (status.level, text in status.message) == (level, True), status


def test_a_device_with_a_fault_is_an_error_and_the_node_goes_on(rig, monkeypatch):
    one = rig(**SIZE)

    def refuse(_device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(loading, "_gpu_memory", refuse)
    segmenter = one.node.runtime.segmenter
    gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"), memory=0)
    monkeypatch.setattr(one.node.runtime, "_memory_facts", lambda _: loading.memory_facts(gpu))
    one.until(lambda: one.says("device", "illegal memory access was encountered); restart", ERROR))
    monkeypatch.undo()
    assert loading.memory_facts(segmenter).fault == ""


def test_memory_that_ran_out_shows_in_the_status_of_the_device(rig, monkeypatch):
    one = rig(**SIZE)

    def exhausted(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(one.node.runtime.segmenter, "predict", exhausted)
        ask(one)
        one.until(lambda: one.says("device", "memory ran out", ERROR))
    one.until(lambda: one.says("device", "cpu", OK))


def test_all_counts_begin_with_an_activation(rig):
    one = rig(pairs=["depth"], **SIZE)
    info = CameraInfo(width=WIDTH, height=HEIGHT)
    one.say("depth/rgb/camera_info", info)
    sent = 3
    for number in range(sent):
        ask(one, "depth", *depth_pair())
        wanted = str(number + 1)
        one.until(lambda wanted=wanted: figures(one) == [wanted] * 4)
    one.node.trigger_deactivate()
    one.until(lambda: one.says("inference", "inactive", OK))
    one.node.trigger_activate()
    one.until(lambda: figures(one) == ["0"] * 4)
    ask(one, "depth", *depth_pair())
    one.until(lambda: figures(one) == ["1"] * 4)
    kept = one.node.runtime._pipeline["depth"].info(Stream.RGB_INFO)
    assert kept.width == WIDTH, "a calibration may come only once"


def depth_pair():
    return rgb_image(0), fill_image(Image(), depth_plane(), "32FC1")


def figures(one):
    report = one.report()
    if "depth input" not in report:
        return []
    return [
        report["depth input"][2]["rgb_received"],
        report["depth sync"][2]["rgb_taken"],
        report["depth sync"][2]["pairs"],
        report["inference"][2].get("answered_total"),
    ]


def test_a_new_offset_shows_in_the_distances(rig):
    one = rig(**SIZE)

    def distance():
        return one.report()["thermal sync"][2]["dt_mean_ms"]

    def send():
        stamp = next(STAMPS)
        x = header(fill_image(Image(), depth_plane(), "32FC1"), stamp)
        x.header.stamp.nanosec += 40 * MS
        one.say("thermal/x/image", x)
        one.say("thermal/rgb/image", rgb_image(stamp))

    def shows(text):
        send()
        one.pump(0.05)
        return distance() == text

    one.until(lambda: shows("40.00"))
    one.node.set_parameters([Parameter("thermal.x_offset_ms", value=40.0)])
    one.until(lambda: shows("0.00"))


def test_a_pause_is_no_reason_to_complain_about_missing_pairs(rig):
    one = rig(patience=Patience(quiet_s=0.5), **SIZE)
    ask(one)
    one.until(lambda: one.says("thermal sync", "pairing", OK))
    assert one.call(SetBool, "segrgbx/enable", data=False).success
    one.pump(0.6)
    ask(one)  # both inputs arrive, and pair no more
    one.diagnostics.clear()
    assert one.call(SetBool, "segrgbx/enable", data=True).success
    one.until(lambda: "thermal sync" in one.report())
    said = [
        status.message
        for report in one.diagnostics
        for status in report.status
        if status.name.endswith("thermal sync")
    ]
    assert said
    assert not [text for text in said if "no pairs although" in text]


@pytest.mark.parametrize("service", ["enable", "reset"])
def test_a_pass_in_flight_answers_no_more_after_enable_false_or_reset(rig, monkeypatch, service):
    one = rig(**SIZE)
    masks = one.hear("thermal/mask")
    segmenter = one.node.runtime.segmenter
    predict, reached, opened = segmenter.predict, threading.Event(), threading.Event()

    def held(*arguments):
        reached.set()
        assert opened.wait(10)
        return predict(*arguments)

    monkeypatch.setattr(segmenter, "predict", held)
    ask(one)
    one.until(reached.is_set)
    if service == "enable":
        assert one.call(SetBool, "segrgbx/enable", data=False).success
    else:
        assert one.call(Trigger, "segrgbx/reset").success
    opened.set()
    worker = one.node.runtime._worker
    one.until(lambda: worker._began is None)
    assert one.call(SetBool, "segrgbx/enable", data=True).success
    one.until(lambda: one.report()["inference"][2].get("cleared_total") == "1")
    ask(one)
    one.until(lambda: one.report()["inference"][2].get("answered_total") == "1")
    one.until(lambda: masks)
    assert len(masks) == 1
