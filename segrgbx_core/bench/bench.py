"""`segrgbx-bench`: what a model costs and how long it takes, on this machine.

`--count` needs no weights and no time: parameters and multiply-adds, Table IV of the paper beside
them. `--latency` runs `Segmenter.predict` on synthetic inputs and times its stages; without a
checkpoint the weights are random, which changes labels but not times. `--compare` times SegRGB-X
and the baselines in turns, see `segrgbx_core.bench.compare`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import ConfigError, command, did_you_mean
from segrgbx_core.base.files import path_text
from segrgbx_core.base.images import image_size
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.base.tables import markdown_table
from segrgbx_core.bench.compare import ALL_MODELS, CompareSetting, compare, draw_chart, table
from segrgbx_core.bench.cost import PAPER_TABLE_IV, Cost, count_cost, count_structures, total_cost
from segrgbx_core.bench.harness import (
    measure,
    measure_batches,
    measure_in_turns,
    processor,
    synthetic_sample,
    variants,
    with_changes,
)
from segrgbx_core.labels.label_space import unified_label_space
from segrgbx_core.model import ALL_PRESETS, ModelConfig
from segrgbx_core.model.ma_clip import CLIP_PRESETS
from segrgbx_core.runtime.checkpoint import (
    LoadedCheckpoint,
    default_contract,
    default_tower,
    load_checkpoint,
    random_weights,
)
from segrgbx_core.runtime.exported import read_exported
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter

_shown: list[str] = []


def show(text: str) -> None:
    """Prints a line and keeps it for `--markdown`."""
    print(text)
    _shown.append(text)


@command(OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 when done, 2 after a user error."""
    args = _parser().parse_args(arguments)
    _shown.clear()
    report: dict[str, Any] = {"preset": args.preset, "tower": _tower(args)}
    if args.count or args.structures:
        report |= _count(args)
    if args.latency:
        report["latency"] = _latency(args)
    if args.compare or args.peers:
        report |= _compare(args)
    if len(report) == 2:
        raise ConfigError(
            "nothing to do; give --count, --structures, --latency, --compare or --peers"
        )
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if args.markdown:
        Path(args.markdown).write_text("\n".join(_shown) + "\n", encoding="utf-8")
    return 0


def _count(args: argparse.Namespace) -> dict[str, Any]:
    model, ma_clip = ALL_PRESETS[args.preset], CLIP_PRESETS[_tower(args)]
    size = args.input_size or (512, 512)
    classes = args.classes or unified_label_space().num_classes
    parts = count_cost(model, ma_clip, classes, size)
    total, folded = total_cost(parts), total_cost(count_cost(model, ma_clip, classes, size, True))
    is_ours = isinstance(model, ModelConfig)
    title = f"SegRGB-X {args.preset} with {_tower(args)}" if is_ours else args.preset
    show(f"\n{title}, {size[1]}x{size[0]}, {classes} classes\n")
    rows = [[name, *_cells(cost)] for name, cost in parts.items()]
    _print_table(
        ["part", "M parameters", "GMACs", "GMACs, paper's way"], [*rows, ["total", *_cells(total)]]
    )
    show(f"\nWith the head folded for inference: {folded.gmacs:.2f} GMACs.")
    result: dict[str, Any] = {
        "height": size[0],
        "width": size[1],
        "classes": classes,
        **_plain(total),
        "gmacs_folded_head": folded.gmacs,
        "parts": {name: _plain(cost) for name, cost in parts.items()},
    }
    if args.structures:
        if not isinstance(model, ModelConfig):
            raise ConfigError(f"--structures: {args.preset} has no DSRM; choose a SegRGB-X")
        structures = count_structures(model, ma_clip, classes, size)
        show("\nDSRM structures (Table IV)\n")
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


