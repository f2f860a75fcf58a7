"""Options of adding a modality, from the command line with defaults that suit a laptop's CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import Config, PathText, from_mapping, option, to_plain
from segrgbx_core.base.errors import ConfigError, did_you_mean
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.overrides import apply_overrides
from segrgbx_core.runtime.checkpoint import read_contract
from segrgbx_core.sensors import PICTURE, AddedModality
from training.data.augment import AugmentConfig
from training.data.config import DataConfig
from training.data.datasets import READERS
from training.data.datasets.dataset_file import FILE_NAME, read_dataset_file
from training.engine.config import RunConfig, merged
from training.engine.schedule import OptimizerConfig
from training.stage2.losses import LossConfig
from training.world.records import ADDED

AUTO = "auto"
CROP_SHARE = 0.75
"""Of the model's input, per side: crops of a third of its pixels less."""

_LOSS = {"class_weights": "inverse_root", "max_class_weight": 2.5, "points": 5120}
_OPTIMIZER = {
    "learning_rate": 0.01,
    "weight_decay": 0.0,
    "decay": "cosine",
    "clip_norm": 1.0,
    "ema_decay": 0.98,
}
_RUN = {
    "steps": 400,
    "batch_size": 8,
    "keep_frames": True,
    "score_every": 100,
    "save_every": 100,
    "pictures": 4,
}


class AddRun(Config):
    """One modality that is learned beside a frozen checkpoint."""

    checkpoint: PathText = option(doc="checkpoint that it is added to", affects_result=False)
    name: Modality = option(doc="what it is called in YAML, topics and reports")
    definition: AddedModality = option(AddedModality(), doc="encoder, range and unit of its X")
    data: tuple[DataConfig, ...] = option(doc="data sets")
    start: str = option(
        AUTO, doc="modality whose prompts and adapter it starts from; auto tries all"
    )
    knots: int = option(
        33,
        doc="rows of the curve that is learned (picture); 0 keeps the stated one",
        low=0,
        high=256,
    )
    curve_rate: float = option(
        0.3,
        doc="learning rate of the curve relative to that of prompts and adapter",
        low=0,
        high=1,
    )
    run: RunConfig = option(doc="length, place and bookkeeping")
    augment: AugmentConfig = option(AugmentConfig(), doc="training views")
    loss: LossConfig = option(LossConfig(), doc="the loss")
    optimizer: OptimizerConfig = option(OptimizerConfig(), doc="optimizer and learning rate")


def add_run(
    checkpoint: str, names: tuple[str, str], data: Sequence[str], out: str, changes: Sequence[str]
) -> AddRun:
    """The options of a command line.

    Args:
        checkpoint: path.
        names: of the modality and of its encoder; the second may be empty.
        data: `READER=FOLDER` each.
        out: the run's folder.
        changes: `a.b=value` each, above all defaults.

    Raises:
        ConfigError: for an option that is unknown or out of range, or a modality that the
            checkpoint has already.
        CheckpointError: when the checkpoint cannot be read.
    """
    contract = read_contract(checkpoint)
    modality = _new_name(names[0], contract.modalities)
    entries = [_entry(text, modality) for text in data]
    size = contract.input
    tree: dict[str, Any] = {
        "checkpoint": checkpoint,
        "name": modality.value,
        "data": entries,
        "definition": _stated(modality, entries),
        "augment": {
            "crop_height": max(32, round(size.height * CROP_SHARE)),
            "crop_width": max(32, round(size.width * CROP_SHARE)),
            "min_scale": 0.7,
            "max_scale": 1.4,
            "jitter": 0.3,
            "noise": 0.02,
            "drop_x": 0.05,
            "drop_rgb": 0.15,
        },
        "loss": dict(_LOSS),
        "optimizer": dict(_OPTIMIZER),
        "run": {"out": out, **_RUN},
    }
    if names[1]:
        tree["definition"]["encoder"] = names[1]
    tree["definition"]["slot"] = len(MODALITIES) + len(contract.encoding.added)
    run = from_mapping(AddRun, apply_overrides(tree, changes), "command line")
    known = (AUTO, *contract.modalities)
    if run.start not in known:
        raise ConfigError(
            f"start: '{run.start}' is not in the checkpoint{did_you_mean(run.start, known)}"
        )
    return run


def _new_name(name: str, served: Sequence[Modality]) -> Modality:
    try:
        modality = Modality(name)
    except ValueError as error:
        raise ConfigError(f"--name: '{name}' {error}") from None
    if modality in (*MODALITIES, *served):
        raise ConfigError(f"--name: the checkpoint has '{name}' already; choose another name")
    return modality


def _entry(text: str, modality: Modality) -> dict[str, Any]:
    reader, _, root = text.partition("=")
    if not root or reader not in READERS:
        raise ConfigError(
            f"--data: '{text}' is not READER=FOLDER with a reader of {', '.join(READERS)}"
        )
    return {"reader": reader, "root": root, "modality": modality.value}


def _stated(modality: Modality, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the data sets say of the modality's pictures: dataset.yaml, or the renderer."""
    stated: dict[str, Any] = {}
    for entry in entries:
        folder = Path(entry["root"]).expanduser()
        if entry["reader"] == "folder" and (folder / FILE_NAME).exists():
            picture = read_dataset_file(folder).config.picture
            stated = merged(stated, to_plain(picture) if picture else {})
        elif modality in ADDED:
            stated = merged(stated, to_plain(ADDED[modality]))
    return {"encoder": PICTURE, **stated}
