"""The run file of stage 2: everything that decides what the segmentation model learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import Config, PathText, option, to_plain
from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.files import expand_home
from segrgbx_core.model import ALL_PRESETS, AnyModelConfig, ModelConfig
from segrgbx_core.model.ma_clip import CLIP_PRESETS, MaClipConfig
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import read_contract
from segrgbx_core.sensors import EncodingConfig, SensorConfig
from training.data.augment import AugmentConfig
from training.data.config import DataConfig, fill_modalities
from training.data.embeddings import ReuseConfig
from training.engine.config import RunConfig, merged, options_of, read_tree
from training.engine.schedule import OptimizerConfig
from training.stage2.losses import LossConfig

FROM_INIT = "init"
"""In the place of a preset or a checkpoint: the checkpoint that the run starts from."""


class RunClasses(str, Enum):
    """Which classes a run's model predicts."""

    EXTEND = "extend"
    """Those of the checkpoint that the run starts from, else the unified ones, and new ones."""
    OWN = "own"
    """Those of the run's data sets alone."""


class ClipConfig(Config):
    """How the frozen MA-CLIP serves training."""

    checkpoint: PathText = option(
        "",
        doc="checkpoint to take the whole MA-CLIP from; init for the one that the run starts "
        "from, empty for none",
    )
    weights: PathText = option(
        "",
        doc="CLIP file for the frozen tower: open_clip's, timm's, or a stage 1 run's "
        "tower.safetensors; empty for random weights, which carry no knowledge",
    )
    adapters: PathText = option(
        "", doc="folder of LoRA adapters, such as best/ of a stage 1 run; empty for none"
    )
    embeddings: PathText = option(
        "",
        doc="folder of embeddings that stage 1 computed ahead for the same tower and adapters; "
        "empty computes them here",
    )
    full_frame: bool = option(
        True,
        doc="embed whole frames once, as at run time, instead of every training crop",
    )
    stale: ReuseConfig = option(
        ReuseConfig(), doc="embeddings of another moment, for vehicles that look at times only"
    )


class SegmentationRun(Config):
    """Stage 2: the segmentation model beside a frozen MA-CLIP."""

    data: tuple[DataConfig, ...] = option(doc="data sets")
    run: RunConfig = option(doc="length, place and bookkeeping")
    model: AnyModelConfig = option(ModelConfig(), doc="the segmentation model")
    init: PathText = option("", doc="checkpoint to start from (fine-tuning); empty for none")
    classes: RunClasses = option(
        RunClasses.EXTEND,
        doc="extend (those of init, or the unified ones, and new ones of the data sets) or own "
        "(the data sets' alone)",
    )
    freeze: tuple[str, ...] = option(
        (), doc="parts of the model that keep their weights, by name, such as backbone"
    )
    encoder_weights: PathText = option(
        "",
        doc="file of ImageNet weights for the encoder, such as the published MiT, or "
        "efficientnet_lite0 for those of the package of that name; empty for none",
    )
    ma_clip: MaClipConfig = option(MaClipConfig(), doc="MA-CLIP's image tower")
    clip: ClipConfig = option(ClipConfig(), doc="how MA-CLIP serves training")
    encoding: EncodingConfig = option(EncodingConfig(), doc="how X images are made")
    sensor: SensorConfig = option(SensorConfig(), doc="facts about the data sets' sensors")
    input: InputConfig = option(InputConfig(), doc="size and fit of whole frames when scoring")
    augment: AugmentConfig = option(AugmentConfig(), doc="training views")
    loss: LossConfig = option(LossConfig(), doc="the loss")
    optimizer: OptimizerConfig = option(OptimizerConfig(), doc="optimizer and learning rate")


def read_run(path: Path | str, overrides: Sequence[str] = ()) -> SegmentationRun:
    """Reads a run file.

    Args:
        path: YAML file. Its key `preset` names an entry of `ALL_PRESETS` that `model` then
            changes, its key `tower` one of `CLIP_PRESETS` that `ma_clip` then changes. `preset:
            init` takes both, the encoding and the input size from the checkpoint that `init`
            names.
        overrides: `a.b=value` each, above the file; list entries by number (`data.0.root`).

    Raises:
        ConfigError: when the file or an override is wrong.
        CheckpointError: when the checkpoint of `preset: init` cannot be read.
    """

    def complete(data: dict[str, Any]) -> None:
        fill_modalities(data)
        if data.get("preset") == FROM_INIT:
            _take_from_init(data, path)

    presets: dict[str, tuple[str, Mapping[str, Config]]] = {
        "preset": ("model", ALL_PRESETS),
        "tower": ("ma_clip", CLIP_PRESETS),
    }
    return read_tree(SegmentationRun, path, overrides, presets, complete)


def _take_from_init(data: dict[str, Any], path: Path | str) -> None:
    """Puts architecture, encoding and input size of the checkpoint under those of the file."""
    if not data.get("init"):
        raise ConfigError(f"{path}: preset: init needs a checkpoint in init")
    if "tower" in data:
        raise ConfigError(f"{path}: tower has no effect with preset: init; leave it out")
    if not isinstance(data["init"], str):
        raise ConfigError(f"{path}: init: holds {type(data['init']).__name__}; expected a path")
    contract = to_plain(read_contract(expand_home(data["init"])))
    del data["preset"]
    for section in ("model", "ma_clip", "encoding", "input"):
        data[section] = merged(contract[section], options_of(data, section, str(path)))
