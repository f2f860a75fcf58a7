"""What compressed_depth_image_transport does to depth besides PNG: RVL packing, quantisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.images import MAX_PIXELS

_MAX_NIBBLES = 11  # of three bits each: enough for 32 bits


def unpack_rvl(payload: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Counts of an RVL image, (H, W), 0 where nothing was measured.

    Runs of zeros and of other values take turns: both lengths, then for each value its difference
    from the last one, zigzag. A number is a chain of nibbles of three bits, the lowest first, with
    a fourth bit where more follow; eight nibbles make a 32-bit word, the highest first.

    Raises:
        EncodingError: when the bytes end early or do not add up to the image's size.

    Source: Wilson, Fast Lossless Depth Image Compression, ISS 2017.
    """
    if payload.size < 8:
        raise EncodingError(f"rvl image of {payload.size} bytes has no size in it")
    width, height = (int(side) for side in payload[:8].view("<u4"))
    if not 0 < width * height <= MAX_PIXELS:
        raise EncodingError(f"rvl image of {width}x{height} px; is the message whole?")
    numbers = _numbers(payload[8:])
    starts, firsts, lengths = _runs(numbers, width * height)
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    steps = numbers[np.repeat(firsts, lengths) + within]
    if (steps < 0).any():
        raise EncodingError("rvl image has a number of more than 32 bits")
    counts = np.zeros(width * height, np.uint16)
    values = np.cumsum((steps >> 1) ^ -(steps & 1))
    counts[np.repeat(starts, lengths) + within] = values & 0xFFFF
    return counts.reshape(height, width)


def dequantised(counts: NDArray[np.uint16], header: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Metres from inverse depth in 16 bits: A / (count - B), NaN where the count is 0.

    Args:
        counts: as they travel.
        header: the message's first 12 bytes: format, then A and B as float32.
    """
    scale, offset = header[4:12].copy().view("<f4")
    depth = np.full(counts.shape, np.nan, np.float32)
    seen = counts > 0
    with np.errstate(all="ignore"):  # a damaged header gives infinite or invalid depth
        depth[seen] = scale / (counts[seen].astype(np.float32) - offset)
    return depth


def _numbers(payload: NDArray[np.uint8]) -> NDArray[np.int64]:
    """All numbers of the chain; those too long for 32 bits come out as -1."""
    words = payload[: payload.size // 4 * 4].view("<u4").astype(">u4").view(np.uint8)
    nibbles = np.empty(2 * words.size, np.uint8)
    nibbles[::2], nibbles[1::2] = words >> 4, words & 15
    ends = np.flatnonzero(nibbles < 8)
    if len(ends) == 0:
        return np.empty(0, np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    numbers = np.zeros(len(ends), np.int64)
    for place in range(min(int(lengths.max()), _MAX_NIBBLES)):
        has = np.flatnonzero(lengths > place)
        numbers[has] |= (nibbles[starts[has] + place] & 7).astype(np.int64) << 3 * place
    numbers[lengths > _MAX_NIBBLES] = -1
    return numbers


def _runs(
    numbers: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each run of values: its first pixel, its first number and its length."""
    found: list[tuple[int, int, int]] = []
    chain: list[int] = numbers.tolist()
    pixel = place = 0
    while pixel < size:
        if place + 2 > len(chain):
            raise EncodingError(f"rvl image ends after {pixel} of {size} px")
        zeros, length = chain[place], chain[place + 1]
        pixel, place = pixel + zeros, place + 2
        if zeros < 0 or length < 0 or pixel + length > size or place + length > len(chain):
            raise EncodingError(f"rvl image of {size} px has a run that leaves it")
        if length:
            found.append((pixel, place, length))
        pixel, place = pixel + length, place + length
    starts, firsts, lengths = np.array(found, np.int64).reshape(-1, 3).T
    return starts, firsts, lengths
