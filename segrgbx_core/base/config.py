"""The one strict reader of configuration: typed trees of options, declared beside what they set.

A `Config` is a frozen pydantic model; `option` declares a field once with default, meaning, unit
and range. From that one declaration come validation, YAML reading, ROS parameters with
descriptors, the JSON schema and the parameter table in docs/.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Tag, ValidationError
from pydantic_core import ErrorDetails

from segrgbx_core.base.errors import ConfigError, did_you_mean, shortened
from segrgbx_core.base.files import expand_home, read_bytes
from segrgbx_core.base.yaml_text import MAX_BYTES, parse_yaml

ConfigT = TypeVar("ConfigT", bound="Config")

OptionPath: TypeAlias = tuple[int | str, ...]
"""Names, and numbers of list entries, from the root of a tree to one of its options."""

PathText = Annotated[str, AfterValidator(expand_home)]
"""Type of every option that is a path: `~` stands for the home folder."""


class Config(BaseModel):
    """Base of every option tree: frozen, finite, no unknown names, defaults are checked too."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


def option(
    default: Any = ...,
    *,
    doc: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    dynamic: bool = False,
    affects_result: bool = True,
) -> Any:
    """Declares one option.

    Args:
        default: value when nothing is said; left out, the option is required.
        doc: what it does, one sentence without the default, the unit or the range.
        unit: unit of the value, empty for none.
        low: smallest allowed value, None for none.
        high: largest allowed value, None for none.
        dynamic: True where a running node may change it.
        affects_result: False where it changes what is logged, stored or how fast, never what a
            run computes; see `result_options`.
    """
    extra: dict[str, Any] = {"unit": unit, "dynamic": dynamic}
    if not affects_result:
        extra["affects_result"] = False
    return Field(default, description=doc, ge=low, le=high, json_schema_extra=extra)


@dataclass(frozen=True)
class Leaf:
    """One option of a tree, for parameter servers and documents.

    Attributes:
        name: dotted path from the root.
        default: plain value (numbers, strings, booleans, lists), or None when required.
        unit: empty for none.
        low: smallest allowed value, None for none.
        high: largest allowed value, None for none.
        choices: allowed values of an enumeration, empty for none.
        dynamic: True where a running node may change it.
        required: True where there is no default.
    """

    name: str
    default: Any
    doc: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    dynamic: bool
    required: bool


def leaves(cls: type[Config], prefix: str = "") -> Iterator[Leaf]:
    """Walks every option of a tree in the order of declaration.

    Args:
        cls: the tree's root class.
        prefix: put before every name, with its dot.

    Yields:
        one `Leaf` per option that is not itself a `Config`, a mapping of them or a choice among
        them.
    """
    for name, info in cls.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from leaves(kind, f"{prefix}{name}.")
            continue
        if get_origin(kind) in (dict, Mapping) or _choices(kind):
            continue
        extra = info.json_schema_extra
        metadata: dict[str, Any] = dict(extra) if isinstance(extra, dict) else {}
        bounds = {type(item).__name__: item for item in info.metadata}
        enum = kind if isinstance(kind, type) and issubclass(kind, Enum) else None
        required = info.is_required()
        yield Leaf(
            name=f"{prefix}{name}",
            default=None if required else _plain(info.get_default(call_default_factory=True)),
            doc=info.description or "",
            unit=metadata.get("unit", ""),
            low=bounds["Ge"].ge if "Ge" in bounds else None,
            high=bounds["Le"].le if "Le" in bounds else None,
            choices=tuple(str(member.value) for member in enum) if enum else (),
            dynamic=metadata.get("dynamic", False),
            required=required,
        )


