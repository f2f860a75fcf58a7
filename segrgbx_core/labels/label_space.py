"""Label spaces: the unified classes, each data set's own, and the maps between them.

Ids are uint8 maps (H, W); `VOID` marks pixels without a label everywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import ConfigError, DataError, did_you_mean
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.tables import (
    MAX_CLASSES,
    PUBLIC_SPACES,
    SYNTHETIC_STREET,
    UNIFIED_NAMES,
    UNIFIED_PALETTE,
    ClassTable,
    NativeSpace,
    Rgb,
)

VOID: int = 255
"""Id of pixels without a label, in every label map; also what losses and metrics ignore."""

UNIFIED = "unified"
"""Name of the unified space wherever a space is chosen by name."""


@dataclass(frozen=True, kw_only=True)
class PublishedLabels(ClassTable):
    """The classes that the ids of a label image stand for, as topics and files describe them.

    Attributes:
        space: `unified` or a data set's name.
        hash: fingerprint of the checkpoint's label space.
        unlabeled_id: id of unlabeled pixels.
        fixed_ids: an id in [0, 254] per class, none twice; empty: the position is the id.
    """

    space: str
    hash: str
    unlabeled_id: int = VOID
    fixed_ids: tuple[int, ...] = ()

    @property
    def ids(self) -> Sequence[int]:
        """Ids of the classes, in the order of `names`."""
        return self.fixed_ids or super().ids

    def positions(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Positions in `names` from ids, such as scores are counted by; void stays void.

        Args:
            labels: uint8, any shape.
        """
        if not self.fixed_ids:
            return labels
        return np.take(_table(self.fixed_ids, range(self.num_classes)), labels)


