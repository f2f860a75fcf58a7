"""`dataset.yaml`: what a data set in a folder of one's own says about itself.

Every error names the file and the line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from pydantic import field_validator

from segrgbx_core.base.config import Config, OptionPath, from_mapping, option, read_mapping
from segrgbx_core.base.errors import ConfigError, DataError, did_you_mean
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import XForm
from segrgbx_core.labels.label_space import UNIFIED, VOID, LabelSpace
from segrgbx_core.labels.tables import (
    MAX_CLASSES,
    PUBLIC_SPACES,
    SYNTHETIC_STREET,
    UNIFIED_NAMES,
    NativeSpace,
    Rgb,
)
from segrgbx_core.sensors import AddedModality, SensorConfig

FILE_NAME = "dataset.yaml"
SPLITS = ("train", "val", "test")
_LARGEST_VALUE = 65535
_TAKEN = (UNIFIED, *(space.name for space in (*PUBLIC_SPACES, SYNTHETIC_STREET)))


class LabelForm(str, Enum):
    """What label files hold."""

    AUTO = "auto"
    """Values where the first file has one channel or a palette, else colours."""
    IDS = "ids"
    """The classes' values: grey or indexed images, arrays."""
    COLORS = "colors"
    """The classes' colours."""


class ClassRow(Config):
    """One class of a data set."""

    name: str = option(doc="the data set's own name of the class")
    value: int | None = option(
        None, doc="its value in label files; left out where they hold colours", high=_LARGEST_VALUE
    )
    color: tuple[int, int, int] | None = option(
        None, doc="its red, green and blue, 0 to 255 each; left out, one is chosen"
    )
    unified: str = option(
        "", doc="class of the unified label space that it is; left out, it is a new one"
    )

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty; give the class a name")
        return value

    @field_validator("color")
    @classmethod
    def _in_range(cls, value: Rgb | None) -> Rgb | None:
        if value is not None and not all(0 <= part <= 255 for part in value):
            raise ValueError("is not three values in [0, 255]")
        return value


