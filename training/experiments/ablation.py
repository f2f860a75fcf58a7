"""Runs one of the paper's ablations; what it scored beside the paper, and what cannot be said.

All mIoU are per cent, all differences percentage points.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import to_plain
from segrgbx_core.bench.cost import Cost, count_cost, total_cost
from segrgbx_core.model import PRESETS, ModelConfig
from training.data.datasets.synthetic import is_rendered
from training.engine.run import git_commit
from training.experiments.pages import write_ablation
from training.experiments.trials import Trial, is_first_process, run_trials, seed_statistics
from training.experiments.variants import COST_SIZE, AblationTable, Variant
from training.stage2.config import SegmentationRun
from training.stage2.pretrained import label_space_of_run

PAPER_PASSES = 200
"""Passes over the training data in the paper."""
PAPER_DATA_SETS = 5
FEW_SAMPLES = 100
"""Below this many scored pictures a data set's mIoU hangs on single scenes."""

Results = Mapping[tuple[str, int], Mapping[str, Any]]
"""What trials scored, by name of the variant and seed."""


def plan_trials(
    table: AblationTable,
    config: SegmentationRun,
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str] = (),
) -> list[Trial]:
    """The trials of a table, seed by seed, so that one whole table is there early.

    Rows of several tables that are the same network share a folder, and so a training.

    Args:
        table: which ablation.
        config: the run file.
        out: folder of all ablations.
        seeds: seeds of every row.
        only: names of rows; none for all.

    Raises:
        ConfigError: when a row is not known or does not fit the run's model.
    """
    variants = table.select(only)
    trials = []
    for seed in seeds:
        for variant in variants:
            model = table.model(variant, config.model)
            text = json.dumps(to_plain(model), sort_keys=True)
            mark = hashlib.sha256(text.encode()).hexdigest()[:10]
            folder = out / "runs" / mark / f"seed_{seed}"
            run = config.run.model_copy(update={"out": str(folder), "seed": seed})
            trials.append(Trial(variant, config.model_copy(update={"model": model, "run": run})))
    return trials


def variant_costs(
    table: AblationTable, config: SegmentationRun, only: Sequence[str] = ()
) -> dict[str, Cost]:
    """Parameters and multiply-adds of rows at `COST_SIZE`, head not folded, as trained.

    Args:
        table: which ablation.
        config: the run file.
        only: names of rows; none for all.
    """
    readers = [data.open(data.train_split) for data in config.data]
    classes = label_space_of_run(config, readers).num_classes
    models = {row.name: table.model(row, config.model) for row in table.select(only)}
    return {
        name: total_cost(count_cost(model, config.ma_clip, classes, COST_SIZE))
        for name, model in models.items()
    }


def ablate(
    table: AblationTable,
    config: SegmentationRun,
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str] = (),
    run_name: str = "",
) -> None:
    """Runs a table and writes `<table>.md`, `.json` and `.png` after every trial.

    Args:
        table: which ablation.
        config: the run file; its own `run.out` and `run.seed` are not used.
        out: folder of pages and trials.
        seeds: seeds of every row.
        only: names of rows to run; the page shows every finished row.
        run_name: name of the run file, for the page.

    Raises:
        ConfigError: when a row does not fit, or the folder holds trials with other options.
    """
    trials, every = (plan_trials(table, config, out, seeds, names) for names in (only, ()))
    page = AblationPage(
        table=table,
        config=config,
        run_name=run_name,
        seeds=tuple(seeds),
        costs=variant_costs(table, config),
        data=data_sizes(config),
        commit=git_commit(),
    )
    failures: list[tuple[str, int, str]] = []

    def write() -> None:
        content = page.content(_results(every), failures)
        if is_first_process():
            write_ablation(content, out)

    for trial, failure in run_trials(trials):
        if failure:
            failures.append((trial.variant.name, trial.seed, failure))
        write()  # after every trial: hours may lie between two
    write()


def data_sizes(config: SegmentationRun) -> list[dict[str, Any]]:
    """Name, number of train and val samples, and origin of every data set of a run."""
    sizes = []
    for data in config.data:
        train_set, val_set = (data.open(split) for split in (data.train_split, data.val_split))
        sizes.append(
            {
                "name": f"{data.reader} {data.modality}",
                "train": len(train_set),
                "val": len(val_set),
                "is_synthetic": is_rendered(val_set.native, Path(data.root)),
            }
        )
    return sizes


