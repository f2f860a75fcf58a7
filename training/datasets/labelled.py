"""What every data set reader hands out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.modality import Modality
from segrgbx_core.samples import RgbxSample


@dataclass(frozen=True, eq=False)
class Labelled:
    """One annotated sample.

    Attributes:
        sample: RGB and X as the data set stores them.
        labels: uint8 (H, W) on RGB's grid, ids of the data set's own space, `VOID` unlabelled.
        name: file stem or the like, for messages and reports.
        groups: facts to score by, such as "night".
    """

    sample: RgbxSample
    labels: NDArray[np.uint8]
    name: str
    groups: tuple[str, ...] = ()


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
