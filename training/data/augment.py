"""Augmentation: one geometry for RGB, X and labels, photometry on RGB only.

Everything is a function of the arrays and of one `numpy` generator, so that a sample of a run can
be made again from its number. Tensors are (3, H, W) in [0, 1] and int64 (H, W) for labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.modality import Modality
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.runtime.batch import Window, fit_to_model
from segrgbx_core.sensors import EncodingConfig, flip_horizontally, resamples_linearly

_DARKEST = 0.006
"""Smallest share of the light that `AugmentConfig.dark` leaves."""
_FULL_WELL, _READ_NOISE = 4000.0, 3.5
"""In electrons, of a small industrial sensor at a few decibels of gain."""


class ScaleOf(str, Enum):
    """What a scale of `AugmentConfig` is relative to."""

    FRAME = "frame"
    """The frame: a scale enlarges its pixels, drawn evenly on a logarithmic axis."""
    CROP = "crop"
    """The crop: the frame's short side becomes scale times the crop's, drawn evenly. Frames of any
    resolution are seen as large as when whole frames are scored at the crop's size, which is
    scale 1."""


class AugmentConfig(Config):
    """The paper's augmentation (IV-A): scale, flip, crop, colour jitter and blur."""

    crop_height: int = option(512, doc="height of a training image", unit="px", low=32, high=8192)
    crop_width: int = option(512, doc="width of a training image", unit="px", low=32, high=8192)
    scale_of: ScaleOf = option(
        ScaleOf.FRAME,
        doc="what scales are relative to: frame (1 keeps its pixels) or crop (1 makes the frame's "
        "short side as long as the crop's)",
    )
    min_scale: float = option(0.5, doc="smallest scale before the crop", low=0.1, high=8)
    max_scale: float = option(2.0, doc="largest scale before the crop", low=0.1, high=8)
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
    of_frame = scale if config.scale_of is ScaleOf.FRAME else 1.0
    return config.model_copy(
        update={
            "crop_height": max(32, round(config.crop_height * scale)),
            "crop_width": max(32, round(config.crop_width * scale)),
            "min_scale": config.min_scale * of_frame,
            "max_scale": config.max_scale * of_frame,
        }
    )


@dataclass(frozen=True, eq=False)
class Views:
    """RGB, X and labels of one field of view; on one grid after the crop.

    Attributes:
        rgb: (3, H, W), uint8 as read from disk, float32 in [0, 1] after the crop.
        x: float32 (3, h, w) in [0, 1], the encoder's X image, at its own resolution before.
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
        rng: random generator.

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


def _draw_window(
    height: int, width: int, config: AugmentConfig, rng: np.random.Generator
) -> Window:
    # Enlarging the image and then cropping is the same as cropping a smaller window and enlarging
    # that, for a fraction of the work.
    low, high = config.min_scale, config.max_scale
    if config.scale_of is ScaleOf.CROP:
        scale = rng.uniform(low, high) if high > low else low
        scale *= min(config.crop_height, config.crop_width) / min(height, width)
    else:
        scale = math.exp(rng.uniform(math.log(low), math.log(high))) if high > low else low
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
    """Draws a window of RGB's grid, and the same part of X, at a size, mirrored where asked.

    Each image is resampled once, as the model's input is at run time (`fit_to_model`): labels,
    events and polarization angles by the nearest pixel. What lies beyond the image is 0 in RGB and
    X and void in the labels.
    """
    beyond = torch.zeros(3, 1, 1)
    if flipped:
        beyond = _mirrored(beyond, views.modality, encoding)  # mirrored again, it is 0
    rows, columns = (
        x / rgb for x, rgb in zip(views.x.shape[1:], views.rgb.shape[1:], strict=True)
    )
    linear = resamples_linearly(views.modality, encoding)
    views = replace(
        views,
        rgb=fitted(views.rgb, size, window=window),
        x=fitted(views.x, size, linear, window.scaled(rows, columns), beyond.flatten().tolist()),
        labels=fitted(views.labels[None], size, False, window, (VOID,), is_picture=False)[0],
    )
    return mirror(views, encoding) if flipped else views


def fitted(
    image: Tensor,
    size: tuple[int, int],
    linear: bool = True,
    window: Window | None = None,
    fill: Sequence[float] = (0.0,),
    is_picture: bool = True,
) -> Tensor:
    """An image (C, h, w), or a window of it, on the model's grid, (C, H, W).

    Arguments as in `fit_to_model`. Pictures of uint8 become float32 in [0, 1], as for the model.
    """
    channels = len(image)
    is_grey = channels == len(fill) == 3 and image.stride(0) == 0 and len(set(fill)) == 1
    pixels = (image[:1] if is_grey else image).permute(1, 2, 0).numpy()  # a grey X is kept once
    drawn = fit_to_model(pixels, *size, linear, window, fill[:1] if is_grey else fill)
    tensor = torch.from_numpy(np.ascontiguousarray(drawn)).permute(2, 0, 1)
    if is_picture and image.dtype == torch.uint8:
        tensor = tensor.float() / 255.0
    return tensor.expand(channels, -1, -1)


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
        rng: random generator.
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
        rng: random generator.
    """
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    electrons = linear * (factor * _FULL_WELL)
    noise = torch.from_numpy(rng.standard_normal(rgb.shape, dtype=np.float32))
    electrons = electrons + noise * (electrons + _READ_NOISE**2).sqrt()
    linear = (electrons / _FULL_WELL).clamp(0.0, 1.0)
    rgb = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (rgb * 255).round() / 255  # little is left between 8-bit steps
