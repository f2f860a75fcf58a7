"""The published labels as text and files: `label_map`, `label.file`, `label.palette_file`.

`label_map_text` is what the topic `label_map` says, `parse_label_map` reads it back.

`label.file` gathers classes of a label space into fewer ones, such as a costmap needs:

    classes:
      - {name: drivable, rgb: [128, 64, 128], members: [road, lane marking]}
      - {name: person, rgb: [220, 20, 60], members: [pedestrian, rider]}

The position in the list is the id, or an entry says it: `{id: 11, name: person, ...}`, for readers
that expect fixed ids; then every entry does. Classes that no entry names become unlabeled.
`label.palette_file` maps class names to colours: `road: [90, 90, 90]`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.config import Config, option, read_mapping, read_yaml
from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.labels.label_space import VOID, PublishedLabels

Rgb = tuple[int, int, int]


class ClassGroup(Config):
    """One class of a vehicle's own."""

    name: str = option(doc="what it is called in label_map and label_info")
    rgb: tuple[int, int, int] = option(doc="its colour, 0 to 255 each")
    members: tuple[str, ...] = option(doc="names of the classes that it is made of")
    id: int | None = option(None, doc="its id in the masks; for every class or for none")


class LabelFile(Config):
    """The content of `label.file`."""

    classes: tuple[ClassGroup, ...] = option(doc="classes; without ids the position is the id")


def label_map_text(labels: PublishedLabels) -> str:
    """The text of the `label_map` topic: JSON with ids, names and colours."""
    classes = [
        {"id": index, "name": name, "rgb": [int(value) for value in rgb]}
        for index, name, rgb in zip(labels.ids, labels.names, labels.palette, strict=True)
    ]
    return json.dumps(
        {
            "label_space": labels.space,
            "hash": labels.hash,
            "unlabeled_id": labels.unlabeled_id,
            "classes": classes,
        }
    )


def parse_label_map(text: str) -> PublishedLabels:
    """Reads what `label_map_text` wrote."""
    data = json.loads(text)
    classes = sorted(data["classes"], key=lambda entry: entry["id"])
    ids = tuple(entry["id"] for entry in classes)
    return PublishedLabels(
        names=tuple(entry["name"] for entry in classes),
        palette=tuple(tuple(entry["rgb"]) for entry in classes),
        space=data["label_space"],
        hash=data["hash"],
        unlabeled_id=data["unlabeled_id"],
        fixed_ids=ids if ids != tuple(range(len(ids))) else (),
    )


def legend_text(labels: PublishedLabels) -> str:
    """Id, name and colour of every class, one a line, then the id of unlabeled pixels."""
    width = max(map(len, labels.names))
    rows = [
        f"{index:3}  {name:{width}}  {red:3} {green:3} {blue:3}"
        for index, name, (red, green, blue) in zip(
            labels.ids, labels.names, labels.palette, strict=True
        )
    ]
    return "\n".join([*rows, f"{labels.unlabeled_id:3}  (no answer)"])


def read_label_file(
    path: Path | str, labels: PublishedLabels
) -> tuple[PublishedLabels, NDArray[np.uint8]]:
    """Reads `label.file`.

    Args:
        path: YAML.
        labels: the classes that it gathers.

    Returns:
        the new classes, and uint8 (256,): new id by old one, void for classes that belong to none.

    Raises:
        ConfigError: when it cannot be read, names a class that there is not, or one twice, or an
            id is out of range or given twice.
    """
    groups = read_yaml(LabelFile, path).classes
    if not 1 <= len(groups) < VOID:
        raise ConfigError(f"{path}: classes: {len(groups)} of them; allowed are 1 to {VOID - 1}")
    fixed_ids = _fixed_ids(path, groups)
    table = np.full(256, VOID, np.uint8)
    ids = dict(zip(labels.names, labels.ids, strict=True))
    owners: dict[str, str] = {}
    for number, group in zip(fixed_ids or tuple(range(len(groups))), groups, strict=True):
        _check_colour(group.rgb, f"{path}: '{group.name}'")
        if [other.name for other in groups].count(group.name) > 1:
            raise ConfigError(f"{path}: class '{group.name}' stands twice")
        for member in group.members:
            _check_name(member, labels.names, f"{path}: '{group.name}'")
            if member in owners:
                raise ConfigError(
                    f"{path}: '{member}' is a member of '{owners[member]}' and of '{group.name}'; "
                    "it can be one class only"
                )
            owners[member] = group.name
            table[ids[member]] = number
    numbers = [[number] for number in fixed_ids] or [[]] * len(groups)
    meaning = json.dumps(
        [
            [group.name, sorted(group.members), *number]
            for group, number in zip(groups, numbers, strict=True)
        ]
    )
    fingerprint = hashlib.sha256(meaning.encode()).hexdigest()[:16]
    grouped = replace(
        labels,
        space=Path(path).stem,
        names=tuple(group.name for group in groups),
        palette=tuple(group.rgb for group in groups),
        hash=f"{labels.hash}-{fingerprint}",
        fixed_ids=fixed_ids,
    )
    return grouped, table


def read_palette_file(path: Path | str, labels: PublishedLabels) -> PublishedLabels:
    """Reads `label.palette_file`.

    Args:
        path: YAML.
        labels: the published classes; colours that the file does not name stay.

    Raises:
        ConfigError: when it cannot be read, or names a class that there is not or no colour.
    """
    colours = dict(zip(labels.names, labels.palette, strict=True))
    for name, colour in read_mapping(path).items():
        _check_name(name, labels.names, f"{path}")
        colours[name] = _check_colour(colour, f"{path}: '{name}'")
    return replace(labels, palette=tuple(colours[name] for name in labels.names))


def _fixed_ids(path: Path | str, groups: Sequence[ClassGroup]) -> tuple[int, ...]:
    """The ids that the entries give, none where they give none."""
    owners: dict[int, str] = {}
    for group in groups:
        if group.id is None:
            continue
        if not 0 <= group.id < VOID:
            raise ConfigError(
                f"{path}: '{group.name}': id {group.id} is outside [0, {VOID - 1}]; {VOID} marks "
                "pixels without an answer (label.unlabeled_id renames it)"
            )
        if group.id in owners:
            raise ConfigError(
                f"{path}: id {group.id} is that of '{owners[group.id]}' and of '{group.name}'; "
                "give each class its own"
            )
        owners[group.id] = group.name
    without = [group.name for group in groups if group.id is None]
    if owners and without:
        raise ConfigError(
            f"{path}: '{without[0]}' has no id, but '{next(iter(owners.values()))}' has; give "
            "every class one, or none"
        )
    return tuple(owners)


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
