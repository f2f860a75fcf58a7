"""The one reader and writer of image files: RGB order, dtype kept, label ids untouched."""

from __future__ import annotations

import argparse
import io
import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.samples import Array

_JPEG_SIZED = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG whose segment states the size."""
_JPEG_BARE = {0x00, 0x01, *range(0xD0, 0xD8)}
"""Markers of a JPEG without a segment."""
_TIFF_HEADS = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
"""Byte order, and whether offsets have 64 bits."""
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_KINDS = {1: "B", 3: "H", 4: "I", 16: "Q"}
MAX_PIXELS = 1 << 24
"""Messages that claim larger images are damaged: room for those would fill the memory."""
MAX_SIDE = 1 << 14
"""Longest side of an image in a message; axes that long are kept per size."""
_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def read_image(path: Path | str) -> Array:
    """An image file as it is: (H, W) or (H, W, C), channels in RGB(A) order, dtype kept.

    Grey stays two-dimensional; an indexed PNG comes out in colour (`read_labels` keeps its ids).

    Raises:
        DataError: when the file is missing or is no image.
    """
    return decode_image(_read_bytes(path), str(path))


def read_labels(path: Path | str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The integer ids of a label file, (H, W): of an indexed PNG its indices, never its colours.

    Of a file with several channels the first is taken (DeLiVER keeps the id there).

    Raises:
        DataError: when the file is missing, is no image, or holds no integer ids.
    """
    data = _read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode == "P":
                return np.asarray(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError):
        pass  # what PIL cannot open OpenCV may, and its refusal is reported below
    labels = decode_image(data, str(path))
    if labels.ndim == 3:
        labels = np.ascontiguousarray(labels[..., 0])
    if labels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: labels of {labels.dtype}; expected uint8 or uint16 ids")
    return labels


def decode_image(data: bytes | bytearray | memoryview | Array, name: str = "image") -> Array:
    """An encoded image (PNG, JPEG, TIFF, ...) as an array; see `read_image`.

    Args:
        data: the encoded bytes, or a one-dimensional uint8 array of them.
        name: what to call it in the error.

    Raises:
        DataError: when the bytes are no complete image.
    """
    encoded = np.frombuffer(data, dtype=np.uint8)
    if encoded.size == 0:
        raise DataError(f"{name}: holds no bytes; expected an encoded image")
    try:
        # Orientation tags would silently turn a picture against its labels.
        image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DataError(f"{name}: cannot be decoded ({error.err})") from None
    if image is None:
        raise DataError(f"{name}: {encoded.size} bytes are no image; is the file complete?")
    return _swap_red_blue(image)


def encoded_size(data: Array) -> tuple[int, int] | None:
    """Height and width that the header of a JPEG, PNG or TIFF states, without decoding it.

    A few bytes may claim any size, and decoders make room for it first.

    Args:
        data: the encoded bytes, uint8 (N,).

    Returns:
        None where the bytes are none of these, or end before the size.
    """
    raw = np.ascontiguousarray(data).data
    head = bytes(raw[:8])
    try:
        if head[:3] == b"\xff\xd8\xff":
            return _jpeg_size(raw)
        if head == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack_from(">II", raw, 16)
            return height, width
        if head[:4] in _TIFF_HEADS:
            return _tiff_size(raw, *_TIFF_HEADS[head[:4]])
    except (struct.error, IndexError, OverflowError):
        pass  # it ends early, or points beyond its end
    return None


def size_fault(height: int, width: int) -> str:
    """What is wrong with the size of an image in a message; empty for a size that is taken."""
    if min(height, width) > 0 and max(height, width) <= MAX_SIDE and height * width <= MAX_PIXELS:
        return ""
    return (
        f"size {width}x{height} px; taken are sides of 1 to {MAX_SIDE} px and {MAX_PIXELS} px in "
        "all; is the message whole?"
    )


def encode_image(array: Array, suffix: str = ".png", quality: int = 90) -> bytes:
    """The bytes of an image file.

    Args:
        array: (H, W), or (H, W, 3 or 4) in RGB(A) order; uint8, uint16, or float32 (TIFF only).
        suffix: format, such as `.png` or `.jpg`.
        quality: of JPEG, 1 to 100.

    Raises:
        DataError: when the format cannot hold the array.
    """
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_image or array.size == 0 or array.dtype not in _DTYPES:
        raise DataError(
            f"shape {array.shape} of {array.dtype} is no image; "
            f"expected (H, W) or (H, W, 3 or 4) of uint8, uint16 or float32"
        )
    suffix = suffix.lower()
    is_jpeg = suffix in (".jpg", ".jpeg")
    if (is_jpeg and array.dtype != np.uint8) or (suffix == ".png" and array.dtype == np.float32):
        raise DataError(f"{suffix} cannot hold {array.dtype} without loss; use .tiff or .png")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if is_jpeg else []
    try:
        done, encoded = cv2.imencode(suffix, _swap_red_blue(array), options)
    except cv2.error as error:
        raise DataError(f"format '{suffix}' is not supported ({error.err})") from None
    if not done:
        raise DataError(f"format '{suffix}' cannot hold {array.dtype} {array.shape}")
    return bytes(encoded.data)


def write_image(path: Path | str, array: Array, quality: int = 90) -> None:
    """Writes an RGB or grey array; the suffix of `path` names the format.

    Raises:
        DataError: when the folder is missing or the format cannot hold the array.
    """
    path = Path(path)
    try:
        data = encode_image(array, path.suffix, quality)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    try:
        path.write_bytes(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def _read_bytes(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _swap_red_blue(image: Array) -> Array:
    """OpenCV keeps BGR(A); the swap is its own inverse."""
    if image.ndim == 2:
        return image
    code = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return cv2.cvtColor(image, code)


def _jpeg_size(raw: memoryview) -> tuple[int, int] | None:
    place = 2
    while True:
        marker = raw[place + 1]
        if raw[place] != 0xFF or marker == 0xFF:
            place += 1  # bytes between segments, which decoders pass over
        elif marker in _JPEG_BARE:
            place += 2
        elif marker in _JPEG_SIZED:
            height, width = struct.unpack_from(">HH", raw, place + 5)
            return height, width
        elif marker < 0xC0 or 0xD8 <= marker <= 0xDA:  # the image begins or ends
            return None
        else:
            place += 2 + struct.unpack_from(">H", raw, place + 2)[0]


def _tiff_size(raw: memoryview, order: str, is_big: bool) -> tuple[int, int] | None:
    """Of the first picture of a file, as that alone is decoded."""
    offset, number, entry = ("Q", "Q", "HHQ") if is_big else ("I", "H", "HHI")
    (place,) = struct.unpack_from(order + offset, raw, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + number, raw, place)
    place += struct.calcsize(order + number)
    value_at = struct.calcsize(order + entry)
    sides: dict[int, int] = {}
    for _ in range(count):
        tag, kind, _ = struct.unpack_from(order + entry, raw, place)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in _TIFF_KINDS:
            (side,) = struct.unpack_from(order + _TIFF_KINDS[kind], raw, place + value_at)
            sides.setdefault(tag, side)
            if len(sides) == 2:
                return sides[_TIFF_HEIGHT], sides[_TIFF_WIDTH]
        place += value_at + struct.calcsize(order + offset)
    return None


def image_size(text: str) -> tuple[int, int]:
    """Reads an option of a command line that is a size, such as `640x480`.

    Args:
        text: WIDTHxHEIGHT in px, as cameras state it.

    Returns:
        height and width, as arrays have them.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write WIDTHxHEIGHT, as 640x480")
    return int(height), int(width)
