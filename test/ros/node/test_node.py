"""The node on real DDS: answers, lifecycle, refusals, diagnostics, services."""

import itertools
import json

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from lifecycle_msgs.srv import ChangeState  # noqa: E402
from node_rig import (  # noqa: E402
    BEST_EFFORT,
    HEIGHT,
    LATCHED,
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
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from segrgbx_core.base.images import encode_image  # noqa: E402
from segrgbx_core.labels import overlay  # noqa: E402
from segrgbx_ros.messages.images import image_array  # noqa: E402
from segrgbx_ros.node.health.streams import Patience  # noqa: E402
from segrgbx_ros.node.node import FAILURE, SUCCESS  # noqa: E402

# ---- answers ----


def test_mask_and_confidence_lie_on_the_rgb_grid_with_its_header(rig):
    one = rig()
    heard = {
        "best effort": one.hear("thermal/mask", qos=BEST_EFFORT),
        "reliable": one.hear("thermal/mask"),
        "confidence": one.hear("thermal/confidence"),
    }
    one.pump(0.3)
    rgb = ask(one)
    one.until(lambda: all(heard.values()))
    for name, (message, *_) in heard.items():
        assert message.header == rgb.header, name
        assert (message.height, message.width, message.step) == (HEIGHT, WIDTH, WIDTH)
        assert message.encoding == "mono8"
        assert len(message.data) == HEIGHT * WIDTH
    ids = set(np.unique(image_array(heard["reliable"][0])))
    assert ids <= {*range(71), 255}


def test_pictures_are_drawn_only_while_somebody_looks(rig, monkeypatch):
    drawn = []
    blend = overlay.blend
    monkeypatch.setattr(overlay, "blend", lambda *args: drawn.append(1) or blend(*args))
    one = rig()
    masks = one.hear("thermal/mask")
    ask(one)
    one.until(lambda: len(masks) == 1)
    one.pump(0.2)
    assert not drawn
    pictures = {
        name: one.hear(f"thermal/{name}") for name in ("overlay", "mask_color", "x/preview")
    }
    one.pump(0.3)
    rgb = ask(one)
    one.until(lambda: all(pictures.values()))
    for message, *_ in pictures.values():
        assert (message.encoding, message.header) == ("rgb8", rgb.header)
        assert message.step == 3 * message.width
    assert (pictures["overlay"][0].height, pictures["overlay"][0].width) == (HEIGHT, WIDTH)
    one.node.set_parameters([Parameter("output.publish_overlay", value=False)])
    seen = len(drawn)
    ask(one)
    one.until(lambda: len(masks) == 3)
    one.pump(0.2)
    assert len(drawn) == seen


def test_labels_are_latched_for_whoever_comes_late(rig):
    one = rig()
    (heard,) = [one.hear("thermal/label_map", String, LATCHED)]
    one.until(lambda: heard)
    described = json.loads(heard[0].data)
    assert (described["label_space"], described["unlabeled_id"]) == ("unified", 255)
    assert [entry["id"] for entry in described["classes"]] == list(range(71))
    assert all(len(entry["rgb"]) == 3 and entry["name"] for entry in described["classes"])
    assert described["hash"]


def test_compressed_inputs_arrive_under_the_remapped_base_name(rig):
    one = rig(
        remaps=["thermal/rgb/image:=/camera/image", "thermal/mask:=/seen"],
        **{"thermal.rgb_transport": "compressed", "thermal.x_transport": "compressed"},
    )
    masks = one.hear("/seen")
    rgb = CompressedImage(
        format="jpeg", data=encode_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), ".jpg")
    )
    x = CompressedImage(format="16UC1; png compressed ", data=encode_image(WARM))
    header(rgb, 1)
    header(x, 1)
    one.say("thermal/x/image/compressed", x)
    one.say("/camera/image/compressed", rgb)
    one.until(lambda: masks)
    assert masks[0].header == rgb.header
    one.until(lambda: "png" in one.report()["thermal input"][2]["x_encoding"])


@pytest.mark.parametrize("topic", ["thermal/rgb/image", "thermal/rgb/image/compressed"])
def test_compressed_images_are_taken_where_nothing_else_comes(rig, topic, capfd):
    """Under image_transport's name or without its suffix, from a publisher that starts late."""
    one = rig()
    masks = one.hear("thermal/mask")
    one.pump(0.5)
    picture = encode_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), ".jpg")
    stamps = itertools.count(1)
    camera = one.stranger().create_publisher(CompressedImage, topic, RELIABLE)

    def send():
        stamp = next(stamps)
        camera.publish(header(CompressedImage(format="jpeg", data=picture), stamp))
        one.say("thermal/x/image", x_image(stamp))
        one.pump(0.1)
        return len(masks) > 3

    one.until(send)
    one.until(lambda: "rgb/image arrives on" in capfd.readouterr().err)


