"""SegFormer: the Mix Transformer and the all-MLP head on RGB alone; X is ignored.

Dimensions: B images, H W pixels, D_i channels of stage i, H_i W_i its map, E width of the head,
C classes.

Source: Xie et al., SegFormer, NeurIPS 2021.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.model.backbone import BackboneConfig, MixTransformer, init_normal
from segrgbx_core.model.head import HeadConfig, MlpHead, resize
from segrgbx_core.model.network import PairNetwork


class SegformerConfig(Config):
    """Architecture of SegFormer; the defaults are SegFormer-B2 as its authors publish it.

    transformers: `backbone.block_norm_eps` 1e-5. mmsegmentation: `backbone.patch_norm_eps` 1e-6,
    `head.embed_dim` 256 in all sizes, `projection_norm` on.
    """

    use_ma_clip: ClassVar[bool] = False

    architecture: Literal["segformer"] = option("segformer", doc="which network")
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig(embed_dim=768, fuse_bias=False, norm_eps=1e-5)
    projection_norm: bool = option(
        False,
        doc="batch norm and ReLU behind each stage's projection, as in mmsegmentation's head",
    )


class SegFormer(PairNetwork):
    """SegFormer: what the RGB image alone allows."""

    def __init__(self, config: SegformerConfig, num_classes: int, embed_dim: int) -> None:
        super().__init__(num_classes, embed_dim, normalise_x=False)
        self.config = config
        self.backbone = MixTransformer(config.backbone)
        kind = NormedMlpHead if config.projection_norm else MlpHead
        self.head = kind(config.head, config.backbone.embed_dims, num_classes)

    def pair_logits(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Logits (B, C, H_1, W_1) of RGB, a quarter of each side; of X only the shape counts."""
        return self.head(self.backbone(self.normalised_rgb(rgb, x)))


class NormedMlpHead(nn.Module):
    """mmsegmentation's all-MLP head: each projection has a batch norm and a ReLU behind it."""

    def __init__(self, config: HeadConfig, in_channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        width = config.embed_dim
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, 1, bias=False),
                nn.BatchNorm2d(width, eps=config.norm_eps),
                nn.ReLU(),
            )
            for channels in in_channels
        )
        self.fuse = nn.Conv2d(len(in_channels) * width, width, 1, bias=config.fuse_bias)
        self.norm = nn.BatchNorm2d(width, eps=config.norm_eps)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for conv in (module for module in self.modules() if isinstance(module, nn.Conv2d)):
            init_normal(conv.weight, std=(2.0 / conv.in_channels) ** 0.5)  # He et al. 2015
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps (B, D_i, H_i, W_i), finest first, to logits (B, C, H_1, W_1)."""
        size = features[0].shape[-2:]
        maps = [
            resize(project(feature), size)  # (B, E, H_1, W_1)
            for project, feature in zip(self.projections, features, strict=True)
        ]
        mixed = self.norm(self.fuse(torch.cat(maps, dim=1)))  # finest first, unlike SegFormer
        return self.classifier(self.dropout(F.relu(mixed)))
