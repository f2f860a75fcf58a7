"""Trainings of an experiment and what they scored, kept on disk; differences with their errors."""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segrgbx_core.base.arrays import read_arrays
from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.files import read_json, replacing, write_text
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array
from segrgbx_core.labels.metrics import iou_of
from segrgbx_core.labels.tables import SYNTHETIC_STREET
from segrgbx_core.runtime.segmenter import InferenceConfig
from training.data.datasets import Labelled, Reader, open_reader
from training.data.datasets.synthetic import XSource
from training.engine.config import scoring_options
from training.engine.loop import TrainingDivergedError, clock
from training.engine.run import git_commit, other_options
from training.eval.scoring import evaluate
from training.experiments.variants import Variant
from training.stage2.config import SegmentationRun
from training.stage2.task import train
from training.world.processes import processes

log = logging.getLogger(__name__)

_BETWEEN = "|"
_RESAMPLES = 1000
_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t, two-sided 95 %, for 1 to 9 degrees of freedom; more are treated as 9."""


@dataclass(frozen=True)
class Trial:
    """One variant trained with one seed.

    Attributes:
        variant: row of an ablation.
        config: the whole run; `run.out` is this trial's own folder.
    """

    variant: Variant
    config: SegmentationRun

    @property
    def seed(self) -> int:
        """Random seed of the run."""
        return self.config.run.seed

    @property
    def folder(self) -> Path:
        """Where the trial trains."""
        return Path(self.config.run.out)

    @property
    def result_path(self) -> Path:
        """Exists once the trial is trained and scored."""
        return self.folder / "result.json"

    def result(self) -> dict[str, Any] | None:
        """What the trial scored; None while it is not finished.

        Raises:
            ConfigError: when the folder holds a trial with other options.
        """
        if not self.result_path.exists():
            return None
        advice = "remove the folder to train anew"
        kept: dict[str, Any] = read_json(self.result_path, ConfigError, advice)
        try:
            others = self._other_options(kept["recipe"])
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigError(
                f"{self.result_path}: is no result of a trial ({error!r}); {advice}"
            ) from None
        if others:
            raise ConfigError(
                f"{self.result_path}: was trained with other options: {others[0]}; choose another "
                "--out, or remove the folder to train anew"
            )
        return kept

    def recipe(self) -> dict[str, Any]:
        """The whole run, as plain values."""
        return to_plain(self.config)

    def _other_options(self, recipe: dict[str, Any]) -> list[str]:
        run = {"out": str(self.folder), **recipe["run"]}  # which earlier versions left out
        begun = from_mapping(SegmentationRun, {**recipe, "run": run}, str(self.result_path))
        # Other data, and when a checkpoint is scored, change no step but the trial's result.
        roots = {f"data.{position}.root" for position in range(len(self.config.data))}
        scoring = {"run.score_every", "run.score_samples", "run.patience"}
        return other_options(begun, self.config, roots | scoring)

    def score(self, checkpoint: Path) -> None:
        """Scores the trained checkpoint on all val splits and keeps the result."""
        config = self.config
        scores: list[dict[str, Any]] = []
        for data in config.data:
            reader = data.open(data.val_split)
            report = evaluate(checkpoint, reader, scoring_options(config.run), config.sensor)
            scores.append(
                {
                    "data": f"{data.reader} {data.modality}",
                    "miou_percent": 100 * report.miou,
                    "samples": report.samples,
                }
            )
        result = {
            "seed": self.seed,
            "checkpoint": checkpoint.name,
            "scores": scores,
            "miou_percent": sum(score["miou_percent"] for score in scores) / len(scores),
            "commit": git_commit(),
            "recipe": self.recipe(),
        }
        text = json.dumps(result, indent=1, allow_nan=False)
        write_text(self.result_path, f"{text}\n")


def run_trials(trials: Sequence[Trial]) -> Iterator[tuple[Trial, str]]:
    """Trains and scores what is not finished, one after the other.

    Yields:
        every trial after its turn, with the reason when its loss diverged, else an empty text.
    """
    unfinished = [trial for trial in trials if trial.result() is None]
    log.info("%d of %d trials are finished", len(trials) - len(unfinished), len(trials))
    spent = 0.0
    for number, trial in enumerate(unfinished, start=1):
        log.info(
            "trial %d of %d: %s, seed %d, in %s",
            number, len(unfinished), trial.variant.title, trial.seed, trial.folder,
        )  # fmt: skip
        began = time.perf_counter()
        try:
            best = train(trial.config)
        except TrainingDivergedError as error:
            log.warning("%s, seed %d diverged: %s", trial.variant.title, trial.seed, error)
            yield trial, str(error)
            continue
        if is_first_process():
            trial.score(best)
        spent += time.perf_counter() - began
        left = spent / number * (len(unfinished) - number)
        log.info("trial %d of %d done; about %s left", number, len(unfinished), clock(left))
        yield trial, ""


def is_first_process() -> bool:
    """True in the process that scores and writes pages, of those of `accelerate launch`."""
    return int(os.environ.get("RANK", "0")) == 0


def train_in_parallel(
    runs: Mapping[str, SegmentationRun], workers: int, poll_s: float = 2.0
) -> dict[str, Path]:
    """Trains every run to its end, several at a time, with one progress bar over all steps.

    Runs that have ended are not repeated, broken ones go on where they stopped. The log of a run
    is `log.txt` in its folder.

    Args:
        runs: by name; each with a folder of its own.
        workers: processes; give each run `run.threads` so that they do not fight for processors.
        poll_s: seconds between two readings of the runs' logs.

    Returns:
        the last checkpoint of each run: of equal training, and chosen by no score.

    Raises:
        SegrgbxError: of the first run that fails.
    """
    total = sum(run.run.steps for run in runs.values())
    with (
        processes(workers) as pool,
        tqdm(total=total, unit="step", desc=f"training {len(runs)} models", smoothing=0.02) as bar,
    ):
        jobs = [pool.submit(_train, run) for run in runs.values() if not has_ended(run)]
        while not _update(jobs, list(runs.values()), bar):
            time.sleep(poll_s)
    return {name: Path(run.run.out) / "last.safetensors" for name, run in runs.items()}


def has_ended(run: SegmentationRun) -> bool:
    """Whether a run's folder holds its last checkpoint, of all steps."""
    done = (Path(run.run.out) / "last.safetensors").exists()
    return done and steps_done(run.run.out) >= run.run.steps