def _latency(args: argparse.Namespace) -> dict[str, Any]:
    height, width = args.input_size or (0, 0)
    options = {"device": args.device, "precision": args.precision}
    sizes = {"input_height": height, "input_width": width}
    config = from_mapping(InferenceConfig, {**options, **sizes})
    modalities = args.modality or [Modality.THERMAL]
    merge_for = modalities[0] if len(set(modalities)) == 1 and not args.no_merge else None
    segmenter = Segmenter(_weights(args), config, merge_for=merge_for)
    height, width = args.rgb_size
    for modality in modalities:
        segmenter.require(modality)
    encoding = segmenter.contract.encoding
    samples = [
        synthetic_sample(m, height, width, seed, encoding) for seed, m in enumerate(modalities)
    ]
    setting = {
        "checkpoint": segmenter.checkpoint.name,
        "device": segmenter.device_name,
        **processor(),
        "threads": torch.get_num_threads(),
        "precision": segmenter.precision,
        "input": f"{segmenter.input.width}x{segmenter.input.height}",
        "rgb": f"{width}x{height}",
        "modalities": [modality.value for modality in modalities],
        "lora": f"merged for {merge_for}" if merge_for else "mixed",
        "repeats": args.repeats,
        "torch": torch.__version__,
    }
    show("\n" + ", ".join(f"{name} {_text(value)}" for name, value in setting.items()) + "\n")
    passes = args.warm_up + args.repeats
    sys.stderr.write(f"timing {passes} passes of {len(samples)} pairs\n")
    stages = measure(segmenter, samples, args.repeats, args.warm_up)
    columns = ("median_ms", "p95_ms", "min_ms")
    rows = [[stage, *(f"{times[c]:.2f}" for c in columns)] for stage, times in stages.items()]
    _print_table(["stage", "median ms", "p95 ms", "min ms"], rows)
    total = stages["total"]
    rate = 1e3 * len(samples) / total["median_ms"]
    show(f"\n{rate:.1f} pairs per second; CPU time {total['cpu_median_ms']:.1f} ms.")
    report: dict[str, Any] = {
        "setting": setting,
        "stages": stages,
        "memory_bytes": segmenter.memory,
    }
    if args.variants:
        report["variants"] = _variants(args, config, segmenter, samples)
    if args.pairs:
        report["pairs"] = _pairs(args, config, segmenter)
    return report


def _weights(args: argparse.Namespace) -> LoadedCheckpoint:
    if args.checkpoint:
        return load_checkpoint(args.checkpoint)
    return random_weights(default_contract(args.preset, _tower(args)))


def _variants(
    args: argparse.Namespace,
    config: InferenceConfig,
    base: Segmenter,
    samples: Sequence[RgbxSample],
) -> dict[str, Any]:
    """Ways to run the same checkpoint, in turns."""
    names = [f"pair {index}" for index in range(len(samples))]
    runs: dict[str, tuple[Segmenter, Sequence[RgbxSample], Sequence[str]]] = {}
    for variant in variants(config, args.exported, args.compile):
        changed = with_changes(config, variant.changes)
        segmenter = base
        if variant.changes:
            is_exported = changed.backend.runs_exported
            weights = read_exported(args.exported) if is_exported else _weights(args)
            segmenter = Segmenter(weights, changed, merge_for=base.merge_for)
        runs[variant.name] = (segmenter, samples, names if variant.is_stream else ())
    results = measure_in_turns(runs, args.repeats, args.warm_up)
    first = next(iter(results.values()))["total"]
    rows = []
    for name, times in results.items():
        total = times["total"]
        speed = first["cpu_mean_ms"] / total["cpu_mean_ms"]
        cells = (total["mean_ms"], total["p95_ms"], total["cpu_mean_ms"], speed)
        rows.append([name, *(f"{value:.2f}" for value in cells)])
    show("")
    _print_table(["variant", "mean ms", "p95 ms", "mean CPU ms", "speed in CPU time"], rows)
    return dict(results)


