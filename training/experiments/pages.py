"""The pages of ablations and of the synthetic benchmark: Markdown and JSON, with their charts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from segrgbx_core.base.modality import MODALITIES
from segrgbx_core.base.tables import UNDEFINED, markdown_table, number
from segrgbx_core.bench.cost import Cost
from training.data.datasets.synthetic import XSource
from training.engine.run import git_commit
from training.experiments.benchmark import GROUPS, ROBUSTNESS, BenchmarkScores
from training.experiments.charts import draw_ablation, draw_modalities, draw_robustness
from training.experiments.trials import mean_difference
from training.experiments.variants import (
    COMPONENT_VARIANTS,
    COMPONENTS,
    COST_SIZE,
    EQUAL_PER_MODALITY,
    EQUAL_TOTAL,
    RGB_ONLY,
    RGB_TWICE,
    SPECIALISTS,
    AblationTable,
)

_PAPER_COLUMNS = (
    "Columns marked *paper* repeat the paper, which measured on its five data sets; nothing in "
    "them was measured here.",
)
MIN_SCENES, MIN_SEEDS = 300, 3
"""Below these, differences of components are noise."""


def write_ablation(content: Mapping[str, Any], out: Path) -> None:
    """Writes `<table>.md`, `.json` and, once there is a score, `.png`.

    Args:
        content: from `AblationPage.content`.
        out: folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    name = content["table"]
    text = json.dumps(content, indent=1, allow_nan=False)
    (out / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    has_scores = any(row["runs"] for row in content["arms"])
    if has_scores:
        draw_ablation(content, out / f"{name}.png")
    (out / f"{name}.md").write_text(_ablation_page(content, has_scores), encoding="utf-8")


def _ablation_page(content: Mapping[str, Any], has_chart: bool) -> str:
    setting = content["setting"]
    name, reference = content["table"], content["reference"]
    kind = "synthetic, " if all(size["is_synthetic"] for size in setting["data"]) else ""
    data = "; ".join(f"{d['name']} ({d['train']} train, {d['val']} val)" for d in setting["data"])
    lines = [
        f"# Ablation `{name}`: {content['title']}",
        "",
        f"Ours: run file `{setting['run']}`, {setting['steps']} steps of {setting['batch_size']}, "
        f"seeds {', '.join(map(str, setting['seeds']))}, commit `{setting['commit']}`.",
        f"Data, {kind}val split scored: {data}.",
        "",
        *_PAPER_COLUMNS[: bool(content["paper_table"])],
        f"Differences are to `{reference}`, paired by seed, in percentage points; brackets hold "
        "the 95 % interval.",
        "",
        _ablation_scores(content),
        "",
    ]
    if len(setting["data"]) > 1:
        lines += [_scores_by_data(content), ""]
    if has_chart:
        lines += [f"![Ablation {name}]({name}.png)", ""]
    lines += ["## Cost", "", _costs(content["arms"]), ""]
    for failure in content["failed"]:
        lines.append(f"**{failure['arm']}, seed {failure['seed']} diverged:** {failure['why']}")
    lines += ["## What this does not show", "", *(f"- {text}" for text in content["cautions"])]
    folders = ", ".join(
        f"`{row['arm']}` in `{run['folder']}`"
        for row in content["arms"]
        for run in row["runs"][:1]
    )
    if folders:
        lines += ["", f"Trainings (first seed): {folders}."]
    return "\n".join(lines) + "\n"


def cost_table(table: AblationTable, costs: Mapping[str, Cost]) -> str:
    """Parameters and multiply-adds of some rows as Markdown."""
    rows = []
    for variant in table.variants:
        if variant.name in costs:
            paper = dict(zip(("parameters_m", "gflops"), variant.paper_cost or (), strict=False))
            texts = {"arm": variant.name, "title": variant.title, "paper": paper}
            rows.append({**texts, **vars(costs[variant.name])})
    return f"{_costs(rows)}\n"


def _ablation_scores(content: Mapping[str, Any]) -> str:
    rows = []
    for row in content["arms"]:
        score, paper = row["miou_percent"], row["paper"]
        values = ", ".join(number(run["miou_percent"], 2) for run in row["runs"])
        of_paper = f"{paper['difference']:+.2f}" if paper else UNDEFINED
        differences = [_difference(row["difference"]), of_paper]
        if row["arm"] == content["reference"]:
            differences = ["reference", "reference"]
        rows.append(
            [
                f"`{row['arm']}`",
                row["title"],
                f"**{score['mean']:.2f}**" if score else "not run",
                number(score["std"] if score else None, 2),
                values or UNDEFINED,
                differences[0],
                number(paper.get("miou_percent"), 2),
                differences[1],
            ]
        )
    titles = ["arm", "", "mIoU", "spread", "by seed", "difference"]
    if not content["paper_table"]:
        return markdown_table(titles, [row[: len(titles)] for row in rows], "llrrll")
    return markdown_table([*titles, "*paper* mIoU", "*paper* difference"], rows, "llrrllr")


def _difference(paired: Mapping[str, Any] | None) -> str:
    if paired is None:
        return UNDEFINED
    if paired["low"] is None:
        return f"{paired['mean']:+.2f}"
    return f"{paired['mean']:+.2f} [{paired['low']:+.2f}, {paired['high']:+.2f}]"


def _scores_by_data(content: Mapping[str, Any]) -> str:
    rows = []
    for row in content["arms"]:
        if row["runs"]:
            columns = zip(*(run["scores"] for run in row["runs"]), strict=True)
            means = [statistics.fmean(s["miou_percent"] for s in column) for column in columns]
            rows.append([f"`{row['arm']}`", *(number(mean, 2) for mean in means)])
    names = [size["name"] for size in content["setting"]["data"]]
    return markdown_table(["mIoU by data set", *names], rows)


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    side = " x ".join(map(str, COST_SIZE))
    titles = ["arm", "", "M parameters", f"GMACs at {side}", "GMACs, the paper's way of counting"]
    own, papers = ("parameters_m", "gmacs", "gmacs_paper_convention"), ("parameters_m", "gflops")
    lines = [
        [
            f"`{row['arm']}`",
            row["title"],
            *(number(row[name], 2) for name in own),
            *(number(row["paper"].get(name), 2) for name in papers),
        ]
        for row in rows
    ]
    return markdown_table([*titles, "*paper* M", '*paper* "GFLOPs"'], lines, "llr")


def write_benchmark(out: Path, scores: BenchmarkScores) -> Path:
    """Writes `report.md`, `report.json`, `modalities.png` and `robustness.png`."""
    out.mkdir(parents=True, exist_ok=True)
    page = out / "report.md"
    page.write_text("\n\n".join(_benchmark_page(scores)) + "\n", encoding="utf-8")
    text = json.dumps(_without_nan(_benchmark_values(scores)), indent=1, allow_nan=False)
    (out / "report.json").write_text(f"{text}\n", encoding="utf-8")
    draw_modalities(scores, out / "modalities.png")
    draw_robustness(scores, out / "robustness.png")
    return page


def _benchmark_page(scores: BenchmarkScores) -> Iterator[str]:
    scale = scores.scale
    yield "# Synthetic benchmark"
    yield (
        "**Synthetic scenes rendered by this project; no statement about real roads.** mIoU in "
        "per cent over the 16 classes of the rendered street, differences in points."
    )
    yield (
        f"`python -m training.synthetic_benchmark --scale {scores.name}` at commit "
        f"`{git_commit()}`: {scale.train_scenes} training scenes of two frames, "
        f"{scale.test_scenes} test scenes of one, {scale.width}x{scale.height}, half of the "
        f"scenes with a failing camera; {scale.steps} steps per specialist, {len(scale.seeds)} "
        f"training seed(s), {len(scale.component_seeds)} for components."
    )
    yield "## What X is worth"
    yield (
        f"RGB only (X is black) {scores.miou(RGB_ONLY):.1f}; RGB fed twice "
        f"{scores.miou(RGB_TWICE):.1f}, the control for a second input that knows nothing new: "
        "what it gains too is no merit of a sensor. All are the same network. One specialist per "
        "modality:"
    )
    yield _worth(scores)
    yield "![mIoU by modality](modalities.png)"
    yield "## The classes that a sensor exists for"
    yield (
        "Mean IoU of classes named beforehand, by physics. The generalist takes "
        f"{EQUAL_PER_MODALITY.share} times the steps of the others."
    )
    yield _sensor_classes(scores)
    yield "## One generalist or five specialists (the paper's Table V in small)"
    yield _generalist(scores)
    yield "Unlike in the paper, all modalities show the same scenes here."
    yield "## When the camera fails (the paper's Figure 9 in small)"
    yield (
        "One specialist per modality, by failure, and in brackets what it is better than RGB "
        "only; each group has its own scenes: compare within a column."
    )
    yield _robustness(scores)
    yield "![mIoU by failure](robustness.png)"
    yield "## Components (the paper's Table VI in small)"
    yield f"Generalists of {scale.steps} steps."
    yield _components(scores)
    yield "## What cannot be concluded"
    yield "\n".join(f"- {text}" for text in _limits(scores))


def _worth(scores: BenchmarkScores) -> str:
    rows = []
    for modality, specialist in zip(MODALITIES, SPECIALISTS, strict=True):
        gains = (str(scores.gain(specialist, other)) for other in (RGB_ONLY, RGB_TWICE))
        other = scores.miou(specialist, modality, XSource.OTHER)
        rows.append([str(modality), number(scores.miou(specialist)), *gains, number(other)])
    titles = ["X", "RGB + X", "over RGB only", "over RGB twice", "X of another scene"]
    return markdown_table(titles, rows)


def _sensor_classes(scores: BenchmarkScores) -> str:
    rows = []
    for modality, specialist in zip(MODALITIES, SPECIALISTS, strict=True):
        names = modality.facts.reveals
        values = (
            scores.classes_iou(RGB_ONLY, names),
            scores.classes_iou(specialist, names),
            scores.classes_iou(EQUAL_PER_MODALITY, names, modality),
        )
        rows.append([str(modality), ", ".join(names), *map(number, values)])
    return markdown_table(["X", "classes", "RGB only", "specialist", "generalist"], rows)


def _generalist(scores: BenchmarkScores) -> str:
    generalists = {
        "one generalist, equal steps per modality": EQUAL_PER_MODALITY,
        "one generalist, as many steps in total as one specialist": EQUAL_TOTAL,
    }
    steps = scores.scale.steps
    values = [scores.miou(specialist) for specialist in SPECIALISTS]
    rows = [["five specialists", steps * len(MODALITIES), *_with_mean(values)]]
    for title, variant in generalists.items():
        values = [scores.miou(variant, modality) for modality in MODALITIES]
        rows.append([title, steps * variant.share, *_with_mean(values)])
    return markdown_table(["", "steps in total", *map(str, MODALITIES), "mean"], rows)


def _robustness(scores: BenchmarkScores) -> str:
    groups = scores.groups()
    rows = []
    for title, variant in ROBUSTNESS.items():
        cells = [number(scores.group_miou(variant, group)) for group in groups]
        if variant is not RGB_ONLY:
            gains = (scores.gain(variant, RGB_ONLY, group) for group in groups)
            cells = [f"{cell} ({gain})" for cell, gain in zip(cells, gains, strict=True)]
        rows.append([title, *cells])
    titles = [f"{GROUPS[group]}, {count} scenes" for group, count in groups.items()]
    return markdown_table(["", *titles], rows)


def _components(scores: BenchmarkScores) -> str:
    whole = {modality: scores.of(EQUAL_TOTAL, modality) for modality in MODALITIES}
    rows = []
    for variant in COMPONENT_VARIANTS:
        values = [scores.miou(variant, modality) for modality in MODALITIES]
        pairs = [(scores.of(variant, modality), whole[modality]) for modality in MODALITIES]
        rows.append([variant.title, *_with_mean(values), str(mean_difference(pairs))])
    values = [scores.miou(EQUAL_TOTAL, modality) for modality in MODALITIES]
    title = COMPONENTS.variant(COMPONENTS.reference).title
    rows.append([title, *_with_mean(values), "reference"])
    titles = ["", *map(str, MODALITIES), "mean", "against the whole model"]
    return markdown_table(titles, rows)


def _limits(scores: BenchmarkScores) -> Iterator[str]:
    scale = scores.scale
    gains = {str(one.modalities[0]): scores.gain(one, RGB_TWICE) for one in SPECIALISTS}
    unproven = [name for name, gain in gains.items() if gain.mean < 2 * gain.standard_error]
    if unproven:
        yield (
            f"Not better than RGB fed twice by two standard errors: {', '.join(unproven)}. For "
            "these, the table above shows no worth of the sensor in mIoU."
        )
    yield (
        "MA-CLIP is a small random tower here (no CLIP weights are shipped): its rows show that "
        "the path works, not what CLIP knows."
    )
    yield "One corner view of a light field holds little that RGB does not; no gain is promised."
    yield (
        "± is one standard error: the choice of test scenes (paired bootstrap) and, with several "
        "training seeds, theirs."
    )
    if scale.test_scenes < MIN_SCENES or len(scale.component_seeds) < MIN_SEEDS:
        yield (
            f"**Nothing can be concluded about components**: that takes {MIN_SCENES} test scenes "
            f"and {MIN_SEEDS} training seeds, this run has {scale.test_scenes} and "
            f"{len(scale.component_seeds)}. Differences of one or two points are noise."
        )
    if len(scale.seeds) < MIN_SEEDS:
        yield (
            "With one training seed, its own chance (0.4 to 1.6 points at this size) is not in "
            "the spread: only gains of several points count."
        )


def _benchmark_values(scores: BenchmarkScores) -> dict[str, Any]:
    return {
        "synthetic": True,
        "commit": git_commit(),
        "name": scores.name,
        "scale": asdict(scores.scale),
        "minutes": scores.minutes,
        "scores": {
            name: {
                "miou": one.miou,
                "groups": {group: one.group_miou(group) for group in sorted(one.groups)},
                "sensor_classes": {
                    str(modality): one.classes_iou(modality.facts.reveals)
                    for modality in MODALITIES
                },
            }
            for name, one in scores.scores.items()
        },
        "gains": {
            other.name: {
                str(one.modalities[0]): asdict(scores.gain(one, other)) for one in SPECIALISTS
            }
            for other in (RGB_ONLY, RGB_TWICE)
        },
    }


def _with_mean(values: Iterable[float]) -> list[str]:
    values = list(values)
    return [*map(number, values), number(float(np.mean(values)))]


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value
