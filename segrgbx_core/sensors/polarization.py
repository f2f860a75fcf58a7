"""Polarization: images behind four polarizers become degree and angle of linear polarization.

Behind a polarizer at angle a the intensity is I_a = (S0 + S1 cos 2a + S2 sin 2a) / 2. From 0, 45,
90 and 135 degrees follow the linear Stokes parameters

    S0 = (I0 + I45 + I90 + I135) / 2,  S1 = I0 - I90,  S2 = I45 - I135,

the degree of linear polarization DoLP = sqrt(S1^2 + S2^2) / S0 in [0, 1] and its angle AoLP =
atan2(S2, S1) / 2 in (-pi/2, pi/2]. Differences are taken after widening: in uint8 they wrap
round.

Sensors of the IMX250MZR family have one polarizer per pixel in 2 x 2 cells, (0,0) = 90, (0,1) =
45, (1,0) = 135, (1,1) = 0 degrees; drivers publish that mosaic as plain mono8 or mono16. The
angle is circular, so nothing here averages, blurs or resizes it; only intensities are
interpolated.

- `stokes`: DoLP, sin 2 AoLP, cos 2 AoLP. No wrap: 0 and pi get the same colour.
- `aolp`: (AoLP + pi/2) / pi, one value in three channels, or one per colour of a colour camera.
- `dolp`: DoLP, likewise.
"""

from __future__ import annotations

from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from segrgbx_core.base.config import Config, option
from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.samples import Array
from segrgbx_core.sensors.content import XContent, on_grid, picture_content, unused_bits
from segrgbx_core.sensors.picture import (
    XImage,
    from_picture,
    full_scale,
    grey,
    require_array,
)

ANGLES = (0, 45, 90, 135)
"""Polarizer angles in degrees, in the order of channels everywhere."""

_Plane = NDArray[np.float32]


class PolarizationRepresentation(str, Enum):
    """What the X image of polarization shows."""

    STOKES = "stokes"
    AOLP = "aolp"
    DOLP = "dolp"


class PolarizationLayout(str, Enum):
    """How the driver delivers polarization."""

    MOSAIC = "mosaic"
    """The sensor's mosaic, (H, W)."""
    CHANNELS4 = "channels4"
    """Intensities at 0, 45, 90, 135 degrees, (H, W, 4); (H, W, 4, 3) from a colour camera."""
    AOLP_DOLP = "aolp_dolp"
    """AoLP in rad and DoLP, float (H, W, 2)."""
    RGB = "rgb"
    """An X image that is already drawn, (H, W, 3) or (H, W)."""


class PolarizationEncoding(Config):
    """How polarization becomes the X image."""

    representation: PolarizationRepresentation = option(
        PolarizationRepresentation.STOKES,
        doc="DoLP with sine and cosine of twice AoLP, AoLP alone, or DoLP alone",
    )
    full_resolution: bool = option(
        False, doc="interpolate a mosaic to one value per sensor pixel instead of one per 2x2 cell"
    )
    dark_level: float = option(
        0.02,
        doc="mean intensity, as share of full scale, below which a pixel is blanked as noise",
        low=0,
        high=1,
    )


class PolarizationSensor(Config):
    """Facts about the polarization driver."""

    layout: PolarizationLayout = option(
        PolarizationLayout.MOSAIC,
        doc="mosaic image, four angle channels, AoLP with DoLP, or a picture already drawn",
    )
    pattern: tuple[int, int, int, int] = option(
        (90, 45, 135, 0),
        doc="polarizer angles of a 2x2 cell: top left, top right, bottom left, bottom right",
        unit="deg",
    )
    full_scale: float = option(
        0.0,
        doc="brightest value, such as 4095 for 12 bits; 0 for the type's largest, 1 for floats",
        low=0,
        high=65535,
    )

    @model_validator(mode="after")
    def _check_pattern(self) -> PolarizationSensor:
        if tuple(sorted(self.pattern)) != ANGLES:
            raise ValueError(f"pattern {list(self.pattern)} must hold 0, 45, 90 and 135 once each")
        return self


def from_raw(x: Array, encoding: PolarizationEncoding, sensor: PolarizationSensor) -> XImage:
    """The X image of what a polarization camera or converter publishes.

    Args:
        x: as `sensor.layout` says; intensities uint8, uint16 or float in [0, full scale].
        encoding: the checkpoint's representation.
        sensor: layout, mosaic pattern and full scale.

    Returns:
        float32 (h, w, 3) in [0, 1]; a mosaic gives half its height and width unless
        `full_resolution`.

    Raises:
        EncodingError: where type or shape do not fit the layout.
    """
    require_array(x, "polarization")
    if sensor.layout is PolarizationLayout.RGB:
        return from_image(x)
    if sensor.layout is PolarizationLayout.AOLP_DOLP:
        return _from_aolp_dolp(x, encoding.representation)
    _require_intensities(x, sensor.layout)
    brightest = sensor.full_scale or full_scale(x.dtype)
    if np.issubdtype(x.dtype, np.floating):
        x = np.clip(np.nan_to_num(x, posinf=brightest), 0, brightest)
    if sensor.layout is PolarizationLayout.MOSAIC:
        split = _interpolate if encoding.full_resolution else _superpixels
        planes = split(_require_mosaic(x), sensor.pattern)
    else:
        planes = _angle_channels(x)
    s0, s1, s2 = stokes_parameters(*planes)
    return _render(s0, s1, s2, encoding, brightest)