def _pairs(
    args: argparse.Namespace, config: InferenceConfig, base: Segmenter
) -> dict[str, dict[str, float]]:
    """Pairs of different modalities in one batch, which a merged LoRA does not serve."""
    segmenter = base if base.merge_for is None else Segmenter(_weights(args), config)
    sizes = (1, 2, 4)
    results = measure_batches(segmenter, sizes, args.rgb_size, args.repeats, min(2, args.warm_up))
    rows = [
        [
            str(size),
            *(f"{result[key]:.2f}" for key in ("median_ms", "time", "cpu_time")),
            f"{result['memory'] / 2**20:.0f}",
        ]
        for size, result in results.items()
    ]
    show("")
    _print_table(
        ["pairs", "median ms", "time of one", "CPU time of one", "working memory MiB"], rows
    )
    show(f"\nThe weights take {segmenter.memory / 2**20:.0f} MiB, whatever the number of pairs.")
    return {str(size): result for size, result in results.items()}


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    modalities = args.modality or [Modality.THERMAL]
    size = args.input_size or (512, 512)
    options = {"device": args.device, "precision": args.precision}
    setting = CompareSetting(
        sample=synthetic_sample(modalities[0], *size),
        preset=args.preset,
        tower=_tower(args),
        size=size,
        config=from_mapping(InferenceConfig, {**options, "cuda_graph": args.cuda_graph}),
        refresh_every=args.refresh_every,
        rounds=args.repeats,
        warm_up=args.warm_up,
        only=tuple(args.only or ()),
        openvino=args.openvino,
        peers=Path(args.peers) if args.peers else None,
    )
    start = time.monotonic()

    def progress(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - start:6.1f} s  {text}\n")

    report = compare(setting, progress)
    described = ", ".join(f"{name} {value}" for name, value in report["setting"].items())
    show(f"\n{described}\n")
    _print_table(*table(report))
    show("")
    for name, ratio in report["ratios"].items():
        low, high = report["cpu_spread"][name]
        cpu = f"{report['cpu_ratios'][name]:.2f} ({low:.2f} to {high:.2f})"
        show(f"{name}: {ratio:.2f}, in CPU time {cpu}")
    if args.chart:
        draw_chart(report, args.chart)
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
    parser.add_argument(
        "--input-size", type=image_size, help="of the model, WIDTHxHEIGHT (512x512)"
    )
    parser.add_argument("--json", type=path_text, default="", help="file for the report")
    parser.add_argument(
        "--markdown", type=path_text, default="", help="file for the printed tables"
    )
    latency = parser.add_argument_group("latency")
    latency.add_argument(
        "--checkpoint", type=path_text, default="", help="instead of random weights"
    )
    latency.add_argument("--device", default="auto")
    latency.add_argument("--precision", default="auto")
    latency.add_argument(
        "--rgb-size", type=image_size, default=(720, 1280), help="WIDTHxHEIGHT (1280x720)"
    )
    latency.add_argument(
        "--modality",
        action="append",
        type=Modality,
        help="once per pair of the batch (thermal)",
    )
    latency.add_argument("--no-merge", action="store_true", help="keep the LoRA pool unmerged")
    latency.add_argument(
        "--variants", action="store_true", help="also other options and kept scenes, in turns"
    )
    latency.add_argument(
        "--exported", type=path_text, default="", help="folder to try as variant: backend onnx"
    )
    latency.add_argument(
        "--compile", action="store_true", help="with the variant compile, slow to start"
    )
    latency.add_argument(
        "--pairs", action="store_true", help="also 1, 2 and 4 pairs of different modalities"
    )
    latency.add_argument("--repeats", type=int, default=30)
    latency.add_argument("--warm-up", type=int, default=5)
    _add_compare(parser)
    return parser


def _add_compare(parser: argparse.ArgumentParser) -> None:
    side = parser.add_argument_group("compare", "uses the options of latency, too")
    side.add_argument("--only", action="append", choices=ALL_MODELS, help="not all models")
    side.add_argument(
        "--openvino", action="store_true", help="also exported models in OpenVINO (minutes)"
    )
    side.add_argument(
        "--peers",
        type=path_text,
        default="",
        help="with the authors' own models: a folder of checkouts that you made, see "
        "docs/performance.md",
    )
    side.add_argument(
        "--refresh-every", type=int, default=10, help="frames that keep a scene (10)"
    )
    side.add_argument("--cuda-graph", action="store_true", help="in the fast style, on a GPU")
    side.add_argument("--chart", type=path_text, default="", help="image file for a bar chart")


def _tower(args: argparse.Namespace) -> str:
    name = args.tower or default_tower(args.preset)
    if name not in CLIP_PRESETS:
        raise ConfigError(f"--tower: '{name}' is not known{did_you_mean(name, CLIP_PRESETS)}")
    return name


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    show(markdown_table(header, rows, padded=True))


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