def test_a_driver_may_return_by_another_transport(rig):
    one = rig(patience=Patience(quiet_s=0.4))
    masks = one.hear("thermal/mask")
    picture = encode_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), ".jpg")
    stranger = one.stranger()
    camera = stranger.create_publisher(CompressedImage, "thermal/rgb/image/compressed", RELIABLE)

    def send_compressed():
        stamp = next(STAMPS)
        camera.publish(header(CompressedImage(format="jpeg", data=picture), stamp))
        one.say("thermal/x/image", x_image(stamp))
        one.pump(0.1)
        return one.report()["thermal input"][2]["rgb_topic"].endswith("/compressed") and masks

    one.until(send_compressed)
    stranger.destroy_publisher(camera)
    nobody = "thermal/rgb/image' has no publisher; nor has"
    one.until(lambda: one.says("thermal input", nobody, 2))
    before = len(masks)

    def send_raw():
        ask(one)
        one.pump(0.1)
        return len(masks) > before

    one.until(send_raw)
    one.until(lambda: not one.report()["thermal input"][2]["rgb_topic"].endswith("/compressed"))


def test_an_image_that_comes_raw_and_compressed_is_answered_once(rig):
    one = rig()
    masks = one.hear("thermal/mask")
    picture = encode_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), ".jpg")
    for stamp in range(1, 8):
        packed = header(CompressedImage(format="jpeg", data=picture), stamp)
        one.say("thermal/rgb/image/compressed", packed)
        one.say("thermal/rgb/image", rgb_image(stamp))
        one.say("thermal/x/image", x_image(stamp))
        one.pump(0.2)
    one.until(lambda: len(masks) >= 5)
    stamps = [mask.header.stamp.nanosec + 10**9 * mask.header.stamp.sec for mask in masks]
    assert len(set(stamps)) == len(stamps)
    one.until(lambda: one.report()["thermal input"][2]["rgb_topic"].endswith("rgb/image"))


# ---- what can be wrong with messages ----


@pytest.mark.parametrize(
    ("modality", "rgb", "x", "reason"),
    [
        ("thermal", None, ("8UC3", np.zeros((4, 4, 3), np.uint8)), "encoding '8UC3' is not supp"),
        ("thermal", "empty", None, "size 0x0 px; taken are"),
        ("thermal", "short", None, "needs 9216"),
        ("depth", None, ("mono8", np.zeros((4, 4), np.uint8)), "use 16UC1, mono16, 32FC1"),
    ],
)
def test_bad_messages_are_named_counted_and_survived(rig, capfd, modality, rgb, x, reason):
    one = rig(pairs=[modality])
    masks = one.hear(f"{modality}/mask")
    good_x = {"x": x_image(0, (WARM / 1000).astype(np.float32), "32FC1")}
    bad_rgb = rgb_image(0)
    if rgb == "empty":
        bad_rgb = Image(encoding="rgb8")
    elif rgb == "short":
        bad_rgb.data = bad_rgb.data[:100]
    bad_x = good_x["x"] if x is None else x_image(0, x[1], x[0])
    for _ in range(3):
        ask(one, modality, bad_rgb, bad_x)
        one.pump(0.15)
    one.until(lambda: one.says(f"{modality} input", reason, 2))
    one.until(lambda: one.report()[f"{modality} input"][2]["bad_message"] == "3")
    assert not masks
    ask(one, modality, **good_x)
    one.until(lambda: masks)
    one.until(lambda: one.report()[f"{modality} input"][0] < 2)
    warnings = [line for line in capfd.readouterr().err.splitlines() if "[WARN]" in line]
    assert len([line for line in warnings if reason in line]) == 1, "throttled"


def test_unset_stamps_are_reported(rig):
    one = rig()
    unstamped = rgb_image(0)
    unstamped.header.stamp.sec = unstamped.header.stamp.nanosec = 0
    one.say("thermal/rgb/image", unstamped)
    one.until(lambda: one.says("thermal input", "stamp is zero", 2))


def test_depth_with_gaps_and_another_resolution_are_fine(rig):
    one = rig(pairs=["depth"])
    masks = one.hear("depth/mask")
    depth = depth_plane(30, 40)
    depth[5:, ::2] = np.nan
    ask(one, "depth", x=x_image(0, depth, "32FC1"))
    one.until(lambda: masks)
    assert (masks[0].height, masks[0].width) == (HEIGHT, WIDTH)


