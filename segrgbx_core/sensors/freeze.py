"""Cameras that repeat their last image: by its bytes, since noise makes every real one new."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

FROZEN = 3
"""Repeated images in a row from which on a camera is called frozen."""
_STRIDE = 61
"""Every so many bytes of an image enter its fingerprint."""


@dataclass
class FreezeDetector:
    """Detects a camera that repeats its last image, as thermal ones do while they calibrate.

    Attributes:
        repeats: images equal to the one before, so far.
        longest: most of them in a row since the report before.
        row: the newest so many repeat the one before them.
    """

    repeats: int = 0
    longest: int = 0
    _fingerprint: int = 0
    _stamp_ns: int = 0
    row: int = 0

    def on_image(self, data: Any, stamp_ns: int) -> None:
        """Compares an image with the one before; the same stamp twice is no new image."""
        pixels = np.frombuffer(data, np.uint8)
        sample = pixels if len(pixels) < _STRIDE * _STRIDE else pixels[::_STRIDE]
        fingerprint = zlib.crc32(sample.tobytes())
        if stamp_ns == self._stamp_ns:
            return
        self.row = self.row + 1 if fingerprint == self._fingerprint and self._stamp_ns else 0
        self.repeats += self.row > 0
        self.longest = max(self.longest, self.row)
        self._fingerprint, self._stamp_ns = fingerprint, stamp_ns

    def take_longest(self) -> int:
        """The longest row of repeats since the last call."""
        longest, self.longest = self.longest, self.row
        return longest
