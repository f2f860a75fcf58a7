"""The encoders: SegFormer's Mix Transformer (MiT) and EfficientNet-lite0, both with prompts.

Each stage of EfficientNet-lite0 ends with one of the transformer blocks of MiT.

Dimensions: B images (2B when both streams run as one batch), H W the pixels of a stage's map,
N = H*W tokens, D their width, R tokens that remain after spatial reduction, K prompts, h heads.

With no prompts the Mix Transformer is SegFormer's, value for value. PVTv2 is the same network with
wider feed-forward layers in its first stages, so its weights fit too (and carry a freer licence).
EfficientNet-lite0 is beyond the paper; see docs/decisions/0011-efficientnet-lite0.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from pydantic import Discriminator, Field, Tag, model_validator
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option

STRIDES = (4, 8, 16, 32)
"""Input pixels per pixel of each stage's map."""

LITE0_STEM = 32
"""Channels of EfficientNet-lite0's first convolution, at half the input's size."""
LITE0_STAGES: tuple[tuple[tuple[int, int, int, int], ...], ...] = (
    ((16, 1, 3, 1), (24, 6, 3, 2), (24, 6, 3, 1)),
    ((40, 6, 5, 2), (40, 6, 5, 1)),
    ((80, 6, 3, 2), *((80, 6, 3, 1),) * 2, *((112, 6, 5, 1),) * 3),
    ((192, 6, 5, 2), *((192, 6, 5, 1),) * 3),
)
"""EfficientNet-lite0's blocks by the stride of their maps: channels, expansion, kernel, stride.

Its last block (320 channels), 1x1 convolution and classifier serve whole images and are left out.
"""
LITE0_WIDTHS = tuple(blocks[-1][0] for blocks in LITE0_STAGES)
"""Channels of EfficientNet-lite0's maps at strides 4, 8, 16 and 32."""


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


class LiteBackboneConfig(BackboneConfig):
    """Shape of EfficientNet-lite0 and of the transformer blocks behind its stages."""

    encoder: Literal["efficientnet_lite0"] = option("efficientnet_lite0", doc="which encoder")
    embed_dims: tuple[_Width, _Width, _Width, _Width] = option(
        (24, 40, 112, 192),
        doc="width of each map: EfficientNet-lite0's, but any for the last one, which a 1x1 "
        "convolution brings there when it is not 192",
    )
    depths: tuple[_Depth, _Depth, _Depth, _Depth] = option(
        (1, 1, 1, 1), doc="transformer blocks behind the convolutions"
    )
    num_heads: tuple[_Count, _Count, _Count, _Count] = option((1, 2, 4, 4), doc="attention heads")
    mlp_ratios: tuple[_Ratio, _Ratio, _Ratio, _Ratio] = option(
        (2.0, 2.0, 2.0, 2.0), doc="hidden width of the feed-forward layer over the token width"
    )

    frozen_statistics: bool = option(
        True,
        doc="whether batch norms keep the statistics that they start with while training: those "
        "of a batch of RGB and X images are not those of the single image at run time",
    )

    @model_validator(mode="after")
    def _widths_of_lite0(self) -> LiteBackboneConfig:
        own = LITE0_WIDTHS[:3]
        if self.embed_dims[:3] != own:
            raise ValueError(
                f"embed_dims {self.embed_dims}: EfficientNet-lite0's begin with {own}"
            )
        return self


def _encoder(value: Any) -> str:
    """Which encoder a config or its plain values describe; the Mix Transformer has no name."""
    if isinstance(value, Mapping):
        return str(value.get("encoder", "mit"))
    return str(getattr(value, "encoder", "mit"))


AnyBackboneConfig: TypeAlias = Annotated[
    Annotated[BackboneConfig, Tag("mit")]
    | Annotated[LiteBackboneConfig, Tag("efficientnet_lite0")],
    Discriminator(
        _encoder,
        custom_error_type="encoder",
        custom_error_message="encoder is not efficientnet_lite0; leave it out for MiT",
    ),
]
"""The config of an encoder, distinguished by `encoder`."""


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
    """Feed-forward layer whose 3x3 depthwise convolution encodes positions."""

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


