"""Several trainings side by side: the arms of an experiment, each in a process of its own."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.stage2.config import SegmentationRun
from training.stage2.task import train

_POLL_S = 2.0


def train_arms(runs: Mapping[str, SegmentationRun], workers: int) -> dict[str, Path]:
    """Trains every run to its end, several at a time, with one progress bar over all steps.

    Runs that have ended are not repeated, broken ones go on where they stopped. What a run has to
    say stands in its folder's `log.txt`.

    Args:
        runs: by name; each with a folder of its own.
        workers: processes; give each run `run.threads` so that they do not fight for processors.

    Returns:
        the last checkpoint of each run: of equal training, and chosen by no score.

    Raises:
        SegrgbxError: of the first run that fails.
    """
    total = sum(run.run.steps for run in runs.values())
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        tqdm(total=total, unit="step", desc=f"training {len(runs)} models", smoothing=0.02) as bar,
    ):
        waiting = [pool.submit(_train, run) for run in runs.values() if not has_ended(run)]
        try:
            _watch(waiting, list(runs.values()), bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: Path(run.run.out) / "last.safetensors" for name, run in runs.items()}


def has_ended(run: SegmentationRun) -> bool:
    """Whether a run's folder holds its last checkpoint, of all steps."""
    done = (Path(run.run.out) / "last.safetensors").exists()
    return done and steps_done(run.run.out) >= run.run.steps


def steps_done(out: Path | str) -> int:
    """Steps that a run's log of figures tells of; 0 before the first."""
    path = Path(out) / "metrics.jsonl"
    if not path.exists():
        return 0
    # What stands behind the last line break is being written at this moment.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _watch(
    waiting: Sequence[Future[None]], runs: Sequence[SegmentationRun], bar: tqdm[Any]
) -> None:
    while True:
        ended = all(job.done() for job in waiting)
        bar.update(sum(steps_done(run.run.out) for run in runs) - bar.n)
        for job in waiting:
            if job.done():
                job.result()  # raises what the run raised
        if ended:
            return
        time.sleep(_POLL_S)


def _train(run: SegmentationRun) -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    # Several processes' bars and warnings would write over each other.
    folder = Path(run.run.out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stderr.txt").open("a") as file, redirect_stderr(file):
        train(run)
