"""`--set NAME=VALUE`: options of a file that a command line overrides."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from segrgbx_core.base.errors import ConfigError, shortened
from segrgbx_core.base.yaml_text import MAX_DEPTH, parse_yaml

FLAG = "--set"
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


class CommandParser(argparse.ArgumentParser):
    """An argument parser that takes `--set a=1 b=2` and `--set a=1 --set b=2` alike.

    Words that are no `NAME=VALUE` end the list, so that arguments without a flag may follow.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of argparse."""
        words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(_one_flag_each(words), namespace)


def add_set_option(
    parser: CommandParser | argparse._ArgumentGroup, help_text: str = "overrides an option"
) -> None:
    """Adds `--set`, which may be repeated and takes one or several `NAME=VALUE`.

    Args:
        parser: a `CommandParser`, or a group of one; the texts lie in `set`, in their order.
        help_text: what the names belong to.
    """
    parser.add_argument(
        FLAG, action="append", default=[], metavar="NAME=VALUE", help=f"{help_text}; repeatable"
    )


def apply_overrides(data: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Nested plain values with some of them replaced.

    Args:
        data: nested mappings and lists; stays as it is.
        texts: `NAME=VALUE` each. A name is dotted (`run.steps`), with entries of lists by number
            (`data.0.root`); a value is YAML, and nothing is the empty text. Later ones win.

    Raises:
        ConfigError: for a text without a name or a value, a value that is no YAML, or a name that
            leads through a value or beyond a list.
    """
    tree: dict[str, Any] = _copied(data)
    for text in texts:
        name, equals, value = text.partition("=")
        where = f"{FLAG} {shortened(text)}"
        if not (name and equals):
            raise ConfigError(f"{where}: has not the form name=value, such as run.steps=100")
        _put(tree, name, parse_yaml(value, where) if value.strip() else "", where)
    return tree


def _copied(value: Any) -> Any:
    """A copy without shared parts: what aliases repeat is overridden one by one."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _put(tree: dict[str, Any], name: str, value: Any, where: str) -> None:
    *path, last = name.split(".")
    if len(path) >= MAX_DEPTH:
        raise ConfigError(f"{where}: more than {MAX_DEPTH} levels")
    place: Any = tree
    for part in path:
        place = (
            place[_entry(place, part, where)] if isinstance(place, list) else _below(place, part)
        )
        if not isinstance(place, (dict, list)):
            raise ConfigError(f"{where}: '{part}' holds a value, no options")
    place[_entry(place, last, where) if isinstance(place, list) else last] = value


def _below(place: dict[str, Any], part: str) -> Any:
    if place.get(part) is None:  # a section without entries is None in YAML
        place[part] = {}
    return place[part]


def _entry(place: list[Any], part: str, where: str) -> int:
    if not part.isdecimal() or int(part) >= len(place):
        raise ConfigError(f"{where}: '{part}' is no entry; the list has {len(place)}")
    return int(part)


def _one_flag_each(words: list[str]) -> list[str]:
    """`--set a=1 b=2` as `--set a=1 --set b=2`."""
    spread: list[str] = []
    in_list = False
    for index, word in enumerate(words):
        if word == "--":  # argparse takes the rest as it is
            return [*spread, *words[index:]]
        if in_list and spread[-1] != FLAG:
            in_list = _OVERRIDE.match(word) is not None
            if in_list:
                spread.append(FLAG)
        in_list = in_list or word == FLAG
        spread.append(word)
    return spread
