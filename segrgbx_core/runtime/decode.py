"""From coarse logits to label and confidence images on the RGB grids, in one bilinear step.

Legend: C classes, K candidates, h w the logits' grid, H W the RGB grid, R C one tile of it.

On a CPU this would cost as much as a small network if every class were interpolated to camera
resolution. Bilinear weights are positive and sum to one, so a class that is below another one at
all four corners of a cell is below it everywhere inside. Classes for which this holds in every
cell cannot be published; together they are one channel, the logarithm of the sum of their
exponentials, which only the confidence needs (`_candidates`).
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segrgbx_core.base.errors import ModelOutputError
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.runtime.batch import Placement
from segrgbx_core.runtime.options import ConfidenceKind

CPU_TILE = 1 << 18
GPU_TILE = 1 << 27
"""Logits decoded at a time: a CPU core's cache; half a gigabyte on a GPU."""
_COLUMNS = 16
"""Coarse columns of a tile on a CPU: few, because interpolation is a product with a matrix."""
_MARGIN = -2.0
"""A class that is always this far below another one is no candidate.

Zero would do for the labels. The margin is for the confidence: interpolating the joint logit of
the other classes instead of each of them makes the probability too low, by less than 0.003 as
measured.
"""

Image: TypeAlias = NDArray[np.uint8]


def decode_logits(
    logits: Tensor,
    placements: Sequence[Placement],
    min_confidence: float = 0.0,
    input_size: tuple[int, int] | None = None,
    kind: ConfidenceKind = ConfidenceKind.MAX_PROB,
    columns: Sequence[Tensor | None] = (),
    tile: int = 0,
) -> list[tuple[Image, Image]]:
    """Turns logits into label and confidence images on the RGB grids.

    Resizing, softmax and argmax happen on the logits' device; only bytes travel to the host, once.

    Args:
        logits: (B, C, h, w) over the whole of the model's input, C at most 255.
        placements: one per sample.
        min_confidence: pixels below this probability become void, whatever `kind` is; so do those
            without finite logits.
        input_size: (height, width) of the model's input; None where the logits have that size.
        kind: meaning of the confidence images.
        columns: per sample, the classes to choose from as int64 (C',), whose positions become the
            ids, or None for all; none at all: all classes for every sample.
        tile: logits to interpolate at a time; 0 for what suits the device.

    Returns:
        per sample: labels uint8 (H, W), and confidence uint8 (H, W), round(255 * confidence).

    Raises:
        ModelOutputError: when a sample has not one pixel with finite logits.
    """
    assert logits.shape[1] <= VOID, "ids must fit below the void id"
    height, width = input_size or logits.shape[-2:]
    tile = tile or (GPU_TILE if logits.is_cuda else CPU_TILE)
    parts = columns or [None] * len(placements)
    answers = [
        _decode_one(
            _columns(one, part).float(), placement, (height, width), min_confidence, kind, tile
        )
        for one, part, placement in zip(logits, parts, placements, strict=True)
    ]
    flat = torch.cat([answer.flatten() for answer in answers]).cpu().numpy()
    images, start = [], 0
    for answer in answers:
        end = start + answer.numel()
        labels, confidence = flat[start:end].reshape(answer.shape)
        images.append((labels, confidence))
        start = end
    for index, (labels, confidence) in enumerate(images):
        # Only an answer that is empty is worth asking the device why.
        if not confidence.any() and (labels == VOID).all():
            _check_finite(_columns(logits[index], parts[index]), index, len(images))
    return images


def _check_finite(logits: Tensor, index: int, count: int) -> None:
    """Raises for logits (C, h, w) without one finite pixel."""
    if not logits.isfinite().all(dim=0).any():
        which = f"sample {index + 1} of {count}" if count > 1 else "the frame"
        raise ModelOutputError(
            f"model: {which} has no finite logit; the weights or the precision do not suit these "
            "images (try model.precision: fp32)"
        )


def _columns(logits: Tensor, columns: Tensor | None) -> Tensor:
    return logits if columns is None else logits.index_select(0, columns)


class Interpolation(NamedTuple):
    """Bilinear interpolation along one axis.

    Attributes:
        weights: (pixels of RGB, pixels of the logits), two entries per row that sum to one.
        lower: index of the first entry, for every RGB pixel, not decreasing.
    """

    weights: Tensor
    lower: tuple[int, ...]


