"""The one reader and writer of image files: RGB order, dtype kept, label ids untouched."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrgbx_core.errors import DataError
from segrgbx_core.samples import Array

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
