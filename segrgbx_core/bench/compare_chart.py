"""The bar chart of `segrgbx-bench --compare`; needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_PLAIN, _FAST, _OURS = "#9aa5b1", "#5b7c99", "#d1603d"


def draw(report: dict[str, Any], path: Path | str) -> None:
    """Draws median times as bars, with a mark at p95.

    Args:
        report: what `compare` returned.
        path: image file; its ending chooses the format.
    """
    models, setting = report["models"], report["setting"]
    titles = [model["title"] for model in models.values()]
    medians = [model["median_ms"] for model in models.values()]
    tails = [model["p95_ms"] for model in models.values()]
    colours = [
        _OURS if key.startswith("segrgbx_fast") else _FAST if key.endswith("_fast") else _PLAIN
        for key in models
    ]
    figure = Figure(figsize=(8, 0.45 * len(models) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(models))
    axes.barh(rows, medians, color=colours)
    axes.plot(tails, rows, "k|", markersize=10, label="p95 of single frames")
    for row, median in zip(rows, medians, strict=True):
        axes.annotate(
            f"{median:.1f}",
            (0, row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color="white",
            fontweight="bold",
        )
    axes.set_yticks(list(rows), titles)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(*medians, *tails))
    axes.set_xlabel("ms per frame, median")
    place = f"{setting['input']}, {setting['device']}"
    axes.set_title(f"{setting['preset']}, {place}, random weights", fontsize=10)
    figure.legend(loc="outside lower right", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
