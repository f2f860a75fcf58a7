"""Domain-Specific Refinement Module (DSRM): stage-4 features refined by two prompted attentions.

Dimensions: B images (2B when both streams run as one batch), C channels, H W the map, N = H*W
tokens, G positions of the channel attention's fixed grid, K universal prompts, E width of an
embedding, L tokens of width W as an attention sees them (spatial: L = N, W = C; channel: L = C,
W = G).

The first attention is prompted by what the features select from the universal prompts U (Eqs. 2
to 4), the second by the scene embedding S (Eqs. 5 to 7). Both prompts are made on small grids and
interpolated, so a checkpoint accepts any input size. Our readings of
the paper are numbered in docs/paper.md.

Beyond the equations, and off by default: a learned scale of what a layer adds (`layer_scale`), and
feed-forward layers of which chi chooses one group of hidden units (`kind: mixture`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, TypeAlias, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.model.backbone import (
    MAX_WIDTH,
    merge_heads,
    split_heads,
    to_map,
    to_tokens,
    zero_weights,
)
from segrgbx_core.model.head import resize
from segrgbx_core.model.prompts import Pairing


class Axis(str, Enum):
    """What the tokens of an attention are."""

    SPATIAL = "spatial"
    CHANNEL = "channel"


class Structure(str, Enum):
    """The nine structures of Fig. 6 and Table IV by their letters."""

    A = "a"
    B = "b"
    C = "c"
    D = "d"
    E = "e"
    F = "f"
    G = "g"
    H = "h"
    I = "i"  # noqa: E741 the paper's letter

    @property
    def plan(self) -> StructurePlan:
        """What the letter stands for."""
        return _PLANS[self]


class Kind(str, Enum):
    """What the indicator chi of Eq. 2 selects."""

    LITERAL = "literal"
    """Universal prompts, as the equations have it."""
    MIXTURE = "mixture"
    """Universal prompts, and the hidden units of the feed-forward layers in as many groups: each
    group counts by its chi in training, the one with the largest chi is computed at inference."""


@dataclass(frozen=True)
class StructurePlan:
    """A structure in words.

    Attributes:
        first: axis of the first attention.
        second: axis of the second attention.
        prompt_is_query: the first prompt is the query, features are keys and values; or reverse.
        universal: the first prompt is selected from U; otherwise it is the features.
    """

    first: Axis
    second: Axis
    prompt_is_query: bool = True
    universal: bool = True


_PLANS = {
    Structure.A: StructurePlan(Axis.SPATIAL, Axis.SPATIAL, prompt_is_query=False),
    Structure.B: StructurePlan(Axis.CHANNEL, Axis.CHANNEL, prompt_is_query=False),
    Structure.C: StructurePlan(Axis.SPATIAL, Axis.CHANNEL, prompt_is_query=False),
    Structure.D: StructurePlan(Axis.CHANNEL, Axis.SPATIAL, prompt_is_query=False),
    Structure.E: StructurePlan(Axis.SPATIAL, Axis.SPATIAL),
    Structure.F: StructurePlan(Axis.CHANNEL, Axis.CHANNEL),
    Structure.G: StructurePlan(Axis.SPATIAL, Axis.CHANNEL),
    Structure.H: StructurePlan(Axis.CHANNEL, Axis.SPATIAL),
    Structure.I: StructurePlan(Axis.CHANNEL, Axis.SPATIAL, universal=False),
}


_Side: TypeAlias = Annotated[int, Field(ge=1, le=64)]


class RefinementConfig(Config):
    """Shape of the DSRM."""

    structure: Structure = option(
        Structure.H, doc="order and prompting of the two attentions (Table IV)"
    )
    pairing: Pairing = option(
        Pairing.ALIGNED, doc="which embedding prompts which stream (Table VIII)"
    )
    kind: Kind = option(
        Kind.LITERAL,
        doc="what chi selects: literal (universal prompts) or mixture (and one of num_universal "
        "groups of hidden units of the feed-forward layers)",
    )
    depth: int = option(2, doc="modules in a row, each shared by both streams", low=1, high=12)
    shares_prompts: bool = option(
        False, doc="one set of universal prompts and one scene prompt serve all modules"
    )
    layer_scale: float = option(
        0.0,
        doc="first value of a learned scale per token channel of what each attention and "
        "feed-forward layer adds, such as 0.01; 0: no scale",
        low=0,
        high=1,
    )
    num_heads: int = option(8, doc="attention heads", low=1, high=256)
    mlp_ratio: float = option(
        18.0, doc="hidden width of the feed-forward layers over token width", low=0.5, high=256
    )
    num_universal: int = option(8, doc="universal prompts K", low=1, high=256)
    universal_grid: tuple[_Side, _Side] = option(
        (8, 8), doc="rows and columns of a universal prompt"
    )
    universal_hidden: int = option(
        0,
        doc="hidden width of the MLP that makes chi; 0: as many as channels",
        low=0,
        high=MAX_WIDTH,
    )
    universal_conv: bool = option(
        False, doc="the selected prompt passes a 3x3 convolution at the size of the features"
    )
    query_grid: tuple[_Side, _Side] = option(
        (4, 4), doc="rows and columns of the prompt made from the embedding"
    )
    query_hidden: int = option(
        128, doc="hidden width of the MLP that makes that prompt", low=1, high=MAX_WIDTH
    )
    position_grid: tuple[_Side, _Side] = option(
        (16, 16), doc="rows and columns at which the channel attention sees a channel"
    )

    @model_validator(mode="after")
    def _heads_divide_positions(self) -> RefinementConfig:
        positions = self.position_grid[0] * self.position_grid[1]
        if positions % self.num_heads:
            raise ValueError(
                f"position_grid {self.position_grid} has {positions} positions, "
                f"not divisible by num_heads {self.num_heads}"
            )
        return self

    @model_validator(mode="after")
    def _mixture_has_an_indicator(self) -> RefinementConfig:
        if self.kind is Kind.MIXTURE and not self.structure.plan.universal:
            raise ValueError(
                f"kind mixture needs chi, which structure {self.structure.value} lacks"
            )
        return self

    def hidden_width(self, width: int) -> int:
        """Hidden units of the feed-forward layer of tokens of a width.

        Raises:
            ValueError: when the groups of a mixture would differ in size.
        """
        hidden = int(width * self.mlp_ratio)
        if self.kind is Kind.MIXTURE and hidden % self.num_universal:
            raise ValueError(
                f"mlp_ratio {self.mlp_ratio:g} gives {hidden} hidden units for tokens of width "
                f"{width}, not divisible into num_universal {self.num_universal} groups"
            )
        return hidden


class FeedForward(nn.Sequential):
    """Norm, hidden layer with GELU and projection; as a mixture, chi chooses hidden units."""

    def __init__(self, config: RefinementConfig, width: int) -> None:
        hidden = config.hidden_width(width)
        super().__init__(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        self.groups = config.num_universal if config.kind is Kind.MIXTURE else 0

    def forward(self, tokens: Tensor, chi: Tensor | None = None) -> Tensor:
        """What the layer adds to tokens (B, L, W).

        Args:
            tokens: (B, L, W).
            chi: (B, K), not negative, of sum 1; a literal layer has no use for it.
        """
        if not self.groups:
            for layer in self:
                tokens = layer(tokens)
            return tokens
        assert chi is not None
        norm, act = self[0], self[2]
        inner, outer = cast("nn.Linear", self[1]), cast("nn.Linear", self[3])
        tokens = norm(tokens)
        if self.training:
            units = act(inner(tokens)).unflatten(2, (self.groups, -1))  # (B, L, K, hidden / K)
            return outer((units * chi[:, None, :, None]).flatten(2))
        chosen = chi.argmax(dim=1)  # (B,)
        inner_weight = torch.unflatten(inner.weight, 0, (self.groups, -1))[chosen]  # (B, h/K, W)
        inner_bias = torch.unflatten(inner.bias, 0, (self.groups, -1))[chosen]  # (B, h/K)
        outer_weight = torch.unflatten(outer.weight.T, 0, (self.groups, -1))[chosen]  # (B, h/K, W)
        units = act(tokens @ inner_weight.transpose(1, 2) + inner_bias[:, None])  # (B, L, h/K)
        return units @ outer_weight + outer.bias


class LayerScale(nn.Module):
    """A learned factor per token channel (Touvron et al., CaiT, ICCV 2021)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((width,), start))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L, W) to tokens of the same shape."""
        return tokens * self.factor

    @torch.no_grad()
    def fold_into(self, layer: nn.Linear) -> None:
        """Puts the factors into the layer before."""
        layer.weight.mul_(self.factor[:, None])
        layer.bias.mul_(self.factor)


class PromptedAttention(nn.Module):
    """Residual cross attention of tokens and their prompt, then a residual feed-forward layer."""

    def __init__(self, config: RefinementConfig, width: int, prompt_is_query: bool) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.prompt_is_query = prompt_is_query
        self.norm_query = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = FeedForward(config, width)
        starts = [config.layer_scale] * 2 if config.layer_scale else []
        self.scales = nn.ModuleList(LayerScale(width, start) for start in starts)

    def forward(self, tokens: Tensor, prompt: Tensor, chi: Tensor | None = None) -> Tensor:
        """Tokens and prompt (B, L, W), and chi (B, K), to refined tokens (B, L, W)."""
        query_input, context = (prompt, tokens) if self.prompt_is_query else (tokens, prompt)
        query = split_heads(self.q(self.norm_query(query_input)), self.num_heads)
        key, value = self.kv(self.norm_context(context)).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            query, split_heads(key, self.num_heads), split_heads(value, self.num_heads)
        )
        change = self.proj(merge_heads(attended))
        if not self.scales:
            tokens = tokens + change
            return tokens + self.mlp(tokens, chi)
        of_attention, of_mlp = self.scales
        tokens = tokens + of_attention(change)
        return tokens + of_mlp(self.mlp(tokens, chi))

    def fold(self) -> None:
        """Puts the scales into the layers before them, for inference."""
        for scale, layer in zip(self.scales, (self.proj, self.mlp[-1]), strict=False):
            cast("LayerScale", scale).fold_into(cast("nn.Linear", layer))
        self.scales = nn.ModuleList()


class SpatialRefine(nn.Module):
    """Attention between positions: tokens are the pixels of the map."""

    def __init__(self, config: RefinementConfig, channels: int, prompt_is_query: bool) -> None:
        super().__init__()
        self.attention = PromptedAttention(config, channels, prompt_is_query)

    def forward(self, features: Tensor, prompt: Tensor, chi: Tensor | None = None) -> Tensor:
        """Maps (B, C, H, W), a prompt (B, C, h, w) and chi (B, K) to maps (B, C, H, W)."""
        height, width = features.shape[-2:]
        prompt_tokens = to_tokens(resize(prompt, (height, width)))  # (B, N, C)
        refined = self.attention(to_tokens(features), prompt_tokens, chi)
        return to_map(refined, (height, width))


class ChannelRefine(nn.Module):
    """Attention between channels: tokens are the channels, each seen on a fixed grid of positions.

    What the attention adds on the grid is added to the map at its own size, so no detail is lost.
    """

    def __init__(self, config: RefinementConfig, prompt_is_query: bool) -> None:
        super().__init__()
        self.grid = config.position_grid
        positions = self.grid[0] * self.grid[1]
        self.attention = PromptedAttention(config, positions, prompt_is_query)

    def forward(self, features: Tensor, prompt: Tensor, chi: Tensor | None = None) -> Tensor:
        """Maps (B, C, H, W), a prompt (B, C, h, w) and chi (B, K) to maps (B, C, H, W)."""
        channels = resize(features, self.grid).flatten(2)  # (B, C, G)
        refined = self.attention(channels, resize(prompt, self.grid).flatten(2), chi)
        change = (refined - channels).unflatten(2, self.grid)
        return features + resize(change, features.shape[-2:])


class UniversalPrompts(nn.Module):
    """Learned feature collection U and the indicator chi of how much of each item is present."""

    def __init__(self, config: RefinementConfig, channels: int) -> None:
        super().__init__()
        self.universal = nn.Parameter(
            torch.empty(config.num_universal, channels, *config.universal_grid)
        )
        hidden = config.universal_hidden or channels
        self.select = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, config.num_universal)
        )
        self.conv = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            if config.universal_conv
            else None
        )
        nn.init.trunc_normal_(self.universal, std=0.02)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, H, W) to the selected prompt chi * U, (B, C, h, w), and chi, (B, K)."""
        chi = self.select(features.mean(dim=(2, 3))).softmax(dim=-1)
        prompt = torch.einsum("bk,kchw->bchw", chi, self.universal)
        if self.conv is not None:
            prompt = self.conv(resize(prompt, features.shape[-2:]))  # (B, C, H, W)
        return prompt, chi


