"""Reads recordings: rosbag2 folders and files, without a ROS installation.

`Bag` hands out raw messages in the order in which they were received; `decode` turns one into an
object with the fields of its ROS type, whose arrays are numpy views of the raw bytes.

The storage files speak for themselves: `metadata.yaml` only says in which order they come. So a
folder without it, with a wrong one, or with a part that cannot be read still gives what is whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any

from rosbags.interfaces import Connection, MessageDefinitionFormat, Qos, QosDurability
from rosbags.typesys import get_types_from_idl, get_types_from_msg

from segrgbx_core.bags.message_types import new_typestore
from segrgbx_core.base.config import read_mapping
from segrgbx_core.base.errors import ConfigError, DataError, shortened
from segrgbx_ros.replay.bag_files import (
    BagFile,
    is_storage,
    library_faults,
    natural_order,
    unpacked_message,
)

_METADATA = "metadata.yaml"
_LISTED = 40
"""Topics that an error lists."""


@dataclass(frozen=True)
class Topic:
    """A topic of a recording.

    Attributes:
        name: full topic name.
        type: ROS type, such as `sensor_msgs/msg/Image`.
        count: number of messages.
        profiles: what its publishers offered when it was recorded; empty where that is not known.
    """

    name: str
    type: str
    count: int
    profiles: tuple[Qos, ...] = ()

    @property
    def latched(self) -> bool:
        """True where the recorded publisher kept its last message for late subscribers."""
        return any(one.durability is QosDurability.TRANSIENT_LOCAL for one in self.profiles)


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
    """An open recording; use it in a `with` block.

    Topics in other serialisations than CDR (JSON, protobuf) are passed over.

    Args:
        path: rosbag2 folder, its `metadata.yaml`, or one `.mcap` or `.db3` file; compressed ones
            (`.zstd`, `.zst`) too.

    Attributes:
        warnings: one sentence for each part that is missing or cannot be read.

    Raises:
        DataError: when it is missing or foreign, or no part of it can be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.warnings: list[str] = []
        self._stack = ExitStack()
        self._files: list[BagFile] = []
        self._typestore = new_typestore()
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

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
        """Closes the files."""
        self._stack.close()

    @property
    def topics(self) -> dict[str, Topic]:
        """Topics by name, in alphabetical order."""
        topics: dict[str, Topic] = {}
        for item in sorted(self._connections(), key=lambda connection: connection.topic):
            known = topics.get(item.topic)
            profiles = tuple(getattr(item.ext, "offered_qos_profiles", ()))
            count = item.msgcount + (known.count if known else 0)
            profiles = known.profiles if known and known.profiles else profiles
            topics[item.topic] = Topic(item.topic, item.msgtype, count, profiles)
        return topics

    @property
    def start_ns(self) -> int:
        """Receive time of the first message in ns; 0 for an empty recording."""
        return min((file.start_ns for file in self._files if file.count), default=0)

    @property
    def duration_s(self) -> float:
        """Time between the first and the last message in s."""
        end_ns = max((file.end_ns for file in self._files if file.count), default=0)
        return max(end_ns - self.start_ns, 0) / 1e9

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
                f"{self.path}: topic '{name}' is {shortened(topic.type)}; expected "
                f"{' or '.join(types)};{lead} recorded: {self.listing()}"
            )
        return topic

    def listing(self) -> str:
        """Topics with types and counts on one line."""
        topics = list(self.topics.values())
        items = [
            f"{shortened(topic.name)} [{shortened(topic.type)}, {topic.count}]"
            for topic in topics[:_LISTED]
        ]
        if len(topics) > _LISTED:
            items.append(f"and {len(topics) - _LISTED} more")
        return ", ".join(items) or "nothing"

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Recorded]:
        """Messages in receive order.

        A part that turns out damaged ends there with a warning; the parts after it follow.

        Args:
            topics: names to read, None for all.

        Raises:
            DataError: where the recording has one part and that is damaged.
        """
        for file in self._files:
            wanted = [one for one in file.connections if topics is None or one.topic in topics]
            if not wanted:
                continue
            try:
                for connection, receive_ns, raw in file.messages(wanted):
                    yield Recorded(connection.topic, connection.msgtype, receive_ns, raw)
            except DataError as error:
                if len(self._files) == 1:
                    raise
                self._warn(f"{error}; what follows in this part is left out")

    def decode(self, message: Recorded) -> Any:
        """The message as an object with the fields of its ROS type.

        Raises:
            DataError: when the type is unknown or the bytes do not fit it.
        """
        topic, kind = shortened(message.topic), message.type
        if kind not in self._typestore.types:
            raise DataError(
                f"{self.path}: topic '{topic}': no definition of type {shortened(kind)}"
            )
        place = f"{self.path}: topic '{topic}' at {message.receive_ns} ns: no {shortened(kind)}"
        with library_faults(place):
            return self._typestore.deserialize_cdr(unpacked_message(message.raw), kind)

    def _open(self) -> None:
        faults = []
        for path in self._paths():
            try:
                file = self._stack.enter_context(BagFile(path))
            except DataError as error:
                faults.append(error)
                continue
            self._files.append(file)
            if file.warning:
                self._warn(file.warning)
            for connection in file.connections:
                self._learn(connection)
        if not self._files:
            raise faults[0]
        for fault in faults:
            self._warn(f"{fault}; the other parts are read")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _connections(self) -> list[Connection]:
        return [connection for file in self._files for connection in file.connections]

    def _learn(self, connection: Connection) -> None:
        """Registers a type that comes with the recording; known types keep their definition."""
        if connection.msgtype in self._typestore.types:
            return
        definition = connection.msgdef
        definitions: Mapping[str, Any] = {}
        try:
            with library_faults(f"type {connection.msgtype}"):
                if definition.format == MessageDefinitionFormat.MSG:
                    definitions = get_types_from_msg(definition.data, connection.msgtype)
                elif definition.format == MessageDefinitionFormat.IDL:
                    definitions = get_types_from_idl(definition.data)
                self._typestore.register(
                    {
                        name: one
                        for name, one in definitions.items()
                        if name not in self._typestore.types
                    }
                )
        except DataError:
            return  # decode() raises where this type is needed

    def _paths(self) -> list[Path]:
        """Storage files to open, in order."""
        if not self.path.exists():
            raise DataError(f"{self.path}: no such recording; check the path")
        if self.path.suffix == ".bag":
            raise DataError(
                f"{self.path}: is a ROS 1 bag; convert it with "
                f"'rosbags-convert --src {self.path} --dst {self.path.stem}'"
            )
        if self.path.is_file() and self.path.name != _METADATA:
            return [self.path]
        folder = self.path if self.path.is_dir() else self.path.parent
        with _directory_faults(folder):
            present = sorted(filter(is_storage, folder.iterdir()), key=natural_order)
        listed = self._listed(folder)
        missing = [path for path in listed if path not in present]
        if listed and present and len(missing) == len(listed):
            names = ", ".join(shortened(path.name) for path in present)
            self._warn(
                f"{folder}: none of the files that {_METADATA} names is there; read are {names}"
            )
            return present
        for path in missing:
            self._warn(f"{path}: is missing; the other parts are read")
        paths = [path for path in listed if path in present] or present
        if not paths:
            raise DataError(f"{folder}: {_why_empty(folder)}")
        return paths

    def _listed(self, folder: Path) -> list[Path]:
        """The files that the metadata names; empty where there is no metadata to be read."""
        path = folder / _METADATA
        if not path.exists():
            return []
        try:
            info = read_mapping(path).get("rosbag2_bagfile_information")
        except ConfigError as error:
            self._warn(f"{error}; the storage files are read without it")
            return []
        names = info.get("relative_file_paths") if isinstance(info, Mapping) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._warn(f"{path}: names no storage files; those beside it are read")
            return []
        return [folder / PurePath(name).name for name in names]


@contextmanager
def _directory_faults(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None


def _why_empty(folder: Path) -> str:
    inner = sorted(path.name for path in folder.iterdir() if (path / _METADATA).exists())
    if inner:
        return f"is no recording but holds some: {', '.join(inner[:5])}; name one of them"
    if (folder / _METADATA).exists():
        return f"{_METADATA} is there, its storage files (*.mcap, *.db3) are missing"
    return f"is no recording (neither {_METADATA}, *.mcap nor *.db3)"
