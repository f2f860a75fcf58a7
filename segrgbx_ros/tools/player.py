"""Plays a recording over real topics: the recorded bytes at the recorded rate, nothing restamped.

It needs rclpy and the message packages but not rosbag2:
`python -m segrgbx_ros.tools.player BAG [--rate 0.5] [--remap /from:=/to] [--clock] [--loop 2]`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from segrgbx_core.base.errors import ConfigError, DataError, command
from segrgbx_core.base.files import path_text
from segrgbx_ros.node.inputs import message_class
from segrgbx_ros.replay.bags import Bag, Recorded
from segrgbx_ros.replay.topic_routes import parse_remaps

CLOCK_PERIOD_S = 0.01
_POLL_S = 0.05


@dataclass(frozen=True)
class Played:
    """What was played.

    Attributes:
        counts: messages by published topic.
        late_ms: largest delay of a message against its recorded time in ms.
    """

    counts: dict[str, int]
    late_ms: float


class BagPlayer:
    """Publishes the topics of a recording from an rclpy node.

    Args:
        node: makes the publishers; need not spin.
        bag: open recording.
        topics: recorded names to play, None for all whose message packages are installed.
        remaps: published name by recorded name.
        clock: True to publish `/clock` with the recorded receive times.

    Raises:
        SegrgbxError: when a topic that is asked for is not recorded or its package is missing.
    """

    def __init__(
        self,
        node: Any,
        bag: Bag,
        *,
        topics: Collection[str] | None = None,
        remaps: Mapping[str, str] | None = None,
        clock: bool = False,
    ) -> None:
        self._bag = bag
        self._remaps = dict(remaps or {})
        self._publishers: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}
        for name in bag.topics if topics is None else topics:
            self._add(node, name, is_optional=topics is None)
        self._clock: Any = None
        if clock:
            kind = message_class("rosgraph_msgs/msg/Clock")
            self._clock = (node.create_publisher(kind, "/clock", 10), kind)

    @property
    def topics(self) -> dict[str, str]:
        """Published name by recorded name."""
        return {name: self._remaps.get(name, name) for name in self._publishers}

    def wait_for_subscribers(
        self,
        topics: Collection[str] | None = None,
        timeout_s: float = 10.0,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Returns when every topic has a subscriber.

        Args:
            topics: recorded names that matter, None for all that are played.
            timeout_s: gives up after this many seconds.
            check: called while waiting; may raise to end it.

        Raises:
            DataError: naming the topics that nobody listens to.
        """
        end = time.monotonic() + timeout_s
        wanted = list(self._publishers if topics is None else topics)
        while True:
            alone = [
                name for name in wanted if self._publishers[name].get_subscription_count() == 0
            ]
            if not alone:
                return
            if time.monotonic() > end:
                names = ", ".join(self.topics[name] for name in alone)
                raise DataError(
                    f"no subscriber on {names} within {timeout_s:g} s; "
                    "is the node active, do names and ROS_DOMAIN_ID agree?"
                )
            if check:
                check()
            time.sleep(_POLL_S)

    def play(
        self,
        rate: float = 1.0,
        on_publish: Callable[[Recorded, float], None] | None = None,
        check: Callable[[], None] | None = None,
        keep_ns: int = 0,
    ) -> Played:
        """Publishes everything once.

        Args:
            rate: speed; 0.5 takes twice the recorded time, 0 does not wait at all.
            on_publish: called right before each message with it and `time.monotonic()`.
            check: called before each message; may raise to end it.
            keep_ns: messages this near to the first of their group keep their recorded distance
                at any speed, as RGB and X of one moment should.
        """
        counts = dict.fromkeys(self.topics.values(), 0)
        began, first, late, group = time.monotonic(), None, 0.0, 0
        for message in self._bag.messages(set(self._publishers)):
            first = message.receive_ns if first is None else first
            if rate > 0:
                if message.receive_ns - group > keep_ns:
                    group = message.receive_ns
                due = began + ((group - first) / rate + message.receive_ns - group) / 1e9
                self._sleep(due, message.receive_ns, rate)
                late = max(late, time.monotonic() - due)
            if check:
                check()
            self._tick(message.receive_ns)
            if on_publish:
                on_publish(message, time.monotonic())
            self._publishers[message.topic].publish(message.raw)
            counts[self.topics[message.topic]] += 1
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=2))
        return Played(counts, late * 1e3)

    def _add(self, node: Any, name: str, *, is_optional: bool) -> None:
        topic = self._bag.require(name)
        try:
            kind = message_class(topic.type)
        except ConfigError as error:
            if not is_optional:
                raise
            self.skipped[name] = str(error)
            return
        durability = (
            DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE
        )
        # Reliable suits best-effort and reliable subscribers alike.
        profile = QoSProfile(
            depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=durability
        )
        self._publishers[name] = node.create_publisher(kind, self._remaps.get(name, name), profile)

    def _sleep(self, due: float, receive_ns: int, rate: float) -> None:
        """Sleeps until `due` and lets the clock run meanwhile."""
        while (left := due - time.monotonic()) > 0:
            if self._clock is None:
                time.sleep(left)
                return
            self._tick(receive_ns - int(left * rate * 1e9))
            time.sleep(min(left, CLOCK_PERIOD_S))

    def _tick(self, now_ns: int) -> None:
        if self._clock is None:
            return
        publisher, kind = self._clock
        message = kind()
        message.clock.sec, message.clock.nanosec = divmod(now_ns, 1_000_000_000)
        publisher.publish(message)


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the player; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m segrgbx_ros.tools.player", description=__doc__
    )
    parser.add_argument("bag", type=path_text, help="rosbag2 folder or file")
    parser.add_argument("--rate", type=float, default=1.0, help="speed, 0 without waiting")
    parser.add_argument("--topic", action="append", help="recorded topic to play (default: all)")
    parser.add_argument("--remap", action="append", default=[], metavar="FROM:=TO")
    parser.add_argument("--clock", action="store_true", help="publish /clock")
    parser.add_argument("--loop", type=int, default=1, help="how often to play it")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="wait this many seconds for subscribers"
    )
    options = parser.parse_args(argv)
    try:
        remaps = parse_remaps(options.remap)
        with Bag(options.bag) as bag:
            rclpy.init(args=[])
            try:
                return _play(bag, options, remaps)
            finally:
                rclpy.try_shutdown()
    except KeyboardInterrupt:
        return 130


def _play(bag: Bag, options: argparse.Namespace, remaps: Mapping[str, str]) -> int:
    node = rclpy.create_node("segrgbx_player")
    player = BagPlayer(node, bag, topics=options.topic, remaps=remaps, clock=options.clock)
    for text in bag.warnings:
        print(f"warning: {text}", file=sys.stderr)
    for name, reason in player.skipped.items():
        print(f"not played: {name}: {reason}", file=sys.stderr)
    if options.wait > 0:
        player.wait_for_subscribers(timeout_s=options.wait)
    for _ in range(options.loop):
        played = player.play(options.rate)
        items = ", ".join(f"{name} {count}" for name, count in played.counts.items())
        print(f"played {items}; at most {played.late_ms:.1f} ms late")
    node.destroy_node()
    return 0


if __name__ == "__main__":
    sys.exit(main())
