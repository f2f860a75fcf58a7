"""Every command line of the packages: what must hold for all of them."""

import argparse
import importlib
import re

import pytest
from import_graph import PACKAGES, ROOT, module_name

from segrgbx_core.base.files import path_text, user_path
from segrgbx_core.base.overrides import FLAG, CommandParser

COMMANDS = {
    module_name(path): "add_set_option(" in path.read_text("utf-8")
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if re.search(r"\b(ArgumentParser|CommandParser)\(", path.read_text("utf-8"))
    and path.name != "overrides.py"
}
"""Modules that parse a command line; True for those with `--set`."""
PATHS = frozenset(
    {"bag", "bench", "chart", "checkpoint", "config", "data", "exported", "file", "folder", "json"}
    | {"markdown", "model", "out", "palette_file", "records", "reports", "rgb_only", "root", "run"}
    | {"truth_folder", "words", "write_bag"}
)
"""Arguments that are paths, by what argparse calls them."""


class _ParsedError(Exception):
    """Carries the parser out of a command."""


def parser_of(command, monkeypatch):
    """The parser that a command's `main` parses with."""

    def stop(self, *_):
        raise _ParsedError(self)

    with monkeypatch.context() as patched:
        for kind in (CommandParser, argparse.ArgumentParser):
            patched.setattr(kind, "parse_known_args", stop)
        with pytest.raises(_ParsedError) as caught:
            importlib.import_module(command).main(["x"])
    return caught.value.args[0]


def with_subcommands(parser):
    """A parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from with_subcommands(below)


def test_commands_are_found():
    assert len(COMMANDS) >= 25
    assert COMMANDS["segrgbx_ros.replay.replay"]
    assert COMMANDS["training.audit"]
    assert not COMMANDS["segrgbx_core.bench.bench"]


@pytest.mark.parametrize("command", [name for name, has_set in COMMANDS.items() if has_set])
def test_both_spellings_of_set_keep_every_value(command, monkeypatch):
    values = ["run.steps=1", "data.0.root=~/x", "b=[1, 2]"]
    parsers = [
        parser
        for parser in with_subcommands(parser_of(command, monkeypatch))
        if any(FLAG in action.option_strings for action in parser._actions)
    ]
    assert parsers
    for parser in parsers:
        for action in parser._actions:
            action.required = False
        one_flag = [FLAG, *values]
        flag_each = [word for value in values for word in (FLAG, value)]
        for words in (one_flag, flag_each, [*one_flag[:2], *flag_each[2:]]):
            assert parser.parse_known_args(words)[0].set == values


def test_no_command_parses_set_on_its_own():
    own = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "overrides.py" and f'"{FLAG}",' in path.read_text("utf-8")
    ]
    assert own == []


@pytest.mark.parametrize("command", COMMANDS)
def test_home_is_expanded_in_every_path(command, monkeypatch):
    unexpanded = [
        action.dest
        for parser in with_subcommands(parser_of(command, monkeypatch))
        for action in parser._actions
        if action.dest in PATHS and action.type not in (user_path, path_text)
    ]
    assert unexpanded == []
