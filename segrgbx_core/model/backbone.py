"""The Mix Transformer (MiT) encoder of SegFormer, with prompts in its keys and values.

Dimensions: B images (2B when both streams run as one batch), H W the pixels of a stage's map,
N = H*W tokens, D their width, R tokens that remain after spatial reduction, K prompts, h heads.

With no prompts the encoder is SegFormer's, value for value. PVTv2 is the same network with wider
feed-forward layers in its first stages, so its weights fit too (and carry a freer licence).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, TypeAlias, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option

STRIDES = (4, 8, 16, 32)
"""Input pixels per pixel of each stage's map."""


MAX_WIDTH = 8192
"""Most channels of a layer that a contract may ask for."""
_Width: TypeAlias = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
_Depth: TypeAlias = Annotated[int, Field(ge=1, le=128)]
_Count: TypeAlias = Annotated[int, Field(ge=1, le=64)]
_Ratio: TypeAlias = Annotated[float, Field(ge=0.1, le=64)]


class BackboneConfig(Config):
    """Shape of the encoder; every tuple has one entry per stage."""

    embed_dims: tuple[_Width, _Width, _Width, _Width] = option(
        (64, 128, 320, 512), doc="token width"
    )
    depths: tuple[_Depth, _Depth, _Depth, _Depth] = option((3, 4, 6, 3), doc="transformer blocks")
    num_heads: tuple[_Count, _Count, _Count, _Count] = option((1, 2, 5, 8), doc="attention heads")
    sr_ratios: tuple[_Count, _Count, _Count, _Count] = option(
        (8, 4, 2, 1), doc="side of the square of tokens that becomes one key and value"
    )
    mlp_ratios: tuple[_Ratio, _Ratio, _Ratio, _Ratio] = option(
        (4.0, 4.0, 4.0, 4.0), doc="hidden width of the feed-forward layer over the token width"
    )
    drop_path: float = option(
        0.1,
        doc="share of samples that skip the last block in training; grows linearly from 0",
        low=0,
        high=1,
    )
    patch_norm_eps: float = option(
        1e-5,
        doc="epsilon of the norms behind patch embedding and spatial reduction",
        low=0,
        high=1,
    )
    block_norm_eps: float = option(
        1e-6, doc="epsilon of the norms of blocks and stages", low=0, high=1
    )

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> BackboneConfig:
        check_heads(self.embed_dims, self.num_heads)
        return self


class DropPath(nn.Module):
    """Leaves a branch out for a random share of the samples in training, and scales up the rest.

    Args:
        rate: that share, in [0, 1].
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) to the same shape; everything outside of training."""
        if self.rate == 0 or not self.training:
            return branch
        keep = 1 - self.rate
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        kept = branch.new_empty(shape).bernoulli_(keep)
        return branch * (kept / keep if keep > 0 else kept)


class PatchEmbed(nn.Module):
    """Overlapping patches to normalised tokens; stride 4 before stage 1, 2 before the others."""

    def __init__(self, in_channels: int, width: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2)
        self.norm: nn.Module = nn.LayerNorm(width, eps=eps)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, C, H', W') to tokens (B, N, D) and the size of their grid (H, W)."""
        patches = self.proj(image)  # (B, D, H, W)
        height, width = patches.shape[-2:]
        return self.norm(to_tokens(patches)), (height, width)


class Attention(nn.Module):
    """Multi-head attention over spatially reduced keys and values, and over prompts."""

    def __init__(self, width: int, num_heads: int, sr_ratio: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        if sr_ratio > 1:
            self.sr: nn.Module | None = nn.Conv2d(width, width, sr_ratio, sr_ratio)
            self.sr_norm: nn.Module | None = nn.LayerNorm(width, eps=eps)
        else:
            self.sr = self.sr_norm = None

    def forward(
        self, tokens: Tensor, size: tuple[int, int], prompt_kv: Tensor | None = None
    ) -> Tensor:
        """Attends from every token to the reduced tokens and to the prompts; see `attend`."""
        return self.proj(self.attend(tokens, size, prompt_kv))

    def attend(
        self, tokens: Tensor, size: tuple[int, int], prompt_kv: Tensor | None = None
    ) -> Tensor:
        """What the heads found, side by side, before the last projection: (B, N, D).

        The prompts have no queries: what they would collect, the paper's O_M, is thrown away by
        every layer. They join behind the reduction because they have no place in the image.

        Args:
            tokens: normalised tokens (B, N, D).
            size: (H, W) with H * W == N.
            prompt_kv: the prompts through `kv`, (B, K, 2D).
        """
        context = tokens
        if self.sr is not None and self.sr_norm is not None:
            context = self.sr_norm(to_tokens(self.sr(to_map(tokens, size))))  # (B, R, D)
        kv = self.kv(context)  # (B, R, 2D)
        if prompt_kv is not None:
            kv = torch.cat([kv, prompt_kv], dim=1)  # (B, R + K, 2D)
        key, value = (split_heads(part, self.num_heads) for part in kv.chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(
            split_heads(self.q(tokens), self.num_heads), key, value
        )
        return merge_heads(attended)


class MixFeedForward(nn.Module):
    """Feed-forward layer whose 3x3 depthwise convolution tells tokens where they are."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N, D)."""
        mixed = to_tokens(self.dwconv(to_map(self.fc1(tokens), size)))
        return self.fc2(F.gelu(mixed))


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: BackboneConfig, stage: int, drop_path: float) -> None:
        super().__init__()
        width = config.embed_dims[stage]
        self.norm1: nn.Module = nn.LayerNorm(width, eps=config.block_norm_eps)
        self.attn = Attention(
            width, config.num_heads[stage], config.sr_ratios[stage], config.patch_norm_eps
        )
        self.norm2: nn.Module = nn.LayerNorm(width, eps=config.block_norm_eps)
        self.mlp = MixFeedForward(width, int(width * config.mlp_ratios[stage]))
        self.drop_path = DropPath(drop_path)

    def prompt_kv(self, prompts: Tensor) -> Tensor:
        """Prompts (B, K, D) as this block's keys and values (B, K, 2D)."""
        return self.attn.kv(self.norm1(prompts))

    def forward(
        self, tokens: Tensor, size: tuple[int, int], prompt_kv: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N, D)."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), size, prompt_kv))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens), size))