class SameConv2d(nn.Conv2d):
    """A bias-free convolution with TensorFlow's "SAME" padding, whose odd pixel lies behind."""

    def __init__(
        self, channels: int, width: int, kernel: int, stride: int, groups: int = 1
    ) -> None:
        super().__init__(
            channels, width, kernel, stride, kernel // 2 if stride == 1 else 0,
            groups=groups, bias=False,
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, ceil(H / stride), ceil(W / stride)); stride 1 or 2."""
        if self.stride[0] == 2:
            half = self.kernel_size[0] // 2
            features = F.pad(features, (half, half + 1, half, half + 1))
            # Even sides need one row less before. Cut so, the sizes stay simple expressions for
            # exports with free sizes, which a padding that depends on the size makes impossible.
            for axis in (-2, -1):
                length = features.shape[axis] - 1
                features = features.narrow(axis, 1 - length % 2, length)
        return super().forward(features)


class NormedConv(nn.Module):
    """A convolution, its batch norm and, but for linear bottlenecks, ReLU6."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int,
        stride: int,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d = SameConv2d(channels, width, kernel, stride, groups)
        self.norm: nn.Module = nn.BatchNorm2d(width, eps=1e-3)
        self.act = act
        self.frozen_statistics = False

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H', W') to (B, D, H, W)."""
        normed = self.norm(self.conv(features))
        return F.relu6(normed) if self.act else normed

    def train(self, mode: bool = True) -> NormedConv:
        """Keeps the batch norm in eval mode where its statistics are frozen."""
        super().train(mode)
        if self.frozen_statistics:
            self.norm.eval()
        return self

    @torch.no_grad()
    def fold(self) -> None:
        """Puts the batch norm, as it is in eval mode, into the convolution."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return
        slope, offset = batch_norm_line(self.norm)
        self.conv.weight.mul_(slope[:, None, None, None])
        self.conv.bias = nn.Parameter(offset)
        self.norm = nn.Identity()


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, convolve each channel by itself, project."""

    def __init__(
        self, channels: int, width: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = NormedConv(channels, hidden, 1, 1) if expansion > 1 else nn.Identity()
        self.depthwise = NormedConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = NormedConv(hidden, width, 1, 1, act=False)
        self.is_residual = stride == 1 and channels == width

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H', W') to (B, D, H, W)."""
        changed = self.project(self.depthwise(self.expand(features)))
        return features + changed if self.is_residual else changed


class LiteStage(nn.Module):
    """A stage of EfficientNet-lite0 and prompted transformer blocks that start as identity."""

    def __init__(self, config: LiteBackboneConfig, stage: int, rates: list[float]) -> None:
        super().__init__()
        channels = LITE0_WIDTHS[stage - 1] if stage else LITE0_STEM
        self.stem = NormedConv(3, LITE0_STEM, 3, 2) if stage == 0 else nn.Identity()
        convs = []
        for width, expansion, kernel, stride in LITE0_STAGES[stage]:
            convs.append(InvertedResidual(channels, width, expansion, kernel, stride))
            channels = width
        self.convs = nn.Sequential(*convs)
        width = config.embed_dims[stage]
        self.neck = nn.Conv2d(channels, width, 1) if width != channels else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, stage, rate) for rate in rates)

    def prompt_kv(self, prompts: Tensor) -> Tensor:
        """See `Stage`."""
        return torch.stack([cast("Block", block).prompt_kv(prompts) for block in self.blocks])

    def forward(self, features: Tensor, prompt_kv: Tensor | None = None) -> Tensor:
        """Maps (B, C, H', W') of the stage before to maps (B, D, H, W)."""
        features = self.neck(self.convs(self.stem(features)))
        size, tokens = features.shape[-2:], to_tokens(features)
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, size, None if prompt_kv is None else prompt_kv[index])
        return to_map(tokens, size)


class LiteEncoder(nn.Module):
    """EfficientNet-lite0 as four stages at 1/4, 1/8, 1/16 and 1/32 of the input.

    Source: Tan and Le, EfficientNet, ICML 2019; its "lite" form has no squeeze-and-excitation and
    ReLU6. Behind each stage stands a block of the Mix Transformer, so that prompts reach the
    features. At the start it changes nothing: what the weights of ImageNet say survives.
    """

    def __init__(self, config: LiteBackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(
            LiteStage(config, stage, rates) for stage, rates in enumerate(drop_paths(config))
        )
        self.apply(init_weights)
        for module in self.modules():
            if isinstance(module, Block):
                zero_weights(module.attn.proj, module.mlp.fc2)
            elif isinstance(module, NormedConv):
                module.frozen_statistics = config.frozen_statistics
        self.train()

    def fold(self) -> None:
        """Folds batch norms into convolutions, for inference; not to be trained or saved."""
        for module in self.modules():
            if isinstance(module, NormedConv):
                module.fold()


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


def zero_weights(*layers: nn.Module) -> None:
    """Makes layers answer 0, so that the residual branches that they end change nothing."""
    for layer in layers:
        for values in layer.parameters():
            nn.init.zeros_(values)


def batch_norm_line(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Slope and offset of a batch norm in eval mode, per channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()
    return slope, norm.bias - slope * norm.running_mean


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