class DatasetFile(Config):
    """The options of `dataset.yaml`; patterns are relative to its folder."""

    name: str = option("", doc="name of the data set and of its label space; else the folder's")
    modality: Modality | None = option(None, doc="what X is; needed where there is an X")
    picture: AddedModality | None = option(
        None, doc="range and unit of X, for a modality that is none of the paper's five"
    )
    rgb: str = option(doc="pattern of the RGB images, such as rgb/*.png")
    x: str = option("", doc="pattern of the X files; left out, X is missing")
    x_form: XForm = option(
        XForm.RAW, doc="raw (what the sensor delivers) or image (a picture that shows it)"
    )
    labels: str = option(doc="pattern of the label files")
    label_form: LabelForm = option(
        LabelForm.AUTO, doc="ids, colors, or auto, which goes by the first label file"
    )
    splits: dict[str, Any] = option(
        {"val": 0.1},
        doc="by split, a list of stems or a share; where train is not named it gets the rest",
    )
    seed: int = option(0, doc="draws the shares of splits", low=0)
    block: int = option(
        1,
        doc="neighbouring stems that a share takes together, so that frames of one moment are in "
        "one split",
        low=1,
    )
    classes: tuple[ClassRow, ...] = option(doc="the classes, in the order of their ids")
    ignore: tuple[Any, ...] = option(
        (), doc="values without a label, or colours where label files hold colours"
    )
    sensor: SensorConfig = option(
        SensorConfig(), doc="what X's numbers mean, as in a node's section sensor"
    )

    @field_validator("name")
    @classmethod
    def _usable(cls, value: str) -> str:
        if value in _TAKEN:
            raise ValueError("is the name of a label space that every checkpoint knows")
        return value

    @field_validator("rgb", "x", "labels")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        if value and (value.startswith("/") or "*" not in value):
            raise ValueError("is no pattern relative to the folder, such as rgb/*.png")
        return value

    @field_validator("splits")
    @classmethod
    def _are_splits(cls, value: dict[str, Any]) -> dict[str, Any]:
        for split, entry in value.items():
            if split not in SPLITS:
                raise ValueError(f"'{split}' is not one of {', '.join(SPLITS)}")
            is_number = isinstance(entry, (int, float)) and not isinstance(entry, bool)
            if is_number and not 0 < entry < 1:
                raise ValueError(f"share {entry} of '{split}' is outside (0, 1)")
            if not is_number and not (isinstance(entry, str) and entry):
                raise ValueError(f"'{split}' is neither a list file nor a share, such as 0.1")
        return value

    @field_validator("ignore")
    @classmethod
    def _are_values(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        entries = []
        for entry in value:
            is_colour = isinstance(entry, (list, tuple)) and len(entry) == 3
            parts = tuple(entry) if is_colour else (entry,)
            top = 255 if is_colour else _LARGEST_VALUE
            if not all(type(part) is int and 0 <= part <= top for part in parts):
                raise ValueError(
                    f"{entry} is neither a value, such as 255, nor [red, green, blue]"
                )
            entries.append(parts if is_colour else entry)
        return tuple(entries)

    @property
    def ignored_values(self) -> tuple[int, ...]:
        """Values of label files that mean no label."""
        return tuple(entry for entry in self.ignore if isinstance(entry, int))

    @property
    def ignored_colours(self) -> tuple[Rgb, ...]:
        """Colours of label files that mean no label."""
        return tuple(entry for entry in self.ignore if not isinstance(entry, int))


@dataclass(frozen=True)
class OwnDataset:
    """A `dataset.yaml` that was read and checked.

    Attributes:
        path: the file.
        text: its content.
        config: its options.
        label_space: the unified classes that it uses, in the order of its own classes, with its
            own space as the only data set's.
        shared: its classes that have a unified one.
        near: its new classes whose name a unified class has, too.
    """

    path: Path
    text: str
    config: DatasetFile
    label_space: LabelSpace
    shared: tuple[str, ...]
    near: tuple[str, ...]

    @property
    def space(self) -> NativeSpace:
        """The data set's own classes; places refer to `label_space`."""
        return self.label_space.natives[0]


def read_dataset_file(root: Path) -> OwnDataset:
    """Reads and checks the `dataset.yaml` of a folder.

    Raises:
        ConfigError: naming file and line of what is missing, unknown, twice or out of range.
    """
    path = root / FILE_NAME
    data = read_mapping(path)
    text = path.read_text(encoding="utf-8-sig")
    lines = _Lines(path, text)
    config = from_mapping(DatasetFile, data, lines.place)
    if config.x and config.modality is None:
        raise ConfigError(
            f"{lines.place(('x',))}: x needs a modality; add one of {', '.join(MODALITIES)}"
        )
    if config.modality and config.modality.is_added and config.picture is None:
        hint = did_you_mean(config.modality, MODALITIES)
        raise ConfigError(
            f"{lines.place(('modality',))}: modality: '{config.modality}' is none of the five"
            f"{hint}; one that is added to a checkpoint needs picture: with low, high and unit"
        )
    _check_classes(config.classes, lines)
    _check_values(config, lines)
    name = config.name or root.resolve().name
    if name in _TAKEN:
        raise ConfigError(
            f"{path}: the folder's name '{name}' is that of a label space that every checkpoint "
            "knows; add name: with another one"
        )
    names, near = [], []
    for row in config.classes:
        is_near = not row.unified and row.name in UNIFIED_NAMES
        near += [row.name] if is_near else []
        names.append(row.unified or (f"{row.name} ({name})" if is_near else row.name))
    palette = _palette([row.color for row in config.classes])
    void = tuple(value for value in config.ignored_values if value <= VOID)
    native = NativeSpace(
        name=name,
        modality=config.modality,
        names=tuple(row.name for row in config.classes),
        palette=palette,
        to_unified=tuple(range(len(names))),
        void_file_values=void,
    )
    is_unique = len(set(palette)) == len(palette)
    unique = palette if is_unique else _palette([None] * len(palette))
    shared = tuple(row.name for row in config.classes if row.unified)
    label_space = LabelSpace(tuple(names), unique, (native,))
    return OwnDataset(path, text, config, label_space, shared, tuple(near))


class _Lines:
    """Finds the line of an option in a YAML file."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._root = yaml.compose(text, Loader=yaml.SafeLoader)

    def place(self, option_path: OptionPath) -> str:
        """File and line of an option, or of the nearest one around it."""
        node, line = self._root, 0
        for part in option_path:
            entry = self._child(node, part)
            if entry is None:
                break
            node, line = entry
        return f"{self.path}, line {line + 1}"

    @staticmethod
    def _child(node: Any, part: int | str) -> tuple[Any, int] | None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    return value, key.start_mark.line
        if (
            isinstance(node, yaml.SequenceNode)
            and isinstance(part, int)
            and part < len(node.value)
        ):
            return node.value[part], node.value[part].start_mark.line
        return None


def _check_classes(classes: tuple[ClassRow, ...], lines: _Lines) -> None:
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise ConfigError(
            f"{lines.place(('classes',))}: {len(classes)} classes; allowed are 1 to {MAX_CLASSES}"
        )
    for what in ("name", "value", "unified", "color"):
        seen: dict[Any, int] = {}
        for index, row in enumerate(classes):
            value = getattr(row, what)
            if value in (None, ""):
                continue
            first = seen.setdefault(value, index)
            if first == index:
                continue
            if what == "color" and row.value is not None and classes[first].value is not None:
                continue  # colours are for the eye then
            shown = list(value) if what == "color" else f"'{value}'"
            raise ConfigError(
                f"{lines.place(('classes', index, what))}: {what} {shown} is that of class "
                f"'{classes[first].name}' at line "
                f"{lines.place(('classes', first)).rsplit(' ', 1)[1]}, too; each needs its own"
            )
    for index, row in enumerate(classes):
        if row.unified and row.unified not in UNIFIED_NAMES:
            hint = did_you_mean(row.unified, UNIFIED_NAMES)
            hint = hint if "did you mean" in hint else ""
            raise ConfigError(
                f"{lines.place(('classes', index, 'unified'))}: class '{row.name}': "
                f"'{row.unified}' is no unified class{hint}; docs/your_data.md lists them; leave "
                "unified out for a new class"
            )
        if row.value is None and row.color is None:
            raise ConfigError(
                f"{lines.place(('classes', index))}: class '{row.name}' has neither value nor "
                "color; label files need one of them"
            )


def _check_values(config: DatasetFile, lines: _Lines) -> None:
    owner: dict[Any, str] = {}
    for row in config.classes:
        owner[row.value] = owner[row.color] = row.name
    for entry in config.ignore:
        if entry in owner:
            raise ConfigError(
                f"{lines.place(('ignore',))}: {entry} is the class '{owner[entry]}'; a value is "
                "either ignored or a class"
            )
    stated = {"value": LabelForm.IDS, "color": LabelForm.COLORS}
    for what, form in stated.items():
        lacking = [i for i, row in enumerate(config.classes) if getattr(row, what) is None]
        if config.label_form is form and lacking:
            raise ConfigError(
                f"{lines.place(('classes', lacking[0]))}: class "
                f"'{config.classes[lacking[0]].name}' has no {what}, which label_form "
                f"{form.value} needs; add it"
            )


def _palette(stated: Sequence[Rgb | None]) -> tuple[Rgb, ...]:
    """The stated colours, and far apart ones for classes without."""
    used = {colour for colour in stated if colour is not None}
    free = (colour for colour in map(_nth_colour, count(1)) if colour not in used)
    return tuple(next(free) if colour is None else colour for colour in stated)


def _nth_colour(number: int) -> Rgb:
    """Colour of a class by the bits of its number, as Pascal VOC chooses them; 0 is black."""
    red = green = blue = 0
    for place in range(7, -1, -1):
        red |= (number & 1) << place
        green |= (number >> 1 & 1) << place
        blue |= (number >> 2 & 1) << place
        number >>= 3
    return red, green, blue


def files_by_stem(root: Path, pattern: str) -> dict[str, Path]:
    """The files that fit a pattern by their stem, sorted by it.

    A stem is what the asterisks stand for: `0001` of `rgb/0001.png` for `rgb/*.png`, and
    `walk/0001` of `walk/rgb/0001_left.png` for `*/rgb/*_left.png`.

    Raises:
        DataError: when no file fits, or two have one stem.
    """
    compiled = _stem_pattern(pattern)
    files: dict[str, Path] = {}
    for path in sorted(root.glob(pattern)):
        match = compiled.match(path.relative_to(root).as_posix())
        if not path.is_file() or match is None:
            continue
        stem = "/".join(part.strip("/") for part in match.groups() if part)
        other = files.setdefault(stem, path)
        if other is not path:
            raise DataError(
                f"{path}: has the stem '{stem}', as {other.name}; rename one, or tell them apart "
                "in the pattern"
            )
    if not files:
        raise DataError(f"{root / pattern}: no file fits; check the pattern in {FILE_NAME}")
    return dict(sorted(files.items()))


def _stem_pattern(pattern: str) -> re.Pattern[str]:
    head, dot, tail = pattern.rpartition(".")
    stem, suffix = (head, tail) if dot and "/" not in tail else (pattern, "*")
    known = {"*": "([^/]*?)", "?": "([^/])", "**": "(.*?)", "**/": "(.*/)?"}
    parts = re.split(r"(\*\*/?|\*|\?)", stem)
    regex = "".join(known.get(part, re.escape(part)) for part in parts)
    ending = re.escape(suffix).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return re.compile(rf"{regex}(?:\.{ending})?$")
