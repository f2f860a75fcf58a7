"""Times of `Segmenter.predict` on synthetic inputs: what `segrgbx-bench --latency` measures.

Whatever is compared takes turns in one process, so that the machine's other work falls on all of
it alike. Wall time is what a vehicle waits for; CPU time is what remains comparable on a machine
that others use, too.
"""

from __future__ import annotations

import ctypes
import math
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.process_memory import MIB, memory_mib, reset_peak
from segrgbx_core.base.samples import Array, Events, RgbxSample
from segrgbx_core.base.tables import Summary
from segrgbx_core.runtime.devices import choose_device
from segrgbx_core.runtime.exported import AOT_FRAME
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.sensors import PICTURE, EncodingConfig, encoder_of

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Times = dict[str, dict[str, float]]
TOTAL = "total"
# Channels, type and range of what a driver publishes (0.01 K, mm, mosaic counts, colours).
_RAW: dict[str, tuple[tuple[int, ...], type[np.generic], int, int]] = {
    Modality.THERMAL: ((), np.uint16, 27_000, 32_000),
    Modality.DEPTH: ((), np.uint16, 500, 20_000),
    Modality.POLARIZATION: ((), np.uint8, 0, 256),
    Modality.LIGHT_FIELD: ((3,), np.uint8, 0, 256),
}


@dataclass(frozen=True)
class Variant:
    """One way to run a checkpoint.

    Attributes:
        name: in words.
        changes: options of `InferenceConfig` that differ from the first variant's, dotted.
        is_stream: samples come as streams, so that scenes may be kept.
    """

    name: str
    changes: Mapping[str, Any]
    is_stream: bool = False


EXACT = Variant("scene of every frame", {})


def variants(config: InferenceConfig, exported: str = "", compiled: bool = False) -> list[Variant]:
    """What there is to compare on a device, the options as they are first.

    Args:
        config: its device and precision decide.
        exported: folder of an exported model, or empty.
        compiled: with torch.compile, which takes a minute or more to start.
    """
    kept = {every: {"scene.refresh_every": every, "scene.change": 1.0} for every in (5, 10)}
    listed = [EXACT]
    listed += [Variant(f"scene every {n} frames", kept[n], is_stream=True) for n in kept]
    layout = not config.channels_last
    listed.append(Variant(f"channels_last: {str(layout).lower()}", {"channels_last": layout}))
    listed += [
        Variant(f"precision: {name}", {"precision": name})
        for name in ("fp32", "bf16")
        if name != config.precision and not (name == "fp32" and config.precision == "auto")
    ]
    both = {**kept[10], "precision": "bf16"}
    listed.append(Variant("precision: bf16, scene every 10 frames", both, is_stream=True))
    if choose_device(config.device).type == "cuda":
        listed.append(Variant("precision: fp16", {"precision": "fp16"}))
        graph = {"cuda_graph": True}
        listed.append(Variant("cuda_graph: true", graph))
        listed.append(
            Variant("cuda_graph: true, scene every 10 frames", {**graph, **kept[10]}, True)
        )
    if compiled:
        listed.append(Variant("compile: true", {"compile": True}))
    if exported and (Path(exported) / AOT_FRAME).is_file():
        listed.append(Variant("backend: aot", {"backend": "aot", "precision": "auto"}))
    if exported and find_spec("openvino"):
        listed += [
            Variant(f"backend: openvino, {name}", {"backend": "openvino", "precision": name})
            for name in ("fp32", "bf16")
        ]
    if exported:
        onnx = {"backend": "onnx", "precision": "auto"}
        listed.append(Variant("backend: onnx", onnx))
        listed.append(
            Variant("backend: onnx, scene every 10 frames", {**onnx, **kept[10]}, is_stream=True)
        )
    return listed


def with_changes(config: InferenceConfig, changes: Mapping[str, Any]) -> InferenceConfig:
    """The options with some others, by dotted name."""
    plain = to_plain(config)
    for name, value in changes.items():
        *sections, last = name.split(".")
        level = plain
        for section in sections:
            level = level[section]
        level[last] = value
    return from_mapping(InferenceConfig, plain)


def processor() -> dict[str, Any]:
    """What decides about products of matrices on this machine.

    Returns:
        its name, the instruction set that torch uses, its BLAS, and `sgemm_gmacs`: multiply-adds
        in 1e9 per second of CPU time in a float32 product of 1024 x 1024, the best of some.
    """
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    named = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    built = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    one = torch.rand(1024, 1024)
    fastest_ms = min(timed(lambda: one @ one)[2] for _ in range(5))
    return {
        "processor": named[1].strip() if named else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "blas": built[1] if built else "unknown",
        "sgemm_gmacs": round(1024**3 / fastest_ms / 1e6, 1),
    }


def timed(call: Callable[[], ResultT]) -> tuple[ResultT, float, float]:
    """What a call returns, with its wall time and the CPU time of this process, in ms."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return result, 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def in_turn(items: Sequence[ItemT], turn: int) -> list[ItemT]:
    """The items as a turn takes them: from another one on, so that none is always first."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]


def measure(
    segmenter: Segmenter,
    samples: Sequence[RgbxSample],
    repeats: int,
    warm_up: int,
    streams: Sequence[str] = (),
) -> Times:
    """Times `predict` on one batch again and again.

    Args:
        segmenter: what is measured.
        samples: the batch; the same in every repeat.
        repeats: measured calls.
        warm_up: calls before them, not measured.
        streams: as in `predict`.

    Returns:
        median, p95 and fastest in ms of every stage, and of `total`: the wall time of a call,
        which ends with labels in host memory; `total` also has the median of its CPU time.
    """
    for _ in range(warm_up):
        segmenter.predict(samples, streams)
    laps = [_lap(segmenter, samples, streams) for _ in range(repeats)]
    return summary(laps)


