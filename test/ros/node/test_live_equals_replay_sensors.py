"""Five sensors and an added one, live and replayed at once: every mask is equal, bit for bit.

One node serves all pairs with one model. Frames are hand-made: what counts is that both ways
decode, pair and encode alike. Event packets travel as they are; where `event_camera_msgs` is not
installed, another message type lends its topic, and the bytes are read as the recording's are.
"""

import importlib.util
import json
import struct
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from made_messages import event_packet  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from small_models import LIDAR, with_added  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from segrgbx_core.bags.bag_writer import BagWriter  # noqa: E402
from segrgbx_core.bags.message_types import EVENT_PACKET  # noqa: E402
from segrgbx_core.base.images import encode_image  # noqa: E402
from segrgbx_core.base.modality import MODALITIES  # noqa: E402
from segrgbx_core.base.samples import Events  # noqa: E402
from segrgbx_core.runtime.checkpoint import (  # noqa: E402
    default_contract,
    random_weights,
    save_checkpoint,
)
from segrgbx_ros.replay.bags import Bag  # noqa: E402
from segrgbx_ros.replay.replay import main  # noqa: E402
from segrgbx_ros.tools import player  # noqa: E402
from segrgbx_ros.tools.node_process import Listener, NodeProcess, own_domain  # noqa: E402
from segrgbx_ros.tools.player import BagPlayer  # noqa: E402

PAIRS = [*map(str, MODALITIES), "lidar"]
MS = 1_000_000
START = 1_700_000_000_000 * MS
STEP = 100 * MS
FRAMES = 7
HEIGHT, WIDTH = 48, 64
HAS_PACKETS = importlib.util.find_spec("event_camera_msgs") is not None
# A queue instead of "newest wins", so that a busy machine answers every pair; one pair per pass,
# because batches of other sizes round differently.
CONFIG = """
/**:
  ros__parameters:
    pairs: [event, thermal, depth, polarization, light_field, lidar]
    thermal: {rgb_transport: compressed, x_transport: compressed}
    depth: {x_transport: compressedDepth}
    light_field: {label_space: urbanlf}
    lidar: {modality: lidar}
    model: {checkpoint: CHECKPOINT, device: cpu, input_height: 64, input_width: 64}
    batch: {max_size: 1}
    drop: {policy: queue, queue_size: 100}
    sync: {wait_ms: 500.0}
    sensor:
      event: {message_type: MESSAGE}
      light_field: {layout: tiled, rows: 2, cols: 2, view_index: 3}
"""
CARRIER = """
import sys
from sensor_msgs.msg import CompressedImage
from segrgbx_ros.node import inputs
from segrgbx_ros.node import node, process
from segrgbx_core.bags.message_types import EVENT_PACKET, new_typestore
from segrgbx_ros.messages.events.stream import EventStream
store, take = new_typestore(), EventStream.read_message
inputs.message_class = lambda config: CompressedImage
EventStream.read_message = lambda self, raw: take(self, store.deserialize_cdr(raw, EVENT_PACKET))
sys.exit(process.main(["segrgbx-node", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Path of a tiny checkpoint with random weights that a LiDAR was added to."""
    path = tmp_path_factory.mktemp("checkpoint") / "six.safetensors"
    lidar = LIDAR.model_copy(
        update={"count": 0.01, "curve": ((1, 0, 0.2), (0.3, 1, 0), (0, 0, 1))}
    )
    contract = with_added(default_contract("tiny"), lidar=lidar)
    loaded = random_weights(contract)
    save_checkpoint(path, loaded.model, loaded.ma_clip, contract)
    return str(path)


def picture(rng, height=HEIGHT, width=WIDTH):
    return cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (width, height))


def counts(rng, low, high):
    return cv2.resize(rng.integers(low, high, (6, 8), dtype=np.uint16), (56, 40))


