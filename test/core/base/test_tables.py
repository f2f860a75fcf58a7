import math

import numpy as np
import pytest

from segrgbx_core.base.tables import Summary, markdown_table, number, percent, rounded


def test_markdown_table():
    text = markdown_table(["class", "IoU", "note"], [["a|b", 1.5, "x\ny"]], "lrl")
    assert text == "| class | IoU | note |\n|---|---:|---|\n| a\\|b | 1.5 | x y |"
    assert markdown_table(["a", "b", "c"], []).splitlines()[1] == "|---|---:|---:|"


def test_padded_table_lines_up():
    text = markdown_table(["class", "IoU"], [["sidewalk", "5.25"], ["car", "98.10"]], padded=True)
    assert text.splitlines() == [
        "| class    |   IoU |",
        "| -------- | ----: |",
        "| sidewalk |  5.25 |",
        "| car      | 98.10 |",
    ]


def test_rows_of_other_lengths_are_a_mistake():
    with pytest.raises(ValueError, match=r"\[1, 2\] cells"):
        markdown_table(["a", "b"], [["x"]])


@pytest.mark.parametrize("value", [None, math.nan])
def test_undefined_figures(value):
    assert percent(value) == number(value) == "-"


def test_figures():
    assert percent(0.12345) == "12.35"
    assert percent(1.0, 0) == "100"
    assert number(2.25, 2) == "2.25"
    assert rounded(1 / 3) == 0.333333
    assert rounded(math.nan) is None


def test_summary():
    values = list(range(1, 102))
    found = Summary.of(values)
    assert (found.count, found.min, found.p50, found.p95, found.max) == (101, 1, 51, 96, 101)
    assert found.mean == np.mean(values)
    assert found.to_dict(1) == {"count": 101, "mean": 51, "p50": 51, "p95": 96, "max": 101}
    assert found.text() == "p50 51.0 ms, p95 96.0 ms, max 101.0 ms"
    assert Summary.of([]) == Summary(0, 0, 0, 0, 0, 0)
