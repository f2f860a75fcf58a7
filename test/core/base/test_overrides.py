"""`--set`: every spelling keeps every value, whatever the command."""

import re

import pytest

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.overrides import CommandParser, add_set_option, apply_overrides


def parser():
    made = CommandParser()
    made.add_argument("first")
    made.add_argument("second", nargs="?")
    made.add_argument("--out")
    add_set_option(made)
    return made


@pytest.mark.parametrize(
    "line",
    [
        "x --set a=1 b.c=2",
        "x --set a=1 --set b.c=2",
        "--set a=1 b.c=2 x",
        "--set a=1 --set b.c=2 x",
        "--set a=1 b.c=2 --out y x",
        "--set=a=1 x --set b.c=2",
        "--set a=1 x --set b.c=2",
        "--set a=1 b.c=2 -- x",
    ],
)
def test_every_spelling_keeps_every_value(line):
    found = parser().parse_args(line.split())
    assert found.set == ["a=1", "b.c=2"]
    assert found.first == "x"


def test_a_path_after_set_is_no_override():
    found = parser().parse_args(["--set", "a=1", "/data/run=3/bag", "./b=2"])
    assert (found.set, found.first, found.second) == (["a=1"], "/data/run=3/bag", "./b=2")


def test_words_behind_two_dashes_stay(capsys):
    found = parser().parse_args(["--set", "a=1", "--", "x", "b=2"])
    assert (found.set, found.second) == (["a=1"], "b=2")
    with pytest.raises(SystemExit):
        parser().parse_args(["x", "--set", "--set", "a=1"])
    assert "--set: expected one argument" in capsys.readouterr().err


def test_values_are_yaml_and_lists_have_numbers():
    data = {"run": {"steps": 1, "lr": 1}, "data": [{"root": "a"}, {"root": "b"}], "empty": None}
    texts = ["run.lr=6e-5", "data.1.root=~/c", "new.list=[1, two]", "empty.x=true", "name="]
    assert apply_overrides(data, [*texts, "run.steps=2", "run.steps=3"]) == {
        "run": {"steps": 3, "lr": 6e-5},
        "data": [{"root": "a"}, {"root": "~/c"}],
        "empty": {"x": True},
        "new": {"list": [1, "two"]},
        "name": "",
    }
    assert data["run"] == {"steps": 1, "lr": 1}


def test_what_an_alias_repeats_is_overridden_alone():
    shared = {"root": "a"}
    found = apply_overrides({"data": [shared, shared]}, ["data.0.root=b"])
    assert found == {"data": [{"root": "b"}, {"root": "a"}]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run.steps", "has not the form name=value"),
        ("=3", "has not the form name=value"),
        ("run.steps.x=3", "'steps' holds a value, no options"),
        ("data.2.root=x", "'2' is no entry; the list has 1"),
        ("data.x=1", "'x' is no entry"),
        ("a" + ".a" * 5000 + "=1", "more than 64 levels"),
        ("run.out={a", "--set run.out={a, line 1: is not YAML"),
    ],
)
def test_what_is_no_override(text, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        apply_overrides({"run": {"steps": 1}, "data": [{}]}, [text])