def write_events(bag, rng, stamp):
    """Ten packets that end at the frame's stamp, each stamped a little after its first event."""
    for part in range(10):
        begin = stamp - STEP + part * STEP // 10
        times = np.sort(begin + 1 + rng.integers(0, STEP // 10000, 60) * 1000)
        x, y = rng.integers(0, 60, 60).astype(np.uint16), rng.integers(0, 40, 60).astype(np.uint16)
        events = Events(x, y, times, rng.integers(0, 2, 60).astype(np.uint8), 60, 40)
        seq = round((stamp - START) / STEP) * 10 + part
        message = event_packet(
            events, int(times[0]) + MS // 2, "libcaer_cmp", seq, "event_optical"
        )
        bag.write("/event/x/events", message, begin + STEP // 10 + MS)


def write_x(bag, rng, pair, stamp):
    """X of a frame as this sensor's driver publishes it."""
    topic, frame = f"/{pair}/x/image", f"{pair}_x_optical"
    if pair == "thermal":
        data = encode_image(counts(rng, 28000, 31000))
        message = bag.compressed(data, "16UC1; png compressed ", stamp, frame)
        topic += "/compressed"
    elif pair == "depth":
        data = struct.pack("<iff", 0, 0.0, 0.0) + encode_image(counts(rng, 500, 20000))
        message = bag.compressed(data, "16UC1; compressedDepth png", stamp, frame)
        topic += "/compressedDepth"
    elif pair == "lidar":
        ranges = counts(rng, 300, 6000) * (rng.random((40, 56)) > 0.2)
        message = bag.image(ranges.astype(np.uint16), "16UC1", stamp, frame)
    elif pair == "polarization":
        mosaic = rng.integers(0, 65535, (40, 56), dtype=np.uint16)
        message = bag.image(mosaic, "mono16", stamp, frame)
    else:
        message = bag.image(picture(rng, 2 * HEIGHT, 2 * WIDTH), "bgr8", stamp, frame)
    bag.write(topic, message, stamp + 4 * MS)


def write_frame(bag, rng, index):
    stamp = START + index * STEP
    write_events(bag, rng, stamp)
    for place, pair in enumerate(PAIRS):
        # Stamps of X differ by a few ms; the light field's X of one frame is out of reach.
        shift = (place + index % 3) * MS
        if pair == "light_field" and index == 3:
            shift = 60 * MS
        if pair != "event":
            write_x(bag, rng, pair, stamp + shift)
    for pair in PAIRS:
        topic, rgb = f"/{pair}/rgb/image", picture(rng)
        message = bag.image(rgb, "rgb8", stamp, f"{pair}_rgb_optical")
        if pair == "thermal":
            topic += "/compressed"
            form = "rgb8; jpeg compressed bgr8"
            data = encode_image(rgb, ".jpg")
            message = bag.compressed(data, form, stamp, f"{pair}_rgb_optical")
        bag.write(topic, message, stamp + 6 * MS)


def write_recording(path):
    rng = np.random.default_rng(5)
    messages = []
    with BagWriter(path) as bag:
        write, bag.write = bag.write, lambda *args: messages.append(args)
        for index in range(FRAMES):
            write_frame(bag, rng, index)
        write_events(bag, rng, START + FRAMES * STEP)  # by which the last window is complete
        for args in sorted(messages, key=lambda args: args[2]):
            write(*args)
    return path


def play_live(bag_path, config, log, monkeypatch):
    masks, described = {pair: [] for pair in PAIRS}, {}
    domain, program = own_domain(), ("-m", "segrgbx_ros.node")
    if not HAS_PACKETS:
        program, known = ("-c", CARRIER), player.message_class
        carrier = {EVENT_PACKET: CompressedImage}
        monkeypatch.setattr(player, "message_class", lambda name: carrier.get(name) or known(name))
    process = NodeProcess(config, log, {}, domain, program=program)
    with process, Listener(domain) as listener:
        for pair in PAIRS:
            listener.subscribe(Image, f"/{pair}/mask", masks[pair].append)
            listener.subscribe(
                String,
                f"/{pair}/label_map",
                lambda text, pair=pair: described.update({pair: json.loads(text.data)}),
                latched=True,
            )
        listener.wait_active(process, 120)
        with Bag(bag_path) as bag:
            played = BagPlayer(listener.node, bag)
            played.wait_for_subscribers(timeout_s=30, check=process.check)
            time.sleep(0.5)  # the node's publishers must have found this process too
            played.play(rate=0.3, check=process.check)
        count, end = 0, time.monotonic() + 10
        while sum(map(len, masks.values())) < FRAMES * len(PAIRS) - 1 and time.monotonic() < end:
            if count != (count := sum(map(len, masks.values()))):
                end = time.monotonic() + 10
            time.sleep(0.05)
        process.check()
    return masks, described


def test_all_sensors_give_equal_labels_live_and_replayed(six, tmp_path, monkeypatch):
    config = tmp_path / "six.yaml"
    message = EVENT_PACKET if HAS_PACKETS else "dvs_msgs/msg/EventArray"
    config.write_text(CONFIG.replace("CHECKPOINT", six).replace("MESSAGE", message))
    recording = write_recording(tmp_path / "bag")
    live, described = play_live(recording, config, tmp_path / "node.log", monkeypatch)
    out = ["--out", str(tmp_path / "out"), "--write-bag", str(tmp_path / "predicted")]
    assert main([str(recording), "--config", str(config), *out, "--quiet"]) == 0
    replayed = {pair: [] for pair in PAIRS}
    maps = {}
    with Bag(tmp_path / "predicted") as bag:
        for item in bag.messages(set(bag.topics)):
            pair, name = item.topic.split("/")[1:3]
            if name == "mask":
                replayed[pair].append(bag.decode(item))
            elif name == "label_map":
                maps[pair] = json.loads(bag.decode(item).data)
    assert maps == described
    assert maps["light_field"]["label_space"] == "urbanlf"
    for pair in PAIRS:
        expected = FRAMES - (pair == "light_field")
        assert len(replayed[pair]) == expected, pair
        assert len(live[pair]) == expected, (pair, (tmp_path / "node.log").read_text())
        assert len({bytes(mask.data) for mask in live[pair]}) > 1, f"{pair}: all masks are alike"
        for ours, theirs in zip(replayed[pair], live[pair], strict=True):
            assert ours.header.stamp.sec == theirs.header.stamp.sec
            assert ours.header.stamp.nanosec == theirs.header.stamp.nanosec
            assert ours.header.frame_id == theirs.header.frame_id == f"{pair}_rgb_optical"
            assert (ours.encoding, ours.step) == (theirs.encoding, theirs.step)
            np.testing.assert_array_equal(ours.data, np.asarray(theirs.data), err_msg=pair)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for pair in PAIRS:
        assert report["pairs"][pair]["label_space"] == maps[pair]["label_space"]
        assert report["timing"]["pairs"][pair]["total"]["count"] == len(replayed[pair])
    assert report["pairs"]["light_field"]["dropped"] == {"too_far": 1}
