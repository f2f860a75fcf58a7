"""Reading and writing of recordings."""

import re
import sqlite3
import struct
import sys
import tracemalloc
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.bags.message_types import COMPRESSED_IMAGE, EVENT_PACKET, IMAGE, new_typestore
from segrgbx_core.base.errors import DataError
from segrgbx_ros.messages.images import stamp_ns
from segrgbx_ros.replay.bags import Bag

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

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


CAUSES = {
    ("mcap", "cut"): "ends without its index, as a killed recorder or an interrupted copy",
    ("mcap", "noise"): "is no MCAP file, whatever its name says",
    ("mcap", "nothing"): "is empty; the recorder wrote nothing into it",
    ("mcap", "spoilt"): "cannot be read: (its bytes do not fit together|[A-Z].* )",
    ("sqlite3", "cut"): r"holds \d+ of its \d+ bytes, as an interrupted copy leaves it",
    ("sqlite3", "noise"): "is no SQLite database, whatever its name says",
    ("sqlite3", "nothing"): "is empty; the recorder wrote nothing into it",
    ("sqlite3", "spoilt"): "cannot be read: .*(malformed|corrupt|SQL)",
}


def spoil(data, damage, rng):
    if damage == "spoilt":  # first and last bytes stay as they are
        return data[:120] + rng.bytes(len(data) - 240) + data[-120:]
    return {"cut": data[: len(data) // 2], "noise": rng.bytes(len(data)), "nothing": b""}[damage]


@pytest.mark.parametrize(("storage", "damage"), CAUSES)
def test_of_a_damaged_recording_the_true_cause_is_named(tmp_path, rng, storage, damage):
    noise = rng.integers(0, 60000, (64, 64), dtype=np.uint16)
    folder = write(tmp_path / "bag", noise, storage, count=20)
    file = next(path for path in folder.iterdir() if path.suffix in (".mcap", ".db3"))
    file.write_bytes(spoil(file.read_bytes(), damage, rng))
    with pytest.raises(DataError, match=CAUSES[storage, damage]) as caught:
        read_all(folder)
    assert str(file) in str(caught.value)
    assert ("killed" in str(caught.value)) == ((storage, damage) == ("mcap", "cut"))


def test_a_file_that_may_not_be_read_is_named(tmp_path, picture, monkeypatch):
    folder = write(tmp_path / "bag", picture)
    opened = Path.open

    def refuse(path, *arguments, **more):
        if path.suffix == ".mcap":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"bag\.mcap: cannot be read .Permission denied"):
        Bag(folder)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rosbag2_bagfile_information: {version: [", "line 1: is not YAML"),
        ("- 1", "holds list; expected names with values; the storage files are read without"),
        ("rosbag2_bagfile_information: 3", "names no storage files; those beside it are read"),
        ("rosbag2_bagfile_information: {relative_file_paths: [3]}", "names no storage files"),
        (b"\xff\xfe", "is not YAML: byte 0 is not UTF-8"),
    ],
)
def test_metadata_that_cannot_be_read_is_done_without(tmp_path, picture, text, complaint):
    folder = write(tmp_path / "bag", picture)
    (folder / "metadata.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with Bag(folder) as bag:
        assert len(list(bag.messages())) == 6
        assert re.search(complaint, bag.warnings[0])
        assert "metadata.yaml" in bag.warnings[0]


def split(folder, rng, storage="mcap", parts=3):
    """A recording of several files of two messages each, with its metadata."""
    names = []
    for index in range(parts):
        noise = rng.integers(0, 60000, (64, 64), dtype=np.uint16)
        part = write(folder.parent / f"{folder.name}_{index}", noise, storage, count=1)
        file = next(path for path in part.iterdir() if path.name != "metadata.yaml")
        names.append(f"run_{index}{file.suffix}")
        folder.mkdir(exist_ok=True)
        file.rename(folder / names[-1])
    data = yaml.safe_load((part / "metadata.yaml").read_text())
    data["rosbag2_bagfile_information"]["relative_file_paths"] = names
    (folder / "metadata.yaml").write_text(yaml.safe_dump(data))
    return [folder / name for name in names]


@pytest.mark.parametrize("has_metadata", [True, False])
@pytest.mark.parametrize("damage", ["cut", "noise", "nothing", "missing"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_whole_parts_are_read_and_the_bad_one_is_named(
    tmp_path, rng, storage, damage, has_metadata
):
    files = split(tmp_path / "run", rng, storage)
    if damage == "missing":
        files[1].unlink()
    else:
        files[1].write_bytes(spoil(files[1].read_bytes(), damage, rng))
    if not has_metadata:
        (tmp_path / "run" / "metadata.yaml").unlink()
    with Bag(tmp_path / "run") as bag:
        assert len(list(bag.messages())) == 4
        warnings = list(bag.warnings)
        assert bag.topics["/a/image"].count in (2, 3)  # a cut database states what it had
    if damage == "missing" and not has_metadata:
        assert warnings == []
    else:
        assert len(warnings) == 1
        assert warnings[0].startswith(f"{files[1]}: ")


def test_files_renamed_after_recording_are_read(tmp_path, rng):
    files = split(tmp_path / "run", rng, parts=1)
    files[0].rename(files[0].with_name("drive.mcap"))
    with Bag(tmp_path / "run") as bag:
        assert len(list(bag.messages())) == 2
        (warning,) = bag.warnings
    assert "none of the files that metadata.yaml names is there; read are drive.mcap" in warning


def test_a_folder_of_recordings_names_them(tmp_path, picture):
    for name in ("run2", "run1"):
        write(tmp_path / name, picture)
    with pytest.raises(DataError, match="is no recording but holds some: run1, run2; name one"):
        Bag(tmp_path)


def test_messages_beside_the_database_are_told(tmp_path, picture):
    folder = write(tmp_path / "bag", picture, "sqlite3")
    (folder / "bag.db3-wal").write_bytes(b"messages")
    with Bag(folder) as bag:
        assert len(list(bag.messages())) == 6
        (warning,) = bag.warnings
    assert "bag.db3-wal, where a killed recorder left them, are not read" in warning


# ---- MCAP as other programs write it


def record(code, *parts):
    body = b"".join(parts)
    return struct.pack("<BQ", code, len(body)) + body


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<I", len(raw)) + raw


MAGIC = b"\x89MCAP0\r\n"


def mcap(path, channels, profile="ros2", chunk=None):
    """A file of one message per channel, each of (topic, encoding, schema, its encoding, data)."""
    body = b""
    for number, (topic, encoding, name, form, schema, data) in enumerate(channels, 1):
        if name:
            body += record(0x03, struct.pack("<H", number), text(name), text(form), text(schema))
        head = struct.pack("<HH", number, number if name else 0)
        body += record(0x04, head, text(topic), text(encoding), text(b""))
        body += record(0x05, struct.pack("<HIQQ", number, 0, 5, 5), data)
    if chunk is not None:
        compression, packed, size = chunk(body)
        head = struct.pack("<QQQI", 5, 5, size, 0)
        body = record(0x06, head, text(compression), struct.pack("<Q", len(packed)), packed)
    end = record(0x0F, struct.pack("<I", 0)) + record(0x02, struct.pack("<QQI", 0, 0, 0))
    path.write_bytes(MAGIC + record(0x01, text(profile), text("test")) + body + end + MAGIC)
    return path


def string(value):
    store = new_typestore()
    kind = store.types["std_msgs/msg/String"]
    return bytes(store.serialize_cdr(kind(data=value), "std_msgs/msg/String"))


ROS = ("/said", "cdr", "std_msgs/msg/String", "ros2msg", "string data", string("hello"))
FOREIGN = [
    ("/ui/grid", "json", "foxglove.Grid", "jsonschema", "{}", b"{}"),
    ("/ui/pose", "protobuf", "foxglove.Pose", "protobuf", b"\x0a\xff\xfe\x80", b"\x08\x01"),
    ("/log", "json", "", "", "", b"{}"),
    ("/flat", "flatbuffer", "Odd", "flatbuffer", b"\xc3\x28", b"x"),
    ("/ros1", "ros1", "std_msgs/String", "ros1msg", "string data", b"\0\0\0\0"),
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda channel: channel[1])
def test_channels_of_another_kind_are_passed_over(tmp_path, foreign):
    with Bag(mcap(tmp_path / "a.mcap", [foreign, ROS])) as bag:
        assert list(bag.topics) == ["/said"]
        (message,) = bag.messages()
        assert bag.decode(message).data == "hello"


def test_a_file_of_another_profile_says_so(tmp_path):
    with pytest.raises(DataError, match="cannot be read: Profile is not ros2"):
        Bag(mcap(tmp_path / "a.mcap", FOREIGN[:1], profile=""))


@pytest.mark.parametrize("claim", ["honest", "small", "huge"])
@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_chunks_cannot_fill_the_memory(tmp_path, kind, claim):
    pack = {"zstd": zstd.compress, "lz4": lz4.frame.compress}[kind]

    def chunk(body):
        if claim == "honest":
            return kind, pack(body), len(body)
        padded = body + record(0x80, bytes(300 << 20))
        return kind, pack(padded), len(body) if claim == "small" else 1 << 40

    path = mcap(tmp_path / "a.mcap", [ROS], chunk=chunk)
    tracemalloc.start()
    try:
        if claim == "honest":
            with Bag(path) as bag:
                assert bag.topics["/said"].count == 1
        else:
            with pytest.raises(DataError, match=r"unpack to more than|a chunk claims 10995"):
                Bag(path)
        assert tracemalloc.get_traced_memory()[1] < 60 << 20
    finally:
        tracemalloc.stop()


# ---- compressed as a whole or by message


@pytest.mark.parametrize("suffix", [".zstd", ".zst"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("place", ["file", "folder", "metadata"])
def test_compressed_files_are_read_with_and_without_metadata(
    tmp_path, rng, storage, suffix, place
):
    files = split(tmp_path / "run", rng, storage)
    packed = [file.with_name(file.name + suffix) for file in files]
    for file, target in zip(files, packed, strict=True):
        target.write_bytes(zstd.compress(file.read_bytes()))
        file.unlink()
    metadata = tmp_path / "run" / "metadata.yaml"
    if place == "metadata":
        data = yaml.safe_load(metadata.read_text())
        data["rosbag2_bagfile_information"]["relative_file_paths"] = [one.name for one in packed]
        metadata.write_text(yaml.safe_dump(data))
    else:
        metadata.unlink()
    with Bag(packed[0] if place == "file" else tmp_path / "run") as bag:
        assert len(list(bag.messages())) == (2 if place == "file" else 6)
        assert bag.warnings == []


def test_messages_compressed_one_by_one_need_no_metadata(tmp_path, picture):
    folder = write_compressed(
        tmp_path / "bag", picture, CompressionMode.MESSAGE, StoragePlugin.SQLITE3
    )
    (folder / "metadata.yaml").unlink()
    with Bag(folder) as bag:
        (message,) = bag.messages()
        np.testing.assert_array_equal(bag.decode(message).data.view("<u2").reshape(4, 5), picture)


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_damaged_compressed_files_are_named(tmp_path, rng, picture, damage):
    folder = write(tmp_path / "bag", picture)
    data = spoil(zstd.compress((folder / "bag.mcap").read_bytes()), damage, rng)
    path = tmp_path / "a.mcap.zstd"
    path.write_bytes(data)
    complaint = "is no zstd file" if damage == "noise" else "cannot be read: it ends early"
    with pytest.raises(DataError, match=complaint):
        Bag(path)


def test_a_full_disk_is_named_when_unpacking(tmp_path, picture, monkeypatch):
    folder = write(tmp_path / "bag", picture)
    path = tmp_path / "a.mcap.zstd"
    path.write_bytes(zstd.compress((folder / "bag.mcap").read_bytes()))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(DataError, match=r"cannot be unpacked in .*No space left.*; set TMPDIR"):
        Bag(path)


@pytest.mark.parametrize("form", ["unknown", ""])
def test_a_database_may_lack_the_definition_of_a_type(tmp_path, picture, form):
    folder = write(tmp_path / "bag", picture, "sqlite3")
    with sqlite3.connect(folder / "bag.db3") as database:
        database.execute(
            "UPDATE message_definitions SET encoding = ?, encoded_message_definition = '' "
            "WHERE topic_type LIKE '%/Image'",
            (form,),
        )
    database.close()
    for path in (folder, folder / "bag.db3"):
        with Bag(path) as bag:
            assert bag.decode(next(bag.messages({"/a/image"}))).encoding == "16UC1"


def test_definitions_that_cannot_be_parsed_cost_their_topic_only(tmp_path):
    odd = ("/odd", "cdr", "my_msgs/msg/Odd", "ros2msg", "int32 [[", b"\0\1\0\0")
    with Bag(mcap(tmp_path / "a.mcap", [odd, ROS])) as bag:
        first, second = bag.messages()
        with pytest.raises(DataError, match="no definition of type my_msgs/msg/Odd"):
            bag.decode(first)
        assert bag.decode(second).data == "hello"


def test_foreign_names_are_cut_in_errors(tmp_path):
    channels = [("/" + "long" * 50 + str(n), *ROS[1:]) for n in range(100)]
    with Bag(mcap(tmp_path / "a.mcap", channels)) as bag, pytest.raises(DataError) as caught:
        bag.require("/rgb")
    assert "and 60 more" in str(caught.value)
    assert len(str(caught.value)) < 6000


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
