"""Our results beside published ones: figures of `paper_tables.yaml`, and the page with both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import model_validator

from segrgbx_core.base.config import Config, from_mapping, option, read_yaml
from segrgbx_core.base.errors import DataError, shortened
from segrgbx_core.base.files import read_json
from segrgbx_core.base.tables import UNDEFINED, markdown_table, number, percent
from segrgbx_core.bench.compare import PAPER_MS
from training.eval.report import FORMAT, JOINT_FORMAT

_TABLES = Path(__file__).with_name("paper_tables.yaml")
_MOST_MS = 1e9
"""No frame takes eleven days."""
_METHODS = {
    "segrgbx": "SegRGB-X",
    "segrgbx_paper_style": "SegRGB-X",
    "cmx": "CMX",
    "cmnext": "CMNeXt",
    "geminifusion": "GeminiFusion",
    "stitchfusion": "StitchFusion",
    "segformer": "SegFormer (RGB only)",
}


class PaperRow(Config):
    """One method in a table of the paper."""

    method: str = option(doc="name of the method")
    model: str = option(doc="specialist, generalist or fine-tuned")
    values: tuple[float, ...] = option(doc="mIoU in per cent: the mean, then the data sets")
    note: str = option("", doc="what to know about it")


class PaperTable(Config):
    """A table of the paper."""

    title: str = option(doc="number and subject")
    rows: tuple[PaperRow, ...] = option(doc="methods")


class PaperFigures(Config):
    """The paper's own figures."""

    conditions: str = option(doc="how they came about, as far as the paper says")
    table_1: PaperTable = option(doc="specialists and the generalist")
    table_2: PaperTable = option(doc="fine-tuning")
    table_5: PaperTable = option(doc="single-modality and joint training")


class LiteratureRow(Config):
    """A method's own published figure."""

    method: str = option(doc="name and backbone")
    x: str = option(doc="what served as X")
    value: float = option(doc="mIoU in per cent")
    note: str = option("", doc="other figures of the same work")


class Literature(Config):
    """Published figures on one data set."""

    data: str = option(doc="data set, by the name of its label space")
    conditions: str = option(doc="split, classes, size and scales")
    rows: tuple[LiteratureRow, ...] = option(doc="methods")


class Published(Config):
    """Everything that was published and is laid beside ours."""

    columns: dict[str, str] = option(doc="titles of the paper's data sets by label space")
    paper: PaperFigures = option(doc="figures of SegRGB-X's paper")
    literature: tuple[Literature, ...] = option(doc="figures of others' papers")


class Role(str, Enum):
    """What a checkpoint was trained for."""

    GENERALIST = "generalist"
    SPECIALIST = "specialist"
    FINE_TUNED = "fine-tuned"


class Result(Config):
    """One data set in a report.json, as far as tables need it; see `scores.report.Report`."""

    checkpoint: str = option(doc="file name")
    hash: str = option(doc="SHA-256 of the file")
    native: str = option(doc="data set")
    modality: str = option(doc="X")
    split: str = option(doc="of the data set")
    options: str = option(doc="the data set's own options")
    whole: int = option(doc="samples of the whole split")
    samples: int = option(doc="samples scored")
    views: str = option(doc="which views were averaged")
    architecture: str = option(doc="network")
    trained_on: tuple[str, ...] = option(doc="data sets of the training")
    started_from: str = option(doc="checkpoint that training started from")
    is_random: bool = option(doc="nothing was trained")
    is_synthetic: bool = option(doc="samples were rendered by this project")
    label_space: str = option(doc="what answers were chosen from")
    primary: str = option(doc="first reading")
    readings: dict[str, str] = option(doc="readings of mIoU in words")
    figures: dict[str, dict[str, float | None]] = option(doc="mIoU by reading and rule")

    @model_validator(mode="after")
    def _readings_have_figures(self) -> Result:
        for key in (self.primary, *self.readings):
            if not {"skip", "zero"} <= set(self.figures.get(key, ())):
                raise ValueError(f"figures has no 'skip' and 'zero' of the reading '{key}'")
        return self

    @property
    def role(self) -> Role:
        """What the checkpoint was trained for."""
        if len(self.trained_on) > 1:
            return Role.GENERALIST
        return Role.FINE_TUNED if self.started_from else Role.SPECIALIST

    @property
    def is_comparable(self) -> bool:
        """True where the result may stand beside published ones."""
        is_own = self.label_space == self.native and self.native in self.trained_on
        return is_own and not (self.is_synthetic or self.is_random)

    @property
    def is_complete(self) -> bool:
        """True where the whole split was scored."""
        return self.samples == self.whole

    @property
    def second(self) -> str:
        """Key of the second reading; the first one's where there is no other."""
        others = [key for key in self.readings if key != self.primary]
        return others[0] if others else self.primary

    def value(self, key: str, rule: str = "skip") -> float | None:
        """Mean IoU in [0, 1] by reading and rule for absent classes; None where undefined."""
        return self.figures[key][rule]