def _decode_one(
    logits: Tensor,
    placement: Placement,
    input_size: tuple[int, int],
    min_confidence: float,
    kind: ConfidenceKind,
    tile: int,
) -> Tensor:
    """(C, h, w) to labels and confidence, uint8 (2, H, W)."""
    device = logits.device
    is_finite = logits.isfinite().all(dim=0)  # (h, w)
    logits = logits.nan_to_num(0.0, 0.0, 0.0)
    rows, columns = rgb_interpolation(logits, placement, input_size)
    # Margin and entropy depend on all classes.
    logits, codes = _candidates(logits, may_join=kind is ConfidenceKind.MAX_PROB)
    answer = torch.empty(
        (2, len(rows.lower), len(columns.lower)), dtype=torch.uint8, device=device
    )
    buffer = torch.empty(0, device=device)
    for (top, bottom), (left, right) in _tiles(rows, columns, len(logits), logits.is_cuda, tile):
        near = slice(rows.lower[top], rows.lower[bottom - 1] + 2)
        across = slice(columns.lower[left], columns.lower[right - 1] + 2)
        patch = rows.weights[top:bottom, near] @ logits[:, near, across]  # (K, R, w')
        size = (len(logits), bottom - top, right - left)
        buffer = buffer.resize_(size[0] * size[1], size[2])
        torch.mm(patch.flatten(0, 1), columns.weights[left:right, across].T, out=buffer)
        part = answer[:, top:bottom, left:right]
        _answer(buffer.view(size), codes, min_confidence, kind, part)
    if logits.is_cuda or not is_finite.all():  # on a GPU the test would synchronise
        broken = rows.weights @ (~is_finite).float() @ columns.weights.T > 0
        answer[0].masked_fill_(broken, VOID)
        answer[1].masked_fill_(broken, 0)
    return answer


def _answer(
    tile: Tensor, codes: Tensor, min_confidence: float, kind: ConfidenceKind, answer: Tensor
) -> None:
    """Writes labels and confidence of interpolated logits (K, R, C), which are overwritten."""
    num_ids = len(codes)
    best = tile[:num_ids].amax(dim=0)  # (R, C)
    tile.sub_(best).exp_()
    probability = tile.sum(dim=0).reciprocal_()
    confidence = _confidence(tile, probability, kind)
    # The best class is 1 now, all others are less: rounded down, only its code is left. Of equal
    # ones the first one's. Comparing with `best` is equivalent but not vectorised.
    code = tile[:num_ids].floor_().mul_(codes).amax(dim=0)
    # Not "<": NaN must end as void, too.
    code.masked_fill_(~(probability >= min_confidence), 0)
    answer[0] = VOID - code
    answer[1] = (confidence * 255).round_()


def _confidence(tile: Tensor, probability: Tensor, kind: ConfidenceKind) -> Tensor:
    """Confidence (R, C) in [0, 1].

    Args:
        tile: exponentials (K, R, C), 1 for the best class.
        probability: of the best class (R, C).
        kind: its meaning.
    """
    if kind is ConfidenceKind.MAX_PROB or len(tile) < 2:
        return probability
    if kind is ConfidenceKind.MARGIN:
        return probability * (1 - tile.topk(2, dim=0).values[1])
    entropy = torch.special.entr(tile * probability).sum(dim=0)
    return (1 - entropy / math.log(len(tile))).clamp_(0, 1)


def _candidates(logits: Tensor, may_join: bool = True) -> tuple[Tensor, Tensor]:
    """Joins classes that are nowhere the best; keeps all on a GPU, which would synchronise.

    Args:
        logits: (C, h, w).
        may_join: False keeps all.

    Returns:
        logits of the candidates and, where there are other classes, of all those together
        (K, h, w); and `VOID - id` of every candidate, (candidates, 1, 1).
    """
    codes = VOID - torch.arange(len(logits), device=logits.device, dtype=torch.float32)
    if may_join and not logits.is_cuda and min(logits.shape[1:]) > 1:
        low = torch.minimum(logits[:, :-1], logits[:, 1:])
        low = torch.minimum(low[..., :-1], low[..., 1:])  # (C, h - 1, w - 1), over corners
        high = torch.maximum(logits[:, :-1], logits[:, 1:])
        high = torch.maximum(high[..., :-1], high[..., 1:])
        is_beaten = (high - low.amax(dim=0)).amax(dim=(1, 2)) < _MARGIN  # (C,)
        if is_beaten.any():
            others = logits[is_beaten].logsumexp(dim=0, keepdim=True)
            logits, codes = torch.cat([logits[~is_beaten], others]), codes[~is_beaten]
    return logits, codes[:, None, None]


