"""What an ablation found beside what the paper found, and what it does not show.

All mIoU are per cent, all differences percentage points.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrgbx_core.bench.cost import Cost
from segrgbx_core.model import PRESETS, ModelConfig
from training.experiments.ablation_tables import Arm, Table
from training.stage2.config import SegmentationRun

COST_SIZE = (512, 512)
"""Height and width at which costs are counted, the paper's."""
PAPER_PASSES = 200
"""Passes over the training data in the paper."""
PAPER_DATA_SETS = 5
FEW_SAMPLES = 100
"""Below this many scored pictures a data set's mIoU hangs on single scenes."""

_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t, two-sided 95 %, for 1 to 9 degrees of freedom; more are treated as 9."""

Results = Mapping[tuple[str, int], Mapping[str, Any]]
"""What trials found, by name of the arm and seed."""


@dataclass(frozen=True)
class DataSize:
    """One data set of the run.

    Attributes:
        name: data set and modality.
        train: samples that are learned from.
        val: samples that are scored.
        is_synthetic: True for the project's own rendered scenes.
    """

    name: str
    train: int
    val: int
    is_synthetic: bool


@dataclass(frozen=True)
class Page:
    """What a page says besides scores.

    Attributes:
        table: which ablation.
        config: the run file.
        run_name: its name.
        seeds: seeds of every arm.
        costs: by name of the arm, at `COST_SIZE`.
        sizes: the run's data sets.
        commit: of the checkout.
    """

    table: Table
    config: SegmentationRun
    run_name: str
    seeds: tuple[int, ...]
    costs: Mapping[str, Cost]
    sizes: Sequence[DataSize]
    commit: str

    def content(
        self, results: Results, failures: Sequence[tuple[str, int, str]] = ()
    ) -> dict[str, Any]:
        """Everything on the page as plain values.

        Args:
            results: finished trials.
            failures: arm, seed and reason of trials whose loss diverged.
        """
        table, run = self.table, self.config.run
        arms = [self._arm(arm, results) for arm in table.arms]
        clip = self.config.clip
        setting = {
            "run": self.run_name,
            "commit": self.commit,
            "seeds": list(self.seeds),
            "steps": run.steps,
            "batch_size": run.batch_size,
            "passes": run.steps * run.batch_size / sum(size.train for size in self.sizes),
            "ma_clip_weights": Path(clip.checkpoint or clip.weights or "random").name,
            "data": [vars(size) for size in self.sizes],
            "is_paper_size": _is_paper_size(self.config.model),
            "cost_size": list(COST_SIZE),
        }
        failed = [{"arm": arm, "seed": seed, "why": why} for arm, seed, why in failures]
        content = {
            "table": table.name,
            "paper_table": table.number,
            "title": table.title,
            "reference": table.reference,
            "setting": setting,
            "arms": arms,
            "failed": failed,
        }
        return {**content, "cautions": list(cautions(content))}

    def _arm(self, arm: Arm, results: Results) -> dict[str, Any]:
        own = {seed: results.get((arm.name, seed)) for seed in self.seeds}
        runs = [
            {
                "seed": seed,
                "miou_percent": found["miou_percent"],
                "scores": found["scores"],
                "folder": found["folder"],
            }
            for seed, found in own.items()
            if found is not None
        ]
        cost, reference = self.costs[arm.name], self.table.reference
        paper_reference = self.table.arm(reference).paper_miou
        differences = [
            run["miou_percent"] - results[reference, run["seed"]]["miou_percent"]
            for run in runs
            if arm.name != reference and (reference, run["seed"]) in results
        ]
        paper: dict[str, Any] = {
            "miou_percent": arm.paper_miou,
            "difference": arm.paper_miou - paper_reference,
        }
        if arm.paper_cost is not None:
            paper.update(zip(("parameters_m", "gflops"), arm.paper_cost, strict=True))
        return {
            "arm": arm.name,
            "title": arm.title,
            "options": dict(arm.changes),
            "parameters_m": cost.parameters_m,
            "gmacs": cost.gmacs,
            "gmacs_paper_convention": cost.gmacs_paper_convention,
            "runs": runs,
            "miou_percent": summary([run["miou_percent"] for run in runs]),
            "difference": summary(differences),
            "paper": paper,
        }


def summary(values: Sequence[float]) -> dict[str, Any] | None:
    """Mean, spread between seeds, and where the mean lies with 95 % confidence.

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


def cautions(content: Mapping[str, Any]) -> Iterator[str]:
    """What cannot be concluded from a page, one sentence each."""
    setting, arms = content["setting"], content["arms"]
    counts = [len(arm["runs"]) for arm in arms]
    missing = [arm["arm"] for arm in arms if not arm["runs"]]
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
    compared = [arm for arm in content["arms"] if arm["difference"]]
    reference = content["reference"]
    unclear = [
        arm["arm"]
        for arm in compared
        if arm["difference"]["low"] is None
        or arm["difference"]["low"] <= 0 <= arm["difference"]["high"]
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


def _is_paper_size(model: Any) -> bool:
    return isinstance(model, ModelConfig) and model.backbone == PRESETS["b2"].backbone
