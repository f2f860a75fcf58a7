"""Run files of stage 1 and of its small CLIP: everything that decides what they learn."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TypeVar

from pydantic import model_validator

from segrgbx_core.base.config import Config, PathText, option, read_mapping
from segrgbx_core.base.errors import ConfigError
from segrgbx_core.model.ma_clip import CLIP_PRESETS, MaClipConfig
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.sensors import EncodingConfig, SensorConfig
from training.data.config import DataConfig
from training.data.mixing import Sampling
from training.engine.config import RunConfig, read_tree, require_stretch
from training.engine.schedule import Decay, OptimizerConfig
from training.stage1.contrastive import ContrastiveConfig
from training.stage1.scene_captions import LONGEST

TINY = "tiny"
"""A text tower of a few layers with random weights, for tests and trials of the whole path."""
SMALL = "small"
"""Both towers from a file that `python -m training.train_clip` wrote."""


class TextConfig(Config):
    """The frozen CLIP that stage 1 starts from: text tower, tokenizer, and the image half."""

    model: str = option(
        "ViT-B-16",
        doc="open_clip name of the model, 'small' for a file of training.train_clip, or 'tiny' "
        "for a small random one",
    )
    weights: PathText = option("", doc="its checkpoint file; empty for none")
    pretrained: str = option(
        "",
        doc="open_clip tag of published weights, such as datacomp_xl_s13b_b90k; fetched from the "
        "network when they are not on this machine",
    )


class Batching(str, Enum):
    """Which pairs meet in a batch."""

    BY_MODALITY = "by_modality"
    """One modality per step, in turn: negatives are hard, and data sets give no hint."""
    MIXED = "mixed"
    """All data sets in every batch."""


class ViewConfig(Config):
    """What stage 1 changes about a training pair; MA-CLIP sees whole frames later."""

    flip: float = option(0.5, doc="probability of mirroring left and right", low=0, high=1)
    smallest_crop: float = option(
        0.8, doc="smallest side of a random crop relative to the frame's; 1 means whole frames",
        low=0.1, high=1,
    )  # fmt: skip
    jitter: float = option(0.2, doc="probability of changing RGB's colours", low=0, high=1)
    jitter_strength: float = option(
        0.3, doc="largest change of brightness, contrast and saturation", low=0, high=1
    )
    blur: float = option(0.0, doc="probability of blurring RGB", low=0, high=1)
    noise: float = option(
        0.0, doc="largest standard deviation of noise on RGB, full scale is 1", low=0, high=1
    )


class AdapterOptimizer(OptimizerConfig):
    """AdamW for adapters: faster than for whole networks, without decay."""

    learning_rate: float = option(2e-4, doc="highest learning rate", low=0)
    weight_decay: float = option(0.0, doc="decay of the adapters' matrices", low=0)
    decay: Decay = option(Decay.COSINE, doc="how the rate falls after the warm-up: poly or cosine")


class PoolRunConfig(RunConfig):
    """Length, place and bookkeeping of stage 1."""

    sampling: Sampling = option(
        Sampling.EQUAL, doc="how often each modality has its turn: proportional or equal"
    )


_OF_STAGE_2 = ("epochs", "accumulate", "batch_norm", "pictures")
"""The contrast needs its whole batch at once, there is no BatchNorm, and modalities take turns."""


class PairRun(Config):
    """What both trainings by contrast with captions share."""

    data: tuple[DataConfig, ...] = option(doc="data sets")
    captions: PathText = option(
        doc="caption file, see `python -m training.captions`", affects_result=False
    )
    run: PoolRunConfig = option(doc="length, place and bookkeeping")
    ma_clip: MaClipConfig = option(MaClipConfig(), doc="image tower and LoRA pool")
    views: ViewConfig = option(ViewConfig(), doc="training pairs")
    encoding: EncodingConfig = option(EncodingConfig(), doc="how X images are made")
    sensor: SensorConfig = option(SensorConfig(), doc="facts about the data sets' sensors")
    input: InputConfig = option(
        InputConfig(), doc="size of whole frames in front of MA-CLIP, as in stage 2"
    )


class MaClipRun(PairRun):
    """Stage 1: the LoRA pool of MA-CLIP, by contrast with captions."""

    text: TextConfig = option(TextConfig(), doc="the frozen CLIP")
    adapters: PathText = option("", doc="folder of adapters to start from; empty for none")
    batching: Batching = option(
        Batching.BY_MODALITY, doc="pairs of one batch: by_modality or mixed"
    )
    lora_dropout: float = option(0.1, doc="dropout of the adapters' inputs", low=0, high=0.9)
    grad_checkpointing: bool = option(
        False, doc="compute the tower's blocks twice instead of keeping them in memory"
    )
    loss: ContrastiveConfig = option(ContrastiveConfig(), doc="the loss")
    optimizer: AdapterOptimizer = option(AdapterOptimizer(), doc="optimizer and learning rate")


class TextTowerConfig(Config):
    """open_clip's text transformer behind open_clip's tokenizer, at a size of one's own."""

    context: int = option(
        LONGEST, doc="tokens that it reads, begin and end marks included", low=4, high=1024
    )
    width: int = option(64, doc="token width", low=8, high=4096)
    depth: int = option(2, doc="blocks", low=1, high=64)
    num_heads: int = option(2, doc="attention heads", low=1, high=64)

    @model_validator(mode="after")
    def _divides(self) -> TextTowerConfig:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")
        return self


