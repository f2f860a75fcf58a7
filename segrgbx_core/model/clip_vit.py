"""CLIP's image tower, the usual sizes of it: a plain ViT under timm's names.

Dimensions: B images, S side of the square input, p side of a patch, N = (S / p)^2 + 1 tokens, D
their width, h heads, E width of an embedding.

timm has the same network and many more; importing it brings torchvision and torch's compiler
along, half of the time that a node needs to start and a quarter of its memory. A test holds this
one to timm's values and names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segrgbx_core.model.backbone import merge_heads, split_heads, to_tokens

_EPS = 1e-5
_INIT_STD = 0.02
_NAMED = re.compile(r"vit_base_patch(16|32)_clip(_quickgelu)?_224")


@dataclass(frozen=True)
class VitShape:
    """Sizes of a tower.

    Attributes:
        width: of a token.
        depth: blocks.
        num_heads: attention heads.
        patch_size: side of a patch in pixels.
    """

    width: int
    depth: int
    num_heads: int
    patch_size: int


def named_shape(name: str) -> VitShape | None:
    """Sizes of a tower by timm's name for it; None for towers that are not built here."""
    match = _NAMED.fullmatch(name)
    return VitShape(768, 12, 12, int(match.group(1))) if match else None


class QuickGELU(nn.Module):
    """The sigmoid form of GELU."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Any shape to the same."""
        return tokens * torch.sigmoid(1.702 * tokens)


class VitAttention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one layer."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        query, key, value = (
            split_heads(part, self.num_heads) for part in self.qkv(tokens).chunk(3, dim=-1)
        )
        return self.proj(merge_heads(F.scaled_dot_product_attention(query, key, value)))


class VitMlp(nn.Module):
    """The feed-forward layer of a block."""

    def __init__(self, width: int, quick_gelu: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = QuickGELU() if quick_gelu else nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        return self.fc2(self.act(self.fc1(tokens)))


class VitBlock(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = VitAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = VitMlp(width, quick_gelu)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PatchProjection(nn.Module):
    """Separate patches to tokens.

    Attributes:
        grid_size: patches per column and row of the image.
    """

    def __init__(self, width: int, patch_size: int, image_size: int) -> None:
        super().__init__()
        self.grid_size = (image_size // patch_size,) * 2
        self.proj = nn.Conv2d(3, width, patch_size, patch_size, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, N - 1, D)."""
        return to_tokens(self.proj(images))


class ClipVit(nn.Module):
    """Images (B, 3, S, S) to embeddings (B, E): what the class token has seen, projected.

    Args:
        shape: sizes.
        image_size: S, a multiple of the patch's side.
        output_dim: E; 0 leaves the projection out.
        quick_gelu: the sigmoid form of GELU.

    Attributes:
        num_prefix_tokens: tokens before those of the patches.
    """

    num_prefix_tokens = 1

    def __init__(
        self, shape: VitShape, image_size: int, output_dim: int, quick_gelu: bool = False
    ) -> None:
        super().__init__()
        width = shape.width
        self._checkpoints = False
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = PatchProjection(width, shape.patch_size, image_size)
        count = self.patch_embed.grid_size[0] ** 2 + self.num_prefix_tokens
        self.pos_embed = nn.Parameter(torch.zeros(1, count, width))
        self.norm_pre = nn.LayerNorm(width, eps=_EPS)
        self.blocks = nn.Sequential(
            *(VitBlock(width, shape.num_heads, quick_gelu) for _ in range(shape.depth))
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.head = nn.Linear(width, output_dim) if output_dim else nn.Identity()
        self._init_weights()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Computes blocks anew in the backward pass instead of keeping what they made."""
        self._checkpoints = enable

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        patches = self.patch_embed(images)
        # Not len(): it would bake the batch size into an exported graph.
        classes = self.cls_token.expand(patches.shape[0], -1, -1)
        tokens = self.norm_pre(torch.cat([classes, patches], dim=1) + self.pos_embed)  # (B, N, D)
        for block in self.blocks:
            if self._checkpoints and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])

    def _init_weights(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=_INIT_STD)
        # Not normal_: on the meta device, where checkpoints are read, it imports torch's compiler.
        nn.init.trunc_normal_(self.cls_token, std=1e-6)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=_INIT_STD)
                nn.init.zeros_(layer.bias)
