"""From coarse logits to label and confidence images on the RGB grids, in one bilinear step.

Legend: C classes, K contenders, h w the logits' grid, H W the RGB grid, R C one tile of it.

On a CPU this would cost as much as a small network if every class were brought to camera
resolution. It need not be: bilinear weights are positive and sum to one, so a class that lies
below some other class at all four corners of a cell lies below it everywhere inside. Classes that
lose like that in every cell cannot be published; together they are one channel, the logarithm of
the sum of their exponentials, which only the confidence sees (`_contenders`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segrgbx_core.labels.label_space import VOID
from segrgbx_core.runtime.batch import Placement
from segrgbx_core.runtime.options import ConfidenceKind

_CPU_TILE = 1 << 18
_GPU_TILE = 1 << 27
"""Logits decoded at a time: what a CPU core's cache holds; half a gigabyte on a GPU."""
_COLUMNS = 16
"""Coarse columns of a tile on a CPU: few, because interpolation is a product with a matrix."""
_KEPT_AXES = 32
"""Placements whose axes are kept; those of 1280x720 on a grid of 128x128 take 1 MB."""
_MARGIN = -2.0
"""A class that is always this far below a sure rival is no contender.

Zero would do for the labels. The margin is for the confidence: interpolating the losers' joint
logit instead of each of them makes the probability too low, measured by less than 0.003.
"""


