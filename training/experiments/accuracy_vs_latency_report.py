"""Tables and chart of `training.speed_cost`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from segrgbx_core.export.parity import MIN_AGREEMENT

_HEAD = "| form | mIoU | change | labels as exact | worst frame | ms | p95 | CPU ms | speed |"
_COLOURS = {
    "refresh_every": "#d1603d",
    "precision": "#5b7c99",
    "input size": "#6a994e",
    "backend": "#7b5ea7",
}
_MUST_AGREE = ("precision", "backend")
"""Groups that may not change labels: their forms answer the same question in another way."""


def to_markdown(report: dict[str, Any]) -> str:
    """One page: a table of all forms, and a line for each that could not be run."""
    groups = report["groups"]
    device = groups[0]["exact"]["device"] if groups else "no device"
    processor = platform.processor() or platform.machine()
    lines = [
        f"# What speed costs: {report['checkpoint']}",
        "",
        f"{report['data']}; checkpoint `{report['hash'][:16]}`, trained at "
        f"{report['trained_input']}; {device}, {processor}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}. Times are means per frame; speed is the exact form's time "
        "over this one's, of CPU time on a CPU and wall time elsewhere, measured in turns.",
        "",
        _HEAD,
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for group in groups:
        lines.append(f"| **{group['group']}** | | | | | | | | |")
        exact = group["exact"]
        lines += [_row(form, exact) for form in (exact, *group["forms"])]
    lines.append("")
    lines += [f"- not run: {name}: {reason}" for name, reason in report["missing"].items()]
    bad = below_limit(report)
    share = f"{100 * MIN_AGREEMENT:g} %"
    lines.append(
        f"- fewer than {share} of the labels are the exact form's: {', '.join(bad)}"
        if bad
        else f"- every precision and backend keeps at least {share} of the exact form's labels"
    )
    return "\n".join(lines) + "\n"


def below_limit(report: dict[str, Any]) -> list[str]:
    """Precisions and backends that change more labels than an export may."""
    return [
        form["name"]
        for group in report["groups"]
        if group["group"] in _MUST_AGREE
        for form in group["forms"]
        if not form["agreement"] >= MIN_AGREEMENT
    ]


def speed(form: dict[str, Any], exact: dict[str, Any]) -> float:
    """How many times faster than the exact form, which was measured in the same turns."""
    clock = "wall_ms" if exact["device"].startswith("cuda") else "cpu_ms"
    return float(exact[clock] / form[clock])


def write_json(report: dict[str, Any], path: Path) -> None:
    """Writes all figures."""
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws the change of mIoU over speed, one mark per form."""
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color="#9aa5b1", linewidth=0.8)
        axes.axvline(1, color="#9aa5b1", linewidth=0.8)
        for group in report["groups"]:
            exact, colour = group["exact"], _COLOURS[group["group"]]
            points = [
                (speed(form, exact), 100 * (form["miou"] - exact["miou"]), form["name"])
                for form in group["forms"]
            ]
            axes.scatter(*zip(*(point[:2] for point in points), strict=True), color=colour,
                         label=group["group"])  # fmt: skip
            for index, (across, up, name) in enumerate(points):
                offset = (4, 4 if index % 2 == 0 else -10)
                axes.annotate(
                    name, (across, up), xytext=offset, textcoords="offset points", color=colour
                )
        axes.set_xlabel("speed, exact form = 1")
        axes.set_ylabel("change of mIoU in points")
        axes.set_title(f"{report['checkpoint']} on {report['data']}")
        axes.margins(0.12)
        if report["groups"]:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=130)


def _row(form: dict[str, Any], exact: dict[str, Any]) -> str:
    change = 100 * (form["miou"] - exact["miou"])
    cells = (
        form["name"],
        f"{100 * form['miou']:.2f}",
        f"{change:+.2f}",
        f"{100 * form['agreement']:.2f} %",
        f"{100 * form['worst_agreement']:.2f} %",
        f"{form['wall_ms']:.1f}",
        f"{form['p95_ms']:.1f}",
        f"{form['cpu_ms']:.1f}",
        f"{speed(form, exact):.2f}",
    )
    return "| " + " | ".join(cells) + " |"
