"""Four images of one exposure, one topic per polarizer angle, put together by their stamp."""

from __future__ import annotations

from typing import Any

from segrgbx_ros.config.options import Stream

_ORDER = (Stream.I0, Stream.I45, Stream.I90, Stream.I135)
_KEPT = 8
"""Exposures that may be incomplete at a time; drivers of one sensor are never this far apart."""


class AngleSets:
    """Collects the images of one pair; show it every message.

    Attributes:
        num_incomplete: exposures given up because an angle did not come.
    """

    def __init__(self) -> None:
        self._sets: dict[int, dict[Stream, Any]] = {}
        self.num_incomplete = 0

    def take(self, stream: Stream, stamp_ns: int, message: Any) -> tuple[Any, ...] | None:
        """The messages at 0, 45, 90 and 135 degrees once all four of a stamp have come."""
        found = self._sets.setdefault(stamp_ns, {})
        found[stream] = message
        if len(found) == len(_ORDER):
            del self._sets[stamp_ns]
            return tuple(found[one] for one in _ORDER)
        if len(self._sets) > _KEPT:
            del self._sets[next(iter(self._sets))]
            self.num_incomplete += 1
        return None

    def clear(self) -> None:
        """Forgets what is incomplete."""
        self._sets.clear()
