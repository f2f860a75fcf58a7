"""Which labels every pair publishes: label space, classes of the vehicle's own, colours, ids.

The same for node and replay. Free of torch: the segmenter is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.samples import Array, Prediction, RgbxSample
from segrgbx_core.labels.label_space import VOID, PublishedLabels
from segrgbx_ros.config.node import NodeConfig
from segrgbx_ros.messages.labels import read_label_file, read_palette_file

if TYPE_CHECKING:
    from segrgbx_core.runtime.segmenter import Segmenter  # torch ring: never imported

Labels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PairLabels:
    """Labels of one pair.

    Attributes:
        space: label space that the model is asked for.
        classes: what goes out, with the id of pixels without an answer.
        table: uint8 (256,), published id by the model's one; None where they are the same.
    """

    space: str
    classes: PublishedLabels
    table: Labels | None = None

    def grouped(self, labels: Labels) -> Labels:
        """Ids of the published classes from ids of the label space; void stays void."""
        return labels if self.table is None else np.asarray(cv2.LUT(labels, self.table))

    def finished(self, answer: Prediction) -> Prediction:
        """An answer of the model with the published classes' ids."""
        if self.table is None:
            return answer
        return replace(answer, labels=self.grouped(answer.labels))


class PairPredictor:
    """Asks a segmenter for every pair's own labels.

    Args:
        segmenter: the loaded model.
        labels: by pair.
        min_confidence: pixels whose class is less probable become void, in [0, 1].
        fused: names of fused masks and of their members.

    Attributes:
        min_confidence: may change between calls.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        labels: Mapping[str, PairLabels],
        min_confidence: float = 0.0,
        fused: Iterable[str] = (),
    ) -> None:
        self._segmenter = segmenter
        self._fused = frozenset(fused)
        self._labels = labels
        self.min_confidence = min_confidence

    def predict(self, samples: Sequence[RgbxSample], streams: Sequence[str]) -> list[Prediction]:
        """Answers one batch of live samples; `streams` are the names of their pairs."""
        labels = [self._labels[pair] for pair in streams]
        spaces = [one.space for one in labels]
        more = (True,) if self._fused.intersection(streams) else ()
        answers = self._segmenter.predict(samples, streams, spaces, self.min_confidence, *more)
        return [one.finished(answer) for one, answer in zip(labels, answers, strict=True)]

    def answer(self, sample: RgbxSample, pair: str) -> Prediction:
        """Answers one sample for itself: nothing is kept of others of its pair."""
        labels = self._labels[pair]
        more = (True,) if pair in self._fused else ()
        (answer,) = self._segmenter.predict(
            [sample], (), [labels.space], self.min_confidence, *more
        )
        return labels.finished(answer)

    def fuse(self, name: str, members: Sequence[Prediction], rgb: Prediction | None) -> Prediction:
        """One answer from those of a fused mask's members.

        Args:
            name: of the fused mask.
            members: answers of `predict` or `answer`.
            rgb: the answer to RGB alone, asked under the fused mask's name; None for one member.
        """
        labels = self._labels[name]
        answer = self._segmenter.fuse(members, rgb, labels.space, self.min_confidence)
        return labels.finished(answer)

    def forget(self) -> None:
        """Drops what is kept of streams; in the thread that predicts."""
        self._segmenter.forget_scenes()


def pair_labels(config: NodeConfig, segmenter: Segmenter) -> dict[str, PairLabels]:
    """Labels of every pair and of every fused mask.

    Raises:
        ConfigError: when the checkpoint lacks a label space, a file does not fit it, or
            the id of pixels without an answer is a class's.
    """
    labels = {pair: _labels(config, segmenter, config.label_space(pair)) for pair in config.pairs}
    fused = config.fuse.members()
    return labels | {name: labels[members[0]] for name, members in fused.items()}


def published_ids(labels: Labels, unlabeled_id: int, is_wide: bool) -> Array:
    """The ids as images hold them.

    Args:
        labels: uint8, void where there is no answer.
        unlabeled_id: what void is called outside.
        is_wide: True for uint16.
    """
    ids: Array = labels.astype(np.uint16) if is_wide else labels
    if unlabeled_id == VOID:
        return ids
    return np.where(labels == VOID, unlabeled_id, ids).astype(ids.dtype)


def _labels(config: NodeConfig, segmenter: Segmenter, space: str) -> PairLabels:
    classes, table, label = segmenter.classes_of(space), None, config.label
    if label.file:
        classes, table = read_label_file(Path(label.file), classes)
    if label.palette_file:
        classes = read_palette_file(Path(label.palette_file), classes)
    _check_unlabeled(label.unlabeled_id, classes)
    return PairLabels(space, replace(classes, unlabeled_id=label.unlabeled_id), table)


def _check_unlabeled(unlabeled_id: int, classes: PublishedLabels) -> None:
    taken = dict(zip(classes.ids, classes.names, strict=True))
    if unlabeled_id in taken:
        raise ConfigError(
            f"label.unlabeled_id: {unlabeled_id} is the id of '{taken[unlabeled_id]}'; use one "
            f"above {max(taken)}"
        )
