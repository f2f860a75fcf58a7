"""Reading and writing of recordings."""

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.bags.message_types import COMPRESSED_IMAGE, EVENT_PACKET, IMAGE, new_typestore
from segrgbx_core.base.errors import DataError
from segrgbx_ros.messages.images import stamp_ns
from segrgbx_ros.replay.bags import Bag

SECOND = 1_000_000_000


@pytest.fixture
def picture(rng):
    return rng.integers(0, 60000, (4, 5), dtype=np.uint16)


def write(path, picture, storage="mcap", count=3):
    with BagWriter(path, storage=storage) as bag:
        for index in range(count):
            stamp = 5 * SECOND + index * 100
            bag.write("/a/image", bag.image(picture + index, "16UC1", stamp, "optical"), stamp + 7)
            bag.write("/b/image/compressed", bag.compressed(b"xyz", "jpeg", stamp), stamp + 9)
    return path


def read_all(path):
    with Bag(path) as bag:
        return [bag.decode(message) for message in bag.messages()]


def write_compressed(path, picture, mode, plugin):
    store = new_typestore()
    image = BagWriter(path).image(picture, "16UC1", SECOND)
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/a/image", IMAGE, typestore=store)
        writer.write(connection, SECOND, store.serialize_cdr(image, IMAGE))
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_come_back_in_receive_order(tmp_path, picture, storage):
    with Bag(write(tmp_path / "bag", picture, storage)) as bag:
        messages = list(bag.messages())
        assert [message.topic for message in messages] == ["/a/image", "/b/image/compressed"] * 3
        assert [message.receive_ns for message in messages] == sorted(
            m.receive_ns for m in messages
        )
        first = bag.decode(messages[0])
        assert (first.encoding, first.step, first.header.frame_id) == ("16UC1", 10, "optical")
        np.testing.assert_array_equal(first.data.view("<u2").reshape(4, 5), picture)
        assert bag.decode(messages[1]).format == "jpeg"
        assert stamp_ns(messages[2].raw) == 5 * SECOND + 100
        assert bag.start_ns == 5 * SECOND + 7
        assert bag.duration_s == pytest.approx(202e-9)
        assert bag.topics["/a/image"].count == 3


def test_one_topic_only(tmp_path, picture):
    with Bag(write(tmp_path / "bag", picture)) as bag:
        assert {m.topic for m in bag.messages({"/a/image"})} == {"/a/image"}
        assert list(bag.messages({"/nothing"})) == []


@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize(
    "mode", [CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE]
)
def test_compressed_recordings(tmp_path, picture, mode, plugin):
    if (mode, plugin) == (CompressionMode.STORAGE, StoragePlugin.SQLITE3):
        pytest.skip("sqlite3 has no storage compression")
    with Bag(write_compressed(tmp_path / "bag", picture, mode, plugin)) as bag:
        (message,) = bag.messages()
        np.testing.assert_array_equal(bag.decode(message).data.view("<u2").reshape(4, 5), picture)


def test_storage_identifier_may_be_empty(tmp_path, picture):
    folder = write(tmp_path / "bag", picture)
    data = yaml.safe_load((folder / "metadata.yaml").read_text())
    data["rosbag2_bagfile_information"]["storage_identifier"] = ""
    (folder / "metadata.yaml").write_text(yaml.safe_dump(data))
    with Bag(folder) as bag:
        assert len(list(bag.messages())) == 6


def test_metadata_may_be_missing_and_a_file_may_be_named(tmp_path, picture):
    folder = write(tmp_path / "bag", picture)
    with Bag(folder / "metadata.yaml") as bag:
        assert len(list(bag.messages())) == 6
    (folder / "metadata.yaml").unlink()
    (file,) = folder.iterdir()
    for path in (folder, file):
        with Bag(path) as bag:
            assert len(list(bag.messages())) == 6


def test_split_recording_without_metadata_is_read_in_order(tmp_path, picture):
    (tmp_path / "joined").mkdir()
    for index in (2, 10):
        part = write(tmp_path / f"part{index}", picture, count=1)
        next(part.glob("*.mcap")).rename(tmp_path / "joined" / f"run_{index}.mcap")
    with Bag(tmp_path / "joined") as bag:
        assert len(list(bag.messages())) == 4
        assert bag.topics["/a/image"].count == 2


