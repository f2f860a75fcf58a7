"""What arrives on every input and what becomes of it, counted between reports."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from segrgbx_core.sensors.freeze import FreezeDetector

NS_PER_S = 1e9
_SHARE = 0.1
"""Weight of the newest delay in the smoothed one."""
_NO_NUMBER = 2**64 - 1
"""What a middleware gives that counts no messages."""


@dataclass(frozen=True)
class Patience:
    """How long the node waits before it says or does something.

    Attributes:
        quiet_s: an input without messages for this long is called silent.
        explain_s: a pair that gives nothing for this long is worth a warning in the log.
        hung_s: a pass that has run for this long is reported.
        stop_s: how long the end of a pass is waited for at most.
    """

    quiet_s: float = 2.0
    explain_s: float = 5.0
    hung_s: float = 5.0
    stop_s: float = 2.0


PATIENT = Patience()


@dataclass
class StreamHealth:
    """What one input topic delivered.

    Attributes:
        topic: resolved name.
        received: messages so far.
        encoding: of the newest message.
        last_ns: monotonic time of the newest message, 0 for none.
        incompatible: publishers whose quality of service does not match, one clause for each.
        lost: messages missing between those that came, by each publisher's sequence numbers, or
            as the middleware reports them where it gives none.
        disabled: messages that came while inference was switched off.
        cleared: messages that waited to be decoded when all was given up.
        delay_ns: reception minus stamp, smoothed; None before the first message.
        freeze: detects repeated images, None where they are not looked for.
        publishers: that are known on the topic.
        quiet_s: see `Patience`.
    """

    topic: str
    received: int = 0
    encoding: str = ""
    last_ns: int = 0
    incompatible: list[str] = field(default_factory=list)
    lost: int = 0
    disabled: int = 0
    cleared: int = 0
    delay_ns: float | None = None
    freeze: FreezeDetector | None = None
    publishers: int = 0
    quiet_s: float = Patience.quiet_s
    _times: deque[int] = field(default_factory=lambda: deque(maxlen=100))
    _next: dict[bytes, int] = field(default_factory=dict)

    @property
    def has_numbers(self) -> bool:
        """True where messages carry sequence numbers, so that losses are known exactly."""
        return bool(self._next)

    def on_number(self, publisher: bytes, number: int | None) -> None:
        """Counts what one publisher sent since its last message and what did not come.

        Args:
            publisher: its identity.
            number: of its message, counted by the middleware; None where it does not.
        """
        if number is None or number >= _NO_NUMBER:
            return
        expected = self._next.get(publisher, number)
        self.lost += max(0, number - expected)
        self._next[publisher] = number + 1

    def on_message(self, now_ns: int, encoding: str, delay_ns: int = 0) -> None:
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

    def is_quiet(self, now_ns: int) -> bool:
        """True when nothing came of late; `now_ns` is monotonic."""
        return not self.last_ns or now_ns - self.last_ns >= self.quiet_s * NS_PER_S

    def rate_hz(self, now_ns: int) -> float:
        """Messages per second of late."""
        recent = sum(1 for time_ns in self._times if now_ns - time_ns < self.quiet_s * NS_PER_S)
        if recent < 2:
            return 0.0
        return (recent - 1) / ((self._times[-1] - self._times[-recent]) / NS_PER_S)


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
class AnswerHealth:
    """The answers of one pair.

    Attributes:
        number: so far.
        row_unlabeled: the newest so many have no label in any pixel.
        latencies_ms: arrival of RGB to publication, of the newest ones.
    """

    number: int = 0
    row_unlabeled: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    _times: deque[int] = field(default_factory=lambda: deque(maxlen=100))

    def on_answer(self, now_ns: int, latency_ms: float, is_unlabeled: bool) -> None:
        """Counts an answer; `now_ns` is monotonic."""
        self.number += 1
        self.row_unlabeled = self.row_unlabeled + 1 if is_unlabeled else 0
        self.latencies_ms.append(latency_ms)
        self._times.append(now_ns)

    def rate_hz(self) -> float:
        """Of the newest answers; 0 for fewer than two."""
        times = list(self._times)[-20:]
        if len(times) < 2:
            return 0.0
        return (len(times) - 1) / ((times[-1] - times[0]) / NS_PER_S)


@dataclass
class PairHealth:
    """What became of the messages of one pair.

    Attributes:
        pair: its name.
        inputs: its topics by short name, rgb first.
        last_pair_ns: monotonic time of the newest pair; of activation before the first, and of
            `~/enable` after a pause.
        has_paired: True once there was one.
        bad: messages that could not be used, by cause.
        last_bad: sentence about the newest of them, empty again after an answer.
        limited: pairs not answered because of `rate.max_hz`.
        stream_lost: gaps in X itself: event packets missing between those that came, or exposures
            that lack an angle.
        is_depth: True for depth, whose encodings decide the unit.
        answers: what came out.
        quiet_s: see `Patience`.
    """

    pair: str
    inputs: dict[str, StreamHealth]
    last_pair_ns: int = 0
    has_paired: bool = False
    bad: Counter[str] = field(default_factory=Counter)
    last_bad: str = ""
    limited: int = 0
    stream_lost: int = 0
    is_depth: bool = False
    answers: AnswerHealth = field(default_factory=AnswerHealth)
    quiet_s: float = Patience.quiet_s
    _recent: Recent = field(default_factory=Recent)
    _behind: tuple[float, int] = (0.0, 0)
    # The worker, intakes and callbacks count in threads of their own.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def on_behind(self, behind_s: float, num_waiting: int = 0) -> None:
        """Notes how long a message waited in this node, and how many wait behind it."""
        self._behind = max(self._behind, (behind_s, num_waiting))

    def take_behind(self) -> tuple[float, int]:
        """The longest wait in this node since the last call, in s, and how many waited then."""
        behind, self._behind = self._behind, (0.0, 0)
        return behind

    def skew_ms(self) -> float:
        """How far X's stamps run ahead of RGB's, judged by when both arrive."""
        rgb, x, *_ = (stream.delay_ns for stream in self.inputs.values())
        return 0.0 if rgb is None or x is None else (rgb - x) / 1e6

    def is_quiet(self, now_ns: int) -> bool:
        """True when no pair was made of late; `now_ns` is monotonic."""
        return now_ns - self.last_pair_ns > self.quiet_s * NS_PER_S

    def on_pair(self, now_ns: int, dt_ns: int | None, held: bool) -> None:
        """Counts a pair; `dt_ns` is None where RGB goes alone."""
        with self._lock:
            self.last_pair_ns = now_ns
            self.has_paired = True
            self._recent.pairs += 1
            self._recent.held += held
            self._recent.alone += dt_ns is None
            if dt_ns is not None and not held:
                self._recent.dt_sum_ns += dt_ns
                self._recent.dt_max_ns = max(self._recent.dt_max_ns, abs(dt_ns))

    def on_refused(self, cause: str, message: str) -> None:
        """Counts a message that could not be used; from any thread."""
        with self._lock:
            self.bad[cause] += 1
            self.last_bad = message

    def refused(self) -> dict[str, int]:
        """Messages that could not be used so far, by cause."""
        with self._lock:
            return dict(self.bad)

    def take_recent(self) -> Recent:
        """What happened since the last call."""
        with self._lock:
            recent, self._recent = self._recent, Recent()
        return recent


class Throttle:
    """Lets one message per key through in a while, and says how many were held back."""

    def __init__(self, log: Callable[[str], Any], period_s: float = 5.0) -> None:
        self._log = log
        self._period_ns = round(period_s * NS_PER_S)
        self._last: dict[str, int] = {}
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, key: str, message: str) -> None:
        """Logs, or counts, a message of this key; from any thread."""
        now_ns = time.monotonic_ns()
        with self._lock:
            last = self._last.get(key)
            if last is not None and now_ns - last < self._period_ns:
                self._held[key] += 1
                return
            self._last[key] = now_ns
            held = self._held.pop(key, 0)
        self._log(message + (f" ({held} more since the last)" if held else ""))
