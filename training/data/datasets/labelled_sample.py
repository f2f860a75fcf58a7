"""What every data set reader hands out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import (
    LabelSpace,
    joined_label_space,
    synthetic_label_space,
)
from segrgbx_core.sensors import SensorConfig


@dataclass(frozen=True, eq=False)
class Labelled:
    """One annotated sample.

    Attributes:
        sample: RGB and X as the data set stores them.
        labels: uint8 (H, W) on RGB's grid, ids of the data set's own space, `VOID` unlabelled.
        name: file stem or the like, for messages and reports.
        groups: facts to score by, such as "night".
        facts: what else is known of the scene, plain values such as fog; see `Record.meta`.
    """

    sample: RgbxSample
    labels: NDArray[np.uint8]
    name: str
    groups: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """Random access to one split of one data set.

    Attributes:
        native: name of the data set's label space.
        modality: its X.
    """

    native: str
    modality: Modality

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int) -> Labelled:
        """One sample.

        Raises:
            DataError: when a file is missing or broken.
        """
        ...


def sensor_of(reader: Reader, stated: SensorConfig | None) -> SensorConfig | None:
    """Properties of a data set's sensors, for encoders.

    Args:
        reader: its attribute `sensor` has precedence, where there is one.
        stated: what the run says, for readers that do not.
    """
    own: SensorConfig | None = getattr(reader, "sensor", None)
    return stated if own is None else own


def joined_space(readers: Iterable[Reader], base: LabelSpace | None) -> LabelSpace:
    """The label space of data sets that are learned together.

    Args:
        readers: the data sets. One with classes of its own says in an attribute `label_space` what
            the places of its native space refer to; the others belong to `synthetic_label_space`.
        base: classes and data sets to keep besides; None for none.

    Raises:
        ConfigError: when two data sets contradict each other, or there are too many classes.
    """
    common = synthetic_label_space()
    spaces = [(getattr(reader, "label_space", common), reader.native) for reader in readers]
    return joined_label_space(base, spaces)


def samples_text(reader: Reader) -> str:
    """What a split holds, in words: the number of samples and a fingerprint of their names.

    Two folders with the same samples have the same text, wherever they lie. Readers whose folder
    says what the samples mean state the fingerprint themselves, in an attribute `identity`.
    """
    names: Sequence[str] = getattr(reader, "ids", ())
    own = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] if names else ""
    mark: str = getattr(reader, "identity", own)
    return f"{len(reader)} samples{f' ({mark})' if mark else ''}"


def require_same_classes(reader: Reader, label_space: LabelSpace, where: str) -> None:
    """Refuses a data set whose classes differ from those of its name in a checkpoint.

    Args:
        reader: the data set.
        label_space: the checkpoint's.
        where: put before the message, such as the checkpoint's name.

    Raises:
        ConfigError: naming the first class that differs; also where the checkpoint does not know
            the data set at all.
    """
    known = label_space.native(reader.native).names
    own = joined_space([reader], None).native(reader.native).names
    if own == known:
        return
    place = next(
        (i for i, pair in enumerate(zip(own, known, strict=False)) if pair[0] != pair[1]), None
    )
    if place is None:
        difference = f"{len(own)} classes, not {len(known)}"
    else:
        difference = f"'{own[place]}' as class {place}, not '{known[place]}'"
    raise ConfigError(
        f"{where}: '{reader.native}' now has {difference}; score it on the data set that it was "
        "trained on, or fine-tune it to this one"
    )


def spread(size: int, count: int) -> list[int]:
    """At most `count` of the positions below `size`, evenly spread, ascending; 0 takes all."""
    return np.unique(np.linspace(0, size - 1, min(size, count or size)).astype(int)).tolist()
