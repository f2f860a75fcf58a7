"""YAML from strangers: plain values, or one sentence with file and line, soon."""

import math
import os
import random
from contextlib import suppress
from itertools import pairwise

import pytest

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse_yaml

CASES = int(os.environ.get("SEGRGBX_FUZZ_CASES", "300"))
SEED = int(os.environ.get("SEGRGBX_FUZZ_SEED", "1"))
SHIPPED = b"""\
/**:
  ros__parameters:
    pairs: [thermal, depth]
    sync: {max_dt_ms: 60.0, wait_ms: 6e1}
    sensor: &sensor
      thermal: {raw_scale: 0.01, note: "a 'quoted' text"}
    other: *sensor
    list:
      - name: first  # why
        values: [1, -2, 0x1f, .inf, true, ~]
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6e-5", 6e-5),
        ("1e3", 1000.0),
        ("-1E+2", -100.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("1_000", 1000),
        ("0x1f", 31),
        ("010", 8),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1:30", "1:30"),
        ("2020-13-45", "2020-13-45"),
        ("2020-01-01", "2020-01-01"),
        ("9223372036854775807", 2**63 - 1),
        ("-.inf", -math.inf),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("{a: {b: [1, x]}}", {"a": {"b": [1, "x"]}}),
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        (b"\xef\xbb\xbfa: \xc3\xa4", {"a": "ä"}),
    ],
)
def test_plain_values(text, value):
    found = parse_yaml(text, "a.yaml")
    assert found == value
    assert type(found) is type(value)


def test_number_that_is_none_is_nan():
    assert math.isnan(parse_yaml(".nan", "a.yaml"))


BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, f"line 6: more than {MAX_VALUES} values"),
        ("a: 1\nb: &b [*b]", "line 2: alias 'b' holds itself"),
        ("a: &a\n  b: *a", "line 2: alias 'a' holds itself"),
        ("[" * 50_000, f"line 1: more than {MAX_DEPTH} levels"),
        ("- " * 50_000, f"line 1: more than {MAX_DEPTH} levels"),
        ("a: " + "9" * 6000, "does not fit into 64 bits"),
        ("9223372036854775808", "does not fit into 64 bits"),
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is in line 1, too"),
        ("1: 2", "key 1 is no text; quote it"),
        ("on: 2", "key on is no text"),
        ("? [1, 2]\n: 1", "key a seq is no text"),
        ("? !!binary aGk=\n: 1", "is no text"),
        ("!!bool maybe", "'maybe' is not true or false"),
        ("!!int abc", "'abc' is no number"),
        ("!!int ''", "'' is no number"),
        ("!!float [1]", "expected a scalar"),
        ("!!timestamp 2020-13-45", "could not determine a constructor"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("!!set {a, b}", "could not determine a constructor"),
        ('a: 1\nb: "\\ud800"', "line 2: text holds a zero byte or half a character"),
        ('{"\\0": 1}', "line 1: text holds a zero byte"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a:\n\tb: 1", "line 2: is not YAML: "),
        ("a: 1\nb: \x00", "line 2: is not YAML: character '\\x00' is not allowed"),
        (b"\xff\xfe\x00", "is not YAML: byte 0 is not UTF-8"),
        (" " * (MAX_BYTES + 1), "is larger than 1 MiB"),
    ],
)
def test_what_is_no_configuration(text, expected):
    with pytest.raises(ConfigError, match=r"^a\.yaml") as caught:
        parse_yaml(text, "a.yaml")
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_any_mutation_gives_plain_values_or_one_sentence():
    rng = random.Random(SEED)
    parts = [b"&a ", b"*sensor", b"!!", b"? ", b"- ", b"[", b"{", b"}", b"'", b'"', b"\t", b": "]
    for _ in range(CASES):
        data = bytearray(SHIPPED)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[place] = rng.randrange(256)
            elif kind == 1:
                data[place:place] = rng.choice(parts) * rng.choice((1, 1, 40))
            elif kind == 2:
                del data[place : place + rng.randrange(1, 30)]
            else:
                data[place:place] = data[: rng.randrange(60)]
        with suppress(ConfigError):
            _check_plain(parse_yaml(bytes(data), "a.yaml"))


def _check_plain(value):
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        for item in value.values():
            _check_plain(item)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item)
    else:
        assert value is None or isinstance(value, (bool, int, float, str))
