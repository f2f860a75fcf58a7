"""Results of an evaluation, on one data set or on several: Markdown, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segrgbx_core.base.tables import markdown_table, percent, rounded
from segrgbx_core.labels.metrics import METRICS, AbsentClass, ConfusionMatrix
from training.eval.protocols import Protocol

FORMAT = "segrgbx evaluation 1"
"""Marks report.json of one data set; the number rises when its keys change their meaning."""
JOINT_FORMAT = "segrgbx joint evaluation 1"
"""Marks report.json of several data sets."""
SYNTHETIC_NOTE = "**Synthetic**: rendered scenes; says nothing about real ones."
RANDOM_NOTE = "**Untrained**: random weights; the figures mean nothing."
_CELL_IN = 0.42
"""Side of a cell of the confusion picture in inches: room for a whole per cent in small type."""
_WIDEST_IN = 24.0
"""Most that the cells of one row take up; beyond, they shrink and show no numbers."""
_FEW = 30
"""Classes up to which every cell shows its number; of more, only those above one per cent do."""


@dataclass(frozen=True)
class Conditions:
    """What was scored, and how.

    Attributes:
        native: data set, by the name of its label space.
        modality: X.
        split: of the data set; empty where the reader does not say.
        options: the data set's own options, such as a selection; empty for none.
        whole: samples of the whole split: as published, or else as found.
        views: which views of a frame were averaged, in words.
        device: what ran the model.
        precision: number format of products.
        architecture: `segrgbx` or the name of a baseline.
        trained_on: data sets of the checkpoint's training.
        started_from: checkpoint that the training started from; empty for none.
        is_random: True where nothing was trained.
        is_synthetic: True where the samples were rendered by this project.
    """

    native: str = ""
    modality: str = ""
    split: str = ""
    options: str = ""
    whole: int = 0
    views: str = ""
    device: str = ""
    precision: str = ""
    architecture: str = "segrgbx"
    trained_on: tuple[str, ...] = ()
    started_from: str = ""
    is_random: bool = False
    is_synthetic: bool = False

    @property
    def column(self) -> str:
        """Data set and modality: the title of a column."""
        return f"{self.native} {self.modality}".strip()

    def share_text(self, samples: int) -> str:
        """How many of the split's samples were scored, in words."""
        if samples == self.whole:
            return f"{samples} samples"
        return f"**{samples} of {self.whole} samples**"


