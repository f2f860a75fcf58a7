"""The segmentation loss of the paper (Eq. 8): unified and data-set cross-entropy, void ignored.

Dimensions: B batch, C unified classes, H W pixels, P pixels that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segrgbx_core.config import Config, option
from segrgbx_core.errors import ConfigError, did_you_mean
from segrgbx_core.labels import VOID, LabelSpace


class ClassWeights(str, Enum):
    """How much a class counts in the loss."""

    NONE = "none"
    """Every pixel counts alike (the paper)."""
    INVERSE_ROOT = "inverse_root"
    """Rare classes count more: one over the root of a class's share of pixels, within limits."""


class LossConfig(Config):
    """What the segmentation model is trained to lower."""

    unified_weight: float = option(1.0, doc="weight of the unified cross-entropy", low=0)
    native_weight: float = option(1.0, doc="weight of the data set's own cross-entropy", low=0)
    class_weights: ClassWeights = option(
        ClassWeights.NONE, doc="how much rare classes count: none or inverse_root"
    )
    max_class_weight: float = option(4.0, doc="largest weight of a rare class", low=1, high=100)
    points: int = option(
        0,
        doc="random pixels per image on which the loss is measured; 0 means every pixel",
        low=0,
    )
    unified_ignore: tuple[str, ...] = option(
        (),
        doc="classes left to the data set's own term, as 'mfnet.unlabeled'",
    )


class SegmentationLoss(nn.Module):
    """Eq. 8 for batches in which every sample may come from another data set.

    Both terms are means over the labelled pixels of the whole batch, so a batch with nothing but
    void costs exactly 0 and still has a gradient path.

    Args:
        label_space: the unified classes and every data set's map into them.
        config: weights and options.
        class_weights: float32 (C,) weight per unified class, or None for equal weights.
    """

    def __init__(
        self,
        label_space: LabelSpace,
        config: LossConfig | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config or LossConfig()
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.num_natives = len(label_space.natives)
        for position, native in enumerate(label_space.natives):
            columns = torch.from_numpy(label_space.project_index(native.name))
            ids = torch.full((256,), VOID, dtype=torch.int64)
            ids[columns] = torch.arange(len(columns))
            self.register_buffer(f"columns_{position}", columns, persistent=False)
            self.register_buffer(f"native_ids_{position}", ids, persistent=False)
        self._ignored = _ignored_ids(label_space, self.config.unified_ignore)

    def forward(self, logits: Tensor, labels: Tensor, native: Tensor) -> dict[str, Tensor]:
        """Loss of one batch.

        Args:
            logits: (B, C, H, W) or, for sampled pixels, (B, C, P); any float type.
            labels: int64 unified ids of the same pixels, `VOID` where unlabelled.
            native: int64 (B,), position of each sample's data set in `label_space.natives`.

        Returns:
            scalars `loss` (to lower), `unified` and `native` (its two terms, without weights).
        """
        logits = logits.float()
        unified = self._mean(logits, self._unified_targets(labels, native), self.class_weights)
        native_term = self._native_mean(logits, labels, native)
        loss = self.config.unified_weight * unified + self.config.native_weight * native_term
        return {"loss": loss, "unified": unified.detach(), "native": native_term.detach()}

    def _unified_targets(self, labels: Tensor, native: Tensor) -> Tensor:
        if not self._ignored:
            return labels
        targets = labels.clone()
        for position, unified_id in self._ignored:
            of_set = (native == position).view(-1, *[1] * (labels.ndim - 1))
            targets[of_set & (labels == unified_id)] = VOID
        return targets

    def _native_mean(self, logits: Tensor, labels: Tensor, native: Tensor) -> Tensor:
        total, weight = logits.sum() * 0.0, logits.new_zeros(())
        for position in range(self.num_natives):
            chosen = native == position
            if not bool(chosen.any()):
                continue
            columns = self.get_buffer(f"columns_{position}")
            ids = self.get_buffer(f"native_ids_{position}")
            weights = self.class_weights
            part = self._sum(
                logits[chosen][:, columns],
                ids[labels[chosen]],
                None if weights is None else weights[columns],
            )
            total, weight = total + part[0], weight + part[1]
        return total / weight.clamp(min=1e-6)

    def _mean(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        total, weight = self._sum(logits, targets, weights)
        return total / weight.clamp(min=1e-6)

    @staticmethod
    def _sum(logits: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(
            logits, targets, weight=weights, ignore_index=VOID, reduction="sum"
        )
        labelled = targets != VOID
        if weights is None:
            return total, labelled.sum().to(logits.dtype)
        return total, weights[targets[labelled]].sum()


def _ignored_ids(label_space: LabelSpace, names: Sequence[str]) -> list[tuple[int, int]]:
    ignored = []
    known = [space.name for space in label_space.natives]
    for name in names:
        set_name, _, class_name = name.partition(".")
        native = label_space.native(set_name)
        position = native.names.index(class_name) if class_name in native.names else None
        if position is None:
            raise ConfigError(
                f"loss.unified_ignore: '{set_name}' has no class '{class_name}'"
                f"{did_you_mean(class_name, native.names)}"
            )
        ignored.append((known.index(set_name), native.to_unified[position]))
    return ignored


def inverse_root_weights(counts: NDArray[np.int64], largest: float = 4.0) -> NDArray[np.float32]:
    """Class weights from pixel counts: 1 / sqrt(share), so that the mean weight of a pixel is 1.

    Args:
        counts: (C,) labelled pixels per class.
        largest: limit of a weight, in both directions (1 / largest is the smallest).

    Returns:
        float32 (C,); 1 for classes that never occur.
    """
    share = counts / max(int(counts.sum()), 1)
    weights = np.ones(len(counts))
    seen = counts > 0
    weights[seen] = 1.0 / np.sqrt(share[seen])
    for _ in range(8):  # clipping moves the mean, so both are repeated until they settle
        mean = float((weights * share).sum())
        weights[seen] = np.clip(weights[seen] / max(mean, 1e-12), 1.0 / largest, largest)
    return weights.astype(np.float32)


def sample_points(
    logits: Tensor, labels: Tensor, points: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Measures a loss on random pixels instead of all: the same loss in expectation, far cheaper.

    Reading the logits of a pixel bilinearly from a coarser map equals enlarging the whole map
    (`align_corners=False`) and picking that pixel.

    Args:
        logits: (B, C, h, w), at any resolution.
        labels: int64 (B, H, W), full resolution.
        points: pixels per image.
        generator: source of chance, on the CPU.

    Returns:
        logits (B, C, P) and labels (B, P) of the same random pixels.
    """
    batch, height, width = labels.shape
    flat = torch.randint(height * width, (batch, points), generator=generator).to(labels.device)
    y = torch.div(flat, width, rounding_mode="floor")
    x = flat % width
    # grid_sample counts from -1 (left edge of the first pixel) to 1 (right edge of the last).
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)  # (B, P, 2)
    picked = F.grid_sample(
        logits.float(), grid.unsqueeze(2), padding_mode="border", align_corners=False
    )  # (B, C, P, 1)
    return picked.squeeze(-1), labels.flatten(1).gather(1, flat)
