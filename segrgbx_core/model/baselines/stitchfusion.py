"""StitchFusion: one encoder for both streams, stitched together by small adapters in every block.

Dimensions: B pairs, 2B images (all RGB, then all X), N tokens, D their width, H W a map.

Source: Li et al., StitchFusion, 2024.
"""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.model.backbone import (
    BackboneConfig,
    Block,
    MixTransformer,
    init_weights,
    to_map,
    to_tokens,
)
from segrgbx_core.model.head import HeadConfig, MlpHead
from segrgbx_core.model.network import PairNetwork, split_streams


class Stitch(str, Enum):
    """How many adapters a block has for each of its two places."""

    PER_PAIR = "per_pair"
    """One for both directions."""
    PER_DIRECTION = "per_direction"
    """One from RGB to X, one from X to RGB."""


class MapFusion(str, Enum):
    """How the two maps of a stage become the one that the head sees."""

    FEATURE_CROSS = "feature_cross"
    SUM = "sum"


class AdapterConfig(Config):
    """The adapters that carry features from stream to stream."""

    stitch: Stitch = option(Stitch.PER_PAIR, doc="which directions share an adapter")
    sequential: bool = option(
        True,
        doc="adapters read features after attention or feed-forward layer, X first, and RGB gets "
        "what X has become, as released weights expect; off: they read what the layer read",
    )
    width: int = option(8, doc="inner width", low=1, high=1024)
    dropout: float = option(0.1, doc="share of inner values dropped in training", low=0, high=1)


class StitchfusionConfig(Config):
    """Architecture of StitchFusion; the defaults are StitchFusion-B2 as published."""

    use_ma_clip: ClassVar[bool] = False

    architecture: Literal["stitchfusion"] = option("stitchfusion", doc="which network")
    backbone: BackboneConfig = BackboneConfig(block_norm_eps=1e-5)
    adapter: AdapterConfig = AdapterConfig()
    fusion: MapFusion = option(MapFusion.FEATURE_CROSS, doc="how a stage's two maps become one")
    head: HeadConfig = HeadConfig(fuse_bias=False, norm_eps=1e-5)
    normalise_x: bool = option(False, doc="X gets the ImageNet normalisation that RGB always gets")


class StitchFusion(PairNetwork):
    """StitchFusion: each stream's own map goes to the next stage, the fused one to the head."""

    def __init__(self, config: StitchfusionConfig, num_classes: int, embed_dim: int) -> None:
        super().__init__(num_classes, embed_dim, config.normalise_x)
        self.config = config
        widths = config.backbone.embed_dims
        self.backbone = MixTransformer(
            config.backbone, partial(StitchBlock, adapter=config.adapter)
        )
        for module in self.backbone.modules():
            if isinstance(module, Adapter):
                module.start_silent()
        is_cross = config.fusion is MapFusion.FEATURE_CROSS
        self.fuse = nn.ModuleList(
            FeatureCross(width) if is_cross else FeatureSum() for width in widths
        ).apply(init_weights)
        self.head = MlpHead(config.head, widths, num_classes)

    def pair_logits(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Logits (B, C, H_1, W_1) before they are brought to full size, a quarter of each side."""
        maps = self.backbone(self.normalised(rgb, x))  # four of (2B, D_i, H_i, W_i)
        fused = [
            fuse(*split_streams(features)) for fuse, features in zip(self.fuse, maps, strict=True)
        ]
        return self.head(fused)


class Adapter(nn.Module):
    """A bottleneck that turns one stream's tokens into what another adds to its own."""

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__()
        self.down = nn.Linear(width, config.width)
        self.mid = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.Linear(config.width, width)

    def start_silent(self) -> None:
        """Zeroes the exchange, so that training begins with independent streams."""
        # Only the last layer: with all three at zero no gradient would ever reach them.
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N, D)."""
        return self.up(self.dropout(F.gelu(self.mid(self.down(tokens)))))


class StitchBlock(Block):
    """A transformer block for both streams, all weights shared, with adapters between them."""

    def __init__(
        self, config: BackboneConfig, stage: int, drop_path: float, adapter: AdapterConfig
    ) -> None:
        super().__init__(config, stage, drop_path)
        width = config.embed_dims[stage]
        count = 1 if adapter.stitch is Stitch.PER_PAIR else 2
        self.sequential = adapter.sequential
        self.attn_adapters = nn.ModuleList(Adapter(width, adapter) for _ in range(count))
        self.mlp_adapters = nn.ModuleList(Adapter(width, adapter) for _ in range(count))

    def forward(
        self, tokens: Tensor, size: tuple[int, int], prompt_kv: Tensor | None = None
    ) -> Tensor:
        """Tokens (2B, N, D) to tokens (2B, N, D)."""
        normed = self.norm1(tokens)
        tokens = tokens + self.drop_path(self.attn(normed, size, prompt_kv))
        tokens = self._stitch(tokens, normed, self.norm1, self.attn_adapters)
        normed = self.norm2(tokens)
        tokens = tokens + self.drop_path(self.mlp(normed, size))
        return self._stitch(tokens, normed, self.norm2, self.mlp_adapters)

    def _stitch(
        self, tokens: Tensor, before: Tensor, norm: nn.Module, adapters: nn.ModuleList
    ) -> Tensor:
        """Adds to each stream what adapters make of the other; `before` is what the layer read."""
        into_x, into_rgb = adapters[0], adapters[-1]
        rgb, x = split_streams(tokens)
        rgb_offer, x_offer = split_streams(before)
        if self.sequential:
            rgb_offer = norm(rgb)
        x = x + self.drop_path(into_x(rgb_offer))
        if self.sequential:
            x_offer = norm(x)
        rgb = rgb + self.drop_path(into_rgb(x_offer))
        return torch.cat([rgb, x])


class FeatureSum(nn.Module):
    """The plain fusion: the sum of both maps."""

    def forward(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Maps (B, D, H, W) of both streams to their sum."""
        return rgb + x


class FeatureCross(nn.Module):
    """Mixes both maps at several sizes of neighbourhood and by a gate per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.join = nn.Linear(2 * width, width)
        self.fc1 = nn.Linear(width, width)
        self.mix1 = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.around = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side in (3, 5, 7)
        )
        self.mix2 = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.fc2 = nn.Linear(width, width)
        inner = max(1, width // 16)
        self.gate = nn.Sequential(
            nn.Linear(width, inner, bias=False), nn.ReLU(), nn.Linear(inner, width, bias=False)
        )

    def forward(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Maps (B, D, H, W) of both streams to one."""
        size = rgb.shape[-2:]
        joined = self.join(to_tokens(torch.cat([rgb, x], dim=1)))  # (B, N, D)
        features = self.mix1(to_map(self.fc1(joined), size))  # (B, D, H, W)
        features = features + sum(cast("nn.Conv2d", conv)(features) for conv in self.around)
        mixed = self.fc2(F.gelu(to_tokens(self.mix2(features))))  # (B, N, D)
        gate = self.gate(joined.mean(dim=1)).sigmoid()[:, None]  # (B, 1, D)
        return to_map(mixed + gate * joined, size)
