"""Outputs and inputs that only some vehicles need, through the live node."""

import json

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from node_rig import (  # noqa: E402
    HEIGHT,
    LATCHED,
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
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2  # noqa: E402
from std_msgs.msg import Float64, String  # noqa: E402

from segrgbx_ros.messages.images import compressed_array, fill_image, image_array  # noqa: E402

SIZE = {"model.input_height": 64, "model.input_width": 64}


def info(width=WIDTH, height=HEIGHT):
    k = [60.0, 0, width / 2, 0, 60.0, height / 2, 0, 0, 1]
    return CameraInfo(width=width, height=height, k=[float(value) for value in k])


def test_a_depth_pair_gives_a_labelled_cloud(rig):
    one = rig(pairs=["depth"], **SIZE)
    masks, clouds = one.hear("depth/mask"), one.hear("depth/points", PointCloud2)
    one.say("depth/rgb/camera_info", info())
    one.pump(0.3)
    depth = depth_plane(24, 32)
    rgb = ask(one, "depth", x=x_image(0, depth, "32FC1"))
    one.until(lambda: masks and clouds)
    assert clouds[0].header == rgb.header
    assert (clouds[0].height, clouds[0].width) == (HEIGHT, WIDTH)
    assert [field.name for field in clouds[0].fields] == [
        "x",
        "y",
        "z",
        "rgb",
        "label",
        "confidence",
    ]
    labels = np.frombuffer(clouds[0].data, np.uint8).reshape(HEIGHT, WIDTH, -1)[..., 16]
    assert (labels == image_array(masks[0])).all()


def test_a_cloud_that_lacks_its_calibration_says_so(rig):
    one = rig(pairs=["depth"], **SIZE)
    depth = depth_plane(24, 32)

    def warned():
        ask(one, "depth", x=x_image(0, depth, "32FC1"))
        one.pump(0.05)
        level, text, _ = one.report().get("depth input", (0, "", {}))
        return level == 1 and "rgb/camera_info' has no publisher; check the remapping" in text

    masks = one.hear("depth/mask")
    one.until(lambda: not warned() and masks)
    clouds = one.hear("depth/points", PointCloud2)
    one.until(warned)
    one.say("depth/rgb/camera_info", info())
    one.until(lambda: not warned() and clouds)


def test_small_images_and_their_calibration(rig):
    one = rig(**SIZE, **{"output.small_width": 16, "output.mask_encoding": "mono16"})
    heard = [
        one.hear("thermal/mask_small"),
        one.hear("thermal/confidence_small"),
        one.hear("thermal/camera_info", CameraInfo),
        one.hear("thermal/overlay/compressed", CompressedImage),
    ]
    one.say("thermal/rgb/camera_info", info())
    one.pump(0.3)
    rgb = ask(one)
    one.until(lambda: all(heard))
    assert all(messages[0].header == rgb.header for messages in heard)
    mask, confidence, scaled, picture = (messages[0] for messages in heard)
    assert (mask.width, mask.height, mask.encoding) == (16, 12, "mono16")
    assert (confidence.width, confidence.encoding) == (16, "mono8")
    assert (scaled.width, scaled.height, scaled.k[0]) == (16, 12, 15.0)
    assert compressed_array(picture).shape == (HEIGHT, WIDTH, 3)


def test_an_override_of_quality_of_service_holds_for_its_topic_alone(rig):
    given = {"/deep/mask.publisher.depth": 7, "/deep/labels.publisher.depth": 3}
    one = rig(
        remaps=["thermal/mask:=/deep/mask", "thermal/label_map:=/deep/labels"],
        **SIZE,
        **{f"qos_overrides.{name}": value for name, value in given.items()},
    )
    outputs = one.node.runtime._outputs["thermal"]
    made = {**outputs._publishers, **outputs._latched}
    depths = {name: publisher.qos_profile.depth for name, publisher in made.items()}
    assert depths.pop("mask") == 7
    assert depths.pop("label_map") == 3
    depths.pop("label_info", None)
    assert set(depths.values()) == {2}


def test_the_unlabeled_id_is_announced_and_used(rig):
    one = rig(**SIZE, **{"label.unlabeled_id": 200, "label.min_confidence": 1.0})
    masks, maps = one.hear("thermal/mask"), one.hear("thermal/label_map", String, LATCHED)
    one.pump(0.2)
    ask(one)
    one.until(lambda: masks and maps)
    assert set(np.unique(image_array(masks[0]))) == {200}
    assert json.loads(maps[0].data)["unlabeled_id"] == 200


def test_an_unlabeled_id_that_is_a_class_is_refused(rig, capfd):
    one = rig(wait=False, autostart=False, **{"label.unlabeled_id": 0})
    one.node.trigger_configure()
    assert "label.unlabeled_id: 0 is the id of '" in capfd.readouterr().err


def test_the_rate_is_limited_while_the_node_runs(rig):
    one = rig(**SIZE)
    masks = one.hear("thermal/mask")
    assert one.node.set_parameters([Parameter("rate.max_hz", value=2.0)])[0].successful
    one.pump(0.2)
    for _ in range(10):  # stamps are a tenth of a second apart
        ask(one)
        one.pump(0.06)
    one.until(lambda: one.report()["thermal sync"][2]["rate_limited"] == "8")
    one.until(lambda: len(masks) >= 2)
    one.pump(0.3)
    assert len(masks) == 2


def test_durations_are_published_on_demand(rig):
    one = rig(**SIZE)
    topic = f"{one.namespace}/segrgbx/debug/total_ms"
    assert one.tester.count_publishers(topic) == 0
    one.node.set_parameters([Parameter("output.publish_debug", value=True)])
    stages = ("total", "inference", "sync_dt")
    heard = [one.hear(f"segrgbx/debug/{stage}_ms", Float64) for stage in stages]
    one.pump(0.3)
    ask(one)
    one.until(lambda: all(heard))
    assert 0 < heard[1][0].data <= heard[0][0].data
    one.node.set_parameters([Parameter("output.publish_debug", value=False)])
    one.until(lambda: one.tester.count_publishers(topic) == 0)


def test_x_is_registered_onto_the_rgb_grid(rig):
    one = rig(
        pairs=["depth"],
        **SIZE,
        **{
            "depth.registration": "camera_info",
            "depth.extrinsics": [0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        },
    )
    masks, previews = one.hear("depth/mask"), one.hear("depth/x/preview")
    one.pump(0.2)
    depth = depth_plane(HEIGHT, WIDTH)
    ask(one, "depth", x=x_image(0, depth, "32FC1"))
    one.until(lambda: one.says("depth input", "registration needs topic 'depth/rgb/camera_in", 2))
    one.say("depth/rgb/camera_info", info())
    one.say("depth/x/camera_info", info())
    one.pump(0.2)
    ask(one, "depth", x=x_image(0, depth, "32FC1"))
    one.until(lambda: masks and previews)
    preview = image_array(previews[0])
    assert preview.shape == (HEIGHT, WIDTH, 3)
    assert (preview[:, :3] == 0).all(), "3 px of disparity, where X sees nothing"
    assert (preview[:, 3:] > 0).all()


def test_one_topic_per_polarizer_angle(rig):
    one = rig(
        pairs=["polarization"],
        **SIZE,
        **{"polarization.x_source": "angles", "sensor.polarization.layout": "channels4"},
    )
    masks = one.hear("polarization/mask")
    stamp = next(STAMPS)
    for angle in (0, 45, 90, 135):
        image = fill_image(Image(), (WARM // 200 + angle // 3).astype(np.uint8), "mono8")
        one.say(f"polarization/x/i{angle}", header(image, stamp))
    one.say("polarization/rgb/image", rgb_image(stamp))
    one.until(lambda: masks)


def test_one_view_of_many_in_a_light_field(rig):
    one = rig(
        pairs=["light_field"],
        **SIZE,
        **{f"sensor.light_field.{name}": value for name, value in TILES.items()},
    )
    masks, previews = one.hear("light_field/mask"), one.hear("light_field/x/preview")
    one.pump(0.2)
    tiles = np.zeros((48, 90, 3), np.uint8)
    tiles[24:, 30:45], tiles[24:, 45:60] = 77, 99
    ask(one, "light_field", x=x_image(0, tiles, "rgb8"))
    one.until(lambda: masks and previews)
    preview = image_array(previews[0])
    assert preview.shape == (24, 30, 3)
    assert (preview[:, :15] == 77).all()
    assert (preview[:, 15:] == 99).all()


TILES = {"layout": "tiled", "rows": 2, "cols": 3, "view_index": 4}


def test_a_thermal_camera_that_calibrates_itself_is_named(rig):
    one = rig(**SIZE)
    for _ in range(6):
        ask(one)
        one.pump(0.03)
    one.until(lambda: any("repeated one picture" in text for text in warnings(one)))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        ("lost_events", "5 events found no room; raise sensor.event.max_buffer_mb"),
        ("cut_events", "5 events beyond what one message may hold; send shorter packets"),
    ],
)
def test_events_that_are_given_up_are_warned_about(rig, count, text):
    one = rig(**SIZE)
    masks = one.hear("thermal/mask")
    ask(one)
    one.until(lambda: masks)
    setattr(one.node.runtime._pipeline["thermal"].counts, count, 5)
    one.until(lambda: any(text in warning for warning in warnings(one)))
    one.until(lambda: one.report()["thermal sync"][2][count] == "5")
    assert sum(text in warning for warning in warnings(one)) == 1


def warnings(one):
    return [
        status.message
        for report in one.diagnostics
        for status in report.status
        if status.level == b"\x01"
    ]
