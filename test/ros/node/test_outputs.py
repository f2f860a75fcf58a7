"""What goes out besides images (label_info), and what the diagnostics say: no DDS needed."""

import json
import time
from array import array
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from builtin_interfaces.msg import Time  # noqa: E402
from sensor_msgs.msg import CameraInfo  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from segrgbx_core.base.modality import Modality  # noqa: E402
from segrgbx_core.base.samples import Prediction, RgbxSample  # noqa: E402
from segrgbx_core.labels.label_space import PublishedLabels  # noqa: E402
from segrgbx_core.sensors.freeze import FreezeDetector  # noqa: E402
from segrgbx_core.sync.aligner import AlignCounts  # noqa: E402
from segrgbx_ros.config.node import DiagnosticsConfig, OutputConfig, node_config  # noqa: E402
from segrgbx_ros.messages.images import compressed_array, image_array  # noqa: E402
from segrgbx_ros.node import outputs  # noqa: E402
from segrgbx_ros.node.health.reasons import (  # noqa: E402
    ERROR,
    OK,
    WARN,
    Status,
    inference_status,
    input_status,
    silence_reason,
    sync_status,
)
from segrgbx_ros.node.health.reporter import to_message  # noqa: E402
from segrgbx_ros.node.health.streams import PairHealth, StreamHealth, Throttle  # noqa: E402
from segrgbx_ros.node.runtime import ArrivalClock, RateLimit  # noqa: E402
from segrgbx_ros.node.worker import WorkReport  # noqa: E402

LABELS = PublishedLabels(("road", "car"), ((1, 2, 3), (4, 5, 6)), space="two", hash="abc")
CONFIG = node_config({"pairs": ["thermal", "depth"]})


class FakeNode:
    """Publishers that remember; `watched` topics have a subscriber."""

    def __init__(self):
        self.sent = []
        self.qos = {}
        self.watched = set()
        self.said = []
        self.publishers_of = set()

    def create_publisher(self, _kind, topic, qos, **_):
        self.qos[topic] = qos
        return SimpleNamespace(
            topic_name=topic,
            publish=lambda message: self.sent.append((topic, message)),
            get_subscription_count=lambda: int(topic in self.watched),
        )

    create_lifecycle_publisher = create_publisher

    def get_logger(self):
        return SimpleNamespace(warning=lambda text, **_: self.said.append(text))

    def resolve_topic_name(self, topic):
        return f"/robot/{topic}"

    def count_publishers(self, topic):
        return int(topic in self.publishers_of)

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: Time(sec=7)))


@pytest.fixture
def answer():
    sample = RgbxSample(
        rgb=np.full((4, 6, 3), 100, np.uint8),
        x=np.zeros((2, 2), np.uint16),
        modality=Modality.THERMAL,
    )
    prediction = Prediction(
        labels=np.tile(np.uint8([0, 1, 255]), (4, 2)),
        confidence=np.full((4, 6), 200, np.uint8),
        x_image=np.full((2, 2, 3), 0.5, np.float32),
        modality=Modality.THERMAL,
        stamp_ns=5,
        frame_id="camera",
    )
    return Header(stamp=Time(sec=1, nanosec=2), frame_id="camera"), sample, prediction


def test_mask_goes_first_and_pictures_need_an_audience(answer):
    node = FakeNode()
    pair = outputs.PairOutputs(node, "thermal", LABELS, CONFIG)
    node.watched = {"thermal/confidence", "thermal/mask_color", "thermal/overlay"}
    pair.publish(*answer, OutputConfig(publish_overlay=False))
    assert [topic for topic, _ in node.sent] == [
        "thermal/mask",
        "thermal/confidence",
        "thermal/mask_color",
    ]
    for _, message in node.sent:
        assert message.header == answer[0]
        assert isinstance(message.data, array)
    colours = np.frombuffer(node.sent[2][1].data, np.uint8).reshape(4, 6, 3)
    assert colours[0, :3].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]


def small(**output):
    return node_config({"pairs": ["depth"], "label": {"unlabeled_id": 99}, "output": output})


