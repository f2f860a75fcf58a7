"""Scores a checkpoint on a data set's split, through the same `Segmenter` that a vehicle runs.

python -m training.evaluate CHECKPOINT --root DATA --split val --modality thermal --out REPORT
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segrgbx_core.encoders import SensorConfig
from segrgbx_core.errors import ConfigError, DataError, SegrgbxError
from segrgbx_core.inference import InferenceConfig, Segmenter
from segrgbx_core.labels import UNIFIED
from segrgbx_core.metrics import AbsentClass, ConfusionMatrix
from segrgbx_core.modality import Modality
from training.datasets import READERS, Reader, open_reader, parse_options, sensor_of


@dataclass(frozen=True, eq=False)
class Report:
    """What an evaluation found.

    Attributes:
        checkpoint: file name.
        hash: SHA-256 of the file.
        data: data set and modality.
        space: label space of the scores.
        names: its class names.
        matrix: all samples.
        groups: the samples of each group, such as night.
        samples: number of samples.
    """

    checkpoint: str
    hash: str
    data: str
    space: str
    names: tuple[str, ...]
    matrix: ConfusionMatrix
    groups: dict[str, ConfusionMatrix] = field(default_factory=dict)
    samples: int = 0

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur, in [0, 1]."""
        return self.matrix.miou()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "checkpoint": self.checkpoint,
            "hash": self.hash,
            "data": self.data,
            "label_space": self.space,
            "samples": self.samples,
            **self.matrix.to_dict(self.names),
            "groups": {
                name: {"miou": matrix.miou(), "pixel_accuracy": matrix.pixel_accuracy()}
                for name, matrix in sorted(self.groups.items())
            },
        }

    def to_markdown(self) -> str:
        """A page with mIoU by both conventions, groups and classes."""
        skip, zero = (self.matrix.miou(absent) for absent in (AbsentClass.SKIP, AbsentClass.ZERO))
        lines = [
            f"# {self.data}: {self.checkpoint}",
            "",
            f"{self.samples} samples, label space `{self.space}`, checkpoint `{self.hash[:16]}`.",
            "",
            f"mIoU **{100 * skip:.2f}** over the classes that occur ({100 * zero:.2f} when absent "
            f"classes count 0), pixel accuracy {100 * self.matrix.pixel_accuracy():.2f}.",
            "",
        ]
        if self.groups:
            lines += ["| group | mIoU | pixel accuracy |", "|---|---:|---:|"]
            lines += [
                f"| {name} | {100 * matrix.miou():.2f} | {100 * matrix.pixel_accuracy():.2f} |"
                for name, matrix in sorted(self.groups.items())
            ]
            lines.append("")
        lines += ["| class | IoU | share of pixels |", "|---|---:|---:|"]
        share = self.matrix.matrix.sum(axis=1) / max(1, self.matrix.num_pixels)
        lines += [
            f"| {name} | {100 * value:.2f} | {100 * part:.2f} % |"
            for name, value, part in zip(self.names, self.matrix.iou(), share, strict=True)
            if not np.isnan(value)
        ]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Writes `report.md` and `report.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(self.to_markdown(), encoding="utf-8")
        text = json.dumps(self.to_dict(), indent=1)
        (folder / "report.json").write_text(f"{text}\n", encoding="utf-8")


def evaluate(
    checkpoint: Path | str,
    reader: Reader,
    config: InferenceConfig | None = None,
    sensors: SensorConfig | None = None,
    space: str = "",
    limit: int = 0,
    batch_size: int = 4,
) -> Report:
    """Scores a checkpoint on a reader's samples.

    Args:
        checkpoint: file to load.
        reader: what to score on.
        config: device, precision and size.
        sensors: facts about the data set's sensors, where its reader does not state them.
        space: empty scores in the data set's own classes (argmax among them, as in the paper);
            `unified` lets the model answer any class, and answers outside the data set are wrong.
        limit: number of samples, evenly spread; 0 for all.
        batch_size: samples per forward pass.
    """
    space = space or reader.native
    sensors = sensor_of(reader, sensors)
    segmenter = Segmenter.from_checkpoint(checkpoint, config, sensors, label_space=space)
    label_space = segmenter.label_space
    names = segmenter.classes.names
    matrix, groups = ConfusionMatrix(len(names)), dict[str, ConfusionMatrix]()
    size = len(reader)
    if size == 0:
        raise DataError(f"{reader.native}: the split has no samples to score")
    chosen = np.unique(np.linspace(0, size - 1, min(size, limit or size)).astype(int)).tolist()
    for start in range(0, len(chosen), batch_size):
        items = [reader[index] for index in chosen[start : start + batch_size]]
        answers = segmenter.predict([item.sample for item in items])
        for item, answer in zip(items, answers, strict=True):
            truth = item.labels
            if space == UNIFIED:
                truth = label_space.unify(truth, reader.native)
            own = ConfusionMatrix(len(names))
            own.update(truth, answer.labels)
            for total in (
                matrix,
                *(groups.setdefault(g, ConfusionMatrix(len(names))) for g in item.groups),
            ):
                total.merge(own)
    return Report(
        checkpoint=Path(checkpoint).name,
        hash=segmenter.checkpoint.hash,
        data=f"{reader.native} {reader.modality}",
        space=space,
        names=tuple(names),
        matrix=matrix,
        groups=groups,
        samples=len(chosen),
    )


def modality(name: str) -> Modality:
    """The modality of that name.

    Raises:
        ConfigError: when there is none.
    """
    try:
        return Modality(name)
    except ValueError:
        raise ConfigError(
            f"modality '{name}' is not one of {', '.join(map(str, Modality))}"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--reader", default="synthetic_street", help=", ".join(READERS))
    parser.add_argument("--root", required=True, help="folder of the data set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--modality", default="thermal")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of the data set"
    )
    parser.add_argument(
        "--space", default="", help="unified, or empty for the data set's own classes"
    )
    parser.add_argument("--limit", type=int, default=0, help="number of samples, 0 for all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="", help="folder for report.md and report.json")
    chosen = parser.parse_args(arguments)
    try:
        options = parse_options(chosen.set)
        kind = modality(chosen.modality)
        reader = open_reader(chosen.reader, chosen.root, chosen.split, kind, options)
        config = InferenceConfig(device=chosen.device)
        report = evaluate(
            chosen.checkpoint, reader, config, space=chosen.space, limit=chosen.limit
        )
    except SegrgbxError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(report.to_markdown())
    if chosen.out:
        report.write(Path(chosen.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