def from_image(x: Array) -> XImage:
    """The X image of a polarization picture as data sets store it; see `from_picture`."""
    return from_picture(x, "polarization")


def content(x: Array, encoding: PolarizationEncoding, sensor: PolarizationSensor) -> XContent:
    """Content of a polarization image; arguments and errors as of `from_raw`."""
    require_array(x, "polarization")
    if sensor.layout is PolarizationLayout.RGB:
        return picture_content(x, "polarization")
    if sensor.layout is PolarizationLayout.AOLP_DOLP:
        _require_angles(x)
        return on_grid(x, _angle_content)
    _require_intensities(x, sensor.layout)
    return on_grid(x, lambda part: _intensity_content(part, encoding, sensor))


def _angle_content(x: Array) -> XContent:
    valid = np.asarray(np.isfinite(x).all(axis=2))
    dolp = x[..., 1]
    stats = XContent.of(dolp, valid, valid & (dolp > 0), "DoLP")
    if not stats.valid:
        return stats.empty("every pixel is NaN or infinite")
    return stats.empty("DoLP is 0 in every pixel: is it computed?") if stats.is_empty else stats


def _intensity_content(
    x: Array, encoding: PolarizationEncoding, sensor: PolarizationSensor
) -> XContent:
    brightest = sensor.full_scale or full_scale(x.dtype)
    valid = np.asarray(np.isfinite(x))
    lit = valid & (x >= max(encoding.dark_level * brightest, 1e-6))
    usable = lit & (x < brightest)
    stats = XContent.of(x, valid, usable, "counts" if x.dtype.kind == "u" else "")
    if not stats.valid:
        return stats.empty("every pixel is NaN or infinite")
    bits = "" if sensor.full_scale else unused_bits(x)
    if bits:
        bits += " set sensor.polarization.full_scale"
    if not stats.is_empty:
        return stats.suspect(bits) if bits else stats
    if lit.any() and stats.median >= brightest:
        return stats.empty(
            f"saturated, the median is {stats.median:g} of {brightest:g}: exposure too long?"
        )
    dark = f"no light, the median is {stats.median:g} of {brightest:g}"
    return stats.empty(f"{dark}: {bits or 'lens covered, or exposure too short?'}")


def stokes_parameters(i0: _Plane, i45: _Plane, i90: _Plane, i135: _Plane) -> tuple[_Plane, ...]:
    """S0, S1, S2 of float intensities behind polarizers at 0, 45, 90 and 135 degrees."""
    s0 = i0 + i90
    s0 += i45
    s0 += i135
    s0 *= np.float32(0.5)
    return s0, i0 - i90, i45 - i135


def flip_horizontally(x_image: XImage, representation: PolarizationRepresentation) -> XImage:
    """A polarization X image of the mirrored scene.

    A mirror turns the polarization plane too: angle a becomes -a, so sin 2a changes sign while
    cos 2a and DoLP stay. Mirroring pixels alone would show a scene that cannot exist.

    Args:
        x_image: float32 (h, w, 3) in [0, 1].
        representation: what its channels mean.

    Returns:
        a new float32 (h, w, 3).
    """
    mirrored = x_image[:, ::-1].copy()
    if representation is PolarizationRepresentation.STOKES:
        mirrored[..., 1] = 1 - mirrored[..., 1]
    elif representation is PolarizationRepresentation.AOLP:
        mirrored = 1 - mirrored
    return mirrored


def _mean_of_colours(plane: _Plane) -> _Plane:
    # The same bits as plane.mean(axis=2), which is six times slower over an axis of three.
    total = plane[..., 0] + plane[..., 1]
    total += plane[..., 2]
    total /= np.float32(3)
    return total