BlockMaker = Callable[[BackboneConfig, int, float], Block]
"""What builds a block from the encoder's shape, the stage and the share of skipped samples."""


class Stage(nn.Module):
    """Patch embedding, blocks and a last norm; its map is an output and the next stage's input."""

    def __init__(
        self, config: BackboneConfig, stage: int, rates: list[float], block: BlockMaker
    ) -> None:
        super().__init__()
        width = config.embed_dims[stage]
        in_channels, kernel, stride = (
            (3, 7, 4) if stage == 0 else (config.embed_dims[stage - 1], 3, 2)
        )
        self.patch_embed = PatchEmbed(in_channels, width, kernel, stride, config.patch_norm_eps)
        self.blocks = nn.ModuleList(block(config, stage, rate) for rate in rates)
        self.norm: nn.Module = nn.LayerNorm(width, eps=config.block_norm_eps)

    def prompt_kv(self, prompts: Tensor) -> Tensor:
        """Prompts (B, K, D) as the keys and values of every block, (blocks, B, K, 2D)."""
        return torch.stack([cast("Block", block).prompt_kv(prompts) for block in self.blocks])

    def forward(self, features: Tensor, prompt_kv: Tensor | None = None) -> Tensor:
        """Maps (B, C, H', W') of the stage before to maps (B, D, H, W)."""
        tokens, size = self.patch_embed(features)  # (B, N, D)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, size, None if prompt_kv is None else prompt_kv[index])
        return to_map(self.norm(tokens), size)


class MixTransformer(nn.Module):
    """Four stages at 1/4, 1/8, 1/16 and 1/32 of the input, each a map for fusion and head."""

    def __init__(self, config: BackboneConfig, block: BlockMaker = Block) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(
            Stage(config, stage, rates, block) for stage, rates in enumerate(drop_paths(config))
        )
        self.apply(init_weights)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image (B, 3, H, W) to the four maps; `SegRGBX` walks `stages` itself to fuse between."""
        features, outputs = image, []
        for stage in self.stages:
            features = stage(features)
            outputs.append(features)
        return outputs


def drop_paths(config: BackboneConfig) -> list[list[float]]:
    """Share of samples that skip a block in training, for every block of every stage."""
    count = sum(config.depths)
    rates = [config.drop_path * block / max(count - 1, 1) for block in range(count)]
    starts = [sum(config.depths[:stage]) for stage in range(4)]
    return [
        rates[start : start + depth] for start, depth in zip(starts, config.depths, strict=True)
    ]


def check_heads(widths: Iterable[int], heads: Iterable[int]) -> None:
    """Checks that every width can be split among its heads.

    Raises:
        ValueError: when one cannot.
    """
    for width, count in zip(widths, heads, strict=True):
        if width % count:
            raise ValueError(f"width {width} is not divisible by its {count} attention heads")


def to_tokens(features: Tensor) -> Tensor:
    """(B, D, H, W) to (B, H*W, D), row by row."""
    return features.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, H*W, D) to (B, D, H, W); a view in channels-last order."""
    return torch.unflatten(tokens.transpose(1, 2), 2, size)


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """(B, N, D) to (B, h, N, D/h)."""
    return torch.unflatten(tokens, -1, (num_heads, -1)).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """(B, h, N, D/h) to (B, N, D)."""
    return heads.transpose(1, 2).flatten(2)


def init_normal(weight: Tensor, std: float = 1.0) -> None:
    """Draws normal values; none on the meta device, where this would import torch's compiler."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


def init_weights(module: nn.Module) -> None:
    """SegFormer's initialisation: small normal linear layers, fan-out normal convolutions."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        init_normal(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
