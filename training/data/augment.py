"""Augmentation: one geometry for RGB, X and labels, photometry on RGB only.

Everything is a function of the arrays and of one `numpy` generator, so that a sample of a run can
be made again from its number. Tensors are (3, H, W) in [0, 1] and int64 (H, W) for labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.sensors import EncodingConfig, flip_horizontally, resamples_linearly

_DARKEST = 0.006
"""Smallest share of the light that `AugmentConfig.dark` leaves."""
_FULL_WELL, _READ_NOISE = 4000.0, 3.5
"""In electrons, of a small industrial sensor at a few decibels of gain."""


class AugmentConfig(Config):
    """The paper's augmentation (IV-A): scale, flip, crop, colour jitter and blur."""

    crop_height: int = option(512, doc="height of a training image", unit="px", low=32)
    crop_width: int = option(512, doc="width of a training image", unit="px", low=32)
    min_scale: float = option(0.5, doc="smallest enlargement before the crop", low=0.1, high=8)
    max_scale: float = option(2.0, doc="largest enlargement before the crop", low=0.1, high=8)
    small_share: float = option(
        0.0,
        doc="share of the run, from its start, that sees smaller pictures of the same views",
        low=0,
        high=1,
    )
    small_scale: float = option(
        0.5, doc="size of these pictures relative to the rest of the run", low=0.1, high=1
    )
    flip: float = option(0.5, doc="probability of mirroring left and right", low=0, high=1)
    jitter: float = option(0.2, doc="probability of changing RGB's colours", low=0, high=1)
    jitter_strength: float = option(
        0.5, doc="largest change of brightness, contrast and saturation", low=0, high=1
    )
    blur: float = option(0.2, doc="probability of blurring RGB", low=0, high=1)
    noise: float = option(
        0.0, doc="largest standard deviation of noise on RGB, full scale is 1", low=0, high=1
    )
    dark: float = option(
        0.0,
        doc=f"probability of RGB that gets a part of its light, down to {_DARKEST:g}",
        low=0,
        high=1,
    )
    drop_x: float = option(0.0, doc="probability of a sample without X (zeros)", low=0, high=1)
    drop_rgb: float = option(0.0, doc="probability of a sample without RGB (zeros)", low=0, high=1)


def at_progress(config: AugmentConfig, progress: float) -> AugmentConfig:
    """The options that hold at a moment of the run; `progress` rises from 0 to 1.

    Small pictures cost a fraction and teach the layout of scenes; fine detail is learned later.
    """
    if progress >= config.small_share:
        return config
    scale = config.small_scale
    return config.model_copy(
        update={
            "crop_height": max(32, round(config.crop_height * scale)),
            "crop_width": max(32, round(config.crop_width * scale)),
            "min_scale": config.min_scale * scale,
            "max_scale": config.max_scale * scale,
        }
    )


@dataclass(frozen=True, eq=False)
class Views:
    """RGB, X and labels on one grid.

    Attributes:
        rgb: (3, H, W), uint8 as read from disk, float32 in [0, 1] after the crop.
        x: float32 (3, H, W) in [0, 1], the encoder's X image.
        labels: int64 (H, W), `VOID` where unlabelled.
        modality: of X.
    """

    rgb: Tensor
    x: Tensor
    labels: Tensor
    modality: Modality


class Variant(IntEnum):
    """Whole-frame variants that MA-CLIP sees differently; crops and colours are left aside."""

    PLAIN = 0
    MIRRORED = 1
    WITHOUT_X = 2
    WITHOUT_RGB = 3


def augment(
    views: Views, config: AugmentConfig, encoding: EncodingConfig, rng: np.random.Generator
) -> tuple[Views, Variant]:
    """One random training view.

    Args:
        views: a whole frame.
        config: probabilities and ranges.
        encoding: what X's channels mean, for mirroring.
        rng: source of chance.

    Returns:
        the view, `crop_height` x `crop_width`, and which whole-frame variant it belongs to.
    """
    window = _draw_window(views.labels.shape[0], views.labels.shape[1], config, rng)
    flipped = bool(rng.random() < config.flip)
    size = (config.crop_height, config.crop_width)
    views = crop_resized(views, window, size, encoding, flipped)
    views = replace(views, rgb=photometry(views.rgb, config, rng))
    variant = Variant.MIRRORED if flipped else Variant.PLAIN
    drop_x, drop_rgb = rng.random(2) < (config.drop_x, config.drop_rgb)
    if drop_x:
        variant = Variant.WITHOUT_X
    elif drop_rgb:
        variant = Variant.WITHOUT_RGB
    return without(views, variant), variant


def without(views: Views, variant: Variant) -> Views:
    """Zeros in the place of what a variant lacks."""
    if variant is Variant.WITHOUT_X:
        return replace(views, x=torch.zeros_like(views.x))
    if variant is Variant.WITHOUT_RGB:
        return replace(views, rgb=torch.zeros_like(views.rgb))
    return views


@dataclass(frozen=True)
class Window:
    """A rectangle of the source image; it may reach past the border, which is then padded.

    Attributes:
        top: first row.
        left: first column.
        height: rows.
        width: columns.
    """

    top: int
    left: int
    height: int
    width: int


