"""What is scored: readers of data sets by split, pooled where several make up one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.sensors import SensorConfig
from training.data.config import DataConfig
from training.data.datasets import READERS, Reader, open_reader
from training.eval.protocols import PROTOCOLS

PUBLISHED = "published"
"""Split that means the one which published figures are for."""


@dataclass(frozen=True, eq=False)
class Source:
    """One opened split.

    Attributes:
        reader: its samples.
        split: its name; empty where nobody said.
        root: folder of the data set; None where nobody said.
        options: the data set's own options, in words.
        sensors: facts about its sensors, where the reader does not state them.
    """

    reader: Reader
    split: str = ""
    root: Path | None = None
    options: str = ""
    sensors: SensorConfig | None = None

    @property
    def name(self) -> str:
        """The folder's name: tells pooled sources apart."""
        return self.root.name if self.root else ""


def source_of(reader: Reader, sensors: SensorConfig | None = None) -> Source:
    """A reader that is already open, with what it says about itself."""
    describe = getattr(reader, "describe", None)
    if describe is None:
        return Source(reader, sensors=sensors)
    facts = describe()
    return Source(reader, facts.split, Path(facts.root), sensors=sensors)


def open_sources(
    name: str,
    roots: Sequence[str],
    split: str,
    kind: str = "",
    options: Mapping[str, Any] | None = None,
    sensors: SensorConfig | None = None,
) -> list[Source]:
    """Opens a split in one or several folders of one data set.

    Args:
        name: key of `READERS`.
        roots: folders.
        split: name of the split, or `PUBLISHED`.
        kind: modality by name; empty for the data set's usual one.
        options: the data set's own options, for every folder.
        sensors: facts about sensors, for readers that do not state them.

    Raises:
        ConfigError: when a name is not known.
        DataError: when files are missing.
    """
    if name not in READERS:
        raise ConfigError(f"data set '{name}' is not known{did_you_mean(name, READERS)}")
    if split == PUBLISHED:
        split = _published(name, "val")
    text = ", ".join(f"{key}={value}" for key, value in (options or {}).items())
    chosen = modality(kind) if kind else _usual(name)
    return [
        Source(open_reader(name, root, split, chosen, options), split, Path(root), text, sensors)
        for root in roots
    ]


def sources_of_run(
    entries: Sequence[DataConfig], sensors: SensorConfig, split: str
) -> list[list[Source]]:
    """Opens a split of every data set of a run; entries of one data set and modality are pooled.

    Args:
        entries: the run's data sets.
        sensors: facts about sensors, for readers that do not state them.
        split: `val` and `train` mean each entry's `val_split` and `train_split`; `PUBLISHED`; any
            other is the name of a split that every data set must have.

    Raises:
        as `open_sources`.
    """
    pools: dict[tuple[str, Modality], list[Source]] = {}
    for data in entries:
        named = _split_of(data, split)
        [source] = open_sources(
            data.reader, [data.root], named, data.modality, data.options, sensors
        )
        pools.setdefault((source.reader.native, data.modality), []).append(source)
    return list(pools.values())


def modality(name: str) -> Modality:
    """The modality of that name.

    Raises:
        ConfigError: when there is none.
    """
    try:
        return Modality(name)
    except ValueError:
        raise ConfigError(
            f"modality '{name}' is not one of {', '.join(map(str, Modality))}"
        ) from None


def _usual(name: str) -> Modality:
    offered: Sequence[Modality] = getattr(READERS[name], "modalities", MODALITIES)
    if len(offered) == len(MODALITIES):
        return Modality.THERMAL  # rendered scenes have all; the demo's is thermal
    return offered[0]


def _split_of(data: DataConfig, split: str) -> str:
    named = {"val": data.val_split, "train": data.train_split}
    if split == PUBLISHED:
        return _published(data.reader, data.val_split)
    return named.get(split, split)


def _published(name: str, otherwise: str) -> str:
    native = getattr(READERS[name], "native", name)
    return PROTOCOLS[native].split if native in PROTOCOLS else otherwise
