"""Probabilities of all classes, for evaluation that averages several views of one frame.

`Segmenter.predict` answers each pixel with one class and is what runs on a vehicle. Averaging over
scales, mirrored copies and windows needs every class; it goes through the same engine, encoding,
input and interpolation.

Legend: B pairs, C classes, h w the logits' grid, H W the grid of an RGB image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import UNIFIED
from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch, InputConfig, Placement, make_batch
from segrgbx_core.runtime.decode import rgb_axes
from segrgbx_core.runtime.devices import flushed_denormals
from segrgbx_core.runtime.pinned_buffers import Staging
from segrgbx_core.runtime.segmenter import Segmenter
from segrgbx_core.sensors import encode


@dataclass(frozen=True, eq=False)
class EncodedPair:
    """A frame, or a part of one, as the model gets it.

    Attributes:
        rgb: uint8 (H, W, 3).
        x_image: float32 (h, w, 3) in [0, 1], of the same field of view.
        modality: of X.
    """

    rgb: NDArray[np.uint8]
    x_image: NDArray[np.float32]
    modality: Modality


class Probabilities:
    """A segmenter that tells the probabilities of all its classes. One thread at a time.

    Args:
        segmenter: whose engine, encoding, input and label space are used; it stays usable.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._staging = Staging(segmenter.device)
        self._columns: Tensor | None = None
        if segmenter.classes.space != UNIFIED:
            columns = segmenter.label_space.project_index(segmenter.classes.space)
            self._columns = torch.from_numpy(columns).to(segmenter.device)

    def encoded(self, sample: RgbxSample) -> EncodedPair:
        """A sample with the X image that `Segmenter.predict` makes of it.

        Raises:
            EncodingError: when X does not fit its modality.
            CheckpointError: when the modality was not trained.
            ConfigError: when another modality's LoRA is merged.
        """
        segmenter = self.segmenter
        segmenter.require(sample.modality)
        x_image = encode(sample, segmenter.contract.encoding, segmenter.sensors)
        return EncodedPair(sample.rgb, x_image, sample.modality)

    @torch.inference_mode()
    def look(self, pairs: Sequence[EncodedPair], size: tuple[int, int] | None = None) -> Scene:
        """What MA-CLIP, prompts and refinement make of whole frames, for all views of them.

        Args:
            pairs: whole frames.
            size: (height, width) in which the model sees them; None for the segmenter's input.

        Raises:
            ConfigError: when the size is out of range.
        """
        batch = self._batch(pairs, self._input(size))
        with flushed_denormals():
            return self.segmenter.engine.scene(batch)

    @torch.inference_mode()
    def of(
        self,
        pairs: Sequence[EncodedPair],
        scene: Scene | None = None,
        size: tuple[int, int] | None = None,
    ) -> list[Tensor]:
        """Probabilities on the RGB grids.

        Args:
            pairs: frames or parts of them.
            scene: one entry per pair, from `look`; None looks at the pairs themselves.
            size: (height, width) in which the model sees them; None for the segmenter's input.

        Returns:
            per pair float32 (C, H, W) on the device, summing to 1 over C; NaN where the model gave
            no numbers.

        Raises:
            ConfigError: when the size is out of range.
        """
        config = self._input(size)
        batch = self._batch(pairs, config)
        with flushed_denormals():
            scene = self.segmenter.engine.scene(batch) if scene is None else scene
            logits = self.segmenter.engine.logits(batch, scene)
        if self._columns is not None:
            logits = logits.index_select(1, self._columns)
        return [
            _on_rgb(coarse.float(), spot, config)
            for coarse, spot in zip(logits, batch.placements, strict=True)
        ]

    def _input(self, size: tuple[int, int] | None) -> InputConfig:
        own = self.segmenter.input
        if size is None:
            return own
        asked = {"height": size[0], "width": size[1], "resize_mode": own.resize_mode}
        return from_mapping(InputConfig, asked, where="size of a view")

    def _batch(self, pairs: Sequence[EncodedPair], config: InputConfig) -> Batch:
        rgb, x = [pair.rgb for pair in pairs], [pair.x_image for pair in pairs]
        modalities, encoding = [pair.modality for pair in pairs], self.segmenter.contract.encoding
        return make_batch(rgb, x, modalities, config, self._staging, encoding)


def _on_rgb(logits: Tensor, spot: Placement, config: InputConfig) -> Tensor:
    """Coarse logits (C, h, w) to probabilities (C, H, W)."""
    is_number = logits.isfinite().all(dim=0)  # (h, w)
    axes = rgb_axes(logits, spot, (config.height, config.width))
    rows, columns = axes[0].weights, axes[1].weights.T
    probabilities = (rows @ logits.nan_to_num(0.0, 0.0, 0.0) @ columns).softmax(dim=0)
    is_broken = rows @ (~is_number).float() @ columns > 0
    return probabilities.masked_fill_(is_broken, float("nan"))
