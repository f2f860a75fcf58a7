"""The RGB camera: exposure, lens, photon and read noise, tone curve, compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.rays.vectors import Floats

KEY = 0.15
"""Radiance times exposure that an average scene is brought to."""
HIGHLIGHT = 0.85
"""Largest value that the brightest fifth of an image may start at."""
MAX_GAIN = 14.0
FULL_WELL = 9000.0
READ_NOISE = 3.5
BLUR_PX = 0.5
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True)
class Exposure:
    """How bright and how noisy the camera renders radiance 1.

    Attributes:
        gain: metered factor from radiance to the tone curve's input.
        factor: a wrong exposure on top of it, 1 for none.
    """

    gain: float
    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class Response:
    """What a camera makes of light; the defaults are those of `tone`.

    Attributes:
        exposure: factor on the metered exposure: metered on the ground, on the sky.
        matrix: from sensor colours to linear RGB, white balance included, (3, 3); None for none.
        veil: share of the mean light that the lens scatters over the image.
        gamma: exponent of the tone curve; None for sRGB's.
        contrast: share of an S-shaped curve after it; below 0 the curve is flattened.
        black: level of black, in [0, 1).
    """

    exposure: float = 1.0
    matrix: Floats | None = None
    veil: float = 0.0
    gamma: float | None = None
    contrast: float = 0.0
    black: float = 0.0


@dataclass(frozen=True)
class Readout:
    """What lens, electronics and file format do to an image; the defaults do nothing more.

    Attributes:
        blur_px: standard deviation of the lens's blur at 320 px of width.
        vignette: loss of light in the corners.
        noise: factor on photon and read noise.
        band: amplitude of bands that a rolling shutter makes of flickering lamps.
        band_period: of the bands, as a share of the height.
        sharpen: weight of an unsharp mask.
        chroma_px: blur of the colours alone, at 320 px of width.
        scale: resolution that is left, as a share.
        quality: of JPEG; 0 leaves the image as it is.
    """

    blur_px: float = BLUR_PX
    vignette: float = 0.0
    noise: float = 1.0
    band: float = 0.0
    band_period: float = 0.3
    sharpen: float = 0.0
    chroma_px: float = 0.0
    scale: float = 1.0
    quality: int = 0


PLAIN_RESPONSE, PLAIN_READOUT = Response(), Readout()


def draw_response(rng: np.random.Generator) -> Response:
    """A camera's response as widely as cameras differ; see `docs/data.md`."""
    metering = float(rng.choice([1.0, 0.5, 1.9], p=[0.5, 0.2, 0.3]))
    saturation = rng.uniform(0.25, 1.15)
    mixing = saturation * np.eye(3) + (1 - saturation) * LUMA + rng.normal(0, 0.03, (3, 3))
    mixing /= mixing.sum(axis=1, keepdims=True)
    balance = 2.0 ** rng.normal(0, [0.18, 0.05, 0.22])
    return Response(
        exposure=metering * 2.0 ** float(np.clip(rng.normal(0, 0.45), -1.2, 1.2)),
        matrix=(balance[:, None] * mixing).astype(np.float32),
        veil=float(rng.uniform(0, 0.15) * (rng.uniform() < 0.5)),
        gamma=float(rng.uniform(1.7, 2.7)),
        contrast=float(rng.uniform(-0.15, 0.6)),
        black=float(rng.uniform(0, 0.12) * (rng.uniform() < 0.4)),
    )


def draw_readout(rng: np.random.Generator) -> Readout:
    """A camera's flaws as widely as cameras differ; see `docs/data.md`."""

    def sometimes(share: float, low: float, high: float, otherwise: float = 0.0) -> float:
        value = float(rng.uniform(low, high))
        return value if rng.uniform() < share else otherwise

    return Readout(
        blur_px=float(rng.uniform(0.35, 1.0)),
        vignette=sometimes(0.5, 0.0, 0.45),
        noise=2.0 ** float(rng.uniform(-1.5, 2)),
        band=sometimes(0.25, 0.005, 0.05),
        band_period=float(rng.uniform(0.05, 0.6)),
        sharpen=sometimes(0.6, 0.2, 1.5),
        chroma_px=sometimes(0.6, 0.6, 2.0),
        scale=sometimes(0.35, 0.45, 0.95, 1.0),
        quality=int(sometimes(0.8, 25, 96)),
    )


