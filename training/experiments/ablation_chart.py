"""The bar chart of an ablation; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_OURS, _REFERENCE, _PAPER, _DOT = "#5b7c99", "#d1603d", "#c9ced6", "#1c2026"
_BAR = 0.38


def draw(content: Mapping[str, Any], path: Path | str) -> None:
    """Draws our scores with every seed as a dot, and differences beside the paper's.

    Args:
        content: from `Page.content`; at least one arm has a run.
        path: image file; its ending chooses the format.
    """
    arms, setting = content["arms"], content["setting"]
    figure = Figure(figsize=(10, 0.5 * len(arms) + 2.0), layout="constrained")
    scores, differences = figure.subplots(1, 2, sharey=True)
    _scores(scores, arms, content["reference"])
    _differences(differences, arms, content["reference"])
    scores.set_yticks(range(len(arms)), [arm["title"] for arm in arms], fontsize=9)
    scores.invert_yaxis()
    for axes in (scores, differences):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    differences.spines["left"].set_visible(False)
    is_synthetic = any(size["is_synthetic"] for size in setting["data"])
    data = ", ".join(size["name"] for size in setting["data"])
    title = content["title"]
    figure.suptitle(
        f"{title[:1].upper()}{title[1:]} (the paper's Table {content['paper_table']})"
        + (": synthetic data" if is_synthetic else ""),
        fontsize=12,
        fontweight="bold",
    )
    count = len(setting["seeds"])
    figure.supxlabel(
        f"Ours: {data}, {setting['steps']} steps, {count} seed{'s' if count > 1 else ''}"
        + ("; a single seed shows no order of the arms" if count == 1 else "")
        + ". Paper: its own five data sets.",
        fontsize=8,
        color="#68707c",
    )
    figure.savefig(path, dpi=150)


def _scores(axes: Axes, arms: list[dict[str, Any]], reference: str) -> None:
    for row, arm in enumerate(arms):
        found = arm["miou_percent"]
        if found is None:
            axes.annotate(
                "not run", (0, row), xytext=(6, 0), textcoords="offset points", va="center"
            )
            continue
        colour = _REFERENCE if arm["arm"] == reference else _OURS
        axes.barh(row, found["mean"], height=2 * _BAR, color=colour)
        values = [run["miou_percent"] for run in arm["runs"]]
        if len(values) > 1:
            axes.plot(values, [row] * len(values), "o", color=_DOT, markersize=3.5)
        axes.annotate(
            f"{found['mean']:.2f}",
            (max(values), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    values = [run["miou_percent"] for arm in arms for run in arm["runs"]]
    axes.set_xlim(0, max(1.0, 1.2 * max(values)))
    axes.set_xlabel("mIoU, %; dots are seeds" if max(_counts(arms)) > 1 else "mIoU, %")


def _differences(axes: Axes, arms: list[dict[str, Any]], reference: str) -> None:
    labelled = set()
    ends = [-0.5, 0.5]
    for row, arm in enumerate(arms):
        if arm["arm"] == reference:
            axes.annotate(
                "reference", (0, row), xytext=(6, 0), textcoords="offset points", va="center",
                fontsize=8, color="#68707c",
            )  # fmt: skip
            continue
        ours, paper = arm["difference"], arm["paper"]["difference"]
        bars = [("paper", row + _BAR / 2, paper, None, _PAPER)]
        if ours is not None:
            half = None if ours["low"] is None else (ours["high"] - ours["low"]) / 2
            bars.insert(0, ("ours", row - _BAR / 2, ours["mean"], half, _OURS))
        for name, place, value, half, colour in bars:
            label = None if name in labelled else name
            labelled.add(name)
            axes.barh(place, value, height=_BAR, color=colour, label=label)
            if half is not None:
                interval = None if "interval" in labelled else "95 % interval"
                labelled.add("interval")
                axes.errorbar(
                    value, place, xerr=half, color=_DOT, linewidth=1, capsize=2, label=interval
                )
            sign = 1 if value > 0 else -1
            end = abs(value) + (half or 0)
            ends += [value - (half or 0), value + (half or 0)]
            axes.annotate(
                f"{value:+.2f}",
                (sign * end, place),
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


def _counts(arms: list[dict[str, Any]]) -> list[int]:
    return [len(arm["runs"]) for arm in arms]
