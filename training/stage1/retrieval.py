"""What stage 1 is judged by: does an image find its caption, do modalities lie apart."""

from __future__ import annotations

import logging
import math
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

log = logging.getLogger(__name__)

RANKS = (1, 5)
"""Values of k of the recalls that are reported."""
COLLAPSED = 0.99
"""Mean cosine between embeddings of different scenes above which they carry nothing: towers with
random weights have 1.000."""


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


def retrieval_scores(
    name: str, images: Tensor, captions: Tensor, texts: Tensor, text_captions: Tensor
) -> dict[str, float]:
    """How well a split's images find their captions, beside chance.

    Args:
        name: put before the names of the scores.
        images: (N, E), as in `recall_at`, like the others.
        captions: int64 (N,).
        texts: (M, E).
        text_captions: int64 (M,).

    Returns:
        `<name>_r1` and `r5`, `<name>_chance_r1` and `chance_r5` (what guessing finds),
        `<name>_cosine`, see `mean_cosine`, and `<name>_images`, N.
    """
    found = recall_at(images, captions, texts, text_captions, RANKS)
    scores = {f"{name}_r{rank}": share for rank, share in found.items()}
    for rank in RANKS:
        scores[f"{name}_chance_r{rank}"] = min(1.0, rank / len(text_captions))
    scores[f"{name}_cosine"] = mean_cosine(images)
    scores[f"{name}_images"] = float(len(images))
    return scores


def mean_cosine(embeddings: Tensor) -> float:
    """Mean cosine between different rows of (N, E): 1 where all point one way, NaN for one row."""
    rows = F.normalize(embeddings.double(), dim=-1)
    count = len(rows)
    if count < 2:
        return math.nan
    return float((rows.sum(dim=0).square().sum() - count) / (count * (count - 1)))


def collapse(scores: Mapping[str, float]) -> dict[str, float]:
    """Whether embeddings carry nothing; says so in the log.

    Args:
        scores: with `..._cosine` of groups of embeddings.

    Returns:
        `collapsed`: how many of the groups have a mean cosine above `COLLAPSED`.
    """
    alike = [name for name, value in scores.items() if _is_collapsed(name, value)]
    if alike:
        log.warning(
            "collapse: embeddings of different scenes are nearly equal, mean cosine %s; they "
            "carry nothing. Lower optimizer.learning_rate, or start from trained CLIP weights",
            ", ".join(f"{name.removesuffix('_cosine')} {scores[name]:.4f}" for name in alike),
        )
    return {"collapsed": float(len(alike))}


def _is_collapsed(name: str, value: float) -> bool:
    return name.endswith("_cosine") and value > COLLAPSED


def has_learned(hits: int, images: int, chance: float) -> bool:
    """Whether guessing would find that many captions in fewer than one of a thousand trials.

    Args:
        hits: images that found their caption.
        images: all.
        chance: probability that a guess is right.
    """
    tail = math.fsum(
        math.comb(images, k) * chance**k * (1 - chance) ** (images - k)
        for k in range(hits, images + 1)
    )
    return tail < 1e-3


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
        indices = spread(len(embeddings), most)
        rows.append(F.normalize(embeddings.float(), dim=-1).numpy()[indices])
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
