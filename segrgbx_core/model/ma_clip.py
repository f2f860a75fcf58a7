"""Modality-aware CLIP (paper, section III-B): a frozen image tower with a pool of LoRA adapters.

Legend: B pairs, H W pixels, S side of the tower's input, E embedding width.

For every pair the adapter of its X modality serves both images, so RGB and X of the batch go
through the tower together as 2B images. Towers have timm's layers and names, whose weights are
open_clip's under other names (`clip_weights`); why: docs/decisions.
"""

from __future__ import annotations

import hashlib
import re

import torch
import torch.nn.functional as F
from pydantic import field_validator
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.model.clip_vit import ClipVit, VitShape, named_shape
from segrgbx_core.model.lora import LoraLinear, add_pool, pool_layers

CUSTOM = "custom"
Triple = tuple[float, float, float]
_CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)


class MaClipConfig(Config):
    """The image tower of MA-CLIP and its LoRA pool."""

    tower: str = option(
        "vit_base_patch16_clip_224",
        doc="timm name of the image tower, or 'custom' for a ViT of the four sizes below",
    )
    image_size: int = option(
        224, doc="side of the square image that the tower sees", unit="px", low=16, high=1024
    )
    mean: Triple = option(
        _CLIP_MEAN, doc="mean of each colour channel, taken off after scaling to [0, 1]"
    )
    std: Triple = option(_CLIP_STD, doc="standard deviation of each colour channel, divided by")
    output_dim: int = option(512, doc="width of an embedding", low=1, high=8192)
    has_projection: bool = option(
        True,
        doc="the tower ends in a projection to output_dim (CLIP); false where it pools (SigLIP)",
    )
    quick_gelu: bool = option(
        False, doc="the sigmoid form of GELU (OpenAI, MetaCLIP and DFN weights)"
    )
    lora_rank: int = option(8, doc="rank of each adapter; 0 leaves the pool out", low=0, high=256)
    lora_alpha: float = option(
        16.0, doc="strength of an adapter is lora_alpha / lora_rank", low=0, high=1024
    )
    embed_dim: int = option(96, doc="token width of a custom tower", low=8, high=4096)
    depth: int = option(3, doc="blocks of a custom tower", low=1, high=64)
    num_heads: int = option(3, doc="attention heads of a custom tower", low=1, high=64)
    patch_size: int = option(8, doc="patch side of a custom tower", unit="px", low=2, high=64)

    @field_validator("tower")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        # timm would read names such as hf-hub:owner/name from the network.
        if not re.fullmatch(r"\w+(\.\w+)?", value):
            raise ValueError("is not a timm name")
        return value

    @field_validator("std")
    @classmethod
    def _divides(cls, value: Triple) -> Triple:
        if min(value) <= 0:
            raise ValueError("must be positive")
        return value


CLIP_PRESETS: dict[str, MaClipConfig] = {
    "tiny": MaClipConfig(tower=CUSTOM, image_size=64, output_dim=64, lora_rank=4, lora_alpha=8.0),
    "vit_b16": MaClipConfig(),
    "vit_b16_quickgelu": MaClipConfig(
        tower="vit_base_patch16_clip_quickgelu_224", quick_gelu=True
    ),
    "vit_b32": MaClipConfig(tower="vit_base_patch32_clip_224"),
    "vit_b32_quickgelu": MaClipConfig(
        tower="vit_base_patch32_clip_quickgelu_224", quick_gelu=True
    ),
    "siglip2_b16": MaClipConfig(
        tower="vit_base_patch16_siglip_224",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        output_dim=768,
        has_projection=False,
    ),
    "siglip2_b32": MaClipConfig(
        tower="vit_base_patch32_siglip_256",
        image_size=256,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        output_dim=768,
        has_projection=False,
    ),
    "mobileclip2_b": MaClipConfig(tower="vit_base_mci_224", mean=(0.0,) * 3, std=(1.0,) * 3),
    "mobileclip2_s0": MaClipConfig(
        tower="fastvit_mci0", image_size=256, mean=(0.0,) * 3, std=(1.0,) * 3
    ),
}
"""Towers by short name; `vit_b16` is the paper's size (docs/paper.md, budget)."""


def build_tower(config: MaClipConfig) -> nn.Module:
    """The plain image tower, random weights, without a LoRA pool: (B, 3, S, S) to (B, E).

    Raises:
        ConfigError: when timm has no such tower or its sizes do not fit together.
    """
    num_outputs = config.output_dim if config.has_projection else 0
    shape = named_shape(config.tower)
    if config.tower == CUSTOM:
        shape = VitShape(config.embed_dim, config.depth, config.num_heads, config.patch_size)
    if shape is None:
        return _timm_tower(config, num_outputs)
    if config.image_size % shape.patch_size or shape.width % shape.num_heads:
        raise ConfigError(
            f"ma_clip: image_size {config.image_size} must be a multiple of patch_size "
            f"{shape.patch_size}, and embed_dim {shape.width} of num_heads {shape.num_heads}"
        )
    return ClipVit(shape, config.image_size, num_outputs, config.quick_gelu)


def _timm_tower(config: MaClipConfig, num_outputs: int) -> nn.Module:
    # Late: it costs seconds and hundreds of megabytes that the usual towers do without.
    from timm import create_model  # noqa: PLC0415
    from timm.layers import QuickGELU  # noqa: PLC0415

    extra = {"img_size": config.image_size} if config.tower.startswith("vit_") else {}
    if config.quick_gelu:
        extra["act_layer"] = QuickGELU
    try:
        return create_model(config.tower, pretrained=False, num_classes=num_outputs, **extra)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(f"ma_clip.tower: timm cannot build '{config.tower}': {error}") from None