@dataclass(frozen=True)
class LabelSpace(ClassTable):
    """The unified classes, each of another colour, and the data sets that share them.

    Attributes:
        natives: the data sets' own spaces; each maps injectively into this one.
    """

    natives: tuple[NativeSpace, ...] = ()

    def __post_init__(self) -> None:
        self.check("unified label space")
        owner: dict[Rgb, str] = {}
        for name, colour in zip(self.names, self.palette, strict=True):
            if colour in owner:
                raise ConfigError(
                    f"unified label space: '{owner[colour]}' and '{name}' share colour {colour}"
                )
            owner[colour] = name
        seen: set[str] = {UNIFIED}
        for native in self.natives:
            if native.name in seen:
                raise ConfigError(
                    f"label space '{native.name}': the name is taken; choose another"
                )
            seen.add(native.name)
            outside = [i for i in native.to_unified if not 0 <= i < self.num_classes]
            if outside:
                raise ConfigError(
                    f"label space '{native.name}': unified id {outside[0]} is outside "
                    f"[0, {self.num_classes - 1}]"
                )

    @cached_property
    def hash(self) -> str:
        """Fingerprint of what ids mean: sha256 hex over names and maps, its first 16 characters.

        Colours and file encodings are left out: repainting a class keeps checkpoints valid.
        """
        meaning = {
            "names": self.names,
            "natives": {native.name: [native.names, native.to_unified] for native in self.natives},
        }
        text = json.dumps(meaning, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def native(self, name: str) -> NativeSpace:
        """The data set's space of that name.

        Raises:
            ConfigError: when there is none.
        """
        for native in self.natives:
            if native.name == name:
                return native
        known = [native.name for native in self.natives]
        raise ConfigError(f"label space '{name}' is not known{did_you_mean(name, known)}")

    def unify(self, labels: NDArray[np.uint8], native_name: str) -> NDArray[np.uint8]:
        """Turns a data set's training ids into unified ids; void stays void.

        Args:
            labels: uint8, any shape.
            native_name: whose ids they are.

        Raises:
            DataError: when an id is outside the data set's table.
        """
        native = self.native(native_name)
        _check_ids(labels, native.num_classes, native_name)
        return np.take(_table(range(native.num_classes), native.to_unified), labels)

    def to_native(self, labels: NDArray[np.uint8], native_name: str) -> NDArray[np.uint8]:
        """Turns unified ids into a data set's training ids; classes it lacks become void.

        Raises:
            DataError: when an id is no unified id.
        """
        native = self.native(native_name)
        _check_ids(labels, self.num_classes, UNIFIED)
        return np.take(_table(native.to_unified, range(native.num_classes)), labels)

    def project_index(self, native_name: str) -> NDArray[np.int64]:
        """Columns that make a data set's logits: `logits[:, index]` (the paper's remap).

        Returns:
            int64 (num_classes of the data set,).
        """
        return np.asarray(self.native(native_name).to_unified, dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `LabelSpace.from_dict` reads them back to an equal space."""
        return {
            "names": list(self.names),
            "palette": [list(colour) for colour in self.palette],
            "natives": [_native_to_dict(native) for native in self.natives],
            "hash": self.hash,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSpace:
        """Reads what `to_dict` wrote.

        Raises:
            ConfigError: when entries are missing or wrong, or the hash is not that of the content.
        """
        try:
            space = cls(
                names=tuple(map(str, data["names"])),
                palette=_palette(data["palette"]),
                natives=tuple(_native_from_dict(entry) for entry in data["natives"]),
            )
            stated = data["hash"]
        except ConfigError:
            raise
        except KeyError as error:
            raise ConfigError(f"label space: entry {error} is missing") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"label space: {error}; expected what LabelSpace.to_dict writes"
            ) from None
        if stated != space.hash:
            raise ConfigError(
                f"label space: content hash is {space.hash} but {stated} is stated; "
                f"names or maps were changed since it was written"
            )
        return space


def unified_label_space(*extra: NativeSpace) -> LabelSpace:
    """The 71 unified classes with the paper's five data sets and, after them, `extra` ones."""
    return LabelSpace(UNIFIED_NAMES, UNIFIED_PALETTE, (*PUBLIC_SPACES, *extra))


def synthetic_label_space() -> LabelSpace:
    """The unified space with the project's rendered street scenes added (the demo's space)."""
    return unified_label_space(SYNTHETIC_STREET)


def joined_label_space(
    base: LabelSpace | None, spaces: Iterable[tuple[LabelSpace, str]]
) -> LabelSpace:
    """One label space for data sets whose own spaces belong to different ones; names decide.

    A class that `base` or an earlier data set has by name is shared, another one comes last. A
    data set of the same name with other classes in `base` is replaced.

    Args:
        base: the space to extend; None for the data sets' classes alone.
        spaces: label space and name of each data set, in their order; repeated ones count once.

    Returns:
        `base` itself where nothing is new.

    Raises:
        ConfigError: when two data sets of one name differ, or there are too many classes.
    """
    names = list(base.names) if base else []
    palette = list(base.palette) if base else []
    natives = {native.name: native for native in base.natives} if base else {}
    seen: dict[str, NativeSpace] = {}
    for space, native_name in spaces:
        native = space.native(native_name)
        for unified in native.to_unified:
            if space.names[unified] not in names:
                names.append(space.names[unified])
                palette.append(_free_colour(space.palette[unified], palette))
        places = tuple(names.index(space.names[unified]) for unified in native.to_unified)
        moved = replace(native, to_unified=places)
        if seen.setdefault(native_name, moved) != moved:
            raise ConfigError(
                f"data: two data sets of different classes are called '{native_name}'; give one "
                "of them another name"
            )
        natives[native_name] = moved
    if len(names) > MAX_CLASSES:
        own = "" if base is None else f", {base.num_classes} of them from before"
        raise ConfigError(
            f"data: {len(names)} classes in all{own}; ids have room for {MAX_CLASSES}; leave out "
            "what the data sets do not need (in a run file: classes: own)"
        )
    joined = LabelSpace(tuple(names), tuple(palette), tuple(natives.values()))
    return base if joined == base and base is not None else joined


def _free_colour(wanted: Rgb, taken: Sequence[Rgb]) -> Rgb:
    """The wanted colour, or one near it that nobody has."""
    colour, used, step = wanted, set(taken), 0
    while colour in used:
        step += 1
        red, green, blue = wanted
        colour = ((red + 37 * step) % 256, (green + 59 * step) % 256, (blue + 83 * step) % 256)
    return colour


def _table(ids: Iterable[int], values: Iterable[int]) -> NDArray[np.uint8]:
    table = np.full(256, VOID, dtype=np.uint8)
    for index, value in zip(ids, values, strict=True):
        table[index] = value
    return table


def _check_ids(labels: NDArray[np.uint8], num_classes: int, name: str) -> None:
    if labels.dtype != np.uint8:
        raise DataError(f"labels of '{name}': dtype {labels.dtype}; expected uint8")
    is_foreign = np.zeros(256, dtype=bool)
    is_foreign[num_classes:VOID] = True
    if np.take(is_foreign, labels).any():
        counts = np.bincount(labels.ravel(), minlength=256)[num_classes:VOID]
        first = int(np.flatnonzero(counts)[0])
        raise DataError(
            f"labels of '{name}': id {num_classes + first} ({counts[first]} pixels) is not in the "
            f"table of {num_classes} classes; is it the right data set, are file values made ids?"
        )


def _palette(rows: Iterable[Iterable[int]]) -> tuple[Rgb, ...]:
    palette = []
    for row in rows:
        red, green, blue = row
        palette.append((int(red), int(green), int(blue)))
    return tuple(palette)


def _native_to_dict(native: NativeSpace) -> dict[str, Any]:
    return {
        "name": native.name,
        "modality": native.modality.value if native.modality else None,
        "names": list(native.names),
        "palette": [list(colour) for colour in native.palette],
        "to_unified": list(native.to_unified),
        "file_offset": native.file_offset,
        "void_file_values": list(native.void_file_values),
    }


def _native_from_dict(data: Mapping[str, Any]) -> NativeSpace:
    modality = data["modality"]
    return NativeSpace(
        name=str(data["name"]),
        modality=None if modality is None else Modality(modality),
        names=tuple(map(str, data["names"])),
        palette=_palette(data["palette"]),
        to_unified=tuple(map(int, data["to_unified"])),
        file_offset=int(data["file_offset"]),
        void_file_values=tuple(map(int, data["void_file_values"])),
    )
