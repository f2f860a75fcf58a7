"""The parameter page is what the options say today."""

from __future__ import annotations

from pathlib import Path

from segrgbx_core.config import leaves
from segrgbx_ros import parameter_table
from segrgbx_ros.config import NodeConfig, PairConfig

ROOT = Path(__file__).parents[2]


def test_page_in_docs_is_fresh():
    written = (ROOT / parameter_table.PAGE).read_text(encoding="utf-8")
    assert written == parameter_table.page(), "run `make docs`"


def test_every_option_is_on_the_page_with_a_meaning():
    page = parameter_table.page()
    for leaf in (*leaves(NodeConfig), *leaves(PairConfig, "<p>.")):
        assert f"| `{leaf.name}` |" in page
        assert leaf.doc, f"{leaf.name} has no meaning"
