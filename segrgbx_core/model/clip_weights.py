"""Weights for the image tower: public names become timm's, strictly, nothing left over.

Reads checkpoints of open_clip, of transformers and of timm. Of a CLIP only the image half is
taken: what begins with `visual.`, in transformers with `vision_model.` or `visual_projection.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from segrgbx_core.base.errors import CheckpointError, shortened
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.tensor_files import (
    MAX_JSON,
    check_weights,
    parse_json_object,
    read_file,
    read_weights,
)

# open_clip's own ViT, part by part, in timm's words.
_RENAMED = {
    "conv1": "patch_embed.proj",
    "ln_pre": "norm_pre",
    "ln_post": "norm",
}
_RENAMED_IN_BLOCK = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# The same of transformers' CLIP, within `vision_model.`.
_TRANSFORMERS = {
    "embeddings.patch_embedding": "patch_embed.proj",
    "pre_layrnorm": "norm_pre",  # its own spelling
    "post_layernorm": "norm",
}
_TRANSFORMERS_IN_BLOCK = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_QKV = ("q_proj", "k_proj", "v_proj")
_VISION, _PROJECTION = "vision_model.", "visual_projection."


def load_clip_weights(ma_clip: ModalityAwareClip, path: Path | str) -> None:
    """Loads a CLIP checkpoint file into the frozen tower; the LoRA pool keeps its values.

    Args:
        ma_clip: without a merged adapter.
        path: .safetensors, a torch file of plain tensors (.pt, .bin), or a folder of transformers.

    Raises:
        CheckpointError: when the file is unreadable or does not fit the tower, or the folder says
            that its CLIP has another activation.
    """
    _check_activation(ma_clip, Path(path) / "config.json")
    load_image_tower(ma_clip.tower, read_weights(path), where=str(path))


def load_image_tower(
    tower: nn.Module, state: Mapping[str, Tensor], where: str = "CLIP weights"
) -> None:
    """Loads a public state dict into a timm tower, with or without a LoRA pool.

    Position embeddings of another grid are resampled; everything else must fit exactly.

    Raises:
        CheckpointError: naming the first tensor that is missing, unexpected or of another shape.
    """
    own = {name: tensor for name, tensor in tower.state_dict().items() if ".lora_" not in name}
    given = convert_clip_weights(state, where)
    if "head.bias" in own and "head.bias" not in given:
        given["head.bias"] = torch.zeros_like(own["head.bias"])
    _fit_position_embedding(tower, own, given, where)
    check_weights(own, given, where)
    tower.load_state_dict({name: tensor.float() for name, tensor in given.items()}, strict=False)


def convert_clip_weights(
    state: Mapping[str, Tensor], where: str = "CLIP weights"
) -> dict[str, Tensor]:
    """The image tower's tensors under timm's names.

    Accepts open_clip's own ViT (`visual.*`), a timm tower inside open_clip (`visual.trunk.*`),
    transformers' CLIP (`vision_model.*`), and timm's own names.

    Raises:
        CheckpointError: when there is no image tower, or a tensor of it has no counterpart.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if "cls_token" in state or "patch_embed.proj.weight" in state:
        return dict(state)
    if any(name.startswith(_VISION) for name in state):
        return _from_transformers(state, where)
    visual = {
        name.removeprefix("visual."): tensor
        for name, tensor in state.items()
        if name.startswith("visual.")
    }
    if not visual:
        raise CheckpointError(
            f"{where}: holds no image tower; expected names beginning with 'visual.' or "
            f"'{_VISION}'"
        )
    if any(name.startswith("trunk.") for name in visual):
        return _from_trunk(visual, where)
    converted: dict[str, Tensor] = {}
    for name, tensor in visual.items():
        new_name, value = _from_open_clip(name, tensor, where)
        converted[new_name] = value
    return converted


