"""The message types that recordings hold, without a ROS installation."""

from __future__ import annotations

from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
EVENT_PACKET = "event_camera_msgs/msg/EventPacket"
LABEL_INFO = "vision_msgs/msg/LabelInfo"
STRING = "std_msgs/msg/String"

_DEFINITIONS = {
    # Types outside the common interfaces: older bags carry no definitions, and rosbags cannot read
    # every IDL text.
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABEL_INFO: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
    EVENT_PACKET: (
        "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\n"
        "string encoding\nbool is_bigendian\nuint8[] events\n"
    ),
} | {
    f"{package}/msg/{name}": text
    for package in ("dvs_msgs", "prophesee_event_msgs")
    for name, text in {
        "Event": "uint16 x\nuint16 y\nbuiltin_interfaces/Time ts\nbool polarity\n",
        "EventArray": "std_msgs/Header header\nuint32 height\nuint32 width\nEvent[] events\n",
    }.items()
}


def new_typestore() -> Any:
    """The message types of a current ROS 2 distribution, with those that segrgbx adds."""
    newest = next(
        getattr(Stores, name)
        for name in ("ROS2_KILTED", "ROS2_JAZZY", "LATEST")
        if hasattr(Stores, name)
    )
    store = get_typestore(newest)
    added: dict[str, Any] = {}
    for name, text in _DEFINITIONS.items():
        added.update(get_types_from_msg(text, name))
    store.register({name: fields for name, fields in added.items() if name not in store.types})
    return store
