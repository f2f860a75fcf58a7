"""One checkpoint on several data sets: the row of the paper's Table I, under every reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segrgbx_core.labels.metrics import AbsentClass, plain
from training.eval.report import Report, percent, write_json

JOINT_FORMAT = "segrgbx joint evaluation 1"
"""Marks report.json of several data sets."""

Reading = Callable[[Report], float]

READINGS: dict[str, Reading] = {
    "first reading": lambda report: report.protocol.primary.value(report.matrix),
    "first reading, absent classes count 0": lambda report: report.protocol.primary.value(
        report.matrix, AbsentClass.ZERO
    ),
    "second reading": lambda report: report.protocol.alternative.value(report.matrix),
    "second reading, absent classes count 0": lambda report: report.protocol.alternative.value(
        report.matrix, AbsentClass.ZERO
    ),
}
"""Rows of the joint table; the second reading is the first one where a data set has but one."""


@dataclass(frozen=True, eq=False)
class JointReport:
    """What an evaluation found on several data sets.

    Attributes:
        reports: one per data set and modality.
    """

    reports: tuple[Report, ...]

    @property
    def parts(self) -> dict[str, list[Report]]:
        """Real and synthetic results apart; a mean over both would say nothing."""
        parts: dict[str, list[Report]] = {"real": [], "synthetic": []}
        for report in self.reports:
            parts["synthetic" if report.subject.is_synthetic else "real"].append(report)
        return {name: reports for name, reports in parts.items() if reports}

    def means(self) -> dict[str, dict[str, float | None]]:
        """Plain mean over the data sets by part and reading; None where one is undefined."""
        return {
            part: {title: plain(_mean(reports, read)) for title, read in READINGS.items()}
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
        lines += [f"Checkpoint `{first.hash[:16]}`, {first.subject.views}.", ""]
        if first.subject.is_random:
            lines += [*first.subject.warnings()[-1:], ""]
        for part, reports in self.parts.items():
            if part == "synthetic":
                lines += ["**Synthetic**: rendered scenes; says nothing about real ones.", ""]
            lines += [*_table(reports), ""]
        lines += ["| data set | split | samples | first reading | second reading |"]
        lines += ["|---|---|---|---|---|"]
        lines += [_facts(report) for report in self.reports]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Writes `report.md` and `report.json`, and each data set's own report one folder down."""
        folder.mkdir(parents=True, exist_ok=True)
        links = []
        for report in self.reports:
            name = report.subject.column.replace(" ", "_")
            report.write(folder / name)
            links.append(f"- [{report.data}]({name}/report.md)")
        text = "\n".join([self.to_markdown(), *links])
        (folder / "report.md").write_text(f"{text}\n", encoding="utf-8")
        write_json(folder / "report.json", self.to_dict())


def _mean(reports: Sequence[Report], read: Reading) -> float:
    return float(np.mean([read(report) for report in reports]))


def _table(reports: Sequence[Report]) -> list[str]:
    columns = " | ".join(report.subject.column for report in reports)
    lines = [f"| mIoU | mean | {columns} |", f"|---|---:|{'---:|' * len(reports)}"]
    for title, read in READINGS.items():
        cells = " | ".join(percent(read(report)) for report in reports)
        lines.append(f"| {title} | **{percent(_mean(reports, read))}** | {cells} |")
    return lines


def _facts(report: Report) -> str:
    subject, protocol = report.subject, report.protocol
    second = "same" if len(protocol.figures) == 1 else protocol.alternative.title
    return (
        f"| {subject.column} | {subject.split} | {subject.counted(report.samples)} "
        f"| {protocol.primary.title} | {second} |"
    )
