"""What an evaluation found, as Markdown, JSON and a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segrgbx_core.labels.metrics import AbsentClass, ConfusionMatrix, plain
from training.eval.confusion_picture import draw_confusion
from training.eval.protocols import Protocol

FORMAT = "segrgbx evaluation 1"
"""Marks report.json of one data set; the number rises when its keys change their meaning."""


@dataclass(frozen=True)
class Subject:
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
        """Data set and modality: what one column of a table is about."""
        return f"{self.native} {self.modality}".strip()

    def counted(self, samples: int) -> str:
        """How many of the split's samples were scored, in words."""
        if samples == self.whole:
            return f"{samples} samples"
        return f"**{samples} of {self.whole} samples**"

    def warnings(self) -> list[str]:
        """What forbids reading the result as that of a real data set."""
        lines = []
        if self.is_synthetic:
            lines.append("**Synthetic**: rendered scenes; says nothing about real ones.")
        if self.is_random:
            lines.append("**Untrained**: random weights; the figures mean nothing.")
        return lines


@dataclass(frozen=True, eq=False)
class Report:
    """What an evaluation found on one data set.

    Attributes:
        checkpoint: file name.
        hash: SHA-256 of the file.
        data: data set and modality.
        space: label space of the scores.
        names: its class names.
        matrix: all samples.
        protocol: readings of the mean.
        subject: what was scored, and how.
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
    subject: Subject
    groups: dict[str, ConfusionMatrix] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    samples: int = 0

    @property
    def miou(self) -> float:
        """The data set's first reading of mIoU over the classes that occur, in [0, 1]."""
        return self.protocol.primary.value(self.matrix)

    def part_mean(self, absent: AbsentClass = AbsentClass.SKIP) -> float:
        """Plain mean of the parts' means; NaN unless every part was scored."""
        parts = self.protocol.parts
        if not parts or any(part not in self.groups for part in parts):
            return float("nan")
        primary = self.protocol.primary
        return float(np.mean([primary.value(self.groups[part], absent) for part in parts]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures = self.protocol.figures
        return {
            "format": FORMAT,
            "checkpoint": self.checkpoint,
            "hash": self.hash,
            "data": self.data,
            **asdict(self.subject),
            "label_space": self.space,
            "samples": self.samples,
            "primary": figures[0].key,
            "readings": {figure.key: figure.title for figure in figures},
            "figures": self.protocol.values(self.matrix),
            "part_mean": {absent.value: plain(self.part_mean(absent)) for absent in AbsentClass},
            **self.matrix.to_dict(self.names),
            "groups": {
                name: {
                    "samples": self.sizes.get(name, 0),
                    "figures": self.protocol.values(matrix),
                    "pixel_accuracy": plain(matrix.pixel_accuracy()),
                }
                for name, matrix in sorted(self.groups.items())
            },
        }

    def to_markdown(self) -> str:
        """A page with every reading of mIoU, groups and classes."""
        subject = self.subject
        split = f", {subject.split}" if subject.split else ""
        lines = [f"# {self.data}{split}: {self.checkpoint}", ""]
        for warning in subject.warnings():
            lines += [warning, ""]
        lines += [
            f"{subject.counted(self.samples)}, label space `{self.space}`, "
            f"checkpoint `{self.hash[:16]}`"
            + (f", {subject.options}" if subject.options else "")
            + (f", {subject.views}" if subject.views else "")
            + (f", {subject.precision} on {subject.device}" if subject.device else "")
            + ".",
            "",
            f"mIoU **{percent(self.miou)}** ({self.protocol.primary.title}), "
            f"pixel accuracy {percent(self.matrix.pixel_accuracy())}, "
            f"mean class accuracy {percent(_mean(self.matrix))}.",
            "",
            *self._readings(),
        ]
        if self.protocol.note:
            lines += [self.protocol.note, ""]
        for title, names in self.protocol.ordered(self.groups).items():
            lines += [*self._groups(title, names), ""]
        return "\n".join([*lines, *self._classes()]) + "\n"

    def write(self, folder: Path) -> None:
        """Writes `report.md`, `report.json` and `confusion.png`."""
        folder.mkdir(parents=True, exist_ok=True)
        picture = "confusion.png"
        text = f"{self.to_markdown()}\n![Where the pixels of each class go]({picture})\n"
        (folder / "report.md").write_text(text, encoding="utf-8")
        write_json(folder / "report.json", self.to_dict())
        kind = " (synthetic)" if self.subject.is_synthetic else ""
        title = f"{self.data} {self.subject.split}{kind}, {self.checkpoint}"
        draw_confusion(self.matrix, self.names, folder / picture, title)

    def _readings(self) -> list[str]:
        lines = ["| mIoU | absent classes left out | absent classes count 0 |", "|---|---:|---:|"]
        for figure in self.protocol.figures:
            skip, zero = (percent(figure.value(self.matrix, absent)) for absent in AbsentClass)
            lines.append(f"| {figure.title} | {skip} | {zero} |")
        if not np.isnan(self.part_mean()):
            skip, zero = (percent(self.part_mean(absent)) for absent in AbsentClass)
            names = " and ".join(self.protocol.parts)
            lines.append(f"| plain mean of {names}; above: pooled pixels | {skip} | {zero} |")
        return [*lines, ""]

    def _groups(self, title: str, names: list[str]) -> list[str]:
        figures = self.protocol.figures
        keys = [cell for figure in figures for cell in (figure.key, "absent 0")]
        lines = [
            f"| {title} | samples | {' | '.join(keys)} | pixel accuracy |",
            f"|---|---:|{'---:|' * len(keys)}---:|",
        ]
        for name in names:
            matrix = self.groups[name]
            cells = [
                percent(figure.value(matrix, absent))
                for figure in figures
                for absent in AbsentClass
            ]
            lines.append(
                f"| {name} | {self.sizes.get(name, 0)} | {' | '.join(cells)} "
                f"| {percent(matrix.pixel_accuracy())} |"
            )
        return lines

    def _classes(self) -> list[str]:
        matrix = self.matrix
        share = matrix.matrix.sum(axis=1) / max(1, matrix.num_pixels)
        rows = zip(self.names, matrix.iou(), matrix.accuracy(), share, strict=True)
        lines = ["| class | IoU | accuracy | share of truth |", "|---|---:|---:|---:|"]
        absent = []
        for name, iou, accuracy, part in rows:
            if np.isnan(iou):
                absent.append(name)
                continue
            lines.append(f"| {name} | {percent(iou)} | {percent(accuracy)} | {percent(part)} % |")
        if absent:
            lines += ["", f"In neither truth nor answers: {', '.join(absent)}."]
        return lines


def percent(value: float | None) -> str:
    """A share in per cent, a dash where it is undefined."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes plain values as JSON that is strict about numbers."""
    path.write_text(f"{json.dumps(values, indent=1, allow_nan=False)}\n", encoding="utf-8")


def _mean(matrix: ConfusionMatrix) -> float:
    values = matrix.accuracy()
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
