"""Models side by side, in one run, on one machine: what `segrgbx-bench --compare` measures.

Every model gets the same pair of images, already on the device in the model's input size, and ends
with labels in host memory. The models take turns, so that the machine's other work affects all
of them alike. Weights are random, which changes labels but not times.

Two styles are compared. Plain is how the papers' code runs: the network as it is trained, in
float32, MA-CLIP on every frame. Fast is how `Segmenter` runs a checkpoint: an engine with folded
head and the device's precision, coarse logits decoded in one step, and for SegRGB-X merged LoRA
and a scene that is kept for some frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.base.tables import Summary
from segrgbx_core.bench.cost import count_cost, total_cost
from segrgbx_core.bench.harness import in_turn, timed
from segrgbx_core.model import BASELINE_PRESETS, Scene
from segrgbx_core.runtime.batch import Batch, HostBuffers, InputConfig, make_batch
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint, default_contract, random_weights
from segrgbx_core.runtime.decode import decode_logits
from segrgbx_core.runtime.devices import choose_device
from segrgbx_core.runtime.engines import Engine, make_engine
from segrgbx_core.runtime.options import InferenceConfig
from segrgbx_core.sensors import SensorConfig, encode

PAPER_MS = {
    "cmx": 17.05,
    "cmnext": 16.64,
    "geminifusion": 24.37,
    "stitchfusion": 17.88,
    "segrgbx_paper_style": 31.51,
}
"""The paper's Table III in ms; it names neither GPU nor image size nor precision."""

RATIOS = {
    "ours_vs_cmx": ("segrgbx_fast", "cmx_fast"),
    "ours_every_frame_vs_cmx": ("segrgbx_fast_every_frame", "cmx_fast"),
    "ours_vs_paper_style": ("segrgbx_fast", "segrgbx_paper_style"),
    "ours_vs_plain_cmx": ("segrgbx_fast", "cmx"),
    "paper_style_vs_plain_cmx": ("segrgbx_paper_style", "cmx"),
}
"""Quotients of median times; the paper's Table III gives the last one as 1.85."""

_PLAIN, _FAST, _OURS = "#9aa5b1", "#5b7c99", "#d1603d"

Run = Callable[[int], object]
"""Segments the pair once; the argument counts frames from 0."""


@dataclass(frozen=True)
class CompareSetting:
    """What is compared, and how.

    Attributes:
        sample: the pair; images of another size are brought to `size`.
        preset: size of all models: tiny, b0, b1 or b2.
        tower: MA-CLIP, a name of `CLIP_PRESETS`.
        size: (height, width) of the models' input.
        config: device, precision and further options of the fast style.
        refresh_every: frames for which `segrgbx_fast` keeps a scene.
        rounds: measured turns of every model.
        warm_up: turns before them.
        only: models to measure, keys of `MODELS`; none means all.
    """

    sample: RgbxSample
    preset: str = "b2"
    tower: str = "vit_b16"
    size: tuple[int, int] = (512, 512)
    config: InferenceConfig = field(default_factory=InferenceConfig)
    refresh_every: int = 10
    rounds: int = 30
    warm_up: int = 5
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contender:
    """One model in one style.

    Attributes:
        title: for tables.
        frames: frames per turn, so that every turn encodes as many scenes.
        run: segments the pair once.
        parameters_m: parameters in millions, MA-CLIP included where it is used.
        gmacs: multiply-adds in 1e9 of a frame, MA-CLIP's shared among those that keep a scene.
    """

    title: str
    frames: int
    run: Run
    parameters_m: float
    gmacs: float


MODELS = {
    "cmx": "CMX, plain",
    "cmnext": "CMNeXt, plain",
    "geminifusion": "GeminiFusion, plain",
    "stitchfusion": "StitchFusion, plain",
    "segformer": "SegFormer, RGB only, plain",
    "segrgbx_paper_style": "SegRGB-X, plain, LoRA pool",
    "segrgbx_merged": "SegRGB-X, plain, merged LoRA",
    "cmx_fast": "CMX, fast",
    "segrgbx_fast_every_frame": "SegRGB-X, fast, scene of every frame",
    "segrgbx_fast": "SegRGB-X, fast, scene kept",
}
"""What can be compared: titles by key."""


