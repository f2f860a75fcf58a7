"""Files with which a vehicle shapes its labels: classes of its own, other colours. NumPy only.

`label.file` gathers classes of a label space into fewer ones, such as what a costmap tells apart:

    classes:
      - {name: drivable, rgb: [128, 64, 128], members: [road, lane marking]}
      - {name: person, rgb: [220, 20, 60], members: [pedestrian, rider]}

The position in the list is the id. Classes that no entry names become unlabeled.
`label.palette_file` maps class names to colours: `road: [90, 90, 90]`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import Config, option, read_mapping, read_yaml
from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.labels.label_space import VOID

Rgb = tuple[int, int, int]


class ClassGroup(Config):
    """One class of a vehicle's own."""

    name: str = option(doc="what it is called in label_map and label_info")
    rgb: tuple[int, int, int] = option(doc="its colour, 0 to 255 each")
    members: tuple[str, ...] = option(doc="names of the classes that it is made of")


class LabelFile(Config):
    """The content of `label.file`."""

    classes: tuple[ClassGroup, ...] = option(doc="classes; the position is the id")


@dataclass(frozen=True, eq=False)
class Grouping:
    """Classes made of others.

    Attributes:
        names: of the new classes.
        palette: their colours.
        table: uint8 (256,), new id by old one; void for classes that belong to none.
        fingerprint: changes when names or members do.
    """

    names: tuple[str, ...]
    palette: tuple[Rgb, ...]
    table: NDArray[np.uint8]
    fingerprint: str


def read_label_file(path: Path | str, names: Sequence[str]) -> Grouping:
    """Reads `label.file`.

    Args:
        path: YAML.
        names: of the classes that it gathers; position is the id.

    Raises:
        ConfigError: when it cannot be read, names a class that there is not, or one twice.
    """
    groups = read_yaml(LabelFile, path).classes
    if not 1 <= len(groups) < VOID:
        raise ConfigError(f"{path}: classes: {len(groups)} of them; allowed are 1 to {VOID - 1}")
    table = np.full(256, VOID, np.uint8)
    ids = {name: index for index, name in enumerate(names)}
    taken: dict[str, str] = {}
    for number, group in enumerate(groups):
        _check_colour(group.rgb, f"{path}: '{group.name}'")
        if [other.name for other in groups].count(group.name) > 1:
            raise ConfigError(f"{path}: class '{group.name}' stands twice")
        for member in group.members:
            _check_name(member, names, f"{path}: '{group.name}'")
            if member in taken:
                raise ConfigError(
                    f"{path}: '{member}' is a member of '{taken[member]}' and of '{group.name}'; "
                    "it can be one class only"
                )
            taken[member] = group.name
            table[ids[member]] = number
    meaning = json.dumps([[group.name, sorted(group.members)] for group in groups])
    return Grouping(
        tuple(group.name for group in groups),
        tuple(group.rgb for group in groups),
        table,
        hashlib.sha256(meaning.encode()).hexdigest()[:16],
    )


def read_palette_file(
    path: Path | str, names: Sequence[str], palette: Sequence[Rgb]
) -> tuple[Rgb, ...]:
    """Reads `label.palette_file`.

    Args:
        path: YAML.
        names: of the published classes.
        palette: their colours, kept where the file names none.

    Raises:
        ConfigError: when it cannot be read, or names a class that there is not or no colour.
    """
    colours = dict(zip(names, palette, strict=True))
    for name, colour in read_mapping(path).items():
        _check_name(name, names, f"{path}")
        colours[name] = _check_colour(colour, f"{path}: '{name}'")
    return tuple(colours[name] for name in names)


def _check_name(name: str, names: Sequence[str], place: str) -> None:
    if name not in names:
        raise ConfigError(f"{place}: '{name}' is no class of it{did_you_mean(name, list(names))}")


def _check_colour(colour: Any, place: str) -> Rgb:
    is_colour = (
        isinstance(colour, (list, tuple))
        and len(colour) == 3
        and all(isinstance(value, int) and 0 <= value <= 255 for value in colour)
    )
    if not is_colour:
        raise ConfigError(f"{place}: {colour!r} is no colour; use three numbers from 0 to 255")
    red, green, blue = colour
    return red, green, blue
