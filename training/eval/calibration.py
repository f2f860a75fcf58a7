"""Confidence that is a probability: a temperature per X sensor, and how far off confidences are.

A network's softmax is usually too sure. Dividing its logits by one number, the temperature, mends
most of that and changes no label (Guo et al. 2017, "On Calibration of Modern Neural Networks").

Legend: P pixels, C classes, K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from segrgbx_core.base.errors import DataError
from segrgbx_core.labels.label_space import UNIFIED, VOID
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from training.data.datasets import require_same_classes, spread
from training.eval.eval_data import EvalSplit
from training.eval.test_time_augmentation import ClassProbabilities

BINS = 15
LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures are looked for in between."""
_STEPS = 40
_LEAST_PROBABILITY = 1e-30
_INK, _OFF = "#2f6690", "#d1495b"


@dataclass(frozen=True, eq=False)
class LabelledLogits:
    """What a checkpoint answers at labelled pixels.

    Attributes:
        logits: float32 (P, C), up to a constant per pixel.
        labels: int64 (P,), class of each pixel.
    """

    logits: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Reliability:
    """How confidences and accuracy agree.

    Attributes:
        confidence: mean confidence per bin, float64 (K,); NaN for an empty bin.
        accuracy: share of right pixels per bin, float64 (K,); NaN for an empty bin.
        share: share of the pixels per bin, float64 (K,).
        ece: expected calibration error: mean gap between both, weighed by the shares, in [0, 1].
        nll: mean negative logarithm of the true class's probability.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    share: NDArray[np.float64]
    ece: float
    nll: float


@torch.no_grad()
def labelled_logits(
    checkpoint: Path | str,
    splits: Sequence[EvalSplit],
    config: InferenceConfig | None = None,
    *,
    space: str = "",
    pixels: int = 2000,
    limit: int = 0,
) -> LabelledLogits:
    """Answers of a checkpoint at random labelled pixels, without the temperatures that it has.

    Args:
        checkpoint: file to load.
        splits: of one data set and modality.
        config: device, precision and size.
        space: label space to choose among; empty for the data set's own classes.
        pixels: per frame; the same ones in every call.
        limit: frames per split, evenly spread; 0 for all.

    Raises:
        DataError: where no pixel is labelled, and as `training.eval.scoring.evaluate`.
    """
    native = splits[0].reader.native
    space = space or native
    logits, labels = [], []
    for split in splits:
        segmenter = Segmenter.from_checkpoint(checkpoint, config, split.sensors, label_space=space)
        require_same_classes(split.reader, segmenter.label_space, f"checkpoint {checkpoint}")
        classes = ClassProbabilities(segmenter)
        for index in tqdm(spread(len(split.reader), limit), desc=native, leave=False):
            item = split.reader[index]
            truth = item.labels
            if space == UNIFIED:
                truth = segmenter.label_space.unify(truth, native)
            rng = np.random.default_rng(index)
            known = np.flatnonzero(truth != VOID)
            if not len(known):
                continue
            chosen = np.sort(rng.choice(known, min(pixels, len(known)), replace=False))
            [answer] = classes.probabilities([classes.encode(item.sample)])  # (C, H, W)
            places = torch.from_numpy(chosen).to(answer.device)
            picked = answer.flatten(1)[:, places].T.clamp(min=_LEAST_PROBABILITY).log()
            logits.append(picked.cpu())
            labels.append(torch.from_numpy(truth.ravel()[chosen].astype(np.int64)))
    if not logits:
        raise DataError(f"{native}: no pixel of the split has a label; choose another split")
    return LabelledLogits(torch.cat(logits), torch.cat(labels))


def fit_temperature(data: LabelledLogits) -> float:
    """The temperature that makes the labels most probable, in [`LOWEST`, `HIGHEST`].

    The loss is convex in one over the temperature, so halving an interval finds the only minimum.
    """
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(data, middle) > 0 else (middle, high)
    return float(2 / (low + high))


def _slope(data: LabelledLogits, factor: float) -> float:
    """Derivative of the mean loss by the factor on the logits."""
    probability = (data.logits * factor).softmax(dim=1)
    own = data.logits.gather(1, data.labels[:, None])[:, 0]
    return float(((probability * data.logits).sum(dim=1) - own).double().mean())


def reliability(data: LabelledLogits, temperature: float = 1.0) -> Reliability:
    """How confidences at a temperature agree with how often the answers are right."""
    logits = data.logits / temperature
    confidence, answer = logits.softmax(dim=1).max(dim=1)
    is_right = (answer == data.labels).double().numpy()
    sure = confidence.double().numpy()
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, sure, BINS) / count
        accuracy = np.bincount(place, is_right, BINS) / count
    share = count / max(1, count.sum())
    gap = np.nan_to_num(np.abs(mean - accuracy))
    loss = float(F.cross_entropy(logits, data.labels))
    return Reliability(mean, accuracy, share, float((gap * share).sum()), loss)


def draw_reliability(
    before: Reliability, after: Reliability, path: Path | str, title: str
) -> None:
    """Draws accuracy over confidence, before and after; the diagonal is what should be.

    Args:
        before: without a temperature.
        after: with it.
        path: image file; its ending chooses the format.
        title: heading.
    """
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    for axes, name, one in zip(
        figure.subplots(1, 2, sharey=True), ("before", "after"), (before, after), strict=True
    ):
        edges = np.arange(BINS) / BINS
        axes.bar(edges, one.accuracy, 1 / BINS, align="edge", color=_INK, edgecolor="white")
        axes.bar(edges, one.share, 1 / BINS, align="edge", color=_OFF, alpha=0.45)
        axes.plot([0, 1], [0, 1], color="#30343c", linewidth=1, linestyle="--")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", aspect="equal")
        axes.set_title(f"{name}: ECE {100 * one.ece:.2f} %", fontsize=10, loc="left")
    figure.axes[0].set_ylabel("share that is right (blue), share of pixels (red)")
    figure.savefig(path, dpi=110)