def meter(radiance: Floats) -> Exposure:
    """Automatic exposure from the log mean of the lower two thirds of an image (H, W, 3)."""
    lower = radiance[radiance.shape[0] // 3 :].mean(axis=2)
    mean = float(np.exp(np.log(np.maximum(lower, 1e-4)).mean()))
    highlight = float(np.percentile(radiance[::4, ::4].mean(axis=2), 80))
    gain = min(KEY / mean, HIGHLIGHT / max(highlight, 1e-4))
    return Exposure(float(np.clip(gain, 0.3, MAX_GAIN)))


def photograph(
    radiance: Floats,
    exposure: Exposure,
    rng: np.random.Generator,
    response: Response = PLAIN_RESPONSE,
    readout: Readout = PLAIN_READOUT,
) -> NDArray[np.uint8]:
    """An 8-bit picture of linear radiance (H, W, 3)."""
    gain = exposure.gain * exposure.factor * response.exposure
    scale = radiance.shape[1] / 320
    bright = np.clip(radiance * np.float32(gain), 0, 12)
    glare = np.maximum(bright - 0.9, 0)
    if float(glare.max()) > 0.2:
        bright = bright + 0.05 * cv2.GaussianBlur(glare, (0, 0), 2.2 * scale)
        bright = bright + 0.03 * cv2.GaussianBlur(glare, (0, 0), 8.0 * scale)
    if response.veil > 0:
        bright = _veiled(bright, response.veil)
    if readout.vignette > 0:
        bright = bright * _vignette(bright.shape[:2], readout.vignette)[..., None]
    blur = BLUR_PX if readout is PLAIN_READOUT else max(0.2, readout.blur_px * scale)
    bright = cv2.GaussianBlur(bright, (0, 0), blur)
    well = FULL_WELL / max(exposure.gain, 1.0)
    electrons = bright * np.float32(well)
    noise = rng.standard_normal(electrons.shape, dtype=np.float32)
    spread = np.sqrt(np.maximum(electrons, 0) + np.float32(READ_NOISE**2))
    electrons = electrons + noise * (spread * np.float32(readout.noise))
    linear = np.maximum(electrons, 0) / np.float32(well)
    if readout.band > 0:
        rows = np.arange(len(linear)) / (readout.band_period * len(linear)) + rng.uniform()
        linear = linear * (1 + readout.band * np.sin(2 * np.pi * rows))[:, None, None]
    return _finished(tone(linear.astype(np.float32), response), readout)


def tone(linear: Floats, response: Response = PLAIN_RESPONSE) -> NDArray[np.uint8]:
    """A tone curve with a soft shoulder, to 8 bits; sRGB's where the response names no gamma."""
    if response.matrix is not None:
        linear = np.maximum(linear @ response.matrix.T, 0)
    soft = np.where(linear < 0.7, linear, 0.7 + 0.3 * (1 - np.exp(-(linear - 0.7) / 0.45)))
    if response.gamma is None:
        curve = np.where(
            soft <= 0.0031308,
            12.92 * soft,
            1.055 * np.power(np.maximum(soft, 1e-6), 1 / 2.4) - 0.055,
        )
    else:
        curve = np.power(np.maximum(soft, 1e-6), 1 / response.gamma)
        curve = curve + response.contrast * (curve * curve * (3 - 2 * curve) - curve)
        curve = response.black + (1 - response.black) * curve
    return np.clip(curve * 255 + 0.5, 0, 255).astype(np.uint8)


def _veiled(bright: Floats, veil: float) -> Floats:
    """Light scattered in the lens: half evenly, half about where it came from."""
    around = cv2.GaussianBlur(bright, (0, 0), 0.15 * bright.shape[1])
    scattered = 0.5 * bright.mean(axis=(0, 1)) + 0.5 * around
    return np.asarray((1 - veil) * bright + veil * scattered, np.float32)


def _vignette(size: tuple[int, int], loss: float) -> Floats:
    row, column = (np.linspace(-1, 1, count, dtype=np.float32) for count in size)
    return 1 - np.float32(loss) * (row[:, None] ** 2 + column[None] ** 2) / 2


def _finished(picture: NDArray[np.uint8], readout: Readout) -> NDArray[np.uint8]:
    """Sharpening, loss of resolution and compression of an 8-bit picture."""
    if readout is PLAIN_READOUT:
        return picture
    height, width = picture.shape[:2]
    if readout.scale < 1:
        small = max(8, round(width * readout.scale)), max(8, round(height * readout.scale))
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    if readout.chroma_px > 0:
        luma, *chroma = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb))
        sigma = readout.chroma_px * width / 320
        chroma = [cv2.GaussianBlur(plane, (0, 0), sigma) for plane in chroma]
        picture = cv2.cvtColor(cv2.merge([luma, *chroma]), cv2.COLOR_YCrCb2RGB)
    if readout.sharpen > 0:
        soft = cv2.GaussianBlur(picture, (0, 0), 1.2)
        picture = cv2.addWeighted(picture, 1 + readout.sharpen, soft, -readout.sharpen, 0)
    if readout.quality > 0:
        options = [cv2.IMWRITE_JPEG_QUALITY, readout.quality]
        coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1]
        decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
        picture = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(picture, np.uint8)
