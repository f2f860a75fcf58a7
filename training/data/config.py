"""A run's data sets, as its run file states them."""

from __future__ import annotations

from typing import Any

from segrgbx_core.base.config import Config, PathText, option
from segrgbx_core.base.modality import Modality
from training.data.datasets import Reader, open_reader


class DataConfig(Config):
    """One data set of a run."""

    reader: str = option(doc="name of the data set, see training/data/datasets")
    root: PathText = option(doc="its folder")
    modality: Modality = option(doc="its X")
    train_split: str = option("train", doc="what to learn from")
    val_split: str = option("val", doc="what to score on while training")
    options: dict[str, Any] = option({}, doc="the data set's own options, such as weather")
    share: float = option(
        0.0, doc="share of the draws; 0 means by the run's sampling", low=0, high=1
    )

    def open(self, split: str) -> Reader:
        """Opens one split; see `open_reader` for errors."""
        return open_reader(self.reader, self.root, split, self.modality, self.options)
