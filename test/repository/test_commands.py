"""Every command line of the packages: what must hold for all of them."""

import argparse
import importlib

import pytest
from import_graph import PACKAGES, ROOT

from segrgbx_core.base.overrides import FLAG, CommandParser

COMMANDS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if "add_set_option(" in path.read_text("utf-8") and path.name != "overrides.py"
]


class _ParsedError(Exception):
    """Carries the parser out of a command."""


def parser_of(command, monkeypatch):
    """The parser that a command's `main` parses with."""

    def stop(self, *_):
        raise _ParsedError(self)

    with monkeypatch.context() as patched:
        patched.setattr(CommandParser, "parse_known_args", stop)
        with pytest.raises(_ParsedError) as caught:
            importlib.import_module(command).main(["x"])
    return caught.value.args[0]


def with_set(parser):
    """The parser and its subcommands, as far as they have `--set`; nothing is required of them."""
    found = []
    for action in parser._actions:
        action.required = False
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                found += with_set(below)
        if FLAG in action.option_strings:
            found.append(parser)
    return found


def test_commands_are_found():
    assert len(COMMANDS) >= 12
    assert {"segrgbx_ros.replay.replay", "training.evaluate", "training.audit"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_both_spellings_of_set_keep_every_value(command, monkeypatch):
    values = ["run.steps=1", "data.0.root=~/x", "b=[1, 2]"]
    parsers = with_set(parser_of(command, monkeypatch))
    assert parsers
    for parser in parsers:
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
