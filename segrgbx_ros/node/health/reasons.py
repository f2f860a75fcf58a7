"""Reasons in words: statuses that say what is wrong with what was counted. No rclpy here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segrgbx_core.base.errors import shortened
from segrgbx_core.base.samples import NS_PER_MS
from segrgbx_core.base.tables import Summary
from segrgbx_core.sensors.freeze import FROZEN
from segrgbx_core.sync.aligner import AlignCounts
from segrgbx_ros.config.node import DiagnosticsConfig
from segrgbx_ros.node.health.streams import (
    NS_PER_S,
    AnswerHealth,
    PairHealth,
    Recent,
    StreamHealth,
)
from segrgbx_ros.node.worker import WorkReport
from segrgbx_ros.pairing.fused import FrameCollector
from segrgbx_ros.pairing.pipeline import X_EMPTY, SampleReader

if TYPE_CHECKING:
    from segrgbx_ros.load_model import MemoryFacts  # torch ring: never imported from here

OK, WARN, ERROR = 0, 1, 2
FUSED_OUTCOMES = ("published", "rgb_only", "too_few_members", "replaced", "cleared", "failed")
"""What becomes of a frame of a fused mask, besides `rate_limited`."""
_ENOUGH, _FEW = 5, 0.5
LATE_S = 0.3
"""Time in this node's own queues from which on it is reported."""
_TWO_CLOCKS_MS = 1000.0
_DAY_MS = 86_400_000.0
_UNLABELED = 5
"""Answers in a row without any label from which on it is reported."""


@dataclass(frozen=True)
class Status:
    """One line of /diagnostics.

    Attributes:
        level: OK, WARN or ERROR.
        name: what it is about, without the node's name.
        message: the reason, one sentence.
        values: figures to look at.
        pair: that it is about, empty for the node as a whole.
    """

    level: int
    name: str
    message: str
    values: Mapping[str, Any] = field(default_factory=dict)
    pair: str = ""


def silence_reason(
    stream: StreamHealth, now_ns: int, num_publishers: int, hint: str = "", lost: str = ""
) -> str:
    """Why nothing arrives on a topic, empty when something did of late.

    Args:
        stream: the topic's counts.
        now_ns: monotonic time.
        num_publishers: that are known on the topic.
        hint: what was found on the topic or beside it, and what to do about it.
        lost: why messages may not arrive from a publisher that fits.
    """
    if not stream.is_quiet(now_ns):
        return ""
    if stream.incompatible:
        return (
            f"'{stream.topic}': QoS does not match: {'; '.join(stream.incompatible)}; set "
            "qos.input_reliability: best_effort or change the publisher"
        )
    if num_publishers == 0:
        return absence_reason(stream.topic, num_publishers, hint and f"; {hint}")
    if not stream.received:
        return f"{absence_reason(stream.topic, num_publishers)}: {hint or lost}"
    return f"'{stream.topic}' has been silent for {(now_ns - stream.last_ns) / NS_PER_S:.0f} s"


def absence_reason(topic: str, num_publishers: int, hint: str = "") -> str:
    """Why nothing has ever come on a topic.

    Args:
        topic: resolved name.
        num_publishers: that are known on it.
        hint: what to do where there is none, instead of looking at the remapping.
    """
    if num_publishers == 0:
        return f"'{topic}' has no publisher{hint or '; check the remapping'}"
    return f"'{topic}' has a publisher but nothing arrives"