def _draw_window(
    height: int, width: int, config: AugmentConfig, rng: np.random.Generator
) -> Window:
    # Enlarging the image and then cropping is the same as cropping a smaller window and enlarging
    # that, for a fraction of the work.
    low, high = math.log(config.min_scale), math.log(config.max_scale)
    scale = math.exp(rng.uniform(low, high)) if high > low else config.min_scale
    rows = max(1, round(config.crop_height / scale))
    columns = max(1, round(config.crop_width / scale))
    top = int(rng.integers(0, max(0, height - rows) + 1))
    left = int(rng.integers(0, max(0, width - columns) + 1))
    return Window(top, left, rows, columns)


def crop_resized(
    views: Views,
    window: Window,
    size: tuple[int, int],
    encoding: EncodingConfig,
    flipped: bool = False,
) -> Views:
    """Cuts a window and brings it to a size, mirrored where asked.

    RGB and most X are resized linearly, labels, events and polarization angles by the nearest
    pixel. What lies beyond the image is 0 in RGB and X and void in the labels.
    """
    beyond_x = torch.zeros(3, 1, 1)
    if flipped:
        beyond_x = _mirrored(beyond_x, views.modality, encoding)  # mirrored again, it is 0
    rgb, x, labels = (
        _unit(_cut(views.rgb, window, torch.zeros(1))),
        _cut(views.x, window, beyond_x),
        _cut(views.labels[None], window, torch.tensor(VOID)),
    )
    if (window.height, window.width) != size:
        rgb = _resize(rgb, size, linear=True)
        x = _resize(x, size, linear=resamples_linearly(views.modality, encoding))
        labels = _resize(labels, size, linear=False)
    views = replace(views, rgb=rgb, x=x, labels=labels[0])
    return mirror(views, encoding) if flipped else views


def _unit(image: Tensor) -> Tensor:
    return image.float() / 255.0 if image.dtype == torch.uint8 else image


def _cut(image: Tensor, window: Window, fill: Tensor) -> Tensor:
    piece = image[
        :, window.top : window.top + window.height, window.left : window.left + window.width
    ]
    rows, columns = piece.shape[1:]
    if (rows, columns) == (window.height, window.width):
        return piece
    shape = (len(image), window.height, window.width)
    whole = fill.to(image.dtype).expand(shape).clone()
    whole[:, :rows, :columns] = piece
    return whole


def _resize(image: Tensor, size: tuple[int, int], linear: bool) -> Tensor:
    if not linear:
        # "nearest-exact" samples pixel centres; ids survive in any integer type.
        resized = F.interpolate(image[None].float(), size, mode="nearest-exact")[0]
        return resized.to(image.dtype)
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0.0, 1.0)


def mirror(views: Views, encoding: EncodingConfig) -> Views:
    """Left and right swapped; X by its modality: polarization angles turn over too."""
    x = _mirrored(views.x, views.modality, encoding)
    return replace(views, rgb=views.rgb.flip(-1), x=x, labels=views.labels.flip(-1))


def _mirrored(x: Tensor, modality: Modality, encoding: EncodingConfig) -> Tensor:
    mirrored = flip_horizontally(x.permute(1, 2, 0).numpy(), modality, encoding)
    return torch.from_numpy(mirrored).permute(2, 0, 1)


def photometry(rgb: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Colour jitter, blur, noise and darkness, each by its probability; X is never touched.

    Args:
        rgb: (3, H, W) in [0, 1].
        config: probabilities and strengths.
        rng: source of chance.
    """
    if rng.random() < config.jitter:
        low, high = 1.0 - config.jitter_strength, 1.0 + config.jitter_strength
        brightness, contrast, saturation = rng.uniform(low, high, 3)
        rgb = V.adjust_brightness(rgb, float(brightness))
        rgb = V.adjust_contrast(rgb, float(contrast))
        rgb = V.adjust_saturation(rgb, float(saturation))
    if rng.random() < config.blur:
        rgb = V.gaussian_blur(rgb, [3, 3], [float(rng.uniform(0.3, 1.2))])
    if config.noise > 0:
        sigma = float(rng.uniform(0.0, config.noise))
        grain = rng.standard_normal(rgb.shape, dtype=np.float32)
        rgb = (rgb + sigma * torch.from_numpy(grain)).clamp(0.0, 1.0)
    if config.dark > 0 and rng.random() < config.dark:
        factor = math.exp(rng.uniform(math.log(_DARKEST), 0.0))
        rgb = under_exposed(rgb, factor, rng)
    return rgb


def under_exposed(rgb: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    """What a camera makes of a scene that reaches it with a fraction of the light.

    Light is scaled on its linear scale and counted in electrons with photon and read noise
    (EMVA 1288's linear camera model); the tone curve of sRGB goes off before and on again after.

    Args:
        rgb: (3, H, W) in [0, 1], well exposed.
        factor: share of the light, above 0.
        rng: source of chance.
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    electrons = linear * (factor * _FULL_WELL)
    noise = torch.from_numpy(rng.standard_normal(rgb.shape, dtype=np.float32))
    electrons = electrons + noise * (electrons + _READ_NOISE**2).sqrt()
    linear = (electrons / _FULL_WELL).clamp(0.0, 1.0)
    rgb = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (rgb * 255).round() / 255  # little is left between 8-bit steps
