"""The page of an ablation, as Markdown, JSON and chart, from what `Page.content` says."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segrgbx_core.bench.cost import Cost
from training.experiments.ablation_chart import draw
from training.experiments.ablation_results import COST_SIZE
from training.experiments.ablation_tables import Table


def write_page(content: Mapping[str, Any], out: Path) -> None:
    """Writes `<table>.md`, `.json` and, once there is a score, `.png`."""
    out.mkdir(parents=True, exist_ok=True)
    name = content["table"]
    text = json.dumps(content, indent=1, allow_nan=False)
    (out / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    has_scores = any(arm["runs"] for arm in content["arms"])
    if has_scores:
        draw(content, out / f"{name}.png")
    (out / f"{name}.md").write_text(to_markdown(content, has_scores), encoding="utf-8")


def to_markdown(content: Mapping[str, Any], has_chart: bool = False) -> str:
    """The page."""
    setting = content["setting"]
    name, reference = content["table"], content["reference"]
    kind = "synthetic, " if all(size["is_synthetic"] for size in setting["data"]) else ""
    data = "; ".join(f"{d['name']} ({d['train']} train, {d['val']} val)" for d in setting["data"])
    lines = [
        f"# Ablation `{name}`: {content['title']} (the paper's Table {content['paper_table']})",
        "",
        f"Ours: run file `{setting['run']}`, {setting['steps']} steps of {setting['batch_size']}, "
        f"seeds {', '.join(map(str, setting['seeds']))}, commit `{setting['commit']}`.",
        f"Data, {kind}val split scored: {data}.",
        "",
        "Columns marked *paper* repeat the paper, which measured on its five data sets; nothing "
        f"in them was measured here. Differences are to `{reference}`, paired by seed, in "
        "percentage points; brackets hold the 95 % interval.",
        "",
        *_score_rows(content),
        "",
    ]
    if len(setting["data"]) > 1:
        lines += [*_data_rows(content), ""]
    if has_chart:
        lines += [f"![Ablation {name}]({name}.png)", ""]
    lines += ["## Cost", "", *_cost_rows(content["arms"]), ""]
    for failure in content["failed"]:
        lines.append(f"**{failure['arm']}, seed {failure['seed']} diverged:** {failure['why']}")
    lines += ["## What this does not show", "", *(f"- {text}" for text in content["cautions"])]
    folders = ", ".join(
        f"`{arm['arm']}` in `{run['folder']}`"
        for arm in content["arms"]
        for run in arm["runs"][:1]
    )
    if folders:
        lines += ["", f"Trainings (first seed): {folders}."]
    return "\n".join(lines) + "\n"


def cost_table(table: Table, costs: Mapping[str, Cost]) -> str:
    """Parameters and multiply-adds of some arms as Markdown."""
    rows = []
    for arm in table.arms:
        if arm.name not in costs:
            continue
        cost = costs[arm.name]
        paper = dict(zip(("parameters_m", "gflops"), arm.paper_cost or (), strict=False))
        rows.append({"arm": arm.name, "title": arm.title, "paper": paper, **vars(cost)})
    return "\n".join(_cost_rows(rows)) + "\n"


def _score_rows(content: Mapping[str, Any]) -> list[str]:
    lines = [
        "| arm | | mIoU | spread | by seed | difference | *paper* mIoU | *paper* difference |",
        "|---|---|---:|---:|---|---|---:|---:|",
    ]
    for arm in content["arms"]:
        found = arm["miou_percent"]
        mean = f"**{found['mean']:.2f}**" if found else "not run"
        spread = f"{found['std']:.2f}" if found and found["std"] is not None else "-"
        values = ", ".join(f"{run['miou_percent']:.2f}" for run in arm["runs"]) or "-"
        paper = arm["paper"]
        is_reference = arm["arm"] == content["reference"]
        lines.append(
            f"| `{arm['arm']}` | {arm['title']} | {mean} | {spread} | {values} | "
            f"{'reference' if is_reference else _difference(arm['difference'])} | "
            f"{paper['miou_percent']:.2f} | "
            f"{'reference' if is_reference else format(paper['difference'], '+.2f')} |"
        )
    return lines


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["low"] is None:
        return f"{found['mean']:+.2f}"
    return f"{found['mean']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def _data_rows(content: Mapping[str, Any]) -> list[str]:
    names = [size["name"] for size in content["setting"]["data"]]
    lines = [f"| mIoU by data set | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for arm in content["arms"]:
        if arm["runs"]:
            columns = zip(*(run["scores"] for run in arm["runs"]), strict=True)
            means = [statistics.fmean(s["miou_percent"] for s in column) for column in columns]
            lines.append(f"| `{arm['arm']}` | {' | '.join(f'{m:.2f}' for m in means)} |")
    return lines


def _cost_rows(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    side = " x ".join(map(str, COST_SIZE))
    lines = [
        f"| arm | | M parameters | GMACs at {side} | GMACs, the paper's way of counting | "
        '*paper* M | *paper* "GFLOPs" |',
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for arm in arms:
        paper = arm["paper"]
        theirs = [f"{paper[k]:.2f}" if k in paper else "-" for k in ("parameters_m", "gflops")]
        lines.append(
            f"| `{arm['arm']}` | {arm['title']} | {arm['parameters_m']:.2f} | "
            f"{arm['gmacs']:.2f} | {arm['gmacs_paper_convention']:.2f} | {' | '.join(theirs)} |"
        )
    return lines
