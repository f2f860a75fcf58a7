"""Models side by side, in one run, on one machine: what `segrgbx-bench --compare` measures.

Every model gets the same pair of images, already on the device in the model's input size, and ends
with labels in host memory. The models take turns, so that the machine's other work affects all
of them alike. Weights are random, which changes labels but not times.

Two styles are compared. Plain is how the papers' code runs: the network as it is trained, in
float32, MA-CLIP on every frame. Fast is how `Segmenter` runs a checkpoint: an engine with folded
head and the device's precision, coarse logits decoded in one step, and for SegRGB-X merged LoRA
and a scene that is kept for some frames; in PyTorch or, exported, in OpenVINO. The authors' own
code may take part, see `segrgbx_core.bench.peers`.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segrgbx_core.base.errors import ConfigError, did_you_mean, shortened
from segrgbx_core.base.samples import Array, RgbxSample
from segrgbx_core.base.tables import Summary, number
from segrgbx_core.bench.cost import count_cost, total_cost
from segrgbx_core.bench.harness import in_turn, processor, timed
from segrgbx_core.bench.peers import PEERS, PeerModel, found, load_peer
from segrgbx_core.export.export import ExportConfig, export_checkpoint
from segrgbx_core.labels.label_space import unified_label_space
from segrgbx_core.model import BASELINE_PRESETS, ModelConfig, Scene
from segrgbx_core.model.refinement import Kind
from segrgbx_core.runtime.batch import Batch, HostBuffers, InputConfig, make_batch
from segrgbx_core.runtime.checkpoint import (
    Contract,
    LoadedCheckpoint,
    default_contract,
    random_weights,
)
from segrgbx_core.runtime.decode import decode_logits
from segrgbx_core.runtime.devices import choose_device
from segrgbx_core.runtime.engines import Engine, make_engine
from segrgbx_core.runtime.exported import read_exported
from segrgbx_core.runtime.options import Backend, InferenceConfig
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
    "mixture_vs_cmx": ("segrgbx_mixture", "cmx_fast"),
    "ours_every_frame_vs_cmx": ("segrgbx_fast_every_frame", "cmx_fast"),
    "ours_vs_cmx_openvino": ("segrgbx_openvino", "cmx_openvino"),
    "mixture_vs_cmx_openvino": ("segrgbx_mixture_openvino", "cmx_openvino"),
    "ours_vs_paper_style": ("segrgbx_fast", "segrgbx_paper_style"),
    "mixture_vs_paper_style": ("segrgbx_mixture", "segrgbx_paper_style"),
    "ours_openvino_vs_paper_style": ("segrgbx_openvino", "segrgbx_paper_style"),
    "ours_vs_plain_cmx": ("segrgbx_fast", "cmx"),
    "paper_style_vs_plain_cmx": ("segrgbx_paper_style", "cmx"),
}
"""Quotients of median times; the paper's Table III gives the last one as 1.85."""
_OF_FASTEST = {
    "ours_vs_fastest_peer": "segrgbx_fast",
    "mixture_vs_fastest_peer": "segrgbx_mixture",
    "ours_openvino_vs_fastest_peer": "segrgbx_openvino",
    "mixture_openvino_vs_fastest_peer": "segrgbx_mixture_openvino",
}
"""Quotients by the authors' model that takes the least CPU time."""

_PLAIN, _FAST, _OURS = "#9aa5b1", "#5b7c99", "#d1603d"

Run = Callable[[bool], object]
"""Segments the pair once; the argument asks for a new scene."""
Progress = Callable[[str], None]


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
        only: models to measure, keys of `MODELS`, `OPENVINO_MODELS` or `PEERS`; none means all
            of `MODELS` and of those that the next two ask for.
        openvino: `OPENVINO_MODELS`, too; each is exported first, which takes a minute or more.
        peers: folder of the checkouts that `PEERS` names; None: none.
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
    openvino: bool = False
    peers: Path | None = None