def from_mapping(
    cls: type[ConfigT], data: Mapping[str, Any], where: str | Callable[[OptionPath], str] = ""
) -> ConfigT:
    """Builds a tree from plain values, strictly.

    Integers widen to floats and lists become tuples; nothing else is converted.

    Args:
        cls: the tree's root class.
        data: nested mapping of plain values.
        where: put before every message, such as a file name; or what makes that of the option's
            path, such as a file name with the option's line.

    Raises:
        ConfigError: for the first option that is unknown, missing, mistyped or out of range.
    """
    try:
        # Strict JSON rules are wanted here: "3" is no number, 1 no boolean, a list is a tuple.
        return cls.model_validate_json(json.dumps(data, default=_plain), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = where(first["loc"]) if callable(where) else where
        raise ConfigError(_message(cls, first, place)) from None
    except (TypeError, RecursionError) as error:
        place = where(()) if callable(where) else where
        text = str(error) if isinstance(error, TypeError) else "more levels than can be read"
        raise ConfigError(f"{place}: {text}" if place else text) from None


def read_yaml(cls: type[ConfigT], path: Path | str, section: Sequence[str] = ()) -> ConfigT:
    """Reads a tree from a YAML file.

    Args:
        cls: the tree's root class.
        path: the file.
        section: keys to descend before the tree begins.

    Raises:
        ConfigError: when the file is missing, is not a YAML mapping, or holds a wrong option.
    """
    return from_mapping(cls, read_mapping(path, section), where=str(path))


def read_mapping(path: Path | str, section: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a YAML file as nested plain values; see `read_yaml`."""
    data = parse_yaml(read_bytes(path, MAX_BYTES, ConfigError), str(path))
    for key in section:
        if not isinstance(data, Mapping) or key not in data:
            raise ConfigError(f"{path}: section '{'.'.join(section)}' is missing at '{key}'")
        data = data[key]
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: holds {type(data).__name__}; expected names with values")
    return dict(data)


def to_plain(config: Config) -> dict[str, Any]:
    """The tree as nested plain values, which `from_mapping` reads back to an equal tree."""
    return config.model_dump(mode="json")


def result_options(config: Config) -> dict[str, Any]:
    """`to_plain` without the options that are declared with `affects_result=False`."""
    return _result_options(config, to_plain(config))


def _result_options(value: Any, plain: Any) -> Any:
    if isinstance(value, Config):
        kept = {}
        for name, info in type(value).model_fields.items():
            extra = info.json_schema_extra
            if name not in plain:  # one that is left out while it holds nothing
                continue
            if not isinstance(extra, dict) or extra.get("affects_result", True):
                kept[name] = _result_options(getattr(value, name), plain[name])
        return kept
    if isinstance(value, Mapping):
        return {key: _result_options(value[key], plain[key]) for key in plain}
    if isinstance(value, (list, tuple)):
        return [_result_options(*pair) for pair in zip(value, plain, strict=True)]
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return to_plain(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    raise TypeError(f"value {value!r} of type {type(value).__name__} is not a plain value")


def _message(cls: type[Config], error: ErrorDetails, where: str) -> str:
    owner, path = _owner(cls, [str(part) for part in error["loc"]])
    place = f"{where}: " if where else ""
    name = shortened(".".join(path), 200)
    if error["type"] == "extra_forbidden":
        beside = list(owner.model_fields) if owner else []
        return f"{place}unknown option '{name}'{did_you_mean(path[-1], beside)}"
    if error["type"] == "missing":
        return f"{place}option '{name}' is required; set it"
    siblings = leaves(owner) if owner else iter(())
    leaf = next((leaf for leaf in siblings if leaf.name == path[-1]), None)
    value = error["input"]
    if leaf is not None and error["type"] in ("greater_than_equal", "less_than_equal"):
        unit = f" {leaf.unit}" if leaf.unit else ""
        low = "-inf" if leaf.low is None else f"{leaf.low:g}"
        high = "inf" if leaf.high is None else f"{leaf.high:g}"
        return f"{place}{name}: {value}{unit} is outside [{low}, {high}]{unit}"
    if error["type"] == "finite_number":
        return f"{place}{name}: {value} is not a finite number"
    if leaf is not None and leaf.choices:
        return f"{place}{name}: '{shortened(str(value))}' is not one of {', '.join(leaf.choices)}"
    text = error["msg"].removeprefix("Value error, ")
    if isinstance(value, Mapping):  # a rule about several options; their values are many
        return f"{place}{name}: {text}"
    return f"{place}{name}: {text}; got {shortened(repr(value))}" if name else f"{place}{text}"


def _owner(cls: type[Config], path: list[str]) -> tuple[type[Config] | None, list[str]]:
    """The tree that declares the last option of a path, and the path as users write it."""
    kind: Any = cls
    owner: type[Config] | None = None
    names = []
    for part in path:
        if part in (choices := _choices(kind)):
            kind = choices[part]  # pydantic names the tree that was chosen; users do not
            continue
        names.append(part)
        owner = kind if isinstance(kind, type) and issubclass(kind, Config) else None
        info = owner.model_fields.get(part) if owner else None
        kind = info.annotation if info else None
    return owner, names


def _choices(kind: Any) -> dict[str, type[Config]]:
    """The trees that a union chooses from, by tag; empty for anything else."""
    return {
        mark.tag: get_args(member)[0]
        for member in get_args(kind)
        for mark in getattr(member, "__metadata__", ())
        if isinstance(mark, Tag)
    }
