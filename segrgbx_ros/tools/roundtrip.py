"""Plays a recording through the live node and keeps what comes back."""

from __future__ import annotations

import sys
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import String
from tqdm import tqdm

from segrgbx_core.labels.label_space import PublishedLabels
from segrgbx_ros.config.node import Stream
from segrgbx_ros.messages import images as messages
from segrgbx_ros.messages.labels import parse_label_map
from segrgbx_ros.replay.bags import Bag, Recorded
from segrgbx_ros.replay.topic_routes import Routes
from segrgbx_ros.tools.node_process import Listener, NodeProcess, NodeProcessError, own_domain
from segrgbx_ros.tools.player import BagPlayer

try:
    from diagnostic_msgs.msg import DiagnosticArray
except ImportError:  # without it losses are counted, but not explained
    DiagnosticArray = None

START_S = 180.0
"""Longest time that the node may take to load torch and the checkpoint."""
PATIENCE_S = 5.0
"""Longest silence after the last message was sent."""
GROUP_NS = 60_000_000
"""RGB and X of one moment lie this near to each other; slower playing does not part them."""
SETTLE_S = 1.0
"""Time for publishers and subscribers of both processes to find each other."""

Pixels = NDArray[np.uint8]


@dataclass
class Answers:
    """What was sent and what came back, by RGB stamp in ns.

    Attributes:
        sent_s: when each RGB image was published.
        frame_ids: frame of each mask.
        masks: label ids.
        latency_ms: RGB published to mask received.
        x_sent_s: when each X message was published, by its own stamp.
        received_s: when each mask was received.
        overlays: RGB tinted by labels.
        previews: X as the model saw it.
        losses: RGB images without an answer by cause, as the node reports them.
        labels: what the ids mean.
        node_ready_s: how long the node took to become active.
    """

    sent_s: dict[int, float] = field(default_factory=dict)
    frame_ids: dict[int, str] = field(default_factory=dict)
    masks: dict[int, Pixels] = field(default_factory=dict)
    latency_ms: dict[int, float] = field(default_factory=dict)
    x_sent_s: dict[int, float] = field(default_factory=dict)
    received_s: dict[int, float] = field(default_factory=dict)
    overlays: dict[int, Pixels] = field(default_factory=dict)
    previews: dict[int, Pixels] = field(default_factory=dict)
    losses: Counter[str] = field(default_factory=Counter)
    labels: PublishedLabels | None = None
    node_ready_s: float = 0.0

    def listen(self, listener: Listener, base: str) -> None:
        """Subscribes to a pair's answers; `base` is its absolute name."""

        def mask(message: Any) -> None:
            now_s, stamp = time.monotonic(), messages.stamp_ns(message)
            self.masks[stamp] = messages.image_array(message).copy()
            self.frame_ids[stamp] = message.header.frame_id
            self.received_s[stamp] = now_s
            if stamp in self.sent_s:
                self.latency_ms[stamp] = (now_s - self.sent_s[stamp]) * 1e3

        def keep(place: dict[int, Pixels]) -> Callable[[Any], None]:
            def take(message: Any) -> None:
                place[messages.stamp_ns(message)] = messages.image_array(message).copy()

            return take

        def labels(message: Any) -> None:
            self.labels = parse_label_map(message.data)

        if DiagnosticArray is not None:
            listener.subscribe(DiagnosticArray, "/diagnostics", self._diagnosed)
        listener.subscribe(Image, f"{base}/mask", mask)
        listener.subscribe(Image, f"{base}/overlay", keep(self.overlays))
        listener.subscribe(Image, f"{base}/x/preview", keep(self.previews))
        listener.subscribe(String, f"{base}/label_map", labels, latched=True)

    def pair_latency_ms(self) -> list[float]:
        """Of each mask: the later one of RGB and its nearest X published to mask received."""
        stamps = sorted(self.x_sent_s)
        latencies_ms = []
        for stamp, received_s in self.received_s.items():
            place = bisect(stamps, stamp)
            near = min(
                stamps[max(0, place - 1) : place + 1], key=lambda x: abs(x - stamp), default=0
            )
            if near and stamp in self.sent_s:
                complete_s = max(self.sent_s[stamp], self.x_sent_s[near])
                latencies_ms.append((received_s - complete_s) * 1e3)
        return latencies_ms

    def _diagnosed(self, message: Any) -> None:
        for status in message.status:
            for item in status.values:
                if item.key.startswith(("dropped_", "failed_")):  # totals
                    self.losses[item.key.split("_", 1)[1]] = int(item.value)
                elif item.key == "replaced":  # since the report before
                    self.losses["replaced_by_newer"] += int(item.value)


def play_through_node(
    bag: Bag,
    routes: Routes,
    pair: str,
    params_file: Path,
    log: Path,
    parameters: Mapping[str, Any],
    rate: float = 1.0,
    environment: Mapping[str, str] | None = None,
) -> Answers:
    """Starts the node in a process of its own, plays one pair's inputs, waits for the answers.

    Args:
        bag: open recording.
        routes: which recorded topic feeds which input.
        pair: name of the RGB-X pair.
        params_file: ROS parameter file.
        log: where the node's output goes.
        parameters: win over the file, by dotted name.
        rate: speed against the recording.
        environment: more variables for the node.

    Raises:
        NodeProcessError: when the node does not get ready, ends, or says nothing about its labels.
    """
    answers, domain = Answers(), own_domain()
    rgb = routes.topic(pair, Stream.RGB)
    calibrations = [routes.topic(pair, stream) for stream in (Stream.RGB_INFO, Stream.X_INFO)]
    inputs = [name for name, uses in routes.inputs.items() if pair in dict(uses)]
    remaps = {name: name.removeprefix(routes.namespace) for name in inputs}
    with (
        NodeProcess(params_file, log, parameters, domain, environment) as process,
        Listener(domain, "segrgbx_roundtrip") as listener,
    ):
        answers.listen(listener, f"/{pair}")
        answers.node_ready_s = listener.wait_active(process, START_S)
        player = BagPlayer(listener.node, bag, topics=inputs, remaps=remaps)
        player.wait_for_subscribers(timeout_s=30, check=process.check)
        time.sleep(SETTLE_S)
        if answers.labels is None:
            raise NodeProcessError(f"nothing came on /{pair}/label_map; {process.tail()}")
        bar = tqdm(
            total=bag.topics[rgb].count, unit="frame", desc="playing", file=sys.stderr, leave=False
        )

        def sent(message: Recorded, now_s: float) -> None:
            if message.topic == rgb:
                answers.sent_s[messages.stamp_ns(message.raw)] = now_s
                bar.update()
            elif message.topic not in calibrations:
                answers.x_sent_s[messages.stamp_ns(message.raw)] = now_s

        with bar:
            player.play(rate, on_publish=sent, check=process.check, keep_ns=GROUP_NS)
        _wait_for_masks(answers, process)
    return answers


def _wait_for_masks(answers: Answers, process: NodeProcess) -> None:
    """Returns when all masks are here, or none has come for a while."""
    count, since = len(answers.masks), time.monotonic()
    while len(answers.masks) < len(answers.sent_s) and time.monotonic() - since < PATIENCE_S:
        process.check()
        if len(answers.masks) != count:
            count, since = len(answers.masks), time.monotonic()
        time.sleep(0.05)
    time.sleep(0.3)  # the pictures follow their mask
