"""The synthetic benchmark: which scenes are rendered, what is scored on them, and the scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from segrgbx_core.base.modality import MODALITIES, Modality
from training.data.datasets.synthetic import XSource
from training.experiments.trials import Difference, SceneScores, difference, score_scenes
from training.experiments.variants import (
    BENCHMARK,
    EQUAL_PER_MODALITY,
    RGB_ONLY,
    SPECIALISTS,
    Scale,
    Variant,
    seeds_of,
)
from training.world.config import TEST_SEEDS, TRAIN_SEEDS, Corruption, WorldConfig
from training.world.render import Job, claim_folder, frame_times, render_all

FIRST_TEST_SEED = TEST_SEEDS.start + 1000
"""Behind the scenes of the shipped recordings."""
GROUPS = {
    "normal": "no failure",
    "over_exposure": "over-exposed RGB",
    "under_exposure": "under-exposed RGB",
    "motion_blur": "blurred RGB",
    "event_low_resolution": "coarse events",
    "night": "night",
}
"""Groups of the robustness table, with their titles."""
ROBUSTNESS = {
    "RGB only": RGB_ONLY,
    **{f"RGB + {one.modalities[0].facts.title.lower()}": one for one in SPECIALISTS},
}
"""Rows of the robustness table by title; all of equal steps and of one modality."""


def render_scenes(data: Path, scale: Scale, workers: int) -> None:
    """Renders both splits with all five sensors; half of the scenes with a failing camera."""
    config = WorldConfig(width=scale.width, height=scale.height, corruption=Corruption.ANY)
    parts = (
        ("train", TRAIN_SEEDS.start, scale.train_scenes, 2),
        ("test", FIRST_TEST_SEED, scale.test_scenes, 1),
    )
    for split, first, scenes, frames in parts:
        folder = data / split
        claim_folder(folder, config)
        if len(list(folder.glob("*.npz"))) == scenes * frames:
            continue
        jobs = [
            Job(seed, frame_times(seed, frames), MODALITIES, config, folder)
            for seed in range(first, first + scenes)
        ]
        render_all(jobs, workers)


@dataclass(frozen=True)
class Measurement:
    """One model scored with one kind of X.

    Attributes:
        variant: which model.
        seed: of its training.
        modality: of the test samples.
        x: the sensor's own data or a control.
    """

    variant: Variant
    seed: int
    modality: Modality
    x: XSource

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.variant.name}_{self.seed}_{self.modality}_{self.x.value}"


def measurements(scale: Scale) -> Iterator[Measurement]:
    """Everything that is scored: each variant on its own X, some with controls in its place."""
    for variant in BENCHMARK:
        for seed in seeds_of(variant, scale):
            for modality in variant.modalities:
                yield Measurement(variant, seed, modality, variant.x)
                if variant in (*SPECIALISTS, EQUAL_PER_MODALITY):
                    yield Measurement(variant, seed, modality, XSource.OTHER)
                if variant is EQUAL_PER_MODALITY:
                    yield Measurement(variant, seed, modality, XSource.NONE)


def score_all(
    scale: Scale, checkpoints: Mapping[str, Path], data: Path, out: Path, device: str
) -> dict[str, SceneScores]:
    """Takes every measurement, by its name; scores that are in `out` already are kept."""
    out.mkdir(parents=True, exist_ok=True)
    scores = {}
    for one in tqdm(list(measurements(scale)), unit="score", desc="scoring"):
        path = out / f"{one.name}.npz"
        if not path.exists():
            checkpoint = checkpoints[f"{one.variant.name}_{one.seed}"]
            score_scenes(checkpoint, data, one.modality, one.x, device).save(path)
        scores[one.name] = SceneScores.load(path)
    return scores


@dataclass(frozen=True, eq=False)
class BenchmarkScores:
    """Everything that a benchmark has measured.

    Attributes:
        name: of the scale.
        scale: its sizes.
        scores: by name of the measurement.
        minutes: wall clock of this call.
    """

    name: str
    scale: Scale
    scores: Mapping[str, SceneScores]
    minutes: float

    def of(
        self, variant: Variant, modality: Modality | None = None, x: XSource | None = None
    ) -> list[SceneScores]:
        """Scores of a variant, one per training seed.

        Args:
            variant: which model.
            modality: of the test samples; left out: the first that it was trained for.
            x: left out: what it was trained on.
        """
        modality = variant.modalities[0] if modality is None else modality
        x = variant.x if x is None else x
        return [
            self.scores[Measurement(variant, seed, modality, x).name]
            for seed in seeds_of(variant, self.scale)
        ]

    def miou(
        self, variant: Variant, modality: Modality | None = None, x: XSource | None = None
    ) -> float:
        """Mean over seeds, per cent; as `of`."""
        return float(np.mean([one.miou for one in self.of(variant, modality, x)]))

    def group_miou(self, variant: Variant, group: str) -> float:
        """Mean over seeds on a group's scenes, per cent; NaN where the group has no scene."""
        return float(np.mean([one.group_miou(group) for one in self.of(variant)]))

    def classes_iou(
        self, variant: Variant, names: Sequence[str], modality: Modality | None = None
    ) -> float:
        """Mean over seeds and classes, per cent; as `of`."""
        return float(np.mean([one.classes_iou(names) for one in self.of(variant, modality)]))

    def groups(self) -> dict[str, int]:
        """The groups of `GROUPS` that have scenes, with the number of them."""
        members = self.of(RGB_ONLY)[0].groups
        return {group: len(members[group]) for group in GROUPS if group in members}

    def gain(self, variant: Variant, other: Variant, group: str = "") -> Difference:
        """How much a specialist is better than a control, on a group's scenes or on all."""
        return difference(self.of(variant), self.of(other), group)
