"""Watches that count what arrives and what becomes of it, between one report and the next."""

from __future__ import annotations

import time
import zlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NS_PER_S = 1e9
QUIET_S = 2.0
"""An input without messages for this long is called silent."""
_SHARE = 0.1
"""Weight of the newest delay in the smoothed one."""
_LOST_HINT = (
    "images above 512 KiB need the Fast DDS profile config/fastdds_large_images.xml in "
    "FASTDDS_DEFAULT_PROFILES_FILE, for the driver too"
)
_STRIDE = 61
"""Every how many bytes a picture is looked at to tell whether it is the one before."""


@dataclass
class FreezeWatch:
    """Tells when a camera repeats its last picture, as thermal ones do while they calibrate.

    Attributes:
        repeats: pictures equal to the one before, so far.
        longest: most of them in a row since the report before.
    """

    repeats: int = 0
    longest: int = 0
    _print: int = 0
    _stamp_ns: int = 0
    _row: int = 0

    def take(self, data: Any, stamp_ns: int) -> None:
        """Looks at the bytes of a picture; the same stamp twice is no new picture."""
        seen = np.frombuffer(data, np.uint8)
        sample = seen if len(seen) < _STRIDE * _STRIDE else seen[::_STRIDE]
        fingerprint = zlib.crc32(sample.tobytes())
        if stamp_ns == self._stamp_ns:
            return
        self._row = self._row + 1 if fingerprint == self._print and self._stamp_ns else 0
        self.repeats += self._row > 0
        self.longest = max(self.longest, self._row)
        self._print, self._stamp_ns = fingerprint, stamp_ns

    def take_longest(self) -> int:
        """The longest row of repeats since the last call."""
        longest, self.longest = self.longest, self._row
        return longest


@dataclass
class InputWatch:
    """What one input topic delivered.

    Attributes:
        topic: resolved name.
        received: messages so far.
        encoding: of the newest message.
        last_ns: monotonic time of the newest message, 0 for none.
        incompatible: publishers whose quality of service does not match, one clause for each.
        lost: messages that the middleware reports as lost.
        delay_ns: reception minus stamp, smoothed; None before the first message.
        freeze: tells repeated pictures, None where nobody asks.
        publishers: that are known on the topic.
    """

    topic: str
    received: int = 0
    encoding: str = ""
    last_ns: int = 0
    incompatible: list[str] = field(default_factory=list)
    lost: int = 0
    delay_ns: float | None = None
    freeze: FreezeWatch | None = None
    publishers: int = 0
    _times: deque[int] = field(default_factory=lambda: deque(maxlen=100))

    def arrived(self, now_ns: int, encoding: str, delay_ns: int = 0) -> None:
        """Counts a message.

        Args:
            now_ns: monotonic time.
            encoding: of the message.
            delay_ns: its reception minus its stamp.
        """
        self.received += 1
        self.encoding = encoding
        self.last_ns = now_ns
        self._times.append(now_ns)
        old = self.delay_ns
        if old is None or abs(delay_ns - old) > NS_PER_S:  # a looped recording starts anew
            self.delay_ns = delay_ns
        else:
            self.delay_ns = old + _SHARE * (delay_ns - old)

    def rate_hz(self, now_ns: int) -> float:
        """Messages per second of late."""
        recent = sum(1 for time_ns in self._times if now_ns - time_ns < QUIET_S * NS_PER_S)
        if recent < 2:
            return 0.0
        return (recent - 1) / ((self._times[-1] - self._times[-recent]) / NS_PER_S)

    def silence(self, now_ns: int, num_publishers: int, twin: str = "") -> str:
        """Why nothing arrives, empty when something did of late.

        Args:
            now_ns: monotonic time.
            num_publishers: that are known on the topic.
            twin: a topic of another transport that does have publishers, empty for none.
        """
        if self.last_ns and now_ns - self.last_ns < QUIET_S * NS_PER_S:
            return ""
        if self.incompatible:
            return (
                f"'{self.topic}': QoS does not match: {'; '.join(self.incompatible)}; set "
                "qos.input_reliability: best_effort or change the publisher"
            )
        if num_publishers == 0:
            hint = f"; '{twin}' has one: set the transport" if twin else ""
            return absence(self.topic, num_publishers, hint)
        if not self.received:
            return f"{absence(self.topic, num_publishers)}; {_LOST_HINT}"
        return f"'{self.topic}' has been silent for {(now_ns - self.last_ns) / NS_PER_S:.0f} s"