class ModalityAwareClip(nn.Module):
    """Scene embeddings of RGB-X pairs; frozen, in evaluation mode, whatever its parents do.

    One thread at a time: all layers share the selection of adapters of the batch in flight.

    Attributes:
        tower: image tower, under timm's names, with the pool in its linear layers.
        modalities: that have an adapter, in the order of their slots.
        merged: modality whose adapter is part of the weights now, or None.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: MaClipConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = build_tower(config)
        self.selection = add_pool(self.tower, config.lora_rank) if config.lora_rank else None
        self.modalities = MODALITIES
        self.merged: Modality | None = None
        self._unmerged: dict[str, Tensor] = {}
        self.reset_normalisation()
        self.train(False)
        self.requires_grad_(False)

    @property
    def embed_dim(self) -> int:
        """Width of an embedding."""
        return self.config.output_dim

    def forward(self, rgb: Tensor, x: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds both images of every pair with the adapter of the pair's modality.

        Args:
            rgb: (B, 3, H, W) in [0, 1], any size.
            x: X images, (B, 3, h, w) in [0, 1], any size.
            modality: int64 (B,), slot of each pair's modality; unused while an adapter is merged.

        Returns:
            RGB embedding and X embedding, float32 (B, E), not normalised.
        """
        with torch.no_grad():
            images = torch.cat([self.prepare(rgb), self.prepare(x)])  # (2B, 3, S, S)
            embeddings = self.embed(images, torch.cat([modality, modality]))
        rgb_embedding, x_embedding = embeddings.chunk(2)
        return rgb_embedding, x_embedding

    def prepare(self, images: Tensor) -> Tensor:
        """Images of any size in [0, 1] as inputs of the tower: (B, 3, S, S), normalised."""
        return prepare_images(images, self.config.image_size, self.mean, self.std)

    def embed(self, images: Tensor, modality: Tensor) -> Tensor:
        """Embeds prepared images (B, 3, S, S), each with its own modality's adapter, to (B, E)."""
        dtype = self.dtype
        if self.selection is None or self.merged is not None:
            return self.tower(images.to(dtype)).float()
        self.selection.select(modality, self.config.lora_rank, self.config.lora_alpha, dtype)
        try:
            return self.tower(images.to(dtype)).float()
        finally:
            self.selection.clear()

    def add_modality(self, modality: Modality) -> None:
        """Gives the pool one more adapter, zero-initialised, in the next slot."""
        self.modalities = (*self.modalities, modality)
        if self.selection is not None:
            self.selection.modalities = self.modalities
            for _, layer in pool_layers(self.tower):
                layer.add_adapter()

    @torch.no_grad()
    def merge(self, modality: Modality, keep_base: bool = True) -> None:
        """Adds one adapter to the weights: no cost per frame, but only this modality is served.

        Args:
            modality: whose adapter.
            keep_base: the weights from before wait in host memory for `unmerge`; False saves that
                memory, and the choice is final.

        Raises:
            CheckpointError: when an earlier adapter was merged for good.
        """
        self.unmerge()
        if self.selection is None:
            return
        for name, layer in pool_layers(self.tower):
            if keep_base:
                self._unmerged[name] = layer.weight.detach().to("cpu", copy=True)
            layer.weight.copy_(
                layer.weight.float() + layer.delta(modality, self.config.lora_alpha)
            )
        self.merged = modality

    @torch.no_grad()
    def unmerge(self) -> None:
        """Puts back the weights from before `merge`, bit for bit.

        Raises:
            CheckpointError: when they were not kept.
        """
        if self.merged is not None and not self._unmerged:
            raise CheckpointError(f"MA-CLIP: {self.merged} was merged for good; load anew")
        for name, base in self._unmerged.items():
            layer = self.tower.get_submodule(name)
            assert isinstance(layer, LoraLinear)
            layer.weight.copy_(base)
        self._unmerged.clear()
        self.merged = None

    def base_hash(self) -> str:
        """Identifies the frozen base without the pool; float32 and float16 storage agree."""
        assert self.merged is None, "unmerge before asking for the base"
        return base_hash(self.tower)

    @property
    def dtype(self) -> torch.dtype:
        """Number format that the tower computes in."""
        return next(self.tower.parameters()).dtype

    def reset_normalisation(self, device: torch.device | str | None = None) -> None:
        """Makes the constants of `prepare` anew from the config."""
        for name, values in (("mean", self.config.mean), ("std", self.config.std)):
            constant = torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def train(self, mode: bool = True) -> ModalityAwareClip:  # noqa: ARG002
        """Stays in evaluation mode."""
        return super().train(False)


def prepare_images(images: Tensor, size: int, mean: Tensor, std: Tensor) -> Tensor:
    """Resizes to (B, 3, size, size) and normalises; the whole frame is kept, its aspect is not."""
    images = images.float()
    if images.shape[-2:] != (size, size):
        images = F.interpolate(
            images, (size, size), mode="bicubic", align_corners=False, antialias=True
        )
        images = images.clamp(0, 1)
    return (images - mean) / std


def base_hash(tower: nn.Module) -> str:
    """SHA-256 over the tower's own tensors, rounded to float16, without LoRA, hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        if ".lora_" in name:
            continue
        stored = tensor.detach().to("cpu", torch.float16).contiguous()
        digest.update(f"{name}{tuple(stored.shape)}".encode())
        digest.update(stored.numpy().tobytes())
    return digest.hexdigest()