def compare(setting: CompareSetting) -> dict[str, Any]:
    """Measures the models in turns.

    Returns:
        `setting`; `models`: by key title, size, and `median_ms` and `cpu_median_ms` of a turn per
        frame, `p95_ms` of single frames, `min_ms`; `ratios` of the medians, where both were run,
        and `cpu_ratios` of CPU time, which other programs on the machine disturb less.

    Raises:
        ConfigError: when a model is not known or the options do not fit this machine.
    """
    if unknown := [key for key in setting.only if key not in MODELS]:
        raise ConfigError(f"model '{unknown[0]}' is not known{did_you_mean(unknown[0], MODELS)}")
    if f"cmx_{setting.preset}" not in BASELINE_PRESETS:
        raise ConfigError(f"preset '{setting.preset}': baselines come as tiny, b0, b1 and b2")
    batch = _batch(setting)
    contenders = {
        key: _contender(key, setting, batch)
        for key in MODELS
        if not setting.only or key in setting.only
    }
    with torch.inference_mode():
        _take_turns(contenders, setting.warm_up)
        frames = _take_turns(contenders, setting.rounds)
    models: dict[str, dict[str, Any]] = {
        key: {
            "title": contender.title,
            "parameters_m": contender.parameters_m,
            "gmacs": contender.gmacs,
            "paper_ms": PAPER_MS.get(key) if setting.preset == "b2" else None,
            **_statistics(frames[key], contender.frames),
        }
        for key, contender in contenders.items()
    }
    return {
        "setting": _described(setting, batch),
        "models": models,
        "ratios": _ratios({key: model["median_ms"] for key, model in models.items()}),
        "cpu_ratios": _ratios({key: model["cpu_median_ms"] for key, model in models.items()}),
    }


