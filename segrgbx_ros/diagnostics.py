"""Named reasons: watches that count what arrives, and statuses that say what is wrong with it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segrgbx_core.align import AlignCounts
from segrgbx_ros.config import DiagnosticsConfig
from segrgbx_ros.worker import WorkReport

try:
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
except ImportError:  # the node runs without it and says so in its log
    DiagnosticArray = None

OK, WARN, ERROR = 0, 1, 2
_NS_PER_S = 1e9
QUIET_S = 2.0
"""An input without messages for this long is called silent."""
_SHARE = 0.1
"""Weight of the newest delay in the smoothed one."""
_LOST_HINT = (
    "images above 512 KiB need the Fast DDS profile config/fastdds_large_images.xml in "
    "FASTDDS_DEFAULT_PROFILES_FILE, for the driver too"
)


@dataclass(frozen=True)
class Status:
    """One line of /diagnostics.

    Attributes:
        level: OK, WARN or ERROR.
        name: what it is about, without the node's name.
        message: the reason, one sentence.
        values: figures to look at.
    """

    level: int
    name: str
    message: str
    values: Mapping[str, Any] = field(default_factory=dict)


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
    """

    topic: str
    received: int = 0
    encoding: str = ""
    last_ns: int = 0
    incompatible: list[str] = field(default_factory=list)
    lost: int = 0
    delay_ns: float | None = None
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
        if old is None or abs(delay_ns - old) > _NS_PER_S:  # a looped recording starts anew
            self.delay_ns = delay_ns
        else:
            self.delay_ns = old + _SHARE * (delay_ns - old)

    def rate_hz(self, now_ns: int) -> float:
        """Messages per second of late."""
        recent = sum(1 for time_ns in self._times if now_ns - time_ns < QUIET_S * _NS_PER_S)
        if recent < 2:
            return 0.0
        return (recent - 1) / ((self._times[-1] - self._times[-recent]) / _NS_PER_S)

    def silence(self, now_ns: int, num_publishers: int, twin: str = "") -> str:
        """Why nothing arrives, empty when something did of late.

        Args:
            now_ns: monotonic time.
            num_publishers: that are known on the topic.
            twin: a topic of another transport that does have publishers, empty for none.
        """
        if self.last_ns and now_ns - self.last_ns < QUIET_S * _NS_PER_S:
            return ""
        if self.incompatible:
            return (
                f"'{self.topic}': QoS does not match: {'; '.join(self.incompatible)}; set "
                "qos.input_reliability: best_effort or change the publisher"
            )
        if num_publishers == 0:
            hint = f"; '{twin}' has one: set the transport" if twin else "; check the remapping"
            return f"'{self.topic}' has no publisher{hint}"
        if not self.received:
            return f"'{self.topic}' has a publisher but nothing arrives; {_LOST_HINT}"
        return f"'{self.topic}' has been silent for {(now_ns - self.last_ns) / _NS_PER_S:.0f} s"


@dataclass
class Recent:
    """What became of a pair's messages since the report before.

    Attributes:
        pairs: made.
        held: of them with an X that an earlier RGB had used and that is out of reach.
        alone: of them without X.
        dt_max_ns: largest distance of stamps.
    """

    pairs: int = 0
    held: int = 0
    alone: int = 0
    dt_max_ns: int = 0


@dataclass
class PairWatch:
    """What became of the messages of one pair.

    Attributes:
        pair: its name.
        inputs: the watches of its topics by short name (rgb, x).
        last_pair_ns: monotonic time of the newest pair; of activation before the first.
        has_paired: True once there was one.
        bad: messages that could not be used, by cause.
        last_bad: sentence about the newest of them, empty again after an answer.
    """

    pair: str
    inputs: dict[str, InputWatch]
    last_pair_ns: int = 0
    has_paired: bool = False
    bad: Counter[str] = field(default_factory=Counter)
    last_bad: str = ""
    _recent: Recent = field(default_factory=Recent)

    def skew_ms(self) -> float:
        """How far X's stamps run ahead of RGB's, judged by when both arrive."""
        rgb, x = (self.inputs[name].delay_ns for name in ("rgb", "x"))
        return 0.0 if rgb is None or x is None else (rgb - x) / 1e6

    def paired(self, now_ns: int, dt_ns: int | None, held: bool) -> None:
        """Counts a pair; `dt_ns` is None where RGB goes alone."""
        self.last_pair_ns = now_ns
        self.has_paired = True
        self._recent.pairs += 1
        self._recent.held += held
        self._recent.alone += dt_ns is None
        if dt_ns is not None and not held:
            self._recent.dt_max_ns = max(self._recent.dt_max_ns, abs(dt_ns))

    def refused(self, cause: str, message: str) -> None:
        """Counts a message that could not be used."""
        self.bad[cause] += 1
        self.last_bad = message

    def take_recent(self) -> Recent:
        """What happened since the last call."""
        recent, self._recent = self._recent, Recent()
        return recent


