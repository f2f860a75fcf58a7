"""The confusion matrix as a picture: where the pixels of each class go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segrgbx_core.labels.metrics import ConfusionMatrix

_CELL_IN = 0.42
"""Side of a cell in inches: room for a whole per cent in small type."""
_FEW = 30
"""Classes up to which every cell tells its number; of more, only those above one per cent do."""


def shown_shares(
    matrix: ConfusionMatrix, names: Sequence[str]
) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """What the picture shows.

    Args:
        matrix: counts.
        names: of its classes.

    Returns:
        shares of each row's pixels (rows, columns), each row summing to 1; names of the rows,
        which are the classes that have truth; names of the columns, which are the classes that
        have truth or answers and, where pixels went unanswered, `no answer`.
    """
    counts = matrix.matrix
    has_truth = counts.sum(axis=1) > 0
    is_answered = counts.sum(axis=0) > 0
    columns = is_answered | np.append(has_truth, False)
    chosen = counts[has_truth][:, columns].astype(np.float64)
    shares = chosen / chosen.sum(axis=1, keepdims=True)
    titles = [*names, "no answer"]
    return (
        shares,
        [name for name, is_shown in zip(names, has_truth, strict=True) if is_shown],
        [name for name, is_shown in zip(titles, columns, strict=True) if is_shown],
    )


def draw_confusion(
    matrix: ConfusionMatrix, names: Sequence[str], path: Path | str, title: str = ""
) -> None:
    """Draws a confusion matrix, each row in per cent of its class's pixels.

    Args:
        matrix: counts.
        names: of its classes.
        path: image file; its ending chooses the format.
        title: heading.
    """
    shares, rows, columns = shown_shares(matrix, names)
    size = (2.6 + _CELL_IN * max(len(columns), 4), 1.9 + _CELL_IN * max(len(rows), 2))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    if rows:
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
        bar.set_ticks([0, 0.5, 1], labels=["0", "50", "100 %"])
        bar.outline.set_visible(False)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    least = 0.005 if len(columns) <= _FEW else 0.01
    for row, column in np.argwhere(shares >= least):
        share = shares[row, column]
        colour = "white" if share > 0.55 else "#30343c"
        number = axes.text(
            column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour
        )
        number.set_in_layout(False)  # it lies within the axes; measuring thousands takes seconds
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    figure.savefig(path, dpi=130)