class InterpolationCache:
    """Interpolations of the last placements, on the devices where they are used. Thread-safe.

    Kept, because a copy to a GPU from pageable memory waits for the network before it.

    Args:
        max_bytes: of the kept weights; those of 1280x720 on a grid of 128x128 take 1 MB.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[object, tuple[Interpolation, Interpolation]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(
        self, logits: Tensor, placement: Placement, input_size: tuple[int, int]
    ) -> tuple[Interpolation, Interpolation]:
        """See `rgb_interpolation`."""
        key = (placement, input_size, logits.shape[1:], logits.device, logits.dtype)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            pair = self._kept[key] = _interpolations(logits, placement, input_size)
            self._bytes += _num_bytes(pair)
            while self._bytes > self._max_bytes:
                self._bytes -= _num_bytes(self._kept.popitem(last=False)[1])
            return pair


_CACHE = InterpolationCache(max_bytes=1 << 25)


def rgb_interpolation(
    logits: Tensor, placement: Placement, input_size: tuple[int, int]
) -> tuple[Interpolation, Interpolation]:
    """Interpolation of logits to the rows and columns of an RGB image.

    Args:
        logits: (C, h, w) over the whole of the model's input.
        placement: of the image in the input.
        input_size: (height, width) of the input.
    """
    return _CACHE.get(logits, placement, input_size)


def _num_bytes(pair: tuple[Interpolation, Interpolation]) -> int:
    return sum(part.weights.numel() * part.weights.element_size() for part in pair)


def _interpolations(
    logits: Tensor, placement: Placement, input_size: tuple[int, int]
) -> tuple[Interpolation, Interpolation]:
    grid, device, dtype = logits.shape[1:], logits.device, logits.dtype
    scale_y, scale_x = grid[0] / input_size[0], grid[1] / input_size[1]
    # The first caller may be in inference mode, a later one need not be.
    with torch.inference_mode(False):
        rows = _axis(placement.rgb_height, placement.height, placement.top, scale_y, grid[0])
        columns = _axis(placement.rgb_width, placement.width, placement.left, scale_x, grid[1])
        return (
            rows._replace(weights=rows.weights.to(device, dtype)),
            columns._replace(weights=columns.weights.to(device, dtype)),
        )


def _axis(num_pixels: int, extent: int, start: int, scale: float, count: int) -> Interpolation:
    """Interpolation along one axis; weights are float64 on the CPU.

    Args:
        num_pixels: RGB pixels.
        extent: pixels of the model's input that RGB takes up.
        start: first of them.
        scale: pixels of the logits per pixel of the input.
        count: pixels of the logits.
    """
    centre = torch.arange(num_pixels, dtype=torch.float64) + 0.5
    position = ((centre * extent / num_pixels + start) * scale - 0.5).clamp_(0, count - 1)
    lower = position.long().clamp_(max=max(count - 2, 0))
    share = position - lower
    weights = torch.zeros(num_pixels, count, dtype=torch.float64)
    weights.scatter_(1, lower[:, None], 1 - share[:, None])
    if count > 1:
        weights.scatter_(1, lower[:, None] + 1, share[:, None])
    return Interpolation(weights, tuple(lower.tolist()))


def _tiles(
    rows: Interpolation, columns: Interpolation, depth: int, is_cuda: bool, size: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges of rows and columns of the RGB grid, each tile with about `size` logits."""
    across = [(0, len(columns.lower))]
    if not is_cuda:
        across = list(_cut(columns.lower, _COLUMNS))
    widest = max(right - left for left, right in across)
    step = max(1, size // (depth * widest))
    for top in range(0, len(rows.lower), step):
        for span in across:
            yield (top, min(top + step, len(rows.lower))), span


def _cut(lower: Sequence[int], step: int) -> Iterator[tuple[int, int]]:
    """Ranges of pixels that depend on no more than about `step` neighbouring logits each."""
    start = 0
    for pixel, first in enumerate(lower):
        if first - lower[start] >= step:
            yield start, pixel
            start = pixel
    yield start, len(lower)
