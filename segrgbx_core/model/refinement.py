"""Domain-Specific Refinement Module (DSRM): stage-4 features refined by two prompted attentions.

Dimensions: B images (2B when both streams run as one batch), C channels, H W the map, N = H*W
tokens, G positions of the channel attention's fixed grid, K universal prompts, E width of an
embedding, L tokens of width W as an attention sees them (spatial: L = N, W = C; channel: L = C,
W = G).

The first attention is prompted by what the features select from the universal prompts U (Eqs. 2
to 4), the second by the scene embedding S (Eqs. 5 to 7). Both prompts are made on small grids and
interpolated, so a checkpoint accepts any input size. Our readings of
the paper are numbered in docs/paper.md.
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
    depth: int = option(2, doc="modules in a row, each shared by both streams", low=1, high=12)
    num_heads: int = option(8, doc="attention heads", low=1, high=256)
    mlp_ratio: float = option(
        18.0, doc="hidden width of the feed-forward layers over token width", low=0.5, high=256
    )
    num_universal: int = option(8, doc="universal prompts K", low=1, high=256)
    universal_grid: tuple[_Side, _Side] = option(
        (8, 8), doc="rows and columns of a universal prompt"
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


class PromptedAttention(nn.Module):
    """Residual cross attention of tokens and their prompt, then a residual feed-forward layer."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float, prompt_is_query: bool
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.num_heads = num_heads
        self.prompt_is_query = prompt_is_query
        self.norm_query = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        """Tokens and prompt (B, L, W) to refined tokens (B, L, W)."""
        query_input, context = (prompt, tokens) if self.prompt_is_query else (tokens, prompt)
        query = split_heads(self.q(self.norm_query(query_input)), self.num_heads)
        key, value = self.kv(self.norm_context(context)).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            query, split_heads(key, self.num_heads), split_heads(value, self.num_heads)
        )
        tokens = tokens + self.proj(merge_heads(attended))
        return tokens + self.mlp(tokens)


class SpatialRefine(nn.Module):
    """Attention between positions: tokens are the pixels of the map."""

    def __init__(self, config: RefinementConfig, channels: int, prompt_is_query: bool) -> None:
        super().__init__()
        self.attention = PromptedAttention(
            channels, config.num_heads, config.mlp_ratio, prompt_is_query
        )

    def forward(self, features: Tensor, prompt: Tensor) -> Tensor:
        """Maps (B, C, H, W) and a prompt (B, C, h, w) to refined maps (B, C, H, W)."""
        height, width = features.shape[-2:]
        prompt_tokens = to_tokens(resize(prompt, (height, width)))  # (B, N, C)
        return to_map(self.attention(to_tokens(features), prompt_tokens), (height, width))


class ChannelRefine(nn.Module):
    """Attention between channels: tokens are the channels, each seen on a fixed grid of positions.

    What the attention adds on the grid is added to the map at its own size, so no detail is lost.
    """

    def __init__(self, config: RefinementConfig, prompt_is_query: bool) -> None:
        super().__init__()
        self.grid = config.position_grid
        positions = self.grid[0] * self.grid[1]
        self.attention = PromptedAttention(
            positions, config.num_heads, config.mlp_ratio, prompt_is_query
        )

    def forward(self, features: Tensor, prompt: Tensor) -> Tensor:
        """Maps (B, C, H, W) and a prompt (B, C, h, w) to refined maps (B, C, H, W)."""
        channels = resize(features, self.grid).flatten(2)  # (B, C, G)
        refined = self.attention(channels, resize(prompt, self.grid).flatten(2))
        change = (refined - channels).unflatten(2, self.grid)
        return features + resize(change, features.shape[-2:])


class UniversalPrompts(nn.Module):
    """Learned feature collection U and the indicator chi of how much of each item is present."""

    def __init__(self, config: RefinementConfig, channels: int) -> None:
        super().__init__()
        self.universal = nn.Parameter(
            torch.empty(config.num_universal, channels, *config.universal_grid)
        )
        self.select = nn.Sequential(
            nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, config.num_universal)
        )
        nn.init.trunc_normal_(self.universal, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the selected prompt chi * U, (B, C, h, w)."""
        selection = self.select(features.mean(dim=(2, 3))).softmax(dim=-1)  # chi: (B, K)
        return torch.einsum("bk,kchw->bchw", selection, self.universal)


class RefinementBlock(nn.Module):
    """One DSRM: first attention prompted by the features' own selection, second by the scene."""

    def __init__(self, config: RefinementConfig, channels: int, embed_dim: int) -> None:
        super().__init__()
        plan = config.structure.plan
        query_shape = (channels, *config.query_grid)
        self.universal = UniversalPrompts(config, channels) if plan.universal else nn.Identity()
        self.first = _refine(plan.first, config, channels, plan.prompt_is_query)
        self.query = nn.Sequential(
            nn.LayerNorm(embed_dim),
            nn.Linear(embed_dim, config.query_hidden),
            nn.GELU(),
            nn.Linear(config.query_hidden, channels * config.query_grid[0] * config.query_grid[1]),
            nn.Unflatten(-1, query_shape),
        )
        self.second = _refine(plan.second, config, channels, prompt_is_query=True)

    def forward(self, features: Tensor, query: Tensor) -> Tensor:
        """Maps (B, C, H, W) and the scene's Reshape(MLP(S)) (B, C, h, w) to refined maps."""
        features = self.first(features, self.universal(features))  # F_c
        return self.second(features, query)  # F_s


class DomainSpecificRefinement(nn.Module):
    """The DSRMs of stage 4 in a row; depth 0 passes features through (Table VI without DSRM)."""

    def __init__(
        self, config: RefinementConfig, channels: int, embed_dim: int, depth: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            RefinementBlock(config, channels, embed_dim) for _ in range(depth)
        )

    def start_as_identity(self) -> None:
        """Ends every residual branch with zeros, so that the modules change nothing at first."""
        for module in self.modules():
            if isinstance(module, PromptedAttention):
                zero_weights(module.proj, module.mlp[-1])

    def queries(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """The scene prompt of every block: embeddings (B, E) to one (B, C, h, w) per block."""
        return tuple(cast("RefinementBlock", block).query(embedding) for block in self.blocks)

    def forward(self, features: Tensor, queries: tuple[Tensor, ...]) -> Tensor:
        """Maps (B, C, H, W) to refined maps (B, C, H, W)."""
        for block, query in zip(self.blocks, queries, strict=True):
            features = block(features, query)
        return features


def _refine(
    axis: Axis, config: RefinementConfig, channels: int, prompt_is_query: bool
) -> nn.Module:
    if axis is Axis.CHANNEL:
        return ChannelRefine(config, prompt_is_query)
    return SpatialRefine(config, channels, prompt_is_query)