@dataclass(frozen=True)
class Contender:
    """One model in one style.

    Attributes:
        title: for tables.
        frames: frames that share a scene; 1: each has its own. A turn is one frame with a new
            scene and, where frames share it, one with a kept scene, which stands for the others.
        run: segments the pair once.
        parameters_m: parameters in millions, MA-CLIP included where it is used.
        gmacs: multiply-adds in 1e9 of a frame, MA-CLIP's shared among those that keep a scene;
            None where they are not counted.
    """

    title: str
    frames: int
    run: Run
    parameters_m: float
    gmacs: float | None


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
    "segrgbx_mixture": "SegRGB-X with a mixture in the DSRM, fast, scene kept",
}
"""What is compared: titles by key."""
OPENVINO_MODELS = {
    "cmx_openvino": "CMX, OpenVINO",
    "segrgbx_openvino": "SegRGB-X, OpenVINO, scene kept",
    "segrgbx_mixture_openvino": "SegRGB-X with a mixture in the DSRM, OpenVINO, scene kept",
}
"""The fast style of exported models, in OpenVINO."""
ALL_MODELS = (*MODELS, *OPENVINO_MODELS, *PEERS)


def compare(setting: CompareSetting, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Measures the models in turns.

    Args:
        setting: what is compared.
        progress: called with a line of text before every step.

    Returns:
        `setting`; `models`: by key title, size, and `median_ms` and `cpu_median_ms` of a turn per
        frame, `p95_ms` of single frames, `min_ms`; `ratios` of the medians, where both were run,
        and `cpu_ratios` of CPU time, which other programs on the machine disturb less;
        `cpu_spread`: the least and the largest of these quotients in one round.

    Raises:
        ConfigError: when a model is not known, a checkout is missing or cannot be run, or the
            options do not fit this machine.
    """
    chosen = _chosen(setting)
    batch = _batch(setting, choose_device(setting.config.device))
    contenders = {}
    for key in chosen:
        progress(f"making {key}")
        contenders[key] = _contender(key, setting, batch, progress)
    with torch.inference_mode():
        progress("warming up")
        _take_turns(contenders, setting.warm_up)
        frames = _take_turns(contenders, setting.rounds, progress)
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
    wall, cpu = (
        {key: model[column] for key, model in models.items()}
        for column in ("median_ms", "cpu_median_ms")
    )
    pairs = _pairs(cpu)
    turns = {key: _turns(frames[key], contenders[key].frames)[:, 1] for key in contenders}
    quotients = {name: turns[above] / turns[below] for name, (above, below) in pairs.items()}
    return {
        "setting": _described(setting, batch),
        "models": models,
        "ratios": {name: wall[above] / wall[below] for name, (above, below) in pairs.items()},
        "cpu_ratios": {name: cpu[above] / cpu[below] for name, (above, below) in pairs.items()},
        "cpu_spread": {n: [float(q.min()), float(q.max())] for n, q in quotients.items()},
    }


def _chosen(setting: CompareSetting) -> list[str]:
    if unknown := [key for key in setting.only if key not in ALL_MODELS]:
        hint = did_you_mean(unknown[0], ALL_MODELS)
        raise ConfigError(f"model '{unknown[0]}' is not known{hint}")
    if f"cmx_{setting.preset}" not in BASELINE_PRESETS:
        raise ConfigError(f"preset '{setting.preset}': baselines come as tiny, b0, b1 and b2")
    if setting.peers is None and (asked := [key for key in setting.only if key in PEERS]):
        raise ConfigError(f"model {asked[0]}: needs --peers and the folder of its checkout")
    peers = found(setting.peers) if setting.peers else []
    chosen = [*MODELS, *(OPENVINO_MODELS if setting.openvino else ()), *peers]
    if setting.only:
        chosen = [key for key in ALL_MODELS if key in setting.only]
    if setting.preset == "tiny" and (authors := [key for key in chosen if key in PEERS]):
        raise ConfigError(f"preset 'tiny': {authors[0]} comes as b0, b1 and b2")
    return chosen


def table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The models of a report as header and rows."""
    header = ["model", "M parameters", "GMACs", "median ms", "p95 ms", "CPU ms", "paper: ms"]
    rows = []
    for model in report["models"].values():
        values = [
            model[key] for key in ("parameters_m", "gmacs", "median_ms", "p95_ms", "cpu_median_ms")
        ]
        paper = model["paper_ms"]
        cells = [number(value, 2) for value in values]
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


def _contender(key: str, setting: CompareSetting, batch: Batch, progress: Progress) -> Contender:
    if key in PEERS:
        return _peer(key, setting, batch)
    contract = _contract(key, setting)
    loaded = random_weights(contract)
    is_plain = key not in OPENVINO_MODELS and "_fast" not in key and "_mixture" not in key
    classes = loaded.label_space.num_classes
    parts = count_cost(contract.model, contract.ma_clip, classes, setting.size, not is_plain)
    cost = total_cost(parts)
    is_kept = key.startswith("segrgbx") and not is_plain and not key.endswith("every_frame")
    frames = setting.refresh_every if is_kept else 1
    clip = sum(part.gmacs for name, part in parts.items() if name.startswith("MA-CLIP"))
    gmacs = cost.gmacs - clip * (1 - 1 / frames)
    if is_plain:
        if key == "segrgbx_merged":
            loaded.ma_clip.merge(setting.sample.modality)
        run = _plain(loaded, batch)
    elif key in OPENVINO_MODELS:
        engine = _in_openvino(loaded, setting, progress)
        run = _fast(engine, _batch(setting, engine.device), setting.size)
    else:
        engine = make_engine(loaded, setting.config, setting.sample.modality)
        run = _fast(engine, batch, setting.size)
    return Contender({**MODELS, **OPENVINO_MODELS}[key], frames, run, cost.parameters_m, gmacs)


def _in_openvino(loaded: LoadedCheckpoint, setting: CompareSetting, progress: Progress) -> Engine:
    changed = {"backend": Backend.OPENVINO, "device": "auto", "cuda_graph": False}
    config = setting.config.model_copy(update=changed)
    with tempfile.TemporaryDirectory(prefix="segrgbx-") as scratch:
        folder = Path(scratch) / "exported"
        how = ExportConfig(modality=setting.sample.modality, fixed_size=True)
        export_checkpoint(loaded, folder, how, progress)
        return make_engine(read_exported(folder), config)


def _contract(key: str, setting: CompareSetting) -> Contract:
    """The contract whose input is what is compared, so that exports may fix it."""
    size = InputConfig(height=setting.size[0], width=setting.size[1])
    if not key.startswith("segrgbx"):
        return default_contract(f"{key.partition('_')[0]}_{setting.preset}", input=size)
    contract = default_contract(setting.preset, setting.tower, input=size)
    if "mixture" not in key:
        return contract
    assert isinstance(contract.model, ModelConfig)
    refinement = contract.model.refinement.model_copy(update={"kind": Kind.MIXTURE})
    model = contract.model.model_copy(update={"refinement": refinement})
    return contract.model_copy(update={"model": model})


def _peer(key: str, setting: CompareSetting, batch: Batch) -> Contender:
    assert setting.peers is not None
    device = batch.modality.device
    classes = unified_label_space().num_classes
    network = load_peer(key, setting.peers, setting.preset, classes).to(device)
    _check_peer(key, network, batch, classes)

    def run(is_new_scene: bool) -> object:
        del is_new_scene
        return network(batch.rgb, batch.x).argmax(dim=1).to(torch.uint8).cpu()

    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Contender(PEERS[key].title, 1, run, parameters / 1e6, None)


@torch.inference_mode()
def _check_peer(key: str, network: PeerModel, batch: Batch, classes: int) -> None:
    """Runs foreign code once, and checks that it did the same work as ours."""
    try:
        made = network(batch.rgb, batch.x)
    except Exception as error:  # foreign code may raise anything
        raise ConfigError(
            f"peers: {key} cannot be run: {type(error).__name__}: {shortened(str(error), 200)}"
        ) from error
    expected = (len(batch), classes, *batch.rgb.shape[-2:])
    if not isinstance(made, torch.Tensor) or tuple(made.shape) != expected:
        shape = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise ConfigError(f"peers: {key} answers with {shape}; expected logits {expected}")


def _plain(loaded: LoadedCheckpoint, batch: Batch) -> Run:
    device = batch.modality.device
    network, ma_clip = loaded.model.eval().to(device), loaded.ma_clip.to(device)
    unused = torch.zeros(len(batch), network.embed_dim, device=device)

    def run(is_new_scene: bool) -> object:
        del is_new_scene
        embeddings = (unused, unused)
        if network.needs_embeddings:
            embeddings = ma_clip(batch.rgb, batch.x, batch.modality)
        logits = network(batch.rgb, batch.x, *embeddings, batch.modality)
        return logits.argmax(dim=1).to(torch.uint8).cpu()

    return run


def _fast(engine: Engine, batch: Batch, size: tuple[int, int]) -> Run:
    kept: list[Scene] = []

    def run(is_new_scene: bool) -> object:
        if is_new_scene:
            kept[:] = [engine.encode_scene(batch)]
        return decode_logits(
            engine.coarse_logits(batch, kept[0]), batch.placements, input_size=size
        )

    return run


def _batch(setting: CompareSetting, device: torch.device) -> Batch:
    sample = setting.sample
    contract = default_contract("tiny")
    x_image = encode(sample, contract.encoding, SensorConfig())
    input_config = InputConfig(height=setting.size[0], width=setting.size[1])
    return make_batch(
        [sample.rgb], [x_image], [sample.modality], input_config, buffers=HostBuffers(device)
    )


def _take_turns(
    contenders: dict[str, Contender], rounds: int, progress: Progress = lambda _: None
) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU time in ms of every frame; whoever began a round begins the next one last."""
    frames: dict[str, list[tuple[float, float]]] = {key: [] for key in contenders}
    for turn in range(rounds):
        progress(f"round {turn + 1} of {rounds}")
        for key in in_turn(list(contenders), turn):
            for is_new_scene in (True, False)[: contenders[key].frames]:
                _, wall_ms, cpu_ms = timed(partial(contenders[key].run, is_new_scene))
                frames[key].append((wall_ms, cpu_ms))
    return frames


def _statistics(frames: Sequence[tuple[float, float]], per_scene: int) -> dict[str, float]:
    turns = _turns(frames, per_scene)
    wall = Summary.of(list(turns[:, 0]))
    # In a sequence, frames with a kept scene are as many more.
    weights = (1, per_scene - 1)[:per_scene]
    single = [
        wall_ms for i, (wall_ms, _) in enumerate(frames) for _ in range(weights[i % len(weights)])
    ]
    return {
        "median_ms": wall.p50,
        "p95_ms": Summary.of(single).p95,
        "min_ms": wall.min,
        "cpu_median_ms": statistics.median(turns[:, 1]),
        "frames": len(frames),
    }


def _turns(frames: Sequence[tuple[float, float]], per_scene: int) -> Array:
    """Wall and CPU time of a frame in each turn, (turns, 2); its share of the scene included."""
    weights = np.array((1, per_scene - 1)[:per_scene])
    times = np.array(frames).reshape(-1, len(weights), 2)
    return np.average(times, axis=1, weights=weights)


def _pairs(cpu: dict[str, float]) -> dict[str, tuple[str, str]]:
    """The quotients of which both models were run, above and below."""
    pairs = dict(RATIOS)
    if peers := [key for key in PEERS if key in cpu]:
        fastest = min(peers, key=cpu.__getitem__)
        pairs |= {name: (above, fastest) for name, above in _OF_FASTEST.items()}
    return {name: pair for name, pair in pairs.items() if set(pair) <= set(cpu)}


def _described(setting: CompareSetting, batch: Batch) -> dict[str, Any]:
    device = batch.modality.device
    is_cuda = device.type == "cuda"
    return {
        **processor(),
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
