"""The one reader of ROS parameter files, for replay and, before rcl reads them, for the node.

rcl (`rcl_yaml_param_parser`) has rules of its own: lists of one type only, no aliases, nothing
without a value; 6e-5 is a number, `y` is true. Here its rules hold, checked against it by a test;
what it reads otherwise than it is meant (null as the text "null") is refused. So a file means the
same live and in replay, and a mistake is reported with its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segrgbx_core.base.errors import ConfigError, shortened
from segrgbx_core.base.files import read_bytes
from segrgbx_core.base.yaml_text import MAX_BYTES, MAX_DEPTH

PARAMETERS = "ros__parameters"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, as in rcl, where it is
_LAUNCH_LIST = "tag:yaml.org,2002:python/tuple"
"""How launch_ros marks the lists of its temporary files; rcl reads them as lists."""
_TRUE = ("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON")
_FALSE = ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF")
_NOTHING = ("", "~", "null", "Null", "NULL")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0[0-7]+|0[xX][0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_HEX_FLOAT = re.compile(
    r"[-+]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][-+]?[0-9]+)?"
)
_NOT_FINITE = re.compile(r"[-+]?(?:\.?inf|infinity|\.?nan(?:\([A-Za-z0-9_]*\))?)", re.IGNORECASE)
_INT64 = range(-(1 << 63), 1 << 63)
_LEAST = 2.2250738585072014e-308
_OPTION = re.compile(r"[A-Za-z0-9_./-]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WILDCARDS = {"*": "(?:/[^/]+)", "**": "(?:/[^/]+)*"}


@dataclass(frozen=True)
class Section:
    """The parameters below one node name of a file.

    Attributes:
        parts: of the node's full name; `*` stands for one part, `**` for any number of them.
        values: by dotted name.
    """

    parts: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)

    def fits(self, namespace: str, node: str) -> bool:
        """Whether a node of this name in this namespace (`""` or `/a/b`) gets the values."""
        pattern = "".join(_WILDCARDS.get(part, f"/{re.escape(part)}") for part in self.parts)
        return re.fullmatch(pattern, f"{namespace}/{node}") is not None


@dataclass(frozen=True)
class ParameterFile:
    """A ROS parameter file.

    Attributes:
        path: of the file.
        sections: in the order of the file; later ones win.
    """

    path: str
    sections: tuple[Section, ...]

    def values(self, namespace: str, node: str) -> dict[str, Any] | None:
        """What a node gets, by dotted name; None where no section fits it."""
        fitting = [one for one in self.sections if one.fits(namespace, node)]
        if not fitting:
            return None
        return {name: value for one in fitting for name, value in one.values.items()}

    def namespace(self, node: str) -> str:
        """The only namespace of the nodes in the file; the root where it names none.

        Raises:
            ConfigError: when there are several, so that the namespace must be given.
        """
        spaces = {space for one in self.sections for space in _namespaces(one.parts, node)}
        if len(spaces) > 1:
            names = ", ".join(f"'{name or '/'}'" for name in sorted(spaces))
            raise ConfigError(
                f"{self.path}: holds options of '{node}' for several namespaces ({names}); say "
                "which one is meant with --namespace"
            )
        return next(iter(spaces), "")


def read_parameter_file(path: Path | str) -> ParameterFile:
    """Reads a ROS parameter file.

    Raises:
        ConfigError: with the line, when it cannot be read, is no YAML, or holds what rcl refuses
            or reads otherwise than it is meant.
    """
    text = read_bytes(path, MAX_BYTES, ConfigError)
    return ParameterFile(str(path), tuple(_Parser(text, str(path)).sections()))


def check_parameter_files(arguments: Sequence[str]) -> list[ParameterFile]:
    """Reads the files that a ROS command line names with `--params-file`, before rcl does.

    Raises:
        ConfigError: see `read_parameter_file`.
    """
    paths, is_ros = [], False
    words = iter(arguments)
    for word in words:
        if word == "--ros-args":
            is_ros = True
        elif word == "--":
            is_ros = False
        elif word == "--params-file" and is_ros:
            paths.append(next(words, ""))
    return [read_parameter_file(path) for path in filter(None, paths)]


def misfit(file: ParameterFile, namespace: str, node: str) -> str:
    """Says so where nothing in a file is for a node of this name, else empty."""
    if file.values(namespace, node) is not None:
        return ""
    names = ", ".join(shortened("/" + "/".join(one.parts)) for one in file.sections[:3])
    return (
        f"{shortened(file.path)}: nothing in it is for '{namespace}/{node}'; it holds options of "
        f"{names or 'no node'}"
    )


def _namespaces(parts: Sequence[str], node: str) -> Iterator[str]:
    """The namespace that a section speaks of, `_` for a part that is open; none for any."""
    *space, last = parts
    fixed = "".join(f"/{'_' if part == '*' else part}" for part in space if part != "**")
    is_anywhere = not fixed and (last == "**" or "**" in space)
    if last in ("*", "**", node) and not is_anywhere:
        yield fixed


class _Parser:
    """Builds sections from the events of a YAML text."""

    def __init__(self, text: bytes, where: str) -> None:
        self._where = where
        self._text = text
        self._events: Iterator[Any] = iter(())
        self._next: Any = None
        self._names: set[tuple[str, ...]] = set()

    def sections(self) -> list[Section]:
        """All sections, those of other nodes too: rcl refuses a file for any of them."""
        try:
            self._text.decode("utf-8-sig")
            self._events = yaml.parse(self._text, Loader=_LOADER)
            self._take(yaml.StreamStartEvent)
            if isinstance(self._peek(), yaml.StreamEndEvent):
                return []
            start = self._take(yaml.DocumentStartEvent)
            if start.version not in (None, (1, 1)):
                raise self._refused(start, "YAML version is not 1.1; remove the line")
            sections = list(self._nodes(()))
            self._take(yaml.DocumentEndEvent)
            if not isinstance(self._peek(), yaml.StreamEndEvent):
                raise self._refused(self._peek(), "a second document begins; use one per file")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._where}: byte {error.start} is not UTF-8") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f", line {mark.line + 1}" if mark else ""
            problem = " ".join(filter(None, (error.context, error.problem)))
            text = shortened(problem, 200)
            raise ConfigError(f"{self._where}{line}: is not YAML: {text}") from None
        except yaml.YAMLError as error:
            text = shortened(" ".join(str(error).split()), 200)
            raise ConfigError(f"{self._where}: is not YAML: {text}") from None
        return sections

    def _nodes(self, parts: tuple[str, ...]) -> Iterator[Section]:
        """The sections of a mapping from node names or namespaces."""
        if not isinstance(self._peek(), yaml.MappingStartEvent):
            self._check_plain(self._peek())
            what = f"'{shortened(parts[-1])}' stands" if parts else "options stand"
            raise self._refused(
                self._peek(),
                f"{what} outside of {PARAMETERS}; put options under '/**:', '{PARAMETERS}:'",
            )
        self._take(yaml.MappingStartEvent)
        if len(parts) > MAX_DEPTH:
            raise self._refused(self._peek(), f"more than {MAX_DEPTH} levels")
        while not isinstance(self._peek(), yaml.MappingEndEvent):
            key = self._key()
            if key.value == PARAMETERS:
                if not parts:
                    raise self._refused(key, f"no node name stands above {PARAMETERS}; add '/**:'")
                if parts in self._names:
                    name = shortened("/" + "/".join(parts))
                    raise self._refused(key, f"node '{name}' stands twice; join its sections")
                self._names.add(parts)
                section = Section(parts)
                self._parameters(section.values, "")
                yield section
                continue
            if parts and key.value.startswith("/"):
                text = f"'{shortened(key.value)}' begins with a slash within '{parts[-1]}'"
                raise self._refused(key, text)
            yield from self._nodes((*parts, *self._name(key)))
        self._take(yaml.MappingEndEvent)

    def _name(self, key: Any) -> list[str]:
        parts = key.value.removeprefix("/").split("/")
        for part in parts:
            if part not in _WILDCARDS and not _NAME.fullmatch(part):
                raise self._refused(
                    key, f"'{shortened(key.value)}' is no name of a node, nor * or ** in one"
                )
        return parts

    def _parameters(self, values: dict[str, Any], prefix: str) -> None:
        start = self._peek()
        self._check_plain(start)
        if not isinstance(start, yaml.MappingStartEvent):
            raise self._refused(
                start, f"{PARAMETERS} holds no options; expected are names with values"
            )
        self._take(yaml.MappingStartEvent)
        if prefix.count(".") > MAX_DEPTH:
            raise self._refused(start, f"more than {MAX_DEPTH} levels")
        is_empty = True
        while not isinstance(self._peek(), yaml.MappingEndEvent):
            is_empty = False
            key = self._key()
            name = f"{prefix}{key.value}"
            if not _OPTION.fullmatch(key.value):
                raise self._refused(key, f"'{shortened(name)}' is no name of an option")
            if isinstance(self._peek(), yaml.MappingStartEvent):
                self._parameters(values, f"{name}.")
                continue
            if name in values:
                raise self._refused(key, f"option '{shortened(name)}' stands twice")
            values[name] = self._value(name)
        if is_empty and prefix:
            raise self._refused(start, f"'{shortened(prefix[:-1])}' is empty; leave it out")
        self._take(yaml.MappingEndEvent)

    def _value(self, name: str) -> Any:
        event = self._peek()
        self._check_plain(event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(self._take(yaml.ScalarEvent), name)
        self._take(yaml.SequenceStartEvent)
        items = []
        while not isinstance(self._peek(), yaml.SequenceEndEvent):
            item = self._peek()
            if not isinstance(item, yaml.ScalarEvent):
                raise self._refused(item, f"'{shortened(name)}': lists hold plain values only")
            self._check_plain(item)
            items.append(self._scalar(self._take(yaml.ScalarEvent), name))
        self._take(yaml.SequenceEndEvent)
        self._check_list(event, name, items)
        return items

    def _check_list(self, event: Any, name: str, items: list[Any]) -> None:
        if not items:
            raise self._refused(event, f"'{shortened(name)}': the list is empty; leave it out")
        kinds = {type(item) for item in items}
        if kinds == {int, float}:
            raise self._refused(
                event,
                f"'{shortened(name)}': ROS takes lists of one type only; write every number with "
                "a dot (0.0, -14.0)",
            )
        if len(kinds) > 1:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise self._refused(
                event, f"'{shortened(name)}': ROS takes lists of one type only, not of {names}"
            )

    def _scalar(self, event: Any, name: str) -> bool | int | float | str:
        text: str = event.value
        if "\0" in text:
            raise self._refused(event, f"'{shortened(name)}' holds a NUL, which ROS ends text at")
        is_text = event.style in ("|", ">") or event.tag
        if event.style in ("'", '"') or (is_text and text):
            return text
        if text in _NOTHING:
            raise self._refused(
                event, f"'{shortened(name)}' has no value; leave it out, or write '' for no text"
            )
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if _INT.fullmatch(text):
            digits = text.lstrip("+-")
            base = 10 if digits == "0" or digits[0] != "0" else 16 if digits[1] in "xX" else 8
            if len(digits) < 80 and int(text, base) in _INT64:
                return int(text, base)
        return self._float(event, name)

    def _float(self, event: Any, name: str) -> float | str:
        text: str = event.value
        if _NOT_FINITE.fullmatch(text):
            return float("nan" if "n" in text.lower().replace("in", "") else text.replace(".", ""))
        if _FLOAT.fullmatch(text):
            value = float(text)
        elif _HEX_FLOAT.fullmatch(text):
            try:
                value = float.fromhex(text)
            except OverflowError:
                return text
        else:
            return text
        if value in (float("inf"), float("-inf")):
            return text  # as rcl does; the option's type says what is wrong
        if abs(value) < _LEAST and re.search("[1-9a-fA-F]", re.split("[eEpP]", text)[0]):
            raise self._refused(event, f"'{shortened(name)}': {shortened(text)} is too near to 0")
        return value

    def _key(self) -> Any:
        event = self._peek()
        self._check_plain(event)
        if not isinstance(event, yaml.ScalarEvent) or not event.value:
            raise self._refused(event, "a name is expected here")
        return self._take(yaml.ScalarEvent)

    def _check_plain(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise self._refused(event, f"ROS takes no aliases (*{shortened(event.anchor or '')})")
        tag = getattr(event, "tag", None)
        is_text = isinstance(event, yaml.ScalarEvent) and tag == "tag:yaml.org,2002:str"
        is_list = isinstance(event, yaml.SequenceStartEvent) and tag == _LAUNCH_LIST
        if tag is not None and not is_text and not is_list:
            raise self._refused(
                event, f"tag {shortened(str(tag))} means nothing to ROS; remove it"
            )

    def _peek(self) -> Any:
        if self._next is None:
            self._next = next(self._events)
        return self._next

    def _take(self, kind: Any) -> Any:
        event = self._peek()
        assert isinstance(event, kind), event
        self._next = None
        return event

    def _refused(self, event: Any, problem: str) -> ConfigError:
        return ConfigError(f"{self._where}, line {event.start_mark.line + 1}: {problem}")
