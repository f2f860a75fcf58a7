"""Depth cameras: stereo outdoors, structured light in rooms; both with the holes that they have.

0 means no measurement. Stereo noise is constant in disparity, so it grows with the square of the
distance; a stereo pair has no answer beside near edges (half-occlusion), where there is no
texture, and beyond its range.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.world.rays.raytrace import FAR
from training.world.rays.vectors import Floats, Mask
from training.world.sensors.rgb import Exposure
from training.world.shading.shader import View


@dataclass(frozen=True)
class StereoRig:
    """A stereo camera.

    Attributes:
        base_m: distance of its two eyes.
        noise_px: standard deviation of a disparity.
        step_px: smallest disparity step.
        low_m: nearest distance.
        high_m: farthest distance.
        contrast: smallest local contrast of the exposed picture that can be matched.
        pane_share: share of pixels on clean glass that measure what is behind it.
        is_left: the second eye is on the left; near things cast their shadow on that side.
        grow_px: how far holes eat into what surrounds them.
        is_filled: holes hold the farther measurement of their row beside them.
        is_exact: no noise and no holes, as of a laser or a renderer.
    """

    base_m: float = 0.25
    noise_px: float = 0.08
    step_px: float = 1 / 16
    low_m: float = 0.8
    high_m: float = 80.0
    contrast: float = 0.004
    pane_share: float = 0.7
    is_left: bool = False
    grow_px: int = 0
    is_filled: bool = False
    is_exact: bool = False


RIG = StereoRig()


def draw_rig(rng: np.random.Generator) -> StereoRig:
    """A depth camera as widely as they differ; see `docs/data.md`."""
    return StereoRig(
        base_m=float(np.exp(rng.uniform(np.log(0.1), np.log(0.6)))),
        noise_px=float(np.exp(rng.uniform(np.log(0.03), np.log(0.2)))),
        step_px=float(rng.choice([1 / 32, 1 / 16, 1 / 8, 1 / 4])),
        low_m=float(rng.uniform(0.3, 1.5)),
        high_m=float(rng.uniform(25, 120)),
        contrast=float(np.exp(rng.uniform(np.log(0.0005), np.log(0.008)))),
        pane_share=float(rng.uniform(0.2, 0.95)),
        is_left=bool(rng.uniform() < 0.5),
        grow_px=int(rng.integers(0, 3)),
        is_filled=bool(rng.uniform() < 0.25),
        is_exact=bool(rng.uniform() < 0.25),
    )


def true_depth(view: View) -> Floats:
    """Exact distance along the optical axis (H, W); inf for the sky."""
    along = view.seen.directions @ view.camera.axes[2]
    depth = np.where(view.seen.distance < FAR, view.seen.distance * along, np.inf)
    return view.image(depth).astype(np.float32)


def measure(
    view: View, exposure: Exposure, rng: np.random.Generator, rig: StereoRig = RIG
) -> tuple[Floats, Floats]:
    """What a stereo camera measures and the exact depth, float32 (H, W) in metres each."""
    truth = true_depth(view)
    if rig.is_exact:
        return np.where(truth < rig.high_m, truth, 0).astype(np.float32), truth
    picture = view.radiance.mean(axis=2) * np.float32(exposure.gain)
    plain = _is_plain(picture, rig)
    depth = stereo(truth, view.camera.focal, rng, rig)
    depth[plain] = 0
    if len(view.panes.rays):
        lost = view.panes.rays[rng.uniform(size=len(view.panes.rays)) > rig.pane_share]
        depth.ravel()[lost] = 0
    if rig.grow_px:
        reach = np.ones((2 * rig.grow_px + 1, 2 * rig.grow_px + 1), np.uint8)
        depth[cv2.dilate((depth == 0).astype(np.uint8), reach) > 0] = 0
    return (_filled(depth) if rig.is_filled else depth), truth


def measure_room(view: View, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """What a structured-light camera measures in a room and the exact depth, as `measure`."""
    truth = true_depth(view)
    count = len(view.seen.directions)
    cosine, dark = np.zeros(count, np.float32), np.ones(count, bool)
    surface = view.seen.surface
    cosine[view.seen.rays] = view.seen.cosine
    dark[view.seen.rays] = (surface.albedo.mean(axis=1) < 0.03) | (
        surface.emission.max(axis=1) > 0.5
    )
    return structured_light(truth, view.image(cosine), view.image(dark), rng), truth


def stereo(truth: Floats, focal: float, rng: np.random.Generator, rig: StereoRig = RIG) -> Floats:
    """Noise, steps, half-occlusion and range of a stereo pair; 0 where it has no answer."""
    scale = np.float32(focal * rig.base_m)
    exact = np.where(np.isfinite(truth), scale / np.maximum(truth, 1e-3), 0).astype(np.float32)
    noisy = exact + rng.normal(0, rig.noise_px, exact.shape).astype(np.float32)
    noisy = np.round(noisy / rig.step_px) * np.float32(rig.step_px)
    depth = np.where(noisy > rig.step_px, scale / np.maximum(noisy, rig.step_px), 0)
    hidden = _half_occluded(exact[:, ::-1])[:, ::-1] if rig.is_left else _half_occluded(exact)
    bad = hidden | (truth < rig.low_m) | (truth > rig.high_m)
    depth[bad | (depth > rig.high_m * 1.2)] = 0
    return depth.astype(np.float32)


def structured_light(
    truth: Floats, cosine: Floats, dark: Mask, rng: np.random.Generator
) -> Floats:
    """Depth of a projector camera in a room: small noise, holes at edges and on dark surfaces.

    Source of the noise law: Nguyen, Izadi and Lovell, 3DIMPVT 2012.
    """
    spread = 0.0012 + 0.0019 * np.square(truth - 0.4)
    depth = truth + spread * rng.standard_normal(truth.shape, dtype=np.float32)
    jump = np.abs(
        cv2.Laplacian(np.where(np.isfinite(truth), truth, 10).astype(np.float32), cv2.CV_32F)
    )
    lost = (truth < 0.4) | (truth > 8.0) | ~np.isfinite(truth) | (jump > 0.25)
    lost |= (cosine < 0.12) | (dark & (rng.uniform(size=truth.shape) < 0.8))
    depth[lost] = 0
    return depth.astype(np.float32)


def _half_occluded(disparity: Floats) -> Mask:
    """Pixels whose partner in the other eye's picture is covered by something nearer."""
    height, width = disparity.shape
    column = np.arange(width)[None] - np.round(disparity).astype(np.int64)
    row = np.broadcast_to(np.arange(height)[:, None], column.shape)
    inside = column >= 0
    best = np.zeros((height, width), np.float32)
    np.maximum.at(best, (row[inside], column[inside]), disparity[inside])
    hidden = ~inside
    hidden[inside] = disparity[inside] < best[row[inside], column[inside]] - 1.0
    return hidden


def _filled(depth: Floats) -> Floats:
    """Holes filled with the farther of the measurements beside them in their row."""
    column = np.arange(depth.shape[1])
    known = depth > 0
    left = np.maximum.accumulate(np.where(known, column, -1), axis=1)
    right = np.minimum.accumulate(np.where(known, column, len(column))[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(depth, ((0, 0), (1, 1)))
    sides = [np.take_along_axis(padded, side + 1, axis=1) for side in (left, right)]
    return np.where(known, depth, np.maximum(*sides)).astype(np.float32)


def _is_plain(picture: Floats, rig: StereoRig) -> Mask:
    curve = np.sqrt(np.clip(picture, 0, 1)).astype(np.float32)
    mean = cv2.boxFilter(curve, -1, (7, 7))
    square = cv2.boxFilter(curve * curve, -1, (7, 7))
    return np.asarray(np.sqrt(np.maximum(square - mean * mean, 0)) < rig.contrast)
