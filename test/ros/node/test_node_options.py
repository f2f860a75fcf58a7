"""What parameters do to the live node's answers: labels, sizes, confidences, queues, QoS."""

import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from node_rig import BEST_EFFORT, HEIGHT, LATCHED, WIDTH, ask, depth_plane, header, x_image  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2  # noqa: E402
from std_msgs.msg import Float64, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from segrgbx_core.base.modality import Modality  # noqa: E402
from segrgbx_core.base.samples import RgbxSample  # noqa: E402
from segrgbx_core.runtime.options import ConfidenceKind  # noqa: E402
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter  # noqa: E402
from segrgbx_ros.config.node import BatchConfig, DropConfig, DropPolicy  # noqa: E402
from segrgbx_ros.messages.images import fill_image, image_array  # noqa: E402
from segrgbx_ros.node.worker import Worker  # noqa: E402

SIZE = {"model.input_height": 64, "model.input_width": 64}


def test_pairs_with_labels_of_their_own(rig):
    one = rig(pairs=["thermal", "depth"], **SIZE, **{"thermal.label_space": "mfnet"})
    maps = {pair: one.hear(f"{pair}/label_map", String, LATCHED) for pair in ("thermal", "depth")}
    masks = {pair: one.hear(f"{pair}/mask") for pair in maps}
    one.until(lambda: all(maps.values()))
    known = {pair: json.loads(heard[0].data) for pair, heard in maps.items()}
    assert [known[pair]["label_space"] for pair in known] == ["mfnet", "unified"]
    one.pump(0.2)
    ask(one)
    ask(one, "depth", x=x_image(0, depth_plane(), "32FC1"))
    one.until(lambda: all(masks.values()))
    for pair, heard in masks.items():
        assert set(np.unique(image_array(heard[0]))) <= {c["id"] for c in known[pair]["classes"]}
    values = one.report()["model"][2]
    assert (values["thermal_label_space"], values["depth_classes"]) == ("mfnet", "71")


