"""What stage 1 is judged by: does an image find its caption, do modalities lie apart."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torch import Tensor
from torch.nn import functional as F

from training.data.datasets import spread


def recall_at(
    images: Tensor, captions: Tensor, texts: Tensor, text_captions: Tensor, ranks: Sequence[int]
) -> dict[int, float]:
    """Share of images whose own caption is among the k nearest of all different captions.

    Equal captions are one candidate. Captions at the very same similarity count as nearer, so that
    embeddings that are all alike find nothing.

    Args:
        images: (N, E).
        captions: int64 (N,), caption id of each image.
        texts: (M, E), one row per different caption.
        text_captions: int64 (M,), their ids.
        ranks: values of k.
    """
    similarity = F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
    is_own = captions[:, None] == text_captions[None, :]  # (N, M)
    own = similarity.masked_fill(~is_own, -torch.inf).amax(dim=1, keepdim=True)
    nearer = ((similarity >= own) & ~is_own).sum(dim=1)
    return {k: float((nearer < k).float().mean()) for k in ranks}


def separation(groups: Mapping[str, Tensor], most: int = 200) -> dict[str, float]:
    """How far apart groups of embeddings lie (the paper's Fig. 5 as two numbers).

    Args:
        groups: embeddings (N, E) by name, two groups or more; compared by direction only.
        most: embeddings per group that are looked at, evenly spread.

    Returns:
        `probe`: accuracy of a linear classifier, cross-validated; `silhouette` in [-1, 1] by
        cosine distance. Empty where a group has fewer than two embeddings.
    """
    if len(groups) < 2 or min(map(len, groups.values())) < 2:
        return {}
    rows: list[NDArray[np.float32]] = []
    names: list[int] = []
    for number, embeddings in enumerate(groups.values()):
        chosen = spread(len(embeddings), most)
        rows.append(F.normalize(embeddings.float(), dim=-1).numpy()[chosen])
        names += [number] * len(rows[-1])
    points, labels = np.concatenate(rows), np.array(names)
    folds = StratifiedKFold(min(5, min(map(len, rows))), shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        accuracy = cross_val_score(LogisticRegression(max_iter=500), points, labels, cv=folds)
    return {
        "probe": float(accuracy.mean()),
        "silhouette": float(silhouette_score(points, labels, metric="cosine")),
    }
