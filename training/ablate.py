"""Trains and scores the arms of one of the paper's ablation tables.

python -m training.ablate components RUN.yaml --out runs/ablation --seeds 0,1,2

Every arm is the run file with the table's options changed (`experiments.ablation_tables`).
The same command goes on after a stop; finished arms are not repeated. `--count-only`
prints parameters and multiply-adds and trains nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import ConfigError, command
from segrgbx_core.base.files import path_text, write_text
from segrgbx_core.base.overrides import CommandParser, add_set_option
from segrgbx_core.bench.cost import Cost, count_cost, total_cost
from training.data.datasets.synthetic import is_rendered
from training.engine.config import scoring_options
from training.engine.loop import clock
from training.engine.run import git_commit, log_to_terminal
from training.eval.scoring import evaluate
from training.experiments.ablation_page import cost_table, write_page
from training.experiments.ablation_results import COST_SIZE, DataSize, Page
from training.experiments.ablation_tables import TABLES, Arm, Table, arm_model
from training.stage2.config import SegmentationRun, read_run
from training.stage2.pretrained import label_space_of_run
from training.stage2.task import train

log = logging.getLogger(__name__)

_BOOKKEEPING = {
    *("out", "device", "threads", "workers", "tensorboard"),
    *("log_every", "save_every", "keep_frames"),
}
"""Options of `RunConfig` that may change without making a finished trial another experiment."""


@dataclass(frozen=True)
class Trial:
    """One arm with one seed.

    Attributes:
        arm: row of the table.
        config: the whole run; `run.out` is this trial's own folder.
    """

    arm: Arm
    config: SegmentationRun

    @property
    def seed(self) -> int:
        """Source of the trial's chance."""
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
        """What the trial found; None while it is not finished.

        Raises:
            ConfigError: when the folder holds a trial with other options.
        """
        if not self.result_path.exists():
            return None
        found: dict[str, Any] = json.loads(self.result_path.read_text(encoding="utf-8"))
        other = _first_difference(found["recipe"], self.recipe())
        if other:
            raise ConfigError(
                f"{self.result_path}: was trained with another {other}; choose another --out, or "
                "remove the folder to train anew"
            )
        return found

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the outcome, as plain values."""
        plain = to_plain(self.config)
        run = plain["run"]
        return {**plain, "run": {name: run[name] for name in run if name not in _BOOKKEEPING}}


def plan(
    table: Table, config: SegmentationRun, out: Path, seeds: Sequence[int], only: Sequence[str]
) -> list[Trial]:
    """The trials of a table, seed by seed, so that one whole table is there early.

    Arms of several tables that are the same network share a folder, and so a training.

    Args:
        table: which ablation.
        config: the run file.
        out: folder of all ablations.
        seeds: seeds of every arm.
        only: names of arms; none for all.

    Raises:
        ConfigError: when an arm is not known or does not fit the run's model.
    """
    arms = [table.arm(name) for name in only] or list(table.arms)
    trials = []
    for seed in seeds:
        for arm in arms:
            model = arm_model(table, arm, config.model)
            text = json.dumps(to_plain(model), sort_keys=True)
            mark = hashlib.sha256(text.encode()).hexdigest()[:10]
            folder = out / "runs" / mark / f"seed_{seed}"
            run = config.run.model_copy(update={"out": str(folder), "seed": seed})
            trials.append(Trial(arm, config.model_copy(update={"model": model, "run": run})))
    return trials


def run_trials(trials: Sequence[Trial]) -> Iterator[tuple[Trial, str]]:
    """Trains and scores what is not finished.

    Yields:
        every trial after its turn, with the reason when its loss diverged, else an empty text.
    """
    open_trials = [trial for trial in trials if trial.result() is None]
    log.info("%d of %d trials are finished", len(trials) - len(open_trials), len(trials))
    spent = 0.0
    for number, trial in enumerate(open_trials, start=1):
        log.info(
            "trial %d of %d: %s, seed %d, in %s",
            number, len(open_trials), trial.arm.title, trial.seed, trial.folder,
        )  # fmt: skip
        began = time.perf_counter()
        try:
            best = train(trial.config)
        except FloatingPointError as error:
            log.warning("%s, seed %d diverged: %s", trial.arm.title, trial.seed, error)
            yield trial, str(error)
            continue
        if _is_first_process():
            _score(trial, best)
        spent += time.perf_counter() - began
        left = spent / number * (len(open_trials) - number)
        log.info("trial %d of %d done; about %s left", number, len(open_trials), clock(left))
        yield trial, ""


def arm_cost(table: Table, arm: Arm, config: SegmentationRun) -> Cost:
    """Parameters and multiply-adds of an arm at `COST_SIZE`, head not folded, as trained."""
    model = arm_model(table, arm, config.model)
    readers = [data.open(data.train_split) for data in config.data]
    classes = label_space_of_run(config, readers).num_classes
    return total_cost(count_cost(model, config.ma_clip, classes, COST_SIZE))


def ablate(
    table: Table,
    config: SegmentationRun,
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str] = (),
    run_name: str = "",
) -> dict[str, Any]:
    """Runs a table and writes `<table>.md`, `.json` and `.png` after every trial.

    Args:
        table: which ablation.
        config: the run file; its own `run.out` and `run.seed` are not used.
        out: folder of pages and trials.
        seeds: seeds of every arm.
        only: names of arms to run; the page shows every finished arm.
        run_name: name of the run file, for the page.

    Returns:
        the page's content as plain values.

    Raises:
        ConfigError: when an arm does not fit, or the folder holds trials with other options.
    """
    chosen = plan(table, config, out, seeds, only)
    every = plan(table, config, out, seeds, ())
    page = Page(
        table=table,
        config=config,
        run_name=run_name,
        seeds=tuple(seeds),
        costs={arm.name: arm_cost(table, arm, config) for arm in table.arms},
        sizes=_sizes(config),
        commit=git_commit(),
    )
    failures: list[tuple[str, int, str]] = []
    content = page.content(_results(every), failures)
    for trial, failure in run_trials(chosen):
        if failure:
            failures.append((trial.arm.name, trial.seed, failure))
        content = page.content(_results(every), failures)
        if _is_first_process():
            write_page(content, out)  # after every trial: hours may lie between two
    if _is_first_process():
        write_page(content, out)
    return content


def _score(trial: Trial, checkpoint: Path) -> None:
    config = trial.config
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
        "seed": trial.seed,
        "checkpoint": checkpoint.name,
        "scores": scores,
        "miou_percent": sum(score["miou_percent"] for score in scores) / len(scores),
        "commit": git_commit(),
        "recipe": trial.recipe(),
    }
    text = json.dumps(result, indent=1, allow_nan=False)
    write_text(trial.result_path, f"{text}\n")


def _results(trials: Sequence[Trial]) -> dict[tuple[str, int], dict[str, Any]]:
    results = {}
    for trial in trials:
        found = trial.result()
        if found is not None:
            place = Path(*trial.folder.parts[-3:])  # within the folder of all ablations
            results[trial.arm.name, trial.seed] = {**found, "folder": str(place)}
    return results


def _sizes(config: SegmentationRun) -> list[DataSize]:
    sizes = []
    for data in config.data:
        train_set, val_set = (data.open(split) for split in (data.train_split, data.val_split))
        name = f"{data.reader} {data.modality}"
        is_synthetic = is_rendered(val_set.native, Path(data.root))
        sizes.append(DataSize(name, len(train_set), len(val_set), is_synthetic))
    return sizes


def _first_difference(old: Any, new: Any, place: str = "") -> str:
    """Dotted name of the first option that differs, empty where none does."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*new, *(name for name in old if name not in new)]:
            dotted = f"{place}.{name}" if place else name
            if name not in old or name not in new:
                return dotted
            if found := _first_difference(old[name], new[name], dotted):
                return found
        return ""
    return "" if old == new else place


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _seeds(text: str, config: SegmentationRun) -> list[int]:
    if not text:
        return [config.run.seed]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise ConfigError(f"--seeds {text}: expected different numbers, such as 0,1,2")
    return [int(part) for part in parts]


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user."""
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("table", choices=list(TABLES), help="which of the paper's ablations")
    parser.add_argument("run", type=path_text, help="run file that the arms change")
    parser.add_argument("--out", type=path_text, default="", help="folder of pages and trainings")
    parser.add_argument("--seeds", default="", help="such as 0,1,2; the run file's when left out")
    parser.add_argument("--only", nargs="+", default=[], metavar="ARM", help="arms to run")
    add_set_option(parser, "changes the run file")
    parser.add_argument(
        "--count-only", action="store_true", help="print parameters and multiply-adds, no training"
    )
    chosen = parser.parse_args(arguments)
    log_to_terminal()
    table = TABLES[chosen.table]
    # Every trial has its own folder, so the run file need not name one.
    config = read_run(chosen.run, [*chosen.set, f"run.out={chosen.out or '.'}"])
    if chosen.count_only:
        arms = [table.arm(name) for name in chosen.only] or list(table.arms)
        costs = {arm.name: arm_cost(table, arm, config) for arm in arms}
        sys.stdout.write(cost_table(table, costs))
        return 0
    if not chosen.out:
        raise ConfigError("--out: name the folder for pages and trainings")
    seeds = _seeds(chosen.seeds, config)
    ablate(table, config, Path(chosen.out), seeds, chosen.only, Path(chosen.run).name)
    if _is_first_process():
        page = Path(chosen.out) / f"{table.name}.md"
        sys.stdout.write(page.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