@dataclass(frozen=True, eq=False)
class Report:
    """Results of an evaluation on one data set.

    Attributes:
        checkpoint: file name.
        hash: SHA-256 of the file.
        data: data set and modality.
        space: label space of the scores.
        names: its class names.
        matrix: all samples.
        protocol: readings of the mean.
        conditions: what was scored, and how.
        groups: the samples of each group, such as night.
        sizes: number of samples of each group.
        samples: number of samples.
    """

    checkpoint: str
    hash: str
    data: str
    space: str
    names: tuple[str, ...]
    matrix: ConfusionMatrix
    protocol: Protocol
    conditions: Conditions
    groups: dict[str, ConfusionMatrix] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    samples: int = 0

    @property
    def miou(self) -> float:
        """The data set's first reading of mIoU over the classes that occur, in [0, 1]."""
        return self.mean()

    def mean(self, is_second: bool = False, absent: AbsentClass = AbsentClass.SKIP) -> float:
        """Mean IoU in [0, 1] by the first or second reading; the same where there is one."""
        protocol = self.protocol
        reading = protocol.alternative if is_second else protocol.primary
        return reading.value(self.matrix, absent)

    def part_mean(self, absent: AbsentClass = AbsentClass.SKIP) -> float:
        """Plain mean of the parts' means; NaN unless every part was scored."""
        parts = self.protocol.parts
        if not parts or any(part not in self.groups for part in parts):
            return float("nan")
        primary = self.protocol.primary
        return float(np.mean([primary.value(self.groups[part], absent) for part in parts]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        readings = self.protocol.readings
        return {
            "format": FORMAT,
            "checkpoint": self.checkpoint,
            "hash": self.hash,
            "data": self.data,
            **asdict(self.conditions),
            "label_space": self.space,
            "samples": self.samples,
            "primary": readings[0].key,
            "readings": {one.key: one.title for one in readings},
            "figures": self.protocol.values(self.matrix),
            "part_mean": {absent.value: rounded(self.part_mean(absent)) for absent in AbsentClass},
            **self.matrix.to_dict(self.names),
            "groups": {
                name: {
                    "samples": self.sizes.get(name, 0),
                    "figures": self.protocol.values(matrix),
                    **{metric.key: rounded(metric.value(matrix)) for metric in METRICS},
                }
                for name, matrix in sorted(self.groups.items())
            },
        }

    def to_markdown(self) -> str:
        """A page with every reading of mIoU, groups and classes."""
        conditions = self.conditions
        split = f", {conditions.split}" if conditions.split else ""
        lines = [f"# {self.data}{split}: {self.checkpoint}", ""]
        if conditions.is_synthetic:
            lines += [SYNTHETIC_NOTE, ""]
        if conditions.is_random:
            lines += [RANDOM_NOTE, ""]
        beside = [f"{metric.title} {percent(metric.value(self.matrix))}" for metric in METRICS]
        beside.append(f"mean class accuracy {percent(_mean_accuracy(self.matrix))}")
        lines += [
            f"{conditions.share_text(self.samples)}, label space `{self.space}`, "
            f"checkpoint `{self.hash[:16]}`"
            + (f", {conditions.options}" if conditions.options else "")
            + (f", {conditions.views}" if conditions.views else "")
            + (f", {conditions.precision} on {conditions.device}" if conditions.device else "")
            + ".",
            "",
            f"mIoU **{percent(self.miou)}** ({self.protocol.primary.title}), {', '.join(beside)}.",
            "",
            self._readings(),
            "",
        ]
        if self.protocol.note:
            lines += [self.protocol.note, ""]
        for title, names in self.protocol.ordered(self.groups).items():
            lines += [self._groups(title, names), ""]
        return "\n".join([*lines, *self._classes()]) + "\n"

    def write(self, folder: Path) -> None:
        """Writes `report.md`, `report.json` and `confusion.png`."""
        folder.mkdir(parents=True, exist_ok=True)
        picture = "confusion.png"
        text = f"{self.to_markdown()}\n![Where the pixels of each class go]({picture})\n"
        (folder / "report.md").write_text(text, encoding="utf-8")
        write_json(folder / "report.json", self.to_dict())
        kind = " (synthetic)" if self.conditions.is_synthetic else ""
        title = f"{self.data} {self.conditions.split}{kind}, {self.checkpoint}"
        draw_confusion(self.matrix, self.names, folder / picture, title)

    def _readings(self) -> str:
        rows = [
            [one.title, *(percent(one.value(self.matrix, absent)) for absent in AbsentClass)]
            for one in self.protocol.readings
        ]
        if not np.isnan(self.part_mean()):
            names = " and ".join(self.protocol.parts)
            means = (percent(self.part_mean(absent)) for absent in AbsentClass)
            rows.append([f"plain mean of {names}; above: pooled pixels", *means])
        return markdown_table(["mIoU", "absent classes left out", "absent classes count 0"], rows)

    def _groups(self, title: str, names: Sequence[str]) -> str:
        readings = self.protocol.readings
        keys = [cell for one in readings for cell in (one.key, "absent 0")]
        rows = []
        for name in names:
            matrix = self.groups[name]
            values = [one.value(matrix, absent) for one in readings for absent in AbsentClass]
            values += [metric.value(matrix) for metric in METRICS]
            rows.append([name, self.sizes.get(name, 0), *map(percent, values)])
        return markdown_table([title, "samples", *keys, *(m.title for m in METRICS)], rows)

    def _classes(self) -> list[str]:
        matrix = self.matrix
        shares = matrix.matrix.sum(axis=1) / max(1, matrix.num_pixels)
        rows, absent = [], []
        columns = zip(self.names, matrix.iou(), matrix.accuracy(), shares, strict=True)
        for name, iou, accuracy, share in columns:
            if np.isnan(iou):
                absent.append(name)
            else:
                rows.append([name, percent(iou), percent(accuracy), f"{percent(share)} %"])
        lines = [markdown_table(["class", "IoU", "accuracy", "share of truth"], rows)]
        if absent:
            lines += ["", f"In neither truth nor answers: {', '.join(absent)}."]
        return lines


JOINT_ROWS = {
    "first reading": (False, AbsentClass.SKIP),
    "first reading, absent classes count 0": (False, AbsentClass.ZERO),
    "second reading": (True, AbsentClass.SKIP),
    "second reading, absent classes count 0": (True, AbsentClass.ZERO),
}
"""Rows of the joint table, by title: what `Report.mean` takes."""


@dataclass(frozen=True, eq=False)
class JointReport:
    """One checkpoint on several data sets: the row of the paper's Table I, under every reading."""

    reports: tuple[Report, ...]
    """One per data set and modality."""

    @property
    def parts(self) -> dict[str, list[Report]]:
        """Real and synthetic results apart; a mean over both would say nothing."""
        parts: dict[str, list[Report]] = {"real": [], "synthetic": []}
        for report in self.reports:
            parts["synthetic" if report.conditions.is_synthetic else "real"].append(report)
        return {name: reports for name, reports in parts.items() if reports}

    def means(self) -> dict[str, dict[str, float | None]]:
        """Plain mean over the data sets by part and reading; None where one is undefined."""
        return {
            part: {title: rounded(_mean(reports, *row)) for title, row in JOINT_ROWS.items()}
            for part, reports in self.parts.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": JOINT_FORMAT,
            "means": self.means(),
            "reports": [report.to_dict() for report in self.reports],
        }

    def to_markdown(self) -> str:
        """A page with the joint tables, and what stands in them."""
        first = self.reports[0]
        lines = [f"# {first.checkpoint} on {len(self.reports)} data sets", ""]
        lines += [f"Checkpoint `{first.hash[:16]}`, {first.conditions.views}.", ""]
        if first.conditions.is_random:
            lines += [RANDOM_NOTE, ""]
        for part, reports in self.parts.items():
            if part == "synthetic":
                lines += [SYNTHETIC_NOTE, ""]
            lines += [_joint_table(reports), ""]
        titles = ["data set", "split", "samples", "first reading", "second reading"]
        lines.append(markdown_table(titles, map(_joint_row, self.reports), "l"))
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Writes `report.md` and `report.json`, and each data set's own report one folder down."""
        folder.mkdir(parents=True, exist_ok=True)
        links = []
        for report in self.reports:
            name = report.conditions.column.replace(" ", "_")
            report.write(folder / name)
            links.append(f"- [{report.data}]({name}/report.md)")
        text = "\n".join([self.to_markdown(), *links])
        (folder / "report.md").write_text(f"{text}\n", encoding="utf-8")
        write_json(folder / "report.json", self.to_dict())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes plain values as JSON that is strict about numbers."""
    path.write_text(f"{json.dumps(values, indent=1, allow_nan=False)}\n", encoding="utf-8")


def confusion_shares(
    matrix: ConfusionMatrix, names: Sequence[str]
) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """The rows and columns that a picture of a confusion matrix has.

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
    pixels = counts[has_truth][:, columns].astype(np.float64)
    shares = pixels / pixels.sum(axis=1, keepdims=True)
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
    shares, rows, columns = confusion_shares(matrix, names)
    cell = min(_CELL_IN, _WIDEST_IN / max(len(columns), len(rows), 1))
    size = (2.6 + cell * max(len(columns), 4), 1.9 + cell * max(len(rows), 2))
    font = 8 * min(1.0, 1.6 * cell / _CELL_IN)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    if rows:
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
        bar.set_ticks([0, 0.5, 1], labels=["0", "50", "100 %"])
        bar.outline.set_visible(False)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=font)
    axes.set_yticks(range(len(rows)), rows, fontsize=font)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    least = 0.005 if len(columns) <= _FEW else 0.01
    has_room = cell == _CELL_IN
    for row, column in np.argwhere(shares >= least) if has_room else ():
        share = shares[row, column]
        colour = "white" if share > 0.55 else "#30343c"
        number = axes.text(
            column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour
        )
        number.set_in_layout(False)  # it lies within the axes; measuring thousands takes seconds
    if title:
        axes.set_title(title, fontsize=10, loc="left")
    figure.savefig(path, dpi=130)


def _mean(reports: Sequence[Report], is_second: bool, absent: AbsentClass) -> float:
    return float(np.mean([report.mean(is_second, absent) for report in reports]))


def _joint_table(reports: Sequence[Report]) -> str:
    titles = ["mIoU", "mean", *(report.conditions.column for report in reports)]
    rows = [
        [title, f"**{percent(_mean(reports, *row))}**", *(percent(r.mean(*row)) for r in reports)]
        for title, row in JOINT_ROWS.items()
    ]
    return markdown_table(titles, rows)


def _joint_row(report: Report) -> list[str]:
    conditions, protocol = report.conditions, report.protocol
    second = "same" if len(protocol.readings) == 1 else protocol.alternative.title
    samples = conditions.share_text(report.samples)
    return [conditions.column, conditions.split, samples, protocol.primary.title, second]


def _mean_accuracy(matrix: ConfusionMatrix) -> float:
    values = matrix.accuracy()
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
