"""YAML: plain values from text, in bounded time and memory.

YAML 1.1 as PyYAML reads it, with these differences, so that a file means the same to training,
to replay and to the node (whose parameter files rcl parses):

- Numbers with an exponent need no dot: `6e-5` and `1e3` are floats.
- Dates and base-60 numbers are text: `2020-01-01`, `1:30`.
- Keys are text, each once in a mapping.
- Tags other than those of plain values are refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from segrgbx_core.base.errors import ConfigError, shortened

MAX_BYTES = 1 << 20
"""Largest text, in bytes."""
MAX_DEPTH = 64
"""Most mappings and lists within each other."""
MAX_VALUES = 100_000
"""Most values, each counted as often as aliases repeat it."""

_INT64 = range(-(1 << 63), 1 << 63)
_LONGEST_NUMBER = 80
_PLAIN_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
_FLOAT = re.compile(
    r"""[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN)""",
    re.VERBOSE,
)
_INT = re.compile(
    r"""[-+]?0b[0-1_]+
    |[-+]?0[0-7_]+
    |[-+]?(?:0|[1-9][0-9_]*)
    |[-+]?0x[0-9a-fA-F_]+""",
    re.VERBOSE,
)


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The plain value that a YAML text holds: numbers, text, booleans, None, lists, mappings.

    Args:
        text: one YAML document, UTF-8 where it is bytes.
        where: file or option, put before every message.

    Raises:
        ConfigError: with the line, when the text is no YAML, is not plain, repeats a key, or is
            larger than `MAX_BYTES`, `MAX_DEPTH` and `MAX_VALUES` allow.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: is larger than {MAX_BYTES >> 20} MiB; expected a YAML file")
    try:
        content = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: is not YAML: byte {error.start} is not UTF-8") from None
    loader: _Loader | None = None
    try:
        loader = _Loader(content)
        return loader.get_single_data()
    except _RefusedError as error:
        raise ConfigError(f"{where}, line {error.line}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{where}{line}: is not YAML: {shortened(problem, 200)}") from None
    except yaml.reader.ReaderError as error:
        line_number = content.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{where}, line {line_number}: is not YAML: character {content[error.position]!r} "
            "is not allowed"
        ) from None
    finally:
        if loader is not None:
            loader.dispose()


class _RefusedError(Exception):
    """Text is YAML and yet no configuration."""

    def __init__(self, mark: Any, problem: str) -> None:
        super().__init__(problem)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without what it leaves open to text from strangers."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._values = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes a node, counting depth and values; an alias counts as what it repeats."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._values
        self._values += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _RefusedError(event.start_mark, f"more than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent) and not _is_text(event.value):
            raise _RefusedError(event.start_mark, "text holds a zero byte or half a character")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                raise _RefusedError(event.start_mark, f"alias '{event.anchor}' holds itself")
            self._values += self._sizes[node]
        elif node is not None:
            self._sizes[node] = self._values - before
        if self._values > MAX_VALUES:
            raise _RefusedError(event.start_mark, f"more than {MAX_VALUES} values")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Composes a mapping whose keys are text, each once."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            tag = key.tag.removeprefix("tag:yaml.org,2002:")
            if tag == "merge":
                continue
            if tag != "str":
                name = shortened(key.value) if isinstance(key.value, str) else f"a {tag}"
                raise _RefusedError(key.start_mark, f"key {name} is no text; quote it")
            if key.value in lines:
                twice = f"key '{shortened(key.value)}' is in line {lines[key.value]}, too"
                raise _RefusedError(key.start_mark, twice)
            lines[key.value] = line
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """An integer of 64 bits or a float."""
        is_int = node.tag.endswith(":int")
        text = self.construct_scalar(node)
        try:
            if len(text) > _LONGEST_NUMBER:
                raise OverflowError
            if not is_int:
                return float(super().construct_yaml_float(node))
            value = int(super().construct_yaml_int(node))
            if value not in _INT64:
                raise OverflowError
        except OverflowError:
            raise _RefusedError(
                node.start_mark, f"number {shortened(text)} does not fit into 64 bits"
            ) from None
        except (ValueError, IndexError):
            raise _RefusedError(node.start_mark, f"'{shortened(text)}' is no number") from None
        return value

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        """True or False."""
        text = self.construct_scalar(node)
        if text.lower() not in self.bool_values:
            raise _RefusedError(node.start_mark, f"'{shortened(text)}' is not true or false")
        return bool(self.bool_values[text.lower()])


def _is_text(value: str) -> bool:
    """False for what neither paths nor JSON can hold: escapes reach zero bytes and surrogates."""
    return "\0" not in value and not any("\ud800" <= one <= "\udfff" for one in value)


def _set_up() -> None:
    tags = [f"tag:yaml.org,2002:{name}" for name in _PLAIN_TAGS]
    known = dict(_Loader.yaml_constructors)
    _Loader.yaml_constructors = {tag: known[tag] for tag in tags} | {None: known[None]}
    _Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
    _Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)
    _Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.construct_bool)
    dropped = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "value")}
    _Loader.yaml_implicit_resolvers = {
        first: kept
        for first, rules in _Loader.yaml_implicit_resolvers.items()
        if (kept := [(tag, rule) for tag, rule in rules if tag not in dropped])
    }
    for tag, rule, firsts in (("float", _FLOAT, "-+0123456789."), ("int", _INT, "-+0123456789")):
        full = re.compile(f"(?:{rule.pattern})$", re.VERBOSE)
        _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", full, list(firsts))


_set_up()
