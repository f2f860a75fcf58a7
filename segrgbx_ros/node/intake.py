"""Pairing beside the executor: messages of event streams, which take long to decode."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from segrgbx_core.base.samples import NS_PER_MS
from segrgbx_ros.config.node import Stream
from segrgbx_ros.node.health.streams import NS_PER_S, StreamHealth

MAX_WAITING = 1000
"""Messages that may wait; as many as the middleware keeps of a stream of events."""
_GRACE_NS = 10 * NS_PER_MS
"""A message that arrived in time may still be with the executor when a deadline passes."""


@dataclass(frozen=True)
class Received:
    """A message on its way to its pair.

    Attributes:
        stream: which input it came on.
        health: of that input.
        message: as rclpy gives it.
        now_ns: when it arrived, on the clock of pairing.
        stamp_ns: its stamp.
    """

    stream: Stream
    health: StreamHealth
    message: Any
    now_ns: int
    stamp_ns: int


class PairIntake:
    """A thread that takes the messages of one pair in the order of their arrival.

    Args:
        name: of the pair.
        on_message: pairs one message; must not raise.
        poll: decides what has waited long enough.
        deadline_ns: when `poll` will have something to do, on the clock of `now_ns`; None for
            never.
        clock_ns: that clock.
        stop_s: how long `stop` waits for a message that is being decoded.
    """

    def __init__(
        self,
        name: str,
        on_message: Callable[[str, Received], None],
        poll: Callable[[str, int], None],
        deadline_ns: Callable[[str], int | None],
        clock_ns: Callable[[], int],
        stop_s: float,
    ) -> None:
        self._name = name
        self._on_message = on_message
        self._poll = poll
        self._deadline_ns = deadline_ns
        self._clock_ns = clock_ns
        self._stop_s = stop_s
        self._waiting: deque[Received] = deque()
        self._ready = threading.Condition()
        self._runs = True
        self._thread = threading.Thread(target=self._run, name=f"segrgbx-{name}", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Messages not taken yet."""
        return len(self._waiting)

    def put(self, received: Received) -> bool:
        """Offers a message; False where too many wait, it is given up then."""
        with self._ready:
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append(received)
            self._ready.notify()
        return True

    def clear(self) -> None:
        """Gives up what waits, which is counted with its input."""
        with self._ready:
            for received in self._waiting:
                received.health.cleared += 1
            self._waiting.clear()

    def stop(self) -> None:
        """Ends the thread after the message that it has; what waits is given up."""
        self.clear()
        with self._ready:
            self._runs = False
            self._ready.notify()
        self._thread.join(self._stop_s)

    def _run(self) -> None:
        while self._runs:
            received = self._next()
            if received is not None:
                self._on_message(self._name, received)
            elif self._runs:
                self._poll(self._name, self._clock_ns())

    def _next(self) -> Received | None:
        """The next message; None when a deadline passed first, or at the end."""
        deadline_ns = self._deadline_ns(self._name)
        wait_s = None
        if deadline_ns is not None:
            wait_s = max(0.0, (deadline_ns + _GRACE_NS - self._clock_ns()) / NS_PER_S)
        end = None if wait_s is None else time.monotonic() + wait_s
        with self._ready:
            while self._runs and not self._waiting:
                left_s = None if end is None else end - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return None
                self._ready.wait(left_s)
            return self._waiting.popleft() if self._waiting else None
