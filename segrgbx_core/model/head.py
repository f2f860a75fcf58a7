"""SegFormer's all-MLP head over the four fused maps, and the cheaper form of it for inference.

Dimensions: B pairs, D_i channels of stage i, E width of the head, C classes, H W pixels.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.model.backbone import (
    MAX_WIDTH,
    batch_norm_line,
    init_normal,
    to_map,
    to_tokens,
)


class HeadConfig(Config):
    """Shape of the segmentation head; the defaults are CMX's."""

    embed_dim: int = option(512, doc="channels every stage is brought to", low=1, high=MAX_WIDTH)
    dropout: float = option(
        0.1, doc="share of channels dropped before the classifier in training", low=0, high=1
    )
    fuse_bias: bool = option(True, doc="the fusing convolution has a bias")
    norm_eps: float = option(
        1e-3, doc="epsilon of the norm behind the fusing convolution", low=0, high=1
    )


class MlpHead(nn.Module):
    """Brings four maps to one width and the finest size, mixes them and classifies every pixel."""

    def __init__(self, config: HeadConfig, in_channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        width = config.embed_dim
        self.projections = nn.ModuleList(nn.Linear(channels, width) for channels in in_channels)
        self.fuse = nn.Conv2d(len(in_channels) * width, width, 1, bias=config.fuse_bias)
        self.norm = nn.BatchNorm2d(width, eps=config.norm_eps)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for conv in (self.fuse, self.classifier):
            init_normal(conv.weight, std=(2.0 / conv.in_channels) ** 0.5)  # He et al. 2015
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps (B, D_i, H_i, W_i), finest first, to logits (B, C, H_1, W_1)."""
        size = features[0].shape[-2:]
        maps = [
            resize(
                to_map(project(to_tokens(feature)), feature.shape[-2:]), size
            )  # (B, E, H_1, W_1)
            for project, feature in zip(self.projections, features, strict=True)
        ]
        mixed = self.norm(
            self.fuse(torch.cat(maps[::-1], dim=1))
        )  # coarsest first, as in SegFormer
        return self.classifier(self.dropout(F.relu(mixed)))

    @torch.no_grad()
    def folded(self) -> FoldedHead:
        """The same function in eval mode, all before the ReLU folded into one layer per stage."""
        scale, bias = batch_norm_line(self.norm)  # (E,), (E,)
        if self.fuse.bias is not None:
            bias = bias + scale * self.fuse.bias
        fuse = self.fuse.weight[:, :, 0, 0] * scale[:, None]  # (E, 4E), coarsest stage first
        weights = []
        parts = fuse.chunk(len(self.projections), dim=1)[::-1]
        for module, part in zip(self.projections, parts, strict=True):
            project = cast("nn.Linear", module)
            weights.append(part @ project.weight)  # (E, D_i)
            bias = bias + part @ project.bias
        return FoldedHead(weights, bias, self.classifier)


class FoldedHead(nn.Module):
    """`MlpHead` for inference: mixes at each stage's own size, as resizing and mixing commute."""

    def __init__(self, weights: list[Tensor], bias: Tensor, classifier: nn.Conv2d) -> None:
        super().__init__()
        self.mixers = nn.ParameterList(
            nn.Parameter(weight[:, :, None, None].contiguous(), requires_grad=False)
            for weight in weights
        )
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.classifier = classifier

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps (B, D_i, H_i, W_i), finest first, to logits (B, C, H_1, W_1)."""
        size = features[0].shape[-2:]
        mixed = F.conv2d(features[0], self.mixers[0], self.bias)  # (B, E, H_1, W_1)
        for feature, mixer in zip(features[1:], self.mixers[1:], strict=True):
            mixed = mixed + resize(F.conv2d(feature, mixer), size)
        return self.classifier(F.relu(mixed))


def resize(features: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, h, w) to (B, C, *size), bilinear between pixel centres; exact at the same size."""
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)