def input_status(
    health: PairHealth,
    silences: Iterable[str],
    limits: DiagnosticsConfig,
    notes: Iterable[str] = (),
) -> Status:
    """State of the inputs of a pair.

    Args:
        health: what arrived.
        silences: why nothing arrives, one sentence for each silent stream.
        limits: when to warn.
        notes: what else to warn about, one sentence each.
    """
    now_ns = time.monotonic_ns()
    values: dict[str, Any] = {f"bad_{cause}": n for cause, n in health.refused().items()}
    values["x_stream_lost"] = health.stream_lost
    errors, warnings = list(silences), list(notes)
    behind_s, num_waiting = health.take_behind()
    if behind_s > LATE_S:
        more = f", {num_waiting} wait" if num_waiting else ""
        warnings.append(f"this node is {behind_s:.1f} s behind with its messages{more}")
    for short, stream in health.inputs.items():
        rate = stream.rate_hz(now_ns)
        policies = "; ".join(stream.incompatible)
        values |= {
            f"{short}_topic": stream.topic,
            f"{short}_hz": f"{rate:.1f}",
            f"{short}_encoding": shortened(stream.encoding),
            f"{short}_age_ms": f"{(now_ns - stream.last_ns) / 1e6:.0f}" if stream.last_ns else "",
            f"{short}_received": stream.received,
            f"{short}_lost": stream.lost,
            f"{short}_disabled": stream.disabled,
            f"{short}_cleared": stream.cleared,
            f"{short}_publishers": stream.publishers,
            f"{short}_incompatible_qos": policies,
        }
        if stream.freeze is not None:
            values[f"{short}_repeated"] = stream.freeze.repeats
            if (row := stream.freeze.take_longest()) >= FROZEN:
                warnings.append(
                    f"'{stream.topic}' repeated one picture {row} times: the camera calibrates "
                    "itself (flat-field correction) or its driver is stuck"
                )
        if health.is_depth and (note := _depth_note(stream.encoding)):
            warnings.append(f"'{stream.topic}': {note}")
        if policies and not any(stream.topic in text for text in errors):
            errors.append(f"'{stream.topic}': QoS of a publisher does not match: {policies}")
        elif stream.received > 1 and rate < limits.min_rate_hz and not errors:
            warnings.append(f"'{stream.topic}' at {rate:.1f} Hz, below {limits.min_rate_hz:g} Hz")
    if health.last_bad:
        errors.append(health.last_bad)
    level = ERROR if errors else WARN if warnings else OK
    text = "; ".join(errors + warnings) or "receiving"
    return Status(level, f"{health.pair} input", text, values, health.pair)


def answer_notes(health: PairHealth, min_confidence: float) -> list[str]:
    """What is wrong with the answers of a pair, one sentence each.

    Args:
        health: of the pair.
        min_confidence: below which pixels become unlabeled.
    """
    row = health.answers.row_unlabeled
    if row < _UNLABELED:
        return []
    why = f"label.min_confidence is {min_confidence:g}" if min_confidence > 0 else ""
    cause = why or "label.file names none of what is seen, or the weights do not fit"
    return [f"the last {row} answers have no label in any pixel: {cause}"]


def loss_note(health: PairHealth, published: int, arrived: int, reason: str) -> str:
    """Says so where most RGB images are lost on the way, else empty.

    Args:
        health: of the pair.
        published: RGB images since the report before, by their publishers' numbers.
        arrived: of them.
        reason: why they may be lost.
    """
    if published < _ENOUGH or arrived > _FEW * published:
        return ""
    topic = next(iter(health.inputs.values())).topic
    return f"'{topic}': of {published} published images {arrived} arrived: {reason}"


def content_notes(health: PairHealth, reader: SampleReader) -> list[str]:
    """What is wrong with what the newest messages carry, one sentence for each input.

    Args:
        health: of the pair.
        reader: of its messages.
    """
    topics = [stream.topic for stream in health.inputs.values()]
    contents = ((topics[0], reader.rgb_content), (topics[1], reader.x_content))
    return [f"'{topic}': {one.problem}" for topic, one in contents if one and one.problem]


def content_values(reader: SampleReader) -> dict[str, Any]:
    """Figures on what the newest X carries."""
    values: dict[str, Any] = {"x_empty": reader.num_empty}
    content = reader.x_content
    if content is not None:
        values |= {
            "x_valid": f"{content.valid:.3f}",
            "x_usable": f"{content.usable:.3f}",
            "x_range": f"{content.low:.4g} to {content.high:.4g} {content.unit}",
        }
    return values


