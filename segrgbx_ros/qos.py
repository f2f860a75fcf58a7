"""Quality of service in words: who offers what, who asks for what, and why they do not match."""

from __future__ import annotations

from typing import Any

from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
)

IMAGE_QOS = QoSProfile(depth=2, reliability=QoSReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)


def publisher_mismatch(publisher: Any, asked: QoSProfile) -> str:
    """A clause that names both sides where a publisher offers less than we ask for, else empty.

    Args:
        publisher: as `get_publishers_info_by_topic` lists it.
        asked: what our subscription asks for.
    """
    offers, asks = _differences(publisher.qos_profile, asked)
    if not offers:
        return ""
    return f"publisher '{_full_name(publisher)}' offers {offers}, this node asks for {asks}"


def subscriber_mismatch(subscriber: Any, offered: QoSProfile) -> str:
    """A clause that names both sides where a subscriber asks for more than we offer, else empty.

    Args:
        subscriber: as `get_subscriptions_info_by_topic` lists it.
        offered: what our publisher offers.
    """
    offers, asks = _differences(offered, subscriber.qos_profile)
    if not offers:
        return ""
    return f"subscriber '{_full_name(subscriber)}' asks for {asks}, this node offers {offers}"


def _differences(offered: QoSProfile, asked: QoSProfile) -> tuple[str, str]:
    if qos_check_compatible(offered, asked)[0] != QoSCompatibility.ERROR:
        return "", ""
    pairs = [
        (getattr(offered, name).name, getattr(asked, name).name)
        for name in ("reliability", "durability")
        if getattr(offered, name) != getattr(asked, name)
    ] or [("this deadline or liveliness", "a stricter one")]
    offers, asks = zip(*pairs, strict=True)
    return " and ".join(offers), " and ".join(asks)


def _full_name(endpoint: Any) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
