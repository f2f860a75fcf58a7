"""Draft labels for frames that nobody has labelled: by a checkpoint, or by a public network.

Drafts are suggestions for an annotator to correct; a data set of uncorrected drafts teaches a
model the mistakes of another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import MAX_CLASSES, Rgb
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint
from segrgbx_core.runtime.exported import ExportedModel
from segrgbx_ros.config.node import NodeConfig
from segrgbx_ros.load_model import load_segmenter
from segrgbx_ros.pairing.published_labels import PairPredictor, pair_labels

Labels = NDArray[np.uint8]


class Drafter(Protocol):
    """Labels samples.

    Attributes:
        names: class names; the position is the id of drafts.
        palette: a colour per class.
    """

    names: Sequence[str]
    palette: Sequence[Rgb]

    def draft(self, sample: RgbxSample) -> Labels:
        """Label ids uint8 (H, W) on RGB's grid, `VOID` where there is no answer."""
        ...


class CheckpointDrafter:
    """Labels by a segrgbx checkpoint, as the node would publish them.

    Args:
        config: of the node, with the checkpoint; its section `label` says which classes.
        pair: name of the RGB-X pair.
    """

    def __init__(self, config: NodeConfig, pair: str) -> None:
        segmenter = load_segmenter(config)
        self.checkpoint: LoadedCheckpoint | ExportedModel = segmenter.checkpoint
        labels = pair_labels(config, segmenter)
        self._predictor = PairPredictor(segmenter, labels, config.label.min_confidence)
        self._pair = pair
        self._classes = labels[pair].classes
        self.names: Sequence[str] = self._classes.names
        self.palette: Sequence[Rgb] = self._classes.palette

    def draft(self, sample: RgbxSample) -> Labels:
        """See `Drafter.draft`."""
        return self._classes.positions(self._predictor.answer(sample, self._pair).labels)


class PublicDrafter:
    """Labels by any network for semantic segmentation in a folder of the library transformers.

    Args:
        folder: with `config.json`, `preprocessor_config.json` and weights; nothing is downloaded.

    Raises:
        CheckpointError: when the library or a file is missing, or it is another kind of network.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import torch  # noqa: PLC0415 - seconds, and only where such a network is asked for
            from transformers import (  # noqa: PLC0415
                AutoImageProcessor,
                AutoModelForSemanticSegmentation,
            )
        except ImportError as error:
            raise CheckpointError(
                f"{folder}: is a folder of the library transformers, which is not installed "
                f"({error}); pip install transformers, or name a segrgbx checkpoint"
            ) from None
        self._torch = torch
        try:
            self._processor: Any = AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True, use_fast=False
            )
            model: Any = AutoModelForSemanticSegmentation.from_pretrained(
                str(folder), local_files_only=True
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise CheckpointError(
                f"{folder}: is no network for semantic segmentation that transformers can load "
                f"({reason}); expected config.json, preprocessor_config.json and weights"
            ) from None
        self._model = model.eval()
        by_id = model.config.id2label
        if not 1 <= len(by_id) <= MAX_CLASSES:
            raise CheckpointError(f"{folder}: has {len(by_id)} classes; allowed: {MAX_CLASSES}")
        self.names: Sequence[str] = [str(by_id[number]) for number in range(len(by_id))]
        self.palette: Sequence[Rgb] = [(0, 0, 0)] * len(self.names)

    def draft(self, sample: RgbxSample) -> Labels:
        """See `Drafter.draft`; X is not looked at."""
        inputs = self._processor(images=sample.rgb, return_tensors="pt")
        with self._torch.inference_mode():
            outputs = self._model(**inputs)
        size = sample.rgb.shape[:2]
        [labels] = self._processor.post_process_semantic_segmentation(outputs, [size])
        ids = labels.cpu().numpy()
        return np.where((ids >= 0) & (ids < len(self.names)), ids, VOID).astype(np.uint8)


def open_drafter(place: str, config: NodeConfig, pair: str) -> Drafter:
    """What labels drafts: a folder of transformers, else a segrgbx checkpoint or exported model.

    Args:
        place: file or folder.
        config: of the node; `model.checkpoint` is `place` where that is no folder of transformers.
        pair: name of the RGB-X pair.

    Raises:
        CheckpointError: when it is neither, or cannot be used.
        ConfigError: when the checkpoint does not serve what `config` names.
    """
    folder = Path(place)
    if folder.is_dir() and (folder / "config.json").is_file():
        return PublicDrafter(folder)
    return CheckpointDrafter(config, pair)
