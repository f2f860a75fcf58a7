"""X buffers of a pair: images by stamp, or an event stream to cut windows from.

Both have the same interface, so one aligner serves both. Times are integer nanoseconds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.samples import Events

T = TypeVar("T")
X = TypeVar("X")

CHUNK_OVERHEAD_BYTES = 1024
"""What a chunk of events costs besides its arrays; keeps many tiny chunks within the bound."""


class Drop(str, Enum):
    """Why a message gave no result: the keys of `AlignCounts.dropped` and `dropped_x`."""

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
class Stamped(Generic[T]):
    """A message that waits, RGB or X.

    Attributes:
        stamp_ns: its stamp.
        item: the message.
        arrival_ns: the `now_ns` that it was pushed with; not set for X.
        is_used: X only, True once an RGB image got it.
    """

    stamp_ns: int
    item: T
    arrival_ns: int = 0
    is_used: bool = False


class XBuffer(Protocol[X]):
    """Interface of X buffers; stamps are X's own, the offset not removed."""

    def add(self, stamp_ns: int, x: X) -> Drop | None:
        """Keeps an X; names the cause when one is lost by it, this or an unused older one."""
        ...

    def nearest(self, stamp_ns: int) -> Stamped[X] | None:
        """The X nearest to a stamp; of two equally near ones the earlier."""
        ...

    def last_before(self, stamp_ns: int) -> Stamped[X] | None:
        """The newest X not newer than a stamp."""
        ...

    def forget_before(self, horizon_ns: int) -> int:
        """Forgets X older than that, except the newest of them; returns how many were unused."""
        ...

    def clear(self) -> int:
        """Forgets all; returns how many were unused."""
        ...

    @property
    def num_unused(self) -> int:
        """Kept and not used yet."""
        ...

    @property
    def num_lost(self) -> int:
        """Events dropped for lack of memory; `add` reports images."""
        ...


class ImageQueue(Generic[X]):
    """X messages with one stamp each, sorted, at most `size` of them."""

    num_lost = 0

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[Stamped[X]] = []

    @property
    def num_unused(self) -> int:
        """Kept and not used yet."""
        return sum(not kept.is_used for kept in self._kept)

    def add(self, stamp_ns: int, x: X) -> Drop | None:
        """See `XBuffer.add`."""
        place = bisect_left(self._kept, stamp_ns, key=_stamp)
        if place < len(self._kept) and self._kept[place].stamp_ns == stamp_ns:
            return Drop.DUPLICATE
        self._kept.insert(place, Stamped(stamp_ns, x))
        if len(self._kept) > self._size and self._forget(1):
            return Drop.OVERFLOW
        return None

    def nearest(self, stamp_ns: int) -> Stamped[X] | None:
        """See `XBuffer.nearest`."""
        place = bisect_left(self._kept, stamp_ns, key=_stamp)
        around = self._kept[max(0, place - 1) : place + 1]
        return min(around, key=lambda kept: abs(kept.stamp_ns - stamp_ns), default=None)

    def last_before(self, stamp_ns: int) -> Stamped[X] | None:
        """See `XBuffer.last_before`."""
        place = bisect_right(self._kept, stamp_ns, key=_stamp)
        return self._kept[place - 1] if place else None

    def forget_before(self, horizon_ns: int) -> int:
        """See `XBuffer.forget_before`."""
        return self._forget(bisect_left(self._kept, horizon_ns, key=_stamp) - 1)

    def clear(self) -> int:
        """See `XBuffer.clear`."""
        return self._forget(len(self._kept))

    def _forget(self, count: int) -> int:
        if count <= 0:
            return 0
        unused = sum(not kept.is_used for kept in self._kept[:count])
        del self._kept[:count]
        return unused


