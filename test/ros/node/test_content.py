"""Sensors that send messages without anything in them: named and counted, nothing else lost."""

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from node_rig import (  # noqa: E402
    HEIGHT,
    WARM,
    WIDTH,
    ask,
    depth_plane,
    header,
    rgb_image,
    x_image,
)
from sensor_msgs.msg import Image  # noqa: E402

from segrgbx_ros.messages.images import fill_image  # noqa: E402
from segrgbx_ros.node.health.reasons import OK, WARN  # noqa: E402

SIZE = {"model.input_height": 64, "model.input_width": 64}
ROWS = (24, 30)


def plane(value, dtype=np.float32):
    return np.full(ROWS, value, dtype)


@pytest.mark.parametrize(
    ("pair", "x", "encoding", "cause"),
    [
        ("depth", plane(np.nan), "32FC1", "every pixel is NaN"),
        ("depth", plane(np.inf), "32FC1", "every pixel is +inf"),
        ("depth", plane(0, np.uint16), "16UC1", "every pixel is 0"),
        ("depth", depth_plane() * 1000, "32FC1", "millimetres? 32FC1 holds metres"),
        ("depth", depth_plane().astype(np.uint16), "16UC1", "metres in 16UC1? set sensor.depth"),
        ("depth", depth_plane() / 4, "32FC1", "resolves no depth nearer than"),
        ("thermal", plane(29315, np.uint16), "16UC1", "flat"),
        ("thermal", plane(np.nan), "32FC1", "every pixel is NaN or infinite"),
        ("polarization", plane(0, np.uint8), "mono8", "no light, the median is 0"),
    ],
)
def test_an_x_without_content_is_named_and_counted(rig, pair, x, encoding, cause):
    one = rig(pairs=[pair], **SIZE)
    masks = one.hear(f"{pair}/mask")
    for number in range(2):
        ask(one, pair, x=x_image(0, x, encoding))
        wanted = str(number + 1)
        one.until(lambda wanted=wanted: values(one, pair).get("x_empty") == wanted)
    one.until(lambda: one.says(f"{pair} input", cause, WARN))
    assert one.report()["inference"][0] == OK, "the device does what it should"
    assert not masks
    good = {
        "depth": (depth_plane(), "32FC1"),
        "thermal": (WARM, "16UC1"),
        "polarization": ((WARM // 40).astype(np.uint8), "mono8"),
    }
    ask(one, pair, x=x_image(0, *good[pair]))
    one.until(lambda: masks)
    one.until(lambda: cause not in one.report()[f"{pair} input"][1])
    assert values(one, pair)["x_empty"] == "2"


def values(one, pair):
    return one.report().get(f"{pair} input", (0, "", {}))[2]


def test_every_pair_has_one_outcome_where_some_x_are_empty(rig):
    one = rig(**SIZE)
    flat = plane(29315, np.uint16)
    for number in range(12):
        ask(one, x=x_image(0, flat if number % 3 else WARM, "16UC1"))
        one.pump(0.1)

    def balanced():
        inference, sync = one.report()["inference"][2], one.report()["thermal sync"][2]
        ends = ("answered_total", "replaced_total", "cleared_total", "failed_x_empty")
        return int(sync["pairs"]) == 12 == sum(int(inference.get(name, 0)) for name in ends)

    one.until(balanced)
    assert values(one, "thermal")["x_empty"] == one.report()["inference"][2]["failed_x_empty"]


def test_rgb_goes_on_alone_while_x_carries_nothing(rig):
    one = rig(**SIZE, **{"sync.on_missing_x": "rgb_only"})
    masks = one.hear("thermal/mask")
    ask(one, x=x_image(0, plane(29315, np.uint16), "16UC1"))
    one.until(lambda: masks)
    one.until(lambda: one.says("thermal input", "flat", WARN))


@pytest.mark.parametrize(
    ("pixels", "encoding", "problem"),
    [
        (np.full((HEIGHT, WIDTH, 3), 2, np.uint8), "rgb8", "one colour all over"),
        (np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) % 6, "rgb8", "nearly black"),
        (np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) % 4096, "rgb16", "12 bits in"),
    ],
)
def test_an_rgb_image_that_shows_little_is_named(rig, pixels, encoding, problem):
    one = rig(**SIZE)
    masks = one.hear("thermal/mask")
    dtype = np.uint16 if encoding == "rgb16" else np.uint8
    ask(one, rgb=header(fill_image(Image(), pixels.astype(dtype), encoding)))
    one.until(lambda: masks)
    one.until(lambda: one.says("thermal input", problem, WARN))
    for _ in range(10):
        ask(one, rgb=rgb_image(0))
        one.pump(0.1)
    one.until(lambda: problem not in one.report()["thermal input"][1])