def test_small_images_wide_ids_and_float_confidence(answer):
    config = small(small_width=3, mask_encoding="mono16", confidence_encoding="32FC1")
    node = FakeNode()
    node.watched = {"depth/confidence", "depth/confidence_small", "depth/overlay/compressed"}
    info = CameraInfo(height=4, width=6, k=[8.0, 0, 3, 0, 8, 2, 0, 0, 1])
    outputs.PairOutputs(node, "depth", LABELS, config).publish(*answer, config.output, info)
    sent = dict(node.sent)
    assert [topic.removeprefix("depth/") for topic in sent] == [
        "mask",
        "confidence",
        "mask_small",
        "confidence_small",
        "camera_info",
        "overlay/compressed",
    ]
    mask = image_array(sent["depth/mask"])
    assert (sent["depth/mask"].encoding, mask.dtype) == ("mono16", np.uint16)
    assert mask[0].tolist() == [0, 1, 99, 0, 1, 99]
    small_mask = image_array(sent["depth/mask_small"])
    assert small_mask.shape == (2, 3)
    assert set(small_mask.ravel()) <= {0, 1, 99}
    confidence = image_array(sent["depth/confidence_small"])
    assert confidence.dtype == np.float32
    assert confidence[0, 0] == pytest.approx(200 / 255)
    scaled = sent["depth/camera_info"]
    assert (scaled.height, scaled.width, scaled.header) == (2, 3, answer[0])
    assert list(scaled.k) == [4, 0, 1.5, 0, 4, 1, 0, 0, 1]
    picture = compressed_array(sent["depth/overlay/compressed"])
    assert picture.shape == (4, 6, 3)


