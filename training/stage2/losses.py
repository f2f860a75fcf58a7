"""The segmentation loss of the paper (Eq. 8): unified and data-set cross-entropy, void ignored.

Dimensions: B batch, C unified classes, H W pixels, P pixels that count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.labels.label_space import VOID, LabelSpace


class ClassWeights(str, Enum):
    """How much a class counts in the loss."""

    NONE = "none"
    """Every pixel counts alike (the paper)."""
    INVERSE_ROOT = "inverse_root"
    """Rare classes count more: one over the root of a class's share of pixels, within limits."""
    MEDIAN_FREQUENCY = "median_frequency"
    """Rare classes count more: by a class's share of the frames that it occurs in (SegNet)."""


class LossConfig(Config):
    """Loss of the segmentation model."""

    unified_weight: float = option(1.0, doc="weight of the unified cross-entropy", low=0)
    native_weight: float = option(1.0, doc="weight of the data set's own cross-entropy", low=0)
    class_weights: ClassWeights = option(
        ClassWeights.NONE,
        doc="how much rare classes count: none, inverse_root or median_frequency",
    )
    max_class_weight: float = option(4.0, doc="largest weight of a rare class", low=1, high=100)
    class_weight_table: dict[str, float] = option(
        {},
        doc="weight of single classes by name, 'person' or 'mfnet.bump', on top of class_weights; "
        "classes that are not named keep theirs",
    )
    hard_below: float = option(
        0.0,
        doc="a pixel is hard where its true class has less than this probability, and only hard "
        "ones count (OHEM, usually 0.7); 0 means that all count",
        low=0,
        high=1,
    )
    hard_share: float = option(
        0.0625,
        doc="share of the labelled pixels that count at least, the hardest first",
        low=0,
        high=1,
    )
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

    Both terms are means over the labelled pixels of the whole batch, or over the hard ones among
    them, so a batch with nothing but void costs exactly 0 and still has a gradient path.

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
        self._ignored = _class_ids(label_space, self.config.unified_ignore)

    def forward(
        self, logits: Tensor, labels: Tensor, native: Tensor, share: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss of one batch.

        Args:
            logits: (B, C, H, W) or, for sampled pixels, (B, C, P); any float type.
            labels: int64 unified ids of the same pixels, `VOID` where unlabelled.
            native: int64 (B,), position of each sample's data set in `label_space.natives`.
            share: (2,), what the means of the two terms count where this batch is a part of a
                larger one, see `weigh`; None where it is the whole.

        Returns:
            scalars `loss` (to lower), `unified` and `native` (its two terms, without weights).
        """
        logits = logits.float()
        targets = self._unified_targets(labels, native)
        if logits.ndim == 4 and self.config.hard_below == 0:
            return self._of_all_pixels(logits, labels, targets, native, share)
        unified = self._mean([(logits, targets, self.class_weights)])
        native_term = self._native_mean(logits, labels, native)
        if share is not None:
            unified, native_term = unified * share[0], native_term * share[1]
        loss = self.config.unified_weight * unified + self.config.native_weight * native_term
        return {"loss": loss, "unified": unified.detach(), "native": native_term.detach()}

    def _of_all_pixels(
        self,
        logits: Tensor,
        labels: Tensor,
        targets: Tensor,
        native: Tensor,
        share: Tensor | None,
    ) -> dict[str, Tensor]:
        """As `forward`, in one pass over the logits (B, C, H, W) of every pixel."""
        weights = self.class_weights
        if weights is None:
            weights = logits.new_ones(logits.shape[1])
        weights = torch.cat([weights, weights.new_zeros(VOID + 1 - len(weights))])  # by id
        places = native.tolist()
        columns = [self.get_buffer(f"columns_{place}") for place in places]
        natives = torch.stack(
            [
                self.get_buffer(f"native_ids_{place}")[own]
                for place, own in zip(places, labels, strict=True)
            ]
        )
        pixel_weights = torch.stack([weights[targets], weights[labels] * (natives != VOID)])
        totals = pixel_weights.double().sum(dim=(1, 2, 3)).clamp(min=1e-6).to(logits.dtype)
        counts = (1 if share is None else share.to(logits.dtype)) / totals
        factors = counts * counts.new_tensor(
            [self.config.unified_weight, self.config.native_weight]
        )
        loss, sums = PixelCrossEntropy.apply(
            logits, (targets, natives), pixel_weights, factors, columns
        )
        unified, native_term = sums * counts
        return {"loss": loss, "unified": unified, "native": native_term}

    def weigh(self, labels: Tensor, native: Tensor) -> Tensor:
        """Weight of a batch's labelled pixels in each term, float64 (2,).

        A batch in parts has the gradient of the whole when each part's means count by its share
        of these. With `hard_below` that is no longer exact: every part looks for its own hard
        pixels, as every device does; with `points`, it holds on average.
        """
        weights = self.class_weights
        sums = []
        for targets in (self._unified_targets(labels, native), labels):
            known = targets[targets != VOID]
            sums.append(known.new_tensor(len(known)) if weights is None else weights[known].sum())
        return torch.stack(sums).double()

    def _unified_targets(self, labels: Tensor, native: Tensor) -> Tensor:
        if not self._ignored:
            return labels
        targets = labels.clone()
        for position, unified_id in self._ignored:
            of_set = (native == position).view(-1, *[1] * (labels.ndim - 1))
            targets[of_set & (labels == unified_id)] = VOID
        return targets

    def _native_mean(self, logits: Tensor, labels: Tensor, native: Tensor) -> Tensor:
        parts, weights = [], self.class_weights
        for position in range(self.num_natives):
            mask = native == position
            if not bool(mask.any()):
                continue
            columns = self.get_buffer(f"columns_{position}")
            ids = self.get_buffer(f"native_ids_{position}")
            own = None if weights is None else weights[columns]
            parts.append((logits[mask][:, columns], ids[labels[mask]], own))
        return self._mean(parts)

    def _mean(self, parts: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
        if self.config.hard_below > 0:
            pixels = [_pixel_costs(*part) for part in parts]
            costs, weights = (torch.cat(values) for values in zip(*pixels, strict=True))
            return hard_mean(costs, weights, self.config.hard_below, self.config.hard_share)
        sums = [self._sum(*part) for part in parts]
        total, weight = (sum(values[1:], values[0]) for values in zip(*sums, strict=True))
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


class PixelCrossEntropy(torch.autograd.Function):
    """The unified and the native cross-entropy of every pixel.

    The gradient is found with the value, while a sample's logits are in the cache: written with
    torch's own functions, every term reads and writes maps of all classes several times.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: tuple[Tensor, Tensor],
        weights: Tensor,
        factors: Tensor,
        columns: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the sums over pixels (2,) of its unified and native term.

        Args:
            ctx: of autograd.
            logits: (B, C, H, W), float32.
            targets: int64 (B, H, W): unified ids, and positions in the sample's `columns`.
            weights: of pixels in each term, (2, B, H, W); 0 where a target is `VOID`.
            factors: what the sums count in the loss, (2,).
            columns: per sample, the unified ids of its data set's classes.
        """
        sums = logits.new_zeros(2)
        gradient = torch.empty_like(logits, memory_format=torch.channels_last)
        for index, own in enumerate(columns):
            rows = logits[index].permute(1, 2, 0).flatten(0, 1)  # (P, C)
            joint = torch.zeros_like(rows)
            for term, choice in enumerate((None, own)):
                chosen = rows if choice is None else rows.index_select(1, choice)
                scores = chosen.log_softmax(dim=1)
                weight = weights[term, index].flatten()
                target = targets[term][index].flatten().where(weight != 0, 0)[:, None]
                sums[term] -= (scores.gather(1, target)[:, 0] * weight).sum()
                scores.exp_().mul_((weight * factors[term])[:, None])
                scores.scatter_add_(1, target, -(weight * factors[term])[:, None])
                if choice is None:
                    joint = scores
                else:
                    joint.index_add_(1, choice, scores)
            gradient[index] = torch.unflatten(joint, 0, logits.shape[2:]).permute(2, 0, 1)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(sums)
        return (sums * factors).sum(), sums

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the logits; the sums have none."""
        (gradient,) = ctx.saved_tensors
        return gradient * given[0], None, None, None, None


def _pixel_costs(logits: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy and weight of every labelled pixel."""
    labelled = targets != VOID
    costs = F.cross_entropy(logits, targets, ignore_index=VOID, reduction="none")[labelled]
    return costs, torch.ones_like(costs) if weights is None else weights[targets[labelled]]


def hard_mean(costs: Tensor, weights: Tensor, below: float, share: float) -> Tensor:
    """Mean cost of the hard pixels; 0 with a gradient path where there are none at all.

    Online hard example mining as CMNeXt and its followers use it, there with `below` 0.7 and
    `share` 1/16.

    Args:
        costs: cross-entropy per labelled pixel, (P,).
        weights: weight per labelled pixel, (P,); it does not decide who is hard.
        below: a pixel is hard where its true class has a probability below this.
        share: of the P pixels at least this share counts, the most costly ones.
    """
    if costs.numel() == 0:
        return costs.sum()
    least = max(1, int(costs.numel() * share))
    limit = -math.log(below)
    known = costs.detach()
    mask = known > limit
    if int(mask.sum()) < least:
        mask = torch.zeros_like(mask).scatter(0, known.topk(least).indices, True)
    kept = weights[mask]
    return (costs[mask] * kept).sum() / kept.sum().clamp(min=1e-6)


def _class_ids(
    label_space: LabelSpace, names: Sequence[str], option_name: str = "loss.unified_ignore"
) -> list[tuple[int, int]]:
    pairs = []
    known = [space.name for space in label_space.natives]
    for name in names:
        set_name, _, class_name = name.partition(".")
        native = label_space.native(set_name)
        position = native.names.index(class_name) if class_name in native.names else None
        if position is None:
            raise ConfigError(
                f"{option_name}: '{set_name}' has no class '{class_name}'"
                f"{did_you_mean(class_name, native.names)}"
            )
        pairs.append((known.index(set_name), native.to_unified[position]))
    return pairs


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


def median_frequency_weights(
    pixels: NDArray[np.int64], around: NDArray[np.int64], largest: float = 4.0
) -> NDArray[np.float32]:
    """Class weights by median frequency balancing (Eigen and Fergus 2015; SegNet).

    A class's frequency is its share of the labelled pixels of those frames in which it occurs; its
    weight is the median of all frequencies over its own.

    Args:
        pixels: (C,) labelled pixels per class.
        around: (C,) labelled pixels of the frames in which a class occurs.
        largest: limit of a weight, in both directions (1 / largest is the smallest).

    Returns:
        float32 (C,); 1 for classes that never occur.
    """
    weights = np.ones(len(pixels))
    seen = pixels > 0
    if seen.any():
        frequency = pixels[seen] / around[seen]
        weights[seen] = np.clip(np.median(frequency) / frequency, 1.0 / largest, largest)
    return weights.astype(np.float32)


def tabled_weights(
    label_space: LabelSpace, table: Mapping[str, float], base: Tensor | None
) -> Tensor | None:
    """Class weights with those of a table on top.

    Args:
        label_space: unified classes and data sets.
        table: factor per unified class (`person`) or data set's class (`mfnet.bump`).
        base: float32 (C,) to multiply, or None for ones.

    Returns:
        float32 (C,), or `base` where the table is empty.

    Raises:
        ConfigError: for a class that does not exist, or a weight below 0.
    """
    if not table:
        return base
    weights = torch.ones(label_space.num_classes) if base is None else base.clone()
    for name, factor in table.items():
        if factor < 0:
            raise ConfigError(f"loss.class_weight_table: {name}: {factor:g} is below 0")
        if "." in name:
            ((_, place),) = _class_ids(label_space, (name,), "loss.class_weight_table")
        elif name in label_space.names:
            place = label_space.names.index(name)
        else:
            hint = did_you_mean(name, label_space.names)
            raise ConfigError(f"loss.class_weight_table: there is no class '{name}'{hint}")
        weights[place] *= factor
    return weights


def sample_points(
    logits: Tensor,
    labels: Tensor,
    points: int,
    generator: torch.Generator | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Measures a loss on random pixels instead of all: the same loss in expectation, far cheaper.

    Reading the logits of a pixel bilinearly from a coarser map equals enlarging the whole map
    (`align_corners=False`) and picking that pixel.

    Args:
        logits: (B, C, h, w), at any resolution.
        labels: int64 (B, H, W), full resolution.
        points: pixels per image.
        generator: random generator, on the CPU; None for the default one.
        size: (height, width) that the logits cover, from the labels' first pixel; None: the
            labels' own.

    Returns:
        logits (B, C, P) and labels (B, P) of the same random pixels.
    """
    batch, height, width = labels.shape
    flat = torch.randint(height * width, (batch, points), generator=generator).to(labels.device)
    y = torch.div(flat, width, rounding_mode="floor")
    x = flat % width
    # grid_sample counts from -1 (left edge of the first pixel) to 1 (right edge of the last).
    rows, columns = size or (height, width)
    grid = torch.stack(((2 * x + 1) / columns - 1, (2 * y + 1) / rows - 1), dim=-1)  # (B, P, 2)
    picked = F.grid_sample(
        logits.float(), grid.unsqueeze(2), padding_mode="border", align_corners=False
    )  # (B, C, P, 1)
    return picked.squeeze(-1), labels.flatten(1).gather(1, flat)
