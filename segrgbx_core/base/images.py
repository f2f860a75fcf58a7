"""Image files: RGB order, dtype kept, label ids untouched, bounded memory."""

from __future__ import annotations

import argparse
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.files import read_bytes
from segrgbx_core.base.samples import Array

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_SAMPLES = {2: 3, 4: 2, 6: 4}
"""Samples per pixel by colour type, where there are several."""
_PNG_SMALLEST = 8 + 25 + 12 + 12
"""Head, and the chunks IHDR, IDAT (empty) and IEND, in bytes."""
_DEFLATE_RATIO = 1032
"""Most bytes that one compressed byte unfolds to (zlib, "Maximum Compression Factor")."""
_JPEG_SIZED = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG whose segment states the size."""
_JPEG_SCAN = 0xDA
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
"""Types of TIFF values that may state a size."""
_TIFF_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value by its type, where it has more than one."""
MAX_SIDE = 1 << 14
"""Longest side of an image, in px; some work is kept per side."""
MAX_PIXELS = 1 << 24
"""Most pixels of an image in a message: larger ones are damaged, or fill a vehicle's memory."""
MAX_FILE_PIXELS = 1 << 26
"""Most pixels of an image in a file."""
MAX_FILE_BYTES = 1 << 30
"""Longest file: as many pixels of four 32-bit channels, uncompressed."""
_OTHER_FORMATS = ("BMP", "GIF", "PPM", "WEBP")
"""Formats whose header Pillow reads, besides JPEG, PNG and TIFF."""
_INDEXED_FORMATS = ("BMP", "GIF", "PNG", "TIFF")
_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(AttributeError, OverflowError, MemoryError, NotImplementedError, struct.error, zlib.error),
    Image.DecompressionBombError,
)
"""What Pillow raises for damaged files."""
_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))


def read_image(path: Path | str) -> Array:
    """An image file as it is: (H, W) or (H, W, C), channels in RGB(A) order, dtype kept.

    Grey stays two-dimensional; an indexed PNG comes out in colour (`read_labels` keeps its ids).

    Raises:
        DataError: when the file is missing, is no complete image, or is larger than
            `MAX_FILE_PIXELS` and `MAX_SIDE` allow.
    """
    return _decode(read_bytes(path, MAX_FILE_BYTES), str(path), MAX_FILE_PIXELS)


