"""Charts of ablations and of the synthetic benchmark; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segrgbx_core.base.modality import MODALITIES
from training.data.datasets.synthetic import XSource
from training.experiments.benchmark import GROUPS, ROBUSTNESS, BenchmarkScores
from training.experiments.variants import EQUAL_PER_MODALITY, RGB_ONLY, SPECIALISTS

_OURS, _REFERENCE, _PAPER, _DOT = "#5b7c99", "#d1603d", "#c9ced6", "#1c2026"
_BAR = 0.38


def draw_ablation(content: Mapping[str, Any], path: Path | str) -> None:
    """Draws our scores with every seed as a dot, and differences beside the paper's.

    Args:
        content: from `AblationPage.content`; at least one row has a run.
        path: image file; its ending chooses the format.
    """
    rows, setting = content["arms"], content["setting"]
    figure = Figure(figsize=(10, 0.5 * len(rows) + 2.0), layout="constrained")
    scores, differences = figure.subplots(1, 2, sharey=True)
    _ablation_scores(scores, rows, content["reference"])
    _ablation_differences(differences, rows, content["reference"])
    scores.set_yticks(range(len(rows)), [row["title"] for row in rows], fontsize=9)
    scores.invert_yaxis()
    for axes in (scores, differences):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    differences.spines["left"].set_visible(False)
    is_synthetic = any(size["is_synthetic"] for size in setting["data"])
    data = ", ".join(size["name"] for size in setting["data"])
    title = content["title"]
    figure.suptitle(
        f"{title[:1].upper()}{title[1:]}" + (": synthetic data" if is_synthetic else ""),
        fontsize=12,
        fontweight="bold",
    )
    count = len(setting["seeds"])
    figure.supxlabel(
        f"Ours: {data}, {setting['steps']} steps, {count} seed{'s' if count > 1 else ''}"
        + ("; a single seed shows no order of the arms" if count == 1 else "")
        + (". Paper: its own five data sets." if content["paper_table"] else "."),
        fontsize=8,
        color="#68707c",
    )
    figure.savefig(path, dpi=150)


def _ablation_scores(axes: Axes, rows: list[dict[str, Any]], reference: str) -> None:
    for place, row in enumerate(rows):
        score = row["miou_percent"]
        if score is None:
            axes.annotate(
                "not run", (0, place), xytext=(6, 0), textcoords="offset points", va="center"
            )
            continue
        colour = _REFERENCE if row["arm"] == reference else _OURS
        axes.barh(place, score["mean"], height=2 * _BAR, color=colour)
        values = [run["miou_percent"] for run in row["runs"]]
        if len(values) > 1:
            axes.plot(values, [place] * len(values), "o", color=_DOT, markersize=3.5)
        axes.annotate(
            f"{score['mean']:.2f}",
            (max(values), place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    values = [run["miou_percent"] for row in rows for run in row["runs"]]
    axes.set_xlim(0, max(1.0, 1.2 * max(values)))
    axes.set_xlabel(
        "mIoU, %; dots are seeds" if max(len(row["runs"]) for row in rows) > 1 else "mIoU, %"
    )


def _ablation_differences(axes: Axes, rows: list[dict[str, Any]], reference: str) -> None:
    labelled = set()
    ends = [-0.5, 0.5]
    for place, row in enumerate(rows):
        if row["arm"] == reference:
            axes.annotate(
                "reference", (0, place), xytext=(6, 0), textcoords="offset points", va="center",
                fontsize=8, color="#68707c",
            )  # fmt: skip
            continue
        ours, bars = row["difference"], []
        if row["paper"]:
            bars.append(("paper", place + _BAR / 2, row["paper"]["difference"], None, _PAPER))
        if ours is not None:
            half = None if ours["low"] is None else (ours["high"] - ours["low"]) / 2
            bars.insert(0, ("ours", place - _BAR / 2, ours["mean"], half, _OURS))
        for name, y, value, half, colour in bars:
            label = None if name in labelled else name
            labelled.add(name)
            axes.barh(y, value, height=_BAR, color=colour, label=label)
            if half is not None:
                interval = None if "interval" in labelled else "95 % interval"
                labelled.add("interval")
                axes.errorbar(
                    value, y, xerr=half, color=_DOT, linewidth=1, capsize=2, label=interval
                )
            sign = 1 if value > 0 else -1
            end = abs(value) + (half or 0)
            ends += [value - (half or 0), value + (half or 0)]
            axes.annotate(
                f"{value:+.2f}",
                (sign * end, y),
                xytext=(4 * sign, 0),
                textcoords="offset points",
                ha="left" if sign > 0 else "right",
                va="center",
                fontsize=8,
            )
    axes.axvline(0, color=_DOT, linewidth=0.8)
    room = 0.22 * (max(ends) - min(ends))  # for the figures at the ends of the bars
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.set_xlabel("difference to the reference, points")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=8)


def draw_modalities(scores: BenchmarkScores, path: Path) -> None:
    """Draws mIoU by modality: specialists, the generalist, and the generalist with a wrong X."""
    bars = {
        "specialist": [scores.miou(variant) for variant in SPECIALISTS],
        f"generalist, {EQUAL_PER_MODALITY.share} x the steps": [
            scores.miou(EQUAL_PER_MODALITY, modality) for modality in MODALITIES
        ],
        "the same, X of another scene": [
            scores.miou(EQUAL_PER_MODALITY, modality, XSource.OTHER) for modality in MODALITIES
        ],
    }
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    _grouped_bars(axes, bars, ("#5b7c99", "#d1603d", "#c9c9c9"))
    axes.axhline(scores.miou(RGB_ONLY), color="k", linewidth=1, linestyle="--", label="RGB only")
    axes.set_xticks(range(len(MODALITIES)), [modality.facts.title for modality in MODALITIES])
    axes.set_ylabel("mIoU, per cent")
    axes.set_title(f"Synthetic street, {scores.scale.test_scenes} test scenes", fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    axes.set_ylim(0, 1.35 * max(max(values) for values in bars.values()))
    figure.savefig(path, dpi=150)


def draw_robustness(scores: BenchmarkScores, path: Path) -> None:
    """Draws mIoU by failure of the camera."""
    groups = scores.groups()
    bars = {
        title: [scores.group_miou(variant, group) for group in groups]
        for title, variant in ROBUSTNESS.items()
    }
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.add_subplot()
    colours = ("#444444", "#d1603d", "#e0a458", "#5b7c99", "#6a994e", "#9a8c98")
    _grouped_bars(axes, bars, colours)
    axes.set_xticks(range(len(groups)), [GROUPS[group] for group in groups], fontsize=9)
    axes.set_ylabel("mIoU, per cent")
    axes.set_title("Synthetic street by failure of the camera", fontsize=10)
    figure.legend(frameon=False, fontsize=8, ncols=6, loc="outside lower center")
    figure.savefig(path, dpi=150)


def _grouped_bars(axes: Axes, bars: Mapping[str, Sequence[float]], colours: Sequence[str]) -> None:
    width = 0.8 / len(bars)
    for position, ((title, values), colour) in enumerate(zip(bars.items(), colours, strict=True)):
        places = np.arange(len(values)) - 0.4 + width * (position + 0.5)
        axes.bar(places, values, width, label=title, color=colour)
    axes.spines[["top", "right"]].set_visible(False)
