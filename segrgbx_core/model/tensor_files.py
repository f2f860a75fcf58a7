"""Weights on disk: safetensors files with a text header, and state dicts of other programs.

Files are read into the process's own memory. A mapped file that is overwritten meanwhile, as `cp`
and `scp` do, ends the process with SIGBUS; here it is an error like any other damage.
"""

from __future__ import annotations

import _codecs
import hashlib
import json
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from segrgbx_core.base.errors import CheckpointError, shortened
from segrgbx_core.base.files import parse_json, replacing

SUFFIX = ".safetensors"
_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000
"""Bytes, as in the safetensors library."""
MAX_JSON = 1 << 24
"""Bytes of a contract or an adapter's header."""
_CHUNK = 1 << 22
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

_SCALAR: Any = np.float64(0).__reduce__()[0]
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder that transformers wrote."""
_WRAPPERS = ("state_dict", "model", "model_state_dict", "segmenter")
"""Keys under which training scripts put a state dict."""
_NUMBERS: list[Any] = [
    _codecs.encode,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
]
"""What scores beside weights consist of: numbers of NumPy, whose pickles call nothing else."""


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes one safetensors file, complete or not at all.

    Args:
        path: the file; its folder is created when missing.
        tensors: what to store; tensors that share memory are stored once per name.
        metadata: text header.

    Raises:
        CheckpointError: when the folder cannot be written to.
    """
    with replacing(path, CheckpointError, (OSError, SafetensorError)) as part:
        save_file(_separate(tensors), part, metadata=dict(metadata))
        part.chmod(0o644)  # safetensors lets the owner alone read; a vehicle's service is another


class StableFile:
    """A regular file that is read once, front to back, and hashed on the way.

    Args:
        path: the file.

    Attributes:
        path: the file.
        size: in bytes.

    Raises:
        CheckpointError: when there is no such file, or it is no regular file. All methods raise
            it when the file ends early or was changed while it was read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            # Not blocking: a named pipe would wait for its other end.
            handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            self._file: BinaryIO = os.fdopen(handle, "rb", buffering=0)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: does not exist; check the path") from None
        except IsADirectoryError:
            raise CheckpointError(f"{path}: is a folder; expected a file") from None
        except (OSError, ValueError) as error:  # a path may hold a NUL
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"{path}: cannot be read ({reason}); check the path") from None
        self._before = os.fstat(self._file.fileno())
        self._hash = hashlib.sha256()
        self.size = self._before.st_size
        if not stat.S_ISREG(self._before.st_mode):
            self._file.close()
            raise CheckpointError(f"{path}: is no regular file; expected one")

    def __enter__(self) -> StableFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self, count: int) -> bytearray:
        """The next `count` bytes."""
        data = bytearray(count)
        self.read_into(memoryview(data))
        return data

    def read_into(self, buffer: memoryview) -> None:
        """Fills a buffer of bytes with the next ones."""
        done = 0
        while done < len(buffer):
            try:
                count = self._file.readinto(buffer[done : done + _CHUNK])  # type: ignore[attr-defined]
            except OSError as error:
                raise CheckpointError(
                    f"{self.path}: cannot be read ({error.strerror}); check disk and network"
                ) from None
            if not count:
                self.check()
                raise CheckpointError(f"{self.path}: ends early; copy it again")
            self._hash.update(buffer[done : done + count])
            done += count

    def check(self) -> None:
        """Raises when the file is no longer the one that was opened."""
        now = os.fstat(self._file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise CheckpointError(
                f"{self.path}: was changed while it was read; load it again when the copy is "
                "complete (copy to another name, then rename: mv replaces a file in one step)"
            )

    def finish(self) -> str:
        """SHA-256 of the bytes that were read, hexadecimal; see `check`."""
        self.check()
        return self._hash.hexdigest()


def read_file(path: Path | str, limit: int) -> tuple[bytes, str]:
    """All bytes of a file, at most `limit`, and their SHA-256; errors as in `StableFile`."""
    with StableFile(path) as file:
        if file.size > limit:
            raise CheckpointError(f"{path}: is larger than {limit >> 20} MiB; expected less")
        data = file.read(file.size)
        return bytes(data), file.finish()


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, hexadecimal; errors as in `StableFile`."""
    with StableFile(path) as file:
        left = file.size
        while left:
            left -= len(file.read(min(left, _CHUNK)))
        return file.finish()


