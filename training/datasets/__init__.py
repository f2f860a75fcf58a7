"""Where data sets lie on disk and what their samples are; nothing about augmentation or models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segrgbx_core.errors import ConfigError, did_you_mean
from segrgbx_core.modality import Modality
from training.datasets.labelled import Labelled, Reader
from training.datasets.synthetic import SyntheticReader

__all__ = ["READERS", "Labelled", "Reader", "open_reader"]

READERS: dict[str, Callable[[Path, str, Modality], Reader]] = {"synthetic_street": SyntheticReader}
"""Name of a data set to what opens it: root folder, split, modality."""


def open_reader(name: str, root: Path | str, split: str, modality: Modality) -> Reader:
    """Opens one split of a data set.

    Raises:
        ConfigError: when the data set is not known or has no such split.
        DataError: when its files are missing.
    """
    if name not in READERS:
        raise ConfigError(f"data set '{name}' is not known{did_you_mean(name, READERS)}")
    return READERS[name](Path(root), split, modality)
