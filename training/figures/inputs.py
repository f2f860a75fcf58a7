"""What the figures show: frames of a run's data sets, spread evenly, and the words about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import Modality
from segrgbx_core.runtime.checkpoint import Contract
from segrgbx_core.sensors import SensorConfig
from training.data.datasets import Reader, sensor_of
from training.data.datasets.synthetic import is_rendered
from training.stage2.config import SegmentationRun

SYNTHETIC_NOTE = "Synthetic scenes, rendered, no real camera."
MIXED_NOTE = "Data sets marked (synthetic) are rendered, without a real camera."


@dataclass(frozen=True, eq=False)
class FigureSource:
    """One data set of a figure.

    Attributes:
        reader: the split that is shown.
        title: data set and modality, with "(synthetic)" where this project rendered it.
        split: name of the split.
        sensors: facts about its sensors, for the encoders.
        is_synthetic: True for scenes that this project rendered.
    """

    reader: Reader
    title: str
    split: str
    sensors: SensorConfig | None
    is_synthetic: bool

    @property
    def modality(self) -> Modality:
        """Its X."""
        return self.reader.modality


def open_figure_sources(config: SegmentationRun, split: str = "") -> list[FigureSource]:
    """The data sets of a run, each opened at one split.

    Args:
        config: the run.
        split: its name; empty takes each data set's `val_split`.

    Raises:
        DataError: when a split has no samples or its files are missing.
    """
    sources = []
    for data in config.data:
        chosen = split or data.val_split
        reader = data.open(chosen)
        if len(reader) == 0:
            raise DataError(f"{data.reader}: split {chosen} has no samples to show")
        is_synthetic = is_rendered(reader.native, Path(data.root))
        mark = "" if not is_synthetic or "synthetic" in data.reader else " (synthetic)"
        sources.append(
            FigureSource(
                reader=reader,
                title=f"{data.reader}{mark}, {data.modality.facts.title.lower()}",
                split=chosen,
                sensors=sensor_of(reader, config.sensor),
                is_synthetic=is_synthetic,
            )
        )
    return sources


def origin_note(sources: Sequence[FigureSource], contracts: Sequence[Contract]) -> str:
    """What a reader of the picture must know about data and weights; empty where nothing."""
    notes = []
    if all(source.is_synthetic for source in sources):
        notes.append(SYNTHETIC_NOTE)
    elif any(source.is_synthetic for source in sources):
        notes.append(MIXED_NOTE)
    if all(contract.is_random for contract in contracts):
        notes.append("Untrained random weights.")
    elif any(contract.is_random for contract in contracts):
        notes.append("Columns marked (random) are untrained.")
    elif any(contract.provenance.get("ma_clip_weights") == "random" for contract in contracts):
        notes.append("MA-CLIP's tower is random.")
    return " ".join(notes)