def read_labels(path: Path | str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The integer ids of a label file, (H, W): of an indexed PNG its indices, never its colours.

    Of a file with several channels the first is taken (DeLiVER keeps the id there). Of a grey PNG
    with 1, 2 or 4 bits the ids are the stored numbers, not the levels that they show.

    Raises:
        DataError: as `read_image`, or when the file holds no integer ids.
    """
    data, name = read_bytes(path, MAX_FILE_BYTES), str(path)
    _check_header(np.frombuffer(data, np.uint8), name, MAX_FILE_PIXELS)
    indices = _palette_indices(data, name)
    if indices is not None:
        return indices
    labels = _decode(data, name, MAX_FILE_PIXELS)
    if labels.ndim == 3:
        labels = np.ascontiguousarray(labels[..., 0])
    if labels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: labels of {labels.dtype}; expected uint8 or uint16 ids")
    bits = _png_grey_bits(data)
    return labels if bits is None else labels // np.uint8(255 // ((1 << bits) - 1))


def decode_image(data: bytes | bytearray | memoryview | Array, name: str = "image") -> Array:
    """An encoded image (PNG, JPEG, TIFF, ...) as an array; see `read_image`.

    Args:
        data: the encoded bytes, or a one-dimensional uint8 array of them.
        name: what to call it in the error.

    Raises:
        DataError: when the bytes are no complete image, or one that is too large.
    """
    return _decode(data, name, MAX_FILE_PIXELS)


def _decode(data: bytes | bytearray | memoryview | Array, name: str, max_pixels: int) -> Array:
    encoded = np.frombuffer(data, dtype=np.uint8)
    size = _check_header(encoded, name, max_pixels)
    try:
        # Orientation tags would silently turn a picture against its labels.
        image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DataError(f"{name}: cannot be decoded ({error.err})") from None
    if image is None or image.shape[:2] != size:
        raise _no_image(name, encoded.size)
    return _swap_red_blue(image)


def _no_image(name: str, size: int) -> DataError:
    return DataError(f"{name}: {size} bytes are no image; is the file complete?")


def _check_header(encoded: Array, name: str, max_pixels: int) -> tuple[int, int]:
    """Height and width by the header, before a decoder makes room for the image."""
    if encoded.size == 0:
        raise DataError(f"{name}: holds no bytes; expected an encoded image")
    size = encoded_size(encoded)
    if size is None:
        try:
            with Image.open(io.BytesIO(encoded.tobytes()), formats=_OTHER_FORMATS) as image:
                size = image.height, image.width
        except Image.DecompressionBombError:
            raise DataError(f"{name}: {_allowed(max_pixels)}") from None
        except _BROKEN:
            raise DataError(
                f"{name}: {encoded.size} bytes are no image; is the file complete, and a JPEG, "
                f"PNG, TIFF, {', '.join(_OTHER_FORMATS)}?"
            ) from None
    if fault := size_fault(*size, max_pixels):
        raise DataError(f"{name}: {fault}")
    if _is_cut(encoded, size):
        raise _no_image(name, encoded.size)
    return size


def _palette_indices(data: bytes, name: str) -> NDArray[np.uint8] | None:
    """The indices of an image with a palette, None for any other."""
    try:
        image = Image.open(io.BytesIO(data), formats=_INDEXED_FORMATS)
    except _BROKEN:
        return None
    if image.mode != "P":
        return None
    try:
        return np.asarray(image, dtype=np.uint8)
    except _BROKEN:
        raise _no_image(name, len(data)) from None


def _png_grey_bits(data: bytes) -> int | None:
    """Bits of a grey PNG that has fewer than 8, else None."""
    is_grey = data.startswith(_PNG_HEAD) and len(data) > 25 and data[25] == 0
    return data[24] if is_grey and data[24] in (1, 2, 4) else None


def _is_cut(encoded: Array, size: tuple[int, int]) -> bool:
    """True for a file that ends too early, which decoders see late or not at all.

    Of a PNG, OpenCV makes room for pixels and chunks of any stated size before it reads them; of a
    JPEG, decoders paint what is missing grey.
    """
    if encoded[:8].tobytes() == _PNG_HEAD:
        if _lacks_png_end(encoded.data):
            return True
        samples = _PNG_SAMPLES.get(int(encoded[25]), 1)
        bits = size[0] * size[1] * samples * int(encoded[24])
        return bits > 8 * _DEFLATE_RATIO * encoded.size
    return encoded[:3].tobytes() == b"\xff\xd8\xff" and _lacks_jpeg_end(encoded)


def _lacks_png_end(raw: memoryview) -> bool:
    """True where a chunk ends behind the file, or the last one is missing."""
    place = len(_PNG_HEAD)
    if len(raw) < _PNG_SMALLEST:
        return True
    while place + 12 <= len(raw):
        (length,) = struct.unpack_from(">I", raw, place)
        name = bytes(raw[place + 4 : place + 8])
        place += 12 + length
        if name == b"IEND":
            return place > len(raw)
    return True


def _lacks_jpeg_end(encoded: Array) -> bool:
    """True where no end mark follows the first scan."""
    if b"\xff\xd9" in encoded[-64:].tobytes():
        return False
    try:
        scans = (place for marker, place in _jpeg_segments(encoded.data) if marker == _JPEG_SCAN)
        first = next(scans, 0)
    except (struct.error, IndexError):
        return True
    return b"\xff\xd9" not in encoded[first:].tobytes()  # those of thumbnails come before


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
        if head == _PNG_HEAD:
            width, height = struct.unpack_from(">II", raw, 16)
            return height, width
        if head[:4] in _TIFF_HEADS:
            return _tiff_size(raw, *_TIFF_HEADS[head[:4]])
    except (struct.error, IndexError, OverflowError):
        pass  # it ends early, or points beyond its end
    return None


def size_fault(height: int, width: int, max_pixels: int = MAX_PIXELS) -> str:
    """What is wrong with the size of an image; empty for a size that is taken.

    Args:
        height: rows.
        width: columns.
        max_pixels: `MAX_PIXELS` for a message, `MAX_FILE_PIXELS` for a file.
    """
    is_side = min(height, width) > 0 and max(height, width) <= MAX_SIDE
    if is_side and height * width <= max_pixels:
        return ""
    return f"size {width}x{height} px; {_allowed(max_pixels)}"


def _allowed(max_pixels: int) -> str:
    what = "message" if max_pixels == MAX_PIXELS else "file"
    return (
        f"taken are sides of 1 to {MAX_SIDE} px and {max_pixels} px in all; is the {what} whole?"
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


def _swap_red_blue(image: Array) -> Array:
    """OpenCV keeps BGR(A); the swap is its own inverse."""
    if image.ndim == 2:
        return image
    code = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return cv2.cvtColor(image, code)


def _jpeg_size(raw: memoryview) -> tuple[int, int] | None:
    for marker, place in _jpeg_segments(raw):
        if marker in _JPEG_SIZED:
            height, width = struct.unpack_from(">HH", raw, place + 5)
            return height, width
    return None


def _jpeg_segments(raw: memoryview) -> Iterator[tuple[int, int]]:
    """Marker and place of every segment up to the first scan; what thumbnails hold is no segment.

    Raises:
        IndexError: when the bytes end before.
        struct.error: likewise.
    """
    place = 2
    while True:
        marker = raw[place + 1]
        if raw[place] != 0xFF or marker == 0xFF:
            place += 1  # bytes between segments, which decoders pass over
        elif marker in _JPEG_BARE:
            place += 2
        else:
            yield marker, place
            if marker < 0xC0 or 0xD8 <= marker <= _JPEG_SCAN:  # the image begins or ends
                return
            place += 2 + struct.unpack_from(">H", raw, place + 2)[0]


def _tiff_size(raw: memoryview, order: str, is_big: bool) -> tuple[int, int] | None:
    """Of the first picture of a file, as that alone is decoded; None for a truncated one."""
    offset, number, entry = ("Q", "Q", "HHQ") if is_big else ("I", "H", "HHI")
    (place,) = struct.unpack_from(order + offset, raw, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + number, raw, place)
    place += struct.calcsize(order + number)
    value_at, inline = struct.calcsize(order + entry), struct.calcsize(order + offset)
    sides: dict[int, int] = {}
    for _ in range(count):
        tag, kind, length = struct.unpack_from(order + entry, raw, place)
        size = _TIFF_BYTES.get(kind, 1) * length
        if size > inline:  # its values lie elsewhere
            (begin,) = struct.unpack_from(order + offset, raw, place + value_at)
            if begin + size > len(raw):
                return None
        elif tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in _TIFF_KINDS:
            (side,) = struct.unpack_from(order + _TIFF_KINDS[kind], raw, place + value_at)
            sides.setdefault(tag, side)
        place += value_at + inline
    return (sides[_TIFF_HEIGHT], sides[_TIFF_WIDTH]) if len(sides) == 2 else None


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
