"""From numpy images of any sizes to one batch of the model's tensors.

Legend: B samples, H W model input size. Arrays are H x W x C, tensors B x C x H x W.

RGB and X have their own resolutions and are assumed to show the same field of view, so both are
resized into the same rectangle of the model's input. `decode` does the inverse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array
from segrgbx_core.model.network import padded
from segrgbx_core.sensors import EncodingConfig, resamples_linearly, slot_of

RGB_BORDER = (124, 116, 104)
"""Fill around a letterboxed RGB image: ImageNet's mean, hence near zero after normalisation."""
_ROUNDING = 1e-5
"""Edges of windows that are nearer to a pixel's edge than this lie on it."""


class ResizeMode(str, Enum):
    """How an image of another aspect is fitted into the model's input."""

    STRETCH = "stretch"
    """Fills the input; the aspect changes."""
    LETTERBOX = "letterbox"
    """Keeps RGB's aspect, centred, with a border; X follows RGB's rectangle."""


class InputConfig(Config):
    """Size of the model's input."""

    height: int = option(512, doc="height of the model's input", unit="px", low=32, high=4096)
    width: int = option(512, doc="width of the model's input", unit="px", low=32, high=4096)
    resize_mode: ResizeMode = option(
        ResizeMode.STRETCH, doc="how images of another aspect are fitted in"
    )
    pad: bool = option(
        True,
        doc="inputs whose sides are no multiples of 32 px get a border below and to the right for "
        "the network; false in checkpoints of before, which were trained without it",
    )

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of what the network sees."""
        size = self.height, self.width
        return padded(size) if self.pad else size


@dataclass(frozen=True)
class Placement:
    """Rectangle of one sample in the model's input, and the size of its answer; in pixels.

    Attributes:
        rgb_height: rows of the RGB image, and as a rule of the answer.
        rgb_width: columns of the same.
    """

    top: int
    left: int
    height: int
    width: int
    rgb_height: int
    rgb_width: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Model inputs: images in memory order, and as float tensors through `rgb` and `x`.

    Attributes:
        rgb_pixels: uint8 (B, H, W, 3).
        x_pixels: X images, float32 (B, H, W, 3) in [0, 1].
        modality: int64 (B,), slot of each modality.
        placements: one per sample.
        border: rows below and columns to the right that are the border of `InputConfig.pad`.
    """

    rgb_pixels: Tensor
    x_pixels: Tensor
    modality: Tensor
    placements: tuple[Placement, ...]
    border: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.placements)

    @cached_property
    def rgb(self) -> Tensor:
        """RGB images, float32 (B, 3, H, W) in [0, 1]."""
        return rgb_tensor(self.rgb_pixels)

    @cached_property
    def x(self) -> Tensor:
        """X images, float32 (B, 3, H, W) in [0, 1]."""
        return self.x_pixels.permute(0, 3, 1, 2)

    @property
    def without_border(self) -> Batch:
        """The images alone, as MA-CLIP sees them; the batch itself where it has no border."""
        if self.border == (0, 0):
            return self
        rows, columns = (
            size - border
            for size, border in zip(self.rgb_pixels.shape[1:3], self.border, strict=True)
        )
        rgb_pixels, x_pixels = (
            part[:, :rows, :columns] for part in (self.rgb_pixels, self.x_pixels)
        )
        return Batch(rgb_pixels, x_pixels, self.modality, self.placements)

    def select(self, indices: Sequence[int]) -> Batch:
        """Some of the samples, in the order of `indices`; the batch itself where that is all."""
        if list(indices) == list(range(len(self))):
            return self
        # Not by an index tensor: copying it to a GPU would wait for the work queued there.
        rgb_pixels, x_pixels, modality = (
            torch.stack([part[index] for index in indices])
            for part in (self.rgb_pixels, self.x_pixels, self.modality)
        )
        placements = tuple(self.placements[index] for index in indices)
        return Batch(rgb_pixels, x_pixels, modality, placements, self.border)


