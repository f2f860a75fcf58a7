"""The contrastive loss of MA-CLIP (Eq. 1), with every image of a caption as its positive.

Eq. 1 repeats the texts, once for RGB and once for X. That equals one row per text with two
positives, up to the constant ln 2 / 2, and that is what is computed here. Captions that say the
same are one caption: their images are positives of each other's text, not negatives. For the
softmax that corrects the loss and the match figures (its gradient adds up over equal texts
anyhow); for the sigmoid, and for texts that are merely near, it corrects the gradient too.

Dimensions: B pairs of all processes, E embedding width.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from segrgbx_core.base.config import Config, option
from training.engine.batch_norm import is_parallel


class Contrast(str, Enum):
    """How images and texts are held against each other."""

    SOFTMAX = "softmax"
    """CLIP's: each image chooses among the texts, each text among the images."""
    SIGMOID = "sigmoid"
    """SigLIP's: every image-text pair is a yes-or-no question of its own."""


class ContrastiveConfig(Config):
    """Loss of the adapters."""

    contrast: Contrast = option(Contrast.SOFTMAX, doc="softmax (CLIP) or sigmoid (SigLIP)")
    scale: float = option(
        0.0,
        doc="factor of the cosine similarities; 0 takes the checkpoint's, which stays frozen",
        low=0,
        high=200,
    )
    near_cosine: float = option(
        1.0,
        doc="texts more alike than this are positives in part (near-equal frames of a video); 1 "
        "means that only equal captions are",
        low=0,
        high=1,
    )
    near_temperature: float = option(
        0.02,
        doc="how fast the part falls with the distance of the texts",
        low=1e-4,
        high=1,
    )


class ContrastiveLoss(nn.Module):
    """Eq. 1 over all processes: every rank returns the loss of the whole batch.

    Gradients flow through the gathering, so that the mean over ranks that DDP takes equals the
    gradient of one process with the whole batch.

    Args:
        config: kind and options.
        scale: the checkpoint's factor of similarities, used where the config says 0.
        bias: the checkpoint's offset of logits (SigLIP).
    """

    def __init__(self, config: ContrastiveConfig, scale: float, bias: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale or scale
        self.bias = bias

    def forward(
        self, rgb_embedding: Tensor, x_embedding: Tensor, text_embedding: Tensor, caption: Tensor
    ) -> dict[str, Tensor]:
        """Loss of one batch.

        Args:
            rgb_embedding: S^r of this rank's pairs, (b, E), need not be normalised.
            x_embedding: S^m, (b, E).
            text_embedding: S^t, (b, E), frozen.
            caption: int64 (b,), equal for captions that say the same.

        Returns:
            scalars `loss`, `rgb_match` and `x_match` (share of images whose best text is theirs).
        """
        pairs = torch.stack([rgb_embedding, x_embedding], dim=1).float()  # (b, 2, E)
        pairs = gather_with_gradient(F.normalize(pairs, dim=-1))  # (B, 2, E)
        texts = gather(F.normalize(text_embedding.float(), dim=-1))  # (B, E)
        captions = gather(caption)  # (B,)
        images = pairs.transpose(0, 1).flatten(0, 1)  # (2B, E): all RGB, then all X
        with torch.autocast(images.device.type, enabled=False):
            logits = self.scale * images @ texts.T + self.bias  # (2B, B)
            affinity = self.affinity(texts, captions)  # (B, B)
            loss = self._loss(logits, torch.cat([affinity, affinity]))
        hits = captions[logits.detach().argmax(dim=1)] == torch.cat([captions, captions])
        rgb_match, x_match = hits.float().chunk(2)
        return {"loss": loss, "rgb_match": rgb_match.mean(), "x_match": x_match.mean()}

    def affinity(self, texts: Tensor, captions: Tensor) -> Tensor:
        """How much text j is image i's: 1 for the same caption, a part for near ones, else 0.

        Args:
            texts: normalised, (B, E).
            captions: int64 (B,).
        """
        same = (captions[:, None] == captions[None, :]).float()
        if self.config.near_cosine >= 1.0:
            return same
        cosine = texts @ texts.T
        part = torch.exp((cosine.clamp(max=1.0) - 1.0) / self.config.near_temperature)
        return torch.maximum(same, part * (cosine > self.config.near_cosine))

    def _loss(self, logits: Tensor, affinity: Tensor) -> Tensor:
        if self.config.contrast is Contrast.SIGMOID:
            return sigmoid_contrast(logits, affinity)
        return softmax_contrast(logits, affinity)


def softmax_contrast(logits: Tensor, affinity: Tensor) -> Tensor:
    """Mean of both directions' cross-entropy against row-normalised positives.

    Args:
        logits: images against texts, (I, T).
        affinity: at least 0, (I, T); every row and column has a positive.
    """
    to_text = _soft_cross_entropy(logits, affinity)
    to_image = _soft_cross_entropy(logits.T, affinity.T)
    return 0.5 * (to_text + to_image)


def _soft_cross_entropy(logits: Tensor, affinity: Tensor) -> Tensor:
    targets = affinity / affinity.sum(dim=1, keepdim=True)
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def sigmoid_contrast(logits: Tensor, affinity: Tensor) -> Tensor:
    """SigLIP's loss: sum over texts, mean over images; the matrix says which pairs are true."""
    yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
    return -(affinity * yes + (1.0 - affinity) * no).sum(dim=1).mean()


def gather(values: Tensor) -> Tensor:
    """Rows of all ranks, rank after rank; alone, the values themselves."""
    if not is_parallel():
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def gather_with_gradient(values: Tensor) -> Tensor:
    """Like `gather`; a loss of any rank sends its gradient back to the rank of each row."""
    return _Gather.apply(values) if is_parallel() else values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        return gather(values)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]
