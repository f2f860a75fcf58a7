"""Test-time augmentation: sizes, mirrored copies and windows of a frame, averaged.

Without it a frame is seen once, whole, in the model's input size, as on a vehicle. Published
figures often average over scales, mirrored copies or overlapping windows. The average is that of
softmax probabilities on the grid of RGB; whatever the view, MA-CLIP sees whole frames, as at run
time.

Legend: B pairs, C classes, h w the logits' grid, H W the grid of an RGB image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import field_validator
from torch import Tensor

from segrgbx_core.base.config import Config, from_mapping, option
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import UNIFIED, VOID
from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import (
    Batch,
    HostBuffers,
    InputConfig,
    Placement,
    fit_to_model,
    make_batch,
)
from segrgbx_core.runtime.decode import rgb_interpolation
from segrgbx_core.runtime.devices import flushed_denormals
from segrgbx_core.runtime.scene_cache import join_scenes, split_scene
from segrgbx_core.runtime.segmenter import Segmenter
from segrgbx_core.sensors import EncodingConfig, encode, flip_horizontally, resamples_linearly

_MULTIPLE = 32
"""Total stride of the encoder: input sides that are multiples leave no ragged last cell."""


class Fit(str, Enum):
    """How a frame gets into the model's input."""

    WHOLE = "whole"
    """Whole, in the model's input size, as on a vehicle."""
    ASPECT = "aspect"
    """Whole, its short side as long as the input's, in its own aspect: scale 1 of what training
    with `augment.scale_of: crop` saw."""
    NATIVE = "native"
    """Whole, in its own resolution, each side up to a multiple of 32."""
    WINDOW = "window"
    """Part by part: windows of the model's input size slide over it in its own resolution."""


class TtaConfig(Config):
    """Which views of a frame are averaged."""

    fit: Fit = option(
        Fit.WHOLE,
        doc="whole: frames in the model's input size; aspect: their short side as long as the "
        "input's; native: in their own resolution; window: "
        "windows of the input size over their own resolution",
    )
    scales: tuple[float, ...] = option(
        (1.0,), doc="sizes of frames (whole: of the input) that are averaged, as factors"
    )
    flip: bool = option(False, doc="average with the mirrored frame")
    stride: float = option(
        2 / 3, doc="step between windows, as a share of the window", low=0.1, high=1
    )

    @field_validator("scales")
    @classmethod
    def _check_scales(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if not scales or not all(0.1 <= scale <= 4 for scale in scales):
            raise ValueError("scales are one or more factors in [0.1, 4], such as [0.75, 1, 1.25]")
        return scales

    @property
    def is_single_pass(self) -> bool:
        """True where each frame is seen once, as by `Segmenter.predict`."""
        return self.fit is Fit.WHOLE and self.scales == (1.0,) and not self.flip

    def text(self, height: int, width: int) -> str:
        """The views in words.

        Args:
            height: rows of the model's input.
            width: its columns.
        """
        size = f"{width}x{height}"
        words = {
            Fit.WHOLE: f"whole frames at {size}",
            Fit.ASPECT: f"whole frames, short side {min(height, width)}, own aspect",
            Fit.NATIVE: "whole frames at native resolution",
            Fit.WINDOW: f"windows {size}, stride {self.stride:.2g}",
        }[self.fit]
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        words += f", scales {scales}" if self.scales != (1.0,) else ", single scale"
        return f"{words}, mirrored too" if self.flip else words


SINGLE_PASS = TtaConfig()


@dataclass(frozen=True)
class _Window:
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pair: EncodedPair) -> EncodedPair:
        """That part of a pair whose X lies on RGB's grid."""
        rows = slice(self.top, self.top + self.height)
        columns = slice(self.left, self.left + self.width)
        return replace(pair, rgb=pair.rgb[rows, columns], x_image=pair.x_image[rows, columns])


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