def _depth_note(encoding: str) -> str:
    if encoding == "mono16":
        return "mono16 is no depth encoding; taken as 16UC1, counts of sensor.depth.unit_16u"
    if encoding.startswith("32FC1; compressedDepth"):
        return "compressedDepth of 32FC1 loses what is beyond its depth_max, 10 m by default"
    return ""


def sync_status(
    health: PairHealth,
    counts: AlignCounts,
    inputs_ok: bool,
    max_dt_ms: float,
    offset_ms: float = 0.0,
) -> Status:
    """State of the pairing of a pair.

    Args:
        health: of the pair; what is new in it is taken.
        counts: of its aligner, since activation.
        inputs_ok: False when an input is silent, which explains missing pairs.
        max_dt_ms: the limit that pairs keep.
        offset_ms: how far X's stamps are known to run ahead.
    """
    skew_ms, recent = health.skew_ms(), health.take_recent()
    dropped = {cause: count for cause, count in counts.dropped.items() if count}
    values: dict[str, Any] = {
        "rgb_taken": counts.pushed_rgb,
        "pairs": counts.matched,
        "held": counts.held,
        "rgb_only": counts.rgb_only,
        "jumps_back": counts.jumps,
        "lost_events": counts.lost_events,
        "cut_events": counts.cut_events,
        **_distances(recent),
        "arrival_skew_ms": f"{skew_ms:.1f}",
        "rate_limited": health.limited,
        **{f"dropped_{cause}": count for cause, count in dropped.items()},
    }
    name = f"{health.pair} sync"
    if recent.held or recent.alone:
        text = f"of {recent.pairs} pairs {recent.alone} without X, {recent.held} with an older X"
        return Status(WARN, name, text, values, health.pair)
    if recent.dt_max_ns / 1e6 > 0.8 * max_dt_ms:
        text = f"stamps differ by up to {recent.dt_max_ns / 1e6:.1f} ms; limit {max_dt_ms:g} ms"
        return Status(WARN, name, text, values, health.pair)
    clocks = _clocks(health.pair, skew_ms, offset_ms)
    if recent.pairs and abs(skew_ms - offset_ms) > 2 * max_dt_ms:
        return Status(WARN, name, clocks, values, health.pair)
    is_quiet = health.is_quiet(time.monotonic_ns())
    if recent.pairs or (health.has_paired and not is_quiet):
        return Status(OK, name, "pairing", values, health.pair)
    if inputs_ok and not is_quiet:
        return Status(OK, name, "no pairs yet", values, health.pair)
    if not inputs_ok:
        return Status(ERROR, name, "no pairs: an input is silent", values, health.pair)
    causes = ", ".join(f"{cause} {count}" for cause, count in dropped.items()) or "none dropped"
    text = f"no pairs although both inputs arrive ({causes})"
    if abs(skew_ms - offset_ms) > max(_TWO_CLOCKS_MS, 2 * max_dt_ms):
        text += f"; {clocks}"
    elif counts.last_miss_ns is not None:
        text += (
            f": nearest X was {counts.last_miss_ns / 1e6:+.1f} ms off, limit {max_dt_ms:g} ms; "
            f"see {health.pair}.x_offset_ms"
        )
    return Status(ERROR, name, text, values, health.pair)


def _clocks(pair: str, skew_ms: float, offset_ms: float) -> str:
    """What stamps that differ by so much say, and what to do."""
    if abs(skew_ms) >= 10_000:
        offset = f"stamps of X run {skew_ms / 1000:+.1f} s ahead of RGB's, judged by arrival"
    else:
        offset = f"stamps of X run {skew_ms:+.0f} ms ahead of RGB's, judged by arrival"
    if abs(skew_ms) > _DAY_MS:
        return f"{offset}: one driver does not stamp with the time of day; let it use this clock"
    tai = ", as TAI does UTC" if 36_500 < abs(skew_ms - offset_ms) < 37_500 else ""
    return (
        f"{offset}{tai}; unless one of them travels that much longer, set {pair}.x_offset_ms: "
        f"{skew_ms:.0f}"
    )


