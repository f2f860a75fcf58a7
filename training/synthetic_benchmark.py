"""The synthetic benchmark: is X used, what is it worth, and does one model do for all five?

python -m training.synthetic_benchmark --scale reduced --out runs/synthetic_benchmark

Renders fixed scenes (train and test seeds never meet), trains every arm of
`experiments.benchmark_variants`, and writes `report.md`, `report.json` and charts. The same
command goes on where it stopped. Synthetic scenes only: nothing here speaks of real roads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.data.datasets.synthetic import XSource
from training.experiments.benchmark_page import Findings, write_page
from training.experiments.benchmark_scores import Score, score
from training.experiments.benchmark_variants import (
    ARMS,
    EQUAL_PER_MODALITY,
    SCALES,
    SPECIALISTS,
    Arm,
    Scale,
    run_of,
    seeds_of,
)
from training.experiments.parallel_runs import train_arms
from training.stage2.config import SegmentationRun
from training.world.config import TEST_SEEDS, TRAIN_SEEDS, Corruption, WorldConfig
from training.world.render import Job, claim_folder, frame_times, render_all

FIRST_TEST_SEED = TEST_SEEDS.start + 1000
"""Behind the scenes of the shipped recordings."""


@dataclass(frozen=True)
class Question:
    """One model put before one kind of X.

    Attributes:
        arm: which model.
        seed: of its training.
        modality: of the test samples.
        x: the sensor's own data or a control.
    """

    arm: Arm
    seed: int
    modality: Modality
    x: XSource

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.arm.name}_{self.seed}_{self.modality}_{self.x.value}"


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


def questions(scale: Scale) -> Iterator[Question]:
    """Everything that is scored: each arm on its own X, some with controls in its place."""
    for arm in ARMS:
        for seed in seeds_of(arm, scale):
            for modality in arm.serves:
                yield Question(arm, seed, modality, arm.x)
                if arm in (*SPECIALISTS, EQUAL_PER_MODALITY):
                    yield Question(arm, seed, modality, XSource.OTHER)
                if arm is EQUAL_PER_MODALITY:
                    yield Question(arm, seed, modality, XSource.NONE)


def score_all(
    scale: Scale, checkpoints: Mapping[str, Path], data: Path, out: Path, device: str
) -> dict[str, Score]:
    """Answers every question, by its name; answers that are there are kept."""
    out.mkdir(parents=True, exist_ok=True)
    scores = {}
    for asked in tqdm(list(questions(scale)), unit="score", desc="scoring"):
        path = out / f"{asked.name}.npz"
        if not path.exists():
            checkpoint = checkpoints[f"{asked.arm.name}_{asked.seed}"]
            score(checkpoint, data, asked.modality, asked.x, device).save(path)
        scores[asked.name] = Score.load(path)
    return scores


def runs_of(
    scale: Scale, data: Path, out: Path, overrides: Sequence[str] = ()
) -> dict[str, SegmentationRun]:
    """Every training of the benchmark, the longest first so that processes end together."""
    arms = sorted(ARMS, key=lambda arm: -arm.share)
    return {
        f"{arm.name}_{seed}": run_of(arm, seed, scale, data, out, overrides)
        for arm in arms
        for seed in seeds_of(arm, scale)
    }


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user."""
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("--scale", choices=list(SCALES), default="reduced")
    add("--out", type=user_path, default=Path("runs/synthetic_benchmark"))
    add("--data", type=user_path, help="folder of rendered scenes (default: OUT/data)")
    add("--workers", type=int, default=2, help="processes that render and train")
    add("--device", default="auto", help="auto or cpu")
    add_set_option(parser, "changes every run")
    options = parser.parse_args(argv)
    scale, out = SCALES[options.scale], options.out / options.scale
    data = options.data or out / "data"
    began = time.monotonic()
    render_scenes(data, scale, options.workers)
    device = [f"run.device={options.device}"]
    runs = runs_of(scale, data, out / "runs", [*device, *options.set])
    checkpoints = train_arms(runs, options.workers)
    scores = score_all(scale, checkpoints, data, out / "scores", options.device)
    minutes = (time.monotonic() - began) / 60
    page = write_page(out, Findings(options.scale, scale, scores, minutes))
    print(f"{page}: {minutes:.1f} minutes, {len(runs)} trainings, {len(scores)} scores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
