"""Lays our results beside the paper's tables and the literature, on one page.

    python -m training.report REPORT/report.json ... --out FOLDER
    python -m training.report REPORT/report.json --bench compare.json --out FOLDER

Takes what `training.evaluate` wrote, of one data set or of a run, and for Table III what
`segrgbx-bench --compare --json` wrote. Every row says whether it is the paper's, of the literature
or ours; ours point to a list with split, size, reading and checkpoint. Results on rendered scenes
and of untrained checkpoints never enter a table with real data sets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segrgbx_core.base.errors import DataError, command
from segrgbx_core.bench.compare import PAPER_MS
from training.eval.published import (
    PaperTable,
    Published,
    Result,
    Role,
    read_json,
    read_published,
    read_results,
)
from training.eval.report import percent

_METHODS = {
    "segrgbx": "SegRGB-X",
    "segrgbx_paper_style": "SegRGB-X",
    "cmx": "CMX",
    "cmnext": "CMNeXt",
    "geminifusion": "GeminiFusion",
    "stitchfusion": "StitchFusion",
}


@dataclass(eq=False)
class Row:
    """One row of ours: a generalist, or specialists of one architecture.

    Attributes:
        method: architecture's name.
        role: what its checkpoints were trained for.
        results: by data set.
    """

    method: str
    role: Role
    results: dict[str, Result] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Page:
    """What stands on the page.

    Attributes:
        published: figures of others.
        results: ours that may stand beside them.
        apart: ours that may not.
        bench: what `segrgbx-bench --compare` measured, or None.
    """

    published: Published
    results: tuple[Result, ...]
    apart: tuple[Result, ...]
    bench: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, published: Published, results: Sequence[Result], bench: dict[str, Any] | None = None
    ) -> Page:
        """Sorts results into those that are comparable and those that are not."""
        fit = tuple(result for result in results if result.is_comparable)
        apart = tuple(result for result in results if not result.is_comparable)
        return cls(published, fit, apart, bench)

    def to_markdown(self) -> str:
        """The page."""
        paper = self.published.paper
        lines = ["# Our results beside published ones", "", *_legend(paper.conditions)]
        lines += self._table(
            paper.table_1, lambda row: row.role is Role.GENERALIST or row.method != "SegRGB-X"
        )
        lines += self._table(paper.table_2, lambda row: _is_ours(row, Role.FINE_TUNED))
        lines += self._times()
        lines += self._table(paper.table_5, lambda row: _is_ours(row, Role.SPECIALIST))
        lines += self._literature()
        lines += self._details()
        lines += self._apart()
        return "\n".join(lines) + "\n"

    def _table(self, table: PaperTable, wants: Callable[[Row], bool]) -> list[str]:
        columns = self.published.columns
        lines = [
            f"## {table.title}",
            "",
            f"| source | method | model | mean | {' | '.join(columns.values())} |",
            f"|---|---|---|---:|{'---:|' * len(columns)}",
        ]
        for paper_row in table.rows:
            cells = " | ".join(f"{value:.2f}" for value in paper_row.values)
            note = f" ({paper_row.note})" if paper_row.note else ""
            lines.append(f"| paper | {paper_row.method} | {paper_row.model}{note} | {cells} |")
        rows = [row for row in arrange(self.results, columns) if wants(row)]
        for row in rows:
            lines += self._own(row)
        if not rows:
            lines += ["", "Ours: no result yet."]
        return [*lines, ""]

    def _own(self, row: Row) -> list[str]:
        """A row of ours under its first and, where that differs, its second readings."""
        lines = []
        for word, second in (("first", False), ("second", True)):
            if second and all(result.second == result.primary for result in row.results.values()):
                continue
            values, cells = [], []
            for native in self.published.columns:
                result = row.results.get(native)
                if result is None:
                    cells.append("-")
                    continue
                value = result.value(result.second if second else result.primary)
                mark = "" if result.is_complete else " (part)"
                cells.append(f"{percent(value)}{mark} [{self.results.index(result) + 1}]")
                if value is not None and result.is_complete:
                    values.append(value)
            is_full = len(values) == len(self.published.columns)
            mean = percent(sum(values) / len(values)) if is_full else "-"
            lines.append(
                f"| **ours** | {row.method}, {word} reading | {row.role.value} | {mean} "
                f"| {' | '.join(cells)} |"
            )
        return lines

    def _times(self) -> list[str]:
        means = {row.method: row.values[0] for row in self.published.paper.table_1.rows}
        lines = [
            "## Table III, time per frame",
            "",
            "| source | method | mean mIoU | ms | measured on |",
            "|---|---|---:|---:|---|",
        ]
        for key, paper_ms in PAPER_MS.items():
            method = _METHODS[key]
            lines.append(
                f"| paper | {method} | {means[method]:.2f} | {paper_ms:.2f} | not stated |"
            )
        if self.bench is None:
            return [*lines, "", "Ours: no measurement given (`--bench`).", ""]
        setting = self.bench["setting"]
        place = f"{setting['device']}, {setting['input']}, {setting['preset']}"
        lines += [
            f"| **ours** | {model['title']} | - | {model['median_ms']:.2f} | {place} |"
            for model in self.bench["models"].values()
        ]
        note = "Ours: medians with random weights, which change labels and not times."
        return [*lines, "", f"{note} Compare ratios, not milliseconds of unlike machines.", ""]

    def _literature(self) -> list[str]:
        lines = ["## The literature, under the methods' own protocols", ""]
        for group in self.published.literature:
            title = self.published.columns.get(group.data, group.data)
            lines += [
                f"**{title}**: {group.conditions}.",
                "",
                "| source | method | X | mIoU | note |",
                "|---|---|---|---:|---|",
            ]
            lines += [
                f"| literature | {row.method} | {row.x} | {row.value:.2f} | {row.note} |"
                for row in group.rows
            ]
            for number, result in enumerate(self.results, 1):
                if result.native == group.data:
                    value = percent(result.value(result.primary))
                    mark = "" if result.is_complete else ", part of the split"
                    lines.append(
                        f"| **ours** | {_method(result)}, {result.role.value} "
                        f"| {result.modality} | {value} | [{number}]{mark} |"
                    )
            lines.append("")
        return lines

    def _details(self) -> list[str]:
        lines = ["## Ours in detail", ""]
        if not self.results:
            return [*lines, "No result on a real data set yet.", ""]
        return [*lines, *_details(self.results, 1), ""]

    def _apart(self) -> list[str]:
        """Synthetic and other results, with no published figure beside them."""
        lines = []
        kinds: dict[str, tuple[str, Callable[[Result], bool]]] = {
            "Synthetic": (
                "Rendered scenes of this project. They say nothing about real data sets and "
                "cannot be compared with anything above.",
                lambda result: result.is_synthetic,
            ),
            "Untrained": (
                "Random weights; the figures mean nothing.",
                lambda result: result.is_random,
            ),
            "Any class may answer": (
                "Answers are chosen from all unified classes: a diagnosis, not a protocol.",
                lambda result: result.label_space != result.native,
            ),
            "Not trained on": (
                "The checkpoint never learned from the data set that it is scored on.",
                lambda result: result.native not in result.trained_on,
            ),
        }
        left = list(self.apart)
        for title, (text, holds) in kinds.items():
            chosen = [result for result in left if holds(result)]
            left = [result for result in left if not holds(result)]
            if chosen:
                lines += [f"## {title}", "", text, "", *_details(chosen, None), ""]
        return lines


def arrange(results: Sequence[Result], columns: Sequence[str] | dict[str, str]) -> list[Row]:
    """Sorts results into rows of a table: one per generalist, one per kind of specialists.

    Args:
        results: comparable ones.
        columns: data sets of the table; results on others are left out.

    Raises:
        DataError: for a result that must not stand beside published ones.
    """
    rows: list[tuple[tuple[str, ...], Row]] = []
    for result in results:
        if not result.is_comparable:
            raise DataError(
                f"{result.checkpoint} on {result.native}: is synthetic, untrained, a diagnosis or "
                "trained elsewhere; it cannot stand in a table with results on real data sets"
            )
        if result.native not in columns:
            continue
        role = result.role
        same = result.hash if role is Role.GENERALIST else ""
        key = (result.architecture, role.value, result.views, same)
        row = next(
            (row for own, row in rows if own == key and result.native not in row.results), None
        )
        if row is None:
            row = Row(_method(result), role)
            rows.append((key, row))
        row.results[result.native] = result
    return [row for _, row in rows]


def _is_ours(row: Row, role: Role) -> bool:
    return row.method == "SegRGB-X" and row.role in (Role.GENERALIST, role)


def _method(result: Result) -> str:
    return _METHODS.get(result.architecture, result.architecture)


def _legend(conditions: str) -> list[str]:
    return [
        f"- **paper**: printed in SegRGB-X's paper. {conditions}",
        "- **literature**: printed by the methods' own authors, under their own protocols.",
        "- **ours**: measured here. [n] leads to split, samples, reading, size and checkpoint in "
        '"Ours in detail"; (part) is not the whole split. Absent classes are left out. The '
        "first reading averages 9 classes of MFNet and 8 of RGB-P, the second 8 and 9. A mean is "
        "given where all five data sets are complete. Fine-tuned: one data set, from a "
        "checkpoint.",
        "",
        "mIoU in per cent.",
        "",
    ]


def _details(results: Sequence[Result], first: int | None) -> list[str]:
    lines = [
        "| ours | data | split | samples | reading | mIoU | absent 0 | views | checkpoint |",
        "|---|---|---|---|---|---:|---:|---|---|",
    ]
    for number, result in enumerate(results):
        name = "" if first is None else f"[{number + first}]"
        samples = f"{result.samples}" if result.is_complete else (
            f"**{result.samples} of {result.whole}**"
        )  # fmt: skip
        options = f", {result.options}" if result.options else ""
        synthetic = "synthetic, " if result.is_synthetic else ""
        for key, title in result.readings.items():
            skip, zero = (percent(result.value(key, rule)) for rule in ("skip", "zero"))
            lines.append(
                f"| {name} | {synthetic}{result.native} {result.modality}{options} "
                f"| {result.split} | {samples} | {title} | {skip} | {zero} | {result.views} "
                f"| {result.checkpoint} `{result.hash[:16]}`, {result.role.value} |"
            )
    return lines


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="*", help="report.json files of training.evaluate")
    parser.add_argument("--bench", default="", help="JSON file of segrgbx-bench --compare")
    parser.add_argument("--out", default="", help="folder for results.md")
    chosen = parser.parse_args(arguments)
    bench = _read_bench(Path(chosen.bench)) if chosen.bench else None
    page = Page.of(read_published(), read_results(chosen.reports), bench)
    text = page.to_markdown()
    if chosen.out:
        folder = Path(chosen.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0


def _read_bench(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not {"setting", "models"} <= set(data):
        raise DataError(
            f"{path}: holds no times of models; write it with segrgbx-bench --compare --json"
        )
    return data


if __name__ == "__main__":
    raise SystemExit(main())
