"""Tables and figures of reports: Markdown tables, per cent, statistics of a list."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

UNDEFINED = "-"
"""Undefined figures in tables."""
_RULES = {"l": "---", "r": "---:", "c": ":---:"}


def markdown_table(
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    align: str = "",
    *,
    padded: bool = False,
) -> str:
    """A Markdown table without a line break at its end.

    Args:
        header: titles of the columns.
        rows: cells as text or as what `str` makes text of; `|` and line breaks are escaped.
        align: `l`, `r` or `c` per column; the last letter holds for all further columns. Left
            out: the first column is left-aligned, the others are right-aligned.
        padded: True makes columns line up in a terminal.

    Raises:
        ValueError: when a row has not as many cells as the header.
    """
    cells = [[_cell(item) for item in line] for line in (header, *rows)]
    count = len(cells[0])
    if any(len(line) != count for line in cells):
        raise ValueError(f"rows of {sorted({len(line) for line in cells})} cells in one table")
    letters = align or "lr"
    sides = (letters + letters[-1] * count)[:count]
    rule = [_RULES[side] for side in sides]
    if padded:
        widths = [max(3, *(len(line[i]) for line in cells)) for i in range(count)]
        cells = [
            [_padded(*place) for place in zip(line, widths, sides, strict=True)] for line in cells
        ]
        rule = [
            mark[:1] + "-" * (width - 2) + mark[-1:]
            for mark, width in zip(rule, widths, strict=True)
        ]
        lines = [cells[0], rule, *cells[1:]]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    head, *body = ("| " + " | ".join(line) + " |" for line in cells)
    return "\n".join([head, "|" + "|".join(rule) + "|", *body])


def percent(value: float | None, digits: int = 2) -> str:
    """A share in per cent without the sign; `UNDEFINED` for None and NaN."""
    return UNDEFINED if value is None else number(100 * value, digits)


def number(value: float | None, digits: int = 1) -> str:
    """A number with that many digits behind the dot; `UNDEFINED` for None and NaN."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.{digits}f}"


def rounded(value: float, digits: int = 6) -> float | None:
    """A figure for JSON; None where it is NaN."""
    return None if math.isnan(value) else round(float(value), digits)


@dataclass(frozen=True)
class Summary:
    """Statistics of a list of numbers; all 0 when it is empty. Percentiles are interpolated."""

    count: int
    mean: float
    min: float
    p50: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Statistics of `values`."""
        if not len(values):
            return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        data = np.asarray(values, np.float64)
        p50, p95 = np.percentile(data, (50, 95))
        return cls(
            count=len(data),
            mean=float(data.mean()),
            min=float(data.min()),
            p50=float(p50),
            p95=float(p95),
            max=float(data.max()),
        )

    def to_dict(
        self, digits: int = 3, names: Sequence[str] = ("count", "mean", "p50", "p95", "max")
    ) -> dict[str, float]:
        """Chosen statistics for JSON, rounded."""
        return {name: round(getattr(self, name), digits) for name in names}

    def text(self, unit: str = "ms", digits: int = 1) -> str:
        """For a sentence: `p50 70.1 ms, p95 80.2 ms, max 93.0 ms`."""
        names = ("p50", "p95", "max")
        return ", ".join(f"{name} {getattr(self, name):.{digits}f} {unit}" for name in names)


def _cell(item: object) -> str:
    return str(item).replace("|", "\\|").replace("\n", " ")


def _padded(cell: str, width: int, side: str) -> str:
    return {"l": cell.ljust, "r": cell.rjust, "c": cell.center}[side](width)
