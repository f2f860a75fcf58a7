"""Modality-aligned embedding: prompts condition each stage on scene and modality (paper III-C).

Dimensions: B pairs, 2B images (all RGB, then all X), E width of an MA-CLIP embedding, D token
width of a stage, Kc control prompts, Kp aligned prompts, K = Kc + Kp.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.modality import MODALITIES


class Pairing(str, Enum):
    """Which MA-CLIP embedding serves which stream (Tables VII and VIII)."""

    ALIGNED = "aligned"
    """RGB serves RGB, X serves X."""
    CROSS_MODAL = "cross_modal"
    """X serves RGB, RGB serves X."""
    RGB_DOMINANT = "rgb_dominant"
    """RGB serves both."""


class PromptConfig(Config):
    """Prompts of every stage."""

    pairing: Pairing = option(
        Pairing.RGB_DOMINANT, doc="which embedding makes a stream's control prompts"
    )
    num_control: int = option(
        2, doc="control prompts per stage, made from the embedding", low=1, high=64
    )
    num_aligned: int = option(6, doc="learned prompts per stage and modality", low=1, high=64)


def pair_embeddings(pairing: Pairing, rgb_embedding: Tensor, x_embedding: Tensor) -> Tensor:
    """Embeddings in the order of the images, (B, E) and (B, E) to (2B, E)."""
    for_rgb, for_x = {
        Pairing.ALIGNED: (rgb_embedding, x_embedding),
        Pairing.CROSS_MODAL: (x_embedding, rgb_embedding),
        Pairing.RGB_DOMINANT: (rgb_embedding, rgb_embedding),
    }[pairing]
    return torch.cat([for_rgb, for_x])


def stream_indices(modality: Tensor) -> Tensor:
    """Which set of aligned prompts each image uses: 0 for RGB, 1 + the modality's slot for X.

    Args:
        modality: int64 (B,), slot of each pair's modality.

    Returns:
        int64 (2B,).
    """
    return torch.cat([torch.zeros_like(modality), modality + 1])


class StagePrompts(nn.Module):
    """The prompts M = [C; P] of one stage."""

    def __init__(
        self, config: PromptConfig, embed_dim: int, width: int, control: bool, aligned: bool
    ) -> None:
        """Makes the prompts that are switched on; with none, the stage is SegFormer's.

        Args:
            config: counts.
            embed_dim: E.
            width: D.
            control: control prompts C from the embedding.
            aligned: learned prompts P, one set for RGB and one per modality.
        """
        super().__init__()
        self.width = width
        self.control: nn.Module | None = None
        self.aligned: nn.Parameter | None = None
        if control:
            self.control = nn.Sequential(
                nn.LayerNorm(embed_dim),
                nn.Linear(embed_dim, embed_dim),
                nn.GELU(),
                nn.Linear(embed_dim, config.num_control * width),
                nn.Unflatten(-1, (config.num_control, width)),
            )
        if aligned:
            streams = 1 + len(MODALITIES)
            self.aligned = nn.Parameter(torch.empty(streams, config.num_aligned, width))
            nn.init.trunc_normal_(self.aligned, std=0.02)

    def add_modality(self) -> None:
        """One more set of aligned prompts, for the next slot."""
        if self.aligned is not None:
            one = torch.empty_like(self.aligned[:1])
            nn.init.trunc_normal_(one, std=0.02)
            self.aligned = nn.Parameter(torch.cat([self.aligned.detach(), one]))

    def forward(self, embedding: Tensor, stream: Tensor) -> Tensor:
        """Prompts of every image.

        Args:
            embedding: paired embeddings (2B, E).
            stream: from `stream_indices`, (2B,).

        Returns:
            (2B, K, D); K is 0 when nothing is switched on.
        """
        parts = [embedding.new_zeros(embedding.shape[0], 0, self.width)]
        if self.control is not None:
            parts.append(self.control(embedding))  # C: (2B, Kc, D)
        if self.aligned is not None:
            parts.append(self.aligned[stream])  # P: (2B, Kp, D)
        return torch.cat(parts, dim=1)
