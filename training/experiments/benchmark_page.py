"""The synthetic benchmark's page: tables, charts, and what cannot be concluded from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from segrgbx_core.base.modality import MODALITIES, Modality
from training.data.datasets.synthetic import XSource
from training.engine.run import git_commit
from training.experiments.benchmark_scores import (
    Difference,
    Score,
    difference,
    mean_difference,
    write_json,
)
from training.experiments.benchmark_variants import (
    COMPONENT_ARMS,
    COMPONENTS,
    EQUAL_PER_MODALITY,
    EQUAL_TOTAL,
    RGB_ONLY,
    RGB_TWICE,
    SPECIALISTS,
    Arm,
    Scale,
    seeds_of,
)

GROUPS = {
    "normal": "no failure",
    "over_exposure": "over-exposed RGB",
    "under_exposure": "under-exposed RGB",
    "motion_blur": "blurred RGB",
    "event_low_resolution": "coarse events",
    "night": "night",
}
"""Groups of the robustness table, with their titles."""
_LINES = (
    ("RGB only", RGB_ONLY, RGB_ONLY.serves[0]),
    *((f"RGB + {arm.serves[0].facts.title.lower()}", arm, arm.serves[0]) for arm in SPECIALISTS),
)
"""Lines of the robustness table: title, model, modality; all of equal steps."""
MIN_SCENES, MIN_SEEDS = 300, 3
"""Below these, differences of components are noise."""


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that a benchmark has measured.

    Attributes:
        name: of the scale.
        scale: its sizes.
        scores: by name of the question, `<arm>_<seed>_<modality>_<x>`.
        minutes: wall clock of this call.
    """

    name: str
    scale: Scale
    scores: Mapping[str, Score]
    minutes: float

    def of(self, arm: Arm, modality: Modality, x: XSource | None = None) -> list[Score]:
        """Scores of an arm, one per training seed; `x` left out means what it was trained on."""
        source = arm.x if x is None else x
        return [
            self.scores[f"{arm.name}_{seed}_{modality}_{source.value}"]
            for seed in seeds_of(arm, self.scale)
        ]

    def miou(self, arm: Arm, modality: Modality, x: XSource | None = None) -> float:
        """Mean over seeds, per cent."""
        return _mean(one.miou for one in self.of(arm, modality, x))

    def groups(self) -> dict[str, int]:
        """The groups of `GROUPS` that have scenes, with the number of them."""
        members = self.of(RGB_ONLY, RGB_ONLY.serves[0])[0].groups
        return {group: len(members[group]) for group in GROUPS if group in members}

    def gain(self, arm: Arm, other: Arm, group: str = "") -> Difference:
        """How much a specialist is better than a control, on a group's scenes or on all."""
        ours, theirs = (self.of(one, one.serves[0]) for one in (arm, other))
        return difference(ours, theirs, group)


def write_page(out: Path, found: Findings) -> Path:
    """Writes `report.md`, `report.json`, `modalities.png` and `robustness.png`."""
    out.mkdir(parents=True, exist_ok=True)
    sections = [
        _head(found),
        _worth(found),
        _sensor_classes(found),
        _generalist(found),
        _robustness(found),
        _components(found),
        _limits(found),
    ]
    page = out / "report.md"
    page.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    write_json(out / "report.json", _plain(found))
    _draw_modalities(found, out / "modalities.png")
    _draw_robustness(found, out / "robustness.png")
    return page


def _head(found: Findings) -> str:
    scale = found.scale
    return (
        "# Synthetic benchmark\n\n"
        "**Synthetic scenes rendered by this project; no statement about real roads.** mIoU in "
        "per cent over the 16 classes of the rendered street, differences in points.\n\n"
        f"`python -m training.synthetic_benchmark --scale {found.name}` at commit "
        f"`{git_commit()}`: {scale.train_scenes} training scenes of two frames, "
        f"{scale.test_scenes} test scenes of one, {scale.width}x{scale.height}, half of the "
        f"scenes with a failing camera; {scale.steps} steps per specialist, {len(scale.seeds)} "
        f"training seed(s), {len(scale.component_seeds)} for components."
    )


