"""The project's rendered street scenes, as `python -m training.synthetic.render` writes them."""

from __future__ import annotations

from pathlib import Path
from segrgbx_core.errors import DataError
from segrgbx_core.modality import Modality
from training.datasets.labelled import Labelled


class SyntheticReader:
    """Rendered records of one folder; every record may hold any of the five modalities."""

    native = "synthetic_street"

    def __init__(self, root: Path, split: str, modality: Modality) -> None:
        self.modality = modality
        self._files = sorted((root / split).glob("*.npz"))
        if not self._files:
            raise DataError(f"{root / split}: holds no .npz records; render them first")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Labelled:
        raise NotImplementedError