def _from_open_clip(name: str, tensor: Tensor, where: str) -> tuple[str, Tensor]:
    if name == "class_embedding":
        return "cls_token", tensor[None, None]
    if name == "positional_embedding":
        return "pos_embed", tensor[None]
    if name == "proj":
        return "head.weight", tensor.T
    layer, _, leaf = name.rpartition(".")
    if layer in _RENAMED:
        return f"{_RENAMED[layer]}.{leaf}", tensor
    prefix = "transformer.resblocks."
    if name.startswith(prefix):
        block, _, inner = layer.removeprefix(prefix).partition(".")
        if inner in _RENAMED_IN_BLOCK:
            return f"blocks.{block}.{_RENAMED_IN_BLOCK[inner]}.{leaf}", tensor
        if inner == "attn" and leaf in ("in_proj_weight", "in_proj_bias"):
            return f"blocks.{block}.attn.qkv.{leaf.removeprefix('in_proj_')}", tensor
    raise CheckpointError(f"{where}: 'visual.{name}' has no counterpart in timm's ViT")


def _from_transformers(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    stacked: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        layer, _, leaf = name.removeprefix(_VISION).rpartition(".")
        block, _, inner = layer.removeprefix("encoder.layers.").partition(".")
        part = inner.removeprefix("self_attn.")
        if name == f"{_PROJECTION}weight":
            converted["head.weight"] = tensor
        elif not name.startswith(_VISION) or leaf == "position_ids":
            continue  # the text half, the scale, and constants of old files
        elif leaf == "class_embedding":
            converted["cls_token"] = tensor.reshape(1, 1, -1)
        elif layer == "embeddings.position_embedding":
            converted["pos_embed"] = tensor[None]
        elif layer in _TRANSFORMERS:
            converted[f"{_TRANSFORMERS[layer]}.{leaf}"] = tensor
        elif inner in _TRANSFORMERS_IN_BLOCK:
            converted[f"blocks.{block}.{_TRANSFORMERS_IN_BLOCK[inner]}.{leaf}"] = tensor
        elif part in _QKV:
            stacked.setdefault(f"blocks.{block}.attn.qkv.{leaf}", {})[part] = tensor
        else:
            raise CheckpointError(f"{where}: '{name}' has no counterpart in timm's ViT")
    for name, parts in stacked.items():
        if missing := [part for part in _QKV if part not in parts]:
            raise CheckpointError(f"{where}: '{missing[0]}' is missing; our '{name}' needs it")
        try:
            converted[name] = torch.cat([parts[part] for part in _QKV])
        except RuntimeError as error:
            raise CheckpointError(f"{where}: parts of our '{name}': {error}") from None
    return converted


def _check_activation(ma_clip: ModalityAwareClip, path: Path) -> None:
    """Compares the activation, which no weight shows, with what transformers' folder says."""
    if not path.is_file():
        return
    config = parse_json_object(read_file(path, MAX_JSON)[0], str(path))
    vision = config.get("vision_config", config)
    given = vision.get("hidden_act", "quick_gelu") if isinstance(vision, Mapping) else None
    own = "quick_gelu" if ma_clip.config.quick_gelu else "gelu"
    if given != own:
        raise CheckpointError(
            f"{path}: hidden_act is {shortened(str(given))}; the tower has {own}; set "
            f"ma_clip.quick_gelu to {str(given == 'quick_gelu').lower()}"
        )


def _from_trunk(visual: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    converted = {}
    for name, tensor in visual.items():
        if name.startswith("trunk."):
            converted[name.removeprefix("trunk.")] = tensor
        elif name == "head.proj.weight":
            converted["head.weight"] = tensor
        else:
            raise CheckpointError(f"{where}: 'visual.{name}' has no counterpart in a timm tower")
    return converted


def _fit_position_embedding(
    tower: nn.Module, own: Mapping[str, Tensor], given: dict[str, Tensor], where: str
) -> None:
    name = "pos_embed"
    if name not in own or name not in given or own[name].shape == given[name].shape:
        return
    # Late, as timm is slow to import and few towers need another grid.
    from timm.layers import resample_abs_pos_embed  # noqa: PLC0415

    prefix = int(getattr(tower, "num_prefix_tokens", 0))
    grid = getattr(tower, "patch_embed").grid_size  # noqa: B009
    try:
        given[name] = resample_abs_pos_embed(
            given[name].float(), new_size=list(grid), num_prefix_tokens=prefix
        )
    except (RuntimeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{where}: position embedding of shape {tuple(given[name].shape)} cannot be resized "
            f"to {tuple(own[name].shape)}: {error}"
        ) from None
