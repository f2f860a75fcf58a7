"""What is scored: opened splits of data sets, pooled where several make up one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.base.modality import Modality
from segrgbx_core.sensors import SensorConfig
from training.data.config import DataConfig
from training.data.datasets import READERS, Reader, open_reader, sensor_of, usual_modality
from training.data.datasets.synthetic import is_rendered
from training.eval.protocols import PROTOCOLS

PUBLISHED = "published"
"""Name for the split that published figures are for."""


@dataclass(frozen=True, eq=False)
class EvalSplit:
    """One opened split.

    Attributes:
        reader: its samples.
        data: key of `READERS`; empty where it is not known.
        split: its name; empty where it is not known.
        root: folder of the data set; None where it is not known.
        options: the data set's own options, in words.
        sensors: facts about its sensors, for the encoders; None for defaults.
    """

    reader: Reader
    data: str = ""
    split: str = ""
    root: Path | None = None
    options: str = ""
    sensors: SensorConfig | None = None

    @property
    def modality(self) -> Modality:
        """Its X."""
        return self.reader.modality

    @property
    def title(self) -> str:
        """Data set and modality, with "(synthetic)" where this project rendered it."""
        name = self.data or self.reader.native
        mark = " (synthetic)" if self.is_synthetic and "synthetic" not in name else ""
        return f"{name}{mark}, {self.modality.facts.title.lower()}"

    @property
    def folder(self) -> str:
        """Name of the data set's folder: tells pooled splits apart."""
        return self.root.name if self.root else ""

    @property
    def is_synthetic(self) -> bool:
        """True for scenes that this project rendered."""
        return is_rendered(self.reader.native, self.root)


def split_of(reader: Reader, sensors: SensorConfig | None = None) -> EvalSplit:
    """A reader that is already open, with what it says about itself.

    Args:
        reader: samples.
        sensors: facts about sensors, where the reader does not state them.
    """
    sensors = sensor_of(reader, sensors)
    describe = getattr(reader, "describe", None)
    if describe is None:
        return EvalSplit(reader, sensors=sensors)
    summary = describe()
    return EvalSplit(reader, "", summary.split, Path(summary.root), sensors=sensors)


def open_splits(
    name: str,
    roots: Sequence[str],
    split: str,
    modality: str = "",
    options: Mapping[str, Any] | None = None,
    sensors: SensorConfig | None = None,
) -> list[EvalSplit]:
    """Opens a split in one or several folders of one data set.

    Args:
        name: key of `READERS`.
        roots: folders.
        split: name of the split, or `PUBLISHED`.
        modality: by name; empty for the data set's usual one.
        options: the data set's own options, for every folder.
        sensors: facts about sensors, for readers that do not state them.

    Raises:
        ConfigError: when a name is not known.
        DataError: when files are missing.
    """
    if name not in READERS:
        raise ConfigError(f"data set '{name}' is not known{did_you_mean(name, READERS)}")
    if split == PUBLISHED:
        split = _published_split(name, "val")
    text = ", ".join(f"{key}={value}" for key, value in (options or {}).items())
    x = _modality(modality) if modality else usual_modality(name, roots[0])
    readers = [open_reader(name, root, split, x, options) for root in roots]
    return [
        EvalSplit(reader, name, split, Path(root), text, sensor_of(reader, sensors))
        for reader, root in zip(readers, roots, strict=True)
    ]


def open_splits_of_run(
    entries: Sequence[DataConfig], sensors: SensorConfig, split: str
) -> list[list[EvalSplit]]:
    """Opens a split of every data set of a run; entries of one data set and modality are pooled.

    Args:
        entries: the run's data sets.
        sensors: facts about sensors, for readers that do not state them.
        split: `val` and `train` mean each entry's `val_split` and `train_split`; `PUBLISHED`; any
            other is the name of a split that every data set must have.

    Raises:
        as `open_splits`.
    """
    pools: dict[tuple[str, Modality], list[EvalSplit]] = {}
    for entry in entries:
        opened = open_splits(
            entry.reader,
            [entry.root],
            _split_of_entry(entry, split),
            entry.modality,
            entry.options,
            sensors,
        )
        pools.setdefault((opened[0].reader.native, entry.modality), []).extend(opened)
    return list(pools.values())


def _modality(name: str) -> Modality:
    try:
        return Modality(name)
    except ValueError as error:
        raise ConfigError(f"modality '{name}' {error}") from None


def _split_of_entry(entry: DataConfig, split: str) -> str:
    named = {"val": entry.val_split, "train": entry.train_split}
    if split == PUBLISHED:
        return _published_split(entry.reader, entry.val_split)
    return named.get(split, split)


def _published_split(name: str, otherwise: str) -> str:
    native = getattr(READERS[name], "native", name)
    return PROTOCOLS[native].split if native in PROTOCOLS else otherwise
