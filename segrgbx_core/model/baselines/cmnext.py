"""CMNeXt with one X: a Mix Transformer for RGB beside an X encoder of pooling and convolutions.

Dimensions: B pairs, D channels of a stage, H W its map, e expansion of a feed-forward layer.

Source: Zhang et al., Delivering Arbitrary-Modal Semantic Segmentation, CVPR 2023. Its hub that
chooses among several X is left out: a pair has one.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.model.backbone import BackboneConfig, DropPath, drop_paths, init_weights
from segrgbx_core.model.baselines.cmx import DualEncoder
from segrgbx_core.model.head import HeadConfig

POOLED = (3, 7, 11)
"""Sides in pixels of the neighbourhoods whose means steer the X stream."""


_Ratio: TypeAlias = Annotated[int, Field(ge=1, le=64)]


class CmnextConfig(Config):
    """Architecture of CMNeXt; the defaults are CMNeXt-B2 as published."""

    use_ma_clip: ClassVar[bool] = False

    architecture: Literal["cmnext"] = option("cmnext", doc="which network")
    backbone: BackboneConfig = BackboneConfig(block_norm_eps=1e-5)
    x_mlp_ratios: tuple[_Ratio, _Ratio, _Ratio, _Ratio] = option(
        (8, 8, 4, 4), doc="hidden width of X's feed-forward layers over the channels, per stage"
    )
    x_norm_eps: float = option(1e-6, doc="epsilon of X's norms over channels", low=0, high=1)
    head: HeadConfig = HeadConfig(fuse_bias=False, norm_eps=1e-5)
    normalise_x: bool = option(False, doc="X gets the ImageNet normalisation that RGB always gets")


class CMNeXt(DualEncoder):
    """CMNeXt: the X encoder has no attention between tokens."""

    def __init__(self, config: CmnextConfig, num_classes: int, embed_dim: int) -> None:
        super().__init__(
            config.backbone,
            PoolingEncoder(config),
            config.head,
            num_classes,
            embed_dim,
            config.normalise_x,
        )
        self.config = config


class PoolingEncoder(nn.Module):
    """CMNeXt's X encoder: four stages with the widths and depths of the Mix Transformer."""

    def __init__(self, config: CmnextConfig) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            PoolingStage(config, stage, rates)
            for stage, rates in enumerate(drop_paths(config.backbone))
        )
        self.apply(init_weights)


class PoolingStage(nn.Module):
    """Patch embedding, blocks and a last norm, all on maps."""

    def __init__(self, config: CmnextConfig, stage: int, rates: list[float]) -> None:
        super().__init__()
        widths = config.backbone.embed_dims
        in_channels, kernel, stride = (3, 7, 4) if stage == 0 else (widths[stage - 1], 3, 2)
        width, ratio = widths[stage], config.x_mlp_ratios[stage]
        self.proj = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2)
        self.patch_norm = ChannelNorm(width, eps=config.x_norm_eps)
        self.blocks = nn.Sequential(*(PoolingBlock(width, ratio, rate) for rate in rates))
        self.norm = ChannelNorm(width, eps=config.x_norm_eps)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, D', H', W') of the stage before to maps (B, D, H, W)."""
        return self.norm(self.blocks(self.patch_norm(self.proj(features))))


class PoolingBlock(nn.Module):
    """CMNeXt's parallel pooling block: pooled attention, then a feed-forward layer.

    A gate per channel scales the map that the feed-forward layer adds to, not what it adds.
    """

    def __init__(self, width: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        hidden = width * mlp_ratio
        self.norm1 = nn.BatchNorm2d(width)
        self.attn = PoolingAttention(width)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, hidden, 1),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, width, 1),
        )
        self.gate = nn.Conv1d(1, 1, 3, padding=1, bias=False)  # over neighbouring channels
        self.attn_scale = nn.Parameter(torch.full((width,), 0.01))
        self.mlp_scale = nn.Parameter(torch.full((width,), 0.01))
        self.drop_path = DropPath(drop_path)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, D, H, W) to maps of the same shape."""
        attn_scale, mlp_scale = self.attn_scale[:, None, None], self.mlp_scale[:, None, None]
        features = features + self.drop_path(attn_scale * self.attn(self.norm1(features)))
        mean = features.mean(dim=(2, 3))  # (B, D)
        gate = self.gate(mean[:, None]).sigmoid().squeeze(1)[:, :, None, None]  # (B, D, 1, 1)
        mixed = self.mlp(self.norm2(features))
        return gate * features + self.drop_path(mlp_scale * mixed)


class PoolingAttention(nn.Module):
    """Weights every pixel and channel by what lies around it, at four sizes of neighbourhood."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, D, H, W) to maps of the same shape."""
        local = self.local(features)
        around = local + sum(neighbourhood_mean(local, side) for side in POOLED)
        return self.mix(around).sigmoid() * features + features


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps."""

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, D, H, W) to maps of the same shape."""
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def neighbourhood_mean(features: Tensor, side: int) -> Tensor:
    """Mean over the part of a square around each pixel that lies in the map, (B, D, H, W).

    Rows, then columns: equal to pooling the square, as the part inside is a rectangle.
    """
    reach = side // 2
    rows = F.avg_pool2d(features, (side, 1), 1, (reach, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, reach), count_include_pad=False)
