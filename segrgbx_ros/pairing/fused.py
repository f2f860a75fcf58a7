"""Pairs that share an RGB image: gathered by its stamp, decoded once, judged one by one.

A frame is complete once all its members are paired, or when `sync.wait_ms` has passed since its
RGB image arrived: a late member goes on alone, and the fused mask without it.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import NS_PER_MS, RgbxSample
from segrgbx_core.sync.aligner import OnMissingX
from segrgbx_ros.config.node import NodeConfig
from segrgbx_ros.pairing.pipeline import EmptyXError, Pair, black_x

_CLOSED = 256
"""Stamps of closed frames that are remembered, so that a late member opens none again."""
_REOPENED_NS = 1_000_000_000
"""A stamp that comes again after so long is another frame: a recording was looped."""


@dataclass(frozen=True, eq=False)
class FusedFrame:
    """The pairs of one RGB image.

    Attributes:
        name: of the fused mask.
        pairs: of the members that are there, in the order of `fuse.<name>`.
        missing: members that are not, with nothing paired in time.
        arrival_ns: when its RGB image arrived.
        stamp_ns: of its RGB image.
    """

    name: str
    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    arrival_ns: int
    stamp_ns: int


@dataclass(eq=False)
class _Open:
    arrival_ns: int
    heard: set[str] = field(default_factory=set)
    pairs: dict[str, Pair] = field(default_factory=dict)


class FrameCollector:
    """Gathers the members of one fused mask's frames. Thread-safe.

    Every RGB image that arrives opens one frame, which ends as one `FusedFrame` or is cleared.

    Args:
        name: of the fused mask.
        members: names of its pairs.
        wait_ms: `sync.wait_ms`.

    Attributes:
        opened: frames so far.
        cleared: frames given up by `clear`.
        late: members that came after their frame was closed, by pair.
    """

    def __init__(self, name: str, members: tuple[str, ...], wait_ms: float) -> None:
        self.name, self.members = name, members
        self.wait_ns = round(wait_ms * NS_PER_MS)
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._closed: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        self.opened = self.cleared = 0
        self.late: Counter[str] = Counter()

    def on_rgb(self, pair: str, stamp_ns: int, now_ns: int) -> None:
        """Opens the frame of an RGB image, unless another member's copy of it did.

        The wait begins with the last member's copy, as that of the member's own pairing.
        """
        with self._lock:
            closed_ns = self._closed.get(stamp_ns)
            if closed_ns is not None and now_ns - closed_ns < _REOPENED_NS:
                return
            frame = self._open.get(stamp_ns)
            if frame is None:
                frame = self._open[stamp_ns] = _Open(now_ns)
                self.opened += 1
            if pair not in frame.heard:
                frame.heard.add(pair)
                frame.arrival_ns = max(frame.arrival_ns, now_ns)

    def add(self, pair: Pair, now_ns: int) -> FusedFrame | None:
        """Takes a member.

        Returns:
            the frame, where this completes it.

        Raises:
            LookupError: when its frame is closed; it is late.
        """
        with self._lock:
            frame = self._open.get(pair.rgb_stamp_ns)
            if frame is None:
                self.late[pair.name] += 1
                raise LookupError(pair.name)
            frame.pairs[pair.name] = pair
            if len(frame.pairs) < len(self.members):
                return None
            return self._close(pair.rgb_stamp_ns, now_ns)

    def poll(self, now_ns: int) -> list[FusedFrame]:
        """Frames that have waited long enough at `now_ns`."""
        with self._lock:
            due = [
                stamp_ns
                for stamp_ns, frame in self._open.items()
                if now_ns - frame.arrival_ns > self.wait_ns
            ]
            return [self._close(stamp_ns, now_ns) for stamp_ns in due]

    def flush(self, now_ns: int) -> list[FusedFrame]:
        """All frames, as at the end of a recording."""
        with self._lock:
            return [self._close(stamp_ns, now_ns) for stamp_ns in list(self._open)]

    def clear(self) -> None:
        """Gives up what is open."""
        with self._lock:
            self.cleared += len(self._open)
            self._open.clear()

    def next_deadline_ns(self) -> int | None:
        """When `poll` will have something to do at the latest, None when nothing waits."""
        with self._lock:
            arrivals = [frame.arrival_ns for frame in self._open.values()]
        return min(arrivals) + self.wait_ns + 1 if arrivals else None

    @property
    def num_waiting(self) -> int:
        """Open frames."""
        return len(self._open)

    def _close(self, stamp_ns: int, now_ns: int) -> FusedFrame:
        frame = self._open.pop(stamp_ns)
        self._closed[stamp_ns] = now_ns
        self._closed.move_to_end(stamp_ns)
        while len(self._closed) > _CLOSED:
            self._closed.popitem(last=False)
        return FusedFrame(
            self.name,
            tuple(frame.pairs[name] for name in self.members if name in frame.pairs),
            tuple(name for name in self.members if name not in frame.pairs),
            frame.arrival_ns,
            stamp_ns,
        )


class FusedFrames:
    """The collectors of all fused masks of a node or replay.

    Args:
        config: options of node and replay.
        pairs: those that are replayed, None for all; a fused mask with another one is left out.
    """

    def __init__(self, config: NodeConfig, pairs: Collection[str] | None = None) -> None:
        self.collectors = {
            name: FrameCollector(name, members, config.sync.wait_ms)
            for name, members in config.fuse.members().items()
            if pairs is None or set(members) <= set(pairs)
        }
        self.name_of = {
            pair: name for name, one in self.collectors.items() for pair in one.members
        }

    def configure(self, config: NodeConfig) -> None:
        """Takes a changed `sync.wait_ms`."""
        for one in self.collectors.values():
            one.wait_ns = round(config.sync.wait_ms * NS_PER_MS)

    def on_rgb(self, pair: str, stamp_ns: int, now_ns: int) -> None:
        """Takes note of an RGB image of a pair; before it is pushed to the pair's pipeline."""
        name = self.name_of.get(pair)
        if name is not None and stamp_ns > 0:
            self.collectors[name].on_rgb(pair, stamp_ns, now_ns)

    def sorted_out(self, pairs: Iterable[Pair], now_ns: int) -> list[Pair | FusedFrame]:
        """Pairs that go alone, and frames that are complete by now."""
        ready: list[Pair | FusedFrame] = []
        for pair in pairs:
            name = self.name_of.get(pair.name)
            if name is None:
                ready.append(pair)
                continue
            try:
                frame = self.collectors[name].add(pair, now_ns)
            except LookupError:
                ready.append(pair)
                continue
            if frame is not None:
                ready.append(frame)
        return ready

    def poll(self, now_ns: int) -> list[FusedFrame]:
        """Frames that have waited long enough."""
        return [frame for one in self.collectors.values() for frame in one.poll(now_ns)]

    def flush(self, now_ns: int) -> list[FusedFrame]:
        """All that waits."""
        return [frame for one in self.collectors.values() for frame in one.flush(now_ns)]

    def clear(self) -> None:
        """Gives up all that waits."""
        for one in self.collectors.values():
            one.clear()

    def next_deadline_ns(self) -> int | None:
        """As `FrameCollector.next_deadline_ns`, of all."""
        deadlines = [one.next_deadline_ns() for one in self.collectors.values()]
        return min((one for one in deadlines if one is not None), default=None)


