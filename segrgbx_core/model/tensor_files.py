"""Weights on disk: safetensors files with a text header, written whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.base.files import replacing

SUFFIX = ".safetensors"


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes one safetensors file, complete or not at all.

    The file appears under its name only after its bytes have reached the disk; until then an
    earlier file of that name stays as it was.

    Args:
        path: the file; its folder is made when missing.
        tensors: what to store; tensors that share memory are stored once per name.
        metadata: text header.

    Raises:
        CheckpointError: when the folder cannot be written to.
    """
    with replacing(path, CheckpointError, (OSError, SafetensorError)) as part:
        save_file(_separate(tensors), part, metadata=dict(metadata))
        part.chmod(0o644)  # safetensors lets the owner alone read; a vehicle's service is another


def read_tensors(
    path: Path | str, metadata_only: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads one safetensors file into memory of its own: tensors and text header.

    Args:
        path: the file.
        metadata_only: True returns no tensors and reads only the header.

    Raises:
        CheckpointError: when the file is missing or is not a safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path}: {what}; expected a {SUFFIX} file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # A clone: the reader maps the file, and the file may change while a process runs.
            names = () if metadata_only else file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
            return tensors, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is not a complete {SUFFIX} file ({error})") from None


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Reads a `.safetensors` file or a pickled state dict, wrapped or not; runs no code from it.

    Raises:
        CheckpointError: when the file is missing or holds no named tensors.
    """
    path = Path(path)
    if path.suffix == SUFFIX:
        return read_tensors(path)[0]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); check the path"
        ) from None
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is not a file of plain weights ({reason})") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = isinstance(content, Mapping) and all(isinstance(v, Tensor) for v in content.values())
    if not tensors or not content:
        raise CheckpointError(f"{path}: holds no named tensors; expected a state dict")
    return dict(content)


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def check_keys(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Compares names and shapes, strictly.

    Raises:
        CheckpointError: naming the first tensor that is missing, unexpected or of another shape.
    """
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    if missing or unexpected:
        parts = [
            f"{len(names)} {what}, first '{names[0]}'"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(parts)}")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: '{name}' has shape {tuple(given[name].shape)}; "
                f"the model needs {tuple(tensor.shape)}"
            )


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        stored = tensor.detach().to("cpu").contiguous()
        address = stored.untyped_storage().data_ptr()
        separate[name] = stored.clone() if address in seen else stored
        seen.add(address)
    return separate
