"""Segmentation metrics: confusion matrix, intersection over union, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.tables import rounded
from segrgbx_core.labels.label_space import VOID


class AbsentClass(str, Enum):
    """How mIoU treats classes that are in neither truth nor prediction."""

    SKIP = "skip"
    """Left out of the mean."""
    ZERO = "zero"
    """Counts as IoU 0."""


class ConfusionMatrix:
    """Pixel counts of truth against prediction.

    Pixels whose truth is void do not count. A void prediction is a miss of its truth's class.

    Attributes:
        matrix: int64 (C, C + 1), rows truth, columns prediction, the last column void predictions.
    """

    def __init__(self, num_classes: int) -> None:
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return int(self.matrix.shape[0])

    @property
    def num_pixels(self) -> int:
        """Pixels counted: all whose truth is not void."""
        return int(self.matrix.sum())

    def update(self, truth: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Counts the pixels of label maps.

        Args:
            truth: uint8, any shape, `VOID` where unknown.
            labels: uint8, same shape, `VOID` where unlabeled.

        Raises:
            DataError: when shapes or dtypes differ or an id is no class.
        """
        if truth.shape != labels.shape:
            raise DataError(
                f"labels are {labels.shape} but truth is {truth.shape}; same size needed"
            )
        if truth.dtype != np.uint8 or labels.dtype != np.uint8:
            raise DataError(f"truth is {truth.dtype} and labels {labels.dtype}; expected uint8")
        joint = truth.ravel().astype(np.uint16) * np.uint16(256) + labels.ravel()
        pairs = np.bincount(joint, minlength=256 * 256).reshape(256, 256)
        known, count = pairs[:VOID], self.num_classes
        for what, ids in (("truth", known.sum(axis=1)), ("labels", known[:, :VOID].sum(axis=0))):
            if ids[count:].any():
                wrong = count + int(np.flatnonzero(ids[count:])[0])
                raise DataError(f"{what}: id {wrong} is none of {count} classes and not void")
        self.matrix[:, :count] += known[:count, :count]
        self.matrix[:, count] += known[:count, VOID]

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds the counts of another matrix, such as another worker's."""
        if other.num_classes != self.num_classes:
            raise DataError(f"{other.num_classes} classes cannot be added to {self.num_classes}")
        self.matrix += other.matrix

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class, float64 (C,), NaN for classes that appear nowhere."""
        return iou_of(self.matrix)

    def accuracy(self) -> NDArray[np.float64]:
        """Share of each class's pixels that are right, float64 (C,), NaN without such pixels."""
        hits = np.diagonal(self.matrix).astype(np.float64)
        total = self.matrix.sum(axis=1)
        return np.divide(hits, total, out=np.full_like(hits, np.nan), where=total > 0)

    def miou(
        self, absent: AbsentClass = AbsentClass.SKIP, classes: Sequence[int] | None = None
    ) -> float:
        """Mean IoU in [0, 1].

        Args:
            absent: what classes count that appear in neither truth nor prediction.
            classes: ids to average over; all when left out.

        Returns:
            NaN when no class is left to average.
        """
        values = self.iou()
        if classes is not None:
            values = values[np.asarray(classes, dtype=np.intp)]
        if absent is AbsentClass.ZERO:
            values = np.nan_to_num(values, nan=0.0)
        values = values[~np.isnan(values)]
        return float(values.mean()) if values.size else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right, NaN when none was counted."""
        total = self.num_pixels
        return float(np.trace(self.matrix[:, :-1]) / total) if total else float("nan")

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values for JSON reports; undefined ones are None.

        Args:
            names: of the classes.
        """
        return {
            "miou": {absent.value: rounded(self.miou(absent)) for absent in AbsentClass},
            **{metric.key: rounded(metric.value(self)) for metric in METRICS},
            "num_pixels": self.num_pixels,
            "iou": {name: rounded(v) for name, v in zip(names, self.iou(), strict=True)},
            "accuracy": {name: rounded(v) for name, v in zip(names, self.accuracy(), strict=True)},
            "matrix": self.matrix.tolist(),
        }


def iou_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union per class; NaN for classes that appear nowhere.

    Args:
        counts: int64 (..., C, C + 1), confusion matrices.

    Returns:
        float64 (..., C).
    """
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    union = counts.sum(axis=-1) + counts[..., :-1].sum(axis=-2) - hits
    return np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)


@dataclass(frozen=True)
class Metric:
    """A figure of a whole confusion matrix besides mIoU."""

    key: str
    """Its name in JSON."""
    title: str
    """Its name in tables."""
    value: Callable[[ConfusionMatrix], float]
    """A share in [0, 1]; NaN where undefined."""


METRICS = (Metric("pixel_accuracy", "pixel accuracy", ConfusionMatrix.pixel_accuracy),)
"""What every report of scores states beside mIoU, over all samples and by group."""