def test_classes_of_the_vehicles_own_go_out(rig, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("classes:\n  - {name: anything, rgb: [1, 2, 3], members: [road, sky]}\n")
    one = rig(**SIZE, **{"label.file": str(path), "label.unlabeled_id": 7})
    masks, maps = one.hear("thermal/mask"), one.hear("thermal/label_map", String, LATCHED)
    one.pump(0.2)
    ask(one)
    one.until(lambda: masks and maps)
    assert set(np.unique(image_array(masks[0]))) <= {0, 7}
    assert [entry["name"] for entry in json.loads(maps[0].data)["classes"]] == ["anything"]


def test_a_label_file_that_does_not_fit_fails_configure(rig, tmp_path, capfd):
    path = tmp_path / "mine.yaml"
    path.write_text("classes:\n  - {name: all, rgb: [1, 2, 3], members: [roda]}\n")
    one = rig(wait=False, autostart=False, **{"label.file": str(path)})
    one.node.trigger_configure()
    assert "'roda' is no class of it (did you mean 'road'?)" in capfd.readouterr().err
    assert one.state() == "unconfigured"


@pytest.mark.parametrize(
    ("output", "size"),
    [
        ({"output.size": "model"}, (64, 64)),
        ({"output.size": "custom", "output.width": 32, "output.height": 12}, (12, 32)),
    ],
)
def test_answers_on_another_grid_bring_its_calibration(rig, output, size):
    one = rig(pairs=["depth"], **SIZE, **output)
    names = ("mask", "confidence", "mask_color", "overlay")
    images = [one.hear(f"depth/{name}") for name in names]
    infos = one.hear("depth/camera_info", CameraInfo)
    clouds = one.hear("depth/points", PointCloud2)
    k = [60.0, 0, WIDTH / 2, 0, 60.0, HEIGHT / 2, 0, 0, 1]
    given = CameraInfo(width=WIDTH, height=HEIGHT, k=[float(value) for value in k])
    one.say("depth/rgb/camera_info", given)
    one.pump(0.3)
    rgb = ask(one, "depth", x=x_image(0, depth_plane(), "32FC1"))
    one.until(lambda: all(images) and infos and clouds)
    for heard in (*images, infos, clouds):
        assert (heard[0].height, heard[0].width) == size
        assert heard[0].header == rgb.header
    assert infos[0].k[0] == pytest.approx(60 * size[1] / WIDTH)
    assert infos[0].k[4] == pytest.approx(60 * size[0] / HEIGHT)


@pytest.mark.parametrize("kind", list(ConfidenceKind))
def test_the_kind_of_confidence(rig, checkpoint, kind):
    one = rig(**SIZE, **{"output.confidence_kind": kind.value})
    heard = one.hear("thermal/confidence")
    rng = np.random.default_rng(2)
    rgb = rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    counts = rng.integers(28000, 31000, (24, 30)).astype(np.uint16)
    one.pump(0.2)
    ask(one, rgb=header(fill_image(Image(), rgb, "rgb8")), x=x_image(0, counts))
    one.until(lambda: heard)
    config = InferenceConfig(input_height=64, input_width=64)
    segmenter = Segmenter.from_checkpoint(
        checkpoint, config, merge_for=Modality.THERMAL, confidence_kind=kind
    )
    (answer,) = segmenter.predict([RgbxSample(rgb, counts, Modality.THERMAL)])
    np.testing.assert_array_equal(image_array(heard[0]), answer.confidence)


def test_the_least_confidence_changes_while_the_node_runs(rig):
    one = rig(**SIZE)
    masks = one.hear("thermal/mask")
    one.pump(0.2)
    ask(one)
    one.until(lambda: masks)
    assert (image_array(masks[0]) != 255).any()
    assert one.node.set_parameters([Parameter("label.min_confidence", value=1.0)])[0].successful
    ask(one)
    one.until(lambda: len(masks) == 2)
    assert (image_array(masks[1]) == 255).all()
    late = one.hear("thermal/label_map", String, LATCHED)
    one.until(lambda: late)


def test_reset_forgets_scenes_too(rig):
    one = rig(**SIZE, **{"model.scene.refresh_every": 100, "model.scene.change": 1.0})
    masks = one.hear("thermal/mask")
    ages = []
    segmenter = one.node.runtime.segmenter
    predict = segmenter.predict

    def noted(*arguments):
        answers = predict(*arguments)
        ages.extend(answer.scene_age for answer in answers)
        return answers

    segmenter.predict = noted
    for number in range(3):
        ask(one)
        one.until(lambda wanted=number + 1: len(masks) == wanted)
    assert ages == [0, 1, 2]
    assert one.call(Trigger, "segrgbx/reset").success
    ask(one)
    one.until(lambda: len(masks) == 4)
    assert ages[-1] == 0


def test_auto_asks_for_what_the_publisher_offers(rig):
    one = rig(**SIZE, **{"qos.input_reliability": "auto"})
    masks = one.hear("thermal/mask")

    def asked(topic):
        found = one.tester.get_subscriptions_info_by_topic(f"{one.namespace}/{topic}")
        return [info.qos_profile.reliability.name for info in found]

    one.until(lambda: asked("thermal/x/image") == ["RELIABLE"])
    x = one.tester.create_publisher(Image, "thermal/x/image", BEST_EFFORT)
    one._publishers["thermal/x/image"] = x
    one.until(lambda: x.get_subscription_count() == 1)
    one.until(lambda: asked("thermal/x/image") == ["BEST_EFFORT"])
    ask(one)
    one.until(lambda: masks)
    assert asked("thermal/rgb/image") == ["RELIABLE"]
    one.until(lambda: one.report()["thermal input"][2]["x_publishers"] == "1")
    one.until(lambda: one.report()["thermal input"][0] < 2)


def test_the_age_of_answers_is_published_on_demand(rig):
    one = rig(**SIZE, **{"output.publish_debug": True})
    ages = one.hear("segrgbx/debug/age_ms", Float64)
    one.pump(0.3)
    ask(one)  # its stamp is of 1970
    one.until(lambda: ages)
    assert ages[0].data == pytest.approx(time.time() * 1e3, rel=0.01)


def offered(number, pair="a"):
    message = SimpleNamespace(name=pair, number=number, arrival_ns=0)
    message.sample = lambda: message
    return message


@pytest.mark.parametrize(
    ("drop", "answered", "replaced"),
    [
        (DropConfig(), [("a", 5), ("b", 9)], 5),
        (
            DropConfig(policy=DropPolicy.QUEUE, queue_size=3),
            [("a", 3), ("b", 9), ("a", 4), ("a", 5)],
            3,
        ),
    ],
)
def test_what_waits_while_the_model_is_busy(drop, answered, replaced):
    got, done = [], threading.Event()

    def deliver(paired, *_):
        got.append((paired.name, paired.number))
        if len(got) == len(answered):
            done.set()

    model = SimpleNamespace(
        predict=lambda samples, streams: [SimpleNamespace(timings_ms={}) for _ in samples],
        forget=lambda: None,
    )
    batch = BatchConfig(max_size=1, max_wait_ms=0.0)
    worker = Worker(model, batch, 2, deliver, print, depth=drop.depth)
    for number in range(6):
        worker.submit(offered(number))
    worker.submit(offered(9, "b"))
    worker.start()
    assert done.wait(5)
    worker.stop()
    assert got == answered
    assert worker.report().replaced == replaced