class HostBuffers:
    """Host memory of batches, and their copy to one device. Not thread-safe.

    Copies to a GPU are asynchronous only from page-locked (pinned) memory, which must not be
    overwritten meanwhile: two sets of buffers alternate. On a CPU nothing is copied or kept.

    Args:
        device: destination of the batches.
        reuse: keep buffers and alternate between them; None: on a GPU only.
    """

    def __init__(self, device: torch.device, reuse: bool | None = None) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._reuses = self._is_cuda if reuse is None else reuse
        self._set = 0
        self._buffers: dict[tuple[int, str], Tensor] = {}
        self._copied: dict[int, torch.cuda.Event] = {}

    def begin_batch(self) -> None:
        """Switches to the other set; waits until its last copy has finished."""
        self._set = 1 - self._set
        if self._set in self._copied:
            self._copied[self._set].synchronize()

    def array(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> NDArray[np.generic]:
        """Uninitialised memory for one named part of the batch."""
        if not self._reuses:
            return torch.empty(shape, dtype=dtype).numpy()
        key = (self._set, name)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != shape or buffer.dtype != dtype:
            buffer = torch.empty(shape, dtype=dtype, pin_memory=self._is_cuda)
            self._buffers[key] = buffer
        return buffer.numpy()

    def to_device(self, *arrays: NDArray[np.generic]) -> list[Tensor]:
        """Tensors on the device; on a CPU they share the arrays' memory."""
        tensors = [torch.from_numpy(array) for array in arrays]
        if not self._is_cuda:
            return tensors
        copies = [tensor.to(self._device, non_blocking=True) for tensor in tensors]
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._copied[self._set] = event
        return copies


def rgb_tensor(pixels: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def make_batch(
    rgb_images: Sequence[NDArray[np.uint8]],
    x_images: Sequence[NDArray[np.float32]],
    modalities: Sequence[Modality],
    config: InputConfig,
    encoding: EncodingConfig | None = None,
    buffers: HostBuffers | None = None,
) -> Batch:
    """Resizes samples of any sizes into one batch.

    Args:
        rgb_images: uint8 (h, w, 3) each.
        x_images: float32 (h, w, 3) in [0, 1] each, of their own sizes.
        modalities: one per sample; decides how X is resampled.
        config: input size and resize mode.
        encoding: meaning of X's channels, which decides that too; None for the defaults.
        buffers: memory of the batch and its device; None allocates on the CPU.
    """
    buffers = buffers or HostBuffers(torch.device("cpu"))
    placements = tuple(place(image.shape[0], image.shape[1], config) for image in rgb_images)
    size = (len(placements), *config.canvas, 3)
    buffers.begin_batch()
    rgb = buffers.array("rgb", size, torch.uint8)
    x = buffers.array("x", size, torch.float32)
    index_array = buffers.array("modality", size[:1], torch.int64)
    rgb[:] = RGB_BORDER
    x[:] = 0
    drawn: dict[int, int] = {}  # fused pairs share one RGB image
    for index, (placement, modality) in enumerate(zip(placements, modalities, strict=True)):
        rows = slice(placement.top, placement.top + placement.height)
        columns = slice(placement.left, placement.left + placement.width)
        linear = resamples_linearly(modality, encoding)
        inner = placement.height, placement.width
        twin = drawn.setdefault(id(rgb_images[index]), index)
        if twin < index:
            rgb[index] = rgb[twin]
        else:
            rgb[index, rows, columns] = fit_to_model(rgb_images[index], *inner)
        x[index, rows, columns] = fit_to_model(x_images[index], *inner, linear)
        index_array[index] = slot_of(modality, encoding)
    rgb_pixels, x_pixels, modality_index = buffers.to_device(rgb, x, index_array)
    border = (size[1] - config.height, size[2] - config.width)
    return Batch(rgb_pixels, x_pixels, modality_index, placements, border)


def with_border(images: Tensor, colour: Sequence[int]) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with the border that `InputConfig.pad` gives a batch.

    Args:
        images: RGB or X.
        colour: of the border, of 255.
    """
    height, width = images.shape[-2:]
    canvas = padded((height, width))
    if canvas == (height, width):
        return images
    fill = images.new_tensor(colour)[:, None, None] / 255
    whole = fill.expand(len(images), 3, *canvas).clone()
    whole[..., :height, :width] = images
    return whole


def place(rgb_height: int, rgb_width: int, config: InputConfig) -> Placement:
    """The rectangle of an RGB image of this size in the model's input."""
    height, width = config.height, config.width
    if config.resize_mode is ResizeMode.LETTERBOX:
        scale = min(config.height / rgb_height, config.width / rgb_width)
        height = min(config.height, max(1, round(rgb_height * scale)))
        width = min(config.width, max(1, round(rgb_width * scale)))
    top, left = (config.height - height) // 2, (config.width - width) // 2
    return Placement(top, left, height, width, rgb_height, rgb_width)


@dataclass(frozen=True)
class Window:
    """A rectangle of an image in its pixels, fractions allowed; it may reach past the border.

    Attributes:
        top: first row, at least 0.
        left: first column, at least 0.
        height: rows.
        width: columns.
    """

    top: float
    left: float
    height: float
    width: float

    def scaled(self, rows: float, columns: float) -> Window:
        """The same part of an image that has so many times the rows and columns."""
        return Window(
            self.top * rows, self.left * columns, self.height * rows, self.width * columns
        )


def fit_to_model(
    image: Array,
    height: int,
    width: int,
    linear: bool = True,
    window: Window | None = None,
    fill: Sequence[float] = (0.0,),
) -> Array:
    """Draws an image, or a window of it, onto the model's grid in one resampling.

    The way of every RGB and X image to the model, in training and at run time: area average along
    an axis that shrinks, bilinear along one that grows, or the nearest pixel.

    Args:
        image: (h, w, C), uint8 or float32, at its own resolution.
        height: rows of the result.
        width: columns of the result.
        linear: False takes the nearest pixel, for images whose values must not be averaged.
        window: the part to draw; None draws all of it.
        fill: values beyond the image's border, one per channel or one for all.
    """
    if window is not None:
        spans = _span(window.top, window.height), _span(window.left, window.width)
        edges = window.top, window.top + window.height, window.left, window.left + window.width
        pixels = (spans[0].start, spans[0].stop, spans[1].start, spans[1].stop)
        if any(abs(edge - pixel) > _ROUNDING for edge, pixel in zip(edges, pixels, strict=True)):
            return _between_pixels(image, (height, width), window, linear, fill)
        image = _cut(image, *spans, fill)
    if image.shape[:2] == (height, width):
        return image
    shrinks = height < image.shape[0] or width < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    method = method if linear else cv2.INTER_NEAREST_EXACT
    fitted = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method)
    return fitted.reshape(height, width, image.shape[2])  # OpenCV drops a single channel


def _span(start: float, length: float) -> range:
    """Whole pixels that hold an interval; what is left of rounding is no fraction."""
    end = start + length
    return range(math.floor(start + _ROUNDING), math.ceil(end - _ROUNDING))


def _cut(image: Array, rows: range, columns: range, fill: Sequence[float]) -> Array:
    piece = image[rows.start : rows.stop, columns.start : columns.stop]
    if piece.shape[:2] == (len(rows), len(columns)):
        return piece
    whole = np.empty((len(rows), len(columns), image.shape[2]), image.dtype)
    whole[:] = fill
    whole[: piece.shape[0], : piece.shape[1]] = piece
    return whole


def _between_pixels(
    image: Array, size: tuple[int, int], window: Window, linear: bool, fill: Sequence[float]
) -> Array:
    """A window whose edges lie within pixels, which OpenCV cannot resize: one product per axis."""
    starts, extent = (window.top, window.left), (window.height, window.width)
    spans = [  # with the neighbours that bilinear weights reach
        range(max(0, span.start - 1), span.stop + (span.stop < pixels))
        for span, pixels in zip(map(_span, starts, extent), image.shape, strict=False)
    ]
    image = _cut(image, spans[0], spans[1], fill)
    offset = [start - span.start for start, span in zip(starts, spans, strict=True)]
    if not linear:
        rows, columns = (
            np.minimum((start + (np.arange(count) + 0.5) * length / count).astype(int), pixels - 1)
            for start, length, count, pixels in zip(
                offset, extent, size, image.shape[:2], strict=True
            )
        )
        return np.ascontiguousarray(image[rows[:, None], columns])
    values = image.astype(np.float32)
    for axis in (0, 1):
        weights = _weights(image.shape[axis], offset[axis], extent[axis], size[axis])
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    if image.dtype == np.uint8:
        values = values.round()
    return np.ascontiguousarray(values.clip(image.min(), image.max()).astype(image.dtype))


def _weights(pixels: int, start: float, length: float, count: int) -> NDArray[np.float32]:
    """What each pixel of an axis gives to each of `count` results, (count, pixels)."""
    step, places = length / count, np.arange(count)[:, None]
    if step > 1:  # the overlap of each result's interval with each pixel
        edges = np.arange(pixels)
        low = np.maximum(start + places * step, edges)
        high = np.minimum(start + (places + 1) * step, edges + 1)
        overlap = np.maximum(high - low, 0.0)
        return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    centres = np.clip(start + (places + 0.5) * step - 0.5, 0, pixels - 1)
    return np.maximum(0.0, 1.0 - np.abs(centres - np.arange(pixels))).astype(np.float32)