class ClassProbabilities:
    """The probabilities of all classes, where `Segmenter.predict` gives one class per pixel.

    Goes through the same engine, encoding, input and interpolation. Not thread-safe.

    Args:
        segmenter: whose engine, encoding, input and label space are used; it stays usable.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._buffers = HostBuffers(segmenter.device)
        self._columns: Tensor | None = None
        if segmenter.classes.space != UNIFIED:
            columns = segmenter.label_space.project_index(segmenter.classes.space)
            self._columns = torch.from_numpy(columns).to(segmenter.device)

    def encode(self, sample: RgbxSample) -> EncodedPair:
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
    def encode_scene(
        self, pairs: Sequence[EncodedPair], size: tuple[int, int] | None = None
    ) -> Scene:
        """The outputs of MA-CLIP, prompts and refinement for whole frames, shared by all views.

        Args:
            pairs: whole frames.
            size: (height, width) in which the model sees them; None for the segmenter's input.

        Raises:
            ConfigError: when the size is out of range.
        """
        batch = self._batch(pairs, self._input(size))
        with flushed_denormals():
            return self.segmenter.engine.encode_scene(batch)

    @torch.inference_mode()
    def probabilities(
        self,
        pairs: Sequence[EncodedPair],
        scene: Scene | None = None,
        size: tuple[int, int] | None = None,
    ) -> list[Tensor]:
        """Probabilities on the RGB grids.

        Args:
            pairs: frames or parts of them.
            scene: one entry per pair, from `encode_scene`; None: of the pairs.
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
            scene = self.segmenter.engine.encode_scene(batch) if scene is None else scene
            logits = self.segmenter.engine.coarse_logits(batch, scene)
        if self._columns is not None:
            logits = logits.index_select(1, self._columns)
        return [
            _on_rgb_grid(coarse.float(), placement, config)
            for coarse, placement in zip(logits, batch.placements, strict=True)
        ]

    def _input(self, size: tuple[int, int] | None) -> InputConfig:
        own = self.segmenter.input
        if size is None:
            return own
        options = {
            "height": size[0],
            "width": size[1],
            "resize_mode": own.resize_mode,
            "pad": own.pad,
        }
        return from_mapping(InputConfig, options, where="size of a view")

    def _batch(self, pairs: Sequence[EncodedPair], config: InputConfig) -> Batch:
        rgb, x = [pair.rgb for pair in pairs], [pair.x_image for pair in pairs]
        modalities, encoding = [pair.modality for pair in pairs], self.segmenter.contract.encoding
        return make_batch(rgb, x, modalities, config, encoding, self._buffers)


