"""Content of X samples and RGB images: valid and unsaturated pixels, range, likely faults.

Measured on raw values, because encoding hides the cause: a covered lens and depth in the wrong
unit give the same black X image. A grid of some thousand pixels is enough in most cases; all
pixels are read only where the grid seems empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.samples import Array
from segrgbx_core.sensors.picture import require_picture

GRID_PIXELS = 20_000
"""Approximate number of pixels on the grid."""
EMPTY_SHARE = 0.001
"""Share of usable pixels below which a sample counts as empty; sparse depth has more."""
FEW_SHARE = 0.1
"""Share of the valid pixels that are usable below which a problem is reported."""
BLACK_SHARE = 8 / 255
"""Share of full scale that 99 % of an image's values must exceed to be no black image."""
NOISE_CORRELATION = 0.2
"""Correlation of neighbouring pixels below which an image is noise; sensors have 0.65 and more."""
MIN_NEIGHBOURS = 500
"""Measured neighbours below which no correlation is taken: sparse depth has few."""
FLAT_LEVELS = 2
"""Difference of 8-bit levels that a picture of one colour may still have, from compression."""


@dataclass(frozen=True)
class XContent:
    """Content of one sample.

    Attributes:
        valid: share of pixels that hold a measurement, in [0, 1].
        usable: share of pixels that are valid and not saturated: the encoding resolves them.
        low: smallest valid value, NaN where there is none.
        median: of the valid values, likewise.
        high: largest valid value, likewise.
        unit: of the three values, such as `m`, `degC`, `counts`.
        problem: what is wrong and its likely cause, one clause; empty for nothing.
        is_empty: True where its X image would be blank.
        is_noise: True where its pixels say nothing of their neighbours.
    """

    valid: float
    usable: float
    low: float
    median: float
    high: float
    unit: str
    problem: str = ""
    is_empty: bool = False
    is_noise: bool = False

    @classmethod
    def of(
        cls, values: Array, valid: NDArray[np.bool_], usable: NDArray[np.bool_], unit: str
    ) -> XContent:
        """Shares and range; `is_empty` where fewer than `EMPTY_SHARE` of the pixels are usable.

        Args:
            values: raw values, any shape.
            valid: which of them are measurements, same shape.
            usable: which of these the encoding resolves, same shape.
            unit: of the values.
        """
        measured = values[valid]
        low, median, high = (float("nan"),) * 3
        if measured.size:
            low, high = float(measured.min()), float(measured.max())
            median = float(np.median(measured))
        share = float(np.count_nonzero(usable)) / values.size
        return cls(
            valid=measured.size / values.size,
            usable=share,
            low=low,
            median=median,
            high=high,
            unit=unit,
            is_empty=share < EMPTY_SHARE,
        )

    def empty(self, problem: str) -> XContent:
        """A copy that is empty, with the reason."""
        return replace(self, problem=problem, is_empty=True)

    def suspect(self, problem: str) -> XContent:
        """A copy that is not empty, with the suspicion."""
        return replace(self, problem=problem, is_empty=False)

    def judged(self, image: Array) -> XContent:
        """A copy that names noise: an image whose neighbouring pixels are unrelated.

        Args:
            image: (h, w) or (h, w, C), the raw values.
        """
        correlation = neighbour_correlation(image)
        if self.is_empty or not correlation < NOISE_CORRELATION:
            return self
        text = f"neighbouring pixels are unrelated (correlation {correlation:.2f}): only noise?"
        return replace(self, problem=self.problem or text, is_noise=True)


def neighbour_correlation(image: Array) -> float:
    """Correlation of pixels with the next but one to the right, in [-1, 1].

    The next but one: in a mosaic it is of the same kind. Pixels that are 0 or not finite hold no
    measurement and do not count. Some rows of a large image suffice.

    Args:
        image: (h, w) or (h, w, C).

    Returns:
        NaN where fewer than `MIN_NEIGHBOURS` are both measured, or all are alike.
    """
    step = max(1, image.shape[0] * image.shape[1] // (2 * GRID_PIXELS))
    rows = np.nan_to_num(image[::step].astype(np.float32), posinf=0.0, neginf=0.0)
    left, right = rows[:, :-2], rows[:, 2:]
    both = (left != 0) & (right != 0)
    if np.count_nonzero(both) < MIN_NEIGHBOURS:
        return float("nan")
    left, right = (part[both] - part[both].mean() for part in (left, right))
    norm = float(np.sqrt((left * left).sum() * (right * right).sum()))
    return float((left * right).sum()) / norm if norm > 0 else float("nan")


def on_grid(image: Array, measure: Callable[[Array], XContent]) -> XContent:
    """Measures a grid of pixels, and all of them where the grid seems empty.

    Args:
        image: (h, w, ...).
        measure: of an image of any size.
    """
    step = int(np.sqrt(image.shape[0] * image.shape[1] / GRID_PIXELS))
    step += step % 2 == 0  # an odd step samples every pixel of a 2x2 mosaic
    stats = measure(image[::step, ::step])
    return measure(image) if stats.is_empty and step > 1 else stats


def picture_content(image: Array, name: str) -> XContent:
    """Content of a picture; arguments as of `from_picture`.

    Raises:
        EncodingError: for another type or shape, or an empty picture.
    """
    require_picture(image, name)
    return on_grid(image, _picture)


def rgb_content(rgb: Array) -> XContent:
    """Content of an RGB image; 16-bit images before they are reduced to 8 bits.

    Args:
        rgb: uint8 or uint16 (h, w, 3), a Bayer mosaic or grey (h, w).
    """
    return on_grid(rgb, _rgb)


def unused_bits(values: Array) -> str:
    """A message where 16-bit values use only the lowest 8, 10, 12 or 14 bits, else empty.

    Args:
        values: of any integer type.
    """
    high = int(values.max(initial=0)) if values.dtype == np.uint16 else 0
    for bits in (8, 10, 12, 14):
        if 0 < high < 1 << bits:
            return f"no value above {high} of 65535: {bits} bits in the low end of 16?"
    return ""


def _picture(image: Array) -> XContent:
    brightest = np.iinfo(image.dtype).max
    every = np.ones(image.shape, np.bool_)
    stats = XContent.of(image, every, image < brightest, "levels")
    # Two opposite ends of the range in one picture are contrast, whatever share is saturated.
    stats = replace(stats, is_empty=False)
    spread = stats.high - stats.low
    if spread <= FLAT_LEVELS * brightest / 255:
        return stats.empty(f"one colour all over, {stats.median:g} of {brightest}")
    hint = unused_bits(image)
    return stats.suspect(hint) if hint else stats


def _rgb(rgb: Array) -> XContent:
    stats = _picture(rgb)
    brightest = np.iinfo(rgb.dtype).max
    bright = float(np.percentile(rgb, 99))
    if stats.problem or bright > BLACK_SHARE * brightest:
        return stats
    return stats.suspect(
        f"nearly black, 99 % of its values are at most {bright:g} of {brightest}: lens covered, "
        "or exposure too short?"
    )


def share_of(mask: Any) -> str:
    """A share of pixels for a message, such as `12 %`."""
    return f"{100 * float(np.mean(mask)):.0f} %"