def input_status(watch: PairWatch, silences: Iterable[str], limits: DiagnosticsConfig) -> Status:
    """State of the inputs of a pair.

    Args:
        watch: what arrived.
        silences: why nothing arrives, one sentence for each silent topic.
        limits: when to warn.
    """
    now_ns = time.monotonic_ns()
    # A copy in one step: the worker may add a cause at any time.
    values: dict[str, Any] = {f"bad_{cause}": count for cause, count in list(watch.bad.items())}
    errors, warnings = list(silences), []
    for short, topic in watch.inputs.items():
        rate = topic.rate_hz(now_ns)
        policies = "; ".join(topic.incompatible)
        values |= {
            f"{short}_topic": topic.topic,
            f"{short}_hz": f"{rate:.1f}",
            f"{short}_encoding": topic.encoding,
            f"{short}_age_ms": f"{(now_ns - topic.last_ns) / 1e6:.0f}" if topic.last_ns else "",
            f"{short}_received": topic.received,
            f"{short}_lost": topic.lost,
            f"{short}_incompatible_qos": policies,
        }
        if policies and not any(topic.topic in text for text in errors):
            errors.append(f"'{topic.topic}': QoS of a publisher does not match: {policies}")
        elif topic.received > 1 and rate < limits.min_rate_hz and not errors:
            warnings.append(f"'{topic.topic}' at {rate:.1f} Hz, below {limits.min_rate_hz:g} Hz")
    if watch.last_bad:
        errors.append(watch.last_bad)
    level = ERROR if errors else WARN if warnings else OK
    return Status(
        level, f"{watch.pair} input", "; ".join(errors or warnings) or "receiving", values
    )


def sync_status(
    watch: PairWatch,
    counts: AlignCounts,
    inputs_ok: bool,
    max_dt_ms: float,
    offset_ms: float = 0.0,
) -> Status:
    """State of the pairing of a pair.

    Args:
        watch: of the pair; what is new in it is taken.
        counts: of its aligner, since activation.
        inputs_ok: False when an input is silent, which explains missing pairs.
        max_dt_ms: the limit that pairs keep.
        offset_ms: how far X's stamps are known to run ahead.
    """
    skew_ms = watch.skew_ms()
    dropped = {cause: count for cause, count in counts.dropped.items() if count}
    values: dict[str, Any] = {
        "pairs": counts.matched,
        "held": counts.held,
        "rgb_only": counts.rgb_only,
        "jumps_back": counts.jumps,
        "dt_mean_ms": f"{counts.mean_dt_ms:.2f}",
        "dt_max_ms": f"{counts.max_abs_dt_ms:.2f}",
        "arrival_skew_ms": f"{skew_ms:.1f}",
        **{f"dropped_{cause}": count for cause, count in dropped.items()},
    }
    name = f"{watch.pair} sync"
    recent = watch.take_recent()
    if recent.held or recent.alone:
        text = f"of {recent.pairs} pairs {recent.alone} without X, {recent.held} with an older X"
        return Status(WARN, name, text, values)
    if recent.dt_max_ns / 1e6 > 0.8 * max_dt_ms:
        text = f"stamps differ by up to {recent.dt_max_ns / 1e6:.1f} ms; limit {max_dt_ms:g} ms"
        return Status(WARN, name, text, values)
    if recent.pairs and abs(skew_ms - offset_ms) > 2 * max_dt_ms:
        text = (
            f"stamps of X run {skew_ms:+.0f} ms ahead of RGB's, judged by arrival; unless one of "
            f"them travels that much longer, set {watch.pair}.x_offset_ms"
        )
        return Status(WARN, name, text, values)
    is_quiet = time.monotonic_ns() - watch.last_pair_ns > QUIET_S * _NS_PER_S
    if recent.pairs or (watch.has_paired and not is_quiet):
        return Status(OK, name, "pairing", values)
    if not inputs_ok:
        return Status(ERROR, name, "no pairs: an input is silent", values)
    causes = ", ".join(f"{cause} {count}" for cause, count in dropped.items()) or "none dropped"
    text = f"no pairs although both inputs arrive ({causes}); check stamps"
    if counts.last_miss_ns is not None:
        text += (
            f": nearest X was {counts.last_miss_ns / 1e6:+.1f} ms off, limit {max_dt_ms:g} ms; "
            f"see {watch.pair}.x_offset_ms"
        )
    return Status(ERROR, name, text, values)


