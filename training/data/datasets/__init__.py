"""Where data sets lie on disk and what their samples are; nothing about augmentation or models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.base.modality import MODALITIES, Modality
from training.data.datasets.deliver import DeliverReader
from training.data.datasets.file_reader import FileReader
from training.data.datasets.folder import FolderReader
from training.data.datasets.labelled_sample import (
    Labelled,
    Reader,
    joined_space,
    require_same_classes,
    samples_text,
    sensor_of,
    spread,
)
from training.data.datasets.mfnet import MfnetReader
from training.data.datasets.nyu import NyuReader
from training.data.datasets.synthetic import SyntheticReader
from training.data.datasets.urbanlf import UrbanLfReader
from training.data.datasets.zju_rgbp import ZjuReader

__all__ = [
    "READERS",
    "Labelled",
    "Reader",
    "joined_space",
    "open_reader",
    "require_same_classes",
    "samples_text",
    "sensor_of",
    "spread",
    "usual_modality",
]

READERS: dict[str, Callable[..., Reader]] = {
    "deliver": DeliverReader,
    "folder": FolderReader,
    "mfnet": MfnetReader,
    "nyu": NyuReader,
    "synthetic_street": SyntheticReader,
    "urbanlf": UrbanLfReader,
    "zju_rgbp": ZjuReader,
}
"""Name of a data set to what opens it: root folder, split, modality, and its options if any."""


def open_reader(
    name: str,
    root: Path | str,
    split: str,
    modality: Modality,
    options: Mapping[str, Any] | None = None,
) -> Reader:
    """Opens one split of a data set.

    Args:
        name: key of `READERS`.
        root: folder of the data set.
        split: train, val or test, as far as the data set has them.
        modality: its X.
        options: the data set's own options by name, such as `{"weather": ["rain"]}`.

    Raises:
        ConfigError: when the data set is not known, or has no such split or option.
        DataError: when its files are missing.
    """
    if name not in READERS:
        raise ConfigError(f"data set '{name}' is not known{did_you_mean(name, READERS)}")
    opens = READERS[name]
    if not options:
        return opens(Path(root), split, modality)
    known = getattr(opens, "options", None)
    if known is None:
        raise ConfigError(f"data set '{name}' has no options; got {', '.join(options)}")
    return opens(Path(root), split, modality, from_mapping(known, options, f"data set '{name}'"))


def usual_modality(name: str, root: Path | str) -> Modality:
    """The X of a data set that nobody asked for another one.

    Raises:
        ConfigError: when the data set is not known, or its own description is wrong.
    """
    if name not in READERS:
        raise ConfigError(f"data set '{name}' is not known{did_you_mean(name, READERS)}")
    opens = READERS[name]
    if isinstance(opens, type) and issubclass(opens, FileReader):
        return opens.offered(Path(root))[1][0]
    offered: Sequence[Modality] = getattr(opens, "modalities", MODALITIES)
    # Rendered scenes have all; the demo's is thermal.
    return Modality.THERMAL if len(offered) == len(MODALITIES) else offered[0]