def parse_json_object(text: str | bytes | bytearray, where: str) -> dict[str, Any]:
    """The JSON object in a text, UTF-8 where it is bytes.

    Raises:
        CheckpointError: when the text is no JSON object, or beyond `MAX_JSON` bytes.
    """
    if len(text) > MAX_JSON:
        raise CheckpointError(f"{where}: is larger than {MAX_JSON >> 20} MiB; expected less")
    data = parse_json(text, where, CheckpointError, "write it anew")
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{where} is damaged (holds {type(data).__name__}, no object); write it anew"
        )
    return data


class TensorFile:
    """A safetensors file: header and shapes at once, tensors when `read` is called.

    Use it in a `with` block.

    Args:
        path: the file.

    Attributes:
        metadata: text header.
        shapes: of the tensors, by name.

    Raises:
        CheckpointError: when the file is missing or is not a complete safetensors file.
    """

    def __init__(self, path: Path | str) -> None:
        self._file = StableFile(path)
        try:
            self.metadata, self._entries = self._header()
        except BaseException:
            self._file.__exit__(None, None, None)
            raise
        self.shapes = {name: shape for name, (_, shape) in self._entries.items()}

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def read(self) -> tuple[dict[str, Tensor], str]:
        """All tensors and the SHA-256 of the file, hexadecimal; once.

        Raises:
            CheckpointError: when the file ends early or was changed meanwhile.
        """
        tensors = {}
        for name, (dtype, shape) in self._entries.items():
            tensor = torch.empty(shape, dtype=dtype)
            if tensor.numel():
                raw: Any = tensor.view(-1).view(torch.uint8).numpy()
                self._file.read_into(memoryview(raw))
            tensors[name] = tensor
        return tensors, self._file.finish()

    def _header(self) -> tuple[dict[str, str], dict[str, tuple[torch.dtype, tuple[int, ...]]]]:
        """Metadata, then number format and shape by name, in the order of the data."""
        file = self._file
        if file.size < 8:
            raise self._incomplete(f"{file.size} bytes")
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, file.size - 8):
            raise self._incomplete(f"a header of {length} bytes")
        header = parse_header(file.read(length), str(file.path))
        metadata = header.pop(_METADATA, {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise self._incomplete(f"{_METADATA} is no text")
        entries, end = {}, 0
        try:
            ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
            for name, entry in ordered:
                dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
                start, stop = entry["data_offsets"]
                count = math.prod(_natural(side) for side in shape)
                if start != end or _natural(stop) - start != count * dtype.itemsize:
                    raise self._incomplete(f"tensor '{shortened(name)}' is not where it should be")
                entries[name], end = (dtype, shape), stop
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, CheckpointError):
                raise
            known = ", ".join(_DTYPES)
            raise self._incomplete(
                f"{shortened(str(error))}; number formats read here are {known}"
            ) from None
        if end != file.size - 8 - length:
            raise self._incomplete(
                f"{file.size - 8 - length} bytes of data, the header says {end}"
            )
        return metadata, entries

    def _incomplete(self, reason: str) -> CheckpointError:
        self._file.check()
        return CheckpointError(
            f"{self._file.path}: is not a complete {SUFFIX} file ({reason}); copy it again"
        )


def parse_header(text: bytearray, path: str) -> dict[str, Any]:
    """The header of a safetensors file as an object of entries."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: is not a complete {SUFFIX} file (no header)")
    return header


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError(f"{value!r} is no size")
    return value


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and text header of a safetensors file; errors as in `TensorFile`."""
    with TensorFile(path) as file:
        return file.read()[0], file.metadata


def read_metadata(path: Path | str) -> dict[str, str]:
    """The text header of a safetensors file alone; errors as in `TensorFile`."""
    with TensorFile(path) as file:
        return file.metadata


def weights_file(path: Path | str) -> Path:
    """The file itself, or the weights in a folder that transformers wrote.

    Raises:
        CheckpointError: for a folder without them.
    """
    path = Path(path)
    try:
        is_folder = path.is_dir()
    except ValueError:  # a path may hold a NUL
        is_folder = False
    if not is_folder:
        return path
    found = next((path / one for one in _IN_FOLDER if (path / one).is_file()), None)
    if found is None:
        raise CheckpointError(f"{path}: is a folder without {' or '.join(_IN_FOLDER)}")
    return found


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Reads a `.safetensors` file or a pickled state dict, wrapped or not; runs no code from it.

    Args:
        path: the file, or a folder that transformers wrote.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds no named tensors.
    """
    path = weights_file(path)
    if path.suffix == SUFFIX:
        return read_tensors(path)[0]
    with StableFile(path) as stable:
        content = _unpickled(path)
        stable.check()
    content = _unwrapped(content)
    named = isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
    if not named or not content:
        raise CheckpointError(f"{path}: holds no named tensors; expected a state dict")
    return dict(content)


def _unpickled(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch compares no checksums
            if damaged:
                raise ValueError(f"checksum of '{shortened(damaged)}' differs")
        with torch.serialization.safe_globals(_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path"
        ) from None
    except Exception as error:  # whatever pickle, zip and torch raise for what they cannot read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: is not a file of plain weights ({shortened(reason, 200)})"
        ) from None


def _unwrapped(content: Any) -> Any:
    """The state dict inside what training scripts put around it."""
    while isinstance(content, Mapping):
        wrapped = (content[one] for one in _WRAPPERS if isinstance(content.get(one), Mapping))
        inner = next(wrapped, None)
        if inner is None:
            break
        content = inner
    return content


def check_weights(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Compares names, shapes and kinds of numbers, strictly, and checks that all are finite.

    Raises:
        CheckpointError: naming the first tensor that does not fit.
    """
    check_shapes(expected, {name: tuple(tensor.shape) for name, tensor in given.items()}, where)
    check_numbers(expected, given, where)


def check_shapes(
    expected: Mapping[str, Tensor], given: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Compares names and shapes, strictly.

    Raises:
        CheckpointError: naming the first tensor that is missing, unexpected or of another shape.
    """
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    if missing or unexpected:
        parts = [
            f"{len(names)} {what}, first '{shortened(names[0])}'"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(parts)}")
    for name, tensor in expected.items():
        if given[name] != tuple(tensor.shape):
            raise CheckpointError(
                f"{where}: '{name}' has shape {given[name]}; the model needs {tuple(tensor.shape)}"
            )


def check_numbers(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Checks that weights are floating-point where the model's are, and finite.

    Raises:
        CheckpointError: naming the first tensor that is not.
    """
    for name, tensor in given.items():
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise CheckpointError(
                f"{where}: '{name}' holds {_dtype_name(tensor)}; the model needs "
                f"{_dtype_name(expected[name])}; write the checkpoint anew"
            )
        if tensor.is_floating_point() and tensor.numel():
            low, high = tensor.aminmax()
            if not (low.isfinite() and high.isfinite()):
                count = int((~tensor.isfinite()).sum())
                raise CheckpointError(
                    f"{where}: '{name}' has {count} of {tensor.numel()} weights that are not "
                    "finite; take a checkpoint from before training diverged"
                )


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        stored = tensor.detach().to("cpu").contiguous()
        address = stored.untyped_storage().data_ptr()
        separate[name] = stored.clone() if address in seen else stored
        seen.add(address)
    return separate