def table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The models of a report as header and rows."""
    header = ["model", "M parameters", "GMACs", "median ms", "p95 ms", "CPU ms", "paper: ms"]
    rows = []
    for model in report["models"].values():
        values = [
            model[key] for key in ("parameters_m", "gmacs", "median_ms", "p95_ms", "cpu_median_ms")
        ]
        paper = model["paper_ms"]
        cells = [f"{value:.2f}" for value in values]
        rows.append([model["title"], *cells, "" if paper is None else f"{paper:.2f}"])
    return header, rows


def draw_chart(report: dict[str, Any], path: Path | str) -> None:
    """Draws median times as bars, with a mark at p95; needs matplotlib.

    Args:
        report: what `compare` returned.
        path: image file; its ending chooses the format.

    Raises:
        ConfigError: when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an optional library
    except ModuleNotFoundError as error:
        raise ConfigError(f"--chart: {error.name} is not installed") from None
    models, setting = report["models"], report["setting"]
    titles = [model["title"] for model in models.values()]
    medians = [model["median_ms"] for model in models.values()]
    tails = [model["p95_ms"] for model in models.values()]
    colours = [
        _OURS if key.startswith("segrgbx_fast") else _FAST if key.endswith("_fast") else _PLAIN
        for key in models
    ]
    figure = Figure(figsize=(8, 0.45 * len(models) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(models))
    axes.barh(rows, medians, color=colours)
    axes.plot(tails, rows, "k|", markersize=10, label="p95 of single frames")
    for row, median in zip(rows, medians, strict=True):
        axes.annotate(
            f"{median:.1f}",
            (0, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color="white",
            fontweight="bold",
        )
    axes.set_yticks(list(rows), titles)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(*medians, *tails))
    axes.set_xlabel("ms per frame, median")
    place = f"{setting['input']}, {setting['device']}"
    axes.set_title(f"{setting['preset']}, {place}, random weights", fontsize=10)
    figure.legend(loc="outside lower right", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _contender(key: str, setting: CompareSetting, batch: Batch) -> Contender:
    is_ours = key.startswith("segrgbx")
    preset = setting.preset if is_ours else f"{key.removesuffix('_fast')}_{setting.preset}"
    loaded = random_weights(default_contract(preset, setting.tower if is_ours else ""))
    contract = loaded.contract
    classes = loaded.label_space.num_classes
    is_fast = "_fast" in key
    parts = count_cost(contract.model, contract.ma_clip, classes, setting.size, folded=is_fast)
    cost = total_cost(parts)
    frames = setting.refresh_every if key == "segrgbx_fast" else 1
    clip = sum(part.gmacs for name, part in parts.items() if name.startswith("MA-CLIP"))
    gmacs = cost.gmacs - clip * (1 - 1 / frames)
    modality = setting.sample.modality
    if is_fast:
        engine = make_engine(loaded, setting.config, merge_for=modality)
        run = _fast(engine, batch, setting, frames)
    else:
        if key == "segrgbx_merged":
            loaded.ma_clip.merge(modality)
        run = _plain(loaded, batch)
    return Contender(MODELS[key], frames, run, cost.parameters_m, gmacs)


def _plain(loaded: LoadedCheckpoint, batch: Batch) -> Run:
    device = batch.modality.device
    network, ma_clip = loaded.model.eval().to(device), loaded.ma_clip.to(device)
    unused = torch.zeros(len(batch), network.embed_dim, device=device)

    def run(frame: int) -> object:
        del frame
        embeddings = (unused, unused)
        if network.needs_embeddings:
            embeddings = ma_clip(batch.rgb, batch.x, batch.modality)
        logits = network(batch.rgb, batch.x, *embeddings, batch.modality)
        return logits.argmax(dim=1).to(torch.uint8).cpu()

    return run


def _fast(engine: Engine, batch: Batch, setting: CompareSetting, refresh_every: int) -> Run:
    kept: list[Scene] = []

    def run(frame: int) -> object:
        if frame % refresh_every == 0:
            kept[:] = [engine.encode_scene(batch)]
        return decode_logits(
            engine.coarse_logits(batch, kept[0]), batch.placements, input_size=setting.size
        )

    return run


def _batch(setting: CompareSetting) -> Batch:
    sample = setting.sample
    contract = default_contract("tiny")
    x_image = encode(sample, contract.encoding, SensorConfig())
    input_config = InputConfig(height=setting.size[0], width=setting.size[1])
    device = choose_device(setting.config.device)
    return make_batch(
        [sample.rgb], [x_image], [sample.modality], input_config, buffers=HostBuffers(device)
    )


def _take_turns(
    contenders: dict[str, Contender], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU time in ms of every frame; whoever began a round begins the next one last."""
    frames: dict[str, list[tuple[float, float]]] = {key: [] for key in contenders}
    for turn in range(rounds):
        for key in in_turn(list(contenders), turn):
            for frame in range(contenders[key].frames):
                _, wall_ms, cpu_ms = timed(partial(contenders[key].run, frame))
                frames[key].append((wall_ms, cpu_ms))
    return frames


def _statistics(frames: Sequence[tuple[float, float]], per_turn: int) -> dict[str, float]:
    times = np.array(frames)  # (frames, 2): wall, CPU
    turns = times.reshape(-1, per_turn, 2).mean(axis=1)
    wall = Summary.of(list(turns[:, 0]))
    return {
        "median_ms": wall.p50,
        "p95_ms": Summary.of(list(times[:, 0])).p95,
        "min_ms": wall.min,
        "cpu_median_ms": Summary.of(list(turns[:, 1])).p50,
        "frames": len(times),
    }


def _ratios(times: dict[str, float]) -> dict[str, float]:
    return {
        name: times[above] / times[below]
        for name, (above, below) in RATIOS.items()
        if above in times and below in times
    }


def _described(setting: CompareSetting, batch: Batch) -> dict[str, Any]:
    device = batch.modality.device
    is_cuda = device.type == "cuda"
    return {
        "preset": setting.preset,
        "tower": setting.tower,
        "input": f"{setting.size[1]}x{setting.size[0]}",
        "device": torch.cuda.get_device_name(device) if is_cuda else str(device),
        "threads": torch.get_num_threads(),
        "modality": setting.sample.modality.value,
        "refresh_every": setting.refresh_every,
        "rounds": setting.rounds,
        "fast": setting.config.model_dump(mode="json", exclude_defaults=True),
        "torch": torch.__version__,
    }
