"""The project's rendered street scenes, as `python -m training.synthetic.render` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segrgbx_core.errors import DataError
from segrgbx_core.modality import Modality
from segrgbx_core.samples import RgbxSample, XForm
from training.datasets.labelled import Labelled
from training.synthetic.records import Record
from training.synthetic.render import load_record

_ARRAYS = {
    Modality.EVENT: "events",
    Modality.THERMAL: "thermal",
    Modality.DEPTH: "depth",
    Modality.POLARIZATION: "polarization",
    Modality.LIGHT_FIELD: "light_field",
}


class SyntheticReader:
    """Records of one folder, `<root>/<split>/*.npz`; a record may hold several modalities.

    Groups are the time of day and the camera's failure, if any. Thermal counts are hundredths of a
    kelvin; polarization needs `sensor.polarization` with layout channels4 and full scale 4095.
    """

    native = "synthetic_street"

    def __init__(self, root: Path, split: str, modality: Modality) -> None:
        self.modality = modality
        self._files = sorted((root / split).glob("*.npz"))
        if not self._files:
            raise DataError(
                f"{root / split}: holds no .npz records; render them with "
                f"`python -m training.synthetic.render --out {root / split} --sensors {modality}`"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Labelled:
        path = self._files[index]
        record = load_record(path)
        sample = record_sample(record, self.modality, str(path))
        return Labelled(sample, record.labels, path.stem, record_groups(record))


def record_sample(record: Record, modality: Modality, place: str = "record") -> RgbxSample:
    """One modality of a record as a sensor sample.

    Raises:
        DataError: when the record was rendered without that modality.
    """
    x: Any = getattr(record, _ARRAYS[modality])
    if x is None:
        raise DataError(f"{place}: was rendered without {modality}; render it with --sensors all")
    if modality is Modality.LIGHT_FIELD and x.shape[0] == 1:
        x = x[0]
    return RgbxSample(
        rgb=np.ascontiguousarray(record.rgb),
        x=x,
        modality=modality,
        stamp_ns=record.x_stamp_ns,
        x_form=XForm.RAW,
    )


def record_groups(record: Record) -> tuple[str, ...]:
    """Facts to score by: time of day, and how a camera failed."""
    facts = [record.meta.get("time_of_day"), record.meta.get("corruption")]
    return tuple(str(fact) for fact in facts if fact and fact != "none")