def absence(topic: str, num_publishers: int, hint: str = "") -> str:
    """Why nothing has ever come on a topic.

    Args:
        topic: resolved name.
        num_publishers: that are known on it.
        hint: what to do where there is none, instead of looking at the remapping.
    """
    if num_publishers == 0:
        return f"'{topic}' has no publisher{hint or '; check the remapping'}"
    return f"'{topic}' has a publisher but nothing arrives"


@dataclass
class Recent:
    """What became of a pair's messages since the report before.

    Attributes:
        pairs: made.
        held: of them with an X that an earlier RGB had used and that is out of reach.
        alone: of them without X.
        dt_sum_ns: stamps of X minus those of RGB, over the pairs that are neither.
        dt_max_ns: largest distance of stamps among them.
    """

    pairs: int = 0
    held: int = 0
    alone: int = 0
    dt_sum_ns: int = 0
    dt_max_ns: int = 0

    @property
    def matched(self) -> int:
        """Pairs whose stamps are within the limit."""
        return self.pairs - self.held - self.alone


@dataclass
class PairWatch:
    """What became of the messages of one pair.

    Attributes:
        pair: its name.
        inputs: the watches of its topics by short name, rgb first.
        last_pair_ns: monotonic time of the newest pair; of activation before the first, and of
            `~/enable` after a pause.
        has_paired: True once there was one.
        bad: messages that could not be used, by cause.
        last_bad: sentence about the newest of them, empty again after an answer.
        limited: pairs not answered because of `rate.max_hz`.
        stream_lost: gaps in X itself: event packets missing between those that came, or exposures
            that lack an angle.
        is_depth: True for depth, whose encodings decide the unit.
    """

    pair: str
    inputs: dict[str, InputWatch]
    last_pair_ns: int = 0
    has_paired: bool = False
    bad: Counter[str] = field(default_factory=Counter)
    last_bad: str = ""
    limited: int = 0
    stream_lost: int = 0
    is_depth: bool = False
    _recent: Recent = field(default_factory=Recent)

    def skew_ms(self) -> float:
        """How far X's stamps run ahead of RGB's, judged by when both arrive."""
        rgb, x, *_ = (watch.delay_ns for watch in self.inputs.values())
        return 0.0 if rgb is None or x is None else (rgb - x) / 1e6

    def paired(self, now_ns: int, dt_ns: int | None, held: bool) -> None:
        """Counts a pair; `dt_ns` is None where RGB goes alone."""
        self.last_pair_ns = now_ns
        self.has_paired = True
        self._recent.pairs += 1
        self._recent.held += held
        self._recent.alone += dt_ns is None
        if dt_ns is not None and not held:
            self._recent.dt_sum_ns += dt_ns
            self._recent.dt_max_ns = max(self._recent.dt_max_ns, abs(dt_ns))

    def refused(self, cause: str, message: str) -> None:
        """Counts a message that could not be used."""
        self.bad[cause] += 1
        self.last_bad = message

    def take_recent(self) -> Recent:
        """What happened since the last call."""
        recent, self._recent = self._recent, Recent()
        return recent


class Throttle:
    """Lets one message per key through in a while, and says how many were held back."""

    def __init__(self, log: Callable[[str], Any], period_s: float = 5.0) -> None:
        self._log = log
        self._period_ns = round(period_s * NS_PER_S)
        self._last: dict[str, int] = {}
        self._held: Counter[str] = Counter()

    def __call__(self, key: str, message: str) -> None:
        """Logs, or counts, a message of this key."""
        now_ns = time.monotonic_ns()
        last = self._last.get(key)
        if last is not None and now_ns - last < self._period_ns:
            self._held[key] += 1
            return
        self._last[key] = now_ns
        more = f" ({self._held[key]} more since the last)" if self._held[key] else ""
        self._held[key] = 0
        self._log(message + more)
