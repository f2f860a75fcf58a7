"""Who else is on a topic: what they offer, what they ask for, and why both do not match."""

from __future__ import annotations

from typing import Any

from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy


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
    """What differs in reliability and durability; other policies nobody sets for images."""
    wanting = []
    if (
        asked.reliability is QoSReliabilityPolicy.RELIABLE
        and offered.reliability is QoSReliabilityPolicy.BEST_EFFORT
    ):
        wanting.append("reliability")
    if (
        asked.durability is QoSDurabilityPolicy.TRANSIENT_LOCAL
        and offered.durability is QoSDurabilityPolicy.VOLATILE
    ):
        wanting.append("durability")
    offers, asks = (
        " and ".join(getattr(profile, name).name for name in wanting)
        for profile in (offered, asked)
    )
    return offers, asks


def _full_name(endpoint: Any) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