class TtaSegmenter:
    """Segments samples by the average over their views.

    Args:
        segmenter: segments each view.
        config: which views.
        batch_size: windows per forward pass.
    """

    def __init__(self, segmenter: Segmenter, config: TtaConfig, batch_size: int = 4) -> None:
        self._classes = ClassProbabilities(segmenter)
        self._segmenter, self._config, self._batch_size = segmenter, config, batch_size

    @torch.inference_mode()
    def labels(self, sample: RgbxSample) -> NDArray[np.uint8]:
        """The most probable classes, uint8 (H, W); `VOID` where logits are not finite.

        Raises:
            as `Segmenter.predict`.
        """
        mean = self.probabilities(sample)
        labels = mean.argmax(dim=0).to(torch.uint8)
        labels.masked_fill_(mean.isnan().any(dim=0), VOID)
        return labels.cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, sample: RgbxSample) -> Tensor:
        """Mean probabilities, float32 (C, H, W) on the segmenter's device.

        Raises:
            as `Segmenter.predict`.
        """
        config = self._config
        pairs = [self._classes.encode(sample)]
        if config.flip:
            pairs.append(self._mirrored(pairs[0]))
        height, width = sample.rgb.shape[:2]
        native = _up(height), _up(width)
        scene = self._classes.encode_scene(pairs, native if config.fit is Fit.NATIVE else None)
        total: Tensor | None = None
        for scale in config.scales:
            if config.fit is Fit.WINDOW:
                answers = self._windowed(pairs, scene, scale)
            else:
                size = self._size((height, width), scale)
                answers = self._classes.probabilities(pairs, scene, size)
            for position, answer in enumerate(answers):
                answer = answer.flip(-1) if position else answer  # the second pair is mirrored
                total = answer if total is None else total.add_(answer)
        assert total is not None, "a config has at least one scale"
        return total.div_(len(config.scales) * len(pairs))

    def _mirrored(self, pair: EncodedPair) -> EncodedPair:
        encoding = self._segmenter.contract.encoding
        x_image = flip_horizontally(pair.x_image, pair.modality, encoding)
        return replace(pair, rgb=np.ascontiguousarray(pair.rgb[:, ::-1]), x_image=x_image)

    def _size(self, frame: tuple[int, int], scale: float) -> tuple[int, int] | None:
        """Input size at a scale; None for the segmenter's own, which need be no multiple of 32."""
        own = self._segmenter.input
        height, width = own.height, own.width
        if self._config.fit is Fit.NATIVE:
            height, width = _up(frame[0]), _up(frame[1])
        elif self._config.fit is Fit.ASPECT:
            scale *= min(height, width) / min(frame)
            height, width = frame
            if own.pad:  # padding brings it to multiples of 32, the aspect stays
                return round(height * scale), round(width * scale)
        elif scale == 1:
            return None
        return _up(height * scale), _up(width * scale)

    def _windowed(self, pairs: Sequence[EncodedPair], scene: Scene, scale: float) -> list[Tensor]:
        """Per pair the mean over windows, (C, H, W)."""
        height, width = pairs[0].rgb.shape[:2]
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        encoding = self._segmenter.contract.encoding
        scaled = [_resized(pair, rows, columns, encoding) for pair in pairs]
        windows = self._windows(rows, columns)
        side = (windows[0].height, windows[0].width)
        size = None if side == self._input_size else (_up(side[0]), _up(side[1]))
        scenes = split_scene(scene, len(pairs))
        visits = torch.zeros(rows, columns, device=self._segmenter.device)
        sums: list[Tensor] = []
        for window in windows:
            _part(visits, window).add_(1)
        jobs = [(position, window) for position in range(len(pairs)) for window in windows]
        for start in range(0, len(jobs), self._batch_size):
            chunk = jobs[start : start + self._batch_size]
            parts = [window.of(scaled[position]) for position, window in chunk]
            parts_scene = join_scenes([scenes[position] for position, _ in chunk])
            answers = self._classes.probabilities(parts, parts_scene, size)
            for (position, window), answer in zip(chunk, answers, strict=True):
                if position == len(sums):
                    sums.append(answer.new_zeros(len(answer), rows, columns))
                _part(sums[position], window).add_(answer)
        means = [total.div_(visits) for total in sums]
        if (rows, columns) == (height, width):
            return means
        return [
            F.interpolate(mean[None], (height, width), mode="bilinear", align_corners=False)[0]
            for mean in means
        ]

    @property
    def _input_size(self) -> tuple[int, int]:
        return self._segmenter.input.height, self._segmenter.input.width

    def _windows(self, rows: int, columns: int) -> list[_Window]:
        """Windows that cover a frame; one that is smaller than the input is its own window."""
        height, width = min(self._input_size[0], rows), min(self._input_size[1], columns)
        return [
            _Window(top, left, height, width)
            for top in window_starts(rows, height, self._config.stride)
            for left in window_starts(columns, width, self._config.stride)
        ]


def _on_rgb_grid(logits: Tensor, placement: Placement, config: InputConfig) -> Tensor:
    """Coarse logits (C, h, w) to probabilities (C, H, W)."""
    is_number = logits.isfinite().all(dim=0)  # (h, w)
    axes = rgb_interpolation(logits, placement, config.canvas)
    rows, columns = axes[0].weights, axes[1].weights.T
    probabilities = (rows @ logits.nan_to_num(0.0, 0.0, 0.0) @ columns).softmax(dim=0)
    is_broken = rows @ (~is_number).float() @ columns > 0
    return probabilities.masked_fill_(is_broken, float("nan"))


def window_starts(length: int, window: int, stride: float) -> list[int]:
    """First pixels of windows that cover a side; the last one ends with it.

    Args:
        length: pixels of the side.
        window: pixels of a window, at most `length`.
        stride: step as a share of the window.
    """
    step = max(1, math.ceil(window * stride))
    return [*range(0, length - window, step), length - window]


def _part(grid: Tensor, window: _Window) -> Tensor:
    """The view of (..., H, W) that a window covers."""
    rows = slice(window.top, window.top + window.height)
    return grid[..., rows, window.left : window.left + window.width]


def _resized(pair: EncodedPair, rows: int, columns: int, encoding: EncodingConfig) -> EncodedPair:
    """A pair with RGB and X on one grid."""
    linear = resamples_linearly(pair.modality, encoding)
    return replace(
        pair,
        rgb=np.asarray(fit_to_model(pair.rgb, rows, columns), np.uint8),
        x_image=np.asarray(fit_to_model(pair.x_image, rows, columns, linear), np.float32),
    )


def _up(side: float) -> int:
    """A side in pixels, up to a multiple of the encoder's stride."""
    return _MULTIPLE * max(1, math.ceil(round(side, 6) / _MULTIPLE))