def read_published() -> Published:
    """The published figures.

    Raises:
        ConfigError: when the file was edited into something else.
    """
    return read_yaml(Published, _TABLES)


def read_results(paths: Sequence[Path | str]) -> list[Result]:
    """The results in files that `training.evaluate` wrote, of one data set or of several.

    Raises:
        DataError: when a file is missing or no such report.
    """
    results = []
    for path in map(Path, paths):
        data = _read_object(path)
        kind = data.get("format")
        if kind not in (FORMAT, JOINT_FORMAT):
            raise DataError(
                f"{path}: holds no scores ('format' is {shortened(repr(kind))}); expected a "
                "report.json of training.evaluate"
            )
        entries = data.get("reports") if kind == JOINT_FORMAT else [data]
        if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
            raise DataError(f"{path}: 'reports' is no list of reports; evaluate the run anew")
        for entry in entries:
            known = {name: entry[name] for name in Result.model_fields if name in entry}
            results.append(from_mapping(Result, known, str(path)))
    return results


def read_bench(path: Path) -> dict[str, Any]:
    """What `segrgbx-bench --compare --json` wrote.

    Raises:
        DataError: when the file is missing or something else.
    """
    data = _read_object(path)
    setting, models = data.get("setting"), data.get("models")
    is_complete = (
        isinstance(setting, dict)
        and isinstance(models, dict)
        and {"device", "input", "preset"} <= set(setting)
        and all(isinstance(model, dict) and "title" in model for model in models.values())
        and all(_is_time(model.get("median_ms")) for model in models.values())
    )
    if not is_complete:
        raise DataError(
            f"{path}: holds no times of models; write it with segrgbx-bench --compare --json"
        )
    return data


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < _MOST_MS


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds names with values.

    Raises:
        DataError: when it is missing or something else.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: holds {type(data).__name__}; expected names with values")
    return data


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

    def is_ours(self, role: Role) -> bool:
        """True for SegRGB-X as a generalist or in that role."""
        return self.method == "SegRGB-X" and self.role in (Role.GENERALIST, role)