@dataclass(frozen=True)
class AblationPage:
    """What a page says besides scores.

    Attributes:
        table: which ablation.
        config: the run file.
        run_name: its name.
        seeds: seeds of every row.
        costs: by name of the row, at `COST_SIZE`.
        data: the run's data sets, see `data_sizes`.
        commit: of the checkout.
    """

    table: AblationTable
    config: SegmentationRun
    run_name: str
    seeds: tuple[int, ...]
    costs: Mapping[str, Cost]
    data: Sequence[Mapping[str, Any]]
    commit: str

    def content(
        self, results: Results, failures: Sequence[tuple[str, int, str]] = ()
    ) -> dict[str, Any]:
        """Everything on the page as plain values.

        Args:
            results: finished trials.
            failures: variant, seed and reason of trials whose loss diverged.
        """
        table, run = self.table, self.config.run
        clip, model = self.config.clip, self.config.model
        setting = {
            "run": self.run_name,
            "commit": self.commit,
            "seeds": list(self.seeds),
            "steps": run.steps,
            "batch_size": run.batch_size,
            "passes": run.steps * run.batch_size / sum(size["train"] for size in self.data),
            "ma_clip_weights": Path(clip.checkpoint or clip.weights or "random").name,
            "data": [dict(size) for size in self.data],
            "is_paper_size": isinstance(model, ModelConfig)
            and model.backbone in (PRESETS["b2"].backbone, PRESETS["paper"].backbone),
            "cost_size": list(COST_SIZE),
        }
        content = {
            "table": table.name,
            "paper_table": table.number,
            "title": table.full_title,
            "reference": table.reference,
            "setting": setting,
            "arms": [self._row(variant, results) for variant in table.variants],
            "failed": [{"arm": name, "seed": seed, "why": why} for name, seed, why in failures],
        }
        return {**content, "cautions": list(cautions(content))}

    def _row(self, variant: Variant, results: Results) -> dict[str, Any]:
        own = {seed: results.get((variant.name, seed)) for seed in self.seeds}
        runs = [
            {
                "seed": seed,
                "miou_percent": result["miou_percent"],
                "scores": result["scores"],
                "folder": result["folder"],
            }
            for seed, result in own.items()
            if result is not None
        ]
        cost, reference = self.costs[variant.name], self.table.reference
        paper_reference = self.table.variant(reference).paper_miou
        differences = [
            run["miou_percent"] - results[reference, run["seed"]]["miou_percent"]
            for run in runs
            if variant.name != reference and (reference, run["seed"]) in results
        ]
        paper: dict[str, Any] = {}
        if self.table.number:
            paper["miou_percent"] = variant.paper_miou
            paper["difference"] = variant.paper_miou - paper_reference
        if variant.paper_cost is not None:
            paper.update(zip(("parameters_m", "gflops"), variant.paper_cost, strict=True))
        return {
            "arm": variant.name,
            "title": variant.title,
            "options": dict(variant.changes),
            "parameters_m": cost.parameters_m,
            "gmacs": cost.gmacs,
            "gmacs_paper_convention": cost.gmacs_paper_convention,
            "runs": runs,
            "miou_percent": seed_statistics([run["miou_percent"] for run in runs]),
            "difference": seed_statistics(differences),
            "paper": paper,
        }


def cautions(content: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be concluded from a page, one sentence each."""
    setting, rows = content["setting"], content["arms"]
    counts = [len(row["runs"]) for row in rows]
    missing = [row["arm"] for row in rows if not row["runs"]]
    if missing:
        yield f"Not run: {', '.join(missing)}."
    if max(counts) == 1:
        yield (
            "One seed per arm: a difference between two arms cannot be told from what another "
            "seed would change. No order of the arms follows; use three seeds or more."
        )
    elif max(counts) > 1:
        yield from _verdicts(content)
    for size in setting["data"]:
        if size["val"] < FEW_SAMPLES:
            yield (
                f"{size['name']}: {size['val']} scored pictures, fewer than {FEW_SAMPLES}. "
                "Seeds do not show how much the choice of pictures matters."
            )
    if setting["ma_clip_weights"] == "random":
        yield (
            "MA-CLIP's tower is random here, so its embeddings carry no knowledge: nothing "
            "follows about the worth of MA-CLIP or of who gets which embedding."
        )
    if any(size["is_synthetic"] for size in setting["data"]):
        yield (
            "Trained and scored on synthetic scenes: only the signs of differences may be held "
            "against the paper's, never the values."
        )
    if len(setting["data"]) < PAPER_DATA_SETS:
        yield (
            f"{len(setting['data'])} data set(s); the paper's mean is over five, trained jointly."
        )
    if setting["passes"] < PAPER_PASSES:
        yield (
            f"{setting['passes']:.3g} passes over the training data; the paper makes "
            f"{PAPER_PASSES}. Arms that learn slowly look worse than they are."
        )
    if not setting["is_paper_size"]:
        yield "The encoder is not the paper's size (b2): costs do not compare with its columns."
    yield (
        "The checkpoint of a run is its best on the very split that is scored, as is usual in "
        "ablations; scores are optimistic for all arms alike."
    )


def _verdicts(content: Mapping[str, Any]) -> Iterator[str]:
    compared = [row for row in content["arms"] if row["difference"]]
    reference = content["reference"]
    unclear = [
        row["arm"]
        for row in compared
        if row["difference"]["low"] is None
        or row["difference"]["low"] <= 0 <= row["difference"]["high"]
    ]
    if unclear:
        yield (
            f"Not told apart from {reference} (the 95 % interval of the paired difference holds "
            f"0): {', '.join(unclear)}."
        )
    if len(compared) > 1:
        yield (
            f"Intervals are for one arm at a time: were all {len(compared)} arms without effect, "
            f"at least one interval would leave out 0 in about {1 - 0.95 ** len(compared):.0%} of "
            "such tables."
        )


def _results(trials: Sequence[Trial]) -> dict[tuple[str, int], dict[str, Any]]:
    results = {}
    for trial in trials:
        result = trial.result()
        if result is not None:
            place = Path(*trial.folder.parts[-3:])  # within the folder of all ablations
            results[trial.variant.name, trial.seed] = {**result, "folder": str(place)}
    return results
