"""Recordings of rendered scenes, read back with rosbags."""

import cv2
import numpy as np
import pytest

pytest.importorskip("embreex", reason="rendering needs embreex")
pytest.importorskip("rosbags", reason="recordings need rosbags")

from rosbags.rosbag2 import Reader

from segrgbx_core.bags.message_types import new_typestore
from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.labels.label_space import synthetic_label_space
from training.world import recording
from training.world.config import WorldConfig
from training.world.world import World

SMALL = WorldConfig(width=64, height=48)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "thermal"
    count = recording.write_recording(path, World(20_001, SMALL), [Modality.THERMAL], 0.5)
    return path, count


def messages(path):
    store = new_typestore()
    with Reader(path) as reader:
        for connection, receive_ns, raw in reader.messages():
            message = store.deserialize_cdr(raw, connection.msgtype)
            stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            yield connection.topic, receive_ns, stamp, message


def test_topics_counts_and_order(bag):
    path, count = bag
    found = list(messages(path))
    assert len(found) == count == 25
    topics = {topic for topic, *_ in found}
    assert topics == {
        "/thermal/rgb/image/compressed",
        "/thermal/x/image/compressed",
        "/thermal/label/compressed",
        "/thermal/rgb/camera_info",
        "/thermal/x/camera_info",
    }
    received = [receive_ns for _, receive_ns, *_ in found]
    assert received == sorted(received)
    assert all(receive_ns > stamp for _, receive_ns, stamp, _ in found)


def test_stamps_run_at_ten_hertz_and_x_has_its_own_clock(bag):
    stamps = {}
    for topic, _, stamp, _ in messages(bag[0]):
        if topic.endswith("compressed"):
            stamps.setdefault(topic.split("/")[2], []).append(stamp)
    np.testing.assert_array_equal(np.diff(stamps["rgb"]), 100_000_000)
    assert stamps["label"] == stamps["rgb"]
    skew = (np.array(stamps["x"]) - np.array(stamps["rgb"])) / 1e6
    limit = recording.X_DELAY_MS + recording.X_JITTER_MS
    assert ((skew > 0) & (skew <= limit)).all()
    assert np.ptp(skew) > 0


def test_contents_equal_the_records(bag):
    world = World(20_001, SMALL)
    record = world.record(0.0, [])
    first = {}
    for topic, _, _, message in messages(bag[0]):
        first.setdefault(topic, message)
    rgb = first["/thermal/rgb/image/compressed"]
    picture = cv2.imdecode(rgb.data, cv2.IMREAD_COLOR)[..., ::-1]
    assert rgb.format == "rgb8; jpeg compressed bgr8"
    assert rgb.header.frame_id == "thermal_rgb_optical_frame"
    assert np.abs(picture.astype(int) - record.rgb).mean() < 8
    x = first["/thermal/x/image/compressed"]
    counts = cv2.imdecode(x.data, cv2.IMREAD_UNCHANGED)
    assert x.format == "mono16; png compressed "
    assert counts.dtype == np.uint16
    assert counts.shape == (48, 64)
    label = first["/thermal/label/compressed"]
    ids = cv2.imdecode(label.data, cv2.IMREAD_UNCHANGED)
    unified = synthetic_label_space().unify(record.labels, "synthetic_street")
    np.testing.assert_array_equal(ids, unified)


def test_calibrations_fit_the_images(tmp_path):
    world = World(20_001, WorldConfig(width=64, height=48, x_scale=0.5))
    recording.write_recording(tmp_path / "bag", world, [Modality.DEPTH], 0.2)
    heard = {}
    for topic, _, stamp, message in messages(tmp_path / "bag"):
        heard.setdefault(topic, []).append((stamp, message))
    for stream, size in (("rgb", (64, 48)), ("x", (32, 24))):
        images = heard[f"/depth/{stream}/image/compressed"]
        infos = heard[f"/depth/{stream}/camera_info"]
        assert [stamp for stamp, _ in infos] == [stamp for stamp, _ in images]
        for (_, info), (_, image) in zip(infos, images, strict=True):
            assert info.header.frame_id == image.header.frame_id
            assert (info.width, info.height) == size
            # The rays of `Camera.rays`: the middle of the image looks straight ahead.
            assert info.k[2] == size[0] / 2 - 0.5
            half = np.degrees(np.arctan(size[0] / 2 / info.k[0]))
            assert 2 * half == pytest.approx(world.config.field_of_view_deg, abs=0.01)


def test_any_world_can_be_recorded(tmp_path):
    arguments = ["--seed", "3", "--modality", "depth", "--seconds", "0.1", "--size", "64x48"]
    out = tmp_path / "room"
    assert recording.main([*arguments, "--set", "family=indoor", "--out", str(out)]) == 0
    (depth,) = [m for topic, *_, m in messages(out) if topic == "/depth/x/image/compressed"]
    assert 0 < cv2.imdecode(depth.data, cv2.IMREAD_UNCHANGED).max() < 9000


def test_an_existing_folder_is_kept(tmp_path):
    with pytest.raises(DataError, match="exists already"):
        recording.write_recording(tmp_path, World(20_001, SMALL), [Modality.THERMAL], 0.1)


def test_every_modality_is_published_as_its_driver_would(tmp_path):
    path = tmp_path / "all"
    config = WorldConfig(width=64, height=48, event_window_ms=100)
    world = World(20_001, config)
    recording.write_recording(path, world, MODALITIES, 0.2)
    images, packets = {}, []
    for topic, receive_ns, stamp, message in messages(path):
        pair = topic.split("/")[1]
        if topic == "/event/x/events":
            packets.append((receive_ns, message))
        elif topic.endswith("/x/image/compressed"):
            picture = cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED)
            images.setdefault(pair, (message.format, picture, stamp))
    assert images["depth"][0].startswith("16UC1;")
    assert images["depth"][1].dtype == np.uint16
    assert images["depth"][1].max() > 2000
    assert images["polarization"][1].dtype == np.uint16
    assert images["polarization"][1].shape == (48, 64)
    assert images["light_field"][1].shape == (48, 64, 3)
    assert images["light_field"][2] == recording.START_NS
    assert [packet.seq for _, packet in packets] == sorted(packet.seq for _, packet in packets)
    for receive_ns, packet in packets:
        assert (packet.width, packet.height, packet.encoding) == (64, 48, "libcaer_cmp")
        assert packet.time_base < receive_ns
        assert len(packet.events) > 0
    span_ns = packets[-1][1].time_base - packets[0][1].time_base
    assert 100e6 < span_ns < 200e6


def test_a_record_without_the_sensor_is_refused():
    record = World(20_001, SMALL).record(0.0, [])
    with pytest.raises(DataError, match="holds no depth"):
        recording.x_image(record, Modality.DEPTH)