class EventWindow:
    """The latest stretch of an event stream, to cut half-open windows (T - window, T] from.

    Chunks are kept as they come and only what a window needs is copied. Times must be on the
    clock of the stamps that windows are cut at; see `SensorClock`.

    Attributes:
        num_lost: events given up because of `max_bytes`.
        num_resets: how often time jumped back or the sensor size changed.
    """

    def __init__(
        self, window_ns: int, max_bytes: int = 64 << 20, jump_back_ns: int = 500_000_000
    ) -> None:
        """Starts empty.

        Args:
            window_ns: length of a window.
            max_bytes: bound of the memory; the oldest events go first.
            jump_back_ns: events this much older than the newest mean that time jumped back.
        """
        self._window_ns = window_ns
        self._max_bytes = max_bytes
        self._jump_back_ns = jump_back_ns
        self._chunks: deque[Events] = deque()
        self._num_bytes = 0
        self._size = (0, 0)
        self.num_lost = 0
        self.num_resets = 0

    @property
    def last_ns(self) -> int | None:
        """Time of the newest event, None when nothing is kept."""
        return int(self._chunks[-1].t_ns[-1]) if self._chunks else None

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return self._num_bytes

    def push(self, events: Events) -> None:
        """Takes events; keeps their arrays, so the caller must not write to them any more.

        Chunks that overlap in time are merged into order.
        """
        if len(events) == 0:
            return
        events = _sorted(events)
        last = self.last_ns
        size = (events.width, events.height)
        if last is not None and (
            size != self._size or int(events.t_ns[-1]) < last - self._jump_back_ns
        ):
            self.clear()
            self.num_resets += 1
        self._size = size
        overlapping = [events]
        while self._chunks and self._chunks[-1].t_ns[-1] > events.t_ns[0]:
            overlapping.append(self._pop_newest())
        if len(overlapping) > 1:
            events = _sorted(_concatenate(overlapping[::-1], size))
        self._chunks.append(events)
        self._num_bytes += _bytes(events)
        self._bound_memory()

    def cut(self, stamp_ns: int) -> Events | None:
        """The events of (stamp_ns - window, stamp_ns] that have arrived, sorted by time.

        Cutting gives up what is older than two windows, so stamps may come a little out of order.
        Where the stream has not come as far as the stamp, the last two windows of it stay.

        Returns:
            perhaps no events at all; None while the sensor's size is unknown.
        """
        if self._size == (0, 0):
            return None
        start_ns = stamp_ns - self._window_ns
        if self.last_ns is not None:
            oldest_ns = min(stamp_ns, self.last_ns) - 2 * self._window_ns
            while self._chunks[0].t_ns[-1] <= oldest_ns:
                self._pop_oldest()
        parts = []
        for chunk in self._chunks:
            if chunk.t_ns[0] > stamp_ns:
                break
            first, stop = np.searchsorted(chunk.t_ns, (start_ns, stamp_ns), side="right")
            if stop > first:
                parts.append(_taken(chunk, slice(int(first), int(stop))))
        return _concatenate(parts, self._size)

    def clear(self) -> None:
        """Forgets all events; the sensor's size stays known."""
        self._chunks.clear()
        self._num_bytes = 0

    def _bound_memory(self) -> None:
        while self._num_bytes > self._max_bytes and len(self._chunks) > 1:
            self.num_lost += len(self._pop_oldest())
        if self._num_bytes > self._max_bytes:
            chunk = self._pop_oldest()
            per_event = (_bytes(chunk) - CHUNK_OVERHEAD_BYTES) / len(chunk)
            fit = max(1, int((self._max_bytes - CHUNK_OVERHEAD_BYTES) / per_event))
            self.num_lost += len(chunk) - fit
            # A copy, because a slice would keep the big arrays alive.
            newest = _concatenate([_taken(chunk, slice(len(chunk) - fit, None))], self._size)
            self._chunks.append(newest)
            self._num_bytes += _bytes(newest)

    def _pop_oldest(self) -> Events:
        chunk = self._chunks.popleft()
        self._num_bytes -= _bytes(chunk)
        return chunk

    def _pop_newest(self) -> Events:
        chunk = self._chunks.pop()
        self._num_bytes -= _bytes(chunk)
        return chunk