def measure_in_turns(
    runs: Mapping[str, tuple[Segmenter, Sequence[RgbxSample], Sequence[str]]],
    repeats: int,
    warm_up: int,
) -> dict[str, Times]:
    """As `measure`, for several, which take turns; none is always the first of a round."""
    for run in runs.values():
        for _ in range(warm_up):
            run[0].predict(*run[1:])
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name in in_turn(list(runs), turn):
            laps[name].append(_lap(*runs[name]))
    return {name: summary(laps[name]) for name in runs}


def summary(laps: Sequence[Mapping[str, float]]) -> Times:
    """Statistics of every stage over calls; `cpu` becomes a column of `total`.

    Means are there because some frames alone encode the scene.
    """
    times: Times = {}
    for stage in laps[0]:
        durations = Summary.of([lap[stage] for lap in laps])
        times[stage] = {
            "median_ms": durations.p50,
            "p95_ms": durations.p95,
            "min_ms": durations.min,
            "mean_ms": durations.mean,
        }
    cpu = times.pop("cpu")
    times[TOTAL]["cpu_median_ms"] = cpu["median_ms"]
    times[TOTAL]["cpu_mean_ms"] = cpu["mean_ms"]
    return times


def _lap(
    segmenter: Segmenter, samples: Sequence[RgbxSample], streams: Sequence[str]
) -> dict[str, float]:
    predictions, wall_ms, cpu_ms = timed(lambda: segmenter.predict(samples, streams))
    return {**predictions[0].timings_ms, TOTAL: wall_ms, "cpu": cpu_ms}


def measure_batches(
    segmenter: Segmenter,
    sizes: Iterable[int],
    rgb_size: tuple[int, int],
    repeats: int,
    warm_up: int,
) -> dict[int, dict[str, float]]:
    """What pairs of different modalities in one batch cost, relative to one pair.

    Args:
        segmenter: serves every modality that occurs.
        sizes: pairs per batch; the first is what the others are relative to.
        rgb_size: height and width of RGB.
        repeats: measured calls of each.
        warm_up: calls before them.

    Returns:
        by size: `time` and `cpu_time` relative to the first, their values in ms, and the working
        memory of a call in bytes, `memory`, beside the weights; 0 where it cannot be known.
    """
    served, encoding = segmenter.contract.modalities, segmenter.contract.encoding
    batches = {
        size: [
            synthetic_sample(served[i % len(served)], *rgb_size, i, encoding) for i in range(size)
        ]
        for size in sizes
    }
    runs = {str(size): (segmenter, samples, ()) for size, samples in batches.items()}
    times = measure_in_turns(runs, repeats, warm_up)
    results: dict[int, dict[str, float]] = {}
    for size, samples in batches.items():
        total = times[str(size)][TOTAL]
        results[size] = {
            "median_ms": total["median_ms"],
            "cpu_median_ms": total["cpu_median_ms"],
            "memory": float(working_memory(segmenter, samples)),
        }
    first = next(iter(results.values()))
    for result in results.values():
        result["time"] = result["median_ms"] / first["median_ms"]
        result["cpu_time"] = result["cpu_median_ms"] / first["cpu_median_ms"]
    return results


def working_memory(segmenter: Segmenter, samples: Sequence[RgbxSample]) -> int:
    """Bytes that a call needs at most beside what was in use before it; 0 where it is unknown."""
    if segmenter.device.type == "cuda":
        before = torch.cuda.memory_allocated(segmenter.device)
        torch.cuda.reset_peak_memory_stats(segmenter.device)
        segmenter.predict(samples)
        return torch.cuda.max_memory_allocated(segmenter.device) - before
    if not math.isfinite(memory_mib()):
        return 0
    try:
        # Memory that earlier calls freed but malloc kept would hide the need of this one.
        ctypes.CDLL(None).malloc_trim(0)
        reset_peak()
        before_mib = memory_mib()
        segmenter.predict(samples)
        return max(0, int((memory_mib(peak=True) - before_mib) * MIB))
    except (OSError, AttributeError):
        return 0


def synthetic_sample(
    modality: Modality,
    height: int,
    width: int,
    seed: int = 0,
    encoding: EncodingConfig | None = None,
) -> RgbxSample:
    """Noise as a driver of this modality would deliver it, X at half of RGB's resolution.

    Raises:
        EncodingError: for an added modality that the encoding does not have.
    """
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = max(2, height // 2), max(2, width // 2)
    stamp_ns = 10**9
    encoder = encoder_of(modality, encoding)
    if encoder == Modality.EVENT:
        count = 50_000
        events = Events(
            x=rng.integers(0, columns, count).astype(np.uint16),
            y=rng.integers(0, rows, count).astype(np.uint16),
            t_ns=np.sort(stamp_ns - rng.integers(0, 50_000_000, count)),
            p=rng.integers(0, 2, count).astype(np.uint8),
            width=columns,
            height=rows,
        )
        return RgbxSample(rgb, events, modality, stamp_ns)
    if encoder == PICTURE and encoding is not None:
        one = encoding.added[modality]
        size = (rows, columns) if one.channels == 1 else (rows, columns, one.channels)
        values = rng.uniform(one.low, one.high, size).astype(np.float32)
        return RgbxSample(rgb, values, modality, stamp_ns)
    shape, dtype, low, high = _RAW[encoder]
    x: Array = rng.integers(low, high, (rows, columns, *shape)).astype(dtype)
    return RgbxSample(rgb, x, modality, stamp_ns)
