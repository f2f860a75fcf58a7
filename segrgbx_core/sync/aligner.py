"""Which X belongs to which RGB image: nearest stamp, bounded wait, every frame accounted for.

RGB drives. An RGB image of stamp T is decided as soon as an X not older than T has arrived, since
then nothing nearer can come; else it waits, at most `wait_ms` after its own arrival. Times are
integer nanoseconds. Nothing here reads a clock or takes a lock: `now_ns` comes with every call, on
any clock that runs forward, and calls must not overlap. A push first settles what was due before
it, so pairs depend on the pushes alone and not on how often `poll` is called.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.samples import NS_PER_MS, Events
from segrgbx_core.sync.x_queue import (
    Drop,
    EventBuffer,
    EventWindow,
    ImageQueue,
    Stamped,
    XBuffer,
)

R = TypeVar("R")
X = TypeVar("X")

SILENCE_NS = 1_000_000_000
"""An X stream is called silent when nothing of it arrived for this long before an RGB image."""


class OnMissingX(str, Enum):
    """Treatment of an RGB image without an X in reach."""

    DROP = "drop"
    RGB_ONLY = "rgb_only"
    HOLD_LAST = "hold_last"


class AlignPolicy(str, Enum):
    """Which stamps may pair."""

    NEAREST = "nearest"
    EXACT = "exact"


class AlignConfig(Config):
    """How RGB and X find each other."""

    policy: AlignPolicy = option(
        AlignPolicy.NEAREST, doc="Pair the nearest stamps, or equal stamps only."
    )
    max_dt_ms: float = option(
        50.0,
        doc="Largest distance of stamps in a pair.",
        unit="ms",
        low=0,
        high=1000,
        dynamic=True,
    )
    wait_ms: float = option(
        40.0,
        doc="How long an RGB image waits for X at most.",
        unit="ms",
        low=0,
        high=500,
        dynamic=True,
    )
    on_missing_x: OnMissingX = option(
        OnMissingX.DROP,
        doc="Without X in reach: drop, use RGB alone, or hold the last X.",
        dynamic=True,
    )
    max_hold_ms: float = option(
        300.0, doc="Oldest X that hold_last may use.", unit="ms", low=0, high=10000, dynamic=True
    )
    queue_size: int = option(30, doc="Messages kept per stream.", low=2, high=500)
    jump_back_ms: float = option(
        500.0,
        doc="A stamp this much older than its stream's newest resets both.",
        unit="ms",
        low=0,
        high=10000,
    )


@dataclass(frozen=True, eq=False)
class Match(Generic[R, X]):
    """An RGB image with what was found for it.

    Attributes:
        rgb: the RGB message.
        rgb_stamp_ns: its stamp.
        x: the X message, None under `rgb_only` when none was in reach.
        x_stamp_ns: its stamp as pushed, the offset not removed.
        dt_ns: X minus RGB stamp, the offset removed.
        held: True where `hold_last` gave an X beyond `max_dt_ms`; its events are moved in time, so
            that their window ends at RGB's stamp.
        arrival_ns: the `now_ns` that RGB was pushed with.
    """

    rgb: R
    rgb_stamp_ns: int
    x: X | None = None
    x_stamp_ns: int | None = None
    dt_ns: int | None = None
    held: bool = False
    arrival_ns: int = 0


@dataclass
class AlignCounts:
    """Counts of all messages by outcome.

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
    cut_events: int = 0
    """Events not taken of messages that hold more than one may."""
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
            "cut_events": self.cut_events,
            "mean_dt_ms": round(self.mean_dt_ms, 3),
            "mean_abs_dt_ms": round(self.mean_abs_dt_ms, 3),
            "max_abs_dt_ms": round(self.max_abs_dt_ms, 3),
        }