def steps_done(out: Path | str) -> int:
    """The last step in a run's log of metrics; 0 before the first."""
    path = Path(out) / "metrics.jsonl"
    if not path.exists():
        return 0
    # What stands behind the last line break is being written at this moment.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _update(jobs: Sequence[Future[None]], runs: Sequence[SegmentationRun], bar: tqdm[Any]) -> bool:
    """Moves the bar; True when all runs have ended."""
    has_ended = all(job.done() for job in jobs)
    bar.update(sum(steps_done(run.run.out) for run in runs) - bar.n)
    for job in jobs:
        if job.done():
            job.result()  # raises what the run raised
    return has_ended


def _train(run: SegmentationRun) -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    # Several processes' bars and warnings would write over each other.
    folder = Path(run.run.out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stderr.txt").open("a") as file, redirect_stderr(file):
        train(run)


@dataclass(frozen=True, eq=False)
class SceneScores:
    """One model on one kind of X, scene by scene, so that differences come with their errors.

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

    def of(self, name: str) -> SceneScores:
        """The scenes of a group alone."""
        return SceneScores(self.scenes[self.groups[name]], {})

    def classes_iou(self, names: Sequence[str]) -> float:
        """Mean IoU of the named classes in per cent; of all that occur for no names."""
        return 100 * float(mious_of(self.scenes.sum(axis=0, keepdims=True), names)[0])

    def save(self, path: Path) -> None:
        """Writes an npz file, atomically."""
        groups: dict[str, Any] = {f"group {name}": one for name, one in self.groups.items()}
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, scenes=self.scenes, **groups)

    @classmethod
    def load(cls, path: Path) -> SceneScores:
        """Reads what `save` wrote.

        Raises:
            DataError: when the file is damaged or holds something else.
        """
        arrays = read_arrays(path)
        scenes = arrays.pop("scenes", np.empty(0))
        groups = {name.removeprefix("group "): one for name, one in arrays.items()}
        is_whole = scenes.ndim == 3 and scenes.shape[2] == scenes.shape[1] + 1
        if not is_whole or not all(_picks(one, len(scenes)) for one in groups.values()):
            raise DataError(f"{path}: holds no scores by scene; remove it to score anew")
        return cls(scenes, groups)


def _picks(indices: Array, count: int) -> bool:
    """Whether an array names some of `count` scenes."""
    is_whole = indices.ndim == 1 and indices.dtype.kind == "i" and indices.size > 0
    return is_whole and indices.min() >= 0 and indices.max() < count


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
        # The groups are the time of day and, if any, the failure.
        groups = (*item.groups, "normal")[:2]
        scene = item.name.split("_", maxsplit=1)[0]
        return replace(item, groups=(_BETWEEN.join((scene, *groups)),))


def score_scenes(
    checkpoint: Path, data: Path, modality: Modality, x: XSource, device: str
) -> SceneScores:
    """Scores a checkpoint on rendered test scenes.

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
        for group in name.split(_BETWEEN)[1:]:
            members.setdefault(group, []).append(index)
    groups = {group: np.array(indices) for group, indices in members.items()}
    return SceneScores(np.stack([report.groups[name].matrix for name in names]), groups)


def mious_of(matrices: NDArray[np.int64], names: Sequence[str] = ()) -> NDArray[np.float64]:
    """Mean IoU of each of several confusion matrices over the classes that occur in it.

    Args:
        matrices: int64 (N, C, C + 1).
        names: classes of the rendered street; all for none.

    Returns:
        float64 (N,) in [0, 1]; NaN where no class occurs.
    """
    iou = iou_of(matrices)
    if names:
        iou = iou[:, [SYNTHETIC_STREET.names.index(name) for name in names]]
    means = np.full(len(iou), np.nan)
    occurs = ~np.isnan(iou)
    for classes in np.unique(occurs, axis=0):
        if classes.any():
            rows = (occurs == classes).all(axis=1)
            means[rows] = np.ascontiguousarray(iou[np.ix_(rows, classes)]).mean(axis=1)
    return means


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
    def standard_error(self) -> float:
        """Standard error of `mean` from scenes and seeds together."""
        seed_part = 0.0 if self.seed_sd is None else self.seed_sd**2 / self.seeds
        return float(np.sqrt(self.scene_sd**2 + seed_part))

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.standard_error:.1f}"


