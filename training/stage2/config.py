"""The run file of stage 2: everything that decides what the segmentation model learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segrgbx_core.base.config import Config, PathText, option
from segrgbx_core.model import ALL_PRESETS, AnyModelConfig, ModelConfig
from segrgbx_core.model.ma_clip import CLIP_PRESETS, MaClipConfig
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.sensors import EncodingConfig, SensorConfig
from training.data.augment import AugmentConfig
from training.data.config import DataConfig
from training.data.embeddings import ReuseConfig
from training.engine.config import RunConfig, read_tree
from training.engine.schedule import OptimizerConfig
from training.stage2.losses import LossConfig


class ClipConfig(Config):
    """How the frozen MA-CLIP serves training."""

    checkpoint: PathText = option(
        "",
        doc="checkpoint to take the whole MA-CLIP from; empty for none",
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
    encoder_weights: PathText = option(
        "",
        doc="file of ImageNet weights for the encoder, such as the published MiT; empty for none",
    )
    ma_clip: MaClipConfig = option(MaClipConfig(), doc="MA-CLIP's image tower")
    clip: ClipConfig = option(ClipConfig(), doc="how MA-CLIP serves training")
    encoding: EncodingConfig = option(EncodingConfig(), doc="how X images are made")
    sensor: SensorConfig = option(SensorConfig(), doc="facts about the data sets' sensors")
    input: InputConfig = option(InputConfig(), doc="size and fit of whole frames when scoring")
    augment: AugmentConfig = option(AugmentConfig(), doc="training views")
    loss: LossConfig = option(LossConfig(), doc="what is lowered")
    optimizer: OptimizerConfig = option(OptimizerConfig(), doc="how it is lowered")


def read_run(path: Path | str, overrides: Sequence[str] = ()) -> SegmentationRun:
    """Reads a run file.

    Args:
        path: YAML file. Its key `preset` names an entry of `ALL_PRESETS` that `model` then
            changes, its key `tower` one of `CLIP_PRESETS` that `ma_clip` then changes.
        overrides: `a.b=value` each, above the file; list entries by number (`data.0.root`).

    Raises:
        ConfigError: when the file or an override is wrong.
    """
    return read_tree(
        SegmentationRun,
        path,
        overrides,
        {"preset": ("model", ALL_PRESETS), "tower": ("ma_clip", CLIP_PRESETS)},
    )
