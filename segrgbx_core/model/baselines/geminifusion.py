"""GeminiFusion: one encoder for both streams that talk to each other inside every attention layer.

Dimensions: B pairs, 2B images (all RGB, then all X), N tokens, D their width, h = 8 heads,
d = D/h, H_1 W_1 a quarter of the image, C classes.

Source: Jia et al., GeminiFusion, ICML 2024.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.model.backbone import (
    Attention,
    BackboneConfig,
    Block,
    MixTransformer,
    Stage,
    check_heads,
    init_normal,
    init_weights,
)
from segrgbx_core.model.head import HeadConfig, MlpHead
from segrgbx_core.model.network import PairNetwork, Scene, split_streams

EXCHANGE_HEADS = 8
"""Heads with which streams look at each other, in every stage."""


class GeminifusionConfig(Config):
    """Architecture of GeminiFusion; the defaults are the main branch's with MiT-B2.

    Its DELIVER branch has `head.embed_dim` 512.
    """

    use_ma_clip: ClassVar[bool] = False

    architecture: Literal["geminifusion"] = option("geminifusion", doc="which network")
    backbone: BackboneConfig = BackboneConfig(
        drop_path=0.4, patch_norm_eps=1e-6, block_norm_eps=1e-6
    )
    head: HeadConfig = HeadConfig(embed_dim=256, fuse_bias=False, norm_eps=1e-5)
    normalise_x: bool = option(False, doc="X gets the ImageNet normalisation that RGB always gets")
    detach_ensemble: bool = option(
        True,
        doc="as published: training adds a loss on each stream, and the ensemble's own trains its "
        "two weights alone; false: one loss on the ensemble trains all",
    )

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> GeminifusionConfig:
        check_heads(self.backbone.embed_dims, (EXCHANGE_HEADS,) * 4)
        return self


class GeminiFusion(PairNetwork):
    """GeminiFusion: each stream is decoded by itself, the answer is their weighted mean."""

    def __init__(self, config: GeminifusionConfig, num_classes: int, embed_dim: int) -> None:
        super().__init__(num_classes, embed_dim, config.normalise_x)
        self.config = config
        self.backbone = MixTransformer(config.backbone, GeminiBlock)
        shape = config.backbone
        for module, width in zip(self.backbone.stages, shape.embed_dims, strict=True):
            stage = cast("Stage", module)
            stage.patch_embed.norm = PairedNorm(width, shape.patch_norm_eps)
            stage.norm = PairedNorm(width, shape.block_norm_eps)
        self.head = MlpHead(config.head, shape.embed_dims, num_classes)
        self.alpha = nn.Parameter(torch.ones(2))

    def pair_logits(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Logits (B, C, H_1, W_1) of the ensemble."""
        return self.ensemble(*self.stream_logits(rgb, x))

    def training_logits(self, rgb: Tensor, x: Tensor, scene: Scene) -> tuple[Tensor, ...]:
        """See `RgbxNetwork`; as published, those of both streams and of their ensemble."""
        if not self.config.detach_ensemble:
            return super().training_logits(rgb, x, scene)
        streams = self.stream_logits(rgb, x)
        return (*streams, self.ensemble(*streams))

    def ensemble(self, rgb_logits: Tensor, x_logits: Tensor) -> Tensor:
        """The weighted mean of both streams' logits (B, C, H_1, W_1)."""
        streams = torch.stack([rgb_logits, x_logits])
        if self.config.detach_ensemble:
            streams = streams.detach()
        share = self.alpha.softmax(dim=0)
        return share[0] * streams[0] + share[1] * streams[1]

    def stream_logits(self, rgb: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of RGB's and of X's own stream, both (B, C, H_1, W_1)."""
        maps = self.backbone(self.normalised(rgb, x))  # four of (2B, D_i, H_i, W_i)
        return split_streams(self.head(maps))


class GeminiBlock(Block):
    """A transformer block for both streams: shared weights, own norms, an exchange in between."""

    def __init__(self, config: BackboneConfig, stage: int, drop_path: float) -> None:
        super().__init__(config, stage, drop_path)
        width = config.embed_dims[stage]
        self.norm1 = PairedNorm(width, config.block_norm_eps)
        self.attn = GeminiAttention(
            width, config.num_heads[stage], config.sr_ratios[stage], config.patch_norm_eps
        )
        self.norm2 = PairedNorm(width, config.block_norm_eps)


class GeminiAttention(Attention):
    """Attention within each stream, then at every pixel between the two, then the projection."""

    def __init__(self, width: int, num_heads: int, sr_ratio: int, eps: float) -> None:
        super().__init__(width, num_heads, sr_ratio, eps)
        if self.sr_norm is not None:
            self.sr_norm = PairedNorm(width, eps)
        self.exchange = PixelExchange(width)

    def forward(
        self, tokens: Tensor, size: tuple[int, int], prompt_kv: Tensor | None = None
    ) -> Tensor:
        """Tokens (2B, N, D) to tokens (2B, N, D)."""
        return self.proj(self.exchange(self.attend(tokens, size, prompt_kv)))


class PairedNorm(nn.Module):
    """Layer norm with own weights for RGB and for X."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.rgb = nn.LayerNorm(width, eps=eps)
        self.x = nn.LayerNorm(width, eps=eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (2B, N, D) to tokens of the same shape."""
        rgb, x = split_streams(tokens)
        return torch.cat([self.rgb(rgb), self.x(x)])


class PixelExchange(nn.Module):
    """At every pixel each stream weighs its own feature against the other's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.relation = nn.Sequential(
            nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.rgb = PixelAttention(width)
        self.x = PixelAttention(width)
        # Row 0 serves RGB, row 1 X.
        self.k_noise = nn.Parameter(torch.empty(2, width))
        self.v_noise = nn.Parameter(torch.empty(2, width))
        init_normal(self.k_noise)
        init_normal(self.v_noise)
        self.apply(init_weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attended tokens (2B, N, D) to tokens of the same shape."""
        rgb, x = split_streams(tokens)
        swapped = torch.cat([x, rgb])  # (2B, N, D)
        relation = self.relation(torch.cat([tokens, swapped], dim=-1)).softmax(dim=-1)
        rgb_relation, x_relation = split_streams(relation)
        return torch.cat(
            [
                self.rgb(rgb, x, rgb_relation, self.k_noise[0], self.v_noise[0]),
                self.x(x, rgb, x_relation, self.k_noise[1], self.v_noise[1]),
            ]
        )


class PixelAttention(nn.Module):
    """Multi-head attention of one pixel's feature to two tokens: its own and the other stream's.

    The softmax over two scores is the sigmoid of their difference, so that one projection of the
    keys' difference does for both keys, and the keys' bias, which would shift both scores alike,
    is not needed. It stays in `in_proj` because released weights hold it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, own: Tensor, other: Tensor, relation: Tensor, k_noise: Tensor, v_noise: Tensor
    ) -> Tensor:
        """Adds to a stream what it takes from itself and from the other.

        Args:
            own: tokens (B, N, D) that ask.
            other: tokens (B, N, D) of the other stream, offered as second value.
            relation: how the two belong together, (B, N, D); it scales `own` to the second key.
            k_noise: learned offset (D,) of the first key, which is `own` otherwise.
            v_noise: learned offset (D,) of the first value, which is `own` otherwise.
        """
        q_weight, k_weight, v_weight = self.in_proj.weight.chunk(3)  # (D, D)
        q_bias, _, v_bias = self.in_proj.bias.chunk(3)  # (D,)
        heads = (EXCHANGE_HEADS, -1)
        query = torch.unflatten(F.linear(own, q_weight, q_bias), -1, heads)  # (B, N, h, d)
        key = torch.unflatten(F.linear(own + k_noise - own * relation, k_weight), -1, heads)
        score = (query * key).sum(dim=-1, keepdim=True) * query.shape[-1] ** -0.5  # (B, N, h, 1)
        second = torch.unflatten(F.linear(other, v_weight, v_bias), -1, heads)  # (B, N, h, d)
        more = torch.unflatten(F.linear(own + v_noise - other, v_weight), -1, heads)
        mixed = second + score.sigmoid() * more
        return own + self.out_proj(mixed.flatten(-2))
