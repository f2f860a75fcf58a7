"""Segmenting and scoring a recording without ROS."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from rosbags.interfaces import QosDurability, QosReliability

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.bags.message_types import CAMERA_INFO
from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.images import encode_image, read_image, write_image
from segrgbx_core.labels.label_space import (
    UNIFIED,
    VOID,
    synthetic_label_space,
    unified_label_space,
)
from segrgbx_core.labels.overlay import blend
from segrgbx_ros.config.node import Stream, node_config
from segrgbx_ros.messages.images import any_array
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.evaluation import RANDOM
from segrgbx_ros.replay.ground_truth import FolderGroundTruth, TopicGroundTruth, to_ids, translator
from segrgbx_ros.replay.replay import main
from segrgbx_ros.replay.topic_routes import find_routes
from segrgbx_ros.replay.writers import evenly_spaced

START = 1_700_000_000_000_000_000
STEP = 100_000_000
SIZE = 32, 48
FRAMES = 4

CONFIG = """
/**:
  ros__parameters:
    pairs: [thermal]
    thermal: {rgb_transport: compressed, x_transport: compressed}
    model: {allow_random_weights: true, device: cpu, input_height: 64, input_width: 64}
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "street"
    write_recording(path)
    return path


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "thermal.yaml"
    path.write_text(CONFIG)
    return path


def scene(index):
    rng = np.random.default_rng(index)
    rgb = cv2.resize(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8), SIZE[::-1])
    thermal = cv2.resize(rng.integers(28000, 31000, (4, 6), dtype=np.uint16), SIZE[::-1])
    truth = np.full(SIZE, index, np.uint8)
    truth[:, :8] = VOID
    return rgb, thermal, truth


def write_recording(path, prefix="", x_delay_ns=3_000_000, truth=True, raw=False):
    with BagWriter(path) as bag:
        for index in range(FRAMES):
            stamp = START + index * STEP
            rgb, thermal, labels = scene(index)
            base = f"{prefix}/thermal"
            if raw:
                bag.write(f"{base}/rgb/image", bag.image(rgb, "rgb8", stamp, "cam"), stamp + 10)
                x = bag.image(thermal, "16UC1", stamp + x_delay_ns)
                bag.write(f"{base}/x/image", x, stamp + 20)
            else:
                png = bag.compressed(encode_image(rgb), "rgb8; png compressed bgr8", stamp, "cam")
                bag.write(f"{base}/rgb/image/compressed", png, stamp + 10)
                x = bag.compressed(
                    encode_image(thermal), "16UC1; png compressed ", stamp + x_delay_ns
                )
                bag.write(f"{base}/x/image/compressed", x, stamp + 20)
            if truth and index:  # the first frame has none
                message = bag.compressed(encode_image(labels), "mono8; png compressed ", stamp)
                bag.write(f"{base}/label/compressed", message, stamp + 30)


def run(recording, config, out, *more):
    return main([str(recording), "--config", str(config), "--out", str(out), "--quiet", *more])


@pytest.fixture(scope="module")
def replayed(recording, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replayed")
    config = folder / "thermal.yaml"
    config.write_text(CONFIG)
    assert run(recording, config, folder / "out", "--write-bag", str(folder / "bag")) == 0
    return folder


def test_report(replayed, recording):
    report = json.loads((replayed / "out/report.json").read_text())
    pair = report["pairs"]["thermal"]
    assert (pair["rgb_messages"], pair["x_messages"], pair["paired"]) == (FRAMES, FRAMES, FRAMES)
    assert pair["skew_ms"]["mean"] == pytest.approx(3.0)
    assert pair["mean_offset_ms"] == pytest.approx(3.0)
    assert pair["dropped"] == {}
    scores = pair["scores"]
    assert (scores["frames"], scores["frames_without_truth"]) == (FRAMES - 1, 1)
    assert 0 <= scores["miou"] <= 1
    assert scores["miou_absent_as_zero"] <= scores["miou"]
    matrix = np.array(scores["confusion"]["matrix"])
    assert matrix.sum() == (FRAMES - 1) * SIZE[0] * (SIZE[1] - 8)  # void truth does not count
    assert report["label_space"]["name"] == UNIFIED
    assert report["notes"] == [RANDOM]
    assert report["config"]["pairs"] == ["thermal"]
    assert report["timing"]["stages_ms"]["total"]["count"] == FRAMES
    text = (replayed / "out/report.md").read_text()
    for part in (
        "mIoU",
        "pixel accuracy",
        "| pairing |",
        "p95 ms",
        "| truth \\ labels | fence |",
        "![contact sheet](contact_sheet.png)",
        "[options.yaml](options.yaml)",
    ):
        assert part in text


def test_pictures(replayed):
    overlays = sorted(path.name for path in (replayed / "out").glob("overlay_*.png"))
    assert overlays == [f"overlay_thermal_{START + i * STEP}.png" for i in range(FRAMES)]
    picture = read_image(replayed / "out" / overlays[0])  # enlarged, with time and legend below
    assert picture.shape[1] >= 480
    assert picture.shape[0] > picture.shape[1] * SIZE[0] / SIZE[1]
    sheet = read_image(replayed / "out/contact_sheet.png")
    assert sheet.shape[0] > FRAMES * SIZE[0]
    assert sheet.shape[1] > 4 * SIZE[1]


def test_predictions_are_recorded_under_the_topics_of_the_node(replayed):
    with Bag(replayed / "bag") as bag:
        assert set(bag.topics) == {
            f"/thermal/{name}" for name in ("mask", "confidence", "label_map", "label_info")
        }
        masks = [bag.decode(m) for m in bag.messages({"/thermal/mask"})]
        (text,) = [bag.decode(m) for m in bag.messages({"/thermal/label_map"})]
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in masks]
    assert stamps == [START + i * STEP for i in range(FRAMES)]
    assert {(m.encoding, m.step, m.width, m.height) for m in masks} == {("mono8", 48, 48, 32)}
    assert {m.header.frame_id for m in masks} == {"cam"}
    described = json.loads(text.data)
    assert described["unlabeled_id"] == VOID
    assert described["classes"][0]["id"] == 0
    overlay = json.loads((replayed / "out/report.json").read_text())
    assert described["hash"] == overlay["label_space"]["hash"]


def test_a_recording_of_predictions_is_compressed_and_carries_profiles(replayed):
    data = (replayed / "bag" / "bag.mcap").read_bytes()
    with Bag(replayed / "bag") as bag:
        whole = sum(len(message.raw) for message in bag.messages())
        profiles = {name.split("/")[-1]: topic.profiles for name, topic in bag.topics.items()}
    assert b"zstd" in data
    assert len(data) < whole
    for name, (profile,) in profiles.items():
        assert profile.reliability is QosReliability.RELIABLE
        is_latched = name in ("label_map", "label_info")
        assert (profile.durability is QosDurability.TRANSIENT_LOCAL) == is_latched
    metadata = yaml.safe_load((replayed / "bag" / "metadata.yaml").read_text())
    info = metadata["rosbag2_bagfile_information"]
    assert info["version"] == 8  # what Humble reads, too
    for entry in info["topics_with_message_count"]:
        assert yaml.safe_load(entry["topic_metadata"]["offered_qos_profiles"])[0]["depth"]


def test_inputs_and_overlays_may_be_recorded_too(recording, config, tmp_path):
    contents = ["--write-bag", str(tmp_path / "bag"), "--bag-contents", "rgb, x,overlay"]
    assert run(recording, config, tmp_path / "out", *contents, "--overlays", "all") == 0
    with Bag(tmp_path / "bag") as bag, Bag(recording) as before:
        for name in ("/thermal/rgb/image/compressed", "/thermal/x/image/compressed"):
            copied, original = ([m.raw for m in one.messages({name})] for one in (bag, before))
            assert copied == original
            assert bag.topics[name].profiles == before.topics[name].profiles
        received = [message.receive_ns for message in bag.messages()]
        assert received == sorted(received)
        overlays = [bag.decode(message) for message in bag.messages({"/thermal/overlay"})]
        masks = [any_array(bag.decode(message)) for message in bag.messages({"/thermal/mask"})]
    assert len(list((tmp_path / "out").glob("overlay_*.png"))) == FRAMES
    palette = synthetic_label_space().palette_array()
    for index, (message, mask) in enumerate(zip(overlays, masks, strict=True)):
        pixels = message.data.reshape(message.height, message.width, 3)
        np.testing.assert_array_equal(pixels, blend(scene(index)[0], mask, palette, 0.5))


DEPTH = """
/**:
  ros__parameters:
    pairs: [depth]
    model: {allow_random_weights: true, device: cpu, input_height: 64, input_width: 64}
"""


@pytest.fixture
def depth(tmp_path):
    """Config and recording of a depth pair; RGB is calibrated."""
    with BagWriter(tmp_path / "room") as bag:
        for index in range(FRAMES):
            stamp, rgb = START + index * STEP, scene(index)[0]
            matrix = np.array([40, 0, 24, 0, 40, 16, 0, 0, 1], np.float64)
            info = bag.message(
                CAMERA_INFO,
                stamp,
                "cam",
                height=SIZE[0],
                width=SIZE[1],
                distortion_model="plumb_bob",
                d=np.zeros(5),
                k=matrix,
                r=np.eye(3).ravel(),
                p=np.hstack([matrix.reshape(3, 3), np.zeros((3, 1))]).ravel(),
                binning_x=0,
                binning_y=0,
            )
            bag.write("/depth/rgb/camera_info", info, stamp + 1)
            bag.write("/depth/rgb/image", bag.image(rgb, "rgb8", stamp, "cam"), stamp + 2)
            millimetres = np.full(SIZE, 2000 + index, np.uint16)
            bag.write("/depth/x/image", bag.image(millimetres, "16UC1", stamp), stamp + 3)
    (tmp_path / "depth.yaml").write_text(DEPTH)
    return tmp_path


def test_points_may_be_recorded(depth):
    contents = ["--write-bag", str(depth / "bag"), "--bag-contents", "points"]
    assert run(depth / "room", depth / "depth.yaml", depth / "out", *contents) == 0
    with Bag(depth / "bag") as bag:
        clouds = [bag.decode(message) for message in bag.messages({"/depth/points"})]
        masks = [bag.decode(message) for message in bag.messages({"/depth/mask"})]
    assert len(clouds) == FRAMES
    kinds = {2: "u1", 4: "u2", 7: "f4"}
    for index, (cloud, mask) in enumerate(zip(clouds, masks, strict=True)):
        assert (cloud.height, cloud.width, cloud.header.frame_id) == (*SIZE, "cam")
        dtype = np.dtype(
            {
                "names": [field.name for field in cloud.fields],
                "formats": [kinds[field.datatype] for field in cloud.fields],
                "offsets": [field.offset for field in cloud.fields],
                "itemsize": cloud.point_step,
            },
            align=True,  # raises where a field is not aligned
        )
        points = cloud.data.view(dtype).reshape(SIZE)
        np.testing.assert_array_equal(points["label"].ravel(), mask.data)
        np.testing.assert_allclose(points["z"], (2000 + index) / 1000, rtol=1e-6)
        np.testing.assert_allclose(points["x"][0, 0], -24 / 40 * points["z"][0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--bag-contents", "rgb"], "--bag-contents: nothing is recorded; add --write-bag DIR"),
        (["--write-bag", "NEW", "--bag-contents", "overly"], "did you mean 'overlay'"),
        (["--write-bag", "NEW", "--bag-contents", "points"], "points need a pair of depth"),
    ],
)
def test_wrong_contents_of_a_recording_are_refused(
    recording, config, tmp_path, capsys, more, complaint
):
    more = [str(tmp_path / "new") if word == "NEW" else word for word in more]
    assert run(recording, config, tmp_path / "out", *more) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_points_need_a_calibration(depth, capsys):
    with Bag(depth / "room") as before, BagWriter(depth / "bare") as bag:
        for message in before.messages({"/depth/rgb/image", "/depth/x/image"}):
            bag.write_raw(message.topic, message.type, message.raw, message.receive_ns)
    contents = ["--write-bag", str(depth / "bag"), "--bag-contents", "points"]
    assert run(depth / "bare", depth / "depth.yaml", depth / "out", *contents) == 2
    assert "no topic '/depth/rgb/camera_info'" in capsys.readouterr().err


def test_messages_that_do_not_fit_their_type_are_counted(config, tmp_path):
    write_recording(tmp_path / "good")
    with Bag(tmp_path / "good") as good, BagWriter(tmp_path / "bag") as bag:
        for number, message in enumerate(good.messages()):
            raw = message.raw[: 30 if number == 1 else None]
            bag.write_raw(message.topic, message.type, raw, message.receive_ns)
    assert run(tmp_path / "bag", config, tmp_path / "out") == 0
    pair = json.loads((tmp_path / "out/report.json").read_text())["pairs"]["thermal"]
    assert pair["dropped"]["unreadable"] == 1
    assert "topic '/thermal/x/image/compressed' at" in pair["first_fault"]
    assert pair["paired"] >= FRAMES - 1


def test_parts_that_cannot_be_read_are_told_and_reported(config, tmp_path, capsys):
    write_recording(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    (tmp_path / "bag" / "second.mcap").write_bytes(b"")
    assert run(tmp_path / "bag", config, tmp_path / "out") == 0
    text = "second.mcap: is empty; the recorder wrote nothing into it; the other parts are read"
    assert text in capsys.readouterr().err
    assert text in json.loads((tmp_path / "out/report.json").read_text())["notes"][0]


def test_second_run_gives_the_same(replayed, recording, tmp_path):
    config = replayed / "thermal.yaml"
    assert run(recording, config, tmp_path / "out", "--write-bag", str(tmp_path / "bag")) == 0
    reports = [json.loads((p / "out/report.json").read_text()) for p in (replayed, tmp_path)]
    for report in reports:
        del report["timing"]
    assert reports[0] == reports[1]
    masks = []
    for folder in (replayed, tmp_path):
        with Bag(folder / "bag") as bag:
            masks.append([m.raw for m in bag.messages({"/thermal/mask", "/thermal/confidence"})])
    assert masks[0] == masks[1]


def test_other_truth_space_and_folder(recording, config, tmp_path):
    for index in range(FRAMES):
        write_image(tmp_path / f"{index}.png", scene(index)[2])
    extra = ["--truth-folder", str(tmp_path), "--label-space", "deliver"]
    assert run(recording, config, tmp_path / "out", *extra, "--overlays", "0") == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["label_space"]["name"] == "deliver"
    assert report["pairs"]["thermal"]["scores"]["frames"] == FRAMES
    assert not list((tmp_path / "out").glob("overlay_*"))


def test_classes_with_ids_of_their_own_score_as_without(recording, config, tmp_path):
    """Frames 1 and 2 are labelled with unified ids 1 and 2 in the recording."""
    names = unified_label_space().names
    entries = [
        f"  - {{name: {name}, rgb: [{place}, 9, 9], members: [{name!r}], id: {number}}}"
        for place, (name, number) in enumerate(zip(names[:3], (200, 7, 30), strict=True))
    ]
    found = {}
    for kind in ("fixed", "plain"):
        file = tmp_path / f"{kind}.yaml"
        text = "\n".join(["classes:", *entries])
        file.write_text(text if kind == "fixed" else re.sub(r", id: \d+", "", text))
        out = tmp_path / kind
        more = ["--set", f"label.file={file}", "--write-bag", str(out / "bag")]
        assert run(recording, config, out, *more) == 0
        report = json.loads((out / "report.json").read_text())
        found[kind] = report["pairs"]["thermal"]["scores"]
        assert (out / "contact_sheet.png").is_file()
        with Bag(out / "bag") as bag:
            masks = [any_array(bag.decode(m)) for m in bag.messages({"/thermal/mask"})]
        ids = set(np.unique(masks)) - {VOID}
        assert ids <= ({200, 7, 30} if kind == "fixed" else {0, 1, 2})
    assert found["fixed"] == found["plain"]
    assert found["fixed"]["confusion"]["matrix"], "something was scored"


def test_checkpoint_is_named_in_the_report(recording, config, tmp_path):
    from segrgbx_core.runtime.checkpoint import default_contract, random_weights, save_checkpoint

    contract = default_contract("tiny")
    weights = random_weights(contract)
    save_checkpoint(tmp_path / "tiny.safetensors", weights.model, weights.ma_clip, contract)
    more = ["--checkpoint", str(tmp_path / "tiny.safetensors")]
    assert run(recording, config, tmp_path / "out", *more) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert len(report["checkpoint"]["hash"]) >= 16
    assert report["checkpoint"]["path"].endswith("tiny.safetensors")


def test_namespace_is_found_or_given(config, tmp_path, capsys):
    write_recording(tmp_path / "bag", prefix="/car/segrgbx")
    assert run(tmp_path / "bag", config, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["notes"] == ["namespace '/car/segrgbx' was found in the recording", RANDOM]
    assert report["pairs"]["thermal"]["scores"]["frames"] == FRAMES - 1
    assert run(tmp_path / "bag", config, tmp_path / "out", "--namespace", "") == 2
    assert "no topic '/thermal/rgb/image/compressed'" in capsys.readouterr().err


def test_wrong_transport_names_the_cure(config, tmp_path, capsys):
    write_recording(tmp_path / "bag", raw=True)
    assert run(tmp_path / "bag", config, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "but '/thermal/rgb/image' is recorded; use --set thermal.rgb_transport=raw" in error
    assert error.count("\n") == 1
    raw = ["--set", "thermal.rgb_transport=raw", "--set", "thermal.x_transport=raw"]
    assert run(tmp_path / "bag", config, tmp_path / "out", *raw, "--overlays", "all") == 0


def test_nothing_pairs(config, tmp_path, capsys):
    write_recording(tmp_path / "bag", x_delay_ns=70_000_000)
    assert run(tmp_path / "bag", config, tmp_path / "out", "--set", "sync.max_dt_ms=20") == 2
    error = capsys.readouterr().err
    assert "nothing to segment" in error
    assert "too_far" in error


def test_rgb_goes_alone_where_x_is_not_recorded(config, tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for index in range(2):
            stamp = START + index * STEP
            png = bag.compressed(encode_image(scene(index)[0]), "png", stamp)
            bag.write("/thermal/rgb/image/compressed", png, stamp)
    assert run(tmp_path / "bag", config, tmp_path / "out") == 2
    alone = ["--set", "sync.on_missing_x=rgb_only"]
    assert run(tmp_path / "bag", config, tmp_path / "out", *alone) == 0
    pair = json.loads((tmp_path / "out/report.json").read_text())["pairs"]["thermal"]
    assert (pair["paired"], pair["rgb_only"]) == (2, 2)


@pytest.mark.parametrize(
    ("policy", "paired", "dropped"),
    [("drop", 1, {"x_empty": 2}), ("rgb_only", 3, {}), ("hold_last", 3, {})],
)
def test_x_without_content_is_reported_whatever_becomes_of_it(
    config, tmp_path, capsys, policy, paired, dropped
):
    with BagWriter(tmp_path / "bag") as bag:
        for index in range(3):
            stamp = START + index * STEP
            rgb, thermal, _ = scene(index)
            x = np.full_like(thermal, 29315) if index else thermal
            bag.write("/thermal/rgb/image", bag.image(rgb, "rgb8", stamp, "cam"), stamp)
            bag.write("/thermal/x/image", bag.image(x, "16UC1", stamp), stamp)
    raw = ("--set", "thermal.rgb_transport=raw", "--set", "thermal.x_transport=raw")
    policy_set = ("--set", f"sync.on_missing_x={policy}")
    assert run(tmp_path / "bag", config, tmp_path / "out", *raw, *policy_set) == 0
    pair = json.loads((tmp_path / "out/report.json").read_text())["pairs"]["thermal"]
    assert (pair["x_empty"], pair["paired"], pair["dropped"]) == (2, paired, dropped)
    assert pair["x_problem"].startswith("flat")
    assert pair["first_fault"] == ""
    assert "| X without content | 2, first: flat" in (tmp_path / "out/report.md").read_text()
    assert "X without content: 2 (flat" in capsys.readouterr().out


def test_unreadable_images_are_counted(config, tmp_path):
    write_recording(tmp_path / "good")
    with Bag(tmp_path / "good") as good, BagWriter(tmp_path / "bag") as bag:
        for number, recorded in enumerate(good.messages()):
            message = good.decode(recorded)
            if number == 0:
                message = bag.compressed(b"no picture", "png", START, "cam")
            bag.write(recorded.topic, message, recorded.receive_ns)
    assert run(tmp_path / "bag", config, tmp_path / "out") == 0
    pair = json.loads((tmp_path / "out/report.json").read_text())["pairs"]["thermal"]
    assert pair["dropped"] == {"unreadable": 1}
    assert "/rgb/image" in pair["first_fault"]
    assert pair["paired"] == FRAMES - 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--pair", "termal"], "did you mean 'thermal'"),
        (["--set", "sync.max_dt=3"], "did you mean 'max_dt_ms'"),
        (["--set", "sync"], "has not the form name=value"),
        (["--remap", "a=b"], "has not the form from:=to"),
        (["--remap", "thermal/rgb/imag:=/x"], "is no input"),
        (["--overlays", "many"], "neither a number nor 'all'"),
        (["--label-space", "mfnett"], "did you mean 'mfnet'"),
        (["--truth-topic", "/thermal/labels"], "no topic '/thermal/labels'"),
        (["--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_errors_are_one_line(recording, config, tmp_path, capsys, more, message):
    assert run(recording, config, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_remap_by_base_name_or_by_full_name(recording):
    options = {"thermal": {"rgb_transport": "compressed", "x_transport": "compressed"}}
    config = node_config(options)
    with Bag(recording) as bag:
        for source, target in (
            ("thermal/rgb/image", "/thermal/rgb/image"),
            ("thermal/rgb/image", "/thermal/rgb/image/compressed"),
            ("/thermal/rgb/image/compressed", "/thermal/rgb/image/compressed"),
        ):
            routes = find_routes(
                bag,
                config,
                ["thermal"],
                "/elsewhere",
                {
                    source: target,
                    "thermal/x/image": "/thermal/x/image",
                },
            )
            assert routes.topic("thermal", Stream.RGB) == "/thermal/rgb/image/compressed"
        with pytest.raises(DataError, match="no topic '/elsewhere/thermal/x/image/compressed'"):
            find_routes(bag, config, ["thermal"], "elsewhere", {source: target})


def test_two_pairs_may_share_an_rgb_topic(recording):
    both = {"rgb_transport": "compressed", "x_transport": "compressed", "modality": "thermal"}
    config = node_config({"pairs": ["a", "b"], "a": both, "b": both})
    remaps = {
        f"{pair}/{stream}/image": f"/thermal/{stream}/image"
        for pair in "ab"
        for stream in ("rgb", "x")
    }
    with Bag(recording) as bag:
        routes = find_routes(bag, config, ["a", "b"], None, remaps)
    assert routes.inputs["/thermal/rgb/image/compressed"] == (("a", Stream.RGB), ("b", Stream.RGB))


def test_topic_truth_reads_every_integer_encoding(tmp_path):
    labels = np.array([[0, 3], [255, 7]])
    wide = labels.copy()
    wide[1, 0] = -1
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/t", bag.image(labels.astype(np.uint8), "mono8", 1), 1)
        bag.write("/t", bag.image(labels.astype(np.uint16), "16UC1", 2), 2)
        bag.write("/t", bag.image(wide.astype(np.int32), "32SC1", 3), 3)
    with Bag(tmp_path / "bag") as bag:
        truth = TopicGroundTruth(bag, "/t")
    assert truth.stamps == {1, 2, 3}
    for stamp in (1, 2, 3):
        np.testing.assert_array_equal(truth.labels(stamp), labels)
    assert truth.labels(4) is None


def test_pictures_are_no_truth(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/t", bag.image(np.zeros((2, 2, 3), np.uint8), "rgb8", 1), 1)
    with (
        Bag(tmp_path / "bag") as bag,
        pytest.raises(DataError, match="topic '/t': encoding 'rgb8'"),
    ):
        TopicGroundTruth(bag, "/t")
    with pytest.raises(DataError, match="no label ids"):
        to_ids(np.zeros((2, 2), np.float32))
    with pytest.raises(DataError, match="id 300 is outside"):
        to_ids(np.full((2, 2), 300, np.uint16))


def test_folder_truth_by_stamp_or_by_order(tmp_path):
    for name in ("100", "300"):
        write_image(tmp_path / f"{name}.png", np.full((2, 2), int(name) // 100, np.uint8))
    by_stamp = FolderGroundTruth(tmp_path, [100, 200, 300])
    assert by_stamp.labels(200) is None
    assert by_stamp.labels(300).max() == 3
    by_order = FolderGroundTruth(tmp_path, [7, 8])
    assert by_order.labels(8).max() == 3
    with pytest.raises(DataError, match="2 files do not stand for 3 images"):
        FolderGroundTruth(tmp_path, [7, 8, 9])


def test_translator_goes_between_all_spaces():
    space = synthetic_label_space()
    native = np.arange(space.native("mfnet").num_classes, dtype=np.uint8)
    unified = translator(space, "mfnet", UNIFIED)(native)
    np.testing.assert_array_equal(translator(space, UNIFIED, "mfnet")(unified), native)
    np.testing.assert_array_equal(translator(space, "mfnet", "mfnet")(native), native)
    there = translator(space, "mfnet", "synthetic_street")(native)
    assert set(there[there != VOID]) <= set(range(space.native("synthetic_street").num_classes))
    with pytest.raises(ConfigError):
        translator(space, "mfnett", UNIFIED)


def test_failed_replay_leaves_no_recording(recording, config, tmp_path):
    more = ["--checkpoint", "nowhere.safetensors", "--write-bag", str(tmp_path / "bag")]
    assert run(recording, config, tmp_path / "out", *more) == 2
    assert not (tmp_path / "bag").exists()


def test_needs_neither_ros_nor_torch_to_start():
    code = "import sys, segrgbx_ros.replay.replay; print({'rclpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_spread_covers_both_ends():
    assert evenly_spaced(10, 3) == {0, 4, 9} or evenly_spaced(10, 3) == {0, 5, 9}
    assert evenly_spaced(3, 10) == {0, 1, 2}
    assert evenly_spaced(0, 5) == evenly_spaced(5, 0) == set()