def test_points_lie_where_the_pixels_look(answer):
    header, sample, prediction = answer
    depth = np.full((2, 3), 2000, np.uint16)
    depth[0, 0] = 0
    sample = replace(sample, x=depth, modality=Modality.DEPTH)
    node = FakeNode()
    node.watched = {"depth/points"}
    config = small()
    pair = outputs.PairOutputs(node, "depth", LABELS, config)
    pair.publish(header, sample, prediction, config.output, None)
    assert "depth/points" not in dict(node.sent), "without a calibration there is no cloud"
    info = CameraInfo(height=4, width=6, k=[8.0, 0, 3, 0, 8, 2, 0, 0, 1])
    pair.publish(header, sample, prediction, config.output, info)
    cloud = dict(node.sent)["depth/points"]
    assert (cloud.height, cloud.width, cloud.header) == (4, 6, header)
    kinds = {2: "u1", 4: "u2", 7: "f4"}
    dtype = np.dtype(
        {
            "names": [field.name for field in cloud.fields],
            "formats": [kinds[field.datatype] for field in cloud.fields],
            "offsets": [field.offset for field in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    points = np.frombuffer(cloud.data, dtype).reshape(4, 6)
    assert np.isnan(points["x"][:2, :2]).all()
    assert points["z"][3, 5] == 2
    assert (points["x"][3, 5], points["y"][3, 5]) == ((5 - 3) / 8 * 2, (3 - 2) / 8 * 2)
    assert points["label"][0].tolist() == [0, 1, 99, 0, 1, 99]
    assert set(points["confidence"].ravel()) == {200}
    colour = points["rgb"].copy().view(np.uint32)[0, 0]
    assert colour == 100 << 16 | 100 << 8 | 100


def test_outputs_that_lack_a_calibration_say_so():
    config = small(small_width=3)
    node = FakeNode()
    pair = outputs.PairOutputs(node, "depth", LABELS, config)
    assert pair.lacking(config.output) == "", "nobody listens"
    node.watched = {"depth/points", "depth/mask"}
    none = "'/robot/depth/rgb/camera_info' has no publisher; check the remapping; "
    assert pair.lacking(config.output) == none + "points needs it"
    node.watched.add("depth/camera_info")
    assert "; points and camera_info need it" in pair.lacking(config.output)
    hidden = OutputConfig(publish_points=False, small_width=3)
    assert pair.lacking(hidden) == none + "camera_info needs it"
    node.publishers_of = {"/robot/depth/rgb/camera_info"}
    assert "has a publisher but nothing arrives; points and" in pair.lacking(config.output)
    thermal = outputs.PairOutputs(node, "thermal", LABELS, CONFIG)
    assert thermal.lacking(CONFIG.output) == "", "has no such topics"


def test_a_calibration_without_size_is_warned_about(answer):
    config = small(small_width=3)
    node = FakeNode()
    node.watched = {"depth/camera_info"}
    info = CameraInfo(k=[8.0, 0, 3, 0, 8, 2, 0, 0, 1])
    outputs.PairOutputs(node, "depth", LABELS, config).publish(*answer, config.output, info)
    assert "depth/camera_info" not in dict(node.sent)
    (text,) = node.said
    assert "topic 'depth/rgb/camera_info': camera_info: size is 0" in text
    assert text.endswith("; no camera_info")


def test_label_info_is_published_where_vision_msgs_is_installed(monkeypatch):
    class LabelInfo(SimpleNamespace):
        def __init__(self, threshold):
            super().__init__(threshold=threshold, header=Header(), class_map=[])

    monkeypatch.setattr(outputs, "LabelInfo", LabelInfo)
    monkeypatch.setattr(outputs, "VisionClass", SimpleNamespace, raising=False)
    node = FakeNode()
    outputs.PairOutputs(node, "thermal", LABELS, CONFIG).publish_labels(0.25)
    sent = dict(node.sent)
    info = sent["thermal/label_info"]
    assert info.threshold == 0.25
    assert info.header.stamp.sec == 7
    assert [(c.class_id, c.class_name) for c in info.class_map] == [(0, "road"), (1, "car")]
    for topic in ("thermal/label_info", "thermal/label_map"):
        assert node.qos[topic] == outputs.LATCHED_QOS
    described = json.loads(sent["thermal/label_map"].data)
    assert described["classes"][1] == {"id": 1, "name": "car", "rgb": [4, 5, 6]}


# ---- diagnostics ----

LIMITS = DiagnosticsConfig()


def watch(rgb_hz=20.0, x_hz=20.0):
    now_ns = time.monotonic_ns()
    inputs = {name: StreamHealth(f"/{name}") for name in ("rgb", "x")}
    for one, rate in zip(inputs.values(), (rgb_hz, x_hz), strict=True):
        for number in range(5 if rate else 0):
            one.on_message(now_ns - round((4 - number) * 1e9 / rate), "mono8")
    return PairHealth("thermal", inputs)


def test_rates_are_measured_and_slow_inputs_reported():
    status = input_status(watch(), [], LIMITS)
    assert (status.level, status.message) == (OK, "receiving")
    assert float(status.values["rgb_hz"]) == pytest.approx(20, rel=0.1)
    slow = input_status(watch(x_hz=3.0), [], LIMITS)
    assert slow.level == WARN
    assert "'/x' at 3.0 Hz, below 5 Hz" in slow.message


def test_silence_has_a_reason():
    now_ns = time.monotonic_ns()
    topic = StreamHealth("/x")
    assert "no publisher; check the remapping" in silence_reason(topic, now_ns, 0)
    assert "no publisher; 'y' has one" in silence_reason(topic, now_ns, 0, "'y' has one")
    assert "nothing arrives: it carries z" in silence_reason(topic, now_ns, 1, "it carries z", "l")
    assert "a publisher but nothing arrives: lost" in silence_reason(topic, now_ns, 1, "", "lost")
    topic.incompatible.append("publisher '/camera' offers BEST_EFFORT")
    assert "QoS does not match: publisher '/camera' offers" in silence_reason(topic, now_ns, 1)
    topic = StreamHealth("/x")
    topic.on_message(now_ns - 3 * 10**9, "mono8")
    assert silence_reason(topic, now_ns, 1) == "'/x' has been silent for 3 s"
    topic.on_message(now_ns, "mono8")
    assert silence_reason(topic, now_ns, 1) == ""


def test_pairing_explains_itself():
    counts = AlignCounts()
    pair = watch()
    status = sync_status(pair, counts, inputs_ok=False, max_dt_ms=50)
    assert (status.level, status.message) == (ERROR, "no pairs: an input is silent")
    counts.dropped["too_far"] = 9
    counts.last_miss_ns = 80_000_000
    status = sync_status(pair, counts, inputs_ok=True, max_dt_ms=50)
    assert "too_far 9" in status.message
    assert "+80.0 ms off, limit 50 ms; see thermal.x_offset_ms" in status.message
    pair.on_pair(time.monotonic_ns(), 0, held=False)
    for _ in range(2):
        assert sync_status(pair, counts, inputs_ok=True, max_dt_ms=50).level == OK
    for dt_ns, held in ((45_000_000, False), (None, False), (200_000_000, True)):
        pair.on_pair(1, dt_ns, held)
        assert sync_status(pair, counts, inputs_ok=True, max_dt_ms=50).level == WARN


@pytest.mark.parametrize(
    ("report", "level", "text"),
    [
        (WorkReport(), OK, "idle"),
        (WorkReport(answered=2, batches=1, latencies_ms=[10, 20]), OK, "running"),
        (WorkReport(answered=1, batches=1, latencies_ms=[900]), WARN, "latency 900 ms is above"),
        (WorkReport(answered=1, batches=1, replaced=3), WARN, "75% of the pairs were replaced"),
    ],
)
def test_inference_explains_itself(report, level, text):
    status = inference_status(report, 1.0, {}, LIMITS)
    assert status.level == level
    assert text in status.message


def test_failures_weigh_more_than_speed():
    report = WorkReport(answered=1, batches=1, latencies_ms=[900])
    report.failed["exception"] = 2
    status = inference_status(report, 1.0, {"failed_exception": 5}, LIMITS)
    assert (status.level, status.values["failed_exception"]) == (ERROR, 5)
    assert "2 by exception" in status.message


def test_statuses_become_messages():
    statuses = [Status(WARN, "model", "hm", {"classes": 3}), Status(OK, "a sync", "", {}, "a")]
    message = to_message("front/segrgbx", "cpu", statuses, Time())
    assert [(one.name, one.hardware_id) for one in message.status] == [
        ("front/segrgbx: model", "cpu"),
        ("front/segrgbx: a sync", "a"),
    ]
    status = message.status[0]
    assert status.level == b"\x01"
    assert [(pair.key, pair.value) for pair in status.values] == [("classes", "3")]


def test_a_camera_that_repeats_its_picture_is_named():
    pair = watch()
    freeze = pair.inputs["x"].freeze = FreezeDetector()
    pictures = [np.full(50, value, np.uint8) for value in (1, 2, 2, 2, 2, 3)]
    for number, picture in enumerate(pictures):
        freeze.on_image(picture, number + 1)
        freeze.on_image(picture, number + 1)  # a duplicate is no new picture
    status = input_status(pair, [], LIMITS)
    assert status.level == WARN
    assert "repeated one picture 3 times" in status.message
    assert status.values["x_repeated"] == 3
    assert input_status(pair, [], LIMITS).level == OK


def test_depth_encodings_that_lose_something_are_named():
    pair = watch()
    pair.is_depth = True
    for encoding in ("mono16", "32FC1; compressedDepth png"):
        pair.inputs["x"].encoding = encoding
        assert input_status(pair, [], LIMITS).level == WARN
    pair.inputs["x"].encoding = "16UC1"
    assert input_status(pair, [], LIMITS).level == OK


def test_the_rate_is_limited_by_stamps():
    limit = RateLimit()
    ms = 1_000_000
    taken = [n for n in range(60) if limit.allows("a", n * 33 * ms, 10.0)]
    assert len(taken) == pytest.approx(60 * 0.033 * 10, abs=1)
    assert limit.allows("b", 0, 10.0), "each pair has its own"
    assert limit.allows("a", 5 * ms, 10.0), "time has jumped back"
    assert all(limit.allows("a", n, 0.0) for n in range(3))


def test_repeated_warnings_are_held_back_and_counted():
    said = []
    warn = Throttle(said.append, period_s=0.05)
    for _ in range(4):
        warn("a", "bad")
    warn("b", "worse")
    assert said == ["bad", "worse"]
    time.sleep(0.06)
    warn("a", "bad")
    assert said[-1] == "bad (3 more since the last)"


def test_arrival_times_never_run_backward():
    clock = ArrivalClock()
    now_ns = time.time_ns()
    assert clock.at(now_ns - 50) == now_ns - 50
    assert clock.at(now_ns - 90) == now_ns - 50
    assert clock.at(0) >= now_ns
    assert clock.at(17) >= now_ns, "a time of another clock is not believed"
