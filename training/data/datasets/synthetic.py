"""The project's rendered street scenes, as `python -m training.world.render` writes them."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path

import numpy as np

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample, XForm
from segrgbx_core.labels.tables import SYNTHETIC_STREET
from training.data.datasets.labelled_sample import Labelled
from training.world.records import RECORD_SENSOR, Record, load_record, record_sample

RENDERED_MARK = "SYNTHETIC.txt"
"""File in the root of rendered scenes that lie in a public data set's layout."""


class XSource(str, Enum):
    """What stands in the place of X: the sensor's own data, or a control of an experiment."""

    OWN = "own"
    """What the sensor delivered."""
    NONE = "none"
    """Zeros, as a node gives the model where X is missing: the RGB-only model."""
    RGB = "rgb"
    """The RGB image once more: as many branches and weights, no new information."""
    OTHER = "other"
    """X of another scene of the split: what a model answers that only believes X."""


class SyntheticOptions(Config):
    """What serves as X."""

    x: XSource = option(XSource.OWN, doc="own, none (zeros), rgb (RGB twice) or other (scene)")


class SyntheticReader:
    """Records of one folder, `<root>/<split>/*.npz`; a record may hold several modalities.

    Groups are the time of day and the camera's failure, if any.
    """

    native = SYNTHETIC_STREET.name
    sequence_mark = "_"  # a record is named <seed>_<frame>, see `training.data.embeddings`
    options = SyntheticOptions
    sensor = RECORD_SENSOR

    def __init__(
        self,
        root: Path,
        split: str,
        modality: Modality,
        options: SyntheticOptions | None = None,
    ) -> None:
        self.modality = modality
        self._x = (options or SyntheticOptions()).x
        self._files = sorted((root / split).glob("*.npz"))
        if not self._files:
            raise DataError(
                f"{root / split}: holds no .npz records; render them with "
                f"`python -m training.world.render --out {root / split} --sensors {modality}`"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Labelled:
        path = self._files[index]
        wanted = {XSource.OWN: (self.modality,)}.get(self._x, ())
        record = load_record(path, wanted)
        if record.label_space != self.native:
            raise DataError(
                f"{path}: holds labels of '{record.label_space}', not '{self.native}'; rooms are "
                "read in the layout of NYUDepthV2, which `python -m "
                "training.data.datasets.export_rendered nyu` writes"
            )
        sample = self._sample(record, index)
        return Labelled(sample, record.labels, path.stem, record_groups(record), record.meta)

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the records."""
        return tuple(path.stem for path in self._files)

    def _sample(self, record: Record, index: int) -> RgbxSample:
        if self._x is XSource.OWN:
            return record_sample(record, self.modality, str(self._files[index]))
        if self._x is XSource.OTHER:
            # Half of the split away lies another scene, whatever the number of frames per scene.
            path = self._files[(index + len(self) // 2) % len(self)]
            other = record_sample(load_record(path, (self.modality,)), self.modality, str(path))
            return replace(other, rgb=np.ascontiguousarray(record.rgb))
        rgb = np.ascontiguousarray(record.rgb)
        x = rgb if self._x is XSource.RGB else np.zeros_like(rgb)
        return RgbxSample(rgb, x, self.modality, record.x_stamp_ns, x_form=XForm.IMAGE)


def mark_rendered(root: Path) -> None:
    """Marks a folder as rendered, so that no report takes its scenes for a public data set's."""
    text = (
        "Rendered by training.data.datasets.export_rendered; no sample of the public data set.\n"
    )
    (root / RENDERED_MARK).write_text(text, encoding="utf-8")


def is_rendered(native: str, root: Path | None = None) -> bool:
    """Whether samples were rendered by this project.

    Args:
        native: their label space.
        root: folder of the data set, which may be one above or one below the marked one.
    """
    if native == SYNTHETIC_STREET.name:
        return True
    if root is None:
        return False
    marks = (root / RENDERED_MARK, root.parent / RENDERED_MARK)
    return any(mark.exists() for mark in marks) or any(root.glob(f"*/{RENDERED_MARK}"))


def record_groups(record: Record) -> tuple[str, ...]:
    """Facts to score by: time of day, and how a camera failed."""
    groups = [record.meta.get("time_of_day"), record.meta.get("corruption")]
    return tuple(str(group) for group in groups if group and group != "none")
