"""`segrgbx-bench`: what a model costs and how long it takes, on this machine.

`--count` needs no weights and no time: parameters and multiply-adds, Table IV of the paper beside
them. `--latency` runs `Segmenter.predict` on made-up sensor data and times its stages; without a
checkpoint the weights are random, which changes labels but not times. `--compare` times SegRGB-X
and the baselines in turns, see `segrgbx_core.compare`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segrgbx_core.checkpoint import (
    default_contract,
    default_tower,
    load_checkpoint,
    random_weights,
)
from segrgbx_core.compare import MODELS, CompareSetting, compare, table
from segrgbx_core.config import from_mapping
from segrgbx_core.cost import PAPER_TABLE_IV, Cost, count_cost, count_structures, total_cost
from segrgbx_core.errors import ConfigError, SegrgbxError, did_you_mean
from segrgbx_core.inference import InferenceConfig, Segmenter
from segrgbx_core.labels import unified_label_space
from segrgbx_core.modality import MODALITIES, Modality
from segrgbx_core.model import ALL_PRESETS, ModelConfig
from segrgbx_core.model.ma_clip import CLIP_PRESETS
from segrgbx_core.samples import Array, Events, RgbxSample


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 after a mistake that the user can cure."""
    chosen = _parser().parse_args(arguments)
    try:
        report: dict[str, Any] = {"preset": chosen.preset, "tower": _tower(chosen)}
        if chosen.count or chosen.structures:
            report["count"] = _count(chosen)
        if chosen.latency:
            report["latency"] = _latency(chosen)
        if chosen.compare:
            report["compare"] = _compare(chosen)
        if len(report) == 2:
            raise ConfigError("nothing to do; give --count, --structures, --latency or --compare")
        if chosen.json:
            Path(chosen.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except (SegrgbxError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def measure(
    segmenter: Segmenter, samples: Sequence[RgbxSample], repeats: int, warm_up: int
) -> dict[str, dict[str, float]]:
    """Times `predict` on one batch again and again.

    Args:
        segmenter: what is measured.
        samples: the batch; the same in every repeat.
        repeats: measured calls.
        warm_up: calls before them, not measured.

    Returns:
        median, p95 and fastest in ms of every stage, and of `total`: the wall time of a call,
        which ends with labels in host memory.
    """
    for _ in range(warm_up):
        segmenter.predict(samples)
    laps: dict[str, list[float]] = {}
    for _ in range(repeats):
        start = time.perf_counter()
        predictions = segmenter.predict(samples)
        total = (time.perf_counter() - start) * 1e3
        for stage, duration in {**predictions[0].timings_ms, "total": total}.items():
            laps.setdefault(stage, []).append(duration)
    return {
        stage: {
            "median_ms": float(np.median(durations)),
            "p95_ms": float(np.percentile(durations, 95)),
            "min_ms": float(min(durations)),
        }
        for stage, durations in laps.items()
    }


def made_up_sample(modality: Modality, height: int, width: int, seed: int = 0) -> RgbxSample:
    """Noise as a driver of this modality would deliver it, X at half of RGB's resolution."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, columns = max(2, height // 2), max(2, width // 2)
    stamp_ns = 10**9
    if modality is Modality.EVENT:
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
    shape, dtype, low, high = _RAW[modality]
    x: Array = rng.integers(low, high, (rows, columns, *shape)).astype(dtype)
    return RgbxSample(rgb, x, modality, stamp_ns)


# Channels, type and range of what a driver publishes (0.01 K, mm, mosaic counts, colours).
_RAW: dict[Modality, tuple[tuple[int, ...], type[np.generic], int, int]] = {
    Modality.THERMAL: ((), np.uint16, 27_000, 32_000),
    Modality.DEPTH: ((), np.uint16, 500, 20_000),
    Modality.POLARIZATION: ((), np.uint8, 0, 256),
    Modality.LIGHT_FIELD: ((3,), np.uint8, 0, 256),
}


def _count(chosen: argparse.Namespace) -> dict[str, Any]:
    model, ma_clip = ALL_PRESETS[chosen.preset], CLIP_PRESETS[_tower(chosen)]
    size = chosen.input_size or (512, 512)
    classes = chosen.classes or unified_label_space().num_classes
    parts = count_cost(model, ma_clip, classes, size)
    total, folded = total_cost(parts), total_cost(count_cost(model, ma_clip, classes, size, True))
    is_ours = isinstance(model, ModelConfig)
    title = f"SegRGB-X {chosen.preset} with {_tower(chosen)}" if is_ours else chosen.preset
    print(f"\n{title}, {size[1]}x{size[0]}, {classes} classes\n")
    rows = [[name, *_cells(cost)] for name, cost in parts.items()]
    _print_table(
        ["part", "M parameters", "GMACs", "GMACs, paper's way"], [*rows, ["total", *_cells(total)]]
    )
    print(f"\nWith the head folded for inference: {folded.gmacs:.2f} GMACs.")
    result: dict[str, Any] = {
        "height": size[0],
        "width": size[1],
        "classes": classes,
        **_plain(total),
        "gmacs_folded_head": folded.gmacs,
        "parts": {name: _plain(cost) for name, cost in parts.items()},
    }
    if chosen.structures:
        if not isinstance(model, ModelConfig):
            raise ConfigError(f"--structures: {chosen.preset} has no DSRM; choose a SegRGB-X")
        structures = count_structures(model, ma_clip, classes, size)
        print("\nDSRM structures (Table IV)\n")
        header = ["structure", "M parameters", "GMACs", "GMACs, paper's way"]
        _print_table(
            [*header, "paper: M", "paper: GFLOPs"],
            [
                [key.value, *_cells(cost), *(f"{value:.2f}" for value in PAPER_TABLE_IV[key])]
                for key, cost in structures.items()
            ],
        )
        result["structures"] = {key.value: _plain(cost) for key, cost in structures.items()}
    return result


def _latency(chosen: argparse.Namespace) -> dict[str, Any]:
    height, width = chosen.input_size or (0, 0)
    options = {"device": chosen.device, "precision": chosen.precision}
    sizes = {"input_height": height, "input_width": width}
    config = from_mapping(InferenceConfig, {**options, **sizes})
    modalities = [Modality(name) for name in chosen.modality or ["thermal"]]
    merge_for = modalities[0] if len(set(modalities)) == 1 and not chosen.no_merge else None
    if chosen.checkpoint:
        loaded = load_checkpoint(chosen.checkpoint)
    else:
        loaded = random_weights(default_contract(chosen.preset, _tower(chosen)))
    segmenter = Segmenter(loaded, config, merge_for=merge_for)
    height, width = chosen.rgb_size
    samples = [made_up_sample(m, height, width, seed) for seed, m in enumerate(modalities)]
    stages = measure(segmenter, samples, chosen.repeats, chosen.warm_up)
    setting = {
        "checkpoint": loaded.name,
        "device": segmenter.device_name,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": segmenter.precision,
        "input": f"{segmenter.input.width}x{segmenter.input.height}",
        "rgb": f"{width}x{height}",
        "modalities": [modality.value for modality in modalities],
        "lora": f"merged for {merge_for}" if merge_for else "mixed",
        "repeats": chosen.repeats,
        "torch": torch.__version__,
    }
    print("\n" + ", ".join(f"{name} {_text(value)}" for name, value in setting.items()) + "\n")
    rows = [
        [stage, *(f"{value:.2f}" for value in times.values())] for stage, times in stages.items()
    ]
    _print_table(["stage", "median ms", "p95 ms", "min ms"], rows)
    print(f"\n{1e3 * len(samples) / stages['total']['median_ms']:.1f} pairs per second.")
    return {"setting": setting, "stages": stages, "memory_bytes": segmenter.memory}


def _compare(chosen: argparse.Namespace) -> dict[str, Any]:
    modalities = [Modality(name) for name in chosen.modality or ["thermal"]]
    size = chosen.input_size or (512, 512)
    options = {"device": chosen.device, "precision": chosen.precision}
    setting = CompareSetting(
        sample=made_up_sample(modalities[0], *size),
        preset=chosen.preset,
        tower=_tower(chosen),
        size=size,
        config=from_mapping(InferenceConfig, {**options, "cuda_graph": chosen.cuda_graph}),
        refresh_every=chosen.refresh_every,
        rounds=chosen.repeats,
        warm_up=chosen.warm_up,
        only=tuple(chosen.only or ()),
    )
    report = compare(setting)
    described = ", ".join(f"{name} {value}" for name, value in report["setting"].items())
    print(f"\n{described}\n")
    _print_table(*table(report))
    print()
    for name, ratio in report["ratios"].items():
        print(f"{name}: {ratio:.2f}, in CPU time {report['cpu_ratios'][name]:.2f}")
    if chosen.chart:
        try:
            chart = import_module("segrgbx_core.compare_chart")
        except ModuleNotFoundError as error:
            raise ConfigError(f"--chart: {error.name} is not installed") from None
        chart.draw(report, chosen.chart)
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segrgbx-bench", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--count", action="store_true", help="parameters and multiply-adds")
    parser.add_argument("--structures", action="store_true", help="and of every DSRM structure")
    parser.add_argument("--latency", action="store_true", help="time of every stage")
    parser.add_argument("--compare", action="store_true", help="models of a size, side by side")
    parser.add_argument("--preset", default="b2", choices=sorted(ALL_PRESETS))
    parser.add_argument("--tower", default="", help=f"MA-CLIP: {', '.join(sorted(CLIP_PRESETS))}")
    parser.add_argument(
        "--classes", type=int, default=0, help="default: the unified label space's"
    )
    parser.add_argument("--input-size", type=_size, help="of the model, WIDTHxHEIGHT (512x512)")
    parser.add_argument("--json", default="", help="file for the report")
    latency = parser.add_argument_group("latency")
    latency.add_argument("--checkpoint", default="", help="instead of random weights")
    latency.add_argument("--device", default="auto")
    latency.add_argument("--precision", default="auto")
    latency.add_argument(
        "--rgb-size", type=_size, default=(720, 1280), help="WIDTHxHEIGHT (1280x720)"
    )
    latency.add_argument(
        "--modality",
        action="append",
        choices=[modality.value for modality in MODALITIES],
        help="once per pair of the batch (thermal)",
    )
    latency.add_argument("--no-merge", action="store_true", help="keep the LoRA pool unmerged")
    latency.add_argument("--repeats", type=int, default=30)
    latency.add_argument("--warm-up", type=int, default=5)
    side = parser.add_argument_group("compare", "uses the options of latency, too")
    side.add_argument("--only", action="append", choices=list(MODELS), help="not all models")
    side.add_argument(
        "--refresh-every", type=int, default=10, help="frames that keep a scene (10)"
    )
    side.add_argument("--cuda-graph", action="store_true", help="in the fast style, on a GPU")
    side.add_argument("--chart", default="", help="image file for a bar chart")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.partition("x")
    if not (separator and width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write it as 640x480")
    return int(height), int(width)


def _tower(chosen: argparse.Namespace) -> str:
    name = chosen.tower or default_tower(chosen.preset)
    if name not in CLIP_PRESETS:
        raise ConfigError(f"--tower: '{name}' is not known{did_you_mean(name, CLIP_PRESETS)}")
    return name


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [
            row[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
        ]
        print("| " + " | ".join(cells) + " |")


def _cells(cost: Cost) -> list[str]:
    return [f"{value:.2f}" for value in _plain(cost).values()]


def _plain(cost: Cost) -> Mapping[str, float]:
    return {
        "parameters_m": cost.parameters_m,
        "gmacs": cost.gmacs,
        "gmacs_paper_convention": cost.gmacs_paper_convention,
    }


def _text(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