def test_missing_x_is_explained(rig, capfd):
    one = rig(patience=Patience(explain_s=0.2))
    for _ in range(3):
        one.say("thermal/rgb/image", rgb_image(next(STAMPS)))
        one.pump(0.1)
    nobody = "thermal/x/image' has no publisher; nor has '{0}/thermal/x/image/compressed'; check"
    one.until(lambda: one.says("thermal input", nobody.format(one.namespace), 2))
    one.until(lambda: one.says("thermal sync", "an input is silent", 2))
    one.until(lambda: one.report()["thermal sync"][2]["dropped_no_x"] != "0")
    one.until(lambda: "waiting: " in capfd.readouterr().err)


def test_a_publisher_of_another_transport_is_pointed_at(rig):
    one = rig(**{"thermal.x_transport": "raw"})
    one.tester.create_publisher(CompressedImage, "thermal/x/image/compressed", 5)
    one.until(lambda: one.says("thermal input", "image/compressed' has one: set the transp", 2))


def test_pairs_out_of_reach_are_explained(rig):
    one = rig()
    for shift in range(3):
        one.say("thermal/x/image", x_image(5000 + 10 * shift))
        one.say("thermal/rgb/image", rgb_image(5003 + 10 * shift))
        one.pump(0.1)
    one.until(lambda: one.says("thermal sync", "limit 50 ms; see thermal.x_offset_ms", 2))
    assert int(one.report()["thermal sync"][2]["dropped_too_far"]) >= 1


def test_rgb_goes_alone_where_the_policy_says_so(rig):
    one = rig(**{"sync.on_missing_x": "rgb_only"})
    masks = one.hear("thermal/mask")
    one.pump(0.2)
    one.say("thermal/rgb/image", rgb_image(next(STAMPS)))
    one.until(lambda: masks)
    one.until(lambda: one.report()["thermal sync"][2]["rgb_only"] == "1")


def test_incompatible_qos_names_topic_and_policy(rig):
    one = rig(**{"qos.input_reliability": "reliable"})
    one.tester.create_publisher(Image, "thermal/x/image", BEST_EFFORT)
    one.until(lambda: one.says("thermal input", "requests RELIABLE", 2))
    assert f"'{one.namespace}/thermal/x/image'" in one.report()["thermal input"][1]
    one.hear("thermal/mask", qos=LATCHED)
    name = f"{one.namespace}/thermal/mask output"
    one.until(lambda: one.says(name, "requests TRANSIENT_LOCAL", 2))


def test_an_exception_in_the_model_is_survived(rig, monkeypatch):
    one = rig()
    masks = one.hear("thermal/mask")
    segmenter = one.node.runtime.segmenter
    predict = segmenter.predict
    monkeypatch.setattr(segmenter, "predict", lambda *_: 1 // 0)
    ask(one)
    one.until(lambda: one.says("thermal input", "ZeroDivisionError", 2))
    monkeypatch.setattr(segmenter, "predict", predict)
    ask(one)
    one.until(lambda: masks)
    assert one.report()["inference"][2]["failed_exception"] == "1"


# ---- lifecycle ----


def test_transitions_of_a_managed_node(rig):
    one = rig(wait=False, autostart=False)
    assert one.state() == "unconfigured"
    masks = one.hear("thermal/mask")
    mask = f"{one.namespace}/thermal/mask"
    rgb = f"{one.namespace}/thermal/rgb/image"

    def change(number):
        return one.call(ChangeState, "segrgbx/change_state", transition=_transition(number))

    for _ in range(2):
        assert change(1).success
        assert one.state() == "inactive"
        one.until(lambda: one.says("inference", "inactive", 0))
        assert one.tester.count_subscribers(rgb) == 0
        for _ in range(2):
            assert change(3).success
            one.until(lambda: one.tester.count_subscribers(rgb) == 1)
            assert one.tester.count_publishers(mask) == 1
            heard = len(masks)
            one.pump(0.2)
            ask(one)
            one.until(lambda seen=heard: len(masks) == seen + 1)
            assert change(4).success
            one.until(lambda: one.tester.count_subscribers(rgb) == 0)
        assert change(2).success
        assert one.state() == "unconfigured"
        one.until(lambda: one.tester.count_publishers(mask) == 0)
    assert change(5).success
    assert one.state() == "finalized"


def _transition(number):
    message = ChangeState.Request().transition
    message.id = number
    return message


@pytest.mark.parametrize("state", ["unconfigured", "inactive", "active"])
def test_shutdown_from_every_state(rig, state):
    one = rig(wait=False, autostart=False)
    if state != "unconfigured":
        one.node.trigger_configure()
    if state == "active":
        one.node.trigger_activate()
    assert one.node.trigger_shutdown() == SUCCESS
    assert one.tester.count_publishers(f"{one.namespace}/thermal/mask") == 0


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"sync.max_dt": 3.0}, "unknown option 'sync.max_dt' (did you mean 'max_dt_ms'?)"),
        ({"thermal.modalty": "depth"}, "(did you mean 'modality'?)"),
        ({"sync.max_dt_ms": -1.0}, "sync.max_dt_ms: -1.0 ms is outside [0, 1000] ms"),
        ({"batch.max_size": "many"}, "batch.max_size: "),
        ({"pairs": ["front"]}, "option 'front.modality' is required"),
        ({"model.checkpoint": ""}, "model.checkpoint: is empty"),
        ({"model.checkpoint": "/nowhere/x.safetensors"}, "/nowhere/x.safetensors"),
        ({"model.checkpoint": __file__}, "test_node.py"),
        ({"model.device": "cuda:77"}, "'cuda:77' cannot be used"),
        ({"label.space": "cityscapes"}, "cityscapes"),
    ],
)
def test_configure_fails_with_one_clear_sentence(rig, capfd, parameters, complaint):
    one = rig(wait=False, autostart=False, **parameters)
    for _ in range(2):
        assert one.node.trigger_configure() == FAILURE
        assert one.state() == "unconfigured"
    fatal = [line for line in capfd.readouterr().err.splitlines() if "[FATAL]" in line]
    assert len(fatal) == 2
    assert complaint in fatal[0]
    assert one.tester.count_publishers(f"{one.namespace}/thermal/mask") == 0