def _distances(recent: Recent) -> dict[str, str]:
    """X's stamps minus RGB's since the report before; empty where nothing matched."""
    if not recent.matched:
        return {"dt_mean_ms": "", "dt_max_ms": ""}
    return {
        "dt_mean_ms": f"{recent.dt_sum_ns / recent.matched / NS_PER_MS:.2f}",
        "dt_max_ms": f"{recent.dt_max_ns / NS_PER_MS:.2f}",
    }


def output_status(topic: str, clauses: Iterable[str]) -> Status:
    """Subscribers that get nothing because their quality of service does not match."""
    text = f"'{topic}': QoS of a subscriber does not match: {'; '.join(clauses)}"
    return Status(ERROR, f"{topic} output", text)


def node_status(errors: Mapping[str, int], num_new: int, warnings: Sequence[str]) -> Status:
    """State of the node as a whole.

    Args:
        errors: that left a callback so far, by type.
        num_new: of them since the report before.
        warnings: what else is wrong, one sentence each.
    """
    values = {
        "callback_errors": sum(errors.values()),
        **{f"callback_{name}": count for name, count in errors.items()},
    }
    texts = list(warnings)
    if num_new:
        texts.append(f"{num_new} requests or messages were given up; the log has the traceback")
    return Status(WARN if texts else OK, "node", "; ".join(texts) or "running", values)


def inference_status(
    report: WorkReport,
    seconds: float,
    totals: Mapping[str, int],
    limits: DiagnosticsConfig,
    images: Mapping[str, int] | None = None,
) -> Status:
    """State of the worker.

    Args:
        report: of the last `seconds`.
        seconds: since the report before.
        totals: counts since activation.
        limits: when to warn.
        images: besides masks that could not be made since the report before, by topic.
    """
    offered = report.answered + report.replaced + sum(report.failed.values())
    ratio = report.replaced / offered if offered else 0.0
    batches = max(1, report.batches)
    values: dict[str, Any] = {
        "fps": f"{report.answered / max(seconds, 1e-6):.1f}",
        "batch_mean": f"{report.answered / batches:.2f}",
        **{f"{stage}_ms": f"{total / batches:.1f}" for stage, total in report.timings_ms.items()},
        "replaced": report.replaced,
        **totals,
    }
    slowest = 0.0
    if report.latencies_ms:
        latency = Summary.of(report.latencies_ms)
        slowest = latency.p95
        values |= {"latency_p50_ms": f"{latency.p50:.1f}", "latency_p95_ms": f"{slowest:.1f}"}
    failed = {cause: count for cause, count in report.failed.items() if cause != X_EMPTY}
    if failed:
        causes = ", ".join(f"{count} by {cause}" for cause, count in failed.items())
        return Status(ERROR, "inference", f"pairs without an answer: {causes}", values)
    if images:
        causes = ", ".join(f"{count} {name}" for name, count in images.items())
        text = f"masks went out, these images could not be made: {causes}; see the log"
        return Status(WARN, "inference", text, values)
    if slowest > limits.max_latency_ms:
        text = f"latency {slowest:.0f} ms is above {limits.max_latency_ms:g} ms"
        return Status(WARN, "inference", text, values)
    if ratio > limits.max_drop_ratio:
        text = f"{ratio:.0%} of the pairs were replaced by newer ones; the device is too slow"
        return Status(WARN, "inference", text, values)
    return Status(OK, "inference", "running" if report.answered else "idle", values)


