"""The parameter page and its schema are fresh, and the schema agrees with the strict reader."""

import json
import re
from pathlib import Path

import pytest
import yaml

from segrgbx_core.base.config import leaves
from segrgbx_core.base.errors import ConfigError
from segrgbx_ros.config.node import NODE_NAME, NodeConfig, PairConfig, node_config
from segrgbx_ros.config.parameter_table import PAGE, SCHEMA, page, schema

ROOT = Path(__file__).resolve().parents[3]
FILES = [
    path
    for path in sorted((ROOT / "config").glob("*.yaml"))
    if "ros__parameters" in path.read_text()
]
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def test_the_page_and_the_schema_are_fresh():
    """Refresh both with `make docs`."""
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page()
    assert json.loads((ROOT / SCHEMA).read_text(encoding="utf-8")) == schema()


def test_every_option_is_on_the_page_with_a_meaning():
    for leaf in (*leaves(NodeConfig), *leaves(PairConfig, "<p>.")):
        assert f"| `{leaf.name}` |" in page()
        assert leaf.doc, f"{leaf.name} has no meaning"


def faults(value, rule, root, place=""):
    """What draft-07 says against a value; the keywords that the schema uses."""
    if "$ref" in rule:
        return faults(value, root["definitions"][rule["$ref"].rsplit("/", 1)[1]], root, place)
    if not rule:
        return []
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    wanted = rule["type"]
    if not isinstance(value, TYPES[wanted]) or (wanted in ("integer", "number") and not is_number):
        return [f"{place}: no {wanted}"]
    found = []
    if "enum" in rule and value not in rule["enum"]:
        found.append(f"{place}: not one of")
    if is_number and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
        found.append(f"{place}: out of range")
    if wanted == "array":
        if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
            found.append(f"{place}: wrong length")
        for item in value:
            found += faults(item, rule["items"], root, f"{place}[]")
    if wanted == "object":
        found += [
            f"{place}: lacks {name}" for name in rule.get("required", []) if name not in value
        ]
        for name, item in value.items():
            found += faults(item, _rule_of(name, rule), root, f"{place}.{name}")
    return found


def _rule_of(name, rule):
    if name in rule["properties"]:
        return rule["properties"][name]
    if any(re.search(pattern, name) for pattern in rule.get("patternProperties", ())):
        return {}
    more = rule.get("additionalProperties", {})
    return {"type": "string", "enum": []} if more is False else more


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_file_fits_the_schema(path):
    data = yaml.safe_load(path.read_text())
    assert faults(data, schema(), schema()) == []


def test_there_is_a_file_for_each_modality_and_for_several():
    assert len(FILES) >= 6


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pairs": ["front"], "front": {"modality": "depth", "x_transport": "compressedDepth"}},
        {"pairs": ["front"], "front": {}},
        {"thermal": {"modality": "smell"}},
        {"sync": {"max_dt_ms": -1.0}},
        {"sync": {"max_dt": 1.0}},
        {"batch": {"max_size": 2.5}},
        {"batch": {"max_size": 17}},
        {"output": {"publish_overlay": 1}},
        {"output": {"confidence_encoding": "32FC1", "small_width": 400}},
        {"thermal": {"homography": [1.0, 0.0]}},
        {"thermal": {"extrinsics": [0.1, 0, 0, 0, 0, 0, 1]}},
        {"sensor": {"polarization": {"pattern": [0, 45, 90, "x"]}}},
        {"rate": {"max_hz": 10}},
    ],
)
def test_schema_and_reader_say_the_same(options):
    data = {NODE_NAME: {"ros__parameters": options}}
    try:
        node_config(options)
    except ConfigError:
        assert faults(data, schema(), schema())
    else:
        assert faults(data, schema(), schema()) == []