def output_status(topic: str, clauses: Iterable[str]) -> Status:
    """Subscribers that get nothing because their quality of service does not match."""
    text = f"'{topic}': QoS of a subscriber does not match: {'; '.join(clauses)}"
    return Status(ERROR, f"{topic} output", text)


def inference_status(
    report: WorkReport, seconds: float, total_failed: Mapping[str, int], limits: DiagnosticsConfig
) -> Status:
    """State of the worker over the last `seconds`."""
    offered = report.answered + report.replaced + sum(report.failed.values())
    ratio = report.replaced / offered if offered else 0.0
    batches = max(1, report.batches)
    values: dict[str, Any] = {
        "fps": f"{report.answered / max(seconds, 1e-6):.1f}",
        "batch_mean": f"{report.answered / batches:.2f}",
        **{f"{stage}_ms": f"{total / batches:.1f}" for stage, total in report.timings_ms.items()},
        "replaced": report.replaced,
        **{f"failed_{cause}": count for cause, count in total_failed.items()},
    }
    slowest = 0.0
    if report.latencies_ms:
        median, slowest = np.percentile(report.latencies_ms, [50, 95])
        values |= {"latency_p50_ms": f"{median:.1f}", "latency_p95_ms": f"{slowest:.1f}"}
    if report.failed:
        causes = ", ".join(f"{count} by {cause}" for cause, count in report.failed.items())
        return Status(ERROR, "inference", f"pairs without an answer: {causes}", values)
    if slowest > limits.max_latency_ms:
        text = f"latency {slowest:.0f} ms is above {limits.max_latency_ms:g} ms"
        return Status(WARN, "inference", text, values)
    if ratio > limits.max_drop_ratio:
        text = f"{ratio:.0%} of the pairs were replaced by newer ones; the device is too slow"
        return Status(WARN, "inference", text, values)
    return Status(OK, "inference", "running" if report.answered else "idle", values)


def model_status(segmenter: Any) -> Status:
    """Which checkpoint runs; `segmenter` is a `segrgbx_core.inference.Segmenter`."""
    checkpoint, classes = segmenter.checkpoint, segmenter.classes
    values = {
        "checkpoint": checkpoint.name,
        "hash": checkpoint.hash[:16],
        "label_space": classes.space,
        "classes": len(classes.names),
        "random_weights": segmenter.contract.is_random,
    }
    if segmenter.contract.is_random:
        return Status(WARN, "model", "untrained weights: labels mean nothing", values)
    return Status(OK, "model", "loaded", values)


def device_status(segmenter: Any) -> Status:
    """Where the model runs."""
    values = {
        "name": segmenter.device_name,
        "precision": segmenter.precision,
        "memory_mb": f"{segmenter.memory / 2**20:.0f}",
    }
    return Status(OK, "device", segmenter.device_name, values)


def to_message(node_name: str, hardware_id: str, statuses: Iterable[Status], stamp: Any) -> Any:
    """A DiagnosticArray; only where `message_type` gives one."""
    array = DiagnosticArray()
    array.header.stamp = stamp
    array.status = [
        DiagnosticStatus(
            level=bytes([status.level]),
            name=f"{node_name}: {status.name}",
            message=status.message,
            hardware_id=hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in status.values.items()],
        )
        for status in statuses
    ]
    return array


def message_type() -> Any | None:
    """diagnostic_msgs/DiagnosticArray, None where it is not installed."""
    return DiagnosticArray


class Throttle:
    """Lets one message per key through in a while, and says how many were held back."""

    def __init__(self, log: Callable[[str], Any], period_s: float = 5.0) -> None:
        self._log = log
        self._period_ns = round(period_s * _NS_PER_S)
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