def fused_status(
    collector: FrameCollector,
    answers: AnswerHealth,
    limited: int,
    work: WorkReport,
    outcomes: Mapping[tuple[str, str], int],
    faults: Mapping[tuple[str, str], int],
) -> Status:
    """State of a fused mask: what became of every frame, and whose X did not count.

    `frames` is the sum of the outcomes and of what waits, here or for the model.

    Args:
        collector: gathers its frames.
        answers: what came out.
        limited: frames not answered because of `rate.max_hz`.
        work: of the worker since the report before.
        outcomes: of frames since activation, by name and outcome.
        faults: members whose X did not count since activation, by pair and reason.
    """
    name = collector.name
    counts = {outcome: outcomes.get((name, outcome), 0) for outcome in FUSED_OUTCOMES}
    counts["cleared"] += collector.cleared
    counts["rate_limited"] = limited
    values: dict[str, Any] = {
        "frames": collector.opened,
        **counts,
        "waiting": collector.num_waiting,
        "fps": f"{answers.rate_hz():.1f}",
    }
    if answers.latencies_ms:
        latency = Summary.of(list(answers.latencies_ms))
        values |= {"latency_p50_ms": f"{latency.p50:.1f}", "latency_p95_ms": f"{latency.p95:.1f}"}
    members = set(collector.members)
    for (pair, fault), count in sorted(faults.items()):
        if pair in members:
            values[f"{pair}_{fault}"] = count
    for pair, count in collector.late.items():
        values[f"{pair}_late"] = count
    recent = {outcome: work.fused.get((name, outcome), 0) for outcome in FUSED_OUTCOMES}
    without = [
        f"{pair} ({fault}, {count} frames)"
        for (pair, fault), count in sorted(work.faults.items())
        if pair in members
    ]
    text = f"without {', '.join(without)}" if without else ""
    bad = {
        outcome: recent[outcome] for outcome in ("too_few_members", "failed") if recent[outcome]
    }
    if bad:
        causes = ", ".join(f"{count} {outcome}" for outcome, count in bad.items())
        text = f"frames without a fused mask: {causes}" + (f"; {text}" if text else "")
        return Status(ERROR, f"{name} fused", text, values, name)
    if text:
        return Status(WARN, f"{name} fused", text, values, name)
    is_fused = recent["published"] > 0
    return Status(OK, f"{name} fused", "fusing" if is_fused else "idle", values, name)


def model_status(segmenter: Any, labels: Mapping[str, Any]) -> Status:
    """Which checkpoint runs, and what it is asked for.

    Args:
        segmenter: a `segrgbx_core.runtime.segmenter.Segmenter`.
        labels: published classes by pair.
    """
    checkpoint = segmenter.checkpoint
    values: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "hash": checkpoint.hash[:16],
        "random_weights": segmenter.contract.is_random,
    }
    for pair, classes in labels.items():
        values[f"{pair}_label_space"] = classes.space
        values[f"{pair}_classes"] = len(classes.names)
    warning = segmenter.contract.warning
    if segmenter.contract.is_random:
        return Status(WARN, "model", warning, values)
    return Status(OK, "model", f"loaded; {warning}" if warning else "loaded", values)


def device_status(segmenter: Any, memory: MemoryFacts, exhausted: int) -> Status:
    """Where the model runs, and how much memory is left there.

    Args:
        segmenter: the loaded model.
        memory: what is known of it.
        exhausted: how often memory ran out since the report before.
    """
    values = {
        "name": segmenter.device_name,
        "precision": segmenter.precision,
        **{name: f"{value:.0f}" for name, value in memory.megabytes.items()},
    }
    if memory.fault:
        text = f"does not answer ({memory.fault}); restart the node"
        return Status(ERROR, "device", text, values)
    if exhausted:
        text = "memory ran out; lower batch.max_size or model.input_height"
        return Status(ERROR, "device", text, values)
    free = memory.megabytes.get("mem_free_mb", 1.0)
    whole = memory.megabytes.get("mem_total_mb", 1.0)
    if free < 0.1 * whole:
        return Status(WARN, "device", f"{free:.0f} MB of {whole:.0f} MB are free", values)
    return Status(OK, "device", segmenter.device_name, values)
