"""NumPy files: arrays of numbers or text, in bounded memory, never pickles."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zlib
from collections.abc import Collection
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.files import read_bytes
from segrgbx_core.base.samples import Array

MAX_BYTES = 1 << 30
"""Longest file, and most bytes of all arrays that are read from one."""
_BROKEN = (
    *(OSError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError),
    *(SyntaxError, RecursionError, MemoryError, OverflowError, NotImplementedError, RuntimeError),
    *(BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
"""What NumPy and zipfile raise for damaged files."""


def read_array(path: Path | str) -> Array:
    """The array of a `.npy` file.

    Raises:
        DataError: when the file is missing, is no complete array of numbers or text, or is larger
            than `MAX_BYTES`.
    """
    return _parsed(read_bytes(path, MAX_BYTES), str(path))


def read_arrays(path: Path | str, names: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of a `.npz` file by name.

    Args:
        path: the file.
        names: those to read, as far as the file has them; None for all.

    Raises:
        DataError: as `read_array`.
    """
    if not (path := Path(path)).is_file():
        raise DataError(f"{path}: cannot be read (no such file); check the path")
    try:
        with ZipFile(path) as archive:
            entries = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            wanted = {n: one for n, one in entries.items() if names is None or n in names}
            size = sum(one.file_size for one in wanted.values())
            is_fit = size <= MAX_BYTES
            content = {n: archive.read(one) for n, one in wanted.items()} if is_fit else {}
    except _BROKEN as error:
        raise DataError(f"{path}: is no .npz file of arrays ({error})") from None
    if not is_fit:
        raise DataError(f"{path}: unfolds to more than {MAX_BYTES >> 30} GiB")
    return {name: _parsed(part, f"{path}: '{name}'") for name, part in content.items()}


def _parsed(data: bytes, name: str) -> Array:
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version[0]](file)
        # A header may claim any shape, and NumPy makes room for it first.
        is_whole = math.prod(shape) * dtype.itemsize <= len(data) - file.tell()
        array = np.load(io.BytesIO(data), allow_pickle=False) if is_whole else None
    except _BROKEN:
        raise DataError(f"{name}: is no array of numbers in NumPy's format") from None
    if array is None:
        raise DataError(f"{name}: ends before its {shape} values of {dtype}; is it complete?")
    if array.dtype.kind not in "biufcU":
        raise DataError(f"{name}: holds {array.dtype}; expected numbers")
    return np.asarray(array)