def test_an_unexpected_exception_in_a_transition_is_logged(rig, capfd, monkeypatch):
    one = rig(wait=False, autostart=False)
    monkeypatch.setattr("segrgbx_ros.node.node.loaded_segmenter", lambda *_: 1 // 0)
    assert one.node.trigger_configure() != SUCCESS
    assert one.state() == "unconfigured"
    assert "ZeroDivisionError" in capfd.readouterr().err
    monkeypatch.undo()
    assert one.node.trigger_configure() == SUCCESS


def test_a_dry_run_needs_no_checkpoint_and_says_so(rig):
    one = rig(**{"model.checkpoint": "", "model.allow_random_weights": True})
    one.until(lambda: one.says("model", "untrained weights", 1))
    masks = one.hear("thermal/mask")
    ask(one)
    one.until(lambda: masks)


def test_autostart_gives_up_when_it_cannot_be_configured(rig):
    one = rig(wait=False, **{"model.checkpoint": "/nowhere.safetensors"})
    one.until(lambda: one.node.exit_code == 1)


# ---- parameters and services ----


def test_dynamic_parameters_change_and_others_do_not(rig):
    one = rig()
    results = one.node.set_parameters(
        [
            Parameter("sync.max_dt_ms", value=10.0),
            Parameter("sync.max_dt_ms", value=-10.0),
            Parameter("sync.on_missing_x", value="pray"),
            Parameter("batch.max_size", value=2),
        ]
    )
    assert [result.successful for result in results] == [True, False, False, False]
    assert "one of drop, rgb_only, hold_last" in results[2].reason
    assert one.node.runtime._pipeline.config.sync.max_dt_ms == 10.0


def test_enable_switches_inference_and_keeps_the_model(rig):
    one = rig()
    masks = one.hear("thermal/mask")
    assert one.call(SetBool, "segrgbx/enable", data=False).success
    one.until(lambda: one.says("inference", "switched off", 1))
    ask(one)
    one.pump(0.3)
    assert not masks
    assert one.call(SetBool, "segrgbx/enable", data=True).success
    ask(one)
    one.until(lambda: masks)


def test_reset_and_reload(rig, checkpoint):
    one = rig()
    assert one.call(Trigger, "segrgbx/reset").success
    answer = one.call(Trigger, "segrgbx/reload_model")
    assert (answer.success, answer.message) == (False, "deactivate the node first")
    one.node.trigger_deactivate()
    before = one.node.runtime.segmenter
    answer = one.call(Trigger, "segrgbx/reload_model")
    assert (answer.success, answer.message) == (True, "loaded tiny.safetensors")
    assert one.node.runtime.segmenter is not before
    one.node.trigger_activate()
    masks = one.hear("thermal/mask")
    one.pump(0.2)
    ask(one)
    one.until(lambda: masks)


def test_diagnostics_tell_model_device_and_speed(rig):
    one = rig()
    masks = one.hear("thermal/mask")
    for _ in range(4):
        ask(one)
        one.until(lambda: masks)
    one.until(lambda: one.says("model", "untrained weights", 1))
    one.until(lambda: one.says("device", "cpu", 0))
    one.until(lambda: one.report()["thermal sync"][2].get("pairs") == "4")
    assert one.diagnostics[-1].status[0].hardware_id == "thermal"
    seen = [
        {pair.key: pair.value for pair in status.values}
        for report in one.diagnostics
        for status in report.status
        if status.name.endswith("segrgbx: inference")
    ]
    assert any("latency_p95_ms" in values and "model_ms" in values for values in seen)
