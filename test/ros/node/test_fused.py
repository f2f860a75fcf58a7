"""One fused mask from pairs that share an RGB topic, over real DDS: whole, late, dead, too few."""

import itertools

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from node_rig import STAMPS, header, rgb_image, x_image  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from segrgbx_ros.messages.images import fill_image, image_array  # noqa: E402
from segrgbx_ros.node.health.reasons import ERROR, FUSED_OUTCOMES, WARN  # noqa: E402

PAIRS = ["thermal", "depth"]
SIZE = {"model.input_height": 64, "model.input_width": 64}
REMAPS = [f"{pair}/rgb/image:=camera" for pair in PAIRS]
_NOISE = itertools.count()


def x_of(pair, is_noise=False):
    """No two are alike, as those of a real sensor."""
    rng = np.random.default_rng(next(_NOISE))
    x = rng.random((24, 30) if is_noise else (4, 5))
    x = cv2.resize(x, (30, 24))
    if pair == "thermal":
        return (28000 + 720 * x).astype(np.uint16), "16UC1"
    return (1 + 39 * x).astype(np.float32), "32FC1"


def send(one, **x_by_pair):
    """Sends X of the pairs named, then RGB; gives RGB."""
    stamp = next(STAMPS)
    for pair, x in x_by_pair.items():
        one.say(f"{pair}/x/image", x_image(stamp, *x))
    rgb = rgb_image(stamp)
    one.say("camera", rgb)
    return rgb


def fused_rig(rig, **parameters):
    one = rig(
        remaps=REMAPS,
        pairs=PAIRS,
        **{"fuse.front": PAIRS, "sync.wait_ms": 500.0, **SIZE, **parameters},
    )
    one.masks = {name: one.hear(f"{name}/mask") for name in (*PAIRS, "front")}
    one.pump(0.3)
    return one


def values(one):
    return one.report().get("front fused", (0, "", {}))[2]


def adds_up(one):
    """True once every frame has one outcome."""
    found = values(one)
    outcomes = (*FUSED_OUTCOMES, "rate_limited", "waiting")
    return int(found["frames"]) == sum(int(found[name]) for name in outcomes)


def test_a_fused_mask_has_rgbs_header_and_its_members_go_on(rig):
    one = fused_rig(rig)
    confidence = one.hear("front/confidence")
    one.pump(0.2)
    x = {pair: x_of(pair) for pair in PAIRS}
    rgb = send(one, **x)
    one.until(lambda: all(one.masks.values()) and confidence)
    assert all(heard[0].header == rgb.header for heard in one.masks.values())
    assert image_array(one.masks["front"][0]).shape == image_array(rgb).shape[:2]
    one.until(lambda: values(one).get("published") == "1" and adds_up(one))


def test_a_late_member_holds_the_mask_no_longer_than_the_wait(rig):
    one = fused_rig(rig)
    stamp = next(STAMPS)
    one.say("thermal/x/image", x_image(stamp, *x_of("thermal")))
    one.say("depth/x/image", x_image(stamp - 5, *x_of("depth")))  # too old to match
    one.say("camera", rgb_image(stamp))
    one.until(lambda: one.masks["front"] and one.masks["thermal"])
    one.say("depth/x/image", x_image(stamp, *x_of("depth")))
    one.pump(0.3)
    assert not one.masks["depth"]
    assert len(one.masks["front"]) == 1
    one.until(lambda: values(one).get("depth_late_or_dropped") == "1" and adds_up(one))


@pytest.mark.parametrize("fault", ["empty", "frozen", "noise"])
def test_a_dead_member_falls_out_and_is_named(rig, fault):
    one = fused_rig(rig)
    stuck = x_of("depth")
    dead = (np.zeros((24, 30), np.float32), "32FC1") if fault == "empty" else stuck
    for _ in range(6):
        number = len(one.masks["front"])
        noise = x_of("depth", is_noise=True)
        send(one, thermal=x_of("thermal"), depth=noise if fault == "noise" else dead)
        one.until(lambda number=number: len(one.masks["front"]) > number)
    one.until(lambda: int(values(one).get(f"depth_{fault}", 0)) >= 3 and adds_up(one))
    reports = [
        (status.level[0], status.message)
        for report in one.diagnostics
        for status in report.status
        if status.name.endswith("front fused")
    ]
    assert any(level == WARN and f"depth ({fault}" in text for level, text in reports)
    number = len(one.masks["front"])
    send(one, thermal=x_of("thermal"), depth=x_of("depth"))
    one.until(lambda: len(one.masks["front"]) > number)
    assert len(one.masks["thermal"]) == len(one.masks["front"])


def test_too_few_members_give_no_mask_and_are_counted(rig):
    one = fused_rig(rig, **{"fuse.min_members": 2})
    send(one, thermal=x_of("thermal"))
    one.until(lambda: values(one).get("too_few_members") == "1" and adds_up(one))
    assert one.masks["thermal"]
    assert not one.masks["front"]
    reports = [s for r in one.diagnostics for s in r.status if s.name.endswith("front fused")]
    assert any(s.level[0] == ERROR and "1 too_few_members" in s.message for s in reports)


def test_rgb_alone_answers_where_the_policy_says_so(rig):
    one = fused_rig(rig, **{"sync.on_missing_x": "rgb_only"})
    rgb = send(one)
    one.until(lambda: one.masks["front"])
    assert one.masks["front"][0].header == rgb.header
    one.until(lambda: values(one).get("rgb_only") == "1" and adds_up(one))


def test_a_small_batch_still_fuses_all(rig):
    one = fused_rig(rig, **{"batch.max_size": 1})
    for _ in range(3):
        send(one, **{pair: x_of(pair) for pair in PAIRS})
        one.pump(0.2)
    one.until(lambda: int(values(one).get("published", 0)) >= 1 and adds_up(one))


def test_pairs_with_different_rgb_topics_are_refused_by_name(rig):
    one = rig(wait=False, pairs=PAIRS, **{"fuse.front": PAIRS, **SIZE})
    one.until(lambda: one.node.exit_code == 1, seconds=60)


def test_one_rgb_image_of_another_kind_is_counted_for_all(rig):
    one = fused_rig(rig)
    stamp = next(STAMPS)
    for pair in PAIRS:
        one.say(f"{pair}/x/image", x_image(stamp, *x_of(pair)))
    one.say("camera", header(fill_image(Image(), np.zeros((8, 8), np.float32), "32FC1"), stamp))
    one.until(lambda: values(one).get("too_few_members") == "1" and adds_up(one))
