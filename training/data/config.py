"""A run's data sets, as its run file states them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segrgbx_core.base.config import Config, PathText, option
from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.sensors import EncodingConfig
from training.data.datasets import Reader, open_reader, usual_modality


class DataConfig(Config):
    """One data set of a run."""

    reader: str = option(doc="name of the data set, see training/data/datasets")
    root: PathText = option(doc="its folder", affects_result=False)
    modality: Modality = option(doc="its X; in a run file left out for the data set's usual one")
    train_split: str = option("train", doc="what to learn from")
    val_split: str = option("val", doc="what to score on while training")
    options: dict[str, Any] = option({}, doc="the data set's own options, such as weather")
    share: float = option(
        0.0, doc="share of the draws; 0 means by the run's sampling", low=0, high=1
    )

    def open(self, split: str) -> Reader:
        """Opens one split; see `open_reader` for errors."""
        return open_reader(self.reader, self.root, split, self.modality, self.options)


def require_paper_modalities(data: Sequence[DataConfig], encoding: EncodingConfig) -> None:
    """Refuses added modalities where whole models are trained, which have the paper's five.

    Raises:
        ConfigError: naming the modality.
    """
    added = [*(one.modality for one in data if one.modality.is_added), *encoding.added]
    if added:
        raise ConfigError(
            f"modality '{added[0]}' is none of the paper's five; train those, then add it to the "
            "checkpoint with python -m training.add_modality"
        )


def fill_modalities(run: dict[str, Any]) -> None:
    """States the X of data sets for which a run file does not.

    Args:
        run: plain values of a run file; changed in place.

    Raises:
        ConfigError: when a data set is not known, or its own description is wrong.
    """
    entries = run.get("data")
    if not isinstance(entries, list):
        return
    for entry in entries:
        if isinstance(entry, dict) and {"reader", "root"} <= entry.keys():
            entry["modality"] = entry.get("modality") or usual_modality(
                entry["reader"], entry["root"]
            )
