"""Several data sets as one stream: who is drawn when is known before the run begins.

The whole order is a pure function of sizes, shares and seed. A run that starts again at step n
reads on at draw n * batch; ranks take every n-th draw; worker processes change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.labels.label_space import LabelSpace
from segrgbx_core.sensors import slot_of
from training.data.augment import Views, at_progress, augment
from training.data.datasets import Reader, spread
from training.data.embeddings import ReuseConfig, embedding_of
from training.data.preparation import Preparation, prepare, read_ahead, unified_labels

COUNTED_FRAMES = 200
"""Frames of a data set that are looked at to count its classes."""


class Sampling(str, Enum):
    """How often each data set is drawn when no shares are stated."""

    PROPORTIONAL = "proportional"
    """By its number of samples."""
    EQUAL = "equal"
    """Each data set equally often."""


@dataclass(frozen=True, eq=False)
class DrawPlan:
    """The order of a run.

    Attributes:
        source: int32 (N,), position of the data set of each draw.
        index: int32 (N,), which of its samples.
        epoch: int32 (N,), passes over the data set before.
        seed: the run's seed.
    """

    source: NDArray[np.int32]
    index: NDArray[np.int32]
    epoch: NDArray[np.int32]
    seed: int

    def __len__(self) -> int:
        return len(self.source)

    def rng(self, draw: int) -> np.random.Generator:
        """The generator of everything random about one draw."""
        return np.random.default_rng((self.seed, 1, draw))

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> range:
        """Draws of one step on one rank; `batch_size` is that of all ranks together."""
        start = step * batch_size
        return range(start + rank, start + batch_size, world)


def shares(
    sizes: Mapping[str, int], stated: Mapping[str, float], sampling: Sampling
) -> dict[str, float]:
    """Share of the draws that each data set gets; the sum is 1.

    Args:
        sizes: number of samples per data set.
        stated: shares from the run file; 0 or absent means by `sampling`.
        sampling: rule for data sets without a stated share, which split what is left.

    Raises:
        ConfigError: when a data set is empty, or the stated shares are above 1 or leave nothing.
    """
    empty = [name for name, size in sizes.items() if size <= 0]
    if empty:
        raise ConfigError(f"data: '{empty[0]}' has no training samples; check its root and split")
    fixed = {name: stated[name] for name in sizes if stated.get(name, 0.0) > 0}
    open_names = [name for name in sizes if name not in fixed]
    rest = 1.0 - sum(fixed.values())
    if not open_names:
        total = sum(fixed.values())
        return {name: value / total for name, value in fixed.items()}
    if rest <= 0:
        raise ConfigError(
            f"data: stated shares sum to {1.0 - rest:g}; nothing is left for '{open_names[0]}'"
        )
    raw = {name: 1.0 if sampling is Sampling.EQUAL else float(sizes[name]) for name in open_names}
    scale = rest / sum(raw.values())
    return {name: fixed[name] if name in fixed else raw[name] * scale for name in sizes}


def plan_draws(sizes: Sequence[int], weights: Sequence[float], total: int, seed: int) -> DrawPlan:
    """Plans a run.

    Every data set is visited in a fresh random order each epoch, and any stretch of the run
    holds each data set in its share, give or take one sample.

    Args:
        sizes: samples per data set.
        weights: share per data set, summing to 1.
        total: number of draws.
        seed: random seed of the order.
    """
    rng = np.random.default_rng((seed, 0))
    counts = [int(np.ceil(total * weight)) + 1 for weight in weights]
    source = np.concatenate([np.full(n, k, dtype=np.int32) for k, n in enumerate(counts)])
    # The j-th draw of a set falls at a random moment of its j-th interval of length 1 / share.
    moment = np.concatenate(
        [
            (np.arange(n) + rng.random(n)) / max(w, 1e-12)
            for n, w in zip(counts, weights, strict=True)
        ]
    )
    index = np.concatenate([_orders(size, n, rng) for size, n in zip(sizes, counts, strict=True)])
    epoch = np.concatenate(
        [np.arange(n, dtype=np.int32) // size for size, n in zip(sizes, counts, strict=True)]
    )
    order = np.argsort(moment, kind="stable")[:total]
    return DrawPlan(source[order], index[order], epoch[order].astype(np.int32), seed)


def _orders(size: int, count: int, rng: np.random.Generator) -> NDArray[np.int32]:
    epochs = -(-count // size)
    orders = [rng.permutation(size) for _ in range(max(1, epochs))]
    return np.concatenate(orders)[:count].astype(np.int32)


@dataclass(frozen=True, eq=False)
class TrainingSplit:
    """The training split of one data set of the joint stream.

    Attributes:
        reader: its samples.
        embeddings: MA-CLIP of its whole frames, float32 (N, V, 2, E), V in the order of `Variant`,
            then RGB and X; None where every crop is embedded instead.
        sequences: int32 (N,), number of the sequence that a frame belongs to, neighbours in time
            being neighbours here; None where frames have nothing to do with each other.
    """

    reader: Reader
    embeddings: Tensor | None = None
    sequences: NDArray[np.int32] | None = None


class JointDataset(Dataset[dict[str, Tensor]]):
    """Training samples by their number in the plan.

    An item holds `rgb` and `x` float32 (3, H, W) in [0, 1], `labels` int64 (H, W) of unified ids,
    `modality` and `native` (position in the label space) int64, and, where known, `rgb_embedding`
    and `x_embedding` float32 (E,).
    """

    def __init__(
        self,
        sources: Sequence[TrainingSplit],
        plan: DrawPlan,
        preparation: Preparation,
        batch_size: int = 1,
        reuse: ReuseConfig | None = None,
    ) -> None:
        self.reuse = reuse or ReuseConfig()
        self.sources, self.plan, self.preparation = tuple(sources), plan, preparation
        self.batch_size = batch_size
        names = [native.name for native in preparation.label_space.natives]
        self._native = [names.index(source.reader.native) for source in self.sources]
        self._frames: dict[tuple[int, int], Views] = {}

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, draw: int) -> dict[str, Tensor]:
        position, index = int(self.plan.source[draw]), int(self.plan.index[draw])
        source = self.sources[position]
        frame = self._frame(position, index)
        config = self.preparation
        first = draw - draw % self.batch_size  # one size for all samples of a step
        options = at_progress(config.augment, first / len(self.plan))
        if not getattr(source.reader, "has_x", True):
            options = options.model_copy(update={"drop_rgb": 0.0})  # nothing would be left
        rng = self.plan.rng(draw)
        views, variant = augment(frame, options, config.encoding, rng)
        item = {
            "rgb": views.rgb,
            "x": views.x.contiguous(),
            "labels": views.labels.long(),
            "modality": torch.tensor(slot_of(views.modality, config.encoding)),
            "native": torch.tensor(self._native[position]),
        }
        if source.embeddings is not None:
            of_source = source.embeddings, source.sequences
            embedded = embedding_of(*of_source, (index, variant), self.reuse, rng)
            item["rgb_embedding"], item["x_embedding"] = embedded[0], embedded[1]
        return item

    def _frame(self, position: int, index: int) -> Views:
        frame = self._frames.get((position, index))
        if frame is None:
            frame = prepare(self.sources[position].reader, index, self.preparation)
            if self.preparation.keeps_frames:
                self._frames[position, index] = frame
        return frame


class StepSampler:
    """Yields the draws of each remaining step, for `torch.utils.data.DataLoader`."""

    def __init__(
        self, plan: DrawPlan, first_step: int, batch_size: int, rank: int, world: int
    ) -> None:
        self.plan, self.first_step, self.batch_size = plan, first_step, batch_size
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return len(self.plan) // self.batch_size - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, len(self.plan) // self.batch_size):
            yield list(self.plan.batch(step, self.batch_size, self.rank, self.world))


def read_steps(
    dataset: Dataset[dict[str, Tensor]], sampler: StepSampler, workers: int
) -> Iterator[dict[str, Tensor]]:
    """Batches of a sampler's steps, read by `workers` processes; 0 reads in this one.

    Raises:
        SegrgbxError: as `read_ahead`.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    return read_ahead(loader)


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """How often classes occur in training frames; all int64 (C,).

    Attributes:
        pixels: labelled pixels, as parts of 1e9 in all.
        around: labelled pixels of the frames in which a class occurs, in the same unit.
        frames: frames in which it occurs, of those that were looked at.
    """

    pixels: NDArray[np.int64]
    around: NDArray[np.int64]
    frames: NDArray[np.int64]


def count_classes(
    sources: Sequence[TrainingSplit],
    weights: Sequence[float],
    label_space: LabelSpace,
    samples: int = COUNTED_FRAMES,
) -> ClassCounts:
    """Counts unified classes, each data set weighing as much as its share of draws.

    Args:
        sources: the data sets.
        weights: their shares.
        label_space: unified classes.
        samples: frames looked at per data set, spread evenly; 0 for all.
    """
    total = np.zeros((2, label_space.num_classes))
    frames = np.zeros(label_space.num_classes, np.int64)
    for source, weight in zip(sources, weights, strict=True):
        counts = np.zeros((2, label_space.num_classes))
        for index in spread(len(source.reader), samples):
            labels = unified_labels(source.reader[index], source.reader, label_space)
            pixels = np.bincount(labels.ravel(), minlength=256)[: label_space.num_classes]
            counts += pixels, pixels.sum() * (pixels > 0)
            frames += pixels > 0
        total += weight * counts / max(counts[0].sum(), 1.0)
    pixels, around = np.round(total * 1e9).astype(np.int64)
    return ClassCounts(pixels, around, frames)