def _worth(found: Findings) -> str:
    titles = ["RGB + X", "over RGB only", "over RGB twice", "X of another scene"]
    rows = []
    for modality, arm in zip(MODALITIES, SPECIALISTS, strict=True):
        rows.append(
            [
                str(modality),
                f"{found.miou(arm, modality):.1f}",
                *(_with_spread(found.gain(arm, other)) for other in (RGB_ONLY, RGB_TWICE)),
                f"{found.miou(arm, modality, XSource.OTHER):.1f}",
            ]
        )
    only, twice = (found.miou(arm, arm.serves[0]) for arm in (RGB_ONLY, RGB_TWICE))
    return (
        "## What X is worth\n\n"
        f"RGB only (X is black) {only:.1f}; RGB fed twice {twice:.1f}, the control for a second "
        "input that knows nothing new: what it gains too is no merit of a sensor. All are the "
        "same network. One specialist per modality:\n\n" + _table(["X", *titles], rows) + "\n\n"
        "![mIoU by modality](modalities.png)"
    )


def _sensor_classes(found: Findings) -> str:
    rows = []
    for modality, arm in zip(MODALITIES, SPECIALISTS, strict=True):
        names = modality.facts.reveals
        only, own, joint = (
            _mean(one.classes_iou(names) for one in scores)
            for scores in (
                found.of(RGB_ONLY, RGB_ONLY.serves[0]),
                found.of(arm, modality),
                found.of(EQUAL_PER_MODALITY, modality),
            )
        )
        rows.append([str(modality), ", ".join(names), *map(_number, (only, own, joint))])
    head = ["X", "classes", "RGB only", "specialist", "generalist"]
    return (
        "## The classes that a sensor exists for\n\nMean IoU of classes named beforehand, by "
        f"physics. The generalist takes {EQUAL_PER_MODALITY.share} times the steps of the others."
        "\n\n" + _table(head, rows)
    )


def _generalist(found: Findings) -> str:
    arms = {
        "five specialists": None,
        "one generalist, equal steps per modality": EQUAL_PER_MODALITY,
        "one generalist, as many steps in total as one specialist": EQUAL_TOTAL,
    }
    rows = []
    for title, arm in arms.items():
        values = [
            found.miou(arm or specialist, modality)
            for modality, specialist in zip(MODALITIES, SPECIALISTS, strict=True)
        ]
        steps = found.scale.steps * (len(MODALITIES) if arm is None else arm.share)
        rows.append([title, str(steps), *(f"{v:.1f}" for v in values), f"{_mean(values):.1f}"])
    head = ["", "steps in total", *map(str, MODALITIES), "mean"]
    return (
        "## One generalist or five specialists (the paper's Table V in small)\n\n"
        + _table(head, rows)
        + "\n\nUnlike in the paper, all modalities show the same scenes here."
    )


def _robustness(found: Findings) -> str:
    shown = found.groups()
    rows = []
    for title, arm, modality in _LINES:
        cells = [_number(_group(found, arm, modality, group)) for group in shown]
        if arm is not RGB_ONLY:
            gains = (_with_spread(found.gain(arm, RGB_ONLY, group)) for group in shown)
            cells = [f"{cell} ({gain})" for cell, gain in zip(cells, gains, strict=True)]
        rows.append([title, *cells])
    heads = [f"{GROUPS[group]}, {count} scenes" for group, count in shown.items()]
    return (
        "## When the camera fails (the paper's Figure 9 in small)\n\nOne specialist per "
        "modality, by failure, and in brackets what it is better than RGB only; each group has "
        "its own scenes: compare within a column.\n\n"
        + _table(["", *heads], rows)
        + "\n\n![mIoU by failure](robustness.png)"
    )


def _components(found: Findings) -> str:
    whole = {m: found.of(EQUAL_TOTAL, m) for m in MODALITIES}
    rows = []
    for arm in COMPONENT_ARMS:
        row = COMPONENTS.arm(arm.component)
        if arm.component == COMPONENTS.reference:
            values = [_mean(one.miou for one in whole[m]) for m in MODALITIES]
            change = "reference"
        else:
            values = [found.miou(arm, m) for m in MODALITIES]
            gap = mean_difference([(found.of(arm, m), whole[m]) for m in MODALITIES])
            change = _with_spread(gap)
        rows.append([row.title, *(f"{v:.1f}" for v in values), f"{_mean(values):.1f}", change])
    head = ["", *map(str, MODALITIES), "mean", "against the whole model"]
    return (
        "## Components (the paper's Table VI in small)\n\nGeneralists of "
        f"{found.scale.steps} steps.\n\n" + _table(head, rows)
    )


