"""Which transport an input arrives by: what comes decides. No rclpy here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

SETTLE_S = 0.5
"""How long an input's first transport is compared with the others."""


class TransportChoice:
    """Which of an input's topics is listened to; until messages come, all of them.

    Drivers often publish an image raw and compressed. Each moment is taken once: a message whose
    stamp came by another transport is left out, and one is waited for where it comes by a
    preferred transport as well.

    Args:
        topics: absolute topic by transport, the preferred one first.
        settle_s: in place of `SETTLE_S`.
    """

    def __init__(self, topics: Mapping[str, str], settle_s: float = SETTLE_S) -> None:
        self.topics = dict(topics)
        self._settle_ns = round(settle_s * 1e9)
        self.reopen()

    def reopen(self) -> None:
        """Starts anew: every transport may come."""
        self.chosen = next(iter(self.topics)) if len(self.topics) == 1 else ""
        self._first_ns = 0
        self._arrived: set[str] = set()
        self._seen: dict[int, str] = {}

    @property
    def is_open(self) -> bool:
        """True while several transports are listened to."""
        return not self.chosen

    @property
    def topic(self) -> str:
        """The topic that is listened to, the preferred one while all are."""
        return self.topics[self.chosen or next(iter(self.topics))]

    def takes(
        self, transport: str, stamp_ns: int, now_ns: int, is_published: Callable[[str], bool]
    ) -> bool:
        """Whether a message is to be used, for messages while the choice is open.

        Args:
            transport: by which it came.
            stamp_ns: its stamp.
            now_ns: monotonic time.
            is_published: whether a topic has a publisher.
        """
        if not self.is_open:
            return transport == self.chosen
        self._first_ns = self._first_ns or now_ns
        self._arrived.add(transport)
        for better, topic in self.topics.items():
            if better == transport:
                break
            if is_published(topic):
                return False
        return self._seen.setdefault(stamp_ns, transport) == transport

    def settle(self, now_ns: int) -> bool:
        """Chooses among the transports that came, some time after the first message.

        Returns:
            True when it has chosen.
        """
        if not (self.is_open and self._arrived and now_ns - self._first_ns >= self._settle_ns):
            return False
        self.chosen = next(one for one in self.topics if one in self._arrived)
        self._seen.clear()
        return True
