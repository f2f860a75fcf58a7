"""Who else is on a topic: what they offer and request, and why both do not match."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier

from segrgbx_core.base.errors import shortened

PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
_NAMED = 3
"""So many endpoints of one kind are named, the others counted."""


def publisher_mismatches(publishers: Iterable[Any], requested: QoSProfile) -> list[str]:
    """Clauses that name both sides where publishers offer less than we request.

    Args:
        publishers: as `get_publishers_info_by_topic` lists them.
        requested: quality of service of our subscription.

    Returns:
        one for all that offer the same.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for one in publishers:
        groups.setdefault(_differences(one.qos_profile, requested), []).append(full_name(one))
    return [
        f"{_listed('publisher', names)} {'offer' if names[1:] else 'offers'} {offers}, this node "
        f"requests {asks}"
        for (offers, asks), names in groups.items()
        if offers
    ]


def subscriber_mismatches(subscribers: Iterable[Any], offered: QoSProfile) -> list[str]:
    """Clauses that name both sides where subscribers request more than we offer.

    Args:
        subscribers: as `get_subscriptions_info_by_topic` lists them.
        offered: what our publisher offers.

    Returns:
        one for all that request the same.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for one in subscribers:
        groups.setdefault(_differences(offered, one.qos_profile), []).append(full_name(one))
    return [
        f"{_listed('subscriber', names)} {'request' if names[1:] else 'requests'} {asks}, "
        f"this node offers {offers}"
        for (offers, asks), names in groups.items()
        if offers
    ]


def other_types(publishers: Iterable[Any], wanted: str) -> str:
    """Message types of the publishers where none has the wanted one, else empty."""
    types = sorted({str(one.topic_type) for one in publishers})
    return "" if wanted in types else shortened(", ".join(types))


def loss_reason() -> str:
    """Why messages of the right type and quality of service may not arrive; what to look at."""
    if "fastrtps" not in get_rmw_implementation_identifier():
        return "they are lost on the way, or cannot be decoded"
    profile = os.environ.get(PROFILE_VARIABLE, "")
    if not profile:
        return (
            "images above 512 KiB need the Fast DDS profile config/fastdds_large_images.xml in "
            f"{PROFILE_VARIABLE}, for the driver too"
        )
    if not Path(profile).is_file():
        return f"{PROFILE_VARIABLE} names '{shortened(profile)}', which does not exist"
    return (
        "this node runs with a Fast DDS profile; the publisher may lack it, or its messages "
        "cannot be decoded"
    )


def full_name(endpoint: Any) -> str:
    """Node of a publisher or subscriber, with its namespace."""
    return shortened(f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}")


def _listed(kind: str, names: list[str]) -> str:
    quoted = ", ".join(f"'{name}'" for name in dict.fromkeys(names[:_NAMED]))
    more = f" and {len(names) - _NAMED} more" if names[_NAMED:] else ""
    return f"{kind}{'s' if names[1:] else ''} {quoted}{more}"


def _differences(offered: QoSProfile, requested: QoSProfile) -> tuple[str, str]:
    """What differs in reliability and durability; other policies nobody sets for images."""
    wanting = []
    if (
        requested.reliability is QoSReliabilityPolicy.RELIABLE
        and offered.reliability is QoSReliabilityPolicy.BEST_EFFORT
    ):
        wanting.append("reliability")
    if (
        requested.durability is QoSDurabilityPolicy.TRANSIENT_LOCAL
        and offered.durability is QoSDurabilityPolicy.VOLATILE
    ):
        wanting.append("durability")
    offers, asks = (
        " and ".join(getattr(profile, name).name for name in wanting)
        for profile in (offered, requested)
    )
    return offers, asks