def _render(
    s0: _Plane, s1: _Plane, s2: _Plane, encoding: PolarizationEncoding, brightest: float
) -> XImage:
    is_colour = s0.ndim == 3
    if is_colour and encoding.representation is PolarizationRepresentation.STOKES:
        # Stokes parameters are linear in light: the mean over colours is that of a grey camera.
        s0, s1, s2 = (_mean_of_colours(plane) for plane in (s0, s1, s2))
    # Not cv2.magnitude: its last bit depends on where arrays lie in memory, so runs would differ.
    polarized = np.sqrt(s1 * s1 + s2 * s2)
    is_dark = s0 < np.float32(max(2 * encoding.dark_level * brightest, 1e-6))
    with np.errstate(divide="ignore", invalid="ignore"):
        dolp = np.minimum(polarized / s0, np.float32(1))
    np.copyto(dolp, 0, where=is_dark)
    if encoding.representation is PolarizationRepresentation.STOKES:
        is_dark |= polarized == 0
        half = np.float32(0.5) / np.where(is_dark, np.float32(np.inf), polarized)
        return _merge(dolp, s2 * half + np.float32(0.5), s1 * half + np.float32(0.5))
    shown = dolp
    if encoding.representation is PolarizationRepresentation.AOLP:
        shown = _aolp_level(np.arctan2(s2, s1) / np.float32(2))
        np.copyto(shown, 0.5, where=is_dark | (polarized == 0))
    return shown if is_colour else grey(shown)


def _require_intensities(x: Array, layout: PolarizationLayout) -> None:
    if x.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise EncodingError(
            f"polarization x: intensities of {x.dtype} are not supported; "
            "use uint8, uint16 or float32"
        )
    if layout is PolarizationLayout.MOSAIC:
        _require_mosaic(x)
    elif x.ndim not in (3, 4) or x.shape[2] != 4 or (x.ndim == 4 and x.shape[3] != 3):
        raise EncodingError(
            f"polarization x: shape {x.shape} does not fit layout channels4; "
            "expected (h, w, 4) or (h, w, 4, 3) at 0, 45, 90, 135 degrees; "
            "set sensor.polarization.layout"
        )


def _require_angles(x: Array) -> None:
    if x.ndim != 3 or x.shape[2] != 2 or not np.issubdtype(x.dtype, np.floating):
        raise EncodingError(
            f"polarization x: shape {x.shape} of {x.dtype} does not fit layout aolp_dolp; "
            "expected (h, w, 2) of float32: AoLP in rad, DoLP; set sensor.polarization.layout"
        )


def _from_aolp_dolp(x: Array, representation: PolarizationRepresentation) -> XImage:
    _require_angles(x)
    aolp, dolp = x[..., 0].astype(np.float32), x[..., 1].astype(np.float32)
    is_blank = ~(np.isfinite(aolp) & (dolp > 0))
    dolp = np.clip(dolp, 0, 1)
    np.copyto(dolp, 0, where=is_blank)
    if representation is PolarizationRepresentation.DOLP:
        return grey(dolp)
    np.copyto(aolp, 0, where=is_blank)
    if representation is PolarizationRepresentation.AOLP:
        # Any multiple of pi may have been added; bring the angle back to (-pi/2, pi/2].
        return grey(
            _aolp_level(aolp - np.float32(np.pi) * np.ceil(aolp / np.float32(np.pi) - 0.5))
        )
    sine, cosine = np.sin(2 * aolp), np.cos(2 * aolp)
    np.copyto(cosine, 0, where=is_blank)
    half = np.float32(0.5)
    return _merge(dolp, sine * half + half, cosine * half + half)


def _aolp_level(aolp: _Plane) -> _Plane:
    return np.clip(aolp / np.float32(np.pi) + np.float32(0.5), 0, 1)


def _merge(red: _Plane, green: _Plane, blue: _Plane) -> XImage:
    merged = np.asarray(cv2.merge([red, green, blue]), dtype=np.float32)
    return np.clip(merged, 0, 1, out=merged)


def _require_mosaic(x: Array) -> Array:
    mosaic = x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x
    if mosaic.ndim != 2:
        raise EncodingError(
            f"polarization x: shape {x.shape} does not fit layout mosaic; expected (h, w); "
            "set sensor.polarization.layout to channels4, aolp_dolp or rgb"
        )
    if min(mosaic.shape) < 2:
        raise EncodingError(
            f"polarization x: {mosaic.shape[1]}x{mosaic.shape[0]} pixels hold no 2x2 cell; "
            "check the topic"
        )
    return mosaic


def _cells(pattern: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    return {angle: divmod(index, 2) for index, angle in enumerate(pattern)}


def _superpixels(mosaic: Array, pattern: tuple[int, ...]) -> list[_Plane]:
    even = mosaic[: mosaic.shape[0] // 2 * 2, : mosaic.shape[1] // 2 * 2]
    cells = _cells(pattern)
    return [even[row::2, col::2].astype(np.float32) for row, col in (cells[a] for a in ANGLES)]


def _interpolate(mosaic: Array, pattern: tuple[int, ...]) -> list[_Plane]:
    size = (mosaic.shape[1], mosaic.shape[0])
    planes = []
    for row, col in (_cells(pattern)[angle] for angle in ANGLES):
        samples = mosaic[row::2, col::2].astype(np.float32)
        to_samples = np.array([[0.5, 0, -0.5 * col], [0, 0.5, -0.5 * row]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        planes.append(
            cv2.warpAffine(samples, to_samples, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        )
    return planes


def _angle_channels(x: Array) -> list[_Plane]:
    return [x[:, :, index].astype(np.float32) for index in range(4)]