def _limits(found: Findings) -> str:
    scale = found.scale
    gains = {
        modality: found.gain(arm, RGB_TWICE)
        for modality, arm in zip(MODALITIES, SPECIALISTS, strict=True)
    }
    unproven = [str(modality) for modality, gain in gains.items() if gain.mean < 2 * gain.spread]
    lines = [
        "MA-CLIP is a small random tower here (no CLIP weights are shipped): its rows show that "
        "the path works, not what CLIP knows.",
        "One corner view of a light field holds little that RGB does not; no gain is promised.",
        "± is one standard error: the choice of test scenes (paired bootstrap) and, with several "
        "training seeds, theirs.",
    ]
    if unproven:
        lines.insert(
            0,
            f"Not better than RGB fed twice by two standard errors: {', '.join(unproven)}. For "
            "these, the table above shows no worth of the sensor in mIoU.",
        )
    if scale.test_scenes < MIN_SCENES or len(scale.component_seeds) < MIN_SEEDS:
        lines.append(
            f"**Nothing can be concluded about components**: that takes {MIN_SCENES} test scenes "
            f"and {MIN_SEEDS} training seeds, this run has {scale.test_scenes} and "
            f"{len(scale.component_seeds)}. Differences of one or two points are noise."
        )
    if len(scale.seeds) < MIN_SEEDS:
        lines.append(
            "With one training seed, its own chance (0.4 to 1.6 points at this size) is not in "
            "the spread: only gains of several points count."
        )
    return "## What cannot be concluded\n\n" + "\n".join(f"- {line}" for line in lines)


def _plain(found: Findings) -> dict[str, Any]:
    return {
        "synthetic": True,
        "commit": git_commit(),
        "name": found.name,
        "scale": asdict(found.scale),
        "minutes": found.minutes,
        "scores": {
            name: {
                "miou": one.miou,
                "groups": {group: one.group_miou(group) for group in sorted(one.groups)},
                "sensor_classes": {
                    str(modality): one.classes_iou(modality.facts.reveals)
                    for modality in MODALITIES
                },
            }
            for name, one in found.scores.items()
        },
        "gains": {
            other.name: {str(arm.serves[0]): asdict(found.gain(arm, other)) for arm in SPECIALISTS}
            for other in (RGB_ONLY, RGB_TWICE)
        },
    }


def _draw_modalities(found: Findings, path: Path) -> None:
    only = found.miou(RGB_ONLY, RGB_ONLY.serves[0])
    bars = {
        "specialist": [
            found.miou(arm, modality)
            for modality, arm in zip(MODALITIES, SPECIALISTS, strict=True)
        ],
        f"generalist, {EQUAL_PER_MODALITY.share} x the steps": [
            found.miou(EQUAL_PER_MODALITY, modality) for modality in MODALITIES
        ],
        "the same, X of another scene": [
            found.miou(EQUAL_PER_MODALITY, modality, XSource.OTHER) for modality in MODALITIES
        ],
    }
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    _grouped(axes, bars, ("#5b7c99", "#d1603d", "#c9c9c9"))
    axes.axhline(only, color="k", linewidth=1, linestyle="--", label="RGB only")
    axes.set_xticks(range(len(MODALITIES)), [modality.facts.title for modality in MODALITIES])
    axes.set_ylabel("mIoU, per cent")
    axes.set_title(f"Synthetic street, {found.scale.test_scenes} test scenes", fontsize=10)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    axes.set_ylim(0, 1.35 * max(max(values) for values in bars.values()))
    figure.savefig(path, dpi=150)


def _draw_robustness(found: Findings, path: Path) -> None:
    shown = found.groups()
    bars = {
        title: [_group(found, arm, modality, group) for group in shown]
        for title, arm, modality in _LINES
    }
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.add_subplot()
    colours = ("#444444", "#d1603d", "#e0a458", "#5b7c99", "#6a994e", "#9a8c98")
    _grouped(axes, bars, colours)
    axes.set_xticks(range(len(shown)), [GROUPS[group] for group in shown], fontsize=9)
    axes.set_ylabel("mIoU, per cent")
    axes.set_title("Synthetic street by failure of the camera", fontsize=10)
    figure.legend(frameon=False, fontsize=8, ncols=6, loc="outside lower center")
    figure.savefig(path, dpi=150)


def _grouped(axes: Any, bars: Mapping[str, Sequence[float]], colours: Sequence[str]) -> None:
    width = 0.8 / len(bars)
    for number, ((title, values), colour) in enumerate(zip(bars.items(), colours, strict=True)):
        places = np.arange(len(values)) - 0.4 + width * (number + 0.5)
        axes.bar(places, values, width, label=title, color=colour)
    axes.spines[["top", "right"]].set_visible(False)


def _group(found: Findings, arm: Arm, modality: Modality, group: str) -> float:
    return _mean(one.group_miou(group) for one in found.of(arm, modality))


def _with_spread(gap: Difference) -> str:
    return f"{gap.mean:+.1f} ± {gap.spread:.1f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
