"""Writes recordings: new rosbag2 folders, without a ROS installation."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from segrgbx_core.bags.message_types import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    LABEL_INFO,
    STRING,
    new_typestore,
)
from segrgbx_core.base.errors import DataError
from segrgbx_core.base.samples import Array

_VERSION = 8
"""Of the metadata; older distributions cannot read the QoS profiles of newer ones."""


class BagWriter:
    """Writes a new recording; use it in a `with` block, which removes it after an error.

    Args:
        path: folder to make; it must not exist.
        storage: `mcap` or `sqlite3`.
        compress: True to compress with zstd: chunks of an mcap file, messages of a database.
        origin: what the recording is, put into its metadata.

    Raises:
        DataError: when the folder exists or cannot be created.
    """

    def __init__(
        self, path: Path | str, storage: str = "mcap", *, compress: bool = False, origin: str = ""
    ) -> None:
        self.path = Path(path)
        self.types = new_typestore()
        if self.path.exists():
            raise DataError(f"{self.path}: exists already; choose another folder or remove it")
        plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
        self._writer = Writer(self.path, version=_VERSION, storage_plugin=plugin)
        if compress:
            is_mcap = plugin is StoragePlugin.MCAP
            mode = CompressionMode.STORAGE if is_mcap else CompressionMode.MESSAGE
            self._writer.set_compression(mode, CompressionFormat.ZSTD)
        if origin:
            self._writer.set_custom_data("origin", origin)
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        try:
            self._writer.open()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written ({error.strerror})") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._writer.close()
            return
        self._writer.abort()
        shutil.rmtree(self.path, ignore_errors=True)  # half a recording is worse than none

    def write(self, topic: str, message: Any, receive_ns: int, *, latched: bool = False) -> None:
        """Appends a message made with `message`, `image`, `compressed` or `string`.

        Args:
            topic: full topic name.
            message: message object of the type store.
            receive_ns: receive time in ns; written in this order.
            latched: True to offer it to late subscribers; the first message of a topic decides.
        """
        kind = message.__msgtype__
        raw = self.types.serialize_cdr(message, kind)
        self.write_raw(topic, kind, raw, receive_ns, [LATCHED if latched else RELIABLE])

    def write_raw(
        self,
        topic: str,
        kind: str,
        raw: bytes | memoryview,
        receive_ns: int,
        profiles: Sequence[Qos] = (),
    ) -> None:
        """Appends a serialised message.

        Args:
            topic: full topic name.
            kind: ROS type.
            raw: CDR bytes.
            receive_ns: receive time in ns; written in this order.
            profiles: what the topic's publishers offered; those of its first message are kept.
        """
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self.types, offered_qos_profiles=profiles
            )
        try:
            self._writer.write(self._connections[topic], receive_ns, raw)
        except OSError as error:  # the disk is full
            raise DataError(f"{self.path}: cannot be written ({error.strerror})") from None

    def message(self, kind: str, stamp_ns: int, frame_id: str = "", **fields: Any) -> Any:
        """A message of any type with a header.

        Args:
            kind: ROS type.
            stamp_ns: stamp of its header.
            frame_id: frame of its header.
            fields: the others; the `roi` of a CameraInfo is the whole image where it is left out.
        """
        if kind == CAMERA_INFO and "roi" not in fields:
            region = self.types.types["sensor_msgs/msg/RegionOfInterest"]
            fields["roi"] = region(0, 0, 0, 0, do_rectify=False)
        return self.types.types[kind](header=self._header(stamp_ns, frame_id), **fields)

    def image(self, array: Array, encoding: str, stamp_ns: int, frame_id: str = "") -> Any:
        """An Image message; `array` is (H, W) or (H, W, C) in the encoding's own layout."""
        array = np.ascontiguousarray(array)
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
        return self.message(
            IMAGE,
            stamp_ns,
            frame_id,
            height=array.shape[0],
            width=array.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=len(data) // array.shape[0],
            data=data,
        )

    def compressed(self, data: bytes, form: str, stamp_ns: int, frame_id: str = "") -> Any:
        """A CompressedImage message; `form` is its format field (`rgb8; jpeg compressed bgr8`)."""
        coded = np.frombuffer(data, np.uint8)
        return self.message(COMPRESSED_IMAGE, stamp_ns, frame_id, format=form, data=coded)

    def string(self, text: str) -> Any:
        """A String message."""
        return self.types.types[STRING](data=text)

    def label_info(self, names: Mapping[int, str], threshold: float, frame_id: str = "") -> Any:
        """A LabelInfo message: which id stands for which class."""
        entry = self.types.types["vision_msgs/msg/VisionClass"]
        classes = [entry(class_id=number, class_name=name) for number, name in names.items()]
        return self.message(LABEL_INFO, 0, frame_id, class_map=classes, threshold=threshold)

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        time = self.types.types["builtin_interfaces/msg/Time"]
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        header = self.types.types["std_msgs/msg/Header"]
        return header(stamp=time(sec=sec, nanosec=nanosec), frame_id=frame_id)


_FOREVER = QosTime(9223372036, 854775807)


def _profile(depth: int, durability: QosDurability) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE,
        durability=durability,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


RELIABLE = _profile(10, QosDurability.VOLATILE)
LATCHED = _profile(1, QosDurability.TRANSIENT_LOCAL)
