"""Messages to arrays and back, by field.

Nothing here imports ROS, so rclpy's and rosbags' messages are read alike. Colours come out as RGB
whatever order they travel in. Plain layouts are views into the message without a copy; `step`
padding and byte order are honoured. Bayer and YUV go through cv_bridge where it is installed and
through OpenCV otherwise, with equal results.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import DataError, EncodingError, shortened
from segrgbx_core.base.images import decode_image, encoded_size, size_fault
from segrgbx_core.base.samples import Array

NS_PER_S = 1_000_000_000
_MAX_NIBBLES = 11  # of an RVL number, three bits each: enough for 32 bits


@dataclass(frozen=True)
class _Layout:
    """How the pixels of one encoding lie in memory.

    Attributes:
        dtype: of one channel.
        channels: in one pixel.
        to_rgb: OpenCV conversion that gives RGB, None where the channels are right as they are.
    """

    dtype: str
    channels: int
    to_rgb: int | None = None


_COLOUR = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
}
_LAYOUTS = {"mono8": _Layout("u1", 1), "mono16": _Layout("u2", 1)} | {
    f"{name}{8 * size}": _Layout(f"u{size}", channels, code)
    for name, (channels, code) in _COLOUR.items()
    for size in (1, 2)
}
# OpenCV names a Bayer pattern after its second row, ROS after its first.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_YUV = {
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
}
_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21, "nv24": None}
_GENERIC = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)C(\d{0,3})")
_KINDS = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}
COLOUR_ENCODINGS = (
    *(f"{name}{bits}" for name in _COLOUR for bits in (8, 16)),
    *(f"bayer_{pattern}{bits}" for pattern in _BAYER for bits in (8, 16)),
    *_YUV,
    *_PLANAR,
)
_BLUE_FIRST = {"8UC3": cv2.COLOR_BGR2RGB, "8UC4": cv2.COLOR_BGRA2RGB}
"""Encodings that name no colour order, as OpenCV fills them."""
PICTURE_ENCODINGS = (*COLOUR_ENCODINGS, "mono8", "mono16", "8UC1", "16UC1", *_BLUE_FIRST)
RGB_ENCODINGS = tuple(name for name in PICTURE_ENCODINGS if name != "16UC1")
WHITE = 65535
"""Full scale of a 16-bit camera whose driver fills all bits."""


def stamp_ns(message: Any) -> int:
    """Stamp of a message with a header, in ns; 0 where the driver sets none.

    Serialised messages, which event arrays travel as, are read in place.
    """
    if isinstance(message, bytes):
        return _serialised_stamp_ns(message)
    stamp = message.header.stamp
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def is_compressed(message: Any) -> bool:
    """True for sensor_msgs/CompressedImage, False for sensor_msgs/Image."""
    return hasattr(message, "format")


def encoding_of(message: Any) -> str:
    """`encoding` of an Image or EventPacket, `format` of a CompressedImage."""
    if isinstance(message, bytes):
        return "serialised"
    return str(message.format if is_compressed(message) else message.encoding)


def any_array(
    message: Any, encoding: str = "", *, allowed: Sequence[str] = (), mosaic: bool = False
) -> Array:
    """Array of an Image or CompressedImage; see `image_array` and `compressed_array`."""
    if is_compressed(message):
        return compressed_array(message)
    return image_array(message, encoding, allowed=allowed, mosaic=mosaic)


def image_array(
    message: Any, encoding: str = "", *, allowed: Sequence[str] = (), mosaic: bool = False
) -> Array:
    """Array of a sensor_msgs/Image.

    Args:
        message: of rclpy (data is `array.array`) or rosbags (data is an ndarray).
        encoding: used instead of the message's own where the driver names a wrong one.
        allowed: encodings that make sense here; empty for all.
        mosaic: True to get a Bayer image as it is, (H, W), instead of demosaiced.

    Returns:
        (H, W) or (H, W, C) in the encoding's dtype and native byte order, colours as RGB without
        alpha. A view into the message wherever the layout allows.

    Raises:
        EncodingError: for an unknown or not allowed encoding, an empty image, a wrong step, short
            data.
    """
    name = encoding or str(message.encoding)
    height, width = int(message.height), int(message.width)
    if allowed and not _matches(name, allowed):
        text = f"encoding '{shortened(name)}' is not supported here; use {', '.join(allowed)}"
        raise EncodingError(text)
    if fault := size_fault(height, width):
        raise EncodingError(fault)
    if name in _PLANAR:
        return _from_semi_planar(_planes(message, name, height, width), name, height, width)
    if name in _YUV:
        pixels = _plain(message, name, height, width, _Layout("u1", 2))
        return _convert(message, pixels, name, _YUV[name], width % 2 == 0)
    if name.startswith("bayer_") and name[6:10] in _BAYER and name[10:] in ("8", "16"):
        pixels = _plain(message, name, height, width, _Layout(f"u{int(name[10:]) // 8}", 1))
        if mosaic:
            return pixels
        return _convert(message, pixels, name, _BAYER[name[6:10]], min(height, width) > 1)
    layout = _LAYOUTS.get(name) or _generic(name)
    if layout is None:
        text = f"encoding '{shortened(name)}' is unknown; use one that sensor_msgs names"
        raise EncodingError(text)
    pixels = _plain(message, name, height, width, layout)
    if layout.to_rgb is None:
        return pixels
    if pixels.strides[0] % pixels.itemsize:  # OpenCV takes no rows that begin within a number
        pixels = np.ascontiguousarray(pixels)
    return cv2.cvtColor(pixels, layout.to_rgb)


def compressed_array(message: Any) -> Array:
    """Array of a sensor_msgs/CompressedImage: JPEG, PNG or TIFF at full depth, or compressedDepth.

    Returns:
        (H, W) or (H, W, 3), uint8 or uint16 as stored, colours as RGB; compressedDepth gives
        uint16 counts or float32 metres with NaN where nothing was measured.

    Raises:
        EncodingError: when there is no data, it states an absurd size or does not decode.
    """
    data = np.frombuffer(message.data, np.uint8)
    if data.size == 0:
        raise EncodingError("compressed image without data")
    form = str(message.format)
    if "compressedDepth" in form:
        return _compressed_depth(data, form)
    return _decode(data, form)


def picture_array(
    message: Any, encoding: str = "", *, allowed: Sequence[str] = PICTURE_ENCODINGS
) -> Array:
    """Grey or RGB picture of an Image or CompressedImage, (H, W) or (H, W, 3).

    8UC3 and 8UC4 name no colour order; they are taken as OpenCV fills them, blue first.

    Args:
        message: of rclpy or rosbags.
        encoding: used instead of an Image's own where the driver names a wrong one.
        allowed: encodings that make sense here.

    Returns:
        uint8 or uint16 as stored.

    Raises:
        EncodingError: as `image_array` and `compressed_array`, and when the channels are no
            colours.
    """
    pixels = any_array(message, encoding, allowed=allowed)
    if not is_compressed(message):
        code = _BLUE_FIRST.get(encoding or str(message.encoding))
        pixels = pixels if code is None else cv2.cvtColor(pixels, code)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[2:] not in ((), (3,)):
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        raise EncodingError(f"{channels} channels of {pixels.dtype} are no picture")
    return pixels


def rgb_array(message: Any, encoding: str = "", full_scale: int = WHITE) -> Array:
    """RGB picture of an Image or CompressedImage, uint8 (H, W, 3); see `picture_array`.

    Grey becomes three equal channels.

    Args:
        message: of rclpy or rosbags.
        encoding: used instead of an Image's own where the driver names a wrong one.
        full_scale: white of a camera of 16 bits; 4095 for 12 bits at the lower end.

    Raises:
        EncodingError: as `picture_array`.
    """
    return rgb_of(picture_array(message, encoding, allowed=RGB_ENCODINGS), full_scale)


def rgb_of(pixels: Array, full_scale: int = WHITE) -> NDArray[np.uint8]:
    """An RGB picture of 8 bits, (H, W, 3), of what `picture_array` gives."""
    if pixels.dtype == np.uint16:
        pixels = (
            (pixels >> 8).astype(np.uint8)
            if full_scale == WHITE
            else _to_8_bits(full_scale)[pixels]
        )
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


@cache
def _to_8_bits(full_scale: int) -> NDArray[np.uint8]:
    """8-bit value of every 16-bit one; those above white are white."""
    shares = np.minimum(np.arange(1 << 16) / full_scale, 1.0)
    return np.rint(255 * shares).astype(np.uint8)


def fill_image(message: Any, pixels: Array, encoding: str) -> Any:
    """Fills a sensor_msgs/Image with an array, rows without padding; the header is left alone.

    Args:
        message: to be filled and returned.
        pixels: (H, W) or (H, W, C), channels in the order that `encoding` names.
        encoding: name from sensor_msgs.
    """
    pixels = np.ascontiguousarray(pixels)
    message.height, message.width = pixels.shape[:2]
    message.encoding = encoding
    message.is_bigendian = int(sys.byteorder == "big")
    message.step = pixels.strides[0]
    # array.array filled at once: any other type makes rclpy copy element by element (hundreds of
    # ms).
    data = array("B")
    data.frombytes(pixels.data.cast("B"))
    message.data = data
    return message


def _serialised_stamp_ns(raw: bytes) -> int:
    if len(raw) < 12:
        return 0
    order = "<" if raw[1] & 1 else ">"
    sec, nanosec = struct.unpack_from(f"{order}iI", raw, 4)
    return int(sec) * NS_PER_S + int(nanosec)


def _matches(name: str, allowed: Sequence[str]) -> bool:
    # sensor_msgs lets a channel count of one be left out: 16UC is 16UC1.
    return name in allowed or (_generic(name) is not None and f"{name}1" in allowed)


def _generic(name: str) -> _Layout | None:
    match = _GENERIC.fullmatch(name)
    if match is None or match[2] == "0":
        return None
    return _Layout(_KINDS[match[1]], int(match[2] or 1))


def _plain(message: Any, name: str, height: int, width: int, layout: _Layout) -> Array:
    dtype = np.dtype(layout.dtype)
    row, step = width * layout.channels * dtype.itemsize, int(message.step)
    if step < row:
        raise EncodingError(f"step {step} is less than a row of {width} px '{name}' ({row} bytes)")
    available, needed = len(message.data), step * (height - 1) + row
    if available < needed:
        raise EncodingError(f"{available} bytes of data; {width}x{height} '{name}' needs {needed}")
    if message.is_bigendian and dtype.itemsize > 1:
        dtype = dtype.newbyteorder(">")
    shape: tuple[int, ...] = (height, width)
    strides: tuple[int, ...] = (step, layout.channels * dtype.itemsize)
    if layout.channels > 1:
        shape, strides = (*shape, layout.channels), (*strides, dtype.itemsize)
    pixels: Array = np.ndarray(
        shape, dtype, buffer=memoryview(message.data).cast("B"), strides=strides
    )
    return pixels if dtype.isnative else pixels.astype(dtype.newbyteorder("="))


def _planes(message: Any, name: str, height: int, width: int) -> Array:
    """Luma, then chroma rows: (H * 3/2, W) of nv12 and nv21, (H * 3, W) of nv24."""
    if name != "nv24" and (height % 2 or width % 2):
        raise EncodingError(f"size {width}x{height} is odd; '{name}' needs even sides")
    rows = height * 3 if name == "nv24" else height * 3 // 2
    step = int(message.step)
    if step < width:
        raise EncodingError(
            f"step {step} is less than a row of {width} px '{name}' ({width} bytes)"
        )
    available = len(message.data)
    # Drivers disagree whether step counts luma alone or two bytes a pixel; the size settles it.
    if step == 2 * width and available < step * (rows - 1) + width:
        step = width
    needed = step * (rows - 1) + width
    if available < needed:
        raise EncodingError(f"{available} bytes of data; {width}x{height} '{name}' needs {needed}")
    return np.ndarray(
        (rows, width), np.uint8, memoryview(message.data).cast("B"), strides=(step, 1)
    )


def _from_semi_planar(planes: Array, name: str, height: int, width: int) -> Array:
    planes = np.ascontiguousarray(planes)
    code = _PLANAR[name]
    if code is not None:
        return cv2.cvtColor(planes, code)
    chroma = planes[height:].reshape(height, width, 2)
    # Each pixel has its own chroma, so a doubled width turns it into plain 4:2:2 without any loss.
    packed = np.empty((height, width * 2, 2), np.uint8)
    packed[..., 1] = np.repeat(planes[:height], 2, axis=1)
    packed[..., 0] = chroma.reshape(height, width * 2)
    return np.ascontiguousarray(cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_UYVY)[:, ::2])


def _convert(message: Any, pixels: Array, name: str, code: int, fits: bool) -> Array:
    if not fits:
        raise EncodingError(
            f"size {message.width}x{message.height} is too small or odd for '{name}'"
        )
    # cv_bridge mishandles padded rows and foreign byte order; those never reach it.
    padded = int(message.step) != pixels.nbytes // pixels.shape[0]
    bridge = _bridge() if str(message.encoding) == name and not padded else None
    if bridge is not None and not message.is_bigendian:
        return np.asarray(bridge(message, "rgb16" if pixels.dtype == np.uint16 else "rgb8"))
    return cv2.cvtColor(np.ascontiguousarray(pixels), code)


@cache
def _bridge() -> Callable[[Any, str], Array] | None:
    """`CvBridge.imgmsg_to_cv2` where cv_bridge with its compiled part is installed."""
    try:
        from cv_bridge import CvBridge  # noqa: PLC0415
        from cv_bridge.boost import cv_bridge_boost  # noqa: F401, PLC0415
    except Exception:  # built against another NumPy it fails with more than ImportError
        return None
    convert: Callable[[Any, str], Array] = CvBridge().imgmsg_to_cv2
    return convert


def _decode(data: Array, form: str) -> Array:
    size, name = encoded_size(data), f"compressed image '{shortened(form)}'"
    if size is None:
        raise EncodingError(
            f"{name} of {data.size} bytes is no JPEG, PNG or TIFF; is the message whole?"
        )
    if fault := size_fault(*size):
        raise EncodingError(f"{name}: {fault}")
    try:
        pixels = decode_image(data, name)
    except DataError as error:
        raise EncodingError(str(error)) from None
    return pixels[..., :3] if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels


def _compressed_depth(data: Array, form: str) -> Array:
    """Depth as `compressed_depth_image_transport` packs it: a 12-byte header, then PNG or RVL."""
    name = f"compressed image '{shortened(form)}'"
    if data.size <= 12:
        raise EncodingError(f"{name} of {data.size} bytes has no image in it")
    header, payload = data[:12], data[12:]
    if "rvl" in form.lower():
        try:
            counts: Array = unpack_rvl(payload)
        except EncodingError as error:
            raise EncodingError(f"{name}: {error}") from None
    else:
        counts = _decode(payload, form)
    if counts.ndim != 2 or counts.dtype != np.uint16:
        raise EncodingError(
            f"{name} holds {counts.dtype} of shape {counts.shape}; expected one channel of 16 bits"
        )
    # 32FC1 travels as inverse depth.
    return dequantised(counts, header) if form.startswith("32FC1") else counts


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
    if fault := size_fault(height, width):
        raise EncodingError(f"rvl image: {fault}")
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
    runs: list[tuple[int, int, int]] = []
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
            runs.append((pixel, place, length))
        pixel, place = pixel + length, place + length
    starts, firsts, lengths = np.array(runs, np.int64).reshape(-1, 3).T
    return starts, firsts, lengths
