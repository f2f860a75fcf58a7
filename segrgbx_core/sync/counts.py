"""What becomes of every message that the aligner takes, counted by cause."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

NS_PER_MS = 1_000_000


class Drop(str, Enum):
    """Why a message gave no result; the keys of `AlignCounts.dropped` and `dropped_x`."""

    NO_X = "no_x"
    """RGB: the X stream was silent."""
    TOO_FAR = "too_far"
    """RGB: X arrives, but none within `max_dt_ms`."""
    OVERFLOW = "overflow"
    """More than `queue_size` messages waited."""
    JUMP_BACK = "jump_back"
    """Waited when a stream's time jumped back."""
    DUPLICATE = "duplicate"
    """Its stamp had been seen."""
    ZERO_STAMP = "zero_stamp"
    """Its stamp is not set."""
    CLEARED = "cleared"
    """Waited when the aligner was cleared."""
    UNUSED = "unused"
    """X: no RGB image was nearest to it."""


@dataclass
class AlignCounts:
    """What became of every message.

    RGB: `pushed_rgb == matched + held + rgb_only + sum(dropped.values()) + waiting`.
    X: `pushed_x == used_x + sum(dropped_x.values()) + kept but not used yet`.
    """

    pushed_rgb: int = 0
    pushed_x: int = 0
    matched: int = 0
    held: int = 0
    rgb_only: int = 0
    used_x: int = 0
    jumps: int = 0
    lost_events: int = 0
    """Events given up because of `sensor.event.max_buffer_mb`."""
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_x: Counter[str] = field(default_factory=Counter)
    dt_sum_ns: int = 0
    dt_abs_sum_ns: int = 0
    dt_abs_max_ns: int = 0
    last_miss_ns: int | None = None
    """Distance of the nearest X when one was last too far: a hint for the offset."""

    def match(self, dt_ns: int) -> None:
        """Counts a pair with its X minus RGB stamp."""
        self.matched += 1
        self.dt_sum_ns += dt_ns
        self.dt_abs_sum_ns += abs(dt_ns)
        self.dt_abs_max_ns = max(self.dt_abs_max_ns, abs(dt_ns))

    def drop(self, cause: Drop, number: int = 1) -> None:
        """Counts RGB messages that gave no result."""
        if number:
            self.dropped[cause.value] += number

    def drop_x(self, cause: Drop, number: int = 1) -> None:
        """Counts X messages that gave no result."""
        if number:
            self.dropped_x[cause.value] += number

    @property
    def mean_dt_ms(self) -> float:
        """Mean of X minus RGB over matched pairs; far from 0 it is the offset to set."""
        return self.dt_sum_ns / max(1, self.matched) / NS_PER_MS

    @property
    def mean_abs_dt_ms(self) -> float:
        """Mean distance of stamps over matched pairs."""
        return self.dt_abs_sum_ns / max(1, self.matched) / NS_PER_MS

    @property
    def max_abs_dt_ms(self) -> float:
        """Largest distance of stamps over matched pairs."""
        return self.dt_abs_max_ns / NS_PER_MS

    def to_dict(self) -> dict[str, Any]:
        """Plain values for reports and diagnostics."""
        return {
            "pushed_rgb": self.pushed_rgb,
            "pushed_x": self.pushed_x,
            "matched": self.matched,
            "held": self.held,
            "rgb_only": self.rgb_only,
            "dropped": dict(sorted(self.dropped.items())),
            "used_x": self.used_x,
            "dropped_x": dict(sorted(self.dropped_x.items())),
            "jumps": self.jumps,
            "lost_events": self.lost_events,
            "mean_dt_ms": round(self.mean_dt_ms, 3),
            "mean_abs_dt_ms": round(self.mean_abs_dt_ms, 3),
            "max_abs_dt_ms": round(self.max_abs_dt_ms, 3),
        }