def test_missing_topic_lists_what_is_there(tmp_path, picture):
    with Bag(write(tmp_path / "bag", picture)) as bag:
        with pytest.raises(
            DataError, match=r"no topic '/c'; remap it; recorded: /a/image \[sensor"
        ):
            bag.require("/c", hint="remap it")
        with pytest.raises(DataError, match=r"is sensor_msgs/msg/Image; expected .*Compressed"):
            bag.require("/a/image", [COMPRESSED_IMAGE])
        assert bag.require("/a/image", [IMAGE]).count == 3


def test_unusable_recordings_are_named(tmp_path, picture):
    with pytest.raises(DataError, match="no such recording"):
        Bag(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is no recording"):
        Bag(tmp_path / "empty")
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(DataError, match="rosbags-convert"):
        Bag(tmp_path / "old.bag")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("damage", ["cut", "noise", "nothing"])
def test_damaged_recording(tmp_path, rng, storage, damage):
    noise = rng.integers(0, 60000, (64, 64), dtype=np.uint16)
    folder = write(tmp_path / "bag", noise, storage, count=20)
    file = next(path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
    whole = file.read_bytes()
    broken = {"cut": whole[: len(whole) // 2], "noise": rng.bytes(len(whole)), "nothing": b""}
    file.write_bytes(broken[damage])
    with pytest.raises(DataError, match="cannot be read"):
        read_all(folder)


def test_damaged_metadata(tmp_path, picture):
    folder = write(tmp_path / "bag", picture)
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: [")
    with pytest.raises(DataError, match="cannot be read"):
        Bag(folder)


def test_damaged_message_names_its_topic(tmp_path, picture):
    with Bag(write(tmp_path / "bag", picture)) as bag:
        message = next(bag.messages())
        cut = type(message)(message.topic, message.type, message.receive_ns, message.raw[:20])
        with pytest.raises(DataError, match="topic '/a/image' at 5000000007 ns"):
            bag.decode(cut)


def test_event_packets_and_label_info_need_no_installation(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        types = bag.types.types
        packet = types[EVENT_PACKET](
            header=bag.image(np.zeros((1, 1), np.uint8), "mono8", 3, "dvs").header,
            height=2,
            width=3,
            seq=1,
            time_base=4,
            encoding="mono",
            is_bigendian=False,
            events=np.arange(16, dtype=np.uint8),
        )
        bag.write("/events", packet, 1)
        bag.write("/label_info", bag.label_info({0: "road", 7: "car"}, 0.25), 2, latched=True)
        bag.write("/text", bag.string("grüß"), 3)
    with Bag(tmp_path / "bag") as bag:
        decoded = [bag.decode(message) for message in bag.messages()]
        assert bag.topics["/label_info"].latched
        assert not bag.topics["/events"].latched
    assert decoded[0].encoding == "mono"
    np.testing.assert_array_equal(decoded[0].events, np.arange(16))
    assert {item.class_id: item.class_name for item in decoded[1].class_map} == {
        0: "road",
        7: "car",
    }
    assert decoded[2].data == "grüß"


def test_unknown_type_is_named_only_when_asked_for(tmp_path):
    store = new_typestore()
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/x", "odd_msgs/msg/Odd", msgdef="", rihs01="RIHS01_00")
        writer.write(
            connection,
            1,
            store.serialize_cdr(store.types["std_msgs/msg/Empty"](), "std_msgs/msg/Empty"),
        )
    with Bag(tmp_path / "bag") as bag:
        (message,) = bag.messages()
        decoded = bag.decode(message)  # the recording defines it, even if as an empty type
    assert decoded.__msgtype__ == "odd_msgs/msg/Odd"


def test_writer_refuses_to_overwrite(tmp_path, picture):
    write(tmp_path / "bag", picture)
    with pytest.raises(DataError, match="exists already"):
        BagWriter(tmp_path / "bag")


def test_nothing_remains_after_an_error(tmp_path, picture):
    def fail():
        with BagWriter(tmp_path / "bag") as bag:
            bag.write("/a", bag.image(picture, "16UC1", 1), 1)
            raise RuntimeError("full disk")

    with pytest.raises(RuntimeError):
        fail()
    assert not (tmp_path / "bag").exists()


def test_big_endian_arrays_are_written_in_little_endian(tmp_path, picture):
    with BagWriter(tmp_path / "bag") as bag:
        message = bag.image(picture.astype(">u2"), "16UC1", 0)
    np.testing.assert_array_equal(message.data.view("<u2").reshape(4, 5), picture)