@dataclass(frozen=True, eq=False)
class Member:
    """One pair of a frame, decoded.

    Attributes:
        pair: its messages.
        sample: what they hold; None where they could not be decoded.
        error: why.
        fault: why its X does not count, empty where it does.
        is_black: True where the sample is RGB alone.
    """

    pair: Pair
    sample: RgbxSample | None
    error: EncodingError | None = None
    fault: str = ""
    is_black: bool = False

    @property
    def is_usable(self) -> bool:
        """True where its X counts."""
        return self.sample is not None and not self.fault


@dataclass(frozen=True)
class FuseRule:
    """Which frames get a fused mask.

    Attributes:
        min_members: pairs with a usable X that it needs, at least 1.
        answers_rgb_alone: frames with fewer get the answer of RGB alone.
    """

    min_members: int = 1
    answers_rgb_alone: bool = False

    @classmethod
    def of(cls, config: NodeConfig) -> FuseRule:
        """The rule of these options."""
        least = config.fuse.min_members
        is_rgb_enough = least == 0 or config.sync.on_missing_x is OnMissingX.RGB_ONLY
        return cls(max(1, least), is_rgb_enough)

    def is_fused(self, members: Sequence[Member]) -> bool:
        """True where enough members have an X that counts."""
        return sum(one.is_usable for one in members) >= self.min_members

    def asks_rgb(self, members: Sequence[Member]) -> bool:
        """True where the answer to RGB alone takes part in the fused one, or is it."""
        if self.is_fused(members):
            return sum(one.is_usable for one in members) > 1
        return self.answers_rgb_alone


def read_members(frame: FusedFrame) -> list[Member]:
    """Decodes a frame: RGB once for all, X of each."""
    rgb: Any = None
    members = []
    for pair in frame.pairs:
        try:
            sample = pair.reader.read(pair, rgb)
        except EncodingError as error:
            cause = "empty" if isinstance(error, EmptyXError) else "unreadable"
            members.append(Member(pair, None, error, cause))
            continue
        rgb = sample.rgb
        reader = pair.reader
        is_black = reader.is_black
        members.append(Member(pair, sample, None, reader.x_fault, is_black))
    return members


def rgb_alone(sample: RgbxSample) -> RgbxSample:
    """The sample without its X."""
    x, form = black_x(sample.rgb)
    return replace(sample, x=x, x_form=form)
