"""What the figures show: splits of a run's data sets, and the words about them."""

from __future__ import annotations

from collections.abc import Sequence

from segrgbx_core.base.errors import DataError
from segrgbx_core.runtime.checkpoint import Contract
from segrgbx_core.sensors import SensorConfig
from training.data.config import DataConfig
from training.eval.eval_data import EvalSplit, open_splits

SYNTHETIC_NOTE = "Synthetic scenes, rendered, no real camera."
MIXED_NOTE = "Data sets marked (synthetic) are rendered, without a real camera."


def open_figure_splits(
    entries: Sequence[DataConfig], sensors: SensorConfig, split: str = ""
) -> list[EvalSplit]:
    """The data sets of a run, each opened at one split.

    Args:
        entries: the run's data sets.
        sensors: facts about sensors, for readers that do not state them.
        split: its name; empty takes each data set's `val_split`.

    Raises:
        DataError: when a split has no samples or its files are missing.
    """
    splits = []
    for entry in entries:
        name = split or entry.val_split
        [opened] = open_splits(
            entry.reader, [entry.root], name, entry.modality, entry.options, sensors
        )
        if len(opened.reader) == 0:
            raise DataError(f"{entry.reader}: split {name} has no samples to show")
        splits.append(opened)
    return splits


def origin_note(splits: Sequence[EvalSplit], contracts: Sequence[Contract]) -> str:
    """Caveats about data and weights below a picture; empty where there are none."""
    notes = []
    if all(split.is_synthetic for split in splits):
        notes.append(SYNTHETIC_NOTE)
    elif any(split.is_synthetic for split in splits):
        notes.append(MIXED_NOTE)
    if all(contract.is_random for contract in contracts):
        notes.append("Untrained random weights.")
    elif any(contract.is_random for contract in contracts):
        notes.append("Columns marked (random) are untrained.")
    elif any(contract.provenance.get("ma_clip_weights") == "random" for contract in contracts):
        notes.append("MA-CLIP's tower is random.")
    return " ".join(notes)
