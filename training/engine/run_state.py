"""The state of a run on disk: how it is written, whose it is, what a kill leaves behind.

Every file is written beside its name and then renamed, so that a kill, a power cut or a full disk
at any moment leaves the earlier one.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from segrgbx_core.base.config import Config, to_plain
from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model.tensor_files import SUFFIX, free_space

_HARMLESS = {
    *("out", "device", "threads", "workers", "tensorboard", "pictures"),
    *("log_every", "save_every", "score_every", "score_samples", "keep_frames", "patience"),
}
"""Options of `RunConfig` that may differ when a run is resumed."""
_LATER = (
    *("run.epochs", "run.accumulate", "run.batch_norm", "encoder_weights", "clip.stale"),
    *("loss.class_weight_table", "loss.hard_below", "loss.hard_share"),
)
"""Options that came after the first runs: at their default they are as if they were not there, so
that a run begun without them goes on."""


def fingerprint(identity: Config) -> str:
    """Identifies every option that decides the outcome of a run."""
    plain = to_plain(identity)
    plain["run"] = {k: v for k, v in plain.get("run", {}).items() if k not in _HARMLESS}
    for name in _LATER:
        _leave_out(plain, identity, name)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _leave_out(plain: dict[str, Any], config: Config, name: str) -> None:
    *path, last = name.split(".")
    for part in path:
        if part not in plain:
            return
        plain, config = plain[part], getattr(config, part)
    fields = type(config).model_fields
    if last in fields and getattr(config, last) == fields[last].get_default():
        plain.pop(last, None)


def write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file complete or not at all.

    Args:
        path: the file; an earlier one is replaced when the new one has reached the disk.
        write: puts the content into an open file.

    Raises:
        CheckpointError: when the disk is full or cannot be written to.
    """
    partial = path.with_suffix(f"{path.suffix}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        partial.unlink(missing_ok=True)
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(
            f"{path}: cannot be written ({cause}), {free_space(path)} free there; make room and "
            "start the same command again: it goes on from the earlier file"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file; see `write_whole`."""
    content = text.encode()
    write_whole(path, lambda file: _put(file, content))


def _put(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a resumable state; see `write_whole`."""
    write_whole(path, lambda file: torch.save(dict(state), file))


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """A state that `write_state` wrote.

    Raises:
        CheckpointError: when the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise CheckpointError(
            f"{path}: is damaged ({reason}); remove it to start anew, from the beginning"
        ) from None
    return state


def append_line(path: Path, line: str) -> None:
    """Adds a line to a text file.

    Raises:
        CheckpointError: when the disk is full or cannot be written to.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error}), {free_space(path)} free there; make room and "
            "start the same command again"
        ) from error


def forget_after(path: Path, step: int) -> None:
    """Takes lines of later steps out of a file of JSON lines, and the torso of a killed write."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    # Behind the last line break stands what a kill or a full disk left of a line.
    lines = text.split("\n")[:-1]
    kept = "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step)
    if kept != text:
        write_text(path, kept)


def remove_leftovers(folder: Path) -> None:
    """Removes files that killed processes had begun; they would fill the disk in time."""
    for pattern in ("*.partial", f".*{SUFFIX}.*.part", f"*/.*{SUFFIX}.*.part"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