class PairAligner(Generic[R, X]):
    """Pairs one RGB stream with one X stream.

    One X may serve several RGB images when X is the slower stream. Memory is bounded by
    `queue_size` messages per stream.
    """

    def __init__(
        self, config: AlignConfig, x_offset_ns: int = 0, buffer: XBuffer[X] | None = None
    ) -> None:
        """Starts empty.

        Args:
            config: the rules.
            x_offset_ns: stamp of X minus stamp of RGB for the same instant; positive where X's
                driver stamps late.
            buffer: where X waits; left out, messages with one stamp each.
        """
        self.counts = AlignCounts()
        self._waiting: list[Stamped[R]] = []
        self._seen_rgb: deque[int] = deque()
        self._newest_rgb_ns: int | None = None
        self._newest_x_ns: int | None = None
        self._x_arrival_ns: int | None = None
        self._x: XBuffer[X] = ImageQueue(config.queue_size) if buffer is None else buffer
        self._now_ns: int | None = None
        self.configure(config, x_offset_ns)

    def configure(self, config: AlignConfig, x_offset_ns: int) -> None:
        """Takes new rules at run time; what waits stays and is judged by them."""
        self.config = config
        self._offset_ns = x_offset_ns
        is_exact = config.policy is AlignPolicy.EXACT
        self._max_dt_ns = 0 if is_exact else _ns(config.max_dt_ms)
        self._wait_ns = _ns(config.wait_ms)
        self._max_hold_ns = _ns(config.max_hold_ms)
        self._jump_back_ns = _ns(config.jump_back_ms)

    @property
    def num_waiting(self) -> int:
        """RGB images not decided yet."""
        return len(self._waiting)

    @property
    def num_unused_x(self) -> int:
        """X messages kept that no RGB image has used yet."""
        return self._x.num_unused

    def push_rgb(self, stamp_ns: int, rgb: R, now_ns: int) -> list[Match[R, X]]:
        """Takes an RGB message that arrived at `now_ns`; returns what is decided by now."""
        matches = self.poll(now_ns)
        self.counts.pushed_rgb += 1
        if stamp_ns <= 0:
            self.counts.drop(Drop.ZERO_STAMP)
            return matches
        if self._is_jump(stamp_ns, self._newest_rgb_ns):
            self._jump()
        if stamp_ns in self._seen_rgb:
            self.counts.drop(Drop.DUPLICATE)
            return matches
        self._seen_rgb.append(stamp_ns)
        if len(self._seen_rgb) > self.config.queue_size:
            self._seen_rgb.popleft()
        if self._newest_rgb_ns is None or stamp_ns > self._newest_rgb_ns:
            self._newest_rgb_ns = stamp_ns
        insort(self._waiting, Stamped(stamp_ns, rgb, now_ns), key=_stamp)
        matches += self._decide_ready()
        if len(self._waiting) > self.config.queue_size:
            del self._waiting[0]
            self.counts.drop(Drop.OVERFLOW)
        self._forget_old_x()
        return matches

    def push_x(self, stamp_ns: int, x: X, now_ns: int) -> list[Match[R, X]]:
        """Takes an X message that arrived at `now_ns`; returns what is decided by now."""
        matches = self.poll(now_ns)
        self.counts.pushed_x += 1
        if stamp_ns <= 0:
            self.counts.drop_x(Drop.ZERO_STAMP)
            return matches
        if self._is_jump(stamp_ns, self._newest_x_ns):
            self._jump()
        self._x_arrival_ns = now_ns
        if self._newest_x_ns is None or stamp_ns > self._newest_x_ns:
            self._newest_x_ns = stamp_ns
        lost = self._x.add(stamp_ns, x)
        if lost is not None:
            self.counts.drop_x(lost)
        self.counts.lost_events = self._x.num_lost
        matches += self._decide_ready()
        self._forget_old_x()
        return matches

    def poll(self, now_ns: int) -> list[Match[R, X]]:
        """Decides the RGB images whose wait has ended at `now_ns`."""
        if self._now_ns is not None and now_ns < self._now_ns:
            self._rebase(now_ns)
        self._now_ns = now_ns
        return self._decide(lambda entry: now_ns - entry.arrival_ns > self._wait_ns)

    def flush(self) -> list[Match[R, X]]:
        """Decides everything that waits, as at the end of a recording."""
        return self._decide(lambda _: True)

    def clear(self) -> None:
        """Drops all messages; keeps the counts."""
        self._forget_all(Drop.CLEARED)

    def next_deadline_ns(self) -> int | None:
        """First `now_ns` at which `poll` will decide something, None while nothing waits."""
        if not self._waiting:
            return None
        return min(entry.arrival_ns for entry in self._waiting) + self._wait_ns + 1

    def _decide_ready(self) -> list[Match[R, X]]:
        if self._newest_x_ns is None:
            return []
        reach_ns = self._newest_x_ns - self._offset_ns
        return self._decide(lambda entry: entry.stamp_ns <= reach_ns)

    def _decide(self, is_due: Callable[[Stamped[R]], bool]) -> list[Match[R, X]]:
        if not self._waiting:
            return []
        due = [entry for entry in self._waiting if is_due(entry)]
        if not due:
            return []
        self._waiting = [entry for entry in self._waiting if not is_due(entry)]
        matches = (self._match(entry) for entry in due)
        return [match for match in matches if match is not None]

    def _match(self, entry: Stamped[R]) -> Match[R, X] | None:
        nearest = self._x.nearest(entry.stamp_ns + self._offset_ns)
        if nearest is not None and abs(self._dt(nearest, entry)) <= self._max_dt_ns:
            self.counts.match(self._dt(nearest, entry))
            return self._pair(entry, nearest, held=False)
        policy = self.config.on_missing_x
        if policy is OnMissingX.HOLD_LAST:
            last = self._x.last_before(entry.stamp_ns + self._offset_ns)
            if last is not None and -self._dt(last, entry) <= self._max_hold_ns:
                self.counts.held += 1
                return self._pair(entry, last, held=True)
        if policy is OnMissingX.RGB_ONLY:
            self.counts.rgb_only += 1
            return Match(entry.item, entry.stamp_ns, arrival_ns=entry.arrival_ns)
        is_silent = (
            self._x_arrival_ns is None or self._x_arrival_ns < entry.arrival_ns - SILENCE_NS
        )
        self.counts.drop(Drop.NO_X if is_silent else Drop.TOO_FAR)
        if nearest is not None and not is_silent:
            self.counts.last_miss_ns = self._dt(nearest, entry)
        return None

    def _pair(self, entry: Stamped[R], kept: Stamped[X], held: bool) -> Match[R, X]:
        self.counts.used_x += not kept.is_used
        kept.is_used = True
        return Match(
            entry.item,
            entry.stamp_ns,
            kept.item,
            kept.stamp_ns,
            self._dt(kept, entry),
            held,
            entry.arrival_ns,
        )

    def _dt(self, kept: Stamped[X], entry: Stamped[R]) -> int:
        return kept.stamp_ns - self._offset_ns - entry.stamp_ns

    def _forget_old_x(self) -> None:
        """Forgets X that no RGB stamp to come can use, except the last one (`hold_last`)."""
        if self._newest_rgb_ns is None:
            return
        oldest_rgb_ns = self._newest_rgb_ns - self._jump_back_ns
        unused = self._x.forget_before(oldest_rgb_ns - self._max_dt_ns + self._offset_ns)
        self.counts.drop_x(Drop.UNUSED, unused)

    def _is_jump(self, stamp_ns: int, newest_ns: int | None) -> bool:
        return newest_ns is not None and stamp_ns < newest_ns - self._jump_back_ns

    def _jump(self) -> None:
        self.counts.jumps += 1
        self._forget_all(Drop.JUMP_BACK)

    def _forget_all(self, cause: Drop) -> None:
        self.counts.drop(cause, len(self._waiting))
        self.counts.drop_x(cause, self._x.clear())
        self._waiting = []
        self._seen_rgb.clear()
        self._newest_rgb_ns = self._newest_x_ns = self._x_arrival_ns = None

    def _rebase(self, now_ns: int) -> None:
        """The caller's clock went back: nothing may wait for it to come forward again."""
        for entry in self._waiting:
            entry.arrival_ns = min(entry.arrival_ns, now_ns)
        if self._x_arrival_ns is not None:
            self._x_arrival_ns = min(self._x_arrival_ns, now_ns)


def event_aligner(
    config: AlignConfig, window_ns: int, x_offset_ns: int = 0, max_bytes: int = 64 << 20
) -> PairAligner[Any, Events]:
    """An aligner whose X is the window of events that ends at the RGB stamp.

    Push events with the time that the stream has reached as stamp. Messages of events are not
    counted one by one: `used_x` and `dropped_x` stay empty but for unset stamps.
    """
    window = EventWindow(window_ns, max_bytes, _ns(config.jump_back_ms))
    return PairAligner(config, x_offset_ns, EventBuffer(window))


def _stamp(entry: Stamped[Any]) -> int:
    return entry.stamp_ns


def _ns(milliseconds: float) -> int:
    return round(milliseconds * NS_PER_MS)
