"""The event camera: an event each time log brightness has moved by a threshold since the last one.

The ideal rule is ESIM's (Rebecq, Gehrig and Scaramuzza, CoRL 2018): between two pictures log
brightness is linear in time, so crossing times are interpolated. Added as in v2e: thresholds that
differ from pixel to pixel, a refractory time, a brightness-dependent low pass and background
events.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.samples import Events
from training.world.rays.vectors import Floats, Indices


@dataclass(frozen=True)
class EventCamera:
    """Constants of an event camera.

    Attributes:
        threshold: mean change of log brightness per event.
        threshold_spread: its standard deviation over pixels.
        floor: added to brightness before the logarithm; hides photon noise in the dark.
        refractory_s: dead time of a pixel after an event.
        background_hz: rate of events without a cause, in the dark.
        corner_hz: corner of the low pass at full brightness; 0 for none.
        optical_blur_px: blur of the lens.
    """

    threshold: float = 0.2
    threshold_spread: float = 0.03
    floor: float = 0.003
    refractory_s: float = 0.0005
    background_hz: float = 0.4
    corner_hz: float = 300.0
    optical_blur_px: float = 0.6


CAMERA = EventCamera()
IDEAL = EventCamera(
    threshold_spread=0, refractory_s=0, background_hz=0, corner_hz=0, optical_blur_px=0
)
"""Nothing but the rule itself."""
_MOST_PER_STEP = 12


def draw_camera(rng: np.random.Generator) -> EventCamera:
    """An event camera as widely as they differ; see `docs/data.md`."""
    threshold = float(np.exp(rng.uniform(np.log(0.1), np.log(0.4))))
    return EventCamera(
        threshold=threshold,
        threshold_spread=threshold * float(rng.uniform(0.08, 0.25)),
        floor=float(np.exp(rng.uniform(np.log(0.001), np.log(0.02)))),
        refractory_s=float(rng.uniform(0.0002, 0.003)),
        background_hz=float(np.exp(rng.uniform(np.log(0.1), np.log(5)))),
        corner_hz=float(rng.uniform(60, 400)),
        optical_blur_px=float(rng.uniform(0.4, 1.0)),
    )


Columns = tuple[Indices, Indices, NDArray[np.uint8]]
"""Pixel, time in ns and polarity of some events."""


def from_radiance(
    pictures: Floats,
    stamps_ns: Indices,
    rng: np.random.Generator,
    pixel_rng: np.random.Generator,
    camera: EventCamera = CAMERA,
) -> Events:
    """Events between the first and the last of a series of pictures.

    Args:
        pictures: linear radiance, (K, H, W).
        stamps_ns: their times, rising, (K,).
        rng: for noise of this window.
        pixel_rng: for what stays with the pixels: thresholds.
        camera: constants.
    """
    count, height, width = pictures.shape
    if camera.optical_blur_px > 0:
        pictures = np.stack(
            [cv2.GaussianBlur(p, (0, 0), camera.optical_blur_px) for p in pictures]
        )
    white = float(np.percentile(pictures[0], 90)) + 1e-6
    bright = (pictures / np.float32(white)).astype(np.float32)
    logs = np.log(bright + np.float32(camera.floor))
    size = (height, width)
    spread = pixel_rng.normal(0, camera.threshold_spread, size) if camera.threshold_spread else 0.0
    threshold = np.maximum(camera.threshold + spread, 0.05).astype(np.float32) * np.ones(
        size, np.float32
    )
    memory = logs[0].copy()
    if camera.threshold_spread > 0:  # a pixel that moves was moving: its last event lies behind
        behind = rng.uniform(0, 1, size).astype(np.float32)
        memory -= np.sign(logs[1] - logs[0]) * behind * threshold
    level = logs[0]
    steps = []
    for index in range(1, count):
        seconds = float(stamps_ns[index] - stamps_ns[index - 1]) * 1e-9
        target = logs[index]
        if camera.corner_hz > 0:
            corner = camera.corner_hz * np.clip(bright[index], 0.05, 1)
            target = level + (target - level) * (1 - np.exp(-2 * np.pi * corner * seconds))
        steps.append(
            _crossings(level, target, memory, threshold, stamps_ns[index - 1 : index + 1])
        )
        level = target.astype(np.float32)
    if camera.background_hz > 0:
        steps.append(_background(bright[0], stamps_ns, rng, camera))
    return _sorted(steps, size, camera)


def _crossings(
    start: Floats, end: Floats, memory: Floats, threshold: Floats, span_ns: Indices
) -> Columns:
    """Events of one step as pixel, time and polarity; moves `memory` along."""
    change = end - start
    number = np.trunc((end - memory) / threshold).astype(np.int64)
    number = np.clip(number, -_MOST_PER_STEP, _MOST_PER_STEP)
    pixel = np.flatnonzero(number)
    times = np.abs(number.ravel()[pixel])
    sign = np.sign(number.ravel()[pixel])
    owner = np.repeat(np.arange(len(pixel)), times)
    order = np.arange(len(owner)) - np.repeat(np.cumsum(times) - times, times) + 1
    pixels = pixel[owner]
    level = memory.ravel()[pixels] + order * sign[owner] * threshold.ravel()[pixels]
    slope = change.ravel()[pixels]
    share = np.clip(
        (level - start.ravel()[pixels]) / np.where(np.abs(slope) < 1e-9, 1, slope), 0, 1
    )
    stamp = span_ns[0] + np.round(share * float(span_ns[1] - span_ns[0])).astype(np.int64)
    memory += (number * threshold).astype(np.float32)
    return pixels, stamp, (sign[owner] > 0).astype(np.uint8)


def _background(
    bright: Floats, stamps_ns: Indices, rng: np.random.Generator, camera: EventCamera
) -> Columns:
    seconds = float(stamps_ns[-1] - stamps_ns[0]) * 1e-9
    rate = camera.background_hz * (1 - 0.75 * np.clip(bright, 0, 1)) * seconds
    pixel = np.flatnonzero(rng.uniform(size=bright.shape) < rate)
    stamp = rng.integers(int(stamps_ns[0]) + 1, int(stamps_ns[-1]) + 1, len(pixel))
    return pixel, stamp, rng.integers(0, 2, len(pixel)).astype(np.uint8)


def _awake(pixel: Indices, stamp: Indices, refractory_ns: float) -> Indices:
    """Indices of the events at least the dead time after their pixel's last one that is kept."""
    kept = np.lexsort((stamp, pixel))
    while True:
        close = np.zeros(len(kept) + 1, bool)
        close[1:-1] = (np.diff(pixel[kept]) == 0) & (np.diff(stamp[kept]) < refractory_ns)
        # The first of a row of close ones follows one that stays; the others may stay after it.
        first = close[1:-1] & ~close[:-2]
        if not first.any():
            return kept
        kept = np.delete(kept, np.flatnonzero(first) + 1)


def _sorted(steps: list[Columns], size: tuple[int, int], camera: EventCamera) -> Events:
    pixel = np.concatenate([part[0] for part in steps])
    stamp = np.concatenate([part[1] for part in steps])
    sign = np.concatenate([part[2] for part in steps])
    if camera.refractory_s > 0 and len(pixel):
        kept = _awake(pixel, stamp, camera.refractory_s * 1e9)
        pixel, stamp, sign = pixel[kept], stamp[kept], sign[kept]
    order = np.lexsort((pixel, stamp))
    row, column = np.divmod(pixel[order], size[1])
    return Events(
        x=column.astype(np.uint16),
        y=row.astype(np.uint16),
        t_ns=stamp[order].astype(np.int64),
        p=sign[order],
        width=size[1],
        height=size[0],
    )