def difference(
    ours: Sequence[SceneScores],
    theirs: Sequence[SceneScores],
    group: str = "",
    names: Sequence[str] = (),
) -> Difference:
    """Compares two variants seed by seed and scene by scene.

    Args:
        ours: scores, one per training seed.
        theirs: the same seeds and scenes.
        group: compares these scenes alone; empty for all.
        names: compares these classes alone; none for all.
    """
    if group:
        ours, theirs = ([one.of(group) for one in scores] for scores in (ours, theirs))
    return mean_difference([(ours, theirs)], names)


def mean_difference(
    pairs: Sequence[tuple[Sequence[SceneScores], Sequence[SceneScores]]],
    names: Sequence[str] = (),
) -> Difference:
    """Mean over several comparisons of the same scenes, such as those of five modalities.

    They share scenes and models, so their errors go together: the mean is taken within each
    resampling of the scenes and within each training seed.

    Args:
        pairs: what `difference` takes, with equal seeds and scenes throughout.
        names: compares these classes alone; none for all.
    """
    values = np.array(
        [[[one.classes_iou(names) for one in scores] for scores in pair] for pair in pairs]
    )
    gains = (values[:, 0] - values[:, 1]).mean(axis=0)
    sums = [[sum(one.scenes for one in scores) for scores in pair] for pair in pairs]
    count = len(pairs[0][0][0].scenes)
    rng = np.random.default_rng(0)
    draws = (rng.integers(0, count, count) for _ in range(_RESAMPLES))
    weights = np.array([np.bincount(drawn, minlength=count) for drawn in draws])
    mious = np.array(
        [
            [mious_of(np.tensordot(weights, matrices, axes=1), names) for matrices in pair]
            for pair in sums
        ]
    )  # (pairs, 2, resamples)
    resampled = 100 * np.ascontiguousarray((mious[:, 0] - mious[:, 1]).T).mean(axis=1)
    return Difference(
        mean=float(np.mean(gains)),
        scene_sd=float(np.std(resampled)),
        seed_sd=float(np.std(gains, ddof=1)) if len(gains) > 1 else None,
        seeds=len(gains),
        scenes=count,
    )


def seed_statistics(values: Sequence[float]) -> dict[str, Any] | None:
    """Mean over seeds, their standard deviation, and the 95 % interval of the mean.

    Returns:
        `count`, `mean`, `std` (of a sample), `low` and `high` (Student's t, normal noise assumed);
        the last three None for one value; None for none.
    """
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return {"count": 1, "mean": mean, "std": None, "low": None, "high": None}
    std = statistics.stdev(values)
    factor = _T_95[min(len(values) - 1, len(_T_95)) - 1]
    half = factor * std / len(values) ** 0.5
    return {
        "count": len(values),
        "mean": mean,
        "std": std,
        "low": mean - half,
        "high": mean + half,
    }
