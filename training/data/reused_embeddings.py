"""Scene embeddings that are older than their picture, so that the model learns to live with them.

A node with `scene.refresh_every` above 1 keeps an embedding for some frames. Training knows that
only when it is told.

Legend: N frames, V variants of a frame (`training.data.augment.Variant`), E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segrgbx_core.base.config import Config, option
from training.data.augment import Variant
from training.data.datasets import Reader


class StaleConfig(Config):
    """Embeddings that are older than their picture, as a node with `scene.refresh_every` has them.

    In data sets that are sequences a stale embedding is that of a frame nearby; elsewhere it is
    that of the same frame mirrored.
    """

    probability: float = option(0.0, doc="share of samples with a stale embedding", low=0, high=1)
    reach: int = option(
        5, doc="largest distance in frames of the same sequence, before or after", low=1
    )
    noise: float = option(
        0.0,
        doc="largest noise on a stale embedding relative to its root mean square",
        low=0,
        high=10,
    )


def sequences_of(reader: Reader) -> NDArray[np.int32] | None:
    """Which frames of a reader follow each other: the number of each one's sequence, int32 (N,).

    A reader of sequences has `ids` in the order of time and a `sequence_mark`: what stands before
    the last mark of an id names its sequence. None for readers of unrelated pictures.
    """
    mark: str | None = getattr(reader, "sequence_mark", None)
    if mark is None:
        return None
    ids: Sequence[str] = reader.ids  # type: ignore[attr-defined]
    names = [name.rpartition(mark)[0] for name in ids]
    return np.unique(names, return_inverse=True)[1].astype(np.int32)


def embedding_of(
    embeddings: Tensor,
    sequences: NDArray[np.int32] | None,
    view: tuple[int, Variant],
    stale: StaleConfig,
    rng: np.random.Generator,
) -> Tensor:
    """What MA-CLIP says to a training view, (2, E): of its frame, or of one that is stale.

    Args:
        embeddings: of all frames, (N, V, 2, E).
        sequences: see `sequences_of`.
        view: number of the frame, and the variant that the training view shows.
        stale: how often, how far, how noisy.
        rng: source of chance; nothing is drawn where nothing can be stale.
    """
    index, variant = view
    if stale.probability <= 0 or rng.random() >= stale.probability:
        return embeddings[index, variant]
    near = _neighbours(sequences, index, stale.reach)
    if near.size:
        embedded = embeddings[int(rng.choice(near)), variant]
    else:
        embedded = embeddings[index, _OTHER_WAY.get(variant, variant)]
    if stale.noise > 0:
        grain = torch.from_numpy(rng.standard_normal(embedded.shape, dtype=np.float32))
        size = embedded.square().mean(dim=1, keepdim=True).sqrt()
        embedded = embedded + float(rng.uniform(0.0, stale.noise)) * size * grain
    return embedded


_OTHER_WAY = {Variant.PLAIN: Variant.MIRRORED, Variant.MIRRORED: Variant.PLAIN}


def _neighbours(sequences: NDArray[np.int32] | None, index: int, reach: int) -> NDArray[np.int64]:
    if sequences is None:
        return np.empty(0, np.int64)
    first = max(0, index - reach)
    near = first + np.flatnonzero(sequences[first : index + reach + 1] == sequences[index])
    return near[near != index]
