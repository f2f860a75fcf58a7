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
from training.world.shading.view import View


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
    """

    base_m: float = 0.25
    noise_px: float = 0.08
    step_px: float = 1 / 16
    low_m: float = 0.8
    high_m: float = 80.0
    contrast: float = 0.004
    pane_share: float = 0.7


RIG = StereoRig()


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
    picture = view.radiance.mean(axis=2) * np.float32(exposure.gain)
    plain = _is_plain(picture, rig)
    depth = stereo(truth, view.camera.focal, rng, rig)
    depth[plain] = 0
    if len(view.panes.rays):
        lost = view.panes.rays[rng.uniform(size=len(view.panes.rays)) > rig.pane_share]
        depth.ravel()[lost] = 0
    return depth, truth


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
    bad = _half_occluded(exact) | (truth < rig.low_m) | (truth > rig.high_m)
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


def _is_plain(picture: Floats, rig: StereoRig) -> Mask:
    curve = np.sqrt(np.clip(picture, 0, 1)).astype(np.float32)
    mean = cv2.boxFilter(curve, -1, (7, 7))
    square = cv2.boxFilter(curve * curve, -1, (7, 7))
    return np.asarray(np.sqrt(np.maximum(square - mean * mean, 0)) < rig.contrast)
