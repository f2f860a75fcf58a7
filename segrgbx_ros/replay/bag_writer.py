"""Writes recordings: new rosbag2 folders, without a ROS installation."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
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
from rosbags.rosbag2 import StoragePlugin, Writer

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.samples import Array
from segrgbx_ros.replay.bags import COMPRESSED_IMAGE, IMAGE, LABEL_INFO, STRING, new_typestore


class BagWriter:
    """Writes a new recording; use it in a `with` block, which removes it after an error.

    Args:
        path: folder to make; it must not exist.
        storage: `mcap` or `sqlite3`.

    Raises:
        DataError: when the folder exists or cannot be made.
    """

    def __init__(self, path: Path | str, storage: str = "mcap") -> None:
        self.path = Path(path)
        self.types = new_typestore()
        if self.path.exists():
            raise DataError(f"{self.path}: exists already; choose another folder or remove it")
        plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[storage]
        self._writer = Writer(self.path, version=9, storage_plugin=plugin)
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
        self._writer.close()
        if kind is not None:  # half a recording is worse than none
            shutil.rmtree(self.path, ignore_errors=True)

    def write(self, topic: str, message: Any, receive_ns: int, *, latched: bool = False) -> None:
        """Appends a message made with `image`, `compressed`, `string` or from `types`.

        Args:
            topic: full topic name.
            message: message object of the type store.
            receive_ns: receive time in ns; written in this order.
            latched: True to offer it to late subscribers; the first message of a topic decides.
        """
        kind = message.__msgtype__
        if topic not in self._connections:
            profiles = [_LATCHED] if latched else []
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self.types, offered_qos_profiles=profiles
            )
        raw = self.types.serialize_cdr(message, kind)
        self._writer.write(self._connections[topic], receive_ns, raw)

    def image(self, array: Array, encoding: str, stamp_ns: int, frame_id: str = "") -> Any:
        """An Image message; `array` is (H, W) or (H, W, C) in the encoding's own layout."""
        array = np.ascontiguousarray(array)
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8)
        return self.types.types[IMAGE](
            header=self._header(stamp_ns, frame_id),
            height=array.shape[0],
            width=array.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=len(data) // array.shape[0],
            data=data,
        )

    def compressed(self, data: bytes, form: str, stamp_ns: int, frame_id: str = "") -> Any:
        """A CompressedImage message; `form` is its format field (`rgb8; jpeg compressed bgr8`)."""
        return self.types.types[COMPRESSED_IMAGE](
            header=self._header(stamp_ns, frame_id),
            format=form,
            data=np.frombuffer(data, np.uint8),
        )

    def string(self, text: str) -> Any:
        """A String message."""
        return self.types.types[STRING](data=text)

    def label_info(self, names: Mapping[int, str], threshold: float, frame_id: str = "") -> Any:
        """A LabelInfo message: which id stands for which class."""
        entry = self.types.types["vision_msgs/msg/VisionClass"]
        return self.types.types[LABEL_INFO](
            header=self._header(0, frame_id),
            class_map=[entry(class_id=number, class_name=name) for number, name in names.items()],
            threshold=threshold,
        )

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        time = self.types.types["builtin_interfaces/msg/Time"]
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        header = self.types.types["std_msgs/msg/Header"]
        return header(stamp=time(sec=sec, nanosec=nanosec), frame_id=frame_id)


_LATCHED = Qos(
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.TRANSIENT_LOCAL,
    deadline=QosTime(2147483647, 4294967295),
    lifespan=QosTime(2147483647, 4294967295),
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=QosTime(2147483647, 4294967295),
    avoid_ros_namespace_conventions=False,
)