@dataclass(frozen=True, eq=False)
class ComparisonPage:
    """The page that `training.report` writes.

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
    ) -> ComparisonPage:
        """Sorts results into those that are comparable and those that are not."""
        fit = tuple(result for result in results if result.is_comparable)
        apart = tuple(result for result in results if not result.is_comparable)
        return cls(published, fit, apart, bench)

    def to_markdown(self) -> str:
        """The page."""
        paper = self.published.paper
        sections = [
            f"# Our results beside published ones\n\n{_legend(paper.conditions)}",
            self._table(
                paper.table_1, lambda row: row.role is Role.GENERALIST or row.method != "SegRGB-X"
            ),
            self._table(paper.table_2, lambda row: row.is_ours(Role.FINE_TUNED)),
            self._times(),
            self._table(paper.table_5, lambda row: row.is_ours(Role.SPECIALIST)),
            "## The literature, under the methods' own protocols",
            *map(self._literature, self.published.literature),
            self._details(),
            *self._apart(),
        ]
        return "".join(f"{section}\n\n" for section in sections)

    def _table(self, table: PaperTable, is_shown: Callable[[Row], bool]) -> str:
        columns = self.published.columns
        lines = [
            [
                "paper",
                row.method,
                f"{row.model} ({row.note})" if row.note else row.model,
                *(number(value, 2) for value in row.values),
            ]
            for row in table.rows
        ]
        rows = [row for row in arrange(self.results, columns) if is_shown(row)]
        lines += [line for row in rows for line in self._own(row)]
        header = ["source", "method", "model", "mean", *columns.values()]
        text = f"## {table.title}\n\n{markdown_table(header, lines, 'lllr')}"
        return text if rows else f"{text}\n\nOurs: no result yet."

    def _own(self, row: Row) -> Iterator[list[str]]:
        """A row of ours under its first and, where that differs, its second readings."""
        for word, is_second in (("first", False), ("second", True)):
            results = row.results.values()
            if is_second and all(result.second == result.primary for result in results):
                continue
            values, cells = [], []
            for native in self.published.columns:
                result = row.results.get(native)
                if result is None:
                    cells.append(UNDEFINED)
                    continue
                value = result.value(result.second if is_second else result.primary)
                mark = "" if result.is_complete else " (part)"
                cells.append(f"{percent(value)}{mark} [{self.results.index(result) + 1}]")
                if value is not None and result.is_complete:
                    values.append(value)
            is_full = len(values) == len(self.published.columns)
            mean = percent(sum(values) / len(values)) if is_full else UNDEFINED
            yield ["**ours**", f"{row.method}, {word} reading", row.role.value, mean, *cells]

    def _times(self) -> str:
        means = {row.method: row.values[0] for row in self.published.paper.table_1.rows}
        rows = [
            ["paper", method, number(means[method], 2), number(paper_ms, 2), "not stated"]
            for method, paper_ms in ((_METHODS[key], ms) for key, ms in PAPER_MS.items())
        ]
        note = "Ours: no measurement given (`--bench`)."
        if self.bench is not None:
            setting = self.bench["setting"]
            machine = f"{setting['device']}, {setting['input']}, {setting['preset']}"
            rows += [
                ["**ours**", model["title"], UNDEFINED, number(model["median_ms"], 2), machine]
                for model in self.bench["models"].values()
            ]
            note = (
                "Ours: medians with random weights, which change labels and not times. Compare "
                "ratios, not milliseconds of unlike machines."
            )
        header = ["source", "method", "mean mIoU", "ms", "measured on"]
        table = markdown_table(header, rows, "llrrl")
        return f"## Table III, time per frame\n\n{table}\n\n{note}"

    def _literature(self, group: Literature) -> str:
        rows = [
            ["literature", row.method, row.x, number(row.value, 2), row.note] for row in group.rows
        ]
        for position, result in enumerate(self.results, 1):
            if result.native == group.data:
                value = percent(result.value(result.primary))
                mark = "" if result.is_complete else ", part of the split"
                method = f"{_method(result)}, {result.role.value}"
                rows.append(["**ours**", method, result.modality, value, f"[{position}]{mark}"])
        title = self.published.columns.get(group.data, group.data)
        table = markdown_table(["source", "method", "X", "mIoU", "note"], rows, "lllrl")
        return f"**{title}**: {group.conditions}.\n\n{table}"

    def _details(self) -> str:
        text = "No result on a real data set yet."
        return "## Ours in detail\n\n" + (_details(self.results, 1) if self.results else text)

    def _apart(self) -> Iterator[str]:
        """Synthetic and other results, with no published figure beside them."""
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
        for title, (text, is_of_kind) in kinds.items():
            shown = [result for result in left if is_of_kind(result)]
            left = [result for result in left if not is_of_kind(result)]
            if shown:
                yield f"## {title}\n\n{text}\n\n{_details(shown, None)}"


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


def _method(result: Result) -> str:
    return _METHODS.get(result.architecture, result.architecture)


def _legend(conditions: str) -> str:
    return (
        f"- **paper**: printed in SegRGB-X's paper. {conditions}\n"
        "- **literature**: printed by the methods' own authors, under their own protocols.\n"
        "- **ours**: measured here. [n] leads to split, samples, reading, size and checkpoint in "
        '"Ours in detail"; (part) is not the whole split. Absent classes are left out. The '
        "first reading averages 9 classes of MFNet and 8 of RGB-P, the second 8 and 9. A mean is "
        "given where all five data sets are complete. Fine-tuned: one data set, from a "
        "checkpoint.\n\n"
        "mIoU in per cent."
    )


def _details(results: Sequence[Result], first: int | None) -> str:
    rows = []
    for position, result in enumerate(results):
        samples = str(result.samples)
        options = f", {result.options}" if result.options else ""
        synthetic = "synthetic, " if result.is_synthetic else ""
        for key, title in result.readings.items():
            rows.append(
                [
                    "" if first is None else f"[{position + first}]",
                    f"{synthetic}{result.native} {result.modality}{options}",
                    result.split,
                    samples if result.is_complete else f"**{samples} of {result.whole}**",
                    title,
                    *(percent(result.value(key, rule)) for rule in ("skip", "zero")),
                    result.views,
                    f"{result.checkpoint} `{result.hash[:16]}`, {result.role.value}",
                ]
            )
    header = ["ours", "data", "split", "samples", "reading", "mIoU", "absent 0", "views"]
    return markdown_table([*header, "checkpoint"], rows, "lllllrrl")
