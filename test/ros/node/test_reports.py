"""What /diagnostics and the log say over real DDS: books that balance, causes that are true."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from node_rig import (  # noqa: E402
    HEIGHT,
    RELIABLE,
    STAMPS,
    WARM,
    WIDTH,
    ask,
    depth_plane,
    header,
    rgb_image,
    x_image,
)
from rclpy.context import Context  # noqa: E402
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402

from segrgbx_core.base.images import encode_image  # noqa: E402
from segrgbx_core.sync.aligner import AlignCounts  # noqa: E402
from segrgbx_ros.config.node import DiagnosticsConfig  # noqa: E402
from segrgbx_ros.node.health import endpoints  # noqa: E402
from segrgbx_ros.node.health.reasons import (  # noqa: E402
    ERROR,
    OK,
    WARN,
    input_status,
    loss_note,
    model_status,
    sync_status,
)
from segrgbx_ros.node.health.streams import PairHealth, Patience, StreamHealth  # noqa: E402

SIZE = {"model.input_height": 64, "model.input_width": 64}


def values(one, name):
    return one.report().get(name, (0, "", {}))[2]


def health():
    return PairHealth("thermal", {name: StreamHealth(f"/{name}") for name in ("rgb", "x")})


# ---- books that balance ----


def test_an_overlay_that_fails_leaves_the_mask_and_the_rest(rig):
    """OpenCV refuses to blend one pixel; the answer was published before."""
    one = rig(**SIZE)
    masks = one.hear("thermal/mask")
    previews, overlays = one.hear("thermal/x/preview"), one.hear("thermal/overlay")
    outputs = one.node.runtime._outputs["thermal"]
    outputs._publish_overlay = lambda *_: 1 // 0
    one.pump(0.3)
    ask(one)
    one.until(lambda: masks and previews)
    one.until(lambda: values(one, "inference").get("failed_overlay") == "1")
    one.until(lambda: values(one, "inference")["answered_total"] == "1")
    assert not overlays
    assert any(
        "images could not be made: 1 overlay" in status.message
        for report in one.diagnostics
        for status in report.status
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 1), (1, 4), (1, 2)])
def test_the_smallest_images_are_answered_whatever_is_listened_to(rig, height, width):
    one = rig(**SIZE)
    masks = one.hear("thermal/mask")
    for topic in ("overlay", "mask_color", "confidence", "x/preview"):
        one.hear(f"thermal/{topic}")
    one.pump(0.3)
    ask(one, rgb=rgb_image(0, height, width))
    one.until(lambda: masks)
    one.until(lambda: values(one, "inference").get("answered_total") == "1")
    assert not [name for name in values(one, "inference") if name == "failed_exception"]


def test_messages_that_do_not_arrive_are_counted_by_each_publishers_numbers():
    stream = StreamHealth("/x")
    for publisher, number in ((b"a", 7), (b"b", 1), (b"a", 8), (b"a", 11), (b"b", 2), (b"b", 4)):
        stream.on_number(publisher, number)
    stream.on_number(b"a", None)
    stream.on_number(b"c", 2**64 - 1)
    assert stream.lost == 2 + 1
    assert stream.has_numbers
    stream.on_number(b"a", 1)  # a publisher that counts anew has lost nothing
    assert stream.lost == 3


def test_messages_overwritten_in_the_queue_are_counted(rig):
    one = rig(**SIZE, **{"qos.input_depth": 2})
    one.say("thermal/rgb/image", rgb_image(next(STAMPS)))
    one.until(lambda: values(one, "thermal input").get("rgb_received") == "1")
    for _ in range(20):  # nobody takes them meanwhile
        one.say("thermal/rgb/image", rgb_image(next(STAMPS)))
        time.sleep(0.002)
    one.pump(0.5)
    one.say("thermal/rgb/image", rgb_image(next(STAMPS)))

    def balanced():
        found = values(one, "thermal input")
        return int(found["rgb_received"]) + int(found["rgb_lost"]) == 22

    one.until(balanced)
    assert int(values(one, "thermal input")["rgb_lost"]) > 0


def test_a_message_that_cannot_be_decoded_is_counted(rig):
    one = rig(**SIZE)
    ask(one)
    one.until(lambda: values(one, "thermal input").get("rgb_received") == "1")
    one._publishers["thermal/rgb/image"].publish(b"\x00\x01\x00\x00\x01\x02")
    ask(one)
    one.until(lambda: values(one, "thermal input")["rgb_received"] == "2")
    one.until(lambda: values(one, "thermal input")["rgb_lost"] == "1")


def test_messages_that_come_while_disabled_are_counted(rig):
    one = rig(**SIZE)
    assert one.call(SetBool, "segrgbx/enable", data=False).success
    ask(one)
    one.pump(0.3)
    assert one.call(SetBool, "segrgbx/enable", data=True).success
    one.until(lambda: values(one, "thermal input").get("rgb_disabled") == "1")
    assert values(one, "thermal input")["x_disabled"] == "1"
    assert values(one, "thermal sync")["rgb_taken"] == "0"


def test_a_negative_stamp_is_named_and_counted(rig):
    one = rig(**SIZE)
    early = rgb_image(0)
    early.header.stamp.sec = -5
    one.say("thermal/rgb/image", early)
    one.until(lambda: one.says("thermal input", "stamp is negative", ERROR))
    one.until(lambda: values(one, "thermal input").get("bad_negative_stamp") == "1")


# ---- the log says that it works ----


def test_the_log_says_when_masks_come_and_when_they_come_again(rig, capfd):
    one = rig(patience=Patience(quiet_s=0.4, explain_s=0.8), **SIZE)
    heard = ""

    def says(text):
        nonlocal heard
        heard += capfd.readouterr().err
        return text in heard

    def asked(text):
        ask(one)
        one.pump(0.05)
        return says(text)

    one.until(lambda: asked("pair 'thermal': first mask, "))
    assert " Hz, " in heard
    one.until(lambda: says("pair 'thermal': waiting: "))
    one.until(lambda: asked("pair 'thermal': masks again, "))
    assert heard.count("first mask") == 1


def test_images_that_are_mostly_lost_are_named():
    pair = health()
    assert loss_note(pair, 4, 0, "why") == ""
    assert loss_note(pair, 30, 20, "why") == ""
    assert loss_note(pair, 30, 3, "why") == "'/rgb': of 30 published images 3 arrived: why"


def test_answers_without_any_label_are_named(rig):
    one = rig(**SIZE, **{"label.min_confidence": 1.0})
    masks = one.hear("thermal/mask")

    def warned():
        ask(one)
        one.pump(0.05)
        text = "answers have no label in any pixel: label.min_confidence is 1"
        return one.says("thermal input", text, WARN)

    one.until(warned)
    assert set(masks[-1].data) == {255}


# ---- twins, calibrations, checkpoints ----


def test_a_second_node_of_the_same_name_is_named_on_both_sides(rig):
    one = rig(**SIZE)
    twin = rclpy.create_node("segrgbx", context=one.context, namespace=one.namespace)
    try:
        text = f"1 more node is called '{one.namespace}/segrgbx'"
        one.until(lambda: one.says("node", text, WARN))
    finally:
        twin.destroy_node()
    one.until(lambda: one.says("node", "running", OK))


def test_another_publisher_of_the_mask_is_named(rig):
    one = rig(**SIZE)
    one.tester.create_publisher(Image, "thermal/mask", 10)
    text = f"thermal/mask' has 2 publishers, also {one.namespace}/tester"
    one.until(lambda: one.says("node", text, WARN))


def test_a_calibration_of_zeros_is_named(rig):
    one = rig(pairs=["depth"], **SIZE)
    one.say("depth/rgb/camera_info", CameraInfo(width=WIDTH, height=HEIGHT))
    ask(one, "depth", x=x_image(0, depth_plane(), "32FC1"))
    text = "'depth/rgb/camera_info': camera_info: focal length is 0"
    one.until(lambda: one.says("depth input", text, WARN))


@pytest.mark.parametrize(
    ("warning", "text"),
    [
        ("trained on rendered streets only", "loaded; trained on rendered streets only"),
        ("", "loaded"),
    ],
)
def test_a_checkpoint_of_rendered_scenes_says_so(warning, text):
    segmenter = SimpleNamespace(
        checkpoint=SimpleNamespace(name="a", hash="b" * 64),
        contract=SimpleNamespace(is_random=False, warning=warning),
    )
    assert model_status(segmenter, {}).message == text


# ---- true causes ----


def test_publishers_of_another_type_are_named(rig):
    one = rig(**{"thermal.rgb_transport": "raw"}, **SIZE)
    context = Context()
    rclpy.init(context=context, domain_id=one.context.get_domain_id())
    camera = rclpy.create_node("camera", context=context, namespace=one.namespace)
    try:
        camera.create_publisher(CompressedImage, "thermal/rgb/image", 10)
        types = "it carries sensor_msgs/msg/CompressedImage, this node requests sensor_msgs/msg/Im"
        one.until(lambda: one.says("thermal input", types, ERROR))
        said = one.report()["thermal input"][1]
        assert "set thermal.rgb_transport" in said
        assert "Fast DDS" not in said.split(";")[0]
    finally:
        camera.destroy_node()
        rclpy.shutdown(context=context)


def test_a_remapping_may_end_in_the_transport(rig):
    one = rig(
        remaps=["thermal/rgb/image:=/camera/image/compressed"],
        **{"thermal.rgb_transport": "compressed"},
        **SIZE,
    )
    masks = one.hear("thermal/mask")
    stamp = next(STAMPS)
    pixels = np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
    rgb = header(CompressedImage(format="jpeg", data=encode_image(pixels, ".jpg")), stamp)
    one.say("thermal/x/image", x_image(stamp, WARM))
    one.say("/camera/image/compressed", rgb)
    one.until(lambda: masks)


@pytest.mark.parametrize(
    ("rmw", "profile", "text"),
    [
        ("rmw_fastrtps_cpp", "", "images above 512 KiB need the Fast DDS profile"),
        ("rmw_fastrtps_cpp", "/nowhere.xml", "names '/nowhere.xml', which does not exist"),
        ("rmw_fastrtps_cpp", __file__, "this node runs with a Fast DDS profile"),
        ("rmw_cyclonedds_cpp", "", "lost on the way, or cannot be decoded"),
    ],
)
def test_the_profile_is_advised_only_where_it_is_missing(monkeypatch, rmw, profile, text):
    monkeypatch.setattr(endpoints, "get_rmw_implementation_identifier", lambda: rmw)
    monkeypatch.setenv(endpoints.PROFILE_VARIABLE, profile)
    assert text in endpoints.loss_reason()


def test_subscribers_that_do_not_fit_are_one_clause():
    asked = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    ones = [
        SimpleNamespace(node_namespace="/", node_name=f"rviz{number}", qos_profile=asked)
        for number in range(20)
    ]
    (clause,) = endpoints.subscriber_mismatches(ones, RELIABLE)
    assert clause == (
        "subscribers '/rviz0', '/rviz1', '/rviz2' and 17 more request TRANSIENT_LOCAL, this node "
        "offers VOLATILE"
    )
    best_effort = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    one = SimpleNamespace(node_namespace="/", node_name="a" * 500, qos_profile=best_effort)
    (clause,) = endpoints.publisher_mismatches([one], RELIABLE)
    assert len(clause) < 200, "a name from outside is cut"


def test_an_encoding_of_any_length_is_cut():
    pair = health()
    pair.inputs["x"].encoding = "x" * 5000
    assert len(input_status(pair, [], DiagnosticsConfig()).values["x_encoding"]) == 80


@pytest.mark.parametrize(
    ("skew_ms", "text"),
    [
        (37_000, "run +37.0 s ahead of RGB's, judged by arrival, as TAI does UTC"),
        (-3_600_000, "run -3600.0 s ahead"),
        (900, "nearest X was"),
        (-1.7e12, "one driver does not stamp with the time of day"),
    ],
)
def test_two_clocks_are_told_by_arrival(skew_ms, text):
    pair, counts = health(), AlignCounts()
    counts.dropped["too_far"], counts.last_miss_ns = 9, 10**9
    now_ns = time.monotonic_ns()
    for name, delay_ms in (("rgb", 0), ("x", -skew_ms)):
        pair.inputs[name].on_message(now_ns, "mono8", round(delay_ms * 1e6))
    status = sync_status(pair, counts, inputs_ok=True, max_dt_ms=50)
    assert (status.level, text in status.message) == (ERROR, True), status.message
    if 1000 < abs(skew_ms) < 1e9:
        assert f"set thermal.x_offset_ms: {skew_ms}" in status.message


def test_the_advised_offset_is_taken(rig):
    one = rig(**SIZE, **{"thermal.x_offset_ms": 37_000.0})
    masks = one.hear("thermal/mask")
    stamp = next(STAMPS)
    x = x_image(stamp)
    x.header.stamp.sec += 37
    one.say("thermal/x/image", x)
    one.say("thermal/rgb/image", rgb_image(stamp))
    one.until(lambda: masks)


def test_a_node_that_is_behind_does_not_blame_others():
    pair = health()
    pair.on_behind(0.1)
    assert input_status(pair, [], DiagnosticsConfig()).level == OK
    pair.on_behind(0.9)
    status = input_status(pair, [], DiagnosticsConfig())
    assert (status.level, status.message) == (
        WARN,
        "this node is 0.9 s behind with its messages",
    )
    assert input_status(pair, [], DiagnosticsConfig()).level == OK


def test_names_carry_the_namespace_and_hardware_the_pair(rig):
    one = rig(**SIZE)
    names = {status.name: status.hardware_id for status in one.diagnostics[-1].status}
    prefix = one.namespace.lstrip("/")
    assert names[f"{prefix}/segrgbx: thermal input"] == "thermal"
    assert names[f"{prefix}/segrgbx: inference"] == "cpu"
