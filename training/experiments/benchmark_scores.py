"""Scores of the synthetic benchmark: per scene, so that differences come with their spread."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.files import replacing
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_core.labels.tables import SYNTHETIC_STREET
from segrgbx_core.runtime.segmenter import InferenceConfig
from training.data.datasets import Labelled, Reader, open_reader
from training.data.datasets.synthetic import XSource
from training.eval.scoring import evaluate

_BETWEEN = "|"
_RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Score:
    """One model on one kind of X.

    Attributes:
        scenes: int64 (S, C, C + 1), confusion matrix of each scene.
        groups: which scenes have a light or a failing camera, by its name; `normal` for none.
    """

    scenes: NDArray[np.int64]
    groups: Mapping[str, NDArray[np.int64]]

    @property
    def miou(self) -> float:
        """Mean IoU in per cent over the classes that occur."""
        return self.classes_iou(())

    def group_miou(self, name: str) -> float:
        """Mean IoU of a group in per cent, NaN where it has no scene."""
        return self.of(name).miou if name in self.groups else float("nan")

    def of(self, name: str) -> Score:
        """The scenes of a group alone."""
        return Score(self.scenes[self.groups[name]], {})

    def classes_iou(self, names: Sequence[str]) -> float:
        """Mean IoU of the named classes in per cent; of all that occur for no names."""
        return 100 * miou_of(self.scenes.sum(axis=0), names)

    def save(self, path: Path) -> None:
        """Writes an npz file, atomically."""
        groups: dict[str, Any] = {f"group {name}": one for name, one in self.groups.items()}
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, scenes=self.scenes, **groups)

    @classmethod
    def load(cls, path: Path) -> Score:
        """Reads what `save` wrote."""
        with np.load(path) as archive:
            groups = {
                name.removeprefix("group "): archive[name]
                for name in archive.files
                if name.startswith("group ")
            }
            return cls(archive["scenes"], groups)


class _ByScene:
    """A reader whose samples are grouped by scene; its name holds light and failure, or `normal`.

    All frames of a scene have the same light and failure.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.native, self.modality = reader.native, reader.modality
        self.sensor: Any = getattr(reader, "sensor", None)

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Labelled:
        item = self._reader[index]
        # Facts are the time of day and, if any, the failure.
        facts = (*item.groups, "normal")[:2]
        scene = item.name.split("_", maxsplit=1)[0]
        return replace(item, groups=(_BETWEEN.join((scene, *facts)),))


def score(checkpoint: Path, data: Path, modality: Modality, x: XSource, device: str) -> Score:
    """Scores a checkpoint on the test scenes.

    Args:
        checkpoint: what is scored.
        data: folder with the rendered split `test`.
        modality: which X.
        x: the sensor's own data or a control.
        device: auto or cpu.
    """
    reader = open_reader("synthetic_street", data, "test", modality, {"x": x.value})
    report = evaluate(checkpoint, _ByScene(reader), InferenceConfig(device=device))
    names = sorted(report.groups)
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        for fact in name.split(_BETWEEN)[1:]:
            members.setdefault(fact, []).append(index)
    groups = {fact: np.array(indices) for fact, indices in members.items()}
    return Score(np.stack([report.groups[name].matrix for name in names]), groups)


def miou_of(matrix: NDArray[np.int64], names: Sequence[str] = ()) -> float:
    """Mean IoU in [0, 1] of a matrix (C, C + 1) over the named classes, or all, that occur."""
    confusion = ConfusionMatrix(len(matrix))
    confusion.matrix += matrix
    ids = [SYNTHETIC_STREET.names.index(name) for name in names]
    return confusion.miou(classes=ids or None)


@dataclass(frozen=True)
class Difference:
    """How much one model is better than another on the same scenes, in points of mIoU.

    Attributes:
        mean: over training seeds.
        scene_sd: standard deviation from the choice of test scenes (paired bootstrap).
        seed_sd: standard deviation over training seeds, None for one seed.
        seeds: number of training seeds.
        scenes: number of test scenes.
    """

    mean: float
    scene_sd: float
    seed_sd: float | None
    seeds: int
    scenes: int

    @property
    def spread(self) -> float:
        """Standard error of `mean` from scenes and seeds together."""
        seed_part = 0.0 if self.seed_sd is None else self.seed_sd**2 / self.seeds
        return float(np.sqrt(self.scene_sd**2 + seed_part))


def difference(
    ours: Sequence[Score], theirs: Sequence[Score], group: str = "", names: Sequence[str] = ()
) -> Difference:
    """Compares two arms seed by seed and scene by scene.

    Args:
        ours: one score per training seed.
        theirs: the same seeds and scenes.
        group: compares these scenes alone; empty for all.
        names: compares these classes alone; none for all.
    """
    if group:
        ours, theirs = ([one.of(group) for one in arm] for arm in (ours, theirs))
    return mean_difference([(ours, theirs)], names)


def mean_difference(
    pairs: Sequence[tuple[Sequence[Score], Sequence[Score]]], names: Sequence[str] = ()
) -> Difference:
    """Mean over several comparisons of the same scenes, such as those of five modalities.

    They share scenes and models, so their errors go together: the mean is taken within each
    resampling of the scenes and within each training seed.

    Args:
        pairs: what `difference` takes, with equal seeds and scenes throughout.
        names: compares these classes alone; none for all.
    """
    values = np.array(
        [[[one.classes_iou(names) for one in arm] for arm in pair] for pair in pairs]
    )
    gains = (values[:, 0] - values[:, 1]).mean(axis=0)
    sums = [[sum(one.scenes for one in arm) for arm in pair] for pair in pairs]
    count = len(pairs[0][0][0].scenes)
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(_RESAMPLES):
        drawn = np.bincount(rng.integers(0, count, count), minlength=count)
        found = np.array(
            [
                [miou_of(np.tensordot(drawn, matrices, axes=1), names) for matrices in pair]
                for pair in sums
            ]
        )
        resampled.append(100 * (found[:, 0] - found[:, 1]).mean())
    return Difference(
        mean=float(np.mean(gains)),
        scene_sd=float(np.std(resampled)),
        seed_sd=float(np.std(gains, ddof=1)) if len(gains) > 1 else None,
        seeds=len(gains),
        scenes=count,
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes plain values; what is not a number becomes null."""
    text = json.dumps(_without_nan(content), indent=1, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value