def decode_logits(
    logits: Tensor,
    placements: Sequence[Placement],
    min_confidence: float = 0.0,
    input_size: tuple[int, int] | None = None,
    kind: ConfidenceKind = ConfidenceKind.MAX_PROB,
    columns: Sequence[Tensor | None] = (),
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Turns logits into label and confidence images on the RGB grids.

    Resizing, softmax and argmax happen on the logits' device; only bytes travel to the host, once.

    Args:
        logits: (B, C, h, w) over the whole of the model's input, C at most 255.
        placements: one per sample.
        min_confidence: pixels below this probability become void, whatever `kind` is; so do those
            without numbers.
        input_size: (height, width) of the model's input; None where the logits have that size.
        kind: what the confidence images say.
        columns: per sample, the classes to choose from as int64 (C',), whose positions become the
            ids, or None for all; none at all: all classes for every sample.

    Returns:
        per sample: labels uint8 (H, W), and confidence uint8 (H, W), round(255 * confidence).
    """
    assert logits.shape[1] <= VOID, "ids must fit below the void id"
    height, width = input_size or logits.shape[-2:]
    chosen = columns or [None] * len(placements)
    answers = [
        _decode_one(_columns(one, part).float(), spot, (height, width), min_confidence, kind)
        for one, part, spot in zip(logits, chosen, placements, strict=True)
    ]
    flat = torch.cat([answer.flatten() for answer in answers]).cpu().numpy()
    images, start = [], 0
    for answer in answers:
        end = start + answer.numel()
        labels, confidence = flat[start:end].reshape(answer.shape)
        images.append((labels, confidence))
        start = end
    return images


def _columns(logits: Tensor, columns: Tensor | None) -> Tensor:
    return logits if columns is None else logits.index_select(0, columns)


class Axis(NamedTuple):
    """Bilinear interpolation along one axis.

    Attributes:
        weights: (pixels of RGB, pixels of the logits), two entries per row that sum to one.
        lower: first of the two, for every RGB pixel, not decreasing.
    """

    weights: Tensor
    lower: tuple[int, ...]


def _decode_one(
    logits: Tensor,
    spot: Placement,
    input_size: tuple[int, int],
    min_confidence: float,
    kind: ConfidenceKind,
) -> Tensor:
    """(C, h, w) to labels and confidence, uint8 (2, H, W)."""
    device = logits.device
    is_number = logits.isfinite().all(dim=0)  # (h, w)
    logits = logits.nan_to_num(0.0, 0.0, 0.0)
    rows, columns = rgb_axes(logits, spot, input_size)
    # Margin and entropy are about the losers, too.
    logits, codes = _contenders(logits, may_join=kind is ConfidenceKind.MAX_PROB)
    answer = torch.empty(
        (2, len(rows.lower), len(columns.lower)), dtype=torch.uint8, device=device
    )
    buffer = torch.empty(0, device=device)
    for (top, bottom), (left, right) in _tiles(rows, columns, len(logits), logits.is_cuda):
        near = slice(rows.lower[top], rows.lower[bottom - 1] + 2)
        across = slice(columns.lower[left], columns.lower[right - 1] + 2)
        patch = rows.weights[top:bottom, near] @ logits[:, near, across]  # (K, R, w')
        size = (len(logits), bottom - top, right - left)
        buffer = buffer.resize_(size[0] * size[1], size[2])
        torch.mm(patch.flatten(0, 1), columns.weights[left:right, across].T, out=buffer)
        part = answer[:, top:bottom, left:right]
        _answer(buffer.view(size), codes, min_confidence, kind, part)
    if logits.is_cuda or not is_number.all():  # asking a GPU would wait for it
        broken = rows.weights @ (~is_number).float() @ columns.weights.T > 0
        answer[0].masked_fill_(broken, VOID)
        answer[1].masked_fill_(broken, 0)
    return answer


def _answer(
    tile: Tensor, codes: Tensor, min_confidence: float, kind: ConfidenceKind, answer: Tensor
) -> None:
    """Writes labels and confidence of interpolated logits (K, R, C), which are used up."""
    num_ids = len(codes)
    best = tile[:num_ids].amax(dim=0)  # (R, C)
    tile.sub_(best).exp_()
    probability = tile.sum(dim=0).reciprocal_()
    confidence = _confidence(tile, probability, kind)
    # The best class is 1 now, all others are less: rounded down, only its code is left. Of equal
    # ones the first wins. Comparing with `best` would say the same but is not vectorised.
    won = tile[:num_ids].floor_().mul_(codes).amax(dim=0)
    # Not "<": what is no number must end as void, too.
    won.masked_fill_(~(probability >= min_confidence), 0)
    answer[0] = VOID - won
    answer[1] = (confidence * 255).round_()


def _confidence(tile: Tensor, probability: Tensor, kind: ConfidenceKind) -> Tensor:
    """Confidence (R, C) in [0, 1].

    Args:
        tile: exponentials (K, R, C), 1 for the best class.
        probability: of the best class (R, C).
        kind: what it says.
    """
    if kind is ConfidenceKind.MAX_PROB or len(tile) < 2:
        return probability
    if kind is ConfidenceKind.MARGIN:
        return probability * (1 - tile.topk(2, dim=0).values[1])
    entropy = torch.special.entr(tile * probability).sum(dim=0)
    return (1 - entropy / math.log(len(tile))).clamp_(0, 1)


def _contenders(logits: Tensor, may_join: bool = True) -> tuple[Tensor, Tensor]:
    """Joins classes that cannot win anywhere; on a GPU, where that would wait, keeps all.

    Args:
        logits: (C, h, w).
        may_join: False keeps all.

    Returns:
        logits of the contenders and, where there are losers, of all losers together (K, h, w); and
        `VOID - id` of every contender, (contenders, 1, 1).
    """
    codes = VOID - torch.arange(len(logits), device=logits.device, dtype=torch.float32)
    if may_join and not logits.is_cuda and min(logits.shape[1:]) > 1:
        low = torch.minimum(logits[:, :-1], logits[:, 1:])
        low = torch.minimum(low[..., :-1], low[..., 1:])  # (C, h - 1, w - 1), over corners
        high = torch.maximum(logits[:, :-1], logits[:, 1:])
        high = torch.maximum(high[..., :-1], high[..., 1:])
        loses = (high - low.amax(dim=0)).amax(dim=(1, 2)) < _MARGIN  # (C,)
        if loses.any():
            others = logits[loses].logsumexp(dim=0, keepdim=True)
            logits, codes = torch.cat([logits[~loses], others]), codes[~loses]
    return logits, codes[:, None, None]


def rgb_axes(logits: Tensor, spot: Placement, input_size: tuple[int, int]) -> tuple[Axis, Axis]:
    """How rows and columns of an RGB image lie among its logits.

    Args:
        logits: (C, h, w) over the whole of the model's input.
        spot: where the image lies in the input.
        input_size: (height, width) of the input.
    """
    height, width = input_size
    return _axes(spot, (height, width), logits.shape[1:], logits.device, logits.dtype)


# Kept, because a copy to a GPU from ordinary memory waits for the network before it.
@lru_cache(maxsize=_KEPT_AXES)
def _axes(
    spot: Placement,
    input_size: tuple[int, int],
    grid: torch.Size,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Axis, Axis]:
    """As `rgb_axes`, for logits of this grid (h, w)."""
    scale_y, scale_x = grid[0] / input_size[0], grid[1] / input_size[1]
    # Whoever asks first may be in inference mode, whoever asks later need not.
    with torch.inference_mode(False):
        rows = _axis(spot.rgb_height, spot.height, spot.top, scale_y, grid[0])
        columns = _axis(spot.rgb_width, spot.width, spot.left, scale_x, grid[1])
        return (
            rows._replace(weights=rows.weights.to(device, dtype)),
            columns._replace(weights=columns.weights.to(device, dtype)),
        )


def _axis(num_pixels: int, extent: int, start: int, scale: float, count: int) -> Axis:
    """How RGB pixels lie among logits; weights are float64 on the CPU.

    Args:
        num_pixels: of RGB.
        extent: pixels that RGB takes up in the model's input.
        start: first of them.
        scale: pixels of the logits per pixel of the input.
        count: of the logits along the axis.
    """
    centre = torch.arange(num_pixels, dtype=torch.float64) + 0.5
    position = ((centre * extent / num_pixels + start) * scale - 0.5).clamp_(0, count - 1)
    lower = position.long().clamp_(max=max(count - 2, 0))
    share = position - lower
    weights = torch.zeros(num_pixels, count, dtype=torch.float64)
    weights.scatter_(1, lower[:, None], 1 - share[:, None])
    if count > 1:
        weights.scatter_(1, lower[:, None] + 1, share[:, None])
    return Axis(weights, tuple(lower.tolist()))


def _tiles(
    rows: Axis, columns: Axis, depth: int, is_cuda: bool
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Cuts the RGB grid: ranges of rows and columns, each tile about as large as it may be."""
    across = [(0, len(columns.lower))]
    if not is_cuda:
        across = list(_cut(columns.lower, _COLUMNS))
    widest = max(right - left for left, right in across)
    step = max(1, (_GPU_TILE if is_cuda else _CPU_TILE) // (depth * widest))
    for top in range(0, len(rows.lower), step):
        for span in across:
            yield (top, min(top + step, len(rows.lower))), span


def _cut(lower: Sequence[int], step: int) -> Iterator[tuple[int, int]]:
    """Ranges of pixels that look at no more than about `step` neighbouring logits each."""
    start = 0
    for pixel, first in enumerate(lower):
        if first - lower[start] >= step:
            yield start, pixel
            start = pixel
    yield start, len(lower)
