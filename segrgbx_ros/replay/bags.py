"""Reads recordings: rosbag2 folders and files, without a ROS installation.

`Bag` hands out raw messages in the order in which they were received; `decode` turns one into an
object with the fields of its ROS type, whose arrays are numpy views of the raw bytes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from rosbags.interfaces import (
    Connection,
    MessageDefinitionFormat,
    QosDurability,
)
from rosbags.rosbag2 import Reader
from rosbags.typesys import TypesysError, get_types_from_idl, get_types_from_msg

from segrgbx_core.bags.message_types import new_typestore
from segrgbx_core.base.errors import DataError, SegrgbxError


@dataclass(frozen=True)
class Topic:
    """A topic of a recording.

    Attributes:
        name: full topic name.
        type: ROS type, such as `sensor_msgs/msg/Image`.
        count: number of messages.
        latched: True where the recorded publisher kept its last message for late subscribers.
    """

    name: str
    type: str
    count: int
    latched: bool = False


@dataclass(frozen=True, eq=False)
class Recorded:
    """One message as it lies in a recording.

    Attributes:
        topic: recorded topic name.
        type: ROS type.
        receive_ns: when the recorder received it, in ns.
        raw: CDR bytes, with the four bytes of encapsulation.
    """

    topic: str
    type: str
    receive_ns: int
    raw: bytes


class Bag:
    """An open recording: a rosbag2 folder or one `.mcap` or `.db3` file; use it in a `with` block.

    Args:
        path: folder or file; compressed ones are read too.

    Raises:
        DataError: when it is missing, foreign or damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._stack = ExitStack()
        self._readers: list[Reader] = []
        self._typestore = new_typestore()
        with self._faults():
            for part in self._parts():
                self._readers.append(self._stack.enter_context(Reader(part)))
            for connection in self._connections():
                self._learn(connection)

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets the files go."""
        self._stack.close()

    @property
    def topics(self) -> dict[str, Topic]:
        """Topics by name, in alphabetical order."""
        found: dict[str, Topic] = {}
        for item in sorted(self._connections(), key=lambda connection: connection.topic):
            count = item.msgcount + (found[item.topic].count if item.topic in found else 0)
            profiles = getattr(item.ext, "offered_qos_profiles", ())
            latched = any(qos.durability is QosDurability.TRANSIENT_LOCAL for qos in profiles)
            found[item.topic] = Topic(item.topic, item.msgtype, count, latched)
        return found

    @property
    def start_ns(self) -> int:
        """Receive time of the first message in ns; 0 for an empty recording."""
        return min((reader.start_time for reader in self._filled()), default=0)

    @property
    def duration_s(self) -> float:
        """Time between the first and the last message in s."""
        end = max((reader.end_time for reader in self._filled()), default=0)
        return max(end - 1 - self.start_ns, 0) / 1e9

    def require(self, name: str, types: Collection[str] = (), hint: str = "") -> Topic:
        """The topic of this name.

        Args:
            name: full topic name.
            types: allowed ROS types, empty for any.
            hint: what to do about it, put before the list of topics.

        Raises:
            DataError: when the topic is missing or of another type; lists what is there.
        """
        topic = self.topics.get(name)
        lead = f" {hint};" if hint else ""
        if topic is None:
            raise DataError(f"{self.path}: no topic '{name}';{lead} recorded: {self.listing()}")
        if types and topic.type not in types:
            raise DataError(
                f"{self.path}: topic '{name}' is {topic.type}; expected {' or '.join(types)};"
                f"{lead} recorded: {self.listing()}"
            )
        return topic

    def listing(self) -> str:
        """Topics with types and counts on one line."""
        items = [f"{topic.name} [{topic.type}, {topic.count}]" for topic in self.topics.values()]
        return ", ".join(items) or "nothing"

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Recorded]:
        """Messages in receive order.

        Args:
            topics: names to read, None for all.

        Raises:
            DataError: where the recording is damaged.
        """
        with self._faults():
            for reader in self._readers:
                wanted = [
                    connection
                    for connection in reader.connections
                    if topics is None or connection.topic in topics
                ]
                if not wanted:
                    continue
                for connection, receive_ns, raw in reader.messages(wanted):
                    yield Recorded(connection.topic, connection.msgtype, receive_ns, bytes(raw))

    def decode(self, message: Recorded) -> Any:
        """The message as an object with the fields of its ROS type.

        Raises:
            DataError: when the type is unknown or the bytes do not fit it.
        """
        if message.type not in self._typestore.types:
            raise DataError(
                f"{self.path}: topic '{message.topic}': no definition of type {message.type}"
            )
        with self._faults(f"topic '{message.topic}' at {message.receive_ns} ns: "):
            return self._typestore.deserialize_cdr(message.raw, message.type)

    def _connections(self) -> list[Connection]:
        return [connection for reader in self._readers for connection in reader.connections]

    def _filled(self) -> list[Reader]:
        return [reader for reader in self._readers if reader.message_count]

    def _learn(self, connection: Connection) -> None:
        """Registers a type that comes with the recording; known types keep their definition."""
        definition = connection.msgdef
        if connection.msgtype in self._typestore.types:
            return
        try:
            if definition.format == MessageDefinitionFormat.MSG:
                found = get_types_from_msg(definition.data, connection.msgtype)
            elif definition.format == MessageDefinitionFormat.IDL:
                found = get_types_from_idl(definition.data)
            else:
                return
            self._typestore.register(
                {name: kind for name, kind in found.items() if name not in self._typestore.types}
            )
        except TypesysError:
            return  # decode() says so if anybody asks for this type

    def _parts(self) -> list[Path]:
        """Folder or files to open, after repair of what recorders leave incomplete."""
        if not self.path.exists():
            raise DataError(f"{self.path}: no such recording; check the path")
        if self.path.suffix == ".bag":
            raise DataError(
                f"{self.path}: is a ROS 1 bag; convert it with "
                f"'rosbags-convert --src {self.path} --dst {self.path.stem}'"
            )
        if self.path.is_file():
            if self.path.name == "metadata.yaml":
                return [self._repaired(self.path.parent)]
            return [self.path]
        if not (self.path / "metadata.yaml").exists():
            # The recorder was killed before it wrote the summary; the storage files may still do.
            files = sorted([*self.path.glob("*.mcap"), *self.path.glob("*.db3")], key=_natural)
            if not files:
                raise DataError(
                    f"{self.path}: is no recording (neither metadata.yaml, *.mcap nor *.db3)"
                )
            return files
        return [self._repaired(self.path)]

    def _repaired(self, folder: Path) -> Path:
        """The folder itself, or a linked copy with the storage identifier that it lacks."""
        text = (folder / "metadata.yaml").read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        info = data.get("rosbag2_bagfile_information") if isinstance(data, Mapping) else None
        if not isinstance(info, dict) or info.get("storage_identifier"):
            return folder
        names = [Path(name).name for name in info.get("relative_file_paths", [])]
        info["storage_identifier"] = (
            "mcap" if any(".mcap" in name for name in names) else "sqlite3"
        )
        copy = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        for name in names:
            (copy / name).symlink_to((folder / name).resolve())
        (copy / "metadata.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        return copy

    @contextmanager
    def _faults(self, place: str = "") -> Iterator[None]:
        """Turns whatever a storage library raises into one sentence."""
        try:
            yield
        except SegrgbxError:
            self._stack.close()
            raise
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except Exception as error:  # sqlite, zstd, lz4, yaml and rosbags share no base class
            if not place:
                self._stack.close()
            raise DataError(
                f"{self.path}: {place}cannot be read ({_sentence(error)}); "
                "a killed recorder leaves such files: try 'ros2 bag reindex' or 'mcap recover'"
            ) from error


def _sentence(error: Exception) -> str:
    """A library's message without its line breaks and final stop."""
    text = " ".join(str(error).split()).rstrip(".")
    return text or type(error).__name__


def _natural(path: Path) -> list[int | str]:
    """Sorts `run_10.mcap` after `run_9.mcap`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