class ClipOptimizer(OptimizerConfig):
    """AdamW for towers that start from random weights."""

    learning_rate: float = option(1e-3, doc="highest learning rate", low=0)
    weight_decay: float = option(0.1, doc="decay of matrices and kernels", low=0)
    beta2: float = option(0.98, doc="AdamW's memory of squared gradients", low=0, high=1)
    decay: Decay = option(Decay.COSINE, doc="how the rate falls after the warm-up: poly or cosine")
    clip_norm: float = option(1.0, doc="largest gradient norm; 0 means no limit", low=0)


class ClipRun(PairRun):
    """A small CLIP whose weights are all learned, from RGB images and captions.

    Of `ma_clip` the image tower counts; its LoRA options belong to stage 1. X is not looked at.
    """

    text_tower: TextTowerConfig = option(TextTowerConfig(), doc="text tower")
    scale: float = option(
        10.0, doc="factor of the cosine similarities to start from; it is learned", low=1, high=100
    )
    view_captions: bool = option(
        False,
        doc="training captions are written anew from the labels of each random view, as the "
        "scene captioner writes them, so that crops never contradict them",
    )
    phrase_drop: float = option(
        0.0,
        doc="probability of leaving out each phrase of a training caption but the first",
        low=0,
        high=0.9,
    )
    optimizer: ClipOptimizer = option(ClipOptimizer(), doc="optimizer and learning rate")


def read_ma_clip_run(path: Path | str, overrides: Sequence[str] = ()) -> MaClipRun:
    """Reads a run file of stage 1.

    Args:
        path: YAML file. Its key `tower` names one of `CLIP_PRESETS` that `ma_clip` then changes.
        overrides: `a.b=value` each, above the file.

    Raises:
        ConfigError: when the file or an override is wrong, or options exclude each other.
    """
    run = _read(MaClipRun, path, overrides)
    if run.text.weights and run.text.pretrained:
        raise ConfigError(f"{path}: text.weights and text.pretrained are both set; choose one")
    if run.grad_checkpointing and run.batching is Batching.MIXED:
        raise ConfigError(
            f"{path}: grad_checkpointing computes blocks again with the last adapter and "
            "therefore needs batching by_modality"
        )
    if not run.ma_clip.lora_rank:
        raise ConfigError(f"{path}: ma_clip.lora_rank is 0; there is nothing to train")
    return run


def read_clip_run(path: Path | str, overrides: Sequence[str] = ()) -> ClipRun:
    """Reads a run file of `python -m training.train_clip`; otherwise as `read_ma_clip_run`."""
    return _read(ClipRun, path, overrides)


def read_pair_run(path: Path | str, overrides: Sequence[str] = ()) -> PairRun:
    """Reads a run file of either training; one with a section `text_tower` is `train_clip`'s."""
    if "text_tower" in read_mapping(path):
        return read_clip_run(path, overrides)
    return read_ma_clip_run(path, overrides)


PairRunT = TypeVar("PairRunT", bound=PairRun)


def _read(kind: type[PairRunT], path: Path | str, overrides: Sequence[str]) -> PairRunT:
    run = read_tree(kind, path, overrides, {"tower": ("ma_clip", CLIP_PRESETS)})
    if not run.data:
        raise ConfigError(f"{path}: data is empty; name at least one data set")
    for name in _OF_STAGE_2:
        if getattr(run.run, name) != PoolRunConfig.model_fields[name].get_default():
            raise ConfigError(f"{path}: run.{name}: is an option of stage 2; leave it out")
    require_stretch(run.input, f"{path}: ")
    return run
