"""What a run of stage 2 starts from: the frozen MA-CLIP, ImageNet encoders, other checkpoints."""

from __future__ import annotations

import logging
from typing import cast

import torch

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.model import RgbxNetwork, SegRGBX
from segrgbx_core.model.adapter_files import load_adapters
from segrgbx_core.model.clip_weights import load_clip_weights
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.tensor_files import read_weights
from segrgbx_core.model.weights import load_encoder_weights
from segrgbx_core.runtime.checkpoint import load_checkpoint
from training.stage2.config import SegmentationRun
from training.stage2.released import Baseline, load_imagenet_weights

log = logging.getLogger(__name__)


def load_encoder(model: RgbxNetwork, path: str) -> None:
    """Puts ImageNet weights into a model's encoder, strictly.

    Raises:
        CheckpointError: when the file is missing or does not fit the encoder.
    """
    state = read_weights(path)
    if isinstance(model, SegRGBX):
        title = load_encoder_weights(model.backbone, state, path)
    else:
        title = load_imagenet_weights(cast(Baseline, model), state, path)
    log.info("encoder: %s from %s", title, path)


def build_ma_clip(config: SegmentationRun) -> ModalityAwareClip:
    """The run's frozen MA-CLIP.

    From a checkpoint; from stage 1 (tower and adapters); or random, the same for the same seed.
    Random adapters differ between modalities, so that the path is exercised; they know nothing.

    Raises:
        CheckpointError: when weights or adapters do not fit the tower that `ma_clip` describes.
        ConfigError: when a checkpoint is named together with weights or adapters.
    """
    clip = config.clip
    if clip.checkpoint:
        if clip.weights or clip.adapters:
            raise ConfigError(
                "clip.checkpoint brings tower and adapters; clip.weights and clip.adapters must "
                "be empty beside it"
            )
        loaded = load_checkpoint(clip.checkpoint)
        if loaded.contract.ma_clip != config.ma_clip:
            raise CheckpointError(
                f"checkpoint {clip.checkpoint}: its MA-CLIP is not the one that ma_clip "
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


def load_weights(model: RgbxNetwork, path: str) -> None:
    """Starts a model from a checkpoint's weights, strictly.

    Raises:
        CheckpointError: when the checkpoint has another architecture or label space.
    """
    weights = load_checkpoint(path).model.state_dict()
    own = model.state_dict()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if wrong or len(weights) != len(own):
        raise CheckpointError(
            f"checkpoint {path}: does not fit the run's model, first at "
            f"'{(wrong or list(weights))[0]}'; copy `model` from the checkpoint's run"
        )
    model.load_state_dict(weights)
