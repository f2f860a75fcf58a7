"""Packs events as event drivers do: the payloads of event_camera_msgs/EventPacket."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.samples import Events

MAX_SIDE = 1 << 11
"""Both encodings have 11 bits for a coordinate."""


def encode_evt3(events: Events) -> bytes:
    """The words of EVT3 as a Prophesee sensor sends them, single events only.

    Every payload states time and row anew, so any of them can be the first. Times lose what is
    below a microsecond and what is above 24 bits of them: a decoder counts the roll-overs, which
    it can as long as events are less than 16 s apart.

    Raises:
        DataError: when the sensor is too big for the encoding.
    """
    _check_size(events)
    t_us = events.t_ns // 1000
    high, low = (t_us >> 12) & 0xFFF, t_us & 0xFFF
    return _pack(
        (0x8, high, _changes(t_us >> 12)),
        (0x6, low, _changes(t_us)),
        (0x0, events.y, _changes(events.y)),
        (0x2, events.x | (events.p.astype(np.uint16) << 11), np.ones(len(events), np.bool_)),
    )


def encode_libcaer_cmp(events: Events) -> tuple[int, bytes]:
    """The `time_base` in ns and the words of libcaer_cmp as DVXplorers and DAVIS send them.

    Raises:
        DataError: when the sensor is too big for the encoding or the events last 16.7 s or more.
    """
    _check_size(events)
    if len(events) == 0:
        return 0, b""
    base_us = int(events.t_ns[0]) // 1000
    offset = events.t_ns // 1000 - base_us
    if offset[-1] >= 1 << 24:
        raise DataError(f"events of {offset[-1] / 1e6:.1f} s in one packet; 16.7 s fit")
    data = _pack(
        (0x0, offset >> 12, _changes(offset >> 12)),
        (0x1, offset & 0xFFF, _changes(offset)),
        (0x2, events.x, _changes(events.x)),
        (0x3, events.y | (events.p.astype(np.uint16) << 11), np.ones(len(events), np.bool_)),
    )
    return base_us * 1000, data


def _check_size(events: Events) -> None:
    if max(events.width, events.height) > MAX_SIDE:
        size = f"{events.width}x{events.height}"
        raise DataError(f"event sensor of {size} px; {MAX_SIDE} px fit into a packet")


def _changes(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """True for the first value and wherever it differs from the one before."""
    changes = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def _pack(*columns: tuple[int, NDArray[np.integer], NDArray[np.bool_]]) -> bytes:
    """Words of code and payload, for each event those of its columns that are marked."""
    words = np.stack([payload.astype(np.uint16) | (code << 12) for code, payload, _ in columns], 1)
    marked = np.stack([is_marked for _, _, is_marked in columns], 1)
    return words[marked].astype("<u2").tobytes()