class EventBuffer:
    """An `EventWindow` as the X side of an aligner.

    The X of an RGB stamp is the window that ends there. Its own stamp is how far the stream had
    come, so `max_dt_ms` says how much of the window's end may be missing after a time-out.
    """

    num_unused = 0

    def __init__(self, window: EventWindow) -> None:
        self.window = window
        self._reached_ns: int | None = None

    @property
    def num_lost(self) -> int:
        """See `XBuffer.num_lost`."""
        return self.window.num_lost

    def add(self, stamp_ns: int, x: Events) -> Drop | None:
        """See `XBuffer.add`; the window counts what it loses itself.

        Args:
            stamp_ns: how far the stream has come, later than the newest event where the sensor
                saw nothing since.
            x: events, perhaps none.
        """
        self.window.push(x)
        self._reached_ns = max(stamp_ns, self._reached_ns or stamp_ns)
        return None

    def nearest(self, stamp_ns: int) -> Stamped[Events] | None:
        """The window that ends at the stamp."""
        events = self.window.cut(stamp_ns)
        if self._reached_ns is None or events is None:
            return None
        return Stamped(min(self._reached_ns, stamp_ns), events, is_used=True)

    def last_before(self, stamp_ns: int) -> Stamped[Events] | None:
        """The last full window of the stream, with its times moved so that it ends at the stamp.

        Whoever draws events cuts them at the stamp, where a stream that has died has none.
        """
        if self._reached_ns is None:
            return None
        end_ns = min(self._reached_ns, stamp_ns)
        events = self.window.cut(end_ns)
        if events is None:
            return None
        moved = replace(events, t_ns=events.t_ns + (stamp_ns - end_ns))
        return Stamped(end_ns, moved, is_used=True)

    def forget_before(self, horizon_ns: int) -> int:  # noqa: ARG002 - cutting forgets
        """Nothing to do: cutting a window forgets what is older."""
        return 0

    def clear(self) -> int:
        """See `XBuffer.clear`."""
        self.window.clear()
        self._reached_ns = None
        return 0


class SensorClock:
    """Maps an event sensor's own clock to the clock of the message stamps.

    The offset is stamp minus first sensor time of a message, smoothed over about 1 / `share`
    messages because stamps jitter with the host. It starts anew when either clock jumps.
    """

    def __init__(self, share: int = 100, jump_ns: int = 500_000_000) -> None:
        self._share = share
        self._jump_ns = jump_ns
        self._offset_ns: int | None = None
        self._last_ns: int | None = None

    def to_stamp_clock(self, stamp_ns: int, t_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Times of a message's events on the clock of its stamp, never before the last message's.

        Args:
            stamp_ns: stamp of the message.
            t_ns: sensor times of its events, int64 (N,), not decreasing.
        """
        if len(t_ns) == 0:
            return t_ns
        measured = stamp_ns - int(t_ns[0])
        if self._offset_ns is None or abs(measured - self._offset_ns) > self._jump_ns:
            self._offset_ns = measured
            self._last_ns = None
        else:
            self._offset_ns += (measured - self._offset_ns) // self._share
        mapped = t_ns + np.int64(self._offset_ns)
        if self._last_ns is not None:
            if mapped[-1] < self._last_ns - self._jump_ns:  # both clocks jumped back together
                mapped = t_ns + np.int64(measured)
                self._offset_ns = measured
            else:
                np.maximum(mapped, self._last_ns, out=mapped)
        self._last_ns = int(mapped[-1])
        return mapped

    def reset(self) -> None:
        """Forgets the offset."""
        self._offset_ns = self._last_ns = None


def _stamp(kept: Stamped[Any]) -> int:
    return kept.stamp_ns


def _bytes(events: Events) -> int:
    arrays = (events.x, events.y, events.t_ns, events.p)
    return sum(array.nbytes for array in arrays) + CHUNK_OVERHEAD_BYTES


def _taken(events: Events, places: slice | NDArray[np.intp]) -> Events:
    return replace(
        events,
        x=events.x[places],
        y=events.y[places],
        t_ns=events.t_ns[places],
        p=events.p[places],
    )


def _concatenate(parts: list[Events], size: tuple[int, int]) -> Events:
    """One `Events` from many, always a copy."""
    width, height = size
    if not parts:
        return Events(
            np.empty(0, np.uint16),
            np.empty(0, np.uint16),
            np.empty(0, np.int64),
            np.empty(0, np.uint8),
            width,
            height,
        )
    return Events(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
        np.concatenate([part.t_ns for part in parts]),
        np.concatenate([part.p for part in parts]),
        width,
        height,
    )


def _sorted(events: Events) -> Events:
    """The same events in order of time; those of equal time keep their order."""
    if not np.any(events.t_ns[1:] < events.t_ns[:-1]):
        return events
    return _taken(events, np.argsort(events.t_ns, kind="stable"))