class ScenePrompt(nn.Sequential):
    """Reshape(MLP(S)): embeddings (B, E) to a prompt (B, C, h, w)."""

    def __init__(self, config: RefinementConfig, channels: int, embed_dim: int) -> None:
        shape = (channels, *config.query_grid)
        super().__init__(
            nn.LayerNorm(embed_dim),
            nn.Linear(embed_dim, config.query_hidden),
            nn.GELU(),
            nn.Linear(config.query_hidden, channels * config.query_grid[0] * config.query_grid[1]),
            nn.Unflatten(-1, shape),
        )


class RefinementBlock(nn.Module):
    """One DSRM: first attention prompted by the features' own selection, second by the scene."""

    def __init__(
        self, config: RefinementConfig, channels: int, embed_dim: int, own_prompts: bool
    ) -> None:
        super().__init__()
        plan = config.structure.plan
        self.universal: UniversalPrompts | None = None
        if plan.universal and own_prompts:
            self.universal = UniversalPrompts(config, channels)
        self.first = _refine(plan.first, config, channels, plan.prompt_is_query)
        self.query = ScenePrompt(config, channels, embed_dim) if own_prompts else None
        self.second = _refine(plan.second, config, channels, prompt_is_query=True)

    def forward(
        self, features: Tensor, query: Tensor, selected: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Refines maps.

        Args:
            features: maps (B, C, H, W).
            query: the scene's Reshape(MLP(S)), (B, C, h, w).
            selected: the prompt chi * U (B, C, h, w) and chi (B, K) that modules share; None: the
                module makes its own.

        Returns:
            maps (B, C, H, W).
        """
        if self.universal is not None:
            selected = self.universal(features)
        prompt, chi = selected or (features, None)
        features = self.first(features, prompt, chi)  # F_c
        return self.second(features, query, chi)  # F_s


class DomainSpecificRefinement(nn.Module):
    """The DSRMs of stage 4 in a row; depth 0 passes features through (Table VI without DSRM)."""

    def __init__(
        self, config: RefinementConfig, channels: int, embed_dim: int, depth: int
    ) -> None:
        super().__init__()
        shares = config.shares_prompts and depth > 0
        self.universal: UniversalPrompts | None = None
        if shares and config.structure.plan.universal:
            self.universal = UniversalPrompts(config, channels)
        self.query = ScenePrompt(config, channels, embed_dim) if shares else None
        self.blocks = nn.ModuleList(
            RefinementBlock(config, channels, embed_dim, own_prompts=not shares)
            for _ in range(depth)
        )

    def start_as_identity(self) -> None:
        """Ends every residual branch with zeros, so that the modules change nothing at first.

        Branches with a learned scale are left alone: it starts small itself.
        """
        for module in self.modules():
            if isinstance(module, PromptedAttention) and not module.scales:
                zero_weights(module.proj, module.mlp[-1])

    def fold(self) -> None:
        """Puts learned scales into the layers before them, for inference."""
        for module in self.modules():
            if isinstance(module, PromptedAttention):
                module.fold()

    def queries(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """The scene prompts: embeddings (B, E) to one (B, C, h, w) per block, or one for all."""
        makers = (
            [self.query]
            if self.query is not None
            else [cast("RefinementBlock", block).query for block in self.blocks]
        )
        return tuple(cast("ScenePrompt", maker)(embedding) for maker in makers)

    def forward(self, features: Tensor, queries: tuple[Tensor, ...]) -> Tensor:
        """Maps (B, C, H, W) and what `queries` returned to refined maps (B, C, H, W)."""
        selected = self.universal(features) if self.universal is not None else None
        if self.query is not None:
            queries = queries * len(self.blocks)
        for block, query in zip(self.blocks, queries, strict=True):
            features = block(features, query, selected)
        return features


def _refine(
    axis: Axis, config: RefinementConfig, channels: int, prompt_is_query: bool
) -> nn.Module:
    if axis is Axis.CHANNEL:
        return ChannelRefine(config, prompt_is_query)
    return SpatialRefine(config, channels, prompt_is_query)
